"""Tasks that use stores: the loop goes on, a cancel loses nothing, and what others do meanwhile has an end."""

import asyncio
import contextlib
import random
import threading
import time

import numpy as np
import pytest
from at_rest import closed_at_rest
from attaching import attached
from forked import in_child
from paging import SIZE, number_of, page

import dsmem
from dsmem import errors

SECONDS = 60
SECRET = b"5704e" * 12 + b"5704"
SHAPE = {"page_size": SIZE, "capacity": 64 * SIZE, "members": 4}


@pytest.fixture
def mapped(cluster_name):
    with dsmem.connect(cluster_name) as cluster, closed_at_rest(cluster.store("s", create=True, **SHAPE)) as store:
        yield store
        store.unlink()


@contextlib.contextmanager
def far_store(place, far_place=None, **options):
    """One in memory that is not mapped."""
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(dsmem.Context(place, secret=SECRET))
        cluster = stack.enter_context(dsmem.connect(context=context))
        here = stack.enter_context(cluster.store("s", create=True, **SHAPE))
        far = stack.enter_context(dsmem.Context(far_place or place, secret=SECRET, peer_timeout=SECONDS, **options))
        yield stack.enter_context(closed_at_rest(attached(here.ref, far)))


@pytest.fixture
def store(world_place, mapped):
    if world_place == "local":
        yield mapped
    else:
        with far_store(world_place) as store:
            yield store


async def works(store):
    pid = await store.allocate_async()
    assert await store.read_async(pid) == bytes(SIZE)
    version = await store.write_async(pid, page(1))
    assert await store.version_async(pid) == version
    assert await store.compare_write_async(pid, version, page(2)) == version + 1
    with pytest.raises(errors.ConflictError):
        await store.compare_write_async(pid, version, page(3))
    out = bytearray(SIZE)
    assert await store.read_async(pid, out) is out and number_of(out) == 2
    out.clear()  # it is not in use any more
    ids = await store.allocate_many_async(10)
    versions = await store.write_many_async(ids, np.repeat(np.arange(10, dtype="u8"), SIZE // 8))
    assert [await store.version_async(int(each)) for each in ids] == versions.tolist()
    got = await store.read_many_async(ids)
    assert [number_of(each) for each in got] == list(range(10))
    assert (await store.snapshot_async(ids) == got).all()
    assert await store.stat_async() == store.stat() and await store.health_async() == store.health()
    for each in [pid, *ids.tolist()]:
        await store.free_async(each)
    for call in (store.read_async(pid), store.version_async(pid), store.free_async(pid), store.read_many_async([pid])):
        with pytest.raises(errors.PageNotFoundError):
            await call


def test_what_the_others_do_is_there_for_tasks(store):
    free = store.stat()["free"]
    asyncio.run(works(store), debug=True)
    assert store.stat()["free"] == free


def test_many_tasks_at_once(store):
    ids = store.allocate_many(20).tolist()

    async def run():
        await asyncio.gather(*[store.write_async(pid, page(i)) for i, pid in enumerate(ids)])
        return await asyncio.gather(*[store.read_async(pid) for pid in ids])

    assert [number_of(each) for each in asyncio.run(run())] == list(range(20))


def test_loops_of_two_threads(store):
    ids = store.allocate_many(2).tolist()

    def run(pid):
        async def add():
            for _ in range(200):
                await store.run_async(lambda tx: tx.write(pid, page(number_of(tx.read(pid)) + 1)))

        asyncio.run(add())

    threads = [threading.Thread(target=run, args=(pid,)) for pid in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [number_of(store.read(pid)) for pid in ids] == [200, 200]


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.read_async(-1),
        lambda s: s.read_async(1 << 40, bytearray(3)),
        lambda s: s.write_async(1 << 40, b"short"),
        lambda s: s.compare_write_async(1 << 40, -1, bytes(SIZE)),
        lambda s: s.read_many_async([[1]]),
        lambda s: s.write_many_async([1 << 40], b"short"),
        lambda s: s.allocate_many_async(-1),
        lambda s: s.run_async(3),
        lambda s: s.run_async(lambda tx: None, timeout="a"),
    ],
)
def test_bad_arguments(mapped, call):
    with pytest.raises((errors.InvalidArgumentError, errors.ArgumentTypeError)):
        asyncio.run(call(mapped))


# ---- run_async ----


def test_money_is_moved_by_tasks_of_two_handles(store):
    accounts = store.allocate_many(4).tolist()
    store.write_many(accounts, page(100) * 4)

    def move(a, b, amount, tx):
        tx.write(a, page(number_of(tx.read(a)) - amount))
        tx.write(b, page(number_of(tx.read(b)) + amount))

    async def mover(handle, seed):
        dice = random.Random(seed)
        for _ in range(40):
            a, b = dice.sample(accounts, 2)
            await handle.run_async(lambda tx, a=a, b=b: move(a, b, dice.randrange(3), tx), timeout=SECONDS)
            total = sum(number_of(each) for each in await handle.snapshot_async(accounts, timeout=SECONDS))
            assert total == 400

    async def run():
        with attached(store.ref, store._memory.remote.context) as other:
            await asyncio.gather(*[mover(handle, seed) for seed, handle in enumerate((store, other, store))])

    asyncio.run(run())
    assert sum(number_of(store.read(pid)) for pid in accounts) == 400


def test_what_the_function_raises_comes_out_and_nothing_is_written(store):
    pid = store.allocate()

    def fail(tx):
        tx.write(pid, page(1))
        raise ValueError("of the caller")

    with pytest.raises(ValueError, match="of the caller"):
        asyncio.run(store.run_async(fail))
    assert store.read(pid) == bytes(SIZE)


def test_a_coroutine_function_is_refused_and_nothing_is_written(mapped):
    pid = mapped.allocate()

    async def later(tx):
        tx.write(pid, page(1))

    with pytest.raises(errors.ArgumentTypeError, match="is asynchronous"):
        asyncio.run(mapped.run_async(later))
    assert mapped.read(pid) == bytes(SIZE)


def test_conflicts_end_with_the_time(mapped):
    pid = mapped.allocate()

    def lose(tx):
        tx.read(pid)
        mapped.write(pid, page(1))
        tx.write(pid, page(2))

    with pytest.raises(errors.ConflictError):
        asyncio.run(mapped.run_async(lose, timeout=0.05))
    assert number_of(mapped.read(pid)) == 1


def test_a_function_can_neither_close_the_store_nor_wait_for_it_in_a_loop(mapped):
    pid = mapped.allocate()
    with pytest.raises(errors.BusyError, match="under way"):
        asyncio.run(mapped.run_async(lambda tx: mapped.close()))
    with pytest.raises(errors.BusyError, match="without _async"):
        asyncio.run(mapped.run_async(lambda tx: asyncio.run(mapped.read_many_async([pid]))))
    assert asyncio.run(mapped.run_async(lambda tx: tx.read(pid))) == bytes(SIZE)


# ---- the loop never waits ----

CALLS = {
    "read_async": lambda s, p: s.read_async(p),
    "read_many_async": lambda s, p: s.read_many_async([p]),
    "write_async": lambda s, p: s.write_async(p, page(7)),
    "write_many_async": lambda s, p: s.write_many_async([p], page(7)),
    "version_async": lambda s, p: s.version_async(p),
    "metadata_async": lambda s, p: s.metadata_async(p),
    "compare_write_async": lambda s, p: s.compare_write_async(p, s.version(p), page(7)),
    "allocate_async": lambda s, p: s.allocate_async(),
    "allocate_many_async": lambda s, p: s.allocate_many_async(2),
    "free_async": lambda s, p: s.free_async(p),
    "run_async": lambda s, p: s.run_async(lambda tx: tx.write(p, tx.read(p))),
    "snapshot_async": lambda s, p: s.snapshot_async([p]),
    "stat_async": lambda s, p: s.stat_async(),
    "health_async": lambda s, p: s.health_async(),
}


def test_every_call_is_in_the_table():
    assert set(CALLS) == {name for name in dir(dsmem.Store) if name.endswith("_async") and name[0] != "_"}


async def turns_until(task):
    n = 0
    while not task.done():
        await asyncio.sleep(0.001)
        n += 1
    return n


@pytest.mark.parametrize("call", [call for call in CALLS if call != "health_async"])  # which makes no op
def test_the_loop_goes_on_during_every_op(fault_place, call):
    """A loop that waits for an op has a few turns until the task is done."""
    with far_store(fault_place, f"{fault_place}://?delay=*:200ms") as store:
        pid = store.allocate()
        store.write(pid, page(1))

        async def run():
            task = asyncio.create_task(CALLS[call](store, pid))
            assert await turns_until(task) > 20
            await task

        asyncio.run(run())


@contextlib.contextmanager
def taken(store):
    """Another thread is in a call of the handle, and has its turn."""
    inside, go_on = threading.Event(), threading.Event()

    def wait(tx):
        inside.set()
        assert go_on.wait(SECONDS)

    other = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: other.run_until_complete(store.run_async(wait)))
    thread.start()
    try:
        assert inside.wait(SECONDS)
        yield
    finally:
        go_on.set()
        thread.join()
        other.close()


@pytest.mark.parametrize("call", CALLS)
def test_the_loop_goes_on_while_the_helper_is_busy(store, call):
    pid = store.allocate()
    store.write(pid, page(1))

    async def run():
        with taken(store):
            task = asyncio.create_task(CALLS[call](store, pid))
            for _ in range(20):
                await asyncio.sleep(0.001)
        await asyncio.wait_for(task, SECONDS)

    asyncio.run(run())


# ---- cancelled, closed, dropped, forked ----


async def is_cancelled(task):
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return task.cancelled()


@pytest.mark.parametrize("call", CALLS)
def test_a_job_that_has_not_begun_is_not_done_after_a_cancel(store, call):
    pid = store.allocate()
    version, free = store.write(pid, page(1)), store.stat()["free"]
    in_the_loop = ("read_async", "write_async", "version_async", "metadata_async")
    at_once = store._memory.remote.is_mapped and call in in_the_loop

    async def run():
        with taken(store):
            task = asyncio.create_task(CALLS[call](store, pid))
            await asyncio.sleep(0.01)
            task.cancel()
            assert await is_cancelled(task) or at_once or call == "compare_write_async"

    asyncio.run(run())
    if not store._memory.remote.is_mapped:
        assert (store.version(pid), store.stat()["free"]) == (version, free)


@pytest.mark.parametrize("many", [False, True])
def test_pages_allocated_for_a_task_that_is_cancelled_are_freed(store, many):
    dice, free, kept = random.Random(1), store.stat()["free"], []

    async def run():
        for _ in range(300):
            task = asyncio.create_task(store.allocate_many_async(3) if many else store.allocate_async())
            await asyncio.sleep(dice.random() * 3e-4)
            task.cancel()
            if not await is_cancelled(task):
                kept.extend(task.result().tolist() if many else [task.result()])
                while kept:
                    await store.free_async(kept.pop())
        await store.version_async(await store.allocate_async())  # behind all other jobs

    asyncio.run(run())
    assert store.stat()["free"] == free - 1


def test_pages_allocated_for_a_loop_that_is_gone_are_freed(store):
    free = store.stat()["free"]
    for _ in range(20):
        loop = asyncio.new_event_loop()
        task = loop.create_task(store.allocate_async())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        if task.done():
            store.free(task.result())
        task._log_destroy_pending = False
        task.get_coro().close()
    end = time.monotonic() + SECONDS
    while store.stat()["free"] != free:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_cancelled_task_does_not_wait_long(fault_place):
    with far_store(fault_place, f"{fault_place}://?delay=*:2000ms") as store:
        pid = store.allocate()

        async def run():
            task = asyncio.create_task(store.version_async(pid))
            await asyncio.sleep(0.05)
            task.cancel()
            return await is_cancelled(task) and not store._idle

        assert asyncio.run(run())  # and the job is still under way; close() waits for it


def test_closed_before_the_job_has_begun(mapped):
    pid = mapped.allocate()

    async def run():
        task = asyncio.create_task(mapped.read_many_async([pid]))
        while not task.done():
            with contextlib.suppress(errors.BusyError):
                mapped.close()
            await asyncio.sleep(0)
        with contextlib.suppress(errors.ClosedError):
            await task

    asyncio.run(run())
    with pytest.raises(errors.ClosedError):
        asyncio.run(mapped.read_async(pid))


def test_a_child_has_a_helper_of_its_own(mapped):
    pid = mapped.allocate()

    async def once():
        await mapped.write_many_async([pid], page(3))
        return number_of(await mapped.read_async(pid))

    async def run():
        assert await once() == 3
        task = asyncio.create_task(mapped.read_many_async([pid]))
        await asyncio.sleep(0)

        def child():
            asyncio._set_running_loop(None)
            return asyncio.run(once())

        assert in_child(child) == 3
        await task

    with taken(mapped):
        pass
    asyncio.run(run())
