/* Synchronisation (docs/protocols/lock.md, sync.md). The contract of all of them stands in dsm.h. */
#ifndef DSM_DSM_SYNC_H
#define DSM_DSM_SYNC_H

#include "object.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Handles on objects that a remote with all three rights reaches; the remote stays open while the handle is. A handle
 * may be used by many threads. Local, waiters sleep on a futex, and what a dead process held is found and given on.
 * Remote, they look again after pauses, and nobody is taken for dead.
 *
 * What takes a timeout returns 1 when it has what it waited for, 0 when the time was over first (timeout 0: tries
 * once), or -DSM_E…. Negative: no limit. Remote, one attempt may last as long as the peer timeout when the transport
 * loses it. spin_ns: how long to look before sleeping; < 0: the default, 1 us (0 on a one-core host). */

/* Bytes of the object, 0 where such a one can't be: members 1 to 1024 (semaphore and event: 0), count: permits of a
 * semaphore (1 to 4096), first value of a counting one (0 to 2^31 - 1), parties of a barrier, most waiters of a
 * condition (both 1 to 1024), else 0. */
uint64_t dsm_sync_bytes(int type, uint32_t members, uint32_t count);
/* How one thread waits for many: begin, try what each of them waits for with timeout 0, sleep, again. Where the memory
 * is mapped it sleeps until the eventcount rings, at most 50 ms, else for pauses of up to 1 ms. After a sleep it may
 * have been woken in place of another waiter: who has nothing to try any more passes that on. */
typedef struct {
    void *eventcount; /* NULL: none rings */
    int64_t backoff;
    uint32_t seen;
} dsm_listener;
enum { DSM_EVENTCOUNT_FIRST, DSM_EVENTCOUNT_SECOND, DSM_EVENTCOUNT_SEGMENT };
void dsm_listener_open(dsm_listener *l, dsm_remote *r, int eventcount);
void dsm_listener_begin(dsm_listener *l);
void dsm_listener_sleep(dsm_listener *l);
/* Since dsm_listener_begin. An eventcount that wakes one may have woken this thread in place of another: if it tries
 * nothing then, it passes that on. */
int dsm_listener_rung(const dsm_listener *l);
void dsm_listener_pass_on(const dsm_listener *l);
/* Before the memory goes: whoever sleeps as this listener sleeps no more, and is woken in place of nobody. */
void dsm_listener_end(const dsm_listener *l);

/* Into zeroed memory of that size, before anybody else sees it. lock: id of a condition's lock, 0: its own. */
int dsm_sync_format(void *memory, int type, uint32_t members, uint32_t count, uint64_t lock);

typedef struct dsm_lock dsm_lock;
/* A lock, a spinlock or an rlock, which is a lock to the core. EMISMATCH, ECORRUPT, EVERSION, EACCESS, EMEMBERS. */
int dsm_lock_open(dsm_remote *r, int64_t spin_ns, dsm_lock **out);
/* What it still holds goes to the next with owner_died set that its holder has gone, and its place in the object is
 * free. 0 also where the memory is gone. After an error it may be called again; other calls with the handle may not. */
int dsm_lock_leave(dsm_lock *l);
/* Leaves, unless that was done, and frees the handle. Nobody may use it any more. So do those of the other objects. */
void dsm_lock_close(dsm_lock *l);
int dsm_lock_acquire(dsm_lock *l, int64_t timeout_ns);
/* Any thread of the process may. ENOTHELD: not held with this handle, or taken over. After another error nothing is
 * known, and it may be called again. */
int dsm_lock_release(dsm_lock *l);
/* The same for a grant that was not used: the next holder gets the news that it had. */
int dsm_lock_release_unused(dsm_lock *l);
int dsm_lock_held(const dsm_lock *l);                 /* with this handle */
uint64_t dsm_lock_token(const dsm_lock *l);           /* of this handle's grant; 0: it holds nothing */
int dsm_lock_recovered(const dsm_lock *l);            /* the holder before died with it */
int dsm_lock_locked(dsm_lock *l);                     /* by anybody: 1, 0 or -DSM_E… */
int dsm_lock_holder(dsm_lock *l, uint64_t *identity); /* 0: nobody holds it */
/* Takes the lock from a holder that the caller knows to be gone, for the next one to find as if the holder had died. 1:
 * done, 0: that one does not hold it. A holder that lives notices at its release, ENOTHELD. */
int dsm_lock_break(dsm_lock *l, uint64_t holder);

typedef struct dsm_rwlock dsm_rwlock;
int dsm_rwlock_open(dsm_remote *r, int64_t spin_ns, dsm_rwlock **out);
int dsm_rwlock_leave(dsm_rwlock *rw);
void dsm_rwlock_close(dsm_rwlock *rw);
int dsm_rwlock_read(dsm_rwlock *rw, int64_t timeout_ns);
/* ENOTHELD: it does not read, or that was broken. After another error it does not read either, and writers may still
 * wait for it: each later call tries to clear that, this one and leave among them. */
int dsm_rwlock_unread(dsm_rwlock *rw);
/* To write: claim, then drain, each until it answers 1. Who gives up between them unclaims with unused = 1. */
int dsm_rwlock_claim(dsm_rwlock *rw, int64_t timeout_ns);
int dsm_rwlock_drain(dsm_rwlock *rw, int64_t timeout_ns);
int dsm_rwlock_unclaim(dsm_rwlock *rw, int unused);     /* ENOTHELD */
dsm_lock *dsm_rwlock_lock(dsm_rwlock *rw);              /* the writer's: held, token, recovered, locked */
int dsm_rwlock_readers(dsm_rwlock *rw, int *recovered); /* of this handle */
/* Who reads: how many, at most 1024, or -DSM_E…. The writer is dsm_lock_holder() of its lock. */
int dsm_rwlock_inside(dsm_rwlock *rw, uint64_t *identities);
/* As dsm_lock_break(), of whatever that one holds, as the writer or as a reader. */
int dsm_rwlock_break(dsm_rwlock *rw, uint64_t holder);

typedef struct dsm_semaphore dsm_semaphore;
int dsm_semaphore_open(dsm_remote *r, int64_t spin_ns, dsm_semaphore **out);
int dsm_semaphore_leave(dsm_semaphore *m);
void dsm_semaphore_close(dsm_semaphore *m); /* gives its permits back */
int dsm_semaphore_acquire(dsm_semaphore *m, int64_t timeout_ns);
/* All n or, where the handle has fewer, none: ENOTHELD. After another error as many as dsm_semaphore_held tells are
 * left. */
int dsm_semaphore_release(dsm_semaphore *m, uint32_t n);
int dsm_semaphore_value(dsm_semaphore *m);                /* free permits, or -DSM_E… */
int dsm_semaphore_held(dsm_semaphore *m, int *recovered); /* permits of this handle */
/* Whose the permits are: how many are taken, at most 4096, or -DSM_E…. Local a process's identity, remote a value for
 * each grant. */
int dsm_semaphore_holders(dsm_semaphore *m, uint64_t *values);
/* As dsm_lock_break(): the permits with that value become free. Who releases one of them: ENOTHELD. */
int dsm_semaphore_break(dsm_semaphore *m, uint64_t holder);

/* Permits without owners: any handle may release. */
typedef struct dsm_counting dsm_counting;
int dsm_counting_open(dsm_remote *r, int64_t spin_ns, dsm_counting **out);
void dsm_counting_close(dsm_counting *c);
int dsm_counting_acquire(dsm_counting *c, int64_t timeout_ns);
int dsm_counting_release(dsm_counting *c,
                         uint32_t n);        /* EINVAL: more than 2^31 - 1. EIO may mean that the outcome is unknown */
int64_t dsm_counting_value(dsm_counting *c); /* or -DSM_E… */

typedef struct dsm_event dsm_event;
#define DSM_EVENT_NOW UINT64_MAX
int dsm_event_open(dsm_remote *r, int64_t spin_ns, dsm_event **out);
void dsm_event_close(dsm_event *e);
int dsm_event_set(dsm_event *e);
int dsm_event_clear(dsm_event *e);
int dsm_event_is_set(dsm_event *e); /* 1, 0 or -DSM_E… */
/* *since is DSM_EVENT_NOW first, and goes from call to call of one wait. */
int dsm_event_wait(dsm_event *e, uint64_t *since, int64_t timeout_ns);

typedef struct dsm_condition dsm_condition;
typedef struct {
    dsm_condition *condition;
    uint64_t token;
    uint32_t line;
} dsm_waiter;
/* lock: the one whose id the condition was made with, open as long as the condition; NULL: its own. EMISMATCH. */
int dsm_condition_open(dsm_remote *r, dsm_lock *lock, int64_t spin_ns, dsm_condition **out);
int dsm_condition_leave(dsm_condition *c);
void dsm_condition_close(dsm_condition *c);
dsm_lock *dsm_condition_lock(dsm_condition *c);
/* A wait: begin (gives the lock back), wait until it does not answer 0 or time is over, take the lock, finish.
 * ENOTHELD, EMEMBERS. */
#define DSM_CONDITION_NOTIFIED 1
#define DSM_CONDITION_INHERIT 2 /* another waiter died with its notification: finish with inherit = 1 may get it */
int dsm_condition_begin(dsm_condition *c, dsm_waiter *w);
int dsm_condition_wait(dsm_waiter *w, int64_t timeout_ns);
int dsm_condition_finish(dsm_waiter *w, int inherit); /* 1: notified, 0: not: the wait may begin again */
void dsm_condition_abandon(dsm_waiter *w);            /* in place of finish, where the lock can't be had again */
/* Brings abandoned waits to an end, if the lock is free: 1, 0: it is not, or -DSM_E…. */
int dsm_condition_settle(dsm_condition *c);
int dsm_condition_notify(dsm_condition *c, uint64_t n);

typedef struct dsm_barrier dsm_barrier;
#define DSM_BARRIER_ANY UINT64_MAX
#define DSM_BARRIER_NOBODY UINT32_MAX
int dsm_barrier_open(dsm_remote *r, int64_t spin_ns, dsm_barrier **out);
int dsm_barrier_leave(dsm_barrier *b);
void dsm_barrier_close(dsm_barrier *b);
/* 2: as the last; without finish it calls dsm_barrier_finish before the others go on. 1: wait for the others. EBROKEN.
 * After an error with an *index that is not DSM_BARRIER_NOBODY the others may count the caller: it breaks the
 * *generation. */
int dsm_barrier_arrive(dsm_barrier *b, int finish, int64_t timeout_ns, uint64_t *generation, uint32_t *index);
int dsm_barrier_finish(dsm_barrier *b, uint64_t generation);
int dsm_barrier_wait(dsm_barrier *b, uint64_t generation, int64_t timeout_ns);
/* generation: of the arrival; DSM_BARRIER_ANY: whatever it is. 1: it is broken, 0: it has ended otherwise. Waits for
 * nobody. */
int dsm_barrier_break(dsm_barrier *b, uint64_t generation);
int dsm_barrier_reset(dsm_barrier *b);                /* waits for nobody */
int dsm_barrier_waiting(dsm_barrier *b, int *broken); /* how many, or -DSM_E… */
uint32_t dsm_barrier_parties(const dsm_barrier *b);
#define DSM_BARRIER_MOST 1024
/* Who has come, in that order, and who is about to: how many, at most DSM_BARRIER_MOST + 1, or -DSM_E…. */
int dsm_barrier_waiters(dsm_barrier *b, uint64_t *identities);
/* The caller knows that one of them is gone: the barrier is broken, as if that one had died. 1: done, 0: it is none of
 * them. */
int dsm_barrier_evict(dsm_barrier *b, uint64_t holder);

typedef struct dsm_once dsm_once;
#define DSM_ONCE_RUN 1
#define DSM_ONCE_DONE 2
int dsm_once_open(dsm_remote *r, int64_t spin_ns, dsm_once **out);
int dsm_once_leave(dsm_once *o);
void dsm_once_close(dsm_once *o);
int dsm_once_begin(dsm_once *o, int64_t timeout_ns); /* DSM_ONCE_…; 0: another one still runs */
int dsm_once_end(dsm_once *o, int done);             /* done 0: it failed, another one may run. ENOTHELD */
int dsm_once_done(dsm_once *o);                      /* 1, 0 or -DSM_E… */
dsm_lock *dsm_once_lock(dsm_once *o);

#ifdef __cplusplus
}
#endif
#endif
