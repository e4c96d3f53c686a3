"""The simulation of clients of a store (tests/c/test_store_sim.c), where copies are lost for good and a recovery makes
a store of the others, sees each of these bugs: in what clients leave for it, and in the recovery itself.
"""

import shutil

import pytest
from store_simulation import built, check_seen

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
SEEDS = 12000
# What is planted: the file, the copies of the store, what stands there, and what stands there instead.
PLANTED = {
    "no intent is written": ("put", 2, ".nbytes = INTENT_BYTES * (uint64_t)(end - i)}", ".nbytes = 8}"),
    "an intent is used again while its unlock is due": (
        "put",
        2,
        "    c->is = CHANGE_DONE;\n",
        "    c->is = CHANGE_DONE;\n    release(e, c->intent);\n",
    ),
    "a change begins where an older lock may stand": (
        "put",
        2,
        "if (!d || (!d->kept && !d->n))\n        return false;",
        "return false;",
    ),
    "it has failed, though its lock may stand": ("put", 2, "c->is = CHANGE_UNKNOWN;", "c->is = CHANGE_FAILED;"),
    "a lock goes back, though it is at all copies": (
        "recover",
        2,
        "{.after = intent->to, .before = intent->from}",
        "{.after = intent->from, .before = intent->from}",
    ),
    "of different changes the first is made": ("recover", 3, "return agree || go_back(", "return true || go_back("),
    "a frame does not say what it has replaced": (
        "recover",
        2,
        "o->before = m->headers[k][i].before;",
        "o->before = 0;",
    ),
    "a committed transaction leaves locks of other changes": (
        "recover",
        2,
        "(m->commits && gives)",
        "(m->commits && head == c->from)",
    ),
    "an intent of another version is taken": (
        "layout",
        2,
        "head_version(i->from) == head_version(lock) && i->check",
        "i->check",
    ),
    "the later of two heads wins, though not all copies have had it": (
        "recover",
        2,
        "versions_ahead(of[least].after, of[k].after) > 0 ? k",
        "versions_ahead(of[least].after, of[k].after) < 0 ? k",
    ),
    "a head tells, also if another client has written the frame": (
        "doubt",
        "2x2",
        "return !memcmp(d->header, h, sizeof *h);",
        "return d->header[0] || h->pid || 1;",
    ),
    "a change that was made was not": ("doubt", 2, "m->version < d->version", "m->version <= d->version"),
    "a change that another one has replaced was not made": ("doubt", 2, "before == d->to ?", "before == d->from ?"),
    "a word that says committed is ignored": ("recover", 2, "m->commits |= m->said", "m->commits |= 0 && m->said"),
    "pages change before the words agree": (
        "recover",
        3,
        "return n ? post(m, n, RECOVER_AGREES) : read_pages(m, e);",
        "(void)n;\n    return read_pages(m, e);",
    ),
    "what a transaction that is given up has locked stays": (
        "recover",
        2,
        "m->done.given_up += n && !m->commits;",
        "m->record = m->commits ? m->record : NULL;",
    ),
    "the intents of another client are taken": ("recover", 2, "m->lockers[k][row] != slot", "0"),
    "a page whose copies differ is passed over": (
        "recover",
        2,
        "m->which[m->differ++] = m->in;",
        "m->which[m->differ++] = m->in++;",
    ),
    "a copy keeps its head": ("recover", 3, "        if (head != to)\n", "        if (head != to && k < 2)\n"),
    "chunks stay open": ("recover", 2, "chunk_next(m->words[0][i], 0, CHUNK_CLOSED)", "m->words[0][i]"),
    "chunks that only the old primary had opened are free": (
        "recover",
        2,
        "m->words[0][i] = chunk_next(",
        "m->words[0][i] = !m->words[0][i] ? 0 : chunk_next(",
    ),
    "slots stay taken": ("recover", 2, "clear(m, e, 0, slot_at(0), slot_at(e->shape->slots))", "0"),
    "the header keeps its epoch": ("recover", 2, "i < 3; i++", "i < 2; i++"),
}


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return built(tmp_path_factory.mktemp("epoch"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_seen(objects, tmp_path, bug):
    name, copies, old, new = PLANTED[bug]
    check_seen(objects, tmp_path, (name, old, new), copies, SEEDS)
