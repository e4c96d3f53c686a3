# Regions, remotes and batches, of the module _core._core: see there.
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, final

from numpy.typing import ArrayLike, DTypeLike, NDArray
from typing_extensions import Buffer, Self

from ._core import Context, Descriptor

_Buffer = Buffer | NDArray[Any]

@final
class Region:
    """Memory of this process that other processes can reach, until it is closed.

    :meth:`Context.allocate`, :meth:`~Context.empty`, :meth:`~Context.copy` and :meth:`~Context.register` make one. It
    supports the buffer protocol and DLPack, so ``memoryview(region)`` and ``numpy.from_dlpack(region)`` are views
    without a copy. ``len(region)`` is in bytes.

    Raises
    ------
    ClosedError, ForkError
        Out of each method: the region is closed, or the process is a forked child of the one that opened the context.

    Examples
    --------
    >>> with context.empty(1024, "u8") as region:
    ...     region.array()[:] = 7
    ...     send(region.descriptor)  # to the process that attaches
    """

    @property
    def context(self) -> Context:
        """The context that made it."""

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
        """What other processes attach with. It is stale once the region is closed."""

    def array(self, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """A view of the memory, without a copy.

        Parameters
        ----------
        dtype : dtype, optional
            Type of the elements of a one-dimensional view. By default shape and dtype are those that
            :meth:`Context.empty` was given, or bytes.

        Returns
        -------
        ndarray
            While it lives, the region can't be closed.

        Raises
        ------
        InvalidArgumentError
            The length is not a multiple of the dtype's.
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
    """Memory of another process, which takes no part in its reads, writes and atomic updates.

    :meth:`Context.attach` makes one. Offsets and lengths are in bytes, timeouts in seconds. A timeout of None leaves
    the core's own limits, which follow from the context's ``peer_timeout``. Threads may share a remote.

    Raises
    ------
    OutOfBoundsError
        The access would leave the region.
    AccessDeniedError
        The owner does not grant the right.
    AlignmentError
        An atomic op at an offset that is not a multiple of 8.
    ReadOnlyBufferError, NonContiguousError
        A local buffer that can't be used.
    StaleDescriptorError, PeerDeadError
        The region has been closed; its owner is gone.
    TimeoutError, TransportError
        The deadline passed, or the transport failed. The op may or may not have taken effect.
    ClosedError, ForkError
        The remote is closed, or the process is a forked child of the one that attached.

    Examples
    --------
    >>> out = bytearray(64)
    >>> remote.read(128, out)
    >>> ticket = remote.fetch_add(0, 1)
    """

    _user: str | None  # the object that a program has opened on it, for the warning that it was not closed

    @property
    def nbytes(self) -> int:
        """Length of the region in bytes."""

    @property
    def context(self) -> Context | None:
        """The context that attached it; None for a mapped file."""

    @property
    def is_mapped(self) -> bool:
        """Whether the memory is mapped in this process, so that array() and the buffer protocol give views of it."""

    @property
    def access(self) -> str:
        """The rights that its owner grants: letters of "rwa" (read, write, atomics)."""

    @property
    def peer(self) -> str:
        """Id of the node that owns it, in hexadecimal digits."""

    @property
    def address(self) -> str:
        """Address of its owner's agent."""

    @property
    def closed(self) -> bool:
        """Whether the remote has been closed."""

    def array(self, dtype: DTypeLike = "u1") -> NDArray[Any]:
        """A view of memory that is mapped in this process, without a copy.

        Parameters
        ----------
        dtype : dtype
            Type of the elements of the one-dimensional view.

        Returns
        -------
        ndarray
            Read-only without the right to write. While it lives, the remote can't be closed.

        Raises
        ------
        NotMappedError
            The memory is not mapped in this process.
        AccessDeniedError
            There is no right to read.
        InvalidArgumentError
            The length is not a multiple of the dtype's.
        """

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def read(self, offset: int, out: _Buffer, timeout: float | None = None) -> None:
        """Read bytes into a buffer until it is full.

        Parameters
        ----------
        offset : int
            Where to begin, in bytes.
        out : buffer
            Writable and C-contiguous: an array, a bytearray or the like. Its length says how much is read.
        timeout : float, optional
            Seconds until TimeoutError.

        Notes
        -----
        Only 8 aligned bytes are read in one piece. A longer read may mix old and new bytes of a write that is under
        way.
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
            What to add, also below 0. The sum wraps at 2**64.
        timeout : float, optional
            Seconds until TimeoutError.

        Returns
        -------
        int
            The word before the addition, unsigned.
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
            The word before, unsigned: ``expected`` if it was replaced.
        """

    def read_many(self, offsets: ArrayLike, out: _Buffer, timeout: float | None = None) -> None:
        """Read pieces of one length from many offsets, in one call of the core.

        Parameters
        ----------
        offsets : array_like of int
            n offsets in bytes; an array of uint64 is used without a copy.
        out : buffer
            Writable and C-contiguous. The pieces of ``len(out) / n`` bytes are written to it one after the other.
        timeout : float, optional
            Seconds until TimeoutError, for all of them.
        """

    def write_many(self, offsets: ArrayLike, data: _Buffer, timeout: float | None = None) -> None:
        """Write pieces of one length to many offsets, in one call of the core.

        Parameters
        ----------
        offsets : array_like of int
            n offsets in bytes; an array of uint64 is used without a copy.
        data : buffer
            C-contiguous. It holds the pieces of ``len(data) / n`` bytes one after the other.
        timeout : float, optional
            Seconds until TimeoutError, for all of them.
        """

    def read_async(self, offset: int, out: _Buffer) -> Awaitable[None]:
        """Start a :meth:`read`, to be awaited in the running event loop.

        Parameters
        ----------
        offset : int
            Where to begin, in bytes.
        out : buffer
            Writable and C-contiguous. It stays in use until the op has ended, also when the task is cancelled.

        Returns
        -------
        awaitable
            Of None.
        """

    def write_async(self, offset: int, data: _Buffer) -> Awaitable[None]:
        """Start a :meth:`write`, to be awaited in the running event loop.

        Parameters
        ----------
        offset : int
            Where to begin, in bytes.
        data : buffer
            C-contiguous. It stays in use until the op has ended, also when the task is cancelled.

        Returns
        -------
        awaitable
            Of None.
        """

    def fetch_add_async(self, offset: int, value: int) -> Awaitable[int]:
        """Start a :meth:`fetch_add`, to be awaited in the running event loop.

        Parameters
        ----------
        offset : int
            Where the word is, a multiple of 8.
        value : int
            What to add.

        Returns
        -------
        awaitable
            Of the word before the addition.
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
            Of the word before.
        """

    def close(self) -> None:
        """Give the region up. Closing twice has no effect. The connection to its owner stays for other remotes.

        Raises
        ------
        BusyError
            There are views of it, ops are under way, or an object is open on it.
        """

    def detach(self) -> None:
        """Close the remote now, or with the last view of it."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def __len__(self) -> int: ...

@final
class Result:
    """The value that a word had before an atomic op of a batch; :meth:`Batch.fetch_add` and compare_swap return one."""

    @property
    def value(self) -> int:
        """The value, unsigned, once the ``with`` block of the batch has ended.

        Raises
        ------
        BusyError
            The block has not ended.
        ClosedError
            The block raised, or the batch failed.
        """

@final
class Batch:
    """Ops that are posted together when the ``with`` block ends: one call of the core, one doorbell per peer.

    :meth:`Context.batch` makes one. Nothing is posted before the block ends, and nothing at all if the block raises.
    Buffers stay in use until then. A batch is used once.

    Raises
    ------
    OutOfBoundsError, AccessDeniedError, AlignmentError, ReadOnlyBufferError, NonContiguousError
        An op is refused: at the call that adds it, or at the end, and then no op has been posted.
    TimeoutError, TransportError, PeerDeadError, StaleDescriptorError
        An op failed. ``index`` of the exception is the number of the first that did.
    ClosedError
        The batch has been executed.

    Notes
    -----
    ``fence=True``: the op starts after the reads and atomics before it on the same connection have ended.

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

    def read(self, remote: Remote, offset: int, out: _Buffer, *, fence: bool = False) -> None:
        """Add a read.

        Parameters
        ----------
        remote : Remote
            Memory of the same context, or a mapped file.
        offset : int
            Where to begin, in bytes.
        out : buffer
            Writable and C-contiguous; filled when the block has ended.
        fence : bool
            Start after the reads and atomics before it.
        """

    def write(self, remote: Remote, offset: int, data: _Buffer, *, fence: bool = False) -> None:
        """Add a write.

        Parameters
        ----------
        remote : Remote
            Memory of the same context, or a mapped file.
        offset : int
            Where to begin, in bytes.
        data : buffer
            C-contiguous; read when the block ends.
        fence : bool
            Start after the reads and atomics before it.
        """

    def fetch_add(self, remote: Remote, offset: int, value: int, *, fence: bool = False) -> Result:
        """Add an atomic addition to a 64-bit word.

        Parameters
        ----------
        remote : Remote
            Memory of the same context, or a mapped file.
        offset : int
            Where the word is, a multiple of 8.
        value : int
            What to add.
        fence : bool
            Start after the reads and atomics before it.

        Returns
        -------
        Result
            Of the word before the addition.
        """

    def compare_swap(self, remote: Remote, offset: int, expected: int, desired: int, *, fence: bool = False) -> Result:
        """Add an atomic compare-and-swap of a 64-bit word.

        Parameters
        ----------
        remote : Remote
            Memory of the same context, or a mapped file.
        offset : int
            Where the word is, a multiple of 8.
        expected, desired : int
            The value that the word must have, and the one that it gets.
        fence : bool
            Start after the reads and atomics before it.

        Returns
        -------
        Result
            Of the word before.
        """

    def __len__(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
