"""A new copy that a coordinator fills: what fills it ends when the store goes on without that copy. What was overtaken
is not said of a store, either.

The coordinator's threads are real; its nodes, and what copies pages, are played here.
"""

import logging
import threading
import time
from types import SimpleNamespace

import pytest

from dsmem import _core, errors
from dsmem.membership import coordinator, events
from dsmem.membership.coordinator import Coordinator
from dsmem.membership.pace import Pace
from dsmem.membership.state import Disk, Node

SECONDS = 60
STORE = 7


def eventually(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


class Worker:
    """Of a node that says nothing by itself."""

    def __init__(self, context, node, *rest):
        self.node = node

    def do(self, job):
        pass

    look = end = lambda self: None

    def ended(self, until):
        return True


class Remote:
    def __init__(self, descriptor):
        self.descriptor, self.attached = descriptor, True

    def detach(self):
        self.attached = False


class Filler:
    """Each round waits until a test lets it go on. It refuses to be closed meanwhile, as the real one does."""

    made: list = []  # noqa: RUF012

    def __init__(self, *remotes):
        self.remotes, self.rounds, self.closed, self.busy = remotes, 0, False, False
        self.may, self.left, self.fails = threading.Semaphore(0), 0, False
        Filler.made.append(self)

    def _wait(self):
        self.busy = True
        assert self.may.acquire(timeout=SECONDS)
        self.busy = False
        if self.fails:
            raise errors.AccessDeniedError("the copy was dropped")

    def round(self, most):
        self.rounds += 1
        self._wait()
        return {"passed": 10, "copied": 10, "left": self.left, "done": True}

    def finish(self, source):
        self._wait()

    def close(self):
        if self.busy:
            raise errors.BusyError("a round is under way")
        self.closed = True

    @property
    def has_ended(self):
        return self.closed and not any(remote.attached for remote in self.remotes)


class World:
    """Three nodes; a store with two copies has lost one, and the third node gets another."""

    def __init__(self, folder):
        Filler.made.clear()
        server = SimpleNamespace(answer=lambda does: None, stop=lambda: None)
        server.context = SimpleNamespace(attach=Remote)
        self.it = Coordinator(server, Disk(folder), 0.0, 1.0)
        self.it.start()
        for number in (1, 2):
            self.it.tell(events.Joined(Node(number, f"tcp://n{number}:1", f"rack{number}")))
        self.it.tell(events.Created(STORE, "test", "db", (256, 100, 8, 2), 0.0))
        self.closed(1, 1, 2)
        self.it.tell(events.Gone(2))
        self.closed(2, 1)
        self.it.tell(events.Joined(Node(3, "tcp://n3:1", "rack3")))
        self.it.tell(events.Closed(STORE, 2, 3, b"fresh"))
        self.filler = self.new_filler()
        eventually(lambda: self.filler.rounds == 1)

    def new_filler(self, number=1):
        eventually(lambda: len(Filler.made) == number)
        return Filler.made[-1]

    def closed(self, epoch, *nodes):
        for node in nodes:
            self.it.tell(events.Closed(STORE, epoch, node, b"%d of %d" % (node, epoch)))
        eventually(lambda: self.it._policy.state.stores[STORE].phase == "open")

    def at_rest(self):
        eventually(lambda: not self.it._threads)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(coordinator, "Worker", Worker)
    monkeypatch.setattr(_core, "StoreFill", Filler)
    monkeypatch.setattr(_core, "store_recover", lambda remotes, epoch: {})
    made = World(tmp_path)
    yield made
    for filler in Filler.made:
        filler.may.release(1000)
    assert made.it.stop(SECONDS)


def removed(world):
    world.it.tell(events.Removed(STORE))


def gone(world):
    world.it.tell(events.Gone(3))


def silent(world):
    world.it.tell(events.Silent(3))


OVERTAKEN = [removed, gone, silent]


def test_its_pace():
    pace = Pace(1000)
    assert pace.piece(4096) == 250 and pace.piece(100) == 100 and Pace(1).piece(4096) == 1
    assert pace.until(250, 10.0) == 10.25
    assert pace.until(500, 10.0) == 10.75  # of all fills together
    assert pace.until(100, 20.0) == 20.1  # and what was not used is gone
    assert Pace(None).piece(4096) == 4096 and Pace(None).until(1 << 40, 10.0) == 10.0


@pytest.mark.parametrize("overtakes", OVERTAKEN)
def test_it_ends_with_the_round_in_which_its_copy_is_given_up(world, overtakes):
    world.filler.left = 1000
    overtakes(world)
    world.filler.may.release(100)
    world.at_rest()
    assert world.filler.rounds == 1 and world.filler.has_ended and not world.it._fillers


@pytest.mark.parametrize("overtakes", OVERTAKEN)
def test_it_does_not_stay_where_its_last_round_comes_too_late(world, overtakes):
    overtakes(world)
    world.filler.may.release(1)
    world.at_rest()
    assert world.filler.has_ended and not world.it._fillers


@pytest.mark.parametrize("overtakes", OVERTAKEN)
def test_that_a_copy_which_was_given_up_can_not_be_filled_is_no_trouble(world, overtakes, caplog):
    caplog.set_level(logging.INFO, logger="dsmem")
    world.filler.fails = True
    overtakes(world)
    world.filler.may.release(1)
    world.at_rest()
    assert world.filler.has_ended and "can't be made" not in caplog.text
    assert not world.it._status._not_filled and not world.it._policy._rests


@pytest.mark.parametrize("overtakes", OVERTAKEN)
def test_one_that_waits_to_be_finished_ends(world, overtakes):
    """Its copy is about to count: the others are being closed."""
    world.filler.may.release(1)
    world.at_rest()
    assert world.it._policy.completing(STORE) and list(world.it._fillers)
    overtakes(world)
    world.at_rest()
    assert world.filler.has_ended and not world.it._fillers


@pytest.mark.parametrize("overtakes", OVERTAKEN)
def test_one_that_is_being_finished_ends_after_that(world, overtakes):
    world.filler.may.release(1)
    world.at_rest()
    world.it.tell(events.Closed(STORE, 3, 1, b"1 of 3"))
    eventually(lambda: world.filler.busy)
    overtakes(world)
    assert not world.filler.closed
    world.filler.may.release(1)
    world.at_rest()
    world.it.tell(events.Heard(1))
    assert world.filler.has_ended and not world.it._fillers


def test_it_ends_when_its_copy_counts(world):
    world.filler.may.release(2)
    world.at_rest()
    world.closed(3, 1)
    assert [copy.node for copy in world.it._policy.state.stores[STORE].copies] == [1, 3]
    world.at_rest()
    assert world.filler.has_ended and not world.it._fillers


def test_what_a_filler_of_before_says_is_not_taken_for_the_present_one(world):
    """Of a copy at the same node and in the same epoch, which was made again meanwhile."""
    silent(world)
    world.it.tell(events.Dropped(STORE, 3, world.it._policy.state.stores[STORE].making))
    world.it.tell(events.Heard(3))
    world.it.tell(events.Closed(STORE, 2, 3, b"fresh again"))
    world.new_filler(2)
    world.filler.may.release(1)
    eventually(lambda: len(world.it._threads) == 1)
    assert world.filler.has_ended and world.it._policy.filling(STORE).descriptor == b"fresh again"
    Filler.made[-1].may.release(1)
    world.at_rest()
    assert world.it._policy.completing(STORE).descriptor == b"fresh again"


# ---- what it says of steps that were overtaken ----


@pytest.fixture
def recovering(monkeypatch):
    """Recoveries wait, and fail then. An event for each: it has begun."""
    begun, go_on = threading.Semaphore(0), threading.Event()

    def recover(remotes, epoch):
        if epoch == 3:
            begun.release()
            assert go_on.wait(SECONDS)
            raise errors.CorruptError("of the copies of before")
        return {}

    def install():
        monkeypatch.setattr(_core, "store_recover", recover)
        return begun, go_on

    yield install
    go_on.set()


def test_a_recovery_that_was_overtaken_is_no_reason_why_a_store_is_not_open(world, recovering, caplog):
    begun, go_on = recovering()
    world.filler.may.release(1)
    world.at_rest()
    world.it.tell(events.Closed(STORE, 3, 1, b"1 of 3"))
    assert begun.acquire(timeout=SECONDS)
    gone(world)
    world.closed(4, 1)
    go_on.set()
    world.at_rest()
    assert "can't be opened" not in caplog.text and not world.it._status._not_opened


def test_a_refusal_that_comes_late_is_no_reason_why_a_store_is_not_open(world, caplog):
    world.it.tell(events.Refused(STORE, 1, 1, "the copy is of epoch 2"))
    assert "refuses" not in caplog.text and not world.it._status._not_opened
