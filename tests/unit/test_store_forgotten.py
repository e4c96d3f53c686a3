"""A memory node that was forgotten and lives: the coordinator's decisions, and real processes."""

import contextlib
import mmap
from pathlib import Path
from types import SimpleNamespace

import pytest
from epochs import PROPERTIES, eventually, settled, together
from paging import number_of
from test_membership_policy import World, nodes_of

from dsmem import _core, errors
from dsmem.membership import events
from dsmem.membership import node as node_module
from dsmem.membership.client import forget_node
from dsmem.membership.copies import Copies, _Copy
from dsmem.membership.node import Member
from dsmem.membership.standing import Standing
from dsmem.membership.state import Node, State, encode
from dsmem.names import wire


@pytest.fixture
def world():
    world = World()
    for number in (1, 2, 3):
        world.join(number)
        world.ask(number)
    return world


def forgotten(world, node):
    """It is out of reach, and lives."""
    world.stop(node)
    world.do_all()
    world.tell(events.Gone(node))
    world.do_all()
    world.alive[node] = True


@pytest.mark.parametrize("crashes", [False, True])
def test_it_is_told(world, crashes):
    """Each time that it registers under its number, also by a later coordinator."""
    store = world.make(2)
    gone = nodes_of(store)[0]
    forgotten(world, gone)
    if crashes:
        world.start()
    for _ in range(2):
        with pytest.raises(errors.StaleDescriptorError, match="was forgotten"):
            world.join(gone)
    assert gone not in world.policy.state.nodes
    world.join(10, address=f"tcp://10.0.0.{gone}:7700")
    world.ask(10)
    assert world.policy.is_up(10)


def test_a_coordinator_with_another_folder_does_not_say_so(world):
    """It can't know whether the copies count."""
    store = world.make(1)
    (holder,) = nodes_of(store)
    other = World()
    other.runs, other.witnesses, other.copies, other.disk = 10, world.witnesses, world.copies, encode(State())
    other.start()
    other.join(holder)
    assert not other.policy.is_up(holder)


def test_a_coordinator_that_knows_less_does_not_say_so(world):
    """What was restored does not know the node, which has heard of more."""
    backup = world.disk
    world.join(4)
    world.ask(4)
    world.disk, world.look = backup, lambda: None
    world.start()
    world.join(4)
    assert world.stopped


def test_what_was_never_asked_is_new(world):
    world.tell(events.Joined(Node(7, "tcp://10.0.0.7:7700", "d"), world.standing, False))
    assert 7 in world.policy.state.nodes


def copies_in(process, capacity):
    """How many pieces of memory it has that are as large as a copy, and belong to no file."""
    nbytes = _core.store_nbytes(PROPERTIES["page_size"], capacity // PROPERTIES["page_size"], PROPERTIES["members"], 2)
    found = 0
    for line in Path(f"/proc/{process.popen.pid}/maps").read_text().splitlines():
        begin, end = (int(each, 16) for each in line.split()[0].split("-"))
        found += "/dev/zero" in line and end - begin == -(-nbytes // 4096) * 4096
    return found


class Region:
    """It is in use once, so that it can't be closed."""

    def __init__(self, error):
        self.error, self.closed = error, False

    def close(self):
        error, self.error = self.error, None
        if error is not None:
            raise error
        self.closed = True


@pytest.mark.parametrize("error", [errors.BusyError("in use"), BufferError("exported pointers exist")])
def test_a_copy_that_can_not_be_given_up_at_once(error, monkeypatch):
    """The node goes on to register, under its number until it has no copies."""
    monkeypatch.setattr(node_module, "_JOIN_SECONDS", 0)
    context = SimpleNamespace(register=lambda memory, rights: Region(None))
    server = SimpleNamespace(answer=lambda does: None, other_bytes=3 * 4096, memory=None, context=context)
    copies = Copies(server)
    before, regions = copies.id, [Region(None), Region(error), Region(None)]
    for extent, region in enumerate(regions):
        copies._copies[1, extent] = _Copy(mmap.mmap(-1, 4096), 1, 1, 1, region=region)
    told = []

    def call(request, seconds):
        told.append((copies.id, len(copies._copies), server.other_bytes))
        if copies.id == before:
            return wire.failure(errors.StaleDescriptorError("it was forgotten"))
        member._stopped.set()
        return wire.success()

    member = Member(SimpleNamespace(fabrics=[]), "tcp:127.0.0.1:1", copies, "tcp://127.0.0.1:2", "d", lambda: None)
    member._register(SimpleNamespace(call=call))
    assert told == [(before, 3, 3 * 4096), (before, 1, 4096), (copies.id, 0, 0)]
    assert copies.id != before and all(region.closed for region in regions) and member.is_registered


def test_a_copy_that_can_not_be_closed_has_no_other_descriptor():
    """The way to it of before is open still: the request is refused until that is closed, also when it comes again."""
    made = []
    context = SimpleNamespace(register=lambda memory, rights: made.append(memory) or SimpleNamespace(descriptor=b"new"))
    does = {}
    copies = Copies(SimpleNamespace(answer=does.update, context=context))
    made.clear()  # what tells the coordinator whether it reaches the node
    region = Region(errors.BusyError("in use"))
    copies._copies[1, 0] = _Copy(mmap.mmap(-1, 4096), 1, 1, 1, region=region)
    copies.witness.seen = Standing(1, 1, 0, 1)
    fields = wire.number(copies.id), copies.witness.seen.encode(), wire.number(1), wire.number(2), wire.number(5)

    def close():
        while True:
            with contextlib.suppress(wire.NotYetError):
                return does[wire.Request.COPY_CLOSE](1, wire.Reader(b"".join(fields)))

    with pytest.raises(errors.BusyError):
        close()
    assert not made and not region.closed
    assert close() == wire.success(b"new") and region.closed


def test_it_gives_up_its_copies(tmp_path):
    """That of a store which has gone on, and that of one which was removed meanwhile."""
    sizes = [9 << 20, 7 << 20]
    with together(tmp_path, 2) as where, where.client() as cluster:
        given = {**PROPERTIES, "replicas": 2}
        stays, goes = (cluster.store(f"s{n}", create=True, **{**given, "capacity": n}) for n in sizes)
        pid = stays.allocate()
        settled(stays, pid, 1)
        node = where.node_of(stays, 1)
        assert [copies_in(node, each) for each in sizes] == [1, 1]
        node.stop()
        eventually(lambda: all(each.health()["epoch"] > 1 and each.health()["open"] for each in (stays, goes)))
        goes.close()
        goes.unlink()
        settled(stays, pid, 2)
        forget_node(cluster._names, node.address)
        assert [each.address for each in where.infos()] == [each.address for each in where.nodes if each is not node]
        node.go_on()
        eventually(lambda: len(where.up()) == 2 and not stays.health()["missing"])
        assert [copies_in(node, each) for each in sizes] == [1, 0]
        settled(stays, pid, 3)
        next(each for each in where.nodes if each is not node).kill()
        assert number_of(stays.read(pid)) == 3
        stays.close()
