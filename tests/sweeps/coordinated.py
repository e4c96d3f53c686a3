"""A place of the sweep of remote faults: memory nodes and their coordinator, for stores with two copies."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import remote_store
from epochs import SECRET, Together, eventually
from remote_faults import FULL, PATIENT, Kind, Place, Row

import dsmem
from dsmem import errors

NUMBERS = itertools.count()  # of names, of which a test that has failed leaves one
PEER_TIMEOUT = 2.0  # seconds: what a call does that is told so goes on in the same epoch, or in the next


def use(owner: Any) -> None:
    """As for other stores; a client that is gone is proven dead when its node has cut it off, which is soon."""
    remote_store.work(owner)

    def newcomer() -> bool:
        with contextlib.suppress(errors.TooManyMembersError), owner._cluster.store(owner.name) as made:
            remote_store.work(made)
            return True
        return False

    eventually(newcomer)


KIND = replace(
    remote_store.KIND,
    properties={**remote_store.KIND.properties, "replicas": 2},
    use=use,
    after_death=use,
)


def settling(settle: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """A page stays locked after a lost unlock until the same handle looks at it again."""

    def both(owner: Any, store: Any) -> None:
        for pid in () if store.closed else getattr(store, "ids", ()):
            with contextlib.suppress(errors.PageNotFoundError):
                store.version(pid)
        settle(owner, store)

    return both


ROWS = [
    replace(row, kind="store of a coordinator", settle=settling(row.settle), brief=True) for row in remote_store.ROWS
]


class OfNodes(Place):
    """Its objects are in the memory of other processes; each try gets one of its own."""

    def __init__(self, nodes: Together) -> None:
        super().__init__("fault+tcp")
        self.nodes = nodes
        self.fences = False  # the nodes do it
        self.numbers = NUMBERS

    def __enter__(self) -> OfNodes:
        self.context = self.stack.enter_context(self.caller())
        self.cluster = self.stack.enter_context(dsmem.connect(self.nodes.address, context=self.context))
        return self

    def caller(self, plan: str = "", peer_timeout: float = PATIENT) -> dsmem.Context:
        query = f"://?{plan}" if plan else ""
        timeout = max(peer_timeout, PEER_TIMEOUT)
        return dsmem.Context(f"fault+tcp{query}", secret=SECRET, listen="127.0.0.1", peer_timeout=timeout)


def node_dies_at(place: OfNodes, kind: Kind, row: Row, n: int) -> None:
    """The call goes on with the other copy, or tells that its outcome is unknown; and so do all."""
    if row.name.endswith("_async") and not FULL:
        return  # the calls that they make in a thread have rows of their own
    nodes = place.nodes
    with place.make(kind) as owner:
        node = nodes.node_of(owner, n % 2)
        try:
            with place.caller(f"kill={n}:{node.popen.pid}") as context, dsmem.attach(owner.ref, context) as obj:
                row.before(obj)
                row.check(owner, *tried(row, obj))
                if context.stats["posts"] >= n:  # else this time there were fewer ops
                    eventually(lambda: owner.health()["open"] and owner.health()["epoch"] > 1)
                owner.stat()  # in the epoch that is open then
                row.settle(owner, obj)
            kind.use(owner)
        finally:
            node.kill()
            node.start()
            eventually(lambda: len(nodes.up()) == 2)


def tried(row: Row, obj: Any) -> tuple[Any, Exception | None]:
    try:
        return row.call(obj), None
    except (errors.OutcomeUnknownError, errors.ConflictError) as error:
        return None, error
