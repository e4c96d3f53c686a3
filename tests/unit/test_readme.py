"""What the README shows runs as it is written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dsmem.cli import main
from dsmem.cluster import local

README = (Path(__file__).parents[2] / "README.md").read_text()


def commands():
    return sorted(set(re.findall(r"^    dsmem (.*?) *(?:#.*)?$", README, re.MULTILINE)))


def test_the_ten_lines():
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    said = re.search(r"# (b'8 bytes!' 0 1)$", example, re.MULTILINE)[1]
    done = subprocess.run([sys.executable, "-W", "error", "-c", example], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (said + "\n", "")
    assert len([line for line in example.splitlines() if line]) == 10


def test_the_lines_about_names():
    (example,) = re.findall(r"^```py\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    said = re.search(r"print.*# (.*)$", example, re.MULTILINE)[1]
    example = example.replace("connect()", f'connect("readme-{os.getpid()}")')
    done = subprocess.run([sys.executable, "-W", "error", "-c", example], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (said + "\n", "")
    assert local.LocalNames(f"readme-{os.getpid()}", os.geteuid()).remove_if_empty()


def test_there_are_commands():
    assert {"doctor", "bench"} <= {command.split()[0] for command in commands()}


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command):
    """--help wins over doing it, but only after options and arguments have been parsed one by one."""
    name, *arguments = shlex.split(command)
    sub = main.commands[name]
    sub.make_context(name, arguments)
    assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0
