"""`write_many` of a store of a coordinator when a node is lost: it goes on with the pages that were not written."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from doubts import last, never
from epochs import PROPERTIES, SECONDS, eventually, together
from paging import SIZE, number_of, page

from dsmem import errors
from dsmem.membership.follow import EpochStore
from dsmem.membership.rest import Rest
from dsmem.store import Store

MANY = 90  # pages: more than are under way together


def made(cluster, replicas=2):
    return cluster.store("db", create=True, replicas=replicas, **PROPERTIES)


def numbers_in(store, pids):
    return [number_of(raw.tobytes()) for raw in store.read_many(pids)]


class ManyWriter(threading.Thread):
    """Writes the same pages in each call, as their only writer. Each call makes each of them one version later."""

    def __init__(self, store, pids):
        super().__init__(daemon=True)
        self.store, self.pids = store, pids
        self.acknowledged = self.unknown = 0
        self.failed = None
        self.ended = threading.Event()

    def run(self):
        try:
            versions = self.store.write_many(self.pids, page(0) * MANY)
            while not self.ended.is_set():
                try:
                    found = self.store.write_many(self.pids, page(self.acknowledged + 1) * MANY)
                except errors.OutcomeUnknownError:
                    self.unknown += 1
                    return
                self.acknowledged += 1
                versions += 1
                assert (found == versions).all(), "a page was not written exactly once"
        except BaseException as error:
            self.failed = error

    def has_written(self, more):
        assert self.failed is None and not self.unknown, self.failed
        return self.acknowledged >= more


@pytest.mark.parametrize("place", [0, 1])
def test_a_node_is_killed_under_writes_of_many_pages(tmp_path, place):
    """Each page of each call is written once, and no outcome is unknown."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store, where.client() as other:
        pids = store.allocate_many(MANY)
        with other.store("db") as own:
            writer = ManyWriter(own, pids)
            writer.start()
            try:
                eventually(lambda: writer.has_written(10))
                where.node_of(store, place).kill()
                eventually(lambda: store.health()["epoch"] > 1)
                before = writer.acknowledged
                eventually(lambda: writer.has_written(before + 10))
            finally:
                writer.ended.set()
                writer.join(SECONDS)
            assert (writer.failed, writer.unknown) == (None, 0)
            assert numbers_in(store, pids) == [writer.acknowledged] * MANY


async def test_a_write_of_many_pages_of_a_task(tmp_path):
    """Also one whose ids come from a generator, and one that has a page twice: the later one stays."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pids = store.allocate_many(10)
        store.write_many(pids, page(1) * 10)
        where.node_of(store, 1).kill()
        twice = [*pids, pids[3]]
        versions = await store.write_many_async((pid for pid in twice), page(2) * 10 + page(3))
        assert numbers_in(store, pids) == [2, 2, 2, 3] + [2] * 6
        assert versions[10] == store.version(pids[3]) == versions[3] + 1
        assert [versions[i] for i in (0, 9)] == [store.version(pids[i]) for i in (0, 9)]


def test_ids_of_a_generator_are_read_again(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pids = store.allocate_many(3)
        store.write_many(pids, page(4) * 3)
        where.node_of(store, 0).kill()
        assert numbers_in(store, (pid for pid in pids)) == [4] * 3


# ---- what a call that has failed says, and what follows ----


class Failing:
    """The next call of the core writes some pages, says of others that their outcome is unknown, and fails."""

    def __init__(self, monkeypatch, node, written=(), in_doubt=(), asked=last, kind=errors.OutcomeUnknownError):
        self.node, self.written, self.in_doubt, self.asked, self.kind = node, written, in_doubt, asked, kind
        real = Store.write_many

        def write_many(store, ids, data, *, status=None):
            monkeypatch.setattr(Store, "write_many", real)
            raise self.fail(store, ids, data, real)

        monkeypatch.setattr(Store, "write_many", write_many)

    def fail(self, store, ids, data, real):
        pages = np.frombuffer(data, "u1").reshape(len(ids), -1)
        versions = np.zeros(len(ids), "u8")
        made = [*self.written, *(self.in_doubt if self.asked is last else ())]
        if made:
            versions[made] = real(store, [ids[i] for i in made], pages[made])
        error = self.kind("ids[0] of many: a node is gone")
        error._doubts = b"".join(self.asked(store, ids[i]).packed() for i in self.in_doubt)
        versions[list(self.in_doubt)] = 0
        error._versions = versions
        self.node.kill()
        return error


SHAPES = {
    "nothing": ((), ()),
    "the first": ((0, 1, 2), ()),
    "some": ((0, 3, 7), (1, 5)),
    "all others in doubt": ((0, 1, 2), tuple(range(3, 10))),
    "all": (tuple(range(10)), ()),
}


@pytest.mark.parametrize("asked", [last, never])
@pytest.mark.parametrize("shape", SHAPES)
def test_pages_that_were_written_and_pages_in_doubt(tmp_path, monkeypatch, shape, asked):
    """Each page is written once: the versions say it."""
    written, in_doubt = SHAPES[shape]
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pids = store.allocate_many(10)
        before = store.write_many(pids, page(1) * 10)
        Failing(monkeypatch, where.node_of(store, 1), written, in_doubt, asked)
        assert (store.write_many(pids, page(2) * 10) == before + 1).all()
        assert numbers_in(store, pids) == [2] * 10
        assert [store.version(pid) for pid in pids] == (before + 1).tolist()


def test_a_status_over_two_epochs(tmp_path, monkeypatch):
    """It says of all pages what has become of them, in whichever epoch that was."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pids = store.allocate_many(6)
        store.write_many(pids, page(1) * 6)
        store.free(pids[4])
        status = np.full(6, 9, "u1")
        Failing(monkeypatch, where.node_of(store, 1), (0, 2), (3,), last)
        versions = store.write_many(pids, page(2) * 6, status=status)
        assert status.tolist() == [0, 0, 0, 0, 45, 0]
        assert [bool(version) for version in versions] == [True, True, True, True, False, True]
        assert numbers_in(store, np.delete(pids, 4)) == [2] * 5


def unknowable(store, pid):
    """A change of a page that can't be told, since it has been changed too often afterwards."""
    doubt = never(store, pid)
    doubt.version -= 100
    return doubt


def test_a_page_that_can_not_tell(tmp_path, monkeypatch):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pids = store.allocate_many(4)
        for number in range(200):
            store.write_many(pids, page(number) * 4)
        Failing(monkeypatch, where.node_of(store, 1), (0,), (2,), unknowable)
        with pytest.raises(errors.OutcomeUnknownError, match=r"some of the pages may have been written \(ids"):
            store.write_many(pids, page(500) * 4)
        assert numbers_in(store, pids) == [500, 199, 199, 199]
        store.write_many(pids, page(501) * 4)
        assert numbers_in(store, pids) == [501] * 4


def test_a_page_that_is_gone_by_then(tmp_path, monkeypatch):
    """The exception names it among all ids, and those before it were written."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pids = store.allocate_many(4)
        store.write_many(pids, page(1) * 4)
        store.free(pids[3])
        Failing(monkeypatch, where.node_of(store, 1), (0,), kind=errors.PeerDeadError)
        with pytest.raises(errors.PageNotFoundError, match=r"ids\[3\] of 4: page .* .those before it were done"):
            store.write_many(pids, page(2) * 4)
        assert numbers_in(store, pids[:3]) == [2] * 3


class StopError(BaseException):
    """What a handler raises."""


def test_a_handler_that_raises_between_the_epochs(tmp_path, monkeypatch):
    """What was written stays, and the handle goes on."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pids = store.allocate_many(4)
        store.write_many(pids, page(1) * 4)
        Failing(monkeypatch, where.node_of(store, 1), (0,), (2,), never)
        real = EpochStore._moved

        def moved(self, *given):
            monkeypatch.setattr(EpochStore, "_moved", real)
            raise StopError

        monkeypatch.setattr(EpochStore, "_moved", moved)
        with pytest.raises(StopError):
            store.write_many(pids, page(2) * 4)
        assert numbers_in(store, pids) == [2, 1, 1, 1]
        store.write_many(pids, page(3) * 4)
        assert numbers_in(store, pids) == [3] * 4 and store.health()["epoch"] > 1


def test_data_that_is_no_array(tmp_path, monkeypatch):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pids = store.allocate_many(4)
        store.write_many(pids, page(1) * 4)
        Failing(monkeypatch, where.node_of(store, 1), (1, 2))
        data = memoryview(bytearray(page(2) * 4)).cast("B", (4, SIZE))
        store.write_many(pids.tolist(), data)
        assert numbers_in(store, pids) == [2] * 4


class Exporter:
    """Has DLPack alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **how):
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize(
    "wrapped",
    [Exporter, memoryview, bytes, lambda array: array.view("f2"), lambda array: array.reshape(3, 1, SIZE)],
    ids=["dlpack", "memoryview", "bytes", "f2", "3d"],
)
def test_what_is_left_is_taken_from_all_that_a_call_takes(wrapped):
    data = np.arange(3 * SIZE, dtype="u4").astype("u1").reshape(3, SIZE)
    rest = Rest([5, 6, 7], wrapped(data))
    assert rest.note(np.array([4, 0, 0], "u8")) and rest.narrow()
    ids, pages = rest.given
    assert ids.tolist() == [6, 7] and (np.asarray(pages) == data[1:]).all()
