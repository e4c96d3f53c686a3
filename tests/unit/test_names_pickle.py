"""What goes with an object when it is pickled."""

import pickle
import threading

import pytest

from dsmem import errors

done = []


def action():
    """Of a barrier; pickled by its name."""
    done.append(1)


def sent(*objects):
    return pickle.loads(pickle.dumps(objects))


@pytest.mark.parametrize("lock_first", [True, False])
def test_a_lock_and_its_condition_stay_a_pair(here, lock_first):
    lock = here.lock("l", create=True)
    condition = here.condition("c", lock, create=True)
    if lock_first:
        again, waits = sent(lock, condition)
    else:
        waits, again = sent(condition, lock)
    with again:
        assert not waits.wait(timeout=0.01), "it knows that the lock is held by its own handle"
        with pytest.raises(errors.BusyError):
            again.close()
    with lock:
        condition.notify_all()
    waits.close()
    again.close()
    condition.close()
    lock.close()


def test_a_condition_alone_brings_its_lock(here):
    lock = here.lock("l", create=True)
    condition = here.condition("c", lock, create=True)
    (alone,) = sent(condition)
    with alone:
        assert not lock.acquire(blocking=False)
    for one in (alone, alone._lock, condition, lock):
        one.close()


def test_a_barrier_keeps_its_action_and_timeout(here):
    barrier = here.barrier("b", 2, action, 30, create=True)
    (again,) = sent(barrier)
    done.clear()
    thread = threading.Thread(target=again.wait)
    thread.start()
    barrier.wait()
    thread.join()
    assert done == [1]
    impatient = here.barrier("b", timeout=0.01)
    (short,) = sent(impatient)
    with pytest.raises(errors.BrokenBarrierError):
        short.wait()
    for one in (again, short, impatient, barrier):
        one.close()


def test_an_action_without_a_name_is_refused(here):
    barrier = here.barrier("b", 1, lambda: None, create=True)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(barrier)
    barrier.close()
