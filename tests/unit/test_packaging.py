"""What the source distribution holds."""

import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ["bench", "ci", "csrc", "docs", "dsmem", "examples", "tests"]
MADE = {".so", ".o", ".pyc", ".pyo", ".png"}  # by compilers, interpreters, benches


def test_the_source_distribution_holds_sources_tests_and_examples(tmp_path):
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", tmp_path, "sdist", "--dist-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in MADE and "__pycache__" not in path.parts
    }
    wanted |= {"Makefile", "README.md", "LICENSE", "CONTRIBUTING.md", "SECURITY.md", "setup.py", "pyproject.toml"}
    assert sorted(wanted - held) == []
    assert [name for name in held if Path(name).suffix in MADE] == []
