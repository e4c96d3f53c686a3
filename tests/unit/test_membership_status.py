"""What a coordinator tells of nodes and stores, and what it logs: without a clock, sockets and processes."""

import logging

import pytest

from dsmem.membership import events, messages
from dsmem.membership.journal import Journal
from dsmem.membership.policy import Policy
from dsmem.membership.state import Copy, Node, State
from dsmem.membership.status import Status
from dsmem.names import wire

STORE = 7
PAGES = 100


class World:
    """A coordinator of so many nodes, whose first ones have the copies of a store."""

    def __init__(self, nodes, replicas=2, racks=100):
        self.policy = Policy(State(), 0.0, 0.5, 1)
        self.status = Status(self.policy, 0.0)
        self.journal = Journal(self.policy)
        self.now = 0.0
        for number in range(1, nodes + 1):
            self.tell(events.Joined(Node(number, f"tcp://n{number}:1", f"rack{min(number, racks)}")))
        self.tell(events.Created(STORE, "test", "db", (256, PAGES, 8, replicas), 0.0))
        for number in range(1, replicas + 1):
            self.tell(events.Closed(STORE, 1, number, b"d%d" % number))
        self.opens(1)

    @property
    def store(self):
        return self.policy.state.stores[STORE]

    def tell(self, event):
        if isinstance(event, events.Heard):
            self.status.heard(event.node, self.now)
        actions = self.policy.on(event, self.now)
        if isinstance(event, events.Recovered):
            self.status.opened(event.store)
        self.journal.look()
        return actions

    def opens(self, epoch):
        self.tell(events.Recovered(STORE, epoch))

    def without(self, number, epoch=2, stay=1):
        """A node is silent, and the store goes on."""
        self.tell(events.Silent(number))
        self.tell(events.Closed(STORE, epoch, stay, b"e"))
        self.opens(epoch)

    def missing(self):
        return self.status.missing(self.store, self.now)

    def trouble(self):
        return self.status.trouble(self.store, self.now)


def test_whole():
    world = World(2)
    assert world.missing() == () and world.trouble() == ""


def test_no_node_is_free():
    world = World(2)
    world.without(2)
    (lacks,) = world.missing()
    assert (lacks.index, lacks.address, lacks.done, lacks.pages) == (1, "", 0, 0)
    assert lacks.reason == "no memory node is free for it; 1 of 2 answer; start one more"
    assert world.trouble() == f"copy 1: {lacks.reason}"


def test_how_far_a_copy_is():
    world = World(3)
    world.without(2)
    (lacks,) = world.missing()
    assert (lacks.address, lacks.done, lacks.pages) == ("tcp://n3:1", 0, PAGES)
    world.tell(events.Closed(STORE, 2, 3, b"f"))
    world.status.filled(STORE, 40, PAGES)
    assert (world.missing()[0].done, world.trouble()) == (40, "copy 1: being made at tcp://n3:1: 40 of 100 pages")
    world.status.filled(STORE, 10, PAGES)  # the next round
    assert world.missing()[0].done == 40
    info = next(info for info in world.status.nodes(world.now) if info.address == "tcp://n3:1")
    assert (info.making, info.done, info.pages, info.copies, info.stale) == (1, 40, PAGES, 0, 0)
    world.tell(events.Filled(STORE, 2, 3))
    assert "about to count" in world.missing()[0].reason and "its copies change" in world.trouble()
    assert [place.address for place in world.status.places(world.store)] == ["tcp://n1:1"]
    world.tell(events.Closed(STORE, 3, 1, b"g"))
    world.opens(3)
    assert world.missing() == () and world.trouble() == ""


def test_a_copy_that_could_not_be_made():
    world = World(3)
    world.without(2)
    world.status.not_filled(STORE, "no room")
    world.tell(events.FillFailed(STORE, 2, 3))
    assert world.missing()[0].reason == "could not be made, and is tried again soon: no room"


def test_two_are_missing():
    world = World(5, 3)
    world.tell(events.Silent(2))
    world.without(3, 3)
    reasons = [lacks.reason for lacks in world.missing()]
    assert "being made at" in reasons[0] and reasons[1] == "one is made after the other"


def test_the_last_copy_is_waited_for():
    world = World(1, 1)
    world.now = 5.0
    world.tell(events.Heard(1))
    world.now = 17.0
    world.tell(events.Silent(1))
    assert world.trouble() == "copy 0 at tcp://n1:1 does not answer since 12 s"
    assert world.status.nodes(world.now)[0].silent_for == 12


def test_an_epoch_that_cannot_be_opened():
    world = World(2)
    world.tell(events.Silent(2))
    world.tell(events.Closed(STORE, 2, 1, b"e"))
    assert world.status.not_opened(STORE, "it is cut off") and not world.status.not_opened(STORE, "it is cut off")
    world.tell(events.Failed(STORE, 2, "it is cut off"))
    assert world.trouble() == "it is cut off"


def test_a_copy_that_was_left_out():
    """It may still count, so it is not one that lacks a node."""
    world = World(2)
    world.tell(events.Silent(2))
    assert world.missing()[0].reason == "left out of the next epoch: tcp://n2:1 did not answer"
    assert [info.copies for info in world.status.nodes(0)] == [1, 1]
    world.tell(events.Closed(STORE, 2, 1, b"e"))
    world.opens(2)
    assert "no memory node is free" in world.missing()[0].reason
    assert [info.copies for info in world.status.nodes(0)] == [1, 0]


def test_lost():
    world = World(1, 1)
    world.tell(events.Gone(1))
    assert "have ended" in world.trouble() and world.missing() == ()


@pytest.mark.parametrize(
    ("extents", "gone", "named"),
    [
        (1, [0], ""),
        (2, [1], " of extent 1"),
        (3, [0, 2], " of extents 0, 2"),
        (8, range(6), " of extents 0, 1, 2, 3 and 2 more"),
    ],
)
def test_a_store_that_is_lost_names_the_extents_without_a_copy(extents, gone, named):
    world = World(1, 1)
    world.store.phase, world.store.extents, world.store.gone = "lost", extents, list(gone)
    said = f"all memory nodes with copies{named} have ended, and its pages with them; unlink it, and make it again"
    assert world.trouble() == said and len(said) < 160


def test_a_node_that_answers_and_is_of_no_use():
    world = World(3)
    world.status.silent(1, "answers, but its memory can't be read")
    world.tell(events.Silent(1, "answers, but its memory can't be read"))
    (info,) = [each for each in world.status.nodes(world.now) if each.address == "tcp://n1:1"]
    assert not info.is_up and info.trouble == "answers, but its memory can't be read"
    world.tell(events.Heard(1))
    assert not any(each.trouble for each in world.status.nodes(world.now))


def test_why_a_copy_was_left_out():
    """A node that could not close it, and not another one that is there, too."""
    world = World(2)
    world.status.refused(STORE, 2, "no memory")
    left = {node: world.status._why(world.store, Copy(node, 0), world.now) for node in (1, 2)}
    assert "can't close its copy: no memory" in left[2] and "no memory" not in left[1]
    world.status.opened(STORE)
    assert "no memory" not in world.status._why(world.store, Copy(2, 0), world.now)


def test_nothing_is_kept_of_stores_and_nodes_that_are_gone():
    """A coordinator lives long, and sees many of them."""
    world = World(3)
    kept = [known for known in vars(world.status).values() if isinstance(known, dict)]
    for store, node in ((STORE, 1), (STORE + 1, 4)):
        world.status.not_filled(store, "no memory")
        world.status.filled(store, 1, 2)
        world.status.not_opened(store, "no memory")
        world.status.refused(store, node, "no memory")
        world.status.heard(node, 0.0)
        world.status.silent(node, "no memory")
    world.status.keep()
    assert len(kept) == 6 and all(each.keys() in ({STORE}, {1}) for each in kept)


def test_silent_nodes_come_last():
    world = World(3)
    world.tell(events.Silent(1))
    assert [info.address for info in world.status.nodes(0)] == ["tcp://n2:1", "tcp://n3:1", "tcp://n1:1"]


def test_why_a_node_is_not_drained_yet():
    world = World(2)

    def stays():
        return {info.address: info.trouble for info in world.status.nodes(world.now)}

    assert stays() == {"tcp://n1:1": "", "tcp://n2:1": ""}
    world.tell(events.Drained(1, True))
    reason = "copy 0 of 'db': no memory node is free for it; 2 of 2 answer, drained: 1; start one more"
    assert stays() == {"tcp://n1:1": reason, "tcp://n2:1": ""}
    world.tell(events.Joined(Node(3, "tcp://n3:1", "rack3")))
    assert world.policy.filling(STORE).node == 3 and not any(stays().values())
    world.tell(events.FillFailed(STORE, 1, 3))
    world.status.not_filled(STORE, "no memory")
    world.tell(events.Dropped(STORE, 3, world.store.making))
    failed = "copy 0 of 'db': could not be made elsewhere, and is tried again: no memory"
    assert stays() == {"tcp://n1:1": failed, "tcp://n2:1": "", "tcp://n3:1": ""}
    world.tell(events.Silent(1))  # its copy is left out, and made at the third
    assert not any(stays().values())


@pytest.mark.parametrize("count", [0, 4])
def test_health_on_the_wire(count):
    """Also the longest one has room in a reply."""
    at = "tcp://[" + "f" * 39 + "]:65535"
    lacks = tuple(messages.Missing(index, "\u00e9" * 300, at, 5, 9) for index in range(count))
    places = tuple(messages.Place(4, at, "d" * 60, True) for _ in range(5 - count))
    of = messages.Health(3, messages.OPEN, 5, "t" * 300, places, lacks)
    raw = messages.health(of)
    assert len(raw) <= wire.MOST
    found = messages.read_health(wire.answered(raw))
    assert found.places == places and [each.reason for each in found.missing] == ["\u00e9" * 45] * count
    node = messages.NodeInfo("tcp://h:1", "d", False, 1, 2, 3, 4, 5, 6, True, "copy 0: …")
    assert messages.read_node(wire.Reader(messages.node(node))) == node


# ---- what is logged ----


def test_copies_in_one_domain_are_said(caplog):
    """Once more than a line of information: they protect from nothing that takes the domain."""
    caplog.set_level(logging.INFO, logger="dsmem")
    world = World(2, racks=1)
    text = "copy 0 at tcp://n1:1, copy 1 at tcp://n2:1; all copies of an extent are in one failure domain"
    assert text in caplog.records[-1].getMessage() and caplog.records[-1].levelname == "WARNING"
    world.tell(events.Joined(Node(3, "tcp://n3:1", "rack7")))
    caplog.clear()
    world.tell(events.Closed(STORE, 1, 3, b"new"))  # one of them moves to the other domain
    world.tell(events.Filled(STORE, 1, 3))
    for number in (1, 2):
        world.tell(events.Closed(STORE, 2, number, b"e"))
    world.opens(2)
    assert "moved" in caplog.records[-1].getMessage() and "domain" not in caplog.records[-1].getMessage()


def lines(caplog):
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_each_event_is_a_line(caplog):
    caplog.set_level(logging.INFO, logger="dsmem")
    world = World(3)
    db = "store 'db' of cluster 'test'"
    assert lines(caplog) == [
        *(f"memory node tcp://n{n}:1, domain rack{n}: joined" for n in (1, 2, 3)),
        f"{db} is being made: copy 0 at tcp://n1:1, copy 1 at tcp://n2:1",
        f"{db}: epoch 1 is open: copy 0 at tcp://n1:1, copy 1 at tcp://n2:1",
    ]
    world.without(2)
    assert lines(caplog) == [
        "memory node tcp://n2:1: silent",
        f"{db}: epoch 2 is open: copy 0 at tcp://n1:1; left out: copy 1 at tcp://n2:1; missing: copy 1",
        f"{db}: copy 1 is being made at tcp://n3:1",
    ]
    world.tell(events.Closed(STORE, 2, 3, b"f"))
    world.tell(events.Filled(STORE, 2, 3))
    world.tell(events.Closed(STORE, 3, 1, b"g"))
    world.opens(3)
    made = "copy 0 at tcp://n1:1, copy 1 at tcp://n3:1; made again: copy 1 at tcp://n3:1"
    assert lines(caplog) == [f"{db}: epoch 3 is open: {made}"]
    world.tell(events.Heard(2))
    assert lines(caplog) == ["memory node tcp://n2:1: answers again"]
    world.tell(events.Gone(2))
    assert lines(caplog) == ["memory node tcp://n2:1: gone, and its copies with it"]
    world.tell(events.Removed(STORE))
    assert lines(caplog) == [f"{db} was removed"]


def test_a_copy_that_moves(caplog):
    caplog.set_level(logging.INFO, logger="dsmem")
    world = World(3)
    db = "store 'db' of cluster 'test'"
    lines(caplog)
    world.tell(events.Drained(2, True))
    assert lines(caplog) == [
        "memory node tcp://n2:1: its copies are to move to others",
        f"{db}: copy 1 moves from tcp://n2:1 to tcp://n3:1",
    ]
    world.tell(events.Closed(STORE, 1, 3, b"f"))
    assert world.missing() == () and world.trouble() == "" and world.status.nodes(0.0)[2].making == 1
    world.tell(events.Filled(STORE, 1, 3))
    for node in 1, 2:
        world.tell(events.Closed(STORE, 2, node, b"g"))
    world.opens(2)
    moved = "copy 0 at tcp://n1:1, copy 1 at tcp://n3:1; moved: copy 1 from tcp://n2:1 to tcp://n3:1"
    empty = "memory node tcp://n2:1: has no copies any more, and may be ended"
    assert lines(caplog) == [f"{db}: epoch 2 is open: {moved}"]
    world.tell(events.Dropped(STORE, 2, 2))
    assert lines(caplog) == [empty]
    assert [each.is_drained for each in world.status.nodes(0.0)] == [False, True, False]
    world.tell(events.Drained(2, False))
    assert lines(caplog) == ["memory node tcp://n2:1: is not drained any more"]


def test_a_store_that_waits_and_is_lost(caplog):
    caplog.set_level(logging.INFO, logger="dsmem")
    world = World(1, 1)
    lines(caplog)
    world.tell(events.Silent(1))
    assert lines(caplog)[-1].endswith("waits for a memory node with a copy: copy 0 at tcp://n1:1")
    world.tell(events.Gone(1))
    assert any(line.endswith("is lost: all memory nodes with copies have ended") for line in lines(caplog))


def test_a_change_that_fails_again_and_again_is_no_wait_for_a_node(caplog):
    """Why it fails is logged elsewhere, once."""
    world = World(2)
    world.tell(events.Silent(2))
    lines(caplog)
    for epoch in (2, 3, 4):
        world.tell(events.Closed(STORE, epoch, 1, b"e"))
        world.tell(events.Failed(STORE, epoch, "it is cut off"))
        world.tell(events.Due(STORE, epoch))
    assert lines(caplog) == []


def test_a_store_that_was_not_made(caplog):
    caplog.set_level(logging.INFO, logger="dsmem")
    world = World(2)
    world.tell(events.Created(8, "test", "more", (256, PAGES, 8, 2), 0.0))
    lines(caplog)
    world.tell(events.Refused(8, 1, 1, "no room"))
    assert lines(caplog) == ["store 'more' of cluster 'test' was not made"]


def test_what_is_known_from_before_is_not_new(caplog):
    caplog.set_level(logging.INFO, logger="dsmem")
    world = World(2)
    lines(caplog)
    policy = Policy(world.policy.state, 0.0, 0.5, 2)
    journal = Journal(policy)
    policy.begin(0.0)
    journal.look()
    assert lines(caplog) == []
    assert Copy(1, 0, b"d1") in world.store.copies
