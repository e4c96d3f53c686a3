"""Workloads over a store of pages: YCSB, SmallBank and TATP, a page for each record. ycsb.py runs them.

B. Cooper et al., Benchmarking Cloud Serving Systems with YCSB, SoCC 2010. M. Alomari et al., The Cost of
Serializability on Platforms That Use Snapshot Isolation, ICDE 2008 (SmallBank, with the mix of H-Store). S. Neuvonen
et al., Telecom Application Transaction Processing Benchmark Description 1.0, 2009. The tables of TATP lie in three
pages of each subscriber: what it is, its access data, and its special facilities with their call forwarding.

What differs: a store has no order, so that a scan of YCSB E is of records that follow each other by number; an update
replaces the whole record, and an insert one that was there.
"""

from typing import ClassVar

import numpy as np

THETA = 0.99
SCAN = 100  # records of a scan, at most
WORDS = 16  # that a workload uses of a page


class Choice:
    """Numbers below n, uniform or by a Zipf distribution; the frequent ones lie scattered."""

    def __init__(self, n, distribution, random):
        self.n, self.random = n, random
        self.sums = None
        if distribution == "zipf":
            weights = np.arange(1, n + 1) ** -THETA
            self.sums = np.cumsum(weights) / weights.sum()
            self.places = np.random.default_rng(1).permutation(n)  # the same for all clients

    def rank(self):
        """0 is the most frequent one."""
        if self.sums is None:
            return int(self.random.integers(self.n))
        return min(int(self.sums.searchsorted(self.random.random())), self.n - 1)

    def __call__(self):
        return self.rank() if self.sums is None else int(self.places[self.rank()])


class Workload:
    """The operations of a client: a name and a share of each in MIX, and a method of that name.

    A method returns how often its transactions were given up because of a conflict.
    """

    MIX: ClassVar = {}
    PAGES = 1  # of a record

    def __init__(self, store, pids, choice, random):
        self.store, self.pids, self.choice, self.random = store, pids, choice, random
        self.names = list(self.MIX)
        self.shares = np.cumsum(list(self.MIX.values())) / sum(self.MIX.values())
        self.out = np.zeros(store.page_size, "u1")
        self.data = np.ones(store.page_size, "u1")

    @staticmethod
    def first(number):
        """The words of a page at the beginning."""
        return [number]

    @classmethod
    def load(cls, store, records):
        """Make the pages; their ids, a row for each record."""
        pids = store.allocate_many(records * cls.PAGES)
        for first in range(0, len(pids), 64):
            some = pids[first : first + 64]
            pages = np.zeros((len(some), store.page_size), "u1")
            words = [cls.first(first + i) for i in range(len(some))]
            pages.view("i8")[:, : len(words[0])] = words
            store.write_many(some, pages)
        return pids.reshape(records, cls.PAGES)

    def next(self):
        """What comes next, as a name."""
        return self.names[int(self.shares.searchsorted(self.random.random(), side="right"))]

    def transact(self, function):
        attempts = 0

        def attempt(tx):
            nonlocal attempts
            attempts += 1
            return function(tx)

        self.store.run(attempt, timeout=60)
        return attempts - 1

    def words(self, tx, pid):
        return np.frombuffer(tx.read(int(pid)), "i8", WORDS).copy()

    def put(self, tx, pid, words):
        page = np.zeros(self.store.page_size // 8, "i8")
        page[: len(words)] = words
        tx.write(int(pid), page)

    @classmethod
    def check(cls, store, pids, results):
        """Raise if what is there is not what the clients say."""


class Ycsb(Workload):
    def pid(self):
        return int(self.pids[self.choice(), 0])

    def read(self):
        self.store.read(self.pid(), self.out)
        return 0

    def update(self):
        self.store.write(self.pid(), self.data)
        return 0

    def insert(self):
        """A record that takes the place of another one: the store does not grow."""
        self.store.write(int(self.pids[int(self.random.integers(len(self.pids))), 0]), self.data)
        return 0

    def scan(self):
        first, n = self.choice(), int(self.random.integers(1, SCAN + 1))
        self.store.read_many(self.pids[first : first + n, 0])
        return 0

    def modify(self):
        pid = self.pid()

        def add(tx):
            words = self.words(tx, pid)
            words[0] += 1
            self.put(tx, pid, words)

        return self.transact(add)


class YcsbA(Ycsb):
    MIX: ClassVar = {"read": 50, "update": 50}


class YcsbB(Ycsb):
    MIX: ClassVar = {"read": 95, "update": 5}


class YcsbC(Ycsb):
    MIX: ClassVar = {"read": 100}


class YcsbD(Ycsb):
    """Reads of what was inserted last, by this client."""

    MIX: ClassVar = {"read": 95, "insert": 5}

    def __init__(self, *args):
        super().__init__(*args)
        self.latest = int(self.random.integers(len(self.pids)))

    def pid(self):
        return int(self.pids[(self.latest - self.choice.rank()) % len(self.pids), 0])

    def insert(self):
        self.latest = (self.latest + 1) % len(self.pids)
        self.store.write(int(self.pids[self.latest, 0]), self.data)
        return 0


class YcsbE(Ycsb):
    MIX: ClassVar = {"scan": 95, "insert": 5}


class YcsbF(Ycsb):
    MIX: ClassVar = {"read": 50, "modify": 50}


class SmallBank(Workload):
    """Two pages of each customer: savings and checking. What the clients paid in is in the bank at the end."""

    PAGES = 2
    MIX: ClassVar = {"balance": 15, "deposit": 15, "save": 15, "amalgamate": 15, "cheque": 25, "pay": 15}
    START = 10_000

    def __init__(self, *args):
        super().__init__(*args)
        self.paid_in = 0

    @classmethod
    def first(cls, number):
        return [cls.START]

    def two(self):
        one = self.choice()
        return one, (one + 1 + int(self.random.integers(len(self.pids) - 1))) % len(self.pids)

    def change(self, amounts):
        """Add amounts to accounts; a function of the balances says which."""
        paid = 0

        def move(tx):
            nonlocal paid
            paid = 0
            for pid, amount in amounts(tx):
                words = self.words(tx, pid)
                words[0] += amount
                paid += amount
                self.put(tx, pid, words)

        aborts = self.transact(move)
        self.paid_in += int(paid)
        return aborts

    def balance(self):
        own = self.pids[self.choice()]
        return self.transact(lambda tx: [self.words(tx, pid) for pid in own])

    def deposit(self):
        own = self.pids[self.choice()]
        return self.change(lambda tx: [(own[1], 130)])

    def save(self):
        own = self.pids[self.choice()]
        return self.change(lambda tx: [(own[0], 20)])

    def cheque(self):
        own = self.pids[self.choice()]

        def amounts(tx):
            total = sum(int(self.words(tx, pid)[0]) for pid in own)
            return [(own[1], -5 if total >= 5 else -6)]  # 1 is the fine for an account that is overdrawn

        return self.change(amounts)

    def amalgamate(self):
        one, other = (self.pids[i] for i in self.two())

        def amounts(tx):
            savings, checking = (int(self.words(tx, pid)[0]) for pid in one)
            return [(one[0], -savings), (one[1], -checking), (other[1], savings + checking)]

        return self.change(amounts)

    def pay(self):
        one, other = (self.pids[i, 1] for i in self.two())

        def amounts(tx):
            return [(one, -5), (other, 5)] if self.words(tx, one)[0] >= 5 else []

        return self.change(amounts)

    @classmethod
    def check(cls, store, pids, results):
        flat = pids.ravel()
        found = sum(int(store.read_many(flat[i : i + 64]).view("i8")[:, 0].sum()) for i in range(0, len(flat), 64))
        expected = cls.START * len(flat) + sum(results)
        if found != expected:
            raise AssertionError(f"{found} is in the bank, and {expected} was paid in")


class Tatp(Workload):
    """Three pages of each subscriber: what it is, its access data, and its facilities with their forwardings."""

    PAGES = 3
    MIX: ClassVar = {
        "subscriber_data": 35,
        "new_destination": 10,
        "access_data": 35,
        "update_subscriber": 2,
        "update_location": 14,
        "insert_forwarding": 2,
        "delete_forwarding": 2,
    }

    def subscriber_data(self):
        self.store.read(int(self.pids[self.choice(), 0]), self.out)
        return 0

    def access_data(self):
        self.store.read(int(self.pids[self.choice(), 1]), self.out)
        return 0

    def new_destination(self):
        own = self.pids[self.choice()]
        return self.transact(lambda tx: self.words(tx, own[2]))

    def update_subscriber(self):
        own = self.pids[self.choice()]

        def update(tx):
            for pid in (own[0], own[2]):
                words = self.words(tx, pid)
                words[1] += 1
                self.put(tx, pid, words)

        return self.transact(update)

    def one_word(self, page, place, value):
        pid = self.pids[self.choice(), page]

        def update(tx):
            words = self.words(tx, pid)
            words[place] = value
            self.put(tx, pid, words)

        return self.transact(update)

    def update_location(self):
        return self.one_word(0, 2, int(self.random.integers(1 << 31)))

    def insert_forwarding(self):
        return self.one_word(2, 4 + int(self.random.integers(12)), 1)

    def delete_forwarding(self):
        return self.one_word(2, 4 + int(self.random.integers(12)), 0)


ALL = {
    "ycsb-a": YcsbA,
    "ycsb-b": YcsbB,
    "ycsb-c": YcsbC,
    "ycsb-d": YcsbD,
    "ycsb-e": YcsbE,
    "ycsb-f": YcsbF,
    "smallbank": SmallBank,
    "tatp": Tatp,
}
