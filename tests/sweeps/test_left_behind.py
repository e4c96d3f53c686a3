"""What a user of far memory leaves behind when it is gone for good, and how the others go on."""

import pytest
from remote_faults import Place, persistently

import dsmem
from dsmem import errors


@pytest.fixture(scope="module")
def place():
    with Place("fault+shm") as made:
        yield made


def gone_at(place, owner, n, call):
    """A caller whose ops from n on do not arrive, as of one that was killed; it lives again later."""
    context = place.caller(f"fail={n}-{n + 60}")
    obj = dsmem.attach(owner.ref, context)
    with pytest.raises(errors.TransportError):
        call(obj)
    return context, obj


def ops_of(place, owner, call):
    with place.caller() as context, dsmem.attach(owner.ref, context) as obj:
        first = context.stats["posts"]
        call(obj)
        return first + 1, context.stats["posts"]


def test_a_writer_of_a_segment_that_is_gone(place):
    """Others time out, and are told who it is; then they take its turn from it."""
    with place.cluster.segment("left", 8, "i8", create=True, versioned=True) as owner:
        first, last = ops_of(place, owner, lambda s: s.publish(1))
        taken = 0
        for n in range(first, last + 1):
            before, _ = owner.snapshot(timeout=5)
            context, obj = gone_at(place, owner, n, lambda s: s.publish(7))
            writer = owner.writer()
            if writer is not None:
                taken += 1
                with pytest.raises(errors.TimeoutError, match=f"{writer:016x}"):
                    owner.publish(2, timeout=0.01)
                assert not owner.break_(writer - 1) and owner.break_(writer) and not owner.break_(writer)
            version, copy = owner.snapshot(timeout=5)
            assert (version, copy[0]) in ((before, copy[0]), (before + 1, 7))
            assert owner.publish(2, timeout=5) == version + 1
            persistently(obj.close)
            context.close()
            assert owner.publish(2, timeout=5) == version + 2
        assert taken > 3
    place.cluster.unlink("left")
