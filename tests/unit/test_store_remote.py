"""Stores of pages at a server: with processes of the server's host, by how many round trips, and when something ends.

What each call does and refuses: test_store.py. Each op that fails: tests/sweeps/test_remote_faults.py.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from functools import partial

import numpy as np
import pytest
from names_server import address, process_that_serves, running
from paging import SIZE, StruckError, handling, number_of, page
from tcp_relay import Relay

import dsmem
from dsmem import errors
from dsmem.names.server import NameServer

SECRET = b"5704e" * 12 + b"5704"
SECONDS = 60
spawn = multiprocessing.get_context("spawn")


def context(**options):
    return dsmem.Context("tcp", secret=SECRET, **{"listen": "127.0.0.1", "peer_timeout": SECONDS, **options})


def made(cluster, pages=100, members=8):
    return cluster.store("s", page_size=SIZE, capacity=pages * SIZE, members=members, create=True)


@contextlib.contextmanager
def serving(grace=None, **options):
    with context(**options) as at, running(NameServer(at, grace=grace)) as server:
        yield server


@contextlib.contextmanager
def client(where):
    """A cluster of its own, and the context of its ops."""
    with context() as own, dsmem.connect(where, context=own) as cluster:
        yield cluster, own


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def cluster(server, cluster_name):
    with client(address(server, cluster_name)) as (cluster, _):
        yield cluster


# -- one store, mapped by some and reached by ops by others --


def add(store, pid, rounds):
    for _ in range(rounds):
        while True:
            version = store.version(pid)
            try:
                store.compare_write(pid, version, page(number_of(store.read(pid)) + 1))
                break
            except errors.ConflictError:
                pass


def add_here(name, pid, rounds):
    with dsmem.connect(name) as cluster, cluster.store("s") as store:
        add(store, pid, rounds)


def test_a_process_of_the_host_changes_the_same_pages(cluster, cluster_name):
    """Each sees what the other has written, and no change of either is lost."""
    with made(cluster) as store:
        pid, rounds = store.allocate(), 100
        with dsmem.connect(cluster_name) as here, here.store("s") as mapped:
            assert mapped._memory.remote.is_mapped and not store._memory.remote.is_mapped
            for number in range(0, 300, 3):
                assert store.write(pid, page(number)) == mapped.version(pid)
                assert number_of(mapped.read(pid)) == number
                assert mapped.write(pid, page(number + 1)) == store.version(pid)
                assert number_of(store.read(pid)) == number + 1
            store.write(pid, page(0))
        other = spawn.Process(target=add_here, args=(cluster_name, pid, rounds))
        other.start()
        add(store, pid, rounds)
        other.join()
        assert other.exitcode == 0 and number_of(store.read(pid)) == 2 * rounds


def test_a_page_is_found_under_the_same_id_by_all(cluster, cluster_name):
    with made(cluster) as store, dsmem.connect(cluster_name) as here, here.store("s") as mapped:
        theirs, ours = mapped.allocate_many(40), store.allocate_many(40)
        assert not set(theirs.tolist()) & set(ours.tolist())
        mapped.write_many(theirs, np.repeat(np.arange(40, dtype="u8"), SIZE // 8))
        store.write_many(ours, np.repeat(np.arange(40, dtype="u8"), SIZE // 8))
        for reader in (mapped, store):
            for ids in (theirs, ours):
                assert [number_of(each.tobytes()) for each in reader.read_many(ids)] == list(range(40))
        store.free(theirs[0])
        with pytest.raises(errors.PageNotFoundError):
            mapped.read(theirs[0])
        assert store.stat() == mapped.stat()
        assert store.stat()["free"] == 21 and store.stat()["handles"] == 2


# -- round trips --


def trips(own, call):
    """How many postings a call makes, each of which waits for its answers."""
    before = own.stats["doorbells"]
    result = call()
    return own.stats["doorbells"] - before, result


def fewest(own, call):
    """Of some calls: a page that was seen seconds ago, on a host that is busy, is looked at again."""
    return min(trips(own, call)[0] for _ in range(20))


def test_round_trips(server, cluster_name):
    with client(address(server, cluster_name)) as (cluster, own), made(cluster) as store:
        count, pid = trips(own, store.allocate)
        assert count <= 2
        assert trips(own, store.allocate)[0] == 1  # the heads of 64 pages have been read
        store.write(pid, page(1))  # also opens a chunk
        version = store.write(pid, page(2))
        assert fewest(own, lambda: store.write(pid, page(2))) == 1
        versions = [store.version(pid)]
        replace = lambda: versions.append(store.compare_write(pid, versions[-1], page(3)))  # noqa: E731
        assert fewest(own, replace) == 1
        assert trips(own, lambda: store.read(pid))[0] == 1
        assert trips(own, lambda: store.version(pid))[0] == 1
        assert trips(own, lambda: store.metadata(pid))[0] == 1
        new = store.allocate()
        assert fewest(own, lambda: store.write(store.allocate(), page(4))) == 2
        with dsmem.connect(cluster_name) as here, here.store("s") as mapped:
            version = mapped.write(pid, page(5))
            assert trips(own, lambda: store.read(pid)) == (2, page(5))  # changed by another one
            assert trips(own, lambda: store.read(pid)) == (1, page(5))
            mapped.write(pid, page(6))
            assert trips(own, lambda: store.metadata(pid)) == (2, mapped.metadata(pid))
            mapped.write(pid, page(6))
            with pytest.raises(errors.ConflictError):
                store.compare_write(pid, version, page(7))
            store.write(new, page(8))
            mapped.write(new, page(9))
            assert trips(own, lambda: store.write(new, page(10)))[0] <= 3  # refused, proven, written
        assert trips(own, lambda: store.free(new))[0] <= 2


@pytest.mark.parametrize("size", [1024, 4096, 1 << 16, 1 << 17, 1 << 18])
def test_pages_of_all_sizes_beside_each_other(cluster, size):
    """Each lands where it belongs, by whichever way: with its header, with others, in parts."""
    n, words = 70, size // 8
    with cluster.store("large", page_size=size, capacity=n * size, members=1, create=True) as store:
        ids = store.allocate_many(n)
        pages = np.arange(n * words, dtype="u8").reshape(n, words)
        store.write_many(ids, pages)
        order = np.random.default_rng(3).permutation(n)
        out = np.zeros((n, words), "u8")
        store.read_many(ids[order], out)
        assert (out == pages[order]).all()
        assert (store.read_many(ids).view("u8").reshape(n, words) == pages).all()


def write_all(store, pids):
    for pid in pids:
        store.write(pid, page(2))


def test_round_trips_in_a_full_store(server, cluster_name):
    """Clients that did not fill it find frames that are free without looking through most of its chunks."""
    pages, random = 16000, np.random.default_rng(1)
    with client(address(server, cluster_name)) as (cluster, _), made(cluster, pages=pages) as store:
        ids = store.allocate_many(pages)
        store.write_many(ids, np.ones((pages, SIZE), "u1"))
        for _ in range(5):
            with client(address(server, cluster_name)) as (other, own), other.store("s") as fresh:
                assert trips(own, lambda: fresh.write(int(ids[0]), page(1)))[0] <= 40
                some = random.choice(ids, 300).tolist()
                count, _ = trips(own, partial(write_all, fresh, some))
                assert count <= 10 * len(some)
                store.free(int(ids[-1]))
                count, ids[-1] = trips(own, fresh.allocate)
                assert count <= 12


def test_round_trips_of_many_pages(server, cluster_name):
    """As many as one page takes, and those of the chunks that are opened."""
    with client(address(server, cluster_name)) as (cluster, own), made(cluster, pages=1000) as store:
        n = 64
        count, ids = trips(own, lambda: store.allocate_many(n))
        assert count <= 4
        data = np.repeat(np.arange(n, dtype="u8"), SIZE // 8)
        opening = 5
        for _ in range(4):
            assert trips(own, lambda: store.write_many(ids, data))[0] <= 1 + opening
        count, found = trips(own, lambda: store.read_many(ids))
        assert count == 1 and (found.view("u8").ravel() == data).all()
        with dsmem.connect(cluster_name) as here, here.store("s") as mapped:
            mapped.write_many(ids, data[::-1].copy())
            count, found = trips(own, lambda: store.read_many(ids))
            assert count == 2 and (found.view("u8").ravel() == data[::-1]).all()
        many = store.allocate_many(8 * n)
        store.write_many(many, np.zeros((8 * n, SIZE), "u1"))
        assert trips(own, lambda: store.read_many(many))[0] == 8


# -- ends --


@pytest.mark.parametrize(
    ("way", "nbytes"), [("up", 0), ("up", 1), ("up", 50), ("up", 300), ("down", 0), ("down", 1), ("down", 20)]
)
def test_a_connection_that_breaks_under_a_write(way, nbytes, cluster_name):
    """The page is replaced once, or the exception says that it was not."""
    with Relay() as relay, serving(listen=relay.listen, advertise=relay.advertise) as server:
        with client(address(server, cluster_name)) as (cluster, _), made(cluster) as store:
            pid = store.allocate()
            first = store.write(pid, page(1))
            relay.cut_after(way, nbytes)
            written: list[bool] = []
            try:
                assert store.write(pid, page(2)) == first + 1
                written = [True]
            except errors.OutcomeUnknownError:
                written = [False, True]
            except (errors.TransportError, errors.PeerDeadError):
                written = [False]
            assert relay.cuts == 1
            now = store.version(pid) == first + 1
            assert now in written and number_of(store.read(pid)) == (2 if now else 1)
            assert store.version(pid) <= first + 1
            assert store.write(pid, page(3)) == first + 1 + now


def use_until_killed(where, pids, ready):
    """Write whole pages, allocate and free."""
    with client(where) as (cluster, _):
        store = cluster.store("s")
        ready.set()
        number = 0
        while True:
            number += 1
            store.write_many(pids, np.repeat(np.full(len(pids), number, "u8"), SIZE // 8))
            store.free(store.allocate())


def eventually(call, *passing):
    """Until it does not raise one of these: the server notices some time that a client is gone."""
    for _ in range(SECONDS * 100):
        with contextlib.suppress(*passing):
            return call()
        time.sleep(0.01)
    raise AssertionError("for too long")


def test_clients_that_are_killed(cluster_name):
    """Pages stay whole and writable, and others get the place and the frames of the dead behind the fence."""
    with serving(grace=0.0) as server:
        where = address(server, cluster_name)
        with client(where) as (cluster, _), made(cluster, members=2) as store:
            pids = store.allocate_many(8)
            for _ in range(3):
                ready = spawn.Event()
                process = spawn.Process(target=use_until_killed, args=(where, pids, ready))
                process.start()
                assert ready.wait(SECONDS)
                before = store.version(pids[-1])
                while store.version(pids[-1]) < before + 2:
                    assert process.is_alive()
                process.kill()
                process.join()
                for data in store.read_many(pids):
                    number_of(data.tobytes())
            store.write_many(pids, np.zeros((8, SIZE), "u1"))
            with eventually(lambda: cluster.store("s"), errors.TooManyMembersError) as newcomer:
                for _ in range(20):
                    newcomer.write_many(pids, np.ones((8, SIZE), "u1"))
            with dsmem.connect(cluster_name) as here, here.store("s") as mapped:
                mapped.write_many(pids, np.zeros((8, SIZE), "u1"))
            assert store.stat()["free"] >= 100 - 8 - 3


def test_a_client_that_is_fenced_finds_out(cluster_name, server):
    with client(address(server, cluster_name)) as (cluster, own), dsmem.connect(cluster_name) as here:
        with made(here, members=2) as mapped, cluster.store("s") as store:
            pid = store.allocate()
            store.write(pid, page(1))
            server.context.fence(own.node_id)
            with here.store("s") as newcomer:  # in the place of the one that is gone
                newcomer.write(pid, page(2))
                for call in (
                    lambda: store.write(pid, page(3)),
                    lambda: store.read(pid),
                    lambda: store.write_many([pid], page(3)),
                    lambda: store.read_many([pid]),
                    lambda: store.version(pid),
                    lambda: store.free(pid),
                    store.allocate,
                    store.stat,
                ):
                    with pytest.raises(errors.FencedError):
                        call()
                store.close()
                assert number_of(mapped.read(pid)) == 2


def test_a_server_that_is_killed_and_comes_back(cluster_name):
    """What was open ends, and the same cluster finds the pages again."""
    with contextlib.ExitStack() as stack:
        process, at = stack.enter_context(process_that_serves(SECRET, host="127.0.0.2"))
        cluster, _ = stack.enter_context(client(f"{at}/{cluster_name}"))
        store = made(cluster)
        pid = store.allocate()
        store.write(pid, page(1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for call in (lambda: store.read(pid), lambda: store.write(pid, page(2)), store.allocate):
            with pytest.raises((errors.PeerDeadError, errors.StaleDescriptorError)):
                call()
        store.close()
        with dsmem.connect(cluster_name) as here, here.store("s") as mapped:
            assert number_of(mapped.read(pid)) == 1
        stack.enter_context(process_that_serves(SECRET, host="127.0.0.2", port=at.rpartition(":")[2]))
        with eventually(lambda: cluster.store("s"), errors.PeerDeadError, errors.SystemCallError) as again:
            assert number_of(again.read(pid)) == 1
            assert again.write(pid, page(3)) == again.version(pid)


# -- signal handlers --


MANY = 20_000


def test_a_handler_ends_a_long_read(cluster):
    with made(cluster) as store:
        pid = store.allocate()
        store.write(pid, page(1))
        ids, struck = np.full(MANY, pid, "u8"), False
        while not struck:
            out = np.zeros((MANY, SIZE // 8), "u8")

            def strike(*_, out=out):
                if out[0, 0] and not out[-1, 0]:
                    raise StruckError

            try:
                with handling(strike):
                    store.read_many(ids, out)
            except StruckError:
                struck = True
                assert out[0, 0] and not out[-1, 0]
        assert store.read(pid) == page(1)


def test_a_handler_ends_a_long_write(cluster, cluster_name):
    """Some pages have been replaced, and each is whole; the handle goes on, and its frames are not lost."""
    with made(cluster) as store, dsmem.connect(cluster_name) as here, here.store("s") as mapped:
        first, last = pids = store.allocate_many(2).tolist()
        ids, data, struck = np.full(MANY, first, "u8"), np.ones((MANY, SIZE // 8), "u8"), False
        ids[-1] = last
        while not struck:
            store.write_many(pids, page(0) * 2)

            def strike(*_):
                if mapped.read(first) == page(1) and mapped.read(last) == page(0):
                    raise StruckError

            try:
                with handling(strike):
                    store.write_many(ids, data)
            except StruckError:
                struck = True
        assert store.read(first) == page(1) and number_of(store.read(last)) in (0, 1)
        for number in range(200):
            store.write_many(pids, page(number) * 2)
        assert number_of(store.read(last)) == 199
