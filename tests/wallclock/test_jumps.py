"""Only logical clocks and what people read depend on the wall clock: it is set an hour forward and back all the time.

By jumps.c, for the process that runs scenes.py and tests of other folders, and for those that it starts.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

pytestmark = [
    pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler"),
    pytest.mark.skipif(sys.version_info < (3, 11), reason="locks of this Python wait by the wall clock"),
    pytest.mark.timeout(600),
]


def run(*command, by=()):
    done = subprocess.run(
        [*by, HERE / "run", sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert not done.returncode, f"{done.stdout[-8000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_that_it_jumps():
    """For every way to ask; a wait by it would be noticed."""
    code = """
import time, ctypes, datetime
asked = [time.time, lambda: time.clock_gettime(5), lambda: datetime.datetime.now().timestamp(),
         lambda: ctypes.CDLL(None).time(None)]
end = time.monotonic() + 30
for ask in asked:
    seen = set()
    while len(seen) < 3:
        seen.add(round((ask() - time.monotonic()) / 3600))
        assert time.monotonic() < end
"""
    run("-c", code)


@pytest.mark.parametrize("way, by", [("tcp", ()), ("verbs", ("tests/modeldev/run",))])
def test_scenes(way, by):
    run("-m", "pytest", "-q", HERE / "scenes.py", "--fabric", way, by=by)


def test_timeouts():
    chosen = "time_runs_out or timeouts or ran_out_of_time"
    run("-m", "pytest", "-q", "tests/sync", "tests/unit/test_queue.py", "-k", chosen, "--fabric", "tcp")
