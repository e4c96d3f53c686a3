"""Regions whose atomics are a NIC's, between processes of one host: long reads and writes go by shared memory.

Each scene runs in a process of its own, with an owner in another one, on the model device. `ctx.stats["bulk"]` counts
the ops that went by shared memory.
"""

from pathlib import Path

import pytest
from modeldev import missing, play

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
ROOT = Path(__file__).parents[2]

OWNER = """
import sys
import numpy as np
import dsmem
N = 1 << 18
with dsmem.Context(sys.argv[1], secret=bytes(range(32)), listen="127.0.0.1") as owner:
    kept = [owner.allocate(N, access) for access in ("rwa", "ra", "wa", "rw")] + [owner.register(np.zeros(N, "u1"))]
    pool = owner.pool(1 << 20)
    parts = pool.allocate_many([64, N, N])
    for region in kept:
        print(bytes(region.descriptor).hex(), flush=True)
    print(bytes(parts.tobytes()).hex(), flush=True)
    for line in sys.stdin:
        match line.split():
            case ["fence", node]:
                try:
                    owner.fence(bytes.fromhex(node))
                except dsmem.errors.UnsupportedError:
                    print("fenced", flush=True)
            case ["close"]:
                kept[0].close()
                print("closed", flush=True)
"""

BEGIN = """
import asyncio, os, signal, subprocess, sys
import numpy as np
import dsmem
from dsmem import errors

N = 1 << 18
LONG = 60.0  # for an owner on a busy host

class Owner:
    def __init__(self, fabric="shm,verbs"):
        self.process = subprocess.Popen([sys.executable, "-c", sys.argv[1], fabric], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        said = [bytes.fromhex(self.process.stdout.readline()) for _ in range(6)]
        self.all, self.readable, self.writable, self.plain, self.mine, self.parts = said
    def ask(self, what):
        self.process.stdin.write(what + "\\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()
    def __enter__(self):
        return self
    def __exit__(self, error, *_):
        if error:
            self.process.kill()
        self.process.communicate()

def opened(fabric="shm,verbs", **options):
    return dsmem.Context(fabric, secret=bytes(range(32)), listen="127.0.0.1", **options)

def filled(value, n=N):
    return np.full(n, value, "u1")

def read(remote, at=0, n=N, **options):
    out = np.zeros(n, "u1")
    remote.read(at, out, **options)
    return out

def raises(kind, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")
"""

WAYS = """
def shown(owner, fabric, what):
    with opened(fabric) as context, context.attach(what, timeout=LONG) as remote:
        return remote.fabric, remote.bulk_fabric

with Owner() as owner:
    d = dsmem.Descriptor(owner.all)
    assert [way.fabric for way in d.ways] == ["verbs"] and [way.fabric for way in d.bulk] == ["shm"]
    assert dsmem.Descriptor(owner.plain).bulk == ()
    assert shown(owner, "shm,verbs", owner.all) == shown(owner, "verbs,shm", owner.all) == ("verbs", "shm")
    assert shown(owner, "shm,verbs", owner.readable) == ("verbs", "shm")
    assert shown(owner, "shm,verbs", owner.plain) == ("shm", "shm")
    assert shown(owner, "verbs,shm", owner.plain) == ("verbs", "verbs"), "no atomics: as the context prefers"
    assert shown(owner, "shm,verbs", owner.writable) == ("verbs", "verbs"), "no READ can go ahead"
    assert shown(owner, "shm,verbs", owner.mine) == ("verbs", "verbs"), "memory that is not shared"
    assert shown(owner, "verbs", owner.all) == ("verbs", "verbs")
    with dsmem.Context("shm", secret=bytes(range(32))) as context:
        raises(errors.InvalidArgumentError, context.attach, owner.all)  # no way to its atomics
"""

COUNTS = """
with Owner() as owner, opened() as context:
    def bulk(call, *arguments, **options):
        before = context.stats["bulk"]
        result = call(*arguments, **options)
        return context.stats["bulk"] - before, result
    def batch(*ops):
        with context.batch() as b:
            for op in ops:
                getattr(b, op[0])(*op[1:])
    remote = context.attach(owner.all, timeout=LONG)
    data, some = filled(7), np.zeros((16, 4096), "u1")
    assert bulk(remote.write, 0, data)[0] == 1
    assert bulk(read, remote)[0] == 1 and (read(remote) == 7).all()
    assert bulk(read, remote, 0, (1 << 16) - 1)[0] == 0 and bulk(read, remote, N - (1 << 16), 1 << 16)[0] == 1
    assert bulk(remote.fetch_add, 0, 1) == (0, 0x0707070707070707)
    offsets = np.arange(16, dtype="u8") * 8192
    assert bulk(remote.read_many, offsets, some)[0] == 16 and (some[1:] == 7).all()
    assert bulk(remote.read_many, offsets[1:], some[1:])[0] == 0
    assert bulk(remote.read_many, offsets[:15], np.zeros((15, 8192), "u1"))[0] == 15
    assert bulk(batch, ("write", remote, 8, data[8:]), ("read", remote, 0, some[0][:4095]))[0] == 0, "a word, maybe"
    assert bulk(batch, ("write", remote, 8, data[8:]), ("read", remote, 0, some))[0] == 2
    assert bulk(batch, ("write", remote, 8, data[8:]), ("fetch_add", remote, 0, 1))[0] == 0, "by one way as a whole"
    plain = context.attach(owner.plain)  # mapped: its ops are counted where the batch goes by shared memory
    assert bulk(batch, ("write", remote, 8, data[8:]), ("write", plain, 0, data))[0] == 2 and (read(plain) == 7).all()
    only = context.attach(owner.readable)
    assert bulk(read, only) [0] == 1
    raises(errors.AccessDeniedError, only.write, 0, data)
    async def tasks():
        await asyncio.gather(remote.write_async(8, data[8:]), remote.fetch_add_async(0, 1))
    assert bulk(asyncio.run, tasks())[0] == 0

    with context.attach_many(owner.parts) as parts:
        first, one = parts[0], parts[1]
        assert (one.fabric, one.bulk_fabric) == ("verbs", "shm")
        assert bulk(one.write, 0, data)[0] == 1 and bulk(first.write, 0, filled(9, 64))[0] == 0
        out = np.zeros((2, N), "u1")
        assert bulk(parts.write_many, [2], [0], filled(8).reshape(1, N))[0] == 1
        assert bulk(parts.read_many, [1, 2], [0, 0], out)[0] == 2
        assert (out[0] == 7).all() and (out[1] == 8).all() and (read(first, 0, 64) == 9).all()
        raises(errors.OutOfBoundsError, one.read, 1, out[0])
        first.close()
        one.close()
"""

NOTHING_STAYS = """
def there():
    maps = open("/proc/self/maps").read().count("memfd:")
    return maps, len(os.listdir("/proc/self/fd"))
with Owner() as owner:
    with opened() as context:
        with context.attach(owner.all, timeout=LONG) as remote, context.attach(owner.plain):
            read(remote)
        before = there()
        for _ in range(3):
            remote = context.attach(owner.all)
            assert read(remote).size == N and there()[0] == before[0] + 1
            remote.close()
        assert there() == before, "the connections stay for the next attach"
"""

DEAD = """
with Owner() as owner, opened() as context, context.attach(owner.all, timeout=LONG) as remote:
    read(remote)
    owner.process.kill()
    owner.process.wait()
    raises(errors.PeerDeadError, read, remote)
    raises(errors.PeerDeadError, remote.write, 0, filled(1))
    opened().close()  # takes the record of the dead process away
"""

CLOSED = """
with Owner() as owner, opened() as context, context.attach(owner.all, timeout=LONG) as remote:
    read(remote)
    assert owner.ask("close") == "closed"
    raises(errors.StaleDescriptorError, read, remote)
    raises(errors.StaleDescriptorError, remote.write, 0, filled(1))
    assert context.stats["bulk"] == 1
"""

FENCED = """
with Owner() as owner, opened() as context, context.attach(owner.all, timeout=LONG) as remote:
    remote.write(0, filled(1))
    assert owner.ask(f"fence {context.node_id.hex()}") == "fenced"
    raises((errors.FencedError, errors.PeerDeadError), remote.write, 0, filled(2))
    raises((errors.FencedError, errors.PeerDeadError), read, remote)
    with opened() as other, other.attach(owner.all, timeout=LONG) as again:
        assert (read(again) == 1).all()
"""

STOPPED = """
with Owner() as owner, opened() as context, context.attach(owner.all, timeout=LONG) as remote:
    remote.write(0, filled(1))
    os.kill(owner.process.pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(owner.process.pid, os.WUNTRACED)[1]), "all of its threads"
    error = raises(errors.TimeoutError, remote.write, 0, filled(2), timeout=0.2)
    assert "before any was executed" in error.detail, error
    raises(errors.TimeoutError, read, remote, timeout=0.2)
    os.kill(owner.process.pid, signal.SIGCONT)
    assert (read(remote, timeout=LONG) == 1).all() and context.stats["bulk"] == 2
"""

# A batch to two owners: nothing is copied before both have answered.
TWO_OWNERS = """
with Owner() as one, Owner() as two, opened() as context:
    first, second = context.attach(one.all, timeout=LONG), context.attach(two.all, timeout=LONG)
    def both(value, timeout):
        with context.batch(timeout=timeout) as batch:
            batch.write(first, 0, filled(value))
            batch.write(second, 0, filled(value))
    both(1, LONG)
    assert context.stats["bulk"] == 2
    os.kill(two.process.pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(two.process.pid, os.WUNTRACED)[1]), "all of its threads"
    error = raises(errors.TimeoutError, both, 2, 0.2)
    assert "before any was executed" in error.detail, error
    os.kill(two.process.pid, signal.SIGCONT)
    assert (read(first, timeout=LONG) == 1).all() and (read(second, timeout=LONG) == 1).all()
    first.close()
    second.close()
"""

# Under a lock of the NIC each holder finds what the one before has written, whichever way either of them goes.
HOLDERS = """
USER = '''
import sys
import numpy as np
import dsmem
n, rounds, me = 1 << 18, int(sys.argv[3]), int(sys.argv[4])
with dsmem.Context(sys.argv[1], secret=bytes(range(32)), listen="127.0.0.1") as context:
    with context.attach(bytes.fromhex(sys.argv[2]), timeout=60.0) as remote:
        data = np.empty((n - 64) // 8, "u8")
        for _ in range(rounds):
            while remote.compare_swap(0, 0, me):
                pass
            remote.read(64, data)
            assert (data == data[0]).all() and data[0] == remote.fetch_add(8, 1), "torn, or of another holder"
            data += 1
            remote.write(64, data)
            assert remote.compare_swap(0, me, 0) == me
        assert context.stats["bulk"] == (2 * rounds if "shm" in sys.argv[1] else 0)
'''
ROUNDS = 10
with Owner() as owner:
    users = [subprocess.Popen([sys.executable, "-c", USER, fabric, owner.all.hex(), str(ROUNDS), str(me)])
             for me, fabric in enumerate(("shm,verbs", "verbs", "verbs,shm"), 1)]
    assert [user.wait() for user in users] == [0, 0, 0]
    with opened() as context, context.attach(owner.all, timeout=LONG) as remote:
        assert remote.fetch_add(8, 0) == 3 * ROUNDS and (read(remote, 64, N - 64).view("u8") == 3 * ROUNDS).all()
"""

# Objects wait, prove frames and records, and take turns by words of the NIC; what is long goes by shared memory.
OBJECTS = """
import threading
with opened() as owner, opened() as user, dsmem.connect(context=owner) as cluster:
    queue = cluster.queue("jobs", create=True, capacity_bytes=1 << 20)
    table = cluster.segment("table", (N,), "u1", create=True, versioned=True)
    with dsmem.attach(queue.ref, user) as far, dsmem.attach(table.ref, user) as copy:
        def produce():
            for i in range(20):
                far.put(bytes([i]) * 200_000, timeout=LONG)
        producer = threading.Thread(target=produce)
        producer.start()
        assert [queue.get(timeout=LONG) for _ in range(20)] == [bytes([i]) * 200_000 for i in range(20)]
        producer.join()
        def publish():
            for i in range(1, 21):
                copy.publish(filled(i))
        writer = threading.Thread(target=publish)
        writer.start()
        seen = 0
        while seen < 20:
            snapshot = table.snapshot(timeout=LONG)[1]
            assert (snapshot == snapshot[0]).all() and snapshot[0] >= seen
            seen = int(snapshot[0])
        writer.join()
        sent = user.stats["bulk"]  # of the messages; versions and snapshots come with words
        assert sent and (copy.read() == 20).all() and user.stats["bulk"] == sent + 1, user.stats
"""

DOCTOR = """
import json
def doctor(d):
    command = [sys.executable, "-m", "dsmem", "doctor", "--json", "--peer", d.hex()]
    said = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "DSMEM_SECRET": "0bec7" * 8})
    return json.loads(said.stdout)["peer"]
with dsmem.Context("shm,verbs,tcp", secret=b"0bec7" * 8, listen="127.0.0.1") as owner:
    with owner.allocate(N) as region:
        found = doctor(bytes(region.descriptor))
        assert (found["taken"], found["bulk"]) == ("verbs", "shm"), found
        assert [way["fabric"] for way in found["ways"]] == ["verbs", "shm"]
        assert "for long reads and writes, beside verbs" in found["ways"][1]["why"]
"""

# A handler forks while an op waits for a stalled device: the child is refused, and its parent's op goes on.
FORKED = """
import ctypes
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
plan = ctypes.CDLL(os.environ["DSMEM_LIBIBVERBS"]).modeldev_plan
with Owner() as owner, opened() as context, context.attach(owner.all, timeout=LONG) as remote:
    remote.write(0, filled(1))
    parent, children = os.getpid(), []
    def handler(*_):
        child = os.fork()
        if child:
            children.append(child)
            plan(b"stall=0")
    signal.signal(signal.SIGALRM, handler)
    def batch(remote):
        with context.batch(timeout=LONG) as ops:
            ops.write(remote, 0, filled(1, 64))
            ops.fetch_add(remote, 64, 0)
    for call in (lambda r: read(r, timeout=LONG), lambda r: read(r, 0, 64, timeout=LONG), batch):
        plan(b"stall=1")
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            call(remote)
        except errors.ForkError:
            os._exit(7 if os.getpid() != parent else 1)
        if os.getpid() != parent:
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(children.pop(), 0)[1]) == 7
    assert (read(remote) == 1).all()
"""

# A fence ends no write by mapped memory, so it must not free what a node holds that may do such.
HELD = """
import contextlib
def holder(fabric):
    with opened(fabric) as own, dsmem.connect(f"held-{os.getpid()}", context=own) as cluster, opened("verbs") as other:
        lock = cluster.lock("held", create=True)
        with contextlib.closing(lock), contextlib.closing(dsmem.attach(lock.ref, other)) as far, far:
            lock.unlink()
            return far.holder()

is_random = [holder(fabric) >> 46 & 0xffff == 0xffff for fabric in ("shm,verbs", "verbs,shm", "verbs")]
assert is_random == [True, True, False], is_random
"""

SCENES = {
    "objects": (OBJECTS, "scatter=64&overtake=1&late=500"),
    "doctor": (DOCTOR, ""),
    "ways": (WAYS, ""),
    "counts": (COUNTS, "scatter=8&overtake=1&late=1000"),
    "nothing stays": (NOTHING_STAYS, ""),
    "dead": (DEAD, ""),
    "closed": (CLOSED, ""),
    "fenced": (FENCED, ""),
    "held": (HELD, ""),
    "stopped": (STOPPED, ""),
    "forked": (FORKED, ""),
    "two owners": (TWO_OWNERS, ""),
    "holders": (HOLDERS, "scatter=64&overtake=1&late=2000&window=10"),
}


@pytest.mark.parametrize("scene", SCENES)
def test_bulk(library, tmp_path, scene):
    text, plan = SCENES[scene]
    play(library, tmp_path, f"seed=1&{plan}", f"{BEGIN}{text}\nprint('good')", OWNER)
