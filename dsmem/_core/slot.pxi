# Included by _core.pyx: the memory of a queue before it has a handle, the views of it that callers get, and helpers of
# the methods of Queue.

cdef enum:
    BYTES = 1              # kind of a message
    RUN = 32768            # number of messages that get_many takes before it lets other threads run
    TRIES = 16             # how often a remote consumer is slower than others before it lets the caller's signals in
    MOST = 1 << 20         # maximum number of messages that get_many takes
    # when a message is sent that was put: at once; when enough is staged; when the call that puts others sends them
    AT_ONCE = 0
    STAGED = 1
    LATER = 2


cdef c.dsm_queue_config queue_config(lanes, lane_bytes, max_message, bint many, bint drop, bint checked) except *:
    cdef c.dsm_queue_config s
    try:
        s.lanes, s.lane_bytes, s.max_message = lanes, lane_bytes, max_message
    except (OverflowError, TypeError):
        text = f"lanes={lanes!r}, lane_bytes={lane_bytes!r}, max_message={max_message!r}"
        raise error_of(c.DSM_EINVAL, text) from None
    s.flags = ((c.DSM_QUEUE_MANY_CONSUMERS if many else 0) | (c.DSM_QUEUE_DROP_OLDEST if drop else 0) |
               (c.DSM_QUEUE_CHECKED if checked else 0))
    return s


def queue_nbytes(lanes, lane_bytes, max_message, *, many_consumers=False, drop_oldest=False, checked=False):
    cdef c.dsm_queue_config s = queue_config(lanes, lane_bytes, max_message, many_consumers, drop_oldest, checked)
    cdef uint64_t n = c.dsm_queue_nbytes(&s)
    if not n:
        raise error_from_core(-c.DSM_EINVAL, "queue")
    return n


def queue_format(memory, lanes, lane_bytes, max_message, *, many_consumers=False, drop_oldest=False, checked=False):
    cdef c.dsm_queue_config s = queue_config(lanes, lane_bytes, max_message, many_consumers, drop_oldest, checked)
    cdef Py_buffer view
    cdef int rc = -c.DSM_EINVAL
    get_buffer(memory, &view, True)
    if <uint64_t> view.len >= c.dsm_queue_nbytes(&s):
        rc = c.dsm_queue_format(view.buf, &s)
    PyBuffer_Release(&view)
    if rc:
        raise error_from_core(rc, "queue")


@cython.final
cdef class Slot:
    """The bytes in a queue that a reservation or a message being read occupies. It counts the views of them.

    While there are any, they count as one view of the queue's memory, which a child of fork() may close nevertheless.
    """
    cdef object owner
    cdef Remote remote
    cdef void *at
    cdef Py_ssize_t length
    cdef bint readonly
    cdef int exports

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.at == NULL:  # the object was obtained from a view that has been released
            raise error_of(c.DSM_ECLOSED, "message")
        PyBuffer_FillInfo(view, self, self.at, self.length, self.readonly, flags)
        self.exports += 1
        if self.exports == 1:
            self.remote.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1
        if not self.exports:
            self.remote.drop_export()
            self.remote.close_if_parting()


cdef Slot new_slot(owner, Remote remote, void *at, uint64_t length, bint readonly):
    cdef Slot s = Slot.__new__(Slot)
    s.owner, s.remote, s.at, s.length, s.readonly = owner, remote, at, length, readonly
    return s


cdef uint64_t length_of(object length) except? 0xdead:
    n = checked_int(length, 0, (1 << 64) - 1)
    if n is None:
        raise refused(length, int, f"length={length!r}: a number of bytes", "reserve")
    return n


cdef object view_or(Slot slot, void *at, uint64_t length, void (*undo)(c.dsm_queue *) noexcept nogil, c.dsm_queue *q):
    """Return a view of what has just been reserved or read in the queue. If there is no memory for it, call undo."""
    slot.at, slot.length = at, length
    try:
        return memoryview(slot)
    except BaseException:
        undo(q)
        raise


cdef int end_view(Slot slot, view, str op) except -1:
    """End all views before other processes may use the memory. BusyError if any are left; the caller may try again."""
    try:
        view.release()
    except BufferError:
        pass
    if slot.exports:
        raise error_of(c.DSM_EBUSY, "an array or memoryview of the message is left; drop it first", op)
    slot.at = NULL
    return 0


cdef inline int how_to(object flush) except -1:
    return AT_ONCE if truth(flush, "flush") else STAGED


cdef inline bint is_sent(const c.dsm_queue *q, int how) noexcept nogil:
    """Whether a message that has just been staged is sent, and with it all that were staged before."""
    return how == AT_ONCE or (how == STAGED and c.dsm_queue_is_due(q))


cdef inline bint never_goes(int rc) noexcept:
    """Whether what is staged never arrives after this error of a flush."""
    return rc in (-c.DSM_ESHUTDOWN, -c.DSM_ENOTHELD, -c.DSM_ECORRUPT, -c.DSM_EPEER, -c.DSM_ESTALE, -c.DSM_EFENCED,
                  -c.DSM_EACCESS)


cdef inline uint64_t length_of_parts(const c.dsm_queue_part *parts, uint32_t n) noexcept:
    cdef uint64_t length = 0
    cdef uint32_t i
    for i in range(n):
        length += parts[i].nbytes
    return length


cdef object note_placed(error, n):
    """Set error.placed, the number of messages that a put has put or staged although it raised."""
    with contextlib.suppress(AttributeError):
        error.placed = n
    return error


cdef int producers_naming(void *arg, uint64_t *identities) noexcept nogil:
    return c.dsm_queue_producers((<c.dsm_queue **> arg)[0], identities)


cdef int consumer_naming(void *arg, uint64_t *identities) noexcept nogil:
    cdef int rc = c.dsm_queue_consumer((<c.dsm_queue **> arg)[0], identities)
    return rc if rc else identities[0] != 0


cdef int roles_breaking(void *arg, uint64_t holder) noexcept nogil:
    return c.dsm_queue_break((<c.dsm_queue **> arg)[0], holder)
