/*
 * Changes of heads where a store has several copies: the head is locked at the primary, changed at the backups, and
 * then it is done. The unlock at the primary is due from then on (store_due_ops).
 *
 * No client passes a lock of one that is not proven dead. So what this client does not know after an answer was lost
 * it reads over a new connection, before which the old one was closed, and goes on from there.
 */
#include "../base/error.h"
#include "machine.h"

enum { TRIES = 4, SLEEP_SHORTEST = 1000000 }; /* of a copy that does not answer; ns */

/* ---- unlocks that are due ---- */

void store_keep(struct store_env *e, uint64_t number)
{
    struct store_dues *d = e->dues;
    d->kept = true;
    for (uint32_t i = 0; i < d->n_kept; i++)
        if (d->pages[i] == number)
            return;
    if (d->n_kept < PER_CHUNK)
        d->pages[d->n_kept++] = number;
    else
        d->everywhere = true;
}

void store_add_due(struct store_env *e, uint64_t number, uint64_t lock, uint64_t next)
{
    struct store_dues *d = e->dues;
    if (d->n < STORE_DUES)
        d->of[d->n++] = (struct store_due){.number = number, .lock = lock, .next = next};
    else
        store_keep(e, number);
}

static void add_due(struct store_env *e, const struct store_change *c, uint64_t next)
{
    store_add_due(e, c->number, store_lock_of(e, c->from), next);
}

bool store_is_due(const struct store_env *e, uint64_t number, uint64_t lock)
{
    for (uint32_t i = 0; e->dues && i < e->dues->n; i++)
        if (e->dues->of[i].number == number && e->dues->of[i].lock == lock)
            return true;
    return false;
}

uint32_t store_due_ops(const struct store_env *e, dsm_op *ops, uint32_t most)
{
    const struct store_dues *d = e->dues;
    uint32_t n = !d ? 0 : d->n < most ? d->n : most;
    for (uint32_t i = 0; i < n; i++)
        ops[i] = store_swap_op(e, 0, head_at(e->shape, d->of[i].number), d->of[i].lock, d->of[i].next);
    return n;
}

/* The lock has been taken again, from the same head: so an unlock of before was executed, though its answer was lost.
 */
static void drop_due(struct store_env *e, const struct store_change *c)
{
    struct store_dues *d = e->dues;
    uint64_t lock = store_lock_of(e, c->from);
    uint32_t left = 0;
    for (uint32_t i = 0; i < d->n; i++)
        if (d->of[i].number != c->number || d->of[i].lock != lock)
            d->of[left++] = d->of[i];
    d->n = left;
}

/* One whose answer was lost is sent again. */
void store_due_done(struct store_env *e, const dsm_op *ops, uint32_t n)
{
    struct store_dues *d = e->dues;
    uint32_t left = 0;
    for (uint32_t i = 0; d && i < d->n; i++)
        if (i >= n || ops[i].status)
            d->of[left++] = d->of[i];
    if (d)
        d->n = left;
}

/* ---- steps ---- */

static enum store_next end(struct store_put *p, int status)
{
    p->status = status;
    return STORE_DONE;
}

static enum store_next post(struct store_put *p, uint32_t n, enum put_step step)
{
    p->n = n;
    p->step = step;
    return STORE_POST;
}

static void note(struct store_put *p, const dsm_op *op, uint32_t copy)
{
    if (p->status && p->status != -DSM_ECANCELED)
        return;
    p->status = op->status;
    p->cause = op->cause;
    p->copy = copy;
}

/* A change has not been made, and the page is not locked by it, or not for long. */
static void fail(struct store_put *p, const dsm_op *op)
{
    if (!p->failed || p->failed == -DSM_ECANCELED)
        p->failed = op->status;
}

/* What is sent to a copy later uses a new connection, so nothing of before is under way then. */
static void written(struct store_put *p, struct store_env *e, const dsm_op *op, uint32_t copy)
{
    if (!op->status) {
        p->unwritten &= (uint8_t) ~(1u << copy);
        e->dues->unsettled &= (uint8_t) ~(1u << copy);
        return;
    }
    note(p, op, copy);
    if (op->status == -DSM_EUNKNOWN)
        e->dues->unsettled |= (uint8_t)(1u << copy);
}

/* Without a frame each backup is asked for its head, so that nothing is changed at any if one does not answer. */
static uint32_t write_frames(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                             const struct store_env *e)
{
    uint32_t n = 0;
    for (uint32_t k = 0; k < e->copies; k++) {
        if (!(p->unwritten >> k & 1))
            continue;
        ops[n] = write ? *write : store_read_op(e, k, head_at(e->shape, changes->number), &changes->seen[k], 8);
        ops[n++].remote = e->at[k];
    }
    return n;
}

/* The frame goes ahead of the lock, so that other clients that open its chunk find the page in its header. */
static enum store_next begin(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                             const struct store_env *e)
{
    p->unwritten = (uint8_t)((1u << e->copies) - (write ? 1 : 2));
    uint32_t n = write_frames(p, changes, ops, write, e);
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        uint64_t lock = store_lock_of(e, c->from);
        c->again = store_is_due(e, c->number, lock);
        ops[n++] = store_swap_op(e, 0, head_at(e->shape, c->number), c->from, lock);
    }
    return post(p, n, PUT_LOCKS);
}

/* ---- backups ---- */

static uint32_t ask_copies(const struct store_put *p, struct store_change *changes, dsm_op *ops,
                           const struct store_env *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        uint64_t offset = head_at(e->shape, c->number);
        for (uint32_t k = 1; c->is == CHANGE_LOCKED && k < e->copies; k++)
            if (c->unsure >> k & 1)
                ops[n++] = store_look_op(e, k, offset, &c->seen[k]);
            else if (!(c->done >> k & 1))
                ops[n++] = store_swap_op(e, k, offset, c->from, c->to);
    }
    return n;
}

static enum store_next go_on(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                             const struct store_env *e)
{
    if (p->unwritten)
        return post(p, write_frames(p, changes, ops, write, e), PUT_FRAMES);
    uint32_t n = ask_copies(p, changes, ops, e);
    return n ? post(p, n, PUT_COPIES) : end(p, p->status);
}

/* The lock goes back, if no backup can have changed. Otherwise it stays, until this client or another one resolves it.
 */
static enum store_next give_up(struct store_put *p, struct store_change *changes, struct store_env *e)
{
    bool unknown = false;
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        if (c->is != CHANGE_LOCKED)
            continue;
        c->is = c->done || c->unsure ? CHANGE_UNKNOWN : CHANGE_FAILED;
        if (c->is == CHANGE_FAILED)
            add_due(e, c, c->from);
        else
            store_keep(e, c->number);
        unknown |= c->is == CHANGE_UNKNOWN;
    }
    int code = p->status ? -p->status : DSM_EIO, cause = p->cause < 0 ? -p->cause : p->cause;
    if (!unknown && code == DSM_EUNKNOWN)
        code = cause ? cause : DSM_EIO;
    e->dues->blamed = (uint8_t)(p->copy + 1);
    return end(p, unknown ? err_set_op(DSM_EUNKNOWN, cause ? cause : code, 0, 0,
                                       "it does not answer; the page stays locked until it does")
                          : err_set_op(code, 0, 0, 0, "it does not answer; the page is as it was"));
}

/* What has been locked goes back, or stays locked: no op is under way. */
void store_put_give_up(struct store_put *p, struct store_change *changes, struct store_env *e)
{
    (void)give_up(p, changes, e);
}

static enum store_next try_again(struct store_put *p, struct store_change *changes, struct store_env *e)
{
    bool late = p->status == -DSM_ETIME || p->cause == -DSM_ETIME;
    p->tries += late ? TRIES / 2 : 1;
    if (p->tries >= TRIES)
        return give_up(p, changes, e);
    p->sleep_ns = (int64_t)SLEEP_SHORTEST << p->tries;
    p->step = PUT_SLEEPS;
    return STORE_SLEEP;
}

/* Of this change; what has become of the others that are locked is not known then, either. */
static enum store_next contradicts(struct store_put *p, struct store_change *changes, uint32_t of, uint32_t copy,
                                   struct store_env *e)
{
    for (uint32_t i = 0; i < p->count; i++)
        if (changes[i].is == CHANGE_LOCKED) {
            changes[i].is = CHANGE_UNKNOWN;
            store_keep(e, changes[i].number);
        }
    return end(p, err_set(DSM_ECORRUPT, 0, "copy %u of %u has another head of page number %llu than the primary", copy,
                          e->copies, (unsigned long long)changes[of].number));
}

/* What one backup has answered. False: it has neither the old head nor the new one. */
static bool heard(struct store_put *p, struct store_change *c, const dsm_op *op, uint32_t copy, struct store_env *e)
{
    uint8_t bit = (uint8_t)(1u << copy);
    uint64_t head = op->code == DSM_OP_READ ? c->seen[copy] : op->result;
    if (op->status) {
        note(p, op, copy);
        c->unsure |= op->status == -DSM_EUNKNOWN && op->code != DSM_OP_READ ? bit : 0;
        return true;
    }
    e->dues->unsettled &= (uint8_t)~bit;
    c->unsure &= (uint8_t)~bit;
    if (head == c->to || (head == c->from && op->code != DSM_OP_READ))
        c->done |= bit;
    return head == c->to || head == c->from;
}

static enum store_next copied(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                              struct store_env *e)
{
    uint8_t all = (uint8_t)((1u << e->copies) - 2);
    uint32_t n = 0;
    bool left = false;
    p->status = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        if (c->is != CHANGE_LOCKED)
            continue;
        uint8_t asked = (uint8_t)(all & ~c->done);
        for (uint32_t k = 1; k < e->copies; k++)
            if (asked >> k & 1 && !heard(p, c, &ops[n++], k, e))
                return contradicts(p, changes, i, k, e);
        if (c->done == all) {
            c->is = CHANGE_DONE;
            add_due(e, c, c->to);
        }
        left |= c->done != all;
    }
    if (!left)
        return end(p, p->failed);
    return p->status ? try_again(p, changes, e) : go_on(p, changes, ops, write, e);
}

static enum store_next framed(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                              struct store_env *e)
{
    uint8_t asked = p->unwritten;
    uint32_t n = 0;
    p->status = 0;
    for (uint32_t k = 0; k < e->copies; k++)
        if (asked >> k & 1)
            written(p, e, &ops[n++], k);
    return p->unwritten ? try_again(p, changes, e) : go_on(p, changes, ops, write, e);
}

/* ---- the primary ---- */

static enum store_next is_locked(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                                 struct store_env *e)
{
    bool any = false;
    for (uint32_t i = 0; i < p->count; i++)
        any |= changes[i].is == CHANGE_LOCKED;
    return !any ? end(p, p->failed) : go_on(p, changes, ops, write, e);
}

static enum store_next settle(struct store_put *p, struct store_change *changes, dsm_op *ops, const struct store_env *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->count; i++)
        if (changes[i].is == CHANGE_UNSURE)
            ops[n++] = store_look_op(e, 0, head_at(e->shape, changes[i].number), &changes[i].seen[0]);
    return post(p, n, PUT_SETTLES);
}

static enum store_next locked(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                              struct store_env *e)
{
    uint32_t first = write ? 0 : 1, frames = e->copies - first;
    bool unsure = false;
    for (uint32_t k = 0; k < frames; k++)
        written(p, e, &ops[k], first + k);
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        const dsm_op *op = &ops[frames + i];
        c->found = op->result;
        c->is = op->status == -DSM_EUNKNOWN ? CHANGE_UNSURE
                : op->status                ? CHANGE_FAILED
                : op->result == c->from     ? CHANGE_LOCKED
                                            : CHANGE_REFUSED;
        unsure |= c->is == CHANGE_UNSURE;
        if (c->is == CHANGE_LOCKED)
            drop_due(e, c);
        if (c->is == CHANGE_FAILED)
            fail(p, op);
    }
    return unsure ? settle(p, changes, ops, e) : is_locked(p, changes, ops, write, e);
}

/* The lock that is found is that of this change, unless an earlier one from the same head has left it. */
static bool is_ours(const struct store_change *c, const struct store_env *e)
{
    return c->seen[0] == store_lock_of(e, c->from) && !c->again && !e->dues->kept;
}

/* Where the head can't be read the lock may stand, or may still be set; but no backup has changed, so it goes back: the
 * unlock goes out over a new connection. One of an earlier change, if there may be one, is not for this one to end. */
static enum store_next settled(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                               struct store_env *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        if (c->is != CHANGE_UNSURE)
            continue;
        const dsm_op *op = &ops[n++];
        c->found = c->seen[0];
        c->is = op->status ? CHANGE_FAILED : is_ours(c, e) ? CHANGE_LOCKED : CHANGE_REFUSED;
        if (op->status && (c->again || e->dues->kept))
            store_keep(e, c->number);
        else if (op->status)
            add_due(e, c, c->from);
        if (op->status)
            fail(p, op);
    }
    return is_locked(p, changes, ops, write, e);
}

enum store_next store_put_step(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                               struct store_env *e)
{
    switch (p->step) {
    case PUT_BEGINS:
        return begin(p, changes, ops, write, e);
    case PUT_LOCKS:
        return locked(p, changes, ops, write, e);
    case PUT_SETTLES:
        return settled(p, changes, ops, write, e);
    case PUT_FRAMES:
        return framed(p, changes, ops, write, e);
    case PUT_COPIES:
        return copied(p, changes, ops, write, e);
    default:
        return go_on(p, changes, ops, write, e);
    }
}
