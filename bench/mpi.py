"""mpi4py over Open MPI as a contestant: two ranks of their own, which measure when asked."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

_COMMAND = ("mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2")


def missing():
    """Why it can't run here, or None."""
    if not shutil.which("mpirun"):
        return "no mpirun (apt-get install openmpi-bin)"
    if subprocess.run([sys.executable, "-c", "import mpi4py"], capture_output=True, check=False).returncode:
        return "no mpi4py"
    return None


@contextlib.contextmanager
def ranks():
    """time(name, number) -> seconds, and the library's name."""
    command = [*_COMMAND, sys.executable, Path(__file__).with_name("mpi_rank.py")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("mpirun ended without a word; its messages stand above")

        def time(name, number):
            print(json.dumps({"name": name, "number": number}), file=process.stdin, flush=True)
            return float(process.stdout.readline())

        yield time, json.loads(line)["library"]
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
