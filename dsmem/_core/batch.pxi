# Included by _core.pyx: Batch and Result.

@cython.final
@cython.freelist(128)
cdef class Result:
    """See the stub."""
    cdef Batch batch
    cdef size_t index

    def __init__(self):
        raise TypeError("made by Batch.fetch_add and .compare_swap")

    @property
    def value(self):
        if self.batch is None or not self.batch.done:
            raise refused(c.DSM_EBUSY, "the batch has not been executed; its results are there after the with block")
        return self.batch.ops[self.index].result


@cython.final
cdef class Batch:
    """See the stub."""
    cdef Context context
    cdef int64_t timeout_ns
    cdef c.dsm_op *ops
    cdef Py_buffer *views
    cdef size_t n, nviews, room
    cdef list remotes
    cdef Remote last
    cdef readonly bint done

    def __cinit__(self, Context context not None, timeout=None):
        self.context = context
        self.timeout_ns = nanoseconds(timeout)
        self.remotes = []

    def __dealloc__(self):
        self._release()
        free(self.ops)
        free(self.views)

    cdef void _release(self):
        cdef size_t i
        for i in range(self.nviews):
            PyBuffer_Release(&self.views[i])
        self.nviews = 0

    cdef int _grow(self) except -1:
        cdef size_t room = self.room * 2 if self.room else BATCH_START
        cdef c.dsm_op *ops = <c.dsm_op *> realloc(self.ops, room * sizeof(c.dsm_op))
        if not ops:
            raise refused(c.DSM_ENOMEM, f"a batch of {room} ops")
        self.ops = ops
        cdef Py_buffer *views = <Py_buffer *> realloc(self.views, room * sizeof(Py_buffer))
        if not views:
            raise refused(c.DSM_ENOMEM, f"a batch of {room} ops")
        self.views = views
        self.room = room
        return 0

    cdef c.dsm_op *_next(self, Remote remote, int code, object offset, bint fence) except NULL:
        """Room for one op more; it counts once self.n is raised."""
        cdef uint64_t at = offset_of(offset)
        cdef c.dsm_op *op
        if self.done:
            raise refused(c.DSM_ECLOSED, "the batch has been executed; make a new one")
        if remote is not self.last:
            remote.check()
            if remote.context is not None and remote.context is not self.context:
                raise refused(c.DSM_EINVAL, "the remote belongs to another context")
            self.last = remote
            self.remotes.append(remote)
        if self.n == self.room:
            self._grow()
        op = &self.ops[self.n]
        memset(op, 0, sizeof(c.dsm_op))
        op.code = code
        op.flags = c.DSM_OP_FENCE if fence else 0
        op.remote = remote.ptr
        op.offset = at
        return op

    cdef int _copy(self, Remote remote, int code, object offset, object buffer, bint fence) except -1:
        cdef Py_buffer view
        cdef c.dsm_op *op
        take(buffer, &view, code == c.DSM_OP_READ)  # first: it may run a program, which may add ops here
        try:
            op = self._next(remote, code, offset, fence)
        except BaseException:
            PyBuffer_Release(&view)
            raise
        op.local = view.buf
        op.nbytes = view.len
        self.views[self.nviews] = view
        self.nviews += 1
        self.n += 1
        return 0

    cdef Result _atomic(self, Remote remote, int code, object offset, uint64_t operand, uint64_t desired, bint fence):
        cdef c.dsm_op *op = self._next(remote, code, offset, fence)
        cdef Result result = Result.__new__(Result)
        op.nbytes = 8
        op.operand = operand
        op.desired = desired
        result.batch = self
        result.index = self.n
        self.n += 1
        return result

    def read(self, Remote remote not None, offset, out, *, bint fence=False):
        self._copy(remote, c.DSM_OP_READ, offset, out, fence)

    def write(self, Remote remote not None, offset, data, *, bint fence=False):
        self._copy(remote, c.DSM_OP_WRITE, offset, data, fence)

    def fetch_add(self, Remote remote not None, offset, value, *, bint fence=False):
        return self._atomic(remote, c.DSM_OP_FETCH_ADD, offset, word(value, "value"), 0, fence)

    def compare_swap(self, Remote remote not None, offset, expected, desired, *, bint fence=False):
        return self._atomic(remote, c.DSM_OP_COMPARE_SWAP, offset, word(expected, "expected"), word(desired, "desired"),
                            fence)

    def __len__(self):
        return self.n

    cdef _execute(self):
        cdef size_t failed = 0
        cdef int rc
        cdef Remote remote
        self.context.check()
        for remote in self.remotes:
            remote.check()
        for remote in self.remotes:
            remote.busy += 1
        self.context.busy += 1
        self.done = True
        with nogil:
            rc = c.dsm_execute(self.context.ptr, self.ops, self.n, self.timeout_ns, &failed)
        self.context.busy -= 1
        for remote in self.remotes:
            remote.busy -= 1
        self._release()
        if rc:
            raise batch_failure(self, rc, failed)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None and self.n:
            self._execute()
        else:
            self.done = kind is None
            self._release()


cdef tuple OP_NAMES = ("", "read", "write", "fetch_add", "compare_swap")


cdef object batch_failure(Batch batch, int rc, size_t failed):
    cdef c.dsm_remote *at = batch.ops[failed].remote
    cdef uint8_t node[16]
    c.dsm_remote_node(at, node)
    error = failure(rc, OP_NAMES[batch.ops[failed].code], (<char *> node)[:16].hex(), batch.context.device)
    error.index = failed
    return error
