"""Pages that transactions had allocated which were not committed are free again."""

import contextlib
import multiprocessing
import threading

import pytest
import store_nodes
from epochs import PROPERTIES, eventually, together
from paging import SIZE, number_of, page
from store_nodes import FABRIC, at_nodes, client, made

from dsmem import errors

nodes = store_nodes.nodes
spawn = multiprocessing.get_context("spawn")
SOME = 5
SOME_IN_DOUBT = 64


def left_allocated(address, plan):
    """After a block that has failed, how many posts went ahead of its end, and how many pages are not free again."""
    with client(address, f"fault+{FABRIC}://?{plan}") as (cluster, own), cluster.store("s") as store:
        before = store.stat()["free"]
        with contextlib.suppress(KeyError), store.transaction() as tx:
            for _ in range(SOME):
                tx.allocate()
            posts = own.stats["posts"]
            raise KeyError
        return posts, before - store.stat()["free"]


@pytest.mark.parametrize("replicas", [1, 2])
def test_an_answer_is_lost(nodes, replicas):
    with at_nodes(nodes) as address, client(address) as (cluster, _):
        with made(cluster, replicas):
            posts, left = left_allocated(address, "")
            assert left == 0
            for n in range(1, SOME + 1):
                assert left_allocated(address, f"failafter={posts + n}")[1] == 0
        cluster.unlink("s")


class BlockError(Exception):
    """Of the program."""


@pytest.mark.parametrize("error", [BlockError, errors.ConflictError, errors.BusyError])
def test_the_copies_change_in_a_block_that_raises(tmp_path, error):
    with together(tmp_path, 2) as where, where.client() as cluster:
        with cluster.store("db", create=True, replicas=2, **PROPERTIES) as store:
            with contextlib.suppress(error, errors.ConflictError), store.transaction() as tx:
                for _ in range(SOME):
                    tx.allocate()
                where.node_of(store, 1).kill()
                eventually(lambda: store.health()["open"] and store.health()["epoch"] > 1)
                raise error("of the program")
            assert store.stat()["free"] == 100


def test_fewer_copies_count_than_the_handle_demands(tmp_path):
    """To free what no process knows needs no copies."""
    with together(tmp_path, 2) as where, where.client() as cluster:
        with cluster.store("db", create=True, replicas=2, min_copies=2, **PROPERTIES) as store:
            pid = store.allocate()
            store.write(pid, page(1))
            with pytest.raises(errors.ConflictError), store.transaction() as tx:
                tx.write(tx.allocate(), page(2))
                where.node_of(store, 1).kill()
                eventually(lambda: store.health()["open"] and store.health()["epoch"] > 1)
                assert number_of(store.read(pid)) == 1
            with pytest.raises(errors.TooFewCopiesError):
                store.free(pid)
            assert store.stat()["free"] == 100 - 1


MANY = 160  # pages, which take several postings
FAULTS = 40  # posts in a row


def until_it_answers(call):
    """Its faults come to an end."""
    for _ in range(FAULTS):
        with contextlib.suppress(errors.TransportError, errors.OutcomeUnknownError):
            return call()
    return call()


def left_by_allocation(address, plan, is_closed):
    """What an allocation of many raises, between which posts, and how many pages it has left behind."""
    failed = None
    with client(address, f"fault+{FABRIC}://?{plan}") as (cluster, own), client(address) as (second, _):
        with second.store("s") as other, cluster.store("s") as store:
            before, began = other.stat()["free"], own.stats["posts"]
            try:
                pids = store.allocate_many(MANY)
            except (errors.TransportError, errors.OutcomeUnknownError) as error:
                failed, pids = error, []
            ended = own.stats["posts"]
            until_it_answers(store.stat)
            if is_closed:
                store.close()
            else:
                pids = [*pids, until_it_answers(store.allocate)]
            left = before - other.stat()["free"] - len(pids)
            for pid in pids:
                (other if is_closed else store).free(pid)
            return failed, range(began + 1, ended + 1), left


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize("replicas", [1, 2])
def test_an_allocation_fails_and_so_does_what_gives_its_pages_back(nodes, replicas, is_closed):
    """They are given back with the next allocation, or when the handle is closed. Those in doubt may stay."""
    with at_nodes(nodes) as address, client(address) as (cluster, _):
        with made(cluster, replicas, capacity=2 * MANY * SIZE):
            _, posts, left = left_by_allocation(address, "", False)
            assert left == 0
            seen = set()
            for n in posts:
                failed, _, left = left_by_allocation(address, f"fail={n}-{n + FAULTS}", is_closed)
                seen.add(type(failed))
                assert left == 0 or (left <= SOME_IN_DOUBT and isinstance(failed, errors.OutcomeUnknownError)), n
            assert errors.TransportError in seen
        cluster.unlink("s")


@contextlib.contextmanager
def with_pages_to_give_back(address, n):
    """A handle that has failed to allocate them, if the posts from n on fail."""
    with client(address, f"fault+{FABRIC}://?fail={n}-{n + FAULTS}") as (cluster, _):
        store = cluster.store("s")
        with contextlib.suppress(errors.TransportError, errors.OutcomeUnknownError):
            store.allocate_many(MANY)
        until_it_answers(store.stat)
        yield store


def close_beside(address, n, call):
    """Close it while another thread calls it. This is a process of its own, since it may crash."""
    with with_pages_to_give_back(address, n) as store:
        ended = threading.Event()

        def calls():
            while not ended.wait(2e-4):  # so that it is closed at times while no other call is under way
                with contextlib.suppress(errors.StaleDescriptorError, errors.BusyError, errors.PageNotFoundError):
                    {"stat": store.stat, "read": lambda: store.read(1), "close": store.close}[call]()

        beside = threading.Thread(target=calls)
        beside.start()
        while True:
            with contextlib.suppress(errors.BusyError):
                store.close()
                break
        ended.set()
        beside.join()


@pytest.mark.parametrize("call", ["stat", "read", "close"])
def test_a_handle_with_pages_to_give_back_is_closed_beside_its_calls(nodes, call):
    with at_nodes(nodes) as address, client(address) as (cluster, _):
        with made(cluster, 1, capacity=20 * MANY * SIZE) as own:
            posts = left_by_allocation(address, "", False)[1]
            first = next(n for n in posts if leaves_certain_pages(own, address, n))
            before = own.stat()["free"]
            for _ in range(8):
                process = spawn.Process(target=close_beside, args=(address, first, call))
                process.start()
                process.join()
                assert process.exitcode == 0 and own.stat()["free"] == before


def leaves_certain_pages(own, address, n):
    """Whether some are to be given back, and none is in doubt."""
    before = own.stat()["free"]
    with with_pages_to_give_back(address, n) as store:
        left = before - own.stat()["free"]
        store.close()
    return left and own.stat()["free"] == before
