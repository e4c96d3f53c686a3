"""Folders of coordinators that were restored from a backup, or copied: nodes that know of later decisions tell."""

import contextlib

import pytest
from test_membership_policy import World, nodes_of, play, world

from dsmem import errors
from dsmem.membership import events
from dsmem.membership.policy import Policy
from dsmem.membership.standing import NONE, Standing, Witness
from dsmem.membership.state import State, decode, encode

__all__ = ["world"]


def restored(world, disk):
    """A coordinator that begins with what was on disk once. What it decides is looked at by the caller."""
    world.disk, world.look = disk, lambda: None
    world.start(heard=False)


def tells_nothing(world):
    """Whether no client is told of an epoch, nor given a lease."""
    granted = [world.policy.grant(each.id, each.epoch, world.now) for each in world.policy.state.stores.values()]
    return not any(granted) and not world.policy.is_settled(world.now)


def test_a_folder_that_was_restored_is_noticed(world):
    """By a node that has heard of more, whatever the others say, and before any client is told anything."""
    store = world.make(2)
    before, backup = nodes_of(store), world.disk
    world.stop(before[0])
    world.do_all()
    world.alive[before[0]] = True
    restored(world, backup)
    world.ask(before[0])
    assert not world.stopped and tells_nothing(world)
    world.ask(before[1])
    assert "restored from a backup" in world.stopped and tells_nothing(world)
    for node in (1, 2, 3):
        world.ask(node)
    assert not world.asked and tells_nothing(world)


def test_a_restored_folder_is_noticed_by_a_node_that_it_does_not_know(world):
    store = world.make(2)
    backup = world.disk
    world.join(4)
    for node in nodes_of(store):
        world.stop(node)
        world.do_all()
    world.go_on(nodes_of(store)[0])
    world.do_all()
    for node in (1, 2, 3):
        world.alive[node] = False
    restored(world, backup)
    for node in (1, 2, 3):
        world.ask(node)
    assert not world.stopped and tells_nothing(world)
    world.now += 1.0
    assert tells_nothing(world)
    world.join(4)
    assert world.stopped and tells_nothing(world)


def test_the_same_folder_goes_on_at_once_if_all_nodes_answer(world):
    store = world.make(2)
    world.start(heard=False)
    assert tells_nothing(world)
    for node in (1, 2, 3):
        world.ask(node)
    assert not world.stopped and world.policy.grant(store.id, store.epoch, world.now)


def test_a_node_that_is_away_is_not_waited_for_longer(world):
    store = world.make(2)
    world.alive[3] = False
    world.start()
    assert tells_nothing(world)
    world.now += 1.5
    assert not world.stopped and world.policy.grant(store.id, store.epoch, world.now)


def test_of_two_coordinators_with_copies_of_a_folder_the_later_one_is_obeyed(world):
    world.make(2)
    first, backup = world.policy, world.disk
    before = world.standing
    restored(world, backup)
    world.ask(1)
    assert not world.stopped
    with pytest.raises(errors.FencedError):
        world.witnesses[1].obey(before, True)
    (stop,) = first.on(events.Outdated("older"), world.now)
    assert isinstance(stop, events.Stop) and not first.on(events.Silent(1), world.now)


def test_two_coordinators_that_have_read_the_same(world):
    """The one that was heard first is obeyed."""
    backup = world.disk
    restored(world, backup)
    world.ask(1)
    assert not world.stopped
    restored(world, backup)
    world.ask(1)
    assert world.stopped


def test_a_node_with_copies_of_another_folder_is_not_there(world):
    """Also when it registers again and again."""
    store = world.make(1)
    (holder,) = nodes_of(store)
    other = World()
    other.runs, other.witnesses, other.copies = 10, world.witnesses, world.copies
    other.disk = encode(State())
    other.start()
    for node in (1, 2, 3):
        other.join(node)
        other.ask(node)
        other.join(node)
    assert [other.policy.is_up(node) for node in (1, 2, 3)] == [node != holder for node in (1, 2, 3)]
    del world.copies[holder, store.id]
    other.ask(holder)
    assert other.policy.is_up(holder)


def test_copies_are_of_one_folder():
    witness = Witness()
    assert witness.seen == NONE
    one, other = Standing(7, 1, 0, 5), Standing(8, 2, 0, 1)
    witness.obey(other, False)
    witness.obey(one, False)
    with pytest.raises(errors.ConflictError, match="another --state folder"):
        witness.obey(other, True)
    assert witness.seen == one
    witness.obey(Standing(7, 1, 0, 4), True)
    assert witness.seen == one, "a request that came late"
    witness.obey(Standing(7, 3, 5, 6), True)
    with pytest.raises(errors.FencedError):
        witness.obey(one, True)
    witness.obey(other, False)


def play_restored(seed):
    """What was on disk once begins again, when some of the nodes that have heard of more are there."""
    world = play(seed, 100)
    choose = world.random
    for node in world.policy.state.nodes:
        world.ask(node)
    known = dict(world.policy.state.nodes)
    for _ in range(20):
        disk = choose.choice(world.disks)
        if decode(disk).written >= world.witnesses[next(iter(known))].seen.written:
            continue
        there = {node for node in known if choose.random() < 0.5}
        world.alive = {node: node in there for node in known}
        restored(world, disk)
        asked = list(world.policy.state.nodes)
        choose.shuffle(asked)
        for node in asked:
            world.ask(node)
            assert tells_nothing(world) or not there
        for node in there:
            with contextlib.suppress(errors.BusyError, errors.StaleDescriptorError):
                world.join(node, known[node].domain, known[node].address)
        assert bool(world.stopped) == bool(there)


@pytest.mark.parametrize("seed", range(40))
def test_restored_folders_of_random_worlds(seed):
    play_restored(seed)


@pytest.mark.parametrize("change", [(Standing, "knows"), (Policy, "is_settled")])
def test_a_mistake_about_restored_folders_is_seen(monkeypatch, change):
    monkeypatch.setattr(*change, lambda *_: True)
    with pytest.raises(AssertionError):
        for seed in range(10):
            play_restored(seed)
