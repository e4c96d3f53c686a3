"""Files have one subject and stay under 800 lines; a function of C fits a screen."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES = 800
FUNCTION_LINES = 50
COLUMNS = 120  # of C, whose formatter leaves comments alone; of the others the linters look at it
SUFFIXES = {".c", ".h", ".def", ".py", ".pyi", ".pyx", ".pxd", ".pxi", ".sh"}


def files():
    for folder in ("csrc", "dsmem", "tests", "bench", "ci"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and (path.suffix in SUFFIXES or (folder == "ci" and not path.suffix)):
                yield path


def too_long(text):
    return text.count("\n") > FILE_LINES


def wide_lines(text):
    return [number for number, line in enumerate(text.splitlines(), 1) if len(line) > COLUMNS]


def long_functions(text):
    """(first line, lines) of each function that is too long. clang-format puts the braces of a body at the margin."""
    found, start = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if line == "{":
            start = number
        elif line == "}" and start is not None:
            if number - start + 1 > FUNCTION_LINES:
                found.append((start, number - start + 1))
            start = None
    return found


@pytest.mark.parametrize("path", list(files()), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_short(path):
    text = path.read_text()
    assert not too_long(text), f"{path.relative_to(ROOT)} has {text.count(chr(10))} lines, the limit is {FILE_LINES}"
    if path.suffix in (".c", ".h"):
        assert long_functions(text) == []
        assert wide_lines(text) == []


def test_what_is_too_long_is_found():
    assert too_long("\n" * (FILE_LINES + 1)) and not too_long("\n" * FILE_LINES)
    body = "int f(void)\n{\n" + "    g();\n" * FUNCTION_LINES + "}\n"
    assert long_functions("int x;\n\n" + body) == [(4, FUNCTION_LINES + 2)]
    assert long_functions("int f(void)\n{\n    g();\n}\n") == []
    assert wide_lines("x\n" + "x" * (COLUMNS + 1) + "\n") == [2] and not wide_lines("…" * COLUMNS)
