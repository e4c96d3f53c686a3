"""Messages put with flush=False: what sends them, and what becomes of them when nothing does.

They are the handle's until they are sent, in order; then each arrives once. In memory that is mapped they are there at
once.
"""

import asyncio
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
import pytest
from attaching import attached
from queue_owner import SECONDS, Owner

import dsmem
from dsmem import clock, errors
from dsmem.queue import Pickled, Stamped

SECRET = b"9e0e" * 16  # a key: nothing to stretch
SOME = [b"%d" % n for n in range(5)]


@contextmanager
def far_queue(place, plan="", **shape):
    """A consumer, and a producer in whose process the memory is not mapped."""
    with ExitStack() as stack:
        context = stack.enter_context(dsmem.Context(place, secret=SECRET))
        cluster = stack.enter_context(dsmem.connect(context=context))
        other = stack.enter_context(dsmem.Context(f"{place}{plan}", secret=SECRET))
        consumer = stack.enter_context(cluster.queue("q", create=True, **shape))
        producer = attached(consumer.ref, other)
        try:
            yield consumer, producer
        finally:
            producer._abandon()
            producer.close()


def stage(queue, messages=SOME):
    for data in messages:
        queue.put(data, flush=False)


def taken(queue):
    """All that is there."""
    got = []
    with suppress(errors.EmptyError, errors.ShutDownError):
        while True:
            got.extend(queue.get_many(block=False))
    return got


# ---- what sends them ----


def test_nothing_is_sent_before_a_flush(remote_place):
    with far_queue(remote_place) as (consumer, producer):
        producer.put(b"first")
        stage(producer, SOME[:1])  # it may look for a shutdown
        before = producer.remote.context.stats["posts"]
        stage(producer, SOME[1:])
        assert producer.remote.context.stats["posts"] == before
        assert (taken(consumer), producer.staged) == ([b"first"], len(SOME))
        producer.flush()
        assert (taken(consumer), producer.staged) == (SOME, 0)
        producer.flush()
        assert taken(consumer) == []


def commit(producer):
    with producer.reserve(1) as room:
        room[:] = b"x"
    producer.commit()


def shut_down(producer):
    producer.put(b"x", flush=False)
    producer.shutdown()


SENDING = {
    "put": lambda producer: producer.put(b"x"),
    "put_nowait": lambda producer: producer.put_nowait(b"x"),
    "put_async": lambda producer: asyncio.run(producer.put_async(b"x")),
    "put_many": lambda producer: producer.put_many([b"x"]),
    "put_many of an array": lambda producer: producer.put_many(np.frombuffer(b"x", "u1").reshape(1, 1)),
    "commit": commit,
    "shutdown": shut_down,
    "close": lambda producer: (producer.put_nowait(b"x", flush=False), producer.close()),
}


@pytest.mark.parametrize("how", SENDING)
def test_what_sends_them_comes_behind_them(remote_place, how):
    with far_queue(remote_place) as (consumer, producer):
        stage(producer)
        SENDING[how](producer)
        assert taken(consumer) == [*SOME, b"x"]


def test_a_put_of_another_thread_sends_them(remote_place):
    with far_queue(remote_place) as (consumer, producer):
        stage(producer)
        thread = threading.Thread(target=producer.put, args=(b"x",))
        thread.start()
        thread.join()
        assert taken(consumer) == [*SOME, b"x"]


def test_threads_that_stage_and_send_in_one_handle(remote_place):
    """Each thread's messages come once, in its order."""
    with far_queue(remote_place, capacity_bytes=4096, max_message=64) as (consumer, producer):
        got, each = [], 300

        def put(thread):
            for i in range(each):
                producer.put(pickle.dumps((thread, i)), flush=i % 7 == thread)
            producer.flush()

        threads = [threading.Thread(target=put, args=(k,)) for k in range(3)]
        for thread in threads:
            thread.start()
        while len(got) < 3 * each:
            got.append(pickle.loads(consumer.get(timeout=SECONDS)))
        for thread in threads:
            thread.join()
        for k in range(3):
            assert [i for thread, i in got if thread == k] == list(range(each))
        assert consumer.empty()


def test_the_stage_is_bounded(remote_place):
    """A quarter of the lane, and at most 64 KiB, are sent without a flush."""
    for capacity, most in ((4096, 1024), (1 << 20, 65536)):
        with far_queue(remote_place, capacity_bytes=capacity) as (consumer, producer):
            data, sent = bytes(48), 0
            while consumer.empty():
                producer.put(data, flush=False)
                sent += 1
                assert producer.staged * 64 < most
            assert taken(consumer) == [data] * sent


def test_a_lane_that_is_full_is_sent(remote_place):
    """Else what is staged would wait for a consumer, which cannot see it."""
    with far_queue(remote_place, capacity_bytes=4096, max_message=1500) as (consumer, producer):
        sent = []
        with pytest.raises(errors.FullError):
            while True:
                producer.put(bytes([len(sent)]) * 700, False, flush=False)
                sent.append(bytes([len(sent)]) * 700)
        assert (taken(consumer), producer.staged) == (sent, 0)


def test_a_reservation_that_waits_for_room_sends_them(remote_place):
    with far_queue(remote_place, capacity_bytes=4096, max_message=1500) as (consumer, producer):
        producer.put_many([bytes(900)] * 3)
        stage(producer, [bytes(900)])
        assert producer.staged
        with pytest.raises(errors.FullError):
            producer.reserve(1500, False)
        assert (len(taken(consumer)), producer.staged) == (4, 0)


def test_what_is_mapped_is_there_at_once(here):
    with here.queue("q", create=True) as queue:
        stage(queue)
        assert (queue.staged, queue.qsize(), taken(queue)) == (0, len(SOME), SOME)
        queue.put(b"x", flush=False)
        queue.flush()
        assert queue.get() == b"x"
        here.unlink("q")


def test_a_consumer_that_sleeps_is_woken_by_the_flush(here):
    with here.queue("q", create=True) as queue:
        queue.produce()
        got = []
        thread = threading.Thread(target=lambda: got.append(queue.get(timeout=SECONDS)))
        thread.start()
        queue.put(b"x", flush=False)
        queue.flush()
        thread.join()
        assert got == [b"x"]
        here.unlink("q")


def test_objects_and_stamped_messages(remote_place):
    with far_queue(remote_place) as (consumer, producer):
        objects = Pickled(producer)
        objects.put({"a": 1}, flush=False)
        objects.put_nowait([2], flush=False)
        assert producer.staged == 2
        objects.flush()
        assert [Pickled(consumer).get(), Pickled(consumer).get()] == [{"a": 1}, [2]]
        stamped = Stamped(producer, clock.Lamport())
        stamp = stamped.put(b"x", flush=False)
        assert consumer.empty()
        stamped.flush()
        assert Stamped(consumer, clock.Lamport()).get() == (stamp, b"x")


# ---- the end ----


def test_the_end_of_a_with_statement_sends(remote_place):
    with far_queue(remote_place) as (consumer, producer):
        with producer:
            stage(producer)
        assert taken(consumer) == SOME


def test_they_are_sent_also_where_the_block_raises(remote_place):
    with far_queue(remote_place) as (consumer, producer):
        with pytest.raises(KeyError), producer:
            stage(producer)
            raise KeyError
        assert taken(consumer) == SOME


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_handle_that_is_dropped_sends(remote_place):
    with ExitStack() as stack:
        context = stack.enter_context(dsmem.Context(remote_place, secret=SECRET))
        cluster = stack.enter_context(dsmem.connect(context=context))
        other = stack.enter_context(dsmem.Context(remote_place, secret=SECRET))
        consumer = stack.enter_context(cluster.queue("q", create=True))
        stage(attached(consumer.ref, other))
        gc.collect()
        assert taken(consumer) == SOME


def grow_old():
    """A producer looks for the shutdown and for its role if its last look is 10 ms old."""
    until = time.monotonic() + 0.02
    while time.monotonic() < until:
        pass


def test_close_says_what_a_shutdown_has_lost(remote_place):
    """The handle is closed all the same: they would never go."""
    with far_queue(remote_place) as (consumer, producer):
        stage(producer)
        consumer.shutdown()
        grow_old()
        with pytest.raises(errors.ShutDownError, match="5 staged messages are lost"):
            producer.close()
        assert producer.closed
        producer.close()
        assert taken(consumer) == []
        assert consumer.counts["producers"] == 0


def test_close_does_not_say_again_what_a_flush_has_said(remote_place):
    with far_queue(remote_place) as (consumer, producer):
        stage(producer)
        consumer.shutdown()
        grow_old()
        for _ in range(2):
            with pytest.raises(errors.ShutDownError) as raised:
                producer.flush()
            assert raised.value.placed == 0
        assert producer.staged == len(SOME)
        producer.shutdown()  # has no effect, and has nothing to say
        producer.close()
        assert taken(consumer) == []


def test_close_says_what_was_staged_after_that(remote_place):
    with far_queue(remote_place) as (consumer, producer):
        stage(producer)
        consumer.shutdown()
        grow_old()
        with pytest.raises(errors.ShutDownError) as raised:
            producer.put(b"x")
        assert raised.value.placed == 1
        stage(producer)
        with pytest.raises(errors.ShutDownError, match="11 staged"):
            producer.close()
        assert taken(consumer) == []


TAIL = 256 + 64 + 64 + 64  # of the one lane: docs/protocols/ring.md


@contextmanager
def wrong_tail(consumer):
    """A tail that no head allows, which every look at it refuses."""
    before = bytearray(8)
    consumer.remote.read(TAIL, before)
    consumer.remote.write(TAIL, b"\xff" * 8)
    try:
        grow_old()
        yield
    finally:
        consumer.remote.write(TAIL, bytes(before))


SENDS = {
    "flush": lambda queue: queue.flush(),
    "put": lambda queue: queue.put(b"x"),
    "put_many": lambda queue: queue.put_many([b"x"]),
    "records": lambda queue: queue.put_many(np.zeros(1, "u8")),
    "shutdown": None,
}


@pytest.mark.parametrize("how", SENDS)
def test_an_error_that_passes_is_not_that_of_later_messages(remote_place, how):
    """As many are staged afterwards as the exception has spoken of: close() sends them."""
    with far_queue(remote_place, producers=1) as (consumer, producer):
        stage(producer)
        with wrong_tail(consumer), pytest.raises(errors.CorruptError):
            producer.flush()
        if SENDS[how] is None:
            producer.put(b"x")
            stage(producer)
            producer.shutdown()
        else:
            SENDS[how](producer)
            stage(producer)
        producer.close()
        assert taken(consumer)[-5:] == SOME


async def test_an_error_that_passes_where_a_task_puts(remote_place):
    with far_queue(remote_place, producers=1) as (consumer, producer):
        stage(producer)
        with wrong_tail(consumer), pytest.raises(errors.CorruptError):
            producer.flush()
        await producer.put_async(b"x")
        stage(producer)
        producer.close()
        assert taken(consumer)[-5:] == SOME


def test_close_says_what_an_exception_of_an_item_has_hidden(remote_place):
    """put_many() raises what the item is, and not that those before it were never sent."""
    with far_queue(remote_place) as (consumer, producer):
        stage(producer)
        consumer.shutdown()
        grow_old()
        with pytest.raises(errors.ArgumentTypeError) as raised:
            producer.put_many([b"a", 5])
        assert (raised.value.placed, producer.staged) == (1, 6)
        with pytest.raises(errors.ShutDownError, match="6 staged messages are lost"):
            producer.close()


async def test_close_says_what_a_cancelled_task_has_not_heard(remote_place):
    """Whether the helper has tried before, afterwards, or not at all."""
    with far_queue(remote_place) as (consumer, producer):
        producer.produce()
        consumer.shutdown()
        grow_old()
        task = asyncio.create_task(producer.put_async(b"x"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises((asyncio.CancelledError, errors.ShutDownError)) as raised:
            await task
        staged = producer.staged
        with suppress(errors.ShutDownError) if raised.type is not asyncio.CancelledError else raising_if(staged):
            producer.close()


def raising_if(staged):
    return pytest.raises(errors.ShutDownError, match="lost") if staged else suppress(errors.ShutDownError)


def test_a_shutdown_at_once_gives_them_up(remote_place):
    with far_queue(remote_place) as (consumer, producer):
        stage(producer)
        producer.shutdown(immediate=True)
        producer.close()
        with pytest.raises(errors.ShutDownError):
            consumer.get_nowait()


def test_a_role_that_was_taken(remote_place):
    with far_queue(remote_place, producers=1) as (consumer, producer):
        producer.produce()
        stage(producer)
        assert consumer.break_(consumer.producers()[0])
        grow_old()
        with pytest.raises(errors.NotHeldError, match="5 staged messages are lost"):
            producer.close()
        assert producer.closed and taken(consumer) == []


def test_an_owner_that_is_gone(remote_place):
    """However often close() has to be called until that is known, an exception says it before the handle is closed."""
    with Owner(remote_place) as owner, dsmem.Context(remote_place, secret=SECRET) as far:
        producer = attached(owner.ref, far)
        stage(producer)
        owner.process.kill()
        owner.process.join()
        raised = []
        while not producer.closed:
            try:
                producer.close()
            except (errors.PeerDeadError, errors.TransportError, errors.TimeoutError, errors.StaleDescriptorError) as e:
                raised.append(e)
        if "shm" not in remote_place:  # there the memory outlives its owner
            assert "5 staged messages" in str(raised[0])
        producer.close()


def test_an_owner_that_does_not_answer(remote_place):
    """Until it does, nothing is lost, and the handle is open."""
    with (
        Owner(remote_place) as owner,
        dsmem.Context(remote_place, secret=SECRET, peer_timeout=0.2) as far,
        dsmem.Context(remote_place, secret=SECRET) as patient,
    ):
        producer, consumer = attached(owner.ref, far), attached(owner.ref, patient)
        while producer.staged < len(SOME):
            with suppress(errors.TransportError, errors.TimeoutError):  # the host is busy
                producer.put(SOME[producer.staged], flush=False)
        owner.stop()
        if "shm" not in remote_place:  # there it need not answer
            with pytest.raises((errors.TimeoutError, errors.TransportError), match="5 staged messages have not been"):
                producer.close()
            assert (producer.closed, producer.staged) == (False, len(SOME))
        owner.go_on()
        while not producer.closed:
            with suppress(errors.TransportError, errors.TimeoutError):
                producer.close()
        assert taken(consumer)[10:] == SOME
        consumer.close()


def test_a_fork_leaves_them_to_the_parent(remote_place):
    with far_queue(remote_place) as (consumer, producer):
        stage(producer)
        child = os.fork()
        if not child:
            with suppress(errors.ForkError):
                producer.flush()
                os._exit(1)
            producer.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert consumer.empty()
        producer.flush()
        assert taken(consumer) == SOME


ENDING = """
import os, pickle, sys, dsmem, dsmem.leaving
dsmem.leaving._OWNER_SECONDS = dsmem.leaving._SECONDS = 60  # the host may be busy
context = dsmem.Context(sys.argv[1], secret=b"9e0e" * 16)
q = dsmem.attach(pickle.loads(bytes.fromhex(sys.argv[2])), context)
for data in b"01234":
    q.put(b"%c" % data, flush=False)
{}
"""
ENDINGS = {  # what the process does, and whether its messages arrive
    "end": ("", True),
    "exception": ("raise SystemExit(0)", True),
    "_exit": ("os._exit(0)", False),
    "kill": ("os.kill(os.getpid(), 9)", False),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_the_end_of_a_process(remote_place, how):
    """One that ends in order sends them; one that does not has sent nothing."""
    body, arrives = ENDINGS[how]
    with dsmem.Context(remote_place, secret=SECRET) as context, dsmem.connect(context=context) as cluster:
        with cluster.queue("q", create=True, producers=1) as consumer:
            ref = pickle.dumps(consumer.ref).hex()
            command = [sys.executable, "-c", ENDING.format(body), remote_place, ref]
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
            assert done.returncode in (0, -9), done.stderr
            assert taken(consumer) == (SOME if arrives else [])


def test_the_end_of_a_process_says_what_was_not_sent(remote_place):
    with dsmem.Context(remote_place, secret=SECRET) as context, dsmem.connect(context=context) as cluster:
        with cluster.queue("q", create=True, producers=1) as consumer:
            ref = pickle.dumps(consumer.ref).hex()
            body = "import logging; logging.basicConfig(); print(flush=True); sys.stdin.readline()"
            command = [sys.executable, "-c", ENDING.format(body), remote_place, ref]
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            child.stdout.readline()
            consumer.shutdown()
            grow_old()
            _, said = child.communicate("", timeout=SECONDS)
            assert child.returncode == 0 and "5 staged messages are lost" in said
            assert consumer.counts["producers"] == 0


# ---- faults ----


@pytest.mark.parametrize("fault", ["fail", "failafter", "duplicate"])
def test_whatever_fails_each_comes_once_and_in_order(fault_place, fault):
    """Placed says of the put that raised whether its own message is staged; those before it stay staged."""
    failed = 0
    for n in range(3, 25, 2):
        with ExitStack() as stack:
            context = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
            cluster = stack.enter_context(dsmem.connect(context=context))
            far = stack.enter_context(dsmem.Context(f"{fault_place}://?{fault}={n}", secret=SECRET))
            consumer = stack.enter_context(cluster.queue("q", create=True, capacity_bytes=4096, max_message=1000))
            producer = None
            while producer is None:
                with suppress(errors.TransportError):
                    producer = stack.enter_context(dsmem.attach(consumer.ref, far))
            sent, got, placed = [bytes([i]) * 300 for i in range(40)], [], 0
            while placed < len(sent):
                try:
                    producer.put(sent[placed], False, flush=False)
                    placed += 1
                except errors.FullError:
                    got += taken(consumer)
                except errors.TransportError as error:
                    placed += error.placed
                    failed += 1
            while True:
                with suppress(errors.TransportError):
                    producer.flush()
                    break
            assert got + taken(consumer) == sent, n
    assert failed or fault == "duplicate"


def test_a_put_whose_send_has_no_answer(fault_place):
    """Its message is staged, and its exception says so."""
    sent = [bytes([i]) * 300 for i in range(4)]
    with far_queue(fault_place, capacity_bytes=4096) as (_, producer):
        stage(producer, sent[:3])
        last = producer.remote.context.stats["posts"]
    with far_queue(fault_place, f"://?drop={last + 1}", capacity_bytes=4096) as (consumer, producer):
        stage(producer, sent[:3])
        with pytest.raises((errors.TimeoutError, errors.TransportError)) as raised:
            producer.put(sent[3], timeout=0, flush=False)
        assert (raised.value.placed, producer.staged) == (1, 4)
        producer.flush()
        assert taken(consumer) == sent
