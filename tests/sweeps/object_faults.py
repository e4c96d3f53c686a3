"""A sweep of faults: for each public call on an object in another process's memory, each of its ops fails.

A row names a call. It is made once without faults, to count its ops; then once for every op and every fault, on an
object of its own. However the call ends, afterwards

- the exception, if any, is one of dsmem's, and no CanceledError: that would be another op's failure,
- its own handle works again, or at least can be closed, as soon as the faults are over,
- another handle can do all that the object is for.

``fail from n on`` and ``lost from n on`` last for longer than the core tries again: they are also what others see of a
process that is gone for as long.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import dsmem
from dsmem import errors

SECRET = b"the secret of the sweeps"
FULL = os.environ.get("DSMEM_FULL_SWEEPS") == "1"
PEER_TIMEOUT = 0.2  # seconds; what a lost completion costs
OUTAGE = 20  # ops; more than the core tries again

FAULTS: dict[str, str] = {
    "fail": "fail={n}",
    "answer lost": "failafter={n}",
    "fail from n on": "fail={n}-{end}",
    "lost from n on": "failafter={n}&fail={next}-{end}",
    "no completion": "drop={n}",
    "late": "delay={n}:30ms",
}


@dataclass(frozen=True)
class Kind:
    """A kind of object: how it is made, what a handle gives back before it is closed, and what others do with it."""

    method: str  # of a cluster
    properties: dict[str, Any]
    give_back: Callable[[Any], None]
    use: Callable[[Any], None]


@dataclass(frozen=True)
class Row:
    """One call, and what has to be done before. check gets the owner's handle and what the call returned."""

    kind: str
    name: str
    call: Callable[[Any], Any]
    before: Callable[[Any], Any] = lambda _: None
    check: Callable[[Any, Any], None] = lambda _owner, _result: None
    owner_before: Callable[[Any], Any] = lambda _: None

    def __str__(self) -> str:
        return f"{self.kind}.{self.name}"


class Place:
    """An owner of objects; each try gets one of its own."""

    def __init__(self, fabric: str) -> None:
        self.fabric = fabric
        self.numbers = itertools.count()
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Place:
        self.context = self.stack.enter_context(dsmem.Context(self.fabric, secret=SECRET))
        self.cluster = self.stack.enter_context(dsmem.connect(context=self.context))
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    @contextlib.contextmanager
    def make(self, kind: Kind) -> Iterator[Any]:
        obj = getattr(self.cluster, kind.method)(f"it{next(self.numbers)}", create=True, **kind.properties)
        yield obj
        obj.unlink()
        obj.close()

    def caller(self, plan: str = "") -> dsmem.Context:
        query = f"://?{plan}" if plan else ""
        return dsmem.Context(f"{self.fabric}{query}", secret=SECRET, peer_timeout=PEER_TIMEOUT)


def persistently(call: Callable[[], Any]) -> Any:
    """Until it ends without a failure of the transport: the outage is over some time."""
    for _ in range(OUTAGE + 1):
        with contextlib.suppress(errors.TransportError, errors.TimeoutError):
            return call()
    raise AssertionError("it fails for ever")


def leave(kind: Kind, obj: Any) -> None:
    """What a caller does after a failure: it gives back what it holds and closes its handle."""

    def both() -> None:
        if not obj.closed:
            kind.give_back(obj)
            obj.close()

    persistently(both)


def count(place: Place, kind: Kind, row: Row) -> tuple[int, int]:
    """The first and the last op of the call."""
    with place.make(kind) as owner, place.caller() as context:
        obj = dsmem.attach(owner.ref, context)
        row.before(obj)
        row.owner_before(owner)
        first = context.stats["posts"] + 1
        result = row.call(obj)
        last = context.stats["posts"]
        row.check(owner, result)
        leave(kind, obj)
        kind.use(owner)
    return first, last


def ops(first: int, last: int, at_most: int) -> list[int]:
    """All of them, or in a short run some that lie evenly, the first and the last among them."""
    every = list(range(first, last + 1))
    if FULL or len(every) <= at_most:
        return every
    return sorted({every[i * (len(every) - 1) // (at_most - 1)] for i in range(at_most)})


def try_at(place: Place, kind: Kind, row: Row, fault: str, n: int) -> None:
    plan = FAULTS[fault].format(n=n, next=n + 1, end=n + OUTAGE)
    with place.make(kind) as owner, contextlib.ExitStack() as stack:
        context = place.caller(plan)
        stack.callback(context.close)
        obj = dsmem.attach(owner.ref, context)
        row.before(obj)
        row.owner_before(owner)
        try:
            result = row.call(obj)
        except errors.CanceledError as error:
            raise AssertionError("the failure of another op") from error
        except errors.DsmemError:
            pass
        else:
            row.check(owner, result)
        leave(kind, obj)
        kind.use(owner)


def sweep(place: Place, kind: Kind, row: Row, faults: dict[str, str], at_most: int = 4) -> int:
    """How many tries there were."""
    first, last = count(place, kind, row)
    tries = [(fault, n) for fault in faults for n in ops(first, last, at_most)]
    for fault, n in tries:
        try:
            try_at(place, kind, row, fault, n)
        except BaseException as error:
            raise AssertionError(f"{row}: {fault}, op {n - first + 1} of {last - first + 1}") from error
    return len(tries)
