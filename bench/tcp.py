"""Claim: an op over tcp costs little more than its bytes do on a bare socket. Usage: tcp.py [options]

Beside it in the same run: tcp_raw.c, a loop of send() and recv() in C on loopback, which looks all the time or sleeps.
The contestants take turns, round by round. "two cores": the caller on one, the owner's progress thread on the other,
awake, since the caller leaves it no time to fall asleep. "one core": both on one, where each sleeps while the other
works: an owner that may run on one processor only does not poll, and the caller has spin=0. The owner is another
process, whose Python sleeps.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import dsmem

HERE = Path(__file__).parent
SECRET = "the secret of the benches"
MIB = 1 << 20
OWNER = """
import os, sys
import dsmem
cpu, alone = int(sys.argv[1]), sys.argv[2] == "alone"
os.sched_setaffinity(0, os.sched_getaffinity(0) if alone else {cpu})
context = dsmem.Context("tcp", listen="127.0.0.1", secret=sys.argv[3].encode())
with context, context.allocate(8 << 20) as region:
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {cpu})
    print(bytes(region.descriptor).hex(), flush=True)
    sys.stdin.read()
"""
# name: (a call, its unit and how seconds become it, mode of tcp_raw)
SMALL = ("µs", lambda seconds: seconds * 1e6)
LARGE = ("GB/s", lambda seconds: MIB / seconds / 1e9)
OPS = {
    "read 8 B": (lambda r, of: r.read(8, of.b8), SMALL, 0),
    "write 8 B": (lambda r, of: r.write(8, of.b8), SMALL, 0),
    "fetch_add": (lambda r, of: r.fetch_add(8, 1), SMALL, 0),
    "compare_swap": (lambda r, of: r.compare_swap(0, 0, 0), SMALL, 0),
    "read_many 64 × 8 B": (lambda r, of: r.read_many(of.words, of.out), ("Mops/s", lambda s: 64 / s / 1e6), None),
    "write_many 64 × 8 B": (lambda r, of: r.write_many(of.words, of.out), ("Mops/s", lambda s: 64 / s / 1e6), None),
    "read_many 256 × 4 KiB": (lambda r, of: r.read_many(of.pages, of.mib), ("Mops/s", lambda s: 256 / s / 1e6), None),
    "write_many 256 × 4 KiB": (lambda r, of: r.write_many(of.pages, of.mib), ("Mops/s", lambda s: 256 / s / 1e6), None),
    "read 1 MiB": (lambda r, of: r.read(0, of.mib), LARGE, 2),
    "write 1 MiB": (lambda r, of: r.write(0, of.mib), LARGE, 4),
}
ONE_CORE = ("read 8 B", "fetch_add", "read 1 MiB")
LEAST = {"read_many 64 × 8 B": 3.0, "read_many 256 × 4 KiB": 1.0}


class Buffers:
    b8 = bytearray(8)
    words = np.arange(64, dtype="u8") * 8
    out = np.zeros(512, "u1")
    pages = np.arange(256, dtype="u8") * 4096
    mib = np.ones(MIB, "u1")  # written, so that it has pages of its own


class Dsmem:
    def __init__(self, cpu, owner_cpu):
        alone = "alone" if cpu != owner_cpu else "beside"
        command = [sys.executable, "-c", OWNER, str(owner_cpu), alone, SECRET]
        self.owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        descriptor = bytes.fromhex(self.owner.stdout.readline())
        self.context = dsmem.Context(
            "tcp", listen="127.0.0.1", secret=SECRET.encode(), spin=0 if cpu == owner_cpu else None
        )
        self.remote = self.context.attach(descriptor)
        self.cpu = cpu

    def time(self, op, number):
        os.sched_setaffinity(0, {self.cpu})
        remote, of = self.remote, Buffers
        for _ in range(number // 10 + 1):
            op(remote, of)
        start = time.perf_counter()
        for _ in range(number):
            op(remote, of)
        return (time.perf_counter() - start) / number

    def close(self):
        self.remote.close()
        self.context.close()
        self.owner.communicate()


class Raw:
    def __init__(self, program, cpu, owner_cpu):
        command = [program, str(cpu), str(owner_cpu)]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.sleeps = cpu == owner_cpu

    def time(self, mode, number):
        print(mode + self.sleeps, number, file=self.child.stdin, flush=True)
        return float(self.child.stdout.readline()) / number

    def close(self):
        self.child.communicate()


def compile_raw(folder):
    source, program = HERE / "tcp_raw.c", Path(folder, "tcp_raw")
    subprocess.run(["gcc", "-O2", "-std=gnu11", "-D_GNU_SOURCE", source, "-o", program], check=True)
    return program


def number_of(contestant, what, turn):
    """How many calls make up a turn of so many seconds."""
    return max(1, int(turn / contestant.time(what, 3)))


def measure(dsm, raw, name, options):
    """Seconds a call, by contestant: those of each round."""
    op, (_, _), mode = OPS[name]
    turns = [("dsmem", dsm, op)] + ([("socket", raw, mode)] if mode is not None else [])
    counts = {side: number_of(contestant, what, options.turn) for side, contestant, what in turns}
    times = {side: [] for side, _, _ in turns}
    for i in range(options.rounds):
        for side, contestant, what in turns if i % 2 else turns[::-1]:
            times[side].append(contestant.time(what, counts[side]))
    return times


def figure_of(name, cores, times):
    unit, convert = OPS[name][1]
    middle = {side: convert(statistics.median(each)) for side, each in times.items()}
    quartiles = {side: sorted(convert(q) for q in statistics.quantiles(each, n=4)[::2]) for side, each in times.items()}
    bare = middle.get("socket")
    target, met = None, None
    if bare is not None and unit == "µs":
        target, met = "≤ 1.15 × socket + 0.6 µs", middle["dsmem"] <= 1.15 * bare + 0.6
    elif bare is not None:
        target, met = "≥ 0.95 × socket", middle["dsmem"] >= 0.95 * bare
    elif name in LEAST:
        target, met = f"≥ {LEAST[name]:g}", middle["dsmem"] >= LEAST[name]
    return {
        "name": name, "cores": cores, "unit": unit, "target": target, "met": met,
        "of": {side: {"median": middle[side], "quartiles": quartiles[side]} for side in times},
    }  # fmt: skip


def show(figures):
    lines = ["| figure | cores | unit | dsmem | socket in C | target |", "|---|---|---|---|---|---|"]
    for each in figures:
        ours, bare = each["of"]["dsmem"]["median"], each["of"].get("socket", {}).get("median")
        verdict = "" if each["target"] is None else f"{each['target']}: {'met' if each['met'] else 'MISSED'}"
        other = "" if bare is None else f"{bare:.3g} (×{ours / bare:.2f})"
        lines.append(f"| {each['name']} | {each['cores']} | {each['unit']} | {ours:.3g} | {other} | {verdict} |")
    return "\n".join(lines)


def about():
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return {
        "commit": commit.stdout.strip(), "platform": platform.platform(), "python": platform.python_version(),
        "processors": os.cpu_count(), "load": os.getloadavg()[0], "fabric": "tcp over loopback",
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--turn", type=float, default=0.002, help="seconds")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--only", metavar="NAME", help="a part of a figure's name")
    options = parser.parse_args()
    if not shutil.which("gcc"):
        sys.exit("gcc compiles the contestant in C; install it")
    cpus = sorted(os.sched_getaffinity(0))
    pairs = [("two", cpus[0], cpus[-1])] if len(cpus) > 1 else []
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        program = compile_raw(folder)
        for cores, cpu, owner_cpu in [*pairs, ("one", cpus[-1], cpus[-1])]:
            os.sched_setaffinity(0, cpus)
            dsm, raw = Dsmem(cpu, owner_cpu), Raw(program, cpu, owner_cpu)
            for name in OPS if cores == "two" else ONE_CORE:
                if options.only is None or options.only in name:
                    figures.append(figure_of(name, cores, measure(dsm, raw, name, options)))
            raw.close()
            dsm.close()
    print(show(figures))
    if options.json:
        result = {"about": about(), "rounds": options.rounds, "turn": options.turn, "figures": figures}
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
