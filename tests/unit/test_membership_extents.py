"""The decisions of a coordinator about stores of several extents, in worlds that a seed decides on: each extent has
copies of its own, a node may have some of several, and all extents open together.
"""

import time
from types import SimpleNamespace

import pytest
import test_membership_policy as policy_worlds
from test_membership_policy import LEASE, SHAPE, World, nodes_of, play, until

from dsmem import errors
from dsmem.membership import events, messages
from dsmem.membership.client import Coordination
from dsmem.membership.policy import Policy
from dsmem.membership.state import Copy, Node, State, Store, decode, primaries
from dsmem.names import wire


class Places(World):
    """As a world of stores with one extent, but what nodes have is known by node, store and extent."""

    def obeyed(self, node, standing):
        try:
            self.witnesses[node].obey(standing, any(each[0] == node for each in self.copies))
        except errors.FencedError as error:
            return events.Outdated(error.detail)
        except errors.ConflictError:
            return events.Silent(node)
        return None

    def has(self, id, place):
        """The epoch of a copy."""
        return self.copies.get((place[0], id, place[1]))

    def look(self):
        for store in self.policy.state.stores.values():
            if store.phase == "lost" and store.name:
                self.look_at_lost(store)
            elif store.phase == "open" and (store.id, store.epoch) not in self.opened:
                self.look_at_open(store)

    def look_at_lost(self, store):
        last = max(epoch for id, epoch in self.opened if id == store.id)
        there = {place[1] for place in self.opened[store.id, last] if self.has(store.id, place) is not None}
        assert len(there) < store.extents or store.id in self.lost, "given up, though each extent has a copy"
        self.lost.add(store.id)

    def look_at_open(self, store):
        places = [copy.place for copy in store.copies]
        assert store.is_whole(store.copies) and [place[1] for place in places] == sorted(place[1] for place in places)
        assert len({*places}) == len(places) == len({(copy.extent, copy.index) for copy in store.copies})
        assert store.reads == [copy.place for copy in primaries(store.copies)]
        before = {epoch: each for (id, epoch), each in self.opened.items() if id == store.id}
        assert all(epoch < store.epoch for epoch in before), "an epoch was opened twice, or after a later one"
        for id, epoch, until_, _ in self.leases:
            if id == store.id and until_ > self.now and epoch in before:
                first = {}
                for place in before[epoch]:
                    first.setdefault(place[1], place)
                for place in first.values():
                    known = self.has(id, place)
                    assert known is None or known > epoch, "opened while a client may read elsewhere"
        old = {place for place in places if (*place, store.id, store.epoch) not in self.complete}
        if before:
            assert old <= set(before[max(before)]), "a copy that has missed an epoch"
        for place in places:
            known = self.has(store.id, place)
            assert known is None or known >= store.epoch, "a copy that was not closed"
        self.opened[store.id, store.epoch] = places

    def do(self, action):
        if isinstance(action, events.Recover):
            return self.tell(self.recovered(action))
        if isinstance(action, events.Fill):
            about = action.store, action.epoch, action.copy.node, action.copy.extent
            assert action.source.extent == action.copy.extent
            up = all(self.alive.get(copy.node) for copy in (action.source, action.copy))
            if not up or self.has(action.store, action.copy.place) is None:
                return self.tell(events.FillFailed(*about))
            self.filled.add((action.copy.node, action.store, action.copy.extent))
            return self.tell(events.Filled(*about))
        node = action.copy.node if isinstance(action, events.Make) else action.node
        if not self.alive.get(node):
            return self.tell(events.Silent(node))
        return self.tell(self.obeyed(node, self.standing) or self.answer(node, action))

    def recovered(self, action):
        for copy in action.copies:
            if not self.alive.get(copy.node) or self.has(action.store, copy.place) != action.epoch:
                return events.Failed(action.store, action.epoch, "out of reach")
        if action.fresh is not None:
            assert any(copy.extent == action.fresh.extent for copy in action.copies), (
                "nothing has the rest of its pages"
            )
            key = action.fresh.node, action.store, action.fresh.extent
            if not self.alive.get(action.fresh.node) or key not in self.filled:
                return events.Failed(action.store, action.epoch, "out of reach")
            self.copies[key] = action.epoch
            self.complete.add((*action.fresh.place, action.store, action.epoch))
        return events.Recovered(action.store, action.epoch)

    def answer(self, node, action):
        extent = action.copy.extent if isinstance(action, events.Make) else action.extent
        key = node, action.store, extent
        if isinstance(action, events.Drop):
            if self.makings.get(key, 0) <= action.making:
                self.copies.pop(key, None)
                self.filled.discard(key)
                self.makings[key] = action.making
            return events.Dropped(action.store, node, action.making, extent)
        if isinstance(action, events.Close):
            if key not in self.copies:
                return events.Refused(action.store, action.epoch, node, "it has none", lost=True, extent=extent)
            if action.epoch <= self.copies[key]:
                return events.Refused(action.store, action.epoch, node, "stale", extent=extent)
        else:
            if self.makings.get(key, 0) >= action.making:
                return events.Refused(action.store, action.epoch, node, "late", extent=extent)
            self.makings[key] = action.making
            self.filled.discard(key)
        if node in self.unable:
            return events.Refused(action.store, action.epoch, node, "it can't", extent=extent)
        self.copies[key] = action.epoch
        return events.Closed(action.store, action.epoch, node, b"%d" % action.epoch, extent)

    def make(self, replicas=2, name="db", id=1, extents=None):
        extents = self.random.randint(2, 4) if extents is None else extents
        self.tell(events.Created(id, "c", name, (*SHAPE, replicas), 0.0, extents))
        self.do_all()
        return self.policy.state.stores[id]


@pytest.fixture
def world():
    return Places.of_nodes(3)


def of(store, extent):
    return [copy.node for copy in store.copies if copy.extent == extent]


@pytest.mark.parametrize(("nodes", "extents", "replicas"), [(3, 6, 2), (4, 6, 2), (5, 10, 3), (6, 6, 2), (3, 3, 1)])
def test_copies_are_placed_evenly(nodes, extents, replicas):
    world, rooms = Places(), nodes if nodes % 2 else 2
    for number in range(1, nodes + 1):
        world.join(number, f"room{number % rooms}")
    store = world.make(replicas, extents=extents)
    counts = [nodes_of(store).count(node) for node in range(1, nodes + 1)]
    firsts = [[copy.node for copy in primaries(store.copies)].count(node) for node in range(1, nodes + 1)]
    assert max(counts) - min(counts) <= 1 and max(firsts) - min(firsts) <= 2
    for extent in range(extents):
        copies = [copy for copy in store.copies if copy.extent == extent]
        assert len({copy.node for copy in copies}) == replicas and copies[0].index == 0
        assert world.policy.domains(copies) == min(rooms, replicas)


def test_all_extents_go_on_without_a_node(world):
    store = world.make(2, extents=3)
    lost = [extent for extent in range(3) if 1 in of(store, extent)]
    assert len(lost) == 2
    world.stop(1)
    world.do_all()
    assert store.phase == "open" and store.epoch > 1 and 1 not in nodes_of(store)
    assert sorted(place[1] for place in store.stale if place[0] == 1) == lost
    world.join(4)
    world.do_all()
    assert len(store.copies) == 6 and all(len(of(store, extent)) == 2 for extent in range(3))
    before = store.epoch
    world.go_on(1)
    world.do_all()
    assert not store.stale and {copy.place for copy in store.copies} == {
        (node, extent) for node, _, extent in world.copies
    }
    new = [copy.place for copy in store.copies if copy.node == 1]
    assert len(new) == 1 and any(
        (*place, store.id, epoch) in world.complete for place in new for epoch in range(before, 99)
    )


def test_a_store_waits_for_each_extent(world):
    store = world.make(1, extents=3)
    (first,) = of(store, 1)
    world.stop(first)
    world.do_all()
    assert store.phase == "closed" and not world.asked
    world.go_on(first)
    world.do_all()
    assert store.phase == "open" and len(store.copies) == 3


def test_an_extent_without_a_copy_is_the_end_of_the_store(world):
    """What is left of others is dropped."""
    store = world.make(1, extents=3)
    (first,) = of(store, 1)
    world.end(first)
    world.do_all()
    assert store.phase == "lost" and not store.copies and not store.opened
    assert not world.copies and not store.stale and not decode(world.disk).stores[1].stale
    assert 1 in store.gone and decode(world.disk).stores[1].gone == store.gone


def test_a_lease_is_waited_for_of_each_primary(world):
    """A client may read pages of an extent at the node that is gone, though extent 0 has not lost its primary."""
    store = world.make(2, extents=3)
    extent = next(extent for extent in range(1, 3) if of(store, extent)[0] != of(store, 0)[0])
    node = of(store, extent)[0]
    assert world.policy.grant(store.id, store.epoch, world.now)
    ends = world.now + LEASE
    world.leases.append((store.id, store.epoch, ends, 0))
    world.stop(node)
    world.do_all()
    assert store.phase == "open" and world.now >= ends and node not in nodes_of(store)


def test_extents_with_few_copies_are_filled_first(world):
    world.join(4)
    store = world.make(3, extents=2)
    alone = of(store, 0)[1:]
    for node in alone:
        world.stop(node)
    make = until(world, events.Make)
    assert len(of(store, make.copy.extent)) == min(len(of(store, 0)), len(of(store, 1)))


def test_a_copy_that_is_gone_alone_is_made_again(world):
    """A node has dropped one of its copies, or never had it; the others that it has count on."""
    store = world.make(2, extents=3)
    copy = store.copies[0]
    del world.copies[copy.node, store.id, copy.extent]
    others = [each.place for each in store.copies if each.node == copy.node and each.extent != copy.extent]
    world.stop(next(node for node in (1, 2, 3) if node != copy.node and node not in of(store, copy.extent)))
    world.do_all()
    assert store.phase == "open" and others[0] in {each.place for each in store.copies}
    assert len(of(store, copy.extent)) == 2 and copy.node in of(store, copy.extent)


@pytest.mark.parametrize("seed", range(60))
def test_random_worlds(monkeypatch, seed):
    monkeypatch.setattr(policy_worlds, "World", Places)
    world = play(seed)
    assert isinstance(world, Places)


def test_a_copy_that_can_not_be_made_keeps_no_other_from_being_made():
    """One of the two nodes has no memory for its extent; the other one could make its copy of the other extent."""
    nodes = {number: Node(number, f"tcp://n{number}:1", f"d{number}") for number in (1, 2)}
    store = Store(7, "c", "s", 4096, 200, 8, 2, 0.0, epoch=3, phase="open", extents=2)
    store.copies = [Copy(1, 0, b"x", 0), Copy(2, 0, b"y", 1)]
    store.opened = list(store.copies)
    store.reads = [copy.place for copy in store.copies]
    policy, now, asked = Policy(State(nodes, {7: store}), 0.0, 0.5, 9), 0.0, []
    actions = policy.begin(now) + [each for number in nodes for each in policy.on(events.Heard(number), now)]
    while len(asked) < 4:
        make = next(each for each in actions if isinstance(each, events.Make))
        asked.append((make.copy.node, make.copy.extent))
        if make.copy.node == 1:
            return
        refused = events.Refused(7, make.epoch, make.copy.node, "no memory", False, make.copy.extent)
        for drop in policy.on(refused, now):
            if isinstance(drop, events.Drop):
                policy.on(events.Dropped(7, drop.node, drop.making, drop.extent), now)
        now += 6
        actions = policy.on(events.Due(7, 3), now)
    raise AssertionError(asked)


@pytest.mark.parametrize("copies", [5, 8])
def test_what_is_said_of_copies_has_room(copies):
    """However long the addresses, domains and reasons are, also where all but some bytes have room."""
    for there in range(copies + 1):
        for length in range(10, 160, 3):
            for reason in (60, 90):
                places = tuple(messages.Place(k, "a" * length, "d" * 60, True, 0) for k in range(there))
                missing = tuple(messages.Missing(k, "x" * reason) for k in range(there, copies))
                health = messages.Health(5, 1, copies, "y" * 200, places, missing)
                assert len(messages.health(health)) <= wire.MOST


def test_a_list_of_copies_that_changes_is_asked_for_again(monkeypatch):
    """Its parts are of one moment, and none is left out."""
    places = tuple(messages.Place(k % 2, "a" * 40, "d" * 20, True, k // 2) for k in range(40))
    epochs = iter([1, 2, 2, 2, 2, 2, 2, 2, 2])

    def ask(kind, *fields, **how):
        first = messages.read_first(wire.Reader(fields[3])) if len(fields) > 3 else 0
        return wire.answered(messages.health(messages.Health(next(epochs), 1, 2, "", places, ()), first))

    coordination = Coordination(SimpleNamespace(cluster="c"), "s")
    monkeypatch.setattr(coordination, "_ask_once", ask)
    found = coordination.copies(1, time.monotonic() + 60)
    assert found.epoch == 2 and found.places == places
    epochs = iter(range(10**6))
    with pytest.raises(errors.TimeoutError):
        coordination.copies(1, time.monotonic() + 0.01)
