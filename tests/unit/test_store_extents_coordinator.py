"""Stores of several extents with a coordinator: memory nodes with copies of several of them are killed while clients
change pages, and the coordinator, too.

What is decided, in random worlds: test_membership_extents.py.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter

import pytest
from click.testing import CliRunner
from epochs import PROPERTIES, SECRET, eventually, settled, together, writing
from paging import number_of, page

from dsmem import errors
from dsmem.cli import main


def made(cluster, extents, replicas=2):
    return cluster.store("db", create=True, replicas=replicas, extents=extents, **PROPERTIES)


def whole(store, promised):
    """Whether all copies of all extents count."""

    def found():
        health = store.health()
        return health["open"] and len(health["copies"]) == promised and not health["missing"]

    return found


def addresses(store):
    return Counter(copy["node"] for copy in store.health()["copies"])


def test_a_store_lies_at_all_nodes_evenly(tmp_path):
    with together(tmp_path, 3) as where, where.client() as cluster, made(cluster, 6) as store:
        health = store.health()
        called = [(copy["extent"], copy["copy"]) for copy in health["copies"]]
        assert called == [(extent, copy) for extent in range(6) for copy in (0, 1)]
        assert set(addresses(store).values()) == {4} and health["trouble"] == "" and health["replicas"] == 2
        primaries = Counter(copy["node"] for copy in health["copies"][::2])
        assert set(primaries.values()) == {2}
        assert {info.copies for info in where.infos()} == {4}
        pids = store.allocate_many(60).tolist()
        for number, pid in enumerate(pids):
            store.write(pid, page(number))
        with where.client() as another, another.store("db", extents=6) as other:
            assert [number_of(other.read(pid)) for pid in pids] == list(range(60))
            assert other.stat()["extents"] == 6 and other.check()["wrong"] == {}
            with pytest.raises(errors.MismatchError):
                another.store("db", extents=3)
        cluster.unlink("db")
        eventually(lambda: all(info.copies == info.stale == 0 for info in where.infos()))


class Mover(threading.Thread):
    """Moves units between pages of all extents, by transactions. Their sum does not change."""

    def __init__(self, where, pids):
        super().__init__(daemon=True)
        self.where, self.pids, self.ended = where, pids, threading.Event()
        self.moved, self.failed = 0, None

    def run(self):
        try:
            with self.where.client() as cluster, cluster.store("db") as store:
                while not self.ended.is_set():
                    self.move(store)
        except BaseException as error:
            self.failed = error

    def move(self, store):
        one, other = self.pids[self.moved % len(self.pids)], self.pids[(self.moved * 7 + 1) % len(self.pids)]
        with contextlib.suppress(errors.ConflictError, errors.OutcomeUnknownError), store.transaction() as tx:
            have = number_of(tx.read(one)), number_of(tx.read(other))
            if one != other and have[0]:
                tx.write(one, page(have[0] - 1))
                tx.write(other, page(have[1] + 1))
        self.moved += 1


@contextlib.contextmanager
def moving(where, store):
    """Movers during the block. Afterwards the sum is what it was."""
    pids = store.allocate_many(9).tolist()
    for pid in pids:
        settled(store, pid, 100)
    movers = [Mover(where, pids[i:] + pids[:i]) for i in (0, 4)]
    for mover in movers:
        mover.start()
    try:
        yield movers
    finally:
        for mover in movers:
            mover.ended.set()
        for mover in movers:
            mover.join(120)
    assert [mover.failed for mover in movers] == [None, None]
    assert sum(number_of(row) for row in store.snapshot(pids)) == 900


def moved_on(movers):
    """Each has gone on for a while."""
    before = [mover.moved for mover in movers]

    def are():
        assert all(mover.failed is None for mover in movers), [mover.failed for mover in movers]
        return all(mover.moved > seen + 3 for mover, seen in zip(movers, before, strict=True))

    eventually(are)


def test_nodes_are_killed_while_clients_change_pages(tmp_path):
    """Each has copies of several extents, of some the primary. What is lost is made again at the others."""
    with together(tmp_path, 4) as where, where.client() as cluster, made(cluster, 6) as store:
        with writing(where), moving(where, store) as movers:
            for _ in range(2):
                moved_on(movers)
                gone = where.node_of(store, 0)
                assert addresses(store)[gone.address] >= 2
                gone.kill()
                where.nodes.remove(gone)
                moved_on(movers)
                if len(where.nodes) > 2:
                    eventually(whole(store, 12))
            eventually(whole(store, 12))
        assert set(addresses(store).values()) == {6} and store.check()["wrong"] == {}


def test_the_coordinator_is_killed_too(tmp_path):
    """When a node has just gone, so that the recovery of all extents is begun again by the next one."""
    with together(tmp_path, 3) as where, where.client() as cluster, made(cluster, 3) as store:
        with writing(where), moving(where, store) as movers:
            for turn in range(3):
                moved_on(movers)
                gone = where.nodes.pop()
                gone.kill()
                if turn:
                    eventually(lambda gone=gone: gone.address not in where.up())
                where.coordinator.kill()
                where.coordinator.start()
                where.more()
                eventually(lambda: whole(store, 6)())
                moved_on(movers)
        assert store.check()["wrong"] == {}


def test_an_extent_without_a_copy_is_the_end_of_the_store(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster, 3, replicas=1) as store:
        pid = store.allocate()
        gone = where.node_of(store, 0)
        lost = [copy["extent"] for copy in store.health()["copies"] if copy["node"] == gone.address]
        said = f"copies of extent{'s' * (len(lost) > 1)} {', '.join(map(str, lost))} have ended"
        port = gone.port
        gone.kill()
        eventually(lambda: not store.health()["open"])
        gone.port = port
        gone.start()  # another process, which has none of its copies
        eventually(lambda: said in store.health()["trouble"])
        for call in (lambda: store.read(pid), lambda: cluster.store("db", create=False)):
            with pytest.raises(errors.CorruptError, match=said) as error:
                call()
            assert len(error.value.detail) <= 200
        where.coordinator.kill()
        where.coordinator.start()
        eventually(lambda: said in store.health(timeout=None)["trouble"])
        for command in (["ls"], ["stat", "db"]):
            run = CliRunner(env={"DSMEM_SECRET": SECRET.decode(), "COLUMNS": "300"}).invoke
            assert said in run(main, ["store", *command, "-c", where.address]).output
        cluster.unlink("db")
        eventually(lambda: all(info.copies == info.stale == 0 for info in where.infos()))


def test_many_extents_need_several_replies(tmp_path):
    with together(tmp_path, 3) as where, where.client() as cluster, made(cluster, 21, replicas=3) as store:
        pids = store.allocate_many(42).tolist()
        for pid in pids:
            store.write(pid, page(5))
        assert len(store.health()["copies"]) == 63
        gone = where.nodes.pop()
        gone.kill()
        eventually(lambda: len(store.health()["missing"]) == 21)
        assert {number_of(store.read(pid)) for pid in pids} == {5}
        assert "of extent 20" in store.health()["trouble"] or store.health()["trouble"]
