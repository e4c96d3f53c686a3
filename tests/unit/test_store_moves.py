"""Copies that move while clients change their pages: off a node that is drained, and to one that has joined.

What is decided, in random worlds: test_membership_moves.py.
"""

import json
import os

import pytest
from click.testing import CliRunner
from epochs import SECRET, eventually, together, writing
from paging import number_of, page
from test_store_extents_coordinator import addresses, made, moved_on, moving, whole

from dsmem.cli import main


def nodes(where, *arguments, code=0):
    command = "nodes", "-c", where.coordinator.address, *arguments
    result = CliRunner().invoke(main, command, env={**os.environ, "DSMEM_SECRET": SECRET.decode()})
    assert result.exit_code == code, result.output
    return result.output


def info(where, node):
    return next(each for each in json.loads(nodes(where, "--json")) if each["address"] == node.address)


def is_empty(where, node):
    found = info(where, node)
    return not found["copies"] and not found["stale"]


@pytest.mark.parametrize(("replicas", "extents"), [(1, 1), (1, 3), (2, 4)])
def test_a_node_is_drained_and_ended(tmp_path, replicas, extents):
    with together(tmp_path, 3) as where, where.client() as cluster, made(cluster, extents, replicas) as store:
        pids = store.allocate_many(40).tolist()
        for number, pid in enumerate(pids):
            store.write(pid, page(number))
        node = where.node_of(store, 0)
        with writing(where), moving(where, store) as movers:
            assert node.address in nodes(where, "--drain", node.address)
            eventually(lambda: is_empty(where, node))
            moved_on(movers)
            assert whole(store, replicas * extents)() and node.address not in addresses(store)
            assert info(where, node)["is_drained"] and "up, drained" in nodes(where)
            node.end()
            moved_on(movers)
        assert whole(store, replicas * extents)()
        eventually(lambda: not info(where, node)["is_up"])
        nodes(where, "--forget", node.address)
        assert [number_of(store.read(pid)) for pid in pids] == list(range(40))
        assert store.check()["wrong"] == {}


def test_a_node_that_joins_gets_copies(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster, 4) as store:
        with writing(where), moving(where, store) as movers:
            joined = where.more()
            eventually(lambda: max(addresses(store).values()) <= 3 and addresses(store)[joined.address] >= 2)
            eventually(whole(store, 8))
            moved_on(movers)
        assert store.check()["wrong"] == {}


@pytest.mark.parametrize("what", ["coordinator", "drained", "target"])
def test_a_process_is_killed_while_copies_move(tmp_path, what):
    with together(tmp_path, 4) as where, where.client() as cluster, made(cluster, 6) as store:
        drained = where.node_of(store, 0)
        with writing(where), moving(where, store) as movers:
            before = addresses(store)
            nodes(where, "--drain", drained.address)
            eventually(lambda: addresses(store) - before)
            gained = next(each for each in where.nodes if each.address in addresses(store) - before)
            process = {"coordinator": where.coordinator, "drained": drained, "target": gained}[what]
            process.kill()
            if what == "coordinator":
                process.start()
                where.wait_for(lambda: len(where.up()) == 4)
            eventually(lambda: drained.address not in addresses(store) and process.address not in addresses(store))
            eventually(whole(store, 12))
            moved_on(movers)
        assert store.check()["wrong"] == {}


def test_what_is_no_node_is_not_drained(tmp_path):
    with together(tmp_path, 1) as where:
        assert "is no memory node" in nodes(where, "--drain", "tcp://127.0.0.1:1", code=1)
        assert "at a time" in nodes(where, "--drain", "a", "--undrain", "b", code=2)
        nodes(where, "--drain", where.nodes[0].address)
        nodes(where, "--undrain", where.nodes[0].address)
        assert not info(where, where.nodes[0])["is_drained"]
        assert "is no memory node" in nodes(where, "--drain", "", code=1)
        assert "for the list alone" in nodes(where, "--drain", where.nodes[0].address, "--json", code=2)


def test_the_list_says_why_a_node_is_not_drained(tmp_path):
    with together(tmp_path, 1) as where, where.client() as cluster, made(cluster, 1, 1):
        assert "not drained yet" not in nodes(where)
        nodes(where, "--drain", where.nodes[0].address)
        said = nodes(where).splitlines()[-1]
        reason = "copy 0 of 'db': no memory node is free for it; 1 of 1 answer, drained: 1; start one more"
        assert said == f"{where.nodes[0].address} is not drained yet: {reason}"
        assert info(where, where.nodes[0])["trouble"] == reason
        where.more()
        eventually(lambda: is_empty(where, where.nodes[0]))
        assert "not drained yet" not in nodes(where)


def test_copies_move_at_a_pace(tmp_path):
    """One that would take hours does not keep clients, nor the coordinator that is to end, nor one that is fast."""
    with together(tmp_path, 1, "--copy-rate", "1") as where:
        with where.client() as cluster, made(cluster, 1, 1) as store:
            pids = store.allocate_many(80).tolist()
            for number, pid in enumerate(pids):
                store.write(pid, page(number))
            nodes(where, "--drain", where.nodes[0].address)
            joined = where.more()
            eventually(lambda: joined.address in where.up())
            eventually(lambda: 0 < info(where, joined)["done"] < 80)
            store.write(pids[0], page(100))
            assert addresses(store) == {where.nodes[0].address: 1} and info(where, joined)["making"] == 1
            where.coordinator.end()
            assert where.coordinator.popen.returncode == 0
            where.coordinator.more = [each for each in where.coordinator.more if each not in ("--copy-rate", "1")]
            where.coordinator.start()
            eventually(lambda: addresses(store) == {joined.address: 1})
            assert [number_of(store.read(pid)) for pid in pids] == [100, *range(1, 80)]
