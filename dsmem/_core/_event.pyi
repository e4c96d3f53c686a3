# Stubs of events, conditions, barriers and once objects of the extension module _core._core. _core.pyi imports them.
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

from ._core import Lock, Remote, SyncHandle

_T = TypeVar("_T")
_P = ParamSpec("_P")

class Event(SyncHandle):
    """A flag that processes wait for (docs/protocols/sync.md). It keeps no table of members.

    Parameters and errors are as for :class:`Lock`.
    """

    def __init__(self, remote: Remote, spin: float | None = None) -> None: ...
    def set(self) -> None:
        """Set the flag and wake all waiters."""

    def clear(self) -> None:
        """Clear the flag, so that later calls of wait() block."""

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
            True if the flag is set, or was set and cleared again since the call. False if the call timed out.
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
            True if the flag is set, or was set and cleared again since the call. False if the call timed out.

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
    """A condition variable (docs/protocols/sync.md). The methods of :class:`Lock` operate on the condition's lock.

    Parameters
    ----------
    remote : Remote
        The memory.
    lock : Lock, optional
        The lock that the condition was created with, or None if the condition has a lock of its own. It cannot be
        closed before the condition.
    spin : float, optional
        Seconds to poll before sleeping.

    Raises
    ------
    MismatchError
        The condition was created with another lock.

    Notes
    -----
    A task that acquires the lock with :meth:`acquire_async` or ``async with`` holds it exclusively, even if the lock is
    re-entrant: acquisitions are not counted, and any other task, or the same task again, waits until it is released.
    """

    def __init__(self, remote: Remote, lock: Lock | None = None, spin: float | None = None) -> None: ...
    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait for a notification, and acquire the lock again.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for the notification; None: no limit. Acquiring the lock again is not limited.

        Returns
        -------
        bool
            True if the waiter was notified, False if the call timed out.

        Raises
        ------
        NotHeldError
            This handle does not hold the lock.
        TooManyMembersError
            All entries for waiters are in use.
        TransportError, PeerDeadError, or what a signal handler raises
            The lock is held again when the exception is raised, unless it could not be acquired: a handler raised
            while wait() was acquiring it, or it was not free within 2 seconds after the exception. In that case
            release() and notify() raise NotHeldError, and the end of a ``with`` block does not touch a lock that
            another thread holds.
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
            The last result of the predicate, which is false if the call timed out.

        Raises
        ------
        NotHeldError, TooManyMembersError, TransportError, PeerDeadError
            As for :meth:`wait`.
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
            True if the waiter was notified, False if the call timed out.

        Notes
        -----
        A task that is cancelled or times out returns with the lock held, however long that takes, as in
        :class:`asyncio.Condition`. A notification that a cancelled task has received goes to the next waiter.

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
            Called in the event loop, with the lock held.
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        object
            The last result of the predicate, which is false if the call timed out.
        """

    async def notify_async(self, n: int = 1) -> None:
        """:meth:`notify` in an event loop.

        Parameters
        ----------
        n : int
            Maximum number of waiters to wake.
        """

    async def notify_all_async(self) -> None:
        """:meth:`notify_all` in an event loop."""

    def notify(self, n: int = 1) -> None:
        """Wake up to n waiters, those first that have waited longest.

        Parameters
        ----------
        n : int
            Maximum number of waiters to wake.

        Raises
        ------
        NotHeldError
            This handle does not hold the lock.
        """

    def notify_all(self) -> None:
        """Wake all waiters. It raises NotHeldError if this handle does not hold the lock."""

class Barrier(SyncHandle):
    """A barrier: a fixed number of parties wait for each other (docs/protocols/sync.md).

    Errors are as for :class:`Lock`.

    Parameters
    ----------
    remote : Remote
        The memory.
    action : callable, optional
        Called if this handle's party arrives last, before any party is released.
    timeout : float, optional
        Default timeout of wait() in seconds; None: no limit.
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
        """Wait until all parties have arrived.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait. The default is the timeout with which the handle was opened. A timeout breaks the barrier.

        Returns
        -------
        int
            Order of arrival, from 0 to ``parties - 1`` for the last party.

        Raises
        ------
        BrokenBarrierError
            The barrier was aborted or reset, a party died while waiting, or a party timed out.
        """

    async def wait_async(self, timeout: float | None = None) -> int:
        """:meth:`wait` in an event loop.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait. The default is the timeout with which the handle was opened.

        Returns
        -------
        int
            Order of arrival, from 0 to ``parties - 1`` for the last party.

        Raises
        ------
        BrokenBarrierError
            The barrier was aborted or reset, a party died while waiting, or a party timed out.

        Notes
        -----
        A task that is cancelled breaks the barrier for the others, because an arrival cannot be undone. The action runs
        in the event loop of the task that arrives last.

        Examples
        --------
        >>> async def phase(barrier, work):
        ...     await work()
        ...     return await barrier.wait_async(timeout=60)
        """

    def abort(self) -> None:
        """Break the barrier. Parties that wait, and those that arrive before reset(), get BrokenBarrierError."""

    def reset(self) -> None:
        """Return the barrier to its initial, empty state. Parties that wait get BrokenBarrierError."""

    def waiters(self) -> list[int]:
        """Return the identities of the parties that have arrived, in that order, and of one that is just arriving."""

    def break_(self, holder: int) -> bool:
        """Break the barrier because a party is known to be dead, as if its death had been detected.

        It has no effect if that party's generation has ended. A party that is alive gets BrokenBarrierError, like all
        others.

        Parameters
        ----------
        holder : int
            An identity that :meth:`waiters` returned.

        Returns
        -------
        bool
            False if that party has not arrived.
        """

    @property
    def parties(self) -> int:
        """Number of parties that have to arrive."""

    @property
    def n_waiting(self) -> int:
        """Number of parties that have arrived."""

    @property
    def broken(self) -> bool:
        """Whether the barrier is broken."""

class Once(SyncHandle):
    """A task that one process does while the others wait (docs/protocols/sync.md).

    Parameters and errors are as for :class:`Lock`.
    """

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
            True if the caller is to do the task and then call :meth:`end`. False if the task has been done.

        Raises
        ------
        TimeoutError
            Another process is still doing the task.
        BusyError
            This thread has already begun the task with this handle.
        """

    def end(self, done: bool = True) -> None:
        """End the task that :meth:`begin` began.

        Parameters
        ----------
        done : bool
            Whether the task was done. If False, another process may begin it.

        Raises
        ------
        NotHeldError
            This handle has not begun the task, or break_() took it away.
        """

    def holder(self) -> int | None:
        """Return the identity of the process that is doing the task, for :meth:`break_`, or None if there is none."""

    def break_(self, holder: int) -> bool:
        """Take the task from a process that is known to be dead, so that another process can do it.

        It is safe under the same conditions as :meth:`Lock.break_`. For the next process ``recovered`` is true. If the
        process is still alive, its end() raises NotHeldError, and the task counts as not done.

        Parameters
        ----------
        holder : int
            The identity that :meth:`holder` returned.

        Returns
        -------
        bool
            False if that process is not doing the task.
        """

    def call(self, function: Callable[_P, _T], /, *args: _P.args, **named: _P.kwargs) -> _T | None:
        """Call a function if no process has called it before, or wait until another process has.

        Parameters
        ----------
        function : callable
            The task. If it raises, the task counts as not done, and the exception propagates.
        *args, **named
            Arguments of the function.

        Returns
        -------
        object
            The function's result, or None if another process did the task.

        Raises
        ------
        BusyError
            This thread has already begun the task with this handle.
        """

    @property
    def done(self) -> bool:
        """Whether the task has been done."""

    @property
    def recovered(self) -> bool:
        """Whether a process died while doing the task before this handle began it."""

    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
