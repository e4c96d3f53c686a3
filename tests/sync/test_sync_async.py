"""Locks and what else tasks wait for: the loop never waits, and one that is cancelled, closed or gone leaves none."""

import asyncio
import contextlib
import gc
import os
import signal
import threading
from pathlib import Path

import pytest
from tasks import LIMIT, no_thread_is_left, threads, turns, until_alone  # noqa: F401

import dsmem
from dsmem import errors


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


class Kind:
    """What a task can wait for, how it is kept from it, and how one looks whether it is free again."""

    def __init__(self, kind, wait, take, give, undo, **properties):
        self.kind, self.wait, self.take, self.give, self.undo, self.properties = (
            kind,
            wait,
            take,
            give,
            undo,
            properties,
        )

    def make(self, world):
        """Two handles; the second one has what the first will wait for."""
        made = world.make(self.kind, **self.properties)
        other = world.again(made)
        self.take(other)
        return made, other

    def check(self, other):
        """It is free: it can be had, and is given back."""
        if self.kind != "event":
            self.take(other)
            self.give(other)


KINDS = {
    "lock": Kind(
        "lock", lambda o: o.acquire_async(), lambda o: o.acquire(), lambda o: o.release(), lambda o: o.release()
    ),
    "condition's lock": Kind(
        "condition", lambda o: o.acquire_async(), lambda o: o.acquire(), lambda o: o.release(), lambda o: o.release()
    ),
    "reader": Kind(
        "rwlock",
        lambda o: o.acquire_read_async(),
        lambda o: o.acquire_write(),
        lambda o: o.release_write(),
        lambda o: o.release_read(),
    ),
    "writer": Kind(
        "rwlock",
        lambda o: o.acquire_write_async(),
        lambda o: o.acquire_write(),
        lambda o: o.release_write(),
        lambda o: o.release_write(),
    ),
    "writer after readers": Kind(
        "rwlock",
        lambda o: o.acquire_write_async(),
        lambda o: o.acquire_read(),
        lambda o: o.release_read(),
        lambda o: o.release_write(),
    ),
    "semaphore": Kind(
        "semaphore",
        lambda o: o.acquire_async(),
        lambda o: o.acquire(),
        lambda o: o.release(),
        lambda o: o.release(),
        n=1,
    ),
    "counting": Kind(
        "semaphore",
        lambda o: o.acquire_async(),
        lambda o: o.acquire(),
        lambda o: o.release(),
        lambda o: o.release(),
        n=1,
        owned=False,
    ),
    "event": Kind("event", lambda o: o.wait_async(), lambda o: o.clear(), lambda o: o.set(), lambda o: None),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.mark.parametrize("name", [name for name in KINDS if name != "event"])
def test_what_is_free_is_had_at_once(local, name):
    """Without a turn of a loop, let alone a thread."""
    obj = local.make(KINDS[name].kind, **KINDS[name].properties)
    before = threads()
    with pytest.raises(StopIteration) as done:
        KINDS[name].wait(obj).send(None)
    assert done.value.value is True and threads() <= before
    KINDS[name].undo(obj)


def test_waits_until_it_is_given(world, kind):
    obj, other = kind.make(world)
    before = threads(), descriptors()

    async def run():
        task = asyncio.create_task(kind.wait(obj))
        await turns(10)
        assert not task.done()
        kind.give(other)
        assert await asyncio.wait_for(task, LIMIT) is True
        kind.undo(obj)
        kind.check(other)
        await until_alone(before[0])

    asyncio.run(run(), debug=True)
    assert threads() <= before[0] and descriptors() <= before[1]  # the garbage of other tests may end meanwhile


def test_many_tasks_share_a_helper(local, kind):
    obj, other = kind.make(local)
    before = threads()

    async def one():
        assert await kind.wait(obj)
        kind.undo(obj)

    async def run():
        tasks = [asyncio.create_task(one()) for _ in range(50)]
        await turns(10)
        assert threads() <= before + 2  # one for each eventcount
        kind.give(other)
        await asyncio.wait_for(asyncio.gather(*tasks), LIMIT)
        await until_alone(before)

    asyncio.run(run())


@pytest.mark.parametrize("given_at", range(4))
def test_cancelled_at_any_turn(world, kind, given_at):
    """Before, while and after it is given: a task that did not get it leaves nothing taken, and nothing running."""
    obj, other = kind.make(world)
    before = threads()

    async def run():
        for cancelled_at in range(given_at, given_at + 6):
            task = asyncio.create_task(kind.wait(obj))
            await turns(given_at)
            kind.give(other)
            await turns(cancelled_at - given_at)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if not task.cancelled():
                assert task.result() is True
                kind.undo(obj)
            kind.check(other)
            kind.take(other)
        kind.give(other)
        await until_alone(before)

    asyncio.run(run())


def test_cancelled_at_any_time(world, kind):
    """While the helper is getting it."""
    obj, other = kind.make(world)
    before = threads()
    outcomes = set()

    async def run():
        for n in range(60):
            task = asyncio.create_task(kind.wait(obj))
            await turns(3)
            kind.give(other)
            await asyncio.sleep(n * 1e-5)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            outcomes.add(task.cancelled())
            if not task.cancelled():
                kind.undo(obj)
            kind.check(other)
            kind.take(other)
        kind.give(other)
        await until_alone(before)

    asyncio.run(run())
    assert outcomes


def test_time_runs_out(world, kind):
    obj, other = kind.make(world)
    before = threads()

    async def run():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(kind.wait(obj), 0.02)
        kind.give(other)
        kind.check(other)
        await until_alone(before)

    asyncio.run(run())


def test_timeouts_of_the_calls(world):
    lock, semaphore = world.make("lock"), world.make("semaphore", "s", n=1)
    counting = world.make("semaphore", "c", n=0, owned=False)
    rwlock, event = world.make("rwlock", "r"), world.make("event", "e")
    holder = world.again(lock)
    holder.acquire()
    semaphore.acquire()
    reader = world.again(rwlock)
    reader.acquire_read()

    async def run():
        for timeout in (0, 0.01):
            assert await lock.acquire_async(timeout=timeout) is False
            assert await semaphore.acquire_async(timeout=timeout) is False
            assert await counting.acquire_async(timeout=timeout) is False
            assert await rwlock.acquire_write_async(timeout=timeout) is False
            assert await event.wait_async(timeout) is False
        assert await rwlock.acquire_read_async(timeout=LIMIT)  # no writer is left behind
        await rwlock.release_read_async()
        with pytest.raises(errors.TimeoutError):
            async with rwlock.write(0.01):
                pass
        with pytest.raises(errors.InvalidArgumentError):
            await lock.acquire_async(timeout=float("nan"))
        assert await event.wait_async(-1) is False

    asyncio.run(run())
    reader.release_read()
    holder.release()
    semaphore.release()


def close(obj):
    """Refused while a task is between one wait and the next."""
    while not obj.closed:
        with contextlib.suppress(errors.BusyError):
            obj.close()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_close_ends_the_waits(world, kind, elsewhere):
    obj, other = kind.make(world)
    before = threads()

    async def run():
        tasks = [asyncio.create_task(kind.wait(obj)) for _ in range(2)]
        await turns(5)
        if elsewhere:
            closer = threading.Thread(target=close, args=(obj,))
            closer.start()
            while closer.is_alive():
                await asyncio.sleep(0)
            closer.join()
        while not obj.closed:
            with contextlib.suppress(errors.BusyError):
                obj.close()
            await asyncio.sleep(0)
        for task in tasks:
            with pytest.raises(errors.ClosedError):
                await task
        kind.give(other)
        kind.check(other)
        await until_alone(before)

    asyncio.run(run(), debug=True)


def test_a_closed_loop_leaves_nothing(world, kind):
    """Neither of tasks that waited, nor of one that had just got it."""
    obj, other = kind.make(world)
    before = threads()
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(kind.wait(obj)) for _ in range(2)]
    loop.run_until_complete(turns(5))
    kind.give(other)
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False
    while threads() > before:
        pass
    kind.check(other)
    del task, tasks, loop
    gc.collect()
    kind.check(other)


def test_dropped_tasks_leave_nothing(world, kind):
    """A coroutine that is closed, with its loop still there."""
    obj, other = kind.make(world)
    before = threads()

    async def run():
        waiting = kind.wait(obj)
        waiting.send(None)
        kind.give(other)
        await turns(2)
        waiting.close()
        await until_alone(before)
        kind.check(other)

    asyncio.run(run())


def test_one_lock_in_two_loops_and_a_thread(world):
    """They exclude each other, tasks of one loop, too."""
    lock = world.make("lock")
    inside, most, rounds = [0], [0], []

    async def one():
        for _ in range(5):
            async with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                await turns(3)
                inside[0] -= 1
                rounds.append(1)

    async def run():
        await asyncio.wait_for(asyncio.gather(*(one() for _ in range(3))), LIMIT)

    loops = [threading.Thread(target=asyncio.run, args=(run(),), kwargs={"debug": True}) for _ in range(2)]
    for thread in loops:
        thread.start()
    for _ in range(5):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            inside[0] -= 1
    for thread in loops:
        thread.join()
    assert most == [1] and len(rounds) == 30


def test_processes_and_tasks_exclude_each_other(local):
    lock = local.make("lock")
    count = local.make("segment", "n", shape=1, dtype="i8")
    other = local.actor(lock)
    other.call(
        f"seg = dsmem.attach(dsmem.memory.Reference('segment', 'n', 0, {count.ref.owner}, {count.ref.cluster!r}))"
    )
    other.start("for _ in range(300):\n    with obj:\n        n = seg[0]; time.sleep(0); seg[0] = n + 1")

    async def one():
        for _ in range(100):
            async with lock:
                n = count[0]
                await asyncio.sleep(0)
                count[0] = n + 1

    async def run():
        await asyncio.wait_for(asyncio.gather(*(one() for _ in range(3))), LIMIT)

    asyncio.run(run())
    other.result()
    assert count[0] == 600


def test_a_dead_holders_lock_goes_to_a_task(local):
    lock = local.make("lock")
    holder = local.actor(lock)
    holder.call("obj.acquire()")

    async def run():
        task = asyncio.create_task(lock.acquire_async())
        await turns(5)
        holder.kill()
        assert await asyncio.wait_for(task, LIMIT) is True
        assert lock.recovered
        lock.release()

    asyncio.run(run())


def test_owner_died_survives_a_cancelled_task(local):
    """What a dead holder left is told to the next user of the lock, not to a task that was cancelled."""
    lock = local.make("lock")
    holder = local.actor(lock)
    holder.call("obj.acquire()")

    async def run():
        waiting = lock.acquire_async()
        waiting.send(None)
        holder.kill()
        while lock.token is None:  # the helper has got it
            await asyncio.sleep(0)
        waiting.close()
        while lock.token is not None:
            await asyncio.sleep(0)
        async with lock:
            assert lock.recovered

    asyncio.run(run())


class Counted(asyncio.SelectorEventLoop):
    """Counts its turns."""

    turned = 0

    def _run_once(self):
        self.turned += 1
        super()._run_once()


def test_a_loop_rests_while_its_tasks_wait(world, kind):
    obj, other = kind.make(world)
    loop = Counted()

    async def run():
        tasks = [asyncio.create_task(kind.wait(obj)) for _ in range(5)]
        await turns(10)
        before = loop.turned
        await asyncio.sleep(0.3)
        assert loop.turned - before <= 5  # a look of the helper is none of the loop
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        kind.give(other)
        kind.check(other)

    loop.run_until_complete(run())
    loop.close()


def test_a_fork_has_no_part_in_the_waits(world, kind):
    obj, other = kind.make(world)

    async def run():
        task = asyncio.create_task(kind.wait(obj))
        await turns(5)
        pid = os.fork()
        if not pid:
            with contextlib.suppress(errors.DsmemError):
                obj.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        kind.give(other)
        assert await asyncio.wait_for(task, LIMIT) is True
        kind.undo(obj)
        kind.check(other)

    asyncio.run(run())


def test_interrupted_while_a_task_waits(world, kind):
    obj, other = kind.make(world)
    before = threads()

    async def run():
        task = asyncio.create_task(kind.wait(obj))
        await turns(5)
        signal.raise_signal(signal.SIGINT)
        await task

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(run())
    kind.give(other)
    kind.check(other)
    while threads() > before:
        pass


def test_with_blocks(world):
    """What ends them never takes the place of what they raised."""
    lock, rwlock = world.make("lock"), world.make("rwlock", "r")
    semaphore, counting = world.make("semaphore", "s", n=1), world.make("semaphore", "c", n=1, owned=False)
    condition = world.make("condition", "cv")

    async def run():
        for block in (lock, rwlock.read(), rwlock.write(), semaphore, counting, condition):
            for _ in range(2):
                with pytest.raises(ZeroDivisionError):
                    async with block:
                        raise ZeroDivisionError
            async with block:
                pass
        async with rwlock.write(LIMIT) as entered:
            assert entered is rwlock and rwlock.token
        with pytest.raises(ZeroDivisionError):
            async with lock:
                lock.release()
                raise ZeroDivisionError
        with pytest.raises(errors.NotHeldError):
            async with lock:
                lock.release()

    asyncio.run(run())


def test_releases_without_a_round_trip_in_the_loop(world):
    lock, semaphore = world.make("lock"), world.make("semaphore", "s", n=3)
    counting, event = world.make("semaphore", "c", n=0, owned=False), world.make("event", "e")

    async def run():
        assert await lock.acquire_async()
        assert lock.token
        await lock.release_async()
        with pytest.raises(errors.NotHeldError):
            await lock.release_async()
        for _ in range(3):
            assert await semaphore.acquire_async()
        await semaphore.release_async(2)
        assert semaphore.held == 1
        with pytest.raises(errors.PermitError):
            await semaphore.release_async(2)
        with pytest.raises(errors.InvalidArgumentError):
            await semaphore.release_async(0)
        await semaphore.release_async()
        await counting.release_async(2)
        assert counting.value == 2
        await event.set_async()
        assert event.is_set()
        await event.clear_async()
        assert not event.is_set()

    asyncio.run(run())


@pytest.mark.parametrize("kind_of_lock", ["rlock", "spinlock"])
def test_locks_that_tasks_cannot_have(local, kind_of_lock):
    lock = local.make(kind_of_lock)

    async def run():
        with pytest.raises(errors.UnsupportedError, match="use a lock"):
            await lock.acquire_async()
        with pytest.raises(errors.UnsupportedError):
            async with lock:
                pass

    asyncio.run(run())


CALLS = {
    "lock": ("acquire", {}, lambda o: o.release()),
    "semaphore": ("acquire", {"n": 2}, lambda o: o.release()),
    "rwlock": ("acquire_read", {}, lambda o: o.release_read()),
    "condition": ("acquire", {}, lambda o: o.release()),
}


@pytest.mark.parametrize("kind", CALLS)
def test_a_handler_runs_a_loop_over_the_handle_that_it_has_interrupted(fault_world, kind):
    """The thread of the loop has what the helper needs, and goes on with it only when the loop has ended."""
    name, properties, undo = CALLS[kind]
    made = fault_world.make(kind, **properties)
    refused = []

    def handler(*_):
        try:
            asyncio.run(getattr(it, f"{name}_async")())
        except errors.DsmemError as error:
            refused.append(error)

    def interrupt():
        while user.stats["posts"] == before and not ended.wait(0.001):
            pass
        signal.pthread_kill(main, signal.SIGALRM)

    main, ended = threading.get_ident(), threading.Event()
    with (
        dsmem.Context(fault_world.fabric, secret=fault_world.secret) as user,
        contextlib.closing(dsmem.attach(made.ref, user)),
    ):
        before = user.stats["posts"]
    old = signal.signal(signal.SIGALRM, handler)
    with (
        dsmem.Context(f"{fault_world.fabric}://?delay={before + 1}:1000ms", secret=fault_world.secret) as user,
        contextlib.closing(dsmem.attach(made.ref, user)) as it,
    ):
        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            assert getattr(it, name)() is True
        finally:
            ended.set()
            thread.join()
            signal.signal(signal.SIGALRM, old)
        undo(it)
        assert [type(error) for error in refused] == [errors.BusyError]
