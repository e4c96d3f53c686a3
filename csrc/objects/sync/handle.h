/*
 * What all objects of synchronisation have in common: their bytes, a handle's handle, one word's change, and how one
 * waits.
 *
 *   offset  bytes  what
 *        0     64  header (objects/object.h)
 *       64      4  members: entries of the member table; 0 where the type needs none (semaphore, event)
 *       68      4  count: permits of a semaphore, parties of a barrier, most waiters of a condition; else 0
 *       72      8  lock: id of the lock that a condition goes with, 0: one of its own
 *       80     48  zero
 *      128      8  word: of the lock (objects/sync/lock.h), or of the event
 *      136     56  zero
 *      192      8  eventcount of the word
 *      200      8  second eventcount
 *      208     48  zero
 *      256     8m  member table, filled up to a multiple of 64
 *        …         what the type has of its own (its .c says what)
 *
 * Bytes 0 to 127 never change. Which words others change by atomics stands with each type; those change by atomics
 * only.
 */
#ifndef DSM_PROTO_SYNC_H
#define DSM_PROTO_SYNC_H

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
enum { COUNTING_MOST = INT32_MAX };
_Static_assert(offsetof(struct sync_layout, members) == SYNC_SHAPE, "docs/protocols/lock.md");
_Static_assert(offsetof(struct sync_layout, lock) == 72, "docs/protocols/lock.md");
_Static_assert(offsetof(struct sync_layout, word) == SYNC_WORD, "docs/protocols/lock.md");
_Static_assert(offsetof(struct sync_layout, eventcount) == SYNC_EVENTCOUNT, "docs/protocols/lock.md");
_Static_assert(offsetof(struct sync_layout, second) == SYNC_SECOND, "docs/protocols/lock.md");
_Static_assert(sizeof(struct sync_layout) == SYNC_TABLE, "docs/protocols/lock.md");

/* One handle's part in an object. Not the owner of the remote. */
struct sync_handle {
    dsm_remote *r;
    uint8_t *mapped;   /* where the object is mapped, or NULL */
    uint64_t id;       /* of the object */
    uint64_t lock;     /* as in the layout */
    uint64_t identity; /* of this participant: its process (local), or its own (remote) */
    uint64_t own;      /* offset of what the type has of its own */
    uint32_t members, count, number;
    int64_t spin_ns;
    uint64_t chance; /* of the pauses; any value will do */
};

/* Looks at the object and takes a place in its member table, where it has one. spin_ns < 0: the default.
 * EMISMATCH (another type), ECORRUPT, EVERSION, EACCESS (all three rights are needed), EMEMBERS. */
int handle_take(struct sync_handle *s, dsm_remote *r, enum dsm_type type, int64_t spin_ns, member_sweep *sweep,
                void *arg);
int handle_leave(struct sync_handle *s);

/* The object's words, local ones. Offsets come from the layout, which handle_take has measured. */
static inline uint64_t *handle_word(const struct sync_handle *s, uint64_t offset)
{
    return (uint64_t *)(void *)(s->mapped + offset);
}

/* In a child, which has no part in what its parent's handle holds. */
static inline bool handle_forked(const struct sync_handle *s) { return s->r->forks != load_relaxed_u32(&core_forks); }

/* Rights, bounds and alignment were looked at when the handle was taken; who refuses looks at all. */
static inline int handle_check(const struct sync_handle *s)
{
    const dsm_remote *r = s->r;
    bool good = r->forks == load_relaxed_u32(&core_forks) &&
                (!s->mapped || (load_acquire_u32(r->state) == 0 && !load_relaxed_u32(&r->peer->dead)));
    return __builtin_expect(good, 1) ? 0 : remote_check(r, SYNC_WORD, 8, DSM_ATOMIC);
}

/* What the transport fails is read once more: that harms nobody. */
int handle_read(const struct sync_handle *s, uint64_t offset, uint64_t *out);
int handle_read_all(const struct sync_handle *s, uint64_t offset, void *out, uint64_t nbytes);

/* sure_swap(), see there. Local, an outcome is never unknown. */
enum { SWAP_TRIES = SURE_TRIES };
static inline int handle_swap(const struct sync_handle *s, uint64_t offset, uint64_t expected, uint64_t desired,
                              uint64_t *found)
{
    if (!s->mapped)
        return sure_swap(s->r, offset, expected, desired, found);
    int rc = handle_check(s);
    if (rc)
        return rc;
    *found = compare_swap_u64(handle_word(s, offset), expected, desired);
    return *found == expected ? SWAP_DONE : SWAP_REFUSED;
}

/* One wait. local: on an eventcount; remote, or without an eventcount: pauses of random length that double up to 1
 * ms. */
struct waiting {
    struct sync_handle *s;
    struct eventcount *eventcount;
    uint32_t seen;
    int64_t deadline, backoff;
};
enum { HANDLE_BACKOFF_MIN = 4000, HANDLE_BACKOFF_MAX = 1000000, HANDLE_LOOK_NS = 40000000 };

void wait_begin(struct waiting *w, struct sync_handle *s, uint64_t eventcount, int64_t timeout_ns);
/* Before the look at the word that decides about sleeping. */
static inline void wait_prepare(struct waiting *w)
{
    if (w->eventcount)
        w->seen = eventcount_prepare(w->eventcount);
}
static inline bool wait_over(const struct waiting *w) { return clock_ns() >= w->deadline; }
void wait_sleep(struct waiting *w);
/* Local: looks for spin_ns at most whether the word is still as it was. */
void wait_spin(const struct waiting *w, const uint64_t *word, uint64_t was);

/* Whether it is time to look if others are alive: once in HANDLE_LOOK_NS, which is less than a sleep lasts. *last is 0
 * first. */
bool handle_time_to_look(uint64_t *last);

/* local_lock.c: a queue of this process in front of a remote object, so that one thread of it at a time is on the wire.
 * It stays taken while the object is held, and knows the thread whose call is under way behind it. */
struct local_lock;
int local_lock_open(uint64_t id, struct local_lock **out);
void local_lock_close(struct local_lock *g);
/* 1: entered, 0: not in time; EBUSY: a signal handler has interrupted the call of its own thread behind it. */
int local_lock_enter(struct local_lock *g, int64_t deadline);
/* The call ends, and the gate stays taken; and a call goes on behind it, perhaps of another thread. */
void gate_rest(struct local_lock *g);
void gate_work(struct local_lock *g);
void local_lock_leave(struct local_lock *g);

/* A mutex of one handle that is held across ops. An op may take long, and a signal handler may run in its midst, so who
 * keeps other threads from running (the GIL) never takes it: what such a caller asks for is in words of its own. A
 * handler that comes while its own thread has the mutex gets EBUSY: what it waits for lies beneath it. */
void handle_lock_init(pthread_mutex_t *own);
int handle_lock(pthread_mutex_t *own);

#endif
