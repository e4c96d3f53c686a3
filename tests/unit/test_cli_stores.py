"""dsmem store and dsmem top where copies are missing or nodes do not answer, and dsmem nodes --forget."""

import contextlib
import json
import os
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner
from epochs import PROPERTIES, SECONDS, SECRET, Process, eventually, together
from paging import page

import dsmem
from dsmem import errors
from dsmem.cli import main, rows
from dsmem.names.base import NameInfo


def run(*arguments, code=0):
    env = {**os.environ, "DSMEM_SECRET": SECRET.decode(), "COLUMNS": "300"}
    result = CliRunner().invoke(main, arguments, env=env)
    assert result.exit_code == code, result.output
    return result.output


def made(cluster, replicas=2, **more):
    return cluster.store("db", create=True, replicas=replicas, **{**PROPERTIES, **more})


def lacking(where, store):
    """One of two nodes is gone, and the store has gone on with the other one."""
    gone = where.node_of(store, 1)
    gone.kill()
    eventually(lambda: store.health()["missing"] and store.health()["open"])
    return gone


def test_copies_that_are_missing_are_shown(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        at = "-c", where.address
        assert "2/2" in run("store", "ls", *at) and "trouble" not in run("store", "ls", *at)
        text = run("store", "stat", "db", *at)
        assert "copies     2/2\n" in text and "domains    1, whose copies may be lost together\n" in text
        assert run("store", "check", "db", *at) == "100 pages, 0 wrong, 0 repaired\n"
        assert run("store", "wait", "db", *at) == "2/2 copies\n"
        lacking(where, store)
        why = "no memory node is free for it; 1 of 2 answer; start one more"
        for command in (("store", "ls"), ("top", "-n", "1")):
            text = run(*command, *at)
            assert "1/2" in text and f"copy 1: {why}" in text
        (row,) = json.loads(run("store", "ls", "--json", *at))
        assert row["health"]["missing"][0]["why"] == why and row["pages"] == 100
        text = run("store", "stat", "db", *at)
        assert "copies     1/2\n" in text and f"trouble    copy 1: {why}" in text
        assert f"copy 1 is missing: {why}" in run("store", "check", "db", *at, code=1)
        assert f"1/2 copies: copy 1: {why}" in run("store", "wait", "db", "-t", "0", *at, code=1)
        where.more()
        assert run("store", "wait", "db", "-t", str(SECONDS), *at) == "2/2 copies\n"
        assert store.health()["trouble"] == ""


def test_a_store_that_is_not_open(tmp_path):
    """It is not opened, so that no command waits for it."""
    with together(tmp_path, 1) as where, where.client() as cluster, made(cluster, 1) as store:
        at = "-c", where.address
        where.nodes[0].stop()
        eventually(lambda: not store.health()["open"])
        silent = f"copy 0 at {where.nodes[0].address} does not answer since"
        assert silent in run("store", "ls", *at) and silent in run("top", "-n", "1", *at)
        for command in ("stat", "check"):
            assert silent in run("store", command, "db", *at, code=1)
        assert "silent" in run("top", "-n", "1", *at)
        where.nodes[0].go_on()
        eventually(lambda: store.health()["open"])


def test_wait_where_no_copy_comes(tmp_path, here):
    with together(tmp_path, 1) as where, where.client() as cluster, made(cluster, 1) as store:
        where.nodes[0].kill()
        where.nodes[0].start()
        eventually(lambda: "have ended" in store.health()["trouble"])
        assert "have ended" in run("store", "wait", "db", "-c", where.address, code=1)
    assert "has no coordinator" in run("store", "wait", "db", "-c", here.name, code=1)


@contextlib.contextmanager
def two_servers(cluster_name):
    """Two memory nodes without a coordinator, the address of a cluster there, and that cluster."""
    with contextlib.ExitStack() as stack:
        nodes = [Process() for _ in range(2)]
        for node in nodes:
            stack.callback(node.kill)
            stack.callback(node.go_on)
        address = f"tcp://{','.join(node.address.removeprefix('tcp://') for node in nodes)}/{cluster_name}"
        own = stack.enter_context(dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1"))
        yield nodes, address, stack.enter_context(dsmem.connect(address, context=own))


def test_stores_whose_node_is_stopped_are_asked_side_by_side(cluster_name):
    """Without a coordinator: each is waited for, but for one time in all, and the command ends."""
    with two_servers(cluster_name) as (nodes, address, cluster):
        for name in "abcdef":
            with cluster.store(name, create=True, replicas=2, **PROPERTIES) as store:
                store.write(store.allocate(), page(1))
        nodes[1].stop()
        env = {**os.environ, "DSMEM_SECRET": SECRET.decode()}
        command = [sys.executable, "-m", "dsmem", "store", "ls", "--json", "-c", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=env)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert [row["name"] for row in found] == list("abcdef")
        assert all("no answer within" in row["error"] or "copy 1" in row["error"] for row in found)
        nodes[1].go_on()
        for name in "abcdef":
            cluster.unlink(name)


def test_a_store_that_is_being_asked_is_not_asked_again(monkeypatch):
    """As `dsmem top` would do every two seconds."""
    go_on, calls = threading.Event(), []

    class Place:
        cluster = "c"

        def infos(self):
            return [NameInfo("s", "store", 1, "", 0.0, "name")]

    def stat(address, name):
        calls.append(name)
        assert go_on.wait(SECONDS)
        return {"pages": 1}

    monkeypatch.setattr(rows, "_stat", stat)
    asked = rows.Rows()
    for _ in range(3):
        (row,) = asked.of([Place()], 0.05)
        assert "no answer within 0.05 s" in row["error"]
    assert calls == ["s"]
    go_on.set()
    eventually(lambda: "error" not in asked.of([Place()], SECONDS)[0])


def test_nodes_that_have_ended_are_forgotten(tmp_path):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        at = "-c", where.coordinator.address
        other = where.more()
        eventually(lambda: len(where.up()) == 3)
        assert "answers; end it before" in run("nodes", *at, "--forget", other.address, code=1)
        assert "is no memory node" in run("nodes", *at, "--forget", "tcp://127.0.0.1:1", code=1)
        other.kill()
        gone = lacking(where, store)
        lines = run("nodes", *at).splitlines()
        assert len(lines) == 4 and "silent" not in lines[1]
        assert gone.address in lines[2] + lines[3] and "silent" in lines[2] and "silent" in lines[3]
        eventually(lambda: len(where.up()) == 1)
        for each in (other, gone):
            assert run("nodes", *at, "--forget", each.address) == f"forgot {each.address}\n"
        assert [info.address for info in where.infos()] == [where.node_of(store, 0).address]
        assert store.health()["open"]
        where.coordinator.kill()
        where.coordinator.start()
        assert len(where.infos()) == 1


def test_a_node_with_the_only_copy_is_not_forgotten(tmp_path):
    with together(tmp_path, 1) as where, where.client() as cluster, made(cluster, 1) as store:
        where.nodes[0].stop()
        eventually(lambda: not store.health()["open"])
        at = "-c", where.coordinator.address
        assert "has a copy at" in run("nodes", *at, "--forget", where.nodes[0].address, code=1)
        where.nodes[0].go_on()
        eventually(lambda: store.health()["open"])


@pytest.mark.parametrize("first", [True, False])
def test_a_coordinator_in_a_list_of_nodes(tmp_path, cluster_name, first):
    with together(tmp_path, 1) as where, dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1") as own:
        each = [process.address.removeprefix("tcp://") for process in (where.coordinator, where.nodes[0])]
        at = f"tcp://{','.join(each if first else each[::-1])}/{cluster_name}"
        with dsmem.connect(at, context=own) as cluster:
            for create in (True, None):
                with pytest.raises(errors.InvalidArgumentError, match=r"is a coordinator.* name it alone"):
                    cluster.store("db", create=create, replicas=2, **PROPERTIES)
            assert cluster.list() == []
