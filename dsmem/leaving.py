"""What a process gives back at its end.

On one host the kernel proves that a process has ended. Into another process's memory nothing does: a place, a role or a
lock there would be taken for ever. So a process that ends in good order leaves them all, within a bound: waits of the
threads that are left are given up, and then each handle goes, with what it holds as if it had died with it. Names that
were to go with the process go, too.

Children of multiprocessing end without atexit. They do this as the last of multiprocessing's finalizers.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from dsmem import _core, errors

_CALLS_SECONDS = 1.0  # for calls under way in other threads
_OWNER_SECONDS = 1.0  # for one handle; an owner that takes longer is not asked again
_SECONDS = 3.0  # for all handles
_AFTER_OTHERS = -100  # priority of a finalizer: those of multiprocessing's queues have -5

_handles: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_numbers = itertools.count()
_functions: list[Callable[[], None]] = []
_expected_in = 0  # the child of multiprocessing whose end has a finalizer
_asked = False  # whether children of multiprocessing will have one


def remember(handle: Any) -> None:
    """A handle that has something to give back is open."""
    _handles[next(_numbers)] = handle
    expect_end()


def at_end(function: Callable[[], None]) -> Callable[[], None]:
    """A function to call at the end, after the handles have left; once in each process that has called expect_end()."""
    _functions.append(function)
    return function


@atexit.register
def end() -> None:
    """Give everything back; again does nothing."""
    handles = _begin()
    until = time.monotonic() + _CALLS_SECONDS
    while not all(handle._idle for handle in handles) and time.monotonic() < until:
        time.sleep(0.002)
    _leave(handles)
    for function in _functions:
        function()


def _begin() -> list[Any]:
    """The handles that are to leave, the youngest first: one may stand on an older one."""
    known = reversed(list(_handles.values()))
    _handles.clear()
    return [h for h in known if _outlives_us(h) and h._begin_end()]


def _outlives_us(handle: Any) -> bool:
    """Nobody would learn of this process's end, and the memory does not end with it."""
    memory = handle._memory
    if memory.closed or memory.region is not None:
        return False
    if not memory.remote.is_near:
        return True
    try:
        _core.identity_provable()
    except errors.DsmemError:
        return True
    return False


def _leave(handles: list[Any]) -> None:
    until, late = time.monotonic_ns() + int(_SECONDS * 1e9), set()
    for handle in handles:
        owner = handle._memory.remote.peer
        if owner in late:
            continue
        try:
            handle._leave_at_end(min(until, time.monotonic_ns() + int(_OWNER_SECONDS * 1e9)))
        except errors.DsmemError as error:
            if not isinstance(error, errors.BusyError):
                late.add(owner)
            logging.getLogger("dsmem").warning("%r could not be left at the end of the process: %s", handle, error)


def _forget() -> None:
    """What a child of fork() has is its parent's."""
    _handles.clear()


os.register_at_fork(after_in_child=_forget)


# ---- multiprocessing, where somebody uses it ----


def expect_end() -> None:
    """What this process has to give back is to go also where it ends as a child of multiprocessing."""
    global _asked
    util, process = sys.modules.get("multiprocessing.util"), sys.modules.get("multiprocessing.process")
    if util is None or process is None:
        return
    if not _asked:  # a child forgets the finalizers of before its start, such as those that its arguments have made
        _asked = True
        util.register_after_fork(_add_finalizer, _add_finalizer)
    if process.parent_process() is not None:
        _add_finalizer()


def _add_finalizer(_: object = None) -> None:
    global _expected_in
    if _expected_in != os.getpid():
        _expected_in = os.getpid()
        sys.modules["multiprocessing.util"].Finalize(None, _end_of_child, exitpriority=_AFTER_OTHERS)


def _end_of_child() -> None:
    """Threads that are no daemons still run, and are waited for after the finalizers."""
    if _workers():
        threading.Thread(target=_end_after_workers, name="dsmem-leaving").start()
    else:
        end()


def _workers() -> list[threading.Thread]:
    apart = (threading.main_thread(), threading.current_thread())
    return [t for t in threading.enumerate() if not t.daemon and t not in apart]


def _end_after_workers() -> None:
    while workers := _workers():
        workers[0].join()
    end()
