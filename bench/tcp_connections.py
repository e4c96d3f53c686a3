"""Claim: an owner over tcp serves many peers, and one that is slow, dies or is evicted costs the others nothing.

Usage: tcp_connections.py [options]. A program in C (tcp_connections.c) has 1, 8, 64 or 512 connections to one owner,
each with one read of 8 bytes under way. Beside 8 of them a peer asks for megabytes and does not read them. The time
from the kill of an owner to the end of the last of 64 ops that it has not answered, and that of dsm_fence() for a peer
whose reads are under way.
"""

import argparse
import asyncio
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tcp

import dsmem

HERE = Path(__file__).parent
SECRET = "0123456789abcdef" * 4  # a key: the core gets it as it is, from Python and from C
COUNTS = 1, 8, 64, 512
OPS = 20000


def owner():
    command = [sys.executable, "-c", tcp.OWNER, str(max(os.sched_getaffinity(0))), "beside", SECRET]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def compile_program(folder):
    program = Path(folder, "tcp_connections")
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-pthread", "-DDSM_HAVE_VERBS=1", f"-I{HERE.parent / 'csrc'}"]
    sources = [HERE / "tcp_connections.c", *sorted((HERE.parent / "csrc").rglob("*.c"))]
    subprocess.run(["gcc", *flags, *sources, "-ldl", "-lrt", "-o", program], check=True)
    return program


class Connections:
    def __init__(self, program, descriptor, number):
        command, environment = [program, descriptor, str(number)], os.environ | {"DSMEM_SECRET": SECRET}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, **pipes, env=environment)
        self.ask("idle")

    def ask(self, line):
        print(line, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().split()

    def measure(self):
        """Ops a second; the median and the 99th percentile of an op, in µs."""
        self.ask(OPS // 10)
        seconds, middle, late = map(float, self.ask(OPS))
        return OPS / seconds, middle, late

    def close(self):
        self.process.communicate()


def kibibytes(process):
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def rates(program, options):
    """Rounds over the numbers of connections, one owner for all."""
    process, descriptor = owner()
    rounds = {number: [] for number in COUNTS}
    idle = {}
    for _ in range(options.rounds):
        for number in COUNTS:
            before = kibibytes(process)
            peers = Connections(program, descriptor, number)
            idle.setdefault(number, (kibibytes(process) - before) / number)
            rounds[number].append(peers.measure())
            peers.close()
    process.communicate()
    middles = {
        number: [statistics.median(column) for column in zip(*each, strict=True)] for number, each in rounds.items()
    }
    return [
        {"connections": n, "ops_per_s": rate, "p50_us": p50, "p99_us": p99, "idle_kib": idle[n]}
        for n, (rate, p50, p99) in middles.items()
    ]


SLOW = """
import socket, sys, threading, time
import numpy as np, dsmem
context = dsmem.Context("tcp", listen="127.0.0.1", secret=sys.argv[2].encode(), peer_timeout=600)
with context, context.attach(bytes.fromhex(sys.argv[1])) as remote:
    remote.read(0, bytearray(8))
    batch = np.empty(4 << 20, "u1")
    import asyncio
    async def ask():
        tasks = [asyncio.ensure_future(remote.read_async(0, batch)) for _ in range(8)]
        await asyncio.sleep(0)
        print("asked", flush=True)
        time.sleep(3600)  # the loop, which alone would read the answers
    asyncio.run(ask())
"""


def beside_a_slow_one(program, options):
    """The 99th percentile of 8 connections, alone and while a peer takes nothing of what it has asked for."""
    process, descriptor = owner()
    alone, beside = [], []
    for _ in range(options.rounds):
        peers = Connections(program, descriptor, 8)
        alone.append(peers.measure()[2])
        slow = subprocess.Popen([sys.executable, "-c", SLOW, descriptor, SECRET], stdout=subprocess.PIPE, text=True)
        slow.stdout.readline()
        beside.append(peers.measure()[2])
        slow.kill()
        slow.communicate()
        peers.close()
    process.communicate()
    return {"alone_p99_us": statistics.median(alone), "beside_p99_us": statistics.median(beside)}


def context():
    return dsmem.Context("tcp", listen="127.0.0.1", secret=SECRET.encode())


def stats_of(process):
    return Path(f"/proc/{process.pid}/task").glob("*/stat")


async def end_of_all(remote, process):
    """Seconds from the kill to the end of 64 reads, which all fail."""
    process.send_signal(signal.SIGSTOP)  # then it answers nothing more
    while not all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats_of(process)):
        time.sleep(0.001)
    reads = [asyncio.ensure_future(remote.read_async(8 * i, bytearray(8))) for i in range(64)]
    await asyncio.sleep(0.05)
    assert not any(read.done() for read in reads)
    start = time.perf_counter()
    process.kill()
    said = await asyncio.gather(*reads, return_exceptions=True)
    took = time.perf_counter() - start
    assert all(isinstance(each, dsmem.errors.PeerDeadError) for each in said), said
    return took


def killed(options):
    times = []
    for _ in range(options.deaths):
        process, descriptor = owner()
        with context() as own, own.attach(bytes.fromhex(descriptor)) as remote:
            remote.read(0, bytearray(8))
            times.append(asyncio.run(end_of_all(remote, process)))
        process.communicate()
    return {"median_ms": statistics.median(times) * 1e3, "worst_ms": max(times) * 1e3}


def evicted(program, options):
    process, descriptor = owner()
    peer = Connections(program, descriptor, 1)
    times = [float(peer.ask("fence")[0]) for _ in range(options.deaths)]
    peer.close()
    process.communicate()
    return {"median_ms": statistics.median(times) * 1e3, "worst_ms": max(times) * 1e3}


def show(result):
    lines = [
        "| connections | ops/s | p50 µs | p99 µs | KiB of the owner's for one that is idle |",
        "|---|---|---|---|---|",
    ]
    for rate in result["rates"]:
        lines.append(
            "| {connections} | {ops_per_s:,.0f} | {p50_us:.3g} | {p99_us:.3g} | {idle_kib:.3g} |".format(**rate)
        )
    slow = result["slow"]
    lines.append(f"\np99 of 8 connections: {slow['alone_p99_us']:.3g} µs")
    lines.append(f"beside one that does not read its replies: {slow['beside_p99_us']:.3g} µs")
    for what in ("killed", "evicted"):
        lines.append(f"{what}: median {result[what]['median_ms']:.2f} ms, worst {result[what]['worst_ms']:.2f} ms")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--deaths", type=int, default=20)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        program = compile_program(folder)
        result = {
            "about": tcp.about(),
            "rounds": options.rounds,
            "rates": rates(program, options),
            "slow": beside_a_slow_one(program, options),
            "killed": killed(options),
            "evicted": evicted(program, options),
        }
    print(show(result))
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
