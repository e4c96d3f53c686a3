"""Every block of code in the README and in docs/ runs, and prints what the page says."""

import os
import re
from pathlib import Path

import pytest
from blocks import NOT_RUN, ROOT, RUN, Block, Scene, blocks_of, commands_of, expected_output, matches

from dsmem.names import local

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = {page: blocks for page in PAGES if (blocks := [b for b in blocks_of(page.read_text()) if b.kind in RUN])}
PICKY = [(page, b) for page, blocks in PROGRAMS.items() for b in blocks if b.needs or b.reason]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def play(page: Path, blocks: list[Block], folder: Path) -> None:
    cluster = f"docs-{os.getpid()}"
    scene = Scene(page, folder, cluster)
    try:
        for block in blocks:
            scene.run(block)
        scene.close()
        left = [info.name for info in local.LocalNames(cluster, os.geteuid()).infos()]
        assert left == [], "the page leaves names behind"
    finally:
        scene.kill()
        names = local.LocalNames(cluster, os.geteuid())
        for info in names.infos():
            names.unlink(info.name)
        names.remove_if_empty()


@pytest.mark.parametrize("page", PROGRAMS, ids=name_of)
def test_page(page, tmp_path):
    play(page, [b for b in PROGRAMS[page] if not b.needs and not b.reason], tmp_path)


@pytest.mark.parametrize(("page", "block"), PICKY, ids=[f"{name_of(page)}:{b.line}" for page, b in PICKY])
def test_block_with_needs(page, block, tmp_path):
    """In a scene with the page's files, and with nothing else of it."""
    if block.reason or block.missing():
        pytest.skip(block.reason or block.missing())
    files = [b for b in PROGRAMS[page] if b.programs and not b.missing()]
    play(page, files if block.programs else [*files, block], tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_block_escapes(page):
    """Each fence is of a kind that is run or that is known not to be; indented code is neither."""
    text = page.read_text()
    assert {b.kind for b in blocks_of(text)} <= RUN | NOT_RUN
    assert len(re.findall(r"^```", text, re.M)) == 2 * len(blocks_of(text))


def test_readme_shows_programs():
    programs = [program for block in PROGRAMS[ROOT / "README.md"] for program in block.programs]
    assert len(programs) >= 6 and all(
        program.terminals for program in programs
    )  # two terminals that share an array, a queue with workers, a descriptor over a socket


# -- the runner itself --


def play_text(text, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(text)
    play_root = tmp_path / "folder"
    play_root.mkdir()
    play(page, blocks_of(text), play_root)


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint(1)  # 2\n```\n",
        "```python\n1 / 0\n```\n",
        "```python\nimport warnings; warnings.warn('x')\n```\n",
        "```python\nimport sys; print('x', file=sys.stderr)\n```\n",
        "```console\n$ false\n```\n",
        "```console\n$ echo a\nb\n```\n",
        "```console\n$ echo a  # terminal 1\n$ false  # terminal 2\n```\n",
        "```python\n# a.py, in terminal 1\npass\n# b.py, in terminal 2\n1 / 0\n```\n",
        "```python\n# a.py, in terminals 1 and 2\nprint(1)  # 2\n```\n",
        "```python\nimport dsmem\ndsmem.connect().lock('stays', create=True).close()\n```\n",
    ],
)
def test_what_is_wrong_is_found(text, tmp_path):
    with pytest.raises(AssertionError):
        play_text(text, tmp_path)


def test_what_is_right_passes(tmp_path):
    play_text(
        "```python\nx = 1\n```\n```python\nprint(x)  # 1\nprint('ab')  # a…\n```\n"
        "```python\n# a.py\nprint(2)\n```\n```console\n$ python a.py  # terminal 1\n2\n$ echo x\nx\n```\n"
        "```python\n# b.py, in terminals 1 and 2: b\nprint(4)  # 4\n# c.py\n1 / 0\n```\n",
        tmp_path,
    )


def test_parts_of_a_page():
    (block,) = blocks_of("text\n<!-- needs: module none -->\n```console\n$ a  # terminal 2\nout\n$ b  # why\n```\n")
    assert (block.line, block.kind, block.missing()) == (4, "console", "no module none")
    assert [(c.line, c.terminal, c.expected) for c in commands_of(block)] == [("a", "2", ["out"]), ("b", "", [])]
    (block,) = blocks_of("```python\n# a.py, in terminals 2 and 10: a\na\n# b.py\nb\n```\n")
    assert [(p.name, p.terminals, p.text.count("\n")) for p in block.programs] == [
        ("a.py", ["2", "10"], 2),
        ("b.py", [], 2),
    ]
    assert expected_output("print(1)\nprint(2)  # x y\n") == ["x y"]
    assert expected_output("print(1)\n") is None
    assert matches(["a…c"], "a b c\n") and not matches(["a"], "ab\n")
