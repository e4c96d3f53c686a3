"""The threads of a coordinator that ask memory nodes, with a node that answers what a test says."""

import queue
import threading
import time
from types import SimpleNamespace

import pytest

from dsmem import errors
from dsmem.membership import events, workers
from dsmem.membership.state import Node
from dsmem.membership.workers import Job, Worker
from dsmem.names import wire

SECONDS = 30
STANDING = SimpleNamespace(encode=lambda: b"")


class Desk:
    """A memory node: for each request there is a queue of answers, of which the last one stays."""

    def __init__(self):
        self.answers = {b"node": [wire.success(wire.number(7), b"probe")]}
        self.asked = []
        self.readable = True
        self.told = queue.SimpleQueue()
        self.reaches = lambda since: False

    def call(self, request, limit):
        self.asked.append(request)
        answers = self.answers[request]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def read(self, descriptor, seconds):
        assert descriptor == b"probe"
        if not self.readable:
            raise errors.TransportError("the link is down")

    def close(self):
        pass

    def next(self, kind):
        """The next event of this kind; the others are left out."""
        while True:
            event = self.told.get(timeout=SECONDS)
            if isinstance(event, kind):
                return event


@pytest.fixture
def desk(monkeypatch):
    desk = Desk()
    monkeypatch.setattr(workers._core, "Service", lambda *_: desk)
    monkeypatch.setattr(workers, "Probe", lambda *_: desk)
    monkeypatch.setattr(workers.messages, "to_node", lambda *_: b"node")
    return desk


@pytest.fixture
def working(desk):
    made = []

    def start(limit=0.05):
        node = Node(7, "tcp://10.0.0.7:7700", "host")
        times = 0.001, limit
        made.append(Worker(None, node, desk.told.put, *times, lambda: STANDING, lambda since: desk.reaches(since)))
        return made[-1]

    yield start
    for worker in made:
        worker.end()
        assert worker.ended(time.monotonic() + SECONDS)


def job(request, refused=True, limit=SECONDS):
    return Job(
        request,
        lambda raw: events.Closed(1, 1, 7, raw),
        (lambda error: events.Refused(1, 1, 7, error.detail)) if refused else None,
        limit,
    )


NOT_YET = wire.failure(wire.NotYetError("not ready"))


def test_a_node_that_is_not_ready_is_asked_again_behind_others(desk, working):
    desk.answers |= {b"slow": [NOT_YET] * 20 + [wire.success(b"slow")], b"fast": [wire.success(b"fast")]}
    worker = working()
    worker.do(job(b"slow"))
    worker.do(job(b"fast"))
    assert [desk.next(events.Closed).descriptor for _ in range(2)] == [b"fast", b"slow"]
    assert desk.asked.count(b"slow") == 21 and desk.asked.count(b"fast") == 1


def test_one_that_is_not_ready_in_time_counts_as_refused(desk, working):
    desk.answers[b"never"] = [NOT_YET]
    working().do(job(b"never", limit=0.02))
    assert "not ready after" in desk.next(events.Refused).reason


def test_what_can_not_be_refused_is_asked_until_it_is_done(desk, working):
    desk.answers[b"drop"] = [NOT_YET] * 20 + [wire.success()]
    working().do(job(b"drop", refused=False, limit=0.0))
    desk.next(events.Closed)


def test_what_waits_is_forgotten_once_the_node_is_silent(desk, working):
    """The coordinator decides again what it is asked for."""
    asked = threading.Event()
    there = desk.answers[b"node"][0]
    desk.answers[b"slow"] = [NOT_YET]
    worker = working()
    worker.do(job(b"slow"))
    while b"slow" not in desk.asked:
        asked.wait(0.001)
    desk.answers[b"node"] = [errors.PeerDeadError("gone"), errors.PeerDeadError("gone"), there]
    desk.next(events.Silent)
    desk.next(events.Heard)
    count = desk.asked.count(b"slow")
    for _ in range(20):
        desk.next(events.Heard)
    assert desk.asked.count(b"slow") == count


def test_what_waits_is_asked_again_while_clients_let_it_look(desk, working):
    desk.answers[b"slow"] = [NOT_YET] * 5 + [wire.success(b"slow")]
    worker = working()
    call, desk.call = desk.call, lambda request, limit: worker._jobs.put(None) or call(request, limit)
    worker.do(job(b"slow"))
    assert desk.next(events.Closed).descriptor == b"slow"


def test_what_can_not_be_refused_is_asked_again_when_it_was(desk, working, monkeypatch):
    monkeypatch.setattr(workers, "_PAUSE_REFUSED", 0.001)
    desk.answers[b"drop"] = [wire.failure(errors.BusyError("in use"))] * 3 + [wire.success()]
    working().do(job(b"drop", refused=False, limit=0.0))
    desk.next(events.Closed)


def test_a_read_that_fails_once(desk, working):
    """No node is left out for that: as long as it may be silent reads are tried again, and then they count again."""
    began = []
    desk.reaches = lambda since: began.append(since) or True
    working(SECONDS)
    desk.readable = False
    for _ in range(50):
        assert isinstance(desk.told.get(timeout=SECONDS), events.Heard)
    assert not began


def test_reads_that_have_failed_before_one_has_not(desk, working):
    began = []
    desk.reaches = lambda since: began.append(since) or True
    worker = working()
    for _ in range(2):
        desk.readable = False
        desk.next(events.Silent)
        desk.readable = True
        desk.next(events.Heard)
        assert worker.reached >= began[-1]
    assert len({*began}) == 2


def test_memory_that_can_not_be_read(desk, working, caplog):
    """The node counts as silent if memory of another one was read since, and is heard again as soon as it is read."""
    working()
    desk.next(events.Heard)
    desk.readable = False
    for _ in range(100):
        assert isinstance(desk.told.get(timeout=SECONDS), events.Heard), "it may be the coordinator's own device"
    began = []
    desk.reaches = lambda since: began.append(since) or True
    assert "its memory can't be read" in desk.next(events.Silent).reason
    desk.next(events.Silent)
    desk.readable = True
    desk.next(events.Heard)
    assert len(set(began)) == 1, "since the first read that has failed"
    assert len([record for record in caplog.records if "can't be read" in record.message]) == 1
