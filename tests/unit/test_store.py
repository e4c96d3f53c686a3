"""Stores of pages from Python: what each call does and refuses, on this host and in memory of each fabric; threads,
processes, and writers that are killed. At a server: test_store_remote.py.

docs/protocols/pages.md has the steps; tests/c/test_store.c and test_store_sim.c play what Python can't.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading

import numpy as np
import pytest
from forked import SECONDS, in_child
from paging import SIZE, StruckError, handling, number_of, page

import dsmem
from dsmem import errors

spawn = multiprocessing.get_context("spawn")


PROPERTIES = {"page_size": SIZE, "capacity": 100 * SIZE, "members": 8}


@pytest.fixture
def store(cluster):
    with cluster.store("s", create=True, **PROPERTIES) as made:
        yield made


@pytest.fixture
def mapped(here):
    """One of this host."""
    with here.store("s", create=True, **PROPERTIES) as made:
        yield made


# -- one page --


def test_a_page(store):
    pid = store.allocate()
    assert type(pid) is int and pid
    assert store.read(pid) == bytes(SIZE)
    first = store.write(pid, page(1))
    assert store.version(pid) == first
    assert store.write(pid, np.full(SIZE // 8, 2, "u8")) > first
    assert store.read(pid) == page(2)
    out = bytearray(SIZE)
    assert store.read(pid, out) is out and out == page(2)
    array = np.empty((2, SIZE // 16), "u8")
    assert store.read(pid, out=array) is array and (array == 2).all()


def test_compare_write(store):
    pid = store.allocate()
    before = store.version(pid)
    after = store.compare_write(pid, before, page(1))
    assert after > before and store.version(pid) == after
    with pytest.raises(errors.ConflictError, match="read it and try again"):
        store.compare_write(pid, before, page(2))
    assert store.read(pid) == page(1)
    with pytest.raises(RuntimeError):
        store.compare_write(pid, after + 1, page(2))


def calls(store, pid):
    """All that take a page's id."""
    yield lambda: store.read(pid)
    yield lambda: store.read(pid, bytearray(SIZE))
    yield lambda: store.write(pid, page(1))
    yield lambda: store.compare_write(pid, 1, page(1))
    yield lambda: store.version(pid)
    yield lambda: store.free(pid)
    yield lambda: store.read_many([pid])
    yield lambda: store.write_many([pid], page(1))


def test_a_freed_page_is_not_found(store):
    """Also where its memory is another page's: the id stays that of what was freed."""
    gone = store.allocate()
    store.write(gone, page(1))
    store.free(gone)
    others = store.allocate_many(100)
    assert gone not in others
    for call in calls(store, gone):
        with pytest.raises(errors.PageNotFoundError, match=rf"page {gone}\b.*freed"):
            call()


@pytest.mark.parametrize("pid", [0, 1, 5 << 40, (1 << 64) - 1])
def test_an_id_that_was_never_given(store, pid):
    for call in calls(store, pid):
        with pytest.raises(LookupError):
            call()


@pytest.mark.parametrize("pid", [-1, 1 << 64, 1.5, None, "x", b"1"])
def test_what_is_no_id(store, pid):
    for call in calls(store, pid):
        with pytest.raises(errors.InvalidArgumentError, match="pass what allocate"):
            call()


def test_a_numpy_id(store):
    (pid,) = store.allocate_many(1)
    store.write(pid, page(3))
    assert number_of(store.read(pid)) == 3


@pytest.mark.parametrize("nbytes", [0, SIZE - 1, SIZE + 1])
def test_a_page_of_another_size_is_refused(store, nbytes):
    pid = store.allocate()
    version = store.version(pid)
    for call in (
        lambda: store.write(pid, bytes(nbytes)),
        lambda: store.compare_write(pid, version, bytes(nbytes)),
        lambda: store.read(pid, bytearray(nbytes)),
        lambda: store.read_many([pid], bytearray(nbytes)),
        lambda: store.write_many([pid], bytes(nbytes)),
    ):
        with pytest.raises(errors.InvalidArgumentError, match=f"{nbytes} bytes.*{SIZE}; pass exactly"):
            call()
    assert store.version(pid) == version


def test_out_that_cannot_be_written(store):
    with pytest.raises(errors.ReadOnlyBufferError):
        store.read(store.allocate(), bytes(SIZE))


# -- many pages --


def test_many_pages(store):
    ids = store.allocate_many(70)
    assert ids.dtype == np.uint64 and len(set(ids.tolist())) == 70
    values = np.repeat(np.arange(70, dtype="u8"), SIZE // 8).reshape(70, -1)
    versions = store.write_many(ids, values)
    assert versions.dtype == np.uint64 and versions.tolist() == [store.version(pid) for pid in ids]
    assert (store.read_many(ids).view("u8") == values).all()
    out = np.empty_like(values)
    assert store.read_many(ids[::-1], out) is out and (out == values[::-1]).all()
    assert (store.read_many(ids.tolist()).view("u8") == values).all()  # some are beyond 2**63, and some are not
    assert len(store.read_many([])) == len(store.write_many([], b"")) == len(store.allocate_many(0)) == 0


def test_a_failure_names_its_index(store):
    """What is before it was done. Nothing after it was, where the memory is mapped."""
    ids = store.allocate_many(4)
    store.free(ids[2])
    mapped = store._memory.remote.is_mapped
    after = "none after it" if mapped else "some after it may have been"
    with pytest.raises(errors.PageNotFoundError, match=rf"ids\[2\] of 4.*{after}"):
        store.write_many(ids, b"".join(map(page, range(1, 5))))
    assert [number_of(store.read(ids[i])) for i in (0, 1)] == [1, 2]
    assert number_of(store.read(ids[3])) in ([0] if mapped else [0, 4])
    out = np.full((4, SIZE), 9, "u1")
    with pytest.raises(errors.PageNotFoundError, match=r"ids\[2\] of 4"):
        store.read_many(ids, out)
    assert number_of(out[1].tobytes()) == 2 and (not mapped or (out[2:] == 9).all())


def test_one_page_many_times_in_a_call(store):
    """Its last value is the last one of the call, and each has a version of its own."""
    pid, other = store.allocate_many(2).tolist()
    ids = [pid, other, pid, pid, other]
    for _ in range(3):
        versions = store.write_many(ids, b"".join(map(page, range(5))))
        assert versions[0] < versions[2] < versions[3] and versions[1] < versions[4]
        assert [number_of(each.tobytes()) for each in store.read_many(ids)] == [3, 4, 3, 3, 4]


def test_more_pages_in_a_call_than_there_are_frames_in_a_chunk(store):
    ids = store.allocate_many(90)
    for first in range(0, 600, 100):
        values = np.repeat(np.arange(first, first + 90, dtype="u8"), SIZE // 8)
        store.write_many(ids, values)
        assert (store.read_many(ids[::-1]).view("u8")[::-1].ravel() == values).all()


@pytest.mark.parametrize("ids", [5, [[1]], np.zeros((1, 1), "u8"), np.zeros(1), [1.5], [-1], ["x"], None])
def test_what_are_no_ids(store, ids):
    for call in (lambda: store.read_many(ids), lambda: store.write_many(ids, page(1))):
        with pytest.raises((errors.InvalidArgumentError, errors.ArgumentTypeError)):
            call()


def test_a_full_store(store):
    assert store.stat() == {
        "page_size": SIZE,
        "pages": 100,
        "members": 8,
        "replicas": 1,
        "extents": 1,
        "free": 100,
        "handles": 1,
        "repaired": 0,
    }
    ids = store.allocate_many(99)
    for n in (2, 100, 101, 2**70):
        with pytest.raises(errors.StoreFullError, match="free some"):
            store.allocate_many(n)
    assert store.stat()["free"] == 1  # all or none
    last = store.allocate()
    with pytest.raises(OSError):
        store.allocate()
    for pid in (*ids, last):  # each can be written, and all again
        store.write(pid, page(1))
    store.write_many(ids, b"".join(map(page, range(99))))
    store.free(last)
    assert store.allocate() != last


# -- properties, names --


def test_properties_that_differ(cluster, store):
    for given, said in (
        ({"page_size": 512}, "page_size=256, not 512"),
        ({"capacity": "1MiB"}, "capacity=25600, not 1MiB"),
        ({"members": 9}, "members=8, not 9"),
    ):
        with pytest.raises(errors.MismatchError, match=said):
            cluster.store("s", create=None, **given)
    assert store.stat()["handles"] == 1
    for given in ({}, PROPERTIES, {"capacity": 100 * SIZE - 1}):
        cluster.store("s", create=None, **given).close()


@pytest.mark.parametrize(
    "given",
    [{}, *({"capacity": bad} for bad in (0, -1, "x", "", "1.5MiB", 2.5, None, 2**70, b"1"))]
    + [{"capacity": 4096, "page_size": bad} for bad in (0, 255, 320 + 1, 1 << 21, "4096", 2**70)]
    + [{"capacity": 4096, "members": bad} for bad in (0, 1025, "x", 2**70)],
)
def test_properties_that_cannot_be(cluster, given):
    with pytest.raises(errors.InvalidArgumentError):
        cluster.store("s", create=True, **given)
    assert cluster.list() == []


def test_too_many_members(cluster):
    with cluster.store("s", capacity=4096, members=1, create=True) as store:
        with pytest.raises(errors.TooManyMembersError):
            cluster.store("s")
        assert store.stat()["handles"] == 1
    cluster.store("s").close()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_handle_that_is_dropped_leaves_its_place(store, other):
    for _ in range(20):
        other(store)
    assert store.stat()["handles"] <= 2


def test_a_reference_is_pickled(store, other):
    pid = store.allocate()
    store.write(pid, page(7))
    ref = pickle.loads(pickle.dumps(store.ref))
    with pickle.loads(pickle.dumps(store)) if ref.cluster else other(store) as another:
        assert another.read(pid) == page(7)
        another.write(pid, page(8))
    assert store.read(pid) == page(8)


# -- threads and signal handlers --


def test_threads_share_a_handle(store):
    """Writers take turns, readers see whole pages meanwhile, and no version is given twice."""
    pids, rounds = store.allocate_many(3).tolist(), 200
    given = [[] for _ in range(4)]
    failed: list[BaseException] = []

    def run(work, *args):
        try:
            work(*args)
        except BaseException as error:
            failed.append(error)

    def write(mine):
        for i in range(rounds):
            mine.append((pids[i % 3], store.write(pids[i % 3], page(i))))

    def read():
        for i in range(rounds):
            number_of(store.read(pids[i % 3]))

    threads = [threading.Thread(target=run, args=(write, mine)) for mine in given]
    threads += [threading.Thread(target=run, args=(read,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    versions = [one for mine in given for one in mine]
    assert len(set(versions)) == 4 * rounds


def test_short_writes_beside_long_ones(store):
    """A short write takes no turn, and comes between long ones of other threads: no frame is used for two pages."""
    one, many = store.allocate_many(20).tolist(), store.allocate_many(40)
    failed: list[BaseException] = []
    done = threading.Event()

    def write_many():
        try:
            i = 0
            while not done.is_set() or i < 50:
                i += 1
                store.write_many(many, np.repeat(np.arange(i, i + 40, dtype="u8"), SIZE // 8))
                assert [number_of(data.tobytes()) for data in store.read_many(many)] == list(range(i, i + 40))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=write_many)
    thread.start()
    for i in range(100):
        versions = [store.write(pid, page(i)) for pid in one]
        assert [number_of(store.read(pid)) for pid in one] == [i] * 20
        assert [store.version(pid) for pid in one] == versions
    done.set()
    thread.join()
    assert failed == []


def test_compare_write_counts(store, other):
    """An increment by two threads with a handle each loses nothing."""
    pid, rounds, failed = store.allocate(), 100, []

    def count():
        try:
            with other(store) as mine:
                for _ in range(rounds):
                    while True:
                        version = mine.version(pid)
                        try:
                            mine.compare_write(pid, version, page(number_of(mine.read(pid)) + 1))
                            break
                        except errors.ConflictError:
                            pass
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=count) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and number_of(store.read(pid)) == 2 * rounds


MANY = 100_000


def test_a_handler_ends_a_long_read(mapped):
    """In the midst of it: the first page has been read, and the last has not."""
    pid = mapped.allocate()
    mapped.write(pid, page(1))
    ids, struck = np.full(MANY, pid, "u8"), False
    while not struck:
        out = np.zeros((MANY, SIZE // 8), "u8")

        def strike(*_, out=out):
            if out[0, 0] and not out[-1, 0]:
                raise StruckError

        try:
            with handling(strike):
                mapped.read_many(ids, out)
        except StruckError:
            struck = True
            assert out[0, 0] and not out[-1, 0]
    assert mapped.read(pid) == page(1)


def test_a_handler_that_comes_in_a_write(mapped):
    """It may read, and is refused to write; what it has interrupted goes on."""
    pid, other = mapped.allocate(), mapped.allocate()
    ids, data = np.full(MANY, pid, "u8"), np.ones((MANY, SIZE // 8), "u8")
    seen: list[object] = []

    def handle(*_):
        if mapped.read(pid) == page(0) or seen:
            return
        try:
            mapped.write(other, page(2))
        except errors.BusyError as error:
            seen.append(mapped.read(pid))
            seen.append(str(error))

    while not seen:
        mapped.write(pid, page(0))
        with handling(handle):
            mapped.write_many(ids, data)
        assert mapped.read(pid) == page(1)
    assert seen[0] == page(1) and "signal handler" in seen[1]
    assert mapped.write(other, page(3)) == mapped.version(other)


# -- processes --


def fill(ref, pids, ready):
    """Write whole pages until killed."""
    store = dsmem.attach(ref)
    ready.set()
    i = 0
    while True:
        i += 1
        store.write_many(pids, np.repeat(np.full(len(pids), i, "u8"), SIZE // 8))
        extra = store.allocate()
        store.write(extra, page(i))
        store.free(extra)


def test_writers_that_are_killed(mapped):
    """No reader sees a mix, the pages stay writable, and each writer finds a place and frames."""
    pids = mapped.allocate_many(8)
    for _ in range(4):
        ready = spawn.Event()
        writer = spawn.Process(target=fill, args=(mapped.ref, pids, ready))
        writer.start()
        assert ready.wait(SECONDS)
        before = [mapped.version(pid) for pid in pids]
        while [mapped.version(pid) for pid in pids] == before:  # it writes, and is then killed anywhere
            assert writer.is_alive()
        for _ in range(50):
            for data in mapped.read_many(pids):
                number_of(data.tobytes())
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        for pid in pids:
            number_of(mapped.read(pid))
            assert mapped.write(pid, page(0)) == mapped.version(pid)
    assert mapped.stat()["free"] >= 100 - 8 - 4  # a writer may have died with a page that it was about to free


def make(name):
    with dsmem.connect(name) as cluster, cluster.store("made", page_size=SIZE, capacity="64KiB", create=True) as store:
        pid = store.allocate()
        store.write(pid, page(5))
        return pid


def test_a_store_outlives_its_creator(here, cluster_name):
    pid = in_child(make, cluster_name)
    with here.store("made", create=False) as store:
        assert store.read(pid) == page(5) and store.stat()["free"] == 255
        assert store.page_size == SIZE
    here.unlink("made")
    with pytest.raises(errors.NameNotFoundError):
        here.store("made")


def test_a_child_writes_frames_of_its_own(mapped):
    """Both have had a chunk open before the fork; neither writes into the other's."""
    ours, theirs = mapped.allocate_many(2).tolist()
    mapped.write(ours, page(1))

    def child():
        for i in range(100):
            mapped.write(theirs, page(i))
            assert number_of(mapped.read(ours)) >= 1
        mapped.close()

    def alternate():
        in_child(child)
        for i in range(100):
            mapped.write(ours, page(1 + i))
            assert number_of(mapped.read(theirs)) == 99

    alternate()
    alternate()
    assert number_of(mapped.read(ours)) == 100


def test_a_handler_that_forks_in_a_write(mapped):
    """The child goes on with a handle of its own; the call beneath it says that it is the parent's."""
    pid, other = mapped.allocate_many(2).tolist()
    ids, data = np.full(MANY, pid, "u8"), np.ones((MANY, SIZE // 8), "u8")
    begun: list[bool] = []

    def use_in_child():
        mapped.write(other, page(2))
        assert mapped.read(other) == page(2)

    def handle(*_):
        if not begun and mapped.read(pid) == page(1):
            begun.append(True)
            signal.setitimer(signal.ITIMER_REAL, 0)
            children.append(os.fork())
            if not children[0]:
                use_in_child()

    children: list[int] = []
    parent = os.getpid()
    try:
        while not begun:
            mapped.write(pid, page(0))
            with handling(handle):
                mapped.write_many(ids, data)
        assert os.getpid() == parent
    except BaseException as error:
        if os.getpid() == parent:
            raise
        code = 1
        with contextlib.suppress(BaseException):
            assert isinstance(error, errors.ForkError)
            mapped.write(other, page(3))
            code = 0
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    assert mapped.read(pid) == page(1) and mapped.read(other) == page(3)
