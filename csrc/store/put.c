/*
 * Changes of heads where a store has several copies: the head is locked at all of them, in one posting, and then the
 * change is made. The unlocks are due from then on (store_due_ops). Decision 34 has the argument, and
 * tests/model/put_once.pml the model.
 *
 * Ahead of each lock an intent goes to the copy, which says to a recovery what the lock stands for; and the frame does.
 * A client that does not get the primary takes its locks back, and a change has failed only when they are certainly
 * gone. One that has the primary waits for a backup until the lock of such a loser is gone; a lock of the version
 * before, whose unlock is late, it replaces: that change was made.
 *
 * No client passes a lock of one that is not proven dead. So what this client does not know after an answer was lost
 * it reads over a new connection, before which the old one was closed, and goes on from there.
 */
#include "../base/error.h"
#include "machine.h"

enum { TRIES = 4, SLEEP_SHORTEST = 1000000 };                             /* of a copy that does not answer; ns */
enum { WAIT_SHORTEST = 2000, WAIT_LONGEST = 1000000, WAITS_DOUBLED = 9 }; /* for a lock; ns */

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

/* The ops that write those of changes i to end - 1, which are of one extent, to its places that have not got them.
 * Returns how many. */
static uint32_t write_row(struct store_put *p, const struct store_change *changes, uint32_t i, uint32_t end,
                          dsm_op *ops, const struct store_env *e)
{
    uint32_t n = 0;
    uint64_t left = places_of(e, extent_of(e->shape, changes[i].number)) & p->unwritten;
    for (; left; left &= left - 1)
        ops[n++] = (dsm_op){.remote = e->at[__builtin_ctzll(left)],
                            .code = DSM_OP_WRITE,
                            .offset = intents_at(e->shape, e->slot) + (uint64_t)INTENT_BYTES * changes[i].intent,
                            .local = &p->intents[i],
                            .nbytes = INTENT_BYTES * (uint64_t)(end - i)};
    return n;
}

static uint32_t write_intents(struct store_put *p, const struct store_change *changes, dsm_op *ops,
                              const struct store_env *e)
{
    uint32_t n = 0, end;
    for (uint32_t i = 0; i < p->count; i = end) {
        uint32_t extent = extent_of(e->shape, changes[i].number);
        for (end = i + 1; end < p->count && extent_of(e->shape, changes[end].number) == extent;)
            end++;
        n += write_row(p, changes, i, end, ops + n, e);
    }
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
    add_due_of(e, &(struct store_due){.number = number, .lock = lock, .next = next, .left = 1, .intent = NO_INTENT});
}

bool store_is_due(const struct store_env *e, uint64_t number, uint64_t lock)
{
    for (uint32_t i = 0; e->dues && i < e->dues->n; i++)
        if (e->dues->of[i].number == number && e->dues->of[i].lock == lock)
            return true;
    return false;
}

/* Those of a change, at its copies. */
static uint32_t unlock(const struct store_env *e, struct store_due *due, dsm_op *ops, uint32_t most)
{
    uint32_t n = 0;
    due->sent = 0;
    for (uint32_t left = due->left; left && n < most; left &= left - 1) {
        uint32_t k = (uint32_t)__builtin_ctz(left);
        if (e->dues->late >> place_of(e, due->number, k) & 1)
            continue;
        due->sent |= (uint8_t)(1u << k);
        ops[n++] = store_swap_head(e, k, due->number, due->lock, due->next);
    }
    return n;
}

uint32_t store_due_ops(const struct store_env *e, dsm_op *ops, uint32_t most)
{
    uint32_t n = 0;
    for (uint32_t i = 0; e->dues && i < e->dues->n; i++)
        n += unlock(e, &e->dues->of[i], ops + n, most - n);
    return n;
}

static bool is_kept(const struct store_env *e, uint64_t number)
{
    for (uint32_t i = 0; i < e->dues->n_kept; i++)
        if (e->dues->pages[i] == number)
            return true;
    return false;
}

bool store_may_stand(const struct store_env *e, uint64_t number, uint64_t head)
{
    const struct store_dues *d = e->dues;
    if (!d || (!d->kept && !d->n))
        return false;
    return is_kept(e, number) || store_is_due(e, number, store_lock_of(e, head));
}

void store_stands_not(struct store_env *e, uint64_t number)
{
    struct store_dues *d = e->dues;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < d->n_kept; i++)
        if (d->pages[i] != number)
            d->pages[kept++] = d->pages[i];
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
        for (; due->sent && at < n; due->sent &= (uint8_t)(due->sent - 1))
            if (!ops[at++].status)
                due->left &= (uint8_t) ~(due->sent & -due->sent);
        if (due->left)
            d->of[left++] = *due;
        else
            release(e, due->intent);
    }
    if (d)
        d->n = left;
}

/* ---- steps ---- */

static enum store_next end(struct store_put *p, int status)
{
    p->status = status;
    return STORE_DONE;
}

/* The first error of a posting, but for ops that another one has ended; or the one because of which all is given up. */
static void note(struct store_put *p, const dsm_op *op, uint32_t place)
{
    p->erred = true;
    if (p->error && (p->undoing || p->error != -DSM_ECANCELED))
        return;
    p->error = op->status;
    p->cause = op->cause;
    p->place = place;
}

static uint8_t copies_bits(const struct store_env *e, const struct store_change *c)
{
    return (uint8_t)((1u << copies_of_page(e, c->number)) - 1);
}

static bool is_over(const struct store_change *c) { return c->is >= CHANGE_DONE; }

/* Places of the changes that may still be made. */
static uint64_t places_of_all(const struct store_put *p, const struct store_change *changes, const struct store_env *e)
{
    uint64_t all = 0;
    for (uint32_t i = 0; i < p->count; i++)
        if (changes[i].is == CHANGE_BEGINS)
            all |= places_of(e, extent_of(e->shape, changes[i].number));
    return all;
}

/* What a place has to have ahead of a lock. */
static uint32_t write_ahead(struct store_put *p, const struct store_change *changes, dsm_op *ops, const dsm_op *write,
                            const struct store_env *e)
{
    uint32_t n = 0;
    for (uint64_t left = write ? p->unwritten : 0; left; left &= left - 1) {
        ops[n] = *write;
        ops[n++].remote = e->at[__builtin_ctzll(left)];
    }
    return n + write_intents(p, changes, ops + n, e);
}

/* The first posting is for all copies. Later ones are for the others once the primary is known to be locked: what a
 * backup has that did not have the head before counts then alone. */
static uint32_t ask_copies(struct store_change *c, dsm_op *ops, const struct store_env *e, bool first)
{
    uint32_t n = 0, copies = copies_of_page(e, c->number);
    uint64_t lock = store_lock_of(e, c->from);
    bool loses = c->is == CHANGE_LOSES;
    uint8_t all = copies_bits(e, c), lacks = (uint8_t)(all & ~c->has);
    c->undoes = loses ? (uint8_t)(c->has | c->unsure) : 0;
    c->looks = loses ? 0 : (uint8_t)(lacks & (c->unsure | c->waits));
    c->swaps = loses || !(first || c->has & 1) ? 0 : (uint8_t)(lacks & ~c->looks);
    for (uint32_t k = 0; k < copies; k++)
        if (c->undoes >> k & 1)
            ops[n++] = store_swap_head(e, k, c->number, lock, c->from);
        else if (c->looks >> k & 1)
            ops[n++] = store_look_at_head(e, k, c->number, &c->seen[k]);
        else if (c->swaps >> k & 1)
            ops[n++] = store_swap_head(e, k, c->number, c->seen[k], lock);
    return n;
}

static enum store_next ask(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                           const struct store_env *e)
{
    bool first = p->step == PUT_BEGINS;
    p->step = first ? PUT_LOCKS : PUT_GOES_ON;
    p->unwritten &= places_of_all(p, changes, e);
    p->ahead = p->n = write_ahead(p, changes, ops, write, e);
    for (uint32_t i = 0; i < p->count; i++)
        if (!is_over(&changes[i]))
            p->n += ask_copies(&changes[i], ops + p->n, e, first);
    return STORE_POST;
}

static enum store_next begin(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                             struct store_env *e)
{
    if (!intend(p, changes, e)) {
        for (uint32_t i = 0; i < p->count; i++)
            changes[i].is = CHANGE_FAILED;
        return end(p, err_set(DSM_EBUSY, 0, "what became of %d changes is not known", INTENTS));
    }
    for (uint32_t i = 0; i < p->count; i++)
        for (uint32_t k = 0; k < STORE_COPIES_MOST; k++)
            changes[i].seen[k] = changes[i].from;
    p->unwritten = places_of_all(p, changes, e);
    return ask(p, changes, ops, write, e);
}

/* ---- answers ---- */

/* What is sent to a place later uses a new connection, so nothing of before is under way then. */
static void written(struct store_put *p, const dsm_op *ops, struct store_env *e)
{
    uint64_t failed = 0;
    for (uint32_t i = 0; i < p->ahead; i++) {
        uint32_t place = 0;
        while (e->at[place] != ops[i].remote)
            place++;
        if (ops[i].status == -DSM_EUNKNOWN)
            e->dues->unsettled |= 1ull << place;
        else if (!ops[i].status && !(failed >> place & 1))
            e->dues->unsettled &= ~(1ull << place);
        if (!ops[i].status)
            continue;
        failed |= 1ull << place;
        note(p, &ops[i], place);
    }
    p->unwritten = failed;
}

/* What a copy has. Its own lock may also be one that an earlier change from the same head has left there: the intent of
 * this one is behind the earlier one, so it counts. */
static void found(struct store_change *c, uint32_t k, uint64_t word, const struct store_env *e)
{
    uint8_t bit = (uint8_t)(1u << k);
    c->unsure &= (uint8_t)~bit;
    c->waits &= (uint8_t)~bit;
    if (word == store_lock_of(e, c->from)) {
        c->has |= bit;
        return;
    }
    c->seen[k] = word;
    if (head_locked(word) && !versions_ahead(word, c->from))
        c->waits |= bit;
    if (k)
        return;
    c->refused = true;
    c->found = word;
    c->is = CHANGE_LOSES;
}

/* A lock at the primary that was certainly not set ends the change. Where one of an earlier change from the same head
 * may stand, it stands for this one's frame, since the intent may be there. */
static void has_failed(struct store_put *p, struct store_change *c, const dsm_op *op, uint32_t k, struct store_env *e)
{
    uint8_t bit = (uint8_t)(1u << k);
    bool lost = op->status == -DSM_EUNKNOWN;
    note(p, op, place_of(e, c->number, k));
    c->unsure |= (lost || is_kept(e, c->number)) && (c->swaps & bit) ? bit : 0;
    if (k || lost || !(c->swaps & bit) || c->is != CHANGE_BEGINS)
        return;
    c->is = CHANGE_LOSES;
    if (!p->failed || p->failed == -DSM_ECANCELED)
        p->failed = op->status;
}

static void heard(struct store_put *p, struct store_change *c, const dsm_op *op, uint32_t k, struct store_env *e)
{
    uint8_t bit = (uint8_t)(1u << k);
    if (op->status) {
        has_failed(p, c, op, k, e);
        return;
    }
    e->dues->unsettled &= ~(1ull << place_of(e, c->number, k));
    if (c->undoes & bit) {
        c->has &= (uint8_t)~bit;
        c->unsure &= (uint8_t)~bit;
    } else if (c->looks & bit) {
        found(c, k, c->seen[k], e);
    } else {
        found(c, k, op->result == op->operand ? op->desired : op->result, e);
    }
}

static void all_heard(struct store_put *p, struct store_change *changes, const dsm_op *ops, struct store_env *e)
{
    const dsm_op *op = ops + p->ahead;
    p->erred = false;
    if (!p->undoing)
        p->error = p->cause = 0;
    written(p, ops, e);
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        uint32_t asked = is_over(c) ? 0 : c->undoes | c->looks | c->swaps;
        for (; asked; asked &= asked - 1)
            heard(p, c, op++, (uint32_t)__builtin_ctz(asked), e);
    }
}

/* ---- what becomes of a change ---- */

static bool is_written(const struct store_put *p, const struct store_change *c, const struct store_env *e)
{
    return !(p->unwritten & places_of(e, extent_of(e->shape, c->number)));
}

static void is_made(struct store_change *c, struct store_env *e)
{
    c->is = CHANGE_DONE;
    add_due_of(e, &(struct store_due){.number = c->number,
                                      .lock = store_lock_of(e, c->from),
                                      .next = c->to,
                                      .left = copies_bits(e, c),
                                      .intent = c->intent});
}

/* It stands at no copy. */
static void is_gone(struct store_change *c, struct store_env *e)
{
    c->is = c->refused ? CHANGE_REFUSED : CHANGE_FAILED;
    release(e, c->intent);
}

/* It may stand at some copies, until this client or another one resolves it. */
static void leave(struct store_change *c, struct store_env *e)
{
    c->is = CHANGE_UNKNOWN;
    store_keep(e, c->number);
}

/* The first copy with a head that can't be there, while the primary is locked; or 0. */
static uint32_t contradicting(const struct store_change *c, const struct store_env *e)
{
    for (uint32_t k = 1; k < copies_of_page(e, c->number); k++) {
        uint64_t word = c->seen[k];
        bool is_known = !((c->has | c->unsure) >> k & 1), locked = head_locked(word);
        if (is_known && word != c->from && (!locked || versions_ahead(word, c->from) > 0))
            return k;
    }
    return 0;
}

/* What has become of the others that are locked is not known then, either. */
static enum store_next contradicts(struct store_put *p, struct store_change *changes, const struct store_change *of,
                                   struct store_env *e)
{
    uint64_t number = of->number;
    uint32_t copy = contradicting(of, e);
    for (uint32_t i = 0; i < p->count; i++)
        if (!is_over(&changes[i]))
            leave(&changes[i], e);
    return end(p, err_set(DSM_ECORRUPT, 0, "copy %u of %u has another head of page number %llu than the primary", copy,
                          copies_of_page(e, number), (unsigned long long)number));
}

static void judge(const struct store_put *p, struct store_change *c, struct store_env *e)
{
    if (c->is == CHANGE_LOSES && !(c->has | c->unsure))
        is_gone(c, e);
    else if (c->is == CHANGE_BEGINS && c->has == copies_bits(e, c) && is_written(p, c, e))
        is_made(c, e);
}

/* All is over, as far as it can be known. */
static enum store_next ends(struct store_put *p, const struct store_change *changes, struct store_env *e)
{
    bool unknown = false;
    for (uint32_t i = 0; i < p->count; i++)
        unknown |= changes[i].is == CHANGE_UNKNOWN;
    int code = p->error ? -p->error : DSM_EIO, cause = p->cause < 0 ? -p->cause : p->cause;
    if (!p->undoing && !unknown)
        return end(p, p->failed);
    if (code == DSM_EBUSY && !unknown)
        return end(p, err_set(DSM_EBUSY, 0, "page number %llu is being changed by another client; try again later",
                              (unsigned long long)p->locked));
    if (!unknown && code == DSM_EUNKNOWN)
        code = cause ? cause : DSM_EIO;
    e->dues->blamed = (uint8_t)(p->place + 1);
    return end(p, unknown ? err_set_op(DSM_EUNKNOWN, cause ? cause : code, 0, 0,
                                       "it does not answer; the page stays locked until it does")
                          : err_set_op(code, 0, 0, 0, "it does not answer; the page is as it was"));
}

/* ---- waiting, and giving up ---- */

static enum store_next leave_all(struct store_put *p, struct store_change *changes, struct store_env *e)
{
    for (uint32_t i = 0; i < p->count; i++)
        if (!is_over(&changes[i]))
            leave(&changes[i], e);
    return ends(p, changes, e);
}

void store_put_give_up(struct store_put *p, struct store_change *changes, struct store_env *e)
{
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        if (!is_over(c) && !(c->has | c->unsure))
            is_gone(c, e);
        else if (!is_over(c))
            leave(c, e);
    }
    if (p->step != PUT_LOCKS)
        (void)ends(p, changes, e);
}

static enum store_next sleep_before(struct store_put *p, int64_t ns)
{
    p->sleep_ns = ns;
    p->step = PUT_SLEEPS;
    return STORE_SLEEP;
}

static enum store_next undo(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                            struct store_env *e)
{
    bool any = false;
    p->undoing = true;
    p->tries = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        c->is = is_over(c) ? c->is : CHANGE_LOSES;
        judge(p, c, e);
        any |= !is_over(c);
    }
    return any ? ask(p, changes, ops, write, e) : ends(p, changes, e);
}

static enum store_next try_again(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                                 struct store_env *e)
{
    bool late = p->error == -DSM_ETIME || p->cause == -DSM_ETIME;
    p->tries += late ? TRIES / 2 : 1;
    if (p->tries < TRIES)
        return sleep_before(p, (int64_t)SLEEP_SHORTEST << p->tries);
    return p->undoing ? leave_all(p, changes, e) : undo(p, changes, ops, write, e);
}

/* The first change that waits for the lock of a client which has not got the primary. That takes it back, or is dead.
 */
static const struct store_change *first_that_waits(const struct store_put *p, const struct store_change *changes)
{
    for (uint32_t i = 0; i < p->count; i++)
        if (changes[i].is == CHANGE_BEGINS && changes[i].waits)
            return &changes[i];
    return NULL;
}

static enum store_next wait_for(struct store_put *p, struct store_change *changes, const struct store_change *c,
                                dsm_op *ops, const dsm_op *write, struct store_env *e)
{
    uint32_t copy = (uint32_t)__builtin_ctz(c->waits);
    if (!p->waited || p->lock != c->seen[copy] || p->locked != c->number) {
        p->since = p->asked = e->now;
        p->waited = 0;
        store_count_retry(e);
    }
    p->lock = c->seen[copy];
    p->locked = c->number;
    p->copy = copy;
    p->waited++;
    if ((p->ends && e->now >= p->ends) || e->now - p->since > p->lock_wait) {
        p->error = -DSM_EBUSY;
        p->place = place_of(e, c->number, copy);
        return undo(p, changes, ops, write, e);
    }
    if (e->now - p->asked >= (p->asked == p->since ? LOCK_ASK_AFTER : LOCK_ASK_EVERY)) {
        p->asked = e->now;
        p->step = PUT_SLEEPS;
        return STORE_RECOVER;
    }
    int64_t most = p->waited < WAITS_DOUBLED ? (int64_t)WAIT_SHORTEST << p->waited : WAIT_LONGEST;
    return sleep_before(p, most / 2 + (int64_t)(e->random % (uint64_t)(most / 2)));
}

/* What has been asked is answered. */
static enum store_next go_on(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                             struct store_env *e)
{
    bool left = false, at_once = false;
    all_heard(p, changes, ops, e);
    for (uint32_t i = 0; i < p->count; i++) {
        struct store_change *c = &changes[i];
        bool is_held = c->is == CHANGE_BEGINS && c->has & 1;
        if (is_held && contradicting(c, e))
            return contradicts(p, changes, c, e);
        if (!is_over(c))
            judge(p, c, e);
        left |= !is_over(c);
        at_once |= !is_over(c) && (c->is == CHANGE_LOSES || !c->waits);
    }
    if (!left)
        return ends(p, changes, e);
    if (p->erred)
        return try_again(p, changes, ops, write, e);
    const struct store_change *waits = first_that_waits(p, changes);
    return at_once || !waits ? ask(p, changes, ops, write, e) : wait_for(p, changes, waits, ops, write, e);
}

enum store_next store_put_step(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                               struct store_env *e)
{
    switch (p->step) {
    case PUT_BEGINS:
        return begin(p, changes, ops, write, e);
    case PUT_SLEEPS:
        return ask(p, changes, ops, write, e);
    default:
        return go_on(p, changes, ops, write, e);
    }
}
