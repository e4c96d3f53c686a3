/*
 * A lock for many readers or one writer.
 *
 * The word is the writer's lock (lock.h). The own bytes of the object are one line per member. The first word of a line
 * is that member's readers' word: bit 0: inside; bits 1-63: number of changes, so no value occurs twice. Only
 * compare-swaps change the writer's word and the readers' words.
 *
 *   read     set my 'inside', then read the writer's word: free: in; held: clear my 'inside', wait, try again
 *   write    take the writer's word, then wait until no 'inside' is set
 *
 * EXCLUSION. Each side changes its own word before it reads the other's, in the one order of all such changes
 *   (load_seq_cst_u64), so a reader and a writer cannot both miss each other. The threads of one handle share one
 *   'inside', which stays set from the first to the last of them.
 * PREFERENCE. While a writer has the word, or waits for readers with it, no new reader comes in. Writers that still
 *   wait for the word do not keep readers out.
 * DEATH. A dead writer's word is taken over as a lock is. A reader that finds a dead writer frees the word and leaves
 *   owner_died in it until a writer takes it. A dead reader's 'inside' is cleared by the writer that waits for it, or
 *   with its entry (member.h).
 * BREAK. A process that answers for a reader being gone clears that reader's 'inside' and adds two changes at once. The
 *   reader's own swaps, of which one may be in doubt, add one change each. So a reader that is alive finds out, at the
 *   latest when it leaves.
 * OWED. A reader that cannot clear its 'inside' is out all the same. The handle clears it with its next call, or when
 *   it is closed.
 */
#include "lock.h"

#include <pthread.h>
#include <stdlib.h>

struct dsm_rwlock {
    dsm_lock lock;
    pthread_mutex_t own; /* guards the fields below and this member's word; held across ops, see handle_lock() */
    uint32_t readers;    /* of this handle; store-release under own, load-acquire in dsm_rwlock_readers() without it */
    uint64_t mine;       /* this member's word as last known */
    bool doubt;          /* this handle may have changed the word once more */
    uint32_t owed;       /* no thread reads with this handle, and 'inside' may be set */
    uint32_t owner_died; /* of a reader: the last writer died with the lock; stored before 'readers', read after it */
    uint64_t looked;
    uint8_t *copy; /* remote: copy of the bytes from the word to the end */
};

static uint64_t line(const dsm_rwlock *rw, uint64_t number) { return rw->lock.handle.own + SYNC_LINE * number; }

static uint64_t changed(uint64_t word, uint64_t inside) { return ((word >> 1) + 1) << 1 | inside; }

static void notify(dsm_rwlock *rw, uint64_t eventcount) { handle_notify(&rw->lock.handle, eventcount, NOTIFY_ALL); }

/* ---- readers ---- */

static int taken_away(void) { return err_set(DSM_ENOTHELD, 0, "break_() has taken it from this handle"); }

/* Sets or clears 'inside'. While this process lives, only a break changes the word from elsewhere. 0: done. 1: done,
 * and it was broken before, so this handle held nothing. -DSM_E…: it may be done. */
static int set_inside(dsm_rwlock *rw, uint64_t inside)
{
    uint64_t found, at = line(rw, rw->lock.handle.number);
    bool was_broken = false;
    for (int i = 0; i < SWAP_TRIES; i++) {
        uint64_t next = changed(rw->mine, inside);
        int rc = handle_swap(&rw->lock.handle, at, rw->mine, next, &found);
        if (rc < 0) {
            rw->doubt = true;
            return rc;
        }
        bool own = found == rw->mine || (rw->doubt && found >> 1 == (rw->mine >> 1) + 1);
        was_broken |= rc != SWAP_DONE && !own;
        rw->doubt = rc == SWAP_UNKNOWN && found == rw->mine;
        rw->mine = rc == SWAP_DONE ? next : found;
        if (rc == SWAP_DONE)
            return was_broken;
    }
    rw->doubt = true;
    return err_set(DSM_EIO, 0, "%d times", SWAP_TRIES);
}

/* Clears 'inside' when no thread reads with this handle any more. */
static int clear_inside(dsm_rwlock *rw)
{
    int rc = set_inside(rw, 0);
    store_relaxed_u32(&rw->owed, rc < 0 && !sure_gone(rw->lock.handle.r, rc));
    return rc;
}

/* Called before anything else that the handle does, except a read, which changes 'inside' itself: clears an 'inside'
 * that is owed, because a writer may be waiting for a reader that has left. */
static int settle(dsm_rwlock *rw)
{
    int rc = 0;
    if (!load_relaxed_u32(&rw->owed))
        return 0;
    if (handle_forked(&rw->lock.handle))
        return refuse_forked();
    if ((rc = handle_lock(&rw->own)))
        return rc;
    if (load_relaxed_u32(&rw->owed))
        rc = clear_inside(rw);
    pthread_mutex_unlock(&rw->own);
    return rc < 0 ? rc : 0;
}

static int look(dsm_rwlock *rw, uint64_t *word)
{
    struct sync_handle *s = &rw->lock.handle;
    if (!handle_is_mapped(s))
        return handle_read(s, SYNC_WORD, word);
    *word = load_seq_cst_u64(handle_word(s, SYNC_WORD));
    return 0;
}

/* Wakes a writer, which may have seen 'inside' before it was cleared, and may be asleep. */
static void gone(dsm_rwlock *rw)
{
    uint64_t word;
    if (handle_is_mapped(&rw->lock.handle) && !look(rw, &word) && word & LOCK_HELD)
        notify(rw, SYNC_SECOND);
}

/* Local: whether the bit that the threads of this handle share is still set. Remote that would take an op; those
 * threads find out when they leave. */
static bool still_inside_here(dsm_rwlock *rw)
{
    return !handle_is_mapped(&rw->lock.handle) ||
           load_acquire_u64(handle_word(&rw->lock.handle, line(rw, rw->lock.handle.number))) == rw->mine;
}

/* With rw->own held. 1: in. 0: a writer has the word, which is now in *seen. */
static int enter(dsm_rwlock *rw, uint64_t *seen)
{
    if (rw->readers && !still_inside_here(rw))
        return taken_away();
    int rc = rw->readers ? 0 : set_inside(rw, 1);
    if (rc >= 0)
        rc = look(rw, seen);
    if (!rc && !(*seen & LOCK_HELD)) {
        store_relaxed_u32(&rw->owed, 0);
        store_relaxed_u32(&rw->owner_died, (*seen & LOCK_OWNER_DIED) != 0);
        store_release_u32(&rw->readers, rw->readers + 1);
        return 1;
    }
    if (!rw->readers) {
        int back = clear_inside(rw);
        rc = rc ? rc : back < 0 ? back : 0;
        gone(rw);
    }
    return rc;
}

static int try_read(dsm_rwlock *rw, uint64_t *seen)
{
    int rc = handle_check(&rw->lock.handle);
    if (rc)
        return rc;
    if (handle_is_mapped(&rw->lock.handle)) { /* without disturbing a writer that waits for readers to leave */
        *seen = load_acquire_u64(handle_word(&rw->lock.handle, SYNC_WORD));
        if (*seen & LOCK_HELD)
            return 0;
    }
    if ((rc = handle_lock(&rw->own)))
        return rc;
    rc = enter(rw, seen);
    pthread_mutex_unlock(&rw->own);
    return rc;
}

/* If the writer is dead, frees the word with owner_died set. 1: recheck the word. */
static int bury_writer(dsm_rwlock *rw, uint64_t seen)
{
    uint64_t found;
    int rc = lock_holder_dead(&rw->lock, seen);
    if (rc <= 0)
        return rc;
    rc = handle_swap(&rw->lock.handle, SYNC_WORD, seen, lock_freed(seen) | LOCK_OWNER_DIED, &found);
    if (rc == SWAP_DONE)
        notify(rw, SYNC_EVENTCOUNT);
    return rc < 0 ? rc : 1;
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
    wait_begin(&w, &rw->lock.handle, SYNC_EVENTCOUNT, timeout_ns);
    for (;;) {
        if (handle_is_mapped(&rw->lock.handle))
            wait_spin(&w, handle_word(&rw->lock.handle, SYNC_WORD), seen);
        wait_prepare(&w);
        if ((rc = try_read(rw, &seen)))
            return rc;
        if ((rc = bury_writer(rw, seen)) > 0)
            continue;
        if (rc || wait_over(&w))
            return rc;
        wait_sleep(&w);
    }
}

/* The reader is out even if 'inside' cannot be cleared: then clearing it is owed, and another call may do it. */
int dsm_rwlock_unread(dsm_rwlock *rw)
{
    if (handle_forked(&rw->lock.handle))
        return refuse_forked();
    int rc = handle_lock(&rw->own);
    if (rc)
        return rc;
    bool holds = rw->readers || load_relaxed_u32(&rw->owed);
    rc = holds ? handle_check(&rw->lock.handle) : err_set(DSM_ENOTHELD, 0, "for reading");
    store_release_u32(&rw->readers, rw->readers - (rw->readers != 0));
    if (holds && !rc && !rw->readers && (rc = clear_inside(rw)) >= 0)
        gone(rw);
    pthread_mutex_unlock(&rw->own);
    return rc > 0 ? taken_away() : rc;
}

/* ---- writers ---- */

/* Whether a member's 'inside' is set. With may_look, that of a dead member is cleared, in the order that member.h
 * requires: the word, then the entry, then the compare-swap. */
static bool still_inside_mapped(dsm_rwlock *rw, uint64_t number, bool may_look)
{
    struct sync_handle *s = &rw->lock.handle;
    uint64_t *word = handle_word(s, line(rw, number)), *entry = handle_word(s, SYNC_TABLE + 8 * number);
    if (!load_seq_cst_u64(entry)) /* a process that joins after this finds the writer's word held */
        return false;
    uint64_t now = load_seq_cst_u64(word);
    if (!(now & 1))
        return false;
    return !may_look || !identity_ended(load_seq_cst_u64(entry)) || compare_swap_u64(word, now, changed(now, 0)) != now;
}

static int inside_mapped(dsm_rwlock *rw)
{
    int rc = handle_check(&rw->lock.handle), left = 0;
    for (uint64_t i = 0; !rc && i < rw->lock.handle.members; i++)
        left += still_inside_mapped(rw, i, false);
    if (left && handle_time_to_look(&rw->looked))
        for (uint64_t i = left = 0; i < rw->lock.handle.members; i++)
            left += still_inside_mapped(rw, i, true);
    return rc ? rc : left;
}

static uint64_t copy_bytes(const struct sync_handle *s)
{
    return s->own + (uint64_t)SYNC_LINE * s->members - SYNC_WORD;
}

static uint64_t copied(const dsm_rwlock *rw, uint64_t at)
{
    return load_relaxed_u64((const uint64_t *)(const void *)(rw->copy + (at - SYNC_WORD)));
}

/* Clears what the dead readers of the copy have left, in the order that member.h requires: the words are those of the
 * copy, the entries are read after it. Returns how many were cleared. */
static int clear_dead_remote(dsm_rwlock *rw)
{
    struct sync_handle *s = &rw->lock.handle;
    uint64_t entries[MEMBERS_MAX], found;
    uint8_t ended[MEMBERS_MAX];
    int rc = handle_read_all(s, SYNC_TABLE, entries, 8ull * s->members), cleared = 0;
    if (rc)
        return rc;
    for (uint32_t i = 0; i < s->members; i++)
        entries[i] = copied(rw, line(rw, i)) & 1 ? entries[i] : 0;
    members_ended(s->r, entries, s->members, ended);
    for (uint32_t i = 0; rc >= 0 && i < s->members; i++) {
        uint64_t word = copied(rw, line(rw, i));
        rc = ended[i] ? handle_swap(s, line(rw, i), word, changed(word, 0), &found) : 0;
        cleared += rc == SWAP_DONE;
    }
    return rc < 0 ? rc : cleared;
}

static int inside_remote(dsm_rwlock *rw)
{
    struct sync_handle *s = &rw->lock.handle;
    int rc = handle_read_all(s, SYNC_WORD, rw->copy, copy_bytes(s)), left = 0;
    for (uint32_t i = 0; !rc && i < s->members; i++)
        left += copied(rw, line(rw, i)) & 1;
    if (!rc && left && handle_time_to_look(&rw->looked))
        rc = clear_dead_remote(rw);
    return rc < 0 ? rc : left - rc;
}

/* The number of readers inside, asked by the writer. ENOTHELD: the writer's lock was broken. */
static int inside(dsm_rwlock *rw)
{
    struct sync_handle *s = &rw->lock.handle;
    int left = handle_is_mapped(s) ? inside_mapped(rw) : inside_remote(rw);
    uint64_t word = left < 0              ? 0
                    : handle_is_mapped(s) ? load_acquire_u64(handle_word(s, SYNC_WORD))
                                          : copied(rw, SYNC_WORD);
    return left < 0 || word == load_acquire_u64(&rw->lock.held) ? left : taken_away();
}

int dsm_rwlock_claim(dsm_rwlock *rw, int64_t timeout_ns)
{
    int rc = settle(rw);
    return rc ? rc : lock_acquire_again(&rw->lock, timeout_ns);
}

int dsm_rwlock_drain(dsm_rwlock *rw, int64_t timeout_ns)
{
    struct waiting w;
    int left = settle(rw);
    if (!left)
        left = inside(rw);
    if (left <= 0 || !timeout_ns)
        return left < 0 ? left : !left;
    wait_begin(&w, &rw->lock.handle, SYNC_SECOND, timeout_ns);
    for (;;) {
        wait_prepare(&w);
        if ((left = inside(rw)) <= 0)
            return left < 0 ? left : 1;
        if (wait_over(&w))
            return 0;
        wait_sleep(&w);
    }
}

int dsm_rwlock_unclaim(dsm_rwlock *rw, int unused)
{
    settle(rw);
    if (!unused)
        return lock_release(&rw->lock, false);
    lock_give_up(&rw->lock, true);
    return 0;
}

dsm_lock *dsm_rwlock_lock(dsm_rwlock *rw) { return &rw->lock; }

int dsm_rwlock_readers(dsm_rwlock *rw, int *owner_died)
{
    uint32_t readers = handle_forked(&rw->lock.handle) ? 0 : load_acquire_u32(&rw->readers); /* a child holds nothing */
    *owner_died = readers && load_relaxed_u32(&rw->owner_died);
    return (int)readers;
}

/* ---- by choice ---- */

/* In the order that member.h requires: the word, then the entry. A compare-swap of the word that succeeds afterwards
 * proves both. */
static int list_readers(dsm_rwlock *rw, uint32_t number, uint64_t *word, uint64_t *identity)
{
    *identity = 0;
    int rc = handle_read(&rw->lock.handle, line(rw, number), word);
    return rc || !(*word & 1) ? rc : handle_read(&rw->lock.handle, SYNC_TABLE + 8ull * number, identity);
}

/* Remote: copies the readers' lines. The copy says which lines must be read again. */
static int copy_lines(dsm_rwlock *rw, uint8_t **copy)
{
    struct sync_handle *s = &rw->lock.handle;
    int rc = handle_check(s);
    *copy = rc || handle_is_mapped(s) ? NULL : malloc((size_t)SYNC_LINE * s->members);
    if (rc || handle_is_mapped(s))
        return rc;
    return *copy ? handle_read_all(s, s->own, *copy, (uint64_t)SYNC_LINE * s->members)
                 : err_set(DSM_ENOMEM, 0, "rwlock");
}

static bool may_read(const uint8_t *copy, uint32_t number) { return !copy || copy[(size_t)SYNC_LINE * number] & 1; }

int dsm_rwlock_inside(dsm_rwlock *rw, uint64_t *identities)
{
    uint8_t *copy = NULL;
    uint64_t word;
    int rc = settle(rw), n = 0;
    if (!rc)
        rc = copy_lines(rw, &copy);
    for (uint32_t i = 0; !rc && i < rw->lock.handle.members; i++)
        if (may_read(copy, i)) {
            rc = list_readers(rw, i, &word, &identities[n]);
            n += !rc && identities[n];
        }
    free(copy);
    return rc ? rc : n;
}

static int break_reader(dsm_rwlock *rw, uint32_t number, uint64_t holder)
{
    uint64_t word, found, identity;
    int rc = SWAP_UNKNOWN;
    for (int i = 0; i < SWAP_TRIES && rc == SWAP_UNKNOWN; i++) {
        if ((rc = list_readers(rw, number, &word, &identity)) || identity != holder)
            return rc;
        rc = handle_swap(&rw->lock.handle, line(rw, number), word, changed(changed(word, 0), 0), &found);
    }
    return rc == SWAP_UNKNOWN ? err_set(DSM_EIO, 0, "%d times in a row", SWAP_TRIES) : rc;
}

int dsm_rwlock_break(dsm_rwlock *rw, uint64_t holder)
{
    uint8_t *copy = NULL;
    int rc = settle(rw), broken = 0;
    if (!rc)
        rc = copy_lines(rw, &copy);
    if (!rc && (rc = dsm_lock_break(&rw->lock, holder)) > 0)
        broken = 1;
    for (uint32_t i = 0; rc >= 0 && holder && i < rw->lock.handle.members; i++)
        if (may_read(copy, i) && (rc = break_reader(rw, i, holder)) > 0)
            broken = 1;
    free(copy);
    if (broken)
        notify(rw, SYNC_SECOND);
    return rc < 0 ? rc : broken;
}

/* ---- handles ---- */

static int sweep(void *arg, uint32_t number, uint64_t dead)
{
    dsm_rwlock *rw = arg;
    dsm_remote *r = rw->lock.handle.r;
    uint64_t word;
    int rc = lock_sweep(r, number, dead);
    if (!rc)
        rc = sure_words(r, line(rw, number), &word, 1);
    if (rc || !(word & 1))
        return rc;
    rc = member_is(r, SYNC_TABLE, number, dead);
    if (rc == 1)
        rc = sure_swap_away(r, line(rw, number), word, changed(word, 0));
    if (!rc)
        notify(rw, SYNC_SECOND);
    return rc;
}

static int prepare(dsm_rwlock *rw)
{
    struct sync_handle *s = &rw->lock.handle;
    if (!handle_is_mapped(s) && !(rw->copy = malloc(copy_bytes(s))))
        return err_set(DSM_ENOMEM, 0, "rwlock");
    return handle_read(s, line(rw, s->number), &rw->mine);
}

int dsm_rwlock_open(dsm_remote *r, int64_t spin_ns, dsm_rwlock **out)
{
    dsm_rwlock *rw = calloc(1, sizeof *rw);
    if (!rw)
        return err_set(DSM_ENOMEM, 0, "rwlock");
    handle_lock_init(&rw->own);
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

/* 'inside' is cleared even if a remote handle has set it without knowing that it did. */
int dsm_rwlock_leave(dsm_rwlock *rw)
{
    if (rw->lock.gone || handle_check(&rw->lock.handle)) /* or the memory is gone, or this is a child */
        return 0;
    int rc = handle_lock(&rw->own);
    if (rc)
        return rc;
    if (rw->readers || !handle_is_mapped(&rw->lock.handle))
        rc = clear_inside(rw);
    if (rc >= 0)
        store_release_u32(&rw->readers, 0);
    pthread_mutex_unlock(&rw->own);
    gone(rw);
    return rc < 0 && !sure_lost(rc) ? rc : lock_leave(&rw->lock);
}

void dsm_rwlock_close(dsm_rwlock *rw)
{
    dsm_rwlock_leave(rw);
    lock_close(&rw->lock);
    pthread_mutex_destroy(&rw->own);
    free(rw->copy);
    free(rw);
}
