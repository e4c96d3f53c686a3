# Included by _core.pyx: Handle, the base class of everything that can be closed.
#
# A handle is in use from the first line of a public method to the last: enter(), then leave() in a finally clause. This
# includes the conversion of arguments (__index__, __dlpack__, __buffer__ and iterators run the caller's code), signal
# handlers, and the time without the GIL. close() is refused meanwhile, so the code in between does not need to recheck
# that the handle is open. A method that runs no Python code and keeps the GIL calls check() instead.
#
# Invariants, all under the GIL:
#   live     calls may begin; the core's object exists. Only the code that closes the handle sees an object of the core
#            while live is False.
#   uses     number of calls in progress
#   users    number of open handles that depend on this one
#   exports  number of views of its memory
#   ending   the process is exiting: waits in other threads end (go_on), and no call begins
# The core's object is freed only after live was cleared while uses, users and exports were 0.
#
# A child of fork() has a copy of every handle. What the handle holds belongs to the parent: roles, turns, locks, calls
# that other threads had begun. The child's copy becomes a handle of the child's own at the first call, for which
# renew() opens a new object of the core. The previous object of the core is left as it is, because another thread may
# have been changing it; it is never freed or accessed again. If no new object is possible, because the memory belongs
# to a context, renew() raises ForkError and the handle stays outdated: close() leaves it to the parent. The fields are:
#   epoch      the fork count of the process to which the core's object belongs
#   inherited  number of calls begun before the fork. Some may still end here, if the thread that forked was inside
#              them, for example in a callback or a signal handler. On that thread's stack they lie below all calls that
#              it has begun since (nested), so they are the ones that end while nested is 0.
#   kept       upper limit of the views from before the fork that still exist; some may belong to threads that do not
#              exist in the child. They do not prevent close(), which leaves the memory mapped for them.

ctypedef int (*naming)(void *arg, uint64_t *identities) noexcept nogil
ctypedef int (*breaking)(void *arg, uint64_t holder) noexcept nogil
cdef enum:
    NAMED_MOST = 4097  # maximum number of identities that one call returns


cdef uint64_t identity_of(object holder) except? 0xdead:
    number = checked_int(holder, 0, (1 << 64) - 1)
    if number is None:
        raise refused(holder, int, f"holder={holder!r}: what holder() returned")
    return number


@cython.auto_pickle(False)
cdef class Handle:
    cdef bint live, ending
    cdef uint32_t epoch
    cdef int uses, users, exports
    cdef int inherited, nested, kept
    cdef dict waits  # the waits of tasks (waits.pxi), or None

    def __cinit__(self, *args, **named):
        self.epoch = forks[0]

    @cython.final
    cdef inline int enter(self) except -1:
        if not self.live:
            self.refuse_closed()
        if self.epoch != forks[0]:
            self.catch_up()
        self.uses += 1
        if self.inherited:
            self.count_nested(1)
        return 0

    @cython.final
    cdef inline void leave(self) noexcept:
        if self.inherited and not self.count_nested(-1):
            self.inherited -= 1
        else:
            self.uses -= 1

    cdef int refuse_closed(self) except -1:
        if self.ending:
            self.refuse_at_end()
        raise error_of(c.DSM_ECLOSED, self.called())

    @cython.final
    cdef inline bint ready(self) noexcept:
        """Whether it is open and belongs to this process.

        This is sufficient if the caller runs no Python code and keeps the GIL until it is done.
        """
        return self.live and self.epoch == forks[0]

    cdef int check(self) except -1:
        """Raise unless it is open; in a child of fork() make it this process's own."""
        if not self.live:
            self.refuse_closed()
        if self.epoch != forks[0]:
            self.catch_up()
        return 0

    # -- in a child of fork() --

    @cython.final
    cdef bint count_nested(self, int change) noexcept:
        """Count a call of the main thread. Returns False if the call that ends was begun before the fork."""
        if PyThread_get_thread_ident() != main_ident:
            return True
        if change < 0 and not self.nested:
            return False
        self.nested += change
        return True

    @cython.final
    cdef inline bint outdated(self) noexcept:
        """Whether it is still the copy of the parent's handle."""
        return self.epoch != forks[0]

    @cython.final
    cdef int catch_up(self) except -1:
        """Make it this process's own. No other thread can run in between: nothing in here releases the GIL."""
        if self.outdated():
            self.renew()
            self.forget_calls()
        return 0

    @cython.final
    cdef void forget_calls(self) noexcept:
        self.epoch = forks[0]
        self.inherited += self.uses
        self.uses = self.nested = 0
        self.kept = self.exports

    cdef int renew(self) except -1:
        """Open an object of the core for this process, or raise ForkError.

        A context and its remotes get no new object: the context refuses ops.
        """
        return 0

    @cython.final
    cdef inline void drop_export(self) noexcept:
        self.exports -= 1
        if self.kept > self.exports:
            self.kept = self.exports

    # -- closing --

    cdef int refuse_in_use(self) except -1:
        """Raise BusyError, which names the reason, if the handle is in use."""
        self.refuse_users()
        if self.uses:
            text = f"{self.uses} calls on the {self.called()} are under way, in other threads or around this one; wait"
        elif self.exports > self.kept:
            text = f"the {self.called()} has {self.exports} views (arrays or memoryviews); drop them first"
        else:
            return 0
        raise error_of(c.DSM_EBUSY, text, "close")

    cdef int close_after(self, tuple block) except -1:
        """Close at the end of a with statement. 'block' has the arguments of __exit__; its exception comes out.

        A handle that is in use raises BusyError as by close(): other processes would keep their access otherwise.
        """
        try:
            (<object> self).close()
        except errors.DsmemError as failed:
            if not errors.is_noted(block, failed):
                raise
        return 0

    cdef int refuse_users(self) except -1:
        if self.users:
            text = f"{self.users} {self.dependents()} are open on the {self.called()}; close them first"
            raise error_of(c.DSM_EBUSY, text, "close")
        return 0

    # -- process exit --

    # The core's object is not freed, because other threads may still use it.

    def _begin_end(self):
        """Let no new call begin, and end the waits. Returns whether _leave_at_end is to be called."""
        if self.live and not self.outdated():
            self.ending, self.live = True, False
        return self.ending and not self.outdated()

    @property
    def _idle(self):
        return not self.uses

    def _leave_at_end(self, int64_t deadline):
        cdef int64_t before
        if self.uses:
            raise error_of(c.DSM_EBUSY, f"{self.uses} calls on the {self.noun()} do not end", "close")
        before = c.dsm_call_until(deadline)
        try:
            self.leave_as_dead()
        finally:
            c.dsm_call_until(before)

    cdef int leave_as_dead(self) except -1:
        """Give back the handle's entry in the object. What it holds passes on as if the process had died with it."""
        return 0

    @cython.final
    cdef int go_on(self) except -1:
        """Called between two slices of a wait: run signal handlers, and raise if the process is exiting."""
        check_signals()
        if self.ending:
            self.refuse_at_end()
        return 0

    @cython.final
    cdef int refuse_at_end(self) except -1:
        """Raise SystemExit in a thread that still runs at process exit, so that it ends without a message.

        In the main thread raise ClosedError.
        """
        if PyThread_get_thread_ident() == main_ident:
            raise error_of(c.DSM_ECLOSED, self.noun())
        raise SystemExit

    cdef str noun(self):
        return type(self).__name__.lower()

    @cython.final
    cdef str called(self):
        """The noun, with the name of an object that has one."""
        name = getattr(self, "_name", None)
        return self.noun() if name is None else f"{self.noun()} {name!r}"

    cdef str dependents(self):
        return "handles"

    cdef int free(self) except -1:
        """Free the core's object. The caller has ensured that nothing uses it. May be called again after a failure."""
        raise NotImplementedError

    # -- which processes hold the object, and breaking that on request --

    cdef object failed(self, int rc, str op):
        return error_from_core(rc, op)

    cdef list names(self, naming f, void *arg):
        cdef uint64_t found[NAMED_MOST]
        cdef int n
        self.enter()
        with nogil:
            n = f(arg, found)
        self.leave()
        if n < 0:
            raise self.failed(n, "read")
        return [found[i] for i in range(n)]

    cdef bint take_from(self, breaking f, void *arg, object holder) except -1:
        cdef uint64_t identity
        cdef int rc
        self.enter()
        try:
            identity = identity_of(holder)
            with nogil:
                rc = f(arg, identity)
        finally:
            self.leave()
        if rc < 0:
            raise self.failed(rc, "break")
        return rc == 1
