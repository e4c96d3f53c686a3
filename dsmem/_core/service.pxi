# Included by _core.pyx: requests to a service of another process, and the service's side of them.

@cython.final
cdef class Service(Handle):
    cdef c.dsm_service *ptr
    cdef object __weakref__
    cdef readonly Context context
    cdef readonly str address

    def __init__(self, Context context not None, str address not None):
        cdef c.dsm_service *ptr = NULL
        cdef bytes where = address.encode()
        cdef const char *at = where
        cdef int rc
        context.enter()
        try:
            context.check()
            if self.context is not None:
                raise error_of(c.DSM_EINVAL, "the service has been opened before; make another one")
            self.context, self.address = context, address
            context.adopt(self)
            rc = c.dsm_service_open(context.ptr, at, &ptr)
            if rc:
                context.forget(self)
                raise error_from_core(rc, "connect")
            self.ptr, self.live = ptr, True
        finally:
            context.leave()

    def __reduce__(self):
        raise not_pickled("service", "open one in the other process")

    cdef int check(self) except -1:
        if not self.live:
            self.refuse_closed()
        return self.context.check()

    cdef str noun(self):
        return "connection to a service"

    @property
    def closed(self):
        return self.ptr == NULL

    def call(self, bytes request not None, timeout=None):
        cdef const char *p = request
        cdef size_t n = len(request), got = c.DSM_CALL_MAX
        cdef uint8_t answer[c.DSM_CALL_MAX]
        cdef int64_t ns
        cdef int rc
        self.enter()
        try:
            ns = nanoseconds(timeout)
            self.check()
            with nogil:
                rc = c.dsm_service_call(self.ptr, p, n, answer, &got, ns)
            if rc:
                raise error_from_core(rc, "call")
            return PyBytes_FromStringAndSize(<char *> answer, got)
        finally:
            self.leave()

    def close(self):
        if self.live:
            self.catch_up()
            self.refuse_in_use()
            self.free()

    cdef int free(self) except -1:
        cdef c.dsm_service *ptr = self.ptr
        if ptr == NULL:
            return 0
        self.live, self.ptr = False, NULL
        self.context.uses += 1  # keeps the core's context alive during the call
        with nogil:
            c.dsm_service_close(ptr)
        self.context.uses -= 1
        self.context.forget(self)
        return 0

    def __dealloc__(self):
        if self.ptr != NULL:
            with nogil:
                c.dsm_service_close(self.ptr)

    def __repr__(self):
        return f"<Service at {self.address}{' closed' if self.ptr == NULL else ''}>"


def serve(Context context not None, bint on, grace=None):
    cdef int64_t ns
    cdef int rc
    context.enter()
    try:
        ns = nanoseconds(grace)
        context.check()
        with nogil:
            rc = c.dsm_serve(context.ptr, on, ns)
        if rc:
            raise error_from_core(rc, "serve")
    finally:
        context.leave()


def next_call(Context context not None, timeout=None):
    cdef c.dsm_call call
    cdef int64_t ns
    cdef int rc
    context.enter()
    try:
        ns = nanoseconds(timeout)
        context.check()
        with nogil:
            rc = c.dsm_next_call(context.ptr, ns, &call)
        if rc == -c.DSM_ETIME:
            error = error_from_core(rc, "next_call")
            if not isinstance(error, errors.TimeoutError):  # of a signal handler
                raise error
            return None
        if rc:
            raise error_from_core(rc, "next_call")
        request = None if call.left else PyBytes_FromStringAndSize(<char *> call.bytes, call.len)
        return call.client, call.number, request
    finally:
        context.leave()


def reply(Context context not None, uint64_t client, uint64_t number, bytes answer not None):
    cdef c.dsm_call call
    cdef const char *p = answer
    cdef size_t n = len(answer)
    cdef int rc
    context.enter()
    try:
        context.check()
        call.client, call.number = client, number
        with nogil:
            rc = c.dsm_reply(context.ptr, &call, p, n)
        if rc and rc != -c.DSM_EPEER:
            raise error_from_core(rc, "reply")
        return rc == 0
    finally:
        context.leave()
