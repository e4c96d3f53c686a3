# Included by _core.pyx: handles of the objects of synchronisation.

cdef dict TYPES = {c.dsm_type_name(number).decode(): number for number in range(1, 64)
                   if c.dsm_type_name(number) != b"unknown"}
cdef object FOREVER = -1

ctypedef int (*attempt)(void *arg, int64_t timeout_ns) noexcept nogil


def sync_bytes(str kind, uint32_t members=0, uint32_t count=0):
    cdef uint64_t nbytes = c.dsm_sync_bytes(TYPES[kind], members, count)
    if not nbytes:
        raise refused(c.DSM_EINVAL, f"a {kind} of {members} members and count {count}")
    return nbytes


def sync_format(view, str kind, uint32_t members=0, uint32_t count=0, uint64_t lock=0):
    cdef Py_buffer buffer
    cdef int rc
    cdef uint64_t nbytes = sync_bytes(kind, members, count)
    take(view, &buffer, True)
    if <uint64_t> buffer.len < nbytes:
        PyBuffer_Release(&buffer)
        raise refused(c.DSM_EINVAL, f"{buffer.len} bytes, a {kind} takes {nbytes}")
    rc = c.dsm_sync_format(buffer.buf, TYPES[kind], members, count, lock)
    PyBuffer_Release(&buffer)
    if rc:
        raise failure(rc, "format")


cdef int64_t patience(object blocking, object timeout) except? -2:
    """The arguments of threading.Lock.acquire, in nanoseconds; -1: no limit."""
    if not blocking:
        if timeout is not None and timeout != -1:
            raise refused(c.DSM_EINVAL, "a call that does not block takes no timeout")
        return 0
    if timeout is None or timeout == -1:
        return -1
    return nanoseconds(timeout)


cdef class SyncHandle:
    """See the stub."""
    cdef Remote remote
    cdef bint near, is_open
    cdef int busy  # calls under way without the GIL

    cdef int check(self) except -1:
        if not self.is_open:
            raise refused(c.DSM_ECLOSED, type(self).__name__)
        return 0

    cdef began(self, Remote remote):
        self.remote = remote
        self.near = remote.near
        self.is_open = True
        remote.exports += 1

    cdef object failed(self, int rc, str op):
        return self.remote.failed(rc, op)

    cdef int wait(self, attempt f, void *arg, int64_t ns, str op) except -1:
        """Calls f in slices until it has what it waits for (1), time is over (0), or it fails."""
        cdef int64_t deadline = 0, slice
        cdef int rc
        if ns > 0:
            deadline = time.monotonic_ns() + min(ns, <int64_t> 1 << 62)
        self.busy += 1
        try:
            while True:
                slice = SLICE_NS
                if ns >= 0:
                    slice = 0 if ns == 0 else min(SLICE_NS, max(0, deadline - <int64_t> time.monotonic_ns()))
                with nogil:
                    rc = f(arg, slice)
                if rc < 0:
                    raise self.failed(rc, op)
                if rc or (ns >= 0 and slice < SLICE_NS):
                    return rc
                PyErr_CheckSignals()
        finally:
            self.busy -= 1

    def _refuse_busy(self):
        if self.busy:
            raise refused(c.DSM_EBUSY, f"{self.busy} calls are under way in other threads", "close")

    @property
    def closed(self):
        return not self.is_open

    cdef leave(self):
        """Frees the core's handle; each class has its own."""

    def close(self):
        if self.is_open:
            self._refuse_busy()
            self.is_open = False
            self.leave()
            self.remote.exports -= 1

    def __del__(self):
        if self.is_open:
            self.is_open = False
            self.leave()
            self.remote.exports -= 1


cdef int lock_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    return c.dsm_lock_acquire(<c.dsm_lock *> arg, timeout_ns)


cdef class Lock(SyncHandle):
    """See the stub."""
    cdef c.dsm_lock *ptr

    def __init__(self, Remote remote not None, spin=None):
        cdef int64_t spin_ns = nanoseconds(spin, "spin")
        cdef c.dsm_lock *ptr = NULL
        cdef int rc
        remote.check()
        remote.busy += 1
        with nogil:
            rc = c.dsm_lock_open(remote.ptr, spin_ns, &ptr)
        remote.busy -= 1
        if rc:
            raise remote.failed(rc, "attach")
        self.ptr = ptr
        self.began(remote)

    def acquire(self, blocking=True, timeout=FOREVER):
        cdef int64_t ns = -1
        cdef int rc
        if not self.is_open:
            self.check()
        if blocking is not True or timeout is not FOREVER:
            ns = patience(blocking, timeout)
        if self.near:
            rc = c.dsm_lock_acquire(self.ptr, 0)
            if rc == 1:
                return True
            if rc < 0:
                raise self.failed(rc, "acquire")
            if ns == 0:
                return False
        return self.wait(lock_attempt, self.ptr, ns, "acquire") == 1

    cdef int give_back(self) except -1:
        cdef int rc
        if not self.is_open:
            self.check()
        if self.near:
            rc = c.dsm_lock_release(self.ptr)
        else:
            self.busy += 1
            with nogil:
                rc = c.dsm_lock_release(self.ptr)
            self.busy -= 1
        if rc:
            raise self.failed(rc, "release")
        return 0

    def release(self):
        self.give_back()

    def locked(self):
        cdef int rc
        self.check()
        self.busy += 1
        with nogil:
            rc = c.dsm_lock_locked(self.ptr)
        self.busy -= 1
        if rc < 0:
            raise self.failed(rc, "read")
        return rc == 1

    @property
    def token(self):
        cdef uint64_t token
        self.check()
        token = c.dsm_lock_token(self.ptr)
        return token if token else None

    @property
    def recovered(self):
        self.check()
        return c.dsm_lock_recovered(self.ptr) == 1

    def __enter__(self):
        self.acquire()
        return True

    def __exit__(self, *error):
        self.give_back()

    def _refuse_busy(self):
        SyncHandle._refuse_busy(self)
        if c.dsm_lock_held(self.ptr):
            raise refused(c.DSM_EBUSY, "the lock is held with this handle", "close")

    cdef leave(self):
        cdef c.dsm_lock *ptr = self.ptr
        self.ptr = NULL
        with nogil:
            c.dsm_lock_close(ptr)
