"""What the README and the documents say of the command line and of benches holds. Their code: test_doc_blocks.py."""

import os
import re
import runpy
import shlex
import subprocess
import sys

import pytest
from blocks import ROOT, blocks_of, commands_of, expected_output
from click.testing import CliRunner
from test_server import SECRET, process

import dsmem
from dsmem.cli import main

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands():
    """Of dsmem, in blocks of all pages, those too that no test runs."""
    lines = [
        c.line for page in PAGES for b in blocks_of(page.read_text()) if b.kind == "console" for c in commands_of(b)
    ]
    return sorted({line.removeprefix("dsmem ") for line in lines if line.startswith("dsmem ")})


def test_there_are_commands():
    assert {"doctor", "bench", "ls", "rm", "gc"} <= {command.split()[0] for command in commands()}


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command):
    """--help wins over doing it, but only after options and arguments have been parsed one by one."""
    name, *arguments = shlex.split(command)
    sub = main.commands[name]
    sub.make_context(name, arguments)
    assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


def test_the_chart_is_that_of_the_results():
    chart = runpy.run_path(str(ROOT / "bench/chart.py"))
    assert (ROOT / "docs/performance.svg").read_text() == chart["draw"](), "run bench/chart.py"
    assert (ROOT / "docs/recovery.svg").read_text() == chart["draw_recovery"](), "run bench/chart.py"


def test_figures_of_the_readme_are_those_of_the_results():
    """A new run that is kept must be in the README: the numbers in bold there are in the results."""
    chart = runpy.run_path(str(ROOT / "bench/chart.py"))
    readme = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())
    wanted = {
        r"takes \*\*(\d+) ns\*\* from Python": ("shm", "read 8 B", 1000),
        r"\*\*([\d.]+) million\*\*": ("queue_rate", "put, get of 8 B", 1),
        r"unlock take \*\*(\d+) ns\*\*": ("lock", "lock and unlock, alone", 1000),
    }
    for pattern, (file, figure, factor) in wanted.items():
        said = re.search(pattern, readme)[1]
        kept = chart["figure"](chart["result"](file), figure)["dsmem"] * factor
        assert said == (f"{kept:.1f}" if "." in said else f"{kept:.0f}"), figure


def test_the_program_with_a_lock_of_another_host_runs(cluster_name, tmp_path):
    """With the address of a server on this one."""
    page = (ROOT / "docs/howto/two_hosts.md").read_text()
    (text,) = (block.text for block in blocks_of(page) if 'cluster.lock("turn"' in block.text)
    with process() as (_, at):
        program = tmp_path / "program.py"
        program.write_text("import dsmem\n" + text.replace("tcp://10.0.0.1:7700/demo", f"{at}/{cluster_name}"))
        env = os.environ | {"DSMEM_SECRET": SECRET.decode(), "PYTHONWARNINGS": "error"}
        done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=env)
        assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, expected_output(text), "")
    with dsmem.connect(cluster_name) as here:
        for name in ("table", "turn"):
            here.unlink(name)
