"""What other threads can do while one moves much data without the GIL, and what an iterable can do to a put."""

import subprocess
import sys
from pathlib import Path

import pytest

import dsmem

# The reader is in its copy for all but an instant: a close that goes through in the midst unmaps what it reads.
CLOSE = """
import os, threading, dsmem
from dsmem import _core, errors
N = 64 << 20
if {mapped}:
    fd = os.memfd_create('test')
    os.ftruncate(fd, N)
    attach = lambda: _core.map_file(fd, N)
else:
    context = dsmem.Context('shm', secret=bytes(16))
    region = context.allocate(N)
    attach = lambda: context.attach(region.descriptor)
out = bytearray(N)
refused = 0
for _ in range(100):
    remote = attach()
    begun = threading.Event()
    def read():
        begun.set()
        try:
            {call}
        except errors.ClosedError:
            pass
    thread = threading.Thread(target=read)
    thread.start()
    begun.wait()
    while not remote.closed:
        try:
            remote.close()
        except errors.BusyError:
            refused += 1
            thread.join()
    thread.join()
    if refused:
        break
print('refused' if refused else 'never refused')
"""


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("call", ["remote.read(0, out)", "remote.write(0, out)"])
def test_a_close_during_a_large_op_is_refused(mapped, call):
    program = CLOSE.format(mapped=mapped, call=call)
    folder = Path(dsmem.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "refused\n", "")


def test_an_iterable_that_raises(cluster, other):
    class OursError(Exception):
        pass

    def items(n):
        for i in range(n):
            yield bytes([i])
        raise OursError

    with cluster.queue("q", create=True) as queue, other(queue) as producer:
        for n in (0, 1, 200):
            with pytest.raises(OursError):
                producer.put_many(items(n))
            producer.put(b"after")
            assert [queue.get(timeout=60) for _ in range(n + 1)] == [*(bytes([i]) for i in range(n)), b"after"]
    cluster.unlink("q")


# The main thread never gives the GIL away, and looks whether the other one sleeps again and again.
WAIT = """
import sys, threading, time, dsmem
owner = dsmem.Context('shm', secret=bytes(16))
region = owner.allocate(4096)
user = dsmem.Context('fault+shm://?drop=1', secret=bytes(16), peer_timeout=3600)
remote = user.attach(region.descriptor)
thread = threading.Thread(target=remote.read, args=(0, bytearray(8)), daemon=True)
thread.start()
while not user.stats['wakeups']:
    time.sleep(0.001)
sys.setswitchinterval(1000)
before, latest = user.stats['wakeups'], time.monotonic() + 20
while user.stats['wakeups'] < before + 4 and time.monotonic() < latest:
    pass
print('waits' if user.stats['wakeups'] >= before + 4 else 'wants the GIL')
"""


def test_a_thread_that_waits_for_an_op_does_not_want_the_gil():
    """Only the main thread has signals to handle. The interpreter ends with the op under way."""
    folder = Path(dsmem.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", WAIT], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "waits\n")
