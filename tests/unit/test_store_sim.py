"""The simulation of clients of a store (tests/c/test_store_sim.c) sees each of these bugs: with one copy within ten
thousand seeds, with several within four thousand.

test_c_programs.py runs it on what stands there, under sanitizers; here it runs more seeds.
"""

import shutil
import subprocess

import pytest
from store_simulation import World, built, check_seen, linked, planted, seeds, shown, smallest

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
SEEDS = 10000
SEEDS_COPIES = 16000
# What is planted: the file, what stands there, and what stands there instead.
PLANTED = {
    "a page is not compared with its hash": ("page", "whole = frame_holds(", "(void)frame_holds("),
    "a header is not checked": ("layout", " && h->check == check_of(h)", ""),
    "a frame fits any version": ("layout", "head_names(head, h->version)", "head"),
    "a hint is believed": ("page", "proves = m->own || m->head == m->guess", "proves = true"),
    "a conflict is concluded from a hint": ("page", "bool fits = ", "bool fits = true || "),
    "an id of an earlier life is taken": ("page", "if (m->header.pid != m->pid)", "if (0)"),
    "a hint of another life is taken": ("page", " || h->generation != page_generation(m->pid)", ""),
    "a freed page keeps its generation": (
        "page",
        "generation_after(page_generation(m->pid))",
        "page_generation(m->pid)",
    ),
    "versions are not compared": ("page", "if (version != m->expected)", "if (0)"),
    "a refused swap counts as done": ("page", "op->result == m->guess", "1"),
    "a lost answer counts as a refusal": ("page", "return post(m, 1, OP_DOUBTS);", "return look(m, e, false);"),
    "a write in doubt is tried again": ("page", "return trace(m, e);", "return begin(m, e);"),
    "a free in doubt counts as done": ("page", "m->head == m->next && head_state", "m->head == m->next || head_state"),
    "a frame in doubt is put back": (
        "page",
        "if (m->ops[0].status || may_be_locked(m)) {\n        frames_in(m, e)->doubt |= ",
        "if (m->ops[0].status || may_be_locked(m)) {\n        put_back(m, e);\n        frames_in(m, e)->doubt &= ",
    ),
    "the frame that is the page is put back": (
        "page",
        "put_back(e, extent_of(e->shape, page_number(m->pid)), head_low(m->guess))",
        "put_back(e, m->extent, m->frame)",
    ),
    "a chunk of the living is adopted": ("chunk", "if (may_open(m, e, word, m->at + m->in))", "if (1)"),
    "all frames of an adopted chunk are free": (
        "chunk",
        "if (!may_be_named(",
        "if (1 || !may_be_named(",
    ),
    "frames of other chunks are put back": ("chunk", "!f->closing && frame / PER_CHUNK == f->chunk", "!f->closing"),
    "frames freed in a chunk that others had are free": ("freed", "g->of[chunk].word == word ?", "1 ?"),
    "a guess is believed": ("freed", "? g->of[chunk].frames : 0", "? g->of[chunk].frames : g->of[chunk].guess"),
    "a chunk that was lost to another is used": ("chunk", "if (m->ops[0].result != from)", "if (0)"),
    "a page whose lock may stand is forgotten": (
        "allocate",
        "            leave(m, pid);\n",
        "            (void)pid;\n",
    ),
    "a page that was lost to another is given": ("allocate", "!op->status && op->result == op->operand", "!op->status"),
    "a head that may be a mixture is believed": (
        "page",
        "store_look_at_head(e, 0, page_number(m->pid), &m->head)",
        "store_read_op(e, 0, head_at(e->shape, page_number(m->pid)), &m->head, 8)",
    ),
    "heads of frames may be mixtures": (
        "chunk",
        "store_look_at_head(e, 0, number, &m->heads[i])",
        "store_read_op(e, 0, head_at(e->shape, number), &m->heads[i], 8)",
    ),
    "the holder of a mixture is asked about": ("allocate", "e->mixes ? prove_lock(m, e) : ", ""),
}
# The same, with this many copies.
PLANTED_COPIES = {
    "a frame whose answer was lost is not sent again": (2, "put", "p->unwritten = failed;", "p->unwritten = 0;"),
    "a page whose end failed is forgotten": (2, "allocate", "if (m->changes[i].is != CHANGE_DONE)", "if (0)"),
    "a refused lock counts": (2, "put", "op->result == op->operand ? op->desired : op->result", "op->desired"),
    "a lost answer counts as yes": (
        2,
        "put",
        "c->unsure |= (lost || is_kept(e, c->number)) && (c->swaps & bit) ? bit : 0;",
        "c->has |= lost && (c->swaps & bit) ? bit : 0;",
    ),
    "a lost answer counts as no": (
        2,
        "put",
        "c->unsure |= (lost || is_kept(e, c->number)) && (c->swaps & bit) ? bit : 0;",
        "",
    ),
    "the lock at the primary is enough": (
        3,
        "put",
        "c->has == copies_bits(e, c) && is_written(p, c, e)",
        "c->has & 1 && is_written(p, c, e)",
    ),
    "a loser keeps its locks": (
        2,
        "put",
        "c->is == CHANGE_LOSES && !(c->has | c->unsure)",
        "c->is == CHANGE_LOSES",
    ),
    "a backup is locked from a head that the primary had not": (
        2,
        "put",
        "loses || !(first || c->has & 1) ? 0",
        "loses ? 0",
    ),
    "an unlock whose answer was lost is due no more": (
        3,
        "put",
        "if (!ops[at++].status)",
        "if (at++ < n)",
    ),
    "the frame before is free with the lock": (
        2,
        "page",
        "lock_wait(m, e)};\n        return put(m, e);",
        "lock_wait(m, e)};\n        if (head_state(m->guess) == HEAD_FRAMED)\n"
        "            frames_put_back(e, extent_of(e->shape, page_number(m->pid)), head_low(m->guess));\n"
        "        return put(m, e);",
    ),
    "a frame that is sent again is another one": (
        2,
        "page",
        "    case OP_PUTS:\n        return put(m, e);",
        "    case OP_PUTS:\n        m->header.time += m->put.step == PUT_SLEEPS && m->put.unwritten;\n"
        "        frame_seal(&m->header, e->copy, m->page, e->shape->page_bytes);\n        return put(m, e);",
    ),
    "frames behind locks are free": (3, "chunk", "if (head_locked(head))", "if (0)"),
    "frames behind locks of backups are free": (
        4,
        "chunk",
        "if (f->doubt && keeps_any(e, m->extent))",
        "if (0)",
    ),
    "a resolution goes forward, whatever the backups have": (2, "resolve", "all || any ? intent->to", "1 ? intent->to"),
    "a resolution goes back, though all have the lock": (2, "resolve", "all || any ? intent->to", "any ? intent->to"),
    "a resolution goes back, though a backup is past it": (2, "resolve", "all || any ? intent->to", "all ? intent->to"),
    "the lock of an earlier change counts": (4, "resolve", " && there->to == intent->to", ""),
    "a lock at a backup alone goes forward": (
        2,
        "resolve",
        "versions_ahead(m->heads[0], m->lock) > 0",
        "versions_ahead(m->heads[0], m->lock) >= 0",
    ),
    "a lock at a backup alone goes back": (2, "resolve", "versions_ahead(m->heads[0], m->lock) > 0", "false"),
    "the backups are not swept": (2, "resolve", "if (++m->copy < copies_of(e, m->extent))", "if (0)"),
    "a resolution takes backups that moved on for damage": (
        "2x2",
        "resolve",
        "static enum store_next checked(struct store_resolve *m)\n{\n    if (m->heads[m->copy] != m->lock)",
        "static enum store_next checked(struct store_resolve *m)\n{\n    if (0)",
    ),
    "a mixture is taken for what became of a lock": (
        2,
        "put",
        "store_look_at_head(e, k, c->number, &c->seen[k])",
        "store_read_op(e, k, head_at(e->shape, c->number), &c->seen[k], 8)",
    ),
}


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return built(tmp_path_factory.mktemp("sim"))


@pytest.mark.parametrize(("copies", "number"), [(1, 2000), (2, 500), (3, 500)])
def test_nothing_is_seen_where_nothing_is_planted(objects, tmp_path, copies, number):
    done = seeds(linked(objects, tmp_path / "plain"), copies, 1000, number)
    assert done.stdout == "ok\n", done.stdout


def test_a_seed_reproduces_its_run(objects, tmp_path):
    program = linked(objects, tmp_path / "plain")
    traces = {
        subprocess.run([program, "1", "7", "1", "traced"], capture_output=True, check=True).stdout for _ in range(2)
    }
    assert len(traces) == 1 and len(traces.pop().splitlines()) > 30


@pytest.mark.parametrize("bug", ["a frame whose answer was lost is not sent again", "a refused lock counts"])
def test_the_smallest_world_that_shows_a_bug(objects, tmp_path, bug):
    """It has the same fault, and few steps to read."""
    copies, *what = PLANTED_COPIES[bug]
    program = planted(objects, tmp_path, *what)
    large = World(str(copies), int(seeds(program, copies, 1, SEEDS_COPIES).stdout.split()[1].rstrip(",")))
    fault, small = smallest(program, large)
    assert shown(program, large)[0] == fault == shown(program, small)[0]
    assert small.clients <= 2 and small.steps <= 200 and len(small.without) >= 4
    done = subprocess.run([program, *str(small).split()], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "seed" in done.stdout


@pytest.mark.parametrize(
    "words", ["clients=6", "clients=0", "steps=0", "without=thunder", "rain", "without=stops,rain"]
)
def test_a_world_that_there_is_not(objects, tmp_path, words):
    assert seeds(linked(objects, tmp_path / "plain"), 1, 1, 1, words).returncode == 1


@pytest.mark.timeout(600)
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_seen(objects, tmp_path, bug):
    check_seen(objects, tmp_path, PLANTED[bug], 1, SEEDS)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("bug", PLANTED_COPIES)
def test_a_planted_bug_of_several_copies_is_seen(objects, tmp_path, bug):
    copies, *what = PLANTED_COPIES[bug]
    check_seen(objects, tmp_path, what, copies, SEEDS_COPIES)
