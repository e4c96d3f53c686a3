"""Claim: many small ops in one call cost a few nanoseconds each; ops of a batch, a fraction of a microsecond."""

import numpy as np
import pytest

MANY = 64
MANY_TARGET = 80.0  # Mops/s
BATCH_TARGET = 5.0


@pytest.fixture
def offsets():
    return np.random.default_rng(1).permutation((1 << 20) // 8)[:MANY].astype(np.uint64) * 8


@pytest.mark.parametrize("op", ["read_many", "write_many"])
def test_many(race, remote, python, by_mpi, offsets, op):
    buffer = np.zeros(MANY, np.uint64)
    words, index = remote.array("u8"), (offsets // 8).astype(np.int64)
    fancy = {"read_many": "words.take(index, out=buffer, mode='clip')", "write_many": "words[index] = buffer"}
    race.run(
        f"{op} {MANY} × 8 B",
        "Mops/s",
        {
            "dsmem": python("f(offsets, buffer)", f=getattr(remote, op), offsets=offsets, buffer=buffer),
            **by_mpi(op),
            "numpy": python(fancy[op], words=words, index=index, buffer=buffer),
        },
        amount=MANY / 1e6,
        target=MANY_TARGET,
    )


BATCH = """
with batch() as b:
    read, write, fetch_add = b.read, b.write, b.fetch_add
    for at, out in pieces[:24]:
        read(remote, at, out)
    for at, out in pieces[24:48]:
        write(remote, at, out)
    results = [fetch_add(remote, 0, 1) for _ in range(16)]
"""


def test_batch(race, context, remote, python, by_mpi, offsets):
    """24 reads and 24 writes of 8 bytes and 16 fetch-adds."""
    buffer = np.zeros(MANY, np.uint64)
    pieces = [(int(at), buffer[i : i + 1]) for i, at in enumerate(offsets)]
    race.run(
        f"batch() of {MANY} mixed ops",
        "Mops/s",
        {"dsmem": python(BATCH, batch=context.batch, remote=remote, pieces=pieces), **by_mpi("batch")},
        amount=MANY / 1e6,
        target=BATCH_TARGET,
    )
