# Included by _core.pyx after store.pxi: how tasks of event loops use a store
# (docs/decisions/0011-one-helper-waits-for-many-tasks.md).
#
# What certainly does not wait is done in the loop: one page in mapped memory that is in a frame, and that no other
# client is changing. Everything else is a job for the handle's helper, a thread that does one job after another and
# ends when there is none.
#
# Invariants, under the GIL:
#   A job is in the helper's queue while it WAITS. It RUNS in the helper; ENDED, it has a result or an error.
#   The handle is in use while a job runs, and while a coroutine does that is not suspended. So close() is refused while
#   a job runs, and jobs that wait then get ClosedError when it is their turn.
#   A job has its arguments, converted and checked, and keeps the memory it works on. So what became of its task, which
#   may be cancelled or gone with its loop, makes no difference to it.
#   Pages that were allocated for a task that does not take them are freed.

cdef enum:
    JOB_WAITS
    JOB_RUNS
    JOB_ENDED
cdef enum:
    AT_EXIT_S = 5  # how long the exit of the process waits for a job

cdef set at_work = set()  # every StoreHelper whose thread runs


cdef class StoreJob
ctypedef int (*store_work)(StoreJob job) except -1


@cython.final
cdef class StoreJob:
    cdef Store store
    cdef store_work work
    cdef Py_buffer view   # of the caller's memory, if it is used
    cdef Py_buffer said   # the same, for a code of each page
    cdef void *at         # where the pages are, or are to be
    cdef uint8_t *codes   # NULL: none are wanted
    cdef ndarray pids, versions
    cdef uint64_t number, version
    cdef bint compares, unwanted
    cdef int state
    cdef object call, result, error, loop, future

    def __dealloc__(self):
        PyBuffer_Release(&self.view)  # no effect if it was released before
        PyBuffer_Release(&self.said)

    cdef int lend(self, object memory, bint writable, uint64_t nbytes, str name, str what) except -1:
        get_buffer(memory, &self.view, writable)
        check_pages(self.view.len, nbytes, name, what)
        self.at = self.view.buf
        return 0

    cdef uint64_t *ids(self) noexcept:
        return <uint64_t *> PyArray_DATA(self.pids)

    cdef size_t count(self) noexcept:
        return PyArray_NBYTES(self.pids) // 8

    cdef run(self):
        """Called by the helper."""
        self.state = JOB_RUNS
        try:
            self.store.enter()
            try:
                self.work(self)
            finally:
                self.store.leave()
        except BaseException as error:
            self.error = error
        if self.unwanted:
            self.undo()
        self.state = JOB_ENDED
        if self.loop is not None and not self.tell() and not self.unwanted:
            self.unwanted = True  # the coroutine may be closed after the loop
            self.undo()

    cdef bint tell(self):
        """Whether its task's loop is still there."""
        try:
            self.loop.call_soon_threadsafe(self.wake)
        except RuntimeError:
            return False
        return True

    cdef undo(self):
        """Called by the helper. What can't be freed stays allocated."""
        if self.work == job_allocate and self.error is None:
            give_back_all(self.store, list(self.pids))

    def wake(self):
        """Called in the task's loop."""
        if not self.future.done():
            self.future.set_result(None)


@cython.final
cdef class StoreHelper:
    cdef object jobs, running
    cdef uint32_t epoch
    cdef unsigned long thread  # 0: none runs, and none is about to
    cdef bint stopped

    def __cinit__(self):
        self.jobs, self.epoch = deque(), forks[0]

    cdef add(self, StoreJob job):
        self.jobs.append(job)
        if self.thread:
            return
        self.running = threading.Lock()
        self.running.acquire()
        self.thread = -1
        at_work.add(self)
        try:
            start_new_thread(self.help, (self.running,))
        except RuntimeError as error:
            self.jobs.remove(job)
            self.thread = 0
            at_work.discard(self)
            raise error_of(c.DSM_ENOMEM, f"no thread that works for tasks: {error}") from None

    def help(self, running):
        self.thread = PyThread_get_thread_ident()
        try:
            while self.jobs and not self.stopped:
                (<StoreJob> self.jobs.popleft()).run()
        finally:
            self.thread = 0
            at_work.discard(self)
            running.release()


def _forget_at_work():
    at_work.clear()


@atexit.register
def _end_at_work():
    """Let the helpers end before the interpreter ends threads at arbitrary points."""
    for one in list(at_work):
        (<StoreHelper> one).stopped = True
        (<StoreHelper> one).running.acquire(timeout=AT_EXIT_S)


os.register_at_fork(after_in_child=_forget_at_work)


cdef StoreJob new_job(Store store, store_work work):
    cdef StoreJob job = StoreJob.__new__(StoreJob)
    job.store, job.work = store, work
    return job


cdef StoreHelper helper_of(Store store):
    if store.helper is None or (<StoreHelper> store.helper).epoch != forks[0]:
        store.helper = StoreHelper()
    return store.helper


async def _done(StoreJob job):
    """Have the helper do the job. The caller has entered the store."""
    cdef Store store = job.store
    cdef StoreHelper helper = helper_of(store)
    cdef unsigned long here = PyThread_get_thread_ident()
    if store.turn_of == here or (not store.remote.mapped and store.uses > 1 and c.dsm_in_handler()):
        # The interrupted call may hold what the helper needs, and goes on only when this loop has ended.
        raise store.failed(c.dsm_refuse_reentry(b"store"), None)
    if helper.thread == here:
        raise error_of(c.DSM_EBUSY, "a function that run_async() calls waits for a call of the same handle in an event "
                                    "loop; make the call without _async")
    job.loop = asyncio.get_running_loop()
    job.future = job.loop.create_future()
    helper.add(job)
    error = None
    store.uses -= 1
    try:
        await job.future
    except BaseException as raised:
        error = raised
    store.uses += 1
    if error is not None:
        await _left(job, helper, isinstance(error, GeneratorExit))
        raise error
    if job.error is not None:
        raise job.error


async def _left(StoreJob job, StoreHelper helper, bint gone):
    """The task does not take the result. gone: it does not continue, either."""
    if job.state == JOB_WAITS:
        if job in helper.jobs:
            helper.jobs.remove(job)
        job.state = JOB_ENDED
    elif job.state == JOB_RUNS:
        job.unwanted = True
        if not gone:
            job.store.uses -= 1
            try:
                await _over(job)
            finally:
                job.store.uses += 1
    elif job.work == job_allocate and job.error is None and not job.unwanted and helper.epoch == forks[0]:
        job.unwanted = True
        back = new_job(job.store, job_free_many)
        back.pids = job.pids
        helper.add(back)


async def _over(StoreJob job):
    """Wait until the job has ended, but not long: the helper goes on alone."""
    job.future = job.loop.create_future()
    timer = job.loop.call_later(seconds_of(GRACE_NS), job.wake)
    while job.state != JOB_ENDED:
        with contextlib.suppress(asyncio.CancelledError):
            await job.future
        if not job.future.cancelled():
            break
        job.future = job.loop.create_future()
    timer.cancel()


# ---- what jobs do ----

cdef int job_read(StoreJob job) except -1:
    job.store.get(job.number, job.at)
    return 0


cdef int job_write(StoreJob job) except -1:
    job.result = job.store.put_view(job.number, &job.view, job.compares, job.version)
    return 0


cdef int job_version(StoreJob job) except -1:
    job.result = version_at(job.store, job.number)
    return 0


cdef int job_metadata(StoreJob job) except -1:
    job.result = metadata_at(job.store, job.number)
    return 0


cdef int job_read_many(StoreJob job) except -1:
    job.store.get_many(job.ids(), job.count(), job.at, job.codes)
    return 0


cdef int job_write_many(StoreJob job) except -1:
    job.store.put_many(job.ids(), job.at, job.versions, job.codes)
    return 0


cdef int job_allocate(StoreJob job) except -1:
    job.store.take(job.ids(), job.count())
    return 0


cdef int job_free(StoreJob job) except -1:
    job.store.give_back(job.number, job.store.demanded)
    return 0


cdef int job_free_many(StoreJob job) except -1:
    for pid in job.pids:
        job.store.give_back(pid, job.store.demanded)
    return 0


cdef int job_call(StoreJob job) except -1:
    job.result = job.call()
    return 0


# ---- what tasks call ----

cdef void let_go(StoreJob job) noexcept:
    """What a task has lent is its own again, unless the helper goes on alone."""
    if job.state != JOB_RUNS:
        PyBuffer_Release(&job.view)
        PyBuffer_Release(&job.said)


async def _store_read(Store store, pid, out):
    cdef StoreJob job = new_job(store, job_read)
    cdef int64_t began
    store.enter()
    try:
        job.number = page_of(pid)
        if out is None:
            job.result = PyBytes_FromStringAndSize(NULL, store.shape.page_bytes)
            job.at = PyBytes_AS_STRING(job.result)
        else:
            job.lend(out, True, store.shape.page_bytes, "out", "a page")
            job.result = out
        began = call_begins(&store.counted, CALL_READ)
        if store.shape.page_bytes > NOGIL_FROM or c.dsm_store_read_now(store.ptr, job.number, job.at, NULL):
            await _done(job)
        else:
            call_ends(&store.counted, CALL_READ, 1, began)
        return job.result
    finally:
        let_go(job)
        store.leave()


async def _store_write(Store store, pid, bint compares, version, data):
    cdef StoreJob job = new_job(store, job_write)
    cdef uint64_t written = 0
    cdef int call = CALL_COMPARE_WRITE if compares else CALL_WRITE
    cdef int64_t began
    store.enter()
    try:
        job.number, job.compares = page_of(pid), compares
        if compares:
            job.version = version_of(version)
        job.lend(data, False, store.shape.page_bytes, "data", "a page")
        began = call_begins(&store.counted, call)
        if not store.put_now(job.number, &job.view, &job.version if compares else NULL, &written):
            call_ends(&store.counted, call, 1, began)
            return written
        await _done(job)
        return job.result
    finally:
        let_go(job)
        store.leave()


async def _store_version(Store store, pid):
    cdef StoreJob job = new_job(store, job_version)
    cdef int64_t began
    store.enter()
    try:
        job.number = page_of(pid)
        began = call_begins(&store.counted, CALL_VERSION)
        if not c.dsm_store_version_now(store.ptr, job.number, &job.version):
            call_ends(&store.counted, CALL_VERSION, 1, began)
            return job.version
        await _done(job)
        return job.result
    finally:
        store.leave()


async def _store_metadata(Store store, pid):
    cdef StoreJob job = new_job(store, job_metadata)
    cdef int64_t began
    cdef c.dsm_page_metadata found
    store.enter()
    try:
        job.number = page_of(pid)
        began = call_begins(&store.counted, CALL_VERSION)
        if not c.dsm_store_metadata_now(store.ptr, job.number, &found):
            call_ends(&store.counted, CALL_VERSION, 1, began)
            return metadata_from(&found)
        await _done(job)
        return job.result
    finally:
        store.leave()


async def _store_read_many(Store store, ids, out, status):
    cdef StoreJob job = new_job(store, job_read_many)
    store.enter()
    try:
        job.pids = pages_of(ids).copy()  # the caller's may change
        job.codes = codes_of(status, &job.said, job.count())
        if out is None:
            out = np.empty((job.count(), store.shape.page_bytes), "u1")
        job.lend(out, True, job.count() * store.shape.page_bytes, "out", f"what {job.count()} ids name")
        await _done(job)
        return out
    finally:
        let_go(job)
        store.leave()


async def _store_write_many(Store store, ids, data, status):
    cdef StoreJob job = new_job(store, job_write_many)
    store.enter()
    try:
        job.pids = pages_of(ids).copy()
        job.codes = codes_of(status, &job.said, job.count())
        job.versions = np.empty(job.count(), UINT64)
        job.lend(data, False, job.count() * store.shape.page_bytes, "data", f"what {job.count()} ids name")
        await _done(job)
        return job.versions
    finally:
        let_go(job)
        store.leave()


async def _store_allocate(Store store, n):
    """n: None for one page, and its id."""
    cdef StoreJob job = new_job(store, job_allocate)
    store.enter()
    try:
        job.pids = store.room_for(1 if n is None else n)
        await _done(job)
        return int(job.pids[0]) if n is None else job.pids
    finally:
        store.leave()


async def _store_free(Store store, pid):
    cdef StoreJob job = new_job(store, job_free)
    store.enter()
    try:
        job.number = page_of(pid)
        await _done(job)
    finally:
        store.leave()


async def _store_call(Store store, call):
    """Have the helper make a call."""
    cdef StoreJob job = new_job(store, job_call)
    store.enter()
    try:
        job.call = call
        await _done(job)
        return job.result
    finally:
        store.leave()
