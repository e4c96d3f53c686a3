"""What clients tell a coordinator of their calls, and what it says of that."""

import importlib
import io
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from epochs import PROPERTIES, SECONDS, SECRET, together
from paging import SIZE, page
from rich.console import Console

from dsmem import errors, metrics
from dsmem.cli import main
from dsmem.cli.rows import _known, calls_of
from dsmem.membership import messages
from dsmem.membership.messages import Calls, Report
from dsmem.membership.reports import Reports
from dsmem.names import wire

store_cli = importlib.import_module("dsmem.cli.store")  # the group of commands has the name, too
COUNTS = {name: number for number, name in enumerate(metrics.COUNTS, 1)}


def report(number=1, counts=COUNTS, fabric="tcp", times=None, seconds=0.0):
    return Report(number, fabric, dict(counts), times or {"read": {40: 3}, "commit": {60: 1, 0: 2}}, seconds)


def read(raw):
    reader = wire.Reader(raw)
    found = messages.read_report(reader)
    reader.end()
    return found


# ---- messages ----


def test_a_report():
    assert read(messages.report(report(seconds=2.5))) == report(seconds=2.5)
    assert read(messages.report(report(seconds=1e9))).seconds == (2**32 - 1) / 1000


def test_a_report_of_many_classes_fits():
    """Those with the most times are kept."""
    times = {call: dict.fromkeys(range(metrics.TIMES), 1) for call in metrics.CALLS}
    times["write"][70] = times["free"][159] = 2
    raw = messages.report(report(fabric="fault+verbs", times=times))
    assert len(wire.request(wire.Request.STORE_LEASE, bytes(24), raw)) <= wire.MOST
    found = read(raw).times
    assert found["write"][70] == found["free"][159] == 2


@pytest.mark.parametrize(("call", "which"), [(10, 0), (255, 0), (0, 160), (9, 255)])
def test_a_report_of_what_there_is_not(call, which):
    raw = messages.report(report(times={"read": {159: 1}}))
    at = raw.rindex(bytes([0, 159, 1, 0, 0, 0]))
    with pytest.raises(errors.InvalidArgumentError, match="a report of class"):
        read(raw[:at] + bytes([call, which]) + raw[at + 2 :])
    with pytest.raises(errors.ProtocolError):
        read(raw[:-1])


def test_a_report_of_too_much():
    """A figure that can't be true would stay in the sums."""
    counts = dict.fromkeys(metrics.COUNTS, 2**64 - 1)
    found = read(messages.report(report(counts=counts, times={"read": {9: 2**32 - 1}})))
    assert set(found.counts.values()) == {10**9} and found.times == {"read": {9: 10**9}}


def test_another_release():
    """Reports and IDs have changed what a question for a lease has, so releases before them and since do not talk."""
    raw = wire.request(wire.Request.STORE_LEASE, bytes(24))
    assert raw[0] == wire.VERSION == 2
    with pytest.raises(errors.VersionError, match="of version 1, this server has 2"):
        wire.opened(b"\x01" + raw[1:])


def test_calls():
    calls = Calls(12.5, dict.fromkeys(metrics.COUNTS, 2**65), {"read": (1e-6, 2.5e-3)})
    raw = messages.calls(calls)
    assert len(raw) <= wire.MOST
    found = messages.read_calls(wire.answered(raw))
    assert found == replace(calls, counts=dict.fromkeys(metrics.COUNTS, 2**64 - 1))


# ---- what a coordinator adds up ----


def test_reports_are_added_up():
    """Each once, also if it comes again."""
    reports = Reports()
    reports.add(1, report(1), 0.0)
    reports.add(1, report(1), 1.0)
    reports.add(1, report(2, fabric="verbs"), 2.0)
    reports.add(1, report(3, fabric="x" * 9), 3.0)
    reports.add(2, report(4), 3.0)
    totals = reports.totals()
    assert set(totals) == {(1, "tcp"), (1, "verbs"), (1, "other"), (2, "tcp")}
    assert totals[1, "tcp"].counts["read"] == COUNTS["read"] and totals[1, "tcp"].times["read"] == {40: 3}
    assert reports.recent(1, 4.0).counts["read"] == 3 * COUNTS["read"]
    reports.keep({2})
    assert set(reports.totals()) == {(2, "tcp")}
    assert reports.recent(1, 4.0) == Calls(0.0, {}, {})


def test_what_is_recent():
    """Of this period of 10 s, and the one before."""
    reports = Reports()
    reports.add(1, report(1), 100.0)
    assert reports.recent(1, 104.0).seconds == 4.0
    found = reports.recent(1, 119.0)
    assert (
        found.counts["read"] == COUNTS["read"]
        and found.seconds == 19.0
        and set(found.latencies)
        == {
            "read",
            "commit",
        }
    )
    reports.add(1, report(2), 119.0)
    found = reports.recent(1, 121.0)
    assert found.counts["read"] == COUNTS["read"] and found.seconds == 11.0
    found = reports.recent(1, 200.0)
    assert not any(found.counts.values()) and not found.latencies
    assert reports.totals()[1, "tcp"].counts["read"] == 2 * COUNTS["read"]


@pytest.mark.parametrize("seconds", [0.5, 8.0, 15.0, 60.0, 600.0])
def test_a_report_of_a_client_that_was_silent(seconds):
    """It is of all the time since the one before, so the rate is that of the calls: 100 a second."""
    reports = Reports()
    written, times = {"write": round(seconds * 100)}, {"write": {40: round(seconds * 100)}}
    reports.add(1, report(1, written, seconds=seconds, times=times), 1000.0)
    found = reports.recent(1, 1000.0)
    assert found.counts["write"] == pytest.approx(100 * found.seconds, abs=1) and found.seconds <= 20
    assert reports.totals()[1, "tcp"].counts["write"] == written["write"]
    reports.add(1, report(2, {"write": 500}, seconds=5.0), 1005.0)
    found = reports.recent(1, 1005.0)
    assert found.counts["write"] == pytest.approx(100 * found.seconds, abs=1)


def test_a_time_in_a_long_report_is_not_lost():
    reports = Reports()
    reports.add(1, report(1, {"read": 1}, seconds=600.0, times={"read": {40: 1}}), 1000.0)
    found = reports.recent(1, 1005.0)
    assert found.counts["read"] == 0 and set(found.latencies) == {"read"}


# ---- a store ----


def told(store):
    """The next question for a lease has a report."""
    store._epoch.lease.until = 0.0
    store._reports_at = 0.0
    store.read(store.ids[0])


def test_a_client_tells_its_coordinator(tmp_path, monkeypatch):
    monkeypatch.setenv("DSMEM_SECRET", SECRET.decode())
    monkeypatch.setenv("COLUMNS", "80")
    with together(tmp_path, 2) as where, where.client() as cluster:
        with cluster.store("db", create=True, replicas=2, **PROPERTIES) as store:
            store.ids = store.allocate_many(3).tolist()
            store.write_many(store.ids, page(1) * 3)
            told(store)
            before = store._coordination.calls(0, 1e9).counts
            for _ in range(5):
                store.write(store.ids[0], page(2))
            store.version(store.ids[0])
            told(store)
            told(store)
            after = store._coordination.calls(store._number, 1e9)
            assert after.counts["write"] - before["write"] == 5 and after.counts["write_many_pages"] == 3
            assert after.counts["allocate_pages"] == 3 and after.counts["read"] == 3 and after.counts["failed"] == 0
            assert all(0 < p50 <= p99 for p50, p99 in after.latencies.values()) and "write" in after.latencies
            with pytest.raises(errors.NameNotFoundError):
                store._coordination.calls(store._number + 1, 1e9)
            shown = CliRunner().invoke(main, ["top", "-n", "1", "-c", cluster._open_names().address])
            assert shown.exit_code == 0
            titles, row = re.search(r"^(.*conflicts/s.*)\n(.*)$", shown.output, re.M).groups()
            assert titles.split() == ["cluster", "name", *store_cli._RATES] and row.split()[:2] == [cluster.name, "db"]
            row = re.search(r"^cluster +name +read p50/p99 .*commit p50/p99 *\n(.*)$", shown.output, re.M)[1]
            assert re.match(rf"{cluster.name} +db +([\d.]+ [nµm]?s/[\d.]+ [nµm]?s +)+$", f"{row} ")


def test_what_a_call_waits_for_is_part_of_its_time(tmp_path, monkeypatch):
    """The question for a lease, also of calls that fail. Each call is timed once."""
    now = [0]
    monkeypatch.setattr(metrics, "now_ns", lambda: now[0])
    with together(tmp_path, 1) as where, where.client() as cluster:
        with cluster.store("db", create=True, **PROPERTIES) as store:
            pid, ask = store.allocate(), store._coordination.lease
            before = store._times()

            def lease(*arguments):
                now[0] += 2**32
                return ask(*arguments)

            def asks(call, *arguments):
                store._epoch.lease.until = 0.0
                return call(*arguments)

            monkeypatch.setattr(store._coordination, "lease", lease)
            asks(store.read, pid)
            asks(store.read_many, [pid])
            asks(store.version, pid)
            asks(store.snapshot, [pid])
            store.write_many([pid], page(1))
            store.write(pid, page(2))
            with store.transaction() as tx:
                tx.write(pid, page(3))
            with store.transaction() as tx:
                tx.read(pid)
                asks(lambda: None)
            store.free(pid)
            for call in (lambda: store.read(pid), lambda: store.write_many([pid], page(1))):
                with pytest.raises(errors.PageNotFoundError):
                    asks(call)
            with pytest.raises(errors.InvalidArgumentError):
                store.read(pid, bytearray(1))
            whole, core = {31 * 4: 1}, {0: 1}
            assert before == {"allocate": core}
            assert store._times() == {
                "allocate": core,
                "write": core,
                "free": core,
                "read": {31 * 4: 2},
                "read_many": whole,
                "version": whole,
                "write_many": {**core, **whole},
                "commit": {0: 2, 31 * 4: 1},
                "snapshot": whole,
            }
            assert store.latencies["read"]["p99"] > 4
    with pytest.raises(errors.ClosedError):
        store.latencies  # noqa: B018


def test_a_report_that_cant_be_read(tmp_path):
    """The lease is granted all the same, and one line is logged."""
    log = tmp_path / "log"
    with together(tmp_path / "state", 1, log=log) as where, where.client() as cluster:
        with cluster.store("db", create=True, **PROPERTIES) as store:
            pid = store.allocate()
            raw = messages.report(report(9))
            wrong = [raw[:-1], b"x", raw[:8] + b"\x01\xff" + raw[12:], raw[:-6] + bytes([255]) + raw[-5:]]
            for each in (*wrong, raw + b"later"):
                assert store._coordination.lease(store._number, store._epoch.number, store._epoch.lease, 1e9, each)
            assert store._coordination.calls(0, 1e9).counts == COUNTS
            assert len(store.read(pid)) == SIZE
    assert log.read_text().count("can't be read") == 1


def test_stores_that_go_while_top_asks(tmp_path, monkeypatch):
    """The others have their figures."""
    monkeypatch.setenv("DSMEM_SECRET", SECRET.decode())
    with together(tmp_path, 1) as where, where.client() as cluster:
        for name in ("a", "c"):
            cluster.store(name, create=True, **PROPERTIES).close()
        names = cluster._open_names()
        found = [name for name, _ in calls_of(names, ["a", "gone", "c"], SECONDS)]
        assert found == ["a", "c"]
        assert list(calls_of(names, ["a", "c"], 0.0)) == []
        where.coordinator.kill()
        assert list(calls_of(names, ["a", "c"], 1.0)) == []
    assert list(calls_of(None, ["a"], 1.0)) == []
    assert "not asked" in _known(None, "a", 0.0)["error"] and _known(None, "a", math.inf) == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 ns"),
        (2e-9, "2.0 ns"),
        (1.2e-6, "1.2 µs"),
        (99.6e-6, "100 µs"),
        (0.9999e-3, "1.0 ms"),
        (1.23e-3, "1.2 ms"),
    ],
)
def test_how_top_shows_a_time(seconds, text):
    assert store_cli._time(seconds) == text
    assert store_cli._time(45.6) == "46 s" and store_cli._time(2000) == "2000 s"


def test_tables_of_top_at_80_columns(monkeypatch):
    """No figure or title is broken within a word, also of the longest."""
    calls = Calls(1.0, dict.fromkeys(metrics.COUNTS, 1234567), dict.fromkeys(metrics.CALLS, (999e-6, 999e-6)))
    place = SimpleNamespace(cluster="production", infos=lambda: [SimpleNamespace(kind="store", name="warehouse")])
    monkeypatch.setattr(store_cli, "calls_of", lambda *_: [("warehouse", calls)])
    for table in store_cli._calls([place]):
        with Console(width=80, file=io.StringIO()) as console:
            console.print(table)
        lines = console.file.getvalue().splitlines()
        assert len(lines) == 2 and "…" not in "".join(lines)


def test_a_report_is_made_now_and_then(tmp_path):
    """And has what is new since the one before."""
    with together(tmp_path, 1) as where, where.client() as cluster:
        with cluster.store("db", create=True, **PROPERTIES) as store:
            pid = store.allocate()
            store._reports_at = 0.0
            first = read(store._report(100.0))
            assert first.counts["allocate"] == 1 and first.fabric == "tcp"
            store.write(pid, page(1))
            assert store._report(101.9) == b""
            second = read(store._report(102.0))
            assert second.counts["allocate"] == 0 and second.counts["write"] == 1
            assert second.number != first.number and second.seconds == 2.0
