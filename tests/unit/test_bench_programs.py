"""Each program of bench/ is run by something: by ci/bench --short, which .ci/run makes, or here, for seconds."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOULD_SAY = {  # a command line, with {out} for a folder; what it prints
    "cache.py": ("tests/modeldev/run {python} bench/cache.py --ops 10 --rounds 2", "1024 KiB: "),
    "chart.py": ("{python} bench/chart.py {out}", ""),
    "compare.py": ("{python} bench/compare.py bench/results/shm.json bench/results/shm.json", "×1.00"),
    "duel.py": ("{python} bench/duel.py {root} {root} --rounds 2", "event"),
    "registration.py": ("tests/modeldev/run {python} bench/registration.py --count 50 --rounds 1", "scattered"),
    "report.py": ("{python} bench/report.py bench/results/lock.json --plot {out}/lock.png", "spinlock"),
}
OTHERWISE = {  # ci/nightly runs them in a guest; mpi.py starts its own ranks, where MPI is installed
    *("softroce.py", "softroce_pyverbs.py", "mpi_rank.py"),
}


def programs(folder):
    return {path.name for path in folder.glob("*.py") if "__main__" in path.read_text()}


def run_by(script):
    """The programs that ci/bench starts in its short form, too: before the part that is for the long one alone."""
    return {word.rpartition("/")[2] for word in script.partition("\nif [ ${#form[@]} -gt 0 ]")[0].split()}


def without_a_run(folder, script):
    return programs(folder) - run_by(script) - set(SHOULD_SAY) - OTHERWISE


def test_each_program_is_run():
    assert not without_a_run(ROOT / "bench", (ROOT / "ci/bench").read_text())
    assert "ci/bench --short" in (ROOT / ".ci/run").read_text()
    assert "ci/softroce --bench --short" in (ROOT / "ci/nightly").read_text()


def test_a_program_that_nothing_runs_is_found(tmp_path):
    for name in ("lonely.py", "long.py", "short.py"):
        (tmp_path / name).write_text('if __name__ == "__main__":\n    pass\n')
    script = "python bench/short.py\n\nif [ ${#form[@]} -gt 0 ]; then\n    python bench/long.py\nfi\n"
    assert without_a_run(tmp_path, script) == {"lonely.py", "long.py"}


@pytest.mark.timeout(400)  # on a busy host; none takes more than 10 s
@pytest.mark.parametrize("name", SHOULD_SAY)
def test_program(name, tmp_path):
    line, said = SHOULD_SAY[name]
    if name == "report.py":
        pytest.importorskip("matplotlib")
    if name == "duel.py" and not (ROOT / ".venv/bin/python").exists():
        pytest.skip("it takes the interpreter of each tree's .venv")
    if "modeldev" in line and (reason := runpy.run_path(str(ROOT / "tests/modeldev/modeldev.py"))["missing"]()):
        pytest.skip(reason)
    command = line.format(python=sys.executable, out=tmp_path, root=ROOT).split()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=380)
    assert done.returncode == 0 and said in done.stdout, done.stdout + done.stderr
