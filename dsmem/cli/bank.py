"""The end of ``dsmem demo``: a store of pages with two copies, at two processes of ``dsmem serve``.

A file is loaded as pages. Two clients move money between accounts until one of them is killed; the other goes on with
all accounts, also with those that the dead one was changing.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import click
import numpy as np
from typing_extensions import Buffer

import dsmem
from dsmem import node_records
from dsmem.names import local

PAGE = 4096
MOST = 64 << 20  # bytes of the file
ACCOUNTS, AMOUNT = 24, 1000
BEFORE = 50  # transfers of the client that is killed
SECONDS = 60.0
GRACE = "0.2"  # seconds for which a client may be cut off before others go on with what it held
_SERVE = [sys.executable, "-c", "from dsmem.cli import main; main()", "serve", "--listen", "127.0.0.1:0"]


@contextlib.contextmanager
def _served() -> Iterator[str]:
    """HOST:PORT of a memory node, in a session of its own: Ctrl-C ends this process only."""
    with subprocess.Popen(
        [*_SERVE, "--grace", GRACE], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        try:
            assert server.stdout
            line = server.stdout.readline()
            if not line:
                raise click.ClickException("dsmem serve has failed; what it said stands above")
            yield line.split()[-1].removeprefix("tcp://")
        finally:
            server.kill()


@contextlib.contextmanager
def _nothing_left(cluster: str) -> Iterator[None]:
    """Remove at the end what processes that were killed could not: their records, and the cluster's folder."""
    try:
        yield
    finally:
        local.forget(cluster)
        node_records.sweep()


@contextlib.contextmanager
def _connected(address: str) -> Iterator[dsmem.Cluster]:
    with dsmem.Context("tcp", listen="127.0.0.1") as context, dsmem.connect(address, context=context) as cluster:
        yield cluster


def _page(amount: int) -> bytes:
    return amount.to_bytes(8, "little", signed=True).ljust(PAGE)


def _amount(page: Buffer) -> int:
    return int.from_bytes(memoryview(page)[:8], "little", signed=True)


def _transfer(store: dsmem.Store, mine: int, yours: int) -> None:
    def move(tx: dsmem.store.Transaction) -> None:
        tx.write(mine, _page(_amount(tx.read(mine)) - 1))
        tx.write(yours, _page(_amount(tx.read(yours)) + 1))

    store.run(move, timeout=SECONDS)


# ---- the other process ----


def other(address: str, ids: list[int], control: Connection) -> None:
    """Move money until this process is killed."""
    with _connected(address) as cluster, cluster.store("bank", create=False) as store:
        for number in itertools.count():
            _transfer(store, *random.sample(ids, 2))
            if number == BEFORE:
                control.send(None)


# ---- this process ----


def _load(path: Path, store: dsmem.Store) -> tuple[list[int], str]:
    """Make a page of each 4 KiB of the file, the last one padded."""
    with path.open("rb") as file:
        data = file.read(MOST)
    ids = store.allocate_many(-(-len(data) // PAGE))
    start = time.perf_counter()
    store.write_many(ids, data.ljust(len(ids) * PAGE, b"\0"))
    spent = time.perf_counter() - start
    click.echo(f"  file     {len(ids)} pages of {PAGE} bytes at two nodes, {len(ids) / spent:.0f} a second")
    return ids.tolist(), hashlib.sha256(data).hexdigest()


def _kill_one(address: str, store: dsmem.Store, ids: list[int]) -> None:
    spawn = multiprocessing.get_context("spawn")
    control, theirs = spawn.Pipe()
    process = spawn.Process(target=other, args=(address, ids, theirs), daemon=True)
    process.start()
    theirs.close()
    mine = 0
    try:
        while not control.poll():
            _transfer(store, *random.sample(ids, 2))
            mine += 1
        control.recv()
    except EOFError:
        raise click.ClickException("the other process has failed; what it said stands above") from None
    finally:
        process.kill()
        killed = time.perf_counter()
        process.join()
    worst = 0.0
    for first, second in zip(ids, ids[1:] + ids[:1], strict=True):  # each account, also those that the dead one has
        begun = time.perf_counter()
        _transfer(store, first, second)
        worst = max(worst, time.perf_counter() - begun)
    click.echo(f"  bank     {mine} transfers beside another process, which was killed with kill -9")
    click.echo(f"           all accounts in use again {time.perf_counter() - killed:.2f} s later; worst {worst:.2f} s")


def _compare(path: Path, store: dsmem.Store, pages: list[int], digest: str, accounts: list[int]) -> None:
    total = sum(_amount(page) for page in store.snapshot(accounts, timeout=SECONDS))
    click.echo(f"           {total} in {ACCOUNTS} accounts, as before")
    if total != ACCOUNTS * AMOUNT:
        raise click.ClickException(f"it should be {ACCOUNTS * AMOUNT}")
    raw = np.ascontiguousarray(store.read_many(pages)).reshape(-1)[: min(path.stat().st_size, MOST)]
    if hashlib.sha256(raw.data).hexdigest() != digest:
        raise click.ClickException("the pages are not the file")
    found = store.check()
    click.echo(f"  check    the pages are the file; {found['pages']} looked at, {len(found['wrong'])} of them wrong")
    if found["wrong"]:
        raise click.ClickException("dsmem store check says what is wrong with them")


def show(path: Path) -> None:
    """Load a file into a store with two copies, move money in it, and kill a client.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    click.ClickException
        Something was lost, or another process failed.
    """
    pages = -(-min(path.stat().st_size, MOST) // PAGE) + ACCOUNTS
    name = f"demo-{os.getpid()}"
    with _nothing_left(name), _served() as first, _served() as second:
        address = f"tcp://{first},{second}/{name}"
        with (
            _connected(address) as cluster,
            cluster.store("bank", page_size=PAGE, capacity=pages * PAGE, members=4, replicas=2, create=True) as store,
        ):
            try:
                ids, digest = _load(path, store)
                accounts = store.allocate_many(ACCOUNTS).tolist()
                store.write_many(accounts, _page(AMOUNT) * ACCOUNTS)
                _kill_one(address, store, accounts)
                _compare(path, store, ids, digest, accounts)
            finally:
                store.unlink()
