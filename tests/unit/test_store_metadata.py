"""What a page of a store says of its last change: on each fabric, with one copy and several, of tasks, in epochs."""

from __future__ import annotations

import contextlib
import time

import pytest
import store_nodes
from epochs import together
from paging import SIZE, page
from store_nodes import client, made, where

from dsmem import errors
from dsmem.store import PageMetadata

nodes = store_nodes.nodes
PROPERTIES = {"page_size": SIZE, "capacity": 100 * SIZE, "members": 8}
CLOCKS = 0.1  # seconds; a page has the time of the kernel's last tick
COMMITTED = 2  # state of a transaction's word: docs/protocols/commit.md


@pytest.fixture
def store(cluster):
    with cluster.store("s", create=True, **PROPERTIES) as made:
        yield made


def write_together(store, *pids):
    with store.transaction() as tx:
        for pid in pids:
            tx.write(pid, page(3))


def check_changes(store):
    """Of every kind of change, and what a page says of it. Returns the pages of a transaction."""
    pid, more = store.allocate_many(2).tolist()
    assert store.metadata(pid) == (store.version(pid), None, None, None, None)
    before = time.time()
    version = store.write(pid, page(1))
    said = store.metadata(pid)
    assert type(said) is PageMetadata and said.version == version and said.transaction is None
    assert before - CLOCKS <= said.time <= time.time() + CLOCKS
    version = store.compare_write(pid, version, page(2))
    again = store.metadata(pid)
    assert (again.version, again.slot, again.epoch, again.transaction) == (version, said.slot, said.epoch, None)
    write_together(store, pid, more)
    first, second = store.metadata(pid), store.metadata(more)
    assert first.version == version + 1 and first.transaction and first.slot == said.slot
    assert first[1:] == second[1:]
    write_together(store, more)
    assert store.metadata(more).transaction > first.transaction
    store.write_many([more], page(4))
    assert store.metadata(more).transaction is None and store.metadata(pid) == first
    return pid, more


# ---- each fabric ----


def test_what_a_page_says(store):
    check_changes(store)


def test_another_client_sees_the_same(store, other):
    """Of a page that it has not seen before, of one that it has, and of one that has changed since."""
    pid, more = check_changes(store)
    with other(store) as second:
        for each in (pid, more, pid):
            assert second.metadata(each) == store.metadata(each)
        assert second.read(pid) == page(3) and second.metadata(pid) == store.metadata(pid)
        before = store.metadata(pid)
        version = second.write(pid, page(5))
        after = store.metadata(pid)
        assert after == second.metadata(pid) and after.version == version and after.time >= before.time - CLOCKS
        assert after.slot != before.slot and after.transaction is None


def test_of_a_page_that_is_freed_and_allocated_again(store):
    """An empty page says nothing of its life before, though the client knows the frame of that."""
    ids = store.allocate_many(100).tolist()
    store.write_many(ids, page(1) * 100)
    for pid in ids:
        store.free(pid)
        with pytest.raises(errors.PageNotFoundError):
            store.metadata(pid)
    for pid in store.allocate_many(100).tolist():
        assert store.metadata(pid) == PageMetadata(store.version(pid), None, None, None, None)


@pytest.mark.parametrize("pid", [0, 1, (1 << 40) + 100, (1 << 64) - 1])
def test_a_page_that_is_not_there(store, pid):
    with pytest.raises(errors.PageNotFoundError):
        store.metadata(pid)


@pytest.mark.parametrize("pid", [None, "1", 1.5, -1, 1 << 64])
def test_what_is_no_id(store, pid):
    with pytest.raises(errors.InvalidArgumentError, match="no page id; pass what allocate"):
        store.metadata(pid)


def test_a_store_that_is_closed(store):
    pid = store.allocate()
    store.close()
    with pytest.raises(errors.ClosedError):
        store.metadata(pid)


def test_it_counts_as_a_look_at_the_version(store):
    store.metadata(store.allocate())
    assert store.counts["version"] == 1


async def test_of_tasks(store):
    pid = await store.allocate_async()
    assert await store.metadata_async(pid) == store.metadata(pid)
    await store.write_async(pid, page(1))
    assert await store.metadata_async(pid) == store.metadata(pid) != (None,) * 5
    await store.free_async(pid)
    with pytest.raises(errors.PageNotFoundError):
        await store.metadata_async(pid)


@pytest.mark.parametrize("number", [2**31 - 1, 2**31, 2**32 - 1, 2**32])
def test_a_great_number_of_a_transaction(store, other, number):
    """Its lower bits stay apart from the mark of a single write; a conflict names it by the same number."""
    words = 192 + 8 * PROPERTIES["members"]
    assert store._memory.remote.compare_swap(words + 8, 0, number - 1 << 2 | COMMITTED) == 0
    with other(store) as second:
        pid = store.allocate()
        write_together(second, pid)
        said = store.metadata(pid)
        assert said.slot == 1 and said.transaction == number % 2**31
        store.write(pid, page(1))
        with pytest.raises(errors.ConflictError) as found, store.transaction() as tx:
            tx.read(pid)
            write_together(second, pid)
            tx.write(pid, page(2))
        if store._memory.remote.is_mapped:
            assert f"by transaction {(number + 1) % 2**31} of the client in slot 1" in found.value.detail


# ---- memory that was overwritten ----


@pytest.mark.parametrize("at", [8, 16, 31], ids=["version", "writer", "time"])
def test_a_header_that_was_overwritten(store, at):
    pid = store.allocate()
    store.write(pid, page(1))
    raw = bytearray(store._memory.nbytes)
    store._memory.remote.read(0, raw)
    frame = raw.index(page(1)) - 64
    store._memory.remote.write(frame + at, bytes([raw[frame + at] ^ 1]))
    with pytest.raises(errors.CorruptError):
        store.metadata(pid)


# ---- several nodes ----


@pytest.mark.parametrize(("replicas", "extents"), [(1, 1), (2, 1), (3, 1), (1, 3), (2, 3)])
def test_copies_and_extents(nodes, cluster_name, replicas, extents):
    with contextlib.ExitStack() as stack:
        cluster, own = stack.enter_context(client(where(nodes, cluster_name)))
        second, _ = stack.enter_context(client(where(nodes, cluster_name)))
        with made(cluster, replicas, extents=extents) as store, second.store("s") as same:
            pages = check_changes(store)
            assert [same.metadata(pid) for pid in pages] == [store.metadata(pid) for pid in pages]
            before = own.stats["doorbells"]
            store.metadata(pages[0])
            assert own.stats["doorbells"] == before + 1
        cluster.unlink("s")


async def test_a_store_of_a_coordinator(tmp_path):
    """What was written in an epoch before says so, also where its frame was copied since."""
    with together(tmp_path, 2) as where, where.client() as cluster:
        with cluster.store("db", create=True, replicas=2, **PROPERTIES) as store:
            pid, more = check_changes(store)
            before = store.metadata(pid)
            assert before.epoch == store.health()["epoch"] == 1
            where.node_of(store, 0).kill()
            assert store.metadata(pid) == await store.metadata_async(pid) == before
            store.write(more, page(7))
            said = store.metadata(more)
            assert said.epoch == store.health()["epoch"] > 1 and said.transaction is None
            write_together(store, more)
            assert store.metadata(more)[1:3] == (said.slot, said.epoch) and store.metadata(more).transaction
            with pytest.raises(errors.PageNotFoundError):
                await store.metadata_async(1)
