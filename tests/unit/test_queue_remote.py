"""Queues whose messages are taken in another process's memory: through a context."""

import asyncio
import collections
import contextlib
import itertools
import signal
import threading

import numpy as np
import pytest
from attaching import attached
from paging import StruckError

import dsmem
from dsmem import clock, errors
from dsmem.queue import Pickled, Stamped

SECRET = b"9e0e" * 16  # a key: nothing to stretch
SECONDS = 60
LANE = 4096


@pytest.fixture
def owner(remote_place):
    with dsmem.Context(remote_place, secret=SECRET) as context, dsmem.connect(context=context) as cluster:
        yield cluster


@pytest.fixture
def far(remote_place):
    with dsmem.Context(remote_place, secret=SECRET) as context:
        yield context


def skip_many(context):
    if any(each.atomic_domain == "nic" for each in context.fabrics):
        pytest.skip("the device's atomics do not exclude those of the processor")


@pytest.fixture(params=["one", "many"])
def consumers(request, far):
    if request.param == "many":
        skip_many(far)
    return request.param


@contextlib.contextmanager
def two(owner, far, **shape):
    """The owner's handle, and one in memory that it can't map."""
    with owner.queue("q", create=True, **{"capacity_bytes": LANE, "max_message": 1500, **shape}) as here:
        with attached(here.ref, far) as there:
            yield here, there


def test_messages_come_out_in_order_and_once(owner, far, consumers):
    """Of every length that fits, around the ring's end, some of them longer than what is read at first."""
    sent = [bytes([n % 251]) * (n * 37 % 1501) for n in range(300)]
    with two(owner, far, consumers=consumers) as (here, there):
        got = []
        for data in sent:
            while not here.put_many([data], block=False):
                got.append(there.get(timeout=SECONDS))
        with contextlib.suppress(errors.EmptyError):
            while True:
                got.append(there.get_nowait())
        assert got == sent
        there.close()
        assert here.counts["gets"] == len(sent)


def test_a_message_as_long_as_the_lane_allows(owner, far, consumers):
    longest = 1 << 19
    with two(owner, far, consumers=consumers, capacity_bytes=1 << 20, max_message=longest - 16) as (here, there):
        for n in (longest - 16, 70000, 0, longest - 16, longest - 17, 1):
            here.put(bytes([n % 256]) * n)
            assert there.get(timeout=SECONDS) == bytes([n % 256]) * n


@pytest.mark.parametrize("lanes", [1, 2, 40])
def test_each_producers_messages_are_in_order(owner, far, consumers, lanes):
    """Also of more producers than one posting looks at."""
    with two(owner, far, consumers=consumers, producers=lanes) as (here, there), contextlib.ExitStack() as stack:
        more = [stack.enter_context(attached(here.ref, far)) for _ in range(lanes - 1)]
        got = collections.defaultdict(list)
        for turn in range(3):
            for number, producer in enumerate([here, *more]):
                producer.put_many([b"%d %d" % (number, 3 * turn + n) for n in range(3)])
            for _ in range(3 * lanes):
                producer, number = there.get(timeout=SECONDS).split()
                got[int(producer)].append(int(number))
        assert got == {number: list(range(9)) for number in range(lanes)}
        with pytest.raises(errors.EmptyError):
            there.get_nowait()


def test_lanes_come_one_by_one(owner, far, consumers):
    """Whichever lane has its turn then."""
    with two(owner, far, consumers=consumers, producers=12) as (here, there), contextlib.ExitStack() as stack:
        there.consume()
        producers, sent, got = [], collections.defaultdict(list), collections.defaultdict(list)
        for turn in range(6):
            producers.append(stack.enter_context(attached(here.ref, far)))
            for number, producer in list(enumerate(producers))[:: 1 if turn % 2 else -1]:
                data = b"%d %d" % (number, turn)
                producer.put(data)
                sent[number].append(data)
            for _ in range(turn // 2 + 1):
                data = there.get(timeout=SECONDS)
                got[int(data.split()[0])].append(data)
        with contextlib.suppress(errors.EmptyError):
            while True:
                data = there.get_nowait()
                got[int(data.split()[0])].append(data)
        assert got == sent


def test_lists_and_arrays(owner, far, consumers):
    rows = np.arange(60, dtype="u4").reshape(20, 3)
    with two(owner, far, consumers=consumers) as (here, there):
        here.put_many(rows)
        out = np.zeros((8, 3), "u4")
        assert there.get_many(out=out) == 8
        assert (out == rows[:8]).all()
        assert there.get_many(5) == [row.tobytes() for row in rows[8:13]]
        assert there.get_many() == [row.tobytes() for row in rows[13:]]
        here.put(b"of another length")
        with pytest.raises(errors.MismatchError, match="the next message has 17 bytes"):
            there.get_many(out=out)
        assert there.get() == b"of another length"


def test_ops(owner, far):
    """A look: the role and the shutdown, the lanes in use, the tail and the header, a piece. Then one swap for all."""
    with two(owner, far, capacity_bytes=1 << 16) as (here, there):
        here.put_many([b"%08d" % n for n in range(120)])

        def ops(call):
            before = far.stats["posts"]
            call()
            return far.stats["posts"] - before

        def empty():
            with pytest.raises(errors.EmptyError):
                there.get_nowait()

        there.get(timeout=SECONDS)
        assert min(ops(there.get) for _ in range(20)) == 1  # a look is good for 10 ms, and a busy host takes longer
        assert min(ops(lambda: there.get_many(10)) for _ in range(9)) == 1
        while not here.empty():
            there.get_many()
        empty()
        assert ops(empty) == 5


def test_counts(owner, far, consumers):
    """As the owner's, around the ring's end, with messages longer than what is read at first."""
    with two(owner, far, consumers=consumers, producers=3) as (here, there), attached(here.ref, far) as second:
        assert there.counts == here.counts and there.empty() and not there.full()
        for turn in range(40):
            for producer, n in ((here, 3), (second, 2)):
                producer.put_many([bytes(turn * 97 % 1500)] * n, block=False)
            assert there.counts == here.counts and there.qsize() == here.qsize() and there.full() is here.full()
            here.get_many(1 + turn % 4)
        assert there.counts["producers"] == 2
        here.shutdown()
        here.get_many()
        assert there.counts == here.counts and there.counts["shutdown"] == 1


def test_what_is_counted_while_others_put_and_take(owner, far):
    """Never more than the lane has room for."""
    with two(owner, far) as (here, there), attached(here.ref, far) as producer:
        producer.put(b"first")
        done = threading.Event()

        def pass_on():
            while not done.is_set():
                producer.put(bytes(1000))
                here.get()

        thread = threading.Thread(target=pass_on)
        thread.start()
        try:
            counts = [there.counts for _ in range(200)]
        finally:
            done.set()
            thread.join()
        assert all(each["messages"] <= 4 and each["bytes"] <= LANE for each in counts)
        assert there.qsize() == 1


def test_a_message_may_be_read_in_place(owner, far):
    with two(owner, far) as (here, there):
        here.put_many([b"one", b"two"])
        with there.peek(timeout=SECONDS) as view:
            assert bytes(view) == b"one"
            with pytest.raises(errors.BusyError):
                there.get()
        there.release()
        assert there.get() == b"two"


def test_a_release_that_a_handler_ends_can_be_repeated(fault_place):
    """It waits for a put of another thread, whose ops are slow."""
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
        slow = stack.enter_context(
            dsmem.Context(f"{fault_place}://?delay=*:300ms", secret=SECRET, peer_timeout=SECONDS)
        )
        cluster = stack.enter_context(dsmem.connect(context=context))
        here = stack.enter_context(cluster.queue("q", create=True, producers=2))
        there = stack.enter_context(attached(here.ref, slow))
        here.put_many([b"one", b"two"])
        there.produce()
        with there.peek(timeout=SECONDS) as view:
            assert bytes(view) == b"one"
        thread = threading.Thread(target=there.put, args=(b"slow",))
        thread.start()
        while here.counts["messages"] < 3:
            thread.join(0.001)
        before, released = signal.signal(signal.SIGALRM, strike), False
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            there.release()
            released = True  # it did not wait: the host is slow
            threading.Event().wait(SECONDS)
        except StruckError:
            pass
        finally:
            signal.signal(signal.SIGALRM, before)
        thread.join()
        if not released:
            there.release()
        assert {there.get(timeout=SECONDS) for _ in range(2)} == {b"two", b"slow"}


def strike(*_):
    raise StruckError


def test_wrappers(owner, far, consumers):
    with two(owner, far, consumers=consumers) as (here, there):
        Pickled(here).put({"a": np.arange(3)})
        assert Pickled(there).get(timeout=SECONDS)["a"].tolist() == [0, 1, 2]
        stamp = Stamped(here, clock.Lamport()).put(b"x")
        assert Stamped(there, clock.Lamport()).get(timeout=SECONDS) == (stamp, b"x")


@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown(owner, far, consumers, immediate):
    with two(owner, far, consumers=consumers) as (here, there):
        here.put_many([b"one", b"two"])
        there.consume()
        here.shutdown(immediate)
        if not immediate:
            assert [there.get(timeout=SECONDS) for _ in range(2)] == [b"one", b"two"]
        with pytest.raises(errors.ShutDownError):
            there.get(timeout=SECONDS)


@contextlib.contextmanager
def wide(fault_place, delay, consumers, used):
    """A queue with more lanes than one posting looks at, and a handle elsewhere, whose postings take a while."""
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
        cluster = stack.enter_context(dsmem.connect(context=context))
        slow = stack.enter_context(
            dsmem.Context(f"{fault_place}://?delay=*:{delay}ms", secret=SECRET, peer_timeout=SECONDS)
        )
        shape = {"producers": 64, "capacity_bytes": LANE, "max_message": 1000, "consumers": consumers}
        here = stack.enter_context(cluster.queue("q", create=True, **shape))
        here.produce()
        for _ in range(1, used):
            stack.enter_context(attached(here.ref, context)).produce()
        there = stack.enter_context(attached(here.ref, slow))
        there.consume()
        yield here, there, slow


def shut_down_after(posts, here, there, slow, get):
    """A message comes into the first lane, and then the shutdown, when that many ops were posted. Returns what a
    consumer has got until it is told of the shutdown."""
    got, before = [], slow.stats["posts"]

    def take():
        with contextlib.suppress(errors.ShutDownError):
            while True:
                with contextlib.suppress(errors.EmptyError):
                    got.append(get(there))

    thread = threading.Thread(target=take)
    thread.start()
    while slow.stats["posts"] < before + posts:
        thread.join(0.001)
    here.put(b"last")
    here.shutdown()
    thread.join()
    return got


@pytest.mark.parametrize("turn", range(4))
def test_a_sleeping_consumer_finds_what_was_put_before_the_shutdown(fault_place, consumers, turn):
    """The shutdown comes when the lane has been seen to be empty, and before all others are looked at."""
    with wide(fault_place, 10, consumers, 1) as (here, there, slow):
        got = shut_down_after(60 + 40 * turn, here, there, slow, lambda queue: queue.get(timeout=SECONDS))
        assert got == [b"last"]


def test_what_was_put_before_the_shutdown_is_found(fault_place, consumers):
    """The same in one call that does not wait: it looks which lanes there are, at the first half of them, and at the
    other half."""
    with wide(fault_place, 50, consumers, 64) as (here, there, slow):
        assert shut_down_after(30, here, there, slow, lambda queue: queue.get_nowait()) == [b"last"]


def test_a_sleeping_consumer_finds_what_is_put(owner, far, consumers):
    with two(owner, far, consumers=consumers) as (here, there):
        got = []
        thread = threading.Thread(target=lambda: got.extend(there.get(timeout=SECONDS) for _ in range(3)))
        thread.start()
        for n in range(3):
            here.put(b"%d" % n)
        thread.join(SECONDS)
        assert got == [b"0", b"1", b"2"]
        with pytest.raises(errors.EmptyError):
            there.get(timeout=0.01)


def test_async(owner, far, consumers):
    async def take(queue):
        return [await queue.get_async() for _ in range(20)]

    with two(owner, far, consumers=consumers) as (here, there):
        thread = threading.Thread(target=lambda: [here.put(b"%d" % n) for n in range(20)])
        thread.start()
        assert asyncio.run(asyncio.wait_for(take(there), SECONDS)) == [b"%d" % n for n in range(20)]
        thread.join()


def test_the_one_role_goes_from_one_to_the_other(owner, far):
    with two(owner, far) as (here, there):
        here.put_many([b"%d" % n for n in range(5)])
        assert there.get() == b"0"
        with pytest.raises(errors.BusyError):
            here.get()
        there.close()
        assert here.get() == b"1"
        with attached(here.ref, far) as again:
            with pytest.raises(errors.BusyError):
                again.get()
            with attached(here.ref, far) as owner_of_role:
                assert here.break_(here.consumer())
                assert owner_of_role.get() == b"2"
                with pytest.raises(errors.NotHeldError):
                    here.get()
                assert here.break_(here.consumer())
                assert again.get() == b"3"
                with pytest.raises(errors.NotHeldError):
                    owner_of_role.get()
                assert again.get() == b"4"


def test_a_consumer_whose_role_was_broken_takes_nothing_twice(owner, far):
    """It had read further messages before that, and the other has taken one of them."""
    with two(owner, far) as (here, there), attached(here.ref, far) as second:
        here.put_many([b"%d" % n for n in range(4)])
        assert there.get() == b"0"
        assert here.break_(here.consumer())
        assert second.get() == b"1"
        with pytest.raises(errors.NotHeldError):
            there.get()
        assert second.get() == b"2"


def test_what_a_mapped_and_a_remote_consumer_take_together_is_all_there_was(owner, far):
    skip_many(far)
    sent = [b"%d" % n for n in range(3000)]
    got = [[], [], []]

    def take(queue, to):
        with contextlib.suppress(errors.ShutDownError):
            while True:
                to.extend(queue.get_many(7, timeout=SECONDS))

    with two(owner, far, consumers="many") as (here, there), attached(here.ref, far) as third:
        with dsmem.Context(far.fabric, secret=SECRET) as other, attached(here.ref, other) as producer:
            threads = [threading.Thread(target=take, args=pair) for pair in zip((here, there, third), got, strict=True)]
            for thread in threads:
                thread.start()
            producer.put_many(sent)
            producer.shutdown()
            for thread in threads:
                thread.join(SECONDS)
    assert all(each == sorted(each, key=int) for each in got)
    assert sorted(itertools.chain(*got), key=int) == sent


@pytest.mark.parametrize("rows", [False, True])
def test_one_call_does_not_hide_that_an_outcome_is_unknown(fault_place, consumers, rows):
    """It finds messages of two producers, and the answer to the second taking is lost."""
    for n in range(1, 30):
        with contextlib.ExitStack() as stack:
            context = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
            cluster = stack.enter_context(dsmem.connect(context=context))
            here = stack.enter_context(cluster.queue("q", create=True, producers=2, consumers=consumers))
            other = stack.enter_context(dsmem.Context(f"{fault_place}://?failafter={n}", secret=SECRET))
            there = None
            while there is None:
                with contextlib.suppress(errors.TransportError, errors.TimeoutError):
                    there = stack.enter_context(attached(here.ref, other))
            producer = stack.enter_context(attached(here.ref, context))
            here.put(b"1")
            producer.put(b"2")
            got, unknown = [], 0
            with contextlib.suppress(errors.EmptyError):
                while len(got) + unknown < 2:
                    try:
                        got += taken(there, rows)
                    except errors.OutcomeUnknownError:
                        unknown += consumers == "many"
                    except (errors.TransportError, errors.TimeoutError):
                        pass
            assert len(got) + unknown == 2, n


def taken(queue, rows):
    if not rows:
        return queue.get_many(10, False)
    array = np.zeros(10, "S1")
    return list(array[: queue.get_many(10, False, out=array)])


@pytest.mark.parametrize("fault", ["fail={n}", "failafter={n}", "duplicate={n}", "failafter={n}&fail={next}-{end}"])
def test_an_op_that_fails_loses_no_message(fault_place, fault, consumers):
    """Wherever it fails. One of many consumers may lose what it was taking when an answer was lost, and is told."""
    for n in range(1, 40, 3):
        plan = fault.format(n=n, next=n + 1, end=n + 20)
        with contextlib.ExitStack() as stack:
            context = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
            cluster = stack.enter_context(dsmem.connect(context=context))
            queue = stack.enter_context(
                cluster.queue("q", create=True, capacity_bytes=LANE, max_message=1000, consumers=consumers)
            )
            other = stack.enter_context(dsmem.Context(f"{fault_place}://?{plan}", secret=SECRET))
            taker = None
            while taker is None:
                with contextlib.suppress(errors.TransportError, errors.TimeoutError):
                    taker = stack.enter_context(attached(queue.ref, other))
            sent = [bytes([i]) * 300 for i in range(30)]
            got, placed, unknown = [], 0, 0
            while len(got) + unknown < len(sent):
                placed += queue.put_many(sent[placed:], block=False)
                try:
                    got += [taker.get_nowait()] if placed % 2 else taker.get_many(2, False)
                except errors.OutcomeUnknownError:
                    unknown += 2 * (consumers == "many")
                except errors.EmptyError:
                    assert unknown
                    break
                except (errors.TransportError, errors.TimeoutError):
                    pass
            assert got == [data for data in sent if data in got]
            assert len(got) >= len(sent) - unknown
