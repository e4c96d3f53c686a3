"""Segments: NumPy arrays in shared memory under a name.

:meth:`dsmem.Cluster.segment` creates and finds them. docs/protocols/segment.md specifies their layout.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from typing_extensions import Buffer, Self

from dsmem import _core, errors
from dsmem.clock import Deadline
from dsmem.dtypes import describe_dtype, dtype_of, parse_dtype
from dsmem.memory import Memory
from dsmem.names.base import Format
from dsmem.objects import NamedObject, Owner, remapped

__all__ = ["Segment"]

_DATA = 4096  # offset of the data: docs/protocols/segment.md
_SPIN_TRIES = 4
Value = TypeVar("Value")


class Segment(NamedObject, _core.SegmentCore):
    """An array in shared memory; :meth:`dsmem.Cluster.segment` creates and finds one.

    In memory of this host :attr:`array` is a view without a copy. :meth:`read`, :meth:`write`, the atomics,
    :meth:`wait` and :meth:`snapshot` also work in memory of another host.

    Raises
    ------
    ClosedError, ForkError
        From any method: the segment is closed; the process is a forked child and the memory belongs to a context.
    OutOfBoundsError, InvalidArgumentError
        The index is out of bounds or invalid.
    AccessDeniedError
        An attempt to change a segment that was attached with ``readonly=True``.
    TransportError, PeerDeadError, TimeoutError
        The memory belongs to another process, and an op failed.

    Warnings
    --------
    Do not mix ways to share. Elements that :meth:`fetch_add`, :meth:`compare_swap` and :meth:`update` change must be
    changed by these methods only. In a segment created with ``versioned=True``, which takes twice the memory, readers
    get whole versions from :meth:`snapshot` if all writers use :meth:`writing` and :meth:`publish`.

    Notes
    -----
    Threads may share a segment. A view keeps the memory mapped and blocks :meth:`close`. At the end of a ``with``
    statement the handle is closed, and the memory is unmapped with the last view. After a resize by another process the
    next call sees the new size; in memory of another host, the next use of :attr:`shape` does.

    Examples
    --------
    >>> with cluster.segment("table", (1000, 4), "f8", create=None) as table:
    ...     table.array[:, 2] = 1.5
    """

    def __init__(self, memory: Memory, cluster: Owner | None, name: str) -> None:
        NamedObject.__init__(self, memory, cluster, name)
        self._bind(memory.remote, memory.region, memory.ref.readonly, parse_dtype)

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""
        return not self._is_open

    @staticmethod
    def _pattern(what: Any) -> Segment | NDArray[Any]:
        """The array from which data= or like= takes shape and dtype. Bytes are an array of uint8."""
        if isinstance(what, (Segment, np.ndarray)):
            return what
        try:
            return np.frombuffer(what, "u1") if isinstance(what, bytes) else np.asarray(what)
        except (ValueError, TypeError, OverflowError, RuntimeError) as error:
            text = f"{type(what).__name__} is not an array: {error}"
            raise _core.refused(what, () if isinstance(error, TypeError) else object, text) from None

    @classmethod
    def _layout(
        cls,
        shape: int | tuple[int, ...] | None = None,
        dtype: DTypeLike | None = None,
        versioned: bool | None = None,
        capacity: int | None = None,
        data: ArrayLike | None = None,
    ) -> tuple[int, Format]:
        if shape is None:
            raise errors.InvalidArgumentError("a segment can't be made without a shape, like= or data=")
        kind, shape = _element(dtype_of(dtype), _core.shape_of(shape))  # None: float64, as NumPy has it
        layout = _core.SegmentLayout(shape, describe_dtype(kind), kind.itemsize, bool(versioned), capacity)
        if data is None:
            return layout.nbytes, layout.format
        values = _fitting(data, kind, shape)
        frames = (_DATA, _DATA + (layout.nbytes - _DATA) // 2) if versioned else (_DATA,)

        def format(view: memoryview) -> None:
            layout.format(view)
            for frame in frames:  # no other process sees them yet
                np.ndarray(shape, kind, view, frame)[...] = values

        return layout.nbytes, format

    @classmethod
    def _open(
        cls,
        memory: Memory,
        cluster: Owner | None,
        name: str,
        *,
        shape: int | tuple[int, ...] | None = None,
        dtype: DTypeLike | None = None,
        versioned: bool | None = None,
        capacity: int | None = None,
        data: ArrayLike | None = None,
    ) -> Self:
        segment = cls(memory, cluster, name)
        try:
            segment._compare(shape, dtype, versioned)
        except BaseException:
            with contextlib.suppress(errors.DsmemError):
                segment.close()
            raise
        return segment

    def _compare(self, shape: int | tuple[int, ...] | None, dtype: DTypeLike | None, versioned: bool | None) -> None:
        wanted, inner = (None, ()) if dtype is None else _element(dtype_of(dtype), ())
        axes = None if shape is None else (*_core.shape_of(shape), *inner)
        different = []
        if wanted is not None and wanted != self.dtype:
            different.append(f"dtype {self.dtype}, not {wanted}")
        if axes is not None and axes != self.shape:
            different.append(f"shape {self.shape}, not {axes}")
        if versioned is not None and bool(versioned) != self.versioned:
            different.append(f"versioned={self.versioned}, not {versioned}")
        if different:
            raise errors.MismatchError(f"segment {self._name!r} has {' and '.join(different)}")

    def _remap(self, nbytes: int) -> Memory:
        """Map nbytes of the segment, after another process has extended the file."""
        return remapped(self._memory, nbytes)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self._shape())

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def __bool__(self) -> bool:
        """Always True, whatever the segment holds, so that ``if segment`` is a test for None."""
        return True

    def __getitem__(self, index: Any) -> Any:
        """The same as :meth:`read`: a copy, also of one row. For views use :attr:`array`."""
        return self.read(index)

    def __setitem__(self, index: Any, value: Any) -> None:
        """The same as :meth:`write`."""
        self.write(index, value)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over copies of the rows. Each row is read when the iterator reaches it."""
        return (self.read(i) for i in range(len(self)))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """For numpy.asarray(segment): :attr:`array`, without a copy unless a copy or another dtype is asked for."""
        array = self.array
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise errors.InvalidArgumentError(f"dtype {array.dtype} becomes {np.dtype(dtype)} in a copy only")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        """Export the array to other libraries, without a copy."""
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def update(
        self, index: int | tuple[int, ...], function: Callable[[int], int], timeout: float | None = None
    ) -> tuple[int, int]:
        """Replace an 8-byte integer element by a function of its value, atomically.

        Parameters
        ----------
        index : int or tuple of int
            Index of one element.
        function : callable
            Takes the value and returns the new one. It is called again if another process has changed the element
            meanwhile, so it should have no side effects.
        timeout : float, optional
            Seconds until TimeoutError; None: no limit.

        Returns
        -------
        before, after : int
            The old and the new value.

        Raises
        ------
        ArgumentTypeError
            ``function`` can't be called.
        TimeoutError
            Other processes changed the element during every attempt. Nothing was written.

        Examples
        --------
        >>> segment.update(0, lambda n: min(n + 1, 100))
        (7, 8)
        """
        end = Deadline(timeout)
        if not callable(function):
            raise errors.ArgumentTypeError(f"function={function!r:.80} can't be called; pass a function")
        old = self.fetch_add(index, 0)  # raises what compare_swap would, before function is called
        for tries in range(1 << 62):
            new = function(old)
            seen = self.compare_swap(index, old, new)
            if seen == old:
                return old, new
            old = seen
            if end.expired:
                raise errors.TimeoutError(
                    f"others changed element {index!r} {tries + 1} times; nothing was written", op="update"
                )
            if tries >= _SPIN_TRIES:
                time.sleep(random.uniform(0, min(1e-3, 1e-6 * 2 ** min(tries, 10))))
        raise AssertionError

    async def read_async(self, index: Any = ..., out: NDArray[Any] | Buffer | None = None) -> Any:
        """:meth:`read` in an event loop, which goes on while an op on another host is under way.

        Parameters
        ----------
        index : int, slice or tuple, optional
            Index of the elements; all by default.
        out : ndarray or buffer, optional
            Destination, as of :meth:`read`. It stays in use until the op has ended, also if the task is cancelled.

        Returns
        -------
        ndarray or scalar
            As of :meth:`read`.
        """
        remote = self._memory.remote
        if remote.is_mapped:
            return self.read(index, out)
        offsets, each, raw, found = self._read_remote(index, out)
        await _gathered(remote.read_async, offsets, each, raw)
        if out is None:
            return found if found.shape else found[()]
        if found is not out:
            np.copyto(out, found, casting="equiv")  # type: ignore[arg-type]  # an array of this dtype
        return out

    async def write_async(self, index: Any, data: ArrayLike | Buffer) -> None:
        """:meth:`write` in an event loop, which goes on while an op on another host is under way.

        Parameters
        ----------
        index : int, slice or tuple
            Index of the elements.
        data : array_like or bytes-like
            The values, as of :meth:`write`.
        """
        remote = self._memory.remote
        if remote.is_mapped:
            self.write(index, data)
        else:
            await _gathered(remote.write_async, *self._write_remote(index, data))

    def resize(self, rows: int, timeout: float | None = None) -> None:
        """Change the length of the first axis. Rows that remain keep their index and their values.

        Parameters
        ----------
        rows : int
            The new length. New rows are zero. Rows that an earlier resize has cut off reappear with their values.
        timeout : float, optional
            Seconds to wait for another writer of a versioned segment.

        Raises
        ------
        AccessDeniedError
            The segment was attached with ``readonly=True``.
        OutOfMemoryError
            There is no room. Nothing was changed.
        InvalidArgumentError
            More rows than the ``capacity=`` with which a hosted or versioned segment was created. Only files grow.
        NameNotFoundError, StaleDescriptorError
            The segment has to grow, and its name is gone or belongs to another object.

        Notes
        -----
        Existing views stay valid and keep their rows. A segment frees no memory before it is unlinked.
        """
        if self.readonly:
            raise errors.AccessDeniedError(
                "the segment was attached with readonly=True; attach it without", op="resize"
            )
        number = _core.checked_int(rows, 0, (1 << 63) - 1)
        if not self.shape or number is None:
            raise _core.refused(rows, int, f"{rows!r} rows of a segment of shape {self.shape}")
        rows = number
        if rows > self.capacity:
            if self.versioned or not self._memory.may_grow:
                raise errors.InvalidArgumentError(f"{rows} rows; the segment was made with capacity={self.capacity}")
            remapped(self._memory, self._nbytes_for(rows), longer=True).close()
        if self.versioned:
            _core.resize(self, rows, timeout)
        else:
            self._set_rows(rows)

    def writing(self, timeout: float | None = None) -> contextlib.AbstractContextManager[NDArray[Any]]:
        """Change a versioned segment so that :meth:`snapshot` shows all of the changes or none.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for another writer, then TimeoutError. If that writer is killed, the wait ends, and the
            array is that of the previous version.

        Returns
        -------
        context manager
            Yields the array to change: the memory itself on this host, otherwise a copy that is written back at the
            end. An exception in the block undoes the changes. The segment can't be closed inside the block.

        Raises
        ------
        InvalidArgumentError
            On entering the block: the segment was created without ``versioned=True``.

        Examples
        --------
        >>> with table.writing() as array:
        ...     array[0] += 1
        ...     array[1] -= 1
        """
        return _core.Writing(self, timeout)

    def publish(self, data: ArrayLike, timeout: float | None = None) -> int:
        """Replace the content of a versioned segment with one new version.

        Parameters
        ----------
        data : array_like
            Data of the segment's shape, or of one that NumPy broadcasts to it.
        timeout : float, optional
            Seconds to wait for another writer, then TimeoutError.

        Returns
        -------
        int
            The new version.

        Raises
        ------
        MismatchError
            The data has another shape. Nothing was written.
        InvalidArgumentError
            The data does not fit the dtype, or the segment was created without ``versioned=True``.
        """
        values, end = _values(data, self.dtype), Deadline(timeout)
        while True:  # again if another process has resized it meanwhile
            shape = self.shape
            try:
                whole = np.ascontiguousarray(np.broadcast_to(values, shape))
            except ValueError as error:
                raise errors.MismatchError(f"data of shape {np.shape(values)}: {error}; nothing was written") from None
            version = _core.publish(self, whole.reshape(-1).view("u1") if whole.size else b"", end.remaining())
            if version is not None:
                return version

    def close(self) -> None:
        """Close this handle. The segment keeps its name. Closing twice has no effect.

        Raises
        ------
        BusyError
            The segment has views, or calls are under way in other threads.
        """
        self._close()
        self._memory.close()

    def _leave(self) -> None:
        """Close at the end of a with statement. If variables still hold views, the last view unmaps the memory."""
        try:
            self.close()
        except errors.BusyError:
            self._close(part=True)
            self._memory.detach()

    def __repr__(self) -> str:
        what = "closed" if self.closed else f"{self._shape()} {self.dtype}"
        return f"<Segment {self._name!r} {what}>"


def _element(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Replace a subarray dtype by its base dtype, and append its axes to the shape."""
    if dtype.subdtype is None:
        return dtype, shape
    base, inner = dtype.subdtype
    return base, (*shape, *inner)


def _fitting(data: ArrayLike, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        return np.broadcast_to(_values(data, dtype), shape)
    except ValueError as error:
        raise errors.InvalidArgumentError(f"data of shape {np.shape(data)} for a segment of {shape}: {error}") from None


async def _gathered(op: Callable[[int, Any], Awaitable[None]], offsets: Collection[int], each: int, raw: Any) -> None:
    """Do the op for each piece. The bytes of the pieces are consecutive in raw."""
    if len(offsets) == 1 and each:
        await op(int(next(iter(offsets))), raw)
    elif each:
        pieces = memoryview(raw)
        await asyncio.gather(*[op(int(at), pieces[i * each : (i + 1) * each]) for i, at in enumerate(offsets)])


def _values(data: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    if isinstance(data, memoryview) and not data.c_contiguous:
        raise errors.NonContiguousError(f"shape {data.shape}, strides {data.strides}")
    try:
        if isinstance(data, (bytes, bytearray, memoryview)) and dtype.kind not in "SV":
            return np.frombuffer(data, dtype)
        return np.asarray(data, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise _core.refused(data, () if isinstance(error, TypeError) else object, str(error)) from None
