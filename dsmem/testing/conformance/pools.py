"""Pools: many regions of one memory, allocated, described, attached and freed."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pytest

import dsmem
from dsmem import errors

from .fixtures import open_context, some_bytes


def land(remote: dsmem.Remote) -> None:
    """Wait until the owner's CPU sees what was written: on hardware that may be after the completion of the WRITE.

    A READ behind it on the same connection needs it, so after that it is in memory.
    """
    remote.read(0, bytearray(1))


@pytest.fixture
def pool(owner: dsmem.Context) -> Iterator[dsmem.Pool]:
    """64 KiB with all rights."""
    with owner.pool(65536) as pool:
        yield pool


def test_one_region_of_a_pool(peer: dsmem.Context, pool: dsmem.Pool) -> None:
    with pool.allocate(100) as first, pool.allocate(64) as second:
        assert (first.nbytes, second.nbytes) == (100, 64)
        first.array()[:] = some_bytes(100)
        with peer.attach(first.descriptor) as left, peer.attach(pickle.loads(pickle.dumps(second.descriptor))) as right:
            out = bytearray(100)
            left.read(0, out)
            assert out == some_bytes(100).tobytes()
            right.write(8, b"12345678")
            assert right.fetch_add(0, 5) == 0
            assert right.compare_swap(0, 5, 6) == 5
            with peer.batch() as b:
                b.write(left, 0, b"left")
                b.write(right, 16, b"right")
                last = b.fetch_add(right, 0, 1)
            assert last.value == 6
            land(left)
        assert bytes(first.array()[:4]) == b"left"
        assert bytes(second.array()[8:21]) == b"12345678right"


def test_the_bounds_of_a_region_of_a_pool(peer: dsmem.Context, pool: dsmem.Pool) -> None:
    with pool.allocate(100) as region, peer.attach(region.descriptor) as remote:
        for offset, nbytes in ((93, 8), (100, 1), (65536, 1), (0, 101)):
            with pytest.raises(errors.OutOfBoundsError):
                remote.read(offset, bytearray(nbytes))
            with pytest.raises(errors.OutOfBoundsError):
                remote.write(offset, bytes(nbytes))
        with pytest.raises(errors.OutOfBoundsError):
            remote.fetch_add(96, 1)
        with pytest.raises(errors.AlignmentError):
            remote.fetch_add(4, 1)
        remote.write(92, b"12345678")
        land(remote)
        assert bytes(region.array()[92:]) == b"12345678"


def test_many_regions_of_a_pool(peer: dsmem.Context, pool: dsmem.Pool) -> None:
    sizes = np.arange(1, 101) * 3
    made = pool.allocate_many(sizes)
    assert (made["nbytes"] == sizes).all() and not (made["offset"] % 64).any()
    with peer.attach_many(made) as remotes:
        assert len(remotes) == 100 and (remotes.nbytes == sizes).all()
        remotes.write_many(np.arange(100), sizes - 3, np.arange(300, dtype="u2").astype("u1"))
        out = np.zeros((3, 3), "u1")
        remotes.read_many([99, 0, 7], [297, 0, 21], out)
        assert out.ravel().tolist() == [41, 42, 43, 0, 1, 2, 21, 22, 23]
        ends = made["offset"] + sizes - 3
        there = pool.array()  # it is seen there, too: the READs came behind the WRITEs
        for k in range(3):
            assert (there[ends + k] == (np.arange(100) * 3 + k).astype("u1")).all()
    with peer.attach_many(made[[5, 6]].tobytes() + bytes(pool.descriptor)) as some:
        assert some.nbytes.tolist() == [18, 21, 65536]
    with peer.attach(made[5].tobytes()) as one:
        assert one.nbytes == 18


def test_more_regions_than_fit_one_question(owner: dsmem.Context, peer: dsmem.Context) -> None:
    with owner.pool(3000 * 64) as pool:
        made = pool.allocate_many(np.full(3000, 64))
        pool.array()[made["offset"]] = np.arange(3000) % 251
        with peer.attach_many(made) as remotes:
            out = np.zeros(3000, "u1")
            remotes.read_many(np.arange(3000), 0, out)
        assert (out == np.arange(3000) % 251).all()
        pool.free_many(made[2990:2991])
        with pytest.raises(errors.StaleDescriptorError) as caught:
            peer.attach_many(made)
        assert caught.value.index == 2990
        with peer.attach_many(made[:2990]) as remotes:
            assert len(remotes) == 2990


def test_single_ones_of_many(peer: dsmem.Context, pool: dsmem.Pool) -> None:
    made = pool.allocate_many([64, 128])
    remotes = peer.attach_many(made)
    one, last = remotes[0], remotes[-1]
    assert (one.nbytes, last.nbytes) == (64, 128)
    remotes.close()
    last.write(120, b"12345678")
    with pytest.raises(errors.OutOfBoundsError):
        one.read(64, bytearray(1))
    land(last)
    offset = int(made["offset"][1])
    assert bytes(pool.array()[offset + 120 : offset + 128]) == b"12345678"


def test_the_bounds_of_many(peer: dsmem.Context, pool: dsmem.Pool) -> None:
    with peer.attach_many(pool.allocate_many([64, 128])) as remotes:
        for regions, offsets in (([0], [57]), ([1], [121]), ([2], [0]), ([0, 1], [0, 128]), ([0], [1 << 63])):
            with pytest.raises(errors.OutOfBoundsError):
                remotes.read_many(regions, offsets, bytearray(8 * len(regions)))
            with pytest.raises(errors.OutOfBoundsError):
                remotes.write_many(regions, offsets, b"\1" * 8 * len(regions))
        for position in (2, -3, 1 << 70, "x"):
            with pytest.raises(errors.OutOfBoundsError):
                remotes[position]  # type: ignore[index]
    assert not pool.array().any()


def test_many_regions_of_several_pools_and_owners(owner: dsmem.Context, peer: dsmem.Context, fabric: str) -> None:
    with open_context(fabric) as second, owner.pool(4096) as a, owner.pool(4096) as b, second.pool(4096) as c:
        with owner.allocate(32) as plain:
            rows = [p.allocate_many([64, 64]) for p in (a, b, c)]
            raw = b"".join(r[i].tobytes() for i in range(2) for r in rows) + bytes(plain.descriptor)
            with peer.attach_many(raw) as remotes:
                assert remotes.nbytes.tolist() == [64] * 6 + [32]
                remotes.write_many(np.arange(7), 0, bytes(range(1, 8)))
                remotes.read_many(np.arange(7), 0, bytearray(7))  # see land()
            for k, (p, made) in enumerate(zip((a, b, c), rows, strict=True)):
                assert p.array()[made["offset"]].tolist() == [k + 1, k + 4]
            assert plain.array()[0] == 7


def test_freed_regions_are_stale(peer: dsmem.Context, pool: dsmem.Pool) -> None:
    region = pool.allocate(64)
    stale = region.descriptor
    region.close()
    with pool.allocate(64) as again:  # at the same place
        assert again.descriptor.offset == stale.offset
        with pytest.raises(errors.StaleDescriptorError):
            peer.attach(stale)
    made = pool.allocate_many([64, 64, 64])
    pool.free_many(made[1:2])
    more = pool.allocate_many([64])
    assert more["offset"] == made["offset"][1]
    for freed in (made, made[1:]):
        with pytest.raises(errors.StaleDescriptorError):
            peer.attach_many(freed)
        with pytest.raises(errors.StaleDescriptorError):
            pool.free_many(freed)
    with peer.attach_many(made[[0, 2]]) as remotes:  # was not freed with the other one
        assert len(remotes) == 2


def test_the_end_of_a_pool(owner: dsmem.Context, peer: dsmem.Context) -> None:
    pool = owner.pool(4096)
    region = pool.allocate(64)
    with pytest.raises(errors.BusyError):
        pool.close()
    made = pool.allocate_many([64])
    raw = bytes(region.descriptor)
    region.close()
    with peer.attach_many(made) as remotes, remotes[0] as one:
        pool.close()
        for use in (
            lambda: remotes.read_many([0], 0, bytearray(8)),
            lambda: one.read(0, bytearray(8)),
            lambda: peer.attach(raw),
            lambda: peer.attach_many(made),
        ):
            with pytest.raises(errors.StaleDescriptorError):
                use()


def test_the_rights_of_a_pool(owner: dsmem.Context, peer: dsmem.Context) -> None:
    with owner.pool(4096, "r") as pool, peer.attach_many(pool.allocate_many([64])) as remotes:
        assert pool.access == remotes[0].access == "r"
        remotes.read_many([0], 0, bytearray(8))
        with pytest.raises(errors.AccessDeniedError):
            remotes.write_many([0], 0, bytes(8))


def test_damaged_descriptors_of_parts(peer: dsmem.Context, pool: dsmem.Pool) -> None:
    raw = pool.allocate_many([64, 64]).tobytes()
    row = len(raw) // 2
    for i in range(row):
        bad = raw[: row + i] + bytes([raw[row + i] ^ 0x41]) + raw[row + i + 1 :]
        with pytest.raises((errors.DescriptorError, errors.VersionError)):
            peer.attach_many(bad)
        if i:
            with pytest.raises(errors.DescriptorError):
                peer.attach_many(raw[: row + i])


def test_a_context_is_closed_with_its_pools(fabric: str, peer: dsmem.Context) -> None:
    owner = open_context(fabric)
    pool = owner.pool(4096)
    region = pool.allocate(64)
    remotes = peer.attach_many(pool.allocate_many([64]))
    item = remotes[0]
    owner.close()
    assert pool.closed and region.closed
    peer.close()
    assert remotes.closed and item.closed
