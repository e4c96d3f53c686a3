"""tcp through a network that goes wrong: connections end, are reset, stall, trickle, are late, one way and both.

Each op has an outcome, it is true, and when the network is well again everything goes on.
"""

import contextlib
import signal
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from accounts import SECONDS, Locker, Putter, Taker, at_last, at_work, check, limit, memory, users_of
from tcp_relay import Relay

import dsmem
from dsmem import clock
from dsmem.names.server import NameServer

SECRET = b"0bec7" * 12 + b"0b1e"
SHORT = 0.05  # for an op that may get no answer


def context(**options):
    return dsmem.Context("tcp", secret=SECRET, **{"listen": "127.0.0.1", **options})


def using():
    """A context whose ops on objects, which have no timeout, are given up early when no answer comes."""
    return context(peer_timeout=0.2)


@contextlib.contextmanager
def using_object(make):
    """What make() returns, which may fail early, as may its end."""
    it = at_last(make)
    try:
        yield it
    finally:
        at_last(it.close)


def attached(of, user):
    """The object in the user's context."""
    return using_object(lambda: dsmem.attach(of.ref, user))


class Fault(NamedTuple):
    begin: Callable[[Relay], None]
    ends: bool = True  # ops under way, as far as they fail
    passes: bool = False  # ops do not fail


def half_open(side):
    """That side sees the end of its connections, the other side sees nothing of it. New connections are good."""

    def begin(relay):
        relay.hold("up", "down", new=False)
        relay.break_all(side)

    return begin


def slow(relay):
    relay.piece, relay.delay = 1, 0.002


def late(relay):
    relay.delay = 0.02


FAULTS = {
    "ended": Fault(Relay.break_all),
    "reset": Fault(Relay.reset_all),
    "stalled": Fault(lambda relay: relay.hold("up", "down"), ends=False),
    "nothing arrives at the owner": Fault(lambda relay: relay.hold("up"), ends=False),
    "nothing arrives at the user": Fault(lambda relay: relay.hold("down"), ends=False),
    "old connections stalled": Fault(lambda relay: relay.hold("up", "down", new=False), ends=False),
    "half open at the owner": Fault(half_open("peer")),
    "half open at the user": Fault(half_open("owner"), ends=False),
    "byte by byte": Fault(slow, ends=False),
    "20 ms late": Fault(late, passes=True),
}


SOME = ("ended", "reset", "stalled", "half open at the user")


@pytest.fixture(params=FAULTS.values(), ids=FAULTS)
def fault(request):
    return request.param


@contextlib.contextmanager
def relayed():
    """A relay, the owner behind it, and a user."""
    with Relay() as relay, context(listen=relay.listen, advertise=relay.advertise) as owner, using() as user:
        yield relay, owner, user


def suffer(fault, relay, users):
    """They meet the fault, and get over it."""
    if not fault.ends:
        limit(users, SHORT)
    fault.begin(relay)
    for user in users:
        user.see("good" if fault.passes else "rounds")
    relay.heal()
    for user in users:
        user.timeout = SECONDS
    for user in users:
        user.see("good")


def test_each_op_has_an_outcome_that_is_true(fault):
    words = memory()
    with relayed() as (relay, owner, user), owner.register(words, access="rwa") as region:
        with user.attach(region.descriptor, timeout=SECONDS) as remote:
            users = users_of(remote)
            with at_work(users):
                suffer(fault, relay, users)
            check(users, words.view("u8").tolist())


def test_messages_arrive_once_and_in_order(fault):
    with relayed() as (relay, owner, user), dsmem.connect(context=owner) as cluster:
        with cluster.queue("q", create=True) as queue, attached(queue, user) as remote:
            taker, putter = Taker(queue), Putter(remote)
            with at_work([taker, putter]):
                suffer(fault, relay, [putter])
            at_last(remote.flush)
            while taker.once():
                pass
            assert taker.taken == list(range(1, putter.put + 1))


def test_a_lock_excludes_and_goes_on(fault):
    with relayed() as (relay, owner, user), using() as second, dsmem.connect(context=owner) as cluster:
        with contextlib.ExitStack() as stack:
            lock = stack.enter_context(contextlib.closing(cluster.lock("l", create=True)))
            segment = stack.enter_context(cluster.segment("s", 1, "u8", create=True))
            users = [
                Locker(stack.enter_context(attached(lock, each)), stack.enter_context(attached(segment, each)))
                for each in (user, second)
            ]
            with at_work(users):
                suffer(fault, relay, users)
            assert segment.read(0) == sum(each.count for each in users)


@contextlib.contextmanager
def serving(relay):
    """A server of names behind the relay; its cluster's address, without the cluster."""
    with context(listen=relay.listen, advertise=relay.advertise) as at:
        server, ready = NameServer(at), threading.Event()
        thread = threading.Thread(target=server.run, args=[ready.set])
        thread.start()
        try:
            assert ready.wait(SECONDS)
            yield f"tcp://{relay.advertise}/"
        finally:
            server.stop()
            thread.join()


@pytest.mark.parametrize("fault", [FAULTS[name] for name in SOME], ids=SOME)
def test_what_was_found_by_name_goes_on(fault, here, cluster_name):
    with Relay() as relay, serving(relay) as address, using() as user:
        cluster = at_last(lambda: dsmem.connect(address + cluster_name, context=user))
        with (
            cluster,
            using_object(lambda: cluster.queue("q", create=None)) as remote,
            here.queue("q") as queue,
        ):
            taker, putter = Taker(queue), Putter(remote)
            with at_work([taker, putter]):
                suffer(fault, relay, [putter])
            at_last(remote.flush)
            while taker.once():
                pass
            assert taker.taken == list(range(1, putter.put + 1))
            with using_object(lambda: cluster.segment("new", 1, "u8", create=None)) as segment:
                at_last(lambda: segment.write(0, 5))
            with here.segment("new") as segment:
                assert segment.read(0) == 5


class Enough(Exception):
    pass


def test_a_signal_is_handled_while_bytes_arrive():
    """A wait that they end again and again asks for it, also where another thread has got the signal."""
    ended, out, sleeps = threading.Event(), bytearray(1 << 20), []

    def enough(*_):
        raise Enough

    def interrupt(user):
        while not out[0] and not ended.wait(0.001):
            pass
        sleeps.append(user.stats["wakeups"])
        signal.raise_signal(signal.SIGUSR1)

    with Relay() as relay, context(listen=relay.listen, advertise=relay.advertise) as owner:
        ones = np.ones(len(out), "u1")
        with (
            context(peer_timeout=3600) as user,
            owner.register(ones) as region,
            user.attach(region.descriptor) as remote,
        ):
            remote.read(0, bytearray(8))
            relay.piece, relay.delay = 64, 0.001  # all of it would take 16 s
            old, thread = signal.signal(signal.SIGUSR1, enough), threading.Thread(target=interrupt, args=[user])
            try:
                with pytest.raises(Enough):
                    thread.start()
                    remote.read(0, out)
            finally:
                ended.set()
                thread.join()
                signal.signal(signal.SIGUSR1, old)
            assert not out[-1] and user.stats["wakeups"] - sleeps[0] < 200  # each of 1 ms; it is asked for every 50 ms


UPS, DOWNS = [("up", n) for n in range(28, 700, 28)], [("down", n) for n in range(0, 300, 28)]


@contextlib.contextmanager
def cut(relay, way, nbytes, cuts):
    """A stream of requests ends once, after so many bytes. If it ends, cuts are told."""
    before = relay.cuts
    relay.cut_after(way, nbytes)
    yield
    relay.cut_after(way, 1 << 40)
    cuts.append(relay.cuts - before)


@pytest.mark.parametrize("what, consumers", [("consume", "one"), ("produce", "one"), ("get", "one"), ("get", "many")])
def test_a_queue_goes_on_where_a_connection_ends_once(what, consumers):
    """A role is taken or a tail moved by a compare-swap: if it was not executed, it is tried again."""
    cuts, shape = [], {"consumers": consumers, "producers": 2, "capacity_bytes": 4096}
    with Relay() as relay:
        with context(listen=relay.listen, advertise=relay.advertise) as host, dsmem.connect(context=host) as cluster:
            for way, nbytes in UPS + DOWNS:
                with cluster.queue(f"{way}{nbytes}", create=True, **shape) as here, context() as user:
                    here.put(b"x")
                    with dsmem.attach(here.ref, user) as there, cut(relay, way, nbytes, cuts):
                        if what == "get":
                            assert there.get_many(9, timeout=SECONDS) == [b"x"]
                        else:
                            getattr(there, what)()
    assert sum(cuts) > 3


def test_a_clock_goes_on_where_a_connection_ends_once():
    cuts, stamps = [], []
    with Relay() as relay:
        with context(listen=relay.listen, advertise=relay.advertise) as host, dsmem.connect(context=host) as cluster:
            with cluster.clock("c", create=True) as here, context() as user, attached(here, user) as there:
                lamport = clock.Lamport(there)
                for way, nbytes in UPS + DOWNS:
                    with cut(relay, way, nbytes, cuts):
                        stamps.append(lamport.send())
    assert sum(cuts) > 3 and stamps == sorted(set(stamps))


STORE = {
    "write": lambda store, pid, _: store.write(pid, b"b" * 512),
    "compare_write": lambda store, pid, version: store.compare_write(pid, version, b"b" * 512),
    "write_many": lambda store, pid, _: store.write_many([pid], b"b" * 512),
    "free": lambda store, pid, _: store.free(pid),
    "allocate": lambda store, *_: store.free(store.allocate()),
    "allocate_many": lambda store, *_: [store.free(pid) for pid in store.allocate_many(10)],
    "read": lambda store, pid, _: store.read(pid),
}


@pytest.mark.parametrize("what", STORE)
def test_a_store_goes_on_where_a_connection_ends_once(what):
    """What was not executed is tried again, and no page is allocated, written or freed twice."""
    cuts = []
    with Relay() as relay:
        with context(listen=relay.listen, advertise=relay.advertise) as host, dsmem.connect(context=host) as cluster:
            with cluster.store("s", page_size=512, capacity=512 * 100, create=True) as here:
                for way, nbytes in UPS + DOWNS:
                    with context() as user, attached(here, user) as there:
                        pid = there.allocate()
                        version = there.write(pid, b"a" * 512)
                        with cut(relay, way, nbytes, cuts):
                            STORE[what](there, pid, version)
                        if "write" in what:
                            assert here.read(pid) == b"b" * 512 and here.version(pid) == version + 1
                        if what != "free":
                            there.free(pid)
                assert len(here.allocate_many(100)) == 100
    assert sum(cuts) > 3
