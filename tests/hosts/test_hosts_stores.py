"""Stores of two copies, one at each host, whose clients are at both."""

import contextlib

import pytest
from network import ALIVE_TIMEOUT, PORT, programs, until
from other import SECRET, There
from paging import ACCOUNTS, SIZE, START, number_of, page
from scenes import Node, Transfers
from store_nodes import check_equal, eventually

import dsmem
from dsmem import errors

SOME = 5


@pytest.fixture
def address(network, between, owner, there, cluster_name):
    """Of a cluster with a memory node here and one there."""
    with (
        dsmem.Context(between, listen=network.ours, secret=SECRET, peer_timeout=ALIVE_TIMEOUT) as context,
        contextlib.closing(Node(context)) as ours,
        there.run("scenes:Node", owner) as theirs,
    ):
        yield f"tcp://{ours.at()},{theirs.at()}/{cluster_name}"


@pytest.fixture
def cluster(peer, address):
    with dsmem.connect(address, context=peer) as cluster:
        yield cluster


@pytest.fixture
def store(cluster):
    properties = {"page_size": SIZE, "capacity": 100 * SIZE, "members": 3, "replicas": 2}
    with cluster.store("s", create=True, **properties) as store:
        yield store
    check_equal(cluster, 2)
    cluster.unlink("s")


def total(store, accounts):
    return sum(number_of(page) for page in store.snapshot(accounts))


def test_a_client_of_the_other_host_is_killed_in_transactions(network, program, between, peer, address, cluster, store):
    """The sum is the same at every instant, others go on with all accounts, and the place of the client is free."""
    accounts = store.allocate_many(ACCOUNTS).tolist()
    store.write_many(accounts, page(START) * ACCOUNTS)
    with contextlib.closing(Transfers(peer, address, accounts)) as ours:
        with programs(network, PORT + 2) as killed, There(killed.address) as there:
            client = there.run("scenes:context", between, network.theirs, SECRET, peer_timeout=ALIVE_TIMEOUT)
            theirs = there.run("scenes:Transfers", client, address, accounts)
            until(lambda: theirs.failed or theirs.made > SOME)
            assert not theirs.failed
            assert total(store, accounts) == ACCOUNTS * START
            killed.kill()
        made = ours.made
        until(lambda: ours.failed or ours.made > made + SOME)
        assert not ours.failed
        assert total(store, accounts) == ACCOUNTS * START
        for pid in accounts:
            store.run(lambda tx, pid=pid: tx.write(pid, bytes(tx.read(pid))))
        with eventually(lambda: cluster.store("s"), errors.TooManyMembersError) as another:
            assert total(another, accounts) == ACCOUNTS * START
    assert not ours.failed
    assert store.check()["wrong"] == {}
