"""Claim: an op on a buffer that the registration cache has costs less. Usage: cache.py [options]

For verbs, so in a guest where this host has no device:

    ci/softroce -- .venv/bin/python bench/cache.py

Two contexts, with the cache and without it, read the same memory into the same array in turns.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np

import dsmem

SECRET = b"the secret of the benches"


def seconds(remote, out, ops):
    start = time.perf_counter()
    for _ in range(ops):
        remote.read(0, out)
    return (time.perf_counter() - start) / ops


def figures(owner, ways, nbytes, ops, rounds):
    found = {name: [] for name in ways}
    out = np.ones(nbytes, "u1")
    with owner.allocate(nbytes) as region:
        remotes = {name: context.attach(region.descriptor) for name, context in ways.items()}
        for remote in remotes.values():
            seconds(remote, out, 1)
        for _ in range(rounds):
            for name, remote in remotes.items():
                found[name].append(seconds(remote, out, ops))
        for remote in remotes.values():
            remote.close()
    us = {name: statistics.median(times) * 1e6 for name, times in found.items()}
    ratios = [a / b for a, b in zip(found["without"], found["with"], strict=True)]
    return {"nbytes": nbytes, **{f"{name}_us": t for name, t in us.items()}, "gain": statistics.median(ratios)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fabric", default="verbs")
    parser.add_argument("--ops", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    named = {"secret": SECRET, "listen": "127.0.0.1"}
    with (
        dsmem.Context(given.fabric, **named) as owner,
        dsmem.Context(given.fabric, **named) as cached,
        dsmem.Context(given.fabric, registration_cache=0, **named) as plain,
    ):
        device = owner.capabilities.device
        rows = [
            figures(owner, {"with": cached, "without": plain}, n << 10, max(1, given.ops * 16 // n), given.rounds)
            for n in (16, 64, 256, 1024)
        ]
    for row in rows:
        each = [f"{row[name + '_us']:.1f} us {name} the cache" for name in ("with", "without")]
        print(f"{row['nbytes'] >> 10} KiB: {', '.join(each)}, x{row['gain']:.2f}")
    if given.json:
        machine = {"device": device, "kernel": platform.release(), "python": platform.python_version()}
        given.json.write_text(json.dumps({"machine": machine, "figures": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
