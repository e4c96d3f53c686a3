"""At which nodes copies are made, and which of them are better elsewhere. Nothing here says which copies count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dsmem.membership.state import Copy, Node, State, Store, primaries


def chosen(
    state: State, up: Mapping[int, bool], count: int, beside: Sequence[Copy] = (), own: Sequence[Copy] = ()
) -> list[Node]:
    """Choose nodes for copies of an extent: those with few copies, each in another domain if there are enough.

    beside: copies of the extent that are there. own: of a store that is not among the others yet.
    """
    load = dict.fromkeys(state.nodes, 0)
    for copies in (list(own), *(store.copies for store in state.stores.values())):
        first = primaries(copies)
        for copy in copies:
            if copy.node in load:
                load[copy.node] += 3 if copy in first else 2  # reads go to the primary
    there = [state.nodes[copy.node] for copy in beside]
    free = [node for node in state.nodes.values() if up[node.id] and node.id not in state.leaving]
    found: list[Node] = []
    while free and len(found) < count:
        used = [node.domain for node in (*there, *found)]
        best = min(free, key=lambda node: (used.count(node.domain), load[node.id], node.id))
        found.append(best)
        free.remove(best)
    return found


def held(state: State) -> dict[int, int]:
    """Return how many bytes of pages each node has, in copies that count or may count again."""
    nbytes = dict.fromkeys(state.nodes, 0)
    for store in state.stores.values():
        for node, _ in {copy.place for copy in (*store.copies, *store.opened)}:
            if node in nbytes:
                nbytes[node] += size(store)
    return nbytes


def size(store: Store) -> int:
    """Return the bytes of pages of a copy."""
    return store.page_size * store.pages // store.extents


def better_place(
    state: State, up: Mapping[int, bool], store: Store, unfit: Mapping[int, int]
) -> tuple[Copy, int] | None:
    """Return a copy of a store that is better at another node, and that node.

    First those at nodes that are drained. Then those of an extent that would be in more domains; or, if it would be in
    as many, those whose node has more than the other one by half a copy or more also after the move. So each move
    brings more domains or is more even, and there is an end. unfit: nodes, and how many copies could not be made there:
    only what is drained is tried at them again.
    """
    nbytes, bytes_of_copy = held(state), size(store)
    best: tuple[tuple[int, ...], Copy, int] | None = None
    for copy in store.copies:
        drains = copy.node in state.leaving
        beside = [each for each in store.copies if each.extent == copy.extent and each != copy]
        taken = {each.node for each in (*beside, copy)}
        taken |= set(state.leaving) | {node for node, extent in store.stale if extent == copy.extent}
        for node in state.nodes:
            if not up[node] or node in taken:
                continue
            domains = _domains(state, beside, node) - _domains(state, beside, copy.node)
            evens = nbytes[copy.node] - nbytes[node] - bytes_of_copy
            fails = unfit.get(node, 0)
            if not drains and (fails or domains < 0 or (not domains and 2 * evens < bytes_of_copy)):
                continue
            rank = drains, -fails, domains, evens, -node
            if best is None or rank > best[0]:
                best = rank, copy, node
    return best and best[1:]


def _domains(state: State, beside: Sequence[Copy], node: int) -> int:
    nodes = (*(copy.node for copy in beside), node)
    return len({state.nodes[each].domain for each in nodes if each in state.nodes})
