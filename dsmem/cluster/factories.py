"""The objects of a cluster: one method makes or finds each kind."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, overload

from dsmem import _core
from dsmem.cluster.base import ClusterBase
from dsmem.names.base import Lifetime, check_name

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from dsmem import sync
    from dsmem.clock import SharedClock
    from dsmem.queue import Queue
    from dsmem.segment import Segment
    from dsmem.store import Store

# The class of each kind. Its module is imported when the first such object is created or attached. dsmem exports the
# classes under the same names.
CLASSES = {
    "segment": "dsmem.segment:Segment",
    "queue": "dsmem.queue:Queue",
    "lock": "dsmem.sync:Lock",
    "rwlock": "dsmem.sync:RWLock",
    "semaphore": "dsmem.sync:Semaphore",
    "counting_semaphore": "dsmem.sync:CountingSemaphore",
    "event": "dsmem.sync:Event",
    "condition": "dsmem.sync:Condition",
    "barrier": "dsmem.sync:Barrier",
    "once": "dsmem.sync:Once",
    "spinlock": "dsmem.sync:SpinLock",
    "rlock": "dsmem.sync:RLock",
    "clock": "dsmem.clock:SharedClock",
    "store": "dsmem.store:Store",
}


def class_of(kind: str) -> Any:
    """Return the class of the objects of a kind, or raise InvalidArgumentError if the kind is unknown."""
    try:
        module, _, name = CLASSES[kind].partition(":")
    except KeyError:
        raise _core.refused(kind, str, f"kind {kind!r}: there are {', '.join(CLASSES)}") from None
    return getattr(importlib.import_module(module), name)


class Cluster(ClusterBase):
    """A set of named objects, which its methods create and find. :func:`dsmem.connect` opens one.

    All factory methods have these parameters:

    name : str
        1 to 200 letters, digits or any of ``. _ - +``, beginning with a letter or digit.
    create : bool or None
        False: attach, or raise NameNotFoundError, which is a FileNotFoundError. True: create, or raise
        NameExistsError, which is a FileExistsError. None: attach, or create it if there is none.
    mode : int, optional
        File mode of the name if it is created, such as 0o660.
    lifetime : str
        "name": it exists until it is unlinked. "creator": it is removed when this cluster is closed or the process
        ends; refused with InvalidArgumentError in a cluster at a server.
    timeout : float, optional
        With ``create=False``: seconds to wait for the name to be created. (A barrier's timeout has another meaning.)

    Raises
    ------
    NameNotFoundError, NameExistsError, InvalidNameError
        As ``create`` says; not a valid name.
    MismatchError
        The object exists with other properties than those that are given.
    AccessDeniedError
        Rights to the name's file or to the cluster's folder are missing.
    OutOfMemoryError
        There is no room for a new object.
    PeerDeadError, TimeoutError
        With names at a server: it has ended, or gives no answer within ``timeout`` (at least 1 s) or 60 s.
    ClosedError
        The cluster is closed.

    Notes
    -----
    Threads may share a cluster. Close it, or use it in a ``with`` statement: objects that were opened through it are
    closed with it.

    Examples
    --------
    >>> with dsmem.connect() as cluster:
    ...     table = cluster.segment("table", (1000, 4), "f8", create=None)
    ...     lock = cluster.lock("table.lock", create=None)
    """

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
            Bytes of each producer's lane, rounded up to a power of 2; 1 MiB by default. A message takes its length plus
            8 bytes, rounded up to a multiple of 8 (of 16 in a hosted cluster).
        producers : "one", "many" or int, optional
            Greatest number of producers at a time, each with its own lane; "many" is 16. By default "one".
        consumers : "one" or "many", optional
            "one" by default. From a queue with "many" in memory that RDMA devices with atomics of their own reach,
            which most are, only processes that map the memory take.
        max_message : int, optional
            Bytes of the longest message: less than half of ``capacity_bytes``, a quarter by default.
        drop_oldest : bool, optional
            Whether a put() that finds no room drops the oldest messages of its lane, and counts them. Only on one host.
        create, mode, lifetime, timeout
            As of :class:`Cluster`.
        spin : float, optional
            Seconds to poll before sleeping; 20 µs by default.

        Returns
        -------
        Queue

        Raises
        ------
        MismatchError
            The queue exists with other properties than those that are given.
        InvalidArgumentError
            A property is invalid; the message says which one.
        """
        options = {
            "capacity_bytes": capacity_bytes,
            "producers": producers,
            "consumers": consumers,
            "max_message": max_message,
            "drop_oldest": None if drop_oldest is None else _core.as_bool(drop_oldest, "drop_oldest"),
            "checked": not self._open_names().is_mapped,
            "spin": spin,
        }
        made: Queue = self._object("queue", name, options, create=create, mode=mode, lifetime=lifetime, wait=timeout)
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
            As of :class:`Cluster`.
        members : int, optional
            Greatest number of open handles, 1 to 1024; 256 by default.
        spin : float, optional
            Seconds to poll before sleeping; 1 µs by default, 0 on one core.

        Returns
        -------
        dsmem.sync.Lock, or the class that belongs to the method

        Raises
        ------
        TooManyMembersError
            All entries for handles are in use by living processes.
        """
        options = {"members": members, "spin": spin}
        made: sync.Lock = self._object("lock", name, options, create=create, mode=mode, lifetime=lifetime, wait=timeout)
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
        """A lock for very short sections, whose waiters poll; parameters and errors as of :meth:`lock`."""
        options = {"members": members, "spin": spin}
        made: sync.SpinLock = self._object(
            "spinlock", name, options, create=create, mode=mode, lifetime=lifetime, wait=timeout
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
        """A lock that the holding thread may acquire again; parameters and errors as of :meth:`lock`."""
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
        options = {"members": members, "spin": spin}
        made: sync.RWLock = self._object(
            "rwlock", name, options, create=create, mode=mode, lifetime=lifetime, wait=timeout
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
        """A semaphore: permits that processes acquire and release.

        Parameters
        ----------
        n : int, optional
            Number of permits, 1 to 4096; 1 by default. With ``owned=False``: 0 to 2147483647.
        owned : bool
            True: a permit is released with the handle that acquired it, and becomes free when its process dies. False:
            permits are only counted. A process can release what another one acquired, and the permits of a dead process
            are lost.
        name, create, spin, mode, lifetime, timeout
            As of :meth:`lock`.

        Returns
        -------
        dsmem.sync.Semaphore or dsmem.sync.CountingSemaphore

        Raises
        ------
        NameNotFoundError, NameExistsError, MismatchError
            As for all objects.
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
        """A flag that processes wait for; parameters and errors as of :meth:`lock`."""
        options = {"spin": spin}
        made: sync.Event = self._object(
            "event", name, options, create=create, mode=mode, lifetime=lifetime, wait=timeout
        )
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
        """A condition variable: wait under a lock until another process notifies.

        Parameters
        ----------
        lock : dsmem.sync.Lock or dsmem.sync.RLock, optional
            The lock that it is associated with, in every process that opens it; by default a private re-entrant one.
        members, waiters : int, optional
            Greatest numbers of open handles and of waiting threads, each 1 to 1024; 256 by default.
        name, create, spin, mode, lifetime, timeout
            As of :meth:`lock`.

        Returns
        -------
        dsmem.sync.Condition

        Raises
        ------
        MismatchError
            It is associated with another lock.
        NameNotFoundError, NameExistsError, TooManyMembersError
            As of :meth:`lock`.
        """
        options = {"lock": lock, "members": members, "waiters": waiters, "spin": spin}
        made: sync.Condition = self._object(
            "condition", name, options, create=create, mode=mode, lifetime=lifetime, wait=timeout
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
        """A barrier, at which parties wait for each other.

        Parameters
        ----------
        parties : int, optional
            Number of parties, 1 to 1024; required to create a barrier.
        action : callable, optional
            Called if the party of this handle arrives last, before any party is released.
        timeout : float, optional
            Default timeout of wait() in seconds; None: no limit.
        members : int, optional
            Greatest number of open handles, 1 to 1024; 256 by default.
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
        options = {"parties": parties, "action": action, "timeout": timeout, "members": members, "spin": spin}
        made: sync.Barrier = self._object("barrier", name, options, create=create, mode=mode, lifetime=lifetime)
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
        """A task that one process does while the others wait; parameters and errors as of :meth:`lock`."""
        options = {"members": members, "spin": spin}
        made: sync.Once = self._object("once", name, options, create=create, mode=mode, lifetime=lifetime, wait=timeout)
        return made

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
        """An array in shared memory.

        Parameters
        ----------
        shape : int or tuple of int, optional
            Required to create a segment, unless ``data`` or ``like`` is given.
        dtype : dtype, optional
            Type of the elements. It may be structured or one of ml_dtypes, but can't have Python objects. By default
            that of ``data`` or ``like``, or float64.
        data : array_like, optional
            Initial content of a new segment, which has the shape and dtype of the data unless they are given. Segments
            are in C order: each element keeps its index, not its place in memory.
        like : array_like, optional
            Array whose shape and dtype are used unless they are given. (For an array in Fortran order, make a segment
            of the reversed shape, and use it as ``segment.array.T``.)
        versioned : bool, optional
            Allocate a second copy, so that :meth:`Segment.snapshot` returns whole versions.
        capacity : int, optional
            Allocate this many elements of the first axis. :meth:`Segment.resize` goes beyond that only if the segment
            is a file and not versioned.
        readonly : bool
            Attach without the right to change the segment.
        name, create, mode, lifetime, timeout
            As of :class:`Cluster`.

        Returns
        -------
        Segment

        Raises
        ------
        MismatchError
            The segment exists with another shape, dtype or ``versioned``.
        InvalidArgumentError
            A property is invalid, or the data does not fit the shape or dtype.

        Examples
        --------
        >>> table = cluster.segment("table", data=numpy.eye(4), create=True)
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
        versioned = None if versioned is None else _core.as_bool(versioned, "versioned")
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
        """Shared state of logical clocks, for :class:`dsmem.clock.HybridClock` and :class:`dsmem.clock.Lamport`.

        Parameters
        ----------
        name, create, mode, lifetime, timeout
            As of :class:`Cluster`.

        Returns
        -------
        dsmem.clock.SharedClock
        """
        clock: SharedClock = self._object("clock", name, {}, create=create, mode=mode, lifetime=lifetime, wait=timeout)
        return clock

    def store(
        self,
        name: str,
        *,
        page_size: int | None = None,
        capacity: int | str | None = None,
        members: int | None = None,
        replicas: int | None = None,
        extents: int | None = None,
        min_copies: int = 1,
        create: bool | None = False,
        mode: int | None = None,
        lifetime: Lifetime = "name",
        timeout: float | None = None,
    ) -> Store:
        """A store of pages.

        Parameters
        ----------
        page_size : int, optional
            Bytes of a page: a multiple of 64 from 256 to 1 MiB; 4096 by default.
        capacity : int or str, optional
            Bytes of all pages together, such as ``1 << 30`` or ``"1GiB"``, rounded up to whole pages. Required to
            create a store. A page takes 72 bytes more.
        members : int, optional
            Greatest number of open handles, 1 to 1024; 32 by default. Each takes the memory of 64 pages beside the
            capacity.
        replicas : int, optional
            Copies of each page, 1 to 5, each at another memory node of the cluster; 1 by default. A write returns when
            all have it. While one of the nodes is out of reach writes are refused with an exception that says which
            copy is missing; reads go on, if it is not the first one. With a coordinator at the address
            (``dsmem serve --coordinator``) the store goes on without that node.
        extents : int, optional
            In how many parts of equal size the pages lie, which are spread over the memory nodes of the cluster; 1 by
            default. A store of one extent lies whole at one node, and whole again at another for each copy more, so it
            is as large as a node's memory at most. Pages that are allocated one after another are in all extents.
            Extents times replicas are at most 64.
        min_copies : int
            Changes through this handle are refused with TooFewCopiesError while an extent has fewer copies that count:
            what it acknowledges survives the loss of one node less than this. From 1 to ``replicas``, which is given,
            too, where the store may be made. It matters with a coordinator alone; without one a change needs all
            copies. Reads go on. A handle that is attached by reference has 1.
        name, create, mode, lifetime, timeout
            As of :class:`Cluster`.

        Returns
        -------
        Store

        Raises
        ------
        MismatchError
            The store exists with other properties than those that are given.
        InvalidArgumentError
            A property is invalid; the message says which one. More copies than the cluster has memory nodes, or
            several extents at one.
        TooManyMembersError
            All places for handles are in use by living processes.
        CorruptError
            A copy is gone; the message says which one.

        Examples
        --------
        >>> store = cluster.store("db", capacity="64MiB", create=None)
        """
        given = {"page_size": page_size, "capacity": capacity, "members": members, "replicas": replicas}
        given["extents"] = extents
        how: dict[str, Any] = {"create": create, "mode": mode, "lifetime": lifetime, "wait": timeout}
        cls = class_of("store")
        demanded = cls._demanded_copies(min_copies, 1 if replicas is None and create is not False else replicas)
        names = self._open_names()
        if names.nodes == 1 and names.coordinates(_core.seconds(timeout, "timeout")):
            from dsmem.membership.follow import EpochStore

            return EpochStore._of_coordinator(self, check_name(name), given, **how)._demanding(demanded)
        names.refuse_coordinator()
        cls._check_places(replicas, extents, names)
        if names.nodes > 1:
            store: Store = cls._of_nodes(self, check_name(name), given, **how)
        else:
            store = self._object("store", name, given, **how)
        return store._demanding(demanded)

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
