"""Queues and locks whose users are killed elsewhere: what was acknowledged is there, and none takes over unfenced.

The other node is a process of its own, forked from the server of processes.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest
from processes import FABRIC, SECRET, shared_number, started

import dsmem
from dsmem import errors

TAKEN = 300  # messages before the producer is killed
LAST = b"from the producer that comes after"
LONGEST = 1200  # bytes of a message: the ring below holds about seven of them


def _context() -> dsmem.Context:
    return dsmem.Context(FABRIC, secret=SECRET, listen="127.0.0.1")


@pytest.fixture
def cluster() -> Iterator[dsmem.Cluster]:
    with _context() as context, dsmem.connect(context=context) as cluster:
        yield cluster


def _message(i: int) -> bytes:
    return i.to_bytes(8, "little") * (1 + i % (LONGEST // 8))


def _put_until_killed(pipe: Connection, ref: dsmem.Reference, many: bool, acknowledged: Any) -> None:
    with _context() as context, dsmem.attach(ref, context) as queue:
        i = 0
        while True:
            n = 1 + i % 5 if many else 1
            if many:
                queue.put_many([_message(i + k) for k in range(n)])
            else:
                queue.put(_message(i))
            i += n
            acknowledged.value = i  # their WRITEs are complete


@pytest.mark.parametrize("many", [False, True])
def test_a_producer_is_killed_in_mid_traffic(cluster: dsmem.Cluster, many: bool) -> None:
    """What came is whole, in order, without a gap, and nothing that was acknowledged is missing."""
    with cluster.queue("q", create=True, producers=2, capacity_bytes=1 << 13, max_message=LONGEST) as queue:
        acknowledged = shared_number()
        with started(_put_until_killed, queue.ref, many, acknowledged) as (process, _):
            got = [queue.get(timeout=60) for _ in range(TAKEN)]
            process.kill()
            process.join()
        with _context() as context, dsmem.attach(queue.ref, context) as successor:
            successor.put(LAST)  # in the other lane: the death is not proven here, so its lane is not free
            rest = queue.get_many(timeout=60)
            rest.remove(LAST)
            got += rest
            with _context() as third, dsmem.attach(queue.ref, third) as late:
                with pytest.raises(errors.TooManyMembersError):
                    late.put(b"no lane is left")
        assert len(got) >= max(acknowledged.value, TAKEN)
        assert got == [_message(i) for i in range(len(got))]


def _hold(pipe: Connection, ref: dsmem.Reference) -> None:
    with _context() as context, contextlib.closing(dsmem.attach(ref, context)) as lock:
        pipe.send(lock.acquire() and lock.token)
        pipe.recv()


@pytest.mark.parametrize("kind", ["lock", "spinlock"])
def test_a_holder_is_killed(cluster: dsmem.Cluster, kind: str) -> None:
    """A call that runs out of time says so; the lock stays the dead one's, for all that others try."""
    with contextlib.closing(getattr(cluster, kind)("l", create=True)) as lock:
        with started(_hold, lock.ref) as (process, pipe):
            assert pipe.recv() == 1
            with _context() as context, contextlib.closing(dsmem.attach(lock.ref, context)) as waiter:
                assert not waiter.acquire(timeout=0.1)
                process.kill()
                process.join()
                for handle in (lock, waiter, lock):
                    assert not handle.acquire(timeout=0.3) and not handle.acquire(False)
                    assert lock.locked() and handle.token is None
