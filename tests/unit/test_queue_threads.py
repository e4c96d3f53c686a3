"""One handle of a queue used by many threads, and by one whose signal handlers raise anywhere."""

import contextlib
import itertools
import multiprocessing as mp
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import dsmem
from dsmem import errors
from dsmem.clock import Lamport
from dsmem.queue import Pickled, Stamped

SECRET = b"the secret of the tests of queues"


@pytest.fixture(params=["local", "fault+shm"])
def ends(request, cluster_name):
    """A consumer's handle, and a producer's, which are one where the memory is local."""
    if request.param == "local":
        with dsmem.connect(cluster_name) as cluster, cluster.queue("q", create=True, capacity_bytes=1 << 14) as q:
            yield q, q
    else:
        with dsmem.Context(request.param, secret=SECRET) as context, dsmem.connect(context=context) as cluster:
            with dsmem.Context(request.param, secret=SECRET) as other:
                with cluster.queue("q", create=True, capacity_bytes=1 << 14) as q, dsmem.attach(q.ref, other) as remote:
                    yield q, remote


def run(*works):
    failed = []

    def guarded(work):
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive()
    assert not failed, failed


@pytest.mark.parametrize("wrap", [Pickled, lambda queue: Stamped(queue, Lamport())], ids=["Pickled", "Stamped"])
def test_fifty_threads_share_a_wrapped_queue(ends, wrap):
    """As CPython's test.test_queue has it: all messages come out, each once, and each thread's in order."""
    consumer, producer = map(wrap, ends)
    n, got = 40, []

    def put(k):
        for i in range(n):
            producer.put(bytes([k, i]) * (1 + i % 7 * 100))

    def get():
        for _ in range(n):
            got.append(consumer.get())

    run(*(lambda k=k: put(k) for k in range(50)), *[get] * 50)
    messages = [one if isinstance(one, bytes) else one[1] for one in got]
    assert sorted(m[:2] for m in messages) == [bytes([k, i]) for k in range(50) for i in range(n)]


class Enough(Exception):
    """What a handler raises."""


def test_a_handler_runs_while_another_thread_has_the_turn():
    """Its op is late; a put of the main thread, which waits behind it, ends with what the handler raises."""
    late, hits, ended = 40, [], threading.Event()
    main = threading.get_ident()

    def handler(*_):
        hits.append(1)
        if len(hits) == 3:
            raise Enough

    def put():
        with pytest.raises(errors.PeerDeadError):
            while True:
                producer.put(b"late")

    def interrupt():
        while not ended.wait(0.001):
            signal.pthread_kill(main, signal.SIGUSR1)

    with contextlib.ExitStack() as stack:
        place = f"fault+shm://?delay={late}-:60000ms"
        user = stack.enter_context(dsmem.Context(place, secret=SECRET, peer_timeout=60))
        owner = stack.enter_context(dsmem.Context("fault+shm", secret=SECRET))
        consumer = stack.enter_context(dsmem.connect(context=owner)).queue("q", create=True, capacity_bytes=1 << 14)
        producer = dsmem.attach(consumer.ref, user)
        stack.callback(signal.signal, signal.SIGUSR1, signal.signal(signal.SIGUSR1, handler))
        threads = [threading.Thread(target=put), threading.Thread(target=interrupt)]
        threads[0].start()
        while user.stats["posts"] < late:
            time.sleep(0.001)
        try:
            with pytest.raises(Enough):
                threads[1].start()
                producer.put(b"behind it")
            assert threads[0].is_alive()
        finally:
            ended.set()
            threads[1].join()
            consumer.close()
            owner.close()  # ends the late op
            threads[0].join()
            with contextlib.suppress(errors.TransportError):
                producer.close()


@pytest.mark.parametrize("wrap", [Pickled, lambda queue: Stamped(queue, Lamport())], ids=["Pickled", "Stamped"])
def test_an_interrupt_anywhere_in_a_put_leaves_the_queue_usable(ends, wrap):
    """A message is in it whole or not at all, and the next put works."""
    consumer, producer = map(wrap, ends)
    code = type(producer).put.__code__
    for stop in itertools.count(1):
        seen = 0

        def trace(frame, event, arg, stop=stop):
            nonlocal seen
            if frame.f_code is not code:
                return None
            frame.f_trace_opcodes = True
            seen += event == "opcode"
            if seen == stop and event == "opcode":
                raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            producer.put(b"perhaps")
            done = True
        except KeyboardInterrupt:
            done = False
        finally:
            sys.settrace(None)
        producer.put(b"surely")
        got = [consumer.get() for _ in range(ends[0].qsize())]
        got = [one if isinstance(one, bytes) else one[1] for one in got]
        assert got in ([b"surely"], [b"perhaps", b"surely"])
        if done:
            assert len(got) == 2
            break
    assert stop > 20


def _put_forever(ref):
    with dsmem.attach(ref) as q:
        rows = np.zeros((256, 1), "u8")
        while True:
            q.put_many(rows)


def test_get_many_takes_no_more_than_the_queue_has_room_for(cluster_name):
    """However fast the producer is: it ends, and signals and other threads get their turn."""
    with dsmem.connect(cluster_name) as cluster, cluster.queue("q", create=True, capacity_bytes=1 << 14) as q:
        p = mp.get_context("spawn").Process(target=_put_forever, args=(q.ref,))
        p.start()
        try:
            for _ in range(300):
                assert len(q.get_many()) <= (1 << 14) // 8
        finally:
            p.kill()
            p.join()


def test_get_many_takes_all_that_is_there(cluster_name):
    """Also of several lanes, and in more than one run."""
    shape = {"create": True, "producers": 3, "capacity_bytes": 1 << 20}
    with dsmem.connect(cluster_name) as cluster, cluster.queue("q", **shape) as q:
        rows = np.arange(50_000, dtype="u8").reshape(-1, 1)
        with dsmem.attach(q.ref) as second, dsmem.attach(q.ref) as third:
            for lane in (q, second, third):
                assert lane.put_many(rows, block=False) == len(rows)
        assert len(q.get_many(10)) == 10
        assert len(q.get_many()) == 3 * len(rows) - 10
        with pytest.raises(errors.EmptyError):
            q.get_many(block=False)


@pytest.mark.parametrize("consumers", ["one", "many"])
def test_close_frees_the_role_of_a_consumer_that_drops(cluster_name, consumers):
    shape = {"create": True, "drop_oldest": True, "consumers": consumers}
    with dsmem.connect(cluster_name) as cluster, cluster.queue("q", **shape) as q:
        with dsmem.attach(q.ref) as first:
            first.consume()
            if consumers == "one":
                with pytest.raises(errors.BusyError):
                    q.consume()
        q.consume()


def test_records_stop_before_a_message_of_another_length(ends):
    consumer, producer = ends
    rows = np.arange(10, dtype="u8").reshape(-1, 1)
    producer.put_many(rows)
    producer.put(bytes(16))
    producer.put_many(rows)
    out = np.full((64, 1), 99, "u8")
    assert consumer.get_many(out=out) == 10
    assert np.array_equal(out[:10], rows) and (out[10:] == 99).all()
    with pytest.raises(errors.MismatchError, match="16"):
        consumer.get_many(out=out)
    assert consumer.get() == bytes(16)
    assert consumer.get_many(out=out) == 10


def test_the_wait_of_a_blocking_get_sleeps(cluster_name):
    with dsmem.connect(cluster_name) as cluster, cluster.queue("q", create=True, spin=0) as q:
        q.consume()
        before = switches()
        with pytest.raises(errors.EmptyError):
            q.get(timeout=0.1)
        assert switches() > before


def switches():
    """How often this thread has gone to sleep of its own accord."""
    status = Path("/proc/thread-self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("voluntary"))
