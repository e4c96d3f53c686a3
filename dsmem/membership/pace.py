"""How fast copies are filled."""

from __future__ import annotations

import threading

_PAUSES = 4  # a second


class Pace:
    """A rate for all fills of a coordinator together.

    Parameters
    ----------
    rate : int, optional
        Bytes a second, 1 or more; None: no limit.
    """

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._upto = 0.0  # the time for which bytes were taken

    def piece(self, most: int) -> int:
        """Return how many bytes to copy at a time, so that pauses are short."""
        return most if self._rate is None else max(1, min(most, self._rate // _PAUSES))

    def until(self, nbytes: int, now: float) -> float:
        """Return until when to wait since bytes were copied. What was not used before is not made up for."""
        if self._rate is None:
            return now
        with self._lock:
            self._upto = max(self._upto, now) + nbytes / self._rate
            return self._upto
