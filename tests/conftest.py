"""Which fabrics the suites run on: --fabric, as often as wanted; by default what works on this host.

Tests of named objects take the fixture ``cluster``: one of this host and one on each fabric in turn, and ``other``,
which attaches to an object as another process would. With --fabric they run on what it names, and on nothing else.
``remote_place`` names each fabric whose memory is not mapped by others, ``fault_place`` those that take a plan of
faults.
"""

from __future__ import annotations

import gc
import os
import re
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import clusters
import pytest

import dsmem
from dsmem import _core, errors, node_records
from dsmem.names import local

DEFAULT = ("shm", "fault+shm", "tcp")
MORE = ("fault+tcp", "shm,tcp", "fault+shm,fault+tcp")  # for the conformance suite; the last ones of one context
SECRET = b"0bec7" * 12 + b"0b1e"  # a key: a text would be stretched, which takes long in an emulated guest

# Tests that a shell starts in the background ignore it, and so would the processes that they interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _verbs_works() -> bool:
    try:
        _core.probe("verbs")
    except errors.DsmemError:
        return False
    return True


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fabric", action="append", default=[], help="fabric that the suites run on; may be repeated")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    named = metafunc.config.getoption("--fabric")
    chosen = named or [*DEFAULT, *(["verbs", "fault+verbs"] if _verbs_works() else [])]
    if "fabric" in metafunc.fixturenames:
        more = [*MORE] if not named and metafunc.module.__name__.endswith("test_conformance") else []
        metafunc.parametrize("fabric", [*chosen, *more], scope="module")
    remote = [fabric for fabric in chosen if fabric != "shm"]
    places = {
        "cluster_place": named or ["local", *chosen],
        "remote_place": remote,
        "fault_place": [fabric for fabric in remote if fabric.startswith("fault+")],
        "world_place": remote if named else ["local", *remote],
    }
    for fixture, values in places.items():
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, values)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The signal with which the time limit ends a test can also end the wait that had hung, so that the test passes."""
    report = yield
    own = item.get_closest_marker("timeout")
    common = item.config.getoption("timeout", None) or item.config.getini("timeout") or 0
    limit = float(own.args[0] if own and own.args else common)
    if report.when == "call" and report.passed and limit and report.duration >= limit:
        report.outcome, report.longrepr = "failed", f"it took {report.duration:.0f} s: something has hung"
    return report


def pytest_collection_finish() -> None:
    """What is there now lives as long as the run; no collection of garbage has to look through it again."""
    gc.collect()
    gc.freeze()


def _ours() -> set[Path]:
    """What shared memory holds under names with the number of this process."""
    number = re.compile(rf"(?<!\d){os.getpid()}(?!\d)")
    folders = (local.ROOT, local.user_folder(os.geteuid()))
    return {path for folder in folders for path in folder.glob(f"*{os.getpid()}*") if number.search(path.name)}


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """The whole run leaves nothing in shared memory; of names that have no number of the run, nothing can be said.

    Records of nodes that tests have killed are there until another process opens a context, and none may come.
    """
    before = _ours()
    yield
    node_records.sweep()
    assert _ours() <= before


@pytest.fixture
def cluster_name() -> Iterator[str]:
    """Of a cluster of this host that is the test's own, and of which nothing is left."""
    with clusters.of_its_own() as name:
        yield name


@pytest.fixture
def here(cluster_name: str) -> Iterator[dsmem.Cluster]:
    """A cluster of this host."""
    with dsmem.connect(cluster_name) as cluster:
        yield cluster


@pytest.fixture
def cluster(cluster_place: str, cluster_name: str) -> Iterator[dsmem.Cluster]:
    """A cluster of this host, or one in memory of a fabric."""
    if cluster_place == "local":
        with dsmem.connect(cluster_name) as cluster:
            yield cluster
    else:
        with dsmem.Context(cluster_place, secret=SECRET) as context, dsmem.connect(context=context) as cluster:
            yield cluster


@pytest.fixture
def other(cluster_place: str) -> Iterator[Callable[[Any], Any]]:
    """What attaches to an object of the cluster from another context, as another process does."""
    if cluster_place == "local":
        yield lambda of: dsmem.attach(of.ref)
    else:
        with dsmem.Context(cluster_place, secret=SECRET) as context:
            yield lambda of: dsmem.attach(of.ref, context)
