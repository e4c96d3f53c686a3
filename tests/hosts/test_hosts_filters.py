"""Packets of the link between two hosts are filtered: dropped one way and both, answered with a reset, some are lost.

Each op has an outcome, it is true, and when the link is well again everything goes on.
"""

import contextlib
from typing import NamedTuple

import pytest
from accounts import SECONDS, Locker, Putter, at_last, at_work, check, limit, users_of
from network import until
from other import SECRET

import dsmem

SHORT = 0.2  # for an op that may get no answer


class Fault(NamedTuple):
    ours: str  # what becomes of what we send
    theirs: str
    passes: bool = False  # ops do not fail


DROP, SOME = "counter drop", "numgen random mod 100 < 5 counter drop"
RESET = "meta l4proto tcp counter reject with tcp reset"
FAULTS = {
    "nothing of ours arrives": Fault(DROP, ""),
    "nothing of theirs arrives": Fault("", DROP),
    "nothing arrives": Fault(DROP, DROP),
    "what we send is answered with a reset": Fault(RESET, ""),
    "what they send is answered with a reset": Fault("", RESET),
    "all is answered with a reset": Fault(RESET, RESET),
    "our streams are reset, theirs hear nothing": Fault(RESET, DROP),
    "one in twenty is lost": Fault(SOME, SOME, passes=True),
}


@pytest.fixture(params=FAULTS.values(), ids=FAULTS)
def fault(request):
    return request.param


@pytest.fixture
def suffer(network, filtering, fault):
    """suffer(users): they meet the fault, and get over it."""

    def suffer_(users):
        if not fault.passes:
            limit(users, SHORT)
        filtering(fault.ours, fault.theirs)
        try:
            for user in users:
                user.see("good" if fault.passes else "rounds")
            until(network.packets.hits)
        finally:
            filtering()
        for user in users:
            user.timeout = SECONDS
        for user in users:
            user.see("good")

    return suffer_


@contextlib.contextmanager
def using(network):
    """A context whose ops on objects, which have no timeout, are given up early when no answer comes."""
    with dsmem.Context("tcp", listen=network.ours, secret=SECRET, peer_timeout=0.5) as context:
        yield context


@contextlib.contextmanager
def attached(of, user):
    """An object in the user's context; its end may fail early, too."""
    it = dsmem.attach(of.ref, user)
    try:
        yield it
    finally:
        at_last(it.close)


@pytest.fixture
def cluster(there, owner):
    with there.run("scenes:cluster", owner) as cluster:
        yield cluster


def test_each_op_has_an_outcome_that_is_true(network, there, owner, suffer):
    with there.run("scenes:accounts", owner) as region, using(network) as user:
        with user.attach(region.descriptor, timeout=SECONDS) as remote:
            users = users_of(remote)
            with at_work(users):
                suffer(users)
            check(users, there.run("scenes:words", region))


def test_messages_arrive_once_and_in_order(network, there, cluster, suffer):
    with there.run("scenes:make", cluster, "queue", capacity_bytes=1 << 22) as queue, using(network) as user:
        with attached(queue, user) as remote:
            putter = Putter(remote)
            with at_work([putter]):
                suffer([putter])
            at_last(remote.flush)
            taken = there.run("scenes:take", queue, putter.put)
            assert taken == [b"%d" % number for number in range(1, putter.put + 1)]
            assert queue.empty()


def test_a_lock_excludes_and_goes_on(network, there, cluster, suffer):
    with contextlib.ExitStack() as stack:
        lock, segment = (
            stack.enter_context(there.run("scenes:make", cluster, *what)) for what in (["lock"], ["segment", 1, "u8"])
        )
        users = []
        for _ in range(2):
            user = stack.enter_context(using(network))
            users.append(
                Locker(stack.enter_context(attached(lock, user)), stack.enter_context(attached(segment, user)))
            )
        with at_work(users):
            suffer(users)
        assert segment.read(0) == sum(each.count for each in users)
