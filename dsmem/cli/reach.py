"""Whether a node's agent can be reached and has our secret: the hello of docs/protocols/handshake.md, no more."""

from __future__ import annotations

import hmac
import os
import socket
import struct

import click

from dsmem.cli.rendezvous import Endpoint

_HELLO = struct.Struct("<4sHH16s32s")
_CHALLENGE = struct.Struct("<4sHH16s32s32s")
_MAGIC, _VERSION = b"DSMH", 1
WAIT_S = 5.0


def _connect(address: str) -> socket.socket:
    """Takes an address as contexts and descriptors show it, or HOST:PORT."""
    if address.startswith("unix:@"):
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.settimeout(WAIT_S)
            stream.connect("\0" + address.removeprefix("unix:@"))
        except OSError:
            stream.close()
            raise
        return stream
    at = Endpoint.parse(address.removeprefix("tcp:"))
    return socket.create_connection((at.host, at.port), timeout=WAIT_S)


def _hello(stream: socket.socket, secret: bytes) -> str | None:
    mine, nonce = os.urandom(16), os.urandom(32)
    stream.sendall(_HELLO.pack(_MAGIC, _VERSION, 0, mine, nonce))
    got = b""
    while len(got) < _CHALLENGE.size and (piece := stream.recv(_CHALLENGE.size - len(got))):
        got += piece
    if len(got) < _CHALLENGE.size or not got.startswith(_MAGIC):
        return "what listens there is no agent of dsmem"
    _, version, status, theirs, challenge, mac = _CHALLENGE.unpack(got)
    if version != _VERSION or status:
        return f"it speaks version {version} of the control protocol and answers {status}; run the same release on both"
    if not hmac.compare_digest(mac, hmac.digest(secret, b"dsmem-server" + nonce + challenge + mine + theirs, "sha256")):
        return "it is an agent of dsmem, but the secrets differ; give both sides the same DSMEM_SECRET or secret file"
    return None


def reach(address: str, secret: bytes) -> dict[str, str | bool | None]:
    """Say hello to an agent.

    Parameters
    ----------
    address : str
        "tcp:HOST:PORT", "HOST:PORT" or "unix:@NAME".
    secret : bytes
        What it should know.

    Returns
    -------
    dict
        address, reachable, and the reason when it is not.
    """
    try:
        with _connect(address) as stream:
            reason = _hello(stream, secret)
    except TimeoutError:
        reason = "no answer: the host is down, or a firewall drops the packets (allow the port, TCP)"
    except ConnectionRefusedError:
        wall = "" if address.startswith("unix:") else ", or a firewall rejects the packets (allow the port, TCP)"
        reason = f"refused: the process is gone{wall}"
    except UnicodeError:  # of what can't be the name of a host
        reason = f"{address!r} is not HOST, HOST:PORT or [IPV6]:PORT"
    except (OSError, click.BadParameter) as error:
        reason = str(getattr(error, "strerror", None) or error)
    return {"address": address, "reachable": reason is None, "reason": reason}
