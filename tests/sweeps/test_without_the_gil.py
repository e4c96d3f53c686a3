"""No public call keeps other threads of Python from running while it waits for another process.

Each call of the table of remote faults, and of a remote, a batch and a context, is made with every op of it held back
for a while. Another thread notes when it runs: it never has to wait for as long as one op takes. Where the machine was
too busy for that, the ops take longer at the next try; a call that keeps the GIL fails at each.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import re
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import coordinated as of_nodes
import halt
import numpy as np
import pytest
from remote_faults import SECRET, Child, Kind, Place, Row, attempt, count, leave
from remote_table import KINDS, ROWS

import dsmem
from dsmem import _core, errors

OP_MS = (20, 60, *[150] * 8)  # below what the last op of a call with a deadline gets at least
TIMEOUT_S = 60  # seconds; no op is given up


def longest_wait(call: Callable[[], Any]) -> float:
    """For how long, at most, another thread could not run during the call."""
    ended, times = threading.Event(), [time.monotonic()]

    def note() -> None:
        while not ended.is_set():
            times.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=note)
    thread.start()
    try:
        call()
    finally:
        last = time.monotonic()
        ended.set()
        thread.join()
    times = [*(one for one in times if one < last), last]
    return max(after - before for before, after in itertools.pairwise(times))


def keeps_the_gil(make: Callable[[int], contextlib.AbstractContextManager[Callable[[], Any]]]) -> bool:
    """make: of a call whose ops take so many milliseconds."""
    for ms in OP_MS:
        with make(ms) as call:
            if longest_wait(call) < ms / 1000:
                return False
    return True


def test_a_call_that_keeps_it_is_found():
    @contextlib.contextmanager
    def sleeper(library: ctypes.CDLL, ms: int) -> Iterator[Callable[[], Any]]:
        yield lambda: library.usleep(ms * 1000)

    assert keeps_the_gil(functools.partial(sleeper, ctypes.PyDLL(None)))
    assert not keeps_the_gil(functools.partial(sleeper, ctypes.CDLL(None)))


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_objects(fault_place, row):
    with Place(fault_place) as place:
        assert not keeps_the_gil(in_place(place, KINDS[row.kind], row))


@pytest.mark.parametrize("row", of_nodes.ROWS, ids=str)
def test_a_store_of_a_coordinator(coordinated, nodes, row):
    with of_nodes.OfNodes(nodes) as place:
        assert not keeps_the_gil(in_place(place, of_nodes.KIND, row))


def in_place(
    place: Place, kind: Kind, row: Row
) -> Callable[[int], contextlib.AbstractContextManager[Callable[[], Any]]]:
    first, last = count(place, kind, row)

    @contextlib.contextmanager
    def make(ms: int) -> Iterator[Callable[[], Any]]:
        plan = f"delay={first}-{max(first, last)}:{ms}ms"
        with place.make(kind) as owner, place.caller(plan, TIMEOUT_S) as context:
            obj = dsmem.attach(owner.ref, context)
            row.before(obj)
            row.owner_before(owner)
            yield lambda: row.check(owner, *attempt(row, obj))
            row.settle(owner, obj)
            leave(kind, obj)

    return make


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_opening(fault_place, kind):
    @contextlib.contextmanager
    def make(ms: int) -> Iterator[Callable[[], Any]]:
        plan = f"{fault_place}://?delay=*:{ms}ms"
        with (
            Place(fault_place) as place,
            place.make(kind) as owner,
            dsmem.Context(plan, secret=SECRET, peer_timeout=TIMEOUT_S) as context,
        ):
            yield lambda: dsmem.attach(owner.ref, context).close()

    assert not keeps_the_gil(make)


def test_counting_many_messages(here):
    """It waits for no other process, and takes long all the same."""
    with here.queue("q", create=True, capacity_bytes=1 << 26) as queue:
        queue.put_many(np.zeros(1 << 22, "u8"), block=False)
        for call in (lambda: queue.counts, queue.qsize, queue.empty, queue.full):
            begun = time.monotonic()
            call()
            took = time.monotonic() - begun
            assert any(longest_wait(call) < took / 2 for _ in range(20))
    here.unlink("q")


def batched(remote: Any) -> None:
    with remote.context.batch() as batch:
        batch.read(remote, 0, bytearray(8))


OPS: dict[str, Callable[[Any], Any]] = {
    "read": lambda remote: remote.read(0, bytearray(8)),
    "write": lambda remote: remote.write(0, bytes(8)),
    "read_many": lambda remote: remote.read_many([0, 8], bytearray(16)),
    "write_many": lambda remote: remote.write_many([0, 8], bytes(16)),
    "fetch_add": lambda remote: remote.fetch_add(0, 1),
    "compare_swap": lambda remote: remote.compare_swap(0, 0, 1),
    "batch": batched,
}


def read_of_many(remote: Any) -> None:
    with remote.context.attach_many(DESCRIPTORS[remote.context]) as remotes:
        remotes.read_many([0, 0], [0, 8], bytearray(16))


def written_to_many(remote: Any) -> None:
    with remote.context.attach_many(DESCRIPTORS[remote.context]) as remotes:
        remotes.write_many([0, 0], [0, 8], bytes(16))


OPS["read_many of remotes"], OPS["write_many of remotes"] = read_of_many, written_to_many
DESCRIPTORS: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()  # of the remote's region, by context


def test_every_op_has_a_row():
    named = {name for name in dir(_core.Batch) if not name.startswith("_")} - set(OPS)
    assert named == {"done", "abort", "errors", "statuses"}  # no op


@pytest.mark.parametrize("name", OPS)
def test_ops(fault_place, name):
    @contextlib.contextmanager
    def make(ms: int) -> Iterator[Callable[[], Any]]:
        plan = f"{fault_place}://?delay=*:{ms}ms"
        with (
            dsmem.Context(fault_place, secret=SECRET) as owner,
            dsmem.Context(plan, secret=SECRET, peer_timeout=TIMEOUT_S) as context,
            owner.allocate(4096) as region,
            context.attach(region.descriptor) as remote,
        ):
            DESCRIPTORS[context] = bytes(region.descriptor)
            yield lambda: OPS[name](remote)

    assert not keeps_the_gil(make)


def own(pipe: Any, fabric: str) -> None:
    with dsmem.Context(fabric, secret=SECRET) as context, context.allocate(4096) as region:
        pipe.send(bytes(region.descriptor))
        pipe.recv()


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("call", ["attach", "attach_many"])
def test_attach_to_an_owner_that_is_stopped(fault_place, connected, call):
    @contextlib.contextmanager
    def make(ms: int) -> Iterator[Callable[[], Any]]:
        with Child(own, fault_place) as owner, dsmem.Context(fault_place, secret=SECRET) as context:
            descriptor = owner.pipe.recv()
            if connected:
                context.attach(descriptor).close()
            halt.stop(owner.process.pid)

            def attach() -> None:
                with pytest.raises(errors.TimeoutError):
                    getattr(context, call)(descriptor, timeout=ms / 1000)

            yield attach

    assert not keeps_the_gil(make)


# ---- the end of a handle ----

SOURCES = sorted(Path(_core.__file__).parent.glob("*.pxi"))
ENDS = re.compile(r"\bc\.dsm_(?:\w+_)?(?:close|leave)\(")


def with_the_gil(lines: list[str]) -> list[str]:
    """Lines that call what ends something in the core, and are in no block without the GIL.

    Closing may join a thread of the core, give back memory, or take ops, of which the rows of the table meet some.
    """
    found, blocks = [], list[tuple[int, str]]()
    for line in filter(str.strip, lines):
        depth = len(line) - len(line.lstrip())
        blocks = [block for block in blocks if block[0] < depth]
        if ENDS.search(line) and not any(text.startswith("with nogil") or "nogil:" in text for _, text in blocks):
            found.append(line.strip())
        blocks.append((depth, line.strip()))
    return found


def test_nothing_is_closed_with_the_gil():
    assert len(SOURCES) > 10
    assert not [found for path in SOURCES for found in with_the_gil(path.read_text().splitlines())]


def test_what_is_closed_with_the_gil_is_found():
    body = "        rc = c.dsm_lock_leave(ptr)"
    assert with_the_gil(["    def close(self):", body]) == [body.strip()]
    assert with_the_gil(["    with nogil:", "        a = 1", "    if b:", body]) == [body.strip()]
    assert not with_the_gil(["    with nogil:", "        a = 1", body])


# ---- what is asked of a handle in the midst of another call on it ----

SLOW_MS = 100  # an op of the main thread looks for signals meanwhile
BOUND = 60  # seconds until a process that hangs is a failure


def ask(obj: Any) -> None:
    """All that the handle says of itself. Some of it may take an op, which is held back, too."""
    for name in dir(type(obj)):
        if not name.startswith("_") and not callable(getattr(type(obj), name)):
            with contextlib.suppress(errors.DsmemError):
                getattr(obj, name)


def ask_meanwhile(row: Row, obj: Any) -> None:
    """In another thread, and in a signal handler."""
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        while not ended.is_set():
            ask(obj)
            begun.set()

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    call_with_handler(row, obj, lambda: ask(obj))
    ended.set()
    thread.join()


def call_with_handler(row: Row, obj: Any, handler: Callable[[], Any]) -> None:
    signal.signal(signal.SIGALRM, lambda *_: handler())
    signal.setitimer(signal.ITIMER_REAL, SLOW_MS / 2000)
    with contextlib.suppress(IndexError):  # break_() of a holder that is gone
        attempt(row, obj)
    signal.setitimer(signal.ITIMER_REAL, 0)


def call_slowly(pipe: Any, ref: Any, fabric: str, row: Row, ops: str) -> None:
    context = dsmem.Context(f"{fabric}://?delay={ops}:{SLOW_MS}ms", secret=SECRET, peer_timeout=TIMEOUT_S)
    obj = dsmem.attach(ref, context)
    row.before(obj)
    pipe.send("attached")
    pipe.recv()
    ask_meanwhile(row, obj)
    os._exit(0)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_in_the_midst_of_a_call(fault_place, row):
    """A mutex that is held while the main thread looks for signals, and so may wait for the GIL, is never waited for
    with the GIL. Nor in a handler that the main thread runs there: test_handlers.py."""
    kind = KINDS[row.kind]
    with Place(fault_place) as place:
        first, last = count(place, kind, row)
        ops = f"{first}-{max(first, last)}"
        with place.make(kind) as owner, Child(call_slowly, owner.ref, fault_place, row, ops) as child:
            assert child.pipe.recv() == "attached"
            row.owner_before(owner)
            child.pipe.send("go")
            child.process.join(BOUND)
            assert child.process.exitcode == 0
