"""A status for each page of read_many and write_many, in place of an exception for the call."""

import asyncio
import contextlib
import struct

import numpy as np
import pytest
import store_nodes
from epochs import PROPERTIES as OF_EPOCHS
from epochs import together
from names_server import process_that_serves
from paging import SIZE, number_of, page
from store_nodes import SECRET, at_nodes, client, made, where

from dsmem import errors
from dsmem.membership.rest import DOUBT, Rest
from dsmem.store import PageStatus

nodes = store_nodes.nodes
PROPERTIES = {"page_size": SIZE, "capacity": 100 * SIZE, "members": 8}
MANY = 80  # more than are under way together
NUMBERS = 2**40 - 1
HEADER = 64  # bytes of a frame before its page
GONE = [0, 33, 79]


@pytest.fixture
def store(cluster):
    with cluster.store("s", create=True, **PROPERTIES) as made:
        yield made


def with_pages(store, n=MANY):
    """Ids of pages that have the numbers from 1 on."""
    ids = store.allocate_many(n)
    store.write_many(ids, np.repeat(np.arange(1, n + 1, dtype="u8"), SIZE // 8))
    return ids


def said(n, status=PageStatus.MISSING, at=GONE):
    found = [PageStatus.OK] * n
    for i in at:
        found[i] = status
    return found


def head_at(store, pid):
    """Where the head of a page is: docs/protocols/pages.md."""
    members, pages = store._shape["members"], store._shape["pages"]
    chunks = -(-pages // 64) + members
    return -(-(192 + 16 * members + 8 * chunks) // 64) * 64 + 8 * (int(pid) & NUMBERS)


def word(remote, offset):
    raw = bytearray(8)
    remote.read(offset, raw)
    return struct.unpack("<Q", raw)[0]


def damage(store, pid, copies=(0,)):
    """Change a byte of the header of its frame."""
    remotes = [store._memory.remote, *(each.remote for each in store._backups)]
    frame = word(remotes[0], head_at(store, pid)) & 0xFFFFFF
    for copy in copies:
        at = word(remotes[copy], 80) + frame * (HEADER + SIZE) + 9
        raw = bytearray(1)
        remotes[copy].read(at, raw)
        remotes[copy].write(at, bytes([raw[0] ^ 1]))


@contextlib.contextmanager
def locked(store, pid):
    """The page is locked by a transaction of a client that is in no slot, so that nothing proves its death."""
    remote, at = store._memory.remote, head_at(store, pid)
    was = word(remote, at)
    lock = 2048 + 7 << 52 | was & (2**28 - 1) << 24 | 5
    assert remote.compare_swap(at, was, lock) == was
    yield
    assert remote.compare_swap(at, lock, was) == lock


def test_pages_that_are_missing(store):
    ids = with_pages(store)
    for i in GONE:
        store.free(ids[i])
    status = np.full(MANY, 9, "u1")
    pages = store.read_many(ids, status=status)
    assert status.tolist() == said(MANY)
    assert all(number_of(pages[i].tobytes()) == i + 1 for i in range(MANY) if i not in GONE)
    status[:] = 9
    versions = store.write_many(ids, page(7) * MANY, status=status)
    assert status.tolist() == said(MANY)
    assert [i for i in range(MANY) if not versions[i]] == GONE
    left = np.delete(ids, GONE)
    assert {number_of(each.tobytes()) for each in store.read_many(left)} == {7}
    assert [store.version(pid) for pid in left] == np.delete(versions, GONE).tolist()
    with pytest.raises(errors.PageNotFoundError, match=r"ids\[0\] of 80"):
        store.read_many(ids)
    with pytest.raises(errors.PageNotFoundError, match=r"ids\[0\] of 80"):
        store.write_many(ids, page(7) * MANY)
    assert (store.counts["read_many"], store.counts["write_many"]) == (2, 2)


def test_pages_that_are_all_there(store):
    """Also one that stands there twice, and none at all."""
    ids = with_pages(store, 3)
    status, out = bytearray(b"\xff" * 4), bytearray(4 * SIZE)
    assert store.read_many([*ids, ids[0]], out, status=status) is out
    assert status == bytes(4) and out[:SIZE] == out[3 * SIZE :] == page(1)
    versions = store.write_many([*ids, ids[0]], b"".join(map(page, range(5, 9))), status=status)
    assert status == bytes(4) and versions[3] == versions[0] + 1 and store.read(ids[0]) == page(8)
    empty = np.empty(0, "u1")
    assert len(store.read_many([], status=empty)) == len(store.write_many([], b"", status=empty)) == 0


def test_all_are_missing(store):
    status = np.empty(3, "u1")
    store.read_many([1, 2**63, 0], status=status)
    assert status.tolist() == [PageStatus.MISSING] * 3
    assert not store.write_many([1, 2**63, 0], page(1) * 3, status=status).any()
    assert status.tolist() == [PageStatus.MISSING] * 3


def test_a_page_that_is_locked(store):
    """It is waited for as in any other call."""
    ids = with_pages(store, 3)
    store._wait_for_others(0.05)
    status = np.empty(3, "u1")
    with locked(store, ids[1]):
        pages = store.read_many(ids, status=status)
        assert status.tolist() == said(3, PageStatus.LOCKED, [1])
        assert [number_of(pages[i].tobytes()) for i in (0, 2)] == [1, 3]
        versions = store.write_many(ids, page(9) * 3, status=status)
        assert status.tolist() == said(3, PageStatus.LOCKED, [1]) and not versions[1]
    assert [number_of(each.tobytes()) for each in store.read_many(ids)] == [9, 2, 9]
    assert store.counts["retries"] > 0


def test_a_page_that_is_damaged(store):
    """Of one copy."""
    ids = with_pages(store, 3)
    damage(store, ids[1])
    status = np.empty(3, "u1")
    pages = store.read_many(ids, status=status)
    assert status.tolist() == said(3, PageStatus.CORRUPT, [1])
    assert [number_of(pages[i].tobytes()) for i in (0, 2)] == [1, 3]


@pytest.mark.parametrize("copies", [(0,), (0, 1)])
def test_a_page_that_is_damaged_at_some_copies(nodes, cluster_name, copies):
    """If one is whole the page is repaired, and read."""
    with store_nodes.client(store_nodes.where(nodes, cluster_name)) as (cluster, _), made(cluster, 2) as store:
        ids = with_pages(store, 3)
        damage(store, ids[1], copies)
        whole, status = len(copies) == 1, np.empty(3, "u1")
        pages = store.read_many(ids, status=status)
        assert status.tolist() == said(3, PageStatus.CORRUPT, [] if whole else [1])
        assert number_of(pages[1].tobytes()) == 2 or not whole
        assert store.counts["repaired"] == whole
        store.unlink()


def test_tasks(store):
    ids = with_pages(store, 3)
    store.free(ids[2])

    async def calls():
        status = np.empty(3, "u1")
        pages = await store.read_many_async(ids, status=status)
        assert status.tolist() == said(3, at=[2]) and number_of(pages[1].tobytes()) == 2
        status[:] = 9
        versions = await store.write_many_async(ids, page(5) * 3, status=status)
        assert status.tolist() == said(3, at=[2]) and not versions[2]
        with pytest.raises(errors.InvalidArgumentError, match="status=bytearray of 2"):
            await store.read_many_async(ids, status=bytearray(2))

    asyncio.run(calls())
    assert store.read(ids[1]) == page(5)


def test_what_is_no_status(store):
    ids = with_pages(store, 3)
    for call in (
        lambda status: store.read_many(ids, status=status),
        lambda status: store.write_many(ids, page(8) * 3, status=status),
    ):
        for wrong in (np.empty(2, "u1"), np.empty(3, "i4"), bytearray(4)):
            with pytest.raises(errors.InvalidArgumentError, match="pass an array of 3 uint8"):
                call(wrong)
        with pytest.raises(errors.ReadOnlyBufferError):
            call(bytes(3))
        with pytest.raises(errors.ArgumentTypeError):
            call(3)
    assert store.read(ids[0]) == page(1)


# ---- a store of a coordinator ----


def test_a_store_of_a_coordinator(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster:
        with cluster.store("db", create=True, replicas=2, **OF_EPOCHS) as store:
            ids = with_pages(store, 3)
            store.free(ids[1])
            status = np.full(3, 9, "u1")
            pages = store.read_many(ids, status=status)
            assert status.tolist() == said(3, at=[1]) and number_of(pages[2].tobytes()) == 3
            status[:] = 9
            versions = store.write_many(list(ids), page(6) * 3, status=status)
            assert status.tolist() == said(3, at=[1]) and [bool(n) for n in versions] == [True, False, True]
            assert store.read(ids[2]) == page(6)
            asyncio.run(store.read_many_async(ids, status=status))
            assert status.tolist() == said(3, at=[1])
            with pytest.raises(errors.PageNotFoundError):
                store.write_many(ids, page(6) * 3)
            status = np.empty(0, "u1")
            assert not len(store.write_many([], b"", status=status))


def test_pages_that_were_refused_in_an_epoch_that_has_ended():
    """They are tried again, and those that were refused in the present one are not."""
    status = np.full(4, 9, "u1")
    rest = Rest([10, 11, 12, 13], page(1) * 4, status)
    status[:] = [0, 45, 0, 45]  # as the first call says
    rest.note(np.array([1, 0, 1, 0], "u8"))
    assert rest.refuses
    rest.keep(False)
    assert rest.narrow() and rest.given[0].tolist() == [11] and len(rest.status) == 1
    rest.status[:] = 45
    rest.note(np.array([0], "u8"))
    assert rest.refuses
    rest.keep(True)
    assert rest.narrow() and rest.given[0].tolist() == [13]
    rest.note(np.array([4], "u8"))
    assert not rest.refuses and not rest.narrow()
    assert rest.ended().tolist() == [1, 0, 1, 4] and status.tolist() == [0, 45, 0, 0]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("call", ["read_many", "write_many"])
def test_locks_are_waited_for_once(store, call):
    """Each of them for itself would take two minutes."""
    ids, status = with_pages(store), np.empty(MANY, "u1")
    store._wait_for_others(2)
    with contextlib.ExitStack() as stack:
        for pid in ids[:60]:
            stack.enter_context(locked(store, pid))
        getattr(store, call)(ids, *([page(1) * MANY] if call == "write_many" else []), status=status)
    assert status.tolist() == said(MANY, PageStatus.LOCKED, range(60))


def test_a_page_that_is_damaged_at_one_copy_is_written(nodes):
    """By a client that has no hint of it."""
    with at_nodes(nodes) as address, client(address) as (cluster, _), client(address) as (other, _):
        with made(cluster) as store, other.store("s") as second:
            ids, status = with_pages(store, 3), np.empty(3, "u1")
            damage(store, ids[1])
            versions = second.write_many(ids, page(9) * 3, status=status)
            assert status.tolist() == said(3, at=[]) and (versions > 0).all()
            assert [number_of(raw) for raw in store.read_many(ids)] == [9, 9, 9]
        cluster.unlink("s")


def test_a_page_that_is_damaged_while_a_copy_is_away(nodes, cluster_name):
    """It can't be repaired; the others are read."""
    with process_that_serves(SECRET, "--grace", "0") as (process, at):
        address = where([nodes[0], at.removeprefix("tcp://")], cluster_name)
        with client(address, peer_timeout=2) as (cluster, _), made(cluster) as store:
            ids, status = with_pages(store, 3), np.empty(3, "u1")
            damage(store, ids[1])
            process.kill()
            process.wait()
            pages = store.read_many(ids, status=status)
            assert status.tolist() == said(3, PageStatus.CORRUPT, [1])
            assert [number_of(pages[i]) for i in (0, 2)] == [1, 3]


def test_a_doubt_is_of_the_page_that_was_not_refused():
    """Of two writes of one page the first was refused, and the second was made."""
    status = np.zeros(2, "u1")
    rest = Rest([10, 10], page(1) + page(2), status)
    rest.note(np.zeros(2, "u8"))
    status[0] = PageStatus.LOCKED
    doubt = np.zeros(1, DOUBT)
    doubt["pid"] = 10
    rest.found(doubt.tobytes(), 5)
    assert rest.versions.tolist() == [0, 5]


@pytest.mark.parametrize("status", [np.empty(3, "u8"), np.empty(1, "i8"), np.empty(7, "u1"), bytearray(9), [0] * 8])
def test_an_array_that_is_no_status(store, status):
    ids = with_pages(store, 8)
    with pytest.raises(errors.InvalidArgumentError):
        store.read_many(ids, status=status)
