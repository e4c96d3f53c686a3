"""What an exception says of the client that is in the way: on this host, and at a memory node."""

import contextlib
import multiprocessing
import struct

import pytest
import store_nodes
from paging import page
from store_nodes import NUMBERS, PROPERTIES, VERSIONS, client, heads, heads_at, where

import dsmem
from dsmem import errors

nodes = store_nodes.nodes
spawn = multiprocessing.get_context("spawn")
HERE, SERVED = "here", "served"
WAITS = 1.0  # seconds for a page that stays locked: a server is asked about its client after 20 ms, and may be slow


@contextlib.contextmanager
def connected(place):
    with dsmem.connect(place) if "//" not in place else client(place) as found:
        yield found if "//" not in place else found[0]


def obey(place, ends):
    """Another client: it writes the page that it is told to."""
    with connected(place) as cluster, cluster.store("s") as store:
        while (told := ends.recv()) is not None:
            pid, in_transaction = told
            if in_transaction:
                store.run(lambda tx, pid=pid: tx.write(pid, page(3)))
            else:
                store.write(pid, page(2))
            ends.send(True)


class Other:
    """The process of another client."""

    def __init__(self, place):
        self._ends, theirs = spawn.Pipe()
        self.process = spawn.Process(target=obey, args=(place, theirs))
        self.process.start()
        theirs.close()

    def write(self, pid, in_transaction=False):
        self._ends.send((pid, in_transaction))
        assert self._ends.recv()

    def end(self):
        self._ends.send(None)
        self.process.join()


@pytest.fixture(params=[HERE, SERVED])
def place(request, cluster_name):
    if request.param == HERE:
        return cluster_name
    return where(request.getfixturevalue("nodes")[:1], cluster_name)


@pytest.fixture
def store(place):
    with connected(place) as cluster:
        with cluster.store("s", create=True, **PROPERTIES) as made:
            yield made
        cluster.unlink("s")


@pytest.fixture
def other(place, store):
    made = Other(place)
    try:
        yield made
    finally:
        made.end()


def image(store):
    raw = bytearray(store._memory.nbytes)
    store._memory.remote.read(0, raw)
    return bytes(raw)


def writer_of(store, pid):
    """Slot in the frame of a page, and mark of the client or number of its transaction: docs/protocols/pages.md."""
    raw = image(store)
    found, frames = heads(raw)
    frame = frames + (found[pid & NUMBERS] & 0xFFFFFF) * (64 + PROPERTIES["page_size"])
    (writer,) = struct.unpack_from("<Q", raw, frame + 16)
    return (writer >> 52) - 1, writer & 0x7FFFFFFF


@contextlib.contextmanager
def locked(store, pid, slot, mark):
    """The page is locked by this client, as it is in its commit."""
    remote, raw = store._memory.remote, image(store)
    at, was = heads_at(raw) + 8 * (pid & NUMBERS), heads(raw)[0][pid & NUMBERS]
    lock = 2048 + slot + 1 << 52 | was & VERSIONS << 24 | mark
    assert remote.compare_swap(at, was, lock) == was
    yield
    assert remote.compare_swap(at, lock, was) == lock


def is_called(other, place):
    return f"process {other.process.pid}" if "//" not in place else "a process that is connected from elsewhere"


@pytest.mark.parametrize("call", ["read", "write", "free", "run", "snapshot"])
def test_a_client_that_is_stopped_in_a_commit_is_named(store, other, place, call):
    store._wait_for_others(WAITS)
    pid = store.allocate()
    other.write(pid)
    calls = {
        "read": lambda: store.read(pid),
        "write": lambda: store.write(pid, page(1)),
        "free": lambda: store.free(pid),
        "run": lambda: store.run(lambda tx: tx.read(pid), timeout=WAITS),
        "snapshot": lambda: store.snapshot([pid], timeout=WAITS),
    }
    with locked(store, pid, *writer_of(store, pid)):
        with pytest.raises(errors.BusyError, match=f"page {pid} is being changed .*: {is_called(other, place)}"):
            calls[call]()


def test_a_client_that_has_gone_is_not_named(store, other):
    """Its slot is another one's, whose mark is not that of the lock."""
    store._wait_for_others(WAITS)
    pid = store.allocate()
    other.write(pid)
    slot, mark = writer_of(store, pid)
    with locked(store, pid, slot, mark ^ 1), pytest.raises(errors.BusyError, match=r"or end it$"):
        store.read(pid)


# ---- conflicts ----


def conflict_of(store, pid, change):
    """The text of a transaction that has read the page before the change, and the page that it names."""
    with pytest.raises(errors.ConflictError) as found, store.transaction() as tx:
        tx.read(pid)
        change()
        tx.write(pid, page(9))
    assert found.value.page == pid and len(found.value.detail) <= 200
    return found.value.detail


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_conflict_names_the_versions_and_the_other_transaction(store, other, place, in_transaction):
    pid = store.allocate()
    before = store.write(pid, page(1))
    text = conflict_of(store, pid, lambda: other.write(pid, in_transaction))
    slot, number = writer_of(store, pid)
    whose = f"transaction {number}" if in_transaction else "a write"
    at_place = "" if "//" in place else f", by {whose} of the client in slot {slot}"
    assert text == f"page {pid} has changed: version {before} was seen, {before + 1} is there{at_place}"


def test_a_conflict_of_a_page_that_was_only_read(store, other):
    """It is found before the commit, where memory is mapped."""
    pid, more = store.allocate_many(2).tolist()
    before = store.write(pid, page(1))
    with pytest.raises(errors.ConflictError) as found, store.transaction() as tx:
        tx.read(pid)
        other.write(pid)
        tx.read(more)
        tx.read(pid)
    assert found.value.page == pid
    assert f"version {before} was seen, {before + 1} is there" in found.value.detail


def test_a_conflict_with_a_page_that_was_freed(store):
    pid = store.allocate()
    version = store.write(pid, page(1))
    assert conflict_of(store, pid, lambda: store.free(pid)) == f"page {pid} was freed; version {version} was seen"


def test_a_conflict_with_a_lock_names_the_slot(store, other):
    pid = store.allocate()
    other.write(pid)
    slot, mark = writer_of(store, pid)
    with contextlib.ExitStack() as stack:
        text = conflict_of(store, pid, lambda: stack.enter_context(locked(store, pid, slot, mark)))
    assert text == f"page {pid} is being changed by a transaction of the client in slot {slot}"
