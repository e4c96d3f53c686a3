# Included by _core.pyx: Batch and Result.

@cython.final
@cython.freelist(128)
cdef class Result:
    cdef Batch batch
    cdef size_t index

    def __init__(self, *args, **named):
        raise not_made("Result", "batch.fetch_add(...) or batch.compare_swap(...)")

    def __reduce__(self):
        raise not_pickled("result", "pickle its value")

    @property
    def value(self):
        if self.batch is None or self.batch.state < ABORTED:
            raise error_of(c.DSM_EBUSY, "the batch has not been executed; its results are there after the with block")
        if self.batch.state != DONE:
            raise error_of(c.DSM_ECLOSED, "the batch failed or its block raised, so it has no results; make a new one")
        return self.batch.ops[self.index].result


cdef enum:  # states of a batch; it only moves down this list
    COLLECTING
    ENTERED
    RUNNING
    ABORTED  # its block raised
    FAILED
    DONE


@cython.final
cdef class Batch:
    cdef Context context
    cdef int64_t timeout_ns
    cdef c.dsm_op *ops
    cdef Py_buffer *views
    cdef size_t n, nviews, room
    cdef list remotes
    cdef Remote last
    cdef int state

    def __cinit__(self, *given, **named):
        if len(given) != 2 or named or not isinstance(given[0], Context):
            raise not_made("Batch", "context.batch(...)")
        self.context = given[0]
        self.timeout_ns = nanoseconds(given[1])
        self.remotes = []

    def __reduce__(self):
        raise not_pickled("batch", "make one in the other process")

    @property
    def done(self):
        return self.state in (RUNNING, FAILED, DONE)

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
            raise error_of(c.DSM_ENOMEM, f"a batch of {room} ops")
        self.ops = ops
        cdef Py_buffer *views = <Py_buffer *> realloc(self.views, room * sizeof(Py_buffer))
        if not views:
            raise error_of(c.DSM_ENOMEM, f"a batch of {room} ops")
        self.views = views
        self.room = room
        return 0

    cdef inline int check_open(self) except -1:
        if self.state > ENTERED:
            raise error_of(c.DSM_ECLOSED, "the batch has been executed, or its block raised; make a new one")
        return 0

    cdef inline c.dsm_op *_next(self, object to, int code, object offset, bint fence) except NULL:
        """Return room for one more op. The op is part of the batch once the caller has incremented self.n."""
        cdef uint64_t at = offset_of(offset)
        cdef c.dsm_op *op
        cdef Remote remote
        self.check_open()
        if not isinstance(to, Remote):
            raise errors.ArgumentTypeError(f"remote={to!r:.80}: what Context.attach returned")
        remote = <Remote> to
        if remote is not self.last:
            remote.check()
            if remote.context is not None and remote.context is not self.context:
                raise error_of(c.DSM_EINVAL, "the remote belongs to another context")
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

    cdef inline int _copy(self, object remote, int code, object offset, object buffer, bint fence) except -1:
        cdef Py_buffer view
        cdef c.dsm_op *op
        get_buffer(buffer, &view, code == c.DSM_OP_READ)  # first: it may run Python code, which may add ops here
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

    cdef Result _atomic(self, object remote, int code, object offset, uint64_t operand, uint64_t desired, bint fence):
        cdef Result result = Result.__new__(Result)  # first: it may run finalizers, which may add ops here
        cdef c.dsm_op *op = self._next(remote, code, offset, fence)
        op.nbytes = 8
        op.operand = operand
        op.desired = desired
        result.batch = self
        result.index = self.n
        self.n += 1
        return result

    def read(self, remote, offset, out, *, fence=False):
        self._copy(remote, c.DSM_OP_READ, offset, out, truth(fence, "fence"))

    def write(self, remote, offset, data, *, fence=False):
        self._copy(remote, c.DSM_OP_WRITE, offset, data, truth(fence, "fence"))

    def fetch_add(self, remote, offset, value, *, fence=False):
        return self._atomic(remote, c.DSM_OP_FETCH_ADD, offset, word(value, "value"), 0,
                            truth(fence, "fence"))

    def compare_swap(self, remote, offset, expected, desired, *, fence=False):
        return self._atomic(remote, c.DSM_OP_COMPARE_SWAP, offset, word(expected, "expected"), word(desired, "desired"),
                            truth(fence, "fence"))

    def __len__(self):
        return self.n

    cdef _execute(self):
        cdef size_t failed = 0
        cdef int rc
        cdef Remote remote
        self.context.check()
        for remote in self.remotes:
            remote.check()
        for remote in self.remotes:  # all are still open: no Python code has run since the checks
            remote.enter()
        self.context.enter()
        try:
            with nogil:
                rc = c.dsm_execute(self.context.ptr, self.ops, self.n, self.timeout_ns, &failed)
            if rc:
                raise batch_failure(self, rc, failed)
        finally:
            self.context.leave()
            for remote in self.remotes:
                remote.leave()

    def __enter__(self):
        self.check_open()
        if self.state == ENTERED:
            raise error_of(c.DSM_EBUSY, "the batch is being filled in another with block")
        self.state = ENTERED
        return self

    def __exit__(self, kind, error, trace):
        if self.state > ENTERED:
            return
        self.state = ABORTED if kind is not None else RUNNING if self.n else DONE
        try:
            if self.state == RUNNING:
                self._execute()
                self.state = DONE
        finally:
            if self.state == RUNNING:
                self.state = FAILED
            self._release()


cdef tuple OP_NAMES = ("", "read", "write", "fetch_add", "compare_swap")


cdef object batch_failure(Batch batch, int rc, size_t failed):
    cdef c.dsm_remote *at = batch.ops[failed].remote
    cdef uint8_t node[16]
    c.dsm_remote_node(at, node)
    error = error_from_core(rc, OP_NAMES[batch.ops[failed].code], (<char *> node)[:16].hex(), batch.context.device)
    error.index = failed
    return error
