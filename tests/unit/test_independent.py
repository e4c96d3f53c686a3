"""dsmem beside a program written from docs/protocols alone (independent.py): each does what the other expects."""

import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import independent
import numpy as np
import pytest

import dsmem
from dsmem import _core, errors
from dsmem.clock import HybridClock, Lamport

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="independent.py relies on the order of stores")

SECONDS = 60
NOT_GIVEN = 1 << 40  # no file has got so far, however many clients of servers it has given numbers to

# Says its identity, and lives until its input ends.
_LIVE = "import sys; from dsmem import _core; print(_core.identity(), flush=True); sys.stdin.read()"


def process(command, cluster, *more):
    """A process that has no dsmem: -I keeps it from the folder that it is started in, -S from what is installed."""
    arguments = [sys.executable, "-I", "-S", independent.__file__, command, cluster.name, *map(str, more)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)


def run(command, cluster, *more):
    with process(command, cluster, *more) as made:
        _, said = made.communicate(timeout=SECONDS)
    assert (made.returncode, said) == (0, "")


def test_it_does_without_dsmem():
    """Where it is started as a process, dsmem could not even be imported."""
    code = "import sys; sys.path.append(sys.argv[1]); import independent; print('numpy' in sys.modules); import dsmem"
    folder = str(Path(independent.__file__).parent)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, folder], capture_output=True, text=True)
    assert done.stdout == "False\n" and "No module named 'dsmem'" in done.stderr


def test_identity():
    own = independent.identity()
    assert own != _core.identity() and not _core.identity_dead(own) and _core.identity_pid(own) == os.getpid()
    assert not independent.ended(_core.identity()) and not independent.ended(own + NOT_GIVEN)
    with subprocess.Popen([sys.executable, "-c", _LIVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        number = int(other.stdout.readline())
        assert not independent.ended(number) and _core.identity_pid(number) == other.pid
        other.stdin.close()
    assert independent.ended(number) and _core.identity_dead(number)


# ---- segments ----


def test_a_segment_is_read(here):
    with here.segment("a", (3, 4), "i8", create=True, capacity=5) as segment:
        segment.write(..., np.arange(12).reshape(3, 4))
        with independent.Segment(here.name, "a") as seen:
            assert (seen.shape, seen.dtype, seen.capacity, seen.itemsize) == ((3, 4), "<i8", 5, 8)
            assert (seen.row, seen.shadow) == (32, 0)
            assert seen.values() == list(range(12))
            segment.resize(5)
            assert seen.shape == (5, 4) and seen.values() == [*range(12), *[0] * 8]


@pytest.mark.parametrize("versioned", [False, True])
def test_a_segment_is_made(here, versioned):
    independent.make(here.name, "a", *independent.segment((3, 4), "<f8", 8, 200, versioned))
    with here.segment("a", (3, 4), "f8", create=False) as segment:
        assert (segment.shape, segment.capacity, segment.versioned) == ((3, 4), 200, versioned)
        segment.write((1, 2), 0.5)
        with independent.Segment(here.name, "a") as seen:
            assert seen.values()[6] == 0.5
            if versioned:
                segment.publish(np.full((3, 4), 2.5))
                assert seen.snapshot() == (1, [2.5] * 12)


def test_a_contradiction_is_noticed(here):
    data, nbytes = independent.segment((3,), "<i8", 8, 3, False)
    independent.make(here.name, "a", data.replace(b"'<i8'", b"'<u8'"), nbytes)
    with pytest.raises(errors.CorruptError):
        here.segment("a", create=False)


def test_waiters_for_an_element_are_woken(here):
    with here.segment("a", 4, "i8", create=True) as segment, independent.Segment(here.name, "a") as other:
        found = []
        waiter = threading.Thread(target=lambda: found.append(segment.wait(2, 7, SECONDS)))
        waiter.start()
        for _ in independent.waits(lambda: other.put(2, 6)):
            pass
        other.put(2, 7)
        waiter.join(SECONDS)
        assert found == [7]


WRITER = """
import sys, dsmem
with dsmem.connect(sys.argv[1]).segment("a") as segment:
    for value in range(1, 2000):
        segment.publish(value + segment.array * 0)
"""


def test_snapshots_beside_a_writer(here):
    with (
        here.segment("a", 500, "i8", create=True, versioned=True) as segment,
        independent.Segment(here.name, "a") as seen,
        subprocess.Popen([sys.executable, "-c", WRITER, here.name]) as writer,
    ):
        first, last, taken = seen.snapshot()[0], 0, 0
        for _ in independent.waits(lambda: writer.poll() is not None):
            version, values = seen.snapshot()
            assert values == [version - first] * 500 or version == first
            assert version >= last
            last, taken = version, taken + 1
        assert writer.returncode == 0 and taken
        assert seen.snapshot() == (segment.snapshot()[0], [1999] * 500)


def test_versions_of_the_other_are_versions(here):
    with (
        here.segment("a", 5, "i8", create=True, versioned=True) as segment,
        independent.Segment(here.name, "a") as other,
    ):
        version = segment.snapshot()[0]
        other.publish(3)
        assert segment.snapshot()[0] == version + 1 and segment.snapshot()[1].tolist() == [3] * 5


@pytest.mark.parametrize("step", range(1, 7))
def test_a_writer_that_dies_is_undone_or_finished(here, step):
    with here.segment("a", 5, "i8", create=True, versioned=True) as segment:
        segment.publish(np.full(5, 100))
        run("die_writing", here, step)
        seen = segment.snapshot()[1].tolist()
        assert seen == [step if step >= 4 else 100] * 5
        with segment.writing(timeout=SECONDS) as array:
            assert array.tolist() == seen
            array[0] = 9
        assert segment.snapshot()[1].tolist() == [9, *seen[1:]]


# ---- queues ----

KINDS = ("one", "many", "checked")


def make_queue(cluster, kind, name="q"):
    """One of small lanes. Checked ones dsmem makes in memory of a context only, so there the other program makes it."""
    if kind != "checked":
        return cluster.queue(name, create=True, producers=kind, capacity_bytes=4096, max_message=1500)
    independent.make(cluster.name, name, *independent.queue(2, independent.CHECKED, 4096, 1500))
    return cluster.queue(name, create=False)


def messages(n):
    """Of all lengths up to the longest, so that the ring's end is met with all there is left of it."""
    rng = np.random.default_rng(5)
    return [rng.bytes(rng.integers(1, 1501 if rng.random() < 0.2 else 60)) for _ in range(n)]


@pytest.mark.parametrize("kind", KINDS)
def test_messages_are_read(here, kind):
    with make_queue(here, kind) as queue, independent.Queue(here.name, "q") as other:
        other.consume()
        with pytest.raises(errors.BusyError):
            queue.get_nowait()
        for message in messages(1000):
            queue.put_nowait(message)
            assert other.get() == (1, message)
        assert other.get() is None and queue.empty()
        other.leave()
        queue.put_nowait(b"last")
        assert queue.get_nowait() == b"last"


@pytest.mark.parametrize("kind", KINDS)
def test_messages_are_written(here, kind):
    with make_queue(here, kind) as queue, independent.Queue(here.name, "q") as other:
        other.produce()
        for message in messages(1000):
            assert other.put(message)
            assert queue.get_nowait() == message
        assert queue.empty()
        other.leave()
        queue.put_nowait(b"of its successor")
        assert queue.get_nowait() == b"of its successor"


@pytest.mark.parametrize("kind", KINDS)
def test_a_lane_goes_to_and_fro(here, kind):
    """Each puts until there is no room, and succeeds the other where that one has stopped."""
    make_queue(here, kind).close()
    with independent.Queue(here.name, "q") as other:
        for _ in range(20):
            other.produce()
            sent = 0
            while other.put(b"%300d" % sent):
                sent += 1
            other.leave()
            with here.queue("q", create=False) as queue:
                assert queue.get_many(5) == [b"%300d" % i for i in range(5)]
                queue.put_nowait(b"%300d" % sent)
            other.consume()
            assert [other.get() for _ in range(sent - 4)] == [(1, b"%300d" % i) for i in range(5, sent + 1)]
            assert other.get() is None
            other.leave()


RECORDS = np.arange(3000).reshape(1000, 3)  # one message each, several laps of them


@pytest.mark.parametrize("kind", KINDS)
def test_records_are_read(here, kind):
    with make_queue(here, kind) as queue, independent.Queue(here.name, "q") as other:
        other.consume()
        done, read = 0, []
        while done < len(RECORDS):
            done += queue.put_many(RECORDS[done:], block=False)
            read += iter(other.get, None)
        assert read == [(1, record.tobytes()) for record in RECORDS]
        other.leave()


@pytest.mark.parametrize("kind", KINDS)
def test_records_are_written(here, kind):
    with make_queue(here, kind) as queue, independent.Queue(here.name, "q") as other:
        other.produce()
        sent, done, out = 0, 0, np.zeros_like(RECORDS)
        while done < len(RECORDS):
            while sent < len(RECORDS) and other.put(RECORDS[sent].tobytes()):
                sent += 1
            done += queue.get_many(out=out[done:])
        assert (out == RECORDS).all()
        other.leave()


def test_a_queue_is_made(here):
    independent.make(here.name, "q", *independent.queue(3, 0, 4096, 1000))
    with here.queue("q", create=False) as queue:
        assert queue.properties["lanes"] == 3 and queue.properties["max_message"] == 1000
        for message in messages(50):
            queue.put_nowait(message[:1000])
            assert queue.get_nowait() == message[:1000]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes(here, kind):
    sent, got = [*messages(3000), b""], []
    with (
        make_queue(here, kind, "in") as source,
        make_queue(here, kind, "out") as sink,
        process("echo", here) as other,
    ):

        def receive():
            while not got or got[-1]:
                got.append(sink.get(timeout=SECONDS))

        receiver = threading.Thread(target=receive)
        receiver.start()
        for message in sent:
            source.put(message, timeout=SECONDS)
        receiver.join(SECONDS)
        _, said = other.communicate(timeout=SECONDS)
        assert (other.returncode, said) == (0, "")
        assert got == sent
        assert source.counts["gets"] == len(sent) == sink.counts["puts"]


# ---- locks ----


@pytest.fixture
def lock(here):
    lock = here.lock("lock", create=True)
    yield lock
    if lock.token:
        lock.release()
    lock.close()


@pytest.fixture
def seen(here, lock):
    with independent.Lock(here.name, "lock") as seen:
        yield seen


def test_a_lock_is_read(lock, seen):
    assert seen.word() == (None, 0, 0)
    lock.acquire()
    assert seen.word() == (_core.identity(), 0, 1) and lock.token == 1
    lock.release()
    assert seen.word() == (None, 0, 1)


def test_a_lock_is_taken(lock, seen):
    seen.take()
    assert lock.locked() and not lock.acquire(blocking=False)
    seen.release()
    assert lock.acquire(timeout=SECONDS) and lock.token == 2 and not lock.recovered


def test_a_holder_that_dies_is_succeeded(here, lock, seen):
    run("die_with_lock", here)
    holder, owner_died, token = seen.word()
    assert _core.identity_dead(holder) and (owner_died, token) == (0, 1)
    assert lock.acquire(timeout=SECONDS) and lock.recovered and lock.token == 2
    assert seen.word() == (_core.identity(), 1, 2)


def test_a_lock_is_made(here):
    independent.make(here.name, "lock", *independent.lock(5))
    lock = here.lock("lock", create=False)
    with lock, independent.Lock(here.name, "lock") as seen:
        assert len(seen.members()) == 5 and seen.word() == (_core.identity(), 0, 1)
    lock.close()


# ---- clocks ----


def test_clocks_are_read(here):
    with here.clock("clock", create=True) as shared, independent.Clock(here.name, "clock") as seen:
        lamport, hybrid = Lamport(shared), HybridClock(shared=shared)
        assert lamport.send() == 1 and lamport.receive(41) == 42 == seen.lamport()
        before = time.time_ns() // 10**6
        stamp = hybrid.send()
        milliseconds, counter = seen.hybrid()
        assert stamp == milliseconds << 16 | counter and before <= milliseconds <= time.time_ns() // 10**6
        seen.words[128 // 8] = 100
        assert lamport.send() == 101


def test_a_clock_is_made(here):
    independent.make(here.name, "clock", independent.header("clock", 192), 192)
    with here.clock("clock", create=False) as shared:
        assert Lamport(shared).send() == 1


def test_a_whole_cluster_is_made(cluster_name):
    """Folders and all."""
    assert not (independent.user_folder() / cluster_name).exists()
    independent.make(cluster_name, "lock", *independent.lock(2))
    with dsmem.connect(cluster_name) as cluster:
        assert [(info.name, info.kind) for info in cluster.list()] == [("lock", "lock")]
        assert independent.user_folder().stat().st_mode & 0o7777 == 0o711
