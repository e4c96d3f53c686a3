"""The models under SPIN: the protocols as they are must hold, and every mutation of them must be found to be wrong."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MODELS = Path(__file__).parent

# What is explored: seconds each. -DSAFETY: assertions and invalid end states; -DNP: no run goes on forever.
HOLDS = [
    "ring -DM=4 -DPRODUCER_DEATHS=1",
    "ring -DM=3 -DPRODUCER_DEATHS=2",
    "array -DM=3",
    "array -DM=3 -DPRODUCER_DEATHS=2 -DCONSUMER_DEATHS=0",
    "shared_tail -DM=3",
    "shared_tail -DM=4 -DSTOPS",
    "shared_tail -DM=2 -DSTOPS -DCONSUMERS=3",
    "shared_tail -DM=1 -DSTOPS -DLANES=2 -DDEATHS=2",
    "shared_tail -DM=3 -DDROP",
    "shared_tail -DM=3 -DDROP -DSTOPS",
    "eventcount",
    "eventcount -DDEATHS=1 -DRECHECK",
    "eventcount -DLOCK",
    "eventcount -DLOCK -DDEATHS=1 -DRECHECK",
    "lock -DROUNDS=2",
    "lock -DPROCESSES=4 -DDEATHS=2",
    "barrier",
    "barrier -DPARTIES=3 -DDEATHS=2",
    "barrier -DTIMEOUTS -DROUNDS=2 -DENDERS=1",
    "barrier -DTIMEOUTS -DPROCESSES=3 -DENDERS=1",
    "barrier -DNEWCOMER",
    "barrier -DBREAKER -DPARTIES=3",
    "barrier -DTIMEOUTS -DENDERS=1 -DBREAKER -DNEWCOMER",
    "outcome",
    "put -DLOSSES=2",
    "put -DDEATHS=2 -DLOSSES=0",
    "put -DCLIENTS=3 -DLOSSES=0",
    "put -DCLIENTS=3 -DLOSSES=0 -DDEATHS=0 -DEVICTIONS=1",
    "put -DCOPIES=3",
    "put -DTWICE -DLOSSES=2 -DRECOVERERS=1",
    "put_once -DCOPIES=3 -DLOSSES=1",
    "put_once -DCOPIES=3 -DCHANGES=1",
    "put_once -DLOSSES=2 -DRECOVERERS=2",
    "put_once -DLOSSES=1 -DCHANGES=1",
    "put_once -DEVICTIONS=1 -DCHANGES=1",
    "put_once -DCLIENTS=3 -DDEATHS=2",
    "put_once -DCLIENTS=3 -DCHANGES=1",
    "put_once -DPUTS=2 -DLOSSES=1",
    "put_once -DPUTS=2 -DCHANGES=1",
    "put_once -DPUTS=2 -DEVICTIONS=1 -DDEATHS=0",
    "put_once -DPUTS=2 -DCOPIES=3",
    "commit -DRECOVERERS=1",
    "commit -DTRIES=0",
    "commit -DTRIES=0 -DLOSSES=1 -DRECOVERERS=1",
    "commit -DBOTH -DRECOVERERS=1",
    "extents",
    "extents -DTWICE",
    "extents -DLOSSES=1",
    "extents -DTWICE -DLOSSES=1 -DDEATHS=0",
    "joint",
    "joint -DSPREAD=2",
    "joint -DSPREAD=4 -DEVICTIONS=0",
    "joint -DSPREAD=4 -DDEATHS=1",
    "lease",
    "lease -DGIVES=1 -DCRASHES=2",
    "lease -DHANDLES=2 -DGIVES=1 -DEPOCHS=2 -DCRASHES=0",
    "evict",
    "evict -DFENCE",
    "epoch -DLOSSES=0 -DFREE",
    "epoch -DCRASHES=0",
    "epoch -DEVICTIONS=0",
    "epoch -DTWICE -DCLIENTS=1 -DLOSSES=2",
    "epoch -DCOPIES=3 -DCRASHES=0 -DLOSSES=0 -DEVICTIONS=0",
    "epoch -DCOPIES=3 -DCRASHES=0 -DLOSSES=0 -DDEATHS=0",
    "epoch -DCOPIES=3 -DCLIENTS=1 -DDEATHS=2 -DEVICTIONS=0 -DLOSSES=0",
    "epoch -DCOPIES=3 -DCLIENTS=1 -DDEATHS=2 -DEVICTIONS=0 -DCRASHES=0",
    "epoch -DCOPIES=3 -DCLIENTS=1 -DCHANGES=1 -DEVICTIONS=0 -DLOSSES=0 -DLATER",
    "epoch -DCOPIES=3 -DCLIENTS=1 -DCHANGES=1 -DEVICTIONS=0 -DLOSSES=0 -DUNLOCK_FIRST",
    "epoch -DREUSE -DLOSSES=0 -DCRASHES=0 -DEVICTIONS=0",
    "epoch -DREUSE -DLOSSES=0 -DCRASHES=0 -DDEATHS=0",
    "epoch -DRETURNS=1 -DCLIENTS=1 -DCRASHES=2",
    "epoch -DRETURNS=1 -DCLIENTS=1 -DCHANGES=1 -DLOSSES=0",
    "epoch -DRETURNS=1 -DCOPIES=3 -DCLIENTS=1 -DLOSSES=0",
    "epoch -DMOVE -DCHANGES=1 -DDEATHS=0 -DEVICTIONS=0",
    "epoch -DMOVE -DCHANGES=1 -DCOPIES=3 -DCLIENTS=1 -DLOSSES=0 -DDEATHS=0 -DEVICTIONS=0",
]
ENDS = ["ring -DM=3 -DPRODUCER_DEATHS=1", "array -DM=2", "shared_tail -DM=2", "shared_tail -DM=2 -DDROP", "lock"]

# What is found, besides the mutation. "assertion" or "invalid end state"; "non-progress" with the check for cycles.
FAILS = [
    ("ring -DPUBLISH_FIRST", "assertion"),
    ("ring -DNO_ZERO", "assertion"),
    ("ring -DPADDING_FIRST", "assertion"),
    ("ring -DNO_SPARE", "assertion"),
    ("ring -DNO_WALK", "invalid end state"),
    ("ring -DHEAD_ONLY", "assertion"),
    ("ring -DTAIL_FIRST", "invalid end state"),
    ("array -DFIRST_FIRST", "assertion"),
    ("array -DNO_FENCE", "assertion"),
    ("array -DFENCE_LATE", "assertion"),
    ("array -DNO_ZERO", "assertion"),
    ("array -DPADDING_FIRST", "assertion"),
    ("array -DTAIL_FIRST", "invalid end state"),
    ("shared_tail -DSWAP_FIRST", "assertion"),
    ("shared_tail -DBLIND_STORE", "assertion"),
    ("shared_tail -DEMPTY_ONCE", "assertion"),
    ("shared_tail -DSTALE_IS_CORRUPT", "assertion"),
    ("shared_tail -DNO_ZERO", "assertion"),
    ("shared_tail -DM=2 -DOLD_TAIL", "non-progress"),
    ("eventcount -DWORD_FIRST", "invalid end state"),
    ("eventcount -DSEEN_LATE", "invalid end state"),
    ("eventcount -DCLEAR_LATE", "invalid end state"),
    ("eventcount -DRING_FIRST", "invalid end state"),
    ("eventcount -DDEATHS=1", "invalid end state"),
    ("eventcount -DLOCK -DONE_BEHIND", "invalid end state"),
    ("eventcount -DLOCK -DDEATHS=1", "invalid end state"),
    ("lock -DNO_SWEEP", "invalid end state"),
    ("lock -DBLIND_SWEEP", "assertion"),
    ("lock -DTAKE_FROM_ANY", "assertion"),
    ("lock -DLOOK_FIRST", "assertion"),
    ("lock -DNO_TOKEN", "assertion"),
    ("lock -DNO_OWNER_DIED", "assertion"),
    ("barrier -DSTORE_ROUND -DTIMEOUTS -DENDERS=1", "assertion"),
    ("barrier -DNO_GENERATION -DTIMEOUTS -DROUNDS=2 -DENDERS=1", "assertion"),
    ("barrier -DNO_AGE -DTIMEOUTS -DENDERS=1", "assertion"),
    ("barrier -DNO_OWNER_DIED", "invalid end state"),
    ("barrier -DLOCK_UNSEEN", "invalid end state"),
    ("barrier -DNEWCOMER -DOWNER_DIED_UNSEEN", "invalid end state"),
    ("barrier -DBREAKER -DOWNER_DIED_UNSEEN", "invalid end state"),
    ("barrier -DTIMEOUTS -DENDERS=1 -DBREAKER -DSTORE_ENTRY", "assertion"),
    ("barrier -DTIMEOUTS -DENDERS=1 -DBREAKER -DNO_LAST_LOOK", "assertion"),
    ("outcome -DNO_CLOSE", "assertion"),
    ("outcome -DUNKNOWN_IS_NEVER", "assertion"),
    ("outcome -DCOUNT_LATE", "assertion"),
    ("outcome -DCOUNT_FIRST", "assertion"),
    ("outcome -DNO_WINDOW", "assertion"),
    ("outcome -DLAST_ONLY", "assertion"),
    ("outcome -DSERIAL_NAMES", "assertion"),
    ("outcome -DRESEND", "assertion"),
    ("put -DNO_MARK -DCLIENTS=3 -DLOSSES=0 -DRECOVERERS=1", "assertion"),
    ("put -DACK_EARLY", "assertion"),
    ("put -DUNLOCK_FIRST", "assertion"),
    ("put -DFRAME_ONCE", "assertion"),
    ("put -DDOUBT_IS_YES", "assertion"),
    ("put -DDOUBT_IS_NO", "invalid end state"),
    ("put -DBACKUP_IS_YES", "assertion"),
    ("put -DBACKUP_IS_NO", "assertion"),
    ("put -DRETRY", "assertion"),
    ("put -DKEEP_DUE -DDEATHS=0 -DLOSSES=3 -DRECOVERERS=1", "assertion"),
    ("put -DREAD_LOCKED", "assertion"),
    ("put -DPASS_LOCK", "assertion"),
    ("put -DNO_PROOF", "assertion"),
    ("put -DNO_FENCE", "assertion"),
    ("put -DHALF_FENCE", "assertion"),
    ("put -DSTORE", "assertion"),
    ("put -DBACK -DCOPIES=3", "assertion"),
    ("put -DHALF_FORWARD -DCOPIES=3", "assertion"),
    ("put -DNO_SWEEP -DCLIENTS=3 -DLOSSES=0 -DRECOVERERS=1", "invalid end state"),
    ("put -DBEHIND_LOCK -DCLIENTS=3 -DDEATHS=2 -DLOSSES=0 -DRECOVERERS=1", "assertion"),
    ("put -DOLD_AT_LOCK -DTWICE -DLOSSES=2 -DRECOVERERS=1", "assertion"),
    ("put_once -DHEADS -DCOPIES=3", "assertion"),
    ("put_once -DOVERWRITE -DCOPIES=3", "assertion"),
    ("put_once -DNO_UNDO", "invalid end state"),
    ("put_once -DACK_EARLY", "assertion"),
    ("put_once -DLOST_IS_YES -DLOSSES=1", "assertion"),
    ("put_once -DLOST_IS_NO -DLOSSES=1", "invalid end state"),
    ("put_once -DANY", "assertion"),
    ("put_once -DBACK", "assertion"),
    ("put_once -DNO_FENCE -DEVICTIONS=1 -DDEATHS=0", "assertion"),
    ("put_once -DHALF_FENCE -DEVICTIONS=1 -DDEATHS=0", "assertion"),
    ("put_once -DOUT_OF_ORDER -DPUTS=2", "assertion"),
    ("put_once -DEXACT -DPUTS=2", "assertion"),
    ("put_once -DNOT_AGAIN -DPUTS=2 -DLOSSES=1", "assertion"),
    ("put_once -DREUSE -DCLIENTS=3 -DCHANGES=1 -DCOPIES=3", "assertion"),
    ("commit -DLOCK_FIRST -DRECOVERERS=1", "assertion"),
    ("commit -DNO_C2 -DRECOVERERS=1", "assertion"),
    ("commit -DNEXT_EARLY -DTWICE -DLOSSES=1 -DRECOVERERS=1", "invalid end state"),
    ("commit -DUNLOCK_FIRST -DRECOVERERS=1", "assertion"),
    ("commit -DUNKNOWN_IS_NO -DTRIES=0 -DBOTH -DLOSSES=1 -DRECOVERERS=1", "assertion"),
    ("commit -DPROOF_LATE -DTRIES=0", "assertion"),
    ("commit -DHALF_FENCE -DTRIES=0", "assertion"),
    ("commit -DNO_SWEEP -DTRIES=0 -DCLIENTS=3 -DRECOVERERS=1", "invalid end state"),
    ("commit -DSEQ_AGAIN -DTRIES=0 -DCLIENTS=3 -DRECOVERERS=1 -DDEATHS=2", "assertion"),
    ("extents -DLOCK_FIRST", "assertion"),
    ("extents -DRECORD_ONCE", "assertion"),
    ("extents -DWORD_ONCE", "assertion"),
    ("extents -DNO_C2", "assertion"),
    ("extents -DOWN_WORD -DBOTH -DRECOVERERS=2", "assertion"),
    ("extents -DHALF_FENCE -DBOTH -DRECOVERERS=2", "assertion"),
    ("extents -DPROOF_LATE -DBOTH -DRECOVERERS=2", "assertion"),
    ("extents -DUNKNOWN_IS_NO -DBOTH -DLOSSES=1", "assertion"),
    ("extents -DNEXT_EARLY -DTWICE -DLOSSES=1 -DDEATHS=0", "invalid end state"),
    ("extents -DKEEP_LAST -DTWICE -DLOSSES=1 -DDEATHS=0", "invalid end state"),
    ("extents -DHALF_SWEEP -DCLIENTS=3 -DBOTH", "invalid end state"),
    ("extents -DSEQ_FIRST -DCLIENTS=3", "assertion"),
    ("joint -DPER_EXTENT", "assertion"),
    ("joint -DONE_EXTENT", "assertion"),
    ("joint -DPAGES_FIRST", "assertion"),
    ("joint -DOPEN_EACH -DDEATHS=1", "assertion"),
    ("joint -DMISSED", "assertion"),
    ("joint -DFENCE_ONE", "assertion"),
    ("joint -DFENCE_LATE", "assertion"),
    ("joint -DACK_EARLY", "assertion"),
    ("joint -DUNPREPARED", "assertion"),
    ("evict -DEND_FIRST", "assertion"),
    ("evict -DNO_DENY", "assertion"),
    ("evict -DNO_LOOK", "assertion"),
    ("evict -DBYE_ONE", "assertion"),
    ("evict -DNEXT_OP", "assertion"),
    ("evict -DNO_EXPIRY", "invalid end state"),
    ("lease -DNO_WAIT", "assertion"),
    ("lease -DFORGETS", "assertion"),
    ("lease -DLATE", "assertion"),
    ("lease -DOF_ALL -DHANDLES=2 -DGIVES=1 -DEPOCHS=2 -DCRASHES=0", "assertion"),
    ("lease -DKNOWN", "assertion"),
    ("lease -DKEPT", "assertion"),
    ("lease -DSAME", "assertion"),
    ("lease -DSHARED", "assertion"),
    ("lease -DTOLD_FIRST", "assertion"),
    ("lease -DMOVES", "assertion"),
    ("lease -DAGAIN", "assertion"),
    ("epoch -DNO_LEASE", "assertion"),
    ("epoch -DLEASE_FIRST", "assertion"),
    ("epoch -DNO_FENCE", "assertion"),
    ("epoch -DFENCE_LATE", "assertion"),
    ("epoch -DHALF_FENCE -DCOPIES=3 -DCLIENTS=1", "assertion"),
    ("epoch -DSTALE", "assertion"),
    ("epoch -DBACK", "assertion"),
    ("epoch -DFAIL_EARLY", "assertion"),
    ("epoch -DINTENT_FIRST -DTWICE -DCLIENTS=1", "assertion"),
    ("epoch -DNO_INTENT -DTWICE -DCLIENTS=1", "assertion"),
    ("epoch -DFORGET -DCOPIES=3 -DCLIENTS=1", "assertion"),
    ("epoch -DAT_PRIMARY -DCOPIES=3 -DCLIENTS=1", "assertion"),
    ("epoch -DOPEN_EARLY", "assertion"),
    ("epoch -DRETRY", "assertion"),
    ("epoch -DFRAME_LATE -DCOPIES=3 -DCLIENTS=1", "assertion"),
    ("epoch -DRETURN -DCHANGES=1 -DCLIENTS=1", "assertion"),
    ("epoch -DMISSED -DRETURNS=1 -DCHANGES=1 -DCLIENTS=1 -DLOSSES=0", "assertion"),
    ("epoch -DLATER -DRETURNS=1 -DCLIENTS=1", "assertion"),
    ("epoch -DHEAD_TELLS -DREUSE -DLOSSES=0 -DCRASHES=0 -DEVICTIONS=0", "assertion"),
    ("epoch -DONE_LOOK -DREUSE -DLOSSES=0 -DCRASHES=0 -DEVICTIONS=0", "assertion"),
    ("epoch -DSERVES_ON -DMOVE -DCHANGES=1 -DCLIENTS=1", "assertion"),
    ("epoch -DBEFORE_TELLS -DREUSE -DLOSSES=0 -DCRASHES=0 -DEVICTIONS=0", "assertion"),
]

pytestmark = [
    pytest.mark.skipif(not shutil.which("spin") or not shutil.which("cc"), reason="wants spin and cc (ci/deps model)"),
    pytest.mark.timeout(900),
]


def explore(case: str, folder: Path, cycles: bool, level: str = "-O1") -> str:
    """What pan says of a model; it has looked everywhere, or up to the first error.

    The compiler's level: pan is large, and most of them run for less time than it takes to compile them with -O2.
    """
    name, *defines = case.split()
    subprocess.run(["spin", *defines, "-a", str(MODELS / f"{name}.pml")], cwd=folder, check=True, capture_output=True)
    how = ["-DNP"] if cycles else ["-DSAFETY"]
    subprocess.run(["cc", level, "-w", *how, "-DMEMLIM=4000", "-o", "pan", "pan.c"], cwd=folder, check=True)
    search = ["./pan", *(["-l"] if cycles else []), "-m100000", "-w22", "-n"]
    said = subprocess.run(search, cwd=folder, check=True, capture_output=True, text=True).stdout
    assert "max search depth too small" not in said and "out of memory" not in said, said
    assert "error" not in said.lower().replace("errors:", ""), said
    return said


@pytest.mark.parametrize("case", HOLDS)
def test_holds(case, tmp_path):
    said = explore(case, tmp_path, False)
    assert "errors: 0" in said and "Search not completed" not in said, said


@pytest.mark.parametrize("case", ENDS)
def test_ends(case, tmp_path):
    said = explore(case, tmp_path, True)
    assert "errors: 0" in said and "Search not completed" not in said, said


@pytest.mark.parametrize(("case", "found"), FAILS)
def test_mutation_is_found(case, found, tmp_path):
    said = explore(case, tmp_path, found == "non-progress", "-O0")
    assert "errors: 1" in said and f"pan:1: {found}" in said, said
