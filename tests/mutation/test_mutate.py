"""The mutation tool: what it changes and what it leaves alone."""

import fnmatch
import json
import re
import shutil
import time

import mutants
import mutate
import pytest

SOURCE = """/* a == b
 * c == d */
static int f(int a, const char *b)
{
    if (a == 1) // a == 2
        return g("a == b");
    return a;
}
"""


def test_comments_and_literals_are_left_alone():
    pytest.importorskip("universalmutator")
    made = mutants.mutants_of("csrc/x.c", SOURCE)
    assert {m.line for m in made} == {5, 6, 7}
    assert "    if (a != 1) // a == 2" in {m.after for m in made}
    assert all(m.before == SOURCE.splitlines()[m.line - 1] != m.after for m in made)
    text = 'def f(a):\n    """a == b\n    c == d"""\n    return a == f"{a} == b"  # a == b\n'
    made = mutants.mutants_of("dsmem/x.py", text)
    assert {m.line for m in made} == {4}
    assert '    return a != f"{a} == b"  # a == b' in {m.after for m in made}


def test_masked_lines_have_the_same_numbers():
    for text, what in ((SOURCE, mutants.C), ('x = """a\n\n  b\n"""\ny = 1\n', mutants.PYTHON)):
        lines, pieces = mutants.masked(text, what)
        assert len(lines) == text.count("\n")
        whole = mutants.MASKED.sub(lambda m, pieces=pieces: pieces[ord(m[0]) - mutants.MASK], "".join(lines))
        assert whole == text


def test_a_sample_is_repeatable_and_takes_one_mutant_of_a_line():
    made = [mutants.Mutant("a", line, "x", str(n)) for line in range(20) for n in range(line + 1)]
    drawn = mutants.sample(made, 10, 7)
    assert drawn == mutants.sample(made, 10, 7) != mutants.sample(made, 10, 8)
    assert len({m.line for m in drawn}) == 10


def test_files():
    names = ["csrc/a.c", "csrc/fabric/verbs/b.c", "dsmem/testing/c.py", "dsmem/d.pxi", "tests/e.py", "dsmem/f.pyi"]
    assert mutants.sources(names, verbs=False) == ["csrc/a.c", "dsmem/d.pxi"]
    assert "csrc/fabric/verbs/b.c" in mutants.sources(names, verbs=True)


def test_tests_of_a_file():
    rows = "# comment\ncsrc/a.* csrc/b.c tests/x\n    tests/y.py::t[1]\ncsrc/*  tests/z\n"
    assert mutants.covering("csrc/a.h", rows) == ["tests/x", "tests/y.py::t[1]"]
    assert mutants.covering("csrc/c.c", rows) == ["tests/z"]
    assert mutants.covering("dsmem/d.py", rows) == ["tests"]


def test_every_row_names_what_is_there():
    for row in (mutants.HERE / "covered_by.txt").read_text().splitlines():
        for word in row.split() if not row.startswith("#") else ():
            assert list(mutate.ROOT.glob(word.partition("::")[0])), word


def test_no_row_hides_a_pattern_of_a_row_below():
    text = (mutants.HERE / "covered_by.txt").read_text()
    rows = [row.split() for row in re.split(r"\n(?! )", re.sub(r"(?m)^#.*\n", "", text))]
    left = mutants.sources(mutate.listed(), verbs=True)
    for patterns in ([word for word in row if not word.startswith("tests/")] for row in rows):
        found = {pattern: fnmatch.filter(left, pattern) for pattern in patterns}
        assert all(found.values()), found
        left = [path for path in left if not any(path in paths for paths in found.values())]


def test_every_area_is_a_folder():
    assert all((mutate.ROOT / area).is_dir() for area in mutate.AREAS)


def test_equivalent_mutants():
    text = "# head\n\na.c\nif (x)\nif (!x)\n# reason\n\nb.c\ny\nz\n# reason\n\nc.c\nelse\n# reason\n"
    assert mutants.equivalent(text) == {("a.c", "if (x)", "if (!x)"), ("b.c", "y", "z"), ("c.c", "else", "")}
    for path, before, _ in mutants.equivalent((mutants.HERE / "equivalent.txt").read_text()):
        assert before in [line.strip() for line in (mutate.ROOT / path).read_text().splitlines()]


def test_a_line_that_has_moved_is_found():
    mutant = mutants.Mutant("a", 2, "x", "y")
    assert mutants.locate(mutant, "a\nx\nx\n") == 2
    assert mutants.locate(mutant, "x\na\n") == 1
    assert mutants.locate(mutant, "x\na\na\nx\n") == 1
    assert mutants.locate(mutant, "a\n") is None


CYTHON = """cdef int f(int a):
    cdef int b = a + 1
    while (b <
           10):
        b += 1
    if b == 10:
        print("(",
              b)
        return b  # (
    return 0
"""


def test_statements_begin_and_end_on_their_lines():
    assert mutants.statements(CYTHON) == {1, 2, 5, 6, 9, 10}
    assert mutants.statements("a = 1 + \\\n    2\nb = 3\n") == {3}


def test_a_switch_stands_between_a_line_and_its_mutant():
    lines = CYTHON.splitlines()
    changes = {
        2: "    cdef int b = a - 1",
        3: "    while (b >",
        5: "        b -= 1",
        6: "    if not (b == 10):",
        8: " a)",
    }
    chosen = {10 * n: mutants.Mutant("x.pxi", n, lines[n - 1], after) for n, after in changes.items()}
    text, behind = mutants.switched(CYTHON, chosen)
    made = text.splitlines()
    assert made[1:6] == [
        "    cdef int b",
        "    if dsmem_mutant == 20:",
        "        b = a - 1",
        "    else:",
        "        b = a + 1",
    ]
    assert "        if dsmem_mutant == 50:\n            b -= 1\n        else:\n            b += 1\n" in text
    condition = "    if ((not not (not (b == 10))) if dsmem_mutant == 60 else (not not (b == 10))):"
    assert behind[made.index(condition) + 1] == 60
    assert set(behind.values()) == {20, 50, 60}
    assert mutants.either(mutants.Mutant("x", 1, "    for i in a:", "    for i in b:"), 1) is None
    commented = mutants.Mutant("x", 1, 'if a == "#":  # a: b', 'if a != "#":  # a: b')
    made = mutants.either(commented, 7)
    assert made == 'if ((not not (a != "#")) if dsmem_mutant == 7 else (not not (a == "#"))):\n'


def test_the_interval_of_a_share():
    low, high = mutate.wilson(81, 90)
    assert low == pytest.approx(0.8209, abs=1e-3) and high == pytest.approx(0.9466, abs=1e-3)
    assert mutate.wilson(0, 0) == (0.0, 1.0)


def test_areas_are_counted():
    results = [{"path": "csrc/dsm.h", "result": "caught"}, {"path": "csrc/memory/a.c", "result": "survived"}]
    lines = [line.split()[:4] for line in mutate.report([*results, {"path": "dsmem/a.py", "result": "not judged"}])]
    assert lines == [["all", "1/2", "=", "50%"], ["csrc/memory", "0/1", "=", "0%"], ["csrc", "1/1", "=", "100%"]]


TESTS = """import ctypes
import os
import pathlib
import signal

import pytest
import value

HERE = pathlib.Path(__file__).parent.parent


def test_fails_always():
    assert value.VALUE == 0


def test_hangs():
    while value.VALUE == 4:
        signal.pause()


def test_is_disturbed():
    mark = HERE / "mark"
    if value.VALUE in (3, 5) and not mark.exists():
        mark.touch()
        assert value.VALUE == 5
        signal.pause()


def test_on_a_machine_that_is_loaded_after_6():
    loaded = HERE.parent / "loaded"
    if value.VALUE == 6:
        loaded.touch()
    assert value.VALUE != 7 and not loaded.exists()


@pytest.mark.parametrize("how", ["a fault", "an abort"])
def test_crashes(how):
    if value.VALUE == 8 and how == "a fault":
        ctypes.string_at(0)
    if value.VALUE == 9 and how == "an abort":
        os.abort()


def test_value():
    assert value.VALUE in (1, 3, 5, 6)
"""


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """Of a project of one value and five tests; and a tree to judge in."""
    root = tmp_path / "root"
    (root / "tests").mkdir(parents=True)
    (root / "value.py").write_text("# text\nVALUE = 1\n")
    (root / "tests/test_value.py").write_text(TESTS)
    (root / "setup.py").write_text("")
    monkeypatch.setattr(mutate, "ROOT", root)
    names = ["value.py", "tests/test_value.py", "setup.py"]
    original, tree = (mutate.Tree(tmp_path / name, names) for name in ("original", "tree"))
    return mutate.Judge(original, 60, "", []), tree


def at(test):
    return f"tests/test_value.py::{test}"


@pytest.mark.parametrize(
    ("after", "result", "test"),
    [
        ("VALUE = 2", "caught", at("test_value")),
        ("VALUE = 1 + 0", "survived", None),
        ("VALUE = 3", "survived", None),
        ("VALUE = 4", "timed out", at("test_hangs")),
        ("VALUE = 5", "survived", None),
        ("VALUE = 8", "caught", at("test_crashes[a fault]")),
        ("VALUE = 9", "caught", at("test_crashes[an abort]")),
        ("VALUE =", "caught", None),
    ],
)
def test_a_mutant_is_judged(judge, monkeypatch, after, result, test):
    judge, tree = judge
    monkeypatch.setattr(mutate, "loaded", lambda: 1.0)
    if after in ("VALUE = 4", "VALUE = 5"):  # a test hangs; or it is slow once, as where others have the processors
        judge.failed, judge.silence = {at("test_fails_always"): time.monotonic()}, 20
    mutant = mutants.Mutant("value.py", 2, "VALUE = 1", after)
    assert judge.judge(tree, mutant) == (result, test)
    assert (tree.folder / "value.py").read_text() == "# text\nVALUE = 1\n"
    assert shutil.which("git") and "-VALUE = 1\n+" + after in mutants.difference(mutant, "# text\nVALUE = 1\n")
    if result != "caught" or test:
        assert judge.fails_unchanged(at("test_fails_always"))


def test_what_fails_on_a_loaded_machine_also_without_the_mutant_catches_nothing(judge):
    judge, tree = judge
    judge.failed = {at("test_fails_always"): time.monotonic()}
    passed = at("test_on_a_machine_that_is_loaded_after_6")
    assert judge.judge(tree, mutants.Mutant("value.py", 2, "VALUE = 1", "VALUE = 7")) == ("caught", passed)
    assert judge.judge(tree, mutants.Mutant("value.py", 2, "VALUE = 1", "VALUE = 6")) == ("survived", None)


@pytest.mark.parametrize(("says", "result"), [("value.c:2:3: error: x", "does not compile"), ("killed", "not judged")])
def test_a_build_that_fails_of_another_cause_is_no_verdict(judge, says, result):
    judge, tree = judge
    tree.write("value.c", b"# text\nVALUE = 1\n")
    tree.write("setup.py", f"raise SystemExit({says!r})".encode())
    assert judge.judge(tree, mutants.Mutant("value.c", 2, "VALUE = 1", "VALUE = 2")) == (result, None)


def test_a_mutant_of_which_no_test_can_say_anything_is_not_judged(judge):
    judge, tree = judge
    for test in re.findall(r"def (\w+)", TESTS):
        judge.failed[at(test)] = time.monotonic()
    assert judge.judge(tree, mutants.Mutant("value.py", 2, "VALUE = 1", "VALUE = 2")) == ("not judged", None)


def test_what_caught_the_neighbours_comes_first(judge):
    judge, _ = judge
    judge.rows = "a.c b.c tests/x\nc.c tests/y\n"
    caught = [("a.c", 9, "remote"), ("b.c", 1, "other"), ("a.c", 2, "local"), ("c.c", 1, "no"), ("a.c", 8, "local")]
    judge.results += [{"path": path, "line": line, "test": test} for path, line, test in caught]
    judge.results += [{"path": "a.c", "line": 1, "test": None}, {"path": "a.c", "line": 1}]
    assert judge.neighbours(mutants.Mutant("a.c", 1, "", "")) == ["local", "remote", "other"]


def test_work_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    (tmp_path / "a.py").write_text("x\ny\nz\n")
    work = mutate.Work(tmp_path / "7.json")
    work.draw([mutants.Mutant("a.py", n, line, line * 2) for n, line in enumerate("xyz", 1)])
    numbers = work.open(work.located(), set())
    assert [work.take(numbers), work.take(numbers)] == [(1, True), (2, True)]
    work.enter(1, "caught", "tests/t.py::t", 1.5)
    (tmp_path / "a.py").write_text("new\nx\ny\n")
    later = mutate.Work(tmp_path / "7.json")
    located = later.located()
    assert located == {1: mutants.Mutant("a.py", 2, "x", "xx"), 2: mutants.Mutant("a.py", 3, "y", "yy")}
    assert later.open(located, {("a.py", "w", "ww")}) == [2]
    assert [entry["result"] for entry in later.entries if "result" in entry] == ["caught", "gone"]
    assert later.open(located, {("a.py", "y", "yy")}) == []
    assert [entry["result"] for entry in json.loads((tmp_path / "7.json").read_text())] == [
        "caught",
        "equivalent",
        "gone",
    ]


def test_what_is_not_caught_soon_is_put_off_until_all_others_are_judged(judge, tmp_path):
    judge, tree = judge
    judge.failed = {at("test_fails_always"): time.monotonic()}
    mutant = mutants.Mutant("value.py", 2, "VALUE = 1", "VALUE = 4")  # a test hangs, with nothing more to be seen
    assert judge.judge(tree, mutant, time.monotonic()) == ("put off", None)
    assert (tree.folder / "value.py").read_text() == "# text\nVALUE = 1\n"
    work = mutate.Work(tmp_path / "7.json")
    work.draw([mutant] * 3)
    assert work.take([1, 2]) == (1, True)
    work.enter(1, "put off", None, 1.5)
    assert work.take([1, 2]) == (2, True)
    work.enter(2, "put off", None, 1.5)
    assert [work.take([1, 2]) for _ in range(3)] == [(1, False), (2, False), (None, True)]
    later = mutate.Work(tmp_path / "7.json")
    assert later.open(later.located(), set()) == [3]
    assert [later.take([3]) for _ in range(3)] == [(3, True), (1, False), (2, False)]


SETUP = """from Cython.Build import cythonize
from setuptools import Extension, setup

setup(ext_modules=cythonize([Extension("dsmem._core._core", ["dsmem/_core/_core.pyx"])], language_level=3))
"""


def test_mutants_of_cython_are_built_together(tmp_path, monkeypatch):
    monkeypatch.setattr(mutate, "ROOT", tmp_path / "root")
    core, part = tmp_path / "root/dsmem/_core/_core.pyx", tmp_path / "root/dsmem/_core/part.pxi"
    core.parent.mkdir(parents=True)
    (tmp_path / "root/tests").mkdir()
    packages = ["dsmem/__init__.py", "dsmem/_core/__init__.py"]
    for name in packages:
        (tmp_path / "root" / name).touch()
    (tmp_path / "root/tests/test_part.py").write_text(
        "from dsmem._core import _core\n\n\ndef test():\n    assert (_core.f(1), _core.f(2), _core.g()) == (1, 3, 1)\n"
    )
    core.write_text('cimport cython\n\ndef g():\n    return 1\n\ninclude "part.pxi"\n')
    part.write_text("def f(int a):\n    cdef int b = a + 1\n    if a == 1:\n        return a\n    return b\n")
    (tmp_path / "root/setup.py").write_text(SETUP)
    paths = ["dsmem/_core/_core.pyx", "dsmem/_core/part.pxi"]
    tree = mutate.Tree(tmp_path / "tree", [*packages, *paths, "tests/test_part.py", "setup.py"])
    chosen = {
        1: mutants.Mutant(paths[1], 2, "    cdef int b = a + 1", "    cdef int b = a - 1"),
        2: mutants.Mutant(paths[1], 3, "    if a == 1:", "    if not (a == 1):"),
        3: mutants.Mutant(paths[1], 4, "        return a", "        return no_such_name"),
        4: mutants.Mutant(paths[0], 4, "    return 1", "    return None"),
    }
    assert tree.build_all(chosen).keys() == {1, 2, 4}
    assert [tree.test(["tests"], 60, number)[0] for number in (0, 1, 2, 4)] == [0, 1, 1, 1]
