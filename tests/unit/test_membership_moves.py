"""Copies that move: off nodes that are drained, to nodes that have joined, and into other domains."""

import pytest
from test_membership_extents import Places, of
from test_membership_policy import nodes_of, until

from dsmem import errors
from dsmem.membership import events
from dsmem.membership.placement import best_move, held, size
from dsmem.membership.policy import Policy
from dsmem.membership.state import decode


@pytest.fixture
def world():
    return Places.of_nodes(3)


def better(world, store):
    return best_move(world.policy.state, world.policy._up, [store], lambda *_: False)


def drain(world, node, leaving=True):
    world.tell(events.Drained(node, leaving))


@pytest.mark.parametrize(("replicas", "extents"), [(1, 1), (2, 1), (1, 4), (2, 3)])
def test_a_node_is_drained(world, replicas, extents):
    """Also of copies that are the only ones of their extents. No extent has fewer copies meanwhile."""
    store = world.make(replicas, extents=extents)
    (node, *_) = nodes_of(store)
    had = nodes_of(store).count(node)
    drain(world, node)
    while world.asked or world.timers:
        world.do(world.asked.pop(0)) if world.asked else world.do_all()
        if store.phase == "open":
            assert all(len(of(store, extent)) == replicas for extent in range(extents))
    assert node not in nodes_of(store) and store.epoch == 1 + had and not store.stale
    assert {(each, store.id, extent) for each, extent in (copy.place for copy in store.copies)} == set(world.copies)
    assert {(copy.extent, copy.index) for copy in store.copies} == {
        (e, k) for e in range(extents) for k in range(replicas)
    }
    drain(world, node, False)
    world.do_all()
    counts = [nodes_of(store).count(each) for each in (1, 2, 3)]
    assert max(counts) - min(counts) <= 1 and better(world, store) is None


def test_a_copy_that_has_no_other_place_stays(world):
    store = world.make(3, extents=1)
    drain(world, 1)
    world.do_all()
    assert sorted(nodes_of(store)) == [1, 2, 3] and store.epoch == 1
    world.join(4)
    world.do_all()
    assert sorted(nodes_of(store)) == [2, 3, 4]


def test_nothing_is_made_at_a_node_that_is_drained(world):
    drain(world, 1)
    store = world.make(2, extents=1)
    assert sorted(nodes_of(store)) == [2, 3]
    with pytest.raises(errors.InvalidArgumentError, match="2 memory nodes answer and are not drained"):
        world.make(3, "other", 2)
    world.stop(2)
    world.do_all()
    assert nodes_of(store) == [3] and not world.asked


def test_it_is_on_disk_that_a_node_is_drained(world):
    store = world.make(2)
    node = nodes_of(store)[0]
    world.tell(events.Drained(node, True))
    assert decode(world.disk).leaving == [node]
    world.start()
    world.do_all()
    assert node not in nodes_of(world.policy.state.stores[1])
    world.end(node)
    assert world.policy.state.leaving == decode(world.disk).leaving == []


def test_a_node_that_joins_gets_its_share(world):
    store = world.make(2, extents=6)
    other = world.make(1, "other", 2, extents=2)
    world.join(4)
    world.do_all()
    has = held(world.policy.state).values()
    assert max(has) - min(has) < 1.5 * size(other) and nodes_of(store).count(4) + nodes_of(other).count(4) > 1
    before = store.epoch, other.epoch
    for node in (1, 2, 3, 4):
        world.ask(node)
    world.do_all()
    assert (store.epoch, other.epoch) == before


def test_copies_move_into_another_domain():
    world = Places()
    world.join(1, "rack1")
    world.join(2, "rack1")
    store = world.make(2, extents=1)
    world.join(3, "rack2")
    world.do_all()
    assert len(nodes_of(store)) == 2 and 3 in nodes_of(store)
    drain(world, 3)
    world.do_all()
    assert sorted(nodes_of(store)) == [1, 2], "what is drained moves also if it is in fewer domains then"


def test_a_small_gain_moves_no_large_copy(world):
    """A node that has little gets no large copy from one that has that and little more."""
    large, small = world.make(1, "large", 1, extents=1), world.make(1, "small", 2, extents=1)
    small.pages = 1
    at = nodes_of(large)[0]
    small.copies = small.opened = list(large.copies)
    assert better(world, large) is None and better(world, small).store is small
    assert all(copy.node == at for copy in small.copies)


@pytest.mark.parametrize("kind", [events.Make, events.Fill, events.Close, events.Recover])
@pytest.mark.parametrize("what", ["crash", "target", "drained", "other", "undrained", "target drained"])
def test_what_fails_while_a_copy_moves(world, kind, what):
    """No copy is missing afterwards that has a node, and the drained one has none if the others have room."""
    store = world.make(2, extents=1)
    node, other = nodes_of(store)
    drain(world, node)
    make = until(world, events.Make)
    target = make.copy.node
    until(world, kind)
    if what == "crash":
        world.start()
    elif what == "undrained":
        drain(world, node, False)
    elif what == "target drained":
        drain(world, target)
        world.do_all()
        drain(world, target, False)
    else:
        world.stop({"target": target, "drained": node, "other": other}[what])
    world.do_all()
    store = world.policy.state.stores[1]
    assert store.phase == "open" and store.is_whole(store.copies)
    for each in (1, 2, 3):
        world.go_on(each)
    world.do_all()
    found = sorted(nodes_of(store))
    assert found == sorted([other, target]) or (what == "undrained" and found == sorted([node, other]))
    assert {(each, store.id, 0) for each in found} == set(world.copies) and not store.stale


def test_a_move_gives_way_to_a_copy_that_is_missing(world):
    world.join(4)
    store = world.make(2, extents=2)
    node = nodes_of(store)[0]
    drain(world, node)
    until(world, events.Fill)
    gone = next(each for each in nodes_of(store) if each != node)
    world.stop(gone)
    world.do_all()
    assert len(store.copies) == 4 and not {node, gone} & set(nodes_of(store))


def test_a_target_that_can_not_have_a_copy_is_left_in_peace(world):
    """For a minute."""
    store = world.make(1, extents=4)
    world.join(4)
    make = until(world, events.Make)
    assert make.copy.node == 4
    world.asked.pop(0)
    world.tell(events.Refused(store.id, make.epoch, 4, "no memory", extent=make.copy.extent))
    now = world.now
    while world.asked or world.timers[0].at < now + 50:
        if world.asked:
            world.do(world.asked.pop(0))
        else:
            world.now = world.timers[0].at
            world.tell(events.Due(world.timers[0].store, world.timers.pop(0).epoch))
    assert 4 not in nodes_of(store) and store.epoch == 1 and not store.stale
    world.do_all()
    assert 4 in nodes_of(store)


def test_what_is_drained_moves_first_of_all_stores(world):
    world.make(1, "s1", 1, extents=6)
    drained = world.make(1, "s2", 2, extents=1)
    node = nodes_of(drained)[0]
    world.alive[4] = True
    world.policy.state.leaving = [node]
    world.join(4)
    first = until(world, events.Make)
    assert {(copy.node, copy.extent) for copy in world.policy.state.stores[first.store].copies} >= {
        (node, first.copy.extent)
    }


def test_the_target_of_a_move_is_drained(world):
    """What is being made there ends: else the node would look empty, and have the only copy afterwards."""
    store = world.make(1, extents=1)
    (node,) = nodes_of(store)
    drain(world, node)
    target = until(world, events.Fill).copy.node
    drain(world, target)
    world.do_all()
    third = ({1, 2, 3} - {node, target}).pop()
    assert nodes_of(store) == [third] and set(world.copies) == {(third, store.id, 0)}


def test_a_lost_store_leaves_no_copy_that_was_being_made(world):
    store = world.make(1, extents=1)
    (node,) = nodes_of(store)
    drain(world, node)
    until(world, events.Fill)
    world.end(node)
    world.do_all()
    assert store.phase == "lost" and not world.copies and not store.stale


def test_a_copy_takes_the_place_of_the_one_that_moves(world):
    """So a node that joins is the primary of some extents, too."""
    store = world.make(2, extents=12)
    world.join(4)
    world.do_all()
    firsts = [copy.node for copy in store.copies if copy == next(c for c in store.copies if c.extent == copy.extent)]
    assert {1, 2, 3, 4} == set(firsts)


def test_nothing_is_placed_where_it_moves_away_from():
    """New stores, and copies that are made again, beside stores of other sizes."""
    made = moves = 0
    for seed in range(20):
        world = Places(seed)
        for number in range(1, 6):
            world.join(number)
        for id in range(1, 7):
            shape = 4096, world.random.randint(12, 1200), 8, 2
            world.tell(events.Created(id, "c", f"s{id}", shape, 0.0, world.random.randint(1, 4)))
            world.do_all()
        world.stop(1)
        while world.asked or world.timers:
            if world.asked and isinstance(world.asked[0], events.Fill):
                moved = world.policy.moving(world.asked[0].store) is not None
                made, moves = made + (not moved), moves + moved
            world.do(world.asked.pop(0)) if world.asked else world.do_all()
    assert made > 50 and moves < made / 2, (made, moves)


@pytest.mark.parametrize("change", ["not closed", "left out", "both count"])
def test_a_planted_mistake_is_seen(monkeypatch, change):
    real = Policy._change

    def mistaken(policy, store, fresh=None, moved=None):
        actions = real(policy, store, fresh, moved)
        change_ = policy._changes.get(store.id)
        if moved is None or change_ is None:
            return actions
        if change == "both count":
            store.copies = sorted(
                [*store.copies, *(c for c in store.opened if c.place == moved)], key=lambda c: c.extent
            )
            return actions
        change_.old = [copy for copy in change_.old if copy.place != moved]
        if change == "not closed":  # it serves on, and no lease is waited for
            store.reads = [copy.place for copy in change_.old]
            return [each for each in actions if not isinstance(each, events.Close) or (each.node, each.extent) != moved]
        return actions

    monkeypatch.setattr(Policy, "_change", mistaken)
    replicas = 1 if change == "left out" else 2
    with pytest.raises(AssertionError):
        for extent in range(2):
            world = Places()
            for number in (1, 2, 3):
                world.join(number)
            store = world.make(replicas, extents=2)
            assert world.policy.grant(store.id, store.epoch, world.now)
            world.leases.append((store.id, store.epoch, world.now + 1.0, 0))
            drain(world, of(store, extent)[0])
            world.do_all()
