/*
 * A barrier: parties wait for each other, time and again.
 *
 * Of its own the object has
 *   offset  bytes  what
 *        0      8  round: bit 0: broken; bits 1-63: generation, which grows when the parties go on and with every reset
 *        8      8  arrived: parties of this generation that have come
 *       16      8  ends: bit g mod 64: generation g ended by a reset, its parties did not meet
 *       24     40  zero
 *       64     8n  who has come: identities (member.h), in the order of arrival
 * All of it is written by the holder of the object's lock (lock.h), with plain stores, and read by anybody.
 *
 * Order of the writes: who, then arrived; ends and arrived, then round. If a process dies
 *   while it holds the lock      the next holder gets the news and breaks the barrier: some of the writes may be missing
 *   after it has arrived         a waiter finds it dead within 50 ms and breaks the barrier; also while it runs the action
 */
#include "lock.h"

#include <stdlib.h>

enum { ROUND = 0, ARRIVED = 8, ENDS = 16, WHO = SYNC_LINE };

struct dsm_barrier {
    dsm_lock lock;
    uint64_t looked;
};

struct state {
    uint64_t round, arrived, ends;
};

static const struct seat *seat(const dsm_barrier *b) { return &b->lock.seat; }

static int read_state(dsm_barrier *b, struct state *s)
{
    int rc = seat_read(seat(b), seat(b)->own + ROUND, &s->round);
    if (!rc)
        rc = seat_read(seat(b), seat(b)->own + ARRIVED, &s->arrived);
    if (!rc)
        rc = seat_read(seat(b), seat(b)->own + ENDS, &s->ends);
    if (!rc && s->arrived > seat(b)->count)
        rc = err_set(DSM_ECORRUPT, 0, "%llu of %u parties", (unsigned long long)s->arrived, seat(b)->count);
    return rc;
}

static int put(dsm_barrier *b, uint64_t offset, uint64_t value)
{
    return seat_write(seat(b), seat(b)->own + offset, value);
}

static int turn(dsm_barrier *b, uint64_t round)
{
    int rc = put(b, ROUND, round);
    if (seat(b)->near)
        bell_ring((struct bell *)(void *)(seat(b)->near + SYNC_SECOND), BELL_ALL);
    return rc;
}

/* ---- under the lock ---- */

static int begin_next(dsm_barrier *b, const struct state *s, bool met)
{
    uint64_t bit = 1ull << (s->round >> 1 & 63);
    int rc = put(b, ENDS, met ? s->ends & ~bit : s->ends | bit);
    if (!rc)
        rc = put(b, ARRIVED, 0);
    return rc ? rc : turn(b, ((s->round >> 1) + 1) << 1);
}

static int break_it(dsm_barrier *b, const struct state *s) { return s->round & 1 ? 0 : turn(b, s->round | 1); }

static int broken(void) { return err_set(DSM_EBROKEN, 0, "barrier"); }

/* With the lock: 1 and the state, or what to return. A state that a dead holder may have left half written is broken. */
static int open_state(dsm_barrier *b, int64_t timeout_ns, struct state *s)
{
    int rc = dsm_lock_acquire(&b->lock, timeout_ns);
    if (rc != 1)
        return rc;
    rc = read_state(b, s);
    if (!rc && dsm_lock_recovered(&b->lock)) {
        rc = break_it(b, s);
        s->round |= 1;
    }
    if (!rc)
        return 1;
    lock_release(&b->lock, true);
    return rc;
}

static int close_state(dsm_barrier *b, int rc)
{
    int released = lock_release(&b->lock, false);
    return rc < 0 || !released ? rc : released;
}

/* ---- arrival ---- */

/* 1: arrived, 2: arrived as the last, 0: all places are taken, the last of them has not finished. */
static int arrive(dsm_barrier *b, struct state *s, bool finish)
{
    if (s->round & 1)
        return broken();
    if (s->arrived == seat(b)->count)
        return 0;
    int rc = put(b, WHO + 8 * s->arrived, seat(b)->identity);
    if (!rc)
        rc = put(b, ARRIVED, s->arrived + 1);
    bool last = s->arrived + 1 == seat(b)->count;
    if (!rc && last && finish)
        rc = begin_next(b, s, true);
    return rc ? rc : 1 + last;
}

static int wait_for_end(dsm_barrier *b, uint64_t generation, int64_t timeout_ns);

int dsm_barrier_arrive(dsm_barrier *b, int finish, int64_t timeout_ns, uint64_t *generation, uint32_t *index)
{
    struct state s;
    int64_t deadline = deadline_after(timeout_ns);
    for (;;) {
        int rc = open_state(b, timeout_ns, &s);
        if (rc != 1)
            return rc;
        rc = close_state(b, arrive(b, &s, finish));
        *generation = s.round >> 1;
        *index = (uint32_t)s.arrived;
        if (rc)
            return rc;
        if (timeout_ns >= 0 && (timeout_ns = deadline - clock_ns()) <= 0)
            return 0;
        rc = wait_for_end(b, *generation, timeout_ns);
        if (rc == 0 || (rc < 0 && rc != -DSM_EBROKEN))
            return rc;
    }
}

int dsm_barrier_finish(dsm_barrier *b, uint64_t generation, int64_t timeout_ns)
{
    struct state s;
    int rc = open_state(b, timeout_ns, &s);
    if (rc != 1)
        return rc;
    if (s.round != generation << 1)
        rc = broken();
    else
        rc = begin_next(b, &s, true);
    return close_state(b, rc ? rc : 1);
}

/* ---- waiting ---- */

static int ended(dsm_barrier *b, uint64_t generation, uint64_t *round)
{
    uint64_t ends;
    int rc = seat_read(seat(b), seat(b)->own + ROUND, round);
    if (rc || *round == generation << 1)
        return rc;
    if (*round >> 1 == generation)
        return broken();
    rc = seat_read(seat(b), seat(b)->own + ENDS, &ends);
    return rc ? rc : ends >> (generation & 63) & 1 ? broken() : 1;
}

static bool somebody_died(dsm_barrier *b)
{
    uint64_t arrived = observe_u64(seat_word(seat(b), seat(b)->own + ARRIVED)), alive = seat(b)->identity;
    for (uint64_t i = 0; i < arrived && i < seat(b)->count; i++) {
        uint64_t who = observe_u64(seat_word(seat(b), seat(b)->own + WHO + 8 * i));
        if (who == alive)
            continue;
        if (member_dead(who))
            return true;
        alive = who;
    }
    return false;
}

/* Looked at without the lock first, then with it. */
static int break_for_the_dead(dsm_barrier *b, uint64_t generation)
{
    struct state s;
    if (!seat(b)->near || !seat_time_to_look(&b->looked) || !somebody_died(b))
        return 0;
    int rc = open_state(b, SEAT_LOOK_NS, &s);
    if (rc != 1)
        return rc;
    rc = s.round == generation << 1 && somebody_died(b) ? break_it(b, &s) : 0;
    return close_state(b, rc);
}

static int wait_for_end(dsm_barrier *b, uint64_t generation, int64_t timeout_ns)
{
    struct waiting w;
    uint64_t round;
    int rc = ended(b, generation, &round);
    if (rc || !timeout_ns)
        return rc;
    wait_begin(&w, &b->lock.seat, SYNC_SECOND, timeout_ns);
    for (;;) {
        if (seat(b)->near)
            wait_spin(&w, seat_word(seat(b), seat(b)->own + ROUND), round);
        wait_listen(&w);
        if ((rc = ended(b, generation, &round)) || (rc = break_for_the_dead(b, generation)))
            return rc;
        if (wait_over(&w))
            return ended(b, generation, &round);
        wait_sleep(&w);
    }
}

int dsm_barrier_wait(dsm_barrier *b, uint64_t generation, int64_t timeout_ns)
{
    return wait_for_end(b, generation, timeout_ns);
}

/* ---- abort, reset ---- */

int dsm_barrier_break(dsm_barrier *b, uint64_t generation, int64_t timeout_ns)
{
    struct state s;
    int rc = open_state(b, timeout_ns, &s);
    if (rc != 1)
        return rc;
    if (generation == DSM_BARRIER_ANY || generation == s.round >> 1)
        rc = break_it(b, &s);
    return close_state(b, rc < 0 ? rc : 1);
}

int dsm_barrier_reset(dsm_barrier *b, int64_t timeout_ns)
{
    struct state s;
    int rc = open_state(b, timeout_ns, &s);
    if (rc != 1)
        return rc;
    rc = s.arrived || s.round & 1 ? begin_next(b, &s, false) : 0;
    return close_state(b, rc < 0 ? rc : 1);
}

int dsm_barrier_waiting(dsm_barrier *b, int *is_broken)
{
    struct state s;
    int rc = read_state(b, &s);
    *is_broken = (int)(s.round & 1);
    return rc ? rc : *is_broken ? 0 : (int)s.arrived;
}

uint32_t dsm_barrier_parties(const dsm_barrier *b) { return seat(b)->count; }

int dsm_barrier_open(dsm_remote *r, int64_t spin_ns, dsm_barrier **out)
{
    dsm_barrier *b = calloc(1, sizeof *b);
    if (!b)
        return err_set(DSM_ENOMEM, 0, "barrier");
    int rc = lock_open(&b->lock, r, DSM_BARRIER, spin_ns, NULL, NULL);
    if (rc)
        free(b);
    else
        *out = b;
    return rc;
}

void dsm_barrier_close(dsm_barrier *b)
{
    lock_close(&b->lock);
    free(b);
}
