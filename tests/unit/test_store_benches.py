"""The benches of stores over tcp and of workloads: their short forms, and what they count on."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def workloads(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import workloads

    return workloads


def result_of(path, program, *options, seconds=100):
    command = [sys.executable, BENCH / program, *options, "--json", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def test_stores_over_tcp(tmp_path):
    said, found = result_of(tmp_path / "result", "store_tcp.py", "--rounds", "1", "--turn", "0.001")
    assert {"get", "put", "get of 64", "put of 64", "transaction of 4", "read-only of 4"} == set(found["us_per_call"])
    for of in found["us_per_call"].values():
        assert {"dsmem, 1", "dsmem, 2", "dsmem, 3"} <= set(of)
        assert all(us["median"] >= us["least"] > 0 for us in of.values())
    assert found["postings"]["dsmem, 1"]["get"] == 1 and found["postings"]["dsmem, 3"]["put"] == 6
    assert "the goal is at most 1.15" in said


def test_growth(tmp_path):
    short = (
        "--pages",
        "500",
        "--pages",
        "2000",
        "--clients",
        "3",
        "--rounds",
        "2",
        "--seconds",
        "0.01",
        "--tries",
        "1",
    )
    said, found = result_of(tmp_path / "result", "store_growth.py", *short)
    assert set(found["pages"]) == {"500", "2000"} and set(found["clients"]) == {"3"} and len(found["contention"]) == 6
    for of in found["pages"].values():
        assert set(of["us"]) == {"read", "write", "version", "transaction", "memcpy"}
        assert all(us > 0 for us in of["us"].values())
        assert of["attach_ms"] > 0 and of["bytes_a_page"] > 0
    for of in (*found["clients"].values(), *found["contention"].values()):
        assert of["ops_per_s"] > 0 and of["cpu_us"] > 0 and of["retries_per_op"] >= 0
    assert "open, 2000 pages" in said


def test_full(tmp_path):
    short = ("--pages", "1000", "--writes", "50", "--share", "0")
    said, found = result_of(tmp_path / "result", "store_full.py", *short)
    assert set(found["found"]) == {"this host", "a server"}
    for at, shares in found["found"].items():
        assert set(shares) == {"0.0"} and shares["0.0"]["allocate_ms"] > 0
        for one in (shares["0.0"]["1"], shares["0.0"]["2"]):
            assert one["first_ms"] > 0 and one["median_us"] > 0 and one["p99_us"] >= one["median_us"]
            assert one["postings"] is None if at == "this host" else one["postings"] >= 1
    assert said.count("| a server | ") == 2 and said.count("the only free page") == 2


@pytest.mark.parametrize("name", ["ycsb-f", "smallbank"])
def test_workloads(tmp_path, name):
    short = ("--seconds", "0.05", "--records", "130", "--distribution", "zipf", "--place", "here", "--place", "tcp, 3")
    said, found = result_of(tmp_path / "result", "ycsb.py", "--workload", name, *short)
    assert [each["place"] for each in found["figures"]] == ["here", "tcp, 3"]
    for each in found["figures"]:
        assert each["operations"] and each["ops_per_s"] > 0
        assert each["us"]["p50"] <= each["us"]["p99"] <= each["us"]["p99.9"]
    assert found["figures"][1]["postings_per_op"] >= 1
    assert said.count("op/s") == 2


def test_every_operation_of_a_workload(workloads, here):
    """Each does something, and what SmallBank says of its sum is so, and would be missed if it were not."""
    for number, (name, kind) in enumerate(workloads.ALL.items()):
        random = np.random.default_rng(number)
        with here.store(name, page_size=256, capacity=256 * 300, create=True) as store:
            pids = kind.load(store, 300 // kind.PAGES)
            workload = kind(store, pids, workloads.Choice(len(pids), "zipf", random), random)
            for operation in kind.MIX:
                assert getattr(workload, operation)() == 0
            assert {workload.next() for _ in range(1000)} == set(kind.MIX)
            kind.check(store, pids, [getattr(workload, "paid_in", 0)])
            if kind is workloads.SmallBank:
                with pytest.raises(AssertionError, match="is in the bank"):
                    kind.check(store, pids, [workload.paid_in + 1])


def test_a_zipf_distribution(workloads):
    choice = workloads.Choice(1000, "zipf", np.random.default_rng(1))
    counts = np.bincount([choice.rank() for _ in range(20_000)], minlength=1000)
    assert 0.12 < counts[0] / 20_000 < 0.15  # 1 / (1 + 2^-0.99 + ... + 1000^-0.99) is 0.134
    assert counts[:10].sum() > counts[500:].sum()
    assert len({choice() for _ in range(100)}) > 10


@pytest.mark.timeout(400)  # on a busy host; it takes 20 s
def test_recovery(tmp_path):
    said, found = result_of(tmp_path / "result", "store_recovery.py", "--short", seconds=380)
    assert found["curve"]["step"] > 0
    (of,) = found["by_lease"].values()
    for kind, ops in (("primary", ["op"]), ("another", ["op"]), ("client", ["first", "all"])):
        assert len(of[kind]["samples"]) == found["kills"] == 1
        for op in ops:
            assert of[kind]["samples"][0][op]["in_all"] >= of[kind]["samples"][0][op]["beyond"] >= 0
            assert of[kind]["summary"][f"{op}, beyond"]["worst"] >= 0
    assert of["client"]["samples"][0]["locked"] and "the goals are 0.1 and 0.5 s" in said
