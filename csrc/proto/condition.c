/*
 * A condition: waiters of a lock, woken by number, oldest first.
 *
 * Of its own the object has a line for each waiter that may be:
 *   offset  bytes  what
 *        0      8  state: bits 0-1: 0 free, 1 waiting, 2 notified; bits 2-63: the token of the grant in which it began to wait
 *        8      8  who: identity (member.h) of the waiter's process; 0 while free
 *       16      8  bell
 *       24     40  zero
 * All of it but the bell is written by the holder of the lock, with plain stores. The token orders the waiters and names them: a
 * holder gives the lock back when it begins to wait, so no two have the same.
 *
 *   wait     holding the lock: who, then state waiting; release; sleep until notified; take the lock; state free, then who 0
 *   notify   holding the lock: the oldest that wait become notified; their bells ring
 *
 * A notification is not lost with whom it was given to: until a waiter has the lock again and has freed its line it may die, and
 * then its line says 'notified' with a dead owner. Who waits looks for such lines every 50 ms, takes the lock, and goes
 * on in the dead one's place. What dies with the lock held comes to the next holder as the lock's news.
 */
#include "lock.h"

#include <stdlib.h>

enum { STATE = 0, WHO = 8, BELL = 16, FREE = 0, WAITING = 1, NOTIFIED = 2 };

struct dsm_condition {
    dsm_lock inner; /* the object's own lock, and this handle's seat */
    dsm_lock *lock; /* the one that counts */
    uint64_t looked;
    uint8_t *copy; /* far: of all lines */
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

static int wake(dsm_condition *c, uint32_t line)
{
    int rc = put(c, line, STATE, (value(c, line, STATE) & ~3ull) | NOTIFIED);
    if (seat(c)->near)
        bell_ring((struct bell *)(void *)(seat(c)->near + at(c, line, BELL)), 1);
    return rc;
}

/* The line of the oldest that waits and began after 'after', or -1. */
static int64_t oldest(const dsm_condition *c, uint64_t after)
{
    int64_t best = -1;
    uint64_t first = UINT64_MAX;
    for (uint32_t i = 0; i < seat(c)->count; i++) {
        uint64_t state = value(c, i, STATE);
        if ((state & 3) == WAITING && state > after && state < first) {
            first = state;
            best = i;
        }
    }
    return best;
}

static int notify(dsm_condition *c, uint64_t n)
{
    int rc = 0;
    uint64_t after = 0;
    for (uint64_t i = 0; i < n && !rc; i++) {
        int64_t line = oldest(c, after);
        if (line < 0)
            break;
        after = value(c, (uint32_t)line, STATE);
        rc = wake(c, (uint32_t)line);
    }
    return rc;
}

/* A line whose owner is dead becomes free; its notification goes to another waiter, or with own to the caller: *got. */
static int bury(dsm_condition *c, uint32_t line, bool own, bool *got)
{
    bool news = (value(c, line, STATE) & 3) == NOTIFIED;
    int rc = free_line(c, line);
    if (!news || rc)
        return rc;
    if (own)
        *got = true;
    return own ? 0 : notify(c, 1);
}

static bool line_of_the_dead(const dsm_condition *c, uint32_t line)
{
    return seat(c)->near && member_dead(value(c, line, WHO));
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
            return bury(c, i, false, NULL);
        }
    return err_set(DSM_EMEMBERS, 0, "%u wait already", seat(c)->count);
}

int dsm_condition_notify(dsm_condition *c, uint64_t n)
{
    int rc = refuse_without_lock(c);
    if (!rc)
        rc = read_lines(c);
    return rc ? rc : notify(c, n);
}

int dsm_condition_begin(dsm_condition *c, dsm_waiter *w)
{
    int rc = refuse_without_lock(c);
    *w = (dsm_waiter){.condition = c, .token = dsm_lock_token(c->lock)};
    if (!rc)
        rc = read_lines(c);
    if (!rc)
        rc = find_line(c, &w->line);
    if (rc)
        return rc;
    rc = put(c, w->line, WHO, seat(c)->identity);
    if (!rc)
        rc = put(c, w->line, STATE, w->token << 2 | WAITING);
    if (!rc)
        rc = dsm_lock_release(c->lock);
    if (rc) {
        put(c, w->line, STATE, w->token << 2);
        put(c, w->line, WHO, 0);
    }
    return rc;
}

int dsm_condition_finish(dsm_waiter *w, int inherit)
{
    dsm_condition *c = w->condition;
    bool got = false;
    int rc = read_lines(c);
    if (rc)
        return rc;
    if (value(c, w->line, STATE) >> 2 != w->token)
        return err_set(DSM_ECORRUPT, 0, "another one's line");
    got = (value(c, w->line, STATE) & 3) == NOTIFIED;
    rc = free_line(c, w->line);
    for (uint32_t i = 0; i < seat(c)->count && inherit && !got && !rc; i++)
        if ((value(c, i, STATE) & 3) == NOTIFIED && line_of_the_dead(c, i))
            rc = bury(c, i, true, &got);
    return rc ? rc : got;
}

/* ---- without the lock ---- */

static bool something_to_inherit(dsm_condition *c)
{
    if (!seat(c)->near || !seat_time_to_look(&c->looked))
        return false;
    for (uint32_t i = 0; i < seat(c)->count; i++)
        if ((value(c, i, STATE) & 3) == NOTIFIED && line_of_the_dead(c, i))
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
        if (something_to_inherit(c))
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
    if (!seat(c)->near && !(c->copy = malloc((size_t)SYNC_LINE * seat(c)->count)))
        return err_set(DSM_ENOMEM, 0, "condition");
    return 0;
}

int dsm_condition_open(dsm_remote *r, dsm_lock *lock, int64_t spin_ns, dsm_condition **out)
{
    dsm_condition *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(DSM_ENOMEM, 0, "condition");
    int rc = lock_open(&c->inner, r, DSM_CONDITION, spin_ns, NULL, NULL);
    if (!rc && (rc = prepare(c, lock)))
        lock_close(&c->inner);
    if (rc)
        free(c);
    else
        *out = c;
    return rc;
}

void dsm_condition_close(dsm_condition *c)
{
    lock_close(&c->inner);
    free(c->copy);
    free(c);
}
