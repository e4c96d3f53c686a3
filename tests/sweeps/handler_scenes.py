"""Program of test_handlers.py: a signal handler calls into the handle that it interrupts. One class per run.

Each scene is named on stdout before it begins. One that does not end is shown by faulthandler, which ends the program;
what is wrong otherwise is printed as FAULT. In a remote scene one op of the call is held back, and the handler comes
while it is under way. In a local one the handler comes at once: where the call waits, in its wait.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from at_rest import at_rest
from close_scenes import argument, play
from close_table import COORDINATED, NAMED_MAKERS, ROWS, SHORT, STORE_OF_NODES, Float, at_coordinator
from remote_faults import SECRET, leave, nothing
from remote_table import KINDS

import dsmem
from dsmem import errors

BOUND = 120  # seconds until a scene that hangs is a failure
HELD_BACK = "40ms"
LONG = 0.1  # seconds that the interrupted call may take, where it has a limit
TIMEOUT_S = 60  # seconds; no op is given up
SIGNALS = 0.002  # seconds between them

# The kind of remote_table.py that tells how a handle gives back what it holds, and what others do with the object.
KIND_OF = {
    "Queue": "queue",
    "Segment": "segment",
    "Lock": "lock",
    "RLock": "rlock",
    "RWLock": "rwlock",
    "Semaphore": "semaphore",
    "CountingSemaphore": "counting",
    "Event": "event",
    "Condition": "condition",
    "Barrier": "barrier",
    "Once": "once",
    "Store": "store",
    "EpochStore": "store",
}

NEVER_WAIT = ("Store", "EpochStore")  # on one host

# What the handle has done before: nothing, or one of these.
BEFORE: dict[str, list[Callable[[Any], Any]]] = {
    "Queue": [lambda o: o.produce(), lambda o: o.reserve(8)],
    "Lock": [lambda o: o.acquire()],
    "RLock": [lambda o: o.acquire()],
    "RWLock": [lambda o: o.acquire_read(), lambda o: o.acquire_write()],
    "Semaphore": [lambda o: o.acquire()],
    "Condition": [lambda o: o.acquire()],
    "Once": [lambda o: o.begin()],
}


def writer(segment: Any) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    stack.enter_context(segment.writing())
    return stack


# What the owner's handle holds meanwhile in a local scene, so that the other waits.
HELD: dict[str, Callable[[Any], Any]] = {
    "Lock": lambda o: o.acquire(),
    "RLock": lambda o: o.acquire(),
    "RWLock": lambda o: o.acquire_read(),
    "Semaphore": lambda o: [o.acquire() for _ in range(3)],
    "CountingSemaphore": lambda o: [o.acquire() for _ in range(3)],
    "Once": lambda o: o.begin(),
    "Segment": writer,
}
FOREVER = {"with", "call"}  # what takes no limit, and would wait for that
GIVEN_BACK = {
    "acquire": "release",
    "acquire_read": "release_read",
    "acquire_write": "release_write",
    "begin": "end",
}
GIVEN_BACK |= {f"{get}_async": f"{give}_async" for get, give in GIVEN_BACK.items() if get != "begin"}

Outcome = tuple[Any, BaseException | None]


def likeness(outcome: Outcome) -> Any:
    """Of outcomes that say the same."""
    result, error = outcome
    if error is not None:
        return type(error)
    return type(result) if type(result) is int else result


def placed(name: str, outcome: Outcome) -> int:
    """How many messages a call has put."""
    result, error = outcome
    if error is not None:
        return getattr(error, "placed", 0)
    return result if name == "put_many" else name in ("put", "put_nowait", "put_async", "commit")


def got(name: str, outcome: Outcome) -> int:
    """How many messages a call has taken. What a call that ran out of time has taken is the handle's."""
    result, error = outcome
    if error is not None or result is None or not name.startswith("get"):
        return 0
    return result if name.startswith("get_many") else 1


@dataclass
class Scene:
    """In the midst of 'interrupted', a handler calls 'called'."""

    where: str
    cls: str
    before: int
    interrupted: str
    called: str
    held: Any = None

    def __str__(self) -> str:
        return f"{self.where} {self.cls}.{self.interrupted}, handler: {self.called}, before: {self.before}"

    def outcome(self, handle: Any, name: str, seconds: float = SHORT.value) -> Outcome:
        """What the call returns, or what it raises; only exceptions of ours are no fault."""
        row = [Float(seconds) if isinstance(one, Float) else one for one in ROWS[self.cls][name]]
        try:
            result = play(handle, name, [argument(one, None) for one in row], seconds)
            if isinstance(result, list):
                result = len(result)
            return result if result is None or isinstance(result, int) else type(result), None
        except errors.DsmemError as error:
            return None, error
        except Exception as error:
            print(f"FAULT {name}: {type(error).__name__}: {error}", flush=True)
            return None, error

    @contextlib.contextmanager
    def handles(self, plan: str) -> Iterator[tuple[Any, Any, Any]]:
        """The owner's handle, the one that is interrupted, and the context of its ops."""
        if self.where == COORDINATED:
            with at_coordinator() as cluster, at_coordinator(plan, TIMEOUT_S) as users:
                owner = cluster.store("it", **STORE_OF_NODES)
                handle = users.store("it")
                yield owner, handle, handle._memory.remote.context
                owner.unlink()
                owner.close()
            return
        make = NAMED_MAKERS[self.cls]
        if self.where == "local":
            with dsmem.connect(os.environ["SWEEP_CLUSTER"]) as cluster:
                owner = make(cluster, "it")
                self.held = HELD.get(self.cls, nothing)(owner)
                yield owner, dsmem.attach(owner.ref), None
                owner.unlink()
                owner.close()
            return
        with (
            dsmem.Context(self.where, secret=SECRET, peer_timeout=TIMEOUT_S) as owners,
            dsmem.connect(context=owners) as cluster,
            dsmem.Context(f"{self.where}://?{plan}", secret=SECRET, peer_timeout=TIMEOUT_S) as users,
        ):
            owner = make(cluster, "it")
            yield owner, dsmem.attach(owner.ref, users), users
            owner.close()

    def prepare(self, handle: Any) -> None:
        [nothing, *BEFORE.get(self.cls, [])][self.before](handle)

    def leave(self, owner: Any, handle: Any) -> None:
        """The handle can be left, and others go on."""
        kind = KINDS[KIND_OF[self.cls]]
        self.leave_after_its_ops(kind, handle)
        if self.where == "local":
            kind.give_back(owner)
        if isinstance(self.held, contextlib.ExitStack):
            self.held.close()
        if not (self.cls == "Queue" and (self.where == "local" or owner.counts["shutdown"])):
            kind.use(owner)

    def leave_after_its_ops(self, kind: Any, handle: Any) -> None:
        """An op of a task that ran out of time is still under way, and the handle in use until it has ended."""
        if "async" in self.interrupted + self.called:
            at_rest(lambda: leave(kind, handle))
        else:
            leave(kind, handle)

    def undisturbed(self) -> tuple[list[int], Any]:
        """The ops of the call, or one that stands for its wait, and what it comes to."""
        with self.handles("") as (owner, handle, context):
            self.prepare(handle)
            first, begun = context.stats["posts"] + 1 if context else 0, time.monotonic()
            outcome = self.outcome(handle, self.interrupted, LONG)
            waits = time.monotonic() - begun > LONG / 2
            ops = list(range(first, context.stats["posts"] + 1)) if context else [0] if waits else []
            self.take(owner, handle)
            self.leave(owner, handle)
        return ops, likeness(outcome)

    def play(self, op: int, as_alone: Any) -> bool:
        """Whether the handler came while the op was under way."""
        inner: list[Outcome] = []
        ended = False

        def handler(*_: object) -> None:
            if inner or ended or (context is not None and context.stats["posts"] < op):
                return
            inner.append((None, None))
            if len(inner) == 1:  # else another signal came between the question and this line
                inner[0] = self.outcome(handle, self.called)
                if inner[0][0] is True and self.called in GIVEN_BACK:  # which the other call may need
                    self.outcome(handle, GIVEN_BACK[self.called])

        with self.handles(f"delay={op}:{HELD_BACK}") as (owner, handle, context):
            self.prepare(handle)
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, SIGNALS, SIGNALS)
            until = time.monotonic() + LONG
            outer = self.outcome(handle, self.interrupted, LONG)
            ended = True
            signal.setitimer(signal.ITIMER_REAL, 0)
            refused = inner and isinstance(inner[0][1], errors.BusyError)
            if refused and likeness(outer) != as_alone and time.monotonic() < until:  # else its time was over
                print(
                    f"FAULT the handler's call was refused, and the other came to {outer}, not {as_alone}", flush=True
                )
            self.count(owner, handle, [(self.interrupted, outer), *((self.called, one) for one in inner[:1])])
            self.leave(owner, handle)
        return bool(inner)

    def count(self, owner: Any, handle: Any, calls: list[tuple[str, Outcome]]) -> None:
        """The messages of a remote queue: what was put and not taken is there."""
        taken = self.take(owner, handle)
        if taken is not None and taken != sum(placed(*call) - got(*call) for call in calls):
            print(f"FAULT {taken} messages after {calls}", flush=True)

    def take(self, owner: Any, handle: Any) -> int | None:
        """How many messages there are, where that can be told."""
        if self.cls != "Queue" or self.where == "local" or owner.counts["shutdown"]:
            return None
        if not handle.closed:
            handle.flush()
        if owner.consumer() is None:  # it takes the role with its first message
            return len(owner.get_many()) if not owner.empty() else 0
        taken = 0
        with contextlib.suppress(errors.InvalidArgumentError):  # it reads none
            handle.release()
            taken = 1
        while not handle.empty():
            taken += len(handle.get_many())
        return taken


def pairs(where: str, cls: str) -> Iterator[Scene]:
    names = [name for name in ROWS[cls] if name not in ("unlink", "staged")]  # "staged" is no more than a word read
    held = where == "local" and cls in HELD
    for before in range(1 if held else 1 + len(BEFORE.get(cls, []))):
        can = [name for name in names if not (name in FOREVER and (held or (cls == "Lock" and before)))]
        for interrupted, called in itertools.product(can, can):
            if not waits_for_task(cls, interrupted, called):
                yield Scene(where, cls, before, interrupted, called)


def waits_for_task(cls: str, interrupted: str, called: str) -> bool:
    """A thread runs one loop at a time. A handler that waits for what a task of its thread gets waits for itself."""
    waits = called in FOREVER or "async" in called or (cls == "Condition" and called.startswith("wait"))
    return "async" in interrupted and waits


def play_all(where: str, cls: str, most: int) -> int:
    """How many were struck: all, or where 'most' is not 0 so many, by chance, but the same ones each time."""
    alone: dict[tuple[str, int], tuple[list[int], Any]] = {}
    scenes, struck = [*pairs(where, cls)], 0
    if most:
        random.Random(cls).shuffle(scenes)
    for number, scene in enumerate(scenes):
        print(scene, flush=True)
        faulthandler.dump_traceback_later(BOUND, exit=True)
        key = scene.interrupted, scene.before
        alone[key] = ops, as_alone = alone.get(key) or scene.undisturbed()
        for op in [ops[number % len(ops)]] if most and ops else ops:
            print(f"op {op - ops[0] + 1} of {len(ops)}", flush=True)
            faulthandler.dump_traceback_later(BOUND, exit=True)
            struck += scene.play(op, as_alone)
        if struck == most > 0:
            break
    return struck


if __name__ == "__main__":
    faulthandler.enable()
    print(f"through {play_all(sys.argv[1], sys.argv[2], int(sys.argv[3]))}", flush=True)
