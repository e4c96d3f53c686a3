"""An exception from a signal handler at any bytecode leaves everything usable.

A trace function raises at the first bytecode that a scene executes in this library, in the scene itself or in what they
use of the standard library; then at the second, and so on. Each time the interrupt itself must come out, and afterwards
the same call must succeed with the same object; in the end in another process, too. File descriptors, threads and what
shared memory holds must be as before. Likewise where a timer's signal raises at random. Objects are of this host, and
in memory of a context that is used through another one. DSMEM_FULL_SWEEPS=1 stops at every bytecode and fifty times
as often at random, the default run at about STOPS bytecodes and STRIKES times.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import multiprocessing
import os
import pathlib
import random
import signal
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import halt
import interrupt_scenes as scenes
import pytest
from epochs import SECRET

import dsmem
from dsmem import _core, queue, sync
from dsmem.membership.follow import EpochStore

FULL = os.environ.get("DSMEM_FULL_SWEEPS") == "1"
STOPS = 30
STRIKES = 8
TRACED = (
    str(Path(dsmem.__file__).parent),
    scenes.__file__,
    *(module.__file__ or "" for module in (contextlib, os, pathlib, threading, weakref)),
    "<frozen os>",
)

# What is not interrupted, and why.
NOT_INTERRUPTED = {
    "close": "every scene of a cluster closes its objects",
    "unlink": "every object has that of Cluster.unlink",
    "shutdown": "it ends the queue, which could not be used again",
    "detach": "close, when the last view has gone",
    "make": "each factory calls it",
    "fence": "it ends the peer",
    "is_mapped": "a field",
    "array": "an array is made by NumPy",
    "split": "arithmetic",
    "batch": "every scene of a batch makes one",
    "register": "this fabric has none",
    "register_many": "this fabric has none",
}


# Forked from a server that has imported everything and opened nothing, since an interpreter takes long to start.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["dsmem", "pytest"])


class Interrupt(BaseException):
    """What the handler of a signal raises."""


def apart(call: Callable[[], Any]) -> Iterator[Any]:
    """The call in a generator, with which end the exceptions that are being handled.

    CPython forgets to end one where an interrupt comes as its handler begins. It would stay, with all that its frames
    hold, until the caller's own handler ends.
    """
    yield call()


def traced(call: Callable[[], Any], stop: int = 0) -> tuple[int, BaseException | None]:
    """Run the call; count the bytecodes of what is traced, and raise at the stop-th, if stop is not 0.

    Returns how many were counted, and what came out. Garbage is collected before and after: a generator that an earlier
    interrupt has left would be closed by the collection, and what is raised there the interpreter reports, and goes on.
    """
    count = 0

    def trace(frame: types.FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(TRACED) or in_destructor(frame):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            count += 1
            if count == stop:
                sys.settrace(None)
                raise Interrupt
        return trace

    error = None
    before = sys.gettrace()
    gc.disable()
    sys.settrace(trace)
    try:
        next(apart(call))
    except BaseException as raised:
        error = raised
    finally:
        sys.settrace(before)
        gc.enable()
    return count, error


def in_destructor(frame: types.FrameType | None) -> bool:
    """Or in the callback of a weak reference: what is raised there the interpreter reports, and goes on."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or (code.co_name == "remove" and code.co_filename == weakref.__file__):
            return True
        frame = frame.f_back
    return False


def held() -> tuple[int, int]:
    """File descriptors and threads of this process."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir())), halt.thread_count()


def settled(before: tuple[int, int]) -> bool:
    """No more than before, as soon as an agent has closed what others have left.

    It may be less: an agent may have been about to close a connection when they were counted before.
    """
    latest = time.monotonic() + scenes.TIMEOUT_S
    while any(now > then for now, then in zip(held(), before, strict=True)):
        if time.monotonic() >= latest:
            return False
        time.sleep(0.01)
    return True


class Local:
    """An object of this host."""

    def __init__(self, name: str, cluster_name: str) -> None:
        self.name, self.scene, self.cluster_name = name, scenes.SCENES[name], cluster_name
        self.cluster = dsmem.connect(cluster_name)
        self.obj = self.scene.make(self.cluster)

    def play_elsewhere(self) -> None:
        """In another process; what it raises stands in the output."""
        process = processes.Process(target=scenes.main, args=(self.cluster_name, self.name))
        process.start()
        process.join(100)
        assert process.exitcode == 0, process.exitcode
        process.close()

    def close(self) -> None:
        scenes.end(self.obj)
        self.cluster.close()


def unwrapped(obj: Any) -> Any:
    """The queue of a Pickled or Stamped one."""
    return getattr(obj, "queue", obj)


class Remote:
    """An object in memory of a context, used through another one."""

    def __init__(self, name: str, fabric: str, plan: str = "") -> None:
        self.name, self.scene, self.fabric = name, scenes.REMOTE[name], fabric
        self.owner = dsmem.Context(fabric, secret=scenes.SECRET)
        self.cluster = dsmem.connect(context=self.owner)
        made = self.scene.make(self.cluster)
        self.ref = unwrapped(made).ref
        self.user = dsmem.Context(f"{fabric}://?{plan}" if plan else fabric, secret=scenes.SECRET)
        self.obj = scenes.attached_to(self.ref, self.user, name)

    def play_elsewhere(self) -> None:
        """In another context: what is held has an identity of each handle's own, and no process."""
        with dsmem.Context(self.fabric, secret=scenes.SECRET) as context:
            obj = scenes.attached_to(self.ref, context, self.name)
            self.scene.call(obj)
            self.scene.undo(obj)
            unwrapped(obj).close()

    def close(self) -> None:
        for one in (unwrapped(self.obj), self.user, self.cluster, self.owner):
            one.close()


class OfNodes:
    """A store of a coordinator."""

    def __init__(self, name: str, address: str, plan: str = "") -> None:
        self.name, self.scene, self.address = name, scenes.OF_NODES[name], address
        self.user = self.context(plan)
        self.cluster = dsmem.connect(address, context=self.user)
        self.obj = self.scene.make(self.cluster)

    @staticmethod
    def context(plan: str) -> dsmem.Context:
        return dsmem.Context(f"fault+tcp://?{plan}" if plan else "fault+tcp", secret=SECRET, listen="127.0.0.1")

    def play_elsewhere(self) -> None:
        with self.context("") as context, dsmem.connect(self.address, context=context) as cluster:
            with cluster.store(scenes.NAME) as obj:
                self.scene.call(obj)
                self.scene.undo(obj)

    def close(self) -> None:
        self.obj.unlink()
        for one in (self.obj, self.cluster, self.user):
            one.close()


Stops = Callable[["Local | Remote | OfNodes"], Iterator[Callable[[], BaseException | None]]]


def sweep(place: Local | Remote | OfNodes, stops: Stops) -> None:
    """Whatever comes in the midst of the call, it can be made again; in the end by others, too."""
    scene, obj, cluster = place.scene, place.obj, place.cluster
    for _ in range(2):  # the second time, what is made once is there
        scene.call(obj)
        scene.undo(obj)
    before, names = held(), cluster.list()
    for number, interrupted in enumerate(stops(place), 1):
        error = interrupted()  # kept meanwhile, with all frames, as where the handler of the exception goes on
        assert error is None or type(error) is Interrupt, f"interrupt {number}: {error!r}"
        scene.undo(obj)
        scene.call(obj)
        scene.undo(obj)
        del error
    assert settled(before)
    assert [info.name for info in cluster.list()] == [info.name for info in names]
    if scene.shared:
        place.play_elsewhere()
    place.close()


def at_bytecodes(place: Local | Remote | OfNodes) -> Iterator[Callable[[], BaseException | None]]:
    call = functools.partial(place.scene.call, place.obj)
    total, error = traced(call)
    assert error is None
    place.scene.undo(place.obj)
    for stop in range(1, total + 1, 1 if FULL else max(1, total // STOPS)):
        yield lambda stop=stop: traced(call, stop)[1]


def at_times(place: Local | Remote | OfNodes) -> Iterator[Callable[[], BaseException | None]]:
    """A timer raises within the time that the call takes, in whatever it does then."""
    chance = random.Random(place.name)
    begun = time.monotonic()
    place.scene.call(place.obj)
    took = time.monotonic() - begun
    place.scene.undo(place.obj)
    for _ in range(STRIKES * 50 if FULL else STRIKES):
        yield lambda: struck(lambda: place.scene.call(place.obj), chance.uniform(1e-6, took))


def struck(call: Callable[[], Any], after: float) -> BaseException | None:
    """Run the call, and raise from a signal's handler after so many seconds; what came out."""
    armed = False

    def strike(_number: int, frame: types.FrameType | None) -> None:
        if armed and in_destructor(frame):
            signal.setitimer(signal.ITIMER_REAL, 1e-5)
        elif armed:
            raise Interrupt

    before = signal.signal(signal.SIGALRM, strike)
    error: BaseException | None = None
    try:
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, after)
            next(apart(call))
        except BaseException as raised:
            error = raised
        armed = False
    except Interrupt as late:
        armed, error = False, error or late
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    return error


# An interrupt between a call and the variable that its result was meant for drops the object.
dropped = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@dropped
@pytest.mark.parametrize("name", scenes.SCENES)
def test_interrupted(name: str, cluster_name: str) -> None:
    sweep(Local(name, cluster_name), at_bytecodes)


# In a destructor of the core's own the interpreter reports it, and goes on.
in_destructors = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@dropped
@in_destructors
@pytest.mark.parametrize("name", scenes.SCENES)
def test_interrupted_at_random(name: str, cluster_name: str) -> None:
    sweep(Local(name, cluster_name), at_times)


@dropped
@pytest.mark.parametrize("name", scenes.REMOTE)
def test_interrupted_remotely(name: str, remote_place: str) -> None:
    sweep(Remote(name, remote_place), at_bytecodes)


@dropped
@in_destructors
@pytest.mark.parametrize("name", scenes.REMOTE)
def test_interrupted_remotely_at_random(name: str, fault_place: str) -> None:
    """Each op takes some time, so that many are hit while they are under way."""
    sweep(Remote(name, fault_place, "delay=*:1ms"), at_times)


@dropped
@pytest.mark.parametrize("name", scenes.OF_NODES)
def test_interrupted_at_a_coordinator(name: str, coordinated: str) -> None:
    sweep(OfNodes(name, coordinated), at_bytecodes)


@dropped
@in_destructors
@pytest.mark.parametrize("name", scenes.OF_NODES)
def test_interrupted_at_a_coordinator_at_random(name: str, coordinated: str) -> None:
    sweep(OfNodes(name, coordinated, "delay=*:1ms"), at_times)


CLASSES = [getattr(sync, name) for name in sync.__all__]
CLASSES += [
    queue.Queue,
    queue.Pickled,
    queue.Stamped,
    dsmem.Segment,
    dsmem.Store,
    EpochStore,
    dsmem.Cluster,
    dsmem.Context,
    _core.Remote,
    _core.Pool,
    _core.Remotes,
    _core.Batch,
    _core.Service,
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_method_has_a_scene(cls: type) -> None:
    covered = {name.partition("+")[0] for name in scenes.BY_CLASS[cls.__name__]}
    methods = {
        name
        for name in dir(cls)
        if not name.startswith("_") and callable(inspect.getattr_static(cls, name)) and not name.endswith("_async")
    }
    assert methods - covered - set(NOT_INTERRUPTED) == set()
