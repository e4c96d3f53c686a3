/*
 * The ops of a client, where a store has several copies, or after a transaction. What is due, the end of locks whose
 * changes are done, goes along with the next posting, and is started at the end of a call, so that other clients need
 * not wait for the next one. It is collected after a later posting to the place of the last of it: that is the same
 * connection, so no call waits for it. Where memory is mapped, a commit settles it at once.
 *
 * A lock of this client whose change is not known to be made or not is kept. The calls after that try to resolve it, in
 * a ninth of their time at most, since a copy that does not answer takes long to try.
 */
#include "posting.h"

#include "../base/deadline.h"
#include "../base/mapped_ops.h"
#include "../core/remote.h"
#include "../objects/member.h"
#include "../objects/sure.h"
#include "commit.h"
#include "mapped.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POSTING_MOST = COMMIT_OPS, DUE_OPS = STORE_DUES * STORE_COPIES_MOST };
_Static_assert(POSTING_MOST >= STORE_OPS_MOST * PER_CHUNK, "all pages of a window");
enum { PAUSE = 100000000, PAUSES = 8 }; /* between tries to resolve what is kept: ns, and times the last one took */

struct store_posting {
    dsm_op list[DUE_OPS + POSTING_MOST];
    dsm_op started[DUE_OPS];
    dsm_op commit[COMMIT_OPS];
    dsm_op held[RECORD_PAGES];
    dsm_op again[STORE_MANY_MOST];
    uint32_t n; /* of them */
    dsm_ticket *ticket;
    uint32_t failed; /* the place of the op that has failed last, or their number */
    uint64_t holder; /* of the lock that was met last, which is not proven dead: its identity at a place; 0: none */
    uint32_t alive;  /* that place */
    int64_t resume;  /* when what is kept is tried again */
    int64_t unlocks; /* when unlocks that are late are tried again */
};

struct store_posting *posting_new(void) { return calloc(1, sizeof(struct store_posting)); }
void posting_free(struct store_posting *p) { free(p); }

void posting_blame(dsm_store *s, uint32_t k)
{
    if (s->posting)
        s->posting->failed = k;
}

uint32_t posting_failed(const dsm_store *s)
{
    return s->posting->failed < store_places(&s->env) ? s->posting->failed : 0;
}

/* ---- posting ---- */

static uint32_t place_at(const dsm_store *s, const dsm_op *op)
{
    uint32_t k = 0;
    while (k < store_places(&s->env) && s->at[k] != op->remote)
        k++;
    return k;
}

/* These have ended. A place that has failed is late, for eight times as long as that took, or until it has answered to
 * what the caller wants there. */
static void note_late(dsm_store *s, const dsm_op *ops, uint32_t n, int64_t began)
{
    uint64_t late = s->dues.late;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t bit = 1ull << place_at(s, &ops[i]);
        if (ops[i].status != -DSM_ECANCELED)
            late = ops[i].status ? late | bit : late & ~bit;
    }
    if (late & ~s->dues.late)
        s->posting->unlocks = clock_ns() + PAUSES * (clock_ns() - began);
    s->dues.late = late;
}

static int execute(dsm_store *s, dsm_op *ops, uint32_t n)
{
    bool spread = store_places(&s->env) > 1;
    int64_t began = spread ? clock_ns() : 0;
    uint64_t nbytes = 0;
    size_t failed = 0;
    for (uint32_t i = 0; i < n; i++)
        nbytes += ops[i].nbytes;
    int rc = dsm_execute(s->at[0]->ctx, ops, n, remote_timeout_for(s->at[0], nbytes), &failed);
    if (rc)
        s->posting->failed = place_at(s, &ops[failed]);
    if (spread && (rc || s->dues.late))
        note_late(s, ops, n, began);
    return rc;
}

/* The failure of the call stays the last one. */
void posting_collect(dsm_store *s)
{
    struct store_posting *p = s->posting;
    if (!p->ticket)
        return;
    dsm_failure why = *dsm_last_error();
    int64_t began = clock_ns();
    if (dsm_finish(p->ticket, remote_timeout(s->at[0]), NULL) && store_places(&s->env) > 1)
        note_late(s, p->started, p->n, began);
    err_again(&why);
    p->ticket = NULL;
    store_due_done(&s->env, p->started, p->n);
}

dsm_op *posting_ops(const dsm_store *s) { return s->posting->commit; }

static uint32_t right_of(const dsm_op *op)
{
    return op->code == DSM_OP_READ ? DSM_READ : op->code == DSM_OP_WRITE ? DSM_WRITE : DSM_ATOMIC;
}

enum { PREFETCH_FROM = 2 };

/* In order; behind one that is refused, none is executed. Many ops are for words far from each other. What is written
 * is released by the compare-swap of a word, or of a lock, behind it, and acquired by the look at that word in record.c
 * and at that head in page.c. */
static void execute_mapped(dsm_op *ops, uint32_t n)
{
    int rc = 0;
    for (uint32_t i = 0; n > PREFETCH_FROM && i < n; i++)
        __builtin_prefetch(remote_at(ops[i].remote, ops[i].offset));
    for (uint32_t i = 0; i < n; i++) {
        dsm_remote *r = ops[i].remote;
        if (rc) {
            ops[i].status = -DSM_ECANCELED;
            continue;
        }
        rc = ops[i].status = remote_check(r, ops[i].offset, ops[i].nbytes, right_of(&ops[i]));
        if (!rc)
            mapped_execute(remote_at(r, 0), &ops[i]);
    }
}

/* With what is due. */
static void execute_more(dsm_store *s, dsm_op *ops, uint32_t n)
{
    struct store_posting *p = s->posting;
    uint32_t due = p->ticket ? 0 : store_due_ops(&s->env, p->list, DUE_OPS);
    bool behind = s->dues.n > STORE_DUES / 2; /* or so many that there is soon no room for more */
    memcpy(p->list + due, ops, n * sizeof *ops);
    execute(s, p->list, due + n);
    memcpy(ops, p->list + due, n * sizeof *ops);
    store_due_done(&s->env, p->list, due);
    for (uint32_t i = 0; i < n && p->ticket; i++)
        behind |= ops[i].remote == p->started[p->n - 1].remote;
    if (behind)
        posting_collect(s);
}

void posting_execute(dsm_store *s, dsm_op *ops, uint32_t n)
{
    if (remote_is_mapped(s->at[0]))
        execute_mapped(ops, n);
    else if (store_places(&s->env) > 1 || s->dues.n || s->posting->ticket)
        execute_more(s, ops, n);
    else
        execute(s, ops, n);
}

void posting_insist(dsm_store *s, dsm_op *ops, uint32_t n)
{
    struct store_posting *p = s->posting;
    uint32_t which[STORE_MANY_MOST], left = n;
    posting_execute(s, ops, n);
    for (int i = 1; i < STORE_CANCELED_MOST; i++) {
        left = 0;
        for (uint32_t k = 0; k < n; k++)
            if (store_was_canceled(ops, n, k)) {
                p->again[left] = ops[k];
                which[left++] = k;
            }
        if (!left || wait_interrupted())
            return;
        posting_execute(s, p->again, left);
        while (left--)
            ops[which[left]] = p->again[left];
    }
}

static int execute_dues(dsm_store *s)
{
    struct store_posting *p = s->posting;
    s->dues.late = 0;
    uint32_t n = store_due_ops(&s->env, p->started, DUE_OPS);
    int rc = 0;
    if (remote_is_mapped(s->at[0]))
        execute_mapped(p->started, n);
    else
        execute(s, p->started, n);
    for (uint32_t i = 0; i < n && !rc; i++)
        rc = p->started[i].status;
    store_due_done(&s->env, p->started, n);
    return rc;
}

void posting_unlock(dsm_store *s)
{
    struct store_posting *p = s->posting;
    if (!s->dues.n)
        return;
    posting_collect(s);
    dsm_failure why = *dsm_last_error();
    p->n = store_due_ops(&s->env, p->started, DUE_OPS);
    if (p->n && dsm_submit(s->at[0]->ctx, p->started, p->n, &p->ticket, NULL))
        p->ticket = NULL; /* they stay due */
    err_again(&why);
}

/* ---- locks ---- */

static int resolve(dsm_store *s, struct store_resolve *m)
{
    struct store_env env = s->env;
    store_ask(&env);
    while (store_resolve_step(m, &env) == STORE_POST)
        posting_insist(s, m->ops, m->n);
    return m->status;
}

int posting_sweep(dsm_store *s, uint32_t slot, uint32_t mark)
{
    struct store_sweep m = {.slot = slot, .mark = mark};
    struct store_resolve last = {.slot = slot, .mark = mark};
    if (store_places(&s->env) == 1) /* only transactions lock, and the last one has a record */
        return posting_explain(s, resolve(s, &last));
    struct store_env env = s->env;
    store_ask(&env);
    while (store_sweep_step(&m, &env) == STORE_POST)
        posting_insist(s, m.ops, m.n);
    return posting_explain(s, m.status);
}

int posting_settle(dsm_store *s)
{
    int rc = 0;
    posting_collect(s);
    for (int tries = 0; s->dues.n && !rc && tries < SURE_TRIES; tries++) {
        rc = execute_dues(s);
        rc = rc == -DSM_EUNKNOWN || rc == -DSM_ECANCELED ? 0 : err_known(rc);
    }
    if (s->dues.n || s->dues.kept) {
        rc = posting_sweep(s, s->env.slot, s->env.mark);
        if (!rc)
            store_is_swept(&s->env);
    }
    return rc;
}

/* Where memory is mapped, several threads may be in here, and posting_name_client() says it. */
static void name_holder(dsm_store *s, uint64_t holder, uint32_t alive)
{
    if (remote_is_mapped(s->at[0]))
        return;
    s->posting->holder = holder;
    s->posting->alive = alive;
}

/* 1: proven, at each place: a transaction may have changed pages in any extent. 0: it is not; or the slot has been
 * taken over, and that has resolved the lock. */
static int holder_is_dead(dsm_store *s, uint64_t lock)
{
    uint32_t slot = head_locker(lock);
    name_holder(s, 0, 0);
    for (uint32_t k = 0; k < store_places(&s->env); k++) {
        uint64_t word;
        int rc = sure_words(s->at[k], slot_at(slot), &word, 1);
        if (rc) {
            s->posting->failed = remote_is_mapped(s->at[0]) ? s->posting->failed : k;
            return rc;
        }
        if (!k && store_mark(word) != head_low(lock))
            return 0;
        if (word && !member_ended(s->at[k], word)) {
            name_holder(s, word, k);
            return 0;
        }
    }
    return 1;
}

int posting_recover(dsm_store *s, uint64_t number, uint64_t lock, uint32_t copy)
{
    struct store_resolve m = {.number = number, .lock = lock, .copy = copy};
    if (store_lock_is_own(&s->env, lock)) /* where memory is mapped, another thread is in a commit */
        return remote_is_mapped(s->at[0]) ? 0 : resolve(s, &m);
    int rc = holder_is_dead(s, lock);
    return rc > 0 ? resolve(s, &m) : rc;
}

/* The READ uses a new connection, so a compare-swap of before has set its lock by then, or never will. 1: its unlock is
 * due. */
static int resolve_kept_at(dsm_store *s, uint64_t number, uint32_t copy)
{
    uint64_t head;
    int rc = sure_words(s->at[place_of(&s->env, number, copy)], head_of_page_at(&s->shape, number), &head, 1);
    if (!rc && store_is_due(&s->env, number, head))
        return 1;
    if (rc || !store_lock_is_own(&s->env, head))
        return rc;
    struct store_resolve m = {.number = number, .lock = head, .copy = copy};
    return resolve(s, &m);
}

static int resolve_kept(dsm_store *s, uint64_t number)
{
    int rc = 0;
    for (uint32_t k = 0; k < copies_of_page(&s->env, number) && !rc; k++)
        rc = resolve_kept_at(s, number, k);
    if (!rc)
        store_stands_not(&s->env, number);
    return rc;
}

/* What can't be resolved in one extent leaves others alone, and a page whose unlock is due its extent. */
void posting_try_kept(dsm_store *s, uint64_t extents)
{
    struct store_dues *d = &s->dues;
    int64_t began = clock_ns(), took;
    for (uint32_t i = d->n_kept; i--;) {
        uint64_t number = d->pages[i], bit = 1ull << extent_of(&s->shape, number);
        if (extents & bit && resolve_kept(s, number) < 0)
            extents &= ~bit;
    }
    took = clock_ns() - began;
    s->posting->resume = clock_ns() + (took * PAUSES > PAUSE ? took * PAUSES : PAUSE);
}

void posting_begin(dsm_store *s)
{
    if (s->dues.late && clock_ns() >= s->posting->unlocks)
        s->dues.late = 0;
    if (s->dues.kept && clock_ns() >= s->posting->resume)
        posting_try_kept(s, UINT64_MAX);
    s->dues.blamed = 0;
    s->posting->failed = store_places(&s->env);
    s->posting->holder = 0;
}

/* ---- chunks ---- */

/* No WRITE to one of them may be under way. */
int posting_close_held(dsm_store *s)
{
    uint64_t word, held = 0;
    for (uint32_t i = 0; i < s->held.n; i++)
        held |= places_of(&s->env, s->held.of[i].extent);
    for (uint64_t left = s->dues.unsettled & held; left; left &= left - 1) {
        int rc = sure_read(s->at[__builtin_ctzll(left)], slot_at(s->env.slot), &word, sizeof word);
        if (rc)
            return rc;
    }
    if (!s->held.n)
        return 0;
    dsm_op *ops = s->posting->held;
    uint32_t n = store_held_ops(&s->env, ops);
    s->dues.unsettled &= ~held;
    posting_execute(s, ops, n);
    store_held_done(&s->env, ops, n);
    for (uint32_t i = 0; i < n; i++)
        if (ops[i].status)
            return err_known(ops[i].status);
    return 0;
}

/* ---- what is said ---- */

const char *posting_name(const dsm_store *s, uint32_t place, char text[PLACE_TEXT])
{
    uint32_t extent = s->shape.extents == 1 ? 0 : extent_at(&s->env, place);
    if (s->shape.extents == 1)
        snprintf(text, PLACE_TEXT, "copy %u", place);
    else
        snprintf(text, PLACE_TEXT, "copy %u of extent %u", place - first_of(&s->env, extent), extent);
    return text;
}

static bool is_of_a_copy(int rc)
{
    return rc == -DSM_EPEER || rc == -DSM_EIO || rc == -DSM_ETIME || rc == -DSM_ESTALE || rc == -DSM_EFENCED ||
           rc == -DSM_ECANCELED || rc == -DSM_EUNKNOWN || rc == -DSM_EPATH;
}

int posting_explain(dsm_store *s, int rc)
{
    struct store_posting *p = s->posting;
    dsm_failure f = *dsm_last_error();
    if (s->dues.blamed) {
        p->failed = s->dues.blamed - 1u;
        s->dues.blamed = 0;
    }
    if (f.code != -rc) {
        f = (dsm_failure){.code = -rc};
        snprintf(f.detail, sizeof f.detail, "%s", dsm_strerror(rc));
    }
    if (store_places(&s->env) > 1 && is_of_a_copy(rc) && p->failed < store_places(&s->env)) {
        char name[PLACE_TEXT];
        rc = err_set_op(f.code, f.cause, f.status, f.vendor, "%s of the store, at %s: %s",
                        posting_name(s, p->failed, name), dsm_remote_address(s->at[p->failed]), f.detail);
    } else if (rc == -DSM_EBUSY && p->holder) {
        char name[MEMBER_TEXT];
        rc = err_set(DSM_EBUSY, 0, "%s: %s, not proven dead at %s", f.detail, member_describe(p->holder, name),
                     dsm_remote_address(s->at[p->alive]));
    }
    return rc;
}

static uint64_t word_of(const dsm_store *s, uint64_t offset)
{
    return load_relaxed_u64((const uint64_t *)(const void *)remote_at(s->at[0], offset));
}

/* The slot may be another client's by now: its mark tells. */
static uint64_t client_in(const dsm_store *s, uint32_t slot, uint32_t mark)
{
    uint64_t identity = slot < s->shape.slots ? word_of(s, slot_at(slot)) : 0;
    return identity && store_mark(identity) == mark ? identity : 0;
}

static bool is_visible(const dsm_store *s)
{
    return remote_is_mapped(s->at[0]) && remote_allows(s->at[0], 0, s->shape.nbytes, DSM_READ);
}

int posting_name_client(const dsm_store *s, int rc, uint64_t lock)
{
    uint64_t identity = head_locked(lock) && is_visible(s) ? client_in(s, head_locker(lock), head_low(lock)) : 0;
    if (!identity)
        return rc;
    char name[MEMBER_TEXT];
    dsm_failure f = *dsm_last_error();
    return err_set(f.code, 0, "%s: %s", f.detail, member_describe(identity, name));
}

int posting_name_change(const dsm_store *s, int rc, uint64_t pid, uint64_t head)
{
    struct frame_header said;
    uint64_t now;
    if (!is_visible(s) || mapped_page_header(s->at[0], &s->shape, pid, &said, &now) || now != head || !said.writer)
        return rc;
    dsm_failure f = *dsm_last_error();
    uint32_t slot = writer_slot(said.writer);
    if (!writer_in_transaction(said.writer))
        return err_set(f.code, 0, "%s, by a write of the client in slot %u", f.detail, slot);
    return err_set(f.code, 0, "%s, by transaction %u of the client in slot %u", f.detail,
                   writer_transaction(said.writer), slot);
}
