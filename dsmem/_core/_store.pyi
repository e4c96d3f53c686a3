from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar, overload

from numpy.typing import ArrayLike, NDArray
from typing_extensions import Buffer, Self

from ._page import PageMetadata
from ._remote import Remote

_Buffer = Buffer | NDArray[Any]
_Out = TypeVar("_Out", bound=_Buffer)
_T = TypeVar("_T")

class Store:
    """The core of :class:`dsmem.Store`: one client of a store of pages."""

    def __init__(self, remotes: tuple[Remote, ...]) -> None: ...
    @property
    def page_size(self) -> int:
        """Bytes of a page."""

    @property
    def _shape(self) -> dict[str, int]: ...
    def allocate(self) -> int:
        """Allocate a page, which is all zeros.

        Returns
        -------
        int
            Its id, which is never 0 and not given to another page.

        Raises
        ------
        StoreFullError
            No page is free.
        """

    def allocate_many(self, n: int) -> NDArray[Any]:
        """Allocate n pages, which are all zeros: all of them or none.

        Where it fails while a server does not answer, pages that it had by then are given back with the next
        allocation, or when the handle is closed. One that is not closed leaves them allocated.

        Parameters
        ----------
        n : int
            Number of pages.

        Returns
        -------
        numpy.ndarray
            Their ids, uint64.

        Raises
        ------
        StoreFullError
            Fewer pages are free. None was allocated.
        """

    @overload
    def read(self, pid: int, out: None = None) -> bytes: ...
    @overload
    def read(self, pid: int, out: _Out) -> _Out:
        """Read a page. It is whole, and of one version.

        Parameters
        ----------
        pid : int
            Its id.
        out : buffer, optional
            Writable memory of exactly a page.

        Returns
        -------
        bytes or buffer
            The page, or ``out`` if it is given.

        Raises
        ------
        PageNotFoundError
            The page was freed, or never allocated.
        InvalidArgumentError
            ``out`` has another size than a page.
        """

    def read_many(self, ids: ArrayLike, out: _Buffer | None = None, *, status: _Buffer | None = None) -> Any:
        """Read many pages in one call. Each is whole; together they are no snapshot.

        Parameters
        ----------
        ids : array_like
            The ids of the pages. An array of uint64 is not copied.
        out : buffer, optional
            Writable memory of as many pages. By default an array of uint8 with a row for each page is made.
        status : buffer, optional
            Writable memory of a byte for each page, such as an array of uint8. Then a page that is missing, damaged or
            locked does not end the call: its :class:`~dsmem.store.PageStatus` says it, what ``out`` has of it is
            undefined, and the others are read. A call waits for one lock, and then only as long for others as it takes
            to see whether their holder is dead. After an exception what it says is undefined.

        Returns
        -------
        numpy.ndarray or buffer
            The array, or ``out`` if it is given.

        Raises
        ------
        PageNotFoundError
            The message has the index of the page. Those before it were read, and none after it. Not with ``status``.
        InvalidArgumentError
            ``ids`` are no page ids, or ``out`` or ``status`` has another size than they have together.
        """

    def write(self, pid: int, data: _Buffer) -> int:
        """Replace a page, at one instant.

        Parameters
        ----------
        pid : int
            Its id.
        data : bytes-like
            Exactly a page.

        Returns
        -------
        int
            Its new version.

        Raises
        ------
        PageNotFoundError
            The page was freed, or never allocated.
        InvalidArgumentError
            ``data`` has another size than a page.
        """

    def write_many(self, ids: ArrayLike, data: _Buffer, *, status: _Buffer | None = None) -> NDArray[Any]:
        """Replace many pages in one call, one after another.

        Parameters
        ----------
        ids : array_like
            The ids of the pages. An array of uint64 is not copied.
        data : bytes-like
            As many pages.
        status : buffer, optional
            Writable memory of a byte for each page, such as an array of uint8. Then a page that is missing, damaged or
            locked does not end the call: its :class:`~dsmem.store.PageStatus` says it, and the others are written.
            Locks are waited for as by :meth:`read_many`. After an exception what it says is undefined.

        Returns
        -------
        numpy.ndarray
            Their new versions, uint64; 0 for those that ``status`` says were not written.

        Raises
        ------
        PageNotFoundError
            The message has the index of the page. Those before it were written, and none after it. Where the
            memory is not mapped here, some after it may have been. Not with ``status``.
        InvalidArgumentError
            ``ids`` are no page ids, or ``data`` or ``status`` has another size than they have together.
        """

    def version(self, pid: int) -> int:
        """Return the version of a page, which grows with each change.

        Parameters
        ----------
        pid : int
            Its id.

        Returns
        -------
        int
            The version.

        Raises
        ------
        PageNotFoundError
            The page was freed, or never allocated.
        """

    def metadata(self, pid: int) -> PageMetadata:
        """Return the version of a page, and by which client it was written, when, and in which transaction.

        All of it is of one instant. The call costs as much as :meth:`version`.

        Parameters
        ----------
        pid : int
            Its id.

        Returns
        -------
        dsmem.store.PageMetadata
            A named tuple. Of a page that was not written since it was allocated only the version is known.

        Raises
        ------
        PageNotFoundError
            The page was freed, or never allocated.

        Examples
        --------
        >>> store = cluster.store("db", capacity="1MiB", create=None)
        >>> pid = store.allocate()
        >>> with store.transaction() as tx:
        ...     tx.write(pid, bytes(4096))
        >>> said = store.metadata(pid)
        >>> said.version == store.version(pid), said.slot, said.transaction
        (True, 0, 1)
        >>> abs(time.time() - said.time) < 60
        True
        """

    def compare_write(self, pid: int, version: int, data: _Buffer) -> int:
        """Replace a page if it still has a version.

        Parameters
        ----------
        pid : int
            Its id.
        version : int
            The version that it must have.
        data : bytes-like
            Exactly a page.

        Returns
        -------
        int
            Its new version.

        Raises
        ------
        ConflictError
            The page has another version. Nothing was written.
        PageNotFoundError
            The page was freed, or never allocated.
        InvalidArgumentError
            ``data`` has another size than a page.
        """

    def _free(self, pid: int) -> None: ...
    def _check(self, first: int, n: int) -> list[tuple[int, int, int, int, bool, bool]]: ...
    def _repair(self, number: int) -> bool: ...
    @overload
    async def read_async(self, pid: int, out: None = None) -> bytes: ...
    @overload
    async def read_async(self, pid: int, out: _Out) -> _Out:
        """:meth:`read` in an event loop.

        Parameters
        ----------
        pid : int
            Its id.
        out : buffer, optional
            Writable memory of exactly a page.

        Returns
        -------
        bytes or buffer
            The page, or ``out`` if it is given.

        Raises
        ------
        PageNotFoundError
            The page was freed, or never allocated.
        InvalidArgumentError
            ``out`` has another size than a page.

        Notes
        -----
        The loop does not wait: what is not in mapped memory, or is being changed by others, a thread of the handle
        does, which works for its tasks one after another. A task that is cancelled waits 0.2 s at most for that to
        end: so after a cancel a change was made once or not at all, and memory that was passed may be in use until
        the memory's owner has answered.

        Examples
        --------
        >>> async def both(store, mine, yours):
        ...     return await asyncio.gather(store.read_async(mine), store.read_async(yours))
        """

    async def read_many_async(
        self, ids: ArrayLike, out: _Buffer | None = None, *, status: _Buffer | None = None
    ) -> Any:
        """:meth:`read_many` in an event loop.

        Parameters
        ----------
        ids : array_like
            The ids of the pages.
        out : buffer, optional
            Writable memory of as many pages. By default an array of uint8 with a row for each page is made.
        status : buffer, optional
            As for :meth:`read_many`.

        Returns
        -------
        numpy.ndarray or buffer
            The array, or ``out`` if it is given.

        Raises
        ------
        PageNotFoundError, InvalidArgumentError
            As by :meth:`read_many`.
        """

    async def write_async(self, pid: int, data: _Buffer) -> int:
        """:meth:`write` in an event loop.

        Parameters
        ----------
        pid : int
            Its id.
        data : bytes-like
            Exactly a page. It must not change until the call has ended.

        Returns
        -------
        int
            Its new version.

        Raises
        ------
        PageNotFoundError, InvalidArgumentError
            As by :meth:`write`.
        """

    async def write_many_async(self, ids: ArrayLike, data: _Buffer, *, status: _Buffer | None = None) -> NDArray[Any]:
        """:meth:`write_many` in an event loop.

        Parameters
        ----------
        ids : array_like
            The ids of the pages.
        data : bytes-like
            As many pages. They must not change until the call has ended.
        status : buffer, optional
            As for :meth:`write_many`.

        Returns
        -------
        numpy.ndarray
            Their new versions, uint64.

        Raises
        ------
        PageNotFoundError, InvalidArgumentError
            As by :meth:`write_many`.
        """

    async def version_async(self, pid: int) -> int:
        """:meth:`version` in an event loop.

        Parameters
        ----------
        pid : int
            Its id.

        Returns
        -------
        int
            The version.

        Raises
        ------
        PageNotFoundError
            The page was freed, or never allocated.
        """

    async def metadata_async(self, pid: int) -> PageMetadata:
        """:meth:`metadata` in an event loop.

        Parameters
        ----------
        pid : int
            Its id.

        Returns
        -------
        dsmem.store.PageMetadata
            As of :meth:`metadata`.

        Raises
        ------
        PageNotFoundError
            The page was freed, or never allocated.
        """

    async def compare_write_async(self, pid: int, version: int, data: _Buffer) -> int:
        """:meth:`compare_write` in an event loop.

        Parameters
        ----------
        pid : int
            Its id.
        version : int
            The version that it must have.
        data : bytes-like
            Exactly a page. It must not change until the call has ended.

        Returns
        -------
        int
            Its new version.

        Raises
        ------
        ConflictError, PageNotFoundError, InvalidArgumentError
            As by :meth:`compare_write`.
        """

    async def allocate_async(self) -> int:
        """:meth:`allocate` in an event loop. If the task is cancelled, the page is freed.

        Returns
        -------
        int
            The id of the page.

        Raises
        ------
        StoreFullError
            No page is free.
        """

    async def allocate_many_async(self, n: int) -> NDArray[Any]:
        """:meth:`allocate_many` in an event loop. If the task is cancelled, the pages are freed.

        Parameters
        ----------
        n : int
            Number of pages.

        Returns
        -------
        numpy.ndarray
            Their ids, uint64.

        Raises
        ------
        StoreFullError
            Fewer pages are free. None was allocated.
        """

    async def _free_async(self, pid: int) -> None: ...
    async def _call_async(self, call: Callable[[], _T]) -> _T: ...
    def stat(self) -> dict[str, int]:
        """Return the properties of the store and how much of it is in use, as a dict.

        Returns
        -------
        dict
            ``page_size``, ``pages``, ``members``, ``replicas`` and ``extents`` are those of its creation. ``free`` is
            the number of free pages, ``handles`` that of open handles, which includes those of dead processes until
            others take their places. ``repaired`` is the number of pages that this handle has repaired.
        """

    @property
    def counts(self) -> dict[str, int]:
        """Counters of what this handle has done. They are read one after another, not at one moment.

        read, version, write, compare_write, free, commit, snapshot
            Calls that have succeeded. ``commit`` is that of transactions, also those of :meth:`~dsmem.Store.run` and of
            :meth:`~dsmem.Store.snapshot`. Reads of a transaction are not counted. :meth:`metadata` counts as
            ``version``.
        read_many, write_many, allocate
            The same. ``read_many_pages``, ``write_many_pages`` and ``allocate_pages`` are how many pages these
            have read, written and allocated: those that ``status`` names as not done are not among them.
            :meth:`allocate_many` counts as ``allocate``.
        retries
            How often a call has looked at a page again, since another client had changed or locked it. That costs time,
            and no more.
        conflicts
            ConflictErrors: of compare_write, and of transactions, also where ``run`` has then tried again.
        unknown
            Changes of which the answer was lost. In a store of a coordinator the next epoch says of most what has
            become of them.
        failed
            Calls that have ended with another exception of the store.
        repaired
            Pages that were damaged at some copies, and that this handle has read from another copy and written again.

        Notes
        -----
        A call that goes on in another epoch of a store of a coordinator counts each time that it was tried. In a child
        of fork() a handle of mapped memory begins with zeros; one of other memory can't be used there.

        Examples
        --------
        >>> store = cluster.store("db", capacity="1MiB", create=None)
        >>> page = store.read(store.allocate())
        >>> store.counts["read"], store.counts["allocate_pages"]
        (1, 1)
        """

    @property
    def latencies(self) -> dict[str, dict[str, float]]:
        """How long the calls of this handle take.

        Where memory is mapped, one call of 64 of each kind is timed, and the first one; elsewhere each is. Calls that
        fail are not, but for those of a store of a coordinator: there a time is that of the whole call, with questions
        to the coordinator and waits for another epoch, and those that end because of the store count as well.

        Returns
        -------
        dict
            For each kind of call in :attr:`counts` that was timed a dict of ``samples``, the number of times, and
            ``p50`` and ``p99``, the percentiles in seconds, to an eighth.

        Examples
        --------
        >>> store = cluster.store("db", capacity="1MiB", create=None)
        >>> version = store.write(store.allocate(), bytes(4096))
        >>> sorted(store.latencies["write"])
        ['p50', 'p99', 'samples']
        """

    def __del__(self) -> None: ...
    def _counts(self) -> dict[str, int]: ...
    def _times(self) -> dict[str, dict[int, int]]: ...
    def _conflicted(self) -> None: ...
    def _snapshot_begins(self) -> int: ...
    def _snapshot_ends(self, began: int) -> None: ...
    @property
    def _remotes(self) -> tuple[Remote, ...]: ...
    def _part_for_good(self) -> None: ...
    def _outcome(self, doubts: bytes) -> tuple[int, int]: ...
    def _demand(self, copies: int) -> None: ...
    def _has_demanded(self) -> bool: ...
    def _let_go(self, pids: list[int]) -> list[int]: ...
    def _reopen(self, remotes: tuple[Remote, ...]) -> bool: ...
    def close(self) -> None:
        """End the client. Closing twice has no effect."""

class Transaction:
    """The core of :class:`dsmem.store.Transaction`."""

    def __init__(self, store: Store, opaque: bool = False) -> None: ...
    def _wait_until(self, time: float) -> None: ...
    @property
    def _kept(self) -> list[int]: ...
    @overload
    def read(self, pid: int, out: None = None) -> bytes: ...
    @overload
    def read(self, pid: int, out: _Out) -> _Out:
        """Read a page: as the transaction has written it, or as it is in the store.

        Parameters
        ----------
        pid : int
            Its id.
        out : buffer, optional
            Writable memory of exactly a page.

        Returns
        -------
        bytes or buffer
            The page, or ``out`` if it is given.

        Raises
        ------
        ConflictError
            A page that the transaction has read before has changed since.
        PageNotFoundError
            The page was freed, or never allocated.
        InvalidArgumentError
            ``out`` has another size than a page, or the transaction has read 65536 pages.
        """

    def read_many(self, ids: ArrayLike, out: _Buffer | None = None) -> Any:
        """Read many pages in one call.

        Parameters
        ----------
        ids : array_like
            The ids of the pages.
        out : buffer, optional
            Writable memory of as many pages. By default an array of uint8 with a row for each page is made.

        Returns
        -------
        numpy.ndarray or buffer
            The array, or ``out`` if it is given.

        Raises
        ------
        ConflictError
            A page that the transaction has read before has changed since.
        PageNotFoundError
            One of the pages was freed, or never allocated.
        InvalidArgumentError
            ``ids`` are no page ids, or ``out`` has another size than they have together.
        """

    def write(self, pid: int, data: _Buffer) -> None:
        """Replace a page when the transaction is committed.

        Parameters
        ----------
        pid : int
            Its id. That there is such a page is found out by the commit.
        data : bytes-like
            Exactly a page, which is copied.

        Raises
        ------
        PageNotFoundError
            The transaction has freed the page.
        InvalidArgumentError
            ``data`` has another size than a page, or the transaction changes 160 other pages.
        """

    def free(self, pid: int) -> None:
        """Free a page when the transaction is committed.

        Parameters
        ----------
        pid : int
            Its id.

        Raises
        ------
        PageNotFoundError
            The transaction has freed the page before.
        InvalidArgumentError
            The transaction changes 160 other pages.
        """

    def allocate(self) -> int:
        """Allocate a page, which is all zeros. If the transaction is not committed, the page is freed.

        Returns
        -------
        int
            Its id.

        Raises
        ------
        StoreFullError
            No page is free.

        Notes
        -----
        The page is allocated at once. It stays so, and nothing may know its id, if the process dies before the end of
        the block, or after OutcomeUnknownError, or where memory cannot be reached when it is to be freed.
        """

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None: ...

class StoreFill:
    """Makes a copy of an extent of a store again at another node, while clients use the store.

    Rounds copy the pages that have changed since the round before. At the end of a change of epoch, when no client has
    access and the copies that are left were recovered, :meth:`finish` copies the rest. It is used by one thread at a
    time; another call raises BusyError.

    Parameters
    ----------
    source : Remote
        A copy of the extent, the primary.
    target : Remote
        Memory formatted as another copy of it (`store_format`), to which no other process has access.

    Raises
    ------
    MismatchError
        They are not two copies of one extent of a store.
    """

    def __init__(self, source: Remote, target: Remote) -> None: ...
    def round(self, most_bytes: int) -> dict[str, int]:
        """Go on with a round over all pages, or begin another one.

        Parameters
        ----------
        most_bytes : int
            Return when so many bytes were copied, though the round is not done. For pacing.

        Returns
        -------
        dict
            ``copied``: pages, since the round began. ``left``: pages that are locked, or have changed while they were
            read, so that another round is to copy them. ``passed``: how many of all pages the round has come past.
            ``done``: whether the round is. ``damaged``: 0.

        Raises
        ------
        TransportError, PeerDeadError, StaleDescriptorError
            A copy is out of reach. The call may be repeated.
        """

    def finish(self, source: Remote) -> dict[str, int]:
        """Copy all that is left, and what the store says beside its pages.

        Then `store_recover` of all copies, this one among them, makes it belong to the store.

        Parameters
        ----------
        source : Remote
            A copy that `store_recover` has been called for, to which no client has access. It need not be the one of
            before, whose descriptor a fence has ended.

        Returns
        -------
        dict
            As of :meth:`round`. ``damaged``: pages whose bytes are not the ones that were written; they are copied all
            the same, and a read refuses them.

        Raises
        ------
        TransportError, PeerDeadError, StaleDescriptorError
            A copy is out of reach. The call may be repeated, also with another source.
        CorruptError
            The source was not recovered.
        """

    def close(self) -> None:
        """Forget what was copied. It ends nothing at the owners of the memory."""

STORE_DONE: int  # of _outcome(): the change was made
STORE_NOT_DONE: int  # it was not, and never will be

def store_nbytes(page_size: int, pages: int, members: int, replicas: int, extents: int = 1) -> int:
    """Number of bytes that each copy of each extent of such a store takes."""

def store_format(
    memory: _Buffer,
    page_size: int,
    pages: int,
    members: int,
    replicas: int,
    index: int,
    id: int,
    extents: int = 1,
    extent: int = 0,
    spread: int = 0,
    nodes: int = 0,
) -> None:
    """Write one copy of an extent of an empty store into zeroed memory of that many bytes. id 0: of a new store."""

def store_look(remote: Remote) -> dict[str, int]:
    """Return what the header of a copy says. ``state``: 0 being made, 1 complete, 2 given up."""

def store_recover(remotes: tuple[Remote, ...], epoch: int) -> dict[str, int]:
    """Make a store of the copies that have survived, to which no client has access.

    Parameters
    ----------
    remotes : tuple of Remote
        One for each copy, of each extent at least one, all of one context. The first of an extent is its primary.
    epoch : int
        Of the store from then on: greater than any before.

    Returns
    -------
    dict
        How many changes of pages were ``forward``, made, and ``back``, undone; how many transactions were
        ``committed`` and ``given_up``; and how many pages were ``differing``, without a lock.

    Raises
    ------
    TransportError, StaleRemoteError
        A copy is out of reach. Until a recovery has succeeded the store can't be opened.
    CorruptError
        The copies contradict each other.
    MismatchError
        Not all of them are copies of one store, or an extent has none.
    InvalidArgumentError
        The store had a later epoch.
    UnsupportedError
        One is a file that is mapped.
    """

def store_settle(remote: Remote, before: int, state: int) -> int:
    """Change the state in copy 0 if it is 'before'; return what it is now, by whomever."""

def latencies_of(times: Mapping[str, Mapping[int, int]]) -> dict[str, dict[str, float]]:
    """Return samples and percentiles in seconds, from how many times there are of each class."""
