"""What a process releases at its exit.

On one host the kernel proves that a process has ended. Another process's memory learns of it late, or never: an entry,
a role or a lock there would stay in use. So a process that exits normally releases them all, within a bound. The
waits of the remaining threads are ended, and then each handle is released; what it holds passes on as if the process
had died with it. Names whose lifetime ends with the process are removed, too.

Children of multiprocessing exit without atexit. They do this in the last of multiprocessing's finalizers.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from dsmem import _core, errors

_CALLS_SECONDS = 1.0  # for calls under way in other threads
_OWNER_SECONDS = 1.0  # for one handle; the other handles on an owner that takes longer are skipped
_SECONDS = 3.0  # for all handles
_TRIES = 2  # of a step that a signal handler interrupts
_AFTER_OTHERS = -100  # priority of the finalizer; those of multiprocessing's queues have -5

_numbers = itertools.count()
_ending = False  # end() has begun: threads other than the main one open no more handles
_openings: set[object] = set()  # tokens of calls under way that open a handle
_leavers: dict[_Ref, int] = {}  # id of the thread that releases the handle at exit


class _Ref(weakref.ref[Any]):
    """A weak reference to a handle; 'number' grows with each handle opened."""

    __slots__ = ("number",)
    number: int


_handles: set[_Ref] = set()  # of the open handles
_functions: list[Callable[[], None]] = []
_expected_in = 0  # pid of the child of multiprocessing that has the finalizer
_asked = False  # whether future children of multiprocessing will have one


def remember(handle: Any) -> None:
    """Register an open handle that has something to release at exit."""
    ref = _Ref(handle, _handles.discard)  # a C function: no signal handler runs inside it
    ref.number = next(_numbers)
    _handles.add(ref)
    expect_end()
    if _ending and not _may_open():  # end() began before the add() above, and may have missed the handle
        leaving: dict[_Ref, Any] = {}
        _take_up(leaving, ref)
        _leave(leaving)
        raise SystemExit


@contextlib.contextmanager
def opening() -> Iterator[None]:
    """A block that opens a handle; end() waits for it.

    Once end() has begun, a thread other than the main one gets SystemExit here, as a thread that waits does.
    """
    if _ending and not _may_open():
        raise SystemExit
    token = object()
    try:
        _openings.add(token)
        yield
    finally:
        _openings.discard(token)


def _may_open() -> bool:
    return threading.current_thread() is threading.main_thread()


def at_end(function: Callable[[], None]) -> Callable[[], None]:
    """Register a function for end() to call after the handles are released, in processes that called expect_end().

    It may be called again, and then does what the first call has not done.
    """
    _functions.append(function)
    return function


def end() -> None:
    """Release everything. A second call does what the first has not done.

    A signal handler may raise anywhere in here, as that of Ctrl-C does. Its exception comes out when all is done.
    """
    global _ending
    _ending = True
    leaving: dict[_Ref, Any] = {}
    steps = [functools.partial(step, leaving) for step in (_begin, _wait, _leave)]
    raised = _do_all([*steps, *_functions])
    if raised is not None:
        raise raised


atexit.register(end)
atexit.register(end)  # a spare, for when a signal handler's exception ends the other call before it begins


def _do_all(steps: list[Callable[[], None]]) -> BaseException | None:
    """Call all steps, and return the first exception or None.

    A step that raises a BaseException other than an Exception, such as KeyboardInterrupt, is called once more.
    """
    raised: BaseException | None = None
    done = tries = 0
    while done < len(steps):
        try:
            tries += 1
            if tries <= _TRIES:
                steps[done]()
            done, tries = done + 1, 0
        except BaseException as error:
            raised = raised or error
            if isinstance(error, Exception):
                done, tries = done + 1, 0
    return raised


def _begin(leaving: dict[_Ref, Any]) -> None:
    """Collect the handles to release, the youngest first: a handle may depend on an older one."""
    known = _handles.copy()  # one call of C: no other thread runs meanwhile
    for ref in sorted(known, key=lambda ref: ref.number, reverse=True):
        _take_up(leaving, ref)


def _take_up(leaving: dict[_Ref, Any], ref: _Ref) -> None:
    """Let this thread release the handle, unless another thread does."""
    handle, me = ref(), threading.get_ident()
    if handle is not None and _outlives_us(handle) and _leavers.setdefault(ref, me) == me and handle._begin_end():
        leaving[ref] = handle


def _wait(leaving: dict[_Ref, Any]) -> None:
    """Wait for calls under way in other threads, at most _CALLS_SECONDS."""
    until = time.monotonic() + _CALLS_SECONDS
    while not _is_quiet(leaving) and time.monotonic() < until:
        time.sleep(0.002)


def _is_quiet(leaving: dict[_Ref, Any]) -> bool:
    return not _openings and all(handle._idle for handle in leaving.values())


def _outlives_us(handle: Any) -> bool:
    """Whether nothing would prove this process's exit to other users of the memory, which outlives the process."""
    memory = handle._memory
    if memory.closed or memory.region is not None:
        return False
    if not memory.remote.is_mapped:
        return True
    try:
        _core.identity_provable()
    except errors.DsmemError:
        return True
    return False


def _leave(leaving: dict[_Ref, Any]) -> None:
    until, late = time.monotonic_ns() + int(_SECONDS * 1e9), set[str]()
    raised = _do_all([functools.partial(_leave_one, leaving, ref, until, late) for ref in leaving])
    if raised is not None:
        raise raised


def _leave_one(leaving: dict[_Ref, Any], ref: _Ref, until: int, late: set[str]) -> None:
    handle = leaving[ref]
    owner = handle._memory.remote.peer
    if owner not in late:
        try:
            handle._leave_at_end(min(until, time.monotonic_ns() + int(_OWNER_SECONDS * 1e9)))
        except errors.DsmemError as error:
            if not isinstance(error, errors.BusyError):
                late.add(owner)
            logging.getLogger("dsmem").warning("%r could not be left at the end of the process: %s", handle, error)
    _handles.discard(ref)
    leaving.pop(ref, None)


def _forget() -> None:
    """Forget all handles in a child of fork(): they are the parent's."""
    global _ending
    _ending = False
    _handles.clear()
    _openings.clear()
    _leavers.clear()


os.register_at_fork(after_in_child=_forget)


# ---- multiprocessing, if the program uses it ----


def expect_end() -> None:
    """Make sure that end() runs also if this process is a child of multiprocessing."""
    global _asked
    util, process = sys.modules.get("multiprocessing.util"), sys.modules.get("multiprocessing.process")
    if util is None or process is None:
        return
    if not _asked:  # a child drops finalizers made before it starts to run, such as when its arguments are unpickled
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
    """Call end() after all non-daemon threads: multiprocessing waits for them only after the finalizers."""
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
