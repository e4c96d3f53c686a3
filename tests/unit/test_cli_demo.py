"""dsmem demo: a real file goes to another process and comes back."""

import hashlib
import re
import subprocess
import sys

import click
import pytest
from left_behind import Alone

import dsmem
from dsmem.cli import objects

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
    assert "24000 in 24 accounts, as before\n" in done.stdout
    assert "the pages are the file; 27 looked at, 0 of them wrong" in done.stdout
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
