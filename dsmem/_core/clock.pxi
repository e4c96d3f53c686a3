# Included by _core.pyx: ClockCore, the word of a logical clock.

@cython.auto_pickle(False)
cdef class ClockCore:
    cdef c.dsm_clock clock
    cdef uint64_t own
    cdef Remote remote

    def __cinit__(self, *args, **named):
        self.clock.own = &self.own

    def __init__(self, bint hybrid, Remote remote=None):
        cdef int rc = 0
        if self.remote is not None:
            raise error_of(c.DSM_EINVAL, "the clock has been opened before")
        if remote is not None:
            remote.enter()
            with nogil:
                rc = c.dsm_clock_open(remote.ptr, hybrid, &self.clock)
            remote.leave()
            self.remote = remote
        if rc:
            raise error_from_core(rc, "attach")

    cdef stamp(self, bint hybrid, uint64_t received, int64_t now_ms, uint64_t max_drift_ms):
        cdef uint64_t stamp = 0
        cdef int rc
        cdef Remote remote = self.remote
        if remote is not None:
            remote.enter()
            self.clock.remote = remote.ptr  # it has changed in a child of fork()
        if remote is None or remote.mapped:
            rc = (c.dsm_clock_hybrid(&self.clock, received, now_ms, max_drift_ms, &stamp) if hybrid else
                  c.dsm_clock_lamport(&self.clock, received, &stamp))
        else:
            with nogil:
                if hybrid:
                    rc = c.dsm_clock_hybrid(&self.clock, received, now_ms, max_drift_ms, &stamp)
                else:
                    rc = c.dsm_clock_lamport(&self.clock, received, &stamp)
        if remote is not None:
            remote.leave()
        if rc:
            raise error_from_core(rc, "stamp")
        return stamp

    def lamport(self, received=0):
        return self.stamp(False, stamp_of(received), -1, 0)

    def hybrid(self, received, int64_t now_ms, uint64_t max_drift_ms):
        return self.stamp(True, stamp_of(received), now_ms, max_drift_ms)

    def now(self):
        cdef uint64_t stamp = 0
        cdef int rc
        cdef Remote remote = self.remote
        if remote is not None:
            remote.enter()
            self.clock.remote = remote.ptr
        if remote is None or remote.mapped:
            rc = c.dsm_clock_now(&self.clock, &stamp)
        else:
            with nogil:
                rc = c.dsm_clock_now(&self.clock, &stamp)
        if remote is not None:
            remote.leave()
        if rc:
            raise error_from_core(rc, "now")
        return stamp


cdef uint64_t stamp_of(object stamp) except? 0xdead:
    number = checked_int(stamp, 0, (1 << 64) - 1)
    if number is None:
        raise refused(stamp, int, f"stamp={stamp!r}: an int from 0 to 2**64 - 1, as a clock returned it")
    return number


def clock_bytes():
    return c.dsm_clock_bytes()


def clock_format(memory):
    cdef Py_buffer view
    cdef int rc
    get_buffer(memory, &view, True)
    if <uint64_t> view.len < c.dsm_clock_bytes():
        PyBuffer_Release(&view)
        raise error_of(c.DSM_EINVAL, f"{view.len} bytes for a clock")
    rc = c.dsm_clock_format(view.buf)
    PyBuffer_Release(&view)
    if rc:
        raise error_from_core(rc, "create")
