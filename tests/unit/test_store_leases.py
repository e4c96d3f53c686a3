"""Leases that clients give back: a store whose primary has died goes on before any has run out."""

import contextlib
import math
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from epochs import PROPERTIES, SECONDS, eventually, together
from paging import number_of, page

from dsmem.membership.leases import NO_ID, Held, Leases
from dsmem.store import Store

NEVER = ("--lease", "3600")  # no test waits for its end


@pytest.fixture
def where(request, tmp_path):
    """The parameter: how many extents a store has."""
    with together(tmp_path, 3, *NEVER) as where:
        where.properties = {**PROPERTIES, "replicas": 2, "extents": request.param}
        yield where


@pytest.mark.parametrize(
    ("where", "call"), [(1, "read"), (1, "run"), (4, "write"), (4, "read_many")], indirect=["where"]
)
def test_a_primary_dies(where, call):
    with where.client() as cluster, cluster.store("db", create=True, **where.properties) as store:
        ids = store.allocate_many(8).tolist()
        store.write_many(ids, page(1) * 8)
        assert number_of(store.read(ids[0])) == 1
        where.node_of(store, 0).kill()
        for pid in ids:
            if call == "read":
                assert number_of(store.read(pid)) == 1
            elif call == "write":
                store.write(pid, page(2))
            elif call == "run":
                store.run(lambda tx, pid=pid: tx.write(pid, page(number_of(tx.read(pid)) + 1)))
            else:
                assert store.read_many([pid]).tobytes() == page(1)
        assert store.health()["epoch"] > 1


@contextlib.contextmanager
def pair(where):
    """A store, and a handle of another client."""
    with (
        where.client() as ours,
        where.client() as theirs,
        ours.store("db", create=True, **where.properties) as store,
        theirs.store("db") as other,
    ):
        yield store, other


@pytest.mark.parametrize("what", ["opens", "writes", "reads and closes"])
@pytest.mark.parametrize("where", [1], indirect=True)
def test_clients_that_have_none(where, what):
    with pair(where) as (store, other):
        pid = store.allocate()
        store.write(pid, page(1))
        if what == "writes":
            other.write(pid, page(1))
        elif what == "reads and closes":
            assert number_of(other.read(pid)) == 1
            other.close()
        where.node_of(store, 0).kill()
        assert number_of(store.read(pid)) == 1


@pytest.mark.parametrize("where", [1], indirect=True)
def test_a_client_that_does_nothing(where):
    """It is waited for. When it does something, all go on."""
    with pair(where) as (store, other):
        ids = store.allocate_many(8).tolist()
        store.write_many(ids, page(1) * 8)
        assert number_of(other.read(ids[0])) == 1
        where.node_of(store, 0).kill()
        waits = threading.Thread(target=lambda: [store.read(pid) for pid in ids])
        waits.start()
        eventually(lambda: "it waits for leases" in store.health()["trouble"])
        assert "does not answer since" in store.health()["trouble"]
        assert not store.health()["open"]
        for pid in ids:
            assert number_of(other.read(pid)) == 1
        waits.join()
        eventually(lambda: store.health()["open"])
        assert store.health()["epoch"] > 1


@pytest.fixture
def asks(tmp_path, monkeypatch):
    """A store, one of its pages, and how often its handle has asked for a lease."""
    with together(tmp_path, 1, *NEVER) as where, where.client() as cluster:
        with cluster.store("db", create=True, **PROPERTIES) as store:
            ask, asked = store._coordination.lease, []

            def lease(*given):
                asked.append(given)
                answer = ask(*given)
                for meanwhile in asks.meanwhile:
                    meanwhile()
                return answer

            monkeypatch.setattr(store._coordination, "lease", lease)
            asks = SimpleNamespace(store=store, pid=store.allocate(), asked=asked, meanwhile=[])
            yield asks


def give_back(store):
    """As another thread does."""
    store._find(store._epoch.number, time.monotonic() + SECONDS)


def reads_and(meanwhile):
    """Store.read, with something that happens when it has read."""
    read = Store.read

    def reads(*given):
        found = read(*given)
        meanwhile()
        return found

    return reads


def test_what_a_read_had_before_counts_no_more(asks, monkeypatch):
    """Another thread gives the lease back while the read is under way."""
    asks.store.read(asks.pid)
    asks.store.read(asks.pid)
    assert len(asks.asked) == 1
    monkeypatch.setattr(Store, "read", reads_and(lambda: give_back(asks.store)))
    asks.store.read(asks.pid)
    assert len(asks.asked) == 2


def test_an_answer_that_comes_when_its_lease_was_given_back(asks):
    """What was read counts, but there is no lease of it."""
    store = asks.store
    asks.meanwhile.append(lambda: give_back(store))
    store.read(asks.pid)
    assert len(asks.asked) == 1
    asks.meanwhile.clear()
    for _ in range(3):
        store.read(asks.pid)
    assert len(asks.asked) == 2
    ids = [given[2].id for given in asks.asked]
    assert ids[0] != ids[1]


def test_a_lease_of_the_next_epoch_is_none_of_what_was_read_before(asks, monkeypatch):
    store, moved = asks.store, []

    def moves():
        if not moved:
            lease = Held()
            lease.until = math.inf
            store._epoch = replace(store._epoch, number=store._epoch.number + 1, lease=lease)
        moved.append(1)

    monkeypatch.setattr(Store, "read", reads_and(moves))
    store.read(asks.pid)
    assert len(moved) == 2 and not asks.asked


def test_it_is_given_back_when_no_thread_reads_under_it(asks, monkeypatch):
    """Before the coordinator is told."""
    store, find, seen = asks.store, asks.store._coordination.find, []
    store.read(asks.pid)
    held = store._epoch.lease

    def finds(*given):
        seen.append((given[-1], store._epoch.lease))
        return find(*given)

    monkeypatch.setattr(store._coordination, "find", finds)
    give_back(store)
    ((given_back, now),) = seen
    assert given_back is held and now is not held and now.until == 0.0 and now.id != held.id


def test_a_lease_begins_when_it_is_asked_for(asks, monkeypatch):
    """The coordinator's time begins later."""
    now = [1e6]
    monkeypatch.setattr("dsmem.membership.follow.clock", lambda: now[0])
    asks.meanwhile.append(lambda: now.__setitem__(0, now[0] + 100))
    asks.store.read(asks.pid)
    assert now[0] == 1e6 + 100 and asks.store._epoch.lease.until == 1e6 + 3600


def test_an_epoch_that_a_closing_thread_arrives_in_late_has_no_lease(asks):
    """It was held up there, and another one has given the lease of that epoch back meanwhile."""
    store = asks.store
    store.read(asks.pid)
    held = store._epoch
    store._next = [store._memory], held.number, held.seconds, []
    give_back(store)
    store._arrived()
    assert store._next is None and store._epoch.number == held.number
    assert store._epoch.lease.until == 0.0 and store._epoch.lease.id != held.lease.id


def test_leases_of_a_store():
    leases = Leases(1.0)
    assert leases.end == 1.0
    for id, until in ((1, 2.0), (2, 2.5), (1, 2.9)):
        leases.grant(id, 0.5, until)
    assert leases.end == 2.9  # of the one that has become longer
    leases.give_back(1)
    assert leases.end == 2.5
    leases.grant(1, 0.6, 3.0)  # a question that comes late
    assert leases.end == 2.5
    leases.give_back(2)
    assert leases.end == 1.0
    leases.grant(NO_ID, 0.7, 3.1)
    leases.give_back(NO_ID)
    assert leases.end == 3.1


@pytest.mark.parametrize("order", [list, reversed, sorted])
def test_many_leases(order):
    """Neither those that have ended nor those that were given back take memory without end."""
    leases = Leases(0.0)
    for id in range(1, 5000):
        leases.grant(id, id, id + 10.0)
    assert len(leases._ends) <= 11
    for id in order(range(1, 5000)):
        leases.give_back(id)
    assert leases.end == 0.0 and len(leases._gone) <= 1024
