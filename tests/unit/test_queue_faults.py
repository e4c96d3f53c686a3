"""Queues remotely through a fabric that fails or is slow, and threads that share a handle meanwhile."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from attaching import attached
from queue_owner import SECONDS, Owner

import dsmem
from dsmem import errors

SECRET = b"9e0e" * 16  # a key: nothing to stretch


@contextmanager
def slow_queue(fabric, delay, **shape):
    """Its consumer, and a producer each of whose ops takes so long."""
    with dsmem.Context(fabric, secret=SECRET) as context, dsmem.connect(context=context) as cluster:
        with dsmem.Context(f"{fabric}://?delay=*:{delay}", secret=SECRET) as other:
            with cluster.queue("q", create=True, **shape) as consumer, dsmem.attach(consumer.ref, other) as producer:
                yield consumer, producer


@contextmanager
def sending(producer, consumer):
    """While another thread is in put(): its message has arrived, and it does not know that yet."""
    producer.produce()
    thread = threading.Thread(target=producer.put, args=(b"slow",))
    thread.start()
    assert consumer.get(timeout=30) == b"slow"
    yield thread
    thread.join()


@pytest.mark.parametrize("array", [False, True])
def test_placed_tells_how_far_a_put_came(fault_place, array):
    """Wherever the transport fails, also while a put looks for room, each message comes once and in order."""
    cut_short = 0
    for n in range(3, 30, 2):
        with ExitStack() as stack:
            context = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
            cluster = stack.enter_context(dsmem.connect(context=context))
            other = stack.enter_context(dsmem.Context(f"{fault_place}://?fail={n}", secret=SECRET))
            consumer = stack.enter_context(cluster.queue("q", create=True, capacity_bytes=4096, max_message=1000))
            producer = None
            while producer is None:
                with suppress(errors.TransportError):
                    producer = stack.enter_context(dsmem.attach(consumer.ref, other))
            sent = [bytes([i]) * 700 for i in range(40)]
            items = np.frombuffer(b"".join(sent), "u1").reshape(len(sent), -1) if array else sent
            got, placed = [], 0
            for _ in range(20):
                if placed == len(sent):
                    break
                try:
                    placed += producer.put_many(items[placed : placed + 8], block=False)
                except errors.TransportError as error:
                    placed += error.placed
                    cut_short += error.placed < 4
                    producer.flush()
                while not consumer.empty():
                    got.append(consumer.get_nowait())
            assert got == sent
    assert cut_short


@pytest.mark.parametrize("n", range(1, 14))
def test_a_write_that_failed_is_sent_again(fault_place, n):
    """Whether or not the failed WRITE had arrived, each message comes once and in order."""
    for fault in (f"fail={n}", f"failafter={n}", f"duplicate={n}"):
        with dsmem.Context(fault_place, secret=SECRET) as context, dsmem.connect(context=context) as cluster:
            with dsmem.Context(f"{fault_place}://?{fault}", secret=SECRET) as other:
                consumer = cluster.queue("q", create=True, capacity_bytes=4096, max_message=1000)
                failed, producer = 0, None
                while producer is None:
                    try:
                        producer = dsmem.attach(consumer.ref, other)
                    except errors.TransportError:
                        failed += 1
                try:
                    producer.produce()
                except errors.TransportError:
                    failed += 1
                sent = [bytes([i]) * (300 + i) for i in range(10)]
                got = []
                for message in sent:
                    try:
                        producer.put(message)
                    except errors.TransportError as error:
                        failed += 1
                        if not error.placed:
                            producer.put(message)
                        producer.flush()
                    got.append(consumer.get_nowait())
                    with pytest.raises(errors.EmptyError):
                        consumer.get_nowait()
                assert got == sent and failed <= 1
                producer.close()
                consumer.close()


def test_what_one_thread_puts_while_another_one_sends(fault_place):
    with slow_queue(fault_place, "200ms") as (consumer, producer), sending(producer, consumer) as slow:

        def items():
            yield b"meanwhile"
            slow.join()

        assert producer.put_many(items()) == 1
        assert consumer.get(timeout=10) == b"meanwhile"


def test_a_child_that_is_forked_while_another_thread_sends(fault_place):
    """The turn is that of the parent's thread, and is not given back in the child, which is told so without a wait."""
    with slow_queue(fault_place, "200ms") as (consumer, producer), sending(producer, consumer):
        child = os.fork()
        if not child:
            signal.alarm(20)
            try:
                producer.put(b"from the child")
            except errors.ForkError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0


def test_threads_that_are_the_first_to_put(fault_place):
    """They are one producer with one lane, whichever of them comes first."""
    with slow_queue(fault_place, "50ms", producers=1) as (consumer, producer):
        failed = []

        def put():
            try:
                producer.put(b"one")
            except errors.DsmemError as error:
                failed.append(error)

        threads = [threading.Thread(target=put) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed and consumer.get_many() == [b"one"] * 3


def test_a_put_that_waits_for_the_wire_lets_other_threads_run(fault_place):
    """Also where it only looks whether there is room: that reads the tail."""

    def runs_meanwhile(producer):
        """Whether this thread has seen the look under way. On a busy host it may come too late for that."""
        before = producer.remote.context.stats["posts"]
        refused = threading.Event()

        def put():
            with pytest.raises(errors.FullError):
                producer.put_nowait(bytes(64))  # a look at the tail, and nothing to send
            refused.set()

        thread = threading.Thread(target=put)
        thread.start()
        while producer.remote.context.stats["posts"] == before:
            pass
        seen = not refused.is_set()
        thread.join()
        return seen

    with slow_queue(fault_place, "300ms", capacity_bytes=4096) as (_, producer):
        assert producer.put_many(np.zeros((100, 64), "u1"), block=False) < 100
        assert any(runs_meanwhile(producer) for _ in range(20))


def test_threads_that_share_a_handle_are_told_what_became_of_their_own_messages(fault_place):
    """One fails, and its failure cancels what the others have under way."""
    with ExitStack() as stack:
        context = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
        cluster = stack.enter_context(dsmem.connect(context=context))
        other = stack.enter_context(dsmem.Context(f"{fault_place}://?fail=20&failafter=31&every=29", secret=SECRET))
        consumer = stack.enter_context(cluster.queue("q", create=True))
        producer = stack.enter_context(dsmem.attach(consumer.ref, other))
        wrong, failed = [], []

        def put(thread):
            for i in range(100):
                message = bytes([thread, i])
                placed = 0
                while not placed:
                    try:
                        producer.put(message)
                        placed = 1
                    except errors.CanceledError as error:
                        wrong.append(error)
                        return
                    except errors.TransportError as error:
                        failed.append(error)
                        placed = error.placed

        threads = [threading.Thread(target=put, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        while producer_has_more(producer):
            pass
        got = consumer.get_many()
        assert not wrong and failed
        for k in range(4):
            assert [m[1] for m in got if m[0] == k] == list(range(100))


def producer_has_more(producer):
    try:
        producer.flush()
    except errors.TransportError:
        return True
    return False


def ops_of(fabric, do, **shape):
    """How many a producer has sent when it has done that."""
    with slow_queue(fabric, "1ms", **shape) as (_, producer):
        do(producer)
        return producer.remote.context.stats["posts"]


def test_an_iterable_that_raises_after_some_items(fault_place):
    """Those before it are put, and its exception comes out, also where the transport fails meanwhile."""

    def items():
        yield b"first"
        yield b"second"
        raise KeyError("mine")

    n = ops_of(fault_place, lambda producer: producer.put(b"x"))
    for plan in ("fail=1000", f"fail={n + 1}-{n + 3}"):
        with ExitStack() as stack:
            context = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
            cluster = stack.enter_context(dsmem.connect(context=context))
            other = stack.enter_context(dsmem.Context(f"{fault_place}://?{plan}", secret=SECRET))
            consumer = stack.enter_context(cluster.queue("q", create=True))
            producer = stack.enter_context(dsmem.attach(consumer.ref, other))
            producer.put(b"x")
            # On a slow machine what is staged may be sent between two items, so that the transport fails first.
            with pytest.raises((KeyError, errors.TransportError)) as raised:
                producer.put_many(items())
            early = isinstance(raised.value, errors.TransportError)
            assert raised.value.placed == 2 or (early and plan != "fail=1000" and "verbs" in fault_place)
            while producer_has_more(producer):
                pass
            taken = consumer.get_many()
            assert taken == [b"x", b"first", b"second"][: len(taken)] and len(taken) > raised.value.placed


def test_remote_producers_see_a_shutdown(fault_place):
    with ExitStack() as stack:
        context = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
        cluster = stack.enter_context(dsmem.connect(context=context))
        other = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
        consumer = stack.enter_context(cluster.queue("q", create=True, producers=2, capacity_bytes=4096))
        putting, waiting = (stack.enter_context(dsmem.attach(consumer.ref, other)) for _ in range(2))
        waiting.put_many([bytes(64)] * 100, block=False)
        refused = []

        def put():
            with pytest.raises(errors.ShutDownError):
                waiting.put(bytes(1000))
            refused.append("the one that waits for room")

        thread = threading.Thread(target=put)
        thread.start()
        put_some = 0
        consumer.shutdown()
        with pytest.raises(errors.ShutDownError) as raised:
            while True:  # what was put within the last look is in the lane
                putting.put(b"x")
                put_some += 1
        assert raised.value.placed == 0
        thread.join(30)
        assert refused
        got = []
        with pytest.raises(errors.ShutDownError):
            while True:
                got.append(consumer.get())
        assert got.count(b"x") == put_some


def test_a_failed_produce_keeps_no_lane_and_no_copy_of_it(fault_place):
    lane = 1 << 22

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    with ExitStack() as stack:
        context = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
        cluster = stack.enter_context(dsmem.connect(context=context))
        consumer = stack.enter_context(cluster.queue("q", create=True, capacity_bytes=lane))
        n = ops_of(fault_place, lambda producer: producer.produce(), capacity_bytes=lane)  # the last is a WRITE
        tries = 6  # ops of a produce() whose last one fails, and that gives its place back
        other = stack.enter_context(dsmem.Context(f"{fault_place}://?fail={n}&every={tries}", secret=SECRET))
        producer = dsmem.attach(consumer.ref, other)
        before = None
        for _ in range(8):
            with pytest.raises(errors.TransportError):
                producer.produce()
            assert consumer.counts["producers"] == 0
            before = before or resident()
        assert resident() - before < 2 * lane
        producer.close()
        with cluster.queue("q") as successor:
            successor.put(b"x")


def test_a_script_that_ends_without_close_leaves_its_lane(fault_place):
    """However often: the queue has two lanes."""
    script = """
import pickle, sys
import dsmem
context = dsmem.Context(sys.argv[1], secret=b"9e0e" * 16)
queue = dsmem.attach(pickle.loads(bytes.fromhex(sys.argv[2])), context)
queue.put(b"x")
if len(sys.argv) > 3:
    queue.context = context
    context.queue = queue
"""
    with dsmem.Context(fault_place, secret=SECRET) as context, dsmem.connect(context=context) as cluster:
        with cluster.queue("q", create=True, producers=1) as consumer:
            ref = pickle.dumps(consumer.ref).hex()
            for cycle in ([], ["cycle"]):
                done = subprocess.run(
                    [sys.executable, "-c", script, fault_place, ref, *cycle],
                    capture_output=True,
                    text=True,
                    timeout=60,
                )
                assert done.returncode == 0, done.stderr
                assert consumer.get() == b"x"
                assert consumer.counts["producers"] == 0


def test_a_put_with_a_timeout_waits_no_longer_for_a_lost_answer(fault_place):
    """However long an owner may be silent."""
    n = ops_of(fault_place, lambda producer: producer.put(b"x"))
    with ExitStack() as stack:
        context = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
        cluster = stack.enter_context(dsmem.connect(context=context))
        plan = f"{fault_place}://?drop={n + 1}"
        other = stack.enter_context(dsmem.Context(plan, secret=SECRET, peer_timeout=3600))
        consumer = stack.enter_context(cluster.queue("q", create=True))
        producer = stack.enter_context(dsmem.attach(consumer.ref, other))
        producer.put(b"x")
        with pytest.raises(errors.TimeoutError) as raised:
            producer.put(b"y", timeout=0.1)
        assert raised.value.placed == 1
        producer.flush()
        assert consumer.get_many() == [b"x", b"y"]


def test_a_queue_that_always_has_messages_is_not_counted_as_empty(fault_place):
    """Also where all that is counted is taken meanwhile, again and again."""
    with slow_queue(fault_place, "2ms", capacity_bytes=4096) as (here, there), ExitStack() as stack:
        ended = threading.Event()

        def work():
            here.put(b"first")
            while not ended.is_set():
                here.put(b"message")
                here.get()

        thread = threading.Thread(target=work)
        thread.start()
        stack.callback(thread.join)
        stack.callback(ended.set)
        while here.empty():
            pass
        for _ in range(30):
            assert there.qsize() >= 1 and not there.empty()


def test_a_count_does_not_hold_up_a_get_that_has_a_time_limit(remote_place):
    """What was taken is counted with the next look, on tcp at an owner that does not answer."""
    with Owner(remote_place) as owner, dsmem.Context(remote_place, secret=SECRET, peer_timeout=3600) as far:
        with attached(owner.ref, far) as queue:
            for _ in range(10):
                queue.get(timeout=SECONDS)
            owner.stop()
            with pytest.raises((errors.TimeoutError, errors.EmptyError)):
                queue.get(timeout=0.05)
            owner.go_on()
            queue.put(b"next")
            assert queue.get(timeout=SECONDS) == b"next"


@pytest.mark.parametrize("how", ["fail", "failafter"])
def test_a_message_that_was_taken_without_an_answer_is_not_lost_at_close(fault_place, how):
    """One consumer: the get has failed, so close() is refused until another get has returned what was taken."""
    refused = 0
    for n in range(1, 16):
        with ExitStack() as stack:
            context = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
            cluster = stack.enter_context(dsmem.connect(context=context))
            here = stack.enter_context(cluster.queue("q", create=True))
            sent = [b"1", b"2", b"3"]
            here.put_many(sent)
            plan = f"{fault_place}://?{how}={n}-{n + 20}"
            far = stack.enter_context(dsmem.Context(plan, secret=SECRET, peer_timeout=0.2))
            try:
                there = dsmem.attach(here.ref, far)
            except (errors.TransportError, errors.TimeoutError):
                continue
            got = []
            for _ in range(2):
                with suppress(errors.TransportError, errors.TimeoutError):
                    got.append(there.get(timeout=0))
            while not there.closed:
                try:
                    there.close()
                except errors.BusyError:
                    refused += 1
                    got.extend(there.get_many(block=False))
                except (errors.TransportError, errors.TimeoutError):
                    pass
            while len(got) < len(sent) and not here.empty():
                got.append(here.get_nowait())
            assert got == sent, n
    assert bool(refused) == (how == "failafter")
