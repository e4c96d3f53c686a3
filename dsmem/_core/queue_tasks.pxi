# Included by _core.pyx after tasks.pxi: how tasks of event loops use a queue whose memory is not mapped. Each try to
# take or to put is round trips, so the helper of waits.pxi makes it
# (docs/decisions/0011-one-helper-waits-for-many-tasks.md). A queue that is mapped needs none of this (dsmem/queue.py).
#
# Invariants of a handle's inbox, under the GIL:
#   It has the messages that a helper has taken, in the order of the queue, until a caller has them. They are put in
#   while the helper has the turn, so a call that has the turn finds all that were taken before.
#   A task takes the first ones when it is resumed, and not those that were taken when it was its turn. So a task that
#   is cancelled after its message was taken leaves it, as the first one, to the next caller.
#   The helper takes no more than the waiting tasks want, less what lies there for none of them.

@cython.final
cdef class Fetch(Attempt):
    """What a task wants to have from a queue."""
    cdef Queue q
    cdef Py_ssize_t n

    cdef Py_ssize_t spare(self):
        """How many messages of the inbox are not for tasks that are about to be resumed."""
        cdef Waits waits = self.q.waits.get((c.DSM_EVENTCOUNT_FIRST, self.q.remote))
        cdef Wait wait
        cdef Py_ssize_t n = len(self.q.inbox)
        for wait in waits.waits:
            if wait.state == TRIED and wait.rc > 0:
                n -= wait.rc
        return n

    cdef int get(self) except -1:
        """Called by the helper. Returns how many messages are there for the task."""
        cdef uint8_t kind
        cdef Queue q = self.q
        cdef Py_ssize_t spare = self.spare()
        if q.peeked is not None:
            raise error_of(c.DSM_EBUSY, "a message is being read; release it first", "get")
        if spare < 1:
            if not q.consuming:
                q.take_role()
            some_remotely(q, [], min(self.n, RUN), &kind, -1, True)
            spare = self.spare()
        return min(self.n, max(0, spare))


@cython.final
cdef class Send(Attempt):
    """A message of a task."""
    cdef Queue q
    cdef Py_buffer view
    cdef int placed  # as in note_placed
    cdef bint left   # the task has gone: no exception tells it what becomes of the message

    def __dealloc__(self):
        PyBuffer_Release(&self.view)  # no effect if it was released before

    cdef int put(self) except -1:
        """Called by the helper. Returns 0 if there is no room."""
        cdef Queue q = self.q
        cdef c.dsm_queue_part part
        cdef int rc
        if not q.producing:
            q.take_lane()
        part.bytes, part.nbytes = self.view.buf, self.view.len
        rc = q.push_once(&part, 1, BYTES, -1, AT_ONCE, &self.placed)
        if rc == -c.DSM_EFULL:
            q.send("put", -1)
            return 0
        if rc:
            raise q.not_sent(rc, "put")
        q.told = 0
        PyBuffer_Release(&self.view)
        return 1

    cdef void says_nothing(self) noexcept:
        """Let close() say what a failure has kept from being sent, if the task does not hear of it."""
        if self.left and self.error is not None:
            self.q.told = 0


cdef int fetch_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    with gil:
        own = <Fetch> arg
        try:
            return own.get()
        except BaseException as error:
            own.error = error
            return -c.DSM_EIO


cdef int send_attempt(void *arg, int64_t timeout_ns) noexcept nogil:
    with gil:
        own = <Send> arg
        try:
            return own.put()
        except BaseException as error:
            own.error = error
            own.says_nothing()
            return -c.DSM_EIO


async def _queue_get(Queue q, n):
    """Return a list of messages, at least one."""
    cdef Fetch own = Fetch()
    cdef Wait wait
    cdef list got = []
    cdef uint8_t kind
    q.enter()
    try:
        own.q, own.n = q, q.most(n)
        if q.inbox is None:
            q.inbox = deque()
        while not got:  # another caller may be faster
            wait = new_wait(own, "get", fetch_attempt, <void *> own, NULL, NULL)
            wait.thing = <void *> q
            await _until(q, q.remote, c.DSM_EVENTCOUNT_FIRST, wait, -1)
            from_inbox(q, got, min(own.n, wait.rc), &kind)
        return got
    finally:
        q.leave()


async def _queue_put(Queue q, data):
    cdef Send own = Send()
    cdef Wait wait
    q.enter()
    try:
        get_buffer(data, &own.view, False)
        own.q = q
        wait = new_wait(own, "put", send_attempt, <void *> own, NULL, NULL)
        wait.thing, wait.amount = <void *> q, own.view.len
        try:
            await _until(q, q.remote, c.DSM_EVENTCOUNT_SECOND, wait, -1)
        except BaseException as error:
            own.left = error is not own.error
            own.says_nothing()
            known = wait.state == ENDED or wait.future is None  # refused before any try
            if known and own.placed and own.error is not None and error is not own.error:
                # cancelled after a try that has failed: the message is in the handle, and perhaps at the owner
                known, error.__cause__ = False, own.error
            raise note_placed(error, own.placed if known else None)
        finally:
            if wait.state == ENDED:
                PyBuffer_Release(&own.view)
    finally:
        q.leave()
