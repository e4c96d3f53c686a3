/*
 * A condition: waiters of a lock, woken by number, oldest first.
 *
 * Of its own the object has a line for each waiter that may be:
 *   offset  bytes  what
 *        0      8  state: bits 0-1: 0 free, 1 waiting, 2 notified; bits 2-63: the token of the grant in which it began to wait
 *        8      8  who: identity (member.h) of the waiter's process; 0 while free
 *       16      8  bell
 *       24      8  when: the token of the grant in which it was notified
 *       32     32  zero
 * The object's second bell rings with that of any line, for threads that wait for several.
 * All of it but the bell is written by the holder of the lock, with plain stores. The token orders the waiters and names them: a
 * holder gives the lock back when it begins to wait, so no two have the same.
 *
 *   wait     holding the lock: who, then state waiting; release; sleep until notified; take the lock; state free, then who 0
 *   notify   holding the lock: the oldest that wait get 'when' and become notified; their bells ring
 *
 * A notification is not lost with whom it was given to: until a waiter has the lock again and has freed its line it may die, and
 * then its line says 'notified' with a dead owner. Who waits looks for such lines every 50 ms, takes the lock, and goes
 * on in the dead one's place, if it waited already when that one was notified. What dies with the lock held comes to the next
 * holder as the lock's news.
 *
 * FAR, an outage may keep a waiter from the lock, and so from freeing its line. The handle remembers such lines, and frees them,
 * passing on what they were given, as soon as it has the lock again, at the latest when it is closed.
 */
#include "lock.h"

#include <stdlib.h>

#define NEAR_PATIENCE_NS 2000000000 /* for the lock, by who closes the handle */
enum { STATE = 0, WHO = 8, BELL = 16, WHEN = 24, FREE = 0, WAITING = 1, NOTIFIED = 2 };

struct dsm_condition {
    dsm_lock inner; /* the object's own lock, and this handle's seat */
    dsm_lock *lock; /* the one that counts */
    uint64_t looked;
    uint8_t *copy;  /* far: of all lines */
    uint64_t *left; /* of each line, the token of a wait of this handle that could not free it, or 0 */
    uint32_t owing; /* there may be one */
};

static const struct seat *seat(const dsm_condition *c) { return &c->inner.seat; }

static uint64_t at(const dsm_condition *c, uint32_t line, uint64_t what)
{
    return seat(c)->own + (uint64_t)SYNC_LINE * line + what;
}

/* The lines, in place or as a copy. */
static int read_lines(dsm_condition *c)
{
    return seat(c)->near ? seat_check(seat(c))
                         : seat_read_all(seat(c), seat(c)->own, c->copy, (uint64_t)SYNC_LINE * seat(c)->count);
}

static uint64_t value(const dsm_condition *c, uint32_t line, uint64_t what)
{
    const uint8_t *lines = seat(c)->near ? seat(c)->near + seat(c)->own : c->copy;
    return observe_u64((const uint64_t *)(const void *)(lines + (size_t)SYNC_LINE * line + what));
}

static int put(dsm_condition *c, uint32_t line, uint64_t what, uint64_t v)
{
    return seat_write(seat(c), at(c, line, what), v);
}

static int refuse_without_lock(const dsm_condition *c)
{
    return dsm_lock_held(c->lock) ? 0 : err_set(DSM_ENOTHELD, 0, "the condition's lock");
}

/* ---- under the lock ---- */

static int free_line(dsm_condition *c, uint32_t line)
{
    int rc = put(c, line, STATE, value(c, line, STATE) & ~3ull);
    return rc ? rc : put(c, line, WHO, 0);
}

static int wake(dsm_condition *c, uint32_t line, uint64_t when)
{
    int rc = put(c, line, WHEN, when);
    if (!rc)
        rc = put(c, line, STATE, (value(c, line, STATE) & ~3ull) | NOTIFIED);
    if (seat(c)->near) {
        bell_ring((struct bell *)(void *)(seat(c)->near + at(c, line, BELL)), 1);
        bell_ring((struct bell *)(void *)(seat(c)->near + SYNC_SECOND), BELL_ALL);
    }
    return rc;
}

/* The line of the oldest that waits and began after 'after' and before 'when', or -1. */
static int64_t oldest(const dsm_condition *c, uint64_t after, uint64_t when)
{
    int64_t best = -1;
    uint64_t first = UINT64_MAX;
    for (uint32_t i = 0; i < seat(c)->count; i++) {
        uint64_t state = value(c, i, STATE);
        if ((state & 3) == WAITING && state > after && state >> 2 < when && state < first) {
            first = state;
            best = i;
        }
    }
    return best;
}

static int notify(dsm_condition *c, uint64_t n, uint64_t when)
{
    int rc = 0;
    uint64_t after = 0;
    for (uint64_t i = 0; i < n && !rc; i++) {
        int64_t line = oldest(c, after, when);
        if (line < 0)
            break;
        after = value(c, (uint32_t)line, STATE);
        rc = wake(c, (uint32_t)line, when);
    }
    return rc;
}

/* The line of a waiter that is no more becomes free; its notification goes to another one. First there, then here: a death in
 * between wakes one too many, not one too few. */
static int bury(dsm_condition *c, uint32_t line)
{
    int rc = 0;
    if ((value(c, line, STATE) & 3) == NOTIFIED)
        rc = notify(c, 1, value(c, line, WHEN));
    return rc ? rc : free_line(c, line);
}

static bool line_of_the_dead(const dsm_condition *c, uint32_t line)
{
    return seat(c)->near && member_dead(value(c, line, WHO));
}

/* Whether a line says 'notified', its waiter is dead, and one that began with this token waited then. */
static bool inheritable(const dsm_condition *c, uint32_t line, uint64_t token)
{
    return (value(c, line, STATE) & 3) == NOTIFIED && token < value(c, line, WHEN) && line_of_the_dead(c, line);
}

static int find_line(dsm_condition *c, uint32_t *line)
{
    for (uint32_t i = 0; i < seat(c)->count; i++)
        if (!value(c, i, WHO)) {
            *line = i;
            return 0;
        }
    for (uint32_t i = 0; i < seat(c)->count; i++)
        if (line_of_the_dead(c, i)) {
            *line = i;
            return bury(c, i);
        }
    return err_set(DSM_EMEMBERS, 0, "%u wait already", seat(c)->count);
}

/* The lines as they are, without those that this handle has left behind. */
static int open_lines(dsm_condition *c)
{
    int rc = read_lines(c);
    if (rc || !observe_u32(&c->owing))
        return rc;
    exchange_u32(&c->owing, 0);
    for (uint32_t i = 0; i < seat(c)->count && !rc; i++) {
        uint64_t token = peek_u64(&c->left[i]);
        if (token && value(c, i, STATE) >> 2 == token && value(c, i, WHO) == seat(c)->identity)
            rc = bury(c, i);
        if (token && !rc)
            compare_swap_u64(&c->left[i], token, 0); /* or a thread has left it anew meanwhile */
    }
    if (rc)
        note_u32(&c->owing, 1);
    return rc ? rc : read_lines(c);
}

/* By a thread without the lock, perhaps while another is in open_lines(), which then looks again: 'owing' goes up last here, and
 * down first there. */
void dsm_condition_abandon(dsm_waiter *w)
{
    dsm_condition *c = w->condition;
    note_u64(&c->left[w->line], w->token);
    publish_u32(&c->owing, 1);
}

int dsm_condition_notify(dsm_condition *c, uint64_t n)
{
    int rc = refuse_without_lock(c);
    if (!rc)
        rc = open_lines(c);
    return rc ? rc : notify(c, n, dsm_lock_token(c->lock));
}

int dsm_condition_begin(dsm_condition *c, dsm_waiter *w)
{
    int rc = refuse_without_lock(c);
    *w = (dsm_waiter){.condition = c, .token = dsm_lock_token(c->lock)};
    if (!rc)
        rc = open_lines(c);
    if (!rc)
        rc = find_line(c, &w->line);
    if (rc)
        return rc;
    rc = put(c, w->line, WHO, seat(c)->identity);
    if (!rc)
        rc = put(c, w->line, STATE, w->token << 2 | WAITING);
    if (!rc)
        rc = dsm_lock_release(c->lock);
    if (rc && seat(c)->near) {
        put(c, w->line, STATE, w->token << 2);
        put(c, w->line, WHO, 0);
    } else if (rc) { /* the lock may be another's by now */
        dsm_condition_abandon(w);
    }
    return rc;
}

static int finish(dsm_condition *c, const dsm_waiter *w, bool inherit)
{
    int rc = open_lines(c);
    if (rc)
        return rc;
    if (value(c, w->line, STATE) >> 2 != w->token)
        return err_set(DSM_ECORRUPT, 0, "another one's line");
    bool got = (value(c, w->line, STATE) & 3) == NOTIFIED;
    rc = free_line(c, w->line);
    for (uint32_t i = 0; i < seat(c)->count && inherit && !got && !rc; i++)
        if (inheritable(c, i, w->token)) {
            got = true;
            rc = free_line(c, i);
        }
    return rc ? rc : got;
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
    if (!seat(c)->near || !seat_time_to_look(&c->looked))
        return false;
    for (uint32_t i = 0; i < seat(c)->count; i++)
        if (inheritable(c, i, token))
            return true;
    return false;
}

int dsm_condition_wait(dsm_waiter *waiter, int64_t timeout_ns)
{
    dsm_condition *c = waiter->condition;
    struct waiting w;
    uint64_t state;
    wait_begin(&w, &c->inner.seat, at(c, waiter->line, BELL), timeout_ns);
    for (;;) {
        wait_listen(&w);
        int rc = seat_read(seat(c), at(c, waiter->line, STATE), &state);
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
    if (seat(c)->lock != (lock ? lock->seat.id : 0))
        return err_set(DSM_EMISMATCH, 0, "the condition goes with %s",
                       seat(c)->lock ? "another lock" : "a lock of its own");
    c->lock = lock ? lock : &c->inner;
    c->copy = seat(c)->near ? NULL : malloc((size_t)SYNC_LINE * seat(c)->count);
    c->left = calloc(seat(c)->count, sizeof *c->left);
    return c->left && (c->copy || seat(c)->near) ? 0 : err_set(DSM_ENOMEM, 0, "condition");
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
    bool held = dsm_lock_held(c->lock);
    if (!observe_u32(&c->owing))
        return 0;
    int64_t patience = remote_patience(seat(c)->r);
    int rc = held ? 1 : dsm_lock_acquire(c->lock, patience < 0 ? NEAR_PATIENCE_NS : patience);
    if (rc <= 0)
        return rc ? rc : err_set(DSM_ETIME, 0, "the lock did not become free, which a wait that was cut off needs");
    rc = open_lines(c);
    int released = held ? 0 : dsm_lock_release(c->lock);
    return rc ? rc : released;
}

int dsm_condition_settle(dsm_condition *c)
{
    if (!observe_u32(&c->owing))
        return 1;
    int rc = dsm_lock_held(c->lock) ? 0 : dsm_lock_acquire(c->lock, 0); /* who has it does that with his next call */
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
    free(c->copy);
    free(c->left);
    free(c);
}
