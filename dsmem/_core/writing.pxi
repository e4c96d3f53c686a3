# Included by _core.pyx: Writing, the turn of a segment's writer.

@cython.auto_pickle(False)
cdef class Writing:
    """The turn belongs to this object from the instruction that takes it. A method of this class gives it back, or the
    end of the object does. So an exception of a signal handler cannot leave it taken, and no thread can end the turn of
    another thread. Neither can a child of fork(), whose copy of this object holds nothing.
    """
    cdef SegmentCore segment
    cdef Remote remote
    cdef object timeout, copy
    cdef bint held
    cdef uint64_t version  # version before the turn; it identifies the turn
    cdef uint32_t epoch  # the fork count of the process that has the turn

    def __cinit__(self, SegmentCore segment not None, timeout=None):
        self.segment, self.timeout = segment, timeout

    cdef int begin(self) except -1:
        self.segment.enter()
        try:
            return self.take_turn(self.segment, deadline_after(nanoseconds(self.timeout)))
        finally:
            self.segment.leave()

    cdef int take_turn(self, SegmentCore s, int64_t deadline) except -1:
        cdef int64_t left
        cdef uint64_t version = 0, rows = 0
        cdef Remote remote
        cdef int rc
        self.forget_parents()
        if self.held:
            raise error_of(c.DSM_EBUSY, "the segment is being written already", "write")
        if s.readonly:
            raise error_of(c.DSM_EACCESS, "the segment was attached with readonly=True; attach it without", "write")
        while True:
            remote = s.remote
            left = left_until(deadline)
            self.epoch = forks[0]
            remote.users += 1
            s.users += 1
            with nogil:
                rc = c.dsm_segment_begin(remote.ptr, &s.s, left if left < SLICE_NS else SLICE_NS, &version, &rows)
            if rc == 0:
                self.held, self.remote, self.version, s.s.rows = True, remote, version, rows
                return 0
            error = remote.failed(rc, "write")
            self.let_go(remote)
            s.go_on()
            if rc != -c.DSM_ETIME or left <= SLICE_NS:
                raise error

    cdef int let_go(self, Remote remote) except -1:
        if self.epoch != forks[0]:  # a signal handler forked during the wait; the child's segment has no users
            return 0
        self.segment.users -= 1
        return remote.drop_user()

    cdef bint forget_parents(self) noexcept:
        """If the turn belongs to the parent, forget it and return True."""
        if not self.held or self.epoch == forks[0]:
            return False
        self.held, self.remote = False, None
        return True

    cdef object commit(self, void *data):
        """Commit and return the new version. The turn ends, even if an exception is raised."""
        cdef uint64_t version = self.version
        cdef int rc
        cdef Remote remote = self.remote
        self.held, self.remote = False, None  # so that no other thread ends the turn again
        with nogil:
            rc = c.dsm_segment_commit(remote.ptr, &self.segment.s, data, &version)
        error = remote.failed(rc, "write") if rc else None
        if error is not None:
            self.undo(remote)
        self.let_go(remote)
        if error is not None:
            raise error
        return version

    cdef void undo(self, Remote remote) noexcept:
        """Restore the segment to the state before the turn, unless it is too late. Errors are ignored: an exception is
        already being raised, and the next writer undoes what a dead writer has left.
        """
        with nogil:
            c.dsm_segment_abort(remote.ptr, &self.segment.s, self.version)
            c.dsm_segment_rows(remote.ptr, &self.segment.s, &self.segment.s.rows)

    cdef int abort(self) except -1:
        """End the turn, if it has not ended, without a change."""
        cdef Remote remote = self.remote
        if self.forget_parents() or not self.held:
            return 0
        self.held, self.remote = False, None
        self.undo(remote)
        return self.let_go(remote)

    def __enter__(self):
        self.segment.enter()
        try:
            self.begin()
            try:
                self.copy = None if self.segment.mapped else self.read_all(self.segment)
                return self.segment.whole_array() if self.copy is None else self.copy
            except BaseException:
                self.abort()
                raise
        finally:
            self.segment.leave()

    cdef ndarray read_all(self, SegmentCore s):
        cdef ndarray copy = np.empty(s._shape(), s.dtype)
        s.move(True, s.s.data, PyArray_DATA(copy), PyArray_NBYTES(copy))
        return copy

    def __exit__(self, kind, *error):
        try:
            self.leave_block(kind)
        except errors.DsmemError as failed:
            if not errors.is_noted((kind, *error), failed):
                raise

    cdef int leave_block(self, object kind) except -1:
        cdef bint counts = self.segment.live
        if self.segment.ending:  # the turn ends with the handle (leave_as_dead)
            self.segment.refuse_at_end()
        if counts:
            self.segment.enter()
        try:
            self.end(kind)
        finally:
            if counts:
                self.segment.leave()
        return 0

    cdef int end(self, object kind) except -1:
        cdef ndarray copy = self.copy
        self.copy = None
        if kind is not None:
            self.abort()
        elif self.forget_parents():
            raise errors.NotHeldError("the process has forked: the parent writes the segment, and ends that")
        elif not self.held:
            raise errors.NotHeldError("the segment is not being written")
        elif copy is not None and <uint64_t> PyArray_NBYTES(copy) != self.segment.s.rows * self.segment.s.row_bytes:
            self.abort()
            raise errors.CorruptError("the segment was resized past its writer")
        else:
            self.commit(NULL if copy is None else PyArray_DATA(copy))

    def __del__(self):
        if self.held and self.remote.ptr != NULL:
            self.abort()


def publish(SegmentCore segment not None, data, timeout=None):
    cdef Writing turn = Writing(segment, timeout)
    cdef Py_buffer view
    segment.enter()
    try:
        get_buffer(data, &view, False)
        try:
            turn.begin()
            if <uint64_t> view.len == segment.s.rows * segment.s.row_bytes:
                return turn.commit(view.buf)
            turn.abort()
            return None
        finally:
            PyBuffer_Release(&view)
    finally:
        segment.leave()


def resize(SegmentCore segment not None, uint64_t rows, timeout=None):
    """Change the number of rows of a versioned segment. This creates a version."""
    segment.enter()
    try:
        set_rows(Writing(segment, timeout), segment, rows)
    finally:
        segment.leave()


cdef int set_rows(Writing turn, SegmentCore segment, uint64_t rows) except -1:
    cdef uint64_t n = rows * segment.s.row_bytes
    cdef ndarray whole = None
    cdef Remote remote
    cdef int rc
    if not segment.mapped:
        whole = np.empty(n if n else 1, "u1")
    turn.begin()
    remote = turn.remote
    with nogil:
        rc = c.dsm_segment_set_rows(remote.ptr, rows)
    if not rc:
        segment.s.rows = rows
        if whole is not None:
            rc = remote.move(True, segment.s.data, PyArray_DATA(whole), n, -1)
    if rc:
        error = remote.failed(rc, "resize")
        turn.abort()
        raise error
    turn.commit(NULL if whole is None else PyArray_DATA(whole))
    return 0
