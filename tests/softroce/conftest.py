"""What the tests on verbs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from peer import Peer
from processes import FABRIC, SECRET

import dsmem


@pytest.fixture(scope="session")
def peer() -> Iterator[Peer]:
    """The independent peer, on the device that dsmem chooses."""
    with dsmem.Context(FABRIC, secret=SECRET) as context:
        k = context.capabilities
    peer = Peer(k.device, k.port, k.gid_index)
    with peer.process:
        yield peer
        assert peer.process.stdin
        peer.process.stdin.close()


@pytest.fixture
def owner() -> Iterator[dsmem.Context]:
    with dsmem.Context(FABRIC, secret=SECRET, listen="127.0.0.1") as context:
        yield context


@pytest.fixture
def caller() -> Iterator[dsmem.Context]:
    with dsmem.Context(FABRIC, secret=SECRET, listen="127.0.0.1") as context:
        yield context
