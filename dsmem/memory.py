"""What an object stands on: memory that is local or remote, and the reference with which others find it."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from typing_extensions import Self

from dsmem import _core, errors, leaving

_ID_OFFSET = 24  # docs/protocols/objects.md


class Closable(Protocol):
    """What is opened and closed again."""

    def close(self) -> None:
        """Leave it."""


Opened = TypeVar("Opened", bound=Closable)


@dataclass(frozen=True)
class Reference:
    """How another process finds an object: small and picklable. :func:`dsmem.attach` takes it.

    An object's ``ref`` is one; there is no need to build it.

    Attributes
    ----------
    kind : str
        "segment", "queue", "lock" and so on.
    name : str
        The object's name; of a hosted object, for messages only.
    id : int
        The object's random number, so that a reference never leads to a later object of the same name.
    owner : int
        Number of the user whose cluster it is in; -1 for a hosted object.
    cluster : str
        Name of the cluster; empty for a hosted object.
    descriptor : bytes
        Of the region that a hosted object is in; empty for an object of this host.
    readonly : bool
        Whether it attaches without the right to change the object.
    """

    kind: str
    name: str
    id: int
    owner: int = -1
    cluster: str = ""
    descriptor: bytes = b""
    readonly: bool = False


class Memory:
    """The memory of one object, as one handle holds it.

    Parameters
    ----------
    remote : Remote
        Local or remote. All that may race with others goes through it, in the owner's process too, so that atomics take
        the way of the fabric.
    ref : Reference
        How others find it.
    region : Region, optional
        Where this process owns the memory.
    release : callable, optional
        What to do after the remote has been closed.
    """

    def __init__(
        self,
        remote: _core.Remote,
        ref: Reference,
        region: _core.Region | None = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        self.remote = remote
        self.region = region
        self.ref = ref
        self._release = release

    @property
    def nbytes(self) -> int:
        """Bytes, rounded up to what the system gives."""
        return self.remote.nbytes

    @property
    def view(self) -> memoryview | None:
        """All of it, where it is mapped in this process; read-only as the handle is. It blocks :meth:`close`."""
        if not self.remote.is_mapped and self.region is None:
            return None
        whole = memoryview(self.remote if self.remote.is_mapped else self.region)  # type: ignore[arg-type]
        return whole.toreadonly() if self.ref.readonly else whole

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self.remote.closed

    def close(self) -> None:
        """Leave the memory; again does nothing.

        Raises
        ------
        BusyError
            There are views, or calls are under way in other threads.
        """
        self.remote.close()
        release, self._release = self._release, None
        if release is not None:
            release()

    def detach(self) -> None:
        """Leave the memory, which is unmapped with the last view of it."""
        self.remote.detach()
        release, self._release = self._release, None
        if release is not None:
            with contextlib.suppress(errors.BusyError):  # a view of the region, which then goes with its context
                release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def object_id(memory: _core.Remote | memoryview | bytes) -> int:
    """The random number of the object in the memory, which :func:`check_kind` has approved."""
    raw = bytearray(8)
    if isinstance(memory, _core.Remote):
        memory.read(_ID_OFFSET, raw)
    else:
        raw[:] = memory[_ID_OFFSET : _ID_OFFSET + 8]
    number: int = struct.unpack("<Q", raw)[0]
    return number


def check_kind(remote: _core.Remote, kind: str, name: str) -> None:
    """Refuse memory that holds no object, or one of another kind.

    Raises
    ------
    CorruptError, VersionError
        No object, or one of another release.
    MismatchError
        Another kind.
    """
    found = _core.object_type(remote)
    if found != kind:
        raise errors.MismatchError(f"{name!r} is a {found}, not a {kind}")


def adopt(
    remote: _core.Remote,
    ref: Reference,
    region: _core.Region | None = None,
    release: Callable[[], None] | None = None,
) -> Memory:
    """Memory on a remote that was just attached, once what it holds is as the reference says.

    Parameters
    ----------
    remote : Remote
        Closed when it is refused.
    ref : Reference
        Its id 0 stands for any.
    region, release
        As of :class:`Memory`; release is not called when it is refused.

    Raises
    ------
    CorruptError, VersionError, MismatchError
        As :func:`check_kind`.
    StaleDescriptorError
        The id is another one.
    """
    try:
        check_kind(remote, ref.kind, ref.name)
        found = object_id(remote)
        if ref.id not in (0, found):
            raise errors.StaleDescriptorError(f"{ref.name!r} has been made again since the reference was taken")
    except BaseException:
        remote.detach()
        raise
    return Memory(remote, replace(ref, id=found), region, release)


def open_or_leave(open_: Callable[[Memory], Opened], memory: Memory) -> Opened:
    """The object in the memory, which is left when it can't be opened: at once, or with the last handle on it."""
    try:
        with leaving.opening():
            return open_(memory)
    except BaseException:
        with contextlib.suppress(errors.DsmemError):
            memory.detach()
        raise
