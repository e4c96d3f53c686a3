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
    """How a segment of this shape is laid out (docs/protocols/segment.md).

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
        """Bytes of all of it."""

    def format(self, memory: _Buffer) -> None:
        """Write an empty segment into zeroed memory."""

class SegmentCore:
    """What dsmem.Segment does in one crossing. Indices are as of NumPy arrays: ints, slices, tuples of them.

    Of memory that is near every index of NumPy's works; of far memory also a list of rows, but no mask.
    """

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the elements."""

    @property
    def readonly(self) -> bool:
        """Whether it was attached without the right to change it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes now."""

    @property
    def capacity(self) -> int:
        """Elements of the first axis for which there was room when it was made."""

    @property
    def versioned(self) -> bool:
        """Whether it was made with room for snapshots."""

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""

    def __len__(self) -> int: ...
    @property
    def array(self) -> NDArray[Any]:
        """The memory as an array, without a copy; read-only where the segment was attached so.

        Raises
        ------
        FarMemoryError
            The memory is on another host, or of a fabric without views.
        """

    def read(self, index: Any = ..., out: _Buffer | None = None) -> Any:
        """Copy elements.

        Parameters
        ----------
        index : int, slice or tuple, optional
            Which; all of them by default.
        out : ndarray or buffer, optional
            Where to: an array of the same dtype and as many bytes, or any buffer of as many bytes.

        Returns
        -------
        ndarray or scalar
            out where it is given, otherwise a new array, or a scalar for one element. More than 8 bytes may mix old and
            new: :meth:`snapshot` does not.

        Raises
        ------
        OutOfBoundsError, InvalidArgumentError
            The index.
        MismatchError
            out has another dtype or length.
        """

    def write(self, index: Any, data: Any) -> None:
        """Set elements, and wake those who wait for them.

        Parameters
        ----------
        index : int, slice or tuple
            Which.
        data : array_like or bytes-like
            What NumPy would assign there; bytes, bytearray and memoryview are taken as they are and must be as long.

        Raises
        ------
        OutOfBoundsError, InvalidArgumentError, MismatchError
            The index; the values; the length of bytes.
        AccessDeniedError
            The segment was attached with readonly=True.
        """

    def fetch_add(self, index: int | tuple[int, ...], value: int) -> int:
        """Add to an 8-byte integer, wrapping, atomically; returns the value before."""

    def compare_swap(self, index: int | tuple[int, ...], expected: int, desired: int) -> int:
        """Store desired into an 8-byte integer if it is expected, atomically; returns the value before."""

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
        until : value or callable
            What it shall be, or a function of it that tells.
        timeout : float, optional
            Seconds until TimeoutError.
        spin : float, optional
            Seconds to look for a change before sleeping, where the memory is near; 20 µs by default.

        Returns
        -------
        scalar
            The value that was good.

        Notes
        -----
        Changes by methods of segments on the same host wake at once; what is changed through views or from afar is
        seen within 50 ms, and where the memory is far within about 1 ms. A value that comes and goes in between may be
        missed.
        """

    async def wait_async(
        self, index: int | tuple[int, ...], until: Callable[[Any], object] | object, timeout: float | None = None
    ) -> Any:
        """:meth:`wait` in an event loop, where until is called, too.

        Examples
        --------
        >>> async def ready(segment):
        ...     return await segment.wait_async(0, lambda state: state >= 2, timeout=10)
        """

    def writer(self) -> int | None:
        """The identity of who writes a new version, as :meth:`break_` takes it; None: nobody."""

    def break_(self, writer: int) -> bool:
        """Take the turn from a writer that is known to be gone, though nothing here proves it.

        The segment is brought back to the version before, or to that of the writer where it had come so far. Safe
        where the writer will never again touch the memory: its host is off. Processes of one host need no break_; one
        that lives all the same gets NotHeldError when it would commit, and the version number that it had is skipped.

        Parameters
        ----------
        writer : int
            As :meth:`writer` gave it, so that the turn is not taken from a later one.

        Returns
        -------
        bool
            False: that one does not write.
        """

    def snapshot(self, timeout: float | None = None) -> tuple[int, NDArray[Any]]:
        """One whole version of a versioned segment.

        Parameters
        ----------
        timeout : float, optional
            Seconds until TimeoutError, which only readers without the right to write can meet: others make writers wait
            when they have been too quick several times.

        Returns
        -------
        (int, ndarray)
            The version, which each write raises by one, and a copy. It contains all of every write up to that version
            and nothing of others; of a writer that dies before it has finished it contains nothing.
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
    def _read_far(self, index: Any, out: Any) -> tuple[Collection[int], int, Any, Any]: ...
    def _write_far(self, index: Any, data: Any) -> tuple[Collection[int], int, Any]: ...
    def _set_rows(self, rows: int) -> None: ...

@final
class Writing:
    """The turn of a versioned segment's writer, as a context manager that gives the array to change.

    It is given back at the end of the block, or with the object, whatever an exception has interrupted.

    Parameters
    ----------
    segment : SegmentCore
        Which; it can't be closed meanwhile.
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
