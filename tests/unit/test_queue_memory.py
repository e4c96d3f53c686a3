"""A consumer that has no memory for a message leaves it in the queue, and may get it later."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import dsmem

SIZE = 64 << 20
SHAPE = {"capacity_bytes": 4 * SIZE, "max_message": SIZE}
with dsmem.connect(sys.argv[1]) as cluster, cluster.queue("q", create=True, **SHAPE) as q:
    q.unlink()
    q.put(bytes(SIZE))
    q.put(b"next")
    q.consume()
    with open("/proc/self/statm") as f:
        now = int(f.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (now + SIZE // 4, hard))
    for _ in range(2):
        try:
            eval(sys.argv[2])
        except MemoryError:
            pass
        else:
            raise SystemExit("there was memory")
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    assert q.qsize() == 2
    assert len(q.get(timeout=0)) == SIZE
    assert q.get(timeout=0) == b"next"
"""


@pytest.mark.parametrize("call", ["q.get(timeout=0)", "q.get_many(timeout=0)"])
def test_a_message_without_memory_for_it_stays(cluster_name, call):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, cluster_name, call], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


LATER = """
import resource, sys
import dsmem

SIZE = 64 << 20
SHAPE = {"capacity_bytes": 4 * SIZE, "max_message": SIZE, "producers": 2}
with dsmem.connect(sys.argv[1]) as cluster, cluster.queue("q", create=True, **SHAPE) as q:
    q.put(b"small")
    with dsmem.attach(q.ref) as other:
        other.put(bytes(SIZE))
    q.put(b"behind it")
    assert q.get_many(1, timeout=0) == [b"small"]  # the other lane is the next
    q.put(b"last")
    q.unlink()
    assert q.qsize() == 3
    with open("/proc/self/statm") as f:
        now = int(f.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (now + SIZE // 4, hard))
    got = []
    for _ in range(2):
        try:
            got += q.get_many(timeout=0)
        except MemoryError:
            pass
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    assert got == [b"behind it", b"last"], got
    assert q.qsize() == 1 and len(q.get(timeout=0)) == SIZE
"""


def test_what_was_taken_before_the_memory_ran_out_comes_out(cluster_name):
    done = subprocess.run([sys.executable, "-c", LATER, cluster_name], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


WITHOUT = """
import sys
import _testcapi
import dsmem

with dsmem.connect(sys.argv[1]) as cluster:
    call = eval("lambda: " + sys.argv[2])
    for at in range(12):
        q = cluster.queue(f"q{at}", create=True)
        q.unlink()
        q.put(b"first")
        q.reserve(8).release()
        q.cancel()
        q.peek().release()
        taken = None
        _testcapi.set_nomemory(at, at + 1)
        try:
            taken = call()
        except MemoryError:
            pass
        _testcapi.remove_mem_hooks()
        if taken is None:
            failed = at
            q.put(b"second")
            assert q.peek() == b"first"
            q.release()
            assert q.get(timeout=0) == b"second"
        else:
            taken.release()
            q.release() if "peek" in sys.argv[2] else q.cancel()
        q.close()
assert failed >= 1  # the view is not the first thing that takes memory
"""


@pytest.mark.parametrize("call", ["q.reserve(8)", "q.peek()"])
def test_no_memory_for_a_view_leaves_the_role_usable(cluster_name, call):
    pytest.importorskip("_testcapi")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, cluster_name, call], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
