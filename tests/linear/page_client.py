"""A client of a recorded history of a store: it makes calls of single pages, and writes down what it was told."""

import contextlib
import random
import time
from typing import NamedTuple

import numpy as np
from checker import CONFLICT, MISSING
from recorder import Log

import dsmem
from dsmem import errors

PAGES = 3  # all that the store has
NUMBERS = (1 << 40) - 1  # of an id: the number of the page
ALLOWED, ENDED, DONE = PAGES, PAGES + 1, PAGES + 2  # places behind those of the ids; the last is that of party 0
CALLS = {"write": 6, "compare_write": 6, "read": 8, "version": 2, "free": 1}
UNKNOWN = "unknown"  # a result: it may have happened
NOTHING, FULL = "nothing", "full"  # results that say nothing of a page: it has not happened


class Place(NamedTuple):
    """Where the cluster is: on this host, or with a secret at an address."""

    address: str
    secret: bytes | None = None
    peer_timeout: float = 90


class Client:
    """``shared`` has the present id of each page, how many steps are allowed so far, whether to end, and what was done.

    Ids are stored by the client that has allocated the page: no other one knows it, so none can free it before.
    """

    def __init__(self, store, shared, path, party, seed):
        self.store, self.shared, self.party = store, shared, party
        self.log = Log(path)
        self.dice = random.Random(f"{seed} {party}")
        self.count = 0
        self.out = np.empty(store.page_size // 8, "u8")

    def told(self, name, args, call):
        def result():
            try:
                return call()
            except errors.ConflictError:
                return CONFLICT
            except errors.PageNotFoundError:
                return MISSING
            except errors.StoreFullError:
                return FULL
            except errors.OutcomeUnknownError:
                return UNKNOWN
            except (errors.BusyError, errors.TimeoutError):
                return NOTHING

        return self.log(name, args, result)

    def step(self):
        pid = self.shared[self.dice.randrange(PAGES)]
        call = self.dice.choices(list(CALLS), CALLS.values())[0]
        if getattr(self, call)(pid) == MISSING:
            self.allocate()

    def read(self, pid):
        def value():
            self.store.read(pid, self.out)
            assert (self.out == self.out[0]).all(), "two versions in one page"
            return int(self.out[0])

        return self.told("read", (pid,), value)

    def version(self, pid):
        return self.told("version", (pid,), lambda: self.store.version(pid))

    def next_value(self):
        """One that no other write has, and the page that is full of it."""
        self.count += 1
        value = (self.party + 1) << 32 | self.count
        return value, np.full_like(self.out, value)

    def write(self, pid):
        value, data = self.next_value()
        return self.told("write", (pid, value), lambda: self.store.write(pid, data))

    def compare_write(self, pid):
        expected = self.version(pid)
        if not isinstance(expected, int):
            return expected
        value, data = self.next_value()
        return self.told("compare_write", (pid, expected, value), lambda: self.store.compare_write(pid, expected, data))

    def free(self, pid):
        return self.told("free", (pid,), lambda: self.store.free(pid))

    def allocate(self):
        pid = self.told("allocate", (), self.store.allocate)
        if isinstance(pid, int):
            self.shared[pid & NUMBERS] = pid

    def look(self):
        """What is there in the end."""
        for pid in self.shared[:PAGES]:
            self.read(pid)
            self.version(pid)

    def run(self):
        while not self.shared[ENDED]:
            if self.shared[DONE + self.party] < self.shared[ALLOWED]:
                self.step()
                self.shared[DONE + self.party] += 1
            else:  # a longer history would take the checker too long
                time.sleep(0.001)


@contextlib.contextmanager
def joined(place):
    with contextlib.ExitStack() as stack:
        own = None
        if place.secret:
            context = dsmem.Context("tcp", secret=place.secret, listen="127.0.0.1", peer_timeout=place.peer_timeout)
            own = stack.enter_context(context)
        yield stack.enter_context(dsmem.connect(place.address, context=own))


def main(place, shared, gate, path, party, seed):
    with joined(place) as cluster, cluster.store("s") as store:
        assert gate.wait(60)
        Client(store, shared, path, party, seed).run()
