"""What a process gives back at its end.

On one host the kernel proves that a process has ended. Into another process's memory nothing does: a place, a role or a
lock there would be taken forever. So a process that ends in good order leaves them all, within a bound: waits of the
threads that are left are given up, and then each handle goes, with what it holds as if it had died with it. Names that
were to go with the process go, too.

Children of multiprocessing end without atexit. They do this as the last of multiprocessing's finalizers.
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
_OWNER_SECONDS = 1.0  # for one handle; an owner that takes longer is not asked again
_SECONDS = 3.0  # for all handles
_TRIES = 2  # of what a signal handler interrupts
_AFTER_OTHERS = -100  # priority of a finalizer: those of multiprocessing's queues have -5

_numbers = itertools.count()
_ending = False  # end() has begun: other threads than the main one open nothing more
_openings: set[object] = set()  # of calls under way that open a handle
_leavers: dict[_Ref, int] = {}  # the thread that makes a handle leave


class _Ref(weakref.ref[Any]):
    """Of a handle; 'number' is its age."""

    __slots__ = ("number",)
    number: int


_handles: set[_Ref] = set()  # of those that are open
_functions: list[Callable[[], None]] = []
_expected_in = 0  # the child of multiprocessing whose end has a finalizer
_asked = False  # whether children of multiprocessing will have one


def remember(handle: Any) -> None:
    """A handle that has something to give back is open."""
    ref = _Ref(handle, _handles.discard)  # a signal handler can't run in that
    ref.number = next(_numbers)
    _handles.add(ref)
    expect_end()
    if _ending and not _may_open():  # it began before that
        leaving: dict[_Ref, Any] = {}
        _take_up(leaving, ref)
        _leave(leaving)
        raise SystemExit


@contextlib.contextmanager
def opening() -> Iterator[None]:
    """A block that opens a handle: the end waits for it. A thread that comes later ends here, as one in a wait does."""
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
    """A function to call at the end, after the handles have left, in each process that has called expect_end().

    It may be called again: then it has what is left to do.
    """
    _functions.append(function)
    return function


def end() -> None:
    """Give everything back; again does what is left.

    A signal handler may raise anywhere in here, as Ctrl-C does: that comes out when all is done.
    """
    global _ending
    _ending = True
    leaving: dict[_Ref, Any] = {}
    steps = [functools.partial(step, leaving) for step in (_begin, _wait, _leave)]
    raised = _do_all([*steps, *_functions])
    if raised is not None:
        raise raised


atexit.register(end)
atexit.register(end)  # in place of one that a signal ends before it has begun


def _do_all(steps: list[Callable[[], None]]) -> BaseException | None:
    """What the first that failed has raised. One that a handler has interrupted is called once more."""
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
    """The handles that are to leave, the youngest first: one may stand on an older one."""
    known = _handles.copy()  # no other thread runs meanwhile
    for ref in sorted(known, key=lambda ref: ref.number, reverse=True):
        _take_up(leaving, ref)


def _take_up(leaving: dict[_Ref, Any], ref: _Ref) -> None:
    """It is this thread that makes the handle leave, unless another one does."""
    handle, me = ref(), threading.get_ident()
    if handle is not None and _outlives_us(handle) and _leavers.setdefault(ref, me) == me and handle._begin_end():
        leaving[ref] = handle


def _wait(leaving: dict[_Ref, Any]) -> None:
    """For calls under way in other threads."""
    until = time.monotonic() + _CALLS_SECONDS
    while not _is_quiet(leaving) and time.monotonic() < until:
        time.sleep(0.002)


def _is_quiet(leaving: dict[_Ref, Any]) -> bool:
    return not _openings and all(handle._idle for handle in leaving.values())


def _outlives_us(handle: Any) -> bool:
    """Nobody would learn of this process's end, and the memory does not end with it."""
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
    """What a child of fork() has is its parent's."""
    global _ending
    _ending = False
    _handles.clear()
    _openings.clear()
    _leavers.clear()


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
