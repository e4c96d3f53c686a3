"""Memory nodes of a coordinator whose process answers, and whose device does not work, or takes long.

Each scene runs in a process of its own on the model device, as the processes that it starts.
"""

from pathlib import Path

import pytest
from modeldev import missing, play

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
ROOT = Path(__file__).parents[2]
HABITS = "seed=1&scatter=64&overtake=1&mtu=1024"

BEGIN = f"""
import os, signal, sys, tempfile, time
from pathlib import Path
sys.path.insert(0, {str(ROOT / "tests")!r})
os.environ["DSMEM_TEST_NODES"] = "verbs"
from epochs import PROPERTIES, SILENCE, Process, eventually, together, writing

def planned(where, *plans):
    command = [sys.executable, {str(ROOT / "tests" / "modeldev" / "planned.py")!r}, *plans, "--"]
    where.nodes.append(Process("--join", where.coordinator.address, command=command))
    eventually(lambda: len(where.up()) == len(where.nodes))

def follow(process):
    process.popen.send_signal(signal.SIGUSR1)

def write_on(writers, more=50):
    upto = [writer.acknowledged + more for writer in writers]
    eventually(lambda: all(writer.has_written(count) for writer, count in zip(writers, upto)))

def says(where, address):
    (found,) = [each for each in where.infos() if each.address == address]
    return found

LONG = 4.0  # of silence: no node is to be silent because the host is busy
FOLDER = tempfile.TemporaryDirectory()
STATE = Path(FOLDER.name)
"""

CUT = """
PLACE = {place}
with together(STATE, 0) as where:
    for _ in range(3):
        planned(where, "cut=1", "cut=0")
    with where.client() as cluster, cluster.store("db", create=True, replicas=2, **PROPERTIES) as store:
        node = where.node_of(store, PLACE)
        with writing(where) as writers:
            write_on(writers)
            follow(node)
            eventually(lambda: not says(where, node.address).is_up)
            assert "its memory can't be read" in says(where, node.address).trouble
            end = time.monotonic() + 2 * SILENCE  # in which it registers some times
            while time.monotonic() < end:
                assert not says(where, node.address).is_up
            eventually(lambda: not store.health()["missing"])
            assert node.address not in [copy["node"] for copy in store.health()["copies"]]
            write_on(writers)
            follow(node)
            eventually(lambda: says(where, node.address).is_up)
            write_on(writers)
        assert all(writer.longest < 30 for writer in writers)
"""

# The coordinator's own device fails: copies that clients reach are not left out.
ALONE = """
from epochs import SERVE
PLANNED = [sys.executable, {planned!r}, "cut=1", "cut=0", "--"]
with together(STATE, 0, "--silence", str(LONG), command=PLANNED) as where:
    for _ in range(2):
        where.more()
    eventually(lambda: len(where.up()) == 2)
    with where.client() as cluster, cluster.store("db", create=True, replicas=2, **PROPERTIES) as store:
        with writing(where) as writers:
            write_on(writers)
            follow(where.coordinator)
            end = time.monotonic() + 3 * LONG
            while time.monotonic() < end:
                assert len(where.up()) == 2 and store.health()["epoch"] == 1
            write_on(writers)
            follow(where.coordinator)
            where.nodes[0].kill()
            eventually(lambda: store.health()["epoch"] > 1 and store.health()["open"])
            write_on(writers)
"""

# Registering takes longer than silence: the store is opened after one change, and no node is left out.
SLOW = """
with together(STATE, 0, "--silence", str(LONG)) as where:
    for _ in range(3):
        planned(where, f"pin={{1500 * LONG:.0f}}")
    with where.client() as cluster, cluster.store("db", create=True, replicas=3, **PROPERTIES) as store:
        with writing(where) as writers:
            write_on(writers)
            for node in where.nodes:
                follow(node)
            where.node_of(store, 0).kill()
            eventually(lambda: store.health()["epoch"] == 2)
            while not store.health()["open"]:
                assert len(where.up()) == 2
            assert store.health()["epoch"] == 2 and len(store.health()["copies"]) == 2
            write_on(writers)
"""

# A node that can't register memory is left out, if there is another copy.
FULL = """
with together(STATE, 0) as where:
    for _ in range(3):
        planned(where, "full=1", "full=0")
    with where.client() as cluster, cluster.store("db", create=True, replicas=3, **PROPERTIES) as store:
        dies, full, stays = (where.node_of(store, place) for place in range(3))
        with writing(where) as writers:
            write_on(writers)
            follow(full)
            dies.kill()
            eventually(lambda: store.health()["open"] and len(store.health()["copies"]) == 1)
            assert store.health()["copies"][0]["node"] == stays.address
            write_on(writers)
            assert says(where, full.address).is_up
            follow(full)
            eventually(lambda: len(store.health()["copies"]) == 2)
            write_on(writers)
"""

SCENES = {
    "cut 0": CUT.format(place=0),
    "cut 1": CUT.format(place=1),
    "alone": ALONE.format(planned=str(ROOT / "tests" / "modeldev" / "planned.py")),
    "slow": SLOW.format(),
    "full": FULL.format(),
}


@pytest.mark.parametrize("scene", SCENES)
def test_a_node_whose_device_fails(library, tmp_path, scene):
    play(library, tmp_path, HABITS, f"{BEGIN}{SCENES[scene]}\nprint('good')")
