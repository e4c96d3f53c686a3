"""Stores of pages: fixed-size pages that any process reads and replaces, each at one instant.

:meth:`dsmem.Cluster.store` creates and finds them. docs/protocols/pages.md specifies their layout and steps.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import Self

from dsmem import _core, errors
from dsmem.memory import Memory, bytes_of, open_or_leave
from dsmem.names import copies
from dsmem.names.base import Format
from dsmem.objects import NamedObject, Owner

if TYPE_CHECKING:
    from dsmem.cluster.base import ClusterBase
    from dsmem.names.base import Names

__all__ = ["Store", "Transaction"]

_T = TypeVar("_T")
_PAGE_SIZE = 4096
_MEMBERS = 32
_PAUSE, _PAUSE_LONGEST = 50e-6, 20e-3  # s; of run(), before the second attempt; it doubles


def _number(default: int, **given: Any) -> int:
    ((what, value),) = given.items()
    number = _core.checked_int(default if value is None else value, 1, (1 << 32) - 1)
    if number is None:
        raise errors.InvalidArgumentError(f"{what}={value!r:.80}: a whole number, at least 1")
    return number


def _bytes(capacity: int | str) -> int:
    number = bytes_of(capacity) if isinstance(capacity, str) else _core.checked_int(capacity, 1, (1 << 64) - 1)
    if not number:
        raise errors.InvalidArgumentError(f"capacity={capacity!r:.80}: a number of bytes, such as 67108864 or '64MiB'")
    return number


def _pages(capacity: int | str, page_size: int) -> int:
    return -(-_bytes(capacity) // page_size)


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
    >>> mine, yours = store.allocate(), store.allocate()
    >>> with store.transaction() as tx:
    ...     amount = tx.read(mine)
    ...     tx.write(yours, amount)
    ...     tx.write(mine, bytes(4096))
    """

    def __new__(cls, *args: Any, **named: Any) -> Self:
        """Refuse calls by users, and name the method to call instead."""
        if len(args) != 1 or not isinstance(args[0], Store):
            raise errors.ArgumentTypeError("Transaction can't be constructed; use store.transaction()")
        make: Any = super().__new__
        made: Self = make(cls, *args, **named)
        return made

    def __init__(self, store: _core.Store, *, opaque: bool = False) -> None:
        _core.Transaction.__init__(self, store, opaque)


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

    def __init__(self, memory: Memory, cluster: Owner | None, name: str, backups: Sequence[Memory] = ()) -> None:
        _core.Store.__init__(self, (memory.remote, *(each.remote for each in backups)))
        self._backups = backups
        for each in backups:
            each.remote._user = f"<Store {name!r}>"
        if backups:
            memory.ref = replace(memory.ref, copies=tuple(each.ref.descriptor for each in backups))
        NamedObject.__init__(self, memory, cluster, name)

    @classmethod
    def _layout(
        cls,
        page_size: int | None = None,
        capacity: int | str | None = None,
        members: int | None = None,
        replicas: int | None = None,
    ) -> tuple[int, Format]:
        if capacity is None:
            raise errors.InvalidArgumentError("a store can't be made without capacity=, such as '64MiB'")
        size, places = _number(_PAGE_SIZE, page_size=page_size), _number(_MEMBERS, members=members)
        shape = size, _pages(capacity, size), places, _number(1, replicas=replicas)
        return _core.store_nbytes(*shape), lambda view: _core.store_format(view, *shape, 0, 0)

    @classmethod
    def _check_replicas(cls, replicas: int | None, names: Names) -> None:
        copies.check_nodes(names, _number(1, replicas=replicas))

    @classmethod
    def _of_nodes(cls, cluster: ClusterBase, name: str, given: dict[str, Any], **how: Any) -> Store:
        """Find or make one in a cluster of several memory nodes. Its copies are made when the first has its name."""
        create, mode = how["create"], how["mode"]
        replicas = _number(1, replicas=given["replicas"])
        if create is not False:
            copies.reach_nodes(cluster._open_names(), name, replicas)
        while True:
            memory = cluster._open(name, "store", lambda: cls._layout(**given), lambda memory: memory, **how)
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
            store._compare(page_size, capacity, members, replicas)
            stack.pop_all()
        return store

    def _compare(
        self, page_size: int | None, capacity: int | str | None, members: int | None, replicas: int | None
    ) -> None:
        there, different = self._shape, []
        if page_size is not None and _number(0, page_size=page_size) != there["page_size"]:
            different.append(f"page_size={there['page_size']}, not {page_size}")
        if capacity is not None and _pages(capacity, there["page_size"]) != there["pages"]:
            different.append(f"capacity={there['pages'] * there['page_size']}, not {capacity}")
        if members is not None and _number(0, members=members) != there["members"]:
            different.append(f"members={there['members']}, not {members}")
        if replicas is not None and _number(0, replicas=replicas) != there["replicas"]:
            different.append(f"replicas={there['replicas']}, not {replicas}")
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
        return Transaction(self, opaque=opaque)

    def run(self, function: Callable[[Transaction], _T], *, timeout: float | None = 30, opaque: bool = False) -> _T:
        """Call a function with a transaction, and again with another one as long as that has conflicts.

        Parameters
        ----------
        function : callable
            It gets the transaction. It may be called several times, and what it does beside the transaction is done
            each time.
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
            ``function`` can't be called.
        """
        if not callable(function):
            raise errors.ArgumentTypeError(f"function={function!r:.80} can't be called; pass a function")
        limit = _core.seconds(timeout, "timeout")
        ends = None if limit is None else time.monotonic() + limit
        pause = _PAUSE
        while True:
            try:
                with Transaction(self, opaque=opaque) as tx:
                    result = function(tx)
            except errors.ConflictError:
                rest = pause if ends is None else ends - time.monotonic()
                if rest <= 0:
                    raise
                time.sleep(min(random.uniform(0, pause), rest))
                pause = min(2 * pause, _PAUSE_LONGEST)
            else:
                return result

    def snapshot(self, ids: Any, out: Any = None, *, timeout: float | None = 30) -> Any:
        """Read many pages as they were at one instant.

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
        PageNotFoundError
            One of the pages was freed, or never allocated.
        """
        return self.run(lambda tx: tx.read_many(ids, out), timeout=timeout)

    def close(self) -> None:
        """Close this handle. The pages stay. Closing twice has no effect.

        Raises
        ------
        BusyError
            Calls are under way in other threads.
        """
        _core.Store.close(self)
        for each in self._backups:
            each.close()
        NamedObject.close(self)
