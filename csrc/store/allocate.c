/*
 * Allocation: a free head becomes an empty one. Any client may take any free page; each begins at another place, so
 * that they rarely meet. It goes on where it was: what is left of the heads that it has read is tried first. A free
 * head says all of itself, however long ago it was read.
 */
#include "../base/error.h"
#include "machine.h"

enum { PASSES = 4, PAUSE = 20000000 }; /* over all heads, while locks are met; ns between them */

static enum store_next end(struct store_allocation *m, int status)
{
    m->status = status;
    return STORE_DONE;
}

static enum store_next post(struct store_allocation *m, uint32_t n, int step)
{
    m->n = n;
    m->step = step;
    return STORE_POST;
}

static dsm_op swap_of(const struct store_env *e, uint64_t number, uint64_t from, uint64_t to)
{
    return store_swap_op(e, 0, head_at(e->shape, number), from, to);
}

/* The changes at hand, where there are several copies. */
static enum store_next put(struct store_allocation *m, struct store_env *e, int step)
{
    m->step = step;
    enum store_next next = store_put_step(&m->put, m->changes, m->ops, NULL, e);
    m->n = m->put.n;
    m->sleep_ns = m->put.sleep_ns;
    return next;
}

static void begin_put(struct store_allocation *m, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        m->changes[i] =
            (struct store_change){.number = m->changes[i].number, .from = m->changes[i].from, .to = m->changes[i].to};
    m->put = (struct store_put){.count = n};
}

/* So many that their ops have room. */
static uint32_t batch(const struct store_env *e) { return e->copies > 2 ? PER_CHUNK / (e->copies - 1) : PER_CHUNK; }

/* ---- giving back what it has, if it can't have all ---- */

static enum store_next undo(struct store_allocation *m, const struct store_env *e)
{
    uint32_t n = m->have < batch(e) ? (uint32_t)m->have : batch(e);
    for (uint32_t i = 0; i < n; i++)
        m->ops[i] = store_look_op(e, 0, head_at(e->shape, page_number(m->ids[m->have - n + i])), &m->heads[i]);
    return n ? post(m, n, ALLOCATION_RETURNS) : end(m, m->cause);
}

/* A page of its own that is still locked, since the unlock was not read in its turn or is kept, stays allocated. */
static enum store_next give_back(struct store_allocation *m, struct store_env *e)
{
    uint32_t changes = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        uint64_t pid = m->ids[--m->have], head = m->heads[m->n - 1 - i];
        uint64_t next = head_of(HEAD_FREE, head_version(head) + 1, generation_after(page_generation(pid)));
        if (e->copies == 1)
            m->ops[i] = swap_of(e, page_number(pid), head, next);
        else if (!head_locked(head))
            m->changes[changes++] = (struct store_change){.number = page_number(pid), .from = head, .to = next};
    }
    if (e->copies == 1)
        return post(m, m->n, ALLOCATION_UNDOES);
    if (!changes)
        return undo(m, e);
    begin_put(m, changes);
    return put(m, e, ALLOCATION_UNPUTS);
}

/* ---- taking ---- */

static enum store_next look(struct store_allocation *m, const struct store_env *e);

/* No other page is free. What its holder has locked it may be about to free, or it is dead. All heads are read again.
 */
static enum store_next wait_for_lock(struct store_allocation *m)
{
    m->sleep_ns = PAUSE;
    m->step = ALLOCATION_WAITS;
    return m->passes++ ? STORE_RECOVER : STORE_SLEEP;
}

/* The lock may be a mixture, and its holder no client. */
static enum store_next prove_lock(struct store_allocation *m, const struct store_env *e)
{
    m->ops[0] = store_look_op(e, 0, head_at(e->shape, m->locked), &m->heads[0]);
    return post(m, 1, ALLOCATION_PROVES);
}

static enum store_next look_from_start(struct store_allocation *m, const struct store_env *e)
{
    m->looked = 0;
    m->lock = 0;
    return look(m, e);
}

static enum store_next look(struct store_allocation *m, const struct store_env *e)
{
    struct store_heads *h = e->heads;
    uint64_t pages = e->shape->pages;
    if (m->looked >= pages && m->lock && m->passes < PASSES)
        return e->mixes ? prove_lock(m, e) : wait_for_lock(m);
    if (m->looked >= pages) {
        m->cause = err_set(DSM_ESTOREFULL, 0, "%llu pages, and fewer than %llu are free", (unsigned long long)pages,
                           (unsigned long long)m->want);
        return undo(m, e);
    }
    h->at = (h->at + h->got) % pages;
    h->got = pages - h->at < PER_CHUNK ? (uint32_t)(pages - h->at) : PER_CHUNK;
    m->ops[0] = store_read_op(e, 0, head_at(e->shape, h->at), h->words, sizeof *h->words * (uint64_t)h->got);
    return post(m, 1, ALLOCATION_LOOKS);
}

/* A mixture may have a state that there is not. */
static bool may_be_locked(const struct store_env *e, uint64_t head)
{
    return head_locked(head) || (e->mixes && head_state(head) > HEAD_LOCKED_MOST && head_state(head) < HEAD_EMPTY);
}

static enum store_next take(struct store_allocation *m, struct store_env *e)
{
    const struct store_heads *h = e->heads;
    uint32_t n = 0, most = batch(e);
    for (uint32_t i = 0; i < h->got && n < m->want - m->have && n < most; i++) {
        uint64_t head = h->words[i], next = head_of(HEAD_EMPTY, head_version(head) + 1, head_low(head));
        if (may_be_locked(e, head) && !m->lock) {
            m->lock = head;
            m->locked = h->at + i;
        }
        if (head_state(head) != HEAD_FREE || !head_low(head))
            continue;
        m->changes[n] = (struct store_change){.number = h->at + i, .from = head, .to = next};
        m->ops[n++] = swap_of(e, h->at + i, head, next);
    }
    if (!n)
        return look(m, e);
    if (e->copies == 1)
        return post(m, n, ALLOCATION_SWAPS);
    begin_put(m, n);
    return put(m, e, ALLOCATION_PUTS);
}

static enum store_next looked(struct store_allocation *m, struct store_env *e)
{
    if (m->ops[0].status) {
        e->heads->got = 0;
        m->cause = m->ops[0].status;
        return undo(m, e);
    }
    m->looked += e->heads->got;
    return take(m, e);
}

/* The page is empty, and this client knows it. */
static void had(struct store_allocation *m, const struct store_env *e, uint64_t number, uint64_t head)
{
    m->ids[m->have++] = page_id(head_low(head), number);
    m->passes = 0;
    if (e->hints)
        e->hints[number] = (struct store_hint){.version = head_version(head),
                                               .empty = true,
                                               .generation = head_low(head),
                                               .time = (uint16_t)(e->now / 1000000000)};
}

static enum store_next proven(struct store_allocation *m, const struct store_env *e)
{
    if (m->ops[0].status) {
        m->cause = m->ops[0].status;
        return undo(m, e);
    }
    m->lock = m->heads[0];
    if (head_locked(m->lock))
        return wait_for_lock(m);
    m->passes++;
    return look_from_start(m, e);
}

/* A page is had if its swap has certainly succeeded. One whose answer was lost may stay allocated. */
static enum store_next taken(struct store_allocation *m, struct store_env *e)
{
    struct store_heads *h = e->heads;
    int status = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        const dsm_op *op = &m->ops[i];
        bool is_had = !op->status && op->result == op->operand;
        uint64_t number = (op->offset - e->shape->heads) / 8;
        h->words[number - h->at] = op->status ? 0 : is_had ? op->desired : op->result;
        if (is_had)
            had(m, e, number, op->desired);
        if (op->status && (!status || status == -DSM_ECANCELED))
            status = op->status;
    }
    m->cause = status;
    if (status)
        return undo(m, e);
    return m->have == m->want ? end(m, 0) : take(m, e);
}

/* The same, where there are several copies. */
static enum store_next have_put(struct store_allocation *m, struct store_env *e)
{
    for (uint32_t i = 0; i < m->put.count; i++) {
        const struct store_change *c = &m->changes[i];
        uint64_t *head = &e->heads->words[c->number - e->heads->at];
        *head = c->is == CHANGE_DONE ? c->to : c->is == CHANGE_REFUSED ? c->found : 0;
        if (c->is == CHANGE_DONE)
            had(m, e, c->number, c->to);
    }
    m->cause = m->put.status;
    if (m->cause)
        return undo(m, e);
    return m->have == m->want ? end(m, 0) : take(m, e);
}

/* The first place is far from other clients', whatever their number is: golden ratio. */
static enum store_next begin(struct store_allocation *m, struct store_env *e)
{
    if (!m->want)
        return end(m, 0);
    if (!e->heads->got)
        e->heads->at = (e->slot * 0x9e3779b97f4a7c15ull >> 32) % e->shape->pages;
    return take(m, e);
}

enum store_next store_allocate_step(struct store_allocation *m, struct store_env *e)
{
    store_looked(e, m->ops, m->n);
    switch (m->step) {
    case ALLOCATION_BEGINS:
        return begin(m, e);
    case ALLOCATION_LOOKS:
        return looked(m, e);
    case ALLOCATION_SWAPS:
        return taken(m, e);
    case ALLOCATION_PUTS: {
        enum store_next next = put(m, e, ALLOCATION_PUTS);
        return next == STORE_DONE ? have_put(m, e) : next;
    }
    case ALLOCATION_UNPUTS: {
        enum store_next next = put(m, e, ALLOCATION_UNPUTS);
        return next == STORE_DONE ? undo(m, e) : next;
    }
    case ALLOCATION_PROVES:
        return proven(m, e);
    case ALLOCATION_WAITS:
        return look_from_start(m, e);
    case ALLOCATION_RETURNS:
        return m->ops[0].status ? end(m, m->cause) : give_back(m, e);
    default:
        return undo(m, e);
    }
}
