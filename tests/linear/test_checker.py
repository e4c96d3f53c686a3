"""The checker of histories: it accepts what can be put in order and refuses what cannot."""

import pytest
from checker import (
    CONFLICT,
    MISSING,
    Op,
    Page,
    first_misfit,
    is_linearisable,
    lane,
    lock,
    next_life,
    page,
    register,
    word,
)


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


PID = 7 << 40 | 2
NEXT = 8 << 40 | 2
PAGE = Page(PID, True, 5, 50)


def page_read(begin, end, value, pid=PID):
    return Op(begin, end, "read", (pid,), value)


def version(begin, end, number, pid=PID):
    return Op(begin, end, "version", (pid,), number)


def page_write(begin, end, value, now=None, pid=PID):
    return Op(begin, end, "write", (pid, value), now)


def compare_write(begin, end, expected, value, now=None):
    return Op(begin, end, "compare_write", (PID, expected, value), now)


def free(begin, end, result=None, pid=PID):
    return Op(begin, end, "free", (pid,), result)


def allocate(begin, end, pid=None):
    return Op(begin, end, "allocate", (), pid)


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


@pytest.mark.parametrize(
    "history",
    [
        [page_write(0, 1, 60, 6), page_read(2, 3, 60), version(4, 5, 6)],
        [page_write(0, 9, 60, 7), page_write(1, 8, 70, 6), page_read(10, 11, 60)],
        [compare_write(0, 9, 5, 60, 6), compare_write(1, 8, 5, 70, CONFLICT), page_read(10, 11, 60)],
        [page_write(0, None, 60), page_read(1, 2, 50), page_write(3, 4, 70, 6), page_read(5, 6, 60)],
        [page_write(0, None, 60), page_write(3, 4, 70, 7), page_read(5, 6, 70)],
        [page_write(0, None, 60), version(1, 2, 5)],
        [compare_write(0, None, 5, 60), compare_write(1, 2, 5, 70, CONFLICT), page_read(3, 4, 60)],
        [compare_write(0, None, 6, 60), page_write(1, 2, 70, 6), page_read(3, 4, 60), version(5, 6, 7)],
        [free(0, 1), page_read(2, 3, MISSING), allocate(4, 5, NEXT), page_read(6, 7, 0, NEXT), version(8, 9, 7, NEXT)],
        [free(0, 1), allocate(2, None), page_write(3, 4, 60, 8, NEXT)],
        [free(0, None), page_write(1, 2, 60, MISSING), page_write(3, 4, 60, MISSING, NEXT)],
        [free(0, 9), page_write(1, 8, 60, 6), free(2, 7, MISSING), page_read(10, 11, MISSING)],
    ],
)
def test_pages(history):
    assert is_linearisable(history, page, PAGE) and first_misfit(history, page, PAGE) is None


@pytest.mark.parametrize(
    ("history", "misfit"),
    [
        ([page_write(0, 1, 60, 6), page_read(2, 3, 50), version(4, 5, 6)], 1),  # stale
        ([page_write(0, 9, 60, 6), page_read(1, 2, 60), page_read(3, 4, 50)], 2),  # and back again
        ([page_write(0, 1, 60, 6), page_write(2, 3, 70, 7), page_read(4, 5, 60)], 2),  # a lost update
        ([page_write(0, 9, 60, 6), page_write(1, 8, 70, 6)], 0),  # a version that is given twice
        ([page_write(0, 1, 60, 6), page_write(2, 3, 70, 8)], 1),  # and one that is left out
        ([page_write(0, 1, 60, 6), version(2, 3, 5)], 1),
        ([compare_write(0, 1, 5, 60, 6), compare_write(2, 3, 5, 70, 6)], 1),  # over a write that was between
        ([compare_write(0, 1, 5, 60, 6), compare_write(2, 3, 5, 70, 7)], 1),
        ([compare_write(0, 9, 5, 60, 6), compare_write(1, 8, 5, 70, 6), page_read(10, 11, 70)], 0),  # both won
        ([compare_write(0, 1, 5, 60, CONFLICT), page_read(2, 3, 50)], 0),  # refused for nothing
        ([compare_write(0, 1, 5, 60, CONFLICT), compare_write(0, 1, 5, 60, CONFLICT)], 0),
        ([compare_write(0, None, 4, 60), page_read(1, 2, 60)], 1),
        ([page_write(0, None, 60), page_read(1, 2, 60), page_read(3, 4, 50)], 2),  # undone
        ([page_write(0, None, 60), page_write(1, 2, 70, 8)], 1),  # it took effect twice
        ([page_read(0, 1, 60), page_write(2, None, 60)], 0),  # before its time
        ([free(0, 1), page_read(2, 3, 50)], 1),
        ([free(0, 1), page_write(2, 3, 60, 7)], 1),  # of a page of another life
        ([free(0, 1), free(2, 3)], 1),
        ([free(0, 1), allocate(2, 3, PID)], 1),  # an id that is given twice
        ([free(0, 1), allocate(2, 9, NEXT), allocate(3, 8, NEXT)], 1),
        ([free(0, 1), allocate(2, 3, NEXT), page_read(4, 5, 50, NEXT)], 2),  # what was there before
        ([free(0, 1), allocate(2, 3, NEXT), version(4, 5, 6, NEXT)], 2),
        ([allocate(0, 1, NEXT)], 0),
        ([page_read(0, 1, MISSING)], 0),
    ],
)
def test_wrong_pages(history, misfit):
    assert not is_linearisable(history, page, PAGE)
    found = first_misfit(history, page, PAGE)
    assert found == history[misfit], found


def test_the_next_life_of_a_page():
    assert next_life(PID) == NEXT
    assert next_life(0xFFFFFF << 40 | 2) == 1 << 40 | 2
