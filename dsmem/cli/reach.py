"""Check that a node's agent is reachable and knows the secret, by the handshake of docs/protocols/handshake.md."""

from __future__ import annotations

import socket
import string
from typing import Any

import click

import dsmem
from dsmem import _core, errors
from dsmem.cli.rendezvous import Endpoint
from dsmem.handshake import VERSION, Handshake, Refused
from dsmem.names.remote import is_address, parse_address

WAIT_S = 5.0


def _is_descriptor(text: str) -> bool:
    return len(text) >= 64 and set(text) <= set(string.hexdigits)


def _agent_at(text: str) -> str:
    """Return the address of the agent of a server that is given as for dsmem.connect(), and others as they are."""
    if not is_address(text):
        return text
    try:
        host, port, _ = parse_address(text)
    except errors.InvalidArgumentError as error:
        raise click.BadParameter(error.detail) from None
    return f"tcp:{Endpoint(host, port)}"


def check_peer(text: str) -> None:
    """Check that the text is a descriptor in hex digits, an address as contexts and descriptors show it, or HOST:PORT.

    The address of a cluster at a server is one of its agent, too.

    Raises
    ------
    click.BadParameter
        It is none of them.
    DsmemError
        It is a damaged descriptor.
    """
    if _is_descriptor(text):
        dsmem.Descriptor.fromhex(text)
    else:
        _check_address(_agent_at(text))


def _check_address(address: str) -> None:
    if not address.startswith("unix:@"):
        Endpoint.parse(address.removeprefix("tcp:"))


def _connect(address: str) -> socket.socket:
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


def _published(address: str, stream: socket.socket) -> str:
    """Return the address as the agent publishes it, in numbers."""
    if address.startswith("unix:"):
        return address
    host, port = stream.getpeername()[:2]
    return f"tcp:{Endpoint(host, port)}"


def _hello(stream: socket.socket, address: str, secret: bytes, node: bytes | None) -> str | None:
    published = _published(address, stream)
    try:
        Handshake(secret, published).dial(stream, node)
    except Refused as no:
        if no.step == "challenge" and isinstance(no.detail, str):
            return "the process that listens there is not an agent of dsmem"
        if no.step == "version":
            return (
                f"it speaks version {no.detail} of the control protocol, this release {VERSION}; run the same on both"
            )
        if no.step == "node":
            return "another agent of dsmem has the address: the owner is gone, or on another host"
        if no.step in ("verdict", "proof"):
            return (
                "it is an agent of dsmem, but the secrets differ; give both sides the same DSMEM_SECRET or secret file "
                f"(or its descriptors name another address than {published}: try that one)"
            )
        return f"it refuses with error {no.detail}"
    return None


def reach(address: str, secret: bytes, node: bytes | None = None) -> dict[str, str | bool | None]:
    """Do the handshake with an agent.

    Parameters
    ----------
    address : str
        "tcp:HOST:PORT", "HOST:PORT" or "unix:@NAME", as check_peer() accepts it.
    secret : bytes
        The secret that the agent should know.
    node : bytes, optional
        The id that the agent should have.

    Returns
    -------
    dict
        address, reachable, and the reason if it is not.
    """
    try:
        with _connect(address) as stream:
            reason = _hello(stream, address, secret, node)
    except TimeoutError:
        reason = "no answer: the host is down, or a firewall drops the packets (allow the port, TCP)"
    except ConnectionRefusedError:
        wall = "" if address.startswith("unix:") else ", or a firewall rejects the packets (allow the port, TCP)"
        reason = f"refused: the process is gone{wall}"
    except OSError as error:
        reason = error.strerror or str(error)
    return {"address": address, "reachable": reason is None, "reason": reason}


def _add_bulk(
    descriptor: dsmem.Descriptor,
    secret: bytes,
    works: set[str],
    taken: dict[str, Any] | None,
    found: list[dict[str, Any]],
) -> str | None:
    """Try the ways that carry long reads and writes only; return the fabric of the one that is taken."""
    bulk: str | None = None
    for way in descriptor.bulk:
        tried: dict[str, Any] = {"fabric": way.fabric, **reach(way.address, secret, descriptor.node)}
        if taken is None or way.fabric not in works or not tried["reachable"]:
            tried["why"] = "for long reads and writes only; not taken"
        else:
            bulk = way.fabric
            tried["why"] = f"taken for long reads and writes, beside {taken['fabric']}, which executes the atomics"
        found.append(tried)
    return bulk


def choose(descriptor: dsmem.Descriptor, secret: bytes, works: set[str]) -> dict[str, Any]:
    """Try each way of a descriptor, and say by which one a context attaches that has all fabrics.

    Parameters
    ----------
    descriptor : Descriptor
        Of a region of the peer.
    secret : bytes
        The secret that the owner should know.
    works : set of str
        The fabrics that work on this host.

    Returns
    -------
    dict
        address, reachable and reason, as of reach(), of the way that is taken, or of the last one that was tried;
        its fabric in "taken", or None; and "ways", each with its fabric and "why" it is taken or not. A way for bulk
        that is taken beside it is in "bulk": its fabric, or None.
    """
    order = list(_core.OPTIONS)
    ways = sorted(descriptor.ways, key=lambda way: order.index(way.fabric) if way.fabric in order else len(order))
    found: list[dict[str, Any]] = []
    taken: dict[str, Any] | None = None
    for way in ways:
        tried: dict[str, Any] = {"fabric": way.fabric, **reach(way.address, secret, descriptor.node)}
        if taken is not None:
            tried["why"] = f"{taken['fabric']} is preferred"
        elif way.fabric not in works:
            tried["why"] = f"{way.fabric} does not work here"
        elif tried["reachable"]:
            taken, tried["why"] = tried, "taken: the first of them that answers"
        else:
            tried["why"] = "passed over" if way.fabric == "shm" else "it does not answer"
        found.append(tried)
    at = taken or found[-1]
    bulk = _add_bulk(descriptor, secret, works, taken, found)
    return {
        "address": at["address"],
        "reachable": taken is not None,
        "reason": None if taken else at["reason"] or at["why"],
        "taken": taken and taken["fabric"],
        "bulk": bulk,
        "ways": found,
    }


def examine_peer(text: str, secret: bytes, works: set[str]) -> dict[str, Any]:
    """Reach an address, or choose the way of a descriptor in hex digits."""
    if _is_descriptor(text):
        return choose(dsmem.Descriptor.fromhex(text), secret, works)
    return reach(_agent_at(text), secret)
