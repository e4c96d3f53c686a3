"""Several paths to one owner: two devices of a context, on the model device, of which one is cut off in the middle.

Owner and user are two processes. The user's `down("1")` lets no packet out of its first device any more: what it sends
there is sent again until the retries are exhausted, as when a cable is pulled out.
"""

from pathlib import Path

import pytest
from modeldev import missing, play

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
ROOT = Path(__file__).parents[2]
BOTH, FIRST = "verbs://model0,verbs://model1", "verbs://model0"

OWNER = """
import ctypes, os, pickle, sys
import dsmem
model = ctypes.CDLL(os.environ["DSMEM_LIBIBVERBS"])
model.modeldev_count.restype = ctypes.c_uint64
with dsmem.Context(sys.argv[1], secret=bytes(range(32)), listen="127.0.0.1") as owner:
    regions = [owner.empty(1 << 20), owner.empty(1 << 20, access="rw"), owner.empty(64, access="a")]
    with dsmem.connect(context=owner) as cluster:
        queue = cluster.queue("jobs", create=True)
        for said in [*(bytes(region.descriptor) for region in regions), pickle.dumps(queue.ref)]:
            print(said.hex(), flush=True)
        for line in sys.stdin:
            match line.strip():
                case "connections":
                    print(model.modeldev_count(b"qps"), flush=True)
                case "taken":
                    taken = []
                    while len(taken) < 300:
                        taken += queue.get_many(300, timeout=10)
                    print(" ".join(message.decode() for message in taken), flush=True)
"""

USER = """
import asyncio, ctypes, os, pickle, subprocess, sys, time
import dsmem
from dsmem import errors
model = ctypes.CDLL(os.environ["DSMEM_LIBIBVERBS"])
TIMEOUT = 1.0  # of which a path that is silent gets one half
LONG = 60.0  # for the owner's agent, which on a busy host may take longer

def down(mask):
    assert model.modeldev_plan(f"down={mask}".encode()) == 0

class Owner:
    def __init__(self, fabric):
        self.process = subprocess.Popen([sys.executable, "-c", sys.argv[1], fabric], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        said = (bytes.fromhex(self.process.stdout.readline()) for _ in range(4))
        self.region, self.plain, self.words, self.queue = said
    def ask(self, what):
        self.process.stdin.write(what + "\\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

def opened(fabric):
    return dsmem.Context(fabric, secret=bytes(range(32)), listen="127.0.0.1", peer_timeout=TIMEOUT)

def on(context, path):
    "Whether this path is in use: there are two, and a host that is slow may lose one that is whole."
    return context.stats["failovers"] % 2 == path

def read(remote, at=0, n=8):
    out = bytearray(n)
    remote.read(at, out)
    return bytes(out)

def raises(kind, call, *arguments):
    try:
        call(*arguments)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")

def until_done(call, *arguments):
    "Atomics are refused for one peer timeout after their path was lost."
    for _ in range(6000):
        try:
            return call(*arguments)
        except errors.PathLostError:
            time.sleep(0.01)
    raise AssertionError
"""

READS_GO_ON = """
with Owner(BOTH) as owner, opened(BOTH) as context, context.attach(owner.region, timeout=LONG) as remote:
    assert [each.device for each in context.fabrics] == ["model0", "model1"]
    remote.write(0, b"before__")
    before = owner.ask("connections")
    down(1)
    assert read(remote) == b"before__", "a READ is sent again by the other path"
    assert on(context, 1)
    remote.write(0, b"behind__")
    assert read(remote) == b"behind__" and on(context, 1), "the path stays"
    assert owner.ask("connections") == before, "the owner has closed its end of the old one"
    down(2)
    assert read(remote) == b"behind__" and on(context, 0)
    assert owner.ask("connections") == before
    down(3)
    raises(errors.TransportError, read, remote)
    down(0)
    assert read(remote) == b"behind__"
"""

NO_ROUTE = """
with Owner(BOTH) as owner, opened(BOTH) as context, context.attach(owner.region, timeout=LONG) as remote:
    remote.write(0, b"before__")
    assert on(context, 0)
    assert model.modeldev_plan(b"noroute=1") == 0
    assert read(remote) == b"before__", "a READ is sent again by the other path"
    assert on(context, 1)
    assert model.modeldev_plan(b"noroute=3") == 0
    raises(errors.TransportError, read, remote)
    assert model.modeldev_plan(b"noroute=0") == 0
    assert read(remote) == b"before__"
"""

WRITES = """
with Owner(BOTH) as owner, opened(BOTH) as context, context.attach(owner.plain, timeout=LONG) as remote:
    remote.write(0, b"before__")
    down(1)
    error = raises(errors.OutcomeUnknownError, remote.write, 0, b"unknown_")
    assert not isinstance(error, errors.PeerDeadError), "another path is left"
    assert read(remote) == b"before__", "it was lost, and does not land later"
    remote.write(0, b"again___")
    assert read(remote) == b"again___" and on(context, 1)
"""

ATOMICS_OF_ONE_DEVICE = """
with Owner(BOTH) as owner, opened(BOTH) as context, context.attach(owner.region, timeout=LONG) as remote:
    with context.attach(owner.words, timeout=LONG) as words:  # no device but one can serve it
        assert remote.fetch_add(8, 1) == 0 and words.fetch_add(0, 1) == 0
        down(1)
        assert read(remote) == bytes(8) and on(context, 1)
        raises(errors.PathLostError, remote.fetch_add, 8, 1)
        raises(errors.PathLostError, words.fetch_add, 0, 1)
        with context.batch(continue_on_error=True) as batch:
            batch.write(remote, 0, b"together")
            added = batch.fetch_add(remote, 8, 1)
        assert all(isinstance(error, errors.PathLostError) for error in batch.errors), "in their order, or not at all"
        assert read(remote) == bytes(8)
        down(0)
        assert until_done(remote.fetch_add, 8, 1) == 1 and on(context, 0)
        assert words.fetch_add(0, 1) == 1
        down(1)
        raises(errors.OutcomeUnknownError, remote.fetch_add, 8, 1)
        assert read(remote, 8) == (2).to_bytes(8, "little"), "never sent again"
"""

ATOMICS_OF_ANY_DEVICE = """
with Owner(BOTH) as owner, opened(BOTH) as context, context.attach(owner.region, timeout=LONG) as remote:
    assert remote.fetch_add(8, 1) == 0
    before = owner.ask("connections")
    down(1)
    raises(errors.OutcomeUnknownError, remote.fetch_add, 8, 1)
    assert remote.fetch_add(8, 1) == 1 and on(context, 1)
    assert owner.ask("connections") == before
"""

BATCHES = """
import numpy as np
with Owner(BOTH) as owner, opened(BOTH) as context, context.attach(owner.plain, timeout=LONG) as remote:
    data = np.arange(1 << 17, dtype="u8")
    remote.write(0, data)
    down(1)
    out = np.zeros_like(data)
    with context.batch() as batch:
        for at in range(0, 1 << 17, 1 << 14):
            batch.read(remote, 8 * at, out[at : at + (1 << 14)])
    assert (out == data).all() and on(context, 1), "all of them are sent again"
    read(remote)
    down(2)
    batch = context.batch()

    def overtaken():
        with batch:
            batch.read(remote, 0, out[:1])
            batch.write(remote, 0, b"overtake")

    raises(errors.TransportError, overtaken)
    assert isinstance(batch.errors[1], errors.OutcomeUnknownError)
    assert on(context, 1), "a READ before a WRITE that may have been executed is not sent again"
    assert read(remote) == bytes(8) and on(context, 0)
    down(1)
    with context.batch(continue_on_error=True) as batch:
        batch.read(remote, 0, out[:1])
        batch.read(remote, 8, out[1:2])
    assert not any(batch.errors) and out[1] == 1
"""

TASKS = """
async def scene(remote):
    await remote.write_async(0, b"before__")
    down(1)
    outs = [bytearray(8) for _ in range(20)]
    await asyncio.gather(*(remote.read_async(0, out) for out in outs))
    assert all(bytes(out) == b"before__" for out in outs)
    try:
        await remote.fetch_add_async(8, 1)
    except errors.PathLostError:
        down(0)
        for _ in range(1000):
            try:
                assert await remote.fetch_add_async(8, 1) == 0
                return
            except errors.PathLostError:
                await asyncio.sleep(0.01)
    raise AssertionError

with Owner(BOTH) as owner, opened(BOTH) as context, context.attach(owner.region, timeout=LONG) as remote:
    asyncio.run(scene(remote))
    assert on(context, 0)
"""

ONE_AND_TWO = """
for theirs, mine in (BOTH, FIRST), (FIRST, BOTH):
    with Owner(theirs) as owner, opened(mine) as context, context.attach(owner.region, timeout=LONG) as remote:
        assert remote.fetch_add(8, 1) == 0
        before = owner.ask("connections")
        if mine == BOTH:  # from two devices to one
            down(1)
            assert read(remote, 8) == (1).to_bytes(8, "little")
            assert remote.fetch_add(8, 1) == 1, "the same device executes it"
            assert on(context, 1) and owner.ask("connections") == before
            down(0)
"""

A_DEVICE_DIES = """
with Owner(BOTH) as owner, opened(BOTH) as context, context.attach(owner.plain, timeout=LONG) as remote:
    remote.write(0, b"before__")
    assert model.modeldev_plan(b"fatal=1") == 0
    for _ in range(3):
        assert read(remote) == b"before__"
    assert on(context, 1)
"""

A_QUEUE = """
with Owner(BOTH) as owner, opened(BOTH) as context, dsmem.attach(pickle.loads(owner.queue), context) as queue:
    for number in range(300):
        down(number // 100 % 3)
        queue.put(b"%d" % number)
    assert on(context, 0)
    assert owner.ask("taken") == " ".join(str(number) for number in range(300)), "each once, in their order"
"""

REFUSED = """
with opened(BOTH) as context:
    region = context.empty(64)
    assert [way.fabric for way in region.descriptor.ways] == ["verbs"], "one way, with all its devices"
for text in "verbs,verbs", "verbs://model0,verbs://model0:1", "tcp,tcp", "shm,shm":
    assert "twice" in str(raises(errors.InvalidArgumentError, opened, text))
"""

SCENES = {
    "reads go on": (READS_GO_ON, "nic"),
    "no route": (NO_ROUTE, "nic"),
    "writes": (WRITES, "nic"),
    "atomics of one device": (ATOMICS_OF_ONE_DEVICE, "nic"),
    "atomics of any device": (ATOMICS_OF_ANY_DEVICE, "global"),
    "batches": (BATCHES, "global"),
    "tasks": (TASKS, "nic"),
    "one and two devices": (ONE_AND_TWO, "nic"),
    "a device dies": (A_DEVICE_DIES, "nic"),
    "a queue": (A_QUEUE, "global"),
    "refused": (REFUSED, "nic"),
}


@pytest.mark.parametrize("scene", SCENES)
def test_paths(scene, library, tmp_path):
    text, atomics = SCENES[scene]
    program = f"BOTH, FIRST = {BOTH!r}, {FIRST!r}\n{USER}\n{text}\nprint('good')"
    play(library, tmp_path, f"seed=1&devices=2&atomics={atomics}", program, OWNER)
