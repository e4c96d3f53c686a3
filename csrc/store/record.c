/*
 * The locks that a transaction has left, whose client is dead or does not know what has become of it. Its record says
 * which pages it changes, and is there before the first of them is locked, at the primary of that page. Its word at
 * each copy of each extent in which it changes pages says whether it was committed. Committed at any of these: all its
 * changes are made. Otherwise none: no caller was told that they were.
 *
 * Every step is a compare-swap from what was found, and no lock, head or word of transactions comes twice once the
 * client is dead. So several clients may resolve one transaction, and a late one does no harm.
 */
#include "resolve.h"

/* The record last: one of a later transaction of the slot, which may be being written, is not whole or has another
 * number than the word that was read before. */
static enum store_next read_record(struct store_resolve *m, const struct store_env *e)
{
    if (m->lock) {
        m->slot = head_locker(m->lock);
        m->mark = head_low(m->lock);
    }
    uint32_t n = 0, first = place_of(e, m->number, 0);
    for (uint32_t k = first; k < first + copies_of_page(e, m->number); k++)
        m->ops[n++] = store_look_op(e, k, word_at(e->shape, m->slot), &m->words[k]);
    m->ops[n++] = store_read_op(e, first, record_at(e->shape, m->slot), &m->record, sizeof m->record);
    return resolve_post(m, n, RESOLVE_READS);
}

/* Whether the lock is still there: if not, another client has resolved it, and the slot may be another one's. */
static enum store_next check(struct store_resolve *m, const struct store_env *e)
{
    if (!m->lock)
        return resolve_end(m, 0);
    return resolve_look_at_lock(m, e, RESOLVE_CHECKS);
}

static uint64_t lock_of(const struct store_resolve *m, const struct tx_change *c)
{
    return head_transaction_lock(c->from, m->slot, m->mark);
}

/* The record is whole, of the transaction that the word at the primary names, and of the lock. */
static bool fits(const struct store_resolve *m, const struct store_env *e)
{
    const struct tx_record *r = &m->record;
    bool found = !m->lock;
    if (!record_is_whole(r) || r->seq != tx_seq(m->words[place_of(e, m->number, 0)]) || r->mark != m->mark)
        return false;
    for (uint32_t i = 0; i < r->n; i++) {
        if (page_number(r->of[i].pid) >= store_pages(e->shape))
            return false;
        found |= page_number(r->of[i].pid) == m->number && lock_of(m, &r->of[i]) == m->lock;
    }
    return found;
}

/* A copy has a later transaction of the slot: this one was resolved before that began. */
static bool has_moved_on(const struct store_resolve *m)
{
    bool later = false;
    for (uint64_t left = m->parts; left; left &= left - 1)
        later |= tx_seq(m->words[__builtin_ctzll(left)]) > m->record.seq;
    return later;
}

static enum store_next change(struct store_resolve *m, const struct store_env *e);

/* A copy that the transaction has not reached has an older word, and keeps it. */
static enum store_next decide(struct store_resolve *m, const struct store_env *e)
{
    uint32_t n = 0;
    if (has_moved_on(m))
        return check(m, e);
    if (m->slot == e->slot && m->mark == e->mark)
        e->words->unsure |= m->parts;
    m->commits = false;
    for (uint64_t left = m->parts; left; left &= left - 1) {
        uint32_t k = (uint32_t)__builtin_ctzll(left);
        m->commits |= m->words[k] == tx_word(m->record.seq, TX_COMMITTED);
    }
    for (uint64_t left = m->parts; left; left &= left - 1) {
        uint32_t k = (uint32_t)__builtin_ctzll(left);
        if (m->words[k] == tx_word(m->record.seq, TX_PREPARED))
            m->ops[n++] = store_swap_op(e, k, word_at(e->shape, m->slot), m->words[k],
                                        tx_word(m->record.seq, m->commits ? TX_COMMITTED : TX_ABORTED));
    }
    m->at = 0;
    return n ? resolve_post(m, n, RESOLVE_DECIDES) : change(m, e);
}

/* The record names the extents that take part. Their words are read after it, and after the proof of the client's
 * death: none of them becomes committed any more but by a client that has found one that is. */
static enum store_next ask_parts(struct store_resolve *m, const struct store_env *e)
{
    uint32_t n = 0;
    if (!fits(m, e))
        return check(m, e);
    m->parts = 0;
    for (uint32_t i = 0; i < m->record.n; i++)
        m->parts |= places_of(e, extent_of(e->shape, page_number(m->record.of[i].pid)));
    uint64_t read = places_of(e, extent_of(e->shape, m->number));
    for (uint64_t left = m->parts & ~read; left; left &= left - 1) {
        uint32_t k = (uint32_t)__builtin_ctzll(left);
        m->ops[n++] = store_look_op(e, k, word_at(e->shape, m->slot), &m->words[k]);
    }
    return n ? resolve_post(m, n, RESOLVE_ASKS) : decide(m, e);
}

static enum store_next decided(struct store_resolve *m, const struct store_env *e)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (m->ops[i].result != m->ops[i].operand && m->ops[i].result != m->ops[i].desired)
            return check(m, e);
    return change(m, e);
}

/* ---- its pages ---- */

static uint32_t batch(const struct store_resolve *m, const struct store_env *e)
{
    uint32_t left = m->record.n - m->at, most = RESOLVE_OPS / e->copies;
    return left < most ? left : most;
}

static enum store_next unlock(struct store_resolve *m, const struct store_env *e)
{
    uint32_t n = batch(m, e);
    for (uint32_t i = 0; i < n; i++) {
        const struct tx_change *c = &m->record.of[m->at + i];
        m->ops[i] = store_swap_head(e, 0, page_number(c->pid), lock_of(m, c), m->commits ? c->to : c->from);
    }
    return resolve_post(m, n, RESOLVE_UNLOCKS);
}

/* One that has a later version is refused: the lock of the page is gone. */
static enum store_next replace_more(struct store_resolve *m, const struct store_env *e)
{
    bool all;
    uint32_t left = replaced(m->ops, m->n, &all);
    return left ? resolve_post(m, left, RESOLVE_COPIES) : unlock(m, e);
}

/* A page that is not locked any more is refused: its backups have changed before. */
static enum store_next change(struct store_resolve *m, const struct store_env *e)
{
    uint32_t n = 0, pages = batch(m, e);
    if (!pages)
        return resolve_end(m, 0);
    for (uint32_t i = 0; m->commits && i < pages; i++)
        for (uint32_t k = 1; k < copies_of_page(e, page_number(m->record.of[m->at + i].pid)); k++) {
            const struct tx_change *c = &m->record.of[m->at + i];
            m->ops[n++] = store_swap_head(e, k, page_number(c->pid), c->from, c->to);
        }
    return n ? resolve_post(m, n, RESOLVE_COPIES) : unlock(m, e);
}

static enum store_next checked(struct store_resolve *m)
{
    if (m->heads[0] != m->lock)
        return resolve_end(m, 0);
    return resolve_end(m, err_set(DSM_ECORRUPT, 0, "page number %llu is locked by a transaction that has no record",
                                  (unsigned long long)m->number));
}

enum store_next store_resolve_transaction_step(struct store_resolve *m, struct store_env *e)
{
    bool again;
    int status = resolve_failed(m, &again);
    if (status)
        return again ? read_record(m, e) : resolve_end(m, err_known(status));
    switch (m->step) {
    case RESOLVE_BEGINS:
    case RESOLVE_PROVES:
        return read_record(m, e);
    case RESOLVE_READS:
        return ask_parts(m, e);
    case RESOLVE_ASKS:
        return decide(m, e);
    case RESOLVE_DECIDES:
        return decided(m, e);
    case RESOLVE_COPIES:
        return replace_more(m, e);
    case RESOLVE_UNLOCKS:
        m->at += batch(m, e);
        return change(m, e);
    default:
        return checked(m);
    }
}
