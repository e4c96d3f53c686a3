import os
from collections.abc import Awaitable, Iterable
from types import TracebackType
from typing import Any, NamedTuple, final

from numpy.typing import ArrayLike, DTypeLike, NDArray
from typing_extensions import Buffer, Self

# At run time all of it is in one module; here it is in files that are read more easily.
from ._queue import Queue as Queue
from ._queue import queue_format as queue_format
from ._queue import queue_nbytes as queue_nbytes
from ._segment import SegmentCore as SegmentCore
from ._segment import SegmentLayout as SegmentLayout
from ._segment import Writing as Writing
from ._segment import publish as publish
from ._segment import resize as resize
from ._sync import Barrier as Barrier
from ._sync import Condition as Condition
from ._sync import CountingSemaphore as CountingSemaphore
from ._sync import Event as Event
from ._sync import Lock as Lock
from ._sync import Once as Once
from ._sync import RLock as RLock
from ._sync import RWLock as RWLock
from ._sync import Semaphore as Semaphore
from ._sync import Side as Side
from ._sync import SyncHandle as SyncHandle
from ._sync import sync_bytes as sync_bytes
from ._sync import sync_format as sync_format

_Buffer = Buffer | NDArray[Any]

class Capabilities(NamedTuple):
    """What a context's fabric and device can do."""

    fabric: str
    device: str
    port: int
    gid: str
    gid_index: int
    mtu: int
    is_roce: bool
    near_memory: bool
    register_private: bool
    atomic_domain: str
    max_inline: int
    max_reads: int
    depth: int
    max_region: int

class Descriptor:
    """The small picklable bytes with which another node reaches a region (docs/protocols/descriptor.md).

    Raises
    ------
    DescriptorError, VersionError
        The bytes are not a descriptor that this release reads.
    """

    def __init__(self, raw: _Buffer) -> None: ...
    version: int
    fabric: str
    access: str
    node: bytes
    region: int
    generation: int
    nbytes: int
    base: int
    key: int
    address: str
    def __bytes__(self) -> bytes: ...
    def hex(self) -> str:
        """The bytes in hexadecimal digits, for a command line or an environment variable."""

    @classmethod
    def fromhex(cls, text: str) -> Self:
        """The descriptor of which :meth:`hex` gave the digits.

        Parameters
        ----------
        text : str
            They, in any case, with spaces or without.

        Returns
        -------
        Descriptor

        Raises
        ------
        DescriptorError
            It is no text of hexadecimal digits, or they are not those of a descriptor.
        """

class Context:
    """The C core's context; users open :class:`dsmem.Context`."""

    def __init__(
        self,
        fabric: str,
        *,
        secret: bytes,
        device: str = "",
        port: int = 0,
        gid_index: int = -1,
        mtu: int = 0,
        listen: str | None = None,
        peer_timeout: float = 2.0,
        spin: float | None = None,
        depth: int = 0,
        service_level: int = 0,
        traffic_class: int = 0,
        fault: str | None = None,
    ) -> None: ...
    @property
    def capabilities(self) -> Capabilities:
        """What its fabric and device can do."""

    @property
    def fabric(self) -> str:
        """ "shm", "verbs", or "fault+" and one of them."""

    @property
    def agent_address(self) -> str:
        """Where its agent listens: "unix:@NAME" or "tcp:HOST:PORT"."""

    @property
    def node_id(self) -> bytes:
        """16 random bytes by which others know this context; :meth:`fence` takes them."""

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been called."""

    @property
    def stats(self) -> dict[str, int]:
        """Counters since the context was opened.

        posts: ops given to the fabric; doorbells: how often it was rung; signalled: requests with a completion of their
        own; wakeups: sleeps on the completion channel; connects: endpoints made; rejected: connections that the agent
        dropped because they failed to authenticate or broke the protocol. Ops on near memory are not counted.
        """

    def allocate(self, nbytes: int, access: str = "rwa") -> Region:
        """Zeroed, page-aligned memory of nbytes bytes that others reach with the rights in access (letters r, w, a)."""

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike = "u1", access: str = "rwa") -> Region:
        """The same for an array; region.array() then has this shape and dtype. Zeroed as well."""

    def register(self, buffer: _Buffer, access: str = "r") -> Region:
        """Let others reach a writable, contiguous buffer. NotShareableError on shm: use allocate() there."""

    def register_many(self, buffers: Iterable[_Buffer], access: str = "r") -> list[Region]:
        """Register many buffers in one call; all or none."""

    def attach(self, descriptor: Descriptor | _Buffer, *, timeout: float | None = None) -> Remote:
        """Reach a region of another node, or of this one; timeout in seconds, None: the peer timeout.

        Raises
        ------
        StaleDescriptorError
            The region is gone.
        PeerDeadError, AuthenticationError, FencedError, TimeoutError, DescriptorError, VersionError
            As they say.
        """

    def batch(self, timeout: float | None = None) -> Batch:
        """Ops that are posted together, in one call of the core, at the end of the with block."""

    def fence(self, node_id: bytes) -> None:
        """Cut a node off. Done on return; UnsupportedError on shm, where what is mapped stays mapped."""

    def close(self) -> None:
        """Close it with its regions and remotes; again does nothing. BusyError while something is in use."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...

@final
class Region:
    """Memory of this process that others reach. Supports the buffer protocol and DLPack; len() is in bytes."""

    @property
    def context(self) -> Context:
        """The context that it was made with."""

    @property
    def nbytes(self) -> int:
        """Its length in bytes."""

    @property
    def access(self) -> str:
        """The rights that others have: letters of "rwa"."""

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""

    @property
    def descriptor(self) -> Descriptor:
        """What others attach with. Valid until the region is closed."""

    def array(self, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """A view of the memory, one-dimensional when dtype is given; the region can't be closed under it."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __dlpack__(self, **options: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def close(self) -> None:
        """Afterwards the descriptor is stale. BusyError while there are views."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def __len__(self) -> int: ...

@final
class Remote:
    """Memory of another process. Offsets and lengths are in bytes, timeouts in seconds; None: only the peer timeout.

    All ops raise OutOfBoundsError, AccessDeniedError, AlignmentError, StaleDescriptorError, PeerDeadError, ClosedError,
    ForkError, TimeoutError and TransportError, as they say; NonContiguousError and ReadOnlyBufferError for buffers.
    """

    _user: str | None  # the object that a program has opened on it, for the warning that it was not closed

    @property
    def nbytes(self) -> int:
        """The length of the region in bytes."""

    @property
    def context(self) -> Context | None:
        """The context that attached it; None for a mapped file."""

    @property
    def is_near(self) -> bool:
        """Whether the memory is mapped in this process: then array() and the buffer protocol give views of it."""

    @property
    def access(self) -> str:
        """The rights that its owner grants: letters of "rwa"."""

    @property
    def peer(self) -> str:
        """The node that owns it, in hexadecimal digits."""

    @property
    def address(self) -> str:
        """The address of its owner's agent."""

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""

    def array(self, dtype: DTypeLike = "u1") -> NDArray[Any]:
        """A view of memory that is near, read-only without the right to write. The remote can't be closed under it.

        Raises
        ------
        FarMemoryError
            The memory is not near.
        AccessDeniedError
            No right to read.
        InvalidArgumentError
            The length is no multiple of the dtype's.
        """

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def read(self, offset: int, out: _Buffer, timeout: float | None = None) -> None:
        """Fill out. More than 8 aligned bytes may mix old and new."""

    def write(self, offset: int, data: _Buffer, timeout: float | None = None) -> None:
        """Write all of data."""

    def fetch_add(self, offset: int, value: int, timeout: float | None = None) -> int:
        """Add to the 64-bit word at offset, wrapping; returns the value before, unsigned."""

    def compare_swap(self, offset: int, expected: int, desired: int, timeout: float | None = None) -> int:
        """Store desired if the word is expected; returns the value before, unsigned."""

    def read_many(self, offsets: ArrayLike, out: _Buffer, timeout: float | None = None) -> None:
        """n pieces of len(out) / n bytes, from n offsets (uint64 is taken without a copy)."""

    def write_many(self, offsets: ArrayLike, data: _Buffer, timeout: float | None = None) -> None:
        """n pieces of len(data) / n bytes, to n offsets."""

    def read_async(self, offset: int, out: _Buffer) -> Awaitable[None]:
        """Start a read; what it returns waits in the running event loop. out is in use until then, cancelled or not."""

    def write_async(self, offset: int, data: _Buffer) -> Awaitable[None]:
        """Start a write, likewise."""

    def fetch_add_async(self, offset: int, value: int) -> Awaitable[int]:
        """Start a fetch_add; awaiting gives the value before."""

    def compare_swap_async(self, offset: int, expected: int, desired: int) -> Awaitable[int]:
        """Start a compare_swap; awaiting gives the value before."""

    def close(self) -> None:
        """Forget the region; again does nothing. BusyError while ops are under way. The connection stays."""

    def part(self) -> None:
        """Close it now, or with its last view."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def __len__(self) -> int: ...

@final
class Result:
    """The value that a word had before an atomic op of a batch."""

    @property
    def value(self) -> int:
        """BusyError before the with block has ended; ClosedError when its block raised or the batch failed."""

@final
class Batch:
    """Ops that are posted together. Executed when the with block ends without an exception; buffers
    stay in use until then.

    fence=True: the op starts after the reads and atomics before it on the same connection. If an op is refused, none is
    posted; the exception's index says which op failed. A batch whose block raised is not executed, and is used up, too.
    """

    @property
    def done(self) -> bool:
        """Whether it has been executed. It is used once."""

    def read(self, remote: Remote, offset: int, out: _Buffer, *, fence: bool = False) -> None:
        """Add a read."""

    def write(self, remote: Remote, offset: int, data: _Buffer, *, fence: bool = False) -> None:
        """Add a write."""

    def fetch_add(self, remote: Remote, offset: int, value: int, *, fence: bool = False) -> Result:
        """Add a fetch_add; its result is there after the with block."""

    def compare_swap(self, remote: Remote, offset: int, expected: int, desired: int, *, fence: bool = False) -> Result:
        """Add a compare_swap; its result is there after the with block."""

    def __len__(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

class ClockCore:
    """The word of a logical clock: this process's own, or one of the two in a shared object."""

    def __init__(self, hybrid: bool, remote: Remote | None = None) -> None: ...
    def lamport(self, received: int = 0) -> int:
        """The next stamp of a Lamport clock, greater than received."""

    def hybrid(self, received: int, now_ms: int, max_drift_ms: int) -> int:
        """The next stamp of a hybrid clock; now_ms below 0: by the system's clock. ClockDriftError."""

    def now(self) -> int:
        """The last stamp."""

def whole(value: object, least: int, most: float = ...) -> int | None:
    """The int that value is, or None where it is none from least to most."""

def seconds(value: object, name: str, most: float = ...) -> float | None:
    """The seconds that value is, from 0 to most, as a float; None for None. InvalidArgumentError, which names it."""

def shape_of(shape: object) -> tuple[int, ...]:
    """A shape as NumPy takes it, as a tuple: a number of elements or a sequence of them, but no text and no bytes."""

def as_bool(value: object, name: str) -> bool:
    """Its truth; ArgumentTypeError, which names the argument, where it has none, as arrays have none."""

def remove_item(table: dict[str, Any], key: str, value: object) -> bool:
    """Take the key out of the table if it stands there with this value: one step for other threads and for signals."""

def clock_bytes() -> int:
    """Bytes of the shared object."""

def clock_format(memory: _Buffer) -> None:
    """Write the object into zeroed memory."""

def probe(fabric: str) -> None:
    """Raise what keeps a fabric from working here."""

def inventory(fabric: str) -> list[dict[str, Any]]:
    """Devices, ports and GIDs that a fabric sees."""

def error_rows() -> list[tuple[int, str, str, str, str]]:
    """csrc/base/err.def: code, name, class, base class, text."""

def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256 as the handshake uses it, 32 bytes."""

def identity() -> int:
    """This process as a number that no other process of this host will have (docs/protocols/objects.md)."""

def identity_provable() -> None:
    """Raise SystemCallError, which says why, unless others can prove the death of this process."""

def identity_dead(identity: int) -> bool:
    """Whether the process has ended, as far as that can be proven from here."""

def identity_pid(identity: int) -> int:
    """Its pid, for messages; 0 where it has none that means something here."""

@final
class File:
    """An open file, closed with its object. Made in one call: a signal handler that raises leaves no descriptor.

    Parameters
    ----------
    path : str or path
        What to open.
    flags, mode : int
        As of :func:`os.open`; O_CLOEXEC is added.

    Raises
    ------
    OSError
        As of :func:`os.open`.
    """

    def __new__(cls, path: str | os.PathLike[str], flags: int, mode: int = 0) -> Self: ...
    def fileno(self) -> int:
        """The descriptor."""

    def lock(self) -> bool:
        """Take flock(2) of the file exclusively, if nobody has it; whether it was taken. It goes with close()."""

    def close(self) -> None:
        """Unlock and close; again does nothing. A child of fork leaves the lock to its parent."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...

@final
class FolderLock:
    """flock(2) of a folder, held by a ``with`` block.

    Parameters
    ----------
    path : path
        The folder.
    seconds : float
        For how long to wait for others.
    """

    def __new__(cls, path: os.PathLike[str], seconds: float) -> Self: ...
    def __enter__(self) -> Self:
        """Take it, in one call: a signal handler that raises leaves nothing locked.

        Raises
        ------
        BusyError
            Another process has kept it locked for so long.
        OSError
            As of :func:`os.open`.
        """

    def __exit__(self, *error: object) -> None: ...

def forget_locks() -> None:
    """In a child of fork: let go of the copies of what its parent has locked."""

def map_file(fd: int, nbytes: int, access: str = "rwa") -> Remote:
    """Map the first nbytes of an open file of shared memory.

    Returns
    -------
    Remote
        It is near, belongs to no context and may be used in the batches of any. fd may be closed afterwards.

    Raises
    ------
    InvalidArgumentError
        The file is shorter, or no rights are asked for.
    AccessDeniedError
        The file is not open for writing.
    """

def map_again(remote: Remote, nbytes: int) -> Remote:
    """Map at least nbytes of the same file of shared memory anew, whether or not it has a name still.

    Raises
    ------
    CorruptError
        It has less.
    """

def object_type(remote: Remote) -> str:
    """What kind of object the memory holds: "segment", "queue", "lock" and so on.

    Raises
    ------
    CorruptError
        It holds none.
    VersionError
        An object of another release.
    """
