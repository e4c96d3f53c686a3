"""Claim: registering many buffers in one call costs far less than one by one. Usage: registration.py [options]

For verbs (shm has nothing to register), so in a guest where this host has no device:

    ci/softroce -- .venv/bin/python bench/registration.py

Two layouts: neighbouring buffers, which touch, so that one call makes one registration of them all; and scattered ones,
with a gap of a page after each, which get a registration each, because a shared one would open the gaps too. So what
scattered buffers gain by one call is the gain of calling once; the rest of what neighbours gain is that of sharing.
The ways take turns, over the same memory.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import dsmem
from dsmem.testing.control import keys_of

NBYTES = 4096
TARGET = 10.0
SECRET = b"the secret of the benches"


def buffers(layout, count):
    step = NBYTES * (1 if layout == "neighbouring" else 2)
    memory = np.zeros(count * step + NBYTES, np.uint8)
    memory[:] = 1  # so that no page is made while the clock runs
    start = -memory.ctypes.data % NBYTES
    return [memory[at : at + NBYTES] for at in range(start, start + count * step, step)]


def one_by_one(context, chosen):
    return [context.register(b, "rw") for b in chosen]


def one_call(context, chosen):
    return context.register_many(chosen, "rw")


def measure(context, way, chosen):
    """Seconds to register, seconds to close again, registrations with the device."""
    start = time.perf_counter()
    regions = way(context, chosen)
    made = time.perf_counter()
    keys = len(set(keys_of(regions, SECRET)))
    begin = time.perf_counter()
    for region in regions:
        region.close()
    return made - start, time.perf_counter() - begin, keys


def figures(context, layout, count, rounds):
    chosen = buffers(layout, count)
    taken = {way: [] for way in (one_by_one, one_call)}
    for _ in range(rounds):
        for way, found in taken.items():
            found.append(measure(context, way, chosen))
    figure = {"layout": layout, "buffers": count, "nbytes": NBYTES, "rounds": rounds, "target": TARGET}
    for way, found in taken.items():
        figure[way.__name__] = {
            "register_us": statistics.median(f[0] for f in found) / count * 1e6,
            "close_us": statistics.median(f[1] for f in found) / count * 1e6,
            "registrations": found[0][2],
        }
    figure["ratio"] = figure["one_by_one"]["register_us"] / figure["one_call"]["register_us"]
    return figure


def table(found):
    rows = [("buffers", "way", "registrations", "register µs each", "close µs each", "one call gains")]
    for f in found:
        for way in ("one_by_one", "one_call"):
            gain = f"×{f['ratio']:.1f}" if way == "one_call" else ""
            name = f"{f['buffers']} {f['layout']}"
            costs = f[way]
            cells = (str(costs["registrations"]), f"{costs['register_us']:.1f}", f"{costs['close_us']:.1f}", gain)
            rows.append((name, way.replace("_", " "), *cells))
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def git(*command):
    done = subprocess.run(["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fabric", default="verbs")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with dsmem.Context(arguments.fabric, secret=SECRET) as context:
        layouts = ("neighbouring", "scattered")
        found = [figures(context, layout, arguments.count, arguments.rounds) for layout in layouts]
        machine = {
            "fabric": context.fabric,
            "device": context.capabilities.device,
            "kernel": platform.release(),
            "python": platform.python_version(),
        }
    print(", ".join(f"{k} {v}" for k, v in machine.items()))
    print(table(found))
    if arguments.json:
        commit = {"id": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
        arguments.json.write_text(json.dumps({"commit": commit, "machine": machine, "figures": found}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
