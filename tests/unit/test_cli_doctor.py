"""dsmem doctor: what is broken is named with its remedy. The conditions are real: each is made, and fixed again."""

import ipaddress
import json
import os
import re
import resource
import shutil
import socket
import struct
import subprocess
import sys
import threading
import zlib
from dataclasses import asdict
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from left_behind import UNSHARE, Alone, can_mount

import dsmem
from dsmem import _core, errors, node_records
from dsmem.cli import examine, main

DSMEM = [sys.executable, "-c", "from dsmem.cli import main; main()"]
RDMA = bool(examine.kernel_devices())


def _has_verbs():
    try:
        _core.probe("verbs")
    except errors.DsmemError as error:
        return "built without" not in str(error)
    return True


@pytest.fixture(autouse=True)
def own_world(monkeypatch, tmp_path):
    """A secret and records of nodes of its own."""
    for name in ("DSMEM_SECRET", "DSMEM_SECRET_FILE", "DSMEM_LIBIBVERBS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "80")


def run(*arguments):
    return CliRunner().invoke(main, ["doctor", *arguments])


def facts(*arguments, status=0):
    result = run("--json", *arguments)
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def facts_elsewhere(prefix=(), before=None, **environment):
    """In a process of its own, which may be limited without harm to this one."""
    command = [*prefix, *DSMEM, "doctor", "--json"]
    done = subprocess.run(
        command, env={**os.environ, **environment}, preexec_fn=before, capture_output=True, text=True, check=False
    )
    assert not done.stderr
    return {**json.loads(done.stdout), "status": done.returncode}


def trouble(found, subject):
    return next(t for t in found["troubles"] if t["subject"] == subject)


# ---- all well ----


def test_json():
    found = facts()
    assert found["versions"]["dsmem"] == dsmem.__version__
    assert found["fabrics"]["shm"]["works"] is True
    assert set(found["fabrics"]) == {"shm", "verbs", "tcp"} and found["fabrics"]["tcp"]["works"] is True
    assert found["limits"]["open_files"]["soft"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert found["limits"]["memory_available_bytes"] > 0
    assert found["shared_memory"]["works"] and found["shared_memory"]["bytes_free"] > 0
    assert found["secret"]["usable"] and not found["secret"]["exists"]
    assert Path(found["secret"]["path"]).exists(), "doctor makes what it certifies"
    assert facts()["secret"]["exists"]
    assert found["clusters"] == facts()["clusters"], "and removes what it has tried"
    assert found["removed"] == [] and found["peer"] is None


def test_text_fits_80_columns():
    result = run()
    assert result.exit_code == 0
    for word in (
        "Fabrics",
        "shm",
        "verbs",
        "Shared memory",
        "/dev/shm",
        " free of ",
        "locked memory",
        "open files",
        "huge pages",
        "Secret",
        "left behind",
    ):
        assert word in result.stdout
    headings = [line for line in result.stdout.splitlines() if re.match("[A-Z]", line)]
    assert headings[:7] == ["Fabrics", "RDMA", "Limits", "Shared memory", "Secret", "Nodes", "Names"]
    own = result.stdout[: result.stdout.index("\nNodes")]  # below it are nodes and clusters of others, with long names
    names = [line[:16] for line in own.splitlines() if re.match(r"  \S", line)]
    assert names and all(name.endswith(" ") for name in names), "a name and its text are two columns"
    for line in result.stdout.splitlines():
        assert len(line.rstrip()) <= 80 or line.startswith("      "), "only commands stay whole: " + line


def test_every_trouble_has_a_remedy():
    found = facts()
    broken = [f for f in found["fabrics"].values() if not f["works"]]
    assert all(f["reason"] and f["remedy"] for f in broken)
    assert all(t["reason"] and t["remedy"] for t in found["troubles"])


def test_open_nodes_are_shown():
    with dsmem.Context("shm") as context:
        node = next(n for n in facts()["nodes"] if n["node"] == context.node_id.hex())
        assert (node["pid"], node["fabric"], node["address"]) == (os.getpid(), "shm", context.agent_address)
        said = run().stdout
        assert f"pid {os.getpid()}" in said and "open now" not in said


def test_that_no_node_is_open_is_said(monkeypatch):
    monkeypatch.setattr(examine, "_nodes", lambda found: [])
    assert re.search(r"open now +none of yours", run().stdout)


def test_clean(monkeypatch, tmp_path):
    monkeypatch.setattr(node_records, "FOLDER", tmp_path)
    code = "from dsmem import _core; print(_core.identity())"
    dead = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    left = tmp_path / f"dsmem-1-{dead:016x}-node-00000000"
    left.touch()
    assert facts()["stale_nodes"] == [str(left)]
    assert "dsmem doctor --clean" in run().stdout and left.exists()
    assert f"{left}" in run("--clean").stdout.replace("\n", "").replace(" ", "")
    assert not left.exists()
    assert facts("--clean")["removed"] == []


# ---- verbs ----


@pytest.mark.skipif(not _has_verbs(), reason="built without verbs headers")
def test_library_named_wrongly():
    verbs = facts_elsewhere(DSMEM_LIBIBVERBS="/nonexistent")["fabrics"]["verbs"]
    assert verbs["error"] == "FabricUnavailableError"
    assert verbs["reason"].startswith("/nonexistent: cannot open shared object file")
    assert verbs["remedy"] == ["unset DSMEM_LIBIBVERBS"]


@pytest.mark.skipif(not _has_verbs(), reason="built without verbs headers")
@pytest.mark.skipif(not shutil.which("apt-get"), reason="the command is that of Debian")
def test_no_usable_library(tmp_path):
    (tmp_path / "libibverbs.so.1").write_text("not a library")
    verbs = facts_elsewhere(LD_LIBRARY_PATH=str(tmp_path))["fabrics"]["verbs"]
    assert verbs["error"] == "FabricUnavailableError" and "libibverbs.so.1" in verbs["reason"]
    assert verbs["remedy"][0].endswith("apt-get install -y libibverbs1 ibverbs-providers")
    assert "apt install" not in verbs["reason"]


@pytest.mark.skipif(_has_verbs(), reason="built with verbs")
def test_built_without_headers():
    verbs = facts()["fabrics"]["verbs"]
    assert "built without verbs headers" in verbs["reason"]
    assert "libibverbs-dev" in verbs["remedy"][0] and verbs["remedy"][1].startswith("pip install --force-reinstall")


@pytest.mark.skipif(not _has_verbs() or RDMA, reason="needs verbs and no RDMA device")
def test_no_device():
    found = facts()
    verbs = found["fabrics"]["verbs"]
    assert (verbs["error"], verbs["reason"]) == ("NoDeviceError", "this host has no RDMA device")
    assert any(word in " ".join(verbs["remedy"]) for word in ("rdma link add", "make softroce"))
    assert found["kernel"]["devices"] == []


GIDS = ("fe80::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1")


def add_port(folder, state, link="Ethernet", gids=GIDS, interface="eth0"):
    """What the kernel shows of a port, as files."""
    (folder / "gid_attrs/ndevs").mkdir(parents=True)
    (folder / "gid_attrs/types").mkdir()
    (folder / "gids").mkdir()
    for name, text in (("state", state), ("phys_state", "3: Disabled"), ("link_layer", link), ("lid", "0x7")):
        (folder / name).write_text(text + "\n")
    if interface:
        (folder / "gid_attrs/ndevs/0").write_text(interface + "\n")
    for index, gid in enumerate((*gids, "::", "fe80::9")):
        (folder / f"gids/{index}").write_text(ipaddress.IPv6Address(gid).exploded + "\n" if gids else "::\n")
        (folder / f"gid_attrs/types/{index}").write_text("RoCE v2\n" if index < len(gids) else "IB/RoCE v1\n")


@pytest.fixture
def rdma(monkeypatch, tmp_path):
    """Where the kernel shows devices."""
    monkeypatch.setattr(examine, "SYS_RDMA", tmp_path / "rdma")
    return tmp_path / "rdma"


def test_devices(rdma):
    add_port(rdma / "rxe0/ports/1", "4: ACTIVE")
    add_port(rdma / "rxe0/ports/2", "1: DOWN", gids=(), interface="eth1")
    found = facts()
    first, second = next(d["ports"] for d in found["kernel"]["devices"] if d["device"] == "rxe0")
    assert [(gid["index"], gid["gid"], gid["type"]) for gid in first.pop("gids")] == [
        *((index, gid, "RoCE v2") for index, gid in enumerate(GIDS)),
        (4, "fe80::9", "IB/RoCE v1"),
    ]
    assert first == {
        "port": 1,
        "state": "active",
        "physical": "disabled",
        "link": "Ethernet",
        "rate": "",
        "lid": "0x7",
        "interface": "eth0",
    }
    assert second["state"] == "down" and second["gids"] == []
    lines = [line.split() for line in run().stdout.splitlines()]
    head = lines.index(["device", "port", "state", "link", "lid", "interface", "GID"])
    assert lines[head + 1] == ["rxe0", "1", "active", "Ethernet", "0x7", "eth0", "2", "::ffff:10.0.0.1", "+3"]
    assert lines[head + 2] == ["rxe0", "2", "down", "Ethernet", "0x7", "eth1", "none"]


@pytest.mark.parametrize(
    ("state", "port", "reason", "remedy"),
    [
        ("4: ACTIVE", {}, None, ""),
        ("4: ACTIVE", {"gids": ()}, "it has no GID", "ip addr add ADDRESS/24 dev eth0"),
        ("4: ACTIVE", {"gids": (), "interface": ""}, "it has no GID", "ip addr add ADDRESS/24 dev INTERFACE"),
        ("1: DOWN", {}, "its network interface is down", "ip link set eth0 up"),
        ("4: ACTIVE", {"link": "InfiniBand", "gids": ()}, None, ""),
        ("2: INIT", {"link": "InfiniBand"}, "no subnet manager", "opensm"),
        ("3: ARMED", {"link": "InfiniBand"}, "no subnet manager", "opensm"),
        ("1: DOWN", {"link": "InfiniBand"}, "the port is down (link: disabled)", "# check the cable"),
        ("", {"link": "InfiniBand"}, "the port is unknown", "# check the cable"),
    ],
)
def test_a_port_that_does_not_work(rdma, state, port, reason, remedy):
    add_port(rdma / "mlx5_0/ports/1", state, **port)
    found = facts()
    wrong = [t for t in found["troubles"] if t["subject"] == "mlx5_0 port 1"]
    assert [reason in t["reason"] and remedy in t["remedy"][0] and not t["hinders"] for t in wrong] == [True] * bool(
        reason
    )


@pytest.mark.skipif(bool(list(Path("/dev").glob("infiniband/uverbs*"))), reason="there are uverbs devices")
def test_devices_that_user_space_cannot_reach(rdma):
    assert not [t for t in facts()["troubles"] if t["subject"] == "/dev/infiniband"], "there is no device"
    add_port(rdma / "mlx5_0/ports/1", "4: ACTIVE")
    wrong = trouble(facts(), "/dev/infiniband")
    assert "no uverbs device" in wrong["reason"] and "modprobe ib_uverbs" in wrong["remedy"][0]
    assert "  /dev/infiniband " in run().stdout, "a name is never cut"


# ---- limits ----


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root without setpriv")
def test_locked_memory():
    prefix = ("setpriv", "--bounding-set", "-ipc_lock") if os.geteuid() == 0 else ()
    found = facts_elsewhere(prefix, lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20)))
    assert found["limits"]["locked_memory_bytes"] == {"soft": 1 << 20, "hard": 1 << 20, "exempt": False}
    assert [t.subject for t in examine._limit_troubles(found["limits"], False)] == []  # without RDMA it limits nothing
    (locked,) = (asdict(t) for t in examine._limit_troubles(found["limits"], True))
    assert "only 1 MiB" in locked["reason"] and not locked["hinders"]
    assert "memlock unlimited" in locked["remedy"][0] and "limits.d" in locked["remedy"][0]
    assert "LimitMEMLOCK=infinity" in locked["remedy"][1] and "--ulimit memlock=-1" in locked["remedy"][2]


def test_open_files():
    found = facts_elsewhere(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 1024)))
    files = trouble(found, "open files")
    assert files["reason"].startswith("only 64") and "nofile 65536" in files["remedy"][0]


def test_a_limit_that_can_be_raised_by_its_owner():
    assert examine._raise_limit("n", "nofile", {"hard": 65536}, "65536") == ["ulimit -n 65536"]
    assert examine._raise_limit("l", "memlock", {"hard": None}, "unlimited") == ["ulimit -l unlimited"]


# ---- shared memory ----


@pytest.mark.skipif(not can_mount(), reason="no mount namespaces for this user")
@pytest.mark.parametrize(
    ("mount", "says", "remedy", "hinders"),
    [
        ("mount -t tmpfs -o ro none /dev/shm", "Read-only file system", "mount -o remount,rw /dev/shm", True),
        ("mount -t tmpfs -o mode=755 none /dev", "there is no /dev/shm", "mount -t tmpfs -o mode=1777 tmpfs", True),
        ("mount -t tmpfs -o nr_inodes=4 none /dev/shm", "takes no more than 4", "nr_inodes=N", True),
        ("mount -t tmpfs -o size=4k none /dev/shm", "bytes free of 4096", "docker run --shm-size", True),
        ("mount -t tmpfs -o size=64M none /dev/shm", "only 64 MiB", "docker run --shm-size", False),
        ("mount -t tmpfs none /proc", "/proc/self/fd", "mount -t proc proc /proc", True),
    ],
)
def test_shared_memory(mount, says, remedy, hinders, tmp_path):
    alone = Alone(tmp_path)
    found = facts_elsewhere((*alone.prefix, *UNSHARE, "sh", "-ec", f'{mount}\nexec "$@"', "sh"))
    assert not alone.left
    wrong = trouble(found, "/dev/shm")
    assert says in wrong["reason"] and wrong["hinders"] == hinders
    assert remedy in " ".join(wrong["remedy"])
    assert found["status"] == hinders and found["fabrics"]["shm"]["works"]


@pytest.mark.skipif(not can_mount() or os.geteuid() != 0, reason="needs root to give a folder away")
def test_shared_memory_of_another_user():
    mount = "mount -t tmpfs -o mode=755,uid=54321 none /dev/shm"
    prefix = (*UNSHARE, "sh", "-ec", f'{mount}\nexec "$@"', "sh", "setpriv", "--bounding-set", "-all")
    found = facts_elsewhere(prefix)
    assert trouble(found, "/dev/shm")["remedy"] == ["chmod 1777 /dev/shm"] and found["status"] == 1


def test_no_context_can_be_opened():
    found = facts_elsewhere(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (6, 6)))
    fabric = found["fabrics"]["shm"]
    assert not fabric["works"] and "Too many open files" in fabric["reason"]
    assert "ulimit -n" in fabric["remedy"][0] and found["status"] == 1


# ---- the secret ----


def test_no_place_for_a_secret(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    wrong = trouble(facts(status=1), "secret")
    assert "can't be made" in wrong["reason"] and wrong["remedy"][0] == "export DSMEM_SECRET_FILE=PATH"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "relative")
    wrong = trouble(facts(status=1), "secret")
    assert "is not an absolute path" in wrong["reason"] and wrong["remedy"][0] == "export DSMEM_SECRET_FILE=PATH"


def test_secret_open_to_others():
    with dsmem.Context("shm"):
        pass
    path = Path(facts()["secret"]["path"])
    path.chmod(0o644)
    found = facts(status=1)
    assert found["secret"]["mode"] == "644" and not found["secret"]["usable"]
    wrong = trouble(found, "secret")
    assert wrong["hinders"] and wrong["remedy"] == [f"chmod 600 '{path}'"]
    assert wrong["remedy"][0] in run().stdout
    subprocess.run(wrong["remedy"][0], shell=True, check=True)
    assert facts()["secret"]["usable"]


def test_secret_in_the_environment(monkeypatch):
    monkeypatch.setenv("DSMEM_SECRET", "short")
    assert trouble(facts(status=1), "secret")["remedy"][0] == "unset DSMEM_SECRET"
    monkeypatch.setenv("DSMEM_SECRET", "long enough, surely")
    result = run()
    assert result.exit_code == 0 and "$DSMEM_SECRET: set" in result.stdout
    assert "long enough" not in result.stdout


def test_secret_file_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("DSMEM_SECRET_FILE", str(tmp_path / "none"))
    wrong = trouble(facts(status=1), "secret")
    assert "No such file" in wrong["reason"] and wrong["remedy"][0] == "unset DSMEM_SECRET_FILE"


# ---- peers ----


def test_peer():
    with dsmem.Context("shm") as context:
        assert facts("--peer", context.agent_address)["peer"] == {
            "address": context.agent_address,
            "reachable": True,
            "reason": None,
        }
        assert "reachable, and has the same secret" in " ".join(run("--peer", context.agent_address).stdout.split())
    assert facts("--peer", context.agent_address, status=1)["peer"]["reason"].startswith("refused")


def with_socket(descriptor, address):
    """The descriptor in hex digits, with another address of its way by shm, of the same length."""
    (way,) = [way for way in descriptor.ways if way.fabric == "shm"]
    body = bytes(descriptor)[:-4].replace(way.address.encode(), address.encode())
    return (body + struct.pack("<I", zlib.crc32(body))).hex()


def test_the_way_to_the_owner_of_a_descriptor():
    with dsmem.Context("shm,tcp", listen="127.0.0.1") as context, context.allocate(64) as region:
        text = region.descriptor.hex()
        found = facts("--peer", text)["peer"]
        assert [(way["fabric"], way["reachable"]) for way in found["ways"]] == [("shm", True), ("tcp", True)]
        assert found["taken"] == "shm" and found["ways"][1]["why"] == "shm is preferred"
        assert "taken: the first" in " ".join(run("--peer", text).stdout.split())
        elsewhere = with_socket(region.descriptor, context.agent_address[:-1] + "x")
        found = facts("--peer", elsewhere)["peer"]
        assert found["ways"][0]["fabric"] == "shm" and found["ways"][0]["why"] == "passed over"
        assert found["taken"] == "tcp" and found["reachable"] and found["reason"] is None
    found = facts("--peer", text, status=1)["peer"]
    assert found["taken"] is None and not found["reachable"] and found["reason"].startswith("refused")


def test_a_way_to_another_process_than_the_owner():
    with dsmem.Context("shm") as one, dsmem.Context("shm") as other, one.allocate(64) as region:
        text = with_socket(region.descriptor, other.agent_address)
        assert facts("--peer", text, status=1)["peer"]["reason"].startswith("another agent of dsmem has the address")
    done = run("--peer", text[:-2] + "00")
    assert done.exit_code == 1 and "damaged" in done.output and "Fabrics" not in done.output


def test_peer_with_another_secret():
    with dsmem.Context("shm", secret=b"quite another secret") as context:
        assert "the secrets differ" in facts("--peer", context.agent_address, status=1)["peer"]["reason"]


def test_an_address_without_a_peer():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer():
            stream, _ = server.accept()
            with stream:
                stream.recv(56)
                stream.sendall(b"220 mail.example.org ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        found = facts("--peer", f"tcp:127.0.0.1:{port}", status=1)
        thread.join()
    assert found["peer"]["reason"] == "the process that listens there is not an agent of dsmem"
    assert facts("--peer", f"127.0.0.1:{port}", status=1)["peer"]["reason"].startswith("refused")
    assert facts("--peer", "unix:@\udcff", status=1)["peer"]["reason"] == "refused: the process is gone"


@pytest.mark.parametrize(
    "address", ["127.0.0.1:x", "", ":", "tcp:", "unix:name", "1:2:3x", "a..b", "\udcff:77", "a b", "tcp://a"]
)
def test_what_is_not_an_address_is_refused_before_anything_runs(address):
    done = run("--peer", address)
    said = "tcp://HOST:PORT/CLUSTER" if "//" in address else "is not HOST"
    assert done.exit_code == 2 and said in done.output and "Fabrics" not in done.output


# ---- of all commands ----


def test_errors_of_the_library_are_one_line(monkeypatch):
    monkeypatch.setenv("DSMEM_SECRET", "short")
    for command in (["bench"], ["demo"], ["doctor", "--peer", "127.0.0.1:1"]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 1
        assert result.output == "Error: DSMEM_SECRET holds 5 bytes; a secret needs at least 16\n"


def commands(command, path=()):
    if isinstance(command, click.Group):
        for name, part in command.commands.items():
            yield from commands(part, (*path, name))
    else:
        yield path, command


def test_help_tells_every_default():
    seen = 0
    for path, command in commands(main):
        result = CliRunner().invoke(main, [*path, "--help"])
        assert result.exit_code == 0
        text = " ".join(result.output.split())
        for option in command.params:
            if (
                isinstance(option, click.Option)
                and option.type is not click.BOOL
                and isinstance(option.default, str | int)
            ):
                assert f"default: {option.default}" in text, (path, option.name)
                seen += 1
    assert seen


def test_version():
    assert CliRunner().invoke(main, ["--version"]).output == f"dsmem, version {dsmem.__version__}\n"
