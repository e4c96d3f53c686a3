"""Stores with copies, where an op of a call fails, or loses its answer, or all do from one on; or the caller is killed.

However the call ends: what it has told is true, no page stays locked, and both its handle and another one go on.
"""

import multiprocessing
import os
import signal

import pytest
import store_nodes
from paging import number_of, page
from store_nodes import FABRIC, PROPERTIES, SECONDS, at_nodes, check_equal, client, eventually, made

from dsmem import errors

nodes = store_nodes.nodes

FULL = os.environ.get("DSMEM_FULL_SWEEPS") == "1"  # each op, otherwise some of each call
OUTAGE = 40  # ops; more than a call tries again
FAULTS = {
    "fail": "fail={n}",
    "answer lost": "failafter={n}",
    "fail from n on": "fail={n}-{end}",
    "lost, then fail": "failafter={n}&fail={next}-{end}",
}
PAGES = 4


def transact(store):
    with store.transaction() as tx:
        for i, pid in enumerate(store.pids):
            assert number_of(tx.read(pid)) == i
            tx.write(pid, page(77))


CALLS = {
    "write": lambda s: s.write(s.pids[0], page(77)),
    "compare_write": lambda s: s.compare_write(s.pids[0], s.versions[0], page(77)),
    "free": lambda s: s.free(s.pids[0]),
    "allocate": lambda s: s.allocate(),
    "allocate_many": lambda s: s.allocate_many(5),
    "write_many": lambda s: s.write_many(s.pids, page(77) * PAGES),
    "read": lambda s: s.read(s.pids[0]),
    "read_many": lambda s: s.read_many(s.pids),
    "transaction": transact,
    "snapshot": lambda s: s.snapshot(s.pids),
}
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["dsmem", "pytest"])


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
        changes = name in ("write_many", "transaction") or (i == 0 and name in ("write", "compare_write", "free"))
        told = [before] if not changes else [after] if done else [before, after]
        if changes and done is False and name != "write_many":
            told = [before]
        assert held(store, pid) in told, (i, done)
    if name == "transaction":
        assert len({held(store, pid)[1] == 77 for pid in pids}) == 1


def persistently(call):
    """The outage is over after some ops."""
    for _ in range(OUTAGE):
        try:
            return call()
        except (errors.TransportError, errors.TimeoutError):
            pass
    return call()


def play(nodes, replicas, extents, name, plan):
    """The numbers of the first op of the call and of the last."""
    with at_nodes(nodes) as address, client(address) as (second, _):
        second.store("s", create=True, replicas=replicas, extents=extents, **PROPERTIES).close()
        with client(address, f"fault+{FABRIC}://?{plan}") as (cluster, own):
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
        check_equal(second, replicas, extents)
        second.unlink("s")
    return first, last


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("name", "replicas", "extents"),
    [(name, 2, 1) for name in CALLS]
    + [(name, 3, 1) for name in ("write", "free", "allocate", "transaction")]
    + [(name, 2, 2) for name in ("free", "allocate_many", "write_many", "transaction", "snapshot")]
    + [(name, 1, 4) for name in ("compare_write", "free", "allocate_many", "transaction")],
)
def test_each_op_of_a_call(nodes, name, replicas, extents, fault):
    first, last = play(nodes, replicas, extents, name, "")
    for n in range(first, last + 2, 1 if FULL else max(1, (last - first) // 5)):
        play(nodes, replicas, extents, name, FAULTS[fault].format(n=n, next=n + 1, end=n + OUTAGE))


# -- callers that are killed --


def call_until_killed(address, name, plan, pipe):
    """Say which pages there are, and, if it is not killed, how many ops there were before the call and after it."""
    with client(address, f"fault+{FABRIC}://?{plan}") as (cluster, own):
        store = cluster.store("s")
        prepare(store)
        pipe.send((store.pids, store.versions))
        first = own.stats["posts"] + 1
        CALLS[name](store)
        store.version(store.pids[-1])  # an unlock that was due
        pipe.send((first, own.stats["posts"]))
        os._exit(0)


def play_a_death(nodes, replicas, extents, name, plan):
    """The ops of the call; None if it was killed in it."""
    with at_nodes(nodes) as address, client(address) as (cluster, _):
        with made(cluster, replicas, extents=extents, members=2) as store:
            ours, theirs = processes.Pipe()
            caller = processes.Process(target=call_until_killed, args=(address, name, plan, theirs))
            caller.start()
            theirs.close()
            assert ours.poll(SECONDS)
            pids, versions = ours.recv()
            caller.join(SECONDS)
            assert caller.exitcode == (-signal.SIGKILL if plan else 0)
            check(name, store, None, pids, versions)
            for pid in pids[1:]:
                store.write(pid, page(5))
                assert number_of(store.read(pid)) == 5
            # It takes over the slot of the dead, and ends what that has left, also of pages that no process knows.
            with eventually(lambda: cluster.store("s"), errors.TooManyMembersError) as newcomer:
                newcomer.write(pids[-1], page(6))
                assert number_of(store.read(pids[-1])) == 6
            ops = None if plan else ours.recv()
        check_equal(cluster, replicas, extents)
        cluster.unlink("s")
    return ops


@pytest.mark.parametrize(
    ("name", "replicas", "extents"),
    [(name, 2, 1) for name in CALLS if name not in ("read", "read_many", "snapshot")]
    + [("transaction", 2, 2), ("transaction", 1, 4), ("allocate_many", 2, 2)],
)
def test_a_caller_that_is_killed_at_each_op(nodes, name, replicas, extents):
    first, last = play_a_death(nodes, replicas, extents, name, "")
    for n in range(first, last + 1, 1 if FULL else max(1, (last - first) // 6)):
        assert play_a_death(nodes, replicas, extents, name, f"kill={n}") is None
