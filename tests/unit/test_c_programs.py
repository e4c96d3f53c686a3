"""The C programs of tests/c that test the core without Python, under gcc's address and undefined sanitizers."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted(path.stem for path in (ROOT / "tests/c").glob("test_*.c"))
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
VERBS = ["-DDSM_HAVE_VERBS=1"] if Path("/usr/include/infiniband/verbs.h").exists() else []
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-g", "-O1", "-fno-omit-frame-pointer", *SANITIZE, *VERBS, "-pthread", "-Icsrc"]


def compile_c(*arguments):
    return subprocess.run(["gcc", *FLAGS, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def checked(done):
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def sanitizer(tmp_path_factory):
    """A folder to compile in, where gcc can compile and run a program with the sanitizers."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    folder = tmp_path_factory.mktemp("sanitized")
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    done = compile_c(folder / "empty.c", "-o", folder / "empty")
    if done.returncode != 0 and any(name in done.stderr for name in ("asan", "ubsan")):
        pytest.skip("gcc's sanitizers (libasan, libubsan) are not installed")
    checked(done)
    checked(subprocess.run([folder / "empty"], capture_output=True, text=True, check=False))
    return folder


@pytest.fixture(scope="module")
def core(sanitizer):
    """The whole core as an archive, compiled once."""

    def compile_one(source):
        target = sanitizer / f"{source.parent.name}-{source.stem}.o"
        checked(compile_c("-c", source, "-o", target))
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sorted((ROOT / "csrc").rglob("*.c"))))
    subprocess.run(["ar", "rcs", sanitizer / "core.a", *objects], check=True)
    return sanitizer / "core.a"


@pytest.mark.timeout(400)  # hundreds of forks with a sanitizer take more than a minute on a busy host
@pytest.mark.parametrize("name", PROGRAMS)
def test_program(sanitizer, core, name):
    source, program = ROOT / f"tests/c/{name}.c", sanitizer / name
    wraps = [
        f"-Wl,--wrap={f}" for line in re.findall(r"(?m)^/\* wraps: (.*) \*/$", source.read_text()) for f in line.split()
    ]
    folders = re.findall(r"(?m)^/\* with: (.*) \*/$", source.read_text())
    more = [path for folder in folders for path in sorted((ROOT / folder).glob("*.c"))]
    checked(compile_c(source, *more, core, "-ldl", *wraps, "-o", program))
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=300)
    checked(done)
    assert done.stdout.endswith("ok\n"), done.stdout + done.stderr


def test_a_write_behind_the_end_of_a_buffer_is_found(sanitizer):
    source, program = sanitizer / "behind.c", sanitizer / "behind"
    source.write_text("int main(int argc, char **argv) { char a[4]; a[argc + 3] = 1; return a[argc + 3] - 1; }\n")
    checked(compile_c(source, "-o", program))
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "behind.c" in done.stderr
