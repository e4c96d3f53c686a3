"""Stores with copies, where an op of a call fails, or loses its answer, or all do from one on.

However the call ends: what it has told is true, no page stays locked, and both its handle and another one go on.
"""

import itertools
import os

import pytest
from paging import number_of, page
from store_nodes import PROPERTIES, check_equal, client, three_nodes, where

from dsmem import errors

FULL = os.environ.get("DSMEM_FULL_SWEEPS") == "1"  # each op, otherwise some of each call
OUTAGE = 40  # ops; more than a call tries again
FAULTS = {
    "fail": "fail={n}",
    "answer lost": "failafter={n}",
    "fail from n on": "fail={n}-{end}",
    "lost, then fail": "failafter={n}&fail={next}-{end}",
}
PAGES = 4
CALLS = {
    "write": lambda s: s.write(s.pids[0], page(77)),
    "compare_write": lambda s: s.compare_write(s.pids[0], s.versions[0], page(77)),
    "free": lambda s: s.free(s.pids[0]),
    "allocate": lambda s: s.allocate(),
    "allocate_many": lambda s: s.allocate_many(5),
    "write_many": lambda s: s.write_many(s.pids, page(77) * PAGES),
    "read": lambda s: s.read(s.pids[0]),
    "read_many": lambda s: s.read_many(s.pids),
}
names = (f"f{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def nodes():
    with three_nodes() as at:
        yield at


def prepare(store):
    """Pages that it knows, and a chunk that it has open."""
    store.pids = store.allocate_many(PAGES).tolist()
    store.versions = store.write_many(store.pids, b"".join(map(page, range(PAGES)))).tolist()
    store.version(store.pids[0])  # the unlocks have been executed


def attempt(call, store):
    try:
        call(store)
    except errors.OutcomeUnknownError:
        return None
    except errors.CanceledError:
        raise AssertionError("the failure of another op") from None
    except (errors.TransportError, errors.TimeoutError, errors.PeerDeadError) as error:
        assert "copy " in str(error), error
        return False
    return True


def held(store, pid):
    try:
        return store.version(pid), number_of(store.read(pid))
    except errors.PageNotFoundError:
        return None


def check(name, store, done, pids, versions):
    """What the call has told is so."""
    for i, pid in enumerate(pids):
        before, after = (versions[i], i), (versions[i] + 1, 77)
        if name == "free":
            after = None
        changes = name == "write_many" or (i == 0 and name in ("write", "compare_write", "free"))
        told = [before] if not changes else [after] if done else [before, after]
        if changes and done is False and name != "write_many":
            told = [before]
        assert held(store, pid) in told, (i, done)


def persistently(call):
    """The outage is over after some ops."""
    for _ in range(OUTAGE):
        try:
            return call()
        except (errors.TransportError, errors.TimeoutError):
            pass
    return call()


def play(nodes, replicas, name, plan):
    """The numbers of the first op of the call and of the last."""
    address = where(nodes, next(names))
    with client(address) as (second, _):
        second.store("s", create=True, replicas=replicas, **PROPERTIES).close()
        with client(address, f"fault+tcp://?{plan}") as (cluster, own):
            store = cluster.store("s")
            prepare(store)
            first = own.stats["posts"] + 1
            done = attempt(CALLS[name], store)
            last = own.stats["posts"]
            persistently(lambda: check(name, store, done, store.pids, store.versions))
            with second.store("s") as other:
                check(name, other, done, store.pids, store.versions)
                free = other.stat()["free"]
                lost = {"allocate": 1, "allocate_many": 5, "free": -1}.get(name, 0)
                assert free in (100 - PAGES, 100 - PAGES - lost) or (lost > 1 and 100 - PAGES - lost <= free)
                for pid in store.pids[1:]:
                    other.write(pid, page(5))
                    store.write(pid, page(6))
                    assert number_of(other.read(pid)) == 6
            store.close()
        check_equal(second, replicas)
        second.unlink("s")
    return first, last


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("name", "replicas"), [(name, 2) for name in CALLS] + [("write", 3), ("free", 3), ("allocate", 3)]
)
def test_each_op_of_a_call(nodes, name, replicas, fault):
    first, last = play(nodes, replicas, name, "")
    for n in range(first, last + 2, 1 if FULL else max(1, (last - first) // 5)):
        play(nodes, replicas, name, FAULTS[fault].format(n=n, next=n + 1, end=n + OUTAGE))
