"""The rows of a remote producer, and of a remote consumer.

What a producer's call that raised says with ``placed`` went in: it comes out once, in order. Nothing else comes out,
the lane is free afterwards, and a successor goes on. What a consumer's calls return, and what is there afterwards, are
all messages, once and in order; of many consumers one that got OutcomeUnknownError may have lost what it was taking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import pytest
from attaching import attached
from remote_faults import OUTAGE, SECRET, Kind, Row, persistently

import dsmem
from dsmem import errors
from dsmem.queue import Pickled

LIMIT = 60.0
SOME = [bytes([i]) * 300 for i in range(5)]
ARRAY = np.repeat(np.arange(5, dtype="u1"), 300).reshape(5, 300)
PICKLE = b"a pickle"


def take(owner: Any) -> list[bytes]:
    return owner.get_many() if not owner.empty() else []


def goes_on(owner: Any, producers: int) -> None:
    """Others can do all that the queue is for."""
    assert owner.counts["producers"] == producers
    with (
        dsmem.Context(owner.region.context.fabric, secret=SECRET) as context,
        attached(owner.ref, context) as other,
    ):
        for data in SOME:
            other.put(data, timeout=LIMIT)
        assert take(owner) == SOME
    assert owner.counts["producers"] == producers


def use(owner: Any) -> None:
    if not owner.closed:
        goes_on(owner, 0)


def use_after_death(owner: Any) -> None:
    """The lane of the dead stays taken, since nothing proves its death, until it is broken."""
    take(owner)
    goes_on(owner, owner.counts["producers"])
    for holder in owner.producers():
        assert owner.break_(holder)
    goes_on(owner, 0)


KIND = Kind(
    "queue", {"capacity_bytes": 4096, "max_message": 1500, "producers": 2}, lambda _: None, use, use_after_death
)


def use_shut(owner: Any) -> None:
    """Whether or not it was shut down: the owner does that, and no call waits."""
    owner.shutdown()
    with pytest.raises(errors.ShutDownError):
        owner.get(timeout=LIMIT)


SHUT = Kind("queue", KIND.properties, lambda _: None, use_shut, use_shut)


def is_shut(owner: Any, _: Any, error: Exception | None) -> None:
    if error is None:
        with pytest.raises(errors.ShutDownError):
            owner.get(timeout=LIMIT)


def same(got: list[bytes], puts: list[bytes]) -> bool:
    return len(got) == len(puts) if PICKLE in puts else got == puts


def row(
    name: str, call: Callable[[Any], Any], puts: list[bytes], before: Any = None, names: tuple[str, ...] = ()
) -> Row:
    placed = []

    def prepared(queue: Any) -> None:
        placed.clear()
        (before or (lambda q: q.produce()))(queue)

    def check(owner: Any, _: Any, error: Exception | None) -> None:
        placed.append(len(puts) if error is None else getattr(error, "placed", 0))

    def settle(owner: Any, queue: Any) -> None:
        if not queue.closed:
            persistently(queue.flush)
        assert same(take(owner), puts[: placed[0]])
        if not queue.closed and not placed[0]:
            with suppress(errors.NotHeldError) if name == "close" else nullcontext():  # the role may be given back
                persistently(lambda: queue.put(b"more", timeout=LIMIT))
            assert set(take(owner)) <= {b"more"}

    def survey(owner: Any) -> None:
        got = take(owner)
        assert same(got, puts[: len(got)])

    return Row(
        "queue",
        name,
        call,
        before=prepared,
        owner_before=take,
        check=check,
        settle=settle,
        survey=survey,
        names=names,
    )


# ---- taking ----


def rest_of(owner: Any) -> None:
    """What is there is the end of what was put."""
    rest = take(owner)
    assert rest == SOME[len(SOME) - len(rest) :]


def use_taken(owner: Any) -> None:
    if not owner.closed:
        rest_of(owner)
        goes_on(owner, owner.counts["producers"])


def use_after_consumer(owner: Any) -> None:
    holder = owner.consumer()
    assert not holder or owner.break_(holder)
    use_taken(owner)


TAKEN = Kind("queue", KIND.properties, lambda _: None, use_taken, use_after_consumer)
SHARED = Kind("queue", {**KIND.properties, "consumers": "many"}, lambda _: None, use_taken, use_taken)


def drain(queue: Any, got: list[bytes]) -> int:
    """Take what is there, and return how many messages may have been lost."""
    lost = 0
    for _ in range(OUTAGE + len(SOME) + 1):
        try:
            got.append(queue.get_nowait())
        except errors.EmptyError:
            return lost
        except errors.OutcomeUnknownError:
            lost += 1
        except (errors.TransportError, errors.TimeoutError):
            pass
    raise AssertionError("it fails forever")


def fill(owner: Any) -> None:
    owner.put_many(SOME, timeout=LIMIT)


def taking(
    kind: str,
    name: str,
    call: Callable[[Any], Any],
    before: Any = None,
    names: tuple[str, ...] = (),
    most: int = 1,
    brief: bool = False,
) -> Row:
    """Call returns a message or a list of them. most: how many of them it may lose with OutcomeUnknownError."""
    got: list[bytes] = []
    lost = [0]

    def prepared(queue: Any) -> None:
        got.clear()
        lost[0] = 0
        (before or (lambda q: q.consume()))(queue)

    def check(_: Any, result: Any, error: Exception | None) -> None:
        got.extend([result] if isinstance(result, bytes) else result or [])
        if kind == "shared queue" and isinstance(error, errors.OutcomeUnknownError):
            lost[0] += most

    def settle(owner: Any, queue: Any) -> None:
        if name.startswith("close"):
            persistently(queue.close)
            got.extend(take(owner))
        else:
            lost[0] += (kind == "shared queue") * drain(queue, got)
        assert len(got) >= len(SOME) - lost[0], got
        assert got == [data for data in SOME if data in got]

    return Row(
        kind, name, call, before=prepared, owner_before=fill, check=check, settle=settle, names=names, brief=brief
    )


def peeked(queue: Any) -> bytes:
    with queue.peek(timeout=LIMIT) as view:
        data = bytes(view)
    queue.release()
    return data


def rows_taken(queue: Any) -> list[bytes]:
    out = np.empty((3, 300), "u1")
    return [row.tobytes() for row in out[: queue.get_many(out=out, timeout=LIMIT)]]


def counted(queue: Any) -> None:
    assert queue.qsize() == len(SOME) and not queue.empty()
    assert not queue.full() and queue.counts["messages"] == len(SOME)


def reserved(queue: Any) -> None:
    """The commit is what counts; a reservation that failed is none."""
    room = queue.reserve(300, timeout=LIMIT)
    room[:] = SOME[0]
    queue.commit()


def go_round(queue: Any) -> None:
    """So that what follows lies around the ring's end."""
    queue.put_many([bytes(900)] * 3, timeout=LIMIT)


def fresh(_: Any) -> None:
    pass


def staging(end: Callable[[Any], Any], n: int = len(SOME)) -> Callable[[Any], None]:
    """Stage n messages, then that. The lane is small, so some are sent between. Placed counts all that are staged."""

    def call(queue: Any) -> None:
        done = 0
        try:
            for data in SOME[:n]:
                queue.put(data, timeout=LIMIT, flush=False)
                done += 1
            end(queue)
        except errors.DsmemError as error:
            error.placed += done
            raise

    return call


def shutting_down() -> Row:
    """What is staged comes before the end, wherever the shutdown failed."""
    placed = [0]

    def check(_owner: Any, _: Any, error: Exception | None) -> None:
        placed[0] = 2 if error is None else error.placed  # type: ignore[attr-defined]

    def settle(owner: Any, queue: Any) -> None:
        persistently(queue.shutdown)
        got: list[bytes] = []
        with pytest.raises(errors.ShutDownError):
            while True:
                got.append(owner.get(timeout=LIMIT))
        assert got == SOME[: placed[0]]

    return Row(
        "shut queue",
        "shutdown behind staged puts",
        staging(lambda q: q.shutdown(), 2),
        before=lambda q: q.produce(),
        check=check,
        settle=settle,
        survey=take,
        names=("shutdown",),
    )


ROWS = [
    row("produce", lambda q: q.produce(), [], before=fresh),
    row("first put", lambda q: q.put(SOME[0], timeout=LIMIT), SOME[:1], before=fresh, names=("put",)),
    row("put", lambda q: q.put(SOME[0], timeout=LIMIT), SOME[:1]),
    row("put_nowait", lambda q: q.put_nowait(SOME[0]), SOME[:1]),
    row("put_async", lambda q: asyncio.run(q.put_async(SOME[0])), SOME[:1]),
    row("put_many", lambda q: q.put_many(SOME, timeout=LIMIT), SOME),
    row("put_many of an array", lambda q: q.put_many(ARRAY, timeout=LIMIT), SOME, names=("put_many",)),
    row("put_many around the end", lambda q: q.put_many(SOME[:3], timeout=LIMIT), SOME[:3], go_round, ("put_many",)),
    row("reserve and commit", reserved, SOME[:1], names=("reserve", "commit")),
    row("flush", lambda q: (q.put(SOME[0], timeout=LIMIT), q.flush()), SOME[:1]),
    row("staged puts", staging(lambda q: q.flush()), SOME, names=("put", "flush")),
    row("staged puts, then one", staging(lambda q: q.put(SOME[2], timeout=LIMIT), 2), SOME[:3], names=("put",)),
    row("staged puts around the end", staging(lambda q: q.flush(), 3), SOME[:3], go_round, ("put",)),
    row("close behind staged puts", staging(lambda q: q.close(), 2), SOME[:2], names=("close",)),
    row("pickled", lambda q: Pickled(q).put(None, timeout=LIMIT), [PICKLE], names=("put",)),
    Row("queue", "producers", lambda q: q.producers(), before=lambda q: q.produce()),
    Row("queue", "consumer", lambda q: q.consumer()),
    Row("queue", "break_", lambda q: q.break_(q.producers()[0]), before=lambda q: q.produce()),
    row("close", lambda q: q.close(), []),
    taking("taken queue", "consume", lambda q: q.consume(), before=fresh, names=("consume",)),
    taking("taken queue", "first get", lambda q: q.get(timeout=LIMIT), before=fresh, names=("get",)),
    taking("taken queue", "get", lambda q: q.get(timeout=LIMIT)),
    taking("taken queue", "get_nowait", lambda q: q.get_nowait(), brief=True),
    taking("taken queue", "get_many", lambda q: q.get_many(3, timeout=LIMIT)),
    taking("taken queue", "get_many into an array", rows_taken, names=("get_many",)),
    taking("taken queue", "get_async", lambda q: asyncio.run(q.get_async())),
    taking("taken queue", "get_many_async", lambda q: asyncio.run(q.get_many_async(3)), brief=True),
    taking("taken queue", "peek and release", peeked, names=("peek", "release")),
    taking("taken queue", "fileno", lambda q: q.fileno() and None, before=fresh, names=("fileno",)),
    taking("taken queue", "counts", counted, names=("qsize", "empty", "full", "counts"), brief=True),
    taking("taken queue", "close of a consumer", lambda q: q.close(), names=("close",)),
    taking("shared queue", "get", lambda q: q.get(timeout=LIMIT)),
    taking("shared queue", "get_many", lambda q: q.get_many(3, timeout=LIMIT), most=3),
    taking("shared queue", "get_many into an array", rows_taken, names=("get_many",), most=3, brief=True),
    Row("shut queue", "shutdown", lambda q: q.shutdown(), before=lambda q: q.produce(), check=is_shut),
    shutting_down(),
]
