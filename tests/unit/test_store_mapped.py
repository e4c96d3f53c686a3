"""The short ways of a store on mapped memory (csrc/store/mapped.c): tests/c/test_store.c sees each of these bugs.

test_c_programs.py runs it on what stands there, under sanitizers.
"""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed"),
    pytest.mark.timeout(400),  # the first test compiles the core
]
ROOT = Path(__file__).parents[2]
MAPPED = ROOT / "csrc/store/mapped.c"
RUNS = 40  # some bugs take two threads that meet: on one busy processor every third run or so
# What is planted: what stands there, and what stands there instead.
PLANTED = {
    "a reader does not look again": ("page_bytes);\n    if (!is_still(&p, pid))", "page_bytes);\n    if (0)"),
    "an empty page of an earlier life is taken": ("head_low(p->head) == page_generation(pid) &&", ""),
    "versions are not compared": ("(expected && *expected != p.version)", "0"),
    "a refused swap counts as done": ("!= p.head) {", "!= p.head && 0) {"),
    "the frame that is the page is put back": ("put_back(e, 0, head_low(p.head))", "put_back(e, 0, frame)"),
    "a version is written twice": ("p.version + 1,", "p.version,"),
    "the hashes are not written": ("i < (int)(sizeof words / 8)", "i < BEFORE_HASH"),
    "a frame counts that the head doesn't name": (" == pid && head_names(", " == pid || head_names("),
    "the head before is not written": ("i < BEFORE_HASH", "i < BEFORE_HASH - 1"),
}


def compiled(*arguments):
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-w", "-pthread", "-Icsrc"]
    done = subprocess.run(["gcc", *flags, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """The core without MAPPED, and the test."""
    folder = tmp_path_factory.mktemp("mapped")
    sources = [path for path in sorted((ROOT / "csrc").rglob("*.c")) if path != MAPPED]
    sources.append(ROOT / "tests/c/test_store.c")
    targets = [folder / f"{source.parent.name}-{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda source, target: compiled("-c", source, "-o", target), sources, targets))
    return targets


def linked(objects, folder, text):
    copy = folder / "mapped.c"
    copy.write_text(text)
    compiled(f"-iquote{MAPPED.parent}", copy, *objects, "-ldl", "-o", folder / "test")
    return folder / "test"


def run(program):
    return subprocess.run([program], capture_output=True, text=True, check=False, timeout=100)


def test_nothing_is_seen_where_nothing_is_planted(objects, tmp_path):
    done = run(linked(objects, tmp_path, MAPPED.read_text()))
    assert done.returncode == 0 and done.stdout == "ok\n", done.stderr


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_seen(objects, tmp_path, bug):
    text, (old, new) = MAPPED.read_text(), PLANTED[bug]
    assert old in text, f"{MAPPED.name} has changed: plant another bug here"
    program = linked(objects, tmp_path, text.replace(old, new, 1))
    assert any("tests/c/test_store.c" in run(program).stderr for _ in range(RUNS))
