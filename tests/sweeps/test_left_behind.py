"""What a user of remote memory leaves behind when it is gone for good, and how the others go on."""

import asyncio
import contextlib
import functools
import threading
import time

import pytest
from attaching import attached
from remote_faults import OUTAGE, PEER_TIMEOUT, SECRET, Child, Place, persistently

import dsmem
from dsmem import errors, sync
from dsmem.objects import memory_of


@pytest.fixture(scope="module")
def place():
    with Place("fault+shm") as made:
        yield made


def gone_at(place, owner, n, call):
    """A caller whose ops from n on do not arrive, as of one that was killed; it lives again later."""
    context = place.caller(f"fail={n}-{n + 60}")
    obj = attached(owner.ref, context)
    with pytest.raises(errors.TransportError):
        call(obj)
    return context, obj


def ops_of(place, owner, call):
    with place.caller() as context, attached(owner.ref, context) as obj:
        first = context.stats["posts"]
        call(obj)
        return first + 1, context.stats["posts"]


def test_a_writer_of_a_segment_that_is_gone(place):
    """Others time out, and are told which process it is; then they take its turn from it."""
    with place.cluster.segment("left", 8, "i8", create=True, versioned=True) as owner:
        first, last = ops_of(place, owner, lambda s: s.publish(1))
        taken = 0
        for n in range(first, last + 1):
            before, _ = owner.snapshot(timeout=60)
            context, obj = gone_at(place, owner, n, lambda s: s.publish(7))
            writer = owner.writer()
            if writer is not None:
                taken += 1
                with pytest.raises(errors.TimeoutError, match=str(writer)):
                    owner.publish(2, timeout=0.01)
                assert not owner.break_(writer - 1) and owner.break_(writer) and not owner.break_(writer)
            version, copy = owner.snapshot(timeout=60)
            assert (version, copy[0]) in ((before, copy[0]), (before + 1, 7))
            assert owner.publish(2, timeout=60) == version + 1
            persistently(obj.close)
            context.close()
            assert owner.publish(2, timeout=60) == version + 2
        assert taken > 3
    place.cluster.unlink("left")


def test_a_writer_s_turn_without_an_answer(place):
    """The swap takes effect, nothing comes back, and the call's time is over: so the turn may have been taken."""
    with place.cluster.segment("left", 8, "i8", create=True, versioned=True) as owner:
        first, _ = ops_of(place, owner, lambda s: s.publish(1))
        left = 0
        for n in range(first, first + 4):  # the turn is taken with one of them
            with place.caller(f"drop={n}-{n + 5}", PEER_TIMEOUT) as context:
                obj = attached(owner.ref, context)
                with contextlib.suppress(errors.TimeoutError):
                    obj.publish(7, timeout=0.01)
                left += owner.writer() is not None
                assert not persistently(
                    functools.partial(obj.break_, 1)
                )  # no process has it, and nothing is forgotten over it
                persistently(obj.close)
            assert owner.writer() is None, f"op {n - first + 1}"
        assert left
    place.cluster.unlink("left")


def break_when_posted(owner, holder, context, posts):
    """A thread that breaks what the holder has, once the context has posted so many ops."""

    def run():
        while context.stats["posts"] < posts:
            time.sleep(0.001)
        assert owner.break_(holder())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_commit_in_doubt_whose_turn_was_broken(place):
    """The version is the old one, and the writer another: it was not written, and the writer is told so."""
    with place.cluster.segment("left", 8, "i8", create=True, versioned=True) as owner:
        with place.caller() as context, attached(owner.ref, context) as obj, obj.writing() as array:
            array[:] = 7
            first = context.stats["posts"] + 2  # of the commit, behind a look at the words
        before, _ = owner.snapshot()
        look = first + 6  # behind the ops of the commit
        with dsmem.Context(f"fault+shm://?fail={first}&drop={look}", secret=SECRET, peer_timeout=1) as context:
            obj = attached(owner.ref, context)
            with pytest.raises(errors.NotHeldError), obj.writing() as array:
                array[:] = 8
                thread = break_when_posted(owner, owner.writer, context, look)
            thread.join()
            obj.close()
        after, copy = owner.snapshot()
        assert (after, copy[0]) == (before, 7)
    place.cluster.unlink("left")


def test_a_release_in_doubt_of_a_lock_that_was_broken(place):
    with contextlib.closing(place.cluster.lock("left", create=True)) as owner:
        owner.acquire()  # so that the guess at the word is wrong both times
        owner.release()
        with place.caller() as context, contextlib.closing(attached(owner.ref, context)) as obj:
            obj.acquire()
            first = context.stats["posts"] + 1
            obj.release()
        with dsmem.Context(f"fault+shm://?fail={first}&drop={first + 1}", secret=SECRET, peer_timeout=1) as context:
            obj = attached(owner.ref, context)
            obj.acquire()
            thread = break_when_posted(owner, owner.holder, context, first + 1)
            with pytest.raises(errors.NotHeldError):
                obj.release()
            thread.join()
            obj.close()
    place.cluster.unlink("left")


def condition_of(lock, ref, context):
    return dsmem.sync.Condition._open(memory_of(ref, context), None, ref.name, lock=lock)


def test_a_wait_that_lost_a_plain_lock_gives_back_no_other_s(place):
    """The lock can't be had again, and another thread gets it with the same handle, before the block is left."""
    owner = place.cluster.lock("left", create=True)
    made = place.cluster.condition("wait", owner, create=True)
    with owner:  # so that the guess at the word is wrong each time
        pass
    for way in ("with", "release"):
        with place.caller() as context, contextlib.closing(attached(owner.ref, context)) as lock:
            condition = condition_of(lock, made.ref, context)
            with lock:
                first = context.stats["posts"] + 6  # behind those that begin the wait
                condition.wait(0.01)
            condition.close()
        context = place.caller(f"fail={first}-{first + 60}")
        lock = attached(owner.ref, context)
        condition = condition_of(lock, made.ref, context)
        failed, taken, seen = threading.Event(), threading.Event(), []

        def wait(way=way, lock=lock, condition=condition, failed=failed, taken=taken, seen=seen):
            try:
                lock.acquire()
                condition.wait(60)
            except errors.TransportError as error:
                failed.set()
                taken.wait()
                try:
                    lock.__exit__(type(error), error, None) if way == "with" else lock.release()
                except errors.NotHeldError as refusal:
                    seen.append(refusal)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        failed.wait()
        assert persistently(lambda lock=lock: lock.acquire(timeout=60))
        token = lock.token
        taken.set()
        thread.join()
        assert lock.token == token and owner.locked() and len(seen) == (way == "release")
        lock.release()
        with lock:  # the thread's own again
            condition.notify()
        persistently(condition.close)
        lock.close()
        context.close()
    for obj in (made, owner):
        obj.unlink()
        obj.close()


def read_again(rw):
    with rw.read(5):
        pass


def write(rw):
    with rw.write(5):
        pass


def test_a_reader_whose_release_fails(place):
    """It is out, and whatever its handle does next lets writers in; so does its end."""
    with contextlib.closing(place.cluster.rwlock("left", create=True)) as owner:
        with place.caller() as context, contextlib.closing(attached(owner.ref, context)) as obj:
            obj.acquire_read()
            first = context.stats["posts"] + 1
            obj.release_read()
        for call in (read_again, write, lambda rw: rw.readers(), lambda rw: rw.release_read(), lambda rw: rw.close()):
            context = place.caller(f"fail={first}-{first + OUTAGE}")
            obj = attached(owner.ref, context)
            obj.acquire_read()
            with pytest.raises(errors.TransportError):
                obj.release_read()
            assert len(owner.readers()) == 1 and not owner.acquire_write(timeout=0)
            persistently(functools.partial(call, obj))
            assert owner.readers() == [] and owner.acquire_write(timeout=60)
            owner.release_write()
            if not obj.closed:
                with pytest.raises(errors.NotHeldError):
                    obj.release_read()
            obj.close()
            context.close()
    place.cluster.unlink("left")


def party(barrier, out):
    try:
        out.append(barrier.wait())
    except errors.BrokenBarrierError:
        out.append("broken")


def started(barrier, out, then=lambda: None):
    """A thread with a party that has come."""

    def run():
        party(barrier, out)
        then()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while not barrier.n_waiting:
        time.sleep(0.001)
    return thread


def test_a_party_whose_arrival_fails(place):
    """It may count as a party, so it breaks the barrier, at the latest when it is closed."""
    with place.cluster.barrier("left", 2, create=True) as owner:
        thread = started(owner, [])
        first, last = ops_of(place, owner, lambda b: b.wait())
        thread.join()
        broken = 0
        for n in range(first, last + 1):
            for more in (9, OUTAGE):
                out = []
                thread = started(owner, out)
                with place.caller(f"failafter={n}&fail={n + 1}-{n + more}") as context:
                    obj = attached(owner.ref, context)
                    with contextlib.suppress(errors.TransportError):
                        obj.wait()
                    persistently(obj.close)
                assert owner.n_waiting < 2, f"op {n - first + 1}"
                broken += owner.broken
                owner.abort()
                thread.join()
                owner.reset()
        assert broken > 2
    place.cluster.unlink("left")


def test_the_last_party_learns_that_it_met(place):
    """Its answer is lost, and when it looks the others have met and gone on."""
    with place.cluster.barrier("left", 2, create=True) as owner:
        thread = started(owner, [])
        first, last = ops_of(place, owner, lambda b: b.wait())
        thread.join()
        for n in range(first, last + 1):
            out = []
            thread = started(owner, out, owner.abort)
            with place.caller(f"drop={n}", PEER_TIMEOUT) as context, attached(owner.ref, context) as obj:
                assert obj.wait() == 1, f"op {n - first + 1}"
            thread.join()
            assert out == [0]
            owner.reset()
    place.cluster.unlink("left")


def slow_party(pipe, ref, plan):
    out = []
    with dsmem.Context(f"fault+shm://?{plan}", secret=SECRET, peer_timeout=20) as context:
        with attached(ref, context) as barrier:
            party(barrier, out)
    pipe.send(out)


def test_a_party_whose_lock_was_broken_does_not_count(place):
    """It goes on in the midst of its arrival, to a generation that is over, and undoes no arrival of the next one."""
    with place.cluster.barrier("left", 3, create=True) as owner:
        with place.caller() as context, attached(owner.ref, context) as obj:
            first = context.stats["posts"] + 1
            with pytest.raises(errors.BrokenBarrierError):
                obj.wait(0)
            last = context.stats["posts"]
        owner.reset()
        late = 0
        for n in range(first, last + 1):
            out = []
            with Child(slow_party, owner.ref, f"delay={n}:400ms") as child:
                while not owner.waiters():
                    time.sleep(0.001)
                threads = []
                if not owner.n_waiting and owner.break_(owner.waiters()[0]):  # it has the lock
                    assert owner.broken
                    owner.reset()
                    threads.append(started(owner, out))
                    while not child.pipe.poll(0.001) and owner.n_waiting < 2:
                        pass
                    if child.pipe.poll():  # it had looked at the barrier before
                        late += 1
                        assert owner.n_waiting == 1 and not owner.broken and not out, f"op {n - first + 1}"
                owner.abort()
                assert child.pipe.recv() == ["broken"]
                for one in threads:
                    one.join()
                owner.reset()
        assert late > 1
    place.cluster.unlink("left")


def test_a_place_is_taken_once(place):
    """An earlier try to join has taken effect unseen; meanwhile a place before it has become free."""
    with place.cluster.queue("left", create=True, producers=3) as queue:
        with place.caller() as context, attached(queue.ref, context) as obj:
            first = context.stats["posts"] + 1
            obj.produce()
            last = context.stats["posts"]
        taken = 0
        for n in range(first, last + 1):
            with place.caller() as healthy, attached(queue.ref, healthy) as other:
                other.produce()
                context = place.caller(f"failafter={n}&fail={n + 1}-{n + OUTAGE}")
                obj = attached(queue.ref, context)
                with pytest.raises(errors.TransportError):
                    obj.produce()
                taken += queue.counts["producers"] == 2
            persistently(obj.produce)
            persistently(obj.close)
            context.close()
            assert queue.counts["producers"] == 0, f"op {n - first + 1}"
        assert taken
    place.cluster.unlink("left")


def test_a_wait_that_fails_leaves_the_lock_to_another_thread(place):
    """Its lock could not be had again, and another thread has it by now, with the same handle: it stays that one's."""
    for _ in range(8):  # either thread may go on first
        with contextlib.closing(place.cluster.condition("left", create=True)) as owner:
            # A look fails, then the swap and all but one of the looks at the lock, and the last of those is late.
            with dsmem.Context("fault+shm://?fail=60-75&drop=76", secret=SECRET, peer_timeout=0.2) as context:
                obj, out = attached(owner.ref, context), []

                def wait(obj=obj, out=out):
                    with pytest.raises(errors.TransportError), obj:
                        obj.wait()
                    out.append("failed")

                first = threading.Thread(target=wait, daemon=True)

                def take(obj=obj, out=out, context=context, first=first):
                    while context.stats["posts"] < 76:
                        time.sleep(0.001)
                    out.append("begins")
                    obj.acquire()
                    out.append("taken")
                    first.join()
                    obj.release()

                second = threading.Thread(target=take, daemon=True)
                first.start()
                second.start()
                while "begins" not in out:
                    time.sleep(0.001)
                sum(range(10**7))  # with the GIL, while the one fails and the other takes the lock
                second.join()
                assert sorted(out) == ["begins", "failed", "taken"]
                obj.close()
        place.cluster.unlink("left")


@contextlib.contextmanager
def opened(lock, condition, context):
    """The condition, with the handle of its lock."""
    other = attached(lock.ref, context)
    obj = sync.Condition._open(memory_of(condition.ref, context), None, "left", lock=other)
    yield obj
    while obj.token is not None:
        persistently(obj.release)
    persistently(obj.close)
    persistently(other.close)


def test_a_wait_of_a_task_that_fails_leaves_the_lock_to_another_task(place):
    """Whatever lock the condition has: what the handle holds then is the other task's, and stays that one's."""

    async def first(obj, lost, taken):
        with contextlib.suppress(errors.DsmemError):
            async with obj:
                try:
                    await obj.wait_async(0)
                finally:
                    if obj.token is None:
                        lost.set()
                        await taken.wait()

    async def scene(obj):
        lost, taken = asyncio.Event(), asyncio.Event()
        tasks = [asyncio.create_task(first(obj, lost, taken)), asyncio.create_task(lost.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if lost.is_set():
            held = None
            while held is None:
                with contextlib.suppress(errors.TransportError, errors.TimeoutError):
                    await obj.acquire_async()
                    held = obj.token
            taken.set()
            await tasks[0]
            assert obj.token == held
        tasks[1].cancel()
        return lost.is_set()

    for kind in ("lock", "rlock"):
        with (
            contextlib.closing(getattr(place.cluster, kind)("left.lock", create=True)) as lock,
            contextlib.closing(place.cluster.condition("left", lock=lock, create=True)) as owner,
        ):
            lost = 0
            with place.caller() as context, opened(lock, owner, context) as obj:
                first_op = context.stats["posts"] + 1
                assert not asyncio.run(scene(obj))
                last_op = context.stats["posts"]
            for n in range(first_op, last_op + 1):
                with place.caller(f"fail={n}-{n + OUTAGE}") as context, opened(lock, owner, context) as obj:
                    lost += asyncio.run(scene(obj))
            assert lost
        place.cluster.unlink("left")
        place.cluster.unlink("left.lock")
