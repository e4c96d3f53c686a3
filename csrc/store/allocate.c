/*
 * Allocation: a free head becomes an empty one. Any client may take any free page; each begins at another place, so
 * that they rarely meet. It goes on where it was: what is left of the heads that it has read is tried first. A free
 * head says all of itself, however long ago it was read.
 */
#include "../base/error.h"
#include "machine.h"

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

/* ---- giving back what it has, if it can't have all ---- */

static enum store_next undo(struct store_allocation *m, const struct store_env *e)
{
    uint32_t n = m->have < PER_CHUNK ? (uint32_t)m->have : PER_CHUNK;
    for (uint32_t i = 0; i < n; i++)
        m->ops[i] = store_read_op(e, 0, head_at(e->shape, page_number(m->ids[m->have - n + i])), &m->heads[i], 8);
    return n ? post(m, n, ALLOCATION_RETURNS) : end(m, m->cause);
}

static enum store_next give_back(struct store_allocation *m, const struct store_env *e)
{
    for (uint32_t i = 0; i < m->n; i++) {
        uint64_t pid = m->ids[--m->have], head = m->heads[m->n - 1 - i];
        m->ops[i] = swap_of(e, page_number(pid), head,
                            head_of(HEAD_FREE, head_version(head) + 1, generation_after(page_generation(pid))));
    }
    return post(m, m->n, ALLOCATION_UNDOES);
}

/* ---- taking ---- */

static enum store_next look(struct store_allocation *m, const struct store_env *e)
{
    struct store_heads *h = e->heads;
    uint64_t pages = e->shape->pages;
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

static enum store_next take(struct store_allocation *m, const struct store_env *e)
{
    const struct store_heads *h = e->heads;
    uint32_t n = 0;
    for (uint32_t i = 0; i < h->got && n < m->want - m->have; i++) {
        uint64_t head = h->words[i];
        if (head_state(head) == HEAD_FREE && head_low(head))
            m->ops[n++] = swap_of(e, h->at + i, head, head_of(HEAD_EMPTY, head_version(head) + 1, head_low(head)));
    }
    return n ? post(m, n, ALLOCATION_SWAPS) : look(m, e);
}

static enum store_next looked(struct store_allocation *m, const struct store_env *e)
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
static void had(struct store_allocation *m, const struct store_env *e, const dsm_op *op)
{
    uint64_t number = (op->offset - e->shape->heads) / 8;
    m->ids[m->have++] = page_id(head_low(op->operand), number);
    if (e->hints)
        e->hints[number] = (struct store_hint){.version = head_version(op->desired),
                                               .empty = true,
                                               .generation = head_low(op->desired),
                                               .time = (uint16_t)(e->now / 1000000000)};
}

/* A page is had if its swap has certainly succeeded. One whose answer was lost may stay allocated. */
static enum store_next taken(struct store_allocation *m, const struct store_env *e)
{
    struct store_heads *h = e->heads;
    int status = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        const dsm_op *op = &m->ops[i];
        bool is_had = !op->status && op->result == op->operand;
        uint64_t *head = &h->words[(op->offset - e->shape->heads) / 8 - h->at];
        *head = op->status ? 0 : is_had ? op->desired : op->result;
        if (is_had)
            had(m, e, op);
        if (op->status && (!status || status == -DSM_ECANCELED))
            status = op->status;
    }
    m->cause = status;
    if (status)
        return undo(m, e);
    return m->have == m->want ? end(m, 0) : take(m, e);
}

/* The first place is far from other clients', whatever their number is: golden ratio. */
static enum store_next begin(struct store_allocation *m, const struct store_env *e)
{
    if (!m->want)
        return end(m, 0);
    if (!e->heads->got)
        e->heads->at = (e->slot * 0x9e3779b97f4a7c15ull >> 32) % e->shape->pages;
    return take(m, e);
}

enum store_next store_allocate_step(struct store_allocation *m, struct store_env *e)
{
    switch (m->step) {
    case ALLOCATION_BEGINS:
        return begin(m, e);
    case ALLOCATION_LOOKS:
        return looked(m, e);
    case ALLOCATION_SWAPS:
        return taken(m, e);
    case ALLOCATION_RETURNS:
        return m->ops[0].status ? end(m, m->cause) : give_back(m, e);
    default:
        return undo(m, e);
    }
}
