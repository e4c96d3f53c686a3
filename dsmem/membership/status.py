"""What a coordinator says of nodes and stores: which copies are missing and why, and how far a new one is.

No decision depends on it. Its methods are called under the lock of the coordinator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dsmem import _core
from dsmem.membership import placement
from dsmem.membership.messages import Missing, NodeInfo, Place
from dsmem.membership.policy import Policy
from dsmem.membership.state import Copy, Store

_NAMED = 4  # extents of a store that is lost


@dataclass(frozen=True)
class StoreInfo:
    """A store, as metrics have it.

    Attributes
    ----------
    cluster, name, phase : str
        Which one, and whether it is open.
    epoch, copies, replicas : int
        The greatest epoch, how many copies of all extents count, how many are promised.
    nbytes : int
        Of the copies.
    done, pages : int
        How many pages the copies have that are being made, of all.
    """

    cluster: str
    name: str
    phase: str
    epoch: int
    copies: int
    replicas: int
    nbytes: int
    done: int
    pages: int


def called(copy: int, extent: int) -> str:
    """Return what a copy is called. The first extent is not named: most stores have no other."""
    return f"copy {copy}" + (f" of extent {extent}" if extent else "")


def lost(store: Store) -> str:
    """Return why a store is lost. The extents without a copy are named, the first ones of many."""
    if store.extents == 1:
        return "all memory nodes with copies have ended"
    few = [str(extent) for extent in store.gone[:_NAMED]]
    more = len(store.gone) - len(few)
    named = ", ".join(few) + (f" and {more} more" if more else "")
    return f"all memory nodes with copies of extent{'s' * (len(store.gone) > 1)} {named} have ended"


def _counting(store: Store, node: int) -> list[Copy]:
    """Copies at a node that count, or may count again."""
    return [copy for copy in (*store.copies, *store.opened) if copy.node == node]


class Status:
    """What is known beside the decisions.

    Parameters
    ----------
    policy : Policy
        Has the decisions.
    now : float
        The time, on the clock of the policy. A node counts as heard then.
    """

    def __init__(self, policy: Policy, now: float) -> None:
        self._policy = policy
        self._begun = now
        self._heard: dict[int, float] = {}  # by node
        self._troubles: dict[int, str] = {}  # by node that counts as silent though it answers: why
        self._filled: dict[int, tuple[int, int]] = {}  # by store: pages that the new copy has, and all
        self._not_filled: dict[int, str] = {}  # by store: why the last copy could not be made
        self._not_opened: dict[int, str] = {}  # by store: why the last change of epoch has failed
        self._refused: dict[int, dict[int, str]] = {}  # by store and node: why a copy could not be closed

    def heard(self, node: int, now: float) -> None:
        """A node has answered."""
        self._heard[node] = now
        self._troubles.pop(node, None)

    def silent(self, node: int, reason: str) -> None:
        """A node counts as silent, though it answers if there is a reason."""
        self._troubles[node] = reason

    def filled(self, store: int, pages: int, of: int) -> None:
        """The new copy of a store has so many pages. A round that follows makes it no less."""
        before = self._filled.get(store, (0, of))[0]
        self._filled[store] = max(pages, before), of

    def begins_to_fill(self, store: int) -> None:
        """Another copy is begun."""
        self._filled.pop(store, None)

    def not_filled(self, store: int, reason: str) -> None:
        """A copy could not be made."""
        self._filled.pop(store, None)
        self._not_filled[store] = reason

    def not_opened(self, store: int, reason: str) -> bool:
        """An epoch could not be opened. Say whether that is new."""
        is_new = self._not_opened.get(store) != reason
        self._not_opened[store] = reason
        return is_new

    def refused(self, store: int, node: int, reason: str) -> None:
        """A node could not close a copy."""
        self._refused.setdefault(store, {})[node] = reason

    def opened(self, store: int) -> None:
        """An epoch is open."""
        for each in (self._filled, self._not_opened, self._refused):
            each.pop(store, None)
        if len(self._copies(store)) >= self._promised(store):
            self._not_filled.pop(store, None)

    def keep(self) -> None:
        """Forget what is known of stores and nodes that there are no more."""
        state = self._policy.state
        of_stores = self._filled, self._not_filled, self._not_opened, self._refused
        of_nodes = self._heard, self._troubles
        for there, all_known in ((state.stores, of_stores), (state.nodes, of_nodes)):
            for known in all_known:
                for gone in known.keys() - there.keys():
                    known.pop(gone)

    def _copies(self, store: int) -> Sequence[Copy]:
        found = self._policy.state.stores.get(store)
        return found.copies if found is not None else ()

    def _promised(self, store: int) -> int:
        found = self._policy.state.stores.get(store)
        return found.replicas * found.extents if found is not None else 0

    # -- what is told --

    def silent_for(self, node: int, now: float) -> float:
        """Return the seconds since a node was heard."""
        return max(0.0, now - self._heard.get(node, self._begun))

    def trouble(self, store: Store, now: float) -> str:
        """Say why a store is not in use, or has fewer copies than promised; nothing if all is as it should be."""
        if store.phase == "lost":
            return f"{lost(store)}, and its pages with them; unlink it, and make it again"
        if store.phase == "closed" and not self._policy.is_changing(store.id):
            reason = self._not_opened.get(store.id, "")
            waits = [self._silent(copy, now) for copy in store.copies if not self._policy.is_up(copy.node)]
            return "; ".join([*waits, reason] if reason else waits) or "its copies are about to be closed"
        seconds = self._policy.waits(store.id, now)
        if seconds:
            silent = [self._silent(copy, now) for copy in store.opened if not self._policy.is_up(copy.node)]
            wait = f"it waits for leases of clients that have read of late, {seconds + 0.05:.1f} s at most"
            return "; ".join([*silent, wait])
        if store.phase != "open":
            return self._not_opened.get(store.id, "") or "its copies change; it is open again when that is done"
        silent = [self._silent(copy, now) for copy in store.copies if not self._policy.is_up(copy.node)]
        lacks = self.missing(store, now)
        return "; ".join([*silent, *(f"{called(each.index, each.extent)}: {each.reason}" for each in lacks)])

    def _silent(self, copy: Copy, now: float) -> str:
        seconds = self.silent_for(copy.node, now)
        what = f"{called(copy.index, copy.extent)} at {self.address(copy.node)}"
        trouble = self._troubles.get(copy.node, "")
        return f"{what} {trouble}" if trouble else f"{what} does not answer since {seconds:.0f} s"

    def missing(self, store: Store, now: float) -> tuple[Missing, ...]:
        """Say which copies are promised and do not count, and why."""
        if store.phase == "lost":
            return ()
        there = {(copy.extent, copy.index) for copy in store.copies if copy.place != store.fresh}
        promised = [(extent, index) for extent in range(store.extents) for index in range(store.replicas)]
        return tuple(self._missing(store, *each, now) for each in promised if each not in there)

    def _missing(self, store: Store, extent: int, index: int, now: float) -> Missing:
        def is_it(copy: Copy | None) -> bool:
            return copy is not None and (copy.extent, copy.index) == (extent, index)

        fill = self._policy.filling(store.id)
        fresh = next((copy for copy in store.copies if copy.place == store.fresh), None)
        if fresh is not None and is_it(fresh):
            address = self.address(fresh.node)
            return Missing(index, f"made at {address}, and about to count", address, extent=extent)
        if fill is not None and is_it(fill):
            address = self.address(fill.node)
            done, pages = self._filled.get(store.id, (0, store.pages // store.extents))
            reason = f"being made at {address}: {done} of {pages} pages"
            return Missing(index, reason, address, done, pages, extent)
        return Missing(index, self._why(store, next(filter(is_it, store.opened), None), now), extent=extent)

    def _why(self, store: Store, left: Copy | None, now: float) -> str:
        if left is not None:
            refused = self._refused.get(store.id, {}).get(left.node) if self._policy.is_up(left.node) else None
            why = f"can't close its copy: {refused}" if refused else self._troubles.get(left.node) or "did not answer"
            return f"left out of the next epoch: {self.address(left.node)} {why}"
        if now < self._policy.rests_until(store.id):
            return f"could not be made, and is tried again soon: {self._not_filled.get(store.id, '')}"
        if self._policy.filling(store.id) is not None or store.fresh:
            return "one is made after the other"
        return self._no_node(store)

    def _no_node(self, store: Store) -> str:
        nodes, leaving = self._policy.state.nodes, self._policy.state.leaving
        up = sum(self._policy.is_up(node) for node in nodes)
        drained = f", drained: {len(leaving)}" if leaving else ""
        full = len(placement.full(self._policy.rooms(), store))
        no_room = f", full: {full}" if full else ""
        return f"no memory node is free for it; {up} of {len(nodes)} answer{drained}{no_room}; start one more"

    def _stays(self, node: int, now: float) -> str:
        """Say why a copy of a node that is drained does not move, the first of them; nothing if they move."""
        if node not in self._policy.state.leaving:
            return ""
        rooms = self._policy.rooms()
        reasons = (self._waits(store, copy, now, rooms) for store, copy in self._at(node))
        return next(filter(None, reasons), "")

    def _at(self, node: int) -> Iterator[tuple[Store, Copy]]:
        for store in self._policy.state.stores.values():
            yield from ((store, copy) for copy in store.copies if copy.node == node)

    def _waits(self, store: Store, copy: Copy, now: float, rooms: dict[int, int]) -> str:
        moved = self._policy.moving(store.id)
        nodes = self._policy.others(store, copy, rooms)
        what = f"{called(copy.index, copy.extent)} of {store.name!r:.100}"
        if moved == copy.place:
            return ""
        if not nodes:
            return f"{what}: {self._no_node(store)}"
        if store.phase == "open" and self._policy.avoids(store, nodes, now):
            return f"{what}: could not be made elsewhere, and is tried again: {self._not_filled.get(store.id, '')}"
        if store.phase == "closed" and not self._policy.is_changing(store.id):
            return f"{what}: {self.trouble(store, now)}"
        return ""

    def address(self, node: int) -> str:
        """Return the address of a node, or nothing if it is not known any more."""
        found = self._policy.state.nodes.get(node)
        return found.address if found is not None else ""

    def places(self, store: Store) -> tuple[Place, ...]:
        """Say where the copies of a store are that count."""
        nodes = self._policy.state.nodes
        found = []
        for copy in store.copies:
            node = nodes.get(copy.node)
            domain = node.domain if node is not None else ""
            if copy.place != store.fresh:
                at = self.address(copy.node), domain, self._policy.is_up(copy.node)
                found.append(Place(copy.index, *at, copy.extent))
        return tuple(found)

    def nodes(self, now: float) -> list[NodeInfo]:
        """Say what is known of the memory nodes: those that answer first."""
        stores = list(self._policy.state.stores.values())
        found = []
        for node in self._policy.state.nodes.values():
            is_up = self._policy.is_up(node.id)
            fills = [store for store in stores if self._is_made(store, node.id)]
            pages = [self._filled.get(store.id, (0, store.pages // store.extents)) for store in fills]
            found.append(
                NodeInfo(
                    node.address,
                    node.domain,
                    is_up,
                    len({(store.id, copy.place) for store in stores for copy in _counting(store, node.id)}),
                    sum(at == node.id for store in stores for at, _ in store.stale) - len(fills),
                    0 if is_up else int(self.silent_for(node.id, now)),
                    len(fills),
                    sum(done for done, _ in pages),
                    sum(all_ for _, all_ in pages),
                    node.id in self._policy.state.leaving,
                    self._stays(node.id, now) if is_up else self._troubles.get(node.id, ""),
                )
            )
        return sorted(found, key=lambda info: (not info.is_up, info.address))

    def stores(self, now: float) -> list[StoreInfo]:
        """Say what is known of the stores that have a name."""
        found = []
        for store in self._policy.state.stores.values():
            if not store.name:
                continue
            lacks, copies = self.missing(store, now), len(self.places(store))
            nbytes = _core.store_nbytes(*store.shape) * copies
            done, pages = sum(each.done for each in lacks), sum(each.pages for each in lacks)
            about = store.cluster, store.name, store.phase, store.epoch
            found.append(StoreInfo(*about, copies, store.replicas * store.extents, nbytes, done, pages))
        return found

    def _is_made(self, store: Store, node: int) -> bool:
        fill = self._policy.filling(store.id)
        return fill is not None and fill.node == node
