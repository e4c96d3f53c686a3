"""Stores of a coordinator whose nodes have lost their memory, or whose folder is not the latest: real processes."""

from __future__ import annotations

import contextlib
import shutil
import subprocess

import pytest
from epochs import PROPERTIES, SECONDS, eventually, settled, together, writing
from paging import number_of

from dsmem import errors


def made(cluster, replicas=2):
    return cluster.store("db", create=True, replicas=replicas, **PROPERTIES)


def restarted(node):
    """At once, at the same address, with empty memory."""
    node.kill()
    node.start()


def has_all_copies(store, epoch):
    health = store.health()
    return health["open"] and len(health["copies"]) == 2 and health["epoch"] >= epoch


@pytest.mark.parametrize("place", [0, 1])
def test_a_node_is_another_process_at_once(tmp_path, place):
    """What it has then is no copy that counts: it gets one again, with all pages."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid = store.allocate()
        settled(store, pid, 7)
        with writing(where) as writers:
            eventually(lambda: all(writer.has_written(20) for writer in writers))
            restarted(where.node_of(store, place))
            eventually(lambda: has_all_copies(store, 3))
            before = [writer.acknowledged for writer in writers]
            eventually(lambda: all(w.has_written(n + 20) for w, n in zip(writers, before, strict=True)))
        restarted(where.node_of(store, 0))
        assert number_of(store.read(pid)) == 7


@pytest.mark.parametrize("place", [0, 1])
def test_a_node_is_another_process_while_the_coordinator_is_away(tmp_path, place):
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster) as store:
        pid = store.allocate()
        settled(store, pid, 7)
        node = where.node_of(store, place)
        where.coordinator.kill()
        restarted(node)
        where.coordinator.start()
        eventually(lambda: has_all_copies(store, 3))
        assert number_of(store.read(pid)) == 7
        settled(store, pid, 8)


def refused(coordinator):
    """What a coordinator says that may not decide anything, when it has ended by itself."""
    command = [*coordinator.command, "--listen", f"127.0.0.1:{coordinator.port}", *coordinator.more]
    popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=coordinator.env)
    try:
        _, said = popen.communicate(timeout=SECONDS)
    finally:
        popen.kill()
        popen.wait()
    assert popen.returncode == 1, said
    return said


def test_a_folder_that_was_restored(tmp_path):
    """The node that was left out has an older page. No client sees it, and the latest folder goes on."""
    folder, backup = tmp_path / "state", tmp_path / "backup"
    with together(folder, 2) as where, where.client() as cluster, made(cluster) as store:
        pid = store.allocate()
        settled(store, pid, 1)
        shutil.copytree(folder, backup)
        primary = where.node_of(store, 0)
        primary.stop()
        eventually(lambda: store.health()["epoch"] > 1)
        settled(store, pid, 2)
        where.coordinator.kill()
        primary.go_on()
        shutil.move(folder, tmp_path / "latest")
        shutil.move(backup, folder)
        assert "restored from a backup" in refused(where.coordinator)
        shutil.rmtree(folder)
        shutil.move(tmp_path / "latest", folder)
        where.coordinator.start()
        assert number_of(store.read(pid)) == 2
        settled(store, pid, 3)


def test_a_coordinator_with_another_folder(tmp_path):
    """A node that has copies of the first one refuses it, and is its own when it is started again."""
    with together(tmp_path / "one", 2) as where, where.client() as cluster:
        store = made(cluster, 1)
        holder = where.node_of(store, 0)
        (other,) = (node for node in where.nodes if node is not holder)
        with contextlib.suppress(errors.DsmemError):
            store.close()
        where.coordinator.kill()
        one, two = str(tmp_path / "one"), str(tmp_path / "two")
        where.coordinator.more = tuple(two if each == one else each for each in where.coordinator.more)
        where.coordinator.start()
        eventually(lambda: {each.address: each.is_up for each in where.infos()} == {holder.address: False,
                                                                                    other.address: True})  # fmt: skip
        with where.client() as again, pytest.raises(errors.InvalidArgumentError, match="1 memory nodes"):
            made(again)
        restarted(holder)
        eventually(lambda: len(where.up()) == 2)
        with where.client() as again, made(again) as fresh:
            settled(fresh, fresh.allocate(), 1)
