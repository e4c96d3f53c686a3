# Included by _core.pyx: Pool, and Remotes, which Context.attach_many returns.

@cython.final
cdef class Pool(Handle):
    cdef c.dsm_pool *ptr
    cdef object __weakref__
    cdef readonly Context context
    cdef readonly uint64_t nbytes
    cdef readonly object access
    cdef object row   # dtype of a row of allocate_many()
    cdef int regions  # open regions of allocate(). Unlike users they do not keep the context from closing both

    def __init__(self, *args, **named):
        raise not_made("Pool", "context.pool(...)")

    def __reduce__(self):
        raise not_pickled("pool", "pickle the descriptors of its regions, and attach to them with a context")

    cdef int check(self) except -1:
        if not self.live:
            self.refuse_closed()
        return self.context.check()

    cdef str noun(self):
        return "pool"

    @property
    def closed(self):
        return self.ptr == NULL

    @property
    def descriptor(self):
        cdef uint8_t raw[c.DSM_DESC_MAX]
        self.check()
        cdef int n = c.dsm_region_descriptor(c.dsm_pool_whole(self.ptr), raw)
        return Descriptor(PyBytes_FromStringAndSize(<char *> raw, n))

    def array(self):
        self.enter()
        try:
            return np.frombuffer(self, "u1")
        finally:
            self.leave()

    def __getbuffer__(self, Py_buffer *view, int flags):
        self.check()
        PyBuffer_FillInfo(view, self, c.dsm_region_data(c.dsm_pool_whole(self.ptr)), self.nbytes, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.drop_export()

    # -- regions --

    def allocate(self, nbytes):
        cdef c.dsm_region *r = NULL
        cdef uint64_t size
        cdef int rc
        self.enter()
        try:
            size = nbytes_of(nbytes)
            self.check()
            with nogil:
                rc = c.dsm_pool_alloc(self.ptr, size, &r)
            if rc:
                raise error_from_core(rc, "allocate")
            region = new_region(self.context, r, "u1", None)
            (<Region> region).pool = self
            self.regions += 1
            return region
        finally:
            self.leave()

    def allocate_many(self, sizes):
        cdef ndarray made, wanted
        cdef size_t n
        cdef const uint64_t *from_
        cdef void *to
        cdef int rc
        self.enter()
        try:
            wanted = as_words(sizes, "sizes")
            if PyArray_NDIM(wanted) != 1:
                raise error_of(c.DSM_EINVAL, f"sizes={sizes!r:.80}: a list or an array of one length for each region")
            n = PyArray_DIMS(wanted)[0]
            made = np.zeros(n, self.row)
            from_, to = <uint64_t *> PyArray_DATA(wanted), PyArray_DATA(made)
            self.check()
            with nogil:
                rc = c.dsm_pool_alloc_many(self.ptr, n, from_, to)
            if rc:
                raise error_from_core(rc, "allocate_many")
            return made
        finally:
            self.leave()

    def free_many(self, regions):
        cdef size_t row, n, failed = 0
        cdef bytes raw
        cdef const char *p
        cdef int rc
        self.enter()
        try:
            raw = bytes_of(regions)
            self.check()
            row, p = c.dsm_pool_row(self.ptr), raw
            n = len(raw) // row
            if n * row != <size_t> len(raw):
                what = f"{len(raw)} bytes are not descriptors of this pool, which have {row} each"
                raise error_of(c.DSM_EINVAL, what, "free_many")
            with nogil:
                rc = c.dsm_pool_free_many(self.ptr, n, p, &failed)
            if rc:
                raise at_index(error_from_core(rc, "free_many"), failed, n)
        finally:
            self.leave()

    # -- closing --

    def close(self):
        if self.live:
            self.catch_up()
            self.refuse_in_use()
            if self.regions:
                raise error_of(c.DSM_EBUSY, f"{self.regions} regions are open on the pool; close them first", "close")
            self.free()

    cdef int free(self) except -1:
        cdef c.dsm_pool *ptr = self.ptr
        if ptr == NULL:
            return 0
        self.live, self.ptr = False, NULL
        self.context.uses += 1  # keeps the core's context alive during the call
        with nogil:
            c.dsm_pool_close(ptr)
        self.context.uses -= 1
        self.context.forget(self)
        return 0

    def __enter__(self):
        self.check()
        return self

    def __exit__(self, *error):
        self.close_after(error)

    def __del__(self):
        if self.live and not self.exports and not self.regions:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
            self.close()

    def __dealloc__(self):
        if self.ptr != NULL:  # it had views or regions when it was finalized; they no longer exist
            with nogil:
                c.dsm_pool_close(self.ptr)

    def __len__(self):
        return self.nbytes

    def __repr__(self):
        return f"<Pool {self.nbytes} bytes '{self.access}'{' closed' if self.ptr == NULL else ''}>"


cdef object new_pool(Context context, c.dsm_pool *ptr):
    """The caller has entered the context."""
    cdef Pool p
    cdef const c.dsm_region *whole = c.dsm_pool_whole(ptr)
    try:
        p = Pool.__new__(Pool)
        p.nbytes = c.dsm_region_nbytes(whole)
        p.access = letters(c.dsm_region_access(whole))
        p.row = row_of(c.dsm_pool_row(ptr))
        p.context = context
        context.adopt(p)
    except BaseException:  # out of memory, or a signal handler
        with nogil:
            c.dsm_pool_close(ptr)
        raise
    p.ptr, p.live = ptr, True
    return p


cdef object at_index(object error, size_t failed, size_t n):
    """Say in the exception which descriptor it is about, if it is about one of the n."""
    if isinstance(error, errors.DsmemError) and failed < n:
        error.index = failed
    return error


cdef object row_of(size_t nbytes):
    """Return the dtype of a descriptor of this length, which ends with its part (docs/protocols/descriptor.md).

    What programs calculate with is signed: NumPy adds signed and unsigned integers to floating-point numbers.
    """
    return np.dtype([("pool", f"V{nbytes - 36}"), ("number", "<u8"), ("generation", "<u8"), ("offset", "<i8"),
                     ("nbytes", "<i8"), ("checksum", "<u4")])


@cython.final
cdef class Remotes(Handle):
    cdef c.dsm_remotes *ptr
    cdef object __weakref__
    cdef readonly Context context
    cdef size_t n

    def __init__(self, *args, **named):
        raise not_made("Remotes", "context.attach_many(...)")

    def __reduce__(self):
        raise not_pickled("remotes", "pickle the descriptors, and attach to them with a context")

    cdef int check(self) except -1:
        if not self.live:
            self.refuse_closed()
        return self.context.check()

    cdef object failed(self, int rc, str op):
        return error_from_core(rc, op, None, self.context.device)

    cdef str noun(self):
        return "remotes"

    @property
    def closed(self):
        return self.ptr == NULL

    @property
    def nbytes(self):
        cdef ndarray sizes
        self.enter()
        try:
            sizes = np.empty(self.n, np.int64)
            c.dsm_remotes_sizes(self.ptr, <uint64_t *> PyArray_DATA(sizes))
            return sizes
        finally:
            self.leave()

    def __len__(self):
        return self.n

    def __getitem__(self, position):
        cdef size_t place
        cdef c.dsm_remote *r = NULL
        cdef int rc
        cdef object at
        self.enter()
        try:
            at = checked_int(position, -<Py_ssize_t> self.n, self.n - 1 if self.n else -1)
            if at is None:
                raise errors.OutOfBoundsError(f"region {position!r:.80} of {self.n}")
            if at < 0:
                at += self.n
            place = at
            with nogil:
                rc = c.dsm_remotes_get(self.ptr, place, &r)
            if rc:
                raise self.failed(rc, "attach_many")
            remote = new_remote(self.context, r)
            (<Remote> remote).item = True
            return remote
        finally:
            self.leave()

    def read_many(self, regions, offsets, out, timeout=None):
        self.enter()
        try:
            self.many(regions, offsets, out, timeout, True)
        finally:
            self.leave()

    def write_many(self, regions, offsets, data, timeout=None):
        self.enter()
        try:
            self.many(regions, offsets, data, timeout, False)
        finally:
            self.leave()

    cdef int many(self, object regions, object offsets, object local, object timeout, bint reads) except -1:
        cdef Py_buffer view
        cdef size_t n, each
        cdef int64_t ns = -1 if timeout is None else nanoseconds(timeout)
        cdef str name = "read_many" if reads else "write_many"
        cdef ndarray which = as_words(regions, "regions"), where = as_words(offsets, "offsets")
        cdef int rc = 0
        if PyArray_NDIM(which) != 1 or PyArray_NDIM(where) > 1:
            raise error_of(c.DSM_EINVAL, "regions is a list or an array of numbers, offsets a number or as many", name)
        n = PyArray_DIMS(which)[0]
        if PyArray_NDIM(where) == 0:
            where = np.full(n, where, UINT64)
        elif <size_t> PyArray_DIMS(where)[0] != n:
            raise error_of(c.DSM_EINVAL, f"{n} regions and {len(where)} offsets; pass one for each", name)
        get_buffer(local, &view, reads)
        each = view.len // n if n else 0
        if n * each != <size_t> view.len or (n and not each):
            PyBuffer_Release(&view)
            raise error_of(c.DSM_EINVAL, f"{view.len} bytes do not divide into {n} equal pieces", name)
        rc = self.move(reads, <uint64_t *> PyArray_DATA(which), <uint64_t *> PyArray_DATA(where), n, view.buf, each, ns)
        PyBuffer_Release(&view)
        if rc:
            raise self.failed(rc, name)
        return 0

    cdef int move(self, bint reads, uint64_t *which, uint64_t *where, size_t n, void *local, uint64_t each,
                  int64_t ns) noexcept:
        cdef int rc
        with nogil:
            rc = (c.dsm_remotes_read_many(self.ptr, which, where, n, local, each, ns) if reads else
                  c.dsm_remotes_write_many(self.ptr, which, where, n, local, each, ns))
        return rc

    # -- closing --

    def close(self):
        if self.live:
            self.catch_up()
            self.refuse_in_use()
            self.free()

    cdef int free(self) except -1:
        cdef c.dsm_remotes *ptr = self.ptr
        cdef int rc
        if ptr == NULL:
            return 0
        self.live, self.ptr = False, NULL  # no thread can begin an op now
        self.context.uses += 1  # keeps the core's context alive during the call
        with nogil:
            rc = c.dsm_remotes_close(ptr)
        self.context.uses -= 1
        if rc:
            self.live, self.ptr = True, ptr
            raise self.failed(rc, "close")
        self.context.forget(self)
        return 0

    def __enter__(self):
        self.check()
        return self

    def __exit__(self, *error):
        self.close_after(error)

    def __del__(self):
        if self.live:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
            self.close()

    def __dealloc__(self):
        if self.ptr != NULL:
            with nogil:
                c.dsm_remotes_close(self.ptr)

    def __repr__(self):
        return f"<Remotes of {self.n} regions{' closed' if self.ptr == NULL else ''}>"


cdef object new_remotes(Context context, c.dsm_remotes *ptr):
    """The caller has entered the context."""
    cdef Remotes r
    try:
        r = Remotes.__new__(Remotes)
        r.n = c.dsm_remotes_count(ptr)
        r.context = context
        context.adopt(r)
    except BaseException:  # out of memory
        with nogil:
            c.dsm_remotes_close(ptr)
        raise
    r.ptr, r.live = ptr, True
    return r
