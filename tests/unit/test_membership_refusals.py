"""The decisions of a coordinator about copies that their nodes can't close, as where memory can't be registered."""

import pytest
from test_membership_extents import Places
from test_membership_policy import World, nodes_of

from dsmem.membership import events
from dsmem.membership.state import Node


@pytest.fixture
def world():
    return World.of_nodes(3)


def tries(world, store, count):
    """Changes of its epoch that are begun and refused."""
    upto = store.epoch + count
    while store.epoch < upto:
        assert world.do_some() and store.phase == "closed"


def done(world, condition):
    while not condition():
        assert world.do_some()


@pytest.mark.parametrize("place", range(3))
def test_a_copy_that_can_not_be_closed_is_left_out(world, place):
    """After three tries; and made again, first at another node."""
    world.join(4)
    store = world.make(3)
    before = nodes_of(store)
    spare = ({1, 2, 3, 4} - set(before)).pop()
    unable, stopped = before[place], before[place - 1]
    world.unable.add(unable)
    world.stop(stopped)
    tries(world, store, 2)
    assert unable in nodes_of(store)
    done(world, lambda: store.phase == "open")
    assert set(nodes_of(store)) == set(before) - {unable, stopped} and store.epoch == 5
    world.unable.clear()
    done(world, lambda: len(nodes_of(store)) == 2)
    assert spare in nodes_of(store), "at the other one first"
    world.do_all()
    assert set(nodes_of(store)) == {*before, spare} - {stopped}


def test_the_only_copies_are_waited_for_until_one_can_be_closed(world):
    store = world.make(2)
    first, second = nodes_of(store)
    world.unable.update((first, second))
    world.stop(first)
    tries(world, store, 8)
    world.go_on(first)
    tries(world, store, 8)
    assert {copy.node for copy in store.opened} == {first, second}
    world.unable.remove(second)
    done(world, lambda: store.phase == "open")
    assert nodes_of(store) == [second]


@pytest.mark.parametrize("extent", [0, 1])
def test_refusals_count_in_a_row_and_for_one_copy(world, extent):
    """A node that could close one at last keeps it, and one that has another copy that it can't close."""
    store = world.make(2)
    first, second = nodes_of(store)
    world.stop(first)
    for count in (2, 2):
        world.unable.add(second)
        tries(world, store, count)
        world.tell(events.Refused(store.id, store.epoch, second, "it can't", extent=extent))
        world.unable.clear()
        done(world, lambda: any(isinstance(action, events.Recover) for action in world.asked))
        world.alive[second] = False
        done(world, lambda: store.id not in world.policy._changes)
        world.alive[second] = True
    world.go_on(first)
    done(world, lambda: store.phase == "open")
    assert nodes_of(store) == [first, second]


@pytest.mark.parametrize("extents", [4, 16])
def test_all_copies_of_a_node_are_left_out_after_three_changes(extents):
    world = Places.of_nodes(3)
    store = world.make(2, extents=extents)
    world.unable.add(2)
    world.stop(3)
    world.go_on(3)
    done(world, lambda: store.phase == "open")
    assert 2 not in nodes_of(store) and store.epoch <= 5


def test_refusals_before_an_epoch_was_opened_are_forgotten(world):
    store = world.make(3)
    node, *others = reversed(nodes_of(store))
    for other in others:
        world.unable.add(node)
        world.stop(other)
        tries(world, store, 2)
        world.unable.clear()
        done(world, lambda: store.phase == "open")
        assert node in nodes_of(store)


@pytest.mark.parametrize("event", ["joins", "is heard"])
def test_a_node_that_is_of_no_use_registers(world, event):
    """It lives, so it does that all the time. It is of use again when it was asked, and its memory was read."""
    store = world.make(2)
    node = nodes_of(store)[0]
    world.tell(events.Silent(node, "its memory can't be read"))
    world.do_all()
    assert node not in nodes_of(store)
    if event == "joins":
        world.join(node)
    else:
        world.tell(events.Heard(node))
    assert world.policy.is_up(node) == (event == "is heard")
    assert isinstance(world.policy.state.nodes[node], Node)


def test_the_refusal_of_a_copy_that_is_made_no_more(world):
    """A request for it that was asked again comes behind the one for the copy that is made in its place."""
    store = world.make(3)
    gone = nodes_of(store)[2]
    world.end(gone)
    done(world, lambda: store.phase == "open")
    world.join(10)
    (make,) = [action for action in world.asked if isinstance(action, events.Make)]
    world.tell(events.Drained(10, True))
    world.tell(events.Drained(10, False))
    done(world, lambda: any(isinstance(action, events.Make) and action != make for action in world.asked))
    late = events.Refused(store.id, store.epoch, 10, "a later one was there", making=make.making)
    world.tell(late)
    assert world.policy.filling(store.id) is not None and not world.policy.rests_until(store.id)
    world.do_all()
    assert set(nodes_of(store)) >= {10}


@pytest.mark.parametrize("unable", [(1,), (3,), (1, 4), (2, 3)])
def test_a_new_store_is_made_where_nodes_can(world, unable):
    world.join(4)
    world.unable.update(unable)
    store = world.make(2)
    assert store.phase == "open" and store.epoch == 1 and not store.stale
    assert set(nodes_of(store)) == {1, 2, 3, 4} - set(unable) or len(unable) == 1
    assert not set(nodes_of(store)) & set(unable) and len(nodes_of(store)) == 2
    assert sorted(copy.index for copy in store.copies) == [0, 1]


def test_a_new_store_that_too_few_nodes_can_make(world):
    """Each was tried once; nothing is left of it."""
    world.unable.update((1, 3))
    world.tell(events.Created(1, "c", "db", (4096, 100, 8, 2), 0.0))
    made = []
    while world.asked:
        made += [world.asked[0].copy.node] if isinstance(world.asked[0], events.Make) else []
        world.do_some()
    assert sorted(made) == [1, 2, 3] and not world.policy.state.stores and not world.copies
    assert "can't make a copy: it can't" in str(world.policy.failure(1))


@pytest.mark.parametrize("seed", range(20))
def test_a_new_store_of_extents_is_made_where_nodes_can(seed):
    world = Places.of_nodes(5, seed)
    world.unable.update(world.random.sample(range(1, 6), 2))
    world.tell(events.Created(1, "c", "db", (4096, 100, 8, 3), 0.0, 4))
    store = world.policy.state.stores[1]
    done(world, lambda: store.phase == "open")
    assert store.is_whole(store.copies) and len(store.copies) == 12
    assert not set(nodes_of(store)) & world.unable
    for extent in range(4):
        assert len({copy.node for copy in store.copies if copy.extent == extent}) == 3
    world.unable.clear()
    world.do_all()
    assert store.phase == "open" and not store.stale


def test_a_refusal_that_comes_twice(world):
    world.tell(events.Created(1, "c", "db", (4096, 100, 8, 1), 0.0))
    store = world.policy.state.stores[1]
    (first,) = nodes_of(store)
    for _ in range(2):
        world.tell(events.Refused(1, 1, first, "it can't"))
        assert nodes_of(store) != [first]
    world.do_all()
    assert store.phase == "open"


def test_what_a_node_has_begun_to_make_is_dropped_when_it_is_heard_again(world):
    """It may have memory for the copy, and have refused to register it."""
    world.tell(events.Created(1, "c", "db", (4096, 100, 8, 1), 0.0))
    store = world.policy.state.stores[1]
    (first,) = nodes_of(store)
    world.tell(events.Refused(1, 1, first, "it can't"))
    world.stop(first)
    done(world, lambda: store.phase == "open")
    world.do_all()
    assert store.stale == [(first, 0)] and not world.policy._tried
    world.go_on(first)
    assert any(isinstance(action, events.Drop) and action.node == first for action in world.asked)
    world.do_all()
    assert not store.stale


def test_a_node_that_can_not_make_one_extent_is_tried_for_another():
    world = Places.of_nodes(2)
    world.tell(events.Created(1, "c", "db", (4096, 100, 8, 1), 0.0, 2))
    store = world.policy.state.stores[1]
    before = nodes_of(store)
    for copy in store.copies:
        world.tell(events.Refused(1, 1, copy.node, "it can't", extent=copy.extent))
    assert nodes_of(store) == before[::-1] and set(before) == {1, 2}
    done(world, lambda: store.phase == "open")
