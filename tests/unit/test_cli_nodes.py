"""dsmem nodes, and the options of dsmem serve for coordinators and memory nodes."""

import json
import os
import signal

import pytest
from click.testing import CliRunner
from epochs import SECRET, eventually, together
from names_server import process_that_serves

from dsmem.cli import main


def run(*arguments, code=0):
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    result = CliRunner().invoke(main, arguments, env={**os.environ, "DSMEM_SECRET": SECRET.decode()})
    assert result.exit_code == code, result.output
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    return result.output


def test_nodes_are_listed(tmp_path):
    with together(tmp_path, 1) as where:
        other = where.more("--domain", "rack 2")
        eventually(lambda: len(where.up()) == 2)
        found = json.loads(run("nodes", "-c", where.coordinator.address, "--json"))
        assert sorted(
            (each["address"], each["domain"], each["is_up"], each["copies"], each["stale"]) for each in found
        ) == (sorted([(where.nodes[0].address, "127.0.0.1", True, 0, 0), (other.address, "rack 2", True, 0, 0)]))
        other.kill()
        eventually(lambda: len(where.up()) == 1)
        lines = run("nodes", "-c", where.coordinator.address).splitlines()
        assert len(lines) == 3
        assert [line for line in lines if other.address in line and "silent" in line and "rack 2" in line]


def test_a_coordinator_without_nodes(tmp_path):
    with together(tmp_path, 0) as where:
        assert "no memory nodes" in run("nodes", "-c", where.coordinator.address)


def test_a_server_that_is_no_coordinator():
    with process_that_serves(SECRET) as (_, address):
        assert "is no coordinator" in run("nodes", "-c", address, code=1)


def test_one_coordinator_has_a_folder(tmp_path):
    with together(tmp_path, 0):
        more = "--coordinator", "--state", str(tmp_path)
        assert "another coordinator" in run("serve", "--listen", "127.0.0.1:0", *more, code=1)


@pytest.mark.parametrize(
    "more",
    [
        ["--coordinator"],
        ["--state", "folder"],
        ["--domain", "a"],
        ["--join", "somewhere"],
        ["--coordinator", "--state", "folder", "--lease", "0"],
    ],
)
def test_options_that_do_not_go_together(more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("serve", "--listen", "127.0.0.1:0", *more, code=2)


@pytest.mark.parametrize("address", ["somewhere", "tcp://h"])
def test_no_address(address):
    assert "the address of a cluster" in run("nodes", "-c", address, code=2)


def test_the_address_of_several_nodes():
    assert "a coordinator stands alone" in run("nodes", "-c", "tcp://a:1,b:2", code=2)
