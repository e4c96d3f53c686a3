# Included by _core.pyx: handles of the synchronisation objects.

cdef dict TYPES = {c.dsm_type_name(number).decode(): number for number in range(1, 64)
                   if c.dsm_type_name(number) != b"unknown"}
cdef object FOREVER = -1
cdef int64_t NEVER = 0x7fffffffffffffff


def sync_bytes(str kind, uint32_t members=0, uint32_t count=0):
    cdef uint64_t nbytes = c.dsm_sync_bytes(TYPES[kind], members, count)
    if not nbytes:
        raise error_of(c.DSM_EINVAL, f"a {kind} of {members} members and count {count}")
    return nbytes


def sync_format(view, str kind, uint32_t members=0, uint32_t count=0, uint64_t lock=0):
    cdef Py_buffer buffer
    cdef int rc
    cdef uint64_t nbytes = sync_bytes(kind, members, count)
    get_buffer(view, &buffer, True)
    if <uint64_t> buffer.len < nbytes:
        PyBuffer_Release(&buffer)
        raise error_of(c.DSM_EINVAL, f"{buffer.len} bytes, a {kind} takes {nbytes}")
    rc = c.dsm_sync_format(buffer.buf, TYPES[kind], members, count, lock)
    PyBuffer_Release(&buffer)
    if rc:
        raise error_from_core(rc, "format")


cdef int64_t timeout_ns(object blocking, object timeout) except? -2:
    """Convert the arguments of threading.Lock.acquire to a timeout in nanoseconds; -1: no limit."""
    if not truth(blocking, "blocking"):
        if timeout is not None and not is_forever(timeout):
            raise error_of(c.DSM_EINVAL, "a call that does not block takes no timeout")
        return 0
    if timeout is None or is_forever(timeout):
        return -1
    return nanoseconds(timeout)


cdef class SyncHandle(Handle):
    cdef Remote remote
    cdef bint mapped
    cdef int64_t spin_ns

    cdef int begin_on(self, Remote remote, object spin) except -1:
        cdef int rc
        self.spin_ns = nanoseconds(spin, "spin")
        if self.remote is not None:
            raise error_of(c.DSM_EINVAL, f"the {self.noun()} has been opened before")
        remote.enter()
        with nogil:
            rc = self.open_core(remote.ptr)
        remote.leave()
        if rc:
            raise remote.failed(rc, "attach")
        remote.users += 1
        self.remote = remote
        self.mapped = remote.mapped
        self.live = True
        return 0

    cdef int open_core(self, c.dsm_remote *remote) noexcept nogil:
        """Open the core's handle. On success it replaces the previous one."""
        return -c.DSM_EINVAL

    cdef int renew(self) except -1:
        """The parent keeps what its handle holds. The new handle holds nothing, and has an entry of its own."""
        cdef int rc
        self.remote.refuse_forked(self)
        self.remote.catch_up()
        rc = self.open_core(self.remote.ptr)
        if rc:
            raise self.failed(rc, "attach")
        self.forget_state()
        return 0

    cdef void forget_state(self) noexcept:
        """Clear what the handle has recorded about the parent's threads."""
        pass

    cdef object failed(self, int rc, str op):
        return self.remote.failed(rc, op)

    cdef int attempts(self, attempt f, void *arg, int64_t ns, str op) except -1:
        """Call f in slices until it has what it waits for (1), times out (0) or fails. The handle is in use."""
        cdef int64_t deadline = 0, before, slice
        cdef int rc
        if ns > 0:
            deadline = time.monotonic_ns() + min(ns, <int64_t> 1 << 62)
        while True:
            slice = SLICE_NS
            if ns >= 0:
                slice = 0 if ns == 0 else min(SLICE_NS, max(0, deadline - <int64_t> time.monotonic_ns()))
            with nogil:
                before = c.dsm_call_until(deadline if ns > 0 else NEVER)
                rc = f(arg, slice)
                c.dsm_call_until(before)
            if rc < 0:
                raise self.failed(rc, op)
            if rc or (ns >= 0 and slice < SLICE_NS):
                return rc
            self.go_on()

    cdef object holder_of(self, c.dsm_lock *lock):
        cdef uint64_t identity = 0
        cdef int rc
        self.enter()
        with nogil:
            rc = c.dsm_lock_holder(lock, &identity)
        self.leave()
        if rc:
            raise self.failed(rc, "read")
        return identity if identity else None

    @property
    def closed(self):
        return not self.live

    cdef int depart(self):
        """Give back what the handle holds, and its entry. After an error it may be called again."""
        return 0

    cdef int free(self) except -1:
        """Free the core's handle. Each class overrides this."""
        return 0

    cdef void let_go(self):
        """Stop using another handle on which this one depends."""
        pass

    def close(self):
        cdef int rc
        if self.live:
            if self.outdated():
                self.leave_to_parent()
                return
            self.refuse_in_use()
            self.live = False
            try:
                stop_waits(self)
            except BaseException:
                self.live = True
                raise
            rc = self.depart()
            if rc:
                self.live = True
                raise self.failed(rc, "close")
            self.free()
            self.let_go()
            self.remote.drop_user()

    cdef int leave_to_parent(self) except -1:
        """Called in a child that closes a handle it has not used. The core's handle is left as it is."""
        self.refuse_users()
        self.live = False
        self.let_go()
        self.remote.drop_user()
        return 0

    cdef int leave_as_dead(self) except -1:
        cdef int rc
        self.refuse_users()  # a condition's wait may be in progress, and will acquire this lock
        rc = self.depart()
        self.let_go()
        self.remote.users -= 1
        if rc:
            raise self.failed(rc, "close")
        return 0

    def __del__(self):
        if not self.live:
            return
        self.live = False
        if not self.outdated() and self.remote.ptr != NULL and (self.remote.context is None or
                                                                self.remote.context.ptr != NULL):
            self.free()
        self.let_go()
        self.remote.drop_user()


cdef int lock_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    return c.dsm_lock_acquire(<c.dsm_lock *> arg, timeout_ns)


cdef int lock_breaking(void *arg, uint64_t holder) noexcept nogil:
    return c.dsm_lock_break(<c.dsm_lock *> arg, holder)


cdef object caller():
    """Return a weak reference to the current task or, outside of tasks, the id of the thread."""
    loop = asyncio._get_running_loop()
    task = None if loop is None else asyncio.current_task(loop)
    return get_ident() if task is None else PyWeakref_NewRef(task, None)


cdef class Lock(SyncHandle):
    """A re-entrant lock counts here how often its thread has acquired it. The first acquire takes the core's lock, the
    last release releases it. 'depth' is set to 0 before the core's lock is released, and stays 0 until it is acquired.
    """
    cdef c.dsm_lock *ptr
    cdef bint reentrant
    cdef unsigned long owner  # the thread that holds it, while depth is not 0
    cdef unsigned int depth
    cdef bint by_task         # a task holds it and is not counted, because all tasks of a loop share the thread
    cdef Lock other           # the lock of a condition, if it is not the condition's own
    cdef set lost             # tasks (if not re-entrant, also threads) whose wait on a condition ended without the lock

    def __init__(self, Remote remote not None, spin=None):
        self.begin_on(remote, spin)

    cdef int open_core(self, c.dsm_remote *remote) noexcept nogil:
        return c.dsm_lock_open(remote, self.spin_ns, &self.ptr)

    cdef void forget_state(self) noexcept:
        self.depth, self.lost = 0, None

    cdef str dependents(self):
        return "conditions"

    @cython.final
    cdef inline bint is_quick(self) noexcept:
        """Whether acquire without waiting, and release, run no Python code and keep the GIL: a plain, mapped lock."""
        return self.ready() and self.mapped and not self.reentrant and not self.has_lost()

    @cython.final
    cdef inline bint take_free(self) noexcept:
        """Acquire the lock if it is free and is_quick(). False says nothing about whether it is free."""
        return self.is_quick() and c.dsm_lock_acquire(self.ptr, 0) == 1

    def acquire(self, blocking=True, timeout=FOREVER):
        if blocking is True and timeout is FOREVER and self.take_free():
            return True
        return self.acquire_in_use(blocking, timeout)

    @cython.final
    cdef bint acquire_in_use(self, object blocking, object timeout) except -1:
        self.enter()
        try:
            return self.take(timeout_ns(blocking, timeout))
        finally:
            self.leave()

    @cython.final
    cdef inline bint take(self, int64_t ns) except -1:
        cdef bint got = self.take_counted(ns) if self.reentrant else self.take_once(ns)
        if got and self.has_lost():
            self.lost_before()
        return got

    @cython.final
    cdef Lock counted(self):
        """The handle whose owner, depth and lost are used."""
        return self if self.other is None else self.other

    @cython.final
    cdef inline bint has_lost(self) noexcept:
        """Whether 'lost' has any entry. Called at each acquire and release."""
        return (self.lost if self.other is None else self.other.lost) is not None

    @cython.final
    cdef bint take_counted(self, int64_t ns) except -1:
        cdef Lock lock = self.counted()
        cdef unsigned long me = PyThread_get_thread_ident()
        if lock.depth and lock.owner == me and not lock.by_task:
            lock.depth += 1
            return True
        if not self.take_once(ns):
            return False
        lock.owner, lock.depth, lock.by_task = me, 1, False
        return True

    @cython.final
    cdef int taken_by_task(self) except -1:
        cdef Lock lock = self.counted()
        if self.reentrant:
            lock.owner, lock.depth, lock.by_task = PyThread_get_thread_ident(), 1, True
        if lock.lost is not None:
            self.lost_before()
        return 0

    @cython.final
    cdef int refuse_others(self) except -1:
        """Raise NotHeldError if a re-entrant lock is not held by this thread, or if the caller has lost the lock.

        A plain lock may be used by any thread.
        """
        cdef Lock lock = self.counted()
        if self.reentrant:
            if not (lock.depth and lock.owner == PyThread_get_thread_ident()):
                raise error_of(c.DSM_ENOTHELD, f"{self.noun()}: not held by this thread")
        if lock.lost is not None and caller() in lock.lost:
            self.refuse_lost()
        return 0

    @cython.final
    cdef int refuse_lost(self) except -1:
        raise error_of(c.DSM_ENOTHELD, f"{self.noun()}: the last wait of this thread or task ended without the lock")

    @cython.final
    cdef int lose(self) except -1:
        """Record that the caller's wait ends without the lock. If the handle holds it later, it is for another task or
        thread.
        """
        cdef Lock lock = self.counted()
        if lock.lost is None:
            lock.lost = set()
        lock.lost.add(caller())
        return 0

    @cython.final
    cdef bint lost_before(self) except -1:
        """Return whether the caller had lost the lock, and forget that."""
        cdef Lock lock = self.counted()
        me = caller()
        cdef bint had = me in lock.lost
        lock.lost.discard(me)
        if not lock.lost:
            lock.lost = None
        return had

    @cython.final
    cdef inline bint take_once(self, int64_t ns) except -1:
        cdef int rc
        if self.mapped:
            rc = c.dsm_lock_acquire(self.ptr, 0)
            if rc == 1:
                return True
            if rc < 0:
                raise self.failed(rc, "acquire")
            if ns == 0:
                return False
        return self.attempts(lock_attempt, self.ptr, ns, "acquire") == 1

    @cython.final
    cdef inline int give_back(self) except -1:
        cdef int rc
        if not self.is_quick():
            return self.give_back_in_use()
        rc = c.dsm_lock_release(self.ptr)
        if rc:
            raise self.failed(rc, "release")
        return 0

    @cython.final
    cdef int give_back_in_use(self) except -1:
        self.enter()
        try:
            if self.has_lost() and self.lost_before():
                self.refuse_lost()
            elif self.reentrant:
                self.give_back_counted()
            else:
                self.give_back_once()
        finally:
            self.leave()
        return 0

    @cython.final
    cdef int give_back_counted(self) except -1:
        cdef Lock lock = self.counted()
        self.refuse_others()
        if lock.depth > 1:
            lock.depth -= 1
            return 0
        lock.depth = 0
        try:
            return self.give_back_once()
        except errors.NotHeldError:
            raise
        except errors.DsmemError:
            lock.depth = 1  # the outcome is unknown: the caller may try again
            raise

    @cython.final
    cdef int give_back_once(self) except -1:
        cdef int rc
        if self.mapped:
            rc = c.dsm_lock_release(self.ptr)
        else:
            with nogil:
                rc = c.dsm_lock_release(self.ptr)
        if rc:
            raise self.failed(rc, "release")
        return 0

    def release(self):
        self.give_back()

    def acquire_async(self, timeout=None):
        return _lock_acquire(self, timeout)

    def release_async(self):
        return _lock_release(self)

    def __aenter__(self):
        return _lock_acquire(self, None)

    def __aexit__(self, *error):
        return _left_behind(_lock_release(self), error)

    def locked(self):
        cdef int rc
        self.enter()
        with nogil:
            rc = c.dsm_lock_locked(self.ptr)
        self.leave()
        if rc < 0:
            raise self.failed(rc, "read")
        return rc == 1

    def holder(self):
        self.check()
        return self.holder_of(self.ptr)

    def break_(self, holder):
        self.check()
        return self.take_from(lock_breaking, self.ptr, holder)

    @property
    def token(self):
        cdef uint64_t token
        self.check()
        token = c.dsm_lock_token(self.ptr)
        return token if token else None

    @property
    def recovered(self):
        self.check()
        return c.dsm_lock_recovered(self.ptr) == 1

    def __enter__(self):
        return self.take_free() or self.acquire_in_use(True, FOREVER)

    def __exit__(self, *error):
        try:
            self.give_back()
        except errors.DsmemError as failed:
            if not errors.is_noted(error, failed):
                raise

    cdef int refuse_in_use(self) except -1:
        Handle.refuse_in_use(self)
        if c.dsm_lock_held(self.ptr) and not c.dsm_lock_unsure(self.ptr):
            raise error_of(c.DSM_EBUSY, f"the {self.called()} is held with this handle; release it first", "close")
        return 0

    cdef int depart(self):
        cdef int rc
        with nogil:
            rc = c.dsm_lock_leave(self.ptr)
        return rc

    cdef int free(self) except -1:
        cdef c.dsm_lock *ptr = self.ptr
        self.ptr = NULL
        with nogil:
            c.dsm_lock_close(ptr)
        return 0


cdef class RLock(Lock):

    def __init__(self, Remote remote not None, spin=None):
        Lock.__init__(self, remote, spin)
        self.reentrant = True

    def acquire_async(self, timeout=None):
        text = "an rlock belongs to a thread, which all tasks of a loop share; use a lock, or asyncio.to_thread()"
        raise error_of(c.DSM_EUNSUPPORTED, text, "acquire_async")

    def release_async(self):
        self.acquire_async()

    def __aenter__(self):
        self.acquire_async()

    def __aexit__(self, *error):
        self.acquire_async()


# ---- readers and writers ----

cdef int read_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    return c.dsm_rwlock_read(<c.dsm_rwlock *> arg, timeout_ns)


cdef int claim_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    return c.dsm_rwlock_claim(<c.dsm_rwlock *> arg, timeout_ns)


cdef int drain_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    return c.dsm_rwlock_drain(<c.dsm_rwlock *> arg, timeout_ns)


cdef int readers_naming(void *arg, uint64_t *identities) noexcept nogil:
    return c.dsm_rwlock_inside(<c.dsm_rwlock *> arg, identities)


cdef int rwlock_breaking(void *arg, uint64_t holder) noexcept nogil:
    return c.dsm_rwlock_break(<c.dsm_rwlock *> arg, holder)


cdef class RWLock(SyncHandle):
    cdef c.dsm_rwlock *ptr
    cdef unsigned long claimer  # the thread that has claimed the lock and waits for readers to leave, or 0

    def __init__(self, Remote remote not None, spin=None):
        self.begin_on(remote, spin)

    cdef int open_core(self, c.dsm_remote *remote) noexcept nogil:
        return c.dsm_rwlock_open(remote, self.spin_ns, &self.ptr)

    cdef void forget_state(self) noexcept:
        self.claimer = 0

    cdef int refuse_claimer(self, str op) except -1:
        """Raise BusyError in a signal handler that runs during the claimer's wait: it would wait for its own thread."""
        if self.claimer and self.claimer == PyThread_get_thread_ident():
            raise self.failed(c.dsm_refuse_reentry(b"rwlock"), op)
        return 0

    def acquire_read(self, blocking=True, timeout=FOREVER):
        cdef int64_t ns
        cdef int rc
        self.enter()
        try:
            ns = timeout_ns(blocking, timeout)
            self.refuse_claimer("acquire_read")
            if self.mapped:
                rc = c.dsm_rwlock_read(self.ptr, 0)
                if rc < 0:
                    raise self.failed(rc, "acquire_read")
                if rc or ns == 0:
                    return rc == 1
            return self.attempts(read_attempt, self.ptr, ns, "acquire_read") == 1
        finally:
            self.leave()

    def acquire_read_async(self, timeout=None):
        return _rwlock_read(self, timeout)

    def release_read_async(self):
        return _rwlock_release(self, False)

    def acquire_write_async(self, timeout=None):
        return _rwlock_write(self, timeout)

    def release_write_async(self):
        return _rwlock_release(self, True)

    def release_read(self):
        cdef int rc
        self.enter()
        with nogil:
            rc = c.dsm_rwlock_unread(self.ptr)
        self.leave()
        if rc:
            raise self.failed(rc, "release_read")

    def acquire_write(self, blocking=True, timeout=FOREVER):
        self.enter()
        try:
            return self.take_write(timeout_ns(blocking, timeout))
        finally:
            self.leave()

    cdef bint take_write(self, int64_t ns) except -1:
        cdef int64_t deadline = <int64_t> time.monotonic_ns() + min(ns, <int64_t> 1 << 62) if ns >= 0 else -1
        cdef int rc = 0
        self.refuse_claimer("acquire_write")
        if not self.attempts(claim_attempt, self.ptr, ns, "acquire_write"):
            return False
        self.claimer = PyThread_get_thread_ident()
        if ns > 0:
            ns = max(0, deadline - <int64_t> time.monotonic_ns())
        try:
            rc = self.attempts(drain_attempt, self.ptr, ns, "acquire_write")
        finally:
            if not rc:
                self.unclaim(True)
            self.claimer = 0
        return rc == 1

    cdef int unclaim(self, int unused) except -1:
        cdef int rc
        with nogil:
            rc = c.dsm_rwlock_unclaim(self.ptr, unused)
        if rc:
            raise self.failed(rc, "release_write")
        return 0

    def release_write(self):
        self.enter()
        try:
            self.unclaim(False)
        finally:
            self.leave()

    def writer(self):
        self.check()
        return self.holder_of(c.dsm_rwlock_lock(self.ptr))

    def readers(self):
        self.check()
        return self.names(readers_naming, self.ptr)

    def break_(self, holder):
        self.check()
        return self.take_from(rwlock_breaking, self.ptr, holder)

    def read(self, timeout=None):
        return Side(self, False, timeout)

    def write(self, timeout=None):
        return Side(self, True, timeout)

    @property
    def token(self):
        cdef uint64_t token
        self.check()
        token = c.dsm_lock_token(c.dsm_rwlock_lock(self.ptr))
        return token if token else None

    @property
    def recovered(self):
        cdef int owner_died
        self.check()
        if c.dsm_lock_held(c.dsm_rwlock_lock(self.ptr)):
            return c.dsm_lock_recovered(c.dsm_rwlock_lock(self.ptr)) == 1
        c.dsm_rwlock_readers(self.ptr, &owner_died)
        return owner_died == 1

    cdef int refuse_in_use(self) except -1:
        cdef int owner_died
        Handle.refuse_in_use(self)
        # Allowed if a task has claimed the lock and waits for readers to leave: close() ends that wait.
        if (c.dsm_rwlock_readers(self.ptr, &owner_died) or
                c.dsm_lock_held(c.dsm_rwlock_lock(self.ptr)) and
                not c.dsm_lock_unsure(c.dsm_rwlock_lock(self.ptr)) and
                not is_awaited(self, self.remote, c.DSM_EVENTCOUNT_SECOND)):
            raise error_of(c.DSM_EBUSY, f"the {self.called()} is held with this handle; release it first", "close")
        return 0

    cdef int depart(self):
        cdef int rc
        with nogil:
            rc = c.dsm_rwlock_leave(self.ptr)
        return rc

    cdef int free(self) except -1:
        cdef c.dsm_rwlock *ptr = self.ptr
        self.ptr = NULL
        with nogil:
            c.dsm_rwlock_close(ptr)
        return 0


@cython.final
cdef class Side:
    """The context manager that RWLock.read() and RWLock.write() return."""
    cdef RWLock lock
    cdef bint writes
    cdef object timeout

    def __cinit__(self, RWLock lock not None, bint writes, timeout):
        self.lock, self.writes, self.timeout = lock, writes, timeout

    def __enter__(self):
        if not (self.lock.acquire_write if self.writes else self.lock.acquire_read)(True, self.timeout):
            raise error_of(c.DSM_ETIME, "the lock did not become free in time; it is held by another")
        return self.lock

    def __exit__(self, *error):
        try:
            if self.writes:
                self.lock.release_write()
            else:
                self.lock.release_read()
        except errors.DsmemError as failed:
            if not errors.is_noted(error, failed):
                raise

    def __aenter__(self):
        return _side_enter(self)

    def __aexit__(self, *error):
        return _left_behind(_rwlock_release(self.lock, self.writes), error)
