"""Nothing is freed under the device: what is closed in mid-traffic gives errors, refusals or results, never a crash."""

from __future__ import annotations

import asyncio

import pytest
from peer import READ, Peer
from processes import FABRIC, NBYTES, SECRET
from traffic import GONE, KINDS, Traffic, counter

import dsmem
from dsmem import errors

STALE = (*GONE, errors.StaleDescriptorError)


def _start(remote: dsmem.Remote) -> list[Traffic]:
    traffic = [Traffic(kind, remote) for kind in KINDS]
    for thread in traffic:
        thread.see(2)
    return traffic


def _see_all_end(traffic: list[Traffic]) -> None:
    for thread in traffic:
        thread.join(60)
        assert not thread.is_alive(), f"{thread.round} hangs"
        assert isinstance(thread.error, STALE), thread.error


def test_owner_closes_the_region(owner: dsmem.Context, caller: dsmem.Context) -> None:
    region = owner.allocate(NBYTES)
    with owner.allocate(64) as other, caller.attach(other.descriptor) as spared:
        with caller.attach(region.descriptor) as remote:
            traffic = _start(remote)
            region.close()
            _see_all_end(traffic)
            with pytest.raises(errors.StaleDescriptorError):
                counter(remote)
        assert spared.fetch_add(0, 1) == 0


def test_owner_closes_the_context(owner: dsmem.Context, caller: dsmem.Context) -> None:
    region = owner.allocate(NBYTES)
    with caller.attach(region.descriptor) as remote:
        traffic = _start(remote)
        owner.close()
        _see_all_end(traffic)


def test_owner_fences_the_caller(owner: dsmem.Context, caller: dsmem.Context) -> None:
    with owner.allocate(NBYTES) as region, caller.attach(region.descriptor) as remote:
        traffic = _start(remote)
        owner.fence(caller.node_id)
        for thread in traffic:
            thread.join(60)
            assert isinstance(thread.error, (*GONE, errors.FencedError)), thread.error
        with pytest.raises(errors.FencedError):
            counter(remote)


def test_caller_closes_under_its_own_ops(owner: dsmem.Context, caller: dsmem.Context) -> None:
    """While other threads are inside, nothing is closed."""
    with owner.allocate(NBYTES) as region:
        remote = caller.attach(region.descriptor)
        traffic = _start(remote)
        refused = 0
        while refused < 5:
            try:
                remote.close()
                break  # all threads were between two ops
            except errors.BusyError:
                refused += 1
        for thread in traffic:
            thread.stopped = True
            thread.join(60)
            assert thread.error is None or isinstance(thread.error, errors.ClosedError), thread.error
        remote.close()
        caller.close()
        with pytest.raises(errors.ClosedError):
            counter(remote)


# ---- ops that stay under way: the owner has fallen silent ----


def test_destination_is_held_while_it_is_used(peer: Peer) -> None:
    handle, descriptor = peer.owns(NBYTES, READ, SECRET)
    with dsmem.Context(FABRIC, secret=SECRET, peer_timeout=1) as caller, caller.allocate(NBYTES) as local:

        async def run() -> None:
            ops = [caller_remote.read_async(0, local) for _ in range(4)]
            with pytest.raises(errors.BusyError):
                local.close()
            for result in await asyncio.gather(*ops, return_exceptions=True):
                assert isinstance(result, GONE), result
            local.close()

        with caller.attach(descriptor) as caller_remote:
            peer.hush(handle=handle)
            asyncio.run(run())


def test_context_closed_under_awaited_ops(peer: Peer) -> None:
    """Their futures end, and the buffers belong to the caller again."""
    handle, descriptor = peer.owns(NBYTES, READ, SECRET)
    buffers = [bytearray(NBYTES) for _ in range(200)]

    async def run(caller: dsmem.Context, remote: dsmem.Remote) -> None:
        ops = [remote.read_async(0, buffer) for buffer in buffers]
        caller.close()
        for result in await asyncio.gather(*ops, return_exceptions=True):
            assert isinstance(result, (errors.TimeoutError, *GONE)), result

    with dsmem.Context(FABRIC, secret=SECRET, peer_timeout=600) as caller:
        remote = caller.attach(descriptor)
        peer.hush(handle=handle)
        asyncio.run(run(caller, remote))
    for buffer in buffers:
        buffer.clear()  # a BufferError where a view is left
