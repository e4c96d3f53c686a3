"""The mutation tool: what it changes and what it leaves alone."""

import shutil

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
    made = mutate.mutants_of("csrc/x.c", SOURCE)
    assert {m.line for m in made} == {5, 6, 7}
    assert "    if (a != 1) // a == 2" in {m.after for m in made}
    assert all(m.before == SOURCE.splitlines()[m.line - 1] != m.after for m in made)
    text = 'def f(a):\n    """a == b\n    c == d"""\n    return a == f"{a} == b"  # a == b\n'
    made = mutate.mutants_of("dsmem/x.py", text)
    assert {m.line for m in made} == {4}
    assert '    return a != f"{a} == b"  # a == b' in {m.after for m in made}


def test_masked_lines_have_the_same_numbers():
    for text, what in ((SOURCE, mutate.C), ('x = """a\n\n  b\n"""\ny = 1\n', mutate.PYTHON)):
        lines, pieces = mutate.masked(text, what)
        assert len(lines) == text.count("\n")
        whole = mutate.MASKED.sub(lambda m, pieces=pieces: pieces[ord(m[0]) - mutate.MASK], "".join(lines))
        assert whole == text


def test_a_sample_is_repeatable_and_takes_one_mutant_of_a_line():
    mutants = [mutate.Mutant("a", line, "x", str(n)) for line in range(20) for n in range(line + 1)]
    drawn = mutate.sample(mutants, 10, 7)
    assert drawn == mutate.sample(mutants, 10, 7) != mutate.sample(mutants, 10, 8)
    assert len({m.line for m in drawn}) == 10


def test_files():
    names = ["csrc/a.c", "csrc/fabric/verbs/b.c", "dsmem/testing/c.py", "dsmem/d.pxi", "tests/e.py", "dsmem/f.pyi"]
    assert mutate.sources(names, verbs=False) == ["csrc/a.c", "dsmem/d.pxi"]
    assert "csrc/fabric/verbs/b.c" in mutate.sources(names, verbs=True)


def test_tests_of_a_file():
    rows = "# comment\ncsrc/a.* csrc/b.c  tests/x tests/y.py\ncsrc/*  tests/z\n"
    assert mutate.covering("csrc/a.h", rows) == ["tests/x", "tests/y.py"]
    assert mutate.covering("csrc/c.c", rows) == ["tests/z"]
    assert mutate.covering("dsmem/d.py", rows) == ["tests"]


def test_every_row_names_what_is_there():
    for row in (mutate.HERE / "covered_by.txt").read_text().splitlines():
        for word in row.split() if not row.startswith("#") else ():
            assert list(mutate.ROOT.glob(word)), word


def test_equivalent_mutants():
    text = "# head\n\na.c\nif (x)\nif (!x)\n# reason\n\nb.c\ny\nz\n# reason\n"
    assert mutate.equivalent(text) == {("a.c", "if (x)", "if (!x)"), ("b.c", "y", "z")}
    for path, before, _ in mutate.equivalent((mutate.HERE / "equivalent.txt").read_text()):
        assert before in [line.strip() for line in (mutate.ROOT / path).read_text().splitlines()]


@pytest.mark.parametrize(
    ("after", "result"),
    [("VALUE = 2", "caught"), ("VALUE = 1 + 0", "survived"), ("while True: VALUE = 1", "timed out")],
)
def test_a_mutant_is_judged(tmp_path, monkeypatch, after, result):
    root = tmp_path / "root"
    root.mkdir()
    (root / "value.py").write_text("# text\nVALUE = 1\n")
    (root / "test_value.py").write_text("import value\n\n\ndef test():\n    assert value.VALUE == 1\n")
    (root / "setup.py").write_text("")
    monkeypatch.setattr(mutate, "ROOT", root)
    tree = mutate.Tree(tmp_path / "tree", ["value.py", "test_value.py", "setup.py"])
    assert tree.passes_unchanged(["test_value.py"])
    mutant = mutate.Mutant("value.py", 2, "VALUE = 1", after)
    assert tree.judge(mutant, ["test_value.py"], 5) == result
    assert (tmp_path / "tree/value.py").read_text() == "# text\nVALUE = 1\n"
    assert shutil.which("git") and "-VALUE = 1\n+" + after in mutate.difference(mutant, "# text\nVALUE = 1\n")
