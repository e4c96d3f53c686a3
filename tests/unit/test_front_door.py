"""What ``import dsmem`` makes reachable, and when; dsm.h; ``python -m dsmem``."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dsmem

ROOT = Path(__file__).parents[2]
LATE = ("dsmem.queue", "dsmem.sync")  # not needed before they are used


def python(program):
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_a_plain_import_is_enough():
    """Each name in a child of its own, which has seen no other."""
    program = """
import os, dsmem
for name in dsmem.__all__:
    if not (child := os.fork()):
        os._exit(not (name in dir(dsmem) and getattr(dsmem, name)))
    assert os.waitpid(child, 0)[1] == 0, name
"""
    python(program)


def test_what_is_not_used_is_not_imported():
    program = f"""
import sys, dsmem
assert not any(name in sys.modules for name in {LATE})
dir(dsmem)
assert not any(name in sys.modules for name in {LATE})
dsmem.Lock, dsmem.queue
assert all(name in sys.modules for name in {LATE})
"""
    python(program)


def test_names_are_those_of_their_modules():
    assert dsmem.Queue is dsmem.queue.Queue and dsmem.Lock is dsmem.sync.Lock
    assert dsmem.SharedClock is dsmem.clock.SharedClock and dsmem.Segment is dsmem.segment.Segment
    assert {module.removeprefix("dsmem.") for module in dsmem._HOMES.values()} <= {*dsmem._MODULES}
    assert {*dsmem._HOMES, *dsmem._MODULES} <= {*dsmem.__all__}


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'dsmem' has no attribute 'queues'"):
        dsmem.queues  # noqa: B018
    assert not hasattr(dsmem, "__wrapped__")


def test_star():
    assert python("from dsmem import *; print(Queue.__name__, connect.__name__, sync.__name__)") == (
        "Queue connect dsmem.sync\n"
    )


def test_a_misspelt_name_is_found_by_type_checkers(tmp_path):
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text("import dsmem\nlock: dsmem.Lock = dsmem.connect().lock('a')\ndsmem.queue.Pickled\ndsmem.Lokc\n")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(program)]  # with its cache
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert re.findall(r"program\.py:(\d+): error: (.*?) +\[", done.stdout) == [
        ("4", 'Module has no attribute "Lokc"')
    ], done.stdout


def test_python_m_dsmem():
    done = subprocess.run([sys.executable, "-m", "dsmem", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, dsmem.__version__ in done.stdout) == (0, True), done
    done = subprocess.run([sys.executable, "-m", "dsmem", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("Usage: python -m dsmem [OPTIONS] COMMAND")


# ---- dsm.h ----

PROGRAM = """
#include <dsm.h>
int number(void) { return sizeof(dsm_options) ? DSM_ECLOSED : DSM_ETIME; }
"""


def compiles(folder, tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = tmp_path / "program.c"
    source.write_text(PROGRAM)
    command = [compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{folder}", "-c", str(source)]
    done = subprocess.run([*command, "-o", str(tmp_path / "program.o")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_program_of_c_finds_the_header(tmp_path):
    compiles(dsmem.get_include(), tmp_path)


def test_an_installed_package_has_the_header(tmp_path):
    """As a wheel does: what build_py puts beside the Python files is enough."""
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "DSMEM_VERBS": "0"})
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "dsmem" / "include"
    parts = {str(path.relative_to(ROOT / "csrc")) for path in (ROOT / "csrc/dsm").iterdir()}
    assert {str(p.relative_to(folder)) for p in folder.rglob("*.*")} == {"base/err.def", "dsm.h", *parts}
    compiles(folder, tmp_path)
