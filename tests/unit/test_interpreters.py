"""Processes of two versions of Python share a segment, queues and a lock.

The other one is $DSMEM_OTHER_PYTHON or the first of another version in PATH that can import dsmem. To make one, copy
the source and run ``PYTHON=python3.13 ci/venv`` there; its .venv/bin/python is the other.
"""

import os
import pickle
import shutil
import subprocess
import sys

import pytest

from dsmem.queue import Pickled

SECONDS = 60
TIMES = 2000
VERSION = "import sys, dsmem; print(*sys.version_info[:2])"

OTHER = f"""
import pickle, sys
from dsmem.queue import Pickled
table, lock, source, sink = pickle.loads(bytes.fromhex(sys.argv[1]))
pickled = Pickled(sink)
for message in iter(lambda: source.get(timeout={SECONDS}), b""):
    sink.put(message[::-1], timeout={SECONDS})
pickled.put({{"version": sys.version_info[:2], "values": (1.5, None, "text", 2**70)}}, timeout={SECONDS})
for _ in range({TIMES}):
    assert lock.acquire(timeout={SECONDS})
    table.array[0] += 1
    lock.release()
version, values = table.snapshot()
print(values[1])
for handle in (table, lock, source, sink):
    handle.close()
"""


def version_of(python):
    """Of an interpreter that has dsmem, else None."""
    done = subprocess.run([python, "-I", "-c", VERSION], capture_output=True, text=True, timeout=SECONDS)
    return tuple(map(int, done.stdout.split())) if done.returncode == 0 else None


@pytest.fixture
def other_python():
    named = os.environ.get("DSMEM_OTHER_PYTHON")
    found = [named] if named else filter(None, (shutil.which(f"python3.{n}") for n in range(10, 20)))
    for python in found:
        version = version_of(python)
        if version not in (None, sys.version_info[:2]):
            return python, version
    pytest.skip(
        f"no Python of another version that can import dsmem: {named or 'none in PATH'}; see DSMEM_OTHER_PYTHON"
    )


def test_two_versions_of_python(here, other_python):
    python, version = other_python
    with (
        here.segment("table", 4, "i8", create=True, versioned=True) as table,
        here.queue("to", create=True, capacity_bytes=4096) as to,
        here.queue("from", create=True, capacity_bytes=4096) as back,
    ):
        lock = here.lock("lock", create=True)
        table.publish([0, 42, 0, 0])
        handles = pickle.dumps((table, lock, to, back))
        with subprocess.Popen(
            [python, "-I", "-c", OTHER, handles.hex()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as other:
            for number in range(TIMES):
                to.put(b"%d of %d" % (number, TIMES), timeout=SECONDS)
                assert back.get(timeout=SECONDS) == (b"%d of %d" % (number, TIMES))[::-1]
            to.put(b"", timeout=SECONDS)
            assert Pickled(back).get(timeout=SECONDS) == {"version": version, "values": (1.5, None, "text", 2**70)}
            for _ in range(TIMES):
                assert lock.acquire(timeout=SECONDS)
                table.array[0] += 1
                lock.release()
            said = other.communicate(timeout=SECONDS)
        assert (other.returncode, *said) == (0, "42\n", "")
        assert table.array[0] == 2 * TIMES and lock.acquire(timeout=SECONDS) and lock.token == 2 * TIMES + 1
        lock.release()
        lock.close()
