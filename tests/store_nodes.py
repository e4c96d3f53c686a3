"""What tests of stores with copies share: memory nodes, each a `dsmem serve`, and a look at what they have."""

import contextlib
import os
import struct
import time

import clusters
import pytest
from names_server import process_that_serves
from paging import SIZE

import dsmem
from dsmem import _core
from dsmem.names import copies

#: Of the nodes and their clients; tests/modeldev/test_suites.py names another one.
FABRIC = os.environ.get("DSMEM_TEST_NODES", "tcp")
SECRET = b"c0b1e" * 12 + b"c0b1"
SECONDS = 60
NUMBERS = 2**40 - 1  # of a page id: the number of the page
VERSIONS = 2**28 - 1  # of a version: what a head has of it
PROPERTIES = {"page_size": SIZE, "capacity": 100 * SIZE, "members": 8}


@contextlib.contextmanager
def three_nodes():
    """HOST:PORT of three memory nodes, which fence at once those that are cut off."""
    with contextlib.ExitStack() as stack:
        served = [
            stack.enter_context(process_that_serves(SECRET, "--grace", "0", "--fabric", FABRIC))[1] for _ in range(3)
        ]
        yield [at.removeprefix("tcp://") for at in served]


@pytest.fixture(scope="module")
def nodes():
    """Three memory nodes of a module. It takes a fixture by an assignment: ``nodes = store_nodes.nodes``."""
    with three_nodes() as found:
        yield found


@pytest.fixture
def cluster(nodes, cluster_name):
    """A cluster of the test's own there."""
    with client(where(nodes, cluster_name)) as (found, _):
        yield found


def where(nodes, name):
    return f"tcp://{','.join(nodes)}/{name}"


@contextlib.contextmanager
def at_nodes(nodes):
    """The address of a cluster of its own there."""
    with clusters.of_its_own() as name:
        yield where(nodes, name)


@contextlib.contextmanager
def client(address, fabric=FABRIC, peer_timeout=SECONDS):
    """A cluster of its own, and the context of its ops."""
    with dsmem.Context(fabric, secret=SECRET, listen="127.0.0.1", peer_timeout=peer_timeout) as own:
        with dsmem.connect(address, context=own) as cluster:
            yield cluster, own


def made(cluster, replicas=2, **more):
    return cluster.store("s", create=True, replicas=replicas, **{**PROPERTIES, **more})


@contextlib.contextmanager
def store_of(*remotes):
    """The core's handle, of these copies."""
    store = _core.Store(remotes)
    try:
        yield store
    finally:
        store.close()


def eventually(call, *passing):
    """Until it does not raise one of these."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            return call()
        except passing:
            if time.monotonic() > end:
                raise
        time.sleep(0.01)


def image(cluster, copy):
    """All bytes of a copy, read through its own node: its number, or its place in a store of several extents."""
    place = copies.Place(0, copy, copy) if isinstance(copy, int) else copy
    with cluster._names.node(place.node).attach(place.called("s"), "store", True) as memory:
        raw = bytearray(memory.nbytes)
        memory.remote.read(0, raw)
        return bytes(raw)


def heads_at(raw):
    """Where the heads are: docs/protocols/pages.md."""
    (slots,), (chunks,) = struct.unpack_from("<I", raw, 68), struct.unpack_from("<Q", raw, 88)
    return -(-(192 + 16 * slots + 8 * chunks) // 64) * 64


def heads(raw):
    """Those of all pages, and where the frames are: docs/protocols/pages.md."""
    pages, frames = struct.unpack_from("<QQ", raw, 72)
    return struct.unpack_from(f"<{pages}Q", raw, heads_at(raw)), frames


def is_locked(head):
    return head >> 52 not in (0, 4094, 4095)


def check_equal(cluster, replicas, extents=1):
    """The copies have the same heads, none of which is locked, and the same frames where a head names one."""
    places = copies.places(replicas, extents, cluster._names.nodes)
    for extent in range(extents):
        check_equal_copies([image(cluster, place) for place in places if place.extent == extent])


def check_equal_copies(images):
    """Frames are as long as the copies say, and the one that a head names is of that page and version."""
    first, frames = heads(images[0])
    assert all(heads(raw) == (first, frames) for raw in images)
    (nbytes,), (extents, extent) = struct.unpack_from("<I", images[0], 64), struct.unpack_from("<HH", images[0], 116)
    for index, head in enumerate(first):
        assert not is_locked(head)
        if not head >> 52:
            number = index * max(extents, 1) + extent
            at = frames + (head & 0xFFFFFF) * (64 + nbytes)
            found = [raw[at : at + 64 + nbytes] for raw in images]
            said = f"page {number}, head {head:#x}: {[struct.unpack('<8Q', raw[:64]) for raw in found]}"
            assert len(set(found)) == 1, said
            pid, version = struct.unpack_from("<QQ", found[0])
            assert (pid & NUMBERS, version & VERSIONS) == (number, head >> 24 & VERSIONS), said
