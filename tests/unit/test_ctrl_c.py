"""Ctrl-C while an op or an attach waits: real signals to a real process, in which nothing else would end the wait."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import dsmem

# SIGINT is ignored where a shell has begun all this in the background.
PROGRAM = """
import os, signal, sys, threading, time, dsmem

hits = []
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGUSR1, lambda *_: hits.append(1))
descriptor = dsmem.Descriptor(bytes.fromhex({descriptor!r}))
context = dsmem.Context({fabric!r}, secret={secret!r}, peer_timeout=3600)
"""
SECRET = b"a secret of thirty-two bytes, yes"

OP = """
def send_when_it_sleeps():
    while not context.stats["wakeups"]:
        time.sleep(0.001)
    os.kill(os.getpid(), {number})

remote = context.attach(descriptor)
batch = context.batch()
batch.read(remote, 0, bytearray(8))
thread = threading.Thread(target=send_when_it_sleeps)
thread.start()
try:
    {call}
except KeyboardInterrupt as error:
    print("interrupted", error.__context__)
thread.join()
remote.write(0, b"8 bytes.")
remote.close()
context.close()
print("well", len(hits))
"""

ATTACH = """
try:
    context.attach(descriptor)
except KeyboardInterrupt as error:
    print("interrupted", error.__context__)
context.close()
print("well", len(hits))
"""


def begin(text, **values):
    text = (PROGRAM + text).format(secret=SECRET, **values)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(child):
    out, error = child.communicate()
    assert (error, child.returncode) == ("", 0)
    return out


@pytest.fixture
def region():
    with dsmem.Context("shm", secret=SECRET) as owner, owner.allocate(4096) as memory:
        yield memory


@pytest.mark.parametrize(
    "call",
    [
        "remote.read(0, bytearray(8))",
        "remote.read(0, bytearray(8), timeout=3600)",
        "remote.write(0, b'8 bytes.')",
        "remote.fetch_add(0, 0)",
        "batch.__exit__(None, None, None)",
    ],
)
def test_interrupted_op(region, call):
    values = {"descriptor": region.descriptor.hex(), "fabric": "fault+shm://?drop=1", "number": int(signal.SIGINT)}
    with begin(OP, call=call, **values) as child:
        assert end(child) == "interrupted None\nwell 0\n"
    assert bytes(region)[:8] == b"8 bytes."


def test_handler_that_returns(region):
    values = {"descriptor": region.descriptor.hex(), "number": int(signal.SIGUSR1)}
    with begin(OP, call="remote.read(0, bytearray(8))", fabric="fault+shm://?delay=1:200ms", **values) as child:
        assert end(child) == "well 1\n"


def test_interrupted_attach():
    with dsmem.Context("shm", secret=SECRET) as gone, gone.allocate(64) as memory:
        descriptor = memory.descriptor
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:  # it accepts and says nothing
        silent.bind(descriptor.address.replace("unix:@", "\0"))
        silent.listen()
        with begin(ATTACH, descriptor=descriptor.hex(), fabric="shm") as child, silent.accept()[0] as heard:
            assert heard.recv(1)
            child.send_signal(signal.SIGINT)
            assert end(child) == "interrupted None\nwell 0\n"


HANGS_S = 60  # a wait that takes so long has hung


class Enough(Exception):
    """What the handler here raises."""


def enough(*_):
    raise Enough


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the exception may come out before 'with' has the handle
@pytest.mark.parametrize("kind", ["lock", "condition"])
@pytest.mark.parametrize("dropped", range(1, 13))
def test_an_interrupted_op_that_is_made_up_for(dropped, kind):
    """The op ends, and what it left is settled by others that succeed: the exception comes out."""

    def send():
        while not user.stats["wakeups"]:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGUSR1)

    def wait():
        with dsmem.attach(made.ref, user) as obj:
            obj.acquire()

    plan = f"fault+shm://?drop={dropped}"
    before = signal.signal(signal.SIGUSR1, enough)
    try:
        with dsmem.Context("shm", secret=SECRET) as owner, dsmem.connect(context=owner) as cluster:
            made = getattr(cluster, kind)("made", create=True)
            made.acquire()  # so that the other one goes on trying
            with dsmem.Context(plan, secret=SECRET, peer_timeout=3600) as user:
                thread = threading.Thread(target=send)
                thread.start()
                start = time.monotonic()
                with pytest.raises(Enough):
                    wait()
                assert (
                    time.monotonic() - start < HANGS_S
                )  # another signal, that of the test's timeout, would end it, too
                thread.join()
            made.release()
    finally:
        signal.signal(signal.SIGUSR1, before)
