"""What a page says of a change whose outcome is unknown: _core.Store._outcome(), docs/protocols/pages.md.

Each change here was made, or not; then what a client would know of it is put to the page, as it is now.
"""

from dataclasses import replace

import pytest
from doubts import FREE, NUMBERS, Doubt, head_of, last, made
from paging import SIZE, page

from dsmem import _core

UNKNOWN, DONE, NOT_DONE = 0, _core.STORE_DONE, _core.STORE_NOT_DONE


@pytest.fixture
def store(cluster):
    with cluster.store("doubts", create=True, page_size=SIZE, capacity=100 * SIZE, members=4) as made:
        yield made


def said(store, *doubts):
    return _core.Store._outcome(store, b"".join(each.packed() for each in doubts))[0]


def other_frame(change):
    """The same change, with another frame that the client would have taken."""
    head = change.head ^ 63
    return replace(change, head=head, header=change.header[:24] + bytes(40))


def test_a_change_that_is_the_last_one(store):
    pid = store.allocate()
    assert said(store) == UNKNOWN
    version = store.write(pid, page(1))
    change = last(store, pid)
    assert _core.Store._outcome(store, change.packed()) == (DONE, version)
    assert said(store, other_frame(change)) == NOT_DONE


def test_a_change_that_was_not_made(store):
    pid = store.allocate()
    never = Doubt(pid, made(0, store.version(pid) + 1), store.version(pid) + 1, b"x" * 64)
    assert said(store, never) == NOT_DONE
    store.write(pid, page(1))
    store.write(pid, page(2))
    assert said(store, replace(never, version=store.version(pid) + 1)) == NOT_DONE
    assert said(store, Doubt(pid, made(0, store.version(pid) + 1, FREE), store.version(pid) + 1)) == NOT_DONE


def test_the_same_head_of_another_client(store):
    """In the same frame, which it has used again: the header says whose it is."""
    pid = store.allocate()
    store.write(pid, page(1))
    change = last(store, pid)
    another = replace(change, header=change.header[:24] + bytes(40))
    assert said(store, another) == NOT_DONE
    store.write(pid, page(2))
    assert said(store, change) == DONE
    assert said(store, another) == UNKNOWN, "the frame has been used for another page, or was the other client's"


@pytest.mark.parametrize("later", [1, 2, 5])
def test_changes_that_others_have_replaced(store, other, later):
    """By turns, so that no client has replaced its own page and uses the frame again."""
    pid = store.allocate()
    store.write(pid, page(1))
    change = last(store, pid)
    with other(store) as same:
        for number in range(later):
            (store if number % 2 else same).write(pid, page(number))
        assert said(store, change) == said(same, change) == DONE
        assert said(store, other_frame(change)) == NOT_DONE


def test_frames_on_the_way_that_were_used_again(store):
    pid = store.allocate()
    store.write(pid, page(1))
    change = last(store, pid)
    for number in range(200):
        store.write(pid, page(number))
    assert said(store, change) == UNKNOWN


def test_a_page_that_was_freed(store):
    pid = store.allocate()
    store.write(pid, page(1))
    written = last(store, pid)
    store.free(pid)
    end = head_of(store, pid)
    freed = Doubt(pid, end, end >> 24 & 0xFFFFFFF)
    assert said(store, freed) == UNKNOWN, "perhaps by another client"
    assert said(store, replace(freed, head=end + (1 << 24), version=freed.version + 1)) == NOT_DONE
    assert said(store, written) == UNKNOWN
    assert said(store, replace(written, head=made(0, freed.version), version=freed.version)) == NOT_DONE


def test_a_page_that_has_another_life(store):
    pid = store.allocate()
    store.write(pid, page(1))
    written = last(store, pid)
    store.free(pid)
    end = head_of(store, pid)
    freed = Doubt(pid, end, end >> 24 & 0xFFFFFFF)
    others = store.allocate_many(100).tolist()
    assert next(each for each in others if each & NUMBERS == pid & NUMBERS) != pid
    assert said(store, freed) == UNKNOWN
    assert said(store, replace(freed, head=end - (1 << 24), version=freed.version - 1)) == NOT_DONE
    assert said(store, written) == UNKNOWN
    for each in others:
        store.write(each, page(2))
    assert said(store, freed) == said(store, written) == UNKNOWN


def test_an_empty_page_has_had_no_change(store):
    pid = store.allocate()
    version = store.version(pid)
    assert said(store, Doubt(pid, made(0, version), version, bytes(64))) == NOT_DONE


def test_changes_that_were_made_together(store):
    """All or none, so one page that knows is enough."""
    gone, pid = store.allocate(), store.allocate()
    store.write(gone, page(1))
    store.write(pid, page(1))
    lost, change = last(store, gone), last(store, pid)
    store.free(gone)
    assert said(store, lost) == UNKNOWN
    assert said(store, lost, change) == said(store, change, lost) == DONE
    assert said(store, lost, other_frame(change)) == NOT_DONE
