# Included by _core.pyx after sync.pxi: Event, Condition, Barrier and Once.

ctypedef struct event_wait:
    c.dsm_event *event
    uint64_t since


cdef int event_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    cdef event_wait *w = <event_wait *> arg
    return c.dsm_event_wait(w.event, &w.since, timeout_ns)


cdef class Event(SyncHandle):
    cdef c.dsm_event *ptr

    def __init__(self, Remote remote not None, spin=None):
        self.begin_on(remote, spin)

    cdef int open_core(self, c.dsm_remote *remote) noexcept nogil:
        return c.dsm_event_open(remote, self.spin_ns, &self.ptr)

    cdef int change(self, bint on) except -1:
        cdef int rc
        self.enter()
        with nogil:
            rc = c.dsm_event_set(self.ptr) if on else c.dsm_event_clear(self.ptr)
        self.leave()
        if rc:
            raise self.failed(rc, "set" if on else "clear")
        return 0

    def set(self):
        self.change(True)

    def clear(self):
        self.change(False)

    def is_set(self):
        cdef int rc
        self.enter()
        if self.mapped:
            rc = c.dsm_event_is_set(self.ptr)
        else:
            with nogil:
                rc = c.dsm_event_is_set(self.ptr)
        self.leave()
        if rc < 0:
            raise self.failed(rc, "read")
        return rc == 1

    def wait(self, timeout=None):
        cdef event_wait w
        self.enter()
        try:
            w.event, w.since = self.ptr, c.DSM_EVENT_NOW
            return self.attempts(event_attempt, &w, elapsed_or(timeout), "wait") == 1
        finally:
            self.leave()

    def set_async(self):
        return _event_change(self, True)

    def clear_async(self):
        return _event_change(self, False)

    def wait_async(self, timeout=None):
        return _event_wait_for(self, timeout)

    cdef int free(self) except -1:
        cdef c.dsm_event *ptr = self.ptr
        self.ptr = NULL
        with nogil:
            c.dsm_event_close(ptr)
        return 0


# ---- condition ----

cdef enum:
    AFTER_NS = 2000000000  # how long wait() tries to acquire the lock again before it raises an exception


cdef int condition_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    return c.dsm_condition_wait(<c.dsm_waiter *> arg, timeout_ns)


cdef class Condition(Lock):
    cdef c.dsm_condition *condition

    def __init__(self, Remote remote not None, Lock lock=None, spin=None):
        if self.remote is None:  # otherwise begin_on() raises
            if lock is not None:
                lock.check()
                lock.users += 1
            self.other = lock
        try:
            self.begin_on(remote, spin)
        except BaseException:
            if self.remote is None:
                self.let_go()
            raise
        self.reentrant = lock is None or lock.reentrant
        self.mapped = lock.mapped if lock is not None else remote.mapped

    cdef int open_core(self, c.dsm_remote *remote) noexcept nogil:
        cdef int rc = c.dsm_condition_open(remote, NULL if self.other is None else self.other.ptr, self.spin_ns,
                                           &self.condition)
        if not rc:
            self.ptr = c.dsm_condition_lock(self.condition)
        return rc

    cdef int renew(self) except -1:
        if self.other is not None:
            self.other.check()
        return Lock.renew(self)

    cdef void let_go(self):
        cdef Lock other = self.other
        self.other = None
        if other is not None:
            other.users -= 1

    cdef int take_again(self, c.dsm_waiter *waiter, int64_t ns) except -1:
        """1: the lock is held again, 0: not within ns (-1: no limit).

        If it is not, the line is abandoned: the handle frees it when it has the lock again.
        """
        cdef int rc = 0
        try:
            rc = self.attempts(lock_attempt, self.ptr, ns, "acquire")
        finally:
            if not rc:
                c.dsm_condition_abandon(waiter)
        return rc

    cdef int wait_once(self, int64_t ns) except -1:
        """1: notified, 0: not, 2: another waiter inherited the notification first.

        The lock is held again, unless it could not be acquired.
        """
        cdef Lock lock = self.counted()
        cdef unsigned int depth = lock.depth
        cdef bint had = c.dsm_lock_held(self.ptr), by_task = lock.by_task, mine = False
        cdef int rc
        self.refuse_others()
        lock.depth = 0
        try:
            rc = self.wait_released(ns, &mine)
        finally:
            if mine:
                lock.owner, lock.depth, lock.by_task = PyThread_get_thread_ident(), depth, by_task
            elif had and not self.reentrant:
                self.lose()
        return rc

    cdef int wait_released(self, int64_t ns, bint *mine) except -1:
        """*mine: this thread holds the lock. The handle may also hold it on behalf of another thread."""
        cdef c.dsm_waiter waiter
        cdef int rc, woken = 0
        with nogil:
            rc = c.dsm_condition_begin(self.condition, &waiter)
        if rc:
            mine[0] = rc != -c.DSM_ENOTHELD and c.dsm_lock_held(self.ptr)
            raise self.failed(rc, "wait")
        try:
            woken = self.attempts(condition_attempt, &waiter, ns, "wait")
        except BaseException:
            try:
                mine[0] = self.take_again(&waiter, AFTER_NS)
                if mine[0] and self.finish(&waiter, 0):  # pass its notification on to another waiter
                    self.wake(1)
            except errors.DsmemError:
                pass
            raise
        mine[0] = self.take_again(&waiter, -1)
        rc = self.finish(&waiter, woken == c.DSM_CONDITION_INHERIT)
        return 2 if not rc and woken == c.DSM_CONDITION_INHERIT else rc

    cdef int finish(self, c.dsm_waiter *waiter, int inherit) except -1:
        cdef int rc
        with nogil:
            rc = c.dsm_condition_finish(waiter, inherit)
        if rc < 0:
            raise self.failed(rc, "wait")
        return rc

    def wait_async(self, timeout=None):
        return _condition_wait(self, timeout)

    def wait_for_async(self, predicate, timeout=None):
        return _condition_wait_for(self, predicate, timeout)

    def notify_async(self, n=1):
        return _condition_notify(self, n)

    def notify_all_async(self):
        return _condition_notify(self, 1 << 32)

    def wait(self, timeout=None):
        self.enter()
        try:
            return self.wait_long(elapsed_or(timeout))
        finally:
            self.leave()

    cdef bint wait_long(self, int64_t ns) except -1:
        cdef int64_t deadline = <int64_t> time.monotonic_ns() + min(ns, <int64_t> 1 << 62) if ns >= 0 else -1
        cdef int rc = 2
        while rc == 2:
            rc = self.wait_once(ns)
            if ns >= 0:
                ns = max(0, deadline - <int64_t> time.monotonic_ns())
        return rc == 1

    def wait_for(self, predicate, timeout=None):
        self.enter()
        try:
            check_function(predicate, "predicate")
            return self.wait_until(predicate, elapsed_or(timeout))
        finally:
            self.leave()

    cdef object wait_until(self, object predicate, int64_t ns):
        cdef int64_t deadline = <int64_t> time.monotonic_ns() + min(ns, <int64_t> 1 << 62) if ns >= 0 else -1
        result = predicate()
        while not result:
            if deadline >= 0:
                ns = deadline - <int64_t> time.monotonic_ns()
                if ns <= 0:
                    break
            self.wait_once(ns)
            result = predicate()
        return result

    def notify(self, n=1):
        self.enter()
        try:
            self.wake(self.waiters(n))
        finally:
            self.leave()

    cdef uint64_t waiters(self, object n) except? 0xdead:
        """Return how many waiters to notify. NotHeldError if the caller may not notify."""
        number = checked_int(n, float("-inf"))
        if number is None:
            raise error_of(c.DSM_EINVAL, f"n={n!r}: a number of waiters")
        self.refuse_others()
        return max(0, min(number, 1 << 32))

    cdef int wake(self, uint64_t count) except -1:
        cdef int rc
        with nogil:
            rc = c.dsm_condition_notify(self.condition, count)
        if rc:
            raise self.failed(rc, "notify")
        return 0

    def notify_all(self):
        self.notify(1 << 32)

    cdef int refuse_in_use(self) except -1:
        return Lock.refuse_in_use(self) if self.other is None else Handle.refuse_in_use(self)

    cdef int depart(self):
        cdef int rc
        with nogil:
            rc = c.dsm_condition_leave(self.condition)
        return rc

    cdef int free(self) except -1:
        cdef c.dsm_condition *condition = self.condition
        self.condition, self.ptr = NULL, NULL
        with nogil:
            c.dsm_condition_close(condition)
        return 0


# ---- barrier ----

ctypedef struct arrival:
    c.dsm_barrier *barrier
    int finish
    uint64_t generation
    uint32_t index


cdef int arrive_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    cdef arrival *a = <arrival *> arg
    return c.dsm_barrier_arrive(a.barrier, a.finish, timeout_ns, &a.generation, &a.index)


cdef int meet_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    cdef arrival *a = <arrival *> arg
    return c.dsm_barrier_wait(a.barrier, a.generation, timeout_ns)


cdef void break_quietly(arrival *a) noexcept:
    """Break the barrier while an exception is being raised. If it fails, the next call or close() does it.

    It uses the core's handle that has arrived: a child that is forked in the action has another, and is not a party.
    """
    with nogil:
        c.dsm_barrier_break(a.barrier, a.generation)


cdef int parties_naming(void *arg, uint64_t *identities) noexcept nogil:
    return c.dsm_barrier_waiters(<c.dsm_barrier *> arg, identities)


cdef int parties_breaking(void *arg, uint64_t holder) noexcept nogil:
    return c.dsm_barrier_evict(<c.dsm_barrier *> arg, holder)


cdef class Barrier(SyncHandle):
    cdef c.dsm_barrier *ptr
    cdef object action, timeout

    def __init__(self, Remote remote not None, action=None, timeout=None, spin=None):
        nanoseconds(timeout)
        self.begin_on(remote, spin)
        self.action, self.timeout = action, timeout

    cdef int open_core(self, c.dsm_remote *remote) noexcept nogil:
        return c.dsm_barrier_open(remote, self.spin_ns, &self.ptr)

    def wait(self, timeout=None):
        self.enter()
        try:
            return self.meet(nanoseconds(self.timeout if timeout is None else timeout))
        finally:
            self.leave()

    def wait_async(self, timeout=None):
        return _barrier_wait(self, timeout)

    cdef object meet(self, int64_t ns):
        cdef arrival a
        cdef int rc
        cdef int64_t deadline = <int64_t> time.monotonic_ns() + min(ns, <int64_t> 1 << 62) if ns >= 0 else -1
        a.barrier, a.finish = self.ptr, self.action is None
        a.generation, a.index = c.DSM_BARRIER_ANY, c.DSM_BARRIER_NOBODY
        try:
            rc = self.attempts(arrive_attempt, &a, ns, "wait")
        except BaseException:
            if a.index != c.DSM_BARRIER_NOBODY:  # the others may count this party
                break_quietly(&a)
            raise
        if rc == 0:
            self.break_off(a.barrier, a.generation)
            raise error_of(c.DSM_EBROKEN, "no place in time", "wait")
        try:
            if rc == 2 and self.action is not None:
                self.action()
                with nogil:
                    rc = c.dsm_barrier_finish(a.barrier, a.generation)
                if rc < 0:
                    raise self.failed(rc, "wait")
            elif rc == 1:
                if deadline >= 0:
                    ns = max(0, deadline - <int64_t> time.monotonic_ns())
                rc = self.attempts(meet_attempt, &a, ns, "wait")
        except BaseException:
            break_quietly(&a)
            raise
        if rc == 0 and not self.break_off(a.barrier, a.generation):  # the generation ended at the last moment
            rc = self.attempts(meet_attempt, &a, 0, "wait")
        if rc == 0:
            raise error_of(c.DSM_EBROKEN, "not all parties came in time", "wait")
        return a.index

    cdef int break_off(self, c.dsm_barrier *barrier, uint64_t generation) except -1:
        """1: the generation is broken, 0: it had already ended."""
        cdef int rc
        with nogil:
            rc = c.dsm_barrier_break(barrier, generation)
        if rc < 0:
            raise self.failed(rc, "abort")
        return rc

    def abort(self):
        self.enter()
        try:
            self.break_off(self.ptr, c.DSM_BARRIER_ANY)
        finally:
            self.leave()

    def reset(self):
        cdef int rc
        self.enter()
        try:
            with nogil:
                rc = c.dsm_barrier_reset(self.ptr)
            if rc:
                raise self.failed(rc, "reset")
        finally:
            self.leave()

    def waiters(self):
        self.check()
        return self.names(parties_naming, self.ptr)

    def break_(self, holder):
        self.check()
        return self.take_from(parties_breaking, self.ptr, holder)

    cdef int look(self, int *broken) except -1:
        cdef int rc
        self.enter()
        with nogil:
            rc = c.dsm_barrier_waiting(self.ptr, broken)
        self.leave()
        if rc < 0:
            raise self.failed(rc, "read")
        return rc

    @property
    def parties(self):
        self.check()
        return c.dsm_barrier_parties(self.ptr)

    @property
    def n_waiting(self):
        cdef int broken
        return self.look(&broken)

    @property
    def broken(self):
        cdef int broken
        self.look(&broken)
        return broken == 1

    cdef int depart(self):
        cdef int rc
        with nogil:
            rc = c.dsm_barrier_leave(self.ptr)
        return rc

    cdef int free(self) except -1:
        cdef c.dsm_barrier *ptr = self.ptr
        self.ptr = NULL
        with nogil:
            c.dsm_barrier_close(ptr)
        return 0


# ---- once ----

cdef int once_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    return c.dsm_once_begin(<c.dsm_once *> arg, timeout_ns)


cdef class Once(SyncHandle):
    cdef c.dsm_once *ptr
    cdef object runner  # the thread that runs the task

    def __init__(self, Remote remote not None, spin=None):
        self.begin_on(remote, spin)

    cdef int open_core(self, c.dsm_remote *remote) noexcept nogil:
        return c.dsm_once_open(remote, self.spin_ns, &self.ptr)

    cdef void forget_state(self) noexcept:
        self.runner = None

    def begin(self, timeout=None):
        cdef int rc
        self.enter()
        try:
            if self.runner is not None and self.runner == get_ident():
                raise error_of(c.DSM_EBUSY, "this thread runs it already, and would wait for itself", "begin")
            rc = self.attempts(once_attempt, self.ptr, nanoseconds(timeout), "begin")
            if rc == 0:
                raise error_of(c.DSM_ETIME, "another one still runs it; call again", "begin")
            if rc == c.DSM_ONCE_RUN:
                self.runner = get_ident()
            return rc == c.DSM_ONCE_RUN
        finally:
            self.leave()

    def end(self, done=True):
        cdef int rc, is_done
        self.enter()
        try:
            is_done = truth(done, "done")
            self.runner = None
            with nogil:
                rc = c.dsm_once_end(self.ptr, is_done)
            if rc:
                raise self.failed(rc, "end")
        finally:
            self.leave()

    def holder(self):
        self.check()
        return self.holder_of(c.dsm_once_lock(self.ptr))

    def break_(self, holder):
        self.check()
        return self.take_from(lock_breaking, c.dsm_once_lock(self.ptr), holder)

    def call(self, function, /, *args, **named):
        check_function(function, "function")
        with self as first:
            return function(*args, **named) if first else None

    @property
    def done(self):
        cdef int rc
        self.enter()
        with nogil:
            rc = c.dsm_once_done(self.ptr)
        self.leave()
        if rc < 0:
            raise self.failed(rc, "read")
        return rc == 1

    @property
    def recovered(self):
        self.check()
        return c.dsm_lock_recovered(c.dsm_once_lock(self.ptr)) == 1

    def __enter__(self):
        return self.begin()

    def __exit__(self, kind, error, trace):
        if self.runner != get_ident():
            return
        try:
            self.end(kind is None)
        except errors.DsmemError:
            if kind is None:
                raise

    cdef int refuse_in_use(self) except -1:
        Handle.refuse_in_use(self)
        cdef c.dsm_lock *lock = c.dsm_once_lock(self.ptr)
        if c.dsm_lock_held(lock) and not c.dsm_lock_unsure(lock):
            raise error_of(c.DSM_EBUSY, "it is being run; end that first", "close")
        return 0

    cdef int depart(self):
        cdef int rc
        with nogil:
            rc = c.dsm_once_leave(self.ptr)
        return rc

    cdef int free(self) except -1:
        cdef c.dsm_once *ptr = self.ptr
        self.ptr = NULL
        with nogil:
            c.dsm_once_close(ptr)
        return 0
