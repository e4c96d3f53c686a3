"""Output of ``dsmem bench``: tables with perftest's columns, one JSON document, a plot, a progress bar."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

import dsmem

SCHEMA = 1
WIDE = 1000  # columns if there is no terminal: each title fits in one line, as in perftest
TICKS = 8  # greatest number of sizes on the axis of a plot
MB = 1 << 20  # bytes, as in perftest

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


# ---- text ----


def _narrow(name: str) -> str:
    """Split a title into two lines."""
    return name.replace("#iterations", "#iter-\nations").replace(" percentile", "").replace("[", "\n[")


def _columns(names: tuple[str, ...], rows: list[tuple[str, ...]], width: int) -> Iterator[str]:
    """Lines of a table, not wider than the terminal if its numbers are not."""
    if len("  ".join(names)) > width:
        names = tuple(map(_narrow, names))
    titles = [name.split("\n") for name in names]
    deep = max(map(len, titles))
    lines = [*zip(*(["", *title][-deep:] for title in titles), strict=True), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    gap = "  " if sum(widths) + 2 * len(widths) <= width else " "
    yield from (gap.join(cell.rjust(n) for cell, n in zip(line, widths, strict=True)) for line in lines)


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value >= 10 else f"{value:.3f}"


def latency_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a row for the columns LATENCY."""
    t = row["latency_us"]
    times = (t["min"], t["max"], t["median"], t["mean"], t["stdev"], t["p99"], t["p99.9"])
    return (str(row["bytes"]), str(row["iterations"]), *map(_us, times))


def bandwidth_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a row for the columns BANDWIDTH."""
    b = row["bandwidth"]
    peak, average = b["peak_bytes_per_s"] / MB, b["average_bytes_per_s"] / MB
    calls = row["iterations"] * row["ops_per_call"]
    return (str(row["bytes"]), str(calls), f"{peak:.2f}", f"{average:.2f}", f"{b['ops_per_s'] / 1e6:.6f}")


def _title(op: str, rows: list[dict[str, Any]]) -> str:
    depths = sorted({row["ops_per_call"] for row in rows})
    if depths == [1]:
        return f"{op}, one at a time"
    many = str(depths[0]) if len(depths) == 1 else f"{depths[0]} to {depths[-1]}"
    kinds = " (read, write, fetch-add, compare-swap in turn)" if op == "batch" else ""
    return f"{op}, {many} ops per call{kinds}"


def tables(op: str, rows: list[dict[str, Any]], latency: bool, bandwidth: bool, width: int = WIDE) -> Iterator[str]:
    """Yield the lines for all rows of one op, for a terminal of this width."""
    yield f"---- {_title(op, rows)}"
    if latency:
        yield from _columns(LATENCY, list(map(latency_cells, rows)), width)
    if bandwidth:
        yield from _columns(BANDWIDTH, list(map(bandwidth_cells, rows)), width)
    yield ""


def head(document: dict[str, Any]) -> Iterator[str]:
    """Yield the lines above the tables."""
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
    """Yield the notes below the tables."""
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


def _commit() -> str | None:
    """Commit of the repository that this runs from; None for an installed package."""
    root = Path(dsmem.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    with contextlib.suppress(OSError):
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    return None


def document(context: dsmem.Context, owner: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the document without overhead_ns and rows, which are measured later."""
    return {
        "schema": SCHEMA,
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "dsmem": dsmem.__version__,
            "commit": _commit(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "machine": {"kernel": platform.release(), "cpu": _cpu(), "cpus": len(os.sched_getaffinity(0))},
        "fabric": context.fabric,
        "capabilities": context.capabilities._asdict(),
        "owner": owner,
        "parameters": parameters,
    }


# ---- plot ----


def check_picture(path: Path) -> None:
    """Check that the file can be drawn, before anything is measured.

    Raises
    ------
    click.BadParameter
        The suffix is not that of a format, or the file can't be written.
    click.ClickException
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise click.ClickException("--plot needs matplotlib; run: pip install matplotlib") from None
    formats = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in formats:
        raise click.BadParameter(f"{str(path)!r} does not end in one of .{', .'.join(formats)}")
    there = path.exists()
    try:
        path.open("ab").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise click.BadParameter(f"{str(path)!r} can't be written: {error.strerror}") from None


def _short(nbytes: int) -> str:
    for power, letter in ((20, "M"), (10, "K")):
        if nbytes >= 1 << power and nbytes % (1 << power) == 0:
            return f"{nbytes >> power}{letter}"
    return str(nbytes)


def _caption(document: dict[str, Any]) -> str:
    machine, versions, can = document["machine"], document["versions"], document["capabilities"]
    commit = f" ({versions['commit']})" if versions["commit"] else ""
    device = f"device {can['device']}, " if can["device"] else ""
    return (
        f"{device}{machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']}\n"
        f"dsmem {versions['dsmem']}{commit}, Python {versions['python']}, {document['time']}"
    )


def _tails(rows: list[dict[str, Any]]) -> list[float]:
    """Return the 99% percentiles of the rows of an op, if they make a line."""
    tails = [row["latency_us"]["p99"] for row in rows]
    return tails if len(tails) > 1 and None not in tails else []


def picture(document: dict[str, Any]) -> Any:
    """Return a figure of matplotlib: latency and bandwidth over sizes, in the units of the tables."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines, has_tails = [], False
    for op in dict.fromkeys(row["op"] for row in document["rows"]):
        rows = [row for row in document["rows"] if row["op"] == op]
        fewest, most = (function(row["ops_per_call"] for row in rows) for function in (min, max))
        ops = f"{most}" if fewest == most else f"{fewest} to {most}"
        sizes = [row["bytes"] for row in rows]
        style: dict[str, Any] = {
            "label": op if most == 1 else f"{op} × {ops}",
            "marker": "o",
            "ms": 3,
            "ls": "-" if len(rows) > 1 else "none",  # no line in the legend for a single point
        }
        (line,) = left.plot(sizes, [row["latency_us"]["median"] for row in rows], **style)
        lines.append(line)
        if tails := _tails(rows):
            left.plot(sizes, tails, ":", color=line.get_color(), lw=1)
            has_tails = True
        right.plot(sizes, [row["bandwidth"]["average_bytes_per_s"] / MB for row in rows], **style)
    left.set(title="time of a call", ylabel="t_typical [usec]")
    right.set(title="bandwidth", ylabel="BW average [MB/sec]")
    sizes = sorted({row["bytes"] for row in document["rows"]})
    ticks = sizes[:: -(-len(sizes) // TICKS)]
    for axes in (left, right):
        axes.set(xlabel="bytes of an op", yscale="log")
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [_short(n) for n in ticks])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.tick_params(labelsize="small")
        axes.grid(alpha=0.3)
    if has_tails:
        lines.append(Line2D([], [], color="gray", ls=":", lw=1, label="99% percentile"))
    right.legend(handles=lines, fontsize="small", loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)
    figure.suptitle(f"dsmem bench, fabric {document['fabric']}")
    figure.supxlabel(_caption(document), fontsize="x-small", color="gray")
    return figure


def plot(document: dict[str, Any], path: Path) -> None:
    """Draw the figure and save it to a file."""
    picture(document).savefig(path, dpi=150)


def drawn(document: dict[str, Any], path: Path) -> str:
    """Say which file was written, and what the picture leaves out."""
    ops = dict.fromkeys(row["op"] for row in document["rows"])
    lacking = [op for op in ops if not _tails([row for row in document["rows"] if row["op"] == op])]
    why = f"; without the 99% percentiles of {', '.join(lacking)}: one size, or too few calls" if lacking else ""
    return f"wrote {path}{why}"


# ---- progress ----


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[str, int], None]]:
    """Show a progress bar if standard error is a terminal.

    Yields
    ------
    callable
        To be called with the text of what is being measured, and with how many rows are done.
    """
    if not sys.stderr.isatty():
        yield lambda text, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Redrawn between rows only: a thread that redraws would disturb the measurement.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=total)

        def show(text: str, done: int) -> None:
            bar.update(task, description=text, completed=done, refresh=True)

        yield show
