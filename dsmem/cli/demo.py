"""``dsmem demo``: two processes, one file, no server."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import dsmem
from dsmem import _core

COUNTS = 10_000

# The other process: reads the file, writes it back reversed, counts, and says what it has seen.
_OTHER = """
import hashlib, sys, numpy, dsmem
fabric, source, target, counter, counts = sys.argv[1:]
with dsmem.Context(fabric) as context:
    s, t, c = (context.attach(bytes.fromhex(d)) for d in (source, target, counter))
    data = numpy.empty(s.nbytes, "u1")
    s.read(0, data)
    t.write(0, numpy.ascontiguousarray(data[::-1]))
    for _ in range(int(counts)):
        c.fetch_add(0, 1)
    print(hashlib.sha256(data).hexdigest())
    s.close(); t.close(); c.close()
"""


def _median_us(call: Callable[[], object]) -> float:
    rounds = []
    for _ in range(9):
        n, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < 0.01:
            call()
            n += 1
        rounds.append(spent / n)
    return float(np.median(rounds)) * 1e6


def _table(remote: dsmem.Remote, fabric: str) -> Table:
    table = Table(title=f"one-sided on {fabric}, median")
    for column in ("bytes", "read µs", "write µs", "memcpy µs", "read GB/s", "memcpy GB/s"):
        table.add_column(column, justify="right")
    for size in (8, 4096, 65536, 1 << 20):
        if size > remote.nbytes:
            break
        out, other = np.zeros(size, "u1"), np.zeros(size, "u1")
        read = _median_us(lambda out=out: remote.read(0, out))  # type: ignore[misc]
        write = _median_us(lambda out=out: remote.write(0, out))  # type: ignore[misc]
        copy = _median_us(lambda out=out, other=other: np.copyto(other, out))  # type: ignore[misc]
        cells = (f"{size}", f"{read:.2f}", f"{write:.2f}", f"{copy:.2f}")
        table.add_row(*cells, f"{size / read / 1e3:.2f}", f"{size / copy / 1e3:.2f}")
    return table


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--fabric", default="auto", show_default=True, help="shm, verbs, or a URL.")
def demo(file: Path | None, fabric: str) -> None:
    """Share FILE (by default the extension module of dsmem) with a second process, which reads it and writes back."""
    path = file or Path(sys.modules[_core.Context.__module__].__file__ or sys.executable)
    data = np.fromfile(path, "u1")
    if not data.size:
        raise click.ClickException(f"{path} is empty")
    with dsmem.Context(fabric) as context, context.allocate(data.size, "r") as source:
        with (
            context.allocate(data.size) as target,
            context.allocate(8) as counter,
            context.attach(counter.descriptor) as c,
        ):
            source.array()[:] = data
            texts = [r.descriptor.hex() for r in (source, target, counter)]
            command = [sys.executable, "-c", _OTHER, fabric, *texts, str(COUNTS)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
                for _ in range(COUNTS):
                    c.fetch_add(0, 1)
                seen = other.communicate()[0].strip()
            back = hashlib.sha256(target.array()[::-1].tobytes()).hexdigest()
            mine, total = hashlib.sha256(data.tobytes()).hexdigest(), c.fetch_add(0, 0)
            click.echo(
                f"{path}: {data.size} bytes, sha256 {mine[:16]}… here, {seen[:16]}… read, {back[:16]}… written back"
            )
            click.echo(f"counter after {COUNTS} increments by each of two processes: {total}")
            if not mine == seen == back or total != 2 * COUNTS or other.returncode:
                raise click.ClickException("they differ")
            with context.attach(target.descriptor) as remote:
                Console().print(_table(remote, context.fabric))
