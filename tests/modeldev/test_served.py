"""Names of a server whose device has atomics of its own: they are in memory of the server alone, and their clients are
on verbs. Stores with copies at such servers: test_suites.py.

Each scene runs in a process of its own on the model device.
"""

from pathlib import Path

import pytest
from modeldev import missing, play

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
ROOT = Path(__file__).parents[2]
HABITS = "seed=1&scatter=8&pause=20&overtake=1&window=10&mtu=1024&late=2000"

BEGIN = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import contextlib, os, signal, subprocess, tempfile
import numpy as np
import dsmem
from dsmem import errors
from names_server import SERVE, process_that_serves
SECRET = b"5e47ed00" * 8
LONG = 60.0  # on a busy host

def serving(*more, fabric="verbs", **where):
    return process_that_serves(SECRET, "--grace", "0", "-f", fabric, *more, **where)

@contextlib.contextmanager
def client(address, fabric="verbs"):
    with dsmem.Context(fabric, secret=SECRET, listen="127.0.0.1", peer_timeout=LONG) as own:
        with dsmem.connect(address, context=own) as cluster:
            yield cluster

def raises(kind, text, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"no {{kind.__name__}}")
"""

NAMES = """
with serving() as (_, at), client(f"{at}/one") as one, client(f"{at}/one") as other, client(f"{at}/two") as two:
    assert one.list() == [] == two.list()
    raises(errors.NameNotFoundError, "no cluster 'one'", other.segment, "table")
    with one.segment("table", (100, 3), "f8", create=True) as made:
        made[:] = 7.0
        assert made[99, 2] == 7, "a READ behind the WRITEs: now they are in memory, for others, too"
        with other.segment("table") as found:
            assert (found.read() == 7).all()
            found[0, 0] = 1.0
            assert found[0, 0] == 1
        assert made.read()[0, 0] == 1
        raises(errors.NameExistsError, "table", other.segment, "table", 3, create=True)
        raises(errors.NameNotFoundError, "no cluster 'two'", two.segment, "table")
        (info,) = other.list()
        assert (info.name, info.kind, info.lifetime) == ("table", "segment", "name") and info.nbytes >= 2400
        raises(errors.MismatchError, "segment", other.queue, "table")
        raises(errors.UnsupportedError, "grows", made.resize, 100000)
        other.unlink("table")
        raises(errors.NameNotFoundError, "no cluster 'one'", one.unlink, "table")
        assert made.read()[0, 1] == 7, "handles stay"
        with one.segment("table", 8, create=True) as again:
            again[0] = 5
        assert made.read()[0, 1] == 7
    raises(errors.InvalidArgumentError, "mode=0o600", one.queue, "private", mode=0o600, create=True)
    with one.queue("jobs", create=True) as jobs, other.queue("jobs") as taken:
        for i in range(100):
            jobs.put(b"%d" % i)
        assert [taken.get(timeout=LONG) for _ in range(100)] == [b"%d" % i for i in range(100)]
    assert [info.name for info in one.list()] == ["jobs", "table"] and two.list() == []
"""

# A store's word at 152 is made of these, so that a node in place of another is noticed.
TWO_SERVERS = """
with serving() as (_, at), serving() as (_, beside), client(f"{at}/one") as one, client(f"{beside}/one") as other:
    first, second = one._names.identity(), other._names.identity()
    assert first and second and first != second == other._names.identity(), "their memory is theirs alone"
"""

# No process of the host has the memory, and a context that is not on verbs is told what to do.
ELSEWHERE = """
name = f"served-{os.getpid()}"
with serving() as (_, at), client(f"{at}/{name}") as cluster:
    cluster.lock("l", create=True).close()
    with dsmem.connect(name) as here:
        assert here.list() == []
        here.lock("l", create=True).close()
        here.unlink("l")
    dsmem.names.local.LocalNames(name, os.geteuid()).remove_if_empty()
    with client(f"{at}/{name}", "tcp") as wrong:
        assert [info.name for info in wrong.list()] == ["l"]
        raises(errors.InvalidArgumentError, "context=dsmem.Context('verbs')", wrong.lock, "l")
"""

MEMORY = """
with serving("--memory", "1MiB") as (_, at), client(f"{at}/one") as cluster:
    first = cluster.segment("first", 700 << 10, "u1", create=True)
    raises(errors.OutOfMemoryError, "--memory", cluster.segment, "more", 700 << 10, "u1", create=True)
    cluster.unlink("first")
    raises(errors.OutOfMemoryError, "--memory", cluster.segment, "more", 700 << 10, "u1", create=True)
    first.close()
    cluster.list()  # tells the server
    cluster.segment("more", 700 << 10, "u1", create=True).close()
    raises(errors.OutOfMemoryError, "", cluster.segment, "huge", 1 << 61, "u1", create=True)
"""

# A handle that is opened when the name has gone has the same registration: two are never made of one memory.
ONE_REGISTRATION = """
with serving() as (_, at), client(f"{at}/one") as cluster, client(f"{at}/one") as other:
    with cluster.segment("s", 8, "u8", create=True) as made, other.segment("s") as kept:
        with client(f"{at}/one") as third, third.segment("s") as more:
            assert made.ref.descriptor == kept.ref.descriptor == more.ref.descriptor
            for each in (made, kept, more):
                each.fetch_add(0, 1)
        cluster.unlink("s")
        with other._names._found(made.ref) as found:
            assert found.ref.descriptor == made.ref.descriptor
        with dsmem.attach(made.ref, other._names.context) as by_reference:
            assert by_reference.ref.descriptor == made.ref.descriptor and by_reference.fetch_add(0, 1) == 3
"""

HOLDER = """
with client(sys.argv[1]) as cluster, cluster.lock("l"):
    print("held", flush=True)
    sys.stdin.read()
"""

CUT_OFF = f"""
with serving() as (_, at), client(f"{{at}}/one") as cluster:
    lock = cluster.lock("l", create=True)
    with subprocess.Popen([sys.executable, "-c", {BEGIN + HOLDER!r}, f"{{at}}/one"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\\n"
        assert not lock.acquire(timeout=0.1)
        holder.kill()
    assert lock.acquire(timeout=LONG) and lock.recovered
    lock.release()
    lock.close()
"""

# What a server has ends with it, and a store says which copy is lost.
GONE = """
PAGES = {"page_size": 256, "capacity": 100 * 256, "members": 8}
with serving() as (_, first), contextlib.ExitStack() as stack:
    process, second = stack.enter_context(serving())
    address = f"{first},{second.removeprefix('tcp://')}/one"
    with client(address) as cluster, cluster.store("s", create=True, replicas=2, **PAGES) as store:
        page = store.allocate()
        store.write(page, b"1" * 256)
        process.kill()
        process.wait()
        raises((errors.PeerDeadError, errors.StaleDescriptorError), "copy 1", store.write, page, b"2" * 256)
        assert store.read(page) == b"1" * 256
        store.close()
        host, _, port = second.removeprefix("tcp://").rpartition(":")
        stack.enter_context(serving(host=host, port=port))
        with client(address) as again:
            for create in (False, None):
                raises(errors.CorruptError, "copy 1 of the store 's': it is lost", again.store, "s", create=create,
                       replicas=2, **PAGES)
            again.unlink("s")
            again.store("s", create=True, replicas=2, **PAGES).close()
"""

# A coordinator would decide for copies that it can't reach; and a client is told by what they are reached.
COORDINATOR = """
def joins(at, fabric):
    return subprocess.Popen([*SERVE, "--listen", "127.0.0.1:0", "-f", fabric, "--join", at], stderr=subprocess.PIPE,
                            stdout=subprocess.PIPE, env={**os.environ, "DSMEM_SECRET": SECRET.decode()}, text=True)

for own, other in (("verbs", "tcp"), ("tcp", "verbs")):
    with tempfile.TemporaryDirectory() as state, contextlib.ExitStack() as stack:
        _, at = stack.enter_context(serving("--coordinator", "--state", state, fabric=own))
        with joins(at, other) as refused:
            text = refused.stderr.read()
            assert f"reached by {other}, and its coordinator has {own}" in text, text
            assert "--fabric" in text and refused.wait() == 1
        with joins(at, own) as node, contextlib.ExitStack() as end:
            end.callback(node.terminate)
            said = ""
            while "registered" not in said:
                said = node.stderr.readline()
                assert said, "it has ended"
            pages = {"page_size": 256, "capacity": 100 * 256, "replicas": 1}
            with client(at + "/one", own) as cluster, cluster.store("s", create=True, **pages) as store:
                page = store.allocate()
                store.write(page, b"1" * 256)
                assert store.read(page) == b"1" * 256
                with client(at + "/one", other) as elsewhere:
                    raises(errors.InvalidArgumentError, f"dsmem.Context('{own}')", elsewhere.store, "s")
"""

# Clients that are given no context.
BY_ITSELF = """
os.environ["DSMEM_SECRET"] = SECRET.decode()

def says(*command):
    done = subprocess.run([sys.executable, "-m", "dsmem", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout

with serving() as (_, at), serving() as (_, another):
    address = f"{at},{another.removeprefix('tcp://')}/one"
    with dsmem.connect(f"{at}/one") as one, dsmem.connect(address) as other:
        with one.segment("table", 10, create=True) as table, other.segment("table") as found:
            table[:] = 7.0
            assert table[9] == 7, "a READ behind the WRITE: now it is in memory, for others, too"
            assert (found.read() == 7).all()
        pages = {"page_size": 256, "capacity": 100 * 256, "replicas": 2}
        with other.store("s", create=True, **pages) as store:
            store.write(store.allocate(), b"1" * 256)
            assert store._memory.remote.context.fabric == "verbs"
            assert "100 pages, 0 wrong" in says("store", "check", "s", "-c", address)
        assert len(one._names._reach._others) == len(other._names._reach._others) == 1
        context = other._names._reach._others["verbs"]
    assert context.closed
    says("store", "drop", "s", "-c", address)
    listed = says("ls", "-c", address)
    assert "segment" in listed and "store" not in listed, listed
"""

SCENES = {
    "names": NAMES,
    "two servers": TWO_SERVERS,
    "elsewhere": ELSEWHERE,
    "memory": MEMORY,
    "one registration": ONE_REGISTRATION,
    "cut off": CUT_OFF,
    "gone": GONE,
    "coordinator": COORDINATOR,
    "by itself": BY_ITSELF,
}


@pytest.mark.parametrize("scene", SCENES)
def test_served(library, tmp_path, scene):
    play(library, tmp_path, HABITS, f"{BEGIN}{SCENES[scene]}\nprint('good')")
