"""What the other host does in a test: other.py runs these functions there."""

import random
import threading
import time

from accounts import SECONDS, memory
from names_server import running
from paging import number_of, page, transfer

import dsmem
from dsmem import errors
from dsmem.clock import Lamport
from dsmem.names.server import NameServer

AWAY = (errors.TransportError, errors.PeerDeadError, errors.TimeoutError)  # of nodes and of the coordinator


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


class Node:
    """A memory node: the names of a host, which those that are cut off lose at once."""

    def __init__(self, context):
        self._context = context
        self._running = running(NameServer(context, grace=0))
        self._running.__enter__()

    def at(self):
        return self._context.agent_address.removeprefix("tcp:")

    def close(self):
        self._running.__exit__(None, None, None)


class Transfers(threading.Thread):
    """They move money between the accounts of a store, until it is closed."""

    def __init__(self, context, address, accounts):
        super().__init__(daemon=True)
        self.context, self.address, self.accounts = context, address, accounts
        self.made, self.failed, self.over = 0, "", False
        self.start()

    def run(self):
        dice = random.Random(len(self.accounts))
        try:
            with dsmem.connect(self.address, context=self.context) as cluster, cluster.store("s") as store:
                while not self.over:
                    transfer(store, self.accounts, dice)
                    self.made += 1
        except Exception as error:
            self.failed = repr(error)

    def close(self):
        self.over = True
        self.join(SECONDS)


class Moves(threading.Thread):
    """Moves money between pages of a store, and counts that in a page of its own, until it is to end."""

    def __init__(self, context, address, accounts):
        super().__init__(daemon=True)
        self.context, self.address, self.accounts = context, address, accounts
        self.made = self.unknown = self.refused = 0  # transfers
        self.found, self.failed = 0, ""
        self.over = threading.Event()
        self.start()

    def run(self):
        try:
            with dsmem.connect(self.address, context=self.context) as cluster, cluster.store("db") as store:
                self.counter = store.allocate()
                store.write(self.counter, page(0))
                while not self.over.is_set():
                    self.step(store)
                self.found = number_of(store.read(self.counter))
        except Exception as error:
            self.failed = repr(error)

    def step(self, store):
        payer, payee = random.sample(self.accounts, 2)

        def move(tx):
            for pid, more in ((payer, -1), (payee, 1), (self.counter, 1)):
                tx.write(pid, page(number_of(tx.read(pid)) + more))

        try:
            store.run(move, timeout=5)
            self.made += 1
        except errors.OutcomeUnknownError:
            self.unknown += 1
        except (*AWAY, errors.BusyError, errors.ConflictError):
            self.refused += 1

    def progress(self):
        """How many transfers are made. It fails if there will be no more."""
        assert not self.failed, self.failed
        return self.made

    def close(self):
        """End, and return what was found in its page, and the transfers that are known to be made, and that are not."""
        self.over.set()
        self.join(SECONDS)
        return self.failed, self.found, self.made, self.unknown


class Reads(threading.Thread):
    """Reads a page again and again: when each read was begun, by the clock that all namespaces have, and its number."""

    def __init__(self, context, address, pid):
        super().__init__(daemon=True)
        self.context, self.address, self.pid = context, address, pid
        self.seen = []
        self.refused, self.failed = 0, ""
        self.over = threading.Event()
        self.start()

    def run(self):
        try:
            with dsmem.connect(self.address, context=self.context) as cluster, cluster.store("db") as store:
                while not self.over.is_set():
                    begun = time.monotonic()
                    try:
                        self.seen.append((begun, number_of(store.read(self.pid))))
                    except AWAY:
                        self.refused += 1
        except Exception as error:
            self.failed = repr(error)

    def progress(self):
        assert not self.failed, self.failed
        return len(self.seen)

    def close(self):
        self.over.set()
        self.join(SECONDS)
        return self.failed, self.seen
