# Included by _core.pyx: indices of segments, and the arrays that segments are read into and written from.

cdef object plain(object index):
    """Convert objects with __index__, such as NumPy integers, to int. Arrays and other objects are returned as is."""
    return index.__index__() if hasattr(type(index), "__index__") and not isinstance(index, np.ndarray) else index


cdef bint is_place(object index):
    """Whether it is an integer. A bool is not: to NumPy it is a mask, and the result of a mask is a copy elsewhere."""
    return hasattr(type(index), "__index__") and np.ndim(index) == 0 and np.asarray(index).dtype.kind in "iuO"


cdef inline bint described(ndarray array, object dtype):
    """Whether the array has this very dtype object. This is the usual case, and is checked without calling Python."""
    return <void *> PyArray_DESCR(array) == <void *> dtype


cdef inline bint flat(ndarray array, int flags):
    """Whether the array is C-contiguous and has the other flags."""
    flags |= NPY_ARRAY_C_CONTIGUOUS
    return PyArray_FLAGS(array) & flags == flags


cdef inline int unpack(object index, Py_ssize_t *start, Py_ssize_t *stop, Py_ssize_t *step) except -1:
    if unpack_slice(index, start, stop, step) < 0:
        refuse_slice()
    return 0


cdef int refuse_slice() except -1:
    try:
        raise_set()
    except (TypeError, ValueError) as error:
        raise error_of(c.DSM_EINVAL, str(error)) from None


cdef class numpy_errors:
    """Convert exceptions of NumPy about indices and values to exceptions of dsmem."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None or isinstance(error, errors.DsmemError):
            return
        if issubclass(kind, IndexError) and "integer" in str(error):  # NumPy has one class for both
            raise errors.ArgumentTypeError(str(error)) from None
        if issubclass(kind, IndexError):
            raise errors.OutOfBoundsError(f"{error}; segment.shape says what there is") from None
        if issubclass(kind, TypeError):
            raise errors.ArgumentTypeError(str(error)) from None
        if issubclass(kind, (ValueError, OverflowError)):
            raise error_of(c.DSM_EINVAL, str(error)) from None


cdef object equals(object value, object other):
    with numpy_errors():
        return value == other


cdef int width_of(object dtype):
    """Return the bytes of an integer of NumPy's in native order, negative if it is signed; 0 for every other dtype."""
    if dtype.kind not in "iu" or dtype.isbuiltin != 1 or not dtype.isnative:
        return 0
    return -dtype.itemsize if dtype.kind == "i" else dtype.itemsize


cdef inline bint encoded(object value, int width, uint64_t *word):
    """Whether a plain int is stored in word, whose first bytes are then those of an element of that width_of().

    False, also for an int that does not fit: NumPy converts it, or says why not.
    """
    cdef int overflow = 1
    cdef long long number
    if not width or not PyLong_CheckExact(value):
        return False
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow or (width > 0 and number < 0):
        return False
    if width > 0 and width < 8 and number >> 8 * width:
        return False
    if width < 0 and width > -8 and number >> (-8 * width - 1) not in (0, -1):
        return False
    word[0] = <uint64_t> number
    return True


cdef int64_t deadline_after(int64_t ns):
    """Return the time of the monotonic clock in ns nanoseconds; ns < 0: never."""
    if ns < 0:
        return 0x7fffffffffffffff
    cdef int64_t now = time.monotonic_ns()
    return 0x7fffffffffffffff if ns > 0x7fffffffffffffff - now else now + ns


cdef int64_t left_until(int64_t deadline):
    return 0x7fffffffffffffff if deadline == 0x7fffffffffffffff else max(0, deadline - <int64_t> time.monotonic_ns())


cdef int check_out(ndarray out, object dtype) except -1:
    """Raise unless elements of the dtype may be read into the array."""
    if not (described(out, dtype) or out.dtype == dtype):
        raise errors.MismatchError(f"out has dtype {out.dtype}, the segment {dtype}; pass the same")
    if not PyArray_CheckExact(out):
        refuse_array(out)
    if not PyArray_FLAGS(out) & NPY_ARRAY_WRITEABLE:
        raise error_of(c.DSM_EREADONLY, type(out).__name__)
    return 0


cdef bint is_whole(Py_buffer *view, uint64_t n, object dtype) except -1:
    """Whether the view has n bytes, to be copied unchanged. If False, it is text that NumPy fits into the elements."""
    if <uint64_t> view.len == n:
        return True
    if dtype.kind not in "SV":
        raise errors.MismatchError(f"{view.len} bytes, the index has {n}; pass as many")
    return False


cdef tuple pieces_of(object part, object start, uint64_t itemsize):
    """Return the shape, piece length and piece offsets of a strided array that begins at start."""
    each, axes = itemsize, part.ndim
    while axes and (part.strides[axes - 1] == each or part.shape[axes - 1] == 1):
        each *= part.shape[axes - 1]
        axes -= 1
    offsets = np.array(start, "i8")
    for n, stride in zip(part.shape[:axes], part.strides[:axes]):
        offsets = offsets[..., None] + np.arange(n) * stride
    return part.shape, each, offsets.ravel().astype("u8")
