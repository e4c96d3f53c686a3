"""The suites of the verbs fabric on the model device, with all its habits at once: what runs in the guest on SoftRoCE.

Each runs in a process of its own, since libibverbs is loaded once, and its options are those of the environment. Where
a test does what only shared memory allows (the owner's CPU looks at once at what a peer has written), "late" is left
out. MODELDEV_SEED chooses another order of all that is random.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from modeldev import environment, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
ROOT = Path(__file__).parents[2]
SEED = os.environ.get("MODELDEV_SEED", "1")
LOSSLESS = "scatter=8&tear=1&pause=20&overtake=1&window=10&mtu=1024&reads=4&serves=3&inline=64"
HABITS = f"{LOSSLESS}&lose=2000"
SEVERAL_WAYS = [
    f"--fabric={','.join(fault + fabric for fabric in fabrics)}"
    for fabrics in (("shm", "verbs"), ("verbs", "tcp"), ("shm", "verbs", "tcp"))
    for fault in ("", "fault+")
]
SUITES = {
    "conformance": (f"{HABITS}&late=2000&restart=1&grh=1&keys=1", ["tests/conformance", "--fabric=verbs"]),
    "conformance on RoCE": (
        "link=roce&devices=2&ports=2&iwarp=1&depth=4&sge=1&message=1000&inline=0&mtu=256&atomics=global",
        ["tests/conformance", "--fabric=verbs"],
    ),
    # Without lost packets: of two paths each has half the time to send something again.
    "conformance with two paths": (
        "scatter=64&overtake=1&late=2000&mtu=1024&reads=4&serves=3&devices=2",
        ["tests/conformance", "--fabric=verbs://model0,verbs://model1"],
    ),
    "conformance through fault": (HABITS, ["tests/conformance", "--fabric=fault+verbs"]),
    # Without lost packets: if the one that refuses an op is lost, the connection ends as with an owner that is gone.
    "conformance by several ways": (f"{LOSSLESS}&late=2000", ["tests/conformance", *SEVERAL_WAYS]),
    "conformance by several ways in the CPU's domain": (
        f"{LOSSLESS}&atomics=global",
        ["tests/conformance", "--fabric=verbs,shm,tcp", "--fabric=verbs,tcp"],
    ),
    "memory of the caller": (HABITS, ["tests/softroce/test_registration.py", "tests/softroce/test_cache.py"]),
    "queues": (HABITS, ["tests/unit/test_queue.py", "--fabric=verbs", "-k=verbs"]),
    "segments": (HABITS, ["tests/unit/test_segment.py", "tests/unit/test_clock.py", "--fabric=verbs", "-k=verbs"]),
    "stores": (
        HABITS,
        [
            "tests/unit/test_store.py",
            "tests/unit/test_store_transactions.py",
            "--fabric=verbs",
            "-k=verbs and not short_writes",
        ],
    ),
    # Of nodes and clients on verbs, by DSMEM_TEST_NODES. Left out: what the tests expect of names that the nodes share.
    "stores with copies": (
        f"{HABITS}&late=50",
        [
            "tests/unit/test_store_copies.py",
            "-k=not addresses_that and not properties_that and not in_the_way and not commands and not comes_back",
        ],
    ),
    "stores of extents": (
        f"{LOSSLESS}&late=50",
        [
            "tests/unit/test_store_extents.py",
            "-k=not where_pages_are and not in_the_way and not comes_back and not holds_up",
        ],
    ),
    "stores with copies that meet faults": (
        f"{LOSSLESS}&late=50",
        [
            "tests/unit/test_store_copies_faults.py",
            "tests/unit/test_store_copies_calls.py",
            "-k=write-2-1 or free-2-1 or allocate-2-1 or transaction-2-1 or over_a_fork or end_of_a_process",
        ],
    ),
    "stores with copies whose nodes stop": (
        f"{LOSSLESS}&late=50",
        ["tests/unit/test_store_copies_nodes.py", "-k=test_a_node_that_is_stopped"],
    ),
    "stores of a coordinator": (
        f"{HABITS}&late=50&keys=1",
        [
            "tests/unit/test_store_epochs.py",
            "tests/unit/test_store_moves.py",
            "tests/unit/test_store_extents_coordinator.py",
            "-k=node_is_killed or nodes_are_killed or two_of_three or stopped_primary or made_again"
            " or coordinator_is_killed_at or counts_after_a_silence or while_copies_move or follow_the_epochs",
        ],
    ),
    "locks": (HABITS, ["tests/sync/test_lock.py", "tests/sync/test_meeting_async.py", "--fabric=verbs", "-k=verbs"]),
    "semaphores and meetings": (
        f"{HABITS}&late=50",
        [
            *(
                f"tests/sync/test_{kind}.py"
                for kind in ("rwlock", "semaphore", "event", "barrier", "condition", "once")
            ),
            "--fabric=verbs",
            "-k=verbs and not exclusion_between_processes",
        ],
    ),
    # Without lost packets: a READ of 16 MiB in pieces of 8 bytes takes nearly as long as it may.
    "queues that meet faults": (
        "scatter=8&tear=1&overtake=1&mtu=1024&reads=4&serves=3",
        ["tests/unit/test_queue_faults.py", "--fabric=fault+verbs"],
    ),
    "deaths": (HABITS, ["tests/softroce/test_object_deaths.py"]),
    "stores with copies that meet deaths": (f"{LOSSLESS}&late=50", ["tests/softroce/test_stores.py"]),
    "calls that meet faults": (
        f"{HABITS}&grh=1",
        [
            "tests/sweeps/test_remote_faults.py",
            "--fabric=fault+verbs",
            "-k=verbs and (release or notify or wait or get or commit) and not shared",
        ],
    ),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", SUITES)
def test_suite(suite, library, tmp_path):
    plan, arguments = SUITES[suite]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(library, tmp_path / "network", f"seed={SEED}&{plan}") | {"DSMEM_TEST_NODES": "verbs"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout
