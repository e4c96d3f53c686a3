"""The end of ``dsmem demo``: a store of pages with two copies, at three memory nodes of a coordinator.

A file is loaded as pages. Clients move money between accounts; one of them is killed, and then the memory node with the
primary copy. The others go on, and the third node gets a copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click
import numpy as np
from typing_extensions import Buffer

import dsmem
from dsmem import node_records
from dsmem.membership.client import nodes
from dsmem.names import local
from dsmem.names.remote import RemoteNames

PAGE = 4096
MOST = 64 << 20  # bytes of the file
ACCOUNTS, AMOUNT = 24, 1000
NODES, CLIENTS = 3, 3
SOME = 100  # transfers of each client before one is killed, and after there are two copies again
SECONDS = 60.0
GRACE = "0.2"  # seconds for which a client may be cut off before others go on with what it held
_SERVE = [sys.executable, "-c", "from dsmem.cli import bank, main; bank.watch_input(); main()", "serve", "--quiet"]
_SERVE += ["--listen", "127.0.0.1:0", "--grace", GRACE]
_CLIENT = [sys.executable, "-c", "from dsmem.cli import bank; bank.client()"]


# ---- other processes ----


def watch_input() -> threading.Event:
    """Return an event for the first bytes on standard input. This process ends with that, so with the first process."""
    came = threading.Event()

    def watch() -> None:
        while os.read(0, 4096):
            came.set()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    return came


class _Processes:
    """Other processes, in sessions of their own: Ctrl-C ends this process only."""

    def __init__(self) -> None:
        self._begun: list[subprocess.Popen[str]] = []

    def begin(self, command: list[str]) -> subprocess.Popen[str]:
        """Begin one, without waiting for it."""
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._begun.append(process)
        return process

    def close(self) -> None:
        """Kill them, a coordinator first, so that it says nothing of its nodes."""
        for process in self._begun:
            process.kill()
        for process in self._begun:
            with process:
                pass


def _line(process: subprocess.Popen[str], what: str) -> str:
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise click.ClickException(f"{what} has failed; what it said stands above")
    return line


def _address(server: subprocess.Popen[str]) -> str:
    """Wait until it serves."""
    return _line(server, "dsmem serve").split()[-1]


def _eventually(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() >= end:
            raise click.ClickException(f"after {SECONDS:.0f} s {what}")
        time.sleep(0.01)


def _joined(coordinator: str) -> bool:
    with contextlib.closing(RemoteNames(coordinator)) as names:
        return sum(node.is_up for node in nodes(names)) == NODES


@contextlib.contextmanager
def _served() -> Iterator[tuple[str, dict[str, subprocess.Popen[str]]]]:
    """Address of a coordinator, and its memory nodes by their addresses."""
    with (
        tempfile.TemporaryDirectory(prefix="dsmem-demo-") as folder,
        contextlib.closing(_Processes()) as servers,
    ):
        coordinator = _address(servers.begin([*_SERVE, "--coordinator", "--state", folder]))
        begun = [servers.begin([*_SERVE, "--join", coordinator]) for _ in range(NODES)]
        found = {_address(server): server for server in begun}
        _eventually(lambda: _joined(coordinator), "the memory nodes have not joined the coordinator")
        yield coordinator, found


@contextlib.contextmanager
def _nothing_left(cluster: str) -> Iterator[None]:
    """Remove at the end what processes that were killed could not: their records, and the cluster's folder.

    SIGTERM and SIGHUP end this process in the same way as Ctrl-C.
    """
    before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        local.forget(cluster)
        node_records.sweep()
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: object) -> None:
    sys.exit(128 + number)


# ---- transfers ----


@contextlib.contextmanager
def _connected(address: str) -> Iterator[dsmem.Cluster]:
    with dsmem.Context("tcp", listen="127.0.0.1") as context, dsmem.connect(address, context=context) as cluster:
        yield cluster


def _page(amount: int) -> bytes:
    return amount.to_bytes(8, "little", signed=True).ljust(PAGE)


def _amount(page: Buffer) -> int:
    return int.from_bytes(memoryview(page)[:8], "little", signed=True)


def _transfer(store: dsmem.Store, counter: int, payer: int, payee: int) -> None:
    """Move 1, and count that in the page of the client."""

    def move(tx: dsmem.store.Transaction) -> None:
        for pid, more in ((payer, -1), (payee, 1), (counter, 1)):
            tx.write(pid, _page(_amount(tx.read(pid)) + more))

    store.run(move, timeout=SECONDS)


def client() -> None:
    """Run in another process: move money until told to end, and some more; tell when each transfer had succeeded."""
    told, times = watch_input(), array("d")
    address, counter, accounts = sys.argv[1], int(sys.argv[2]), [*map(int, sys.argv[3:])]
    with _connected(address) as cluster, cluster.store("bank", create=False) as store:

        def transfer() -> None:
            _transfer(store, counter, *random.sample(accounts, 2))
            times.append(time.monotonic())

        while not told.is_set():
            transfer()
            if len(times) == SOME:
                click.echo("ready")
        for _ in range(SOME):
            transfer()
    click.echo(json.dumps(times.tolist()))


class _Client:
    """A process that runs :func:`client`."""

    def __init__(self, processes: _Processes, address: str, counter: int, accounts: list[int]) -> None:
        self.counter = counter
        self._process = processes.begin([*_CLIENT, address, str(counter), *map(str, accounts)])

    def wait(self) -> None:
        """Until it has made the first transfers."""
        _line(self._process, "a client")

    def end(self) -> list[float]:
        """Let it end, and return when each transfer had succeeded."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has failed
            self._process.stdin.write("end\n")
            self._process.stdin.flush()
        times: list[float] = json.loads(_line(self._process, "a client"))
        return times

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _longest(times: list[float], since: float) -> float:
    """Longest time from a transfer to the next one that ended after an instant."""
    return max(later - before for before, later in itertools.pairwise(times) if later > since)


# ---- this process ----


class _Bank:
    """The store, the file in it, and the accounts."""

    def __init__(self, store: dsmem.Store, path: Path) -> None:
        self.store = store
        with path.open("rb") as file:
            data = file.read(MOST)
        self.nbytes, self._digest = len(data), hashlib.sha256(data).digest()
        self._pages = store.allocate_many(-(-len(data) // PAGE))
        start = time.perf_counter()
        store.write_many(self._pages, data.ljust(len(self._pages) * PAGE, b"\0"))
        rate = len(self._pages) / (time.perf_counter() - start)
        click.echo(f"  file     {len(self._pages)} pages of {PAGE} bytes at two nodes, {rate:.0f} a second")
        self.accounts: list[int] = store.allocate_many(ACCOUNTS).tolist()
        self.counters: list[int] = store.allocate_many(CLIENTS + 1).tolist()
        store.write_many(self.accounts, _page(AMOUNT) * ACCOUNTS)
        store.write_many(self.counters, _page(0) * len(self.counters))

    def use_all(self) -> None:
        """Change each account, also those that a client which was killed was changing."""
        for payer, payee in zip(self.accounts, self.accounts[1:] + self.accounts[:1], strict=True):
            _transfer(self.store, self.counters[-1], payer, payee)

    def primary(self) -> str:
        """Address of the memory node whose copy is read."""
        return str(self.store.health()["copies"][0]["node"])

    def is_whole(self, without: str) -> bool:
        """Whether all copies are there, and none of them at that node."""
        health = self.store.health()
        return health["open"] and not health["missing"] and all(copy["node"] != without for copy in health["copies"])

    def compare(self, counters: Iterable[int], made: int) -> None:
        """Look for the money, each transfer that has succeeded, and the file."""
        total = sum(map(_amount, self.store.snapshot(self.accounts, timeout=SECONDS)))
        there = sum(map(_amount, self.store.read_many([*counters])))
        click.echo(f"  after    {total} in {ACCOUNTS} accounts, as before; {there} of {made} transfers are there")
        if total != ACCOUNTS * AMOUNT or there != made:
            raise click.ClickException(f"it should be {ACCOUNTS * AMOUNT} in the accounts, and each transfer")
        raw = np.ascontiguousarray(self.store.read_many(self._pages)).reshape(-1)[: self.nbytes]
        if hashlib.sha256(raw.data).digest() != self._digest:
            raise click.ClickException("the pages are not the file")
        found = self.store.check()
        click.echo(
            f"           the pages are the file; {found['pages']} looked at, {len(found['wrong'])} of them wrong"
        )
        if found["wrong"]:
            raise click.ClickException("dsmem store check says what is wrong with them")


def _kill_client(bank: _Bank, victim: _Client) -> None:
    victim.kill()
    killed = time.monotonic()
    bank.use_all()
    click.echo(f"  client   one of {CLIENTS} that move money between {ACCOUNTS} accounts is killed with kill -9")
    click.echo(f"           all accounts in use again {time.monotonic() - killed:.2f} s later")


def _kill_node(bank: _Bank, servers: dict[str, subprocess.Popen[str]]) -> tuple[float, float]:
    """Return when, and when there were two copies again."""
    primary = bank.primary()
    killed = time.monotonic()
    servers[primary].kill()
    click.echo("  node     the one with the primary copy is killed with kill -9")
    _eventually(lambda: bank.is_whole(without=primary), "there is no second copy yet")
    return killed, time.monotonic()


def _run(address: str, bank: _Bank, servers: dict[str, subprocess.Popen[str]]) -> None:
    with contextlib.closing(_Processes()) as processes:
        clients = [_Client(processes, address, counter, bank.accounts) for counter in bank.counters[:CLIENTS]]
        for each in clients:
            each.wait()
        _kill_client(bank, clients[-1])
        (killed, whole), others = _kill_node(bank, servers), clients[:-1]
        times = [each.end() for each in others]
        pause = max(_longest(each, killed) for each in times)
        click.echo(f"           longest pause of a client between two transfers: {pause:.2f} s")
        click.echo(f"           two copies again {whole - killed:.2f} s later, one of them at the third node")
        bank.compare((each.counter for each in others), sum(map(len, times)))


def show(path: Path) -> None:
    """Load a file into a store with two copies, move money in it, and kill a client and a memory node.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    click.ClickException
        Something was lost, or another process failed.
    """
    pages = -(-min(path.stat().st_size, MOST) // PAGE) + ACCOUNTS + CLIENTS + 1
    name = f"demo-{os.getpid()}"
    with _nothing_left(name), _served() as (coordinator, servers):
        address = f"{coordinator}/{name}"
        with (
            _connected(address) as cluster,
            cluster.store("bank", page_size=PAGE, capacity=pages * PAGE, members=8, replicas=2, create=True) as store,
        ):
            _run(address, _Bank(store, path), servers)
