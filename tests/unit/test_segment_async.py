"""read_async and write_async take and refuse what read and write do, with the same exceptions and before any op."""

import asyncio
import functools

import numpy as np
import pytest

import dsmem

SHAPE = (4, 10)
INDICES = [0, (1, 2), slice(1, 3), ..., (slice(None), 3), slice(None, None, 2), [0, 3], 4, "a", slice("a", "b")]


def readonly(array):
    array.flags.writeable = False
    return array


OUTS = {
    "none": lambda shape: None,
    "array": lambda shape: np.zeros(shape, "i8"),
    "transposed": lambda shape: np.zeros(shape[::-1], "i8").T,
    "strided": lambda shape: np.zeros((*shape, 2), "i8")[..., 0],
    "one axis more": lambda shape: np.zeros((*shape, 1), "i8"),
    "flat": lambda shape: np.zeros(int(np.prod(shape)), "i8"),
    "wrong shape, strided": lambda shape: np.zeros((2, int(np.prod(shape))), "i8")[:, ::-1],
    "bytearray": lambda shape: bytearray(8 * int(np.prod(shape))),
    "short bytearray": lambda shape: bytearray(8 * int(np.prod(shape)) - 1),
    "bytes": lambda shape: bytes(8 * int(np.prod(shape))),
    ">i8": lambda shape: np.zeros(shape, ">i8"),
    "f4": lambda shape: np.zeros(shape, "f4"),
    "f8": lambda shape: np.zeros(shape, "f8"),
    "read-only": lambda shape: readonly(np.zeros(shape, "i8")),
    "masked": lambda shape: np.ma.zeros(shape, "i8"),
    "list": lambda shape: [0] * 10,
}
DATA = {
    "bytes": lambda shape: bytes(range(8)) * int(np.prod(shape)),
    "short bytes": lambda shape: bytes(8 * int(np.prod(shape)) - 1),
    "bytearray": lambda shape: bytearray(8 * int(np.prod(shape))),
    "strided bytes": lambda shape: memoryview(bytes(16 * int(np.prod(shape))))[::2],
    "number": lambda shape: 7,
    "array": lambda shape: np.arange(np.prod(shape, dtype=int)).reshape(shape),
    "transposed": lambda shape: np.arange(np.prod(shape, dtype=int)).reshape(shape[::-1]).T,
    ">i8": lambda shape: np.full(shape, 3, ">i8"),
    "f8": lambda shape: np.full(shape, 3.5),
    "wrong shape": lambda shape: np.zeros((3, 3), "i8"),
    "text": lambda shape: "x",
    "list": lambda shape: [1, 2],
    "masked": lambda shape: np.ma.zeros(shape, "i8"),
    "objects": lambda shape: np.full(shape, None),
}


@pytest.fixture
def found(cluster, other):
    """A handle as another process has it, and a function that sets the segment back."""
    with cluster.segment("a", SHAPE, "i8", create=True) as segment, other(segment) as found:
        yield found, lambda: segment.write(..., np.arange(40).reshape(SHAPE))


def outcome(call, *args):
    try:
        return "ok", call(*args)
    except Exception as error:
        return type(error), str(error)


def shape_of(index):
    try:
        return np.zeros(SHAPE)[index].shape
    except (IndexError, TypeError, ValueError):
        return (10,)


def awaited(call, *args):
    async def run():
        return await call(*args)

    return asyncio.run(run())


def same(one, other):
    if one[0] != "ok" or other[0] != "ok":
        return one == other
    return type(one[1]) is type(other[1]) and np.array_equal(one[1], other[1])


@pytest.mark.parametrize("what", OUTS)
def test_reading(found, what):
    remote, reset = found
    reset()
    for index in INDICES:
        outs = [OUTS[what](shape_of(index)) for _ in range(2)]
        plain = outcome(remote.read, index, outs[0])
        later = outcome(awaited, remote.read_async, index, outs[1])
        assert same(plain, later), (index, plain, later)
        assert plain[0] == "ok" or issubclass(plain[0], dsmem.DsmemError), (index, plain)
        assert np.array_equal(outs[0], outs[1])
        assert outs[1] is None or later[0] != "ok" or later[1] is outs[1]


@pytest.mark.parametrize("what", DATA)
def test_writing(found, what):
    remote, reset = found
    for index in INDICES:
        data = DATA[what](shape_of(index))
        reset()
        plain, wanted = outcome(remote.write, index, data), remote.read()
        reset()
        later = outcome(awaited, remote.write_async, index, data)
        assert plain == later, index
        assert plain[0] == "ok" or issubclass(plain[0], dsmem.DsmemError), (index, plain)
        assert np.array_equal(remote.read(), wanted), index


def test_what_is_refused_moves_nothing(cluster, other, cluster_place):
    if cluster_place in ("local", "shm"):
        pytest.skip("nothing moves where the memory is mapped")
    with cluster.segment("a", SHAPE, "i8", create=True) as segment, other(segment) as remote:
        context = remote._memory.remote.context
        remote.read(0)
        before = context.stats["posts"]
        for out in (np.zeros(10, ">i8"), bytearray(79), np.zeros((2, 10), "i8")[:, ::-1], readonly(np.zeros(10, "i8"))):
            for index in (0, [0, 1]):
                for call in (remote.read, functools.partial(awaited, remote.read_async)):
                    with pytest.raises(dsmem.DsmemError):
                        call(index, out if index == 0 or isinstance(out, bytearray) else out[..., :7])
        assert context.stats["posts"] == before
