"""Locks and what else processes wait on, under names: the methods of :mod:`threading`, and they survive their users.

Waiters sleep. On one host a process that dies is found out by its pid and start time: what it held goes to the next
waiter, with the news (``recovered``). Where the memory is far (a hosted object of another host) nobody is taken for
dead, so waiters run out of time. docs/protocols/lock.md and sync.md have the bytes and the steps.
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar

from typing_extensions import Self

from dsmem import _core, errors
from dsmem.cluster.names import Format
from dsmem.memory import Memory
from dsmem.node import Cluster, NamedObject

__all__ = ["Lock", "SpinLock"]

_MEMBERS = 256
_SHAPE = struct.Struct("<IIQ")  # docs/protocols/lock.md: members, count, lock
_SHAPE_AT = 64


class _Shape:
    """What of an object's layout its creator chooses."""

    def __init__(self, remote: _core.Remote) -> None:
        raw = bytearray(_SHAPE.size)
        remote.read(_SHAPE_AT, raw)
        self.members, self.count, self.lock = _SHAPE.unpack(raw)

    def expect(self, name: str, **wanted: int | None) -> None:
        """Raise MismatchError where one of members, count and lock is wanted and another one is found."""
        for what, value in wanted.items():
            found = getattr(self, "count" if what not in ("members", "lock") else what)
            if value is not None and value != found:
                raise errors.MismatchError(f"{name!r} has {what}={found}, not {value}")


def _layout(kind: str, members: int = 0, count: int = 0, lock: int = 0) -> tuple[int, Format]:
    def write(view: memoryview) -> None:
        _core.sync_format(view, kind, members, count, lock)

    return _core.sync_bytes(kind, members, count), write


class _Synchronised(NamedObject):
    """A named object with a handle of the core, which is closed before the memory."""

    _handle: ClassVar[type[_core.SyncHandle]]

    def close(self) -> None:
        """Leave the object, which stays under its name; again does nothing.

        Raises
        ------
        BusyError
            It is held with this handle, or calls are under way in other threads.
        """
        self._handle.close(self)  # type: ignore[arg-type]
        super().close()


class Lock(_Synchronised, _core.Lock):
    """A lock like :class:`threading.Lock` between processes, made by :meth:`dsmem.Cluster.lock`.

    Attributes
    ----------
    token : int or None
        The fencing token of the grant that this handle has: it grows with every grant of the lock, to whomever. What
        the lock protects can refuse who comes with a smaller token than it has seen. None: nothing is held.
    recovered : bool
        Whether the holder before died with the lock, so that what it protects may be half changed. Of this grant.

    Notes
    -----
    Not re-entrant. Any thread of the process may release it. Not fair: a newcomer may take it before a waiter. Closing
    a handle that holds the lock is refused; a handle that is dropped with it counts as a holder that died.
    """

    _handle = _core.Lock
    _kind: ClassVar[str] = "lock"
    __enter__ = _core.Lock.__enter__  # type: ignore[assignment]
    __exit__ = _core.Lock.__exit__

    def __init__(self, memory: Memory, cluster: Cluster | None, name: str, spin: float | None) -> None:
        _core.Lock.__init__(self, memory.remote, spin)
        NamedObject.__init__(self, memory, cluster, name)

    @classmethod
    def _layout(cls, **properties: Any) -> tuple[int, Format]:
        members = properties["members"]
        return _layout(cls._kind, _MEMBERS if members is None else members)

    @classmethod
    def _open(
        cls,
        memory: Memory,
        cluster: Cluster | None,
        name: str,
        members: int | None = None,
        spin: float | None = None,
        **properties: Any,
    ) -> Self:
        _Shape(memory.remote).expect(name, members=members)
        return cls(memory, cluster, name, spin)


class SpinLock(Lock):
    """A :class:`Lock` whose waiters do not sleep on a futex: they look for spin seconds, then after pauses up to 1 ms.

    A release costs one compare-swap and no look at who waits. For sections of less than a few microseconds.
    """

    _kind = "spinlock"
