"""Claim: a message and its answer take little more than the hand-over of a word that they can't do without."""

import queues
from handover import bounds
from queues import Dsmem, FasterFifo, Iceoryx, MpQueue, Mqueue, Pipe, Zmq

POLLING_TARGET = 1.0  # µs
BLOCKING_TARGET = 1.15
ASYNC_TARGET = 30.0  # µs


def test_polling(queue_race, at_hand, tmp_path):
    """On two cores. What has no call that polls waits as it does; 'word' is the same in C without any queue."""
    classes = at_hand(Dsmem, Iceoryx, Zmq, Pipe)
    how = {"dsmem": {"spin": 1.0}}
    pairs = [tuple(c(**how.get(c.name, {})) for _ in range(2)) for c in classes]
    with (
        bounds(tmp_path, 0) as ((word,), answers),
        queues.round_trip(pairs) as (trip, other),
        queues.placed([other, *answers], -1),
    ):
        ways = {c.name: trip(i) for i, c in enumerate(classes)}
        queue_race.run("round trip of 8 B, polling", "µs", {**ways, "word": word}, target=POLLING_TARGET)


def test_blocking(queue_race, at_hand, tmp_path):
    """Both on one core, where a core that has to be woken does not drown everything.

    'futex, timed' is what a sleeper pays that looks for itself after a while, lest its waker has died.
    """
    classes = at_hand(Dsmem, Zmq, FasterFifo, Pipe, MpQueue, Mqueue)
    how = {"dsmem": {"spin": 0}}
    pairs = [tuple(c(**how.get(c.name, {})) for _ in range(2)) for c in classes]
    with (
        bounds(tmp_path, 1, 2) as ((futex, timed), answers),
        queues.round_trip(pairs) as (trip, other),
        queues.placed([other, *answers]),
    ):
        ways = {c.name: trip(i) for i, c in enumerate(classes)}
        queue_race.run(
            "round trip of 8 B, blocking, on one core",
            "µs",
            {**ways, "futex": futex, "futex, timed": timed},
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
