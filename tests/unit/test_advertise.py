"""The address of an agent: the one at which peers reach it, which may be another than the one on which it listens."""

from pathlib import Path

import clusters
import pytest
from names_server import process_that_serves
from tcp_relay import Relay

import dsmem
from dsmem import errors

SECRET = b"0bec7" * 12 + b"0b1e"
SECONDS = 60


def read(remote, offset, nbytes):
    buffer = bytearray(nbytes)
    remote.read(offset, buffer)
    return bytes(buffer)


def test_an_address_that_peers_use_and_the_owner_does_not_have():
    with Relay() as relay:
        options = {"secret": SECRET, "listen": relay.listen, "advertise": relay.advertise}
        with (
            dsmem.Context("tcp", **options) as owner,
            owner.allocate(8) as region,
            dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1") as user,
        ):
            assert owner.agent_address == f"tcp:{relay.advertise}"
            assert region.descriptor.ways[0].address == owner.agent_address
            with user.attach(region.descriptor) as remote:
                assert [remote.fetch_add(0, 1) for _ in range(3)] == [0, 1, 2]


def test_a_port_that_is_not_advertised_is_the_one_that_it_listens_on():
    with dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1", advertise="my.host") as owner:
        assert owner.agent_address.startswith("tcp:my.host:") and not owner.agent_address.endswith(":0")
    with dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1", advertise="[fd00::7]:7000") as owner:
        assert owner.agent_address == "tcp:[fd00::7]:7000"


@pytest.mark.parametrize("address", ["", ":7000", "host:0", "host:65536", "host:port", "h" * 80])
def test_an_address_that_no_peer_can_dial_is_not_advertised(address):
    with pytest.raises(errors.InvalidArgumentError, match="host:port"):
        dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1", advertise=address)


@pytest.mark.parametrize(
    ("address", "warns"), [("8.8.4.4", True), ("[2001:4860::1]", True), ("10.1.2.3", False), ("a.host", False)]
)
def test_a_public_address_is_logged_once(caplog, address, warns):
    for _ in range(2):
        with dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1", advertise=f"{address}:7000"):
            pass
    said = [record.message for record in caplog.records if record.name == "dsmem"]
    assert len(said) == warns
    assert all(f"tcp:{address}:7000" in text and "encrypted" in text for text in said)


def test_only_what_listens_advertises():
    with pytest.raises(errors.InvalidArgumentError, match="only this host"):
        dsmem.Context("shm", secret=SECRET, advertise="10.0.0.1")


def test_ipv6():
    """Names, a store and a queue of a server, and memory of a context, all by addresses of IPv6."""
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this kernel has no IPv6")
    with (
        clusters.of_its_own() as name,
        process_that_serves(SECRET, host="[::1]") as (_, address),
        dsmem.Context("tcp", secret=SECRET, listen="[::1]") as context,
        dsmem.connect(f"{address}/{name}", context=context) as cluster,
    ):
        assert address.startswith("tcp://[::1]:")
        with cluster.queue("q", create=True) as queue, cluster.store("s", create=True, capacity="1MiB") as store:
            queue.put(b"a message")
            assert queue.get(timeout=SECONDS) == b"a message"
            pid = store.allocate()
            store.write(pid, b"a page".ljust(4096))
            assert bytes(store.read(pid)).startswith(b"a page")
        with context.allocate(64) as region, dsmem.Context("tcp", secret=SECRET, listen="[::1]") as user:
            with user.attach(region.descriptor) as remote:
                assert remote.fetch_add(0, 5) == 0 and remote.fetch_add(0, 1) == 5
        for each in ("q", "s"):
            cluster.unlink(each)
