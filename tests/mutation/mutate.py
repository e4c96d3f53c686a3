"""Changes one line of the sources at a time, at random, and looks whether the tests notice.

Mutants come from universalmutator by the rules beside this file. Comments, docstrings and literals are masked first, so
that none changes a message alone. Each is built in a copy of the tree and given to the tests that cover its file
(covered_by.txt). What those let through is listed with its diff in build/mutants, but for the known equivalent ones
(equivalent.txt). Exit status 1: fewer than the wanted share were caught.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import fnmatch
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
C = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.S)
PYTHON = re.compile(
    r'[rbfuRBFU]{0,2}(?:"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\')|#[^\n]*'
    r'|[rbfuRBFU]{0,2}(?:"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')',
    re.S,
)
MASK = 0xF0000  # of a plane for private use: no source has such characters
MASKED = re.compile(f"[{chr(MASK)}-{chr(MASK + 0xFFFD)}]")


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
    """The files that are mutated; the verbs fabric only where a device tests it."""
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
    for row in rows.splitlines():
        if row and not row.startswith("#"):
            words = row.split()
            tests = [word for word in words if word.startswith("tests/")]
            if any(fnmatch.fnmatch(path, pattern) for pattern in words if pattern not in tests):
                return tests
    return ["tests"]


def equivalent(text: str) -> set[tuple[str, str, str]]:
    """Path, line and what it becomes of the mutants that are known to change nothing."""
    found = set()
    for block in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in block.splitlines() if line.strip() and not line.startswith("#")]
        if lines:
            path, before, after = lines
            found.add((path, before, after))
    return found


class Tree:
    """A copy of the working tree, built, in which one file at a time is changed."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
        # Whether a mutant is caught does not depend on it, and C that Cython writes takes a minute with -O3.
        setup = folder / "setup.py"
        setup.write_text(setup.read_text().replace('"-O3"', '"-O1"'))
        cc = "ccache gcc" if shutil.which("ccache") else os.environ.get("CC", "cc")
        self.environment = {
            **os.environ,
            "CC": cc,
            "CCACHE_BASEDIR": str(folder),
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.output = folder.with_name("output.txt")  # of the last command
        self.clean: dict[tuple[str, ...], bool] = {}

    def run(self, command: list[str], timeout: float) -> int | None:
        """The exit status, or None after the timeout; what it has started ends with it."""
        with (
            self.output.open("w") as output,
            subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=output, stderr=output, start_new_session=True
            ) as process,
        ):
            try:
                return process.wait(timeout)
            except subprocess.TimeoutExpired:
                return None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def build(self) -> bool:
        return self.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], 900) == 0

    def test(self, tests: list[str], timeout: float) -> bool | None:
        """Whether they pass, with shared memory of their own where that can be had."""
        paths = [str(p.relative_to(self.folder)) for test in tests for p in sorted(self.folder.glob(test))]
        command = [sys.executable, "-m", "pytest", "-q", "-x", *paths]
        own = ["unshare", "--mount", "--pid", "--fork", "--mount-proc"]
        if os.geteuid() == 0 and subprocess.run([*own, "true"], capture_output=True, check=False).returncode == 0:
            command = [*own, "sh", "-c", 'mount -t tmpfs none /dev/shm && exec "$@"', "sh", *command]
        rc = self.run(command, timeout)
        return None if rc is None else rc == 0

    def passes_unchanged(self, tests: list[str]) -> bool:
        """Tests that fail on the original catch nothing; once more, since hours beside other work disturb some."""
        key = tuple(tests)
        if key not in self.clean:
            self.clean[key] = any(self.test(tests, 1800) for _ in range(2))
        return self.clean[key]

    def judge(self, mutant: Mutant, tests: list[str], timeout: float) -> str:
        """What becomes of it: caught, timed out, survived, or does not compile."""
        path = self.folder / mutant.path
        original = path.read_text()
        lines = original.splitlines(keepends=True)
        lines[mutant.line - 1] = mutant.after + "\n"
        path.write_text("".join(lines))
        try:
            if not path.name.endswith(".py") and not self.build():
                return "does not compile"
            passed = self.test(tests, timeout)
            return "timed out" if passed is None else "survived" if passed else "caught"
        finally:
            path.write_text(original)


def difference(mutant: Mutant, text: str) -> str:
    """The mutant as a patch."""
    before = text.splitlines(keepends=True)
    after = [*before[: mutant.line - 1], mutant.after + "\n", *before[mutant.line :]]
    return "".join(difflib.unified_diff(before, after, f"a/{mutant.path}", f"b/{mutant.path}"))


def main() -> int:
    """See the top."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--seed", type=int, default=int(time.strftime("%Y%m%d", time.gmtime())), help="default: the day"
    )
    options.add_argument("--count", type=int, default=300)
    options.add_argument("--minutes", type=float, default=480.0, help="begin no mutant after that")
    options.add_argument("--timeout", type=float, default=600.0, help="seconds of the tests of one mutant")
    options.add_argument("--goal", type=float, default=0.9, help="share that must be caught")
    options.add_argument("--verbs", action="store_true", help="the verbs fabric, too: this host has a device")
    options.add_argument("--only", default="*", help="pattern of the paths to mutate")
    chosen = options.parse_args()

    end = time.monotonic() + 60 * chosen.minutes
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    texts = {
        name: (ROOT / name).read_text() for name in sources(names, chosen.verbs) if fnmatch.fnmatch(name, chosen.only)
    }
    known = equivalent((HERE / "equivalent.txt").read_text())
    everything = [
        m
        for name, text in texts.items()
        for m in mutants_of(name, text)
        if (m.path, m.before.strip(), m.after.strip()) not in known
    ]
    rows = (HERE / "covered_by.txt").read_text()

    out = ROOT / "build/mutants"
    shutil.rmtree(out, ignore_errors=True)
    tree = Tree(out / "tree", names)
    if not tree.build():
        print(f"mutate: the copy of the tree cannot be built, see {tree.output}", file=sys.stderr)
        return 3
    results = []
    for mutant in sample(everything, chosen.count, chosen.seed):
        if time.monotonic() > end:
            print("mutate: the time is over")
            break
        tests = covering(mutant.path, rows)
        result = tree.judge(mutant, tests, chosen.timeout) if tree.passes_unchanged(tests) else "not judged"
        results.append({**asdict(mutant), "result": result})
        print(f"{len(results)}: {result}: {mutant.path}:{mutant.line}: {mutant.after.strip()}", flush=True)
        if result == "survived":
            (out / f"{len(results):04}.diff").write_text(difference(mutant, texts[mutant.path]))

    counts = {
        kind: sum(r["result"] == kind for r in results)
        for kind in ("caught", "timed out", "survived", "does not compile", "not judged")
    }
    judged = len(results) - counts["does not compile"] - counts["not judged"]
    share = (counts["caught"] + counts["timed out"]) / judged if judged else 1.0
    summary = {"seed": chosen.seed, "mutants": len(everything), "caught_share": share, **counts, "results": results}
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    print(f"mutate: {counts}, {share:.0%} caught; survivors in build/mutants/*.diff")
    if counts["not judged"]:
        failing = [" ".join(tests) for tests, passed in tree.clean.items() if not passed]
        print("mutate: these fail without any change:", *failing, sep="\n", file=sys.stderr)
        return 3
    return 0 if share >= chosen.goal else 1


if __name__ == "__main__":
    sys.exit(main())
