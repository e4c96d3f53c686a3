"""What clients tell a coordinator of their calls: with a question for a lease, so that none is asked for that alone."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Container

from dsmem import _core
from dsmem.membership.messages import Calls, Report
from dsmem.metrics import Figures

EACH_SECONDS = 2.0  #: between two reports of a client
_PERIOD = 10.0  # seconds; what is recent is of this period and the one before
_KNOWN_MOST = 4096  # numbers of reports


class _OfStore:
    def __init__(self, now: float) -> None:
        self.totals: dict[str, Figures] = {}  # by fabric
        self._since = self._began = now  # what is known; this period
        self._now, self._before = Figures(), Figures()  # of this period, and of that before it

    def add(self, report: Report, now: float) -> None:
        self._turn(now)
        fabric = report.fabric if report.fabric.removeprefix("fault+") in _core.FABRICS.values() else "other"
        self.totals.setdefault(fabric, Figures()).add(report.counts, report.times)
        self._spread(report, now)

    def _spread(self, report: Report, now: float) -> None:
        """Count what a report has by the time that it covers: a client may not have told anything for long."""
        began = now - report.seconds
        self._since = min(self._since, began)
        parts = _part(began, now, self._began), _part(began, now, self._began - _PERIOD)
        split = {name: _split(n, round, parts) for name, n in report.counts.items()}
        classes = {
            call: {which: _split(n, math.ceil, parts) for which, n in times.items()}
            for call, times in report.times.items()
        }
        for at, figures in enumerate((self._now, self._before)):
            times = {call: {which: n[at] for which, n in each.items() if n[at]} for call, each in classes.items()}
            figures.add({name: n[at] for name, n in split.items()}, times)

    def recent(self, now: float) -> Calls:
        self._turn(now)
        both = Figures()
        for figures in (self._before, self._now):
            both.add(figures.counts, figures.times)
        found = _core.latencies_of({call: dict(classes) for call, classes in both.times.items() if classes})
        latencies = {call: (each["p50"], each["p99"]) for call, each in found.items()}
        return Calls(min(now - self._since, now - self._began + _PERIOD), dict(both.counts), latencies)

    def _turn(self, now: float) -> None:
        if now - self._began >= 2 * _PERIOD:
            self._before, self._now, self._began = Figures(), Figures(), now
        elif now - self._began >= _PERIOD:
            self._before, self._now, self._began = self._now, Figures(), self._began + _PERIOD


def _part(began: float, now: float, since: float) -> float:
    """Return which part of a time up to now is not before another one."""
    return 1.0 if began >= since else (now - since) / (now - began)


def _split(n: int, whole: Callable[[float], int], parts: tuple[float, float]) -> tuple[int, int]:
    """Return how many of them are of this period, and of the one before."""
    here, both = (whole(n * part) for part in parts)
    return here, both - here


class Reports:
    """Adds up what clients report, by store. Its user sees to it that one thread at a time is in it."""

    def __init__(self) -> None:
        self._of: dict[int, _OfStore] = {}
        self._known: OrderedDict[int, None] = OrderedDict()  # numbers of reports: one may come again

    def add(self, store: int, report: Report, now: float) -> None:
        """Add a report."""
        if report.number in self._known:
            return
        self._known[report.number] = None
        if len(self._known) > _KNOWN_MOST:
            self._known.popitem(last=False)
        self._of.setdefault(store, _OfStore(now)).add(report, now)

    def keep(self, stores: Container[int]) -> None:
        """Forget all but these stores."""
        for gone in [store for store in self._of if store not in stores]:
            del self._of[gone]

    def recent(self, store: int, now: float) -> Calls:
        """Return what was counted of late."""
        return self._of[store].recent(now) if store in self._of else Calls(0.0, {}, {})

    def totals(self) -> dict[tuple[int, str], Figures]:
        """Return all that was counted, by store and fabric."""
        found: dict[tuple[int, str], Figures] = {}
        for store, of in self._of.items():
            for fabric, figures in of.totals.items():
                found.setdefault((store, fabric), Figures()).add(figures.counts, figures.times)
        return found
