"""dsmem bench: what it prints, what it measures on, and that it leaves nothing behind."""

import contextlib
import itertools
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import dsmem
from dsmem import context, node_records
from dsmem.cli import main, measure, rendezvous, report

QUICK = ["-n", "40", "-t", "8"]
DSMEM = [sys.executable, "-c", "from dsmem.cli import main; main()"]
SECRET = "the secret of these tests"


@pytest.fixture(autouse=True)
def shared_secret(monkeypatch):
    monkeypatch.setenv("DSMEM_SECRET", SECRET)
    monkeypatch.delenv("DSMEM_FABRIC", raising=False)


def run(*arguments):
    return CliRunner().invoke(main, ["bench", *arguments])


def until(condition):
    """What condition gives, once that is true."""
    end = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
    return found


def nodes_of(*pids):
    names = [path.name for path, _ in node_records.scan()]
    return [name for name in names if int(name.split("-")[1]) in pids]


def has_ended(pid):
    """Also where it only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# ---- what is measured ----


@pytest.mark.parametrize("name", ["shm", "fault+shm"])
def test_json_document(name):
    result = run("-f", name, *QUICK, "-s", "8", "-s", "4096", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    assert document["fabric"] == document["capabilities"]["fabric"] == name
    assert document["versions"]["dsmem"] == dsmem.__version__
    assert document["parameters"]["tx_depth"] == 8 and document["parameters"]["iterations"] == 40
    assert document["overhead_ns"]["clock"] > 0 and document["overhead_ns"]["loop"] > 0
    rows = [(row["op"], row["bytes"], row["ops_per_call"]) for row in document["rows"]]
    single = [(op, size, 1) for op in ("read", "write") for size in (8, 4096)]
    many = [(op, size, 8) for op in ("read-many", "write-many", "batch") for size in (8, 4096)]
    assert rows == [*single, ("fetch-add", 8, 1), ("compare-swap", 8, 1), *many]
    for row in document["rows"]:
        t, b = row["latency_us"], row["bandwidth"]
        assert 0 < t["min"] <= t["median"] <= t["max"] and t["min"] <= t["mean"] <= t["max"]
        assert t["p99"] is None and t["p99.9"] is None, "40 calls have no 99th percentile"
        assert row["samples"] * row["calls_per_sample"] == row["iterations"] >= 40
        assert b["average_bytes_per_s"] <= b["peak_bytes_per_s"] * (1 + 1e-9)
        assert b["ops_per_s"] == pytest.approx(row["ops_per_call"] / t["mean"] * 1e6)


def test_percentiles_are_samples_of_their_own():
    # Delayed by the fabric, every call is long enough for a block of its own.
    result = run("-f", "fault+shm://?delay=*:1ms", "-o", "fetch-add", "-n", "100", "--json")
    row = json.loads(result.stdout)["rows"][0]
    assert row["calls_per_sample"] == 1 and row["samples"] == 100
    assert row["latency_us"]["min"] >= 1000
    assert row["latency_us"]["median"] <= row["latency_us"]["p99"] <= row["latency_us"]["max"]
    assert row["latency_us"]["p99.9"] is None


def test_ops_do_what_they_say():
    """Every byte of a region is reached by the many-ops, the words behind it only by atomics."""
    cases = measure.cases(list(measure.OPS), [16], 8)
    with dsmem.Context("shm") as owner, owner.allocate(measure.region_nbytes(cases)) as region:
        with dsmem.Context("shm") as peer, peer.attach(region.descriptor) as remote:
            for case in cases:
                measure.measure(case, remote, measure.Limits(4, 0), 50.0)
        memory = region.array("u1")
        assert memory[: 8 * 16].tobytes() == b"\1" * (8 * 16)
        assert not memory[8 * 16 : -measure.WORDS].any()
        words = memory[-measure.WORDS :].view("u8")
        assert words[0] > 0 and not words[1:].any()
        del memory, words


def test_cases_stay_within_bounds():
    cases = measure.cases(["read-many", "batch"], [8 << 20], 64)
    assert [(c.ops_per_call, c.call_nbytes) for c in cases] == [(2, 16 << 20), (4, 2 * ((8 << 20) + 8))]
    assert measure.region_nbytes(cases) == (32 << 20) + measure.WORDS
    assert measure.region_nbytes(measure.cases(["fetch-add"], [1], 1)) == 4096 + measure.WORDS
    assert [c.ops_per_call for c in measure.cases(["read-many"], [32 << 20], 64)] == [1]
    assert next(report.tables("read", [{"ops_per_call": 1}], False, False)) == "---- read, one at a time"


def test_duration_bounds_a_row():
    result = run("-o", "write", "-s", "8", "-D", "0.05", "--json")
    row = json.loads(result.stdout)["rows"][0]
    assert row["samples"] >= measure.FEWEST
    assert row["latency_us"]["mean"] * row["iterations"] / 1e6 < 0.5


def test_all_sizes():
    result = run("-a", "-n", "1", "-o", "read", "--json")
    assert [row["bytes"] for row in json.loads(result.stdout)["rows"]] == [2**n for n in range(1, 24)]


# ---- what is shown ----


def test_tables_have_perftests_columns():
    result = run(*QUICK, "-s", "64", "-o", "read")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    header = re.compile(
        r" *#bytes +#iterations +t_min\[usec\] +t_max\[usec\] +t_typical\[usec\] +t_avg\[usec\] +t_stdev\[usec\]"
        r" +99% percentile\[usec\] +99\.9% percentile\[usec\]"
    )
    at = next(i for i, line in enumerate(lines) if header.fullmatch(line))
    assert re.fullmatch(r" *64 +\d+( +[\d.]+){5} +- +-", lines[at + 1])
    at = next(i for i, line in enumerate(lines) if "MsgRate" in line)
    assert re.fullmatch(r" *#bytes +#iterations +BW peak\[MB/sec\] +BW average\[MB/sec\] +MsgRate\[Mpps\]", lines[at])
    assert re.fullmatch(r" *64 +\d+( +[\d.]+){3}", lines[at + 1])
    assert "\x1b" not in result.output, "no bar where there is no terminal"


def test_one_table_alone():
    latency, bandwidth = (run(*QUICK, "-s", "8", "-o", "read", option).stdout for option in ("--lat", "--bw"))
    assert "t_typical" in latency and "MsgRate" not in latency
    assert "t_typical" not in bandwidth and "MsgRate" in bandwidth


def test_tables_fit_the_terminal():
    """Of 80 columns; a table that others read keeps perftest's titles in one line."""
    lines = on_a_terminal("bench", *QUICK, "-n", "2000", "-o", "read", "-s", "8", "-s", "1048576", columns=80)
    assert max(map(len, lines)) <= 80, lines
    at = next(i for i, line in enumerate(lines) if "t_typical" in line)
    assert lines[at - 1 : at + 2][1].split() == ["#iter-", "t_min", "t_max", "t_typical", "t_avg", "t_stdev", "99%",
                                                 "99.9%"]  # fmt: skip
    assert lines[at + 1].split() == ["#bytes", "ations", *["[usec]"] * 7]
    wide = on_a_terminal("bench", *QUICK, "-o", "read", "-s", "8", columns=200)
    assert any("t_typical[usec]" in line for line in wide)


# ---- pictures ----


def measured(*arguments):
    result = run(*QUICK, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    for suffix, head in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        path = tmp_path / f"bench.{suffix}"
        result = run(*QUICK, "-s", "8", "-s", "64", "--plot", str(path))
        assert result.exit_code == 0, result.output
        assert path.read_bytes().startswith(head)
        assert f"wrote {path}" in result.output


def test_a_plot_says_what_it_leaves_out(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "bench.png"
    result = run(*QUICK, "-o", "read", "-s", "8", "--plot", str(path), "--json")
    assert f"wrote {path}; without the 99% percentiles of read: " in result.stderr
    json.loads(result.stdout)


@pytest.mark.parametrize(("columns", "fits"), [("80", True), ("x", False), (None, False)])
def test_columns_of_the_environment_count_in_a_pipe(columns, fits):
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    environment |= {} if columns is None else {"COLUMNS": columns}
    command = [*DSMEM, "bench", *QUICK, "-o", "read", "-s", "8"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert (max(map(len, done.stdout.splitlines())) <= 80) == fits


@pytest.mark.parametrize(
    "arguments", [("-a", "-n", "3"), ("-s", "8", "-n", "2000"), ("-s", "8", "-s", "64", "-n", "200")]
)
def test_a_picture_shows_what_it_says(arguments):
    pytest.importorskip("matplotlib")
    document = measured(*arguments)
    figure = report.picture(document)
    left, right = figure.axes
    # Units are those of the tables.
    assert left.get_ylabel() == "t_typical [usec]" and f"{left.get_ylabel().replace(' ', '')}" in report.LATENCY
    assert right.get_ylabel() == "BW average [MB/sec]" and "BW average[MB/sec]" in report.BANDWIDTH
    for op in {row["op"] for row in document["rows"]}:
        rows = [row for row in document["rows"] if row["op"] == op]
        (line,) = (line for line in right.lines if line.get_label().split(" ")[0] == op)
        assert list(line.get_ydata()) == [row["bandwidth"]["average_bytes_per_s"] / (1 << 20) for row in rows]
    # The legend has an entry for each line, and a line for each entry.
    legend = {text.get_text(): handle for text, handle in zip(*_legend(right), strict=True)}
    dotted = [line for line in left.lines if line.get_linestyle() == ":"]
    assert ("99% percentile" in legend) == bool(dotted)
    assert set(legend) - {"99% percentile"} == {line.get_label() for line in right.lines}
    for name, handle in legend.items():
        if name != "99% percentile":
            (line,) = (line for line in right.lines if line.get_label() == name)
            assert (handle.get_linestyle() == "None") == (len(line.get_xdata()) == 1)
    # An op that takes fewer at some sizes says so.
    for op in {row["op"] for row in document["rows"]}:
        counts = {row["ops_per_call"] for row in document["rows"] if row["op"] == op}
        shown = (
            "" if counts == {1} else f" × {max(counts)}" if len(counts) == 1 else f" × {min(counts)} to {max(counts)}"
        )
        assert f"{op}{shown}" in legend
    # Labels do not overlap.
    figure.canvas.draw()
    for axes in (left, right):
        for labels, end, begin in ((axes.get_xticklabels(), "x1", "x0"), (axes.get_yticklabels(), "y1", "y0")):
            low, high = sorted(axes.get_xlim() if end == "x1" else axes.get_ylim())
            shown = [t for t in labels if t.get_text() and low <= t.get_position()[end == "y1"] <= high]
            boxes = sorted((t.get_window_extent() for t in shown), key=lambda box: getattr(box, begin))
            assert shown and all(getattr(a, end) <= getattr(b, begin) for a, b in itertools.pairwise(boxes))
    # Where it comes from.
    caption = figure.get_supxlabel()
    for text in (document["machine"]["cpu"], document["machine"]["kernel"], document["time"], dsmem.__version__):
        assert text in caption
    assert (document["versions"]["commit"] or "") in caption


def _legend(axes):
    legend = axes.get_legend()
    return legend.get_texts(), legend.legend_handles


@pytest.mark.parametrize("name", ["bench", "bench.bmpx", "no/such/folder/bench.png", "file/bench.png", "."])
def test_a_picture_that_cannot_be_drawn_is_refused_first(tmp_path, monkeypatch, name):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").touch()
    monkeypatch.setattr(measure, "measure", lambda *_: pytest.fail("it measures"))
    result = run(*QUICK, "--plot", str(tmp_path / name))
    assert result.exit_code == 2 and "--plot" in result.output, result.output
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_picture_that_is_there_is_not_harmed(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "bench.png"
    path.write_bytes(b"old")
    assert run(*QUICK, "-o", "append", "--plot", str(path)).exit_code == 2
    assert path.read_bytes() == b"old"


def test_plot_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run(*QUICK, "--plot", str(tmp_path / "bench.png"))
    assert result.exit_code == 1
    assert result.output == "Error: --plot needs matplotlib; run: pip install matplotlib\n"


def on_a_terminal(*arguments, columns):
    """Lines that a command writes to a terminal of so many columns."""
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns)}
    with subprocess.Popen([*DSMEM, *arguments], stdout=theirs, stderr=subprocess.PIPE, env=environment) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while piece := os.read(ours, 4096):
                shown += piece
        os.close(ours)
        assert process.wait(60) == 0, process.stderr.read()
    return shown.decode().splitlines()


def test_progress_bar_on_a_terminal():
    import pty

    ours, theirs = pty.openpty()
    command = [*DSMEM, "bench", *QUICK, "-o", "read", "-s", "8", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(ours)
        assert json.loads(process.stdout.read())["rows"]
    assert b"read, 8 bytes" in shown and "━".encode() in shown


# ---- wrong use ----


@pytest.mark.parametrize(
    "arguments",
    [
        ["-s", "0"],
        ["-n", "0"],
        ["-D", "0"],
        ["-o", "append"],
        ["-s", "8", "-a"],
        ["-n", "1", "-D", "1"],
        ["-f", "shm", "-d", "mlx5_0"],
        ["--listen", "127.0.0.1:0", "-n", "5"],
        ["--listen", "127.0.0.1:0", "127.0.0.1"],
        ["127.0.0.1:port"],
        ["1:2:3x"],
        ["--listen", "a..b"],
        ["--listen", "127.0.0.1:"],
        ["--listen", "127.0.0.1:99999"],
        ["--listen", "127.0.0.1:65535", "-f", "tcp"],
        ["-f", "nofabric"],
        ["-f", "shm://?sl=many"],
    ],
)
def test_wrong_usage_is_status_2(arguments):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Error: " in result.output and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-f", "fault+shm://?fail=20", "-o", "read"], "the transport failed the operation"),
    ],
)
def test_errors_are_one_line_and_status_1(arguments, reason):
    result = subprocess.run([*DSMEM, "bench", *arguments], capture_output=True, text=True)
    assert result.returncode == 1
    assert re.fullmatch(r"Error: [^\n]+\n", result.stderr) and reason in result.stderr


def test_perftests_options_mean_verbs(monkeypatch):
    monkeypatch.setenv("DSMEM_LIBIBVERBS", "/nonexistent")
    command = [*DSMEM, "bench", "-d", "rxe0", "-i", "1", "-x", "1", "-m", "1024"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "/nonexistent" in result.stderr or "built without verbs" in result.stderr


@pytest.mark.parametrize(
    "text",
    [
        "shm://",
        "verbs://rxe0:1?gid=0&mtu=1024",
        "verbs://?depth=16&sl=3&traffic_class=106",
        "fault+shm://?fail=3&every=2",
        "fault+verbs://m",
    ],
)
def test_fabric_urls_go_round(text):
    url = context.parse_fabric(text)
    assert context.parse_fabric(str(url)) == url
    assert str(url) == text


# ---- nothing stays behind ----


@pytest.fixture
def measuring():
    command = [*DSMEM, "bench", "-o", "read", "-s", "8", "-D", "60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        (child,) = until(lambda: children_of(process.pid))
        until(lambda: nodes_of(process.pid) and nodes_of(child))
        process.child = child
        yield process
        process.kill()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(measuring, number, status):
    measuring.send_signal(number)
    output, error = measuring.communicate(timeout=30)
    assert measuring.returncode == status
    assert output == "" and "Traceback" not in error
    assert not nodes_of(measuring.pid, measuring.child)
    assert has_ended(measuring.child)


def test_the_owner_ends_with_a_killed_bench(measuring):
    measuring.kill()
    until(lambda: has_ended(measuring.child))
    assert not nodes_of(measuring.child)


# ---- two hosts ----


@contextlib.contextmanager
def server_of(fabric):
    process = subprocess.Popen(
        [*DSMEM, "bench", "--listen", "127.0.0.1:0", "-f", fabric], stdout=subprocess.PIPE, text=True
    )
    with process:
        process.agent = process.stdout.readline().split()[-1]
        process.address = process.stdout.readline().split()[-1]
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def server():
    with server_of("shm") as process:
        yield process


def test_client_and_server(server):
    for _ in range(2):  # one after the other
        result = run(server.address, *QUICK, "-o", "read", "-s", "64", "--json")
        assert result.exit_code == 0, result.output
        document = json.loads(result.stdout)
        assert document["fabric"] == "shm" and document["owner"]["host"] == socket.gethostname()
        assert re.fullmatch(r"127\.0\.0\.1:\d+ measures on \d+ bytes\n", server.stdout.readline())
        assert re.fullmatch(r"127\.0\.0\.1:\d+ finished\n", server.stdout.readline())
    server.send_signal(signal.SIGINT)
    assert server.wait(30) == 130
    assert not nodes_of(server.pid)


def test_a_server_on_tcp_serves_where_it_listens():
    with server_of("tcp") as server:
        assert server.agent.startswith("tcp:127.0.0.1:")
        result = run(server.address, *QUICK, "-o", "read", "-s", "64", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["fabric"] == "tcp"


def test_wrong_secret_gets_nothing(server, monkeypatch):
    monkeypatch.setenv("DSMEM_SECRET", "another secret altogether")
    result = run(server.address, *QUICK)
    assert result.exit_code == 1
    assert "give both the same DSMEM_SECRET" in result.output
    assert "rejected: it has another secret" in server.stdout.readline()


@pytest.mark.parametrize("garbage", [b"", b"GET / HTTP/1.0\r\n\r\n", bytes(1000)])
def test_garbage_does_no_harm(server, garbage):
    at = rendezvous.Endpoint.parse(server.address)
    with socket.create_connection((at.host, at.port)) as client:
        client.sendall(garbage)
        with contextlib.suppress(OSError):  # the server may have had enough
            client.shutdown(socket.SHUT_WR)
        assert "rejected" in server.stdout.readline()
    assert run(server.address, *QUICK, "-o", "read", "-s", "8").exit_code == 0


def test_another_fabric_than_the_servers(server):
    result = run(server.address, "-f", "verbs", *QUICK)
    assert result.exit_code == 1
    assert "has the fabric shm, not verbs" in result.output


def test_more_memory_than_there_is(server):
    with (
        pytest.raises(click.ClickException, match="Cannot allocate memory"),
        rendezvous.meet(rendezvous.Endpoint.parse(server.address), SECRET.encode(), 1 << 62),
    ):
        pass
    assert run(server.address, *QUICK, "-o", "read", "-s", "8").exit_code == 0


def test_a_client_that_vanishes_is_noticed():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        stream, _ = listener.accept()
        with stream:
            rendezvous.keep_alive(stream)
            assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            idle, every, count = (stream.getsockopt(socket.IPPROTO_TCP, option) for option in options)
            assert client and idle + every * count <= 11, "seconds"


def test_no_server_there():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run("--listen", f"127.0.0.1:{port}").exit_code == 1
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        result = run(f"127.0.0.1:{port}")
    assert result.exit_code == 1
    assert f"no dsmem bench at 127.0.0.1:{port}: Connection refused" in result.output


def test_a_server_of_something_else():
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        subprocess.Popen(
            [*DSMEM, "bench", f"127.0.0.1:{other.getsockname()[1]}"], stderr=subprocess.PIPE, text=True
        ) as client,
    ):
        stream, _ = other.accept()
        with stream:
            stream.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n".ljust(100))
            assert "it is not a dsmem bench" in client.communicate(timeout=30)[1]
        assert client.returncode == 1


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("h", "h", 18515),
        ("10.0.0.1:5", "10.0.0.1", 5),
        ("::1", "::1", 18515),
        ("[::1]", "::1", 18515),
        ("[::1]:7", "::1", 7),
    ],
)
def test_endpoints(text, host, port):
    at = rendezvous.Endpoint.parse(text)
    assert (at.host, at.port) == (host, port)
    assert rendezvous.Endpoint.parse(str(at)) == at


def test_figures_read_well():
    values = (None, 0.0456, 9.9994, 10.25, 1234.5)
    assert [report._us(v) for v in values] == ["-", "0.046", "9.999", "10.25", "1234.50"]


def test_the_processor_is_named():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    assert report._cpu() in (names or {platform.machine()})
