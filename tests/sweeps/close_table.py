"""What the close sweep calls: a row for each public method, property and context manager of each class with close()."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from epochs import SECRET as SECRET_OF_NODES

import dsmem
from dsmem import _core
from dsmem.clock import Lamport
from dsmem.queue import Pickled, Stamped

SECRET = b"close sweep secret"
_numbers = itertools.count()


@dataclass
class Index:
    """An int; struck in __index__."""

    value: int


@dataclass
class Float:
    """A number of seconds; struck in __float__."""

    value: float


@dataclass
class Memory:
    """So many bytes; struck in __dlpack__ or __array__."""

    value: int


@dataclass
class Items:
    """An iterable; struck at each item."""

    value: tuple[Any, ...]


@dataclass
class Call:
    """A callable that returns this; struck when it is called."""

    value: Any


@dataclass
class Object:
    """What is pickled; struck in __reduce__."""

    value: Any


@dataclass
class Other:
    """Another handle, which the creator has left in OTHERS."""

    name: str


OTHERS: dict[str, Any] = {}
TYPES = (Index, Float, Memory, Items, Call, Object)
SHORT = Float(0.02)
PAGE_ID = 1 << 40  # of no page: a call looks for it

NAMED: dict[str, tuple[Any, ...]] = {"name": (), "ref": (), "closed": (), "close": (), "unlink": (), "with": ()}
HELD = {"token": (), "recovered": ()}
TASK = {"acquire_async": (SHORT,), "release_async": (), "async with": ()}
LOCK = {
    **NAMED,
    **TASK,
    **HELD,
    "acquire": (True, SHORT),
    "release": (),
    "locked": (),
    "holder": (),
    "break_": (Index(1),),
}
ROWS: dict[str, dict[str, tuple[Any, ...]]] = {
    "Context": {
        "capabilities": (),
        "fabrics": (),
        "fabric": (),
        "agent_address": (),
        "node_id": (),
        "closed": (),
        "stats": (),
        "allocate": (Index(4096),),
        "empty": (Index(64),),
        "empty_like": (Memory(4096),),
        "copy": (Memory(4096),),
        "register": (Memory(4096),),
        "register_many": (Items((bytearray(64), bytearray(64))),),
        "attach": (b"not a descriptor",),
        "pool": (Index(4096),),
        "attach_many": (Memory(8),),
        "batch": (SHORT,),
        "fence": (Memory(16),),
        "close": (),
        "with": (),
    },
    "Region": {
        "context": (),
        "nbytes": (),
        "access": (),
        "closed": (),
        "descriptor": (),
        "array": ("u1",),
        "close": (),
        "with": (),
    },
    "Pool": {
        "context": (),
        "nbytes": (),
        "access": (),
        "closed": (),
        "descriptor": (),
        "array": (),
        "allocate": (Index(64),),
        "allocate_many": (Items((Index(64), Index(64))),),
        "free_many": (Memory(132),),
        "close": (),
        "with": (),
    },
    "Service": {"context": (), "address": (), "closed": (), "call": (b"a request", SHORT), "close": ()},
    "Remotes": {
        "context": (),
        "nbytes": (),
        "closed": (),
        "read_many": (Items((0,)), Items((0,)), Memory(8), SHORT),
        "write_many": (Items((0,)), Items((0,)), Memory(8), SHORT),
        "close": (),
        "with": (),
    },
    "Remote": {
        "context": (),
        "nbytes": (),
        "access": (),
        "peer": (),
        "address": (),
        "fabric": (),
        "bulk_fabric": (),
        "closed": (),
        "is_mapped": (),
        "array": ("u1",),
        "read": (Index(0), Memory(8), SHORT),
        "write": (Index(0), Memory(8), SHORT),
        "fetch_add": (Index(0), Index(1), SHORT),
        "compare_swap": (Index(0), Index(0), Index(1), SHORT),
        "read_many": (Memory(8), Memory(8), SHORT),
        "write_many": (Items((0,)), Memory(8), SHORT),
        "read_async": (Index(0), Memory(8)),
        "write_async": (Index(0), Memory(8)),
        "fetch_add_async": (Index(0), Index(1)),
        "compare_swap_async": (Index(0), Index(0), Index(1)),
        "detach": (),
        "close": (),
        "with": (),
    },
    "Queue": {
        **NAMED,
        "remote": (),
        "region": (),
        "properties": (),
        "counts": (),
        "produce": (),
        "consume": (),
        "flush": (),
        "staged": (),
        "put": (Memory(8), True, SHORT),
        "put_nowait": (Memory(8),),
        "put_many": (Items((b"a", b"b")), True, SHORT),
        "reserve": (8, True, SHORT),
        "commit": (Index(0),),
        "cancel": (),
        "get": (True, SHORT),
        "get_nowait": (),
        "get_many": (Index(2), True, SHORT),
        "get_async": (),
        "get_many_async": (Index(2),),
        "put_async": (Memory(8),),
        "peek": (True, SHORT),
        "release": (),
        "qsize": (),
        "empty": (),
        "full": (),
        "shutdown": (Call(False),),
        "producers": (),
        "consumer": (),
        "break_": (Index(1),),
        "fileno": (),
    },
    "Segment": {
        **NAMED,
        "dtype": (),
        "readonly": (),
        "shape": (),
        "capacity": (),
        "versioned": (),
        "nbytes": (),
        "ndim": (),
        "size": (),
        "array": (),
        "read": (Index(0), None),
        "write": (0, Index(1)),
        "fetch_add": (Index(0), Index(1)),
        "compare_swap": (Index(0), Index(0), Index(1)),
        "update": (0, Call(3), SHORT),
        "wait": (0, Call(False), SHORT),
        "read_async": (Index(0), None),
        "write_async": (0, Index(1)),
        "wait_async": (0, Call(False), SHORT),
        "snapshot": (SHORT,),
        "writer": (),
        "break_": (Index(1),),
        "writing": (SHORT,),
        "publish": (Memory(512), SHORT),
        "resize": (Index(3), SHORT),
    },
    "Lock": LOCK,
    "RWLock": {
        **NAMED,
        **HELD,
        "acquire_read": (True, SHORT),
        "acquire_read_async": (SHORT,),
        "release_read_async": (),
        "acquire_write_async": (SHORT,),
        "release_write_async": (),
        "release_read": (),
        "acquire_write": (True, SHORT),
        "release_write": (),
        "writer": (),
        "readers": (),
        "break_": (Index(1),),
        "read": (SHORT,),
        "write": (SHORT,),
    },
    "Semaphore": {
        **NAMED,
        **TASK,
        "release_async": (Index(1),),
        "value": (),
        "held": (),
        "recovered": (),
        "holders": (),
        "break_": (Index(1),),
        "acquire": (True, SHORT),
        "release": (Index(1),),
    },
    "CountingSemaphore": {**NAMED, **TASK, "value": (), "acquire": (True, SHORT), "release": (Index(1),)},
    "RLock": LOCK,
    "Event": {
        **NAMED,
        "set_async": (),
        "clear_async": (),
        "wait_async": (SHORT,),
        "set": (),
        "clear": (),
        "is_set": (),
        "wait": (SHORT,),
    },
    "Condition": {
        **LOCK,
        "wait_async": (SHORT,),
        "wait_for_async": (Call(False), SHORT),
        "notify_async": (Index(1),),
        "notify_all_async": (),
        "wait": (SHORT,),
        "wait_for": (Call(False), SHORT),
        "notify": (Index(1),),
        "notify_all": (),
    },
    "Barrier": {
        **NAMED,
        "parties": (),
        "n_waiting": (),
        "broken": (),
        "wait": (SHORT,),
        "wait_async": (SHORT,),
        "abort": (),
        "reset": (),
        "waiters": (),
        "break_": (Index(1),),
    },
    "Once": {
        **NAMED,
        "begin": (SHORT,),
        "end": (Call(True),),
        "call": (Call(1),),
        "done": (),
        "recovered": (),
        "holder": (),
        "break_": (Index(1),),
    },
    "SharedClock": NAMED,
    "Store": {
        **NAMED,
        "page_size": (),
        "allocate": (),
        "allocate_many": (Index(2),),
        "read": (Index(PAGE_ID), Memory(256)),
        "read_many": (Items((PAGE_ID,)), Memory(256)),
        "write": (Index(PAGE_ID), Memory(256)),
        "write_many": (Items((PAGE_ID,)), Memory(256)),
        "version": (Index(PAGE_ID),),
        "metadata": (Index(PAGE_ID),),
        "compare_write": (Index(PAGE_ID), Index(1), Memory(256)),
        "free": (Index(PAGE_ID),),
        "stat": (),
        "counts": (),
        "latencies": (),
        "stat_async": (),
        "health": (),
        "health_async": (),
        "check": (),
        "transaction": (),
        "run": (Call(1),),
        "snapshot": (Items((PAGE_ID,)), Memory(256)),
        "allocate_async": (),
        "allocate_many_async": (Index(2),),
        "read_async": (Index(PAGE_ID), Memory(256)),
        "read_many_async": (Items((PAGE_ID,)), Memory(256)),
        "write_async": (Index(PAGE_ID), Memory(256)),
        "write_many_async": (Items((PAGE_ID,)), Memory(256)),
        "version_async": (Index(PAGE_ID),),
        "metadata_async": (Index(PAGE_ID),),
        "compare_write_async": (Index(PAGE_ID), Index(1), Memory(256)),
        "free_async": (Index(PAGE_ID),),
        "run_async": (Call(1),),
        "snapshot_async": (Items((PAGE_ID,)), Memory(256)),
    },
    # What has no close(), but stands on a handle that has.
    "Batch": {
        "read": (Other("remote"), Index(0), Memory(8)),
        "write": (Other("remote"), Index(0), Memory(8)),
        "fetch_add": (Other("remote"), Index(0), Index(1)),
        "compare_swap": (Other("remote"), Index(0), Index(0), Index(1)),
        "abort": (),
        "done": (),
        "errors": (),
        "statuses": (),
        "with": (),
        "async with": (),
    },
    "Writing": {"with": ()},
    "Side": {"with": (), "async with": ()},
    "Pickled": {
        "put": (Object(5), True, SHORT),
        "put_nowait": (Object(5),),
        "flush": (),
        "get": (True, SHORT),
        "get_nowait": (),
        "qsize": (),
        "empty": (),
        "full": (),
    },
    "Stamped": {"put": (b"12345678", True, SHORT), "flush": (), "get": (True, SHORT)},
}


ROWS["EpochStore"] = ROWS["Store"]
COORDINATED = "coordinated"  # a place: memory nodes, of which $SWEEP_CLUSTER is the coordinator

# By class, what makes its object in a cluster under a name.
NAMED_MAKERS: dict[str, Callable[[Any, str], Any]] = {
    "Queue": lambda c, n: c.queue(n, create=True),
    "Segment": lambda c, n: c.segment(n, 64, np.dtype("i8"), create=True, versioned=True),
    "Lock": lambda c, n: c.lock(n, create=True),
    "RWLock": lambda c, n: c.rwlock(n, create=True),
    "Semaphore": lambda c, n: c.semaphore(n, 3, create=True),
    "CountingSemaphore": lambda c, n: c.semaphore(n, 3, owned=False, create=True),
    "RLock": lambda c, n: c.rlock(n, create=True),
    "Event": lambda c, n: c.event(n, create=True),
    "Condition": lambda c, n: c.condition(n, create=True),
    "Barrier": lambda c, n: c.barrier(n, 2, create=True),
    "Once": lambda c, n: c.once(n, create=True),
    "SharedClock": lambda c, n: c.clock(n, create=True),
    "Store": lambda c, n: c.store(n, page_size=256, capacity="16KiB", members=2, create=True),
}
STORE_OF_NODES = {"page_size": 256, "capacity": "16KiB", "members": 4, "replicas": 2, "create": True}


def public(cls: type) -> set[str]:
    """What a user may call, read or enter."""
    names = {name for name in dir(cls) if not name.startswith("_")}
    blocks = {"with": "__enter__", "async with": "__aenter__"}
    return names | {block for block, method in blocks.items() if hasattr(cls, method)}


def _of_cluster(where: str, make: Any) -> Any:
    def build(stack: contextlib.ExitStack) -> tuple[Any, list[Any]]:
        name = f"o{next(_numbers)}"
        if where == "local":
            cluster = stack.enter_context(dsmem.connect(os.environ["SWEEP_CLUSTER"]))
            handle = make(cluster, name)
            stack.callback(cluster.unlink, name)
            return handle, [handle.close, handle._memory.close, cluster.close]
        owner = dsmem.Context(where, secret=SECRET)
        user = dsmem.Context(where, secret=SECRET)
        cluster = dsmem.connect(context=owner)
        first = make(cluster, name)
        handle = dsmem.attach(first.ref, user)
        stack.callback(_leave, user, first, cluster, owner)
        return handle, [handle.close, handle._memory.close, user.close]

    return build


@contextlib.contextmanager
def at_coordinator(plan: str = "", peer_timeout: float = 2.0) -> Iterator[dsmem.Cluster]:
    """A cluster there, and its context closed behind it."""
    fabric = f"fault+tcp://?{plan}" if plan else "fault+tcp"
    options = {"secret": SECRET_OF_NODES, "listen": "127.0.0.1", "peer_timeout": peer_timeout}
    with dsmem.Context(fabric, **options) as context:
        with dsmem.connect(os.environ["SWEEP_CLUSTER"], context=context) as cluster:
            yield cluster


def _of_coordinator(stack: contextlib.ExitStack) -> tuple[Any, list[Any]]:
    owner, user = (stack.enter_context(at_coordinator()) for _ in range(2))
    name = f"o{next(_numbers)}"
    owner.store(name, **STORE_OF_NODES).close()
    stack.callback(owner.unlink, name)
    handle = user.store(name)
    return handle, [handle.close, handle._memory.close, user.close, handle._memory.remote.context.close]


def _leave(*handles: Any) -> None:
    for handle in handles:
        with contextlib.suppress(dsmem.errors.DsmemError):
            handle.close()


def _made_of(where: str, kind: str, wrap: Any) -> Any:
    """What wraps a handle of that class."""

    def build(stack: contextlib.ExitStack) -> tuple[Any, list[Any]]:
        handle, closers = _of_cluster(where, NAMED_MAKERS[kind])(stack)
        return wrap(handle), closers

    return build


def makers(where: str) -> dict[str, Any]:
    """By class, what makes a handle and the ways to close it and what it stands on."""
    fabric = "shm" if where == "local" else where

    def context(stack: contextlib.ExitStack) -> tuple[Any, list[Any]]:
        handle = dsmem.Context(fabric, secret=SECRET)
        stack.callback(_leave, handle)
        return handle, [handle.close]

    def region(stack: contextlib.ExitStack) -> tuple[Any, list[Any]]:
        owner, _ = context(stack)
        handle = owner.allocate(4096)
        return handle, [handle.close, owner.close]

    def remote(stack: contextlib.ExitStack) -> tuple[Any, list[Any]]:
        source, _ = region(stack)
        user, _ = context(stack)
        handle = user.attach(source.descriptor)
        return handle, [handle.close, user.close]

    def pool(stack: contextlib.ExitStack) -> tuple[Any, list[Any]]:
        owner, _ = context(stack)
        handle = owner.pool(4096)
        return handle, [handle.close, owner.close]

    def remotes(stack: contextlib.ExitStack) -> tuple[Any, list[Any]]:
        source, _ = pool(stack)
        user, _ = context(stack)
        handle = user.attach_many(source.allocate_many([64, 64]))
        return handle, [handle.close, user.close]

    def batch(stack: contextlib.ExitStack) -> tuple[Any, list[Any]]:
        OTHERS["remote"], closers = remote(stack)
        made = OTHERS["remote"].context.batch(SHORT.value)
        made.read(OTHERS["remote"], 0, bytearray(8))
        return made, closers

    def service(stack: contextlib.ExitStack) -> tuple[Any, list[Any]]:
        owner, user = (dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1") for _ in range(2))
        for each in (owner, user):
            stack.callback(_leave, each)
        _core.serve(owner, True)  # takes requests, and answers none
        handle = _core.Service(user, owner.agent_address)
        return handle, [handle.close, user.close]

    return {
        "Context": context,
        "Service": service,
        "Batch": batch,
        "Writing": _made_of(where, "Segment", lambda s: s.writing(SHORT.value)),
        "Side": _made_of(where, "RWLock", lambda rw: rw.write(SHORT.value)),
        "Pickled": _made_of(where, "Queue", Pickled),
        "Stamped": _made_of(where, "Queue", lambda q: Stamped(q, Lamport())),
        "Region": region,
        "Pool": pool,
        "Remotes": remotes,
        "Remote": remote,
        "EpochStore": _of_coordinator,
        **{kind: _of_cluster(where, make) for kind, make in NAMED_MAKERS.items()},
    }
