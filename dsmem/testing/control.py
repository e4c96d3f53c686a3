"""The control protocol (docs/protocols/handshake.md) spoken by hand: for tests that must misbehave, on either side."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from types import TracebackType

from typing_extensions import Self

import dsmem

ATTACH, ENDPOINT, STATUS, BYE = 1, 2, 3, 4
REPLY = 0x8000


def connect(address: str, timeout: float = 10.0) -> socket.socket:
    """A stream to an agent.

    Parameters
    ----------
    address : str
        "unix:@NAME" or "tcp:HOST:PORT", as in a descriptor.
    timeout : float
        Seconds, for everything that is done with the socket.
    """
    kind, _, rest = address.partition(":")
    if kind == "unix":
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.settimeout(timeout)
        s.connect("\0" + rest.removeprefix("@"))
        return s
    host, _, port = rest.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout)


def receive(s: socket.socket, n: int) -> bytes:
    """Exactly n bytes, or fewer where the stream ends."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while len(data) < n and (part := s.recv(n - len(data))):
            data += part
    return data


def forge(descriptor: dsmem.Descriptor | bytes, **fields: int | bytes | str) -> bytes:
    """A descriptor with other fields and the right checksum.

    Parameters
    ----------
    descriptor : Descriptor or bytes
        The one to begin with.
    **fields
        version, fabric, kind, access, node, region, generation, nbytes, base, key, address.
    """
    places = {
        "version": ("<B", 4),
        "fabric": ("<B", 5),
        "kind": ("<B", 6),
        "access": ("<B", 7),
        "node": ("16s", 8),
        "region": ("<Q", 24),
        "generation": ("<Q", 32),
        "nbytes": ("<Q", 40),
        "base": ("<Q", 48),
        "key": ("<I", 56),
    }
    raw = bytearray(bytes(descriptor)[:-4])
    for name, value in fields.items():
        if isinstance(value, str):
            raw[60:62] = struct.pack("<H", len(value))
            raw[64:] = value.encode()
        else:
            struct.pack_into(places[name][0], raw, places[name][1], value)
    return bytes(raw) + struct.pack("<I", zlib.crc32(raw))


class Stranger:
    """A client of an agent that says what it is told to.

    Parameters
    ----------
    address : str
        Of the agent.
    node : bytes, optional
        The node id that it claims; by default a random one.
    """

    def __init__(self, address: str, node: bytes | None = None) -> None:
        self.socket = connect(address)
        self.node = node or os.urandom(16)
        self.nonce = os.urandom(32)
        self.challenge = b""

    def hello(self, version: int = 1) -> int:
        """Send HELLO and take the CHALLENGE; returns its status."""
        self.socket.sendall(b"DSMH" + struct.pack("<HH", version, 0) + self.node + self.nonce)
        self.challenge = receive(self.socket, 88)
        return int(struct.unpack_from("<H", self.challenge, 6)[0])

    def prove(self, secret: bytes) -> int | None:
        """Send PROOF and take the VERDICT; None where the stream ended without one."""
        text = b"dsmem-client" + self.nonce + self.challenge[24:56] + self.node + self.challenge[8:24]
        self.socket.sendall(hmac.digest(secret, text, hashlib.sha256))
        verdict = receive(self.socket, 4)
        return int(struct.unpack("<I", verdict)[0]) if len(verdict) == 4 else None

    def send(self, kind: int, payload: bytes = b"", *, length: int | None = None, magic: bytes = b"DSMM") -> None:
        """Send one message; length is what its header says."""
        header = struct.pack("<HHII", kind, len(payload) if length is None else length, 1, 0)
        self.socket.sendall(magic + header + payload)

    def ask(self, kind: int, payload: bytes = b"") -> tuple[int, bytes, list[int]]:
        """Send one message; returns status, payload and file descriptors of the reply, or ConnectionError."""
        self.send(kind, payload)
        data, fds, _, _ = socket.recv_fds(self.socket, 16, 4)
        if len(data) < 16:
            raise ConnectionError("the agent has ended the stream")
        length, status = struct.unpack_from("<HxxxxI", data, 6)
        return status, receive(self.socket, length), list(fds)

    def ended(self) -> bool:
        """Wait until the agent ends the stream; False: it said something instead."""
        return receive(self.socket, 1) == b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()


class FakeOwner:
    """An agent at an abstract Unix socket that knows the secret and answers what 'answer' tells it to.

    Parameters
    ----------
    secret : bytes
        What the client must know.
    answer : callable
        Called with the socket of each client that has connected and the bytes of its HELLO, in a thread. What is to be
        said after that is up to it; :meth:`shake_hands` does the rest of the handshake.
    backlog : int
        Of the listening socket.
    """

    def __init__(
        self, secret: bytes, answer: Callable[[FakeOwner, socket.socket, bytes], None], backlog: int = 8
    ) -> None:
        self.secret = secret
        self.node = os.urandom(16)
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(f"\0dsmem-fake-{os.getpid()}-{self.node.hex()}")
        self._listener.listen(backlog)
        self.address = f"unix:@dsmem-fake-{os.getpid()}-{self.node.hex()}"
        self._thread = threading.Thread(target=self._run)
        self._client: socket.socket | None = None

    def descriptor(self, genuine: dsmem.Descriptor) -> bytes:
        """A descriptor that leads here."""
        return forge(genuine, node=self.node, address=self.address)

    def start(self) -> Self:
        """Begin to accept."""
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
                self._answer(self, client, receive(client, 56))

    def shake_hands(self, client: socket.socket, hello: bytes) -> None:
        """Answer HELLO as an agent does, whatever the client's PROOF is."""
        nonce = os.urandom(32)
        text = b"dsmem-server" + hello[24:56] + nonce + hello[8:24] + self.node
        mac = hmac.digest(self.secret, text, hashlib.sha256)
        client.sendall(b"DSMH" + struct.pack("<HH", 1, 0) + self.node + nonce + mac)
        receive(client, 32)
        client.sendall(bytes(4))

    @staticmethod
    def reply(question: bytes, payload: bytes = b"", *, status: int = 0, length: int | None = None) -> bytes:
        """The bytes of a reply to the header of a question."""
        kind, number = struct.unpack_from("<HxxI", question, 4)
        size = len(payload) if length is None else length
        return b"DSMM" + struct.pack("<HHII", kind | REPLY, size, number, status) + payload

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for s in (self._listener, self._client):  # wakes accept and recv
            with contextlib.suppress(OSError, AttributeError):
                s.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        self._listener.close()
        self._thread.join()
