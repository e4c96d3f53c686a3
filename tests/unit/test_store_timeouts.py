"""Calls with a time limit end where a coordinator is stopped, and would wait an hour by the limits of their own."""

import os

import pytest
from click.testing import CliRunner
from epochs import PROPERTIES, SECRET, eventually, together
from paging import number_of, page

from dsmem import errors
from dsmem.cli import main
from dsmem.membership import follow
from dsmem.names import remote


@pytest.fixture
def patient(monkeypatch):
    for of, names in {remote: ("_CONNECT_SECONDS", "_CALL_SECONDS"), follow: ("_SECONDS",)}.items():
        for name in names:
            monkeypatch.setattr(of, name, 3600.0)


def made(cluster, replicas=1):
    return cluster.store("db", create=True, replicas=replicas, **PROPERTIES)


@pytest.mark.parametrize("is_known", [False, True])
def test_a_store_is_opened(tmp_path, patient, is_known):
    """Also by a client that does not know yet that it is a coordinator's."""
    with together(tmp_path, 1) as where, where.client() as cluster, made(cluster), where.client() as other:
        if is_known:
            other.store("db").close()
        where.coordinator.stop()
        with pytest.raises(errors.TimeoutError):
            other.store("db", create=False, timeout=0.1)
        where.coordinator.go_on()
        other.store("db").close()


def test_a_store_that_is_not_open_is_opened(tmp_path, patient):
    with together(tmp_path, 1) as where, where.client() as cluster, made(cluster) as store:
        where.nodes[0].stop()
        eventually(lambda: not store.health(timeout=None)["open"])
        with pytest.raises(errors.TimeoutError):
            cluster.store("db", create=False, timeout=0)
        where.nodes[0].go_on()


def test_a_handle_is_used(tmp_path, patient):
    with together(tmp_path, 1) as where, where.client() as cluster, made(cluster) as store:
        pid = store.allocate()
        store.write(pid, page(1))
        where.coordinator.stop()
        assert store.health(timeout=0.1)["open"] is None
        for call in (
            store.stat,
            lambda timeout: store.run(lambda tx: tx.read(pid), timeout=timeout),
            lambda timeout: store.snapshot([pid], timeout=timeout),
        ):
            with pytest.raises(errors.DsmemError):
                while True:  # it returns as long as the lease lasts
                    call(timeout=0.1)
        where.coordinator.go_on()


def test_the_time_is_over_when_a_call_meets_another_epoch(tmp_path):
    """The copy that stays has other memory; that it is gone is no answer."""
    with together(tmp_path, 2) as where, where.client() as cluster, made(cluster, 2) as store:
        pid = store.allocate()
        store.write(pid, page(1))
        where.node_of(store, 1).kill()
        eventually(lambda: store.health()["open"] and store.health()["epoch"] > 1)
        with pytest.raises(errors.TimeoutError, match="next epoch"):
            store.stat(timeout=0)
        assert number_of(store.read(pid)) == 1


@pytest.mark.parametrize("option", ["-t0", "-t0.1"])
def test_copies_are_waited_for(tmp_path, patient, option):
    """By a command, which opens a connection."""
    with together(tmp_path, 1) as where, where.client() as cluster, made(cluster):
        where.coordinator.stop()
        env = {**os.environ, "DSMEM_SECRET": SECRET.decode()}
        result = CliRunner().invoke(main, ["store", "wait", "db", "-c", where.address, option], env=env)
        assert result.exit_code == 1
        where.coordinator.go_on()
