/*
 * A lock for many readers or one writer.
 *
 * The word is the writer's lock (lock.h). Of its own the object has one line per member, whose first word is that member's
 * readers': bit 0: inside; bits 1-63: changes, so no value comes twice. Only compare-swaps change both.
 *
 *   read     set my 'inside', then look at the writer's word: free: in; held: clear my 'inside', wait, again
 *   write    take the writer's word, then wait until nobody's 'inside' is set
 *
 * EXCLUSION: each side changes its own word before it looks at the other's, in the one order of all such changes
 *   (inspect_u64), so a reader and a writer can't both miss each other. Threads of one handle share one 'inside', which stays set
 *   from the first to the last of them.
 * PREFERENCE: while a writer has the word, or waits for readers with it, no new reader comes in. Writers that still wait for the
 *   word are no hindrance.
 * THE DEAD: a writer's word is taken over as a lock is; a reader that finds a dead writer frees the word and leaves the news in it
 *   until a writer takes it. A dead reader's 'inside' is cleared by the writer that waits for it, or with its entry (member.h).
 */
#include "lock.h"

#include <pthread.h>
#include <stdlib.h>

struct dsm_rwlock {
    dsm_lock lock;
    pthread_mutex_t own; /* of what follows, and of this member's word */
    uint32_t readers;    /* of this handle */
    uint64_t mine;       /* this member's word as last known */
    bool news;           /* a reader's: the last writer died with it */
    uint64_t looked;
    uint8_t *copy; /* far: of the table and the readers' lines */
};

static uint64_t line(const dsm_rwlock *rw, uint64_t number) { return rw->lock.seat.own + SYNC_LINE * number; }

static uint64_t changed(uint64_t word, uint64_t inside) { return ((word >> 1) + 1) << 1 | inside; }

static void ring(dsm_rwlock *rw, uint64_t bell)
{
    if (rw->lock.seat.near)
        bell_ring((struct bell *)(void *)(rw->lock.seat.near + bell), BELL_ALL);
}

/* ---- readers ---- */

/* Nobody else changes the word while this process lives; after a failure it may be further than 'mine'. */
static int set_inside(dsm_rwlock *rw, uint64_t inside)
{
    uint64_t found, at = line(rw, rw->lock.seat.number);
    for (int i = 0; i < SWAP_TRIES; i++) {
        uint64_t next = changed(rw->mine, inside);
        int rc = seat_swap(&rw->lock.seat, at, rw->mine, next, &found);
        if (rc < 0)
            return rc;
        rw->mine = rc == SWAP_DONE ? next : found;
        if (rc == SWAP_DONE)
            return 0;
    }
    return err_set(DSM_EIO, 0, "%d times", SWAP_TRIES);
}

static int look(dsm_rwlock *rw, uint64_t *word)
{
    struct seat *s = &rw->lock.seat;
    if (!s->near)
        return seat_read(s, SYNC_WORD, word);
    *word = inspect_u64(seat_word(s, SYNC_WORD));
    return 0;
}

/* A writer may have seen 'inside' before it was cleared, and sleep. */
static void gone(dsm_rwlock *rw)
{
    uint64_t word;
    if (rw->lock.seat.near && !look(rw, &word) && word & LOCK_HELD)
        ring(rw, SYNC_SECOND);
}

/* Under rw->own. 1: in, 0: a writer has the word, as *seen says. */
static int enter(dsm_rwlock *rw, uint64_t *seen)
{
    int rc = rw->readers ? 0 : set_inside(rw, 1);
    if (!rc)
        rc = look(rw, seen);
    if (!rc && !(*seen & LOCK_HELD)) {
        rw->readers++;
        rw->news = *seen & LOCK_NEWS;
        return 1;
    }
    if (!rw->readers) {
        int back = set_inside(rw, 0);
        rc = rc ? rc : back;
        gone(rw);
    }
    return rc;
}

static int try_read(dsm_rwlock *rw, uint64_t *seen)
{
    int rc = seat_check(&rw->lock.seat);
    if (rc)
        return rc;
    if (rw->lock.seat.near) { /* without disturbing a writer that waits for readers to go */
        *seen = observe_u64(seat_word(&rw->lock.seat, SYNC_WORD));
        if (*seen & LOCK_HELD)
            return 0;
    }
    pthread_mutex_lock(&rw->own);
    rc = enter(rw, seen);
    pthread_mutex_unlock(&rw->own);
    return rc;
}

/* The writer is dead: the word becomes free, with the news. 1: look again. */
static int bury_writer(dsm_rwlock *rw, uint64_t seen)
{
    int rc = lock_holder_dead(&rw->lock, seen);
    if (rc > 0 && compare_swap_u64(seat_word(&rw->lock.seat, SYNC_WORD), seen, lock_freed(seen) | LOCK_NEWS) == seen)
        ring(rw, SYNC_BELL);
    return rc;
}

int dsm_rwlock_read(dsm_rwlock *rw, int64_t timeout_ns)
{
    struct waiting w;
    uint64_t seen = 0;
    int rc = try_read(rw, &seen);
    if (rc)
        return rc;
    if (!timeout_ns)
        return (rc = bury_writer(rw, seen)) > 0 ? try_read(rw, &seen) : rc;
    wait_begin(&w, &rw->lock.seat, SYNC_BELL, timeout_ns);
    for (;;) {
        if (rw->lock.seat.near)
            wait_spin(&w, seat_word(&rw->lock.seat, SYNC_WORD), seen);
        wait_listen(&w);
        if ((rc = try_read(rw, &seen)))
            return rc;
        if ((rc = bury_writer(rw, seen)) > 0)
            continue;
        if (rc || wait_over(&w))
            return rc;
        wait_sleep(&w);
    }
}

int dsm_rwlock_unread(dsm_rwlock *rw)
{
    if (seat_forked(&rw->lock.seat))
        return refuse_forked();
    pthread_mutex_lock(&rw->own);
    int rc = rw->readers ? seat_check(&rw->lock.seat) : err_set(DSM_ENOTHELD, 0, "for reading");
    if (!rc && rw->readers == 1)
        rc = set_inside(rw, 0);
    if (sure_gone(rc))
        rw->readers--;
    else if (!rc && --rw->readers == 0)
        gone(rw);
    pthread_mutex_unlock(&rw->own);
    return rc;
}

/* ---- writers ---- */

/* Whether somebody's 'inside' is set; one of the dead is cleared. As member.h asks: the word, then the entry, then the swap. */
static bool still_inside(dsm_rwlock *rw, uint64_t number, bool may_look)
{
    struct seat *s = &rw->lock.seat;
    uint64_t *word = seat_word(s, line(rw, number)), *entry = seat_word(s, SYNC_TABLE + 8 * number);
    if (!inspect_u64(entry)) /* whoever joins after this finds the writer's word held */
        return false;
    uint64_t now = inspect_u64(word);
    if (!(now & 1))
        return false;
    return !may_look || !member_dead(inspect_u64(entry)) || compare_swap_u64(word, now, changed(now, 0)) != now;
}

static int inside_near(dsm_rwlock *rw)
{
    int rc = seat_check(&rw->lock.seat), left = 0;
    for (uint64_t i = 0; !rc && i < rw->lock.seat.members; i++)
        left += still_inside(rw, i, false);
    if (left && seat_time_to_look(&rw->looked))
        for (uint64_t i = left = 0; i < rw->lock.seat.members; i++)
            left += still_inside(rw, i, true);
    return rc ? rc : left;
}

static int inside_far(dsm_rwlock *rw)
{
    struct seat *s = &rw->lock.seat;
    int rc = seat_read_all(s, s->own, rw->copy, (uint64_t)SYNC_LINE * s->members), left = 0;
    for (uint32_t i = 0; !rc && i < s->members; i++)
        left += rw->copy[SYNC_LINE * i] & 1;
    return rc ? rc : left;
}

static int inside(dsm_rwlock *rw) { return rw->lock.seat.near ? inside_near(rw) : inside_far(rw); }

int dsm_rwlock_claim(dsm_rwlock *rw, int64_t timeout_ns) { return lock_acquire_again(&rw->lock, timeout_ns); }

int dsm_rwlock_drain(dsm_rwlock *rw, int64_t timeout_ns)
{
    struct waiting w;
    int left = inside(rw);
    if (left <= 0 || !timeout_ns)
        return left < 0 ? left : !left;
    wait_begin(&w, &rw->lock.seat, SYNC_SECOND, timeout_ns);
    for (;;) {
        wait_listen(&w);
        if ((left = inside(rw)) <= 0)
            return left < 0 ? left : 1;
        if (wait_over(&w))
            return 0;
        wait_sleep(&w);
    }
}

int dsm_rwlock_unclaim(dsm_rwlock *rw, int unused)
{
    if (!unused)
        return lock_release(&rw->lock, false);
    lock_give_up(&rw->lock, true);
    return 0;
}

dsm_lock *dsm_rwlock_lock(dsm_rwlock *rw) { return &rw->lock; }

int dsm_rwlock_readers(dsm_rwlock *rw, int *news)
{
    *news = 0;
    if (seat_forked(&rw->lock.seat)) /* another thread may have had the mutex at the fork; a child reads nothing */
        return 0;
    pthread_mutex_lock(&rw->own);
    int readers = (int)rw->readers;
    *news = readers && rw->news;
    pthread_mutex_unlock(&rw->own);
    return readers;
}

/* ---- handles ---- */

static int sweep(void *arg, uint32_t number, uint64_t dead)
{
    dsm_rwlock *rw = arg;
    dsm_remote *r = rw->lock.seat.r;
    uint64_t word, old;
    int rc = lock_sweep(r, number, dead);
    if (!rc)
        rc = dsm_read(r, line(rw, number), &word, sizeof word, remote_patience(r));
    if (rc || !(word & 1))
        return rc;
    rc = member_is(r, SYNC_TABLE, number, dead);
    if (rc == 1)
        rc = dsm_compare_swap(r, line(rw, number), word, changed(word, 0), &old, remote_patience(r));
    if (!rc)
        ring(rw, SYNC_SECOND);
    return rc;
}

static int prepare(dsm_rwlock *rw)
{
    struct seat *s = &rw->lock.seat;
    if (!s->near && !(rw->copy = malloc((size_t)SYNC_LINE * s->members)))
        return err_set(DSM_ENOMEM, 0, "rwlock");
    return seat_read(s, line(rw, s->number), &rw->mine);
}

int dsm_rwlock_open(dsm_remote *r, int64_t spin_ns, dsm_rwlock **out)
{
    dsm_rwlock *rw = calloc(1, sizeof *rw);
    if (!rw)
        return err_set(DSM_ENOMEM, 0, "rwlock");
    pthread_mutex_init(&rw->own, NULL);
    int rc = lock_open(&rw->lock, r, DSM_RWLOCK, spin_ns, sweep, rw);
    if (!rc && (rc = prepare(rw)))
        lock_close(&rw->lock);
    if (!rc) {
        *out = rw;
        return 0;
    }
    free(rw->copy);
    free(rw);
    return rc;
}

/* 'inside' is cleared also where a far handle has set it without knowing that it did. */
int dsm_rwlock_leave(dsm_rwlock *rw)
{
    int rc = 0;
    if (rw->lock.gone || seat_check(&rw->lock.seat)) /* or the memory is gone, or this is a child */
        return 0;
    pthread_mutex_lock(&rw->own);
    if (rw->readers || !rw->lock.seat.near)
        rc = set_inside(rw, 0);
    if (!rc)
        rw->readers = 0;
    pthread_mutex_unlock(&rw->own);
    gone(rw);
    return rc && !sure_gone(rc) ? rc : lock_leave(&rw->lock);
}

void dsm_rwlock_close(dsm_rwlock *rw)
{
    dsm_rwlock_leave(rw);
    lock_close(&rw->lock);
    pthread_mutex_destroy(&rw->own);
    free(rw->copy);
    free(rw);
}
