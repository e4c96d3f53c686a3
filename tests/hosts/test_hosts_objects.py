"""Objects in memory of another host, where the other half of each test runs."""

import contextlib

import pytest
from accounts import SECONDS
from scenes import count

import dsmem


@pytest.fixture
def shared(there, owner, peer):
    """shared(kind, …) makes an object there: it as the other host has it, and ours."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(there.run("scenes:cluster", owner))

        def make(kind, *args, **kwargs):
            made = stack.enter_context(there.run("scenes:make", cluster, kind, *args, **kwargs))
            return made, stack.enter_context(contextlib.closing(dsmem.attach(made.ref, peer)))

        yield make


def test_a_queue(there, shared):
    queue, ours = shared("queue")
    sent = [b"%d" % number for number in range(200)]
    there.begin("scenes:take", queue, 2 * len(sent))
    for message in sent:
        ours.put(message, timeout=SECONDS)
    assert ours.put_many(sent, timeout=SECONDS) == len(sent)
    assert there.answer() == 2 * sent


def test_a_lock(there, shared):
    lock, our_lock = shared("lock")
    segment, our_segment = shared("segment", 1, "u8")
    there.begin("scenes:count", lock, segment, 20)
    count(our_lock, our_segment, 20)
    there.answer()
    assert our_segment.read(0) == 40


def test_a_barrier_and_an_event(there, shared):
    barrier, ours = shared("barrier", 2)
    event, our_event = shared("event")
    assert not our_event.wait(timeout=0)
    there.begin("scenes:meet", barrier, event)
    ours.wait(SECONDS)
    assert our_event.wait(timeout=SECONDS)
    there.answer()


def test_a_segment_with_versions(shared):
    segment, ours = shared("segment", (100, 10), "u8", versioned=True)
    with ours.writing(timeout=SECONDS) as array:
        array[...] = 7
    version, whole = segment.snapshot()
    assert (whole == 7).all()
    assert ours.snapshot(timeout=SECONDS)[0] == version


def test_a_semaphore(shared):
    semaphore, ours = shared("semaphore", 2)
    assert ours.acquire(timeout=SECONDS) and semaphore.acquire(timeout=SECONDS)
    assert not ours.acquire(timeout=0)
    semaphore.release()
    assert ours.acquire(timeout=SECONDS)
    ours.release()
    ours.release()
