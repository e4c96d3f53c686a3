"""Deadlines by the monotonic clock, and logical clocks whose stamps order what happens in many processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from typing_extensions import Self

from dsmem import _core, errors
from dsmem.cluster.names import Format
from dsmem.memory import Memory
from dsmem.node import Cluster, NamedObject

__all__ = ["Deadline", "HybridClock", "Lamport", "SharedClock"]

_COUNTER_BITS = 16
_MOST_SECONDS = ((1 << 48) - 1) / 1000  # the milliseconds of a stamp


class Deadline:
    """A point in time of the monotonic clock, which nobody sets.

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
        """Seconds left, at least 0; None: no limit. What every ``timeout=`` of dsmem takes."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self._at is not None and time.monotonic() >= self._at

    def __repr__(self) -> str:
        left = self.remaining()
        return f"<Deadline {'never' if left is None else f'in {left:.3f} s'}>"


class SharedClock(NamedObject):
    """The words of a hybrid and of a Lamport clock under a name: see :meth:`dsmem.Cluster.clock`."""

    def __init__(self, memory: Memory, cluster: Cluster | None, name: str) -> None:
        super().__init__(memory, cluster, name)
        self._cores = {hybrid: _core.ClockCore(hybrid, memory.remote) for hybrid in (False, True)}

    @classmethod
    def _layout(cls) -> tuple[int, Format]:
        return _core.clock_bytes(), _core.clock_format

    @classmethod
    def _open(cls, memory: Memory, cluster: Cluster | None, name: str, **properties: Any) -> Self:
        return cls(memory, cluster, name)


class _Clock:
    def __init__(self, hybrid: bool, shared: SharedClock | None) -> None:
        if shared is not None and not isinstance(shared, SharedClock):
            raise errors.InvalidArgumentError(f"shared={shared!r}: what Cluster.clock() returns")
        self._core = _core.ClockCore(hybrid) if shared is None else shared._cores[hybrid]

    @property
    def now(self) -> int:
        """The last stamp that the clock gave; 0 before the first."""
        return self._core.now()


class Lamport(_Clock):
    """A Lamport clock (Lamport 1978): a stamp is greater than every one that it depends on.

    Parameters
    ----------
    shared : SharedClock, optional
        Run it with the other processes that use this object; by default it is this process's own.

    Notes
    -----
    May be used from any thread. Stamps are integers below 2**64 that sort.
    """

    def __init__(self, shared: SharedClock | None = None) -> None:
        super().__init__(False, shared)

    def send(self) -> int:
        """The stamp of an event here, such as the sending of a message."""
        return self._core.lamport()

    def receive(self, stamp: int) -> int:
        """The stamp of the receipt of a message that had this stamp; greater than both.

        Raises
        ------
        ClockDriftError
            The stamp is 2**48 or more ahead of this clock: no message of a working clock is. The clock has not changed.
        """
        return self._core.lamport(stamp)


class HybridClock(_Clock):
    """A hybrid logical clock (Kulkarni et al. 2014): as a Lamport clock, and near to the wall clock.

    Parameters
    ----------
    max_drift : float
        Seconds by which a stamp may be ahead of this node's wall clock; those that are further ahead are refused.
    shared : SharedClock, optional
        Run it with the other processes that use this object; by default it is this process's own.
    wall : callable, optional
        Seconds since 1970, where there is a better clock than the system's.

    Notes
    -----
    May be used from any thread. Stamps are integers below 2**64 that sort: milliseconds since 1970 in the upper 48
    bits, a counter in the lower 16.
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
            raise errors.InvalidArgumentError("max_drift=None: seconds, at least 0")
        if wall is not None and not callable(wall):
            raise errors.InvalidArgumentError(f"wall={wall!r}: a callable that returns seconds since 1970")
        self._drift_ms = int(drift * 1000)
        self._wall = wall

    def _stamp(self, received: int) -> int:
        if self._wall is None:
            return self._core.hybrid(received, -1, self._drift_ms)
        now = _core.seconds(self._wall(), "wall()", _MOST_SECONDS)
        if now is None:
            raise errors.InvalidArgumentError("wall()=None: seconds since 1970")
        return self._core.hybrid(received, int(now * 1000), self._drift_ms)

    def send(self) -> int:
        """The stamp of an event here.

        Raises
        ------
        ClockDriftError
            The wall clock was set back by more than max_drift since the last stamp.
        """
        return self._stamp(0)

    def receive(self, stamp: int) -> int:
        """The stamp of the receipt of a message that had this stamp; greater than both.

        Raises
        ------
        ClockDriftError
            The stamp is further ahead of the wall clock than max_drift. The clock has not changed.
        """
        return self._stamp(stamp)

    @staticmethod
    def split(stamp: int) -> tuple[float, int]:
        """Seconds since 1970 and counter of a stamp."""
        if _core.whole(stamp, 0, (1 << 64) - 1) is None:
            raise errors.InvalidArgumentError(f"{stamp!r} is no stamp")
        return (stamp >> _COUNTER_BITS) / 1000, stamp & (1 << _COUNTER_BITS) - 1
