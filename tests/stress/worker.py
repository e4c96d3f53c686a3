"""A process of the stress program: it puts or takes messages in all ways there are, and keeps its book.

A message is its producer's number, its own number, a body and the CRC-32 of all that, so the CRC-32 of a whole message
is RESIDUE.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import random
import signal
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from books import ENTRY_BITS, Book

import dsmem
from dsmem import errors

HEAD = struct.Struct("<IQ")
SMALLEST = HEAD.size + 4
RESIDUE = zlib.crc32(zlib.crc32(b"").to_bytes(4, "little"))
ROW = 64  # bytes of most arrays' rows, which a consumer takes with out=
BATCH = 400
SECRET = b"the secret of the stress program"


@dataclass(frozen=True)
class Job:
    """What one worker does, on which core, with what luck."""

    folder: Path
    number: int
    core: int
    seed: str
    fabric: str | None = None  # of a producer elsewhere
    shape: dict[str, object] | None = None  # of a consumer that makes the queue, into which others put remotely
    messages: int = 0
    may_peek: bool = False

    def book(self, role: str) -> Book:
        entries = 0 if role == "producer" else 2 * self.messages + (1 << 20)
        return Book(self.folder / f"{role}-{self.number}", entries)


def message(producer: int, number: int, body: bytes) -> bytes:
    text = HEAD.pack(producer, number) + body
    return text + zlib.crc32(text).to_bytes(4, "little")


def entry(data: bytes | memoryview) -> int:
    if len(data) < SMALLEST or zlib.crc32(data) != RESIDUE:
        raise AssertionError(f"a torn message of {len(data)} bytes: {bytes(data[:32]).hex()}")
    producer, number = HEAD.unpack_from(data)
    return producer << ENTRY_BITS | number


class Producer:
    """Puts messages until so many are decided."""

    def __init__(self, obj: dsmem.queue.Queue, job: Job) -> None:
        self.obj, self.job, self.book = obj, job, job.book("producer")
        self.rng = random.Random(job.seed)
        longest = int(obj.properties["max_message"]) - SMALLEST
        pool = self.rng.randbytes(longest + 1)
        self.bodies = [pool[:0], pool[:longest]]
        while len(self.bodies) < 1024:
            mean = longest if len(self.bodies) % 128 == 0 else 60
            size = min(longest, int(self.rng.expovariate(1 / mean)))
            at = self.rng.randrange(longest + 1 - size)
            self.bodies.append(pool[at : at + size])
        self.rng.shuffle(self.bodies)

    def messages(self, n: int, size: int | None = None) -> list[bytes]:
        producer, first, bodies = self.job.number, self.book.decided, self.bodies
        if size is not None:
            row = self.rng.randbytes(size - SMALLEST)
            return [message(producer, first + i, row) for i in range(n)]
        return [message(producer, first + i, bodies[(first + i) & 1023]) for i in range(n)]

    def one(self, n: int) -> None:
        (data,) = self.messages(1)
        self.put(1, lambda: self.obj.put(data))

    def reserved(self, n: int) -> None:
        (data,) = self.messages(1)

        def put() -> None:
            room = self.obj.reserve(len(data) + self.rng.randrange(2))
            room[: len(data)] = data
            self.obj.commit(len(data))

        if len(data) < self.obj.properties["max_message"]:
            self.put(1, put)

    def some(self, n: int) -> None:
        items = self.messages(n)
        self.put(n, lambda: self.obj.put_many(items))

    def array(self, n: int) -> None:
        size = ROW if self.rng.random() < 0.7 else self.rng.randrange(SMALLEST, 200)
        rows = np.frombuffer(b"".join(self.messages(n, size)), "u1").reshape(n, size)
        self.put(n, lambda: self.obj.put_many(rows))

    def put(self, n: int, do: Callable[[], object]) -> None:
        """A remote put may raise: then the error's 'placed' tells how far it came, and what is staged is sent again."""
        self.book.begin(n)
        try:
            do()
        except errors.TransportError as error:
            n = error.placed
            while not self.flushed():
                pass
        self.book.end(n)

    def flushed(self) -> bool:
        try:
            self.obj.flush()
        except errors.TransportError:
            return False
        return True

    def run(self) -> None:
        ways = (self.one, self.reserved, self.some, self.array)
        while (left := self.job.messages - self.book.decided) > 0:
            (way,) = self.rng.choices(ways, (1, 1, 2, 2))
            way(min(left, self.rng.randint(1, BATCH)))


class Consumer:
    """Takes messages until the queue is shut down and empty."""

    def __init__(self, obj: dsmem.queue.Queue, job: Job) -> None:
        self.obj, self.job, self.book = obj, job, job.book("consumer")
        self.rng = random.Random(job.seed)
        self.rows = np.zeros((BATCH, ROW), "u1")

    def one(self) -> None:
        self.book.begin(1)
        self.book.took([entry(self.obj.get())])

    def peeked(self) -> None:
        self.book.begin(1)
        number = entry(self.obj.peek())
        self.obj.release()
        self.book.took([number])

    def some(self) -> None:
        n = self.rng.randint(1, BATCH)
        self.book.begin(n)
        self.book.took([entry(data) for data in self.obj.get_many(n)])

    def array(self) -> None:
        rows = self.rows[: self.rng.randint(1, BATCH)]
        self.book.begin(len(rows))
        try:
            n = self.obj.get_many(out=rows)
        except errors.MismatchError:  # the next one is not of an array
            self.book.end(0)
            self.some()
            return
        data = rows[:n].tobytes()
        self.book.took([entry(data[at : at + ROW]) for at in range(0, len(data), ROW)])

    def run(self) -> None:
        ways = [self.one, self.some, self.array, *([self.peeked] if self.job.may_peek else [])]
        weights = (1, 3, 4, 1)[: len(ways)]
        while True:
            (way,) = self.rng.choices(ways, weights)
            try:
                way()
            except errors.ShutDownError:
                self.book.end(0)
                return


def main(role: str, ref: dsmem.Reference | None, job: Job) -> None:
    faulthandler.register(signal.SIGUSR1)
    os.sched_setaffinity(0, {job.core})
    kind = Producer if role == "producer" else Consumer
    if job.shape is not None:
        with dsmem.Context("fault+shm", secret=SECRET) as context, dsmem.connect(context=context) as cluster:
            with cluster.queue("it", create=True, **job.shape) as obj:
                half = job.folder / "ref.half"
                half.write_bytes(pickle.dumps(obj.ref))
                half.rename(job.folder / "ref")
                kind(obj, job).run()
        return
    context = dsmem.Context(job.fabric, secret=SECRET, peer_timeout=30) if job.fabric else None
    kind(attached(ref, context), job).run()
    os._exit(0)


def attached(ref: dsmem.Reference, context: dsmem.Context | None) -> dsmem.queue.Queue:
    while True:  # remotely connections break here, too
        try:
            return dsmem.attach(ref, context)
        except errors.TransportError:
            pass
