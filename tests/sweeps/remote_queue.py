"""The rows of a remote producer. What a call that raised says with ``placed`` went in: it comes out once, in order.

Nothing else comes out, the lane is free afterwards, and a successor goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import pytest
from attaching import attached
from remote_faults import SECRET, Kind, Row, persistently

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
    row("pickled", lambda q: Pickled(q).put(None, timeout=LIMIT), [PICKLE], names=("put",)),
    Row("queue", "producers", lambda q: q.producers(), before=lambda q: q.produce()),
    Row("queue", "consumer", lambda q: q.consumer()),
    Row("queue", "break_", lambda q: q.break_(q.producers()[0]), before=lambda q: q.produce()),
    row("close", lambda q: q.close(), []),
    Row("shut queue", "shutdown", lambda q: q.shutdown(), before=lambda q: q.produce(), check=is_shut),
]
