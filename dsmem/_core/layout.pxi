# Included by _core.pyx: SegmentLayout, the memory of a segment before it has a handle.

@cython.auto_pickle(False)
cdef class SegmentLayout:
    cdef c.dsm_segment s
    cdef readonly uint64_t nbytes

    def __init__(self, tuple shape, bytes dtype, uint32_t itemsize, bint versioned, capacity):
        cdef int rc
        cdef Py_ssize_t i
        memset(&self.s, 0, sizeof(self.s))
        if len(shape) > c.DSM_SEGMENT_AXES:
            raise error_of(c.DSM_EINVAL, f"a shape of {len(shape)} axes; at most {c.DSM_SEGMENT_AXES}")
        if len(dtype) > c.DSM_SEGMENT_DTYPE:
            raise error_of(c.DSM_EINVAL, f"a dtype written in {len(dtype)} bytes; at most {c.DSM_SEGMENT_DTYPE}")
        self.s.axes, self.s.itemsize, self.s.versioned = len(shape), itemsize, versioned
        for i in range(len(shape)):
            self.s.shape[i] = count_of(shape[i], "shape")
        self.s.capacity = 0 if capacity is None else count_of(capacity, "capacity")
        if capacity is not None and (not shape or self.s.capacity < self.s.shape[0]):
            raise error_of(c.DSM_EINVAL, f"capacity={capacity!r}: elements of the first axis, not below the shape")
        self.s.dtype_length = len(dtype)
        memcpy(self.s.dtype, <const char *> dtype, len(dtype))
        rc = c.dsm_segment_layout(&self.s, &self.nbytes)
        if rc:
            raise error_from_core(rc, "create")

    def format(self, memory):
        cdef Py_buffer view
        cdef int rc
        get_buffer(memory, &view, True)
        if not self.nbytes or <uint64_t> view.len < self.nbytes:
            PyBuffer_Release(&view)
            raise error_of(c.DSM_EINVAL, f"{view.len} bytes for a segment of {self.nbytes}")
        rc = c.dsm_segment_format(view.buf, self.nbytes, &self.s)
        PyBuffer_Release(&view)
        if rc:
            raise error_from_core(rc, "create")


cdef uint64_t count_of(object n, str what) except? 0xdead:
    number = checked_int(n, 0, (1 << 63) - 1)
    if number is None:
        raise refused(n, int, f"{what}: {n!r} is not a number of elements")
    return number
