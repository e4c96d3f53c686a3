"""Invalid calls are refused, each kind with its own exception, and have no effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dsmem
from dsmem import errors

from .fixtures import open_context


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


def test_what_is_no_number(remote: dsmem.Remote) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        remote.read(1.5, bytearray(8))  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidArgumentError):
        remote.fetch_add("0", 1)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidArgumentError):
        remote.fetch_add(0, 1.5)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidArgumentError):
        remote.compare_swap(0, None, 1)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidArgumentError):
        remote.read_many(np.array([0.5]), bytearray(8))
    with pytest.raises(errors.InvalidArgumentError):
        remote.read_many([-8], bytearray(8))
    with pytest.raises(errors.InvalidArgumentError):
        remote.read_many([0, 8, 16], bytearray(8))
    for timeout in (-1, float("nan")):
        with pytest.raises(errors.InvalidArgumentError):
            remote.read(0, bytearray(8), timeout)
    with pytest.raises(errors.InvalidArgumentError):
        remote.fetch_add(0, 1 << 64)
    with pytest.raises(errors.InvalidArgumentError):
        remote.fetch_add(0, -(1 << 63) - 1)


def test_numbers_of_numpy(remote: dsmem.Remote) -> None:
    assert remote.fetch_add(np.uint32(8), np.int64(-1)) == 0
    assert remote.compare_swap(np.int16(8), np.uint64(2**64 - 1), np.int8(5)) == 2**64 - 1
    assert remote.fetch_add(8, 0) == 5


@pytest.mark.parametrize("dtype", ["O", "V0", "S0"])
def test_arrays_of_what_has_no_bytes(owner: dsmem.Context, region: dsmem.Region, dtype: str) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        owner.empty(4, dtype)
    with pytest.raises(errors.InvalidArgumentError):
        region.array(dtype)


def test_arrays_that_do_not_fit(owner: dsmem.Context) -> None:
    with owner.allocate(12) as region, pytest.raises(errors.InvalidArgumentError):
        region.array("u8")
    shapes: list[Any] = [-1, (4, 0), (3, -3), 1.5, "44", None]
    for shape in shapes:
        with pytest.raises(errors.InvalidArgumentError):
            owner.empty(shape)


@pytest.mark.parametrize("nbytes", [-1, 1 << 64, 1 << 63, "8", 8.5])
def test_lengths_that_are_none(owner: dsmem.Context, nbytes: int) -> None:
    with pytest.raises((errors.InvalidArgumentError, errors.OutOfMemoryError)):
        owner.allocate(nbytes)


@pytest.mark.parametrize("access", ["", "x", "rx", "read", 7, None])
def test_rights_that_are_none(owner: dsmem.Context, access: str) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        owner.allocate(8, access)


def test_a_refused_op_posts_nothing(peer: dsmem.Context, remote: dsmem.Remote) -> None:
    remote.read(0, bytearray(8))
    before = peer.stats["posts"]
    for op in (
        lambda: remote.read(8190, bytearray(8)),
        lambda: remote.write(0, b""),
        lambda: remote.fetch_add(3, 1),
        lambda: remote.write_many([0, 8190], bytes(16)),
        lambda: remote.read(0, b"12345678"),
    ):
        with pytest.raises(errors.DsmemError):
            op()
    assert peer.stats["posts"] == before


def test_remotes_of_another_context(fabric: str, peer: dsmem.Context, remote: dsmem.Remote) -> None:
    with open_context(fabric) as other, pytest.raises(errors.InvalidArgumentError), other.batch() as b:
        b.read(remote, 0, bytearray(8))


def test_a_batch_is_used_once(peer: dsmem.Context, remote: dsmem.Remote) -> None:
    with peer.batch() as b:
        early = b.fetch_add(remote, 0, 1)
        with pytest.raises(errors.BusyError):
            _ = early.value
    with pytest.raises(errors.ClosedError):
        b.fetch_add(remote, 0, 1)
    assert early.value == 0


def test_a_batch_whose_remote_was_closed(peer: dsmem.Context, region: dsmem.Region) -> None:
    remote = peer.attach(region.descriptor)
    with pytest.raises(errors.ClosedError), peer.batch() as b:
        b.write(remote, 0, b"x")
        remote.close()
    assert not region.array("u1").any()


class _Meddler:
    """A buffer whose export first calls a function."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        self.meddle = meddle
        self.array = np.zeros(8, np.uint8)

    def __dlpack__(self, **options: Any) -> Any:
        self.meddle()
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_a_remote_is_in_use_while_the_buffer_is_taken(remote: dsmem.Remote) -> None:
    ops: list[Callable[[Any], None]] = [
        lambda buffer: remote.read(0, buffer),
        lambda buffer: remote.write(0, buffer),
        lambda buffer: remote.read_many([0], buffer),
        lambda buffer: remote.write_many([0], buffer),
    ]
    for op in ops:
        with pytest.raises(errors.BusyError, match="around this one"):
            op(_Meddler(remote.close))
    assert not remote.closed


def test_a_batch_that_grows_while_a_buffer_is_taken(peer: dsmem.Context, remote: dsmem.Remote) -> None:
    def meddle() -> None:
        for i in range(200):
            b.write(remote, 64 + i, b"m")

    with peer.batch() as b:
        b.write(remote, 0, _Meddler(meddle))  # type: ignore[arg-type]
        b.write(remote, 8, b"end")
    assert len(b) == 202
    out = bytearray(264)
    remote.read(0, out)  # the owner's CPU may see them later
    assert out[64:] == b"m" * 200 and out[8:11] == b"end"
