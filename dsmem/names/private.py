"""The names of a server whose memory no other process of its host may map: a device executes the atomics there.

Words that the atomics of a device change must be changed by nothing else, and those of most devices do not exclude the
processors'. So such names are no files that processes of the host find: they are in a table of the server's process,
and each is a file in memory that only this process has open. They end with it. Processes of its host use them as those
of other hosts do, by the server's address.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
from dataclasses import dataclass, field, replace

from dsmem import _core, errors
from dsmem.memory import Memory, Reference, adopt, object_id
from dsmem.names.base import NameInfo, check_name
from dsmem.names.local import FileKey, key_of, user_name

_PAGE = mmap.PAGESIZE


@dataclass(eq=False)
class _Named:
    """An object that has a name, and its file."""

    file: _core.File
    kind: str
    id: int
    made: float = field(default_factory=time.time)

    @property
    def stat(self) -> os.stat_result:
        return os.fstat(self.file.fileno())


class PrivateNames:
    """The names of one cluster. All methods are called by the server's thread."""

    def __init__(self, cluster: str) -> None:
        self._cluster = check_name(cluster)
        self._objects: dict[str, _Named] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no object has a name."""
        return not self._objects

    def _found(self, name: str) -> _Named:
        found = self._objects.get(check_name(name))
        if found is None:
            text = f"{name!r} in the cluster {self._cluster!r}: no object has this name; 'dsmem ls' lists the names"
            raise errors.NameNotFoundError(text)
        return found

    def attach_file(self, ref: Reference, at_least: int = 0) -> tuple[Memory, FileKey]:
        """Map the object that has the reference's name, if it is the same one.

        It does not grow to at_least bytes: it would be registered with the device twice, and nothing says that atomics
        through two registrations exclude each other.
        """
        of = self._found(ref.name)
        info = of.stat
        if at_least > info.st_size and of.id == ref.id:
            text = f"{ref.name!r} has {info.st_size} bytes and is to have {at_least}"
            raise errors.UnsupportedError(f"{text}; where a device has the atomics nothing grows; make another one")
        remote = _core.map_file(of.file.fileno(), info.st_size)
        return adopt(remote, replace(ref, name=check_name(ref.name))), key_of(info)

    def refuse_taken(self, name: str) -> None:
        """Raise NameExistsError if the name is taken."""
        if check_name(name) in self._objects:
            raise errors.NameExistsError(repr(name))

    def prepare(self, nbytes: int) -> tuple[_core.File, _core.Remote]:
        """Create and map a zeroed file of at least nbytes that has no name. It is gone when both are closed."""
        try:
            file = _core.File(None, 0)
        except OSError as error:
            raise errors.SystemCallError(f"making a file in memory: {error}", sys=error.errno or 0) from None
        try:
            return file, _core.map_file(file.fileno(), _allocate(file.fileno(), nbytes))
        except BaseException:
            file.close()
            raise

    def publish(self, file: _core.File, name: str, mode: int | None) -> None:
        """Give the file its name."""
        if mode is not None:
            raise errors.InvalidArgumentError(f"mode=0o{mode:o}: names in memory of a device have no file mode")
        self.refuse_taken(name)
        try:
            own = _core.File(f"/proc/self/fd/{file.fileno()}", os.O_RDWR)  # the caller closes the other one
        except OSError as error:
            raise errors.SystemCallError(f"opening a file in memory: {error}", sys=error.errno or 0) from None
        with _core.map_file(own.fileno(), os.fstat(own.fileno()).st_size) as remote:
            self._objects[check_name(name)] = _Named(own, _core.object_type(remote), object_id(remote))

    def file_of(self, name: str) -> FileKey | None:
        """Return what identifies the file that has the name; None if there is none."""
        found = self._objects.get(name)
        return None if found is None else key_of(found.stat)

    def infos(self) -> list[NameInfo]:
        """Return all names, sorted."""
        owner = f"{user_name(os.geteuid())} pid {os.getpid()}"
        found = sorted(self._objects.items())
        return [NameInfo(name, of.kind, of.stat.st_size, owner, of.made, "name") for name, of in found]

    def unlink(self, name: str, number: int = 0) -> None:
        """Remove the name; if number is not 0, only that of the object with this id. Mappings stay valid."""
        of = self._found(name)
        if number not in (0, of.id):
            raise errors.NameNotFoundError(f"{name!r} is another object by now")
        del self._objects[name]
        of.file.close()

    def gc(self) -> list[str]:
        """Remove nothing: no name ends with a client."""
        return []

    def close(self) -> None:
        """Remove all names."""
        for name in list(self._objects):
            with contextlib.suppress(errors.DsmemError):
                self.unlink(name)


def _allocate(fd: int, nbytes: int) -> int:
    """Allocate whole pages for at least nbytes, and return their bytes."""
    size = -(-nbytes // _PAGE) * _PAGE
    try:
        if size >= 1 << 62:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        text = f"{nbytes} bytes for an object at this server: {error.strerror}; unlink names that are not needed"
        raise errors.OutOfMemoryError(text, sys=error.errno or 0) from None
    return size
