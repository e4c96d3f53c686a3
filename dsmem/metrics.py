"""Figures of what a process does with its stores, for Prometheus. docs/howto/metrics.md has their names.

A handle counts its own calls (:attr:`dsmem.Store.counts`). Here they are added up by store, with those of handles that
were closed, when they are asked for.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

__all__ = ["StoreCollector"]

OF_MANY = ("read_many", "write_many", "allocate")  #: calls whose pages are counted, too
BESIDE = ("retries", "conflicts", "unknown", "failed", "repaired")  #: what is counted beside calls
SINGLE = ("read", "version", "write", "compare_write", "free", "snapshot", "commit")
CALLS = (*SINGLE, *OF_MANY)
TIMES = 160  #: classes of times: dsmem/_core/store_counts.pxi
COUNTS = (*CALLS, *(f"{call}_pages" for call in OF_MANY), *BESIDE)  #: names of all counts
_SERIES_MOST = 100  # stores with labels of their own; a series that goes would take its figures out of sums
_OTHER = "(other)"  # no name of a store or cluster
_LONGEST = range(7, 35)  # of the classes of a histogram, 2**n ns


class Of(NamedTuple):
    """Whose figures they are."""

    cluster: str
    store: str
    fabric: str


class Handle(Protocol):
    """A handle of a store."""

    _memory: Any
    _counted: Counted | None

    @property
    def name(self) -> str:
        """Of the store."""

    @property
    def _in_cluster(self) -> str: ...
    def _counts(self) -> dict[str, int]: ...
    def _times(self) -> dict[str, dict[int, int]]: ...


class Figures:
    """Counts, and how many times there are of each class, by the name of the call."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.times: dict[str, Counter[int]] = {}

    def add(self, counts: Mapping[str, int], times: Mapping[str, Mapping[int, int]]) -> None:
        """Add those of another one."""
        self.counts.update(counts)
        for call, classes in times.items():
            self.times.setdefault(call, Counter()).update(classes)

    def since(self, before: Figures) -> Figures:
        """Return what has been added since."""
        found = Figures()
        found.counts = self.counts - before.counts
        for call, classes in self.times.items():
            more = classes - before.times.get(call, Counter())
            if more:
                found.times[call] = more
        return found


now_ns = time.monotonic_ns


class _Timed:
    """Counts how long a with statement takes."""

    __slots__ = "_began", "_classes", "_failures"

    def __init__(self, classes: Counter[int], failures: tuple[type[BaseException], ...]) -> None:
        self._classes, self._failures = classes, failures

    def __enter__(self) -> None:
        self._began = now_ns()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, self._failures):
            # One step under the GIL: the update of a Counter from a tuple of int.
            self._classes.update((_class_of(now_ns() - self._began),))


class Times:
    """How long calls take, for a handle whose calls are more than those of the core.

    Parameters
    ----------
    failures : tuple of exceptions
        After these a time counts, too.
    """

    def __init__(self, failures: tuple[type[BaseException], ...]) -> None:
        self._failures = failures
        self._of = {call: Counter[int]() for call in CALLS}

    def by(self, call: str) -> _Timed:
        """Count how long a with statement takes as a time of a call."""
        return _Timed(self._of[call], self._failures)

    def by_call(self) -> dict[str, dict[int, int]]:
        """Return how many times there are of each class."""
        return {call: dict(classes) for call, classes in self._of.items() if classes}


def _class_of(ns: int) -> int:
    """Return the class of a time: dsmem/_core/store_counts.pxi."""
    power = ns.bit_length() - 1
    return ns if ns < 4 else min((power - 1) * 4 + (ns >> power - 2 & 3), TIMES - 1)


class Counted:
    """What a handle has counted. It outlasts the handle."""

    def __init__(self, store: Handle) -> None:
        self.of = _series_of(store)
        self.final: Figures | None = None  # of a handle that has ended
        self.fold = 0  # of :data:`_ended`: the first that has these, or is to have them
        self._handle = weakref.ref(store)
        self._seen = Figures()  # for the moment in which the collector of garbage has the handle

    def figures(self) -> Figures:
        """Return them."""
        store = self._handle()
        if self.final is None and store is not None:
            self._seen = of_handle(store)
        return self.final or self._seen

    def forget(self) -> None:
        """In a child."""
        self._seen = Figures()


class _Ended(NamedTuple):
    """Figures of handles that have ended. It is replaced by another one and never changed, so a look needs no lock."""

    fold: int  # how often it was replaced
    of: Mapping[Of, Figures]


# Signal handlers and the collector of garbage come in between any two lines. So each change is one step under the GIL,
# and no line waits for a lock. The figures of a handle are in _handles until _ended has them; for a moment in both.
_handles: dict[int, Counted] = {}  # by their id()
_over: list[Counted] = []  # have ended, and are not in _ended yet
_ended = _Ended(0, {})
_folding = threading.RLock()
_series: dict[Of, None] = {}  # that have a name of their own


def _in_child() -> None:
    global _ended, _folding
    _ended, _folding = _Ended(0, {}), threading.RLock()
    _over.clear()
    for each in list(_handles.values()):
        each.forget()
        if each.final is not None:
            del _handles[id(each)]


os.register_at_fork(after_in_child=_in_child)


def opened(store: Handle) -> None:
    """Count a handle among those of the process."""
    counted = Counted(store)
    _handles[id(counted)] = store._counted = counted


def closed(store: Handle) -> None:
    """Keep the figures of a handle that is closed or dropped."""
    counted = store._counted
    if counted is not None and counted.final is None:
        counted.final = of_handle(store)
        _over.append(counted)
        _fold()


def _fold() -> None:
    """Add what has ended to the sums, unless another thread does, or a function below on the stack of this one."""
    global _ended
    if is_mine(_folding):
        return
    try:
        if not _folding.acquire(blocking=False):
            return
        over, of, fold = list(_over), dict(_ended.of), _ended.fold + 1
        for each in over:
            if each.final is not None and not 0 < each.fold < fold:  # a handler may have raised further below
                of[each.of] = _sum(of.get(each.of, Figures()), each.final)
                each.fold = fold
        _ended = _Ended(fold, of)
        for each in over:
            _handles.pop(id(each), None)
        del _over[: len(over)]
    finally:
        if is_mine(_folding):  # a handler may have raised when it was just acquired
            _folding.release()


def is_mine(lock: Any) -> bool:
    """Whether this thread holds an RLock; threading.Condition asks it the same."""
    return bool(lock._is_owned())


def _sum(*each: Figures) -> Figures:
    found = Figures()
    for figures in each:
        found.add(figures.counts, figures.times)
    return found


def _series_of(store: Handle) -> Of:
    """Return the labels of its figures: its own, or those of all for which there is no room."""
    of = Of(store._in_cluster, store.name, fabric_of(store))
    if of not in _series and len(_series) >= _SERIES_MOST:
        return Of(_OTHER, _OTHER, of.fabric)
    _series[of] = None
    return of


def of_handle(store: Handle) -> Figures:
    """Return the figures of a handle."""
    found = Figures()
    found.add(store._counts(), store._times())
    return found


def fabric_of(store: Handle) -> str:
    """Return the fabric by which it reaches its memory."""
    return str(store._memory.remote.fabric) or "shm"


def of_process() -> dict[Of, Figures]:
    """Return the figures of this process."""
    handles = list(_handles.values())  # ahead of _ended, which may get some of them meanwhile
    fold, ended = _ended
    found = dict(ended)
    for each in handles:
        if not 0 < each.fold <= fold:
            found[each.of] = _sum(found.get(each.of, Figures()), each.figures())
    return found


def _classes(times: Mapping[int, int]) -> tuple[list[tuple[str, float]], float]:
    """Return how many times there are up to each power of two, and about what they are together."""
    upto = [
        (f"{2**power / 1e9:.9g}", float(sum(n for which, n in times.items() if which < (power - 1) * 4)))
        for power in _LONGEST
    ]
    seconds = sum(n * _middle(which) for which, n in times.items())
    return [*upto, ("+Inf", float(sum(times.values())))], seconds


def _middle(which: int) -> float:
    """Return the middle of a class of times, in seconds: dsmem/_core/store_counts.pxi."""
    return (which + 0.5 if which < 4 else (4.5 + which % 4) * 2 ** (which // 4 - 1)) / 1e9


def families(found: Mapping[Of, Figures]) -> Iterable[Any]:
    """Return them as prometheus-client takes them."""
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    labels = Of._fields
    calls = CounterMetricFamily("dsmem_store_calls", "Calls of stores that have succeeded", labels=[*labels, "call"])
    pages = CounterMetricFamily("dsmem_store_call_pages", "Pages of calls for many", labels=[*labels, "call"])
    times = HistogramMetricFamily("dsmem_store_call_seconds", "Times of some calls", labels=[*labels, "call"])
    for of, figures in found.items():
        for call in CALLS:
            calls.add_metric([*of, call], figures.counts[call])
        for call in OF_MANY:
            pages.add_metric([*of, call], figures.counts[f"{call}_pages"])
        for call, classes in figures.times.items():
            times.add_metric([*of, call], *_classes(classes))
    yield from (calls, pages, times)
    for name, text in (
        ("retries", "Pages that another client had changed or locked, so that a call tried again"),
        ("conflicts", "ConflictErrors of calls of stores"),
        ("unknown", "Changes of stores of which a call could not say whether they were made"),
        ("failed", "Calls of stores with another error"),
        ("repaired", "Pages that were damaged, and were written again from another copy"),
    ):
        each = CounterMetricFamily(f"dsmem_store_{name}", text, labels=labels)
        for of, figures in found.items():
            each.add_metric(of, figures.counts[name])
        yield each


class StoreCollector:
    """What this process does with stores, for a registry of prometheus-client.

    Examples
    --------
    >>> import prometheus_client
    >>> prometheus_client.REGISTRY.register(dsmem.metrics.StoreCollector())
    >>> prometheus_client.start_http_server(9800)
    """

    def collect(self) -> Iterable[Any]:
        """Return all figures. A registry calls it.

        Returns
        -------
        iterable
            Families of metrics, as prometheus-client has them.
        """
        return families(of_process())
