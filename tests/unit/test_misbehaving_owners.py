"""Owners that misbehave, and what only shm or fault can show: the peer gets an exception, and loses nothing."""

import asyncio
import gc
import mmap
import os
import socket
import struct
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import dsmem
from dsmem import errors
from dsmem.handshake import VERSION
from dsmem.testing.control import ATTACH, QUESTION, REPLY, STATUS, ControlClient, FakeOwner, attach_of, name_of, receive

SECRET = b"the secret of the tests of enemies"
OURS = struct.pack("<4sH", b"DSMH", VERSION)  # how a challenge begins


@pytest.fixture
def context():
    with dsmem.Context("shm", secret=SECRET, peer_timeout=5) as c:
        yield c


@pytest.fixture
def genuine(context):
    with context.allocate(4096) as region:
        yield region


def open_fds():
    return len(list(Path("/proc/self/fd").iterdir()))


def grant(nbytes=4096, access=7, kind=0):
    return struct.pack("<QII", nbytes, access, kind)


def region(seals=True):
    """What a region of 4096 bytes looks like."""
    fd = memory(8192, seals)
    os.pwrite(fd, b"dsmemshm" + struct.pack("<IIQ", 1, 0, 4096), 4096)
    return fd


def memory(nbytes=8192, seals=True):
    fd = os.memfd_create("enemy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, nbytes)
    if seals:
        import fcntl

        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return fd


def answering(reply):
    """An agent that shakes hands, and whose answer to each ATTACH is what reply(owner, client, question) sends."""

    def answer(owner, client, hello):
        owner.do_handshake(client, hello)
        while len(question := receive(client, QUESTION)) == QUESTION:
            reply(owner, client, question)

    return FakeOwner(SECRET, answer)


_sending = threading.Lock()  # held until the false owner has closed its own copies of what it sends


def send(payload=b"", fds=(), **how):
    def reply(owner, client, question):
        data = owner.reply(question, payload, **how)
        with _sending:
            kept = [make() for make in fds]
            socket.send_fds(client, [data], kept) if kept else client.sendall(data)
            for fd in kept:
                os.close(fd)

    return reply


def raw(data):
    return lambda owner, client, question: client.sendall(data)


def numbered(step):
    """A good answer to another question: its number differs by step."""

    def reply(owner, client, question):
        (number,) = struct.unpack_from("<Q", question, 8)
        fd = region()
        socket.send_fds(client, [owner.reply(question, grant(), number=(number + step) % 2**64)], [fd])
        os.close(fd)

    return reply


# Each is the good answer of test_a_false_owner_may_be_a_good_one, memory and all, but for what its name says.
ANSWERS = {
    "noise": (raw(b"\xff" * 68), errors.ProtocolError),
    "no mac": (lambda o, c, q: c.sendall(o.reply(q, grant())[:-32] + bytes(32)), errors.ProtocolError),
    "the next number": (numbered(1), errors.ProtocolError),
    "the number before": (numbered(-1), errors.ProtocolError),
    "a number out of range": (numbered(2**32), errors.ProtocolError),
    "another type": (send(grant(), [region], kind=REPLY | STATUS), errors.ProtocolError),
    "a question": (send(grant(), [region], kind=ATTACH), errors.ProtocolError),
    "oversized": (send(bytes(529)), errors.ProtocolError),
    "more than fits": (send(grant() + bytes(8), [region]), errors.ProtocolError),
    "a short grant": (send(grant()[:15], [region]), errors.ProtocolError),
    "no grant": (send(b"", [region]), errors.ProtocolError),
    "half a reply": (lambda o, c, q: (c.sendall(o.reply(q, grant())[:20]), c.close()), errors.PeerDeadError),
    "unknown status": (send(status=60000), errors.ProtocolError),
    "a refusal with a grant": (send(grant(), [region], status=6), errors.ProtocolError),
    "no length": (send(grant(nbytes=0), [region]), errors.ProtocolError),
    "no rights": (send(grant(access=0), [region]), errors.ProtocolError),
    "unknown rights": (send(grant(access=8), [region]), errors.ProtocolError),
    "more rights": (send(grant(access=15), [region]), errors.ProtocolError),
    "unknown kind": (send(grant(kind=1), [region]), errors.ProtocolError),
    "no memory": (send(grant()), errors.ProtocolError),
    "a pipe": (send(grant(), [lambda: os.pipe2(0)[0]]), errors.ProtocolError),
    "a file": (send(grant(), [lambda: os.open(__file__, os.O_RDONLY)]), errors.ProtocolError),
    "too little memory": (send(grant(8192), [region]), errors.ProtocolError),
    "a length near 2**64": (send(grant(2**64 - 1), [region]), errors.ProtocolError),
    "a length near 2**63": (send(grant(2**63 - 4096), [region]), errors.ProtocolError),
    "another length": (send(grant(4095), [region]), errors.ProtocolError),
    "memory that can shrink": (send(grant(), [lambda: region(seals=False)]), errors.ProtocolError),
    "memory that is not a region": (send(grant(), [memory]), errors.ProtocolError),
    "two memories": (send(grant(), [memory, region]), errors.ProtocolError),
    "many memories": (send(grant(), [memory] * 20), errors.ProtocolError),
    "memory with a refusal": (send(status=6, fds=[region]), errors.StaleDescriptorError),
    "a refusal": (send(status=6), errors.StaleDescriptorError),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_an_owner_that_answers_nonsense(context, genuine, what):
    reply, error = ANSWERS[what]
    with answering(reply) as enemy:
        with pytest.raises(error):
            context.attach(enemy.descriptor(genuine.descriptor))
    with context.attach(genuine.descriptor) as remote:
        assert remote.fetch_add(0, 1) == 0


def test_a_false_owner_may_be_a_good_one(context, genuine):
    """What the others lack is what they are refused for."""
    with answering(send(grant(), [region])) as owner:
        with context.attach(owner.descriptor(genuine.descriptor)) as remote:
            assert remote.fetch_add(0, 1) == 0


@pytest.mark.parametrize(
    "what", ["two memories", "many memories", "memory with a refusal", "memory that is not a region"]
)
def test_file_descriptors_do_not_leak(context, genuine, what):
    with answering(ANSWERS[what][0]) as enemy:
        descriptor = enemy.descriptor(genuine.descriptor)
        counts = []
        for _ in range(3):
            with pytest.raises(errors.DsmemError):
                context.attach(descriptor)
            gc.collect()
            with _sending:
                counts.append(open_fds())
        assert counts[2] <= counts[1]  # the garbage of other tests may end meanwhile


def challenge(head):
    return lambda owner, client, hello: client.sendall(head + bytes(88 - len(head)))


def verdict(head, role=None):
    def answer(owner, client, hello):
        proof = owner.handshake(hello)
        client.sendall(proof.challenge())
        assert receive(client, 32) == proof.mac("client")
        client.sendall(head + (proof.mac(role) if role else b""))

    return answer


HANDSHAKES = {
    "noise": (lambda o, c, h: c.sendall(b"\xff" * 88), errors.ProtocolError),
    "version 1": (challenge(b"DSMH\x01\x00"), errors.VersionError),
    "version 2": (challenge(b"DSMH\x02\x00"), errors.VersionError),
    "version 1 that refuses": (challenge(b"DSMH\x01\x00\x08\x00"), errors.VersionError),
    "another version": (challenge(b"DSMH\x09\x00"), errors.VersionError),
    "another node": (challenge(OURS), errors.StaleDescriptorError),
    "no proof": (verdict(bytes(36)), errors.AuthenticationError),
    "another role's proof": (verdict(bytes(4), "client"), errors.AuthenticationError),
    "a refusal": (verdict(b"\x0b" + bytes(35)), errors.AuthenticationError),
    "a refusal of no known number": (verdict(b"\xff" * 36), errors.ProtocolError),
    "half a verdict": (verdict(bytes(20)), errors.PeerDeadError),
    "fenced": (challenge(OURS + b"\x18\x00"), errors.FencedError),
    "unknown refusal": (challenge(OURS + b"\xff\xff"), errors.ProtocolError),
    "the end": (lambda o, c, h: None, errors.PeerDeadError),
    "half": (lambda o, c, h: c.sendall(OURS), errors.PeerDeadError),
}


@pytest.mark.parametrize("what", HANDSHAKES)
def test_an_owner_that_fails_the_handshake(context, genuine, what):
    answer, error = HANDSHAKES[what]
    with FakeOwner(SECRET, answer) as enemy, pytest.raises(error):
        context.attach(enemy.descriptor(genuine.descriptor))


def test_an_owner_that_keeps_silent(context, genuine):
    def answer(owner, client, hello):
        receive(client, 1)

    with FakeOwner(SECRET, answer) as enemy, pytest.raises(errors.TimeoutError):
        context.attach(enemy.descriptor(genuine.descriptor), timeout=0.1)


def test_a_full_backlog_is_waited_for(context, genuine):
    """Many that connect at once may find the agent busy; that is no reason to fail before the deadline."""
    knocked = threading.Event()

    def answer(owner, client, hello):
        if len(hello) == 56:
            knocked.set()

    enemy = FakeOwner(SECRET, answer, backlog=0)
    crowd = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(4)]
    for s in crowd:
        s.setblocking(False)
        s.connect_ex("\0" + enemy.address.removeprefix("unix:@"))
    assert crowd[-1].connect_ex("\0" + enemy.address.removeprefix("unix:@")) != 0
    outcome = []

    def attach():
        try:
            context.attach(enemy.descriptor(genuine.descriptor), timeout=30)
        except errors.DsmemError as e:
            outcome.append(e)

    thread = threading.Thread(target=attach)
    thread.start()
    for s in crowd:
        s.close()
    with enemy:
        assert knocked.wait(30)
    thread.join()
    assert isinstance(outcome[0], errors.PeerDeadError)  # it answered no more than that


def test_a_way_is_served_through_its_own_socket_only():
    """Over TCP no file descriptor of shared memory could come, and a node there need not be on this host."""
    with dsmem.Context("shm,tcp", secret=SECRET, listen="127.0.0.1") as owner, owner.allocate(4096, "r") as region:
        shm, tcp = region.descriptor.ways
        name = name_of(region.descriptor)
        for address, served, refused in ((shm.address, 1, 3), (tcp.address, 3, 1)):
            with ControlClient(address) as s:
                assert (s.hello(), s.prove(SECRET)) == (0, 0)
                assert s.ask(ATTACH, name + struct.pack("<I", refused)) == (22, b"", [])
                status, _, fds = s.ask(ATTACH, name + struct.pack("<I", served))
                assert (status, len(fds)) == (0, served == 1)
                for fd in fds:
                    os.close(fd)


def test_read_only_memory_stays_so_for_all_that_have_its_descriptor(context):
    """The agent's file descriptor conveys no more than the right, whatever its holder tries."""
    with context.allocate(4096, "r") as region, ControlClient(context.agent_address) as s:
        assert (s.hello(), s.prove(SECRET)) == (0, 0)
        status, _, (fd,) = s.ask(ATTACH, attach_of(region.descriptor))
        assert status == 0
        with pytest.raises(OSError):
            mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        with pytest.raises(OSError):
            os.write(fd, b"x")
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        try:
            with pytest.raises(OSError):
                mmap.mmap(again, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            with pytest.raises(OSError):
                os.pwrite(again, b"x", 0)
        finally:
            os.close(again)
        mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ).close()
        os.close(fd)
        region.array("u1")[0] = 1  # the owner still may


# ---- through fault: what takes its time ----


@pytest.fixture
def slow():
    """A remote whose ops take 30 ms."""
    with (
        dsmem.Context("shm", secret=SECRET) as owner,
        owner.allocate(4096) as region,
        dsmem.Context("fault+shm://?delay=*:30ms", secret=SECRET) as peer,
        peer.attach(region.descriptor) as remote,
    ):
        yield remote


async def test_buffers_live_as_long_as_the_op(slow):
    buffer = bytearray(b"held")
    future = slow.write_async(0, buffer)
    with pytest.raises(BufferError):
        buffer.append(0)
    await future
    buffer.append(0)
    out = np.zeros(4, np.uint8)
    future = slow.read_async(0, out)
    del out
    gc.collect()
    await future


async def test_a_cancelled_op_keeps_its_buffer(slow):
    buffer = bytearray(8)
    task = asyncio.ensure_future(_wait(slow.read_async(0, buffer)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(BufferError):
        buffer.append(0)
    await slow.fetch_add_async(0, 1)  # later on the same connection: the first is complete, too
    buffer.append(0)


async def _wait(future):
    return await future


async def test_close_while_an_op_is_under_way(slow):
    future = slow.fetch_add_async(0, 1)
    with pytest.raises(errors.BusyError):
        slow.close()
    assert await future == 0
    slow.close()


def test_close_while_a_thread_waits(slow):
    thread = threading.Thread(target=lambda: [slow.fetch_add(0, 1) for _ in range(10)])
    thread.start()
    while slow.context.stats["posts"] == 0:
        pass
    refused = 0
    for close in (slow.close, slow.context.close):
        try:
            close()
        except errors.BusyError:
            refused += 1
    thread.join()
    assert refused == 2


def test_a_deadline_that_passes_frees_the_buffer():
    with (
        dsmem.Context("shm", secret=SECRET) as owner,
        owner.allocate(4096) as region,
        dsmem.Context("fault+shm://?drop=1", secret=SECRET) as peer,
        peer.attach(region.descriptor) as remote,
    ):
        out = bytearray(8)
        with pytest.raises(errors.TimeoutError):
            remote.read(0, out, timeout=0.02)
        out.append(0)
        remote.read(0, bytearray(8))  # over a new connection


async def test_an_owner_that_dies_ends_what_waits_for_it():
    """The completion never comes; the end of the control connection does, and the loop is told."""
    owner = dsmem.Context("shm", secret=SECRET)
    region = owner.allocate(64)
    with (
        dsmem.Context("fault+shm://?drop=*", secret=SECRET) as peer,
        peer.attach(region.descriptor) as remote,
    ):
        future = remote.fetch_add_async(0, 1)
        await asyncio.sleep(0)
        owner.close()
        with pytest.raises(errors.PeerDeadError):  # whether the op was executed is not known, if it was sent
            await asyncio.wait_for(future, 30)


def test_a_loop_that_is_gone_is_not_needed(slow):
    async def leave():
        slow.fetch_add_async(0, 1)  # and no task awaits it

    asyncio.run(leave())
    while slow.fetch_add(0, 0) != 1:  # ops of different calls have no order, and the other one has a connection to make
        pass
    slow.context.close()


# ---- the end of the interpreter ----


@pytest.mark.parametrize("name", ["shm", "fault+shm"])
@pytest.mark.parametrize("how", ["pass", "sys.exit(0)", "del ctx", "ctx.close()", "array = region.array()"])
def test_exit_with_an_open_context(name, how):
    program = f"""
        import sys, asyncio, dsmem
        ctx = dsmem.Context({name!r}, secret=b"the secret of the exit")
        region = ctx.allocate(4096)
        remote = ctx.attach(region.descriptor)
        remote.fetch_add(0, 1)
        batch = ctx.batch()
        batch.write(remote, 0, b"never")
        {how}
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


# ---- fabrics that are not there ----


def test_no_such_library():
    done = subprocess.run(
        [sys.executable, "-c", "import dsmem; dsmem.Context('verbs', secret=bytes(16))"],
        env={**os.environ, "DSMEM_LIBIBVERBS": "/nowhere/libibverbs.so.1"},
        capture_output=True,
        text=True,
    )
    assert ("FabricUnavailableError" in done.stderr and "apt install" in done.stderr) or "built without" in done.stderr


def test_a_library_that_is_another_one():
    done = subprocess.run(
        [sys.executable, "-c", "import dsmem; dsmem.Context('verbs', secret=bytes(16))"],
        env={**os.environ, "DSMEM_LIBIBVERBS": "libc.so.6"},
        capture_output=True,
        text=True,
    )
    assert "FabricUnavailableError" in done.stderr


def test_no_device():
    if Path("/sys/class/infiniband").is_dir() and any(Path("/sys/class/infiniband").iterdir()):
        pytest.skip("this host has an RDMA device")
    with pytest.raises((errors.NoDeviceError, errors.FabricUnavailableError), match="dsmem doctor"):
        dsmem.Context("verbs", secret=SECRET)


def test_a_device_that_is_not_there(context):
    with pytest.raises(errors.InvalidArgumentError, match="no option 'device'"):
        dsmem.Context("shm://mlx5_0", secret=SECRET)
    with pytest.raises(errors.InvalidArgumentError):
        dsmem.Context("shm", secret=SECRET, listen="127.0.0.1")
    with pytest.raises(errors.InvalidArgumentError, match="16"):
        dsmem.Context("shm", secret=b"short")


def test_private_memory_on_shm(context):
    with pytest.raises(errors.NotShareableError, match=r"ctx\.copy\(array\)"):
        context.register(bytearray(64))
    with pytest.raises(errors.ReadOnlyBufferError):
        context.register(b"read-only")
    assert context.register_many([]) == []


# ---- beyond 4 GiB ----

GIB = 1 << 30


def available():
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


@pytest.mark.skipif(available() < 12 * GIB, reason="less than 12 GiB of memory are free")
def test_beyond_4_gib(context):
    """An offset that 32 bits can't hold, and a length that an int can't."""
    size, long = 4 * GIB + 8192, 2 * GIB + 16
    with context.allocate(size) as region, context.attach(region.descriptor) as remote:
        assert remote.fetch_add(4 * GIB, 5) == 0
        data = np.zeros(long, "u1")  # a page of zeros is enough for all that is not written
        data.view("u8")[[0, -1]] = 7, 9
        remote.write(size - long, data)
        small = bytearray(16)
        remote.read_many([size - 8, size - long], small)
        assert small == struct.pack("<QQ", 9, 7)
        assert remote.fetch_add(4 * GIB, 0) == 0  # written over
        with pytest.raises(errors.OutOfBoundsError):
            remote.read(size - 7, bytearray(8))
        with pytest.raises(errors.OutOfBoundsError):
            remote.read_many([8, size - 7], bytearray(16))
