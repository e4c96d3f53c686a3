/*
 * A condition: waiters of a lock, woken by number, oldest first.
 *
 * Of its own the object has a line for each waiter that may be:
 *   offset  bytes  what
 *        0      8  state: bits 0-1: 0 free, 1 waiting, 2 notified; bits 2-63: the token of the grant in which it began
 *        to wait
 *        8      8  who: identity (member.h) of the waiter's process; 0 while free
 *       16      8  eventcount
 *       24      8  when: the token of the grant in which it was notified
 *       32     32  zero
 * The object's second eventcount rings with that of any line, for threads that wait for several.
 * The token orders the waiters and names them: a holder gives the lock back when it begins to wait, so no two have the
 * same.
 *
 * The holder of the lock changes all of it but the eventcount, by compare-swaps from what it has read. State takes no
 * value twice in a line, and neither does 'when', which grows. Who has a line keeps it: who goes 0 -> me, me -> 0, dead
 * -> another, and the other words follow. A holder whose lock was broken finds out where it begins, by the lock's word.
 * Is it broken after that look, it may yet notify waiters that were there before it was broken (it is as if it had done
 * so then), but none that has come since.
 *
 *   wait     holding the lock: who, then state waiting; release; sleep until notified; take the lock; state free, then
 *   who 0
 *   notify   holding the lock: the oldest that wait get 'when' and become notified; their eventcounts ring
 *
 * A notification is not lost with whom it was given to: until a waiter has the lock again and has freed its line it may
 * die, and then its line says 'notified' with a dead owner. Who waits looks for such lines every 50 ms, takes the lock,
 * and goes on in the dead one's place, if it waited already when that one was notified. What dies with the lock held
 * comes to the next holder as the lock's news.
 *
 * REMOTE, an outage may keep a waiter from the lock, and so from freeing its line. The handle remembers such lines, and
 * frees them, passing on what they were given, as soon as it has the lock again, at the latest when it is closed.
 */
#include "lock.h"

#include <stdlib.h>
#include <string.h>

#define LOCAL_TIMEOUT_NS 2000000000 /* for the lock, by who closes the handle */
enum { STATE = 0, WHO = 8, EVENTCOUNT = 16, WHEN = 24, FREE = 0, WAITING = 1, NOTIFIED = 2 };

struct dsm_condition {
    dsm_lock inner; /* the object's own lock, and this handle's handle */
    dsm_lock *lock; /* the one that counts */
    uint64_t looked;
    uint8_t *copy;             /* remote: of the bytes from the word to the end */
    uint64_t *left;            /* of each line, the token of a wait of this handle that could not free it, or 0 */
    uint32_t owing;            /* there may be one */
    pthread_mutex_t beginning; /* remote: a wait begins; no two have one token. See handle_lock() */
};

static const struct sync_handle *handle(const dsm_condition *c) { return &c->inner.handle; }

static uint64_t at(const dsm_condition *c, uint32_t line, uint64_t what)
{
    return handle(c)->own + (uint64_t)SYNC_LINE * line + what;
}

static uint64_t copy_bytes(const struct sync_handle *s) { return s->own + (uint64_t)SYNC_LINE * s->count - SYNC_WORD; }

/* Remote, as they are in the copy. */
static uint64_t word_at(const dsm_condition *c, uint64_t offset)
{
    const uint8_t *bytes = handle(c)->mapped ? handle(c)->mapped : c->copy - SYNC_WORD;
    return load_acquire_u64((const uint64_t *)(const void *)(bytes + offset));
}

static uint64_t value(const dsm_condition *c, uint32_t line, uint64_t what) { return word_at(c, at(c, line, what)); }

static int not_held(void) { return err_set(DSM_ENOTHELD, 0, "the condition's lock"); }

/* The lines, in place or as a copy, for who has the lock. */
static int read_lines(dsm_condition *c)
{
    uint64_t word, held = load_acquire_u64(&c->lock->held);
    if (!held)
        return not_held();
    int rc = handle(c)->mapped ? handle_check(handle(c))
                               : handle_read_all(handle(c), SYNC_WORD, c->copy, copy_bytes(handle(c)));
    if (rc)
        return rc;
    if (c->lock == &c->inner)
        word = word_at(c, SYNC_WORD);
    else if ((rc = handle_read(&c->lock->handle, SYNC_WORD, &word)))
        return rc;
    return word == held || c->lock->unsure ? 0 : not_held();
}

/* ---- under the lock ---- */

/* 1: done, 0: another one has changed it. Remote, the copy follows. */
static int change(dsm_condition *c, uint32_t line, uint64_t what, uint64_t from, uint64_t to)
{
    uint64_t found = from, offset = at(c, line, what);
    int rc = from == to ? SWAP_DONE : SWAP_UNKNOWN;
    for (int i = 0; i < SWAP_TRIES && rc == SWAP_UNKNOWN && found == from; i++)
        rc = handle_swap(handle(c), offset, from, to, &found);
    if (rc == SWAP_UNKNOWN && found == from)
        return err_set(DSM_EIO, 0, "%d times in a row", SWAP_TRIES);
    if (rc >= 0 && !handle(c)->mapped)
        memcpy(c->copy + (offset - SYNC_WORD), rc == SWAP_DONE ? &to : &found, sizeof to);
    return rc < 0 ? rc : rc == SWAP_DONE;
}

/* 1: it was in that state, and is free now; 0: it was another's. */
static int free_line(dsm_condition *c, uint32_t line, uint64_t state)
{
    uint64_t who = value(c, line, WHO);
    int rc = change(c, line, STATE, state, state & ~3ull);
    int emptied = rc == 1 ? change(c, line, WHO, who, 0) : 0;
    return emptied < 0 ? emptied : rc;
}

/* 1: it is notified, 0: by another one, or it does not wait any more. 'When' only grows: a broken holder may be at it
 * as well. */
static int wake(dsm_condition *c, uint32_t line, uint64_t state, uint64_t when)
{
    int rc = 0;
    for (int i = 0; i < SWAP_TRIES && !rc; i++) {
        uint64_t before = value(c, line, WHEN);
        rc = before < when ? change(c, line, WHEN, before, when) : 1;
    }
    if (rc == 1)
        rc = change(c, line, STATE, state, (state & ~3ull) | NOTIFIED);
    if (rc && handle(c)->mapped) {
        eventcount_notify((struct eventcount *)(void *)(handle(c)->mapped + at(c, line, EVENTCOUNT)), 1);
        eventcount_notify((struct eventcount *)(void *)(handle(c)->mapped + SYNC_SECOND), NOTIFY_ALL);
    }
    return rc;
}

/* The line of the oldest that waits and began after the state 'after' and before 'when', or -1; *found is how it
 * was. */
static int64_t oldest(const dsm_condition *c, uint64_t after, uint64_t when, uint64_t *found)
{
    int64_t best = -1;
    *found = UINT64_MAX;
    for (uint32_t i = 0; i < handle(c)->count; i++) {
        uint64_t state = value(c, i, STATE);
        if ((state & 3) == WAITING && state > after && state >> 2 < when && state < *found) {
            *found = state;
            best = i;
        }
    }
    return best;
}

static int notify(dsm_condition *c, uint64_t n, uint64_t when)
{
    for (uint64_t after = 0; n;) {
        int64_t line = oldest(c, after, when, &after);
        int rc = line < 0 ? 0 : wake(c, (uint32_t)line, after, when);
        if (line < 0 || rc < 0)
            return rc;
        n -= (uint64_t)rc;
    }
    return 0;
}

/* The line of a waiter that is no more becomes free; its notification goes to another one. First there, then here: a
 * death in between wakes one too many, not one too few. */
static int bury(dsm_condition *c, uint32_t line)
{
    uint64_t state = value(c, line, STATE);
    int rc = (state & 3) == NOTIFIED ? notify(c, 1, value(c, line, WHEN)) : 0;
    if (!rc)
        rc = free_line(c, line, state);
    return rc < 0 ? rc : 0;
}

static bool line_of_the_dead(const dsm_condition *c, uint32_t line)
{
    return handle(c)->mapped && member_dead(value(c, line, WHO));
}

/* Whether a line says 'notified', its waiter is dead, and one that began with this token waited then. */
static bool inheritable(const dsm_condition *c, uint32_t line, uint64_t token)
{
    return (value(c, line, STATE) & 3) == NOTIFIED && token < value(c, line, WHEN) && line_of_the_dead(c, line);
}

static int find_line(dsm_condition *c, uint32_t *line)
{
    for (uint32_t i = 0; i < handle(c)->count; i++)
        if (!value(c, i, WHO)) {
            *line = i;
            return 0;
        }
    for (uint32_t i = 0; i < handle(c)->count; i++)
        if (line_of_the_dead(c, i)) {
            *line = i;
            return bury(c, i);
        }
    return err_set(DSM_EMEMBERS, 0, "%u wait already", handle(c)->count);
}

/* Of those that find the same line, one gets it. */
static int take_line(dsm_condition *c, uint32_t *line)
{
    int rc = 0;
    for (uint32_t i = 0; i <= handle(c)->count && !rc; i++) {
        if ((rc = find_line(c, line)))
            return rc;
        rc = change(c, *line, WHO, 0, handle(c)->identity);
    }
    return rc < 0 ? rc : rc ? 0 : err_set(DSM_EMEMBERS, 0, "others are quicker");
}

/* The lines as they are, without those that this handle has left behind. */
static int open_lines(dsm_condition *c)
{
    int rc = read_lines(c);
    if (rc || !load_acquire_u32(&c->owing))
        return rc;
    exchange_u32(&c->owing, 0);
    for (uint32_t i = 0; i < handle(c)->count && !rc; i++) {
        uint64_t token = load_relaxed_u64(&c->left[i]);
        if (token && value(c, i, STATE) >> 2 == token && value(c, i, WHO) == handle(c)->identity)
            rc = bury(c, i);
        if (token && !rc)
            compare_swap_u64(&c->left[i], token, 0); /* or a thread has left it again meanwhile */
    }
    if (rc)
        store_relaxed_u32(&c->owing, 1);
    return rc ? rc : read_lines(c);
}

/* By a thread without the lock, perhaps while another is in open_lines(), which then looks again: 'owing' goes up last
 * here, and down first there. */
void dsm_condition_abandon(dsm_waiter *w)
{
    dsm_condition *c = w->condition;
    store_relaxed_u64(&c->left[w->line], w->token);
    store_release_u32(&c->owing, 1);
}

int dsm_condition_notify(dsm_condition *c, uint64_t n)
{
    int rc = open_lines(c);
    return rc ? rc : notify(c, n, dsm_lock_token(c->lock));
}

/* The line waits and the lock is given back. It may be another's by now: what can't be undone then is left for who has
 * it. */
static int give_back(dsm_condition *c, dsm_waiter *w)
{
    uint64_t state = w->token << 2 | WAITING;
    int rc = change(c, w->line, STATE, value(c, w->line, STATE), state);
    if (!rc)
        return err_set(DSM_ECORRUPT, 0, "another one's line");
    if (rc == 1)
        rc = dsm_lock_release(c->lock);
    if (rc && !(handle(c)->mapped && free_line(c, w->line, state) == 1))
        dsm_condition_abandon(w);
    return rc;
}

/* A lock that was broken is none: the handle has lost it, as if by the release that a wait is. */
static int begin(dsm_condition *c, dsm_waiter *w)
{
    *w = (dsm_waiter){.condition = c, .token = dsm_lock_token(c->lock)};
    int rc = open_lines(c);
    if (rc == -DSM_ENOTHELD)
        return dsm_lock_release(c->lock), not_held();
    if (!rc)
        rc = take_line(c, &w->line);
    return rc ? rc : give_back(c, w);
}

int dsm_condition_begin(dsm_condition *c, dsm_waiter *w)
{
    int rc = handle(c)->mapped ? 0 : handle_lock(&c->beginning);
    if (rc)
        return rc;
    rc = begin(c, w);
    if (!handle(c)->mapped)
        pthread_mutex_unlock(&c->beginning);
    return rc;
}

/* 1: notified, 0: not. At most one other change comes between: it is notified meanwhile. */
static int finish(dsm_condition *c, const dsm_waiter *w, bool inherit)
{
    uint64_t state = 0;
    int rc = open_lines(c), freed = 0;
    for (int i = 0; i < SWAP_TRIES && !rc && !freed; i++) {
        state = value(c, w->line, STATE);
        if (state >> 2 != w->token)
            return err_set(DSM_ECORRUPT, 0, "another one's line");
        freed = state & 3 ? free_line(c, w->line, state) : 1;
    }
    if (rc || freed < 0)
        return rc ? rc : freed;
    bool got = (state & 3) == NOTIFIED;
    for (uint32_t i = 0; i < handle(c)->count && inherit && !got && rc >= 0; i++)
        if (inheritable(c, i, w->token))
            got = (rc = free_line(c, i, (value(c, i, STATE) & ~3ull) | NOTIFIED)) == 1;
    return rc < 0 ? rc : got;
}

int dsm_condition_finish(dsm_waiter *w, int inherit)
{
    int rc = finish(w->condition, w, inherit);
    if (rc < 0 && rc != -DSM_ECORRUPT)
        dsm_condition_abandon(w);
    return rc;
}

/* ---- without the lock ---- */

static bool something_to_inherit(dsm_condition *c, uint64_t token)
{
    if (!handle(c)->mapped || !handle_time_to_look(&c->looked))
        return false;
    for (uint32_t i = 0; i < handle(c)->count; i++)
        if (inheritable(c, i, token))
            return true;
    return false;
}

int dsm_condition_wait(dsm_waiter *waiter, int64_t timeout_ns)
{
    dsm_condition *c = waiter->condition;
    struct waiting w;
    uint64_t state;
    wait_begin(&w, &c->inner.handle, at(c, waiter->line, EVENTCOUNT), timeout_ns);
    for (;;) {
        wait_prepare(&w);
        int rc = handle_read(handle(c), at(c, waiter->line, STATE), &state);
        if (rc)
            return rc;
        if (state != (waiter->token << 2 | WAITING))
            return DSM_CONDITION_NOTIFIED;
        if (something_to_inherit(c, waiter->token))
            return DSM_CONDITION_INHERIT;
        if (wait_over(&w))
            return 0;
        wait_sleep(&w);
    }
}

/* ---- handles ---- */

dsm_lock *dsm_condition_lock(dsm_condition *c) { return c->lock; }

static int prepare(dsm_condition *c, dsm_lock *lock)
{
    if (handle(c)->lock != (lock ? lock->handle.id : 0))
        return err_set(DSM_EMISMATCH, 0, "the condition goes with %s",
                       handle(c)->lock ? "another lock" : "a lock of its own");
    c->lock = lock ? lock : &c->inner;
    c->copy = handle(c)->mapped ? NULL : malloc(copy_bytes(handle(c)));
    handle_lock_init(&c->beginning);
    c->left = calloc(handle(c)->count, sizeof *c->left);
    return c->left && (c->copy || handle(c)->mapped) ? 0 : err_set(DSM_ENOMEM, 0, "condition");
}

int dsm_condition_open(dsm_remote *r, dsm_lock *lock, int64_t spin_ns, dsm_condition **out)
{
    dsm_condition *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(DSM_ENOMEM, 0, "condition");
    int rc = lock_open(&c->inner, r, DSM_CONDITION, spin_ns, NULL, NULL);
    if (!rc && (rc = prepare(c, lock)))
        lock_close(&c->inner);
    if (!rc) {
        *out = c;
        return 0;
    }
    free(c->copy);
    free(c->left);
    free(c);
    return rc;
}

/* With the lock, if there is something to do. A lock that this handle holds is the caller's. */
static int free_what_was_left(dsm_condition *c)
{
    if (!load_acquire_u32(&c->owing))
        return 0;
    int64_t timeout = remote_timeout(handle(c)->r);
    int rc = dsm_lock_held(c->lock) ? open_lines(c) : -DSM_ENOTHELD;
    if (rc != -DSM_ENOTHELD)
        return rc;
    dsm_lock_release(c->lock); /* it was broken, or is not held */
    rc = lock_take(c->lock, timeout < 0 ? LOCAL_TIMEOUT_NS : timeout);
    if (rc <= 0)
        return rc ? rc : err_set(DSM_ETIME, 0, "the lock did not become free, which a wait that was cut off needs");
    rc = open_lines(c);
    int released = dsm_lock_release(c->lock);
    return rc ? rc : released;
}

int dsm_condition_settle(dsm_condition *c)
{
    if (!load_acquire_u32(&c->owing))
        return 1;
    int rc = dsm_lock_held(c->lock) ? 0 : lock_take(c->lock, 0); /* who has it does that with his next call */
    if (rc <= 0)
        return rc;
    rc = open_lines(c);
    int released = lock_release(c->lock, true);
    return rc ? rc : released ? released : 1;
}

int dsm_condition_leave(dsm_condition *c)
{
    int rc = free_what_was_left(c);
    return rc && !sure_lost(rc) ? rc : lock_leave(&c->inner);
}

void dsm_condition_close(dsm_condition *c)
{
    dsm_condition_leave(c);
    lock_close(&c->inner);
    pthread_mutex_destroy(&c->beginning);
    free(c->copy);
    free(c->left);
    free(c);
}
