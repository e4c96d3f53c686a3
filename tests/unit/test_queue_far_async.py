"""Tasks that use queues in memory which is not mapped: the loop goes on, and a cancel loses and doubles nothing."""

import asyncio
import contextlib
import gc
import random
import select
import signal
import threading
import time

import numpy as np
import pytest
from attaching import attached
from forked import in_child
from queue_owner import SECONDS, SECRET, Owner

import dsmem
from dsmem import errors

LANE = 4096


@pytest.fixture
def owner(remote_place):
    with dsmem.Context(remote_place, secret=SECRET) as context, dsmem.connect(context=context) as cluster:
        yield cluster


@pytest.fixture
def far(remote_place):
    with dsmem.Context(remote_place, secret=SECRET) as context:
        yield context


@contextlib.contextmanager
def two(owner, far, **shape):
    """The owner's handle, and one in memory that it can't map."""
    with owner.queue("q", create=True, **{"capacity_bytes": LANE, "max_message": 1500, **shape}) as here:
        with attached(here.ref, far) as there:
            yield here, there


async def turns(n):
    for _ in range(n):
        await asyncio.sleep(0)


def without_the_loop(condition):
    """Until it is so, without a turn of the loop, so that no task is resumed meanwhile."""
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.0005)


def drain(queue):
    with contextlib.suppress(errors.EmptyError):
        while True:
            queue.get_nowait()


# ---- the loop never waits ----


async def first_of(queue):
    async for message in queue:
        return message
    return None


CALLS = {
    "get_async": lambda queue: queue.get_async(),
    "get_many_async": lambda queue: queue.get_many_async(),
    "async for": first_of,
    "put_async": lambda queue: queue.put_async(b"message"),
}


@pytest.mark.parametrize("has_role", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_the_loop_goes_on_while_the_owner_is_stopped(remote_place, call, has_role):
    if "tcp" not in remote_place:
        pytest.skip("no op waits for the owner's processor")
    with Owner(remote_place) as owner, dsmem.Context(remote_place, secret=SECRET, peer_timeout=SECONDS) as far:
        with attached(owner.ref, far) as queue:
            if has_role:
                queue.consume()
                queue.produce()
            owner.stop()

            async def run():
                task = asyncio.create_task(CALLS[call](queue))
                for _ in range(200):
                    await asyncio.sleep(0.005)
                    assert not task.done()
                owner.go_on()
                return await asyncio.wait_for(task, SECONDS)

            got = asyncio.run(run(), debug=True)
            assert got in (b"0", None) or got[0] == b"0"


@pytest.mark.parametrize("call", CALLS)
def test_the_loop_goes_on_during_every_op(fault_place, call):
    """A loop that waits for an op has a few turns until the task is done."""
    plan = f"{fault_place}://?delay=*:200ms"
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
        cluster = stack.enter_context(dsmem.connect(context=context))
        here = stack.enter_context(cluster.queue("q", create=True, producers=2))
        here.put(b"0")
        far = stack.enter_context(dsmem.Context(plan, secret=SECRET, peer_timeout=SECONDS))
        there = stack.enter_context(attached(here.ref, far))

        async def run():
            task, n = asyncio.create_task(CALLS[call](there)), 0
            while not task.done():
                await asyncio.sleep(0.001)
                n += 1
            assert n > 20
            return await task

        got = asyncio.run(run())
        assert got in (b"0", None) or got[0] == b"0"


# ---- cancelled ----


async def is_cancelled(task):
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return task.cancelled()


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_what_is_cancelled_at_any_time_loses_and_doubles_nothing(owner, far, seed, many):
    total, dice = 5000, random.Random(seed)
    maybe, got = set(), []

    async def put(queue, number):
        """Whether it was put; None: not known."""
        try:
            await queue.put_async(b"%d" % number)
        except asyncio.CancelledError as error:
            return error.placed
        return 1

    async def put_all(queue):
        for number in range(total):
            placed = 0
            while not placed:
                task = asyncio.create_task(put(queue, number))
                if dice.random() < 0.3:
                    await asyncio.sleep(dice.random() * 3e-4)
                    task.cancel()
                try:
                    placed = await task
                except asyncio.CancelledError:  # before its first step
                    placed = 0
                if placed is None:
                    maybe.add(number)
                    break
        await queue.put_async(b"-1")

    async def get_all(queue):
        while not got or got[-1] != -1:
            task = asyncio.create_task(queue.get_many_async(3) if many else queue.get_async())
            if dice.random() < 0.3:
                await asyncio.sleep(dice.random() * 3e-4)
                task.cancel()
            if not await is_cancelled(task):
                got.extend(map(int, task.result() if many else [task.result()]))

    async def run(producer, consumer):
        await asyncio.gather(put_all(producer), get_all(consumer))

    with two(owner, far) as (here, there), attached(here.ref, far) as producer:
        asyncio.run(run(producer, there))
        assert here.empty() and there.empty()
    assert [n for n in got if n not in maybe] == [n for n in [*range(total), -1] if n not in maybe]
    assert len(set(got)) == len(got)


async def cancelled_after_it_was_taken(here, there, data=b"kept"):
    task = asyncio.create_task(there.get_async())
    await turns(3)
    here.put(data)
    without_the_loop(here.empty)
    task.cancel()
    assert await is_cancelled(task)


def by_fileno(there):
    assert select.select([there], [], [], SECONDS)[0]
    return [there.get_nowait(), there.get()]


def by_records(there):
    rows = np.zeros((4, 4), "u1")
    n = there.get_many(out=rows)
    return [bytes(row) for row in rows[:n]] + [there.get() for _ in range(2 - n)]


def by_peek(there):
    with there.peek() as view:
        first = bytes(view)
        with pytest.raises(errors.BusyError):
            there.get()
    there.release()
    return [first, there.get()]


def by_peek_and_more(there):
    there.peek()

    async def run():
        with pytest.raises(errors.BusyError):
            await there.get_async()

    asyncio.run(run())
    with there.peek() as view:
        first = bytes(view)
    there.release()
    return [first, there.get()]


async def two_of(there):
    return [await there.get_async() for _ in range(2)]


NEXT = {
    "get": lambda there: [there.get() for _ in range(2)],
    "get_nowait": lambda there: [there.get_nowait(), there.get()],
    "get_many": lambda there: there.get_many() + there.get_many(),
    "get_many of one": lambda there: there.get_many(1) + there.get_many(1),
    "records": by_records,
    "peek": by_peek,
    "peek and more": by_peek_and_more,
    "fileno": by_fileno,
    "get_async": lambda there: asyncio.run(two_of(there)),
    "Pickled": lambda there: [dsmem.queue.Pickled(there).get() for _ in range(2)],
    "Stamped": lambda there: [dsmem.queue.Stamped(there, dsmem.clock.Lamport()).get()[1] for _ in range(2)],
}


@pytest.mark.parametrize("call", NEXT)
def test_the_next_call_gets_what_a_cancelled_task_has_left(owner, far, call):
    with two(owner, far) as (here, there):
        if call == "fileno":
            there.fileno()
        asyncio.run(cancelled_after_it_was_taken(here, there))
        here.put(b"next")
        assert there.qsize() == 2 and not there.empty()
        with pytest.raises(errors.BusyError, match="cancelled"):
            there.close()
        assert not there.closed
        assert NEXT[call](there) == [b"kept", b"next"]
        assert there.empty()


def test_records_of_another_length_are_refused(owner, far):
    with two(owner, far) as (here, there):
        asyncio.run(cancelled_after_it_was_taken(here, there))
        with pytest.raises(errors.MismatchError):
            there.get_many(out=np.zeros((4, 5), "u1"))
        assert there.get() == b"kept"


def test_a_task_that_waits_gets_what_a_cancelled_one_has_left(owner, far):
    """And in order: not what was taken when it was its turn."""
    with two(owner, far) as (here, there):

        async def run():
            first, second = (asyncio.create_task(there.get_async()) for _ in range(2))
            await turns(3)
            here.put_many([b"1", b"2", b"3"])
            without_the_loop(lambda: here.qsize() == 1)
            first.cancel()
            assert await is_cancelled(first)
            assert await asyncio.wait_for(second, SECONDS) == b"1"
            assert await there.get_async() == b"2"
            assert await there.get_async() == b"3"

        asyncio.run(run())


def test_a_handle_that_ends_with_messages_says_so(owner, far, caplog):
    with owner.queue("q", create=True) as here:
        there = attached(here.ref, far)
        asyncio.run(cancelled_after_it_was_taken(here, there))
        with pytest.warns(ResourceWarning):
            del there
            without_the_loop(lambda: gc.collect() >= 0 and "lost" in caplog.text)  # the helper may still have it
        assert "messages are lost" in caplog.text
        with attached(here.ref, far) as again:
            without_the_loop(lambda: consumes(again))  # the helper says it first, and then gives the role back


def consumes(queue):
    try:
        queue.consume()
    except errors.BusyError:
        return False
    return True


def test_a_cancelled_put_says_whether_it_has_put(owner, far):
    with two(owner, far) as (here, there):

        async def put(data):
            try:
                await there.put_async(data)
            except asyncio.CancelledError as error:
                return error.placed
            return "not cancelled"

        async def run():
            task = asyncio.create_task(put(b"arrives"))
            await turns(3)
            without_the_loop(lambda: here.qsize() == 1)
            task.cancel()
            assert await task == 1
            assert here.get() == b"arrives"
            with contextlib.suppress(errors.FullError):
                while True:
                    there.put_nowait(bytes(1000))
            task = asyncio.create_task(put(bytes(1500)))
            await turns(20)
            task.cancel()
            assert await task == 0
            drain(here)
            await there.put_async(b"next")
            assert here.get() == b"next" and here.empty()

        asyncio.run(run())


async def put_and_cancel(queue, data):
    """What the CancelledError says, cancelled after the first try and before the task knows of it."""
    told, loop = threading.Event(), asyncio.get_running_loop()
    tell = loop.call_soon_threadsafe

    def call_soon_threadsafe(*args, **named):
        told.set()
        return tell(*args, **named)

    loop.call_soon_threadsafe = call_soon_threadsafe
    task = asyncio.create_task(queue.put_async(data))
    await turns(2)
    assert told.wait(SECONDS)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    return caught.value


def test_a_put_that_is_cancelled_after_it_has_failed_is_not_said_to_be_put(fault_place):
    """The message is in the handle, and not at the owner."""
    failed = 0
    for n in range(5, 30):
        with contextlib.ExitStack() as stack:
            context = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
            cluster = stack.enter_context(dsmem.connect(context=context))
            here = stack.enter_context(cluster.queue("q", create=True, capacity_bytes=LANE, max_message=1500))
            far = stack.enter_context(dsmem.Context(f"{fault_place}://?fail={n}", secret=SECRET))
            try:
                there = dsmem.attach(here.ref, far)
                stack.callback(there.close)
                there.put(b"first")
            except (errors.TransportError, errors.TimeoutError):
                continue
            here.get()
            for data in (b"a", b"b", b"c"):
                error = asyncio.run(put_and_cancel(there, data))
                arrived = []
                with contextlib.suppress(errors.EmptyError):
                    arrived = here.get_many(block=False)
                if error.placed is None:
                    assert isinstance(error.__cause__, errors.DsmemError)
                    failed += 1
                else:
                    assert (data in arrived) == (error.placed == 1)
    assert failed


# ---- many tasks ----


def test_a_small_message_does_not_wait_for_the_room_of_a_large_one(owner, far):
    with two(owner, far) as (here, there):

        async def run():
            for sizes in ((1500, 300), (300, 1500)):
                with contextlib.suppress(errors.FullError):
                    while True:
                        there.put_nowait(bytes(300))
                tasks = {size: asyncio.create_task(there.put_async(bytes(size))) for size in sizes}
                await turns(20)
                assert not any(task.done() for task in tasks.values())
                here.get_many(2)
                await asyncio.wait_for(asyncio.shield(tasks[300]), SECONDS)
                assert not tasks[1500].done()
                drain(here)
                await asyncio.wait_for(tasks[1500], SECONDS)
                drain(here)

        asyncio.run(run())


def test_puts_of_tasks_come_in_the_order_of_their_calls(owner, far):
    with two(owner, far, capacity_bytes=1 << 16) as (here, there):

        async def run():
            await asyncio.gather(*(there.put_async(b"%d" % n) for n in range(200)))

        asyncio.run(run(), debug=True)
        assert here.get_many() == [b"%d" % n for n in range(200)]


def test_one_handle_in_two_loops(owner, far):
    """Both get what comes, in debug mode, too: futures are set in their own loop."""
    n, got = 100, []
    with two(owner, far) as (here, there):

        async def run():
            for _ in range(n):
                got.append(await there.get_async())

        running = [threading.Thread(target=asyncio.run, args=(run(),), kwargs={"debug": True}) for _ in range(2)]
        for thread in running:
            thread.start()
        for i in range(2 * n):
            here.put(bytes([i]))
        for thread in running:
            thread.join(SECONDS)
            assert not thread.is_alive()
        assert sorted(got) == [bytes([i]) for i in range(2 * n)]


def test_tasks_and_threads_share_what_comes(owner, far):
    n, got = 300, []
    with two(owner, far) as (here, there):

        async def take():
            got.append(await there.get_async())

        async def tasks():
            await asyncio.gather(*(take() for _ in range(n)))

        thread = threading.Thread(target=lambda: got.extend(there.get() for _ in range(n)))
        thread.start()
        feeder = threading.Thread(target=lambda: [here.put(b"%d" % i) for i in range(2 * n)])
        feeder.start()
        asyncio.run(tasks())
        thread.join(SECONDS)
        feeder.join(SECONDS)
        assert sorted(map(int, got)) == list(range(2 * n))


def test_a_buffer_is_let_go_when_its_message_is_put(owner, far):
    data = bytearray(b"message")
    with two(owner, far) as (here, there):

        async def run():
            await there.put_async(data)
            data.extend(b", and more")

        asyncio.run(run())
        assert here.get() == b"message"


def test_odd_arguments_are_refused(owner, far):
    with two(owner, far) as (here, there):

        async def run():
            for n in (0, -1, "3"):
                with pytest.raises(errors.InvalidArgumentError):
                    await there.get_many_async(n)
            with pytest.raises(errors.DsmemError):
                await there.put_async("text")
            with pytest.raises(errors.MessageTooLargeError):
                await there.put_async(bytes(1501))

        asyncio.run(run())
        assert here.empty()


def test_a_shutdown_ends_the_waits(owner, far):
    with two(owner, far, producers=2) as (here, there):

        async def run():
            task = asyncio.create_task(first_of(there))
            await turns(3)
            here.put(b"last")
            assert await asyncio.wait_for(task, SECONDS) == b"last"
            task = asyncio.create_task(first_of(there))
            await turns(3)
            here.shutdown()
            assert await asyncio.wait_for(task, SECONDS) is None
            with pytest.raises(errors.ShutDownError):
                while True:
                    await there.put_async(b"more")
                    await asyncio.sleep(0.001)

        asyncio.run(run())


# ---- closed, forked ----


@pytest.mark.parametrize("elsewhere", [False, True])
def test_close_ends_the_waits_of_tasks(owner, far, elsewhere):
    with two(owner, far) as (_, there):
        with contextlib.suppress(errors.FullError):
            while True:
                there.put_nowait(bytes(1000))

        async def run():
            task = asyncio.create_task(there.put_async(bytes(1500)))
            await turns(5)
            if elsewhere:
                await asyncio.get_running_loop().run_in_executor(None, there.close)
            else:
                there.close()
            with pytest.raises(errors.ClosedError) as closed:
                await asyncio.wait_for(task, SECONDS)
            assert closed.value.placed == 0

        asyncio.run(run(), debug=True)


def test_a_close_while_messages_come_loses_none(owner, far):
    """The task has the message, or it is in the queue, or the handle keeps it and refuses to be closed."""
    kept, got = 0, []
    with owner.queue("q", create=True) as here:

        async def run(there, n):
            nonlocal kept
            task = asyncio.create_task(there.get_async())
            await turns(3)
            here.put(n)
            if n[0] % 2:
                without_the_loop(here.empty)
            try:
                there.close()
            except errors.BusyError:
                kept += 1
            with contextlib.suppress(errors.ClosedError):
                got.append(await task)
            if not there.closed:
                got.extend(there.get_many(block=False))

        for n in range(40):
            with attached(here.ref, far) as there:
                asyncio.run(run(there, bytes([n])))
            with attached(here.ref, far) as there:
                if not here.empty():
                    got.extend(there.get_many())
    assert got == [bytes([n]) for n in range(40)]
    assert kept >= 20


def test_a_child_of_fork_leaves_the_tasks_alone(owner, far):
    with two(owner, far) as (here, there):

        async def run():
            task = asyncio.create_task(there.get_async())
            await turns(5)

            def child():
                with pytest.raises(errors.ForkError):
                    there.get_nowait()
                there.close()

            in_child(child)
            here.put(b"message")
            assert await asyncio.wait_for(task, SECONDS) == b"message"

        asyncio.run(run())


def refused_in_handler(place, plan=""):
    """Takes from an empty queue. Returns the number of its first op; with a plan that holds it back, what a put raises
    in a handler that interrupts it, or None: it came too late.
    """
    raised = []

    def handler(*_):
        if not raised and context.stats["posts"] >= op:
            raised.append(None)
            try:
                asyncio.run(there.put_async(b"x"))
            except errors.BusyError as error:
                raised[0] = error

    with (
        dsmem.Context(place, secret=SECRET) as owners,
        dsmem.connect(context=owners) as owner,
        dsmem.Context(f"{place}{plan}", secret=SECRET) as context,
        two(owner, context) as (_, there),
    ):
        there.consume()
        op = context.stats["posts"] + 1
        if not plan:
            return op
        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        try:
            with contextlib.suppress(errors.EmptyError):
                there.get_nowait()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return raised[0] if raised else None


def test_a_put_that_is_refused_in_a_handler_put_nothing(fault_place):
    """It is refused before any op, so that is known."""
    plan, error = f"://?delay={refused_in_handler(fault_place)}:40ms", None
    until = time.monotonic() + SECONDS
    while error is None:
        assert time.monotonic() < until
        error = refused_in_handler(fault_place, plan)
    assert error.placed == 0
