/* The parts of a posting by the way for bulk (bulk.h): what suits it, what goes ahead, and the copies. */
#include "bulk.h"
#include "../base/mapped_ops.h"
#include "remote.h"

/* Shorter ops go by the device: words, and with them all atomics. */
enum { LEAST = 4096 };

/* Where a READ or WRITE is executed by the CPU; NULL: nowhere. */
static const dsm_remote *place_of(const dsm_op *op)
{
    const dsm_remote *r = op->remote, *bulk = remote_is_mapped(r) ? r : r->bulk;
    uint32_t right = op->code == DSM_OP_READ ? DSM_READ : DSM_WRITE;
    bool good = bulk && remote_allows(bulk, bulk == r ? op->offset : r->target.base + op->offset, op->nbytes, right);
    return good ? bulk : NULL;
}

static bool suits(const dsm_op *ops, size_t n)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        if (ops[i].nbytes < LEAST || !place_of(&ops[i]))
            return false;
        bytes += ops[i].nbytes;
    }
    return bytes >= DSM_BULK;
}

/* False: these are more owners than go into one pass. */
static bool go_ahead_of(struct bulk_ahead *a, const dsm_op *op)
{
    if (remote_is_mapped(op->remote))
        return true;
    for (size_t i = 0; i < a->n; i++)
        if (a->ops[i].remote->peer == op->remote->peer)
            return true;
    if (a->n == TICKET_GROUPS)
        return false;
    a->ops[a->n] = (dsm_op){.code = DSM_OP_READ,
                            .flags = DSM_OP_FENCE,
                            .remote = op->remote,
                            .offset = op->offset,
                            .local = &a->words[a->n],
                            .nbytes = 8};
    a->n++;
    return true;
}

bool bulk_begin(struct bulk_ahead *ahead, const dsm_op *ops, size_t n)
{
    ahead->n = 0;
    if (!suits(ops, n))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!go_ahead_of(ahead, &ops[i]))
            return false;
    for (size_t i = 0; i < n; i++)
        fetch_add_u32(&ops[i].remote->users, 1);
    return true;
}

bool bulk_copy(dsm_ctx *c, dsm_op *ops, size_t n)
{
    if (!suits(ops, n))
        return false;
    for (size_t i = 0; i < n; i++) {
        dsm_op *op = &ops[i];
        const dsm_remote *r = op->remote;
        mapped_execute(remote_is_mapped(r) ? remote_at(r, 0) : remote_at(r->bulk, r->target.base), op);
        op->status = 0;
        op->cause = 0;
    }
    fetch_add_u64(&c->stats.bulk, n);
    return true;
}

void bulk_end(const dsm_op *ops, size_t n)
{
    for (size_t i = 0; i < n; i++)
        fetch_sub_u32(&ops[i].remote->users, 1);
}
