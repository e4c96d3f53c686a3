"""Hundreds of ops of all kinds and many threads are under way when their owner is killed, or cuts off their node.

Each ends with an error that says so, and its buffers are the caller's again.
"""

import asyncio
import contextlib
import subprocess
import sys
import threading
import time

import halt
import numpy as np
from tcp_relay import Relay

import dsmem
from dsmem import errors

SECRET = b"0bec7" * 12 + b"0b1e"
SECONDS, HOUR = 60, 3600
NBYTES, AT, WORD = 1 << 17, 1 << 16, 120000  # what is written lies from AT on, words that are counted from WORD on
EACH = 2  # threads of each kind
OWNER = f"""
import sys
import dsmem
owner = dsmem.Context("tcp", secret={SECRET!r}, listen="127.0.0.1")
region = owner.allocate({NBYTES})
print(bytes(region.descriptor).hex(), flush=True)
sys.stdin.read()
"""


def context(**options):
    return dsmem.Context("tcp", secret=SECRET, **{"listen": "127.0.0.1", "peer_timeout": HOUR, **options})


# ---- ops: each kind is given what makes its buffers, and returns the error of each of its ops, or None ----


def error_of(call, *args):
    try:
        call(*args)
    except errors.DsmemError as error:
        return [error.with_traceback(None)]  # its frames would keep views of the buffers
    return [None]


def read(remote, buffer):
    return error_of(remote.read, 0, buffer(8))


def long_read(remote, buffer):
    return error_of(remote.read, 0, buffer(40000))


def write(remote, buffer):
    return error_of(remote.write, AT, buffer(8))


def long_write(remote, buffer):
    return error_of(remote.write, AT, buffer(40000))


def add(remote, buffer):
    return error_of(remote.fetch_add, WORD, 1)


def swap(remote, buffer):
    return error_of(remote.compare_swap, WORD + 16, 0, 1)


def read_many(remote, buffer):
    return error_of(remote.read_many, np.arange(100, dtype="u8") * 64, memoryview(buffer(6400)).cast("B", (100, 64)))


def write_many(remote, buffer):
    offsets = np.arange(100, dtype="u8") * 64 + AT
    return error_of(remote.write_many, offsets, memoryview(buffer(6400)).cast("B", (100, 64)))


def batch(remote, buffer):
    with remote.context.batch(continue_on_error=True) as batch:
        for i in range(25):
            batch.read(remote, 64 * i, buffer(64))
            batch.write(remote, AT + 64 * i, buffer(64))
            batch.fetch_add(remote, WORD, 1)
            batch.compare_swap(remote, WORD + 16, 0, 1)
    return list(batch.errors)


def tasks(remote, buffer):
    async def all_of_them():
        ops = [remote.fetch_add_async(WORD, 1) for _ in range(20)]
        ops += [remote.read_async(0, buffer(4096)) for _ in range(10)]
        ops += [remote.write_async(AT, buffer(4096)) for _ in range(10)]
        return await asyncio.gather(*ops, return_exceptions=True)

    done = asyncio.run(all_of_them())
    return [each.with_traceback(None) if isinstance(each, BaseException) else None for each in done]


READS = (read, long_read, read_many)
CHANGES = (write, long_write, add, swap, write_many)
MIXED = (batch, tasks)
COUNTS = {read_many: 100, write_many: 100, batch: 100, tasks: 40}  # ops of those that have more than one


class Caller(threading.Thread):
    """Repeats the ops of a kind until one fails."""

    def __init__(self, kind, remote):
        super().__init__(daemon=True)
        self.kind, self.remote, self.buffers, self.errors, self.failure = kind, remote, [], [], None
        self.good = threading.Event()
        self.start()

    def buffer(self, nbytes):
        self.buffers.append(bytearray(nbytes))
        return self.buffers[-1]

    def run(self):
        try:
            while not any(self.errors):
                self.buffers.clear()
                self.errors = self.kind(self.remote, self.buffer)
                if not any(self.errors):
                    self.good.set()
        except BaseException as failure:
            self.failure = failure
        finally:
            self.good.set()


def callers_of(remote):
    return [Caller(kind, remote) for kind in (*READS, *CHANGES, *MIXED) for _ in range(EACH)]


@contextlib.contextmanager
def under_way(remote):
    """The callers of a remote whose owner does not answer: all their ops have been posted."""
    user = remote.context
    before, end = user.stats["posts"], time.monotonic() + SECONDS
    callers = callers_of(remote)
    while user.stats["posts"] - before < EACH * sum(COUNTS.get(kind, 1) for kind in (*READS, *CHANGES, *MIXED)):
        assert time.monotonic() < end
        time.sleep(0.001)
    assert not any(caller.errors or caller.failure for caller in callers)
    yield callers


def check(callers, gone, may_be_good=False):
    """Each op has ended: reads in one of these errors, or the outcome of a change is unknown."""
    unknown = (*gone, errors.OutcomeUnknownError)
    for caller in callers:
        caller.join(SECONDS)
        assert not caller.is_alive(), f"{caller.kind.__name__} hangs"
        if caller.failure:
            raise caller.failure
        of = gone if caller.kind in READS else unknown
        for error in caller.errors:
            assert isinstance(error, of) or (may_be_good and error is None), (caller.kind.__name__, error)
        for buffer in caller.buffers:
            buffer.extend(b"more")  # a BufferError where an op has it still


def check_buffers(callers, user):
    """They are good for other ops at once, and nothing comes into them late."""
    with context() as other, other.copy(np.full(NBYTES, 7, "u1")) as region:
        with user.attach(region.descriptor, timeout=SECONDS) as remote:
            buffers = [buffer for caller in callers for buffer in caller.buffers]
            with user.batch() as batch:
                for buffer in buffers:
                    batch.read(remote, 0, buffer)
            assert all(buffer == b"\7" * len(buffer) for buffer in buffers)


def test_the_owner_is_killed():
    command = [sys.executable, "-c", OWNER]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child,
        context() as user,
    ):
        try:
            with user.attach(bytes.fromhex(child.stdout.readline()), timeout=SECONDS) as remote:
                assert remote.fetch_add(0, 1) == 0
                halt.stop(child.pid)
                with under_way(remote) as callers:
                    child.kill()
                    check(callers, (errors.PeerDeadError,))
                check_buffers(callers, user)
                for kind in (*READS, *CHANGES, *MIXED):
                    for error in kind(remote, bytearray):
                        assert isinstance(error, errors.PeerDeadError)
        finally:
            child.kill()


CUT_OFF = (errors.FencedError, errors.PeerDeadError)


def test_the_node_is_cut_off_while_nothing_arrives():
    """And none of its ops is executed, though all arrive later."""
    with Relay() as relay, context(listen=relay.listen, advertise=relay.advertise) as owner, context() as user:
        with owner.allocate(NBYTES) as region, user.attach(region.descriptor, timeout=SECONDS) as remote:
            assert remote.fetch_add(0, 0) == 0
            relay.hold("up")
            with under_way(remote) as callers:
                owner.fence(user.node_id)
                relay.heal()
                check(callers, CUT_OFF)
            assert not any(bytes(region))
            check_buffers(callers, user)


def test_the_node_is_cut_off_under_load():
    """An op that was not sent yet is canceled, where another one has met the end of the connection first."""
    with context() as owner, context() as user, context() as third:
        with owner.allocate(NBYTES) as region, user.attach(region.descriptor, timeout=SECONDS) as remote:
            callers = callers_of(remote)
            for caller in callers:
                assert caller.good.wait(SECONDS)
            owner.fence(user.node_id)
            with third.attach(region.descriptor, timeout=SECONDS) as other:
                value = other.fetch_add(WORD, 1)
                check(callers, (*CUT_OFF, errors.CanceledError), may_be_good=True)
                assert other.fetch_add(WORD, 0) == value + 1 > EACH * 20
            check_buffers(callers, user)
