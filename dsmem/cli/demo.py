"""``dsmem demo``: two processes share a file without a server, and then named objects."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import timeit
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import click
import numpy as np
from rich.table import Table

import dsmem
from dsmem import _core
from dsmem.cli import bank, measure, objects
from dsmem.cli.output import Page, fabric_option

COUNTS = 10_000  # increments by each process
SIZES = (8, 4096, 65536, 1 << 20)
SECONDS = 0.1  # per figure
BATCH = 64


# ---- the other process ----


def other() -> None:
    """Read the file, write it back reversed, increment the counter, and own the memory that is measured."""
    fabric, source, target, counter = sys.argv[1:]
    rows = measure.cases(["read"], list(SIZES), 1) + measure.cases(["batch"], [8], BATCH)
    with dsmem.Context(fabric) as context, context.allocate(measure.region_nbytes(rows)) as own:
        s, t, c = (context.attach(bytes.fromhex(d)) for d in (source, target, counter))
        data = np.empty(s.nbytes, "u1")
        s.read(0, data)
        t.write(0, np.ascontiguousarray(data[::-1]))
        for _ in range(COUNTS):
            c.fetch_add(0, 1)
        print(json.dumps({"sha256": hashlib.sha256(data.data).hexdigest(), "own": own.descriptor.hex()}), flush=True)
        sys.stdin.read()  # until the first process is done


@contextlib.contextmanager
def _started(fabric: str, regions: tuple[dsmem.Region, ...]) -> Iterator[subprocess.Popen[str]]:
    texts = [region.descriptor.hex() for region in regions]
    command = [sys.executable, "-c", "from dsmem.cli.demo import other; other()", fabric, *texts]
    # In its own session, so that Ctrl-C ends this process only. The other one ends with its standard input.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        yield process


def _answer(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise click.ClickException("the other process has failed; what it said stands above")
    answer: dict[str, str] = json.loads(line)
    return answer


# ---- figures ----


def _copy_us(size: int, clock_ns: float) -> float:
    """Time to copy a block of bytes to another within this process."""
    names = {"to": memoryview(bytearray(b"\1") * size), "data": memoryview(bytearray(b"\2") * size)}
    return measure.median_us(timeit.Timer("to[:] = data", timer=perf_counter_ns, globals=names), SECONDS, clock_ns)


def _median_us(op: str, size: int, remote: dsmem.Remote, clock_ns: float) -> float:
    (case,) = measure.cases([op], [size], BATCH)
    row = measure.measure(case, remote, measure.Limits(None, SECONDS), clock_ns)
    return float(row["latency_us"]["median"])


def _table(remote: dsmem.Remote, fabric: str, clock_ns: float) -> Table:
    title = f"memory of the other process, on {fabric}: medians, called from Python"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in ("bytes", "read µs", "write µs", "memcpy µs", "read GB/s", "write GB/s", "memcpy GB/s"):
        table.add_column(column, justify="right", header_style="dim")
    for size in SIZES:
        us = [_median_us("read", size, remote, clock_ns), _median_us("write", size, remote, clock_ns)]
        us.append(_copy_us(size, clock_ns))
        table.add_row(f"{size}", *(f"{t:.2f}" for t in us), *(f"{size / t / 1e3:.2f}" for t in us))
    return table


def _words(remote: dsmem.Remote, clock_ns: float) -> str:
    add, swap, batch = (_median_us(op, 8, remote, clock_ns) for op in ("fetch-add", "compare-swap", "batch"))
    return f"fetch_add {add:.2f} µs, compare_swap {swap:.2f} µs, a batch() of {BATCH} mixed ops {batch:.1f} µs"


# ---- the command ----


def _load(path: Path, context: dsmem.Context) -> dsmem.Region:
    size = path.stat().st_size
    if not size:
        raise click.ClickException(f"{path} is empty")
    region = context.allocate(size, "r")
    with path.open("rb") as file, memoryview(region) as memory:
        if file.readinto(memory) != size:
            raise click.ClickException(f"{path} has changed while it was read")
    return region


def _compare(mine: str, theirs: str, back: str, total: int) -> None:
    click.echo("  sha256   of the file, as the other read it, and as it came back, reversed:")
    for digest in (mine, theirs, back):
        click.echo(f"           {digest}")
    click.echo(f"  counter  {total}, after {COUNTS} fetch_add by each of the two")
    click.echo()
    if not mine == theirs == back:
        raise click.ClickException("the checksums differ")
    if total != 2 * COUNTS:
        raise click.ClickException(f"the counter should be {2 * COUNTS}")


def _share(path: Path, fabric: str, context: dsmem.Context) -> None:
    with _load(path, context) as source, context.allocate(source.nbytes) as target, context.allocate(8) as counter:
        with _started(fabric, (source, target, counter)) as process, context.attach(counter.descriptor) as c:
            for _ in range(COUNTS):
                c.fetch_add(0, 1)
            answer = _answer(process)
            mine = hashlib.sha256(source).hexdigest()
            back = hashlib.sha256(np.ascontiguousarray(target.array()[::-1]).data).hexdigest()
            _compare(mine, answer["sha256"], back, c.fetch_add(0, 0))
            clock_ns = measure.overhead().clock_ns
            with context.attach(bytes.fromhex(answer["own"])) as remote:
                console: Any = Page(highlight=False)
                console.print(_table(remote, context.fabric, clock_ns))
                click.echo(f"\n{_words(remote, clock_ns)}")
    click.echo("memcpy: a memoryview copied into another, within this process")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@fabric_option
def demo(file: Path | None, fabric: str) -> None:
    """Share a file, a segment, a queue and a lock with a second process.

    The other process reads FILE (by default the extension module of dsmem) and writes it back. Then the two share a
    segment, a queue and a lock. At last FILE is in a store of pages with two copies, at three memory nodes of a
    coordinator, where processes move money between accounts. One of them is killed, and then the memory node with the
    primary copy: the others go on, the third node gets a copy, and nothing is lost.
    """
    path = file or Path(sys.modules[_core.Context.__module__].__file__ or sys.executable)
    with dsmem.Context(fabric) as context:
        click.echo(f"Two processes share {path.name}, on {context.fabric}\n\n  bytes    {path.stat().st_size}")
        _share(path, fabric, context)
        click.echo("\nThey share a segment, a queue and a lock, which travel as pickled references\n")
        objects.show(fabric, context)
    click.echo("\nA store of pages with two copies, at three dsmem serve and a coordinator\n")
    bank.show(path)
