"""What is done while the wall clock jumps: test_jumps.py runs it. No call has less time or more, stamps only grow."""

import contextlib
import itertools
import signal
import threading
import time

import halt
import pytest
from names_server import process_that_serves
from short_timeouts import in_vain

import dsmem
from dsmem import errors
from dsmem.clock import Deadline, HybridClock

SECRET = b"0bec7" * 12 + b"0b1e"
SECONDS = 60  # for what must not end before
SHORT = 0.2


def hours():
    """By how many the wall clock is off, from where it was first."""
    return round((time.time() - time.monotonic() - FIRST) / 3600)


FIRST = time.time() - time.monotonic()


def jumps(count=8):
    """So that a loop goes on until the wall clock has been set so often; and it is set both ways."""
    seen = [hours()]
    while len(seen) < count:
        yield
        now = hours()
        if now != seen[-1]:
            seen.append(now)
    assert len(set(seen)) == 3


def after_jumps(call):
    """call(), which waits, in another thread; then the clock jumps. Returns what ends the thread, and its results."""
    results = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    for _ in jumps():
        time.sleep(0.001)
    assert not results, "it has ended before its time"

    def ended():
        thread.join(SECONDS)
        assert not thread.is_alive(), "it goes on after its time"
        return results[0]

    return ended


@pytest.fixture
def region(fabric):
    with dsmem.Context(fabric, secret=SECRET) as owner, owner.allocate(1 << 16) as region:
        yield region


def test_ops(fabric, region):
    with dsmem.Context(fabric, secret=SECRET) as user, user.attach(region.descriptor, timeout=SECONDS) as remote:
        out, count = bytearray(40000), 0
        for _ in jumps():
            remote.write(8, b"\7" * 40000, timeout=SECONDS)
            remote.read(8, out, timeout=SECONDS)
            assert out == b"\7" * 40000
            with user.batch(timeout=SECONDS) as batch:
                results = [batch.fetch_add(remote, 0, 1) for _ in range(10)]
            assert [result.value for result in results] == list(range(count, count + 10))
            count += 10


def test_a_deadline():
    late, early = Deadline(SHORT), Deadline(SECONDS)
    for _ in jumps():
        assert not early.expired
    while not late.expired:
        pass


def test_locks(cluster, other):
    with contextlib.closing(cluster.lock("l", create=True)) as lock, contextlib.closing(other(lock)) as theirs:
        assert lock.acquire(timeout=SECONDS)
        assert not in_vain(theirs.acquire, timeout=SHORT)
        ended = after_jumps(lambda: theirs.acquire(timeout=SECONDS) and not theirs.release())
        lock.release()
        assert ended()


def test_events(cluster, other):
    with contextlib.closing(cluster.event("e", create=True)) as event, contextlib.closing(other(event)) as theirs:
        assert not in_vain(theirs.wait, timeout=SHORT)
        ended = after_jumps(lambda: theirs.wait(timeout=SECONDS))
        event.set()
        assert ended()


def test_queues(cluster, other):
    with cluster.queue("q", create=True, capacity_bytes=4096, max_message=1024) as queue, other(queue) as theirs:
        with pytest.raises(errors.EmptyError):
            queue.get(timeout=SHORT)
        ended = after_jumps(lambda: queue.get(timeout=SECONDS))
        theirs.put(b"at last", timeout=SECONDS)
        assert ended() == b"at last"
        with pytest.raises(errors.FullError):
            while True:
                in_vain(theirs.put, bytes(1024), timeout=SHORT)
        ended = after_jumps(lambda: theirs.put(b"\1" * 1024, timeout=SECONDS))
        while queue.get(timeout=SECONDS) != b"\1" * 1024:
            pass
        ended()


def test_a_hybrid_clock_that_may_drift(cluster, other):
    """It is an hour ahead from the first jump on, and counts."""
    with cluster.clock("c", create=True) as shared, other(shared) as theirs:
        clocks = [HybridClock(3 * 3600, shared=each) for each in (shared, theirs)]
        stamps = []
        for _ in jumps():
            stamps += [clock.send() for clock in clocks]
            stamps.append(clocks[0].receive(stamps[-1]))
        assert all(a < b for a, b in itertools.pairwise(stamps))


def test_a_hybrid_clock_that_may_not(cluster, other):
    """While the wall clock is behind it says so, and stays; then it goes on."""
    with cluster.clock("c", create=True) as shared, other(shared) as theirs:
        clocks = [HybridClock(1.0, shared=each) for each in (shared, theirs)]
        last, refused, more = 0, 0, 0
        for _ in jumps(16):
            for clock in clocks:
                try:
                    stamp = clock.send()
                except errors.ClockDriftError:
                    refused += 1
                    assert clock.now == last
                else:
                    assert stamp > last
                    last, more = stamp, more + (refused > 0)
        assert refused and more


def test_a_store(cluster, other):
    with cluster.store("s", capacity="1MiB", create=True) as store, other(store) as theirs:
        pages = [store.allocate() for _ in range(4)]

        def copy(transaction):
            transaction.write(pages[1], transaction.read(pages[0]))

        for number, _ in enumerate(jumps()):
            data = bytes([number % 256]) * store.page_size
            for page in pages:
                (store, theirs)[number % 2].write(page, data if page == pages[0] else bytes(store.page_size))
            theirs.run(copy, timeout=SECONDS)
            assert bytes(store.read(pages[1])) == data
        assert not store.check()["wrong"]


def test_an_owner_that_is_stopped(fabric, cluster_name):
    if fabric != "tcp":
        pytest.skip("the owner of other fabrics need not answer")
    with process_that_serves(SECRET) as (server, address):
        with dsmem.Context("tcp", secret=SECRET, peer_timeout=SHORT) as user:
            with dsmem.connect(f"{address}/{cluster_name}", context=user) as cluster:
                with contextlib.closing(cluster.segment("s", 8, "u8", create=True)) as segment:
                    halt.stop(server.pid)
                    with pytest.raises((errors.TimeoutError, errors.PeerDeadError)):
                        segment.read(0)
                    with pytest.raises(errors.TimeoutError):
                        user.attach(segment.ref.descriptor, timeout=SHORT)
                    server.send_signal(signal.SIGCONT)
