/*
 * The ops of a client, where a store has several copies. What is due, the end of locks whose changes are done, goes
 * along with the next posting, and is started at the end of a call, so that other clients need not wait for the next
 * one. It is collected after a later posting to the primary: that is the same connection, so no call waits for it.
 */
#include "posting.h"

#include "../core/remote.h"
#include "../objects/member.h"
#include "../objects/sure.h"

#include <stdlib.h>
#include <string.h>

enum { POSTING_MOST = (STORE_COPIES_MOST + 1) * PER_CHUNK };

struct store_posting {
    dsm_op list[STORE_DUES + POSTING_MOST];
    dsm_op started[STORE_DUES];
    uint32_t n; /* of them */
    dsm_ticket *ticket;
    uint32_t failed; /* the copy of the op that has failed last, or copies */
    uint32_t slot;   /* of the lock whose holder was not proven dead, */
    uint64_t holder; /* and its identity; 0: none */
};

struct store_posting *posting_new(void) { return calloc(1, sizeof(struct store_posting)); }
void posting_free(struct store_posting *p) { free(p); }

void posting_begin(dsm_store *s)
{
    s->posting->failed = s->env.copies;
    s->posting->holder = 0;
}

uint32_t posting_failed(const dsm_store *s) { return s->posting->failed < s->env.copies ? s->posting->failed : 0; }

/* ---- posting ---- */

static uint32_t copy_of(const dsm_store *s, const dsm_op *op)
{
    uint32_t k = 0;
    while (k < s->env.copies && s->at[k] != op->remote)
        k++;
    return k;
}

static void execute(dsm_store *s, dsm_op *ops, uint32_t n)
{
    uint64_t nbytes = 0;
    size_t failed = 0;
    for (uint32_t i = 0; i < n; i++)
        nbytes += ops[i].nbytes;
    if (dsm_execute(s->at[0]->ctx, ops, n, remote_timeout_for(s->at[0], nbytes), &failed))
        s->posting->failed = copy_of(s, &ops[failed]);
}

void posting_collect(dsm_store *s)
{
    struct store_posting *p = s->posting;
    if (!p->ticket)
        return;
    dsm_finish(p->ticket, remote_timeout(s->at[0]), NULL);
    p->ticket = NULL;
    store_due_done(&s->env, p->started, p->n);
}

void posting_execute(dsm_store *s, dsm_op *ops, uint32_t n)
{
    struct store_posting *p = s->posting;
    uint32_t due = p->ticket ? 0 : store_due_ops(&s->env, p->list, STORE_DUES);
    bool primary = false;
    memcpy(p->list + due, ops, n * sizeof *ops);
    execute(s, p->list, due + n);
    memcpy(ops, p->list + due, n * sizeof *ops);
    store_due_done(&s->env, p->list, due);
    for (uint32_t i = 0; i < n; i++)
        primary |= ops[i].remote == s->at[0];
    if (primary)
        posting_collect(s);
}

void posting_unlock(dsm_store *s)
{
    struct store_posting *p = s->posting;
    if (!s->dues.n)
        return;
    posting_collect(s);
    p->n = store_due_ops(&s->env, p->started, STORE_DUES);
    if (p->n && dsm_submit(s->at[0]->ctx, p->started, p->n, &p->ticket, NULL))
        p->ticket = NULL; /* they stay due */
}

/* ---- locks ---- */

int posting_sweep(dsm_store *s, uint32_t slot, uint32_t mark)
{
    struct store_sweep m = {.slot = slot, .mark = mark};
    struct store_env env = s->env;
    store_ask(&env);
    while (store_sweep_step(&m, &env) == STORE_POST)
        posting_execute(s, m.ops, m.n);
    return posting_explain(s, m.status);
}

int posting_settle(dsm_store *s)
{
    int rc = 0;
    posting_collect(s);
    for (int tries = 0; s->dues.n && !rc && tries < SURE_TRIES; tries++) {
        struct store_posting *p = s->posting;
        uint32_t n = store_due_ops(&s->env, p->list, STORE_DUES);
        size_t failed;
        rc = err_known(dsm_execute(s->at[0]->ctx, p->list, n, remote_timeout(s->at[0]), &failed));
        store_due_done(&s->env, p->list, n);
    }
    if (s->dues.n || s->dues.kept) {
        rc = posting_sweep(s, s->env.slot, s->env.mark);
        if (!rc)
            s->dues = (struct store_dues){.n = 0};
    }
    return rc;
}

/* 1: proven, at each copy. 0: it is not; or the slot has been taken over, and that has resolved the lock. */
static int holder_is_dead(dsm_store *s, uint64_t lock)
{
    struct store_posting *p = s->posting;
    uint32_t slot = head_state(lock) - 1;
    p->holder = 0;
    for (uint32_t k = 0; k < s->env.copies; k++) {
        uint64_t word;
        int rc = sure_read(s->at[k], slot_at(slot), &word, sizeof word);
        if (rc) {
            p->failed = k;
            return rc;
        }
        if (!k && store_mark(word) != head_low(lock))
            return 0;
        if (word && !member_ended(s->at[k], word)) {
            p->holder = word;
            p->slot = slot;
            return 0;
        }
    }
    return 1;
}

int posting_recover(dsm_store *s, uint64_t number, uint64_t lock)
{
    struct store_resolve m = {.number = number, .lock = lock};
    struct store_env env = s->env;
    int rc = holder_is_dead(s, lock);
    if (rc <= 0)
        return rc;
    store_ask(&env);
    while (store_resolve_step(&m, &env) == STORE_POST)
        posting_execute(s, m.ops, m.n);
    return m.status;
}

/* ---- what is said ---- */

static bool is_of_a_copy(int rc)
{
    return rc == -DSM_EPEER || rc == -DSM_EIO || rc == -DSM_ETIME || rc == -DSM_ESTALE || rc == -DSM_EFENCED ||
           rc == -DSM_ECANCELED || rc == -DSM_EUNKNOWN || rc == -DSM_EPATH;
}

int posting_explain(dsm_store *s, int rc)
{
    struct store_posting *p = s->posting;
    dsm_failure f = *dsm_last_error();
    if (is_of_a_copy(rc) && p->failed < s->env.copies) {
        const char *at = dsm_remote_address(s->at[p->failed]);
        rc =
            err_set_op(f.code, f.cause, f.status, f.vendor, "copy %u of the store, at %s: %s", p->failed, at, f.detail);
    } else if (rc == -DSM_EBUSY && p->holder) {
        char name[MEMBER_TEXT];
        rc = err_set(DSM_EBUSY, 0, "%s; it is in slot %u, held by %s, which is not proven dead", f.detail, p->slot,
                     member_describe(p->holder, name));
    }
    return rc;
}
