"""Rights that are taken back: one region from one node, and everything from a node that is fenced."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

import dsmem
from dsmem import errors

from .fixtures import open_context


@pytest.fixture
def third(fabric: str) -> Iterator[dsmem.Context]:
    """A context that keeps its rights."""
    with open_context(fabric) as context:
        yield context


def _maps(context: dsmem.Context) -> bool:
    """Whether peers may map memory: then what they have mapped can't be taken from them."""
    return "shm" in context.fabric


def _only_maps(context: dsmem.Context) -> bool:
    """Whether there is no other way to it: only shared memory can be registered, and only once."""
    return all(each.fabric.removeprefix("fault+") == "shm" for each in context.fabrics)


def _grants(owner: dsmem.Context) -> tuple[dsmem.Region, dsmem.Region]:
    """Two regions of the same memory, for a node each. Shared memory can't be registered twice: two of their own."""
    memory = np.zeros(512, "u8")
    if _only_maps(owner):
        with pytest.raises(errors.NotShareableError):
            owner.register(memory)
        return owner.allocate(4096), owner.allocate(4096)
    return owner.register(memory, access="rwa"), owner.register(memory, access="rwa")


class _Adder(threading.Thread):
    """Increments a word until that fails."""

    def __init__(self, remote: dsmem.Remote) -> None:
        super().__init__(daemon=True)
        self.remote = remote
        self.error: errors.DsmemError | None = None
        self.begun = threading.Event()
        self.start()

    def run(self) -> None:
        done = 0
        try:
            while True:
                self.remote.fetch_add(0, 1, timeout=30)
                done += 1
                if done == 10:
                    self.begun.set()
        except errors.DsmemError as error:
            self.error = error
        finally:
            self.begun.set()

    def ended(self) -> errors.DsmemError:
        self.join(60)
        assert not self.is_alive() and self.error is not None
        return self.error


def test_a_right_is_taken_from_one_node(owner: dsmem.Context, peer: dsmem.Context, third: dsmem.Context) -> None:
    taken, kept = _grants(owner)
    descriptor = taken.descriptor
    with kept, peer.attach(descriptor) as lost, third.attach(kept.descriptor) as other:
        lost.write(8, b"before")
        lost.read(8, bytearray(1))
        taken.close()
        for op in (
            lambda: lost.write(8, b"after!"),
            lambda: lost.read(8, bytearray(6)),
            lambda: lost.fetch_add(16, 1),
            lambda: peer.attach(descriptor),
        ):
            with pytest.raises(errors.StaleDescriptorError):
                op()
        assert other.fetch_add(16, 1) == 0
        out = bytearray(6)
        other.read(8, out)
        assert out == (bytes(6) if _only_maps(owner) else b"before")


def test_no_op_is_executed_once_a_right_was_taken(
    owner: dsmem.Context, peer: dsmem.Context, third: dsmem.Context
) -> None:
    taken, kept = _grants(owner)
    with kept, peer.attach(taken.descriptor) as lost, third.attach(kept.descriptor) as other:
        adder = _Adder(lost)
        assert adder.begun.wait(60)
        taken.close()
        value = other.fetch_add(0, 0)
        assert isinstance(adder.ended(), errors.StaleDescriptorError)
        assert other.fetch_add(0, 0) == value
        assert (value == 0) == _only_maps(owner)


def test_no_op_of_a_fenced_node_is_executed(
    fabric: str, owner: dsmem.Context, peer: dsmem.Context, third: dsmem.Context, region: dsmem.Region
) -> None:
    with peer.attach(region.descriptor) as lost, third.attach(region.descriptor) as other:
        if _maps(owner):  # it is cut off, and what it has mapped stays mapped
            with pytest.raises(errors.UnsupportedError):
                owner.fence(peer.node_id)
        else:
            adder = _Adder(lost)
            assert adder.begun.wait(60)
            owner.fence(peer.node_id)
            value = other.fetch_add(0, 0)
            adder.ended()
            assert other.fetch_add(0, 0) == value >= 10
        with pytest.raises((errors.FencedError, errors.PeerDeadError)):
            peer.attach(region.descriptor)
        assert other.fetch_add(8, 1) == 0
    with open_context(fabric) as again, again.attach(region.descriptor) as remote:  # under a new node id
        assert remote.fetch_add(8, 1) == 1


def test_a_node_is_fenced_before_it_comes(
    owner: dsmem.Context, peer: dsmem.Context, third: dsmem.Context, region: dsmem.Region
) -> None:
    for _ in range(2):
        if _maps(owner):
            with pytest.raises(errors.UnsupportedError):
                owner.fence(peer.node_id)
        else:
            owner.fence(peer.node_id)
    with pytest.raises(errors.FencedError):
        peer.attach(region.descriptor)
    with third.attach(region.descriptor) as remote:
        assert remote.fetch_add(0, 1) == 0
