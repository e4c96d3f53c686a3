"""What the sweep of remote faults plays: kinds of objects, a row for each public call, or why a name has none."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest
import remote_queue
import remote_store
from remote_faults import Kind, Row, nothing

from dsmem import clock, errors, queue, segment, store, sync

LIMIT = 60.0
SOON = 0.02


# ---- segments ----


def use_segment(owner):
    version = owner.publish(9, timeout=LIMIT)
    seen, copy = owner.snapshot(timeout=LIMIT)
    assert seen == version and (copy == 9).all()
    owner.resize(64, timeout=LIMIT)


def take_the_turn(owner):
    writer = owner.writer()
    if writer is not None:
        assert owner.break_(writer)
    use_segment(owner)


def published(owner, version, error):
    if error is None:
        seen, copy = owner.snapshot(timeout=LIMIT)
        assert seen == version and (copy == 7).all()


def write_block(obj):
    with obj.writing(LIMIT) as array:
        array[:] = 7


def snapshot(obj):
    version, copy = obj.snapshot(LIMIT)
    assert (copy == 7).all()
    return version


def written(owner, _, error):
    if error is None:
        assert owner[3, 1] == 7


def with_obj(obj):
    with obj:
        pass


# ---- locks ----


def use_lock(owner):
    before = 0
    for _ in range(2):
        assert owner.acquire(timeout=LIMIT)
        assert owner.token > before
        before = owner.token
        owner.release()


def take_the_lock(owner):
    holder = owner.holder()
    if holder:
        assert owner.break_(holder)
    use_lock(owner)


def release(obj):
    while obj.token is not None:
        with suppress(errors.NotHeldError):
            obj.release()


def use_rwlock(owner):
    assert owner.acquire_read(timeout=LIMIT)
    owner.release_read()
    assert owner.acquire_write(timeout=LIMIT)
    owner.release_write()


def take_the_rwlock(owner):
    for holder in {owner.writer(), *owner.readers()} - {None}:
        assert owner.break_(holder)
    use_rwlock(owner)


def release_rwlock(obj):
    with suppress(errors.NotHeldError):
        while True:
            obj.release_read()
    if obj.token is not None:
        with suppress(errors.NotHeldError):
            obj.release_write()


def read_block(obj):
    with obj.read(LIMIT):
        pass


def rwlock_write_block(obj):
    with obj.write(LIMIT):
        pass


def use_semaphore(owner):
    for _ in range(3):
        assert owner.acquire(timeout=LIMIT)
    assert owner.value == 0
    owner.release(3)
    assert owner.value == 3


def take_the_permits(owner):
    for holder in owner.holders():
        assert owner.break_(holder)
    use_semaphore(owner)


def use_counting(owner):
    """A permit has no owner: one of a call whose outcome is unknown is gone or there."""
    owner.release()
    assert owner.acquire(timeout=LIMIT)


def release_semaphore(obj):
    while obj.held:
        with suppress(errors.NotHeldError):  # it was broken
            obj.release()


# ---- meetings ----


def use_event(owner):
    owner.set()
    assert owner.is_set() and owner.wait(LIMIT)
    owner.clear()
    assert not owner.is_set()


def is_set(owner, _, error):
    if error is None:
        assert owner.is_set()


def use_condition(owner):
    """A notification comes to a waiter, if need be behind one that is dead."""
    woken = []

    def wait():
        with owner:
            woken.append(owner.wait(LIMIT))

    thread = threading.Thread(target=wait)
    thread.start()
    while thread.is_alive():
        with owner:
            owner.notify()
    thread.join()
    assert woken == [True]


def take_the_condition(owner):
    holder = owner.holder()
    if holder:
        assert owner.break_(holder)
    use_condition(owner)


def wait_in_vain(obj):
    with obj:
        assert not obj.wait(SOON)


def wait_for_it(obj):
    with obj:
        assert not obj.wait_for(lambda: False, SOON)


def notify(obj):
    with obj:
        obj.notify()


def notify_all(obj):
    with obj:
        obj.notify_all()


def use_barrier(owner):
    if owner.broken:
        owner.reset()
    owner.abort()
    assert owner.broken
    owner.reset()
    assert not owner.broken and owner.n_waiting == 0
    thread = threading.Thread(target=owner.wait, args=(LIMIT,))
    thread.start()
    assert owner.wait(LIMIT) in (0, 1)
    thread.join()


def take_the_barrier(owner):
    for holder in set(owner.waiters()):
        owner.break_(holder)  # the first that is broken may be all that is needed
    use_barrier(owner)


def meet_none(obj):
    with pytest.raises(errors.BrokenBarrierError):
        obj.wait(SOON)


def use_once(owner):
    if owner.begin(LIMIT):
        owner.end()
    assert owner.done and not owner.begin(LIMIT)


def take_once(owner):
    holder = owner.holder()
    if holder:
        assert owner.break_(holder)
    use_once(owner)


def end_once(obj):
    with suppress(errors.NotHeldError):
        obj.end(False)


# ---- tasks ----


def task(call):
    """The call of an asynchronous method, from another than the loop's point of view."""

    async def run(obj):
        return await call(obj)

    return lambda obj: asyncio.run(run(obj))


def in_async_block(obj):
    async def run():
        async with obj:
            pass

    asyncio.run(run())


def in_task_with(call):
    """The same, with the object's lock."""

    async def run(obj):
        async with obj:
            return await call(obj)

    return lambda obj: asyncio.run(run(obj))


async def meet_none_async(obj):
    with pytest.raises(errors.BrokenBarrierError):
        await obj.wait_async(SOON)


# ---- clocks ----


def stamps(obj):
    """Each greater than the one before, whatever fails."""
    for one in (clock.Lamport(obj), clock.HybridClock(shared=obj)):
        before = 0
        for _ in range(2):
            now = one.send()
            assert now > before and one.now >= now
            before = one.receive(now)
            assert before > now


# ---- the table ----

KINDS = {
    "queue": remote_queue.KIND,
    "shut queue": remote_queue.SHUT,
    "taken queue": remote_queue.TAKEN,
    "shared queue": remote_queue.SHARED,
    "segment": Kind(
        "segment", {"shape": (64, 8), "dtype": "i8", "versioned": True}, nothing, use_segment, take_the_turn
    ),
    "plain": Kind("segment", {"shape": (64, 8), "dtype": "i8"}, nothing, lambda o: o.write(0, 1), nothing),
    "lock": Kind("lock", {}, release, use_lock, take_the_lock),
    "spinlock": Kind("spinlock", {}, release, use_lock, take_the_lock),
    "rwlock": Kind("rwlock", {"members": 8}, release_rwlock, use_rwlock, take_the_rwlock),
    "semaphore": Kind("semaphore", {"n": 3}, release_semaphore, use_semaphore, take_the_permits),
    "rlock": Kind("rlock", {}, release, use_lock, take_the_lock),
    "counting": Kind("semaphore", {"n": 3, "owned": False}, nothing, use_counting, use_counting),
    "event": Kind("event", {}, nothing, use_event, use_event),
    "condition": Kind("condition", {"waiters": 8}, release, use_condition, take_the_condition),
    "barrier": Kind("barrier", {"parties": 2}, nothing, use_barrier, take_the_barrier),
    "once": Kind("once", {}, end_once, use_once, take_once),
    "clock": Kind("clock", {}, nothing, stamps, stamps),
    "store": remote_store.KIND,
}


def _lock_rows(kind: str) -> list[Row]:
    return [
        Row(kind, "acquire", lambda o: o.acquire(timeout=LIMIT)),
        Row(kind, "release", lambda o: o.release(), before=lambda o: o.acquire()),
        Row(kind, "locked", lambda o: o.locked()),
        Row(kind, "holder", lambda o: o.holder(), before=lambda o: o.acquire()),
        Row(kind, "break_", lambda o: o.break_(o.holder()), before=lambda o: o.acquire()),
        Row(kind, "with", with_obj),
        Row(kind, "close", lambda o: o.close()),
    ]


def _async_lock_rows(kind: str) -> list[Row]:
    return [
        Row(kind, "acquire_async", task(lambda o: o.acquire_async(LIMIT)), brief=True),
        Row(kind, "release_async", task(lambda o: o.release_async()), before=lambda o: o.acquire(), brief=True),
        Row(kind, "async with", in_async_block, brief=True),
    ]


ROWS = [
    *remote_queue.ROWS,
    Row("segment", "publish", lambda o: o.publish(7, LIMIT), check=published),
    Row("segment", "writing", write_block),
    Row("segment", "snapshot", snapshot, owner_before=lambda o: o.publish(7)),
    Row("segment", "writer", lambda o: o.writer()),
    Row("segment", "break_", lambda o: o.break_(1)),
    Row("segment", "resize", lambda o: o.resize(32)),
    Row("segment", "close", lambda o: o.close()),
    Row("segment", "with", with_obj),
    Row("segment", "shape", lambda o: (o.shape, o.ndim, o.size, o.nbytes), names=("shape", "ndim", "size", "nbytes")),
    Row("plain", "read", lambda o: o.read((3, 1))),
    Row("plain", "write", lambda o: o.write((3, 1), 7), check=written),
    Row("plain", "read_async", lambda o: asyncio.run(o.read_async((3, 1)))),
    Row("plain", "write_async", lambda o: asyncio.run(o.write_async((3, 1), 7)), check=written),
    Row("plain", "fetch_add", lambda o: o.fetch_add((3, 1), 7), check=written),
    Row("plain", "compare_swap", lambda o: o.compare_swap((3, 1), 0, 7), check=written),
    Row("plain", "update", lambda o: o.update((3, 1), lambda _: 7, LIMIT), check=written),
    Row("plain", "wait", lambda o: o.wait((3, 1), lambda v: v == 0, LIMIT)),
    Row("plain", "wait_async", task(lambda o: o.wait_async((3, 1), lambda v: v == 0, LIMIT)), brief=True),
    *_lock_rows("lock"),
    *_async_lock_rows("lock"),
    *_lock_rows("spinlock"),
    *_lock_rows("rlock"),
    Row("rwlock", "acquire_read", lambda o: o.acquire_read(timeout=LIMIT)),
    Row("rwlock", "release_read", lambda o: o.release_read(), before=lambda o: o.acquire_read()),
    Row("rwlock", "acquire_write", lambda o: o.acquire_write(timeout=LIMIT)),
    Row("rwlock", "release_write", lambda o: o.release_write(), before=lambda o: o.acquire_write()),
    Row("rwlock", "read", read_block),
    Row("rwlock", "write", rwlock_write_block),
    Row("rwlock", "writer", lambda o: o.writer(), before=lambda o: o.acquire_write()),
    Row("rwlock", "readers", lambda o: o.readers(), before=lambda o: o.acquire_read()),
    Row("rwlock", "break_", lambda o: o.break_(o.writer()), before=lambda o: o.acquire_write()),
    Row("rwlock", "break_", lambda o: o.break_(o.readers()[0]), before=lambda o: o.acquire_read()),
    Row("rwlock", "acquire_read_async", task(lambda o: o.acquire_read_async(LIMIT)), brief=True),
    Row(
        "rwlock",
        "release_read_async",
        task(lambda o: o.release_read_async()),
        before=lambda o: o.acquire_read(),
        brief=True,
    ),
    Row("rwlock", "acquire_write_async", task(lambda o: o.acquire_write_async(LIMIT)), brief=True),
    Row(
        "rwlock",
        "release_write_async",
        task(lambda o: o.release_write_async()),
        before=lambda o: o.acquire_write(),
        brief=True,
    ),
    Row("rwlock", "close", lambda o: o.close()),
    Row("semaphore", "acquire", lambda o: o.acquire(timeout=LIMIT)),
    Row("semaphore", "release", lambda o: o.release(2), before=lambda o: (o.acquire(), o.acquire())),
    Row("semaphore", "value", lambda o: o.value),
    Row("semaphore", "holders", lambda o: o.holders(), before=lambda o: o.acquire()),
    Row("semaphore", "break_", lambda o: o.break_(o.holders()[0]), before=lambda o: o.acquire()),
    Row("semaphore", "with", with_obj),
    *_async_lock_rows("semaphore"),
    Row("semaphore", "close", lambda o: o.close()),
    Row("counting", "acquire", lambda o: o.acquire(timeout=LIMIT)),
    Row("counting", "release", lambda o: o.release(2)),
    Row("counting", "value", lambda o: o.value),
    Row("counting", "with", with_obj),
    *_async_lock_rows("counting"),
    Row("counting", "close", lambda o: o.close()),
    Row("event", "set", lambda o: o.set(), check=is_set),
    Row("event", "clear", lambda o: o.clear(), owner_before=lambda o: o.set()),
    Row("event", "is_set", lambda o: o.is_set()),
    Row("event", "wait", lambda o: o.wait(LIMIT), owner_before=lambda o: o.set()),
    Row("event", "with", with_obj),
    Row("event", "set_async", task(lambda o: o.set_async()), check=is_set, brief=True),
    Row("event", "clear_async", task(lambda o: o.clear_async()), owner_before=lambda o: o.set(), brief=True),
    Row("event", "wait_async", task(lambda o: o.wait_async(LIMIT)), owner_before=lambda o: o.set(), brief=True),
    Row("event", "close", lambda o: o.close()),
    *_lock_rows("condition"),
    Row("condition", "wait", wait_in_vain),
    Row("condition", "wait_for", wait_for_it),
    Row("condition", "notify", notify),
    Row("condition", "notify_all", notify_all),
    *_async_lock_rows("condition"),
    Row("condition", "wait_async", in_task_with(lambda o: o.wait_async(SOON)), brief=True),
    Row("condition", "wait_for_async", in_task_with(lambda o: o.wait_for_async(lambda: False, SOON)), brief=True),
    Row("condition", "notify_async", in_task_with(lambda o: o.notify_async()), brief=True),
    Row("condition", "notify_all_async", in_task_with(lambda o: o.notify_all_async()), brief=True),
    Row("barrier", "wait", meet_none),
    Row("barrier", "wait_async", task(meet_none_async), brief=True),
    Row("barrier", "abort", lambda o: o.abort()),
    Row("barrier", "reset", lambda o: o.reset(), owner_before=lambda o: o.abort()),
    Row("barrier", "n_waiting", lambda o: o.n_waiting),
    Row("barrier", "broken", lambda o: o.broken),
    Row("barrier", "waiters", lambda o: o.waiters()),
    Row("barrier", "break_", lambda o: o.break_(1)),
    Row("barrier", "with", with_obj),
    Row("barrier", "close", lambda o: o.close()),
    Row("once", "begin", lambda o: o.begin(LIMIT)),
    Row("once", "end", lambda o: o.end(), before=lambda o: o.begin()),
    Row("once", "call", lambda o: o.call(lambda: 1)),
    Row("once", "done", lambda o: o.done),
    Row("once", "holder", lambda o: o.holder(), before=lambda o: o.begin()),
    Row("once", "break_", lambda o: o.break_(o.holder()), before=lambda o: o.begin()),
    Row("once", "with", with_obj),
    Row("once", "close", lambda o: o.close()),
    Row("clock", "stamps", stamps, names=()),
    Row("clock", "close", lambda o: o.close()),
    Row("clock", "with", with_obj),
    *remote_store.ROWS,
]

# Class, the kinds whose rows are of it, and why the other public names have none.
NO_OP = "this handle's own; no op"
NO_TASKS = dict.fromkeys(("acquire_async", "release_async", "async with"), "refused: not for tasks")
OWNER = "refused to a process that is not the owner, without an op"
EVERYWHERE = {"name": NO_OP, "ref": NO_OP, "closed": NO_OP, "unlink": OWNER}
HELD = {"token": NO_OP, "recovered": NO_OP}
CLASSES: dict[type, tuple[tuple[str, ...], dict[str, str]]] = {
    queue.Queue: (
        ("queue", "shut queue", "taken queue", "shared queue"),
        {
            "with": "close(); where that fails the lane stays taken, and the exception says so",
            **dict.fromkeys(("properties", "region", "remote", "cancel", "staged"), NO_OP),
        },
    ),
    segment.Segment: (
        ("segment", "plain"),
        {"dtype": NO_OP, "readonly": NO_OP, "versioned": NO_OP, "capacity": NO_OP, "array": OWNER},
    ),
    sync.Lock: (("lock",), HELD),
    sync.SpinLock: (("spinlock",), {**HELD, **NO_TASKS}),
    sync.RLock: (("rlock",), {**HELD, **NO_TASKS}),
    sync.RWLock: (("rwlock",), {**HELD, "with": "refused: read() and write() are entered"}),
    sync.Semaphore: (("semaphore",), {"held": NO_OP, "recovered": NO_OP}),
    sync.CountingSemaphore: (("counting",), {}),
    sync.Event: (("event",), {}),
    sync.Condition: (("condition",), HELD),
    sync.Barrier: (("barrier",), {"parties": NO_OP}),
    sync.Once: (("once",), {"recovered": NO_OP}),
    clock.SharedClock: (("clock",), {}),
    store.Store: (
        ("store",),
        dict.fromkeys(("page_size", "counts", "latencies", "health", "health_async"), NO_OP),
    ),
}


def without_row(cls: type) -> list[str]:
    """Public names of a class for which there is neither a row nor a reason."""
    kinds, reasons = CLASSES[cls]
    have = {name for row in ROWS if row.kind in kinds for name in (row.names or (row.name,))}
    public = {name for name in dir(cls) if not name.startswith("_")} | {"with"}
    if hasattr(cls, "__aenter__"):
        public.add("async with")
    return sorted(public - have - set(reasons) - set(EVERYWHERE))
