"""Deadlines by the monotonic clock, and logical clocks whose stamps order events of several processes.

:class:`Lamport` and :class:`HybridClock` run alone or, with ``shared=cluster.clock(name)``, together with other
processes of the host. :class:`dsmem.queue.Stamped` sends their stamps with messages.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from typing_extensions import Self

from dsmem import _core, errors
from dsmem.memory import Memory
from dsmem.names.base import Format
from dsmem.objects import NamedObject, Owner

__all__ = ["Deadline", "HybridClock", "Lamport", "SharedClock"]

_COUNTER_BITS = 16
_MOST_SECONDS = ((1 << 48) - 1) / 1000  # a stamp has 48 bits of milliseconds


class Deadline:
    """A point in time by the monotonic clock, which can't be set.

    Parameters
    ----------
    timeout : float, optional
        Seconds from now; None: never.

    Examples
    --------
    >>> deadline = Deadline(5.0)
    >>> while not deadline.expired and not ready():
    ...     queue.get(timeout=deadline.remaining())
    """

    __slots__ = ("_at",)

    def __init__(self, timeout: float | None = None) -> None:
        timeout = _core.seconds(timeout, "timeout")
        self._at = None if timeout is None else time.monotonic() + timeout

    def remaining(self) -> float | None:
        """Seconds left, at least 0; None: no limit. Pass it on as ``timeout=``."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self._at is not None and time.monotonic() >= self._at

    def __repr__(self) -> str:
        left = self.remaining()
        return f"<Deadline {'never' if left is None else f'in {left:.3f} s'}>"


class SharedClock(NamedObject):
    """The state of a hybrid and of a Lamport clock under a name, for the parameter ``shared=`` of both.

    :meth:`dsmem.Cluster.clock` creates and finds one.

    Examples
    --------
    >>> clock = dsmem.clock.HybridClock(shared=cluster.clock("time", create=None))
    >>> stamp = clock.send()
    """

    def __init__(self, memory: Memory, cluster: Owner | None, name: str) -> None:
        super().__init__(memory, cluster, name)
        self._cores = {hybrid: _core.ClockCore(hybrid, memory.remote) for hybrid in (False, True)}

    @classmethod
    def _layout(cls) -> tuple[int, Format]:
        return _core.clock_bytes(), _core.clock_format

    @classmethod
    def _open(cls, memory: Memory, cluster: Owner | None, name: str, **properties: Any) -> Self:
        return cls(memory, cluster, name)


class _Clock:
    def __init__(self, hybrid: bool, shared: SharedClock | None) -> None:
        if shared is not None and not isinstance(shared, SharedClock):
            raise _core.refused(shared, SharedClock, f"shared={shared!r}: what Cluster.clock() returns")
        self._core = _core.ClockCore(hybrid) if shared is None else shared._cores[hybrid]

    @property
    def now(self) -> int:
        """The last stamp of the clock; 0 before the first."""
        return self._core.now()


class Lamport(_Clock):
    """A Lamport clock: a stamp is greater than every stamp that it depends on.

    Parameters
    ----------
    shared : SharedClock, optional
        State to share with other processes; by default the clock is this process's own.

    Notes
    -----
    Threads may share a clock. Stamps are integers below 2**64 that sort.

    References
    ----------
    L. Lamport, "Time, clocks, and the ordering of events in a distributed system", CACM 21(7), 1978.
    """

    def __init__(self, shared: SharedClock | None = None) -> None:
        super().__init__(False, shared)

    def send(self) -> int:
        """The next stamp, for a local event such as the sending of a message."""
        return self._core.lamport()

    def receive(self, stamp: int) -> int:
        """The next stamp, for the receipt of a message.

        Parameters
        ----------
        stamp : int
            The message's stamp.

        Returns
        -------
        int
            Greater than the message's stamp and all earlier stamps of this clock.

        Raises
        ------
        ClockDriftError
            The stamp is more than 2**48 ahead of this clock, which no working clock reaches. The clock is unchanged.
        """
        return self._core.lamport(stamp)


class HybridClock(_Clock):
    """A hybrid logical clock: a Lamport clock whose stamps stay close to the wall clock.

    Parameters
    ----------
    max_drift : float
        Seconds by which a stamp may be ahead of this host's wall clock. Stamps further ahead are refused.
    shared : SharedClock, optional
        State to share with other processes; by default the clock is this process's own.
    wall : callable, optional
        Returns seconds since 1970; by default the system's clock.

    Notes
    -----
    Threads may share a clock. Stamps are integers below 2**64 that sort: milliseconds since 1970 in the upper 48 bits,
    a counter in the lower 16.

    References
    ----------
    S. Kulkarni, M. Demirbas, D. Madappa, B. Avva, M. Leone, "Logical physical clocks", OPODIS 2014.
    """

    def __init__(
        self,
        max_drift: float = 1.0,
        *,
        shared: SharedClock | None = None,
        wall: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(True, shared)
        drift = _core.seconds(max_drift, "max_drift", _MOST_SECONDS)
        if drift is None:
            raise errors.ArgumentTypeError("max_drift=None: seconds, at least 0")
        if wall is not None and not callable(wall):
            raise errors.ArgumentTypeError(f"wall={wall!r}: a callable that returns seconds since 1970")
        self._drift_ms = int(drift * 1000)
        self._wall = wall

    def _stamp(self, received: int) -> int:
        if self._wall is None:
            return self._core.hybrid(received, -1, self._drift_ms)
        now = _core.seconds(self._wall(), "wall()", _MOST_SECONDS)
        if now is None:
            raise errors.ArgumentTypeError("wall()=None: seconds since 1970")
        return self._core.hybrid(received, int(now * 1000), self._drift_ms)

    def send(self) -> int:
        """The next stamp, for a local event such as the sending of a message.

        Raises
        ------
        ClockDriftError
            The wall clock has been set back by more than max_drift since the last stamp.
        """
        return self._stamp(0)

    def receive(self, stamp: int) -> int:
        """The next stamp, for the receipt of a message.

        Parameters
        ----------
        stamp : int
            The message's stamp.

        Returns
        -------
        int
            Greater than the message's stamp and all earlier stamps of this clock.

        Raises
        ------
        ClockDriftError
            The stamp is more than max_drift ahead of the wall clock. The clock is unchanged.
        """
        return self._stamp(stamp)

    @staticmethod
    def split(stamp: int) -> tuple[float, int]:
        """Split a stamp into its time and its counter.

        Parameters
        ----------
        stamp : int
            A stamp of a hybrid clock.

        Returns
        -------
        seconds : float
            Seconds since 1970, in steps of a millisecond.
        counter : int
            Counter of stamps within the same millisecond.

        Raises
        ------
        InvalidArgumentError
            The stamp is not an integer from 0 to 2**64 - 1.
        """
        if _core.checked_int(stamp, 0, (1 << 64) - 1) is None:
            raise _core.refused(stamp, int, f"stamp={stamp!r}: an int from 0 to 2**64 - 1, as the clock returned it")
        return (stamp >> _COUNTER_BITS) / 1000, stamp & (1 << _COUNTER_BITS) - 1
