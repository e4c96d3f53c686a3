"""Lifetimes of descriptors, regions, remotes, contexts and their owners."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable

import pytest

import dsmem
from dsmem import errors

from ..control import forge
from .fixtures import SECRET, open_context


def test_more_memory_than_there_is(owner: dsmem.Context) -> None:
    with pytest.raises(errors.OutOfMemoryError):
        owner.allocate(1 << 50)


def test_descriptor_travels(peer: dsmem.Context, region: dsmem.Region) -> None:
    d = region.descriptor
    for form in (pickle.loads(pickle.dumps(d)), bytes(d), bytearray(bytes(d))):
        with peer.attach(form) as remote:
            assert remote.nbytes == 8192


def test_damaged_descriptors(peer: dsmem.Context, region: dsmem.Region) -> None:
    raw = bytes(region.descriptor)
    for i in range(len(raw)):
        with pytest.raises((errors.DescriptorError, errors.VersionError)):
            peer.attach(raw[:i] + bytes([raw[i] ^ 0x41]) + raw[i + 1 :])
        with pytest.raises(errors.DescriptorError):
            peer.attach(raw[:i])


def test_stale_descriptor(owner: dsmem.Context, peer: dsmem.Context, region: dsmem.Region) -> None:
    stale = region.descriptor
    region.close()
    again = owner.allocate(8192)
    with pytest.raises(errors.StaleDescriptorError):
        peer.attach(stale)
    again.close()


def test_region_closed_under_a_remote(region: dsmem.Region, remote: dsmem.Remote) -> None:
    region.close()
    with pytest.raises(errors.StaleDescriptorError):
        remote.read(0, bytearray(8))
    with pytest.raises(errors.StaleDescriptorError):
        remote.fetch_add(0, 1)


def test_views_hold_a_region(region: dsmem.Region) -> None:
    array = region.array("u8")
    with pytest.raises(errors.BusyError):
        region.close()
    array[0] = 1
    del array
    region.close()
    region.close()
    with pytest.raises(errors.ClosedError):
        region.array("u8")


def test_closed_objects(peer: dsmem.Context, remote: dsmem.Remote) -> None:
    remote.close()
    remote.close()
    with pytest.raises(errors.ClosedError):
        remote.read(0, bytearray(8))
    peer.close()
    with pytest.raises(errors.ClosedError):
        peer.allocate(8)


def test_wrong_secret(fabric: str, region: dsmem.Region) -> None:
    with dsmem.Context(fabric, secret=b"another secret entirely") as client:
        with pytest.raises(errors.AuthenticationError):
            client.attach(region.descriptor)


def test_fenced_node(owner: dsmem.Context, peer: dsmem.Context, region: dsmem.Region, remote: dsmem.Remote) -> None:
    try:
        owner.fence(peer.node_id)
    except errors.UnsupportedError:
        assert "shm" in owner.fabric
    with pytest.raises((errors.FencedError, errors.PeerDeadError)):
        peer.attach(region.descriptor)


_OWNER = """
import sys, dsmem
context = dsmem.Context(sys.argv[1], secret=bytes.fromhex(sys.argv[2]))
region = context.allocate(4096)
print(region.descriptor.hex(), flush=True)
sys.stdin.read()
"""


def _is_dead(peer: dsmem.Context, remote: dsmem.Remote, descriptor: bytes) -> None:
    """Once an attach was refused, the owner is known to be dead, and every later op raises PeerDeadError."""
    for op in (
        lambda: peer.attach(descriptor),
        lambda: remote.read(0, bytearray(8), timeout=10),
        lambda: remote.write(0, bytes(8), timeout=10),
        lambda: remote.fetch_add(0, 1, timeout=10),
    ):
        with pytest.raises(errors.PeerDeadError):
            op()


def test_killed_owner(fabric: str, peer: dsmem.Context) -> None:
    command = [sys.executable, "-c", _OWNER, fabric, SECRET.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        descriptor = bytes.fromhex(process.stdout.readline())
        remote = peer.attach(descriptor)
        assert remote.fetch_add(0, 1) == 0
        process.send_signal(signal.SIGKILL)
        process.wait()
        gone = (errors.PeerDeadError, errors.CanceledError, errors.TransportError)
        with pytest.raises(gone):
            for _ in range(1_000_000):  # until the death is known here
                remote.fetch_add(0, 1, timeout=10)
        _is_dead(peer, remote, descriptor)
        remote.close()


# ---- fork ----


def _in_child(check: Callable[[], None]) -> int:
    """Run check in a forked child, and return the child's exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: the process has threads
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            check()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_is_refused_and_harms_nothing(
    fabric: str, owner: dsmem.Context, peer: dsmem.Context, region: dsmem.Region, remote: dsmem.Remote
) -> None:
    remote.write(0, b"before")
    batch = peer.batch()
    batch.write(remote, 0, b"child!")
    descriptor = region.descriptor

    def check() -> None:
        refused: list[Callable[[], object]] = [
            lambda: remote.read(0, bytearray(8)),
            lambda: remote.write(0, b"x"),
            lambda: remote.fetch_add(8, 1),
            lambda: remote.compare_swap(8, 0, 1),
            lambda: remote.read_many([0], bytearray(8)),
            lambda: remote.write_many([0], bytes(8)),
            lambda: batch.__exit__(None, None, None),
            lambda: peer.batch(),
            lambda: peer.attach(descriptor),
            lambda: owner.allocate(8),
            lambda: owner.register(bytearray(8)),
            lambda: owner.fence(peer.node_id),
            lambda: region.descriptor,
            lambda: region.array("u1"),
            lambda: remote.__enter__(),
            lambda: asyncio.run(_await(remote)),
        ]
        for op in refused:
            with pytest.raises(errors.ForkError):
                op()
        with open_context(fabric) as own, own.allocate(8) as mine, own.attach(mine.descriptor) as here:
            assert here.fetch_add(0, 1) == 0  # a context of the child's own works
        for thing in (remote, region, peer, owner):
            thing.close()  # only forgets

    async def _await(remote: dsmem.Remote) -> None:
        await remote.read_async(0, bytearray(8))

    assert _in_child(check) == 0
    assert remote.fetch_add(8, 1) == 0
    assert region.array("u1")[:6].tobytes() == b"before"
    with peer.attach(descriptor) as again:
        assert again.fetch_add(8, 1) == 1
    batch.__exit__(KeyError, None, None)


_PARENT = """
import os, sys, dsmem
context = dsmem.Context(sys.argv[1], secret=bytes.fromhex(sys.argv[2]))
region = context.allocate(4096)
child = os.fork()
if child == 0:
    sys.stdin.read()
    os._exit(0)
print(region.descriptor.hex(), child, flush=True)
import signal
signal.pause()
"""


def test_a_child_does_not_hide_the_death_of_its_parent(fabric: str, peer: dsmem.Context) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _PARENT, fabric, SECRET.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        descriptor, child = process.stdout.readline().split()
        remote = peer.attach(bytes.fromhex(descriptor))
        process.kill()
        process.wait()
        os.kill(int(child), 0)  # the child is alive
        with pytest.raises((errors.PeerDeadError, errors.CanceledError, errors.TransportError)):
            for _ in range(1_000_000):
                remote.fetch_add(0, 1, timeout=10)
        _is_dead(peer, remote, bytes.fromhex(descriptor))
        remote.close()


# ---- dropped, and closed while in use ----


def test_what_is_dropped_open_warns_and_is_closed(fabric: str, owner: dsmem.Context, peer: dsmem.Context) -> None:
    region = owner.allocate(64)
    descriptor = region.descriptor
    remote = peer.attach(descriptor)
    with pytest.warns(ResourceWarning, match="unclosed <Remote 64 bytes"):
        del remote
        gc.collect()
    with pytest.warns(ResourceWarning, match="unclosed <Region 64 bytes"):
        del region
        gc.collect()
    with pytest.raises(errors.StaleDescriptorError):
        peer.attach(descriptor)
    context = open_context(fabric)
    address = context.agent_address
    with pytest.warns(ResourceWarning, match="unclosed <Context"):
        del context
        gc.collect()
    with owner.allocate(8) as other, pytest.raises(errors.PeerDeadError):
        peer.attach(forge(other.descriptor, address=address))


def test_close_while_threads_work(owner: dsmem.Context, peer: dsmem.Context) -> None:
    """close() is refused as busy, or happens between two ops, and later ops are refused. It never interrupts an op."""
    region = owner.allocate(1 << 20)
    remote = peer.attach(region.descriptor)
    stop = threading.Event()
    ended: list[BaseException] = []

    def work() -> None:
        out = bytearray(1 << 20)  # long enough to be copied without the GIL
        try:
            while not stop.is_set():
                remote.read(0, out)
                with peer.batch() as b:
                    b.fetch_add(remote, 0, 1)
        except errors.ClosedError as e:
            ended.append(e)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for _ in range(300):
        try:
            peer.close()
            break
        except errors.BusyError:
            assert not peer.closed
    stop.set()
    for t in threads:
        t.join()
    assert peer.closed or not ended
    peer.close()
    region.close()


def test_closing_is_all_or_nothing(owner: dsmem.Context, region: dsmem.Region) -> None:
    array = region.array("u8")
    with pytest.raises(errors.BusyError):
        owner.close()
    assert not owner.closed and not region.closed
    array[0] = 1
    del array
    owner.close()
    assert region.closed


def test_a_context_is_opened_once(fabric: str, owner: dsmem.Context) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        owner.__init__(fabric, secret=SECRET)  # type: ignore[misc]
    owner.allocate(8).close()


# ---- event loops ----


def test_async_outside_of_a_loop_starts_nothing(
    peer: dsmem.Context, region: dsmem.Region, remote: dsmem.Remote
) -> None:
    before = peer.stats["posts"]
    buffer = bytearray(b"async")
    with pytest.raises(RuntimeError):
        remote.write_async(0, buffer)
    assert peer.stats["posts"] == before
    buffer.append(0)  # the buffer is not held
    assert not region.array("u1").any()


def test_async_refusals(remote: dsmem.Remote) -> None:
    async def run() -> None:
        with pytest.raises(errors.OutOfBoundsError):
            await remote.read_async(1 << 20, bytearray(8))
        with pytest.raises(errors.ReadOnlyBufferError):
            await remote.read_async(0, bytes(8))
        with pytest.raises(errors.AlignmentError):
            await remote.fetch_add_async(1, 1)

    asyncio.run(run())


def test_event_loops_and_threads_share_a_context(remote: dsmem.Remote) -> None:
    """Two loops and two blocking threads on one connection: the thread that takes an event wakes the others."""
    failures: list[BaseException] = []
    olds: list[int] = []

    def guard(work: Callable[[], list[int]]) -> threading.Thread:
        def run() -> None:
            try:
                olds.extend(work())
            except BaseException as e:
                failures.append(e)

        return threading.Thread(target=run)

    async def many() -> list[int]:
        mine: list[int] = []
        for _ in range(20):
            ops = [remote.fetch_add_async(0, 1) for _ in range(5)]
            mine += await asyncio.wait_for(asyncio.gather(*ops), 60)
        return mine

    threads = [guard(lambda: asyncio.run(many())) for _ in range(2)]
    threads += [guard(lambda: [remote.fetch_add(0, 1) for _ in range(100)]) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    assert sorted(olds) == list(range(400))


def test_loop_after_loop(remote: dsmem.Remote) -> None:
    async def once() -> int:
        return await remote.fetch_add_async(0, 1)

    assert [asyncio.run(once()) for _ in range(5)] == list(range(5))


def test_a_context_closed_in_a_loop(fabric: str, region: dsmem.Region) -> None:
    async def run() -> None:
        context = open_context(fabric)
        remote = context.attach(region.descriptor)
        futures = [remote.fetch_add_async(0, 1) for _ in range(10)]
        context.close()
        for future in futures:
            try:
                await future
            except errors.DsmemError as e:
                assert isinstance(e, (errors.CanceledError, errors.TimeoutError, errors.OutcomeUnknownError))
        await asyncio.sleep(0)

    asyncio.run(run())
