"""Stores of a coordinator, with real processes: memory nodes that are killed and stopped, and a coordinator that is."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from at_rest import closed_at_rest
from doubts import last, never, word
from epochs import PROPERTIES, SECONDS, eventually, settled, together, writing
from paging import number_of, page

import dsmem
from dsmem import errors
from dsmem.store import Store, Transaction


def made(cluster, replicas=2, **more):
    return cluster.store("db", create=True, replicas=replicas, **{**PROPERTIES, **more})


def test_a_store_is_made_and_found(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid = store.allocate()
        version = store.write(pid, page(1))
        with where.client() as other, other.store("db") as same:
            assert number_of(same.read(pid)) == 1 and same.version(pid) == version
            assert same.compare_write(pid, version, page(2)) > version
        assert number_of(store.read(pid)) == 2
        health = store.health()
        assert health["epoch"] == 1 and health["replicas"] == 2
        assert [each["copy"] for each in health["copies"]] == [0, 1] and all(each["up"] for each in health["copies"])
        assert {each["node"] for each in health["copies"]} == {node.address for node in where.nodes}
        assert [(info.name, info.kind) for info in cluster.list()] == [("db", "store")]
        with pytest.raises(errors.NameExistsError):
            made(cluster)
        with pytest.raises(errors.MismatchError):
            cluster.store("db", replicas=1)
        with pytest.raises(errors.MismatchError):
            cluster.lock("db")
        with pytest.raises(errors.NameExistsError):
            cluster.lock("db", create=True)
        with pytest.raises(errors.InvalidArgumentError, match="3, and 2 memory nodes"):
            cluster.store("more", create=True, **{**PROPERTIES, "replicas": 3})
        cluster.lock("lock", create=True).close()
        with pytest.raises(errors.NameExistsError):
            cluster.store("lock", create=True, **PROPERTIES)
        with pytest.raises(errors.NameNotFoundError):
            cluster.store("none")
        store.unlink()
        with pytest.raises(errors.NameNotFoundError):
            cluster.store("db")
        assert [info.name for info in cluster.list()] == ["lock"]


def test_a_reference_names_the_coordinator(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid = store.allocate()
        store.write(pid, page(5))
        ref = pickle.loads(pickle.dumps(store.ref))
        assert ref == store.ref and ref.coordinator == where.address
        with dsmem.attach(ref, cluster._names.context) as same:
            assert number_of(same.read(pid)) == 5
        store.unlink()
        with pytest.raises(errors.NameNotFoundError):
            dsmem.attach(ref, cluster._names.context)


async def test_calls_of_tasks_follow_the_epochs(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid, other = await store.allocate_async(), (await store.allocate_many_async(1))[0]
        version = await store.write_async(pid, page(1))

        def copied(tx):
            tx.write(other, tx.read(pid))

        await store.run_async(copied)
        where.node_of(store, 0).kill()
        assert number_of(await store.read_async(pid)) == 1 and await store.version_async(pid) == version
        assert await store.compare_write_async(pid, version, page(2)) > version
        assert [number_of(each) for each in await store.snapshot_async([pid, other])] == [2, 1]
        await store.free_async(other)
        with pytest.raises(errors.PageNotFoundError):
            await store.read_async(other)
        assert store.health()["epoch"] > 1


@pytest.mark.parametrize("place", [0, 1])
def test_a_node_is_killed(tmp_path, place):
    """No acknowledged write is lost, and all clients go on with the copy that is left."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid = store.allocate()
        store.write(pid, page(7))
        with writing(where) as writers:
            eventually(lambda: all(writer.has_written(20) for writer in writers))
            where.node_of(store, place).kill()
            eventually(lambda: store.health()["epoch"] > 1)
            before = [writer.acknowledged for writer in writers]
            eventually(lambda: all(w.has_written(n + 20) for w, n in zip(writers, before, strict=True)))
        assert number_of(store.read(pid)) == 7
        health = store.health()
        assert len(health["copies"]) == 1 and health["replicas"] == 2


def test_two_of_three_nodes_are_killed_at_once(tmp_path):
    with together(tmp_path, 3) as where, where.client() as cluster, made(cluster, 3) as store:
        with writing(where) as writers:
            eventually(lambda: all(writer.has_written(20) for writer in writers))
            gone = [where.node_of(store, place) for place in (0, 2)]
            for node in gone:
                node.kill()
            eventually(lambda: len(store.health()["copies"]) == 1)
            before = [writer.acknowledged for writer in writers]
            eventually(lambda: all(w.has_written(n + 20) for w, n in zip(writers, before, strict=True)))
        assert store.health()["replicas"] == 3


def test_a_stopped_primary_is_left_out_and_never_read_again(tmp_path):
    """A client of the old epoch, whose node goes on, gets the present page: its lease has ended."""
    with together(tmp_path, 2) as where, where.client() as cluster, where.client() as other:
        store = made(cluster)
        pid = store.allocate()
        store.write(pid, page(1))
        reader = other.store("db")
        assert number_of(reader.read(pid)) == 1
        primary = where.node_of(store, 0)
        primary.stop()
        eventually(lambda: store.health()["epoch"] > 1)
        settled(store, pid, 2)
        primary.go_on()
        assert number_of(reader.read(pid)) == 2
        eventually(lambda: [(each.is_up, each.stale, each.copies) for each in where.infos()] == [(True, 0, 1)] * 2)
        assert number_of(reader.read(pid)) == 2
        store.close()
        reader.close()


def test_a_copy_is_made_again_while_clients_write(tmp_path):
    """At a spare node; then the node that had the other one is killed, and the new copy has all pages."""
    with together(tmp_path, 3) as where, where.client() as cluster, made(cluster) as store:
        pids = store.allocate_many(20)
        store.write_many(pids, b"".join(page(number) for number in range(20)))
        first, second = where.node_of(store, 0), where.node_of(store, 1)
        with writing(where) as writers:
            eventually(lambda: all(writer.has_written(20) for writer in writers))
            first.kill()
            eventually(lambda: is_whole(store, 2, 3))
            assert first.address not in [each["node"] for each in store.health()["copies"]]
            before = [writer.acknowledged for writer in writers]
            eventually(lambda: all(w.has_written(n + 20) for w, n in zip(writers, before, strict=True)))
            second.kill()
            eventually(lambda: store.health()["epoch"] > 3)
            before = [writer.acknowledged for writer in writers]
            eventually(lambda: all(w.has_written(n + 20) for w, n in zip(writers, before, strict=True)))
        assert [number_of(raw.tobytes()) for raw in store.read_many(pids)] == list(range(20))


def is_whole(store, replicas, epoch):
    health = store.health()
    return health["open"] and len(health["copies"]) == replicas and health["epoch"] >= epoch


def test_the_only_copy_is_waited_for(tmp_path):
    with together(tmp_path, 1) as where, where.client() as cluster, made(cluster, 1) as store:
        pid = store.allocate()
        store.write(pid, page(1))
        where.nodes[0].stop()
        eventually(lambda: not where.up())
        where.nodes[0].go_on()
        assert number_of(store.read(pid)) == 1
        store.write(pid, page(2))
        assert number_of(store.read(pid)) == 2


@pytest.mark.parametrize("place", [0, 1])
def test_the_copy_that_comes_back_counts_after_a_silence_of_all(tmp_path, place):
    """The other one, which was silent last, has ended for good."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid = store.allocate()
        settled(store, pid, 1)
        kept, gone = where.node_of(store, place), where.node_of(store, 1 - place)
        kept.stop()
        gone.stop()
        where.wait_for(lambda: not where.up())
        gone.kill()
        kept.go_on()
        assert number_of(store.read(pid)) == 1
        settled(store, pid, 2)
        gone.start()
        eventually(lambda: is_whole(store, 2, 3))
        kept.kill()
        assert number_of(store.read(pid)) == 2


def test_a_store_whose_nodes_have_ended_is_lost(tmp_path):
    with together(tmp_path, 1) as where, where.client() as cluster, made(cluster, 1) as store:
        pid = store.allocate()
        store.write(pid, page(1))
        where.nodes[0].kill()
        where.nodes[0].start()
        with pytest.raises(errors.CorruptError, match="have ended"):
            store.read(pid)
        store.unlink()
        where.wait_for(lambda: len(where.up()) == 1)
        with made(cluster, 1) as again:
            assert number_of(again.read(again.allocate())) == 0


def test_a_handler_that_raises_as_the_lock_of_an_epoch_change_is_taken(tmp_path):
    """Other threads go on."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid = store.allocate()
        store.write(pid, page(1))
        lock = store._moving

        class Interrupted:
            release, _is_owned = lock.release, lock._is_owned

            def acquire(self, timeout):
                assert lock.acquire(timeout=timeout)
                raise KeyboardInterrupt

        store._moving = Interrupted()
        where.node_of(store, 0).kill()
        with pytest.raises(KeyboardInterrupt):
            store.read(pid)
        store._moving = lock
        with ThreadPoolExecutor(1) as other:
            assert number_of(other.submit(store.read, pid).result(SECONDS)) == 1


@pytest.mark.parametrize("step", ["_reopen", "_use"])
def test_a_handler_that_raises_as_the_copies_of_an_epoch_have_been_opened(tmp_path, monkeypatch, step):
    """The handle has one place in the epoch, and is there; they are not opened again."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid = store.allocate()
        settled(store, pid, 1)
        real = getattr(type(store), step)

        def interrupted(self, *given):
            monkeypatch.setattr(type(self), step, real, raising=False)
            assert real(self, *given) in (True, None)
            raise KeyboardInterrupt

        monkeypatch.setattr(type(store), step, interrupted, raising=False)
        where.node_of(store, 0).kill()
        with pytest.raises(KeyboardInterrupt):
            while True:
                store.read(pid)
        settled(store, pid, 2)
        eventually(lambda: number_of(store.read(pid)) == 2 and store._epoch.number == store.health()["epoch"])
        assert sum(word(store, 192 + 8 * slot) != 0 for slot in range(8)) == 1
        store.write(pid, page(3))
        with where.client() as other, other.store("db") as same:
            assert number_of(same.read(pid)) == 3


def test_an_exception_of_a_block_is_kept(tmp_path):
    """Whether the block has read what counts can't be asked."""
    with together(tmp_path, 1, "--lease", "0.01") as where, where.client() as cluster, made(cluster, 1) as store:
        where.coordinator.kill()
        with pytest.raises(ZeroDivisionError), store.transaction():
            raise ZeroDivisionError


async def test_a_page_of_a_task_that_was_cancelled_is_freed(tmp_path, monkeypatch):
    with together(tmp_path, 1) as where, where.client() as cluster, closed_at_rest(made(cluster, 1)) as store:
        real, allocated, go_on = store.allocate, [], threading.Event()

        def slow(store):
            go_on.wait(SECONDS)
            allocated.append(real())
            return allocated[0]

        monkeypatch.setattr(type(store), "allocate", slow)
        task = asyncio.ensure_future(store.allocate_async())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

        def is_freed():
            with contextlib.suppress(errors.PageNotFoundError):
                return bool(allocated) and store.read(allocated[0]) is None
            return True

        await asyncio.to_thread(eventually, is_freed)


def test_a_coordinator_that_is_away(tmp_path):
    """Writes go on; reads wait for it when their lease has ended."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid = store.allocate()
        store.write(pid, page(1))
        where.coordinator.kill()
        for number in range(2, 50):
            store.write(pid, page(number))
        where.coordinator.start()
        assert number_of(store.read(pid)) == 49
        assert store.health()["epoch"] == 1
        where.node_of(store, 0).kill()
        assert number_of(store.read(pid)) == 49
        assert store.health()["epoch"] > 1


def test_transactions_begin_again_in_the_next_epoch(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        one, other = store.allocate(), store.allocate()
        store.write(one, page(1000))
        with store.transaction() as tx:
            tx.write(other, page(number_of(tx.read(one))))
        where.node_of(store, 0).kill()

        def move(tx):
            amount = number_of(tx.read(one))
            tx.write(one, page(amount - 1))
            tx.write(other, page(number_of(tx.read(other)) + 1))

        store.run(move, timeout=SECONDS)
        assert [number_of(raw.tobytes()) for raw in store.snapshot([one, other])] == [999, 1001]
        with pytest.raises(errors.ConflictError, match="begin again"), store.transaction() as tx:
            tx.read(one)
            store._epoch = replace(store._epoch, number=store._epoch.number + 1)
            tx.read(other)


def test_a_change_that_a_stopped_primary_has_not_made(tmp_path):
    """It was sent, and no answer came; the next epoch says that it was not made, and it is made there."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid = store.allocate()
        version = store.write(pid, page(1))
        where.node_of(store, 0).stop()
        assert store.compare_write(pid, version, page(2)) == version + 1 == store.version(pid)
        assert number_of(store.read(pid)) == 2 and store.health()["epoch"] > 1


def lose_an_answer(monkeypatch, cls, method, is_made, doubt, node):
    """Let the answer to the next call be lost, whether the change is made or not, since a node is killed then."""
    real = getattr(cls, method)

    def call(*given, **named):
        monkeypatch.setattr(cls, method, real)
        unknown = errors.OutcomeUnknownError("the answer was lost")
        unknown._doubts = b"" if is_made else doubt().packed()
        if is_made:
            real(*given, **named)
            unknown._doubts = doubt().packed()
        elif cls is Transaction:
            real(given[0], errors.ConflictError, errors.ConflictError(), None)
        node.kill()
        raise unknown

    monkeypatch.setattr(cls, method, call)


CHANGES = {"write": (Store, "write"), "compare_write": (Store, "compare_write"), "commit": (Transaction, "__exit__")}


@pytest.mark.parametrize("is_made", [True, False])
@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_whose_answer_is_lost(tmp_path, monkeypatch, kind, is_made):
    """The page says in the next epoch what has become of it."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid = store.allocate()
        version = store.write(pid, page(1))
        doubt = last if is_made else never
        lose_an_answer(monkeypatch, *CHANGES[kind], is_made, lambda: doubt(store, pid), where.node_of(store, 1))
        if kind == "write":
            assert store.write(pid, page(2)) == version + 1
        elif kind == "compare_write":
            assert store.compare_write(pid, version, page(2)) == version + 1
        else:
            tries = store.run(lambda tx, tries=[]: (tx.write(pid, page(2)), tries.append(pid), len(tries))[2])
            assert tries == (1 if is_made else 2)
        assert number_of(store.read(pid)) == 2 and store.version(pid) == version + 1
        assert store.health()["epoch"] > 1


def test_a_change_that_others_have_replaced_many_times(tmp_path):
    """A client takes its frames in turn, so those of the versions between are as they were."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid, hot = store.allocate(), store.allocate()
        version = store.write(pid, page(1))
        change = last(store, pid)
        with where.client() as other, other.store("db") as same:
            for number in range(40):
                same.write(pid, page(number))
                if number < 10:
                    same.write(hot, page(number))
        assert Store._outcome(store, change.packed()) == (1, version)
        assert Store._outcome(store, replace(change, header=b"x" * 64).packed())[0] == 0
        assert Store._outcome(store, replace(change, head=change.head ^ 1).packed())[0] == 2


def test_pages_of_a_commit_that_was_not_made_are_freed(tmp_path, monkeypatch):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid, taken = store.allocate(), store.allocate()
        store.write(pid, page(1))
        lose_an_answer(monkeypatch, *CHANGES["commit"], False, lambda: never(store, pid), where.node_of(store, 1))
        with pytest.raises(errors.ConflictError), store.transaction() as tx:
            tx.write(pid, page(2))
            tx._taken.append(taken)  # as if it had allocated it: the core keeps what a commit in doubt has allocated
        with pytest.raises(errors.PageNotFoundError):
            store.read(taken)


def test_pages_of_a_commit_that_failed_are_freed(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid, tries = store.allocate(), []
        store.write(pid, page(1))
        before = store.stat()["free"]

        def change(tx):
            tx.write(tx.allocate(), page(2))
            tx.write(pid, page(2))
            if not tries:
                where.node_of(store, 1).kill()
            tries.append(pid)

        store.run(change, timeout=SECONDS)
        assert len(tries) > 1 and number_of(store.read(pid)) == 2
        assert store.stat()["free"] == before - 1


def test_a_free_whose_outcome_no_page_can_tell(tmp_path, monkeypatch):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid = store.allocate()
        lose_an_answer(monkeypatch, Store, "free", True, lambda: last(store, pid), where.node_of(store, 1))
        with pytest.raises(errors.OutcomeUnknownError):
            store.free(pid)
        with pytest.raises(errors.PageNotFoundError):
            store.free(pid)


def test_an_allocation_whose_answer_is_lost(tmp_path, monkeypatch):
    """Another page is allocated. The one of which no process knows stays so."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        before = store.stat()["free"]
        lose_an_answer(monkeypatch, Store, "allocate", True, lambda: Nothing, where.node_of(store, 1))
        pid = store.allocate()
        store.write(pid, page(1))
        assert number_of(store.read(pid)) == 1 and store.stat()["free"] == before - 2


class Nothing:
    """A doubt without a page."""

    packed = bytes


def test_a_write_of_many_pages_in_an_epoch_change(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pids = store.allocate_many(10)
        store.write_many(pids, page(1) * 10)
        where.node_of(store, 1).kill()
        versions = store.write_many(pids, page(2) * 10)
        assert [number_of(raw.tobytes()) for raw in store.read_many(pids)] == [2] * 10
        assert versions.tolist() == [store.version(pid) for pid in pids]
        store.write_many(pids, page(3) * 10)
        assert [number_of(raw.tobytes()) for raw in store.read_many(pids)] == [3] * 10
        store.free(pids[0])
        with pytest.raises(errors.PageNotFoundError):
            store.read(pids[0])
        assert store.stat()["free"] == 91


def test_a_closed_store(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster:
        store = made(cluster)
        where.node_of(store, 1).kill()
        store.close()
        store.close()
        assert store.closed
        with pytest.raises(errors.ClosedError):
            store.read(1)
        with pytest.raises(errors.ClosedError):
            store.health()


def dying(where, save):
    """Let the coordinator begin as one that is killed at the n-th time that it writes its state: before, and after."""
    where.coordinator.command = [sys.executable, str(Path(__file__).parent / "dying_coordinator.py"), save]


@pytest.mark.parametrize("save", ["before 2", "after 2", "before 3", "after 3"])
def test_a_coordinator_is_killed_at_each_step_of_a_change(tmp_path, save):
    """The next one ends what it has begun. No acknowledged write is lost. (It writes once as it begins.)"""
    with together(tmp_path, 3) as where, where.client() as cluster, made(cluster) as store:
        pid = store.allocate()
        settled(store, pid, 1)
        gone = where.node_of(store, 0)
        where.coordinator.kill()
        usual = where.coordinator.command
        dying(where, save)
        where.coordinator.start()
        gone.kill()
        where.coordinator.popen.wait(SECONDS)
        where.coordinator.popen.stdout.close()
        where.coordinator.command = usual
        where.coordinator.start()
        assert number_of(store.read(pid)) == 1
        settled(store, pid, 2)
        with where.client() as other, other.store("db") as same:
            assert number_of(same.read(pid)) == 2
            eventually(lambda: is_whole(same, 2, 3))
            assert gone.address not in [each["node"] for each in same.health()["copies"]]


def test_a_check_goes_on_in_the_next_epoch(tmp_path):
    """Whichever of its pieces is under way when the node of a copy is gone."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid = store.allocate()
        settled(store, pid, 1)
        where.node_of(store, 0).kill()
        found = store.check()
        assert found["pages"] == 100 and not found["wrong"]
        assert number_of(store.read(pid)) == 1
