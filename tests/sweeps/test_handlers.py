"""The sweep of handlers: a signal handler may call any method of the handle whose method it has interrupted.

It gets a result or an exception of ours and never waits for the call beneath it; that call ends as it would have, where
the handler's was refused, and leaves nothing behind.
"""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from close_table import COORDINATED
from handler_scenes import KIND_OF, NEVER_WAIT
from played import played

SCENES = Path(__file__).with_name("handler_scenes.py")
FULL = os.environ.get("DSMEM_FULL_SWEEPS") == "1"
AT_MOST = 0 if FULL else 8  # scenes of each class; 0: all


@pytest.mark.timeout(7200 if FULL else 300)
@pytest.mark.parametrize(
    ("where", "cls"),
    [("local", cls) for cls in KIND_OF if cls not in NEVER_WAIT]
    + [("fault+shm", cls) for cls in KIND_OF if cls != "EpochStore"],
)
def test_a_handler_calls_into_what_it_interrupts(where, cls, cluster_name):
    assert played(SCENES, cluster_name, where, cls, AT_MOST)[-1] != "through 0"


@pytest.mark.timeout(7200 if FULL else 300)
def test_a_handler_calls_into_a_store_of_a_coordinator(coordinated):
    assert played(SCENES, coordinated, COORDINATED, "EpochStore", AT_MOST)[-1] != "through 0"
