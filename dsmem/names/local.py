"""Names of this host: files of shared memory, one folder for each cluster.

A name is a file ``/dev/shm/dsmem-<uid>/<cluster>/<name>``. The file is created without a name (O_TMPFILE), allocated in
its whole length, written, and only then linked. At every instruction a name is complete or absent, and a process that
is killed leaves nothing. All pages are allocated at once, so that lack of space is an error for the creator and never a
SIGBUS for a user.

A name with the lifetime "creator" has a mark, an empty file ``.owned/<identity>/<inode>-<name>`` that is created before
the name. When the process exits, or once its death is proven, the names for which it has marks are removed, if they are
still the same files. That is checked under a lock of the folder, which every unlink takes, too.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import hashlib
import os
import pwd
import stat
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from dsmem import _core, errors, leaving
from dsmem.memory import MADE, MADE_OFFSET, Memory, Opened, Reference, adopt, object_id, open_or_leave
from dsmem.names.base import Format, Lifetime, NameInfo, OneNode, check_name
from dsmem.names.room import ROOT, refused

_OWNED = ".owned"
_PAGE = os.sysconf("SC_PAGESIZE")
_LOCK_SECONDS = 5.0
_TAKEN_MOST, _TAKEN_SECONDS = 20, 1e-3  # how often a folder is made again that gc takes, and the pause before
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_HEADER = struct.Struct("<8sIIQQQQ")  # docs/protocols/objects.md
_LAYOUT = 2
_T = TypeVar("_T")


def user_folder(owner: int) -> Path:
    """Return the folder that holds all clusters of a user."""
    return ROOT / f"dsmem-{owner}"


def clusters(owner: int | None = None) -> list[str]:
    """Return the clusters of a user (None: of this one) that have a folder, sorted."""
    folder = user_folder(os.geteuid() if owner is None else owner)
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
    except OSError:
        return []


def forget(cluster: str) -> None:
    """Remove the folder of a cluster of this user if it is there, and has no names."""
    with contextlib.suppress(errors.DsmemError):
        LocalNames(cluster, os.geteuid(), make=False).remove_if_empty()


def survey() -> dict[str, dict[str, int]]:
    """Count the names in each of this user's clusters, and those whose creators are dead.

    Returns
    -------
    dict
        "names" and "left" by the name of the cluster.
    """
    found = {}
    for cluster in clusters():
        with contextlib.suppress(errors.DsmemError):
            names = LocalNames(cluster, os.geteuid())
            infos = names.infos()
            found[cluster] = {"names": len(infos), "left": sum(info.left for info in infos)}
    return found


FileKey = tuple[int, int]  # device and inode of a file: what it is, whatever its name and its bytes


def key_of(info: os.stat_result) -> FileKey:
    """Return what identifies a file as long as it is open or mapped."""
    return info.st_dev, info.st_ino


def files_of_names() -> dict[FileKey, int]:
    """Return the files of all names of this user, and their bytes."""
    found = {}
    for cluster in clusters():
        with contextlib.suppress(OSError), os.scandir(user_folder(os.geteuid()) / cluster) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        found[key_of(info)] = info.st_size
    return found


def user_name(uid: int) -> str:
    """Return the name of a user, or the number if it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _number(what: str, value: object) -> int:
    number: int | None = _core.checked_int(value, 0, (1 << 32) - 2)  # (1 << 32) - 1 means none to the kernel
    if number is None:
        raise _core.refused(value, int, f"{what}={value!r}: a name, or a number from 0 to {(1 << 32) - 2}")
    return number


def user_number(user: int | str) -> int:
    """Return the number of a user, given by number or name."""
    if not isinstance(user, str):
        return _number("owner", user)
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):  # ValueError: text with a NUL
        raise errors.InvalidArgumentError(f"owner={user!r}: no such user") from None


def _group_number(group: int | str) -> int:
    if not isinstance(group, str):
        return _number("group", group)
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):  # ValueError: text with a NUL
        raise errors.InvalidArgumentError(f"group={group!r}: no such group") from None


def _is_outside(user: int) -> bool:
    """Whether the number stands for users without a number in this user namespace (the overflow uid)."""
    try:
        whole = Path("/proc/self/uid_map").read_text().split() == ["0", "0", str((1 << 32) - 1)]
        return not whole and user == int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return False


def _of_another(folder: Path, info: os.stat_result, owner: int) -> errors.AccessDeniedError:
    why = f"{folder} is not a folder of user {user_name(owner)}"
    if _is_outside(info.st_uid):
        text = "a user outside of this user namespace made it, and may be using it"
        return errors.AccessDeniedError(f"{why}: {text}; give the container a /dev/shm of its own")
    made = f"user {user_name(info.st_uid)} made it; ask root to remove it: rm -r {folder}"
    return errors.AccessDeniedError(f"{why}: {made}")


def check_mode(mode: int) -> int:
    """Check a file mode: 0o600 with any of 0o066."""
    bits: int | None = _core.checked_int(mode, 0o600, 0o666)
    if bits is None or bits & ~0o666:
        given = f"0o{mode:o}" if isinstance(mode, int) and mode >= 0 else repr(mode)
        raise _core.refused(mode, int, f"mode={given}: 0o600 with any of 0o066, such as mode=0o660")
    return bits


def _own(folder: Path) -> None:
    """Give the owner all rights to its folder: a umask, or a kill of its creator before this, may have left fewer."""
    info = folder.lstat()
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and mode & 0o700 != 0o700:
        folder.chmod(mode | 0o700)


def _while_taken(do: Callable[[], _T]) -> _T:
    """Do it again where a folder was gone: gc removes those that are empty, at any time."""
    for _ in range(_TAKEN_MOST):
        with contextlib.suppress(FileNotFoundError):
            return do()
        time.sleep(_TAKEN_SECONDS)
    return do()


def _link(fd: int, path: Path) -> None:
    # The source is absolute. src_dir_fd only makes Python call linkat(), which follows the link in /proc.
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


def _allocate(fd: int, nbytes: int) -> int:
    """Allocate whole pages for at least nbytes, and return their bytes. Existing content is kept."""
    size = -(-nbytes // _PAGE) * _PAGE
    if size >= 1 << 62:
        raise OSError(errno.ENOMEM, "")
    os.posix_fallocate(fd, 0, size)
    return size


class _Header(NamedTuple):
    """Header of an object."""

    magic: bytes
    version: int
    kind: int
    nbytes: int
    id: int
    made: int
    creator: int


def _header(file: _core.File) -> _Header | None:
    """Read the header of an object; None if the file is not an object, or one of another release."""
    raw = os.pread(file.fileno(), _HEADER.size, 0)
    if len(raw) < _HEADER.size:
        return None
    header = _Header(*_HEADER.unpack(raw))
    return header if header.magic == b"dsmemobj" and header.version == _LAYOUT and header.id else None


def _expect(name: str, header: _Header | None, number: int) -> None:
    if header is None:
        raise errors.CorruptError(f"{name!r} can be removed by its name alone: cluster.unlink({name!r})")
    if header.id != number:
        raise errors.NameNotFoundError(f"{name!r} is another object by now")


class _Self:
    """State of this process as a creator: its identity, and the places that hold names with its lifetime."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.identity = _core.identity()
        self.places: dict[Path, LocalNames] = {}

    def end(self) -> None:
        for place in list(self.places.values()):
            with contextlib.suppress(errors.DsmemError, OSError):
                place.end_of(self.identity)


_self: _Self | None = None


def _this_process() -> _Self:
    global _self
    known = _self
    if known is None or known.pid != os.getpid():  # a child of fork() is another creator
        known = _self = _Self()
        leaving.expect_end()
    return known


@leaving.at_end
def _end() -> None:
    if _self is not None and _self.pid == os.getpid():
        _self.end()


def identity() -> int:
    """Return a number of the memory in which this user's names are; 0: it is not known.

    It is that of a boot of the host and of a file system: the same for all servers that have it, and after one of them
    has begun again. A container with a /dev/shm of its own has another.
    """
    try:
        found, boot = ROOT.stat(), Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return 0
    text = f"{boot} {found.st_dev} {found.st_ino} {os.geteuid()}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1


class LocalNames(OneNode):
    """The names of one cluster on this host.

    Parameters
    ----------
    cluster : str
        Name of the cluster.
    owner : int
        User that owns the cluster. That of another user must exist, and its mode must grant what is done to it.
    mode : int, optional
        Mode of names created from now on, such as 0o660; the folder gets the corresponding rights. None: the mode of
        the folder, 0o600 for a new one.
    group : int or str, optional
        Group of the folder, and so of the names in it.
    make : bool
        Make the folders of this user's cluster if they are missing. Otherwise that is a NameNotFoundError, as of
        another user's cluster.
    """

    is_mapped = True

    def __init__(
        self,
        cluster: str,
        owner: int,
        mode: int | None = None,
        group: int | str | None = None,
        *,
        make: bool = True,
    ) -> None:
        self.cluster = check_name(cluster)
        self.owner = owner
        self.folder = user_folder(owner) / self.cluster
        self._mode = None if mode is None else check_mode(mode)
        self._group = None if group is None else _group_number(group)
        self._mine: set[tuple[str, int]] = set()  # (name, inode) of names to remove when this place is closed
        self._prepare(make)

    def __repr__(self) -> str:
        return f"{self.folder}"

    # -- folders --

    def _prepare(self, make: bool = True) -> None:
        """Create the folders if they are missing, and check that they are the owner's."""
        make = make and self.owner == os.geteuid()
        try:
            if make:
                _while_taken(self._make_folders)
            else:
                self._check_folders()
        except OSError as error:
            user = user_name(self.owner)
            if isinstance(error, FileNotFoundError) and not make:
                which = f"user {user} has no cluster {self.cluster!r} here"
                raise errors.NameNotFoundError(f"{which}; 'dsmem ls --owner {user}' lists what there is") from None
            raise refused(error, f"the cluster {self.cluster!r} of user {user}") from None

    def _check_folders(self) -> None:
        for folder in (self.folder.parent, self.folder):
            info = folder.lstat()
            if not stat.S_ISDIR(info.st_mode) or info.st_uid != self.owner:
                raise _of_another(folder, info, self.owner)
        if not os.access(self.folder, os.R_OK | os.X_OK, effective_ids=True):
            self.folder.lstat()  # it may be gone
            raise PermissionError(errno.EACCES, "")

    def _in_folder(self, do: Callable[[], _T]) -> _T:
        """Do what needs the folder, and make that again where gc takes it, which has found no name there."""

        def tried() -> _T:
            try:
                return do()
            except FileNotFoundError:
                self._prepare()
                raise

        return _while_taken(tried)

    def _make_folders(self) -> None:
        parent = self.folder.parent
        with contextlib.suppress(FileExistsError):
            parent.mkdir(0o700)  # the umask may remove bits
        info = parent.lstat()
        if info.st_uid != self.owner or not stat.S_ISDIR(info.st_mode):
            raise _of_another(parent, info, self.owner)
        if stat.S_IMODE(info.st_mode) != 0o711:  # other users may search the folder, but not list it
            parent.chmod(0o711)
        for folder in (self.folder, self.folder / _OWNED):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(0o700)
            _own(folder)
        if self._mode is not None or self._group is not None:
            self._open_up()
        self._check_folders()

    def _open_up(self) -> None:
        mode = self.default_mode()
        bits = mode | (mode & 0o444) >> 2 | (stat.S_ISGID if mode & 0o060 else 0)
        for folder in (self.folder, self.folder / _OWNED):
            if self._group is not None:
                os.chown(folder, -1, self._group)
            folder.chmod(bits)

    def default_mode(self) -> int:
        """Return the mode of a name that is created without a mode."""
        return stat.S_IMODE(self.folder.stat().st_mode) & 0o666 if self._mode is None else self._mode

    def _locked(self) -> _core.FolderLock:
        """Lock against unlink() by others. The lock of a killed holder is free; a wait for a stopped one times out."""
        return _core.FolderLock(self.folder, _LOCK_SECONDS)

    # -- names --

    def _described(self, name: str) -> str:
        of = "" if self.owner == os.geteuid() else f" of user {user_name(self.owner)}"
        return f"{name!r} in the cluster {self.cluster!r}{of}"

    def _reference(self, name: str, kind: str, readonly: bool = False, number: int = 0) -> Reference:
        return Reference(kind, name, number, self.owner, self.cluster, readonly=readonly)

    def attach(self, name: str, kind: str, readonly: bool, timeout: float | None = None) -> Memory:
        """Map the object that has the name. It does not wait."""
        return self.attach_reference(self._reference(check_name(name), kind, readonly))

    def attach_reference(self, ref: Reference, at_least: int = 0) -> Memory:
        """Map the object that has the reference's name, if it is the same one. First extend it to at_least bytes."""
        return self.attach_file(ref, at_least)[0]

    def attach_file(self, ref: Reference, at_least: int = 0) -> tuple[Memory, FileKey]:
        """As :meth:`attach_reference`, and return what identifies the file."""
        ref = replace(ref, name=check_name(ref.name))
        path = self.folder / ref.name
        flags = os.O_RDONLY if ref.readonly else os.O_RDWR
        try:
            with _core.File(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK) as file:
                info = os.fstat(file.fileno())
                if not stat.S_ISREG(info.st_mode) or not info.st_size:
                    raise errors.CorruptError(f"{path} is not a file of shared memory")
                if at_least > info.st_size and object_id(os.pread(file.fileno(), 32, 0)) == ref.id:
                    _allocate(file.fileno(), at_least)
                    info = os.fstat(file.fileno())
                remote = _core.map_file(file.fileno(), info.st_size, "r" if ref.readonly else "rwa")
        except OSError as error:
            raise refused(error, self._described(ref.name), at_least) from None
        return adopt(remote, ref), key_of(info)

    def make(
        self,
        name: str,
        kind: str,
        nbytes: int,
        format: Format,
        mode: int | None,
        lifetime: Lifetime,
        open_: Callable[[Memory], Opened],
    ) -> Opened:
        """Create an object, open it and give it the name. After an exception nothing of it remains."""
        name = check_name(name)
        path = self.folder / name
        mode = None if mode is None else check_mode(mode)
        creator = _this_process().identity if lifetime == "creator" else 0
        try:
            if os.path.lexists(path):  # checked before memory is allocated; linking decides
                raise FileExistsError(errno.EEXIST, "")
            with self._unnamed(mode) as file:
                memory = self._written(file, name, kind, nbytes, format, creator)
                made = open_or_leave(open_, memory)
                try:
                    self._in_folder(partial(self._give_name, file, path, creator))
                except BaseException:
                    with contextlib.suppress(errors.DsmemError):
                        made.close()
                    raise
        except OSError as error:
            raise refused(error, repr(name), nbytes) from None
        return made

    def _written(self, file: _core.File, name: str, kind: str, nbytes: int, format: Format, creator: int) -> Memory:
        remote = _core.map_file(file.fileno(), _allocate(file.fileno(), nbytes))
        try:
            with memoryview(remote) as view:
                MADE.pack_into(view, MADE_OFFSET, time.time_ns(), creator)
                format(view)
                number = object_id(view)
        except BaseException:
            remote.detach()  # unmaps at once, or with a view that an interrupt has left open
            raise
        return Memory(remote, self._reference(name, kind, number=number))

    def _unnamed(self, mode: int | None) -> _core.File:
        flags = os.O_TMPFILE | os.O_RDWR

        def opened() -> _core.File:
            bits = self.default_mode() if mode is None else mode
            file = _core.File(self.folder, flags, 0o600)
            os.fchmod(file.fileno(), bits)
            return file

        return self._in_folder(opened)

    def _give_name(self, file: _core.File, path: Path, creator: int) -> None:
        if not creator:
            _link(file.fileno(), path)
            return
        inode = os.fstat(file.fileno()).st_ino
        mark = self._mark(creator, inode, path.name)
        _this_process().places.setdefault(self.folder, self)
        try:
            with contextlib.suppress(FileExistsError):
                mark.parent.mkdir(stat.S_IMODE(mark.parent.parent.stat().st_mode))
                mark.parent.chmod(stat.S_IMODE(mark.parent.parent.stat().st_mode))  # despite the umask
            _core.File(mark, os.O_WRONLY | os.O_CREAT, 0o600).close()
            self._mine.add((path.name, inode))
            _link(file.fileno(), path)
        except OSError:
            self._mine.discard((path.name, inode))
            with contextlib.suppress(OSError):
                mark.unlink()
            raise

    # -- for a server, whose clients write the object --

    def refuse_taken(self, name: str) -> None:
        """Raise NameExistsError if the name is taken now. Only publish() decides."""
        if os.path.lexists(self.folder / check_name(name)):
            raise errors.NameExistsError(repr(name))

    def prepare(self, nbytes: int) -> tuple[_core.File, _core.Remote]:
        """Create and map a zeroed file of at least nbytes that has no name. It is gone when both are closed."""
        try:
            file = self._unnamed(None)
            return file, _core.map_file(file.fileno(), _allocate(file.fileno(), nbytes))
        except OSError as error:
            raise refused(error, "an object", nbytes) from None

    def publish(self, file: _core.File, name: str, mode: int | None) -> None:
        """Give the file its name."""
        path = self.folder / check_name(name)
        try:
            if mode is not None:
                os.fchmod(file.fileno(), check_mode(mode))
            self._in_folder(lambda: _link(file.fileno(), path))
        except OSError as error:
            raise refused(error, repr(name)) from None

    def file_of(self, name: str) -> FileKey | None:
        """Return what identifies the file that has the name; None if there is none."""
        try:
            return key_of((self.folder / check_name(name)).lstat())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise refused(error, self._described(name)) from None

    # -- all names --

    def infos(self) -> list[NameInfo]:
        """Return all names, sorted."""
        found, dead = [], {0: False}
        try:
            with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        info = self._info(entry, dead)
                        if info is not None:
                            found.append(info)
        except OSError as error:
            raise refused(error, f"the names in {self.folder}") from None
        return sorted(found, key=lambda info: info.name)

    def _info(self, entry: os.DirEntry[str], dead: dict[int, bool]) -> NameInfo | None:
        """Describe an entry; None if it is not a file. ``dead`` caches whether creators are dead."""
        info = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(info.st_mode):
            return None
        kind, header, owner = "unreadable", None, user_name(info.st_uid)
        with contextlib.suppress(PermissionError), _core.File(entry.path, _READ) as file:
            info = os.fstat(file.fileno())  # of the open file: the name may be another file's now
            kind, header = _kind_of(file, info.st_size), _header(file)
        creator = header.creator if header else 0
        pid = _core.identity_pid(creator)
        if pid:  # in this PID namespace
            owner = f"{owner} pid {pid}"
        if creator not in dead:
            dead[creator] = _core.identity_dead(creator)
        made = header.made / 1e9 if header and header.made else info.st_mtime
        lifetime: Lifetime = "creator" if creator else "name"
        return NameInfo(entry.name, kind, info.st_size, owner, made, lifetime, dead[creator])

    def unlink(self, name: str, number: int = 0) -> None:
        """Remove the name; if number is not 0, only that of the object with this id. Mappings stay valid."""
        name = check_name(name)
        path = self.folder / name
        try:
            with self._locked():
                inode, header = path.lstat().st_ino, None
                with contextlib.suppress(OSError), _core.File(path, _READ) as file:
                    header = _header(file)
                if number:
                    _expect(name, header, number)
                path.unlink()
                self._mine.discard((name, inode))
                if header is not None and header.creator:
                    with contextlib.suppress(OSError):
                        self._mark(header.creator, inode, name).unlink()
        except FileNotFoundError as error:
            if isinstance(error, errors.DsmemError):
                raise
            text = f"{self._described(name)}: no object has this name; 'dsmem ls' lists the names"
            raise errors.NameNotFoundError(text) from None
        except OSError as error:
            raise refused(error, self._described(name)) from None

    # -- names with the lifetime "creator" --

    def _mark(self, creator: int, inode: int, name: str) -> Path:
        return self.folder / _OWNED / f"{creator:016x}" / f"{inode}-{name}"

    def _creators(self) -> list[int]:
        found = []
        with contextlib.suppress(OSError):
            for home in (self.folder / _OWNED).iterdir():
                with contextlib.suppress(ValueError):
                    found.append(int(home.name, 16))
        return found

    def _is(self, path: Path, inode: int, creator: int) -> bool:
        """Whether the name still belongs to the file for which the creator made the mark."""
        try:
            if path.lstat().st_ino != inode:
                return False
            with contextlib.suppress(PermissionError), _core.File(path, _READ) as file:
                header = _header(file)
                return header is not None and header.creator == creator  # an inode number may be reused
        except FileNotFoundError:
            return False
        return True

    def end_of(self, creator: int) -> list[str]:
        """Remove the names whose lifetime ends with a creator, except those that this user may not remove."""
        removed = []
        home = self.folder / _OWNED / f"{creator:016x}"
        with contextlib.suppress(errors.BusyError, FileNotFoundError, PermissionError), self._locked():
            for mark in home.iterdir():
                inode, _, name = mark.name.partition("-")
                with contextlib.suppress(OSError):
                    if inode.isdecimal() and self._is(self.folder / name, int(inode), creator):
                        (self.folder / name).unlink()
                        removed.append(name)
                    mark.unlink()
            with contextlib.suppress(OSError):
                home.rmdir()
        return removed

    def gc(self) -> list[str]:
        """Remove the names whose lifetime ends with dead creators, except those that this user may not remove."""
        dead = [creator for creator in self._creators() if _core.identity_dead(creator)]
        try:
            return sorted(name for creator in dead for name in self.end_of(creator))
        except OSError as error:
            raise refused(error, f"the names in {self.folder}") from None

    def remove_if_empty(self) -> bool:
        """Remove the folder of a cluster if it has no names."""
        for creator in self._creators():
            with contextlib.suppress(OSError):
                (self.folder / _OWNED / f"{creator:016x}").rmdir()
        try:
            (self.folder / _OWNED).rmdir()
            self.folder.rmdir()
        except OSError:
            return False
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()
        return True

    def close(self) -> None:
        """Remove the names with the lifetime "creator" that were created through this place.

        A name that can't be removed does not keep the others from being removed. The next close() tries it again.
        """
        if not self._mine:
            return
        failed: errors.DsmemError | None = None
        try:
            with contextlib.suppress(FileNotFoundError), self._locked():
                for name, inode in list(self._mine):
                    try:
                        self._remove_mine(name, inode)
                    except OSError as error:
                        failed = failed or refused(error, repr(name))
        except OSError as error:
            raise refused(error, f"the names in {self.folder}") from None
        if failed is not None:
            raise failed

    def _remove_mine(self, name: str, inode: int) -> None:
        me = _this_process().identity
        with contextlib.suppress(FileNotFoundError):
            if self._is(self.folder / name, inode, me):
                (self.folder / name).unlink()
            self._mark(me, inode, name).unlink()
        self._mine.discard((name, inode))


def _kind_of(file: _core.File, nbytes: int) -> str:
    try:
        with _core.map_file(file.fileno(), nbytes, "r") as remote:
            return _core.object_type(remote)
    except errors.VersionError:
        return "other version"
    except errors.DsmemError:
        return "corrupt"


os.register_at_fork(after_in_child=_core.forget_locks)
