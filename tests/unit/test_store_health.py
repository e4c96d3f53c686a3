"""What health() and stat() say of stores of a coordinator, with real processes: which copies are missing, and why."""

import pytest
from epochs import PROPERTIES, SECONDS, eventually, together
from paging import page

import dsmem
from dsmem import errors


def made(cluster, replicas=2, **more):
    return cluster.store("db", create=True, replicas=replicas, **{**PROPERTIES, **more})


def test_a_store_that_is_whole(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        health = store.health()
        assert health["trouble"] == "" and health["missing"] == [] and health["open"] is True


def test_a_copy_that_no_node_is_free_for(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        gone = where.node_of(store, 1)
        gone.kill()
        eventually(lambda: store.health()["missing"] and store.health()["open"])
        health = store.health()
        (lacks,) = health["missing"]
        assert lacks["copy"] == 1 and "no memory node is free for it; 1 of 2 answer" in lacks["why"]
        assert health["open"] and health["trouble"] == f"copy 1: {lacks['why']}"


def test_the_only_copy_is_at_a_node_that_is_stopped(tmp_path):
    with together(tmp_path, 1) as where, where.client() as cluster, made(cluster, 1) as store:
        node = where.nodes[0]
        node.stop()
        eventually(lambda: not store.health()["open"])
        assert f"copy 0 at {node.address} does not answer since" in store.health()["trouble"]
        node.go_on()
        eventually(lambda: store.health()["open"] and store.health()["trouble"] == "")


def test_a_store_that_is_lost(tmp_path):
    with together(tmp_path, 1) as where, where.client() as cluster, made(cluster, 1) as store:
        where.nodes[0].kill()
        where.nodes[0].start()
        eventually(lambda: "have ended" in store.health()["trouble"])
        assert store.health()["open"] is False and store.health()["missing"] == []


def test_a_new_copy_is_said_to_be_made(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster, capacity="8MiB") as store:
        pids = store.allocate_many(1000)
        store.write_many(pids, page(7) * 1000)
        where.node_of(store, 1).kill()
        eventually(lambda: store.health()["missing"])
        new, seen = where.more(), []

        def is_whole():
            seen.extend(store.health()["missing"])
            return not store.health()["missing"]

        eventually(is_whole)
        assert {each["node"] for each in seen if each["node"]} <= {new.address}
        assert all(each["done"] <= each["pages"] for each in seen)
        assert store.health()["trouble"] == ""


def test_a_copy_that_a_node_has_no_room_for(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        where.node_of(store, 1).kill()
        small = where.more("--memory", "4KiB")
        eventually(lambda: store.health()["missing"] and "full: 1; start" in store.health()["trouble"])
        small.end()
        with dsmem.connect(where.name) as here, here.store("other", create=True, capacity="4MiB"):
            where.more("--memory", "4MiB")  # which has room for the copy, but for the other store
            eventually(lambda: "could not be made" in store.health()["trouble"])
            assert " bytes, and" in store.health()["missing"][0]["why"]
        where.more()
        eventually(lambda: store.health()["trouble"] == "")


@pytest.mark.parametrize(("racks", "extents", "domains"), [("aab", 1, 2), ("aab", 2, 2), ("aa", 2, 1), ("aab", 3, 2)])
def test_in_how_many_domains_the_copies_are(tmp_path, racks, extents, domains):
    """Of the extent with the fewest."""
    with together(tmp_path, 0) as where, where.client() as cluster:
        for rack in racks:
            where.more("--domain", rack)
        eventually(lambda: len(where.up()) == len(racks))
        with cluster.store("db", create=True, replicas=2, extents=extents, **PROPERTIES) as store:
            assert store.health()["domains"] == domains


async def test_without_a_coordinator(tmp_path):
    """health() says so, and what the handle knows; stat() as long as its lease lasts, then an exception in time."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        before = await store.health_async()
        assert await store.stat_async(timeout=SECONDS) == store.stat(timeout=None)
        where.coordinator.kill()
        for health in (store.health(), await store.health_async(timeout=SECONDS)):
            assert health["open"] is None and "does not answer" in health["trouble"]
            assert (health["epoch"], health["replicas"]) == (1, 2)
            assert [each["node"] for each in health["copies"]] == [each["node"] for each in before["copies"]]
            assert all(each["up"] is None for each in health["copies"])
        with pytest.raises(errors.PeerDeadError, match="the coordinator at"):
            while True:  # reads go on as long as the lease does
                store.stat(timeout=0)
        with pytest.raises(errors.DsmemError, match="the coordinator at"):
            await store.stat_async(timeout=0.1)


def test_a_coordinator_that_is_stopped(tmp_path):
    """health() ends within its time."""
    with together(tmp_path, 1) as where, where.client() as cluster, made(cluster, 1) as store:
        where.coordinator.stop()
        health = store.health(timeout=0.2)
        assert health["open"] is None and "does not answer" in health["trouble"]
        where.coordinator.go_on()
        eventually(lambda: store.health()["open"])


@pytest.mark.parametrize("timeout", [-1, "1", float("nan")])
def test_no_times(tmp_path, timeout):
    with together(tmp_path, 1) as where, where.client() as cluster, made(cluster, 1) as store:
        for call in (store.health, store.stat, store.health_async, store.stat_async):
            with pytest.raises(errors.DsmemError):
                result = call(timeout=timeout)
                result.send(None)
