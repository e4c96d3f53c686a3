/*
 * Changes in doubt of a simulated store. In a later epoch their pages are asked what has become of them, also after
 * others have changed them, and the history must have it so.
 */
#ifndef TESTS_STORE_DOUBTS_H
#define TESTS_STORE_DOUBTS_H

#include "store/doubt.h"
#include "store_epoch.h"

enum { DOUBTS = 64 };
static struct in_doubt {
    dsm_store_doubt of[PAGES];
    uint64_t values[PAGES]; /* 0: the page is freed */
    uint32_t n;
    uint64_t epoch;
} doubts[DOUBTS];
static uint32_t n_doubts;

static void note_op_in_doubt(const struct client *c)
{
    if (!c->op.doubt.pid || n_doubts == DOUBTS)
        return;
    doubts[n_doubts++] = (struct in_doubt){.of = {c->op.doubt}, .values = {c->value}, .n = 1, .epoch = epoch};
}

/* Not one that has ended before its commit. */
static void note_transaction_in_doubt(const struct transaction *t)
{
    if (n_doubts == DOUBTS || t->phase != TX_COMMITS || t->commit.step != COMMIT_SWAPS)
        return;
    struct in_doubt *d = &doubts[n_doubts++];
    *d = (struct in_doubt){.epoch = epoch};
    for (uint32_t i = 0; i < t->want; i++) {
        const struct tx_page *p = &t->pages[i];
        if (!tx_changes(p))
            continue;
        d->of[d->n] = (dsm_store_doubt){.pid = p->pid, .from = p->head, .to = p->to, .version = p->version + 1};
        memcpy(d->of[d->n].header, &p->header, sizeof p->header);
        d->values[d->n++] = p->writes ? t->floors[i] : 0;
    }
}

/* At one instant. False: a client is changing the page. */
static bool ask(struct store_outcome *m)
{
    struct store_env e = {
        .shape = &shape, .slot = NOWHERE, .copies = copies, .first = first, .at = at, .mixes = mixes, .now = now};
    for (;;) {
        enum store_next next = store_outcome_step(m, &e);
        if (next != STORE_POST)
            return next == STORE_DONE;
        for (uint32_t i = 0; i < m->n; i++) {
            dsm_op *op = &m->ops[i];
            REQUIRE(op->offset + op->nbytes <= shape.nbytes && !op->second_nbytes, "an op out of bounds");
            memcpy(op->code == DSM_OP_READ ? op->local : &op->result, memory[node_of(op)] + op->offset, op->nbytes);
            op->status = 0;
        }
    }
}

static void ask_about(uint32_t k)
{
    static struct store_outcome m;
    struct in_doubt d = doubts[k];
    memset(&m, 0, offsetof(struct store_outcome, look));
    m.of = d.of;
    m.count = d.n;
    if (d.epoch == epoch || !ask(&m))
        return;
    REQUIRE(!m.status, "a change in doubt: status %d", m.status);
    if (traced)
        printf("%ld: %u changes in doubt, of page %llx: %d\n", steps_done, d.n, (unsigned long long)d.of[0].pid, m.is);
    for (uint32_t i = 0; i < d.n; i++)
        if (d.values[i] && m.is == DSM_STORE_DONE)
            learn(d.of[i].pid, d.of[i].version, d.values[i]);
        else if (d.values[i] && m.is == DSM_STORE_NOT_DONE)
            forget(d.values[i]);
    doubts[k] = doubts[--n_doubts];
}

static void ask_sometimes(void)
{
    if (n_doubts && chance(20) == 0)
        ask_about((uint32_t)chance(n_doubts));
}

static void ask_about_all(void)
{
    for (uint32_t k = n_doubts; k--;)
        ask_about(k);
}

#endif
