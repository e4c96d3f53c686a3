"""What calls of a segment take for an index, a number of rows, a timeout, and what NumPy takes a segment for."""

import numpy as np
import pytest

from dsmem import errors

NO_ROWS = [True, np.True_, np.array(True), np.array(1.5), (0, False), [True, False, True, False], [0.5], ["a"]]


@pytest.mark.parametrize("index", [*NO_ROWS, np.array([1.0])], ids=repr)
def test_what_is_not_a_row_of_remote_memory(cluster, other, cluster_place, index):
    """NumPy takes a bool for a mask, whose elements are a copy: where they lie says nothing about the segment."""
    if cluster_place in ("local", "shm"):
        pytest.skip("NumPy itself indexes what is local")
    with cluster.segment("a", (4, 3), "i8", create=True) as s, other(s) as remote:
        with pytest.raises(errors.InvalidArgumentError, match="of remote memory"):
            remote.read(index)
        with pytest.raises(errors.InvalidArgumentError, match="of remote memory"):
            remote.write(index, 7)
        assert not s.read().any()
        remote.write(np.array(1), 7)  # an int
        assert s.read(slice(None, 2)).tolist() == [[0] * 3, [7] * 3]
        with cluster.segment("one", (), "i8", create=True) as one, other(one) as remote_one:
            with pytest.raises(errors.InvalidArgumentError, match="of remote memory"):
                remote_one.read([0])


def test_numpy_asarray(cluster, other, cluster_place):
    with cluster.segment("a", 4, "i8", create=True) as s:
        array = np.asarray(s)
        s.write(1, 5)
        assert array.tolist() == [0, 5, 0, 0] and np.array(s, "f4").dtype == "f4"
        copy = np.array(s)
        s.write(2, 6)
        assert array[2] == 6 and copy[2] in (0, 6)  # NumPy 1 copies only where it is told to in another way
        if cluster_place not in ("local", "shm"):
            with other(s) as remote, pytest.raises(errors.NotMappedError):
                np.asarray(remote)
        del array


def test_what_is_no_number_of_rows(cluster):
    with cluster.segment("a", (4, 3), "i8", create=True) as s:
        for rows in ("a", 2.5, (2, 3), -1):
            with pytest.raises(errors.InvalidArgumentError, match="rows of a segment"):
                s.resize(rows)
        assert s.shape == (4, 3)


def test_update_says_what_is_no_element(cluster):
    with cluster.segment("a", (4, 3), "i8", create=True) as s, cluster.segment("f", 4, "f8", create=True) as f:
        for of, index in ((s, 0), (f, 0)):
            with pytest.raises(errors.InvalidArgumentError, match=r"one element|8-byte integers"):
                of.update(index, lambda value: value)
        for timeout in (-1, "x"):
            with pytest.raises(errors.InvalidArgumentError, match="timeout="):
                s.update((0, 0), lambda value: value, timeout=timeout)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_an_array_in_fortran_order_keeps_its_values_by_index(here, shape):
    array = np.asfortranarray(np.arange(np.prod(shape), dtype="f4").reshape(shape))
    with here.segment("f", data=array, create=True) as segment, here.segment("l", like=array, create=True) as like:
        assert segment.array.flags.c_contiguous and like.array.flags.c_contiguous
        assert segment.shape == like.shape == shape and segment.dtype == like.dtype == array.dtype
        np.testing.assert_array_equal(segment.array, array)
    with here.segment("t", data=array.T, create=True) as segment:
        there = segment.array.T
        assert there.flags.f_contiguous and there.strides == array.strides
        np.testing.assert_array_equal(there, array)
        del there
