"""The memory of an object, local or remote, and the reference with which other processes find it."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from typing_extensions import Self

from dsmem import _core, errors, leaving

# docs/protocols/objects.md
_ID_OFFSET = 24
MADE_OFFSET = 32
MADE = struct.Struct("<QQ")  # time of creation, identity of the creator or 0

_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}
_SIZE = re.compile(r"(\d{1,15})\s*(?:([KMGT])(?:iB)?)?", re.ASCII)


def bytes_of(text: str) -> int | None:
    """Return the number of bytes that a text such as "4096", "64MiB" or "4G" says; None if it says none."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    return int(found[1]) << (_UNITS[found[2]] if found[2] else 0)


class Closable(Protocol):
    """An object that can be closed."""

    def close(self) -> None:
        """Close the object."""


Opened = TypeVar("Opened", bound=Closable)


@dataclass(frozen=True)
class Reference:
    """Small and picklable: with it :func:`dsmem.attach` finds an object from another process.

    An object's ``ref`` is a reference; there is no need to construct one.

    Attributes
    ----------
    kind : str
        "segment", "queue", "lock" and so on.
    name : str
        The object's name. That of a hosted object is used in messages only.
    id : int
        The object's random number, so that a reference never leads to a later object of the same name.
    owner : int
        Number of the user that owns the cluster; -1 for a hosted object.
    cluster : str
        Name of the cluster; empty for a hosted object.
    descriptor : bytes
        Descriptor of the region that a hosted object is in; empty for an object of this host.
    readonly : bool
        Whether to attach without the right to change the object.
    copies : tuple of bytes
        Descriptors of the other copies of a store that has several.
    coordinator : str
        Address of the cluster whose coordinator says where the copies are; empty if none does.
    """

    kind: str
    name: str
    id: int
    owner: int = -1
    cluster: str = ""
    descriptor: bytes = b""
    readonly: bool = False
    copies: tuple[bytes, ...] = ()
    coordinator: str = ""


class Memory:
    """The memory of one object, as held by one handle.

    Parameters
    ----------
    remote : Remote
        The memory, mapped or reached through an endpoint. All accesses that may race with those of other processes go
        through it, in the owner's process too, so that atomics are those of the fabric.
    ref : Reference
        Reference for other processes.
    region : Region, optional
        The region, if this process owns the memory.
    release : callable, optional
        Called after the remote is closed.
    extend : callable, optional
        Returns another memory of the same object, with at least as many bytes as its first argument says; if its
        second one is True, it makes the object longer if necessary. For an object that may grow, but is no file here.
    """

    def __init__(
        self,
        remote: _core.Remote,
        ref: Reference,
        region: _core.Region | None = None,
        release: Callable[[], None] | None = None,
        extend: Callable[[int, bool], Memory] | None = None,
    ) -> None:
        self.remote = remote
        self.region = region
        self.ref = ref
        self.extend = extend
        self._release = release

    @property
    def may_grow(self) -> bool:
        """Whether the object can become longer than its memory is."""
        return bool(self.ref.cluster) or self.extend is not None

    @property
    def nbytes(self) -> int:
        """Length in bytes, as the system rounds it up."""
        return self.remote.nbytes

    @property
    def view(self) -> memoryview | None:
        """View of all of it, or None if it is not mapped here; read-only if the handle is. It blocks :meth:`close`."""
        if not self.remote.is_mapped and self.region is None:
            return None
        whole = memoryview(self.remote if self.remote.is_mapped else self.region)  # type: ignore[arg-type]
        return whole.toreadonly() if self.ref.readonly else whole

    @property
    def closed(self) -> bool:
        """Whether the memory was closed."""
        return self.remote.closed

    def close(self) -> None:
        """Close the memory. Closing twice has no effect.

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
        """Detach from the memory. It is unmapped with its last view."""
        self.remote.detach()
        release, self._release = self._release, None
        if release is not None:
            with contextlib.suppress(errors.BusyError):  # the region has a view, and is closed with its context
                release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.close()
        except errors.DsmemError as failed:
            if not errors.is_noted(error, failed):
                raise


def object_id(memory: _core.Remote | memoryview | bytes) -> int:
    """Return the random number of the object in the memory. :func:`check_kind` must have accepted it."""
    raw = bytearray(8)
    if isinstance(memory, _core.Remote):
        memory.read(_ID_OFFSET, raw)
    else:
        raw[:] = memory[_ID_OFFSET : _ID_OFFSET + 8]
    number: int = struct.unpack("<Q", raw)[0]
    return number


def check_kind(remote: _core.Remote, kind: str, name: str) -> None:
    """Check that the memory holds an object of this kind.

    Raises
    ------
    CorruptError, VersionError
        The memory holds no object, or one of another release.
    MismatchError
        The object is of another kind.
    """
    try:
        found = _core.object_type(remote)
    except (errors.CorruptError, errors.VersionError) as error:
        raise type(error)(f"{name!r}: {error.detail}") from None
    if found != kind:
        raise errors.MismatchError(f"{name!r} is a {found}, not a {kind}")


def adopt(
    remote: _core.Remote,
    ref: Reference,
    region: _core.Region | None = None,
    release: Callable[[], None] | None = None,
) -> Memory:
    """Make a Memory of a remote that was just attached, after checking that it holds what the reference names.

    Parameters
    ----------
    remote : Remote
        Detached if the check fails.
    ref : Reference
        Reference to the object; its id 0 stands for any.
    region, release
        As of :class:`Memory`. ``release`` is not called if the check fails.

    Raises
    ------
    CorruptError, VersionError, MismatchError
        As :func:`check_kind`.
    StaleDescriptorError
        The object has another id.
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
    """Open the object in the memory. On failure the memory is detached: at once, or with the last handle on it."""
    try:
        with leaving.opening():
            return open_(memory)
    except BaseException:
        with contextlib.suppress(errors.DsmemError):
            memory.detach()
        raise
