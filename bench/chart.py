"""Draws docs/performance.svg from bench/results. Usage: chart.py [FILE.svg]   (no module but Python's own is needed)

The figures are the medians of the runs that are kept; the heading names the commit and the machine they are of.
"""

import json
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
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" '
        'font-family="system-ui, sans-serif" role="img">'
    )
    label = "<title>Speed of dsmem and of others on shared memory</title>"
    back = f'<rect width="{WIDTH}" height="{y}" rx="6" fill="#ffffff"/>'
    return "\n".join(
        [head, label, back, _text(12, 20, source, **{"font-size": 11, "fill": "#57606a"}), *parts, "</svg>\n"]
    )


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs/performance.svg"
    target.write_text(draw())
