/*
 * Allocation: a free head becomes an empty one. Any client may take any free page; each begins at another place, so
 * that they rarely meet.
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
    return (dsm_op){
        .code = DSM_OP_COMPARE_SWAP, .offset = head_at(e->shape, number), .nbytes = 8, .operand = from, .desired = to};
}

/* ---- giving back what it has, if it can't have all ---- */

static enum store_next undo(struct store_allocation *m, const struct store_env *e)
{
    uint32_t n = m->have < PER_CHUNK ? (uint32_t)m->have : PER_CHUNK;
    for (uint32_t i = 0; i < n; i++)
        m->ops[i] = (dsm_op){.code = DSM_OP_READ,
                             .offset = head_at(e->shape, page_number(m->ids[m->have - n + i])),
                             .local = &m->heads[i],
                             .nbytes = 8};
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
    uint64_t pages = e->shape->pages, left = pages - m->at;
    if (m->have == m->want)
        return end(m, 0);
    if (m->looked >= pages) {
        m->cause = err_set(DSM_ESTOREFULL, 0, "%llu pages, and fewer than %llu are free", (unsigned long long)pages,
                           (unsigned long long)m->want);
        return undo(m, e);
    }
    m->got = left < PER_CHUNK ? (uint32_t)left : PER_CHUNK;
    m->ops[0] = (dsm_op){
        .code = DSM_OP_READ, .offset = head_at(e->shape, m->at), .local = m->heads, .nbytes = 8 * (uint64_t)m->got};
    return post(m, 1, ALLOCATION_LOOKS);
}

static enum store_next look_on(struct store_allocation *m, const struct store_env *e)
{
    m->looked += m->got;
    m->at = (m->at + m->got) % e->shape->pages;
    return look(m, e);
}

static enum store_next take(struct store_allocation *m, const struct store_env *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->got && n < m->want - m->have; i++) {
        uint64_t head = m->heads[i];
        if (head_state(head) == HEAD_FREE && head_low(head))
            m->ops[n++] = swap_of(e, m->at + i, head, head_of(HEAD_EMPTY, head_version(head) + 1, head_low(head)));
    }
    return n ? post(m, n, ALLOCATION_SWAPS) : look_on(m, e);
}

/* A page is had if its swap has certainly succeeded. One whose answer was lost may stay allocated. */
static enum store_next taken(struct store_allocation *m, const struct store_env *e)
{
    int status = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        const dsm_op *op = &m->ops[i];
        if (!op->status && op->result == op->operand)
            m->ids[m->have++] = page_id(head_low(op->operand), (op->offset - e->shape->heads) / 8);
        else if (op->status && !status)
            status = op->status;
    }
    m->cause = status;
    return status ? undo(m, e) : look(m, e); /* at the same heads: others may be free, if a swap was refused */
}

enum store_next store_allocate_step(struct store_allocation *m, struct store_env *e)
{
    switch (m->step) {
    case ALLOCATION_BEGINS: /* golden ratio: far from each other, whatever the number of clients is */
        m->at = (e->slot * 0x9e3779b97f4a7c15ull >> 32) % e->shape->pages;
        return look(m, e);
    case ALLOCATION_LOOKS:
        return m->ops[0].status ? (m->cause = m->ops[0].status, undo(m, e)) : take(m, e);
    case ALLOCATION_SWAPS:
        return taken(m, e);
    case ALLOCATION_RETURNS:
        return m->ops[0].status ? end(m, m->cause) : give_back(m, e);
    default:
        return undo(m, e);
    }
}
