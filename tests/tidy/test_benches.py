"""The benches, which no other test runs, find the fixtures that they name."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def set_up(path):
    """Plan the fixtures of all benches without running anything."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--setup-plan", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_benches_have_their_fixtures():
    done = set_up("bench")
    assert done.returncode == 0 and "SETUP" in done.stdout, done.stdout[-2000:]


def test_a_bench_without_its_fixture_is_found(tmp_path):
    bench = tmp_path / "test_sample.py"
    bench.write_text("def test_sample(no_such_fixture):\n    pass\n")
    assert "fixture 'no_such_fixture' not found" in set_up(bench).stdout
