"""mpi4py as a contestant: two ranks of their own, which measure when asked."""

import contextlib
import ctypes.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_COMMAND = ("mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2")
_RANK = Path(__file__).with_name("mpi_rank.py")


def missing():
    """Why it can't run here, or None."""
    if not shutil.which("mpirun"):
        return "no mpirun (apt-get install openmpi-bin)"
    if subprocess.run([sys.executable, "-c", "import mpi4py"], capture_output=True, check=False).returncode:
        return "no mpi4py"
    return None


def missing_mpich():
    """Why MPICH can't run here, or None."""
    if not shutil.which("mpirun.mpich") or not ctypes.util.find_library("mpich"):
        return "no MPICH (apt-get install mpich)"
    return missing()


@contextlib.contextmanager
def _asked(command, environment):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, env=os.environ | environment)
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


def ranks():
    """time(name, number) -> seconds, and the library's name: by Open MPI, in shared memory."""
    return _asked([*_COMMAND, sys.executable, _RANK], {})


@contextlib.contextmanager
def mpich_over_tcp():
    """The same of MPICH over loopback. The wheel of mpi4py loads any MPI of its ABI, by the name that others have."""
    with tempfile.TemporaryDirectory() as folder:
        library = ctypes.util.find_library("mpich")
        found = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
        path = next(line.split()[-1] for line in found.splitlines() if line.split()[:1] == [library])
        Path(folder, "libmpi.so.12").symlink_to(path)
        environment = {
            "LD_LIBRARY_PATH": folder,
            "MPI4PY_MPIABI": "mpich",
            "MPIR_CVAR_NOLOCAL": "1",
            "UCX_TLS": "tcp,self",
        }
        with _asked(["mpirun.mpich", "-n", "2", sys.executable, _RANK, "tcp"], environment) as what:
            yield what
