"""An independent peer: dsmem and a program that knows only docs/protocols reach each other's memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from peer import ATOMIC, READ, WRITE, Peer, PeerError
from processes import FABRIC, SECRET

import dsmem
from dsmem import errors

EAUTH, ESTALE, EFENCED = 11, 6, 24
OTHER_SECRET = b"fedcba9876543210" * 4
REMOTE_ACCESS_ERROR = 10  # enum ibv_wc_status


@pytest.fixture(scope="module")
def context() -> Iterator[dsmem.Context]:
    with dsmem.Context(FABRIC, secret=SECRET, listen="127.0.0.1") as context:
        yield context


def _attach(peer: Peer, region: dsmem.Region, **more: Any) -> dict[str, Any]:
    return peer.attach(descriptor=region.descriptor.hex(), **{"secret": SECRET.hex(), **more})


# ---- the peer uses memory of ours ----


def test_peer_reads_and_writes_ours(context: dsmem.Context, peer: Peer) -> None:
    with context.allocate(8192) as region:
        there = _attach(peer, region)
        assert (there["nbytes"], there["rights"]) == (8192, READ | WRITE | ATOMIC)
        handle = there["handle"]
        data = bytes(range(256)) * 20
        memoryview(region)[100 : 100 + len(data)] = data
        assert peer.read(handle=handle, offset=100, nbytes=len(data)) == data.hex()
        peer.write(handle=handle, offset=3001, data=data.hex())
        assert bytes(memoryview(region)[3001 : 3001 + len(data)]) == data
        assert not any(memoryview(region)[:100])


def test_peer_and_owner_share_atomics(context: dsmem.Context, peer: Peer) -> None:
    with context.allocate(64) as region, context.attach(region.descriptor) as own:
        handle = _attach(peer, region)["handle"]
        assert peer.fetch_add(handle=handle, offset=8, value=5) == 0
        assert own.fetch_add(8, (1 << 64) - 6) == 5
        assert peer.fetch_add(handle=handle, offset=8, value=2) == (1 << 64) - 1
        assert own.compare_swap(8, 1, 1 << 63) == 1
        assert peer.compare_swap(handle=handle, offset=8, expected=7, desired=9) == 1 << 63
        assert peer.compare_swap(handle=handle, offset=8, expected=1 << 63, desired=9) == 1 << 63
        assert own.fetch_add(8, 0) == 9


def test_both_count_at_once(context: dsmem.Context, peer: Peer) -> None:
    with context.allocate(8) as region, context.attach(region.descriptor) as own:
        handle = _attach(peer, region)["handle"]
        ours: list[int] = []
        thread = threading.Thread(target=lambda: ours.extend(own.fetch_add(0, 1) for _ in range(200)))
        thread.start()
        theirs = [peer.fetch_add(handle=handle, offset=0, value=1) for _ in range(50)]
        thread.join()
        assert sorted(ours + theirs) == list(range(250))


@pytest.mark.parametrize(("access", "refused"), [("r", "write"), ("w", "read"), ("rw", "fetch_add")])
def test_device_refuses_what_was_not_granted(context: dsmem.Context, peer: Peer, access: str, refused: str) -> None:
    with context.allocate(64, access) as region:
        handle = _attach(peer, region)["handle"]
        arguments = {"write": {"data": "ff" * 8}, "read": {"nbytes": 8}, "fetch_add": {"value": 1}}[refused]
        with pytest.raises(PeerError) as caught:
            getattr(peer, refused)(handle=handle, offset=0, **arguments)
        assert caught.value.args == ("completion", REMOTE_ACCESS_ERROR)
        assert not any(memoryview(region))
        if "r" in access:  # and a new queue pair of the same stream is good
            assert peer.read(handle=handle, offset=0, nbytes=8) == bytes(8).hex()


def test_device_refuses_out_of_bounds(context: dsmem.Context, peer: Peer) -> None:
    with context.allocate(4096) as region:
        handle = _attach(peer, region)["handle"]
        for offset in (4089, 1 << 30, -8):
            with pytest.raises(PeerError) as caught:
                peer.write(handle=handle, offset=offset, data="ff" * 8)
            assert caught.value.args == ("completion", REMOTE_ACCESS_ERROR)
        assert not any(memoryview(region))


def test_closed_region_is_out_of_reach(context: dsmem.Context, peer: Peer) -> None:
    region = context.allocate(64)
    descriptor = region.descriptor.hex()
    handle = _attach(peer, region)["handle"]
    peer.ask_status(handle=handle)
    region.close()
    for ask, answer in [
        (lambda: peer.read(handle=handle, offset=0, nbytes=8), ("completion", REMOTE_ACCESS_ERROR)),
        (lambda: peer.ask_status(handle=handle), ("reply", ESTALE)),
        (lambda: peer.attach(descriptor=descriptor, secret=SECRET.hex()), ("reply", ESTALE)),
    ]:
        with pytest.raises(PeerError) as caught:
            ask()
        assert caught.value.args == answer


def test_owner_refuses_a_wrong_secret(context: dsmem.Context, peer: Peer) -> None:
    before = context.stats["rejected"]
    with context.allocate(64) as region:
        with pytest.raises(PeerError) as caught:
            _attach(peer, region, secret=OTHER_SECRET.hex())
        assert caught.value.args == ("verdict", EAUTH)
        assert context.stats["rejected"] > before


# ---- we use memory of the peer's ----


def _own(peer: Peer, access: int, **more: Any) -> tuple[int, bytes]:
    return peer.owns(8192, access, SECRET, **more)


def test_we_read_and_write_the_peers(context: dsmem.Context, peer: Peer) -> None:
    handle, descriptor = _own(peer, READ | WRITE | ATOMIC)
    with context.attach(descriptor) as remote:
        assert (remote.nbytes, remote.access) == (8192, "rwa")
        for n in (1, 8, 200, 4096, 8192):  # inline, copied, registered
            data = os.urandom(n)
            remote.write(8192 - n, data)
            assert peer.peek(handle=handle, offset=8192 - n, nbytes=n) == data.hex()
            peer.poke(handle=handle, offset=0, data=data[::-1].hex())
            out = bytearray(n)
            remote.read(0, out)
            assert out == data[::-1]


def test_atomics_on_the_peers(context: dsmem.Context, peer: Peer) -> None:
    handle, descriptor = _own(peer, READ | WRITE | ATOMIC)
    with context.attach(descriptor) as remote:
        peer.poke(handle=handle, offset=16, data=(40).to_bytes(8, "little").hex())
        assert remote.fetch_add(16, 2) == 40
        assert remote.compare_swap(16, 42, 1 << 40) == 42
        assert remote.compare_swap(16, 42, 1) == 1 << 40
        assert peer.peek(handle=handle, offset=16, nbytes=8) == (1 << 40).to_bytes(8, "little").hex()
        with context.batch() as batch:
            olds = [batch.fetch_add(remote, 24, 1) for _ in range(300)]  # deeper than the send queue
        assert [old.value for old in olds] == list(range(300))


def test_rights_that_the_peer_does_not_grant(context: dsmem.Context, peer: Peer) -> None:
    handle, descriptor = _own(peer, READ)
    with context.attach(descriptor) as remote:
        assert remote.access == "r"
        with pytest.raises(errors.AccessDeniedError):
            remote.write(0, b"12345678")
        with pytest.raises(errors.OutOfBoundsError):
            remote.read(8185, bytearray(8))
        assert peer.peek(handle=handle, offset=0, nbytes=8) == bytes(8).hex()


def test_rights_that_only_its_device_refuses(context: dsmem.Context, peer: Peer) -> None:
    """The grant promises more than the registration gives: the device's refusal comes back as such."""
    handle, descriptor = _own(peer, READ, says=READ | WRITE | ATOMIC)
    with context.attach(descriptor) as remote:
        for op in (lambda: remote.write(0, b"12345678"), lambda: remote.fetch_add(0, 1)):
            with pytest.raises(errors.AccessDeniedError) as caught:
                op()
            assert caught.value.status == REMOTE_ACCESS_ERROR
            remote.read(0, bytearray(8))  # on a new connection
        assert peer.peek(handle=handle, offset=0, nbytes=8) == bytes(8).hex()


def test_memory_that_the_peer_has_taken_back(context: dsmem.Context, peer: Peer) -> None:
    handle, descriptor = _own(peer, READ)
    with context.attach(descriptor) as remote:
        remote.read(0, bytearray(8))
        peer.disown(handle=handle)
        with pytest.raises(errors.StaleDescriptorError):
            remote.read(0, bytearray(8))
    with pytest.raises(errors.StaleDescriptorError):
        context.attach(descriptor)


def test_we_refuse_a_peer_with_a_wrong_secret(context: dsmem.Context, peer: Peer) -> None:
    _, descriptor = peer.owns(8192, READ, OTHER_SECRET)
    with pytest.raises(errors.AuthenticationError):
        context.attach(descriptor)


# ---- fences ----


def test_fenced_peer(context: dsmem.Context, peer: Peer) -> None:
    """Its queue pair is dead when fence() returns, and its node may not come again."""
    with context.allocate(64) as region:
        there = _attach(peer, region)
        context.fence(bytes.fromhex(there["node"]))
        with pytest.raises(PeerError):
            peer.write(handle=there["handle"], offset=0, data="ff" * 8)
        assert not any(memoryview(region))
        with pytest.raises(PeerError) as caught:
            _attach(peer, region, node=there["node"])
        assert caught.value.args == ("hello", EFENCED)
