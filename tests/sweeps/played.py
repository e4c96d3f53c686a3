"""Plays scenes in a process of their own, so that one that hangs or crashes ends nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import dsmem

ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{Path(dsmem.__file__).parents[1]}:{Path(__file__).parents[1]}"}


def played(script: Path, cluster_name: str, *arguments: object, timeout: float | None = None) -> list[str]:
    """The lines that the script printed, of which the last says that it came through. None tells of a fault."""
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**ENVIRONMENT, "SWEEP_CLUSTER": cluster_name},
        check=False,
    )
    lines = done.stdout.splitlines()
    through = bool(lines) and lines[-1].startswith("through")
    assert done.returncode == 0 and through, (done.returncode, lines[-3:], done.stderr[-3000:])
    faults = [lines[max(0, i - 2) : i + 1] for i, line in enumerate(lines) if line.startswith("FAULT")]
    assert not faults
    return lines
