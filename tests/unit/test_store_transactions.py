"""Transactions of a store of pages: what they see, what becomes of them, and what they refuse.

They run on this host, at a memory node, and with two copies; and their coordinators are killed.
docs/protocols/commit.md has the steps, and tests/c/test_store_sim.c plays each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import threading
import time

import numpy as np
import pytest
from forked import in_child
from names_server import process_that_serves
from paging import ACCOUNTS, SIZE, START, StruckError, handling, number_of, page, transfer

import dsmem
from dsmem import _core, errors
from dsmem import store as store_module
from dsmem.names.server import GRACE_SECONDS

SECRET = b"7a4c5" * 12 + b"7a4c"
SECONDS = 60
PROPERTIES = {"page_size": SIZE, "capacity": 300 * SIZE, "members": 8}
spawn = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def nodes():
    """HOST:PORT of two memory nodes, which fence at once those that are cut off."""
    with contextlib.ExitStack() as stack:
        served = [stack.enter_context(process_that_serves(SECRET, "--grace", "0"))[1] for _ in range(2)]
        yield [at.removeprefix("tcp://") for at in served]


@contextlib.contextmanager
def client(where):
    """A cluster of its own: of this host, or with a context for its ops."""
    with contextlib.ExitStack() as stack:
        context = None
        if where.startswith("tcp:"):
            context = dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1", peer_timeout=SECONDS)
            stack.enter_context(context)
        yield stack.enter_context(dsmem.connect(where, context=context))


@pytest.fixture(params=["here", "1", "2"])
def place(request, cluster_name):
    """Where the store is, and how many copies it has."""
    if request.param == "here":
        return cluster_name, 1
    served = request.getfixturevalue("nodes")
    copies = int(request.param)
    return f"tcp://{','.join(served[:copies])}/{cluster_name}", copies


@pytest.fixture
def cluster(place):
    with client(place[0]) as cluster:
        yield cluster
        with contextlib.suppress(errors.NameNotFoundError):
            cluster.unlink("s")


@pytest.fixture
def store(cluster, place):
    with cluster.store("s", create=True, replicas=place[1], **PROPERTIES) as made:
        yield made


@pytest.fixture
def mapped(here):
    with here.store("s", create=True, **PROPERTIES) as made:
        yield made


def numbers(store, pids):
    return [number_of(each.tobytes()) for each in store.snapshot(pids)]


# -- what a transaction does --


def test_a_transaction(store):
    one, two, three = store.allocate_many(3).tolist()
    before = store.write(one, page(1))
    with store.transaction() as tx:
        assert number_of(tx.read(one)) == 1
        assert tx.read(two) == bytes(SIZE)
        tx.write(one, page(2))
        tx.write(three, page(3))  # without a look at it
        assert number_of(tx.read(one)) == 2 and number_of(tx.read(three)) == 3
        assert number_of(store.read(one)) == 1  # not yet
        out = bytearray(SIZE)
        assert tx.read(three, out) is out and number_of(out) == 3
        assert [number_of(each.tobytes()) for each in tx.read_many([three, one, two])] == [3, 2, 0]
    assert numbers(store, [one, two, three]) == [2, 0, 3]
    assert store.version(one) == before + 1
    store.write(one, page(4))
    store.compare_write(one, before + 2, page(5))
    assert numbers(store, [one, two, three]) == [5, 0, 3]


def test_a_page_that_is_freed(store):
    one, two = store.allocate_many(2).tolist()
    free = store.stat()["free"]
    with store.transaction() as tx:
        tx.write(two, page(9))
        tx.free(one)
        for call in (lambda: tx.read(one), lambda: tx.write(one, page(1)), lambda: tx.free(one)):
            with pytest.raises(errors.PageNotFoundError):
                call()
    assert store.stat()["free"] == free + 1 and number_of(store.read(two)) == 9
    with pytest.raises(errors.PageNotFoundError):
        store.read(one)
    with pytest.raises(errors.PageNotFoundError), store.transaction() as tx:
        tx.write(two, page(10))
        tx.write(one, page(11))
    assert number_of(store.read(two)) == 9


def test_a_page_that_is_allocated(store):
    free = store.stat()["free"]
    with store.transaction() as tx:
        one, two, gone = tx.allocate(), tx.allocate(), tx.allocate()
        assert tx.read(one) == bytes(SIZE)
        tx.write(one, page(1))
        tx.free(gone)
    assert number_of(store.read(one)) == 1 and store.read(two) == bytes(SIZE)
    with pytest.raises(errors.PageNotFoundError):
        store.read(gone)
    assert store.stat()["free"] == free - 2


class BlockError(Exception):
    """Of a block."""


@pytest.mark.parametrize("end", ["raises", "conflicts", "conflicts in a read", "frees it"])
def test_a_page_that_is_allocated_by_one_that_is_not_committed_is_freed(store, end):
    pid, other = store.allocate_many(2).tolist()
    free, made = store.stat()["free"], []
    expected = BlockError if end in ("raises", "frees it") else errors.ConflictError
    with pytest.raises(expected), store.transaction() as tx:
        tx.read(pid)
        made += [tx.allocate(), tx.allocate()]
        tx.write(made[0], page(1))
        tx.write(pid, page(2))
        if end == "frees it":
            store.free(made[1])
        if end == "conflicts":
            store.write(pid, page(3))
        if end == "conflicts in a read":
            store.write(pid, page(3))
            tx.read(pid)
        if expected is BlockError:
            raise BlockError
    for each in made:
        with pytest.raises(errors.PageNotFoundError):
            store.read(each)
    assert store.stat()["free"] == free
    assert store.read(other) == bytes(SIZE)


def test_a_store_that_is_too_full_for_a_transaction(store):
    store.allocate_many(store.stat()["free"] - 1)
    with pytest.raises(errors.StoreFullError), store.transaction() as tx:
        tx.allocate()
        tx.allocate()
    assert store.stat()["free"] == 1


def test_a_child_does_not_free_what_the_parent_has_allocated(mapped):
    with mapped.transaction() as tx:
        pid = tx.allocate()

        def child():
            tx.__exit__(BlockError, BlockError(), None)
            return True

        assert in_child(child)
        tx.write(pid, page(1))
    assert number_of(mapped.read(pid)) == 1


def test_a_process_that_dies_with_an_allocated_page_leaves_it_allocated_and_nothing_else(mapped):
    pid, free = mapped.allocate(), mapped.stat()["free"]

    def child():
        with mapped.transaction() as tx:
            tx.write(tx.allocate(), page(1))
            tx.write(pid, page(1))
            os._exit(0)

    if not (forked := os.fork()):
        child()
    os.waitpid(forked, 0)
    assert mapped.read(pid) == bytes(SIZE) and mapped.stat()["free"] == free - 1
    with mapped.transaction() as tx:
        tx.write(pid, page(2))
    assert number_of(mapped.read(pid)) == 2


def test_a_block_that_raises_changes_nothing(store):
    one, two = store.allocate_many(2).tolist()
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        tx.write(one, page(1))
        tx.free(two)
        _ = 1 // 0
    assert numbers(store, [one, two]) == [0, 0]
    with store.transaction() as tx:
        tx.write(one, page(2))
    assert numbers(store, [one, two]) == [2, 0]


@pytest.mark.parametrize("count", [1, 100, 160])
def test_many_pages(store, count):
    """Of more frames than a chunk has: several chunks are open meanwhile."""
    pids = store.allocate_many(count).tolist()
    for number in (1, 2, 3):
        with store.transaction() as tx:
            for i, pid in enumerate(pids):
                assert number_of(tx.read(pid)) == (number - 1) * (i + 1)
                tx.write(pid, page(number * (i + 1)))
        assert numbers(store, pids) == [number * (i + 1) for i in range(count)]


def test_a_store_without_pages_to_spare(store):
    """Each page is in a frame, and free ones lie scattered over the chunks."""
    pids = store.allocate_many(300).tolist()
    dice = random.Random(3)
    for number in range(1, 4):
        dice.shuffle(pids)
        for pid in pids:
            store.write(pid, page(number))
        with store.transaction() as tx:
            for pid in pids[:150]:
                tx.write(pid, page(100 + number))
        assert numbers(store, pids) == [100 + number] * 150 + [number] * 150


def test_round_trips(nodes, cluster_name):
    """Of a transaction: a read each, the locks, the heads that were only read, and the commit; then an unlock."""
    with dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1", peer_timeout=SECONDS) as own:
        with dsmem.connect(f"tcp://{nodes[0]}/{cluster_name}", context=own) as cluster:
            with cluster.store("s", create=True, **PROPERTIES) as store:
                count_trips(own, store)
            cluster.unlink("s")


def count_trips(own, store):
    pids = store.allocate_many(3).tolist()
    store.write_many(pids, page(1) * 3)

    def trips(reads, writes):
        before = own.stats["doorbells"]
        with store.transaction() as tx:
            for pid in reads:
                tx.read(pid)
            for pid in writes:
                tx.write(pid, page(2))
        return own.stats["doorbells"] - before

    def fewest(reads, writes):
        return min(trips(reads, writes) for _ in range(20))

    assert fewest(pids[:1], []) == 1
    assert fewest(pids, []) == 3 + 1
    assert fewest(pids[:2], pids[:2]) == 2 + 2 + 1
    assert fewest(pids[:2], pids[1:]) == 2 + 3 + 1
    assert fewest([], pids) == 2 + 1
    before = own.stats["doorbells"]
    store.snapshot(pids)
    assert own.stats["doorbells"] - before <= 3


# -- conflicts --


def test_a_page_that_another_has_changed(store):
    one, two = store.allocate_many(2).tolist()
    for change in (lambda: store.write(one, page(5)), lambda: store.free(one)):
        with pytest.raises(errors.ConflictError) as caught, store.transaction() as tx:
            tx.read(one)
            change()
            tx.write(two, page(6))
        assert caught.value.page == one
        assert number_of(store.read(two)) == 0


def test_a_page_that_is_written_and_was_changed(store):
    one, two = store.allocate_many(2).tolist()
    with pytest.raises(errors.ConflictError) as caught, store.transaction() as tx:
        tx.write(two, page(3))
        tx.write(one, page(number_of(tx.read(one)) + 1))
        store.write(one, page(7))
    assert caught.value.page == one
    assert numbers(store, [one, two]) == [7, 0]


def test_a_read_only_transaction(store):
    one, two = store.allocate_many(2).tolist()
    with pytest.raises(errors.ConflictError), store.transaction() as tx:
        tx.read(one)
        tx.read(two)
        store.write(one, page(1))
    with store.transaction() as tx:
        assert [number_of(tx.read(pid)) for pid in (one, two)] == [1, 0]


@pytest.mark.parametrize("opaque", [False, True])
def test_what_is_read_belongs_to_one_instant(store, opaque):
    """Where memory is mapped and with opaque=True at once, otherwise at the end."""
    one, two = store.allocate_many(2).tolist()
    with pytest.raises(errors.ConflictError) as caught, store.transaction(opaque=opaque) as tx:
        tx.read(one)
        store.write(one, page(1))
        tx.read(two)
        assert not opaque and not store._memory.remote.is_mapped
    assert caught.value.page == one


def test_an_exception_after_mixed_reads_is_a_conflict(store):
    one, two = store.allocate_many(2).tolist()
    with pytest.raises(errors.ConflictError) as caught, store.transaction() as tx:
        tx.read(one)
        store.write(one, page(1))
        raise KeyError(two)
    assert isinstance(caught.value.__cause__, KeyError)


def test_run_tries_again(store):
    one, two = store.allocate_many(2).tolist()
    disturbances = [3, 2, 1]

    def add(tx):
        number = number_of(tx.read(one))
        if disturbances:
            store.write(one, page(disturbances.pop()))
        tx.write(two, page(number + 10))
        return number

    assert store.run(add) == 3
    assert numbers(store, [one, two]) == [3, 13]
    with pytest.raises(errors.ConflictError):
        store.run(lambda tx: (tx.read(one), store.write(one, page(0)), tx.write(two, page(0))), timeout=0)
    assert number_of(store.read(two)) == 13


# -- what others may find --

WORDS = 192 + 8 * PROPERTIES["members"]  # docs/protocols/commit.md
PREPARED = 1


def words(store):
    """The transaction words of all slots, where the memory is."""
    found = np.zeros(PROPERTIES["members"], "u8")
    store._memory.remote.read(WORDS, found)
    return found.tolist()


def give_up(store, one, two):
    with pytest.raises(errors.ConflictError), store.transaction() as tx:
        tx.read(one)
        store.write(one, page(5))
        tx.write(two, page(6))


def test_a_newcomer_leaves_no_word_prepared(place):
    """A client that has met a lock of the one before may be about to change it, and then the next commit is refused."""
    with client(place[0]) as cluster, cluster.store("s", create=True, replicas=place[1], **PROPERTIES) as store:
        one, two = store.allocate_many(2).tolist()
        with client(place[0]) as other, other.store("s") as left:
            give_up(left, one, two)
            before = words(store)
            assert sum(word & 3 == PREPARED for word in before) == 1
        with client(place[0]) as other, other.store("s") as newcomer:
            assert [word | 3 for word in words(store)] == [word | 3 for word in before]
            assert not any(word & 3 == PREPARED for word in words(store))
            newcomer.run(lambda tx: tx.write(two, page(7)))
        assert numbers(store, [one, two]) == [5, 7]
        cluster.unlink("s")


def test_a_word_that_was_changed_is_read_again(store):
    one, two = store.allocate_many(2).tolist()
    give_up(store, one, two)
    [slot] = [i for i, word in enumerate(words(store)) if word & 3 == PREPARED]
    found = words(store)[slot]
    assert store._memory.remote.compare_swap(WORDS + 8 * slot, found, found | 3) == found
    with pytest.raises(errors.CorruptError, match="another client uses slot"), store.transaction() as tx:
        tx.write(two, page(6))
    store.run(lambda tx: tx.write(two, page(7)))
    assert numbers(store, [one, two]) == [5, 7]


# -- a time limit --


@contextlib.contextmanager
def locked(store, place):
    """A page that another client, which lives, has locked in a transaction."""
    remote, pid, members = store._memory.remote, store.allocate(), PROPERTIES["members"]
    store.write(pid, page(1))
    slots, before, head = np.zeros(members, "u8"), np.zeros(members, "u8"), np.zeros(1, "u8")
    remote.read(192, before)
    with client(place[0]) as second, second.store("s"):
        remote.read(192, slots)
        (slot,) = np.flatnonzero(slots != before).tolist()
        chunks = -(-PROPERTIES["capacity"] // SIZE // 64) + members
        at = -(-(192 + 16 * members + 8 * chunks) // 64) * 64 + 8 * (pid & (1 << 40) - 1)  # docs/protocols/pages.md
        remote.read(at, head)
        was = int(head[0])
        lock = 2048 + slot + 1 << 52 | was & ((1 << 28) - 1) << 24
        assert remote.compare_swap(at, was, lock) == was
        yield pid
        assert remote.compare_swap(at, lock, was) == lock


@pytest.mark.parametrize("call", [dsmem.Store.snapshot, dsmem.Store.run], ids=lambda call: call.__name__)
def test_a_wait_for_a_lock_ends_with_the_time(store, place, call):
    """Without a limit it lasts for an hour here."""
    store._wait_for_others(3600)
    with locked(store, place) as pid:
        what = [pid] if call is dsmem.Store.snapshot else lambda tx: tx.read(pid)
        with pytest.raises(errors.BusyError, match=f"page {pid} is being changed by another client"):
            call(store, what, timeout=0.3)


@pytest.mark.parametrize("call", ["run", "run_async", "snapshot", "snapshot_async"])
def test_a_wait_for_a_lock_outlasts_the_proof_of_a_death_by_default(store, place, call, monkeypatch):
    """It has lasted for the grace of a server and 10 s more; calls whose time is over end, and this one does not."""
    begun, got = threading.Event(), []

    class Budget(store_module._Budget):
        def __init__(self, function, timeout):
            super().__init__(function, timeout)
            self._ends -= GRACE_SECONDS + 10

        def begin(self, *args):
            transaction = super().begin(*args)
            begun.set()
            return transaction

    def wait(what):
        result = getattr(store, call)(what)
        got.append(asyncio.run(result) if call.endswith("_async") else result)

    monkeypatch.setattr(store_module, "_Budget", Budget)
    with locked(store, place) as pid, client(place[0]) as third, third.store("s") as other:
        what = (lambda tx: tx.read_many([pid])) if call.startswith("run") else [pid]
        waiting = threading.Thread(target=wait, args=(what,))
        waiting.start()
        assert begun.wait(SECONDS)
        for _ in range(3):
            with pytest.raises(errors.BusyError, match=f"page {pid} is being changed"):
                other.run(lambda tx: tx.read(pid), timeout=0)
        assert waiting.is_alive()
    waiting.join()
    assert [number_of(pages[0]) for pages in got] == [1]


def test_a_wait_for_another_thread_ends_with_the_time(store, place):
    """The other one waits for a lock with the handle's turn."""
    store._wait_for_others(3600)
    free = store.allocate()
    with locked(store, place) as pid:
        other = threading.Thread(target=store.write, args=(pid, page(2)))
        other.start()
        with pytest.raises(errors.TimeoutError, match="other threads"):
            while other.is_alive():
                store.run(lambda tx: tx.write(free, page(1)), timeout=0.3)
    other.join()
    assert numbers(store, [pid]) == [2]


# -- what is refused --


def test_one_that_was_not_begun():
    half_made = _core.Transaction.__new__(dsmem.store.Transaction)
    for call in (half_made.__enter__, lambda: half_made.__exit__(None, None, None), lambda: half_made.read(1)):
        with pytest.raises(errors.ClosedError):
            call()


def test_after_its_end(store):
    pid = store.allocate()
    with store.transaction() as tx:
        tx.write(pid, page(1))
    for call in (lambda: tx.read(pid), lambda: tx.write(pid, page(2)), lambda: tx.free(pid)):
        with pytest.raises(errors.ClosedError, match="the transaction has ended"):
            call()
    with pytest.raises(errors.ClosedError), tx:
        pass
    assert number_of(store.read(pid)) == 1


def test_nested(mapped):
    pid = mapped.allocate()
    with mapped.transaction() as tx:
        tx.write(pid, page(1))
        with pytest.raises(errors.BusyError, match="end that one first"), mapped.transaction():
            pass
    assert number_of(mapped.read(pid)) == 1


def test_two_threads(store):
    """Each thread has transactions of its own; those of others are refused."""
    one, two = store.allocate_many(2).tolist()
    caught = []

    def other():
        try:
            tx.read(one)
        except errors.BusyError as error:
            caught.append(error)
        store.run(lambda own: own.write(two, page(2)))

    with store.transaction() as tx:
        tx.write(one, page(1))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(caught) == 1 and numbers(store, [one, two]) == [1, 2]


def test_over_a_fork(mapped):
    pid = mapped.allocate()
    with mapped.transaction() as tx:
        tx.write(pid, page(1))

        def child():
            with pytest.raises(errors.ForkError, match="begun before the fork"):
                tx.read(pid)
            with pytest.raises(errors.ForkError), tx:
                pass
            return True

        in_child(child)
    assert number_of(mapped.read(pid)) == 1


def test_too_large(store):
    pids = store.allocate_many(161).tolist()
    with store.transaction() as tx:
        for pid in pids[:160]:
            tx.write(pid, page(1))
        with pytest.raises(errors.InvalidArgumentError, match="more than 160 pages; make several"):
            tx.write(pids[160], page(1))
        with pytest.raises(errors.InvalidArgumentError, match="make several"):
            tx.free(pids[160])
        tx.write(pids[0], page(2))
    assert numbers(store, pids) == [2] + [1] * 159 + [0]


def test_bad_arguments(store):
    pid = store.allocate()
    with store.transaction() as tx:
        for call in (
            lambda: tx.write(pid, b"short"),
            lambda: tx.read(pid, bytearray(3)),
            lambda: tx.read("x"),
            lambda: tx.read_many([pid], bytearray(3)),
        ):
            with pytest.raises(errors.InvalidArgumentError):
                call()
        with pytest.raises(errors.PageNotFoundError):
            tx.read(1 << 63)
    with pytest.raises(TypeError):
        type(tx)(None)


def test_a_transaction_that_has_not_begun(store):
    """What it wrote would be lost without a word."""
    pid = store.allocate()
    tx = store.transaction()
    for call in (
        lambda: tx.read(pid),
        lambda: tx.read_many([pid]),
        lambda: tx.write(pid, page(1)),
        lambda: tx.free(pid),
    ):
        with pytest.raises(errors.ClosedError, match="with statement"):
            call()
    with tx:
        tx.write(pid, page(1))
    assert number_of(store.read(pid)) == 1


@pytest.mark.parametrize("call", ["read", "read_many", "write", "free"])
def test_a_store_that_is_closed_by_what_a_call_is_given(mapped, call):
    """It is in use from the first line of a method to its last."""
    pid = mapped.allocate()
    refused = []

    class Id:
        def __index__(self):
            with pytest.raises(errors.BusyError):
                mapped.close()
            refused.append(self)
            return pid

    given = {"read": (Id(),), "read_many": ([Id()],), "write": (Id(), page(1)), "free": (Id(),)}[call]
    with mapped.transaction() as tx:
        getattr(tx, call)(*given)
    assert refused and not mapped.closed


def test_a_store_that_is_closed_meanwhile(cluster, store):
    pid = store.allocate()
    with pytest.raises(errors.ClosedError), store.transaction() as tx:
        tx.write(pid, page(1))
        store.close()
    with cluster.store("s") as again:
        assert number_of(again.read(pid)) == 0


def test_a_signal_handler_that_raises(mapped):
    """All of a transaction is there, or nothing, and the thread can begin another one."""
    one, two = mapped.allocate_many(2).tolist()
    struck = 0

    def strike(*_):
        raise StruckError

    for number in range(1, 200):
        try:
            with handling(strike):
                while True:
                    with mapped.transaction() as tx:
                        tx.write(one, page(number))
                        tx.write(two, tx.read(one))
        except StruckError:
            struck += 1
        first, second = numbers(mapped, [one, two])
        assert first == second and first in (number - 1, number)
        mapped.write_many([one, two], page(number) * 2)
    assert struck == 199


# -- money --


def transfer_until_killed(where, accounts, told, seed):
    with client(where) as cluster, cluster.store("s") as store:
        dice = random.Random(seed)
        while True:
            transfer(store, accounts, dice)
            told.value += 1


def wait_for(told, process, more):
    ends = time.monotonic() + SECONDS
    before = told.value
    while told.value < before + more:
        assert process.is_alive() and time.monotonic() < ends
        time.sleep(0.005)


def test_coordinators_that_are_killed(store, place):
    """The sum is the same at every instant, and others go on with the same accounts."""
    accounts = store.allocate_many(ACCOUNTS).tolist()
    store.write_many(accounts, page(START) * ACCOUNTS)
    dice = random.Random(11)
    for round_ in range(3):
        told = [spawn.Value("Q", 0, lock=False) for _ in range(2)]
        processes = [
            spawn.Process(target=transfer_until_killed, args=(place[0], accounts, each, (round_, i).__hash__()))
            for i, each in enumerate(told)
        ]
        for process in processes:
            process.start()
        try:
            for process, each in zip(processes, told, strict=True):
                wait_for(each, process, 1)
            for _ in range(20):
                assert sum(numbers(store, accounts)) == ACCOUNTS * START
                transfer(store, accounts, dice)
            time.sleep(dice.random() * 0.01)  # at any instant of its commits
        finally:
            for process in processes:
                process.kill()
                process.join()
        for _ in range(20):
            transfer(store, accounts, dice)
        for account in accounts:
            store.write(account, store.read(account))
        assert sum(numbers(store, accounts)) == ACCOUNTS * START
    assert store.stat()["handles"] <= PROPERTIES["members"]


def test_threads_that_transfer(store):
    accounts = store.allocate_many(ACCOUNTS).tolist()
    store.write_many(accounts, page(START) * ACCOUNTS)
    failures = []

    def work(seed):
        try:
            dice = random.Random(seed)
            for _ in range(40):
                transfer(store, accounts, dice)
                if sum(numbers(store, accounts)) != ACCOUNTS * START:
                    failures.append("a sum")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and sum(numbers(store, accounts)) == ACCOUNTS * START
