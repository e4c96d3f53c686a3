"""The control protocol as its enemies see it: relays, forgers, replays, crowds, other users, owners that are late."""

import contextlib
import fcntl
import hashlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import halt
import pytest

import dsmem
from dsmem import errors
from dsmem.handshake import CHALLENGE, HEADER, MAC, VERDICT, VERSION, seal
from dsmem.secret import key
from dsmem.testing.control import (
    ATTACH,
    QUESTION,
    STATUS,
    ControlClient,
    FakeOwner,
    attach_of,
    connect,
    forge,
    name_of,
    receive,
)

SECRET = b"5ec2e7" * 10 + b"0123"
OTHER_USER = 54321  # a user that owns nothing
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")


@pytest.fixture
def context():
    with dsmem.Context("shm", secret=SECRET, peer_timeout=5) as c:
        yield c


@pytest.fixture
def region(context):
    with context.allocate(4096) as r:
        yield r


def open_fds():
    return len(list(Path("/proc/self/fd").iterdir()))


def name(region):
    return name_of(region.descriptor)


@pytest.fixture
def friend(context):
    with ControlClient(context.agent_address) as s:
        assert (s.hello(), s.prove(SECRET)) == (0, 0)
        yield s


# ---- relays ----


class Relay:
    """Two sockets and no secret: what comes at its address goes to another one, and back, file descriptors too."""

    def __init__(self, to):
        self.to, self.caught = to, []
        self.address = f"unix:@dsmem-{os.geteuid()}-relay-{os.urandom(8).hex()}"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind("\0" + self.address.removeprefix("unix:@"))
        self.listener.listen()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        with self.listener, contextlib.suppress(OSError):
            client, _ = self.listener.accept()
            with client, connect(self.to) as owner:
                while True:
                    for s in select.select([client, owner], [], [], 30)[0]:
                        data, fds, _, _ = socket.recv_fds(s, 4096, 4)
                        self.caught += fds
                        if not data:
                            return
                        socket.send_fds(owner if s is client else client, [data], fds)

    def stop(self):
        with contextlib.suppress(OSError):
            connect(self.address).close()
        self.thread.join()
        for fd in self.caught:
            os.close(fd)


def test_a_relay_gets_nothing(region):
    """The client has dialled the relay, the owner goes by another address: they must not take each other for found."""
    relay = Relay(region.descriptor.address)
    try:
        with dsmem.Context("shm", secret=SECRET) as client:
            with pytest.raises(errors.AuthenticationError):
                client.attach(forge(region.descriptor, address=relay.address))
        assert relay.caught == []
    finally:
        relay.stop()


def test_the_owner_itself_refuses_a_client_that_dialled_another_address(context):
    with ControlClient(context.agent_address, dialled="unix:@elsewhere") as s:
        assert (s.hello(), s.prove(SECRET)) == (0, errors.AuthenticationError.code)
        assert s.ended()


# ---- what an unauthenticated client learns ----


def test_an_unauthenticated_client_gets_nothing_to_guess_at(context):
    with ControlClient(context.agent_address) as s:
        assert s.hello() == 0
        assert s.challenge[56:] == bytes(32)
        assert s.prove(b"a guess, of enough bytes") == errors.AuthenticationError.code
        assert s.verdict[4:] == bytes(32)


def test_the_client_proves_nothing_to_another_node(context, region):
    said = []

    def answer(owner, client, hello):
        client.sendall(CHALLENGE.pack(b"DSMH", VERSION, 0, bytes(16), bytes(32)))
        said.append(receive(client, 1))

    with FakeOwner(SECRET, answer) as enemy, pytest.raises(errors.StaleDescriptorError):
        context.attach(enemy.descriptor(region.descriptor))
    assert said == [b""]


def test_a_verdict_without_proof(context, region):
    """Also where it reflects the client's own."""

    def answer(owner, client, hello):
        client.sendall(owner.handshake(hello).challenge())
        client.sendall(VERDICT.pack(0, receive(client, MAC)))

    with FakeOwner(SECRET, answer) as enemy, pytest.raises(errors.AuthenticationError):
        context.attach(enemy.descriptor(region.descriptor))


CHOSEN = b"correct horse battery staple"


def test_secrets_that_people_choose_are_stretched():
    want = hashlib.scrypt(CHOSEN, salt=b"dsmem secret 2", n=32768, r=8, p=1, maxmem=1 << 26, dklen=32)
    assert key(CHOSEN) == want
    assert key(SECRET) == SECRET
    with pytest.raises(errors.InvalidArgumentError, match="16"):
        key(b"short")
    with dsmem.Context("shm", secret=CHOSEN) as context:
        with ControlClient(context.agent_address) as s:
            assert (s.hello(), s.prove(CHOSEN)) == (0, 0)
        with dsmem.Context("shm", secret=CHOSEN) as other, context.allocate(8) as region:
            other.attach(region.descriptor).close()


def test_what_the_core_has_is_the_key(monkeypatch):
    """Without the stretching in between, a ControlClient that stretches is refused."""
    with dsmem.Context("shm", secret=CHOSEN) as context, ControlClient(context.agent_address) as s:
        monkeypatch.setattr("dsmem.handshake.stretch", lambda secret: secret)
        assert (s.hello(), s.prove(CHOSEN)) == (0, errors.AuthenticationError.code)


# ---- after the verdict ----


def test_any_byte_that_is_changed_ends_the_stream(context, region):
    before = context.stats["rejected"]
    length = HEADER.size + 16 + MAC
    for at in range(length):
        with ControlClient(context.agent_address) as s:
            assert (s.hello(), s.prove(SECRET)) == (0, 0)
            message = bytearray(s.sealed(STATUS, name(region)))
            message[at] ^= 1
            s.socket.sendall(message)
            s.socket.shutdown(socket.SHUT_WR)  # where the length has grown, it waits for more
            assert s.ended(), at
    assert context.stats["rejected"] >= before + length - 2


def test_any_byte_of_a_reply_that_is_changed_ends_the_stream(region):
    ended = []

    def answer(owner, client, hello):
        owner.do_handshake(client, hello)
        message = bytearray(owner.reply(receive(client, QUESTION), struct.pack("<QII", 4096, 7, 0)))
        assert len(message) == 68
        message[len(ended)] ^= 1
        fd = os.memfd_create("region", os.MFD_CLOEXEC)
        socket.send_fds(client, [message], [fd])
        os.close(fd)
        client.shutdown(socket.SHUT_WR)
        ended.append(receive(client, 1))

    with dsmem.Context("shm", secret=SECRET, peer_timeout=30) as client, FakeOwner(SECRET, answer) as owner:
        for at in range(68):
            with pytest.raises((errors.ProtocolError, errors.PeerDeadError)) as caught:
                client.attach(owner.descriptor(region.descriptor))
            assert caught.type is errors.ProtocolError or at in (6, 7), at
    assert ended == [b""] * 68


def test_a_replayed_message_ends_the_stream(friend, region):
    message = friend.sealed(STATUS, name(region))
    friend.socket.sendall(message)
    assert friend.reply()[2] == 0
    friend.socket.sendall(message)
    assert friend.ended()


def test_a_message_of_another_connection(context, friend, region):
    message = friend.sealed(STATUS, name(region))
    with ControlClient(context.agent_address, friend.node) as s:
        assert (s.hello(), s.prove(SECRET)) == (0, 0)
        s.socket.sendall(message)
        assert s.ended()
    friend.socket.sendall(message)
    assert friend.reply()[2] == 0


@pytest.mark.parametrize("first", [0, 2, 2**64 - 1])
def test_messages_out_of_their_order(friend, region, first):
    friend.socket.sendall(seal(friend._asking, STATUS, first, name(region)))
    assert friend.ended()


def test_a_reflected_message(context, friend, region):
    friend.socket.sendall(friend.sealed(STATUS, name(region)))
    head = receive(friend.socket, HEADER.size + MAC)
    friend.socket.sendall(head)
    assert friend.ended()

    def answer(owner, client, hello):
        owner.do_handshake(client, hello)
        client.sendall(receive(client, QUESTION))

    with FakeOwner(SECRET, answer) as enemy, pytest.raises(errors.ProtocolError):
        context.attach(enemy.descriptor(region.descriptor))


# ---- crowds and other users ----


def become(user):
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


@contextlib.contextmanager
def other_user(work):
    """A process of another user that does work(pipe) until its end of the pipe is closed."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            become(OTHER_USER)
            work(theirs)
        finally:
            os._exit(0)
    theirs.close()
    try:
        with ours:
            ours.settimeout(30)
            yield ours
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@as_root
def test_another_user_gets_no_word(context):
    def work(pipe):
        with connect(context.agent_address) as s:
            with contextlib.suppress(OSError):
                s.sendall(b"DSMH\2\0\0\0" + bytes(48))
            pipe.sendall(b"nothing" if receive(s, 1) == b"" else b"a word!")

    with other_user(work) as pipe:
        assert receive(pipe, 7) == b"nothing"


@as_root
def test_another_users_process_at_the_address(context, region):
    where = f"dsmem-0-{os.urandom(8).hex()}"

    def work(pipe):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("\0" + where)
            listener.listen()
            pipe.sendall(b"!")
            client, _ = listener.accept()
            pipe.sendall(b"nothing" if receive(client, 1) == b"" else b"a hello")

    with other_user(work) as pipe:
        assert receive(pipe, 1) == b"!"
        with pytest.raises(errors.AuthenticationError, match="another user's"):
            context.attach(forge(region.descriptor, address=f"unix:@{where}"))
        assert receive(pipe, 7) == b"nothing"


def knock(address):
    """Connects and closes, as fast as it can."""

    def work(pipe):
        pipe.sendall(b"!")
        pipe.setblocking(False)
        to = "\0" + address.removeprefix("unix:@")
        while True:
            with socket.socket(socket.AF_UNIX) as s, contextlib.suppress(OSError):
                s.connect(to)

    return work


@as_root
def test_a_crowd_of_another_user_keeps_no_friend_out(context, region):
    with contextlib.ExitStack() as crowd:
        for _ in range(3):
            assert receive(crowd.enter_context(other_user(knock(context.agent_address))), 1) == b"!"
        for _ in range(30):
            with dsmem.Context("shm", secret=SECRET, peer_timeout=10) as friend:
                friend.attach(region.descriptor).close()


def test_slow_clients_are_dropped(context):
    """A connection that has not authenticated in time goes, whatever it has sent and goes on sending."""
    with (
        ControlClient(context.agent_address) as silent,
        ControlClient(context.agent_address) as dribbling,
        ControlClient(context.agent_address) as halfway,
        ControlClient(context.agent_address) as friend,
    ):
        assert (friend.hello(), friend.prove(SECRET), halfway.hello()) == (0, 0, 0)
        before = context.stats["rejected"]
        hello = b"DSMH\2\0\0\0" + bytes(47)
        for byte in hello:
            if select.select([dribbling.socket], [], [], 0.5)[0]:
                break
            dribbling.socket.sendall(bytes([byte]))
        for s in (silent, dribbling, halfway):
            s.socket.settimeout(30)
            assert s.ended()
        assert context.stats["rejected"] == before + 3
        assert friend.ask(STATUS, bytes(16))[0] == errors.StaleDescriptorError.code


# ---- owners that are late, and owners that are dead ----

OWNER = """
    import sys, dsmem
    with dsmem.Context("shm", secret=sys.argv[1].encode()) as context:
        regions = [context.allocate(4096) for _ in range(2)]
        print(*(r.descriptor.hex() for r in regions), flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def owner():
    """A process with two regions; its descriptors."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER), SECRET.decode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process.descriptors = [bytes.fromhex(h) for h in process.stdout.readline().split()]
    yield process
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.communicate()


def test_an_owner_that_is_late_is_not_dead(context, owner):
    first, second = owner.descriptors
    with context.attach(first) as remote:
        assert remote.fetch_add(0, 1) == 0
        halt.stop(owner.pid)
        for _ in range(3):
            with pytest.raises(errors.TimeoutError):
                context.attach(second, timeout=0.05)
        assert remote.fetch_add(0, 1) == 1
        owner.send_signal(signal.SIGCONT)
        assert remote.fetch_add(0, 1) == 2
        with context.attach(second) as other:
            assert other.fetch_add(0, 1) == 0
        assert remote.fetch_add(0, 1) == 3
        owner.kill()
        owner.wait()
        poll = select.poll()
        with pytest.raises(errors.DsmemError) as caught:
            for _ in range(30000):
                remote.fetch_add(0, 1)
                poll.poll(1)
        assert caught.type is errors.PeerDeadError


def test_late_replies_are_not_taken_for_others(context):
    """Three questions whose deadlines pass, then the answers to all: the next one gets its own."""
    go = threading.Event()

    def memory(number):
        fd = os.memfd_create("region", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.truncate(fd, 8192)
        os.pwrite(fd, struct.pack("<Q", number), 0)
        os.pwrite(fd, b"dsmemshm" + struct.pack("<IIQ", 1, 0, 4096), 4096)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return fd

    def answer(owner, client, hello):
        owner.do_handshake(client, hello)
        reply(owner, client, receive(client, QUESTION))
        questions = [receive(client, QUESTION) for _ in range(3)]
        assert go.wait(30)
        for q in questions:
            reply(owner, client, q)
        while len(q := receive(client, QUESTION)) == QUESTION:
            reply(owner, client, q)

    def reply(owner, client, question):
        (number,) = struct.unpack_from("<Q", question, 8)
        data = owner.reply(question, struct.pack("<QII", 4096, 7, 0))
        fd = memory(number)
        socket.send_fds(client, [data[:30]], [fd])
        os.close(fd)
        client.sendall(data[30:])

    with context.allocate(4096) as region, FakeOwner(SECRET, answer) as late:
        descriptor = late.descriptor(region.descriptor)
        context.attach(descriptor).close()
        before = open_fds()
        for _ in range(3):
            with pytest.raises(errors.TimeoutError):
                context.attach(descriptor, timeout=0.01)
        go.set()
        with context.attach(descriptor) as remote:
            assert remote.fetch_add(0, 0) == 5
            assert open_fds() <= before


# ---- fork ----

PARENT = """
    import os, signal, sys, dsmem
    context = dsmem.Context("shm", secret=sys.argv[1].encode())
    remote = context.attach(bytes.fromhex(sys.argv[2]))
    if os.fork() == 0:
        links = [f"/proc/self/fd/{f}" for f in os.listdir("/proc/self/fd")]
        sockets = [link for link in links if os.path.lexists(link) and "socket" in os.readlink(link)]
        print("child", len(sockets), flush=True)
        sys.stdin.read()  # the child lives on
        os._exit(0)
    signal.pause()
"""


def test_a_forked_child_keeps_no_connection_of_its_parent_open(region, context):
    """Neither side would notice the parent's end as long as the child lives."""
    ended = threading.Event()

    def answer(owner, client, hello):
        client.settimeout(60)
        owner.do_handshake(client, hello)
        question = receive(client, QUESTION)
        status, payload, (fd,) = genuine.ask(ATTACH, attach_of(region.descriptor))
        socket.send_fds(client, [owner.reply(question, payload, status=status)], [fd])
        os.close(fd)
        if receive(client, 1) == b"":
            ended.set()

    with ControlClient(context.agent_address) as genuine, FakeOwner(SECRET, answer) as owner:
        assert (genuine.hello(), genuine.prove(SECRET)) == (0, 0)
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PARENT), SECRET.decode(), owner.descriptor(region.descriptor).hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert process.stdout.readline() == b"child 0\n"
            process.kill()
            process.wait(30)
            assert ended.wait(30)
        finally:
            process.communicate()


# ---- a kernel that refuses ----

NO_RANDOM = """
    import ctypes, struct, sys, dsmem
    context = dsmem.Context("shm", secret=sys.argv[1].encode())
    LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
    filter = b"".join(struct.pack("<HBBI", *i) for i in
        [(LOAD, 0, 0, 0), (EQUAL, 0, 1, 318), (RETURN, 0, 0, 0x00050000 | 1), (RETURN, 0, 0, 0x7fff0000)])
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
    program = Program(4, filter)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    for what in (lambda: context.allocate(64), lambda: dsmem.Context("shm", secret=sys.argv[1].encode())):
        try:
            what()
        except dsmem.errors.DsmemError as e:
            print(type(e).__name__, "getrandom" in str(e))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of getrandom is x86-64's")
def test_a_kernel_that_refuses_random_bytes():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(NO_RANDOM), SECRET.decode()], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("SystemCallError True\n" * 2, 0), done.stderr
