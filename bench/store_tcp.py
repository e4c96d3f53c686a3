"""Claim: a page at another host costs little more than its bytes do on bare sockets. Usage: store_tcp.py [options]

Stores of one, two and three copies at memory nodes that are processes of this host, over loopback. Beside them in the
same run fanout.c, which sends messages of the same lengths to as many processes. Its sides sleep while they wait; with
one peer there is another one whose sides look all the time, if there are processors for both. Redis and memcached, if
they are installed, are asked over one socket by the bytes of their protocols. The contestants take turns of some
milliseconds; no process is pinned. "postings" are those of a call, as the fabric counts them: one for each copy that
something is sent to.
"""

import argparse
import contextlib
import json
import os
import pwd
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nodes
import numpy as np

SIZE, BATCH, FEW = 4096, 64, 4
COPIES = (1, 2, 3)
HERE = Path(__file__).parent
# Bytes of docs/protocols/tcp.md and pages.md: a request and a reply, an atomic with its operands, a frame, an intent.
ASKS, SAYS, ATOMIC_ASKS, ATOMIC_SAYS, FRAME, INTENT = 48, 24, 64, 32, SIZE + 64, 40


def calls_of(store):
    """Each does its work once, with pages that come in turn."""
    ids = store.allocate_many(4 * BATCH)
    data, out = np.ones((BATCH, SIZE), "u1"), np.empty((BATCH, SIZE), "u1")
    for first in range(0, len(ids), BATCH):
        store.write_many(ids[first : first + BATCH], data)
    state = {"at": 0}

    def some(n):
        state["at"] = (state["at"] + n) % (len(ids) - n)
        return ids[state["at"] : state["at"] + n]

    def transaction():
        with store.transaction() as tx:
            several = some(FEW)
            tx.read_many(several, out[:FEW])
            for pid in several:
                tx.write(pid, data[0])

    def read_only():
        with store.transaction() as tx:
            tx.read_many(some(FEW), out[:FEW])

    return {
        "get": lambda: store.read(some(1)[0], out[0]),
        "put": lambda: store.write(some(1)[0], data[0]),
        f"get of {BATCH}": lambda: store.read_many(some(BATCH), out),
        f"put of {BATCH}": lambda: store.write_many(some(BATCH), data),
        f"transaction of {FEW}": transaction,
        f"read-only of {FEW}": read_only,
    }


def phases_of(copies):
    """What goes there and back, for each phase and copy: of a page that has not changed, without contention."""
    get = [(2 * ASKS, 2 * SAYS + FRAME + 8)] + [(0, 0)] * (copies - 1)
    write, intent, swap = (ASKS + FRAME, SAYS), (ASKS + INTENT, SAYS), (ATOMIC_ASKS, ATOMIC_SAYS)
    parts = [write, swap] if copies == 1 else [write, intent, swap, swap]  # the last is the unlock of the call before
    put = [[tuple(map(sum, zip(*parts, strict=True)))] * copies]
    return {"get": [get], "put": put}


class Fanout:
    """Its process; a call of it is a number of rounds."""

    def __init__(self, stack, program, copies, looks):
        command = [program, str(copies), str(int(looks))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(self.process.communicate)
        self.phases = phases_of(copies)

    def timer(self, name):
        flat = [length for phase in self.phases[name] for peer in phase for length in peer]

        def seconds(number):
            print(number, len(self.phases[name]), *flat, file=self.process.stdin, flush=True)
            return float(self.process.stdout.readline())

        return seconds


def sockets(copies, looks=False):
    return f"sockets, {copies} ({'looks' if looks else 'sleeps'})"


# A figure of a store, its bound, and how many times that it may take.
GOALS = (("get", "dsmem, 1", sockets(1, looks=True), 1.3), ("put", "dsmem, 3", sockets(3), 1.15))


def compile_fanout(folder):
    program = Path(folder, "fanout")
    command = ["gcc", "-O2", "-std=gnu11", "-D_GNU_SOURCE", HERE / "fanout.c", "-o", program]
    subprocess.run(command, check=True)
    return program


class Server:
    """A process of another store, and a connection to it. command: what starts it, without the port."""

    def __init__(self, stack, folder, *command):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        server = subprocess.Popen([*command, str(self.port)], stdout=subprocess.DEVNULL, cwd=folder)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        self.socket = stack.enter_context(self.connected(server))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.page = b"p" * SIZE
        self.buffer = bytearray(BATCH * (SIZE + 64))

    def connected(self, server):
        ends = time.monotonic() + 30
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port))
            except ConnectionRefusedError:
                if server.poll() is not None or time.monotonic() > ends:
                    raise
                time.sleep(0.01)

    def ask(self, request, nbytes):
        """Answers to the same question have the same length."""
        self.socket.sendall(request)
        view = memoryview(self.buffer)[:nbytes]
        while view:
            view = view[self.socket.recv_into(view) :]


class Redis(Server):
    """By RESP."""

    def __init__(self, stack, folder):
        options = "--save", "", "--appendonly", "no", "--unixsocket", f"{folder}/socket.of.redis", "--bind", "127.0.0.1"
        super().__init__(stack, folder, "redis-server", *options, "--port")

    @staticmethod
    def command(*words):
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)

    def calls(self):
        keys = [b"%04d" % i for i in range(BATCH)]
        mset = self.command(b"MSET", *(word for key in keys for word in (key, self.page)))
        value = len(b"$%d\r\n" % SIZE) + SIZE + 2
        get, put, mget = self.command(b"GET", keys[0]), self.command(b"SET", keys[0], self.page), [b"MGET", *keys]
        self.ask(mset, len(b"+OK\r\n"))
        return {
            "get": lambda: self.ask(get, value),
            "put": lambda: self.ask(put, len(b"+OK\r\n")),
            f"get of {BATCH}": lambda: self.ask(self.command(*mget), len(b"*%d\r\n" % BATCH) + BATCH * value),
            f"put of {BATCH}": lambda: self.ask(mset, len(b"+OK\r\n")),
        }


class Memcached(Server):
    """By its text protocol, which has no request for several writes: they are sent together."""

    def __init__(self, stack, folder):
        user = pwd.getpwuid(os.geteuid()).pw_name
        super().__init__(stack, folder, "memcached", "-l", "127.0.0.1", "-u", user, "-p")

    def calls(self):
        keys = [b"%04d" % i for i in range(BATCH)]
        puts = [b"set %s 0 0 %d\r\n%s\r\n" % (key, SIZE, self.page) for key in keys]
        value, end, said = len(b"VALUE %s 0 %d\r\n\r\n" % (keys[0], SIZE)) + SIZE, len(b"END\r\n"), len(b"STORED\r\n")
        get, put, mget, mset = b"get %s\r\n" % keys[0], puts[0], b"get %s\r\n" % b" ".join(keys), b"".join(puts)
        self.ask(mset, BATCH * said)
        return {
            "get": lambda: self.ask(get, value + end),
            "put": lambda: self.ask(put, said),
            f"get of {BATCH}": lambda: self.ask(mget, BATCH * value + end),
            f"put of {BATCH}": lambda: self.ask(mset, BATCH * said),
        }


OTHERS = {"redis": ("redis-server", Redis), "memcached": ("memcached", Memcached)}


def timed(call):
    def seconds(number):
        start = time.perf_counter()
        for _ in range(number):
            call()
        return time.perf_counter() - start

    return seconds


def contestants(stack, addresses, folder):
    """By name: what says how long so many calls of each figure take; and the postings of a call."""
    ways, postings = {}, {}
    program = compile_fanout(folder)
    for copies in COPIES:
        place = nodes.where(addresses[:copies], stack.enter_context(nodes.own_name()))
        cluster, own = stack.enter_context(nodes.client(place))
        properties = {"page_size": SIZE, "capacity": 1024 * SIZE, "replicas": copies}
        store = stack.enter_context(cluster.store("pages", create=True, **properties))
        calls = calls_of(store)
        ways[f"dsmem, {copies}"] = {name: timed(call) for name, call in calls.items()}
        for looks in (False, True) if copies == 1 and len(os.sched_getaffinity(0)) > 1 else (False,):
            fanout = Fanout(stack, program, copies, looks)
            side = sockets(copies, looks)
            ways[side] = {name: fanout.timer(name) for name in fanout.phases}
        postings[f"dsmem, {copies}"] = {name: least_postings(own, call) for name, call in calls.items()}
    for name, (program, other) in OTHERS.items():
        if shutil.which(program):
            ways[name] = {of: timed(call) for of, call in other(stack, folder).calls().items()}
    return ways, postings


def least_postings(own, call):
    found = []
    for _ in range(10):
        before = own.stats["doorbells"]
        call()
        found.append(own.stats["doorbells"] - before)
    return min(found)


def measure(ways, rounds, turn):
    """µs of a call, by figure and contestant."""
    figures = {}
    for name in dict.fromkeys(name for timers in ways.values() for name in timers):
        timers = {side: of[name] for side, of in ways.items() if name in of}
        counts = {side: max(1, int(turn / (seconds(3) / 3))) for side, seconds in timers.items()}
        times = {side: [] for side in timers}
        for i in range(rounds):
            for side, seconds in list(timers.items())[:: 1 if i % 2 else -1]:
                times[side].append(seconds(counts[side]) / counts[side] * 1e6)
        figures[name] = {side: {"median": statistics.median(us), "least": min(us)} for side, us in times.items()}
    return figures


def say(figures, postings):
    print("µs of a call: median (least); postings of a call")
    for name, of in figures.items():
        print(f"{name}:")
        for side, us in of.items():
            count = f", postings {postings[side][name]}" if side in postings else ""
            print(f"  {side:>20}: {us['median']:.1f} ({us['least']:.1f}){count}")
    for name, side, bound, most in GOALS:
        if bound in figures[name]:
            ratio = figures[name][side]["median"] / figures[name][bound]["median"]
            print(f"{name} of '{side}': {ratio:.2f} × '{bound}'; the goal is at most {most}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--turn", type=float, default=0.005, help="seconds of a contestant in a round")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        addresses = stack.enter_context(nodes.serving(max(COPIES)))
        ways, postings = contestants(stack, addresses, folder)
        figures = measure(ways, given.rounds, given.turn)
    say(figures, postings)
    if given.json:
        results = {**nodes.circumstances(), "rounds": given.rounds, "us_per_call": figures, "postings": postings}
        given.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
