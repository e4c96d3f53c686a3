"""Frames of a store: which of them a client takes that opens a chunk."""

import pytest
from doubts import NUMBERS, head_of, made, part, word
from paging import SIZE, number_of, page

VERSIONS = (1 << 28) - 1
LOCKED = 2049  # by a transaction of slot 0


@pytest.fixture
def store(cluster):
    with cluster.store("frames", create=True, page_size=SIZE, capacity=2 * SIZE, members=4) as made:
        yield made


def frames(store):
    """The page id and the version in each frame."""
    first, each = word(store, 80), 64 + SIZE
    raw = part(store, first, each * 64 * word(store, 88))
    numbers = (raw[at : at + 16] for at in range(0, len(raw), each))
    return [(int.from_bytes(one[:8], "little"), int.from_bytes(one[8:], "little")) for one in numbers]


def set_head(store, pid, head):
    members, chunks = store._shape["members"], word(store, 88)
    at = -(-(192 + 16 * members + 8 * chunks) // 64) * 64 + 8 * (pid & NUMBERS)
    store._memory.remote.write(at, head.to_bytes(8, "little"))


@pytest.mark.parametrize("behind", [0, 1])
def test_frames_of_a_page_that_is_locked(cluster, store, behind):
    """All frames have been its own once: those of the versions that may be behind the lock are left, no others."""
    pid, other = store.allocate(), store.allocate()
    with cluster.store("frames") as same:
        while any(each != pid for each, _ in frames(store)):
            for handle in (store, same):  # by turns, so that no client knows that a frame of its own is free
                handle.write(pid, page(1))
    version = store.write(pid, page(5))
    head = head_of(store, pid)
    set_head(store, pid, made(0, (version - behind) & VERSIONS, LOCKED, 7))
    store.close()
    with cluster.store("frames") as one, cluster.store("frames") as two:
        number = 0
        while any(each == pid and at not in (version - 1, version) for each, at in frames(one)):
            for handle in (one, two):
                handle.write(other, page(number := number + 1))
        set_head(one, pid, head)
        assert number_of(one.read(pid)) == 5 and number_of(two.read(other)) == number
