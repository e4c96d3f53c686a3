"""Claim: to read or write a slice of a segment costs at most 0.1 µs more than a copy between slices of memoryviews.

A process that sleeps until an element changes wakes as soon as from a bare futex.
"""

import os

import numpy as np
import pytest
import queues
import words
from handover import bounds, round_trips

import dsmem

NBYTES = 1 << 20
SLICE_TARGET = 0.1  # µs beyond memoryview
WAKE_TARGET = 1.15  # times a futex


@pytest.fixture(scope="module")
def segment():
    with dsmem.connect(f"bench-{os.getpid()}") as cluster:
        with cluster.segment("bytes", NBYTES, "u1", create=True, lifetime="creator") as segment:
            yield segment
        cluster.unlink("bytes")


@pytest.mark.parametrize("op", ["read", "write"])
@pytest.mark.parametrize("size", [8, 64, 4096, 65536])
def test_slice(race, segment, python, op, size):
    buffer = np.zeros(size, np.uint8)
    plain = np.zeros(NBYTES, np.uint8)
    shm, local = memoryview(plain), memoryview(bytearray(size))
    statements = {
        "read": ("f(slice(64, end), buffer)", "local[:] = shm[64:end]", "buffer[:] = plain[64:end]"),
        "write": ("f(slice(64, end), buffer)", "shm[64:end] = local", "plain[64:end] = buffer"),
    }
    ours, by_view, by_numpy = statements[op]
    race.run(
        f"segment {op} of a slice, {size} B",
        "µs",
        {
            "dsmem": python(ours, f=getattr(segment, op), buffer=buffer, end=64 + size),
            "memoryview": python(by_view, local=local, shm=shm, end=64 + size),
            "numpy": python(by_numpy, buffer=buffer, plain=plain, end=64 + size),
        },
        target=SLICE_TARGET,
        bound="memoryview",
    )


def test_fetch_add(race, python):
    with dsmem.connect(f"bench-{os.getpid()}") as cluster:
        with cluster.segment("words", 8, "i8", create=True, lifetime="creator") as segment:
            race.run("segment fetch_add", "µs", {"dsmem": python("f(3, 1)", f=segment.fetch_add)})
        cluster.unlink("words")


def test_wake(queue_race, tmp_path):
    """On one core, where a core that has to be woken does not drown everything; 'futex, timed' as in queues."""
    with (
        bounds(tmp_path, 1, 2) as ((futex, timed), answers),
        queues.removed([words.Words()]) as (way,),
        queues.Player([(way, "get")]) as other,
        queues.opened([way], "put") as (mine,),
        queues.placed([other, *answers]),
    ):
        queue_race.run(
            "round trip of two waiters that sleep, on one core",
            "µs",
            {"dsmem": round_trips(mine, other, words.answer), "futex": futex, "futex, timed": timed},
            target=WAKE_TARGET,
            relative=True,
            bound="futex",
        )
