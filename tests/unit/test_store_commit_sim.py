"""The simulation of clients of a store (tests/c/test_store_sim.c) sees each of these bugs in transactions."""

import shutil

import pytest
from store_simulation import built, check_seen

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
SEEDS = 10000
# What is planted: the file, the copies of the store, what stands there, and what stands there instead.
PLANTED = {
    "the record is not written": ("commit", 2, ".nbytes = record_bytes(m->record.n)}", ".nbytes = 8}"),
    "the word is not prepared": (
        "commit",
        2,
        "tx_word(e->words->seq, TX_PREPARED));\n    return n;",
        "0);\n    return n;",
    ),
    "reads are not validated": ("commit", 1, "m->pages[i].now != m->pages[i].head", "0"),
    "a refused lock counts as taken": ("commit", 1, "refused = p;", "p->is = TX_LOCKED;"),
    "a lock in doubt stays": ("commit", 1, "if (p->is != TX_OPEN)", "if (p->is == TX_LOCKED)"),
    "a conflict makes its changes": ("commit", 1, "lock_of(p, e), p->head);", "lock_of(p, e), p->to);"),
    "the other copies are not changed": ("commit", 2, "n ? post(m, n, COMMIT_COPIES)", "0 ? post(m, n, COMMIT_COPIES)"),
    "a lock at another copy is not replaced": ("commit", 2, "if (all && n)", "if (0)"),
    "a lock at another copy is not replaced by a resolution": (
        "record",
        2,
        "return left ? resolve_post(m, left, RESOLVE_COPIES)",
        "return 0 ? resolve_post(m, left, RESOLVE_COPIES)",
    ),
    "one copy is enough": ("commit", 2, "if (m->done != m->parts)", "if (!m->done)"),
    "the new frame is put back": (
        "commit",
        1,
        "frames_put_back(e, extent_of_page(p, e), head_low(p->head))",
        "frames_put_back(e, extent_of_page(p, e), p->frame)",
    ),
    "chunks with frames of a transaction are closed": ("commit", 1, "frames_hold(e, m->extent);", "(void)e;"),
    "a chunk that is held is opened again": ("chunk", 1, " && !is_held(e, m->extent, chunk)", ""),
    "what is behind a lock is not in a frame": ("chunk", 1, "if (head_locked(head))", "if (0)"),
    "the primary alone decides": ("record", 2, "m->commits |= m->words[k]", "m->commits |= !k && m->words[k]"),
    "the other copies alone decide": ("record", 2, "m->commits |= m->words[k]", "m->commits |= k && m->words[k]"),
    "what was committed is undone": ("record", 1, "m->commits |= m->words[k] == ", "m->commits |= 0 && "),
    "what was prepared is made": ("record", 1, "m->words[k] == tx_word(m->record.seq, TX_COMMITTED)", "true"),
    "the other copies are not resolved": (
        "record",
        2,
        "n ? resolve_post(m, n, RESOLVE_COPIES)",
        "0 ? resolve_post(m, n, RESOLVE_COPIES)",
    ),
    "the own word is not read again": ("record", 1, "if (m->slot == e->slot && m->mark == e->mark)", "if (0)"),
    "what a transaction has locked is free": (
        "page",
        1,
        "if (head_locked(head))\n",
        "if (head_state(head) < 2048 && head_locked(head))\n",
    ),
}


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return built(tmp_path_factory.mktemp("commit"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_seen(objects, tmp_path, bug):
    name, copies, old, new = PLANTED[bug]
    check_seen(objects, tmp_path, (name, old, new), copies, SEEDS)
