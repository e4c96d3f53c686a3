"""Stores with copies at several memory nodes, each a `dsmem serve` of its own: what calls do, by how many round trips,
how such a store comes to be, and what becomes of it when clients and nodes end.

Each step of the machines: tests/c/test_store_sim.c.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import random
import signal
import time

import numpy as np
import pytest
import store_nodes
from click.testing import CliRunner
from names_server import process_that_serves
from paging import SIZE, number_of, page
from store_nodes import (
    PROPERTIES,
    SECONDS,
    SECRET,
    check_equal,
    check_equal_copies,
    client,
    eventually,
    heads,
    image,
    is_locked,
    made,
    where,
)

import dsmem
from dsmem import _core, errors
from dsmem.cli import main
from dsmem.names import copies

nodes, cluster = store_nodes.nodes, store_nodes.cluster

spawn = multiprocessing.get_context("spawn")


# -- calls --


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_what_calls_do(nodes, cluster, cluster_name, replicas):
    with made(cluster, replicas) as store, client(where(nodes, cluster_name)) as (second, _):
        assert store.stat() == {
            "page_size": SIZE,
            "pages": 100,
            "members": 8,
            "replicas": replicas,
            "extents": 1,
            "free": 100,
            "handles": 1,
            "repaired": 0,
        }
        one, gone, *many = store.allocate_many(72).tolist()
        with second.store("s") as other:
            first = store.write(one, page(1))
            assert other.read(one) == page(1) and other.version(one) == first
            assert other.compare_write(one, first, page(2)) == first + 1
            with pytest.raises(errors.ConflictError):
                store.compare_write(one, first, page(3))
            assert store.read(one) == page(2)
            other.free(gone)
            with pytest.raises(errors.PageNotFoundError):
                store.write(gone, page(1))
            for start in range(0, 300, 100):
                values = np.repeat(np.arange(start, start + 70, dtype="u8"), SIZE // 8)
                (store, other)[start // 100 % 2].write_many(many, values)
                for reader in (store, other):
                    assert (reader.read_many(many).view("u8").ravel() == values).all()
            assert other.stat() == store.stat() and store.stat()["free"] == 29
            again = pickle.loads(pickle.dumps(store.ref))
            with dsmem.attach(again, second._names.context) as third:
                assert third.write(one, page(4)) == store.version(one)
    check_equal(cluster, replicas)


@pytest.mark.parametrize("nbytes", [SIZE, 4096])
def test_where_copies_may_differ(cluster, nbytes):
    """In frames that no head names: a client that was killed has written some of these at one copy only."""
    with made(cluster, page_size=nbytes, capacity=100 * nbytes) as store:
        pids = store.allocate_many(20).tolist()
        store.write_many(pids, bytes(20 * nbytes))
        for pid in pids[:-1]:
            store.free(pid)
    first, second = image(cluster, 0), bytearray(image(cluster, 1))
    found, frames = heads(first)
    (named,) = (head & 0xFFFFFF for head in found if not head >> 52)
    assert named > 1
    begins, ends = (frames + (named + i) * (64 + nbytes) for i in range(2))
    second[frames:begins] = b"\xff" * (begins - frames)
    second[ends:] = b"\xff" * (len(second) - ends)
    check_equal_copies([first, bytes(second)])
    for at in (begins, begins + 64, ends - 1):
        changed = bytearray(second)
        changed[at] ^= 1
        with pytest.raises(AssertionError):
            check_equal_copies([first, bytes(changed)])


@pytest.mark.parametrize("replicas", [2, 3])
def test_round_trips(nodes, cluster_name, replicas):
    """A write: frames, intents and locks in one; its unlocks, at each copy, are not waited for."""
    with client(where(nodes, cluster_name)) as (cluster, own), made(cluster, replicas) as store:

        def trips(call):
            before = own.stats["doorbells"]
            call()
            return own.stats["doorbells"] - before

        pid, unlocks = store.allocate(), replicas
        store.write(pid, page(1))
        assert min(trips(lambda: store.write(pid, page(2))) for _ in range(20)) == replicas + unlocks
        assert min(trips(lambda: store.read(pid)) for _ in range(20)) == 1
        assert min(trips(lambda: store.version(pid)) for _ in range(20)) == 1


@pytest.mark.parametrize("replicas", [2, 3])
def test_ops(nodes, cluster_name, replicas):
    """Of a change, at each copy: the frame, if there is one, an intent and the lock; and the unlock."""
    with client(where(nodes, cluster_name)) as (cluster, own), made(cluster, replicas) as store:

        def ops(call):
            before = own.stats["posts"]
            call()
            return own.stats["posts"] - before

        pids, intent, lock, unlock = store.allocate_many(8).tolist(), 1, 1, 1
        store.write_many(pids, page(1) * 8)
        change = replicas * (intent + lock + unlock)
        assert min(ops(lambda: store.write(pids[0], page(2))) for _ in range(20)) == replicas + change
        assert min(ops(lambda: store.write_many(pids, page(2) * 8)) for _ in range(20)) == 8 * (replicas + change)
        for pid in pids[:3]:
            store.free(pid)
        store.version(pids[7])
        assert min(ops(store.allocate) for _ in range(10)) == change


@pytest.mark.parametrize("replicas", [2, 3])
def test_a_batch_leaves_no_page_locked(nodes, cluster, cluster_name, replicas):
    """Its unlocks go out with the end of the call, whether the client makes another one or not."""
    with (
        made(cluster, replicas, capacity=100 * SIZE) as store,
        client(where(nodes, cluster_name)) as (two, _),
        two.store("s") as other,
    ):
        pids = store.allocate_many(64).tolist()
        for value in (1, 2):
            store.write_many(pids, page(value) * 64)
            assert other.read_many(pids).tobytes() == page(value) * 64


def test_handles_that_write_one_page(nodes, cluster, cluster_name):
    """They wait for the locks of each other, and no change is lost."""
    rounds = 30
    with made(cluster, 3) as store, contextlib.ExitStack() as stack:
        pid = store.allocate()
        others = [spawn.Process(target=count_up, args=(where(nodes, cluster_name), pid, rounds)) for _ in range(2)]
        for other in others:
            other.start()
            stack.callback(other.kill)
        add(store, pid, rounds)
        for other in others:
            other.join(SECONDS)
            assert other.exitcode == 0
        assert number_of(store.read(pid)) == 3 * rounds
    check_equal(cluster, 3)


def add(store, pid, rounds):
    for _ in range(rounds):
        while True:
            version = store.version(pid)
            with contextlib.suppress(errors.ConflictError):
                store.compare_write(pid, version, page(number_of(store.read(pid)) + 1))
                break


def count_up(address, pid, rounds):
    with client(address) as (cluster, _), cluster.store("s") as store:
        add(store, pid, rounds)


# -- how it comes to be --


def test_properties_that_differ(nodes, cluster, cluster_name):
    for wrong in (4, 5):
        with pytest.raises(errors.InvalidArgumentError, match=f"replicas={wrong}.* 3 memory nodes"):
            made(cluster, wrong)
    for wrong in (0, 6, "2", 2.5):
        with pytest.raises(errors.InvalidArgumentError):
            made(cluster, wrong)
    assert cluster.list() == []
    made(cluster, 2).close()
    with pytest.raises(errors.MismatchError, match="replicas=2, not 3"):
        cluster.store("s", replicas=3)
    cluster.store("s", replicas=2).close()
    cluster.store("s").close()
    one = where(nodes[:1], cluster_name)
    with client(one) as (single, _):
        with pytest.raises(errors.MismatchError, match=r"2 memory nodes.*names 1"):
            single.store("s")
        with pytest.raises(errors.InvalidArgumentError, match=r"replicas=2.* 1 memory node;"):
            single.store("t", create=True, replicas=2, **PROPERTIES)
    with dsmem.connect(cluster_name) as here, pytest.raises(errors.MismatchError):
        here.store("s")
    twice = where([nodes[0], nodes[0].replace("127.0.0.1", "localhost")], cluster_name)
    with client(twice) as (wrong, _):
        with pytest.raises(errors.InvalidArgumentError, match="name each node once"):
            wrong.store("t", create=True, replicas=2, **PROPERTIES)
        assert [info.name for info in wrong.list()] == ["s", "s+1"]


@pytest.mark.parametrize(
    "text", ["tcp://a:1,/x", "tcp://a:1,b/x", "tcp://a:1,a:1/x", "tcp://,a:1/x", "tcp://a:1;b:2/x"]
)
def test_addresses_that_cannot_be(text):
    with pytest.raises(errors.InvalidArgumentError):
        dsmem.connect(text)


def test_a_node_that_does_not_answer(nodes, cluster_name):
    """Other names work; a store says which copy is missing, and nothing of it is left."""
    with process_that_serves(SECRET) as (process, at):
        gone = at.removeprefix("tcp://")
        process.kill()
        process.wait()
    with client(where([nodes[0], gone], cluster_name)) as (cluster, _):
        cluster.event("e", create=True).close()
        with pytest.raises(errors.PeerDeadError, match=f"copy 1 of the store 's'.*{gone}"):
            made(cluster)
        assert [info.name for info in cluster.list()] == ["e"]


def test_a_copy_of_another_store_is_in_the_way(nodes, cluster, cluster_name):
    made(cluster).close()
    with client(where(nodes[:1], cluster_name)) as (single, _):
        single.unlink("s")
    with pytest.raises(errors.MismatchError, match=r"copy 1 of the store 's'.*another store; remove"):
        made(cluster)
    assert [info.name for info in cluster.list()] == ["s+1"]
    cluster.unlink("s+1")
    made(cluster).close()


def test_a_lost_copy_is_not_made_again(cluster):
    with made(cluster, 3) as store:
        store.write(store.allocate(), page(1))
    cluster._names.node(2).unlink("s+2")
    for create in (False, None):
        with pytest.raises(errors.CorruptError, match="copy 2 of the store 's': it is lost"):
            cluster.store("s", create=create, replicas=3, **PROPERTIES)
    cluster.unlink("s")
    assert cluster.list() == []


def create(address, results, how):
    with client(address) as (cluster, _):
        for number in range(10):
            with cluster.store(f"s{number}", create=None, replicas=3, **how) as store:
                results.put((number, store.allocate()))
        results.close()


def test_processes_that_create_one_store(nodes, cluster, cluster_name):
    results = spawn.Queue()
    others = [spawn.Process(target=create, args=(where(nodes, cluster_name), results, PROPERTIES)) for _ in range(2)]
    for other in others:
        other.start()
    found = [results.get(timeout=SECONDS) for _ in range(20)]
    for other in others:
        other.join(SECONDS)
        assert other.exitcode == 0
    assert len(set(found)) == 20  # of one store, so each has a page of its own
    for number in range(10):
        with cluster.store(f"s{number}") as store:
            assert store.stat()["free"] == 98


def die_between_copies(address, replicas, last):
    real = copies._attached_or_made

    def attached_or_made(at, place, *more):
        if place.copy == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(at, place, *more)

    copies._attached_or_made = attached_or_made
    with client(address) as (cluster, _):
        made(cluster, replicas)


@pytest.mark.parametrize("last", [1, 2])
def test_a_creator_that_is_killed_between_copies(nodes, cluster, cluster_name, last):
    """The next client completes the store."""
    process = spawn.Process(target=die_between_copies, args=(where(nodes, cluster_name), 3, last))
    process.start()
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(errors.NameExistsError):
        made(cluster, 3)
    with cluster.store("s") as store:
        store.write(store.allocate(), page(1))
    check_equal(cluster, 3)


def make_the_first(cluster):
    """Copy 0 of a store of two, which is being made."""
    cluster.make("s", "store", lambda: dsmem.Store._layout(replicas=2, **PROPERTIES), create=True).close()


def unlinked_between(monkeypatch, other, before):
    """Let another client remove the store before the next copy is looked for; 'before' is called first."""
    real = copies._attached_or_made

    def attached_or_made(*args):
        monkeypatch.setattr(copies, "_attached_or_made", real)
        before()
        other.unlink("s")
        return real(*args)

    monkeypatch.setattr(copies, "_attached_or_made", attached_or_made)


def test_a_store_that_is_removed_while_it_is_made(nodes, cluster, cluster_name, monkeypatch):
    with client(where(nodes, cluster_name)) as (other, _):
        unlinked_between(monkeypatch, other, lambda: None)
        with pytest.raises(errors.NameNotFoundError):
            made(cluster)
    for node in range(2):
        assert cluster._names.node(node).infos() == []
    made(cluster).close()


def test_a_store_that_is_removed_while_it_is_opened(nodes, cluster, cluster_name, monkeypatch):
    """The client that opens it has found it incomplete; another one has completed it before it was removed."""
    make_the_first(cluster)
    with client(where(nodes, cluster_name)) as (other, _):
        unlinked_between(monkeypatch, other, lambda: other.store("s").close())
        with pytest.raises(errors.NameNotFoundError):
            cluster.store("s")
    for node in range(2):
        assert cluster._names.node(node).infos() == []
    made(cluster).close()


def test_a_store_that_two_clients_complete(nodes, cluster, cluster_name, monkeypatch):
    """One has made a copy; before it goes on the other one finds that, completes the store and closes it."""
    make_the_first(cluster)
    with client(where(nodes, cluster_name)) as (other, _):
        done = copies._attached_or_made

        def made_then_completed(*args):
            monkeypatch.setattr(copies, "_attached_or_made", done)
            found = done(*args)
            other.store("s").close()
            return found

        monkeypatch.setattr(copies, "_attached_or_made", made_then_completed)
        cluster.store("s").close()
        cluster.store("s").close()
        other.store("s").close()


def test_a_removal_that_was_not_ended_is(nodes, cluster):
    """Its process died when it had decided so, and other copies have their names."""
    made(cluster).close()
    with cluster._names.attach("s", "store", False) as memory:
        assert _core.store_settle(memory.remote, 1, 2) == 2
    with pytest.raises(errors.NameNotFoundError):
        cluster.store("s")
    for node in range(2):
        assert cluster._names.node(node).infos() == []
    made(cluster).close()


def test_a_store_that_was_given_up_is_not_there(cluster):
    """Its creator has died after it had decided so."""
    make_the_first(cluster)
    with cluster._names.attach("s", "store", False) as memory:
        assert _core.store_settle(memory.remote, 0, 2) == 2
        assert _core.store_settle(memory.remote, 0, 1) == 2
    with pytest.raises(errors.NameNotFoundError):
        cluster.store("s")
    make_the_first(cluster)
    with cluster._names.attach("s", "store", False) as memory:
        _core.store_settle(memory.remote, 0, 2)
    cluster.store("s", create=None, replicas=2, **PROPERTIES).close()


def test_the_commands_that_list_and_remove(nodes, cluster, cluster_name):
    made(cluster, 3).close()
    runner = CliRunner(env={"DSMEM_SECRET": SECRET.decode()})
    listed = runner.invoke(main, ["ls", "-c", where(nodes, cluster_name)])
    assert [line.split()[1] for line in listed.output.splitlines()[1:]] == ["s", "s+1", "s+2"]
    removed = runner.invoke(main, ["rm", "-c", where(nodes, cluster_name), "s"])
    assert removed.exit_code == 0 and cluster.list() == []


# -- clients that end --


def write_until_killed(address, pids, told):
    """Write growing numbers, and say which of them were acknowledged."""
    with client(address) as (cluster, _):
        store = cluster.store("s")
        number = 0
        while True:
            number += 1
            for i, pid in enumerate(pids):
                store.write(pid, page(number))
                told[i] = number


def test_clients_that_are_killed_in_writes(nodes, cluster, cluster_name):
    """What was acknowledged is there, what was not is whole, and others go on with the same pages."""
    dice, pauses = random.Random(7), []
    with made(cluster, 3, members=2) as store:
        pids = store.allocate_many(3).tolist()
        for _ in range(8):
            told = spawn.RawArray("Q", 3)
            store.write_many(pids, page(0) * 3)
            process = spawn.Process(target=write_until_killed, args=(where(nodes, cluster_name), pids, told))
            process.start()
            eventually(lambda told=told, process=process: check_alive(told, process), LookupError)
            time.sleep(dice.random() * 0.02)  # at any instant of its writes
            process.kill()
            process.join()
            died = time.monotonic()
            for pid, number in zip(pids, told, strict=True):
                assert number_of(store.read(pid)) in (number, number + 1)
            for pid in pids:
                store.write(pid, page(7))
            pauses.append(time.monotonic() - died)
    print(f"from death to the first success on its pages: {sorted(pauses)[len(pauses) // 2]:.4f}, {max(pauses):.4f} s")
    check_equal(cluster, 3)


def check_alive(told, process):
    assert process.is_alive()
    if not told[2]:
        raise LookupError


def test_a_client_that_is_stopped_in_a_write(nodes, cluster, cluster_name):
    """Its page is busy, and the exception names its holder; when it goes on, the page is free."""
    told = spawn.RawArray("Q", 1)
    with made(cluster, 2) as store:
        (pid,) = store.allocate_many(1).tolist()
        store._wait_for_others(0.5)
        process = spawn.Process(target=write_until_killed, args=(where(nodes, cluster_name), [pid], told))
        process.start()
        try:
            eventually(lambda: check_started(told), LookupError)
            with pytest.raises(errors.BusyError, match=r"by another client; .*, not proven dead at tcp:"):
                stop_until(process, cluster, store, pid)
            os.kill(process.pid, signal.SIGCONT)
            store._wait_for_others(SECONDS)
            assert number_of(store.read(pid)) >= 1
        finally:
            process.kill()
            process.join()
        store.write(pid, page(5))
        assert store.read(pid) == page(5)


def check_started(told):
    if not told[0]:
        raise LookupError


def stop_until(process, cluster, store, pid):
    """Stop it again and again, until it stands still with a lock, and read the page then."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        time.sleep(0.005)  # what it has sent arrives
        locked = any(map(is_locked, heads(image(cluster, 0))[0]))
        if locked:
            store.read(pid)
        os.kill(process.pid, signal.SIGCONT)


# -- nodes that end --


def test_a_node_that_is_killed_and_comes_back(nodes, cluster_name):
    """Writes are refused and say which copy is missing; reads go on; nothing is lost, and it all works again after."""
    with contextlib.ExitStack() as stack:
        process, at = stack.enter_context(process_that_serves(SECRET, "--grace", "0"))
        host, _, port = at.removeprefix("tcp://").rpartition(":")
        cluster, _ = stack.enter_context(client(where([nodes[0], f"{host}:{port}"], cluster_name)))
        store = made(cluster)
        pid = store.allocate()
        store.write(pid, page(1))
        process.kill()
        process.wait()
        for call in (lambda: store.write(pid, page(2)), lambda: store.free(pid), store.allocate):
            with pytest.raises((errors.PeerDeadError, errors.StaleDescriptorError), match="copy 1"):
                call()
        assert store.read(pid) == page(1)
        with pytest.raises(errors.PeerDeadError, match="copy 1 of the store 's'"):
            cluster.store("s")
        store.close()
        stack.enter_context(process_that_serves(SECRET, "--grace", "0", host=host, port=port))
        with eventually(lambda: cluster.store("s"), errors.PeerDeadError, errors.SystemCallError) as again:
            assert again.read(pid) == page(1)
            assert again.write(pid, page(3)) == again.version(pid)
            again.free(pid)
    with client(where(nodes, cluster_name)) as (cluster, _):
        check_equal(cluster, 2)
