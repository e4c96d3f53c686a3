/*
 * A lock that survives its holders.
 *
 * The word, which only compare-swaps change:
 *   bits 0-9    owner: entry of the holder in the member table. While free: 0; or 1: done, of a once, which no process
 *               takes again
 *   bit 10      held
 *   bit 11      owner_died: the holder before died with the lock. While free: for the next holder; while held: for this
 *               holder
 *   bits 12-63  token: grows by 1 with every grant, so no value with 'held' set ever occurs twice
 *
 *   take       free, token t              -> held by me, t + 1, owner_died kept
 *   release    held by me, t              -> free, t
 *   take over  held by a dead process, t  -> held by me, t + 1, owner_died   (by a waiter that has proof)
 *   undo       held by a dead process, t  -> free, t, owner_died   (by a process that takes over the entry; also by a
 *                                                                   handle that is closed while it holds the lock)
 *   break      held by X, t               -> free, t, owner_died   (by choice: the caller answers for X being gone)
 *   end        held by me, t              -> free, t, done   (a once: what it was taken for has been done, for good)
 *
 * MUTUAL EXCLUSION. 'held' with token t + 1 is written once, from one value with token t. It goes away by the holder's
 * release, by a break, or when the holder is proven dead. The proof: the word was read as held by entry i, and after
 * that entry i held a dead identity. An entry gets a new identity only after what was held under it has been undone,
 * and a process that leaves holds nothing. So the dead process is the holder, or the word has changed and the
 * compare-swap fails.
 *
 * NO WAITER IS STUCK. A release wakes one waiter (of a once or an rwlock all, of a spinlock none: its waiters poll).
 * The releasing process may be killed before it wakes one, that waiter may be killed before it takes the lock, or a
 * waiter may be stopped. In each case the others recheck the word by themselves within EVENTCOUNT_RECHECK_NS, and then
 * also check whether the holder is alive.
 *
 * If a process dies                     others see
 *   before the compare-swap of take     free: the next one takes it
 *   after it, before release            held by a dead process: a waiter takes over with owner_died set, within 50 ms
 *   after the release, before the wake  free: a newcomer takes it at once, a sleeper within 50 ms
 *   after joining, before leaving       its entry: the next newcomer that finds no free one undoes and succeeds it
 *
 * REMOTE. Take and release are one compare-swap each if the word is as last seen. A holder cannot be proven dead, so no
 * process takes over: waiters time out. After a failure of the transport the word tells what happened, see
 * handle_swap(). If it says 'held by my entry' while my handle holds nothing, an earlier take did take effect, and the
 * next take finds that.
 */
#ifndef DSM_OBJECTS_SYNC_LOCK_H
#define DSM_OBJECTS_SYNC_LOCK_H

#include "handle.h"

enum { LOCK_OWNER_BITS = 10, LOCK_TOKEN_SHIFT = 12 };
#define LOCK_OWNER ((1ull << LOCK_OWNER_BITS) - 1)
#define LOCK_HELD (1ull << LOCK_OWNER_BITS)
#define LOCK_OWNER_DIED (1ull << (LOCK_OWNER_BITS + 1))
#define LOCK_DONE 1ull   /* while free */
enum { LOCK_NEVER = 2 }; /* result of acquiring: it is done, and no process takes it again */
_Static_assert(MEMBERS_MAX <= 1 << LOCK_OWNER_BITS, "an entry's number fits the word");
_Static_assert(LOCK_OWNER_DIED << 1 == 1ull << LOCK_TOKEN_SHIFT, "owner, held, owner_died, token");

struct dsm_lock {
    struct sync_handle handle;
    uint64_t held;   /* the word as this handle wrote it, or 0 */
    uint64_t guess;  /* remote: the free word to try first */
    uint64_t looked; /* when the holder was last checked for being alive */
    bool unsure;     /* a release of 'held' ended with an error */
    uint32_t owed;   /* 1: the object's own code could not release the lock; 2: the same, with owner_died to keep */
    bool gone;       /* it holds nothing any more and has no entry */
    bool ends;       /* the type has the 'done' state */
    int wake;        /* how many waiters a release wakes; 0: waiters do not sleep on the eventcount */
    struct local_lock *local_lock;
};

static inline uint64_t lock_token(uint64_t word) { return word >> LOCK_TOKEN_SHIFT; }
static inline bool lock_done(uint64_t word) { return !(word & LOCK_HELD) && word & LOCK_OWNER; }
static inline uint64_t lock_freed(uint64_t word) { return lock_token(word) << LOCK_TOKEN_SHIFT; }

/* For the types that contain a lock. They undo what a dead member left with sweep NULL (that is lock_sweep()), or with
 * a sweep that begins with lock_sweep(). */
int lock_open(dsm_lock *l, dsm_remote *r, enum dsm_type type, int64_t spin_ns, member_sweep *sweep, void *arg);
/* Gives back what the handle holds, and its entry. It tries several times; after an error of the transport it may be
 * called again, until it succeeds. Returns 0 also if the memory is gone. */
int lock_leave(dsm_lock *l);
/* Frees what the handle has in this process. Calls lock_leave() first, which has no effect if the handle has left
 * already. */
void lock_close(dsm_lock *l);
int lock_sweep(dsm_remote *r, uint32_t number, uint64_t dead);
/* keep_owner_died: the holder gives the lock back without having used it, so the next holder gets its
 * owner_died flag. */
int lock_release(dsm_lock *l, bool keep_owner_died);
/* A once: releases it as done, for good. ENOTHELD: it was broken, so it is not done. */
int lock_end(dsm_lock *l);
/* Like lock_release(), for the code of an object whose user knows of no lock: if it fails, the next
 * lock_acquire_again() or lock_take_again() repeats it. */
void lock_give_up(dsm_lock *l, bool keep_owner_died);
int lock_acquire_again(dsm_lock *l, int64_t timeout_ns);
/* Like lock_acquire_again(), by a call that gives the lock back before it ends: a signal handler that runs during the
 * call is refused, and does not wait for it. */
int lock_take(dsm_lock *l, int64_t timeout_ns);
int lock_take_again(dsm_lock *l, int64_t timeout_ns);
/* Takes the lock if its word is still 'from', also from a holder: that one has lost it, as if it had been broken, and
 * this one has owner_died set. 1: taken. 0: the word has changed, or another thread of this process uses the handle. */
int lock_seize(dsm_lock *l, uint64_t from);
/* Local: the word was read as 'seen', in which 'held' is set. 1: its holder is dead, 0: not proven, or -DSM_E…. */
int lock_holder_dead(dsm_lock *l, uint64_t seen);

#endif
