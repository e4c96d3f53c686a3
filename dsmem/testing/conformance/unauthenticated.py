"""Invalid traffic at the agent's address is counted and does no harm, and valid clients are still served."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

import pytest

import dsmem
from dsmem import errors
from dsmem.handshake import HELLO, VERSION

from ..control import ATTACH, BYE, ENDPOINT, STATUS, ControlClient, attach_of, forge, name_of
from .fixtures import SECRET, open_context


def _proved(s: ControlClient) -> ControlClient:
    assert s.hello() == 0
    assert s.prove(SECRET) == 0
    return s


NOISE: dict[str, Callable[[ControlClient], None]] = {
    "noise": lambda s: s.socket.sendall(b"GET / HTTP/1.1\r\n\r\n"),
    "zeros": lambda s: s.socket.sendall(bytes(5000)),
    "hello of noise": lambda s: s.socket.sendall(b"DSMH" + b"\xff" * 52),
    "wrong proof": lambda s: (s.hello(), s.prove(b"another secret"), None)[-1],
    "wrong magic": lambda s: _proved(s).send(STATUS, bytes(16), magic=b"DSMX"),
    "unknown type": lambda s: _proved(s).send(77),
    "a reply": lambda s: _proved(s).send(0x8000 | ATTACH, bytes(20)),
    "oversized": lambda s: _proved(s).send(ENDPOINT, length=1025),
    "endless": lambda s: _proved(s).send(ENDPOINT, bytes(69), length=69),
    "no fabric": lambda s: _proved(s).send(ENDPOINT, bytes(3)),
    "short name": lambda s: _proved(s).send(ATTACH, bytes(19)),
    "long name": lambda s: _proved(s).send(STATUS, bytes(17)),
    "bye with more": lambda s: _proved(s).send(BYE, b"!"),
    "identities without a key": lambda s: _proved(s).send(8, bytes(4)),
    "ended, and no identity": lambda s: _proved(s).send(9),
    "ended, and half an identity": lambda s: _proved(s).send(9, bytes(12)),
}


@pytest.mark.parametrize("kind", NOISE)
def test_noise_is_counted_and_does_no_harm(
    owner: dsmem.Context, region: dsmem.Region, remote: dsmem.Remote, kind: str
) -> None:
    before = owner.stats["rejected"]
    with ControlClient(owner.agent_address) as s:
        NOISE[kind](s)
        while not s.ended():  # a challenge may come first
            pass
        assert owner.stats["rejected"] == before + 1
    assert remote.fetch_add(0, 1) == 0
    with remote.context.attach(region.descriptor) as again:  # type: ignore[union-attr]
        assert again.fetch_add(0, 1) == 1


def test_noise_is_logged_once(
    owner: dsmem.Context, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        with ControlClient(owner.agent_address) as s:
            s.socket.sendall(b"noise")
            assert s.ended()
    with caplog.at_level("WARNING", "dsmem"):
        assert owner.stats["rejected"] == 3 == owner.stats["rejected"]
    assert [r.name for r in caplog.records] == ["dsmem"] and "dropped 3 connections" in caplog.text
    assert capfd.readouterr() == ("", "")


def test_silent_clients_make_room(owner: dsmem.Context, peer: dsmem.Context, region: dsmem.Region) -> None:
    at = region.descriptor.address  # they and the peer wait in one line: a context may listen at two addresses
    silent = [ControlClient(at) for _ in range(100)]
    try:
        silent[-1].socket.sendall(b"DSM")  # half a hello
        with peer.attach(region.descriptor) as remote:
            remote.write(0, b"served")
            out = bytearray(6)
            remote.read(0, out)
        assert out == b"served"
        assert owner.stats["rejected"] >= 36
        assert silent[0].ended()
        silent[-1].socket.sendall(b"X")
        assert silent[-1].ended()
    finally:
        for s in silent:
            s.socket.close()


def test_the_protocol_in_pieces(owner: dsmem.Context, region: dsmem.Region) -> None:
    """Messages may arrive byte by byte, or several at once: the protocol is a stream."""
    name = name_of(region.descriptor)
    with ControlClient(owner.agent_address) as s:
        sendall = s.socket.sendall
        for b in HELLO.pack(b"DSMH", VERSION, 0, s.node, s.nonce):
            sendall(bytes([b]))
        s.challenge = s.socket.recv(88)
        assert s.prove(SECRET) == 0
        for b in s.sealed(STATUS, name):
            sendall(bytes([b]))
        sendall(s.sealed(STATUS, name) + s.sealed(STATUS, name))
        assert [s.reply() for _ in range(3)] == [(0x8000 | STATUS, n, 0, b"", []) for n in (1, 2, 3)]
        sendall(s.sealed(BYE))


def test_another_version_of_the_protocol(owner: dsmem.Context) -> None:
    with ControlClient(owner.agent_address) as s:
        assert s.hello(version=1) == errors.VersionError.code
        assert len(s.challenge) == 88, "so much does version 1 wait for before it looks"
        assert s.ended()
    with ControlClient(owner.agent_address) as s:
        assert s.hello(version=VERSION + 1) == errors.VersionError.code
        assert s.ended()


def test_questions_about_what_is_not_there(owner: dsmem.Context, region: dsmem.Region) -> None:
    d = region.descriptor
    with ControlClient(d.address) as s:
        _proved(s)
        for number, generation in [
            (d.region, d.generation ^ 1),
            (d.region + 1, d.generation),
            (2**64 - 1, 0),
            (2**63, 1),
        ]:
            name = struct.pack("<QQ", number, generation)
            for kind, question in ((ATTACH, name + attach_of(d)[16:]), (STATUS, name)):
                status, payload, fds = s.ask(kind, question)
                assert (status, payload, fds) == (errors.StaleDescriptorError.code, b"", [])
        status, payload, fds = s.ask(ATTACH, attach_of(d))
        assert status == 0 and struct.unpack_from("<Q", payload)[0] == d.nbytes
        for fd in fds:
            os.close(fd)
        assert s.ask(STATUS, name_of(d))[0] == 0
        for fabric in (0, 9, 2**32 - 1):
            status, payload, fds = s.ask(ATTACH, name_of(d) + struct.pack("<I", fabric))
            assert (status, payload, fds) == (errors.UnsupportedError.code, b"", [])
            assert s.ask(ENDPOINT, struct.pack("<I", fabric) + bytes(32))[:2] == (errors.UnsupportedError.code, b"")
        assert s.ask(STATUS, name_of(d))[0] == 0


def test_fenced_between_hello_and_proof(owner: dsmem.Context) -> None:
    with ControlClient(owner.agent_address) as s:
        assert s.hello() == 0
        try:
            owner.fence(s.node)
        except errors.UnsupportedError:
            assert "shm" in owner.fabric
        assert s.prove(SECRET) == errors.FencedError.code
        assert s.ended()
    with ControlClient(owner.agent_address, s.node) as s:
        assert s.hello() == errors.FencedError.code


def test_a_fence_cuts_open_connections(owner: dsmem.Context, region: dsmem.Region) -> None:
    with ControlClient(owner.agent_address) as s, ControlClient(owner.agent_address) as other:
        _proved(s)
        _proved(other)
        try:
            owner.fence(s.node)
        except errors.UnsupportedError:
            assert "shm" in owner.fabric
        assert s.ended()
        assert other.ask(STATUS, name_of(region.descriptor))[0] == 0


FORGED: dict[str, tuple[dict[str, int | bytes], type[errors.DsmemError]]] = {
    "version": ({"version": 4}, errors.VersionError),
    "version of a part": ({"version": 3}, errors.DescriptorError),
    "region": ({"region": 1}, errors.StaleDescriptorError),
    "remote region": ({"region": 2**64 - 1}, errors.StaleDescriptorError),
    "generation": ({"generation": 1}, errors.StaleDescriptorError),
    "no generation": ({"generation": 0}, errors.DescriptorError),
    "no length": ({"nbytes": 0}, errors.DescriptorError),
    "no rights": ({"access": 0}, errors.DescriptorError),
    "unknown rights": ({"access": 8}, errors.DescriptorError),
    "unknown fabric": ({"fabric": 9}, errors.InvalidArgumentError),
    "unknown kind": ({"kind": 2}, errors.DescriptorError),
    "another node": ({"node": bytes(16)}, errors.StaleDescriptorError),
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_descriptors(peer: dsmem.Context, region: dsmem.Region, what: str) -> None:
    fields, error = FORGED[what]
    with pytest.raises(error):
        peer.attach(forge(region.descriptor, **fields))


def test_a_descriptor_grants_nothing(owner: dsmem.Context, peer: dsmem.Context) -> None:
    """Rights and length are those that the owner grants, not those in the descriptor."""
    with owner.allocate(64, "r") as region:
        forged = forge(region.descriptor, access=7, nbytes=1 << 40)
        with peer.attach(forged) as remote:
            assert (remote.access, remote.nbytes) == ("r", 64)
            with pytest.raises(errors.AccessDeniedError):
                remote.write(0, b"x")
            with pytest.raises(errors.OutOfBoundsError):
                remote.read(64, bytearray(1))
            remote.read(0, bytearray(64))


def test_a_descriptor_of_another_fabric(peer: dsmem.Context, region: dsmem.Region) -> None:
    ours = {each.fabric.removeprefix("fault+") for each in peer.fabrics}
    known = ((2, "verbs"), (1, "shm"), (3, "tcp"))
    other = next((number for number, name in known if name not in ours), 100)  # if all: one of a later release
    with pytest.raises(errors.InvalidArgumentError):
        peer.attach(forge(region.descriptor, fabric=other))


def test_no_owner_at_the_address(fabric: str, peer: dsmem.Context) -> None:
    with open_context(fabric) as owner, owner.allocate(8) as region:
        descriptor = region.descriptor
    with pytest.raises(errors.PeerDeadError):
        peer.attach(descriptor)


@pytest.mark.parametrize(
    "address", ["", "unix:", "http://localhost", "tcp:", "tcp:1.2.3.4:x", "tcp:[::1", "tcp:host:1"]
)
def test_addresses_that_are_none(peer: dsmem.Context, region: dsmem.Region, address: str) -> None:
    with pytest.raises((errors.DescriptorError, errors.InvalidArgumentError, errors.PeerDeadError)):
        peer.attach(forge(region.descriptor, address=address))
