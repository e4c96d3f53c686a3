"""The stress program, in its short form; make nightly has the long one."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("stress.py")


@pytest.mark.timeout(700)  # on a busy host; it takes 10 s
def test_a_million_messages():
    run = subprocess.run(
        [sys.executable, PROGRAM, "--messages", "1000000"], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0 and " kills, " in run.stdout, run.stdout + run.stderr
    print(run.stdout)
