"""The simulation of clients of a store (tests/c/test_store_sim.c), of several extents, sees each of these bugs.

What all extents have in common with one is planted in test_store_sim.py and test_store_commit_sim.py.
"""

import shutil

import pytest
from store_simulation import built, check_seen, linked, seeds

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
SEEDS = 18000
# What is planted: the file, copies and extents of the store, what stands there, and what stands there instead.
PLANTED = {
    "a decision at one extent is enough": ("commit", "1x2", "if (m->done != m->parts)", "if (!m->done)"),
    "the copies of one extent are enough": (
        "commit",
        "2x2",
        "if (m->done != m->parts)",
        "if (!(m->done & 3) && !(m->done & 12))",
    ),
    "the words of one extent alone decide": (
        "record",
        "1x2",
        "return n ? resolve_post(m, n, RESOLVE_ASKS) : decide(m, e);",
        "m->parts = read;\n    return decide(m, e);",
    ),
    "a client is dead where it is fenced at one extent": (
        "simulation",
        "1x2",
        "    c->fenced |= 1u << node;\n",
        "    c->fenced |= 1u << node;\n    if (c->env.slot != NOWHERE && c->fenced & 1)\n"
        "        places[c->env.slot].dead = true;\n",
    ),
    "the record is written in one extent": (
        "commit",
        "1x2",
        ".nbytes = record_bytes(m->record.n)}",
        ".nbytes = 1ull << k == (m->parts & -m->parts) ? record_bytes(m->record.n) : 8}",
    ),
    "the word is prepared in one extent": (
        "commit",
        "1x2",
        "tx_word(e->words->seq, TX_PREPARED));\n    return n;",
        "1ull << k == (m->parts & -m->parts) ? tx_word(e->words->seq, TX_PREPARED) : 0);\n    return n;",
    ),
    "the slots of extents differ": (
        "commit",
        "1x2",
        "store_swap_op(e, k, word_at(e->shape, e->slot), e->words->at[k]",
        "store_swap_op(e, k, word_at(e->shape, (e->slot + extent) % e->shape->slots), e->words->at[k]",
    ),
    "a newcomer goes on from the number at the first extent": (
        "simulation",
        "1x2",
        "if (tx_seq(c->words.at[k]) > c->words.seq)",
        "if (!k && tx_seq(c->words.at[k]) > c->words.seq)",
    ),
    "locks of the first extent alone are swept": (
        "resolve",
        "1x2",
        "if (m->extent == e->shape->extents)",
        "if (m->extent == 1)",
    ),
    "frames of one extent are used in another": ("page", "1x2", "m->extent = extent_of(", "m->extent = 0 * extent_of("),
    "an unlock goes to the first extent": (
        "put",
        "2x2",
        "store_swap_head(e, k, due->number, due->lock",
        "store_swap_op(e, k, head_of_page_at(e->shape, due->number), due->lock",
    ),
    "the other copies of one extent are asked": (
        "put",
        "2x2",
        "all |= places_of(e, extent_of(e->shape, changes[i].number));",
        "all = places_of(e, extent_of(e->shape, changes[i].number));",
    ),
    "a recovery decides for each extent by its own words": (
        "recover",
        "2x2",
        "        for (uint32_t k = 0; k < copies_of_page(e, page_number(c->pid)); k++) {\n            uint64_t head",
        "        m->commits = false;\n        for (uint32_t k = 0; k < copies_of_page(e, page_number(c->pid)); k++)\n"
        "            m->commits |= m->said[place_of(e, page_number(c->pid), k)][m->slot] ==\n"
        "                          tx_word(m->record->seq, TX_COMMITTED);\n        to = m->commits ? c->to : c->from;\n"
        "        for (uint32_t k = 0; k < copies_of_page(e, page_number(c->pid)); k++) {\n            uint64_t head",
    ),
    "a recovery ignores the words of all participants but one": (
        "recover",
        "2x2",
        "m->commits |= m->said",
        "m->commits |= k < first_of(e, 1) && m->said",
    ),
    "the words agree in one extent when pages of all change": (
        "recover",
        "2x2",
        "if (tx_seq(m->said[k][m->slot]) == seq && ",
        "if (k < first_of(e, 1) && tx_seq(m->said[k][m->slot]) == seq && ",
    ),
    "pages change in all extents before the words agree": (
        "recover",
        "3x2",
        "return n ? post(m, n, RECOVER_AGREES) : read_pages(m, e);",
        "(void)n;\n    return read_pages(m, e);",
    ),
    "the last transaction is that of the first extent": (
        "recover",
        "2x2",
        "    for (uint32_t k = 0; k < store_places(e); k++)\n        if (tx_seq(m->said[k][m->slot]) > seq)",
        "    for (uint32_t k = 0; k < first_of(e, 1); k++)\n        if (tx_seq(m->said[k][m->slot]) > seq)",
    ),
    "a recovery takes the record of the first extent alone": (
        "recover",
        "2x2",
        "if (!m->record && tx_seq(",
        "if (k < first_of(e, 1) && !m->record && tx_seq(",
    ),
    "a record counts where the word has another number": (
        "recover",
        "2x3",
        "tx_seq(m->said[k][m->slot]) == seq && is_of(",
        "is_of(",
    ),
    "the heads of the first extent alone are recovered": (
        "recover",
        "2x2",
        "if (++m->extent < e->shape->extents)",
        "if (0)",
    ),
    "what clients had in the first extent alone is taken": (
        "recover",
        "2x2",
        "return ++m->extent < e->shape->extents ? read_chunks(m, e) : read_state(m, e);",
        "return read_state(m, e);",
    ),
    "an allocation takes pages of extents of one copy with others": (
        "allocate",
        "2x2",
        "if (!n || its == puts)",
        "if (1)",
    ),
    "a change goes to as many copies in each extent": (
        "put",
        "3x2",
        "(1u << copies_of_page(e, c->number)) - 1",
        "(1u << e->copies) - 1",
    ),
    "a transaction goes to as many copies in each extent": (
        "commit",
        "3x2",
        "if (tx_changes(p) && k < copies_of(e, extent_of_page(p, e)))",
        "if (tx_changes(p))",
    ),
    "extents have one primary": ("recover", "2x2", "next[1] = m->members[extent];", "next[1] = m->members[0];"),
}


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return built(tmp_path_factory.mktemp("extents"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("extents", ["1x2", "1x3", "2x2", "2x3", "3x2", "3x3"])
def test_nothing_is_seen_where_nothing_is_planted(objects, tmp_path, extents):
    done = seeds(linked(objects, tmp_path / "plain"), extents, 1000, 500)
    assert done.returncode == 0 and done.stdout == "ok\n", done.stdout + done.stderr


@pytest.mark.timeout(600)
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_seen(objects, tmp_path, bug):
    name, extents, old, new = PLANTED[bug]
    check_seen(objects, tmp_path, (name, old, new), extents, SEEDS)
