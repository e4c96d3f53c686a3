"""At which nodes copies are made, and which of them are better elsewhere. Nothing here says which copies count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dsmem import _core
from dsmem.membership.state import NO_LIMIT, Copy, Node, State, Store, primaries


def size(store: Store) -> int:
    """Return the bytes of pages of a copy."""
    return store.page_size * store.pages // store.extents


def memory(store: Store) -> int:
    """Return the bytes of a copy: its pages, and what stands beside them."""
    return _core.store_nbytes(*store.shape)


def held(state: State) -> dict[int, int]:
    """Return how many bytes of pages each node has, also in copies that are being made, or were not dropped yet."""
    return _held(state, state.stores.values(), size)


def _held(state: State, stores: Iterable[Store], of: Callable[[Store], int]) -> dict[int, int]:
    nbytes = dict.fromkeys(state.nodes, 0)
    for store in stores:
        for node, _ in {*store.stale, *(copy.place for copy in (*store.copies, *store.opened))}:
            if node in nbytes:
                nbytes[node] += of(store)
    return nbytes


def rooms(state: State, store: Store | None = None) -> dict[int, int]:
    """Return how many bytes more each node may hold that has a limit, by its copies alone.

    What else it holds is not known, so it may refuse a copy. Copies of stores that were removed are not counted: a node
    drops them before it makes another one. The store may be one that is not among the others yet.
    """
    limits = {node.id: node.memory for node in state.nodes.values() if node.memory != NO_LIMIT}
    if not limits:
        return {}
    nbytes = _held(state, (each for each in state.stores.values() if each.name), memory)
    if store is not None and store.id not in state.stores:
        for copy in store.copies:
            nbytes[copy.node] += memory(store)
    return {node: most - nbytes[node] for node, most in limits.items()}


def full(rooms: Mapping[int, int], store: Store) -> set[int]:
    """Return the nodes that have no room for a copy of the store."""
    nbytes = memory(store) if rooms else 0
    return {node for node, room in rooms.items() if nbytes > room}


def chosen(state: State, up: Mapping[int, bool], count: int, store: Store, beside: Sequence[Copy] = ()) -> list[Node]:
    """Choose nodes for copies of an extent: of those with room those with few bytes, in different domains if possible.

    beside: copies of the extent that are there. The store may be one that is not among the others yet.
    """
    nbytes = held(state)
    if store.id not in state.stores:
        for copy in store.copies:
            nbytes[copy.node] += size(store)
    first = Counter(copy.node for each in (*state.stores.values(), store) for copy in primaries(each.copies))
    there = [state.nodes[copy.node] for copy in beside]
    taken = {*state.leaving, *full(rooms(state, store), store)}
    free = [node for node in state.nodes.values() if up[node.id] and node.id not in taken]
    found: list[Node] = []
    while free and len(found) < count:
        used = [node.domain for node in (*there, *found)]
        best = min(free, key=lambda node: (used.count(node.domain), nbytes[node.id], first[node.id], node.id))
        found.append(best)
        free.remove(best)
    return found


@dataclass(frozen=True)
class Move:
    """A copy that is better at another node. Of several, the one with the greatest rank is better."""

    rank: tuple[int, ...]
    store: Store
    copy: Copy
    node: int


def best_move(
    state: State, up: Mapping[int, bool], stores: Iterable[Store], avoids: Callable[[Store, int], bool]
) -> Move | None:
    """Return a copy of one of the stores that is better at another node; None if there is none.

    First those at nodes that are drained. Then those of an extent that would be in more domains. Then, if it would be
    in as many, those whose node has more than the other one also after the move: by half a copy, and by a tenth of what
    it has. So each move brings more domains or is more even, and there is an end. avoids: whether a node is not to be
    tried, since it could not have a copy of the store lately.
    """
    nbytes, left = held(state), rooms(state)
    moves = (move for store in stores for move in _moves(state, up, store, nbytes, left))
    found = (move for move in moves if not avoids(move.store, move.node))
    return max(found, key=lambda move: move.rank, default=None)


def others(state: State, up: Mapping[int, bool], store: Store, copy: Copy, rooms: Mapping[int, int]) -> list[int]:
    """Return the nodes that may have a copy in place of this one. rooms: as of :func:`rooms`."""
    taken = {each.node for each in store.copies if each.extent == copy.extent} | set(state.leaving)
    taken |= full(rooms, store)
    taken |= {node for node, extent in store.stale if extent == copy.extent}
    return [node for node in state.nodes if up[node] and node not in taken]


def _moves(
    state: State, up: Mapping[int, bool], store: Store, nbytes: Mapping[int, int], rooms: Mapping[int, int]
) -> Iterable[Move]:
    for copy in store.copies:
        drains = copy.node in state.leaving
        beside = [each for each in store.copies if each.extent == copy.extent and each != copy]
        now = _domains(state, beside, copy.node)
        for node in others(state, up, store, copy, rooms):
            domains = _domains(state, beside, node) - now
            evens = nbytes.get(copy.node, 0) - nbytes[node] - size(store)
            enough = 2 * evens >= size(store) and 10 * evens >= nbytes.get(copy.node, 0)
            if drains or domains > 0 or (domains == 0 and enough):
                yield Move((drains, domains, evens, -node), store, copy, node)


def _domains(state: State, beside: Sequence[Copy], node: int) -> int:
    nodes = (*(copy.node for copy in beside), node)
    return len({state.nodes[each].domain for each in nodes if each in state.nodes})
