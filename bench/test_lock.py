"""Claim: a lock that survives its holders costs no more than one that does not (multiprocessing.Lock)."""

import multiprocessing
import os
from contextlib import closing

import locks
import pytest

import dsmem

ALONE_TARGET = 0.2  # µs per acquire and release
CONTENDED_TARGET = 1.0  # times multiprocessing.Lock


@pytest.fixture
def local():
    name = f"bench-{os.getpid()}"
    with dsmem.connect(name) as cluster:
        yield cluster
        for info in cluster.list():
            cluster.unlink(info.name)


def test_alone(race, local):
    peer = multiprocessing.get_context("spawn").Lock()
    with closing(local.lock("lock", create=True)) as lock, closing(local.spinlock("spin", create=True)) as spin:
        ways = {"dsmem": lock, "spinlock": spin, "multiprocessing": peer}
        race.run(
            "lock and unlock, alone",
            "µs",
            {way: (lambda n, it=it: locks.alone(it, n)) for way, it in ways.items()},
            target=ALONE_TARGET,
        )


@pytest.mark.skipif(os.cpu_count() < 2, reason="takes two cores")
def test_contended(queue_race, local):
    context = multiprocessing.get_context("spawn")
    with closing(local.lock("lock", create=True)) as lock:
        ways = {"dsmem": lock, "multiprocessing": context.Lock()}
        with closing(locks.Contest(context, ways)) as contest:
            queue_race.run(
                "lock and unlock, two processes want it all the time",
                "µs",
                {way: contest.contestant(way) for way in ways},
                target=CONTENDED_TARGET,
                relative=True,
                bound="multiprocessing",
            )
