# Included by _core.pyx: File, a file descriptor that is closed with its object; FolderLock; remapping of files.

@cython.final
@cython.auto_pickle(False)
cdef class File:
    """Opened in one call, so that an exception of a signal handler cannot leak the descriptor."""
    cdef int fd, locker  # locker: the pid of the process that holds the lock, 0: none
    cdef bint opened     # fd is valid, and owned by this object; if __cinit__ failed, fd may be 0
    cdef object __weakref__

    def __cinit__(self, path, int flags, int mode=0):
        cdef bytes name
        if path is None:
            self.fd = os.memfd_create("dsmem")  # a call of C: no handler runs before the number is stored
        else:
            name = os.fsencode(path)
            self.fd = posix_open(name, flags | O_CLOEXEC, mode)
        self.opened = self.fd >= 0
        if not self.opened:
            raise OSError(errno, os.strerror(errno), path)

    def fileno(self):
        if not self.opened:
            raise error_of(c.DSM_ECLOSED, "file")
        return self.fd

    def lock(self):
        try:
            fcntl.flock(self.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.locker = getpid()
        return True

    def close(self):
        if not self.opened:
            return
        self.opened = False
        try:  # a child of fork() shares the open file: if it were only closed here, the child would keep the lock
            if self.locker == getpid():
                fcntl.flock(self.fd, fcntl.LOCK_UN)
        finally:
            posix_close(self.fd)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __dealloc__(self):
        self.close()


cdef set locked_files = set()  # files that hold or wait for a lock


@cython.final
@cython.auto_pickle(False)
cdef class FolderLock:
    """Locked in one call, and unlocked at the latest with the object, so that an exception of a signal handler leaves
    nothing locked, whenever it is raised."""
    cdef object path
    cdef double seconds
    cdef File file

    def __cinit__(self, path, double seconds):
        self.path, self.seconds = path, seconds

    def __enter__(self):
        cdef File file = File(self.path, os.O_RDONLY | os.O_DIRECTORY)
        cdef double end = time.monotonic() + self.seconds, pause = 1e-5
        locked_files.add(file)
        try:
            while not file.lock():
                if time.monotonic() > end:
                    raise error_of(c.DSM_EBUSY, f"another process has kept {self.path} locked") from None
                time.sleep(pause)
                pause = min(2 * pause, 0.01)
        except BaseException:
            locked_files.discard(file)
            file.close()
            raise
        self.file = file
        return self

    def __exit__(self, *error):
        if self.file is not None:
            locked_files.discard(self.file)
            self.file.close()

    def __del__(self):
        self.__exit__()


def forget_locks():
    """Called in a child of fork(): its copy of a locked file would keep the file locked if the parent were killed."""
    for file in list(locked_files):
        file.close()
    locked_files.clear()


def map_again(Remote remote not None, nbytes):
    cdef uint64_t size = nbytes
    cdef c.dsm_remote *r = NULL
    cdef int rc
    remote.check()
    rc = c.dsm_map_again(remote.ptr, size, &r)
    if rc:
        raise error_from_core(rc, "map")
    return new_remote(None, r)


cdef int open_watch(Queue q, c.dsm_watch **out) except -1:
    cdef int rc = c.dsm_watch_open(q.ptr, out)
    if rc:
        raise q.failed(rc, "fileno")
    return 0
