"""The control protocol's handshake and MACs (docs/protocols/handshake.md), using only the standard library.

For programs that speak the protocol without the core: ``dsmem doctor --peer``, tests, third-party tools. The core has
its own implementation in C. This file imports nothing of dsmem, so that a program without dsmem can load it by path.
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

VERSION = 4
MAC = 32
HELLO = struct.Struct("<4sHH16s32s")
CHALLENGE = struct.Struct("<4sHH16s32s32x")
VERDICT = struct.Struct("<I32s")
HEADER = struct.Struct("<4sHHQI")
REPLY = 0x8000
MOST = 1024  # greatest length of a payload, in bytes

_KEY = re.compile(rb"[0-9a-f]{64}")


@functools.lru_cache(maxsize=16)
def stretch(secret: bytes) -> bytes:
    """Derive the key from a secret.

    64 hexadecimal digits, as ``dsmem`` generates them, are the key itself: 256 random bits can't be guessed. Any other
    secret may be a password, and is stretched by scrypt: each guess costs about 0.1 s and 32 MiB. This process pays
    that once per secret.

    Parameters
    ----------
    secret : bytes
        The secret that both sides have.

    Returns
    -------
    bytes
    """
    if _KEY.fullmatch(secret):
        return secret
    return hashlib.scrypt(secret, salt=b"dsmem secret 2", n=1 << 15, r=8, p=1, maxmem=1 << 26, dklen=32)


def receive(stream: socket.socket, n: int) -> bytes:
    """Receive exactly n bytes, or fewer if the stream ends."""
    data = b""
    while len(data) < n and (part := stream.recv(n - len(data))):
        data += part
    return data


class Refused(Exception):
    """The other side rejected us, or is not a dsmem process that knows the secret.

    Parameters
    ----------
    step : str
        "challenge", "version", "node", "verdict", "proof" or "message".
    detail : object
        The number of an error, or a description.
    """

    def __init__(self, step: str, detail: object = 0) -> None:
        super().__init__(f"{step}: {detail}")
        self.step, self.detail = step, detail


class Handshake:
    """The state of one connection's handshake, which all its MACs cover.

    Parameters
    ----------
    secret : bytes
        The shared secret.
    address : str
        The address as the client dials it and as the server publishes it: "tcp:HOST:PORT" or "unix:@NAME".
    client, server : bytes
        Node ids of the two sides.
    client_nonce, server_nonce : bytes
        32 bytes each, never used before.
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
        """The MAC of a role. Those of "client" and "server" are the proofs; those of "asking" and "answer" are keys."""
        label = f"dsmem4-{role}".encode()
        text = label + self.client_nonce + self.server_nonce + self.client + self.server + self.address.encode()
        return hmac.digest(self.key, text, "sha256")

    def hello(self) -> bytes:
        """HELLO, the first message of the client."""
        return HELLO.pack(b"DSMH", VERSION, 0, self.client, self.client_nonce)

    def heard_hello(self, raw: bytes) -> None:
        """Take the client's node id and nonce from its HELLO, as the server."""
        magic, version, zero, self.client, self.client_nonce = HELLO.unpack(raw)
        if (magic, version, zero) != (b"DSMH", VERSION, 0):
            raise Refused("version", version)

    def challenge(self, status: int = 0) -> bytes:
        """CHALLENGE, the server's answer to HELLO."""
        return CHALLENGE.pack(b"DSMH", VERSION, status, self.server, self.server_nonce)

    def heard_challenge(self, raw: bytes, node: bytes | None = None) -> None:
        """Take the server's node id and nonce from its CHALLENGE, as the client. ``node``: the id that it must have."""
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
        """Whether the client knows the secret and has dialled this address."""
        return hmac.compare_digest(proof, self.mac("client"))

    def verdict(self, status: int = 0) -> bytes:
        """VERDICT, the server's answer to the client's proof."""
        return VERDICT.pack(status, bytes(MAC) if status else self.mac("server"))

    def heard_verdict(self, raw: bytes) -> None:
        """Check, as the client, that the VERDICT accepts it and that the server knows the secret and the address."""
        if len(raw) < VERDICT.size:
            raise Refused("verdict", "the stream has ended")
        status, mac = VERDICT.unpack(raw)
        if status:
            raise Refused("verdict", status)
        if not hmac.compare_digest(mac, self.mac("server")):
            raise Refused("proof", "the server does not know the secret")

    def dial(self, stream: socket.socket, node: bytes | None = None) -> None:
        """Do the whole handshake as the client.

        Parameters
        ----------
        stream : socket
            A socket that is connected to the address.
        node : bytes, optional
            The id that the server must have.

        Raises
        ------
        Refused
            The handshake failed.
        """
        self.client = self.client or os.urandom(16)
        self.client_nonce = os.urandom(32)
        stream.sendall(self.hello())
        self.heard_challenge(receive(stream, CHALLENGE.size), node)
        stream.sendall(self.mac("client"))
        self.heard_verdict(receive(stream, VERDICT.size))

    def answer(self, stream: socket.socket, hello: bytes) -> bool:
        """Do the handshake as the server, after HELLO. False: the client's proof was wrong, and it has been told so."""
        self.heard_hello(hello)
        self.server_nonce = os.urandom(32)
        stream.sendall(self.challenge())
        good = self.good_proof(receive(stream, MAC))
        stream.sendall(self.verdict(0 if good else 11))
        return good


def seal(
    key: bytes, kind: int, number: int, payload: bytes = b"", *, status: int = 0, length: int | None = None
) -> bytes:
    """Return one message with its MAC.

    Parameters
    ----------
    key : bytes
        The key of its direction: Handshake.mac("asking") or Handshake.mac("answer").
    kind, number, status : int
        Fields of the header.
    payload : bytes
        At most 1024 bytes.
    length : int, optional
        Length in the header, if it is not to be that of the payload.
    """
    size = len(payload) if length is None else length
    text = HEADER.pack(b"DSMM", kind, size, number, status) + payload
    return text + hmac.digest(key, text, "sha256")


def unseal(key: bytes, message: bytes) -> tuple[int, int, int, bytes]:
    """Return kind, number, status and payload of a message, or raise Refused if its MAC is wrong."""
    text, mac = message[:-MAC], message[-MAC:]
    if len(message) < HEADER.size + MAC or not hmac.compare_digest(mac, hmac.digest(key, text, "sha256")):
        raise Refused("message", "not genuine")
    _, kind, _, number, status = HEADER.unpack_from(text)
    return kind, number, status, text[HEADER.size :]


def take(stream: socket.socket) -> bytes:
    """Receive the next message without checking its MAC, or raise EOFError."""
    head = receive(stream, HEADER.size)
    if len(head) < HEADER.size or not head.startswith(b"DSMM"):
        raise EOFError
    size = min(struct.unpack_from("<H", head, 6)[0], MOST) + MAC
    rest = receive(stream, size)
    if len(rest) < size:
        raise EOFError
    return head + rest
