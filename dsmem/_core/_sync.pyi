# Synchronisation, of the module _core._core: see there.
from typing import Any, NoReturn, ParamSpec, TypeVar, final

from numpy.typing import NDArray
from typing_extensions import Buffer

from ._core import Remote

_Buffer = Buffer | NDArray[Any]
_T = TypeVar("_T")
_P = ParamSpec("_P")

def sync_bytes(kind: str, members: int = 0, count: int = 0) -> int:
    """Bytes that a synchronisation object takes; InvalidArgumentError where there can't be one like that."""

def sync_format(view: _Buffer, kind: str, members: int = 0, count: int = 0, lock: int = 0) -> None:
    """Write the object into zeroed memory, before any other process sees that."""

class SyncHandle:
    """Base of the handles of synchronisation objects. Its remote can't be closed while the handle is open.

    Threads may share a handle. A wait releases the GIL and runs Python's signal handlers every 50 ms.

    The methods that end in ``_async`` do the same as those without, and the event loop goes on. On this host, what is
    free is taken without a turn of the loop; otherwise one thread waits for all tasks that use the handle. A task that
    is cancelled leaves nothing taken. :meth:`close` ends the waits of tasks in all loops with ClosedError.

    Raises
    ------
    ClosedError
        Out of each method: the handle is closed.
    InvalidArgumentError
        An argument is invalid.
    TransportError, PeerDeadError, TimeoutError
        The memory belongs to another process, and an op failed.
    ForkError
        The memory belongs to a context, and the process is a forked child of the one that opened it.
    """

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""

    def close(self) -> None:
        """Close the handle. Closing twice has no effect.

        Raises
        ------
        BusyError
            Calls are under way in other threads, or the handle holds something.
        """

class Lock(SyncHandle):
    """A lock or a spinlock on memory that holds one (docs/protocols/lock.md).

    Parameters
    ----------
    remote : Remote
        The memory.
    spin : float, optional
        Seconds to poll before sleeping.

    Raises
    ------
    MismatchError, CorruptError, VersionError
        The memory holds something else.
    AccessDeniedError
        The memory was attached without the rights to read, write and update.
    TooManyMembersError
        All entries for handles are in use by living processes.
    """

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Acquire the lock.

        Parameters
        ----------
        blocking : bool
            Wait until it is free.
        timeout : float, optional
            Seconds to wait; -1 or None: no limit.

        Returns
        -------
        bool
            False: it was not free in time.

        Notes
        -----
        Over the network, an attempt that the transport loses is noticed after the peer timeout. After a failure the
        lock word is read again, which tells whether the attempt took effect. Where it can't be read the error is
        raised, and the next acquire(), or close(), finds out.
        """

    def release(self) -> None:
        """Release the lock. Any thread may do it.

        Raises
        ------
        NotHeldError
            This handle does not hold the lock, or it was taken over.
        TransportError, PeerDeadError
            The outcome is unknown. Call it again.
        """

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """:meth:`acquire` in an event loop. Tasks of one loop exclude each other, too.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        bool
            False: it was not free in time.

        Notes
        -----
        The handle holds the lock then, as after acquire(), so :meth:`release` may follow where the memory is on this
        host, or :meth:`release_async`. Tasks that wait with one handle get the lock in the order of their calls.

        Examples
        --------
        >>> async def add(lock, total, n):
        ...     async with lock:
        ...         total[0] += n
        """

    async def release_async(self) -> None:
        """:meth:`release` in an event loop. A task that is cancelled in it goes on when it has ended."""

    async def __aenter__(self) -> bool: ...
    async def __aexit__(self, *error: object) -> None: ...
    def locked(self) -> bool:
        """Whether any handle holds the lock."""

    def holder(self) -> int | None:
        """Identity of the process that holds the lock, for :meth:`break_`; None: it is free."""

    def break_(self, holder: int) -> bool:
        """Take the lock from a holder that is known to be gone, although no death is proven here.

        Parameters
        ----------
        holder : int
            What :meth:`holder` returned, so that the lock is not taken from a later holder.

        Returns
        -------
        bool
            False: that process does not hold it.

        Notes
        -----
        The next holder finds ``recovered`` true and a larger token, as after a holder that died. Do it only if the
        holder can never again touch what the lock protects (its host is off), or if smaller tokens are refused there.
        A holder that lives notices at its release, which raises NotHeldError; until then both work. Processes of one
        host that share /dev/shm need no ``break_``: the kernel proves their death.
        """

    @property
    def token(self) -> int | None:
        """Fencing token of this handle's grant: larger than those of all grants before. None: it holds nothing."""

    @property
    def recovered(self) -> bool:
        """Whether the process that held the lock before this handle's grant died with it."""

    def __enter__(self) -> bool: ...
    def __exit__(self, *error: object) -> None: ...

class RLock(Lock):
    """A lock that its thread may acquire again; parameters and errors as of :class:`Lock`.

    Tasks can't have it: all tasks of a loop share its thread, so it would not keep them apart.
    """

    def acquire_async(self, timeout: float | None = None) -> NoReturn:
        """Refused: use :class:`Lock` in tasks, or a thread.

        Parameters
        ----------
        timeout : float, optional
            Ignored.

        Raises
        ------
        UnsupportedError
            Always.
        """

    def release_async(self) -> NoReturn:
        """Refused, as :meth:`acquire_async` is: raises UnsupportedError."""

    def __aenter__(self) -> NoReturn: ...
    def __aexit__(self, *error: object) -> NoReturn: ...

class RWLock(SyncHandle):
    """Many readers or one writer (docs/protocols/sync.md); parameters and errors as of :class:`Lock`."""

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def acquire_read(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Acquire the lock as a reader.

        Parameters
        ----------
        blocking : bool
            Wait for writers to finish.
        timeout : float, optional
            Seconds to wait; -1 or None: no limit.

        Returns
        -------
        bool
            False: it was not free for readers in time.
        """

    def release_read(self) -> None:
        """Release the lock as a reader.

        Raises
        ------
        NotHeldError
            This handle does not read, or break_() took that from it.
        TransportError, PeerDeadError
            The handle does not read any more, but writers may still wait for it. Its next call lets them in.
        """

    def acquire_write(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Acquire the lock as the writer: keep others out, and wait for the readers inside to finish.

        Parameters
        ----------
        blocking : bool
            Wait for the writer and the readers that are inside.
        timeout : float, optional
            Seconds to wait; -1 or None: no limit.

        Returns
        -------
        bool
            False: it was not free in time.
        """

    def release_write(self) -> None:
        """Release the lock as the writer.

        Raises
        ------
        NotHeldError
            This handle does not write, or the lock was taken over.
        """

    def writer(self) -> int | None:
        """Identity of the process that writes, or that waits as the next writer for readers to finish; None: none."""

    def readers(self) -> list[int]:
        """Identities of the processes that read, one for each handle. Handles of one process of this host share one."""

    def break_(self, holder: int) -> bool:
        """Take the lock from a writer or a reader that is known to be gone. Safe where :meth:`Lock.break_` is.

        The next writer finds a larger token and, after a writer, ``recovered`` true. A reader that lives notices at its
        last release or, on this host, when it reads again: NotHeldError.

        Parameters
        ----------
        holder : int
            What :meth:`writer` or :meth:`readers` returned.

        Returns
        -------
        bool
            False: that process holds nothing.
        """

    async def acquire_read_async(self, timeout: float | None = None) -> bool:
        """:meth:`acquire_read` in an event loop.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        bool
            False: it was not free for readers in time.

        Examples
        --------
        >>> async def look(rwlock, table):
        ...     async with rwlock.read():
        ...         return table.copy()
        """

    async def release_read_async(self) -> None:
        """:meth:`release_read` in an event loop."""

    async def acquire_write_async(self, timeout: float | None = None) -> bool:
        """:meth:`acquire_write` in an event loop. A task that is cancelled lets readers in again.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        bool
            False: it was not free in time.
        """

    async def release_write_async(self) -> None:
        """:meth:`release_write` in an event loop."""

    def read(self, timeout: float | None = None) -> Side:
        """The reader's side, for a ``with`` or ``async with`` statement.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait, then TimeoutError; None: no limit.

        Returns
        -------
        context manager
            Of this handle.
        """

    def write(self, timeout: float | None = None) -> Side:
        """The writer's side, for a ``with`` or ``async with`` statement.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait, then TimeoutError; None: no limit.

        Returns
        -------
        context manager
            Of this handle.
        """

    @property
    def token(self) -> int | None:
        """Fencing token of this handle's grant as the writer; None: it does not write."""

    @property
    def recovered(self) -> bool:
        """Whether the last writer died while it wrote, as of this handle's grant."""

@final
class Side:
    """The reader's or writer's side of an RWLock, for ``with`` and ``async with``; :meth:`RWLock.read` returns one."""

    def __enter__(self) -> RWLock: ...
    def __exit__(self, *error: object) -> None: ...
    async def __aenter__(self) -> RWLock: ...
    async def __aexit__(self, *error: object) -> None: ...

class Semaphore(SyncHandle):
    """Permits with owners (docs/protocols/sync.md); parameters and errors as of :class:`Lock`. It has no members."""

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Acquire a permit.

        Parameters
        ----------
        blocking : bool
            Wait until one is free.
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        bool
            False: none was free in time.
        """

    def release(self, n: int = 1) -> None:
        """Release permits of this handle.

        Parameters
        ----------
        n : int
            How many.

        Raises
        ------
        PermitError
            The handle has fewer. Nothing has changed.
        """

    @property
    def value(self) -> int:
        """Permits that are free. Those of dead processes count once a waiter has found them."""

    def holders(self) -> list[int]:
        """Owners of the permits that are taken: a process's identity on this host, else a value for each grant."""

    def break_(self, holder: int) -> bool:
        """Free the permits of a holder that is known to be gone. Safe where :meth:`Lock.break_` is.

        A holder that lives notices when it releases such a permit: PermitError. If another handle of its process has
        the permit by then, the release takes it from that one.

        Parameters
        ----------
        holder : int
            What :meth:`holders` returned.

        Returns
        -------
        bool
            False: that holder has no permit.
        """

    @property
    def held(self) -> int:
        """Permits that this handle has."""

    @property
    def recovered(self) -> bool:
        """Whether the permit acquired last had belonged to a process that died."""

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """:meth:`acquire` in an event loop. Tasks that wait with one handle are served in the order of their calls.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        bool
            False: none was free in time.

        Examples
        --------
        >>> async def fetch(semaphore, get):
        ...     async with semaphore:
        ...         return await get()
        """

    async def release_async(self, n: int = 1) -> None:
        """:meth:`release` in an event loop.

        Parameters
        ----------
        n : int
            How many permits.
        """

    async def __aenter__(self) -> bool: ...
    async def __aexit__(self, *error: object) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(self, *error: object) -> None: ...

class CountingSemaphore(SyncHandle):
    """Permits without owners (docs/protocols/sync.md); parameters and errors as of :class:`Lock`. It has no members."""

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Acquire a permit.

        Parameters
        ----------
        blocking : bool
            Wait until one is free.
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        bool
            False: none was free in time.
        """

    def release(self, n: int = 1) -> None:
        """Release permits, also more than were acquired.

        Parameters
        ----------
        n : int
            How many.

        Raises
        ------
        InvalidArgumentError
            There would be more than 2147483647. Nothing has changed.
        TransportError
            The message says whether nothing has changed, or the outcome is unknown.
        """

    @property
    def value(self) -> int:
        """Permits that are free."""

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """:meth:`acquire` in an event loop. Tasks that wait with one handle are served in the order of their calls.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        bool
            False: none was free in time.

        Examples
        --------
        >>> async def fetch(semaphore, get):
        ...     async with semaphore:
        ...         return await get()
        """

    async def release_async(self, n: int = 1) -> None:
        """:meth:`release` in an event loop.

        Parameters
        ----------
        n : int
            How many permits.
        """

    async def __aenter__(self) -> bool: ...
    async def __aexit__(self, *error: object) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(self, *error: object) -> None: ...
