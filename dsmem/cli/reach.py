"""Check that a node's agent is reachable and knows the secret, by the handshake of docs/protocols/handshake.md."""

from __future__ import annotations

import socket

from dsmem.cli.rendezvous import Endpoint
from dsmem.handshake import VERSION, Handshake, Refused

WAIT_S = 5.0


def check_address(address: str) -> None:
    """Check that the text is an address as contexts and descriptors show it, or HOST:PORT.

    Raises
    ------
    click.BadParameter
        It is neither of them.
    """
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


def _hello(stream: socket.socket, address: str, secret: bytes) -> str | None:
    published = _published(address, stream)
    try:
        Handshake(secret, published).dial(stream)
    except Refused as no:
        if no.step == "challenge" and isinstance(no.detail, str):
            return "the process that listens there is not an agent of dsmem"
        if no.step == "version":
            return (
                f"it speaks version {no.detail} of the control protocol, this release {VERSION}; run the same on both"
            )
        if no.step in ("verdict", "proof"):
            return (
                "it is an agent of dsmem, but the secrets differ; give both sides the same DSMEM_SECRET or secret file "
                f"(or its descriptors name another address than {published}: try that one)"
            )
        return f"it refuses with error {no.detail}"
    return None


def reach(address: str, secret: bytes) -> dict[str, str | bool | None]:
    """Do the handshake with an agent.

    Parameters
    ----------
    address : str
        "tcp:HOST:PORT", "HOST:PORT" or "unix:@NAME", as check_address() accepts it.
    secret : bytes
        The secret that the agent should know.

    Returns
    -------
    dict
        address, reachable, and the reason if it is not.
    """
    try:
        with _connect(address) as stream:
            reason = _hello(stream, address, secret)
    except TimeoutError:
        reason = "no answer: the host is down, or a firewall drops the packets (allow the port, TCP)"
    except ConnectionRefusedError:
        wall = "" if address.startswith("unix:") else ", or a firewall rejects the packets (allow the port, TCP)"
        reason = f"refused: the process is gone{wall}"
    except OSError as error:
        reason = error.strerror or str(error)
    return {"address": address, "reachable": reason is None, "reason": reason}
