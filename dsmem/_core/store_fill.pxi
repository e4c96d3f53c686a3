# Included by _core.pyx: StoreFill, which makes a copy of a store again (csrc/dsm/store.h).
#
# It enters both remotes in each call, so those that are closed are refused, and it holds nothing at their owners. One
# call at a time: what it knows of the pages is in memory of this process.

@cython.auto_pickle(False)
cdef class StoreFill:
    cdef c.dsm_store_filler *ptr
    cdef Remote source, target
    cdef uint32_t epoch
    cdef bint busy

    def __cinit__(self, *args, **named):
        self.epoch = forks[0]

    def __dealloc__(self):
        if self.ptr != NULL:
            c.dsm_store_fill_drop(self.ptr)

    def __init__(self, Remote source not None, Remote target not None):
        cdef c.dsm_store_filler *made = NULL
        cdef int rc
        if self.target is not None:
            raise error_of(c.DSM_EINVAL, "it has been made before")
        enter_both(source, target)
        with nogil:
            rc = c.dsm_store_fill_new(source.ptr, target.ptr, &made)
        leave_both(source, target)
        if rc:
            raise error_from_core(rc, "copy")
        self.ptr, self.source, self.target = made, source, target

    @cython.final
    cdef int begin(self, Remote source) except -1:
        if self.epoch != forks[0]:
            raise error_of(c.DSM_EFORK, "it was made before the fork; make another one in the child")
        if self.ptr == NULL:
            raise error_of(c.DSM_ECLOSED, "StoreFill")
        if self.busy:
            raise error_of(c.DSM_EBUSY, "another call with it is under way, of another thread or below this one")
        enter_both(source, self.target)
        self.busy = True
        return 0

    @cython.final
    cdef dict end(self, Remote source, int rc, const c.dsm_store_filled *found):
        self.busy = False
        leave_both(source, self.target)
        if rc:
            raise error_from_core(rc, "copy")
        return {
            "copied": found.copied,
            "left": found.left,
            "damaged": found.damaged,
            "passed": found.passed,
            "done": found.done != 0,
        }

    def round(self, most_bytes):
        cdef c.dsm_store_filled found
        cdef int rc
        number = checked_int(most_bytes, 1, (1 << 64) - 1)
        if number is None:
            raise error_of(c.DSM_EINVAL, f"most_bytes={most_bytes!r:.80}: how many to copy, 1 or more")
        cdef uint64_t most = number
        cdef Remote source = self.source
        self.begin(source)
        with nogil:
            rc = c.dsm_store_fill_round(self.ptr, most, &found)
        return self.end(source, rc, &found)

    def finish(self, Remote source not None):
        cdef c.dsm_store_filled found
        cdef int rc
        self.begin(source)
        with nogil:
            rc = c.dsm_store_fill_finish(self.ptr, source.ptr, &found)
        if not rc:
            self.source = source
        return self.end(source, rc, &found)

    def close(self):
        if self.busy:
            raise error_of(c.DSM_EBUSY, "a call with it is under way, of another thread or below this one", "close")
        if self.ptr != NULL:
            c.dsm_store_fill_drop(self.ptr)
            self.ptr = NULL


cdef int enter_both(Remote source, Remote target) except -1:
    source.enter()
    try:
        target.enter()
    except BaseException:
        source.leave()
        raise
    return 0


cdef int leave_both(Remote source, Remote target) noexcept:
    source.leave()
    target.leave()
    return 0
