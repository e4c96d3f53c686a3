# Included by _core.pyx: Transaction, the core of dsmem.store.Transaction (csrc/store/transaction.c).
#
# It belongs to the thread that has begun it, and to the process. What it holds is memory of this process alone, so it
# may be dropped anywhere. The with statement is here since a signal handler must not raise between two steps of its
# beginning or its end. One that raises just before the end leaves a transaction that is not ended, for as long as the
# exception is there; so one counts as the thread's only while the frame that has begun it runs.

cdef bint is_running(object frame):
    """Whether it is one of this thread's."""
    at = sys._getframe()
    while at is not None and at is not frame:
        at = at.f_back
    return at is not None


@cython.auto_pickle(False)
cdef class Transaction:
    cdef c.dsm_transaction *ptr
    cdef Store store
    cdef uint32_t epoch
    cdef int64_t deadline  # of waits for others; see _wait_until
    cdef unsigned long thread
    cdef bint live, busy, begun
    cdef object frame  # that has begun it, until it ends
    cdef list kept     # of those which were freed in vain, or None
    cdef list taken    # pages that it has allocated; they are freed if it is certainly not committed
    cdef object __weakref__

    def __cinit__(self, *args, **named):
        self.epoch = forks[0]

    def __dealloc__(self):
        c.dsm_transaction_drop(self.ptr)

    def __init__(self, Store store not None, opaque=False):
        looks = truth(opaque, "opaque")
        if self.ptr != NULL:
            raise error_of(c.DSM_EINVAL, "the transaction has been made before")
        self.ptr = c.dsm_transaction_new(looks)
        if self.ptr == NULL:
            raise error_from_core(-c.DSM_ENOMEM, "transaction")
        self.store, self.deadline = store, NEVER
        self.thread = PyThread_get_thread_ident()
        self.live = True

    def _wait_until(self, double time):
        """Calls wait for other clients and threads until then, a time of time.monotonic(), and no longer."""
        self.deadline = <int64_t> min(time * 1e9, <double> (1 << 62))
        c.dsm_transaction_until(self.ptr, self.deadline)

    @cython.final
    cdef int begin(self) except -1:
        """Enter the store. Refused once the transaction has ended, and to other threads and processes."""
        if self.epoch != forks[0]:
            raise error_of(c.DSM_EFORK, "the transaction was begun before the fork; begin another one in the child")
        if not self.live:
            raise error_of(c.DSM_ECLOSED, "the transaction has ended; begin another one")
        if self.thread != PyThread_get_thread_ident():
            raise error_of(c.DSM_EBUSY, "the transaction is another thread's; begin another one in this thread")
        if not self.begun:
            raise error_of(c.DSM_ECLOSED, "the transaction has not begun; use it in a with statement")
        if self.busy:
            raise error_of(c.DSM_EBUSY, "the transaction is in a call that a signal handler has interrupted; "
                                        "use another one in the handler")
        self.store.enter()
        self.busy = True
        return 0

    @cython.final
    cdef void end(self) noexcept:
        self.busy = False
        self.store.leave()

    @cython.final
    cdef object failed(self, int rc, str op):
        error = self.store.failed(rc, op)
        if rc == -c.DSM_ECONFLICT and isinstance(error, errors.ConflictError):
            error.page = c.dsm_transaction_conflict(self.ptr)
        return error

    @cython.final
    cdef int get(self, const uint64_t *pids, size_t n, void *out) except -1:
        cdef PyThread_type_lock turn = self.store.begin_read(self.deadline)
        cdef int rc
        with nogil:
            rc = c.dsm_transaction_read(self.store.ptr, self.ptr, pids, n, out)
        self.store.end_read(turn)
        if rc:
            raise self.failed(rc, "read")
        return 0

    def read(self, pid, out=None):
        cdef Py_buffer view
        cdef uint64_t number
        self.begin()
        try:
            number = page_of(pid)
            if out is None:
                page = PyBytes_FromStringAndSize(NULL, self.store.shape.page_bytes)
                self.get(&number, 1, PyBytes_AS_STRING(page))
                return page
            get_buffer(out, &view, True)
            try:
                check_pages(view.len, self.store.shape.page_bytes, "out", "a page")
                self.get(&number, 1, view.buf)
            finally:
                PyBuffer_Release(&view)
            return out
        finally:
            self.end()

    def read_many(self, ids, out=None):
        cdef Py_buffer view
        cdef ndarray pids
        cdef size_t n
        self.begin()
        try:
            pids = pages_of(ids)
            n = PyArray_NBYTES(pids) // 8
            if out is None:
                out = np.empty((n, self.store.shape.page_bytes), "u1")
            get_buffer(out, &view, True)
            try:
                check_pages(view.len, n * self.store.shape.page_bytes, "out", f"what {n} ids name")
                pids = pids.copy()  # another thread may change the caller's
                self.get(<uint64_t *> PyArray_DATA(pids), n, view.buf)
            finally:
                PyBuffer_Release(&view)
            return out
        finally:
            self.end()

    def write(self, pid, data):
        cdef Py_buffer view
        cdef uint64_t number
        cdef int rc
        self.begin()
        try:
            number = page_of(pid)
            get_buffer(data, &view, False)
            try:
                check_pages(view.len, self.store.shape.page_bytes, "data", "a page")
                rc = c.dsm_transaction_write(self.store.ptr, self.ptr, number, view.buf)
            finally:
                PyBuffer_Release(&view)
            if rc:
                raise self.failed(rc, "write")
        finally:
            self.end()

    def free(self, pid):
        cdef int rc
        self.begin()
        try:
            rc = c.dsm_transaction_free(self.ptr, page_of(pid))
            if rc:
                raise self.failed(rc, "free")
        finally:
            self.end()

    def allocate(self):
        cdef uint64_t pid = 0
        self.begin()
        try:
            self.store.take(&pid, 1)
            if self.taken is None:
                self.taken = []
            self.taken.append(pid)
            return pid
        finally:
            self.end()

    def __enter__(self):
        cdef dict begun
        cdef Transaction other
        if self.store is None:
            raise error_of(c.DSM_ECLOSED, "the transaction was not begun; store.transaction() begins one")
        begun = self.store.transactions
        if self.epoch == forks[0] and self.live and self.thread == PyThread_get_thread_ident():
            reference = begun.get(self.thread)
            other = None if reference is None else reference()
            if other is not None and other.live and other.epoch == self.epoch and is_running(other.frame):
                self.live = False
                raise error_of(c.DSM_EBUSY, "this thread is in a transaction of the same handle of the store; "
                                            "end that one first, or use it")
        self.begun = True
        self.begin()
        self.frame = sys._getframe()
        begun[self.thread] = PyWeakref_NewRef(self, None)
        self.end()
        return self

    def __exit__(self, kind, error, where):
        try:
            if error is None:
                self.commit()
            elif isinstance(error, Exception) and not isinstance(error, errors.ConflictError):
                self.check_for(error)
        finally:
            self.live = False
            self.frame = None
            if self.epoch == forks[0] and self.store is not None:
                self.store.transactions.pop(self.thread, None)
                self.give_back()

    @cython.final
    cdef int give_back(self) except -1:
        """What can't be freed stays allocated, as if the process had died here."""
        cdef list taken = self.taken
        self.taken = None
        if taken:
            self.kept = give_back_all(self.store, taken)
        return 0

    @property
    def _kept(self):
        """Pages that it had allocated, was not committed with, and could not free."""
        return self.kept or []

    @cython.final
    cdef int check_for(self, object error) except -1:
        """An exception of a block that has read pages of different instants is a conflict."""
        try:
            self.check()
        except errors.ConflictError as conflict:
            raise conflict from error
        except errors.DsmemError:
            return 0  # the block's exception says more
        return 0

    @cython.final
    cdef int check(self) except -1:
        cdef PyThread_type_lock turn
        cdef int rc
        self.begin()
        try:
            turn = self.store.begin_read(self.deadline)
            with nogil:
                rc = c.dsm_transaction_check(self.store.ptr, self.ptr)
            self.store.end_read(turn)
            if rc:
                raise self.failed(rc, "read")
        finally:
            self.end()
        return 0

    @cython.final
    cdef object unknown(self):
        cdef c.dsm_store_doubt doubts[c.DSM_TRANSACTION_CHANGES]
        error = self.failed(-c.DSM_EUNKNOWN, "commit")
        return in_doubt(error, -c.DSM_EUNKNOWN, doubts, c.dsm_transaction_doubts(self.ptr, doubts))

    @cython.final
    cdef int commit(self) except -1:
        cdef PyThread_type_lock turn
        cdef list taken
        cdef int64_t began
        cdef int rc
        self.begin()
        try:
            began = call_begins(&self.store.counted, CALL_COMMIT)
            turn = self.store.begin(self.deadline)
            self.live, taken, self.taken = False, self.taken, None
            with nogil:
                rc = c.dsm_transaction_commit(self.store.ptr, self.ptr)
            self.store.end(turn)
            if rc:
                if rc != -c.DSM_EUNKNOWN:
                    self.taken = taken
                raise self.unknown() if rc == -c.DSM_EUNKNOWN else self.failed(rc, "commit")
            call_ends(&self.store.counted, CALL_COMMIT, 1, began)
        finally:
            self.end()
        return 0
