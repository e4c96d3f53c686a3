"""CPython's own tests of locks and queues, over objects of this library: what users are used to holds here, too.

They come with the interpreter, or in a package of their own (on Debian libpython3.X-testsuite). What is left out stands
in NOT_OURS with its reason.
"""

from __future__ import annotations

import functools
import gc
import itertools
import os
import queue
import unittest
import weakref
from typing import Any

import pytest

import dsmem
from dsmem import _core, errors
from dsmem.names import local
from dsmem.queue import Pickled

lock_tests = pytest.importorskip("test.lock_tests", reason="the interpreter came without CPython's test suite")
test_queue = pytest.importorskip("test.test_queue", reason="the interpreter came without CPython's test suite")

NUMBERS = itertools.count()
PRIVATE = "calls what is private to threading"
ADDRESS = "a repr names the object in place of an address; test_repr_tells_the_state has ours"
NOT_OURS = {
    "LockTests.test_at_fork_reinit": PRIVATE,
    "LockTests.test_repr": ADDRESS,
    "LockTests.test_locked_repr": ADDRESS,
    "RLockTests.test_repr": ADDRESS,
    "RLockTests.test_locked_repr": ADDRESS,
    "RLockTests.test_release_save_unacquired": PRIVATE,
    "RLockTests.test_recursion_count": PRIVATE,
    "RLockTests.test__is_owned": PRIVATE,
    "EventTests.test_at_fork_reinit": PRIVATE,
    "EventTests.test_repr": ADDRESS,
    "ConditionTests.test_acquire": "takes a lock of threading; test_conditions_nest has its first half",
    "SemaphoreTests.test_repr": ADDRESS,
    "BoundedSemaphoreTests.test_repr": ADDRESS,
    "BarrierTests.test_repr": ADDRESS,
    "SimpleQueueTests.test_references": "a queue carries copies, never references",
}


class Named:
    """Each object is made under a name of its own, in a cluster of the test."""

    def setUp(self) -> None:
        self.cluster = dsmem.connect(f"cpython-{os.getpid()}")
        self.made: weakref.WeakSet[Any] = weakref.WeakSet()
        super().setUp()  # type: ignore[misc]

    def tearDown(self) -> None:
        super().tearDown()  # type: ignore[misc]
        gc.collect()
        for made in list(self.made):
            try:
                made.close()
            except errors.BusyError:  # these tests leave locks and permits taken, also by threads that have ended
                _core.SyncHandle.__del__(made)
                made.close()
        for info in self.cluster.list():
            self.cluster.unlink(info.name)
        self.cluster.close()
        local.LocalNames(self.cluster.name, os.geteuid()).remove_if_empty()

    def make(self, kind: str, *arguments: Any, **named: Any) -> Any:
        made = getattr(self.cluster, kind)(f"n{next(NUMBERS)}", *arguments, create=True, **named)
        self.made.add(made)
        return made


# Objects that a test drops are ended by the collector, which warns of what was not closed.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


class LockTests(Named, lock_tests.LockTests):  # type: ignore[misc, name-defined]
    @property
    def locktype(self) -> Any:
        return functools.partial(self.make, "lock")


class SpinLockTests(Named, lock_tests.LockTests):  # type: ignore[misc, name-defined]
    @property
    def locktype(self) -> Any:
        return functools.partial(self.make, "spinlock")


class RLockTests(Named, lock_tests.RLockTests):  # type: ignore[misc, name-defined]
    @property
    def locktype(self) -> Any:
        return functools.partial(self.make, "rlock")


class EventTests(Named, lock_tests.EventTests):  # type: ignore[misc, name-defined]
    @property
    def eventtype(self) -> Any:
        return functools.partial(self.make, "event")


class ConditionTests(Named, lock_tests.ConditionTests):  # type: ignore[misc, name-defined]
    @property
    def condtype(self) -> Any:
        return functools.partial(self.make, "condition")


class SemaphoreTests(Named, lock_tests.SemaphoreTests):  # type: ignore[misc, name-defined]
    def semtype(self, value: int = 1) -> Any:
        return self.make("semaphore", value, owned=False)


class BoundedSemaphoreTests(Named, lock_tests.BoundedSemaphoreTests):  # type: ignore[misc, name-defined]
    def semtype(self, value: int = 1) -> Any:
        return self.make("semaphore", value)


class BarrierTests(Named, lock_tests.BarrierTests):  # type: ignore[misc, name-defined]
    def barriertype(self, parties: int, action: Any = None, timeout: float | None = None) -> Any:
        return self.make("barrier", parties, action=action, timeout=timeout)

    def tearDown(self) -> None:
        self.barrier.abort()
        Named.tearDown(self)


class SimpleQueueTests(Named, test_queue.BaseSimpleQueueTest, unittest.TestCase):  # type: ignore[misc, name-defined]
    """dsmem.queue.Pickled, shared by all threads of a test."""

    queue = queue

    def type2test(self) -> Any:
        return Pickled(self.make("queue", producers="many", consumers="many"))


def _leave_out() -> None:
    for case in [c for c in globals().values() if isinstance(c, type) and issubclass(c, unittest.TestCase)]:
        bases = case.__name__, case.__name__.removeprefix("Spin")
        for name, reason in NOT_OURS.items():
            kind, _, method = name.partition(".")
            if kind in bases and hasattr(case, method):
                setattr(case, method, unittest.skip(reason)(getattr(case, method)))


_leave_out()
