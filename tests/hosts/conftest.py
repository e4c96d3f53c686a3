"""Contexts of two hosts, and the link between them."""

import contextlib
import subprocess

import pytest
from accounts import SECONDS
from namespaces import NFT
from network import ALIVE_TIMEOUT, FABRICS, PORT, networks, programs
from other import SECRET, There

import dsmem


@pytest.fixture(scope="session")
def network():
    yield from networks()


@pytest.fixture(scope="session")
def program(network):
    with programs(network, PORT, FABRICS[0]) as program:
        yield program


@pytest.fixture
def there(program):
    with There(program.address) as there:
        yield there


@pytest.fixture(params=FABRICS)
def between(request):
    """The fabric between the hosts."""
    return request.param


@pytest.fixture
def owner(there, network, between):
    """A context of the other host, by proxy."""
    with there.run("scenes:context", between, network.theirs, SECRET, peer_timeout=ALIVE_TIMEOUT) as owner:
        yield owner


@pytest.fixture
def peer(network, between):
    with dsmem.Context(between, listen=network.ours, secret=SECRET, peer_timeout=ALIVE_TIMEOUT) as context:
        yield context


@pytest.fixture
def region(owner):
    with owner.allocate(8192) as region:
        yield region


@pytest.fixture
def remote(peer, region):
    with peer.attach(region.descriptor, timeout=SECONDS) as remote:
        yield remote


@pytest.fixture
def queueing(network):
    """Gives our device a discipline, such as netem, which loses or delays what we send; where the kernel has it."""

    def tc(*words):
        command = ["tc", "qdisc", "replace", "dev", network.our_device, "root", *words]
        subprocess.run(command, check=True, capture_output=True)

    try:
        tc("netem", "delay", "1ms")
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("this kernel has no netem")
    yield tc
    with contextlib.suppress(subprocess.CalledProcessError):
        tc("pfifo")


@pytest.fixture
def filtering(network):
    """Has the packets of the link filtered, but for those of the tests: Host.filter; filtering() ends that."""
    if not hasattr(network, "filter"):
        pytest.skip("packets are filtered between namespaces; SoftRoCE gets through a loss of some too slowly")
    if not NFT:
        pytest.skip("needs nft, of the package nftables")

    def filter_(ours="", theirs=""):
        network.filter(ours, theirs, f"{PORT}-{PORT + 2}")

    yield filter_
    network.packets.clear()
