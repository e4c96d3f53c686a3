"""Claim: a page of 4 KiB is read in 0.2 µs and replaced in 0.45 µs from Python. Usage: store.py [options]

The contestants take turns of some milliseconds and use the same pages in the same order, chosen at random: of a few,
which fit into a cache, or of many, which do not. NumPy copies a page in an array of this process. memcpy is a loop in C
over such an array, the bound: no copy by the CPU is faster. In 1 GiB, where memory is slower than all else, a page may
take 1.15 times as long, and 0.1 µs. LMDB, if it is installed, has its file in
memory and never syncs, with a transaction for each call: all that it writes there takes effect together.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import memcpy
import nodes
import numpy as np

import dsmem

try:
    import lmdb
except ImportError:
    lmdb = None

SIZE, BATCH = 4096, 64
FEW, MANY, GIB = 256, 32768, 1 << 18
TARGETS_US = {"read": 0.2, "write": 0.45}
TARGETS_PAGES = {"write_many": 5e6}
TIMES, MORE_US = 1.15, 0.1  # of memcpy, in 1 GiB


def of_dsmem(store, pages, data, out):
    ids = store.allocate_many(pages)
    for first in range(0, pages, BATCH):
        store.write_many(ids[first : first + BATCH], data)
    plain, page, source = ids.tolist(), out[0], data[0]
    return {
        "read": lambda at: [store.read(plain[i], page) for i in at],
        "write": lambda at: [store.write(plain[i], source) for i in at],
        "version": lambda at: [store.version(plain[i]) for i in at],
        "read_many": lambda at: store.read_many(ids[at], out),
        "write_many": lambda at: store.write_many(ids[at], data),
    }


def of_numpy(pages, data, out):
    array, page, source = np.ones((pages, SIZE), "u1"), out[0], data[0]

    def read(at):
        for i in at:
            page[:] = array[i]

    def write(at):
        for i in at:
            array[i] = source

    return {"read": read, "write": write}


def of_memcpy(pages, data, out, copy):
    """Seconds inside the loop."""
    array = np.ones((pages, SIZE), "u1")
    offsets = np.empty(BATCH, "u8")

    def read(at):
        np.multiply(at, SIZE, out=offsets, casting="unsafe")
        return copy(out, None, array, offsets, SIZE, 1)

    def write(at):
        np.multiply(at, SIZE, out=offsets, casting="unsafe")
        return copy(array, offsets, data, None, SIZE, 1)

    return {"read_many": read, "write_many": write}


def of_lmdb(environment, pages, data):
    keys, value = [i.to_bytes(4, "big") for i in range(pages)], data[0].tobytes()

    def read(at):
        for i in at:
            with environment.begin() as transaction:
                transaction.get(keys[i])

    def write(at):
        for i in at:
            with environment.begin(write=True) as transaction:
                transaction.put(keys[i], value)

    def read_many(at):
        with environment.begin() as transaction:
            for i in at:
                transaction.get(keys[i])

    def write_many(at):
        with environment.begin(write=True) as transaction:
            for i in at:
                transaction.put(keys[i], value)

    for first in range(0, pages, BATCH):
        write_many(range(first, first + BATCH))
    return {"read": read, "write": write, "read_many": read_many, "write_many": write_many}


def seconds(call, batches):
    """Of one page. A call may say itself how long it took."""
    said, start = 0.0, time.perf_counter()
    for at in batches:
        own = call(at)
        said += own if isinstance(own, float) else 0.0
    return (said or time.perf_counter() - start) / (len(batches) * BATCH)


def measure(ways, pages, rounds, repeat, random):
    found = {}
    for _ in range(rounds + 1):
        batches = [random.integers(pages, size=BATCH) for _ in range(repeat)]
        lists = [at.tolist() for at in batches]
        for contestant, calls in ways.items():
            for name, call in calls.items():
                taken = seconds(call, batches if name.endswith("_many") and contestant != "lmdb" else lists)
                found.setdefault(name, {}).setdefault(contestant, []).append(taken)
    return {
        name: {
            contestant: {"median": statistics.median(times[1:]) * 1e6, "least": min(times[1:]) * 1e6}
            for contestant, times in of.items()
        }
        for name, of in found.items()
    }


def contestants(stack, cluster, pages, copy):
    data, out = np.ones((BATCH, SIZE), "u1"), np.empty((BATCH, SIZE), "u1")
    store = stack.enter_context(cluster.store("pages", lifetime="creator", capacity=pages * SIZE, create=True))
    ways = {
        "dsmem": of_dsmem(store, pages, data, out),
        "numpy": of_numpy(pages, data, out),
        "memcpy": of_memcpy(pages, data, out, copy),
    }
    if lmdb:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        options = {"map_size": 8 * pages * SIZE, "sync": False, "writemap": True, "metasync": False}
        ways["lmdb"] = of_lmdb(stack.enter_context(lmdb.open(folder, **options)), pages, data)
    return ways


def target_of(name, pages, figures):
    """µs of a page, or None."""
    if pages == GIB:
        copied = figures.get(f"{name}_many", {}).get("memcpy")
        return TIMES * copied["median"] + MORE_US if copied else None
    return TARGETS_US.get(name) or (1e6 / TARGETS_PAGES[name] if name in TARGETS_PAGES else None)


def say(pages, figures):
    print(f"{pages} pages of {SIZE} bytes, µs a page: median (least)")
    for name, of in figures.items():
        target = target_of(name, pages, figures)
        goal = f"   (goal {target:.2f})" if target else ""
        print(
            f"{name:>11}: "
            + ", ".join(f"{side} {us['median']:.3f} ({us['least']:.3f})" for side, us in of.items())
            + goal
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--repeat", type=int, default=20, help=f"batches of {BATCH} pages in a turn")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    random, figures = np.random.default_rng(1), {}
    with tempfile.TemporaryDirectory() as folder:
        copy = memcpy.build(folder)
        for pages in (FEW, MANY, GIB):
            with contextlib.ExitStack() as stack:
                cluster = stack.enter_context(dsmem.connect(stack.enter_context(nodes.own_name())))
                ways = contestants(stack, cluster, pages, copy)
                figures[pages] = measure(ways, pages, given.rounds, given.repeat, random)
            say(pages, figures[pages])
    if given.json:
        results = {**nodes.circumstances(), "rounds": given.rounds, "us_per_page": figures}
        text = json.dumps(results, indent=2)
        given.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
