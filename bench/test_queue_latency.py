"""Claim: a message and its answer take little more than the hand-over of a word that they can't do without."""

import pytest
import queues
from handover import Handover
from handover import answer as answer_handover
from queues import Dsmem, FasterFifo, Iceoryx, MpQueue, Mqueue, Pipe, Player, Zmq

POLLING_TARGET = 1.0  # µs
BLOCKING_TARGET = 1.15
ASYNC_TARGET = 30.0  # µs


@pytest.fixture
def handover(tmp_path):
    """Both processes' ends of it, as a contestant, and the process that answers."""

    def make(sleeps):
        way = Handover(tmp_path, sleeps=sleeps)
        other = Player([(way, "get")])
        made.append((way, other))
        mine = way.open("put")

        def run(number):
            other.start(answer_handover, 0, arguments=(number,))
            spent = mine.ask(number)
            other.times()
            return spent

        return run, other

    made = []
    yield make
    for way, other in made:
        other.close()
        way.unlink()


def test_polling(queue_race, at_hand, handover):
    """On two cores. What has no call that polls waits as it does; 'word' is the same in C without any queue."""
    classes = at_hand(Dsmem, Iceoryx, Zmq, Pipe)
    how = {"dsmem": {"spin": 1.0}}
    pairs = [tuple(c(**how.get(c.name, {})) for _ in range(2)) for c in classes]
    word, answers = handover(sleeps=False)
    with queues.round_trip(pairs) as (trip, other), queues.placed([other, answers], -1):
        ways = {c.name: trip(i) for i, c in enumerate(classes)}
        queue_race.run("round trip of 8 B, polling", "µs", {**ways, "word": word}, target=POLLING_TARGET)


def test_blocking(queue_race, at_hand, handover):
    """Both on one core, where a core that has to be woken does not drown everything."""
    classes = at_hand(Dsmem, Zmq, FasterFifo, Pipe, MpQueue, Mqueue)
    how = {"dsmem": {"spin": 0}}
    pairs = [tuple(c(**how.get(c.name, {})) for _ in range(2)) for c in classes]
    futex, answers = handover(sleeps=True)
    with queues.round_trip(pairs) as (trip, other), queues.placed([other, answers]):
        ways = {c.name: trip(i) for i, c in enumerate(classes)}
        queue_race.run(
            "round trip of 8 B, blocking, on one core",
            "µs",
            {**ways, "futex": futex},
            target=BLOCKING_TARGET,
            relative=True,
            bound="futex",
        )


def test_async(queue_race, at_hand):
    """The other process answers from an event loop; 'blocking' is dsmem's answer without one. On one core."""
    dsmem = at_hand(Dsmem)[0]
    pairs = [(dsmem(spin=0), dsmem(spin=0))]
    peers = at_hand(Zmq)
    pairs += [(c(with_asyncio=True), c()) for c in peers]
    with queues.round_trip(pairs) as (trip, other), queues.placed([other]):
        ways = {c.name: trip(i, answer=queues.answer_async) for i, c in enumerate([dsmem, *peers])}
        queue_race.run(
            "round trip of 8 B, answered by asyncio",
            "µs",
            {**ways, "blocking": trip(0)},
            target=ASYNC_TARGET,
            bound="blocking",
        )
