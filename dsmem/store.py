"""Stores of pages: fixed-size pages that any process reads and replaces, each at one instant.

:meth:`dsmem.Cluster.store` creates and finds them. docs/protocols/pages.md specifies their layout and steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import inspect
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from typing_extensions import Self

from dsmem import _core, errors, metrics
from dsmem.memory import Memory, bytes_of, open_or_leave
from dsmem.names import copies
from dsmem.names.base import Format
from dsmem.objects import NamedObject, Owner

if TYPE_CHECKING:
    from dsmem.cluster.base import ClusterBase
    from dsmem.names.base import Names

__all__ = ["PageMetadata", "PageStatus", "Store", "Transaction"]

PageMetadata = _core.PageMetadata

_T = TypeVar("_T")
_PAGE_SIZE = 4096
_MEMBERS = 32
_AT_ONCE = 64  # pages of a look
_PAUSE, _PAUSE_LONGEST = 50e-6, 20e-3  # s; of run(), before the second attempt; it doubles
_LEAST = 0.2  # s; an attempt waits as long as that for what others are doing at the moment


class PageStatus(enum.IntEnum):
    """What ``status`` of ``read_many`` and ``write_many`` says of a page. The numbers are those of errors of the core.

    Examples
    --------
    >>> store = cluster.store("db", capacity="1MiB", create=None)
    >>> ids = store.allocate_many(3)
    >>> store.free(ids[1])
    >>> status = np.empty(3, "u1")
    >>> pages = store.read_many(ids, status=status)
    >>> [dsmem.store.PageStatus(each).name for each in status]
    ['OK', 'MISSING', 'OK']
    """

    #: It was read or written.
    OK = 0
    #: Another client is changing it, which was waited for in vain, as with BusyError.
    LOCKED = 23
    #: Its bytes are not what was written, at no copy, as with CorruptError.
    CORRUPT = 31
    #: It was freed, or never allocated, as with PageNotFoundError.
    MISSING = 45


def count_of(default: int, **given: Any) -> int:
    """Return the argument, a whole number from 1 on, or the default for None."""
    ((what, value),) = given.items()
    number = _core.checked_int(default if value is None else value, 1, (1 << 32) - 1)
    if number is None:
        raise _core.refused(value, int, f"{what}={value!r:.80}: a whole number, at least 1")
    return number


def _bytes(capacity: int | str) -> int:
    number = bytes_of(capacity) if isinstance(capacity, str) else _core.checked_int(capacity, 1, (1 << 64) - 1)
    if not number:
        text = f"capacity={capacity!r:.80}: a number of bytes, such as 67108864 or '64MiB'"
        raise _core.refused(capacity, str if isinstance(capacity, str) else int, text)
    return number


def _pages(capacity: int | str, page_size: int) -> int:
    return -(-_bytes(capacity) // page_size)


def _in_extents(pages: int, extents: int) -> int:
    """Round up to as many in each."""
    return -(-pages // extents) * extents


def shape_of(
    page_size: int | None = None,
    capacity: int | str | None = None,
    members: int | None = None,
    replicas: int | None = None,
    extents: int | None = None,
) -> tuple[int, int, int, int, int]:
    """Return page size, pages, members, copies and extents of a store that is to be made."""
    if capacity is None:
        raise errors.InvalidArgumentError("a store can't be made without capacity=, such as '64MiB'")
    size, places = count_of(_PAGE_SIZE, page_size=page_size), count_of(_MEMBERS, members=members)
    number = count_of(1, extents=extents)
    return size, _in_extents(_pages(capacity, size), number), places, count_of(1, replicas=replicas), number


def _url(address: str) -> str:
    """Return the address of an agent as connect() takes that of a server."""
    return f"tcp://{address.removeprefix('tcp:')}" if address.startswith("tcp:") else address


def _copies_of(bits: int) -> str:
    found = [str(k) for k in range(8) if bits >> k & 1]
    return f"cop{'ies' if len(found) > 1 else 'y'} {', '.join(found)}"


def _what_is_wrong(heads: int, frames: int, unknown: bool) -> str:
    said = ["its head at copy 0 is none"] if unknown else []
    said += [f"another head at {_copies_of(heads)} than at copy 0"] if heads else []
    said += [f"a damaged frame at {_copies_of(frames)}"] if frames else []
    return ", ".join(said)


#: A page that a client had locked when it was killed is free after the --grace of its memory nodes, and as long as
#: it takes to notice a connection that has broken: 30 s, and some.
RUN_SECONDS = 60.0


class _Budget:
    """How often, and until when, a function is tried that has conflicts."""

    def __init__(self, function: Any, timeout: float | None) -> None:
        if not callable(function):
            raise errors.ArgumentTypeError(f"function={function!r:.80} can't be called; pass a function")
        limit = _core.seconds(timeout, "timeout")
        self._ends = None if limit is None else time.monotonic() + limit
        self._longest = _PAUSE

    def begin(self, store: Store, opaque: bool) -> Transaction:
        """Begin the next attempt, which waits little longer than that for other clients."""
        transaction = store._begin(opaque)
        if self._ends is not None:
            transaction._wait_until(max(self._ends, time.monotonic() + _LEAST))
        return transaction

    def pause(self) -> float | None:
        """Seconds until the next attempt, by chance and longer each time; None: there is none."""
        rest = self._longest if self._ends is None else self._ends - time.monotonic()
        if rest <= 0:
            return None
        pause = min(random.uniform(0, self._longest), rest)
        self._longest = min(2 * self._longest, _PAUSE_LONGEST)
        return pause


class Transaction(_core.Transaction):
    """A transaction of a store; :meth:`dsmem.Store.transaction` begins one, in a with statement.

    What it writes is in the store once the block has ended, all at one instant. If the block raises, nothing is.

    Raises
    ------
    ConflictError
        From any read, or from the end of the block: a page that was read has changed since, or another client is
        changing a page that this one writes. Nothing was changed; :meth:`dsmem.Store.run` tries again.
    ClosedError
        From any method: the transaction has ended.
    BusyError
        From any method: it is another thread's. From the with statement: the thread has one of the same store already.
    ForkError
        From any method: it was begun before the process has forked.
    OutcomeUnknownError
        From the end of the block: the answer to the commit was lost. All of it was made, or nothing.

    Notes
    -----
    Transactions and all other operations of a store are strictly serialisable. What a read returns belongs to an
    instant together with all that was read before where memory is mapped, or with ``opaque=True``; otherwise only at
    the end of the block.

    Examples
    --------
    >>> store = cluster.store("bank", capacity="1MiB", create=None)
    >>> mine = store.allocate()
    >>> with store.transaction() as tx:
    ...     amount = tx.read(mine)
    ...     yours = tx.allocate()
    ...     tx.write(yours, amount)
    ...     tx.write(mine, bytes(4096))
    """

    def __new__(cls, *args: Any, **named: Any) -> Self:
        """Refuse calls by users, and name the method to call instead."""
        raise errors.ArgumentTypeError("Transaction can't be constructed; use store.transaction()")

    @classmethod
    def _of(cls, store: _core.Store, opaque: bool) -> Self:
        made = _core.Transaction.__new__(cls)
        _core.Transaction.__init__(made, store, opaque)
        return made


class Store(NamedObject, _core.Store):
    """A store of pages under a name; :meth:`dsmem.Cluster.store` creates and finds one.

    A page is replaced as a whole. A reader gets one version of it, whatever writers do meanwhile, and neither waits for
    the other. Ids are numbers that may be given to other processes at once.

    Raises
    ------
    ClosedError
        From any method: the store is closed.
    BusyError
        A signal handler writes in the midst of a write of the same handle. Reads are possible there if the memory is
        this host's. Or another client has been changing the page at several copies for 40 s, and is not proven dead.
    CorruptError
        A page is not what was written; another process has overwritten the memory.
    TimeoutError
        Others have replaced the page for seconds, each time before it was read or written.

    OutcomeUnknownError
        The memory is at a server or in a context, and the answer to a change was lost: the page was replaced or freed
        once, or not at all. Any other exception says that it was not.
    TransportError, PeerDeadError, TimeoutError, FencedError
        The memory belongs to another process, and an op failed. With several copies it says which one does not answer.

    Notes
    -----
    Threads may share a store. Their reads run beside each other; writes and the like take turns. In memory that is not
    mapped here all calls take turns.

    There an operation is a round trip or two, and so is a :meth:`read_many` or :meth:`write_many` of up to 64 pages.
    Where such a call fails, those behind the page that failed may have been written.

    A process may be killed or stopped at any instruction: its change of a page has happened or not, and no other
    process waits for it, unless it was in the commit of a transaction. Pages that it had allocated stay so, also those
    whose ids no process knows.

    Examples
    --------
    >>> store = cluster.store("db", capacity="64MiB", create=None)
    >>> pid = store.allocate()
    >>> version = store.write(pid, b"first".ljust(4096))
    >>> store.compare_write(pid, version, b"second".ljust(4096)) > version
    True
    >>> store.read(pid)[:6]
    b'second'
    """

    _counted: metrics.Counted | None = None

    def __init__(self, memory: Memory, cluster: Owner | None, name: str, backups: Sequence[Memory] = ()) -> None:
        _core.Store.__init__(self, (memory.remote, *(each.remote for each in backups)))
        self._backups = backups
        for each in backups:
            each.remote._user = f"<Store {name!r}>"
        if backups:
            memory.ref = replace(memory.ref, copies=tuple(each.ref.descriptor for each in backups))
        NamedObject.__init__(self, memory, cluster, name)
        metrics.opened(self)

    def __del__(self) -> None:
        """Keep what it has counted, and leave the store."""
        metrics.closed(self)
        _core.Store.__del__(self)

    @property
    def _in_cluster(self) -> str:
        """The name of its cluster; empty if it was attached without one."""
        return str(getattr(self._cluster, "name", self._memory.ref.cluster))

    @classmethod
    def _layout(
        cls,
        page_size: int | None = None,
        capacity: int | str | None = None,
        members: int | None = None,
        replicas: int | None = None,
        extents: int | None = None,
        spread: int = 0,
        nodes: int = 0,
    ) -> tuple[int, Format]:
        size, pages, places, number, extents = shape_of(page_size, capacity, members, replicas, extents)
        spread = spread if extents > 1 else 0
        nbytes = _core.store_nbytes(size, pages, places, number, extents)
        format = size, pages, places, number, 0, 0, extents, 0, spread, nodes
        return nbytes, lambda view: _core.store_format(view, *format)

    @classmethod
    def _check_places(cls, replicas: int | None, extents: int | None, names: Names) -> None:
        copies.check_nodes(names, count_of(1, replicas=replicas), count_of(1, extents=extents))

    @classmethod
    def _demanded_copies(cls, min_copies: int, replicas: int | None) -> int:
        number = count_of(1, min_copies=min_copies)
        if replicas is not None and number > count_of(1, replicas=replicas):
            text = f"min_copies={number}, and replicas={replicas}: it could never be changed; ask for more copies"
            raise errors.InvalidArgumentError(text)
        return number

    def _demanding(self, copies: int) -> Self:
        """Demand so many copies for each change, or close the handle if the store never has them."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            self._demand(copies)
            stack.pop_all()
        return self

    @classmethod
    def _of_nodes(cls, cluster: ClusterBase, name: str, given: dict[str, Any], **how: Any) -> Store:
        """Find or make one in a cluster of several memory nodes. Its copies are made when the first has its name."""
        create, mode = how["create"], how["mode"]
        replicas, extents = count_of(1, replicas=given["replicas"]), count_of(1, extents=given["extents"])
        names = cluster._open_names()
        if create is not False:
            copies.reach_nodes(names, name, replicas, extents)

        def layout() -> tuple[int, Format]:
            nodes = copies.identity_of(names, replicas, extents, names.nodes)
            return cls._layout(**given, spread=names.nodes, nodes=nodes)

        while True:
            memory = cluster._open(name, "store", layout, lambda memory: memory, **how)
            try:
                return open_or_leave(
                    lambda memory: cls._open(memory, cluster, name, mode=mode, made=create is True, **given), memory
                )
            except errors.NameNotFoundError:  # its creator has given it up
                if create is not None:
                    raise

    @classmethod
    def _open(
        cls,
        memory: Memory,
        cluster: Owner | None,
        name: str,
        *,
        page_size: int | None = None,
        capacity: int | str | None = None,
        members: int | None = None,
        replicas: int | None = None,
        extents: int | None = None,
        mode: int | None = None,
        made: bool = False,
    ) -> Store:
        if cluster is None:
            found = copies.attached(memory, name)
        else:
            found = copies.backups(memory, cluster._open_names(), name, mode, made)
        with contextlib.ExitStack() as stack:
            for each in found:
                stack.enter_context(each)
            store = cls(memory, cluster, name, found)
            stack.callback(_core.Store.close, store)
            store._compare(page_size, capacity, members, replicas, extents)
            stack.pop_all()
        return store

    def _compare(
        self,
        page_size: int | None,
        capacity: int | str | None,
        members: int | None,
        replicas: int | None,
        extents: int | None = None,
    ) -> None:
        there, different = self._shape, []
        if page_size is not None and count_of(0, page_size=page_size) != there["page_size"]:
            different.append(f"page_size={there['page_size']}, not {page_size}")
        pages = None if capacity is None else _in_extents(_pages(capacity, there["page_size"]), there["extents"])
        if pages is not None and pages != there["pages"]:
            different.append(f"capacity={there['pages'] * there['page_size']}, not {capacity}")
        if members is not None and count_of(0, members=members) != there["members"]:
            different.append(f"members={there['members']}, not {members}")
        if replicas is not None and count_of(0, replicas=replicas) != there["replicas"]:
            different.append(f"replicas={there['replicas']}, not {replicas}")
        if extents is not None and count_of(0, extents=extents) != there["extents"]:
            different.append(f"extents={there['extents']}, not {extents}")
        if different:
            raise errors.MismatchError(f"store {self._name!r} has {' and '.join(different)}")

    def free(self, pid: int) -> None:
        """Free a page. Its id is not given to another page; one that reads it later gets PageNotFoundError.

        Parameters
        ----------
        pid : int
            Its id.

        Raises
        ------
        PageNotFoundError
            The page was freed before, or never allocated.
        """
        self._free(pid)

    def transaction(self, *, opaque: bool = False) -> Transaction:
        """Begin a transaction, in a with statement: several pages are read and changed at one instant, or not at all.

        Parameters
        ----------
        opaque : bool
            Whether each read looks again at the pages that were read before, so that all of them were there at one
            instant. It costs a round trip. Where memory is mapped, each does.

        Returns
        -------
        Transaction
            The transaction. It changes at most 160 pages.
        """
        return self._begin(opaque)

    def _begin(self, opaque: bool) -> Transaction:
        return Transaction._of(self, opaque)

    def run(
        self, function: Callable[[Transaction], _T], *, timeout: float | None = RUN_SECONDS, opaque: bool = False
    ) -> _T:
        """Call a function with a transaction, and again with another one as long as that has conflicts.

        Parameters
        ----------
        function : callable
            It gets the transaction. It may be called several times, and what it does beside the transaction is done
            each time.
        timeout : float, optional
            In seconds. After it no other attempt is begun, and the one under way waits no longer than 0.2 s more for
            other clients. An op that is late has the limits of its context. At several memory nodes a client that was
            killed is proven dead after their ``--grace``, by default 30 s, which the default outlasts.
        opaque : bool
            As for :meth:`transaction`.

        Returns
        -------
        object
            What the function has returned the last time, whose transaction was committed.

        Raises
        ------
        ConflictError
            The last attempt had a conflict, too. Nothing was changed.
        BusyError, TimeoutError
            When the time was over, another client had locked a page, and is not proven dead; or others were replacing
            it. Nothing was changed. With a ``--grace`` that is longer than a minute, pass more as ``timeout``.
        OutcomeUnknownError
            The last attempt was committed, or not at all.
        ArgumentTypeError
            ``function`` can't be called.
        """
        budget = _Budget(function, timeout)
        while True:
            try:
                with budget.begin(self, opaque) as tx:
                    result = function(tx)
            except errors.ConflictError:
                rest = budget.pause()
                if rest is None:
                    raise
                time.sleep(rest)
            else:
                return result

    async def run_async(
        self, function: Callable[[Transaction], _T], *, timeout: float | None = RUN_SECONDS, opaque: bool = False
    ) -> _T:
        """:meth:`run` in an event loop.

        Parameters
        ----------
        function : callable
            As for :meth:`run`. It is called in another thread, the same that does what other tasks want of the handle,
            one thing after another; so it should not take long. It makes its calls without ``_async``.
        timeout : float, optional
            In seconds. After it no other attempt is begun.
        opaque : bool
            As for :meth:`transaction`.

        Returns
        -------
        object
            What the function has returned the last time, whose transaction was committed.

        Raises
        ------
        ConflictError
            The last attempt had a conflict, too. Nothing was changed.
        OutcomeUnknownError
            The last attempt was committed, or not at all.
        ArgumentTypeError
            ``function`` can't be called, or is asynchronous. Nothing was changed.

        Notes
        -----
        If the task is cancelled, no other attempt is begun. One that is under way goes on, and is committed or not.

        Examples
        --------
        >>> async def move(store, mine, yours):
        ...     def swap(tx):
        ...         a, b = tx.read(mine), tx.read(yours)
        ...         tx.write(mine, b)
        ...         tx.write(yours, a)
        ...
        ...     await store.run_async(swap)
        """
        budget = _Budget(function, timeout)
        while True:
            try:
                result: _T = await self._call_async(partial(self._attempt, function, budget, opaque))
            except errors.ConflictError:
                rest = budget.pause()
                if rest is None:
                    raise
                await asyncio.sleep(rest)
            else:
                return result

    def _attempt(self, function: Callable[[Transaction], _T], budget: _Budget, opaque: bool) -> _T:
        with budget.begin(self, opaque) as tx:
            result = function(tx)
            if inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                raise errors.ArgumentTypeError(f"function={function!r:.80} is asynchronous; pass one that is not")
            return result

    def snapshot(self, ids: Any, out: Any = None, *, timeout: float | None = RUN_SECONDS) -> Any:
        """Read many pages as they were at one instant.

        Parameters
        ----------
        ids : array_like
            The ids of the pages, at most 65536.
        out : buffer, optional
            Writable memory of as many pages. By default an array of uint8 with a row for each page is made.
        timeout : float, optional
            In seconds, as of :meth:`run`.

        Returns
        -------
        numpy.ndarray or buffer
            The array, or ``out`` if it is given.

        Raises
        ------
        ConflictError
            Others have changed some of the pages during each attempt.
        BusyError, TimeoutError
            When the time was over, another client had locked a page, or others were replacing it.
        PageNotFoundError
            One of the pages was freed, or never allocated.
        """
        began = self._snapshot_begins()
        found = self.run(lambda tx: tx.read_many(ids, out), timeout=timeout)
        self._snapshot_ends(began)
        return found

    async def snapshot_async(self, ids: Any, out: Any = None, *, timeout: float | None = RUN_SECONDS) -> Any:
        """:meth:`snapshot` in an event loop.

        Parameters
        ----------
        ids : array_like
            The ids of the pages, at most 65536.
        out : buffer, optional
            Writable memory of as many pages. By default an array of uint8 with a row for each page is made.
        timeout : float, optional
            In seconds. After it no other attempt is begun.

        Returns
        -------
        numpy.ndarray or buffer
            The array, or ``out`` if it is given.

        Raises
        ------
        ConflictError
            Others have changed some of the pages during each attempt.
        BusyError, TimeoutError
            When the time was over, another client had locked a page, or others were replacing it.
        PageNotFoundError
            One of the pages was freed, or never allocated.
        """
        began = self._snapshot_begins()
        found = await self.run_async(lambda tx: tx.read_many(ids, out), timeout=timeout)
        self._snapshot_ends(began)
        return found

    async def free_async(self, pid: int) -> None:
        """:meth:`free` in an event loop.

        Parameters
        ----------
        pid : int
            Its id.

        Raises
        ------
        PageNotFoundError
            The page was freed before, or never allocated.
        """
        await self._free_async(pid)

    def stat(self, *, timeout: float | None = 30) -> dict[str, int]:
        """Return the properties of the store and how much of it is in use, as a dict.

        Parameters
        ----------
        timeout : float, optional
            In seconds, of a store of a coordinator: how long its next epoch, or its coordinator, is waited for. Any
            other store answers at once, or within its peer timeouts.

        Returns
        -------
        dict
            ``page_size``, ``pages``, ``members`` and ``replicas`` are those of its creation. ``free`` is the number of
            free pages, ``handles`` that of open handles, which includes those of dead processes until others take their
            places. ``repaired`` is the number of pages that this handle has repaired.
        """
        _core.seconds(timeout, "timeout")
        return _core.Store.stat(self)

    async def stat_async(self, *, timeout: float | None = 30) -> dict[str, int]:
        """:meth:`stat` in an event loop.

        Parameters
        ----------
        timeout : float, optional
            As for :meth:`stat`.

        Returns
        -------
        dict
            As of :meth:`stat`.
        """
        _core.seconds(timeout, "timeout")
        return await self._call_async(lambda: self.stat(timeout=timeout))

    def health(self, *, timeout: float | None = 2) -> dict[str, Any]:
        """Return which copies of the store count, where they are, and which ones are missing.

        Parameters
        ----------
        timeout : float, optional
            In seconds: how long a coordinator that does not answer is waited for.

        Returns
        -------
        dict
            ``epoch``: of the store, 0 if it has no coordinator. ``open``: whether it is in use now. ``trouble``: why it
            is not, or has fewer copies than promised; "" if all is as it should be. ``replicas``: how many copies are
            promised. ``copies``: for each that counts, the primary first, a dict of ``copy``, its number; ``extent``,
            that of its extent, where the store has several; ``node``, the address of its memory node; ``domain``, what
            fails together with that, without a coordinator its host; ``up``, whether the coordinator hears it, None
            without one. ``missing``: for each of the others a dict of ``copy``; ``extent``, as before; ``why``; and
            while it is being made ``node``, where, and ``done`` of ``pages``, how far. ``domains``: in how many
            different ones the copies are, of several extents those of the one with the fewest; copies in one domain may
            be lost together.

        Notes
        -----
        If the coordinator does not answer, ``trouble`` says so, ``open`` and ``domains`` are None, and the rest is what
        this handle knows from its last epoch; ``copy`` and ``extent`` are left out where some extents had fewer copies.
        """
        _core.seconds(timeout, "timeout")
        if self.closed:
            raise errors.ClosedError(f"store {self._name!r}")
        each = [self._memory.ref, *(backup.ref for backup in self._backups)]
        nodes = [_core.Descriptor(ref.descriptor).address if ref.descriptor else "" for ref in each]
        replicas = self._shape["replicas"]
        there: list[dict[str, Any]] = [
            {"copy": place % replicas, "node": _url(at), "domain": at.partition(":")[2].rpartition(":")[0], "up": None}
            for place, at in enumerate(nodes)
        ]
        for place, copy in enumerate(there if self._shape["extents"] > 1 else ()):
            copy["extent"] = place // replicas
        return {
            "epoch": 0,
            "open": True,
            "trouble": "",
            "replicas": replicas,
            "copies": there,
            "missing": [],
            "domains": copies.fewest_domains((copy.get("extent", 0), copy["domain"]) for copy in there),
        }

    async def health_async(self, *, timeout: float | None = 2) -> dict[str, Any]:
        """:meth:`health` in an event loop.

        Parameters
        ----------
        timeout : float, optional
            As for :meth:`health`.

        Returns
        -------
        dict
            As of :meth:`health`.
        """
        _core.seconds(timeout, "timeout")
        return await self._call_async(lambda: self.health(timeout=timeout))

    def check(self, *, repair: bool = False, progress: Callable[[int, int], object] | None = None) -> dict[str, Any]:
        """Look at all pages, at all copies: whether heads are the same, and frames are whole and those of their pages.

        Parameters
        ----------
        repair : bool
            Whether a page that is damaged at some copies is written again from another copy. Its version grows by 1.
        progress : callable, optional
            It is called with the number of pages that have been looked at and that of all pages.

        Returns
        -------
        dict
            ``pages`` is the number of pages that were looked at, ``changing`` that of pages of which nothing is known,
            since others were changing them all the time, or have died in that. ``repaired`` is the number of pages that
            were repaired. ``wrong`` says for each other page, by its id, what is wrong and, with ``repair``, why it
            was not repaired. A page that is free, or whose id is damaged too, stands there by the lower 40 bits of
            its id alone, the number of the page: a number below 2**40.

        Raises
        ------
        TransportError, PeerDeadError, TimeoutError
            A copy does not answer.
        ArgumentTypeError
            ``repair`` is no bool, or ``progress`` can't be called.

        Notes
        -----
        Other clients go on meanwhile. A damaged page that a read meets is repaired by that, and needs no check.
        """
        if not isinstance(repair, (bool, np.bool_)):
            raise errors.ArgumentTypeError(f"repair={repair!r:.80} is neither True nor False")
        if progress is not None and not callable(progress):
            raise errors.ArgumentTypeError(f"progress={progress!r:.80} can't be called; pass a function")
        pages, wrong, changing, repaired = self._shape["pages"], {}, 0, 0
        for first in range(0, pages, _AT_ONCE):
            n = min(_AT_ONCE, pages - first)
            for number, pid, heads, frames, changes, unknown in self._check(first, n):
                why = self._repairs(number, heads, frames) if repair and not changes else ""
                if changes:
                    changing += 1
                elif repair and not why:
                    repaired += 1
                else:
                    left = f"; not repaired: {why}" if why else ""
                    wrong[pid or number] = _what_is_wrong(heads, frames, unknown) + left
            if progress is not None:
                progress(first + n, pages)
        return {"pages": pages, "changing": changing, "repaired": repaired, "wrong": wrong}

    def _repairs(self, number: int, heads: int, frames: int) -> str:
        """Why the page is not whole now. "": it is."""
        if heads or not frames:
            return "its heads differ" if heads else "its head is damaged"
        try:
            self._repair(number)
        except errors.UnsupportedError:
            return "it has no other copy"
        except errors.CorruptError:
            return "no copy of it is whole"
        return "it is damaged again" if any(not changes for *_, changes, _ in self._check(number, 1)) else ""

    def close(self) -> None:
        """Close this handle. The pages stay. Closing twice has no effect.

        Raises
        ------
        BusyError
            Calls are under way in other threads.
        """
        _core.Store.close(self)
        metrics.closed(self)
        for each in self._backups:
            each.close()
        NamedObject.close(self)
