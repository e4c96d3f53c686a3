"""Stores with copies: what a signal handler, a fork, a close in the midst of a call, and the end of a process leave.

The rows of stores of one copy are in tests/sweeps, test_fork.py and test_store_transactions.py.
"""

import random
import signal
import subprocess
import sys

import pytest
import store_nodes
from forked import in_child
from paging import SIZE, StruckError, handling, number_of, page
from store_nodes import FABRIC, SECRET, at_nodes, check_equal, client, made

from dsmem import errors

nodes = store_nodes.nodes

STRIKES = 25


@pytest.fixture(params=[2, 3])
def replicas(request):
    return request.param


@pytest.fixture
def address(nodes):
    with at_nodes(nodes) as address:
        yield address


@pytest.fixture
def store(address, replicas):
    """Its copies are equal at the end, and no page is locked."""
    with client(address) as (cluster, _):
        with made(cluster, replicas) as store:
            store.pids = store.allocate_many(4).tolist()
            store.write_many(store.pids, page(0) * 4)
            yield store
        check_equal(cluster, replicas)
        cluster.unlink("s")


def transact(store, number):
    with store.transaction() as tx:
        for pid in store.pids:
            tx.read(pid)
            tx.write(pid, page(number))


def allocate(store, number):
    del number
    store.free(store.allocate())


CALLS = {
    "write": lambda s, n: s.write(s.pids[0], page(n)),
    "compare_write": lambda s, n: s.compare_write(s.pids[0], s.version(s.pids[0]), page(n)),
    "write_many": lambda s, n: s.write_many(s.pids, page(n) * 4),
    "transaction": transact,
    "run": lambda s, n: s.run(lambda tx: [tx.write(pid, page(n)) for pid in s.pids]),
    "read_many": lambda s, n: s.read_many(s.pids),
    "snapshot": lambda s, n: s.snapshot(s.pids),
    "allocate": allocate,
    "stat": lambda s, n: s.stat(),
}


def check(store, name, number):
    """What is there after a call that may have been interrupted; before it, all pages had the number before."""
    found = [number_of(each.tobytes()) for each in store.snapshot(store.pids)]
    assert set(found) <= {number - 1, number}
    if name in ("transaction", "run"):
        assert len(set(found)) == 1
    if name in ("write", "compare_write"):
        assert set(found[1:]) == {number - 1}


@pytest.mark.parametrize("name", CALLS)
def test_a_signal_handler_that_raises(store, name):
    """What was under way is made or not, the handle goes on at once, and another one as well."""
    call, struck, number, dice = CALLS[name], 0, 0, random.Random(name)

    def strike(*_):
        signal.setitimer(signal.ITIMER_REAL, 0)  # once
        raise StruckError

    while struck < STRIKES:
        number += 1
        try:
            with handling(strike):
                signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.0003, 0.004))
                while True:
                    call(store, number)
        except StruckError:
            struck += 1
        check(store, name, number)
        store.write_many(store.pids, page(number) * 4)
    with store._cluster.store("s") as other:
        other.write_many(store.pids, page(7) * 4)
        assert [number_of(each.tobytes()) for each in store.read_many(store.pids)] == [7] * 4
        if name != "allocate":
            assert other.stat()["free"] == 96


@pytest.mark.parametrize("name", ["write", "write_many", "read", "transaction"])
def test_a_close_in_the_midst_of_a_call(store, name):
    """It is refused, and the call does what it is for."""
    refused = []

    class Id:
        def __index__(self):
            with pytest.raises(errors.BusyError):
                store.close()
            refused.append(self)
            return store.pids[0]

    {
        "write": lambda: store.write(Id(), page(1)),
        "write_many": lambda: store.write_many([Id()], page(1)),
        "read": lambda: store.read(Id()),
        "transaction": lambda: store.run(lambda tx: tx.write(Id(), page(1))),
    }[name]()
    assert refused and not store.closed
    assert number_of(store.read(store.pids[0])) == (name != "read")


def test_a_store_that_is_closed_in_a_transaction(store):
    with store._cluster.store("s") as other:
        other.pids = store.pids
        with pytest.raises(errors.ClosedError), other.transaction() as tx:
            tx.write(store.pids[0], page(1))
            other.close()
    assert number_of(store.read(store.pids[0])) == 0


def test_over_a_fork(store):
    """The child is refused, and its end costs the parent nothing."""
    store.write(store.pids[0], page(1))

    def child():
        calls = (
            lambda: store.read(store.pids[0]),
            lambda: store.write(store.pids[0], page(2)),
            lambda: transact(store, 3),
            store.allocate,
            store.stat,
        )
        for call in calls:
            with pytest.raises(errors.ForkError):
                call()
        return True

    in_child(child)
    assert number_of(store.read(store.pids[0])) == 1
    transact(store, 4)
    assert [number_of(each.tobytes()) for each in store.read_many(store.pids)] == [4] * 4


ENDS = """
import os, sys, threading
import dsmem
context = dsmem.Context({fabric!r}, secret={secret!r}, listen="127.0.0.1")
store = dsmem.connect({address!r}, context=context).store("s")
pids = {pids!r}
store.write_many(pids, bytes({size}) * 4)
def write():
    while True:
        store.write(pids[0], bytes({size}))
{body}
"""


@pytest.mark.parametrize(
    "body",
    [
        "",
        "tx = store.transaction(); tx.__enter__(); tx.write(pids[0], bytes({size}))",
        "threading.Thread(target=write, daemon=True).start()",
        "store.close(); store.close()",
    ],
    ids=["idle", "in a transaction", "in a call", "closed"],
)
def test_the_end_of_a_process(store, address, body):
    """Nothing is said, and its place is free at once."""
    script = ENDS.format(
        fabric=FABRIC, secret=SECRET, address=address, pids=store.pids, size=SIZE, body=body.format(size=SIZE)
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert store.stat()["handles"] == 1
    store.write_many(store.pids, page(1) * 4)
    assert [number_of(each.tobytes()) for each in store.read_many(store.pids)] == [1] * 4
