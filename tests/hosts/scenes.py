"""What the other host does in a test: other.py runs these functions there."""

import contextlib

from accounts import SECONDS, memory

import dsmem
from dsmem.clock import Lamport

_open = contextlib.ExitStack()


def context(fabric, listen, secret, **options):
    return dsmem.Context(fabric, listen=listen, secret=secret, **options)


def accounts(owner):
    """A region for the users of accounts.py."""
    return owner.copy(memory())


def words(region):
    return region.array("u8")[:8].tolist()


def make(cluster, kind, *args, **kwargs):
    return getattr(cluster, kind)(kind, *args, create=True, **kwargs)


def cluster(owner):
    return dsmem.connect(context=owner)


def take(queue, count):
    return [queue.get(timeout=SECONDS) for _ in range(count)]


def count(lock, segment, times):
    """Count under the lock, in a plain element."""
    for _ in range(times):
        with lock:
            segment.write(0, int(segment.read(0)) + 1)


def meet(barrier, event):
    """Meet the others, and tell them."""
    barrier.wait(SECONDS)
    event.set()


def put(queue, messages):
    for message in messages:
        queue.put(message, timeout=SECONDS)


def waits_for(condition, segment, value):
    """Wait until an element has a value, and set it to another."""
    with condition:
        assert condition.wait_for(lambda: segment.read(0) == value, timeout=SECONDS)
        segment.write(0, value + 1)
        condition.notify_all()


def sends(clock):
    """The time of the next event."""
    return Lamport(clock).send()


def held(client, address):
    """Take a lock by its name, and keep it."""
    lock = dsmem.connect(address, context=client).lock("lock")
    assert lock.acquire(timeout=SECONDS)
    return lock
