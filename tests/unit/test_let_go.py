"""A call lets go what it was given, also where it fails; and what is opened and closed many times leaves nothing."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys

import numpy as np
import pytest

import dsmem
from dsmem import errors

SECRET = b"let go" * 6


@pytest.fixture(params=["shm", "fault+shm"])
def pair(request):
    """A region of 4096 bytes, and a remote on it."""
    with dsmem.Context("shm", secret=SECRET) as owner, dsmem.Context(request.param, secret=SECRET) as user:
        with owner.allocate(4096) as region, user.attach(region.descriptor) as remote:
            yield region, remote


def free(buffer):
    """Whether nothing exports it: a bytearray with exports can't change its length."""
    try:
        buffer.extend(b"more")
    except BufferError:
        return False
    return True


def in_batch(remote, offset, buffer, op):
    with remote.context.batch() as batch:
        getattr(batch, op)(remote, offset, buffer)


def of_many(remote, offset, buffer, op):
    with remote.context.pool(4096) as pool, remote.context.attach_many(pool.allocate_many([4096])) as remotes:
        getattr(remotes, op)([0], [offset], memoryview(buffer))


CALLS = {
    "read": lambda r, at, b: r.read(at, b),
    "write": lambda r, at, b: r.write(at, b),
    "read_many": lambda r, at, b: r.read_many(np.array([at], "u8"), memoryview(b).cast("B", (1, len(b)))),
    "write_many": lambda r, at, b: r.write_many(np.array([at], "u8"), memoryview(b).cast("B", (1, len(b)))),
    "remotes.read_many": lambda r, at, b: of_many(r, at, b, "read_many"),
    "remotes.write_many": lambda r, at, b: of_many(r, at, b, "write_many"),
    "batch.read": lambda r, at, b: in_batch(r, at, b, "read"),
    "batch.write": lambda r, at, b: in_batch(r, at, b, "write"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("offset", "good"), [(8, True), (4090, False), (-1, False)])
def test_buffers_of_remotes(pair, call, offset, good):
    buffer = bytearray(16)
    if good:
        CALLS[call](pair[1], offset, buffer)
    else:
        with pytest.raises((errors.DsmemError, OverflowError)):
            CALLS[call](pair[1], offset, buffer)
    assert free(buffer)


@pytest.mark.parametrize("offset", [8, 4090])
async def test_buffers_of_tasks(pair, offset):
    for op in ("read_async", "write_async"):
        buffer = bytearray(16)
        try:
            await getattr(pair[1], op)(offset, buffer)
        except errors.DsmemError:
            assert offset == 4090
        assert free(buffer)


def test_buffers_of_objects(cluster):
    buffer = bytearray(16)
    with (
        cluster.segment("s", (16,), "u1", create=True) as segment,
        cluster.queue("q", max_message=64, create=True) as queue,
    ):
        segment.write(slice(None), buffer)
        segment.read(slice(None), out=buffer)
        with pytest.raises(errors.DsmemError):
            segment.write(slice(0, 3), buffer)
        queue.put(buffer)
        queue.put_many([buffer, buffer])
        with pytest.raises(errors.DsmemError):
            queue.put(bytearray(1000))
    assert free(buffer)


class Info(ctypes.Structure):
    """struct mallinfo2, of which uordblks counts the bytes that were given out."""

    _fields_ = [("before", ctypes.c_size_t * 7), ("uordblks", ctypes.c_size_t), ("behind", ctypes.c_size_t * 2)]


def used():
    gc.collect()
    info = ctypes.CDLL(None).mallinfo2
    info.restype = Info
    return sys.getallocatedblocks(), info().uordblks


def grows(scene, times=100):
    """Pieces of memory of Python's, and bytes of C's, per call; at the best of some times, since caches grow, too."""
    found = []
    for _ in range(4):
        blocks, nbytes = used()
        for _ in range(times):
            scene()
        more_blocks, more_bytes = used()
        found.append(((more_blocks - blocks) / times, (more_bytes - nbytes) / times))
    return min(blocks for blocks, _ in found), min(nbytes for _, nbytes in found)


def check(scene):
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("this C library does not count its memory")
    blocks, nbytes = grows(scene)
    assert blocks < 0.5 and nbytes < 16


def test_what_grows_is_seen():
    kept = []
    with pytest.raises(AssertionError):
        check(lambda: kept.append(bytearray(1000)))


def test_batches_leave_nothing(pair):
    _, remote = pair
    out = bytearray(8)

    def scene():
        with remote.context.batch() as batch:
            for _ in range(200):
                batch.read(remote, 0, out)

    check(scene)


def test_memory_leaves_nothing(pair):
    owner, user = pair[0].context, pair[1].context

    def scene():
        with owner.allocate(64) as region, user.attach(region.descriptor) as remote:
            remote.fetch_add(0, 1)
            memoryview(region).release()

    check(scene)


@pytest.mark.parametrize(
    ("kind", "arguments", "options"),
    [
        ("segment", ((4,), "u8"), {}),
        ("semaphore", (2,), {}),
        ("semaphore", (2,), {"owned": False}),
        ("barrier", (1,), {}),
        *((kind, (), {}) for kind in ("queue", "lock", "rlock", "rwlock", "event", "condition", "once", "clock")),
    ],
)
def test_handles_leave_nothing(here, kind, arguments, options):
    with contextlib.closing(getattr(here, kind)(kind, *arguments, create=True, **options)) as made:

        def scene():
            with contextlib.closing(dsmem.attach(made.ref)) as handle:
                repr(handle)

        check(scene)
