"""A handler that raises while an op of a waiting call is late: its exception comes out of the call."""

import contextlib
import signal
import sys
import threading
import time

import pytest
from forked import in_child, raises

import dsmem
from dsmem import _core, errors

SECRET = b"the secret of these tests"
LATE = 60  # the op that does not come back; the waits begin earlier
MANY = 5_000  # ops; more than a wait posts before it looks for signals


class Enough(Exception):
    """What the handler raises."""


def enough(*_):
    raise Enough


def wait_for(condition):
    with condition:
        condition.wait()


def put_until_full(queue):
    while True:
        queue.put(bytes(500))


# Kind, properties, what the owner does before, and what waits.
WAITS = {
    "semaphore": ({"n": 1}, lambda owner: owner.acquire(), lambda obj: obj.acquire()),
    "event": ({}, None, lambda obj: obj.wait()),
    "barrier": ({"parties": 2}, None, lambda obj: obj.wait()),
    "condition": ({}, None, wait_for),
    "segment": ({"shape": 8, "dtype": "i8"}, None, lambda obj: obj.wait(0, 1)),
    "queue": ({"capacity_bytes": 4096}, None, put_until_full),
}


@pytest.mark.parametrize("kind", WAITS)
def test_a_handler_that_raises_while_an_op_is_late(fault_place, kind):
    """The op ends early, and is repeated with success: so the call has no error in whose place the exception comes."""
    properties, before, wait = WAITS[kind]
    ended, too_late = threading.Event(), []
    main = threading.get_ident()

    def interrupt(context):
        while context.stats["posts"] < LATE and not ended.is_set():
            time.sleep(0.001)
        signal.pthread_kill(main, signal.SIGUSR1)
        while not ended.wait(0.001):
            if context.stats["posts"] > LATE + MANY:
                too_late.append(context.stats["posts"])
                signal.pthread_kill(main, signal.SIGUSR1)
                return

    with contextlib.ExitStack() as stack:
        context = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
        cluster = stack.enter_context(dsmem.connect(context=context))
        owner = stack.enter_context(contextlib.closing(getattr(cluster, kind)("it", create=True, **properties)))
        if before:
            before(owner)
        user = stack.enter_context(dsmem.Context(f"{fault_place}://?delay={LATE}:60000ms", secret=SECRET))
        obj = dsmem.attach(owner.ref, user)
        stack.callback(signal.signal, signal.SIGUSR1, signal.signal(signal.SIGUSR1, enough))
        thread = threading.Thread(target=interrupt, args=(user,))
        thread.start()
        try:
            with pytest.raises(Enough):
                wait(obj)
        finally:
            ended.set()
            thread.join()
        obj.close()
        if before:
            owner.release()
    assert not too_late


def test_a_child_that_another_thread_forks_meanwhile_does_not_raise_it(fault_place, monkeypatch):
    """It is the parent's main thread that is about to raise it: its op ends, is repeated, and is late again."""
    main, ended, hits, failed = threading.get_ident(), threading.Event(), [], []

    def handler(*_):
        hits.append(1)
        raise Enough

    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: ignored.append(repr(raised.exc_value)))

    def child():
        for _ in range(1000):  # what the core has asked the interpreter to do between two bytecodes is done in them
            raises(errors.InvalidArgumentError, _core.probe, "no fabric")
        return ignored  # by what runs in a child before anything else

    def fork(user):
        while user.stats["posts"] < LATE and not ended.is_set():
            time.sleep(0.001)
        signal.pthread_kill(main, signal.SIGUSR1)
        while not hits and not ended.is_set():
            time.sleep(0.0001)
        try:
            assert in_child(child) == []
        except BaseException as error:
            failed.append(error)

    with contextlib.ExitStack() as stack:
        context = stack.enter_context(dsmem.Context(fault_place, secret=SECRET))
        cluster = stack.enter_context(dsmem.connect(context=context))
        owner = stack.enter_context(contextlib.closing(cluster.event("it", create=True)))
        user = stack.enter_context(dsmem.Context(f"{fault_place}://?delay={LATE}-:60000ms", secret=SECRET))
        event = dsmem.attach(owner.ref, user)
        stack.callback(signal.signal, signal.SIGUSR1, signal.signal(signal.SIGUSR1, handler))
        thread = threading.Thread(target=fork, args=(user,))
        thread.start()
        try:
            with pytest.raises(Enough):
                event.wait()
        finally:
            ended.set()
            thread.join()
            event.close()
    assert not failed
