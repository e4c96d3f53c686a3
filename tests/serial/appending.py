"""A client of a recorded history: it appends to lists in pages, in transactions, and writes down what it was told.

A line says what a transaction did and what became of it. One before says what it is about to do, before it can have
done it: so the last one of a process that was killed is known, too.
"""

from __future__ import annotations

import contextlib
import os
import random
import time

import numpy as np
from store_nodes import client

import dsmem
from dsmem import errors

PAGE = 4096
FULL = PAGE // 4 - 8  # values of a list; the first word of its page says how many


class Log:
    """Lines of one write() each."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, *what):
        os.write(self.fd, repr(what).encode() + b"\n")


def values_of(raw):
    words = np.frombuffer(raw, "u4")
    return tuple(words[1 : 1 + words[0]].tolist())


def page_of(values):
    words = np.zeros(PAGE // 4, "u4")
    words[: 1 + len(values)] = len(values), *values
    return words.tobytes()


class Client:
    """One that goes by the rules: in each transaction a few reads and appends, or one of the calls beside them."""

    def __init__(self, store, pids, log, party):
        self.store, self.pids, self.log = store, pids, log
        self.dice = random.Random(party)
        self.next_value = party * 1_000_000

    def append(self, ops, key, values):
        """The list with one value more; one that is full stays as it is."""
        if len(values) < FULL:
            self.next_value += 1
            ops.append(("append", key, self.next_value))
            values = (*values, self.next_value)
        return values

    def transaction(self, ops):
        with self.store.transaction() as tx:
            for _ in range(self.dice.randrange(1, 5)):
                key = self.dice.randrange(len(self.pids))
                values = values_of(tx.read(self.pids[key]))
                ops.append(("read", key, values))
                if self.dice.random() < 0.6:
                    tx.write(self.pids[key], page_of(self.append(ops, key, values)))
            if self.dice.random() < 0.3:
                time.sleep(self.dice.random() * 1e-3)  # so that others come between
            self.say(ops)

    def single(self, ops):
        """An append by a call of its own."""
        key = self.dice.randrange(len(self.pids))
        version = self.store.version(self.pids[key])
        values = values_of(self.store.read(self.pids[key]))
        ops.append(("read", key, values))
        after = self.append(ops, key, values)
        self.say(ops)
        self.store.compare_write(self.pids[key], version, page_of(after))

    def snapshot(self, ops):
        keys = self.dice.sample(range(len(self.pids)), 3)
        self.say(ops)
        rows = self.store.snapshot([self.pids[key] for key in keys], timeout=0)
        ops += [("read", key, values_of(row.tobytes())) for key, row in zip(keys, rows, strict=True)]

    def say(self, ops):
        self.log(self.begin, ops)

    def once(self):
        ops = []
        self.begin = time.monotonic_ns()
        what = self.dice.choices((self.transaction, self.single, self.snapshot), (6, 2, 1))[0]
        try:
            what(ops)
            outcome = "committed"
        except (errors.ConflictError, errors.BusyError, errors.TimeoutError):
            outcome = "aborted"
        except errors.OutcomeUnknownError:
            outcome = "unknown"
        self.log(self.begin, ops, time.monotonic_ns(), outcome)
        if outcome != "committed":
            time.sleep(self.dice.random() * 1e-3)  # so that others get on


class Careless(Client):
    """One that reads outside of its transaction, which so does not know what it is to prove."""

    meeting = None

    def once(self):
        ops = []
        self.begin = time.monotonic_ns()
        values = values_of(self.store.read(self.pids[0]))
        ops.append(("read", 0, values))
        values = self.append(ops, 0, values)
        self.meeting.wait(60)  # the others have read, too
        self.say(ops)
        self.store.run(lambda tx: tx.write(self.pids[0], page_of(values)))
        self.log(self.begin, ops, time.monotonic_ns(), "committed")


@contextlib.contextmanager
def joined(where):
    """A cluster of this host, or of memory nodes."""
    with client(where) if where.startswith("tcp:") else dsmem.connect(where) as found:
        yield found[0] if isinstance(found, tuple) else found


def main(kind, where, pids, path, party, count, gate, meeting):
    Careless.meeting = meeting
    with joined(where) as cluster, cluster.store("s") as store:
        appender = globals()[kind](store, pids, Log(path), party)
        assert gate.wait(60)
        for _ in range(count):
            appender.once()
