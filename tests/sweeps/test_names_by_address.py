"""Names by address: calls that are interrupted at each bytecode, and servers that end or stop at each request.

The server is a process of its own. After an interrupt the call can be made again, and nothing is left. A server is
killed before a request or after its reply, or stopped before it: then the call ends with an exception of ours or with
success, and as soon as the server is there again, the same cluster makes the same call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from interrupt_scenes import NAME, SECRET, Scene, itself, make_and_unlink, of, rows, unmake
from remote_faults import ops
from served import SECONDS, Server
from test_interrupt_sweep import at_bytecodes, sweep

import dsmem
from dsmem import errors

SHORT = 0.2  # seconds of a request that a stopped server does not answer


def connected(cluster: dsmem.Cluster) -> None:
    names = cluster._names
    with dsmem.connect(names.address, context=names.context) as again:
        again.list()


def grow(segment: dsmem.Segment) -> None:
    """By more than the memory that it has holds."""
    segment.resize(segment.shape[0] + 600)


def on_one(call: Callable[[dsmem.Cluster], Any]) -> Scene:
    """The cluster has an event."""

    def make(cluster: dsmem.Cluster) -> dsmem.Cluster:
        of("event")(cluster).close()
        return cluster

    return Scene(make, call, unmake, shared=False)


CALLS = {
    "connect": on_one(connected),
    "list": on_one(lambda cluster: cluster.list()),
    "gc": on_one(lambda cluster: cluster.gc()),
    "find": on_one(lambda cluster: cluster.event(NAME).close()),
    "event": Scene(itself, make_and_unlink("event"), unmake, shared=False),
    "condition": Scene(itself, make_and_unlink("condition"), unmake, shared=False),
    "queue": Scene(itself, make_and_unlink("queue"), unmake, shared=False),
    "segment": Scene(itself, make_and_unlink("segment", (2, 2)), unmake, shared=False),
    "store": Scene(itself, make_and_unlink("store", page_size=256, capacity="16KiB"), unmake, shared=False),
    "resize": Scene(rows, grow, shared=False),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.kill()


class AtServer:
    def __init__(self, name: str, server: Server, cluster_name: str) -> None:
        self.name, self.scene = name, CALLS[name]
        self.context = dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1")
        self.cluster = dsmem.connect(server.address(cluster_name), context=self.context)
        self.obj = self.scene.make(self.cluster)

    def close(self) -> None:
        self.cluster.close()
        self.context.close()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("name", CALLS)
def test_interrupted(name: str, server: Server, cluster_name: str) -> None:
    sweep(AtServer(name, server, cluster_name), at_bytecodes)


class Watched:
    """The connection of a cluster to its server, to which something is done at a request."""

    def __init__(self, service: Any, at: int, do: Callable[[], None], after: bool, most: float) -> None:
        self.service, self.at, self.do, self.after, self.most, self.count = service, at, do, after, most, 0

    def call(self, request: bytes, timeout: float) -> bytes:
        self.count += 1
        now = self.count == self.at
        if now and not self.after:
            self.do()
        reply = self.service.call(request, min(timeout, self.most))
        if now and self.after:
            self.do()
        return reply


@contextlib.contextmanager
def watched(place: AtServer, at: int, do: Callable[[], None], after: bool, most: float) -> Iterator[Watched]:
    names = place.cluster._names
    names._service = found = Watched(names._service, at, do, after, most)
    try:
        yield found
    finally:
        names._service = found.service


def requests_of(place: AtServer) -> int:
    """How many the call makes of the cluster's own connection."""
    with watched(place, 0, lambda: None, False, SECONDS) as counted:
        place.scene.call(place.obj)
    return counted.count


def again(place: AtServer) -> None:
    """The same cluster makes the same call, at a server that may be another."""
    cluster, scene, obj = place.cluster, place.scene, place.obj
    for child in list(cluster._children.values()):
        with contextlib.suppress(errors.DsmemError):  # an op of it, whose memory is gone
            child.close()
        assert child.closed
    cluster.list()  # the connection may have ended
    if obj is not cluster:
        place.obj = obj = cluster.segment(NAME)
    scene.undo(obj)
    scene.call(obj)
    assert {info.name for info in cluster.list()} <= {NAME}


# What is done, whether after the request, and how long an answer may take.
FAULTS = {
    "killed before": (Server.kill, False, SECONDS),
    "killed after": (Server.kill, True, SECONDS),
    "stopped": (Server.stop, False, SHORT),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", [name for name in CALLS if name != "connect"])
def test_a_server_that_ends(name: str, fault: str, server: Server, cluster_name: str) -> None:
    do, after, most = FAULTS[fault]
    place = AtServer(name, server, cluster_name)
    try:
        last = requests_of(place)
        assert last
        for at in ops(1, last, 2):
            with watched(place, at, lambda: do(server), after, most), contextlib.suppress(errors.DsmemError):
                place.scene.call(place.obj)
            server.recover()
            again(place)
    finally:
        place.close()
    with dsmem.connect(cluster_name) as here:  # what the server's host has
        assert {info.name for info in here.list()} <= {NAME}
