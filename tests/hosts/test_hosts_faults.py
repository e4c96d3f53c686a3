"""The link between two hosts is cut, one way and both, loses and delays packets; and a host dies without a word."""

import contextlib
import json
import socket
from pathlib import Path

import pytest
from accounts import FAILED, SECONDS, at_last, at_work, check, limit, users_of
from click.testing import CliRunner
from network import FABRICS, PEER_TIMEOUT, PORT, dying, until
from other import SECRET

import dsmem
from dsmem.cli import main

SHORT = 0.2  # for an op that may get no answer


@pytest.fixture
def using(network, between):
    with dsmem.Context(between, listen=network.ours, secret=SECRET, peer_timeout=PEER_TIMEOUT) as context:
        yield context


@pytest.fixture
def region(there, owner):
    """That of the users of accounts.py."""
    with there.run("scenes:accounts", owner) as region:
        yield region


@pytest.fixture
def remote(using, region):
    with using.attach(region.descriptor, timeout=SECONDS) as remote:
        yield remote


@pytest.mark.parametrize("how", ["cut", "deafen", "silence"])
def test_each_op_has_an_outcome_that_is_true(network, there, region, remote, how):
    users = users_of(remote)
    with at_work(users):
        limit(users, SHORT)
        try:
            getattr(network, how)()
            for user in users:
                user.see("rounds")
        finally:
            network.heal()
        for user in users:
            user.timeout = SECONDS
        for user in users:
            user.see("good")
    check(users, there.run("scenes:words", region))


@pytest.mark.parametrize("what", ["delay 20ms", "loss 5%", "delay 5ms 5ms loss 2%"])
def test_a_link_that_loses_and_delays(queueing, there, region, remote, what):
    users = users_of(remote)
    with at_work(users):
        queueing("netem", *what.split())
        for user in users:
            user.see("good")
        queueing("pfifo")
    check(users, there.run("scenes:words", region))


def connections(process, network):
    """How many connections with the other host are up in the namespace of the process, but for those of the tests."""
    found = 0
    for line in Path(f"/proc/{process}/net/tcp").read_text().splitlines()[1:]:
        ends = [end.split(":") for end in line.split()[1:3]]
        addresses = {socket.inet_ntoa(bytes.fromhex(address)[::-1]) for address, _ in ends}
        is_up, ports = line.split()[3] == "01", {int(port, 16) for _, port in ends}
        found += is_up and PORT not in ports and addresses == {network.ours, network.theirs}
    return found


def test_an_idle_connection_notices_that_the_link_is_cut(network, program, there, remote):
    """Both ends do, without an op: the kernel asks the other host whether it is there."""
    assert remote.fetch_add(0, 1, timeout=SECONDS) == 0
    assert connections("self", network)
    network.deafen()
    try:
        until(lambda: not connections("self", network))
        if program.process:
            until(lambda: not connections(program.process, network))
    finally:
        network.heal()
    assert at_last(lambda: remote.fetch_add(0, 1, timeout=SECONDS)) == 1


def test_bench(network, monkeypatch):
    """The program of the other host has started its server."""

    def answers():
        try:
            socket.create_connection((network.theirs, 18515), SECONDS).close()
        except ConnectionRefusedError:
            return False
        return True

    monkeypatch.setenv("DSMEM_SECRET", SECRET.decode())
    until(answers)
    sizes = ["-s", "8", "-s", "4096"]
    done = CliRunner().invoke(main, ["bench", network.theirs, "-n", "3", "-t", "4", *sizes, "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert {row["op"] for row in document["rows"]} >= {"read", "write", "fetch-add", "compare-swap", "batch"}


def test_a_host_that_dies_without_a_word(network):
    """It is the last test here: every op ends, on each fabric, though no end of a connection comes."""
    with dying(network) as (there, die), contextlib.ExitStack() as stack:
        remotes = []
        for fabric in FABRICS:
            owner = there.run("scenes:context", fabric, network.theirs, SECRET)
            region = there.run("scenes:accounts", owner)
            using = dsmem.Context(fabric, listen=network.ours, secret=SECRET, peer_timeout=PEER_TIMEOUT)
            remote = stack.enter_context(using).attach(region.descriptor, timeout=SECONDS)
            remotes.append(stack.enter_context(remote))
        users = [user for remote in remotes for user in users_of(remote)]
        with at_work(users):
            for user in users:
                user.timeout = None  # the limits are those of the core
            die()
            for user in users:
                user.see("rounds")
        for remote in remotes:
            with pytest.raises(FAILED):
                remote.read(0, bytearray(8))
