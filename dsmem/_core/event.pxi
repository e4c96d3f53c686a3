# Included by _core.pyx after sync.pxi: Event.

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
        """On mapped memory it does not wait, and keeps the GIL: a compare-swap and, if a process sleeps, its wake."""
        cdef int rc
        self.enter()
        if self.mapped:
            rc = c.dsm_event_set(self.ptr) if on else c.dsm_event_clear(self.ptr)
        else:
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
