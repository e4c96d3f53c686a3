"""Recorded histories of processes that change pages of one store in transactions, some of which are killed and stopped
meanwhile, are strictly serialisable: on this host, at a memory node, with two copies, and in several extents.
"""

import ast
import contextlib
import multiprocessing
import os
import signal
import time

import appending
import pytest
from halt import stop_until
from names_server import process_that_serves
from serialisable import Append, Outcome, Read, Transaction, anomalies
from store_nodes import SECRET, check_equal, where

SECONDS = 90
UNTIL_KILLED = 10**6
PROPERTIES = {"page_size": appending.PAGE, "capacity": 64 * appending.PAGE, "members": 12}
LISTS = 6
OPS = {"append": Append, "read": Read}

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["dsmem", "pytest"])


@pytest.fixture(scope="module")
def nodes():
    """HOST:PORT of two memory nodes, which fence at once those that are cut off."""
    with contextlib.ExitStack() as stack:
        served = [stack.enter_context(process_that_serves(SECRET, "--grace", "0"))[1] for _ in range(2)]
        yield [at.removeprefix("tcp://") for at in served]


class History:
    """Processes that use a store; transactions() when they have ended."""

    def __init__(self, stack, address, store, folder):
        self.stack, self.address, self.store, self.folder = stack, address, store, folder
        self.pids = store.allocate_many(LISTS).tolist()
        self.running, self.killed = [], set()
        self.gate, self.meeting = processes.Event(), processes.Barrier(2)

    def path(self, party):
        return self.folder / str(party)

    def lines(self, *parties):
        return sum(self.path(each).read_bytes().count(b"\n") for each in parties if self.path(each).exists())

    def start(self, kind, count):
        party = len(self.running)
        args = (kind, self.address, self.pids, str(self.path(party)), party, count, self.gate, self.meeting)
        process = processes.Process(target=appending.main, args=args)
        process.start()
        self.stack.callback(process.join, SECONDS)
        self.stack.callback(process.kill)
        self.running.append(process)
        return party

    def wait_for(self, party, lines):
        deadline = time.monotonic() + SECONDS
        while self.lines(party) < lines:
            assert self.running[party].is_alive() and time.monotonic() < deadline
            time.sleep(0.001)

    def kill_after(self, party, lines):
        self.gate.set()
        self.wait_for(party, lines)
        self.running[party].kill()
        self.running[party].join(SECONDS)
        self.killed.add(party)

    def stop_for_a_while(self, party, others):
        stop_until(self.running[party].pid, lambda: self.lines(*others), 10)
        os.kill(self.running[party].pid, signal.SIGCONT)

    def transactions(self):
        self.gate.set()
        for party, process in enumerate(self.running):
            process.join(SECONDS)
            assert process.exitcode == (-signal.SIGKILL if party in self.killed else 0)
        return [*(each for party in range(len(self.running)) for each in read(self.path(party))), self.look()]

    def look(self):
        """At all lists. What a dead process has left of them is settled by that."""
        begin = time.monotonic_ns()
        rows = self.store.snapshot(self.pids, timeout=SECONDS)
        reads = (Read(key, appending.values_of(row.tobytes())) for key, row in enumerate(rows))
        return Transaction(begin, time.monotonic_ns(), tuple(reads))


def read(path):
    """The transactions of a process. What became of the last one is not known if a kill has cut off that line."""
    lines = [ast.literal_eval(line) for line in path.read_text().split("\n")[:-1]]
    for begin, ops, *rest in [line for line in lines[:-1] if len(line) > 2] + lines[-1:]:
        end, outcome = rest or (None, "unknown")
        yield Transaction(begin, end, tuple(OPS[kind](*what) for kind, *what in ops), Outcome(outcome))


@pytest.fixture(params=["here", "1", "2", "1x2", "2x3"])
def place(request, cluster_name):
    """Where the store is, and how many copies of how many extents it has."""
    if request.param == "here":
        return cluster_name, 1, 1
    replicas, _, extents = request.param.partition("x")
    nodes = request.getfixturevalue("nodes")[: 2 if extents else int(replicas)]
    return where(nodes, cluster_name), int(replicas), int(extents or 1)


@pytest.fixture
def history(place, tmp_path):
    address, replicas, extents = place
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(appending.joined(address))
        with cluster.store("s", create=True, replicas=replicas, extents=extents, **PROPERTIES) as store:
            with contextlib.ExitStack() as inner:
                yield History(inner, address, store, tmp_path)
        if replicas > 1:
            check_equal(cluster, replicas, extents)
        cluster.unlink("s")


@pytest.mark.timeout(300)
def test_processes_that_are_killed_and_stopped(history):
    steady = [history.start("Client", 150) for _ in range(2)]
    stopped = history.start("Client", UNTIL_KILLED)
    victims = [history.start("Client", UNTIL_KILLED) for _ in range(2)]
    history.kill_after(victims[0], 61)
    for i in range(4):
        history.wait_for(stopped, 20 * i + 1)
        history.stop_for_a_while(stopped, steady)
    history.kill_after(victims[1], 160)
    history.kill_after(stopped, 180)
    found = history.transactions()
    assert not anomalies(found)
    committed = [each for each in found if each.outcome is Outcome.COMMITTED]
    assert len(committed) > 100 and any(isinstance(op, Append) for each in committed for op in each.ops)


def test_clients_that_do_not_validate_are_found(history):
    """Both have read the same list and appended to it: one of them overwrites what the other one was told of."""
    for _ in range(2):
        history.start("Careless", 3)
    assert "lost update" in [each.name for each in anomalies(history.transactions())]
