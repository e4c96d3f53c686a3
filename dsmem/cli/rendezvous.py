"""How ``dsmem bench HOST`` gets the descriptor from ``dsmem bench --listen HOST`` (docs/protocols/bench.md).

Both sides prove that they know the shared secret before anything is allocated or trusted. One client is served at a
time, so that no other disturbs its measurement. An unauthenticated connection is dropped after ANSWER_S seconds at
most.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click

import dsmem
from dsmem import errors
from dsmem.handshake import stretch

PORT = 18515  # that of perftest
MAGIC = b"DSMB\x02\0\0\0"
ANSWER_S = 5.0
NONCE = MAC = 32
_WANT = struct.Struct(f"<Q{NONCE}s{MAC}s")
_REPLY = struct.Struct(f"<I{MAC}s")
REPLY_MOST = 4096


class Dropped(Exception):
    """The other side has not proved that it knows the secret, or closed the connection."""


def _is_host(text: str) -> bool:
    """Whether the text can be an address or the name of a host."""
    try:
        if ":" in text:
            ipaddress.IPv6Address(text)
        else:
            text.encode("idna")
    except ValueError:
        return False
    return ":" in text or re.fullmatch(r"[\w.-]+", text) is not None


@dataclass(frozen=True)
class Endpoint:
    """Address of a server."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Parse "host", "host:port" or "[v6]:port".

        Raises
        ------
        click.BadParameter
            The text is not one of these.
        """
        host, colon, port = text.rpartition(":")
        if text.startswith("["):
            host, _, rest = text[1:].partition("]")
            colon, port = rest[:1], rest[1:]
        elif not colon or ":" in host:
            host, colon, port = text, "", ""
        if colon not in ("", ":") or (colon and not (port.isdecimal() and int(port) < 65536)) or not _is_host(host):
            raise click.BadParameter(f"{text!r} is not HOST, HOST:PORT or [IPV6]:PORT, with a port up to 65535")
        return cls(host, int(port) if port else PORT)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _receive(stream: socket.socket, n: int) -> bytes:
    """Receive exactly n bytes, within ANSWER_S seconds in all."""
    got, end = b"", time.monotonic() + ANSWER_S
    while len(got) < n:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer")
        stream.settimeout(left)
        piece = stream.recv(n - len(got))
        if not piece:
            raise Dropped("it closed the connection")
        got += piece
    return got


def _mac(secret: bytes, side: bytes, server: bytes, client: bytes, rest: bytes) -> bytes:
    return hmac.digest(stretch(secret), b"dsmem-bench-" + side + server + client + rest, "sha256")


# ---- the server ----


def listen(at: Endpoint) -> socket.socket:
    """Return a listening socket.

    Raises
    ------
    click.ClickException
        The address is not one of this host, or is in use.
    """
    try:
        family = socket.getaddrinfo(at.host, at.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((at.host, at.port), family=family)
    except OSError as error:
        raise click.ClickException(str(errors.SystemCallError(f"can't listen on {at}", sys=error.errno or 0))) from None


def serve(listener: socket.socket, context: dsmem.Context, secret: bytes, say: Callable[[str], None]) -> None:
    """Serve one client after the other, until an exception (Ctrl-C) ends it.

    Parameters
    ----------
    listener : socket
        From :func:`listen`.
    context : Context
        Context that allocates the regions. Each region lives as long as its client's connection.
    secret : bytes
        The shared secret.
    say : callable
        Called with each line of the log.
    """
    while True:
        stream, address = listener.accept()
        peer = str(Endpoint(address[0], address[1]))
        with stream:
            try:
                nbytes, nonces = _admit(stream, secret)
                say(f"{peer} measures on {nbytes} bytes")
                _hold(stream, context, secret, nbytes, nonces)
            except (Dropped, OSError) as error:
                say(f"{peer} rejected: {error}")
            else:
                say(f"{peer} finished")


def _admit(stream: socket.socket, secret: bytes) -> tuple[int, tuple[bytes, bytes]]:
    nonce = os.urandom(NONCE)
    stream.sendall(MAGIC + nonce)
    nbytes, theirs, mac = _WANT.unpack(_receive(stream, _WANT.size))
    if not hmac.compare_digest(mac, _mac(secret, b"client", nonce, theirs, struct.pack("<Q", nbytes))):
        raise Dropped("it has another secret, or is not dsmem bench")
    return nbytes, (nonce, theirs)


def _hold(
    stream: socket.socket, context: dsmem.Context, secret: bytes, nbytes: int, nonces: tuple[bytes, bytes]
) -> None:
    def answer(what: dict[str, Any]) -> None:
        text = json.dumps({"version": dsmem.__version__, "host": socket.gethostname(), **what}).encode()
        stream.sendall(_REPLY.pack(len(text), _mac(secret, b"server", *nonces, text)) + text)

    try:
        region = context.allocate(nbytes)
    except errors.DsmemError as error:
        answer({"error": str(error)})
        return
    with region:
        answer({"descriptor": region.descriptor.hex()})
        keep_alive(stream)
        stream.settimeout(None)
        while stream.recv(64):
            pass


def keep_alive(stream: socket.socket) -> None:
    """Make reads from a host that is no longer reachable fail within about 10 s."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3)):
        stream.setsockopt(socket.IPPROTO_TCP, option, value)


# ---- the client ----


@contextlib.contextmanager
def meet(at: Endpoint, secret: bytes, nbytes: int) -> Iterator[dict[str, Any]]:
    """Get a region of a server.

    Parameters
    ----------
    at : Endpoint
        Address of the server.
    secret : bytes
        The shared secret.
    nbytes : int
        The length of the region.

    Yields
    ------
    dict
        descriptor (hexadecimal), version and host of the server. The region lives as long as the block.

    Raises
    ------
    click.ClickException
        No process listens there, the server is busy or not dsmem bench, or it can't allocate the memory.
    AuthenticationError
        The secrets differ.
    """
    try:
        stream = socket.create_connection((at.host, at.port), timeout=ANSWER_S)
    except OSError as error:
        raise click.ClickException(
            f"no dsmem bench at {at}: {error.strerror or error}; start 'dsmem bench --listen' there, and let its port "
            "and the next one through the firewall"
        ) from None
    with stream:
        try:
            reply = _ask(stream, secret, nbytes)
        except errors.AuthenticationError:
            raise
        except TimeoutError:
            raise click.ClickException(f"the server at {at} does not answer: it serves one client at a time") from None
        except (Dropped, OSError) as error:
            raise click.ClickException(f"the server at {at}: {error}") from None
        if "error" in reply:
            raise click.ClickException(f"the server at {at}: {reply['error']}")
        yield reply


def _ask(stream: socket.socket, secret: bytes, nbytes: int) -> dict[str, Any]:
    hello = _receive(stream, len(MAGIC) + NONCE)
    if not hello.startswith(MAGIC):
        raise Dropped("it is not a dsmem bench, or one of another release")
    server, client = hello[len(MAGIC) :], os.urandom(NONCE)
    stream.sendall(_WANT.pack(nbytes, client, _mac(secret, b"client", server, client, struct.pack("<Q", nbytes))))
    try:
        size, mac = _REPLY.unpack(_receive(stream, _REPLY.size))
    except (Dropped, ConnectionResetError):
        raise errors.AuthenticationError("the server has dropped us") from None
    if size > REPLY_MOST:
        raise Dropped("it is not a dsmem bench, or one of another release")
    text = _receive(stream, size)
    if not hmac.compare_digest(mac, _mac(secret, b"server", server, client, text)):
        raise errors.AuthenticationError("the server does not know our secret")
    reply: dict[str, Any] = json.loads(text)
    return reply
