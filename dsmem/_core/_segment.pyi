# Stubs of the segments of the extension module _core._core. _core.pyi imports them.
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer, Self

from ._core import Region, Remote

_Buffer = Buffer | NDArray[Any]

class SegmentLayout:
    """Layout of a segment in memory (docs/protocols/segment.md).

    Raises
    ------
    InvalidArgumentError
        There are too many axes, an axis other than the first has length 0, the dtype is too long, or the capacity is
        smaller than the first axis of the shape.
    OutOfMemoryError
        The segment would have more bytes than the address space.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: bytes, itemsize: int, versioned: bool, capacity: int | None
    ) -> None: ...
    @property
    def nbytes(self) -> int:
        """Size of the whole object in bytes."""

    def format(self, memory: _Buffer) -> None:
        """Write an empty segment into zeroed memory."""

class SegmentCore:
    """Base class of dsmem.Segment. Each method is one call of the core.

    Indices are as for NumPy arrays. On mapped memory every NumPy index works. Over the network ints, slices, tuples of
    these and lists of rows work, but masks do not.

    Raises
    ------
    ClosedError, ForkError
        The segment is closed, or the process is a forked child and the memory belongs to a context.
    OutOfBoundsError, InvalidArgumentError
        The index is out of bounds, or is invalid.
    AccessDeniedError
        A method would change the segment, which was attached with ``readonly=True``.
    TransportError, PeerDeadError, TimeoutError
        The memory belongs to another process, and an op failed.
    """

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""

    @property
    def readonly(self) -> bool:
        """Whether the segment was attached without the right to change it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Current lengths of the axes."""

    @property
    def capacity(self) -> int:
        """Number of rows (elements of the first axis) that the segment was created with room for."""

    @property
    def versioned(self) -> bool:
        """Whether the segment was created with ``versioned=True``, which :meth:`snapshot` needs."""

    @property
    def nbytes(self) -> int:
        """Current size of the array in bytes."""

    def __len__(self) -> int: ...
    @property
    def array(self) -> NDArray[Any]:
        """The memory as an array, without a copy. It is read-only if the segment was attached with ``readonly=True``.

        Raises
        ------
        NotMappedError
            The memory is not mapped in this process: use read() and write().
        """

    def read(self, index: Any = ..., out: _Buffer | None = None) -> Any:
        """Copy elements out.

        Parameters
        ----------
        index : int, slice or tuple, optional
            Which elements. The default is all.
        out : ndarray or buffer, optional
            Destination: an array of the same dtype and number of bytes, or any buffer of that number of bytes.

        Returns
        -------
        ndarray or scalar
            ``out`` if it was given. Otherwise a new array, or a scalar for a single element.

        Raises
        ------
        MismatchError
            ``out`` has another dtype or length.

        Notes
        -----
        A read of more than 8 bytes may mix old and new bytes of a concurrent write. :meth:`snapshot` does not.
        """

    def write(self, index: Any, data: Any) -> None:
        """Set elements and wake the waiters of the segment.

        Parameters
        ----------
        index : int, slice or tuple
            Which elements.
        data : array_like or bytes-like
            Anything that NumPy can assign to these elements. The contents of bytes, bytearrays and memoryviews are
            copied unchanged, and must have the length of the elements.

        Raises
        ------
        InvalidArgumentError, MismatchError
            The values do not fit the dtype, or their shape or length does not fit the index.
        """

    def fetch_add(self, index: int | tuple[int, ...], value: int) -> int:
        """Add to an element of 8-byte integers atomically.

        Parameters
        ----------
        index : int or tuple of int
            One element.
        value : int
            The number to add. The sum wraps modulo 2**64.

        Returns
        -------
        int
            The value of the element before the addition.
        """

    def compare_swap(self, index: int | tuple[int, ...], expected: int, desired: int) -> int:
        """Replace an element of 8-byte integers atomically if it has the expected value.

        Parameters
        ----------
        index : int or tuple of int
            One element.
        expected, desired : int
            The value that the element must have, and the one that it gets.

        Returns
        -------
        int
            The value of the element before the op. It equals ``expected`` if the element was replaced.
        """

    def wait(
        self,
        index: int | tuple[int, ...],
        until: Callable[[Any], object] | object,
        timeout: float | None = None,
        *,
        spin: float | None = None,
    ) -> Any:
        """Wait until an element has a given value or satisfies a predicate.

        Parameters
        ----------
        index : int or tuple of int
            One element.
        until : object or callable
            The value, or a predicate that is called with the element.
        timeout : float, optional
            Seconds until TimeoutError; None: no limit.
        spin : float, optional
            Seconds to poll before sleeping, on mapped memory. The default is 20 µs.

        Returns
        -------
        scalar
            The value of the element that ended the wait.

        Raises
        ------
        TimeoutError
            The element did not have such a value in time.

        Notes
        -----
        Methods of segments on the same host wake the waiter at once. On mapped memory, changes through views or over
        the network are seen within 50 ms; on remote memory every change is seen within about 1 ms. A value that the
        element has only for a short time may be missed.
        """

    async def wait_async(
        self, index: int | tuple[int, ...], until: Callable[[Any], object] | object, timeout: float | None = None
    ) -> Any:
        """:meth:`wait` in an event loop.

        Parameters
        ----------
        index : int or tuple of int
            One element.
        until : object or callable
            The value, or a predicate that is called with the element, in the event loop.
        timeout : float, optional
            Seconds until TimeoutError; None: no limit.

        Returns
        -------
        scalar
            The value of the element that ended the wait.

        Examples
        --------
        >>> async def ready(segment):
        ...     return await segment.wait_async(0, lambda state: state >= 2, timeout=10)
        """

    def writer(self) -> int | None:
        """Return the identity of the process that is writing a new version, for :meth:`break_`, or None."""

    def break_(self, writer: int) -> bool:
        """Take the turn from a writer that is known to be dead, although its death is not proven here.

        Parameters
        ----------
        writer : int
            The identity that :meth:`writer` returned, so that the turn is not taken from a later writer.

        Returns
        -------
        bool
            False if that process is not writing.

        Notes
        -----
        The segment returns to the previous version, or advances to the writer's version if that is complete. The call
        is safe only if the writer can never access the memory again, for example because its host is off. Processes of
        the same host do not need ``break_``. A writer that is alive gets NotHeldError when it tries to commit, and its
        version number is skipped.
        """

    def snapshot(self, timeout: float | None = None) -> tuple[int, NDArray[Any]]:
        """Copy one complete version of a versioned segment.

        Parameters
        ----------
        timeout : float, optional
            Seconds until TimeoutError. Only a reader without the right to write can time out: any other reader makes
            writers wait after several of its attempts have been overtaken by writes.

        Returns
        -------
        version : int
            Number of the version. Each write increases it by one.
        copy : ndarray
            The contents after all writes up to that version, and no others. A write whose writer dies has no effect.

        Raises
        ------
        InvalidArgumentError
            The segment was created without ``versioned=True``.
        """

    def _bind(
        self, remote: Remote, region: Region | None, readonly: bool, parse: Callable[[bytes], np.dtype[Any]]
    ) -> None: ...
    def _close(self, part: bool = False) -> None: ...
    @property
    def _is_open(self) -> bool: ...
    def _reach(self) -> None: ...
    def _remap(self, nbytes: int) -> Any: ...
    def _nbytes_for(self, rows: int) -> int: ...
    def _shape(self) -> tuple[int, ...]: ...
    def _pieces(self, index: Any) -> tuple[tuple[int, ...], int, NDArray[np.uint64]]: ...
    def _read_remote(self, index: Any, out: Any) -> tuple[Collection[int], int, Any, Any]: ...
    def _write_remote(self, index: Any, data: Any) -> tuple[Collection[int], int, Any]: ...
    def _set_rows(self, rows: int) -> None: ...

@final
class Writing:
    """The turn of a versioned segment's writer: a context manager whose value is the array to change.

    The turn ends with the block or with the object, wherever an exception occurs.

    Parameters
    ----------
    segment : SegmentCore
        The segment. It cannot be closed during the turn.
    timeout : float, optional
        Seconds to wait for another writer.
    """

    def __new__(cls, segment: SegmentCore, timeout: float | None = None) -> Self: ...
    def __enter__(self) -> NDArray[Any]: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

def publish(segment: SegmentCore, data: _Buffer, timeout: float | None = None) -> int | None:
    """Replace the contents of a versioned segment in one turn and return the version, or None if its length differs."""

def resize(segment: SegmentCore, rows: int, timeout: float | None = None) -> None:
    """Change the number of rows of a versioned segment in one turn."""
