"""The second half of ``dsmem demo``: two processes share a segment, a queue and a lock."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
import timeit
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
import numpy as np

import dsmem
from dsmem.cli import measure
from dsmem.names import local

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from dsmem.memory import Reference

CLUSTER = "demo"
SIDE = 512  # rows and columns of the segment
MESSAGES = 20_000  # sent in each of the two ways
LIST = 100
ROUNDS = 1_000  # round trips
UPDATES = 2_000  # by each process, under the lock
SECONDS = 30.0  # timeout of each wait for the other process


def _messages() -> list[bytes]:
    return [number.to_bytes(8, sys.byteorder) for number in range(MESSAGES)]


def _open_cluster(context: dsmem.Context) -> dsmem.Cluster:
    """Open a cluster of this host if the fabric is shm, or else one in memory of the context."""
    return dsmem.connect(CLUSTER) if context.fabric == "shm" else dsmem.connect(context=context)


# ---- the other process ----


def other(fabric: str, refs: tuple[Reference, ...], control: Connection) -> None:
    """Run in the other process: write to the segment, send and answer messages, count under the lock."""
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(dsmem.Context(fabric))
        cluster = stack.enter_context(_open_cluster(context))
        # 'with lock' would acquire the lock, so closing() closes the objects.
        table, words, inbox, lock = (stack.enter_context(contextlib.closing(dsmem.attach(r, context))) for r in refs)
        mine = cluster.queue(f"answers-{os.getpid()}", create=True, lifetime="creator")
        control.send(mine.ref)
        table.write(slice(1, None, 2), 1.0)  # every second row
        words.fetch_add(0, 1)
        data = _messages()
        mine.get(timeout=SECONDS)
        for message in data:
            inbox.put(message)
        mine.get(timeout=SECONDS)
        for number in range(0, MESSAGES, LIST):
            inbox.put_many(data[number : number + LIST])
        for _ in range(ROUNDS):
            inbox.put(mine.get(timeout=SECONDS))
        count(lock, words)
        mine.unlink()
        control.recv()


def count(lock: Any, words: Any) -> None:
    """Do updates that are safe only under the lock: each reads a word, and then writes it."""
    for _ in range(UPDATES):
        with lock:
            words.write(1, words.read(1) + 1)


# ---- this process ----


def _median(call: Callable[[], object]) -> str:
    timer = timeit.Timer(call, timer=time.perf_counter_ns)
    return f"{measure.median_us(timer, 0.05, measure.overhead().clock_ns):.2f} µs"


def _show_segment(table: Any, words: Any) -> None:
    if not words.wait(0, until=lambda value: value == 1, timeout=SECONDS):
        raise click.ClickException("the other process has not written to the segment")
    total, expected = float(table.read(...).sum()), SIDE * SIDE / 2
    row, column = np.empty(SIDE), np.empty(SIDE)
    click.echo(f"  segment  {SIDE} × {SIDE} float64; the other filled half in one call: sum {total:.0f}")
    click.echo(
        f"           a row read in {_median(lambda: table.read(1, row))},"
        f" a column in {_median(lambda: table.read((slice(None), 1), column))}"
    )
    if total != expected:
        raise click.ClickException(f"the sum should be {expected:.0f}")


def _singly(inbox: Any) -> list[bytes]:
    get = inbox.get
    return [get(timeout=SECONDS) for _ in range(MESSAGES)]


def _in_lists(inbox: Any) -> list[bytes]:
    got: list[bytes] = []
    while len(got) < MESSAGES:
        got += inbox.get_many(LIST, timeout=SECONDS)
    return got


def _rate(receive: Callable[[Any], list[bytes]], inbox: Any, answers: Any) -> float:
    """Messages per microsecond, from the request for them to the last one."""
    start = time.perf_counter()
    answers.put(b"go")
    got = receive(inbox)
    spent = time.perf_counter() - start
    if got != _messages():
        raise click.ClickException("messages are missing or out of order")
    return MESSAGES / spent / 1e6


def _show_queue(inbox: Any, answers: Any) -> None:
    singly, lists = _rate(_singly, inbox, answers), _rate(_in_lists, inbox, answers)
    start = time.perf_counter()
    for _ in range(ROUNDS):
        answers.put(b"8 bytes!")
        inbox.get(timeout=SECONDS)
    trip = (time.perf_counter() - start) / ROUNDS * 1e6
    click.echo(f"  queue    2 × {MESSAGES} messages of 8 bytes, all of them there and in order")
    click.echo(f"           {singly:.2f} M/s one by one, {lists:.2f} M/s in lists; there and back {trip:.2f} µs")


def _show_lock(lock: Any, words: Any, process: multiprocessing.process.BaseProcess) -> None:
    count(lock, words)
    deadline = time.monotonic() + SECONDS
    while (total := int(words.read(1))) < 2 * UPDATES and time.monotonic() < deadline and process.is_alive():
        time.sleep(0.001)

    def pair() -> None:
        lock.acquire()
        lock.release()

    click.echo(f"  lock     {total}, after {UPDATES} updates of a plain word by each of the two")
    click.echo(f"           taken and released in {_median(pair)} when no other process wants it")
    if total != 2 * UPDATES:
        raise click.ClickException(f"the word should be {2 * UPDATES}")


def show(fabric: str, context: dsmem.Context) -> None:
    """Share a segment, a queue and a lock with another process, check the results and print figures.

    Parameters
    ----------
    fabric : str
        Fabric of the other process's context.
    context : Context
        Context of this process.

    Raises
    ------
    click.ClickException
        A result is wrong, or the other process failed.
    """
    spawn = multiprocessing.get_context("spawn")
    control, theirs = spawn.Pipe()
    name = os.getpid()
    with contextlib.ExitStack() as stack:
        stack.callback(local.forget, CLUSTER)
        cluster = stack.enter_context(_open_cluster(context))
        table = cluster.segment(f"table-{name}", (SIDE, SIDE), "f8", create=True, lifetime="creator")
        words = cluster.segment(f"words-{name}", (2,), "u8", create=True, lifetime="creator")
        inbox = cluster.queue(f"messages-{name}", create=True, lifetime="creator")
        lock = cluster.lock(f"lock-{name}", create=True, lifetime="creator")
        made = (table, words, inbox, lock)
        process = spawn.Process(target=other, args=(fabric, tuple(o.ref for o in made), theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            with contextlib.closing(dsmem.attach(control.recv(), context)) as answers:
                _show_segment(table, words)
                _show_queue(inbox, answers)
                _show_lock(lock, words, process)
            control.send(None)
        except EOFError:
            raise click.ClickException("the other process has failed; what it said stands above") from None
        finally:
            control.close()
            process.join(SECONDS)
            process.kill()
            for o in made:
                o.unlink()
