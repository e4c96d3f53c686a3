"""Queues, local and remote: one handle, several handles, several processes."""

import asyncio
import gc
import multiprocessing as mp
import pickle
import queue as standard
import select
import signal
import sys
import threading
from contextlib import ExitStack

import halt
import numpy as np
import pytest
from short_timeouts import in_vain

import dsmem
from dsmem import errors
from dsmem.clock import HybridClock, Lamport
from dsmem.queue import Pickled, Stamped

SECRET = b"9e0e" * 16  # a key: nothing to stretch


class Place:
    """make(**shape) -> the owner's handle; join() -> another one, which is remote where the fabric is."""

    def __init__(self, stack, cluster, other, fabric):
        self.stack, self.cluster, self.other = stack, cluster, other
        self.remote = fabric not in ("local", "shm")

    def make(self, **shape):
        self.queue = self.stack.enter_context(self.cluster.queue("q", create=True, **shape))
        return self.queue

    def join(self):
        return self.stack.enter_context(self.other(self.queue))


@pytest.fixture
def place(cluster, other, cluster_place):
    with ExitStack() as stack:
        yield Place(stack, cluster, other, cluster_place)


def test_bytes_in_order(place):
    consumer, producer = place.make(), place.join()
    for data in (b"", b"a", b"12345678", bytes(1000), bytearray(b"xyz"), np.arange(5)):
        producer.put(data)
    assert consumer.qsize() == 6 and not consumer.empty()
    assert [consumer.get() for _ in range(6)] == [
        b"",
        b"a",
        b"12345678",
        bytes(1000),
        b"xyz",
        np.arange(5).tobytes(),
    ]
    assert consumer.empty()
    with pytest.raises(standard.Empty):
        consumer.get_nowait()
    with pytest.raises(errors.EmptyError):
        consumer.get(timeout=0.01)


def test_many_laps(place):
    consumer, producer = place.make(capacity_bytes=4096, max_message=1500), place.join()
    rng = np.random.default_rng(3)
    sent = []
    for _ in range(300):
        for _ in range(rng.integers(1, 4)):
            data = rng.bytes(rng.integers(0, 1501))
            try:
                producer.put_nowait(data)
                sent.append(data)
            except standard.Full:
                assert sent
        while sent and rng.random() < 0.7:
            assert consumer.get_nowait() == sent.pop(0)
    assert [consumer.get_nowait() for _ in range(consumer.qsize())] == sent


def test_values_that_look_like_headers(place):
    """Whatever a payload holds is never taken for a header, also a lap later."""
    consumer, producer = place.make(capacity_bytes=4096), place.join()
    for lap in range(6):
        for k in range(100):
            word = 8 | 1 << 32 | (lap + k % 2) << 40
            producer.put(np.full(1 + k % 7, word, "u8"))
            assert consumer.get_nowait() == np.full(1 + k % 7, word, "u8").tobytes()
            with pytest.raises(errors.EmptyError):
                consumer.get_nowait()


def test_full(place):
    consumer, producer = place.make(capacity_bytes=4096, max_message=2000), place.join()
    n = 0
    with pytest.raises(standard.Full):
        while True:
            producer.put_nowait(bytes(100))
            n += 1
    assert consumer.full() and n == consumer.qsize() > 30
    with pytest.raises(errors.FullError):
        in_vain(producer.put, bytes(100), timeout=0.01)
    assert consumer.counts["full"] == (0 if place.remote else 2)
    consumer.get_many(2)
    producer.put(bytes(100), timeout=60)
    with pytest.raises(errors.MessageTooLargeError, match="2001"):
        producer.put(bytes(2001))


def test_lists_and_records(place):
    consumer, producer = place.make(capacity_bytes=8192), place.join()
    items = [bytes([i]) * i for i in range(50)]
    assert producer.put_many(items) == 50
    assert consumer.get_many(20) == items[:20]
    assert consumer.get_many() == items[20:]
    rows = np.arange(400, dtype="u8").reshape(100, 4)
    assert producer.put_many(rows) == 100
    out = np.zeros((64, 4), "u8")
    assert consumer.get_many(out=out) == 64 and np.array_equal(out, rows[:64])
    with pytest.raises(errors.MismatchError, match="32"):
        consumer.get_many(out=np.zeros((4, 8), "u8"))
    assert consumer.get_many(out=out) == 36 and np.array_equal(out[:36], rows[64:])
    big = np.arange(3000, dtype="u8").reshape(-1, 1)
    assert 0 < producer.put_many(big, block=False) < 3000


@pytest.mark.parametrize("words", [1, 3, 64, 101])
def test_arrays_over_many_laps(place, words):
    """Records that are published together, around the ring's end, taken in batches of other sizes and one by one."""
    consumer, producer = place.make(capacity_bytes=1 << 14), place.join()
    rng, put, got = np.random.default_rng(words), 0, 0
    out = np.zeros((150, words), "u8")
    for _ in range(400):
        rows = np.arange(put, put + rng.integers(1, 100), dtype="u8")[:, None] + np.zeros(words, "u8")
        put += producer.put_many(rows, block=False)
        if rng.random() < 0.3 and got < put:
            assert consumer.get_nowait() == np.full(words, got, "u8").tobytes()
            got += 1
        elif got < put:
            n = consumer.get_many(out=out[: rng.integers(1, 150)], block=False)
            assert (out[:n] == np.arange(got, got + n, dtype="u8")[:, None]).all()
            got += n
    assert put > 3000 * 8 // (8 + 8 * words) and consumer.qsize() == put - got == consumer.counts["messages"]


def test_reserve_and_peek(place):
    consumer, producer = place.make(), place.join()
    room = producer.reserve(16)
    room[:5] = b"hello"
    with pytest.raises(errors.BusyError):
        producer.put(b"not now")
    view = np.frombuffer(room, "u1")
    with pytest.raises(errors.BusyError):
        producer.commit(5)
    del view
    producer.commit(5)
    with pytest.raises(ValueError):
        room[0]
    producer.reserve(100)
    producer.cancel()
    with pytest.raises(errors.InvalidArgumentError):
        producer.commit()
    producer.put(b"as if nothing had been reserved")
    message = consumer.peek()
    assert bytes(message) == b"hello" and message.readonly
    consumer.release()
    assert consumer.get() == b"as if nothing had been reserved"
    assert consumer.empty()
    with pytest.raises(errors.EmptyError):
        consumer.peek(block=False)


def test_a_peeked_message_stays(place):
    consumer, producer = place.make(), place.join()
    producer.put(b"one")
    consumer.peek()
    with pytest.raises(errors.BusyError):
        consumer.get()
    consumer.close()
    if not place.remote:
        assert place.join().get_nowait() == b"one"


def test_one_producer_one_consumer(place):
    consumer, producer = place.make(), place.join()
    producer.produce()
    consumer.consume()
    third = place.join()
    with pytest.raises(errors.TooManyMembersError):
        third.put(b"x")
    with pytest.raises((errors.BusyError, errors.NotMappedError)):
        third.get()
    producer.close()
    third.put(b"x")
    assert consumer.get() == b"x"


def test_local_and_remote_producers_succeed_each_other(place):
    """Each goes on where the lane's last one ended, also laps later, with what was not yet taken."""
    consumer, sent = place.make(capacity_bytes=4096, max_message=1000), []
    for turn in range(6):
        producer = place.join() if turn % 2 else place.cluster.queue("q")
        with producer:
            for i in range(9):
                sent.append(bytes([turn, i]) * 250)
                producer.put(sent[-1])
                if i < 8:
                    assert consumer.get() == sent.pop(0)
    assert consumer.get_many() == sent and consumer.counts["producers"] == 0


def test_a_producer_is_broken_by_choice(place):
    """Its lane is another's, with what is in it; one that lives puts nothing more."""
    consumer, producer = place.make(), place.join()
    assert consumer.producers() == [] and not consumer.break_(1)
    producer.put(b"early")
    (gone,) = consumer.producers()
    third = place.join()
    assert third.producers() == [gone]
    with pytest.raises(errors.TooManyMembersError):
        third.put(b"x")
    assert third.break_(gone) and not third.break_(gone) and consumer.producers() == []
    late = 0
    with pytest.raises(errors.NotHeldError):
        for _ in range(100000):  # one elsewhere may notice it after 10 ms; a lane has room for fewer
            producer.put(b"late")
            late += 1
    assert place.remote or not late
    third.put(b"next")
    assert consumer.get_many() == [b"early", *[b"late"] * late, b"next"]
    producer.close()
    third.put(b"last")
    assert consumer.get() == b"last" and len(consumer.producers()) == 1


def test_a_consumer_is_broken_by_choice(place):
    """What it has not taken is another's, also what it was looking at."""
    consumer, producer = place.make(), place.join()
    assert producer.consumer() is None
    producer.put_many([b"a", b"b", b"c"])
    assert consumer.get() == b"a" and consumer.peek() == b"b"
    gone = producer.consumer()
    assert gone and producer.break_(gone) and not producer.break_(gone) and consumer.consumer() is None
    consumer.release()
    for call in (consumer.get, consumer.get_many, consumer.peek):
        with pytest.raises(errors.NotHeldError):
            call()
    with place.cluster.queue("q") as other:
        assert other.get_many() == [b"b", b"c"] and other.consumer() is not None
        if not place.remote:  # all that this process had is gone
            with pytest.raises(errors.NotHeldError):
                producer.put(b"d")
            producer = place.join()
        producer.put(b"d")
        consumer.close()
        assert other.get() == b"d"


def test_lanes(place):
    consumer = place.make(producers=3)
    producers = [place.join() for _ in range(3)]
    for i in range(30):
        producers[i % 3].put(bytes([i]))
    got = [consumer.get_nowait()[0] for _ in range(30)]
    for lane in range(3):
        assert [g for g in got if g % 3 == lane] == list(range(lane, 30, 3))
    assert consumer.counts["producers"] == 3


def test_shutdown(place):
    consumer, producer, late = place.make(), place.join(), 0
    producer.put(b"last")
    consumer.shutdown()
    with pytest.raises(errors.ShutDownError):
        while True:  # a remote producer looks every 10 ms
            producer.put(b"more")
            late += 1
    assert [consumer.get() for _ in range(1 + late)] == [b"last", *[b"more"] * late]
    assert place.remote or not late
    with pytest.raises(errors.ShutDownError):
        consumer.get()
    consumer.shutdown(immediate=True)
    with pytest.raises(errors.ShutDownError):
        consumer.get_nowait()


def test_shutdown_wakes(place):
    consumer = place.make()
    seen, begun = [], threading.Event()

    def wait():
        begun.set()
        with pytest.raises(errors.ShutDownError) as refused:
            consumer.get()
        seen.append(refused.value)

    thread = threading.Thread(target=wait)
    thread.start()
    assert begun.wait(30)
    consumer.shutdown()
    thread.join(30)
    assert seen


def test_what_was_put_before_the_shutdown_comes_out(here):
    for i in range(300):
        with here.queue(f"q{i}", create=True, capacity_bytes=4096, spin=0.01) as q, dsmem.attach(q.ref) as producer:

            def put(producer=producer):
                producer.put(b"last")
                producer.shutdown()

            thread = threading.Thread(target=put)
            thread.start()
            got = []
            with pytest.raises(errors.ShutDownError):
                while True:
                    got.append(q.get())
            thread.join()
            assert got == [b"last"]
        here.unlink(f"q{i}")


def test_asyncio(place):
    consumer, producer = place.make(capacity_bytes=4096, max_message=1000), place.join()

    async def produce():
        for i in range(50):
            await producer.put_async(bytes([i]) * 500)
        if place.remote:
            consumer.shutdown()
        else:
            producer.shutdown()

    async def run():
        got = []
        task = asyncio.create_task(produce())
        async for message in consumer:
            got.append(message[0])
        await task
        return got

    assert asyncio.run(run()) == list(range(50))


def test_cancelled_waiters_leave(place):
    consumer, producer = place.make(), place.join()

    async def run():
        for _ in range(3):
            task = asyncio.create_task(consumer.get_async())
            while not consumer._readers.lengths():
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        first, second = asyncio.create_task(consumer.get_async()), asyncio.create_task(consumer.get_async())
        await asyncio.sleep(0)
        producer.put_many([b"1", b"2"])
        return sorted(await asyncio.gather(first, second))

    assert asyncio.run(run()) == [b"1", b"2"]


def test_select(place):
    consumer, producer = place.make(), place.join()
    fd = consumer.fileno()
    assert not select.select([fd], [], [], 0)[0]
    producer.put(b"1")
    assert select.select([fd], [], [], 10)[0]
    assert consumer.get_nowait() == b"1"
    with pytest.raises(errors.EmptyError):
        consumer.get_nowait()
    assert not select.select([fd], [], [], 0)[0]
    producer.put(b"2")
    assert select.select([fd], [], [], 10)[0]


def test_pickled(place):
    consumer, producer = place.make(), place.join()
    array = np.arange(1000.0)
    Pickled(producer).put({"a": array, "b": [1, 2]})
    Pickled(producer).put(None)
    producer.put(b"plain")
    got = Pickled(consumer).get()
    assert np.array_equal(got["a"], array) and got["b"] == [1, 2]
    got["a"][0] = 1
    assert Pickled(consumer).get() is None
    assert Pickled(consumer).get() == b"plain"


def test_stamped(place):
    """An answer is later than its question, whatever the clocks said before."""
    consumer, producer = place.make(), place.join()
    fast, slow = Lamport(), Lamport()
    fast.receive(1000)
    asked = Stamped(producer, fast).put(memoryview(np.arange(3)))
    assert Stamped(producer, fast).put(b"") > asked > 1000
    producer.put(b"plain")
    taker = Stamped(consumer, slow)
    assert taker.get() == (asked, np.arange(3).tobytes())
    assert taker.get()[1] == b"" and taker.get() == (0, b"plain")
    assert slow.send() > asked + 1
    with pytest.raises(errors.EmptyError):
        taker.get(block=False)
    for data in (5, "text", np.arange(6)[::2]):
        with pytest.raises(errors.InvalidArgumentError, match="data"):
            Stamped(producer, fast).put(data)


def test_stamps_that_a_clock_refuses(place):
    consumer, producer = place.make(), place.join()
    ahead, behind = HybridClock(wall=lambda: 2e9), HybridClock(wall=lambda: 1e9)
    stamp = Stamped(producer, ahead).put(b"from the future")
    with pytest.raises(errors.ClockDriftError) as refused:
        Stamped(consumer, behind).get()
    assert refused.value.message == (stamp, b"from the future") and consumer.empty()
    back = HybridClock(wall=lambda: 1e9)
    back._core.hybrid(stamp, int(2e12), 0)  # its wall clock was set back since
    with pytest.raises(errors.ClockDriftError):
        Stamped(producer, back).put(b"x")
    assert consumer.empty()
    producer.put(b"y")  # nothing is left reserved
    assert consumer.get() == b"y"


def test_bad_input(place):
    with pytest.raises(errors.InvalidArgumentError, match="max_message"):
        place.make(capacity_bytes=4096, max_message=4000)
    for bad in ({"producers": 0}, {"producers": "some"}, {"consumers": 3}, {"producers": 5000}, {"max_message": -1}):
        with pytest.raises(errors.InvalidArgumentError):
            place.make(**bad)
    queue = place.make()
    with pytest.raises(errors.InvalidArgumentError):
        queue.put("text")
    with pytest.raises(errors.NonContiguousError):
        queue.put(np.zeros((4, 4))[:, 0])
    with pytest.raises(errors.InvalidArgumentError):
        queue.get(timeout=-1)
    with pytest.raises(errors.InvalidArgumentError):
        queue.get_many(0)
    with pytest.raises(errors.InvalidArgumentError):
        queue.release()
    queue.close()
    queue.close()
    for call in (queue.get, queue.qsize, queue.produce, lambda: queue.put(b"")):
        with pytest.raises(errors.ClosedError):
            call()


# ---- on one host ----


def test_attach_says_what_differs(here):
    with here.queue("q", create=True, producers="many", capacity_bytes=5000) as q:
        assert q.properties["lane_bytes"] == 8192
        with pytest.raises(errors.MismatchError, match="producers is 16, 1 is wanted"):
            here.queue("q", producers="one")
        with here.queue("q", producers="many", capacity_bytes=8192), here.queue("q"):
            pass
        with pytest.raises(FileExistsError):
            here.queue("q", create=True)


def test_drop_oldest_of_arrays(here):
    with here.queue("q", create=True, capacity_bytes=4096, drop_oldest=True) as q:
        assert q.put_many(np.arange(1000, dtype="u8").reshape(-1, 1)) == 1000
        counts = q.counts
        assert counts["dropped"] == 1000 - q.qsize() > 500
        assert [int.from_bytes(m, "little") for m in q.get_many()] == list(range(counts["dropped"], 1000))


def test_drop_oldest(here):
    with here.queue("q", create=True, capacity_bytes=4096, max_message=1000, drop_oldest=True) as q:
        for i in range(100):
            q.put_nowait(bytes([i]) * 100)
        counts = q.counts
        assert counts["dropped"] == 100 - q.qsize() > 50
        assert [m[0] for m in q.get_many()] == list(range(counts["dropped"], 100))
        with pytest.raises(errors.UnsupportedError):
            q.peek(block=False)


def _put_many(ref, lane, n):
    with dsmem.attach(ref) as q:
        for i in range(n):
            q.put(lane.to_bytes(4, "little") + i.to_bytes(4, "little") + bytes(i % 50))


def _take(ref, out, n):
    got = []
    with dsmem.attach(ref) as q:
        try:
            while True:
                got.extend(q.get_many(7))
        except errors.ShutDownError:
            out.send(got)


@pytest.mark.parametrize("consumers", ["one", "many"])
def test_processes(here, consumers):
    spawn, n = mp.get_context("spawn"), 20_000
    with here.queue("q", create=True, producers=2, consumers=consumers, capacity_bytes=1 << 14) as q:
        putters = [spawn.Process(target=_put_many, args=(q.ref, lane, n)) for lane in range(2)]
        pipes = [spawn.Pipe(False) for _ in range(2 if consumers == "many" else 1)]
        takers = [spawn.Process(target=_take, args=(q.ref, out, n)) for _, out in pipes]
        for p in putters + takers:
            p.start()
        for p in putters:
            p.join(60)
            assert p.exitcode == 0
        q.shutdown()
        by_taker = [source.recv() for source, _ in pipes]
        for p in takers:
            p.join(60)
            assert p.exitcode == 0
    everything = []
    for got in by_taker:
        for lane in range(2):
            mine = [int.from_bytes(m[4:8], "little") for m in got if m[0] == lane]
            assert mine == sorted(mine)
            everything.extend((lane, i) for i in mine)
    assert sorted(everything) == [(lane, i) for lane in range(2) for i in range(n)]


def _put_forever(ref):
    with dsmem.attach(ref) as q:
        i = 0
        while True:
            q.put(i.to_bytes(8, "little") * (1 + i % 20))
            i += 1


def _put_arrays_forever(ref):
    with dsmem.attach(ref) as q:
        i = 0
        while True:
            q.put_many(np.arange(i, i + 13, dtype="u8")[:, None] + np.zeros(70, "u8"))
            i += 13


def test_killed_producers_leave_whole_arrays(here):
    """Of an array all records or the first ones are there, in order, and the next producer goes on behind them."""
    spawn = mp.get_context("spawn")
    with here.queue("q", create=True, capacity_bytes=1 << 14) as q:
        for _ in range(5):
            p = spawn.Process(target=_put_arrays_forever, args=(q.ref,))
            p.start()
            seen = [q.get() for _ in range(1000)]
            p.kill()
            p.join()
            seen.extend(q.get_many(block=False) if q.qsize() else [])
            assert seen == [i.to_bytes(8, "little") * 70 for i in range(len(seen))]


def test_killed_producers_leave_whole_messages(here):
    spawn = mp.get_context("spawn")
    with here.queue("q", create=True, capacity_bytes=4096) as q:
        for _ in range(5):
            p = spawn.Process(target=_put_forever, args=(q.ref,))
            p.start()
            seen = [q.get() for _ in range(1000)]
            p.kill()
            p.join()
            try:
                while True:
                    seen.append(q.get_nowait())
            except errors.EmptyError:
                pass
            assert seen == [i.to_bytes(8, "little") * (1 + i % 20) for i in range(len(seen))]
            assert q.counts["producers"] == 0


def _get_forever(ref, ready):
    with dsmem.attach(ref) as q:
        q.get()
        ready.set()
        while True:
            q.get()


def test_a_killed_consumer_is_succeeded(here):
    spawn = mp.get_context("spawn")
    with here.queue("q", create=True) as q:
        ready = spawn.Event()
        p = spawn.Process(target=_get_forever, args=(q.ref, ready))
        p.start()
        q.put(b"first")
        assert ready.wait(30)
        with pytest.raises(errors.BusyError):
            q.consume()
        p.kill()
        p.join()
        q.put(b"second")
        assert q.get() == b"second"


def test_a_stopped_consumer_stops_no_other(here):
    spawn = mp.get_context("spawn")
    with here.queue("q", create=True, consumers="many") as q:
        ready = spawn.Event()
        p = spawn.Process(target=_get_forever, args=(q.ref, ready))
        p.start()
        q.put(b"first")
        assert ready.wait(30)
        halt.stop(p.pid)
        try:
            q.put(b"second")
            assert q.get(timeout=10) == b"second"
        finally:
            p.kill()
            p.join()


def test_interrupt_ends_a_wait(here):
    with here.queue("q", create=True) as q:
        timer = threading.Timer(0.05, lambda: signal.raise_signal(signal.SIGINT))

        def interrupt(*_):
            raise KeyboardInterrupt

        old = signal.signal(signal.SIGINT, interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                timer.start()
                q.get()
        finally:
            signal.signal(signal.SIGINT, old)
            timer.join()


def test_pickles_as_a_reference(here):
    with here.queue("q", create=True) as q:
        q.put(b"x")
        with pickle.loads(pickle.dumps(q)) as other:
            assert other.get() == b"x"


def test_dropped_open(here):
    q = here.queue("q", create=True)
    with pytest.warns(ResourceWarning, match="unclosed"):
        del q


def test_timeouts_without_an_end(place):
    consumer, producer = place.make(), place.join()
    for timeout in (float("inf"), 9e9):
        producer.put(b"x", timeout=timeout)
        assert consumer.get(timeout=timeout) == b"x"
    for timeout in ("x", object(), float("nan"), -1, 1e300, 10**12):
        with pytest.raises(errors.InvalidArgumentError, match=r"timeout=.*seconds"):
            consumer.get(timeout=timeout)


def test_numbers_that_are_none(place):
    consumer, producer = place.make(), place.join()
    producer.put_many([b"a", b"b"])
    assert consumer.get_many(1 << 70) == [b"a", b"b"]
    for n in ("x", 0, 1.5):
        with pytest.raises(errors.InvalidArgumentError, match="at least 1"):
            consumer.get_many(n, False)
    producer.reserve(10)
    for length in (-1, 11, "x"):
        with pytest.raises(errors.InvalidArgumentError, match="reservation of 10"):
            producer.commit(length)
    producer.commit(0)
    assert consumer.get() == b""


@pytest.mark.parametrize("capacity", [-1, 0, "abc", 1.5])
def test_a_capacity_that_is_none(cluster, capacity):
    with pytest.raises(errors.InvalidArgumentError, match=r"capacity_bytes=.*at least 1"):
        cluster.queue("q", create=True, capacity_bytes=capacity)
    with pytest.raises(errors.InvalidArgumentError, match="producers="):
        cluster.queue("q", create=True, producers=[1])
    assert cluster.list() == []


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("with_context", [False, True])
def test_a_cycle_finalizes_in_any_order(monkeypatch, with_context):
    """The collector may finalize the remote, the region and their context before the queue."""
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    context = dsmem.Context("fault+shm", secret=SECRET)
    cluster = dsmem.connect(context=context)
    owner = cluster.queue("q", create=True)
    remote = dsmem.attach(owner.ref, context)
    remote.put(b"x")
    assert owner.get() == b"x"
    remote.itself = remote
    if with_context:
        remote.others = [context, cluster, owner]
        del context, cluster, owner
    del remote
    gc.collect()
    assert [str(one.exc_value) for one in heard] == []
    if not with_context:
        cluster.close()
        context.close()


def test_what_has_no_room_is_not_reserved(cluster):
    with cluster.queue("q", max_message=64, create=True) as queue:
        with pytest.raises(errors.MessageTooLargeError):
            queue.reserve(65)
        room = queue.reserve(64)
        room[:2] = b"ab"
        queue.commit(2)
        queue.shutdown()
        with pytest.raises(errors.ShutDownError):
            queue.reserve(8)


@pytest.mark.parametrize("array", [np.array(5), np.empty(0), np.empty((0, 3)), np.empty((3, 0))])
def test_arrays_without_rows_are_no_records(cluster, array):
    with cluster.queue("q", create=True) as queue:
        with pytest.raises(errors.InvalidArgumentError):
            queue.put_many(array)
        queue.put(b"next")
        assert queue.counts["messages"] == 1
