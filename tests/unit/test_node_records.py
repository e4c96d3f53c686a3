"""What a killed process leaves is found by its identity, and removed; what others have is left alone."""

import os
import signal
import subprocess
import sys

import pytest

from dsmem import _core, node_records

NOT_GIVEN = 1 << 40  # no file has got so far, however many clients of servers it has given numbers to

CREATOR = """
import pathlib, sys, time
from dsmem import node_records
node_records.FOLDER = pathlib.Path(sys.argv[1])
node_records.record_node(bytes(range(16)), "shm", "unix:@there")
print(*node_records.FOLDER.iterdir(), flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(node_records, "FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def dead():
    """The identity of a process that has ended."""
    code = "from dsmem import _core; print(_core.identity())"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


@pytest.fixture
def creator(folder):
    with subprocess.Popen([sys.executable, "-c", CREATOR, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        process.record = node_records.Path(process.stdout.readline().strip())
        yield process
        process.kill()


def test_a_killed_owner_leaves_nothing_forever(creator):
    assert node_records.scan() == [(creator.record, True)]
    assert node_records.sweep() == []
    assert node_records.read_record(creator.record) == {
        "version": 1,
        "node": bytes(range(16)).hex(),
        "fabric": "shm",
        "address": "unix:@there",
    }
    creator.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, creator.pid, os.WEXITED | os.WNOWAIT)
    assert node_records.scan() == [(creator.record, False)], "a zombie is dead"
    creator.wait()
    assert node_records.scan() == [(creator.record, False)]
    assert node_records.sweep() == [creator.record]
    assert node_records.scan() == []


def test_a_number_used_again_is_another_process(folder, dead):
    old = folder / f"dsmem-{os.getpid()}-{dead:016x}-segment"
    own = node_records.register("segment")
    old.touch()
    own.touch()
    assert dict(node_records.scan()) == {old: False, own: True}
    assert node_records.sweep() == [old]
    assert own.exists()


def test_record_and_forget(folder):
    node = b"\xab" * 16
    node_records.record_node(node, "verbs", "tcp:10.0.0.1:7471")
    (path,) = folder.iterdir()
    assert path.name == f"dsmem-{os.getpid()}-{_core.identity():016x}-node-abababab"
    assert path.stat().st_mode & 0o777 == 0o600
    node_records.forget_node(node)
    assert not path.exists()
    node_records.forget_node(node)


def test_a_missing_folder_does_no_harm(monkeypatch, folder):
    monkeypatch.setattr(node_records, "FOLDER", folder / "none")
    node_records.record_node(bytes(16), "shm", "unix:@x")
    node_records.forget_node(bytes(16))
    assert node_records.scan() == [] and node_records.sweep() == []


def test_only_plain_files_with_our_names_are_touched(folder):
    (folder / "dsmem-1-00000000000000ff-folder").mkdir()
    (folder / "dsmem-1-00000000000000ff-link").symlink_to("/etc/hostname")
    (folder / "dsmem-1-name").touch()
    (folder / "dsmem-01-00000000000000ff-name").touch()
    (folder / "other").touch()
    before = sorted(folder.iterdir())
    assert node_records.scan() == [] and node_records.sweep() == []
    assert sorted(folder.iterdir()) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_files_of_other_users_are_left_alone(folder):
    theirs = folder / "dsmem-1-00000000000000ff-theirs"
    theirs.touch()
    os.chown(theirs, 12345, 12345)
    assert node_records.scan() == [] and theirs.exists()


def test_sweep_never_raises(folder, monkeypatch, dead):
    (folder / f"dsmem-1-{dead:016x}-stuck").touch()

    def refuse(path):
        raise PermissionError

    monkeypatch.setattr(node_records.Path, "unlink", refuse)
    assert [lives for _, lives in node_records.scan()] == [False] and node_records.sweep() == []


def test_what_is_not_proven_dead_stays(folder):
    """Its creator may live in a container with another /dev/shm, or nothing could tell of its end."""
    for unknown in (1, _core.identity() + NOT_GIVEN, 1 << 63 | 5):
        (folder / f"dsmem-1-{unknown:016x}-node").touch()
    assert node_records.sweep() == [] and all(lives for _, lives in node_records.scan())


@pytest.mark.parametrize("text", ["", "not json", "[1]"])
def test_a_broken_record_is_empty(folder, text):
    path = folder / "dsmem-1-00000000000000ff-node-00000000"
    path.write_text(text)
    assert node_records.read_record(path) == {}
    assert node_records.read_record(folder / "none") == {}


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a\0b"])
def test_names_that_no_file_may_have(name):
    with pytest.raises(ValueError, match="not a name"):
        node_records.register(name)
