"""A container that is killed frees what it had, for those outside and in other containers that share its /dev/shm."""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import time
import uuid

import pytest

import dsmem
from dsmem import _core, errors
from dsmem.names import local

SECONDS = 60

# Takes what 'take' says in the cluster and lives on.
_TAKE = """
import os, sys, time
import dsmem
from dsmem import _core

assert os.getpid() == 1
cluster = dsmem.connect(sys.argv[1])
exec(sys.argv[2])
print(_core.identity(), flush=True)
time.sleep(1000)
"""


@functools.cache
def namespaces():
    """The command that makes a container of a PID namespace, None where that is not allowed."""
    if shutil.which("unshare") is None:
        return None
    user = [] if os.geteuid() == 0 else ["--map-users", f"{os.geteuid()},{os.geteuid()},1"]
    command = ["unshare", *user, "--pid", "--fork", "--kill-child"]
    return command if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0 else None


@pytest.fixture
def cluster():
    if namespaces() is None:
        pytest.skip("PID namespaces can't be made here")
    with dsmem.connect(f"containers-{uuid.uuid4().hex[:8]}") as cluster:
        yield cluster
        for info in cluster.list():
            cluster.unlink(info.name)
    local.LocalNames(cluster.name, os.geteuid()).remove_if_empty()


@contextlib.contextmanager
def container(cluster, take):
    """A container whose first process has taken something; it is killed at the end."""
    command = [*namespaces(), sys.executable, "-c", _TAKE, cluster.name, take]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            identity = int(process.stdout.readline())
            assert not identity >> 63 and not _core.identity_dead(identity)
            assert _core.identity_pid(identity) == 0  # its pid is 1, which is another process here
            yield
            assert not _core.identity_dead(identity)
        finally:
            process.kill()  # and with it, by --kill-child, the first process
    deadline = time.monotonic() + SECONDS
    while not _core.identity_dead(identity):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_lock(cluster):
    lock = cluster.lock("it", create=True)
    with container(cluster, "it = cluster.lock('it'); it.acquire()"):
        assert not lock.acquire(blocking=False)
    assert lock.acquire(timeout=SECONDS) and lock.recovered
    lock.release()
    lock.close()


def test_a_permit(cluster):
    semaphore = cluster.semaphore("it", 1, create=True)
    with container(cluster, "it = cluster.semaphore('it'); it.acquire()"):
        assert not semaphore.acquire(blocking=False)
    assert semaphore.acquire(timeout=SECONDS)
    semaphore.release()
    semaphore.close()


@pytest.mark.parametrize("side", ["read", "write"])
def test_a_read_write_lock(cluster, side):
    lock = cluster.rwlock("it", create=True)
    with container(cluster, f"it = cluster.rwlock('it'); it.acquire_{side}()"):
        assert not lock.acquire_write(blocking=False)
    assert lock.acquire_write(timeout=SECONDS)
    lock.release_write()
    lock.close()


def test_the_writer_of_a_segment(cluster):
    segment = cluster.segment("it", 8, "u8", create=True, versioned=True)
    with container(cluster, "it = cluster.segment('it').writing(); it.__enter__()"):
        with pytest.raises(errors.TimeoutError, match="a process whose number is not visible here"):
            segment.publish([1] * 8, timeout=0)
    segment.publish([2] * 8, timeout=SECONDS)
    assert segment.read().tolist() == [2] * 8
    segment.close()


def test_a_lane(cluster):
    with container(cluster, "it = cluster.queue('it', producers=1, create=True); it.put(b'first')"):
        queue = cluster.queue("it")
        with pytest.raises(errors.TooManyMembersError):
            queue.put(b"second")
    queue.put(b"second")
    assert [queue.get(timeout=SECONDS) for _ in range(2)] == [b"first", b"second"]
    queue.close()


def test_the_role_of_the_consumer(cluster):
    queue = cluster.queue("it", producers=2, create=True)
    queue.put(b"first")
    queue.put(b"second")
    with container(cluster, "it = cluster.queue('it'); it.get()"):
        with pytest.raises(errors.BusyError):
            queue.get(timeout=0)
    assert queue.get(timeout=SECONDS) == b"second"
    queue.close()


def test_a_name_of_a_creator(cluster):
    with container(cluster, "it = cluster.lock('it', create=True, lifetime='creator')"):
        assert cluster.gc() == []
        assert [info.name for info in cluster.list()] == ["it"]
    assert cluster.gc() == ["it"] and cluster.list() == []
