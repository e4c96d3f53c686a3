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
# The core's object is freed only after live was cleared while uses, users and exports were 0.

@cython.auto_pickle(False)
cdef class Handle:
    """See the stub."""
    cdef bint live
    cdef int uses, users, exports

    @cython.final
    cdef inline int enter(self) except -1:
        if not self.live:
            self.refuse_closed()
        self.uses += 1
        return 0

    @cython.final
    cdef inline void leave(self) noexcept:
        self.uses -= 1

    cdef int refuse_closed(self) except -1:
        raise refused(c.DSM_ECLOSED, self.noun())

    cdef int check(self) except -1:
        """Open, and of this process."""
        if not self.live:
            self.refuse_closed()
        return 0

    cdef int refuse_in_use(self) except -1:
        """BusyError that says by what."""
        if self.uses:
            text = f"{self.uses} calls on the {self.noun()} are under way, in other threads or around this one; wait"
        elif self.users:
            text = f"{self.users} {self.dependents()} are open on the {self.noun()}; close them first"
        elif self.exports:
            text = f"the {self.noun()} has {self.exports} views (arrays or memoryviews); drop them first"
        else:
            return 0
        raise refused(c.DSM_EBUSY, text, "close")

    cdef str noun(self):
        return type(self).__name__.lower()

    cdef str dependents(self):
        return "handles"

    cdef int free(self) except -1:
        """Free the core's object. The caller has cleared what may use it; may be called again after a failure."""
        raise NotImplementedError
