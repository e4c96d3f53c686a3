/*
 * A barrier: parties wait for each other, time and again.
 *
 * The own bytes of the object are
 *   offset  bytes  what
 *        0      8  round: bit 0: broken; bits 1-19: how many generations ago the last one was that ended by a reset (0:
 *                  never, most: that many or more); bits 20-63: generation, which grows when the parties go on and with
 *                  every reset
 *        8      8  arrived: bits 0-10: parties that have arrived; bits 11-63: the generation, modulo 2^53
 *       16     48  zero
 *       64     8n  parties: the processes that have arrived, in the order of arrival: identity (member.h) xor
 *                  generation * 0x9E3779B97F4A7C15
 *
 * ROUND is the word that decides. Only compare-swaps change it, and it takes no value twice. Exactly one of three
 * things ends a generation: the parties have met (written by the last of them), a reset, or a break (which keeps the
 * generation and sets the bit). Breaks and resets need no lock, so a process that dies or is stopped while it holds the
 * lock keeps no other process waiting. (A reset takes the lock if it is free, to clear its owner_died flag, and where
 * it ends a generation from a holder as well.)
 *
 * ARRIVED and PARTIES are changed by the holder of the object's lock (lock.h): first parties, then arrived, both by
 * compare-swaps from what was read. The words of 'parties' take no value twice either: the generation is in it. What an
 * earlier generation has left there is void. So a holder that was stopped, whose lock was broken, and that goes on,
 * changes nothing that others have written since: it is told that the barrier is broken, as it is.
 *
 * OWNER_DIED of a free lock is the record that a holder died, or was broken. A process that breaks the lock or takes
 * over the holder's entry of the member table need do nothing more, and may die next. The next holder of the lock finds
 * the flag, and so do the waiters.
 *
 * A sleeper that finds a later generation than its own derives how its own ended. If the last reset ended its own
 * generation or a later one, it is told of that reset; else that the parties met. A sleeper that has slept through 2^19
 * generations without a reset is told that the parties met.
 *
 * If a process dies
 *   while it holds the lock    the next holder finds owner_died and breaks the barrier: the dead process may have
 *                              arrived without being counted. A waiter that finds the dead process in the word, or
 *                              owner_died, does the same within 100 ms, because there may be no party left to come. The
 *                              waiter held the lock itself in this generation and gave it back without owner_died, so
 *                              the dead process took it after that, and came to this generation or a later one
 *   after it has arrived       a waiter finds it dead within 50 ms and breaks the barrier, also if it died while it ran
 *                              the action; so does the last party to arrive, if its handle has not checked for 40 ms
 */
#include "lock.h"

#include <stdlib.h>
#include <string.h>

enum { REFUSED = 3 }; /* result of an arrival */
enum { ROUND = 0, ARRIVED = 8, PARTIES = SYNC_LINE, GENERATION_SHIFT = 20, COUNT_BITS = 11 };
#define BROKEN 1ull
#define AGE_ONE 2ull
#define AGE_MOST ((1ull << GENERATION_SHIFT) - AGE_ONE)
#define COUNT ((1ull << COUNT_BITS) - 1)

struct dsm_barrier {
    dsm_lock lock;
    uint64_t looked;
    uint64_t owed; /* 1 + a generation that this handle could not break: it may count as a party, but is not one */
};

struct state {
    uint64_t round, arrived;
    uint64_t word; /* the word 'arrived' as it is in memory */
    uint64_t slot; /* parties[arrived], for the holder of the lock */
};

static const struct sync_handle *handle(const dsm_barrier *b) { return &b->lock.handle; }

static uint64_t generation_of(uint64_t round) { return round >> GENERATION_SHIFT; }

static uint64_t age_of(uint64_t round) { return round & AGE_MOST; }

static uint64_t next_round(uint64_t round, bool met)
{
    uint64_t age = age_of(round);
    age = !met ? AGE_ONE : !age || age == AGE_MOST ? age : age + AGE_ONE;
    return (generation_of(round) + 1) << GENERATION_SHIFT | age;
}

/* Converts an identity to its value in 'parties' for this generation, and back. */
static uint64_t stamped(uint64_t identity, uint64_t round)
{
    return identity ^ generation_of(round) * 0x9E3779B97F4A7C15ull;
}

/* Whether the parties met in a generation that is before that of 'round'. */
static bool was_met(uint64_t round, uint64_t generation)
{
    uint64_t age = age_of(round);
    return !age || age == AGE_MOST || generation_of(round) - age / AGE_ONE < generation;
}

static int count_arrived(dsm_barrier *b, struct state *s)
{
    bool now = s->word >> COUNT_BITS == generation_of(s->round) && !(s->round & BROKEN);
    s->arrived = now ? s->word & COUNT : 0;
    if (s->arrived > handle(b)->count)
        return err_set(DSM_ECORRUPT, 0, "%llu of %u parties", (unsigned long long)s->arrived, handle(b)->count);
    return 0;
}

static int read_state(dsm_barrier *b, struct state *s)
{
    int rc = handle_read(handle(b), handle(b)->own + ROUND, &s->round);
    if (!rc)
        rc = handle_read(handle(b), handle(b)->own + ARRIVED, &s->word);
    return rc ? rc : count_arrived(b, s);
}

static int broken(void) { return err_set(DSM_EBROKEN, 0, "barrier"); }

/* Reads the state and the next free slot, for the holder of the lock. The lock's word is read last: if this handle
 * still holds it then, it held it during all of the reads. */
static int read_slot(dsm_barrier *b, struct state *s)
{
    uint64_t copy[PARTIES / 8 + DSM_BARRIER_MOST], word;
    int rc = handle_read_all(handle(b), handle(b)->own, copy, PARTIES + 8ull * handle(b)->count);
    if (!rc)
        rc = handle_read(handle(b), SYNC_WORD, &word);
    if (rc)
        return rc;
    if (word != load_acquire_u64(&b->lock.held))
        return broken();
    s->round = copy[ROUND / 8];
    s->word = copy[ARRIVED / 8];
    rc = count_arrived(b, s);
    s->slot = rc || s->arrived == handle(b)->count ? 0 : copy[PARTIES / 8 + s->arrived];
    return rc;
}

/* ---- the round ---- */

/* 1: done, or another process did the same. 0: the round was another one, which is now in *found. Several processes may
 * write a break; it is one break all the same. */
static int turn(dsm_barrier *b, uint64_t from, uint64_t to, uint64_t *found)
{
    int rc = SWAP_UNKNOWN;
    *found = from;
    for (int i = 0; i < SURE_TRIES && rc == SWAP_UNKNOWN && *found == from; i++)
        rc = handle_swap(handle(b), handle(b)->own + ROUND, from, to, found);
    if (rc < 0)
        return rc;
    if (rc == SWAP_UNKNOWN && *found == from)
        return err_set(DSM_EIO, 0, "%d times in a row", SURE_TRIES);
    if (rc != SWAP_DONE && *found != to)
        return 0;
    handle_notify(handle(b), SYNC_SECOND, NOTIFY_ALL);
    return 1;
}

/* Ends the round as met, unless it was broken or reset meanwhile. Only the last of the parties ends a round as met: if
 * that has happened, it was this caller, and the answer was lost. */
static int meet(dsm_barrier *b, uint64_t round)
{
    uint64_t found, generation = generation_of(round);
    int rc = turn(b, round, next_round(round, true), &found);
    return rc ? rc : generation_of(found) != generation && was_met(found, generation) ? 1 : broken();
}

/* 1: the generation (DSM_BARRIER_ANY: the current one) is broken now. 0: it has ended in another way. */
int dsm_barrier_break(dsm_barrier *b, uint64_t generation)
{
    uint64_t round;
    int rc = handle_read(handle(b), handle(b)->own + ROUND, &round);
    while (!rc) {
        if (generation != DSM_BARRIER_ANY && generation != generation_of(round))
            return 0;
        rc = round & BROKEN ? 1 : turn(b, round, round | BROKEN, &round);
    }
    if (rc < 0 && generation != DSM_BARRIER_ANY)
        store_release_u64(&b->owed, generation + 1);
    return rc;
}

static int break_what_is_owed(dsm_barrier *b)
{
    uint64_t owed = load_acquire_u64(&b->owed);
    int rc = owed ? dsm_barrier_break(b, owed - 1) : 0;
    if (owed && rc >= 0)
        compare_swap_u64(&b->owed, owed, 0);
    return rc < 0 ? rc : 0;
}

/* Takes the lock if it can be had at once: then its owner_died flag concerns the generation that ends here, and is
 * cleared with it. If a generation is to be ended, the lock is taken from a holder, too: that is a party which is
 * arriving, and is told of the reset. If it died later with the lock, the next generation would be broken for it. Its
 * word is read before the state and has not changed since, so it is not a party of a later generation, unless all had
 * arrived: then the lock is left alone. */
int dsm_barrier_reset(dsm_barrier *b)
{
    struct state s;
    uint64_t word = 0;
    b->lock.looked = 0;
    bool held = lock_take_again(&b->lock, 0) == 1, owner_died = held && dsm_lock_recovered(&b->lock);
    int rc = 0;
    while (!rc) {
        rc = held ? 0 : handle_read(handle(b), SYNC_WORD, &word);
        rc = rc ? rc : read_state(b, &s);
        if (rc || (!s.arrived && !(s.round & BROKEN) && !owner_died))
            break;
        if (!held && s.arrived < handle(b)->count)
            held = lock_seize(&b->lock, word) == 1;
        rc = turn(b, s.round, next_round(s.round, false), &s.round);
    }
    if (held)
        lock_give_up(&b->lock, rc < 0);
    return rc < 0 ? rc : 0;
}

/* ---- under the lock ---- */

/* Takes the lock. 1: *s is the state; any other value is to be returned. With owner_died the barrier is broken, because
 * the process that died with the lock may have arrived. */
static int open_state(dsm_barrier *b, int64_t timeout_ns, struct state *s)
{
    int rc = lock_take_again(&b->lock, timeout_ns);
    if (rc != 1)
        return rc;
    rc = dsm_lock_recovered(&b->lock) ? dsm_barrier_break(b, DSM_BARRIER_ANY) : 0;
    if (rc >= 0)
        rc = read_slot(b, s);
    if (!rc)
        return 1;
    lock_give_up(&b->lock, true);
    return rc;
}

/* What was done under the lock has taken effect, whether or not the lock could be given back; the next call gives it
 * back. */
static int close_state(dsm_barrier *b, int rc)
{
    lock_give_up(&b->lock, false);
    return rc;
}

/* ---- arrival ---- */

static bool a_party_died_mapped(dsm_barrier *b, const struct state *s)
{
    uint64_t alive = handle(b)->identity;
    for (uint64_t i = 0; i < s->arrived && i < handle(b)->count; i++) {
        uint64_t party = stamped(load_acquire_u64(handle_word(handle(b), handle(b)->own + PARTIES + 8 * i)), s->round);
        if (party == alive)
            continue;
        if (identity_ended(party))
            return true;
        alive = party;
    }
    return false;
}

/* 1: a process that arrived in the generation of *s is dead. If that generation is over by now, the result says
 * nothing. */
static int a_party_died(dsm_barrier *b, const struct state *s)
{
    uint64_t parties[DSM_BARRIER_MOST];
    uint8_t ended[DSM_BARRIER_MOST];
    if (handle_is_mapped(handle(b)))
        return a_party_died_mapped(b, s);
    int rc = s->arrived ? handle_read_all(handle(b), handle(b)->own + PARTIES, parties, 8 * s->arrived) : 0;
    if (rc)
        return rc;
    for (uint64_t i = 0; i < s->arrived; i++)
        parties[i] = stamped(parties[i], s->round);
    members_ended(handle(b)->r, parties, s->arrived, ended);
    return memchr(ended, 1, s->arrived) != NULL;
}

/* 1: arrived. 2: arrived as the last. 0: all places are taken, and the last of those parties has not finished. REFUSED:
 * a process whose lock was broken has changed a word after it was read here. */
static int arrive_from(dsm_barrier *b, const struct state *s, bool finish)
{
    uint64_t generation = generation_of(s->round), own = handle(b)->own;
    if (s->round & BROKEN)
        return broken();
    if (s->arrived == handle(b)->count)
        return 0;
    bool last = s->arrived + 1 == handle(b)->count;
    int rc = last && handle_time_to_look(&b->looked) ? a_party_died(b, s) : 0;
    if (rc) {
        rc = rc < 0 ? rc : dsm_barrier_break(b, generation);
        return rc < 0 ? rc : broken();
    }
    rc = sure_move(handle(b)->r, own + PARTIES + 8 * s->arrived, s->slot, stamped(handle(b)->identity, s->round));
    if (!rc)
        rc = sure_move(handle(b)->r, own + ARRIVED, s->word, generation << COUNT_BITS | (s->arrived + 1));
    if (rc == -DSM_ECORRUPT)
        return REFUSED;
    if (!rc && last && finish)
        rc = meet(b, s->round);
    return rc < 0 ? rc : 1 + last;
}

/* A process whose lock was broken does that once, and a process that finds that its own lock was broken gives up. So a
 * few tries are enough. */
static int arrive(dsm_barrier *b, struct state *s, bool finish)
{
    int rc = arrive_from(b, s, finish);
    for (int i = 0; i < SURE_TRIES && rc == REFUSED; i++)
        rc = (rc = read_slot(b, s)) ? rc : arrive_from(b, s, finish);
    return rc == REFUSED ? broken() : rc;
}

static int wait_for_end(dsm_barrier *b, uint64_t generation, int64_t timeout_ns);

int dsm_barrier_arrive(dsm_barrier *b, int finish, int64_t timeout_ns, uint64_t *generation, uint32_t *index)
{
    struct state s;
    int64_t deadline = deadline_after(timeout_ns);
    int rc = break_what_is_owed(b);
    while (!rc) {
        *index = DSM_BARRIER_NONE;
        rc = open_state(b, timeout_ns, &s);
        if (rc != 1)
            return rc;
        rc = close_state(b, arrive(b, &s, finish));
        *generation = generation_of(s.round);
        *index = rc ? (uint32_t)s.arrived : DSM_BARRIER_NONE;
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
    int rc = handle_read(handle(b), handle(b)->own + ROUND, &round);
    if (rc)
        return rc;
    return generation_of(round) == generation && !(round & BROKEN) ? meet(b, round) : broken();
}

/* ---- waiting ---- */

static int ended(dsm_barrier *b, uint64_t generation, uint64_t *round)
{
    int rc = handle_read(handle(b), handle(b)->own + ROUND, round);
    if (rc)
        return rc;
    if (generation_of(*round) == generation)
        return *round & BROKEN ? broken() : 0;
    return was_met(*round, generation) ? 1 : broken();
}

/* 1: the holder of the lock is dead, or the one before died with it or was broken. */
static int holder_died(dsm_barrier *b)
{
    uint64_t word;
    int rc = handle_read(handle(b), SYNC_WORD, &word);
    if (rc)
        return rc;
    return word & LOCK_HELD ? lock_holder_dead(&b->lock, word) : (word & LOCK_OWNER_DIED) != 0;
}

static int break_for_the_dead(dsm_barrier *b, uint64_t generation)
{
    struct state s;
    if (!handle_time_to_look(&b->looked))
        return 0;
    int rc = read_state(b, &s);
    if (rc || generation_of(s.round) != generation)
        return rc;
    rc = a_party_died(b, &s);
    if (!rc)
        rc = holder_died(b);
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
    wait_begin(&w, &b->lock.handle, SYNC_SECOND, timeout_ns);
    for (;;) {
        if (handle_is_mapped(handle(b)))
            wait_spin(&w, handle_word(handle(b), handle(b)->own + ROUND), round);
        wait_prepare(&w);
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

/* Writes which processes have arrived in the generation that *s names. Repeated only if the parties went on, or were
 * reset, meanwhile. */
static int list_arrivals(dsm_barrier *b, struct state *s, uint64_t *identities)
{
    uint64_t round;
    for (;;) {
        int rc = read_state(b, s);
        if (!rc && s->arrived)
            rc = handle_read_all(handle(b), handle(b)->own + PARTIES, identities, 8 * s->arrived);
        if (!rc)
            rc = handle_read(handle(b), handle(b)->own + ROUND, &round);
        for (uint64_t i = 0; !rc && i < s->arrived; i++)
            identities[i] = stamped(identities[i], round);
        if (rc || generation_of(round) == generation_of(s->round))
            return rc ? rc : (int)s->arrived;
    }
}

int dsm_barrier_waiters(dsm_barrier *b, uint64_t *identities)
{
    struct state s;
    uint64_t holder;
    int n = list_arrivals(b, &s, identities), rc = n < 0 ? n : dsm_lock_holder(&b->lock, &holder);
    if (rc)
        return rc;
    for (int i = 0; i < n && holder; i++)
        if (identities[i] == holder) /* it has arrived, and is about to give the lock back */
            holder = 0;
    if (holder)
        identities[n++] = holder;
    return n;
}

/* As if 'holder' had died. If it held the lock, the break leaves owner_died for all to find; if it had arrived, its
 * generation is broken. The round is read first, so that the processes that wait now need not wait until their next
 * check: a later generation finds owner_died, or is not affected. */
int dsm_barrier_evict(dsm_barrier *b, uint64_t holder)
{
    struct state s;
    uint64_t round, came[DSM_BARRIER_MOST];
    int freed = handle_read(handle(b), handle(b)->own + ROUND, &round);
    if (!freed)
        freed = dsm_lock_break(&b->lock, holder);
    if (freed) {
        int rc = freed < 0 ? freed : dsm_barrier_break(b, generation_of(round));
        return rc < 0 ? rc : 1;
    }
    int n = list_arrivals(b, &s, came), rc = n < 0 ? n : 0;
    for (int i = 0; i < n && !rc; i++)
        if (holder && came[i] == holder)
            rc = turn(b, s.round, s.round | BROKEN, &s.round);
    return rc;
}

/* ---- handles ---- */

uint32_t dsm_barrier_parties(const dsm_barrier *b) { return handle(b)->count; }

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
