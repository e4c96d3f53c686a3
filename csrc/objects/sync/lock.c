#include "lock.h"

#include <stdlib.h>

static uint64_t grant(const dsm_lock *l, uint64_t from, uint64_t owner_died)
{
    return (lock_token(from) + 1) << LOCK_TOKEN_SHIFT | owner_died | LOCK_HELD | l->handle.number;
}

/* store-release: pairs with the load_acquire_u64 of held in release(), which may run in another thread. */
static int granted(dsm_lock *l, uint64_t word)
{
    store_release_u64(&l->held, word);
    return 1;
}

/* ---- the dead ---- */

int lock_holder_dead(dsm_lock *l, uint64_t seen)
{
    uint64_t owner = seen & LOCK_OWNER, identity, word = 0;
    if (!(seen & LOCK_HELD) || !handle_time_to_look(&l->looked))
        return 0;
    if (owner >= l->handle.members)
        return err_set(DSM_ECORRUPT, 0, "the holder is member %llu of %u", (unsigned long long)owner,
                       l->handle.members);
    int rc = handle_read_now(&l->handle, SYNC_TABLE + 8 * owner, &identity);
    if (!rc && !identity)
        rc = handle_read_now(&l->handle, SYNC_WORD, &word);
    if (rc)
        return rc;
    if (!identity && word == seen)
        return err_set(DSM_ECORRUPT, 0, "the lock names member %llu as its holder, and that entry is empty",
                       (unsigned long long)owner);
    return member_ended(l->handle.r, identity);
}

/* Remote, an outcome that stays unknown is found by the next try: the word then names this handle as the holder. */
static int take_over(dsm_lock *l, uint64_t seen)
{
    int rc = lock_holder_dead(l, seen);
    if (rc <= 0)
        return rc;
    uint64_t mine = grant(l, seen, LOCK_OWNER_DIED), found;
    rc = handle_swap(&l->handle, SYNC_WORD, seen, mine, &found);
    return rc < 0 ? rc : rc == SWAP_DONE ? granted(l, mine) : 0;
}

/* In the order that member.h requires: read the word, then check the entry, then compare-swap from the value read. */
int lock_sweep(dsm_remote *r, uint32_t number, uint64_t dead)
{
    uint64_t word;
    int rc = sure_words(r, SYNC_WORD, &word, 1);
    if (rc || !(word & LOCK_HELD) || (word & LOCK_OWNER) != number)
        return rc;
    rc = member_is(r, SYNC_TABLE, number, dead);
    if (rc <= 0)
        return rc;
    return sure_swap_away(r, SYNC_WORD, word, lock_freed(word) | LOCK_OWNER_DIED);
}

/* ---- take ---- */

static int done(const dsm_lock *l, uint64_t word)
{
    return l->ends ? LOCK_NEVER
                   : err_set(DSM_ECORRUPT, 0, "the lock is free and has a holder, %016llx", (unsigned long long)word);
}

/* 1: taken. 0: it is held, and *seen is the word. LOCK_NEVER: it is done. One test covers 'held' and 'done', so taking
 * a free lock costs no second one. */
static int try_mapped(dsm_lock *l, uint64_t *seen)
{
    int rc = handle_check(&l->handle);
    if (rc)
        return rc;
    uint64_t *word = handle_word(&l->handle, SYNC_WORD), now = load_acquire_u64(word);
    while (!(now & (LOCK_HELD | LOCK_OWNER))) {
        uint64_t mine = grant(l, now, now & LOCK_OWNER_DIED), old = compare_swap_u64(word, now, mine);
        if (old == now)
            return granted(l, mine);
        now = old;
    }
    *seen = now;
    return lock_done(now) ? done(l, now) : 0;
}

static int try_remote(dsm_lock *l, uint64_t *seen)
{
    uint64_t from = l->guess;
    for (int i = 0; i < SWAP_TRIES; i++) {
        uint64_t mine = grant(l, from, from & LOCK_OWNER_DIED);
        int rc = handle_swap(&l->handle, SYNC_WORD, from, mine, seen);
        if (rc < 0)
            return rc;
        if (rc == SWAP_DONE)
            return granted(l, mine);
        if (*seen & LOCK_HELD &&
            (*seen & LOCK_OWNER) == l->handle.number) /* an earlier take, whose outcome was unknown */
            return granted(l, *seen);
        if (lock_done(*seen))
            return done(l, *seen);
        l->guess = from = *seen & LOCK_HELD ? lock_freed(*seen) : *seen;
        if (*seen & LOCK_HELD)
            return 0;
    }
    return 0; /* others were faster each time */
}

static int try(dsm_lock *l, uint64_t *seen)
{
    return handle_is_mapped(&l->handle) ? try_mapped(l, seen) : try_remote(l, seen);
}

static int contend(dsm_lock *l, struct waiting *w, bool once)
{
    uint64_t seen = 0;
    int rc = try(l, &seen);
    if (rc)
        return rc;
    if (once)
        return take_over(l, seen);
    for (;;) {
        if (handle_is_mapped(&l->handle))
            wait_spin(w, handle_word(&l->handle, SYNC_WORD), seen);
        wait_prepare(w);
        if ((rc = try(l, &seen)) || (rc = take_over(l, seen)))
            return rc;
        if (wait_over(w))
            return 0;
        wait_sleep(w);
    }
}

int lock_take(dsm_lock *l, int64_t timeout_ns)
{
    struct waiting w;
    if (handle_is_mapped(&l->handle) && !timeout_ns) /* the fast path of a free lock */
        return contend(l, NULL, true);
    wait_begin(&w, &l->handle, l->wake ? SYNC_EVENTCOUNT : 0, timeout_ns);
    if (!l->local_lock)
        return contend(l, &w, false);
    int rc = local_lock_enter(l->local_lock, w.deadline);
    if (rc != 1)
        return rc;
    rc = contend(l, &w, !timeout_ns);
    if (rc != 1)
        local_lock_leave(l->local_lock);
    return rc;
}

int dsm_lock_acquire(dsm_lock *l, int64_t timeout_ns)
{
    int rc = lock_take(l, timeout_ns);
    if (rc == 1 && l->local_lock)
        local_lock_rest(l->local_lock);
    return rc;
}

/* ---- release ---- */

static int not_held(void) { return err_set(DSM_ENOTHELD, 0, "lock"); }

/* Called when the word is no longer 'held'. Our own release to 'free' may have changed it, or another process. Returns
 * whether another process did, by taking over or by breaking the lock. */
static bool taken_over(uint64_t held, uint64_t free, uint64_t now)
{
    if (lock_done(free)) /* no process changes it after that */
        return now != free;
    if (now == (lock_freed(held) | LOCK_OWNER_DIED) && now != free) /* dsm_lock_break() */
        return true;
    return lock_token(now) == lock_token(held) + 1 &&
           (now & (LOCK_HELD | LOCK_OWNER_DIED)) == (LOCK_HELD | LOCK_OWNER_DIED);
}

static int give_back(dsm_lock *l, uint64_t held, uint64_t free)
{
    uint64_t now;
    int rc = SWAP_UNKNOWN;
    for (int i = 0; i < SWAP_TRIES && rc == SWAP_UNKNOWN; i++) {
        rc = handle_swap(&l->handle, SYNC_WORD, held, free, &now);
        if (rc == SWAP_UNKNOWN && now != held)
            return taken_over(held, free, now) ? not_held() : 0;
    }
    if (rc == SWAP_REFUSED) /* an earlier release, whose outcome was unknown, has taken effect */
        return l->unsure && !taken_over(held, free, now) ? 0 : not_held();
    return rc == SWAP_DONE ? 0 : rc == SWAP_UNKNOWN ? err_set(DSM_EIO, 0, "%d times in a row", SWAP_TRIES) : rc;
}

/* Clears 'held' first: once the word is free, another thread of this process may take the lock with this handle. */
static int release(dsm_lock *l, bool keep_owner_died, uint64_t end)
{
    uint64_t held = load_acquire_u64(&l->held);
    if (held && handle_forked(&l->handle))
        return refuse_forked();
    if (!held || compare_swap_u64(&l->held, held, 0) != held)
        return not_held();
    if (l->local_lock)
        local_lock_work(l->local_lock);
    uint64_t free = lock_freed(held) | (keep_owner_died ? held & LOCK_OWNER_DIED : 0) | end;
    int rc = give_back(l, held, free);
    l->unsure = rc && rc != -DSM_ENOTHELD && !sure_gone(l->handle.r, rc);
    if (l->unsure) {
        store_release_u64(&l->held, held); /* the outcome is unknown: the caller may try again */
        if (l->local_lock)
            local_lock_rest(l->local_lock);
        return rc;
    }
    l->guess = free & ~LOCK_DONE; /* a lock cannot be taken from a word with 'done' */
    if (l->wake)
        handle_notify(&l->handle, SYNC_EVENTCOUNT, l->wake);
    if (l->local_lock)
        local_lock_leave(l->local_lock);
    return rc;
}

int lock_release(dsm_lock *l, bool keep_owner_died) { return release(l, keep_owner_died, 0); }

int lock_end(dsm_lock *l) { return release(l, false, LOCK_DONE); }

void lock_give_up(dsm_lock *l, bool keep_owner_died)
{
    int rc = lock_release(l, keep_owner_died);
    if (rc && rc != -DSM_ENOTHELD)
        store_release_u32(&l->owed, keep_owner_died ? 2 : 1);
}

/* The thread that clears 'owed' does the release that is owed. The others wait for the local lock, which is released
 * with it. */
static int release_what_is_owed(dsm_lock *l)
{
    uint32_t owed = load_acquire_u32(&l->owed) ? exchange_u32(&l->owed, 0) : 0;
    int rc = owed ? lock_release(l, owed == 2) : 0;
    if (!rc || rc == -DSM_ENOTHELD)
        return 0;
    store_release_u32(&l->owed, owed);
    return rc;
}

int lock_acquire_again(dsm_lock *l, int64_t timeout_ns)
{
    int rc = release_what_is_owed(l);
    return rc ? rc : dsm_lock_acquire(l, timeout_ns);
}

int lock_take_again(dsm_lock *l, int64_t timeout_ns)
{
    int rc = release_what_is_owed(l);
    return rc ? rc : lock_take(l, timeout_ns);
}

static int seize(dsm_lock *l, uint64_t from)
{
    uint64_t mine = grant(l, from, from & LOCK_HELD ? LOCK_OWNER_DIED : from & LOCK_OWNER_DIED), seen = from;
    int rc = SWAP_UNKNOWN;
    if (lock_done(from) || (from & LOCK_HELD && (from & LOCK_OWNER) == l->handle.number))
        return 0;
    for (int i = 0; i < SWAP_TRIES && rc == SWAP_UNKNOWN && seen == from; i++)
        rc = handle_swap(&l->handle, SYNC_WORD, from, mine, &seen);
    return rc < 0 ? rc : rc == SWAP_DONE || seen == mine ? granted(l, mine) : 0;
}

int lock_seize(dsm_lock *l, uint64_t from)
{
    int rc = l->local_lock ? local_lock_enter(l->local_lock, clock_ns()) : 1;
    if (rc != 1)
        return rc;
    rc = seize(l, from);
    if (rc != 1 && l->local_lock)
        local_lock_leave(l->local_lock);
    return rc;
}

int dsm_lock_release(dsm_lock *l) { return lock_release(l, false); }

int dsm_lock_release_unused(dsm_lock *l) { return lock_release(l, true); }

uint64_t dsm_lock_token(const dsm_lock *l) { return lock_token(load_acquire_u64(&l->held)); }

int dsm_lock_recovered(const dsm_lock *l) { return (load_acquire_u64(&l->held) & LOCK_OWNER_DIED) != 0; }

int dsm_lock_locked(dsm_lock *l)
{
    uint64_t word;
    int rc = handle_read(&l->handle, SYNC_WORD, &word);
    return rc ? rc : (word & LOCK_HELD) != 0;
}

/* ---- by choice ---- */

/* Reads the word first. An entry changes hands only after what was held under it has been undone, so *identity is the
 * holder according to *word, or the word has changed. */
static int find_holder(dsm_lock *l, uint64_t *word, uint64_t *identity)
{
    int rc = handle_read(&l->handle, SYNC_WORD, word);
    uint64_t owner = *word & LOCK_OWNER;
    *identity = 0;
    if (rc || !(*word & LOCK_HELD))
        return rc;
    if (owner >= l->handle.members)
        return err_set(DSM_ECORRUPT, 0, "the holder is member %llu of %u", (unsigned long long)owner,
                       l->handle.members);
    return handle_read(&l->handle, SYNC_TABLE + 8 * owner, identity);
}

int dsm_lock_holder(dsm_lock *l, uint64_t *identity)
{
    uint64_t word = 0;
    int rc = handle_check(&l->handle);
    return rc ? rc : find_holder(l, &word, identity);
}

int dsm_lock_break(dsm_lock *l, uint64_t holder)
{
    uint64_t word = 0, found, now;
    int rc = handle_check(&l->handle), swapped = SWAP_UNKNOWN;
    for (int i = 0; !rc && i < SWAP_TRIES && swapped == SWAP_UNKNOWN; i++) {
        rc = find_holder(l, &word, &found);
        if (rc || !found || found != holder)
            return rc;
        swapped = handle_swap(&l->handle, SYNC_WORD, word, lock_freed(word) | LOCK_OWNER_DIED, &now);
    }
    if (rc || swapped < 0)
        return rc ? rc : swapped;
    if (swapped == SWAP_UNKNOWN)
        return err_set(DSM_EIO, 0, "%d times in a row", SWAP_TRIES);
    if (swapped == SWAP_DONE && l->wake)
        handle_notify(&l->handle, SYNC_EVENTCOUNT, l->wake);
    return swapped == SWAP_DONE;
}

/* ---- handles ---- */

static int sweep_alone(void *arg, uint32_t number, uint64_t dead) { return lock_sweep(arg, number, dead); }

int lock_open(dsm_lock *l, dsm_remote *r, enum dsm_type type, int64_t spin_ns, member_sweep *sweep, void *arg)
{
    *l = (dsm_lock){.ends = type == DSM_ONCE,
                    .wake = type == DSM_SPINLOCK                     ? 0
                            : type == DSM_RWLOCK || type == DSM_ONCE ? NOTIFY_ALL
                                                                     : 1};
    int rc = handle_take(&l->handle, r, type, spin_ns, sweep ? sweep : sweep_alone, sweep ? arg : r);
    if (!rc && !handle_is_mapped(&l->handle) && (rc = local_lock_open(l->handle.id, &l->local_lock)))
        handle_leave(&l->handle);
    return rc;
}

/* Gives back what this handle still holds, with owner_died set for the next holder. A remote handle may hold the lock
 * without knowing it. */
static int drop(dsm_lock *l)
{
    uint64_t word;
    int rc = handle_read(&l->handle, SYNC_WORD, &word);
    uint64_t held = load_acquire_u64(&l->held);
    if (!held && !rc && !handle_is_mapped(&l->handle) && word & LOCK_HELD && (word & LOCK_OWNER) == l->handle.number)
        held = word;
    if (!held || rc)
        return rc;
    rc = SWAP_UNKNOWN;
    word = held;
    for (int i = 0; i < SURE_TRIES && rc == SWAP_UNKNOWN && word == held; i++)
        rc = handle_swap(&l->handle, SYNC_WORD, held, lock_freed(held) | LOCK_OWNER_DIED, &word);
    if (l->wake)
        handle_notify(&l->handle, SYNC_EVENTCOUNT, l->wake);
    if (rc == SWAP_UNKNOWN && word == held)
        return err_set(DSM_EIO, 0, "%d times in a row", SURE_TRIES);
    return rc < 0 ? rc : 0;
}

int lock_leave(dsm_lock *l)
{
    if (l->gone || l->handle.r->forks != load_relaxed_u32(&core_forks)) /* a child only discards the handle */
        return 0;
    int rc = drop(l);
    if (!rc)
        rc = handle_leave(&l->handle);
    l->gone = !rc || sure_lost(rc);
    return l->gone ? 0 : rc;
}

void lock_close(dsm_lock *l)
{
    lock_leave(l);
    if (l->local_lock && !handle_forked(&l->handle)) {
        if (load_acquire_u64(&l->held))
            local_lock_leave(l->local_lock);
        local_lock_close(l->local_lock);
    }
}

int dsm_lock_open(dsm_remote *r, int64_t spin_ns, dsm_lock **out)
{
    int type = dsm_object_type(r);
    if (type < 0)
        return type;
    dsm_lock *l = malloc(sizeof *l);
    if (!l)
        return err_set(DSM_ENOMEM, 0, "lock");
    int rc = lock_open(l, r, type == DSM_SPINLOCK || type == DSM_RLOCK ? (enum dsm_type)type : DSM_LOCK, spin_ns, NULL,
                       NULL);
    if (rc)
        free(l);
    else
        *out = l;
    return rc;
}

int dsm_lock_held(const dsm_lock *l) { return load_acquire_u64(&l->held) != 0; }

int dsm_lock_unsure(const dsm_lock *l) { return dsm_lock_held(l) && l->unsure; }

int dsm_lock_leave(dsm_lock *l) { return lock_leave(l); }

void dsm_lock_close(dsm_lock *l)
{
    lock_close(l);
    free(l);
}
