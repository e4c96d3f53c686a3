"""Where copies are made if memory nodes may hold no more than so many bytes. With sockets: test_store_room.py."""

import pytest
from test_membership_extents import Places
from test_membership_policy import SHAPE, nodes_of

from dsmem import _core, errors
from dsmem.membership import events
from dsmem.membership.placement import best_move, full, rooms
from dsmem.membership.state import decode
from dsmem.membership.status import Status

COPY = _core.store_nbytes(*SHAPE, 1, 1)  # of a store with one copy


@pytest.fixture
def world():
    return Places()


def joined(world, *copies, nbytes=COPY):
    """Nodes that have room for so many copies."""
    for number, most in enumerate(copies, 1):
        world.join(number, memory=most * nbytes)


def test_a_store_is_made_where_there_is_room(world):
    world.join(1, memory=COPY - 1)
    world.join(2, memory=2 * COPY)
    assert [nodes_of(world.make(1, str(id), id, extents=1)) for id in (1, 2)] == [[2], [2]]
    with pytest.raises(errors.OutOfMemoryError) as raised:
        world.make(1, "3", 3, extents=1)
    free = f"2 memory nodes answer, of which 0 have room for one more copy of {COPY} bytes"
    assert str(raised.value) == f"replicas=1, and {free}; start more: dsmem serve --join"
    world.join(3)
    assert nodes_of(world.make(1, "3", 3, extents=1)) == [3]


def test_there_are_too_few_nodes_and_some_of_them_are_full(world):
    joined(world, 0, 1, 1, nbytes=_core.store_nbytes(*SHAPE, 3, 1))
    world.tell(events.Drained(3, True))
    with pytest.raises(errors.InvalidArgumentError, match="2 memory nodes answer and are not drained, of which 1 have"):
        world.make(3, extents=1)


def test_the_copies_of_one_store_take_room_from_each_other(world):
    nbytes = _core.store_nbytes(*SHAPE, 1, 4)
    world.join(1, memory=3 * nbytes)
    with pytest.raises(errors.OutOfMemoryError, match="1 memory nodes answer, of which 0 have room"):
        world.make(1, extents=4)
    world.join(2, memory=nbytes)
    store = world.make(1, extents=4)
    assert sorted(nodes_of(store)) == [1, 1, 1, 2] and rooms(world.policy.state) == {1: 0, 2: 0}


def test_a_copy_is_made_again_when_there_is_room(world):
    """That of a node which has a copy that it has not dropped yet is taken."""
    joined(world, 1, 1, 1, nbytes=_core.store_nbytes(*SHAPE, 2, 1))
    store, other = world.make(2, extents=1), world.make(1, "other", 2, extents=1)
    (node,) = nodes_of(other)
    world.stop(nodes_of(store)[0])
    world.do_all()
    assert len(store.copies) == 1 and full(rooms(world.policy.state), store) == {1, 2, 3}
    said = Status(world.policy, 0.0).missing(store, world.now)[0].reason
    assert said == "no memory node is free for it; 2 of 3 answer, full: 3; start one more"
    world.tell(events.Removed(other.id))
    assert len(store.copies) == 1
    world.do_all()
    assert node in nodes_of(store) and store.phase == "open"


def test_a_store_is_made_when_another_one_has_just_been_removed(world):
    """Its copy is dropped first."""
    joined(world, 1)
    world.make(1, "first", 1, extents=1)
    world.tell(events.Removed(1))
    second = world.make(1, "second", 2, extents=1)
    assert second.phase == "open" and list(world.copies) == [(1, 2, 0)]


def test_no_copy_moves_to_a_node_without_room(world):
    joined(world, 4, 0)
    stores = [world.make(1, str(id), id, extents=1) for id in (1, 2, 3)]
    world.tell(events.Drained(1, True))
    world.do_all()
    assert best_move(world.policy.state, world.policy._up, stores, lambda *_: False) is None
    first = next(info for info in Status(world.policy, 0.0).nodes(world.now) if info.is_drained)
    why = "no memory node is free for it; 2 of 2 answer, drained: 1, full: 1; start one more"
    assert first.trouble == f"copy 0 of '1': {why}"
    world.join(3, memory=2 * COPY)
    world.do_all()
    assert sorted(node for store in stores for node in nodes_of(store)) == [1, 3, 3]


def test_what_a_node_may_hold_is_on_disk(world):
    joined(world, 1, 3)
    assert [node.memory for node in decode(world.disk).nodes.values()] == [COPY, 3 * COPY]
    world.start()
    assert rooms(world.policy.state) == {1: COPY, 2: 3 * COPY}
