"""Owners that die, stop or fall silent in mid-traffic: every op ends, in time, and no other process notices.

The bounds are those that callers are promised, with much slack for emulation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from peer import ATOMIC, READ, WRITE, Peer
from processes import FABRIC, NBYTES, SECRET, Owner
from traffic import GONE, KINDS, Awaiting, Traffic, counter, single_read

import dsmem
from dsmem import errors

PEER_TIMEOUT_S = 2.0
BOUND_S = 15.0


def _context(**options: float) -> dsmem.Context:
    return dsmem.Context(FABRIC, secret=SECRET, listen="127.0.0.1", **{"peer_timeout": PEER_TIMEOUT_S, **options})  # type: ignore[arg-type]


@pytest.fixture
def context() -> Iterator[dsmem.Context]:
    with _context() as context:
        yield context


@pytest.fixture
def owner() -> Iterator[Owner]:
    with Owner() as owner:
        yield owner


# ---- death ----


def test_owner_killed_in_mid_traffic(context: dsmem.Context) -> None:
    with Owner() as victim, Owner() as other:
        dying, living = context.attach(victim.descriptor), context.attach(other.descriptor)
        bystander = Traffic(counter, living)
        traffic = [Traffic(kind, dying) for kind in KINDS]
        for thread in traffic:
            thread.see(2)
        victim.kill()
        killed = time.monotonic()
        for thread in traffic:
            thread.join(60)
            assert not thread.is_alive(), f"{thread.round} hangs"
            assert isinstance(thread.error, GONE), thread.error
            assert thread.ended - killed < BOUND_S
        bystander.see(20)
        with Owner() as successor, context.attach(successor.descriptor) as again:
            for kind in KINDS:
                kind(again)
        bystander.end()
        with pytest.raises(errors.PeerDeadError):
            context.attach(victim.descriptor)
        dying.close()
        living.close()


def test_owner_killed_under_an_event_loop(context: dsmem.Context, owner: Owner) -> None:
    awaiting = Awaiting()
    with context.attach(owner.descriptor) as remote:
        traffic = Traffic(awaiting, remote)
        while awaiting.counted(remote) < 40:
            pass
        owner.kill()
        killed = time.monotonic()
        traffic.join(60)
        assert not traffic.is_alive()
        assert awaiting.unsettled == 0
        assert isinstance(traffic.error, GONE), traffic.error
        assert traffic.ended - killed < BOUND_S


def test_buffers_after_a_death(context: dsmem.Context, owner: Owner) -> None:
    """Local buffers belong to the caller again: registered ones, and such as were registered for one op only."""
    with context.allocate(NBYTES) as region:
        registered, private = np.frombuffer(region, np.uint8), np.zeros(NBYTES, np.uint8)
        with context.attach(owner.descriptor) as remote:
            owner.kill()
            for buffer in (registered, private):
                with pytest.raises(GONE):
                    while True:
                        remote.read(0, buffer)
        with Owner() as successor, context.attach(successor.descriptor) as remote:
            for seed, buffer in enumerate((registered, private)):
                data = np.random.default_rng(seed).integers(0, 256, NBYTES, dtype=np.uint8)
                remote.write(0, data)
                remote.read(0, buffer)
                assert np.array_equal(buffer, data)
        del registered


def test_new_owner_at_the_old_address(context: dsmem.Context, owner: Owner) -> None:
    """The old remote never reads what took its place; a new descriptor works at once."""
    with context.attach(owner.descriptor) as old:
        old.write(0, b"old data")
        owner.kill()
        with Owner(owner.address) as successor:
            with pytest.raises((*GONE, errors.StaleDescriptorError)):
                while True:
                    old.read(0, bytearray(8))
            for _ in range(3):
                with pytest.raises((errors.StaleDescriptorError, errors.PeerDeadError)):
                    old.read(0, bytearray(8))
            with context.attach(successor.descriptor) as new:
                assert new.fetch_add(0, 1) == 0


# ---- sleep ----


def test_stopped_owner_does_not_disturb(context: dsmem.Context, owner: Owner) -> None:
    """One-sided: nothing of the owner runs, and every op goes on. Only its agent does not answer."""
    with Owner() as other, context.attach(owner.descriptor) as remote, context.attach(other.descriptor) as second:
        owner.stop()
        for kind in KINDS:
            kind(remote)
            kind(second)
        began = time.monotonic()
        with dsmem.Context(FABRIC, secret=SECRET) as late:
            with pytest.raises(errors.TimeoutError):
                late.attach(owner.descriptor, timeout=0.5)
            assert time.monotonic() - began < BOUND_S
            owner.go_on()
            with late.attach(owner.descriptor, timeout=30) as remote_of_late:
                counter(remote_of_late)


# ---- silence: only the independent peer can fall silent; its control streams stay open ----


@pytest.mark.parametrize("peer_timeout", [0.25, 1.0])
def test_silence_is_an_error(peer: Peer, peer_timeout: float) -> None:
    """No retry count of the device's means 'forever' (7 does, on rxe), and the connection comes back on demand."""
    handle, descriptor = peer.owns(NBYTES, READ | WRITE | ATOMIC, SECRET)
    with _context(peer_timeout=peer_timeout) as context, context.attach(descriptor, timeout=30) as remote:
        counter(remote)
        for kind in KINDS:
            peer.hush(handle=handle)
            began = time.monotonic()
            with pytest.raises((*GONE, errors.TimeoutError)) as under_way:
                kind(remote)
            with pytest.raises((*GONE, errors.TimeoutError)):  # no connection, and no process to make one with
                kind(remote)
            assert time.monotonic() - began < BOUND_S
            assert not isinstance(under_way.value, errors.TimeoutError)
            peer.speak(handle=handle)
            connects = context.stats["connects"]
            kind(remote)
            assert context.stats["connects"] == connects + 1


def test_deadlines_hold_in_silence(peer: Peer) -> None:
    """The caller's deadline counts where the peer timeout is longer: for ops under way, and for connecting again."""
    handle, descriptor = peer.owns(64, READ, SECRET)
    with _context(peer_timeout=600) as context, context.attach(descriptor) as remote:
        out = bytearray(b"before..")
        peer.hush(handle=handle)
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(errors.TimeoutError):
                remote.read(0, out, timeout=0.3)
            assert time.monotonic() - began < BOUND_S
        assert out == b"before.."
        peer.speak(handle=handle)
        remote.read(0, out)
        assert out == bytes(8)


def test_silence_of_one_owner_delays_no_other(peer: Peer, owner: Owner) -> None:
    handle, descriptor = peer.owns(64, READ, SECRET)
    with _context(peer_timeout=600) as context, context.attach(descriptor) as silent:
        with context.attach(owner.descriptor) as remote:
            peer.hush(handle=handle)
            waiting = Traffic(single_read, silent)
            bystanders = [Traffic(kind, remote) for kind in KINDS]
            for thread in bystanders:
                thread.see(10)
            assert waiting.rounds == 0
            assert waiting.is_alive()
            for thread in bystanders:
                thread.end()
            peer.leave(handle=handle)
            waiting.join(60)
            assert isinstance(waiting.error, GONE), waiting.error
