"""The simulation of a copy that is made again (tests/c/test_store_fill.c) sees each of these bugs."""

import shutil
import subprocess

import pytest
from store_simulation import ROOT, compiled

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
FILL = ROOT / "csrc/store/fill.c"
OTHERS = [ROOT / "csrc" / each for each in ("store/layout.c", "base/xxh3.c", "base/error.c")]
SEEDS = 20000
# What is planted: what stands there, and what stands there instead.
PLANTED = {
    "a page that was left counts as copied": ("        if (m->of[i].whole) {", "        if (true) {"),
    "a page counts as copied before its copy is there": (
        "m->of[i].whole = whole || m->last;",
        "m->of[i].whole = whole || m->last; if (whole) m->seen[m->of[i].index] = m->of[i].head;",
    ),
    "a page in the same frame counts as the same": (
        "if (head == m->seen[index])",
        "if (head == m->seen[index] || (framed && (head & 0xffffff) == (m->seen[index] & 0xffffff)))",
    ),
    "the last round copies no pages": ("if (head == m->seen[index])", "if (head == m->seen[index] || m->last)"),
    "the last round begins where another one was": ("m->at = m->last ? 0 : m->at;", ""),
    "the heads are not written": ("return m->last ? write_words", "return false ? write_words"),
    "the words are not written": ("    if (m->last)\n        return read_more_words(m);\n", ""),
    "a head that may be a mixture is not looked at again": ("m->of[i].again == m->of[i].head &&", ""),
    "all pages of a window get the first one's bytes": (
        "m->of[i].head)), room_of(m, i),",
        "m->of[i].head)), room_of(m, 0),",
    ),
    "a page that goes over to another batch is forgotten": (
        "    m->at += m->got;\n    m->got",
        "    m->at += m->got + 1;\n    m->got",
    ),
    "the pages of the first extent are looked for": ("number_at(m->shape, m->shape->extent, index)", "index"),
    "an op that has failed is not noticed": ("if (m->ops[i].status)", "if (false)"),
}


def linked(folder, source):
    program = folder / "program"
    compiled(f"-iquote{FILL.parent}", ROOT / "tests/c/test_store_fill.c", source, *OTHERS, "-o", program)
    return program


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_seen(tmp_path, bug):
    old, new = PLANTED[bug]
    text = FILL.read_text()
    assert text.count(old) == 1, "fill.c has changed: plant another bug here"
    copy = tmp_path / "planted.c"
    copy.write_text(text.replace(old, new))
    done = subprocess.run(
        [linked(tmp_path, copy), "1", str(SEEDS)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 1 and done.stdout.startswith("seed "), done.stdout + done.stderr


def test_without_one_it_sees_none(tmp_path):
    done = subprocess.run(
        [linked(tmp_path, FILL), "1", str(SEEDS)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout
