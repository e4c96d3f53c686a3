/*
 * Changes of heads where a store has several copies: the head is locked at the primary, changed at the backups, and
 * then it is done. The unlock at the primary is due from then on (store_due_ops).
 *
 * Before the lock an intent goes to the primary, which says to a recovery what the lock stands for. So a change may be
 * said to have failed only if its lock was certainly never set, or is gone.
 *
 * No client passes a lock of one that is not proven dead. So what this client does not know after an answer was lost
 * it reads over a new connection, before which the old one was closed, and goes on from there.
 */
#include "../base/error.h"
#include "machine.h"

enum { TRIES = 4, SLEEP_SHORTEST = 1000000 }; /* of a copy that does not answer; ns */

/* ---- intents ---- */

static void release(const struct store_env *e, uint32_t intent)
{
    if (intent != NO_INTENT)
        e->intents->of[intent] = 0;
}

/* Places in a row. False: so many locks may stand that there are none. */
static bool take_places(struct store_intents *t, uint32_t count, uint32_t *first)
{
    uint32_t run = 0;
    *first = t->next;
    for (uint32_t looks = 0; run < count; looks++) {
        if (looks == 2 * INTENTS)
            return false;
        if (*first + run >= INTENTS) {
            *first = run = 0;
        } else if (t->of[*first + run]) {
            *first += run + 1;
            run = 0;
        } else {
            run++;
        }
    }
    t->next = *first + run;
    return true;
}

/* The ops that write them, each what is of one extent. They are behind the unlocks that are due, and before the locks
 * of which they tell. Returns how many. */
static uint32_t write_intents(struct store_put *p, const struct store_change *changes, dsm_op *ops,
                              const struct store_env *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->count; i++)
        if (i && extent_of(e->shape, changes[i].number) == extent_of(e->shape, changes[i - 1].number))
            ops[n - 1].nbytes += INTENT_BYTES;
        else
            ops[n++] = (dsm_op){.remote = e->at[place_of(e, changes[i].number, 0)],
                                .code = DSM_OP_WRITE,
                                .offset = intents_at(e->shape, e->slot) + (uint64_t)INTENT_BYTES * changes[i].intent,
                                .local = &p->intents[i],
                                .nbytes = INTENT_BYTES};
    return n;
}

static bool intend(struct store_put *p, struct store_change *changes, struct store_env *e)
{
    struct store_intents *t = e->intents;
    uint32_t first;
    if (!take_places(t, p->count, &first))
        return false;
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        c->intent = first + i;
        t->of[c->intent] = (uint32_t)c->number + 1;
        p->intents[i] = (struct store_intent){
            .seq = ++t->seq, .page = (uint64_t)e->mark << 40 | c->number, .from = c->from, .to = c->to};
        intent_seal(&p->intents[i]);
    }
    return true;
}

/* ---- unlocks that are due ---- */

void store_keep(struct store_env *e, uint64_t number)
{
    struct store_dues *d = e->dues;
    d->kept = true;
    for (uint32_t i = 0; i < d->n_kept; i++)
        if (d->pages[i] == number)
            return;
    d->pages[d->n_kept++] = number;
}

static void add_due_of(struct store_env *e, const struct store_due *due)
{
    struct store_dues *d = e->dues;
    if (d->n < STORE_DUES)
        d->of[d->n++] = *due;
    else
        store_keep(e, due->number);
}

void store_add_due(struct store_env *e, uint64_t number, uint64_t lock, uint64_t next)
{
    add_due_of(e, &(struct store_due){.number = number, .lock = lock, .next = next, .intent = NO_INTENT});
}

static void add_due(struct store_env *e, const struct store_change *c, uint64_t next)
{
    e->dues->backs |= next == c->from;
    add_due_of(e, &(struct store_due){
                      .number = c->number, .lock = store_lock_of(e, c->from), .next = next, .intent = c->intent});
}

bool store_is_due(const struct store_env *e, uint64_t number, uint64_t lock)
{
    for (uint32_t i = 0; e->dues && i < e->dues->n; i++)
        if (e->dues->of[i].number == number && e->dues->of[i].lock == lock && !e->dues->of[i].gone)
            return true;
    return false;
}

uint32_t store_due_ops(const struct store_env *e, dsm_op *ops, uint32_t most)
{
    struct store_dues *d = e->dues;
    uint32_t n = 0, left = 0;
    for (uint32_t i = 0; d && i < d->n; i++) {
        struct store_due due = d->of[i];
        if (due.gone) {
            release(e, due.intent);
            continue;
        }
        due.sent = n < most && !(d->late >> extent_of(e->shape, due.number) & 1);
        if (due.sent)
            ops[n++] = store_swap_head(e, 0, due.number, due.lock, due.next);
        d->of[left++] = due;
    }
    if (d)
        d->n = left;
    return n;
}

bool store_may_stand(const struct store_env *e, uint64_t number, uint64_t head)
{
    const struct store_dues *d = e->dues;
    if (!d || (!d->kept && !d->n))
        return false;
    for (uint32_t i = 0; i < d->n_kept; i++)
        if (d->pages[i] == number)
            return true;
    return store_is_due(e, number, store_lock_of(e, head));
}

static bool is_back(const struct store_due *due) { return head_version(due->next) == head_version(due->lock); }

/* A way back has been executed, or its lock was never set. Sent again it would undo the next lock from this head. One
 * that was sent stays in the list until it has ended: answers come in the order of the list. */
void store_stands_not(struct store_env *e, uint64_t number)
{
    struct store_dues *d = e->dues;
    uint32_t left = 0, kept = 0;
    if (!d || (!d->kept && !d->backs))
        return;
    for (uint32_t i = 0; i < d->n; i++) {
        struct store_due *due = &d->of[i];
        bool ends = due->number == number && is_back(due);
        due->gone |= ends;
        if (!ends || due->sent)
            d->of[left++] = *due;
    }
    for (uint32_t i = 0; i < d->n_kept; i++)
        if (d->pages[i] != number)
            d->pages[kept++] = d->pages[i];
    d->n = left;
    d->n_kept = kept;
    d->kept = kept;
    for (uint32_t i = 0; i < INTENTS; i++) {
        bool told = e->intents && e->intents->of[i] == number + 1;
        for (uint32_t k = 0; told && k < d->n; k++)
            told = d->of[k].intent != i;
        if (told)
            release(e, i);
    }
}

void store_is_swept(struct store_env *e)
{
    *e->dues = (struct store_dues){.unsettled = e->dues->unsettled, .blamed = e->dues->blamed};
    for (uint32_t i = 0; e->intents && i < INTENTS; i++)
        release(e, i);
}

/* One whose answer was lost is sent again. */
void store_due_done(struct store_env *e, const dsm_op *ops, uint32_t n)
{
    struct store_dues *d = e->dues;
    uint32_t left = 0, at = 0;
    for (uint32_t i = 0; d && i < d->n; i++) {
        struct store_due *due = &d->of[i];
        bool ended = due->sent && at < n;
        int status = ended ? ops[at++].status : 0;
        due->sent &= !ended;
        if (!ended || (status && !due->gone))
            d->of[left++] = *due;
        else
            release(e, due->intent);
    }
    if (d) {
        d->n = left;
        d->backs &= left > 0;
    }
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

static void note(struct store_put *p, const dsm_op *op, uint32_t place)
{
    if (p->status && p->status != -DSM_ECANCELED)
        return;
    p->status = op->status;
    p->cause = op->cause;
    p->place = place;
}

/* A change has not been made, and the page is not locked by it, or not for long. */
static void fail(struct store_put *p, const dsm_op *op)
{
    if (!p->failed || p->failed == -DSM_ECANCELED)
        p->failed = op->status;
}

/* What is sent to a place later uses a new connection, so nothing of before is under way then. */
static void written(struct store_put *p, struct store_env *e, const dsm_op *op, uint32_t place)
{
    if (!op->status) {
        p->unwritten &= ~(1ull << place);
        e->dues->unsettled &= ~(1ull << place);
        return;
    }
    note(p, op, place);
    if (op->status == -DSM_EUNKNOWN)
        e->dues->unsettled |= 1ull << place;
}

/* The answers to these ops. */
static void all_written(struct store_put *p, struct store_env *e, const dsm_op *ops)
{
    for (uint64_t left = p->unwritten; left; left &= left - 1)
        written(p, e, ops++, (uint32_t)__builtin_ctzll(left));
}

/* In the order of the places. Without a frame each backup is asked for a head, so that nothing is changed at any if one
 * does not answer: for the slot of this client, which is no page's. */
static uint32_t write_frames(struct store_put *p, dsm_op *ops, const dsm_op *write, const struct store_env *e)
{
    uint32_t n = 0;
    for (uint64_t left = p->unwritten; left; left &= left - 1) {
        uint32_t place = (uint32_t)__builtin_ctzll(left);
        ops[n] = write ? *write : store_read_op(e, place, slot_at(e->slot), &p->seen, 8);
        ops[n++].remote = e->at[place];
    }
    return n;
}

/* Of all extents in which something changes. */
static uint64_t places_of_all(const struct store_put *p, const struct store_change *changes, bool backups,
                              const struct store_env *e)
{
    uint64_t all = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        uint64_t its = places_of(e, extent_of(e->shape, changes[i].number));
        all |= backups ? its & (its - 1) : its;
    }
    return all;
}

/* The frame goes ahead of the lock, so that other clients that open its chunk find the page in its header; and the
 * intents do, for a recovery. */
static enum store_next begin(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                             struct store_env *e)
{
    p->unwritten = places_of_all(p, changes, !write, e);
    uint32_t n = write_frames(p, ops, write, e);
    if (!intend(p, changes, e)) {
        for (uint32_t i = 0; i < p->count; i++)
            changes[i].is = CHANGE_FAILED;
        return end(p, err_set(DSM_EBUSY, 0, "what became of %d changes is not known", INTENTS));
    }
    n += write_intents(p, changes, ops + n, e);
    for (uint32_t i = 0; i < p->count; i++)
        ops[n++] = store_swap_head(e, 0, changes[i].number, changes[i].from, store_lock_of(e, changes[i].from));
    return post(p, n, PUT_LOCKS);
}

/* ---- backups ---- */

static uint32_t ask_copies(const struct store_put *p, struct store_change *changes, dsm_op *ops,
                           const struct store_env *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        for (uint32_t k = 1; c->is == CHANGE_LOCKED && k < copies_of_page(e, c->number); k++)
            if (c->unsure >> k & 1)
                ops[n++] = store_look_at_head(e, k, c->number, &c->seen[k]);
            else if (!(c->done >> k & 1))
                ops[n++] = store_swap_head(e, k, c->number, c->from, c->to);
    }
    return n;
}

static enum store_next go_on(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                             const struct store_env *e)
{
    if (p->unwritten)
        return post(p, write_frames(p, ops, write, e), PUT_FRAMES);
    uint32_t n = ask_copies(p, changes, ops, e);
    return n ? post(p, n, PUT_COPIES) : end(p, p->status);
}

/* What has become of each change is known, as far as it can be. */
static enum store_next give_up(struct store_put *p, struct store_change *changes, struct store_env *e)
{
    bool unknown = false;
    for (uint32_t i = 0; i < p->count; i++)
        unknown |= changes[i].is == CHANGE_UNKNOWN;
    int code = p->status ? -p->status : DSM_EIO, cause = p->cause < 0 ? -p->cause : p->cause;
    if (!unknown && code == DSM_EUNKNOWN)
        code = cause ? cause : DSM_EIO;
    e->dues->blamed = (uint8_t)(p->place + 1);
    return end(p, unknown ? err_set_op(DSM_EUNKNOWN, cause ? cause : code, 0, 0,
                                       "it does not answer; the page stays locked until it does")
                          : err_set_op(code, 0, 0, 0, "it does not answer; the page is as it was"));
}

/* It may stay locked: until the way back is known to have been executed, a recovery may go forward. */
static void leave_back(struct store_change *c, struct store_env *e)
{
    c->is = CHANGE_UNKNOWN;
    add_due(e, c, c->from);
}

/* A page that a backup may have changed stays locked, until this client or another one resolves it. */
static void leave(struct store_change *c, struct store_env *e)
{
    c->is = CHANGE_UNKNOWN;
    store_keep(e, c->number);
}

void store_put_give_up(struct store_put *p, struct store_change *changes, struct store_env *e)
{
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        if (p->step == PUT_LOCKS) {
            c->is = CHANGE_FAILED;
            release(e, c->intent);
        } else if (c->is == CHANGE_LOCKED) {
            if (c->done || c->unsure)
                leave(c, e);
            else
                leave_back(c, e);
        }
    }
    if (p->step != PUT_LOCKS)
        (void)give_up(p, changes, e);
}

/* Without it no one can say that nothing has changed. */
static enum store_next undo(struct store_put *p, struct store_change *changes, dsm_op *ops, struct store_env *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        if (c->is != CHANGE_LOCKED)
            continue;
        if (c->done || c->unsure)
            leave(c, e);
        else
            ops[n++] = store_swap_head(e, 0, c->number, store_lock_of(e, c->from), c->from);
    }
    return n ? post(p, n, PUT_UNDOES) : give_up(p, changes, e);
}

static enum store_next undone(struct store_put *p, struct store_change *changes, const dsm_op *ops, struct store_env *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        if (c->is != CHANGE_LOCKED)
            continue;
        if (ops[n++].status) {
            leave_back(c, e);
        } else {
            c->is = CHANGE_FAILED;
            release(e, c->intent);
        }
    }
    return give_up(p, changes, e);
}

static enum store_next try_again(struct store_put *p, struct store_change *changes, dsm_op *ops, struct store_env *e)
{
    bool late = p->status == -DSM_ETIME || p->cause == -DSM_ETIME;
    p->tries += late ? TRIES / 2 : 1;
    if (p->tries >= TRIES)
        return undo(p, changes, ops, e);
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
                          copies_of_page(e, changes[of].number), (unsigned long long)changes[of].number));
}

/* What one backup has answered. False: it has neither the old head nor the new one. */
static bool heard(struct store_put *p, struct store_change *c, const dsm_op *op, uint32_t copy, struct store_env *e)
{
    uint8_t bit = (uint8_t)(1u << copy);
    uint32_t place = place_of(e, c->number, copy);
    uint64_t head = op->code == DSM_OP_READ ? c->seen[copy] : op->result;
    if (op->status) {
        note(p, op, place);
        c->unsure |= op->status == -DSM_EUNKNOWN && op->code != DSM_OP_READ ? bit : 0;
        return true;
    }
    e->dues->unsettled &= ~(1ull << place);
    c->unsure &= (uint8_t)~bit;
    if (head == c->to || (head == c->from && op->code != DSM_OP_READ))
        c->done |= bit;
    return head == c->to || head == c->from;
}

static enum store_next copied(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                              struct store_env *e)
{
    uint32_t n = 0;
    bool left = false;
    p->status = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        if (c->is != CHANGE_LOCKED)
            continue;
        uint32_t copies = copies_of_page(e, c->number);
        uint8_t all = (uint8_t)((1u << copies) - 2), asked = (uint8_t)(all & ~c->done);
        for (uint32_t k = 1; k < copies; k++)
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
    return p->status ? try_again(p, changes, ops, e) : go_on(p, changes, ops, write, e);
}

static enum store_next framed(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                              struct store_env *e)
{
    p->status = 0;
    all_written(p, e, ops);
    return p->unwritten ? try_again(p, changes, ops, e) : go_on(p, changes, ops, write, e);
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
            ops[n++] = store_look_at_head(e, 0, changes[i].number, &changes[i].seen[0]);
    return post(p, n, PUT_SETTLES);
}

static enum store_next locked(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                              struct store_env *e)
{
    bool unsure = false;
    all_written(p, e, ops);
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        const dsm_op *op = &ops[p->n - p->count + i];
        c->found = op->result;
        c->is = op->status == -DSM_EUNKNOWN ? CHANGE_UNSURE
                : op->status                ? CHANGE_FAILED
                : op->result == c->from     ? CHANGE_LOCKED
                                            : CHANGE_REFUSED;
        unsure |= c->is == CHANGE_UNSURE;
        if (c->is == CHANGE_FAILED || c->is == CHANGE_REFUSED)
            release(e, c->intent);
        if (c->is == CHANGE_FAILED)
            fail(p, op);
    }
    return unsure ? settle(p, changes, ops, e) : is_locked(p, changes, ops, write, e);
}

/* Where the head can't be read the lock may stand. No backup has changed, so it goes back; but until that is known the
 * outcome is not: a recovery may find the lock. */
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
        if (op->status) {
            leave_back(c, e);
            e->dues->blamed = (uint8_t)(place_of(e, c->number, 0) + 1);
            p->failed = err_set_op(DSM_EUNKNOWN, op->status < 0 ? -op->status : 0, 0, 0,
                                   "it does not answer; the page may be changed, or stay locked until it does");
            continue;
        }
        c->is = c->found == store_lock_of(e, c->from) ? CHANGE_LOCKED : CHANGE_REFUSED;
        if (c->is == CHANGE_REFUSED)
            release(e, c->intent);
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
    case PUT_UNDOES:
        return undone(p, changes, ops, e);
    default:
        return go_on(p, changes, ops, write, e);
    }
}
