"""The tcp fabric: its bytes with a client and an owner that are not ours, what a peer that lies comes to, and ends."""

import contextlib
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from namespaces import host  # noqa: F401  a fixture
from tcp_peer import (
    CLOSE_WAIT,
    EACCESS,
    EPEER,
    ESTALE,
    FETCH_ADD,
    MORE,
    READ,
    REPLY,
    REQUEST,
    WRITE,
    Client,
    Owner,
    Refused,
    arrived,
    exactly,
    forged,
    tcp_infos,
    token_hello,
)

import dsmem
from dsmem import errors

SECRET = b"0bec7" * 12 + b"0b1e"
HOUR = 3600


def context(fabric="tcp", **options):
    return dsmem.Context(fabric, secret=SECRET, listen="127.0.0.1" if "tcp" in fabric else None, **options)


def read(remote, offset, nbytes):
    buffer = bytearray(nbytes)
    remote.read(offset, buffer)
    return bytes(buffer)


@pytest.fixture
def owner():
    with context() as owner:
        yield owner


@pytest.fixture
def region(owner):
    with owner.allocate(1 << 16) as region:
        yield region


@pytest.fixture
def client(owner):
    with Client(owner.agent_address, SECRET) as client:
        client.connect()
        yield client


# ---- a client from the documentation ----


def test_a_client_from_the_documentation_alone(region, client):
    grant = client.attach(region.descriptor)
    assert (grant.nbytes, grant.access) == (1 << 16, 7)
    client.write(grant, 8, b"remotely")
    assert bytes(region)[8:16] == b"remotely"
    assert client.read(grant, 0, 24) == bytes(8) + b"remotely" + bytes(8)
    assert client.fetch_add(grant, 0, 5) == 0 and client.fetch_add(grant, 0, 2**64 - 1) == 5
    assert client.compare_swap(grant, 0, 3, 9) == 4 and client.compare_swap(grant, 0, 4, 9) == 4
    assert client.read(grant, 0, 8) == (9).to_bytes(8, "little")
    data = os.urandom(1 << 16)
    client.write(grant, 0, data)
    assert bytes(region) == data == client.read(grant, 0, 1 << 16)


def test_several_pieces_in_one_request(region, client):
    grant = client.attach(region.descriptor)
    offsets = [8 * i for i in np.random.default_rng(1).permutation(1024)]
    client.write(grant, offsets, b"".join(i.to_bytes(8, "little") for i in range(1024)))
    words = np.frombuffer(region, "u8")
    assert [words[offset // 8] for offset in offsets] == list(range(1024))
    assert client.read(grant, offsets[:100], 8) == b"".join(i.to_bytes(8, "little") for i in range(100))
    assert client.read(grant, [0, 4096], 4096) == bytes(region)[:8192]
    assert client.read(grant, [8 * i for i in range(1024)], 4096) == b"".join(
        bytes(region)[8 * i : 8 * i + 4096] for i in range(1024)
    )


def test_a_request_that_comes_byte_by_byte(region, client):
    grant = client.attach(region.descriptor)
    for byte in client.request(WRITE, grant, [0, 16], 8, b"one bytea second"):
        client.stream.sendall(bytes([byte]))
    assert client.reply().status == 0
    assert bytes(region)[:24] == b"one byte" + bytes(8) + b"a second"


def test_writes_in_a_row_have_one_reply(region, client):
    grant = client.attach(region.descriptor)
    client.stream.sendall(b"".join(client.request(WRITE, grant, 8 * i, 8, b"in a row") for i in range(100)))
    ended = 0
    while ended < 100:
        answer = client.reply()
        assert (answer.number, answer.status, answer.data) == (ended, 0, b"")
        ended += answer.ops
    assert bytes(region)[:800] == b"in a row" * 100


# ---- what is refused ----


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ((READ, 1 << 16, 8), EACCESS),
        ((READ, (1 << 16) - 7, 8), EACCESS),
        ((READ, 2**64 - 8, 16), EACCESS),
        ((READ, 0, 2**63 - 1), EACCESS),
        ((READ, [0, 1 << 16], 8), EACCESS),
        ((WRITE, (1 << 16) - 7, 8, b"too long"), EACCESS),
        ((WRITE, [0, 2**63], 4, b"too long"), EACCESS),
        ((FETCH_ADD, 4, 8, bytes(16)), EACCESS),
        ((FETCH_ADD, 1 << 16, 8, bytes(16)), EACCESS),
    ],
)
def test_a_request_out_of_bounds_fails_alone(region, client, request_, status):
    grant = client.attach(region.descriptor)
    code, *rest = request_
    answer = client.do(code, grant, *rest)
    assert answer.status == status and not answer.data
    assert bytes(region) == bytes(1 << 16)
    assert client.fetch_add(grant, 0, 1) == 0


@pytest.mark.parametrize("lie", [{"key": bytes(16)}, {"slot": 1 << 31}, {"slot": 2}])
def test_a_wrong_key_fails_alone(region, client, lie):
    grant = client.attach(region.descriptor)
    client.stream.sendall(client.request(WRITE, grant, 0, 8, b"forgery!", **lie) + client.request(READ, grant, 0, 8))
    assert client.reply()[2:] == (ESTALE, b"")
    assert client.reply()[2:] == (0, bytes(8))


@pytest.mark.parametrize(
    ("access", "refused"), [("r", {WRITE, FETCH_ADD}), ("w", {READ, FETCH_ADD}), ("ra", {WRITE}), ("rw", {FETCH_ADD})]
)
def test_a_missing_right_fails_alone(owner, client, access, refused):
    with owner.allocate(64, access=access) as region:
        grant = client.attach(region.descriptor)
        for code, body in ((READ, b""), (WRITE, bytes(8)), (FETCH_ADD, bytes(16))):
            assert client.do(code, grant, 0, 8, body).status == (EACCESS if code in refused else 0)


NONSENSE = {
    "code 0": {"code": 0},
    "code 5": {"code": 5},
    "a byte that is 0": {"zero": 1},
    "no piece": {"pieces": 0},
    "1025 pieces": {"pieces": 1025},
    "no byte": {"nbytes": 0},
    "long pieces of a READ": {"pieces": 2, "nbytes": 131073},
    "long pieces of a WRITE": {"code": WRITE, "pieces": 2, "nbytes": 4097},
    "more than there can be": {"nbytes": 2**63},
    "pieces of an atomic": {"code": FETCH_ADD, "pieces": 2},
    "a short atomic": {"code": FETCH_ADD, "nbytes": 4},
    "a number that is not the next": {"number": 7},
}


@pytest.mark.parametrize("lies", NONSENSE.values(), ids=NONSENSE)
def test_what_is_no_request_ends_the_connection(owner, region, client, lies):
    grant = client.attach(region.descriptor)
    lies = dict(lies)
    request = client.request(lies.pop("code", READ), grant, 0, lies.pop("nbytes", 8), **lies)
    before = owner.stats["rejected"]
    client.stream.sendall(request + bytes(8 * 1025 + 16))
    with pytest.raises((EOFError, ConnectionError)):
        client.reply()
    assert owner.stats["rejected"] == before + 1
    with context() as user, user.attach(region.descriptor) as remote:
        assert remote.fetch_add(0, 1) == 0


def test_a_token_works_once_and_for_its_owner_only(owner, client):
    token = client.token()
    client.connect(token)
    for wrong in (token, os.urandom(16)):
        with pytest.raises(Refused, match=str(EPEER)):
            client.connect(wrong)
    token = client.token()
    with pytest.raises(Refused, match=str(EPEER)):
        client.connect(token, key=os.urandom(32))
    client.connect(token)


def test_a_stream_of_another_version_is_told_ours(owner):
    with socket.create_connection(("127.0.0.1", int(owner.agent_address.rsplit(":", 1)[1])), 60) as stream:
        stream.sendall(struct.pack("<4sHH48x", b"DSMT", 99, 0))
        assert exactly(stream, 40) == struct.pack("<4sHH32x", b"DSMT", 4, 8)
        assert stream.recv(1) == b""


# ---- regions that are closed, connections that are replaced ----


def test_not_a_byte_comes_in_once_the_region_is_closed(owner, client):
    with owner.allocate(1 << 20) as witness:
        region = owner.allocate(1 << 20)
        grant = client.attach(region.descriptor)
        view = np.frombuffer(region, "u1")
        client.stream.sendall(client.request(WRITE, grant, 0, 1 << 20, b"\1" * (1 << 18)))
        while not view[(1 << 18) - 1]:
            pass
        del view
        region.close()
        client.stream.sendall(b"\2" * (3 << 18))
        assert client.reply()[2:] == (ESTALE, b"")
        assert client.do(READ, grant, 0, 8).status == ESTALE
        assert client.read(client.attach(witness.descriptor), 0, 1 << 20) == bytes(1 << 20)


def test_not_a_byte_goes_out_once_the_region_is_closed(owner, client):
    nbytes = 64 << 20  # more than the buffers of both sockets hold
    region = owner.allocate(nbytes)
    np.frombuffer(region, "u1")[:] = 7
    grant = client.attach(region.descriptor)
    client.stream.sendall(client.request(READ, grant, 0, nbytes))
    head = REPLY.unpack(exactly(client.stream, REPLY.size))
    assert head == (0, 1, 0, MORE, nbytes)
    region.close()
    data = exactly(client.stream, nbytes)
    assert data.rstrip(b"\0") == b"\7" * len(data.rstrip(b"\0")) and data[-1] == 0
    assert REPLY.unpack(exactly(client.stream, REPLY.size)) == (0, 1, ESTALE, 0, 0)
    with owner.allocate(8) as other:
        assert client.read(client.attach(other.descriptor), 0, 8) == bytes(8)


def test_pieces_that_were_stored_before_the_region_was_closed_have_taken_effect(owner, client):
    array = np.zeros(3, "u8")
    region = owner.register(array, access="rwa")
    request = client.request(WRITE, client.attach(region.descriptor), [0, 8, 16], 8, b"1st word2nd word3rd word")
    client.stream.sendall(request[:-8])
    while not array[1]:
        pass
    region.close()
    client.stream.sendall(request[-8:])
    assert client.reply() == (0, 2, 0, b"")
    assert client.reply() == (2, 1, ESTALE, b"")
    assert array.tobytes() == b"1st word2nd word" + bytes(8)


def test_a_slot_that_is_used_again_has_another_key(owner, client):
    first = owner.allocate(8)
    old = client.attach(first.descriptor)
    first.close()
    with owner.allocate(8) as second:
        new = client.attach(second.descriptor)
        assert old.slot == new.slot and old.key != new.key
        assert client.do(WRITE, old, 0, 8, b"too late").status == ESTALE
        assert bytes(second) == bytes(8)


def test_nothing_of_a_connection_that_was_replaced_is_executed(region, client):
    grant = client.attach(region.descriptor)
    first = client.stream
    with contextlib.closing(first):
        half = client.request(WRITE, grant, 0, 8, b"too late")
        first.sendall(half[:-4])
        client.connect()
        client.write(grant, 0, b"in time.")
        with contextlib.suppress(OSError):
            first.sendall(half[-4:])
        assert client.read(grant, 0, 8) == b"in time."
        with contextlib.suppress(ConnectionError):
            assert first.recv(1) == b""


def test_a_fenced_node_reaches_nothing(owner, region, client):
    grant = client.attach(region.descriptor)
    client.write(grant, 0, b"a friend")
    owner.fence(client.node)
    with pytest.raises((EOFError, OSError)):
        client.do(WRITE, grant, 0, 8, b"a ghost!")
    assert bytes(region)[:8] == b"a friend"
    with context() as user, user.attach(region.descriptor) as remote:
        assert read(remote, 0, 8) == b"a friend"


def test_a_client_that_reads_no_replies_keeps_no_other_waiting(owner, region, client):
    grant = client.attach(region.descriptor)
    client.stream.setblocking(False)
    many, sent = b"", 0
    with contextlib.suppress(BlockingIOError):
        while True:  # until the owner reads no more
            many = many or client.request(READ, grant, 0, 1 << 16)
            part = client.stream.send(many)
            many = many[part:]
            sent += part
    with context() as user, user.attach(region.descriptor) as remote:
        assert [remote.fetch_add(0, 1) for _ in range(100)] == list(range(100))
    assert sent


# ---- owners that lie ----


REQUESTED = REQUEST.size

LIES = {
    "a number that is not the next": lambda n: REPLY.pack(n + 1, 1, 0, 0, 8) + bytes(8),
    "more ops than were asked": lambda n: REPLY.pack(n, 2, 0, 0, 8) + bytes(8),
    "no op": lambda n: REPLY.pack(n, 0, 0, 0, 8) + bytes(8),
    "more data": lambda n: REPLY.pack(n, 1, 0, 0, 16) + bytes(16),
    "less data": lambda n: REPLY.pack(n, 1, 0, 0, 4) + bytes(4),
    "no data": lambda n: REPLY.pack(n, 1, 0, 0, 0),
    "data of an error": lambda n: REPLY.pack(n, 1, ESTALE, 0, 8) + bytes(8),
    "an unknown status": lambda n: REPLY.pack(n, 1, 99, 0, 0),
    "an unknown flag": lambda n: REPLY.pack(n, 1, 0, 2, 8) + bytes(8),
    "promised twice": lambda n: (REPLY.pack(n, 1, 0, MORE, 8) + bytes(8)) * 2,
    "promised without data": lambda n: REPLY.pack(n, 1, 0, MORE, 0),
    "another number at the end": lambda n: REPLY.pack(n, 1, 0, MORE, 8) + bytes(8) + REPLY.pack(n, 2, 0, 0, 0),
    "noise": lambda n: os.urandom(64),
    "the end": lambda n: b"",
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("op", ["read", "fetch_add"])
def test_an_owner_that_lies(op, lie):
    def say(stream):
        exactly(stream, REQUESTED + (16 if op == "fetch_add" else 0))
        stream.sendall(lie(0))
        stream.shutdown(socket.SHUT_WR)
        exactly(stream, 1)

    with Owner(SECRET, 64, say) as owner, context() as user, user.attach(forged(owner, 64)) as remote:
        with pytest.raises(errors.DsmemError) as caught:
            read(remote, 0, 8) if op == "read" else remote.fetch_add(0, 1)
        if op == "fetch_add":
            assert isinstance(caught.value, errors.OutcomeUnknownError)
        else:
            assert isinstance(caught.value, (errors.TransportError, errors.PeerDeadError))


def test_a_process_that_only_answers_at_the_owners_address_is_no_owner():
    with Owner(SECRET, 64, lambda stream: None, knows=False) as owner, context() as user:
        with pytest.raises(errors.AuthenticationError):
            user.attach(forged(owner, 64))


def test_answers_that_came_before_the_end_count():
    """The owner answers three ops of many and ends, while the user still sends."""

    def say(stream):
        for number in range(3):
            exactly(stream, REQUESTED + (1 << 20))
            stream.sendall(REPLY.pack(number, 1, 0, 0, 0))
        stream.close()

    with Owner(SECRET, 1 << 20, say) as owner, context() as user, user.attach(forged(owner, 1 << 20)) as remote:
        batch = user.batch()
        with pytest.raises(errors.OutcomeUnknownError), batch:
            for _ in range(20):
                batch.write(remote, 0, bytes(1 << 20))
        assert list(batch.statuses[:3]) == [0] * 3 and batch.statuses[3]


def test_the_end_of_an_idle_connection_costs_no_op():

    def say(stream):
        exactly(stream, REQUESTED + 16)
        stream.sendall(REPLY.pack(0, 1, 0, 0, 8) + bytes(8))
        stream.close()

    with Owner(SECRET, 64, say) as owner, context() as user, user.attach(forged(owner, 64)) as remote:
        for _ in range(3):
            assert remote.fetch_add(0, 1) == 0
            while not any(info[0] == CLOSE_WAIT for info in tcp_infos(owner.address)):  # it has come to the user
                time.sleep(0.001)


def test_an_idle_owner_rests():
    """Its threads poll for a while after an op, and then sleep."""

    def awake():
        found = []
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # it has ended
                stat = (task / "stat").read_text()
                if task.name != str(threading.get_native_id()) and not stat.rpartition(")")[2].startswith(" S "):
                    found.append(stat)
        return found

    with context() as owner, owner.allocate(64) as region, context() as user, user.attach(region.descriptor) as remote:
        assert remote.fetch_add(0, 1) == 0
        until = time.monotonic() + 60
        while awake():
            assert time.monotonic() < until
            time.sleep(0.01)


def test_a_reply_that_comes_before_the_request_has_left():
    """Its buffer must not be let go: the rest is sent from there. It can't be sent before the reply has been seen."""
    nbytes = 64 << 20

    def say(stream):
        exactly(stream, REQUESTED)
        stream.sendall(REPLY.pack(0, 1, 0, 0, 0))
        ends = select.poll()
        ends.register(stream, select.POLLRDHUP)
        assert ends.poll(60_000)

    with Owner(SECRET, nbytes, say) as owner, context() as user, user.attach(forged(owner, nbytes)) as remote:
        with pytest.raises(errors.OutcomeUnknownError):
            remote.write(0, bytes(nbytes))


def test_replies_in_the_smallest_pieces():
    def say(stream):
        for number in range(3):
            request = REQUEST.unpack(exactly(stream, REQUESTED))
            for byte in REPLY.pack(number, 1, 0, 0, request[4]) + b"12345678":
                stream.sendall(bytes([byte]))

    with Owner(SECRET, 64, say) as owner, context() as user, user.attach(forged(owner, 64)) as remote:
        assert [read(remote, 8 * i, 8) for i in range(3)] == [b"12345678"] * 3


# ---- many ops ----


def test_more_ops_than_all_buffers_hold():
    """Both sides have more to send than the sockets hold, and each waits for the other to read."""
    each, n = 1 << 18, 64
    with context() as owner, context() as user, owner.allocate(2 * each * n) as region:
        data = np.frombuffer(os.urandom(each * n), "u1").reshape(n, each)
        mine = np.frombuffer(region, "u1").reshape(2 * n, each)
        mine[n:] = data[::-1]
        into = np.zeros_like(data)
        with user.attach(region.descriptor) as remote:
            with user.batch() as batch:
                for i in range(n):
                    batch.write(remote, i * each, data[i])
                    batch.read(remote, (n + i) * each, into[i])
                    batch.fetch_add(remote, i * each, 1)
            assert (into == data[::-1]).all()
            words = mine[:n, :8].copy().view("u8") - data[:, :8].copy().view("u8")
            assert (words == 1).all() and (mine[:n, 8:] == data[:, 8:]).all()
        del mine, batch


def test_many_short_ops_are_sent_in_few_calls():
    with context() as owner, context() as user, owner.allocate(1 << 16) as region:
        offsets = np.random.default_rng(2).permutation(8192).astype("u8") * 8
        with user.attach(region.descriptor) as remote:
            remote.write_many(offsets, np.arange(8192, dtype="u8"))
            out = np.zeros(8192, "u8")
            remote.read_many(offsets, out)
            assert (out == np.arange(8192)).all()
            pieces = [bytearray(24) for _ in range(600)]
            with user.batch() as batch:  # buffers that do not follow each other
                for i, piece in enumerate(pieces):
                    batch.write(remote, 32 * i, bytes([i % 256]) * 24)
                    batch.read(remote, 32 * i, piece)
            assert all(piece == bytes([i % 256]) * 24 for i, piece in enumerate(pieces))


def test_words_are_one_for_shared_memory_and_tcp():
    """The owner's CPUs execute all atomics: by its own threads, by a process that maps the memory, and by tcp."""
    n = 3000
    with context("shm,tcp") as owner, owner.allocate(64) as region:
        assert [way.fabric for way in region.descriptor.ways] == ["shm", "tcp"]
        with context("shm") as local, context("tcp") as other, contextlib.ExitStack() as stack:
            remotes = [stack.enter_context(user.attach(region.descriptor)) for user in (local, other)]
            assert [remote.fabric for remote in remotes] == ["shm", "tcp"]
            got = [[], []]

            def count(i):
                got[i] += [remotes[i].fetch_add(0, 1) for _ in range(n)]

            threads = [threading.Thread(target=count, args=(i,)) for i in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(got[0] + got[1]) == list(range(2 * n))


def test_atomics_need_memory_that_is_aligned():
    memory = memoryview(bytearray(65))
    start = 1 if np.frombuffer(memory, "u1").ctypes.data % 8 == 0 else 0
    with context() as owner:
        with pytest.raises(errors.AlignmentError, match="buffer 0"):
            owner.register(memory[start : start + 64], access="rwa")
        owner.register(memory[start : start + 64], access="rw").close()


def test_memory_that_is_already_there():
    array = np.arange(100, dtype="u8")
    with context() as owner, context() as user, owner.register(array, access="rwa") as region:
        with user.attach(region.descriptor) as remote:
            assert remote.fetch_add(8, 41) == 1 and array[1] == 42


# ---- the ends of processes ----

SERVE = """
import sys
import dsmem
owner = dsmem.Context("tcp", secret={secret!r}, listen="127.0.0.1")
region = owner.allocate(1 << 16)
print(bytes(region.descriptor).hex(), flush=True)
{waits}
"""
WITH_THE_GIL = "import ctypes; ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(1), 1)"


def stop(child):
    os.kill(child.pid, signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)


@contextlib.contextmanager
def process(waits="sys.stdin.read()"):
    script = SERVE.format(secret=SECRET, waits=waits)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child, dsmem.Descriptor.fromhex(child.stdout.readline().strip())
        finally:
            child.kill()


def test_the_interpreter_of_the_owner_takes_no_part():
    with process(WITH_THE_GIL) as (_, descriptor), context() as user, user.attach(descriptor) as remote:
        assert [remote.fetch_add(0, 1) for _ in range(100)] == list(range(100))
        remote.write(4096, b"x" * 4096)
        assert read(remote, 4096, 4096) == b"x" * 4096


def resident(pid):
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


@pytest.fixture
def many_files():
    """Room for the sockets of 512 connections here, and in children."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 4096:
        pytest.skip(f"a process may have {before[1]} files open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_512_connections_of_one_owner(many_files):
    with process() as (child, descriptor), contextlib.ExitStack() as stack:
        address = next(way.address for way in descriptor.ways)
        before, clients = None, []
        for i in range(512):
            client = stack.enter_context(Client(address, SECRET))
            clients.append((client, client.attach(descriptor)))
            client.connect()
            assert client.fetch_add(clients[-1][1], 0, 1) == i
            if i == 15:  # the first ones make what all share
                before = resident(child.pid)
        assert (resident(child.pid) - before) / (512 - 16) < 1 << 16
        for client, grant in reversed(clients):
            assert client.read(grant, 0, 8) == struct.pack("<Q", 512)


@contextlib.contextmanager
def killed_when_asked(child, descriptor):
    """The process is killed as soon as more bytes of the block have come to its host; it does not read them."""
    address = descriptor.ways[0].address
    stop(child)
    before, left = arrived(address), threading.Event()

    def kill():
        while arrived(address) == before and not left.wait(0.001):
            pass
        child.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()


def test_an_owner_that_is_killed():
    with process() as (child, descriptor), context(peer_timeout=HOUR) as user, user.attach(descriptor) as remote:
        remote.fetch_add(0, 1)
        with killed_when_asked(child, descriptor), pytest.raises(errors.OutcomeUnknownError) as caught:
            remote.fetch_add(0, 1)
        assert isinstance(caught.value, errors.PeerDeadError)
        with pytest.raises(errors.PeerDeadError):
            read(remote, 0, 8)


def test_all_ops_end_with_an_owner_that_is_killed():
    with process() as (child, descriptor), context(peer_timeout=HOUR) as user, user.attach(descriptor) as remote:
        remote.fetch_add(0, 1)
        into = [bytearray(8) for _ in range(100)]
        with killed_when_asked(child, descriptor), user.batch(continue_on_error=True) as batch:
            for i in range(100):
                batch.fetch_add(remote, 0, 1)
                batch.read(remote, 8 * i, into[i])
        assert all(isinstance(error, errors.TransportError | errors.PeerDeadError) for error in batch.errors)
        assert any(isinstance(error, errors.OutcomeUnknownError) for error in batch.errors)


def test_bytes_that_come_late_do_not_land():
    """Neither those of a reply that has not begun when the op ends, nor the rest of one that has."""
    go, gone = threading.Event(), threading.Event()
    first = b"late" * 1024

    def say(stream):
        exactly(stream, REQUESTED)
        head = REPLY.pack(0, 1, 0, 0, len(first))
        if gone.is_set():
            stream.sendall(head + b"time" * 1024)
            return
        stream.sendall(head + first[:2048])
        go.wait(60)
        with contextlib.suppress(OSError):
            stream.sendall(first[2048:])
        gone.set()

    with Owner(SECRET, 4096, say) as owner, context() as user, user.attach(forged(owner, 4096)) as remote:
        buffer = bytearray(4096)
        with pytest.raises(errors.TimeoutError):
            remote.read(0, buffer, timeout=0.05)
        buffer[:] = bytes(4096)  # it is the caller's again
        go.set()
        assert gone.wait(60)
        assert read(remote, 0, 4096) == b"time" * 1024
        assert buffer == bytes(4096)


def test_an_owner_that_is_stopped():
    with process() as (child, descriptor), context(peer_timeout=HOUR) as user, user.attach(descriptor) as remote:
        buffer = bytearray(8)
        remote.read(0, buffer)
        stop(child)
        with pytest.raises(errors.TimeoutError):
            remote.read(0, buffer, timeout=0.05)
        buffer.append(0)  # it is in use no more
        os.kill(child.pid, signal.SIGCONT)
        assert remote.fetch_add(0, 1) == 0


def test_a_forked_child_keeps_no_connection_open():
    """As long as it lived, the other side would not learn of the end."""
    with context() as owner, context() as user, owner.allocate(8) as region, user.attach(region.descriptor) as remote:
        remote.fetch_add(0, 1)
        assert len(tcp_infos(owner.agent_address)) == 4  # both ends of the control stream, and of the other
        here, there = socket.socketpair()
        with here, there:
            pid = os.fork()
            if not pid:
                here.close()
                there.sendall(f"{len(tcp_infos(owner.agent_address))} sockets".encode())
                os._exit(0)
            try:
                there.close()
                assert here.recv(99) == b"0 sockets"
                assert remote.fetch_add(0, 1) == 1
            finally:
                os.waitpid(pid, 0)


LOST = """
import os
import dsmem
secret = b"a secret of sixteen bytes"
owner = dsmem.Context("tcp", secret=secret, listen="127.0.0.1")
user = dsmem.Context("tcp", secret=secret, listen="127.0.0.1")
region = owner.allocate(8)
remote = user.attach(region.descriptor)
remote.fetch_add(0, 1)
most = max(int(name) for name in os.listdir("/proc/self/fd"))
os.closerange(3, most + 1)
mine = [os.open("/dev/null", os.O_RDONLY) for _ in range(3, most + 1)]
if not os.fork():
    for fd in mine:
        os.fstat(fd)
    os._exit(0)
status = os.wait()[1]
os._exit(os.waitstatus_to_exitcode(status))
"""


def test_a_child_closes_no_file_of_others():
    """The program has closed all descriptors of ours, and the numbers are of its own files now."""
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_context_leaves_no_descriptor_and_no_thread():
    def count():
        return [len(list(Path(f"/proc/self/{what}").iterdir())) for what in ("fd", "task")]

    def once():
        with context() as owner, context() as user, owner.allocate(8) as region:
            with user.attach(region.descriptor) as remote:
                remote.fetch_add(0, 1)

    once()
    before = count()
    for _ in range(5):
        once()
    while any(now > then for now, then in zip(count(), before, strict=True)):  # a thread that was joined is still seen
        time.sleep(0.001)


def test_unauthenticated_clients_are_dropped_while_others_work(owner, region):
    with context() as user, user.attach(region.descriptor) as remote, contextlib.ExitStack() as stack:
        host, port = owner.agent_address.removeprefix("tcp:").rsplit(":", 1)
        for _ in range(50):
            client = stack.enter_context(socket.create_connection((host, int(port)), 60))
            client.sendall(token_hello(os.urandom(16), os.urandom(32)))
        assert [remote.fetch_add(0, 1) for _ in range(50)] == list(range(50))


# ---- two hosts ----


@contextlib.contextmanager
def over_there(host):  # noqa: F811
    text = SERVE.format(secret=SECRET, waits="sys.stdin.read()").replace("127.0.0.1", host.theirs)
    with subprocess.Popen(
        [*host.command, sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child, dsmem.Descriptor.fromhex(child.stdout.readline().strip())
        finally:
            child.kill()


def test_between_two_network_namespaces(host):  # noqa: F811
    with over_there(host) as (_, descriptor), dsmem.Context("tcp", secret=SECRET, listen=host.ours) as user:
        assert descriptor.ways[0].address.startswith(f"tcp:{host.theirs}:")
        with user.attach(descriptor) as remote:
            assert remote.fetch_add(0, 5) == 0 and remote.compare_swap(0, 5, 7) == 5
            remote.write(8, b"by wire.")
            assert read(remote, 0, 16) == (7).to_bytes(8, "little") + b"by wire."


def test_a_link_that_is_cut(host):  # noqa: F811
    """No packet comes any more, not even the end of the connection: the timeout of the op is what ends it."""
    options = {"secret": SECRET, "listen": host.ours, "peer_timeout": HOUR}
    with over_there(host) as (_, descriptor), dsmem.Context("tcp", **options) as user:
        with user.attach(descriptor) as remote:
            remote.fetch_add(0, 5)
            host.cut()
            with pytest.raises(errors.OutcomeUnknownError) as caught:
                remote.fetch_add(0, 1, timeout=0.2)
            assert isinstance(caught.value, errors.TimeoutError)
