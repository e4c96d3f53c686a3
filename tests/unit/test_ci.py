"""What ci/test, ci/softroce and ci/venv do and say, in a tree whose tests, guest and packages are stand-ins."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    any(Path("/sys/class/infiniband").glob("*")) or os.uname().machine != "x86_64", reason="there is no guest here"
)


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def tree(tmp_path):
    """Run one of the scripts there; the stand-ins can be written again."""
    script(tmp_path / "ci/deps", "exit 0")
    pytest_does(tmp_path, 'echo "===== 3 passed in 1.20s ====="')
    for name in ("test", "softroce"):
        shutil.copy(ROOT / "ci" / name, tmp_path / "ci" / name)
    return tmp_path


def pytest_does(tree, suite, models="echo '===== 1 passed in 0.10s ====='"):
    """What stands in for pytest: for the suite, and for the models, which a pytest of their own runs beside it."""
    script(tree / ".venv/bin/python", f'case "$*" in\n*" tests/model") {models} ;;\n*) {suite} ;;\nesac')


def guests_do(tree, one, two="echo '===== 1 passed in 0.20s ====='"):
    """What stands in for ci/softroce: for the guest, and for the two that run after it."""
    script(tree / "ci/softroce", f'if [ "$*" = "--two --short" ]; then\n{two}\nelse\n{one}\nfi')


def run(tree, *command, **environment):
    return subprocess.run(
        command, cwd=tree, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60
    )


# ---- ci/test ----


def test_the_end_says_what_failed_and_what_was_skipped_on_both_sides(tree):
    lines = (
        "SKIPPED [2] a: why",
        "FAILED tests/a.py::x - AssertionError: y",
        "===== 1 failed, 3 passed in 61.20s (0:01:01) =====",
    )
    of_models = ("FAILED tests/model/m.py::x - AssertionError: z", "1 failed in 0.10s")
    pytest_does(tree, *(f"printf '%s\\n' dots {' '.join(map(repr, said))}; exit 1" for said in (lines, of_models)))
    of_guest = ("ERROR tests/b.py::z - OSError", "1 error, 5 passed in 9.10s")
    of_two = ("FAILED tests/c.py::z - OSError", "1 failed in 3.10s")
    guests_do(tree, *(f"printf '%s\\n' {' '.join(map(repr, said))}; exit 1" for said in (of_guest, of_two)))
    done = run(tree, "ci/test")
    assert done.returncode == 1
    said = done.stdout.split("== make test ==\n")[1].splitlines()
    assert said == [*of_models, *lines, *of_guest, *of_two, "failed: pytest models softroce two-guests"]


def test_a_guest_that_cannot_be_is_left_out_with_the_reason(tree):
    guests_do(tree, *(f"echo 'ci/softroce: LEFT OUT: {what}: no kernel' >&2; exit 77" for what in ("verbs", "tcp")))
    done = run(tree, "ci/test")
    assert done.returncode == 0
    assert done.stdout.endswith(
        "in 1.20s =====\nleft out: SoftRoCE: verbs: no kernel\nleft out: SoftRoCE, two guests: tcp: no kernel\npassed\n"
    )


def test_the_guests_run_beside_the_suite_one_after_the_other(tree):
    guests_do(
        tree,
        f"echo begun; touch {tree}/first; echo '1 passed in 1.00s'",
        f"[ -e {tree}/first ] || exit 1; touch {tree}/second; echo '4 passed in 1.00s'",
    )
    suite = f"until [ -e {tree}/second ]; do sleep 0.01; done; echo '2 passed in 1.00s'"
    pytest_does(tree, suite, "echo '3 passed in 1.00s'")
    done = run(tree, "ci/test")
    assert done.returncode == 0
    said = done.stdout.split("== SoftRoCE ==\n")[1].splitlines()
    assert said == [
        *("begun", "1 passed in 1.00s", "", "== SoftRoCE, two guests ==", "4 passed in 1.00s", "", "== make test =="),
        *(f"{number} passed in 1.00s" for number in (3, 2, 1, 4)),
        "passed",
    ]


def test_the_models_run_beside_the_suite(tree):
    pytest_does(tree, f"until [ -e {tree}/begun ]; do sleep 0.01; done; touch {tree}/tested; echo \"$*\"",
                f"touch {tree}/begun; until [ -e {tree}/tested ]; do sleep 0.01; done; echo models")  # fmt: skip
    done = run(tree, "ci/test", "--no-softroce")
    assert done.returncode == 0
    assert done.stdout.startswith("-m pytest --ignore=tests/model\n\n== models ==\nmodels\n\n== make test ==\n")


def test_a_choice_of_tests_runs_nothing_beside_it(tree):
    pytest_does(tree, 'echo "$*"', "echo models")
    done = run(tree, "ci/test", "--no-softroce", "-k", "one")
    assert done.returncode == 0 and done.stdout.startswith("-m pytest -k one\n\n== make test ==\n")


def test_a_signal_that_ends_the_suite_ends_what_runs_beside_it(tree):
    script(
        tree / "ci/softroce",
        f"trap 'touch {tree}/ended; exit 130' TERM; echo begun >>{tree}/begun; while :; do sleep 0.01; done",
    )
    models = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    pytest_does(
        tree,
        f"until [ -e {tree}/begun -a -e {tree}/models ]; do sleep 0.01; done; kill -TERM $PPID",
        f"""exec {sys.executable} -c "{models}
try: open('{tree}/models', 'w'); signal.pause()
except KeyboardInterrupt: open('{tree}/interrupted', 'w')" """,
    )
    done = run(tree, "ci/test")
    assert done.returncode == 128 + signal.SIGTERM and (tree / "ended").exists() and (tree / "interrupted").exists()
    assert (tree / "begun").read_text() == "begun\n"  # nothing comes after it


# ---- ci/softroce ----


@pytest.fixture
def guest(tree):
    """guest(vng, command) runs a command in what a script in the place of vng makes of it."""
    cache = tree / "cache/dsmem-softroce"
    (cache / "root/boot").mkdir(parents=True)
    (cache / "root/boot/vmlinuz-1").touch()
    script(tree / "tests/softroce/device.sh", "")

    def start(vng, *command, limit=30, option="--"):
        script(cache / "venv/bin/vng", vng)
        (cache / "venv/complete").touch()
        environment = {"XDG_CACHE_HOME": str(tree / "cache"), "DSMEM_SOFTROCE_OUT": str(tree / "out")}
        return run(tree, "ci/softroce", option, *command, DSMEM_SOFTROCE_LIMIT=str(limit), **environment)

    return start


BOOTS = 'echo booting >&2; while [ "$1" != --exec ]; do shift; done; eval "$2"'


def test_what_runs_inside_gives_the_status(guest):
    for status in (0, 3):
        done = guest(BOOTS, "bash", "-c", f"echo inside; exit {status}")
        assert (done.returncode, done.stdout, done.stderr) == (status, "inside\n", "")


def test_a_guest_that_does_not_start_is_left_out(guest):
    done = guest("echo '[ 1.0] lo speed is unknown' >&2; echo 'no such machine' >&2; exit 1", "true")
    assert done.returncode == 77
    assert done.stderr.startswith("no such machine\nci/softroce: LEFT OUT") and "did not start" in done.stderr


def test_a_guest_that_dies_has_failed(guest):
    done = guest(BOOTS + "; exit 1", "bash", "-c", "kill -9 $PPID")
    assert done.returncode == 1 and "in the midst of the command" in done.stderr


def test_the_limit_is_one_of_silence(guest):
    done = guest(BOOTS, "bash", "-c", "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.5; done", limit=3)
    assert done.returncode == 0 and done.stdout.endswith("8\n")
    done = guest(BOOTS, "sleep", "100", limit=2)
    assert done.returncode == 124 and "nothing for 2 s" in done.stderr


LISTEN = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
LINKED = f"""
options=$(printf '%s\\n' "$@" | sed -n 's/^--qemu-opts=//p')
pid=${{options#-pidfile }} link=${{options##*addr.path=}}
echo $$ >"${{pid%% *}}"
case $options in *server=on*) {sys.executable} -c '{LISTEN}' "${{link%% *}}" ;; esac
"""


def test_the_second_of_two_guests_ends_with_the_first(tree, guest):
    """Which waits for it, and whose status counts."""
    script(
        tree / "tests/softroce/two.sh",
        """if [ $DSMEM_SOFTROCE_HOST = 2 ]; then
            echo ready >$DSMEM_SOFTROCE_OUT/log
            until [ -e $DSMEM_SOFTROCE_OUT/../kill ]; do sleep 0.01; done
            exec sleep 0.1
        fi
        until [ -s $DSMEM_SOFTROCE_OUT/other/log ]; do sleep 0.01; done
        echo both
        exit 3""",
    )
    done = guest(LINKED + BOOTS, option="--two")
    assert (done.returncode, done.stdout) == (3, "both\n")


# ---- ci/venv ----


def test_an_extra_that_is_new_compiles_nothing(tree):
    shutil.copy(ROOT / "ci/venv", tree / "ci/venv")
    for name in ("pyproject.toml", "setup.py", "csrc/core.c", "dsmem/_core/_core.so"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    script(tree / ".venv/bin/python", f'echo "$*" >>{tree}/calls; [ "$1" != - ] || echo "sphinx>=7.4"')

    def installed(*extras):
        (tree / "calls").write_text("")
        assert run(tree, "ci/venv", *extras).returncode == 0
        calls = (tree / "calls").read_text().splitlines()
        return [call.partition(" -qq ")[2] for call in calls if " install " in call]

    assert installed()[1:] == ["--no-build-isolation -e .[dev]"]
    assert installed() == []
    assert installed("docs") == ["sphinx>=7.4"]
    assert installed("docs") == installed() == []
    (tree / "csrc/core.c").write_text("int changed;")
    assert installed()[1:] == ["--no-build-isolation -e .[dev,docs]"]


# ---- ci/sanitize ----

COMPILER = """case "$*" in *-o*) ;; *) exit ;; esac
until [ "$1" = -o ]; do shift; done
cp "$(dirname "$0")/$(basename "$2")" "$2" 2>/dev/null || touch "$2"
"""


def test_fuzzers_that_count_frames_go_on_until_there_are_enough(tree):
    """Of the others each runs once. What stands in for the compiler copies what stands in for a program."""
    shutil.copy(ROOT / "ci/sanitize", tree / "ci/sanitize")
    script(tree / "cc/clang", COMPILER)
    for name in ("csrc/core.c", "tests/modeldev/model.h"):
        (tree / name).parent.mkdir(parents=True)
        (tree / name).touch()
    ran = f'echo "$(basename $0) $*" >>{tree}/ran; for corpus; do :; done; touch $corpus/$$'
    units = "echo 'stat::number_of_executed_units: 10' >&2"
    script(tree / "cc/test_a", "echo good")
    script(tree / "cc/fuzz_b", f"{ran}; {units}")
    script(tree / "cc/fuzz_c", f"{ran}; {units}; echo 'stat::frames: 7' >&2")
    for name, text in {"test_a": "", "fuzz_b": "", "fuzz_c": "/* options: -one=1 -two=2 */ /* why */\n"}.items():
        (tree / f"tests/c/{name}.c").parent.mkdir(parents=True, exist_ok=True)
        (tree / f"tests/c/{name}.c").write_text(text)

    def fuzzed(**environment):
        (tree / "ran").write_text("")
        done = run(tree, "ci/sanitize", CC=str(tree / "cc/clang"), FUZZ_SECONDS="3", **environment)
        ran = (tree / "ran").read_text().splitlines()
        assert all("-max_total_time=3 " in line and ("-one=1 -two=2 " in line) == ("_c " in line) for line in ran)
        said = dict(line.partition(": ")[::2] for line in done.stdout.splitlines())
        return done.returncode, len([line for line in ran if "fuzz_b " in line]), said

    new = "inputs that reach something new"
    status, others, said = fuzzed(FUZZ_FRAMES="20")
    assert (status, others, said["sanitize"]) == (0, 1, "passed")
    assert (said["fuzz_b"], said["fuzz_c"]) == (f"10 runs, 1 {new}", f"30 runs, 21 frames, 3 {new}")
    assert fuzzed()[2]["fuzz_c"] == f"10 runs, 7 frames, 1 {new}"
    script(tree / "build/sanitize/address,undefined/fuzz_c", "exit 77")
    assert fuzzed(FUZZ_FRAMES="20")[0] != 0
