from types import TracebackType
from typing import Any, TypeVar, overload

from numpy.typing import ArrayLike, NDArray
from typing_extensions import Buffer, Self

from ._remote import Remote

_Buffer = Buffer | NDArray[Any]
_Out = TypeVar("_Out", bound=_Buffer)

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

    def read_many(self, ids: ArrayLike, out: _Buffer | None = None) -> Any:
        """Read many pages in one call. Each is whole; together they are no snapshot.

        Parameters
        ----------
        ids : array_like
            The ids of the pages. An array of uint64 is not copied.
        out : buffer, optional
            Writable memory of as many pages. By default an array of uint8 with a row for each page is made.

        Returns
        -------
        numpy.ndarray or buffer
            The array, or ``out`` if it is given.

        Raises
        ------
        PageNotFoundError
            The message has the index of the page. Those before it were read, and none after it.
        InvalidArgumentError
            ``ids`` are no page ids, or ``out`` has another size than they have together.
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

    def write_many(self, ids: ArrayLike, data: _Buffer) -> NDArray[Any]:
        """Replace many pages in one call, one after another.

        Parameters
        ----------
        ids : array_like
            The ids of the pages. An array of uint64 is not copied.
        data : bytes-like
            As many pages.

        Returns
        -------
        numpy.ndarray
            Their new versions, uint64.

        Raises
        ------
        PageNotFoundError
            The message has the index of the page. Those before it were written, and none after it. Where the
            memory is not mapped here, some after it may have been.
        InvalidArgumentError
            ``ids`` are no page ids, or ``data`` has another size than they have together.
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
    def stat(self) -> dict[str, int]:
        """Return the properties of the store and how much of it is in use, as a dict.

        Returns
        -------
        dict
            ``page_size``, ``pages``, ``members`` and ``replicas`` are those of its creation. ``free`` is the number of
            free pages, ``handles`` that of open handles, which includes those of dead processes until others take their
            places.
        """

    def close(self) -> None:
        """End the client. Closing twice has no effect."""

class Transaction:
    """The core of :class:`dsmem.store.Transaction`."""

    def __init__(self, store: Store, opaque: bool = False) -> None: ...
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

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None: ...

def store_nbytes(page_size: int, pages: int, members: int, replicas: int) -> int:
    """Number of bytes that each copy of such a store takes."""

def store_format(memory: _Buffer, page_size: int, pages: int, members: int, replicas: int, index: int, id: int) -> None:
    """Write one copy of an empty store into zeroed memory of that many bytes. id 0: of a new store."""

def store_look(remote: Remote) -> dict[str, int]:
    """Return what the header of a copy says. ``state``: 0 being made, 1 complete, 2 given up."""

def store_settle(remote: Remote, state: int) -> int:
    """Decide in copy 0 what becomes of a store that is being made; return what has been decided, by whomever."""
