# Included by _core.pyx after sync.pxi: condition, barrier, once, event.

ctypedef struct event_wait:
    c.dsm_event *event
    uint64_t since


cdef int event_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    cdef event_wait *w = <event_wait *> arg
    return c.dsm_event_wait(w.event, &w.since, timeout_ns)


cdef class Event(SyncHandle):
    """See the stub."""
    cdef c.dsm_event *ptr

    def __init__(self, Remote remote not None, spin=None):
        cdef int64_t spin_ns = nanoseconds(spin, "spin")
        cdef int rc
        remote.check()
        remote.busy += 1
        with nogil:
            rc = c.dsm_event_open(remote.ptr, spin_ns, &self.ptr)
        remote.busy -= 1
        if rc:
            raise remote.failed(rc, "attach")
        self.began(remote)

    cdef int change(self, bint on) except -1:
        cdef int rc
        self.check()
        self.busy += 1
        with nogil:
            rc = c.dsm_event_set(self.ptr) if on else c.dsm_event_clear(self.ptr)
        self.busy -= 1
        if rc:
            raise self.failed(rc, "set" if on else "clear")
        return 0

    def set(self):
        self.change(True)

    def clear(self):
        self.change(False)

    def is_set(self):
        cdef int rc
        self.check()
        if self.near:
            rc = c.dsm_event_is_set(self.ptr)
        else:
            self.busy += 1
            with nogil:
                rc = c.dsm_event_is_set(self.ptr)
            self.busy -= 1
        if rc < 0:
            raise self.failed(rc, "read")
        return rc == 1

    def wait(self, timeout=None):
        cdef event_wait w
        self.check()
        w.event, w.since = self.ptr, c.DSM_EVENT_NOW
        return self.attempts(event_attempt, &w, nanoseconds(timeout), "wait") == 1

    cdef leave(self):
        c.dsm_event_close(self.ptr)
        self.ptr = NULL


# ---- condition ----

cdef int condition_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    return c.dsm_condition_wait(<c.dsm_waiter *> arg, timeout_ns)


cdef class Condition(Lock):
    """See the stub."""
    cdef c.dsm_condition *condition
    cdef Lock other  # the lock that it goes with, where that is not its own

    def __init__(self, Remote remote not None, Lock lock=None, spin=None):
        cdef int64_t spin_ns = nanoseconds(spin, "spin")
        cdef c.dsm_lock *ptr = NULL
        cdef int rc
        remote.check()
        if lock is not None:
            lock.check()
            lock.users += 1
            ptr = lock.ptr
        remote.busy += 1
        with nogil:
            rc = c.dsm_condition_open(remote.ptr, ptr, spin_ns, &self.condition)
        remote.busy -= 1
        if rc:
            if lock is not None:
                lock.users -= 1
            raise remote.failed(rc, "attach")
        self.other = lock
        self.ptr = c.dsm_condition_lock(self.condition)
        self.began(remote)
        self.near = lock.near if lock is not None else remote.near

    cdef int take_again(self) except -1:
        """The lock, also when a signal's handler wants to raise: it may do so when the lock is held again."""
        cdef int rc = 0
        self.busy += 1
        while not rc:
            with nogil:
                rc = c.dsm_lock_acquire(self.ptr, SLICE_NS)
        self.busy -= 1
        if rc < 0:
            raise self.failed(rc, "acquire")
        return 0

    cdef int wait_once(self, int64_t ns) except -1:
        """1: notified, 0: not, 2: another one inherited before; the lock is held again in any case."""
        cdef c.dsm_waiter waiter
        cdef int rc, woken = 0
        self.check()
        self.busy += 1
        with nogil:
            rc = c.dsm_condition_begin(self.condition, &waiter)
        self.busy -= 1
        if rc:
            raise self.failed(rc, "wait")
        try:
            woken = self.attempts(condition_attempt, &waiter, ns, "wait")
        except BaseException:
            self.take_again()
            if self.finish(&waiter, 0):  # what it was given is for another waiter
                self.notify()
            raise
        self.take_again()
        rc = self.finish(&waiter, woken == c.DSM_CONDITION_INHERIT)
        return 2 if not rc and woken == c.DSM_CONDITION_INHERIT else rc

    cdef int finish(self, c.dsm_waiter *waiter, int inherit) except -1:
        cdef int rc
        self.busy += 1
        with nogil:
            rc = c.dsm_condition_finish(waiter, inherit)
        self.busy -= 1
        if rc < 0:
            raise self.failed(rc, "wait")
        return rc

    def wait(self, timeout=None):
        cdef int64_t ns = nanoseconds(timeout)
        cdef int64_t deadline = <int64_t> time.monotonic_ns() + min(ns, <int64_t> 1 << 62) if ns >= 0 else -1
        cdef int rc = 2
        while rc == 2:
            rc = self.wait_once(ns)
            if ns >= 0:
                ns = max(0, deadline - <int64_t> time.monotonic_ns())
        return rc == 1

    def wait_for(self, predicate, timeout=None):
        cdef int64_t ns = nanoseconds(timeout)
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
        cdef uint64_t count
        cdef int rc
        if n < 0:
            raise refused(c.DSM_EINVAL, f"n={n}")
        count = n
        self.check()
        self.busy += 1
        with nogil:
            rc = c.dsm_condition_notify(self.condition, count)
        self.busy -= 1
        if rc:
            raise self.failed(rc, "notify")

    def notify_all(self):
        self.notify(1 << 32)

    def _refuse_busy(self):
        if self.other is None:
            Lock._refuse_busy(self)
        else:
            SyncHandle._refuse_busy(self)

    cdef leave(self):
        cdef c.dsm_condition *condition = self.condition
        self.condition, self.ptr = NULL, NULL
        with nogil:
            c.dsm_condition_close(condition)
        if self.other is not None:
            self.other.users -= 1


# ---- barrier ----

ctypedef struct arrival:
    c.dsm_barrier *barrier
    int finish
    uint64_t generation
    uint32_t index


cdef int arrive_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    cdef arrival *a = <arrival *> arg
    return c.dsm_barrier_arrive(a.barrier, a.finish, timeout_ns, &a.generation, &a.index)


cdef int finish_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    cdef arrival *a = <arrival *> arg
    return c.dsm_barrier_finish(a.barrier, a.generation, timeout_ns)


cdef int meet_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    cdef arrival *a = <arrival *> arg
    return c.dsm_barrier_wait(a.barrier, a.generation, timeout_ns)


cdef int break_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    cdef arrival *a = <arrival *> arg
    return c.dsm_barrier_break(a.barrier, a.generation, timeout_ns)


cdef int reset_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    return c.dsm_barrier_reset(<c.dsm_barrier *> arg, timeout_ns)


cdef class Barrier(SyncHandle):
    """See the stub."""
    cdef c.dsm_barrier *ptr
    cdef object action, timeout

    def __init__(self, Remote remote not None, action=None, timeout=None, spin=None):
        cdef int64_t spin_ns = nanoseconds(spin, "spin")
        cdef int rc
        nanoseconds(timeout)
        remote.check()
        remote.busy += 1
        with nogil:
            rc = c.dsm_barrier_open(remote.ptr, spin_ns, &self.ptr)
        remote.busy -= 1
        if rc:
            raise remote.failed(rc, "attach")
        self.action, self.timeout = action, timeout
        self.began(remote)

    def wait(self, timeout=None):
        cdef arrival a
        cdef int rc
        cdef int64_t ns = nanoseconds(self.timeout if timeout is None else timeout)
        cdef int64_t deadline = <int64_t> time.monotonic_ns() + min(ns, <int64_t> 1 << 62) if ns >= 0 else -1
        self.check()
        a.barrier, a.finish, a.generation, a.index = self.ptr, self.action is None, c.DSM_BARRIER_ANY, 0
        rc = self.attempts(arrive_attempt, &a, ns, "wait")
        if rc == 0:
            self.break_off(&a)
            raise refused(c.DSM_EBROKEN, "no place in time", "wait")
        try:
            if rc == 2 and self.action is not None:
                self.action()
                rc = self.attempts(finish_attempt, &a, -1, "wait")
            elif rc == 1:
                if deadline >= 0:
                    ns = max(0, deadline - <int64_t> time.monotonic_ns())
                rc = self.attempts(meet_attempt, &a, ns, "wait")
        except BaseException:
            self.break_off(&a)
            raise
        if rc == 0:
            self.break_off(&a)
            raise refused(c.DSM_EBROKEN, "not all parties came in time", "wait")
        return a.index

    cdef int break_off(self, arrival *a) except -1:
        self.attempts(break_attempt, a, -1, "abort")
        return 0

    def abort(self):
        cdef arrival a
        self.check()
        a.barrier, a.generation = self.ptr, c.DSM_BARRIER_ANY
        self.break_off(&a)

    def reset(self):
        self.check()
        self.attempts(reset_attempt, self.ptr, -1, "reset")

    cdef int look(self, int *broken) except -1:
        cdef int rc
        self.check()
        self.busy += 1
        with nogil:
            rc = c.dsm_barrier_waiting(self.ptr, broken)
        self.busy -= 1
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

    cdef leave(self):
        cdef c.dsm_barrier *ptr = self.ptr
        self.ptr = NULL
        with nogil:
            c.dsm_barrier_close(ptr)


# ---- once ----

cdef int once_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    return c.dsm_once_begin(<c.dsm_once *> arg, timeout_ns)


cdef class Once(SyncHandle):
    """See the stub."""
    cdef c.dsm_once *ptr
    cdef object runner  # the thread that runs it

    def __init__(self, Remote remote not None, spin=None):
        cdef int64_t spin_ns = nanoseconds(spin, "spin")
        cdef int rc
        remote.check()
        remote.busy += 1
        with nogil:
            rc = c.dsm_once_open(remote.ptr, spin_ns, &self.ptr)
        remote.busy -= 1
        if rc:
            raise remote.failed(rc, "attach")
        self.began(remote)

    def begin(self, timeout=None):
        cdef int rc
        self.check()
        rc = self.attempts(once_attempt, self.ptr, nanoseconds(timeout), "begin")
        if rc == 0:
            raise refused(c.DSM_ETIME, "another one still runs it; call again", "begin")
        if rc == c.DSM_ONCE_RUN:
            self.runner = get_ident()
        return rc == c.DSM_ONCE_RUN

    def end(self, done=True):
        cdef int rc, is_done = bool(done)
        self.check()
        self.runner = None
        self.busy += 1
        with nogil:
            rc = c.dsm_once_end(self.ptr, is_done)
        self.busy -= 1
        if rc:
            raise self.failed(rc, "end")

    def call(self, function, /, *args, **named):
        with self as first:
            return function(*args, **named) if first else None

    @property
    def done(self):
        cdef int rc
        self.check()
        self.busy += 1
        with nogil:
            rc = c.dsm_once_done(self.ptr)
        self.busy -= 1
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
        if self.runner == get_ident():
            self.end(kind is None)

    def _refuse_busy(self):
        SyncHandle._refuse_busy(self)
        if c.dsm_lock_held(c.dsm_once_lock(self.ptr)):
            raise refused(c.DSM_EBUSY, "it is being run; end that first", "close")

    cdef leave(self):
        cdef c.dsm_once *ptr = self.ptr
        self.ptr = NULL
        with nogil:
            c.dsm_once_close(ptr)
