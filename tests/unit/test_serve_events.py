"""What `dsmem serve` says on standard error, and how it ends: coordinators and memory nodes, as real processes."""

import contextlib
import logging
import os
import shutil
import subprocess
import threading
import time

import pytest
from epochs import PROPERTIES, SECONDS, SECRET, Process, eventually, together
from names_server import SERVE, process_that_serves

from dsmem import node_records
from dsmem.cli.log import logged
from dsmem.membership.client import Coordination
from dsmem.store import shape_of


def made(cluster, replicas=2, **more):
    return cluster.store("db", create=True, replicas=replicas, **{**PROPERTIES, **more})


def test_a_line_for_each_event(tmp_path):
    log = tmp_path / "log"
    with together(tmp_path / "state", 2, log=log) as where, where.client() as cluster, made(cluster) as store:
        gone = where.node_of(store, 1)
        gone.kill()
        eventually(lambda: "left out" in log.read_text())
        new = where.more()
        eventually(lambda: "made again" in log.read_text())
        text = log.read_text()
        db = f"store 'db' of cluster '{where.name}'"
        for each in (
            f"memory node {gone.address}, domain 127.0.0.1: joined",
            f"{db} is being made: copy 0 at ",
            f"{db}: epoch 1 is open: copy 0 at ",
            f"memory node {gone.address}: silent",
            f"left out: copy 1 at {gone.address}; missing: copy 1",
            f"{db}: copy 1 is being made at {new.address}",
            f"made again: copy 1 at {new.address}",
        ):
            assert each in text, text
        assert all(line[:2] == "20" and line[10] == " " for line in text.splitlines())  # the time


def test_quiet(tmp_path):
    log = tmp_path / "log"
    with together(tmp_path / "state", 2, "--quiet", log=log) as where, where.client() as cluster:
        with made(cluster) as store:
            where.node_of(store, 1).kill()
            eventually(lambda: store.health()["missing"] and store.health()["open"])
        assert log.read_text() == ""


def ended(*arguments, secret=SECRET):
    """A server that is to end by itself: its status and what it has said."""
    env = {**os.environ, "DSMEM_SECRET": secret.decode()}
    command = [*SERVE, "--listen", "127.0.0.1:0", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=env)
    return found.returncode, found.stderr


def test_a_server_that_is_no_coordinator():
    with process_that_serves(SECRET) as (_, address):
        status, text = ended("--join", address)
        assert status == 1 and "the process there is no coordinator" in text and "trying on" in text


def test_a_coordinator_with_another_secret(tmp_path):
    with together(tmp_path, 0) as where:
        status, text = ended("--join", where.coordinator.address, secret=b"another secret than theirs")
        assert status == 1 and "give both the same DSMEM_SECRET" in text


def test_a_coordinator_that_is_not_there_yet(tmp_path):
    """The node says so, and joins when it has come."""
    log = tmp_path / "log"
    with together(tmp_path / "state", 0) as where:
        where.coordinator.kill()
        with contextlib.closing(Node(where.coordinator.address, log)):
            eventually(lambda: "not registered with the coordinator at" in log.read_text())
            where.coordinator.start()
            eventually(lambda: len(where.up()) == 1)
            eventually(lambda: f" registered with the coordinator at {where.coordinator.address}" in log.read_text())


class Node(Process):
    """A memory node."""

    def __init__(self, coordinator, log):
        super().__init__("--join", coordinator, log=log)

    def close(self):
        self.kill()


def test_a_terminal_that_is_stopped_stops_nothing(monkeypatch):
    """Lines that wait are limited, and the block ends."""
    reader, writer = os.pipe()
    monkeypatch.setattr(logging.getLogger("dsmem"), "propagate", False)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        done = threading.Event()

        def log():
            with logged(False):
                for _ in range(5000):
                    logging.getLogger("dsmem").warning("w" * 1000)
            done.set()

        threading.Thread(target=log, daemon=True).start()
        assert done.wait(SECONDS)
        os.close(reader)  # ends what is being written


def test_a_reader_that_has_gone(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        with logged(False):
            logging.getLogger("dsmem").warning("a line")


@pytest.mark.parametrize("quiet", [False, True])
def test_the_logger_is_as_before(quiet):
    logger = logging.getLogger("dsmem")
    before = logger.level, list(logger.handlers)
    with logged(quiet):
        logger.info("an event")
    assert (logger.level, logger.handlers) == before


def ends_without_a_trace(process):
    records = list(node_records.FOLDER.glob(f"dsmem-{process.popen.pid}-*"))
    process.popen.terminate()
    assert process.popen.wait(SECONDS) == 0
    assert records and not any(path.exists() for path in records)


def test_sigterm_of_a_coordinator_whose_node_is_stopped(tmp_path):
    """It ends, though it would wait an hour for the node."""
    with together(tmp_path, 1, "--silence", "3600") as where, where.client() as cluster:
        where.nodes[0].stop()
        Coordination(cluster._names, "db").make(shape_of(replicas=1, **PROPERTIES)[:4], time.monotonic() + SECONDS)
        ends_without_a_trace(where.coordinator)


def test_sigterm_of_a_node_whose_coordinator_is_stopped(tmp_path):
    with together(tmp_path, 0) as where:
        where.coordinator.stop()
        with contextlib.closing(Node(where.coordinator.address, tmp_path / "log")) as node:
            ends_without_a_trace(node)


def test_a_coordinator_that_cannot_write_ends_with_status_1(tmp_path):
    log = tmp_path / "log"
    with together(tmp_path / "state", 0, log=log) as where:
        shutil.rmtree(tmp_path / "state")
        with contextlib.closing(Node(where.coordinator.address, tmp_path / "log of the node")):
            assert where.coordinator.popen.wait(SECONDS) == 1
        assert "it can't write its state" in log.read_text()
