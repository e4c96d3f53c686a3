"""The sweep of remote faults: each op of each public call on an object in another process's memory meets each fault.

The scenes stand in remote_table.py. One is played once without faults, to count the ops of its call; then once for
every op and every fault, on an object of its own. However the call ends, afterwards

- the exception, if any, is one of dsmem's, and no CanceledError: that would be another op's failure,
- its own handle works again, or at least can be closed, as soon as the faults are over,
- another handle can do all that the object is for.

``fail from n on`` and ``lost from n on`` last for longer than the core tries again. ``caller killed`` is SIGKILL to a
process of its own, before its op n is executed; ``owner killed`` likewise to the process whose memory it is: then the
call must end, and the handle must be closable.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from attaching import attached

import dsmem
from dsmem import errors

SECRET = b"the secret of the sweeps"
FULL = os.environ.get("DSMEM_FULL_SWEEPS") == "1"
PEER_TIMEOUT = 0.2  # seconds; what a lost completion costs
PATIENT = 60.0  # seconds; no op is given up
TRIES = 200  # until a host that is busy comes to the fault before an op is given up
OUTAGE = 20  # ops; more than the core tries again

# The plan, and how many ops of a call meet it in a short run.
FAULTS: dict[str, tuple[str, int]] = {
    "fail": ("fail={n}", 4),
    "answer lost": ("failafter={n}", 4),
    "fail from n on": ("fail={n}-{end}", 3),
    "lost from n on": ("failafter={n}&fail={next}-{end}", 3),
    "no completion": ("drop={n}", 1),
    "late": ("delay={n}:30ms", 1),
}
KILLS = {"caller killed": 3, "owner killed": 2}

processes = multiprocessing.get_context("fork")


def nothing(*_: Any) -> None:
    pass


@dataclass(frozen=True)
class Kind:
    """A kind of object: how it is made, what a handle gives back before it is closed, and what others do with it.

    after_death is what others can do when a caller was killed and nothing proves its death to them: they take from it
    by choice what it held. Where the owner can cut it off for good, they can use the object after that.
    """

    method: str  # of a cluster
    properties: dict[str, Any]
    give_back: Callable[[Any], None]
    use: Callable[[Any], None]
    after_death: Callable[[Any], None]


@dataclass(frozen=True)
class Row:
    """One call, and what has to be done before.

    check gets the owner's handle, what the call returned and None, or None and the exception; settle the owner's and
    the caller's handle when the faults are over; survey the owner's after the caller was killed.
    """

    kind: str
    name: str
    call: Callable[[Any], Any]
    before: Callable[[Any], Any] = nothing
    owner_before: Callable[[Any], Any] = nothing
    check: Callable[[Any, Any, Exception | None], None] = nothing
    settle: Callable[[Any, Any], None] = nothing
    survey: Callable[[Any], None] = nothing
    names: tuple[str, ...] = field(default=())  # the public names that it is for, where that is not its own
    brief: bool = False  # its ops are those of another row: in a short run each fault meets one of them

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
        way = self.context.fabrics[0]
        # Whether the owner claims the identities of its peers, and ends them with a fence.
        self.fences = way.fabric.endswith("tcp") or way.atomic_domain == "nic"
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    @contextlib.contextmanager
    def make(self, kind: Kind) -> Iterator[Any]:
        obj = make(self.cluster, kind, f"it{next(self.numbers)}")
        yield obj
        obj.unlink()
        obj.close()

    def caller(self, plan: str = "", peer_timeout: float = PATIENT) -> dsmem.Context:
        query = f"://?{plan}" if plan else ""
        return dsmem.Context(f"{self.fabric}{query}", secret=SECRET, peer_timeout=peer_timeout)


def make(cluster: dsmem.Cluster, kind: Kind, name: str) -> Any:
    return getattr(cluster, kind.method)(name, create=True, **kind.properties)


def persistently(call: Callable[[], Any]) -> Any:
    """Until it ends without a failure of the transport: the outage is over some time."""
    for _ in range(OUTAGE + 1):
        with contextlib.suppress(errors.TransportError, errors.TimeoutError):
            return call()
    raise AssertionError("it fails forever")


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
        obj = attached(owner.ref, context)
        row.before(obj)
        row.owner_before(owner)
        first = context.stats["posts"] + 1
        result = row.call(obj)
        last = context.stats["posts"]
        row.check(owner, result, None)
        row.settle(owner, obj)
        leave(kind, obj)
        kind.use(owner)
    return first, last


def ops(first: int, last: int, at_most: int) -> list[int]:
    """All of them, or in a short run some that lie evenly, the first and the last among them."""
    every = list(range(first, last + 1))
    if FULL or len(every) <= at_most:
        return every
    if at_most == 1:
        return [every[len(every) // 2]]
    return sorted({every[i * (len(every) - 1) // (at_most - 1)] for i in range(at_most)})


def attempt(row: Row, obj: Any) -> tuple[Any, Exception | None]:
    try:
        return row.call(obj), None
    except errors.CanceledError as error:
        raise AssertionError("the failure of another op") from error
    except errors.DsmemError as error:
        return None, error


class Late(Exception):
    """The host was too busy: an op that is done before was given up."""


def in_time(one: Callable[[], None]) -> None:
    """Try again what was too late."""
    for _ in range(TRIES):
        with contextlib.suppress(Late):
            return one()
    return one()


def prepare(kind: Kind, row: Row, obj: Any) -> None:
    try:
        row.before(obj)
    except errors.TimeoutError as error:
        leave(kind, obj)
        raise Late from error


def fail_at(place: Place, kind: Kind, row: Row, fault: str, n: int) -> None:
    plan = FAULTS[fault][0].format(n=n, next=n + 1, end=n + OUTAGE)
    with place.make(kind) as owner, contextlib.ExitStack() as stack:
        context = place.caller(plan, PEER_TIMEOUT if fault == "no completion" else PATIENT)
        stack.callback(context.close)
        obj = attached(owner.ref, context)
        prepare(kind, row, obj)
        row.owner_before(owner)
        row.check(owner, *attempt(row, obj))
        row.settle(owner, obj)
        leave(kind, obj)
        kind.use(owner)


# ---- deaths ----


class Child:
    """A forked process that runs main(pipe, …); what it raises comes out here."""

    def __init__(self, main: Callable[..., None], *arguments: Any) -> None:
        self.pipe, theirs = processes.Pipe()
        self.process = processes.Process(target=main, args=(theirs, *arguments))
        self.process.start()
        theirs.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def call_and_die(pipe: Any, ref: Any, place: Place, row: Row, n: int) -> None:
    context = place.caller(f"kill={n}")
    obj = attached(ref, context)
    row.before(obj)
    pipe.send(context.node_id)
    pipe.recv()
    attempt(row, obj)
    os._exit(0)


def die_at(place: Place, kind: Kind, row: Row, n: int) -> None:
    with place.make(kind) as owner, Child(call_and_die, owner.ref, place, row, n) as child:
        node = child.pipe.recv()
        row.owner_before(owner)
        child.pipe.send("go")
        child.process.join()
        assert child.process.exitcode in (-signal.SIGKILL, 0)  # 0: this time there were fewer ops
        row.survey(owner)
        if place.fences:
            place.context.fence(node)
            kind.use(owner)
        else:
            kind.after_death(owner)


def own(pipe: Any, fabric: str, kind: Kind, row: Row) -> None:
    with dsmem.Context(fabric, secret=SECRET) as context, dsmem.connect(context=context) as cluster:
        owner = make(cluster, kind, "it")
        pipe.send(owner.ref)
        while pipe.recv() == "before":
            row.owner_before(owner)
            pipe.send("done")


def owner_dies_at(place: Place, kind: Kind, row: Row, n: int) -> None:
    with Child(own, place.fabric, kind, row) as owner, contextlib.ExitStack() as stack:
        context = place.caller(f"kill={n}:{owner.process.pid}", PEER_TIMEOUT)
        stack.callback(context.close)
        obj = attached(owner.pipe.recv(), context)
        prepare(kind, row, obj)
        owner.pipe.send("before")
        owner.pipe.recv()
        attempt(row, obj)
        with contextlib.suppress(errors.DsmemError):
            kind.give_back(obj)
        persistently(obj.close)
        assert obj.closed


def sweep(place: Place, kind: Kind, row: Row, owner_dies: Callable[..., None] = owner_dies_at) -> int:
    """How many tries there were."""
    first, last = count(place, kind, row)
    tries: list[tuple[str, int, Callable[[int], None]]] = []
    for fault, (_, at_most) in FAULTS.items():
        one = lambda n, fault=fault: fail_at(place, kind, row, fault, n)  # noqa: E731
        tries += [(fault, n, one) for n in ops(first, last, 1 if row.brief else at_most)]
    for fault, one in (("caller killed", die_at), ("owner killed", owner_dies)):
        some = ops(first, last, 1 if row.brief else KILLS[fault])
        tries += [(fault, n, lambda n, one=one: one(place, kind, row, n)) for n in some]
    for fault, n, one in tries:
        try:
            in_time(lambda one=one, n=n: one(n))
        except BaseException as error:
            raise AssertionError(f"{row}: {fault}, op {n - first + 1} of {last - first + 1}") from error
    return len(tries)
