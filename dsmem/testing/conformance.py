"""One suite for every fabric: what an owner and its peers may rely on.

Import its tests into a module of your own and provide a fixture or parameter ``fabric`` (a name or URL that
:class:`dsmem.Context` takes). Owner and peer are two contexts of one process, except where a process must die.
"""

from __future__ import annotations

import asyncio
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

import dsmem
from dsmem import errors

SECRET = b"the secret of the conformance suite"


def _open(fabric: str) -> dsmem.Context:
    return dsmem.Context(fabric, secret=SECRET)


@pytest.fixture
def owner(fabric: str) -> Iterator[dsmem.Context]:
    """The context whose memory is used."""
    with _open(fabric) as context:
        yield context


@pytest.fixture
def peer(fabric: str) -> Iterator[dsmem.Context]:
    """The context that uses it."""
    with _open(fabric) as context:
        yield context


@pytest.fixture
def region(owner: dsmem.Context) -> Iterator[dsmem.Region]:
    """8 KiB with all rights."""
    with owner.allocate(8192) as region:
        yield region


@pytest.fixture
def remote(peer: dsmem.Context, region: dsmem.Region) -> Iterator[dsmem.Remote]:
    """The region, seen by the peer."""
    with peer.attach(region.descriptor) as remote:
        yield remote


def _bytes(n: int, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, n, dtype=np.uint8)


# ---- ops ----


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 4096, 8191, 8192])
def test_write_then_read(region: dsmem.Region, remote: dsmem.Remote, n: int) -> None:
    data, out = _bytes(n), np.zeros(n, np.uint8)
    offset = 8192 - n
    remote.write(offset, data)
    remote.read(offset, out)
    assert np.array_equal(out, data)
    assert np.array_equal(region.array("u1")[offset:], data)
    assert not region.array("u1")[:offset].any()


def test_large_transfer(owner: dsmem.Context, peer: dsmem.Context) -> None:
    n = (3 << 20) + 5
    data, out = _bytes(n), np.zeros(n, np.uint8)
    with owner.allocate(n) as region, peer.attach(region.descriptor) as remote:
        remote.write(0, data)
        remote.read(0, out)
    assert np.array_equal(out, data)


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
    data = _bytes(300 * 16).reshape(300, 16)
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
    owners = [_open(fabric) for _ in range(10)]
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


# ---- rights and bounds ----


@pytest.mark.parametrize("access", ["r", "w", "a", "rw", "ra", "wa"])
def test_rights(owner: dsmem.Context, peer: dsmem.Context, access: str) -> None:
    with owner.allocate(64, access) as region, peer.attach(region.descriptor) as remote:
        assert remote.access == access
        ops = {
            "r": lambda: remote.read(0, bytearray(8)),
            "w": lambda: remote.write(0, bytes(8)),
            "a": lambda: remote.fetch_add(0, 1),
        }
        for right, op in ops.items():
            if right in access:
                op()  # type: ignore[no-untyped-call]
            else:
                with pytest.raises(errors.AccessDeniedError):
                    op()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("offset", [8185, 8192, 1 << 40, (1 << 64) - 4, -1, 1 << 64])
def test_bounds(region: dsmem.Region, remote: dsmem.Remote, offset: int) -> None:
    for op in (remote.read, remote.write):
        with pytest.raises(errors.OutOfBoundsError):
            op(offset, bytearray(8))
    with pytest.raises(errors.OutOfBoundsError):
        remote.read_many(
            [0, offset] if 0 <= offset < 1 << 63 else [8192], bytearray(16 if 0 <= offset < 1 << 63 else 8)
        )
    assert not region.array("u1").any()


def test_alignment(remote: dsmem.Remote) -> None:
    with pytest.raises(errors.AlignmentError):
        remote.fetch_add(4, 1)
    with pytest.raises(errors.AlignmentError):
        remote.compare_swap(1, 0, 1)


def test_zero_length(owner: dsmem.Context, remote: dsmem.Remote) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        remote.read(0, bytearray())
    with pytest.raises(errors.InvalidArgumentError):
        owner.allocate(0)


def test_local_buffers(remote: dsmem.Remote) -> None:
    with pytest.raises(errors.ReadOnlyBufferError):
        remote.read(0, b"12345678")
    with pytest.raises(errors.NonContiguousError):
        remote.write(0, np.zeros((4, 4))[:, 0])
    with pytest.raises(errors.InvalidArgumentError):
        remote.write(0, 17)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidArgumentError):
        remote.fetch_add(0, 1 << 64)


# ---- descriptors and lifetimes ----


def test_more_memory_than_there_is(owner: dsmem.Context) -> None:
    with pytest.raises(errors.OutOfMemoryError):
        owner.allocate(1 << 50)


def test_descriptor_travels(peer: dsmem.Context, region: dsmem.Region) -> None:
    d = region.descriptor
    for form in (pickle.loads(pickle.dumps(d)), bytes(d), bytearray(bytes(d))):
        with peer.attach(form) as remote:
            assert remote.nbytes == 8192


def test_damaged_descriptors(peer: dsmem.Context, region: dsmem.Region) -> None:
    raw = bytes(region.descriptor)
    for i in range(len(raw)):
        with pytest.raises((errors.DescriptorError, errors.VersionError)):
            peer.attach(raw[:i] + bytes([raw[i] ^ 0x41]) + raw[i + 1 :])
        with pytest.raises(errors.DescriptorError):
            peer.attach(raw[:i])


def test_stale_descriptor(owner: dsmem.Context, peer: dsmem.Context, region: dsmem.Region) -> None:
    stale = region.descriptor
    region.close()
    again = owner.allocate(8192)
    with pytest.raises(errors.StaleDescriptorError):
        peer.attach(stale)
    again.close()


def test_region_closed_under_a_remote(region: dsmem.Region, remote: dsmem.Remote) -> None:
    region.close()
    with pytest.raises(errors.StaleDescriptorError):
        remote.read(0, bytearray(8))
    with pytest.raises(errors.StaleDescriptorError):
        remote.fetch_add(0, 1)


def test_views_hold_a_region(region: dsmem.Region) -> None:
    array = region.array("u8")
    with pytest.raises(errors.BusyError):
        region.close()
    array[0] = 1
    del array
    region.close()
    region.close()
    with pytest.raises(errors.ClosedError):
        region.array("u8")


def test_closed_objects(peer: dsmem.Context, remote: dsmem.Remote) -> None:
    remote.close()
    remote.close()
    with pytest.raises(errors.ClosedError):
        remote.read(0, bytearray(8))
    peer.close()
    with pytest.raises(errors.ClosedError):
        peer.allocate(8)


def test_wrong_secret(fabric: str, region: dsmem.Region) -> None:
    with dsmem.Context(fabric, secret=b"another secret entirely") as stranger:
        with pytest.raises(errors.AuthenticationError):
            stranger.attach(region.descriptor)


def test_fenced_node(owner: dsmem.Context, peer: dsmem.Context, region: dsmem.Region, remote: dsmem.Remote) -> None:
    try:
        owner.fence(peer.node_id)
    except errors.UnsupportedError:
        assert "shm" in owner.fabric
    with pytest.raises((errors.FencedError, errors.PeerDeadError)):
        peer.attach(region.descriptor)


_OWNER = """
import sys, dsmem
context = dsmem.Context(sys.argv[1], secret=bytes.fromhex(sys.argv[2]))
region = context.allocate(4096)
print(region.descriptor.hex(), flush=True)
sys.stdin.read()
"""


def test_killed_owner(fabric: str, peer: dsmem.Context) -> None:
    command = [sys.executable, "-c", _OWNER, fabric, SECRET.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        descriptor = bytes.fromhex(process.stdout.readline())
        remote = peer.attach(descriptor)
        assert remote.fetch_add(0, 1) == 0
        process.send_signal(signal.SIGKILL)
        process.wait()
        gone = (errors.PeerDeadError, errors.CanceledError, errors.TransportError)
        with pytest.raises(gone):
            for _ in range(1_000_000):  # until the news is here
                remote.fetch_add(0, 1, timeout=10)
        with pytest.raises(errors.PeerDeadError):
            peer.attach(descriptor)
        remote.close()
