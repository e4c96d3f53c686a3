"""What a coordinator keeps on disk."""

from __future__ import annotations

import json
import os

import pytest

from dsmem import errors
from dsmem.membership.state import NO_LIMIT, Copy, Disk, Node, State, Store, decode, encode


def some():
    store = Store(7, "c", "db", 4096, 100, 8, 2, created=1.5, epoch=3, phase="open")
    store.copies = [Copy(1, 0, b"\x00\xff"), Copy(2, 1, b"x")]
    store.opened, store.stale, store.reads = list(store.copies), [(3, 0)], [(1, 0)]
    nodes = {1: Node(1, "tcp://h:1", "a"), 2: Node(2, "tcp://h:2", "b", 1 << 30)}
    return State(nodes, {7: store}, lease=0.5, folder=11, written=4)


def test_what_is_saved_is_loaded(tmp_path):
    disk = Disk(tmp_path / "new" / "folder")
    assert disk.load() == State()
    disk.save(some())
    disk.close()
    again = Disk(tmp_path / "new" / "folder")
    assert again.load() == some()
    again.close()


def test_a_state_of_the_release_before_is_read():
    """It had stores of one extent, and named their places by the node alone."""
    raw = json.loads(encode(some()))
    raw["version"] = 2
    (store,) = raw["stores"]
    store["stale"], store["fresh"], store["read"] = [3], 2, 1
    for each in ("reads", "extents"):
        del store[each]
    for copy in (*store["copies"], *store["opened"]):
        del copy["extent"]
    wanted = some()
    wanted.stores[7].fresh = (2, 0)
    assert decode(json.dumps(raw).encode()) == wanted
    store.update(fresh=0, read=0)
    wanted.stores[7].fresh, wanted.stores[7].reads = None, []
    assert decode(json.dumps(raw).encode()) == wanted


def test_a_state_that_says_nothing_of_memory_is_read():
    raw = json.loads(encode(some()))
    for node in raw["nodes"]:
        del node["memory"]
    assert [node.memory for node in decode(json.dumps(raw).encode()).nodes.values()] == [NO_LIMIT, NO_LIMIT]


def test_one_coordinator_has_a_folder(tmp_path):
    disk = Disk(tmp_path)
    with pytest.raises(errors.BusyError, match="another coordinator"):
        Disk(tmp_path)
    disk.close()
    disk.close()
    Disk(tmp_path).close()


def test_a_state_is_there_as_a_whole(tmp_path, monkeypatch):
    """A process that ends while it writes leaves the one before."""
    disk = Disk(tmp_path)
    disk.save(some())
    later = some()
    later.stores[7].epoch = 4

    def ends(file):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", ends)
    with pytest.raises(KeyboardInterrupt):
        disk.save(later)
    assert disk.load() == some()
    disk.close()


def changed(change):
    raw = json.loads(encode(some()))
    change(raw)
    return json.dumps(raw).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        encode(some())[:-40],
        changed(lambda raw: raw["stores"][0].pop("epoch") and raw["stores"][0].pop("id")),
        changed(lambda raw: raw["stores"][0].update(epoch="3")),
        changed(lambda raw: raw["stores"][0].update(phase="half")),
        changed(lambda raw: raw["stores"][0].update(more=1)),
        changed(lambda raw: raw["stores"][0]["copies"][0].update(descriptor="zz")),
        changed(lambda raw: raw["nodes"][0].update(address=3)),
        changed(lambda raw: raw["nodes"][0].update(memory="1GiB")),
        changed(lambda raw: raw.pop("written")),
        changed(lambda raw: raw["stores"][0].update(stale=[3])),
        changed(lambda raw: raw["stores"][0].update(fresh=["1", 0])),
    ],
)
def test_a_damaged_state_is_refused(raw):
    with pytest.raises(errors.CorruptError, match="damaged"):
        decode(raw)


def test_a_state_of_another_release_is_refused():
    with pytest.raises(errors.VersionError):
        decode(changed(lambda raw: raw.update(version=1)))
