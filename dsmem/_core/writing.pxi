# Included by _core.pyx: Writing, the turn of a segment's writer.

@cython.auto_pickle(False)
cdef class Writing:
    """See the stub.

    The turn belongs to this object from the instruction in which it is taken: it is given back by whoever ends it in a
    call of this class, or with the object. So no exception of a signal handler leaves it taken, and nobody ends the
    turn of another thread.
    """
    cdef SegmentCore segment
    cdef Remote remote
    cdef object timeout, copy
    cdef bint held

    def __cinit__(self, SegmentCore segment not None, timeout=None):
        self.segment, self.timeout = segment, timeout

    cdef int begin(self) except -1:
        cdef SegmentCore s = self.segment
        cdef int64_t deadline = deadline_after(nanoseconds(self.timeout)), left
        cdef uint64_t version = 0, rows = 0
        cdef Remote remote
        cdef int rc
        if self.held:
            raise refused(c.DSM_EBUSY, "the segment is being written already", "write")
        while True:
            s.check()
            if s.readonly:
                raise refused(c.DSM_EACCESS, "the segment was attached with readonly=True; attach it without", "write")
            remote = s.remote
            left = left_until(deadline)
            remote.exports += 1
            with nogil:
                rc = c.dsm_segment_begin(remote.ptr, &s.s, left if left < SLICE_NS else SLICE_NS, &version, &rows)
            if rc == 0:
                self.held, self.remote, s.s.rows = True, remote, rows
                return 0
            error = remote.failed(rc, "write")
            remote.exports -= 1
            PyErr_CheckSignals()
            if rc != -c.DSM_ETIME or left <= SLICE_NS:
                raise error

    cdef object commit(self, void *data):
        """The version that it is now. Whatever comes out, the turn is over."""
        cdef uint64_t version = 0
        cdef int rc
        with nogil:
            rc = c.dsm_segment_commit(self.remote.ptr, &self.segment.s, data, &version)
        error = self.remote.failed(rc, "write") if rc else None
        self.end(rc != 0)
        if error is not None:
            raise error
        return version

    cdef int end(self, bint undo) except -1:
        """The turn is over; with undo the segment is as it was before, unless that is too late. What fails is ignored:
        there is an exception already, and whoever comes next undoes what a dead writer has left.
        """
        cdef Remote remote = self.remote
        if not self.held:
            return 0
        self.held = False
        if undo:
            with nogil:
                c.dsm_segment_abort(remote.ptr, &self.segment.s)
            c.dsm_segment_rows(remote.ptr, &self.segment.s, &self.segment.s.rows)
        self.copy = self.remote = None
        remote.exports -= 1
        if remote.parting and not remote.exports and not remote.busy:
            remote.close()
        return 0

    def __enter__(self):
        cdef SegmentCore s = self.segment
        self.begin()
        try:
            if s.near:
                return s.array
            self.copy = np.empty(s._shape(), s.dtype)
            s.move(True, s.s.data, PyArray_DATA(<ndarray> self.copy), s.s.rows * s.s.row_bytes)
            return self.copy
        except BaseException:
            self.end(True)
            raise

    def __exit__(self, kind, *error):
        if kind is not None:
            self.end(True)
        elif not self.held:
            raise errors.NotHeldError("the segment is not being written")
        else:
            self.commit(NULL if self.copy is None else PyArray_DATA(<ndarray> self.copy))

    def __del__(self):
        if self.held and self.remote.ptr != NULL:
            self.end(True)


def publish(SegmentCore segment not None, data, timeout=None):
    cdef Writing turn = Writing(segment, timeout)
    cdef Py_buffer view
    take(data, &view, False)
    try:
        turn.begin()
        if <uint64_t> view.len != segment.s.rows * segment.s.row_bytes:
            turn.end(True)
            return None
        return turn.commit(view.buf)
    finally:
        PyBuffer_Release(&view)


def resize(SegmentCore segment not None, uint64_t rows, timeout=None):
    """Rows of a versioned segment, as a version of its own."""
    cdef Writing turn = Writing(segment, timeout)
    cdef ndarray whole = None
    cdef int rc
    if not segment.near:
        whole = np.empty(max(rows * segment.s.row_bytes, 1), "u1")
    turn.begin()
    with nogil:
        rc = c.dsm_segment_set_rows(turn.remote.ptr, rows)
    if not rc:
        segment.s.rows = rows
        if whole is not None:
            with nogil:
                rc = c.dsm_read(turn.remote.ptr, segment.s.data, PyArray_DATA(whole), rows * segment.s.row_bytes, -1)
    if rc:
        error = turn.remote.failed(rc, "resize")
        turn.end(True)
        raise error
    turn.commit(NULL if whole is None else PyArray_DATA(whole))
