"""dsmem demo: a real file goes to another process and comes back."""

import hashlib
import os
import re
import signal
import subprocess
import sys

import click
import pytest
from left_behind import Alone

import dsmem
from dsmem.cli import bank, objects

DSMEM = [sys.executable, "-c", "from dsmem.cli import main; main()"]


def run(*arguments, prefix=()):
    return subprocess.run([*prefix, *DSMEM, "demo", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("name", ["shm", "fault+shm"])
def test_demo(name, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 41 + b"an odd end")
    alone = Alone(tmp_path)
    done = run(str(path), "--fabric", name, prefix=alone.prefix)
    assert (done.returncode, done.stderr, alone.left) == (0, "", [])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert re.findall(r"^ +([0-9a-f]{64})$", done.stdout, re.MULTILINE) == [digest] * 3
    assert "counter  20000," in done.stdout
    for size in (8, 4096, 65536, 1 << 20):
        assert re.search(rf"^ *{size}( +\d+\.\d\d){{6}} *$", done.stdout, re.MULTILINE)
    assert "sum 131072\n" in done.stdout
    assert "all of them there and in order" in done.stdout
    assert re.search(r"^ +\d+\.\d\d M/s one by one, \d+\.\d\d M/s in lists; there and back ", done.stdout, re.MULTILINE)
    assert "lock     4000," in done.stdout
    assert "  file     3 pages of 4096 bytes at two nodes" in done.stdout
    assert "all accounts in use again " in done.stdout
    assert "longest pause of a client between two transfers: " in done.stdout
    assert re.search(
        r"^ +two copies again \d+\.\d\d s later, one of them at the third node$", done.stdout, re.MULTILINE
    )
    found = re.search(r"24000 in 24 accounts, as before; (\d+) of (\d+) transfers are there\n", done.stdout)
    assert found and found[1] == found[2]
    assert "the pages are the file; 31 looked at, 0 of them wrong" in done.stdout
    assert all(len(line.rstrip()) <= 80 for line in done.stdout.splitlines())


def test_an_empty_file(tmp_path):
    path = tmp_path / "empty"
    path.touch()
    done = run(str(path))
    assert done.returncode == 1 and done.stderr == f"Error: {path} is empty\n"


def test_a_failing_op_is_an_error(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"text")
    done = run(str(path), "--fabric", "fault+shm://?fail=100")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")


def test_updates_that_the_lock_lost_are_an_error(monkeypatch):
    """The other process, which is a new interpreter, counts as it should; this one counts twice too little."""
    monkeypatch.setattr(objects, "count", lambda lock, words: None)
    monkeypatch.setattr(objects, "SECONDS", 0.5)
    with dsmem.Context("shm") as context, pytest.raises(click.ClickException, match="should be 4000"):
        objects.show("shm", context)


# ---- the store of pages ----

# It gets the signal in the middle, as all processes of a terminal do; its servers are in sessions of their own.
INTERRUPTED = """
import os, sys
from dsmem.cli import bank, main, objects

def kill(*_):
    (os.killpg if sys.argv[3] == "all" else os.kill)(os.getpid(), int(sys.argv[2]))

os.setpgrp()
sys.modules["dsmem.cli.demo"]._share = objects.show = lambda *_: None
bank._kill_node = kill
main(["demo", sys.argv[1]])
"""


def interrupted(tmp_path, number, target):
    """Run the demo until the signal, and return how it ended, once no process has its standard error any more."""
    path, folder = tmp_path / "file", tmp_path / "folders"
    path.write_bytes(b"text")
    folder.mkdir()
    alone = Alone(tmp_path)
    command = [*alone.prefix, sys.executable, "-c", INTERRUPTED, str(path), str(int(number)), target]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(folder)})
    assert "all accounts in use again " in done.stdout
    return done, [*folder.iterdir()], alone.left


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_demo_that_is_interrupted_leaves_nothing(tmp_path, number, status):
    target = "all" if number == signal.SIGINT else "one"
    done, folders, left = interrupted(tmp_path, number, target)
    assert (done.returncode, folders, left) == (status, [], []), done.stderr
    assert "Traceback" not in done.stderr


def test_processes_end_with_a_demo_that_is_killed(tmp_path):
    """Its clients and its servers; otherwise their standard error, a pipe, would stay open."""
    done, _, _ = interrupted(tmp_path, signal.SIGKILL, "one")
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)


class Store:
    """With 24 accounts, and a page for each of two clients."""

    def __init__(self, account, counted):
        self.pages = {**dict.fromkeys(range(24), account), 24: counted, 25: counted}

    def snapshot(self, ids, timeout):
        return self.read_many(ids)

    def read_many(self, ids):
        return [bank._page(self.pages[pid]) for pid in ids]


@pytest.mark.parametrize(("account", "counted"), [(1000, 49), (999, 50)])
def test_money_or_a_transfer_that_was_lost_is_an_error(account, counted):
    made = bank._Bank.__new__(bank._Bank)
    made.store, made.accounts = Store(account, counted), [*range(24)]
    with pytest.raises(click.ClickException, match="should be 24000"):
        made.compare([24, 25], 100)


def test_a_dsmem_serve_that_fails_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(bank, "_SERVE", [sys.executable, "-c", "raise SystemExit(1)"])
    path = tmp_path / "file"
    path.write_bytes(b"text")
    with pytest.raises(click.ClickException, match="dsmem serve has failed"):
        bank.show(path)
