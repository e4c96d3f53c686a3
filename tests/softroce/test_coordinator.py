"""Stores of a coordinator whose memory nodes are reached by verbs: nodes are killed and stopped.

The kernel serves the memory of a process that is stopped, as an adapter does: a client that is cut off from the
coordinator alone could read old pages there.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import halt
import pytest
from epochs import eventually as until
from epochs import settled
from paging import number_of, page
from processes import FABRIC, serving, shared_number, started
from store_nodes import SECONDS, SECRET, client, eventually, made, where

import dsmem
from dsmem import errors

SILENCE = 8  # of which a process under emulation may need a part to answer
PEER_SECONDS = 16
COUNT = 20  # pages

pytestmark = pytest.mark.timeout(600)  # beside other tests the guest has a part of one processor


class Together:
    """A coordinator, and memory nodes that have joined it."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path, nodes: int, cluster: str) -> None:
        options = "--coordinator", "--state", str(folder), "--silence", str(SILENCE)
        _, at = stack.enter_context(serving(SECRET, "127.0.0.1:0", *options))
        self.nodes = dict(
            reversed(stack.enter_context(serving(SECRET, "127.0.0.1:0", "--join", f"tcp://{at}"))) for _ in range(nodes)
        )
        self.address = where([at], cluster)

    @contextlib.contextmanager
    def client(self) -> Iterator[dsmem.Cluster]:
        with client(self.address, FABRIC, PEER_SECONDS) as (cluster, _):
            yield cluster

    def node_of(self, store: dsmem.Store, place: int) -> BaseProcess:
        """The process that has a copy."""
        return self.nodes[store.health()["copies"][place]["node"].removeprefix("tcp://")]


@pytest.fixture
def together(tmp_path: Path, cluster_name: str) -> Iterator[Together]:
    """Three nodes."""
    with contextlib.ExitStack() as stack:
        yield Together(stack, tmp_path, 3, cluster_name)


def _count(pipe: Connection, address: str, pid: int, told: Any, stop: Any) -> None:
    """Until the test stops it: write the next number, and tell that it is there."""
    with client(address, FABRIC, PEER_SECONDS) as (cluster, _), cluster.store("s") as store:
        while not stop.value:
            settled(store, pid, told.value + 1)
            told.value += 1


def _made(cluster: dsmem.Cluster) -> dsmem.Store:
    """As soon as the nodes have joined."""
    return eventually(lambda: made(cluster), errors.InvalidArgumentError)


def _is_whole(store: dsmem.Store, epoch: int) -> bool:
    health = store.health()
    return health["open"] and len(health["copies"]) == 2 and health["epoch"] >= epoch


@pytest.mark.parametrize("place", [0, 1])
def test_a_node_that_is_killed(together: Together, place: int) -> None:
    """Another client goes on, a copy is made again at the third node, and both have all pages."""
    told, stop = shared_number(), shared_number()
    with together.client() as cluster, _made(cluster) as store:
        pid, *pids = store.allocate_many(COUNT).tolist()
        store.write_many(pids, b"".join(page(number) for number in range(len(pids))))
        with started(_count, together.address, pid, told, stop) as (process, _):
            until(lambda: told.value > 3)
            victim = together.node_of(store, place)
            victim.kill()
            victim.join()
            until(lambda: _is_whole(store, 3))
            before = told.value
            until(lambda: told.value > before + 3)
            stop.value = 1
            process.join(SECONDS)
            assert process.exitcode == 0
        assert number_of(store.read(pid)) == told.value
        assert [number_of(each) for each in store.read_many(pids)] == list(range(len(pids)))
        assert store.check()["wrong"] == {}


def test_a_primary_that_is_stopped_is_never_read_again(together: Together) -> None:
    """Its memory is served all the time; a client that knows the old epoch only gets the present page."""
    with together.client() as cluster, together.client() as other, _made(cluster) as store:
        pid = store.allocate()
        store.write(pid, page(1))
        with other.store("s") as reader:
            assert number_of(reader.read(pid)) == 1
            primary = together.node_of(store, 0)
            halt.stop(primary.pid)
            until(lambda: store.health()["epoch"] > 1)
            settled(store, pid, 2)
            assert number_of(reader.read(pid)) == 2
            assert primary.pid is not None
            os.kill(primary.pid, signal.SIGCONT)
            assert number_of(reader.read(pid)) == 2
