# Included by _core.pyx: arrays whose memory the core's registration cache may keep (csrc/core/cache.c).
#
# Such memory is an allocation of NumPy's, which ends when the array that owns it is deleted. A weak reference tells so
# before the memory is freed. As long as there is one, the memory does not move either: NumPy refuses to resize an array
# that has weak references. (Code that sets an array's state or data pointer can move it; then the next op on the array
# finds that the address has changed, and one on what lies there now that it is another allocation.) Nothing of this
# kind holds for other buffers (a bytearray, an mmap, another library's tensor), so these are registered for each op.

cdef uint64_t allocations = 0  # that have a number


@cython.final
@cython.auto_pickle(False)
cdef class Allocation:
    cdef object context  # weak reference
    cdef object array    # weak reference to the owner, which refers to this as its callback
    cdef size_t key
    cdef c.dsm_allocation of
    cdef bint refused  # it could not be kept

    cdef void end(self, Context context, uint64_t number) noexcept:
        cdef c.dsm_cached *entry = NULL
        if context.ptr != NULL and context.ready():
            entry = c.dsm_cache_take(context.ptr, number)
        if entry != NULL:
            with nogil:
                c.dsm_cached_close(entry)

    cdef void renew(self, Context context, ndarray owner) noexcept:
        """It is new, or the array has got other memory (by __setstate__, for example)."""
        global allocations
        cdef uint64_t before = self.of.number
        allocations += 1
        self.of.number, self.of.data, self.of.nbytes = allocations, PyArray_DATA(owner), PyArray_NBYTES(owner)
        self.refused = False
        self.end(context, before)  # last: other threads run meanwhile, and find the new number

    def __call__(self, gone):
        """Called when the owner is being deleted. Runs no Python code, so no signal handler comes before its end."""
        cdef Context context = self.context()
        self.array = None
        if context is None:  # its cache is gone
            return
        if context.arrays.get(self.key) is self:
            del context.arrays[self.key]
        self.end(context, self.of.number)


cdef object owner_of(object buffer):
    """Return the array that owns the memory of a buffer, or None."""
    if PyMemoryView_Check(buffer):
        buffer = buffer.obj  # the caller has a view of it, so it cannot be released
    while isinstance(buffer, ndarray) and not PyArray_FLAGS(<ndarray> buffer) & NPY_ARRAY_OWNDATA:
        buffer = <object> PyArray_BASE(<ndarray> buffer) if PyArray_BASE(<ndarray> buffer) != NULL else None
    return buffer if isinstance(buffer, ndarray) else None


cdef Allocation allocation_of(Context context, ndarray owner):
    cdef Allocation a = context.arrays.get(<size_t> <void *> owner)
    if a is None:
        a = Allocation.__new__(Allocation)
        a.context, a.key = PyWeakref_NewRef(context, None), <size_t> <void *> owner
        a.array = PyWeakref_NewRef(owner, a)
        known = context.arrays.setdefault(a.key, a)
        if known is not a:  # of another thread, or a finalizer: there is one for each array
            a.array = None
            a = known
    if a.of.data != PyArray_DATA(owner) or a.of.nbytes != <uint64_t> PyArray_NBYTES(owner):
        a.renew(context, owner)
    return a


cdef void forget_allocations(Context context) noexcept:
    """The context is closed, and its arrays may be resized again."""
    cdef Allocation a
    cdef dict arrays = context.arrays
    context.arrays = {}
    for a in arrays.values():
        a.array = None


cdef void end_there(Context context, void *p, uint64_t n) noexcept:
    """No array that is known owns this memory: what the cache has of it is of arrays that have lost it unnoticed."""
    context.uses += 1
    try:
        with nogil:
            c.dsm_cache_end(context.ptr, p, n)
    finally:
        context.leave()


cdef void keep_registered(Context context, object buffer, void *p, uint64_t n, bint whole) noexcept:
    """Let the cache keep part of a buffer, if it can. The caller is about to begin an op on it.

    whole: the cache may register all of the allocation, which takes a while.
    """
    cdef Allocation a
    cdef c.dsm_allocation of
    cdef uintptr_t start, at = <uintptr_t> p
    owner = owner_of(buffer)
    if not context.ready():
        return
    if owner is None or n > context.cache_limit:
        end_there(context, p, n)
        return
    start = <uintptr_t> PyArray_DATA(<ndarray> owner)
    if at < start or at - start + n > <uint64_t> PyArray_NBYTES(<ndarray> owner):
        end_there(context, p, n)
        return
    context.uses += 1  # keeps the core's context alive during the call, and refuses close()
    try:
        a = allocation_of(context, <ndarray> owner)
        of = a.of
        if not whole:
            of.data, of.nbytes = p, n
        if not a.refused:
            with nogil:
                rc = c.dsm_cache_keep(context.ptr, &of, p, n)
            a.refused = rc != 0
        else:
            with nogil:
                c.dsm_cache_end(context.ptr, p, n)
    except MemoryError:  # the op does without
        pass
    finally:
        context.leave()
