"""The other host of the tests in this folder, and our link to it.

By default it is a network namespace, and the fabric is tcp. Where $DSMEM_OTHER_HOST has our address, theirs and our
device, it is another machine, which runs other.py already, and the fabric is verbs: ci/softroce --two starts two guests
for that.
"""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from accounts import SECONDS
from namespaces import NOWHERE, another_host
from other import There

OTHER = os.environ.get("DSMEM_OTHER_HOST")
FABRIC = "verbs" if OTHER else "tcp"
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

    def heal(self):
        self.ip("link", "set", self.our_device, "up")
        self.ip("neigh", "flush", "dev", self.our_device, "nud", "all")


def networks():
    if OTHER:
        yield Machine()
    else:
        yield from another_host()


class Program(NamedTuple):
    """other.py, and its process where that is one of ours."""

    address: tuple[str, int]
    process: subprocess.Popen | None


@contextlib.contextmanager
def programs(network, port=PORT, *bench):
    if OTHER:
        yield Program((network.theirs, PORT), None)
        return
    path = Path(__file__).with_name("other.py")
    command = [*network.command, sys.executable, str(path), f"{network.theirs}:{port}", *bench]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline()
            yield Program((network.theirs, port), process)
        finally:
            process.kill()


@contextlib.contextmanager
def dying(network):
    """A program that dies in a moment without a word, and what makes it."""

    def die():
        if OTHER:  # what has started the other machine ends it
            Path(os.environ["DSMEM_SOFTROCE_OUT"], "kill").touch()
        else:
            network.cut()
            program.process.kill()

    with programs(network, PORT + 1) as program, There(program.address) as there:
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
