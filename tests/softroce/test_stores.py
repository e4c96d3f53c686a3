"""Stores with several copies at `dsmem serve --fabric verbs`: what calls do, and what becomes of the store when clients
and servers are killed.

Servers and clients are processes of their own, forked from the server of processes.py.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import halt
import numpy as np
import pytest
from paging import ACCOUNTS, SIZE, START, number_of, page, transfer
from processes import FABRIC, serving, shared_number, started
from store_nodes import (
    SECONDS,
    SECRET,
    check_equal,
    client,
    eventually,
    heads,
    image,
    is_locked,
    made,
    where,
)

import dsmem
from dsmem import errors

GONE = errors.PeerDeadError, errors.StaleDescriptorError
ROUNDS = 4
#: A packet that was lost is sent again after an eighth of it. The calls of a test need not be done within it.
PEER_SECONDS = 16

pytestmark = pytest.mark.timeout(600)  # beside other tests the guest has a part of one processor


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[str]]:
    """Three memory nodes."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(serving(SECRET))[1] for _ in range(3)]


def _client(address: str) -> contextlib.AbstractContextManager[tuple[dsmem.Cluster, dsmem.Context]]:
    return client(address, FABRIC, PEER_SECONDS)


def _numbers(pages: Any) -> list[int]:
    return [number_of(each) for each in pages]


# ---- what calls do ----


def _use(pipe: Connection, address: str, replicas: int, extents: int, times: int) -> None:
    """Make a store, and tell what its pages have; the test changes them, and this process looks at that."""
    nbytes = times * SIZE
    with _client(address) as (cluster, _):
        with made(cluster, replicas, extents=extents, page_size=nbytes, capacity=99 * nbytes) as store:
            one, two, gone, *many = store.allocate_many(12).tolist()
            first = store.write(one, page(1) * times)
            assert store.compare_write(one, first, page(2) * times) == store.version(one) == first + 1
            with pytest.raises(errors.ConflictError):
                store.compare_write(one, first, page(3) * times)
            store.write_many(many, np.repeat(np.arange(10, 19, dtype="u8"), nbytes // 8))
            with store.transaction() as tx:
                tx.write(two, bytes(tx.read(one)))
                tx.write(one, bytes(tx.read(many[0])))
            store.free(gone)
            pipe.send((one, two, gone, many))
            assert pipe.recv() == "changed"
            assert number_of(store.read(one)) == 20 and _numbers(store.snapshot(many)) == [30] * 9
            pipe.send(store.stat())


@pytest.mark.parametrize(("replicas", "extents", "times"), [(2, 1, 1), (3, 1, 33), (2, 3, 1)])
def test_what_calls_do(nodes: list[str], cluster_name: str, replicas: int, extents: int, times: int) -> None:
    """Pages of one packet and of several."""
    address = where(nodes[: max(replicas, extents)], cluster_name)
    with _client(address) as (cluster, _):
        with started(_use, address, replicas, extents, times) as (process, pipe):
            one, two, gone, many = pipe.recv()
            with cluster.store("s") as store:
                assert number_of(store.read(one)) == 10
                assert _numbers(store.read_many([two, *many])) == [2, *range(10, 19)]
                assert _numbers(store.snapshot([one, two])) == [10, 2]
                with pytest.raises(errors.PageNotFoundError):
                    store.read(gone)
                store.compare_write(one, store.version(one), page(20) * times)
                store.write_many(many, page(30) * times * len(many))
                pipe.send("changed")
                stat = pipe.recv()
                assert (stat["replicas"], stat["free"], stat["handles"]) == (replicas, 99 - 11, 2)
                assert store.check() == {"pages": 99, "changing": 0, "repaired": 0, "wrong": {}}
            process.join(SECONDS)
            assert process.exitcode == 0
        check_equal(cluster, replicas, extents)
        cluster.unlink("s")
        assert cluster.list() == []


# ---- clients that are killed ----


def _transfer(pipe: Connection, address: str, accounts: list[int], told: Any, stop: Any) -> None:
    """Until the test stops it, or kills it; the place of a client that has died is free once that is fenced."""
    dice = random.Random(accounts[0] + told.value)
    with _client(address) as (cluster, _):
        with eventually(lambda: cluster.store("s"), errors.TooManyMembersError) as store:
            while not stop.value:
                transfer(store, accounts, dice)
                told.value += 1


def _see(told: Any, process: BaseProcess, more: int = 3) -> None:
    before = told.value

    def look() -> None:
        assert process.is_alive()
        if told.value < before + more:
            raise LookupError

    eventually(look, LookupError)


@pytest.mark.parametrize("replicas", [2, 3])
def test_clients_that_are_killed_in_transactions(nodes: list[str], cluster_name: str, replicas: int) -> None:
    """The sum is the same at every instant, and others go on with the same accounts, and with the places."""
    address = where(nodes[:replicas], cluster_name)
    told, stop = [shared_number(), shared_number()], shared_number()
    with _client(address) as (cluster, _), made(cluster, replicas, members=3) as store:
        accounts = store.allocate_many(ACCOUNTS).tolist()
        store.write_many(accounts, page(START) * ACCOUNTS)
        with started(_transfer, address, accounts, told[0], stop) as (living, _):
            for _ in range(ROUNDS):
                with started(_transfer, address, accounts, told[1], stop) as (victim, _):
                    _see(told[1], victim)
                    assert sum(_numbers(store.snapshot(accounts, timeout=SECONDS))) == ACCOUNTS * START
                _see(told[0], living)
                assert sum(_numbers(store.snapshot(accounts, timeout=SECONDS))) == ACCOUNTS * START
                for pid in accounts:
                    store.run(lambda tx, pid=pid: tx.write(pid, bytes(tx.read(pid))), timeout=SECONDS)
            stop.value = 1
            living.join(SECONDS)
            assert living.exitcode == 0
        assert sum(_numbers(store.read_many(accounts))) == ACCOUNTS * START
        assert store.check()["wrong"] == {}
    with _client(address) as (cluster, _):
        check_equal(cluster, replicas)
        cluster.unlink("s")


def _write(pipe: Connection, address: str, pid: int, told: Any) -> None:
    with _client(address) as (cluster, _), cluster.store("s") as store:
        while True:
            store.write(pid, page(told.value + 1))
            told.value += 1


def _stops_with_a_lock(process: BaseProcess, cluster: dsmem.Cluster) -> bool:
    """The second look is behind what it had sent."""
    halt.stop(process.pid)
    first, second = (heads(image(cluster, 0))[0] for _ in range(2))
    return first == second and any(map(is_locked, second))


def test_a_client_that_is_killed_with_a_lock(nodes: list[str], cluster_name: str) -> None:
    """Its page has what was acknowledged, or what it was writing, at all copies; and its place is free."""
    address, told = where(nodes, cluster_name), shared_number()
    with _client(address) as (cluster, _), made(cluster, 3, members=2) as store:
        pid = store.allocate()
        with started(_write, address, pid, told) as (victim, _):
            _see(told, victim)
            while not _stops_with_a_lock(victim, cluster):
                os.kill(victim.pid, signal.SIGCONT)
        with eventually(lambda: cluster.store("s"), errors.TooManyMembersError) as other:
            found = number_of(store.read(pid))
            assert found in (told.value, told.value + 1) and number_of(other.read(pid)) == found
            for each in (other, store):
                each.write(pid, page(7))
    with _client(address) as (cluster, _):
        check_equal(cluster, 3)
        cluster.unlink("s")


# ---- names ----


def _hold(pipe: Connection, address: str) -> None:
    with _client(address) as (cluster, _), cluster.lock("l"):
        pipe.send("held")
        pipe.recv()


def test_names(nodes: list[str], cluster_name: str) -> None:
    """They are in memory of the server alone; a lock whose holder was killed goes to the next."""
    address = where(nodes[:1], cluster_name)
    with _client(address) as (one, _), _client(address) as (other, _):
        with one.segment("table", (100, 3), "f8", create=True) as table, other.segment("table") as found:
            table[:] = 7.0
            assert (found.read() == 7).all()
            with pytest.raises(errors.UnsupportedError, match="grows"):
                table.resize(100000)
        with one.queue("jobs", create=True) as jobs, other.queue("jobs") as taken:
            jobs.put_many([b"%d" % i for i in range(20)])
            assert [taken.get(timeout=SECONDS) for _ in range(20)] == [b"%d" % i for i in range(20)]
        with contextlib.closing(one.lock("l", create=True)) as lock:
            with started(_hold, address) as (_, pipe):
                assert pipe.recv() == "held" and not lock.acquire(timeout=0.1)
            assert lock.acquire(timeout=SECONDS) and lock.recovered
            lock.release()
        with dsmem.connect(cluster_name) as here:
            assert here.list() == []
        assert [info.name for info in other.list()] == ["jobs", "l", "table"]
        for name in ("jobs", "l", "table"):
            other.unlink(name)


# ---- servers that are killed ----


# What opening the store says when the server is back, and the name that is left then; s+1 is one of the second alone.
AFTERWARDS = [(errors.NameNotFoundError, "s+1"), (errors.CorruptError, "s")]


@pytest.mark.parametrize("copy", [0, 1])
def test_a_server_that_is_killed(nodes: list[str], cluster_name: str, copy: int) -> None:
    """What changes pages says which copy is missing; reads go on if it is not the first. What it had ends with it."""
    lost = f"copy {copy} of the store"
    with contextlib.ExitStack() as stack:
        victim, at = stack.enter_context(serving(SECRET))
        address = where([nodes[0], at] if copy else [at, nodes[0]], cluster_name)
        cluster, _ = stack.enter_context(_client(address))
        store = stack.enter_context(made(cluster))
        pid = store.allocate()
        store.write(pid, page(1))
        victim.kill()
        victim.join()
        for call in (lambda: store.write(pid, page(2)), lambda: store.free(pid), store.allocate):
            with pytest.raises(GONE, match=lost):
                call()
        if copy:
            assert number_of(store.read(pid)) == 1
        else:
            with pytest.raises(GONE, match=lost):
                store.read(pid)
        with pytest.raises(GONE, match=lost if copy else at):
            cluster.store("s")
        store.close()
        stack.enter_context(serving(SECRET, at))
        cluster, _ = stack.enter_context(_client(address))
        missing, left = AFTERWARDS[copy]
        with pytest.raises(missing, match=cluster_name):
            cluster.store("s")
        with _client(address if copy else where(nodes[:1], cluster_name)) as (found, _):
            found.unlink(left)
            assert found.list() == []
        with made(cluster) as again:
            again.write(again.allocate(), page(3))
            assert again.check()["wrong"] == {}
        check_equal(cluster, 2)
        cluster.unlink("s")
