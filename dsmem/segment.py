"""Segments: NumPy arrays in shared memory under a name.

:meth:`dsmem.Cluster.segment` makes and finds them. docs/protocols/segment.md specifies their bytes.
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
    """An array in shared memory; :meth:`dsmem.Cluster.segment` makes and finds one.

    On memory of this host :attr:`array` is a view without a copy. :meth:`read`, :meth:`write`, the atomics,
    :meth:`wait` and :meth:`snapshot` also work on memory of another host.

    Raises
    ------
    ClosedError, ForkError
        Out of each method: the segment is closed; the process is a forked child and the memory belongs to a context.
    OutOfBoundsError, InvalidArgumentError
        The index.
    AccessDeniedError
        A change, although the segment was attached with ``readonly=True``.
    TransportError, PeerDeadError, TimeoutError
        The memory belongs to another process, and an op failed.

    Warnings
    --------
    Do not mix ways to share. Elements that :meth:`fetch_add`, :meth:`compare_swap` and :meth:`update` change must be
    changed by them only. Readers of a segment made with ``versioned=True``, which takes its memory twice, get whole
    versions by :meth:`snapshot` if writers use :meth:`writing` and :meth:`publish` only.

    Notes
    -----
    Threads may share a segment. A view keeps the memory mapped and blocks :meth:`close`. At the end of a ``with``
    statement the handle is closed, and the memory is unmapped with the last view. After a resize by another process the
    new size is seen by the next call, and on memory of another host by the next use of :attr:`shape`.

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
        """What of the array that data= or like= is gives shape and dtype; bytes are an array of bytes."""
        if isinstance(what, (Segment, np.ndarray)):
            return what
        try:
            return np.frombuffer(what, "u1") if isinstance(what, bytes) else np.asarray(what)
        except (ValueError, TypeError, OverflowError, RuntimeError) as error:
            raise errors.InvalidArgumentError(f"{type(what).__name__} is no array: {error}") from None

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
            for frame in frames:  # nobody else sees them yet
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

    def _grown(self, nbytes: int) -> Memory:
        """Memory of so many bytes, after another process has made the file longer."""
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
        """True, whatever it holds: a handle is there, or it is None."""
        return True

    def __getitem__(self, index: Any) -> Any:
        """:meth:`read`: a copy, also of one row. Views are those of :attr:`array`."""
        return self.read(index)

    def __setitem__(self, index: Any, value: Any) -> None:
        """:meth:`write`."""
        self.write(index, value)

    def __iter__(self) -> Iterator[Any]:
        """Copies of its rows, one after the other, each as it is when its turn comes."""
        return (self.read(i) for i in range(len(self)))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """What numpy.asarray(segment) is: :attr:`array`, without a copy unless another dtype or one is asked for."""
        array = self.array
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise errors.InvalidArgumentError(f"dtype {array.dtype} becomes {np.dtype(dtype)} in a copy only")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        """The array for other libraries, without a copy."""
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def update(
        self, index: int | tuple[int, ...], function: Callable[[int], int], timeout: float | None = None
    ) -> tuple[int, int]:
        """Replace an element of 8-byte integers by a function of it, atomically.

        Parameters
        ----------
        index : int or tuple of int
            One element.
        function : callable
            Takes the value and returns the new one. It is called again when another process changed the element
            meanwhile, so it should have no other effect.
        timeout : float, optional
            Seconds until TimeoutError; None: no limit.

        Returns
        -------
        before, after : int
            The two values.

        Raises
        ------
        ArgumentTypeError
            ``function`` can't be called.
        TimeoutError
            Others changed the element each time. Nothing was written.

        Examples
        --------
        >>> segment.update(0, lambda n: min(n + 1, 100))
        (7, 8)
        """
        end = Deadline(timeout)
        if not callable(function):
            raise errors.ArgumentTypeError(f"function={function!r:.80} can't be called; pass a function")
        old = self.fetch_add(index, 0)  # refuses what compare_swap would, before function is called
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
            Which elements; all by default.
        out : ndarray or buffer, optional
            Where to, as of :meth:`read`. It stays in use until the op has ended, also when the task is cancelled.

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
            Which elements.
        data : array_like or bytes-like
            The values, as of :meth:`write`.
        """
        remote = self._memory.remote
        if remote.is_mapped:
            self.write(index, data)
        else:
            await _gathered(remote.write_async, *self._write_remote(index, data))

    def resize(self, rows: int, timeout: float | None = None) -> None:
        """Change the length of the first axis. Rows that remain keep their place and their values.

        Parameters
        ----------
        rows : int
            The new length. New rows are zero; rows that were cut off before come back as they were.
        timeout : float, optional
            Seconds to wait for another writer of a versioned segment.

        Raises
        ------
        AccessDeniedError
            The segment was attached with ``readonly=True``.
        OutOfMemoryError
            There is no room. Nothing has changed.
        InvalidArgumentError
            More rows than the ``capacity=`` with which a hosted or a versioned segment was made: only files grow.
        NameNotFoundError, StaleDescriptorError
            The segment has to grow, and its name is gone.

        Notes
        -----
        Views stay valid and show the rows that they had. A segment gives no memory back before it is unlinked.
        """
        if self.readonly:
            raise errors.AccessDeniedError(
                "the segment was attached with readonly=True; attach it without", op="resize"
            )
        number = _core.checked_int(rows, 0, (1 << 63) - 1)
        if not self.shape or number is None:
            raise errors.InvalidArgumentError(f"{rows!r} rows of a segment of shape {self.shape}")
        rows = number
        if rows > self.capacity:
            if self.versioned or not self.ref.cluster:
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
            array is that of the version before.

        Returns
        -------
        context manager
            Of the array to change: the memory itself on this host, otherwise a copy that is written at the end. An
            exception in the block undoes the changes. While it is open, the segment can't be closed.

        Raises
        ------
        InvalidArgumentError
            At the ``with``: the segment was made without ``versioned=True``.

        Examples
        --------
        >>> with table.writing() as array:
        ...     array[0] += 1
        ...     array[1] -= 1
        """
        return _core.Writing(self, timeout)

    def publish(self, data: ArrayLike, timeout: float | None = None) -> int:
        """Replace all of a versioned segment at once.

        Parameters
        ----------
        data : array_like
            Of the segment's shape, or one that NumPy broadcasts to it.
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
            The data does not fit the dtype, or the segment was made without ``versioned=True``.
        """
        values, end = _values(data, self.dtype), Deadline(timeout)
        while True:  # again where another process has resized it meanwhile
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
            There are views of it, or calls are under way in other threads.
        """
        self._close()
        self._memory.close()

    def _leave(self) -> None:
        """In a with statement the variables that views were bound to are still there: memory goes with the last."""
        try:
            self.close()
        except errors.BusyError:
            self._close(part=True)
            self._memory.detach()

    def __repr__(self) -> str:
        what = "closed" if self.closed else f"{self._shape()} {self.dtype}"
        return f"<Segment {self._name!r} {what}>"


def _element(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Dtype and shape of a segment whose elements are arrays: those have more axes."""
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
    """The op for each of the pieces, whose bytes lie in raw one after the other."""
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
        raise errors.InvalidArgumentError(str(error)) from None
