# Included by _core.pyx: Handle, the base of everything that can be closed.
#
# A handle is in use from the first line of a public method to the last: enter(), then leave() in a finally. That
# covers the conversion of arguments (__index__, __dlpack__, __buffer__ and iterators run the caller's code), signal
# handlers, and the time without the GIL. close() is refused meanwhile, so what lies between needs no second look at
# whether it is open. A method that runs no code of Python's and keeps the GIL calls check() instead.
#
# Invariants, all under the GIL:
#   live     calls may begin; the core's object exists. Only who closes sees an object of the core with live False.
#   uses     calls under way
#   users    open handles that stand on this one
#   exports  views of its memory
#   ending   the process ends: waits in other threads are given up (go_on), and no call begins
# The core's object is freed only after live was cleared while uses, users and exports were 0.
#
# A child of fork() has a copy of every handle. What the handle stands for is the parent's: roles, turns, locks, calls
# that other threads had begun. The child's copy becomes a handle of its own with its first call, which renew()
# prepares: the core's object of before is left as it lies, for another thread may have been changing it, and is never
# freed or asked again. Where there can be none, since the memory is a context's, renew() raises ForkError, and the
# handle stays outdated: close() leaves it to the parent. Then
#   epoch      the fork count of the process that the core's object is of
#   inherited  calls of before the fork: some may still end here, if the thread that forked was in them, as it can be in
#              a callback or a signal handler. Those lie beneath all calls that this thread has begun since (nested),
#              so they are the ones that end while nested is 0
#   kept       the most views of before the fork that there can still be; some may be of threads that are gone. They do
#              not hinder close(), which leaves the memory to them

ctypedef int (*naming)(void *arg, uint64_t *identities) noexcept nogil
ctypedef int (*breaking)(void *arg, uint64_t holder) noexcept nogil
cdef enum:
    NAMED_MOST = 4097  # identities that one call tells


cdef uint64_t identity_of(object holder) except? 0xdead:
    number = checked_int(holder, 0, (1 << 64) - 1)
    if number is None:
        raise error_of(c.DSM_EINVAL, f"holder={holder!r}: what holder() returned")
    return number


@cython.auto_pickle(False)
cdef class Handle:
    cdef bint live, ending
    cdef uint32_t epoch
    cdef int uses, users, exports
    cdef int inherited, nested, kept
    cdef dict waits  # of tasks (waits.pxi), or None

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
        raise error_of(c.DSM_ECLOSED, self.noun())

    @cython.final
    cdef inline bint ready(self) noexcept:
        """Open, and of this process. Enough where nothing runs code of Python's or gives the GIL back meanwhile."""
        return self.live and self.epoch == forks[0]

    cdef int check(self) except -1:
        """Open, and of this process."""
        if not self.live:
            self.refuse_closed()
        if self.epoch != forks[0]:
            self.catch_up()
        return 0

    # -- in a child of fork() --

    @cython.final
    cdef bint count_nested(self, int change) noexcept:
        """False: the call that ends is one of before the fork."""
        if PyThread_get_thread_ident() != main_ident:
            return True
        if change < 0 and not self.nested:
            return False
        self.nested += change
        return True

    @cython.final
    cdef inline bint outdated(self) noexcept:
        """It is as the parent has left it."""
        return self.epoch != forks[0]

    @cython.final
    cdef int catch_up(self) except -1:
        """Make it this process's own. No other thread comes between: nothing in here gives the GIL back."""
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
        """An object of the core for this process, or ForkError. A context and its remotes have none: it refuses ops."""
        return 0

    @cython.final
    cdef inline void drop_export(self) noexcept:
        self.exports -= 1
        if self.kept > self.exports:
            self.kept = self.exports

    # -- the end --

    cdef int refuse_in_use(self) except -1:
        """BusyError that says by what."""
        self.refuse_users()
        if self.uses:
            text = f"{self.uses} calls on the {self.noun()} are under way, in other threads or around this one; wait"
        elif self.exports > self.kept:
            text = f"the {self.noun()} has {self.exports} views (arrays or memoryviews); drop them first"
        else:
            return 0
        raise error_of(c.DSM_EBUSY, text, "close")

    cdef int refuse_users(self) except -1:
        if self.users:
            text = f"{self.users} {self.dependents()} are open on the {self.noun()}; close them first"
            raise error_of(c.DSM_EBUSY, text, "close")
        return 0

    # -- at the end of the process --

    # The core's object stays, for what other threads may still do with it.

    def _begin_end(self):
        """No call begins any more, and waits end. Whether _leave_at_end is to be called."""
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
        """Gives back the handle's place, and what it holds as if it had died with it."""
        return 0

    @cython.final
    cdef int go_on(self) except -1:
        """Between two slices of a wait."""
        PyErr_CheckSignals()
        if self.ending:
            self.refuse_at_end()
        return 0

    @cython.final
    cdef int refuse_at_end(self) except -1:
        """A thread that is left at the end of the process ends as quietly as one that Python stops there."""
        if PyThread_get_thread_ident() == main_ident:
            raise error_of(c.DSM_ECLOSED, self.noun())
        raise SystemExit

    cdef str noun(self):
        return type(self).__name__.lower()

    cdef str dependents(self):
        return "handles"

    cdef int free(self) except -1:
        """Free the core's object. The caller has cleared what may use it; may be called again after a failure."""
        raise NotImplementedError

    # -- who has what of the object, and breaking that by choice --

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
