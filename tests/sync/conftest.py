"""Objects near and far, and other processes that use them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

import dsmem

SECRET = b"a secret for the tests of synchronisation"
ACTOR = Path(__file__).with_name("actor.py")


class Actor:
    """Another process with the object; it evaluates what it is told; 'obj' is the object."""

    def __init__(self, ref, fabric=None, python=sys.executable):
        command = [python, str(ACTOR), pickle.dumps((ref, fabric, SECRET)).hex()]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self.process.pid
        self.result()

    def start(self, text):
        """Begin to evaluate; result() waits."""
        pickle.dump(text, self.process.stdin)
        self.process.stdin.flush()

    def result(self):
        """What came of it: the value, or the exception."""
        good, value = pickle.load(self.process.stdout)
        if good:
            return value
        raise value

    def call(self, text):
        self.start(text)
        return self.result()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """SIGSTOP, done on return."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def until_asleep(self):
        """Until its main thread sleeps in the kernel."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/stat")
        while path.read_text().rpartition(")")[2].split()[0] != "S":
            pass

    def close(self):
        if self.process.poll() is None:
            self.go_on()
            self.kill()
        self.process.stdin.close()
        self.process.stdout.close()


def leave(obj):
    """Close it, also where the test has left it held."""
    if not obj.closed and getattr(obj, "token", None):
        obj.release()
    obj.close()


class World:
    """A cluster, near or far, whose objects any number of actors use."""

    def __init__(self, stack, far):
        self.stack = stack
        self.far = far
        self.fabric = "fault+shm" if far else None
        self.secret = SECRET
        self.context = stack.enter_context(dsmem.Context(self.fabric, secret=SECRET)) if far else None
        self.cluster = stack.enter_context(dsmem.connect(f"test-{os.getpid()}", context=self.context))

    def make(self, kind, name="it", **properties):
        obj = getattr(self.cluster, kind)(name, create=True, **properties)
        self.stack.callback(self.forget, obj)
        return obj

    def forget(self, obj):
        obj.unlink()
        leave(obj)

    def again(self, obj):
        """Another handle of this process."""
        other = dsmem.attach(obj.ref, self.context)
        self.stack.callback(leave, other)
        return other

    def actor(self, obj, **how):
        actor = Actor(obj.ref, self.fabric, **how)
        self.stack.callback(actor.close)
        return actor


@pytest.fixture(params=["near", "far"])
def world(request):
    with ExitStack() as stack:
        yield World(stack, request.param == "far")


@pytest.fixture
def near():
    with ExitStack() as stack:
        yield World(stack, False)


@pytest.fixture
def far():
    with ExitStack() as stack:
        yield World(stack, True)
