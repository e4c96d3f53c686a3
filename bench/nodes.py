"""What benches of stores share: memory nodes, each a `dsmem serve`, and what a result says of the machine."""

import contextlib
import itertools
import multiprocessing
import os
import platform
import subprocess
import sys
from pathlib import Path

import dsmem
from dsmem.names import local

_numbers = itertools.count()
_processes = multiprocessing.get_context("spawn")
SECRET = b"0be7c" * 12 + b"0be7"  # a key: a text would be stretched
SERVE = [sys.executable, "-m", "dsmem", "serve", "--listen", "127.0.0.1:0", "--grace", "0"]


@contextlib.contextmanager
def own_name():
    """Of a cluster, of which this host, its servers included, has nothing left at the end."""
    name = f"bench-{os.getpid()}-{next(_numbers)}"
    try:
        yield name
    finally:
        names = local.LocalNames(name, os.geteuid())
        for info in names.infos():
            names.unlink(info.name)
        names.remove_if_empty()


@contextlib.contextmanager
def serving(count):
    """HOST:PORT of so many."""
    env = {**os.environ, "DSMEM_SECRET": SECRET.decode()}
    with contextlib.ExitStack() as stack:
        addresses = []
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen(SERVE, stdout=subprocess.PIPE, text=True, env=env))
            stack.callback(process.kill)
            addresses.append(process.stdout.readline().split()[-1].removeprefix("tcp://"))
        yield addresses


def where(addresses, name):
    """What connect() takes; without addresses it is this host."""
    return f"tcp://{','.join(addresses)}/{name}" if addresses else name


@contextlib.contextmanager
def client(place):
    """A cluster, and the context of its ops, which counts them; None where memory is mapped."""
    if not place.startswith("tcp:"):
        with dsmem.connect(place) as cluster:
            yield cluster, None
        return
    with dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1") as own, dsmem.connect(place, context=own) as cluster:
        yield cluster, own


def run_clients(target, each, seconds):
    """What processes that call the target have put into a queue, which they have with a barrier behind what is given.

    A text is an error of one. seconds: about how long they take, without their start.
    """
    results, gate = _processes.Queue(), _processes.Barrier(len(each))
    clients = [_processes.Process(target=target, args=(*given, gate, results)) for given in each]
    for client in clients:
        client.start()
    try:
        found = [results.get(timeout=seconds + 120 + 5 * len(each)) for _ in clients]
        for one in found:
            if isinstance(one, str):
                raise RuntimeError(one)
    finally:
        for client in clients:
            client.join(30)
            client.kill()
    return found


def git(*command):
    done = subprocess.run(["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def circumstances():
    """The commit, and what the figures depend on beside it."""
    return {
        "commit": {"id": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))},
        "machine": {
            "kernel": platform.release(),
            "python": platform.python_version(),
            "processors": len(os.sched_getaffinity(0)),
            "load": os.getloadavg()[0],
        },
    }
