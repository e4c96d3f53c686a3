"""What tests of a store of pages share: pages that show a mix of two versions, accounts with money, and a handler
that strikes in a call.
"""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import dsmem

SIZE = 256
ACCOUNTS, START = 12, 1000  # pages, and what each has at first
SECONDS = 60


def page(number: int) -> bytes:
    """A page that says in each of its words which one it is."""
    return np.full(SIZE // 8, number, "u8").tobytes()


def number_of(data: Any) -> int:
    words = np.frombuffer(data, "u8")
    assert (words == words[0]).all(), "two versions in one page"
    return int(words[0])


def transfer(store: dsmem.Store, accounts: list[int], dice: random.Random) -> None:
    """Move some money from one account to another one."""
    payer, payee = dice.sample(accounts, 2)

    def move(tx: dsmem.Transaction) -> None:
        amount = dice.randrange(50)
        mine, yours = number_of(tx.read(payer)), number_of(tx.read(payee))
        if mine >= amount:
            tx.write(payer, page(mine - amount))
            tx.write(payee, page(yours + amount))

    store.run(move, timeout=SECONDS)


class StruckError(BaseException):
    """What the handler of a signal raises."""


@contextlib.contextmanager
def handling(handler: Callable[..., None]) -> Iterator[None]:
    """Run the handler every half millisecond."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
