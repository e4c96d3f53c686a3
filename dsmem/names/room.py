"""The file system of named shared memory: its free space, and the meaning of failed system calls on it."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from dsmem import errors

ROOT = Path("/dev/shm")

MOUNT = f"mount -t tmpfs -o mode=1777 tmpfs {ROOT}"
REMOUNT = f"mount -o remount,rw {ROOT}"
OPEN = f"chmod 1777 {ROOT}"
LARGER = f"mount -o remount,size=SIZE {ROOT}"
MORE_FILES = f"mount -o remount,nr_inodes=N {ROOT}"
CONTAINER = "docker run --shm-size=SIZE"


@dataclass(frozen=True)
class Room:
    """Size and free space of the file system of shared memory. A total of 0 means no limit."""

    bytes: int
    bytes_free: int
    files: int
    files_free: int
    readonly: bool


def room() -> Room:
    """Return size and free space.

    Returns
    -------
    Room

    Raises
    ------
    OSError
        There is no shared memory here.
    """
    s = os.statvfs(ROOT)
    return Room(s.f_blocks * s.f_frsize, s.f_bavail * s.f_frsize, s.f_files, s.f_favail, bool(s.f_flag & os.ST_RDONLY))


def _no_room(what: str, nbytes: int, number: int) -> errors.DsmemError:
    now = room()
    if number == errno.ENOSPC and now.files and not now.files_free:
        why = f"{what} needs a file, and {ROOT} takes no more than {now.files}"
        remedy = f"unlink names that are not needed ('dsmem ls'), or allow more: {MORE_FILES}"
    elif number == errno.EFBIG:
        why, remedy = f"{what} needs a file of {nbytes} bytes", "raise RLIMIT_FSIZE of this process: 'ulimit -f'"
    else:
        why = f"{what} needs {nbytes} bytes, and {ROOT} has {now.bytes_free} bytes free of {now.bytes}"
        remedy = f"unlink names that are not needed ('dsmem ls'), or make it larger: {LARGER}; a container: {CONTAINER}"
    return errors.OutOfMemoryError(f"{why}; {remedy}", sys=number)


def _no_access(what: str, number: int) -> errors.DsmemError:
    if not os.access(ROOT, os.W_OK | os.X_OK):
        return errors.AccessDeniedError(f"{what}: this user may not write {ROOT}; run as root: {OPEN}", sys=number)
    remedy = "the rights are the mode of its file, which mode= and group= of its creator choose"
    return errors.AccessDeniedError(f"{what}; {remedy}", sys=number)


def refused(error: OSError, what: str, nbytes: int = 0) -> errors.DsmemError:
    """Return the most specific exception for a failed system call.

    Parameters
    ----------
    error : OSError
        The error that was raised. A DsmemError is returned as it is.
    what : str
        What was opened or created.
    nbytes : int
        Length with which a file was to be created, or to which it was to be extended; 0 for any other call.

    Returns
    -------
    DsmemError
    """
    if isinstance(error, errors.DsmemError):
        return error
    number = error.errno or 0
    if not ROOT.is_dir():
        return errors.SystemCallError(f"{what}: there is no {ROOT}; mount it: {MOUNT}", sys=number)
    if number in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT):
        return _no_room(what, nbytes, number)
    if number in (errno.EACCES, errno.EPERM):
        return _no_access(what, number)
    if number == errno.EROFS:
        return errors.SystemCallError(f"{what}: {ROOT} can't be written; run as root: {REMOUNT}", sys=number)
    if number == errno.EEXIST:
        return errors.NameExistsError(what, sys=number)
    if nbytes and number == errno.ENOENT and not os.path.lexists("/proc/self/fd"):
        return errors.SystemCallError(
            f"{what}: names are given through /proc/self/fd; mount -t proc proc /proc", sys=number
        )
    if number in (errno.ENOENT, errno.ENOTDIR):
        return errors.NameNotFoundError(what, sys=number)
    return errors.SystemCallError(what, sys=number)
