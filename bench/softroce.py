"""Claim: one-sided ops cost through dsmem what they cost on bare verbs; against perftest and pyverbs, side by side.

    ci/softroce --bench [--short]     in a guest with SoftRoCE, or on this host's device

runs softroce.py --core PROGRAM --out FILE.json [--short] [--commit TEXT]; softroce.py --table FILE.json prints a table.

Contestants take turns, a short run each, over and over, so that what disturbs one disturbs all. A figure is the median
over the rounds of what each run gave, which for latencies is the run's median. All processes spin and none sleeps; the
one that posts has the first core, the other side the last one. The C core, dsmem and pyverbs use the memory of one
process; perftest brings its own two.

Where they may, all run with a real-time priority. Without it the kernel's ksoftirqd takes the core from a reader
after every op or after none, for a long run of ops at a time, and reads cost 24 or 35 µs by its mood. In the guest
ksoftirqd has a higher one (tests/softroce/device.sh): once a slow machine has left packets to it, nothing else delivers
any, and spinners that it can't interrupt would wait for packets that it can't deliver.

No process spins forever: a run that takes longer than LIMIT_S ends its process, and with it the bench.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import dsmem

SECRET = "0123456789abcdef" * 4  # a key: the core gets it as it is, from Python and from C
MANY = 64
SPIN_S = 1.0
LIMIT_S = 60
BLOCK = 8
SMALL, LARGE = 8, 65536
PYTHON = os.environ.get("DSMEM_PYVERBS_PYTHON", "/usr/bin/python3")
MIB = 1 << 20


# Where both sides spin, the scheduler may put them on one core for a while, and then a time slice is measured.
FIRST, LAST = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))


def be_first():
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


@contextlib.contextmanager
def limited():
    """The signal ends this process. Those that it has started go with it: their standard input ends."""
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)


def pinned(core, command):
    return ["taskset", "-c", str(core), *map(str, command)]


class Program:
    """A process that answers each line with one line."""

    def __init__(self, core, *command):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        environment = {**os.environ, "DSMEM_SECRET": SECRET}
        self.process = subprocess.Popen(pinned(core, command), env=environment, **pipes)

    def tell(self, text):
        print(text, file=self.process.stdin, flush=True)

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} has ended; what it said stands above")
        return line.strip()

    def ask(self, text):
        self.tell(text)
        return self.answer()

    def times(self, text):
        """Seconds."""
        return [int(n) / 1e9 for n in self.ask(text).split()]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def latency(seconds):
    return statistics.median(seconds) * 1e6


def rate(seconds):
    """Thousands of ops a second, from the times of batches."""
    return MANY / statistics.median(seconds) / 1e3


# ---- contestants ----


class Core:
    """softroce_core.c: one process owns, another one uses."""

    def __init__(self, program, capabilities):
        command = [program, capabilities.device, capabilities.gid_index, int(SPIN_S * 1e9)]
        self.owner, self.user = Program(LAST, *command), Program(FIRST, *command)
        self.descriptor = self.owner.answer()
        self.owner.ask(f"attach {self.user.answer()}")
        self.user.ask(f"attach {self.descriptor}")
        for one, other in ((self.owner, self.user), (self.user, self.owner)):
            other.ask(f"outbox {one.ask('inbox')}")

    def single(self, op, n):
        return latency(self.user.times(f"{op} {n} {SMALL}"))

    def ping(self, n):
        self.owner.tell(f"pong {n}")
        half = latency(self.user.times(f"ping {n}"))
        self.owner.answer()
        return half

    def queues(self, n):
        self.owner.tell(f"queue_pong {n}")
        trip = latency(self.user.times(f"queue_ping {n}"))
        self.owner.answer()
        return trip

    def many(self, op, n):
        return rate(self.user.times(f"many {op} {n} {SMALL}"))

    def bandwidth(self, op, n):
        (spent,) = self.user.times(f"{op}_bw {n} {LARGE}")
        return n // MANY * MANY * LARGE / MIB / spent

    def close(self):
        self.user.close()
        self.owner.close()


def times_of(call, n, *arguments, block=1):
    """Seconds of n calls. Where they are short, the mean of each block: the clock costs as much as a part of a call."""
    clock, turns = time.perf_counter_ns, range(block)
    stamps = [clock()]
    for _ in range(n // block):
        for _ in turns:
            call(*arguments)
        stamps.append(clock())
    return [(b - a) / 1e9 / block for a, b in itertools.pairwise(stamps)]


def open_context():
    return dsmem.Context("verbs", secret=SECRET.encode(), listen="127.0.0.1", spin=SPIN_S)


class Player:
    """One side of a ping-pong: writes a word of the other's memory and spins on a word of its own, or puts a message
    into the other's queue and waits for one in its own."""

    def __init__(self):
        self.context = open_context()
        self.region = self.context.allocate(64)
        self.cluster = dsmem.connect(context=self.context)
        self.inbox = self.cluster.queue("inbox", create=True, capacity_bytes=LARGE, spin=SPIN_S)
        self.remote = self.outbox = None

    @property
    def address(self):
        return bytes(self.region.descriptor), self.inbox.ref

    def attach(self, address):
        descriptor, ref = address
        self.remote = self.context.attach(descriptor)
        self.outbox = dsmem.attach(ref, self.context)

    def queues(self, n, first):
        """Seconds of each round trip."""
        put, get, message = self.outbox.put, self.inbox.get, bytes(SMALL)
        clock, stamps = time.perf_counter_ns, [time.perf_counter_ns()]
        for _ in range(n):
            if first:
                put(message)
                get()
            else:
                get()
                put(message)
            stamps.append(clock())
        return [(b - a) / 1e9 for a, b in itertools.pairwise(stamps)]

    def words(self, n, first):
        """Seconds of each round trip."""
        write, value = self.remote.write, memoryview(bytearray(8)).cast("Q")
        with memoryview(self.region).cast("B").cast("Q") as mine:
            mine[0] = 0

            def ping(i):
                value[0] = i
                write(0, value)
                while mine[0] != i:
                    pass

            def pong(i):
                while mine[0] != i:
                    pass
                value[0] = i
                write(0, value)

            turn, clock = ping if first else pong, time.perf_counter_ns
            stamps = [clock()]
            for i in range(1, n + 1):
                turn(i)
                stamps.append(clock())
            return [(b - a) / 1e9 for a, b in itertools.pairwise(stamps)]

    def leave(self):
        """The other's queue; before it closes."""
        self.outbox.close()

    def close(self):
        self.inbox.close()
        self.cluster.close()
        self.context.close()


def pong_player(pipe, other_end):
    """Another process of the same interpreter, forked before anything of verbs is open."""
    other_end.close()  # so that the pipe ends with the process that has it
    pipe.recv()
    be_first()
    os.sched_setaffinity(0, {LAST})
    player = Player()
    pipe.send(player.address)
    player.attach(pipe.recv())
    for way, n in iter(pipe.recv, None):
        pipe.send("go")
        with limited():
            getattr(player, way)(n, first=False)
        pipe.send("done")
    player.leave()
    pipe.send("left")
    player.close()


class Python:
    """dsmem as its users have it."""

    def __init__(self, descriptor, pipe):
        os.sched_setaffinity(0, {FIRST})
        self.pipe = pipe
        self.player = Player()
        self.pipe.send("begin")
        self.player.attach(self.pipe.recv())
        self.pipe.send(self.player.address)
        self.context = open_context()
        self.remote = self.context.attach(descriptor)
        self.local = self.context.allocate(MANY * LARGE)
        self.word = bytearray(SMALL)
        self.words = np.zeros(MANY, np.uint64)
        self.offsets = 64 + np.arange(MANY, dtype=np.uint64) * SMALL
        self.large = 64 + np.arange(MANY, dtype=np.uint64) * LARGE

    def single(self, op, n):
        arguments = (64, 1) if op == "fetch_add" else (64, self.word)
        return latency(times_of(getattr(self.remote, op), n, *arguments, block=BLOCK))

    def _play(self, way, n):
        self.pipe.send((way, n))
        self.pipe.recv()
        seconds = getattr(self.player, way)(n, first=True)
        self.pipe.recv()
        return latency(seconds)

    def ping(self, n):
        return self._play("words", n) / 2

    def queues(self, n):
        return self._play("queues", n)

    def _count(self):
        remote, offsets = self.remote, range(64, 64 + MANY * SMALL, SMALL)
        with self.context.batch() as batch:
            add = batch.fetch_add
            for offset in offsets:
                add(remote, offset, 1)

    def many(self, op, n):
        if op == "fetch_add":
            return rate(times_of(self._count, n))
        return rate(times_of(getattr(self.remote, f"{op}_many"), n, self.offsets, self.words))

    def bandwidth(self, op, n):
        seconds = times_of(getattr(self.remote, f"{op}_many"), n // MANY, self.large, self.local)
        return MANY * LARGE / MIB / statistics.median(seconds)

    def close(self):
        self.player.leave()
        self.pipe.send(None)
        self.pipe.recv()
        self.context.close()
        self.player.close()


class Pyverbs:
    """softroce_pyverbs.py, with the Python that has pyverbs."""

    def __init__(self, descriptor, capabilities):
        script = Path(__file__).with_name("softroce_pyverbs.py")
        k = capabilities
        self.program = Program(FIRST, PYTHON, script, k.device, k.port, k.gid_index, descriptor)
        self.program.answer()

    def single(self, op, n):
        return latency(self.program.times(f"{op} {n} {SMALL}"))

    def many(self, op, n, form):
        return rate(self.program.times(f"{form} {op} {n} {SMALL}"))

    def close(self):
        self.program.close()


class Perftest:
    def __init__(self, capabilities):
        k = capabilities
        self.common = ["-d", k.device, "-i", str(k.port), "-x", str(k.gid_index), "-F"]
        self.port = 18600

    def _run(self, tool, n, *options):
        """The last line of the client's table, as numbers."""
        self.port += 1
        command = ["timeout", str(LIMIT_S), tool, *self.common, "-p", str(self.port), "-n", str(n), *options]
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(pinned(LAST, command), **quiet) as server:
            self._await_listener(server)
            client = subprocess.run(pinned(FIRST, [*command, "127.0.0.1"]), **quiet, check=False)
            server.communicate()
        rows = [line.split() for line in client.stdout.splitlines()]
        rows = [row for row in rows if row and row[0].isdigit()]
        if client.returncode or not rows:
            raise RuntimeError(f"{' '.join(command)} failed:\n{client.stdout}")
        return [float(cell) for cell in rows[-1]]

    def _await_listener(self, server):
        wanted = f":{self.port:04X}"
        while server.poll() is None:
            for table in ("/proc/net/tcp", "/proc/net/tcp6"):
                for line in Path(table).read_text().splitlines()[1:]:
                    cells = line.split()
                    if cells[1].endswith(wanted) and cells[3] == "0A":  # listening
                        return
            time.sleep(0.01)
        raise RuntimeError(f"{server.args} has ended: {server.stdout.read()}")

    def latency(self, tool, n):
        """t_typical, the median, in µs."""
        size = () if tool == "ib_atomic_lat" else ("-s", str(SMALL))
        return self._run(tool, n, *size)[4]

    def bandwidth(self, tool, n):
        """Average, in MiB/s, with perftest's own queue depth (128)."""
        return self._run(tool, n, "-s", str(LARGE))[3]

    def rate(self, tool, n):
        """Thousands of ops a second, posted in lists of MANY."""
        size = () if tool == "ib_atomic_bw" else ("-s", str(SMALL))
        return self._run(tool, n * MANY, *size, "-l", str(MANY))[4] * 1e3

    def close(self):
        pass


# ---- figures: name, unit, targets {contestant: (what it is compared with, bound of the ratio)}, contestants ----


def latencies(core, ours, pyverbs, perftest, n):
    targets = {"C core": ("perftest", 1.05), "dsmem": ("perftest", 1.25)}
    tools = {"read": "ib_read_lat", "fetch_add": "ib_atomic_lat"}
    for op in ("read", "write", "fetch_add"):
        of = {
            "C core": lambda op=op: core.single(op, n),
            "dsmem": lambda op=op: ours.single(op, n),
            "pyverbs": lambda op=op: pyverbs.single(op, n),
        }
        if op in tools:
            of = {"perftest": lambda op=op: perftest.latency(tools[op], n), **of}
        size = "8 B, until it is complete" if op == "write" else "" if op == "fetch_add" else "8 B"
        yield f"{op} {size}".strip(), "µs", targets if op in tools else {}, of
    yield (
        "write 8 B, half of a ping-pong",
        "µs",
        targets,
        {
            "perftest": lambda: perftest.latency("ib_write_lat", n),
            "C core": lambda: core.ping(n),
            "dsmem": lambda: ours.ping(n),
        },
    )


def rings(core, ours, perftest, n):
    yield (
        "message of 8 B to a queue and one back",
        "µs",
        {"C core": ("perftest", 2.3), "dsmem": ("perftest", 3.0)},
        {
            "perftest": lambda: perftest.latency("ib_write_lat", n),  # half of what two writes take
            "C core": lambda: core.queues(n),
            "dsmem": lambda: ours.queues(n),
        },
    )


def bandwidths(core, ours, perftest, n):
    for op in ("read", "write"):
        yield (
            f"{op} 64 KiB",
            "MiB/s",
            {"C core": ("perftest", 1.0)},
            {
                "perftest": lambda op=op: perftest.bandwidth(f"ib_{op}_bw", n),
                "C core": lambda op=op: core.bandwidth(op, n),
                "dsmem": lambda op=op: ours.bandwidth(op, n),
            },
        )


def rates(core, ours, pyverbs, perftest, n):
    tools = {"read": "ib_read_bw", "write": "ib_write_bw", "fetch_add": "ib_atomic_bw"}
    for op, tool in tools.items():
        yield (
            f"{MANY} × {op}{'' if op == 'fetch_add' else ' 8 B'}",
            "kops/s",
            {"dsmem": ("pyverbs", 2.0)},
            {
                "perftest": lambda tool=tool: perftest.rate(tool, n),
                "C core": lambda op=op: core.many(op, n),
                "dsmem": lambda op=op: ours.many(op, n),
                "pyverbs": lambda op=op: pyverbs.many(op, n, "each"),
                "pyverbs, chained": lambda op=op: pyverbs.many(op, n, "chain"),
            },
        )


def measure(arguments, pipe):
    began = time.monotonic()
    be_first()  # and so are the processes that it starts
    rounds, n = (2, 100) if arguments.short else (arguments.rounds, 400)
    with contextlib.ExitStack() as stack, open_context() as context:
        k = context.capabilities
        core = stack.enter_context(contextlib.closing(Core(arguments.core, k)))
        ours = stack.enter_context(contextlib.closing(Python(bytes.fromhex(core.descriptor), pipe)))
        pyverbs = stack.enter_context(contextlib.closing(Pyverbs(core.descriptor, k)))
        perftest = Perftest(k)
        rows = [
            *latencies(core, ours, pyverbs, perftest, n),
            *rings(core, ours, perftest, n),
            *bandwidths(core, ours, perftest, 2 * MANY if arguments.short else 4 * MANY),
            *rates(core, ours, pyverbs, perftest, n // 10),
        ]
        found = [{contestant: [] for contestant in of} for _, _, _, of in rows]
        for turn in range(rounds + 1):  # the first one warms up
            for (name, _, _, of), runs in zip(rows, found, strict=True):
                print(
                    f"{time.monotonic() - began:6.1f} s  round {turn} of {rounds}: {name}", file=sys.stderr, flush=True
                )
                for contestant, run in of.items():
                    with limited():
                        value = run()
                    if turn:
                        runs[contestant].append(value)
        return document(arguments, k, rounds, [figure(*row[:3], runs) for row, runs in zip(rows, found, strict=True)])


def figure(name, unit, targets, runs):
    of = {}
    for contestant, values in runs.items():
        quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        of[contestant] = {
            "median": statistics.median(values),
            "quartiles": [quartiles[0], quartiles[2]],
            "runs": values,
        }
    reached = {}
    for contestant, (versus, bound) in targets.items():
        ratio = of[contestant]["median"] / of[versus]["median"]
        met = ratio <= bound if unit == "µs" else ratio >= bound
        reached[contestant] = {"versus": versus, "bound": bound, "ratio": ratio, "met": met}
    return {"name": name, "unit": unit, "better": "low" if unit == "µs" else "high", "of": of, "targets": reached}


def document(arguments, k, rounds, figures):
    version = subprocess.run(["ib_read_lat", "--version"], capture_output=True, text=True, check=False).stdout
    return {
        "commit": arguments.commit,
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "emulated": "QEMU" in Path("/proc/cpuinfo").read_text(),
        },
        "fabric": {
            "name": k.fabric,
            "device": k.device,
            "mtu": k.mtu,
            "gid_index": k.gid_index,
            "inline": k.max_inline,
        },
        "perftest": version.split()[-1] if version.split() else "",
        "rounds": rounds,
        "figures": figures,
    }


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


# ---- the table ----


def table(document):
    """Markdown. In brackets the ratio to perftest."""
    contestants = ["perftest", "C core", "dsmem", "pyverbs", "pyverbs, chained"]
    rows = [["", "unit", *contestants, "targets"], ["---"] * (len(contestants) + 3)]
    for f in document["figures"]:
        base = f["of"].get("perftest", {}).get("median")
        cells = []
        for name in contestants:
            median = f["of"].get(name, {}).get("median")
            ratio = f" ({median / base:.2f})" if median and base and name != "perftest" else ""
            cells.append(f"{median:.3g}{ratio}" if median else "")
        sign = "≤" if f["better"] == "low" else "≥"
        targets = "; ".join(
            f"{name} {sign} {t['bound']:g} × {t['versus']}: {t['ratio']:.2f}, {'met' if t['met'] else 'MISSED'}"
            for name, t in f["targets"].items()
        )
        rows.append([f["name"], f["unit"], *cells, targets])
    machine, fabric = document["machine"], document["fabric"]
    emulated = ", emulated" if machine["emulated"] else ""
    return "\n".join(
        [
            f"Commit {document['commit']}, {machine['processor']} × {machine['cores']}{emulated}, {machine['system']}, "
            f"Python {machine['python']}; {fabric['name']} on {fabric['device']}, MTU {fabric['mtu']}; "
            f"perftest {document['perftest']}; {document['rounds']} rounds.",
            "",
            *("| " + " | ".join(row) + " |" for row in rows),
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--core", type=Path, help="the compiled softroce_core.c")
    parser.add_argument("--out", type=Path, help="where the result goes")
    parser.add_argument("--short", action="store_true", help="shows that it works; for figures it is too short")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("--table", type=Path, metavar="FILE.json", help="only prints the table of a result")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.table.read_text())))
        return
    processes = multiprocessing.get_context("fork")
    ours, theirs = processes.Pipe()
    other = processes.Process(target=pong_player, args=(theirs, ours), daemon=True)
    other.start()
    theirs.close()
    result = measure(arguments, ours)
    other.join()
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    sys.exit(main())
