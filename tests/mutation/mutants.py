"""What is changed: the mutants of a source file, a sample of them, and many of Cython's in one build.

Mutants come from universalmutator by the rules beside this file. Comments, docstrings and literals are masked first, so
that none changes a message alone.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import io
import random
import re
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
C = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.S)
PYTHON = re.compile(
    r'[rbfuRBFU]{0,2}(?:"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\')|#[^\n]*'
    r'|[rbfuRBFU]{0,2}(?:"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')',
    re.S,
)
MASK = 0xF0000  # of a plane for private use: no source has such characters
MASKED = re.compile(f"[{chr(MASK)}-{chr(MASK + 0xFFFD)}]")
CONDITION = re.compile(r"(\s*)(if|elif|while) (.*):\s*$")
DECLARATION = re.compile(r"(\s*)cdef ([^=(,]*?)(\w+) = (.*)$")
NOT_ALONE = re.compile(r"\s*(cdef|def|class|global|import|from|for|with|try|else|except|finally|if|elif|while|@)\b")
SWITCH = (
    "dsmem_mutant"  # the variable of the extension, and in capitals that of the environment, with a mutant's number
)


@dataclass(frozen=True)
class Mutant:
    """One line, and what becomes of it."""

    path: str
    line: int
    before: str
    after: str


def masked(text: str, what: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """The lines with one character for each piece of a comment or literal, and these pieces."""
    pieces: list[str] = []

    def hide(match: re.Match[str]) -> str:
        lines = []
        for line in match[0].split("\n"):
            lines.append(chr(MASK + len(pieces)) if line else "")
            pieces.extend([line] if line else [])
        return "\n".join(lines)

    return what.sub(hide, text).splitlines(keepends=True), pieces


def mutants_of(path: str, text: str) -> list[Mutant]:
    """All mutants of a source file."""
    from universalmutator import mutator

    is_c = path.endswith((".c", ".h"))
    lines, pieces = masked(text, C if is_c else PYTHON)
    with contextlib.redirect_stdout(io.StringIO()):
        made = mutator.mutants_regexp(lines, [str(HERE / ("c.rules" if is_c else "python.rules"))], ignorePatterns=[])
    whole, found = text.splitlines(keepends=True), []
    for number, mutant, *_ in made:
        if MASKED.sub("", mutant).split() != MASKED.sub("", lines[number - 1]).split():
            after = MASKED.sub(lambda m: pieces[ord(m[0]) - MASK], mutant)
            found.append(Mutant(path, number, whole[number - 1].rstrip("\n"), after.rstrip("\n")))
    return found


def sources(names: list[str], verbs: bool) -> list[str]:
    """The files that are mutated; the verbs fabric only where it is compiled."""
    found = []
    for name in names:
        if name.startswith(("csrc/", "dsmem/")) and name.endswith((".c", ".h", ".py", ".pyx", ".pxi")):
            is_test = name.startswith("dsmem/testing/")
            if not is_test and (verbs or not name.startswith("csrc/fabric/verbs/")):
                found.append(name)
    return found


def sample(mutants: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """One mutant each of so many lines, drawn at random: a line with many mutants counts no more than another."""
    chance = random.Random(seed)
    lines: dict[tuple[str, int], list[Mutant]] = {}
    for mutant in mutants:
        lines.setdefault((mutant.path, mutant.line), []).append(mutant)
    chosen = chance.sample(sorted(lines), min(count, len(lines)))
    return [chance.choice(lines[line]) for line in chosen]


def covering(path: str, rows: str) -> list[str]:
    """The tests of the first row that has a pattern for the path; all where there is none."""
    for row in re.split(r"\n(?! )", re.sub(r"(?m)^#.*\n", "", rows)):
        tests = [word for word in row.split() if word.startswith("tests/")]
        if any(fnmatch.fnmatch(path, pattern) for pattern in row.split() if pattern not in tests):
            return tests
    return ["tests"]


def equivalent(text: str) -> set[tuple[str, str, str]]:
    """Path, line and what it becomes of the mutants that are known to change nothing."""
    found = set()
    for block in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in block.splitlines() if line.strip() and not line.startswith("#")]
        if lines:
            path, before, *after = lines
            found.add((path, before, "".join(after)))
    return found


def locate(mutant: Mutant, text: str) -> int | None:
    """Where its line stands now; where there are several like it, the nearest to its old place."""
    lines = text.splitlines()
    found = [number for number, line in enumerate(lines, 1) if line == mutant.before]
    return min(found, key=lambda number: abs(number - mutant.line), default=None)


def changed(mutant: Mutant, text: str) -> str:
    """The source with the mutant in it."""
    lines = text.splitlines(keepends=True)
    lines[mutant.line - 1] = mutant.after + "\n"
    return "".join(lines)


def difference(mutant: Mutant, text: str) -> str:
    """The mutant as a patch."""
    before, after = text.splitlines(keepends=True), changed(mutant, text).splitlines(keepends=True)
    return "".join(difflib.unified_diff(before, after, f"a/{mutant.path}", f"b/{mutant.path}"))


def statements(text: str) -> set[int]:
    """The lines of Python or Cython that are a statement, or the head of one, of their own."""
    found, depth, continued = set(), 0, False
    for number, line in enumerate(masked(text, PYTHON)[0], 1):
        bare = MASKED.sub("", line).rstrip()
        begins = depth == 0 and not continued
        depth += sum(bare.count(c) for c in "([{") - sum(bare.count(c) for c in ")]}")
        continued = bare.endswith("\\")
        if begins and depth == 0 and not continued and bare.strip():
            found.add(number)
    return found


def without_comment(line: str) -> str:
    """A line of Python or Cython without the comment at its end."""
    lines, pieces = masked(line, PYTHON)
    found = (pieces[ord(one) - MASK] for one in MASKED.findall(lines[0]))
    comment = next((piece for piece in found if piece.startswith("#")), "")
    return line.removesuffix(comment).rstrip()


def either(mutant: Mutant, number: int) -> str | None:
    """Cython that is the mutant where the switch has its number, else the original; None: it cannot be written."""
    before, after = without_comment(mutant.before), without_comment(mutant.after)
    old, new = CONDITION.match(before), CONDITION.match(after)
    if old and new and old[2] == new[2]:  # `not not`: both sides have one type
        chosen = f"((not not ({new[3]})) if {SWITCH} == {number} else (not not ({old[3]})))"
        return f"{old[1]}{old[2]} {chosen}:\n"
    declared = ""
    old, new = DECLARATION.match(before), DECLARATION.match(after)
    if old and new and old.group(1, 2, 3) == new.group(1, 2, 3):
        declared = f"{old[1]}cdef {old[2]}{old[3]}\n"
        before, after = f"{old[1]}{old[3]} = {old[4]}", f"{new[1]}{new[3]} = {new[4]}"
    elif NOT_ALONE.match(before) or MASKED.sub("", masked(before, PYTHON)[0][0]).rstrip().endswith(":"):
        return None
    space = before[: len(before) - len(before.lstrip())]
    return (
        f"{declared}{space}if {SWITCH} == {number}:\n{space}    {after.strip()}\n"
        f"{space}else:\n{space}    {before.strip()}\n"
    )


def switched(text: str, chosen: dict[int, Mutant]) -> tuple[str, dict[int, int]]:
    """The source with many mutants by their numbers, and the number of the mutant behind each of its new lines."""
    whole = statements(text)
    lines: list[str] = []
    behind: dict[int, int] = {}
    at = {mutant.line: number for number, mutant in chosen.items() if mutant.line in whole}
    for line, original in enumerate(text.splitlines(keepends=True), 1):
        made = either(chosen[at[line]], at[line]) if line in at else None
        if made is None:
            lines.append(original)
            continue
        for part in made.splitlines(keepends=True):
            lines.append(part)
            behind[len(lines)] = at[line]
    return "".join(lines), behind
