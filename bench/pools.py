"""Claim: 10 000 regions from a pool are allocated, described and attached in at most 20 ms. Usage: pools.py [options]

Two ways, which take turns: a pool with the calls for many, and regions one by one, each with a handle, a descriptor and
an attach of its own. Of these there are fewer, since each has a file descriptor; the figure is the time for as many.
Owner and user are two contexts of one process. "first use" is reading one byte of each region that was attached.
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

TARGET_MS = 20.0
SECRET = b"the secret of the benches"


def pooled(owner, user, count, nbytes):
    """Seconds to allocate with descriptors, to attach, and to read a byte of each."""
    sizes, numbers, out = np.full(count, nbytes), np.arange(count), np.empty(count, "u1")
    with owner.pool(count * nbytes) as pool:
        start = time.perf_counter()
        regions = pool.allocate_many(sizes)
        allocated = time.perf_counter()
        with user.attach_many(regions) as remotes:
            attached = time.perf_counter()
            remotes.read_many(numbers, 0, out)
            used = time.perf_counter()
        pool.free_many(regions)
    return allocated - start, attached - allocated, used - attached


def one_by_one(owner, user, count, nbytes):
    out = bytearray(1)
    start = time.perf_counter()
    regions = [owner.allocate(nbytes) for _ in range(count)]
    descriptors = [bytes(region.descriptor) for region in regions]
    allocated = time.perf_counter()
    remotes = [user.attach(descriptor) for descriptor in descriptors]
    attached = time.perf_counter()
    for remote in remotes:
        remote.read(0, out)
    used = time.perf_counter()
    for handle in remotes + regions:
        handle.close()
    return allocated - start, attached - allocated, used - attached


def summary(times, count, nominal):
    """Medians in ms, scaled to the nominal number of regions."""
    scale = nominal / count * 1e3
    figure = {
        name: statistics.median(each[i] for each in times) * scale
        for i, name in enumerate(("allocate_ms", "attach_ms", "first_use_ms"))
    }
    both = [(each[0] + each[1]) * scale for each in times]
    return {"measured": count, **figure, "both_ms": statistics.median(both), "both_least_ms": min(both)}


def git(*command):
    done = subprocess.run(["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fabric", default="shm")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--single", type=int, default=200, help="how many one by one")
    parser.add_argument("--nbytes", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    ways = {"pool": (pooled, arguments.count), "one by one": (one_by_one, arguments.single)}
    found = {name: [] for name in ways}
    with (
        dsmem.Context(arguments.fabric, secret=SECRET) as owner,
        dsmem.Context(arguments.fabric, secret=SECRET) as user,
    ):
        for _ in range(arguments.rounds + 1):
            for name, (way, count) in ways.items():
                found[name].append(way(owner, user, count, arguments.nbytes))
        machine = {"fabric": owner.fabric, "kernel": platform.release(), "python": platform.python_version()}
    figures = {
        "regions": arguments.count,
        "nbytes": arguments.nbytes,
        "rounds": arguments.rounds,
        "target_ms": TARGET_MS,
        # the first round connects
        "ways": {name: summary(times[1:], ways[name][1], arguments.count) for name, times in found.items()},
    }
    print(", ".join(f"{k} {v}" for k, v in machine.items()))
    print(f"{arguments.count} regions of {arguments.nbytes} bytes, median of {arguments.rounds} rounds, ms")
    for name, way in figures["ways"].items():
        print(
            f"{name:>10}: " + ", ".join(f"{k.removesuffix('_ms')} {v:.1f}" for k, v in way.items() if k != "measured")
        )
    if arguments.json:
        commit = {"id": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
        text = json.dumps({"commit": commit, "machine": machine, "figures": figures}, indent=2)
        arguments.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
