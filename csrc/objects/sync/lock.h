/*
 * A lock that survives its holders.
 *
 * The word, which only compare-swaps change:
 *   bits 0-9    owner: entry of the holder in the member table. While free: 0, or 1: done, of a once, which nobody
 *   takes again bit 10      held
 *   bit 11      news: the holder before died with it. While free: for the next holder; while held: the holder's news
 *   bits 12-63  token: grows by 1 with every grant, so no value that says 'held' ever comes twice
 *
 *   take       free, token t          -> held by me, t + 1, news kept
 *   release    held by me, t          -> free, t
 *   take over  held by the dead, t    -> held by me, t + 1, news    (a waiter that has proof)
 *   undo       held by the dead, t    -> free, t, news              (who takes over the entry; also a handle that is
 *   dropped
 *                                                                    while it holds the lock)
 *
 *   break      held by X, t           -> free, t, news              (by choice: the caller answers for X being gone)
 *   end        held by me, t          -> free, t, done              (a once: what it was taken for has been done, for
 *   good)
 *
 * MUTUAL EXCLUSION. 'held' with token t + 1 is written from one value with token t, once; it goes away by the holder's
 * release, or when the holder is proven dead. Proof: the word was read as held by entry i, and after that entry i held
 * a dead identity. An entry gets a new identity only when its word was undone, and who leaves does not hold it: so the
 * dead one is the holder, or the word has changed and the compare-swap fails.
 *
 * NOBODY IS STUCK. A release rings for one waiter. If it is killed before it rings, or the waiter before it takes the
 * lock, or a waiter is stopped, the others look again by themselves within EVENTCOUNT_RECHECK_NS; they then look
 * whether the holder lives, too.
 *
 * If a process dies                    others see
 *   before the compare-swap of take    free: the next takes it
 *   after it, before release           held by the dead: a waiter takes it over with owner_died set, within 50 ms
 *   after the release, before the ring free: a newcomer takes it at once, a sleeper within 50 ms
 *   after joining, before leaving      its entry: the next newcomer that finds no free one undoes and succeeds it
 *
 * REMOTE. Take and release are one compare-swap each where the word is as last seen. A dead holder can't be proven, so
 * nobody takes over: waiters run out of time. After a failure of the transport the word tells what happened, see
 * handle_swap(): held by my entry while my handle holds nothing means that an earlier take did take effect, and the
 * next take finds that.
 */
#ifndef DSM_PROTO_LOCK_H
#define DSM_PROTO_LOCK_H

#include "handle.h"

enum { LOCK_OWNER_BITS = 10, LOCK_TOKEN_SHIFT = 12 };
#define LOCK_OWNER ((1ull << LOCK_OWNER_BITS) - 1)
#define LOCK_HELD (1ull << LOCK_OWNER_BITS)
#define LOCK_OWNER_DIED (1ull << (LOCK_OWNER_BITS + 1))
#define LOCK_DONE 1ull   /* while free */
enum { LOCK_NEVER = 2 }; /* of acquiring: it is done, nobody will have it */
_Static_assert(MEMBERS_MAX <= 1 << LOCK_OWNER_BITS, "an entry's number fits the word");
_Static_assert(LOCK_OWNER_DIED << 1 == 1ull << LOCK_TOKEN_SHIFT, "owner, held, news, token");

struct dsm_lock {
    struct sync_handle handle;
    uint64_t held;   /* the word as this handle wrote it, or 0 */
    uint64_t guess;  /* remote: the free word to try first */
    uint64_t looked; /* when the holder's life was last looked at */
    bool unsure;     /* a release of 'held' ended with an error */
    uint32_t owed;   /* the object's own code could not give it back: 1, with news to keep: 2 */
    bool gone;       /* it holds nothing any more and has no entry */
    bool ends;       /* it may be done */
    int wake;        /* how many waiters a release wakes; 0: they do not sleep on the eventcount */
    struct local_lock *local_lock;
};

static inline uint64_t lock_token(uint64_t word) { return word >> LOCK_TOKEN_SHIFT; }
static inline bool lock_done(uint64_t word) { return !(word & LOCK_HELD) && word & LOCK_OWNER; }
static inline uint64_t lock_freed(uint64_t word) { return lock_token(word) << LOCK_TOKEN_SHIFT; }

/* For the types that have a lock of their own: for what a dead member left they sweep with NULL (lock_sweep), or with a
 * sweep that begins with lock_sweep. */
int lock_open(dsm_lock *l, dsm_remote *r, enum dsm_type type, int64_t spin_ns, member_sweep *sweep, void *arg);
/* Gives back what the handle holds, and its entry. Repeated until it is done: after an error of the transport it may be
 * called again. 0 also where the memory is gone. */
int lock_leave(dsm_lock *l);
/* Frees what the handle has in this process, after lock_leave() where nobody has called it. */
void lock_close(dsm_lock *l);
int lock_sweep(dsm_remote *r, uint32_t number, uint64_t dead);
/* keep_news: the holder gives it back without having used it, so the next one gets its news. */
int lock_release(dsm_lock *l, bool keep_news);
/* A once: gives it back for good. ENOTHELD: it was broken, so nothing is done. */
int lock_end(dsm_lock *l);
/* The same as lock_release() for the code of an object whose user knows of no lock: what fails is done by the next
 * lock_acquire_again(). */
void lock_give_up(dsm_lock *l, bool keep_news);
int lock_acquire_again(dsm_lock *l, int64_t timeout_ns);
/* Likewise, by a call that gives it back before it ends: a signal handler in its midst is refused, and does not wait
 * for it. */
int lock_take(dsm_lock *l, int64_t timeout_ns);
int lock_take_again(dsm_lock *l, int64_t timeout_ns);
/* local: the word was read as 'seen', which says held. 1: its holder is dead, 0: not proven, -DSM_E…. */
int lock_holder_dead(dsm_lock *l, uint64_t seen);

#endif
