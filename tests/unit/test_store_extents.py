"""Stores of several extents at three memory nodes, each a `dsmem serve` of its own: where the pages are, what calls do,
how such a store comes to be, and what becomes of it when clients and nodes end.

Each step of the machines: tests/c/test_store_sim.c. Ops that fail: test_store_copies_faults.py.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time
from dataclasses import replace

import halt
import numpy as np
import pytest
import store_nodes
from doubts import NUMBERS, Doubt
from names_server import process_that_serves
from paging import SIZE, number_of, page
from store_nodes import (
    PROPERTIES,
    SECONDS,
    SECRET,
    VERSIONS,
    check_equal,
    client,
    eventually,
    heads,
    heads_at,
    image,
    made,
    where,
)

import dsmem
from dsmem import _core, errors
from dsmem.names import copies

nodes, cluster = store_nodes.nodes, store_nodes.cluster

DONE, NOT_DONE = _core.STORE_DONE, _core.STORE_NOT_DONE
spawn = multiprocessing.get_context("spawn")


# -- calls --


@pytest.mark.parametrize(("replicas", "extents"), [(1, 2), (1, 5), (2, 3), (3, 2), (3, 21)])
def test_what_calls_do(nodes, cluster, cluster_name, replicas, extents):
    pages = -(-100 // extents) * extents
    with made(cluster, replicas, extents=extents) as store, client(where(nodes, cluster_name)) as (second, _):
        assert store.stat() == {
            "page_size": SIZE,
            "pages": pages,
            "members": 8,
            "replicas": replicas,
            "extents": extents,
            "free": pages,
            "handles": 1,
            "repaired": 0,
        }
        one, gone, *many = store.allocate_many(72).tolist()
        with second.store("s", capacity=100 * SIZE, extents=extents) as other:
            first = store.write(one, page(1))
            assert other.read(one) == page(1) and other.version(one) == first
            assert other.compare_write(one, first, page(2)) == first + 1
            with pytest.raises(errors.ConflictError):
                store.compare_write(one, first, page(3))
            other.free(gone)
            with pytest.raises(errors.PageNotFoundError):
                store.write(gone, page(1))
            for start in range(0, 300, 100):
                values = np.repeat(np.arange(start, start + 70, dtype="u8"), SIZE // 8)
                (store, other)[start // 100 % 2].write_many(many, values)
                for reader in (store, other):
                    assert (reader.read_many(many).view("u8").ravel() == values).all()
            with store.transaction() as tx:
                assert [number_of(tx.read(pid)) for pid in many] == list(range(200, 270))
                for pid in many:
                    tx.write(pid, page(9))
                tx.free(one)
            assert {number_of(row) for row in other.snapshot(many)} == {9}
            assert other.check()["wrong"] == {} and other.stat() == store.stat()
            assert store.stat()["free"] == pages - 70
            again = pickle.loads(pickle.dumps(store.ref))
            with dsmem.attach(again, second._names.context) as third:
                assert third.write(many[0], page(4)) == store.version(many[0])
            with pytest.raises(errors.StoreFullError):
                store.allocate_many(pages - 69)
            assert len(set(store.allocate_many(pages - 70).tolist())) == pages - 70
    check_equal(cluster, replicas, extents)


def test_where_pages_are(nodes, cluster):
    """An allocation of many takes as many of each extent, and the extents lie at all nodes, in one round trip."""
    with made(cluster, 2, extents=3) as store:
        pids = store.allocate_many(30)
        numbers = pids & np.uint64((1 << 40) - 1)
        assert [int((numbers % 3 == extent).sum()) for extent in range(3)] == [10, 10, 10]
        places = store.health()["copies"]
        assert [(at["extent"], at["copy"]) for at in places] == [(x, k) for x in range(3) for k in range(2)]
        assert [at["node"].removeprefix("tcp://") for at in places] == [
            nodes[(x + k) % 3] for x in range(3) for k in (0, 1)
        ]
    names = ["s", "s+1", "s+e1", "s+e1+1", "s+e2", "s+e2+1"]
    assert [info.name for info in cluster.list()] == names
    cluster.unlink("s")
    assert cluster.list() == []


def test_single_allocations_are_in_all_extents(cluster):
    with made(cluster, 1, extents=4) as store:
        numbers = [store.allocate() & ((1 << 40) - 1) for _ in range(8)]
        assert sorted(number % 4 for number in numbers) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_round_trips(nodes, cluster_name):
    """Pages of all extents, in as many postings as pages of one."""
    with client(where(nodes, cluster_name)) as (cluster, own), made(cluster, 1, extents=3) as store:

        def trips(call):
            before = own.stats["doorbells"]
            call()
            return own.stats["doorbells"] - before

        pids = store.allocate_many(30).tolist()
        store.write_many(pids, page(1) * 30)
        assert min(trips(lambda: store.write_many(pids, page(2) * 30)) for _ in range(20)) == 3
        assert min(trips(lambda: store.read_many(pids)) for _ in range(20)) == 3
        assert min(trips(lambda: store.write(pids[0], page(3))) for _ in range(20)) == 1
        assert min(trips(lambda: store.read(pids[0])) for _ in range(20)) == 1


# -- how it comes to be --


def test_properties_that_cannot_be(nodes, cluster, cluster_name):
    for wrong in (0, "2", 2.5, -1):
        with pytest.raises(errors.InvalidArgumentError):
            made(cluster, 1, extents=wrong)
    for replicas, extents in ((1, 65), (2, 33), (3, 22), (1, (1 << 32) - 1)):
        with pytest.raises(errors.InvalidArgumentError, match="at most 64 copies"):
            made(cluster, replicas, extents=extents)
    with pytest.raises(errors.InvalidArgumentError, match=r"replicas=4.* 3 memory nodes"):
        made(cluster, 4, extents=2)
    assert cluster.list() == []
    with client(where(nodes[:1], cluster_name)) as (single, _), dsmem.connect(cluster_name) as here:
        for one in (single, here):
            with pytest.raises(errors.InvalidArgumentError, match=r"extents=2.* one memory node"):
                one.store("t", create=True, extents=2, **PROPERTIES)


def test_properties_that_differ(nodes, cluster, cluster_name):
    made(cluster, 2, extents=3).close()
    with pytest.raises(errors.MismatchError, match="extents=3, not 2"):
        cluster.store("s", extents=2)
    cluster.store("s", extents=3, replicas=2, capacity=100 * SIZE).close()
    for fewer in (1, 2):
        with client(where(nodes[:fewer], cluster_name)) as (other, _):
            with pytest.raises(errors.MismatchError, match=rf"extents at 3 memory nodes.*names {fewer}; name all"):
                other.store("s")
    with client(where(nodes[:2], cluster_name)) as (other, _), pytest.raises(errors.MismatchError):
        other.unlink("s")
    with cluster._names.node(1).attach("s+e1", "store", False) as memory:
        there = _core.store_look(memory.remote)
        assert (there["extent"], there["index"], there["extents"], there["spread"]) == (1, 0, 3, 3)
        with pytest.raises(errors.MismatchError, match="copy 0 of 2 in extent 1 of 3"):
            _core.Store((memory.remote,))


def test_a_store_is_found_where_more_nodes_are_named(nodes, cluster_name):
    """It is spread over as many as its creator has named."""
    with client(where(nodes[:2], cluster_name)) as (first, _), made(first, 1, extents=4) as store:
        pid = store.allocate_many(4)[3]
        store.write(int(pid), page(1))
        with client(where(nodes, cluster_name)) as (second, _), second.store("s") as other:
            assert other.read(int(pid)) == page(1)


def test_a_lost_extent_is_not_made_again(cluster):
    made(cluster, 2, extents=2).close()
    cluster._names.node(2).unlink("s+e1+1")
    for create in (False, None):
        with pytest.raises(errors.CorruptError, match="copy 1 of extent 1 of the store 's': it is lost"):
            cluster.store("s", create=create, replicas=2, extents=2, **PROPERTIES)
    cluster.unlink("s")
    assert cluster.list() == []


def die_between_places(address, last):
    real = copies._attached_or_made

    def attached_or_made(at, place, *more):
        if (place.extent, place.copy) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(at, place, *more)

    copies._attached_or_made = attached_or_made
    with client(address) as (cluster, _):
        made(cluster, 2, extents=3)


@pytest.mark.parametrize("last", [(0, 1), (1, 0), (2, 1)])
def test_a_creator_that_is_killed_between_places(nodes, cluster, cluster_name, last):
    """The next client completes the store."""
    process = spawn.Process(target=die_between_places, args=(where(nodes, cluster_name), last))
    process.start()
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGKILL
    with cluster.store("s") as store:
        store.write_many(store.allocate_many(9), page(1) * 9)
    check_equal(cluster, 2, 3)


def test_an_extent_of_another_store_is_in_the_way(nodes, cluster, cluster_name):
    """Nothing else of the new one is left."""
    made(cluster, 1, extents=2).close()
    with client(where(nodes[:1], cluster_name)) as (single, _):
        single.unlink("s")
    with pytest.raises(errors.MismatchError, match=r"copy 0 of extent 1 of the store 's'.*another store; remove"):
        made(cluster, 1, extents=2)
    assert [info.name for info in cluster.list()] == ["s+e1"]
    cluster.unlink("s+e1")


# -- clients that end --


def transfer_until_killed(address, pids, told):
    """Move amounts between pages of all extents, and say how many transfers were acknowledged."""
    dice = random.Random(os.getpid())
    with client(address) as (cluster, _):
        store = cluster.store("s")

        def move(tx):
            some = dice.sample(pids, 3)
            amounts = [number_of(tx.read(pid)) for pid in some]
            for pid, amount in zip(some, (amounts[0] - 2, amounts[1] + 1, amounts[2] + 1), strict=True):
                tx.write(pid, page(amount))

        while True:
            store.run(move)
            told[0] += 1


@pytest.mark.parametrize(("replicas", "extents"), [(1, 3), (2, 3)])
def test_clients_that_are_killed_in_transactions(nodes, cluster, cluster_name, replicas, extents):
    """All of a transaction is there, or nothing, and others go on with the same pages."""
    dice = random.Random(7)
    with made(cluster, replicas, extents=extents, members=2) as store:
        pids = store.allocate_many(6).tolist()
        store.write_many(pids, page(1 << 40) * 6)
        for _ in range(8):
            told = spawn.RawArray("Q", 1)
            process = spawn.Process(target=transfer_until_killed, args=(where(nodes, cluster_name), pids, told))
            process.start()
            eventually(lambda told=told, process=process: check_alive(told, process), LookupError)
            time.sleep(dice.random() * 0.02)  # at any instant of a commit
            process.kill()
            process.join()
            assert sum(map(number_of, store.snapshot(pids, timeout=SECONDS))) == 6 << 40
            with store.transaction() as tx:
                for pid in pids:
                    tx.write(pid, tx.read(pid))
            with eventually(lambda: cluster.store("s"), errors.TooManyMembersError) as newcomer:  # in the same slot
                newcomer.run(lambda tx: [tx.write(pid, tx.read(pid)) for pid in pids])
    check_equal(cluster, replicas, extents)


def check_alive(told, process):
    assert process.is_alive()
    if not told[0]:
        raise LookupError


@contextlib.contextmanager
def locked_at_a_backup(store, pid):
    """By a client that nothing proves dead, and that has not got the primary. Pages of even numbers are at place 1."""
    number, remote = (pid & NUMBERS) // 2, store._remotes[1]
    raw = bytearray(remote.nbytes)
    remote.read(0, raw)
    at, was = heads_at(raw) + 8 * number, heads(raw)[0][number]
    lock = 7 << 52 | was & VERSIONS << 24 | 5
    assert remote.compare_swap(at, was, lock) == was
    try:
        yield
    finally:
        assert remote.compare_swap(at, lock, was) == lock


def test_a_page_that_is_waited_for_leaves_other_extents_alone(nodes, cluster, cluster_name):
    """Where a call has to look for free frames, too."""
    with made(cluster, 2, extents=2, capacity=200 * SIZE) as store, client(where(nodes, cluster_name)) as (second, _):
        ids = store.allocate_many(140).tolist()
        waits, rest = next(pid for pid in ids if pid % 2 == 0), [pid for pid in ids if pid % 2][:63]
        store._wait_for_others(SECONDS)
        store.write_many([waits, *rest], page(1) * 64)
        call = threading.Thread(target=store.write_many, args=([waits, *rest], page(2) * 64))
        with second.store("s", create=False) as other, locked_at_a_backup(other, waits):
            call.start()
            while {number_of(row) for row in other.read_many(rest)} != {2}:
                assert call.is_alive()
            assert call.is_alive()
        call.join()
        assert number_of(store.read(waits)) == 2


def said(store, change):
    return _core.Store._outcome(store, change.packed())[0]


def test_a_change_in_doubt_in_any_extent(nodes, cluster, cluster_name):
    """It is looked for where the page is: its header, and those of the versions that have replaced it."""
    with made(cluster, 1, extents=3) as store, client(where(nodes, cluster_name)) as (second, _):
        for pid in store.allocate_many(3).tolist():
            place = copies.Place((pid & NUMBERS) % 3, 0, (pid & NUMBERS) % 3)
            version = store.write(pid, page(1))
            raw = image(cluster, place)
            (head,), at = heads(raw)[0][(pid & NUMBERS) // 3 :][:1], heads(raw)[1]
            frame = at + (head & 0xFFFFFF) * (64 + SIZE)
            change = Doubt(pid, head, version, raw[frame : frame + 64])
            other = replace(change, header=change.header[:24] + bytes(40))
            assert said(store, change) == DONE and said(store, other) == NOT_DONE
            with second.store("s") as same:
                same.write(pid, page(2))
                store.write(pid, page(3))
                assert said(store, change) == said(same, change) == DONE


# -- nodes that end --


def test_a_node_that_is_killed_and_comes_back(nodes, cluster_name):
    """What is in other extents goes on; a transaction that needs the node is refused, and leaves nothing behind."""
    with contextlib.ExitStack() as stack:
        process, at = stack.enter_context(process_that_serves(SECRET, "--grace", "0"))
        host, _, port = at.removeprefix("tcp://").rpartition(":")
        cluster, _ = stack.enter_context(client(where([nodes[0], f"{host}:{port}"], cluster_name)))
        store = made(cluster, 1, extents=2)
        pids = store.allocate_many(4).tolist()
        here, there = ([pid for pid in pids if pid % 2 == extent] for extent in range(2))
        store.write_many(pids, page(1) * 4)
        process.kill()
        process.wait()
        lost = errors.PeerDeadError, errors.StaleDescriptorError
        for call in (lambda: store.write(there[0], page(2)), lambda: store.read(there[0])):
            with pytest.raises(lost, match="copy 0 of extent 1"):
                call()
        with pytest.raises(lost, match="copy 0 of extent 1"), store.transaction() as tx:
            tx.write(here[0], page(3))
            tx.write(there[0], page(3))
        assert store.read(here[0]) == page(1)
        assert store.write(here[0], page(4)) == store.version(here[0])
        with store.transaction() as tx:
            for pid in here:
                tx.write(pid, page(5))
        with pytest.raises(errors.PeerDeadError, match="copy 0 of extent 1 of the store 's'"):
            cluster.store("s")
        store.close()
        stack.enter_context(process_that_serves(SECRET, "--grace", "0", host=host, port=port))
        with eventually(lambda: cluster.store("s"), errors.PeerDeadError, errors.SystemCallError) as again:
            assert [number_of(again.read(pid)) for pid in here + there] == [5, 5, 1, 1]
            again.run(lambda tx: [tx.write(pid, page(6)) for pid in pids])
            assert {number_of(row) for row in again.read_many(pids)} == {6}
        cluster.unlink("s")


def test_a_node_that_stops_holds_up_its_own_extents_alone(nodes, cluster_name):
    """A lock that a transaction has left there is tried now and then: other calls post nothing to that node."""
    with contextlib.ExitStack() as stack:
        process, at = stack.enter_context(process_that_serves(SECRET, "--grace", "0"))
        address = where([nodes[0], at.removeprefix("tcp://")], cluster_name)
        cluster, own = stack.enter_context(client(address, peer_timeout=3))
        store = made(cluster, 1, extents=2)
        pids = store.allocate_many(4).tolist()
        here, there = ([pid for pid in pids if pid % 2 == extent] for extent in range(2))
        store.write_many(pids, page(1) * 4)

        def read_here():
            before = own.stats["posts"]
            assert store.read(here[0]) == page(1)
            if own.stats["posts"] - before != 2:
                raise LookupError

        halt.stop(process.pid)
        try:
            with pytest.raises(errors.DsmemError, match="copy 0 of extent 1"), store.transaction() as tx:
                tx.write(here[0], page(3))
                tx.write(there[0], page(3))
            eventually(read_here, LookupError, errors.TimeoutError)
        finally:
            process.send_signal(signal.SIGCONT)
        eventually(lambda: store.write(there[0], page(5)), errors.DsmemError)
        eventually(lambda: store.run(lambda tx: [tx.write(pid, page(6)) for pid in pids]), errors.DsmemError)
        assert {number_of(row) for row in store.read_many(pids)} == {6}
        store.close()
        cluster.unlink("s")
