# Included by _core.pyx: Remote, and Pending, the op behind what its asynchronous methods return.

@cython.final
cdef class Remote:
    """See the stub."""
    cdef c.dsm_remote *ptr
    cdef bint near, mapped  # mapped: a file, of no context
    cdef int busy    # ops under way without the GIL
    cdef readonly uint64_t nbytes
    cdef object __weakref__
    cdef readonly Context context
    cdef readonly str access
    cdef readonly str peer
    cdef readonly str address
    cdef uint32_t exports
    cdef bint parting   # it is closed with its last view

    def __init__(self):
        raise TypeError("made by Context.attach and map_file")

    cdef object failed(self, int rc, str op):
        return failure(rc, op, self.peer, None if self.context is None else self.context.device)

    cdef int check(self) except -1:
        if self.ptr == NULL:
            raise refused(c.DSM_ECLOSED, "remote")
        return 0 if self.context is None else self.context.check()

    @property
    def closed(self):
        return self.ptr == NULL

    # -- views --

    @property
    def is_near(self):
        return self.near

    def array(self, dtype="u1"):
        self.check()
        kind = np.dtype(dtype)
        if kind.hasobject or not kind.itemsize or self.nbytes % kind.itemsize:
            raise refused(c.DSM_EINVAL, f"{self.nbytes} bytes are no array of {kind}")
        return np.frombuffer(self, kind)

    def __getbuffer__(self, Py_buffer *view, int flags):
        self.check()
        if not self.near:
            raise refused(c.DSM_EFAR, self.address)
        if "r" not in self.access:
            raise refused(c.DSM_EACCESS, "no right to read")
        PyBuffer_FillInfo(view, self, c.dsm_remote_near(self.ptr), self.nbytes, "w" not in self.access, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1
        if self.parting and not self.exports and not self.busy:
            self.close()

    def read(self, offset, out, timeout=None):
        cdef Py_buffer view
        cdef int rc
        cdef uint64_t at = offset_of(offset)
        cdef int64_t ns = -1 if timeout is None else nanoseconds(timeout)
        take(out, &view, True)
        if self.ptr == NULL:  # not before: taking a buffer may run a program of its own, or let another thread run
            PyBuffer_Release(&view)
            self.check()
        if self.near and view.len <= NOGIL_FROM:
            rc = c.dsm_read(self.ptr, at, view.buf, view.len, ns)
        else:
            self.busy += 1
            with nogil:
                rc = c.dsm_read(self.ptr, at, view.buf, view.len, ns)
            self.busy -= 1
        PyBuffer_Release(&view)
        if rc:
            raise self.failed(rc, "read")

    def write(self, offset, data, timeout=None):
        cdef Py_buffer view
        cdef int rc
        cdef uint64_t at = offset_of(offset)
        cdef int64_t ns = -1 if timeout is None else nanoseconds(timeout)
        take(data, &view, False)
        if self.ptr == NULL:
            PyBuffer_Release(&view)
            self.check()
        if self.near and view.len <= NOGIL_FROM:
            rc = c.dsm_write(self.ptr, at, view.buf, view.len, ns)
        else:
            self.busy += 1
            with nogil:
                rc = c.dsm_write(self.ptr, at, view.buf, view.len, ns)
            self.busy -= 1
        PyBuffer_Release(&view)
        if rc:
            raise self.failed(rc, "write")

    def fetch_add(self, offset, value, timeout=None):
        cdef uint64_t old = 0, at = offset_of(offset), add = word(value, "value")
        cdef int64_t ns = -1 if timeout is None else nanoseconds(timeout)
        cdef int rc
        if self.ptr == NULL:
            self.check()
        if self.near:
            rc = c.dsm_fetch_add(self.ptr, at, add, &old, ns)
        else:
            self.busy += 1
            with nogil:
                rc = c.dsm_fetch_add(self.ptr, at, add, &old, ns)
            self.busy -= 1
        if rc:
            raise self.failed(rc, "fetch_add")
        return old

    def compare_swap(self, offset, expected, desired, timeout=None):
        cdef uint64_t old = 0, at = offset_of(offset), e = word(expected, "expected"), d = word(desired, "desired")
        cdef int64_t ns = -1 if timeout is None else nanoseconds(timeout)
        cdef int rc
        if self.ptr == NULL:
            self.check()
        if self.near:
            rc = c.dsm_compare_swap(self.ptr, at, e, d, &old, ns)
        else:
            self.busy += 1
            with nogil:
                rc = c.dsm_compare_swap(self.ptr, at, e, d, &old, ns)
            self.busy -= 1
        if rc:
            raise self.failed(rc, "compare_swap")
        return old

    cdef many(self, object offsets, object local, object timeout, bint reads):
        cdef Py_buffer where, view
        cdef size_t n, each
        cdef int rc
        cdef int64_t ns = -1 if timeout is None else nanoseconds(timeout)
        cdef str name = "read_many" if reads else "write_many"
        if not isinstance(offsets, np.ndarray) or offsets.dtype != UINT64:
            offsets = as_offsets(offsets)
        take(offsets, &where, False)
        try:
            take(local, &view, reads)
            if self.ptr == NULL:
                PyBuffer_Release(&view)
                self.check()
            n = where.len // 8
            each = view.len // n if n else 0
            if n * each != <size_t> view.len or (n and not each):
                PyBuffer_Release(&view)
                raise refused(c.DSM_EINVAL, f"{view.len} bytes do not divide into {n} equal pieces", name)
            if not n:
                rc = 0
            elif self.near and view.len <= NOGIL_FROM:
                rc = (c.dsm_read_many(self.ptr, <uint64_t *> where.buf, n, view.buf, each, ns) if reads else
                      c.dsm_write_many(self.ptr, <uint64_t *> where.buf, n, view.buf, each, ns))
            else:
                self.busy += 1
                with nogil:
                    if reads:
                        rc = c.dsm_read_many(self.ptr, <uint64_t *> where.buf, n, view.buf, each, ns)
                    else:
                        rc = c.dsm_write_many(self.ptr, <uint64_t *> where.buf, n, view.buf, each, ns)
                self.busy -= 1
            PyBuffer_Release(&view)
        finally:
            PyBuffer_Release(&where)
        if rc:
            raise self.failed(rc, name)

    def read_many(self, offsets, out, timeout=None):
        self.many(offsets, out, timeout, True)

    def write_many(self, offsets, data, timeout=None):
        self.many(offsets, data, timeout, False)

    # -- asyncio --

    def read_async(self, offset, out):
        if self.context is None:
            return settled(self.read(offset, out))
        cdef Pending p = Pending(self, "read")
        p.hold(c.DSM_OP_READ, offset_of(offset), out)
        return self.context.submit(p)

    def write_async(self, offset, data):
        if self.context is None:
            return settled(self.write(offset, data))
        cdef Pending p = Pending(self, "write")
        p.hold(c.DSM_OP_WRITE, offset_of(offset), data)
        return self.context.submit(p)

    def fetch_add_async(self, offset, value):
        if self.context is None:
            return settled(self.fetch_add(offset, value))
        cdef Pending p = Pending(self, "fetch_add")
        p.atomic(c.DSM_OP_FETCH_ADD, offset_of(offset), word(value, "value"), 0)
        return self.context.submit(p)

    def compare_swap_async(self, offset, expected, desired):
        if self.context is None:
            return settled(self.compare_swap(offset, expected, desired))
        cdef Pending p = Pending(self, "compare_swap")
        p.atomic(c.DSM_OP_COMPARE_SWAP, offset_of(offset), word(expected, "expected"), word(desired, "desired"))
        return self.context.submit(p)

    # -- the end --

    def _refuse_busy(self):
        if self.busy:
            raise refused(c.DSM_EBUSY, f"{self.busy} calls are under way in other threads", "close")
        if self.exports:
            raise refused(c.DSM_EBUSY, f"the remote has {self.exports} views (arrays, memoryviews) or handles", "close")

    def close(self):
        cdef int rc
        self._forget()
        if self.ptr == NULL:
            return
        self._refuse_busy()
        cdef c.dsm_remote *ptr = self.ptr
        self.ptr = NULL  # nobody begins an op now
        with nogil:
            rc = c.dsm_remote_close(ptr)
        if rc:
            self.ptr = ptr
            raise self.failed(rc, "close")
        if self.context is not None:
            self.context.children.discard(self)

    cdef _forget(self):
        """In a cycle the context may be finalized first, and does not find its children then."""
        if self.context is not None and self.context.ptr == NULL:
            self.ptr = NULL

    def part(self):
        if self.ptr == NULL:
            return
        self.parting = True
        if not self.exports and not self.busy:
            self.close()

    def __enter__(self):
        self.check()
        return self

    def __exit__(self, *error):
        self.close()

    def __del__(self):
        self._forget()
        if self.ptr != NULL and not self.exports:  # what uses it may be finalized after it
            if not self.parting:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
            self.close()

    def __dealloc__(self):
        if self.ptr != NULL and self.mapped:
            c.dsm_remote_close(self.ptr)

    def __len__(self):
        return self.nbytes

    def __repr__(self):
        return f"<Remote {self.nbytes} bytes '{self.access}' at {self.address}{' closed' if self.ptr == NULL else ''}>"


cdef object new_remote(Context context, c.dsm_remote *ptr):
    cdef Remote r = Remote.__new__(Remote)
    cdef uint8_t node[16]
    c.dsm_remote_node(ptr, node)
    r.ptr = ptr
    r.context = context
    r.mapped = context is None
    r.near = c.dsm_remote_near(ptr) != NULL
    r.nbytes = c.dsm_remote_nbytes(ptr)
    r.access = letters(c.dsm_remote_access(ptr))
    r.peer = (<char *> node)[:16].hex()
    r.address = c.dsm_remote_address(ptr).decode()
    if context is not None:
        try:
            context.children.add(r)
        except BaseException:  # Ctrl-C: what the context does not know of must not outlive it
            r.ptr = NULL
            with nogil:
                c.dsm_remote_close(ptr)
            raise
    return r


cdef object settled(object value):
    """What an op on a mapped file, which is complete at once, gives an event loop to await."""
    future = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future


def map_file(int fd, nbytes, access="rwa"):
    cdef uint64_t size = nbytes
    cdef c.dsm_remote *r = NULL
    cdef int rc = c.dsm_map(fd, size, rights(access), &r)
    if rc:
        raise failure(rc, "map")
    return new_remote(None, r)


def object_type(Remote remote not None):
    cdef int rc
    remote.check()
    with nogil:
        rc = c.dsm_object_type(remote.ptr)
    if rc < 0:
        raise remote.failed(rc, "attach")
    return c.dsm_type_name(rc).decode()


cdef object UINT64 = np.dtype("uint64")


cdef object as_offsets(object offsets):
    array = np.asarray(offsets)
    if not array.size:
        return np.empty(0, UINT64)
    if array.dtype.kind not in "iu" or (array.dtype.kind == "i" and array.size and array.min() < 0):
        raise refused(c.DSM_EINVAL, f"offsets are numbers of bytes from 0 up, not {array.dtype}")
    return np.ascontiguousarray(array, UINT64)


@cython.final
cdef class Pending:
    """One op that an event loop waits for. It keeps buffer, remote and itself where the core has been told they are."""
    cdef c.dsm_op op
    cdef c.dsm_ticket ticket
    cdef Remote remote
    cdef Py_buffer view
    cdef bint held
    cdef str name
    cdef object loop, future, error

    def __cinit__(self, Remote remote not None, str name):
        remote.check()
        memset(&self.op, 0, sizeof(self.op))
        self.remote = remote
        self.name = name

    cdef hold(self, int code, uint64_t offset, object buffer):
        take(buffer, &self.view, code == c.DSM_OP_READ)
        self.held = True
        self.op.code, self.op.offset, self.op.local, self.op.nbytes = code, offset, self.view.buf, self.view.len

    def __dealloc__(self):
        self.release()

    cdef atomic(self, int code, uint64_t offset, uint64_t operand, uint64_t desired):
        self.op.code, self.op.offset, self.op.nbytes = code, offset, 8
        self.op.operand, self.op.desired = operand, desired

    cdef void release(self):
        if self.held:
            PyBuffer_Release(&self.view)
            self.held = False

    cdef finish(self, str device, int64_t timeout_ns):
        """After this the core knows nothing of it. timeout_ns 0 gives up an op that is not complete."""
        cdef int rc
        with nogil:
            rc = c.dsm_finish(&self.ticket, timeout_ns, NULL)
        self.error = failure(rc, self.name, self.remote.peer, device) if rc else None
        self.release()

    def resolve(self):
        """In the event loop of the one who waits."""
        if self.future.done():  # cancelled
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        elif self.op.code >= c.DSM_OP_FETCH_ADD:
            self.future.set_result(self.op.result)
        else:
            self.future.set_result(None)
