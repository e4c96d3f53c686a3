"""What the soak of stores keeps outside of its clients, and what it writes into pages.

A book is a file that a worker maps: each word is stored at once and outlives a kill. Of each thing that it counts a
worker notes what it is about to do, and then what was acknowledged, so the page must have one of these or one between.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 256
ACCOUNTS, START = 12, 1000  # pages with money, and what each has at first
OWN = 8  # pages that a worker allocates, writes and frees
COUNTER, MOVES, LINK, CHILD, SHARED, ACCOUNT, ITS = range(1, 8)  # what a page is for


def tag(kind: int, worker: int = 0, slot: int = 0) -> int:
    return kind << 32 | worker << 16 | slot


def page(tag: int, number: int, more: int = 0) -> bytes:
    """Its words say again and again what it is for, a number, another one, and a sum."""
    return np.tile(np.array([tag, number, more, tag ^ number ^ more], "u8"), SIZE // 32).tobytes()


def words_of(data: Any, tag: int) -> tuple[int, int]:
    """The number and the other one; zeros of a page that was allocated and not written yet."""
    words = np.frombuffer(data, "u8").reshape(-1, 4)
    assert (words == words[0]).all(), "two versions in one page"
    of, number, more, check = words[0].tolist()
    assert check == of ^ number ^ more, f"no page of ours: {words[0]}"
    assert of in (tag, 0), f"a page of {of:#x} in place of {tag:#x}"
    return number, more


def number_of(data: Any, tag: int) -> int:
    return words_of(data, tag)[0]


FIELDS = (
    "done",  # operations that have ended
    "counter_begun",
    "counter",
    "moves_begun",
    "moves",
    "link_begun",
    "link",
    "adds",
    "add_under_way",
    "adds_unknown",
    "pages_under_way",  # that are being allocated
    "pages_left",  # that a call which goes on has had and could not give back yet
    "pages_lost",  # that may have been allocated, and no process knows their ids
    "unknown",  # outcomes of which an exception has said that
    "epochs",
)
ARRAYS = ("own", "own_begun", "own_written", "own_freeing")


class Book:
    """The fields are attributes; the arrays, too, with a word for each page that the worker owns."""

    def __init__(self, path: Path) -> None:
        nbytes = 8 * (len(FIELDS) + OWN * len(ARRAYS))
        if not path.exists():
            path.write_bytes(bytes(nbytes))
        with path.open("r+b") as file:
            self.__dict__["_words"] = memoryview(mmap.mmap(file.fileno(), nbytes)).cast("Q")
        for i, name in enumerate(ARRAYS):
            at = len(FIELDS) + OWN * i
            self.__dict__[name] = self._words[at : at + OWN]

    def __getattr__(self, name: str) -> Any:
        return self._words[FIELDS.index(name)]

    def __setattr__(self, name: str, value: int) -> None:
        self._words[FIELDS.index(name)] = value

    def figures(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in FIELDS}


@dataclass(frozen=True)
class Task:
    """What one worker does: in which store, and its pages there that are never freed."""

    number: int
    client: int
    store: str
    counter: int
    moves: int
    link: int


@dataclass(frozen=True)
class Plan:
    """What all clients know."""

    address: str
    pause: float  # seconds at most between two operations of a worker
    accounts: dict[str, list[int]]
    shared: dict[str, int]
    tasks: list[Task]
