# Events, conditions, barriers and once, of the module _core._core: see there.
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

from ._core import Lock, Remote, SyncHandle

_T = TypeVar("_T")
_P = ParamSpec("_P")

class Event(SyncHandle):
    """A flag to wait for (docs/protocols/sync.md); parameters and errors as of :class:`Lock`. It has no members."""

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def set(self) -> None:
        """Set the flag, and wake all that wait for it."""

    def clear(self) -> None:
        """Clear the flag: later calls of wait() block."""

    def is_set(self) -> bool:
        """Whether the flag is set."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        bool
            True: it is set, or was set and cleared again since the call. False: the time was over first.
        """

    async def wait_async(self, timeout: float | None = None) -> bool:
        """:meth:`wait` in an event loop.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        bool
            True: it is set, or was set and cleared again since the call. False: the time was over first.

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
    """Waiters of a lock (docs/protocols/sync.md). The methods of :class:`Lock` are those of the condition's lock.

    Parameters
    ----------
    remote : Remote
        The memory.
    lock : Lock, optional
        The lock that the condition was made with; None: its own. It can't be closed before the condition.
    spin : float, optional
        Seconds to poll before sleeping.

    Raises
    ------
    MismatchError
        The condition was made with another lock.

    Notes
    -----
    A task that has the lock by :meth:`acquire_async` or ``async with`` has it for itself, also where the lock is
    re-entrant: nothing is counted, and any other task, or the same one again, waits until it is released.
    """

    def __init__(self, remote: Remote, lock: Lock | None = None, spin: float | None = None) -> None: ...
    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait for a notification, and acquire the lock again.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for the notification; None: no limit. For the lock it waits as long as it takes.

        Returns
        -------
        bool
            False: the time was over first.

        Raises
        ------
        NotHeldError
            This handle does not hold the lock.
        TooManyMembersError
            All entries for waiters are in use.
        TransportError, PeerDeadError, or what a signal handler raises
            The lock is held then, unless it could not be acquired again: a handler raised while wait() acquired it, or
            it was not free within 2 seconds after the exception. Then release() and notify() raise NotHeldError, and
            the end of a ``with`` block does not touch a lock that another thread holds.
        """

    def wait_for(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """Wait until a predicate is true.

        Parameters
        ----------
        predicate : callable
            Called with the lock held, before the first wait and after each notification.
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        object
            The last result of the predicate: false if the time was over first.

        Raises
        ------
        NotHeldError, TooManyMembersError, TransportError, PeerDeadError
            As of :meth:`wait`.
        """

    async def wait_async(self, timeout: float | None = None) -> bool:
        """:meth:`wait` in an event loop.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for the notification; None: no limit.

        Returns
        -------
        bool
            False: the time was over first.

        Notes
        -----
        A task that is cancelled, or whose time is over, comes back with the lock held, however long that takes, as in
        :class:`asyncio.Condition`. A notification that it was given goes to the next waiter.

        Examples
        --------
        >>> async def take(condition, items):
        ...     async with condition:
        ...         while not items:
        ...             await condition.wait_async()
        ...         return items.pop()
        """

    async def wait_for_async(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """:meth:`wait_for` in an event loop.

        Parameters
        ----------
        predicate : callable
            Called in the loop, with the lock held.
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        object
            The last result of the predicate: false if the time was over first.
        """

    async def notify_async(self, n: int = 1) -> None:
        """:meth:`notify` in an event loop.

        Parameters
        ----------
        n : int
            How many waiters.
        """

    async def notify_all_async(self) -> None:
        """:meth:`notify_all` in an event loop."""

    def notify(self, n: int = 1) -> None:
        """Wake waiters, those first that have waited longest.

        Parameters
        ----------
        n : int
            How many, if there are so many.

        Raises
        ------
        NotHeldError
            This handle does not hold the lock.
        """

    def notify_all(self) -> None:
        """Wake all waiters. Raises NotHeldError if this handle does not hold the lock."""

class Barrier(SyncHandle):
    """Parties that wait for each other (docs/protocols/sync.md); errors as of :class:`Lock`.

    Parameters
    ----------
    remote : Remote
        The memory.
    action : callable, optional
        Called when the party of this handle comes last, before any party goes on.
    timeout : float, optional
        Seconds for a wait() that is given none; None: no limit.
    spin : float, optional
        Seconds to poll before sleeping.
    """

    def __init__(
        self,
        remote: Remote,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        spin: float | None = None,
    ) -> None: ...
    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties have come.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; by default those that the handle was opened with. When they are over, the barrier breaks.

        Returns
        -------
        int
            Order of arrival, from 0; that of the last party is ``parties - 1``.

        Raises
        ------
        BrokenBarrierError
            The barrier was aborted or reset, a party died in it, or the time was over.
        """

    async def wait_async(self, timeout: float | None = None) -> int:
        """:meth:`wait` in an event loop.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; by default those that the handle was opened with.

        Returns
        -------
        int
            Order of arrival, from 0; that of the last party is ``parties - 1``.

        Raises
        ------
        BrokenBarrierError
            The barrier was aborted or reset, a party died in it, or the time was over.

        Notes
        -----
        A task that is cancelled breaks the barrier for the others: an arrival can't be taken back. The action runs in
        the loop of the task that comes last.

        Examples
        --------
        >>> async def phase(barrier, work):
        ...     await work()
        ...     return await barrier.wait_async(timeout=60)
        """

    def abort(self) -> None:
        """Break the barrier: all that wait, and all that come before reset(), get BrokenBarrierError."""

    def reset(self) -> None:
        """Make the barrier empty and whole again. Parties that wait get BrokenBarrierError."""

    def waiters(self) -> list[int]:
        """Identities of the parties that have come, in that order, and of one that is just arriving."""

    def break_(self, holder: int) -> bool:
        """Break the barrier for a party that is known to be gone, as if its death had been noticed.

        Nothing happens if that party's generation is over. A party that lives gets BrokenBarrierError, as all do.

        Parameters
        ----------
        holder : int
            What :meth:`waiters` returned.

        Returns
        -------
        bool
            False: that party has not come.
        """

    @property
    def parties(self) -> int:
        """How many parties have to come."""

    @property
    def n_waiting(self) -> int:
        """How many parties have come."""

    @property
    def broken(self) -> bool:
        """Whether the barrier is broken."""

class Once(SyncHandle):
    """A task for one process; the others wait (docs/protocols/sync.md); parameters and errors as of :class:`Lock`."""

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def begin(self, timeout: float | None = None) -> bool:
        """Begin the task, or wait until another process has done it.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for another process; None: no limit.

        Returns
        -------
        bool
            True: the caller does the task and then calls :meth:`end`. False: it has been done.

        Raises
        ------
        TimeoutError
            Another process is still at it.
        BusyError
            This thread has begun already, with this handle.
        """

    def end(self, done: bool = True) -> None:
        """End the task that :meth:`begin` began.

        Parameters
        ----------
        done : bool
            False: it was not done, so that another process may begin.

        Raises
        ------
        NotHeldError
            This handle has not begun, or break_() took that from it.
        """

    def holder(self) -> int | None:
        """Identity of the process that does the task, for :meth:`break_`; None: none."""

    def break_(self, holder: int) -> bool:
        """Let another process do the task, as the one that does it is known to be gone.

        Safe where :meth:`Lock.break_` is. The next finds ``recovered`` true. A process that lives notices at its end(),
        which raises NotHeldError and leaves the task not done.

        Parameters
        ----------
        holder : int
            What :meth:`holder` returned.

        Returns
        -------
        bool
            False: that process does not do the task.
        """

    def call(self, function: Callable[_P, _T], /, *args: _P.args, **named: _P.kwargs) -> _T | None:
        """Call a function if no process has called it before, or wait until another one has.

        Parameters
        ----------
        function : callable
            The task. If it raises, the task is not done, and the exception comes out.
        *args, **named
            Its arguments.

        Returns
        -------
        object
            The function's result; None where another process did the task.

        Raises
        ------
        BusyError
            This thread has begun already, with this handle.
        """

    @property
    def done(self) -> bool:
        """Whether the task has been done."""

    @property
    def recovered(self) -> bool:
        """Whether a process died at the task before this handle began it."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
