"""A client of the soak of stores: its workers use stores in all ways, and keep their books.

It does what the documents tell users to do where a memory node or the coordinator is gone: nothing, but to look at a
page after OutcomeUnknownError. Any other exception ends it, and so does a page that is not as it should be.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soak_book import (
    ACCOUNT,
    ACCOUNTS,
    CHILD,
    COUNTER,
    ITS,
    LINK,
    MOVES,
    OWN,
    SHARED,
    START,
    Book,
    Plan,
    Task,
    number_of,
    page,
    tag,
    words_of,
)

import dsmem
from dsmem import errors

SECRET = b"50a4" * 16
SECONDS = 60.0  # for run(), and until the coordinator is there
PEER_TIMEOUT = 2.0


class Worker(threading.Thread):
    """One of a client's threads."""

    def __init__(self, folder: Path, plan: Plan, task: Task, store: dsmem.Store, seed: str) -> None:
        super().__init__(daemon=True)
        self.plan, self.task, self.store = plan, task, store
        self.rng = random.Random(seed)
        self.books = {t.number: Book(folder / f"book-{t.number}") for t in plan.tasks}
        self.book = self.books[task.number]
        self.accounts, self.shared = plan.accounts[task.store], plan.shared[task.store]
        self.ended = threading.Event()

    def run(self) -> None:
        ways = (self.count, self.peek, self.move, self.look, self.add, self.own, self.rewrite, self.link)
        try:
            self.settle()
            while not self.ended.is_set():
                (way,) = self.rng.choices(ways, (3, 3, 4, 1, 2, 2, 1, 2))
                way()
                self.book.done += 1
                self.ended.wait(self.rng.uniform(0, self.plan.pause))
        except BaseException:
            traceback.print_exc()
            os._exit(3)

    def tag(self, kind: int, slot: int = 0) -> int:
        return tag(kind, self.task.number, slot)

    def tried(self, change: Callable[[], object], is_made: Callable[[], bool]) -> bool:
        """Whether the change was made: after OutcomeUnknownError the page says it."""
        try:
            change()
        except errors.OutcomeUnknownError:
            self.book.unknown += 1
            return is_made()
        return True

    def number(self, pid: int, kind: int) -> int:
        return number_of(self.store.read(pid), self.tag(kind))

    # -- what a worker that was killed has left --

    def settle(self) -> None:
        """Look whether all is there that was acknowledged; and replace pages, so that nothing late arrives there."""
        book, task = self.book, self.task
        found = self.number(task.counter, COUNTER)
        assert book.counter <= found <= book.counter_begun, f"counter {found}: {book.figures()}"
        self.count(book.counter_begun + 1)
        found = self.number(task.moves, MOVES)
        assert book.moves <= found <= book.moves_begun, f"moves {found}: {book.figures()}"
        book.moves = book.moves_begun = found
        found = self.linked()
        assert book.link <= found <= book.link_begun, f"link {found}: {book.figures()}"
        book.link = book.link_begun = found
        book.adds_unknown += book.add_under_way
        book.add_under_way = 0
        book.pages_lost += book.pages_under_way + book.pages_left
        book.pages_under_way = book.pages_left = 0
        for slot in range(OWN):
            if book.own_freeing[slot]:
                self.free(slot)
        self.reread()
        self.rewrite()

    # -- operations --

    def count(self, number: int = 0) -> None:
        """A single write, to a page that has no other writer."""
        book, pid = self.book, self.task.counter
        number = number or book.counter + 1
        book.counter_begun = number
        data = page(self.tag(COUNTER), number)
        while not self.tried(lambda: self.store.write(pid, data), lambda: self.number(pid, COUNTER) == number):
            pass
        book.counter = number

    def peek(self) -> None:
        """No read is older than what another worker was told before it began."""
        task = self.rng.choice([task for task in self.plan.tasks if task.store == self.task.store])
        book = self.books[task.number]
        least = book.counter
        found = number_of(self.store.read(task.counter), tag(COUNTER, task.number))
        assert least <= found <= book.counter_begun, f"{least}, {found}, {book.counter_begun} of {task}"

    def move(self) -> None:
        """Money between accounts, which is counted in a page of this worker."""
        book, pid = self.book, self.task.moves
        payer, payee = self.rng.sample(range(ACCOUNTS), 2)
        amount, number = self.rng.randrange(50), book.moves + 1

        def change(tx: dsmem.store.Transaction) -> None:
            assert number_of(tx.read(pid), self.tag(MOVES)) == number - 1
            mine = number_of(tx.read(self.accounts[payer]), tag(ACCOUNT))
            yours = number_of(tx.read(self.accounts[payee]), tag(ACCOUNT))
            if mine >= amount:
                tx.write(self.accounts[payer], page(tag(ACCOUNT), mine - amount))
                tx.write(self.accounts[payee], page(tag(ACCOUNT), yours + amount))
            tx.write(pid, page(self.tag(MOVES), number))

        book.moves_begun = number
        made = self.tried(lambda: self.store.run(change, timeout=SECONDS), lambda: self.number(pid, MOVES) == number)
        if made:
            book.moves = number
        else:
            book.moves_begun = number - 1

    def look(self) -> None:
        """The sum at one instant."""
        if self.rng.random() < 0.5:
            rows = self.store.snapshot(self.accounts, timeout=SECONDS)
        else:
            rows = self.store.run(
                lambda tx: [tx.read(pid) for pid in self.accounts], timeout=SECONDS, opaque=self.rng.random() < 0.5
            )
        found = sum(number_of(row, tag(ACCOUNT)) for row in rows)
        assert found == ACCOUNTS * START, f"{found} in the accounts"

    def add(self) -> None:
        """To a page that all change, each only if it is as it was seen."""
        book, pid = self.book, self.shared
        for _ in range(20):
            version = self.store.version(pid)
            data = page(tag(SHARED), number_of(self.store.read(pid), tag(SHARED)) + 1)
            book.add_under_way = 1
            try:
                self.store.compare_write(pid, version, data)
            except errors.ConflictError:
                book.add_under_way = 0
                continue
            except errors.OutcomeUnknownError:
                book.unknown += 1
                book.adds_unknown += 1
            else:
                book.adds += 1
            book.add_under_way = 0
            return

    def own(self) -> None:
        """Pages come and go."""
        book = self.book
        room = [slot for slot in range(OWN) if not book.own[slot]]
        if room and (len(room) == OWN or self.rng.random() < 0.5):
            self.allocate(self.rng.sample(room, self.rng.randint(1, min(3, len(room)))))
        else:
            self.free(self.rng.choice([slot for slot in range(OWN) if book.own[slot]]))

    def allocate(self, slots: list[int]) -> None:
        book = self.book
        book.pages_under_way = len(slots)
        pids = [self.store.allocate()] if len(slots) == 1 else self.store.allocate_many(len(slots)).tolist()
        for slot, pid in zip(slots, pids, strict=True):
            book.own_begun[slot] = book.own_written[slot] = 0
            book.own[slot] = pid
            book.pages_under_way -= 1
        self.reread()

    def free(self, slot: int) -> None:
        book, pid = self.book, self.book.own[slot]
        book.own_freeing[slot] = 1
        while True:
            try:
                self.store.free(pid)
            except errors.OutcomeUnknownError:
                book.unknown += 1
                continue
            except errors.PageNotFoundError:
                pass
            break
        book.own[slot] = 0
        book.own_freeing[slot] = 0

    def rewrite(self) -> None:
        """All own pages in one call."""
        book = self.book
        slots = [slot for slot in range(OWN) if book.own[slot]]
        for slot in slots:
            book.own_begun[slot] += 1
        data = b"".join(page(self.tag(ITS, slot), book.own_begun[slot]) for slot in slots)
        pids = [book.own[slot] for slot in slots]
        while slots:
            try:
                versions = self.store.write_many(pids, data)
            except errors.OutcomeUnknownError:
                book.unknown += 1
                self.reread()
            else:
                break
        for slot in slots:
            book.own_written[slot] = book.own_begun[slot]
        self.reread()
        if slots:
            at = self.rng.randrange(len(slots))
            assert self.store.version(pids[at]) == versions[at]

    def reread(self) -> None:
        book = self.book
        slots = [slot for slot in range(OWN) if book.own[slot]]
        rows = self.store.read_many([book.own[slot] for slot in slots]) if slots else []
        for slot, row in zip(slots, rows, strict=True):
            found = number_of(row, self.tag(ITS, slot))
            least, most = book.own_written[slot], book.own_begun[slot]
            assert least <= found <= most, f"{least}, {found}, {most} in page {book.own[slot]}"

    def link(self) -> None:
        """A page that names another one, which is allocated and freed in the same transaction."""
        book, pid, number = self.book, self.task.link, self.book.link + 1

        def change(tx: dsmem.store.Transaction) -> None:
            found, child = words_of(tx.read(pid), self.tag(LINK))
            assert found == number - 1
            book.pages_under_way += 1
            made = tx.allocate()
            tx.write(made, page(self.tag(CHILD), number))
            tx.write(pid, page(self.tag(LINK), number, made))
            if child:
                tx.free(child)

        book.link_begun = number
        if self.tried(lambda: self.store.run(change, timeout=SECONDS), lambda: self.linked() == number):
            book.link = number
        else:
            book.link_begun = number - 1
            book.pages_lost += 1
        book.pages_under_way = 0

    def linked(self) -> int:
        number, child = words_of(self.store.read(self.task.link), self.tag(LINK))
        assert not child or number_of(self.store.read(child), self.tag(CHILD)) == number
        return number


def counted(books: dict[int, Book], cls: type, name: str) -> None:
    """Note each page of an allocation whose outcome is unknown: the handle allocates others then.

    What another failure has left it gives back with those, unless it is killed before.
    """
    real: Callable[..., Any] = getattr(cls, name)

    def allocate(handle: object, *n: int) -> Any:
        book, pages = books[threading.get_ident()], n[0] if n else 1
        try:
            pids = real(handle, *n)
        except errors.OutcomeUnknownError:
            book.pages_lost += pages
            raise
        except errors.DsmemError:
            book.pages_left += pages
            raise
        book.pages_left = 0
        return pids

    setattr(cls, name, allocate)


def connected(plan: Plan) -> dsmem.Cluster:
    """The coordinator may be away."""
    end = time.monotonic() + SECONDS
    while True:
        context = dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1", peer_timeout=PEER_TIMEOUT)
        try:
            return dsmem.connect(plan.address, context=context)
        except (errors.TransportError, errors.PeerDeadError, errors.TimeoutError, errors.SystemCallError):
            context.close()
            if time.monotonic() > end:
                raise
        time.sleep(0.02)


def main() -> None:
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    folder, client, seed = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    plan: Plan = pickle.loads((folder / "plan").read_bytes())
    tasks = [task for task in plan.tasks if task.client == client]
    cluster = connected(plan)
    stores = {name: cluster.store(name, create=False) for name in {task.store for task in tasks}}
    workers = [Worker(folder, plan, task, stores[task.store], f"{seed} {task.number}") for task in tasks]
    books: dict[int, Book] = {}
    for cls, name in ((dsmem.Store, "allocate"), (dsmem.Store, "allocate_many"), (dsmem.store.Transaction, "allocate")):
        counted(books, cls, name)
    for worker in workers:
        worker.start()
        assert worker.ident
        books[worker.ident] = worker.book
    if sys.stdin.readline() != "end\n":
        os._exit(1)  # the soak has ended
    for worker in workers:
        worker.ended.set()
    for worker in workers:
        worker.join()
    for store in stores.values():
        store.close()
    cluster.close()


if __name__ == "__main__":
    main()
