/*
 * A condition: waiters that have given back a lock, notified by number, oldest first.
 *
 * The own bytes of the object are a line for each waiter that there may be:
 *   offset  bytes  what
 *        0      8  state: bits 0-1: 0 free, 1 waiting, 2 notified; bits 2-63: the token of the grant in which it began
 *                  to wait
 *        8      8  owner: identity (member.h) of the waiter's process; 0 while free
 *       16      8  eventcount
 *       24      8  when: the token of the grant in which it was notified
 *       32     32  zero
 * The object's second eventcount is notified with that of any line, for threads that wait on behalf of several waiters.
 * The token orders the waiters and names them: a holder gives the lock back when it begins to wait, so no two waiters
 * have the same token.
 *
 * The holder of the lock changes all words but the eventcounts, by compare-swaps from what it has read. In one line
 * 'state' takes no value twice, and neither does 'when', which grows. A line belongs to the process in 'owner', which
 * goes 0 -> me, me -> 0, and from a dead process to 0; the other words follow it. A holder whose lock was broken finds
 * that out when it begins, by the lock's word. If it is broken after that check, it may still notify waiters that came
 * before the break, as if it had done so then, but no waiter that has come since.
 *
 *   wait     holding the lock: owner, then state waiting; release; sleep until notified; take the lock; state free,
 *            then owner 0
 *   notify   holding the lock: the oldest waiters get 'when' and become notified; their eventcounts are, too
 *
 * A notification is not lost with the waiter that got it. That waiter may die before it has the lock again and has
 * freed its line; then its line says 'notified' with a dead owner. The other waiters check for such lines every 50 ms.
 * A waiter that finds one takes the lock and goes on in the dead waiter's place, if it was already waiting when the
 * dead waiter was notified. If a process dies while it holds the lock, the next holder finds owner_died set.
 *
 * REMOTE. An outage may keep a waiter from the lock, and so from freeing its line. The handle remembers such lines. It
 * frees them, and passes on the notifications that they got, as soon as it has the lock again, at the latest when it is
 * closed.
 */
#include "lock.h"

#include <stdlib.h>
#include <string.h>

#define LOCAL_TIMEOUT_NS 2000000000 /* for the lock, when a handle is closed */
enum { STATE = 0, OWNER = 8, EVENTCOUNT = 16, WHEN = 24, FREE = 0, WAITING = 1, NOTIFIED = 2, CONDITION_MOST = 1024 };

struct dsm_condition {
    dsm_lock inner; /* the object's own lock, and this handle's membership */
    dsm_lock *lock; /* the lock that the condition is associated with: 'inner' or another */
    uint64_t looked;
    uint8_t *copy;             /* remote: copy of the bytes from the word to the end */
    uint64_t *left;            /* for each line the token of a wait of this handle that could not free it, or 0 */
    uint32_t owing;            /* 'left' may have a token */
    pthread_mutex_t beginning; /* remote: held while a wait begins, so that no two have one token; see handle_lock() */
};

static const struct sync_handle *handle(const dsm_condition *c) { return &c->inner.handle; }

static uint64_t at(const dsm_condition *c, uint32_t line, uint64_t what)
{
    return handle(c)->own + (uint64_t)SYNC_LINE * line + what;
}

static uint64_t copy_bytes(const struct sync_handle *s) { return s->own + (uint64_t)SYNC_LINE * s->count - SYNC_WORD; }

/* Remote: the word as it is in the copy. */
static uint64_t word_at(const dsm_condition *c, uint64_t offset)
{
    const uint8_t *bytes =
        handle_is_mapped(handle(c)) ? (const uint8_t *)handle_word(handle(c), 0) : c->copy - SYNC_WORD;
    return load_acquire_u64((const uint64_t *)(const void *)(bytes + offset));
}

static uint64_t value(const dsm_condition *c, uint32_t line, uint64_t what) { return word_at(c, at(c, line, what)); }

static int not_held(void) { return err_set(DSM_ENOTHELD, 0, "the condition's lock"); }

/* Reads the lines, in place or as a copy, for the holder of the lock. */
static int read_lines(dsm_condition *c)
{
    uint64_t word, held = load_acquire_u64(&c->lock->held);
    if (!held)
        return not_held();
    int rc = handle_is_mapped(handle(c)) ? handle_check(handle(c))
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

/* 1: done. 0: another process has changed the word. Remote: the copy is updated. */
static int change(dsm_condition *c, uint32_t line, uint64_t what, uint64_t from, uint64_t to)
{
    uint64_t found = from, offset = at(c, line, what);
    int rc = from == to ? SWAP_DONE : SWAP_UNKNOWN;
    for (int i = 0; i < SWAP_TRIES && rc == SWAP_UNKNOWN && found == from; i++)
        rc = handle_swap(handle(c), offset, from, to, &found);
    if (rc == SWAP_UNKNOWN && found == from)
        return err_set(DSM_EIO, 0, "%d times in a row", SWAP_TRIES);
    if (rc >= 0 && !handle_is_mapped(handle(c)))
        memcpy(c->copy + (offset - SYNC_WORD), rc == SWAP_DONE ? &to : &found, sizeof to);
    return rc < 0 ? rc : rc == SWAP_DONE;
}

/* 1: the line was in that state, and is free now. 0: another process has changed the state. */
static int free_line(dsm_condition *c, uint32_t line, uint64_t state)
{
    uint64_t owner = value(c, line, OWNER);
    int rc = change(c, line, STATE, state, state & ~3ull);
    int emptied = rc == 1 ? change(c, line, OWNER, owner, 0) : 0;
    return emptied < 0 ? emptied : rc;
}

/* 1: notified. 0: another process notified it, or it does not wait any more. 'when' only grows: a holder that was
 * broken may be changing it as well. */
static int wake(dsm_condition *c, uint32_t line, uint64_t state, uint64_t when)
{
    int rc = 0;
    for (int i = 0; i < SWAP_TRIES && !rc; i++) {
        uint64_t before = value(c, line, WHEN);
        rc = before < when ? change(c, line, WHEN, before, when) : 1;
    }
    if (rc == 1)
        rc = change(c, line, STATE, state, (state & ~3ull) | NOTIFIED);
    if (rc) {
        handle_notify(handle(c), at(c, line, EVENTCOUNT), 1);
        handle_notify(handle(c), SYNC_SECOND, NOTIFY_ALL);
    }
    return rc;
}

/* The line of the oldest waiter that began after the state 'after' and before 'when', or -1. *found is its state. */
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

/* Frees the line of a waiter that is gone, and passes its notification on to another waiter. It passes on first and
 * frees then: a death in between wakes one waiter too many, not one too few. */
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
    return member_ended(handle(c)->r, value(c, line, OWNER));
}

/* Whether a line says 'notified', its waiter is dead, and a waiter that began with this token was already waiting
 * then. */
static bool inheritable(const dsm_condition *c, uint32_t line, uint64_t token)
{
    return (value(c, line, STATE) & 3) == NOTIFIED && token < value(c, line, WHEN) && line_of_the_dead(c, line);
}

static int find_line(dsm_condition *c, uint32_t *line)
{
    uint64_t owners[CONDITION_MOST];
    uint8_t ended[CONDITION_MOST];
    for (uint32_t i = 0; i < handle(c)->count; i++) {
        owners[i] = value(c, i, OWNER);
        if (!owners[i]) {
            *line = i;
            return 0;
        }
    }
    members_ended(handle(c)->r, owners, handle(c)->count, ended);
    for (uint32_t i = 0; i < handle(c)->count; i++)
        if (ended[i]) {
            *line = i;
            return bury(c, i);
        }
    return err_set(DSM_EMEMBERS, 0, "%u wait already", handle(c)->count);
}

/* Takes a line. If several find the same line, one gets it. */
static int take_line(dsm_condition *c, uint32_t *line)
{
    int rc = 0;
    for (uint32_t i = 0; i <= handle(c)->count && !rc; i++) {
        if ((rc = find_line(c, line)))
            return rc;
        rc = change(c, *line, OWNER, 0, handle(c)->identity);
    }
    return rc < 0 ? rc : rc ? 0 : err_set(DSM_EMEMBERS, 0, "others are quicker");
}

/* Reads the lines, after it has freed those that this handle has abandoned. */
static int open_lines(dsm_condition *c)
{
    int rc = read_lines(c);
    if (rc || !load_acquire_u32(&c->owing))
        return rc;
    exchange_u32(&c->owing, 0);
    for (uint32_t i = 0; i < handle(c)->count && !rc; i++) {
        uint64_t token = load_relaxed_u64(&c->left[i]);
        if (token && value(c, i, STATE) >> 2 == token && value(c, i, OWNER) == handle(c)->identity)
            rc = bury(c, i);
        if (token && !rc)
            compare_swap_u64(&c->left[i], token, 0); /* unless a thread has abandoned it again meanwhile */
    }
    if (rc)
        store_relaxed_u32(&c->owing, 1);
    return rc ? rc : read_lines(c);
}

/* Called by a thread without the lock, perhaps while another thread is in open_lines(), which then rechecks: 'owing' is
 * set last here, and cleared first there. */
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

/* Sets the line to waiting and gives the lock back. The lock may have been broken and belong to another process by now:
 * a line that cannot be freed again then is abandoned, for this handle's next call that has the lock. */
static int give_back(dsm_condition *c, dsm_waiter *w)
{
    uint64_t state = w->token << 2 | WAITING;
    int rc = change(c, w->line, STATE, value(c, w->line, STATE), state);
    if (!rc)
        return err_set(DSM_ECORRUPT, 0, "another one's line");
    if (rc == 1)
        rc = dsm_lock_release(c->lock);
    if (rc && !(handle_is_mapped(handle(c)) && free_line(c, w->line, state) == 1))
        dsm_condition_abandon(w);
    return rc;
}

/* If the lock was broken, the handle has lost it, as if by the release that is part of a wait. */
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

/* Remote: a signal handler of this thread that acquires the lock meanwhile is refused, and does not wait for it. */
static int begin_remote(dsm_condition *c, dsm_waiter *w)
{
    int rc = handle_lock(&c->beginning);
    if (rc)
        return rc;
    if (dsm_lock_held(c->lock))
        local_lock_work(c->lock->local_lock);
    rc = begin(c, w);
    local_lock_rest(c->lock->local_lock);
    pthread_mutex_unlock(&c->beginning);
    return rc;
}

int dsm_condition_begin(dsm_condition *c, dsm_waiter *w)
{
    return handle_is_mapped(handle(c)) ? begin(c, w) : begin_remote(c, w);
}

/* 1: notified, 0: not. At most one other change can come in between: the waiter is notified meanwhile. */
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

/* From a copy of its own: several threads may wait with one handle, and none has the lock. 1, 0, or -DSM_E…. */
static int inheritable_remote(const dsm_condition *c, uint64_t token)
{
    uint64_t owners[CONDITION_MOST], nbytes = (uint64_t)SYNC_LINE * handle(c)->count;
    uint8_t ended[CONDITION_MOST], *lines = malloc(nbytes);
    int rc = lines ? handle_read_all(handle(c), handle(c)->own, lines, nbytes) : err_set(DSM_ENOMEM, 0, "condition");
    for (uint32_t i = 0; !rc && i < handle(c)->count; i++) {
        const uint64_t *words = (const uint64_t *)(const void *)(lines + (size_t)SYNC_LINE * i);
        bool notified = (words[STATE / 8] & 3) == NOTIFIED && token < words[WHEN / 8];
        owners[i] = notified ? words[OWNER / 8] : 0;
    }
    free(lines);
    if (rc)
        return rc;
    members_ended(handle(c)->r, owners, handle(c)->count, ended);
    return memchr(ended, 1, handle(c)->count) != NULL;
}

static int something_to_inherit(dsm_condition *c, uint64_t token)
{
    if (!handle_time_to_look(&c->looked))
        return 0;
    if (!handle_is_mapped(handle(c)))
        return inheritable_remote(c, token);
    for (uint32_t i = 0; i < handle(c)->count; i++)
        if (inheritable(c, i, token))
            return 1;
    return 0;
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
        if ((rc = something_to_inherit(c, waiter->token)))
            return rc < 0 ? rc : DSM_CONDITION_INHERIT;
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
        return err_set(DSM_EMISMATCH, 0, "the condition is associated with %s",
                       handle(c)->lock ? "another lock" : "a lock of its own");
    c->lock = lock ? lock : &c->inner;
    c->copy = handle_is_mapped(handle(c)) ? NULL : malloc(copy_bytes(handle(c)));
    handle_lock_init(&c->beginning);
    c->left = calloc(handle(c)->count, sizeof *c->left);
    return c->left && (c->copy || handle_is_mapped(handle(c))) ? 0 : err_set(DSM_ENOMEM, 0, "condition");
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

/* Frees abandoned lines, if there are any, with the lock held. If this handle held the lock before, it keeps it. */
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
    int rc = dsm_lock_held(c->lock) ? 0 : lock_take(c->lock, 0); /* its holder does that with its next call */
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
