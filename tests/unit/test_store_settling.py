"""A coordinator that begins again tells nothing before it knows whether its state is the latest: real processes."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from epochs import PROPERTIES, SECONDS, eventually, settled, together
from paging import number_of

from dsmem import errors
from dsmem.membership import messages
from dsmem.membership.client import forget_node
from dsmem.names import wire
from dsmem.names.remote import RemoteNames
from dsmem.names.wire import Request


def made(cluster, name, replicas=2):
    return cluster.store(name, create=True, replicas=replicas, **PROPERTIES)


def begun_again(where, node):
    """With a node that is stopped, and is waited for as long as --silence says."""
    node.stop()
    where.coordinator.kill()
    where.coordinator.start()


def is_not_yet_told(ask):
    """Whether the answer is that it can't be said yet. A host may be too slow for any answer in the time."""
    try:
        ask()
    except wire.NotYetError:
        return True
    except errors.TimeoutError:
        return False
    raise AssertionError("it was told")


def test_each_request_is_to_be_asked_again(tmp_path):
    with together(tmp_path, 2, "--silence", "3600") as where, where.client() as cluster, made(cluster, "db") as store:
        cluster.lock("lock", create=True).close()
        begun_again(where, where.nodes[1])
        of, number = wire.text(cluster.name), wire.number(5)
        listed = of, number, wire.number(0, 4)
        shape = messages.shape(*(PROPERTIES[each] for each in ("page_size",)), 100, 8, 2)
        for kind, fields in {
            Request.STORE_MAKE: (of, wire.text("new"), shape),
            Request.STORE_FIND: (of, wire.text("none"), *[wire.number(0)] * 3),
            Request.STORE_COPIES: (of, wire.text("db"), wire.number(0)),
            Request.NODES: listed,
            Request.NODE_FORGET: (wire.text(where.nodes[1].address),),
            Request.LIST: listed,
            Request.ALLOCATE: (of, wire.text("name"), number, wire.number(4096)),
            Request.UNLINK: (of, wire.number(0), wire.text("db")),
            Request.FIND: (of, wire.text("store"), wire.text("db"), number, *[wire.number(0)] * 2, wire.number(0, 1)),
        }.items():
            eventually(lambda: is_not_yet_told(lambda: cluster._names._ask(kind, *fields, again=True, timeout=0.05)))  # noqa: B023
        eventually(lambda: "has just begun" in store.health(timeout=0.1)["trouble"])
        assert store.health(timeout=0.1)["open"] is None
        cluster.lock("lock").close()  # what is no store is found
        where.nodes[1].go_on()


def test_calls_wait_until_it_is_settled(tmp_path):
    with together(tmp_path, 2, "--silence", "3600") as where, where.client() as cluster, made(cluster, "db") as store:
        made(cluster, "old").close()
        pid = store.allocate()
        settled(store, pid, 1)
        begun_again(where, where.nodes[1])
        eventually(lambda: "has just begun" in store.health(timeout=0.1)["trouble"])
        with ThreadPoolExecutor(8) as threads:
            fresh, gone = threads.submit(made, cluster, "new"), threads.submit(cluster.unlink, "old")
            none = threads.submit(cluster.store, "none")
            health, infos = threads.submit(store.health, timeout=SECONDS), threads.submit(where.infos)
            read = threads.submit(store.read, pid)
            where.nodes[1].go_on()
            with fresh.result(SECONDS) as new:
                settled(new, new.allocate(), 2)
            gone.result(SECONDS)
            with pytest.raises(errors.NameNotFoundError):
                none.result(SECONDS)
            assert health.result(SECONDS)["open"] and all(each.is_up for each in infos.result(SECONDS))
            assert number_of(read.result(SECONDS)) == 1
        assert sorted(info.name for info in cluster.list()) == ["db", "new"]


def test_a_node_that_is_out_of_reach_is_not_said_to_answer(tmp_path):
    """The first answer of the coordinator that begins again says so, and a store is made where nodes are."""
    with together(tmp_path, 3) as where, where.client() as cluster, made(cluster, "db", 1) as store:
        away = next(each for each in where.nodes if each is not where.node_of(store, 0))
        begun_again(where, away)
        assert {each.address: each.is_up for each in where.infos()}[away.address] is False
        with made(cluster, "new") as new:
            assert away.address not in [each["node"] for each in new.health()["copies"]]
        forget_node(cluster._names, away.address)


def test_a_request_is_not_sent_without_time_for_its_answer():
    """It would be executed after the caller was told that it was not."""
    said = bytearray(wire.failure(wire.NotYetError("wait")))
    asked = []

    class Service:
        def call(self, raw, timeout):
            asked.append(timeout)
            return bytes(said)

    names = RemoteNames.__new__(RemoteNames)
    names._service = Service()
    with pytest.raises(wire.NotYetError):
        names._ask_now(Request.LIST, timeout=0.2)
    assert len(asked) > 1 and min(asked) > 0
