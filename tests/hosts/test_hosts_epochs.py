"""A store of a coordinator whose copies are at two hosts, between which the link is cut, both ways and one way."""

import bisect
import contextlib
import os
import subprocess
import time

import pytest
from names_server import SERVE
from network import OTHER, until
from other import SECRET
from paging import SIZE, number_of, page
from scenes import Moves

import dsmem

pytestmark = pytest.mark.skipif(bool(OTHER), reason="it starts processes at both hosts, and looks at one clock")
ACCOUNTS, AMOUNT = 12, 1000
SOME = 30  # transfers, writes and reads
HOW = ["cut", "deafen", "silence"]


@contextlib.contextmanager
def served(host, prefix, *more):
    """`dsmem serve` at an address of a host, and what it says."""
    command = [*prefix, *SERVE, "--listen", f"{host}:0", "--grace", "3600", *more]
    env = {**os.environ, "DSMEM_SECRET": SECRET.decode()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


@pytest.fixture
def coordinator(network, tmp_path):
    """With a memory node here, and two at the other host."""
    with contextlib.ExitStack() as stack:
        options = ("--coordinator", "--state", str(tmp_path), "--silence", "1.5")
        address = stack.enter_context(served(network.ours, [], *options))
        for host, prefix, domain in (
            (network.ours, [], "here"),
            (network.theirs, network.command, "there"),
            (network.theirs, network.command, "there"),
        ):
            stack.enter_context(served(host, prefix, "--join", address, "--domain", domain))
        yield address


def domains(store):
    health = store.health()
    return [copy["domain"] for copy in health["copies"]] if health["open"] and not health["missing"] else []


@pytest.fixture
def clients(network, there, coordinator, cluster_name):
    """The address of the cluster, and a context at each side."""
    with (
        dsmem.Context("tcp", listen=network.ours, secret=SECRET, peer_timeout=2) as ours,
        there.run("scenes:context", "tcp", network.theirs, SECRET, peer_timeout=2) as theirs,
    ):
        yield f"{coordinator}/{cluster_name}", ours, theirs


@pytest.fixture
def store(clients):
    address, ours, _ = clients
    properties = {"page_size": SIZE, "capacity": 100 * SIZE, "members": 8, "replicas": 2}
    with dsmem.connect(address, context=ours) as cluster, cluster.store("db", create=True, **properties) as store:
        assert sorted(domains(store)) == ["here", "there"] and store.health()["domains"] == 2
        yield store


@contextlib.contextmanager
def parted(network, store, how):
    """The store goes on with the copy at the coordinator's side; afterwards it has both again."""
    getattr(network, how)()
    try:
        until(lambda: [copy["domain"] for copy in store.health()["copies"]] == ["here"])
        yield
    finally:
        network.heal()
    until(lambda: sorted(domains(store)) == ["here", "there"])


def goes_on(*clients, meanwhile=lambda: None):
    before = [each.progress() for each in clients]
    until(lambda: meanwhile() or all(each.progress() > n + SOME for each, n in zip(clients, before, strict=True)))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", HOW)
def test_money_is_moved_at_both_sides(network, there, clients, store, how):
    """The client of the other side goes on when the link is there again."""
    address, ours, theirs = clients
    accounts = store.allocate_many(ACCOUNTS).tolist()
    for pid in accounts:
        store.write(pid, page(AMOUNT))
    with (
        contextlib.closing(Moves(ours, address, accounts)) as here,
        contextlib.closing(there.run("scenes:Moves", theirs, address, accounts)) as far,
    ):
        goes_on(here, far)
        with parted(network, store, how):
            goes_on(here)
        goes_on(here, far)
        ended = here.close(), far.close()
    for failed, found, known, unknown in ended:
        assert not failed and known <= found <= known + unknown
    assert sum(number_of(store.read(pid)) for pid in accounts) == ACCOUNTS * AMOUNT
    assert store.check()["wrong"] == {}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", HOW)
def test_no_read_at_the_other_side_is_stale(network, there, clients, store, how):
    """None that is begun after a write was acknowledged has an older number, though it can reach a copy."""
    address, _, theirs = clients
    pid, written = store.allocate(), []

    def write():
        store.write(pid, page(len(written) + 1))
        written.append(time.monotonic())

    write()
    with contextlib.closing(there.run("scenes:Reads", theirs, address, pid)) as reads:
        goes_on(reads, meanwhile=write)
        with parted(network, store, how):
            for _ in range(SOME):
                write()
                time.sleep(0.02)  # the reads of the other side are to be among them
        goes_on(reads, meanwhile=write)
        failed, seen = reads.close()
    assert not failed
    for begun, number in seen:
        assert number >= bisect.bisect_left(written, begun)
