"""Compiles the model device, and sets the environment in which dsmem finds it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCES = sorted(HERE.glob("*.c"))
MAP = HERE / "model.map"
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-pthread"]


def missing() -> str:
    """Why it cannot be built here, or an empty string."""
    if shutil.which("gcc") is None:
        return "gcc is not installed"
    return "" if Path("/usr/include/infiniband/verbs.h").exists() else "libibverbs-dev is not installed"


def build(folder: Path) -> Path:
    """Compile the library into a folder."""
    library = folder / "libmodel.so"
    command = ["gcc", *FLAGS, "-shared", "-fPIC", *SOURCES, f"-Wl,--version-script={MAP}", "-o", library]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


def environment(library: Path, network: Path, plan: str) -> dict[str, str]:
    """Variables of the environment; processes that have the same network reach each other."""
    network.mkdir(exist_ok=True)
    return {**os.environ, "DSMEM_LIBIBVERBS": str(library), "MODELDEV": f"dir={network}&{plan}"}


def play(library: Path, folder: Path, plan: str, program: str, *arguments: str) -> None:
    """Run a program of Python on the model device. It says "good" at its end, and nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=environment(library, folder / "network", plan),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "good\n", done.stderr
