"""ci/mutate tries only the tests that its table names: a new test file needs to be named there."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
OTHERS = {  # they say nothing of a line of csrc or dsmem; test_without_the_gil fails on a loaded machine
    *("test_bench_programs", "test_ci", "test_doc_blocks", "test_examples", "test_front_door"),
    *("test_interpreters", "test_packaging", "test_platforms", "test_readme", "test_store_benches"),
    "test_without_the_gil",
}


def unnamed(table, files):
    """The files that no row names."""
    words = [word for line in table.splitlines() if not line.startswith("#") for word in line.split()]
    named = {path.stem for word in words for path in TESTS.parent.glob(word.partition("::")[0])}
    named |= {match[1] for word in words if (match := re.search(r"::test_program\[(\w+)\]", word))}
    return {path.stem for path in files} - named - OTHERS


def test_every_test_file_stands_in_a_row():
    files = [path for folder in ("unit", "sync", "sweeps") for path in (TESTS / folder).glob("test_*.py")]
    files += (TESTS / "c").glob("test_*.c")
    lacking = unnamed((TESTS / "mutation/covered_by.txt").read_text(), files)
    assert not lacking, "add them to the rows of tests/mutation/covered_by.txt whose sources they test"


def test_what_no_row_names_is_found():
    table = "csrc/a.c tests/unit/test_queue.py tests/unit/test_c_programs.py::test_program[test_verbs]"
    files = [Path("test_queue.py"), Path("test_verbs.c"), Path("test_ci.py"), Path("test_clock.py")]
    assert unnamed(table, files) == {"test_clock"}
