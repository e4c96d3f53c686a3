"""Locks between processes: exclusion, tokens, dead and stopped processes, lost ops."""

import contextlib
import gc
import itertools
import os
import pickle
import re
import signal
import struct
import threading
import time

import numpy as np
import pytest
from short_timeouts import in_vain

import dsmem
from dsmem import _core, errors

LIMIT = 60.0  # seconds until a wait that hangs is a failure


@pytest.fixture(params=["lock", "spinlock"])
def kind(request):
    return request.param


# ---- one process ----


def test_like_threading_lock(world, kind):
    lock = world.make(kind)
    assert lock.acquire() is True and lock.locked()
    assert lock.acquire(False) is False and lock.acquire(blocking=False) is False
    assert in_vain(lock.acquire, timeout=0.02) is False and lock.acquire(True, 0.0) is False
    lock.release()
    assert not lock.locked()
    with lock as taken:
        assert taken is True and lock.locked()
    assert not lock.locked()


def test_arguments(local):
    lock = local.make("lock")
    for wrong in ((False, 1.0), (True, -3.0), (True, float("nan"))):
        with pytest.raises(ValueError):
            lock.acquire(*wrong)
    assert lock.acquire(timeout=None) and not lock.acquire(False, -1)
    lock.release()


def test_what_is_not_held(world, kind):
    lock = world.make(kind)
    with pytest.raises(errors.NotHeldError):
        lock.release()
    lock.acquire()
    lock.release()
    with pytest.raises(RuntimeError):
        lock.release()
    other = world.again(lock)
    other.acquire()
    with pytest.raises(errors.NotHeldError):
        lock.release()
    assert other.locked()
    other.release()


def test_tokens_grow(world, kind):
    lock = world.make(kind)
    other = world.again(lock)
    assert lock.token is None and not lock.recovered
    tokens = []
    for handle in (lock, other, lock, lock, other):
        with handle:
            tokens.append(handle.token)
            assert not handle.recovered
    assert tokens == [1, 2, 3, 4, 5]
    assert lock.token is None


def test_threads_exclude_each_other(world):
    lock = world.make("lock")
    total = [0]

    def work():
        for _ in range(200):
            with lock:
                seen = total[0]
                time.sleep(0)
                total[0] = seen + 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert total == [800]


def test_close(world, kind):
    lock = world.make(kind)
    other = world.again(lock)
    other.acquire()
    with pytest.raises(errors.BusyError):
        other.close()
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    while not lock._memory.remote.closed:
        try:
            lock.close()
        except errors.BusyError:
            break
    else:
        pytest.fail("closed under a waiter")
    other.release()
    thread.join()
    lock.release()
    other.close()
    other.close()
    with pytest.raises(errors.ClosedError):
        other.acquire()
    with pytest.raises(errors.ClosedError):
        other.release()


def test_a_handle_that_is_dropped_leaves_owner_died(world, kind):
    lock = world.make(kind)
    other = dsmem.attach(lock.ref, world.context)
    memory = other._memory
    other.acquire()
    del other
    memory.close()
    assert lock.acquire(timeout=LIMIT) and lock.recovered and lock.token == 2
    lock.release()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_a_cycle_of_everything_is_collected(order):
    context = dsmem.Context("fault+shm", secret=bytes(16))
    region = context.allocate(4096)
    with memoryview(region) as view:
        _core.sync_format(view, "lock", 8)
    remote = context.attach(region.descriptor)
    lock = _core.Lock(remote)
    lock.acquire()
    things = [context, region, remote, lock]
    cycle = [things[i] for i in order]
    cycle.append(cycle)
    del context, region, remote, lock, things, cycle
    gc.collect()


def test_members(local):
    lock = local.make("lock", members=2)
    second = local.again(lock)
    with pytest.raises(errors.TooManyMembersError):
        local.again(lock)
    second.close()
    local.again(lock).acquire()
    with pytest.raises(errors.MismatchError, match=r"members=2, not 3"):
        local.cluster.lock("it", members=3)
    for wrong in (0, 1025):
        with pytest.raises(errors.InvalidArgumentError):
            local.cluster.lock("other", create=True, members=wrong)
    most = local.cluster.lock("other", create=True, members=1024)
    with most:
        assert most.locked()
    most.close()


def test_another_kind(world):
    lock = world.make("lock")
    with pytest.raises(errors.MismatchError, match="is a lock"):
        world.cluster.spinlock("it")
    assert lock.acquire()
    lock.release()


def test_a_reader_has_no_lock(local):
    lock = local.make("lock")
    path = f"/dev/shm/dsmem-{os.geteuid()}/{local.cluster.name}/it"
    fd = os.open(path, os.O_RDONLY)
    with _core.map_file(fd, os.fstat(fd).st_size, "r") as remote, pytest.raises(errors.AccessDeniedError):
        _core.Lock(remote)
    os.close(fd)
    lock.acquire()
    lock.release()


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, 0), (16, 1 << 40), (16, 64), (64, 0), (64, 0xFFFFFFFF), (64, 200), (68, 7)],
)
def test_overwritten_headers(local, offset, value):
    lock = local.cluster.lock("it", members=4, create=True)
    lock._memory.remote.write(offset, struct.pack("<I" if offset in (64, 68) else "<Q", value))
    with pytest.raises((errors.CorruptError, errors.VersionError)):
        local.again(lock)
    if offset == 0:
        with pytest.raises(errors.CorruptError, match=re.escape("cluster.unlink('it')")):
            lock.unlink()
        local.cluster.unlink("it")
    else:
        lock.unlink()
    lock.close()
    assert local.cluster.list() == []


@pytest.mark.parametrize("seed", range(20))
def test_overwritten_words_crash_no_process(local, seed):
    rng = np.random.default_rng(seed)
    lock = local.make("lock", members=4)
    lock._memory.remote.write(128, rng.bytes(128 + 32))
    try:
        if lock.acquire(timeout=0.1):
            lock.release()
    except (errors.CorruptError, errors.NotHeldError):
        pass
    with contextlib.suppress(errors.CorruptError, errors.TooManyMembersError):
        dsmem.attach(lock.ref).close()


def test_a_signal_ends_a_wait(local):
    lock = local.make("lock")
    lock.acquire()

    class Enough(Exception):
        pass

    def on_alarm(number, frame):
        raise Enough

    old = signal.signal(signal.SIGALRM, on_alarm)
    try:
        with pytest.raises(Enough):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            lock.acquire()
    finally:
        signal.signal(signal.SIGALRM, old)
    lock.release()


# ---- several processes ----

STRESS = """
def run(n):
    remote, tokens = obj._memory.remote, []
    word = bytearray(8)
    for _ in range(n):
        with obj:
            remote.read(AT, word)
            tokens.append(obj.token)
            remote.write(AT, (int.from_bytes(word, 'little') + 1).to_bytes(8, 'little'))
    return tokens
"""
SPARE = 80  # bytes 80 to 127 of the layout are zero, and of no use to the lock


def test_exclusion_between_processes(world, kind):
    rounds = 300 if world.remote else 5000
    lock = world.make(kind)
    actors = [world.actor(lock) for _ in range(4)]
    for a in actors:
        a.call(STRESS.replace("AT", str(SPARE)))
        a.start(f"run({rounds})")
    tokens = [a.result() for a in actors]
    count = bytearray(8)
    lock._memory.remote.read(SPARE, count)
    assert int.from_bytes(count, "little") == 4 * rounds
    assert all(t == sorted(t) for t in tokens)
    assert sorted(itertools.chain(*tokens)) == list(range(1, 4 * rounds + 1))


def test_a_holder_is_killed(local, kind):
    lock = local.make(kind)
    holder, waiter = local.actor(lock), local.actor(lock)
    assert holder.call("obj.acquire(), obj.token") == (True, 1)
    waiter.start(f"obj.acquire(timeout={LIMIT}), obj.token, obj.recovered")
    assert not lock.acquire(timeout=0.1)
    holder.kill()
    assert waiter.result() == (True, 2, True)
    waiter.call("obj.release()")
    assert lock.acquire(timeout=LIMIT) and lock.token == 3 and not lock.recovered
    lock.release()


def test_owner_died_is_not_lost_with_the_entry(local):
    lock = local.make("lock", members=2)
    holder = local.actor(lock)
    holder.call("obj.acquire()")
    holder.kill()
    joins = local.actor(lock)  # takes over the dead one's entry
    assert joins.call("obj.locked()") is False
    assert lock.acquire(False) and lock.recovered and lock.token == 2
    lock.release()


def test_a_try_finds_the_dead(local, kind):
    lock = local.make(kind)
    holder = local.actor(lock)
    holder.call("obj.acquire()")
    holder.kill()
    assert local.again(lock).acquire(False)


def test_a_stopped_holder_is_not_dead(local):
    lock = local.make("lock")
    holder = local.actor(lock)
    holder.call("obj.acquire()")
    holder.stop()
    assert not lock.acquire(timeout=0.3)
    holder.go_on()
    holder.call("obj.release()")
    assert lock.acquire(timeout=LIMIT) and not lock.recovered
    lock.release()


def test_a_lock_is_broken_by_choice(world):
    lock = world.make("lock")
    assert lock.holder() is None and not lock.break_(1)
    holder = world.actor(lock)
    holder.call("obj.acquire()")
    gone, token = lock.holder(), holder.call("obj.token")
    assert gone and not lock.break_(gone + 1) and not lock.acquire(timeout=0)
    assert lock.break_(gone) and not lock.break_(gone) and lock.holder() is None
    assert lock.acquire(timeout=LIMIT) and lock.recovered and lock.token == token + 1
    assert not lock.break_(gone)  # a later grant is another's
    with pytest.raises(errors.NotHeldError):
        holder.call("obj.release()")
    assert lock.locked()
    lock.release()
    holder.call("obj.acquire()")
    assert holder.call("obj.token") == token + 2 and lock.holder() == gone
    holder.call("obj.release()")


def test_breaking_wakes_a_waiter(local):
    lock = local.make("lock")
    holder, waiter = local.actor(lock), local.actor(lock)
    holder.call("obj.acquire()")
    waiter.start("obj.acquire(timeout=60)")
    waiter.until_asleep()
    holder.stop()
    assert lock.break_(lock.holder())
    assert waiter.result() and waiter.call("obj.recovered")
    waiter.call("obj.release()")
    holder.go_on()
    with pytest.raises(errors.NotHeldError):
        holder.call("obj.release()")


def test_a_remote_holder_is_never_taken_for_dead(remote):
    lock = remote.make("lock")
    holder = remote.actor(lock)
    holder.call("obj.acquire()")
    holder.kill()
    assert not in_vain(lock.acquire, timeout=0.3) and not remote.again(lock).acquire(False)


def test_a_stopped_waiter_stops_no_other(local):
    lock = local.make("lock")
    stopped, waiter = local.actor(lock), local.actor(lock)
    lock.acquire()
    stopped.start("obj.acquire()")
    stopped.until_asleep()
    stopped.stop()
    waiter.start(f"obj.acquire(timeout={LIMIT}), obj.release()")
    waiter.until_asleep()
    lock.release()
    assert waiter.result() == (True, None)


def test_a_waiter_that_was_just_woken_is_killed(local):
    lock = local.make("lock")
    survivor = local.actor(lock)
    for _ in range(5):
        victim = local.actor(lock)
        lock.acquire()
        token = lock.token
        victim.start("obj.acquire()")
        victim.until_asleep()
        victim.stop()  # so it can't run between its wake and its end
        survivor.start(f"obj.acquire(timeout={LIMIT}), obj.token - {token}, obj.release()")
        survivor.until_asleep()
        lock.release()
        victim.kill()
        assert survivor.result() == (True, 1, None)


def test_a_killed_process_leaves_its_entry(local):
    lock = local.make("lock", members=3)
    for _ in range(6):
        victim = local.actor(lock)
        assert victim.call("obj.acquire(), obj.release()") == (True, None)
        victim.kill()


def test_pickles(world):
    lock = world.make("lock")
    other = pickle.loads(pickle.dumps(lock))
    assert other.acquire() and not lock.acquire(False)
    other.release()
    other.close()


# ---- remote: round trips, lost ops ----


def posts(context):
    return context.stats["posts"]


def test_two_round_trips(remote):
    lock = remote.make("lock")
    with lock:
        pass
    before = posts(remote.context)
    for _ in range(10):
        assert lock.acquire()
        lock.release()
    assert posts(remote.context) - before == 20
    other = remote.again(lock)
    before = posts(remote.context)
    other.acquire()
    assert posts(remote.context) - before == 2  # its first guess was wrong
    other.release()


def test_one_contender_of_a_process_on_the_wire(remote):
    lock = remote.make("lock")
    handles = [remote.again(lock) for _ in range(3)]
    lock.acquire()
    before = posts(remote.context)
    threads = [threading.Thread(target=h.acquire, args=(True, 0.2)) for h in handles]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert posts(remote.context) == before
    lock.release()


def attempts(plan, script):
    """Runs script(lock) on a lock of another context through a fault plan."""
    with dsmem.Context("shm", secret=bytes(16)) as owner, owner.allocate(4096) as region:
        with memoryview(region) as view:
            _core.sync_format(view, "lock", 8)
        with dsmem.Context(f"fault+shm://?{plan}", secret=bytes(16), peer_timeout=0.5) as user:
            remote, direct = user.attach(region.descriptor, timeout=LIMIT), owner.attach(region.descriptor)
            try:
                script(_core.Lock(remote), direct)
            finally:
                region_word = bytearray(8)
                direct.read(128, region_word)
            return int.from_bytes(region_word, "little")


def word_of(remote):
    raw = bytearray(8)
    remote.read(128, raw)
    return int.from_bytes(raw, "little")


HELD = 1 << 10


@pytest.mark.parametrize("fault", ["fail", "failafter", "drop"])
@pytest.mark.parametrize("nth", range(1, 25))
def test_one_lost_op(fault, nth):
    """Whatever op fails, acquire and release do what they say, or the error leaves a lock that can be had again."""

    def script(lock, direct):
        token = 0
        for _ in range(3):
            for _ in range(2):
                try:
                    assert lock.acquire(timeout=LIMIT)
                    break
                except errors.DsmemError:
                    continue
            else:
                pytest.fail("one fault failed two calls")
            assert lock.token > token and word_of(direct) & HELD
            token = lock.token
            lock.release()
            assert not word_of(direct) & HELD
        assert token == 3  # no grant was lost, none was given twice
        lock.close()

    try:
        attempts(f"{fault}={nth}", script)
    except errors.DsmemError as error:
        assert nth <= 6, error  # the ops of attaching


@pytest.mark.parametrize("fault", ["fail", "failafter"])
def test_when_nothing_works_any_more(fault):
    """The error comes out; the handle does not believe to hold the lock."""

    def script(lock, direct):
        assert lock.acquire() and lock.token == 1
        with pytest.raises(errors.TransportError):
            while True:
                lock.release()
                lock.acquire()

    for nth in range(8, 12):
        attempts(f"{fault}={nth}-", script)


def test_an_acquire_in_doubt_is_found_by_the_next():
    """The compare-swap took effect, but neither it nor the reads after it came back."""
    found = []

    def script(lock, direct):
        for _ in range(20):
            try:
                lock.acquire(timeout=LIMIT)
            except errors.TransportError:
                found.append((word_of(direct) & HELD, lock.token))
                assert lock.acquire(timeout=LIMIT)
            assert word_of(direct) >> 12 == lock.token
            try:
                lock.release()
            except errors.TransportError:
                assert lock.token is not None
                lock.release()  # whether it took effect before or does so now
            assert not word_of(direct) & HELD and lock.token is None

    for nth in range(7, 12):
        attempts(f"failafter={nth}&fail={nth + 1}-{nth + 8}", script)
    assert (HELD, None) in found


def test_an_acquire_that_ran_out_of_time_leaves_the_way_to_others(remote):
    """One thread of a process at a time is on the wire; one that gives up lets the next one through."""
    lock = remote.make("lock")
    other, first, second = remote.actor(lock), remote.again(lock), remote.again(lock)
    other.call("obj.acquire()")
    assert not in_vain(first.acquire, timeout=0.02) and not first.acquire(False)
    other.call("obj.release()")
    assert second.acquire(timeout=LIMIT)
    second.release()
    with first:
        pass
