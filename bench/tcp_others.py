"""Claim: over tcp dsmem is as fast as what others take between hosts. Usage: tcp_others.py [options]

One-sided ops beside mpi4py (Open MPI and MPICH over tcp, whose target polls) and NIXL (UCX over tcp); queues beside
pyzmq (PUSH to PULL); locks beside Redis (redis-py's Lock). All are called from Python, over loopback, and take turns,
round by round; no process is pinned. The processes of the others (not those that only wait for these) are stopped while
it is not their turn, since some poll all the time. A contestant that is not installed is left out, and said.

dsmem's queue and lock lie at a `dsmem serve`; the producer reaches them by its address, the consumer is on its host.
"""

import argparse
import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib import metadata
from itertools import repeat
from pathlib import Path

import mpi
import numpy as np
import tcp

import dsmem

MESSAGE = b"m" * 64
LISTS = {f"put lists of {n} × 64 B": n for n in (100, 1000)}
STAGED = "put 64 B, flush=False"  # pyzmq's send always hands the message to a thread, which gathers them
TARGETS = {STAGED: 1.5} | dict.fromkeys(LISTS, 5)  # M/s
FIGURES = {  # name: (unit, from seconds a call to it)
    "read 8 B": ("µs", lambda s: s * 1e6),
    "write 8 B": ("µs", lambda s: s * 1e6),
    "fetch_add": ("µs", lambda s: s * 1e6),
    "read_many 64 × 8 B": ("Mops/s", lambda s: 64 / s / 1e6),
    "write_many 64 × 8 B": ("Mops/s", lambda s: 64 / s / 1e6),
    "read 1 MiB": ("GB/s", lambda s: tcp.MIB / s / 1e9),
    "write 1 MiB": ("GB/s", lambda s: tcp.MIB / s / 1e9),
    "put 64 B": ("M/s", lambda s: 1 / s / 1e6),
    STAGED: ("M/s", lambda s: 1 / s / 1e6),
    **{name: ("M/s", lambda s, n=n: n / s / 1e6) for name, n in LISTS.items()},
    "lock and unlock": ("µs", lambda s: s * 1e6),
}


def timed(call, number):
    start = time.perf_counter()
    for _ in repeat(None, number):
        call()
    return time.perf_counter() - start


def this(*arguments):
    """This program in another process, which is asked by lines."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process, line):
    print(line, file=process.stdin, flush=True)
    return process.stdout.readline()


# ---- one-sided ops ----


@contextlib.contextmanager
def dsmem_ops():
    cpus = sorted(os.sched_getaffinity(0))
    side = tcp.Dsmem(cpus[0], cpus[-1])
    remote, of = side.remote, tcp.Buffers
    try:
        os.sched_setaffinity(0, cpus)
        yield lambda name, number: timed(lambda: tcp.OPS[name][0](remote, of), number), "dsmem"
    finally:
        side.close()


def mpi_ops(library):
    names = {
        "read_many 64 × 8 B": "read_many",
        "write_many 64 × 8 B": "write_many",
        "read 8 B": "read 8",
        "write 8 B": "write 8",
    }

    @contextlib.contextmanager
    def ops():
        with mpi.over_tcp(library) as (time_of, version):
            label = " ".join(version.split("\n")[0].replace("Version:", "").split())
            yield lambda name, number: time_of(names.get(name, name), number), f"mpi4py, {label}"

    return ops


def nixl_agent(name, progress):
    """It and its memory. Without a thread for progress only calls make some: with two cores a second thread is slow."""
    os.environ.update(UCX_TLS="tcp,self", NIXL_LOG_LEVEL="ERROR")
    from nixl._api import nixl_agent, nixl_agent_config

    memory = np.zeros(2 * tcp.MIB, "u1")
    agent = nixl_agent(name, nixl_agent_config(enable_prog_thread=progress, backends=["UCX"]))
    agent.register_memory([(memory.ctypes.data, memory.nbytes, 0, "")], "DRAM")
    return agent, memory


def nixl_owner():
    agent, memory = nixl_agent("owner", True)
    print(base64.b64encode(agent.get_agent_metadata()).decode(), memory.ctypes.data, flush=True)
    sys.stdin.read()
    os._exit(0)


def nixl_user(described, there):
    """Answers each line, a figure's name and a number, with seconds, or with none if it has no such op."""
    agent, memory = nixl_agent("user", False)
    peer, here = agent.add_remote_agent(base64.b64decode(described)), memory.ctypes.data
    transfer, state = agent.transfer, agent.check_xfer_state

    def handle(kind, nbytes, n=1):
        sides = [[(at + i * step, nbytes, 0) for i in range(n)] for at, step in ((here, 8), (int(there), 64))]
        return agent.initialize_xfer(kind, *(agent.get_xfer_descs(side, "DRAM") for side in sides), peer)

    handles = {
        "read 8 B": handle("READ", 8),
        "write 8 B": handle("WRITE", 8),
        "read_many 64 × 8 B": handle("READ", 8, 64),
        "write_many 64 × 8 B": handle("WRITE", 8, 64),
        "read 1 MiB": handle("READ", tcp.MIB),
        "write 1 MiB": handle("WRITE", tcp.MIB),
    }

    def call(what):
        said = transfer(what)
        while said == "PROC":
            said = state(what)
        assert said == "DONE"

    for line in sys.stdin:
        name, number = json.loads(line)
        what = handles.get(name)
        print("none" if what is None else timed(lambda what=what: call(what), number), flush=True)
    os._exit(0)  # the library's destructors crash


@contextlib.contextmanager
def nixl_ops():
    owner = this("nixl_owner")
    user = this("nixl_user", *owner.stdout.readline().split())

    def time_of(name, number):
        said = ask(user, json.dumps([name, number])).strip()
        return None if said == "none" else float(said)

    try:
        yield time_of, f"NIXL {metadata.version('nixl')}, UCX"
    finally:
        user.communicate()
        owner.communicate()


# ---- queues ----


def consumer_of(get, get_list):
    """Answers each line, 'singly N' or 'lists N', when it has got so many messages."""
    for line in sys.stdin:
        how, number = line.split()
        left = int(number)
        while left:
            left -= 1 if how == "singly" and get() else len(get_list())
        print("done", flush=True)


def producing(consumer, put, put_list, stage, flush):
    def time_of(name, number):
        singly = name not in LISTS
        length = LISTS.get(name, 1)
        put_one, messages = stage if name == STAGED else put, [MESSAGE] * length
        start = time.perf_counter()
        print("singly" if singly else "lists", number * length, file=consumer.stdin, flush=True)
        for _ in repeat(None, number):
            put_one(MESSAGE) if singly else put_list(messages)
        flush()
        consumer.stdout.readline()
        return time.perf_counter() - start

    return time_of


@contextlib.contextmanager
def served():
    """The address of a server of names."""
    command = [sys.executable, "-m", "dsmem", "serve", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        yield next(word for word in line.split() if word.startswith("tcp://")).split("/")[2]
    finally:
        process.terminate()
        process.communicate()


def dsmem_consumer(cluster, name):
    with dsmem.connect(cluster) as local, local.queue(name) as queue:
        consumer_of(queue.get, queue.get_many)


@contextlib.contextmanager
def dsmem_queue():
    name = f"bench-{os.getpid()}"
    with served() as address, dsmem.connect(f"tcp://{address}/{name}") as cluster:
        queue = cluster.queue("queue", create=True, producers="many", capacity_bytes=1 << 20)
        consumer = this("dsmem_consumer", name, "queue")

        def stage(data):
            queue.put(data, flush=False)

        try:
            yield producing(consumer, queue.put, queue.put_many, stage, queue.flush), "dsmem"
        finally:
            consumer.communicate()
            queue.close()
            cluster.unlink("queue")


def zmq_consumer(address):
    import zmq

    pull = zmq.Context().socket(zmq.PULL)
    pull.connect(address)
    consumer_of(pull.recv, pull.recv_multipart)


@contextlib.contextmanager
def zmq_queue():
    import zmq

    push = zmq.Context().socket(zmq.PUSH)
    port = push.bind_to_random_port("tcp://127.0.0.1")
    consumer = this("zmq_consumer", f"tcp://127.0.0.1:{port}")
    try:
        yield producing(consumer, push.send, push.send_multipart, push.send, lambda: None), f"pyzmq {zmq.__version__}"
    finally:
        consumer.communicate()
        push.close(0)


# ---- locks ----


@contextlib.contextmanager
def dsmem_lock():
    name = f"bench-{os.getpid()}"
    with served() as address, dsmem.connect(f"tcp://{address}/{name}") as cluster:
        lock = cluster.lock("lock", create=True)

        def pair():
            lock.acquire()
            lock.release()

        try:
            yield lambda _, number: timed(pair, number), "dsmem"
        finally:
            lock.close()
            cluster.unlink("lock")


@contextlib.contextmanager
def redis_lock():
    import redis

    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        client = redis.Redis(port=port)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                break
            if time.monotonic() > deadline:
                raise TimeoutError("redis-server does not answer")
            time.sleep(0.05)
        lock = client.lock("lock", timeout=30)

        def pair():
            lock.acquire()
            lock.release()

        try:
            yield lambda _, number: timed(pair, number), f"Redis {client.info()['redis_version']}"
        finally:
            client.close()
            server.terminate()
            server.wait()


# ---- a contest ----


def lacks(module, program=None):
    if program and not shutil.which(program):
        return f"no {program}"
    return (
        None
        if subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0
        else f"no {module}"
    )


OPS = tuple(FIGURES)[:7]
CONTESTS = {
    OPS: [
        (dsmem_ops, None),
        *((mpi_ops(library), partial(mpi.missing_over_tcp, library)) for library in mpi.OVER_TCP),
        (nixl_ops, lambda: lacks("nixl")),
    ],
    tuple(FIGURES)[7:-1]: [(dsmem_queue, None), (zmq_queue, lambda: lacks("zmq"))],
    tuple(FIGURES)[-1:]: [(dsmem_lock, None), (redis_lock, lambda: lacks("redis", "redis-server"))],
}


def children(pid):
    """All processes that a process has started, and those that these have."""
    found = [int(child) for each in Path(f"/proc/{pid}/task").glob("*/children") for child in each.read_text().split()]
    return found + [below for child in found for below in children(child)]


def signaled(processes, number):
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def in_turn(time_of, processes):
    """The same as time_of; the processes run during its turns only."""

    def timed_alone(name, number):
        signaled(processes, signal.SIGCONT)
        try:
            return time_of(name, number)
        finally:
            signaled(processes, signal.SIGSTOP)

    signaled(processes, signal.SIGSTOP)
    return timed_alone


def measure(name, sides, options):
    """A figure: of each side the median of the rounds, and the quartiles."""
    unit, convert = FIGURES[name]
    counts = {}
    for label, time_of in sides.items():
        few = 10000 if name == STAGED else 10
        once = time_of(name, 1) and time_of(name, few)
        if once:
            counts[label] = max(1, int(options.turn / (once / few)))
    rounds = {label: [] for label in counts}
    for i in range(options.rounds):
        for label in counts if i % 2 else reversed(counts):
            rounds[label].append(convert(sides[label](name, counts[label]) / counts[label]))
    of = {
        label: {"median": statistics.median(each), "quartiles": statistics.quantiles(each, n=4)[::2]}
        for label, each in rounds.items()
    }
    target = TARGETS.get(name)
    return {"name": name, "unit": unit, "target": target, "of": of} | (
        {} if target is None else {"met": of["dsmem"]["median"] >= target}
    )


def show(figures):
    lines = ["| figure | unit | dsmem | beside it | target |", "|---|---|---|---|---|"]
    for each in figures:
        ours, *others = each["of"].values()
        names = list(each["of"])[1:]
        beside = ", ".join(f"{name}: {other['median']:.3g}" for name, other in zip(names, others, strict=True))
        verdict = "" if each["target"] is None else f"≥ {each['target']:g}: {'met' if each['met'] else 'MISSED'}"
        lines.append(f"| {each['name']} | {each['unit']} | {ours['median']:.3g} | {beside} | {verdict} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--turn", type=float, default=0.1, help="seconds")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--only", metavar="NAME", default="", help="a part of a figure's name")
    options = parser.parse_args()
    figures = []
    for all_names, contestants in CONTESTS.items():
        names = [name for name in all_names if options.only in name]
        if not names:
            continue
        with contextlib.ExitStack() as stack:
            sides = {}
            for side, missing in contestants:
                if reason := missing and missing():
                    print(f"without a contestant: {reason}", file=sys.stderr)
                    continue
                before = set(children(os.getpid()))
                time_of, label = stack.enter_context(side())
                if label != "dsmem":
                    started = {pid for pid in set(children(os.getpid())) - before if not children(pid)}
                    time_of = in_turn(time_of, started)
                    stack.callback(signaled, started, signal.SIGCONT)
                sides[label] = time_of
            figures += [measure(name, sides, options) for name in names]
    print(show(figures))
    if options.json:
        result = {"about": tcp.about(), "rounds": options.rounds, "turn": options.turn, "figures": figures}
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


ROLES = {role.__name__: role for role in (nixl_owner, nixl_user, dsmem_consumer, zmq_consumer)}
if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ROLES:
        ROLES[sys.argv[1]](*sys.argv[2:])
    else:
        main()
