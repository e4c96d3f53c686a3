# Stubs of the pools of the extension module _core._core. _core.pyi imports them.
from typing import Any, final

from numpy.typing import ArrayLike, NDArray
from typing_extensions import Buffer, Self

from ._core import Context, Descriptor, Region, Remote

_Buffer = Buffer | NDArray[Any]

@final
class Pool:
    """One memory from which many regions are cut: a region of a pool costs no file descriptor and no registration.

    :meth:`Context.pool` creates one. Regions that are freed are used again. Their memory is not cleared, and begins at
    a multiple of 64 bytes. The pool supports the buffer protocol, and its :attr:`descriptor` stands for all of it.

    The right to a pool is one: **a process with access to one region has it to all.** The attaching process keeps
    each op within its region, and the owner refuses the descriptor of a freed region when it is attached. A remote that
    is attached already is not told that its region has been freed: it reads and writes whatever lies there now. So a
    pool is for memory whose users trust each other and agree on when a region is free, such as the blocks of a cache.
    Memory that must be taken from a user is a region of its own (:meth:`Context.allocate`).

    Raises
    ------
    ClosedError, ForkError
        Raised by every method: the pool is closed, or the process is a forked child of the one that opened the context.

    Examples
    --------
    >>> with context.pool(1 << 30) as pool:
    ...     blocks = pool.allocate_many(np.full(10_000, 4096))
    ...     send(blocks[[3, 17, 40]].tobytes())  # to the process that calls attach_many
    ...     pool.array()[blocks["offset"][3]] = 7
    ...     pool.free_many(blocks)
    """

    @property
    def context(self) -> Context:
        """The context that created the pool."""

    @property
    def nbytes(self) -> int:
        """Length in bytes, a multiple of 64."""

    @property
    def access(self) -> str:
        """Rights of other processes: letters of "rwa" (read, write, atomics)."""

    @property
    def closed(self) -> bool:
        """Whether the pool has been closed."""

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of the whole pool, for processes that agree on offsets in it by other means."""

    def array(self) -> NDArray[Any]:
        """Return a view of all of the pool's memory as bytes, without a copy.

        Returns
        -------
        ndarray
            The view. The pool cannot be closed while it exists.
        """

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def allocate(self, nbytes: int) -> Region:
        """Cut one region from the pool.

        Parameters
        ----------
        nbytes : int
            Length in bytes, at least 1.

        Returns
        -------
        Region
            A region like any other. Closing it gives its memory back to the pool.

        Raises
        ------
        PoolFullError
            No free run of the pool is long enough. The message says how full the pool is.
        InvalidArgumentError
            The length is invalid.
        """

    def allocate_many(self, sizes: ArrayLike) -> NDArray[Any]:
        """Cut many regions from the pool: all or none, without an object for each.

        Parameters
        ----------
        sizes : array_like of int
            The length of each region in bytes: ``np.full(n, nbytes)`` for n equal ones.

        Returns
        -------
        ndarray
            A structured array with an element for each region. The bytes of an element are the region's descriptor, so
            ``blocks[[3, 17]].tobytes()`` is what :meth:`Context.attach_many` takes, and ``blocks[3].tobytes()`` what
            :meth:`Context.attach` takes. The fields "offset" and "nbytes" say where the region lies in the pool.

        Raises
        ------
        PoolFullError
            The pool has no room for all of them.
        InvalidArgumentError
            The lengths are no one-dimensional array of integers from 1 on.
        """

    def free_many(self, regions: _Buffer) -> None:
        """Give regions of :meth:`allocate_many` back: all or none. From then on their descriptors are refused as stale.

        Parameters
        ----------
        regions : ndarray or bytes-like
            Elements of what :meth:`allocate_many` returned, or their bytes.

        Raises
        ------
        StaleDescriptorError
            One of them has been freed before, or comes twice; ``error.index`` says which.
        InvalidArgumentError
            One of them is of another pool, or is the region of a handle (:meth:`allocate`), which is to be closed.
        DescriptorError
            One of them is damaged.
        NonContiguousError
            The array is not C-contiguous.
        """

    def close(self) -> None:
        """Close the pool: every descriptor of it becomes stale. Closing twice has no effect.

        Raises
        ------
        BusyError
            Regions of :meth:`allocate` are open, or there are views of the pool.
        """

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def __len__(self) -> int: ...

@final
class Remotes:
    """Many regions of other processes, attached in one call and without an object for each.

    :meth:`Context.attach_many` creates one. ``remotes[i]`` makes a :class:`Remote` of the i-th region, which may
    outlive the collection and need not be closed. Offsets and lengths are in bytes, timeouts in seconds.

    Raises
    ------
    OutOfBoundsError
        There is no region of this number, or the access would leave the region.
    AccessDeniedError, StaleDescriptorError, PeerDeadError, OutcomeUnknownError, TimeoutError, TransportError
        As for :class:`Remote`. The memory is stale when its pool or region has been closed; that a region of a pool has
        been freed is not noticed (:class:`Pool`).
    ClosedError, ForkError
        They are closed, or the process is a forked child of the one that attached.

    Examples
    --------
    >>> with context.attach_many(descriptors) as blocks:
    ...     out = np.empty((3, 4096), "u1")
    ...     blocks.read_many([3, 17, 40], 0, out)
    """

    @property
    def context(self) -> Context:
        """The context that attached them."""

    @property
    def closed(self) -> bool:
        """Whether they have been closed."""

    @property
    def nbytes(self) -> NDArray[Any]:
        """The length of each region."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int) -> Remote: ...
    def read_many(self, regions: ArrayLike, offsets: ArrayLike, out: _Buffer, timeout: float | None = None) -> None:
        """Read pieces of one length from many regions, in one call of the core.

        Parameters
        ----------
        regions : array_like of int
            The number of the region of each piece.
        offsets : int or array_like of int
            Where each piece begins in its region: one number for all of them, or as many as regions.
        out : buffer
            Receives the pieces, one behind another. Its length divided by their number is the length of each.
        timeout : float, optional
            Seconds for all of them together.

        Raises
        ------
        InvalidArgumentError
            The arrays do not fit each other.
        """

    def write_many(self, regions: ArrayLike, offsets: ArrayLike, data: _Buffer, timeout: float | None = None) -> None:
        """Write pieces of one length to many regions, in one call of the core.

        Parameters
        ----------
        regions : array_like of int
            The number of the region of each piece.
        offsets : int or array_like of int
            Where each piece begins in its region: one number for all of them, or as many as regions.
        data : buffer
            The pieces, one behind another. Its length divided by their number is the length of each.
        timeout : float, optional
            Seconds for all of them together.

        Raises
        ------
        InvalidArgumentError
            The arrays do not fit each other.
        """

    def close(self) -> None:
        """Close them. Closing twice has no effect; remotes that were made of single ones stay open.

        Raises
        ------
        BusyError
            Calls are in progress in other threads.
        """

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
