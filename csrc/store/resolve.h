/* What the machines that resolve locks share: of single changes (resolve.c) and of transactions (record.c). */
#ifndef DSM_STORE_RESOLVE_H
#define DSM_STORE_RESOLVE_H

#include "../base/error.h"
#include "machine.h"

static inline enum store_next resolve_end(struct store_resolve *m, int status)
{
    m->status = status;
    return STORE_DONE;
}

static inline enum store_next resolve_post(struct store_resolve *m, uint32_t n, int step)
{
    m->n = n;
    m->step = step;
    return STORE_POST;
}

static inline enum store_next resolve_look_at_lock(struct store_resolve *m, const struct store_env *e, int step)
{
    m->ops[0] = store_look_at_head(e, m->copy, m->number, &m->heads[m->copy]);
    return resolve_post(m, 1, step);
}

/* Whether a backup may have this while a transaction that makes 'to' is committed: the head before; or the lock of
 * another change of that, which has lost; or the lock of the change that has made it, whose unlock is late. */
static inline bool gives_way(uint64_t word, uint64_t to)
{
    int64_t behind = versions_ahead(to, word);
    return behind == 1 || (behind == 2 && head_locked(word));
}

/* Compare-swaps of heads at backups, which a transaction that is committed replaces: those that have found another word
 * that gives way are to be sent again, from that; they are in front then. A lock there is of a change that was
 * made, whose unlock is late, or of one that has lost. *all: the others have done what they should. Returns how many.
 */
static inline uint32_t replaced(dsm_op *ops, uint32_t n, bool *all)
{
    uint32_t left = 0;
    *all = true;
    for (uint32_t i = 0; i < n; i++) {
        dsm_op *op = &ops[i];
        bool is_there = op->result == op->operand || op->result == op->desired;
        bool again = !op->status && !is_there && gives_way(op->result, op->desired);
        *all &= again || (!op->status && is_there);
        if (!again)
            continue;
        op->operand = op->result;
        ops[left++] = *op;
    }
    return left;
}

/* The last of these that the lock can have: an earlier one was written for a change that is known not to have been
 * made, or to have been made. NULL: none. */
static inline const struct store_intent *intent_of(const struct store_intent *intents, uint64_t number, uint64_t lock)
{
    const struct store_intent *last = NULL;
    for (uint32_t i = 0; i < INTENTS; i++)
        if (intent_fits(&intents[i], number, lock) && (!last || intents[i].seq > last->seq))
            last = &intents[i];
    return last;
}

/* Whether an op of the last posting has failed, and how. What was lost is found out by reading again: *again. */
static inline int resolve_failed(struct store_resolve *m, bool *again)
{
    enum { TRIES = 8 };
    int status = 0;
    for (uint32_t i = 0; m->step != RESOLVE_BEGINS && i < m->n && !status; i++)
        status = m->ops[i].status;
    *again = status == -DSM_EUNKNOWN && ++m->tries < TRIES;
    return status;
}

#endif
