"""Deadlines, Lamport and hybrid clocks."""

import multiprocessing
import pickle
import threading
import time

import pytest

from dsmem import errors
from dsmem.clock import Deadline, HybridClock, Lamport


def test_deadline():
    never, past, later = Deadline(), Deadline(0), Deadline(100)
    assert never.remaining() is None and not never.expired and "never" in repr(never)
    assert past.remaining() == 0 and past.expired
    assert 99 < later.remaining() <= 100 and not later.expired
    for bad in (-1, float("nan")):
        with pytest.raises(errors.InvalidArgumentError):
            Deadline(bad)


def test_lamport():
    clock = Lamport()
    assert (clock.now, clock.send(), clock.send(), clock.receive(1), clock.receive(10), clock.now) == (
        0,
        1,
        2,
        3,
        11,
        11,
    )
    for bad in (-1, 1 << 64, "1", 1.5):
        with pytest.raises(errors.InvalidArgumentError):
            clock.receive(bad)
    with pytest.raises(errors.ClockDriftError):
        clock.receive((1 << 64) - 1)
    assert clock.send() == 12


def test_hybrid():
    wall = [1000.0]
    clock = HybridClock(max_drift=0.5, wall=lambda: wall[0])
    first = clock.send()
    assert HybridClock.split(first) == (1000.0, 0) and clock.send() == first + 1
    wall[0] = 999.9  # set back
    assert clock.send() == first + 2
    wall[0] = 1000.001
    assert HybridClock.split(clock.send()) == (1000.001, 0)
    ahead = 1000_400 << 16 | 7
    assert clock.receive(ahead) == ahead + 1 == clock.now and clock.send() == ahead + 2
    wall[0] = 1001.0
    assert HybridClock.split(clock.receive(ahead)) == (1001.0, 0)


def test_drift_is_refused_and_changes_nothing():
    wall = [1000.0]
    clock = HybridClock(max_drift=0.5, wall=lambda: wall[0])
    before = clock.send()
    for stamp in (1000_501 << 16, 1000_502 << 16, (1 << 64) - 1):
        with pytest.raises(errors.ClockDriftError):
            clock.receive(stamp)
    assert clock.now == before
    assert clock.receive(1000_500 << 16 | 0xFFFE) == 1000_500 << 16 | 0xFFFF
    wall[0] -= 0.1
    with pytest.raises(errors.ClockDriftError):
        clock.send()
    wall[0] += 1
    assert HybridClock.split(clock.send()) == (1000.9, 0)


def test_a_counter_that_overflows_runs_into_the_next_millisecond():
    clock = HybridClock(max_drift=0.001, wall=lambda: 1000.0)
    stamps = [clock.send() for _ in range(65_537)]
    assert stamps == list(range(stamps[0], stamps[0] + 65_537)) and HybridClock.split(stamps[-1]) == (1000.001, 0)


def test_by_the_systems_clock():
    before = time.time()
    stamp = HybridClock().send()
    assert before - 0.002 <= HybridClock.split(stamp)[0] <= time.time()
    for bad in (-1, float("nan"), 1e13):
        with pytest.raises(errors.InvalidArgumentError):
            HybridClock(bad)
    for bad in (-1.0, 1e15):
        with pytest.raises(errors.InvalidArgumentError):
            HybridClock(wall=lambda bad=bad: bad).send()


@pytest.mark.parametrize("make", [Lamport, HybridClock])
def test_threads_get_different_stamps(make):
    clock, got = make(), []

    def run():
        stamps = [clock.send() for _ in range(2000)]
        assert stamps == sorted(stamps)
        got.extend(stamps)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(got)) == 8000


def test_shared(cluster, other):
    with cluster.clock("c", create=True) as shared, other(shared) as found:
        one, two = Lamport(shared), Lamport(found)
        assert (one.send(), two.send(), one.send(), two.receive(9), one.now) == (1, 2, 3, 10, 10)
        one, two = HybridClock(shared=shared), HybridClock(shared=found)
        assert one.send() < two.send() < one.send() == two.now
        assert Lamport(shared).now == 10
    for call in (one.send, lambda: one.now):
        with pytest.raises(errors.ClosedError):
            call()


def count(shared, out):
    clock = Lamport(shared)
    out.put([clock.send() for _ in range(1000)])


def test_processes_share_one_clock(here):
    with here.clock("c", create=True) as shared:
        context = multiprocessing.get_context("spawn")
        out = context.SimpleQueue()
        processes = [context.Process(target=count, args=(shared, out)) for _ in range(2)]
        for p in processes:
            p.start()
        stamps = out.get() + out.get()
        for p in processes:
            p.join()
        assert sorted(stamps) == list(range(1, 2001))
        with pickle.loads(pickle.dumps(shared)) as again:
            assert Lamport(again).send() == 2001


def test_what_is_no_clock(here):
    here.segment("a", 4, create=True).close()
    with pytest.raises(errors.MismatchError, match="'a' is a segment, not a clock"):
        here.clock("a")


def test_one_stamp_does_not_end_a_lamport_clock():
    clock = Lamport()
    for stamp in (2**64 - 2, 2**63, 2**48 + 1):
        with pytest.raises(errors.ClockDriftError):
            clock.receive(stamp)
    assert clock.now == 0 and clock.receive(2**48) == 2**48 + 1
    assert clock.receive(2**48 + 5) == 2**48 + 6


def test_a_send_after_a_receive_at_the_bound():
    clock = HybridClock(1.0, wall=lambda: 100.0)
    latest = 101_000 << 16 | 0xFFFF
    assert clock.receive(latest) == latest + 1
    assert clock.send() == latest + 2
    with pytest.raises(errors.ClockDriftError):
        clock.receive(102_000 << 16)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, "1", None, [], 1j])
def test_arguments_of_clocks(bad):
    with pytest.raises(errors.InvalidArgumentError):
        HybridClock(bad)
    with pytest.raises(errors.InvalidArgumentError):
        HybridClock(wall=lambda: bad).send()
    for call in (Lamport().receive, HybridClock().receive, HybridClock.split):
        with pytest.raises(errors.InvalidArgumentError):
            call(bad)
