"""What a segment is made of: dtypes that come back as they were or are refused, arrays as patterns and as contents."""

import subprocess
import sys
import warnings

import ml_dtypes
import numpy as np
import pytest

from dsmem import errors
from dsmem.dtypes import describe_dtype, parse_dtype

KEPT = {
    "bfloat16": ml_dtypes.bfloat16,
    "fp8": ml_dtypes.float8_e4m3fn,
    "int4": ml_dtypes.int4,
    "field of bfloat16": [("a", ml_dtypes.bfloat16), ("b", "f4")],
    "reordered": {"names": ["b", "a"], "formats": ["i4", "i4"], "offsets": [4, 0]},
    "overlapping": {"names": ["a", "b"], "formats": ["i8", "i4"], "offsets": [0, 4]},
    "record": (np.record, [("a", "i4"), ("b", "f8")]),
    "aligned": np.dtype([("a", "u1"), ("b", "f8")], align=True),
    "aligned without a hole": np.dtype([("a", "f4"), ("b", "f4")], align=True),
    "aligned inside": [("x", "u1"), ("y", np.dtype([("a", "u1"), ("b", "f8")], align=True))],
    "a record inside": [("x", np.dtype((np.record, [("a", "i4")])))],
    "titles": [(("title", "a"), "i4"), ("b", "f4")],
    "titles and holes": {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [4, 12], "titles": ["t", None]},
    "padded": {"names": ["a"], "formats": ["i4"], "offsets": [4], "itemsize": 16},
    "names beyond ASCII": [("ä", "i4"), ("\\n", "i4"), ("'\"", "i4")],
    "many axes": [("a", "f4", (2, 3)), ("b", [("c", ">i2", (2,))], (2,))],
    "half": "f2",
    "long double": "g",
    "other time": "M8[25s]",
}
REFUSED = {
    "metadata": np.dtype("f8", metadata={"x": 1}),
    "metadata of a field": [("a", np.dtype("f8", metadata={"x": 1}))],
    "objects": [("a", "i4"), ("b", "O")],
    "no size": "U0",
    "no fields": [],
    "strings of NumPy 2": np.dtypes.StringDType() if hasattr(np.dtypes, "StringDType") else "O",
    "own class": np.dtype((type("Own", (np.void,), {}), [("a", "i4")])),
}


def facts(kind):
    """All that makes two dtypes the same to their users."""
    inner = [(name, facts(kind[name]), kind.fields[name][1:]) for name in kind.names or ()]
    return kind, kind.type, kind.itemsize, kind.isalignedstruct, kind.subdtype, inner


@pytest.mark.parametrize("dtype", KEPT.values(), ids=KEPT)
def test_a_dtype_comes_back_as_it_was(cluster, other, dtype):
    kind = np.dtype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with cluster.segment("a", 4, dtype, create=True) as made, other(made) as found:
            assert facts(found.dtype) == facts(kind)
            values = np.zeros(4, kind)
            if kind.kind == "f":
                values[:] = range(4)
            else:
                values.view("u1")[:] = np.arange(values.nbytes) % 64
            made[...] = values
            assert found[...].tobytes() == values.tobytes() and type(found[1]) is type(values[1])
            found[2] = values[3]
            assert found[2] == values[3] or kind.names
            with cluster.segment("a", 4, dtype, create=None):
                pass


@pytest.mark.parametrize("dtype", REFUSED.values(), ids=REFUSED)
def test_a_dtype_that_would_be_lost_is_refused_and_nothing_made(cluster, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for create in (True, None):
            with pytest.raises(errors.InvalidArgumentError):
                cluster.segment("a", 4, dtype, create=create)
    assert cluster.list() == []


def test_what_numpy_writes_is_read():
    """numpy.lib.format pads with fields without a name."""
    for dtype in (KEPT["padded"], KEPT["aligned"], [("a", "i4", (2,))]):
        kind = np.dtype(dtype)
        text = repr(np.lib.format.dtype_to_descr(kind)).encode()
        assert parse_dtype(text) == kind


@pytest.mark.parametrize("text", [b"'ml_dtypes.nothing'", b"'ml_dtypes.finfo'", b"'os.path'", b"'ml_dtypes.'"])
def test_names_that_are_no_types(text):
    with pytest.raises(errors.CorruptError):
        parse_dtype(text)


def test_without_the_extension():
    code = f"""
import sys
sys.modules["ml_dtypes"] = None
from dsmem import dtypes, errors
try:
    dtypes.parse_dtype({describe_dtype(ml_dtypes.bfloat16)!r})
except errors.UnsupportedError as error:
    assert "pip install ml_dtypes" in str(error)
    print("well")
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "well\n"


def test_another_type_of_the_same_size_differs(cluster):
    cluster.segment("a", 4, ml_dtypes.bfloat16, create=True).close()
    for wrong in ("V2", "f2", ml_dtypes.float8_e5m2):
        with pytest.raises(errors.MismatchError):
            cluster.segment("a", dtype=wrong)


# -- from arrays --


def test_like(cluster, other):
    pattern = np.arange(12, dtype="u2").reshape(3, 4)
    with cluster.segment("a", like=pattern, create=True) as made:
        assert made.shape == (3, 4) and made.dtype == "u2" and not made[...].any()
        with (
            cluster.segment("b", like=made, create=True) as again,
            cluster.segment("c", 5, like=made, create=True) as c,
        ):
            assert again.shape == (3, 4) and again.dtype == "u2" and c.shape == (5,) and c.dtype == "u2"
        with other(made) as remote, cluster.segment("d", like=remote, dtype="f4", create=True) as d:
            assert d.shape == (3, 4) and d.dtype == "f4"
        with pytest.raises(errors.MismatchError):
            cluster.segment("a", like=pattern.T, create=None)


@pytest.mark.parametrize("versioned", [False, True])
def test_data(cluster, other, versioned):
    data = np.asfortranarray(np.arange(12, dtype=">i4").reshape(3, 4))
    with cluster.segment("a", data=data, versioned=versioned, capacity=5, create=True) as made, other(made) as found:
        assert found.shape == (3, 4) and found.dtype == ">i4" and np.array_equal(found[...], data)
        if versioned:
            version, copy = found.snapshot()
            assert version == 0 and np.array_equal(copy, data)
            with pytest.raises(ZeroDivisionError), made.writing() as array:
                array[:] = 5
                _ = 1 / 0
            assert np.array_equal(made[...], data), "the shadow has it, too"
    with cluster.segment("a", data=np.zeros_like(data), create=None) as found:
        assert np.array_equal(found[...], data), "what is there stays"


def test_data_of_other_kinds(cluster):
    cases = {
        "list": ({"data": [[1, 2], [3, 4]]}, np.array([[1, 2], [3, 4]])),
        "scalar": ({"data": 2.5}, np.array(2.5)),
        "bytes": ({"data": b"abc"}, np.frombuffer(b"abc", "u1")),
        "bytearray": ({"data": bytearray(b"abc")}, np.frombuffer(b"abc", "u1")),
        "another dtype": ({"data": [1, 2], "dtype": "f4"}, np.array([1, 2], "f4")),
        "another shape": ({"data": [1, 2], "shape": (3, 2)}, np.array([[1, 2]] * 3)),
        "bfloat16": ({"data": np.ones(3, ml_dtypes.bfloat16)}, np.ones(3, ml_dtypes.bfloat16)),
    }
    for name, (how, wanted) in cases.items():
        with cluster.segment(name.replace(" ", "-"), create=True, **how) as s:
            assert s.dtype == wanted.dtype and s.shape == wanted.shape and np.array_equal(s[...], wanted), name
            s.unlink()
    for how in (
        {"data": [1, 2], "shape": 3},
        {"data": object()},
        {"data": ["a"], "dtype": "f8"},
        {"data": [[1], [1, 2]]},
    ):
        with pytest.raises(errors.InvalidArgumentError):
            cluster.segment("a", create=True, **how)
    assert cluster.list() == []


# -- like an array --


def test_a_segment_in_brackets(cluster, other):
    with cluster.segment("a", data=np.arange(24).reshape(4, 3, 2), create=True) as made, other(made) as s:
        assert len(s) == 4 and s.size == 24 and s.ndim == 3 and s[1, 2, 1] == 11
        assert s[-1].tolist() == [[18, 19], [20, 21], [22, 23]] and s[1:3, 0].tolist() == [[6, 7], [12, 13]]
        s[0] = 5
        s[1, 1] += 100
        assert made[0].tolist() == [[5, 5]] * 3 and made[1, 1].tolist() == [108, 109]
        assert [row[0, 0] for row in s] == [5, 6, 12, 18]
        row = s[2]
        row[:] = 0
        assert s[2, 0, 0] == 12, "what brackets give is a copy"
        with pytest.raises(errors.OutOfBoundsError):
            s[4]
    with cluster.segment("scalar", data=7, create=True) as s:
        assert s.size == 1 and s.ndim == 0 and s[()] == 7
        with pytest.raises(TypeError):
            iter(s)


INTEGERS = [*"bBhHiIlL", ">i4", ">u8", "?", "f4", ml_dtypes.int4]


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_plain_ints_are_written_as_numpy_does(cluster, other, kind):
    """Also those that do not fit: they are refused or taken as by an array, and nothing is written beside them."""
    one = np.zeros((), kind)
    edges = [
        0,
        1,
        -1,
        7,
        8,
        *(
            sign * (1 << bits) + step
            for bits in (7, 8, 15, 16, 31, 32, 63, 64)
            for sign in (1, -1)
            for step in (-1, 0, 1)
        ),
    ]
    with cluster.segment("a", 3, kind, create=True) as made, other(made) as s, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 1 warns of what does not fit, and takes it
        for value in edges:
            one[()] = 0
            s.write(1, 0)
            try:
                one[()] = value
            except (OverflowError, ValueError):
                with pytest.raises(errors.InvalidArgumentError):
                    s.write(1, value)
            else:
                s.write(1, value)
                if int(one[()]) == value:
                    found = s.wait(1, value, timeout=30)
                    assert (found, found.dtype) == (one, one[()].dtype)
            assert s.read().tolist() == [0, one.item() if one.dtype.kind != "V" else one[()], 0], value


@pytest.mark.parametrize("until", [-1, 1 << 8, 1 << 64, 5.5, True + 1, "x"])
def test_a_wait_for_what_no_element_can_be_runs_out(cluster, other, until):
    with cluster.segment("a", 3, "u1", create=True) as made, other(made) as s:
        with pytest.raises(errors.TimeoutError):
            s.wait(1, until, timeout=0)
