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
        error = self.error
        if error is not None:
            raise error
        return self.batch.ops[self.index].result

    @property
    def error(self):
        if self.batch is None:
            raise error_of(c.DSM_EBUSY, "the batch has not been executed; its results are there after the with block")
        self.batch.check_ended()
        return self.batch.error_at(self.index)


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
    cdef c.dsm_choice how
    cdef uint32_t stop   # how.stop: abort() was called
    cdef bint ran        # the core has seen the ops: each has its status
    cdef bint inside     # a thread is in dsm_execute_as(): the core's objects of all remotes are there
    cdef Running running  # started, and not known to be complete
    cdef dict places     # after a failure: Remote by address of the core's object

    def __cinit__(self, *given, **named):
        if len(given) != 3 or named or not isinstance(given[0], Context):
            raise not_made("Batch", "context.batch(...)")
        self.context = given[0]
        self.timeout_ns = nanoseconds(given[1])
        self.how.go_on = truth(given[2], "continue_on_error")
        self.how.stop = &self.stop
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
        (<Remote> remote).keep(buffer, view.buf, view.len)  # last: it lets other threads run, which may add ops here
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

    cdef int enter_all(self) except -1:
        cdef Remote remote
        self.context.check()
        for remote in self.remotes:
            remote.check()
        for remote in self.remotes:  # all are still open: no Python code has run since the checks
            remote.enter()
        self.context.enter()
        return 0

    cdef int leave_all(self) except -1:
        cdef Remote remote
        self.context.leave()
        for remote in self.remotes:
            remote.leave()
        return 0

    cdef _execute(self):
        cdef size_t failed = 0
        cdef int rc
        self.enter_all()
        self.ran = self.inside = True
        try:
            with nogil:
                rc = c.dsm_execute_as(self.context.ptr, self.ops, self.n, &self.how, self.timeout_ns, &failed)
            if rc:
                error = batch_failure(self, rc, failed)
                if error is not None:
                    raise error
        finally:
            self.inside = False
            self.leave_all()

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

    # -- asyncio --

    def __aenter__(self):
        return _batch_entered(self)

    def __aexit__(self, kind, error, trace):
        return _batch_left(self, kind)

    cdef object begin(self):
        """Start the ops and return the future."""
        cdef Running running
        if self.timeout_ns != -1:
            raise error_of(c.DSM_EINVAL, "a batch of an event loop has no timeout of its own; use asyncio.timeout()")
        running = Running(self)
        self.state = RUNNING
        try:
            self.enter_all()
            try:
                self.running = running
                future = self.context.submit(running)
                if self.stop and self.running is not None:  # abort() was called while it was started
                    self.abort()
            finally:
                self.leave_all()
        except BaseException:
            self.running = None
            self.state = FAILED
            self._release()
            raise
        return future

    def abort(self):
        if self.inside:
            c.dsm_stop(self.context.ptr, self.ops, self.n, &self.stop, NULL)
        elif self.running is not None and self.running.posted and self.context.ptr != NULL:
            c.dsm_stop(self.context.ptr, self.ops, self.n, &self.stop, self.running.ticket)
        else:
            self.stop = 1

    # -- outcomes --

    cdef int check_ended(self) except -1:
        if self.state < ABORTED:
            raise error_of(c.DSM_EBUSY, "the batch has not been executed; its results are there after the with block")
        if self.state == ABORTED:
            raise error_of(c.DSM_ECLOSED, "the block of the batch raised, so it has no results; make a new one")
        return 0

    cdef inline int status_at(self, size_t i) noexcept:
        return -self.ops[i].status if self.ran else c.DSM_ECANCELED

    cdef object error_at(self, size_t i):
        cdef c.dsm_op *op = &self.ops[i]
        cdef int code = self.status_at(i), cause
        cdef Remote remote
        if not code:
            return None
        cause = -op.cause if code == c.DSM_EUNKNOWN else 0
        remote = (self.places or {}).get(<uintptr_t> op.remote)
        text = f"op {i} of {self.n}" if remote is None else f"op {i} of {self.n} to {remote.address}"
        if code == c.DSM_ETIME and op.code != c.DSM_OP_READ:
            text += " was not executed; the deadline passed, allow it more time"
        error = class_of(code, cause)(text, status=op.wc_status, vendor=op.vendor, op=OP_NAMES[op.code],
                                      peer=None if remote is None else remote.peer, device=self.context.device)
        error.index = i
        return with_cause(error, cause)

    @property
    def errors(self):
        cdef size_t i
        self.check_ended()
        return [self.error_at(i) for i in range(self.n)]

    @property
    def statuses(self):
        cdef size_t i
        cdef ndarray out
        cdef int32_t *to
        self.check_ended()
        out = np.empty(self.n, np.int32)
        to = <int32_t *> PyArray_DATA(out)
        for i in range(self.n):
            to[i] = self.status_at(i)
        return out


@cython.final
cdef class Running(Started):
    """A batch that has been started."""
    cdef Batch batch
    cdef bint posted  # dsm_start_as() has returned

    def __cinit__(self, Batch batch not None):
        self.batch = batch

    cdef int start(self, c.dsm_ctx *context) noexcept:
        cdef Batch batch = self.batch
        cdef int rc
        with nogil:
            rc = c.dsm_start_as(context, batch.ops, batch.n, &batch.how, &self.ticket, &self.failed)
        batch.ran = True  # not before: until then the ops have no status
        self.posted = True
        return rc

    cdef c.dsm_op *posted_ops(self) noexcept:
        return self.batch.ops

    cdef object failure(self, int rc, str device):
        self.batch.running = None  # first: the ticket has ended, and what follows runs code that may call abort()
        return batch_failure(self.batch, rc, self.failed)

    cdef void release(self):
        cdef Batch batch = self.batch
        batch.running = None
        batch.state = FAILED if self.error is not None else DONE
        batch._release()


async def _batch_entered(Batch batch):
    return batch.__enter__()


async def _batch_left(Batch batch, kind):
    """The end of an 'async with' block. A task that is cancelled aborts the batch, and stays until it has ended."""
    if batch.state > ENTERED or kind is not None or not batch.n:
        batch.__exit__(kind, None, None)
        return
    future = batch.begin()
    try:
        await asyncio.shield(future)
    except asyncio.CancelledError:
        batch.abort()
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        raise


cdef tuple OP_NAMES = ("", "read", "write", "fetch_add", "compare_swap")


cdef object batch_failure(Batch batch, int rc, size_t failed):
    """Return the exception of the batch; with continue_on_error only that of a signal handler, or None."""
    cdef Remote remote
    batch.places = {<uintptr_t> remote.ptr: remote for remote in batch.remotes}
    remote = batch.places[<uintptr_t> batch.ops[failed].remote]
    if raised is not None and PyThread_get_thread_ident() == main_ident:
        return take_raised()
    if batch.how.go_on:
        return None
    error = error_from_core(rc, OP_NAMES[batch.ops[failed].code], remote.peer, batch.context.device)
    error.index = failed
    return error
