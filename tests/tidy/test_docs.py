"""What the documentation names is there: files, folders, make's targets, links."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A path that begins with a folder of the sources, also with a wildcard: csrc/base/err.def, tests/c/test_*.c
PATH = re.compile(r"(?<![\w/.~-])((?:csrc|dsmem|tests|bench|ci|docs|examples)/[\w./*{},-]*[\w*}/])")
TARGET = re.compile(r"(?:`|^ {4,})make ([a-z]+)\b", re.M)  # as code, not as a verb
LINK = re.compile(r"\[[^\]]*\]\(([^)#:]+)(?:#[^)]*)?\)")
# In csrc a comment may name a file by its path under csrc.
IN_COMMENT = re.compile(r"\b((?:base|core|agent|objects|fabric)/[\w./]+\.(?:c|h|def))\b")


def exists(name, roots):
    pattern = name.rstrip("/")
    return any((root / pattern).exists() or ("*" in pattern and any(root.glob(pattern))) for root in roots)


def violations(text, roots, targets=frozenset(), links=True, pattern=PATH):
    found = [f"no file {name}" for name in pattern.findall(text) if "{" not in name and not exists(name, roots)]
    found += [f"no target 'make {name}'" for name in TARGET.findall(text) if targets and name not in targets]
    return found + [f"no file {name}" for name in LINK.findall(text) if links and not exists(name, roots)]


def make_targets():
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))


def documents():
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("path", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_documents_name_what_is_there(path):
    # The changelog speaks of the past too.
    targets = frozenset() if path.name == "CHANGELOG.md" else make_targets()
    assert violations(path.read_text(), [ROOT, path.parent], targets) == []


def test_comments_name_what_is_there():
    found = []
    for folder in ("csrc", "dsmem", "ci", "tests/c"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in (".c", ".h", ".def", ".py", ".pyi", ".pyx", ".pxi", ".pxd", ".sh"):
                continue
            text = path.read_text()
            found += [f"{path.relative_to(ROOT)}: {v}" for v in violations(text, [ROOT], links=False)]
            if folder == "csrc":
                found += [
                    f"{path.relative_to(ROOT)}: {v}"
                    for v in violations(text, [ROOT / "csrc"], frozenset(), False, IN_COMMENT)
                ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "as `csrc/core/no_such_file.c` does",
        "see docs/NOTHING.md.",
        "`tests/c/never_*.c`",
        "run `make coffee`",
        "[here](protocols/none.md)",
    ],
)
def test_what_is_missing_is_found(text):
    assert violations(text, [ROOT, ROOT / "docs"], make_targets())


def test_what_is_there_is_not():
    text = "`csrc/base/err.def`, tests/c/test_*.c, ci/test; `make test` [x](docs/GLOSSARY.md#words) [y](https://a.b/c)"
    assert violations(text, [ROOT], make_targets()) == []


def stray_rows(text):
    """Rows of a table that has no heading: what divides them from it is an empty line, or something else."""
    lines = ["", *re.sub(r"^```.*?^```", "", text, flags=re.M | re.S).splitlines(), ""]
    begins = [i for i, line in enumerate(lines) if line.startswith("|") and not lines[i - 1].startswith("|")]
    return [lines[i] for i in begins if not re.fullmatch(r"\|(?: *:?-+:? *\|)+", lines[i + 1])]


@pytest.mark.parametrize("path", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_rows_belong_to_tables(path):
    assert stray_rows(path.read_text()) == []


def test_a_stray_row_is_found():
    table = "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert stray_rows(table) == [] and stray_rows(table + "\n| 3 | 4 |\n") == ["| 3 | 4 |"]


def test_every_c_file_of_tests_is_run():
    """By ci/sanitize: tests/c/test_*.c as they are, the fuzzers by name or pattern; crash_*.c by tests/sync."""
    script = (ROOT / "ci/sanitize").read_text() + (ROOT / "tests/sync/test_crash.py").read_text()
    for path in sorted((ROOT / "tests/c").glob("*.c")):
        kind = path.name.split("_")[0]
        assert f"tests/c/{kind}_*.c" in script or path.name in script, path.name


def missing_from_reference(text, modules):
    """Public classes and functions of the modules that no directive of the API reference shows, under any name."""
    shown = []
    for dotted in re.findall(r"^\.\. auto(?:class|function):: dsmem\.([\w.]+)", text, re.M):
        *path, name = dotted.split(".")
        shown.append(getattr(importlib.import_module(".".join(["dsmem", *path])), name))
    for dotted in re.findall(r"^\.\. automodule:: ([\w.]+)", text, re.M):
        whole = importlib.import_module(dotted)
        shown += [getattr(whole, name) for name in whole.__all__]
    missing = []
    for module in modules:
        for name in getattr(module, "__all__", dir(module)):
            thing = getattr(module, name)
            own = hasattr(module, "__all__") or getattr(thing, "__module__", "") == module.__name__
            error = isinstance(thing, type) and issubclass(thing, Exception)
            if not name.startswith("_") and callable(thing) and own and not error and thing not in shown:
                missing.append(f"{module.__name__}.{name}")
    return missing


MODULES = [importlib.import_module(name) for name in ("dsmem", "dsmem.queue", "dsmem.sync", "dsmem.clock")]


def test_the_reference_shows_all_public_names():
    text = "".join(path.read_text() for path in (ROOT / "docs/api").glob("*.rst"))
    assert missing_from_reference(text, MODULES) == []
    for shown, name in (("automodule:: dsmem.sync", "dsmem.sync.Once"), ("autoclass:: dsmem.Region", "dsmem.Region")):
        assert name in missing_from_reference(text.replace(shown, ""), MODULES)


def misnumbered(files):
    """Decisions, as names and texts, whose number another one has, or is not that of their heading."""
    numbers = [name[:4] for name in files]
    twice = {name for name in files if numbers.count(name[:4]) > 1}
    return sorted(twice | {name for name, text in files.items() if not text.startswith(f"# {int(name[:4])}. ")})


def test_each_decision_has_a_number_of_its_own():
    assert misnumbered({p.name: p.read_text() for p in (ROOT / "docs/decisions").glob("0*.md")}) == []
    files = {"0001-a.md": "# 1. A", "0002-b.md": "# 2. B", "0002-c.md": "# 2. C", "0003-d.md": "# 4. D"}
    assert misnumbered(files) == ["0002-b.md", "0002-c.md", "0003-d.md"]
