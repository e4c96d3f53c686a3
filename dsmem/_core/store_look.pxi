# Included by _core.pyx after store.pxi: what a page says beside its bytes. Both calls look alike, and count as one.

PageMetadata = namedtuple("PageMetadata", ["version", "slot", "epoch", "time", "transaction"], module="dsmem.store")


cdef uint64_t version_at(Store store, uint64_t pid) except? 0xdead:
    cdef PyThread_type_lock turn
    cdef int64_t began = call_begins(&store.counted, CALL_VERSION)
    cdef uint64_t version = 0
    cdef int rc
    if not c.dsm_store_version_now(store.ptr, pid, &version):
        call_ends(&store.counted, CALL_VERSION, 1, began)
        return version
    turn = store.begin()
    with nogil:
        rc = c.dsm_store_version(store.ptr, pid, &version)
    store.end(turn)
    if rc:
        raise store.failed(rc, "version")
    call_ends(&store.counted, CALL_VERSION, 1, began)
    return version


cdef object metadata_at(Store store, uint64_t pid):
    cdef PyThread_type_lock turn
    cdef int64_t began = call_begins(&store.counted, CALL_VERSION)
    cdef c.dsm_page_metadata found
    cdef int rc
    if c.dsm_store_metadata_now(store.ptr, pid, &found):
        turn = store.begin()
        with nogil:
            rc = c.dsm_store_metadata(store.ptr, pid, &found)
        store.end(turn)
        if rc:
            raise store.failed(rc, "metadata")
    call_ends(&store.counted, CALL_VERSION, 1, began)
    return metadata_from(&found)


cdef object metadata_from(const c.dsm_page_metadata *found):
    if found.change == c.DSM_PAGE_EMPTY:
        return PageMetadata(found.version, None, None, None, None)
    transaction = found.transaction if found.change == c.DSM_PAGE_COMMITTED else None
    return PageMetadata(found.version, found.slot, found.epoch, (found.time >> 16) / 1000, transaction)
