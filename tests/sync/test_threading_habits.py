"""What users of threading expect of locks and their like, beyond CPython's own tests (test_cpython_suites.py)."""

import threading

import pytest

from dsmem import errors


def test_a_reprs_state(local):
    lock, rlock, event = local.make("lock"), local.make("rlock", "r"), local.make("event", "e")
    assert repr(lock) == "<Lock 'it' unlocked>"
    with lock, rlock:
        assert repr(local.again(lock)) == "<Lock 'it' locked>"
        assert repr(rlock) == "<RLock 'r' locked>"
    event.set()
    assert repr(event) == "<Event 'e' set>"
    assert repr(local.make("semaphore", "s", n=3)) == "<Semaphore 's' value=3>"
    assert repr(local.make("semaphore", "c", n=0, owned=False)) == "<CountingSemaphore 'c' value=0>"
    barrier = local.make("barrier", "b", parties=2)
    assert repr(barrier) == "<Barrier 'b' waiters=0/2>"
    barrier.abort()
    assert repr(barrier) == "<Barrier 'b' waiters=0/2 broken>"
    event.close()
    assert repr(event) == "<Event 'e' closed>"


def test_conditions_nest(world):
    condition = world.make("condition")
    with condition, condition:
        assert not condition.wait(0)
        token = condition.token
        assert token is not None
    assert condition.token is None
    assert not condition.locked()


def test_a_wait_releases_a_nested_lock_whole(world):
    """Only a whole release lets the other process in, which notifies."""
    condition = world.make("condition")
    other = world.actor(condition)
    with condition, condition:
        other.start("[obj.acquire(), obj.notify(), obj.release()]")
        assert condition.wait(20)
        assert condition.token is not None
        condition.release()
        assert condition.token is not None
        condition.acquire()
    other.result()
    assert condition.token is None


def test_a_condition_with_a_reentrant_lock(world):
    lock = world.make("rlock", "lock")
    condition = world.make("condition", lock=lock)
    with lock:
        with condition:
            assert not condition.wait(0)
            condition.notify()
        assert lock.token is not None
    assert lock.token is None


def test_another_thread_neither_releases_nor_waits_with_a_reentrant_lock(world):
    condition = world.make("condition")
    raised = []

    def try_all():
        for call in (condition.release, condition.wait, condition.notify):
            try:
                call()
            except errors.NotHeldError as error:
                raised.append(error)

    with condition:
        thread = threading.Thread(target=try_all)
        thread.start()
        thread.join()
        assert condition.token is not None
    assert len(raised) == 3


def test_a_reentrant_lock_excludes_other_processes(world):
    lock = world.make("rlock")
    other = world.actor(lock)
    with lock:
        lock.acquire()
        lock.release()
        assert not other.call("obj.acquire(False)")
    assert other.call("obj.acquire() and obj.acquire()")
    assert not lock.acquire(False)
    other.call("[obj.release(), obj.release()]")
    assert lock.acquire(timeout=20)
    lock.release()


def test_a_killed_holder_of_a_reentrant_lock(local):
    lock = local.make("rlock")
    other = local.actor(lock)
    other.call("obj.acquire() and obj.acquire()")
    other.kill()
    assert lock.acquire(timeout=20)
    assert lock.recovered
    lock.release()


@pytest.mark.parametrize("first", [0, 3])
def test_one_process_releases_what_another_acquires(world, first):
    work = world.make("semaphore", n=first, owned=False)
    other = world.actor(work)
    assert work.value == first
    other.start("[obj.acquire(timeout=30) for _ in range(10)]")
    work.release(10 - first)
    assert other.result() == [True] * 10
    assert work.value == 0
    assert not work.acquire(False)
    assert not work.acquire(timeout=-1)


def test_counted_permits_have_a_limit(world):
    permits = world.make("semaphore", n=2**31 - 2, owned=False)
    permits.release()
    with pytest.raises(errors.InvalidArgumentError, match="2147483647"):
        permits.release()
    assert permits.value == 2**31 - 1


def test_kinds_of_semaphores_are_not_mixed_up(world):
    world.make("semaphore", n=1, owned=False)
    with pytest.raises(errors.MismatchError):
        world.cluster.semaphore("it")


def test_a_release_of_too_many_permits_changes_nothing(world):
    permits = world.make("semaphore", n=3)
    permits.acquire()
    permits.acquire()
    with pytest.raises(errors.PermitError, match="3 of 2") as caught:
        permits.release(3)
    assert isinstance(caught.value, (RuntimeError, ValueError))
    assert permits.held == 2
    permits.release(2)
    assert permits.value == 3


def test_timeouts_as_threading_takes_them(world):
    lock, event = world.make("lock"), world.make("event", "e")
    condition, permits = world.make("condition", "c"), world.make("semaphore", "s", n=1)
    for timeout, error in ((1e100, OverflowError), ("1", TypeError), ([], TypeError)):
        for call in (lock.acquire, event.wait, permits.acquire):
            with pytest.raises(error) as caught:
                call(timeout=timeout)
            assert isinstance(caught.value, errors.InvalidArgumentError)
    with pytest.raises(ValueError):
        lock.acquire(timeout=-2)
    assert not event.wait(-1)
    with condition:
        assert not condition.wait(-1)
        assert not condition.wait_for(lambda: False, -1)
        condition.notify(-1)
    with permits:
        assert not permits.acquire(timeout=-1)
    assert lock.acquire(timeout=threading.TIMEOUT_MAX)
    lock.release()


def test_a_lock_of_two_kinds_is_not_entered(world):
    lock = world.make("rwlock")
    with pytest.raises(TypeError, match=r"with lock.read\(\)"):
        with lock:
            pass
    with lock.read():
        pass
