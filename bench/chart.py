"""Draws docs/performance.svg and docs/recovery.svg from bench/results. Usage: chart.py [FOLDER]

The figures are the medians of the runs that are kept; the heading names the commit and the machine they are of. No
module but Python's own is needed.
"""

import json
import math
import statistics
import sys
from pathlib import Path
from xml.sax.saxutils import escape

RESULTS = Path(__file__).parent / "results"
PANELS = [  # title; result, figure and note; contestants
    (
        "Read 8 bytes of another process's memory, µs",
        ("shm", "read 8 B", "shorter is better"),
        {"dsmem": "dsmem", "memoryview": "memoryview", "numpy": "NumPy view", "mpi4py": "mpi4py window"},
    ),
    (
        "Messages of 8 bytes from one process to another, million/s",
        ("queue_rate", "put, get of 8 B", "longer is better"),
        {
            "dsmem": "dsmem queue",
            "pyzmq": "pyzmq",
            "mqueue": "POSIX mqueue",
            "Pipe": "mp.Pipe",
            "faster-fifo": "faster-fifo",
            "iceoryx2": "iceoryx2",
            "mp.Queue": "mp.Queue",
        },
    ),
    (
        "Round trip of 8 bytes between two processes that poll, µs",
        ("queue_latency", "round trip of 8 B, polling", "shorter is better"),
        {"dsmem": "dsmem queue", "iceoryx2": "iceoryx2", "Pipe": "mp.Pipe", "pyzmq": "pyzmq"},
    ),
]
WIDTH, LEFT, BAR, ROW, BARS = 760, 130, 13, 19, 540  # pixels; BARS is the longest bar


def _text(x, y, text, **style):
    style = {"font-size": 12, "fill": "#24292f", **style}
    attributes = " ".join(f'{key}="{value}"' for key, value in style.items())
    return f'<text x="{x}" y="{y}" {attributes}>{escape(text)}</text>'


def result(name, results=RESULTS):
    return json.loads((Path(results) / f"{name}.json").read_text())


def figure(result, name):
    for bench in result["benchmarks"]:
        for found in bench["extra_info"].get("figures", ()):
            if found["name"] == name:
                return {peer: values["median"] for peer, values in found["of"].items()}
    raise KeyError(name)


def panel(y, title, note, medians, names):
    parts = [_text(12, y + 14, title, **{"font-weight": "bold"})]
    parts.append(_text(WIDTH - 12, y + 14, note, **{"text-anchor": "end", "fill": "#57606a", "font-size": 11}))
    most = max(medians[peer] for peer in names)
    y += 24
    for peer, name in names.items():
        length = max(1.0, medians[peer] / most * BARS)
        color = "#0969da" if peer == "dsmem" else "#8c959f"
        parts.append(_text(LEFT - 8, y + 11, name, **{"text-anchor": "end"}))
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{color}"/>')
        parts.append(_text(f"{LEFT + length + 6:.1f}", y + 11, f"{medians[peer]:.3g}"))
        y += ROW
    return parts, y + 10


def draw(results=RESULTS):
    parts, y, sources = [], 34, {}
    for title, (file, name, note), names in PANELS:
        kept = result(file, results)
        sources[kept["commit_info"]["id"][:8]] = kept["machine_info"]
        drawn, y = panel(y, title, note, figure(kept, name), names)
        parts += drawn
    commits, machine = ", ".join(sources), next(iter(sources.values()))
    source = (
        f"Python {machine['python']} on both sides, {machine['cpu']} ({machine['cores']} cores), "
        f"Linux {machine['kernel']}; medians; commit {commits}; docs/BENCHMARKS.md"
    )
    return whole(y, "Speed of dsmem and of others on shared memory", source, parts)


def whole(height, label, source, parts):
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" role="img">'
    )
    back = f'<rect width="{WIDTH}" height="{height}" rx="6" fill="#ffffff"/>'
    source = _text(12, 20, source, **{"font-size": 11, "fill": "#57606a"})
    return "\n".join([head, f"<title>{label}</title>", back, source, *parts, "</svg>\n"])


# ---- ops around a death ----

TALL, BELOW = 120, 34  # pixels, of a curve and of what stands under it


def line(y, title, rates, first, last):
    """One curve: ops a second of a client, from the first second to the last one; the death is at 0."""

    def across(at):
        return LEFT + (at - first) / (last - first) * (WIDTH - LEFT - 20)

    step, most = (last - first) / len(rates), max(rates)
    points = " ".join(
        f"{across(first + (i + 0.5) * step):.1f},{y + TALL - rate / most * TALL:.1f}" for i, rate in enumerate(rates)
    )
    parts = [
        _text(12, y - 8, title, **{"font-weight": "bold"}),
        f'<path d="M{LEFT} {y}V{y + TALL}H{across(last):.1f}" fill="none" stroke="#8c959f"/>',
        f'<path d="M{across(0):.1f} {y}V{y + TALL}" stroke="#cf222e" stroke-dasharray="4 3"/>',
        f'<polyline points="{points}" fill="none" stroke="#0969da" stroke-width="1.5"/>',
        _text(LEFT - 8, y + 10, f"{most:,.0f} op/s", **{"text-anchor": "end"}),
        _text(LEFT - 8, y + TALL, "0", **{"text-anchor": "end"}),
    ]
    for at in range(math.ceil(first), math.floor(last) + 1):
        parts.append(_text(f"{across(at):.1f}", y + TALL + 16, f"{at} s", **{"text-anchor": "middle"}))
    return parts


def draw_recovery(results=RESULTS):
    kept = result("store_recovery", results)
    axis, deaths = kept["curve"], next(iter(kept["by_lease"].values()))
    parts, y = [], 56
    for kind, what in (("primary", "the primary copy"), ("another", "the other copy")):
        each = [death["curve"] for death in deaths[kind]["samples"]]
        rates = [statistics.median(bins) / axis["step"] for bins in zip(*each, strict=True)]
        title = f"The node of {what} is killed at 0 s: a client that reads and writes ({len(each)} deaths, medians)"
        parts += line(y, title, rates, axis["from"], axis["to"])
        y += TALL + BELOW + 24
    machine = kept["machine"]
    source = (
        f"{kept['pages']:,} pages, two copies at {kept['nodes']} memory nodes of one host over tcp; "
        f"{machine['processors']} processors, Linux {machine['kernel']}; commit {kept['commit']['id'][:8]}"
    )
    return whole(y - 20, "Ops of a client around the death of a memory node", source, parts)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs"
    folder.joinpath("performance.svg").write_text(draw())
    folder.joinpath("recovery.svg").write_text(draw_recovery())
