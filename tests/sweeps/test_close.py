"""The close sweep: whatever closes a handle in the midst of whatever method, an exception of ours or a result."""

import inspect
import os
import sys
from pathlib import Path

import pytest

import dsmem
import dsmem.clock
import dsmem.queue
import dsmem.segment
import dsmem.store
import dsmem.sync
from dsmem import _core

sys.path.insert(0, str(Path(__file__).parent))
from close_table import COORDINATED, ROWS, public
from played import played

from dsmem.membership.follow import EpochStore
from dsmem.queue import Pickled, Stamped

SCENES = Path(__file__).with_name("close_scenes.py")
STRIDE = 1 if os.environ.get("DSMEM_FULL_SWEEPS") else 4
# Bases, of which users meet the subclasses; what only holds handles; a descriptor without a core.
_NOT_HANDLES = {"StoreFill", "SyncHandle", "SegmentCore", "NamedObject", "Cluster", "Memory", "Format", "File"}


def _classes():
    """Every public class with a close() of its own kind, the one that users meet where there are two, and what stands
    on one of them."""
    found = {}
    for module in (_core, dsmem, dsmem.clock, dsmem.queue, dsmem.segment, dsmem.store, dsmem.sync):
        for name, cls in vars(module).items():
            if inspect.isclass(cls) and hasattr(cls, "close") and not name.startswith("_"):
                found[name] = cls
    stand_on_handles = {cls.__name__: cls for cls in (_core.Batch, _core.Writing, _core.Side, Pickled, Stamped)}
    found = {name: cls for name, cls in found.items() if name not in _NOT_HANDLES} | stand_on_handles
    return {**found, "EpochStore": EpochStore}


@pytest.mark.parametrize("name", sorted(_classes()))
def test_every_method_has_a_row(name):
    kind = "Lock" if name == "SpinLock" else name
    assert public(_classes()[name]) == set(ROWS[kind])


@pytest.mark.parametrize("kind", [kind for kind in ROWS if kind != "EpochStore"])
@pytest.mark.parametrize("where", ["local", "fault+shm"])
def test_closed_in_the_midst(where, kind, cluster_name):
    assert played(SCENES, cluster_name, where, kind, STRIDE, timeout=300)[-1] == "through"


def test_a_store_of_a_coordinator_is_closed_in_the_midst(coordinated):
    assert played(SCENES, coordinated, COORDINATED, "EpochStore", STRIDE, timeout=300)[-1] == "through"
