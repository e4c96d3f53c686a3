"""The decisions of a coordinator about copies that their nodes can't close, as where memory can't be registered."""

import pytest
from test_membership_policy import World, nodes_of

from dsmem.membership import events


@pytest.fixture
def world():
    world = World()
    for number in (1, 2, 3):
        world.join(number)
    return world


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
    done(world, lambda: spare in nodes_of(store) and store.phase == "open")
    assert (unable, store.id) not in world.makings or world.makings[unable, store.id] == 1
    world.unable.clear()
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
