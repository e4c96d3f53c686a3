# Included by _core.pyx: what calls of a store do behind a failure. Pages that they had allocated are freed, and those
# that are damaged are repaired.

cdef enum:
    FREE_TRIES = 3  # where it is not known whether a page was freed
    SPARE_PAUSES = 8  # times what a try to free took that has failed

cdef tuple NOT_REPAIRED = (errors.UnsupportedError, errors.CorruptError, errors.TransportError, errors.PeerDeadError,
                           errors.TimeoutError, errors.BusyError, errors.StaleDescriptorError)


cdef bint is_given_back(Store store, uint64_t pid) except -1:
    for _ in range(FREE_TRIES):
        try:
            store.give_back(pid, 0)
        except errors.PageNotFoundError:  # it is free
            return True
        except errors.OutcomeUnknownError:
            continue
        except errors.DsmemError:
            return False
        return True
    return False


cdef list give_back_all(Store store, list pids):
    """Free pages whose ids no process knows. Nothing is acknowledged by it, so it needs no number of copies.

    Returns those that may still be allocated: where one can't be freed, nor can those behind it.
    """
    cdef list left = list(pids)
    with contextlib.suppress(errors.DsmemError):
        store.enter()
        try:
            while left and is_given_back(store, left[0]):
                del left[0]
        finally:
            store.leave()
    return left


cdef int keep_spare(Store store, const uint64_t *pids, size_t n) except -1:
    for i in range(n):
        store.spare.append(pids[i])
    return 0


cdef int give_back_spare(Store store) except -1:
    """Free what allocations have left, with the next one, and at the end of the handle.

    What can't be freed in one extent leaves others alone. Then it takes a ninth of the time at most.
    """
    cdef int64_t began = clock_now()
    cdef set failed = set()
    if began < store.spare_at:
        return 0
    for pid in store.spare[:]:
        extent = (pid & (c.DSM_STORE_NUMBERS - 1)) % store.shape.extents
        if extent in failed:
            continue
        if not is_given_back(store, pid):
            failed.add(extent)
        elif pid in store.spare:  # another thread may have freed it, too
            store.spare.remove(pid)
    store.spare_at = clock_now() + SPARE_PAUSES * (clock_now() - began) if failed else 0
    return 0


cdef int give_back_at_end(Store store) except -1:
    """As a call of its own: no other one may end the handle meanwhile."""
    store.enter()
    try:
        give_back_spare(store)
    finally:
        store.leave()
    return 0


cdef bint is_repaired(Store store, uint64_t pid, str op) except -1:
    """Whether a damaged page of many is worth another try. Where it can't be repaired now, its code says enough."""
    try:
        store.repair(pid & (c.DSM_STORE_NUMBERS - 1), op)
    except NOT_REPAIRED:
        return False
    return True
