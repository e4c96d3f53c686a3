"""An exception from a signal handler at any bytecode leaves everything usable.

A trace function raises at the first bytecode that a scene executes in this library, in the scene itself or in what they
use of the standard library; then at the second, and so on. Each time the interrupt itself must come out, and afterwards
the same call must succeed with the same object; in the end in another process, too. File descriptors, threads and what
shared memory holds must be as before. DSMEM_FULL_SWEEPS=1 stops at every bytecode, the default run at about STOPS of
each scene.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import interrupt_scenes as scenes
import pytest

import dsmem
from dsmem import _core, queue, sync

FULL = os.environ.get("DSMEM_FULL_SWEEPS") == "1"
STOPS = 30
TRACED = (
    str(Path(dsmem.__file__).parent),
    scenes.__file__,
    *(module.__file__ or "" for module in (contextlib, weakref, threading)),
)

# What is not interrupted, and why.
NOT_INTERRUPTED = {
    "close": "every scene of a cluster closes its objects",
    "unlink": "every object has that of Cluster.unlink",
    "shutdown": "it ends the queue, which could not be used again",
    "part": "close, when the last view has gone",
    "make": "each factory calls it",
    "fence": "it ends the peer",
    "is_near": "a field",
    "array": "an array is made by NumPy",
    "split": "arithmetic",
    "batch": "every scene of a batch makes one",
    "register": "this fabric has none",
    "register_many": "this fabric has none",
}


class Interrupt(BaseException):
    """What the handler of a signal raises."""


def traced(call: Callable[[], Any], stop: int = 0) -> tuple[int, BaseException | None]:
    """Run the call; count the bytecodes of what is traced, and raise at the stop-th, if stop is not 0.

    Returns how many were counted, and what came out.
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
    sys.settrace(trace)
    try:
        call()
    except BaseException as raised:
        error = raised.with_traceback(None)
    finally:
        sys.settrace(before)
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
    return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir()))


# An interrupt between a call and the variable that its result was meant for drops the object.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("name", scenes.SCENES)
def test_interrupted(name: str, cluster_name: str) -> None:
    scene = scenes.SCENES[name]
    with dsmem.connect(cluster_name) as cluster:
        obj = scene.make(cluster)
        for _ in range(2):  # the second time, what is made once is there
            total, error = traced(lambda: scene.call(obj))
            assert error is None
            scene.undo(obj)
        before, names = held(), cluster.list()
        for stop in range(1, total + 1, 1 if FULL else max(1, total // STOPS)):
            _, error = traced(lambda: scene.call(obj), stop)
            assert error is None or type(error) is Interrupt, f"at bytecode {stop} of {total}"
            scene.undo(obj)
            scene.call(obj)
            scene.undo(obj)
        assert held() == before
        assert [info.name for info in cluster.list()] == [info.name for info in names]
        if scene.shared:
            program = [sys.executable, scenes.__file__, cluster_name, name]
            done = subprocess.run(program, capture_output=True, text=True, timeout=100, check=False)
            assert done.returncode == 0, done.stderr
        scenes.end(obj)


CLASSES = [getattr(sync, name) for name in sync.__all__]
CLASSES += [
    queue.Queue,
    queue.Pickled,
    queue.Stamped,
    dsmem.Segment,
    dsmem.Cluster,
    dsmem.Context,
    _core.Remote,
    _core.Batch,
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
