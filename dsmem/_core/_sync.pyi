# Synchronisation, of the module _core._core: see there.
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, ParamSpec, TypeVar, final

from numpy.typing import NDArray
from typing_extensions import Buffer

from ._core import Remote

_Buffer = Buffer | NDArray[Any]
_T = TypeVar("_T")
_P = ParamSpec("_P")

def sync_bytes(kind: str, members: int = 0, count: int = 0) -> int:
    """Bytes that an object of synchronisation takes; InvalidArgumentError where there can be none such."""

def sync_format(view: _Buffer, kind: str, members: int = 0, count: int = 0, lock: int = 0) -> None:
    """Write it into zeroed memory, before anybody else sees that."""

class SyncHandle:
    """What the handles of synchronisation objects have in common. The remote can't be closed while they are open.

    May be used from many threads. A wait gives back the GIL and runs Python's signal handlers every 50 ms.

    In event loops the methods that end in ``_async`` do the same as those without, and the loop goes on. What is there
    at once, on this host, is had without a turn of the loop; else one thread for all tasks that wait with the handle
    sleeps or asks in their place. A task that is cancelled leaves nothing taken. close() ends the waits of tasks with
    ClosedError, in whatever loop.
    """

    @property
    def closed(self) -> bool:
        """Whether it was closed."""

    def close(self) -> None:
        """BusyError while calls are under way in other threads, or while it holds something."""

class Lock(SyncHandle):
    """A lock or a spinlock (docs/protocols/lock.md). spin: seconds to look before sleeping.

    Raises
    ------
    MismatchError, CorruptError, VersionError
        The memory holds something else.
    AccessDeniedError
        It takes the rights to read, write and update.
    TooManyMembersError
        All members live.
    """

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Take it; False when it was not free in time. timeout in seconds, -1 or None: no limit.

        Far, an attempt that the transport loses is noticed after the peer timeout. After a failure the lock's word is
        read: it tells whether the attempt took effect. Where that can't be read, the error is raised, and the next
        acquire(), or close(), finds out.
        """

    def release(self) -> None:
        """Give it back, from whatever thread.

        Raises
        ------
        NotHeldError
            It is not held with this handle, or was taken over.
        TransportError, PeerDeadError and so on
            Nothing is known; it may be called again.
        """

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """:meth:`acquire` in an event loop. Tasks of one loop exclude each other, as all others do.

        Parameters
        ----------
        timeout : float, optional
            Seconds; None: no limit.

        Returns
        -------
        bool
            False: it was not free in time.

        Notes
        -----
        What holds it then is the handle, as after acquire(), so :meth:`release` may follow, where the memory is on this
        host, or :meth:`release_async`. Tasks that wait with one handle get it in the order in which they came.

        Examples
        --------
        >>> async def add(lock, total, n):
        ...     async with lock:
        ...         total[0] += n
        """

    async def release_async(self) -> None:
        """:meth:`release` in an event loop. A task that is cancelled meanwhile goes on when it has ended."""

    async def __aenter__(self) -> bool: ...
    async def __aexit__(self, *error: object) -> None: ...
    def locked(self) -> bool:
        """Whether anybody holds it."""

    def holder(self) -> int | None:
        """The identity of the process that holds it, as :meth:`break_` takes it; None: nobody."""

    def break_(self, holder: int) -> bool:
        """Take the lock from a holder that is known to be gone, though nothing here proves it.

        The next holder finds ``recovered`` true, and a larger token, as after a holder that died. This is safe where
        the holder will never again touch what the lock protects (its host is off), or where that refuses smaller
        tokens. A holder that lives does not notice before its release, which raises NotHeldError; until then two work
        at once. Processes of one host that share /dev/shm need no break_: their death is noticed.

        Parameters
        ----------
        holder : int
            As :meth:`holder` gave it, so that the lock is not taken from a later one.

        Returns
        -------
        bool
            False: that one does not hold it.
        """

    @property
    def token(self) -> int | None:
        """The number of this handle's grant, larger than of all grants before; None: it holds nothing."""

    @property
    def recovered(self) -> bool:
        """Whether the holder before died with it; of this handle's grant."""

    def __enter__(self) -> bool: ...
    def __exit__(self, *error: object) -> None: ...

class RLock(Lock):
    """A lock that its thread may acquire again. Arguments and errors as of :class:`Lock`.

    Tasks can't have it: all of a loop share its thread, so it would not keep them apart.
    """

    def acquire_async(self, timeout: float | None = None) -> NoReturn:
        """UnsupportedError: use a lock, or a thread."""

    def release_async(self) -> NoReturn:
        """UnsupportedError."""

    def __aenter__(self) -> NoReturn: ...
    def __aexit__(self, *error: object) -> NoReturn: ...

class RWLock(SyncHandle):
    """Many readers or one writer (docs/protocols/sync.md). Arguments and errors as of :class:`Lock`."""

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def acquire_read(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Come in as a reader; False when it was not possible in time. timeout in seconds, -1 or None: no limit."""

    def release_read(self) -> None:
        """Go out.

        Raises
        ------
        NotHeldError
            This handle does not read, or break_() took that from it.
        TransportError, PeerDeadError and so on
            It does not read any more, but writers may still wait for it: whatever the handle does next lets them in.
        """

    def acquire_write(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Keep others out, and wait until the readers inside have gone; False when they had not in time."""

    def release_write(self) -> None:
        """NotHeldError where this handle does not write, or was taken over."""

    def writer(self) -> int | None:
        """The identity of who writes, or waits with the writer's turn for readers to go; None: nobody."""

    def readers(self) -> list[int]:
        """The identities of those that read, one for each handle. Handles of one process of this host have the same."""

    def break_(self, holder: int) -> bool:
        """Take what a writer or reader has that is known to be gone. Safe where :meth:`Lock.break_` is.

        The next writer finds a larger token and, after a writer, ``recovered`` true. A reader that lives does not
        notice before it goes out for the last time, or comes in once more on this host: NotHeldError.

        Parameters
        ----------
        holder : int
            As :meth:`writer` or :meth:`readers` gave it.

        Returns
        -------
        bool
            False: that one holds nothing.
        """

    async def acquire_read_async(self, timeout: float | None = None) -> bool:
        """:meth:`acquire_read` in an event loop.

        Examples
        --------
        >>> async def look(rwlock, table):
        ...     async with rwlock.read():
        ...         return table.copy()
        """

    async def release_read_async(self) -> None:
        """:meth:`release_read` in an event loop."""

    async def acquire_write_async(self, timeout: float | None = None) -> bool:
        """:meth:`acquire_write` in an event loop. A task that is cancelled lets readers in again."""

    async def release_write_async(self) -> None:
        """:meth:`release_write` in an event loop."""

    def read(self, timeout: float | None = None) -> Side:
        """For a with statement: comes in as a reader, or raises TimeoutError. timeout in seconds, None: no limit."""

    def write(self, timeout: float | None = None) -> Side:
        """For a with statement: comes in as the writer, or raises TimeoutError. timeout in seconds, None: no limit."""

    @property
    def token(self) -> int | None:
        """The number of the writer's grant that this handle has; None: it does not write."""

    @property
    def recovered(self) -> bool:
        """Whether the last writer died while it wrote; of what this handle holds."""

@final
class Side:
    """What RWLock.read() and .write() return, for ``with`` and ``async with``."""

    def __enter__(self) -> RWLock: ...
    def __exit__(self, *error: object) -> None: ...
    async def __aenter__(self) -> RWLock: ...
    async def __aexit__(self, *error: object) -> None: ...

class Semaphore(SyncHandle):
    """Permits with owners (docs/protocols/sync.md). Arguments and errors as of :class:`Lock`; it has no members."""

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Get a permit; False when none was free in time. timeout in seconds; None: no limit."""

    def release(self, n: int = 1) -> None:
        """Give n permits of this handle back; PermitError, and nothing has changed, where it has fewer."""

    @property
    def value(self) -> int:
        """Permits that are free; those of the dead count when a waiter has found them."""

    def holders(self) -> list[int]:
        """Whose the permits are that are taken: on this host a process's identity, else a value for each grant."""

    def break_(self, holder: int) -> bool:
        """Free the permits of a holder that is known to be gone. Safe where :meth:`Lock.break_` is.

        A holder that lives does not notice before it releases such a permit: PermitError. Where another handle of its
        process has the permit by then, the release takes that one's.

        Parameters
        ----------
        holder : int
            As :meth:`holders` gave it.

        Returns
        -------
        bool
            False: that one has no permit.
        """

    @property
    def held(self) -> int:
        """Permits that this handle has."""

    @property
    def recovered(self) -> bool:
        """Whether the permit acquired last was a dead process's."""

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """:meth:`acquire` in an event loop. Tasks that wait with one handle are served in the order in which they came.

        Examples
        --------
        >>> async def fetch(semaphore, get):
        ...     async with semaphore:
        ...         return await get()
        """

    async def release_async(self, n: int = 1) -> None:
        """:meth:`release` in an event loop."""

    async def __aenter__(self) -> bool: ...
    async def __aexit__(self, *error: object) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(self, *error: object) -> None: ...

class CountingSemaphore(SyncHandle):
    """Permits without owners (docs/protocols/sync.md). Arguments and errors as of :class:`Lock`; it has no members."""

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Get a permit; False when none was free in time. timeout in seconds; None: no limit."""

    def release(self, n: int = 1) -> None:
        """Add n permits.

        Raises
        ------
        InvalidArgumentError
            There would be more than 2147483647; nothing has changed.
        TransportError
            The message says whether nothing has changed, or the outcome is unknown.
        """

    @property
    def value(self) -> int:
        """Permits that are free."""

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """:meth:`acquire` in an event loop. Tasks that wait with one handle are served in the order in which they came.

        Examples
        --------
        >>> async def fetch(semaphore, get):
        ...     async with semaphore:
        ...         return await get()
        """

    async def release_async(self, n: int = 1) -> None:
        """:meth:`release` in an event loop."""

    async def __aenter__(self) -> bool: ...
    async def __aexit__(self, *error: object) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(self, *error: object) -> None: ...

class Event(SyncHandle):
    """A flag to wait for (docs/protocols/sync.md). Arguments and errors as of :class:`Lock`; it has no members."""

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def set(self) -> None:
        """Set it and wake all who wait."""

    def clear(self) -> None:
        """Clear it."""

    def is_set(self) -> bool:
        """Whether it is set."""

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is set, or was since the call; False when time was over. timeout in seconds, None: no limit."""

    async def wait_async(self, timeout: float | None = None) -> bool:
        """:meth:`wait` in an event loop.

        Examples
        --------
        >>> async def when(event, then):
        ...     if await event.wait_async(timeout=10):
        ...         then()
        """

    async def set_async(self) -> None:
        """:meth:`set` in an event loop."""

    async def clear_async(self) -> None:
        """:meth:`clear` in an event loop."""

class Condition(Lock):
    """Waiters of a lock (docs/protocols/sync.md); the methods of :class:`Lock` are those of its lock.

    lock: the one that it was made to go with, None: its own. The lock can't be closed before the condition.
    MismatchError where it goes with another one; else arguments and errors as of :class:`Lock`.

    A task that has the lock by :meth:`acquire_async` or ``async with`` has it for itself, also where the lock is a
    re-entrant one: nothing is counted, and another task of its loop, or the same one, waits until it is released.
    """

    def __init__(self, remote: Remote, lock: Lock | None = None, spin: float | None = None) -> None: ...
    def wait(self, timeout: float | None = None) -> bool:
        """Give the lock back, wait for a notification, take the lock again; False when time was over first.

        Raises
        ------
        NotHeldError
            The lock is not held with this handle.
        TooManyMembersError
            As many wait as can.
        TransportError, PeerDeadError and so on; what a signal handler raises
            The lock is held, unless it could not be had again: a handler raised while wait() took it, or it did not
            come within 2 seconds of the exception. Then release() and notify() raise NotHeldError, and leaving a with
            block leaves alone what another thread holds.
        """

    def wait_for(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """Wait until predicate() is true, or time is over; returns what it said last."""

    async def wait_async(self, timeout: float | None = None) -> bool:
        """:meth:`wait` in an event loop.

        Notes
        -----
        A task that is cancelled, or whose time is over, comes back with the lock held, however long another one has it,
        as in :class:`asyncio.Condition`; a notification that it was given goes to the next waiter.

        Examples
        --------
        >>> async def take(condition, items):
        ...     async with condition:
        ...         while not items:
        ...             await condition.wait_async()
        ...         return items.pop()
        """

    async def wait_for_async(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """:meth:`wait_for` in an event loop, where predicate() is called, too."""

    async def notify_async(self, n: int = 1) -> None:
        """:meth:`notify` in an event loop."""

    async def notify_all_async(self) -> None:
        """:meth:`notify_all` in an event loop."""

    def notify(self, n: int = 1) -> None:
        """Wake the n that have waited longest, if there are so many. NotHeldError without the lock."""

    def notify_all(self) -> None:
        """Wake all that wait. NotHeldError without the lock."""

class Barrier(SyncHandle):
    """Parties that wait for each other (docs/protocols/sync.md). Arguments and errors as of :class:`Lock`.

    action: what is called when this party comes last. timeout: seconds, for wait() without one; None: no limit.
    """

    def __init__(
        self,
        remote: Remote,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        spin: float | None = None,
    ) -> None: ...
    def wait(self, timeout: float | None = None) -> int:
        """Until all parties have come. Returns the order of arrival, from 0; the last one's is parties - 1.

        Raises
        ------
        BrokenBarrierError
            It was broken or reset, a party died in it, or time was over (which breaks it).
        """

    async def wait_async(self, timeout: float | None = None) -> int:
        """:meth:`wait` in an event loop.

        Notes
        -----
        A task that is cancelled breaks the barrier for the others, as time that is over does: what has come can't be
        taken back. The action runs in the loop of the task that comes last.

        Examples
        --------
        >>> async def phase(barrier, work):
        ...     await work()
        ...     return await barrier.wait_async(timeout=60)
        """

    def abort(self) -> None:
        """Break it: all who wait and will come get BrokenBarrierError, until reset()."""

    def reset(self) -> None:
        """Make it new; who waits gets BrokenBarrierError."""

    def waiters(self) -> list[int]:
        """The identities of those that have come, in that order, and of one that is about to."""

    def break_(self, holder: int) -> bool:
        """Break the barrier for a party that is known to be gone, as if its death had been noticed.

        It is not broken when that party's generation is over. A party that lives gets BrokenBarrierError, as all do.

        Parameters
        ----------
        holder : int
            As :meth:`waiters` gave it.

        Returns
        -------
        bool
            False: that one has not come.
        """

    @property
    def parties(self) -> int:
        """How many there are."""

    @property
    def n_waiting(self) -> int:
        """How many have come."""

    @property
    def broken(self) -> bool:
        """Whether it is broken."""

class Once(SyncHandle):
    """One runs it, the others wait (docs/protocols/sync.md). Arguments and errors as of :class:`Lock`."""

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def begin(self, timeout: float | None = None) -> bool:
        """True: the caller runs it, and calls end(). False: it has been run. TimeoutError: another one still does.

        BusyError: this thread runs it already, with this handle.
        """

    def end(self, done: bool = True) -> None:
        """It has been run; or not, with done=False, and another one may try. NotHeldError without begin()."""

    def holder(self) -> int | None:
        """The identity of who runs it, as :meth:`break_` takes it; None: nobody."""

    def break_(self, holder: int) -> bool:
        """Let another one run it, since the one that does is known to be gone. Safe where :meth:`Lock.break_` is.

        The next finds ``recovered`` true. One that lives does not notice before its end(), which raises NotHeldError
        and leaves it not done.

        Parameters
        ----------
        holder : int
            As :meth:`holder` gave it.

        Returns
        -------
        bool
            False: that one does not run it.
        """

    def call(self, function: Callable[_P, _T], /, *args: _P.args, **named: _P.kwargs) -> _T | None:
        """Call function where nobody has before, with its result; else wait until it has been called: None."""

    @property
    def done(self) -> bool:
        """Whether it has been run."""

    @property
    def recovered(self) -> bool:
        """Whether another one died while it ran it; for who runs it now."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
