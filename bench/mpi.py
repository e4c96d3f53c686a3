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
OVER_TCP = {"openmpi": "mpi", "mpich": "mpich"}  # mpirun's suffix: the library's name
_RANK = Path(__file__).with_name("mpi_rank.py")


def missing():
    """Why it can't run here, or None."""
    if not shutil.which("mpirun"):
        return "no mpirun (apt-get install openmpi-bin)"
    if subprocess.run([sys.executable, "-c", "import mpi4py"], capture_output=True, check=False).returncode:
        return "no mpi4py"
    return None


def missing_over_tcp(library):
    """Why a library of OVER_TCP can't run here, or None."""
    program, package = f"mpirun.{library}", {"openmpi": "openmpi-bin"}.get(library, library)
    if not shutil.which(program) or not ctypes.util.find_library(OVER_TCP[library]):
        return f"no {program} (apt-get install {package})"
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
def over_tcp(library):
    """The same over loopback, by a library of OVER_TCP."""
    with contextlib.ExitStack() as stack:
        if library == "openmpi":
            command = ["mpirun.openmpi", *_COMMAND[1:], "--mca", "pml", "ob1", "--mca", "btl", "tcp,self"]
            command += ["--mca", "osc", "pt2pt"]
            environment = {"MPI4PY_MPIABI": "openmpi", "MPI4PY_RC_THREAD_LEVEL": "funneled"}
        else:  # the wheel of mpi4py loads any MPI of this ABI, by the name that others have
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            name = ctypes.util.find_library(OVER_TCP[library])
            found = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
            path = next(line.split()[-1] for line in found.splitlines() if line.split()[:1] == [name])
            Path(folder, "libmpi.so.12").symlink_to(path)
            command = ["mpirun.mpich", "-n", "2"]
            environment = {
                "LD_LIBRARY_PATH": folder,
                "MPI4PY_MPIABI": "mpich",
                "MPIR_CVAR_NOLOCAL": "1",
                "UCX_TLS": "tcp,self",
            }
        yield stack.enter_context(_asked([*command, sys.executable, _RANK, "tcp"], environment))
