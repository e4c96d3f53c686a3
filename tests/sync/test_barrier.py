"""Barriers between processes."""

import threading

import pytest
from short_timeouts import in_vain

from dsmem import errors

LIMIT = 60.0
WORD = 128  # where the word of a lock lies, and that of the lock of a barrier: docs/protocols/lock.md


def together(world, barrier, n, text=f"obj.wait({LIMIT})"):
    actors = [world.actor(barrier) for _ in range(n)]
    for a in actors:
        a.start(text)
    return actors


def test_parties_meet_again_and_again(world):
    barrier = world.make("barrier", parties=3)
    actors = [world.actor(barrier) for _ in range(2)]
    assert barrier.parties == 3 and barrier.n_waiting == 0 and not barrier.broken
    for a in actors:
        a.start(f"[obj.wait({LIMIT}) for _ in range(20)]")
    mine = [barrier.wait(LIMIT) for _ in range(20)]
    indices = zip(mine, *(a.result() for a in actors), strict=True)
    assert all(sorted(i) == [0, 1, 2] for i in indices)


def test_one_party(world):
    barrier = world.make("barrier", parties=1)
    assert [barrier.wait(), barrier.wait(0)] == [0, 0]


def test_no_party_passes_early(local):
    barrier = local.make("barrier", parties=4)
    code = """
def run(n):
    remote, early = obj._memory.remote, 0
    for i in range(n):
        remote.fetch_add(80, 1)
        obj.wait()
        early += remote.fetch_add(80, 0) < 4 * (i + 1)
        obj.wait()
    return early
"""
    actors = [local.actor(barrier) for _ in range(4)]
    for a in actors:
        a.call(code)
        a.start("run(100)")
    assert [a.result() for a in actors] == [0] * 4


def test_action(local):
    barrier = local.make("barrier", parties=2)
    ran = []
    mine = local.cluster.barrier("it", action=lambda: ran.append(barrier.n_waiting))
    thread = threading.Thread(target=barrier.wait)
    thread.start()
    while barrier.n_waiting != 1:
        pass
    assert mine.wait() == 1 and ran == [2]
    thread.join()

    def fails():
        raise ZeroDivisionError

    other = local.cluster.barrier("it", 2, fails)
    broken = []

    def waits():
        try:
            barrier.wait()
        except errors.BrokenBarrierError as error:
            broken.append(error)

    thread = threading.Thread(target=waits)
    thread.start()
    while barrier.n_waiting != 1:
        pass
    with pytest.raises(ZeroDivisionError):
        other.wait()
    thread.join()
    assert barrier.broken and broken
    mine.close()
    other.close()


def test_timeout_breaks(world):
    barrier = world.make("barrier", parties=3)
    (actor,) = together(world, barrier, 1)
    with pytest.raises(threading.BrokenBarrierError):
        in_vain(barrier.wait, 0.1)
    with pytest.raises(errors.BrokenBarrierError):
        actor.result()
    assert barrier.broken and barrier.n_waiting == 0
    with pytest.raises(errors.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken


def test_the_default_timeout(local):
    local.make("barrier", parties=2)
    barrier = local.cluster.barrier("it", timeout=0.05)
    with pytest.raises(errors.BrokenBarrierError):
        barrier.wait()
    barrier.close()


def test_abort_and_reset(world):
    barrier = world.make("barrier", parties=3)
    for end in (barrier.abort, barrier.reset):
        actors = together(world, barrier, 2)
        while barrier.n_waiting != 2:
            pass
        end()
        for a in actors:
            with pytest.raises(errors.BrokenBarrierError):
                a.result()
        barrier.reset()
    actors = together(world, barrier, 2)
    assert barrier.wait(LIMIT) in (0, 1, 2)
    for a in actors:
        a.result()


def test_a_party_dies(local):
    barrier = local.make("barrier", parties=3)
    (dies,) = together(local, barrier, 1, "obj.wait()")
    (waits,) = together(local, barrier, 1)
    while barrier.n_waiting != 2:
        pass
    dies.kill()
    with pytest.raises(errors.BrokenBarrierError):
        waits.result()
    assert barrier.broken
    barrier.reset()
    waits.start(f"obj.wait({LIMIT})")
    (third,) = together(local, barrier, 1)
    assert {barrier.wait(LIMIT), waits.result(), third.result()} == {0, 1, 2}


def test_a_party_dies_in_its_action(local):
    barrier = local.make("barrier", parties=2)
    (waits,) = together(local, barrier, 1)
    while barrier.n_waiting != 1:
        pass
    (dies,) = together(
        local, barrier, 1, "dsmem.connect(obj._memory.ref.cluster).barrier('it', 2, lambda: os._exit(1)).wait()"
    )
    with pytest.raises(errors.BrokenBarrierError):
        waits.result()
    dies.process.join()


def test_a_party_that_died_before_the_last_came(local):
    """Only the last was left to find it dead."""
    barrier = local.make("barrier", parties=2)
    (dies,) = together(local, barrier, 1, "obj.wait()")
    while barrier.n_waiting != 1:
        pass
    dies.kill()
    with pytest.raises(errors.BrokenBarrierError):
        barrier.wait(LIMIT)


def hold_the_lock(barrier, member=0):
    """As a party that is stopped, or a remote one that died, while it arrives: the word of lock.md says 'held'."""
    remote = barrier._memory.remote
    word = remote.fetch_add(128, 0)
    assert not word >> 10 & 1 and remote.compare_swap(128, word, (word >> 12) + 1 << 12 | 1 << 10 | member) == word


def test_no_call_waits_for_the_holder_of_the_lock(world):
    """It is this process that holds it, so no process takes it over: waits end in time, abort and reset at once."""
    barrier = world.make("barrier", parties=2)
    other = world.again(barrier)
    hold_the_lock(barrier)
    with pytest.raises(errors.BrokenBarrierError):
        in_vain(other.wait, 0.05)
    assert barrier.broken
    other.reset()
    assert not barrier.broken
    other.abort()
    assert barrier.broken


def test_a_party_that_was_stopped_at_a_reset_breaks_no_later_generation(world):
    """It holds the lock, in the midst of its arrival, and is killed after the reset."""
    barrier = world.make("barrier", parties=2)
    stopped = world.actor(barrier)
    (waits,) = together(world, barrier, 1)
    while barrier.n_waiting != 1:
        pass
    while barrier._memory.remote.fetch_add(128, 0) >> 10 & 1:  # it has arrived, and has not given back the lock yet
        pass
    hold_the_lock(barrier, 1)
    stopped.stop()
    barrier.reset()
    with pytest.raises(errors.BrokenBarrierError):
        waits.result()
    stopped.kill()
    waits.start(f"obj.wait({LIMIT})")
    assert {barrier.wait(LIMIT), waits.result()} == {0, 1}


def test_reset_of_a_barrier_that_was_broken_while_none_had_come(world):
    barrier = world.make("barrier", parties=2)
    barrier.abort()
    assert barrier.broken and barrier.n_waiting == 0
    barrier.reset()
    assert not barrier.broken
    (actor,) = together(world, barrier, 1)
    assert {barrier.wait(LIMIT), actor.result()} == {0, 1}


def own_offset(barrier):
    return 256 + (8 * int.from_bytes(bytes_of(barrier, 64, 4), "little") + 63) // 64 * 64


def bytes_of(barrier, offset, n):
    raw = bytearray(n)
    barrier._memory.remote.read(offset, raw)
    return raw


def test_more_have_arrived_than_there_are_parties(world):
    barrier = world.make("barrier", parties=2)
    barrier._memory.remote.write(own_offset(barrier) + 8, (3).to_bytes(8, "little"))
    for call in (lambda: barrier.wait(0.05), lambda: barrier.n_waiting):
        with pytest.raises(errors.CorruptError, match="3 of 2"):
            call()


def test_how_a_generation_ended_is_told_after_many_more(local):
    """A sleeper of generation 0 that is stopped while 100 others pass was met; one of a reset was not."""
    for resets in (0, 1):
        barrier = local.make("barrier", name=f"b{resets}", parties=2)
        (sleeper,) = together(local, barrier, 1, "obj.wait()")
        while barrier.n_waiting != 1:
            pass
        sleeper.stop()
        if resets:
            barrier.reset()
        else:
            barrier.wait(LIMIT)
        other = local.again(barrier)
        for _ in range(100):
            thread = threading.Thread(target=other.wait, args=(LIMIT,))
            thread.start()
            barrier.wait(LIMIT)
            thread.join()
        sleeper.go_on()
        if resets:
            with pytest.raises(errors.BrokenBarrierError):
                sleeper.result()
        else:
            assert sleeper.result() == 0


def test_properties(local):
    with pytest.raises(errors.InvalidArgumentError):
        local.cluster.barrier("it", create=True)
    with pytest.raises(errors.InvalidArgumentError):
        local.cluster.barrier("it", 0, create=True)
    local.make("barrier", parties=2)
    with pytest.raises(errors.MismatchError, match="parties=2, not 3"):
        local.cluster.barrier("it", 3)


def test_a_party_that_dies_before_it_is_counted(local):
    """It came, and died with the lock; no other party is to come that would find that."""
    barrier = local.make("barrier", parties=2)
    waits, victim = local.actor(barrier), local.actor(barrier)  # entries 1 and 2 of the member table
    waits.start("obj.wait()")
    while barrier.n_waiting != 1:
        pass
    barrier._memory.remote.write(128, (9 << 12 | 1 << 10 | 2).to_bytes(8, "little"))
    assert barrier.n_waiting == 1
    victim.kill()
    with pytest.raises(errors.BrokenBarrierError):
        waits.result()
    barrier.reset()
    waits.start("obj.wait()")
    assert barrier.wait(LIMIT) in (0, 1) and waits.result() in (0, 1)


def until_came(barrier, n):
    while barrier.n_waiting < n:
        pass


def test_a_party_is_broken_by_choice(world):
    """It counts as dead: the barrier breaks, and a later generation is not hit."""
    barrier = world.make("barrier", parties=3)
    gone, other = world.actor(barrier), world.actor(barrier)
    assert barrier.waiters() == [] and not barrier.break_(1)
    gone.start("obj.wait()")
    until_came(barrier, 1)
    (name,) = barrier.waiters()
    other.start("obj.wait()")
    until_came(barrier, 2)
    assert barrier.waiters()[0] == name and not barrier.break_(name ^ 1 << 40)
    gone.stop()
    assert barrier.break_(name) and barrier.broken and not barrier.break_(name)
    with pytest.raises(errors.BrokenBarrierError):
        other.result()
    barrier.reset()
    other.start("obj.wait()")
    until_came(barrier, 1)
    if world.remote or barrier.waiters() != [name]:
        assert not barrier.break_(name)
    gone.go_on()
    with pytest.raises(errors.BrokenBarrierError):
        gone.result()
    gone.start("obj.wait()")
    assert barrier.wait(LIMIT) in range(3)
    other.result(), gone.result()


def test_a_party_is_listed_once(local):
    """Also while it has arrived and still holds the lock: here by the word that a lock of this process has then."""
    barrier, lock = local.make("barrier", parties=2), local.make("lock", name="lock")
    party = threading.Thread(target=local.again(barrier).wait, args=(LIMIT,))
    party.start()
    until_came(barrier, 1)
    raw = bytearray(8)
    with lock:
        lock._memory.remote.read(WORD, raw)
    held, memory = int.from_bytes(raw, "little"), barrier._memory.remote
    memory.read(WORD, raw)
    free = int.from_bytes(raw, "little")
    assert memory.compare_swap(WORD, free, held) == free
    assert len(barrier.waiters()) == 1
    assert memory.compare_swap(WORD, held, free) == held
    barrier.wait(LIMIT)
    party.join()
