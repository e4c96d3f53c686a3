"""The decisions of a coordinator: which copies of a store count, and when. No clock, no socket, no file.

It is told what has happened, and says what is to be done. Safety does not depend on what it is told, nor on the order:
a node that is taken for dead may live. docs/protocols/epochs.md has the argument.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from dsmem import errors
from dsmem.membership import events, placement
from dsmem.membership.events import Action, Event
from dsmem.membership.leases import NO_ID, Leases
from dsmem.membership.standing import Standing, older
from dsmem.membership.state import Copy, Place, State, Store, primaries, with_descriptors
from dsmem.names.copies import fewest_domains

_AGAIN_SECONDS = 0.5  # after a step that has failed, though all nodes answer
_REST_SECONDS = 5.0  # after a copy could not be made again
_AVOID_SECONDS = 60.0  # in which none moves to a node where one could not be made
_DRIFT = 1.02  # how much faster the clock of a client may run
_LATE = 0.1  # of a lease, by which a change may go on later than others were given back: each timer is a thread
_JOIN_SECONDS = 1.5  # in which each node that is there has registered
_FAILURES_MOST = 100  # stores that were not made, of which it is kept why
_REFUSALS_MOST = 3  # of a copy to be closed, one after the other, before the store goes on without it


@dataclass
class _Change:
    """An epoch change under way."""

    old: list[Copy]  # that are closed, and recovered: all of the last open epoch whose nodes answer
    descriptors: dict[Place, bytes] = field(default_factory=dict)  # that the closed copies have got
    recovering: bool = False
    due: float = 0.0  # when it is looked at again, if leases are waited for
    fresh: Copy | None = None
    moved: Place | None = None  # of the old one that is in the next epoch no more, since the fresh one comes for it


@dataclass
class _Fill:
    """A new copy that is being filled, while the store is open."""

    copy: Copy
    epoch: int  # that is open meanwhile
    moved: Place | None = None  # where the copy is that it replaces; None: one is missing

    def is_of(self, event: events.Closed | events.Filled | events.FillFailed) -> bool:
        """Whether the event is about this copy."""
        return (self.copy.place, self.epoch) == ((event.node, event.extent), event.epoch)


class Policy:
    """What a coordinator decides.

    Parameters
    ----------
    state : State
        From disk. It is changed here, and written when :class:`events.Save` says so.
    now : float
        The time. All times are those of one clock that goes on while the host sleeps.
    lease : float
        Seconds for which a client may read without asking.
    run : int
        Drawn for this coordinator, not 0.
    """

    def __init__(self, state: State, now: float, lease: float, run: int) -> None:
        self.state = state
        self.lease = lease
        self._run, self._read = run, state.written
        state.folder = state.folder or run
        self._stopped = False
        self._begun = now
        self._unheard, self._missed = set(state.nodes), False
        self._up = dict.fromkeys(state.nodes, True)  # until it is known better
        self._changes: dict[int, _Change] = {}
        self._fills: dict[int, _Fill] = {}
        self._rests: dict[int, float] = {}  # until when no copy of a store is made again
        self._unfit: dict[int, dict[int, int]] = {}  # by store and node: copies that could not be made since one was
        self._refusals: dict[int, Counter[Place]] = {}  # by store and copy: how often in a row it was not closed
        self._tried: dict[int, set[Place]] = {}  # by store that is being made: copies that nodes could not make
        self._avoided: dict[tuple[int, int], float] = {}  # until when no copy of a store moves to a node
        self._failures: dict[int, tuple[type[errors.DsmemError], str]] = {}  # by store, the oldest first
        # a coordinator does not know what the one before it has granted
        state.lease = max(state.lease, lease)
        self._leases = {id: Leases(now + state.lease * _DRIFT) for id in state.stores}
        self._does: dict[type, Callable[[Any, float], list[Action]]] = {
            events.Joined: self._joined,
            events.Heard: self._heard,
            events.Silent: self._silent,
            events.Gone: self._gone,
            events.Drained: self._drained,
            events.Outdated: self._outdated,
            events.Created: self._created,
            events.Removed: self._removed,
            events.Closed: self._closed,
            events.Refused: self._refused,
            events.Recovered: self._recovered,
            events.Failed: self._failed,
            events.Due: self._due,
            events.GivenBack: self._given_back,
            events.Dropped: self._dropped,
            events.Filled: self._filled,
            events.FillFailed: self._fill_failed,
        }

    def on(self, event: Event, now: float) -> list[Action]:
        """Say what is to be done, in this order, since something has happened."""
        return [] if self._stopped else self._does[type(event)](event, now)

    def begin(self, now: float) -> list[Action]:
        """Say what is to be done at first: what the coordinator before it has not ended begins again.

        The state is written first: two coordinators that have read the same tell the nodes of different ones.
        """
        actions: list[Action] = [events.Save()]
        actions += [events.Watch(node) for node in self.state.nodes.values()]
        for store in list(self.state.stores.values()):
            if store.phase == "new":
                actions += self._give_up(store, "the coordinator was started again meanwhile")
            elif store.phase == "closed":
                actions += self._change(store)
            actions += [self._drop(store, place) for place in store.stale]
        return actions + self._refill(now)

    @property
    def standing(self) -> Standing:
        """How far the state is that was written last."""
        return Standing(self.state.folder, self._run, self._read, self.state.written)

    # -- whether the state is the latest --

    def is_settled(self, now: float) -> bool:
        """Whether each node that is there has been asked if it knows of a later state. Clients are told nothing before.

        Those that this state does not know tell when they register, which is waited for if any is missing.
        """
        return not self._stopped and not self._unheard and (not self._missed or now >= self._begun + _JOIN_SECONDS)

    def _ask_no_more(self, node: int, is_there: bool) -> None:
        if node in self._unheard:
            self._unheard.remove(node)
            self._missed |= not is_there

    def _outdated(self, event: events.Outdated, now: float) -> list[Action]:
        """Another coordinator has decided more."""
        self._stopped = True
        return [events.Stop(event.reason)]

    # -- what clients ask --

    def grant(self, id: int, epoch: int, now: float, lease: int = NO_ID) -> bool:
        """Whether the epoch of a store is the present one. Then a client may read for the time of a lease.

        now: no earlier than in a call before. lease: its ID.
        """
        store = self.state.stores.get(id)
        if store is None or store.phase != "open" or store.epoch != epoch or not self.is_settled(now):
            return False
        self._leases[id].grant(lease, now, now + self.state.lease * _DRIFT)
        return True

    @staticmethod
    def _drop(store: Store, place: Place) -> events.Drop:
        return events.Drop(store.id, place[0], store.making, place[1])

    def failure(self, store: int) -> errors.DsmemError | None:
        """Return why a store was not made, if that is known. None of these is taken for a coordinator that is away."""
        if store not in self._failures:
            return None
        error, detail = self._failures[store]
        return error(detail)

    def is_up(self, node: int) -> bool:
        """Whether the node answers."""
        return self._up.get(node, False)

    def waits(self, store: int, now: float) -> float:
        """Return for how many seconds at most a change of its epoch waits for leases."""
        change = self._changes.get(store)
        return max(0.0, change.due - now) if change is not None and not change.recovering else 0.0

    def filling(self, store: int) -> Copy | None:
        """Return the new copy of a store that is being made."""
        fill = self._fills.get(store)
        return fill.copy if fill is not None else None

    def moving(self, store: int) -> Place | None:
        """Return where the copy is that the new one replaces, if it replaces one."""
        fill = self._fills.get(store)
        return fill.moved if fill is not None else None

    def completing(self, store: int) -> Copy | None:
        """Return the new copy that is to count in the epoch that begins."""
        change = self._changes.get(store)
        return change.fresh if change is not None else None

    def is_changing(self, store: int) -> bool:
        """Whether a change of its epoch is under way. A store that is closed waits for a node otherwise."""
        return store in self._changes

    def opens(self, store: int, epoch: int) -> bool:
        """Whether this epoch of a store is about to be opened."""
        return self._under_way(store, epoch) is not None

    def rests_until(self, store: int) -> float:
        """Return until when no copy of a store is made again."""
        return self._rests.get(store, 0.0)

    def rooms(self) -> dict[int, int]:
        """Return how many bytes more each node may hold that has a limit."""
        return placement.rooms(self.state)

    def others(self, store: Store, copy: Copy, rooms: dict[int, int]) -> list[int]:
        """Return the nodes that may have a copy in place of this one."""
        return placement.others(self.state, self._up, store, copy, rooms)

    def avoids(self, store: Store, nodes: list[int], now: float) -> bool:
        """Whether no copy of the store moves to any of the nodes for now, since none could be made there lately."""
        return all(self._avoids(store, node, now) for node in nodes)

    def domains(self, copies: list[Copy]) -> int:
        """Return in how many failure domains copies are, of the extent with the fewest."""
        nodes = self.state.nodes
        return fewest_domains((copy.extent, nodes[copy.node].domain) for copy in copies if copy.node in nodes)

    # -- nodes --

    def _joined(self, event: events.Joined, now: float) -> list[Action]:
        node, seen = event.node, event.seen
        if seen.folder == self.state.folder and not self.standing.knows(seen):
            return self._outdated(events.Outdated(f"{node.address}: {older(seen.written, self._read)}"), now)
        is_ours = seen.folder in (0, self.state.folder)  # if not it may refuse, which is seen when it is asked
        if self.state.nodes.get(node.id) == node:
            return []  # whether its memory is reached, too, is seen when it is asked
        if event.was_known and seen.folder == self.state.folder:
            text = "this memory node was forgotten, or another process has answered at its address"
            raise errors.StaleDescriptorError(f"{text}; it gives up its copies, and joins as a new one")
        for other in self.state.nodes.values():
            if other.address == node.address and other.id != node.id:
                # which of them has the address is seen by the number that is answered there
                text = f"{node.address} is known as the address of another memory node, which may end there"
                raise errors.BusyError(f"{text}; if it does not, take another --advertise")
        self.state.nodes[node.id] = node
        self._up[node.id] = is_ours
        return [events.Save(), events.Watch(node), *self._stalled(node.id), *self._refill(now)]

    def _heard(self, event: events.Heard, now: float) -> list[Action]:
        was_heard = not self._unheard
        self._ask_no_more(event.node, True)
        if self._up.get(event.node, True):
            return self._refill(now) if not (was_heard or self._unheard) else []
        self._up[event.node] = True
        stores = self.state.stores.values()
        drops = [self._drop(store, place) for store in stores for place in store.stale if place[0] == event.node]
        return [*drops, *self._stalled(event.node), *self._refill(now)]

    def _stalled(self, node: int) -> list[Action]:
        """Go on with the stores that have waited for a node."""
        waiting = [store for store in self.state.stores.values() if store.phase == "closed"]
        idle = [store for store in waiting if store.id not in self._changes]
        return [action for store in idle for action in self._change(store)]

    def _silent(self, event: events.Silent, now: float) -> list[Action]:
        self._ask_no_more(event.node, False)
        if not self._up.get(event.node, False):
            return []
        self._up[event.node] = False
        return [*self._without(event.node), *self._refill(now)]

    def _gone(self, event: events.Gone, now: float) -> list[Action]:
        """Its copies will never be there again."""
        self._ask_no_more(event.node, False)
        if self.state.nodes.pop(event.node, None) is None:
            return []
        self._up.pop(event.node, None)
        self.state.leaving = [node for node in self.state.leaving if node != event.node]
        actions: list[Action] = []
        for store in list(self.state.stores.values()):
            store.stale = [place for place in store.stale if place[0] != event.node]
            if not store.name and not store.stale:
                del self.state.stores[store.id]
                continue
            self._end_fill(store, event.node)
            actions += self._without_copy(store, event.node)
        return [events.Forget(event.node), events.Save(), *actions, *self._refill(now)]

    def _drained(self, event: events.Drained, now: float) -> list[Action]:
        others = [node for node in self.state.leaving if node != event.node]
        self.state.leaving = [*others, event.node] if event.leaving and event.node in self.state.nodes else others
        drops: list[Action] = []
        for id, fill in list(self._fills.items()):
            moves_off = fill.moved is not None and fill.moved[0] == event.node
            if fill.copy.node == event.node if event.leaving else moves_off:
                del self._fills[id]
                drops.append(self._drop(self.state.stores[id], fill.copy.place))
        return [events.Save(), *drops, *self._refill(now)]

    def _end_fill(self, store: Store, node: int) -> None:
        """The node that gets a new copy can't be asked any more."""
        fill = self._fills.get(store.id)
        if fill is not None and fill.copy.node == node:
            del self._fills[store.id]

    def _without_copy(self, store: Store, node: int, extent: int | None = None) -> list[Action]:
        """The memory of a copy is gone for good, or that of all copies at a node."""
        if store.phase == "new":
            return self._left_out(store, node)

        def is_gone(copy: Copy) -> bool:
            return copy.node == node and extent in (None, copy.extent)

        if not any(is_gone(copy) for copy in (*store.copies, *store.opened)):
            return []
        counted = {copy.place for copy in (*store.copies, *store.opened) if not is_gone(copy)}
        store.opened = [copy for copy in store.opened if not is_gone(copy)]
        if store.is_whole(store.opened):
            return self._change(store) if any(is_gone(copy) for copy in self._used(store)) else [events.Save()]
        self._changes.pop(store.id, None)
        self._fills.pop(store.id, None)
        store.stale += [place for place in sorted(counted) if place[0] in self.state.nodes]
        store.gone = store.lacking(store.opened)
        store.phase, store.copies, store.opened, store.fresh = "lost", [], [], None
        return [events.Save(), *(self._drop(store, place) for place in store.stale if self._up.get(place[0]))]

    def _without(self, node: int) -> list[Action]:
        return [action for store in list(self.state.stores.values()) for action in self._left_out(store, node)]

    def _left_out(self, store: Store, node: int) -> list[Action]:
        """Go on without the copy of a node that does not answer."""
        self._end_fill(store, node)
        if all(copy.node != node for copy in self._used(store)):
            return []
        if store.phase == "new":
            return self._give_up(store, f"the memory node{self._at(node)} has failed meanwhile")
        return self._change(store) if store.phase in ("open", "closed") else []

    # -- stores are made and removed --

    def _created(self, event: events.Created, now: float) -> list[Action]:
        if self.state.named(event.cluster, event.name) is not None:
            raise errors.NameExistsError(repr(event.name))
        replicas = event.shape[3]
        store = Store(event.id, event.cluster, event.name, *event.shape, created=event.time, epoch=1)
        store.extents = event.extents
        for extent in range(store.extents):
            nodes = placement.chosen(self.state, self._up, replicas, store)
            if len(nodes) < replicas:
                raise self._too_few(store, len(nodes))
            has = Counter(copy.node for copy in primaries(store.copies))
            nodes.sort(key=lambda node: has[node.id])  # the one with the fewest primaries of the store gets this one
            store.copies += [Copy(node.id, index, extent=extent) for index, node in enumerate(nodes)]
        self.state.stores[store.id] = store
        self._changes[store.id] = _Change(list(store.copies))
        self._leases[store.id] = Leases(now)
        return [events.Save(), *(events.Make(store.id, 1, copy, store.making) for copy in store.copies)]

    def _too_few(self, store: Store, chosen: int) -> errors.DsmemError:
        """There are fewer nodes than copies, or fewer that have room."""
        there = sum(self._up[node] and node not in self.state.leaving for node in self.state.nodes)
        free = f"{there} memory nodes answer{' and are not drained' if self.state.leaving else ''}"
        if chosen < there:
            free += f", of which {chosen} have room for one more copy of {placement.memory(store)} bytes"
        error = errors.OutOfMemoryError if there >= store.replicas else errors.InvalidArgumentError
        return error(f"replicas={store.replicas}, and {free}; start more: dsmem serve --join")

    def _give_up(self, store: Store, reason: str, no_room: bool = False) -> list[Action]:
        """Remove a store that was not made, and keep why: the client that wants it asks for it by its number."""
        remedy = "" if "; " in reason else "; make it again"
        detail = f"the store {store.name!r:.100} was not made: {reason}{remedy}"
        self._failures[store.id] = errors.OutOfMemoryError if no_room else errors.StaleDescriptorError, detail
        if len(self._failures) > _FAILURES_MOST:
            del self._failures[next(iter(self._failures))]
        return self._removed(events.Removed(store.id), 0)

    def _at(self, node: int) -> str:
        found = self.state.nodes.get(node)
        return f" at {found.address}" if found is not None else ""

    def _removed(self, event: events.Removed, now: float) -> list[Action]:
        store = self.state.stores.get(event.store)
        if store is None:
            return []
        self._changes.pop(store.id, None)
        self._fills.pop(store.id, None)
        for each in (self._unfit, self._rests, self._leases, self._refusals, self._tried):
            each.pop(store.id, None)
        places = {copy.place for copy in (*store.copies, *store.opened)} | set(store.stale)
        store.stale = [place for place in sorted(places) if place[0] in self.state.nodes]
        store.phase, store.copies, store.opened, store.name = "lost", [], [], ""
        if not store.stale:
            del self.state.stores[store.id]
        return [events.Save(), *(self._drop(store, place) for place in store.stale if self._up[place[0]])]

    def _dropped(self, event: events.Dropped, now: float) -> list[Action]:
        store, place = self.state.stores.get(event.store), (event.node, event.extent)
        if store is None or place not in store.stale:
            return []
        fill = self._fills.get(store.id)
        if event.making < store.making and place in (store.fresh, fill.copy.place if fill is not None else None):
            return []  # it has another one since
        store.stale.remove(place)
        if not store.name and not store.stale:
            del self.state.stores[store.id]
        return [events.Save(), *self._refill(now)]

    # -- copies that are made again --

    def _refill(self, now: float) -> list[Action]:
        """Begin to make the copies that stores lack, where a node has room for one; if there are none, move one."""
        actions: list[Action] = []
        idle = [
            store
            for store in self.state.stores.values()
            if store.phase == "open" and store.id not in self._fills and now >= self._rests.get(store.id, now)
        ]
        for store in idle:
            copy = self._lacking(store)
            if copy is not None:
                actions += self._begin_fill(store, copy)
        return actions or self._move(idle, now)

    def _begin_fill(self, store: Store, copy: Copy, moved: Place | None = None) -> list[Action]:
        store.making += 1
        self._fills[store.id] = _Fill(copy, store.epoch, moved)
        store.stale.append(copy.place)  # so that it is dropped, whatever comes
        return [events.Save(), events.Make(store.id, store.epoch, copy, store.making)]

    def _move(self, stores: list[Store], now: float) -> list[Action]:
        """Begin to move a copy, one at a time, once all nodes were asked: until then some may seem to be there."""
        if self._fills or self._unheard or any(change.moved is not None for change in self._changes.values()):
            return []

        move = placement.best_move(self.state, self._up, stores, lambda store, node: self._avoids(store, node, now))
        if move is None:
            return []
        return self._begin_fill(move.store, replace(move.copy, node=move.node, descriptor=b""), move.copy.place)

    def _avoids(self, store: Store, node: int, now: float) -> bool:
        return now < self._avoided.get((store.id, node), now)

    def _lacking(self, store: Store) -> Copy | None:
        """Return the copy that is to be made first: at a node that has failed least, of an extent with few of them.

        So an extent whose copy can't be made does not keep others from theirs.
        """
        unfit = self._unfit.get(store.id, {})
        best: tuple[tuple[int, int], Copy] | None = None
        for extent in range(store.extents):
            there = [copy for copy in store.copies if copy.extent == extent]
            if len(there) >= store.replicas:
                continue
            used = {copy.node for copy in there} | {node for node, stale in store.stale if stale == extent}
            best_first = placement.chosen(self.state, self._up, len(self.state.nodes), store, there)
            nodes = [node for node in best_first if node.id not in used]
            if not nodes:
                continue
            node = min(nodes, key=lambda node: unfit.get(node.id, 0))  # the best of those that have failed least
            rank = unfit.get(node.id, 0), len(there)
            if best is None or rank < best[0]:
                index = min(set(range(store.replicas)) - {copy.index for copy in there})
                best = rank, Copy(node.id, index, extent=extent)
        return best and best[1]

    def _made(self, store: Store | None, event: events.Closed) -> list[Action]:
        """Fill a copy that was made for it."""
        fill = self._fills.get(event.store)
        if store is None or fill is None or not fill.is_of(event):
            return []
        fill.copy = replace(fill.copy, descriptor=event.descriptor)
        source = next(copy for copy in store.copies if copy.extent == fill.copy.extent)
        return [events.Fill(store.id, store.epoch, source, fill.copy)]

    def _filling(self, event: events.Filled | events.FillFailed) -> tuple[Store, _Fill] | None:
        store, fill = self.state.stores.get(event.store), self._fills.get(event.store)
        if store is None or fill is None or not fill.is_of(event):
            return None
        del self._fills[event.store]
        return store, fill

    def _filled(self, event: events.Filled, now: float) -> list[Action]:
        found = self._filling(event)
        if found is None:
            return []
        store, fill = found
        return self._change(store, fill.copy, fill.moved)

    def _fill_failed(self, event: events.FillFailed, now: float) -> list[Action]:
        found = self._filling(event)
        if found is None:
            return []
        unfit = self._unfit.setdefault(event.store, {})
        unfit[event.node] = unfit.get(event.node, 0) + 1
        self._rests[event.store] = until = now + _REST_SECONDS
        self._avoided = {place: end for place, end in self._avoided.items() if end > now}
        self._avoided[event.store, event.node] = later = now + _AVOID_SECONDS
        wakes = (events.WakeAt(event.store, event.epoch, at) for at in (until, later))
        return [self._drop(found[0], (event.node, event.extent)), *wakes]

    # -- an epoch changes --

    def _change(self, store: Store, fresh: Copy | None = None, moved: Place | None = None) -> list[Action]:
        """Begin an epoch with the copies of the last open one whose nodes answer; without one of each extent, wait.

        Among them may be some that were left out of epochs since: none of those was opened, so nothing was changed.
        The one that moves has its part until the epoch is open: it may be the only one of its extent.
        """
        fill = self._fills.pop(store.id, None)
        dropped = [store.fresh] if store.fresh else [fill.copy.place] if fill is not None else []
        if store.fresh:  # the change that was to make it count was not ended
            store.copies = [copy for copy in store.copies if copy.place != store.fresh]
            store.stale += [store.fresh] if store.fresh[0] in self.state.nodes else []
            store.fresh = None
        drops = [self._drop(store, place) for place in dropped if self._up.get(place[0])]
        store.opened = [copy for copy in store.opened if copy.node in self.state.nodes]
        answering = self._able(store, [copy for copy in store.opened if self._up.get(copy.node)])
        if not store.is_whole(answering):
            self._changes.pop(store.id, None)
            store.phase, store.copies = "closed", [replace(copy, descriptor=b"") for copy in store.opened]
            return [events.Save(), *drops]
        store.epoch += 1
        store.phase = "closed"
        store.copies = [replace(copy, descriptor=b"") for copy in answering]
        change = self._changes[store.id] = _Change(answering, fresh=fresh, moved=moved)
        if fresh is not None:
            new = replace(fresh, descriptor=b"")
            if moved in {copy.place for copy in answering}:
                store.copies = [new if copy.place == moved else copy for copy in store.copies]
            else:
                store.copies = sorted([*store.copies, new], key=lambda copy: copy.extent)
            store.fresh = fresh.place
            store.stale = [place for place in store.stale if place != fresh.place]
            change.descriptors[fresh.place] = fresh.descriptor
        closes = (events.Close(store.id, store.epoch, copy.node, copy.extent) for copy in answering)
        return [events.Save(), *drops, *closes]

    def _able(self, store: Store, copies: list[Copy]) -> list[Copy]:
        """Return the copies but for those that their nodes could not close time and again, of extents that have others.

        As of a node that can't register memory any more.
        """
        refusals = self._refusals.get(store.id, Counter())
        able = {copy.extent for copy in copies if refusals[copy.place] < _REFUSALS_MOST}
        return [copy for copy in copies if refusals[copy.place] < _REFUSALS_MOST or copy.extent not in able]

    def _used(self, store: Store) -> list[Copy]:
        """Return the copies that count, and those that a change of its epoch needs."""
        change = self._changes.get(store.id)
        return [*store.copies, *(change.old if change is not None else ())]

    def _under_way(self, id: int, epoch: int) -> tuple[Store, _Change] | None:
        """Return what the event is about. None: it has been overtaken."""
        store, change = self.state.stores.get(id), self._changes.get(id)
        return (store, change) if store is not None and change is not None and store.epoch == epoch else None

    def _closed(self, event: events.Closed, now: float) -> list[Action]:
        self._refusals.get(event.store, Counter()).pop((event.node, event.extent), None)
        found = self._under_way(event.store, event.epoch)
        if found is None:
            return self._made(self.state.stores.get(event.store), event)
        store, change = found
        change.descriptors[event.node, event.extent] = event.descriptor
        return self._go_on(store, change, now)

    def _go_on(self, store: Store, change: _Change, now: float) -> list[Action]:
        places = {copy.place for copy in self._used(store)}
        if change.recovering or not places <= set(change.descriptors):
            return []
        is_read = not places >= set(store.reads)  # at a copy that was not closed
        end = self._leases[store.id].end
        if is_read and now < end:
            if now < change.due <= end + self.state.lease * _LATE:
                return []
            change.due = end
            return [events.WakeAt(store.id, store.epoch, end)]
        change.recovering = True
        copies = with_descriptors(change.old, change.descriptors)
        return [events.Recover(store.id, store.epoch, tuple(copies), change.fresh, change.moved)]

    def _due(self, event: events.Due, now: float) -> list[Action]:
        found = self._under_way(event.store, event.epoch)
        if found is not None:
            return self._go_on(*found, now)
        store = self.state.stores.get(event.store)
        is_idle = store is not None and store.phase == "closed" and store.id not in self._changes
        if store is not None and is_idle and store.epoch == event.epoch:
            return self._change(store)
        return self._refill(now)

    def _given_back(self, event: events.GivenBack, now: float) -> list[Action]:
        store, change = self.state.stores.get(event.store), self._changes.get(event.store)
        if event.store in self._leases:
            self._leases[event.store].give_back(event.lease)
        return self._go_on(store, change, now) if store is not None and change is not None else []

    def _refused(self, event: events.Refused, now: float) -> list[Action]:
        of = self.state.stores.get(event.store)
        if of is None or event.making not in (0, of.making):
            return []  # of a copy that is made no more
        if event.node and of.phase == "closed" and of.epoch == event.epoch and not event.lost:
            # also if another one was refused before: a node may have several copies of the store
            self._refusals.setdefault(of.id, Counter())[event.node, event.extent] += 1
        found = self._under_way(event.store, event.epoch)
        if found is None:
            return self._fill_failed(events.FillFailed(event.store, event.epoch, event.node, event.extent), now)
        store, change = found
        if store.phase == "new":
            return self._made_elsewhere(store, change, event)
        if event.lost:
            return self._without_copy(store, event.node, event.extent)
        return self._again(store, now)

    def _made_elsewhere(self, store: Store, change: _Change, event: events.Refused) -> list[Action]:
        """Make a copy of a new store at another node. Without one that was not tried the store is given up."""
        if not event.node:  # the recovery has failed
            return self._give_up(store, event.reason)
        refused = next((copy for copy in store.copies if copy.place == (event.node, event.extent)), None)
        if refused is None:
            return []
        tried = self._tried.setdefault(store.id, set())
        tried.add(refused.place)
        beside = [copy for copy in store.copies if copy.extent == event.extent and copy is not refused]
        used = {copy.node for copy in beside} | {node for node, extent in tried if extent == event.extent}
        best_first = placement.chosen(self.state, self._up, len(self.state.nodes), store, beside)
        node = next((node.id for node in best_first if node.id not in used), None)
        if node is None:
            at = self._at(event.node)
            return self._give_up(store, f"the memory node{at} can't make a copy: {event.reason}", event.no_room)
        copy = replace(refused, node=node)
        store.copies = [copy if each is refused else each for each in store.copies]
        change.old = list(store.copies)
        store.stale.append(refused.place)
        make = events.Make(store.id, store.epoch, copy, store.making)
        return [events.Save(), self._drop(store, refused.place), make]

    def _failed(self, event: events.Failed, now: float) -> list[Action]:
        return self._refused(events.Refused(event.store, event.epoch, 0, event.reason), now)

    def _again(self, store: Store, now: float) -> list[Action]:
        """Begin the change again later: a node that does not answer is known by then."""
        self._changes.pop(store.id, None)
        return [events.WakeAt(store.id, store.epoch, now + _AGAIN_SECONDS)]

    def _recovered(self, event: events.Recovered, now: float) -> list[Action]:
        found = self._under_way(event.store, event.epoch)
        if found is None:
            return []
        store, change = found
        del self._changes[store.id]
        if store.fresh:
            self._unfit.pop(store.id, None)
        self._tried.pop(store.id, None)
        store.fresh = None
        left = sorted({copy.place for copy in store.opened} - {copy.place for copy in store.copies})
        store.stale += [place for place in left if place[0] in self.state.nodes and place not in store.stale]
        store.copies = with_descriptors(store.copies, change.descriptors)
        store.opened, store.phase = list(store.copies), "open"
        store.reads = [copy.place for copy in primaries(store.copies)]
        return [
            events.Save(),
            *(self._drop(store, place) for place in left if self._up.get(place[0])),
            *self._refill(now),
        ]
