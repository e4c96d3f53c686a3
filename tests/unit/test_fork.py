"""Handles of named objects in children of fork() are the child's own; what the parent's hold stays the parent's."""

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from forked import SECONDS, in_child, keeping, raises

import dsmem
from dsmem import _core, errors
from dsmem.clock import Lamport
from dsmem.cluster.factories import CLASSES


@pytest.fixture
def here(here, monkeypatch):
    yield from keeping(here, monkeypatch)


# -- what the parent holds stays the parent's, whatever the child does with its copy of the handle --


@contextlib.contextmanager
def held_lock(here, kind="lock"):
    lock = getattr(here, kind)("it", create=True)
    with lock:
        token = lock.token
        yield lock
        assert lock.token == token and not lock.recovered
        with contextlib.closing(dsmem.attach(lock.ref)) as other:
            assert not other.acquire(False)


@contextlib.contextmanager
def held_condition(here):
    lock = here.rlock("its-lock", create=True)
    condition = here.condition("it", lock=lock, create=True)
    with lock:
        yield condition
        assert lock.token and not lock.recovered
        condition.notify()


@contextlib.contextmanager
def held_rwlock(here):
    lock = here.rwlock("it", create=True)
    with lock.write():
        yield lock
        assert lock.token and not lock.recovered
        with contextlib.closing(dsmem.attach(lock.ref)) as other:
            assert not other.acquire_read(False)


@contextlib.contextmanager
def held_semaphore(here):
    semaphore = here.semaphore("it", 3, create=True)
    with semaphore, semaphore:
        yield semaphore
        assert semaphore.held == 2 and semaphore.value == 1


@contextlib.contextmanager
def counting(here):
    semaphore = here.semaphore("it", 3, owned=False, create=True)
    with semaphore:
        yield semaphore
        assert semaphore.value == 2


@contextlib.contextmanager
def an_event(here):
    event = here.event("it", create=True)
    yield event
    assert not event.is_set()


@contextlib.contextmanager
def a_barrier(here):
    barrier = here.barrier("it", 2, create=True)
    thread = threading.Thread(target=barrier.wait)
    thread.start()
    while not barrier.n_waiting:
        time.sleep(0.001)
    yield barrier
    assert not barrier.broken and barrier.n_waiting == 1
    barrier.wait(SECONDS)
    thread.join()


@contextlib.contextmanager
def running_once(here):
    once = here.once("it", create=True)
    with once as first:
        assert first
        yield once
        assert not once.done
        with contextlib.closing(dsmem.attach(once.ref)) as other, pytest.raises(errors.TimeoutError):
            other.begin(0)
    assert once.done


@contextlib.contextmanager
def a_segment(here):
    segment = here.segment("it", 4, "i8", versioned=True, create=True)
    with segment.writing() as array:
        array[0] = 1
        yield segment
        with contextlib.closing(dsmem.attach(segment.ref)) as other, pytest.raises(errors.TimeoutError):
            other.publish(0, timeout=0.01)
        assert segment.snapshot()[1][0] == 0
    assert segment.snapshot()[1][0] == 1


@contextlib.contextmanager
def a_queue(here):
    queue = here.queue("it", create=True)
    queue.put(b"first")
    assert queue.peek() == b"first"
    queue.reserve(4)[:] = b"open"
    queue.fileno()
    yield queue
    with contextlib.closing(dsmem.attach(queue.ref)) as other:
        with pytest.raises(errors.BusyError):
            other.consume()
        with pytest.raises(errors.TooManyMembersError):
            other.produce()
    queue.commit()
    queue.release()
    assert queue.get(timeout=0) == b"open"


@contextlib.contextmanager
def a_clock(here):
    yield here.clock("it", create=True)


@contextlib.contextmanager
def a_store(here):
    store = here.store("it", page_size=256, capacity=2560, members=3, create=True)
    store.write(store.allocate(), b"p" * 256)  # opens a chunk of frames
    yield store
    pid = store.allocate()
    assert store.write(pid, b"q" * 256) and store.read(pid) == b"q" * 256
    store.free(pid)
    assert store.stat()["free"] == 9


SCENES = {
    "lock": held_lock,
    "spinlock": lambda here: held_lock(here, "spinlock"),
    "rlock": lambda here: held_lock(here, "rlock"),
    "condition": held_condition,
    "rwlock": held_rwlock,
    "semaphore": held_semaphore,
    "counting_semaphore": counting,
    "event": an_event,
    "barrier": a_barrier,
    "once": running_once,
    "segment": a_segment,
    "queue": a_queue,
    "clock": a_clock,
    "store": a_store,
}
assert set(SCENES) == set(CLASSES)


def use_lock(lock):
    assert lock.token is None and not lock.acquire(False) and not lock.acquire(timeout=0.01)
    raises(errors.NotHeldError, lock.release)
    assert lock.holder()


def use_condition(condition):
    assert not condition.acquire(False)
    raises(errors.NotHeldError, condition.notify)
    raises(errors.NotHeldError, condition.wait, 0.01)


def use_rwlock(lock):
    assert lock.token is None and not lock.acquire_read(False) and not lock.acquire_write(False)
    raises(errors.NotHeldError, lock.release_write)


def use_semaphore(semaphore):
    assert semaphore.held == 0 and semaphore.value == 1
    raises(errors.PermitError, semaphore.release)
    assert semaphore.acquire(False) and semaphore.held == 1
    semaphore.release()


def use_counting(semaphore):
    assert semaphore.value == 2 and semaphore.acquire(False)
    semaphore.release()


def use_event(event):
    event.set()
    assert event.wait(0)
    event.clear()


def use_barrier(barrier):
    assert barrier.parties == 2 and barrier.n_waiting == 1 and not barrier.broken


def use_once(once):
    assert not once.done
    raises(errors.TimeoutError, once.begin, 0)
    raises(errors.NotHeldError, once.end)


def use_segment(segment):
    assert segment.read(0) == 1 and segment.shape == (4,)
    raises(errors.TimeoutError, segment.publish, 0, timeout=0.01)
    assert segment.snapshot()[1][0] == 0


def use_queue(queue):
    assert queue.qsize() == 1
    raises(errors.TooManyMembersError, queue.put, b"x")
    raises(errors.BusyError, queue.get, False)
    raises(errors.InvalidArgumentError, queue.commit)
    raises(errors.InvalidArgumentError, queue.release)


def use_clock(clock):
    assert Lamport(clock).send() > 0


def use_store(store):
    pid = store.allocate()
    for value in (b"c", b"d"):
        store.write(pid, value * 256)
    assert store.read(pid) == b"d" * 256
    store.free(pid)


USES = {
    **dict.fromkeys(("lock", "spinlock", "rlock"), use_lock),
    "condition": use_condition,
    "rwlock": use_rwlock,
    "semaphore": use_semaphore,
    "counting_semaphore": use_counting,
    "event": use_event,
    "barrier": use_barrier,
    "once": use_once,
    "segment": use_segment,
    "queue": use_queue,
    "clock": use_clock,
    "store": use_store,
}


def use_then_close(kind, obj, cluster):
    USES[kind](obj)
    obj.close()
    raises(errors.ClosedError, USES[kind], obj)


def close_unused(kind, obj, cluster):
    obj.close()
    obj.close()
    assert obj.closed
    raises(errors.ClosedError, USES[kind], obj)


def close_cluster(kind, obj, cluster):
    cluster.close()
    assert obj.closed


def use_then_close_cluster(kind, obj, cluster):
    USES[kind](obj)
    cluster.close()
    assert obj.closed


def again_in_a_child(kind, obj, cluster):
    USES[kind](obj)
    in_child(use_then_close, kind, obj, cluster)
    USES[kind](obj)


def unused_then_again_in_a_child(kind, obj, cluster):
    in_child(use_then_close, kind, obj, cluster)
    USES[kind](obj)


DEEDS = (use_then_close, close_unused, close_cluster, use_then_close_cluster, again_in_a_child,
         unused_then_again_in_a_child)  # fmt: skip


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
@pytest.mark.parametrize("kind", SCENES)
def test_what_the_parent_holds_stays_the_parents(here, kind, deed):
    with SCENES[kind](here) as obj:
        in_child(deed, kind, obj, here)
        in_child(deed, kind, obj, here)  # the first one has left nothing behind


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("kind", SCENES)
def test_a_child_that_drops_its_handle(here, kind, used):
    """The destructors of a child, of handles that it has used and of others, give nothing back."""
    holder = []

    def drop():
        if used:
            USES[kind](holder[0])
        holder.clear()
        gc.collect()

    with contextlib.ExitStack() as stack:
        holder.append(stack.enter_context(SCENES[kind](here)))
        in_child(drop)


# -- a handle that is free works in the child as in the parent --


def test_a_lock_between_parent_and_children(here):
    lock, count = here.lock("lock", create=True), here.segment("count", 1, "i8", create=True)
    array = count.array

    def add(n=200):
        for _ in range(n):
            with lock:
                array[0] = array[0] + 1

    children = [threading.Thread(target=in_child, args=(add,)) for _ in range(3)]
    for child in children:
        child.start()
    add()
    for child in children:
        child.join()
    assert array[0] == 800


def test_a_lock_of_a_killed_child_is_taken_over(here):
    lock = here.lock("lock", create=True)
    with lock:
        pass
    child = os.fork()
    if not child:
        lock.acquire()
        os._exit(0)
    os.waitpid(child, 0)
    assert lock.acquire(timeout=SECONDS) and lock.recovered
    lock.release()


def test_a_rlock_counts_from_the_start(here):
    lock = here.rlock("lock", create=True)

    def twice():
        with lock, lock:
            return lock.token

    with lock:
        pass
    assert in_child(twice) == 2


def test_a_condition_is_notified_by_a_child(here):
    condition = here.condition("condition", create=True)

    def tell():
        with condition:
            condition.notify()

    with condition:
        child = threading.Thread(target=in_child, args=(tell,))
        child.start()
        assert condition.wait(SECONDS)
    child.join()


def test_parent_and_child_meet_at_a_barrier(here):
    barrier = here.barrier("barrier", 2, create=True)
    child = threading.Thread(target=in_child, args=(barrier.wait, SECONDS))
    child.start()
    barrier.wait(SECONDS)
    child.join()


def test_a_queue_from_child_to_parent(here):
    queue = here.queue("queue", producers=2, create=True)
    queue.put(b"parent")

    def put():
        queue.put(b"child")

    in_child(put)
    assert sorted((queue.get(timeout=0), queue.get(timeout=0))) == [b"child", b"parent"]


def test_a_queue_from_parent_to_child(here):
    queue = here.queue("queue", create=True)
    queue.put_many([b"1", b"2"])
    assert in_child(queue.get_many) == [b"1", b"2"]
    assert queue.empty()


def test_views_of_a_segment_stay_valid(here):
    segment = here.segment("segment", 4, "i8", create=True)
    array = segment.array

    def write():
        array[1] = 7
        assert segment.read(1) == 7
        segment.write(2, 8)
        segment.close()  # views of before the fork do not hinder it, and keep the memory
        array[3] = 9
        return array.tolist()

    assert in_child(write) == [0, 7, 8, 9]
    assert array.tolist() == [0, 7, 8, 9]


def test_new_views_in_a_child_hinder_close(here):
    segment = here.segment("segment", 4, "i8", create=True)
    array = segment.array

    def close():
        view = segment.array
        raises(errors.BusyError, segment.close)
        del view
        segment.close()

    in_child(close)
    assert array.tolist() == [0] * 4


def test_a_new_view_hinders_close_when_those_of_before_are_gone(here):
    segment = here.segment("it", 4, "i8", create=True)
    views = [segment.array]

    def child():
        segment.read(0)
        views.clear()
        gc.collect()
        new = segment.array
        raises(errors.BusyError, segment.close)
        new[0] = 7
        del new
        segment.close()

    in_child(child)
    assert segment.read(0) == 7
    views.clear()


@pytest.mark.parametrize("end", ["close", "use and close", "drop", "close the cluster"])
@pytest.mark.parametrize("how", ["reserve", "peek"])
def test_views_of_a_message_stay_valid(here, how, end):
    queue = here.queue("it", create=True)
    if how == "reserve":
        view = queue.reserve(8)
        view[:] = b"abcdefgh"
    else:
        queue.put(b"abcdefgh")
        view = queue.peek()
    queues = [queue]

    def child(queue):
        if end.startswith("use"):
            queue.qsize()
        if end.endswith("cluster"):
            here.close()
        elif end != "drop":
            queue.close()
        del queue
        queues.clear()
        gc.collect()
        assert bytes(view) == b"abcdefgh"
        view.release()

    in_child(child, queue)
    assert bytes(view) == b"abcdefgh"


def test_a_segment_that_grows_after_the_fork(here):
    segment = here.segment("segment", 4, "i8", create=True)

    def grow():
        segment.resize(100_000)
        segment.write(99_999, 7)

    in_child(grow)
    assert segment.read(99_999) == 7 and len(segment) == 100_000


def test_a_segment_that_the_parent_grows_meanwhile(here):
    segment = here.segment("segment", 4, "i8", create=True)
    go = here.event("go", create=True)

    def read():
        go.wait()
        return int(segment.read(99_999))

    child = threading.Thread(target=lambda: results.append(in_child(read)))
    results = []
    child.start()
    segment.resize(100_000)
    segment.write(99_999, 7)
    go.set()
    child.join()
    assert results == [7]


AT_FORK = """
import asyncio, os, sys
first = []
os.register_at_fork(after_in_child=lambda: [call() for call in first])  # before those of dsmem
import dsmem
from forked import in_child

async def main():
    with dsmem.connect(sys.argv[1]) as here:
        event = here.event("it", create=True)
        task = asyncio.ensure_future(event.wait_async())
        await asyncio.sleep(0)  # until it waits
        first.append(event.is_set)
        in_child(event.close)
        first.clear()
        event.set()
        await task

asyncio.run(main())
"""


def test_a_callback_uses_an_object_before_the_child_has_forgotten_the_waits_of_tasks(cluster_name):
    options = {"env": {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}}
    subprocess.run([sys.executable, "-c", AT_FORK, cluster_name], check=True, timeout=2 * SECONDS, **options)


async def test_a_child_leaves_the_tasks_of_the_parent_that_wait_for_a_queue(here):
    """Its copy of their loop would wake the parent's, through a socket that they share."""
    queue = here.queue("it", create=True)
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(queue.get_async())
    await asyncio.sleep(0)  # until it waits

    def child():
        woken = []
        loop.call_soon_threadsafe = lambda *call: woken.append(call)
        queue.close()
        return len(woken)

    assert in_child(child) == 0
    queue.put(b"parent")
    assert await asyncio.wait_for(task, SECONDS) == b"parent"


def test_a_version_of_a_child(here):
    segment = here.segment("segment", 4, "i8", versioned=True, create=True)
    segment.publish(1)

    def write():
        with segment.writing() as array:
            array[:] = 2
        return segment.publish(3)

    assert in_child(write) == 3
    assert segment.snapshot()[1].tolist() == [3] * 4


def test_a_turn_of_the_parents_writer_is_none_of_the_childs(here):
    segment = here.segment("segment", 4, "i8", versioned=True, create=True)
    child = None
    try:
        with segment.writing() as array:
            array[:] = 1
            child = os.fork()
        if not child:
            os._exit(1)
    except errors.NotHeldError:
        os._exit(0 if child == 0 else 2)
    assert os.waitpid(child, 0)[1] == 0
    assert segment.snapshot()[1].tolist() == [1] * 4


# -- the core --


def test_the_core_maps_again_in_a_child(here):
    segment = here.segment("segment", 4, "i8", create=True)

    def again():
        with _core.map_again(segment._memory.remote, 4096) as other:
            return np.frombuffer(other, "u1")[:8].tobytes()

    assert in_child(again) == b"dsmemobj"
