"""What a node over verbs has held when it dies: it goes to others once the owner has cut the node off, and not before.

Each scene runs in a process of its own, with an owner of the memory and holders in others, on the model device.
"""

from pathlib import Path

import pytest
from modeldev import missing, play

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
ROOT = Path(__file__).parents[2]

COMMON = """
import contextlib, ctypes, os, pickle, subprocess, sys
import dsmem
from dsmem import _core, errors

LONG = 60.0  # on a busy host
KINDS = ("lock", "rlock", "spinlock", "rwlock", "semaphore", "once", "barrier", "queue", "segment")

def opened(fabric="verbs"):
    return dsmem.Context(fabric, secret=bytes(range(32)), listen="127.0.0.1", peer_timeout=LONG)

def say(*what):
    print(*what, flush=True)

def refs(line):
    return pickle.loads(bytes.fromhex(line))
"""

OWNER = """
with opened(sys.argv[1]) as owner, dsmem.connect(context=owner) as cluster:
    if sys.argv[2] != "never":
        _core.serve(owner, True, float(sys.argv[2]))
    made = {kind: getattr(cluster, kind)(kind, create=True) for kind in ("lock", "rlock", "spinlock", "rwlock", "once")}
    made["semaphore"] = cluster.semaphore("semaphore", 2, create=True)
    made["barrier"] = cluster.barrier("barrier", 3, create=True)
    made["queue"] = cluster.queue("queue", create=True, max_message=64)
    made["segment"] = cluster.segment("segment", 512, "u8", versioned=True, create=True)
    say(pickle.dumps({kind: each.ref for kind, each in made.items()}).hex())
    for line in sys.stdin:
        match line.split():
            case ["fence", node]:
                try:
                    owner.fence(bytes.fromhex(node))
                    say("fenced")
                except dsmem.DsmemError as error:
                    say(type(error).__name__)
            case ["plan", text]:
                ctypes.CDLL(os.environ["DSMEM_LIBIBVERBS"]).modeldev_plan(text.encode())
                say("planned")
            case ["exit"]:
                os._exit(0)
"""

HOLDER = """
own = opened(sys.argv[1])
def hold():
    block = held["segment"].writing(LONG)
    block.__enter__()
    return block
held = {kind: dsmem.attach(ref, own) for kind, ref in refs(sys.argv[2]).items()}
for kind in ("lock", "rlock", "spinlock"):
    assert held[kind].acquire(timeout=LONG)
assert held["rwlock"].acquire_write(timeout=LONG) and held["once"].begin(LONG)
assert held["semaphore"].acquire(timeout=LONG) and held["semaphore"].acquire(timeout=LONG)
held["queue"].put(b"left behind", timeout=LONG)
kept = hold()
say(own.node_id.hex())
for line in sys.stdin:
    for i in range(1 << 40):  # until it is refused, or killed
        if i == 8:
            say("writing")
        held["queue"].put(b"%d" % i, timeout=LONG)
"""

SCENE = """
class Process:
    def __init__(self, text, *arguments):
        self.process = subprocess.Popen([sys.executable, "-c", text, *arguments], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.said = self.process.stdout.readline().strip()
    def ask(self, what):
        self.process.stdin.write(what + "\\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()
    def kill(self):
        self.process.kill()
        self.process.wait()
    def __enter__(self):
        return self
    def __exit__(self, error, *_):
        if error:
            self.process.kill()
        self.process.communicate()

def owner(fabric="verbs", grace="never"):
    return Process(sys.argv[1], fabric, grace)

def holder(at, fabric="verbs"):
    return Process(sys.argv[2], fabric, at.said)

def is_free(handle):
    if not handle.acquire(timeout=0.3):
        return False
    handle.release()
    return True

def take_all(at, context):
    for kind, ref in refs(at.said).items():
        with contextlib.closing(dsmem.attach(ref, context)) as each:
            match kind:
                case "lock" | "rlock" | "spinlock":
                    assert each.acquire(timeout=LONG) and each.recovered, kind
                    each.release()
                case "rwlock":
                    assert each.acquire_write(timeout=LONG) and each.recovered
                    each.release_write()
                case "semaphore":
                    assert each.acquire(timeout=LONG) and each.recovered and each.acquire(timeout=LONG)
                    each.release(2)
                case "once":
                    assert each.begin(LONG)
                    each.end()
                case "queue":
                    each.put(b"next", timeout=LONG)
                case "segment":
                    assert each.publish(range(512), timeout=LONG) == 1
"""

KILLED = """
with owner() as at, opened() as context, holder(at) as dead:
    with contextlib.closing(dsmem.attach(refs(at.said)["lock"], context)) as lock:
        assert not is_free(lock)
        dead.kill()
        assert not is_free(lock), "nothing is proven before the fence"
        assert at.ask("fence " + dead.said) == "fenced"
    take_all(at, context)
"""

# The one that is cut off is in the middle of its traffic, and it lives: what it has sent comes to nothing.
IN_TRAFFIC = """
with owner() as at, opened() as context, holder(at) as other:
    assert other.ask("write") == "writing"
    assert at.ask("fence " + other.said) == "fenced"
    with dsmem.attach(refs(at.said)["queue"], context) as queue:
        queue.put(b"next", timeout=LONG)
    take_all(at, context)
    other.kill()
"""

AWAY = """
with owner(grace="0") as at, opened() as context, holder(at) as dead:
    dead.kill()
    take_all(at, context)
"""

# Each process has two devices, and the owner an endpoint of the one in use.
TWO_PATHS = """
both = "verbs://model0,verbs://model1"
with owner(both) as at, opened(both) as context, holder(at, both) as dead:
    dead.kill()
    assert at.ask("fence " + dead.said) == "fenced"
    take_all(at, context)
"""

# A queue pair that the device does not close may let something through, as long as the owner lives.
STUCK = """
with owner() as at, opened() as context, holder(at) as dead:
    with contextlib.closing(dsmem.attach(refs(at.said)["lock"], context)) as lock:
        assert at.ask("plan stuck=1") == "planned"
        dead.kill()
        assert at.ask("fence " + dead.said) == "TransportError", "it may not be cut off"
        assert at.ask("plan stuck=0") == "planned"
        assert not is_free(lock) and lock.locked()
        with opened() as late:
            try:
                dsmem.attach(refs(at.said)["lock"], late)
            except errors.TransportError:
                pass
            else:
                raise AssertionError("a device that does not close queue pairs serves no new ones")
    at.ask("exit")
"""

# Where the CPUs of the host change the same words, the end of the owner's process does not prove that nothing comes.
GLOBAL = """
with owner() as at, opened() as context, holder(at) as dead:
    with contextlib.closing(dsmem.attach(refs(at.said)["lock"], context)) as lock:
        dead.kill()
        assert at.ask("fence " + dead.said) == "fenced"
        assert not is_free(lock) and lock.locked()
"""

# With the owner goes the memory: no process takes anything over.
OWNER_GONE = """
with owner() as at, opened() as context, holder(at):
    with contextlib.closing(dsmem.attach(refs(at.said)["lock"], context)) as lock:
        assert not is_free(lock)
        at.kill()
        try:
            lock.acquire(timeout=LONG)
        except errors.PeerDeadError:
            pass
        else:
            raise AssertionError("no PeerDeadError")
        os._exit(print("good", flush=True) or 0)
"""

HABITS = "scatter=8&pause=20&overtake=1&window=10&mtu=1024&late=2000"
SCENES = {
    "killed": (KILLED, HABITS),
    "in traffic": (IN_TRAFFIC, HABITS),
    "away": (AWAY, HABITS),
    "two paths": (TWO_PATHS, f"{HABITS}&devices=2"),
    "stuck": (STUCK, ""),
    "global": (GLOBAL, "atomics=global"),
    "owner gone": (OWNER_GONE, ""),
}


@pytest.mark.parametrize("scene", SCENES)
def test_ends(library, tmp_path, scene):
    text, plan = SCENES[scene]
    program = f"{COMMON}{SCENE}{text}\nprint('good')"
    play(library, tmp_path, f"seed=1&{plan}", program, COMMON + OWNER, COMMON + HOLDER)
