"""What tests of stores with a coordinator share: the processes, and clients with an account of what they were told."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import clusters
import halt
from names_server import SERVE
from paging import SIZE, number_of, page

import dsmem
from dsmem import errors

SECRET = b"e90c4" * 12 + b"e90c"
SECONDS = 120
PROPERTIES = {"page_size": SIZE, "capacity": 100 * SIZE, "members": 8}
SILENCE = 1.5
#: Of the processes and their clients; tests/modeldev/test_suites.py names another one.
FABRIC = os.environ.get("DSMEM_TEST_NODES", "tcp")


class Process:
    """`dsmem serve`, or a program that runs it. log: the path of a file for its standard error."""

    def __init__(self, *more, command=SERVE, port=0, log=None, **env):
        self.port, self.log = port, log
        self.more, self.command = more, command
        self.env = {**os.environ, "DSMEM_SECRET": SECRET.decode(), **env}
        self.start()

    def start(self):
        """At the same address as before, if there was one."""
        command = [*self.command, "--listen", f"127.0.0.1:{self.port}", "--grace", "0", "--fabric", FABRIC, *self.more]
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(self.log.open("a")) if self.log else None
            self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=self.env)
        self.address = self.popen.stdout.readline().split()[-1]
        self.port = int(self.address.rpartition(":")[2])

    def kill(self):
        self.popen.kill()
        self.popen.wait()
        self.popen.stdout.close()

    def end(self):
        """In peace, so that nothing of it is left."""
        self.go_on()
        self.popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(30)
        self.kill()

    def stop(self):
        halt.stop(self.popen.pid)

    def go_on(self):
        self.popen.send_signal(signal.SIGCONT)


class Together:
    """A coordinator, and memory nodes that have joined it."""

    def __init__(self, name, folder, nodes, *options, **env):
        self.name = name  # of the cluster
        self.folder = folder
        self.nodes = []
        options = ("--coordinator", "--state", str(folder), "--silence", str(SILENCE), *options)
        self.coordinator = Process(*options, **env)
        for _ in range(nodes):
            self.more()
        self.wait_for(lambda: len(self.up()) == nodes)

    @property
    def address(self):
        return f"{self.coordinator.address}/{self.name}"

    def more(self, *options):
        self.nodes.append(Process("--join", self.coordinator.address, *options))
        return self.nodes[-1]

    def infos(self):
        from dsmem.membership.client import nodes

        with self.client() as cluster:
            return nodes(cluster._names)

    def up(self):
        return [each.address for each in self.infos() if each.is_up]

    @contextlib.contextmanager
    def client(self, peer_timeout=2.0):
        with dsmem.Context(FABRIC, secret=SECRET, listen="127.0.0.1", peer_timeout=peer_timeout) as own:
            with dsmem.connect(self.address, context=own) as cluster:
                yield cluster

    def node_of(self, store, place):
        """The process that has a copy."""
        address = store.health()["copies"][place]["node"]
        return next(node for node in self.nodes if node.address == address)

    def wait_for(self, condition):
        eventually(condition)

    def close(self):
        for process in (*self.nodes, self.coordinator):
            process.end()


def eventually(condition):
    """Until it is true."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextlib.contextmanager
def together(folder, nodes, *options, **env):
    with clusters.of_its_own() as name:
        made = Together(name, folder, nodes, *options, **env)
        try:
            yield made
        finally:
            made.close()


def settled(store, pid, number):
    """Write a page that no other client writes; if it is unknown what became of that, look, and write it again."""
    while True:
        with contextlib.suppress(errors.OutcomeUnknownError):
            store.write(pid, page(number))
        if number_of(store.read(pid)) == number:
            return


class Writer(threading.Thread):
    """Adds 1 to a page again and again, and keeps account: what was acknowledged, and what may have happened."""

    def __init__(self, where, name="db"):
        super().__init__(daemon=True)
        self.where, self.name = where, name
        self.acknowledged = self.unknown = 0
        self.longest = 0.0
        self.failed = None
        self.pid = None
        self.ready, self.ended = threading.Event(), threading.Event()

    def run(self):
        try:
            with self.where.client() as cluster, cluster.store(self.name) as store:
                self.pid = store.allocate()
                store.write(self.pid, page(0))
                self.ready.set()
                while not self.ended.is_set():
                    self.step(store)
                self.found = number_of(store.read(self.pid))
        except BaseException as error:
            self.failed = error
            self.ready.set()

    def step(self, store):
        before = time.monotonic()
        try:
            store.write(self.pid, page(self.acknowledged + self.unknown + 1))
            self.acknowledged += 1
        except errors.OutcomeUnknownError:
            # It may have happened or not: what is there says which, since this page has one writer.
            self.unknown += number_of(store.read(self.pid)) == self.acknowledged + self.unknown + 1
        self.longest = max(self.longest, time.monotonic() - before)

    def has_written(self, more):
        """Whether so many writes were acknowledged."""
        if self.failed is not None:
            raise self.failed
        return self.acknowledged >= more

    def check(self):
        if self.failed is not None:
            raise self.failed
        assert self.found == self.acknowledged + self.unknown


@contextlib.contextmanager
def writing(where, count=2):
    """Writers during the block. Afterwards nothing that was acknowledged has been lost."""
    writers = [Writer(where) for _ in range(count)]
    for writer in writers:
        writer.start()
    try:
        for writer in writers:
            assert writer.ready.wait(SECONDS)
            assert writer.failed is None, writer.failed
        yield writers
    finally:
        for writer in writers:
            writer.ended.set()
        for writer in writers:
            writer.join(SECONDS)
    for writer in writers:
        writer.check()
    longest = max(writer.longest for writer in writers)
    print(f"longest write {longest:.2f} s, {sum(w.acknowledged for w in writers)} writes", file=sys.stderr)
