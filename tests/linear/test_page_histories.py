"""Histories of processes that use pages of one store, each page's calls, are linearisable.

Some of the processes are killed and stopped meanwhile, at random; of a store of a coordinator the memory node with the
primary is, too. DSMEM_HISTORIES says how many histories of each kind there are, DSMEM_HISTORIES_SEED the first seed.
It settles calls and faults, but not when a process runs.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace

import epochs
import page_client
import pytest
import recorder
import store_nodes
from checker import Page, first_misfit, page
from halt import stop_until
from page_client import ALLOWED, DONE, ENDED, FULL, NOTHING, NUMBERS, PAGES, UNKNOWN, Place

SECONDS = 90
HISTORIES = int(os.environ.get("DSMEM_HISTORIES", "1"))
SEED = int(os.environ.get("DSMEM_HISTORIES_SEED") or random.randrange(10**6))
STEPS, MAPPED = 300, 1500  # that are allowed at a time; where memory is mapped they take less
LONG, SHORT = 65536, 256  # bytes of a page; calls of long ones take longer than what is between them
MEMBERS = 12
pytestmark = pytest.mark.timeout(300)

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["dsmem", "pytest"])
nodes = store_nodes.nodes


class History:
    """Processes that use a store; check() when they have ended."""

    def __init__(self, stack, place, store, folder, seed):
        print(f"DSMEM_HISTORIES_SEED={seed}")
        self.stack, self.place, self.store, self.folder, self.seed = stack, place, store, folder, seed
        self.dice = random.Random(seed)
        self.running, self.killed = [], set()
        self.gate = processes.Event()  # all begin together
        self.shared = processes.RawArray("Q", DONE + MEMBERS)  # without a lock, which a killed process would keep
        self.pages = [Page(pid, True, store.version(pid)) for pid in store.allocate_many(PAGES).tolist()]
        for made in self.pages:
            self.shared[made.pid & NUMBERS] = made.pid
        self.allow()

    def allow(self):
        self.shared[ALLOWED] += STEPS if self.place.secret else MAPPED

    def path(self, party):
        return self.folder / str(party)

    def done(self, *parties):
        return sum(self.shared[DONE + party] for party in parties)

    def start(self, count, **how):
        first = len(self.running)
        for party in range(first, first + count):
            args = (self.place._replace(**how), self.shared, self.gate, str(self.path(party)), party, self.seed)
            process = processes.Process(target=page_client.main, args=args)
            process.start()
            self.stack.callback(process.join, SECONDS)
            self.stack.callback(process.kill)
            self.running.append(process)
        return range(first, first + count)

    def wait_for(self, party, steps):
        self.gate.set()
        deadline = time.monotonic() + SECONDS
        while self.done(party) < steps:
            assert self.running[party].is_alive() and time.monotonic() < deadline
            time.sleep(0.0002)

    def kill_after(self, party, steps):
        self.wait_for(party, steps)
        self.kill(party)

    def kill(self, party):
        self.running[party].kill()
        self.running[party].join(SECONDS)
        self.killed.add(party)

    def stop_for_a_while(self, party, others):
        stop_until(self.running[party].pid, lambda: self.done(*others), 20)

    def go_on(self, party):
        os.kill(self.running[party].pid, signal.SIGCONT)

    def end(self):
        self.shared[ENDED] = 1
        for party, process in enumerate(self.running):
            process.join(SECONDS)
            assert process.exitcode == (-signal.SIGKILL if party in self.killed else 0)

    def ops(self):
        """Of all processes, and a last look. What says nothing is left out; what is unknown has no end."""
        look = len(self.running)
        page_client.Client(self.store, self.shared, self.path(look), look, self.seed).look()
        told = [op for party in range(look + 1) for op in recorder.read(self.path(party))]
        says = [op for op in told if op.result not in (NOTHING, FULL)]
        return [replace(op, end=None) if op.result == UNKNOWN else op for op in says]

    def check(self):
        self.end()
        ops = self.ops()
        for state in self.pages:
            number = state.pid & NUMBERS
            misfit = first_misfit([op for op in ops if number in numbers(op)], page, state)
            assert misfit is None, f"seed {self.seed}, page {number}, {self.folder}"
        return ops


def numbers(op):
    """Of the pages that a call was of, or may have been of."""
    pid = op.result if op.name == "allocate" else op.args[0]
    return range(PAGES) if pid is None or pid == UNKNOWN else (pid & NUMBERS,)


def made(cluster, page_size, replicas):
    return cluster.store(
        "s", create=True, page_size=page_size, capacity=PAGES * page_size, members=MEMBERS, replicas=replicas
    )


@pytest.fixture(params=["here", "1", "2", "3"])
def history(request, cluster_name, tmp_path, number):
    """Of a store on this host, or with so many copies at memory nodes."""
    if request.param == "here":
        place, replicas = Place(cluster_name), 1
    else:
        replicas = int(request.param)
        at = request.getfixturevalue("nodes")[:replicas]
        place = Place(store_nodes.where(at, cluster_name), store_nodes.SECRET)
    with page_client.joined(place) as cluster:
        with made(cluster, SHORT if place.secret else LONG, replicas) as store, contextlib.ExitStack() as stack:
            yield History(stack, place, store, tmp_path, SEED + number)
        if replicas > 1:
            store_nodes.check_equal(cluster, replicas)
        cluster.unlink("s")


@pytest.mark.parametrize("number", range(HISTORIES))
def test_processes_that_are_killed_and_stopped(history):
    dice = history.dice
    steady, (stopped, *victims) = history.start(2), history.start(3)
    history.kill_after(victims[0], dice.randrange(5, 60))
    for i in range(4):
        history.wait_for(stopped, dice.randrange(20 * i + 1, 20 * i + 21))
        history.stop_for_a_while(stopped, steady)
        if i < 3:
            history.go_on(stopped)
    history.kill(stopped)
    history.allow()
    allowed = history.shared[ALLOWED]
    history.kill_after(victims[1], dice.randrange(allowed // 2, allowed))
    for party in steady:
        history.wait_for(party, allowed)
    calls = {op.name for op in history.check()}
    assert calls == {*page_client.CALLS, "allocate"}


@pytest.mark.parametrize("number", range(HISTORIES))
def test_memory_nodes_of_a_coordinator_are_killed_and_stopped(tmp_path, number):
    (tmp_path / "state").mkdir()
    with epochs.together(tmp_path / "state", 2) as where, where.client() as cluster, made(cluster, SHORT, 2) as store:
        with contextlib.ExitStack() as stack:
            history = History(stack, Place(where.address, epochs.SECRET), store, tmp_path, SEED + number)
            patient = [*history.start(4)]  # they wait for a node that is stopped, and get its late answers
            hasty, victim = history.start(2, peer_timeout=2.0)
            history.kill_after(victim, history.dice.randrange(5, 60))
            with the_next_epoch(where, history, [*patient, hasty]) as primary:
                primary.kill()
            with the_next_epoch(where, history, [*patient, hasty]) as primary:
                primary.stop()
                all_go_on(history, [hasty], 60)
                primary.go_on()
            history.check()


@contextlib.contextmanager
def the_next_epoch(where, history, steady):
    """The block puts an end to the present one. All go on with the copy that is left, and another one is made."""
    where.more()
    all_go_on(history, steady, history.dice.randrange(5, 60))
    epoch = history.store.health()["epoch"]
    yield where.node_of(history.store, 0)
    epochs.eventually(lambda: history.store.health()["epoch"] > epoch)
    all_go_on(history, steady, 30)
    epochs.eventually(lambda: len(history.store.health()["copies"]) == 2)


def all_go_on(history, steady, steps):
    before = [history.done(party) for party in steady]
    history.allow()
    for party, there in zip(steady, before, strict=True):
        history.wait_for(party, there + steps)
