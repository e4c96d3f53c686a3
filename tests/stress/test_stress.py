"""The stress program, in its short form; make nightly has the long one."""

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("stress.py")


def test_a_million_messages():
    run = subprocess.run(
        [sys.executable, PROGRAM, "--messages", "1000000"], capture_output=True, text=True, timeout=110, check=False
    )
    assert run.returncode == 0 and " kills, " in run.stdout, run.stdout + run.stderr
    print(run.stdout)
