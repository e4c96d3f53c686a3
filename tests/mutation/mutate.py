"""Changes one line of the sources at a time, at random, and looks whether the tests notice.

Each mutant (mutants.py) is built in a copy of the tree and given first to the tests that caught its neighbours, then to
those that cover its file, in order (covered_by.txt). Mutants of Cython, which takes a minute to build, are built all at
once with a switch between them. A mutant is caught when a test fails on it, or hangs, twice, and just after that passes
on the original: on a loaded machine, neither a chance failure nor a slow test counts. A mutant that is not caught
soon is put off until the others are judged: a survivor takes all tests of its file. What the tests let through is
listed with its diff in build/mutants, but for the known equivalent ones (equivalent.txt). Results are kept in
build/mutants/SEED.json as they come: the same command goes on where the last one stopped. Exit status 1: fewer than
the wanted share were caught; 3: nothing could be said.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import functools
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mutants import (
    HERE,
    SWITCH,
    Mutant,
    changed,
    covering,
    difference,
    equivalent,
    locate,
    mutants_of,
    sample,
    sources,
    switched,
)

ROOT = HERE.parents[1]
AREAS = (
    "csrc/base",
    "csrc/fabric",
    "csrc/memory",
    "csrc/agent",
    "csrc/core",
    "csrc/objects",
    "csrc",
    "dsmem/_core",
    "dsmem/cli",
    "dsmem",
)
OWN = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
STARTED = re.compile(r"(tests/\S*?\.py(?:::\w+)+(?:\[.*?\])?)(?= |$)")  # what a process says that crashes may follow
HEADER = Path("/usr/include/infiniband/verbs.h")  # without it the verbs fabric is not compiled
CYTHON = (".pyx", ".pxi")
CORE = "dsmem/_core/_core.pyx"
VARIABLE = f'cdef int {SWITCH} = int(__import__("os").environ.get("{SWITCH.upper()}", "0"))\n'
COMPILED = re.compile(r"^(dsmem/_core/\w+\.\w+):(\d+):", re.M)
FORGIVEN = 900.0  # seconds after which a test that failed on the original is tried again
LATE = 1000  # no exit status: a process that was ended, though it was not silent
NO_TESTS = (4, 5)  # pytest: it could not begin; it has found none


@functools.cache
def may_unshare() -> bool:
    """Whether tests can have a /dev/shm and process numbers of their own."""
    return os.geteuid() == 0 and subprocess.run([*OWN, "true"], capture_output=True, check=False).returncode == 0


def loaded() -> float:
    """How many times longer a test may take, since others want the processors, too."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class Tree:
    """A copy of the working tree, built, in which one file at a time is changed, or many Cython mutants wait."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder
        for path in [path for part in ("csrc", "dsmem", "tests") for path in (folder / part).rglob("*.*")]:
            kept = (".so", *CYTHON)  # what is built, and what build_all writes
            if path.is_file() and path.suffix not in kept and str(path.relative_to(folder)) not in names:
                path.unlink()  # of an earlier run
        for name in names:
            if name != "setup.py":
                self.write(name, (ROOT / name).read_bytes())
        # Whether a mutant is caught does not depend on it, and C that Cython writes takes a minute with -O3.
        setup = (ROOT / "setup.py").read_text().replace('"-O3"', '"-O1"')
        self.write("setup.py", setup.replace("CYTHON_FLAGS = [", 'CYTHON_FLAGS = ["-O0", "-g0", ').encode())
        quick = [path for path in ("/usr/lib/ccache", "/usr/lib64/ccache") if Path(path).is_dir()]
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([*quick, os.environ["PATH"]]),
            "CC": "ccache gcc" if shutil.which("ccache") else os.environ.get("CC", "cc"),
            "CCACHE_BASEDIR": str(folder),
            "CCACHE_NOHASHDIR": "1",
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.numbers = itertools.count()

    def write(self, name: str, content: bytes) -> None:
        """A file that is the same keeps its time, so that nothing is built again."""
        target = self.folder / name
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    def run(
        self, command: list[str], silence: float, number: int = 0, until: float = math.inf
    ) -> tuple[int | None, str]:
        """The exit status, None where nothing was printed for so long, LATE where it goes on then, and the output.

        What it began ends with it.
        """
        path = self.folder.with_name(f"{self.folder.name}-{next(self.numbers)}.txt")
        environment = {**self.environment, SWITCH.upper(): str(number)}
        # Where memory runs out a mutant is to be killed, and where this program ends all that it began.
        first = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        first += ["sh", "-c", 'echo 1000 >/proc/self/oom_score_adj; exec "$@"', "sh"]
        with path.open("w") as output:
            process = subprocess.Popen(
                [*first, *command],
                cwd=self.folder,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        rc, seen, since = None, 0, time.monotonic()
        try:
            while rc is None and time.monotonic() - since < silence * loaded():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    rc = process.wait(0.5)
                if (size := path.stat().st_size) != seen:
                    seen, since = size, time.monotonic()
                    if rc is None and since >= until:
                        rc = LATE
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        text = path.read_text(errors="replace")
        path.unlink()
        return rc, text

    def build(self) -> tuple[bool, str]:
        rc, output = self.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], 1200)
        return rc == 0, output

    def test(
        self,
        tests: list[str],
        silence: float,
        number: int = 0,
        but: Collection[str] = (),
        until: float = math.inf,
    ) -> tuple[int | None, str | None]:
        """Exit status of pytest, None where a test was silent for so long, LATE, and the test that came last."""
        options = [test for test in tests if test.startswith("-")]
        paths = [
            str(path.relative_to(self.folder)) + test[len(pattern) :]
            for test in tests
            if test not in but
            for pattern in [test.partition("::")[0]]
            for path in sorted(self.folder.glob(pattern))
        ]
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-v",
            "-x",
            *options,
            *(f"--deselect={t}" for t in sorted(but)),
            *paths,
        ]
        if may_unshare():
            shm = 'mount -t tmpfs -o size=4G,mode=1777 none /dev/shm && exec "$@"'
            command = [*OWN, "sh", "-c", shm, "sh", *command]
        rc, output = self.run(command, silence, number, until)
        lines = [line.rstrip() for line in output.split("\n= ")[0].splitlines()]
        started = [match[1] for line in lines if (match := STARTED.match(line))]
        return rc, started[-1] if started else None

    def build_all(self, chosen: dict[int, Mutant]) -> dict[int, Mutant]:
        """Builds the mutants of Cython that can be told apart by a switch; these are returned."""
        paths = [path for path in (ROOT / CORE).parent.iterdir() if path.suffix in CYTHON]
        texts = {str(path.relative_to(ROOT)): path.read_text() for path in paths}
        texts[CORE] = re.sub(r"^(?=cimport )", VARIABLE, texts[CORE], count=1, flags=re.M)
        chosen = {n: replace(m, line=m.line + 1) if m.path == CORE else m for n, m in chosen.items()}
        while True:
            behind: dict[tuple[str, int], int] = {}  # the number of the mutant on a new line
            for path, text in texts.items():
                made, lines = switched(text, {number: m for number, m in chosen.items() if m.path == path})
                behind |= {(path, line): number for line, number in lines.items()}
                self.write(path, made.encode())
            chosen = {number: mutant for number, mutant in chosen.items() if number in behind.values()}
            built, output = self.build()
            if built:
                return chosen
            wrong = {behind.get((path, int(line))) for path, line in COMPILED.findall(output)}
            if not wrong & chosen.keys():
                raise RuntimeError("the copy of the tree cannot be built:\n" + output[-3000:])
            chosen = {number: mutant for number, mutant in chosen.items() if number not in wrong}


class Judge:
    """What becomes of mutants, from all that was seen before; for many threads, each with a tree of its own."""

    def __init__(self, original: Tree, silence: float, rows: str, results: list[dict[str, Any]]) -> None:
        self.original, self.silence, self.rows, self.results = original, silence, rows, results
        self.failed: dict[str, float] = {}  # the tests that failed on the original, and when

    def passes_unchanged(self, tests: list[str]) -> bool:
        """Whether the original passes now, under the load of now, and in half the time that a mutant has."""
        passed = self.original.test(tests, self.silence / 2)[0] == 0
        if not passed and self.original.test(tests, self.silence / 2)[0] != 0:
            self.failed[" ".join(tests)] = time.monotonic()
        return passed

    def fails_unchanged(self, test: str) -> bool:
        """Whether it failed on the original lately; longer ago, it may have been a disturbance."""
        return test in self.failed and time.monotonic() - self.failed[test] <= FORGIVEN

    def because_of(self, tree: Tree, tests: list[str], number: int) -> bool:
        """Whether tests that failed once on a mutant notice it: they fail again, and now pass on the original."""
        failed = any(tree.test(tests, self.silence, number)[0] != 0 for _ in range(2))
        return failed and self.passes_unchanged(tests)

    def neighbours(self, mutant: Mutant, count: int = 5) -> list[str]:
        """Tests that caught mutants of the same file, the nearest lines first, or of files that have the same tests."""
        row = covering(mutant.path, self.rows)
        caught = [r for r in self.results if r.get("test") and covering(r["path"], self.rows) == row]
        caught.sort(key=lambda r: (r["path"] != mutant.path, abs(r["line"] - mutant.line)))
        return list(dict.fromkeys(r["test"] for r in caught))[:count]

    def verdict(self, tree: Tree, mutant: Mutant, number: int, until: float = math.inf) -> tuple[str, str | None]:
        """Caught, timed out, survived, put off or not judged; and the test that caught it."""
        ran, but = False, {test for test in list(self.failed) if self.fails_unchanged(test)}
        for learned, tests in ((True, self.neighbours(mutant)), (False, covering(mutant.path, self.rows))):
            while tests:
                rc, test = tree.test(tests, self.silence, number, but, until)
                if rc == LATE:
                    return "put off", None
                ran = ran or rc not in NO_TESTS
                if rc in (0, 5) or (test is None and learned):
                    break
                caught = "timed out" if rc is None else "caught"
                if self.because_of(tree, [test] if test else ["--collect-only", tests[0]], number):
                    return caught, test
                if test is None or test in but:  # pytest itself could not begin, or did not leave it out
                    return "not judged", None
                but.add(test)
        return "survived" if ran else "not judged", None

    def judge(self, tree: Tree, mutant: Mutant, until: float = math.inf) -> tuple[str, str | None]:
        """The verdict on a mutant that is not among the switched ones."""
        original = (tree.folder / mutant.path).read_text()  # that of the project may change meanwhile
        tree.write(mutant.path, changed(mutant, original).encode())
        try:
            built, output = (True, "") if mutant.path.endswith(".py") else tree.build()
            if not built:
                wrong = re.search(rf"^{re.escape(mutant.path)}:\d+:.*", output, re.M)
                print("" if wrong else f"mutate: the build failed:\n{output[-2000:]}", end="", file=sys.stderr)
                return "does not compile" if wrong else "not judged", None
            return self.verdict(tree, mutant, 0, until)
        finally:
            tree.write(mutant.path, original.encode())


def wilson(caught: int, judged: int) -> tuple[float, float]:
    """The 95% interval of a share."""
    if not judged:
        return 0.0, 1.0
    z, p = 1.96, caught / judged
    middle, half = p + z * z / (2 * judged), z * math.sqrt(p * (1 - p) / judged + z * z / (4 * judged**2))
    return (middle - half) / (1 + z * z / judged), (middle + half) / (1 + z * z / judged)


def report(results: list[dict[str, Any]]) -> Iterator[str]:
    """The counts, of all and by area."""
    for area in ("", *AREAS):
        mine = [r for r in results if not area or next(a for a in AREAS if r["path"].startswith(a + "/")) == area]
        counts = Counter(r.get("result", "to do") for r in mine)
        caught = counts["caught"] + counts["timed out"]
        judged = caught + counts["survived"]
        if judged:
            low, high = wilson(caught, judged)
            share = f"{caught}/{judged} = {caught / judged:.0%} ({low:.0%} to {high:.0%})"
            yield f"{area or 'all':12} {share}  {dict(counts)}"


class Work:
    """The sample, its results in a file, and what is taken from it by each thread."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, threading.Lock()
        self.entries: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        self.taken: set[int] = set()
        self.put_off: list[int] = []

    def draw(self, mutants: list[Mutant]) -> None:
        self.entries = [asdict(mutant) for mutant in mutants]
        self.save()

    def save(self) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.entries, indent=1))
        new.replace(self.path)

    def located(self) -> dict[int, Mutant]:
        """The mutants by numbers from 1, their lines where they stand now; but those whose line is gone."""
        found = {}
        for number, entry in enumerate(self.entries, 1):
            mutant = Mutant(entry["path"], entry["line"], entry["before"], entry["after"])
            line = locate(mutant, (ROOT / mutant.path).read_text()) if (ROOT / mutant.path).exists() else None
            if line is not None:
                found[number] = replace(mutant, line=line)
        return found

    def open(self, located: dict[int, Mutant], known: set[tuple[str, str, str]]) -> list[int]:
        """The numbers of those that have no result yet, without those that an earlier run has put off."""
        found = []
        for number, entry in enumerate(self.entries, 1):
            if (entry["path"], entry["before"].strip(), entry["after"].strip()) in known:
                entry["result"] = "equivalent"
            elif entry.get("result") == "put off" and number in located:
                self.put_off.append(number)
            elif entry.get("result", "gone") in ("gone", "put off"):
                entry.pop("result", None)
                if number in located:
                    found.append(number)
                else:
                    entry["result"] = "gone"
        self.save()
        return found

    def take(self, numbers: list[int]) -> tuple[int | None, bool]:
        """The next that has not been taken, then those put off; and whether it may be put off."""
        with self.lock:
            number = next((n for n in numbers if n not in self.taken), None)
            self.taken |= {number} if number else set()
            if number is None and self.put_off:
                return self.put_off.pop(0), False
            return number, True

    def enter(self, number: int, result: str, test: str | None, seconds: float) -> None:
        with self.lock:
            entry = self.entries[number - 1]
            entry.update(result=result, test=test, seconds=round(seconds))
            self.save()
            if result == "put off":
                self.put_off.append(number)
            text = f"{number}: {result}: {entry['path']}:{entry['line']}: {entry['after'].strip()}"
            print(f"{text}  [{seconds:.0f} s{', ' + test if test else ''}]", flush=True)


def listed() -> list[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in found.split("\0") if name and (ROOT / name).is_file()]


def main() -> int:
    """See the top."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--seed", type=int, default=int(time.strftime("%Y%m%d", time.gmtime())), help="default: the day"
    )
    options.add_argument("--count", type=int, default=300)
    options.add_argument("--minutes", type=float, default=480.0, help="begin no mutant after that; 0: report only")
    options.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    options.add_argument("--silence", type=float, default=30.0, help="seconds that a test may take, more under load")
    options.add_argument(
        "--put-off-after", type=float, default=60.0, help="put a mutant off that is not caught in so many seconds"
    )
    options.add_argument("--goal", type=float, default=0.9, help="share that must be caught")
    options.add_argument("--only", default="*", help="pattern of the paths to mutate")
    options.add_argument("--again", metavar="RESULT", help="judge those once more whose result was that")
    chosen = options.parse_args()

    end = time.monotonic() + 60 * chosen.minutes
    names = listed()
    known = equivalent((HERE / "equivalent.txt").read_text())
    out = ROOT / "build/mutants"
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.txt"):  # of a run that was ended
        old.unlink()
    work = Work(out / f"{chosen.seed}.json")
    if not work.entries:
        paths = [name for name in sources(names, HEADER.exists()) if fnmatch.fnmatch(name, chosen.only)]
        everything = [m for path in paths for m in mutants_of(path, (ROOT / path).read_text())]
        work.draw(
            sample(
                [m for m in everything if (m.path, m.before.strip(), m.after.strip()) not in known],
                chosen.count,
                chosen.seed,
            )
        )
    for entry in work.entries:
        if chosen.again and entry.get("result") == chosen.again:
            del entry["result"]
    located = work.located()
    numbers = work.open(located, known)
    if (numbers or work.put_off) and chosen.minutes > 0:
        run(work, numbers, located, names, end, chosen)

    for old in out.glob("*.diff"):
        old.unlink()
    for number, mutant in located.items():
        if work.entries[number - 1].get("result") == "survived":
            (out / f"{number:04}.diff").write_text(difference(mutant, (ROOT / mutant.path).read_text()))
    print(*report(work.entries), f"survivors in {out.relative_to(ROOT)}/*.diff", sep="\n")
    counts = Counter(e.get("result") for e in work.entries)
    caught = counts["caught"] + counts["timed out"]
    if not caught + counts["survived"]:
        return 3
    return 0 if caught >= chosen.goal * (caught + counts["survived"]) else 1


def run(
    work: Work,
    numbers: list[int],
    located: dict[int, Mutant],
    names: list[str],
    end: float,
    chosen: argparse.Namespace,
) -> None:
    """Judges the open mutants in so many threads until the time is over."""
    switch = Tree(work.path.parent / "switched", [name for name in names if not name.endswith(CYTHON)])
    together = switch.build_all({n: m for n, m in located.items() if m.path.endswith(CYTHON)})
    judge = Judge(switch, chosen.silence, (HERE / "covered_by.txt").read_text(), work.entries)

    def one_after_another(job: int) -> None:
        tree = Tree(work.path.parent / f"tree{job}", names)
        if not tree.build()[0]:
            raise RuntimeError(f"{tree.folder} cannot be built")
        while time.monotonic() < end:
            number, may_wait = work.take(numbers)
            if number is None:
                break
            began, mutant = time.monotonic(), located[number]
            until = began + chosen.put_off_after * loaded() if may_wait else math.inf
            if number in together:
                result, test = judge.verdict(switch, mutant, number, until)
            else:
                result, test = judge.judge(tree, mutant, until)
            work.enter(number, result, test, time.monotonic() - began)

    with ThreadPoolExecutor(chosen.jobs) as pool:
        list(pool.map(one_after_another, range(chosen.jobs)))


if __name__ == "__main__":
    sys.exit(main())
