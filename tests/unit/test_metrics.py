"""`dsmem serve --metrics`: what a coordinator and memory nodes expose, and that the document has all names."""

import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from epochs import PROPERTIES, SECONDS, SECRET, Process, eventually, together
from names_server import SERVE

from dsmem import metrics
from dsmem.cli.metrics import endpoint

DOCUMENT = Path(__file__).parents[2] / "docs/howto/metrics.md"


def figures(log):
    """What is exposed by the process that has this log: values by name and labels."""
    eventually(lambda: "metrics at " in log.read_text())
    url = re.search(r"metrics at (\S+)", log.read_text())[1]
    with urllib.request.urlopen(url, timeout=SECONDS) as reply:
        return values(reply.read().decode())


def values(text):
    """By name and labels."""
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def of_this_process():
    import prometheus_client

    registry = prometheus_client.CollectorRegistry()
    registry.register(metrics.StoreCollector())
    return values(prometheus_client.generate_latest(registry).decode())


def test_what_is_exposed(tmp_path):
    pytest.importorskip("prometheus_client")
    log, of_node = tmp_path / "log", tmp_path / "log of the node"
    with together(tmp_path / "state", 1, "--metrics", "0", log=log) as where, where.client() as cluster:
        where.nodes.append(Process("--join", where.coordinator.address, "--metrics", "127.0.0.1:0", log=of_node))
        eventually(lambda: len(where.up()) == 2)
        with cluster.store("db", create=True, replicas=2, **PROPERTIES) as store:
            here, there = figures(log), figures(of_node)
            label = f'{{cluster="{cluster.name}",store="db"}}'
            assert here['dsmem_nodes{state="up"}'] == 2 and here['dsmem_nodes{state="silent"}'] == 0
            assert here['dsmem_stores{state="open"}'] == 1 and here['dsmem_stores{state="lost"}'] == 0
            assert here[f"dsmem_store_copies{label}"] == here[f"dsmem_store_copies_wanted{label}"] == 2
            assert here[f"dsmem_store_epoch{label}"] == 1 and here[f"dsmem_store_pages_to_fill{label}"] == 0
            assert here['dsmem_requests_total{request="store_make"}'] == 1
            assert there["dsmem_copies"] == 1 and there["dsmem_registered"] == 1
            assert there["dsmem_copies_bytes"] * 2 == here[f"dsmem_store_bytes{label}"]
            assert there["dsmem_held_bytes"] >= there["dsmem_copies_bytes"]
            store._reports_at = 0.0
            store.version(store.allocate())
            store._epoch.lease.until = 0.0
            store._reports_at = 0.0
            store.read(store.allocate())
            told = {key: value for key, value in figures(log).items() if 'store="db"' in key and 'fabric="tcp"' in key}
            assert any(key.startswith("dsmem_store_calls_total") and 'call="allocate"' in key for key in told)
            assert sum(value for key, value in told.items() if 'call="version"' in key and "calls" in key) == 1
            where.nodes[0].kill()
            eventually(lambda: store.health()["missing"] and store.health()["open"])
            after = figures(log)
            assert after['dsmem_nodes{state="silent"}'] == 1 and after[f"dsmem_store_copies{label}"] == 1
            assert after[f"dsmem_store_epoch{label}"] > 1
        named = {re.match(r"\w+", each)[0] for each in {**here, **there, **of_this_process()}}
        times = {"dsmem_store_call_seconds" + end for end in ("_bucket", "_count", "_sum")}
        named = named - times | {"dsmem_store_call_seconds"}
        assert named == set(re.findall(r"^\| `(\w+)`", DOCUMENT.read_text(), re.M))


def test_a_port_that_is_taken():
    pytest.importorskip("prometheus_client")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, text = ended("--metrics", str(taken.getsockname()[1]))
        assert status == 1 and "--metrics 127.0.0.1:" in text and "Traceback" not in text


def test_without_the_package():
    """The message has the remedy."""
    code = "import sys; sys.modules['prometheus_client'] = None; from dsmem.cli import main; sys.exit(main())"
    status, text = ended("--metrics", "0", command=[sys.executable, "-c", code, "serve"])
    assert status == 1 and "pip install 'dsmem[metrics]'" in text


def ended(*arguments, command=SERVE):
    env = {"DSMEM_SECRET": SECRET.decode()}
    command = [*command, "--listen", "127.0.0.1:0", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=env)
    return found.returncode, found.stderr


@pytest.mark.parametrize("text", ["", "host", "70000", "host:port", ":"])
def test_no_port(text):
    assert ended("--metrics", text)[0] == 2


def test_where_it_is_exposed():
    assert str(endpoint("9700")) == "127.0.0.1:9700" and str(endpoint("[::1]:9700")) == "[::1]:9700"
