"""Calls that take many ops enter the fabric once for each peer, however many ops there are."""

import contextlib
import time

import numpy as np
import pytest

import dsmem

SECRET = b"c055" * 16  # a key: nothing to stretch
NBYTES = 1 << 16


def open_context():
    # fault hides that the memory is local, so that ops are posted and counted as those of a remote fabric are
    return dsmem.Context("fault+shm", secret=SECRET)


@pytest.fixture
def peer():
    with open_context() as context:
        yield context


@pytest.fixture
def remotes(peer):
    """Memory of three owners."""
    with contextlib.ExitStack() as stack:
        owners = [stack.enter_context(open_context()) for _ in range(3)]
        regions = [stack.enter_context(o.allocate(NBYTES)) for o in owners]
        yield [stack.enter_context(peer.attach(r.descriptor)) for r in regions]


@contextlib.contextmanager
def entered(context, *, ops, times):
    before = context.stats
    yield
    after = context.stats
    assert after["posts"] - before["posts"] == ops
    assert after["doorbells"] - before["doorbells"] == times


def fewest(context, call, *, ops, times):
    """What the call costs when this process has not just been kept from running.

    A producer that has not put for 10 ms asks once whether the queue is shut down and the lane still its own, with
    three ops in one posting, or more where a READ may mix a word.
    """
    quickest = 1.0
    for _ in range(200):
        before, start = context.stats, time.monotonic()
        call()
        quickest = min(quickest, time.monotonic() - start)
        after = context.stats
        spent = after["posts"] - before["posts"], after["doorbells"] - before["doorbells"]
        if spent == (ops, times) or (spent[0] in (ops + 3, ops + 4) and spent[1] == times + 1 and quickest > 0.005):
            return
        assert spent[0] > ops and spent[1] >= times
    raise AssertionError(f"never {ops} ops")


@pytest.mark.parametrize("n", [1, 64, 65, 1000])
def test_many_enter_once(peer, remotes, n):
    offsets, data = np.arange(n, dtype=np.uint64) * 8, np.arange(n, dtype=np.uint64)
    with entered(peer, ops=n, times=1):
        remotes[0].write_many(offsets, data)
    out = np.zeros_like(data)
    with entered(peer, ops=n, times=1):
        remotes[0].read_many(offsets, out)
    assert np.array_equal(out, data)


@pytest.mark.parametrize("n", [1, 64, 65, 1000])
def test_a_batch_enters_once_for_each_peer(peer, remotes, n):
    word = np.ones(1, np.uint64)
    for peers in (1, 3):
        with entered(peer, ops=4 * n * peers, times=peers):
            with peer.batch() as batch:
                for i in range(n):
                    for remote in remotes[:peers]:  # in turns, so that runs of one peer are not what is counted
                        batch.write(remote, 8 + i * 8, word)
                        batch.read(remote, 8 + i * 8, word)
                        batch.fetch_add(remote, 0, 1)
                        batch.compare_swap(remote, 0, 0, 0)


def test_single_ops_enter_once_each(peer, remotes):
    word = np.zeros(1, np.uint64)
    with entered(peer, ops=4, times=4):
        remotes[0].read(0, word)
        remotes[0].write(0, word)
        remotes[0].fetch_add(0, 1)
        remotes[0].compare_swap(0, 0, 0)


# ---- queues remotely ----


@pytest.fixture
def lane(remote_place):
    """make(**shape) -> a queue's consumer, its producer, and the context that the producer posts in."""
    with (
        dsmem.Context(remote_place, secret=SECRET) as owner,
        dsmem.Context(remote_place, secret=SECRET) as user,
        dsmem.connect(context=owner) as cluster,
        contextlib.ExitStack() as stack,
    ):

        def make(**shape):
            consumer = stack.enter_context(cluster.queue("q", create=True, **shape))
            producer = stack.enter_context(dsmem.attach(consumer.ref, user))
            producer.produce()
            return consumer, producer, user

        yield make


def test_a_put_is_one_write(lane):
    consumer, producer, user = lane()
    for message in (b"", b"one", bytes(1000), bytes(100_000)):

        def put(message=message):
            producer.put(message)
            assert consumer.get() == message

        fewest(user, put, ops=1, times=1)

    def reserve():
        room = producer.reserve(5)
        room[:] = b"there"
        room.release()
        producer.commit()
        assert consumer.get() == b"there"

    fewest(user, reserve, ops=1, times=1)


@pytest.mark.parametrize("items", [[b"%d" % i for i in range(300)], np.arange(3000, dtype="u8").reshape(-1, 3)])
def test_many_puts_are_one_write(lane, items):
    consumer, producer, user = lane()

    def put():
        assert producer.put_many(items) == len(items)
        assert consumer.get_many() == [bytes(item) for item in items]

    fewest(user, put, ops=1, times=1)


def look(user, most):
    """Ops of a producer's look. Where a READ may mix a word, the position is read as often as its bytes differ."""
    return 2 + (most if "verbs" in user.capabilities.fabric else 1)


def test_around_the_rings_end_it_is_two(lane):
    consumer, producer, user = lane(capacity_bytes=4096, max_message=1000)
    messages = [bytes([i]) * 1000 for i in range(6)]  # of which a ring of four holds three
    producer.put_many(messages[:3])
    assert consumer.get_many(3) == messages[:3]
    # the consumer's position, whether it goes on, whose lane; two pieces together
    with entered(user, ops=look(user, most=2) + 2, times=1 + 1):
        producer.put_many(messages[3:])
    assert consumer.get_many(3) == messages[3:]


def test_a_producer_asks_once_a_lap_how_far_the_consumer_is(lane):
    consumer, producer, user = lane(capacity_bytes=1 << 14)
    laps, lap = 4, (1 << 14) // 256
    before, start = user.stats["posts"], time.monotonic()
    for i in range(laps * lap):
        producer.put(i.to_bytes(240, "little"))
        assert consumer.get() == i.to_bytes(240, "little")
    pauses = (time.monotonic() - start) / 0.01
    assert user.stats["posts"] - before <= laps * lap + look(user, most=3) * (laps + 1 + pauses)
