"""What became of each op of a batch."""

from __future__ import annotations

import asyncio

import pytest

import dsmem
from dsmem import errors


def _word(remote: dsmem.Remote, at: int) -> int:
    """On the connection of the ops: the owner's CPU may see later what they did."""
    return remote.fetch_add(at, 0)


def test_outcomes_of_a_batch(peer: dsmem.Context, remote: dsmem.Remote) -> None:
    with peer.batch() as b:
        first = b.fetch_add(remote, 0, 1)
        b.write(remote, 8, bytes(8))
        with pytest.raises(errors.BusyError):
            b.statuses  # noqa: B018
    assert first.error is None
    assert b.errors == [None, None]
    assert b.statuses.tolist() == [0, 0] and b.statuses.dtype == "i4"
    b.abort()  # it has ended
    assert (b.statuses == 0).all()


def test_outcomes_of_a_batch_that_is_refused_whole(peer: dsmem.Context, remote: dsmem.Remote) -> None:
    with pytest.raises(errors.OutOfBoundsError), peer.batch() as b:
        result = b.fetch_add(remote, 0, 1)
        b.fetch_add(remote, remote.nbytes, 1)
    assert b.statuses.tolist() == [errors.CanceledError.code, errors.OutOfBoundsError.code]
    with pytest.raises(errors.CanceledError):
        result.value  # noqa: B018
    assert _word(remote, 0) == 0


def test_a_closed_region_fails_alone(owner: dsmem.Context, peer: dsmem.Context, remote: dsmem.Remote) -> None:
    """Only its owner knows that it is closed. The ops behind it are posted again, in order, each is executed once."""
    with owner.allocate(64) as other, peer.attach(other.descriptor) as closed:
        remote.fetch_add(0, 0)  # there is a connection
        other.close()
        with peer.batch(continue_on_error=True) as b:
            for i in range(20):
                b.fetch_add(closed if i % 4 == 1 else remote, 0, 1)
            last = b.compare_swap(remote, 0, 15, 99)
        stale = errors.StaleDescriptorError.code
        assert b.statuses.tolist() == [stale if i % 4 == 1 else 0 for i in range(20)] + [0]
        assert (last.value, _word(remote, 0)) == (15, 99)
        assert [error.index for error in b.errors if error] == [1, 5, 9, 13, 17]


def test_behind_a_closed_region_nothing_is_unknown(
    owner: dsmem.Context, peer: dsmem.Context, remote: dsmem.Remote
) -> None:
    with owner.allocate(64) as other, peer.attach(other.descriptor) as closed:
        remote.fetch_add(0, 0)
        other.close()
        b = peer.batch()
        with pytest.raises(errors.StaleDescriptorError), b:
            for i in range(8):
                b.fetch_add(closed if i == 4 else remote, 8 * i if i != 4 else 0, 1)
        for i, code in enumerate(b.statuses.tolist()):
            if i == 4:
                assert code == errors.StaleDescriptorError.code
            else:
                assert code in (0, errors.CanceledError.code) and _word(remote, 8 * i) == (code == 0)


def test_invalid_ops_fail_alone_where_asked(peer: dsmem.Context, remote: dsmem.Remote) -> None:
    with peer.batch(continue_on_error=True) as b:
        b.fetch_add(remote, 4, 1)
        b.write(remote, remote.nbytes - 4, bytes(8))
        done = b.fetch_add(remote, 8, 1)
    assert b.statuses.tolist() == [errors.AlignmentError.code, errors.OutOfBoundsError.code, 0]
    assert done.value == 0 and _word(remote, 8) == 1


def test_an_aborted_batch_executes_nothing(peer: dsmem.Context, remote: dsmem.Remote) -> None:
    b = peer.batch()
    with pytest.raises(errors.CanceledError), b:
        b.fetch_add(remote, 0, 1)
        b.abort()
    assert b.statuses.tolist() == [errors.CanceledError.code]
    assert remote.fetch_add(0, 1) == 0


def test_a_batch_of_an_event_loop(peer: dsmem.Context, remote: dsmem.Remote) -> None:
    async def run() -> list[int]:
        async def one() -> int:
            out = bytearray(8)
            async with peer.batch() as b:
                result = b.fetch_add(remote, 0, 1)
                b.read(remote, 8, out)
            return result.value

        return await asyncio.gather(*(one() for _ in range(20)))

    assert sorted(asyncio.run(run())) == list(range(20))
    assert _word(remote, 0) == 20


def test_a_closed_region_fails_alone_in_an_event_loop(
    owner: dsmem.Context, peer: dsmem.Context, remote: dsmem.Remote
) -> None:
    async def run(closed: dsmem.Remote) -> dsmem.Batch:
        async with peer.batch(continue_on_error=True) as b:
            for i in range(6):
                b.fetch_add(closed if i == 2 else remote, 0, 1)
        return b

    with owner.allocate(64) as other, peer.attach(other.descriptor) as closed:
        other.close()
        b = asyncio.run(run(closed))
        assert b.statuses.tolist() == [0, 0, errors.StaleDescriptorError.code, 0, 0, 0]
        assert _word(remote, 0) == 5
