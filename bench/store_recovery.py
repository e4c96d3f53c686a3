"""Claim: a store goes on within 0.1 s when a death is known. Usage: store_recovery.py [options]

A coordinator and memory nodes are processes of this host, over loopback. In a store of two copies with many pages
clients read and write random ones, each of which waits for its answer before the next. A node is killed: that of the
primary copy, or of the other one. "Known" is when the coordinator does not say any more that the epoch is open: another
process asks it every half a millisecond. What follows are, if it was the primary, the wait for leases of clients that
have read of late and do nothing now (--lease); the recovery of the copies that are left; and that clients open them.
Until then a client gets no answer; the time from the death to its next one is "in all".

A client is killed in the commit of a transaction, and a write to a page that it has locked is waited for. "Known" is
when --grace is over, for which a client may be cut off, since the kernel has ended the process and with it its
connections: "gone" is how long that took.

"untouched" are pages of which the dead had nothing: those of a small store at other nodes, and, where a client died,
all but those that it was changing. Their p99 after a death is compared with that before; "in time" is what an instant
sees that is chosen at random: how long it is until the op under way there has ended, so a pause counts by its length.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nodes
import numpy as np

from dsmem import errors
from dsmem.membership.client import Coordination
from dsmem.membership.client import nodes as nodes_of

SECONDS = 300.0  # for what must come
POLL = 0.5e-3
LOCKED = 32  # pages of a transaction in whose commit a client is killed
SMALL = 1000  # pages of the small store
CURVE = {"from": -1.0, "to": 2.0, "step": 0.05}  # seconds from a death, in which ops that ended are counted
GOALS = {"median": 0.1, "worst": 0.5, "ratio": 1.5}
processes = multiprocessing.get_context("spawn")


# ---- processes ----


class Server:
    """`dsmem serve`, with a log of its own."""

    def __init__(self, folder, name, *options):
        self.command = [*nodes.SERVE, *options]  # the last --grace counts
        with Path(folder, f"{name}.log").open("a") as log:
            self.popen = subprocess.Popen(
                self.command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "DSMEM_SECRET": nodes.SECRET.decode()},
            )
        self.address = self.popen.stdout.readline().split()[-1]

    def kill(self):
        """When it was killed."""
        now = time.monotonic()
        self.popen.kill()
        return now

    def end(self):
        self.popen.kill()
        self.popen.wait()
        self.popen.stdout.close()


def random_calls(store, pids, seed):
    """Reads and writes of pages, in turn."""
    random = np.random.default_rng(seed)
    data = np.full(store.page_size, seed % 256, "u1").tobytes()
    while True:
        for pid in random.choice(pids, 1000).tolist():
            yield lambda pid=pid: store.read(pid)
            yield lambda pid=pid: store.write(pid, data)


def load(address, name, ids, seed, pipe):
    """A client. Told "since", it sends when each op began and ended since it was told so before."""
    with nodes.client(address) as (cluster, _), cluster.store(name) as store:
        calls, times = random_calls(store, np.load(ids), seed), []
        pipe.send("ready")
        while True:
            call = next(calls)
            begun = time.monotonic()
            with contextlib.suppress(errors.OutcomeUnknownError):
                call()
            times.append((begun, time.monotonic()))
            if pipe.poll():
                if pipe.recv() == "end":
                    return
                pipe.send(np.array(times))
                times = []


def watch(address, name, pipe):
    """Told "since", it sends when the store's epoch was open or not, since it was told so before."""
    with nodes.client(address) as (cluster, _), cluster.store(name) as store:
        coordination, seen = Coordination(store._coordination.names, name), []
        pipe.send("ready")
        while True:
            with contextlib.suppress(errors.DsmemError):
                found = coordination.copies(store._number, time.monotonic() + 1)
                state = found.epoch, found.phase == 1
                if not seen or seen[-1][1:] != state:
                    seen.append((time.monotonic(), *state))
            if pipe.poll(POLL):
                if pipe.recv() == "end":
                    return
                pipe.send(seen)
                seen = seen[-1:]


def commit_until_killed(address, name, ids, pipe):
    """A client that does nothing but commit transactions."""
    with nodes.client(address) as (cluster, _), cluster.store(name) as store:
        pids, data = np.load(ids).tolist(), bytes(store.page_size)

        def change(tx):
            for pid in pids:
                tx.write(pid, data)

        store.run(change)
        pipe.send("ready")
        while True:
            store.run(change)


class Child:
    """A process, and a pipe to it."""

    def __init__(self, stack, target, *given):
        self.pipe, theirs = processes.Pipe()
        self.process = processes.Process(target=target, args=(*given, theirs), daemon=True)
        self.process.start()
        theirs.close()
        stack.callback(self.process.kill)
        assert self.heard() == "ready"

    def heard(self):
        assert self.pipe.poll(SECONDS)
        return self.pipe.recv()

    def since(self):
        self.pipe.send("since")
        return self.heard()


# ---- what is measured ----


class World:
    """The processes, and a store with many pages."""

    def __init__(self, stack, given, lease):
        self.stack, self.given = stack, given
        self.folder = stack.enter_context(tempfile.TemporaryDirectory())
        grace = ("--grace", str(given.grace))
        state = ("--coordinator", "--state", f"{self.folder}/state", "--lease", str(lease))
        self.coordinator = self.served("coordinator", *state, *grace)
        self.joining = ("--join", self.coordinator.address, *grace)
        self.nodes = [self.served(f"node-{i}", *self.joining) for i in range(given.nodes)]
        self.address = f"{self.coordinator.address}/{stack.enter_context(nodes.own_name())}"
        self.cluster, _ = stack.enter_context(nodes.client(self.address))
        eventually(lambda: sum(each.is_up for each in nodes_of(self.cluster._names)) == given.nodes)
        self.big, self.ids, self.locked = self.filled("big", given.pages, LOCKED)
        self.small, self.few, _ = self.filled("small", SMALL, 0)
        self.load = Child(stack, load, self.address, "big", self.ids, 1)
        self.untouched = Child(stack, load, self.address, "small", self.few, 2)
        self.watch = Child(stack, watch, self.address, "big")

    def served(self, name, *options):
        made = Server(self.folder, name, *options)
        self.stack.callback(made.end)
        return made

    def filled(self, name, pages, apart):
        """A store, the file with ids of its pages, and that with some that are in no other one."""
        size = self.given.page_size
        store = self.cluster.store(
            name, create=True, replicas=2, page_size=size, capacity=(pages + 64) * size, members=16
        )
        self.stack.enter_context(store)
        pids = np.concatenate([store.allocate_many(min(1 << 16, pages - at)) for at in range(0, pages, 1 << 16)])
        for at in range(0, pages, 1 << 14):
            some = pids[at : at + (1 << 14)]
            store.write_many(some, np.ones((len(some), size), "u1"))
        files = [Path(self.folder, f"{name}-{part}.npy") for part in ("ids", "apart")]
        np.save(files[0], pids[apart:])
        np.save(files[1], pids[:apart])
        return store, *files

    def is_whole(self):
        found = [store.health() for store in (self.big, self.small)]
        return all(each["open"] and not each["missing"] and len(each["copies"]) == 2 for each in found)

    def nodes_of(self, store):
        return [copy["node"] for copy in store.health()["copies"]]

    def window(self, seconds):
        time.sleep(seconds)  # as long as that is measured
        return self.load.since(), self.untouched.since()


def eventually(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"after {SECONDS:.0f} s something has not come")
        time.sleep(0.01)


def p99(times):
    """µs of ops; and of an instant, until the op under way there has ended."""
    took = times[:, 1] - times[:, 0]
    least, most = 0.0, took.max()
    for _ in range(60):
        middle = (least + most) / 2
        late = np.maximum(took - middle, 0).sum() > 0.01 * took.sum()
        least, most = (middle, most) if late else (least, middle)
    return {"op": float(np.percentile(took, 99)) * 1e6, "in time": most * 1e6}


def curve(ended, died):
    """How many ops ended in each step of time."""
    edges = np.arange(CURVE["from"], CURVE["to"] + CURVE["step"] / 2, CURVE["step"])
    return np.histogram(ended - died, edges)[0].tolist()


def ratios(before, after):
    a, b = p99(before), p99(after)
    return {"before_us": a, "after_us": b, "ratio": {kind: b[kind] / a[kind] for kind in a}}


def kill_node(world, place, seconds):
    """One death of the node with that copy."""
    eventually(world.is_whole)
    address = world.nodes_of(world.big)[place]
    node = next(each for each in world.nodes if each.address == address)
    is_apart = address not in world.nodes_of(world.small)
    world.window(0)
    world.watch.since()
    calm, quiet = world.window(seconds)
    died = node.kill()
    touched, other = world.window(seconds + 1)
    seen = world.watch.since()
    known = next(at for at, epoch, is_open in seen if at > died and (not is_open or epoch > seen[0][1]))
    opened = next(at for at, epoch, is_open in seen if at > known and is_open)
    found = {"known": known - died, "opened": opened - known}  # seconds, each from the one before
    end = max(died, touched[touched[:, 0] < opened, 1].max())  # of the op that was under way when the epoch was opened
    found["op"] = {"beyond": max(0.0, end - known), "in_all": end - died}
    found["curve"] = curve(np.concatenate([calm[:, 1], touched[:, 1]]), died)
    node.end()
    world.nodes.remove(node)
    world.nodes.append(world.served(f"node-{node.popen.pid}-next", *world.joining))
    eventually(world.is_whole)
    found["whole"] = time.monotonic() - died
    if is_apart:
        found["untouched"] = ratios(quiet, other)
    return found


def locked_of(store, pids):
    """Those of the pages that a transaction has locked: docs/protocols/pages.md."""
    remote, raw = store._remotes[0], bytearray(192)
    remote.read(0, raw)
    (slots,), (chunks,) = struct.unpack_from("<I", raw, 68), struct.unpack_from("<Q", raw, 88)
    at = -(-(192 + 16 * slots + 8 * chunks) // 64) * 64
    found = []
    for pid in pids:
        word = bytearray(8)
        remote.read(at + 8 * (pid & 2**40 - 1), word)
        if 2049 <= int.from_bytes(word, "little") >> 52 <= 3072:
            found.append(pid)
    return found


def kill_client(world, seconds):
    """One death of a client that has locked pages; None if it had not."""
    eventually(world.is_whole)
    pids, data = np.load(world.locked).tolist(), bytes(world.given.page_size)
    with contextlib.ExitStack() as stack:
        doomed = Child(stack, commit_until_killed, world.address, "big", world.locked)
        world.window(0)
        quiet, _ = world.window(seconds)
        world.big.version(pids[0])  # this handle is in the present epoch
        while not locked_of(world.big, pids[-1:]):
            pass
        died, gone = time.monotonic(), []
        doomed.process.kill()
        waits = threading.Thread(target=lambda: gone.append(doomed.process.join() or time.monotonic()))
        waits.start()
        locked = locked_of(world.big, pids)
        if not locked:
            return None
        world.big.write(locked[0], data)
        first = time.monotonic()
        for pid in locked[1:]:
            world.big.write(pid, data)
        last = time.monotonic()
        other, _ = world.window(max(0.0, seconds - (last - died)))
        waits.join()
    known = gone[0] - died + world.given.grace
    return {
        "locked": len(locked),
        "gone": gone[0] - died,
        "first": {"beyond": max(0.0, first - died - known), "in_all": first - died},
        "all": {"beyond": max(0.0, last - died - known), "in_all": last - died},
        "untouched": ratios(quiet, other),
    }


def summary(samples, kinds):
    """Of times in seconds, and of ratios, over all deaths."""
    found = {}
    if not samples:  # no client had locked pages when it was killed
        return found
    for kind in kinds:
        for what in ("beyond", "in_all"):
            each = [sample[kind][what] for sample in samples]
            found[f"{kind}, {what}"] = {"median": statistics.median(each), "worst": max(each)}
    for what in ("op", "in time"):
        each = [sample["untouched"]["ratio"][what] for sample in samples if "untouched" in sample]
        if each:
            found[f"untouched p99, {what}"] = {"median": statistics.median(each), "worst": max(each), "of": len(each)}
    return found


def measure(given, lease):
    """All deaths of one setting."""
    samples = {"primary": [], "another": [], "client": []}
    with contextlib.ExitStack() as stack:
        begun = time.monotonic()
        world = World(stack, given, lease)
        print(
            f"lease {lease} s: {given.pages} pages at two of {given.nodes} nodes after {time.monotonic() - begun:.0f} s"
        )
        for _ in range(given.kills):
            for place, kind in enumerate(("primary", "another")):
                samples[kind].append(kill_node(world, place, given.window))
                print(f"  {kind}: {json.dumps({**samples[kind][-1], 'curve': []})}", flush=True)
        tries = 0
        while len(samples["client"]) < given.kills and (tries := tries + 1) <= 10 * given.kills:
            found = kill_client(world, given.window)
            if found:
                samples["client"].append(found)
                print(f"  client: {json.dumps(found)}", flush=True)
    kinds = {"primary": ("op",), "another": ("op",), "client": ("first", "all")}
    return {kind: {"summary": summary(samples[kind], kinds[kind]), "samples": samples[kind]} for kind in samples}


def say(found):
    for kind, of in found.items():
        print(f"{kind}, {len(of['samples'])} deaths:")
        for what, figures in of["summary"].items():
            if what.startswith("untouched"):
                goal = f"the goal is at most {GOALS['ratio']}"
                print(f"  {what}: {figures['median']:.2f} × that before, worst {figures['worst']:.2f}; {goal}")
                continue
            goal = f"; the goals are {GOALS['median']} and {GOALS['worst']} s" if what.endswith("beyond") else ""
            print(f"  {what}: median {figures['median']:.3f} s, worst {figures['worst']:.3f} s{goal}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=10**6)
    parser.add_argument("--page-size", type=int, default=256)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--window", type=float, default=3.0, help="seconds that are measured before a death, and after")
    parser.add_argument("--lease", type=float, action="append", help="of the coordinator; may be repeated")
    parser.add_argument("--grace", type=float, default=0.2, help="seconds for which a client may be cut off")
    parser.add_argument("--short", action="store_true", help="few pages and deaths: shows that it works")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    if given.short:
        given.pages, given.kills, given.window = 5000, 1, 0.5
    leases = given.lease or [0.5]
    found = {str(lease): measure(given, lease) for lease in leases}
    for lease, of in found.items():
        print(f"lease {lease} s")
        say(of)
    if given.json:
        of = {key: getattr(given, key) for key in ("pages", "page_size", "nodes", "kills", "window", "grace")}
        given.json.write_text(
            json.dumps({**nodes.circumstances(), **of, "curve": CURVE, "by_lease": found}, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
