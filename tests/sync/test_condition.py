"""Conditions between processes."""

import os
import pickle
import signal
import threading
import time

import pytest
from short_timeouts import in_vain

import dsmem
from dsmem import errors

LIMIT = 60.0
WAIT = f"obj.acquire(), obj.wait({LIMIT}), obj.recovered, obj.release()"
WOKEN = (True, True, False, None)


def until_waiting(condition, n):
    """Until n wait: each gives the lock back when it begins to, and the slots say so."""
    raw = bytearray(condition._memory.remote.nbytes)
    while True:
        with condition:
            condition._memory.remote.read(0, raw)
        members = int.from_bytes(raw[64:68], "little")
        own = 256 + (8 * members + 63) // 64 * 64
        if sum(raw[at] & 3 == 1 for at in range(own, own + 64 * 8, 64)) == n:
            return


def waiters(world, condition, n):
    actors = [world.actor(condition) for _ in range(n)]  # before any of them waits: in a guest that may take seconds
    for i, one in enumerate(actors):
        one.start(WAIT)
        until_waiting(condition, i + 1)
    return actors


def test_like_threading_condition(world):
    condition = world.make("condition", waiters=8)
    for call in (condition.wait, condition.notify, condition.notify_all):
        with pytest.raises(errors.NotHeldError):
            call()
    with condition as taken:
        assert taken is True and condition.locked() and condition.token == 1
        assert in_vain(condition.wait, 0.02) is False
        assert condition.token >= 2
        assert condition.wait_for(lambda: 7) == 7
        assert in_vain(condition.wait_for, lambda: None, 0.03) is None
        condition.notify()
        condition.notify_all()
        assert in_vain(condition.wait, 0.02) is False  # no waiter was there then
        condition.notify(-1)  # as threading has it: none
        with pytest.raises(ValueError):
            condition.notify(1.5)
    assert not condition.locked()


def test_notify_wakes_that_many_oldest_first(world):
    condition = world.make("condition", waiters=8)
    actors = waiters(world, condition, 3)
    with condition:
        condition.notify()
    assert actors[0].result() == WOKEN
    until_waiting(condition, 2)
    with condition:
        condition.notify(5)
    assert [a.result() for a in actors[1:]] == [WOKEN] * 2
    actors[0].start(WAIT)
    actors[2].start(WAIT)
    until_waiting(condition, 2)
    with condition:
        condition.notify_all()
    assert actors[0].result() == actors[2].result() == WOKEN


def test_too_many(local):
    condition = local.make("condition", waiters=1)
    waiters(local, condition, 1)
    with condition, pytest.raises(errors.TooManyMembersError):
        condition.wait(0)
    assert not condition.locked()


def test_producer_and_consumers(world):
    condition = world.make("condition", waiters=8)
    n = 30 if world.remote else 300
    code = """
def run():
    remote, got, word = obj._memory.remote, 0, bytearray(8)
    def ready():
        remote.read(80, word)
        return int.from_bytes(word, 'little')
    while True:
        with obj:
            n = obj.wait_for(ready, LIMIT)
            if n > 1 << 32:
                return got
            remote.write(80, (n - 1).to_bytes(8, 'little'))
            got += 1
"""
    actors = [world.actor(condition) for _ in range(3)]
    for a in actors:
        a.call(code.replace("LIMIT", str(LIMIT)))
        a.start("run()")
    remote, word = condition._memory.remote, bytearray(8)
    for _ in range(n):
        with condition:
            remote.read(80, word)
            remote.write(80, (int.from_bytes(word, "little") + 1).to_bytes(8, "little"))
            condition.notify()
    left = 1
    while left:
        with condition:
            remote.read(80, word)
            left = int.from_bytes(word, "little")
    with condition:
        remote.write(80, (1 << 40).to_bytes(8, "little"))
        condition.notify_all()
    assert sum(a.result() for a in actors) == n


# ---- deaths ----


def test_a_dead_waiter_s_notification_goes_to_another(local):
    condition = local.make("condition", waiters=8)
    dies, lives = waiters(local, condition, 2)
    dies.stop()
    with condition:
        condition.notify()  # the oldest, which is stopped
    dies.kill()
    assert lives.result() == WOKEN


def test_a_dead_waiter_s_notification_is_not_for_one_that_came_later(local):
    """No other waiter was there then: it goes with the dead."""
    condition = local.make("condition", waiters=8)
    (dies,) = waiters(local, condition, 1)
    dies.stop()
    with condition:
        condition.notify()
    dies.kill()
    with condition:
        assert condition.wait(0.2) is False
        condition.notify_all()


def test_the_notification_of_a_dead_waiter_whose_line_is_used_again(local):
    """The waiter that needs the line passes the notification on."""
    condition = local.make("condition", waiters=2)
    dies, lives = waiters(local, condition, 2)
    dies.stop()
    lives.stop()
    with condition:
        condition.notify()
    dies.kill()
    with condition:
        assert condition.wait(0) is False  # in the line of the dead
        lives.go_on()
    assert lives.result() == WOKEN


def test_a_waiter_that_died_before_is_no_hindrance(local):
    condition = local.make("condition", waiters=8)
    dies, lives = waiters(local, condition, 2)
    dies.kill()
    with condition:
        condition.notify()
    assert lives.result() == WOKEN


def test_slots_of_the_dead_are_used_again(local):
    condition = local.make("condition", waiters=1)
    for _ in range(3):
        waiters(local, condition, 1)[0].kill()
        with condition:
            assert condition.wait(0) is False


def test_owner_died_of_a_dead_notifier(local):
    condition = local.make("condition", waiters=8)
    (waiter,) = waiters(local, condition, 1)
    notifier = local.actor(condition)
    notifier.call("obj.acquire(), obj.notify()")
    notifier.kill()
    assert waiter.result() == (True, True, True, None)


SIGNALLED = """
import signal
class Enough(Exception):
    pass
def stop(*_):
    obj._memory.remote.write(80, bytes([1] * 8))
    raise Enough
signal.signal(signal.SIGUSR1, stop)
def run():
    obj.acquire()
    try:
        obj.wait()
    except Enough:
        return obj.token is not None
    finally:
        obj.release()
"""


def test_a_signal_leaves_the_lock_held_and_passes_the_notification_on(local):
    """The handler has raised, and its waiter waits for the lock, when the notification is given to it."""
    condition = local.make("condition", waiters=8)
    first, second = local.actor(condition), local.actor(condition)
    first.call(SIGNALLED)
    first.start("run()")
    until_waiting(condition, 1)
    second.start(WAIT)
    until_waiting(condition, 2)
    raised = bytearray(8)
    with condition:
        os.kill(first.pid, signal.SIGUSR1)
        while not any(raised):
            condition._memory.remote.read(80, raised)
        condition.notify()
    assert first.result() is True
    assert second.result() == WOKEN


class Enough(Exception):
    """What the handlers here raise."""


def enough(*_):
    raise Enough


@pytest.mark.parametrize("kind, notified", [("own", True), ("plain", False)])
def test_a_signal_ends_a_wait_for_a_lock_that_does_not_come(world, kind, notified):
    """Another one has the lock and does not give it back: the interrupt comes out, and the lock is not held."""
    lock = world.make("lock", name="lock") if kind == "plain" else None
    condition = world.make("condition", waiters=8, lock=lock)
    holder = world.actor(lock or condition)
    before = signal.signal(signal.SIGUSR1, enough)
    try:
        with pytest.raises(Enough), condition:
            notify = "obj.notify()" if notified else "None"
            holder.start(f"obj.acquire(), {notify}, os.kill({os.getpid()}, {int(signal.SIGUSR1)})")
            try:
                condition.wait()
            finally:
                for call in (condition.notify, condition.wait) + (() if lock else (condition.release,)):
                    with pytest.raises(errors.NotHeldError):
                        call()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert holder.result()[0] is True and condition.locked()
    with pytest.raises(errors.NotHeldError):
        condition.release()
    holder.kill()
    if world.remote:
        assert condition.break_(condition.holder())
    with condition:
        assert condition.wait(0) is False
        assert not lines_in_use(condition)
    condition.close()


def lines_in_use(condition):
    raw = bytearray(condition._memory.remote.nbytes)
    condition._memory.remote.read(0, raw)
    members = int.from_bytes(raw[64:68], "little")
    own = 256 + (8 * members + 63) // 64 * 64
    return sum(any(raw[at + 8 : at + 16]) for at in range(own, own + 64 * 8, 64))


def test_another_one_s_line(local):
    """A waiter whose line another process has overwritten says so, and leaves the line alone."""
    condition = local.make("condition", waiters=8)
    got = []

    def wait():
        with condition:
            try:
                condition.wait(LIMIT)
            except errors.CorruptError as error:
                got.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until_waiting(condition, 1)
    remote = condition._memory.remote
    raw = bytearray(remote.nbytes)
    with condition:
        remote.read(0, raw)
        line = 256 + (8 * int.from_bytes(raw[64:68], "little") + 63) // 64 * 64
        other = (condition.token + 7) << 2 | 1
        remote.write(line, other.to_bytes(8, "little"))
    thread.join()
    assert len(got) == 1
    remote.read(0, raw)
    assert int.from_bytes(raw[line : line + 8], "little") == other
    assert not condition.locked()


# ---- the lock that it goes with ----


def test_two_conditions_of_one_lock(local):
    lock = local.make("lock", name="lock")
    full = local.make("condition", name="full", lock=lock)
    empty = local.make("condition", name="empty", lock=lock)
    with pytest.raises(errors.NotHeldError):
        empty.notify()
    with lock:
        assert full.locked() and empty.token == lock.token
        empty.notify()
        assert full.wait(0.01) is False
    with pytest.raises(errors.BusyError, match="2 conditions"):
        lock.close()
    got = []
    thread = threading.Thread(target=lambda: (empty.acquire(), got.append(empty.wait(LIMIT)), empty.release()))
    thread.start()
    while thread.is_alive():
        with lock:
            empty.notify()
        time.sleep(0)
    thread.join()
    assert got == [True]
    full.close()
    empty.close()


def test_the_lock_must_be_the_one(local):
    lock, other = local.make("lock", name="lock"), local.make("lock", name="other")
    it = local.make("condition", lock=lock)
    own = local.make("condition", name="own")
    for name, given in (("it", None), ("it", other), ("own", other)):
        with pytest.raises(errors.MismatchError):
            local.cluster.condition(name, given)
    with pytest.raises(errors.MismatchError):
        dsmem.attach(it.ref)
    copy = pickle.loads(pickle.dumps(it))
    with copy:
        assert lock.locked() and not own.locked()
    copy.close()
    copy._lock.close()
    it.close()
