/*
 * Locks that were left, by a client that is dead or by an op of this client whose outcome is unknown. The backups say
 * what happened: only the holder of a lock changes them, and never back. One that has the next version: the change is
 * made at all. None: it was not made, and no caller was told that it was.
 *
 * Every step is a compare-swap from what was found, so several clients may resolve one lock, and a late one does no
 * harm: a lock never comes twice after its holder's death, and a version of a page neither.
 */
#include "resolve.h"

static enum store_next read_copies(struct store_resolve *m, const struct store_env *e)
{
    uint32_t copies = copies_of_page(e, m->number);
    for (uint32_t k = 1; k < copies; k++)
        m->ops[k - 1] = store_look_at_head(e, k, m->number, &m->heads[k]);
    return resolve_post(m, copies - 1, RESOLVE_READS);
}

static enum store_next unlock(struct store_resolve *m, const struct store_env *e)
{
    m->ops[0] = store_swap_head(e, 0, m->number, m->lock, m->head);
    return resolve_post(m, 1, RESOLVE_UNLOCKS);
}

/* Copies that contradict each other: another client has resolved the lock, and they change; or they are damaged. */
static enum store_next check(struct store_resolve *m, const struct store_env *e)
{
    return resolve_look_at_lock(m, e, RESOLVE_CHECKS);
}

static bool has_version(uint64_t head, uint64_t lock, uint64_t more)
{
    return !head_locked(head) && head_version(head) == ((head_version(lock) + more) & LOW28);
}

/* The new head, if any copy has it, or else the old one. False: they contradict each other. */
static bool decide(struct store_resolve *m, uint32_t copies)
{
    uint64_t of[2] = {0, 0}; /* the old one and the new one */
    bool has[2] = {false, false};
    for (uint32_t k = 1; k < copies; k++) {
        uint64_t head = m->heads[k];
        bool new = has_version(head, m->lock, 1);
        if ((!new && !has_version(head, m->lock, 0)) || (has[new] && of[new] != head))
            return false;
        of[new] = head;
        has[new] = true;
    }
    m->head = of[has[1]];
    return true;
}

static enum store_next found(struct store_resolve *m, const struct store_env *e)
{
    uint32_t n = 0, copies = copies_of_page(e, m->number);
    if (!decide(m, copies))
        return check(m, e);
    for (uint32_t k = 1; k < copies; k++)
        if (m->heads[k] != m->head)
            m->ops[n++] = store_swap_head(e, k, m->number, m->heads[k], m->head);
    return n ? resolve_post(m, n, RESOLVE_COPIES) : unlock(m, e);
}

/* A copy that has moved on meanwhile does so because the lock is gone. */
static enum store_next copied(struct store_resolve *m, const struct store_env *e)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (m->ops[i].result != m->ops[i].operand && m->ops[i].result != m->head)
            return check(m, e);
    return unlock(m, e);
}

static enum store_next checked(struct store_resolve *m)
{
    if (m->heads[0] != m->lock)
        return resolve_end(m, 0);
    return resolve_end(m, err_set(DSM_ECORRUPT, 0, "the copies of page number %llu contradict each other",
                                  (unsigned long long)m->number));
}

enum store_next store_resolve_step(struct store_resolve *m, struct store_env *e)
{
    if (m->step != RESOLVE_BEGINS)
        store_looked(e, m->ops, m->n);
    else if (m->lock && e->mixes) /* it may be a mixture: some are found among many heads */
        return resolve_look_at_lock(m, e, RESOLVE_PROVES);
    if (m->step == RESOLVE_PROVES && !m->ops[0].status && m->heads[0] != m->lock)
        return resolve_end(m, 0);
    if (!m->lock || head_in_transaction(m->lock))
        return store_resolve_transaction_step(m, e);
    bool again;
    int status = resolve_failed(m, &again);
    if (status)
        return again ? read_copies(m, e) : resolve_end(m, err_known(status));
    switch (m->step) {
    case RESOLVE_BEGINS:
    case RESOLVE_PROVES:
        return read_copies(m, e);
    case RESOLVE_READS:
        return found(m, e);
    case RESOLVE_COPIES:
        return copied(m, e);
    case RESOLVE_UNLOCKS:
        return resolve_end(m, 0);
    default:
        return checked(m);
    }
}

/* ---- all locks of one client ---- */

static bool is_of(const struct store_sweep *m, uint64_t head)
{
    return head_locked(head) && head_locker(head) == m->slot && head_low(head) == m->mark;
}

static enum store_next sweep_on(struct store_sweep *m, struct store_env *e)
{
    for (; m->at < m->got; m->at++)
        if (is_of(m, m->heads[m->at])) {
            uint64_t number = number_at(e->shape, m->extent, m->looked + m->at);
            m->resolve = (struct store_resolve){.number = number, .lock = m->heads[m->at]};
            m->step = SWEEP_RESOLVES;
            return store_sweep_step(m, e);
        }
    m->looked += m->got;
    if (m->looked >= e->shape->pages) {
        m->looked = 0;
        m->extent++;
    }
    if (m->extent == e->shape->extents) {
        m->status = 0;
        return STORE_DONE;
    }
    uint64_t left = e->shape->pages - m->looked;
    m->got = left < SWEEP_HEADS ? (uint32_t)left : SWEEP_HEADS;
    m->at = 0;
    m->look = store_read_op(e, first_of(e, m->extent), head_at(e->shape, m->looked), m->heads, 8 * (uint64_t)m->got);
    m->ops = &m->look;
    m->n = 1;
    m->step = SWEEP_LOOKS;
    return STORE_POST;
}

enum store_next store_sweep_step(struct store_sweep *m, struct store_env *e)
{
    if (m->step == SWEEP_RESOLVES) {
        if (store_resolve_step(&m->resolve, e) == STORE_POST) {
            m->ops = m->resolve.ops;
            m->n = m->resolve.n;
            return STORE_POST;
        }
        m->status = m->resolve.status;
        if (m->status)
            return STORE_DONE;
        m->at++;
        if (head_in_transaction(m->resolve.lock)) /* its other locks are gone, too: the rest is read again */
            m->got = m->at;
    } else if (m->step == SWEEP_LOOKS && m->look.status) {
        m->status = m->look.status;
        return STORE_DONE;
    }
    return sweep_on(m, e);
}
