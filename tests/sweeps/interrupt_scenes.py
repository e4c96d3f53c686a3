"""Scenes of the interrupt sweep: public calls, how their objects are made, and what is undone after an interrupt.

``python interrupt_scenes.py CLUSTER SCENE`` makes the call once, in a process of its own, over the object named NAME.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from short_timeouts import in_vain

import dsmem
from dsmem import _core, clock, errors, queue

NAME = "it"
SECRET = b"5eed" * 16  # a key: a text would be stretched
TIMEOUT_S = 60.0  # seconds until a call that must succeed counts as stuck


class Scene:
    """A call that may be interrupted.

    make gets the cluster and returns the object; open gets another handle of it, in another process; None: nothing is
    shared. call and undo get the object. undo gives back what the call has got, if it has got it; then the call must be
    possible again.
    """

    def __init__(
        self,
        make: Callable[[dsmem.Cluster], Any],
        call: Callable[[Any], Any],
        undo: Callable[[Any], Any] = lambda _obj: None,
        *,
        shared: bool = True,
    ) -> None:
        self.make, self.call, self.undo, self.shared = make, call, undo, shared


def another(cluster: dsmem.Cluster) -> Any:
    """Another handle of the object."""
    (info,) = (info for info in cluster.list() if info.name == NAME)
    if info.kind == "counting_semaphore":
        return cluster.semaphore(NAME, owned=False)
    return getattr(cluster, info.kind)(NAME)


# -- objects --


def of(kind: str, *arguments: Any, **named: Any) -> Callable[[dsmem.Cluster], Any]:
    return lambda cluster: getattr(cluster, kind)(NAME, *arguments, create=True, **named)


def rows(cluster: dsmem.Cluster) -> Any:
    return cluster.segment(NAME, (4, 3), "i8", create=True)


def versions(cluster: dsmem.Cluster) -> Any:
    return cluster.segment(NAME, (4, 3), "i8", create=True, versioned=True, capacity=8)


def taken(cluster: dsmem.Cluster) -> Any:
    lock = cluster.lock(NAME, create=True)
    lock.acquire()
    return lock


def filled(consumers: str) -> Callable[[dsmem.Cluster], Any]:
    def make(cluster: dsmem.Cluster) -> Any:
        made = cluster.queue(NAME, create=True, producers="many", consumers=consumers)
        made.put_many([b"%d" % i for i in range(3000)])
        return made

    return make


def context(_cluster: dsmem.Cluster) -> dsmem.Context:
    return dsmem.Context("fault+shm", secret=SECRET)


REGIONS: dict[dsmem.Context, Any] = {}  # what a context would otherwise lose


def remote(_cluster: dsmem.Cluster) -> Any:
    ctx = dsmem.Context("fault+shm", secret=SECRET)
    REGIONS[ctx] = ctx.allocate(4096)
    return ctx.attach(REGIONS[ctx].descriptor)


def pool(_cluster: dsmem.Cluster) -> Any:
    """Large enough for what each interrupt may lose."""
    return dsmem.Context("fault+shm", secret=SECRET).pool(1 << 20)


def remotes(cluster: dsmem.Cluster) -> Any:
    owned = pool(cluster)
    REGIONS[owned.context] = owned
    return owned.context.attach_many(owned.allocate_many([64, 64]))


def end(obj: Any) -> None:
    """Close the context of an object that has one of its own."""
    if isinstance(obj, Served):
        obj.close()
    ctx = getattr(obj, "context", obj)
    if isinstance(ctx, dsmem.Context):
        REGIONS.pop(ctx, None)
        ctx.close()


# -- what is undone --


def release(lock: Any) -> None:
    while lock.token is not None:
        lock.release()


def release_readers(lock: Any) -> None:
    with contextlib.suppress(errors.NotHeldError):
        while True:
            lock.release_read()


def release_writer(lock: Any) -> None:
    with contextlib.suppress(errors.NotHeldError):
        lock.release_write()


def release_permits(semaphore: Any) -> None:
    while semaphore.held:
        semaphore.release()


def cancel(q: Any) -> None:
    with contextlib.suppress(errors.InvalidArgumentError):
        q.cancel()


def forget_message(q: Any) -> None:
    with contextlib.suppress(errors.InvalidArgumentError):
        q.release()


def end_once(once: Any) -> None:
    with contextlib.suppress(errors.NotHeldError):
        once.end(False)


# -- calls --


def enter(what: Callable[[Any], Any] = lambda obj: obj) -> Callable[[Any], None]:
    def call(obj: Any) -> None:
        with what(obj):
            pass

    return call


def under(call: Callable[[Any], Any]) -> Callable[[Any], None]:
    """The call on a condition, with its lock."""

    def locked(condition: Any) -> None:
        with condition:
            call(condition)

    return locked


def reserve(q: Any) -> None:
    room = q.reserve(8)
    room[:] = b"reserved"
    room.release()
    q.commit()


def peek(q: Any) -> None:
    message = q.peek()
    bytes(message)
    message.release()
    q.release()


def put_and_get(q: Any) -> None:
    q.put(b"message")
    q.get(timeout=TIMEOUT_S)


def write_version(segment: Any) -> None:
    with segment.writing() as array:
        array[0, 0] += 1


def resize(segment: Any) -> None:
    segment.resize(3)
    segment.resize(4)


def make_and_unlink(kind: str, *arguments: Any, **named: Any) -> Callable[[dsmem.Cluster], None]:
    """Under an interrupt the name may be there or not; either way it must be possible to open or to make it."""

    def call(cluster: dsmem.Cluster) -> None:
        getattr(cluster, kind)("made", *arguments, create=None, **named).close()
        cluster.unlink("made")

    return call


def unmake(cluster: dsmem.Cluster) -> None:
    for child in list(cluster._children.values()):
        child.close()
    with contextlib.suppress(errors.NameNotFoundError):
        cluster.unlink("made")


def connected(cluster: dsmem.Cluster) -> None:
    with dsmem.connect(cluster.name) as again:
        again.lock("made", create=None)


def opened(_cluster: dsmem.Cluster) -> None:
    with dsmem.Context("fault+shm", secret=SECRET):
        pass


def attached(ctx: Any) -> None:
    region = ctx.allocate(4096)
    with region, ctx.attach(region.descriptor) as there:
        there.write(0, b"x")


def many_attached(owned: Any) -> None:
    made = owned.allocate_many([64, 64])
    with owned.context.attach_many(made) as there:
        there.write_many([0, 1], 0, b"xy")
    owned.free_many(made)


def batched(there: Any) -> None:
    out = bytearray(8)
    with there.context.batch() as batch:
        batch.write(there, 0, b"12345678")
        batch.read(there, 0, out, fence=True)
        batch.fetch_add(there, 8, 1)
        batch.compare_swap(there, 16, 0, 0)


def aborted(there: Any) -> None:
    with contextlib.suppress(errors.CanceledError), there.context.batch() as batch:
        batch.fetch_add(there, 8, 1)
        batch.abort()


SMALL = {"page_size": 256, "capacity": 1 << 20}
FEW = {"page_size": 256, "capacity": 1 << 14}  # pages that a check reads one after another


def on_page(call: Callable[[Any, int], Any]) -> Callable[[Any], None]:
    """The call on a page of its own, whose id is lost where an interrupt comes; the store has many."""

    def with_page(store: Any) -> None:
        pid = store.allocate()
        call(store, pid)
        store.free(pid)

    return with_page


def transact(store: Any, pid: int) -> None:
    with store.transaction() as tx:
        tx.write(pid, tx.read(pid))


def free_all(store: Any) -> None:
    """An interrupt has cost a page at most; the store is as usable as before."""
    assert store.stat()["free"] > 3000


class Served:
    """A service and a connection to it; a thread, in which no signal is handled, does what the scene does not."""

    def __init__(self, work: Callable[[Served], None]) -> None:
        self.context, self.user = (dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1") for _ in range(2))
        self.numbers, self.ended = itertools.count(1), False
        _core.serve(self.context, True)
        self.service = _core.Service(self.user, self.context.agent_address)
        self.thread = threading.Thread(target=work, args=(self,))
        self.thread.start()

    def close(self) -> None:
        self.ended = True
        _core.serve(self.context, False)
        self.thread.join()
        self.service.close()
        self.user.close()

    def restart(self) -> None:
        """A question without an answer is refused: one that an interrupt has lost, too."""
        _core.serve(self.context, False)
        _core.serve(self.context, True)

    def ask(self, service: _core.Service) -> None:
        """The answer is that to this question, and to none that has been given up."""
        question = b"%d" % next(self.numbers)
        assert service.call(question) == b"answer to " + question

    def ask_by_another(self) -> None:
        with contextlib.closing(_core.Service(self.user, self.context.agent_address)) as service:
            self.ask(service)

    def answer(self) -> None:
        """One question; before it, connections may have ended."""
        while True:
            call = _core.next_call(self.context, TIMEOUT_S)
            assert call, "no client asks"
            client, number, question = call
            if question is not None:
                assert _core.reply(self.context, client, number, b"answer to " + question)
                return


def answering(_cluster: dsmem.Cluster) -> Served:
    def answer_all(served: Served) -> None:
        with contextlib.suppress(errors.ClosedError):  # it has ended
            while True:
                call = _core.next_call(served.context)
                if call is not None and call[2] is not None:
                    _core.reply(served.context, *call[:2], b"answer to " + call[2])

    return Served(answer_all)


def asking(_cluster: dsmem.Cluster) -> Served:
    def ask_all(served: Served) -> None:
        while not served.ended:
            with contextlib.suppress(errors.UnsupportedError):
                served.ask(served.service)
            time.sleep(0.001)  # it may be off

    return Served(ask_all)


def itself(cluster: dsmem.Cluster) -> dsmem.Cluster:
    return cluster


ROWS = np.ones((4, 3), "i8")
LOCK = {
    "acquire": Scene(of("lock"), lambda lock: lock.acquire(timeout=TIMEOUT_S), release),
    "release": Scene(of("lock"), lambda lock: (lock.acquire(timeout=TIMEOUT_S), lock.release()), release),
    "with": Scene(of("lock"), enter(), release),
    "locked": Scene(of("lock"), lambda lock: lock.locked()),
    "holder": Scene(of("lock"), lambda lock: lock.holder()),
    "break_": Scene(of("lock"), lambda lock: lock.break_(1)),
}


def on(kind: str, scenes: dict[str, Scene]) -> dict[str, Scene]:
    """The same scenes with an object of another kind."""
    return {name: Scene(of(kind), scene.call, scene.undo) for name, scene in scenes.items()}


BY_CLASS: dict[str, dict[str, Scene]] = {
    "Lock": LOCK,
    "SpinLock": on("spinlock", LOCK),
    "RLock": on("rlock", LOCK),
    "RWLock": {
        "acquire_read": Scene(of("rwlock"), lambda lock: lock.acquire_read(timeout=TIMEOUT_S), release_readers),
        "release_read": Scene(of("rwlock"), lambda lock: (lock.acquire_read(), lock.release_read()), release_readers),
        "acquire_write": Scene(of("rwlock"), lambda lock: lock.acquire_write(timeout=TIMEOUT_S), release_writer),
        "release_write": Scene(of("rwlock"), lambda lock: (lock.acquire_write(), lock.release_write()), release_writer),
        "read": Scene(of("rwlock"), enter(lambda lock: lock.read(TIMEOUT_S)), release_readers),
        "write": Scene(of("rwlock"), enter(lambda lock: lock.write(TIMEOUT_S)), release_writer),
        "writer": Scene(of("rwlock"), lambda lock: lock.writer()),
        "readers": Scene(of("rwlock"), lambda lock: lock.readers()),
        "break_": Scene(of("rwlock"), lambda lock: lock.break_(1)),
    },
    "Semaphore": {
        "acquire": Scene(of("semaphore", 1), lambda s: s.acquire(timeout=TIMEOUT_S), release_permits),
        "release": Scene(of("semaphore", 1), lambda s: (s.acquire(timeout=TIMEOUT_S), s.release()), release_permits),
        "with": Scene(of("semaphore", 1), enter(), release_permits),
        "holders": Scene(of("semaphore", 1), lambda s: s.holders()),
        "break_": Scene(of("semaphore", 1), lambda s: s.break_(1)),
    },
    "CountingSemaphore": {
        "acquire": Scene(of("semaphore", 10**6, owned=False), lambda s: s.acquire(timeout=TIMEOUT_S)),
        "release": Scene(of("semaphore", 0, owned=False), lambda s: s.release()),
        "with": Scene(of("semaphore", 10**6, owned=False), enter()),
    },
    "Event": {
        "set": Scene(of("event"), lambda event: event.set()),
        "clear": Scene(of("event"), lambda event: event.clear()),
        "is_set": Scene(of("event"), lambda event: event.is_set()),
        "wait": Scene(of("event"), lambda event: in_vain(event.wait, 0.001)),
    },
    "Condition": {
        **on("condition", LOCK),
        "notify": Scene(of("condition"), under(lambda condition: condition.notify()), release),
        "notify_all": Scene(of("condition"), under(lambda condition: condition.notify_all()), release),
        "wait": Scene(of("condition"), under(lambda condition: in_vain(condition.wait, 0.001)), release),
        "wait_for": Scene(of("condition"), under(lambda condition: condition.wait_for(lambda: True)), release),
    },
    "Barrier": {
        "wait": Scene(of("barrier", 1), lambda barrier: barrier.wait(TIMEOUT_S), lambda barrier: barrier.reset()),
        "abort": Scene(of("barrier", 1), lambda barrier: (barrier.abort(), barrier.reset())),
        "reset": Scene(of("barrier", 1), lambda barrier: barrier.reset()),
        "waiters": Scene(of("barrier", 1), lambda barrier: barrier.waiters()),
        "break_": Scene(of("barrier", 1), lambda barrier: barrier.break_(1)),
    },
    "Once": {
        "call": Scene(of("once"), lambda once: once.call(int)),
        "begin": Scene(of("once"), lambda once: once.begin(TIMEOUT_S) and once.end(False), end_once),
        "end": Scene(of("once"), lambda once: once.begin(TIMEOUT_S) and once.end(False), end_once),
        "with": Scene(of("once"), enter(), end_once),
        "holder": Scene(of("once"), lambda once: once.holder()),
        "break_": Scene(of("once"), lambda once: once.break_(1)),
    },
    "Queue": {
        "put": Scene(of("queue", producers=4), lambda q: q.put(b"message"), cancel),
        "put+staged": Scene(
            of("queue", producers=4), lambda q: (q.put(b"message", flush=False), q.put_nowait(b"message")), cancel
        ),
        "put_nowait": Scene(of("queue", producers=4), lambda q: q.put_nowait(b"message"), cancel),
        "put_many": Scene(of("queue", producers=4), lambda q: q.put_many(iter([b"one", b"two"])), cancel),
        "reserve": Scene(of("queue", producers=4), reserve, cancel),
        "commit": Scene(of("queue", producers=4), reserve, cancel),
        "cancel": Scene(of("queue", producers=4), lambda q: (q.reserve(8), q.cancel()), cancel),
        "flush": Scene(of("queue", producers=4), lambda q: (q.put(b"message", flush=False), q.flush()), cancel),
        "staged": Scene(of("queue", producers=4), lambda q: q.staged),
        "produce": Scene(of("queue", producers=4), lambda q: q.produce()),
        "consume": Scene(filled("many"), lambda q: q.consume()),
        "get": Scene(filled("many"), lambda q: q.get(timeout=TIMEOUT_S)),
        "get_nowait": Scene(filled("many"), lambda q: q.get_nowait()),
        "get_many": Scene(filled("many"), lambda q: q.get_many(2)),
        "peek": Scene(filled("one"), peek, forget_message, shared=False),
        "release": Scene(filled("one"), peek, forget_message, shared=False),
        "qsize": Scene(filled("many"), lambda q: (q.qsize(), q.empty(), q.full())),
        "producers": Scene(of("queue", producers=4), lambda q: q.producers()),
        "consumer": Scene(of("queue", producers=4), lambda q: q.consumer()),
        "break_": Scene(of("queue", producers=4), lambda q: q.break_(1)),
        "empty": Scene(filled("many"), lambda q: q.empty()),
        "full": Scene(filled("many"), lambda q: q.full()),
        "fileno": Scene(filled("many"), lambda q: q.fileno()),
    },
    "Pickled": {
        "put": Scene(lambda cl: queue.Pickled(of("queue")(cl)), lambda q: q.put({"a": 1}), shared=False),
        "get": Scene(
            lambda cl: queue.Pickled(of("queue")(cl)),
            lambda q: (q.put({"a": 1}), q.get(timeout=TIMEOUT_S)),
            shared=False,
        ),
        "put_nowait": Scene(lambda cl: queue.Pickled(of("queue")(cl)), lambda q: q.put_nowait(1), shared=False),
        "get_nowait": Scene(
            lambda cl: queue.Pickled(of("queue")(cl)), lambda q: (q.put(1), q.get_nowait()), shared=False
        ),
        "flush": Scene(
            lambda cl: queue.Pickled(of("queue")(cl)), lambda q: (q.put(1, flush=False), q.flush()), shared=False
        ),
        "qsize": Scene(lambda cl: queue.Pickled(of("queue")(cl)), lambda q: q.qsize(), shared=False),
        "empty": Scene(lambda cl: queue.Pickled(of("queue")(cl)), lambda q: q.empty(), shared=False),
        "full": Scene(lambda cl: queue.Pickled(of("queue")(cl)), lambda q: q.full(), shared=False),
    },
    "Stamped": {
        "put": Scene(
            lambda cl: queue.Stamped(of("queue")(cl), clock.Lamport()), lambda q: q.put(b"message"), shared=False
        ),
        "get": Scene(
            lambda cl: queue.Stamped(of("queue")(cl), clock.Lamport()),
            put_and_get,
            shared=False,
        ),
        "flush": Scene(
            lambda cl: queue.Stamped(of("queue")(cl), clock.Lamport()),
            lambda q: (q.put(b"message", flush=False), q.flush()),
            shared=False,
        ),
    },
    "Segment": {
        "read": Scene(rows, lambda s: s.read(0)),
        "read+pieces": Scene(rows, lambda s: s.read((slice(None), 1))),
        "write": Scene(rows, lambda s: s.write(0, 1)),
        "write+pieces": Scene(rows, lambda s: s.write((slice(None), 1), 1)),
        "fetch_add": Scene(rows, lambda s: s.fetch_add((0, 0), 1)),
        "compare_swap": Scene(rows, lambda s: s.compare_swap((0, 0), 0, 0)),
        "update": Scene(rows, lambda s: s.update((0, 0), lambda n: n + 1, TIMEOUT_S)),
        "wait": Scene(rows, lambda s: s.wait((0, 0), lambda n: True, TIMEOUT_S)),
        "writing": Scene(versions, write_version),
        "publish": Scene(versions, lambda s: s.publish(ROWS, TIMEOUT_S)),
        "snapshot": Scene(versions, lambda s: s.snapshot()),
        "resize": Scene(rows, resize),
        "resize+versioned": Scene(versions, resize),
        "writer": Scene(versions, lambda s: s.writer()),
        "break_": Scene(versions, lambda s: s.break_(1)),
    },
    "Store": {
        "allocate": Scene(of("store", **SMALL), lambda s: s.free(s.allocate()), free_all),
        "allocate_many": Scene(of("store", **SMALL), lambda s: [s.free(int(p)) for p in s.allocate_many(2)], free_all),
        "free": Scene(of("store", **SMALL), lambda s: s.free(s.allocate()), free_all),
        "stat": Scene(of("store", **SMALL), lambda s: s.stat()),
        "health": Scene(of("store", **SMALL), lambda s: s.health()),
        "check": Scene(of("store", **SMALL), lambda s: s.check()),
        **{
            name: Scene(of("store", **SMALL), call, free_all)
            for name, call in {
                "read": on_page(lambda s, p: s.read(p)),
                "write": on_page(lambda s, p: s.write(p, bytes(256))),
                "version": on_page(lambda s, p: s.version(p)),
                "metadata": on_page(lambda s, p: s.metadata(p)),
                "compare_write": on_page(lambda s, p: s.compare_write(p, s.version(p), bytes(256))),
                "read_many": on_page(lambda s, p: s.read_many([p])),
                "write_many": on_page(lambda s, p: s.write_many([p], bytes(256))),
                "transaction": on_page(transact),
                "run": on_page(lambda s, p: s.run(lambda tx: tx.write(p, tx.read(p)))),
                "snapshot": on_page(lambda s, p: s.snapshot([p])),
            }.items()
        },
    },
    "Cluster": {
        "list": Scene(itself, lambda cl: cl.list(), shared=False),
        "gc": Scene(itself, lambda cl: cl.gc(), shared=False),
        "unlink": Scene(itself, make_and_unlink("event"), unmake, shared=False),
        "connect": Scene(itself, connected, unmake, shared=False),
        "close": Scene(itself, connected, unmake, shared=False),
        **{
            kind: Scene(itself, make_and_unlink(kind, *arguments), unmake, shared=False)
            for kind, arguments in {
                "lock": (),
                "spinlock": (),
                "rlock": (),
                "rwlock": (),
                "semaphore": (2,),
                "event": (),
                "condition": (),
                "barrier": (2,),
                "once": (),
                "queue": (),
                "segment": ((2, 2),),
                "clock": (),
            }.items()
        },
        "store": Scene(itself, make_and_unlink("store", **SMALL), unmake, shared=False),
    },
    "Context": {
        "open": Scene(itself, opened, unmake, shared=False),
        "close": Scene(itself, opened, unmake, shared=False),
        "allocate": Scene(context, lambda ctx: ctx.allocate(4096).close(), shared=False),
        "empty": Scene(context, lambda ctx: ctx.empty((2, 2)).close(), shared=False),
        "empty_like": Scene(context, lambda ctx: ctx.empty_like([1, 2]).close(), shared=False),
        "copy": Scene(context, lambda ctx: ctx.copy([1, 2]).close(), shared=False),
        "attach": Scene(context, attached, shared=False),
        "pool": Scene(context, lambda ctx: ctx.pool(4096).close(), shared=False),
        "attach_many": Scene(pool, many_attached, shared=False),
    },
    "Pool": {
        "array": Scene(pool, lambda p: p.array(), shared=False),
        "allocate": Scene(pool, lambda p: p.allocate(64).close(), shared=False),
        "allocate_many": Scene(pool, lambda p: p.allocate_many([64, 64]), shared=False),
        "free_many": Scene(pool, lambda p: p.free_many(p.allocate_many([64, 64])), shared=False),
    },
    "Remotes": {
        "read_many": Scene(remotes, lambda rs: rs.read_many([0, 1], [0, 8], bytearray(16)), shared=False),
        "write_many": Scene(remotes, lambda rs: rs.write_many([0, 1], 0, bytes(16)), shared=False),
    },
    "Remote": {
        "read": Scene(remote, lambda there: there.read(0, bytearray(8)), shared=False),
        "write": Scene(remote, lambda there: there.write(0, bytes(8)), shared=False),
        "read_many": Scene(remote, lambda there: there.read_many([0, 8], bytearray(16)), shared=False),
        "write_many": Scene(remote, lambda there: there.write_many([0, 8], bytes(16)), shared=False),
        "fetch_add": Scene(remote, lambda there: there.fetch_add(0, 1), shared=False),
        "compare_swap": Scene(remote, lambda there: there.compare_swap(0, 0, 0), shared=False),
    },
    "Batch": {
        **{
            name: Scene(remote, batched, shared=False)
            for name in ("read", "write", "fetch_add", "compare_swap", "with")
        },
        "abort": Scene(remote, aborted, shared=False),
    },
    "Service": {
        "call": Scene(answering, lambda served: served.ask(served.service), shared=False),
        "open": Scene(answering, Served.ask_by_another, shared=False),
        "close": Scene(answering, Served.ask_by_another, shared=False),
        "serve": Scene(asking, lambda served: (served.restart(), served.answer()), Served.restart, shared=False),
        "next_call": Scene(asking, Served.answer, Served.restart, shared=False),
        "reply": Scene(asking, Served.answer, Served.restart, shared=False),
    },
}
SCENES = {f"{cls}.{name}": scene for cls, scenes in BY_CLASS.items() for name, scene in scenes.items()}


# What only the owner of an object does, or what is not of an object.
OWNERS = {
    "Queue": ("qsize", "empty", "full"),
    "Pickled": ("qsize", "empty", "full"),
}
NO_OBJECTS = ("Cluster", "Context", "Remote", "Pool", "Remotes", "Batch", "Service")
REMOTE = {
    name: scene
    for name, scene in SCENES.items()
    for cls, call in [name.split(".")]
    if cls not in NO_OBJECTS and call not in OWNERS.get(cls, ())
}
# Of a store that has a coordinator, which is not in a cluster of this host.
OF_NODES = {
    f"EpochStore.{name}": Scene(of("store", **(FEW if name == "check" else SMALL), replicas=2), scene.call, scene.undo)
    for name, scene in BY_CLASS["Store"].items()
}
BY_CLASS["EpochStore"] = BY_CLASS["Store"]
WRAPPED = {"Pickled": queue.Pickled, "Stamped": lambda made: queue.Stamped(made, clock.Lamport())}


def attached_to(ref: Any, ctx: dsmem.Context, scene_name: str) -> Any:
    """A handle of what the reference is of, as the scene has it."""
    made = dsmem.attach(ref, ctx)
    return WRAPPED.get(scene_name.partition(".")[0], lambda obj: obj)(made)


def main(cluster_name: str, scene_name: str) -> None:
    scene = SCENES[scene_name]
    with dsmem.connect(cluster_name) as cluster:
        obj = another(cluster)
        scene.call(obj)
        scene.undo(obj)
