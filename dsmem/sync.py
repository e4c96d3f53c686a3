"""Locks and other synchronisation between processes, with the methods of :mod:`threading`.

The factories of :class:`dsmem.Cluster` create and find them by name. Waiters sleep. On one host the kernel proves the
death of a process, also in another container that shares /dev/shm: what it held passes to the next waiter, which finds
``recovered`` set. Over tcp it passes on when the owner has cut the holder off. Where that can't be, as on verbs,
waiters time out, and ``break_`` releases what a dead holder held. docs/protocols/lock.md and sync.md specify layouts
and steps, docs/DIFFERENCES.md the differences from threading.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from typing_extensions import Self

from dsmem import _core, errors
from dsmem.memory import Memory, Reference, open_or_leave
from dsmem.names.base import Format
from dsmem.objects import NamedObject, Owner, memory_of

__all__ = [
    "Barrier",
    "Condition",
    "CountingSemaphore",
    "Event",
    "Lock",
    "Once",
    "RLock",
    "RWLock",
    "Semaphore",
    "SpinLock",
]

_MEMBERS = 256
_WAITERS = 256
_MOST = 2**31 - 1  # permits of a counting semaphore
_SHAPE = struct.Struct("<IIQ")  # docs/protocols/lock.md: members, count, lock
_SHAPE_AT = 64


class _Shape:
    """The parameters of an object's layout, which its creator chooses."""

    def __init__(self, remote: _core.Remote) -> None:
        raw = bytearray(_SHAPE.size)
        remote.read(_SHAPE_AT, raw)
        self.members, self.count, self.lock = _SHAPE.unpack(raw)

    def expect(self, name: str, **wanted: int | None) -> None:
        """Raise MismatchError if the object has another number of members, or of what its type counts, than wanted."""
        for what, value in wanted.items():
            found = self.members if what == "members" else self.count
            if value is not None and value != found:
                raise errors.MismatchError(f"{name!r} has {what}={found}, not {value}")


def _layout(kind: str, members: int = 0, count: int = 0, lock: int = 0) -> tuple[int, Format]:
    def write(view: memoryview) -> None:
        _core.sync_format(view, kind, members, count, lock)

    return _core.sync_bytes(kind, members, count), write


def _count(default: int, most: int, **given: Any) -> int:
    """Check a number that the creator of an object may choose; None stands for the default."""
    ((what, value),) = given.items()
    if value is None:
        return default
    number = _core.checked_int(value, 1, most)
    if number is None:
        raise _core.refused(value, int, f"{what}={value!r}: a whole number from 1 to {most}")
    return number


def _members(properties: dict[str, Any], default: int = _MEMBERS) -> int:
    return _count(default, 1024, members=properties["members"])


class _Synchronised(NamedObject):
    """A named object that is also a handle of the core. The handle is closed before the memory."""

    _handle: ClassVar[type[_core.SyncHandle]]
    _kind: ClassVar[str]  # name of the type in the layout
    _checked: ClassVar[str] = ""  # the property that may be given, and is checked, when an existing object is opened

    def __init__(self, memory: Memory, cluster: Owner | None, name: str, *arguments: Any) -> None:
        self._handle.__init__(self, memory.remote, *arguments)  # type: ignore[call-arg]
        NamedObject.__init__(self, memory, cluster, name)

    @classmethod
    def _layout(cls, **properties: Any) -> tuple[int, Format]:
        return _layout(cls._kind, _members(properties))

    @classmethod
    def _open(cls, memory: Memory, cluster: Owner | None, name: str, **properties: Any) -> Self:
        if cls._checked:
            _Shape(memory.remote).expect(name, **{cls._checked: properties.get(cls._checked)})
        return cls(memory, cluster, name, properties.get("spin"))

    def close(self) -> None:
        """Close this handle. The object keeps its name. Closing twice has no effect.

        Raises
        ------
        BusyError
            The handle holds something, or calls are under way in other threads.
        """
        self._handle.close(self)  # type: ignore[arg-type]
        super().close()

    def _state(self) -> str:
        """State for the repr of an object of this host, where reading it takes no round trip."""
        return ""

    def __repr__(self) -> str:
        state = ""
        if not self.closed and self._memory.remote.is_mapped:
            with contextlib.suppress(errors.DsmemError):
                state = self._state()
        return f"{super().__repr__().removesuffix('>')}{' ' * bool(state)}{state}>"


class Lock(_Synchronised, _core.Lock):
    """A lock like :class:`threading.Lock` between processes, made by :meth:`dsmem.Cluster.lock`.

    Attributes
    ----------
    token : int or None
        Fencing token of this handle's grant; None if it does not hold the lock. It grows with every grant, so that a
        resource protected by the lock can refuse a request with a smaller token than it has seen.
    recovered : bool
        Whether the previous holder died while it held the lock, so that what it protects may be half changed.

    Notes
    -----
    Not re-entrant, and not fair: a later caller may get the lock before a waiter. Any thread of the process may release
    it. A handle that holds the lock can't be closed, unless a release has failed because the memory is out of reach:
    then ``close()`` leaves the lock held, for ``break_``. If a handle that holds is garbage-collected, that counts as
    the holder's death.

    References
    ----------
    Fencing tokens: M. Kleppmann, "How to do distributed locking", 2016.

    Examples
    --------
    >>> lock = cluster.lock("table.lock", create=None)
    >>> with lock:
    ...     if lock.recovered:
    ...         repair(table)
    ...     table.write(0, 7)
    """

    _handle = _core.Lock
    _checked = "members"
    _kind = "lock"
    __enter__ = _core.Lock.__enter__  # type: ignore[assignment]
    __exit__ = _core.Lock.__exit__

    def _state(self) -> str:
        return "locked" if self.locked() else "unlocked"


class SpinLock(Lock):
    """A :class:`Lock` whose waiters poll: continuously for ``spin`` seconds, then with a backoff of up to 1 ms.

    A release is one compare-and-swap and never a system call. Use it for critical sections of a few microseconds at
    most. :meth:`dsmem.Cluster.spinlock` makes one.
    """

    _kind = "spinlock"

    def acquire_async(self, timeout: float | None = None) -> NoReturn:
        """Not supported: a spinlock is held for less time than a turn of an event loop takes.

        Parameters
        ----------
        timeout : float, optional
            Ignored.

        Raises
        ------
        UnsupportedError
            Always.
        """
        raise errors.UnsupportedError("a spinlock is held for too short a time to await it; use a lock")

    def release_async(self) -> NoReturn:
        """Not supported, as :meth:`acquire_async` is not: raises UnsupportedError."""
        self.acquire_async()

    def __aenter__(self) -> NoReturn:
        self.acquire_async()


class RLock(_Synchronised, _core.RLock):
    """A lock like :class:`threading.RLock` between processes, made by :meth:`dsmem.Cluster.rlock`.

    The thread that holds it may acquire it again with the same handle, and must release it as many times. No other
    thread may release it. Another handle in the same process counts as another process.

    Attributes
    ----------
    token : int or None
        As of :class:`Lock`.
    recovered : bool
        As of :class:`Lock`.
    """

    _handle = _core.RLock
    _checked = "members"
    _kind = "rlock"
    __enter__ = _core.Lock.__enter__  # type: ignore[assignment]
    __exit__ = _core.Lock.__exit__

    def _state(self) -> str:
        return "locked" if self.locked() else "unlocked"


class RWLock(_Synchronised, _core.RWLock):
    """A lock for many readers or one writer, made by :meth:`dsmem.Cluster.rwlock`.

    Use ``with rw.read():`` and ``with rw.write():``, or the acquire and release methods.

    Attributes
    ----------
    token : int or None
        Fencing token of this handle's grant for writing; None if it does not hold one.
    recovered : bool
        Whether the last writer died while it held the lock. It is set for readers, too, until another writer has
        released the lock.

    Notes
    -----
    A writer whose turn it is keeps new readers out while it waits for the readers that hold the lock. So a reader must
    not acquire the lock again, for reading or writing. On one host dead readers and writers do not block others.

    Examples
    --------
    >>> with rwlock.read(timeout=1):
    ...     rows = table.read()
    """

    _handle = _core.RWLock
    _kind = "rwlock"
    _checked = "members"

    def __enter__(self) -> NoReturn:
        raise errors.ArgumentTypeError("a lock of two kinds: use 'with lock.read():' or 'with lock.write():'")

    def _state(self) -> str:
        return "" if self.token is None else "writing"


class Semaphore(_Synchronised, _core.Semaphore):
    """Permits, each with an owner, like :class:`threading.BoundedSemaphore`, made by :meth:`dsmem.Cluster.semaphore`.

    Attributes
    ----------
    value : int
        Number of free permits.
    held : int
        Number of permits that this handle has.
    recovered : bool
        Whether the permit that this handle acquired last came from a process that died.

    Notes
    -----
    A permit is released with the handle that acquired it, by any thread. To signal another process use an event, a
    condition or a queue. The permits of a dead process become free.
    """

    _handle = _core.Semaphore
    _checked = "n"
    __enter__ = _core.Semaphore.__enter__  # type: ignore[assignment]
    __exit__ = _core.Semaphore.__exit__

    def _state(self) -> str:
        return f"value={self.value}"

    @classmethod
    def _layout(cls, **properties: Any) -> tuple[int, Format]:
        return _layout("semaphore", count=_count(1, 4096, n=properties["n"]))


class CountingSemaphore(_Synchronised, _core.CountingSemaphore):
    """Permits without owners, like :class:`threading.Semaphore`: ``cluster.semaphore(name, n, owned=False)`` makes one.

    A process may release what another one acquired, and more permits than there were initially, so that a release can
    signal work. The permits of a dead process are lost.

    Attributes
    ----------
    value : int
        Number of free permits.
    """

    _handle = _core.CountingSemaphore
    _checked = "n"
    __enter__ = _core.CountingSemaphore.__enter__  # type: ignore[assignment]
    __exit__ = _core.CountingSemaphore.__exit__

    def _state(self) -> str:
        return f"value={self.value}"

    @classmethod
    def _layout(cls, **properties: Any) -> tuple[int, Format]:
        n = 1 if properties["n"] is None else _core.checked_int(properties["n"], 0, _MOST)
        if n is None:
            raise _core.refused(properties["n"], int, f"n={properties['n']!r}: a whole number from 0 to {_MOST}")
        return _layout("counting_semaphore", count=n)


class Event(_Synchronised, _core.Event):
    """A flag that processes wait for, like :class:`threading.Event`, made by :meth:`dsmem.Cluster.event`.

    Notes
    -----
    A waiter also returns if the flag was set and cleared again while it slept. An event has no owner: the death of a
    process does not change it.
    """

    _handle = _core.Event

    def _state(self) -> str:
        return "set" if self.is_set() else "unset"

    @classmethod
    def _layout(cls, **properties: Any) -> tuple[int, Format]:
        return _layout("event")


class Condition(_Synchronised, _core.Condition):
    """A condition like :class:`threading.Condition`, made by :meth:`dsmem.Cluster.condition`.

    It is associated with a private lock, or with the :class:`Lock` or :class:`RLock` with which it was created. Several
    conditions may share one lock. A condition has the methods and attributes of its lock. wait() releases a re-entrant
    lock completely, and then acquires it as many times as before.

    Notes
    -----
    notify(n) wakes the n waiters that have waited longest. The notification of a process that dies before it returns
    from wait() passes to another waiter. If the lock's holder died, ``recovered`` is set after wait(), too.

    Examples
    --------
    >>> with condition:
    ...     condition.wait_for(lambda: counter[0] > 0, timeout=10)
    """

    _handle = _core.Condition
    __enter__ = _core.Condition.__enter__  # type: ignore[assignment]
    __exit__ = _core.Condition.__exit__

    def __init__(
        self, memory: Memory, cluster: Owner | None, name: str, lock: Lock | RLock | None, spin: float | None
    ) -> None:
        super().__init__(memory, cluster, name, lock, spin)
        self._lock = lock

    def _state(self) -> str:
        return "locked" if self.locked() else "unlocked"

    @classmethod
    def _layout(cls, **properties: Any) -> tuple[int, Format]:
        lock = properties["lock"]
        if lock is not None and not isinstance(lock, (Lock, RLock)):
            raise errors.ArgumentTypeError(f"lock={lock!r}: what Cluster.lock(), rlock() or spinlock() returns")
        return _layout(
            "condition",
            _members(properties),
            _count(_WAITERS, 1024, waiters=properties["waiters"]),
            0 if lock is None else lock.ref.id,
        )

    @classmethod
    def _open(cls, memory: Memory, cluster: Owner | None, name: str, **properties: Any) -> Self:
        shape = _Shape(memory.remote)
        lock = properties.get("lock")
        shape.expect(name, members=properties.get("members"), waiters=properties.get("waiters"))
        if shape.lock != (0 if lock is None else lock.ref.id):
            given = "" if lock is None else f", not {lock.name!r}"
            raise errors.MismatchError(
                f"{name!r} is associated with {'another lock' if shape.lock else 'its own lock'}{given}"
            )
        return cls(memory, cluster, name, lock, properties.get("spin"))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self._lock is None:
            return super().__reduce__()
        return _attach_condition, (self.ref, self._lock)


def _attach_condition(ref: Reference, lock: Lock) -> Condition:
    """Attach to a condition with the handle of its lock that was pickled with it."""
    return open_or_leave(lambda memory: Condition._open(memory, None, ref.name, lock=lock), memory_of(ref))


class Barrier(_Synchronised, _core.Barrier):
    """A barrier like :class:`threading.Barrier`, made by :meth:`dsmem.Cluster.barrier`.

    Notes
    -----
    If a party dies in wait(), or in its action, the barrier breaks for the others within about 50 ms. The action and
    the default timeout belong to this handle, and are pickled with it (the action by its name, as functions are). Only
    the action of the party that arrives last is run.
    """

    _handle = _core.Barrier

    def __init__(self, memory: Memory, cluster: Owner | None, name: str, **how: Any) -> None:
        super().__init__(memory, cluster, name, how.get("action"), how.get("timeout"), how.get("spin"))
        self._own = {what: how[what] for what in ("action", "timeout", "spin") if how.get(what) is not None}

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (_attach_barrier, (self.ref, self._own)) if self._own else super().__reduce__()

    def _state(self) -> str:
        return f"waiters={self.n_waiting}/{self.parties}{' broken' * self.broken}"

    @classmethod
    def _layout(cls, **properties: Any) -> tuple[int, Format]:
        if properties["parties"] is None:
            raise errors.InvalidArgumentError("a barrier that is made needs its number of parties")
        parties = _count(0, 1024, parties=properties["parties"])
        return _layout("barrier", _members(properties, max(_MEMBERS, parties)), parties)

    @classmethod
    def _open(cls, memory: Memory, cluster: Owner | None, name: str, **properties: Any) -> Self:
        shape = _Shape(memory.remote)
        shape.expect(name, parties=properties.pop("parties", None), members=properties.pop("members", None))
        return cls(memory, cluster, name, **properties)


def _attach_barrier(ref: Reference, own: dict[str, Any]) -> Barrier:
    """Attach to a barrier with the action, default timeout and spin time of the handle that was pickled."""
    return open_or_leave(lambda memory: Barrier._open(memory, None, ref.name, **own), memory_of(ref))


class Once(_Synchronised, _core.Once):
    """A task that one process does while the others wait, made by :meth:`dsmem.Cluster.once`.

    If the task raises, or its process dies, one of the waiting processes does it. ``recovered`` is set after a death.

    Examples
    --------
    >>> with cluster.once("load", create=None) as first:
    ...     if first:
    ...         load(table)
    """

    _handle = _core.Once
    _kind = "once"
    _checked = "members"
    __enter__ = _core.Once.__enter__  # type: ignore[assignment]
    __exit__ = _core.Once.__exit__  # type: ignore[assignment]

    def _state(self) -> str:
        return "done" if self.done else "not done"
