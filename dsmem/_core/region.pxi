# Included by _core.pyx: Region.

@cython.final
cdef class Region:
    """See the stub."""
    cdef c.dsm_region *ptr
    cdef object __weakref__
    cdef readonly Context context
    cdef readonly uint64_t nbytes
    cdef readonly object access
    cdef uint32_t exports
    cdef object kind, shape
    cdef bint registered
    cdef Py_buffer source

    def __init__(self):
        raise TypeError("made by Context.allocate, .empty and .register")

    cdef int check(self) except -1:
        if self.ptr == NULL:
            raise refused(c.DSM_ECLOSED, "region")
        return self.context.check()

    @property
    def closed(self):
        return self.ptr == NULL

    @property
    def descriptor(self):
        cdef uint8_t raw[256]
        self.check()
        cdef int n = c.dsm_region_descriptor(self.ptr, raw)
        return Descriptor(PyBytes_FromStringAndSize(<char *> raw, n))

    def array(self, dtype=None):
        self.check()
        if dtype is None:
            return np.frombuffer(self, self.kind).reshape(self.shape if self.shape is not None else -1)
        kind = np.dtype(dtype)
        if kind.hasobject or not kind.itemsize or self.nbytes % kind.itemsize:
            raise refused(c.DSM_EINVAL, f"{self.nbytes} bytes are no array of {kind}")
        return np.frombuffer(self, kind)

    def __getbuffer__(self, Py_buffer *view, int flags):
        self.check()
        PyBuffer_FillInfo(view, self, c.dsm_region_data(self.ptr), self.nbytes, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1

    def __dlpack__(self, **options):
        return self.array().__dlpack__(**options)

    def __dlpack_device__(self):
        return (1, 0)

    def _refuse_busy(self):
        if self.exports:
            raise refused(c.DSM_EBUSY, f"the region has {self.exports} views (arrays or memoryviews)", "close")

    def close(self):
        if self.ptr == NULL:
            return
        self._refuse_busy()
        cdef c.dsm_region *ptr = self.ptr
        self.ptr = NULL
        with nogil:
            c.dsm_region_close(ptr)
        if self.registered:
            PyBuffer_Release(&self.source)
        self.context.children.discard(self)

    def __enter__(self):
        self.check()
        return self

    def __exit__(self, *error):
        self.close()

    def __del__(self):
        if self.ptr != NULL and self.context.ptr == NULL:
            self.ptr = NULL  # in a cycle the context may be finalized first, and does not find its children then
        if self.ptr != NULL and not self.exports:  # what uses it may be finalized after it
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
            self.close()

    def __len__(self):
        return self.nbytes

    def __repr__(self):
        return f"<Region {self.nbytes} bytes '{self.access}'{' closed' if self.ptr == NULL else ''}>"


cdef object new_region(Context context, c.dsm_region *ptr, str kind, object shape):
    cdef Region r = Region.__new__(Region)
    r.ptr = ptr
    r.context = context
    r.nbytes = c.dsm_region_nbytes(ptr)
    r.access = letters(c.dsm_region_access(ptr))
    r.kind, r.shape = kind, shape
    try:
        context.children.add(r)
    except BaseException:  # Ctrl-C: what the context does not know of must not outlive it
        r.ptr = NULL
        with nogil:
            c.dsm_region_close(ptr)
        raise
    return r
