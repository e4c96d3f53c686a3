import os
from typing import Any, final

from numpy.typing import NDArray
from typing_extensions import Buffer, Self

# At run time all of it is in one module; here it is in files that are read more easily.
from ._context import Capabilities as Capabilities
from ._context import Context as Context
from ._context import Descriptor as Descriptor
from ._event import Barrier as Barrier
from ._event import Condition as Condition
from ._event import Event as Event
from ._event import Once as Once
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

class ClockCore:
    """The word of a logical clock: this process's own, or one of the two in a shared object."""

    def __init__(self, hybrid: bool, remote: Remote | None = None) -> None: ...
    def lamport(self, received: int = 0) -> int:
        """The next stamp of a Lamport clock, greater than received."""

    def hybrid(self, received: int, now_ms: int, max_drift_ms: int) -> int:
        """The next stamp of a hybrid clock; now_ms below 0: by the system's clock. ClockDriftError."""

    def now(self) -> int:
        """The last stamp."""

def checked_int(value: object, least: int, most: float = ...) -> int | None:
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
        It is local, belongs to no context and may be used in the batches of any. fd may be closed afterwards.

    Raises
    ------
    InvalidArgumentError
        The file is shorter, or no rights are asked for.
    AccessDeniedError
        The file is not open for writing.
    """

def map_again(remote: Remote, nbytes: int) -> Remote:
    """Map at least nbytes of the same file of shared memory again, whether or not it has a name still.

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
