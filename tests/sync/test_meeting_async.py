"""Conditions, barriers and segments in event loops."""

import asyncio
import contextlib
import threading

import pytest
from tasks import LIMIT, no_thread_is_left, threads, turns, until_alone  # noqa: F401

import dsmem
from dsmem import errors


async def waiting(condition, n, of=None):
    """Until so many wait: their lines say so."""
    while waiters(of or condition) < n:
        await asyncio.sleep(0)


def waiters(condition):
    """Lines with a waiter (docs/protocols/sync.md)."""
    raw = bytearray(64 * 256)
    condition._memory.remote.read(256 + 8 * 256, raw)
    return sum(bool(raw[i + 8 : i + 16].strip(b"\0")) for i in range(0, len(raw), 64))


async def wait_under(condition, timeout=None):
    async with condition:
        return await condition.wait_async(timeout)


# ---- condition ----


@pytest.fixture(params=["own", "lock", "rlock"])
def condition(request, world):
    lock = None if request.param == "own" else world.make(request.param, "lock-of-it")
    return world.make("condition", "cv", lock=lock)


def test_notified_oldest_first(condition):
    before = threads()

    async def run():
        order = []

        async def one(n):
            async with condition:
                assert await condition.wait_async() is True
                order.append(n)

        tasks = []
        for n in range(3):
            tasks.append(asyncio.create_task(one(n)))
            await waiting(condition, n + 1)
        async with condition:
            await condition.notify_async()
        while not order:
            await asyncio.sleep(0)
        assert order == [0]
        async with condition:
            await condition.notify_all_async()
        await asyncio.wait_for(asyncio.gather(*tasks), LIMIT)
        assert sorted(order) == [0, 1, 2] and waiters(condition) == 0
        await until_alone(before)

    asyncio.run(run(), debug=True)


def test_only_holders_wait_and_notify(condition):
    async def run():
        for call in (condition.wait_async, condition.notify_async, condition.notify_all_async):
            with pytest.raises(errors.NotHeldError):
                await call()
        with pytest.raises(errors.NotHeldError):
            await condition.wait_for_async(lambda: False)
        with pytest.raises(errors.InvalidArgumentError):
            await condition.notify_async("one")

    asyncio.run(run())


def test_time_runs_out_with_the_lock_held(condition):
    async def run():
        async with condition:
            assert await condition.wait_async(0) is False
            assert await condition.wait_async(0.02) is False
            assert await condition.wait_for_async(lambda: 0, 0.02) == 0
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(condition.wait_async(), 0.02)
            assert condition.token
            await condition.notify_async()
        assert waiters(condition) == 0 and condition.token is None

    asyncio.run(run())


def test_wait_for_a_predicate(condition):
    async def run():
        state = []

        async def consumer():
            async with condition:
                return await condition.wait_for_async(lambda: state and state.pop())

        task = asyncio.create_task(consumer())
        await waiting(condition, 1)
        for value in (0, 7):
            async with condition:
                state.append(value)
                condition.notify()
        assert await asyncio.wait_for(task, LIMIT) == 7

    asyncio.run(run())


@pytest.mark.parametrize("cancelled_at", range(6))
def test_a_notification_passes_from_a_cancelled_task(condition, cancelled_at):
    """Whether it came before the cancel, or not: one notification, one task that goes on."""

    async def run():
        got = []

        async def wait():
            async with condition:
                got.append(await condition.wait_async())

        first = asyncio.create_task(wait())
        await waiting(condition, 1)
        second = asyncio.create_task(wait())
        await waiting(condition, 2)
        async with condition:
            condition.notify()
        await turns(cancelled_at)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        if not got:
            await asyncio.wait_for(second, LIMIT)
        else:
            await turns(20)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
        assert got == [True] and waiters(condition) == 0
        async with condition:
            pass

    asyncio.run(run())


def test_cancelled_while_another_holds_the_lock(condition):
    """It comes back with the lock, as in asyncio.Condition."""

    async def run():
        task = asyncio.create_task(wait_under(condition))
        await waiting(condition, 1)
        async with condition:
            task.cancel()
            await turns(10)
            task.cancel()
            await turns(10)
            assert not task.done()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert waiters(condition) == 0 and condition.token is None

    asyncio.run(run())


def test_tasks_of_one_loop_exclude_each_other_by_a_condition(condition):
    async def run():
        inside = []

        async def one():
            for _ in range(3):
                async with condition:
                    inside.append(1)
                    assert len(inside) == 1
                    await turns(3)
                    inside.pop()

        await asyncio.wait_for(asyncio.gather(*(one() for _ in range(3))), LIMIT)

    asyncio.run(run())


def test_a_notification_of_another_process(local):
    condition = local.make("condition")
    other = local.actor(condition)

    async def run():
        tasks = [asyncio.create_task(wait_under(condition)) for _ in range(2)]
        await waiting(condition, 2)
        other.call("with obj: obj.notify_all()")
        assert await asyncio.wait_for(asyncio.gather(*tasks), LIMIT) == [True, True]

    asyncio.run(run())


def test_a_dead_waiters_notification_goes_to_a_task(local):
    condition = local.make("condition")
    other = local.actor(condition)
    other.start("with obj: obj.wait()")

    async def run():
        await waiting(condition, 1)
        task = asyncio.create_task(wait_under(condition))
        await waiting(condition, 2)
        other.stop()
        async with condition:
            condition.notify()
        other.kill()
        assert await asyncio.wait_for(task, LIMIT) is True

    asyncio.run(run())


@pytest.mark.parametrize("elsewhere", [False, True])
def test_close_ends_the_waits_of_a_condition(world, elsewhere):
    condition = world.make("condition")
    other = world.again(condition)

    async def run():
        tasks = [asyncio.create_task(wait_under(condition)) for _ in range(2)]
        await waiting(condition, 2, other)
        async with condition:  # both have let it go
            pass
        if elsewhere:
            await asyncio.to_thread(condition.close)
        else:
            condition.close()
        for task in tasks:
            with pytest.raises(errors.ClosedError):
                await task
        with other:
            assert waiters(other) == 0

    asyncio.run(run(), debug=True)


def test_a_closed_loop_leaves_no_waiter(world):
    condition = world.make("condition")
    before = threads()
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(wait_under(condition)) for _ in range(2)]
    loop.run_until_complete(waiting(condition, 2))
    with condition:
        condition.notify()
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False
    while threads() > before:
        pass
    assert waiters(condition) == 0
    assert condition.acquire(timeout=LIMIT)
    condition.release()


# ---- barrier ----


def test_tasks_meet(world):
    barrier = world.make("barrier", parties=3)
    before = threads()

    async def run():
        for _ in range(3):
            met = await asyncio.wait_for(asyncio.gather(*(barrier.wait_async() for _ in range(3))), LIMIT)
            assert sorted(met) == [0, 1, 2]
        assert barrier.n_waiting == 0
        await until_alone(before)

    asyncio.run(run(), debug=True)


def test_more_tasks_than_parties_meet_in_turns(world):
    barrier = world.make("barrier", parties=2)

    async def run():
        met = await asyncio.wait_for(asyncio.gather(*(barrier.wait_async() for _ in range(8))), LIMIT)
        assert sorted(met) == [0] * 4 + [1] * 4

    asyncio.run(run())


def test_a_barriers_action_runs_once(world):
    done = []
    first = world.make("barrier", parties=2)
    barrier = type(first)._open(first._memory, None, "it", action=lambda: done.append(1))
    world.stack.callback(dsmem._core.Barrier.close, barrier)

    async def run():
        await asyncio.wait_for(asyncio.gather(barrier.wait_async(), barrier.wait_async()), LIMIT)
        assert done == [1]

    asyncio.run(run())


def test_time_and_cancels_break_a_barrier(world):
    barrier = world.make("barrier", parties=2)
    other = world.again(barrier)

    async def run():
        with pytest.raises(errors.BrokenBarrierError):
            await barrier.wait_async(0.02)
        assert barrier.broken
        barrier.reset()
        for by in ("task", "wait_for"):
            task = asyncio.create_task(barrier.wait_async())
            while barrier.n_waiting == 0:
                await asyncio.sleep(0)
            if by == "task":
                task.cancel()
            with pytest.raises((asyncio.CancelledError, asyncio.TimeoutError)):
                await (task if by == "task" else asyncio.wait_for(task, 0.02))
            with pytest.raises(errors.BrokenBarrierError):
                await other.wait_async()
            barrier.reset()
        task = asyncio.create_task(barrier.wait_async())
        while barrier.n_waiting == 0:
            await asyncio.sleep(0)
        other.reset()
        with pytest.raises(errors.BrokenBarrierError):
            await task

    asyncio.run(run())


def test_a_task_and_a_process_meet(local):
    barrier = local.make("barrier", parties=2)
    other = local.actor(barrier)

    async def run():
        task = asyncio.create_task(barrier.wait_async())
        while barrier.n_waiting == 0:
            await asyncio.sleep(0)
        other.start("obj.wait()")
        assert await asyncio.wait_for(task, LIMIT) == 0
        assert other.result() == 1
        task = asyncio.create_task(barrier.wait_async())
        while barrier.n_waiting == 0:
            await asyncio.sleep(0)
        other.start("obj.wait()")
        assert await asyncio.wait_for(task, LIMIT) == 0
        other.result()

    asyncio.run(run())


def test_a_party_that_dies_breaks_the_barrier_for_a_task(local):
    barrier = local.make("barrier", parties=3)
    other = local.actor(barrier)
    other.start("obj.wait()")

    async def run():
        while barrier.n_waiting == 0:
            await asyncio.sleep(0)
        task = asyncio.create_task(barrier.wait_async())
        while barrier.n_waiting == 1:
            await asyncio.sleep(0)
        other.kill()
        with pytest.raises(errors.BrokenBarrierError):
            await asyncio.wait_for(task, LIMIT)

    asyncio.run(run())


def test_close_and_a_closed_loop_break_a_barrier(world):
    barrier = world.make("barrier", parties=2)
    other = world.again(barrier)

    async def run():
        task = asyncio.create_task(barrier.wait_async())
        while other.n_waiting == 0:
            await asyncio.sleep(0)
        barrier.close()
        with pytest.raises(errors.ClosedError):
            await task
        assert other.broken

    asyncio.run(run())
    other.reset()
    third = world.again(other)
    loop = asyncio.new_event_loop()
    task = loop.create_task(third.wait_async())
    while not other.n_waiting:
        loop.run_until_complete(turns(1))
    loop.close()
    task._log_destroy_pending = False
    while not other.broken:
        pass


# ---- segment ----


def test_an_element_is_awaited(world):
    segment = world.make("segment", shape=(4, 2), dtype="i8")
    other = world.again(segment)
    before = threads()

    async def run():
        assert await segment.wait_async((3, 1), 0) == 0
        with pytest.raises(errors.TimeoutError):
            await segment.wait_async((3, 1), 1, timeout=0.02)
        with pytest.raises(errors.TimeoutError):
            await segment.wait_async((3, 1), 1, timeout=0)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(segment.wait_async((3, 1), 1), 0.02)
        with pytest.raises(errors.OutOfBoundsError):
            await segment.wait_async((4, 0), 1)
        tasks = [asyncio.create_task(segment.wait_async((n, 1), lambda v: v > 1)) for n in range(4)]
        await turns(10)
        for value in (1, 2):
            for n in range(4):
                other.write((n, 1), value)
        assert await asyncio.wait_for(asyncio.gather(*tasks), LIMIT) == [2] * 4
        await until_alone(before)

    asyncio.run(run(), debug=True)


def test_close_ends_the_waits_for_an_element(world):
    segment = world.make("segment", shape=4, dtype="i8")

    async def run():
        task = asyncio.create_task(segment.wait_async(0, 1))
        await turns(10)
        segment.close()
        with pytest.raises(errors.ClosedError):
            await task

    asyncio.run(run(), debug=True)


def test_a_segment_grows_while_a_task_waits(local):
    """Also in the predicate, between one wait and the next: the memory that it had before is gone then."""
    segment = local.make("segment", shape=4, dtype="i8")
    other = local.again(segment)

    async def run():
        def judge(value):
            segment.resize(len(segment) + 4096)
            return value == 3

        task = asyncio.create_task(segment.wait_async(0, judge))
        for value in (1, 2, 3):
            await turns(10)
            other.write(0, value)
        assert await asyncio.wait_for(task, LIMIT) == 3

    asyncio.run(run())


def test_a_handle_that_may_only_read_waits_too(local):
    segment = local.make("segment", shape=4, dtype="i8")
    reader = (
        dsmem.attach(segment.ref, readonly=True)
        if "readonly" in dsmem.attach.__annotations__
        else local.cluster.segment("it", readonly=True)
    )
    local.stack.callback(reader.close)

    async def run():
        task = asyncio.create_task(reader.wait_async(0, 1))
        await turns(10)
        segment.write(0, 1)
        assert await asyncio.wait_for(task, LIMIT) == 1

    asyncio.run(run())


def test_a_closed_loop_waits_for_no_element(local):
    segment = local.make("segment", shape=4, dtype="i8")
    before = threads()
    loop = asyncio.new_event_loop()
    task = loop.create_task(segment.wait_async(0, 1))
    loop.run_until_complete(turns(5))
    loop.close()
    task._log_destroy_pending = False
    while threads() > before:
        pass


def test_two_loops_wait_for_one_element(local):
    segment = local.make("segment", shape=4, dtype="i8")
    found, begun = [], [threading.Event() for _ in range(2)]

    async def run(n):
        task = asyncio.create_task(segment.wait_async(0, 1))
        await turns(3)
        begun[n].set()
        found.append(await asyncio.wait_for(task, LIMIT))

    loops = [threading.Thread(target=asyncio.run, args=(run(n),), kwargs={"debug": True}) for n in range(2)]
    for thread in loops:
        thread.start()
    for one in begun:
        one.wait()
    segment.write(0, 1)
    for thread in loops:
        thread.join()
    assert found == [1, 1]
