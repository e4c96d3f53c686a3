# Included by _core.pyx after sync.pxi: Condition.

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
            raise refused(n, int, f"n={n!r}: a number of waiters")
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
