"""Handles of stores whose tasks were cancelled: a job may be under way still, and BusyError refuses close() until then.

The job is the helper's, a thread that goes on when the task and its loop have gone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import dsmem
from dsmem import errors

SECONDS = 60.0
Result = TypeVar("Result")


def at_rest(call: Callable[[], Result]) -> Result:
    """Make a call that is refused while jobs are under way, and return what it comes to when they have ended."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            return call()
        except errors.BusyError:
            if time.monotonic() >= end:
                raise
        time.sleep(0.001)


@contextlib.contextmanager
def closed_at_rest(store: dsmem.Store) -> Iterator[dsmem.Store]:
    """Close the handle at the end, when its jobs have ended."""
    try:
        yield store
    finally:
        at_rest(store.close)
