"""Claim: a queue between two processes moves more than five million messages a second from Python, in batches far more.

Each process has a core of its own.
The peers that can't take a batch apart send it as one message, of many parts, pickled, or of all rows of an array.
"""

import contextlib

import numpy as np
import pytest
import queues
from queues import Dsmem, FasterFifo, Iceoryx, MpQueue, Mqueue, Pipe, Player, Zmq

SINGLY_TARGET = 5.0  # M messages/s
LISTS_TARGET = 12.0
RECORDS_TARGET = 60.0
MANY_TARGET = 2.0
BANDWIDTH_TARGET = 0.80
BATCH, ROWS = 100, 1000


@pytest.mark.parametrize("nbytes", [8, 64])
def test_singly(queue_race, at_hand, nbytes):
    classes = at_hand(Dsmem, Zmq, FasterFifo, Pipe, MpQueue, Mqueue, Iceoryx)
    with queues.line(classes, iceoryx2={"nbytes": nbytes}) as transfer:
        queue_race.run(
            f"put, get of {nbytes} B",
            "Mmsg/s",
            {c.name: transfer(i, queues.put_each, queues.get_each, bytes(nbytes)) for i, c in enumerate(classes)},
            amount=1e-6,
            target=SINGLY_TARGET,
        )


def test_lists(queue_race, at_hand):
    classes, data = at_hand(Dsmem, Zmq, FasterFifo, Pipe, MpQueue), [bytes(8)] * BATCH
    with queues.line(classes) as transfer:
        ways = {
            c.name: transfer(i, queues.put_lists, queues.get_lists, data, per_call=BATCH) for i, c in enumerate(classes)
        }
        queue_race.run(f"lists of {BATCH} × 8 B", "Mmsg/s", ways, amount=BATCH / 1e6, target=LISTS_TARGET)


def arrays(transfer, classes, data):
    out = np.zeros_like(data)
    return {
        c.name: transfer(i, queues.put_lists, queues.get_arrays, data, out, per_call=len(data))
        for i, c in enumerate(classes)
    }


def test_records(queue_race, at_hand):
    classes, data = at_hand(Dsmem, Zmq, Pipe), np.ones((ROWS, 1), "u8")
    with queues.line(classes) as transfer:
        ways = arrays(transfer, classes, data)
        queue_race.run(f"arrays of {ROWS} × 8 B", "Mmsg/s", ways, amount=ROWS / 1e6, target=RECORDS_TARGET)


def test_bandwidth(queue_race, at_hand, remote, copy):
    """Memcpy copies the same batch to another place each time, as caches do not hold what passes between cores."""
    classes, data = at_hand(Dsmem, Zmq, Pipe), np.ones((BATCH, 1024), "u1")
    shm, places = remote.array(), remote.nbytes // data.nbytes
    offsets = np.arange(BATCH, dtype=np.uint64) * 1024
    turns = iter(range(1 << 62))

    def memcpy(number):
        return sum(copy(shm[next(turns) % places * data.nbytes :], offsets, data, None, 1024, 1) for _ in range(number))

    with queues.line(classes) as transfer:
        queue_race.run(
            f"arrays of {BATCH} × 1 KiB",
            "GB/s",
            {**arrays(transfer, classes, data), "memcpy": memcpy},
            amount=data.nbytes / 1e9,
            target=BANDWIDTH_TARGET,
            relative=True,
        )


def test_many_to_many(queue_race, at_hand):
    """Two processes put, two others get half of it each; one of either kind on each core."""
    classes = at_hand(Dsmem, FasterFifo, MpQueue, Mqueue)
    how = {"dsmem": {"producers": 2, "consumers": "many"}}
    with queues.removed([c(**how.get(c.name, {})) for c in classes]) as ways, contextlib.ExitStack() as stack:
        getters, putters = (
            [stack.enter_context(Player([(way, role) for way in ways])) for _ in range(2)] for role in ("get", "put")
        )
        for k, pair in enumerate(zip(getters, putters, strict=True)):
            stack.enter_context(queues.placed(pair, -k))

        def contestant(i):
            def run(number):
                each = (number + 1) // 2
                for player in getters:
                    player.start(queues.get_each, i, arguments=(each,))
                for player in putters:
                    player.start(queues.put_each, i, arguments=(each, bytes(8)))
                start = min(player.times()[0] for player in putters)
                return (max(player.times()[1] for player in getters) - start) * number / (2 * each)

            return run

        queue_race.run(
            "put, get of 8 B, 2 to 2 processes",
            "Mmsg/s",
            {c.name: contestant(i) for i, c in enumerate(classes)},
            amount=1e-6,
            target=MANY_TARGET,
        )
