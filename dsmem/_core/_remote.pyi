# Stubs of the regions, remotes and batches of the extension module _core._core. _core.pyi imports them.
from collections.abc import Awaitable, Coroutine
from types import TracebackType
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from typing_extensions import Buffer, Self

from dsmem.errors import DsmemError

from ._core import Context, Descriptor

_Buffer = Buffer | NDArray[Any]

@final
class Region:
    """Memory of this process that other processes can access until the region is closed.

    :meth:`Context.allocate`, :meth:`~Context.empty`, :meth:`~Context.copy` and :meth:`~Context.register` create one. It
    supports the buffer protocol and DLPack, so ``memoryview(region)`` and ``numpy.from_dlpack(region)`` are views
    without a copy. ``len(region)`` is in bytes.

    Raises
    ------
    ClosedError, ForkError
        Raised by every method: the region is closed, or the process is a forked child of the one that opened the
        context.

    Examples
    --------
    >>> with context.empty(1024, "u8") as region:
    ...     region.array()[:] = 7
    ...     send(region.descriptor)  # to the process that attaches
    """

    @property
    def context(self) -> Context:
        """The context that created the region."""

    @property
    def nbytes(self) -> int:
        """Length in bytes."""

    @property
    def access(self) -> str:
        """Rights of other processes: letters of "rwa" (read, write, atomics)."""

    @property
    def closed(self) -> bool:
        """Whether the region has been closed."""

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor with which other processes attach. It becomes stale when the region is closed."""

    def array(self, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """Return a view of the memory, without a copy.

        Parameters
        ----------
        dtype : dtype, optional
            Type of the elements of a one-dimensional view. By default the view has the shape and dtype that were passed
            to :meth:`Context.empty`, or is an array of bytes.

        Returns
        -------
        ndarray
            The view. The region cannot be closed while it exists.

        Raises
        ------
        InvalidArgumentError
            The length of the region is not a multiple of the dtype's size.
        """

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __dlpack__(self, **options: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def close(self) -> None:
        """Close the region: its descriptor becomes stale, and other processes lose access. Closing twice has no effect.

        Raises
        ------
        BusyError
            There are views of it.
        """

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def __len__(self) -> int: ...

@final
class Remote:
    """Memory of another process. That process takes no part in reads, writes and atomic updates of the memory.

    :meth:`Context.attach` creates one. Offsets and lengths are in bytes, timeouts in seconds. With a timeout of None
    the core's own limits apply, which depend on the context's ``peer_timeout``. Threads may share a remote.

    Raises
    ------
    OutOfBoundsError
        The access would leave the region.
    AccessDeniedError
        The owner does not grant the right.
    AlignmentError
        The offset of an atomic op is not a multiple of 8.
    ReadOnlyBufferError, NonContiguousError
        The local buffer is read-only, or is not C-contiguous.
    StaleDescriptorError, PeerDeadError
        The region has been closed, or its owner has ended.
    OutcomeUnknownError
        The answer to a write or an atomic op was lost, for the reason in ``__cause__``: it may or may not have taken
        effect. It is a TimeoutError or PeerDeadError, too, if that is the reason. Any other error of such an op says
        that it was not executed.
    TimeoutError, TransportError
        A read timed out, or the transport failed.
    ClosedError, ForkError
        The remote is closed, or the process is a forked child of the one that attached.

    Examples
    --------
    >>> out = bytearray(64)
    >>> remote.read(128, out)
    >>> ticket = remote.fetch_add(0, 1)
    """

    _user: str | None  # the object that the program has opened on it, named in the warning if it was not closed
    _held: object  # what is held at the owner as long as it is open

    @property
    def nbytes(self) -> int:
        """Length of the region in bytes."""

    @property
    def context(self) -> Context | None:
        """The context that attached the remote; None for a mapped file."""

    @property
    def is_mapped(self) -> bool:
        """Whether the memory is mapped in this process. If so, array() and the buffer protocol return views of it."""

    @property
    def access(self) -> str:
        """The rights that the owner grants: letters of "rwa" (read, write, atomics)."""

    @property
    def peer(self) -> str:
        """Id of the node that owns the memory, in hexadecimal digits."""

    @property
    def address(self) -> str:
        """Address of the owner's agent."""

    @property
    def fabric(self) -> str:
        """The fabric by which the memory is reached: "shm", "verbs", "fault+shm"…; empty for a file of this host."""

    @property
    def bulk_fabric(self) -> str:
        """The fabric by which long reads and writes go.

        "shm" where ``fabric`` is "verbs", the device executes atomics in a domain of its own, and the owner is on this
        host. Otherwise the same as ``fabric``.

        It takes calls that have reads and writes of 4 KiB or more alone, and 64 KiB or more together. Before them a
        short read goes by ``fabric``, so the order of ops is the same. Ops of an event loop, and batches with
        ``continue_on_error``, go by ``fabric``.
        """

    @property
    def closed(self) -> bool:
        """Whether the remote has been closed."""

    def array(self, dtype: DTypeLike = "u1") -> NDArray[Any]:
        """Return a view of memory that is mapped in this process, without a copy.

        Parameters
        ----------
        dtype : dtype
            Type of the elements of the one-dimensional view.

        Returns
        -------
        ndarray
            The view. It is read-only unless the right to write is granted. The remote cannot be closed while it exists.

        Raises
        ------
        NotMappedError
            The memory is not mapped in this process.
        AccessDeniedError
            The right to read is not granted.
        InvalidArgumentError
            The length of the region is not a multiple of the dtype's size.
        """

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def read(self, offset: int, out: _Buffer, timeout: float | None = None) -> None:
        """Read bytes into a buffer until it is full.

        Parameters
        ----------
        offset : int
            Where to begin, in bytes.
        out : buffer
            Writable and C-contiguous: an array, a bytearray or the like. Its length is the number of bytes read.
        timeout : float, optional
            Seconds until TimeoutError.

        Notes
        -----
        Only 8 aligned bytes are read atomically. A longer read may mix old and new bytes of a concurrent write.
        """

    def write(self, offset: int, data: _Buffer, timeout: float | None = None) -> None:
        """Write all bytes of a buffer.

        Parameters
        ----------
        offset : int
            Where to begin, in bytes.
        data : buffer
            C-contiguous: bytes, an array or the like.
        timeout : float, optional
            Seconds until TimeoutError.
        """

    def fetch_add(self, offset: int, value: int, timeout: float | None = None) -> int:
        """Add to a 64-bit word atomically.

        Parameters
        ----------
        offset : int
            Where the word is, a multiple of 8.
        value : int
            The number to add. It may be negative. The sum wraps modulo 2**64.
        timeout : float, optional
            Seconds until TimeoutError.

        Returns
        -------
        int
            The value of the word before the addition, unsigned.
        """

    def compare_swap(self, offset: int, expected: int, desired: int, timeout: float | None = None) -> int:
        """Replace a 64-bit word atomically if it has the expected value.

        Parameters
        ----------
        offset : int
            Where the word is, a multiple of 8.
        expected, desired : int
            The value that the word must have, and the one that it gets.
        timeout : float, optional
            Seconds until TimeoutError.

        Returns
        -------
        int
            The value of the word before the op, unsigned. It equals ``expected`` if the word was replaced.
        """

    def read_many(self, offsets: ArrayLike, out: _Buffer, timeout: float | None = None) -> None:
        """Read pieces of equal length from many offsets, in one call of the core.

        Parameters
        ----------
        offsets : array_like of int
            n offsets in bytes. An array of uint64 is used without a copy.
        out : buffer
            Writable and C-contiguous. The pieces, of ``len(out) / n`` bytes each, are stored one after the other.
        timeout : float, optional
            Seconds until TimeoutError, for all pieces together.
        """

    def write_many(self, offsets: ArrayLike, data: _Buffer, timeout: float | None = None) -> None:
        """Write pieces of equal length to many offsets, in one call of the core.

        Parameters
        ----------
        offsets : array_like of int
            n offsets in bytes. An array of uint64 is used without a copy.
        data : buffer
            C-contiguous. It contains the pieces, of ``len(data) / n`` bytes each, one after the other.
        timeout : float, optional
            Seconds until TimeoutError, for all pieces together.
        """

    def read_async(self, offset: int, out: _Buffer) -> Awaitable[None]:
        """Start a :meth:`read`, to be awaited in the running event loop.

        Parameters
        ----------
        offset : int
            Where to begin, in bytes.
        out : buffer
            Writable and C-contiguous. It stays in use until the op has completed, even if the task is cancelled.

        Returns
        -------
        awaitable
            Its result is None.
        """

    def write_async(self, offset: int, data: _Buffer) -> Awaitable[None]:
        """Start a :meth:`write`, to be awaited in the running event loop.

        Parameters
        ----------
        offset : int
            Where to begin, in bytes.
        data : buffer
            C-contiguous. It stays in use until the op has completed, even if the task is cancelled.

        Returns
        -------
        awaitable
            Its result is None.
        """

    def fetch_add_async(self, offset: int, value: int) -> Awaitable[int]:
        """Start a :meth:`fetch_add`, to be awaited in the running event loop.

        Parameters
        ----------
        offset : int
            Where the word is, a multiple of 8.
        value : int
            The number to add.

        Returns
        -------
        awaitable
            Its result is the value of the word before the addition.
        """

    def compare_swap_async(self, offset: int, expected: int, desired: int) -> Awaitable[int]:
        """Start a :meth:`compare_swap`, to be awaited in the running event loop.

        Parameters
        ----------
        offset : int
            Where the word is, a multiple of 8.
        expected, desired : int
            The value that the word must have, and the one that it gets.

        Returns
        -------
        awaitable
            Its result is the value of the word before the op.
        """

    def close(self) -> None:
        """Close the remote. Closing twice has no effect. The connection to the owner stays open for other remotes.

        Raises
        ------
        BusyError
            There are views of the memory, ops are in progress, or an object is open on it.
        """

    def detach(self) -> None:
        """Close the remote now or, if it is in use, as soon as nothing uses it any more."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def __len__(self) -> int: ...

@final
class Result:
    """Result of an atomic op of a batch. :meth:`Batch.fetch_add` and :meth:`Batch.compare_swap` return one."""

    @property
    def value(self) -> int:
        """The value of the word before the op, unsigned. It is available after the ``with`` block of the batch.

        Raises
        ------
        BusyError
            The block has not ended.
        ClosedError
            The block raised.
        OutcomeUnknownError, CanceledError, TimeoutError, StaleDescriptorError and others
            The op failed; other ops of the batch may have succeeded.
        """

    @property
    def error(self) -> DsmemError | None:
        """The exception of the op, or None if it took effect. It is available after the ``with`` block of the batch.

        Raises
        ------
        BusyError
            The block has not ended.
        ClosedError
            The block raised.
        """

@final
class Batch:
    """Ops that are posted together when the ``with`` block ends: one call of the core, one doorbell per peer.

    :meth:`Context.batch` creates one. Nothing is posted before the block ends, and nothing at all if the block raises.
    Buffers stay in use until the end of the block. A batch can be used once. In an event loop use ``async with``: a
    task that is cancelled at the end of the block, also by :func:`asyncio.timeout`, aborts the batch.

    Raises
    ------
    OutOfBoundsError, AccessDeniedError, AlignmentError, ReadOnlyBufferError, NonContiguousError
        An op is invalid. The exception is raised by the call that adds the op, or at the end of the block, before any
        op has been posted.
    OutcomeUnknownError, TimeoutError, TransportError, PeerDeadError, StaleDescriptorError
        An op failed. The attribute ``index`` of the exception is the index of the first op that failed by itself; the
        ops behind it on the same connection were cancelled. :attr:`errors` says what became of each. Not raised with
        ``continue_on_error=True``.
    CanceledError, OutcomeUnknownError
        The batch was aborted, before the first op that has not ended was sent, or afterwards.
    ClosedError
        The batch has been executed.

    Notes
    -----
    With ``fence=True`` an op starts after the earlier reads and atomics on the same connection have completed. Between
    two owners, or two fabrics, there is no order: use two batches.

    Examples
    --------
    >>> with context.batch() as batch:
    ...     batch.read(remote, 0, header)
    ...     count = batch.fetch_add(remote, 64, 1)
    >>> count.value
    0
    """

    @property
    def done(self) -> bool:
        """Whether the batch has been executed."""

    @property
    def errors(self) -> list[DsmemError | None]:
        """The exception of each op, or None if it took effect, in the order in which they were added.

        A CanceledError of a write or atomic op says that it was not executed, an OutcomeUnknownError that it may have
        been.

        Raises
        ------
        BusyError
            The block has not ended.
        ClosedError
            The block raised.
        """

    @property
    def statuses(self) -> NDArray[np.int32]:
        """For each op 0, or the ``code`` of the class of its exception: ``(batch.statuses == 0).all()``.

        Raises
        ------
        BusyError
            The block has not ended.
        ClosedError
            The block raised.
        """

    def abort(self) -> None:
        """End the batch, from another thread or task: ops that are outstanding end, and no more are posted.

        What was not executed ends with CanceledError, a write or atomic op that may have been with
        OutcomeUnknownError. Like a timeout it costs the connections on which ops are outstanding. A batch that has
        ended stays as it is; one that has not begun executes nothing.
        """

    def read(self, remote: Remote, offset: int, out: _Buffer, *, fence: bool = False) -> None:
        """Add a read.

        Parameters
        ----------
        remote : Remote
            A remote of the same context, or a mapped file.
        offset : int
            Where to begin, in bytes.
        out : buffer
            Writable and C-contiguous. It is filled when the block has ended.
        fence : bool
            Whether to start after the reads and atomics before it have completed.
        """

    def write(self, remote: Remote, offset: int, data: _Buffer, *, fence: bool = False) -> None:
        """Add a write.

        Parameters
        ----------
        remote : Remote
            A remote of the same context, or a mapped file.
        offset : int
            Where to begin, in bytes.
        data : buffer
            C-contiguous. It is read when the block ends.
        fence : bool
            Whether to start after the reads and atomics before it have completed.
        """

    def fetch_add(self, remote: Remote, offset: int, value: int, *, fence: bool = False) -> Result:
        """Add an atomic addition to a 64-bit word.

        Parameters
        ----------
        remote : Remote
            A remote of the same context, or a mapped file.
        offset : int
            Where the word is, a multiple of 8.
        value : int
            The number to add.
        fence : bool
            Whether to start after the reads and atomics before it have completed.

        Returns
        -------
        Result
            It provides the value of the word before the addition.
        """

    def compare_swap(self, remote: Remote, offset: int, expected: int, desired: int, *, fence: bool = False) -> Result:
        """Add an atomic compare-and-swap of a 64-bit word.

        Parameters
        ----------
        remote : Remote
            A remote of the same context, or a mapped file.
        offset : int
            Where the word is, a multiple of 8.
        expected, desired : int
            The value that the word must have, and the one that it gets.
        fence : bool
            Whether to start after the reads and atomics before it have completed.

        Returns
        -------
        Result
            It provides the value of the word before the op.
        """

    def __len__(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def __aenter__(self) -> Coroutine[Any, Any, Self]: ...
    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Coroutine[Any, Any, None]: ...
