"""Turns of writers that are broken by choice."""

import contextlib

import numpy as np
import pytest

import dsmem
from dsmem import errors

SECRET = b"the secret of broken turns"


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


@pytest.mark.parametrize("fault", ["fail", "failafter"])
def test_a_version_is_restored_though_an_op_fails(fault_place, fault):
    """Once, whichever it is: what only reads and writes is repeated, and of a swap the outcome is found out."""

    def restore(owner, plan):
        with (
            dsmem.connect("restored", context=owner) as cluster,
            cluster.segment("it", 4, "i8", create=True, versioned=True) as made,
            dsmem.Context(f"{fault_place}://{plan}", secret=SECRET) as user,
            contextlib.closing(dsmem.attach(made.ref, user)) as s,
        ):
            made.publish([1, 2, 3, 4])
            with pytest.raises(errors.NotHeldError), made.writing() as array:
                array[:] = -1
                s.read()
                before = user.stats["posts"]
                assert s.break_(s.writer())
                after = user.stats["posts"]
            assert made.read().tolist() == made.snapshot()[1].tolist() == [1, 2, 3, 4]
            made.unlink()
        return before, after

    with dsmem.Context(fault_place, secret=SECRET) as owner:
        before, after = restore(owner, "")
        assert after - before > 5
        for n in range(before + 1, after + 1):
            restore(owner, f"?{fault}={n}")
