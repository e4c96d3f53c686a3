/*
 * What all synchronisation objects have in common: their layout, struct sync_handle, the change of one word, and how a
 * thread waits.
 *
 *   offset  bytes  what
 *        0     64  header (objects/object.h)
 *       64      4  members: entries of the member table; 0 if the type needs none (semaphore, event)
 *       68      4  count: permits of a semaphore, parties of a barrier, most waiters of a condition; else 0
 *       72      8  lock: id of the lock that a condition is associated with; 0: the condition has its own lock
 *       80     48  zero
 *      128      8  word: of the lock (objects/sync/lock.h), or of the event
 *      136     56  zero
 *      192      8  eventcount of the word
 *      200      8  second eventcount
 *      208     48  zero
 *      256     8m  member table, padded to a multiple of 64
 *        …         own bytes of the type (its .c says what)
 *
 * Bytes 0 to 127 never change. Each type says which of its words other processes change by atomics; such words are
 * changed by atomics only.
 */
#ifndef DSM_OBJECTS_SYNC_HANDLE_H
#define DSM_OBJECTS_SYNC_HANDLE_H

#include "../../base/deadline.h"
#include "../../core/remote.h"
#include "../eventcount.h"
#include "../member.h"
#include "../object.h"
#include "../sure.h"

#include <pthread.h>
#include <stddef.h>

struct sync_layout {
    struct object_header header;
    uint32_t members, count;
    uint64_t lock;
    uint64_t zero[6];
    uint64_t word, zero1[7];
    struct eventcount eventcount, second;
    uint64_t zero2[6];
};
enum { SYNC_SHAPE = 64, SYNC_WORD = 128, SYNC_EVENTCOUNT = 192, SYNC_SECOND = 200, SYNC_TABLE = 256, SYNC_LINE = 64 };
enum { COUNTING_MOST = INT32_MAX, SEMAPHORE_MOST = 4096 };
_Static_assert(offsetof(struct sync_layout, members) == SYNC_SHAPE, "docs/protocols/lock.md");
_Static_assert(offsetof(struct sync_layout, lock) == 72, "docs/protocols/lock.md");
_Static_assert(offsetof(struct sync_layout, word) == SYNC_WORD, "docs/protocols/lock.md");
_Static_assert(offsetof(struct sync_layout, eventcount) == SYNC_EVENTCOUNT, "docs/protocols/lock.md");
_Static_assert(offsetof(struct sync_layout, second) == SYNC_SECOND, "docs/protocols/lock.md");
_Static_assert(sizeof(struct sync_layout) == SYNC_TABLE, "docs/protocols/lock.md");

/* What one handle has of an object. It does not own the remote. */
struct sync_handle {
    dsm_remote *r;
    uint8_t *mapped;   /* where the object is mapped, or NULL (core/remote.h) */
    uint64_t id;       /* of the object */
    uint64_t lock;     /* as in the layout */
    uint64_t identity; /* of this participant: its process (local), or this handle only (remote) */
    uint64_t own;      /* offset of the type's own bytes */
    uint32_t members, count, number;
    int64_t spin_ns;
    uint64_t chance; /* random state of the backoff; any value will do */
};

/* Checks the object and takes an entry in its member table, if it has one. spin_ns < 0: the default. Errors: EMISMATCH
 * (another type), ECORRUPT, EVERSION, EACCESS (all three rights are needed), EMEMBERS. */
int handle_take(struct sync_handle *s, dsm_remote *r, enum dsm_type type, int64_t spin_ns, member_sweep *sweep,
                void *arg);
int handle_leave(struct sync_handle *s);

static inline bool handle_is_mapped(const struct sync_handle *s) { return s->mapped; }

/* A word of the object, if it is mapped. Offsets come from the layout, which handle_take() has checked against the
 * size. */
static inline uint64_t *handle_word(const struct sync_handle *s, uint64_t offset)
{
    return (uint64_t *)(void *)(s->mapped + offset);
}

/* Wakes those that sleep on one of the object's eventcounts. Remote, all of them poll. */
static inline void handle_notify(const struct sync_handle *s, uint64_t eventcount, int how_many)
{
    if (handle_is_mapped(s))
        eventcount_notify((struct eventcount *)(void *)handle_word(s, eventcount), how_many);
}

/* Whether this is a child of fork(), which has no share in what its parent's handle holds. */
static inline bool handle_forked(const struct sync_handle *s) { return s->r->forks != load_relaxed_u32(&core_forks); }

/* Rights, bounds and alignment were checked when the handle was taken. On failure remote_check() repeats all checks, to
 * say which one failed. */
static inline int handle_check(const struct sync_handle *s)
{
    const dsm_remote *r = s->r;
    bool good = r->forks == load_relaxed_u32(&core_forks) &&
                (!handle_is_mapped(s) || (load_acquire_u32(r->state) == 0 && !load_relaxed_u32(&r->peer->dead)));
    return __builtin_expect(good, 1) ? 0 : remote_check(r, SYNC_WORD, 8, DSM_ATOMIC);
}

/* A read that the transport fails is repeated: reading has no side effect. */
int handle_read(const struct sync_handle *s, uint64_t offset, uint64_t *out);
int handle_read_all(const struct sync_handle *s, uint64_t offset, void *out, uint64_t nbytes);

/* The same, after every change that this thread has made or seen before. */
static inline int handle_read_now(const struct sync_handle *s, uint64_t offset, uint64_t *out)
{
    if (!handle_is_mapped(s))
        return handle_read(s, offset, out);
    *out = load_seq_cst_u64(handle_word(s, offset));
    return 0;
}

/* See sure_swap(). On local memory the outcome is never unknown. */
enum { SWAP_TRIES = SURE_TRIES };
static inline int handle_swap(const struct sync_handle *s, uint64_t offset, uint64_t expected, uint64_t desired,
                              uint64_t *found)
{
    if (!handle_is_mapped(s))
        return sure_swap(s->r, offset, expected, desired, found);
    int rc = handle_check(s);
    if (rc)
        return rc;
    *found = compare_swap_u64(handle_word(s, offset), expected, desired);
    return *found == expected ? SWAP_DONE : SWAP_REFUSED;
}

/* One wait. Local: on an eventcount. Remote, or without an eventcount: with a backoff of random length that doubles up
 * to 1 ms. */
struct waiting {
    struct sync_handle *s;
    struct eventcount *eventcount;
    uint32_t seen;
    int64_t deadline, backoff;
};
enum { HANDLE_BACKOFF_MIN = 4000, HANDLE_BACKOFF_MAX = 1000000, HANDLE_LOOK_NS = 40000000 };

void wait_begin(struct waiting *w, struct sync_handle *s, uint64_t eventcount, int64_t timeout_ns);
/* Must be called before the word that decides about sleeping is read. */
static inline void wait_prepare(struct waiting *w)
{
    if (w->eventcount)
        w->seen = eventcount_prepare(w->eventcount);
}
static inline bool wait_over(const struct waiting *w) { return clock_ns() >= w->deadline; }
void wait_sleep(struct waiting *w);
/* Local: polls the word for at most spin_ns, until it is no longer 'was'. */
void wait_spin(const struct waiting *w, const uint64_t *word, uint64_t was);

/* Whether it is time to check that other processes are alive: once in HANDLE_LOOK_NS, which is shorter than a sleep.
 * *last must be 0 at first. */
bool handle_time_to_look(uint64_t *last);

/* A lock of this process in front of a remote object (local_lock.c), so that one thread of the process at a time does
 * ops on the object. It stays taken while the object is held, and records the thread whose call is in progress behind
 * it. */
struct local_lock;
int local_lock_open(uint64_t id, struct local_lock **out);
void local_lock_close(struct local_lock *g);
/* 1: entered, 0: timed out. EBUSY: a signal handler has interrupted the call of its own thread behind the lock. */
int local_lock_enter(struct local_lock *g, int64_t deadline);
/* local_lock_rest(): the call ends and the local lock stays taken. local_lock_work(): a call goes on behind the local
 * lock, perhaps in another thread. */
void local_lock_rest(struct local_lock *g);
void local_lock_work(struct local_lock *g);
void local_lock_leave(struct local_lock *g);

/* A mutex of one handle that is held across ops. An op may take long, and a signal handler may run during it, so a
 * thread that keeps other threads from running (by holding the GIL) never takes this mutex: what such a caller asks for
 * is kept in separate words. A handler that runs while its own thread has the mutex gets EBUSY, because what it would
 * wait for is further down its own stack. */
void handle_lock_init(pthread_mutex_t *own);
int handle_lock(pthread_mutex_t *own);

#endif
