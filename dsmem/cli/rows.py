"""What ``dsmem store ls`` and ``dsmem top`` say of each store: asked of all stores side by side, in bounded time.

A memory node that is stopped keeps a question waiting for longer than a user does. So each is asked by a daemon thread,
which may go on behind the command; while it does, its store is not asked again.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import dsmem
from dsmem import errors
from dsmem.membership.client import Coordination, health_of
from dsmem.membership.messages import Calls
from dsmem.names.base import check_name
from dsmem.names.remote import RemoteNames, is_address, split_address

SECONDS = 5.0  # for all stores
_AT_ONCE = 16


@contextlib.contextmanager
def opened(cluster: str, name: str) -> Iterator[dsmem.Store]:
    """Open a store for the time of the block."""
    with dsmem.connect(cluster) as found, found.store(name, create=False) as store:
        yield store


def address_of(place: Any) -> str:
    """Return what connect() takes for it."""
    return str(place.address if hasattr(place, "address") else place.cluster)


def health_at(names: Any, name: str, seconds: float) -> dict[str, Any] | None:
    """Return what a coordinator says of a store, without opening that; None if there is no coordinator."""
    end = time.monotonic() + seconds
    if not isinstance(names, RemoteNames) or names.nodes > 1 or not names.coordinates(seconds):
        return None
    return health_of(Coordination(names, check_name(name)).copies(0, end))


def health(cluster: str, name: str, seconds: float = SECONDS) -> dict[str, Any] | None:
    """Return the same by the address of a cluster."""
    if not is_address(cluster) or len(split_address(cluster)) > 1:
        return None
    end = time.monotonic() + seconds
    names = RemoteNames(cluster, timeout=seconds)
    try:
        return health_at(names, name, max(1.0, end - time.monotonic()))
    finally:
        names.close()


def calls_of(names: Any, stores: Iterable[str], seconds: float) -> Iterator[tuple[str, Calls]]:
    """Yield what clients have told a coordinator of their calls of each store. Those that were dropped are left out.

    It ends when the time is over, or if there is no coordinator, or it does not answer.
    """
    end = time.monotonic() + seconds
    with contextlib.suppress(errors.DsmemError):
        if not isinstance(names, RemoteNames) or names.nodes > 1 or not names.coordinates(seconds):
            return
        for name in stores:
            if time.monotonic() >= end:
                return
            with contextlib.suppress(errors.NameNotFoundError):
                yield name, Coordination(names, check_name(name)).calls(0, end)


def called(copy: dict[str, Any]) -> str:
    """What a copy is called, of those that :meth:`dsmem.Store.health` names."""
    return f"copy {copy['copy']}" + (f" of extent {copy['extent']}" if "extent" in copy else "")


def copies_of(health: dict[str, Any]) -> str:
    """Return how many copies there are, of those that are promised; of several extents, of that with the fewest."""
    of_each = Counter(each.get("extent", 0) for each in health["copies"])
    return f"{min(of_each.values(), default=0)}/{health['replicas']}"


def progress_of(health: dict[str, Any]) -> tuple[int, int]:
    """Return how many pages the copies have that are being made, and of how many; (0, 0) if there are none."""
    made = [each for each in health["missing"] if each["pages"]]
    return sum(each["done"] for each in made), sum(each["pages"] for each in made)


class Rows:
    """Asks stores, again and again for ``dsmem top``."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, str], float] = {}  # when a question was begun that has no answer yet
        self._lock = threading.Lock()
        self._turns = threading.Semaphore(_AT_ONCE)

    def of(self, found: list[Any], seconds: float = SECONDS) -> list[dict[str, Any]]:
        """Return a row for each store of the clusters: what it says of itself; where it does not answer, why."""
        end = time.monotonic() + seconds
        stores = [(place, info.name) for place in found for info in place.infos() if info.kind == "store"]
        stores = [(place, name) for place, name in stores if "+" not in name]  # of a store with copies, the first one
        rows = [{"cluster": place.cluster, "name": name, **_known(place, name, end)} for place, name in stores]
        answers: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
        left = set[int]()
        for number, (place, name) in enumerate(stores):
            if not rows[number].get("error") and self._asks(address_of(place), name, number, answers):
                left.add(number)
        while left and time.monotonic() < end:
            with contextlib.suppress(queue.Empty):
                number, answer = answers.get(timeout=max(0.0, end - time.monotonic()))
                rows[number].update(answer)
                left.discard(number)
        for row in rows:
            if "pages" not in row and "error" not in row:
                row["error"] = f"no answer within {seconds:g} s; its memory nodes are stopped or out of reach"
        return rows

    def _asks(self, address: str, name: str, number: int, answers: Any) -> bool:
        """Ask in a thread, unless one asks already."""
        with self._lock:
            if (address, name) in self._asked:
                return False
            self._asked[address, name] = time.monotonic()

        def run() -> None:
            try:
                with self._turns:
                    answers.put((number, _stat(address, name)))
            finally:
                with self._lock:
                    del self._asked[address, name]

        threading.Thread(target=run, name="dsmem-row", daemon=True).start()
        return True


def _known(place: Any, name: str, end: float) -> dict[str, Any]:
    """Return what the coordinator says, if there is one. A store that is not open is not opened."""
    if time.monotonic() >= end:
        return {"error": "not asked: those before it have taken all of the time"}
    try:
        health = health_at(place, name, max(0.1, end - time.monotonic()))
    except errors.DsmemError as error:
        return {"error": str(error)}
    if health is None:
        return {}
    return {"health": health} if health["open"] else {"health": health, "error": health["trouble"]}


def _stat(address: str, name: str) -> dict[str, Any]:
    try:
        with opened(address, name) as store:
            return dict(store.stat())
    except (errors.DsmemError, OSError) as error:
        return {"error": str(error)}
