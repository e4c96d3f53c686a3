"""What Python gives the core, by the short way for plain ints and arrays and by the long one."""

import ctypes
import sys

import numpy as np
import pytest

import dsmem
from dsmem import errors

SECRET = b"the secret of the tests of values"


class Int(int):
    pass


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


class Array(np.ndarray):
    pass


KINDS = [int, Int, Index, np.int64, np.array]


@pytest.fixture
def remote():
    with dsmem.Context("shm", secret=SECRET) as context, context.allocate(64) as region:
        region.array()[:] = range(64)
        with context.attach(region.descriptor) as remote:
            yield remote


@pytest.mark.parametrize("kind", KINDS)
def test_offsets(remote, kind):
    out = bytearray(1)
    remote.read(kind(17), out)
    assert out[0] == 17
    for bad in (-1, 64, (1 << 63) - 1):
        with pytest.raises(errors.OutOfBoundsError):
            remote.read(kind(bad), out)


@pytest.mark.parametrize("kind", [int, Int, Index])
@pytest.mark.parametrize("bad", [1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 63), -(1 << 64)])
def test_offsets_beyond_the_end(remote, kind, bad):
    with pytest.raises(errors.OutOfBoundsError):
        remote.read(kind(bad), bytearray(1))


@pytest.mark.parametrize("bad", [1.0, "1", None, [1]])
def test_no_offsets_and_no_words(remote, bad):
    with pytest.raises(errors.InvalidArgumentError):
        remote.read(bad, bytearray(1))
    with pytest.raises(errors.InvalidArgumentError):
        remote.fetch_add(0, bad)


@pytest.mark.parametrize("kind", [int, Int, Index])
@pytest.mark.parametrize("word", [0, 1, -1, (1 << 63) - 1, -(1 << 63), 1 << 63, (1 << 64) - 1])
def test_words(remote, kind, word):
    remote.write(0, bytes(8))
    assert remote.compare_swap(0, 0, kind(word)) == 0
    assert remote.compare_swap(0, kind(word), 0) == word % (1 << 64)
    assert remote.fetch_add(0, kind(word)) == 0
    assert remote.fetch_add(0, 0) == word % (1 << 64)


@pytest.mark.parametrize("kind", [int, Int, Index])
@pytest.mark.parametrize("bad", [1 << 64, -(1 << 63) - 1])
def test_words_that_do_not_fit(remote, kind, bad):
    with pytest.raises(errors.InvalidArgumentError):
        remote.fetch_add(0, kind(bad))


@pytest.mark.parametrize("dtype", ["?", "i1", ">u4", "f8", "c16", "g", "S8", "V8", "u1,u4"])
@pytest.mark.parametrize("kind", [np.ndarray, Array])
@pytest.mark.parametrize("shape", [2, (1, 2), (2, 1, 1), ()])
def test_arrays(remote, dtype, kind, shape):
    out = np.zeros(shape, dtype).view(kind)
    remote.read(3, out)
    assert out.tobytes() == bytes(range(3, 3 + out.nbytes))
    remote.write(3, np.zeros_like(out))
    remote.read(3, out)
    assert out.tobytes() == bytes(out.nbytes)


@pytest.mark.parametrize("kind", [np.ndarray, Array])
def test_arrays_that_do_not_fit(remote, kind):
    square = np.zeros((4, 4), "u1").view(kind)
    for strided in (square[::2], square[:, :2], square.T[1:], np.asfortranarray(square)):
        with pytest.raises(errors.NonContiguousError, match="; read into a contiguous array"):
            remote.read(0, strided)
        with pytest.raises(errors.NonContiguousError, match=r"; pass numpy\.ascontiguousarray\(x\), which copies"):
            remote.write(0, strided)
    square.flags.writeable = False
    remote.write(0, square)
    with pytest.raises(errors.ReadOnlyBufferError):
        remote.read(0, square)
    with pytest.raises(errors.InvalidArgumentError):
        remote.read(0, np.zeros(0, "u1").view(kind))


def test_what_is_copied_is_what_the_error_names(cluster):
    """Calls that move bytes copy nothing; a segment stores values by their index."""
    strided = np.arange(8, dtype="u8")[::2]
    with cluster.queue("it", create=True) as queue, cluster.segment("values", 4, "u8", create=True) as segment:
        for call in (queue.put, queue.put_many):
            with pytest.raises(errors.NonContiguousError, match=r"; pass numpy\.ascontiguousarray\(x\), which copies"):
                call(strided)
        queue.put(np.ascontiguousarray(strided))
        segment.write(0, strided[0])
        segment[:] = strided
        assert queue.get() == strided.tobytes() == segment.read().tobytes()
        queue.unlink()
        segment.unlink()


def test_what_numpy_warns_of_is_read_only(remote):
    shared, _ = np.broadcast_arrays(np.zeros(8, "u1"), np.zeros((1, 8), "u1"))
    with pytest.raises(errors.ReadOnlyBufferError):
        remote.read(0, shared)


def test_an_array_is_held_by_a_batch(remote):
    def dropped():
        return np.full(8, 7, "u1")

    with remote.context.batch() as batch:
        for at in range(8):
            batch.write(remote, 8 * at, dropped())
    assert not np.any(remote.array() != 7)


class Later(ctypes.Structure):
    _fields_ = [("number", ctypes.c_uint64), ("thing", ctypes.py_object)]


class OnlyByName(ctypes.Structure):
    _fields_ = [("O", ctypes.c_uint64), ("MOO", ctypes.c_uint64)]


@pytest.mark.parametrize("count", [0, 1])
def test_objects_anywhere_in_a_format_are_refused(remote, count):
    """Their bytes are addresses."""
    what = (Later * count)() if count else Later(7, "thing")
    before = sys.getrefcount(what)
    for call in (remote.read, remote.write):
        with pytest.raises(errors.InvalidArgumentError, match="object"):
            call(0, what)
    assert sys.getrefcount(what) == before


def test_a_field_may_be_called_o(remote):
    read = OnlyByName()
    remote.write(0, OnlyByName(3, 4))
    remote.read(0, read)
    assert (read.O, read.MOO) == (3, 4)
