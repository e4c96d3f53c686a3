"""Events between processes."""

import threading

import pytest
from short_timeouts import in_vain

import dsmem
from dsmem import errors

LIMIT = 60.0


def test_like_threading_event(world):
    event = world.make("event")
    other = world.again(event)
    assert not event.is_set() and event.wait(0) is False and in_vain(event.wait, 0.02) is False
    event.set()
    event.set()
    assert other.is_set() and other.wait() is True and other.wait(0) is True
    other.clear()
    other.clear()
    assert not event.is_set()
    assert event.wait(-1) is event.is_set()


def test_all_waiters_are_woken(world):
    event = world.make("event")
    actors = [world.actor(event) for _ in range(3)]
    for a in actors:
        a.start(f"obj.wait({LIMIT})")
        a.until_asleep()
    event.set()
    assert [a.result() for a in actors] == [True] * 3


def test_a_pulse_is_not_missed(local):
    event = local.make("event")
    waiter = local.actor(event)
    waiter.start(f"obj.wait({LIMIT})")
    waiter.until_asleep()
    waiter.stop()
    event.set()
    event.clear()
    waiter.go_on()
    assert waiter.result() is True and not event.is_set()


def test_a_stopped_waiter_stops_no_other(local):
    event = local.make("event")
    stopped, waiter = local.actor(event), local.actor(event)
    for a in (stopped, waiter):
        a.start(f"obj.wait({LIMIT})")
        a.until_asleep()
    stopped.stop()
    event.set()
    assert waiter.result() is True


def test_close_under_a_waiter(local):
    event = local.make("event")
    thread = threading.Thread(target=event.wait)
    thread.start()
    while True:
        try:
            event.close()
        except errors.BusyError:
            break
        pytest.fail("closed under a waiter")
    event.set()
    thread.join()


@pytest.mark.parametrize("fault", ["fail", "failafter"])
def test_one_lost_op(fault_world, fault):
    """Set and clear do what they say, whichever of their ops fails."""
    event = fault_world.make("event")
    for nth in range(7, 15):
        with (
            dsmem.Context(f"{fault_world.fabric}://?{fault}={nth}", secret=fault_world.secret) as user,
            dsmem.attach(event.ref, user) as it,
        ):
            for _ in range(4):
                before = event.is_set()
                if before:
                    it.clear()
                else:
                    it.set()
                assert event.is_set() is not before
