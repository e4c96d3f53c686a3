"""The sweep of faults over segments, clocks and the objects of synchronisation: see object_faults.py."""

import threading
from contextlib import suppress

import pytest
from object_faults import FAULTS, Kind, Place, Row, sweep

from dsmem import errors

LIMIT = 5.0


def nothing(_):
    pass


# ---- segments ----


def use_segment(owner):
    version = owner.publish(9, timeout=LIMIT)
    seen, copy = owner.snapshot(timeout=LIMIT)
    assert seen == version and (copy == 9).all()
    owner.resize(64, timeout=LIMIT)


def published(owner, version):
    seen, copy = owner.snapshot(timeout=LIMIT)
    assert seen == version and (copy == 7).all()


def write_block(obj):
    with obj.writing(LIMIT) as array:
        array[:] = 7


def snapshot(obj):
    version, copy = obj.snapshot(LIMIT)
    assert (copy == 7).all()
    return version


# ---- locks ----


def use_lock(owner):
    before = 0
    for _ in range(2):
        assert owner.acquire(timeout=LIMIT)
        assert owner.token > before
        before = owner.token
        owner.release()


def release(obj):
    if obj.token is not None:
        with suppress(errors.NotHeldError):
            obj.release()


def with_lock(obj):
    with obj:
        pass


def use_rwlock(owner):
    assert owner.acquire_read(timeout=LIMIT)
    owner.release_read()
    assert owner.acquire_write(timeout=LIMIT)
    owner.release_write()


def release_rwlock(obj):
    with suppress(errors.NotHeldError):
        obj.release_read()
    if obj.token is not None:
        with suppress(errors.NotHeldError):
            obj.release_write()


def use_semaphore(owner):
    for _ in range(3):
        assert owner.acquire(timeout=LIMIT)
    assert owner.value == 0
    owner.release(3)
    assert owner.value == 3


def release_semaphore(obj):
    while obj.held:
        obj.release()


# ---- meetings ----


def use_event(owner):
    owner.set()
    assert owner.is_set() and owner.wait(LIMIT)
    owner.clear()
    assert not owner.is_set()


def use_condition(owner):
    """Nobody else is in the table: a notification comes to who waits."""
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


def wait_in_vain(obj):
    with obj:
        assert not obj.wait(0.02)


def notify(obj):
    with obj:
        obj.notify()
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


def meet_nobody(obj):
    with pytest.raises(errors.BrokenBarrierError):
        obj.wait(0.02)


def use_once(owner):
    if not owner.done:
        with owner as first:
            assert first
    assert owner.done and not owner.begin(LIMIT)


def end_once(obj):
    if obj._runs:
        obj.end(False)


KINDS = {
    "segment": Kind("segment", {"shape": (64, 8), "dtype": "i8", "versioned": True}, nothing, use_segment),
    "lock": Kind("lock", {}, release, use_lock),
    "spinlock": Kind("lock", {"kind": "spin"}, release, use_lock),
    "rwlock": Kind("rwlock", {"members": 8}, release_rwlock, use_rwlock),
    "semaphore": Kind("semaphore", {"n": 3}, release_semaphore, use_semaphore),
    "event": Kind("event", {}, nothing, use_event),
    "condition": Kind("condition", {"waiters": 8}, release, use_condition),
    "barrier": Kind("barrier", {"parties": 2}, nothing, use_barrier),
}

ROWS = [
    Row("segment", "publish", lambda o: o.publish(7, LIMIT), check=published),
    Row("segment", "writing", write_block),
    Row("segment", "snapshot", snapshot, owner_before=lambda o: o.publish(7)),
    Row("segment", "resize", lambda o: o.resize(32)),
    Row("segment", "close", lambda o: o.close()),
    Row("lock", "acquire", lambda o: o.acquire(timeout=LIMIT)),
    Row("lock", "release", lambda o: o.release(), before=lambda o: o.acquire()),
    Row("lock", "locked", lambda o: o.locked()),
    Row("lock", "__enter__", with_lock),
    Row("lock", "close", lambda o: o.close()),
    Row("rwlock", "acquire_read", lambda o: o.acquire_read(timeout=LIMIT)),
    Row("rwlock", "release_read", lambda o: o.release_read(), before=lambda o: o.acquire_read()),
    Row("rwlock", "acquire_write", lambda o: o.acquire_write(timeout=LIMIT)),
    Row("rwlock", "release_write", lambda o: o.release_write(), before=lambda o: o.acquire_write()),
    Row("rwlock", "close", lambda o: o.close()),
    Row("semaphore", "acquire", lambda o: o.acquire(timeout=LIMIT)),
    Row("semaphore", "release", lambda o: o.release(2), before=lambda o: (o.acquire(), o.acquire())),
    Row("semaphore", "value", lambda o: o.value),
    Row("event", "set", lambda o: o.set(), check=lambda owner, _: owner.is_set() or pytest.fail("it is not set")),
    Row("event", "clear", lambda o: o.clear(), owner_before=lambda o: o.set()),
    Row("event", "is_set", lambda o: o.is_set()),
    Row("event", "wait", lambda o: o.wait(LIMIT), owner_before=lambda o: o.set()),
    Row("condition", "wait", wait_in_vain),
    Row("condition", "notify", notify),
    Row("condition", "close", lambda o: o.close()),
    Row("barrier", "wait", meet_nobody),
    Row("barrier", "abort", lambda o: o.abort()),
    Row("barrier", "reset", lambda o: o.reset(), owner_before=lambda o: o.abort()),
    Row("barrier", "n_waiting", lambda o: o.n_waiting),
    Row("barrier", "close", lambda o: o.close()),
]


@pytest.fixture(scope="module")
def place():
    with Place("fault+shm") as made:
        yield made


@pytest.mark.timeout(120)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_each_op_of_each_call(place, row):
    sweep(place, KINDS[row.kind], row, FAULTS)
