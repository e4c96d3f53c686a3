# Included by _core.pyx: SegmentCore, the base class of dsmem.Segment.

cdef tuple PLACES = (int, np.integer, slice, tuple, list, ndarray, type(Ellipsis))


@cython.auto_pickle(False)
cdef class SegmentCore(Handle):
    """For an index that is one contiguous piece (an int, a slice without a step or a tuple of ints), locate() computes
    its place, and one copy moves it. For other indices NumPy computes where the pieces lie.
    """
    cdef c.dsm_segment s
    cdef Remote remote              # counts the segment as a user
    cdef Region region              # set if this process owns memory that its remote has not mapped
    cdef list old                   # remotes from before the segment grew that views or calls still use
    cdef readonly object dtype
    cdef readonly bint readonly
    cdef bint mapped
    cdef int width                  # width_of() the dtype
    cdef uint64_t strides[17]       # in bytes; behind the last axis, the size of an element
    cdef object cell                # an element private to this process, used to convert bytes to scalars
    cdef Py_buffer cell_view

    def __del__(self):
        if self.live:  # the warning that it was not closed comes from its memory
            self.live = False
            for remote in (*self.old, self.remote):
                (<Remote> remote).drop_user()

    def __dealloc__(self):
        if self.cell is not None:
            PyBuffer_Release(&self.cell_view)

    cdef int check(self) except -1:
        if not self.live:
            self.refuse_closed()
        self.catch_up()
        return self.remote.check()

    cdef int renew(self) except -1:
        """Writers' turns belong to the parent. Everything else in the handle is valid in the child, too."""
        cdef Remote remote
        cdef uint64_t own = 0
        cdef int rc
        self.remote.refuse_forked(self)
        for remote in (*self.old, self.remote):
            remote.catch_up()
        rc = c.dsm_identity(&own)
        if rc:
            raise error_from_core(rc, "identity")
        self.s.identity = own
        self.users = 0
        for remote in (*self.old, self.remote):
            remote.users = 1
        return 0

    cdef str noun(self):
        return "segment"

    cdef str dependents(self):
        return "writing() blocks"

    # -- attach --

    def _bind(self, Remote remote not None, Region region, bint readonly, parse):
        cdef int rc, i
        if self.remote is not None:
            raise error_of(c.DSM_EINVAL, "the segment has been opened before")
        remote.enter()
        with nogil:
            rc = c.dsm_segment_open(remote.ptr, &self.s)
        remote.leave()
        if rc < 0:
            raise remote.failed(rc, "attach")
        dtype = parse(self.s.dtype[:self.s.dtype_length])
        if dtype.itemsize != self.s.itemsize:
            raise errors.CorruptError(f"dtype {dtype} of {self.s.itemsize} bytes")
        cell = np.zeros((), dtype)
        get_buffer(cell.reshape(1).view("u1"), &self.cell_view, True)
        self.cell, self.dtype, self.region, self.readonly = cell, dtype, region, readonly
        self.width = width_of(dtype)
        self.strides[self.s.axes] = self.s.itemsize
        for i in range(<int> self.s.axes - 1, -1, -1):
            self.strides[i] = self.strides[i + 1] * (1 if i + 1 == <int> self.s.axes else self.s.shape[i + 1])
        self.old = []
        remote.check()
        remote.users += 1
        self.remote, self.mapped, self.live = remote, remote.mapped, True
        if rc:
            self._reach()

    cdef int use(self, object memory) except -1:
        """Make all threads use this memory from now on. The previous one is closed when nothing uses it any more."""
        cdef Remote remote = memory.remote
        remote.check()
        remote.users += 1
        self.old.append(self.remote)
        self.remote, self.mapped = remote, remote.mapped
        self._memory = memory
        return self.close_old()

    cdef int close_old(self) except -1:
        cdef Remote remote
        for remote in list(self.old):
            if remote.uses or remote.exports:
                continue
            self.old.remove(remote)
            remote.users -= 1
            remote.close()
        return 0

    cdef int refuse_in_use(self) except -1:
        cdef Remote remote
        Handle.refuse_in_use(self)
        for remote in (*self.old, self.remote):
            if remote.exports > remote.kept:
                text = f"the {self.called()} has {remote.exports} views (arrays or memoryviews); drop them first"
                raise error_of(c.DSM_EBUSY, text, "close")
        return 0

    def _close(self, bint part=False):
        """Close the handle only. The caller closes its memory, except for the memory from before the segment grew.

        part: views and a writer's turn may still exist; the memory is closed with the last of them.
        """
        cdef Remote remote
        if not self.live:
            return
        if self.outdated():
            self.leave_to_parent()
            return
        if self.uses or not part:
            self.refuse_in_use()
        self.live = False
        try:
            stop_waits(self)
        except BaseException:
            self.live = True
            raise
        self.settle()
        old, self.old = self.old, []
        self.remote.users -= 1
        for remote in old:
            remote.users -= 1
        for remote in old:
            remote.detach()

    cdef int leave_as_dead(self) except -1:
        try:
            return self.settle()
        finally:
            self.live = False
            self.remote.users -= 1

    cdef int leave_to_parent(self) except -1:
        """A child closes a handle it has not used. Memory from before the segment grew is closed with its views."""
        cdef Remote remote
        self.live = False
        self.users = 0
        for remote in self.old:
            remote.users = 0
            remote.detach()
        self.old = []
        self.remote.users = 0
        return 0

    cdef int settle(self) except -1:
        """Clean up what a failed write has left in remote memory. If that fails, too, the handle stays open."""
        cdef int rc
        cdef Remote remote = self.remote
        remote.enter()
        with nogil:
            rc = c.dsm_segment_leave(remote.ptr, &self.s)
        remote.leave()
        if rc:
            self.live = True
            raise remote.failed(rc, "close")
        return 0

    @property
    def _is_open(self):
        return self.live

    def _nbytes_for(self, rows):
        return self.s.data + rows * <object> self.s.row_bytes

    def _reach(self):
        """Read the number of rows. If they exceed the mapped memory, map more; repeat if they have grown meanwhile.

        Each iteration maps more than the previous one, and _remap refuses a file that is too short for its rows.
        """
        self.enter()
        try:
            self.reach()
        finally:
            self.leave()

    cdef int reach(self) except -1:
        cdef uint64_t rows = 0
        cdef int rc
        cdef Remote remote
        while True:
            remote = self.remote  # another thread may replace it with a longer one meanwhile
            remote.enter()
            with nogil:
                rc = c.dsm_segment_rows(remote.ptr, &self.s, &rows)
            remote.leave()
            if rc < 0:
                raise remote.failed(rc, "attach")
            if rc == 0:
                self.s.rows = rows
                return 0
            self.use(self._remap(self.s.data + rows * self.s.row_bytes))

    def _remap(self, nbytes):
        raise NotImplementedError

    @cython.final
    cdef inline int fresh(self) except -1:
        """On mapped memory, see another process's resize at once, at the cost of one load. The caller has entered."""
        if self.mapped and c.dsm_segment_rows_mapped(self.remote.ptr) != self.s.rows:
            return self.reach()
        return 0

    @property
    def shape(self):
        self._reach()
        return self._shape()

    def _shape(self):
        return tuple([self.s.rows if i == 0 else self.s.shape[i] for i in range(self.s.axes)])

    @property
    def capacity(self):
        return self.s.capacity

    @property
    def versioned(self):
        return bool(self.s.shadow)

    @property
    def nbytes(self):
        self._reach()
        return self.s.rows * self.s.row_bytes

    def __len__(self):
        if not self.s.axes:
            raise TypeError("a segment without axes has no length")
        self._reach()
        return self.s.rows

    @property
    def array(self):
        self.enter()
        try:
            return self.whole_array()
        finally:
            self.leave()

    cdef object whole_array(self):
        self.fresh()
        if not self.mapped and self.region is None:
            raise error_of(c.DSM_ENOTMAPPED, self.remote.address)
        # frombuffer keeps a memoryview, which prevents close(). The ndarray constructor alone would release the buffer.
        whole = np.frombuffer(self.remote if self.mapped else self.region, "u1")
        array = np.ndarray(self._shape(), self.dtype, whole, self.s.data)
        if self.readonly:
            array.flags.writeable = False
        return array

    # -- where an index lies --

    @cython.final
    cdef int step(self, object index, int axis, uint64_t *at) except -1:
        """Add the offset of index on the axis to *at and return 1, or return 0 if index is not an int."""
        cdef Py_ssize_t i
        cdef uint64_t n = self.s.rows if axis == 0 else self.s.shape[axis]
        if type(index) is not int:
            return 0
        try:
            i = index
        except OverflowError:
            raise self.outside(index) from None
        if i < 0:
            i += n
        if i < 0 or <uint64_t> i >= n:
            if axis == 0 and not self.mapped:
                self.reach()
                if self.s.rows != n:
                    return self.step(index, axis, at)
            raise self.outside(index)
        at[0] += <uint64_t> i * self.strides[axis]
        return 1

    cdef object outside(self, object index):
        return errors.OutOfBoundsError(f"index {index!r}; the segment has shape {self._shape()}")

    @cython.final
    cdef int locate(self, object index, uint64_t *at, uint64_t *n, int *axes) except -1:
        """1: the index is one piece of *n bytes at *at, with *axes axes left. 0: it is not that simple."""
        cdef Py_ssize_t start, stop, step
        cdef int depth = 0
        at[0] = self.s.data
        if type(index) is slice and self.s.axes:
            unpack(index, &start, &stop, &step)
            if step != 1:
                return 0
            n[0] = PySlice_AdjustIndices(self.s.rows, &start, &stop, 1) * self.s.row_bytes
            at[0] += <uint64_t> start * self.s.row_bytes
            axes[0] = self.s.axes
            return 1
        if type(index) is int and self.s.axes:
            self.step(index, 0, at)
            n[0], axes[0] = self.s.row_bytes, self.s.axes - 1
            return 1
        if index is Ellipsis:
            n[0], axes[0] = self.s.rows * self.s.row_bytes, self.s.axes
            return 1
        if type(index) is not tuple or len(<tuple> index) > <Py_ssize_t> self.s.axes:
            return 0
        for one in <tuple> index:
            if not self.step(one, depth, at):
                return 0
            depth += 1
        n[0] = self.strides[depth - 1] if depth else self.s.rows * self.s.row_bytes
        axes[0] = self.s.axes - depth
        return 1

    @cython.final
    cdef uint64_t element(self, object index) except 0:
        """Return the offset of the single element that an index names."""
        cdef uint64_t at, n
        cdef int axes
        self.fresh()
        if self.locate(index, &at, &n, &axes) and axes == 0:
            return at
        exact = tuple([plain(i) for i in index]) if isinstance(index, tuple) else plain(index)
        if self.locate(exact, &at, &n, &axes) and axes == 0:
            return at
        raise refused(index, PLACES, f"index {index!r} is not one element of a segment of shape {self._shape()}")

    @cython.final
    cdef uint64_t word_at(self, object index) except 0:
        if self.width not in (8, -8):
            raise error_of(c.DSM_EINVAL, f"atomics work on 8-byte integers in native byte order, not {self.dtype}")
        if self.readonly:
            raise error_of(c.DSM_EACCESS, "the segment was attached with readonly=True; attach it without", "atomic")
        return self.element(index)

    def _pieces(self, index):
        """Return the shape, piece length and piece offsets of a basic index (in NumPy's terms) or of a list of rows."""
        shape = self._shape()
        with numpy_errors():
            if isinstance(index, list) or (isinstance(index, np.ndarray) and index.ndim):
                rows = np.asarray(index) if len(index) else np.empty(np.shape(index), "i8")
                if rows.dtype.kind not in "iu" or not shape:
                    raise errors.ArgumentTypeError(f"index {index!r}: of remote memory, ints, slices or a list of rows")
                rows = np.where(rows < 0, rows + shape[0], rows)
                if rows.size and not (rows.min() >= 0 and rows.max() < shape[0]):
                    raise self.outside(index)
                offsets = self.s.data + rows.astype("u8").ravel() * np.uint64(self.s.row_bytes)
                return rows.shape + shape[1:], self.s.row_bytes, offsets
            for one in index if isinstance(index, tuple) else (index,):
                if not (one is Ellipsis or isinstance(one, slice) or is_place(one)):
                    raise errors.ArgumentTypeError(f"index {index!r}: of remote memory, ints, slices or a list of rows")
            # An array of this shape on top of a single element: only its shape and strides are used.
            base = np.zeros(1, self.dtype)
            whole = np.lib.stride_tricks.as_strided(base, shape, self._strides(), writeable=False)
            # NumPy treats an array without axes as advanced indexing, whose result is a copy elsewhere.
            index = tuple([one.__index__() if is_place(one) else one
                           for one in (index if isinstance(index, tuple) else (index,))])
            part = whole[index if any(one is Ellipsis for one in index) else (*index, ...)]
        start = part.__array_interface__["data"][0] - base.__array_interface__["data"][0] + self.s.data
        return pieces_of(part, start, self.s.itemsize)

    def _strides(self):
        return tuple([self.strides[i] for i in range(self.s.axes)])

    # -- reading and writing --

    @cython.final
    cdef inline int move(self, bint reads, uint64_t at, void *local, uint64_t n) except -1:
        cdef int rc
        cdef Remote remote = self.remote
        if n == 0:
            return 0
        if n <= NOGIL_FROM and remote.mapped and remote.ready():
            rc = remote.move(reads, at, local, n, -1)
        else:
            remote.enter()
            rc = remote.move(reads, at, local, n, -1)
            remote.leave()
        if rc:
            raise remote.failed(rc, "read" if reads else "write")
        if not reads:
            c.dsm_segment_notify(self.remote.ptr)
        return 0

    @cython.final
    cdef inline void keep(self, object buffer, void *p, uint64_t n) noexcept:
        if not self.mapped:
            self.remote.keep(buffer, p, n)

    @cython.final
    cdef object scalar(self, uint64_t at):
        """Return the element as a NumPy scalar. On mapped memory, the GIL is kept while the cell is filled and read."""
        cdef Py_buffer view
        if not self.mapped:
            one = np.empty(1, self.dtype)
            get_buffer(one.view("u1"), &view, True)
            try:
                self.move(True, at, view.buf, self.s.itemsize)
            finally:
                PyBuffer_Release(&view)
            return one[0]
        if self.s.itemsize > NOGIL_FROM:
            return self.whole_array().reshape(-1)[(at - self.s.data) // self.s.itemsize].copy()
        self.move(True, at, self.cell_view.buf, self.s.itemsize)
        return self.cell[()] if self.dtype.names is None else self.cell.copy()[()]

    def read(self, index=Ellipsis, out=None):
        self.enter()
        try:
            return self.read_index(index, out)
        finally:
            self.leave()

    @cython.final
    cdef inline object read_index(self, object index, object out):
        cdef uint64_t at = 0, n = 0
        cdef int axes = 0
        cdef Py_buffer view
        self.fresh()
        if not self.locate(index, &at, &n, &axes):
            return self.read_pieces(index, out)
        if out is None:
            if axes == 0:
                return self.scalar(at)
            out = np.empty(self._rest(axes, n), self.dtype)
        if isinstance(out, ndarray):
            self.check_room(<ndarray> out, n)
            if not flat(<ndarray> out, NPY_ARRAY_WRITEABLE):
                return self.read_pieces(index, out)
            self.keep(out, PyArray_DATA(<ndarray> out), n)
            self.move(True, at, PyArray_DATA(<ndarray> out), n)
            return out
        self.take_room(out, &view, n)
        try:
            self.keep(out, view.buf, n)
            self.move(True, at, view.buf, n)
        finally:
            PyBuffer_Release(&view)
        return out

    @cython.final
    cdef inline int check_room(self, ndarray out, uint64_t n) except -1:
        if not described(out, self.dtype) or not PyArray_CheckExact(out):
            check_out(out, self.dtype)
        if <uint64_t> PyArray_NBYTES(out) != n:
            raise errors.MismatchError(f"out has {out.nbytes} bytes, the index {n}; pass as many")
        return 0

    @cython.final
    cdef int take_room(self, object out, Py_buffer *view, uint64_t n) except -1:
        get_buffer(out, view, True)
        if <uint64_t> view.len != n:
            PyBuffer_Release(view)
            raise errors.MismatchError(f"out has {view.len} bytes, the index {n}; pass as many")
        return 0

    cdef tuple _rest(self, int axes, uint64_t n):
        """Return the shape of a piece of n bytes with so many axes left."""
        cdef int first = self.s.axes - axes
        if axes == 0:
            return ()
        return (n // self.strides[first], *[self.s.shape[i] for i in range(first + 1, self.s.axes)])

    cdef object read_pieces(self, object index, object out):
        if not self.mapped:
            offsets, each, data = self.gather(index, out)
            if offsets.size and each:
                self.remote.read_many(offsets, data.reshape(-1).view("u1"))
            if out is None:
                return data if data.shape else data[()]
        else:
            if out is not None:
                self.check_scattered(index, out)
            with numpy_errors():
                data = self.whole_array()[index]
                if out is None:
                    return data.copy()
        with numpy_errors():
            np.copyto(out, data, casting="equiv")
        return out

    cdef int check_scattered(self, object index, object out) except -1:
        if not isinstance(out, ndarray):
            raise errors.ArgumentTypeError(f"out for index {index!r} is an array, not {type(out).__name__}")
        return check_out(out, self.dtype)

    cdef tuple gather(self, object index, object out):
        """Return the offsets and length of an index's pieces, and an array to read them into, which out can hold."""
        if out is not None:
            self.check_scattered(index, out)
        shape, each, offsets = self._pieces(index)
        data = np.empty(shape, self.dtype)
        if out is not None:
            with numpy_errors():
                np.broadcast_to(data, out.shape)
        return offsets, each, data

    def _read_remote(self, index, out):
        """Prepare to read an index of remote memory. Returns the offsets and length of its pieces, a buffer for their
        bytes, and the result: out itself, or an array to be copied there. Raises whatever read() would raise.
        """
        cdef uint64_t at = 0, n = 0
        cdef int axes = 0
        cdef Py_buffer view
        self.enter()
        try:
            self.fresh()
            if not self.locate(index, &at, &n, &axes):
                offsets, each, data = self.gather(index, out)
                return offsets, each, data.reshape(-1).view("u1"), data
            if out is None:
                data = np.empty(self._rest(axes, n), self.dtype)
                return (at,), n, data.reshape(-1).view("u1"), data
            if not isinstance(out, ndarray):
                self.take_room(out, &view, n)
                PyBuffer_Release(&view)
                return (at,), n, out, out
            self.check_room(<ndarray> out, n)
            if flat(<ndarray> out, NPY_ARRAY_WRITEABLE):
                return (at,), n, out.reshape(-1).view("u1"), out
            offsets, each, data = self.gather(index, out)
            return offsets, each, data.reshape(-1).view("u1"), data
        finally:
            self.leave()

    def write(self, index, data):
        self.enter()
        try:
            self.write_index(index, data)
        finally:
            self.leave()

    @cython.final
    cdef int write_index(self, object index, object data) except -1:
        cdef uint64_t at = 0, n = 0, word = 0
        cdef int axes = 0
        cdef Py_buffer view
        self.fresh()
        self.check_writable()
        if not self.locate(index, &at, &n, &axes):
            return self.write_pieces(index, data)
        if axes == 0 and self.mapped and encoded(data, self.width, &word):
            return self.move(False, at, &word, n)
        kind = type(data)
        if PyArray_CheckExact(data):
            if ((described(<ndarray> data, self.dtype) or data.dtype == self.dtype) and flat(<ndarray> data, 0)
                    and self.fits(<ndarray> data, axes, n)):
                self.keep(data, PyArray_DATA(<ndarray> data), n)
                return self.move(False, at, PyArray_DATA(<ndarray> data), n)
            return self.write_pieces(index, data)
        if kind is bytes or kind is bytearray or kind is memoryview:
            get_buffer(data, &view, False)
            try:
                if is_whole(&view, n, self.dtype):
                    self.keep(data, view.buf, n)
                    return self.move(False, at, view.buf, n)
            finally:
                PyBuffer_Release(&view)
            return self.write_pieces(index, data)
        if axes == 0 and self.mapped and self.s.itemsize <= NOGIL_FROM:
            with numpy_errors():
                self.cell[()] = data
            return self.move(False, at, self.cell_view.buf, n)
        return self.write_pieces(index, data)

    cdef bint fits(self, ndarray array, int axes, uint64_t n):
        """Whether an array has the shape of a piece of n bytes with so many axes left."""
        cdef int i, first = self.s.axes - axes
        if PyArray_NDIM(array) != axes or <uint64_t> PyArray_NBYTES(array) != n:
            return False
        for i in range(1, axes):
            if <uint64_t> PyArray_DIMS(array)[i] != self.s.shape[first + i]:
                return False
        return True

    @cython.final
    cdef inline int check_writable(self) except -1:
        if self.readonly:
            raise error_of(c.DSM_EACCESS, "the segment was attached with readonly=True; attach it without", "write")
        return 0

    cdef tuple scatter(self, object index, object data):
        """Return the offsets and length of an index's pieces, and the bytes to be written there."""
        if isinstance(data, np.ma.MaskedArray):
            raise refuse_masked()
        shape, each, offsets = self._pieces(index)
        with numpy_errors():
            whole = np.ascontiguousarray(np.broadcast_to(np.asarray(data, self.dtype), shape))
        return offsets, each, whole.reshape(-1).view("u1")

    def _write_remote(self, index, data):
        """Prepare to write an index of remote memory. Returns the offsets and length of its pieces, and a copy of their
        bytes. Raises whatever write() would raise.
        """
        cdef uint64_t at = 0, n = 0
        cdef int axes = 0
        cdef Py_buffer view
        self.enter()
        try:
            self.fresh()
            self.check_writable()
            if self.locate(index, &at, &n, &axes) and isinstance(data, (bytes, bytearray, memoryview)):
                get_buffer(data, &view, False)
                try:
                    if is_whole(&view, n, self.dtype):
                        return (at,), n, PyBytes_FromStringAndSize(<char *> view.buf, n)
                finally:
                    PyBuffer_Release(&view)
            offsets, each, raw = self.scatter(index, data)
            return offsets, each, raw.copy()
        finally:
            self.leave()

    cdef int write_pieces(self, object index, object data) except -1:
        if self.mapped:
            if isinstance(data, np.ma.MaskedArray):
                raise refuse_masked()
            with numpy_errors():
                self.whole_array()[index] = data
            c.dsm_segment_notify(self.remote.ptr)
            return 0
        offsets, each, raw = self.scatter(index, data)
        if offsets.size and each:
            self.remote.write_many(offsets, raw)
        return 0

    # -- atomics --

    # On mapped memory the remote need not be entered: the segment's entry keeps it open, nothing in between runs Python
    # code or gives the GIL away, and in a child of fork() it was renewed with the segment.

    cdef int remote_add(self, uint64_t at, uint64_t value, uint64_t *old) except? -1:
        cdef Remote remote = self.remote
        cdef int rc
        remote.enter()
        rc = remote.add(at, value, old, -1)
        remote.leave()
        return rc

    cdef int remote_swap(self, uint64_t at, uint64_t expected, uint64_t desired, uint64_t *old) except? -1:
        cdef Remote remote = self.remote
        cdef int rc
        remote.enter()
        rc = remote.swap(at, expected, desired, old, -1)
        remote.leave()
        return rc

    @cython.final
    cdef inline object number(self, uint64_t word):
        return <int64_t> word if self.width < 0 else word

    def fetch_add(self, index, value):
        cdef uint64_t old = 0, at, add
        cdef int rc
        self.enter()
        try:
            add = word(value, "value")
            at = self.word_at(index)
            if self.mapped and self.remote.live:
                rc = c.dsm_fetch_add(self.remote.ptr, at, add, &old, -1)
            else:
                rc = self.remote_add(at, add, &old)
            if rc:
                raise self.remote.failed(rc, "fetch_add")
            c.dsm_segment_notify(self.remote.ptr)
            return self.number(old)
        finally:
            self.leave()

    def compare_swap(self, index, expected, desired):
        cdef uint64_t old = 0, at, e, d
        cdef int rc
        self.enter()
        try:
            e, d = word(expected, "expected"), word(desired, "desired")
            at = self.word_at(index)
            if self.mapped and self.remote.live:
                rc = c.dsm_compare_swap(self.remote.ptr, at, e, d, &old, -1)
            else:
                rc = self.remote_swap(at, e, d, &old)
            if rc:
                raise self.remote.failed(rc, "compare_swap")
            c.dsm_segment_notify(self.remote.ptr)
            return self.number(old)
        finally:
            self.leave()

    # -- waiting --

    def wait_async(self, index, until, timeout=None):
        return _segment_wait(self, index, until, timeout)

    def wait(self, index, until, timeout=None, *, spin=None):
        self.enter()
        try:
            return wait_for_element(self, index, until, nanoseconds(timeout),
                                    SPIN_NS if spin is None else nanoseconds(spin, "spin"))
        finally:
            self.leave()

    # -- versions --

    def writer(self):
        cdef uint64_t identity = 0
        cdef int rc
        cdef Remote remote
        self.enter()
        try:
            remote = self.remote
            remote.enter()
            with nogil:
                rc = c.dsm_segment_writer(remote.ptr, &identity)
            remote.leave()
        finally:
            self.leave()
        if rc:
            raise remote.failed(rc, "read")
        return identity if identity else None

    def break_(self, writer):
        cdef uint64_t identity
        cdef int rc
        cdef Remote remote
        self.enter()
        try:
            identity = identity_of(writer)
            if self.readonly:
                raise error_of(c.DSM_EACCESS, "the segment was attached with readonly=True; attach it without", "break")
            remote = self.remote
            remote.enter()
            with nogil:
                rc = c.dsm_segment_evict(remote.ptr, &self.s, identity)
            remote.leave()
        finally:
            self.leave()
        if rc < 0:
            raise remote.failed(rc, "break")
        return rc == 1

    def snapshot(self, timeout=None):
        self.enter()
        try:
            return take_snapshot(self, deadline_after(nanoseconds(timeout)))
        finally:
            self.leave()

    def _set_rows(self, uint64_t rows):
        cdef int rc
        cdef Remote remote
        self.enter()
        try:
            remote = self.remote
            remote.enter()
            with nogil:
                rc = c.dsm_segment_set_rows(remote.ptr, rows)
            remote.leave()
            if rc:
                raise remote.failed(rc, "resize")
            c.dsm_segment_notify(self.remote.ptr)
            self.reach()
        finally:
            self.leave()
