"""Reads of a word at a memory node, of contexts on tcp."""

import pytest

import dsmem
from dsmem import errors
from dsmem.membership.probe import Probe

SECRET = b"9e0be" * 12
SECONDS = 30


@pytest.fixture
def node():
    with dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1") as context:
        yield context


@pytest.fixture
def probe():
    with dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1", peer_timeout=2.0) as context:
        probe = Probe(context)
        yield probe
        probe.close()


def test_it_reads_the_region_that_it_is_given(node, probe):
    for _ in range(2):
        with node.register(bytearray(64), "rwa") as region:
            descriptor = bytes(region.descriptor)
            for _ in range(3):
                probe.read(descriptor, SECONDS)
            remote = probe._remote
        with pytest.raises(errors.StaleDescriptorError):
            probe.read(descriptor, SECONDS)
        assert probe._remote is None and remote.closed


def test_another_descriptor_is_another_region(node, probe):
    with node.register(bytearray(64), "rwa") as first, node.register(bytearray(64), "rwa") as second:
        probe.read(bytes(first.descriptor), SECONDS)
        first.close()
        probe.read(bytes(second.descriptor), SECONDS)


def test_a_node_that_ends_and_a_context_that_does(node, probe):
    region = node.register(bytearray(64), "rwa")
    descriptor = bytes(region.descriptor)
    probe.read(descriptor, SECONDS)
    region.close()
    node.close()
    with pytest.raises((errors.PeerDeadError, errors.StaleDescriptorError)):
        probe.read(descriptor, SECONDS)
    probe._context.close()
    with pytest.raises(errors.ClosedError):
        probe.read(descriptor, SECONDS)
