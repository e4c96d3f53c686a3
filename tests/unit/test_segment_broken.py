"""Turns of writers that are broken by choice."""

import numpy as np
import pytest

from dsmem import errors


def test_a_turn_that_cannot_be_broken(cluster, other):
    with (
        cluster.segment("u", 4, "i8", create=True) as plain,
        pytest.raises(errors.InvalidArgumentError, match="versioned"),
    ):
        plain.break_(1)
    with (
        cluster.segment("v", 4, "i8", create=True, versioned=True) as made,
        cluster.segment("v", readonly=True) as reader,
    ):
        with made.writing():
            with pytest.raises(errors.AccessDeniedError):
                reader.break_(made.writer())
            assert made.writer() is not None


def test_large_versions_are_restored(cluster, other):
    """In pieces, where the memory is remote; the last of them is shorter."""
    before = np.arange(300_001)
    with cluster.segment("large", before.shape, "i8", create=True, versioned=True) as made, other(made) as s:
        made.publish(before)
        with pytest.raises(errors.NotHeldError), made.writing() as array:
            array[:] = -1
            assert s.break_(s.writer())
        assert np.array_equal(s.read(), before) and np.array_equal(made.snapshot()[1], before)
        with pytest.raises(errors.NotHeldError), s.writing() as array:
            array[:] = -2
            assert made.break_(made.writer())
        assert np.array_equal(s.read(), before) and np.array_equal(made.snapshot()[1], before)
