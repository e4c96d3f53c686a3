# Included by _core.pyx: Store, a client of a store of pages (csrc/dsm/store.h).
#
# Reads run beside each other and beside everything else. The other calls take turns: the core's client is one thread's
# at a time. Those that may wait release the GIL; a short write on mapped memory keeps it, and then needs no turn.

cdef enum:
    MOST_COPIES = 5


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
        raise error_of(c.DSM_EINVAL, f"pid={pid!r:.80} is no page id; pass what allocate() returned")
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


cdef c.dsm_store_shape store_shape(page_size, pages, members, replicas, index=0, id=0) except *:
    cdef c.dsm_store_shape s
    try:
        s.page_bytes, s.pages, s.clients, s.copies = page_size, pages, members, replicas
        s.index, s.id = index, id
    except OverflowError:
        text = f"{pages} pages of {page_size} bytes for {members} members in {replicas} copies; ask for less"
        raise error_of(c.DSM_EINVAL, text) from None
    return s


cdef dict shape_as_dict(const c.dsm_store_shape *s):
    return {"page_size": s.page_bytes, "pages": s.pages, "members": s.clients, "replicas": s.copies}


def store_nbytes(page_size, pages, members, replicas):
    cdef c.dsm_store_shape s = store_shape(page_size, pages, members, replicas)
    cdef uint64_t nbytes = 0
    cdef int rc = c.dsm_store_layout(&s, &nbytes)
    if rc:
        raise error_from_core(rc, "store")
    return nbytes


def store_format(memory, page_size, pages, members, replicas, index, id):
    cdef c.dsm_store_shape s = store_shape(page_size, pages, members, replicas, index, id)
    cdef uint64_t nbytes = 0
    cdef Py_buffer view
    cdef int rc = c.dsm_store_layout(&s, &nbytes)
    get_buffer(memory, &view, True)
    if not rc and <uint64_t> view.len >= nbytes:
        with nogil:
            rc = c.dsm_store_format(view.buf, &s)
    elif not rc:
        rc = -c.DSM_EINVAL
    PyBuffer_Release(&view)
    if rc:
        raise error_from_core(rc, "store")


def store_look(Remote remote not None):
    """What the header of a copy says."""
    cdef c.dsm_store_shape s
    cdef uint64_t state = 0
    cdef int rc
    remote.enter()
    with nogil:
        rc = c.dsm_store_look(remote.ptr, &s, &state)
    remote.leave()
    if rc:
        raise remote.failed(rc, "attach")
    return {**shape_as_dict(&s), "index": s.index, "id": s.id, "state": state}


def store_settle(Remote remote not None, uint64_t state):
    """Decide what becomes of a store that is being made, and return what has been decided."""
    cdef uint64_t decided = 0
    cdef int rc
    remote.enter()
    with nogil:
        rc = c.dsm_store_settle(remote.ptr, state, &decided)
    remote.leave()
    if rc:
        raise remote.failed(rc, "create")
    return decided


cdef class Store(Handle):
    cdef c.dsm_store *ptr
    cdef Remote remote   # of copy 0
    cdef tuple remotes   # of all copies
    cdef bint beside     # reads run beside each other
    cdef c.dsm_store_shape shape
    cdef dict transactions  # a weak reference to that of each thread which is in one
    cdef PyThread_type_lock turn
    cdef unsigned long turn_of  # the thread that holds it, or 0

    def __cinit__(self, *args, **named):
        self.transactions = {}
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
        self.live = True

    @cython.final
    cdef c.dsm_store *opened(self, tuple remotes) except NULL:
        cdef c.dsm_remote *at[MOST_COPIES]
        cdef c.dsm_store *made = NULL
        cdef Remote remote
        cdef uint32_t n = 0, failed = 0
        cdef int rc = 0
        if not 0 < len(remotes) <= MOST_COPIES:
            raise error_of(c.DSM_EINVAL, f"{len(remotes)} copies; 1 to {MOST_COPIES}")
        try:
            for remote in remotes:
                remote.enter()
                at[n] = remote.ptr
                n += 1
            with nogil:
                rc = c.dsm_store_open(at, n, &made, &failed)
        finally:
            for remote in remotes[:n]:
                remote.leave()
        if rc:
            raise (<Remote> remotes[failed]).failed(rc, "attach")
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
        self.ptr, self.turn, self.turn_of = own, turn, 0
        return 0

    cdef str noun(self):
        return "store"

    cdef object failed(self, int rc, str op):
        cdef Remote at = self.remotes[c.dsm_store_failed(self.ptr)] if self.ptr != NULL else self.remote
        return at.failed(rc, op)

    # -- turns --

    @cython.final
    cdef PyThread_type_lock begin(self) except NULL:
        """Take the turn. The caller has entered the handle, and gives back the lock that this returns."""
        cdef PyThread_type_lock turn = self.turn
        cdef PyLockStatus got = PyThread_acquire_lock_timed(turn, 0, 0)
        while got != PY_LOCK_ACQUIRED:
            if self.turn_of == PyThread_get_thread_ident():
                raise self.failed(c.dsm_refuse_reentry(b"store"), None)
            self.go_on()
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
    cdef PyThread_type_lock begin_read(self) except? NULL:
        """As begin(), where the memory is not mapped: what the client knows of the pages is one thread's at a time."""
        return NULL if self.beside else self.begin()

    @cython.final
    cdef void end_read(self, PyThread_type_lock turn) noexcept:
        if turn != NULL:
            self.end(turn)

    # -- one page --

    @property
    def page_size(self):
        return self.shape.page_bytes

    def _wait_for_others(self, double seconds):
        c.dsm_store_wait(self.ptr, <int64_t> (seconds * 1e9))

    @property
    def _shape(self):
        return shape_as_dict(&self.shape)

    @cython.final
    cdef int get(self, uint64_t pid, void *out) except -1:
        cdef PyThread_type_lock turn
        cdef int rc = 1
        if self.shape.page_bytes <= NOGIL_FROM:
            rc = c.dsm_store_read_now(self.ptr, pid, out, NULL)
        if rc:
            turn = self.begin_read()
            with nogil:
                rc = c.dsm_store_read(self.ptr, pid, out, NULL)
            self.end_read(turn)
        if rc:
            raise self.failed(rc, "read")
        return 0

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
        cdef PyThread_type_lock turn
        cdef uint64_t version = 0
        cdef int rc
        get_buffer(data, &view, False)
        try:
            check_pages(view.len, self.shape.page_bytes, "data", "a page")
            rc = self.put_now(pid, &view, &expected if compares else NULL, &version)
            if rc:
                turn = self.begin()
                with nogil:
                    rc = (c.dsm_store_compare_write(self.ptr, pid, expected, view.buf, &version) if compares else
                          c.dsm_store_write(self.ptr, pid, view.buf, &version))
                self.end(turn)
        finally:
            PyBuffer_Release(&view)
        if rc:
            raise self.failed(rc, "write")
        return version

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
            expected = checked_int(version, 0, (1 << 64) - 1)
            if expected is None:
                raise error_of(c.DSM_EINVAL, f"version={version!r:.80}: what version() or write() returned")
            return self.put(number, data, True, expected)
        finally:
            self.leave()

    def version(self, pid):
        cdef PyThread_type_lock turn
        cdef uint64_t number, version = 0
        cdef int rc
        self.enter()
        try:
            number = page_of(pid)
            if not c.dsm_store_version_now(self.ptr, number, &version):
                return version
            turn = self.begin()
            with nogil:
                rc = c.dsm_store_version(self.ptr, number, &version)
            self.end(turn)
            if rc:
                raise self.failed(rc, "version")
            return version
        finally:
            self.leave()

    def _free(self, pid):
        cdef PyThread_type_lock turn
        cdef uint64_t number
        cdef int rc
        self.enter()
        try:
            number = page_of(pid)
            turn = self.begin()
            with nogil:
                rc = c.dsm_store_free(self.ptr, number)
            self.end(turn)
            if rc:
                raise self.failed(rc, "free")
        finally:
            self.leave()

    # -- many pages --

    @cython.final
    cdef int take(self, uint64_t *pids, size_t n) except -1:
        cdef PyThread_type_lock turn = self.begin()
        cdef int rc
        with nogil:
            rc = c.dsm_store_allocate(self.ptr, pids, n)
        self.end(turn)
        if rc:
            raise self.failed(rc, "allocate")
        return 0

    def allocate(self):
        cdef uint64_t pid = 0
        self.enter()
        try:
            self.take(&pid, 1)
            return pid
        finally:
            self.leave()

    def allocate_many(self, n):
        cdef ndarray pids
        self.enter()
        try:
            count = checked_int(n, 0)
            if count is None:
                raise error_of(c.DSM_EINVAL, f"n={n!r:.80}: a number of pages, at least 0")
            if count > self.shape.pages:
                raise error_of(c.DSM_ESTOREFULL, f"{count} pages of a store that has {self.shape.pages}", "allocate")
            pids = np.empty(count, UINT64)
            self.take(<uint64_t *> PyArray_DATA(pids), PyArray_NBYTES(pids) // 8)
            return pids
        finally:
            self.leave()

    def read_many(self, ids, out=None):
        cdef Py_buffer view
        cdef PyThread_type_lock turn
        cdef ndarray pids
        cdef uint64_t *words
        cdef size_t n
        cdef int rc
        self.enter()
        try:
            pids = pages_of(ids)
            words, n = <uint64_t *> PyArray_DATA(pids), PyArray_NBYTES(pids) // 8
            if out is None:
                out = np.empty((n, self.shape.page_bytes), "u1")
            get_buffer(out, &view, True)
            try:
                check_pages(view.len, n * self.shape.page_bytes, "out", f"what {n} ids name")
                turn = self.begin_read()
                with nogil:
                    rc = c.dsm_store_read_many(self.ptr, words, n, view.buf)
                self.end_read(turn)
            finally:
                PyBuffer_Release(&view)
            if rc:
                raise self.failed(rc, "read_many")
            return out
        finally:
            self.leave()

    def write_many(self, ids, data):
        cdef Py_buffer view
        cdef PyThread_type_lock turn
        cdef ndarray pids, versions
        cdef uint64_t *words
        cdef uint64_t *written
        cdef size_t n
        cdef int rc
        self.enter()
        try:
            pids = pages_of(ids)
            words, n = <uint64_t *> PyArray_DATA(pids), PyArray_NBYTES(pids) // 8
            versions = np.empty(n, UINT64)
            written = <uint64_t *> PyArray_DATA(versions)
            get_buffer(data, &view, False)
            try:
                check_pages(view.len, n * self.shape.page_bytes, "data", f"what {n} ids name")
                turn = self.begin()
                with nogil:
                    rc = c.dsm_store_write_many(self.ptr, words, n, view.buf, written)
                self.end(turn)
            finally:
                PyBuffer_Release(&view)
            if rc:
                raise self.failed(rc, "write_many")
            return versions
        finally:
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
            return {**self._shape, "free": counts.free_pages, "handles": counts.clients}
        finally:
            self.leave()

    # -- closing --

    def close(self):
        if not self.live:
            return
        if self.outdated():
            self.live = False
            self.drop_users()
            return
        self.refuse_in_use()
        self.part()

    @cython.final
    cdef int part(self, bint for_good=False) except -1:
        """End the core's client. Where it can't give back its place it stays, so that close() may be called again."""
        cdef c.dsm_store *ptr = self.ptr
        cdef int rc
        self.live, self.ptr = False, NULL
        with nogil:
            rc = c.dsm_store_leave(ptr)
            if not rc or for_good:
                c.dsm_store_drop(ptr)
        if rc and not for_good:
            self.live, self.ptr = True, ptr
        else:
            self.drop_users()
        if rc:
            raise self.failed(rc, "close")
        return 0

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
