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
    m->ops[0] = store_look_at_head(e, 0, m->number, &m->heads[0]);
    return resolve_post(m, 1, step);
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
