"""Queues from afar through a fabric that fails or is slow, and threads that share a handle meanwhile."""

import os
import signal
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
import pytest

import dsmem
from dsmem import errors

SECRET = b"the secret of the tests of queues"


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
            got = []
            for _ in range(20):
                before = producer.placed
                if before == len(sent):
                    break
                try:
                    producer.put_many(items[before : before + 8], block=False)
                except errors.TransportError:
                    cut_short += producer.placed < before + 4
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
                    except errors.DsmemError:
                        failed += 1
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
    """Nobody in the child gives back the turn that the thread has; it is told so, and does not wait for it."""
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
    """They are one producer with one lane, whoever of them comes first."""
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
    with slow_queue(fault_place, "300ms", capacity_bytes=4096) as (_, producer):
        assert producer.put_many(np.zeros((100, 64), "u1"), block=False) < 100
        span, seen = [], []

        def put():
            span.append(time.monotonic())
            with pytest.raises(errors.FullError):
                producer.put_nowait(bytes(64))  # a look at the tail, and nothing to send
            span.append(time.monotonic())

        thread = threading.Thread(target=put)
        thread.start()
        while thread.is_alive():
            seen.append(time.monotonic())
            time.sleep(0.001)
        assert sum(span[0] < t < span[1] - 0.02 for t in seen) > 3
