"""The C programs that stop and kill processes after every instruction (tests/c/crash_*.c, tests/c/stepper.h)."""

import os
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-pthread", "-Icsrc"]
FULL = os.environ.get("DSMEM_FULL_SWEEPS") == "1"


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """The core's objects, and the compiler."""
    cc = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(cc) is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("core")

    def compile_one(source):
        target = folder / f"{source.parent.name}-{source.stem}.o"
        subprocess.run([cc, *FLAGS, "-c", source, "-o", target], cwd=ROOT, check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        return cc, folder, list(pool.map(compile_one, sorted((ROOT / "csrc").rglob("*.c"))))


def run(core, name, *arguments):
    cc, folder, objects = core
    program = folder / name
    subprocess.run([cc, *FLAGS, ROOT / f"tests/c/{name}.c", *objects, "-ldl", "-o", program], cwd=ROOT, check=True)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this kernel allows no ptrace here")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(600)
def test_lock(core):
    said = run(core, "crash_lock", *([] if FULL else ["--quick"]))
    assert said.count("killed at") == 4


def test_breaking_a_rwlock(core):
    assert run(core, "crash_rwlock", *(["--full"] if FULL else [])).count("killed at") == 1


@pytest.mark.timeout(3600 if FULL else 600)
def test_queue(core):
    said = run(core, "crash_queue", *(["--full"] if FULL else []))
    assert said.count("killed at") == 23 and said.count("stopped at") == 8


def test_queue_remotely(core):
    assert run(core, "crash_remote").count("stopped at") == 3


def test_sleepers_on_a_queue(core):
    assert run(core, "crash_wait").count("killed at") == 5


@pytest.mark.timeout(3600 if FULL else 600)
def test_segment(core):
    said = run(core, "crash_segment", *(["--full"] if FULL else []))
    assert said.count("killed at") == 5 and said.count("stopped at") == 1


def test_eventcount(core):
    assert "stopped at" in run(core, "crash_eventcount")


def test_members(core):
    assert run(core, "test_members").endswith("ok\n")
