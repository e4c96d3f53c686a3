# Included by _core.pyx after the objects: the asynchronous methods of those that can be waited for, on top of
# waits.pxi.
#
# The handle is in use while a coroutine runs, and not while it is suspended. It is suspended only while one of its Wait
# objects is on a list, or is being given back. So the code that closes the handle finds everything that has been begun
# on the lists, and a coroutine that is resumed with ClosedError does not access the core any more.

cdef Wait new_wait(object keep, str op, attempt f, void *arg, attempt undo, attempt cleanup):
    cdef Wait wait = Wait.__new__(Wait)
    wait.keep, wait.op, wait.f, wait.arg, wait.undo, wait.cleanup = keep, op, f, arg, undo, cleanup
    wait.thing = arg
    wait.until = NEVER
    return wait


cdef int done(int rc) noexcept nogil:
    """Return the result of an attempt that succeeds by completing: 1 in place of 0."""
    return rc if rc else 1


async def _got(Handle handle, Remote remote, int eventcount, Wait wait, object ns, bint behind=True, bint must=False):
    """Return what the attempt returns; 0: timed out. The first attempt is made here if it takes no round trip.

    behind: do not try before tasks that already wait.
    """
    cdef int rc
    if not handle.live:
        handle.refuse_closed()
    if remote.mapped and (ns == 0 or not behind or not is_awaited(handle, remote, eventcount)):
        rc = wait.f(wait.arg, 0)
        if rc < 0:
            raise remote.failed(rc, wait.op)
        if rc or ns == 0:
            return rc
    return await _until(handle, remote, eventcount, wait, ns, must)


async def _step(Handle handle, Remote remote, Wait wait):
    """Run an attempt that completes at the first try. A task that is cancelled meanwhile stays until it has ended."""
    rc = await _got(handle, remote, c.DSM_EVENTCOUNT_FIRST, wait, -1, False, True)
    if wait.cancelled:
        raise asyncio.CancelledError
    return rc


cdef object left_of(object ns, int64_t begun):
    """Return what is left of ns nanoseconds that began at 'begun'."""
    return ns if ns <= 0 else max(0, ns - (<int64_t> time.monotonic_ns() - begun))


async def _left_behind(object end, tuple error):
    """The end of an 'async with' block. An exception of the block takes precedence over an error of 'end'."""
    try:
        await end
    except errors.DsmemError as failed:
        if not errors.is_noted(error, failed):
            raise


# ---- lock ----

cdef int lock_undo(void *arg, int64_t timeout_ns) noexcept nogil:
    return done(c.dsm_lock_release_unused(<c.dsm_lock *> arg))


cdef int lock_end(void *arg, int64_t timeout_ns) noexcept nogil:
    return done(c.dsm_lock_release(<c.dsm_lock *> arg))


async def _lock_acquire(Lock lock, timeout):
    cdef Lock counted = lock.counted()
    lock.enter()
    try:
        ns = timeout_ns(True, timeout)
        wait = new_wait(lock, "acquire", lock_attempt, lock.ptr, lock_undo, NULL)
        if not await _got(lock, counted.remote, c.DSM_EVENTCOUNT_FIRST, wait, ns):
            return False
        lock.taken_by_task()
        return True
    finally:
        lock.leave()


async def _lock_release(Lock lock):
    cdef Lock counted = lock.counted()
    lock.enter()
    try:
        if lock.mapped:
            lock.give_back()
            return
        if lock.has_lost() and lock.lost_before():
            lock.refuse_lost()
        if lock.reentrant:
            lock.refuse_others()
            if counted.depth > 1:
                counted.depth -= 1
                return
            counted.depth = 0
        wait = new_wait(lock, "release", lock_end, lock.ptr, NULL, lock_end)
        try:
            await _step(lock, counted.remote, wait)
        except errors.NotHeldError:
            raise
        except errors.DsmemError:
            counted.depth = lock.reentrant  # the outcome is unknown: the caller may try again
            raise
    finally:
        lock.leave()


# ---- readers and writers ----

cdef int read_end(void *arg, int64_t timeout_ns) noexcept nogil:
    return done(c.dsm_rwlock_unread(<c.dsm_rwlock *> arg))


cdef int claim_undo(void *arg, int64_t timeout_ns) noexcept nogil:
    return done(c.dsm_rwlock_unclaim(<c.dsm_rwlock *> arg, True))


cdef int write_end(void *arg, int64_t timeout_ns) noexcept nogil:
    return done(c.dsm_rwlock_unclaim(<c.dsm_rwlock *> arg, False))


async def _rwlock_read(RWLock rw, timeout):
    rw.enter()
    try:
        ns = timeout_ns(True, timeout)
        wait = new_wait(rw, "acquire_read", read_attempt, rw.ptr, read_end, NULL)
        return await _got(rw, rw.remote, c.DSM_EVENTCOUNT_FIRST, wait, ns) != 0
    finally:
        rw.leave()


async def _rwlock_write(RWLock rw, timeout):
    cdef int64_t begun = time.monotonic_ns()
    rw.enter()
    try:
        ns = timeout_ns(True, timeout)
        wait = new_wait(rw, "acquire_write", claim_attempt, rw.ptr, claim_undo, NULL)
        if not await _got(rw, rw.remote, c.DSM_EVENTCOUNT_FIRST, wait, ns):
            return False
        wait = new_wait(rw, "acquire_write", drain_attempt, rw.ptr, NULL, claim_undo)
        rc = 0
        try:
            rc = await _got(rw, rw.remote, c.DSM_EVENTCOUNT_SECOND, wait, left_of(ns, begun), False)
        except (GeneratorExit, errors.ClosedError):
            raise
        except BaseException:
            await _step(rw, rw.remote, new_wait(rw, "release_write", claim_undo, rw.ptr, NULL, claim_undo))
            raise
        if not rc:
            await _step(rw, rw.remote, new_wait(rw, "release_write", claim_undo, rw.ptr, NULL, claim_undo))
        return rc != 0
    finally:
        rw.leave()


async def _rwlock_release(RWLock rw, bint writes):
    rw.enter()
    try:
        op = "release_write" if writes else "release_read"
        end = new_wait(rw, op, write_end if writes else read_end, rw.ptr, NULL, write_end if writes else read_end)
        await _step(rw, rw.remote, end)
    finally:
        rw.leave()


async def _side_enter(Side side):
    if not await (_rwlock_write if side.writes else _rwlock_read)(side.lock, side.timeout):
        raise error_of(c.DSM_ETIME, "the lock did not become free in time; it is held by another")
    return side.lock


# ---- semaphores ----

ctypedef struct permits_back:
    c.dsm_semaphore *owned
    c.dsm_counting *counting
    uint32_t n


cdef int semaphore_undo(void *arg, int64_t timeout_ns) noexcept nogil:
    return done(c.dsm_semaphore_release(<c.dsm_semaphore *> arg, 1))


cdef int counting_undo(void *arg, int64_t timeout_ns) noexcept nogil:
    """Tried once only, because the outcome of a release that failed may be unknown."""
    c.dsm_counting_release(<c.dsm_counting *> arg, 1)
    return 1


cdef int permits_end(void *arg, int64_t timeout_ns) noexcept nogil:
    cdef permits_back *p = <permits_back *> arg
    return done(c.dsm_semaphore_release(p.owned, p.n) if p.owned != NULL else c.dsm_counting_release(p.counting, p.n))


cdef int permits_cleanup(void *arg, int64_t timeout_ns) noexcept nogil:
    cdef int rc = permits_end(arg, timeout_ns)
    return 1 if (<permits_back *> arg).counting != NULL else rc


@cython.final
cdef class PermitsBack:
    """The arguments of a release."""
    cdef permits_back p


async def _semaphore_acquire(Semaphore semaphore, timeout):
    semaphore.enter()
    try:
        ns = permit_timeout(True, timeout)
        wait = new_wait(semaphore, "acquire", semaphore_attempt, semaphore.ptr, semaphore_undo, NULL)
        return await _got(semaphore, semaphore.remote, c.DSM_EVENTCOUNT_FIRST, wait, ns) != 0
    finally:
        semaphore.leave()


async def _counting_acquire(CountingSemaphore semaphore, timeout):
    semaphore.enter()
    try:
        ns = permit_timeout(True, timeout)
        wait = new_wait(semaphore, "acquire", counting_attempt, semaphore.ptr, counting_undo, NULL)
        return await _got(semaphore, semaphore.remote, c.DSM_EVENTCOUNT_FIRST, wait, ns) != 0
    finally:
        semaphore.leave()


async def _permits_release(SyncHandle semaphore, n):
    cdef PermitsBack back = PermitsBack()
    semaphore.enter()
    try:
        back.p.n = permits(n)
        if isinstance(semaphore, Semaphore):
            back.p.owned = (<Semaphore> semaphore).ptr
        else:
            back.p.counting = (<CountingSemaphore> semaphore).ptr
        try:
            end = new_wait(back, "release", permits_end, &back.p, NULL, permits_cleanup)
            await _step(semaphore, semaphore.remote, end)
        except errors.NotHeldError as error:
            raise errors.PermitError(error.detail, op="release") from None
    finally:
        semaphore.leave()


# ---- event ----

@cython.final
cdef class EventWait:
    cdef event_wait w


cdef int event_set(void *arg, int64_t timeout_ns) noexcept nogil:
    return done(c.dsm_event_set(<c.dsm_event *> arg))


cdef int event_clear(void *arg, int64_t timeout_ns) noexcept nogil:
    return done(c.dsm_event_clear(<c.dsm_event *> arg))


async def _event_wait_for(Event event, timeout):
    cdef EventWait own = EventWait()
    event.enter()
    try:
        ns = elapsed_or(timeout)
        own.w.event, own.w.since = event.ptr, c.DSM_EVENT_NOW
        wait = new_wait(own, "wait", event_attempt, &own.w, NULL, NULL)
        return await _got(event, event.remote, c.DSM_EVENTCOUNT_FIRST, wait, ns, False) != 0
    finally:
        event.leave()


async def _event_change(Event event, bint on):
    event.enter()
    try:
        wait = new_wait(event, "set", event_set, event.ptr, NULL, event_set)
        if not on:
            wait = new_wait(event, "clear", event_clear, event.ptr, NULL, event_clear)
        await _step(event, event.remote, wait)
    finally:
        event.leave()


# ---- condition ----
#
# One wait is several Wait objects, one after the other: begin, the notification, the lock again, finish.

ctypedef struct line_wait:
    c.dsm_condition *condition
    c.dsm_lock *lock
    c.dsm_waiter waiter
    int inherit
    uint64_t count


cdef int line_begin(void *arg, int64_t timeout_ns) noexcept nogil:
    cdef line_wait *line = <line_wait *> arg
    return done(c.dsm_condition_begin(line.condition, &line.waiter))


cdef int line_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    return c.dsm_condition_wait(&(<line_wait *> arg).waiter, timeout_ns)


cdef int line_cleanup(void *arg, int64_t timeout_ns) noexcept nogil:
    """Abandon the waiter's line. A notification that it has received goes to another waiter."""
    cdef line_wait *line = <line_wait *> arg
    c.dsm_condition_abandon(&line.waiter)
    return c.dsm_condition_settle(line.condition)


cdef int line_lock(void *arg, int64_t timeout_ns) noexcept nogil:
    return c.dsm_lock_acquire((<line_wait *> arg).lock, timeout_ns)


cdef int line_finish(void *arg, int64_t timeout_ns) noexcept nogil:
    """1: not notified, 2: notified."""
    cdef line_wait *line = <line_wait *> arg
    cdef int rc = c.dsm_condition_finish(&line.waiter, line.inherit)
    return rc if rc < 0 else rc + 1


cdef int line_abandon(void *arg, int64_t timeout_ns) noexcept nogil:
    c.dsm_condition_abandon(&(<line_wait *> arg).waiter)
    return 1


cdef int line_unlock(void *arg, int64_t timeout_ns) noexcept nogil:
    cdef line_wait *line = <line_wait *> arg
    if c.dsm_condition_finish(&line.waiter, 0) == 1:
        c.dsm_condition_notify(line.condition, 1)
    return done(c.dsm_lock_release_unused(line.lock))


cdef int line_notify(void *arg, int64_t timeout_ns) noexcept nogil:
    cdef line_wait *line = <line_wait *> arg
    return done(c.dsm_condition_notify(line.condition, line.count))


@cython.final
cdef class Line:
    """An entry among the condition's waiters."""
    cdef line_wait w

    cdef Wait next(self, str op, attempt f, attempt undo, attempt cleanup):
        return new_wait(self, op, f, &self.w, undo, cleanup)


cdef Line new_line(Condition condition):
    cdef Line line = Line.__new__(Line)
    line.w.condition, line.w.lock = condition.condition, condition.ptr
    return line


async def _condition_wait(Condition condition, timeout):
    cdef int64_t begun = time.monotonic_ns()
    condition.enter()
    try:
        ns = elapsed_or(timeout)
        rc = 2
        while rc == 2:
            rc = await _condition_wait_once(condition, left_of(ns, begun))
        return rc == 1
    finally:
        condition.leave()


async def _condition_wait_for(Condition condition, predicate, timeout):
    cdef int64_t begun = time.monotonic_ns()
    condition.enter()
    try:
        ns = elapsed_or(timeout)
        check_function(predicate, "predicate")
        result = predicate()
        while not result:
            left = left_of(ns, begun)
            if left == 0:
                break
            await _condition_wait_once(condition, left)
            result = predicate()
        return result
    finally:
        condition.leave()


async def _condition_wait_once(Condition condition, ns):
    """1: notified, 0: not, 2: another waiter inherited the notification first; the lock is held unless it was lost."""
    cdef Lock lock = condition.counted()
    cdef unsigned int depth
    cdef bint by_task, mine = False, had = c.dsm_lock_held(condition.ptr)
    condition.refuse_others()
    depth, by_task = lock.depth, lock.by_task
    lock.depth = 0
    line = new_line(condition)
    error = None
    try:
        wait = line.next("wait", line_begin, line_cleanup, NULL)
        try:
            await _got(condition, condition.remote, c.DSM_EVENTCOUNT_FIRST, wait, -1, False, True)
        except (errors.ClosedError, errors.NotHeldError):
            raise
        except errors.DsmemError:
            mine = c.dsm_lock_held(condition.ptr)
            raise
        try:
            if wait.cancelled:
                raise asyncio.CancelledError
            rc = await _got(condition, condition.remote, c.DSM_EVENTCOUNT_SECOND,
                            line.next("wait", line_attempt, NULL, line_cleanup), ns, False)
            line.w.inherit = rc == c.DSM_CONDITION_INHERIT
        except (GeneratorExit, errors.ClosedError):
            raise
        except BaseException as raised:
            error = raised
        wait = line.next("acquire", line_lock, line_unlock, line_cleanup)
        try:
            await _got(condition, lock.remote, c.DSM_EVENTCOUNT_FIRST, wait, -1, True, True)
        except errors.ClosedError:
            raise
        except errors.DsmemError as failed:
            c.dsm_condition_abandon(&line.w.waiter)
            raise failed if error is None else error
        mine = True
        last = line.next("wait", line_finish, NULL, line_abandon)
        rc = await _got(condition, condition.remote, c.DSM_EVENTCOUNT_FIRST, last, -1, False, True)
        if error is None and (wait.cancelled or last.cancelled):
            error = asyncio.CancelledError()
        if error is not None:
            if rc == 2:  # pass its notification on to another waiter
                line.w.count = 1
                await _step(condition, condition.remote, line.next("notify", line_notify, NULL, NULL))
            raise error
    finally:
        if mine:
            lock.owner, lock.depth, lock.by_task = PyThread_get_thread_ident(), depth, by_task
        elif had and asyncio._get_running_loop() is not None:  # otherwise no task continues
            condition.lose()
    return 1 if rc == 2 else 2 if line.w.inherit else 0


async def _condition_notify(Condition condition, n):
    cdef Line line = new_line(condition)
    condition.enter()
    try:
        line.w.count = condition.waiters(n)
        await _step(condition, condition.remote, line.next("notify", line_notify, NULL, line_notify))
    finally:
        condition.leave()


# ---- barrier ----

cdef int arrival_begin(void *arg, int64_t timeout_ns) noexcept nogil:
    """3: all parties have arrived in this generation, which has not ended yet."""
    cdef arrival *a = <arrival *> arg
    cdef int rc
    a.generation, a.index = c.DSM_BARRIER_ANY, c.DSM_BARRIER_NONE
    rc = c.dsm_barrier_arrive(a.barrier, a.finish, 0, &a.generation, &a.index)
    return 3 if rc == 0 and a.generation != c.DSM_BARRIER_ANY else rc


cdef int arrival_break(void *arg, int64_t timeout_ns) noexcept nogil:
    """1: the generation is broken, 2: it had already ended."""
    cdef arrival *a = <arrival *> arg
    cdef int rc = c.dsm_barrier_break(a.barrier, a.generation)
    return 2 if rc == 0 else rc


cdef int arrival_undo(void *arg, int64_t timeout_ns) noexcept nogil:
    return 1 if (<arrival *> arg).index == c.DSM_BARRIER_NONE else arrival_break(arg, timeout_ns)


cdef int arrival_finish(void *arg, int64_t timeout_ns) noexcept nogil:
    cdef arrival *a = <arrival *> arg
    return done(c.dsm_barrier_finish(a.barrier, a.generation))


@cython.final
cdef class Arrival:
    cdef arrival a

    cdef Wait next(self, attempt f, attempt undo, attempt cleanup):
        return new_wait(self, "wait", f, &self.a, undo, cleanup)


async def _barrier_wait(Barrier barrier, timeout):
    cdef int64_t begun = time.monotonic_ns()
    cdef Arrival own = Arrival()
    barrier.enter()
    try:
        ns = nanoseconds(barrier.timeout if timeout is None else timeout)
        own.a.barrier, own.a.finish = barrier.ptr, barrier.action is None
        own.a.generation, own.a.index = c.DSM_BARRIER_ANY, c.DSM_BARRIER_NONE
        try:
            rc = await _barrier_come(barrier, own, ns, begun)
            if rc == 0:
                await _step(barrier, barrier.remote, own.next(arrival_break, NULL, arrival_break))
                raise error_of(c.DSM_EBROKEN, "no place in time", "wait")
            if rc == 2 and barrier.action is not None:
                barrier.action()
                await _step(barrier, barrier.remote, own.next(arrival_finish, NULL, arrival_break))
            elif rc == 1:
                attempt = own.next(meet_attempt, NULL, arrival_break)
                rc = await _got(barrier, barrier.remote, c.DSM_EVENTCOUNT_SECOND, attempt,
                                left_of(ns, begun), False)
        except (GeneratorExit, errors.ClosedError):
            raise
        except BaseException:
            if own.a.index != c.DSM_BARRIER_NONE:
                with contextlib.suppress(errors.DsmemError):  # if it fails, the next call or close() does it
                    await _step(barrier, barrier.remote, own.next(arrival_break, NULL, arrival_break))
            raise
        if rc == 0:
            if await _step(barrier, barrier.remote, own.next(arrival_break, NULL, arrival_break)) == 2:
                rc = await _got(barrier, barrier.remote, c.DSM_EVENTCOUNT_SECOND, own.next(meet_attempt, NULL, NULL), 0)
        if rc == 0:
            raise error_of(c.DSM_EBROKEN, "not all parties came in time", "wait")
        return own.a.index
    finally:
        barrier.leave()


async def _barrier_come(Barrier barrier, Arrival own, ns, int64_t begun):
    """1: wait for the others, 2: arrived last, 0: timed out waiting for a free slot in the barrier."""
    rc = 0
    while True:
        rc = await _got(barrier, barrier.remote, c.DSM_EVENTCOUNT_FIRST, own.next(arrival_begin, arrival_undo, NULL),
                        left_of(ns, begun), False)
        if rc != 3:
            return rc
        rc = 1
        with contextlib.suppress(errors.BrokenBarrierError):
            rc = await _got(barrier, barrier.remote, c.DSM_EVENTCOUNT_SECOND, own.next(meet_attempt, NULL, NULL),
                            left_of(ns, begun), False)
        if rc == 0:
            return 0


# ---- segment ----

ctypedef struct element_wait:
    c.dsm_remote *remote
    uint64_t at
    uint64_t n
    char *seen
    char *now


cdef int element_read(void *arg, int64_t timeout_ns) noexcept nogil:
    cdef element_wait *e = <element_wait *> arg
    return done(c.dsm_read(e.remote, e.at, e.now, e.n, -1))


cdef int element_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    cdef element_wait *e = <element_wait *> arg
    cdef int rc = c.dsm_segment_wait(e.remote, e.at, e.seen, e.now, e.n, 0, 0)
    return 1 if rc == 0 else 0 if rc == -c.DSM_ETIME else rc


@cython.final
cdef class Element:
    """The value of an element that was compared last, and its current value."""
    cdef element_wait w
    cdef ndarray pair

    cdef Remote reach(self, SegmentCore segment):
        """The current memory. A segment that has been remapped closes its previous memory when nothing uses that."""
        segment.check()
        self.w.remote = segment.remote.ptr
        return segment.remote


async def _segment_wait(SegmentCore segment, index, until, timeout):
    cdef int64_t begun = time.monotonic_ns()
    cdef Element own = Element()
    cdef Remote remote
    segment.enter()
    try:
        ns = nanoseconds(timeout)
        own.w.at, own.w.n = segment.element(index), segment.s.itemsize
        own.pair = np.empty(2, segment.dtype)
        own.w.seen = <char *> PyArray_DATA(own.pair)
        own.w.now = own.w.seen + own.w.n
        remote = own.reach(segment)
        wait = new_wait(own, "wait", element_read, &own.w, NULL, NULL)
        await _got(segment, remote, c.DSM_EVENTCOUNT_SEGMENT, wait, -1, False)
        while True:
            memcpy(own.w.seen, own.w.now, own.w.n)
            value = own.pair[0] if segment.dtype.names is None else own.pair[0].copy()
            if truth(until(value) if callable(until) else equals(value, until), "until"):
                return value
            remote = own.reach(segment)
            wait = new_wait(own, "wait", element_attempt, &own.w, NULL, NULL)
            if not await _got(segment, remote, c.DSM_EVENTCOUNT_SEGMENT, wait, left_of(ns, begun), False):
                raise error_of(c.DSM_ETIME, "the element is not what is waited for; the deadline passed", "wait")
    finally:
        segment.leave()
