"""A process of a recorded history: it uses one object, and writes a line before and a line after each operation."""

import ast
import os
import queue
import random
import time
from pathlib import Path

from attaching import attached
from checker import Op

import dsmem


class Log:
    """Lines of one write() each, so that what a killed process has begun and ended is known.

    With ``meet``, a barrier, it waits for the others before each round of so many operations: else one that maps the
    memory would have done all of its own before another had begun.
    """

    def __init__(self, path, meet=None, together=0):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.meet, self.together, self.count = meet, together, 0

    def __call__(self, name, args, do):
        if self.meet and self.count % self.together == 0:
            self.meet.wait(30)
        self.count += 1
        os.write(self.fd, repr((time.monotonic_ns(), name, args)).encode() + b"\n")
        result = do()
        os.write(self.fd, repr((time.monotonic_ns(), result)).encode() + b"\n")
        return result


def read(path: Path) -> list[Op]:
    # A kill can cut the last line: its op has not begun, or its end is unknown.
    lines = [ast.literal_eval(line) for line in path.read_text().split("\n")[:-1]]
    ends = [*lines[1::2], (None, None)]
    return [Op(begin, *ends[i][:1], name, args, ends[i][1]) for i, (begin, name, args) in enumerate(lines[::2])]


def put_some(obj, log, party, count):
    for n in range(count):
        log("put", ((party, n),), lambda n=n: obj.put(b"%d %d" % (party, n), timeout=30))


def get_some(obj, log, party, count):
    def once():
        try:
            return tuple(int(part) for part in obj.get_nowait().split())
        except queue.Empty:
            return None

    for _ in range(count):
        log("get", (), once)


def change_word(obj, log, party, count):
    rng = random.Random(party)
    for _ in range(count):
        choice = rng.randrange(5)
        if choice < 2:
            log("add", (1,), lambda: obj.fetch_add(0, 1))
        elif choice == 2:
            log("read", (), lambda: int(obj.read(0)))
        else:
            expected, desired = rng.randrange(50), rng.randrange(50)
            log("swap", (expected, desired), lambda e=expected, d=desired: int(obj.compare_swap(0, e, d)))


def write_and_read(obj, log, party, count):
    """The word beside: one that atomics change must not be written."""
    rng = random.Random(party)
    for n in range(count):
        if rng.random() < 0.5:
            value = (party + 1) << 32 | (n + 1)  # both halves say what was written: a mixture is no value
            log("write", (value,), lambda value=value: obj.write(1, value))
        else:
            log("read", (), lambda: int(obj.read(1)))


def take_turns(obj, log, party, count):
    def acquire():
        assert obj.acquire(timeout=30)
        return obj.token

    for _ in range(count):
        log("acquire", (party,), acquire)
        log("release", (party,), obj.release)


def main(job, ref, fabric, secret, gate, path, party, count, meet=None, together=0):
    peer_timeout = 0.5 if fabric and fabric.startswith("fault+") else 30
    context = dsmem.Context(fabric, secret=secret, peer_timeout=peer_timeout) if fabric else None
    obj = attached(ref, context) if context else dsmem.attach(ref)
    assert fabric is None or obj._memory.remote.fabric == fabric.partition(":")[0]
    assert gate.wait(30)
    globals()[job](obj, Log(path, meet, together), party, count)
    os._exit(0)
