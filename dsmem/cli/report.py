"""What ``dsmem bench`` shows: tables with perftest's columns, one JSON document, a plot, a progress bar."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

import dsmem

SCHEMA = 1
MB = 1 << 20  # as perftest counts them

LATENCY = (
    "#bytes",
    "#iterations",
    "t_min[usec]",
    "t_max[usec]",
    "t_typical[usec]",
    "t_avg[usec]",
    "t_stdev[usec]",
    "99% percentile[usec]",
    "99.9% percentile[usec]",
)
BANDWIDTH = ("#bytes", "#iterations", "BW peak[MB/sec]", "BW average[MB/sec]", "MsgRate[Mpps]")
_WIDTH = 11  # of the two first columns, at least


# ---- text ----


def _line(names: tuple[str, ...], cells: tuple[str, ...]) -> str:
    return "  ".join(
        cell.rjust(max(len(name), _WIDTH if i < 2 else 0))
        for i, (name, cell) in enumerate(zip(names, cells, strict=True))
    )


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value >= 10 else f"{value:.3f}"


def latency_line(row: dict[str, Any]) -> str:
    """A row under LATENCY."""
    t = row["latency_us"]
    times = (t["min"], t["max"], t["median"], t["mean"], t["stdev"], t["p99"], t["p99.9"])
    return _line(LATENCY, (str(row["bytes"]), str(row["iterations"]), *map(_us, times)))


def bandwidth_line(row: dict[str, Any]) -> str:
    """A row under BANDWIDTH."""
    b = row["bandwidth"]
    peak, average = b["peak_bytes_per_s"] / MB, b["average_bytes_per_s"] / MB
    cells = (f"{peak:.2f}", f"{average:.2f}", f"{b['ops_per_s'] / 1e6:.6f}")
    return _line(BANDWIDTH, (str(row["bytes"]), str(row["iterations"] * row["ops_per_call"]), *cells))


def _title(op: str, rows: list[dict[str, Any]]) -> str:
    depths = sorted({row["ops_per_call"] for row in rows})
    if depths == [1]:
        return f"{op}, one at a time"
    many = str(depths[0]) if len(depths) == 1 else f"{depths[0]} to {depths[-1]}"
    kinds = " (read, write, fetch-add, compare-swap in turn)" if op == "batch" else ""
    return f"{op}, {many} ops per call{kinds}"


def tables(op: str, rows: list[dict[str, Any]], latency: bool, bandwidth: bool) -> Iterator[str]:
    """The lines for all rows of one op."""
    yield f"---- {_title(op, rows)}"
    if latency:
        yield _line(LATENCY, LATENCY)
        yield from map(latency_line, rows)
    if bandwidth:
        yield _line(BANDWIDTH, BANDWIDTH)
        yield from map(bandwidth_line, rows)
    yield ""


def head(document: dict[str, Any]) -> Iterator[str]:
    """What stands above the tables."""
    can, owner, over = document["capabilities"], document["owner"], document["overhead_ns"]
    yield f"dsmem bench {document['versions']['dsmem']}, fabric {document['fabric']}, owner at {owner['address']}"
    if can["device"]:
        gid = f"GID {can['gid_index']} {can['gid']}" if can["is_roce"] else "LID addressing"
        yield f"device {can['device']}, port {can['port']}, {gid}, MTU {can['mtu']}"
    yield (
        f"measured from Python; in the figures and not subtracted: the clock, {over['clock']:.0f} ns a sample, "
        f"and the loop, {over['loop']:.0f} ns a call"
    )
    yield ""


def foot(document: dict[str, Any]) -> Iterator[str]:
    """What must be known to read the tables."""
    blocks = [row["calls_per_sample"] for row in document["rows"]]
    if max(blocks) > 1:
        yield f"Short calls were timed in blocks, of up to {max(blocks)}: t_ and percentiles are of means over a block."
    if any(row["latency_us"]["p99.9"] is None for row in document["rows"]):
        yield "-: too few samples (100 for the 99% percentile, 1000 for the 99.9%); -n or -D gives more."
    yield "Times are per call, rates count each op of a call; MB are 2^20 bytes, as in perftest."


# ---- JSON ----


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def document(context: dsmem.Context, owner: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """All but overhead_ns and rows, which are measured."""
    return {
        "schema": SCHEMA,
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {"dsmem": dsmem.__version__, "python": platform.python_version(), "numpy": np.__version__},
        "machine": {"kernel": platform.release(), "cpu": _cpu(), "cpus": len(os.sched_getaffinity(0))},
        "fabric": context.fabric,
        "capabilities": context.capabilities._asdict(),
        "owner": owner,
        "parameters": parameters,
    }


# ---- plot ----


def need_matplotlib() -> None:
    """Say so before anything is measured.

    Raises
    ------
    click.ClickException
        It is not there.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise click.ClickException("--plot needs matplotlib; run: pip install matplotlib") from None


def _short(nbytes: int) -> str:
    for power, letter in ((20, "M"), (10, "K")):
        if nbytes >= 1 << power and nbytes % (1 << power) == 0:
            return f"{nbytes >> power}{letter}"
    return str(nbytes)


def plot(document: dict[str, Any], path: Path) -> None:
    """Latency and bandwidth over sizes, as a picture of matplotlib's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for op in dict.fromkeys(row["op"] for row in document["rows"]):
        rows = [row for row in document["rows"] if row["op"] == op]
        n = max(row["ops_per_call"] for row in rows)
        sizes = [row["bytes"] for row in rows]
        label = op if n == 1 else f"{op} × {n}"
        (line,) = left.plot(sizes, [row["latency_us"]["median"] for row in rows], "o-", ms=3, label=label)
        tails = [row["latency_us"]["p99"] for row in rows]
        if None not in tails:
            left.plot(sizes, tails, ":", color=line.get_color(), lw=1)
        right.plot(sizes, [row["bandwidth"]["average_bytes_per_s"] / 1e9 for row in rows], "o-", ms=3, label=label)
    left.set(title="time of a call: median, and 99% dotted", ylabel="µs")
    right.set(title="bandwidth", ylabel="GB/s")
    ticks = sorted({row["bytes"] for row in document["rows"]})
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="bytes of an op")
        axes.set_xticks(ticks, [_short(n) for n in ticks], fontsize="small")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.legend(fontsize="small")
    figure.suptitle(f"dsmem {document['versions']['dsmem']} on {document['fabric']}")
    figure.savefig(path, dpi=150)


# ---- progress ----


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[str, int], None]]:
    """A bar on a terminal, and nothing elsewhere.

    Yields
    ------
    callable
        Takes what is being measured, and how many rows are done with it.
    """
    if not sys.stderr.isatty():
        yield lambda text, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Redrawn between rows only: a thread that draws would be measured with them.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=total)

        def show(text: str, done: int) -> None:
            bar.update(task, description=text, completed=done, refresh=True)

        yield show
