"""Hot paths of two built trees, turn by turn on one processor: what a change costs.

Usage: duel.py BEFORE AFTER [NAME…] [--rounds 400]   trees with a .venv and a built core; NAME is part of a case's

The clock of a virtual processor moves by a factor of two within seconds, so figures of two runs say little. Here two
processes take turns of half a millisecond on one processor, and what is told is the median of the ratios of
neighbouring turns.
"""

import argparse
import statistics
import subprocess
import sys

MEMORY = """
c = dsmem.Context(fabric="shm")
m = c.allocate(1 << 20)
r = c.attach(m.descriptor)
b8, out, offsets = bytearray(8), bytearray(512), np.arange(64, dtype="u8") * 8
page = memoryview(mmap.mmap(-1, 4096))  # where buffers lie in a page matters to a copy
"""
SEGMENT = """
c = dsmem.connect(f"duel-{os.getpid()}")
s = c.segment("bytes", 1 << 20, "u1", create=True, lifetime="creator")
w = c.segment("words", 16, "u8", create=True, lifetime="creator")
p = np.frombuffer(mmap.mmap(-1, 1 << 16), "u1")
b8, page = p[2048:2056], p[10240:14336]
"""
QUEUE = """
c = dsmem.connect(f"duel-{os.getpid()}")
q = c.queue("q", create=True, lifetime="creator")
m8, m64, m1k = bytes(8), bytes(64), bytes(1024)
l = [m8] * 100
q.put(m8)
q.get()
"""
SYNC = """
c = dsmem.connect(f"duel-{os.getpid()}")
l = c.lock("l", create=True, lifetime="creator")
s = c.semaphore("s", 1, create=True, lifetime="creator")
e = c.event("e", create=True, lifetime="creator")
"""
CASES = {
    "read 8 B": (MEMORY, "r.read(0, b8)"),
    "write 8 B": (MEMORY, "r.write(0, b8)"),
    "read 4 KiB": (MEMORY, "r.read(0, page)"),
    "write 4 KiB": (MEMORY, "r.write(0, page)"),
    "fetch_add": (MEMORY, "r.fetch_add(0, 1)"),
    "compare_swap": (MEMORY, "r.compare_swap(0, 0, 0)"),
    "read_many 64 x 8 B": (MEMORY, "r.read_many(offsets, out)"),
    "write_many 64 x 8 B": (MEMORY, "r.write_many(offsets, out)"),
    "batch of 64": (MEMORY, "with c.batch() as b:\n for i in range(32): b.read(r, 0, b8); b.write(r, 8, b8)"),
    "attach": (MEMORY, "c.attach(m.descriptor).close()"),
    "segment read 8 B": (SEGMENT, "s.read(slice(0, 8), out=b8)"),
    "segment write 8 B": (SEGMENT, "s.write(slice(0, 8), b8)"),
    "segment read 4 KiB": (SEGMENT, "s.read(slice(0, 4096), out=page)"),
    "segment fetch_add": (SEGMENT, "w.fetch_add(0, 1)"),
    "put and get 8 B": (QUEUE, "q.put(m8); q.get()"),
    "put and get 64 B": (QUEUE, "q.put(m64); q.get()"),
    "put and get 1 KiB": (QUEUE, "q.put(m1k); q.get()"),
    "lists of 100": (QUEUE, "q.put_many(l); q.get_many()"),
    "lock": (SYNC, "l.acquire(); l.release()"),
    "semaphore": (SYNC, "s.acquire(); s.release()"),
    "event": (SYNC, "e.set(); e.is_set(); e.clear()"),
}
CHILD = """
import mmap, os, sys, timeit
sys.path.insert(0, sys.argv[1])
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
import numpy as np
import dsmem
names = {"mmap": mmap, "os": os, "np": np, "dsmem": dsmem}
exec(sys.argv[2], names)
timer, n = timeit.Timer(sys.argv[3], globals=names), 1
while timer.timeit(n) < 0.0004:
    n *= 2
print(n, flush=True)
for line in sys.stdin:
    n = int(line)
    timer.timeit(n // 10 + 1)
    print(timer.timeit(n) / n, flush=True)
"""


def contestant(tree, setup, statement):
    command = [f"{tree}/.venv/bin/python", "-c", CHILD, tree, setup, statement]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    number = child.stdout.readline()
    return child, int(number) if number else sys.exit(f"{tree} cannot run {statement!r}")


def turn(child, number):
    child.stdin.write(f"{number}\n")
    return float(child.stdout.readline())


def duel(before, after, setup, statement, rounds):
    (a, na), (b, nb) = (contestant(tree, setup, statement) for tree in (before, after))
    with a, b:
        pairs = []
        for i in range(rounds):
            order = (a, b) if i % 2 else (b, a)
            times = {child: turn(child, min(na, nb)) for child in order}
            pairs.append((times[a], times[b]))
    return pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rounds", type=int, default=400)
    options = parser.parse_args()
    print(f"{'ns a call':22}{'before':>10}{'after':>10}{'ratio':>8}{'quartiles':>16}")
    for name, case in CASES.items():
        if options.names and not any(part in name for part in options.names):
            continue
        pairs = duel(options.before, options.after, *case, options.rounds)
        ratios = sorted(b / a for a, b in pairs)
        low, middle, high = statistics.quantiles(ratios, n=4)
        was, now = (statistics.median(column) * 1e9 for column in zip(*pairs, strict=True))
        print(f"{name:22}{was:10.1f}{now:10.1f}{middle:8.3f}{low:9.3f} {high:.3f}", flush=True)


if __name__ == "__main__":
    main()
