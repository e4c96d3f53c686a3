# Included by _core.pyx: how tasks of event loops wait for synchronisation objects and for segments
# (docs/decisions/0011-one-helper-waits-for-many-tasks.md).
#
# A loop's thread tries once if that takes no round trip. If the attempt does not succeed, a Wait is put on the list of
# the handle's Waits, of which there is one for each eventcount. The helper of the Waits, a thread, tries for all Wait
# objects on the list and sleeps in between, where a blocking waiter would sleep. It notifies a task for which an
# attempt has succeeded or failed with call_soon_threadsafe().
#
# Invariants, under the GIL:
#   A Wait is on the list until its state is ENDED.
#   WAITING   not tried yet, or tried without success
#   TRYING    remote memory only: the helper is trying, without the GIL
#   TRIED     rc is the result, and the task has not taken it yet
#   detached  no task takes the result. The helper tries until the attempt succeeds or cannot succeed any more. This is
#             how it gives back what it has acquired for a task that no longer waits.
# The helper ends when the list is empty, or when 'stopped' is set. After that it does not access the object's memory:
# it accesses mapped memory only with the GIL, and if the memory is remote, close() waits for the helper.

ctypedef int (*attempt)(void *arg, int64_t timeout_ns) noexcept nogil

cdef enum:
    WAITING
    TRYING
    TRIED
    ENDED
cdef enum:
    GRACE_NS = 200_000_000  # how long a cancelled task waits for the helper to give back what it was acquiring

cdef set helped = set()  # every Waits whose helper runs


cdef class Wait:
    """What a task waits for. An attempt returns 1 or more if it has succeeded, 0 if it has not, or an error."""
    cdef attempt f
    cdef attempt undo     # gives back what f acquired, or NULL
    cdef attempt cleanup  # what to do if f acquired nothing and the task does not continue, or NULL
    cdef void *arg
    cdef void *thing      # what the task waits for, also where each task has an arg of its own
    cdef uint64_t amount  # how much of it the task wants
    cdef Remote remote
    cdef str op
    cdef int state, rc
    cdef bint unwanted, detached, closed, cancelled
    cdef int64_t until    # if remote: when to stop trying, of time.monotonic_ns()
    cdef object loop, future, ended, error
    cdef object keep      # what arg is part of; an Attempt says by itself which error it has met

    def wake(self):
        """Called in the task's loop."""
        if not self.future.done():
            self.future.set_result(None)

    def tell_ended(self):
        """Called in the task's loop."""
        if not self.ended.done():
            self.ended.set_result(None)

    cdef tell(self):
        """Notify the task. False: its loop no longer exists."""
        try:
            self.loop.call_soon_threadsafe(self.wake)
            if self.ended is not None:
                self.loop.call_soon_threadsafe(self.tell_ended)
        except RuntimeError:
            return False
        return True


cdef class Attempt:
    """Base class of the arguments of attempts that run Python code."""
    cdef object error


@cython.final
cdef class Waits:
    """The waits of one handle on one eventcount, and their helper."""
    cdef Handle handle
    cdef Remote remote
    cdef object key
    cdef c.dsm_listener listener
    cdef list waits
    cdef bint stopped, over, using
    cdef bint joined         # a Wait has come since the helper slept: its sleeps begin short again
    cdef object running  # a lock that the helper holds while it runs

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
        """Called when no helper runs and none will."""
        self.over = True
        self.unuse()
        helped.discard(self)
        if self.handle.waits is not None and self.handle.waits.get(self.key) is self:
            del self.handle.waits[self.key]
        self.running.release()

    cdef unuse(self):
        """Allow the memory to be closed."""
        if self.using:
            self.using = False
            self.remote.uses -= 1

    # -- the helper --

    def help(self):
        cdef bint rung = False  # the eventcount has woken this thread, and nothing has been tried since
        try:
            while self.waits and not self.stopped:
                c.dsm_listener_begin(&self.listener)
                rung = not self.try_all() and rung
                if rung and not self.stopped:
                    c.dsm_listener_pass_on(&self.listener)
                rung = False
                if not self.waits or self.stopped:
                    break
                if self.joined:
                    self.joined, self.listener.backoff = False, 0
                with nogil:
                    c.dsm_listener_sleep(&self.listener)
                rung = not self.stopped and c.dsm_listener_notified(&self.listener)
            if rung and not self.stopped:
                c.dsm_listener_pass_on(&self.listener)
        except BaseException as error:  # out of memory
            for wait in list(self.waits):
                (<Wait> wait).error = error
                self.finish(wait, -c.DSM_ENOMEM)
        finally:
            self.part()

    cdef int try_all(self) except -1:
        """Return for how many tasks it tried. If one has failed, those for as much of the same thing are skipped."""
        cdef Wait wait
        cdef int tried = 0
        cdef attempt f = NULL
        cdef void *thing = NULL
        cdef uint64_t amount = 0
        loop, closed = None, False
        for wait in list(self.waits):
            if self.stopped:
                break
            if wait.loop is not loop:
                loop = wait.loop
                closed = loop is not None and loop.is_closed()
            if closed:
                self.drop(wait)
            if wait.state == WAITING and not (wait.f == f and wait.thing == thing and wait.amount >= amount):
                tried += not wait.detached
                if not self.try_once(wait):
                    f, thing, amount = wait.f, wait.thing, wait.amount
        return tried

    cdef bint try_once(self, Wait wait) except -1:
        """Try once. False: without success."""
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
            if rc > 0 or rc in (
                -c.DSM_ENOTHELD, -c.DSM_EPEER, -c.DSM_ESTALE, -c.DSM_EFENCED, -c.DSM_EFORK, -c.DSM_ECLOSED
            ):
                self.end(wait)
        elif rc or wait.until <= <int64_t> time.monotonic_ns():
            self.finish(wait, rc)
        elif wait.unwanted:
            self.drop(wait)
        return rc != 0

    cdef finish(self, Wait wait, int rc):
        wait.rc, wait.state = rc, TRIED
        if rc < 0 and wait.error is None and isinstance(wait.keep, Attempt):
            wait.error = (<Attempt> wait.keep).error
        if rc < 0 and wait.error is None:
            wait.error = wait.remote.failed(rc, wait.op)
        if wait.unwanted or not wait.tell():
            self.drop(wait)

    # -- by the helper or in the task's loop --

    cdef end(self, Wait wait):
        """Remove a Wait whose result the task has taken, or no task needs."""
        if wait.state != ENDED:
            wait.state = ENDED
            self.waits.remove(wait)
            if wait.unwanted or wait.detached:
                wait.tell()

    cdef drop(self, Wait wait):
        """No task will take the result, and the task does not continue: undo, clean up, or end the Wait."""
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
        """The task does not take the result, but continues. If the memory is remote, the helper may need a while."""
        wait.cleanup = NULL
        self.drop(wait)

    # -- closing --

    cdef mark(self):
        """From now on no task takes the result of its Wait."""
        cdef Wait wait
        for wait in self.waits:
            wait.closed = True
        self.stopped = True

    cdef stop(self):
        """End all waits with ClosedError, even if a signal handler raises; its exception is raised at the end."""
        cdef Wait wait
        interrupt = None if self.remote.mapped else self.join()
        c.dsm_listener_end(&self.listener)
        for wait in list(self.waits):
            if wait.state == TRIED and wait.rc > 0 and wait.undo != NULL:
                wait.f = wait.undo
            elif not wait.detached:
                wait.f = wait.cleanup
            if wait.f != NULL:  # if it fails, closing the handle itself gives back what is left
                with nogil:
                    wait.f(wait.arg, 0)
            wait.detached = True
            self.end(wait)
        self.unuse()
        if interrupt is not None:
            raise interrupt

    cdef object join(self):
        """Wait until the helper has ended. Returns the exception that a signal handler raised meanwhile, or None."""
        interrupt = None
        while not self.over:
            try:
                self.running.acquire()
                self.running.release()
            except BaseException as raised:
                interrupt = raised
        return interrupt

    cdef forget(self):
        """Called in a child of fork(), where neither the helper nor the loops exist."""
        cdef Wait wait
        self.stopped = self.over = True
        self.using = False  # the remote no longer counts what has begun before the fork (Handle.forget_calls)
        for wait in self.waits:
            wait.state = ENDED
        self.waits = []
        self.handle.waits = None


def _forget_helped():
    for waits in list(helped):
        (<Waits> waits).forget()
    helped.clear()


@atexit.register
def _end_helped():
    """Stop the helpers before the interpreter ends threads at arbitrary points."""
    cdef Waits waits
    for one in list(helped):
        waits = one
        waits.stopped = True
        waits.join()


os.register_at_fork(after_in_child=_forget_helped)


cdef bint is_awaited(Handle handle, Remote remote, int eventcount):
    """Whether tasks already wait. A new waiter has to wait behind them."""
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
    waits.joined = True
    if waits.running is None:
        try:
            waits.start()
        except BaseException:
            waits.waits.remove(wait)
            raise
    return waits


cdef stop_waits(Handle handle):
    """Called by the code that closes the handle. All Waits are marked before the GIL may be released."""
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
    """Return what the attempt returns, or 0 after ns nanoseconds (-1: no limit). The helper makes the first attempt.

    The handle is in use, except while the task is suspended.
    must: if the task is cancelled, it waits until the attempt has ended; wait.cancelled records the cancellation.
    """
    cdef Waits waits
    timer = None
    if not remote.mapped and handle.uses > 1 and c.dsm_in_handler():
        # The interrupted call may hold what the helper needs, and goes on only when this loop has ended.
        raise remote.failed(c.dsm_refuse_reentry(b"object"), wait.op)
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
    if wait.closed:  # the code that closes the handle does the rest
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
    """Wait until the helper has given back what it was acquiring, but at most GRACE_NS: a peer may not answer."""
    wait.ended = wait.loop.create_future()
    timer = wait.loop.call_later(seconds_of(GRACE_NS), wait.tell_ended)
    while wait.state != ENDED:
        with contextlib.suppress(asyncio.CancelledError):
            await wait.ended
        if not wait.ended.cancelled():
            break
        wait.ended = wait.loop.create_future()
    timer.cancel()
