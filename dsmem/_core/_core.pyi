import os
from typing import Any, final

from numpy.typing import NDArray
from typing_extensions import Buffer, Self

from dsmem.errors import InvalidArgumentError

# At run time all of these classes and functions are in one module. The stubs are split over several files for easier
# reading.
from ._context import Capabilities as Capabilities
from ._context import Context as Context
from ._context import Descriptor as Descriptor
from ._context import Way as Way
from ._event import Barrier as Barrier
from ._event import Condition as Condition
from ._event import Event as Event
from ._event import Once as Once
from ._page import PageMetadata as PageMetadata
from ._pool import Pool as Pool
from ._pool import Remotes as Remotes
from ._queue import Queue as Queue
from ._queue import queue_format as queue_format
from ._queue import queue_nbytes as queue_nbytes
from ._remote import Batch as Batch
from ._remote import Region as Region
from ._remote import Remote as Remote
from ._remote import Result as Result
from ._segment import SegmentCore as SegmentCore
from ._segment import SegmentLayout as SegmentLayout
from ._segment import Writing as Writing
from ._segment import publish as publish
from ._segment import resize as resize
from ._store import STORE_DONE as STORE_DONE
from ._store import STORE_NOT_DONE as STORE_NOT_DONE
from ._store import Store as Store
from ._store import StoreFill as StoreFill
from ._store import Transaction as Transaction
from ._store import latencies_of as latencies_of
from ._store import store_format as store_format
from ._store import store_look as store_look
from ._store import store_nbytes as store_nbytes
from ._store import store_recover as store_recover
from ._store import store_settle as store_settle
from ._sync import CountingSemaphore as CountingSemaphore
from ._sync import Lock as Lock
from ._sync import RLock as RLock
from ._sync import RWLock as RWLock
from ._sync import Semaphore as Semaphore
from ._sync import Side as Side
from ._sync import SyncHandle as SyncHandle
from ._sync import sync_bytes as sync_bytes
from ._sync import sync_format as sync_format

_Buffer = Buffer | NDArray[Any]

@final
class Service:
    """A connection to the service of another process, at an address such as "tcp:10.0.0.1:7700".

    It is made with the first request, and again with the first one after its end.
    """

    def __init__(self, context: Context, address: str) -> None: ...
    @property
    def context(self) -> Context:
        """The context."""

    @property
    def address(self) -> str:
        """The address."""

    @property
    def closed(self) -> bool:
        """Whether it was closed."""

    def call(self, request: bytes, timeout: float | None = None) -> bytes:
        """Send a request of 1 to 1024 bytes and return the reply. Other threads wait.

        It raises TimeoutError or PeerDeadError if it is not known whether the service has executed the request. A late
        request is executed before the next one of this object, unless the connection ends.
        """

    def close(self) -> None:
        """End the connection. Closing twice has no effect."""

def serve(context: Context, on: bool, grace: float | None = None) -> None:
    """Begin or cease to take requests. Those without a reply are refused at the end, and next_call() ends. While they
    are taken, a node that has had no connection for ``grace`` seconds is evicted, unless it holds nothing."""

def next_call(context: Context, timeout: float | None = None) -> tuple[int, int, bytes | None] | None:
    """Wait for a request: a number of its connection, its own number, its bytes; None instead of them if the connection
    has ended. It returns None at the timeout, and raises ClosedError at the end of the service."""

def reply(context: Context, client: int, number: int, answer: bytes) -> bool:
    """Answer a request. It returns False if its connection has ended."""

class ClockCore:
    """The word of a logical clock: either private to this process, or one of the two words of a shared object."""

    def __init__(self, hybrid: bool, remote: Remote | None = None) -> None: ...
    def lamport(self, received: int = 0) -> int:
        """Return the next stamp of a Lamport clock, which is greater than received."""

    def hybrid(self, received: int, now_ms: int, max_drift_ms: int) -> int:
        """Return the next stamp of a hybrid clock, by now_ms or, if that is below 0, by the system's clock.

        It raises ClockDriftError if the stamp would be more than max_drift_ms ahead of that time.
        """

    def now(self) -> int:
        """Return the last stamp."""

def checked_int(value: object, least: int, most: float = ...) -> int | None:
    """Return value as an int, or None if it is not an integer from least to most."""

def refused(value: object, kinds: type | tuple[type, ...], detail: str, op: str | None = ...) -> InvalidArgumentError:
    """Return the exception for an argument: ArgumentTypeError unless it is of one of the kinds.

    int stands for all that has ``__index__``.
    """

def seconds(value: object, name: str, most: float = ...) -> float | None:
    """Return value as a float, or None if it is None.

    It raises InvalidArgumentError, which names the argument, unless value is a number of seconds from 0 to most.
    """

def shape_of(shape: object) -> tuple[int, ...]:
    """Return a shape as a tuple. It may be given as an int or a sequence of ints, but not as text or bytes."""

def as_bool(value: object, name: str) -> bool:
    """Return the truth value of an argument, or raise ArgumentTypeError, which names it, if it has none (an array)."""

def remove_item(table: dict[str, Any], key: str, value: object) -> bool:
    """Delete the key if it is mapped to this very object; atomic with respect to other threads and signal handlers."""

def clock_bytes() -> int:
    """Return the size of the shared object in bytes."""

def clock_format(memory: _Buffer) -> None:
    """Write the shared object into zeroed memory."""

FABRICS: dict[int, str]  # by their numbers in descriptors
OPTIONS: dict[str, tuple[str, ...]]  # the keys of each fabric's options

def options_of(number: int) -> tuple[str, ...]:
    """Return the keys of a fabric's options."""

def check_fabric(text: str) -> None:
    """Check the text of one fabric, ``NAME?KEY=VALUE&…``, as the core takes it, without opening it."""

def probe(fabric: str) -> None:
    """Check that a fabric is usable here, and raise the reason if it is not."""

def inventory(fabric: str) -> list[dict[str, Any]]:
    """Return the devices, ports and GIDs that a fabric sees."""

def error_rows() -> list[tuple[int, str, str, str, str]]:
    """Return the rows of csrc/base/err.def: code, name, class, base class, text."""

def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """Return the HMAC-SHA256 of a message, 32 bytes, as the handshake computes it."""

def identity() -> int:
    """Return the identity of this process: unique on this host and never reused (docs/protocols/objects.md)."""

def identity_provable() -> None:
    """Raise SystemCallError with the reason if other processes cannot prove the death of this process."""

def identity_dead(identity: int) -> bool:
    """Return True only if the process is proven to have ended."""

def identity_pid(identity: int) -> int:
    """Return the pid of the process, for messages, or 0 if it has no pid that is meaningful here."""

@final
class File:
    """An open file, closed with its object.

    It is opened in one call, so a signal handler that raises does not leak the descriptor.

    Parameters
    ----------
    path : str or path or None
        The file to open. None: make one in memory that has no name, with memfd_create(2).
    flags, mode : int
        As for :func:`os.open`; O_CLOEXEC is added.

    Raises
    ------
    OSError
        As for :func:`os.open`.
    """

    def __new__(cls, path: str | os.PathLike[str] | None, flags: int, mode: int = 0) -> Self: ...
    def fileno(self) -> int:
        """Return the file descriptor."""

    def lock(self) -> bool:
        """Try to lock the file exclusively with flock(2), without waiting, and return whether it succeeded.

        :meth:`close` unlocks it.
        """

    def close(self) -> None:
        """Unlock and close the file. Closing twice has no effect. A child of fork() leaves the lock to its parent."""

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
        How long to wait for other processes.
    """

    def __new__(cls, path: os.PathLike[str], seconds: float) -> Self: ...
    def __enter__(self) -> Self:
        """Lock the folder in one call, so that a signal handler that raises leaves nothing locked.

        Raises
        ------
        BusyError
            Another process kept the folder locked for all that time.
        OSError
            As for :func:`os.open`.
        """

    def __exit__(self, *error: object) -> None: ...

def forget_locks() -> None:
    """Close the inherited copies of files that the parent has locked. Called in a child of fork()."""

def map_file(fd: int, nbytes: int, access: str = "rwa") -> Remote:
    """Map the first nbytes of an open file of shared memory.

    Returns
    -------
    Remote
        A mapped remote that belongs to no context and may be used in batches of any. The caller may close fd
        afterwards.

    Raises
    ------
    InvalidArgumentError
        The file is shorter than nbytes, or no rights are requested.
    AccessDeniedError
        The file is not open for writing.
    """

def map_again(remote: Remote, nbytes: int) -> Remote:
    """Map at least nbytes of the same file of shared memory again, whether or not the file still has a name.

    Raises
    ------
    CorruptError
        The file is shorter than nbytes.
    """

def object_type(remote: Remote) -> str:
    """Return the kind of the object in the memory: "segment", "queue", "lock" and so on.

    Raises
    ------
    CorruptError
        The memory does not hold an object.
    VersionError
        The object was created by an incompatible release.
    """
