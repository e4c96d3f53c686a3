"""Forks while handles of the parent are in use, by its threads and around the fork itself; pools; ends of children."""

import concurrent.futures
import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest
from forked import SECONDS, in_child, keeping, raises

import dsmem
from dsmem import errors
from dsmem.clock import Lamport


@pytest.fixture
def here(here, monkeypatch):
    yield from keeping(here, monkeypatch)


# -- threads --


USED_BY_THREADS = {
    "lock": lambda obj: obj.acquire() and obj.release(),
    "rlock": lambda obj: obj.acquire() and obj.release(),
    "semaphore": lambda obj: obj.acquire() and obj.release(),
    "counting_semaphore": lambda obj: obj.acquire() and obj.release(),
    "rwlock": lambda obj: obj.acquire_read() and obj.release_read(),
    "event": lambda obj: obj.wait(0.001),
    "once": lambda obj: obj.done,
    "barrier": lambda obj: obj.n_waiting,
    "segment": lambda obj: (obj.publish(1), obj.array.sum(), obj.snapshot()),
    "queue": lambda obj: (obj.put(b"x" * 100), obj.get(), obj.flush()),
    "clock": lambda obj: Lamport(obj).send(),
    "condition": lambda obj: obj.acquire() and (obj.wait(0.001), obj.release()),
    "store": lambda obj: (pid := obj.allocate(), obj.write(pid, bytes(256)), obj.read(pid), obj.free(pid)),
}
MADE = {
    "semaphore": {"n": 2},
    "counting_semaphore": {"n": 2, "owned": False},
    "barrier": {"parties": 2},
    "segment": {"shape": 4, "dtype": "i8", "versioned": True},
    "queue": {"producers": 4, "consumers": "many"},
    "store": {"page_size": 256, "capacity": 1 << 16},
}


@pytest.mark.parametrize("kind", USED_BY_THREADS)
def test_threads_of_the_parent_are_in_the_midst_of_it(here, kind):
    """Nothing in the child waits for them, and the child's handle can be used and closed."""
    obj = getattr(here, kind.removeprefix("counting_"))("it", create=True, **MADE.get(kind, {}))
    use, stop = USED_BY_THREADS[kind], threading.Event()

    def work():
        while not stop.is_set():
            use(obj)

    def child():
        if kind == "queue":
            obj.put(b"child")
        elif kind in ("lock", "rlock", "condition"):
            assert obj.acquire(timeout=SECONDS)
            obj.release()
        elif kind == "segment":
            obj.publish(2, timeout=SECONDS)
        elif kind != "barrier":
            use(obj)
        obj.close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            in_child(child)
            in_child(obj.close)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_blocked_thread_of_the_parent(here):
    queue = here.queue("queue", producers=2, create=True)
    taken = []
    thread = threading.Thread(target=lambda: taken.append(queue.get(timeout=SECONDS)))
    thread.start()
    with contextlib.closing(dsmem.attach(queue.ref)) as other:
        while other.consumer() is None:  # until the thread has the consumer's role
            time.sleep(0.001)

    def put():
        queue.put(b"child")
        queue.close()

    in_child(put)
    thread.join()
    assert taken == [b"child"]


# -- a fork in the midst of a call --


def test_a_fork_in_a_barriers_action(here):
    """The child is not a party: what it does breaks nothing. The call that forked ends with an error in the child."""
    children = []

    def action():
        children.append(os.fork())
        if not children[0]:
            assert not barrier.broken  # makes the handle the child's own

    barrier = here.barrier("barrier", 1, action=action, create=True)
    try:
        barrier.wait()
    except errors.ForkError:
        status = 1
        with contextlib.suppress(BaseException):
            barrier.close()
            status = 0
        os._exit(status)
    if not children[0]:
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    assert not barrier.broken


def test_calls_of_before_the_fork_end_in_the_child(here):
    """They count for the handle neither too long nor too short, while a thread of the child is in a call, too."""
    queue = here.queue("queue", producers=3, consumers="many", create=True)
    child = None

    def items():
        nonlocal child
        yield b"1"
        child = os.fork()
        if not child:
            assert queue.qsize() >= 0  # a call of the child's, above the one of the parent's
            thread.start()
            assert begun.wait(SECONDS)

    def block():
        queue.consume()
        begun.set()
        with contextlib.suppress(errors.ClosedError):
            while queue.get(timeout=SECONDS) != b"last":
                pass

    thread, begun = threading.Thread(target=block), threading.Event()
    queue.put(b"0")
    error = None
    try:
        queue.put_many(items())
    except errors.DsmemError as e:
        error = e
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            raises(errors.BusyError, queue.close)  # the thread's call
            queue.put(b"last")
            thread.join()
            queue.close()
            status = 0
        os._exit(status)
    assert error is None
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_fork_in_a_signal_handler_of_a_blocked_get(here):
    queue = here.queue("queue", producers=2, create=True)
    child = None

    def handler(number, frame):
        nonlocal child
        if child is None:
            child = os.fork()
            if not child:
                status = 1
                with contextlib.suppress(BaseException):
                    queue.put(b"from the handler")
                    queue.close()
                    status = 0
                os._exit(status)

    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert queue.get(timeout=SECONDS) == b"from the handler"
    finally:
        signal.signal(signal.SIGALRM, old)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- memory of contexts --


def test_an_object_in_memory_of_a_context_says_what_to_do():
    with dsmem.Context("shm", secret=b"s" * 32) as ctx, dsmem.connect(context=ctx) as cluster:
        objects = {
            "segment": (cluster.segment("s", 4, "i8", create=True), lambda o: o.read(0)),
            "queue": (cluster.queue("q", create=True), lambda o: o.put(b"x")),
            "lock": (cluster.lock("l", create=True), lambda o: o.acquire()),
            "event": (cluster.event("e", create=True), lambda o: o.set()),
            "clock": (cluster.clock("c", create=True), lambda o: Lamport(o).send()),
        }

        def child():
            for obj, use in objects.values():
                try:
                    use(obj)
                except errors.ForkError as error:
                    assert ".ref" in str(error)
                else:
                    raise AssertionError(obj)
            with dsmem.Context("shm", secret=b"s" * 32) as own:
                for obj, use in objects.values():
                    with contextlib.closing(dsmem.attach(obj.ref, own)) as mine:
                        use(mine)
                        if mine.ref.kind == "lock":
                            mine.release()
                    with contextlib.closing(
                        pickle.loads(pickle.dumps(obj))
                    ) as mine:  # the only context is the child's own
                        assert mine.ref.id == obj.ref.id
            cluster.close()
            ctx.close()

        in_child(child)
        for obj, use in objects.values():
            use(obj)
        objects["lock"][0].release()


def test_a_batch_stays_the_parents():
    with dsmem.Context("shm", secret=b"s" * 32) as ctx, ctx.empty(8, "u8") as region:
        with ctx.attach(region.descriptor) as remote, ctx.batch() as batch:
            count = batch.fetch_add(remote, 0, 1)

            def execute():
                raises(errors.ForkError, batch.__exit__, None, None, None)

            in_child(execute)
        assert count.value == 0
        assert region.array()[0] == 1


# -- what is closed or dropped after it was refused --

IN_CONTEXTS = {
    "lock": ({}, lambda o: o.locked()),
    "spinlock": ({}, lambda o: o.locked()),
    "rlock": ({}, lambda o: o.locked()),
    "rwlock": ({}, lambda o: o.readers()),
    "condition": ({}, lambda o: o.locked()),
    "barrier": ({"parties": 2}, lambda o: o.n_waiting),
    "once": ({}, lambda o: o.holder()),
    "event": ({}, lambda o: o.is_set()),
    "semaphore": ({"n": 2}, lambda o: o.value),
    "counting_semaphore": ({"n": 2, "owned": False}, lambda o: o.value),
    "segment": ({"shape": 4, "dtype": "i8", "versioned": True}, lambda o: o.snapshot()),
    "queue": ({}, lambda o: o.put(b"x")),
    "clock": ({}, lambda o: Lamport(o).send()),
}


@pytest.mark.parametrize("way", ["shm", "fault+shm"])
@pytest.mark.parametrize("kind", IN_CONTEXTS)
def test_what_a_context_reached_is_left_to_the_parent(kind, way):
    """Nothing of it is touched in a child, whether it was used there or not."""
    properties, use = IN_CONTEXTS[kind]

    def child(used, end):
        for _ in range(used):
            raises(errors.ForkError, use, handles[0])
        end()
        gc.collect()

    def close():
        handles[0].close()
        assert handles[0].closed

    def close_with_context():
        close()
        user.close()

    with dsmem.Context(way, secret=b"s" * 32) as owner, dsmem.Context(way, secret=b"s" * 32) as user:
        with dsmem.connect(context=owner) as cluster:
            obj = getattr(cluster, kind.removeprefix("counting_"))("it", create=True, **properties)
            handles = [dsmem.attach(obj.ref, user)]
            for end in (close, handles.clear, close_with_context):
                for used in range(3):
                    in_child(child, used, end)
            with contextlib.closing(handles.pop()) as handle:
                use(handle)


# -- descriptors and views of the parent's --


@pytest.mark.parametrize("used", [False, True])
def test_a_child_closes_no_descriptor_that_is_not_its_own(here, used):
    queue = here.queue("it", create=True)
    number = queue.fileno()

    def child():
        os.close(number)  # as daemons do with all that they do not know
        os.dup2(os.open(os.devnull, os.O_RDONLY), number)
        if used:
            queue.qsize()
        queue.close()
        os.fstat(number)

    in_child(child)


# -- how Python makes processes --


def work(args):
    segment, lock, queue, i = args
    with lock:
        segment.write(i, segment.read(i) + 1)
    queue.put(b"%d" % i)
    return int(segment.read(i))


def work_and_say(args):
    assert work(args) == 1


INHERITED = []


def work_inherited(i):
    return work((*INHERITED, i))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_and_pools(here, method):
    segment = here.segment("segment", 8, "i8", create=True)
    lock = here.lock("lock", create=True)
    queue = here.queue("queue", producers=8, consumers="many", create=True)
    queue.put(b"parent")
    how = multiprocessing.get_context(method)
    tasks = [(segment, lock, queue, i) for i in range(8)]
    with how.Pool(2) as pool:
        assert pool.map(work, tasks[:4]) == [1] * 4
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=how) as executor:
        assert list(executor.map(work, tasks[4:6])) == [1] * 2
    for task in tasks[6:]:
        process = how.Process(target=work_and_say, args=(task,))
        process.start()
        process.join(SECONDS)
        assert process.exitcode == 0
    assert segment.read(...).tolist() == [1] * 8
    assert sorted(queue.get_many()) == sorted([b"parent", *(b"%d" % i for i in range(8))])


def test_a_pool_that_inherits(here):
    INHERITED[:] = (
        here.segment("segment", 8, "i8", create=True),
        here.lock("lock", create=True),
        here.queue("queue", producers=8, consumers="many", create=True),
    )
    try:
        INHERITED[2].put(b"parent")
        how = multiprocessing.get_context("fork")
        with how.Pool(2) as pool:
            assert pool.map(work_inherited, range(4)) == [1] * 4
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=how) as executor:
            assert list(executor.map(work_inherited, range(4, 8))) == [1] * 4
        assert len(INHERITED[2].get_many()) == 9
    finally:
        INHERITED.clear()


# -- the end of a child --

END = """
import os, sys
import dsmem

with dsmem.connect(sys.argv[1]) as cluster:
    segment = cluster.segment("segment", 4, "i8", versioned=True, create=True)
    lock = cluster.lock("lock", create=True)
    queue = cluster.queue("queue", producers=2, create=True)
    mine = cluster.event("mine", create=True, lifetime="creator")
    lock.acquire()
    queue.put(b"parent")
    queue.consume()
    child = os.fork()
    if not child:
        if sys.argv[2] == "used":
            segment.write(0, 7)
            lock.acquire(False)
            queue.put(b"child")
            cluster.event("of-the-child", create=True, lifetime="creator")
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert lock.token == 1 and [info.name for info in cluster.list()] == ["lock", "mine", "queue", "segment"]
    lock.release()
    assert queue.get() == b"parent"
    assert queue.empty() == (sys.argv[2] == "unused")
    for info in cluster.list():
        cluster.unlink(info.name)
"""


@pytest.mark.parametrize("how", ["used", "unused"])
def test_a_child_that_ends_as_programs_do(cluster_name, how):
    """Its clean-up at exit gives nothing back that is the parent's, and nothing is printed."""
    done = subprocess.run([sys.executable, "-c", END, cluster_name, how], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
