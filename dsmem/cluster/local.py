"""Names of this host: files of shared memory, one folder for each cluster.

A name is a file ``/dev/shm/dsmem-<uid>/<cluster>/<name>``. It is made without a name, gets its whole length, is
written, and only then linked: at every instruction a name is whole or not there, and whoever is killed leaves nothing.
Memory is given at once, so that no room is an error of the maker and never a SIGBUS of a user.

A name that goes with its creator has a second link, ``.owned/<identity>-<name>``, made before the first. Once the
process with that identity is proven dead, :meth:`LocalNames.gc` removes both; it looks whether they are still one file,
and does that under a lock of the folder which every unlink takes, too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import re
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dsmem import _core, errors
from dsmem.cluster.names import Format, Lifetime, NameInfo, check_name
from dsmem.memory import Memory, Reference, adopt, object_id

ROOT = Path("/dev/shm")
_OWNED = ".owned"
_COMPANION = re.compile(r"([0-9a-f]{16})-(.+)")
_PAGE = os.sysconf("SC_PAGESIZE")
_LOCK_SECONDS = 5.0
_giving = threading.Lock()


def user_folder(owner: int) -> Path:
    """The folder that holds all clusters of a user."""
    return ROOT / f"dsmem-{owner}"


def clusters(owner: int | None = None) -> list[str]:
    """The clusters of a user (None: of this one) that have a folder, sorted."""
    folder = user_folder(os.geteuid() if owner is None else owner)
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
    except OSError:
        return []


def survey() -> dict[str, dict[str, int]]:
    """How many names this user's clusters have, and how many of them are left of creators that are dead.

    Returns
    -------
    dict
        "names" and "left" by the name of the cluster.
    """
    found = {}
    for cluster in clusters():
        with contextlib.suppress(errors.DsmemError):
            names = LocalNames(cluster, os.geteuid())
            left = sum(_core.identity_dead(creator) for creator, _, _ in names._companions())
            found[cluster] = {"names": len(names.infos()), "left": left}
    return found


def user_name(uid: int) -> str:
    """The name of a user; the number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def user_number(user: int | str) -> int:
    """The number of a user given by number or name."""
    if isinstance(user, int):
        return user
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise errors.InvalidArgumentError(f"owner={user!r}: no such user") from None


def _group_number(group: int | str) -> int:
    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise errors.InvalidArgumentError(f"group={group!r}: no such group") from None


def check_mode(mode: int) -> int:
    """Refuse what is no file mode with which an object can be used."""
    if not isinstance(mode, int) or mode & ~0o666 or mode & 0o600 != 0o600:
        raise errors.InvalidArgumentError(f"mode={mode!r}: 0o600 with any of 0o066")
    return mode


def _refused(error: OSError, what: str, nbytes: int = 0) -> errors.DsmemError:
    """A failed call of the system as the exception that says most; one of ours as it is."""
    if isinstance(error, errors.DsmemError):
        return error
    number = error.errno or 0
    if number in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT):
        room = os.statvfs(ROOT)
        free = room.f_bavail * room.f_frsize
        return errors.OutOfMemoryError(
            f"{what} needs {nbytes} bytes; {ROOT} has {free} bytes free of {room.f_blocks * room.f_frsize}", sys=number
        )
    if number in (errno.EACCES, errno.EPERM):
        return errors.AccessDeniedError(
            f"{what}: rights are the mode of the file, mode= and group= choose it", sys=number
        )
    if number == errno.EEXIST:
        return errors.NameExistsError(what, sys=number)
    if number in (errno.ENOENT, errno.ENOTDIR):
        return errors.NameNotFoundError(what, sys=number)
    return errors.SystemCallError(what, sys=number)


def _link(fd: int, path: Path) -> None:
    # The source is absolute; src_dir_fd only makes Python call linkat, which follows the link in /proc.
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


def _allocate(fd: int, nbytes: int) -> int:
    """Give the file whole pages for at least nbytes; what it had it keeps. Returns how many bytes it has now."""
    size = -(-nbytes // _PAGE) * _PAGE
    if size >= 1 << 62:
        raise OSError(errno.ENOMEM, "")
    os.posix_fallocate(fd, 0, size)
    return size


class LocalNames:
    """The names of one cluster on this host.

    Parameters
    ----------
    cluster : str
        Its name.
    owner : int
        Whose cluster; another user's must be there and grant this user's group or others what is done to it.
    mode : int, optional
        Mode of the names to come, such as 0o660; the folder gets the rights that go with it. None: that of the folder,
        0o600 for a new one.
    group : int or str, optional
        Group of the folder and so of the names in it.
    """

    is_near = True

    def __init__(self, cluster: str, owner: int, mode: int | None = None, group: int | str | None = None) -> None:
        self.cluster = check_name(cluster)
        self.owner = owner
        self.folder = user_folder(owner) / cluster
        self._mode = None if mode is None else check_mode(mode)
        self._group = None if group is None else _group_number(group)
        self._prepare()

    def __repr__(self) -> str:
        return f"{self.folder}"

    # -- folders --

    def _prepare(self) -> None:
        """Make sure of the folder, and that it is the owner's."""
        try:
            if self.owner == os.geteuid():
                self._make_folders()
            for folder in (self.folder.parent, self.folder):
                info = folder.lstat()
                if not stat.S_ISDIR(info.st_mode) or info.st_uid != self.owner:
                    raise errors.AccessDeniedError(f"{folder} is no folder of user {user_name(self.owner)}")
        except OSError as error:
            raise _refused(error, f"the cluster {self.cluster!r} of user {user_name(self.owner)}") from None

    def _make_folders(self) -> None:
        parent = self.folder.parent
        with contextlib.suppress(FileExistsError):
            parent.mkdir(0o700)
        info = parent.lstat()
        if info.st_uid != self.owner or not stat.S_ISDIR(info.st_mode):
            return  # _prepare says so
        if stat.S_IMODE(info.st_mode) != 0o711:  # others pass through it, and see nothing
            parent.chmod(0o711)
        with contextlib.suppress(FileExistsError):
            self.folder.mkdir(0o700)
        (self.folder / _OWNED).mkdir(0o700, exist_ok=True)
        if self._mode is not None or self._group is not None:
            self._open_up()

    def _open_up(self) -> None:
        mode = self.default_mode()
        bits = mode | (mode & 0o444) >> 2 | (stat.S_ISGID if mode & 0o060 else 0)
        for folder in (self.folder, self.folder / _OWNED):
            if self._group is not None:
                os.chown(folder, -1, self._group)
            folder.chmod(bits)

    def default_mode(self) -> int:
        """Of a name for which the caller asks none."""
        return stat.S_IMODE(self.folder.stat().st_mode) & 0o666 if self._mode is None else self._mode

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """No name is unlinked by others meanwhile. A killed holder frees it; for a stopped one nobody waits long."""
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            end, pause = time.monotonic() + _LOCK_SECONDS, 1e-5
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise errors.BusyError(f"another process has kept {self.folder} locked") from None
                    time.sleep(pause)
                    pause = min(2 * pause, 0.01)
            yield
        finally:
            os.close(fd)

    # -- names --

    def _reference(self, name: str, kind: str, readonly: bool = False, number: int = 0) -> Reference:
        return Reference(kind, name, number, self.owner, self.cluster, readonly=readonly)

    def attach(self, name: str, kind: str, readonly: bool) -> Memory:
        """Map what has the name."""
        return self.attach_reference(self._reference(check_name(name), kind, readonly))

    def attach_reference(self, ref: Reference, at_least: int = 0) -> Memory:
        """Map what has the reference's name, if it is still the same object; make it as long as wanted before."""
        path = self.folder / check_name(ref.name)
        flags = os.O_RDONLY if ref.readonly else os.O_RDWR
        try:
            fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _refused(error, repr(ref.name)) from None
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or not info.st_size:
                raise errors.CorruptError(f"{path} is no file of shared memory")
            if at_least > info.st_size and object_id(os.pread(fd, 32, 0)) == ref.id:
                _allocate(fd, at_least)
                info = os.fstat(fd)
            remote = _core.map_file(fd, info.st_size, "r" if ref.readonly else "rwa")
        except OSError as error:
            raise _refused(error, repr(ref.name), at_least) from None
        finally:
            os.close(fd)
        return adopt(remote, ref)

    def make(self, name: str, kind: str, nbytes: int, format: Format, mode: int | None, lifetime: Lifetime) -> Memory:
        """Make an object and give it the name: the whole object, or an exception and nothing."""
        path = self.folder / check_name(name)
        if mode is not None:
            check_mode(mode)
        fd = -1
        try:
            if os.path.lexists(path):  # before memory is taken; linking decides
                raise FileExistsError(errno.EEXIST, "")
            fd = self._unnamed(mode)
            remote = _core.map_file(fd, _allocate(fd, nbytes))
            try:
                with memoryview(remote) as view:
                    format(view)
                    ref = self._reference(name, kind, number=object_id(view))
                try:
                    self._give_name(fd, path, lifetime)
                except FileNotFoundError:  # gc took the folder, which had no name yet
                    self._prepare()
                    self._give_name(fd, path, lifetime)
            except BaseException:
                remote.close()
                raise
        except OSError as error:
            raise _refused(error, repr(name), nbytes) from None
        finally:
            if fd >= 0:
                os.close(fd)
        return Memory(remote, ref)

    def _unnamed(self, mode: int | None) -> int:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        try:
            fd = os.open(self.folder, flags, 0o600)
        except FileNotFoundError:  # the last name went, and gc took the folder
            self._prepare()
            fd = os.open(self.folder, flags, 0o600)
        os.fchmod(fd, self.default_mode() if mode is None else mode)
        return fd

    def _give_name(self, fd: int, path: Path, lifetime: Lifetime) -> None:
        if lifetime == "name":
            _link(fd, path)
            return
        companion = self.folder / _OWNED / f"{_core.identity():016x}-{path.name}"
        with _giving:
            if os.path.lexists(path):  # by another thread of this process, whose companion this would be
                raise FileExistsError(errno.EEXIST, "")
            with contextlib.suppress(FileNotFoundError):
                companion.unlink()  # of a name of this process's that went by a bare unlink(2)
            _link(fd, companion)
            try:
                _link(fd, path)
            except BaseException:
                companion.unlink()
                raise

    def infos(self) -> list[NameInfo]:
        """All names, sorted."""
        owners = {inode: _core.identity_pid(creator) for creator, _, inode in self._companions()}
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    info = entry.stat(follow_symlinks=False)
                    if not stat.S_ISREG(info.st_mode):
                        continue
                    owner, creator = user_name(info.st_uid), owners.get(info.st_ino)
                    if creator is not None:
                        owner = f"{owner} pid {creator}"
                    found.append(
                        NameInfo(
                            entry.name,
                            _kind_of(entry.path, info.st_size),
                            info.st_size,
                            owner,
                            info.st_mtime,
                            "name" if creator is None else "creator",
                        )
                    )
        return sorted(found, key=lambda info: info.name)

    def unlink(self, name: str) -> None:
        """Remove the name; who has the memory mapped goes on using it."""
        path = self.folder / check_name(name)
        try:
            with self._locked():
                inode = path.lstat().st_ino
                path.unlink()
                self._forget(inode)
        except OSError as error:
            raise _refused(error, repr(name)) from None

    # -- names that go with their creator --

    def _companions(self) -> list[tuple[int, os.DirEntry[str], int]]:
        """Creator, entry and inode of each."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.folder / _OWNED) as entries:
            for entry in entries:
                match = _COMPANION.fullmatch(entry.name)
                if match:
                    found.append((int(match[1], 16), entry, entry.inode()))
        return found

    def _forget(self, inode: int) -> None:
        for _, entry, number in self._companions():
            if number == inode:
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()

    def gc(self) -> list[str]:
        """Remove the names that were to go with creators that are dead; not those that this user may not remove."""
        if not any(_core.identity_dead(creator) for creator, _, _ in self._companions()):
            return []
        removed = []
        with contextlib.suppress(errors.BusyError, FileNotFoundError), self._locked():
            for creator, entry, inode in self._companions():
                if not _core.identity_dead(creator):
                    continue
                path = self.folder / entry.name.split("-", 1)[1]
                with contextlib.suppress(OSError):
                    with contextlib.suppress(FileNotFoundError):
                        if path.lstat().st_ino == inode:
                            path.unlink()
                            removed.append(path.name)
                    Path(entry.path).unlink()
        return sorted(removed)

    def remove_if_empty(self) -> bool:
        """Remove the folder of a cluster without names."""
        try:
            (self.folder / _OWNED).rmdir()
            self.folder.rmdir()
        except OSError:
            return False
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()
        return True

    def close(self) -> None:
        """Names stay."""


def _kind_of(path: str, nbytes: int) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        return "unreadable"
    try:
        if not nbytes:
            return "corrupt"
        with _core.map_file(fd, nbytes, "r") as remote:
            return _core.object_type(remote)
    except errors.DsmemError:
        return "corrupt"
    finally:
        os.close(fd)
