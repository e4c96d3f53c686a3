# Included by _core.pyx: conversion of the core's errors to exceptions, and of Python values and buffers to C.

# The exception that a signal handler raised while the core waited. Handlers run in the main thread only, so one
# variable is enough. The code here calls no Python function, in which raise_later() could run first.
cdef object raised = None
cdef unsigned long main_ident = main_thread().ident
cdef const uint32_t *forks = c.dsm_forks()


def _after_fork():
    """The thread that forks becomes the main thread of the child."""
    global main_ident, raised
    if main_ident != PyThread_get_thread_ident():  # the parent's main thread raises what it was about to raise
        raised = None
    main_ident = PyThread_get_thread_ident()


os.register_at_fork(after_in_child=_after_fork)


cdef object take_raised():
    global raised
    error, raised = raised, None
    return error


cdef int raise_later(void *nothing) except -1 with gil:
    """Called between two bytecodes. Code that suppressed the error of the wait does not suppress its cause.

    In a child that another thread has forked this may come before _after_fork(), and is not the child's business.
    """
    error = take_raised() if PyThread_get_thread_ident() == main_ident else None
    if error is not None:
        raise error
    return 0


cdef int check_signals() except -1:
    """Run signal handlers. An exception that one of them has raised in an op before comes out now: the core may have
    made up for the op that it ended, and reported success."""
    if raised is not None and PyThread_get_thread_ident() == main_ident:
        raise take_raised()
    PyErr_CheckSignals()
    return 0


cdef int look_for_signals() noexcept nogil:
    """Called by the core while it waits. A handler that raises ends the wait; error_from_core() returns its exception.

    Threads other than the main thread run no handlers, so they do not take the GIL. They could wait for it longer than
    their op may take, and at interpreter shutdown Python ends a thread that requests the GIL, although ops on the
    thread's stack are still outstanding.
    """
    return PyThread_get_thread_ident() == main_ident and handle_signals()


cdef int handle_signals() noexcept with gil:
    global raised
    if raised is not None:
        return 1
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        raised = error
        Py_AddPendingCall(raise_later, NULL)
        return 1
    return 0


cdef object error_from_core(int rc, str op=None, str peer=None, str device=None):
    """Return the exception for an error code that this thread has just received from the core.

    In the main thread, the exception of a signal handler that ended the wait takes its place.
    """
    cdef const c.dsm_failure *f = c.dsm_last_error()
    if raised is not None and PyThread_get_thread_ident() == main_ident:
        return take_raised()
    if f.code != -rc:
        return class_of(-rc, 0)(op=op, peer=peer, device=device)
    error = class_of(-rc, f.cause)(f.detail.decode("utf-8", "replace"), sys=f.sys, status=f.status, vendor=f.vendor,
                                   op=op, peer=peer, device=device)
    return with_cause(error, f.cause)


cdef object class_of(int code, int cause):
    """Return the class of an error. cause: if the code is DSM_EUNKNOWN, the error that says why; otherwise 0."""
    if code == c.DSM_EUNKNOWN and cause == c.DSM_ETIME:
        return errors.OutcomeUnknownTimeoutError
    if code == c.DSM_EUNKNOWN and cause == c.DSM_EPEER:
        return errors.OutcomeUnknownPeerDeadError
    return errors.BY_CODE.get(code, errors.DsmemError)


cdef object with_cause(object error, int cause):
    if cause == c.DSM_ECANCELED:  # for the op itself that was no cancellation: it was under way
        error.__cause__ = errors.TransportError(
            "another failure, or an abort, ended the connection; the next op makes one")
    elif cause:
        error.__cause__ = errors.BY_CODE[cause](status=error.status, vendor=error.vendor, peer=error.peer)
    return error


cdef object error_of(int code, str detail, str op=None):
    return errors.BY_CODE[code](detail, op=op)


cdef uint32_t rights(object access) except 0:
    cdef uint32_t bits = 0
    if not isinstance(access, str) or not access:
        raise refused(access, str, f"access={access!r}: any of the letters r, w and a")
    for letter in access:
        if letter not in RIGHTS:
            raise refused(access, str, f"access={access!r}: any of the letters r, w and a")
        bits |= RIGHTS[letter]
    return bits


cdef str letters(uint32_t bits):
    return <str> LETTERS[bits & 7]


cdef int64_t nanoseconds(object timeout, str name="timeout") except? -2:
    """Convert seconds, at least 0, to nanoseconds. None and infinity mean no limit and give -1."""
    cdef int64_t ns
    if timeout is None:
        return -1
    ns = signed_nanoseconds(timeout, name)
    if ns == NEVER:
        return -1
    if ns < 0:
        raise error_of(c.DSM_EINVAL, f"{name}={timeout!r}: seconds, at least 0")
    return ns


cdef bint is_forever(object timeout):
    """Whether it is -1, which means no limit to threading.Lock."""
    return isinstance(timeout, (int, float)) and timeout == -1


cdef int64_t elapsed_or(object timeout) except? -2:
    """Like nanoseconds(), but a negative timeout means not to wait, as in threading.Condition."""
    cdef int64_t ns = NEVER if timeout is None else signed_nanoseconds(timeout, "timeout")
    return -1 if ns == NEVER else max(<int64_t> 0, ns)


cdef object real_seconds(object value, str name):
    """Convert to a float that is not NaN. Text is refused, and so is a NumPy timedelta, whose unit need not be s."""
    if isinstance(value, (str, bytes, bytearray)):
        raise errors.ArgumentTypeError(f"{name}={value!r}: a number of seconds")
    try:
        t = float(value)
    except OverflowError:
        raise errors.ArgumentRangeError(f"{name}={value!r}: at most {threading.TIMEOUT_MAX:.0f} seconds") from None
    except (TypeError, ValueError):
        raise errors.ArgumentTypeError(f"{name}={value!r:.80}: a number of seconds") from None
    if t != t:
        raise error_of(c.DSM_EINVAL, f"{name}={value!r}: seconds, at least 0")
    return t


def seconds(value, name, most=float("inf")):
    if value is None:
        return None
    t = real_seconds(value, name)
    if not 0 <= t <= most:
        limit = "" if most == float("inf") else f" and at most {most:.0f}"
        raise error_of(c.DSM_EINVAL, f"{name}={value!r}: seconds, at least 0{limit}")
    return t


cdef double TIMEOUT_MAX = threading.TIMEOUT_MAX


cdef int64_t signed_nanoseconds(object timeout, str name) except? -2:
    """Convert seconds to nanoseconds: -1 for any negative number, NEVER for infinity. Raises what threading raises."""
    cdef double plain = timeout if type(timeout) is float else -1
    if 0 <= plain <= TIMEOUT_MAX:
        return <int64_t> (plain * 1e9)
    if type(timeout) is int and 0 <= timeout <= 1 << 30:
        return <int64_t> timeout * 1000000000
    t = real_seconds(timeout, name)
    if t == float("inf"):
        return NEVER
    if t > threading.TIMEOUT_MAX:
        raise errors.ArgumentRangeError(f"{name}={timeout!r}: at most {threading.TIMEOUT_MAX:.0f} seconds, or None")
    return <int64_t> (t * 1e9) if t >= 0 else -1


cdef tuple NO_AXES = (str, bytes, bytearray, memoryview)


def checked_int(value, least, most=float("inf")):
    """Return value as an int, or None if it is not an integer from least to most."""
    try:
        n = index(value)
    except TypeError:
        return None
    return n if least <= n <= most else None


cdef bint is_of(object value, object kinds):
    """Whether an argument is of the kind that is asked for. int: whatever stands for a whole number."""
    if kinds is not int:
        return isinstance(value, kinds)
    try:
        index(value)
    except Exception:
        return False
    return True


def refused(value, kinds, detail, op=None):
    return (errors.InvalidArgumentError if is_of(value, kinds) else errors.ArgumentTypeError)(detail, op=op)


def shape_of(shape):
    if shape.ndim if isinstance(shape, ndarray) else isinstance(shape, Sequence) and not isinstance(shape, NO_AXES):
        axes = tuple([checked_int(n, 0, (1 << 63) - 1) for n in shape])
    else:
        axes = (checked_int(shape, 0, (1 << 63) - 1),)
    if None in axes:
        are_numbers = all([is_of(n, int) for n in (shape if isinstance(shape, (list, tuple)) else (shape,))])
        text = f"shape={shape!r:.80}: a number of elements, or a tuple of one for each axis"
        raise refused(shape, object if are_numbers else (), text)
    return axes


cdef inline bint truth(object value, str name) except? -1:
    return value is True if value is True or value is False else any_truth(value, name)


cdef bint any_truth(object value, str name) except? -1:
    try:
        return bool(value)
    except (TypeError, ValueError):  # the truth value of an array is ambiguous
        raise errors.ArgumentTypeError(f"{name}={value!r:.80}: True or False") from None


def as_bool(value, name):
    return truth(value, name)


cdef object items_of(object many, str name):
    try:
        return iter(many)
    except TypeError:
        raise errors.ArgumentTypeError(f"{name}={many!r:.80} can't be iterated over; pass a list") from None


cdef int check_function(object function, str name) except -1:
    if not callable(function):
        raise errors.ArgumentTypeError(f"{name}={function!r:.80} can't be called; pass a function")
    return 0


cdef object dtype_of(object what):
    try:
        return np.dtype(what)
    except Exception as error:
        raise refused(what, (str, tuple, list, dict), f"dtype={what!r:.80}: {error}") from None


cdef object array_over(object memory, object dtype):
    """A view of all bytes of a region or remote."""
    kind = dtype_of(dtype)
    if kind.hasobject or not kind.itemsize or memory.nbytes % kind.itemsize:
        raise error_of(c.DSM_EINVAL, f"{memory.nbytes} bytes are not an array of {kind}; choose another dtype")
    return np.frombuffer(memory, kind)


cdef object array_of(object what):
    """Convert to an array of exactly the class ndarray. The result for bytes is an array of bytes."""
    try:
        return np.frombuffer(what, "u1") if isinstance(what, bytes) else np.asarray(what)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise refused(what, () if isinstance(error, TypeError) else object,
                      f"{type(what).__name__} is not an array: {error}") from None


cdef object not_made(str name, str how):
    return errors.ArgumentTypeError(f"{name} can't be constructed; use {how}")


cdef object not_pickled(str name, str remedy):
    return errors.ArgumentTypeError(f"a {name} is not pickled: {remedy}")


def remove_item(table, key, value):
    if table.get(key) is not value:
        return False
    del table[key]
    return True


cdef inline uint64_t word(object value, str name) except? 0xdead:
    """Convert an int to a 64-bit word, negative numbers in two's complement."""
    cdef int overflow = 1
    cdef long long plain = PyLong_AsLongLongAndOverflow(value, &overflow) if PyLong_CheckExact(value) else 0
    return any_word(value, name) if overflow else <uint64_t> plain


cdef uint64_t any_word(object value, str name) except? 0xdead:
    try:
        value = index(value)
    except TypeError:
        raise errors.ArgumentTypeError(f"{name}={value!r} is not an int") from None
    if not -(1 << 63) <= value < 1 << 64:
        raise error_of(c.DSM_EINVAL, f"{name}={value!r} does not fit 64 bits")
    return <uint64_t> (value & 0xffffffffffffffff)


cdef inline uint64_t offset_of(object offset) except? 0xdead:
    cdef int overflow = 1
    cdef long long plain = PyLong_AsLongLongAndOverflow(offset, &overflow) if PyLong_CheckExact(offset) else 0
    return any_offset(offset) if overflow or plain < 0 else <uint64_t> plain


cdef uint64_t any_offset(object offset) except? 0xdead:
    try:
        offset = index(offset)  # Cython alone would convert 1.5 to 1
        return offset
    except TypeError:
        raise errors.ArgumentTypeError(f"offset {offset!r} is not an int") from None
    except OverflowError:
        raise errors.OutOfBoundsError(f"offset {offset}") from None


cdef uint64_t nbytes_of(object nbytes) except? 0xdead:
    try:
        return index(nbytes)
    except (OverflowError, TypeError):
        raise refused(nbytes, int, f"nbytes={nbytes!r}: a number of bytes, at least 1") from None


cdef uint64_t cache_bytes_of(object nbytes) except? 0xdead:
    n = checked_int(nbytes, 0, (1 << 63) - 1)
    if n is None:
        raise refused(nbytes, int, f"registration_cache={nbytes!r}: a number of bytes, 0 for none")
    return n


cdef object as_words(object numbers, str what):
    """Convert to a contiguous array of unsigned 64-bit numbers, with as many dimensions."""
    with numpy_errors():
        array = np.asarray(numbers)
    if not array.size:
        return np.empty(array.shape, UINT64)
    if array.dtype.kind not in "iu" or (array.dtype.kind == "i" and array.min() < 0):
        kinds = object if array.dtype.kind == "i" else ()
        raise refused(numbers, kinds, f"{what} are whole numbers from 0 up, not {array.dtype}")
    return np.asarray(array, UINT64, "C")


# ---- buffers: the only place where the caller's memory enters ----

cdef bytes bytes_of(object buffer):
    """Return a copy of the bytes of a contiguous buffer."""
    cdef Py_buffer view
    get_buffer(buffer, &view, False)
    try:
        return PyBytes_FromStringAndSize(<char *> view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef object explain_buffer(object buffer, bint writable, Exception error):
    if not PyObject_CheckBuffer(buffer):
        if isinstance(buffer, str):
            return errors.ArgumentTypeError("str is text, and memory takes bytes; pass text.encode()")
        what = f"{type(buffer).__name__} has neither the buffer protocol nor DLPack on this host"
        what += "; pass bytes, a bytearray or an array; dsmem.queue.Pickled(queue) takes objects"
        return errors.ArgumentTypeError(what)
    try:
        view = memoryview(buffer)
    except Exception:  # it cannot be viewed at all
        return error_of(c.DSM_EINVAL, str(error))
    if not view.c_contiguous:
        remedy = ("read into a contiguous array and copy from it, or one op per row in a batch" if writable else
                  "pass numpy.ascontiguousarray(x), which copies it, or one op per row in a batch")
        what = f"shape {view.shape}, strides {view.strides}: the local buffer is not C-contiguous"
        return error_of(c.DSM_ECONTIGUOUS, f"{what}; {remedy}")
    if writable and view.readonly:
        return error_of(c.DSM_EREADONLY, type(buffer).__name__)
    return error_of(c.DSM_EINVAL, str(error))


cdef object refuse_objects(object what):
    return errors.ArgumentTypeError(f"{what} holds Python objects, which mean nothing in another process")


cdef object refuse_masked():
    return errors.ArgumentTypeError("a masked array has a mask, which memory has no place for; pass array.filled()")


cdef inline bint is_plain(object buffer, bint writable):
    """Whether it is an array of numbers whose bytes can be used in place.

    Negative flags mark a broadcast array, which must not be written.
    """
    cdef int wanted = NPY_ARRAY_C_CONTIGUOUS | (NPY_ARRAY_WRITEABLE if writable else 0), flags
    if not PyArray_CheckExact(buffer):
        return False
    flags = PyArray_FLAGS(<ndarray> buffer)
    return PyArray_TYPE(<ndarray> buffer) <= NPY_CLONGDOUBLE and flags >= 0 and flags & wanted == wanted


cdef inline int get_buffer(object buffer, Py_buffer *view, bint writable) except -1:
    """Fill in a contiguous view of bytes; the caller releases it with PyBuffer_Release.

    Plain arrays are handled here because NumPy's own export would take longer than a small op. The call may run the
    caller's code. Buffers of Python objects are refused, however they are wrapped.
    """
    if is_plain(buffer, writable):
        return PyBuffer_FillInfo(view, buffer, PyArray_DATA(<ndarray> buffer), PyArray_NBYTES(<ndarray> buffer), False,
                                 PyBUF_SIMPLE)
    if PyByteArray_CheckExact(buffer) or (PyBytes_CheckExact(buffer) and not writable):
        return PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
    return take_export(buffer, view, writable)


cdef int take_export(object buffer, Py_buffer *view, bint writable) except -1:
    cdef int flags = PyBUF_WRITABLE if writable else PyBUF_SIMPLE
    if not PyMemoryView_Check(buffer) and isinstance(buffer, ndarray):
        refuse_array(buffer)
    else:
        flags |= PyBUF_FORMAT | PyBUF_ND
    if fill_buffer(buffer, view, flags) < 0:
        return refused_export(buffer, view, writable)
    if view.format != NULL and has_objects(view.format):
        PyBuffer_Release(view)
        raise refuse_objects(type(buffer).__name__)
    return 0


cdef int refused_export(object buffer, Py_buffer *view, bint writable) except -1:
    """The buffer protocol has failed: try DLPack, or raise what says why."""
    try:
        raise_set()
    except Exception as error:
        if not hasattr(buffer, "__dlpack__") or PyObject_CheckBuffer(buffer):
            raise explain_buffer(buffer, writable, error) from None
    return take_dlpack(buffer, view, writable)


cdef int take_dlpack(object buffer, Py_buffer *view, bint writable) except -1:
    try:
        array = np.from_dlpack(buffer)
    except errors.DsmemError:
        raise
    except Exception as error:
        raise error_of(c.DSM_EINVAL, f"DLPack of {type(buffer).__name__}: {error}") from None
    refuse_array(array)
    try:
        PyObject_GetBuffer(array, view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
    except Exception as error:
        raise explain_buffer(array, writable, error) from None
    return 0


cdef int refuse_array(ndarray array) except -1:
    """Refuse an array whose bytes alone do not represent it: one of Python objects, or one with a mask."""
    kind = array.dtype
    if kind.hasobject:
        raise refuse_objects(f"dtype {kind}")
    if isinstance(array, np.ma.MaskedArray):
        raise refuse_masked()
    return 0


cdef bint has_objects(const char *text) noexcept:
    """Whether a format string of the buffer protocol has an 'O' outside of field names."""
    cdef bint in_name = False
    while text[0]:
        if text[0] == c':':
            in_name = not in_name
        elif text[0] == c'O' and not in_name:
            return True
        text += 1
    return False


cdef int64_t permit_timeout(object blocking, object timeout) except? -2:
    """Convert the arguments of threading.Semaphore.acquire to a timeout in nanoseconds; -1: no limit."""
    if not truth(blocking, "blocking"):
        if timeout is not None:
            raise error_of(c.DSM_EINVAL, "a call that does not block takes no timeout")
        return 0
    return elapsed_or(timeout)


cdef uint32_t permits(object n) except 0:
    number = checked_int(n, 1, 0x7fffffff)
    if number is None:
        raise refused(n, int, f"n={n!r}: a number of permits, at least 1")
    return number
