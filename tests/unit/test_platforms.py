"""What the core refuses to be compiled for, and what the package says when a tool to compile it is missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def preprocess(*flags):
    command = ["gcc", "-E", "-w", *flags, "-Icsrc", "csrc/objects/object.c", "-o", os.devnull]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@needs_gcc
def test_this_machine_is_supported():
    done = preprocess()
    assert done.returncode == 0, done.stderr


@needs_gcc
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["-U__BYTE_ORDER__", "-D__BYTE_ORDER__=__ORDER_BIG_ENDIAN__"], "little-endian machines only"),
        (["-U__SIZEOF_POINTER__", "-D__SIZEOF_POINTER__=4"], "64-bit machines only"),
    ],
    ids=["big-endian", "32-bit"],
)
def test_other_machines_are_refused(flags, sentence):
    done = preprocess(*flags)
    assert done.returncode != 0 and sentence in done.stderr, done.stderr


def build(**environment):
    """The message of a build that ends before anything is compiled."""
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    env = os.environ | environment
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    return done.stderr


def test_a_missing_compiler_is_named_with_the_command_that_installs_it(tmp_path):
    said = build(CC=str(tmp_path / "no-such-compiler"))
    assert "no C compiler" in said and "apt-get install -y gcc" in said and "Traceback" not in said, said


@needs_gcc
def test_missing_headers_of_c_are_not_called_a_missing_compiler(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nfor a; do grep -qs "stdint.h" "$a" && exit 1; done\nexec gcc "$@"\n')
    compiler.chmod(0o755)
    said = build(CC=str(compiler))
    assert "no header of the C library" in said and "libc6-dev" in said and "Traceback" not in said, said


@needs_gcc
def test_missing_headers_of_python_are_named_with_the_command_that_installs_them(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nfor a; do grep -qs "Python.h" "$a" && exit 1; done\nexec gcc "$@"\n')
    compiler.chmod(0o755)
    said = build(CC=str(compiler))
    assert "no Python.h" in said and "python3-dev" in said and "Traceback" not in said, said


def test_missing_packages_are_named_in_one_command_as_this_system_calls_them(tmp_path):
    """ci/deps without rights: of two names the one that apt knows."""
    for name, body in {
        "dpkg-query": "exit 1",
        "apt-cache": 'case $2 in libclang-rt-dev) echo "Candidate: (none)";; *) echo "Candidate: 1";; esac',
        "apt-get": "exit 1",
        "sudo": "exit 1",
        "id": "echo 1000",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["ci/deps", "sanitize"], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "as root: apt-get update && apt-get install -y clang gcc libclang-rt-14-dev\n" in done.stderr, done.stderr


SECOND_INTERPRETER = '''
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import dsmem
code = """
try:
    import dsmem
except ImportError as error:
    print(error)
"""
interpreters.run_string(interpreters.create(), code)
'''


def test_a_second_interpreter_of_a_process_is_refused_with_a_sentence():
    command = [sys.executable, "-c", SECOND_INTERPRETER]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    # Cython's own where the GIL is shared, Python's where it is not.
    assert "only be loaded into one interpreter" in done.stdout or "subinterpreters" in done.stdout, done.stdout


@pytest.fixture
def free_threaded():
    """A free-threaded Python that has dsmem: this one, $DSMEM_FREE_THREADED_PYTHON or one in PATH."""
    named = os.environ.get("DSMEM_FREE_THREADED_PYTHON")
    candidates = [sys.executable, *([named] if named else map(shutil.which, (f"python3.{n}t" for n in range(13, 20))))]
    has_it = "import sysconfig, dsmem; sys.exit(not sysconfig.get_config_var('Py_GIL_DISABLED'))"
    for python in filter(None, candidates):
        command = [python, "-W", "ignore", "-c", f"import sys; {has_it}"]
        if subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0:
            return python
    pytest.skip("no free-threaded Python that can import dsmem in PATH; see DSMEM_FREE_THREADED_PYTHON")


def test_importing_turns_the_gil_on_and_says_so(free_threaded):
    for flags, on in (((), True), (("-X", "gil=0"), False)):
        command = [free_threaded, *flags, "-c", "import sys, dsmem; print(sys._is_gil_enabled())"]
        env = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (0, f"{on}\n"), done.stderr
        said = "RuntimeWarning: The global interpreter lock (GIL) has been enabled to load module 'dsmem._core._core'"
        assert (said in done.stderr) == on, done.stderr


def test_free_threaded_python_is_asked_for_the_gil():
    """Without Cython's directive a module asks for it; docs/SUPPORT.md says so."""
    sources = [p for pattern in ("*.pyx", "*.pxi", "*.pxd") for p in (ROOT / "dsmem").rglob(pattern)]
    assert sources
    declared = [p.name for p in [*sources, ROOT / "setup.py"] if "freethreading_compatible" in p.read_text()]
    assert (declared == []) == ("Importing dsmem turns the GIL on" in (ROOT / "docs/SUPPORT.md").read_text())
