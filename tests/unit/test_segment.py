"""Segments: arrays under a name, local and remote."""

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import dsmem
from dsmem import errors
from dsmem.dtypes import describe_dtype, parse_dtype
from dsmem.names import local

RECORD = np.dtype([("id", "<u8"), ("at", "<M8[us]"), ("xy", "<f4", (2,)), ("name", "S6")], align=True)
DTYPES = ["?", "u1", "<i4", ">f8", "c16", "M8[ns]", "m8[s]", "S5", "U3", "V7", RECORD]


def numbers(n, dtype="i8", seed=1):
    return np.random.default_rng(seed).integers(-1000, 1000, n).astype(dtype)


@pytest.fixture
def segment(cluster):
    with cluster.segment("a", (6, 5, 4), "i8", create=True) as segment:
        segment.write(..., numbers((6, 5, 4)))
        yield segment


# -- shape and dtype --


def test_made_zero_and_found_again(cluster, other):
    with cluster.segment("a", (3, 4), "f4", create=True) as made:
        assert made.shape == (3, 4) and made.dtype == "f4" and made.nbytes == 48 and len(made) == 3
        assert made.read().tolist() == np.zeros((3, 4)).tolist() and not made.versioned
        made.write((1, 2), 2.5)
        for found in (cluster.segment("a"), cluster.segment("a", (3, 4), np.float32, create=None), other(made)):
            with found:
                assert found.shape == (3, 4) and found.dtype == "f4" and found.read((1, 2)) == 2.5
                found.write((1, 3), found.read((1, 3)) + 1)
        assert made.read((1, 3)) == 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(cluster, other, dtype):
    kind = np.dtype(dtype)
    assert parse_dtype(describe_dtype(kind)) == kind
    values = np.frombuffer(bytes(range(1, 1 + 4 * kind.itemsize)), "u1").copy()
    values = (values % 2 if kind.kind == "?" else values * 0 + 49 if kind.kind == "U" else values).view("u1")
    if kind.kind == "U":
        values = np.array(["a", "bc", "def", ""], kind)
    values = values.view(kind) if kind.kind != "U" else values
    with cluster.segment("a", 4, kind, create=True) as made, other(made) as found:
        assert found.dtype == kind and found.dtype.descr == kind.descr
        made.write(..., values)
        assert found.read().tobytes() == values.tobytes()
        found.write(2, values[3])
        one = np.zeros(1, kind)
        one[0] = values[3]  # without what pads it
        assert made.read(slice(2, 3)).tobytes() == one.tobytes() and made.read(slice(2, 3)).dtype == kind
        assert kind.names or made.read(2) == values[3]
        out = np.zeros(4, kind)
        assert made.read(..., out) is out and out[:2].tobytes() == values[:2].tobytes()


def test_shapes(cluster):
    with cluster.segment("scalar", (), "i8", create=True) as s:
        s.write((), 7)
        assert s.shape == () and s.read() == 7 and s.fetch_add((), 1) == 7 and s.read(()) == 8
        with pytest.raises(TypeError):
            len(s)
        for bad in (0, slice(1)):
            with pytest.raises(errors.OutOfBoundsError):
                s.read(bad)
        with pytest.raises(errors.InvalidArgumentError):
            s.resize(2)
    with cluster.segment("empty", (0, 3), "i8", create=True) as s:
        assert s.read().shape == (0, 3) and s.nbytes == 0 and s.read(slice(None)).shape == (0, 3)
        s.write(..., np.empty((0, 3)))
        with pytest.raises(errors.OutOfBoundsError):
            s.read(0)
    with cluster.segment("sub", 2, np.dtype(("i4", (3,))), create=True) as s:
        assert s.shape == (2, 3) and s.dtype == "i4"
    with cluster.segment("plain", 10, create=True) as s:
        assert s.dtype == "f8"


@pytest.mark.parametrize(
    "shape, dtype",
    [
        (None, "i8"),
        (-1, "i8"),
        ("3", "i8"),
        ((2, 0), "i8"),
        ((1.5,), "i8"),
        ((1,) * 17, "i8"),
        (3, object),
        (3, [("a", "i4"), ("b", object)]),
        (3, "no such"),
        (3, "V0"),
        (3, [(f"a field with quite a long name {i}", "i4") for i in range(200)]),
    ],
    ids=repr,
)
def test_what_can_not_be_made(cluster, shape, dtype):
    with pytest.raises(errors.InvalidArgumentError):
        cluster.segment("a", shape, dtype, create=True)
    assert cluster.list() == []


def test_another_shape_or_dtype_says_both(cluster):
    cluster.segment("a", (3, 4), "i8", create=True).close()
    cases = [
        ({"shape": (4, 3)}, r"shape \(3, 4\), not \(4, 3\)"),
        ({"dtype": "f8"}, "dtype int64, not float64"),
        ({"shape": 12, "dtype": "u8"}, r"dtype int64, not uint64 and shape \(3, 4\), not \(12,\)"),
        ({"versioned": True}, "versioned=False, not True"),
    ]
    for how, says in cases:
        for create in (False, None):
            with pytest.raises(errors.MismatchError, match=says):
                cluster.segment("a", create=create, **how)
    assert cluster.list()[0].kind == "segment"


# -- reading and writing --

INDICES = [
    0,
    -1,
    np.int64(3),
    slice(None),
    slice(1, 3),
    slice(-3, None),
    slice(4, 2),
    slice(None, None, 2),
    slice(None, None, -1),
    slice(5, 0, -2),
    ...,
    (),
    (2,),
    (2, 3),
    (2, 3, 1),
    (-1, -1, -1),
    (slice(None), 2),
    (slice(None), slice(1, 3)),
    (slice(None), slice(None), 3),
    (..., 1),
    (1, ..., slice(None, None, 3)),
    (slice(0, 6, 3), slice(None), slice(1, 2)),
    (slice(None, None, -1), slice(3, None, -2), slice(None, None, -1)),
    [4, 0, -1, 4],
    [],
]


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_indices_are_those_of_numpy(segment, other, index):
    with other(segment) as found:
        wanted = segment.read()
        part = wanted[index]
        read = found.read(index)
        assert read.shape == part.shape and np.array_equal(read, part)
        out = np.zeros(part.shape, "i8")
        found.read(index, out)
        assert np.array_equal(out, part)
        new = numbers(part.shape, seed=2)
        found.write(index, new)
        wanted[index] = new
        assert np.array_equal(segment.read(), wanted)
        found.write(index, 5)
        wanted[index] = 5
        assert np.array_equal(segment.read(), wanted)


def test_the_same_in_an_event_loop(segment, other):
    async def run():
        with other(segment) as found:
            wanted = segment.read()
            for index in (2, (1, 2, 3), slice(1, 5, 2), (slice(None), 1, slice(None, None, 2))):
                assert np.array_equal(await found.read_async(index), wanted[index])
                out = np.empty_like(wanted[index])
                await found.read_async(index, out)
                assert np.array_equal(out, wanted[index])
                await found.write_async(index, 9)
                wanted[index] = 9
            assert np.array_equal(segment.read(), wanted)

    asyncio.run(run())


@pytest.mark.parametrize(
    "index", [6, -7, 1 << 70, (0, 5), (0, 0, 0, 0), (slice(None), 9), [6], [-7], "a", 1.5, None, (0, "a")], ids=repr
)
def test_no_indices(segment, other, index):
    with other(segment) as found:
        if index is None and found.array is not None if found._memory.remote.is_mapped else False:
            return  # NumPy's new axis
        for call in (lambda: found.read(index), lambda: found.write(index, 0)):
            with pytest.raises((errors.OutOfBoundsError, errors.InvalidArgumentError)):
                call()


def test_buffers(cluster, other):
    with cluster.segment("a", 10, "u2", create=True) as made, other(made) as s:
        s.write(slice(0, 3), b"\1\0\2\0\3\0")
        s.write(slice(3, 5), memoryview(bytearray(b"\4\0\5\0")))
        s.write(5, b"\6\0")
        s.write(slice(6, 8), [7, 8.0])
        assert s.read().tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 0, 0]
        out = bytearray(6)
        s.read(slice(1, 4), out)
        assert out == b"\2\0\3\0\4\0"
        wide = np.zeros(6, "u2")
        s.read(slice(0, 3), wide[::2])
        assert wide.tolist() == [1, 0, 2, 0, 3, 0]
        s.write(slice(0, 3), wide[1::2])
        assert s.read(slice(0, 4)).tolist() == [0, 0, 0, 4]
        s.write(slice(0, 4), np.array([1, 2, 3, 4], "f8"))
        assert s.read(slice(0, 4)).tolist() == [1, 2, 3, 4]


def test_wrong_buffers(cluster, other):
    with cluster.segment("a", 10, "u2", create=True) as made, other(made) as s:
        cases = [
            (errors.MismatchError, lambda: s.read(slice(0, 3), bytearray(5))),
            (errors.MismatchError, lambda: s.read(slice(0, 3), np.zeros(3, "i2"))),
            (errors.ReadOnlyBufferError, lambda: s.read(slice(0, 3), bytes(6))),
            (errors.MismatchError, lambda: s.write(slice(0, 3), b"12345")),
            (errors.InvalidArgumentError, lambda: s.write(slice(0, 3), np.zeros(4, "u2"))),
            (errors.InvalidArgumentError, lambda: s.write(slice(0, 3), "abc")),
            (errors.InvalidArgumentError, lambda: s.write(0, "abc")),
            (errors.InvalidArgumentError, lambda: s.write((slice(0, 6, 2),), [1, 2])),
            (errors.InvalidArgumentError, lambda: s.read(slice(0, 3), 5)),
        ]
        for error, call in cases:
            with pytest.raises(error):
                call()
        read_only = np.zeros(3, "u2")
        read_only.flags.writeable = False
        with pytest.raises(errors.ReadOnlyBufferError):
            s.read(slice(0, 3), read_only)
        assert not s.read().any()


def test_one_crossing_for_a_slice_in_many_pieces(segment, other, cluster_place):
    if cluster_place == "local":
        pytest.skip("a cluster of this host has no counters")
    with other(segment) as s:
        context = s._memory.remote.context
        before = context.stats["doorbells"]
        s.read((slice(None), slice(None), 1))
        s.write((slice(None), slice(None), 1), 3)
        assert context.stats["doorbells"] - before == (0 if s._memory.remote.is_mapped else 2)


# -- views --


def test_views_are_the_memory(here):
    with here.segment("a", (3, 4), "i4", create=True) as s:
        view = s.array
        view[1] = 7
        assert s.read(1).tolist() == [7] * 4
        assert np.from_dlpack(s)[1, 1] == 7 and s.__dlpack_device__() == (1, 0)
        assert view.ctypes.data % 4096 == 0, "page-aligned"
        with pytest.raises(errors.BusyError):
            s.close()
        assert s.read((1, 1)) == 7, "and nothing has been closed"
        del view


def test_views_outlive_a_with_statement(here):
    with here.segment("a", 4, "i4", create=True) as s:
        view = s.array
        view[:] = 7
    assert s.closed and view.tolist() == [7] * 4 and mappings(here) == 1
    with pytest.raises(errors.ClosedError):
        s.read(0)
    del view
    assert mappings(here) == 0


def mappings(cluster):
    return Path("/proc/self/maps").read_text().count(f"/{cluster.name}/")


def test_remote_memory_has_no_view(segment, other):
    with other(segment) as s:
        if s._memory.remote.is_mapped:
            assert s.array.shape == (6, 5, 4)
        else:
            with pytest.raises(errors.NotMappedError):
                _ = s.array
    assert segment.array.shape == (6, 5, 4), "its owner has one"


def test_read_only(cluster, other):
    cluster.segment("a", 4, "i8", create=True, versioned=True).close()
    with cluster.segment("a", readonly=True) as s:
        assert s.readonly and not s.array.flags.writeable and s.snapshot()[0] == 0
        assert s.read().tolist() == [0] * 4
        calls = [
            lambda: s.write(0, 1),
            lambda: s.write([0, 1], 1),
            lambda: s.publish([1, 2, 3, 4]),
            lambda: s.resize(2),
            lambda: s.writing().__enter__(),
            lambda: s.fetch_add(0, 1),
            lambda: s.compare_swap(0, 0, 1),
        ]
        for call in calls:
            with pytest.raises(errors.AccessDeniedError):
                call()
        with pytest.raises(errors.TimeoutError):
            s.wait(0, 1, timeout=0.01)
        with pickle.loads(pickle.dumps(s)) if s.ref.cluster else other(s) as again:
            assert again.readonly
    with pytest.raises(errors.InvalidArgumentError):
        cluster.segment("b", 4, create=True, readonly=True)


# -- atomics --


def test_atomics(cluster, other):
    with cluster.segment("a", (2, 3), "i8", create=True) as made, other(made) as s:
        assert s.fetch_add((1, 2), -5) == 0 and s.fetch_add((-1, -1), 1) == -5 and s.read((1, 2)) == -4
        assert s.compare_swap((0, 1), 0, -(1 << 63)) == 0 and s.compare_swap((0, 1), 0, 1) == -(1 << 63)
        assert s.update((0, 0), lambda v: v + 7) == (0, 7)
        assert made.read().tolist() == [[7, -(1 << 63), 0], [0, 0, -4]]
        for bad in (0, slice(1), (0, slice(1)), "x"):
            with pytest.raises(errors.InvalidArgumentError):
                s.fetch_add(bad, 1)
        with pytest.raises(errors.OutOfBoundsError):
            s.fetch_add((2, 0), 1)
        with pytest.raises(errors.InvalidArgumentError):
            s.fetch_add((0, 0), 1 << 64)
    for dtype in ("i4", ">i8", "f8", "M8[s]"):
        with cluster.segment("n", 2, dtype, create=True) as s:
            s.unlink()
            with pytest.raises(errors.InvalidArgumentError, match="8-byte integers"):
                s.compare_swap(0, 0, 1)


def test_an_update_loses_nothing(cluster, other):
    with cluster.segment("a", 1, "u8", create=True) as made, other(made) as s:

        def count():
            for _ in range(300):
                s.update(0, lambda v: v + 1)

        threads = [threading.Thread(target=count) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert made.read(0) == 1200


def test_an_update_that_others_outrun_ends(cluster):
    with cluster.segment("a", 1, "u8", create=True) as s:

        def meddle(value):
            s.fetch_add(0, 1)
            return value

        with pytest.raises(errors.TimeoutError):
            s.update(0, meddle, timeout=0.02)


# -- waiting --


def test_wait(cluster, other):
    with cluster.segment("a", 3, "i8", create=True) as made, other(made) as s:
        assert s.wait(1, 0) == 0 and s.wait(1, lambda v: v < 1) == 0
        with pytest.raises(errors.TimeoutError):
            s.wait(1, 5, timeout=0.01)
        with pytest.raises(errors.TimeoutError):
            s.wait(1, 5, timeout=0)
        got = []
        waiter = threading.Thread(target=lambda: got.append(int(s.wait(1, lambda v: v >= 3, timeout=30))))
        waiter.start()
        for _ in range(3):
            made.fetch_add(1, 1)
        waiter.join()
        assert got == [3]
        with pytest.raises(errors.InvalidArgumentError):
            s.wait(slice(2), 1)
        with pytest.raises(ZeroDivisionError):
            s.wait(1, lambda v: 1 / 0)


def test_wait_sees_what_is_stored_through_a_view(here):
    with here.segment("a", 3, RECORD, create=True) as s:
        got = []
        waiter = threading.Thread(target=lambda: got.append(s.wait(2, lambda v: v["name"] == b"go", timeout=30)))
        waiter.start()
        s.array[2]["name"] = b"go"
        waiter.join()
        assert got[0]["name"] == b"go"


def test_a_waiter_sleeps(here):
    with here.segment("a", 1, "i8", create=True) as s:
        before = time.process_time()
        with pytest.raises(errors.TimeoutError):
            s.wait(0, 1, timeout=0.5)
        assert time.process_time() - before < 0.25


def test_a_waiter_can_be_interrupted(here):
    here.segment("a", 1, "i8", create=True).close()
    code = f"""
import dsmem
with dsmem.connect({here.name!r}).segment("a") as s:
    try:
        print("waits", flush=True)
        s.wait(0, 1)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "waits\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
        finally:
            process.kill()


# -- resize --


def test_resize_within_the_capacity(cluster, other):
    with cluster.segment("a", (3, 2), "i8", create=True, capacity=5) as made, other(made) as s:
        assert made.capacity == 5 and s.shape == (3, 2)
        made.write(..., 1)
        made.resize(5)
        assert s.shape == (5, 2) and s.read(4).tolist() == [0, 0] and s.read().shape == (5, 2)
        s.write(4, 7)
        assert made.read(4).tolist() == [7, 7]
        s.resize(1)
        assert made.shape == (1, 2)
        with pytest.raises(errors.OutOfBoundsError):
            made.read(1)
        s.resize(5)
        assert made.read(4).tolist() == [7, 7], "what was cut off comes back"
        for bad in (-1, 1 << 64):
            with pytest.raises(errors.InvalidArgumentError):
                s.resize(bad)


def test_a_remote_handle_finds_the_rows_by_their_index(cluster, other):
    with cluster.segment("a", 3, "i8", create=True, capacity=9) as made, other(made) as s:
        made.resize(9)
        made.write(8, 5)
        assert s.read(8) == 5


def test_what_can_not_grow_says_so(cluster):
    for how in ({}, {"capacity": 5}):
        with cluster.segment(f"v{len(how)}", 3, "i8", create=True, versioned=True, **how) as s:
            with pytest.raises(errors.InvalidArgumentError, match="capacity="):
                s.resize(6)
    for capacity in (2, "5", -1):
        with pytest.raises(errors.InvalidArgumentError):
            cluster.segment("c", 3, create=True, capacity=capacity)
    with cluster.segment("d", 3, "i8", create=True) as s:
        if s.ref.cluster:
            s.resize(6)
            assert s.shape == (6,)
        else:
            with pytest.raises(errors.InvalidArgumentError, match="capacity="):
                s.resize(6)


def test_files_grow_under_their_users(here):
    made, found, third = (here.segment("a", (3, 4), "i4", create=None) for _ in range(3))
    view = found.array
    made.resize(10_000)
    found.write(9_999, 7)
    assert made.read(9_999).tolist() == [7] * 4 and found.shape == (10_000, 4) == found.array.shape
    made.write(0, 5)
    assert view.shape == (3, 4) and view[0].tolist() == [5] * 4, "an old view shows what it has"
    with pytest.raises(errors.BusyError):
        found.close()
    del view
    found.close()
    made.unlink()
    with pytest.raises(errors.NameNotFoundError):
        made.resize(1_000_000)
    assert third.shape == (10_000, 4), "what came to it is mapped without the name"
    made.resize(3)
    assert third.shape == (3, 4)
    made.close()
    third.close()


def test_growing_loses_no_write(here):
    """The memory stays where it is, so writers need not stop."""
    with here.segment("a", 8, "i8", create=True) as s, here.segment("a") as writer:
        stop, done = threading.Event(), [0]

        def write():
            while not stop.is_set():
                writer.fetch_add(7, 1)
                done[0] += 1

        thread = threading.Thread(target=write)
        thread.start()
        for n in range(1, 40):
            s.resize(8 + 1000 * n)
        stop.set()
        thread.join()
        assert s.read(7) == done[0] and done[0]


# -- versions --


@pytest.fixture
def versioned(cluster):
    with cluster.segment("v", (100, 10), "i8", create=True, versioned=True) as segment:
        yield segment


def test_versions(versioned, other):
    with other(versioned) as s:
        assert s.snapshot()[0] == 0 and not s.snapshot()[1].any()
        assert s.publish(numbers((100, 10))) == 1
        version, copy = versioned.snapshot()
        assert version == 1 and np.array_equal(copy, numbers((100, 10))) and np.array_equal(s.read(), copy)
        assert versioned.publish(5) == 2 and (s.snapshot()[1] == 5).all()
        with s.writing() as array:
            array[3] = 9
            assert versioned.snapshot()[0] == 2 and (versioned.snapshot()[1] == 5).all(), "not before its end"
        version, copy = versioned.snapshot()
        assert version == 3 and (copy[3] == 9).all() and (copy[4] == 5).all()


def test_an_exception_undoes_a_write(versioned, other):
    with other(versioned) as s:
        s.publish(1)
        with pytest.raises(ZeroDivisionError), s.writing() as array:
            array[:50] = 2
            _ = 1 / 0
        version, copy = s.snapshot()
        assert version == 1 and (copy == 1).all() and (versioned.read() == 1).all()
        with pytest.raises(errors.MismatchError):
            s.publish(np.zeros((3, 3)))
        assert versioned.publish(2) == 2, "and no process holds it"


def test_one_writer_at_a_time(versioned, other):
    with other(versioned) as s, s.writing():
        with pytest.raises(errors.TimeoutError):
            versioned.publish(1, timeout=0.01)
        with pytest.raises(errors.TimeoutError):
            s.publish(1, timeout=0)
    assert versioned.publish(1) == 2


def test_resize_makes_a_version(cluster, other):
    with cluster.segment("v", 4, "i8", create=True, versioned=True, capacity=8) as made, other(made) as s:
        made.publish([1, 2, 3, 4])
        s.resize(6)
        version, copy = made.snapshot()
        assert version == 2 and copy.tolist() == [1, 2, 3, 4, 0, 0]
        made.resize(2)
        assert s.snapshot()[1].tolist() == [1, 2] and s.publish([7, 8]) == 4


def test_no_versions_without_room_for_them(segment):
    for call in (segment.snapshot, lambda: segment.publish(1), lambda: segment.writing().__enter__()):
        with pytest.raises(errors.InvalidArgumentError, match="versioned=True"):
            call()


def test_readers_see_one_version(versioned, other):
    """Writers, readers that may make them wait and one that may not: no copy is a mixture, and versions only rise."""
    stop, failed = threading.Event(), []

    def write(segment, value):
        try:
            while not stop.is_set():
                with segment.writing() as array:
                    array[:] = array[0, 0] + value
        except BaseException as error:
            failed.append(error)

    def read(segment):
        try:
            last = -1
            for _ in range(300):
                version, copy = segment.snapshot(timeout=60)
                assert version >= last and (copy == copy[0, 0]).all()
                last = version
        except BaseException as error:
            failed.append(error)

    with other(versioned) as remote:
        writers = [threading.Thread(target=write, args=(s, i + 1)) for i, s in enumerate((versioned, remote))]
        readers = [threading.Thread(target=read, args=(s,)) for s in (versioned, remote)]
        for t in writers + readers:
            t.start()
        for t in readers:
            t.join()
        stop.set()
        for t in writers:
            t.join()
    assert not failed


WRITER = """
import sys, time, dsmem
s = dsmem.connect(sys.argv[1]).segment("v")
with s.writing() as array:
    array[:50] = 666
    print("half", flush=True)
    time.sleep(60)
"""


def test_a_writer_that_dies_stops_no_other(here):
    with here.segment("v", (100, 10), "i8", create=True, versioned=True) as s, here.segment("v", readonly=True) as r:
        s.publish(1)
        with subprocess.Popen([sys.executable, "-c", WRITER, here.name], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "half\n"
            with pytest.raises(errors.TimeoutError, match=f"process {process.pid} is writing"):
                s.publish(2, timeout=0.01)
            process.kill()
        for reader in (s, r):
            version, copy = reader.snapshot()
            assert version == 1 and (copy == 1).all()
        with s.writing() as array:
            assert (array == 1).all(), "the next writer begins with the version before"
            array[0] = 2
        version, copy = r.snapshot()
        assert version == 2 and (copy[0] == 2).all() and (copy[1:] == 1).all()


# -- lifetimes --


def test_references(cluster, other):
    with cluster.segment("a", 4, "i8", create=True) as s:
        s.write(1, 7)
        with other(s) as found:
            assert found.read(1) == 7 and found.ref == s.ref and found.name == "a"
            if not s.ref.cluster:
                with pytest.raises(errors.InvalidArgumentError):
                    found.unlink()
        s.unlink()
        assert s.read(1) == 7 and cluster.list() == []
        with pytest.raises(errors.NameNotFoundError):
            s.unlink()


def test_pickled(cluster):
    with cluster.segment("a", 4, "i8", create=True) as s, pickle.loads(pickle.dumps(s)) as again:
        again.write(1, 7)
        assert s.read(1) == 7 and again.ref == s.ref


def test_closed(cluster):
    s = cluster.segment("a", 4, "i8", create=True, versioned=True)
    s.close()
    s.close()
    assert s.closed and "closed" in repr(s)
    for call in (s.read, lambda: s.write(0, 1), lambda: s.fetch_add(0, 1), s.snapshot, lambda: s.wait(0, 0),
                 lambda: s.publish(0), lambda: s.array, lambda: s.shape):  # fmt: skip
        with pytest.raises(errors.ClosedError):
            call()


# -- corrupted memory --


@pytest.fixture
def file(here, cluster_name):
    here.segment("a", (5, 3), RECORD, create=True, versioned=True).close()
    return local.user_folder(os.geteuid()) / cluster_name / "a"


def use(here):
    with here.segment("a") as s:
        s.read()
        s.read(-1)
        s.write(0, s.read(0))
        s.snapshot(timeout=0.01)


def test_every_byte_of_the_header_flipped(here, file):
    good, refused = file.read_bytes(), 0
    use(here)
    for at in range(4096):
        raw = bytearray(good)
        raw[at] ^= 0xFF
        with file.open("r+b") as f:
            f.write(raw[:4096])
        try:
            use(here)
        except errors.DsmemError as error:
            refused += 1
            known = errors.CorruptError, errors.VersionError, errors.MismatchError, errors.TimeoutError
            assert isinstance(error, known)
    assert refused > 256


def test_noise(here, file):
    good = file.read_bytes()
    random = np.random.default_rng(1)
    for _ in range(300):
        raw = np.frombuffer(good, "u1").copy()
        where = random.integers(64, 1024, random.integers(1, 40))
        raw[where] = random.integers(0, 256, where.size)
        file.write_bytes(raw.tobytes())
        try:
            use(here)
        except errors.DsmemError:
            continue


@pytest.mark.parametrize("length", [1, 63, 64, 255, 4095, 4096, 8191])
def test_truncated(here, file, length):
    os.truncate(file, length)
    with pytest.raises(errors.CorruptError):
        use(here)


@pytest.mark.parametrize("text", [b"", b"(" * 3000, b"'O'", b"[('a', '|O')]", b"1", b"-" * 3700, b"'<i8'\0", b"\xff"])
def test_no_dtypes(text):
    with pytest.raises(errors.CorruptError):
        parse_dtype(text)


def test_rows_that_are_overwritten_while_it_is_used(here, cluster_name):
    with here.segment("a", 4, "i8", create=True) as s, here.segment("a") as other:
        other._memory.remote.write(256, (1 << 60).to_bytes(8, "little"))
        with pytest.raises(errors.CorruptError):
            s.read(5)
        other._memory.remote.write(256, (1 << 20).to_bytes(8, "little"))
        with pytest.raises(errors.CorruptError):
            s.read(5)
        other._memory.remote.write(256, (4).to_bytes(8, "little"))
        assert s.read(3) == 0


def test_dsmem_attach_needs_a_context_where_there_are_two(cluster, other, cluster_place):
    if cluster_place == "local":
        pytest.skip("names of this host need no context")
    with cluster.segment("a", 4, "i8", create=True) as s, pytest.raises(errors.InvalidArgumentError, match="contexts"):
        dsmem.attach(s.ref)


@pytest.mark.parametrize("ends", ["commit", "raise"])
def test_a_turn_that_was_broken_ends_no_other_thread_s(cluster, ends):
    """Threads of a process have one identity; the version tells their turns apart."""
    with cluster.segment("s", 4, "i8", create=True, versioned=True) as segment, cluster.segment("s") as other:
        before = segment.publish(np.full(4, 1))
        broken = segment.writing()
        broken.__enter__()[:] = 2
        assert other.break_(segment.writer())
        version, copy = segment.snapshot()
        assert version >= before and (copy == 1).all()
        with other.writing() as array:
            array[:] = 3
            if ends == "commit":
                with pytest.raises(errors.NotHeldError):
                    broken.__exit__(None, None, None)
            else:
                broken.__exit__(KeyError, KeyError(), None)
            assert (segment.snapshot()[1] == 1).all() and segment.writer() is not None
        assert (segment.snapshot()[1] == 3).all() and segment.writer() is None
        assert segment.publish(np.full(4, 4)) == version + 2
    cluster.unlink("s")
