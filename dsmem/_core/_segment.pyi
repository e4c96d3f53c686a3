# Segments, of the module _core._core: see there.
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer, Self

from ._core import Region, Remote

_Buffer = Buffer | NDArray[Any]

class SegmentLayout:
    """Layout of a segment of some shape (docs/protocols/segment.md).

    Raises
    ------
    InvalidArgumentError
        Too many axes, an axis but the first of length 0, too long a dtype, a capacity below the shape.
    OutOfMemoryError
        More bytes than there are addresses.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: bytes, itemsize: int, versioned: bool, capacity: int | None
    ) -> None: ...
    @property
    def nbytes(self) -> int:
        """Bytes of the whole object."""

    def format(self, memory: _Buffer) -> None:
        """Write an empty segment into zeroed memory."""

class SegmentCore:
    """Base of dsmem.Segment: each method is one call of the core.

    Indices are those of NumPy arrays. On mapped memory every index of NumPy works; over the network ints, slices,
    tuples of them and lists of rows do, but no mask.

    Raises
    ------
    ClosedError, ForkError
        The segment is closed; the process is a forked child and the memory belongs to a context.
    OutOfBoundsError, InvalidArgumentError
        The index.
    AccessDeniedError
        A change, although the segment was attached with ``readonly=True``.
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
        """Lengths of the axes, as they are now."""

    @property
    def capacity(self) -> int:
        """Length of the first axis for which the segment was made, or has remapped."""

    @property
    def versioned(self) -> bool:
        """Whether the segment was made with ``versioned=True``, for :meth:`snapshot`."""

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""

    def __len__(self) -> int: ...
    @property
    def array(self) -> NDArray[Any]:
        """The memory as an array, without a copy; read-only if the segment was attached so.

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
            Which elements; all by default.
        out : ndarray or buffer, optional
            Where to: an array of the same dtype and number of bytes, or any buffer of that number of bytes.

        Returns
        -------
        ndarray or scalar
            ``out`` if it was given; otherwise a new array, or a scalar for one element.

        Raises
        ------
        MismatchError
            ``out`` has another dtype or length.

        Notes
        -----
        More than 8 bytes may mix old and new bytes of a write under way; :meth:`snapshot` does not.
        """

    def write(self, index: Any, data: Any) -> None:
        """Set elements, and wake those that wait for them.

        Parameters
        ----------
        index : int, slice or tuple
            Which elements.
        data : array_like or bytes-like
            What NumPy would assign there. Bytes, bytearrays and memoryviews are copied as they are, and must have the
            length of the elements.

        Raises
        ------
        InvalidArgumentError, MismatchError
            The values don't fit the dtype, or their shape or length doesn't fit the index.
        """

    def fetch_add(self, index: int | tuple[int, ...], value: int) -> int:
        """Add to an element of 8-byte integers atomically.

        Parameters
        ----------
        index : int or tuple of int
            One element.
        value : int
            What to add. The sum wraps.

        Returns
        -------
        int
            The element before the addition.
        """

    def compare_swap(self, index: int | tuple[int, ...], expected: int, desired: int) -> int:
        """Replace an element of 8-byte integers atomically if it has the expected value.

        Parameters
        ----------
        index : int or tuple of int
            One element.
        expected, desired : int
            The value that it must have, and the one that it gets.

        Returns
        -------
        int
            The element before: ``expected`` if it was replaced.
        """

    def wait(
        self,
        index: int | tuple[int, ...],
        until: Callable[[Any], object] | object,
        timeout: float | None = None,
        *,
        spin: float | None = None,
    ) -> Any:
        """Sleep until an element has a value.

        Parameters
        ----------
        index : int or tuple of int
            One element.
        until : object or callable
            The value, or a function of the element that returns true.
        timeout : float, optional
            Seconds until TimeoutError; None: no limit.
        spin : float, optional
            Seconds to poll before sleeping, on mapped memory; 20 µs by default.

        Returns
        -------
        scalar
            The element that ended the wait.

        Raises
        ------
        TimeoutError
            No such value in time.

        Notes
        -----
        Methods of segments on the same host wake the waiter at once. Changes through views or over the network are
        seen within 50 ms, and on remote memory within about 1 ms. A value that comes and goes in between may be missed.
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
            The value, or a function of the element that returns true, called in the loop.
        timeout : float, optional
            Seconds until TimeoutError; None: no limit.

        Returns
        -------
        scalar
            The element that ended the wait.

        Examples
        --------
        >>> async def ready(segment):
        ...     return await segment.wait_async(0, lambda state: state >= 2, timeout=10)
        """

    def writer(self) -> int | None:
        """Identity of the process that writes a new version, for :meth:`break_`; None: none does."""

    def break_(self, writer: int) -> bool:
        """Take the turn from a writer that is known to be gone, although no death is proven here.

        Parameters
        ----------
        writer : int
            What :meth:`writer` returned, so that the turn is not taken from a later one.

        Returns
        -------
        bool
            False: that process does not write.

        Notes
        -----
        The segment goes back to the version before, or on to the writer's if that was complete. Safe if the writer can
        never again touch the memory: its host is off. Processes of one host need no ``break_``. A living writer gets
        NotHeldError when it would commit, and its version number is skipped.
        """

    def snapshot(self, timeout: float | None = None) -> tuple[int, NDArray[Any]]:
        """Copy one whole version of a versioned segment.

        Parameters
        ----------
        timeout : float, optional
            Seconds until TimeoutError, which only a reader without the right to write can meet: any other makes writers
            wait once they have been too quick several times.

        Returns
        -------
        version : int
            Its number. Each write raises it by one.
        copy : ndarray
            All of every write up to that version, and nothing of others. A writer that dies leaves nothing.

        Raises
        ------
        InvalidArgumentError
            The segment was made without ``versioned=True``.
        """

    def _bind(
        self, remote: Remote, region: Region | None, readonly: bool, parse: Callable[[bytes], np.dtype[Any]]
    ) -> None: ...
    def _close(self, part: bool = False) -> None: ...
    @property
    def _is_open(self) -> bool: ...
    def _reach(self) -> None: ...
    def _grown(self, nbytes: int) -> Any: ...
    def _nbytes_for(self, rows: int) -> int: ...
    def _shape(self) -> tuple[int, ...]: ...
    def _pieces(self, index: Any) -> tuple[tuple[int, ...], int, NDArray[np.uint64]]: ...
    def _read_remote(self, index: Any, out: Any) -> tuple[Collection[int], int, Any, Any]: ...
    def _write_remote(self, index: Any, data: Any) -> tuple[Collection[int], int, Any]: ...
    def _set_rows(self, rows: int) -> None: ...

@final
class Writing:
    """The turn of a versioned segment's writer: a context manager of the array to change.

    The turn ends with the block or with the object, whatever an exception has interrupted.

    Parameters
    ----------
    segment : SegmentCore
        It can't be closed meanwhile.
    timeout : float, optional
        Seconds to wait for another writer.
    """

    def __new__(cls, segment: SegmentCore, timeout: float | None = None) -> Self: ...
    def __enter__(self) -> NDArray[Any]: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

def publish(segment: SegmentCore, data: _Buffer, timeout: float | None = None) -> int | None:
    """Replace all of a versioned segment in one turn; the version, or None where it has another length by now."""

def resize(segment: SegmentCore, rows: int, timeout: float | None = None) -> None:
    """Change the rows of a versioned segment in one turn."""
