"""Stores of a coordinator under random faults: real processes are killed and stopped, and each change is accounted for.

    python tests/stress/store_soak.py --seconds 600 --seed 7

Clients change two stores, of two copies in three extents and of three copies, while the coordinator, memory nodes and
clients are killed, stopped, drained and started again. No fault takes the last copy of a page. After each one all
clients go on, and the copies are made again. The seed settles faults and calls, but not when a process runs.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # where it is a program

import clusters
import halt
import soak_client
from epochs import Process
from soak_book import ACCOUNT, ACCOUNTS, OWN, SIZE, START, Book, Plan, Task, number_of, page, tag
from store_nodes import check_equal_copies, heads

import dsmem
from dsmem import errors
from dsmem.membership.client import drain_node, forget_node, nodes

SECONDS = 120.0  # for what must not hang
SILENCE = 1.5
PAGES = 240
SHAPES = {"pairs": {"replicas": 2, "extents": 3}, "triples": {"replicas": 3}}
WORKERS = (("pairs", "triples", "pairs"), ("pairs", "triples"), ("triples", "pairs"))  # of each client, by store
NODES = 5
FEW = 3  # operations of each worker that show that it goes on
AWAY = (errors.TransportError, errors.PeerDeadError, errors.TimeoutError, errors.SystemCallError)


class Client:
    """The process of some workers, and those that follow when it is killed."""

    def __init__(self, folder: Path, number: int, seed: str) -> None:
        self.folder, self.number, self.seed, self.lives = folder, number, seed, 0
        self.is_stopped = False
        self.start()

    def start(self) -> None:
        command = [sys.executable, Path(soak_client.__file__), self.folder, str(self.number)]
        with (self.folder / f"client-{self.number}.log").open("a") as log:
            self.popen = subprocess.Popen(
                [*command, f"{self.seed} {self.number} {self.lives}"], stdin=subprocess.PIPE, stderr=log, text=True
            )
        self.lives += 1

    def kill(self) -> None:
        self.popen.kill()
        self.popen.communicate()

    def end(self) -> int:
        with contextlib.suppress(BrokenPipeError):
            self.popen.stdin.write("end\n")
            self.popen.stdin.close()
        return self.popen.wait(SECONDS)


@dataclass
class Total:
    """What a soak has done."""

    faults: Counter[str]
    operations: int = 0
    unknown: int = 0
    spare: int = 0
    lost: int = 0
    epochs: int = 0
    longest: float = 0.0

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        return (
            f"{self.operations} operations, {self.epochs} epochs, {self.unknown} unknown outcomes, {self.spare} pages "
            f"without an owner of {self.lost} at most, longest until all went on {self.longest:.1f} s; "
            f"{self.faults.total()} faults: {faults}"
        )


class Soak:
    """Processes, stores and books in a folder."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path, seed: str, pause: float) -> None:
        self.stack, self.folder, self.seed, self.pause = stack, folder, seed, pause
        self.rng = random.Random(seed)
        self.began = time.monotonic()
        self.total = Total(Counter())
        self.nodes: list[Process] = []
        self.gone: list[Process] = []  # killed, and not started again yet
        self.stopped: set[str] = set()  # addresses of nodes
        self.clients: list[Client] = []
        self.name = stack.enter_context(clusters.of_its_own())
        more = ("--coordinator", "--state", str(folder / "state"), "--silence", str(SILENCE))
        self.coordinator = self.process("coordinator", *more)
        for _ in range(NODES):
            self.node()
        self.own = self.connected()
        self.until("all nodes have joined", lambda: len(self.up()) == NODES)
        self.stores = {name: self.made(name) for name in SHAPES}
        self.plan = self.planned()
        for number in range(len(WORKERS)):
            self.clients.append(Client(folder, number, seed))
        stack.callback(self.end_clients)
        self.books = {task.number: Book(folder / f"book-{task.number}") for task in self.plan.tasks}

    # -- the beginning --

    def process(self, log: str, *more: str) -> Process:
        env = {"DSMEM_SECRET": soak_client.SECRET.decode()}
        made = Process(*more, log=self.folder / f"{log}.log", **env)
        self.stack.callback(made.end)
        return made

    def node(self) -> Process:
        self.nodes.append(self.process(f"node-{len(self.nodes) + self.total.faults.total()}", *self.joining()))
        return self.nodes[-1]

    def joining(self) -> tuple[str, str]:
        return "--join", self.coordinator.address

    def connected(self) -> dsmem.Cluster:
        context = dsmem.Context("tcp", secret=soak_client.SECRET, listen="127.0.0.1", peer_timeout=2.0)
        self.stack.enter_context(context)
        return self.stack.enter_context(dsmem.connect(f"{self.coordinator.address}/{self.name}", context=context))

    def made(self, name: str) -> dsmem.Store:
        shape = {"page_size": SIZE, "capacity": PAGES * SIZE, "members": 8, **SHAPES[name]}
        return self.stack.enter_context(self.own.store(name, create=True, **shape))

    def planned(self) -> Plan:
        numbers, tasks = itertools.count(1), []
        for client, names in enumerate(WORKERS):
            for name in names:
                tasks.append(Task(next(numbers), client, name, *self.stores[name].allocate_many(3).tolist()))
        accounts, shared = {}, {}
        for name, store in self.stores.items():
            shared[name], *accounts[name] = store.allocate_many(1 + ACCOUNTS).tolist()
            store.write_many(accounts[name], page(tag(ACCOUNT), START) * ACCOUNTS)
        plan = Plan(f"{self.coordinator.address}/{self.name}", self.pause, accounts, shared, tasks)
        (self.folder / "plan").write_bytes(pickle.dumps(plan))
        for task in tasks:
            Book(self.folder / f"book-{task.number}")  # before another process looks at it
        return plan

    # -- what there is --

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:7.2f} {text}", flush=True)

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS
        while not self.holds(condition):
            self.look_at_clients()
            if time.monotonic() > end:
                self.stuck(what)
            time.sleep(0.01)

    @staticmethod
    def holds(condition: Callable[[], bool]) -> bool:
        """Also while the coordinator is not there."""
        try:
            return condition()
        except AWAY:
            return False

    def look_at_clients(self) -> None:
        for client in self.clients:
            if client.popen.poll() not in (None, -signal.SIGKILL):
                raise AssertionError(f"client {client.number} has failed:\n{self.log_of(client)}")

    def log_of(self, client: Client) -> str:
        return (self.folder / f"client-{client.number}.log").read_text()[-6000:]

    def stuck(self, what: str) -> None:
        for client in self.clients:
            if client.popen.poll() is None:
                client.popen.send_signal(signal.SIGUSR1)  # prints where it is
        time.sleep(1)
        logs = "\n".join(f"client {client.number}:\n{self.log_of(client)}" for client in self.clients)
        raise AssertionError(f"after {SECONDS:.0f} s it is not so that {what}: {self.state()}\n{logs}")

    def state(self) -> str:
        books = {number: book.figures() for number, book in self.books.items()}
        with contextlib.suppress(errors.DsmemError):
            return f"{[store.health() for store in self.stores.values()]}, {nodes(self.own._names)}, {books}"
        return str(books)

    def up(self) -> list[str]:
        return [each.address for each in nodes(self.own._names) if each.is_up]

    def health(self, name: str) -> dict[str, Any]:
        found = self.stores[name].health()
        if found["open"] is None:
            raise errors.TimeoutError(found["trouble"])
        return found

    def is_whole(self) -> bool:
        """Whether all copies of all stores count, at nodes that are there."""
        here = {node.address for node in self.running()}
        for name, shape in SHAPES.items():
            found = self.health(name)
            copies = [copy["node"] for copy in found["copies"]]
            if not found["open"] or found["missing"] or not here.issuperset(copies):
                return False
            assert len(copies) == shape["replicas"] * shape.get("extents", 1)
        return True

    def running(self) -> list[Process]:
        return [node for node in self.nodes if node not in self.gone and node.address not in self.stopped]

    def is_spared(self, dead: set[str]) -> bool:
        """Whether a copy of each extent is elsewhere."""
        here = {node.address for node in self.running()} - dead
        for name, shape in SHAPES.items():
            found = self.health(name)
            kept = {copy.get("extent", 0) for copy in found["copies"] if copy["node"] in here}
            if not found["open"] or len(kept) < shape.get("extents", 1):
                return False
        return True

    def victims(self) -> list[Process]:
        """Some nodes that may be lost at once: one or two, by chance the one with the primary of a store."""
        found = []
        self.until("some nodes may be lost", lambda: bool(found) or self.look_for_victims(found))
        return found

    def look_for_victims(self, found: list[Process]) -> bool:
        running = self.running()
        sets = [list(pair) for pair in itertools.combinations(running, 2)] if self.rng.random() < 0.4 else []
        self.rng.shuffle(sets)
        sets += [[node] for node in self.rng.sample(running, len(running))]
        if self.rng.random() < 0.4:
            primary = self.health(self.rng.choice(list(SHAPES)))["copies"][0]["node"]
            sets.insert(0, [node for node in running if node.address == primary])
        chosen = next((each for each in sets if each and self.is_spared({node.address for node in each})), None)
        if chosen:
            found.extend(chosen)
        return bool(chosen)

    # -- faults --

    def kill(self, *victims: Process) -> None:
        for node in victims:
            node.popen.kill()
        for node in victims:
            node.kill()
        self.gone += victims
        self.say(f"killed {[node.address for node in victims]}")

    def again(self) -> None:
        """Start what was killed, at the address of before or at another one."""
        for node in self.gone[:]:
            if self.rng.random() < 0.5:
                node.port = 0
            node.more = self.joining()
            node.start()
            self.gone.remove(node)
            self.say(f"started {node.address}")

    def pause_for(self, seconds: float) -> None:
        """A fault comes when it comes."""
        time.sleep(self.rng.uniform(0, seconds))

    def client_killed(self) -> None:
        for client in self.rng.sample(self.clients, self.rng.randint(1, 2)):
            client.kill()
            client.start()

    def client_stopped(self) -> None:
        chosen = self.rng.sample(self.clients, self.rng.randint(1, 2))
        for client in chosen:
            halt.stop(client.popen.pid)
        self.pause_for(3)
        for client in chosen:
            client.popen.send_signal(signal.SIGCONT)

    def clients_stopped_in_change(self) -> None:
        """They find that the store has gone on without them, at times twice."""
        chosen = self.rng.sample(self.clients, self.rng.randint(1, 2))
        for client in chosen:
            halt.stop(client.popen.pid)
        self.rng.choice([self.node_killed, self.node_stopped, self.coordinator_and_node_killed])()
        for client in chosen:
            client.popen.send_signal(signal.SIGCONT)

    def node_killed(self) -> None:
        self.kill(*self.victims())
        self.pause_for(2)

    def node_stopped(self) -> None:
        chosen = self.victims()
        self.stopped |= {node.address for node in chosen}
        for node in chosen:
            node.stop()
        self.say(f"stopped {[node.address for node in chosen]}")
        self.pause_for(2 * SILENCE)
        for node in chosen:
            node.go_on()
        self.stopped.clear()

    def primary_and_clients_stopped(self) -> None:
        """They go on at once when another client has changed pages in the next epoch, and read no page of before."""
        name = self.rng.choice(list(SHAPES))
        shape, health = SHAPES[name], self.health(name)
        address = health["copies"][shape["replicas"] * self.rng.randrange(shape.get("extents", 1))]["node"]
        self.until("the primary may be lost", lambda: self.is_spared({address}))
        (node,) = [node for node in self.nodes if node.address == address]
        goes_on, *chosen = self.rng.sample(self.clients, len(self.clients))
        for client in chosen:
            halt.stop(client.popen.pid)
        self.stopped.add(address)
        node.stop()
        self.say(f"stopped {address}")
        self.until("the store has gone on", lambda: self.is_after(name, health["epoch"]))
        tasks = [task for task in self.plan.tasks if task.store == name]  # a page of the other one may be locked
        self.go_on([task.number for task in tasks if task.client == goes_on.number])
        node.go_on()
        for client in chosen:
            client.popen.send_signal(signal.SIGCONT)
        self.stopped.clear()

    def is_after(self, name: str, epoch: int) -> bool:
        found = self.health(name)
        return bool(found["open"] and found["epoch"] > epoch)

    def node_stopped_in_change(self) -> None:
        """A node is killed while another one is silent, or falls silent then."""
        first, *rest = self.victims()
        if rest and self.rng.random() < 0.5:
            self.kill(*rest)
        self.stopped.add(first.address)
        first.stop()
        self.say(f"stopped {first.address}")
        self.pause_for(0.5)
        if not set(rest) & set(self.gone):
            self.kill(*rest)
        self.pause_for(2 * SILENCE)
        first.go_on()
        self.stopped.clear()

    def coordinator_killed(self) -> None:
        self.coordinator.kill()
        self.pause_for(3)
        self.coordinator.start()

    def coordinator_stopped(self) -> None:
        self.coordinator.stop()
        self.pause_for(3)
        self.coordinator.go_on()

    def coordinator_and_node_killed(self) -> None:
        victims = self.victims()
        self.kill(*victims)
        self.pause_for(2)  # what follows may be under way, or have been done
        self.coordinator_killed()

    def all_killed(self) -> None:
        """Of each kind some, at once."""
        victims = self.victims()
        for client in self.rng.sample(self.clients, 2):
            client.kill()
            client.start()
        self.kill(*victims)
        self.coordinator_killed()

    def fill_killed(self) -> None:
        """A node where a copy is being made, or just was."""
        self.kill(*self.victims())
        self.again()
        self.until("a copy is made, or all are there", lambda: bool(self.filled()) or self.is_whole())
        chosen = [node for node in self.running() if node.address in self.filled()]
        if chosen and self.is_spared({chosen[0].address}):
            self.kill(chosen[0])

    def filled(self) -> set[str]:
        return {copy.get("node", "") for name in SHAPES for copy in self.health(name)["missing"]} - {""}

    def drained(self) -> None:
        """A node is emptied and ended, and another one joins; or the coordinator is killed in that."""
        node = self.rng.choice(self.nodes)
        self.until(f"{node.address} is to be drained", lambda: self.drains(node))
        self.say(f"drains {node.address}")
        if self.rng.random() < 0.5:
            self.pause_for(1)
            self.rng.choice([self.coordinator_killed, self.client_killed, self.node_killed])()
        if node in self.gone:
            return
        self.again()
        if self.rng.random() < 0.2:
            self.until("it is drained no more", lambda: drain_node(self.own._names, node.address, False) is None)
            return
        self.until(f"{node.address} is drained", lambda: self.is_empty(node))
        node.end()
        self.gone.append(node)
        self.until(f"{node.address} is silent", lambda: node.address not in self.up())
        self.until("it is forgotten", lambda: self.forgotten(node))
        node.port = 0

    def drains(self, node: Process) -> bool:
        """Whether it is drained; one that has just been started may not have joined yet."""
        with contextlib.suppress(errors.InvalidArgumentError):
            drain_node(self.own._names, node.address, True)
            return True
        return False

    def is_empty(self, node: Process) -> bool:
        (found,) = [each for each in nodes(self.own._names) if each.address == node.address]
        return not found.copies and not found.stale and not found.making

    def forgotten(self, node: Process) -> bool:
        with contextlib.suppress(errors.BusyError):
            forget_node(self.own._names, node.address)
            return True
        return False

    FAULTS = (
        (client_killed, 3),
        (client_stopped, 2),
        (node_killed, 4),
        (node_stopped, 3),
        (node_stopped_in_change, 3),
        (clients_stopped_in_change, 2),
        (primary_and_clients_stopped, 3),
        (coordinator_killed, 2),
        (coordinator_stopped, 1),
        (coordinator_and_node_killed, 3),
        (all_killed, 2),
        (fill_killed, 2),
        (drained, 2),
    )

    def fault(self) -> None:
        """One, after which all clients go on; and all copies are there again, at times only when others have come."""
        (way,) = self.rng.choices([way for way, _ in self.FAULTS], [weight for _, weight in self.FAULTS])
        self.say(f"{way.__name__}, in epochs {self.epochs()}")
        self.total.faults[way.__name__] += 1
        way(self)
        began = time.monotonic()
        self.go_on()
        self.total.longest = max(self.total.longest, time.monotonic() - began)
        self.again()
        if self.rng.random() < 0.8:
            self.until("all copies are there", self.is_whole)
            self.go_on()

    def epochs(self) -> list[int]:
        return [store.health()["epoch"] for store in self.stores.values()]

    def go_on(self, workers: list[int] | None = None) -> None:
        """Each of these workers does some more; of all by default."""
        books = [self.books[number] for number in workers or self.books]
        least = [book.done + FEW for book in books]
        self.until("all go on", lambda: all(book.done >= done for book, done in zip(books, least, strict=True)))

    # -- the end --

    def end_clients(self) -> None:
        for client in self.clients:
            client.popen.send_signal(signal.SIGCONT)
            client.kill()

    def account(self) -> None:
        self.until("all copies are there", self.is_whole)
        for client in self.clients:
            assert client.end() == 0, f"client {client.number} has failed:\n{self.log_of(client)}"
        self.clients.clear()
        for name, store in self.stores.items():
            tasks = [task for task in self.plan.tasks if task.store == name]
            self.account_of(store, tasks)
            self.total.epochs += store.health()["epoch"]
            with contextlib.closing(self.own.store(name)) as fresh:
                found = fresh.check()
                assert found["pages"] == store._shape["pages"] and not found["wrong"] and not found["changing"], found
                self.check_copies(fresh)
        for book in self.books.values():
            self.total.operations += book.done
            self.total.unknown += book.unknown

    def account_of(self, store: dsmem.Store, tasks: list[Task]) -> None:
        """The money, and each change that was acknowledged; and no page is allocated but those that have an owner."""
        name, books = tasks[0].store, [self.books[task.number] for task in tasks]
        rows = store.snapshot(self.plan.accounts[name])
        assert sum(number_of(row, tag(ACCOUNT)) for row in rows) == ACCOUNTS * START
        added = number_of(store.read(self.plan.shared[name]), tag(soak_client.SHARED))
        least = sum(book.adds for book in books)
        assert least <= added <= least + sum(book.adds_unknown for book in books), (added, least)
        owned = {self.plan.shared[name], *self.plan.accounts[name]}
        for task, book in zip(tasks, books, strict=True):
            owned |= {task.counter, task.moves, task.link, *(pid for pid in book.own if pid)}
            owned |= account_of_worker(store, task, book)
        there = allocated(store)
        assert owned <= there, f"{name}: pages that are gone: {owned - there}"
        spare, lost = there - owned, sum(book.pages_lost for book in books)
        if len(spare) > lost:
            told = "\n".join(f"{pid:#x}: {store.metadata(pid)}, {store.read(pid)[:32].hex()}" for pid in spare)
            raise AssertionError(f"{name}: {len(spare)} pages have no owner, at most {lost} were lost:\n{told}")
        for pid in spare:
            store.free(pid)
        self.total.spare += len(spare)
        self.total.lost += lost
        assert allocated(store) == owned
        assert store.stat()["free"] == store._shape["pages"] - len(owned)

    @staticmethod
    def check_copies(store: dsmem.Store) -> None:
        found = images(store)
        extents = store._shape["extents"]
        each = len(found) // extents
        for first in range(0, len(found), each):
            check_equal_copies(found[first : first + each])


def account_of_worker(store: dsmem.Store, task: Task, book: Book) -> set[int]:
    """Its pages say what it was told. Returns what its link names."""

    def number(pid: int, kind: int) -> int:
        return number_of(store.read(pid), tag(kind, task.number))

    found = number(task.counter, soak_client.COUNTER), number(task.moves, soak_client.MOVES)
    assert found == (book.counter, book.moves), f"{found}, {book.figures()}"
    linked, child = soak_client.words_of(store.read(task.link), tag(soak_client.LINK, task.number))
    assert linked == book.link, f"{linked}, {book.figures()}"
    for slot in range(OWN):
        if book.own[slot]:
            found = number_of(store.read(book.own[slot]), tag(soak_client.ITS, task.number, slot))
            assert found == book.own_written[slot], f"{found} in page {book.own[slot]}"
    if child:
        assert number(child, soak_client.CHILD) == linked
    return {child} if child else set()


def images(store: dsmem.Store) -> list[bytes]:
    """All bytes of its copies, those of an extent beside each other."""
    found = []
    for remote in store._remotes:
        raw = bytearray(remote.nbytes)
        remote.read(0, raw)
        found.append(bytes(raw))
    return found


def allocated(store: dsmem.Store) -> set[int]:
    """The ids of all pages that are in use: docs/protocols/pages.md."""
    store.stat()  # the present epoch
    found = images(store)
    extents, pids = store._shape["extents"], set()
    for extent in range(extents):
        raw = found[extent * len(found) // extents]
        first, frames = heads(raw)
        for index, head in enumerate(first):
            if head >> 52 == 4094:
                pids.add((head & 0xFFFFFF) << 40 | index * extents + extent)
            elif head >> 52 != 4095:
                at = frames + (head & 0xFFFFFF) * (64 + SIZE)
                pids.add(int.from_bytes(raw[at : at + 8], "little"))
    return pids


def run(seed: str, seconds: float, pause: float, folder: Path) -> Total:
    """Faults for so long. The folder keeps logs and books where it fails."""
    with contextlib.ExitStack() as stack:
        soak = Soak(stack, folder, seed, pause)
        soak.go_on()
        while time.monotonic() < soak.began + seconds:
            soak.fault()
        soak.say("the end")
        soak.account()
        return soak.total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", default=str(random.randrange(10**6)))
    parser.add_argument("--pause", type=float, default=0.004, help="seconds at most between two calls of a worker")
    parser.add_argument("--folder", type=Path, help="for logs and books; kept")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dsmem-soak-")))
        folder.mkdir(exist_ok=True)
        print(run(given.seed, given.seconds, given.pause, folder))


if __name__ == "__main__":
    main()
