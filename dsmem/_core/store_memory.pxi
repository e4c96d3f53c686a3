# Included by _core.pyx before store.pxi: the memory of stores, without a client. It is laid out, looked at, recovered.

cdef enum:
    MOST_PLACES = 64  # copies of all extents


cdef c.dsm_store_shape store_shape(page_size, pages, members, replicas, extents, index=0, id=0, extent=0,
                                   spread=0, nodes=0) except *:
    cdef c.dsm_store_shape s
    try:
        s.page_bytes, s.pages, s.clients, s.copies = page_size, pages, members, replicas
        s.extents, s.extent, s.spread = extents, extent, spread
        s.index, s.id, s.nodes = index, id, nodes
    except OverflowError:
        text = f"{pages} pages of {page_size} bytes for {members} members in {replicas} copies"
        text = f"{text}, {extents} extents; ask for less"
        raise error_of(c.DSM_EINVAL, text) from None
    return s


cdef dict shape_as_dict(const c.dsm_store_shape *s):
    return {"page_size": s.page_bytes, "pages": s.pages, "members": s.clients, "replicas": s.copies,
            "extents": s.extents}


def store_nbytes(page_size, pages, members, replicas, extents=1):
    cdef c.dsm_store_shape s = store_shape(page_size, pages, members, replicas, extents)
    cdef uint64_t nbytes = 0
    cdef int rc = c.dsm_store_layout(&s, &nbytes)
    if rc:
        raise error_from_core(rc, "store")
    return nbytes


def store_format(memory, page_size, pages, members, replicas, index, id, extents=1, extent=0, spread=0,
                 nodes=0):
    cdef c.dsm_store_shape s = store_shape(page_size, pages, members, replicas, extents, index, id, extent, spread,
                                           nodes)
    cdef uint64_t nbytes = 0
    cdef Py_buffer view
    cdef int rc = c.dsm_store_layout(&s, &nbytes)
    get_buffer(memory, &view, True)
    if not rc and <uint64_t> view.len >= nbytes:
        with nogil:
            rc = c.dsm_store_format(view.buf, &s)
    elif not rc:
        rc = -c.DSM_EINVAL
    PyBuffer_Release(&view)
    if rc:
        raise error_from_core(rc, "store")


def store_look(Remote remote not None):
    """What the header of a copy says."""
    cdef c.dsm_store_shape s
    cdef uint64_t state = 0
    cdef int rc
    remote.enter()
    with nogil:
        rc = c.dsm_store_look(remote.ptr, &s, &state)
    remote.leave()
    if rc:
        raise remote.failed(rc, "attach")
    return {**shape_as_dict(&s), "index": s.index, "extent": s.extent, "spread": s.spread, "id": s.id,
            "nodes": s.nodes, "epoch": s.epoch, "state": state}


STORE_DONE, STORE_NOT_DONE = c.DSM_STORE_DONE, c.DSM_STORE_NOT_DONE  # what Store._outcome() says of a change


def store_settle(Remote remote not None, uint64_t before, uint64_t state):
    """Change the state of a store if it is 'before', and return what it is now."""
    cdef uint64_t decided = 0
    cdef int rc
    remote.enter()
    with nogil:
        rc = c.dsm_store_settle(remote.ptr, before, state, &decided)
    remote.leave()
    if rc:
        raise remote.failed(rc, "create")
    return decided


cdef uint32_t enter_copies(tuple remotes, c.dsm_remote **at) except 0:
    """Enter each of them, or none."""
    cdef Remote remote
    cdef uint32_t n = 0
    if not 0 < len(remotes) <= MOST_PLACES:
        raise error_of(c.DSM_EINVAL, f"{len(remotes)} copies of all extents; 1 to {MOST_PLACES}")
    try:
        for remote in remotes:
            remote.enter()
            at[n] = remote.ptr
            n += 1
    except BaseException:
        leave_copies(remotes[:n])
        raise
    return n


cdef int leave_copies(tuple remotes) except -1:
    for remote in remotes:
        (<Remote> remote).leave()
    return 0


def store_recover(tuple remotes not None, uint64_t epoch):
    """Make a store of the copies that have survived."""
    cdef c.dsm_remote *at[MOST_PLACES]
    cdef c.dsm_store_recovered found
    cdef uint32_t failed = 0, n = enter_copies(remotes, at)
    cdef int rc
    with nogil:
        rc = c.dsm_store_recover(at, n, epoch, &found, &failed)
    leave_copies(remotes)
    if rc:
        raise (<Remote> remotes[failed]).failed(rc, "recover")
    return {"forward": found.forward, "back": found.back, "committed": found.committed, "given_up": found.given_up,
            "differing": found.differing}
