"""What a coordinator logs: one line for each event that an operator wants to know of.

The journal compares what is decided with what it has seen before, so that it needs no place in the decisions.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from dsmem.membership.policy import Policy
from dsmem.membership.state import Copy, State, Store, may_count
from dsmem.membership.status import called, lost

_log = logging.getLogger("dsmem")
_Which = tuple[int, int]  # extent and number of a copy
_TOGETHER = "all copies of an extent are in one failure domain, and may be lost together"


@dataclass
class _Seen:
    """Of a store."""

    label: str
    phase: str = "new"
    epoch: int = 0  # that was open last
    copies: dict[_Which, str] = field(default_factory=dict)  # of that epoch: addresses
    making: tuple[int, int, int] | None = None  # node, extent and number of a copy that is being made
    waits: bool = False
    alone: bool = False  # whether all copies of some extent are in one failure domain


class Journal:
    """Logs what has changed.

    Parameters
    ----------
    policy : Policy
        Has what is decided.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        # address, and whether it answers
        self._nodes = {node.id: (node.address, policy.is_up(node.id)) for node in policy.state.nodes.values()}
        self._drained = {id: not self._has_copies(id) for id in policy.state.leaving}  # nodes, and whether it is done
        self._stores: dict[int, _Seen] = {}
        self._gone: dict[int, str] = {}  # addresses of nodes that are not known any more
        for store in self._state.stores.values():
            if store.name:
                copies = self._addresses(store.opened)
                phase = "closed" if store.phase == "new" else store.phase
                self._stores[store.id] = _Seen(_label(store), phase, store.epoch, copies)

    @property
    def _state(self) -> State:
        return self._policy.state

    def look(self) -> None:
        """Log what is different from the last time. It is called after each event that may have changed something."""
        self._look_at_nodes()
        for store in list(self._state.stores.values()):
            if store.name:
                self._look_at(store)
        for id in [id for id in self._stores if id not in self._state.stores or not self._state.stores[id].name]:
            seen = self._stores.pop(id)
            if seen.phase == "new":
                _log.warning("%s was not made", seen.label)
            else:
                _log.info("%s was removed", seen.label)

    def _look_at_nodes(self) -> None:
        for node in self._state.nodes.values():
            before, is_up = self._nodes.get(node.id), self._policy.is_up(node.id)
            self._nodes[node.id] = node.address, is_up
            if before is None:
                _log.info("memory node %s, domain %s: joined", node.address, node.domain)
            elif before[1] and not is_up:
                _log.warning("memory node %s: silent", node.address)
            elif is_up and not before[1]:
                _log.info("memory node %s: answers again", node.address)
        self._look_at_drained()
        for id in [id for id in self._nodes if id not in self._state.nodes]:
            address, _ = self._nodes.pop(id)
            self._gone = {id: address}  # for lines that follow
            _log.warning("memory node %s: gone, and its copies with it", address)

    def _look_at_drained(self) -> None:
        for id in self._state.leaving:
            if id not in self._drained:
                self._drained[id] = False
                _log.info("memory node %s: its copies are to move to others", self._address(id))
            before, self._drained[id] = self._drained[id], not self._has_copies(id)
            if self._drained[id] and not before:
                _log.info("memory node %s: has no copies any more, and may be ended", self._address(id))
        for id in [id for id in self._drained if id not in self._state.leaving]:
            del self._drained[id]
            if id in self._state.nodes:
                _log.info("memory node %s: is not drained any more", self._address(id))

    def _has_copies(self, node: int) -> bool:
        """Also one that is being made, or that was not dropped yet: it may be what another one moves to."""
        stores = self._state.stores.values()
        return any(may_count(store, node) or node in {at for at, _ in store.stale} for store in stores)

    def _look_at(self, store: Store) -> None:
        seen = self._stores.get(store.id)
        if seen is None:
            seen = self._stores[store.id] = _Seen(_label(store))
            _log.info("%s is being made: %s", seen.label, _listed(self._addresses(store.copies)))
        if store.phase == "open" and store.epoch != seen.epoch:
            self._opened(store, seen)
        elif store.phase == "lost" and seen.phase != "lost":
            _log.error("%s is lost: %s", seen.label, lost(store))
        self._look_at_fill(store, seen)
        idle = store.phase == "closed" and not self._policy.is_changing(store.id)
        up = [copy for copy in store.copies if self._policy.is_up(copy.node)]
        waits = idle and not store.is_whole(up)  # else it is tried again
        if waits and not seen.waits:
            _log.warning("%s waits for a memory node with a copy: %s", seen.label, self._waited_for(store))
        seen.phase, seen.waits = store.phase, waits

    def _look_at_fill(self, store: Store, seen: _Seen) -> None:
        fill = self._policy.filling(store.id)
        making = (*fill.place, fill.index) if fill is not None else None
        if fill is not None and making != seen.making:
            what, moved = called(fill.index, fill.extent), self._policy.moving(store.id)
            how = f"moves from {self._address(moved[0])} to" if moved is not None else "is being made at"
            _log.info("%s: %s %s %s", seen.label, what, how, self._address(fill.node))
        seen.making = making

    def _opened(self, store: Store, seen: _Seen) -> None:
        copies = self._addresses(store.copies)
        left = {index: at for index, at in seen.copies.items() if copies.get(index) != at}
        made = {index: at for index, at in copies.items() if seen.copies.get(index) != at} if seen.copies else {}
        promised = [(extent, index) for extent in range(store.extents) for index in range(store.replicas)]
        missing = [each for each in promised if each not in copies]
        moved = {which: f"{left.pop(which)} to {made.pop(which)}" for which in left.keys() & made.keys()}
        notes = [f"left out: {_listed(left)}"] if left else []
        notes += [f"made again: {_listed(made)}"] if made else []
        notes += [f"moved: {_listed(moved, 'from')}"] if moved else []
        notes += [f"missing: {', '.join(called(index, extent) for extent, index in missing)}"] if missing else []
        alone = store.replicas > 1 and not missing and self._policy.domains(store.copies) == 1
        notes += [_TOGETHER] if alone else []
        text = "; ".join([_listed(copies), *notes])
        level = logging.WARNING if missing or (alone and not seen.alone) else logging.INFO
        seen.alone = alone
        _log.log(level, "%s: epoch %d is open: %s", seen.label, store.epoch, text)
        seen.epoch, seen.copies = store.epoch, copies

    def _waited_for(self, store: Store) -> str:
        return _listed(self._addresses(store.copies))

    def _addresses(self, copies: list[Copy]) -> dict[_Which, str]:
        return {(copy.extent, copy.index): self._address(copy.node) for copy in copies}

    def _address(self, node: int) -> str:
        found = self._state.nodes.get(node)
        return found.address if found is not None else self._gone.get(node, "a node that is gone")


def _label(store: Store) -> str:
    return f"store {store.name!r} of cluster {store.cluster!r}"


def _listed(addresses: dict[_Which, str], at: str = "at") -> str:
    each = sorted(addresses.items())
    return ", ".join(f"{called(index, extent)} {at} {address}" for (extent, index), address in each)
