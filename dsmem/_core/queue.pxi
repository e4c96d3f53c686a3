# Included by _core.pyx: Queue, a handle of the lanes of objects/queue/ring.h. The GIL serialises the calls on a handle.

cdef class Queue(Handle):
    cdef c.dsm_queue *ptr
    cdef object __weakref__
    cdef readonly Remote remote
    cdef readonly Region region
    cdef c.dsm_queue_config config
    cdef bint mapped, producing, consuming, forsaken, lost
    cdef int64_t spin_ns
    # How many messages were staged when an exception said that they never go; 0 from the next one that is put or sent.
    cdef uint64_t told
    cdef PyThread_type_lock turn  # serialises calls that release the GIL: taking roles, producing remotely
    cdef unsigned long turn_of    # the thread that holds it, or 0
    cdef Slot writing, reading
    cdef object writing_view, reading_view
    cdef object inbox   # a deque of (kind, data) that a helper has taken for tasks (queue_tasks.pxi), or None
    cdef object peeked  # the data of the first of them while peek() shows it, or None
    cdef c.dsm_watch *watch_items
    cdef c.dsm_watch *watch_room

    def __cinit__(self, *args, **kwargs):
        self.turn = PyThread_allocate_lock()
        if self.turn == NULL:
            raise MemoryError()

    def __dealloc__(self):
        # Frees memory of this process that a subclass has not closed. A lane stays taken until the process ends.
        if self.outdated():
            self.watch_items = self.watch_room = NULL
        with nogil:
            c.dsm_watch_close(self.watch_items)
            c.dsm_watch_close(self.watch_room)
        if self.turn != NULL:
            PyThread_free_lock(self.turn)

    @cython.final
    cdef int begin(self) except -1:
        """Take the turn, without calling Python if it is free. The caller has entered the handle."""
        cdef PyLockStatus got = PyThread_acquire_lock_timed(self.turn, 0, 0)
        while got != PY_LOCK_ACQUIRED:
            if self.turn_of == PyThread_get_thread_ident():
                raise self.failed(c.dsm_refuse_reentry(b"queue"), None)
            self.go_on()
            self.remote.check()  # in a child of fork() no thread exists that could give it back
            with nogil:
                got = PyThread_acquire_lock_timed(self.turn, SLICE_NS // 1000, 1)
        self.turn_of = PyThread_get_thread_ident()
        return 0

    @cython.final
    cdef void end(self) noexcept:
        self.turn_of = 0
        PyThread_release_lock(self.turn)

    def __init__(self, Remote remote not None, Region region=None, *, spin=None):
        cdef void *local = NULL
        cdef int64_t spin_ns = SPIN_NS if spin is None else nanoseconds(spin, "spin")
        cdef int rc
        if self.remote is not None:
            raise error_of(c.DSM_EINVAL, "the queue has been opened before")
        remote.check()
        if region is not None:
            region.check()
            local = c.dsm_region_data(region.ptr)
            region.users += 1
        remote.users += 1
        self.remote, self.region, self.spin_ns = remote, region, spin_ns
        self.mapped = local != NULL or remote.mapped
        with nogil:
            rc = c.dsm_queue_open(remote.ptr, local, &self.ptr)
        if rc:
            self.let_go()
            raise remote.failed(rc, "queue")
        c.dsm_queue_get_config(self.ptr, &self.config)
        self.live = True

    cdef int renew(self) except -1:
        """The new handle has no role. The parent keeps its roles, its reservation and the message that it reads."""
        cdef c.dsm_queue *own = NULL
        cdef PyThread_type_lock turn
        cdef int rc
        self.remote.refuse_forked(self)
        self.remote.catch_up()
        turn = PyThread_allocate_lock()  # another thread may have held the old one
        if turn == NULL:
            raise MemoryError()
        rc = c.dsm_queue_open(self.remote.ptr, NULL, &own)
        if rc:
            PyThread_free_lock(turn)
            raise self.remote.failed(rc, "queue")
        self.ptr, self.turn, self.turn_of = own, turn, 0
        self.producing = self.consuming = False
        self.told = 0
        self.forget_inherited()
        return 0

    cdef void forget_inherited(self) noexcept:
        """The watches' descriptors stay open: the program may have closed them and reused their numbers."""
        self.writing = self.writing_view = self.reading = self.reading_view = self.inbox = self.peeked = None
        self.watch_items = self.watch_room = NULL

    cdef int let_go(self) except -1:
        """Stop using the memory."""
        if self.region is not None:
            self.region.users -= 1
        return self.remote.drop_user()

    cdef str noun(self):
        return "queue"

    cdef object failed(self, int rc, str op):
        return self.remote.failed(rc, op)

    @property
    def closed(self):
        return not self.live

    @property
    def _far(self):
        return not self.mapped

    @property
    def properties(self):
        return {"lanes": self.config.lanes, "lane_bytes": self.config.lane_bytes,
                "max_message": self.config.max_message,
                "many_consumers": bool(self.config.flags & c.DSM_QUEUE_MANY_CONSUMERS),
                "drop_oldest": bool(self.config.flags & c.DSM_QUEUE_DROP_OLDEST),
                "checked": bool(self.config.flags & c.DSM_QUEUE_CHECKED)}

    # -- roles --

    def produce(self):
        self.enter()
        try:
            self.take_lane()
        finally:
            self.leave()

    cdef int take_lane(self) except -1:
        cdef int rc
        self.begin()
        with nogil:
            rc = c.dsm_queue_produce(self.ptr)
        if not rc:
            self.producing = True
            if not c.dsm_queue_staged(self.ptr):
                self.told = 0
        self.end()
        if rc:
            raise self.failed(rc, "produce")
        return 0

    def consume(self):
        self.enter()
        try:
            self.take_role()
        finally:
            self.leave()

    cdef int take_role(self) except -1:
        cdef int rc
        self.begin()
        with nogil:
            rc = c.dsm_queue_consume(self.ptr)
        if not rc:
            self.consuming = True
        self.end()
        if rc:
            raise self.failed(rc, "consume")
        return 0

    def producers(self):
        return self.names(producers_naming, &self.ptr)

    def consumer(self):
        return next(iter(self.names(consumer_naming, &self.ptr)), None)

    def break_(self, holder):
        return self.take_from(roles_breaking, &self.ptr, holder)

    # -- waiting --

    @cython.final
    cdef int wait(self, bint items, uint64_t length, int64_t deadline, str op) except -1:
        """Wait until there may be an item or room: 1, or until the deadline (time.monotonic_ns(), -1: none): 0."""
        cdef int64_t left = SLICE_NS, spin = self.spin_ns, op_ns = self.op_ns(deadline)
        cdef int rc
        while True:
            if deadline >= 0:
                left = min(<int64_t> (deadline - time.monotonic_ns()), <int64_t> SLICE_NS)
                if left <= 0:
                    return 0
            with nogil:
                rc = (c.dsm_queue_wait_item(self.ptr, left, spin, op_ns) if items else
                      c.dsm_queue_wait_room(self.ptr, length, left, spin, op_ns))
            if not rc:
                return 1
            if rc != -c.DSM_ETIME:
                raise self.failed(rc, op)
            self.go_on()
            spin = 0

    cdef int64_t deadline(self, block, timeout) except? -2:
        if not truth(block, "block"):
            return 0
        return -1 if timeout is None else deadline_after(nanoseconds(timeout))

    cdef int64_t op_ns(self, int64_t deadline) except? -2:
        """How long the ops of a call may take. A call that does not wait for room still waits for the network."""
        return -1 if self.mapped or deadline <= 0 else max(<int64_t> 0, <int64_t> (deadline - time.monotonic_ns()))

    # -- putting --

    # A remote producer may have to wait for the network, so it releases the GIL and holds the turn.

    @cython.final
    cdef int send(self, str op, int64_t deadline) except -1:
        cdef int64_t ns
        cdef int rc
        if self.mapped:
            rc = c.dsm_queue_flush(self.ptr)
        else:
            ns = self.op_ns(deadline)
            self.begin()
            with nogil:
                c.dsm_queue_set_timeout(self.ptr, ns)
                rc = c.dsm_queue_flush(self.ptr)
            self.end()
        if rc:
            raise self.not_sent(rc, op)
        self.told = 0
        return 0

    @cython.final
    cdef object not_sent(self, int rc, str op):
        if never_goes(rc):
            self.told = c.dsm_queue_staged(self.ptr)
        return self.failed(rc, op)

    @cython.final
    cdef int push_once(self, const c.dsm_queue_part *parts, uint32_t n, uint8_t kind, int64_t deadline, int how,
                       int *placed) except? -1:
        cdef int rc
        if not self.mapped:
            return self.push_far(parts, n, kind, deadline, how, placed)
        rc = (c.dsm_queue_push(self.ptr, parts.bytes, parts.nbytes, kind) if n == 1 else
              c.dsm_queue_push_parts(self.ptr, parts, n, kind))
        return rc if rc or not is_sent(self.ptr, how) else c.dsm_queue_flush(self.ptr)

    @cython.final
    cdef int push_far(self, const c.dsm_queue_part *parts, uint32_t n, uint8_t kind, int64_t deadline, int how,
                      int *placed) except? -1:
        cdef int64_t ns
        cdef int rc = 1
        if how != AT_ONCE and not self.turn_of:  # no thread has the turn, and none takes it while this one has the GIL
            rc = c.dsm_queue_stage(self.ptr, parts, n, kind)
            placed[0] = not rc
            if rc < 0 or (not rc and not is_sent(self.ptr, how)):
                return rc
        try:
            ns = self.op_ns(deadline)
            self.begin()
        except BaseException as error:  # the message may be staged
            raise note_placed(error, placed[0])
        with nogil:
            c.dsm_queue_set_timeout(self.ptr, ns)
            if rc:
                rc = c.dsm_queue_push_parts(self.ptr, parts, n, kind)
                placed[0] = not rc
            if not rc and is_sent(self.ptr, how):
                rc = c.dsm_queue_flush(self.ptr)
        self.end()
        return rc

    cdef int64_t push_records(self, const void *p, uint64_t n, uint64_t each, int64_t deadline) except? -1:
        cdef int64_t rc, ns
        if self.mapped:
            return c.dsm_queue_push_records(self.ptr, p, n, each)
        ns = self.op_ns(deadline)
        self.begin()
        with nogil:
            c.dsm_queue_set_timeout(self.ptr, ns)
            rc = c.dsm_queue_push_records(self.ptr, p, n, each)
        self.end()
        return rc

    cdef int reserve_once(self, uint64_t n, void **at, int64_t deadline) except? -1:
        cdef int64_t ns
        cdef int rc
        if self.mapped:
            return c.dsm_queue_reserve(self.ptr, n, at)
        ns = self.op_ns(deadline)
        self.begin()
        with nogil:
            c.dsm_queue_set_timeout(self.ptr, ns)
            rc = c.dsm_queue_reserve(self.ptr, n, at)
        self.end()
        return rc

    def flush(self):
        self.enter()
        try:
            self.send("flush", -1)
        finally:
            self.leave()

    @property
    def staged(self):
        self.check()
        return 0 if self.mapped else c.dsm_queue_staged(self.ptr)

    @cython.final
    cdef int push(self, const c.dsm_queue_part *parts, uint32_t n, uint8_t kind, int64_t deadline, int how) except -1:
        """1, or 0 if there was no room until the deadline. Earlier messages are flushed before it waits."""
        cdef int placed = 0
        cdef int rc
        rc = self.push_once(parts, n, kind, deadline, how, &placed)
        if rc == -c.DSM_EFULL:
            rc = self.push_later(parts, n, kind, deadline, how, &placed)
        if rc == -c.DSM_EFULL:
            return 0
        if rc:
            raise note_placed(self.not_sent(rc, "put"), placed)
        self.told = 0
        return 1

    @cython.final
    cdef int push_later(self, const c.dsm_queue_part *parts, uint32_t n, uint8_t kind, int64_t deadline, int how,
                        int *placed) except? -1:
        cdef uint64_t length = length_of_parts(parts, n)
        cdef int rc = -c.DSM_EFULL
        while rc == -c.DSM_EFULL:
            self.send("put", deadline)
            if not deadline or not self.wait(False, length, deadline, "put"):
                break
            rc = self.push_once(parts, n, kind, deadline, how, placed)
        return rc

    @cython.final
    cdef int put_one(self, object data, uint8_t kind, int64_t deadline, int how) except -1:
        cdef Py_buffer view
        cdef c.dsm_queue_part part
        if PyBytes_CheckExact(data):
            part.bytes, part.nbytes = PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)
            return self.push(&part, 1, kind, deadline, how)
        get_buffer(data, &view, False)
        part.bytes, part.nbytes = view.buf, view.len
        try:
            return self.push(&part, 1, kind, deadline, how)
        finally:
            PyBuffer_Release(&view)

    def _put_parts(self, parts, uint8_t kind, block=True, timeout=None, flush=True):
        self.enter()
        try:
            put_parts(self, list(parts), kind, self.deadline(block, timeout), how_to(flush))
        finally:
            self.leave()

    def put(self, data, block=True, timeout=None, *, flush=True):
        cdef int64_t deadline
        cdef int how
        self.enter()
        try:
            deadline = -1 if block is True and timeout is None else self.deadline(block, timeout)
            how = AT_ONCE if flush is True else how_to(flush)
            if not self.producing:
                self.take_lane()
            if not self.put_one(data, BYTES, deadline, how):
                raise error_of(c.DSM_EFULL, f"{self.config.lane_bytes} bytes", "put")
        finally:
            self.leave()

    def put_nowait(self, data, *, flush=True):
        self.put(data, False, flush=flush)

    def put_many(self, items, block=True, timeout=None):
        cdef int64_t deadline
        self.enter()
        try:
            deadline = self.deadline(block, timeout)
            if not self.producing:
                self.take_lane()
            return (put_records(self, items, deadline) if isinstance(items, ndarray) else
                    put_all(self, items, deadline))
        finally:
            self.leave()

    def reserve(self, length, block=True, timeout=None):
        cdef int64_t deadline
        cdef uint64_t n
        self.enter()
        try:
            deadline = self.deadline(block, timeout)
            n = length_of(length)
            if not self.producing:
                self.take_lane()
            return reserve_view(self, n, deadline)
        finally:
            self.leave()

    cdef int end_writing(self, str op) except -1:
        if self.writing is None:
            raise error_of(c.DSM_EINVAL, "nothing is reserved", op)
        end_view(self.writing, self.writing_view, op)
        self.writing = self.writing_view = None
        return 0

    def commit(self, length=None, *, uint8_t _kind=BYTES):
        self.enter()
        try:
            self.commit_view(length, _kind)
        finally:
            self.leave()

    cdef int commit_view(self, object length, uint8_t kind) except -1:
        cdef int rc
        cdef uint64_t n = 0
        if length is not None:
            part = checked_int(length, 0)
            if part is None or self.writing is None or part > self.writing.length:
                most = 0 if self.writing is None else self.writing.length
                raise refused(length, int, f"{length!r} bytes of a reservation of {most}", "commit")
        self.begin()
        try:
            if self.writing is not None:
                n = self.writing.length if length is None else part
            self.end_writing("commit")
            rc = c.dsm_queue_commit(self.ptr, n, kind)
            if rc:
                c.dsm_queue_cancel(self.ptr)
                raise self.failed(rc, "commit")
        finally:
            self.end()
        try:
            return self.send("commit", -1)
        except BaseException as error:
            raise note_placed(error, 1)

    def cancel(self):
        self.enter()
        try:
            self.begin()
            try:
                self.end_writing("cancel")
                c.dsm_queue_cancel(self.ptr)
            finally:
                self.end()
        finally:
            self.leave()

    # -- getting --

    @cython.final
    cdef object next_bytes(self, uint8_t *kind, int64_t deadline):
        """Return the next message, or None."""
        cdef const void *p
        cdef uint64_t length
        cdef int rc
        if not self.mapped:
            got = []
            return got[0] if some_remotely(self, got, 1, kind, deadline) else None
        while True:
            rc = c.dsm_queue_next(self.ptr, &p, &length, kind)
            if rc:
                if rc == -c.DSM_EEMPTY:
                    return None
                raise self.failed(rc, "get")
            try:
                data = PyBytes_FromStringAndSize(<const char *> p, length)
            except MemoryError:
                c.dsm_queue_undo(self.ptr)
                raise
            if not c.dsm_queue_done(self.ptr):
                return data

    @cython.final
    cdef object get_one(self, uint8_t *kind, int64_t deadline):
        data = self.next_bytes(kind, deadline)
        while data is None:
            if not deadline or not self.wait(True, 0, deadline, "get"):
                if self.watch_items:
                    c.dsm_watch_arm(self.watch_items, 0)
                raise error_of(c.DSM_EEMPTY, "", "get")
            data = self.next_bytes(kind, deadline)
        return data

    def get(self, block=True, timeout=None):
        cdef uint8_t kind
        cdef int64_t deadline
        self.enter()
        try:
            deadline = -1 if block is True and timeout is None else self.deadline(block, timeout)
            if not self.consuming:
                self.take_role()
            return self.get_one(&kind, deadline)
        finally:
            self.leave()

    def get_nowait(self):
        return self.get(False)

    def _get_kind(self, block=True, timeout=None):
        cdef uint8_t kind
        cdef int64_t deadline
        self.enter()
        try:
            deadline = self.deadline(block, timeout)
            if not self.consuming:
                self.take_role()
            data = self.get_one(&kind, deadline)
            return kind, data
        finally:
            self.leave()

    cdef Py_ssize_t most(self, object n) except -1:
        """How many messages to take at most."""
        cdef Py_ssize_t most = min(<int64_t> MOST, <int64_t> (self.config.lanes * self.config.lane_bytes // 8))
        if n is None:
            return most
        number = checked_int(n, 1)
        if number is None:
            raise refused(n, int, f"n={n!r}: at least 1", "get")
        return min(number, most)

    def get_many(self, n=None, block=True, timeout=None, *, out=None):
        cdef int64_t deadline
        cdef Py_ssize_t most
        self.enter()
        try:
            deadline = self.deadline(block, timeout)
            most = self.most(n)
            if not self.consuming:
                self.take_role()
            return get_records(self, out, deadline) if out is not None else get_up_to(self, most, deadline)
        finally:
            self.leave()

    def peek(self, block=True, timeout=None):
        cdef int64_t deadline
        self.enter()
        try:
            deadline = self.deadline(block, timeout)
            if not self.consuming:
                self.take_role()
            if self.config.flags & (c.DSM_QUEUE_MANY_CONSUMERS | c.DSM_QUEUE_DROP_OLDEST):
                text = "others may take the message at any moment; get() copies it safely"
                raise error_of(c.DSM_EUNSUPPORTED, text, "peek")
            return peek_view(self, deadline)
        finally:
            self.leave()

    cdef int next_once(self, const void **p, uint64_t *length, uint8_t *kind, int64_t deadline) except? -1:
        cdef int64_t ns
        cdef int rc
        if self.mapped:
            return c.dsm_queue_next(self.ptr, p, length, kind)
        ns = self.op_ns(deadline)
        self.begin()
        if self.inbox:
            self.peeked = self.inbox[0][1]
            p[0], length[0] = PyBytes_AS_STRING(self.peeked), PyBytes_GET_SIZE(self.peeked)
            self.end()
            return 0
        with nogil:
            c.dsm_queue_set_timeout(self.ptr, ns)
            rc = c.dsm_queue_next(self.ptr, p, length, kind)
        self.end()
        return rc

    cdef int end_reading(self) except -1:
        if self.reading is None:
            raise error_of(c.DSM_EINVAL, "no message is being read", "release")
        end_view(self.reading, self.reading_view, "release")
        self.reading = self.reading_view = None
        return 0

    def release(self):
        self.check()
        if not self.mapped:
            self.release_remotely()
            return
        self.end_reading()
        c.dsm_queue_done(self.ptr)

    cdef int release_remotely(self) except -1:
        """An exception before the turn is taken leaves the message as it is: being read."""
        cdef int rc
        self.enter()
        try:
            self.begin()
            try:
                self.end_reading()
                if self.peeked is not None:
                    self.peeked = None
                    self.inbox.popleft()
                    return 0
                with nogil:
                    rc = c.dsm_queue_done(self.ptr)
            finally:
                self.end()
            if rc and rc != -c.DSM_EEMPTY:
                raise self.failed(rc, "release")
            return 0
        finally:
            self.leave()

    # -- counters and shutdown --

    cdef c.dsm_queue_counts count(self) except *:
        cdef c.dsm_queue_counts n
        cdef int rc
        self.enter()
        try:
            with nogil:  # it walks from message to message
                rc = c.dsm_queue_count(self.ptr, &n)
            if rc:
                raise self.failed(rc, "count")
            return n
        finally:
            self.leave()

    @property
    def counts(self):
        cdef c.dsm_queue_counts n = self.count()
        return {"messages": n.messages, "puts": n.puts, "gets": n.gets, "dropped": n.dropped,
                "full": n.full, "bytes": n.bytes, "producers": n.producers, "shutdown": n.shutdown}

    def qsize(self):
        return self.count().messages + (len(self.inbox) if self.inbox else 0)

    def empty(self):
        return self.qsize() == 0

    def full(self):
        return self.count().bytes + self.config.max_message + 16 > self.config.lane_bytes

    def shutdown(self, immediate=False):
        cdef int rc, now
        self.enter()
        try:
            now = truth(immediate, "immediate")
            if not now and c.dsm_queue_staged(self.ptr) != self.told:
                self.send("shutdown", -1)
            with nogil:
                rc = c.dsm_queue_shutdown(self.ptr, now)
            if rc:
                raise self.failed(rc, "shutdown")
            if now:  # the caller gives up what is staged
                self.told = c.dsm_queue_staged(self.ptr)
        finally:
            self.leave()

    # -- asyncio, where the memory is not mapped --

    def _get_async(self, n=None):
        return _queue_get(self, n)

    def _put_async(self, data):
        return _queue_put(self, data)

    # -- file descriptors --

    def fileno(self):
        self.enter()
        try:
            if not self.consuming:
                self.take_role()
            if not self.watch_items:
                open_watch(self, &self.watch_items)
                c.dsm_watch_arm(self.watch_items, 0)
            return c.dsm_watch_fd(self.watch_items)
        finally:
            self.leave()

    # An event loop watches a duplicate that it owns, so that the original may be closed here at any time.

    def _dup_items(self):
        self.enter()
        try:
            return os.dup(self.fileno())
        finally:
            self.leave()

    def _dup_room(self):
        self.check()
        return os.dup(c.dsm_watch_fd(self.watch_room))

    def _arm_room(self, length):
        cdef uint64_t n
        self.enter()
        try:
            n = length
            if not self.producing:
                self.take_lane()
            if not self.watch_room:
                open_watch(self, &self.watch_room)
            c.dsm_watch_arm(self.watch_room, max(<uint64_t> 1, n))
        finally:
            self.leave()

    # -- closing --

    cpdef close(self):
        if not self.live:
            return
        if self.outdated():
            self.free()
            return
        self.refuse_in_use()
        if self.writing is not None:
            end_view(self.writing, self.writing_view, "close")
        if self.reading is not None:
            end_view(self.reading, self.reading_view, "close")
        self.writing = self.writing_view = self.reading = self.reading_view = self.peeked = None
        self.live = False
        try:
            stop_waits(self)
        finally:
            self.live = True
        c.dsm_queue_cancel(self.ptr)
        c.dsm_queue_undo(self.ptr)
        if self.inbox and not self.forsaken:
            text = "messages that were taken for tasks which were cancelled; take them with get_many(block=False)"
            raise error_of(c.DSM_EBUSY, f"the {self.called()} has {len(self.inbox)} {text}", "close")
        self.free()

    def _abandon(self):
        self.forsaken = True
        Queue.close(self)

    def _drop_kept(self):
        cdef bint kept = self.lost or self.inbox
        self.inbox = None
        if self.live and not self.outdated():
            kept |= c.dsm_queue_discard(self.ptr)
        return kept

    cdef int leave_as_dead(self) except -1:
        cdef int rc
        stop_waits(self)
        unsent = None
        try:
            unsent = send_last(self)
        except errors.DsmemError as error:  # the roles are given back nevertheless
            unsent = error
        with nogil:
            rc = c.dsm_queue_leave(self.ptr)
            if rc == -c.DSM_EBUSY:
                self.lost = c.dsm_queue_discard(self.ptr)
                rc = c.dsm_queue_leave(self.ptr)
        self.let_go()
        if rc:
            raise self.failed(rc, "close") from unsent
        if unsent is not None:
            raise unsent
        return 0

    cdef int free(self) except -1:
        cdef c.dsm_queue *ptr = self.ptr
        cdef c.dsm_watch *items = self.watch_items
        cdef c.dsm_watch *room = self.watch_room
        # In a reference cycle the context may have been finalized first, and the memory with it.
        cdef bint reachable = self.remote.ptr != NULL and (self.remote.context is None or
                                                           self.remote.context.ptr != NULL)
        cdef int rc = 0
        self.live = False
        if self.outdated():  # a child closes a handle that it has not used: the core's handle is left as it is
            self.forget_inherited()
            return self.let_go()
        self.watch_items, self.watch_room = NULL, NULL
        with nogil:
            c.dsm_watch_close(items)
            c.dsm_watch_close(room)
        unsent = None
        try:
            if reachable and not self.forsaken:
                unsent = send_last(self)
                with nogil:
                    rc = c.dsm_queue_leave(ptr)
                if rc:
                    raise self.failed(rc, "close") from unsent
        except BaseException:  # the next close() sends what is still staged, and gives back the roles that are left
            self.live = True
            raise
        self.ptr = NULL
        c.dsm_queue_free(ptr)
        self.let_go()
        if unsent is not None:
            raise unsent
        return 0
