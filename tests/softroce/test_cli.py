"""The command line on verbs."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from dsmem.cli import examine, main


def test_bench() -> None:
    result = CliRunner().invoke(
        main, ["bench", "-f", "verbs", "-n", "20", "-t", "8", "-s", "8", "-s", "4096", "--json"]
    )
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["capabilities"]["fabric"] == "verbs" and document["capabilities"]["device"]
    assert len(document["rows"]) == 12 and all(row["latency_us"]["median"] > 0 for row in document["rows"])


def troubles() -> list[dict[str, Any]]:
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["fabrics"]["verbs"]["works"]
    return list(found["troubles"])


@pytest.fixture
def soft_device() -> Iterator[str]:
    """A second SoftRoCE device, on an interface of its own that has no address and is down."""
    steps = ["ip link add dsmem0 type dummy", "rdma link add dsmem_rxe type rxe netdev dsmem0"]
    if os.geteuid() or examine.softroce() != "loaded":
        pytest.skip("needs root and rdma_rxe")
    for step in steps:
        subprocess.run(step.split(), check=True)
    yield "dsmem_rxe"
    subprocess.run(["rdma", "link", "delete", "dsmem_rxe"], check=True)
    subprocess.run(["ip", "link", "delete", "dsmem0"], check=True)


def test_port_down(soft_device: str) -> None:
    down = next(t for t in troubles() if t["subject"] == f"{soft_device} port 1")
    assert "is down" in down["reason"] and down["remedy"] == ["ip link set dsmem0 up"]
    subprocess.run(down["remedy"][0].split(), check=True)
    end = time.monotonic() + 30
    while any(soft_device in t["subject"] for t in troubles()):
        assert time.monotonic() < end, "the port stays down"
        time.sleep(0.1)
    assert soft_device in CliRunner().invoke(main, ["doctor"]).stdout
