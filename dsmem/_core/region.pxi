# Included by _core.pyx: Region.

@cython.final
cdef class Region(Handle):
    cdef c.dsm_region *ptr
    cdef object __weakref__
    cdef readonly Context context
    cdef Pool pool  # from which it was cut, or None
    cdef readonly uint64_t nbytes
    cdef readonly object access
    cdef object kind, shape
    cdef bint registered
    cdef Py_buffer source

    def __init__(self, *args, **named):
        raise not_made("Region", "context.allocate(...), empty(...), copy(...) or register(...)")

    def __reduce__(self):
        raise not_pickled("region", "pickle region.descriptor, and attach to it with a context")

    cdef int check(self) except -1:
        if not self.live:
            self.refuse_closed()
        return self.context.check()

    cdef str noun(self):
        return "region"

    @property
    def closed(self):
        return self.ptr == NULL

    @property
    def descriptor(self):
        cdef uint8_t raw[c.DSM_DESC_MAX]
        self.check()
        cdef int n = c.dsm_region_descriptor(self.ptr, raw)
        return Descriptor(PyBytes_FromStringAndSize(<char *> raw, n))

    def array(self, dtype=None):
        self.enter()
        try:
            if dtype is None:
                return np.frombuffer(self, self.kind).reshape(self.shape if self.shape is not None else -1)
            return array_over(self, dtype)
        finally:
            self.leave()

    def __getbuffer__(self, Py_buffer *view, int flags):
        self.check()
        PyBuffer_FillInfo(view, self, c.dsm_region_data(self.ptr), self.nbytes, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.drop_export()

    def __dlpack__(self, **options):
        return self.array().__dlpack__(**options)

    def __dlpack_device__(self):
        return (1, 0)

    def close(self):
        if self.live:
            self.catch_up()
            self.refuse_in_use()
            self.free()

    cdef int free(self) except -1:
        cdef c.dsm_region *ptr = self.ptr
        if ptr == NULL:
            return 0
        self.live, self.ptr = False, NULL
        self.context.uses += 1  # keeps the core's context alive during the call
        with nogil:
            c.dsm_region_close(ptr)
        self.context.uses -= 1
        self.context.forget(self)
        self.leave_pool()
        self.release_source()
        return 0

    cdef void leave_pool(self) noexcept:
        if self.pool is not None:
            self.pool.regions -= 1
            self.pool = None

    cdef void release_source(self) noexcept:
        if self.registered:
            self.registered = False
            PyBuffer_Release(&self.source)

    def __enter__(self):
        self.check()
        return self

    def __exit__(self, *error):
        self.close_after(error)

    def __del__(self):
        if self.live and not self.exports and not self.users:  # its users may be finalized after it
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
            self.close()

    def __dealloc__(self):
        if self.ptr != NULL:  # it had views or users when it was finalized; they no longer exist
            with nogil:
                c.dsm_region_close(self.ptr)
        self.leave_pool()
        self.release_source()

    def __len__(self):
        return self.nbytes

    def __repr__(self):
        return f"<Region {self.nbytes} bytes '{self.access}'{' closed' if self.ptr == NULL else ''}>"


cdef object new_region(Context context, c.dsm_region *ptr, str kind, object shape):
    """The caller has entered the context."""
    cdef Region r
    try:
        r = Region.__new__(Region)
        r.nbytes = c.dsm_region_nbytes(ptr)
        r.access = letters(c.dsm_region_access(ptr))
        r.kind, r.shape = kind, shape
        r.context = context
        context.adopt(r)
    except BaseException:  # out of memory
        with nogil:
            c.dsm_region_close(ptr)
        raise
    r.ptr, r.live = ptr, True
    return r
