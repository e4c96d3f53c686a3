# Included by _core.pyx: arrays whose memory the core's registration cache may keep (csrc/core/cache.c).
#
# Such memory is an allocation of NumPy's, which ends when the array that owns it is deleted. A weak reference tells so
# before the memory is freed. As long as there is one, the memory does not move either: NumPy refuses to resize an array
# that has weak references. Nothing of this kind holds for other buffers (a bytearray, an mmap, another library's
# tensor), so these are registered for each op.

cdef uint64_t allocations = 0  # that have a number


@cython.final
@cython.auto_pickle(False)
cdef class Allocation:
    cdef object context  # weak reference
    cdef object array    # weak reference to the owner, which refers to this as its callback
    cdef size_t key
    cdef uint64_t number

    def __call__(self, gone):
        """Called when the owner is being deleted. Runs no Python code, so no signal handler comes before its end."""
        cdef Context context = self.context()
        cdef c.dsm_cached *entry = NULL
        self.array = None
        if context is None:  # its cache is gone
            return
        if context.arrays.get(self.key) is self:
            del context.arrays[self.key]
        if context.ptr != NULL and context.ready():
            entry = c.dsm_cache_take(context.ptr, self.number)
        if entry != NULL:
            with nogil:
                c.dsm_cached_close(entry)


cdef object owner_of(object buffer):
    """Return the array that owns the memory of a buffer, or None."""
    if PyMemoryView_Check(buffer):
        buffer = buffer.obj  # the caller has a view of it, so it cannot be released
    while isinstance(buffer, ndarray) and not PyArray_FLAGS(<ndarray> buffer) & NPY_ARRAY_OWNDATA:
        buffer = <object> PyArray_BASE(<ndarray> buffer) if PyArray_BASE(<ndarray> buffer) != NULL else None
    return buffer if isinstance(buffer, ndarray) else None


cdef Allocation allocation_of(Context context, object owner):
    global allocations
    cdef Allocation a = context.arrays.get(<size_t> <void *> owner)
    if a is None:
        a = Allocation.__new__(Allocation)
        a.context, a.key = PyWeakref_NewRef(context, None), <size_t> <void *> owner
        a.array = PyWeakref_NewRef(owner, a)
        allocations += 1
        a.number = allocations
        context.arrays[a.key] = a
    return a


cdef void forget_allocations(Context context) noexcept:
    """The context is closed, and its arrays may be resized again."""
    cdef Allocation a
    cdef dict arrays = context.arrays
    context.arrays = {}
    for a in arrays.values():
        a.array = None


cdef void keep_registered(Context context, object buffer, void *p, uint64_t n) noexcept:
    """Let the cache keep part of a buffer, if it can. The caller is about to begin an op on it."""
    cdef c.dsm_allocation a
    cdef uintptr_t start, at = <uintptr_t> p
    owner = owner_of(buffer)
    if owner is None:
        return
    start = <uintptr_t> PyArray_DATA(<ndarray> owner)
    a.data, a.nbytes = <void *> start, PyArray_NBYTES(<ndarray> owner)
    if at < start or n > a.nbytes or at - start > a.nbytes - n:
        return
    try:
        a.number = allocation_of(context, owner).number
    except MemoryError:  # the op does without
        return
    with nogil:
        c.dsm_cache_keep(context.ptr, &a, p, n)
