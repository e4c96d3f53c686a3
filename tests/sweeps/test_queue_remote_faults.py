"""The sweep of faults over a remote producer's calls: tests/sweeps/remote_faults.py.

A call that raised says with ``placed`` how many of its messages went in. Each of those comes out once and in order, and
no other; the lane is free afterwards, and a successor goes on.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from remote_faults import FAULTS, KILLED, SECRET, Kind, Place, ops, persistently

import dsmem
from dsmem import errors
from dsmem.queue import Pickled

QUEUE = Kind("queue", {"capacity_bytes": 4096, "max_message": 1500, "producers": 2}, lambda _: None, lambda _: None)
LIMIT = 5.0
SOME = [bytes([i]) * 300 for i in range(5)]
ROWS = np.repeat(np.arange(5, dtype="u1"), 300).reshape(5, 300)


def reserved(queue: Any) -> None:
    """The commit is what counts; a reservation that failed is none."""
    room = queue.reserve(300, timeout=LIMIT)
    room[:] = SOME[0]
    queue.commit()


def go_round(queue: Any) -> None:
    """So that what follows lies around the ring's end."""
    queue.put_many([bytes(900)] * 3, timeout=LIMIT)


@dataclass(frozen=True)
class Call:
    """What is done with a handle, before and under faults, and what that puts."""

    do: Callable[[Any], Any]
    puts: list[bytes]
    before: Callable[[Any], Any] = lambda queue: queue.produce()
    puts_before: int = 0  # messages


CALLS = {
    "produce": Call(lambda queue: queue.produce(), [], before=lambda _: None),
    "first put": Call(lambda queue: queue.put(SOME[0], timeout=LIMIT), SOME[:1], before=lambda _: None),
    "put": Call(lambda queue: queue.put(SOME[0], timeout=LIMIT), SOME[:1]),
    "put_many": Call(lambda queue: queue.put_many(SOME, timeout=LIMIT), SOME),
    "put_many of an array": Call(lambda queue: queue.put_many(ROWS, timeout=LIMIT), SOME),
    "put_many around the end": Call(lambda queue: queue.put_many(SOME[:3], timeout=LIMIT), SOME[:3], go_round, 3),
    "commit": Call(reserved, SOME[:1]),
    "pickled": Call(lambda queue: Pickled(queue).put(None, timeout=LIMIT), [b"a pickle"]),
    "close": Call(lambda queue: queue.close(), []),
}


def take(owner: Any) -> list[bytes]:
    return owner.get_many() if not owner.empty() else []


def goes_on(owner: Any, place: Place, producers: int) -> None:
    """Others can do all that the queue is for."""
    assert owner.counts["producers"] == producers
    with place.caller() as context, dsmem.attach(owner.ref, context) as other:
        for data in SOME:
            other.put(data, timeout=LIMIT)
        assert take(owner) == SOME
    assert owner.counts["producers"] == producers


def same(got: list[bytes], puts: list[bytes]) -> bool:
    return len(got) == len(puts) if b"a pickle" in puts else got == puts


def attempt(call: Call, queue: Any) -> int:
    """Messages that the call says it has put."""
    try:
        call.do(queue)
    except errors.CanceledError as error:
        raise AssertionError("the failure of another op") from error
    except (errors.TransportError, errors.TimeoutError) as error:
        return error.placed
    return len(call.puts)


def try_at(place: Place, call: Call, fault: str, n: int) -> None:
    plan = {**FAULTS, **KILLED}[fault].format(n=n, next=n + 1, end=n + 20)
    with place.make(QUEUE) as owner, place.caller(plan) as context:
        queue = dsmem.attach(owner.ref, context)
        call.before(queue)
        assert len(take(owner)) == call.puts_before
        placed = attempt(call, queue)
        if fault in KILLED:
            got = take(owner)
            assert len(got) <= placed and same(got, call.puts[: len(got)])
            with suppress(errors.TransportError, errors.TimeoutError), queue:
                pass
            assert queue.closed
            goes_on(owner, place, owner.counts["producers"])
            return
        if not queue.closed:
            persistently(queue.flush)
            assert same(take(owner), call.puts[:placed])
            persistently(lambda: queue.put(b"more", timeout=LIMIT) if not queue.closed and not placed else None)
            persistently(queue.close)
            assert set(take(owner)) <= {b"more"}
        goes_on(owner, place, 0)


def range_of(place: Place, call: Call) -> tuple[int, int]:
    with place.make(QUEUE) as owner, place.caller() as context, dsmem.attach(owner.ref, context) as queue:
        call.before(queue)
        assert len(take(owner)) == call.puts_before
        first = context.stats["posts"] + 1
        call.do(queue)
        last = context.stats["posts"]
        assert same(take(owner), call.puts)
    return first, last


@pytest.mark.parametrize("name", CALLS)
def test_each_op_of_each_call(fault_place, name):
    with Place(fault_place) as place:
        first, last = range_of(place, CALLS[name])
        assert last >= first
        for fault in (*FAULTS, *KILLED):
            for n in ops(first, last, 4):
                try:
                    try_at(place, CALLS[name], fault, n)
                except BaseException as error:
                    raise AssertionError(f"{name}: {fault}, op {n - first + 1} of {last - first + 1}") from error


def own(pipe: Any, fabric: str) -> None:
    with dsmem.Context(fabric, secret=SECRET) as context, dsmem.connect(context=context) as cluster:
        pipe.send(cluster.queue("q", create=True, **QUEUE.properties).ref)
        pipe.recv()


@pytest.mark.parametrize("name", ["produce", "put", "put_many of an array", "close"])
def test_the_owner_dies_at_an_op(fault_place, name):
    """The call ends, and so does the handle."""
    call = CALLS[name]
    with Place(fault_place) as place:
        first, last = range_of(place, call)
    for n in ops(first, last, 2):
        with ExitStack() as stack:
            here, there = mp.get_context("fork").Pipe()
            process = mp.get_context("fork").Process(target=own, args=(there, fault_place))
            process.start()
            context = stack.enter_context(
                dsmem.Context(f"{fault_place}://?delay={n}:300ms", secret=SECRET, peer_timeout=1)
            )
            queue = dsmem.attach(here.recv(), context)
            call.before(queue)
            struck = threading.Event()

            def strike(context=context, n=n, pid=process.pid, struck=struck):
                while context.stats["posts"] < n and not struck.wait(0.001):
                    pass
                os.kill(pid, signal.SIGKILL)

            thread = threading.Thread(target=strike)
            thread.start()
            with suppress(ConnectionError, errors.TimeoutError):
                call.do(queue)
            struck.set()
            thread.join()
            process.join()
            persistently(queue.close)
            assert queue.closed
