"""Clusters: where objects have names, and how they are found again.

``dsmem.connect()`` without an argument is the cluster "default" of this user on this host: no server, no configuration.
``dsmem.connect(context=ctx)`` hosts objects in memory of a context, which other hosts reach by their references.
"""

from __future__ import annotations

import builtins
import itertools
import os
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, overload

from typing_extensions import Self

from dsmem import _core, errors
from dsmem.cluster.hosted import HostedNames
from dsmem.cluster.local import LocalNames, user_number
from dsmem.cluster.names import Format, Lifetime, NameInfo, Names, check_name
from dsmem.cluster.objects import (
    NamedObject,
    attach,
    class_of,
    grown,
    memory_of,
    quiet_after,
)
from dsmem.memory import Memory, Opened, open_or_leave

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from dsmem import sync
    from dsmem.clock import SharedClock
    from dsmem.queue import Queue
    from dsmem.segment import Segment

__all__ = ["Cluster", "NamedObject", "attach", "connect", "grown", "memory_of"]


def _laid_out(layout: Callable[[], tuple[int, Format]]) -> tuple[int, Format]:
    found = layout()
    if not isinstance(found, tuple) or len(found) != 2:
        raise errors.ArgumentTypeError(f"layout={layout!r:.80} returned {found!r:.80}; return bytes and a function")
    return found


class Cluster:
    """A place of names. Made by :func:`connect`.

    All factory methods have one convention: ``create=False`` attaches to what has the name or raises NameNotFoundError
    (a FileNotFoundError), ``create=True`` makes it or raises NameExistsError (a FileExistsError), ``create=None`` takes
    what is there or makes it. What is there but differs from what is asked for raises MismatchError, which says both.
    Names have 1 to 200 letters, digits or any of ``. _ - +`` and begin with a letter or digit. ``mode`` is the file
    mode of a name that is made. ``lifetime="creator"`` lets it go when this cluster is closed or its process ends;
    otherwise it stays until it is unlinked. With ``create=False, timeout=5`` a name that is not there yet is waited
    for, so many seconds (not that of a barrier, whose timeout is another one).

    Notes
    -----
    May be used from any thread. Close it, or use it in a ``with`` statement; what was opened through it is closed, too.
    """

    def __new__(cls, *args: Any) -> Self:
        """Say what is to be called instead."""
        if len(args) != 2 or not hasattr(args[0], "infos"):
            raise errors.ArgumentTypeError("Cluster is not called: dsmem.connect() makes one")
        return super().__new__(cls)

    def __init__(self, names: Names, name: str) -> None:
        self._names = names
        self._name = name
        self._closed = False
        self._children: weakref.WeakValueDictionary[int, NamedObject] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self._name

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def list(self) -> builtins.list[NameInfo]:
        """All names.

        Returns
        -------
        list of NameInfo
            name, kind, nbytes, owner, created and lifetime of each, sorted by name.
        """
        return self._open_names().infos()

    def unlink(self, name: str) -> None:
        """Remove a name. Who is attached goes on using the memory, which is freed after the last of them.

        Raises
        ------
        NameNotFoundError
            There is no such name.
        AccessDeniedError
            Names in this cluster are others' to remove.
        """
        self._open_names().unlink(name)

    def gc(self) -> builtins.list[str]:
        """Remove names that were to go with their creators, which are dead.

        Returns
        -------
        list of str
            Those names.
        """
        return self._open_names().gc()

    def close(self) -> None:
        """Close the objects that were opened through it, and end the names that go with it; again does nothing.

        Those are the names of a hosted cluster, and those made through this one with ``lifetime="creator"``.

        Raises
        ------
        BusyError
            Some of them, of which this is the first, have views, or calls are under way in other threads. The others
            are closed. Close again when those are gone.
        """
        self._close(lambda child: child.close())

    def _adopt(self, child: NamedObject) -> None:
        """It is closed with the cluster, before those that were opened before it: an object may stand on an older."""
        self._children[next(self._numbers)] = child

    def _close(self, leave: Callable[[NamedObject], None]) -> None:
        failed: errors.DsmemError | None = None
        for child in reversed(builtins.list(self._children.values())):
            try:
                leave(child)
            except errors.DsmemError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        if not self._closed:
            self._names.close()
            self._closed = True

    def __enter__(self) -> Self:
        self._open_names()
        return self

    def __exit__(self, *error: object) -> None:
        with quiet_after(error[0] if error else None):
            self._close(lambda child: child._leave())

    def __reduce__(self) -> Any:
        text = "a cluster can't be pickled or copied: its close() ends names and objects that are this one's"
        raise errors.ArgumentTypeError(f"{text}; call dsmem.connect({self._name!r}) there, or pass an object's .ref")

    def __repr__(self) -> str:
        return f"<Cluster {self._name!r} in {self._names}{' closed' if self._closed else ''}>"

    # -- objects --

    def queue(
        self,
        name: str,
        *,
        capacity_bytes: int | None = None,
        producers: Literal["one", "many"] | int | None = None,
        consumers: Literal["one", "many"] | None = None,
        max_message: int | None = None,
        drop_oldest: bool | None = None,
        create: bool | None = False,
        mode: int | None = None,
        lifetime: Lifetime = "name",
        timeout: float | None = None,
        spin: float | None = None,
    ) -> Queue:
        """A queue of messages.

        Parameters
        ----------
        name : str
            Its name.
        capacity_bytes : int, optional
            Of each producer's lane, rounded up to a power of 2; 1 MiB. A message takes its length and 8 bytes, rounded
            up to 8 (16, where producers are afar).
        producers : "one", "many" or int, optional
            How many there may be at a time, each with a lane of its own; "many": 16.
        consumers : "one" or "many", optional
            Many only between processes of one host.
        max_message : int, optional
            Bytes; less than half of capacity_bytes, a quarter by default.
        drop_oldest : bool, optional
            A put() that finds no room throws away the oldest message of its lane, and counts it.
        create, mode, lifetime, timeout
            As for every object.
        spin : float, optional
            Seconds that a call of this handle polls before it sleeps.

        Returns
        -------
        Queue

        Raises
        ------
        MismatchError
            The queue exists with other properties than those that are given.
        """
        said = {
            "capacity_bytes": capacity_bytes,
            "producers": producers,
            "consumers": consumers,
            "max_message": max_message,
            "drop_oldest": drop_oldest,
            "checked": not self._open_names().is_near,
            "spin": spin,
        }
        made: Queue = self._object("queue", name, said, create=create, mode=mode, lifetime=lifetime, wait=timeout)
        return made

    # -- synchronisation (dsmem.sync) --

    def lock(
        self,
        name: str,
        *,
        create: bool | None = False,
        members: int | None = None,
        spin: float | None = None,
        mode: int | None = None,
        lifetime: Lifetime = "name",
        timeout: float | None = None,
    ) -> sync.Lock:
        """A lock between processes.

        Parameters
        ----------
        name, create, mode, lifetime, timeout
            As for all objects of a cluster.
        members : int, optional
            How many handles can be open at a time, 1 to 1024; 256 by default.
        spin : float, optional
            Seconds that a waiter looks before it sleeps; 1 µs by default, 0 on one core.

        Returns
        -------
        dsmem.sync.Lock

        Raises
        ------
        NameNotFoundError, NameExistsError, MismatchError
            By the convention of all objects.
        TooManyMembersError
            All members live.
        """
        said = {"members": members, "spin": spin}
        made: sync.Lock = self._object("lock", name, said, create=create, mode=mode, lifetime=lifetime, wait=timeout)
        return made

    def spinlock(
        self,
        name: str,
        *,
        create: bool | None = False,
        members: int | None = None,
        spin: float | None = None,
        mode: int | None = None,
        lifetime: Lifetime = "name",
        timeout: float | None = None,
    ) -> sync.SpinLock:
        """A lock whose waiters do not sleep on a futex; parameters and errors as of :meth:`lock`."""
        said = {"members": members, "spin": spin}
        made: sync.SpinLock = self._object(
            "spinlock", name, said, create=create, mode=mode, lifetime=lifetime, wait=timeout
        )
        return made

    def rlock(
        self,
        name: str,
        *,
        create: bool | None = False,
        members: int | None = None,
        spin: float | None = None,
        mode: int | None = None,
        lifetime: Lifetime = "name",
        timeout: float | None = None,
    ) -> sync.RLock:
        """A lock that the thread that has it may acquire again; parameters and errors as of :meth:`lock`."""
        given = {"members": members, "spin": spin}
        made: sync.RLock = self._object("rlock", name, given, create=create, mode=mode, lifetime=lifetime, wait=timeout)
        return made

    def rwlock(
        self,
        name: str,
        *,
        members: int | None = None,
        create: bool | None = False,
        spin: float | None = None,
        mode: int | None = None,
        lifetime: Lifetime = "name",
        timeout: float | None = None,
    ) -> sync.RWLock:
        """A lock for many readers or one writer; parameters and errors as of :meth:`lock`."""
        said = {"members": members, "spin": spin}
        made: sync.RWLock = self._object(
            "rwlock", name, said, create=create, mode=mode, lifetime=lifetime, wait=timeout
        )
        return made

    @overload
    def semaphore(
        self,
        name: str,
        n: int | None = None,
        *,
        owned: Literal[True] = True,
        create: bool | None = False,
        spin: float | None = None,
        mode: int | None = None,
        lifetime: Lifetime = "name",
        timeout: float | None = None,
    ) -> sync.Semaphore: ...

    @overload
    def semaphore(
        self,
        name: str,
        n: int | None = None,
        *,
        owned: Literal[False],
        create: bool | None = False,
        spin: float | None = None,
        mode: int | None = None,
        lifetime: Lifetime = "name",
        timeout: float | None = None,
    ) -> sync.CountingSemaphore: ...

    def semaphore(
        self,
        name: str,
        n: int | None = None,
        *,
        owned: bool = True,
        create: bool | None = False,
        spin: float | None = None,
        mode: int | None = None,
        lifetime: Lifetime = "name",
        timeout: float | None = None,
    ) -> Any:
        """Permits that processes acquire and release.

        Parameters
        ----------
        n : int, optional
            How many there are, 1 to 4096; 1 by default. Not owned: 0 to 2147483647.
        owned : bool
            A permit is released with the handle that acquired it, and comes back when its process dies. False: permits
            are only counted, so that one process can release what another one acquires, and those of the dead are lost.
        name, create, spin, mode, lifetime, timeout
            As of :meth:`lock`.

        Returns
        -------
        dsmem.sync.Semaphore or dsmem.sync.CountingSemaphore

        Raises
        ------
        NameNotFoundError, NameExistsError, MismatchError
            By the convention of all objects.
        """
        given = {"n": n, "spin": spin}
        kind = "semaphore" if _core.as_bool(owned, "owned") else "counting_semaphore"
        return self._object(kind, name, given, create=create, mode=mode, lifetime=lifetime, wait=timeout)

    def event(
        self,
        name: str,
        *,
        create: bool | None = False,
        spin: float | None = None,
        mode: int | None = None,
        lifetime: Lifetime = "name",
        timeout: float | None = None,
    ) -> sync.Event:
        """A flag to wait for; parameters and errors as of :meth:`lock`."""
        said = {"spin": spin}
        made: sync.Event = self._object("event", name, said, create=create, mode=mode, lifetime=lifetime, wait=timeout)
        return made

    def condition(
        self,
        name: str,
        lock: sync.Lock | sync.RLock | None = None,
        *,
        members: int | None = None,
        waiters: int | None = None,
        create: bool | None = False,
        spin: float | None = None,
        mode: int | None = None,
        lifetime: Lifetime = "name",
        timeout: float | None = None,
    ) -> sync.Condition:
        """A condition, to wait under a lock until another process notifies.

        Parameters
        ----------
        lock : dsmem.sync.Lock or dsmem.sync.RLock, optional
            The lock that it goes with, here and wherever it is opened; by default one of its own, which is re-entrant.
        members, waiters : int, optional
            How many handles can be open, and how many threads can wait, at a time: 1 to 1024; 256 by default.
        name, create, spin, mode, lifetime, timeout
            As of :meth:`lock`.

        Returns
        -------
        dsmem.sync.Condition

        Raises
        ------
        MismatchError
            It goes with another lock.
        NameNotFoundError, NameExistsError, TooManyMembersError
            As of :meth:`lock`.
        """
        said = {"lock": lock, "members": members, "waiters": waiters, "spin": spin}
        made: sync.Condition = self._object(
            "condition", name, said, create=create, mode=mode, lifetime=lifetime, wait=timeout
        )
        return made

    def barrier(
        self,
        name: str,
        parties: int | None = None,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        members: int | None = None,
        create: bool | None = False,
        spin: float | None = None,
        mode: int | None = None,
        lifetime: Lifetime = "name",
    ) -> sync.Barrier:
        """A barrier, where parties wait for each other.

        Parameters
        ----------
        parties : int, optional
            How many, 1 to 1024; needed to make one.
        action : callable, optional
            What this handle calls when its party comes last, before any goes on.
        timeout : float, optional
            Seconds that wait() waits where it says nothing else; None: no limit.
        members : int, optional
            How many handles can be open at a time, 1 to 1024; 256 by default.
        name, create, spin, mode, lifetime, timeout
            As of :meth:`lock`.

        Returns
        -------
        dsmem.sync.Barrier

        Raises
        ------
        NameNotFoundError, NameExistsError, MismatchError, TooManyMembersError
            As of :meth:`lock`.
        """
        said = {"parties": parties, "action": action, "timeout": timeout, "members": members, "spin": spin}
        made: sync.Barrier = self._object("barrier", name, said, create=create, mode=mode, lifetime=lifetime)
        return made

    def once(
        self,
        name: str,
        *,
        members: int | None = None,
        create: bool | None = False,
        spin: float | None = None,
        mode: int | None = None,
        lifetime: Lifetime = "name",
        timeout: float | None = None,
    ) -> sync.Once:
        """Something to be done by one process; parameters and errors as of :meth:`lock`."""
        said = {"members": members, "spin": spin}
        made: sync.Once = self._object("once", name, said, create=create, mode=mode, lifetime=lifetime, wait=timeout)
        return made

    # -- what classes of objects build on --

    def _open_names(self) -> Names:
        if self._closed:
            raise errors.ClosedError(f"cluster {self._name!r}")
        return self._names

    def make(
        self,
        name: str,
        kind: str,
        layout: Callable[[], tuple[int, Format]],
        *,
        create: bool | None,
        mode: int | None = None,
        readonly: bool = False,
        lifetime: Lifetime = "name",
    ) -> Memory:
        """Memory of the object with this name: attached, or made as layout says, by the convention above.

        Parameters
        ----------
        name, kind : str
            The name, and what kind of object it is.
        layout : callable
            Returns the bytes that it takes and a function that writes it, the header included, into a zeroed, writable
            memoryview of them before the object has its name; not called where nothing is made.
        create : bool or None
            As above.
        mode, lifetime
            Of what is made.
        readonly : bool
            Attach without the right to change anything.
        """
        if not callable(layout):
            raise errors.ArgumentTypeError(f"layout={layout!r:.80} can't be called; pass a function")
        return self._open(name, kind, layout, lambda memory: memory, create, mode, readonly, lifetime)

    def _open(
        self,
        name: str,
        kind: str,
        layout: Callable[[], tuple[int, Format]],
        open_: Callable[[Memory], Opened],
        create: bool | None,
        mode: int | None = None,
        readonly: bool = False,
        lifetime: Lifetime = "name",
        wait: float | None = None,
    ) -> Opened:
        wait = _core.seconds(wait, "timeout")
        if wait is not None and create is not False:
            raise errors.InvalidArgumentError(f"timeout={wait!r}: only create=False waits for a name")
        end, pause = time.monotonic() + (wait or 0), 1e-3
        names, name = self._open_names(), check_name(name)
        readonly = _core.as_bool(readonly, "readonly")
        if not isinstance(lifetime, str) or lifetime not in ("name", "creator"):
            raise errors.InvalidArgumentError(f"lifetime={lifetime!r}: 'name' or 'creator'")
        if create is not None and not isinstance(create, bool):
            raise errors.InvalidArgumentError(f"create={create!r}: True, False or None")
        if create and readonly:
            raise errors.InvalidArgumentError("readonly=True: who makes an object can't be kept from writing it")
        while True:
            if not create:
                try:
                    found = names.attach(name, kind, readonly)
                except errors.NameNotFoundError:
                    if create is not False and not readonly:
                        pass  # to be made
                    elif time.monotonic() >= end:
                        raise
                    else:
                        time.sleep(min(pause, max(0.0, end - time.monotonic())))
                        pause = min(2 * pause, 0.02)
                        continue
                else:
                    return open_or_leave(open_, found)
            try:
                return names.make(name, kind, *_laid_out(layout), mode, lifetime, open_)
            except errors.NameExistsError:
                if create:
                    raise  # otherwise another process was quicker, and may be gone again

    def _object(self, kind: str, name: str, properties: dict[str, Any], **how: Any) -> Any:
        name = check_name(name)
        cls = class_of(kind)
        for what in ("spin", "timeout"):
            _core.seconds(properties.get(what), what)
        return self._open(
            name,
            kind,
            lambda: cls._layout(**properties),
            lambda memory: cls._open(memory, self, name, **dict(properties)),
            **how,
        )

    # -- objects --

    def segment(
        self,
        name: str,
        shape: int | tuple[int, ...] | None = None,
        dtype: DTypeLike | None = None,
        *,
        data: ArrayLike | None = None,
        like: ArrayLike | None = None,
        create: bool | None = False,
        versioned: bool | None = None,
        capacity: int | None = None,
        mode: int | None = None,
        readonly: bool = False,
        lifetime: Lifetime = "name",
        timeout: float | None = None,
    ) -> Segment:
        """An array in shared memory: see :class:`dsmem.Segment`.

        Parameters
        ----------
        name : str
            Its name.
        shape : int or tuple of int, optional
            Needed to make one, unless data or like has it.
        dtype : dtype, optional
            Of the elements; structured ones and those of ml_dtypes too, but not Python objects. float64 where one is
            made and neither data nor like has another.
        data : array_like, optional
            What a segment that is made holds from the beginning; shape and dtype are its own unless they are given.
            Segments are C-ordered: of an array of another order each element keeps its index, not its place in memory.
        like : array_like, optional
            An array that has the shape and the dtype, unless they are given; its order does not count. Memory in
            Fortran's order is a segment of the reversed shape, as ``segment.array.T``.
        create, mode, lifetime, timeout
            As of all objects, see :class:`Cluster`.
        versioned : bool, optional
            Make room for a second copy, so that :meth:`Segment.snapshot` gives whole versions.
        capacity : int, optional
            Make room for so many elements of the first axis; :meth:`Segment.resize` goes beyond that only where the
            segment is a file and not versioned.
        readonly : bool
            Attach without the right to change it.

        Returns
        -------
        Segment
        """
        how: dict[str, Any] = {
            "create": create,
            "mode": mode,
            "readonly": readonly,
            "lifetime": lifetime,
            "wait": timeout,
        }
        pattern = like if data is None else data
        if pattern is not None:
            found = class_of("segment")._pattern(pattern)
            shape, dtype = found.shape if shape is None else shape, found.dtype if dtype is None else dtype
        properties = {"shape": shape, "dtype": dtype, "versioned": versioned, "capacity": capacity, "data": data}
        segment: Segment = self._object("segment", name, properties, **how)
        return segment

    def clock(
        self,
        name: str,
        *,
        create: bool | None = False,
        mode: int | None = None,
        lifetime: Lifetime = "name",
        timeout: float | None = None,
    ) -> SharedClock:
        """The words of logical clocks that processes share: for :class:`dsmem.clock.HybridClock` and Lamport.

        Parameters
        ----------
        name : str
            Its name.
        create, mode, lifetime, timeout
            As of all objects, see :class:`Cluster`.

        Returns
        -------
        SharedClock
        """
        clock: SharedClock = self._object("clock", name, {}, create=create, mode=mode, lifetime=lifetime, wait=timeout)
        return clock


def connect(
    cluster: str = "default",
    *,
    context: _core.Context | None = None,
    mode: int | None = None,
    group: int | str | None = None,
    owner: int | str | None = None,
) -> Cluster:
    """Open a cluster: by default this user's on this host.

    Parameters
    ----------
    cluster : str
        Its name; clusters of other names have other names in them.
    context : Context, optional
        Host objects in memory of this context: their names live in this process, others attach by reference.
    mode : int, optional
        File mode of the names to come, such as 0o660 or 0o640; 0o600 in a new cluster.
    group : int or str, optional
        Group that the rights of mode are for; by default the process's own.
    owner : int or str, optional
        Another user, whose cluster it is and who has opened it up with mode.

    Returns
    -------
    Cluster

    Raises
    ------
    InvalidNameError, InvalidArgumentError
        Not a name; a mode with which nothing can be used; no such user or group.
    NameNotFoundError, AccessDeniedError
        The other user has no such cluster, or keeps it to himself.
    """
    cluster = check_name(cluster)
    if context is not None:
        if not isinstance(context, _core.Context):
            raise errors.InvalidArgumentError(f"context={context!r} is no dsmem.Context")
        if mode is not None or group is not None or owner is not None:
            raise errors.InvalidArgumentError("mode, group and owner are of clusters of this host, not of a context")
        return Cluster(HostedNames(context), cluster)
    names = LocalNames(cluster, os.geteuid() if owner is None else user_number(owner), mode, group)
    names.gc()
    return Cluster(names, cluster)
