"""Ctrl-C in the midst of making or dropping an object: an exception, nothing left open, and no crash later."""

import subprocess
import sys

import pytest

# The exception comes where the handler of a signal would run: at the first line of Python inside the call. Its
# traceback keeps the half-made object alive until the context is closed.
INTERRUPTED = """
import sys, _weakrefset, numpy, dsmem

class Interrupt(BaseException):
    pass

def interrupt(skip):
    def profile(frame, event, argument):
        nonlocal skip
        if event == "call" and frame.f_code is _weakrefset.WeakSet.add.__code__:
            skip -= 1
            if skip < 0:
                sys.setprofile(None)
                raise Interrupt
    sys.setprofile(profile)

owner = dsmem.Context({fabric!r})
region = owner.allocate(4096)
peer = dsmem.Context({fabric!r})
buffers = [bytearray(100) for _ in range(3)]
descriptor = region.descriptor
kept = None
interrupt({skip})
try:
    {call}
except Interrupt as error:
    kept = error
assert kept is not None
peer.close()
kept = None
for buffer in buffers:
    buffer.append(1)  # a BufferError where a view is still held
with dsmem.Context({fabric!r}) as again, again.attach(descriptor) as remote:
    remote.write(0, b"alive")
region.close()
owner.close()
print("well")
"""


def run(call, skip=0, fabric="shm"):
    text = INTERRUPTED.format(call=call, skip=skip, fabric=fabric)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "faulthandler", "-c", text], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr, done.returncode) == ("well\n", "", 0)


@pytest.mark.parametrize("call", ["peer.attach(descriptor)", "peer.allocate(4096)"])
def test_interrupted_while_made(fabric, call):
    run(call, fabric=fabric)


@pytest.mark.parametrize("skip", [0, 1, 2])
def test_interrupted_while_many_are_registered(fabric, skip):
    if "verbs" not in fabric:
        pytest.skip("only verbs registers private memory")
    run("peer.register_many(buffers)", skip, fabric)
