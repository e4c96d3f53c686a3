"""Effects of ops: single, in batches, many at once, and with asyncio."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

import dsmem
from dsmem import errors

from .fixtures import open_context, some_bytes


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 4096, 8191, 8192])
def test_write_then_read(region: dsmem.Region, remote: dsmem.Remote, n: int) -> None:
    data, out = some_bytes(n), np.zeros(n, np.uint8)
    offset = 8192 - n
    remote.write(offset, data)
    remote.read(offset, out)
    assert np.array_equal(out, data)
    assert np.array_equal(region.array("u1")[offset:], data)
    assert not region.array("u1")[:offset].any()


def test_large_transfer(owner: dsmem.Context, peer: dsmem.Context) -> None:
    n = (3 << 20) + 5
    data, out = some_bytes(n), np.zeros(n, np.uint8)
    with owner.allocate(n) as region, peer.attach(region.descriptor) as remote:
        remote.write(0, data)
        remote.read(0, out)
    assert np.array_equal(out, data)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(35.0).reshape(5, 7),
        np.asfortranarray(np.arange(6, dtype="u2").reshape(2, 3)),
        np.arange(10)[::-2],
        np.array(7, ">i4"),
        np.array([(1, 2.5)], [("n", "i4"), ("x", "f8")]),
        [1, 2, 3],
        b"bytes",
    ],
    ids=["matrix", "fortran", "strides", "scalar", "structured", "list", "bytes"],
)
def test_an_array_that_exists(owner: dsmem.Context, peer: dsmem.Context, array: Any) -> None:
    """An array in private memory, on every fabric: share a copy, or allocate a region like it."""
    expected = np.frombuffer(array, "u1") if isinstance(array, bytes) else np.asarray(array)
    with owner.copy(array) as region, peer.attach(region.descriptor) as remote:
        own, out = region.array(), np.empty(expected.shape, expected.dtype)
        assert (own.shape, own.dtype) == (expected.shape, expected.dtype)
        remote.read(0, out)
        assert np.array_equal(out, expected) and np.array_equal(own, expected)
        del own
    with owner.empty_like(array, access="r") as region, peer.attach(region.descriptor) as remote:
        own = region.array()
        assert (own.shape, own.dtype) == (expected.shape, expected.dtype) and not own.tobytes().strip(b"\0")
        own[...] = expected
        remote.read(0, out)
        assert np.array_equal(out, expected)
        with pytest.raises(errors.AccessDeniedError):
            remote.write(0, out)
        del own


@pytest.mark.parametrize("what", [np.array([None]), np.empty(0), [[1], [1, 2]], object()])
def test_what_is_no_array_to_share(owner: dsmem.Context, what: Any) -> None:
    for make in (owner.copy, owner.empty_like):
        with pytest.raises(errors.InvalidArgumentError):
            make(what)


def test_fetch_add_wraps(remote: dsmem.Remote) -> None:
    assert remote.fetch_add(8, 5) == 0
    assert remote.fetch_add(8, -6) == 5
    assert remote.fetch_add(8, 1) == (1 << 64) - 1
    assert remote.fetch_add(8, 0) == 0


def test_compare_swap(remote: dsmem.Remote) -> None:
    assert remote.compare_swap(16, 0, 7) == 0
    assert remote.compare_swap(16, 0, 9) == 7
    assert remote.compare_swap(16, 7, 1 << 63) == 7
    assert remote.fetch_add(16, 0) == 1 << 63


def test_many(region: dsmem.Region, remote: dsmem.Remote) -> None:
    offsets = np.random.default_rng(2).permutation(8192 // 16)[:300].astype(np.uint64) * 16
    data = some_bytes(300 * 16).reshape(300, 16)
    remote.write_many(offsets, data)
    out = np.zeros_like(data)
    remote.read_many(offsets, out)
    assert np.array_equal(out, data)
    assert np.array_equal(region.array("u1").reshape(-1, 16)[offsets // 16], data)


def test_many_of_none(remote: dsmem.Remote) -> None:
    remote.read_many([], bytearray())


def test_batch_of_all_ops(peer: dsmem.Context, remote: dsmem.Remote) -> None:
    out = bytearray(4)
    with peer.batch() as b:
        b.write(remote, 64, b"abcd")
        b.read(remote, 64, out)
        old = b.fetch_add(remote, 0, 3)
        found = b.compare_swap(remote, 0, 3, 4, fence=True)
    assert (bytes(out), old.value, found.value) == (b"abcd", 0, 3)
    assert remote.fetch_add(0, 0) == 4


def test_batch_to_many_peers(fabric: str, peer: dsmem.Context) -> None:
    owners = [open_context(fabric) for _ in range(10)]
    try:
        regions = [o.allocate(64) for o in owners]
        remotes = [peer.attach(r.descriptor) for r in regions]
        with peer.batch() as b:
            results = [b.fetch_add(r, 8, i) for _ in range(3) for i, r in enumerate(remotes)]
        assert [r.value for r in results] == [k * i for k in range(3) for i in range(10)]
        for remote in remotes:
            remote.close()
    finally:
        for o in owners:
            o.close()


def test_long_batch(peer: dsmem.Context, remote: dsmem.Remote) -> None:
    with peer.batch() as b:
        results = [b.fetch_add(remote, 0, 1) for _ in range(1000)]
    assert [r.value for r in results] == list(range(1000))


def test_batch_is_refused_whole(peer: dsmem.Context, region: dsmem.Region, remote: dsmem.Remote) -> None:
    with pytest.raises(errors.OutOfBoundsError), peer.batch() as b:
        b.write(remote, 0, b"x")
        b.write(remote, 8192, b"x")
    assert not region.array("u1").any()


def test_batch_left_by_an_exception_does_nothing(
    peer: dsmem.Context, region: dsmem.Region, remote: dsmem.Remote
) -> None:
    with pytest.raises(KeyError), peer.batch() as b:
        b.write(remote, 0, b"x")
        raise KeyError
    assert not region.array("u1").any()


def test_long_ops_and_short_ones_have_one_order(owner: dsmem.Context, peer: dsmem.Context) -> None:
    """Long reads and writes may go by another way than atomics."""
    n = 1 << 18
    with owner.allocate(n) as region, peer.attach(region.descriptor) as remote:
        out = np.zeros(n - 64, np.uint8)
        for i in range(5):
            data = some_bytes(n - 64, i)
            remote.write(64, data)
            remote.write(4096, bytes([i] * 24))
            assert remote.fetch_add(0, 1) == 2 * i
            remote.read(64, out)
            data[4096 - 64 : 4096 - 40] = i
            assert np.array_equal(out, data)
            data, seen = np.roll(data, 5), np.zeros(16, np.uint8)
            with peer.batch() as b:
                b.write(remote, 64, data)
                old = b.fetch_add(remote, 0, 1)
                b.read(remote, n - 16, seen)
            assert old.value == 2 * i + 1 and np.array_equal(seen, data[-16:])
            remote.read(64, out)
            assert np.array_equal(out, data)


def test_owner_uses_its_own_region(owner: dsmem.Context, region: dsmem.Region) -> None:
    with owner.attach(region.descriptor) as own:
        assert own.fetch_add(0, 2) == 0
        assert own.fetch_add(0, 2) == 2


def test_async(remote: dsmem.Remote) -> None:
    async def run() -> None:
        out = bytearray(5)
        await remote.write_async(100, b"hello")
        await remote.read_async(100, out)
        assert bytes(out) == b"hello"
        olds = await asyncio.gather(*(remote.fetch_add_async(0, 1) for _ in range(50)))
        assert sorted(olds) == list(range(50))
        assert await remote.compare_swap_async(0, 50, 1) == 50

    asyncio.run(run())


def test_many_threads_one_counter(remote: dsmem.Remote) -> None:
    olds: list[int] = []

    def work() -> None:
        mine = [remote.fetch_add(0, 1) for _ in range(100)]
        olds.extend(mine)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(olds) == list(range(400))
