/*
 * A barrier: parties wait for each other, time and again.
 *
 * Of its own the object has
 *   offset  bytes  what
 *        0      8  round: bit 0: broken; bits 1-19: how many generations ago the last one was that ended by a reset (0:
 *                  never, most: that many or more); bits 20-63: generation, which grows when the parties go on and with every reset
 *        8      8  arrived: bits 0-10: parties that have come; bits 11-63: to this generation, modulo 2^53
 *       16     48  zero
 *       64     8n  who has come: identities (member.h), in the order of arrival
 *
 * ROUND is the word that counts. Only compare-swaps change it, and it takes no value twice. Three things can end a generation, and
 * one of them does: the parties have met (by the last of them), a reset, a break (which keeps the generation and sets the bit). Breaks
 * and resets need no lock, so neither who died with it nor who was stopped with it keeps anybody in a wait.
 *
 * ARRIVED and who has come are written by the holder of the object's lock (lock.h): first who, with a plain store, then arrived, by a
 * compare-swap from what was read. What an earlier generation has left there is void. So a holder whose lock was broken, and who
 * wakes, doesn't take back what others have counted since: it is told that the barrier is broken, as it is.
 *
 * A sleeper that finds a later generation than its own asks how its own ended: by the reset, if that is where the last reset was; if
 * there was one later, it is told of that. A sleeper that has overslept 2^19 generations without one is told that it met.
 *
 * If a process dies
 *   while it holds the lock      the next holder gets the news and breaks the barrier: it may have come without being counted. So does
 *                                a waiter within 100 ms, since there may be nobody left to come: it held the lock itself in this
 *                                generation, so the dead took it after that, and came to this generation or a later one
 *   after it has arrived         a waiter finds it dead within 50 ms and breaks the barrier, also while it runs the action; so does the
 *                                last to come, if he has not looked for 40 ms
 */
#include "lock.h"

#include <stdlib.h>

enum { ROUND = 0, ARRIVED = 8, WHO = SYNC_LINE, GENERATION_SHIFT = 20, COUNT_BITS = 11 };
#define BROKEN 1ull
#define AGE_ONE 2ull
#define AGE_MOST ((1ull << GENERATION_SHIFT) - AGE_ONE)
#define COUNT ((1ull << COUNT_BITS) - 1)

struct dsm_barrier {
    dsm_lock lock;
    uint64_t looked;
    uint64_t owed; /* 1 + a generation that this handle could not break: it may count as a party, and is none */
};

struct state {
    uint64_t round, arrived;
    uint64_t word; /* arrived, as it stands there */
};

static const struct seat *seat(const dsm_barrier *b) { return &b->lock.seat; }

static uint64_t generation_of(uint64_t round) { return round >> GENERATION_SHIFT; }

static uint64_t age_of(uint64_t round) { return round & AGE_MOST; }

static uint64_t next_round(uint64_t round, bool met)
{
    uint64_t age = age_of(round);
    age = !met ? AGE_ONE : !age || age == AGE_MOST ? age : age + AGE_ONE;
    return (generation_of(round) + 1) << GENERATION_SHIFT | age;
}

/* How a generation ended that is before that of 'round'. */
static bool was_met(uint64_t round, uint64_t generation)
{
    uint64_t age = age_of(round);
    return !age || age == AGE_MOST || generation_of(round) - age / AGE_ONE < generation;
}

static int read_state(dsm_barrier *b, struct state *s)
{
    int rc = seat_read(seat(b), seat(b)->own + ROUND, &s->round);
    if (!rc)
        rc = seat_read(seat(b), seat(b)->own + ARRIVED, &s->word);
    if (rc)
        return rc;
    bool now = s->word >> COUNT_BITS == generation_of(s->round) && !(s->round & BROKEN);
    s->arrived = now ? s->word & COUNT : 0;
    if (s->arrived > seat(b)->count)
        return err_set(DSM_ECORRUPT, 0, "%llu of %u parties", (unsigned long long)s->arrived, seat(b)->count);
    return 0;
}

static int broken(void) { return err_set(DSM_EBROKEN, 0, "barrier"); }

/* ---- the round ---- */

/* 1: done, or another one did it; 0: the round was another, *found tells it. A break may be written by several: it is one all the
 * same. */
static int turn(dsm_barrier *b, uint64_t from, uint64_t to, uint64_t *found)
{
    int rc = SWAP_UNKNOWN;
    *found = from;
    for (int i = 0; i < SURE_TRIES && rc == SWAP_UNKNOWN && *found == from; i++)
        rc = seat_swap(seat(b), seat(b)->own + ROUND, from, to, found);
    if (rc < 0)
        return rc;
    if (rc == SWAP_UNKNOWN && *found == from)
        return err_set(DSM_EIO, 0, "%d times in a row", SURE_TRIES);
    if (rc != SWAP_DONE && *found != to)
        return 0;
    if (seat(b)->near)
        bell_ring((struct bell *)(void *)(seat(b)->near + SYNC_SECOND), BELL_ALL);
    return 1;
}

/* The parties have met, unless it was broken or reset meanwhile. Nobody but the last of them says that they have: if it was said,
 * it was this caller, whose answer was lost. */
static int meet(dsm_barrier *b, uint64_t round)
{
    uint64_t found, generation = generation_of(round);
    int rc = turn(b, round, next_round(round, true), &found);
    return rc ? rc : generation_of(found) != generation && was_met(found, generation) ? 1 : broken();
}

/* 1: the generation (DSM_BARRIER_ANY: whatever it is) is broken now, 0: it has ended otherwise. */
int dsm_barrier_break(dsm_barrier *b, uint64_t generation)
{
    uint64_t round;
    int rc = seat_read(seat(b), seat(b)->own + ROUND, &round);
    while (!rc) {
        if (generation != DSM_BARRIER_ANY && generation != generation_of(round))
            return 0;
        rc = round & BROKEN ? 1 : turn(b, round, round | BROKEN, &round);
    }
    if (rc < 0 && generation != DSM_BARRIER_ANY)
        publish_u64(&b->owed, generation + 1);
    return rc;
}

static int break_what_is_owed(dsm_barrier *b)
{
    uint64_t owed = observe_u64(&b->owed);
    int rc = owed ? dsm_barrier_break(b, owed - 1) : 0;
    if (owed && rc >= 0)
        compare_swap_u64(&b->owed, owed, 0);
    return rc < 0 ? rc : 0;
}

/* The news of who died with the lock is for the generation that is over, unless somebody waits in the new one already, which it
 * may have come to. */
static void forget_the_dead(dsm_barrier *b)
{
    struct state s;
    b->lock.looked = 0;
    if (lock_acquire_again(&b->lock, 0) != 1)
        return;
    if (dsm_lock_recovered(&b->lock) && !read_state(b, &s) && s.arrived)
        dsm_barrier_break(b, generation_of(s.round));
    lock_give_up(&b->lock, false);
}

int dsm_barrier_reset(dsm_barrier *b)
{
    struct state s;
    int rc = 0;
    while (!rc) {
        rc = read_state(b, &s);
        if (!rc && !s.arrived && !(s.round & BROKEN))
            return 0;
        if (!rc)
            rc = turn(b, s.round, next_round(s.round, false), &s.round);
    }
    forget_the_dead(b);
    return rc < 0 ? rc : 0;
}

/* ---- under the lock ---- */

/* With the lock: 1 and the state, or what to return. Who died with the lock may have come. */
static int open_state(dsm_barrier *b, int64_t timeout_ns, struct state *s)
{
    int rc = lock_acquire_again(&b->lock, timeout_ns);
    if (rc != 1)
        return rc;
    rc = dsm_lock_recovered(&b->lock) ? dsm_barrier_break(b, DSM_BARRIER_ANY) : 0;
    if (rc >= 0)
        rc = read_state(b, s);
    if (!rc)
        return 1;
    lock_give_up(&b->lock, true);
    return rc;
}

/* What is done under the lock has taken effect, whether or not the lock could be given back; the next call does that. */
static int close_state(dsm_barrier *b, int rc)
{
    lock_give_up(&b->lock, false);
    return rc;
}

/* ---- arrival ---- */

static bool somebody_died(dsm_barrier *b, uint64_t arrived)
{
    uint64_t alive = seat(b)->identity;
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

/* 1: arrived, 2: arrived as the last, 0: all places are taken, the last of them has not finished. */
static int arrive(dsm_barrier *b, struct state *s, bool finish)
{
    uint64_t generation = generation_of(s->round);
    if (s->round & BROKEN || s->word >> COUNT_BITS > generation) /* the lock is another's, who has gone on */
        return broken();
    if (s->arrived == seat(b)->count)
        return 0;
    bool last = s->arrived + 1 == seat(b)->count;
    if (last && seat(b)->near && seat_time_to_look(&b->looked) && somebody_died(b, s->arrived)) {
        int rc = dsm_barrier_break(b, generation);
        return rc < 0 ? rc : broken();
    }
    int rc = seat_write(seat(b), seat(b)->own + WHO + 8 * s->arrived, seat(b)->identity);
    if (!rc)
        rc = sure_move(seat(b)->r, seat(b)->own + ARRIVED, s->word, generation << COUNT_BITS | (s->arrived + 1));
    if (rc == -DSM_ECORRUPT)
        return broken();
    if (!rc && last && finish)
        rc = meet(b, s->round);
    return rc < 0 ? rc : 1 + last;
}

static int wait_for_end(dsm_barrier *b, uint64_t generation, int64_t timeout_ns);

int dsm_barrier_arrive(dsm_barrier *b, int finish, int64_t timeout_ns, uint64_t *generation, uint32_t *index)
{
    struct state s;
    int64_t deadline = deadline_after(timeout_ns);
    int rc = break_what_is_owed(b);
    while (!rc) {
        *index = DSM_BARRIER_NOBODY;
        rc = open_state(b, timeout_ns, &s);
        if (rc != 1)
            return rc;
        rc = close_state(b, arrive(b, &s, finish));
        *generation = generation_of(s.round);
        *index = rc ? (uint32_t)s.arrived : DSM_BARRIER_NOBODY;
        if (rc)
            return rc;
        if (timeout_ns >= 0 && (timeout_ns = deadline - clock_ns()) <= 0)
            return 0;
        rc = wait_for_end(b, *generation, timeout_ns);
        if (!rc)
            return 0;
        rc = rc == 1 || rc == -DSM_EBROKEN ? 0 : rc;
    }
    return rc;
}

int dsm_barrier_finish(dsm_barrier *b, uint64_t generation)
{
    uint64_t round;
    int rc = seat_read(seat(b), seat(b)->own + ROUND, &round);
    if (rc)
        return rc;
    return generation_of(round) == generation && !(round & BROKEN) ? meet(b, round) : broken();
}

/* ---- waiting ---- */

static int ended(dsm_barrier *b, uint64_t generation, uint64_t *round)
{
    int rc = seat_read(seat(b), seat(b)->own + ROUND, round);
    if (rc)
        return rc;
    if (generation_of(*round) == generation)
        return *round & BROKEN ? broken() : 0;
    return was_met(*round, generation) ? 1 : broken();
}

/* 1: who holds the lock is dead. */
static int holder_died(dsm_barrier *b)
{
    uint64_t word = observe_u64(seat_word(seat(b), SYNC_WORD));
    return word & LOCK_HELD ? lock_holder_dead(&b->lock, word) : 0;
}

static int break_for_the_dead(dsm_barrier *b, uint64_t generation)
{
    struct state s;
    if (!seat(b)->near || !seat_time_to_look(&b->looked))
        return 0;
    int rc = read_state(b, &s);
    if (rc || generation_of(s.round) != generation)
        return rc;
    rc = somebody_died(b, s.arrived) ? 1 : holder_died(b);
    if (rc == 1)
        rc = dsm_barrier_break(b, generation);
    return rc < 0 ? rc : 0;
}

static int wait_for_end(dsm_barrier *b, uint64_t generation, int64_t timeout_ns)
{
    struct waiting w;
    uint64_t round;
    int rc = ended(b, generation, &round);
    if (rc)
        return rc;
    if (!timeout_ns)
        return (rc = break_for_the_dead(b, generation)) ? rc : ended(b, generation, &round);
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

int dsm_barrier_waiting(dsm_barrier *b, int *is_broken)
{
    struct state s;
    int rc = read_state(b, &s);
    if (rc)
        return rc;
    *is_broken = (int)(s.round & BROKEN);
    return (int)s.arrived;
}

/* ---- by choice ---- */

/* Who has come to the generation that *s tells. */
static int who_came(dsm_barrier *b, struct state *s, uint64_t *identities)
{
    int rc = read_state(b, s);
    if (rc || !s->arrived)
        return rc;
    rc = seat_read_all(seat(b), seat(b)->own + WHO, identities, 8 * s->arrived);
    return rc ? rc : (int)s->arrived;
}

int dsm_barrier_waiters(dsm_barrier *b, uint64_t *identities)
{
    struct state s;
    uint64_t holder;
    int n = who_came(b, &s, identities), rc = n < 0 ? n : dsm_lock_holder(&b->lock, &holder);
    if (!rc && holder)
        identities[n++] = holder;
    return rc ? rc : n;
}

/* As if it had died: with the lock, of whatever generation it may be; or after it had come, of that one. */
int dsm_barrier_evict(dsm_barrier *b, uint64_t holder)
{
    struct state s;
    uint64_t came[DSM_BARRIER_MOST];
    int freed = dsm_lock_break(&b->lock, holder);
    if (freed)
        return freed < 0 ? freed : dsm_barrier_break(b, DSM_BARRIER_ANY);
    int n = who_came(b, &s, came), rc = n < 0 ? n : 0;
    for (int i = 0; i < n && !rc; i++)
        if (holder && came[i] == holder)
            rc = turn(b, s.round, s.round | BROKEN, &s.round);
    return rc;
}

/* ---- handles ---- */

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

int dsm_barrier_leave(dsm_barrier *b)
{
    int rc = break_what_is_owed(b);
    return rc && !sure_lost(rc) ? rc : lock_leave(&b->lock);
}

void dsm_barrier_close(dsm_barrier *b)
{
    lock_close(&b->lock);
    free(b);
}
