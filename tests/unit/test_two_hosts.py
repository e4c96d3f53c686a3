"""The how-to of two hosts, on two network namespaces: its programs and commands, as the page has them."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import ROOT, blocks_of, commands_of, expected_output, matches
from namespaces import host  # noqa: F401  a fixture

from dsmem.names import local

SECRET = "0bec7" * 12 + "0b1e"
SECONDS = 60
BLOCKS = blocks_of((ROOT / "docs/howto/two_hosts.md").read_text())
PROGRAMS = {program.name: program.text for block in BLOCKS for program in block.programs}
COMMANDS = [command for block in BLOCKS if block.kind == "console" for command in commands_of(block)]


@pytest.fixture
def scene(host, cluster_name, tmp_path):  # noqa: F811
    """What makes a command or program of the page one of the test's, and starts it on A or B."""
    here = str(Path(sys.executable).parent)
    env = os.environ | {"PATH": f"{here}:{os.environ['PATH']}", "DSMEM_SECRET": SECRET, "PYTHONWARNINGS": "error"}

    def own(text):
        return (
            text.replace("10.0.0.1", host.theirs)
            .replace('"demo"', f'"{cluster_name}"')
            .replace("/demo", f"/{cluster_name}")
        )

    def start(line, on_a):
        words = own(line).split()
        words[0] = shutil.which(words[0], path=env["PATH"])
        before = host.command if on_a else []
        return subprocess.Popen([*before, *words], stdout=subprocess.PIPE, text=True, env=env, cwd=tmp_path)

    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(own(text))
    with contextlib.ExitStack() as running:

        def run(line, on_a=False):
            process = running.enter_context(start(line, on_a))
            running.callback(process.kill)
            return process

        yield run, own
    names = local.LocalNames(cluster_name, os.geteuid())
    assert names.infos() == []


def test_the_page(scene, cluster_name):
    run, own = scene
    serve, worker, submit, ls, rm = COMMANDS
    server = run(serve.line, on_a=True)
    assert server.stdout.readline().rstrip() == own(serve.expected[0])
    at_work = run(worker.line, on_a=True)
    submitting = run(submit.line)
    output, _ = submitting.communicate(timeout=SECONDS)
    assert output.splitlines() == expected_output(PROGRAMS["submit.py"]) == submit.expected
    assert submitting.returncode == at_work.wait(SECONDS) == 0
    listing, _ = run(ls.line).communicate(timeout=SECONDS)
    assert matches([line.replace("demo", cluster_name) for line in ls.expected], listing), listing
    assert run(rm.line).wait(SECONDS) == 0
    server.send_signal(signal.SIGTERM)
    assert server.wait(SECONDS) == 0
