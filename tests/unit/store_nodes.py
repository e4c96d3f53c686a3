"""What tests of stores with copies share: memory nodes, each a `dsmem serve`, and a look at what they have."""

import contextlib
import struct
import time

from names_server import process_that_serves
from paging import SIZE

import dsmem
from dsmem.names import copies

SECRET = b"c0b1e" * 12 + b"c0b1"
SECONDS = 60
PROPERTIES = {"page_size": SIZE, "capacity": 100 * SIZE, "members": 8}


@contextlib.contextmanager
def three_nodes():
    """HOST:PORT of three memory nodes, which fence at once those that are cut off."""
    with contextlib.ExitStack() as stack:
        served = [stack.enter_context(process_that_serves(SECRET, "--grace", "0"))[1] for _ in range(3)]
        yield [at.removeprefix("tcp://") for at in served]


def where(nodes, name):
    return f"tcp://{','.join(nodes)}/{name}"


@contextlib.contextmanager
def client(address, fabric="tcp", peer_timeout=SECONDS):
    """A cluster of its own, and the context of its ops."""
    with dsmem.Context(fabric, secret=SECRET, listen="127.0.0.1", peer_timeout=peer_timeout) as own:
        with dsmem.connect(address, context=own) as cluster:
            yield cluster, own


def made(cluster, replicas=2, **more):
    return cluster.store("s", create=True, replicas=replicas, **{**PROPERTIES, **more})


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
    """All bytes of a copy, read through its own node."""
    with cluster._names.node(copy).attach(copies.copy_name("s", copy), "store", True) as memory:
        raw = bytearray(memory.nbytes)
        memory.remote.read(0, raw)
        return bytes(raw)


def heads(raw):
    """Those of all pages, and where the frames are: docs/protocols/pages.md."""
    (slots,), (pages, frames, chunks) = struct.unpack_from("<I", raw, 68), struct.unpack_from("<QQQ", raw, 72)
    at = -(-(192 + 16 * slots + 8 * chunks) // 64) * 64
    return struct.unpack_from(f"<{pages}Q", raw, at), frames


def is_locked(head):
    return head >> 52 not in (0, 4094, 4095)


def check_equal(cluster, replicas):
    """The copies have the same heads, none of which is locked, and the same frames where a head names one."""
    images = [image(cluster, copy) for copy in range(replicas)]
    first, frames = heads(images[0])
    assert all(heads(raw) == (first, frames) for raw in images)
    for head in first:
        assert not is_locked(head)
        if not head >> 52:
            at = frames + (head & 0xFFFFFF) * (64 + SIZE)
            assert len({raw[at : at + 64 + SIZE] for raw in images}) == 1
