"""Objects local and remote, and other processes that use them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import actor
import halt
import pytest

import dsmem

SECRET = b"5acc" * 16  # a key: a text would be stretched by each actor, which takes long in an emulated guest

# Forked from a server that has imported everything: under emulation an interpreter takes ten seconds for that.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["dsmem", "pytest"])


class Actor:
    """Another process with the object; it evaluates what it is told; 'obj' is the object."""

    def __init__(self, ref, fabric=None):
        self.pipe, theirs = processes.Pipe()
        self.process = processes.Process(target=actor.main, args=(theirs, ref, fabric, SECRET))
        self.process.start()
        theirs.close()
        self.pid = self.process.pid
        self.result()

    def start(self, text):
        """Begin to evaluate; result() waits."""
        self.pipe.send(text)

    def result(self):
        """What came of it: the value, or the exception."""
        good, value = self.pipe.recv()
        if good:
            return value
        raise value

    def call(self, text):
        self.start(text)
        return self.result()

    def kill(self):
        """SIGKILL; returns when the process is gone."""
        self.process.kill()
        self.process.join()

    def state(self):
        """Of its main thread, as the kernel has it."""
        return halt.state(Path(f"/proc/{self.pid}/task/{self.pid}"))

    def stop(self):
        """SIGSTOP, done on return."""
        halt.stop(self.pid)

    def go_on(self):
        os.kill(self.pid, signal.SIGCONT)

    def until_asleep(self):
        """Until its main thread sleeps in the kernel."""
        while self.state() != "S":
            pass

    def close(self):
        if self.process.is_alive():
            self.kill()
        self.pipe.close()


def leave(obj):
    """Close it, also where the test has left it held."""
    if not obj.closed and getattr(obj, "token", None):
        obj.release()
    obj.close()


class World:
    """A cluster, of this host or in remote memory of a fabric, whose objects any number of actors use."""

    def __init__(self, stack, name, fabric=None):
        self.stack = stack
        self.remote = fabric is not None
        self.fabric = fabric
        self.secret = SECRET
        self.context = stack.enter_context(dsmem.Context(fabric, secret=SECRET)) if fabric else None
        self.cluster = stack.enter_context(dsmem.connect(name, context=self.context))

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

    def actor(self, obj):
        made = Actor(obj.ref, self.fabric)
        self.stack.callback(made.close)
        return made


@pytest.fixture
def world(world_place, cluster_name):
    with ExitStack() as stack:
        yield World(stack, cluster_name, None if world_place == "local" else world_place)


@pytest.fixture
def local(cluster_name):
    with ExitStack() as stack:
        yield World(stack, cluster_name)


@pytest.fixture
def remote(remote_place, cluster_name):
    with ExitStack() as stack:
        yield World(stack, cluster_name, remote_place)


@pytest.fixture
def fault_world(fault_place, cluster_name):
    with ExitStack() as stack:
        yield World(stack, cluster_name, fault_place)
