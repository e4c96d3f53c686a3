# Stubs of locks, rwlocks and semaphores of the extension module _core._core. _core.pyi imports them.
from typing import Any, NoReturn, ParamSpec, TypeVar, final

from numpy.typing import NDArray
from typing_extensions import Buffer

from ._core import Remote

_Buffer = Buffer | NDArray[Any]
_T = TypeVar("_T")
_P = ParamSpec("_P")

def sync_bytes(kind: str, members: int = 0, count: int = 0) -> int:
    """Return the size of a synchronisation object in bytes. It raises InvalidArgumentError if a number is invalid."""

def sync_format(view: _Buffer, kind: str, members: int = 0, count: int = 0, lock: int = 0) -> None:
    """Write the object into zeroed memory. No other process may see the memory yet."""

class SyncHandle:
    """Base class of the handles of synchronisation objects. The remote cannot be closed while the handle is open.

    Threads may share a handle. A wait releases the GIL and runs Python's signal handlers every 50 ms.

    The methods whose names end in ``_async`` do the same as those without, but do not block the event loop. On this
    host, what is free is acquired without suspending the task. Otherwise one thread waits for all tasks that use the
    handle. A task that is cancelled while it acquires something does not hold it. :meth:`close` ends the waits of tasks
    in all event loops with ClosedError.

    Raises
    ------
    ClosedError
        Raised by every method: the handle is closed.
    InvalidArgumentError
        An argument is invalid.
    TransportError, PeerDeadError, TimeoutError
        The memory belongs to another process, and an op failed.
    ForkError
        The memory belongs to a context, and the process is a forked child of the one that opened it.
    """

    @property
    def closed(self) -> bool:
        """Whether this handle is closed."""

    def close(self) -> None:
        """Close the handle. Closing twice has no effect.

        Raises
        ------
        BusyError
            Calls are in progress in other threads, or the handle still holds the object or permits.
        """

class Lock(SyncHandle):
    """A handle of a lock or spinlock on memory that contains one (docs/protocols/lock.md).

    Parameters
    ----------
    remote : Remote
        The memory.
    spin : float, optional
        Seconds to poll before sleeping.

    Raises
    ------
    MismatchError, CorruptError, VersionError
        The memory does not contain such an object, or contains one of an incompatible release.
    AccessDeniedError
        The memory was attached without all the rights to read, write and use atomics.
    TooManyMembersError
        All entries for handles are in use by processes that are alive.
    """

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Acquire the lock.

        Parameters
        ----------
        blocking : bool
            Whether to wait until the lock is free.
        timeout : float, optional
            Seconds to wait; -1 or None: no limit.

        Returns
        -------
        bool
            True if the lock was acquired, False if it was not free in time.

        Notes
        -----
        Over the network, an attempt that is lost in the transport is detected after the peer timeout. After a failure
        the lock word is read again to find out whether the attempt took effect. If it cannot be read, the error is
        raised, and the next acquire() or close() finds out.
        """

    def release(self) -> None:
        """Release the lock. Any thread of the process may do that; of a re-entrant lock, only the thread that holds it.

        Raises
        ------
        NotHeldError
            This handle does not hold the lock, or the lock was taken over.
        TransportError, PeerDeadError
            The outcome is unknown. Call the method again.
        """

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """:meth:`acquire` in an event loop. Tasks of the same loop exclude each other, too.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        bool
            True if the lock was acquired, False if it was not free in time.

        Notes
        -----
        The handle holds the lock afterwards, as after acquire(). Release it with :meth:`release_async` or, if the
        memory is on this host, with :meth:`release`. Tasks that wait with the same handle get the lock in the order of
        their calls.

        Examples
        --------
        >>> async def add(lock, total, n):
        ...     async with lock:
        ...         total[0] += n
        """

    async def release_async(self) -> None:
        """:meth:`release` in an event loop. The release completes even if the task is cancelled meanwhile."""

    async def __aenter__(self) -> bool: ...
    async def __aexit__(self, *error: object) -> None: ...
    def locked(self) -> bool:
        """Return whether any handle holds the lock."""

    def holder(self) -> int | None:
        """Return the identity of the process that holds the lock, for :meth:`break_`, or None if it is free."""

    def break_(self, holder: int) -> bool:
        """Take the lock from a holder that is known to be dead, although its death is not proven here.

        Parameters
        ----------
        holder : int
            The identity that :meth:`holder` returned, so that the lock is not taken from a later holder.

        Returns
        -------
        bool
            False if that process does not hold the lock.

        Notes
        -----
        For the next holder ``recovered`` is true and the token is larger, as after a holder that died. Call it only if
        the holder can never access the protected data again (for example because its host is off), or if accesses with
        smaller tokens are refused there. A holder that is still alive finds out when it releases the lock, which raises
        NotHeldError; until then both believe that they hold the lock. Processes of one host that share /dev/shm do not
        need ``break_``, because the kernel proves their death.
        """

    @property
    def token(self) -> int | None:
        """Fencing token of this handle's grant, larger than those of all earlier grants. None if it holds nothing."""

    @property
    def recovered(self) -> bool:
        """Whether the previous holder of the lock, before this handle's grant, died while holding it."""

    def __enter__(self) -> bool: ...
    def __exit__(self, *error: object) -> None: ...

class RLock(Lock):
    """A re-entrant lock: the thread that holds it may acquire it again. Parameters and errors are as for :class:`Lock`.

    Tasks cannot acquire it. All tasks of an event loop share one thread, so the lock would not exclude them.
    """

    def acquire_async(self, timeout: float | None = None) -> NoReturn:
        """Not supported: raises UnsupportedError. Use :class:`Lock` in tasks, or acquire the lock in a thread.

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
        """Not supported, like :meth:`acquire_async`: raises UnsupportedError."""

    def __aenter__(self) -> NoReturn: ...
    def __aexit__(self, *error: object) -> NoReturn: ...

class RWLock(SyncHandle):
    """A readers-writer lock (docs/protocols/sync.md). Parameters and errors are as for :class:`Lock`."""

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def acquire_read(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Acquire the lock as a reader.

        Parameters
        ----------
        blocking : bool
            Whether to wait for writers to finish.
        timeout : float, optional
            Seconds to wait; -1 or None: no limit.

        Returns
        -------
        bool
            True if the lock was acquired, False if it was not free for readers in time.
        """

    def release_read(self) -> None:
        """Release the lock as a reader.

        Raises
        ------
        NotHeldError
            This handle does not hold the lock as a reader, or break_() took it away.
        TransportError, PeerDeadError
            The handle is not a reader any more, but writers may still wait for it. The next call with this handle
            clears that.
        """

    def acquire_write(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Acquire the lock as the writer: exclude new readers and writers, then wait for current readers to finish.

        Parameters
        ----------
        blocking : bool
            Whether to wait for the current writer and readers.
        timeout : float, optional
            Seconds to wait; -1 or None: no limit.

        Returns
        -------
        bool
            True if the lock was acquired, False if it was not free in time.
        """

    def release_write(self) -> None:
        """Release the lock as the writer.

        Raises
        ------
        NotHeldError
            This handle does not hold the lock as the writer, or the lock was taken over.
        """

    def writer(self) -> int | None:
        """Return the identity of the writer, or of the next writer, which waits for readers to finish, or None."""

    def readers(self) -> list[int]:
        """Return the identities of the readers, one for each handle.

        All handles of a process on this host have the same identity.
        """

    def break_(self, holder: int) -> bool:
        """Take the lock from a writer or reader that is known to be dead.

        It is safe under the same conditions as :meth:`Lock.break_`. The next writer gets a larger token and, if the
        lock was taken from a writer, ``recovered`` is true. A reader that is still alive gets NotHeldError from its
        last release or, on this host, when it acquires the lock as a reader again.

        Parameters
        ----------
        holder : int
            An identity that :meth:`writer` or :meth:`readers` returned.

        Returns
        -------
        bool
            False if that process does not hold the lock.
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
            True if the lock was acquired, False if it was not free for readers in time.

        Examples
        --------
        >>> async def look(rwlock, table):
        ...     async with rwlock.read():
        ...         return table.copy()
        """

    async def release_read_async(self) -> None:
        """:meth:`release_read` in an event loop."""

    async def acquire_write_async(self, timeout: float | None = None) -> bool:
        """:meth:`acquire_write` in an event loop. If the task is cancelled, readers can acquire the lock again.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        bool
            True if the lock was acquired, False if it was not free in time.
        """

    async def release_write_async(self) -> None:
        """:meth:`release_write` in an event loop."""

    def read(self, timeout: float | None = None) -> Side:
        """Return the reader's side of the lock, for a ``with`` or ``async with`` statement.

        Parameters
        ----------
        timeout : float, optional
            Seconds until TimeoutError; None: no limit.

        Returns
        -------
        context manager
            Its value is this handle.
        """

    def write(self, timeout: float | None = None) -> Side:
        """Return the writer's side of the lock, for a ``with`` or ``async with`` statement.

        Parameters
        ----------
        timeout : float, optional
            Seconds until TimeoutError; None: no limit.

        Returns
        -------
        context manager
            Its value is this handle.
        """

    @property
    def token(self) -> int | None:
        """Fencing token of this handle's grant as the writer. None if it does not hold the lock as the writer."""

    @property
    def recovered(self) -> bool:
        """Whether the last writer before this handle's grant died while holding the lock."""

@final
class Side:
    """The reader's or writer's side of an RWLock, for ``with`` and ``async with``.

    :meth:`RWLock.read` and :meth:`RWLock.write` return one.
    """

    def __enter__(self) -> RWLock: ...
    def __exit__(self, *error: object) -> None: ...
    async def __aenter__(self) -> RWLock: ...
    async def __aexit__(self, *error: object) -> None: ...

class Semaphore(SyncHandle):
    """A semaphore whose permits have owners (docs/protocols/sync.md). It keeps no table of members.

    Parameters and errors are as for :class:`Lock`.
    """

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Acquire a permit.

        Parameters
        ----------
        blocking : bool
            Whether to wait until a permit is free.
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        bool
            True if a permit was acquired, False if none was free in time.
        """

    def release(self, n: int = 1) -> None:
        """Release permits of this handle.

        Parameters
        ----------
        n : int
            Number of permits.

        Raises
        ------
        PermitError
            The handle holds fewer permits. Nothing has changed.
        """

    @property
    def value(self) -> int:
        """Number of free permits. Permits of dead processes are included only after a waiter has found them."""

    def holders(self) -> list[int]:
        """Return the owners of the permits that are taken.

        An owner is the identity of a process on this host, or else a value for each grant.
        """

    def break_(self, holder: int) -> bool:
        """Free the permits of a holder that is known to be dead.

        It is safe under the same conditions as :meth:`Lock.break_`. A holder that is still alive gets PermitError when
        it releases such a permit. If another handle of its process has acquired the permit by then, the release takes
        the permit from that handle.

        Parameters
        ----------
        holder : int
            A value that :meth:`holders` returned.

        Returns
        -------
        bool
            False if that holder has no permit.
        """

    @property
    def held(self) -> int:
        """Number of permits that this handle holds."""

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
            True if a permit was acquired, False if none was free in time.

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
            Number of permits.
        """

    async def __aenter__(self) -> bool: ...
    async def __aexit__(self, *error: object) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(self, *error: object) -> None: ...

class CountingSemaphore(SyncHandle):
    """A semaphore whose permits have no owners (docs/protocols/sync.md). It keeps no table of members.

    Parameters and errors are as for :class:`Lock`.
    """

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Acquire a permit.

        Parameters
        ----------
        blocking : bool
            Whether to wait until a permit is free.
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        bool
            True if a permit was acquired, False if none was free in time.
        """

    def release(self, n: int = 1) -> None:
        """Release permits, possibly more than were acquired.

        Parameters
        ----------
        n : int
            Number of permits.

        Raises
        ------
        InvalidArgumentError
            There would be more than 2147483647 free permits. Nothing has changed.
        TransportError
            The message says whether nothing has changed or the outcome is unknown.
        """

    @property
    def value(self) -> int:
        """Number of free permits."""

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """:meth:`acquire` in an event loop. Tasks that wait with one handle are served in the order of their calls.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        bool
            True if a permit was acquired, False if none was free in time.

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
            Number of permits.
        """

    async def __aenter__(self) -> bool: ...
    async def __aexit__(self, *error: object) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(self, *error: object) -> None: ...
