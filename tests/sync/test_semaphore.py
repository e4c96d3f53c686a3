"""Semaphores between processes."""

import threading
import time

import pytest
from short_timeouts import in_vain

from dsmem import errors

LIMIT = 60.0


def test_like_a_bounded_semaphore(world):
    sem = world.make("semaphore", n=3)
    other = world.again(sem)
    assert sem.acquire() is True and other.acquire() and sem.acquire(timeout=1)
    assert (sem.value, sem.held, other.held) == (0, 2, 1)
    assert sem.acquire(False) is False and in_vain(other.acquire, timeout=0.02) is False
    sem.release(2)
    assert sem.value == 2
    with pytest.raises(errors.NotHeldError):
        sem.release()
    with pytest.raises(ValueError):
        sem.release(0)
    with sem as got:
        assert got is True and sem.value == 1
    other.release()
    assert sem.value == 3 and not sem.recovered


def test_properties(local):
    with pytest.raises(errors.InvalidArgumentError):
        local.cluster.semaphore("it", 4097, create=True)
    local.make("semaphore", n=2)
    with pytest.raises(errors.MismatchError, match="n=2, not 3"):
        local.cluster.semaphore("it", 3)
    local.make("semaphore", name="one")
    one = local.cluster.semaphore("one", 1)
    assert one.value == 1
    one.close()


def test_threads(world):
    sem = world.make("semaphore", n=2)
    inside, most = [0], [0]

    def work():
        for _ in range(50):
            with sem:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0)  # others run now
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert most[0] <= 2 and sem.value == 2


STRESS = """
def run(n):
    remote, most = obj._memory.remote, 0
    for _ in range(n):
        with obj:
            most = max(most, remote.fetch_add(80, 1) + 1)
            remote.fetch_add(80, -1)
    return most
"""


def test_processes(world):
    n = 200 if world.remote else 3000
    sem = world.make("semaphore", n=2)
    actors = [world.actor(sem) for _ in range(4)]
    for a in actors:
        a.call(STRESS)
        a.start(f"run({n})")
    assert all(a.result() <= 2 for a in actors)
    assert sem.value == 2


def test_permits_of_the_dead_come_back(local):
    sem = local.make("semaphore", n=2)
    victim, waiter = local.actor(sem), local.actor(sem)
    assert victim.call("obj.acquire(), obj.acquire()") == (True, True)
    waiter.start(f"obj.acquire(timeout={LIMIT}), obj.recovered")
    assert not sem.acquire(timeout=0.1)
    victim.kill()
    assert waiter.result() == (True, True)
    assert sem.acquire(timeout=LIMIT) and sem.recovered
    sem.release()
    assert sem.acquire() and not sem.recovered
    sem.release()


def test_remote_permits_of_the_dead_do_not(remote):
    sem = remote.make("semaphore", n=1)
    victim = remote.actor(sem)
    victim.call("obj.acquire()")
    victim.kill()
    assert not in_vain(sem.acquire, timeout=0.2)


def test_close(world):
    sem = world.make("semaphore", n=1)
    other = world.again(sem)
    other.acquire()
    with pytest.raises(errors.BusyError):
        other.close()
    other.release()
    dropped = world.cluster.semaphore("it")
    memory = dropped._memory
    dropped.acquire()
    del dropped
    memory.close()
    assert sem.acquire(timeout=LIMIT)
    sem.release()


def test_round_trips(remote):
    sem = remote.make("semaphore", n=64)
    with sem:
        pass
    before = remote.context.stats["posts"]
    for _ in range(5):
        with sem:
            pass
    assert remote.context.stats["posts"] - before == 10


def test_permits_are_broken_by_choice(world):
    permits = world.make("semaphore", n=3)
    holder, other = world.actor(permits), world.actor(permits)
    assert permits.holders() == [] and not permits.break_(1)
    holder.call("obj.acquire(), obj.acquire()")
    gone = permits.holders()
    other.call("obj.acquire()")
    assert len(permits.holders()) == 3 and not permits.acquire(False)
    for one in set(gone):  # remote, each permit has a name of its own
        assert permits.break_(one) and not permits.break_(one)
    assert permits.value == 2 and len(permits.holders()) == 1
    assert permits.acquire(False) and permits.acquire(False)
    with pytest.raises(errors.NotHeldError):
        holder.call("obj.release()")
    assert permits.value == 0 and not holder.call("obj.acquire(False)")
    other.call("obj.release()")
    assert holder.call("obj.acquire(False)")
    permits.release(2)


def test_breaking_permits_wakes_as_many_waiters(local):
    permits = local.make("semaphore", n=2)
    holder, waiters = local.actor(permits), [local.actor(permits) for _ in range(2)]
    holder.call("obj.acquire(), obj.acquire()")
    for waiter in waiters:
        waiter.start("obj.acquire(timeout=60)")
        waiter.until_asleep()
    assert permits.break_(permits.holders()[0])
    assert [waiter.result() for waiter in waiters] == [True, True]
