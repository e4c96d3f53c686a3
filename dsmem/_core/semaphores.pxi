# Included by _core.pyx after sync.pxi: semaphores whose permits have owners, and counting semaphores without owners.

cdef int semaphore_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    return c.dsm_semaphore_acquire(<c.dsm_semaphore *> arg, timeout_ns)


cdef int permits_naming(void *arg, uint64_t *identities) noexcept nogil:
    return c.dsm_semaphore_holders(<c.dsm_semaphore *> arg, identities)


cdef int permits_breaking(void *arg, uint64_t holder) noexcept nogil:
    return c.dsm_semaphore_break(<c.dsm_semaphore *> arg, holder)


cdef class Semaphore(SyncHandle):
    cdef c.dsm_semaphore *ptr

    def __init__(self, Remote remote not None, spin=None):
        self.begin_on(remote, spin)

    cdef int open_core(self, c.dsm_remote *remote) noexcept nogil:
        return c.dsm_semaphore_open(remote, self.spin_ns, &self.ptr)

    def acquire(self, blocking=True, timeout=None):
        self.enter()
        try:
            return self.attempts(semaphore_attempt, self.ptr, permit_timeout(blocking, timeout), "acquire") == 1
        finally:
            self.leave()

    def release(self, n=1):
        cdef uint32_t number
        cdef int rc
        self.enter()
        try:
            number = permits(n)
            with nogil:
                rc = c.dsm_semaphore_release(self.ptr, number)
            if rc == -c.DSM_ENOTHELD:
                raise errors.PermitError(c.dsm_last_error().detail.decode("utf-8", "replace"), op="release")
            if rc:
                raise self.failed(rc, "release")
        finally:
            self.leave()

    @property
    def value(self):
        cdef int rc
        self.enter()
        with nogil:
            rc = c.dsm_semaphore_value(self.ptr)
        self.leave()
        if rc < 0:
            raise self.failed(rc, "read")
        return rc

    def holders(self):
        self.check()
        return self.names(permits_naming, self.ptr)

    def break_(self, holder):
        self.check()
        return self.take_from(permits_breaking, self.ptr, holder)

    @property
    def held(self):
        cdef int owner_died
        self.check()
        return c.dsm_semaphore_held(self.ptr, &owner_died)

    @property
    def recovered(self):
        cdef int owner_died
        self.check()
        c.dsm_semaphore_held(self.ptr, &owner_died)
        return owner_died == 1

    def acquire_async(self, timeout=None):
        return _semaphore_acquire(self, timeout)

    def release_async(self, n=1):
        return _permits_release(self, n)

    def __aenter__(self):
        return _semaphore_acquire(self, None)

    def __aexit__(self, *error):
        return _left_behind(_permits_release(self, 1), error)

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *error):
        try:
            self.release()
        except errors.DsmemError as failed:
            if not errors.is_noted(error, failed):
                raise

    cdef int refuse_in_use(self) except -1:
        cdef int owner_died
        Handle.refuse_in_use(self)
        if c.dsm_semaphore_held(self.ptr, &owner_died) and not c.dsm_semaphore_unsure(self.ptr):
            text = f"permits of the {self.called()} are held with this handle; release them first"
            raise error_of(c.DSM_EBUSY, text, "close")
        return 0

    cdef int depart(self):
        cdef int rc
        with nogil:
            rc = c.dsm_semaphore_leave(self.ptr)
        return rc

    cdef int free(self) except -1:
        cdef c.dsm_semaphore *ptr = self.ptr
        self.ptr = NULL
        with nogil:
            c.dsm_semaphore_close(ptr)
        return 0


cdef int counting_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    return c.dsm_counting_acquire(<c.dsm_counting *> arg, timeout_ns)


cdef class CountingSemaphore(SyncHandle):
    cdef c.dsm_counting *ptr

    def __init__(self, Remote remote not None, spin=None):
        self.begin_on(remote, spin)

    cdef int open_core(self, c.dsm_remote *remote) noexcept nogil:
        return c.dsm_counting_open(remote, self.spin_ns, &self.ptr)

    def acquire(self, blocking=True, timeout=None):
        self.enter()
        try:
            return self.attempts(counting_attempt, self.ptr, permit_timeout(blocking, timeout), "acquire") == 1
        finally:
            self.leave()

    def release(self, n=1):
        cdef uint32_t number
        cdef int rc
        self.enter()
        try:
            number = permits(n)
            with nogil:
                rc = c.dsm_counting_release(self.ptr, number)
            if rc:
                raise self.failed(rc, "release")
        finally:
            self.leave()

    @property
    def value(self):
        cdef int64_t n
        self.enter()
        with nogil:
            n = c.dsm_counting_value(self.ptr)
        self.leave()
        if n < 0:
            raise self.failed(<int> n, "read")
        return n

    def acquire_async(self, timeout=None):
        return _counting_acquire(self, timeout)

    def release_async(self, n=1):
        return _permits_release(self, n)

    def __aenter__(self):
        return _counting_acquire(self, None)

    def __aexit__(self, *error):
        return _left_behind(_permits_release(self, 1), error)

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *error):
        try:
            self.release()
        except errors.DsmemError as failed:
            if not errors.is_noted(error, failed):
                raise

    cdef int free(self) except -1:
        cdef c.dsm_counting *ptr = self.ptr
        self.ptr = NULL
        with nogil:
            c.dsm_counting_close(ptr)
        return 0
