/*
 * What a simulated world knows of transactions, and the checker: there is an order of all transactions, and of single
 * operations as transactions of one page, in which each sees what those before it have written, and which keeps the
 * order of those that ended before others began. Versions of pages say what came before what, so such an order exists
 * if these relations have no cycle.
 */
#ifndef TESTS_STORE_SERIAL_H
#define TESTS_STORE_SERIAL_H

#include "store/commit.h"
#include "store_history.h"

enum { TX_PAGES = 4, NODES = 300 };

/* A client is in one. */
struct transaction {
    enum { TX_READS, TX_CLEARS, TX_COMMITS, TX_SETTLES, TX_CLOSES } phase;
    uint32_t want, n, tries; /* pages; ops; commits that were begun */
    struct node *node;
    struct tx_page pages[TX_PAGES];
    uint8_t data[TX_PAGES][PAGE_BYTES];
    uint64_t floors[TX_PAGES];
    struct store_commit commit;
    dsm_op ops[COMMIT_OPS];
};

static struct node {
    enum { MAYBE, DONE, FAILED } is;
    long begins, ends;
    uint32_t n;
    struct {
        uint64_t pid, version, value; /* as it was found; that was written, 0: none */
        bool changes;
    } of[TX_PAGES];
} nodes[NODES];
static uint32_t n_nodes;

/* NULL: there is no room, and this one is not checked. */
static struct node *node_begins(long begins)
{
    if (n_nodes == NODES)
        return NULL;
    nodes[n_nodes] = (struct node){.is = MAYBE, .begins = begins, .ends = -1};
    return &nodes[n_nodes++];
}

static void node_has(struct node *n, uint64_t pid, uint64_t version, bool changes, uint64_t value)
{
    n->of[n->n].pid = pid;
    n->of[n->n].version = version;
    n->of[n->n].changes = changes;
    n->of[n->n++].value = value;
}

/* One whose client did not learn its outcome was made if any of its values was seen; then all of it was. */
static void find_out(struct node *n)
{
    bool made = false;
    for (uint32_t i = 0; i < n->n; i++)
        made |= n->of[i].value && version_of[n->of[i].value] && version_of[n->of[i].value] != NEVER;
    n->is = made ? DONE : FAILED;
    for (uint32_t i = 0; made && i < n->n; i++)
        if (n->of[i].value)
            learn(n->of[i].pid, n->of[i].version + 1, n->of[i].value);
}

static bool is_before(const struct node *a, const struct node *b)
{
    if (a->ends >= 0 && a->ends < b->begins)
        return true;
    for (uint32_t i = 0; i < a->n; i++)
        for (uint32_t k = 0; k < b->n; k++) {
            uint64_t v = a->of[i].version + a->of[i].changes, w = b->of[k].version + b->of[k].changes;
            if (page_number(a->of[i].pid) == page_number(b->of[k].pid) &&
                (v < w || (v == w && a->of[i].changes && !b->of[k].changes)))
                return true;
        }
    return false;
}

enum { UNSEEN, ABOVE, SEEN };

static void visit(uint32_t i, uint8_t *seen)
{
    seen[i] = ABOVE;
    for (uint32_t k = 0; k < n_nodes; k++) {
        if (k == i || nodes[k].is != DONE || seen[k] == SEEN || !is_before(&nodes[i], &nodes[k]))
            continue;
        REQUIRE(seen[k] != ABOVE, "transactions %u and %u have no order: page %llx", i, k,
                (unsigned long long)nodes[i].of[0].pid);
        visit(k, seen);
    }
    seen[i] = SEEN;
}

static void check_order(void)
{
    uint8_t seen[NODES] = {UNSEEN};
    for (uint32_t i = 0; i < n_nodes; i++)
        if (nodes[i].is == MAYBE)
            find_out(&nodes[i]);
    for (uint32_t i = 0; i < n_nodes; i++)
        if (nodes[i].is == DONE && seen[i] == UNSEEN)
            visit(i, seen);
}

#endif
