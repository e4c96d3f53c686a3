# Included by _core.pyx after sync.pxi: Once.

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
        except errors.DsmemError as failed:
            if not errors.is_noted((kind, error), failed):
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
