"""The decisions of a coordinator, without sockets, files or a clock: in worlds that a seed decides on."""

import random

import pytest

from dsmem import errors
from dsmem.membership import events
from dsmem.membership.leases import Leases
from dsmem.membership.placement import best_move
from dsmem.membership.policy import Policy
from dsmem.membership.standing import NONE, Witness
from dsmem.membership.state import NO_LIMIT, Node, State, decode, encode

LEASE = 1.0
SHAPE = (4096, 100, 8)


class World:
    """Memory nodes, one coordinator and its disk. What was asked of a node is answered, or not, when a test says so."""

    def __init__(self, seed=0):
        self.random = random.Random(seed)
        self.now = 100.0
        self.disk = encode(State())
        self.alive = {}  # node → whether it answers
        self.unable = set()  # nodes that can make and close no copy, as for lack of memory
        self.copies = {}  # (node, store) → epoch
        self.asked = []  # what nodes and recoveries have not done yet
        self.late = []  # what a coordinator that has crashed had asked nodes for, and may still arrive there
        self.makings = {}  # (node, store) → the last making of a copy that was there
        self.timers = []
        self.leases = []  # (store, epoch, until, ID)
        self.opened = {}  # (store, epoch) → nodes, the primary first
        self.filled = set()  # (node, store): copies that have all pages but those that have changed
        self.lost = set()  # stores
        self.complete = set()  # (node, store, epoch): copies that were completed for an epoch
        self.witnesses = {}  # node → what it remembers of coordinators
        self.runs = 0
        self.disks = []  # all that were written
        self.start()

    @classmethod
    def of_nodes(cls, count, seed=0):
        """One in which so many have joined, numbered from 1 on."""
        world = cls(seed)
        for number in range(1, count + 1):
            world.join(number)
        return world

    def start(self, heard=True):
        """heard: the nodes are asked at once whether they are there."""
        requests = [action for action in self.asked if not isinstance(action, (events.Recover, events.Fill))]
        self.late += [(action, self.standing) for action in requests]
        self.asked, self.timers, self.stopped = [], [], ""
        self.runs += 1
        self.policy = Policy(decode(self.disk), self.now, LEASE, self.runs)
        self.execute(self.policy.begin(self.now))
        for node in list(self.policy.state.nodes) if heard else []:
            self.ask(node)

    def give_back(self, store, id):
        self.leases = [lease for lease in self.leases if (lease[0], lease[3]) != (store.id, id)]
        self.tell(events.GivenBack(store.id, id))

    def ask(self, node):
        """Whether it is there."""
        told = self.obeyed(node, self.standing) if self.alive.get(node) else events.Silent(node)
        self.tell(told or events.Heard(node))

    def obeyed(self, node, standing):
        """None: the node does what this coordinator asks for."""
        try:
            self.witnesses[node].obey(standing, any(each == node for each, _ in self.copies))
        except errors.FencedError as error:
            return events.Outdated(error.detail)
        except errors.ConflictError:
            return events.Silent(node)
        return None

    def tell(self, event):
        self.execute(self.policy.on(event, self.now))

    def execute(self, actions):
        for action in actions:
            if isinstance(action, events.Save):
                self.policy.state.written += 1
                self.disk = encode(self.policy.state)
                self.disks.append(self.disk)
                self.standing = self.policy.standing
                self.look()
            elif isinstance(action, events.Stop):
                self.stopped, self.asked, self.timers = action.reason, [], []
            elif isinstance(action, events.WakeAt):
                self.timers.append(action)
            elif isinstance(action, (events.Make, events.Close, events.Recover, events.Drop, events.Fill)):
                self.asked.append(action)

    def look(self):
        """Check each epoch when it is on disk that it is open."""
        for store in self.policy.state.stores.values():
            nodes = [copy.node for copy in store.copies]
            if store.phase == "lost" and store.name:
                last = max(epoch for id, epoch in self.opened if id == store.id)
                there = [node for node in self.opened[store.id, last] if (node, store.id) in self.copies]
                assert there == [] or store.id in self.lost, "a store was given up that has a copy"
                self.lost.add(store.id)
            if store.phase != "open" or (store.id, store.epoch) in self.opened:
                continue
            for (id, epoch), before in self.opened.items():
                if id != store.id:
                    continue
                assert epoch < store.epoch, "an epoch was opened twice, or after a later one"
                for lease in self.leases:
                    if lease[:2] == (id, epoch) and lease[2] > self.now:
                        closed = self.copies.get((before[0], id), store.epoch) >= store.epoch
                        assert closed, "opened while a client may read from a copy that was not closed"
            latest = max((epoch for id, epoch in self.opened if id == store.id), default=None)
            old = {node for node in nodes if (node, store.id, store.epoch) not in self.complete}
            if latest is not None:
                assert old <= set(self.opened[store.id, latest]), "a copy that has missed an epoch"
            for node in nodes:
                assert self.copies.get((node, store.id), store.epoch) >= store.epoch, "a copy that was not closed"
            self.opened[store.id, store.epoch] = nodes

    def do(self, action):
        """A node or a recovery does what it was asked for, and tells."""
        if isinstance(action, events.Recover):
            for copy in action.copies:
                known = self.copies.get((copy.node, action.store))
                if not self.alive.get(copy.node) or known != action.epoch:
                    return self.tell(events.Failed(action.store, action.epoch, "out of reach"))
            if action.fresh is not None:
                if not self.alive.get(action.fresh.node) or (action.fresh.node, action.store) not in self.filled:
                    return self.tell(events.Failed(action.store, action.epoch, "out of reach"))
                self.copies[action.fresh.node, action.store] = action.epoch
                self.complete.add((action.fresh.node, action.store, action.epoch))
            return self.tell(events.Recovered(action.store, action.epoch))
        if isinstance(action, events.Fill):
            key = action.copy.node, action.store
            if not all(self.alive.get(copy.node) for copy in (action.source, action.copy)) or key not in self.copies:
                return self.tell(events.FillFailed(action.store, action.epoch, action.copy.node))
            self.filled.add(key)
            return self.tell(events.Filled(action.store, action.epoch, action.copy.node))
        node = action.copy.node if isinstance(action, events.Make) else action.node
        if not self.alive.get(node):
            return self.tell(events.Silent(node))
        return self.tell(self.obeyed(node, self.standing) or self.answer(node, action))

    def answer(self, node, action):
        """What a node says to a request, at last, after it has done it."""
        key = node, action.store
        if isinstance(action, events.Drop):
            if self.makings.get(key, 0) <= action.making:
                self.copies.pop(key, None)
                self.filled.discard(key)
                self.makings[key] = action.making
            return events.Dropped(action.store, node, action.making)
        if isinstance(action, events.Close):
            if key not in self.copies:
                return events.Refused(action.store, action.epoch, node, "it has none", lost=True)
            if action.epoch <= self.copies[key]:
                return events.Refused(action.store, action.epoch, node, "stale")
        else:
            if self.makings.get(key, 0) >= action.making:
                return events.Refused(action.store, action.epoch, node, "late")
            self.makings[key] = action.making
            self.filled.discard(key)
        if node in self.unable:
            return events.Refused(action.store, action.epoch, node, "it can't")
        self.copies[key] = action.epoch
        return events.Closed(action.store, action.epoch, node, b"%d" % action.epoch)

    def do_late(self, action, standing):
        """No coordinator hears the answer."""
        node = action.copy.node if isinstance(action, events.Make) else action.node
        if self.alive.get(node) and self.obeyed(node, standing) is None:
            self.answer(node, action)

    def do_some(self):
        """Do what was asked for first, or the timer that was set first, and say whether there was one."""
        if self.asked:
            self.do(self.asked.pop(0))
        elif self.timers:
            timer = self.timers.pop(0)
            self.now = max(self.now, timer.at)
            self.tell(events.Due(timer.store, timer.epoch))
        else:
            return False
        return True

    def do_all(self):
        for _ in range(10000):
            if not self.do_some():
                return
        raise AssertionError("it does not come to an end")

    def join(self, number, domain="", address=None, memory=NO_LIMIT):
        self.alive[number] = True
        seen = self.witnesses.setdefault(number, Witness()).seen
        node = Node(number, address or f"tcp://10.0.0.{number}:7700", domain or f"host{number}", memory)
        self.tell(events.Joined(node, seen, seen != NONE))  # its number was asked if it has heard of any

    def make(self, replicas=2, name="db", id=1):
        self.tell(events.Created(id, "c", name, (*SHAPE, replicas), 0.0))
        self.do_all()
        return self.policy.state.stores[id]

    def stop(self, node):
        self.alive[node] = False
        self.tell(events.Silent(node))

    def end(self, node):
        """Another process has its address, and its memory is gone."""
        self.alive[node] = False
        self.copies = {key: epoch for key, epoch in self.copies.items() if key[0] != node}
        self.tell(events.Gone(node))

    def go_on(self, node):
        self.alive[node] = True
        self.ask(node)


@pytest.fixture
def world():
    return World.of_nodes(3)


def nodes_of(store):
    return [copy.node for copy in store.copies]


def test_a_store_is_made_where_little_is(world):
    first, second = world.make(2, "a", 1), world.make(1, "b", 2)
    assert first.phase == second.phase == "open" and first.epoch == 1
    assert not set(nodes_of(first)) & set(nodes_of(second))
    assert [copy.index for copy in first.copies] == [0, 1] and all(copy.descriptor for copy in first.copies)
    with pytest.raises(errors.NameExistsError):
        world.make(2, "a", 3)
    with pytest.raises(errors.InvalidArgumentError):
        world.make(4, "d", 4)


def test_copies_are_in_different_domains_if_there_are_enough(world):
    world.join(4, "host1")
    store = world.make(3)
    assert world.policy.domains(store.copies) == 3
    store = world.make(4, "all", 2)
    assert len(store.copies) == 4 and world.policy.domains(store.copies) == 3


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_store_goes_on_without_a_node(world, place):
    store = world.make(3)
    before = nodes_of(store)
    world.stop(before[place])
    world.do_all()
    assert store.phase == "open" and store.epoch == 2
    assert nodes_of(store) == [node for node in before if node != before[place]]
    assert store.stale == [(before[place], 0)]
    world.go_on(before[place])
    world.do_all()
    assert store.stale == [] and store.epoch == 3 and sorted(nodes_of(store)) == sorted(before)
    assert (before[place], store.id, 3) in world.complete, "it came back with what it had before"


def test_a_copy_is_made_again_at_a_spare_node(world):
    store = world.make(2)
    first, second = nodes_of(store)
    world.stop(first)
    world.do_all()
    spare = ({1, 2, 3} - {first, second}).pop()
    assert nodes_of(store) == [second, spare] and store.stale == [(first, 0)] and store.epoch == 3
    assert sorted(copy.index for copy in store.copies) == [0, 1] and store.fresh is None


def until(world, kind):
    """Do what is asked for until an action of this kind is next, and return that."""
    while not isinstance(world.asked[0], kind):
        world.do(world.asked.pop(0))
    return world.asked[0]


@pytest.mark.parametrize("kind", [events.Make, events.Fill, events.Close, events.Recover])
@pytest.mark.parametrize("what", ["crash", "spare", "source"])
def test_a_copy_that_is_not_complete_does_not_count(world, kind, what):
    """Whatever fails while it is made: the coordinator, the node that is to have it, or the one that is left."""
    store = world.make(2)
    first, second = nodes_of(store)
    world.stop(first)
    until(world, events.Make)
    until(world, kind)
    spare = ({1, 2, 3} - {first, second}).pop()
    if what == "crash":
        world.start()
    else:
        world.stop({"spare": spare, "source": second}[what])
    world.do_all()
    store = world.policy.state.stores[1]
    assert nodes_of(store) == {"crash": [second, spare], "spare": [second], "source": [second]}[what]
    assert store.phase == ("closed" if what == "source" else "open")
    world.go_on({"crash": first, "spare": spare, "source": second}[what])
    world.do_all()
    assert store.phase == "open" and nodes_of(store) == [second, spare]


def test_a_copy_that_can_not_be_made_is_tried_again_later(world):
    store = world.make(2)
    first = nodes_of(store)[0]
    world.stop(first)
    make = until(world, events.Make)
    world.asked.pop(0)
    now = world.now
    world.tell(events.Refused(store.id, make.epoch, make.copy.node, "no memory"))
    while world.asked:
        world.do(world.asked.pop(0))
    assert len(store.copies) == 1 and min(timer.at for timer in world.timers) > now
    world.do_all()
    assert len(store.copies) == 2


def test_a_lease_of_a_primary_is_waited_for(world):
    store = world.make(2)
    granted = world.now
    assert world.policy.grant(store.id, 1, granted)
    world.stop(nodes_of(store)[0])
    assert not world.policy.grant(store.id, 1, world.now)
    while world.asked:
        world.do(world.asked.pop(0))
    assert store.phase == "closed" and [timer.at for timer in world.timers] == [pytest.approx(granted + LEASE * 1.02)]
    world.tell(events.Due(store.id, store.epoch))
    assert store.phase == "closed" and not world.asked
    world.do_all()
    assert store.phase == "open" and world.policy.grant(store.id, store.epoch, world.now)


def waits(world, store):
    """Let all be done but what must wait for a time; return the times for which it waits."""
    while world.asked:
        world.do(world.asked.pop(0))
    assert store.phase == "closed"
    assert world.policy.waits(store.id, world.now) == min(timer.at for timer in world.timers) - world.now
    return [timer.at for timer in world.timers]


def test_a_lease_that_was_given_back_is_not_waited_for(world):
    store = world.make(2)
    for id in (7, 8, 7):
        assert world.policy.grant(store.id, 1, world.now, id)
    world.stop(nodes_of(store)[0])
    world.tell(events.GivenBack(store.id, 7))
    assert len(waits(world, store)) == 1
    now = world.now
    for id in (9, 8):
        world.tell(events.GivenBack(store.id, id))
        world.tell(events.GivenBack(store.id + 1, id))
    while world.asked:
        world.do(world.asked.pop(0))
    assert store.phase == "open" and world.now == now


def test_what_is_left_is_waited_for(world):
    """No longer, however often something is given back; and with one time that it is looked at again for each."""
    store = world.make(2)
    begun = world.now
    for id in (1, 2, 3):
        assert world.policy.grant(store.id, 1, world.now, id)
        world.now += LEASE / 10
    world.stop(nodes_of(store)[0])
    assert waits(world, store) == [pytest.approx(begun + 0.2 * LEASE + LEASE * 1.02)]
    for id in (2, 3, 3):
        world.tell(events.GivenBack(store.id, id))
        world.tell(events.GivenBack(store.id, id))
    assert waits(world, store)[1:] == [pytest.approx(begun + LEASE * 1.02)]
    world.do_all()
    assert store.phase == "open"


def test_leases_that_are_given_back_newest_first(world):
    """Each time that it is looked at again costs a thread."""
    store = world.make(2)
    for id in range(1, 201):
        assert world.policy.grant(store.id, 1, world.now, id)
        world.now += LEASE / 1000
    world.stop(nodes_of(store)[0])
    waits(world, store)
    for id in range(200, 1, -1):
        world.tell(events.GivenBack(store.id, id))
    assert len(world.timers) <= 4
    world.tell(events.GivenBack(store.id, 1))
    while world.asked:
        world.do(world.asked.pop(0))
    assert store.phase == "open"


def test_leases_that_nothing_tells_of_are_waited_for(world):
    """A coordinator that was started again does not know whose they are."""
    store = world.make(2)
    assert world.policy.grant(store.id, 1, world.now, 5)
    world.start()
    store, begun = world.policy.state.stores[store.id], world.now
    world.tell(events.GivenBack(store.id, 5))
    world.stop(nodes_of(store)[0])
    assert waits(world, store) == [pytest.approx(begun + LEASE * 1.02)]


def test_leases_that_have_ended_are_forgotten(world):
    store = world.make(2)
    for id in range(1, 1000):
        assert world.policy.grant(store.id, 1, world.now, id)
        world.now += LEASE / 10
    assert len(world.policy._leases[store.id]._ends) <= 12


def test_a_lease_of_a_copy_that_was_closed_is_not(world):
    store = world.make(2)
    world.policy.grant(store.id, 1, world.now)
    world.stop(nodes_of(store)[1])
    now = world.now
    world.do_all()
    assert store.phase == "open" and world.now == now


@pytest.mark.parametrize("place", [0, 1])
def test_a_copy_counts_again_if_no_epoch_was_open_without_it(world, place):
    """All nodes are silent, one after the other: the first that comes back has all that was acknowledged."""
    store = world.make(2)
    nodes = nodes_of(store)
    for node in nodes:
        world.stop(node)
    world.do_all()
    assert store.phase == "closed" and nodes_of(store) == nodes
    world.go_on(nodes[place])
    while store.phase != "open":
        world.do(world.asked.pop(0)) if world.asked else world.do_all()
    assert nodes_of(store)[0] == nodes[place] and store.stale[:1] == [(nodes[1 - place], 0)]
    world.go_on(nodes[1 - place])
    world.do_all()
    assert store.phase == "open" and {copy.index for copy in store.copies} == {0, 1} and not store.fresh


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("crashes", [False, True])
def test_a_store_is_not_lost_while_a_node_has_a_copy(world, place, crashes):
    """The node that was silent last ends; the other one comes back."""
    store = world.make(2)
    nodes = nodes_of(store)
    kept, gone = nodes[place], nodes[1 - place]
    world.stop(kept)
    world.stop(gone)
    world.do_all()
    world.end(gone)
    world.do_all()
    assert store.phase == "closed" and nodes_of(store) == [kept]
    if crashes:
        world.start()
        world.do_all()
        store = world.policy.state.stores[store.id]
        assert store.phase == "closed"
    world.go_on(kept)
    world.do_all()
    assert store.phase == "open" and nodes_of(store)[0] == kept


def test_a_copy_that_was_left_out_of_a_change_which_fails(world):
    """It answers again when the other one, alone in the change, is gone."""
    store = world.make(2)
    first, second = nodes_of(store)
    world.stop(first)
    close = next(action for action in world.asked if isinstance(action, events.Close))
    assert close.node == second and nodes_of(store) == [second]
    world.go_on(first)
    world.tell(events.Refused(store.id, close.epoch, second, "it has none", lost=True))
    world.copies.pop((second, store.id))
    world.do_all()
    assert store.phase == "open" and nodes_of(store)[0] == first


def test_a_copy_that_has_missed_an_epoch_does_not_count(world):
    store = world.make(2)
    world.stop(3)
    first, second = nodes_of(store)
    world.stop(first)
    world.do_all()
    assert store.phase == "open" and nodes_of(store) == [second]
    world.stop(second)
    world.go_on(first)
    world.do_all()
    assert store.phase == "closed" and nodes_of(store) == [second]
    world.end(second)
    assert store.phase == "lost"


def test_a_store_whose_nodes_have_ended_is_lost(world):
    store = world.make(2)
    for number, node in enumerate(nodes_of(store)):
        world.alive[node] = False
        address = world.policy.state.nodes[node].address
        with pytest.raises(errors.BusyError):  # as long as it is not known which of them answers there
            world.join(10 + number, address=address)
        world.end(node)
        world.join(10 + number, address=address)
    world.do_all()
    assert store.phase == "lost"
    world.tell(events.Removed(store.id))
    assert not world.policy.state.stores


def test_a_removed_store_is_dropped_by_all(world):
    store = world.make(3)
    world.stop(2)
    world.do_all()
    world.tell(events.Removed(store.id))
    world.do_all()
    assert list(world.copies) == [(2, store.id)]
    assert world.policy.state.named("c", "db") is None and decode(world.disk).named("c", "db") is None
    world.go_on(2)
    world.do_all()
    assert not world.copies and not world.policy.state.stores


def test_why_a_store_was_not_made_is_said_of_that_one_alone(world):
    """Also if the answer is lost, and it is asked again; not of another one with its name."""
    world.tell(events.Created(1, "c", "db", (*SHAPE, 3), 0.0))
    make = world.asked[0]
    world.tell(events.Refused(1, make.epoch, make.copy.node, "5 bytes; start it with more", no_room=True))
    world.do_all()
    world.make(2, id=2)
    for _ in range(2):
        error = world.policy.failure(1)
        assert type(error) is errors.OutOfMemoryError
        at = f"10.0.0.{make.copy.node}:7700"
        why = f"the memory node at tcp://{at} can't make a copy: 5 bytes; start it with more"
        assert str(error) == f"the store 'db' was not made: {why}"
    world.tell(events.Removed(2))
    assert world.policy.failure(2) is None


def test_a_store_is_not_made_if_a_node_fails_meanwhile(world):
    world.tell(events.Created(1, "c", "db", (*SHAPE, 2), 0.0))
    node = world.asked[0].copy.node
    world.stop(node)
    world.do_all()
    assert world.policy.state.named("c", "db") is None
    why = f"the memory node at tcp://10.0.0.{node}:7700 has failed meanwhile; make it again"
    assert str(world.policy.failure(1)) == f"the store 'db' was not made: {why}"


def test_a_store_whose_copies_can_not_be_recovered_is_not_made(world):
    world.tell(events.Created(1, "c", "db", (*SHAPE, 2), 0.0))
    world.tell(events.Failed(1, 1, "out of reach"))
    world.do_all()
    assert str(world.policy.failure(1)) == "the store 'db' was not made: out of reach; make it again"


def test_a_coordinator_that_begins_says_that_a_store_was_not_made(world):
    world.tell(events.Created(1, "c", "db", (*SHAPE, 2), 0.0))
    world.start()
    world.do_all()
    assert "was not made: the coordinator was started again meanwhile; make it" in str(world.policy.failure(1))


def test_few_reasons_are_kept(world):
    for id in range(1, 111):
        world.tell(events.Created(id, "c", "db", (*SHAPE, 2), 0.0))
        world.tell(events.Failed(id, 1, "out of reach"))
    assert len(world.policy._failures) == 100 and world.policy.failure(110) and not world.policy.failure(10)


@pytest.mark.parametrize("steps", range(8))
def test_a_coordinator_that_has_crashed_begins_again(world, steps):
    """After each of its steps: the next one ends what it has begun, in a later epoch."""
    store = world.make(3)
    world.policy.grant(store.id, 1, world.now)
    world.leases.append((store.id, 1, world.now + LEASE))
    world.stop(nodes_of(store)[0])
    for _ in range(steps):
        if world.asked:
            world.do(world.asked.pop(0))
        elif world.timers:
            world.now = max(world.now, world.timers[0].at)
            timer = world.timers.pop(0)
            world.tell(events.Due(timer.store, timer.epoch))
    before = decode(world.disk).stores[1]
    world.start()
    world.stop(nodes_of(before)[0]) if not world.alive[nodes_of(before)[0]] else None
    world.do_all()
    after = world.policy.state.stores[1]
    assert after.phase == "open" and len(after.copies) == 2
    assert after.epoch > before.epoch or before.phase == "open"


def play(seed, steps=300):
    """Nodes that stop, go on, end, come and are drained; lost and late answers; coordinators that crash; leases."""
    world = World(seed)
    choose = world.random
    number = lease = 0
    for _ in range(4):
        number += 1
        world.join(number)
    for id in (1, 2):
        world.make(choose.randint(1, 3), f"s{id}", id)
    for _ in range(steps):
        world.now += choose.random() ** 3 * 0.2
        what = choose.random()
        nodes = list(world.policy.state.nodes)
        if world.late and choose.random() < 0.1:
            world.do_late(*world.late.pop(choose.randrange(len(world.late))))
        if what < 0.55 and world.asked:
            # a node does what it was asked for in its order, but the answers come in any
            action = choose.choice(world.asked)
            world.asked.remove(action)
            world.do(action)
        elif what < 0.65 and world.timers:
            timer = choose.choice(world.timers)
            if timer.at <= world.now:
                world.timers.remove(timer)
                world.tell(events.Due(timer.store, timer.epoch))
        elif what < 0.73 and nodes:
            world.stop(choose.choice(nodes))
        elif what < 0.83 and nodes:
            world.go_on(choose.choice(nodes))
        elif what < 0.85 and nodes:
            number += 1
            before = choose.choice(nodes)
            address = world.policy.state.nodes[before].address
            world.end(before)
            world.join(number, address=address)
        elif what < 0.88:
            world.start(heard=choose.random() < 0.5)
        elif what < 0.9 and nodes:
            world.tell(events.Drained(choose.choice(nodes), choose.random() < 0.5))
        elif what < 0.92 and nodes:
            world.unable ^= {choose.choice(nodes)}
        else:
            for store in world.policy.state.stores.values():
                lease += 1
                known = [each[3] for each in world.leases if each[:2] == (store.id, store.epoch)]
                id = choose.choice([*known, lease])
                if choose.random() < 0.5 and world.policy.grant(store.id, store.epoch, world.now, id):
                    world.leases.append((store.id, store.epoch, world.now + LEASE, id))
                elif choose.random() < 0.5:
                    world.give_back(store, id)
    world.unable.clear()
    for node in list(world.policy.state.nodes):
        world.go_on(node)
    world.do_all()
    assert not world.stopped
    for store in world.policy.state.stores.values():
        assert store.phase in ("open", "lost"), store
        assert store.phase == "open" or not store.copies
        assert best_move(world.policy.state, world.policy._up, [store], lambda *_: False) is None, "better elsewhere"
        assert not store.stale
    return world


@pytest.mark.parametrize("how", ["silent", "gone"])
def test_a_copy_is_made_at_another_node_if_the_first_one_fails(world, how):
    """Its node ends while the copy is filled, and a spare one is there."""
    world.join(4)
    store = world.make(2)
    world.stop(nodes_of(store)[0])
    while not any(isinstance(action, events.Fill) for action in world.asked):
        world.do(world.asked.pop(0))
    (fill,) = [action for action in world.asked if isinstance(action, events.Fill)]
    spare = fill.copy.node
    world.alive[spare] = False
    world.tell(events.Silent(spare) if how == "silent" else events.Gone(spare))
    world.do_all()
    assert len(store.copies) == 2 and spare not in nodes_of(store)


def test_a_copy_is_made_at_another_node_if_the_first_one_refuses(world):
    """Each node that is free is asked once before one is asked again."""
    world.join(4)
    world.join(5)
    store = world.make(2)
    world.stop(nodes_of(store)[0])
    asked = []
    for _ in range(6):
        make = until(world, events.Make)
        asked.append(make.copy.node)
        world.asked.remove(make)
        world.tell(events.Refused(store.id, make.epoch, make.copy.node, "no memory"))
        while world.asked:
            world.do(world.asked.pop(0))
        timer = min(world.timers, key=lambda timer: timer.at)
        world.timers.clear()
        world.now = timer.at
        world.tell(events.Due(timer.store, timer.epoch))
    assert sorted(asked[:3]) == sorted(set(asked)) == sorted(asked[3:])
    world.do_all()
    assert len(store.copies) == 2


def test_a_request_that_comes_late_ends_no_copy_that_counts(world):
    store = world.make(2)
    first, second = nodes_of(store)
    late = events.Make(store.id, 1, store.copies[0], 1), events.Drop(store.id, first, 0)
    for action in late:
        world.do_late(action, world.standing)
    assert world.copies[first, store.id] == 1
    world.stop(second)
    world.do_all()
    assert first in nodes_of(store) and store.phase == "open"


def test_a_copy_that_was_dropped_before_it_was_made_again_counts(world):
    """The answer to the second of two requests to drop it comes when there is another one."""
    world.stop(3)
    store = world.make(2)
    first = nodes_of(store)[0]
    world.stop(first)
    world.do_all()
    world.go_on(first)
    while not any(isinstance(action, events.Fill) for action in world.asked):
        world.do(world.asked.pop(0))
    world.tell(events.Dropped(store.id, first, store.making - 1))
    world.do_all()
    assert store.phase == "open" and sorted(nodes_of(store)) == [1, 2] and not store.stale


def test_a_shorter_lease_does_not_end_one_that_was_given_before(world):
    store = world.make(2)
    assert world.policy.grant(store.id, 1, world.now)
    state = decode(world.disk)
    assert state.lease == LEASE
    after = Policy(state, world.now, LEASE / 10, 2)
    after.begin(world.now)
    for node in state.nodes:
        after.on(events.Heard(node), world.now)
    assert after.grant(store.id, 1, world.now)
    primary = nodes_of(store)[0]
    actions = after.on(events.Silent(primary), world.now)
    (close,) = [action for action in actions if isinstance(action, events.Close)]
    (wake,) = after.on(events.Closed(store.id, close.epoch, close.node, b"x"), world.now)
    assert isinstance(wake, events.WakeAt) and wake.at >= world.now + LEASE


@pytest.mark.parametrize("seed", range(60))
def test_random_worlds(seed):
    play(seed)


@pytest.mark.parametrize("change", ["no wait", "no wait after a crash", "all given back", "same epoch", "returns"])
def test_a_planted_mistake_is_seen(monkeypatch, change):
    """The worlds tell a policy that makes a mistake."""
    if change == "no wait":
        real = Policy.grant

        def forgets(policy, id, epoch, now, lease):
            return real(policy, id, epoch, now - 10, lease)

        monkeypatch.setattr(Policy, "grant", forgets)
    elif change == "no wait after a crash":
        monkeypatch.setattr("dsmem.membership.policy.Policy.begin", begins_at_once)
    elif change == "all given back":
        monkeypatch.setattr(Leases, "give_back", lambda leases, id: leases._ends.clear())
    elif change == "same epoch":
        real = Policy._change

        def stays(policy, store, *more):
            store.epoch -= 1
            return real(policy, store, *more)

        monkeypatch.setattr(Policy, "_change", stays)
    else:
        real = Policy._recovered

        def returns(policy, event, now):
            before = list(policy.state.stores[event.store].opened) if event.store in policy.state.stores else []
            actions = real(policy, event, now)
            if actions:
                opened = policy.state.stores[event.store].opened
                opened += [copy for copy in before if copy.node not in [each.node for each in opened]]
            return actions

        monkeypatch.setattr(Policy, "_recovered", returns)
    with pytest.raises(AssertionError):
        for seed in range(300):
            play(seed)


def begins_at_once(policy, now, real=Policy.begin):
    policy._leases = {id: Leases(0.0) for id in policy._leases}
    return real(policy, now)
