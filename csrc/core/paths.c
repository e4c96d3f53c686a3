/*
 * Paths: the ways to one owner by one fabric, each from a device of this context to a device of the owner.
 *
 * One path is used at a time, for all ops, so their order and what they see of one another is that of one connection.
 * When it is lost, the next endpoint is made on another one. The owner closes its end of the old one before it answers,
 * so nothing that was sent there takes effect afterwards. docs/decisions/0022-one-path-at-a-time.md has the reasons.
 */
#include "../base/deadline.h"
#include "core.h"

void peer_find_paths(struct peer *p, const struct fabric_grant *g)
{
    dsm_ctx *c = p->ctx;
    struct fabric_dev *mine[FABRIC_DEVICES_MAX];
    uint32_t n = 0;
    for (size_t i = 0; i < c->ndevs; i++)
        if (c->devs[i]->wire_id == p->dev->wire_id)
            mine[n++] = c->devs[i];
    uint32_t paths = n > g->devices ? n : g->devices;
    if (peer_has_paths(p) || paths == 1)
        return;
    core_lock(&p->lock);
    for (uint32_t i = 1; i < paths; i++) /* the first is as it was */
        p->paths[i] = (struct path){mine[i % n], i % g->devices};
    p->atomics = g->atomics;
    store_relaxed_u32(&p->npaths, paths);
    core_unlock(&p->lock);
}

uint32_t path_next(struct peer *p)
{
    core_lock(&p->lock);
    if (p->ep && p->ep->path_lost) {
        p->ep->path_lost = false;
        p->lost = true;
    }
    if (p->lost) {
        p->lost = false;
        p->suspect = true;
        if (p->atomics && path_takes(p, p->path, true))
            p->held = deadline_after(p->ctx->peer_timeout_ns);
    }
    uint32_t next = (p->path + p->suspect) % p->npaths;
    core_unlock(&p->lock);
    return next;
}

/* ---- ops of a path that was lost ---- */

static bool has_paths(const dsm_ticket *t)
{
    for (size_t i = 0; i < t->ngroups; i++)
        if (peer_has_paths(t->groups[i].peer))
            return true;
    return false;
}

void path_set_reason(dsm_op *op)
{
    const struct peer *p = op->remote->peer;
    if (!peer_has_paths(p) || load_relaxed_u32(&p->dead))
        return;
    if (op->status == -DSM_EPEER)
        op->status = -DSM_EIO;
    else if (op->status == -DSM_EUNKNOWN && op->cause == -DSM_EPEER)
        op->cause = -DSM_EIO;
}

/* Whether the op, which has failed, was certainly not executed, or is a READ without an answer. */
static bool may_be_repeated(const dsm_op *op)
{
    int s = op->status;
    if (op->code == DSM_OP_READ)
        return s == -DSM_EPEER || s == -DSM_EIO || s == -DSM_ECANCELED;
    return s == -DSM_ECANCELED && !op->cause;
}

/* Whether this holds for all that have failed. Otherwise a READ that is repeated might see what a later op of the
 * ticket has written, or a later op might overtake one whose outcome is unknown. */
static bool can_resume(const dsm_ticket *t)
{
    bool some = false;
    for (size_t i = 0; i < t->n; i++) {
        const dsm_op *op = &t->ops[i];
        const struct peer *p = op->remote->peer;
        if (!op->status)
            continue;
        if (!peer_has_paths(p) || load_relaxed_u32(&p->dead) || !may_be_repeated(op))
            return false;
        some = true;
    }
    return some;
}

/* ---- READs of a connection that was lost ---- */

static bool was_lost(const dsm_op *op) { return op->status == -DSM_EPEER || op->status == -DSM_ECANCELED; }

static bool is_unsent(const dsm_ticket *t)
{
    for (size_t i = 0; i < t->ngroups; i++)
        if (t->groups[i].unsent)
            return true;
    return false;
}

/* Whether the ticket has nothing but READs, and those that failed did so with a connection of which the owner keeps a
 * record: so a new one proves that it lives. Behind another op a READ might see what that op has written. */
static bool can_read_again(const dsm_ticket *t)
{
    bool some = false;
    for (size_t i = 0; i < t->n; i++) {
        const dsm_op *op = &t->ops[i];
        if (op->code != DSM_OP_READ)
            return false;
        if (!op->status)
            continue;
        if (!was_lost(op) || !op->remote->peer->dev->remembers)
            return false;
        some = true;
    }
    return some;
}

/* No connection could be made for what is sent again. If that is because the owner does not answer, the connection that
 * was lost says more. */
static void restore_reason(dsm_ticket *t)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->ops[i].status == -DSM_ETIME && t->ops[i].code == DSM_OP_READ)
            t->ops[i].status = -DSM_EPEER;
}

/* ---- again ---- */

/* All that is posted again has the time that an op has once more, however often it is. */
static void set_due(dsm_ticket *t)
{
    uint64_t bytes = 0;
    if (t->due)
        return;
    for (size_t i = 0; i < t->n; i++)
        bytes += t->ops[i].status ? t->ops[i].nbytes : 0;
    t->due = ctx_give_up_at(t->ctx, bytes);
}

bool ticket_resume(dsm_ticket *t, int64_t deadline)
{
    bool paths = has_paths(t);
    if (t->divided || t->late || t->resumed == FABRIC_DEVICES_MAX || ticket_stopped(t) || clock_ns() >= deadline)
        return false;
    if (!paths && is_unsent(t)) {
        if (t->resumed)
            restore_reason(t);
        return false;
    }
    if (paths ? !can_resume(t) : !can_read_again(t))
        return false;
    set_due(t);
    for (size_t i = 0; i < t->n; i++) {
        dsm_op *op = &t->ops[i];
        struct fabric_dev *d = op->status ? op->remote->peer->dev : NULL;
        if (!d)
            continue;
        if (fabric_op_prepared(&t->work[i])) /* for the device of the path before */
            d->fabric->op_release(d, &t->work[i]);
        op->status = -DSM_ECANCELED;
        op->cause = 0;
    }
    t->resumed++;
    t->posted = 0;
    return true;
}
