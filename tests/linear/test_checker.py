"""The checker of histories: it accepts what can be put in order and refuses what cannot."""

import pytest
from checker import Op, is_linearisable, lane, lock, register, word


def put(begin, end, value):
    return Op(begin, end, "put", (value,))


def get(begin, end, value=None):
    return Op(begin, end, "get", (), value)


def add(begin, end, before=None):
    return Op(begin, end, "add", (1,), before)


def swap(begin, end, expected, desired, before):
    return Op(begin, end, "swap", (expected, desired), before)


def read(begin, end, value):
    return Op(begin, end, "read", (), value)


def write(begin, end, value):
    return Op(begin, end, "write", (value,))


def acquire(begin, end, party, token=None):
    return Op(begin, end, "acquire", (party,), token)


def release(begin, end, party):
    return Op(begin, end, "release", (party,))


def death(begin, end, party):
    return Op(begin, end, "death", (party,))


@pytest.mark.parametrize(
    ("history", "fits"),
    [
        ([put(0, 1, "a"), put(2, 3, "b"), get(4, 5, "a"), get(6, 7, "b")], True),
        ([put(0, 9, "a"), get(1, 2), get(3, 4, "a")], True),
        ([put(0, 1, "a"), put(2, 3, "b"), get(4, 7, "b"), get(5, 6, "a")], True),
        ([put(0, None, "a"), get(5, 6)], True),
        ([put(0, None, "a"), get(5, 6), get(7, 8, "a")], True),
        ([put(0, 1, "a"), get(2, None), get(5, 6)], True),
        ([put(0, 1, "a"), get(2, None), get(5, 6, "a")], True),
        ([put(0, 1, "a"), put(2, 3, "b"), get(4, 5, "b"), get(6, 7)], False),  # lost
        ([put(0, 1, "a"), get(2, 3, "a"), get(4, 5, "a")], False),  # doubled
        ([put(0, 1, "a"), get(2, 3), get(4, 5, "a")], False),  # stale
        ([put(0, 1, "a"), put(2, 3, "b"), get(4, 5, "b"), get(6, 7, "a")], False),  # overtaken
        ([get(0, 1, "a"), put(2, 3, "a")], False),  # before its time
        ([get(0, 1, "a"), put(2, None, "a")], False),
        ([put(0, None, "a"), get(1, 2, "a"), get(3, 4, "a")], False),  # a cut put, doubled
        ([put(0, 1, "a"), put(2, 3, "b"), get(4, None), get(5, 6)], False),  # a cut get that takes two
    ],
)
def test_lanes(history, fits):
    assert is_linearisable(history, lane, ()) is fits


@pytest.mark.parametrize(
    ("history", "fits"),
    [
        ([add(0, 5, 1), add(1, 6, 0), swap(7, 8, 2, 9, 2), add(9, 10, 9)], True),
        ([swap(0, 5, 0, 1, 0), swap(1, 6, 0, 2, 1)], True),
        ([add(0, None), add(1, 2, 0), add(3, 4, 2)], True),
        ([add(0, 5, 0), read(1, 2, 1), read(3, 4, 1)], True),
        ([add(0, 1, 0), read(2, 3, 0)], False),  # read too late
        ([add(0, 5, 0), read(1, 2, 1), read(3, 4, 0)], False),  # and back again
        ([add(0, 1, 0), add(2, 3, 0)], False),  # lost
        ([add(0, 1, 0), add(2, 3, 2)], False),  # doubled
        ([add(0, None), add(1, 2, 2)], False),  # doubled by one that was cut
        ([add(0, 1, 0), swap(2, 3, 0, 5, 0)], False),  # stale
        ([swap(0, 5, 0, 1, 0), swap(1, 6, 0, 2, 0)], False),  # both won
    ],
)
def test_words(history, fits):
    assert is_linearisable(history, word, 0) is fits


@pytest.mark.parametrize(
    ("history", "fits"),
    [
        ([write(0, 5, 1), read(1, 2, 0), read(3, 4, 1)], True),
        ([write(0, None, 1), read(1, 2, 0)], True),
        ([write(0, 1, 1), read(2, 3, 0)], False),  # stale
        ([write(0, 5, 1), read(1, 2, 1), read(3, 4, 0)], False),  # and back again
        ([write(0, 1, 1), write(2, 3, 2), read(4, 5, 1)], False),  # the older one
        ([write(0, 5, 1 << 32 | 1), read(1, 2, 1)], False),  # half of it
    ],
)
def test_registers(history, fits):
    assert is_linearisable(history, register, 0) is fits


@pytest.mark.parametrize(
    ("history", "fits"),
    [
        ([acquire(0, 1, 1, 1), acquire(2, 9, 2, 2), release(3, 4, 1)], True),
        ([acquire(0, 1, 1, 1), death(2, 3, 1), acquire(4, 5, 2, 2)], True),
        ([acquire(0, None, 1), death(2, 3, 1), acquire(4, 5, 2, 2)], True),
        ([acquire(0, None, 1), death(2, 3, 1), acquire(4, 5, 2, 1)], True),
        ([acquire(0, 1, 1, 1), acquire(2, 3, 2, 2), release(4, 5, 1)], False),  # two holders
        ([acquire(0, 1, 1, 1), release(2, 3, 1), acquire(4, 5, 2, 1)], False),  # the same token twice
        ([acquire(0, 1, 1, 1), acquire(2, 3, 2, 2), death(4, 5, 1)], False),  # taken from the living
    ],
)
def test_locks(history, fits):
    assert is_linearisable(history, lock, (None, 0)) is fits
