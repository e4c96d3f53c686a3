"""Damage of pages: what a check finds, what is repaired from another copy, and what the commands say of stores."""

import asyncio
import json
import struct
import threading

import pytest
import store_nodes
from click.testing import CliRunner
from paging import SIZE, number_of, page
from store_nodes import SECRET, client, made, where

import dsmem
from dsmem import errors
from dsmem.cli import main

nodes, cluster = store_nodes.nodes, store_nodes.cluster

HEADER = 64


def remotes(store):
    return [store._memory.remote, *(each.remote for each in store._backups)]


def word(remote, offset):
    raw = bytearray(8)
    remote.read(offset, raw)
    return struct.unpack("<Q", raw)[0]


def head_offset(store, pid):
    """Where the head of a page is (docs/protocols/pages.md)."""
    members, pages = store._shape["members"], store._shape["pages"]
    chunks = -(-pages // 64) + members
    after = 192 + 16 * members + 8 * chunks
    return -(-after // 64) * 64 + 8 * (pid & ((1 << 40) - 1))


def damage(store, pid, copies, at):
    """Change a byte of the page's frame: of its header, or of the page behind that."""
    for copy in copies:
        remote = remotes(store)[copy]
        frame = word(remotes(store)[0], head_offset(store, pid)) & 0xFFFFFF
        place = word(remote, 80) + frame * (HEADER + SIZE) + at
        raw = bytearray(1)
        remote.read(place, raw)
        remote.write(place, bytes([raw[0] ^ 1]))


PLACES = {"header": 9, "page": HEADER + 100}


# ---- a check ----


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_a_store_that_is_whole(cluster, replicas):
    calls = []
    with made(cluster, replicas) as store:
        ids = store.allocate_many(70).tolist()
        store.write_many(ids[:40], page(1) * 40)
        store.free(ids[3])
        found = store.check(progress=lambda *each: calls.append(each))
        assert found == {"pages": 100, "changing": 0, "repaired": 0, "wrong": {}}
        assert calls == [(64, 100), (100, 100)]
        store.unlink()


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("copies", [[0], [1], [0, 1]])
def test_damage_is_found_and_repaired_from_a_copy_that_is_whole(cluster, copies, at):
    with made(cluster, 3) as store:
        pid, other = store.allocate_many(2).tolist()
        version = store.write(pid, page(7))
        store.write(other, page(8))
        damage(store, pid, copies, PLACES[at])
        text = f"a damaged frame at cop{'ies' if len(copies) > 1 else 'y'} {', '.join(map(str, copies))}"
        assert store.check()["wrong"] == {pid: text}
        found = store.check(repair=True)
        assert (found["repaired"], found["wrong"]) == (1, {})
        assert store.check()["wrong"] == {}
        assert number_of(store.read(pid)) == 7 and store.version(pid) == version + 1
        assert number_of(store.read(other)) == 8
        store.unlink()


WHY = {1: "it has no other copy", 2: "no copy of it is whole"}


@pytest.mark.parametrize("replicas", WHY)
def test_damage_at_all_copies_is_said_and_no_data_returned(cluster, replicas):
    with made(cluster, replicas) as store:
        pid = store.allocate()
        store.write(pid, page(7))
        damage(store, pid, range(replicas), PLACES["page"])
        found = store.check(repair=True)
        assert found["repaired"] == 0 and list(found["wrong"]) == [pid]
        assert found["wrong"][pid].endswith(f"; not repaired: {WHY[replicas]}")
        with pytest.raises(errors.CorruptError, match="page"):
            store.read(pid)
        assert store.write(pid, page(9)) and number_of(store.read(pid)) == 9  # what replaces it is whole
        assert store.check()["wrong"] == {}
        store.unlink()


def test_heads_that_differ(cluster):
    with made(cluster, 2) as store:
        pid = store.allocate()
        store.write(pid, page(7))
        offset = head_offset(store, pid)
        before = word(remotes(store)[1], offset)
        remotes(store)[1].compare_swap(offset, before, before + (1 << 24))
        found = store.check(repair=True)
        assert found["wrong"] == {pid: "another head at copy 1 than at copy 0; not repaired: its heads differ"}
        store.unlink()


@pytest.mark.parametrize("place", ["here", "served"])
def test_a_check_beside_writers_finds_nothing(cluster, cluster_name, nodes, here, place):
    home = here if place == "here" else cluster
    properties = {} if place == "served" else {"page_size": SIZE, "capacity": 100 * SIZE, "create": True}
    with made(cluster, 2) if place == "served" else home.store("s", **properties) as store:
        ids = store.allocate_many(8).tolist()
        end = threading.Event()

        def write():
            with dsmem.attach(store.ref, store._memory.remote.context) as own:
                for number in range(10**9):
                    own.write_many(ids, page(number) * 8)
                    if end.is_set():
                        break

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(30):
                assert store.check()["wrong"] == {}
        finally:
            end.set()
            thread.join()
        store.unlink()


# ---- calls that meet damage ----

CALLS = {
    "read": lambda s, p: s.read(p),
    "read_async": lambda s, p: asyncio.run(s.read_async(p)),
    "read_many": lambda s, p: s.read_many([p])[0],
    "read_many_async": lambda s, p: asyncio.run(s.read_many_async([p]))[0],
}


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("call", CALLS)
def test_a_read_that_meets_damage_repairs_it(cluster, cluster_name, nodes, caplog, call, at):
    with made(cluster, 2) as store:
        pid = store.allocate()
        store.write(pid, page(7))
        with client(where(nodes, cluster_name)) as (second, _), second.store("s") as reader:
            damage(store, pid, [0], PLACES[at])
            assert number_of(CALLS[call](reader, pid)) == 7
            assert reader.stat()["repaired"] == 1
            assert "has been repaired from another" in caplog.text
            assert reader.check()["wrong"] == {}
            assert number_of(CALLS[call](reader, pid)) == 7 and reader.stat()["repaired"] == 1
        store.unlink()


def test_a_write_that_meets_damage(cluster, cluster_name, nodes):
    """It replaces the page, whose header it has to read first."""
    with made(cluster, 2) as store:
        pid = store.allocate()
        store.write(pid, page(7))
        with client(where(nodes, cluster_name)) as (second, _), second.store("s") as writer:
            damage(store, pid, [0], PLACES["header"])
            writer.write(pid, page(8))
            assert number_of(writer.read(pid)) == 8 and writer.check()["wrong"] == {}
        store.unlink()


@pytest.mark.parametrize("argument", [{"repair": 3}, {"progress": 3}])
def test_bad_arguments(cluster, argument):
    with made(cluster, 1) as store, pytest.raises(errors.ArgumentTypeError):
        store.check(**argument)
    cluster.unlink("s")


# ---- commands ----


def run(*arguments, status=0):
    done = CliRunner(env={"DSMEM_SECRET": SECRET.decode()}).invoke(main, [*arguments])
    assert done.exit_code == status, done.output
    return done.output


def test_commands_of_stores_at_nodes(cluster, cluster_name, nodes):
    at = where(nodes, cluster_name)
    with made(cluster, 2) as store:
        pid = store.allocate()
        store.write(pid, page(7))
        (row,) = json.loads(run("store", "ls", "-c", at, "--json"))
        assert (row["name"], row["pages"], row["free"], row["replicas"]) == ("s", 100, 99, 2)
        assert json.loads(run("store", "stat", "s", "-c", at, "--json"))["free"] == 99
        assert run("store", "check", "s", "-c", at) == "100 pages, 0 wrong, 0 repaired\n"
        damage(store, pid, [1], PLACES["page"])
        assert "a damaged frame at copy 1" in run("store", "check", "s", "-c", at, status=1)
        assert f"\npage {pid}: a damaged frame at copy 1\n" in run("store", "check", "s", "-c", at, status=1)
        assert run("store", "check", "s", "-c", at, "--repair") == "100 pages, 0 wrong, 1 repaired\n"
        assert json.loads(run("store", "check", "s", "-c", at, "--json"))["wrong"] == {}
    run("store", "drop", "s", "-c", at)
    assert cluster.list() == []


@pytest.mark.parametrize("at", PLACES)
def test_a_check_names_a_page_as_its_user_does_and_why_it_is_not_repaired(here, cluster_name, at):
    """A header that is damaged does not say the id."""
    with here.store("s", page_size=SIZE, capacity=10 * SIZE, create=True) as store:
        pid = store.allocate_many(2).tolist()[1]
        store.write(pid, page(7))
        damage(store, pid, [0], PLACES[at])
        known = f"page {pid}" if at == "page" else f"page number {pid & ((1 << 40) - 1)}, whose id is not known"
        text = f"\n{known}: a damaged frame at copy 0"
        assert f"{text}\n" in run("store", "check", "s", "-c", cluster_name, status=1)
        repaired = run("store", "check", "s", "-c", cluster_name, "--repair", status=1)
        assert f"{text}; not repaired: it has no other copy\n" in repaired
    here.unlink("s")


def test_a_page_that_is_empty_or_free_in_a_check(cluster):
    with made(cluster, 2) as store:
        empty, free = store.allocate_many(2).tolist()
        store.free(free)
        for pid in (empty, free):
            offset = head_offset(store, pid)
            before = word(remotes(store)[1], offset)
            remotes(store)[1].compare_swap(offset, before, before + (1 << 24))
        assert sorted(store.check()["wrong"]) == [free & ((1 << 40) - 1), empty]
        store.unlink()


def test_copies_of_a_store_of_extents(cluster, cluster_name, nodes):
    """As many as each page has."""
    at = where(nodes, cluster_name)
    with made(cluster, 2, extents=3):
        assert "copies     2/2\n" in run("store", "stat", "s", "-c", at)
    run("store", "drop", "s", "-c", at)


def test_commands_of_stores_of_this_host(here, cluster_name):
    cluster = ("-c", cluster_name)
    here.lock("l", create=True).close()
    here.store("s", page_size=SIZE, capacity=10 * SIZE, create=True).close()
    listed = run("store", "ls", *cluster)
    assert "page size" in listed and "256" in listed and " l " not in listed
    assert "pages      10\nfree       10\n" in run("store", "stat", "s", *cluster)
    shown = run("top", "-n", "2", "-i", "0.1", *cluster)
    assert shown.count("page size") == 2 and cluster_name in shown
    assert "'dsmem rm' removes it" in run("store", "drop", "l", *cluster, status=1)
    assert "no object has this name" in run("store", "stat", "t", *cluster, status=1)
    run("store", "drop", "s", *cluster)
    assert "no stores" in run("store", "ls", *cluster)
    here.unlink("l")
