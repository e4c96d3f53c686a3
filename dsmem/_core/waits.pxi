# Included by _core.pyx: how tasks of event loops wait for objects of synchronisation and for segments
# (docs/decisions/0011-one-helper-waits-for-many-tasks.md).
#
# A loop's thread tries once where that takes no round trip. What is not there then goes as a Wait onto the list of the
# handle's Waits, one for each eventcount; its helper, a thread, tries for all that are on the list, and sleeps in
# between where a blocking waiter would. Whom it got something for it tells with call_soon_threadsafe().
#
# Invariants, under the GIL:
#   A Wait is on the list until it has ENDED.
#   WAITING  tried in vain, or not yet
#   TRYING   remote memory alone: the helper is at it, without the GIL
#   TRIED     rc says how it went, and the task has not taken it yet
#   detached nobody takes it: the helper tries until it is done, or cannot be; so it gives back what was got for a task
#            that is gone
# The helper ends when the list is empty, or once 'stopped', after which it touches the object's memory no more: mapped
# memory it touches with the GIL only, and close() waits for it where the memory is remote.

ctypedef int (*attempt)(void *arg, int64_t timeout_ns) noexcept nogil

cdef enum:
    WAITING
    TRYING
    TRIED
    ENDED
cdef enum:
    GRACE_NS = 200_000_000  # how long a cancelled task waits until the helper has given back what it was getting

cdef set helped = set()  # Waits whose helper runs


cdef class Wait:
    """What a task waits for: 'attempt' answers 1 or more when it is there, 0 when not, or an error."""
    cdef attempt f
    cdef attempt undo     # gives back what f got, or NULL
    cdef attempt cleanup  # what to do where nobody goes on after f got nothing, or NULL
    cdef void *arg
    cdef Remote remote
    cdef str op
    cdef int state, rc
    cdef bint unwanted, detached, closed, cancelled
    cdef int64_t until    # remote: when to stop trying
    cdef object loop, future, ended, error
    cdef object keep      # what arg is part of

    def wake(self):
        """In the task's loop."""
        if not self.future.done():
            self.future.set_result(None)

    def tell_ended(self):
        """In the task's loop."""
        if not self.ended.done():
            self.ended.set_result(None)

    cdef tell(self):
        """False: there is no loop any more that could be told."""
        try:
            self.loop.call_soon_threadsafe(self.wake)
            if self.ended is not None:
                self.loop.call_soon_threadsafe(self.tell_ended)
        except RuntimeError:
            return False
        return True


@cython.final
cdef class Waits:
    """The waits of one handle for one eventcount, and their helper."""
    cdef Handle handle
    cdef Remote remote
    cdef object key
    cdef c.dsm_listener listener
    cdef list waits
    cdef bint stopped, over, using
    cdef object running  # a lock that the helper has

    def __cinit__(self, Handle handle not None, Remote remote not None, int eventcount):
        self.handle, self.remote, self.key, self.waits = handle, remote, (eventcount, remote), []
        c.dsm_listener_open(&self.listener, remote.ptr, eventcount)

    cdef start(self):
        self.running = threading.Lock()
        self.running.acquire()
        self.remote.uses += 1
        self.using = True
        helped.add(self)
        try:
            start_new_thread(self.help, ())
        except RuntimeError as error:
            self.part()
            raise error_of(c.DSM_ENOMEM, f"no thread that waits: {error}") from None

    cdef part(self):
        """No helper runs, and none will."""
        self.over = True
        self.unuse()
        helped.discard(self)
        if self.handle.waits is not None and self.handle.waits.get(self.key) is self:
            del self.handle.waits[self.key]
        self.running.release()

    cdef unuse(self):
        """The memory may be closed."""
        if self.using:
            self.using = False
            self.remote.uses -= 1

    # -- the helper --

    def help(self):
        cdef bint rung = False  # and nothing has been tried since
        try:
            while self.waits and not self.stopped:
                c.dsm_listener_begin(&self.listener)
                rung = not self.try_all() and rung
                if rung and not self.stopped:
                    c.dsm_listener_pass_on(&self.listener)
                rung = False
                if not self.waits or self.stopped:
                    break
                with nogil:
                    c.dsm_listener_sleep(&self.listener)
                rung = not self.stopped and c.dsm_listener_rung(&self.listener)
            if rung and not self.stopped:
                c.dsm_listener_pass_on(&self.listener)
        except BaseException as error:  # no memory left
            for wait in list(self.waits):
                (<Wait> wait).error = error
                self.finish(wait, -c.DSM_ENOMEM)
        finally:
            self.part()

    cdef int try_all(self) except -1:
        """For how many tasks it tried. Whoever waits for the same as one that has just tried in vain does not try."""
        cdef Wait wait
        cdef int tried = 0
        cdef attempt f = NULL
        cdef void *arg = NULL
        loop, closed = None, False
        for wait in list(self.waits):
            if self.stopped:
                break
            if wait.loop is not loop:
                loop = wait.loop
                closed = loop is not None and loop.is_closed()
            if closed:
                self.drop(wait)
            if wait.state == WAITING and not (wait.f == f and wait.arg == arg):
                tried += not wait.detached
                if not self.try_once(wait):
                    f, arg = wait.f, wait.arg
        return tried

    cdef bint try_once(self, Wait wait) except -1:
        """False: in vain."""
        cdef int rc
        cdef int64_t before
        if self.remote.mapped:
            rc = wait.f(wait.arg, 0)
        else:
            wait.state = TRYING
            with nogil:
                before = c.dsm_call_until(wait.until)
                rc = wait.f(wait.arg, 0)
                c.dsm_call_until(before)
            wait.state = WAITING
        if wait.detached:
            if rc > 0 or rc in (-c.DSM_ENOTHELD, -c.DSM_EPEER, -c.DSM_ESTALE, -c.DSM_EFORK, -c.DSM_ECLOSED):
                self.end(wait)
        elif rc or wait.until <= <int64_t> time.monotonic_ns():
            self.finish(wait, rc)
        elif wait.unwanted:
            self.drop(wait)
        return rc != 0

    cdef finish(self, Wait wait, int rc):
        wait.rc, wait.state = rc, TRIED
        if rc < 0 and wait.error is None:
            wait.error = wait.remote.failed(rc, wait.op)
        if wait.unwanted or not wait.tell():
            self.drop(wait)

    # -- by the helper or in the task's loop --

    cdef end(self, Wait wait):
        """The task has it, or nobody needs it."""
        if wait.state != ENDED:
            wait.state = ENDED
            self.waits.remove(wait)
            if wait.unwanted or wait.detached:
                wait.tell()

    cdef drop(self, Wait wait):
        """No task will take it, nor go on in its place."""
        cdef attempt f
        if wait.state == TRYING:
            wait.unwanted = True
        elif wait.state != ENDED and not wait.detached:
            f = wait.undo if wait.state == TRIED and wait.rc > 0 and wait.undo != NULL else wait.cleanup
            if f == NULL:
                self.end(wait)
            else:
                wait.f, wait.detached, wait.state, wait.until = f, True, WAITING, NEVER
                if self.remote.mapped:
                    self.try_once(wait)

    cdef withdraw(self, Wait wait):
        """The task takes it no more, but goes on. Remote memory may take the helper a while."""
        wait.cleanup = NULL
        self.drop(wait)

    # -- the end --

    cdef mark(self):
        """From now on no task takes what it waited for."""
        cdef Wait wait
        for wait in self.waits:
            wait.closed = True
        self.stopped = True

    cdef stop(self):
        """All tasks get ClosedError, also if a signal handler raises, which comes out then."""
        cdef Wait wait
        interrupt = None if self.remote.mapped else self.join()
        c.dsm_listener_end(&self.listener)
        for wait in list(self.waits):
            if wait.state == TRIED and wait.rc > 0 and wait.undo != NULL:
                wait.f = wait.undo
            elif not wait.detached:
                wait.f = wait.cleanup
            if wait.f != NULL:  # what fails is left to the end of the handle itself
                with nogil:
                    wait.f(wait.arg, 0)
            wait.detached = True
            self.end(wait)
        self.unuse()
        if interrupt is not None:
            raise interrupt

    cdef object join(self):
        """Until the helper has ended. What signal handlers raised meanwhile."""
        interrupt = None
        while not self.over:
            try:
                self.running.acquire()
                self.running.release()
            except BaseException as raised:
                interrupt = raised
        return interrupt

    cdef forget(self):
        """In the child of a fork: neither the helper nor the loops are there."""
        cdef Wait wait
        self.stopped = self.over = True
        for wait in self.waits:
            wait.state = ENDED
        self.waits = []
        self.unuse()
        self.handle.waits = None


def _forget_helped():
    for waits in list(helped):
        (<Waits> waits).forget()
    helped.clear()


@atexit.register
def _end_helped():
    """Before the interpreter ends threads wherever they are."""
    cdef Waits waits
    for one in list(helped):
        waits = one
        waits.stopped = True
        waits.join()


os.register_at_fork(after_in_child=_forget_helped)


cdef bint is_awaited(Handle handle, Remote remote, int eventcount):
    """Tasks wait already: who comes now waits behind them."""
    cdef Waits waits = handle.waits.get((eventcount, remote)) if handle.waits is not None else None
    return waits is not None and len(waits.waits) != 0


cdef Waits enlist(Handle handle, Remote remote, int eventcount, Wait wait):
    cdef Waits waits
    wait.remote = remote
    if handle.waits is None:
        handle.waits = {}
    waits = handle.waits.get((eventcount, remote))
    if waits is None or waits.over:
        waits = Waits(handle, remote, eventcount)
        handle.waits[waits.key] = waits
    waits.waits.append(wait)
    waits.listener.backoff = 0
    if waits.running is None:
        try:
            waits.start()
        except BaseException:
            waits.waits.remove(wait)
            raise
    return waits


cdef stop_waits(Handle handle):
    """By who closes the handle. All are marked before the GIL may go."""
    interrupt = None
    if handle.waits is None:
        return
    every = list(handle.waits.values())
    for waits in every:
        (<Waits> waits).mark()
    for waits in every:
        try:
            (<Waits> waits).stop()
        except BaseException as raised:
            interrupt = raised
    handle.waits = None
    if interrupt is not None:
        raise interrupt


cdef double seconds_of(int64_t ns):
    return ns * 1e-9


async def _until(Handle handle, Remote remote, int eventcount, Wait wait, object ns, bint must=False):
    """What the attempt answers, 0 when time is over first (ns -1: no limit). The helper tries first.

    The handle is in use, except while the task is suspended.
    must: a cancelled task goes on until it has ended; wait.cancelled says that it was.
    """
    cdef Waits waits
    timer = None
    wait.loop = asyncio.get_running_loop()
    wait.future = wait.loop.create_future()
    if ns >= 0 and not remote.mapped:
        wait.until = time.monotonic_ns() + min(ns, 1 << 62)
    waits = enlist(handle, remote, eventcount, wait)
    if ns >= 0 and remote.mapped:
        timer = wait.loop.call_later(seconds_of(ns), wait.wake)
    while True:
        error = None
        handle.uses -= 1
        try:
            await wait.future
        except BaseException as raised:
            error = raised
        handle.uses += 1
        if not must or wait.closed or not isinstance(error, asyncio.CancelledError):
            break
        wait.cancelled = True
        if wait.state >= TRIED:
            error = None
            break
        wait.future = wait.loop.create_future()
    if timer is not None:
        timer.cancel()
    if wait.closed:  # whoever closes the handle does the rest
        raise error if isinstance(error, GeneratorExit) else error_of(c.DSM_ECLOSED, handle.noun())
    if isinstance(error, GeneratorExit):
        waits.drop(wait)
    elif error is not None:
        waits.withdraw(wait)
        if wait.state != ENDED:
            handle.uses -= 1
            try:
                await _ended(wait)
            finally:
                handle.uses += 1
    if error is not None:
        raise error
    if wait.state != TRIED:
        waits.withdraw(wait)
        return 0
    waits.end(wait)
    if wait.rc < 0:
        raise wait.error if wait.error is not None else remote.failed(wait.rc, wait.op)
    return wait.rc


async def _ended(Wait wait):
    """Until the helper has given back what it was getting, or for GRACE_NS: a peer may be silent for longer."""
    wait.ended = wait.loop.create_future()
    timer = wait.loop.call_later(seconds_of(GRACE_NS), wait.tell_ended)
    while wait.state != ENDED:
        with contextlib.suppress(asyncio.CancelledError):
            await wait.ended
        if not wait.ended.cancelled():
            break
        wait.ended = wait.loop.create_future()
    timer.cancel()
