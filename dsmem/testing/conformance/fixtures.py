"""Fixtures of the suite."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

import dsmem

SECRET = b"c0f0" * 16  # a key, as dsmem generates them: stretching would take long in an emulated guest


def open_context(fabric: str) -> dsmem.Context:
    """Open a context with the suite's secret."""
    return dsmem.Context(fabric, secret=SECRET)


@pytest.fixture
def owner(fabric: str) -> Iterator[dsmem.Context]:
    """The context that owns the memory."""
    with open_context(fabric) as context:
        yield context


@pytest.fixture
def peer(fabric: str) -> Iterator[dsmem.Context]:
    """The context that uses the memory."""
    with open_context(fabric) as context:
        yield context


@pytest.fixture
def region(owner: dsmem.Context) -> Iterator[dsmem.Region]:
    """8 KiB with all rights."""
    with owner.allocate(8192) as region:
        yield region


@pytest.fixture
def remote(peer: dsmem.Context, region: dsmem.Region) -> Iterator[dsmem.Remote]:
    """The region, as attached by the peer."""
    with peer.attach(region.descriptor) as remote:
        yield remote


def some_bytes(n: int, seed: int = 1) -> NDArray[np.uint8]:
    """Return n pseudorandom bytes, the same for each seed."""
    return np.random.default_rng(seed).integers(0, 256, n, dtype=np.uint8)
