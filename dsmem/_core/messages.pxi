# Included by _core.pyx after queue.pxi: messages of several parts, lists of them and arrays of records in one call of a
# queue, views of messages in place, and what becomes of staged ones at the end.

cdef int put_parts(Queue q, list of, uint8_t kind, int64_t deadline, int how) except -1:
    cdef uint32_t n = len(of), taken = 0, i
    cdef Py_buffer *views = <Py_buffer *> malloc(n * sizeof(Py_buffer))
    cdef c.dsm_queue_part *all = <c.dsm_queue_part *> malloc(n * sizeof(c.dsm_queue_part))
    try:
        if not views or not all:
            raise error_of(c.DSM_ENOMEM, f"{n} buffers", "put")
        for data in of:
            get_buffer(data, &views[taken], False)
            all[taken].bytes, all[taken].nbytes = views[taken].buf, views[taken].len
            taken += 1
        if not q.producing:
            q.take_lane()
        if not q.push(all, n, kind, deadline, how):
            raise error_of(c.DSM_EFULL, f"{q.config.lane_bytes} bytes", "put")
        return 0
    finally:
        for i in range(taken):
            PyBuffer_Release(&views[i])
        free(views)
        free(all)


cdef object reserve_view(Queue q, uint64_t n, int64_t deadline):
    cdef Slot slot = new_slot(q, q.remote, NULL, n, False)
    cdef void *at
    cdef int rc = q.reserve_once(n, &at, deadline)
    while rc == -c.DSM_EFULL:
        q.send("reserve", deadline)  # what is staged, since only what has arrived is taken
        if not deadline or not q.wait(False, n, deadline, "reserve"):
            raise error_of(c.DSM_EFULL, f"{q.config.lane_bytes} bytes", "reserve")
        rc = q.reserve_once(n, &at, deadline)
    if rc:
        raise q.failed(rc, "reserve")
    q.writing_view = view_or(slot, at, n, c.dsm_queue_cancel, q.ptr)
    q.writing = slot
    return q.writing_view


cdef object peek_view(Queue q, int64_t deadline):
    if q.reading is not None:  # one slot counts all views of a message
        if not q.reading.exports:
            q.reading_view = memoryview(q.reading)
        return q.reading_view
    cdef Slot slot = new_slot(q, q.remote, NULL, 0, True)
    cdef const void *p
    cdef uint64_t length
    cdef uint8_t kind
    cdef int rc = q.next_once(&p, &length, &kind, deadline)
    while rc == -c.DSM_EEMPTY:
        if not deadline or not q.wait(True, 0, deadline, "peek"):
            raise error_of(c.DSM_EEMPTY, "", "peek")
        rc = q.next_once(&p, &length, &kind, deadline)
    if rc:
        raise q.failed(rc, "peek")
    try:
        q.reading_view = view_or(slot, <void *> p, length, c.dsm_queue_undo, q.ptr)
    except BaseException:
        q.peeked = None
        raise
    q.reading = slot
    return q.reading_view


cdef object send_last(Queue q):
    """Send what is staged, before the roles are given back. Returns the exception if it never arrives.

    Raises if it may arrive later. Nothing else uses the handle.
    """
    cdef uint64_t staged = c.dsm_queue_staged(q.ptr)
    cdef int rc = 0
    if staged and staged != q.told:
        with nogil:
            c.dsm_queue_set_timeout(q.ptr, -1)
            rc = c.dsm_queue_flush(q.ptr)
    if not rc:
        return None
    error = q.not_sent(rc, "close")
    if not isinstance(error, errors.DsmemError):  # that of a signal handler
        raise error
    text = f"{staged} staged messages " + ("are lost" if never_goes(rc) else "have not been sent")
    told = type(error)(f"{text}: {error.detail}" if error.detail else text, sys=error.sys, status=error.status,
                       vendor=error.vendor, peer=error.peer, device=error.device, op=error.op)
    told.__cause__ = error.__cause__
    if not never_goes(rc):
        raise told
    return told


cdef object put_all(Queue q, items, int64_t deadline):
    cdef Py_ssize_t n = 0
    try:
        for data in items_of(items, "items"):
            if not q.put_one(data, BYTES, deadline, LATER):
                break
            n += 1
    except BaseException as error:
        if not isinstance(error, (ConnectionError, TimeoutError, errors.ShutDownError)):
            told = q.told
            try:
                q.send("put", deadline)
            except errors.DsmemError:  # the next flush raises it again, and close() does
                q.told = told
        raise note_placed(error, n)
    try:
        q.send("put", deadline)
    except BaseException as error:
        raise note_placed(error, n)
    return n


cdef object put_records(Queue q, array, int64_t deadline):
    cdef Py_buffer view
    cdef uint64_t n, each, done = 0
    cdef int64_t rc
    if not array.ndim or not array.size:
        raise error_of(c.DSM_EINVAL, f"records are the rows of an array, not of one of shape {array.shape}", "put")
    n, each = array.shape[0], array.nbytes // array.shape[0]
    get_buffer(array, &view, False)
    try:
        while True:
            rc = q.push_records(<char *> view.buf + done * each, n - done, each, deadline)
            if rc < 0:
                raise q.failed(<int> rc, "put")
            done += rc
            q.send("put", deadline)
            if done == n or not deadline or not q.wait(False, each, deadline, "put"):
                return done
    except BaseException as error:
        raise note_placed(error, done)
    finally:
        PyBuffer_Release(&view)


cdef int some(Queue q, list out, Py_ssize_t most, int64_t deadline) except -1:
    """Take messages of one lane together and append them to 'out', up to 'most' in all. 1, or 0: there is none."""
    cdef const void *p
    cdef uint64_t length
    cdef uint8_t kind
    cdef Py_ssize_t had = len(out)
    cdef int rc
    if not q.mapped:
        return some_remotely(q, out, most, &kind, deadline)
    while True:
        rc = c.dsm_queue_next(q.ptr, &p, &length, &kind)
        try:
            while not rc:
                out.append(PyBytes_FromStringAndSize(<const char *> p, length))
                if len(out) == most:
                    break
                rc = c.dsm_queue_next_here(q.ptr, &p, &length, &kind)
        except MemoryError:
            c.dsm_queue_undo(q.ptr)
            del out[had:]
            raise
        if len(out) == had:
            if rc == -c.DSM_EEMPTY:
                return 0
            raise q.failed(rc, "get")
        if not c.dsm_queue_done(q.ptr):
            return 1
        del out[had:]  # another consumer was faster


cdef int from_inbox(Queue q, list out, Py_ssize_t most, uint8_t *kind) except -1:
    """Move messages from the inbox to 'out'. 1, or 0: there is none. The kind is the last message's."""
    if not q.inbox:
        return 0
    if q.peeked is not None:
        raise error_of(c.DSM_EBUSY, "a message is being read; release it first", "get")
    while q.inbox and len(out) < most:
        kind[0] = q.inbox[0][0]
        out.append(q.inbox[0][1])
        q.inbox.popleft()
    return 1


cdef int some_remotely(Queue q, list out, Py_ssize_t most, uint8_t *kind, int64_t deadline,
                       bint for_inbox=False) except -1:
    """The same, in another process's memory: the calls may wait for the network. The kind is the last message's.

    for_inbox: 'out' gets (kind, data), and what was taken is in the inbox before another thread has its turn.
    """
    cdef const void *p
    cdef uint64_t length
    cdef Py_ssize_t had = len(out)
    cdef int64_t ns = q.op_ns(deadline)
    cdef int rc = -c.DSM_EEMPTY
    q.begin()
    try:
        if not for_inbox and from_inbox(q, out, most, kind):
            return 1
        for _ in range(TRIES):  # other consumers may be faster, again and again
            with nogil:
                c.dsm_queue_set_timeout(q.ptr, ns)
                rc = c.dsm_queue_next(q.ptr, &p, &length, kind)
            try:
                while not rc:
                    data = PyBytes_FromStringAndSize(<const char *> p, length)
                    out.append((kind[0], data) if for_inbox else data)
                    if len(out) == most:
                        break
                    rc = c.dsm_queue_next_here(q.ptr, &p, &length, kind)
            except MemoryError:
                c.dsm_queue_undo(q.ptr)
                del out[had:]
                raise
            if len(out) == had:
                break
            with nogil:
                rc = c.dsm_queue_done(q.ptr)
            if not rc:
                if for_inbox:
                    q.inbox.extend(out)
                    if q.watch_items:
                        c.dsm_watch_ring(q.watch_items)
                return 1
            del out[had:]
            if rc != -c.DSM_EEMPTY:
                break
    finally:
        q.end()
    if rc == -c.DSM_EEMPTY:
        return 0
    raise q.failed(rc, "get")


cdef list get_up_to(Queue q, Py_ssize_t most, int64_t deadline):
    cdef list got = []
    while not some(q, got, min(most, RUN), deadline):
        if not deadline or not q.wait(True, 0, deadline, "get"):
            if q.watch_items:
                c.dsm_watch_arm(q.watch_items, 0)
            raise error_of(c.DSM_EEMPTY, "", "get")
    # Remotely once: what the next taking meets, an unknown outcome or a handler's exception, would hide that these were
    # taken, or be hidden.
    while len(got) < most and q.mapped:
        with nogil:  # let other threads run
            pass
        try:
            if not some(q, got, min(most, len(got) + RUN), deadline):
                break
        except (errors.DsmemError, MemoryError):  # return what was taken; the next call raises it again
            break
    return got


cdef int64_t pop_records(Queue q, void *to, uint64_t n, uint64_t each, int64_t deadline) except? -1:
    cdef int64_t rc, ns
    if q.mapped:
        return c.dsm_queue_pop_records(q.ptr, to, n, each)
    ns = q.op_ns(deadline)
    q.begin()
    if q.inbox:
        try:
            return records_from_inbox(q, <char *> to, n, each)
        finally:
            q.end()
    with nogil:
        c.dsm_queue_set_timeout(q.ptr, ns)
        rc = c.dsm_queue_pop_records(q.ptr, to, n, each)
    q.end()
    return rc


cdef int64_t records_from_inbox(Queue q, char *to, uint64_t n, uint64_t each) except -1:
    cdef uint64_t done = 0
    if q.peeked is not None:
        raise error_of(c.DSM_EBUSY, "a message is being read; release it first", "get")
    while q.inbox and done < n:
        data = q.inbox[0][1]
        if <uint64_t> PyBytes_GET_SIZE(data) != each:
            if done:
                break
            raise error_of(c.DSM_EMISMATCH, f"the next message has {len(data)} bytes, a record has {each}", "get")
        memcpy(to + done * each, PyBytes_AS_STRING(data), each)
        q.inbox.popleft()
        done += 1
    return done


cdef object get_records(Queue q, array, int64_t deadline):
    cdef Py_buffer view
    cdef uint64_t n, each
    cdef int64_t rc
    if not isinstance(array, ndarray) or not array.ndim or not array.size:
        raise refused(array, ndarray, "out is an array whose rows are records", "get")
    n, each = array.shape[0], array.nbytes // array.shape[0]
    get_buffer(array, &view, True)
    try:
        while True:
            rc = pop_records(q, view.buf, n, each, deadline)
            if rc < 0:
                raise q.failed(<int> rc, "get")
            if rc:
                return rc
            if not deadline or not q.wait(True, 0, deadline, "get"):
                if q.watch_items:
                    c.dsm_watch_arm(q.watch_items, 0)
                raise error_of(c.DSM_EEMPTY, "", "get")
    finally:
        PyBuffer_Release(&view)
