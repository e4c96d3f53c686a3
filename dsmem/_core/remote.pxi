# Included by _core.pyx: Remote; Started, what is behind a future, and Pending, the op of an asynchronous method.

@cython.final
cdef class Remote(Handle):
    cdef c.dsm_remote *ptr
    cdef bint mapped
    cdef readonly uint64_t nbytes
    cdef uint64_t caches    # longer local buffers may be kept registered
    cdef object __weakref__
    cdef readonly Context context
    cdef readonly str access
    cdef readonly str peer
    cdef readonly str address
    cdef readonly str fabric, bulk_fabric
    cdef public str _user     # the object that the program has opened on it, named in the warning if it was not closed
    cdef public object _held  # what is held at the owner as long as it is open
    cdef bint parting       # detached: it is closed when nothing uses it any more
    cdef bint item          # of a Remotes: need not be closed

    def __init__(self, *args, **named):
        raise not_made("Remote", "context.attach(...)")

    def __reduce__(self):
        raise not_pickled("remote", "pickle the descriptor, and attach to it with a context")

    cdef object failed(self, int rc, str op):
        return error_from_core(rc, op, self.peer, None if self.context is None else self.context.device)

    cdef int check(self) except -1:
        if not self.live:
            self.refuse_closed()
        if self.context is not None:
            return self.context.check()
        return self.catch_up()

    cdef int renew(self) except -1:
        """A mapped file stays mapped in the child, at the same address."""
        cdef c.dsm_remote *own = NULL
        cdef int rc
        if self.context is None:
            rc = c.dsm_map_inherited(self.ptr, &own)
            if rc:
                raise self.failed(rc, "map")
            self.ptr = own
        return 0

    cdef int refuse_forked(self, Handle user) except -1:
        """Raise ForkError if the memory belongs to a context: objects on such memory are not reopened in a child."""
        if self.context is not None:
            self.context.refuse_fork(user.called())
        return 0

    cdef str noun(self):
        return "remote" if self._user is None else f"memory of {self._user}"

    @property
    def closed(self):
        return self.ptr == NULL

    # -- views --

    @property
    def is_mapped(self):
        return self.mapped

    def array(self, dtype="u1"):
        self.enter()
        try:
            return array_over(self, dtype)
        finally:
            self.leave()

    def __getbuffer__(self, Py_buffer *view, int flags):
        self.check()
        if not self.mapped:
            raise error_of(c.DSM_ENOTMAPPED, self.address)
        if "r" not in self.access:
            raise error_of(c.DSM_EACCESS, "no right to read")
        PyBuffer_FillInfo(view, self, c.dsm_remote_mapped(self.ptr), self.nbytes, "w" not in self.access, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.drop_export()
        self.close_if_parting()

    # -- copies and atomics: only these functions choose between local and remote; the caller has entered the remote --

    @cython.final
    cdef inline int move(self, bint reads, uint64_t at, void *local, uint64_t n, int64_t ns) noexcept:
        cdef int rc
        if self.mapped and n <= NOGIL_FROM:
            return c.dsm_read(self.ptr, at, local, n, ns) if reads else c.dsm_write(self.ptr, at, local, n, ns)
        with nogil:
            rc = c.dsm_read(self.ptr, at, local, n, ns) if reads else c.dsm_write(self.ptr, at, local, n, ns)
        return rc

    @cython.final
    cdef inline int move_many(self, bint reads, uint64_t *at, size_t n, void *local, uint64_t each,
                              int64_t ns) noexcept:
        cdef int rc
        if self.mapped and n * each <= NOGIL_FROM:
            return (c.dsm_read_many(self.ptr, at, n, local, each, ns) if reads else
                    c.dsm_write_many(self.ptr, at, n, local, each, ns))
        with nogil:
            rc = (c.dsm_read_many(self.ptr, at, n, local, each, ns) if reads else
                  c.dsm_write_many(self.ptr, at, n, local, each, ns))
        return rc

    @cython.final
    cdef inline int add(self, uint64_t at, uint64_t value, uint64_t *old, int64_t ns) noexcept:
        cdef int rc
        if self.mapped:
            return c.dsm_fetch_add(self.ptr, at, value, old, ns)
        with nogil:
            rc = c.dsm_fetch_add(self.ptr, at, value, old, ns)
        return rc

    @cython.final
    cdef inline int swap(self, uint64_t at, uint64_t expected, uint64_t desired, uint64_t *old, int64_t ns) noexcept:
        cdef int rc
        if self.mapped:
            return c.dsm_compare_swap(self.ptr, at, expected, desired, old, ns)
        with nogil:
            rc = c.dsm_compare_swap(self.ptr, at, expected, desired, old, ns)
        return rc

    @cython.final
    cdef inline void keep(self, object buffer, void *p, uint64_t n) noexcept:
        """To be called before an op on a local buffer. The object is the buffer, or has the memory of the buffer."""
        if n > self.caches:
            keep_registered(self.context, buffer, p, n, True)

    # -- ops --

    def read(self, offset, out, timeout=None):
        self.enter()
        try:
            self.transfer(True, offset, out, timeout)
        finally:
            self.leave()

    def write(self, offset, data, timeout=None):
        self.enter()
        try:
            self.transfer(False, offset, data, timeout)
        finally:
            self.leave()

    @cython.final
    cdef inline int transfer(self, bint reads, object offset, object local, object timeout) except -1:
        cdef Py_buffer view
        cdef int rc
        cdef uint64_t at = offset_of(offset)
        cdef int64_t ns = -1 if timeout is None else nanoseconds(timeout)
        get_buffer(local, &view, reads)
        self.keep(local, view.buf, view.len)
        rc = self.move(reads, at, view.buf, view.len, ns)
        PyBuffer_Release(&view)
        if rc:
            raise self.failed(rc, "read" if reads else "write")
        return 0

    def fetch_add(self, offset, value, timeout=None):
        cdef uint64_t old = 0, at, add
        cdef int64_t ns
        cdef int rc
        self.enter()
        try:
            at, add = offset_of(offset), word(value, "value")
            ns = -1 if timeout is None else nanoseconds(timeout)
            rc = self.add(at, add, &old, ns)
            if rc:
                raise self.failed(rc, "fetch_add")
            return old
        finally:
            self.leave()

    def compare_swap(self, offset, expected, desired, timeout=None):
        cdef uint64_t old = 0, at, e, d
        cdef int64_t ns
        cdef int rc
        self.enter()
        try:
            at, e, d = offset_of(offset), word(expected, "expected"), word(desired, "desired")
            ns = -1 if timeout is None else nanoseconds(timeout)
            rc = self.swap(at, e, d, &old, ns)
            if rc:
                raise self.failed(rc, "compare_swap")
            return old
        finally:
            self.leave()

    cdef int many(self, object offsets, object local, object timeout, bint reads) except -1:
        cdef Py_buffer where, view
        cdef size_t n, each
        cdef int rc = 0
        cdef int64_t ns = -1 if timeout is None else nanoseconds(timeout)
        cdef str name = "read_many" if reads else "write_many"
        if not isinstance(offsets, ndarray) or offsets.dtype != UINT64:
            offsets = as_words(offsets, "offsets")
        get_buffer(offsets, &where, False)
        try:
            get_buffer(local, &view, reads)
            n = where.len // 8
            each = view.len // n if n else 0
            if n * each != <size_t> view.len or (n and not each):
                PyBuffer_Release(&view)
                raise error_of(c.DSM_EINVAL, f"{view.len} bytes do not divide into {n} equal pieces", name)
            if n:
                if each > self.caches:
                    self.keep(local, view.buf, view.len)
                rc = self.move_many(reads, <uint64_t *> where.buf, n, view.buf, each, ns)
            PyBuffer_Release(&view)
        finally:
            PyBuffer_Release(&where)
        if rc:
            raise self.failed(rc, name)
        return 0

    def read_many(self, offsets, out, timeout=None):
        self.enter()
        try:
            self.many(offsets, out, timeout, True)
        finally:
            self.leave()

    def write_many(self, offsets, data, timeout=None):
        self.enter()
        try:
            self.many(offsets, data, timeout, False)
        finally:
            self.leave()

    # -- asyncio --

    def read_async(self, offset, out):
        if self.context is None:
            return settled(asyncio.get_running_loop(), self.read(offset, out))
        self.enter()
        try:
            return self.context.submit(self.copying(c.DSM_OP_READ, "read", offset, out))
        finally:
            self.leave()

    def write_async(self, offset, data):
        if self.context is None:
            return settled(asyncio.get_running_loop(), self.write(offset, data))
        self.enter()
        try:
            return self.context.submit(self.copying(c.DSM_OP_WRITE, "write", offset, data))
        finally:
            self.leave()

    cdef Pending copying(self, int code, str name, object offset, object local):
        cdef uint64_t at = offset_of(offset)
        cdef Pending p = Pending(self, name)
        p.hold(code, at, local)
        return p

    def fetch_add_async(self, offset, value):
        cdef Pending p
        if self.context is None:
            return settled(asyncio.get_running_loop(), self.fetch_add(offset, value))
        self.enter()
        try:
            p = Pending(self, "fetch_add")
            p.atomic(c.DSM_OP_FETCH_ADD, offset_of(offset), word(value, "value"), 0)
            return self.context.submit(p)
        finally:
            self.leave()

    def compare_swap_async(self, offset, expected, desired):
        cdef Pending p
        if self.context is None:
            return settled(asyncio.get_running_loop(), self.compare_swap(offset, expected, desired))
        self.enter()
        try:
            p = Pending(self, "compare_swap")
            p.atomic(c.DSM_OP_COMPARE_SWAP, offset_of(offset), word(expected, "expected"), word(desired, "desired"))
            return self.context.submit(p)
        finally:
            self.leave()

    # -- closing --

    def close(self):
        if self.live:
            self.catch_up()
            self.refuse_in_use()
            if self.context is not None and self.context.pending:  # a loop that has ended does not collect its ops
                self.context._settle(asyncio._get_running_loop())
            if self.exports:
                self.detach()
            else:
                self.free()

    cdef int free(self) except -1:
        cdef c.dsm_remote *ptr = self.ptr
        cdef bint was = self.live
        cdef int rc
        if ptr == NULL:
            return 0
        self.live, self.ptr = False, NULL  # no thread can begin an op now
        if self.context is not None:
            self.context.uses += 1  # keeps the core's context alive during the call
        with nogil:
            rc = c.dsm_remote_close(ptr)
        if self.context is not None:
            self.context.uses -= 1
        if rc:
            self.live, self.ptr = was, ptr
            raise self.failed(rc, "close")
        if self.context is not None:
            self.context.forget(self)
        self._held = None
        return 0

    cdef int drop_user(self) except -1:
        """Called when a handle that depends on it has been closed."""
        self.users -= 1
        self.close_if_parting()
        return 0

    cdef int close_if_parting(self) except -1:
        if self.parting and self.live and not (self.exports or self.uses or self.users):
            self.free()
        return 0

    def detach(self):
        self.parting = True
        self.close_if_parting()

    def __enter__(self):
        self.check()
        return self

    def __exit__(self, *error):
        self.close_after(error)

    def __del__(self):
        if self.live and not self.exports and not self.users:  # its users may be finalized after it
            if not self.parting and not self.item:
                warnings.warn(f"unclosed {self._user or repr(self)}", ResourceWarning, source=self)
            self.close()

    def __dealloc__(self):
        if self.ptr != NULL:  # it had views or users when it was finalized; they no longer exist
            with nogil:
                c.dsm_remote_close(self.ptr)

    def __len__(self):
        return self.nbytes

    def __repr__(self):
        return f"<Remote {self.nbytes} bytes '{self.access}' at {self.address}{' closed' if self.ptr == NULL else ''}>"


cdef object new_remote(Context context, c.dsm_remote *ptr):
    """The caller has entered the context, unless it is None."""
    cdef Remote r
    cdef uint8_t node[16]
    try:
        r = Remote.__new__(Remote)
        c.dsm_remote_node(ptr, node)
        r.mapped = c.dsm_remote_mapped(ptr) != NULL
        r.nbytes = c.dsm_remote_nbytes(ptr)
        r.caches = c.dsm_remote_caches(ptr)
        r.access = letters(c.dsm_remote_access(ptr))
        r.peer = (<char *> node)[:16].hex()
        r.address = c.dsm_remote_address(ptr).decode()
        r.fabric = c.dsm_remote_fabric(ptr).decode()
        r.bulk_fabric = c.dsm_remote_bulk_fabric(ptr).decode()
        r.context = context
        if context is not None:
            context.adopt(r)
    except BaseException:  # out of memory
        with nogil:
            c.dsm_remote_close(ptr)
        raise
    r.ptr, r.live = ptr, True
    return r


cdef object settled(object loop, object value):
    """Return a completed future: an op on a mapped file completes at once."""
    future = loop.create_future()
    future.set_result(value)
    return future


def map_file(int fd, nbytes, access="rwa"):
    cdef uint64_t size = nbytes
    cdef c.dsm_remote *r = NULL
    cdef int rc = c.dsm_map(fd, size, rights(access), &r)
    if rc:
        raise error_from_core(rc, "map")
    return new_remote(None, r)


def object_type(Remote remote not None):
    cdef int rc
    remote.enter()
    with nogil:
        rc = c.dsm_object_type(remote.ptr)
    remote.leave()
    if rc < 0:
        raise remote.failed(rc, "attach")
    return c.dsm_type_name(rc).decode()


cdef object UINT64 = np.dtype("uint64")


@cython.auto_pickle(False)
cdef class Started:
    """What an event loop waits for: ops, which the core uses, and the future. It keeps all that the core uses alive
    and in place.
    """
    cdef c.dsm_ticket *ticket
    cdef size_t failed  # index of the op that the error is about
    cdef object loop, future, error

    cdef int start(self, c.dsm_ctx *context) noexcept:
        """Post the ops. Returns what dsm_start() returns."""
        return -c.DSM_EINVAL

    cdef c.dsm_op *posted_ops(self) noexcept:
        return NULL

    cdef object failure(self, int rc, str device):
        return error_from_core(rc, "start", None, device)

    cdef finish(self, str device):
        """Called when the ops are complete. Afterwards the core does not refer to them any more."""
        cdef int rc = c.dsm_finish(self.ticket, -1, &self.failed)
        self.error = self.failure(rc, device) if rc else None
        self.release()

    cdef void release(self):
        pass

    cdef object result(self):
        return None

    def resolve(self):
        """Called in the event loop of the task that waits."""
        if self.future.done():  # cancelled
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result())


@cython.final
cdef class Pending(Started):
    """One op."""
    cdef c.dsm_op op
    cdef Remote remote
    cdef Py_buffer view
    cdef bint held
    cdef str name

    def __cinit__(self, Remote remote not None, str name):
        remote.check()
        memset(&self.op, 0, sizeof(self.op))
        self.remote = remote
        self.name = name

    cdef hold(self, int code, uint64_t offset, object buffer):
        get_buffer(buffer, &self.view, code == c.DSM_OP_READ)
        self.held = True
        self.op.code, self.op.offset, self.op.local, self.op.nbytes = code, offset, self.view.buf, self.view.len
        if <uint64_t> self.view.len > self.remote.caches:  # in an event loop
            keep_registered(self.remote.context, buffer, self.view.buf, self.view.len, False)

    def __dealloc__(self):
        self.release()

    cdef atomic(self, int code, uint64_t offset, uint64_t operand, uint64_t desired):
        self.op.code, self.op.offset, self.op.nbytes = code, offset, 8
        self.op.operand, self.op.desired = operand, desired

    cdef int start(self, c.dsm_ctx *context) noexcept:
        cdef int rc
        self.op.remote = self.remote.ptr
        with nogil:
            rc = c.dsm_start(context, &self.op, 1, &self.ticket, NULL)
        return rc

    cdef c.dsm_op *posted_ops(self) noexcept:
        return &self.op

    cdef object failure(self, int rc, str device):
        return error_from_core(rc, self.name, self.remote.peer, device)

    cdef void release(self):
        if self.held:
            PyBuffer_Release(&self.view)
            self.held = False

    cdef object result(self):
        return self.op.result if self.op.code >= c.DSM_OP_FETCH_ADD else None
