"""Memory of the caller: which buffers share a registration, what closing one leaves, what a fork leaves the child."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from processes import SECRET

import dsmem
from dsmem import errors
from dsmem.testing.control import keys_of

PAGE = 4096


def pieces(step: int, n: int = 8, nbytes: int = PAGE) -> list[NDArray[np.uint8]]:
    """Buffers that begin step bytes after one another; the last byte of each tells its number."""
    memory = np.zeros(n * step + nbytes + 8, np.uint8)
    start = -memory.ctypes.data % 8
    found = [memory[at : at + nbytes] for at in range(start, start + n * step, step)]
    for i, piece in enumerate(found):
        piece[-1] = i + 1
    return found


def keys(regions: list[dsmem.Region]) -> int:
    return len(set(keys_of(regions, SECRET)))


def close(things: list[dsmem.Region] | list[dsmem.Remote]) -> None:
    for thing in things:
        thing.close()


@pytest.mark.parametrize(
    ("step", "shared"),
    [(PAGE, True), (PAGE - 8, True), (PAGE + 1, False), (PAGE + 8, False), (2 * PAGE, False)],
    ids=["touching", "overlapping", "a byte between", "a word between", "a page between"],
)
def test_only_buffers_without_a_gap_share(owner: dsmem.Context, caller: dsmem.Context, step: int, shared: bool) -> None:
    buffers = pieces(step)
    order = [3, 0, 7, 1, 5, 2, 6, 4]
    regions = owner.register_many([buffers[i] for i in order], "rw")
    assert keys(regions) == (1 if shared else len(buffers))
    remotes = [caller.attach(r.descriptor) for r in regions]
    out = bytearray(PAGE)
    for remote, i in zip(remotes, order, strict=True):
        remote.read(0, out)
        assert out == buffers[i].tobytes() and out[-1] == i + 1
        with pytest.raises(errors.OutOfBoundsError):
            remote.read(1, out)
    close(remotes)
    close(regions)


def test_one_by_one_none_is_shared(owner: dsmem.Context) -> None:
    regions = [owner.register(b, "rw") for b in pieces(PAGE)]
    assert keys(regions) == len(regions)
    close(regions)


def test_those_left_work_when_others_are_closed(owner: dsmem.Context, caller: dsmem.Context) -> None:
    buffers = pieces(PAGE)
    regions = owner.register_many(buffers, "rw")
    remotes = [caller.attach(r.descriptor) for r in regions]
    gone = regions[3].descriptor
    close(regions[:4])
    with pytest.raises(errors.StaleDescriptorError):
        caller.attach(gone)
    for remote, buffer in zip(remotes[4:], buffers[4:], strict=True):
        remote.write(0, b"written!")
        assert buffer[:8].tobytes() == b"written!"
    close(remotes)
    close(regions[4:])


def test_all_or_none(owner: dsmem.Context) -> None:
    buffers = pieces(2 * PAGE)
    buffers[5].flags.writeable = False
    with pytest.raises(errors.ReadOnlyBufferError):
        owner.register_many(buffers, "rw")
    with pytest.raises(errors.InvalidArgumentError):
        owner.register_many([*buffers[:3], bytearray()], "r")
    close(owner.register_many(buffers[:5], "rw"))


def test_a_child_keeps_what_lies_beside(owner: dsmem.Context, caller: dsmem.Context) -> None:
    """Small buffers share their pages with whatever else the process has there."""
    buffers = [bytearray(b"%7d" % i) for i in range(1000)]
    others = [bytearray(b"%7d" % i) for i in range(1000)]
    regions = owner.register_many(buffers[::2], "rw")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: the process has threads
        child = os.fork()
    if child == 0:
        whole = all(b == b"%7d" % i for some in (buffers, others) for i, b in enumerate(some))
        os._exit(0 if whole else 1)
    buffers[0][:4] = b"next"  # while the child is there: the page must not become a copy that the device doesn't see
    remote = caller.attach(regions[0].descriptor)
    out = bytearray(7)
    remote.read(0, out)
    remote.write(4, b"end")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert out[:4] == b"next" and buffers[0] == b"nextend"
    close([remote])
    close(regions)
