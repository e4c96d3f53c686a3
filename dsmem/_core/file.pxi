# Included by _core.pyx: File, a descriptor that is closed with its object, and files mapped anew.

@cython.final
@cython.auto_pickle(False)
cdef class File:
    """See the stub. Opened in one call, so that an exception of a signal handler leaves no descriptor behind."""
    cdef int fd, locker  # locker: the process that has the lock, 0: none
    cdef object __weakref__

    def __cinit__(self, path, int flags, int mode=0):
        cdef bytes name = os.fsencode(path)
        self.fd = posix_open(name, flags | O_CLOEXEC, mode)
        if self.fd < 0:
            raise OSError(errno, os.strerror(errno), path)

    def fileno(self):
        if self.fd < 0:
            raise refused(c.DSM_ECLOSED, "file")
        return self.fd

    def lock(self):
        try:
            fcntl.flock(self.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.locker = getpid()
        return True

    def close(self):
        cdef int fd = self.fd
        self.fd = -1
        if fd < 0:
            return
        try:  # a child of fork has the same open file: closing it alone would leave the lock with the child
            if self.locker == getpid():
                fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            posix_close(fd)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __dealloc__(self):
        if self.fd >= 0:
            self.close()


def map_again(Remote remote not None, nbytes):
    cdef uint64_t size = nbytes
    cdef c.dsm_remote *r = NULL
    cdef int rc
    remote.check()
    rc = c.dsm_map_again(remote.ptr, size, &r)
    if rc:
        raise failure(rc, "map")
    return new_remote(None, r)


cdef int open_watch(Queue q, c.dsm_watch **out) except -1:
    cdef int rc = c.dsm_watch_open(q.ptr, out)
    if rc:
        raise q.failed(rc, "fileno")
    return 0
