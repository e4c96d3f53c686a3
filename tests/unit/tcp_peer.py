"""Both ends of a tcp connection from docs/protocols alone, with no other code of dsmem than its handshake.

``Client`` attaches to regions and asks; ``Owner`` is asked, and its replies are the test's. Neither checks what the
other says, so that tests can lie.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import socket
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dsmem import handshake

REQUEST = struct.Struct("<BBHIQ16sQQ")
REPLY = struct.Struct("<QIHHQ")
STREAM = struct.Struct("<4sHH16s")
ANSWER = struct.Struct("<4sHH32s")
NAME = struct.Struct("<QQ")
GRANT = struct.Struct("<QII")
TCP = 3
ATTACH, ENDPOINT, STATUS, OUTCOMES = 1, 2, 3, 7
TOLD = struct.Struct("<QQQ")
OUTCOME = struct.Struct("<QIIQ")
READ, WRITE, FETCH_ADD, COMPARE_SWAP = 1, 2, 3, 4
MORE = 1
EACCESS, ESTALE, EPEER, ESYS, EUNKNOWN = 4, 6, 10, 25, 42
TIMEOUT = 60.0  # seconds until a peer that does not answer is a failure


CLOSE_WAIT = 8  # the state in which the other side has closed


@contextlib.contextmanager
def tcp_sockets(address: str) -> Iterator[list[socket.socket]]:
    """The sockets of this process that are connected over TCP with the owner at an address: its ends, and others'.

    Those of other tests, which may end late, are not among them.
    """
    port = int(address.rpartition(":")[2])
    found = []
    with contextlib.ExitStack() as stack:
        for path in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # another thread has closed it; or it is not connected
                if stat.S_ISSOCK(path.stat().st_mode):
                    one = stack.enter_context(socket.socket(fileno=os.dup(int(path.name))))
                    internet = one.family in (socket.AF_INET, socket.AF_INET6)
                    if internet and port in (one.getsockname()[1], one.getpeername()[1]):
                        found.append(one)
        yield found


def tcp_infos(address: str) -> list[bytes]:
    """The kernel's struct tcp_info of each of them; its first byte is the state."""
    with tcp_sockets(address) as found:
        return [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192) for one in found]


def arrived(address: str) -> int:
    """How many bytes that they have sent the other hosts have acknowledged."""
    return sum(struct.unpack_from("<Q", info, 120)[0] for info in tcp_infos(address))


class Refused(Exception):
    """A status other than 0."""


class Grant(NamedTuple):
    nbytes: int
    access: int
    slot: int
    key: bytes


class Answer(NamedTuple):
    """A reply, with the data; of a long READ the second one, with the data of the first."""

    number: int
    ops: int
    status: int
    data: bytes


def dial(address: str) -> socket.socket:
    host, port = address.removeprefix("tcp:").rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), TIMEOUT)


def exactly(stream: socket.socket, n: int) -> bytes:
    data = bytearray()
    while len(data) < n:
        part = stream.recv(min(n - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def token_hello(token: bytes, key: bytes) -> bytes:
    question = STREAM.pack(b"DSMT", handshake.VERSION, 0, token)
    return question + hmac.digest(key, question, "sha256")


def token_answer(question: bytes, key: bytes, status: int = 0) -> bytes:
    answer = struct.pack("<4sHH", b"DSMT", handshake.VERSION, status)
    return answer + hmac.digest(key, question[: STREAM.size] + answer, "sha256")


class Client:
    """A node that attaches to the regions of one owner."""

    def __init__(self, address: str, secret: bytes, node: bytes | None = None) -> None:
        self.address, self.asked, self.number = address, 0, 0
        proof = handshake.Handshake(secret, address, client=node or os.urandom(16))
        self.node = proof.client
        self.control = dial(address)
        proof.dial(self.control)
        self.asking, self.answer = proof.mac("asking"), proof.mac("answer")
        self.stream: socket.socket | None = None  # the latest
        self.streams: list[socket.socket] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *unused: object) -> None:
        for stream in (self.control, *self.streams):
            stream.close()

    def ask(self, kind: int, payload: bytes) -> bytes:
        self.asked += 1
        self.control.sendall(handshake.seal(self.asking, kind, self.asked, payload))
        got, number, status, answer = handshake.unseal(self.answer, handshake.take(self.control))
        assert (got, number) == (kind | handshake.REPLY, self.asked)
        if status:
            raise Refused(status)
        return answer

    def attach(self, descriptor) -> Grant:
        d = descriptor
        answer = self.ask(ATTACH, NAME.pack(d.region, d.generation) + struct.pack("<I", TCP))
        nbytes, access, kind = GRANT.unpack_from(answer)
        assert kind == 0 and len(answer) == GRANT.size + 20
        return Grant(nbytes, access, int.from_bytes(answer[16:20], "little"), answer[20:])

    def token(self) -> bytes:
        return self.ask(ENDPOINT, struct.pack("<I", TCP))

    def outcomes(self, token: bytes, number: int = 0) -> tuple[tuple[int, int, int], list[tuple[int, int, int, int]]]:
        """(next, known, through), and (number, ops, status, result) of what is listed."""
        answer = self.ask(OUTCOMES, struct.pack("<IQ", TCP, number) + token)
        return TOLD.unpack_from(answer), list(OUTCOME.iter_unpack(answer[TOLD.size :]))

    def connect(self, token: bytes | None = None, key: bytes | None = None) -> None:
        self.stream = dial(self.address)
        self.streams.append(self.stream)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        question = token_hello(token or self.token(), key or self.asking)
        self.stream.sendall(question)
        answer = exactly(self.stream, ANSWER.size)
        magic, version, status, proof = ANSWER.unpack(answer)
        assert (magic, version) == (b"DSMT", handshake.VERSION)
        self.number = 0
        if status:
            assert not any(proof)
            raise Refused(status)
        assert answer == token_answer(question, self.answer)

    def request(self, code, grant, offsets, nbytes, body=b"", **lies) -> bytes:
        """The bytes of a request. ``lies``: fields that have another value than they should."""
        offsets = [offsets] if isinstance(offsets, int) else offsets
        many = len(offsets) > 1
        said = {"pieces": len(offsets), "zero": 0, "slot": grant.slot, "key": grant.key, "number": self.number, **lies}
        self.number += len(offsets)
        head = REQUEST.pack(
            code,
            said["zero"],
            said["pieces"],
            said["slot"],
            nbytes,
            said["key"],
            0 if many else offsets[0],
            said["number"],
        )
        return head + (struct.pack(f"<{len(offsets)}Q", *offsets) if many else b"") + body

    def reply(self) -> Answer:
        number, ops, status, flags, nbytes = REPLY.unpack(exactly(self.stream, REPLY.size))
        data = exactly(self.stream, nbytes)
        if flags & MORE:
            again = Answer(*REPLY.unpack(exactly(self.stream, REPLY.size))[:3], data)
            assert again[:2] == (number, ops)
            return again
        return Answer(number, ops, status, data)

    def do(self, *request, **lies) -> Answer:
        self.stream.sendall(self.request(*request, **lies))
        return self.reply()

    def read(self, grant, offsets, nbytes) -> bytes:
        return self._good(self.do(READ, grant, offsets, nbytes)).data

    def write(self, grant, offsets, data) -> None:
        many = 1 if isinstance(offsets, int) else len(offsets)
        self._good(self.do(WRITE, grant, offsets, len(data) // many, data))

    def fetch_add(self, grant, offset, add) -> int:
        return int.from_bytes(
            self._good(self.do(FETCH_ADD, grant, offset, 8, struct.pack("<QQ", add, 0))).data, "little"
        )

    def compare_swap(self, grant, offset, expected, desired) -> int:
        body = struct.pack("<QQ", expected, desired)
        return int.from_bytes(self._good(self.do(COMPARE_SWAP, grant, offset, 8, body)).data, "little")

    @staticmethod
    def _good(answer: Answer) -> Answer:
        if answer.status:
            raise Refused(answer.status)
        return answer


def forged(owner: Owner, nbytes: int) -> bytes:
    """A descriptor of the owner's region."""
    address = owner.address.encode()
    body = struct.pack("<4sBBBB16sQQQ", b"DSMR", 2, 1, 0, 7, owner.node, 0, 1, nbytes)
    body += bytes([3, len(address)]) + address
    return body + struct.pack("<I", zlib.crc32(body))


class Owner:
    """An owner of one region, whose replies to requests a function gives: ``say(stream)`` serves one connection.

    ``knows``: whether it has the keys of the connections that it answers. ``outcomes(number)``: the status and the
    answer to the question what became of ops from this number on.
    """

    def __init__(self, secret: bytes, nbytes: int, say, knows: bool = True, outcomes=None) -> None:
        self.secret, self.nbytes, self.say, self.knows = secret, nbytes, say, knows
        self.outcomes = outcomes or (lambda number: (ESTALE, b""))
        self.node, self.tokens, self.streams = os.urandom(16), {}, []
        self.key, self.lock = os.urandom(16), threading.Lock()
        self.handshakes, self.full = 0, False  # full: it makes no endpoint
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, *unused: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            for stream in self.streams:
                stream.close()

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            stream.settimeout(TIMEOUT)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else what it says last may never leave
            with self.lock:
                self.streams.append(stream)
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream: socket.socket) -> None:
        try:
            magic = exactly(stream, 4)
            if magic == b"DSMT":
                question = magic + exactly(stream, STREAM.size + 32 - 4)
                asking, replying = self.tokens.pop(question[8:24])
                assert question == token_hello(question[8:24], asking)
                stream.sendall(token_answer(question, replying if self.knows else os.urandom(32)))
                self.say(stream)
                return
            proof = handshake.Handshake(self.secret, self.address, server=self.node)
            if proof.answer(stream, magic + exactly(stream, handshake.HELLO.size - 4)):
                self.handshakes += 1
                self._control(stream, proof.mac("asking"), proof.mac("answer"))
        except (EOFError, OSError, handshake.Refused):
            stream.close()

    def _control(self, stream: socket.socket, asking: bytes, replying: bytes) -> None:
        while True:
            kind, number, _, payload = handshake.unseal(asking, handshake.take(stream))
            answer, status = b"", 0
            if kind == ATTACH:
                answer = GRANT.pack(self.nbytes, 7, 0) + struct.pack("<I", 5) + self.key
            elif kind == ENDPOINT and self.full:
                status = ESYS
            elif kind == ENDPOINT:
                answer = os.urandom(16)
                self.tokens[answer] = asking, replying
            elif kind == OUTCOMES:
                status, answer = self.outcomes(int.from_bytes(payload[4:12], "little"))
            stream.sendall(handshake.seal(replying, kind | handshake.REPLY, number, answer, status=status))
