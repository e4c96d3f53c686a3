/*
 * Locks that were left, by a client that is dead or by an op of this client whose outcome is unknown. If it has the
 * primary, the backups say what happened. All have the lock, or one has what it stands for, or a later version: the
 * change may have been acknowledged, and is made at all. Otherwise it was not made, and no caller was told that it was.
 * A lock that is left at a backup alone becomes what it stands for if the primary is past its version, and else what
 * was there before.
 *
 * Every step is a compare-swap from what was found, so several clients may resolve one lock, and a late one does no
 * harm: a lock never comes twice after its holder's death, and a version of a page neither.
 */
#include "resolve.h"

/* The head and the intents of each copy; of a lock at a backup those of the primary and that. */
static enum store_next read_copies(struct store_resolve *m, const struct store_env *e)
{
    uint32_t n = 0, copies = copies_of_page(e, m->number);
    for (uint32_t k = 0; k < copies; k++) {
        if (m->copy && k && k != m->copy)
            continue;
        m->ops[n++] = store_look_at_head(e, k, m->number, &m->heads[k]);
        m->ops[n++] = store_read_op(e, place_of(e, m->number, k), intents_at(e->shape, head_locker(m->lock)),
                                    m->intents[k], sizeof m->intents[k]);
    }
    return resolve_post(m, n, RESOLVE_READS);
}

static enum store_next unlock(struct store_resolve *m, const struct store_env *e)
{
    m->ops[0] = store_swap_head(e, m->copy, m->number, m->lock, m->head);
    return resolve_post(m, 1, RESOLVE_UNLOCKS);
}

/* Copies that contradict each other: another client has resolved the lock, and they change; or they are damaged. */
static enum store_next check(struct store_resolve *m, const struct store_env *e)
{
    return resolve_look_at_lock(m, e, RESOLVE_CHECKS);
}

/* A lock may be that of an earlier change from the same head, which its client has left there: then the intent of this
 * one is not there. */
static bool has_lock(const struct store_resolve *m, const struct store_intent *intent, uint32_t k)
{
    const struct store_intent *there = intent_of(m->intents[k], m->number, m->lock);
    return m->heads[k] == m->lock && there && there->to == intent->to;
}

/* The new head, if the change may have been acknowledged, or else the old one. False: they contradict each other. */
static bool decide(struct store_resolve *m, const struct store_intent *intent, uint32_t copies)
{
    bool all = true, any = false;
    for (uint32_t k = 1; k < copies; k++) {
        uint64_t head = m->heads[k];
        int64_t ahead = versions_ahead(head, m->lock);
        all &= has_lock(m, intent, k);
        if (head == m->lock)
            continue;
        if (!head_locked(head) && ahead <= 0 && head != intent->from)
            return false;
        any |= ahead > 0;
    }
    m->head = all || any ? intent->to : intent->from;
    return true;
}

static enum store_next found(struct store_resolve *m, const struct store_env *e, const struct store_intent *intent)
{
    uint32_t n = 0, copies = copies_of_page(e, m->number);
    if (!decide(m, intent, copies))
        return check(m, e);
    for (uint32_t k = 1; k < copies; k++)
        if (m->heads[k] == m->lock)
            m->ops[n++] = store_swap_head(e, k, m->number, m->lock, m->head);
    return n ? resolve_post(m, n, RESOLVE_COPIES) : unlock(m, e);
}

/* At a backup, and not at the primary. */
static enum store_next found_left(struct store_resolve *m, const struct store_env *e, const struct store_intent *intent)
{
    m->head = versions_ahead(m->heads[0], m->lock) > 0 ? intent->to : intent->from;
    return unlock(m, e);
}

static enum store_next has_read(struct store_resolve *m, const struct store_env *e)
{
    const struct store_intent *intent = intent_of(m->intents[m->copy], m->number, m->lock);
    if (m->heads[m->copy] != m->lock)
        return resolve_end(m, 0);
    if (m->copy && m->heads[0] == m->lock) {
        m->copy = 0;
        return read_copies(m, e);
    }
    if (!intent)
        return check(m, e);
    return m->copy ? found_left(m, e, intent) : found(m, e, intent);
}

static enum store_next checked(struct store_resolve *m)
{
    if (m->heads[m->copy] != m->lock)
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
    if (m->step == RESOLVE_PROVES && !m->ops[0].status && m->heads[m->copy] != m->lock)
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
        return has_read(m, e);
    case RESOLVE_COPIES:
        return unlock(m, e);
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

/* The primary first: what it has says what becomes of the others. */
static void next_copy(struct store_sweep *m, const struct store_env *e)
{
    m->looked = 0;
    if (++m->copy < copies_of(e, m->extent))
        return;
    m->copy = 0;
    m->extent++;
}

static enum store_next sweep_on(struct store_sweep *m, struct store_env *e)
{
    for (; m->at < m->got; m->at++)
        if (is_of(m, m->heads[m->at])) {
            m->resolve.number = number_at(e->shape, m->extent, m->looked + m->at);
            m->resolve.lock = m->heads[m->at];
            m->resolve.copy = m->copy;
            m->resolve.step = RESOLVE_BEGINS;
            m->resolve.tries = 0;
            m->step = SWEEP_RESOLVES;
            return store_sweep_step(m, e);
        }
    m->looked += m->got;
    if (m->looked >= e->shape->pages)
        next_copy(m, e);
    if (m->extent == e->shape->extents) {
        m->status = 0;
        return STORE_DONE;
    }
    uint64_t left = e->shape->pages - m->looked;
    m->got = left < SWEEP_HEADS ? (uint32_t)left : SWEEP_HEADS;
    m->at = 0;
    m->look = store_read_op(e, first_of(e, m->extent) + m->copy, head_at(e->shape, m->looked), m->heads,
                            8 * (uint64_t)m->got);
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
