"""Scripts and pages name files of the tests that are there."""

import re
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMING = [
    *sorted(
        path
        for folder in ("ci", ".ci", "tests/softroce", "tests/modeldev", "tests/wallclock")
        for path in (ROOT / folder).iterdir()
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "tests/mutation/covered_by.txt",
]
NAME = re.compile(r"(?<![\w/.-])((?:tests|bench|ci)/[\w/.{},-]+\.(?:py|c|h|pml|sh))(?![\w/])")


def expanded(name):
    """The names for which a name with braces stands."""
    parts = [part.split(",") for part in re.split(r"[{}]", name)]
    return ["".join(choice) for choice in product(*parts)]


def missing(text):
    names = [name for name in NAME.findall(text) if not re.search(r"\{\w+\}", name)]  # not {of a format string}
    return sorted({one for name in names for one in expanded(name) if not (ROOT / one).exists()})


@pytest.mark.parametrize("path", [p for p in NAMING if p.is_file()], ids=lambda p: str(p.relative_to(ROOT)))
def test_named_files_are_there(path):
    assert missing(path.read_text()) == []


def test_what_is_missing_is_found():
    text = "see tests/unit/test_{queue,no_such}.py, `tests/tidy/test_words.py` and tests/c/none.c"
    assert missing(text) == ["tests/c/none.c", "tests/unit/test_no_such.py"]
