"""The control protocol (docs/protocols/handshake.md) step by step, for tests in which either side misbehaves."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from types import TracebackType

from typing_extensions import Self

import dsmem
from dsmem.handshake import CHALLENGE, HEADER, HELLO, MAC, MOST, VERDICT, VERSION, Handshake, seal, unseal

ATTACH, ENDPOINT, STATUS, BYE = 1, 2, 3, 4
REPLY = 0x8000
QUESTION = HEADER.size + 20 + MAC  # bytes of an ATTACH request


def connect(address: str, timeout: float = 10.0) -> socket.socket:
    """Connect a stream to an agent.

    Parameters
    ----------
    address : str
        "unix:@NAME" or "tcp:HOST:PORT", as in a descriptor.
    timeout : float
        Seconds, for each operation on the socket.
    """
    kind, _, rest = address.partition(":")
    if kind == "unix":
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            s.settimeout(timeout)
            s.connect("\0" + rest.removeprefix("@"))
        except BaseException:
            s.close()
            raise
        return s
    host, _, port = rest.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout)


def receive(s: socket.socket, n: int) -> bytes:
    """Receive exactly n bytes, or fewer if the stream ends."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while len(data) < n and (part := s.recv(n - len(data))):
            data += part
    return data


def name_of(descriptor: dsmem.Descriptor) -> bytes:
    """Return the payload of a STATUS request: the region and its generation."""
    return struct.pack("<QQ", descriptor.region, descriptor.generation)


def attach_of(descriptor: dsmem.Descriptor) -> bytes:
    """Return the payload of an ATTACH request by the descriptor's first way."""
    return name_of(descriptor) + struct.pack("<I", bytes(descriptor)[48])


def forge(descriptor: dsmem.Descriptor | bytes, **fields: int | bytes | str) -> bytes:
    """Return a descriptor with changed fields and the right checksum.

    Parameters
    ----------
    descriptor : Descriptor or bytes
        The descriptor to change.
    **fields
        version, kind, access, node, region, generation, nbytes; fabric (a number) and address of the first way, which
        is the only one then.
    """
    places = {
        "version": ("<B", 4),
        "kind": ("<B", 6),
        "access": ("<B", 7),
        "node": ("16s", 8),
        "region": ("<Q", 24),
        "generation": ("<Q", 32),
        "nbytes": ("<Q", 40),
        "fabric": ("<B", 48),
    }
    raw = bytearray(bytes(descriptor)[:-4])
    if fields.keys() & {"fabric", "address"}:
        raw[5] = 1
        del raw[50 + raw[49] :]
    for name, value in fields.items():
        if isinstance(value, str):
            raw[49 : 50 + raw[49]] = bytes([len(value)]) + value.encode()
        else:
            struct.pack_into(places[name][0], raw, places[name][1], value)
    return bytes(raw) + struct.pack("<I", zlib.crc32(raw))


class ControlClient:
    """A client of an agent that sends what the test tells it to.

    Parameters
    ----------
    address : str
        Address of the agent.
    node : bytes, optional
        The node id that it claims; by default a random one.
    dialled : str, optional
        The address that it claims to have dialled; by default that of the agent.
    """

    def __init__(self, address: str, node: bytes | None = None, dialled: str | None = None) -> None:
        self.socket = connect(address)
        self.node = node or os.urandom(16)
        self.nonce = os.urandom(32)
        self.challenge = b""
        self.verdict = b""
        self.number = 0
        self._dialled = dialled or address
        self._asking = self._answer = bytes(32)

    def hello(self, version: int = VERSION) -> int:
        """Send HELLO, receive the CHALLENGE and return its status."""
        self.socket.sendall(HELLO.pack(b"DSMH", version, 0, self.node, self.nonce))
        self.challenge = receive(self.socket, CHALLENGE.size)
        return int(struct.unpack_from("<H", self.challenge, 6)[0])

    def prove(self, secret: bytes) -> int | None:
        """Send PROOF, receive the VERDICT and return its status. None: the stream ended, or its proof is wrong."""
        handshake = Handshake(
            secret,
            self._dialled,
            client=self.node,
            server=self.challenge[8:24],
            client_nonce=self.nonce,
            server_nonce=self.challenge[24:56],
        )
        self.socket.sendall(handshake.mac("client"))
        self.verdict = receive(self.socket, VERDICT.size)
        if len(self.verdict) < VERDICT.size:
            return None
        status, mac = VERDICT.unpack(self.verdict)
        if not status and mac != handshake.mac("server"):
            return None
        self._asking, self._answer = handshake.mac("asking"), handshake.mac("answer")
        return int(status)

    def sealed(self, kind: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
        """Return the next message without sending it. ``length``: length in its header."""
        self.number += 1
        return seal(self._asking, kind, self.number, payload, length=length)

    def send(self, kind: int, payload: bytes = b"", *, length: int | None = None, magic: bytes = b"DSMM") -> None:
        """Send one message. ``length``: length in its header."""
        self.socket.sendall(magic + self.sealed(kind, payload, length=length)[4:])

    def reply(self) -> tuple[int, int, int, bytes, list[int]]:
        """Receive one reply: kind, number, status, payload and file descriptors, or ConnectionError."""
        head, fds, _, _ = socket.recv_fds(self.socket, HEADER.size, 4)
        if len(head) < HEADER.size:
            raise ConnectionError("the agent has ended the stream")
        (length,) = struct.unpack_from("<H", head, 6)
        return (*unseal(self._answer, head + receive(self.socket, min(length, MOST) + MAC)), list(fds))

    def ask(self, kind: int, payload: bytes = b"") -> tuple[int, bytes, list[int]]:
        """Send one message, and return status, payload and file descriptors of the reply, or raise ConnectionError."""
        self.send(kind, payload)
        answered, number, status, data, fds = self.reply()
        if (answered, number) != (kind | REPLY, self.number):
            raise ConnectionError("the reply is to something else")
        return status, data, fds

    def ended(self) -> bool:
        """Wait until the agent ends the stream. False: it sent a byte instead."""
        return receive(self.socket, 1) == b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()


class FakeOwner:
    """An agent at an abstract Unix socket that knows the secret; the callable ``answer`` decides what it sends.

    Parameters
    ----------
    secret : bytes
        The secret that the client must know.
    answer : callable
        Called in a thread with this object, the socket of each client that has connected, and the bytes of its HELLO.
        It does all the rest; :meth:`do_handshake` does the rest of the handshake.
    backlog : int
        Backlog of the listening socket.
    """

    def __init__(
        self, secret: bytes, answer: Callable[[FakeOwner, socket.socket, bytes], None], backlog: int = 8
    ) -> None:
        self.secret = secret
        self.node = os.urandom(16)
        self._key = bytes(32)
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(f"\0dsmem-fake-{os.getpid()}-{self.node.hex()}")
        self._listener.listen(backlog)
        self.address = f"unix:@dsmem-fake-{os.getpid()}-{self.node.hex()}"
        self._thread = threading.Thread(target=self._run)
        self._client: socket.socket | None = None

    def descriptor(self, genuine: dsmem.Descriptor) -> bytes:
        """Return a descriptor that leads to this agent."""
        return forge(genuine, node=self.node, address=self.address)

    def start(self) -> Self:
        """Begin to accept connections."""
        self._thread.start()
        return self

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.settimeout(10)
                self._client = client
                self._answer(self, client, receive(client, HELLO.size))

    def handshake(self, hello: bytes) -> Handshake:
        """Return the state of the handshake that a HELLO begins, ready to send the CHALLENGE."""
        handshake = Handshake(self.secret, self.address, server=self.node, server_nonce=os.urandom(32))
        handshake.heard_hello(hello)
        return handshake

    def do_handshake(self, client: socket.socket, hello: bytes) -> None:
        """Answer HELLO as an agent does, without checking the client's PROOF."""
        handshake = self.handshake(hello)
        client.sendall(handshake.challenge())
        receive(client, MAC)
        client.sendall(handshake.verdict())
        self._key = handshake.mac("answer")

    def reply(
        self,
        question: bytes,
        payload: bytes = b"",
        *,
        kind: int | None = None,
        number: int | None = None,
        status: int = 0,
        length: int | None = None,
    ) -> bytes:
        """Return a reply with a valid MAC. Kind and number are by default those that match the question."""
        asked, n = struct.unpack_from("<HxxQ", question, 4)
        return seal(
            self._key,
            asked | REPLY if kind is None else kind,
            n if number is None else number,
            payload,
            status=status,
            length=length,
        )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for s in (self._listener, self._client):  # wakes accept() and recv()
            with contextlib.suppress(OSError, AttributeError):
                s.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        self._listener.close()
        self._thread.join()


def keys_of(regions: list[dsmem.Region], secret: bytes) -> list[int]:
    """Return the keys that the agent of their owner grants for regions on verbs."""
    keys = []
    with ControlClient(regions[0].descriptor.address) as client:
        if client.hello() or client.prove(secret):
            raise ConnectionError("the agent has refused the handshake")
        for region in regions:
            status, payload, _ = client.ask(ATTACH, attach_of(region.descriptor))
            if status:
                raise ConnectionError(f"the agent has refused a region: {status}")
            keys.append(struct.unpack_from("<QIIQI", payload)[-1])  # docs/protocols/handshake.md
    return keys
