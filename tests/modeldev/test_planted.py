"""For each habit of the model device: what breaks without the care that dsmem takes.

A scene of tests/c/test_model.c or test_torn.c passes on the sources. With a bug planted into a copy of one of them, or
into the scene itself by a macro (where the care is the caller's), it fails.
"""

import contextlib
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from modeldev import SOURCES, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
ROOT = Path(__file__).parents[2]
SCENES = [ROOT / f"tests/c/{name}.c" for name in ("test_model", "test_torn")]
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-pthread", "-DDSM_HAVE_VERBS=1"]
VERBS, OBJECTS = "csrc/fabric/verbs", "csrc/objects"
RUNS = 10  # at most, until a bug is seen: two threads must meet, and on a busy host they may run one after the other
HANGS = "hanging"  # waits without end for a device that does not flush
SMALL = (f"{VERBS}/endpoint.c", "ibv.create_cq(d->ctx, (int)e->depth,", "ibv.create_cq(d->ctx, 1,")
FOUND = "w->prepared[i] = n ? find_mr(d, p, n, is_written(w->op), kept) : NULL;"
UNCOUNTED = (FOUND, FOUND + " if (i && w->prepared[i]) fetch_sub_u32(&((struct verbs_mr *)w->prepared[i])->users, 1);")
# scene, then the planted bugs: file, what stands there, what stands there instead. Or a macro of the scene.
PLANTED = [
    ("records", (f"{OBJECTS}/queue/record.c", ", payload, length);", ", payload, 0);")),
    ("versions", (f"{OBJECTS}/segment/versions.c", " && proven(before->head, head);", ";")),
    ("fences", (f"{VERBS}/io.c", "!e->placed ? IBV_SEND_FENCE : 0", "!e->placed ? 0 : 0")),
    ("fenced_copies", (f"{VERBS}/io.c", "if (must_wait(e, op, local))", "if (0 && must_wait(e, op, local))")),
    ("late_writes", "PLANT_THE_CPU_LOOKS"),
    ("fenced", ("csrc/agent/conn.c", "endpoint_close(n->ep);", "")),
    ("bulk", ("csrc/core/ops.c", "int rc = run(c, ahead.ops,", "int rc = 0; if (0) run(c, ahead.ops,")),
    ("bulk_behind", ("csrc/core/ops.c", "int rc = run(c, ahead.ops,", "int rc = 0; if (0) run(c, ahead.ops,")),
    ("bulk_batches", ("csrc/core/bulk.c", "LEAST = 4096", "LEAST = 1")),
    ("counters", "PLANT_THE_CPU_ADDS"),
    ("releases", "PLANT_A_WRITE_RELEASES"),
    ("cut_in_the_middle", (f"{VERBS}/completion.c", "return -DSM_EACCESS;", "return -DSM_EIO;")),
    ("cut_in_the_middle", (f"{VERBS}/device.c", "ibv.ack_async_event(&event);", "")),
    ("local_side", (f"{VERBS}/region.c", "verbs_put_mr(m->mr);", "ibv.dereg_mr(m->mr->mr);")),
    ("pieces", (f"{VERBS}/io.c", "at < end; at += run, n++", "at < end && !n; at += run, n++")),
    ("one_entry", (f"{VERBS}/io.c", "op->code == DSM_OP_READ ? d->read_pieces : d->pieces) == 1", "0)")),
    ("local_pieces", (f"{VERBS}/region.c", *UNCOUNTED)),
    ("many_requests", (f"{VERBS}/endpoint.c", ".max_send_wr = depth", ".max_send_wr = depth / 2")),
    ("many_reads", (f"{VERBS}/endpoint.c", "d->max_reads < peer_serves ? d->max_reads : peer_serves", "d->max_reads")),
    ("inline_60", (f"{VERBS}/io.c", "op->nbytes <= e->max_inline", "op->nbytes <= VERBS_INLINE")),
    ("inline_60", (f"{VERBS}/io.c", "d->port_attr.max_msg_sz ? d->port_attr.max_msg_sz :", "")),
    ("lost_completions", SMALL, (f"{VERBS}/device.c", "case IBV_EVENT_CQ_ERR:", "case IBV_EVENT_SRQ_ERR:")),
    ("lost_packets", (f"{VERBS}/endpoint.c", ".retry_cnt = d->retries", ".retry_cnt = 0")),
    ("no_route", (f"{VERBS}/completion.c", "case IBV_WC_LOC_PROT_ERR:", "case IBV_WC_LOC_QP_OP_ERR:")),
    ("hanging", (f"{VERBS}/endpoint.c", "else if (clock_ns() >= e->drained)", "else if (0)")),
    ("fatal", (f"{VERBS}/device.c", "case IBV_EVENT_DEVICE_FATAL:", "case IBV_EVENT_SRQ_ERR:")),
    ("lids", (f"{VERBS}/endpoint.c", ".dlid = get_u16(b + 8),", "")),
    ("global_routes", (f"{VERBS}/endpoint.c", ".is_global = verbs_global(d) || b[13]", ".is_global = d->roce")),
    ("gid_types", (f"{VERBS}/endpoint.c", "if (b[11] != d->link)", "if (0)")),
    ("other_devices", (f"{VERBS}/device.c", "transport_type == IBV_TRANSPORT_IWARP", "transport_type == -1")),
    ("other_devices", (f"{VERBS}/endpoint.c", "return rc ? rc : to_init(e);", "return rc;")),
]
SURE = (f"{OBJECTS}/sure.c", "if (__builtin_expect(remote_reads_whole(r), 1)", "if (1")
# The same of words that a READ reads byte by byte.
TORN = [
    ("tails", (f"{OBJECTS}/queue/remote.c", ": word_reads(last, load_relaxed_u64(&q->head));", ": 1;")),
    ("tails", (f"{OBJECTS}/queue/remote.c", "*tail = word_at_least(last, seen, n);", "*tail = seen[n - 1];")),
    ("successors", (f"{OBJECTS}/queue/remote.c", "bool whole = remote_reads_whole(q->r);", "bool whole = true;")),
    ("successors", (f"{OBJECTS}/queue/remote.c", "return word_equal(t->first, t->n) &&", "return")),
    ("counts", (f"{OBJECTS}/queue/remote_counts.c", "remote_reads_whole(q->r) ? 1 : WORD_BOUNDS", "1")),
    ("clocks", SURE),
    ("rows", SURE),
    ("members", (f"{OBJECTS}/member.c", "identity ? member_is(r, table, i, identity) : 0;", "identity;")),
    ("snapshots", (f"{OBJECTS}/segment/versions.c", "remote_reads_whole(r) ? 1 : WORD_BOUNDS", "1")),
    ("pages", ("csrc/store/store.c", "!remote_reads_whole(at[k])", "false")),
]


def compiled(*arguments):
    done = subprocess.run(["gcc", *FLAGS, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """A folder with the core as an archive, the model and the scenes, each compiled once."""
    folder = tmp_path_factory.mktemp("objects")

    def compile_one(source):
        target = folder / f"{source.parent.name}-{source.stem}.o"
        compiled("-Icsrc", "-c", source, "-o", target)
        return target

    core = sorted((ROOT / "csrc").rglob("*.c"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = list(pool.map(compile_one, [*core, *SOURCES, *SCENES]))
    subprocess.run(["ar", "rcs", folder / "core.a", *made[: len(core)]], check=True)
    return folder


def program(objects, folder, plants, name="test_model"):
    """Link the scenes with what is planted; an object before the archive takes the place of its member."""
    scenes = objects / f"c-{name}.o"
    planted = []
    for number, plant in enumerate(plants):
        if isinstance(plant, str):
            scenes = folder / "scenes.o"
            compiled("-Icsrc", f"-D{plant}", "-c", ROOT / f"tests/c/{name}.c", "-o", scenes)
            continue
        path, old, new = plant
        source = ROOT / path
        text = source.read_text()
        assert old in text, f"{path} has changed: plant another bug here"
        copy = folder / f"planted{number}.c"
        copy.write_text(text.replace(old, new))
        target = copy.with_suffix(".o")
        compiled("-Icsrc", f"-iquote{source.parent}", "-c", copy, "-o", target)
        planted.append(target)
    model = sorted(objects.glob("modeldev-*.o"))
    compiled(scenes, *planted, *model, objects / "core.a", "-ldl", "-Wl,--wrap=verbs_load", "-o", folder / "scenes")
    return folder / "scenes"


def fails(binary, scene):
    """Whether a scene fails, or hangs where a bug would make it."""
    limit = 10 if scene == HANGS else 60
    process = subprocess.Popen(
        [binary, scene], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return process.wait(limit) != 0
    except subprocess.TimeoutExpired:
        assert scene == HANGS
        return True
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a scene is a child of it
        process.wait()


@pytest.mark.parametrize(("scene", "plants"), [(scene, plants) for scene, *plants in PLANTED], ids=str)
def test_a_planted_bug_is_seen(objects, tmp_path, scene, plants):
    binary = program(objects, tmp_path, plants)
    assert any(fails(binary, scene) for _ in range(RUNS))


@pytest.mark.parametrize(("scene", "plants"), [(scene, plants) for scene, *plants in TORN], ids=str)
def test_a_torn_word_is_seen(objects, tmp_path, scene, plants):
    binary = program(objects, tmp_path, plants, "test_torn")
    assert any(fails(binary, scene) for _ in range(RUNS))


def test_nothing_is_seen_where_nothing_is_planted(objects, tmp_path):
    binary = program(objects, tmp_path, [])
    scenes = {scene for scene, *_ in PLANTED} - {"lost_completions", HANGS}
    assert not [scene for scene in sorted(scenes) if fails(binary, scene)]
    subprocess.run([binary, HANGS], check=True, timeout=60)
    subprocess.run([program(objects, tmp_path, [], "test_torn")], check=True, timeout=120)


def test_a_lost_completion_queue_is_noticed(objects, tmp_path):
    assert not fails(program(objects, tmp_path, [SMALL]), "lost_completions")
