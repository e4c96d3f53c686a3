"""Problems that users of multiprocessing.shared_memory have reported, one test for each."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dsmem import errors


def python(code, *arguments, **how):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True, **how
    )


def use_and_leave(segment):
    segment.write(0, 7)
    segment.close()


def test_a_process_that_leaves_takes_nothing_from_others(here):
    """The resource tracker unlinks what a process attached to, when that process ends."""
    with here.segment("a", 4, "i8", create=True) as s:
        process = multiprocessing.get_context("spawn").Process(target=use_and_leave, args=(s,))
        process.start()
        process.join()
        assert process.exitcode == 0 and s.read(0) == 7
        code = "import sys, dsmem; s = dsmem.connect(sys.argv[1]).segment('a'); s.write(1, 8); s.close()"
        assert python(code, here.name).returncode == 0
        assert s.read(1) == 8 and [i.name for i in here.list()] == ["a"]
        with here.segment("a") as again:
            assert again.read(1) == 8


CREATOR = """
import os, sys, dsmem
from dsmem.names import local
cluster = dsmem.connect(sys.argv[1])
if sys.argv[2] == "before":
    def wait(*_):
        print("there", flush=True)
        sys.stdin.read()
    local.LocalNames._give_name = wait
cluster.segment("a", 8 << 20, "u1", create=True, lifetime="creator")
print("there", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_process_leaves_no_memory(here, when):
    """/dev/shm fills with what killed processes have left."""
    with subprocess.Popen(
        [sys.executable, "-c", CREATOR, here.name, when], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "there\n"
        assert [i.name for i in here.list()] == (["a"] if when == "after" else [])
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert here.gc() == (["a"] if when == "after" else []) and here.list() == []


CRAMPED = """
import os, dsmem
from dsmem import errors
cluster = dsmem.connect()
keep = cluster.segment("keep", 256 << 10, "u1", create=True)
for make in (
    lambda: cluster.segment("a", 2 << 20, "u1", create=True),
    lambda: cluster.segment("a", 500 << 10, "u1", create=True, versioned=True),
    lambda: keep.resize(2 << 20),
):
    try:
        make()
    except errors.OutOfMemoryError as error:
        assert error.errno and "bytes free of" in str(error), error
    else:
        raise SystemExit("no error")
assert [i.name for i in cluster.list()] == ["keep"] and keep.shape == (256 << 10,)
keep.write(..., 1)
cluster.segment("a", 600 << 10, "u1", create=True).write(..., 1)
print("fine")
os._exit(0)
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare to mount a tmpfs")
def test_no_room_is_an_error_and_no_signal():
    """More than there is room for is given out, and a process that touches it is killed by SIGBUS."""
    script = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, CRAMPED], capture_output=True, text=True, check=False
    )
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"no mount here: {done.stderr.strip()}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_a_limit_on_files_is_an_error(here):
    code = """
import resource, sys, dsmem
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    dsmem.connect(sys.argv[1]).segment("a", 2 << 20, "u1", create=True)
except dsmem.errors.OutOfMemoryError:
    print("refused")
"""
    done = python(code, here.name)
    assert (done.stdout, done.stderr) == ("refused\n", "") and here.list() == []


@pytest.mark.parametrize("rows", [1 << 40, 1 << 60, (1 << 63) - 1])
def test_absurd_sizes_are_refused(cluster, rows):
    with pytest.raises(errors.OutOfMemoryError):
        cluster.segment("a", rows, "u1", create=True)
    assert cluster.list() == []


def test_views_at_the_end(here):
    """close() fails under views, and what is left of them makes noise when the process ends."""
    code = """
import sys, dsmem
with dsmem.connect(sys.argv[1]) as cluster:
    with cluster.segment("a", 4, "i8", create=True) as s:
        view = s.array
        view[0] = 7
    view[1] = 8
"""
    done = python(code, here.name)
    assert (done.returncode, done.stderr) == (0, "")
    with here.segment("a") as s:
        assert s.read(slice(0, 2)).tolist() == [7, 8]


@pytest.mark.parametrize("n", [1, 100, 4095, 4096, 4097])
def test_sizes_are_those_asked_for(cluster, other, n):
    """A process that attaches gets more bytes than were asked for, and must learn the shape in another way."""
    with cluster.segment("a", n, "u1", create=True) as s, other(s) as found:
        assert found.nbytes == n and found.shape == (n,) and len(found.read()) == n


def test_handles_keep_no_descriptors(here):
    """Each handle costs a file descriptor, and 1024 are soon used up."""
    count = lambda: len(list(Path("/proc/self/fd").iterdir()))  # noqa: E731
    with here.segment("a", 4, create=True):
        before = count()
        handles = [here.segment("a") for _ in range(200)]
        assert count() <= before  # the garbage of other tests may end meanwhile
        for handle in handles:
            handle.close()


def test_the_type_is_in_the_memory(here):
    """Shape and dtype have to be passed on by other means; another dtype reads nonsense without a word."""
    dtype = [("when", "M8[s]"), ("value", "f8")]
    here.segment("a", (2, 3), dtype, create=True).close()
    with here.segment("a") as found:
        assert found.shape == (2, 3) and found.dtype == np.dtype(dtype)
    with pytest.raises(errors.MismatchError):
        here.segment("a", dtype="f8")


def test_zeros_without_a_process_that_tracks(here):
    """Nothing is started beside the process: no tracker, no server."""
    code = """
import os, sys, threading, dsmem
s = dsmem.connect(sys.argv[1]).segment("a", 4, create=True)
try:
    children = os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    children = "none"
print(children, threading.active_count())
s.close()
"""
    assert python(code, here.name).stdout == "none 1\n"
