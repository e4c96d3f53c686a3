"""How the sockets of tcp are set: when the kernel gives a connection up, and how fast it lets it send."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from namespaces import host  # noqa: F401  a fixture
from tcp_peer import tcp_sockets

import dsmem

SECRET = b"0bec7" * 12 + b"0b1e"
ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")  # also as the default of a network namespace


def context():
    return dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1", peer_timeout=60)


@contextlib.contextmanager
def another_connection():
    """A connection of this process that has nothing to do with dsmem, as another test may leave one for a moment."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        with server.accept()[0]:
            yield one


def test_a_slow_peer_is_not_cut_off():
    """Nothing but the op's own limit ends a transfer to a peer that does not read."""
    with context() as owner, context() as user, owner.allocate(8) as region, another_connection():
        with user.attach(region.descriptor) as remote:
            remote.fetch_add(0, 1)
            with tcp_sockets(owner.agent_address) as found:
                limits = [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for one in found]
            assert len(limits) == 4 and limits.count(0) == 2  # the ends of the stream, not those of the control stream


# ---- congestion control ----

USE = """
import pathlib, socket, sys
import dsmem
from tcp_peer import tcp_sockets

chosen = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control")
chosen.write_text(sys.argv[1])
options = {"secret": bytes.fromhex(sys.argv[2])}
ours, theirs = sys.argv[3:]
owner, user = dsmem.Context("tcp", listen=ours, **options), dsmem.Context("tcp", listen=theirs, **options)
region = owner.allocate(8)
remote = user.attach(region.descriptor)
remote.fetch_add(0, 1)
with tcp_sockets(owner.agent_address) as found:
    streams = [one for one in found if not one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)]
    names = [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(bytes(1)) for one in streams]
print(*(name.decode() for name in names))
"""


def may_choose(control):
    return ALLOWED.exists() and control in ALLOWED.read_text().split()


def controls_of_streams(host, control, ours, theirs):  # noqa: F811
    """Those of both ends of a stream, in a network namespace whose default is this one."""
    command = [*host.command, sys.executable, "-c", USE, control, SECRET.hex(), ours, theirs]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert not done.returncode, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("ours", "theirs"), [("127.0.0.1", "127.0.0.1"), ("127.0.0.2", "127.0.0.1"), ("[::1]", "[::1]")]
)
def test_loopback_is_not_paced(host, ours, theirs):  # noqa: F811
    """BBR would take a process that waits for a processor for a path that is slow."""
    if not may_choose("bbr"):
        pytest.skip("BBR may not be chosen here")
    assert controls_of_streams(host, "bbr", ours, theirs) == ["reno"] * 2


def test_other_controls_stay_as_the_host_has_chosen(host):  # noqa: F811
    assert controls_of_streams(host, "reno", "127.0.0.1", "127.0.0.1") == ["reno"] * 2
    if may_choose("cubic"):
        assert controls_of_streams(host, "cubic", "127.0.0.1", "127.0.0.1") == ["cubic"] * 2
