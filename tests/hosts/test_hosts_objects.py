"""Objects in memory of another host, where the other half of each test runs."""

import contextlib

import pytest
from accounts import SECONDS
from names_server import address, running
from network import ALIVE_TIMEOUT, PEER_TIMEOUT, PORT, programs
from other import SECRET, There
from scenes import count
from short_timeouts import in_vain

import dsmem
from dsmem.clock import Lamport
from dsmem.names.server import NameServer


@pytest.fixture
def shared(there, owner, peer):
    """shared(kind, …) makes an object there: it as the other host has it, and ours."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(there.run("scenes:cluster", owner))

        def make(kind, *args, **kwargs):
            made = stack.enter_context(there.run("scenes:make", cluster, kind, *args, **kwargs))
            return made, stack.enter_context(contextlib.closing(dsmem.attach(made.ref, peer)))

        yield make


def test_a_queue(there, shared):
    queue, ours = shared("queue")
    sent = [b"%d" % number for number in range(200)]
    there.begin("scenes:take", queue, 2 * len(sent))
    for message in sent:
        ours.put(message, timeout=SECONDS)
    assert ours.put_many(sent, timeout=SECONDS) == len(sent)
    assert there.answer() == 2 * sent


def test_a_lock(there, shared):
    lock, our_lock = shared("lock")
    segment, our_segment = shared("segment", 1, "u8")
    there.begin("scenes:count", lock, segment, 20)
    count(our_lock, our_segment, 20)
    there.answer()
    assert our_segment.read(0) == 40


def test_a_barrier_and_an_event(there, shared):
    barrier, ours = shared("barrier", 2)
    event, our_event = shared("event")
    assert not in_vain(our_event.wait, timeout=0)
    there.begin("scenes:meet", barrier, event)
    ours.wait(SECONDS)
    assert our_event.wait(timeout=SECONDS)
    there.answer()


def test_a_segment_with_versions(shared):
    segment, ours = shared("segment", (100, 10), "u8", versioned=True)
    with ours.writing(timeout=SECONDS) as array:
        array[...] = 7
    version, whole = segment.snapshot()
    assert (whole == 7).all()
    assert ours.snapshot(timeout=SECONDS)[0] == version


def test_a_semaphore(shared):
    semaphore, ours = shared("semaphore", 2)
    assert ours.acquire(timeout=SECONDS) and semaphore.acquire(timeout=SECONDS)
    assert not in_vain(ours.acquire, timeout=0)
    semaphore.release()
    assert ours.acquire(timeout=SECONDS)
    ours.release()
    ours.release()


def test_a_queue_whose_consumer_is_here(there, shared):
    queue, ours = shared("queue")
    sent = [b"%d" % number for number in range(100)]
    there.begin("scenes:put", queue, sent)
    assert [ours.get(timeout=SECONDS) for _ in sent] == sent
    there.answer()


def test_a_condition(there, shared):
    condition, ours = shared("condition")
    segment, our_segment = shared("segment", 1, "u8")
    there.begin("scenes:waits_for", condition, segment, 7)
    with ours:
        our_segment.write(0, 7)
        ours.notify_all()
        assert ours.wait_for(lambda: our_segment.read(0) == 8, timeout=SECONDS)
    there.answer()


def test_a_lock_for_reading_and_writing(shared):
    lock, ours = shared("rwlock")
    assert lock.acquire_read(timeout=SECONDS) and ours.acquire_read(timeout=SECONDS)
    ours.release_read()
    assert not in_vain(ours.acquire_write, timeout=0)
    lock.release_read()
    assert ours.acquire_write(timeout=SECONDS) and not lock.acquire_read(timeout=0)
    ours.release_write()
    assert lock.acquire_read(timeout=SECONDS)
    lock.release_read()


def test_once(shared):
    once, ours = shared("once")
    assert ours.begin(SECONDS)
    ours.end()
    assert not once.begin(SECONDS)


def test_a_clock(there, shared):
    clock, ours = shared("clock")
    here = Lamport(ours)
    assert (here.send(), there.run("scenes:sends", clock), here.send()) == (1, 2, 3)
    assert here.receive(9) == 10 and there.run("scenes:sends", clock) == 11


@contextlib.contextmanager
def names(network, fabric, name):
    """A server of names here: a cluster as a process of this host has it, and its address."""
    options = {"listen": network.ours, "secret": SECRET, "peer_timeout": 2 * PEER_TIMEOUT}
    with dsmem.Context(fabric, **options) as at, running(NameServer(at, grace=0)) as server:
        where = address(server, name)
        if fabric == "tcp":
            with dsmem.connect(name) as cluster:
                yield cluster, where
        else:  # on verbs they may be in memory of the server alone
            with dsmem.Context(fabric, **options) as own, dsmem.connect(where, context=own) as cluster:
                yield cluster, where


@pytest.mark.parametrize("how", ["killed", "cut", "deafen"])
def test_a_lock_goes_on_whose_holder_at_the_other_host_is_gone(network, program, between, cluster_name, how):
    if (between, how) == ("verbs", "cut"):
        pytest.skip("the server's own users reach it by the device whose link is down")
    with (
        names(network, between, cluster_name) as (cluster, where),
        contextlib.closing(cluster.lock("lock", create=True)) as lock,
        programs(network, PORT + 2) as holder,
        There(holder.address) as there,
    ):
        client = there.run("scenes:context", between, network.theirs, SECRET, peer_timeout=ALIVE_TIMEOUT)
        there.run("scenes:held", client, where)
        assert not in_vain(lock.acquire, timeout=0)
        try:
            holder.kill() if how == "killed" else getattr(network, how)()
            assert lock.acquire(timeout=SECONDS) and lock.recovered
            lock.release()
        finally:
            network.heal()
