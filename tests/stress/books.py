"""What outlives a killed worker: files that it maps, and of which each word is stored at once.

The state of a worker is one word, so a kill finds the state before a call or that after it: how many messages are
decided, and how many the call under way may put or take. Those of the last call of a killed worker are undecided.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

UNDER_WAY_BITS = 20
ENTRY_BITS = 40  # an entry of a consumer: the producer's number above, the message's below

Words = NDArray[np.uint64]


class Book:
    """Word 0 is the state, word 1 how many messages killed workers may have taken; then what was taken, in order."""

    def __init__(self, path: Path, entries: int = 0) -> None:
        new = not path.exists()  # made before the worker begins, so no process finds it half made
        self.words = np.memmap(path, dtype="u8", mode="w+" if new else "r+", shape=(2 + entries,))
        self.state = memoryview(self.words)

    @property
    def decided(self) -> int:
        return int(self.state[0]) >> UNDER_WAY_BITS

    @property
    def under_way(self) -> int:
        return int(self.state[0]) & ((1 << UNDER_WAY_BITS) - 1)

    def begin(self, n: int) -> None:
        """A call that may put or take n messages."""
        self.state[0] = self.decided << UNDER_WAY_BITS | n

    def end(self, n: int) -> None:
        """It has put or taken n messages, and nothing is under way."""
        self.state[0] = (self.decided + n) << UNDER_WAY_BITS

    def took(self, entries: list[int]) -> None:
        at = 2 + self.decided
        self.words[at : at + len(entries)] = entries
        self.end(len(entries))

    def lose(self) -> None:
        """The worker is dead: what it was about to take is lost or not, and word 1 remembers how many that may be."""
        self.state[1] = int(self.state[1]) + self.under_way
        self.end(0)

    def entries(self) -> Words:
        return self.words[2 : 2 + self.decided]


def check(producers: list[Book], consumers: list[Book]) -> tuple[int, int, int]:
    """Every message that was put came out once, in its producer's order, but for those that are missing.

    Returns how many came out, how many are missing for certain, and how many may have been taken by consumers that were
    killed before they could write it down.
    """
    taken = [book.entries() for book in consumers]
    for entries in taken:
        senders, number = entries >> np.uint64(ENTRY_BITS), entries & np.uint64((1 << ENTRY_BITS) - 1)
        for producer in np.unique(senders):
            steps = np.diff(number[senders == producer].astype("i8"))
            assert (steps > 0).all(), f"producer {producer}: reordered, or doubled, at {np.flatnonzero(steps <= 0)[:5]}"
    everything = np.sort(np.concatenate(taken))
    doubled = everything[1:][everything[1:] == everything[:-1]]
    assert not doubled.size, f"{doubled.size} messages came out twice, the first is {int(doubled[0]):x}"
    missing, at = 0, 0
    for producer, book in enumerate(producers):
        end = int(np.searchsorted(everything, np.uint64(producer + 1 << ENTRY_BITS)))
        missing += _missing(producer, book, (everything[at:end] & np.uint64((1 << ENTRY_BITS) - 1)).astype("i8"))
        at = end
    assert at == everything.size, "messages of no producer came out"
    return everything.size, missing, sum(int(book.state[1]) for book in consumers)


def _missing(producer: int, book: Book, numbers: NDArray[np.int64]) -> int:
    wanted = np.zeros(book.decided + book.under_way, bool)
    assert not numbers.size or numbers[-1] < wanted.size, f"producer {producer}: {numbers[-1]} was never put"
    there = wanted.copy()
    there[numbers] = True
    wanted[: book.decided] = True
    # Of the call under way the first messages are there; what lies before one that is there was put, too.
    wanted[: numbers.max(initial=-1) + 1] = True
    return int((wanted & ~there).sum())
