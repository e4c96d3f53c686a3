"""Chunks of frames that clients had open when they died, while others want frames and no newcomer takes a slot."""

import multiprocessing
import os
import signal

import pytest
import store_nodes
from paging import SIZE, number_of, page
from store_nodes import FABRIC, SECONDS, at_nodes, client, made

nodes = store_nodes.nodes
processes = multiprocessing.get_context("forkserver")
PAGES = 100  # all of the store
MEMBERS = 4
DYING = MEMBERS - 1


def commit(address, plan, pids, pipe):
    """A client with a transaction of all pages, for which it needs more than one chunk. It gives back nothing."""
    with client(address, f"fault+{FABRIC}://?{plan}") as (cluster, own):
        store = cluster.store("s")
        first = own.stats["posts"] + 1
        store.run(lambda tx: [tx.write(pid, page(1)) for pid in pids])
        pipe.send((first, own.stats["posts"]))
        os._exit(0)


def die(address, pids, plan=""):
    ours, theirs = processes.Pipe()
    process = processes.Process(target=commit, args=(address, plan, pids, theirs))
    process.start()
    theirs.close()
    process.join(SECONDS)
    assert process.exitcode == (-signal.SIGKILL if plan else 0)
    return None if plan else ours.recv()


@pytest.mark.parametrize(("replicas", "extents"), [(1, 1), (2, 2)])
def test_frames_of_a_living_client_are_its_own(nodes, replicas, extents):
    """It has chunks open, too, while those of dead ones are taken."""
    with at_nodes(nodes) as address, client(address) as (cluster, _), client(address) as (other, _):
        with made(cluster, replicas, extents=extents, members=MEMBERS + 1) as store, other.store("s") as living:
            pids = store.allocate_many(PAGES).tolist()
            store.write_many(pids, page(0) * PAGES)
            living.write_many(pids[:3], page(0) * 3)
            first, last = die(address, pids)
            for _ in range(DYING - 1):
                die(address, pids, f"kill={(first + last) // 2}")
            for number in range(1, 4):
                store.run(lambda tx, number=number: [tx.write(pid, page(number)) for pid in pids])
                living.write_many(pids[::2], page(number + 10) * (PAGES // 2))
                assert [number_of(raw) for raw in store.read_many(pids)] == [number + 10, number] * (PAGES // 2)
            assert store.check()["wrong"] == {}
        cluster.unlink("s")


@pytest.mark.parametrize(("replicas", "extents"), [(1, 1), (2, 1), (2, 2)])
def test_frames_of_dead_clients_are_found(nodes, replicas, extents):
    with at_nodes(nodes) as address, client(address) as (cluster, _):
        with made(cluster, replicas, extents=extents, members=MEMBERS) as store:
            pids = store.allocate_many(PAGES).tolist()
            store.write_many(pids, page(0) * PAGES)
            first, last = die(address, pids)
            for _ in range(DYING - 1):
                die(address, pids, f"kill={(first + last) // 2}")
            for number in (2, 3):
                store.run(lambda tx, number=number: [tx.write(pid, page(number)) for pid in pids])
                store.write_many(pids, page(number) * PAGES)
            assert bytes(store.read(pids[-1])) == page(3)
            assert store.check()["wrong"] == {}
        cluster.unlink("s")


def test_frames_of_dead_clients_are_found_before_all_chunks_are_looked_at(nodes):
    """All heads say that no frame is free, so to look for one in each chunk is in vain, 4 round trips each."""
    capacity = 6400
    with at_nodes(nodes) as address, client(address) as (cluster, own):
        with made(cluster, 1, members=MEMBERS, capacity=capacity * SIZE) as store:
            every = store.allocate_many(capacity)
            store.write_many(every, page(0) * capacity)
            pids = every[:PAGES].tolist()
            first, last = die(address, pids)
            for _ in range(DYING - 1):
                die(address, pids, f"kill={(first + 3 * last) // 4}")
            posts = []
            for number in range(1, 4):
                before = own.stats["posts"]
                store.run(lambda tx, number=number: [tx.write(pid, page(number)) for pid in pids])
                posts.append(own.stats["posts"] - before)
            assert max(posts[1:]) < capacity  # the first has taken one frame of each of many chunks; then there is none
            assert store.check()["wrong"] == {}
        cluster.unlink("s")
