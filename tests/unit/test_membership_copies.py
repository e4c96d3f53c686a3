"""The copies of a memory node, whose memory takes as long to register, and to give back, as a test says."""

import contextlib
import threading
from types import SimpleNamespace

import pytest
from epochs import eventually

from dsmem import _core, errors
from dsmem.membership import messages
from dsmem.membership.copies import Copies
from dsmem.membership.standing import Standing
from dsmem.names import wire
from dsmem.names.wire import Request

SHAPE = (256, 10, 2, 1, 1)
NBYTES = _core.store_nbytes(*SHAPE)


class Region:
    def __init__(self, number, memory):
        self.descriptor, self.memory, self.closed = b"%d" % number, memory, False
        self.may_close = threading.Event()
        self.may_close.set()

    def close(self):
        self.may_close.wait()
        self.closed = True


class Desk:
    """Asks for what a coordinator does."""

    def __init__(self):
        self.does = {}
        self.regions = []
        self.errors = []
        self.may_register = threading.Event()
        self.may_register.set()
        self.room, self.most = [], None
        self.server = SimpleNamespace(
            answer=self.does.update, other_bytes=0, memory=None, check_room=self.check_room, context=self
        )
        self.copies = Copies(self.server)
        self.regions.clear()  # of the one that a coordinator reads

    def check_room(self, nbytes):
        self.room.append(nbytes)
        if self.most is not None and self.server.other_bytes + nbytes > self.most:
            raise errors.OutOfMemoryError("no room")

    def register(self, memory, access):
        assert access == "rwa"
        gate, made = self.may_register, Region(len(self.regions) + 1, memory)
        self.regions.append(made)
        gate.wait()
        if self.errors:
            raise self.errors.pop()
        return made

    def ask(self, kind, *fields):
        standing = Standing(1, 1, 0, 1)
        raw = b"".join((wire.number(self.copies.id), standing.encode(), *fields))
        return wire.answered(self.does[kind](1, wire.Reader(raw))).rest()

    def make(self, number, store=1, making=1):
        fields = *map(wire.number, (store, 1, number, making)), wire.number(0, 4), messages.shape(*SHAPE)
        return self.ask(Request.COPY_MAKE, *fields)

    def close(self, epoch, number, store=1):
        return self.ask(Request.COPY_CLOSE, *map(wire.number, (store, epoch, number)))

    def drop(self, store=1, making=1):
        return self.ask(Request.COPY_DROP, *map(wire.number, (store, making)))

    def open(self):
        for region in self.regions:
            region.may_close.set()
        self.may_register.set()


@pytest.fixture
def desk():
    desk = Desk()
    yield desk
    desk.open()
    desk.copies.close()
    assert all(region.closed for region in desk.regions) and desk.copies.held() == (0, 0)


def done(call, *arguments, **options):
    """As a coordinator does, which asks again."""
    while True:
        with contextlib.suppress(wire.NotYetError):
            return call(*arguments, **options)


def test_a_request_that_comes_again_has_the_same_answer(desk):
    assert done(desk.make, 5) == b"1" == done(desk.make, 5)
    assert done(desk.close, 2, 6) == b"2" == done(desk.close, 2, 6)
    assert [region.closed for region in desk.regions] == [True, False]
    assert desk.copies.held() == (1, NBYTES) and desk.room == [NBYTES]


def test_others_are_answered_while_a_copy_is_made(desk):
    done(desk.make, 5, store=1)
    desk.may_register.clear()
    for _ in range(3):
        with pytest.raises(wire.NotYetError):
            desk.make(6, store=2)
    assert wire.Reader(desk.ask(Request.NODE)).number() == desk.copies.id
    eventually(lambda: len(desk.regions) == 2)
    slow, desk.may_register = desk.may_register, threading.Event()
    desk.may_register.set()
    assert done(desk.close, 2, 7, store=1), "a store whose copy is ready waits for no other"
    with pytest.raises(wire.NotYetError):
        desk.make(6, store=2)
    slow.set()
    assert done(desk.make, 6, store=2) and len(desk.regions) == 3


def test_no_descriptor_before_the_one_of_before_is_closed(desk):
    done(desk.make, 5)
    before = desk.regions[0]
    before.may_close.clear()
    for _ in range(3):
        with pytest.raises(wire.NotYetError):
            desk.close(2, 6)
    before.may_close.set()
    assert done(desk.close, 2, 6) == b"2" and before.closed


def test_memory_is_not_registered_again_if_its_descriptor_was_not_told(desk):
    """Changes that follow each other faster than memory is registered come to an end."""
    done(desk.make, 5)
    desk.may_register.clear()
    for epoch in range(2, 6):
        with pytest.raises(wire.NotYetError):
            desk.close(epoch, 10 + epoch)
    with pytest.raises(errors.ConflictError):
        desk.close(3, 13)
    desk.may_register.set()
    assert done(desk.close, 5, 15) == b"2"
    assert done(desk.close, 6, 16) == b"3" and desk.regions[1].closed
    assert len(desk.regions) == 3


@pytest.mark.parametrize("ready", [True, False])
def test_a_copy_is_dropped_when_what_is_done_with_it_has_ended(desk, ready):
    if ready:
        done(desk.make, 5)
        desk.regions[0].may_close.clear()
    else:
        desk.may_register.clear()
        with pytest.raises(wire.NotYetError):
            desk.make(5)
    for _ in range(3):
        with pytest.raises(wire.NotYetError):
            desk.drop()
    with pytest.raises(errors.StaleDescriptorError):
        desk.close(2, 6)
    with pytest.raises(errors.ConflictError):
        desk.make(5)
    assert desk.copies.held() == (1, NBYTES), "its bytes count until they are given back"
    desk.open()
    done(desk.drop)
    assert desk.copies.held() == (0, 0) and desk.regions[0].closed and desk.regions[0].memory.closed
    assert done(desk.make, 6, making=2)


def test_a_copy_is_made_again_when_the_one_of_before_was_given_back(desk):
    done(desk.make, 5)
    desk.regions[0].may_close.clear()
    for _ in range(3):
        with pytest.raises(wire.NotYetError):
            desk.make(6, making=2)
    desk.open()
    assert done(desk.make, 6, making=2) == b"2" and desk.regions[0].closed
    with pytest.raises(errors.ConflictError):
        desk.make(5)
    assert desk.copies.held() == (1, NBYTES)


def test_what_has_failed_is_said_once_and_tried_again(desk):
    desk.errors.append(errors.OutOfMemoryError("full"))
    with pytest.raises(errors.OutOfMemoryError):
        done(desk.make, 5)
    desk.regions.clear()
    assert done(desk.make, 5) == b"1"
    desk.errors.append(errors.OutOfMemoryError("full"))
    with pytest.raises(errors.OutOfMemoryError):
        done(desk.close, 2, 6)
    assert desk.regions.pop(0).closed
    desk.regions.clear()
    assert done(desk.close, 3, 7) == b"1"


@pytest.mark.parametrize("call", ["begin_again", "close"])
def test_all_are_given_back_though_threads_work_on_some(desk, call):
    done(desk.make, 5, store=1)
    desk.regions[0].may_close.clear()
    desk.may_register.clear()
    with pytest.raises(wire.NotYetError):
        desk.make(6, store=2)
    before = desk.copies.id
    ended = threading.Thread(target=getattr(desk.copies, call))
    ended.start()
    assert desk.copies.id == before
    desk.regions[0].may_close.set()
    desk.may_register.set()
    ended.join()
    assert desk.copies.held() == (0, 0) and all(region.closed for region in desk.regions)
    assert (desk.copies.id != before) == (call == "begin_again")


def test_a_request_that_comes_late_drops_no_later_copy(desk):
    done(desk.make, 5, making=2)
    done(desk.drop, making=1)
    assert desk.copies.held() == (1, NBYTES) and not desk.regions[0].closed
    done(desk.drop, making=3)
    done(desk.drop, making=1)
    with pytest.raises(errors.ConflictError):
        desk.make(6, making=3)
    assert done(desk.make, 7, making=4)


@pytest.mark.parametrize("replaces", [False, True])
def test_room_of_what_is_given_back_is_waited_for(desk, replaces):
    """The coordinator counts a copy no more once it has said that it is to be dropped."""
    desk.most = NBYTES
    done(desk.make, 5, store=1)
    with pytest.raises(errors.OutOfMemoryError):
        desk.make(6, store=2)
    desk.regions[0].may_close.clear()
    with pytest.raises(wire.NotYetError):
        desk.make(6, store=1, making=2) if replaces else desk.drop(store=1)
    for _ in range(3):
        with pytest.raises(wire.NotYetError):
            desk.make(6, store=2)
    desk.regions[0].may_close.set()
    assert done(desk.make, 6, store=2)
