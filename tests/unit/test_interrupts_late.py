"""A handler that raises while an op of a waiting call is late: its exception comes out of the call."""

import contextlib
import signal
import threading
import time

import pytest

import dsmem

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

    secret = b"the secret of these tests"
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(dsmem.Context(fault_place, secret=secret))
        cluster = stack.enter_context(dsmem.connect(context=context))
        owner = stack.enter_context(contextlib.closing(getattr(cluster, kind)("it", create=True, **properties)))
        if before:
            before(owner)
        user = stack.enter_context(dsmem.Context(f"{fault_place}://?delay={LATE}:60000ms", secret=secret))
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
