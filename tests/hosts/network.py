"""The other host of the tests in this folder, and our link to it.

By default it is a network namespace, and the fabric is tcp. Where $DSMEM_OTHER_HOST has our address, theirs and our
device, it is another machine, which runs other.py already or soon, and the fabrics are verbs and tcp: ci/softroce --two
starts two guests for that.
"""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from accounts import SECONDS
from namespaces import NOWHERE, another_host
from other import There

OTHER = os.environ.get("DSMEM_OTHER_HOST")
FABRICS = ("verbs", "tcp") if OTHER else ("tcp",)
PEER_TIMEOUT = 1.5 if OTHER else 0.5  # of contexts that are to notice what has happened
ALIVE_TIMEOUT = 20 if OTHER else 2  # of those that nothing happens to: a guest of a loaded host may stand still
PORT = 7000


class Machine:
    """Another machine at the end of our only link."""

    def __init__(self):
        self.ours, self.theirs, self.our_device = OTHER.split()

    def ip(self, *words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def cut(self):
        self.ip("link", "set", self.our_device, "down")

    def deafen(self):
        """Nothing of ours arrives there."""
        self.ip("neigh", "replace", self.theirs, "lladdr", NOWHERE, "dev", self.our_device, "nud", "permanent")

    def silence(self):
        """Nothing of theirs arrives here."""
        arriving = ("dev", self.our_device, "ingress")
        try:
            for words in (("qdisc", "add", *arriving), ("filter", "add", *arriving, "matchall", "action", "drop")):
                subprocess.run(["tc", *words], check=True, capture_output=True)
        except (FileNotFoundError, subprocess.CalledProcessError):
            pytest.skip("this kernel drops nothing that arrives")

    def heal(self):
        self.ip("link", "set", self.our_device, "up")
        self.ip("neigh", "flush", "dev", self.our_device, "nud", "all")
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["tc", "qdisc", "del", "dev", self.our_device, "ingress"], check=False, capture_output=True)


def networks():
    if OTHER:
        yield Machine()
    else:
        yield from another_host()


class Program(NamedTuple):
    """other.py at the other host, what kills it, and its process where that is one of this kernel's."""

    address: tuple[str, int]
    kill: Callable[[], None]
    process: int | None = None


@contextlib.contextmanager
def programs(network, port=PORT, *bench):
    if OTHER:
        with programs_there(network, port) as program:
            yield program
        return
    path = Path(__file__).with_name("other.py")
    command = [*network.command, sys.executable, str(path), f"{network.theirs}:{port}", *bench]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline()
            yield Program((network.theirs, port), process.kill, process.pid)
        finally:
            process.kill()


@contextlib.contextmanager
def programs_there(network, port):
    """The program that the other machine has started, or one that this forks."""
    first = (network.theirs, PORT)
    if port == PORT:
        until_it_listens(first)
        yield Program(first, functools.partial(pytest.fail, "nothing starts it again"))
        return
    with There(first) as there:
        process = there.run("other:fork", port)

        def kill():
            with contextlib.suppress(ProcessLookupError):
                there.run("os:kill", process, signal.SIGKILL)

        try:
            yield Program((network.theirs, port), kill)
        finally:
            kill()


def until_it_listens(address):
    """Without a limit but that of the test: the other machine may be slow to start."""
    ended = Path(os.environ["DSMEM_SOFTROCE_OUT"], "other", "ended")
    while True:
        try:
            There(address).stream.close()
        except OSError:
            if ended.exists():
                pytest.exit("the other machine has not started: see its console.log", returncode=1)
            time.sleep(0.5)
        else:
            return


@contextlib.contextmanager
def dying(network):
    """A program that dies in a moment without a word, and what makes it."""

    def die():
        if OTHER:  # what has started the other machine ends it
            Path(os.environ["DSMEM_SOFTROCE_OUT"], "kill").touch()
        else:
            network.cut()
            program.kill()

    with programs(network, PORT if OTHER else PORT + 1) as program, There(program.address) as there:
        try:
            yield there, die
        finally:
            network.heal()


def until(condition):
    """Returns when it is true."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
