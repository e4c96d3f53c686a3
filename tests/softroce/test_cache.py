"""The registration cache: long local buffers in NumPy's memory stay registered between ops, until the memory goes."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from numpy.typing import NDArray
from processes import FABRIC, SECRET

import dsmem
from dsmem import errors

PART = 64 << 10
WHOLE = 4 * PART


@pytest.fixture
def remote(owner: dsmem.Context, caller: dsmem.Context) -> Iterator[dsmem.Remote]:
    region = owner.allocate(WHOLE)
    np.asarray(region)[:] = np.arange(WHOLE, dtype="u4").view("u1")[:WHOLE]
    with caller.attach(region.descriptor) as remote:
        yield remote
    region.close()


def counts(context: dsmem.Context) -> tuple[int, int, int]:
    stats = context.stats
    return stats["cache_hits"], stats["cache_misses"], stats["cache_evicted"]


def content(remote: dsmem.Remote, offset: int, nbytes: int) -> bytes:
    return np.arange(WHOLE, dtype="u4").view("u1")[offset : offset + nbytes].tobytes()


def test_the_second_op_finds_it(caller: dsmem.Context, remote: dsmem.Remote) -> None:
    out = np.zeros(WHOLE, "u1")
    remote.read(0, out[:PART])
    remote.read(PART, out[:PART])
    assert counts(caller) == (1, 1, 0)
    assert out[:PART].tobytes() == content(remote, PART, PART)
    remote.read(0, out[PART : 2 * PART])  # outside of what is kept, so that the whole is kept from now on
    remote.read(0, out)
    remote.read(PART, memoryview(out)[PART:])
    assert counts(caller) == (3, 2, 0) and caller.stats["cache_bytes"] == WHOLE
    assert out.tobytes() == content(remote, 0, PART) + content(remote, PART, WHOLE - PART)
    remote.write(0, out.view("f8").reshape(-1, 8)[::2].copy())  # of another array
    assert counts(caller) == (3, 3, 0)


def test_of_all_ways_to_begin_an_op(caller: dsmem.Context, remote: dsmem.Remote) -> None:
    out = np.zeros(WHOLE, "u1")
    remote.read(0, out)
    with caller.batch() as batch:
        batch.read(remote, 0, out[:PART])
        batch.write(remote, 0, out[PART:])
    remote.read_many([0, PART], out[: 2 * PART])
    remote.write_many([0, 2 * PART], out[: 2 * PART])
    assert counts(caller) == (4, 1, 0)

    async def both() -> None:
        await asyncio.gather(remote.read_async(0, out), remote.write_async(0, out[:PART]))

    asyncio.run(both())
    assert counts(caller) == (6, 1, 0)
    remote.read_many([8 * i for i in range(100)], out[:800])  # in short pieces, which are copied
    assert counts(caller) == (6, 1, 0)


def test_memory_that_comes_back_at_the_same_address(caller: dsmem.Context, remote: dsmem.Remote) -> None:
    """It is other pages: a registration of the ones before would let the device write to those."""
    again = 0
    addresses = set()
    for i in range(20):
        array: NDArray[np.uint8] | None = np.empty(WHOLE, "u1")
        assert array is not None
        array[:] = i
        again += array.ctypes.data in addresses
        addresses.add(array.ctypes.data)
        remote.read(0, array[PART:])
        assert array[PART:].tobytes() == content(remote, 0, WHOLE - PART)
        assert counts(caller) == (0, i + 1, 0)
        array = None
        assert caller.stats["cache_bytes"] == 0
    assert again


def test_views_keep_it(caller: dsmem.Context, remote: dsmem.Remote) -> None:
    out = np.zeros(WHOLE, "u1")
    view = out[PART:]
    remote.read(0, out)
    del out
    gc.collect()
    remote.read(0, view)
    assert counts(caller) == (1, 1, 0)
    assert view.tobytes() == content(remote, 0, WHOLE - PART)


def test_other_buffers_are_registered_for_each_op(caller: dsmem.Context, remote: dsmem.Remote) -> None:
    """Nothing tells when they move: a bytearray that grows, for example."""
    buffer = bytearray(PART)
    for _ in range(3):
        remote.read(0, buffer)
        assert buffer == content(remote, 0, len(buffer))
        buffer.extend(bytes(PART))
    remote.write(0, bytes(PART))
    remote.read(0, np.frombuffer(bytearray(PART), "u1"))
    assert counts(caller) == (0, 0, 0)


def test_it_does_not_move_meanwhile(remote: dsmem.Remote) -> None:
    out = np.zeros(PART, "u1")
    remote.read(0, out)
    with pytest.raises(ValueError, match="resize"):
        out.resize(2 * PART, refcheck=False)


def test_bounded(owner: dsmem.Context) -> None:
    with ExitStack() as stack:
        region = stack.enter_context(owner.allocate(WHOLE))
        for limit, expected in ((2 * PART, (2, 3, 1)), (PART - 1, (0, 0, 0)), (0, (0, 0, 0))):
            caller = dsmem.Context(FABRIC, secret=SECRET, listen="127.0.0.1", registration_cache=limit)
            stack.enter_context(caller)
            remote = stack.enter_context(caller.attach(region.descriptor))
            arrays = [np.zeros(PART, "u1") for _ in range(3)]
            for i in (0, 1, 0, 2, 0):  # the last but one takes the place of the second
                remote.read(0, arrays[i])
            assert counts(caller) == expected
    for wrong in (-1, 1.5, "1", 1 << 70):
        with pytest.raises(errors.InvalidArgumentError, match="registration_cache"):
            dsmem.Context(FABRIC, secret=SECRET, registration_cache=wrong)  # type: ignore[arg-type]


def test_a_batch_that_is_filled_after_the_close(owner: dsmem.Context) -> None:
    region = owner.allocate(PART)
    out = np.zeros(PART, "u1")
    caller = dsmem.Context(FABRIC, secret=SECRET, listen="127.0.0.1")
    remote = caller.attach(region.descriptor)
    batch = caller.batch()
    batch.read(remote, 0, out)
    caller.close()
    batch.read(remote, 0, out)
    with pytest.raises(errors.ClosedError), batch:
        pass
    region.close()


def test_an_array_that_gets_other_memory(caller: dsmem.Context, remote: dsmem.Remote) -> None:
    out = np.zeros(PART, "u1")
    remote.read(0, out)
    out.__setstate__((1, (PART // 2,), np.dtype(">u4"), False, bytes(2 * PART)))  # swapped, so that they are copied
    assert out.flags.owndata
    remote.read(PART, out.view("u1"))
    assert out.tobytes() == content(remote, PART, 2 * PART)
    assert counts(caller)[:2] == (0, 2) and caller.stats["cache_bytes"] == 2 * PART


def test_what_lies_where_an_array_has_lost_its_memory(caller: dsmem.Context, remote: dsmem.Remote) -> None:
    """Nothing has told that the memory was freed: what is there now is other pages."""
    out = np.zeros(PART, "u1")
    remote.read(0, out)
    there = (ctypes.c_char * PART).from_address(out.ctypes.data)
    assert counts(caller)[:2] == (0, 1) and caller.stats["cache_bytes"] == PART
    remote.read(PART, there)
    assert bytes(there) == content(remote, PART, PART) and caller.stats["cache_bytes"] == 0
    remote.read(0, out)
    assert out.tobytes() == content(remote, 0, PART)


def test_an_array_that_outlives_the_context(owner: dsmem.Context) -> None:
    region = owner.allocate(PART)
    out = np.zeros(PART, "u1")
    with dsmem.Context(FABRIC, secret=SECRET, listen="127.0.0.1") as caller:
        with caller.attach(region.descriptor) as remote:
            remote.read(0, out)
    out.resize(2 * PART, refcheck=False)  # nothing keeps it in place any more
    region.close()


def test_threads(caller: dsmem.Context, remote: dsmem.Remote) -> None:
    """Some come to an array at the same time, others let theirs go."""
    shared = np.zeros(WHOLE, "u1")
    wrong = []

    def work(i: int) -> None:
        part = shared[i * PART : (i + 1) * PART]
        for n in range(10):
            own = np.zeros(PART, "u1")
            for out, offset in ((part, n * 8), (own, i * PART)):
                remote.read(offset, out)
                if out.tobytes() != content(remote, offset, PART):
                    wrong.append((i, n))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    hits, misses, evicted = counts(caller)
    assert hits + misses == 80 and misses >= 41 and not evicted


def test_a_child(caller: dsmem.Context, remote: dsmem.Remote) -> None:
    """It has the array, and may let it go; the parent's registration stays."""
    out = np.full(PART, 7, "u1")
    remote.write(0, out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: the process has threads
        child = os.fork()
    if child == 0:
        whole = bool((out == 7).all())
        with contextlib.suppress(errors.ForkError):
            caller.allocate(1)  # a call of the parent's context in the child
        del out
        gc.collect()
        os._exit(0 if whole else 1)
    out[:] = 8  # while the child is there: the page must not become a copy that the device does not see
    remote.write(0, out)
    back = np.zeros(PART, "u1")
    remote.read(0, back)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (back == 8).all() and counts(caller) == (1, 2, 0)
