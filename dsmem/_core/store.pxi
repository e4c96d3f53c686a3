# Included by _core.pyx: Store, a client of a store of pages (csrc/dsm/store.h).
#
# Reads run beside each other and beside everything else. The other calls take turns: the core's client is one thread's
# at a time. Those that may wait release the GIL; a short write on mapped memory keeps it, and then needs no turn.

cdef object LOGGER = logging.getLogger("dsmem")


cdef inline uint64_t page_of(object pid) except? 0xdead:
    if PyLong_CheckExact(pid):
        try:
            return <uint64_t> pid
        except OverflowError:
            pass
    return any_page(pid)


cdef uint64_t any_page(object pid) except? 0xdead:
    number = checked_int(pid, 0, (1 << 64) - 1)
    if number is None:
        raise refused(pid, int, f"pid={pid!r:.80} is no page id; pass what allocate() returned")
    return number


cdef uint64_t version_of(object version) except? 0xdead:
    number = checked_int(version, 0, (1 << 64) - 1)
    if number is None:
        raise refused(version, int, f"version={version!r:.80}: what version() or write() returned")
    return number


cdef ndarray pages_of(object ids):
    """A list may have ids from 2**63 on beside smaller ones, of which NumPy alone would make floats."""
    cdef ndarray pids
    if isinstance(ids, ndarray):
        pids = as_words(ids, "ids")
    else:
        pids = np.fromiter([page_of(pid) for pid in items_of(ids, "ids")], UINT64)
    if PyArray_NDIM(pids) != 1:
        raise error_of(c.DSM_EINVAL, f"ids has {PyArray_NDIM(pids)} axes; pass a list of page ids, or an array of one")
    return pids


cdef int check_pages(Py_ssize_t nbytes, uint64_t wanted, str name, str what) except -1:
    if <uint64_t> nbytes != wanted:
        raise error_of(c.DSM_EINVAL, f"{name} has {nbytes} bytes, and {what} has {wanted}; pass exactly that many")
    return 0


cdef uint8_t *codes_of(object status, Py_buffer *view, size_t n) except? NULL:
    """Memory for a code of each page, of a buffer that the caller releases; NULL if none is wanted."""
    if status is None:
        return NULL
    get_buffer(status, view, True)
    if <size_t> view.len != n or (isinstance(status, ndarray) and status.itemsize != 1):
        text = f"status={type(status).__name__} of {view.len} bytes: pass an array of {n} uint8, one for each id"
        raise error_of(c.DSM_EINVAL, text)
    return <uint8_t *> view.buf


cdef object in_doubt(object error, int rc, const c.dsm_store_doubt *of, size_t n):
    """Give an exception what the next epoch is asked for, if the outcome is unknown."""
    if rc == -c.DSM_EUNKNOWN and isinstance(error, errors.OutcomeUnknownError):
        error._doubts = doubts_as_bytes(of, n)
    return error


cdef bytes doubts_as_bytes(const c.dsm_store_doubt *of, size_t n):
    return PyBytes_FromStringAndSize(<const char *> of, <Py_ssize_t> (n * sizeof(c.dsm_store_doubt)))


cdef class Store(Handle):
    cdef c.dsm_store *ptr
    cdef Remote remote   # of copy 0
    cdef tuple remotes   # of all copies of all extents
    cdef bint beside     # reads run beside each other
    cdef c.dsm_store_shape shape
    cdef list spare  # pages of allocations that have failed, which could not be given back
    cdef int64_t spare_at  # when that is tried again
    cdef dict transactions  # a weak reference to that of each thread which is in one
    cdef PyThread_type_lock turn
    cdef unsigned long turn_of  # the thread that holds it, or 0
    cdef object helper          # that works for tasks (store_tasks.pxi), or None
    cdef uint64_t repaired      # pages, by this handle
    cdef uint32_t demanded      # copies, without which it changes nothing
    cdef uint64_t retried       # of clients of the core that it had before
    cdef StoreCalls counted

    def __cinit__(self, *args, **named):
        self.transactions = {}
        self.spare = []
        self.turn = PyThread_allocate_lock()
        if self.turn == NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.turn != NULL:
            PyThread_free_lock(self.turn)

    def __init__(self, tuple remotes not None):
        if self.remote is not None:
            raise error_of(c.DSM_EINVAL, "the store has been opened before")
        self.ptr = self.opened(remotes)
        self.shape = c.dsm_store_shape_of(self.ptr)
        for remote in remotes:
            (<Remote> remote).users += 1
        self.remotes, self.remote = remotes, remotes[0]
        self.beside = self.remote.mapped and len(remotes) == 1
        self.counted.skip = SAMPLE_EACH - 1 if self.remote.mapped else 0
        self.live = True

    @cython.final
    cdef c.dsm_store *opened(self, tuple remotes) except NULL:
        cdef c.dsm_remote *at[MOST_PLACES]
        cdef c.dsm_store *made = NULL
        cdef uint32_t failed = 0, n = enter_copies(remotes, at)
        cdef int rc
        with nogil:
            rc = c.dsm_store_open(at, n, &made, &failed)
        leave_copies(remotes)
        if rc:
            raise (<Remote> remotes[failed]).failed(rc, "attach")
        c.dsm_store_demand(made, self.demanded)
        return made

    @cython.final
    cdef int drop_users(self) except -1:
        for remote in self.remotes:
            (<Remote> remote).drop_user()
        return 0

    cdef int renew(self) except -1:
        """The parent keeps its place and its frames; the child's client has others."""
        cdef c.dsm_store *own = NULL
        cdef PyThread_type_lock turn
        self.remote.refuse_forked(self)
        self.remote.catch_up()
        turn = PyThread_allocate_lock()  # a thread that the child does not have may hold the old one
        if turn == NULL:
            raise MemoryError()
        try:
            own = self.opened(self.remotes)
        except BaseException:
            PyThread_free_lock(turn)
            raise
        self.ptr, self.turn, self.turn_of, self.spare = own, turn, 0, []
        skip = self.counted.skip
        memset(&self.counted, 0, sizeof(self.counted))
        self.counted.skip, self.retried, self.repaired = skip, 0, 0
        return 0

    def _reopen(self, tuple remotes not None):
        cdef c.dsm_store *own
        cdef c.dsm_store *before
        cdef c.dsm_store_shape there
        self.check()
        if self.uses and c.dsm_in_handler():  # the call that it has interrupted goes on only after it
            raise self.failed(c.dsm_refuse_reentry(b"store"), "open")
        if self.uses:
            return False
        own = self.opened(remotes)
        there = c.dsm_store_shape_of(own)
        is_other = there.id != self.shape.id or shape_as_dict(&there) != self._shape
        if is_other or self.uses or not self.live or self.outdated():
            with nogil:
                c.dsm_store_leave(own)
                c.dsm_store_drop(own)
            if is_other:
                raise error_of(c.DSM_ECORRUPT, "the copies that are to be opened are of another store", "open")
            self.check()
            return False
        for remote in remotes:
            (<Remote> remote).users += 1
        before, self.ptr = self.ptr, own
        self.retried += c.dsm_store_retries(before)
        old, self.remotes, self.remote = self.remotes, remotes, remotes[0]
        with nogil:
            c.dsm_store_drop(before)
        for remote in old:
            (<Remote> remote).drop_user()
        return True

    @property
    def _remotes(self):
        return self.remotes

    cdef str noun(self):
        return "store"

    cdef object failed(self, int rc, str op):
        cdef Remote at = self.remotes[c.dsm_store_failed(self.ptr)] if self.ptr != NULL else self.remote
        call_failed(&self.counted, rc)
        return at.failed(rc, op)

    # -- turns --

    @cython.final
    cdef PyThread_type_lock begin(self, int64_t deadline=NEVER) except NULL:
        """Take the turn. The caller has entered the handle, and gives back the lock that this returns."""
        cdef PyThread_type_lock turn = self.turn
        cdef PyLockStatus got = PyThread_acquire_lock_timed(turn, 0, 0)
        while got != PY_LOCK_ACQUIRED:
            if self.turn_of == PyThread_get_thread_ident():
                raise self.failed(c.dsm_refuse_reentry(b"store"), None)
            self.go_on()
            if left_until(deadline) == 0:
                raise error_of(c.DSM_ETIME, "calls of other threads with this handle of the store did not end in time")
            self.check()  # in a child of fork() no thread exists that could give it back
            turn = self.turn
            with nogil:
                got = PyThread_acquire_lock_timed(turn, SLICE_NS // 1000, 1)
        self.turn_of = PyThread_get_thread_ident()
        return turn

    @cython.final
    cdef void end(self, PyThread_type_lock turn) noexcept:
        """In a child that a signal handler has forked during the call, the handle may have another lock by now."""
        if turn == self.turn:
            self.turn_of = 0
        PyThread_release_lock(turn)

    @cython.final
    cdef PyThread_type_lock begin_read(self, int64_t deadline=NEVER) except? NULL:
        """As begin(), where the memory is not mapped: what the client knows of the pages is one thread's at a time."""
        return NULL if self.beside else self.begin(deadline)

    @cython.final
    cdef void end_read(self, PyThread_type_lock turn) noexcept:
        if turn != NULL:
            self.end(turn)

    # -- one page --

    @property
    def page_size(self):
        return self.shape.page_bytes

    def _demand(self, uint32_t copies):
        replicas = self._shape["replicas"]
        if copies > replicas:
            text = f"min_copies={copies}, but the store has replicas={replicas}: it could never be changed"
            raise error_of(c.DSM_EINVAL, text, "open")
        self.demanded = copies
        c.dsm_store_demand(self.ptr, copies)

    def _has_demanded(self):
        self.check()
        return bool(c.dsm_store_has_demanded(self.ptr))

    def _wait_for_others(self, double seconds):
        c.dsm_store_wait(self.ptr, <int64_t> (seconds * 1e9))

    @property
    def _shape(self):
        return shape_as_dict(&self.shape)

    @cython.final
    cdef int get(self, uint64_t pid, void *out) except -1:
        cdef int64_t began = call_begins(&self.counted, CALL_READ)
        cdef int rc = 1
        if self.shape.page_bytes <= NOGIL_FROM:
            rc = c.dsm_store_read_now(self.ptr, pid, out, NULL)
        if rc:
            rc = self.get_now(pid, out)
            if self.repairs(rc, &pid, 1, "read"):
                rc = self.get_now(pid, out)
        if rc:
            raise self.failed(rc, "read")
        call_ends(&self.counted, CALL_READ, 1, began)
        return 0

    @cython.final
    cdef int get_now(self, uint64_t pid, void *out) except 1:
        cdef PyThread_type_lock turn = self.begin_read()
        cdef int rc
        with nogil:
            rc = c.dsm_store_read(self.ptr, pid, out, NULL)
        self.end_read(turn)
        return rc

    def read(self, pid, out=None):
        cdef Py_buffer view
        cdef uint64_t number
        self.enter()
        try:
            number = page_of(pid)
            if out is None:
                page = PyBytes_FromStringAndSize(NULL, self.shape.page_bytes)
                self.get(number, PyBytes_AS_STRING(page))
                return page
            get_buffer(out, &view, True)
            try:
                check_pages(view.len, self.shape.page_bytes, "out", "a page")
                self.get(number, view.buf)
            finally:
                PyBuffer_Release(&view)
            return out
        finally:
            self.leave()

    @cython.final
    cdef uint64_t put(self, uint64_t pid, object data, bint compares, uint64_t expected) except? 0xdead:
        cdef Py_buffer view
        get_buffer(data, &view, False)
        try:
            check_pages(view.len, self.shape.page_bytes, "data", "a page")
            return self.put_view(pid, &view, compares, expected)
        finally:
            PyBuffer_Release(&view)

    @cython.final
    cdef uint64_t put_view(self, uint64_t pid, Py_buffer *view, bint compares, uint64_t expected) except? 0xdead:
        cdef int call = CALL_COMPARE_WRITE if compares else CALL_WRITE
        cdef int64_t began = call_begins(&self.counted, call)
        cdef uint64_t version = 0
        cdef c.dsm_store_doubt doubt
        cdef int rc = self.put_now(pid, view, &expected if compares else NULL, &version)
        if rc:
            rc = self.put_at_turn(pid, view.buf, compares, expected, &version, &doubt)
            if self.repairs(rc, &pid, 1, "write"):
                rc = self.put_at_turn(pid, view.buf, compares, expected, &version, &doubt)
        if rc:
            raise in_doubt(self.failed(rc, "write"), rc, &doubt, 1)
        call_ends(&self.counted, call, 1, began)
        return version

    @cython.final
    cdef int put_at_turn(self, uint64_t pid, const void *page, bint compares, uint64_t expected,
                         uint64_t *version, c.dsm_store_doubt *doubt) except 1:
        cdef PyThread_type_lock turn = self.begin()
        cdef int rc
        with nogil:
            rc = (c.dsm_store_compare_write(self.ptr, pid, expected, page, version) if compares else
                  c.dsm_store_write(self.ptr, pid, page, version))
            c.dsm_store_doubt_of(self.ptr, doubt)
        self.end(turn)
        return rc

    @cython.final
    cdef inline int put_now(self, uint64_t pid, Py_buffer *view, uint64_t *expected, uint64_t *version) noexcept:
        """Write without a turn if no thread has it. A thread that takes it needs the GIL before it goes on."""
        if self.turn_of or view.len > NOGIL_FROM:
            return 1
        return c.dsm_store_write_now(self.ptr, pid, expected, view.buf, version)

    def write(self, pid, data):
        self.enter()
        try:
            return self.put(page_of(pid), data, False, 0)
        finally:
            self.leave()

    def compare_write(self, pid, version, data):
        cdef uint64_t number
        self.enter()
        try:
            number = page_of(pid)
            return self.put(number, data, True, version_of(version))
        finally:
            self.leave()

    def version(self, pid):
        self.enter()
        try:
            return version_at(self, page_of(pid))
        finally:
            self.leave()

    def metadata(self, pid):
        self.enter()
        try:
            return metadata_at(self, page_of(pid))
        finally:
            self.leave()

    @cython.final
    cdef int give_back(self, uint64_t pid, uint32_t demanded) except -1:
        """demanded: copies, for this call."""
        cdef int64_t began = call_begins(&self.counted, CALL_FREE)
        cdef PyThread_type_lock turn = self.begin()
        cdef c.dsm_store_doubt doubt
        cdef int rc
        with nogil:
            c.dsm_store_demand(self.ptr, demanded)
            rc = c.dsm_store_free(self.ptr, pid)
            c.dsm_store_demand(self.ptr, self.demanded)
            c.dsm_store_doubt_of(self.ptr, &doubt)
        self.end(turn)
        if rc:
            raise in_doubt(self.failed(rc, "free"), rc, &doubt, 1)
        call_ends(&self.counted, CALL_FREE, 1, began)
        return 0

    def _outcome(self, bytes doubts not None):
        """What has become of changes that were made together, and the version that the first one was to make."""
        cdef const c.dsm_store_doubt *of = <const c.dsm_store_doubt *> PyBytes_AS_STRING(doubts)
        cdef size_t n = <size_t> len(doubts) // sizeof(c.dsm_store_doubt)
        cdef PyThread_type_lock turn
        cdef int rc, found = 0
        self.enter()
        try:
            turn = self.begin()
            with nogil:
                rc = c.dsm_store_outcome(self.ptr, of, n, &found)
            self.end(turn)
            if rc:
                raise self.failed(rc, "read")
            return found, of[0].version if n else 0
        finally:
            self.leave()

    def _let_go(self, list pids not None):
        return give_back_all(self, pids)

    def _free(self, pid):
        self.enter()
        try:
            self.give_back(page_of(pid), self.demanded)
        finally:
            self.leave()

    # -- many pages --

    @cython.final
    cdef int take(self, uint64_t *pids, size_t n) except -1:
        cdef int64_t began = call_begins(&self.counted, CALL_ALLOCATE)
        cdef PyThread_type_lock turn = self.begin()
        cdef size_t left = 0
        cdef int rc
        with nogil:
            rc = c.dsm_store_allocate(self.ptr, pids, n, &left)
        self.end(turn)
        keep_spare(self, pids, left)
        if rc:
            raise self.failed(rc, "allocate")
        call_ends(&self.counted, CALL_ALLOCATE, n, began)
        if self.spare:
            try:
                give_back_spare(self)
            except BaseException:  # of a signal handler: no caller gets these, either
                keep_spare(self, pids, n)
                raise
        return 0

    def allocate(self):
        cdef uint64_t pid = 0
        self.enter()
        try:
            self.take(&pid, 1)
            return pid
        finally:
            self.leave()

    @cython.final
    cdef ndarray room_for(self, object n):
        """An array for the ids of as many pages."""
        count = checked_int(n, 0)
        if count is None:
            raise refused(n, int, f"n={n!r:.80}: a number of pages, at least 0")
        if count > self.shape.pages:
            raise error_of(c.DSM_ESTOREFULL, f"{count} pages of a store that has {self.shape.pages}", "allocate")
        return np.empty(count, UINT64)

    def allocate_many(self, n):
        cdef ndarray pids
        self.enter()
        try:
            pids = self.room_for(n)
            self.take(<uint64_t *> PyArray_DATA(pids), PyArray_NBYTES(pids) // 8)
            return pids
        finally:
            self.leave()

    @cython.final
    cdef int get_many(self, const uint64_t *pids, size_t n, void *out, uint8_t *codes) except -1:
        cdef int64_t began = call_begins(&self.counted, CALL_READ_MANY)
        cdef int rc = self.get_many_now(pids, n, out, codes)
        if codes != NULL and not rc:
            self.repair_each(pids, n, out, codes)
        elif self.repairs(rc, pids, n, "read_many"):
            rc = self.get_many_now(pids, n, out, codes)
        if rc:
            raise self.failed(rc, "read_many")
        call_ends(&self.counted, CALL_READ_MANY, pages_done(codes, n), began)
        return 0

    @cython.final
    cdef int get_many_now(self, const uint64_t *pids, size_t n, void *out, uint8_t *codes) except 1:
        cdef PyThread_type_lock turn = self.begin_read()
        cdef int rc
        with nogil:
            rc = c.dsm_store_read_many(self.ptr, pids, n, out, codes)
        self.end_read(turn)
        return rc

    @cython.final
    cdef int repair_each(self, const uint64_t *pids, size_t n, void *out, uint8_t *codes) except -1:
        """Read pages again that were damaged, and have been repaired from another copy."""
        cdef size_t i
        cdef int rc
        for i in range(n if self.shape.copies > 1 else 0):
            if codes[i] != c.DSM_ECORRUPT:
                continue
            if is_repaired(self, pids[i], "read_many"):
                rc = self.get_many_now(&pids[i], 1, <char *> out + i * self.shape.page_bytes, &codes[i])
                if rc:
                    raise self.failed(rc, "read_many")
        return 0

    @cython.final
    cdef int put_many(self, const uint64_t *pids, const void *pages, ndarray versions, uint8_t *codes) except -1:
        cdef int64_t began = call_begins(&self.counted, CALL_WRITE_MANY)
        cdef uint64_t *made = <uint64_t *> PyArray_DATA(versions)
        cdef size_t n = PyArray_NBYTES(versions) // 8, i
        cdef const char *page
        self.put_some(pids, n, pages, versions, made, codes)
        for i in range(n if codes != NULL and self.shape.copies > 1 else 0):
            if codes[i] == c.DSM_ECORRUPT and is_repaired(self, pids[i], "write_many"):
                page = <const char *> pages + i * self.shape.page_bytes
                self.put_some(&pids[i], 1, page, versions, &made[i], &codes[i])
        call_ends(&self.counted, CALL_WRITE_MANY, pages_done(codes, n), began)
        return 0

    @cython.final
    cdef int put_some(self, const uint64_t *pids, size_t n, const void *pages, ndarray versions, uint64_t *made,
                      uint8_t *codes) except -1:
        """versions: of all pages of the call, which an exception has; made: where those of these pages are."""
        cdef PyThread_type_lock turn = self.begin()
        cdef c.dsm_store_doubt doubts[c.DSM_STORE_DOUBTS]
        cdef uint32_t unknown
        cdef int rc
        with nogil:
            rc = c.dsm_store_write_many(self.ptr, pids, n, pages, made, codes)
            unknown = c.dsm_store_doubts(self.ptr, doubts) if rc else 0
        self.end(turn)
        if rc:
            error = self.failed(rc, "write_many")
            if isinstance(error, errors.DsmemError):
                error._versions, error._doubts = versions, doubts_as_bytes(doubts, unknown)
            raise error
        return 0

    def read_many(self, ids, out=None, *, status=None):
        cdef Py_buffer view, said
        cdef uint8_t *codes
        cdef ndarray pids
        cdef uint64_t *words
        cdef size_t n
        memset(&said, 0, sizeof(said))
        self.enter()
        try:
            pids = pages_of(ids)
            words, n = <uint64_t *> PyArray_DATA(pids), PyArray_NBYTES(pids) // 8
            codes = codes_of(status, &said, n)
            if out is None:
                out = np.empty((n, self.shape.page_bytes), "u1")
            get_buffer(out, &view, True)
            try:
                check_pages(view.len, n * self.shape.page_bytes, "out", f"what {n} ids name")
                self.get_many(words, n, view.buf, codes)
            finally:
                PyBuffer_Release(&view)
            return out
        finally:
            PyBuffer_Release(&said)
            self.leave()

    def write_many(self, ids, data, *, status=None):
        cdef Py_buffer view, said
        cdef uint8_t *codes
        cdef ndarray pids, versions
        cdef size_t n
        memset(&said, 0, sizeof(said))
        self.enter()
        try:
            pids = pages_of(ids)
            n = PyArray_NBYTES(pids) // 8
            codes = codes_of(status, &said, n)
            versions = np.empty(n, UINT64)
            get_buffer(data, &view, False)
            try:
                check_pages(view.len, n * self.shape.page_bytes, "data", f"what {n} ids name")
                self.put_many(<uint64_t *> PyArray_DATA(pids), view.buf, versions, codes)
            finally:
                PyBuffer_Release(&view)
            return versions
        finally:
            PyBuffer_Release(&said)
            self.leave()

    def stat(self):
        cdef c.dsm_store_counts counts
        cdef int rc
        self.enter()
        try:
            with nogil:
                rc = c.dsm_store_count(self.ptr, &counts)
            if rc:
                raise self.failed(rc, "stat")
            return {**self._shape, "free": counts.free_pages, "handles": counts.clients, "repaired": self.repaired}
        finally:
            self.leave()

    # -- what is counted: store_counts.pxi --

    @cython.final
    cdef uint64_t retries(self) noexcept:
        return self.retried + (c.dsm_store_retries(self.ptr) if self.ptr != NULL else 0)

    def _counts(self):
        """Also of a handle that is closed. In a child those of its own: none, until it has used the handle."""
        cdef const StoreCalls *n = &self.counted
        cdef dict found = {**counts_as_dict(n), "retries": self.retries(), "conflicts": n.conflicts,
                           "unknown": n.unknown, "failed": n.failed, "repaired": self.repaired}
        return dict.fromkeys(found, 0) if self.outdated() else found

    def _times(self):
        return {} if self.outdated() else times_as_dict(&self.counted)

    def _conflicted(self):
        self.counted.conflicts += 1

    @property
    def counts(self):
        self.check()
        return self._counts()

    @property
    def latencies(self):
        self.check()
        return latencies_of(times_as_dict(&self.counted))

    def _snapshot_begins(self):
        return call_begins(&self.counted, CALL_SNAPSHOT)

    def _snapshot_ends(self, int64_t began):
        call_ends(&self.counted, CALL_SNAPSHOT, 1, began)

    # -- damage --

    @cython.final
    cdef bint repair(self, uint64_t number, str op) except -1:
        """Whether the page had a frame that was not whole at some copies, and has been written again from another."""
        cdef PyThread_type_lock turn = self.begin()
        cdef int rc, done = 0
        with nogil:
            rc = c.dsm_store_repair(self.ptr, number, &done)
        self.end(turn)
        if rc:
            raise self.failed(rc, op)
        if done:
            self.repaired += 1
            LOGGER.warning("the %s: page number %d was damaged at some copies, and has been repaired from another",
                           self.called(), number)
        return done

    @cython.final
    cdef bint repairs(self, int rc, const uint64_t *pids, size_t n, str op) except -1:
        """Whether a call that has ended with rc is worth another try, since pages of it have been repaired."""
        cdef bint done = False
        cdef size_t i
        if rc != -c.DSM_ECORRUPT or self.shape.copies < 2:
            return False
        for i in range(n):
            try:
                done |= self.repair(pids[i] & (c.DSM_STORE_NUMBERS - 1), op)
            except errors.UnsupportedError:  # of an extent with one copy
                pass
        if not done:
            raise self.failed(rc, op)
        return True

    def _check(self, uint64_t first, uint32_t n):
        """What is wrong with n pages: number, id or 0, copies with another head or a bad frame, changes, unknown."""
        cdef c.dsm_store_fault faults[c.DSM_STORE_CHECKED]
        cdef PyThread_type_lock turn
        cdef uint32_t found = 0
        cdef int rc
        self.enter()
        try:
            turn = self.begin()
            with nogil:
                rc = c.dsm_store_check(self.ptr, first, n, faults, &found)
            self.end(turn)
            if rc:
                raise self.failed(rc, "check")
            return [(faults[i].page, faults[i].id, faults[i].heads, faults[i].frames, bool(faults[i].changes),
                     bool(faults[i].unknown)) for i in range(found)]
        finally:
            self.leave()

    def _repair(self, uint64_t number):
        self.enter()
        try:
            return self.repair(number, "check")
        finally:
            self.leave()

    # -- tasks of event loops: store_tasks.pxi --

    def read_async(self, pid, out=None):
        return _store_read(self, pid, out)

    def write_async(self, pid, data):
        return _store_write(self, pid, False, None, data)

    def compare_write_async(self, pid, version, data):
        return _store_write(self, pid, True, version, data)

    def version_async(self, pid):
        return _store_version(self, pid)

    def metadata_async(self, pid):
        return _store_metadata(self, pid)

    def read_many_async(self, ids, out=None, *, status=None):
        return _store_read_many(self, ids, out, status)

    def write_many_async(self, ids, data, *, status=None):
        return _store_write_many(self, ids, data, status)

    def allocate_async(self):
        return _store_allocate(self, None)

    def allocate_many_async(self, n):
        return _store_allocate(self, n)

    def _free_async(self, pid):
        return _store_free(self, pid)

    def _call_async(self, call):
        return _store_call(self, call)

    # -- closing --

    def close(self):
        if not self.live:
            return
        if self.outdated():
            self.live = False
            self.drop_users()
            return
        self.refuse_in_use()
        if self.spare:
            give_back_at_end(self)
            if not self.live:
                return
            self.refuse_in_use()  # other threads may have begun calls meanwhile
        self.part()

    @cython.final
    cdef int part(self, bint for_good=False) except -1:
        """End the core's client. Where it can't give back its place it stays, so that close() may be called again."""
        cdef c.dsm_store *ptr = self.ptr
        cdef uint64_t retries = 0
        cdef int rc
        self.live, self.ptr = False, NULL
        with nogil:
            rc = c.dsm_store_leave(ptr)
            if not rc or for_good:
                retries = c.dsm_store_retries(ptr)
                c.dsm_store_drop(ptr)
        if rc and not for_good:
            self.live, self.ptr = True, ptr
        else:
            self.retried += retries
            self.drop_users()
        if rc:
            raise self.failed(rc, "close")
        return 0

    def _part_for_good(self):
        """Close, though the core's client can't give back its place."""
        if self.live:
            self.refuse_in_use()
            with contextlib.suppress(errors.DsmemError):
                self.part(True)

    cdef int leave_as_dead(self) except -1:
        cdef int rc
        with nogil:
            rc = c.dsm_store_leave(self.ptr)
        for remote in self.remotes:
            (<Remote> remote).users -= 1
        if rc:
            raise self.failed(rc, "close")
        return 0

    def __del__(self):
        if not self.live:
            return
        if self.outdated() or self.remote.ptr == NULL:
            self.live = False
            self.drop_users()
            return
        with contextlib.suppress(errors.DsmemError):
            self.part(True)
