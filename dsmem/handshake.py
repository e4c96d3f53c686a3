"""The control protocol's handshake and MACs (docs/protocols/handshake.md), with nothing but the standard library.

For whatever speaks it without the core: ``dsmem doctor --peer``, tests, programs of others. The core has its own in C.
This file imports nothing of dsmem, so that a program without it can load it by its path.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import re
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

VERSION = 2
MAC = 32
HELLO = struct.Struct("<4sHH16s32s")
CHALLENGE = struct.Struct("<4sHH16s32s32x")
VERDICT = struct.Struct("<I32s")
HEADER = struct.Struct("<4sHHQI")
REPLY = 0x8000
MOST = 1024  # bytes of payload

_KEY = re.compile(rb"[0-9a-f]{64}")


@functools.lru_cache(maxsize=16)
def stretch(secret: bytes) -> bytes:
    """The key that a secret stands for.

    64 hexadecimal digits, as ``dsmem`` makes them, are a key: nobody can guess 256 random bits. All else may be what
    people think of: each guess costs about 0.1 s and 32 MiB, and us that once per process.

    Parameters
    ----------
    secret : bytes
        What both sides have been given.

    Returns
    -------
    bytes
    """
    if _KEY.fullmatch(secret):
        return secret
    return hashlib.scrypt(secret, salt=b"dsmem secret 2", n=1 << 15, r=8, p=1, maxmem=1 << 26, dklen=32)


def receive(stream: socket.socket, n: int) -> bytes:
    """Take exactly n bytes, or fewer where the stream ends."""
    data = b""
    while len(data) < n and (part := stream.recv(n - len(data))):
        data += part
    return data


class Refused(Exception):
    """The other side said no, or is none of ours.

    Parameters
    ----------
    step : str
        "challenge", "version", "node", "verdict", "proof" or "message".
    detail : object
        The number of an error, or what was wrong.
    """

    def __init__(self, step: str, detail: object = 0) -> None:
        super().__init__(f"{step}: {detail}")
        self.step, self.detail = step, detail


class Handshake:
    """What all MACs of one connection are over.

    Parameters
    ----------
    secret : bytes
        The shared one.
    address : str
        As the client dials it, and as the server publishes it: "tcp:HOST:PORT" or "unix:@NAME".
    client, server : bytes
        Their node ids.
    client_nonce, server_nonce : bytes
        32 bytes that have never been used before.
    """

    def __init__(
        self,
        secret: bytes,
        address: str,
        *,
        client: bytes = b"",
        server: bytes = b"",
        client_nonce: bytes = b"",
        server_nonce: bytes = b"",
    ) -> None:
        self.key, self.address = stretch(secret), address
        self.client, self.server = client, server
        self.client_nonce, self.server_nonce = client_nonce, server_nonce

    def mac(self, role: str) -> bytes:
        """The MAC of a role: client and server prove with theirs; asking and answer are keys."""
        label = f"dsmem2-{role}".encode()
        text = label + self.client_nonce + self.server_nonce + self.client + self.server + self.address.encode()
        return hmac.digest(self.key, text, "sha256")

    def hello(self) -> bytes:
        """The client's first bytes."""
        return HELLO.pack(b"DSMH", VERSION, 0, self.client, self.client_nonce)

    def heard_hello(self, raw: bytes) -> None:
        """What the server learns from them."""
        magic, version, zero, self.client, self.client_nonce = HELLO.unpack(raw)
        if (magic, version, zero) != (b"DSMH", VERSION, 0):
            raise Refused("version", version)

    def challenge(self, status: int = 0) -> bytes:
        """The server's answer."""
        return CHALLENGE.pack(b"DSMH", VERSION, status, self.server, self.server_nonce)

    def heard_challenge(self, raw: bytes, node: bytes | None = None) -> None:
        """What the client learns from it; node: which one must have answered."""
        if len(raw) < CHALLENGE.size or not raw.startswith(b"DSMH"):
            raise Refused("challenge", "no agent of dsmem")
        _, version, status, server, nonce = CHALLENGE.unpack(raw)
        if version != VERSION:
            raise Refused("version", version)
        if status:
            raise Refused("challenge", status)
        if node is not None and server != node:
            raise Refused("node", server.hex())
        self.server, self.server_nonce = server, nonce

    def good_proof(self, proof: bytes) -> bool:
        """Whether the client knows the secret and has dialled our address."""
        return hmac.compare_digest(proof, self.mac("client"))

    def verdict(self, status: int = 0) -> bytes:
        """What the server says to it."""
        return VERDICT.pack(status, bytes(MAC) if status else self.mac("server"))

    def heard_verdict(self, raw: bytes) -> None:
        """Whether the client is taken, by one that knows the secret and has published the address."""
        if len(raw) < VERDICT.size:
            raise Refused("verdict", "the stream has ended")
        status, mac = VERDICT.unpack(raw)
        if status:
            raise Refused("verdict", status)
        if not hmac.compare_digest(mac, self.mac("server")):
            raise Refused("proof", "the server does not know the secret")

    def dial(self, stream: socket.socket, node: bytes | None = None) -> None:
        """All of the client's part.

        Parameters
        ----------
        stream : socket
            That has been connected to the address.
        node : bytes, optional
            Which one must answer.

        Raises
        ------
        Refused
            It did not end well.
        """
        self.client = self.client or os.urandom(16)
        self.client_nonce = os.urandom(32)
        stream.sendall(self.hello())
        self.heard_challenge(receive(stream, CHALLENGE.size), node)
        stream.sendall(self.mac("client"))
        self.heard_verdict(receive(stream, VERDICT.size))

    def answer(self, stream: socket.socket, hello: bytes) -> bool:
        """All of the server's part after HELLO. False: the client did not prove what it must, and has been told so."""
        self.heard_hello(hello)
        self.server_nonce = os.urandom(32)
        stream.sendall(self.challenge())
        good = self.good_proof(receive(stream, MAC))
        stream.sendall(self.verdict(0 if good else 11))
        return good


def seal(
    key: bytes, kind: int, number: int, payload: bytes = b"", *, status: int = 0, length: int | None = None
) -> bytes:
    """One message with its MAC.

    Parameters
    ----------
    key : bytes
        Of its direction: Handshake.mac("asking") or ("answer").
    kind, number, status : int
        Of the header.
    payload : bytes
        At most 1024.
    length : int, optional
        What the header says in place of the payload's.
    """
    size = len(payload) if length is None else length
    text = HEADER.pack(b"DSMM", kind, size, number, status) + payload
    return text + hmac.digest(key, text, "sha256")


def unseal(key: bytes, message: bytes) -> tuple[int, int, int, bytes]:
    """Kind, number, status and payload of a message, or Refused."""
    text, mac = message[:-MAC], message[-MAC:]
    if len(message) < HEADER.size + MAC or not hmac.compare_digest(mac, hmac.digest(key, text, "sha256")):
        raise Refused("message", "not genuine")
    _, kind, _, number, status = HEADER.unpack_from(text)
    return kind, number, status, text[HEADER.size :]


def take(stream: socket.socket) -> bytes:
    """The next message as it is, or EOFError."""
    head = receive(stream, HEADER.size)
    if len(head) < HEADER.size or not head.startswith(b"DSMM"):
        raise EOFError
    size = min(struct.unpack_from("<H", head, 6)[0], MOST) + MAC
    rest = receive(stream, size)
    if len(rest) < size:
        raise EOFError
    return head + rest
