# Included by _core.pyx after sync.pxi: Barrier.

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
        a.generation, a.index = c.DSM_BARRIER_ANY, c.DSM_BARRIER_NONE
        try:
            rc = self.attempts(arrive_attempt, &a, ns, "wait")
        except BaseException:
            if a.index != c.DSM_BARRIER_NONE:  # the others may count this party
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
