"""What a coordinator decides of stores when a memory node is gone for good, or is to be forgotten."""

import pytest
from test_membership_policy import SHAPE, World, nodes_of

from dsmem.membership import events
from dsmem.membership.state import may_count


@pytest.fixture
def world():
    return World.of_nodes(3)


def test_a_store_is_lost_while_another_one_is_being_made(world):
    """The other one was begun before, and has nothing to do with the node."""
    world.tell(events.Created(1, "c", "slow", (*SHAPE, 1), 0.0))
    slow = world.policy.state.stores[1]
    (make,) = world.asked
    world.asked = []
    store = world.make(1, "db", 2)
    (gone,) = nodes_of(store)
    assert gone not in nodes_of(slow)
    world.end(gone)
    assert store.phase == "lost" and slow.phase == "new"
    world.do(make)
    world.do_all()
    assert slow.phase == "open"


def test_a_removed_store_is_forgotten_with_the_last_node_that_has_a_copy(world):
    store = world.make(2)
    first, second = nodes_of(store)
    world.stop(first)
    world.stop(second)
    world.tell(events.Removed(store.id))
    world.end(first)
    assert world.policy.state.stores == {store.id: store} and store.stale == [(second, 0)]
    world.end(second)
    assert not world.policy.state.stores


def test_a_copy_that_was_left_out_may_count_until_the_next_epoch_is_open(world):
    world.stop(3)
    store = world.make(2)
    first, second = nodes_of(store)
    world.stop(first)
    assert nodes_of(store) == [second] and may_count(store, first) and not may_count(store, 3)
    world.do_all()
    assert store.phase == "open" and not may_count(store, first)
