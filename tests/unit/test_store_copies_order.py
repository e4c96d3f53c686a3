"""A store whose creator has died half way, and clients that name its memory nodes in another order.

Each node has a /dev/shm of its own, as on a host of its own: nodes that share one have each other's names.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess

import names_server
import pytest
from paging import number_of, page
from store_nodes import SECONDS, SECRET, client, made, where

from dsmem import errors
from dsmem.names import copies

ALONE = [
    "unshare",
    "--mount",
    *([] if os.geteuid() == 0 else ["--map-root-user"]),
    "bash",
    "-c",
    'mount -t tmpfs tmpfs /dev/shm && exec "$@"',
    "bash",
]
CAN = shutil.which("unshare") is not None and not subprocess.run([*ALONE, "true"], capture_output=True).returncode
pytestmark = pytest.mark.skipif(not CAN, reason="needs mount namespaces")
spawn = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def nodes():
    """Addresses of three nodes."""
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(names_server, "SERVE", [*ALONE, *names_server.SERVE])
        served = [stack.enter_context(names_server.process_that_serves(SECRET, "--grace", "0"))[1] for _ in range(3)]
        yield [at.removeprefix("tcp://") for at in served]


def die_at(address, step, shape):
    """Make a store, and be killed before or after one of its copies is made, or before it is complete."""
    steps = 0

    def at_a_step(real):
        def call(*given):
            nonlocal steps
            for _ in range(2):
                if steps == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                steps += 1
                if steps % 2:
                    found = real(*given)
            return found

        return call

    copies._attached_or_made = at_a_step(copies._attached_or_made)
    copies._core.store_settle = at_a_step(copies._core.store_settle)
    with client(address) as (cluster, _):
        made(cluster, **shape)


def names_at(nodes, name):
    """What each node has of the store."""
    found = []
    for node in nodes:
        with client(where([node], name)) as (cluster, _):
            found.append([info.name for info in cluster.list()])
    return found


SHAPES = {"three copies": {"replicas": 3}, "extents": {"replicas": 1, "extents": 3, "capacity": 99 * 256}}


@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize("shape", SHAPES)
def test_a_creator_that_dies(nodes, cluster_name, shape, step):
    """Nothing is made at a node where its creator would not have made it; those that name the nodes so complete it."""
    process = spawn.Process(target=die_at, args=(where(nodes, cluster_name), step, SHAPES[shape]))
    process.start()
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGKILL
    a, b, c = nodes
    before = names_at(nodes, cluster_name)
    with client(where([a, c, b], cluster_name)) as (other, _):
        for create in (None, False):
            with pytest.raises(errors.MismatchError, match=r"other memory nodes .*, or in another order"):
                other.store("s", create=create, **(SHAPES[shape] if create is None else {}))
        assert names_at(nodes, cluster_name) == before
        with client(where(nodes, cluster_name)) as (cluster, _), cluster.store("s") as store:
            pid = store.allocate()
            store.write(pid, page(1))
            after = names_at(nodes, cluster_name)
            with pytest.raises((errors.MismatchError, errors.CorruptError)):
                other.store("s")
            assert names_at(nodes, cluster_name) == after and number_of(store.read(pid)) == 1
            store.unlink()
    assert names_at(nodes, cluster_name) == [[], [], []]


def test_a_node_in_place_of_another(nodes, cluster_name):
    """Two copies: the creator has made the second one at a node that the next client does not name."""
    a, b, c = nodes
    process = spawn.Process(target=die_at, args=(where([a, b], cluster_name), 1, {"replicas": 2}))
    process.start()
    process.join(SECONDS)
    assert names_at(nodes, cluster_name) == [["s"], ["s+1"], []]
    with client(where([a, c], cluster_name)) as (other, _):
        with pytest.raises(errors.MismatchError, match="as its creator did, or unlink the store"):
            other.store("s")
    with client(where([a, b, c], cluster_name)) as (cluster, _), cluster.store("s") as store:
        store.unlink()
    assert names_at(nodes, cluster_name) == [[], [], []]


def test_a_server_that_begins_again_is_the_same_node(cluster_name):
    """Its names are where they were."""
    with contextlib.ExitStack() as stack:
        first, at = stack.enter_context(names_server.process_that_serves(SECRET, "--grace", "0"))
        with client(f"{at}/{cluster_name}") as (cluster, _):
            known = cluster._names.identity()
        first.kill()
        first.wait(SECONDS)
        port = int(at.rpartition(":")[2])
        _, again = stack.enter_context(names_server.process_that_serves(SECRET, "--grace", "0", port=port))
        with client(f"{again}/{cluster_name}") as (cluster, _):
            assert cluster._names.identity() == known != 0


def test_only_nodes_with_places_count(nodes, cluster_name):
    """A creator that named fewer nodes than the process that completes its store, and one that named too many."""
    gone = spawn.Process(target=die_at, args=(where(nodes[:2], cluster_name), 1, {"replicas": 1, "extents": 2}))
    gone.start()
    gone.join()
    with client(where(nodes, cluster_name)) as (cluster, _), cluster.store("s") as store:
        assert store.stat()["extents"] == 2
        store.unlink()
    away = [*nodes[:2], "127.0.0.1:1"]
    with client(where(away, cluster_name)) as (cluster, _), made(cluster, 1, extents=2) as store:
        store.unlink()
