# Included by _core.pyx after segment.pxi: waiting until an element has changed, and copies of one version.

cdef object wait_for_element(SegmentCore segment, object index, object until, int64_t ns, int64_t spin_ns):
    cdef int64_t deadline = deadline_after(ns)
    cdef uint64_t at = segment.element(index), n = segment.s.itemsize, wanted = 0
    if encoded(until, segment.width, &wanted):
        return wait_for_number(segment, at, wanted, spin_ns, deadline)
    cdef ndarray pair = np.empty(2, segment.dtype)  # the value that was compared last, and the current value
    cdef char *seen = <char *> PyArray_DATA(pair)
    cdef bint asks = callable(until)
    segment.move(True, at, seen, n)
    while True:
        value = pair[0] if segment.dtype.names is None else pair[0].copy()
        if truth(until(value) if asks else equals(value, until), "until"):
            return value
        wait_for_change(segment, at, seen, seen + n, n, spin_ns, deadline)
        memcpy(seen, seen + n, n)


cdef object wait_for_number(SegmentCore segment, uint64_t at, uint64_t wanted, int64_t spin_ns, int64_t deadline):
    """The same for an int: bytes are compared, and an object of NumPy is made of those that are returned only."""
    cdef uint64_t seen = 0, now = 0, n = segment.s.itemsize
    segment.move(True, at, &seen, n)
    while memcmp(&seen, &wanted, n):
        wait_for_change(segment, at, <char *> &seen, <char *> &now, n, spin_ns, deadline)
        seen = now
    memcpy(segment.cell_view.buf, &seen, n)
    return segment.cell[()]


cdef int wait_for_change(SegmentCore segment, uint64_t at, char *seen, char *now, uint64_t n, int64_t spin_ns,
                         int64_t deadline) except -1:
    cdef Remote remote
    cdef int rc
    cdef int64_t left
    while True:
        remote = segment.remote
        left = left_until(deadline)
        remote.enter()
        with nogil:
            rc = c.dsm_segment_wait(remote.ptr, at, seen, now, n, spin_ns, left if left < SLICE_NS else SLICE_NS)
        remote.leave()
        if rc == 0:
            return 0
        segment.go_on()
        if rc != -c.DSM_ETIME or left <= SLICE_NS:
            raise remote.failed(rc, "wait")
        spin_ns = 0


cdef object take_snapshot(SegmentCore segment, int64_t deadline):
    cdef int64_t left
    cdef uint64_t version = 0, rows = segment.s.rows
    cdef Py_buffer view
    cdef Remote remote
    cdef int rc = 1, tries = 0
    while True:
        out = np.empty((rows, *segment._shape()[1:]) if segment.s.axes else (), segment.dtype)
        get_buffer(out.reshape(-1).view("u1"), &view, True)
        left = left_until(deadline)
        remote = segment.remote
        remote.enter()
        with nogil:
            rc = c.dsm_segment_snapshot(remote.ptr, &segment.s, view.buf, &rows,
                                        left if left < SLICE_NS else SLICE_NS, &tries, &version)
        remote.leave()
        PyBuffer_Release(&view)
        if rc == 0:
            return version, out
        segment.go_on()
        if rc < 0 and (rc != -c.DSM_ETIME or left <= SLICE_NS):
            raise remote.failed(rc, "snapshot")
