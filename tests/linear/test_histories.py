"""Histories of processes that use one object, some of them killed in the middle, are linearisable.

A queue promises the order of each producer's messages and none between producers, so each lane is a history of its own;
a get that found nothing is part of all of them. Remotely, puts and atomics meet delays, and locks also broken
connections and lost acknowledgements: those are what the product repeats itself.

In a mixture half of the processes map the memory, the others use it by tcp, and so does a thread of the owner's, all
at once: they have one domain of atomicity, the owner's CPUs.
"""

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

import pytest
import recorder
from checker import Op, is_linearisable, lane, lock, register, word

import dsmem

SECRET = b"the secret of recorded histories"
JOIN_SECONDS = 60
DELAYS = "fault+shm://?delay=3:2ms&every=7"
UNTIL_KILLED = 10**6
FASTER, TOGETHER = 4, 4
BREAKS = "fault+shm://?delay=3:2ms&fail=11&failafter=17&every=23"

TCP_DELAYS = "fault+tcp://?delay=3:2ms&every=7"
TCP_BREAKS = "fault+tcp://?delay=3:2ms&fail=11&failafter=17&every=23"


class Fabrics(NamedTuple):
    """The owner's, and those that the processes have in turn; None is the local place."""

    owner: str | None
    users: tuple[str | None, ...]


LOCAL = Fabrics(None, (None,))
DELAYED = Fabrics("fault+shm", (DELAYS,))
BROKEN = Fabrics("fault+shm", (BREAKS,))
MIXED = {
    "mixed": Fabrics("shm,tcp", ("shm", "tcp")),
    "mixed-delays": Fabrics("shm,tcp", ("shm", TCP_DELAYS)),
    "mixed-breaks": Fabrics("shm,tcp", ("shm", TCP_BREAKS)),
}

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["dsmem", "pytest"])


class History:
    """Processes that use an object; ops() when they have ended."""

    def __init__(self, stack, name, folder, fabrics):
        self.folder, self.fabrics = folder, fabrics
        context = None
        if fabrics.owner:
            context = stack.enter_context(dsmem.Context(fabrics.owner, secret=SECRET))
        self.cluster = stack.enter_context(dsmem.connect(name, context=context))
        self.stack, self.running, self.deaths, self.here = stack, [], [], {}
        self.threads = stack.enter_context(ThreadPoolExecutor())
        self.gate = processes.Event()  # all begin together

    def make(self, kind, **properties):
        self.obj = getattr(self.cluster, kind)("it", create=True, **properties)
        self.stack.callback(self.obj.close)
        self.stack.callback(self.obj.unlink)
        return self.obj

    def path(self, party):
        return self.folder / str(party)

    def start(self, job, count, *rounds):
        party = len(self.running)
        fabric = self.fabrics.users[party % len(self.fabrics.users)]
        args = (job.__name__, self.obj.ref, fabric, SECRET, self.gate, str(self.path(party)), party, count, *rounds)
        process = processes.Process(target=recorder.main, args=args)
        process.start()
        self.stack.callback(process.kill)
        self.running.append(process)
        return party

    def start_here(self, job, count, *rounds):
        """In a thread of the owner's, which has the last number."""
        party = len(self.running)

        def record():
            assert self.gate.wait(JOIN_SECONDS)
            job(self.obj, recorder.Log(self.path(party), *rounds), party, count)

        self.here[party] = self.threads.submit(record)

    def start_mixed(self, job, count):
        """Two processes of each fabric and a thread, in rounds; what is not by tcp is faster, and does more."""
        meet = processes.Barrier(5)
        for i in range(4):
            times = 1 if i % 2 else FASTER
            self.start(job, times * count, meet, times * TOGETHER)
        self.start_here(job, FASTER * count, meet, FASTER * TOGETHER)

    def kill_after(self, party, lines):
        """SIGKILL as soon as it has written so many lines."""
        self.gate.set()
        deadline = time.monotonic() + JOIN_SECONDS
        while not self.path(party).exists() or self.path(party).read_bytes().count(b"\n") < lines:
            assert time.monotonic() < deadline
        begin = time.monotonic_ns()
        self.running[party].kill()
        self.running[party].join(JOIN_SECONDS)
        self.deaths.append(Op(begin, time.monotonic_ns(), "death", (party,)))

    def ops(self):
        self.gate.set()
        killed = {death.args[0] for death in self.deaths}
        for party, process in enumerate(self.running):
            process.join(JOIN_SECONDS)
            assert process.exitcode == (-9 if party in killed else 0)
        for thread in self.here.values():
            thread.result(JOIN_SECONDS)
        return [op for party in {*range(len(self.running)), *self.here} for op in recorder.read(self.path(party))]


@pytest.fixture
def history(request, cluster_name, tmp_path):
    with ExitStack() as stack:
        yield History(stack, cluster_name, tmp_path, request.param)


def lanes(ops):
    """The history of each producer's lane."""
    for producer in {op.args[0][0] for op in ops if op.name == "put"}:
        yield [
            op
            for op in ops
            if (op.args[0][0] == producer if op.name == "put" else op.result is None or op.result[0] == producer)
        ]


def drained(obj):
    """What is left in a queue, as gets after everything else."""
    while obj.qsize():
        begin = time.monotonic_ns()
        value = tuple(int(part) for part in obj.get_nowait().split())
        yield Op(begin, time.monotonic_ns(), "get", (), value)


@pytest.mark.parametrize("history", [LOCAL], indirect=True)
@pytest.mark.parametrize(("producers", "consumers"), [(1, 1), (3, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize("deaths", [False, True])
def test_queues(history, producers, consumers, deaths):
    # The test takes out what is left, and that makes it one of several consumers.
    obj = history.make("queue", producers=8, consumers="many")
    for _ in range(producers):
        history.start(recorder.put_some, 1500)
    for _ in range(consumers):
        history.start(recorder.get_some, 3000)
    victims = [history.start(job, UNTIL_KILLED) for job in (recorder.put_some, recorder.get_some) if deaths]
    for victim in victims:
        history.kill_after(victim, 50)
    ops = history.ops()
    ops += drained(obj)
    assert all(is_linearisable(of_lane, lane, ()) for of_lane in lanes(ops))


@pytest.mark.parametrize("history", [DELAYED], indirect=True, ids=["delays"])
def test_queues_remotely(history):
    obj = history.make("queue", producers=4)
    for _ in range(2):
        history.start(recorder.put_some, 100)
    ops = history.ops()
    ops += drained(obj)
    assert all(is_linearisable(of_lane, lane, ()) for of_lane in lanes(ops))


@pytest.mark.parametrize("history", [LOCAL, DELAYED], indirect=True, ids=["local", "delays"])
@pytest.mark.parametrize("deaths", [False, True])
def test_words(history, deaths):
    history.make("segment", shape=4, dtype="i8")
    if deaths:
        victim = history.start(recorder.change_word, UNTIL_KILLED)
    for _ in range(3):
        history.start(recorder.change_word, 2000 if history.fabrics is LOCAL else 100)
    if deaths:
        history.kill_after(victim, 21)
    assert is_linearisable(history.ops(), word, 0)


@pytest.mark.parametrize("history", [LOCAL, DELAYED, BROKEN], indirect=True, ids=["local", "delays", "breaks"])
def test_locks(history):
    history.make("lock")
    for _ in range(3):
        history.start(recorder.take_turns, 1000 if history.fabrics is LOCAL else 25)
    assert is_linearisable(history.ops(), lock, (None, 0))


@pytest.mark.parametrize("history", [LOCAL], indirect=True)
def test_locks_of_the_killed(history):
    history.make("lock")
    victims = [history.start(recorder.take_turns, UNTIL_KILLED) for _ in range(2)]
    for _ in range(2):
        history.start(recorder.take_turns, 1000)
    for victim in victims:
        history.kill_after(victim, 41)
    assert is_linearisable(history.ops() + history.deaths, lock, (None, 0))


def mixtures(*names):
    return pytest.mark.parametrize("history", [MIXED[name] for name in names], indirect=True, ids=names)


@mixtures("mixed", "mixed-delays")
def test_words_of_several_fabrics(history):
    history.make("segment", shape=4, dtype="i8")
    history.start_mixed(recorder.change_word, 100)
    assert is_linearisable(history.ops(), word, 0)


@mixtures("mixed", "mixed-delays")
def test_registers_of_several_fabrics(history):
    history.make("segment", shape=4, dtype="i8")
    history.start_mixed(recorder.write_and_read, 100)
    assert is_linearisable(history.ops(), register, 0)


@mixtures("mixed", "mixed-delays", "mixed-breaks")
def test_locks_of_several_fabrics(history):
    history.make("lock")
    history.start_mixed(recorder.take_turns, 24)
    assert is_linearisable(history.ops(), lock, (None, 0))


@mixtures("mixed", "mixed-delays")
def test_queues_of_several_fabrics(history):
    obj = history.make("queue", producers=8, consumers="many")
    meet = processes.Barrier(4)
    for job in (recorder.put_some, recorder.get_some):
        history.start(job, FASTER * 100, meet, FASTER * TOGETHER)
        history.start(job, 100, meet, TOGETHER)
    ops = history.ops()
    ops += drained(obj)
    assert all(is_linearisable(of_lane, lane, ()) for of_lane in lanes(ops))
