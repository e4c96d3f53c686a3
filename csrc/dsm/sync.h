/* Synchronisation (docs/protocols/lock.md, sync.md). dsm.h has the contract that all functions share. */
#ifndef DSM_DSM_SYNC_H
#define DSM_DSM_SYNC_H

#include "object.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A handle is on an object that a remote with all three rights reaches; the remote must stay open as long as the
 * handle. Many threads may use one handle. On local memory waiters sleep on a futex, and what a dead process held is
 * found and passed on. On remote memory waiters recheck with a backoff, and no process is considered dead.
 *
 * A function with a timeout returns 1 when it has what it waited for, 0 when the timeout expired first (timeout 0: it
 * tries once), or -DSM_E…. A negative timeout is no limit. On remote memory one attempt may last as long as the peer
 * timeout if the transport loses it. spin_ns: how long to poll before sleeping; < 0: the default, 1 us (0 on a one-core
 * host). */

/* Size of the object in bytes, or 0 if the arguments are invalid.
 *   members  1 to 1024; 0 for a semaphore (either kind) and an event
 *   count    permits of a semaphore (1 to 4096), first value of a counting semaphore (0 to 2^31 - 1), parties of a
 *            barrier or most waiters of a condition (both 1 to 1024); else 0 */
uint64_t dsm_sync_bytes(int type, uint32_t members, uint32_t count);
/* How one thread waits on behalf of many tasks: begin, try what each task waits for with timeout 0, sleep, repeat. If
 * the memory is mapped (with the right to write) it sleeps until the eventcount wakes it, at most 50 ms; else with a
 * backoff of up to 1 ms. It may have been woken in place of another waiter: a thread that has nothing left to try after
 * a sleep must pass the wake on. */
typedef struct {
    void *eventcount; /* NULL: none, sleep with a backoff */
    int64_t backoff;
    uint32_t seen;
} dsm_listener;
enum { DSM_EVENTCOUNT_FIRST, DSM_EVENTCOUNT_SECOND, DSM_EVENTCOUNT_SEGMENT };
void dsm_listener_open(dsm_listener *l, dsm_remote *r, int eventcount);
void dsm_listener_begin(dsm_listener *l);
void dsm_listener_sleep(dsm_listener *l);
/* Whether the eventcount has been notified since dsm_listener_begin(). An eventcount that wakes one waiter may have
 * woken this thread in place of another: if the thread then tries nothing, it must pass the wake on with
 * dsm_listener_pass_on(). */
int dsm_listener_notified(const dsm_listener *l);
void dsm_listener_pass_on(const dsm_listener *l);
/* Must be called before the memory is unmapped: a thread that sleeps as this listener is woken, and no wake for another
 * waiter is lost with it. */
void dsm_listener_end(const dsm_listener *l);

/* Formats zeroed memory of that size before any other process sees it. lock: id of the lock of a condition; 0: the
 * condition has its own lock. */
int dsm_sync_format(void *memory, int type, uint32_t members, uint32_t count, uint64_t lock);

typedef struct dsm_lock dsm_lock;
/* Opens a lock, a spinlock or an rlock; to the core an rlock is a lock. Errors: EMISMATCH, ECORRUPT, EVERSION, EACCESS,
 * EMEMBERS. */
int dsm_lock_open(dsm_remote *r, int64_t spin_ns, dsm_lock **out);
/* Gives back what the handle still holds, so that the next holder gets it with owner_died set, and frees the member
 * entry of the handle. Returns 0 also if the memory is gone. After an error it may be called again, but no other
 * function may be called with the handle. */
int dsm_lock_leave(dsm_lock *l);
/* Leaves, unless that has been done, and frees the handle. The handle must not be used any more. The close functions of
 * the other objects do the same. */
void dsm_lock_close(dsm_lock *l);
int dsm_lock_acquire(dsm_lock *l, int64_t timeout_ns);
/* Any thread of the process may release. ENOTHELD: the lock is not held with this handle, or was taken over. After any
 * other error the outcome is unknown, and the call may be repeated. */
int dsm_lock_release(dsm_lock *l);
/* The same for a grant that was not used: the next holder gets the owner_died flag that this one got. */
int dsm_lock_release_unused(dsm_lock *l);
int dsm_lock_held(const dsm_lock *l); /* with this handle */
/* It is held, since a release of it has failed: closing the handle gives it back, or leaves it to dsm_lock_break(). */
int dsm_lock_unsure(const dsm_lock *l);
uint64_t dsm_lock_token(const dsm_lock *l);           /* token of this handle's grant; 0: it holds nothing */
int dsm_lock_recovered(const dsm_lock *l);            /* owner_died: the holder before died with it */
int dsm_lock_locked(dsm_lock *l);                     /* by any process: 1, 0 or -DSM_E… */
int dsm_lock_holder(dsm_lock *l, uint64_t *identity); /* 0: it is free */
/* Takes the lock away from a holder that the caller knows to be gone. The next holder finds owner_died set, as if the
 * holder had died. 1: done. 0: that process does not hold the lock. A holder that is alive after all gets ENOTHELD from
 * its release. */
int dsm_lock_break(dsm_lock *l, uint64_t holder);

typedef struct dsm_rwlock dsm_rwlock;
int dsm_rwlock_open(dsm_remote *r, int64_t spin_ns, dsm_rwlock **out);
int dsm_rwlock_leave(dsm_rwlock *rw);
void dsm_rwlock_close(dsm_rwlock *rw);
int dsm_rwlock_read(dsm_rwlock *rw, int64_t timeout_ns);
/* ENOTHELD: the handle does not read, or its read was broken. EBUSY (called from a signal handler in the midst of a
 * call) and EFORK: nothing has changed. After any other error the handle does not read either, but writers may still
 * wait for it: each later call with the handle, including this function and leave, tries to clear that. */
int dsm_rwlock_unread(dsm_rwlock *rw);
/* To write: claim, then drain, each until it returns 1. A caller that gives up between the two must call unclaim with
 * unused = 1. */
int dsm_rwlock_claim(dsm_rwlock *rw, int64_t timeout_ns);
int dsm_rwlock_drain(dsm_rwlock *rw, int64_t timeout_ns);
int dsm_rwlock_unclaim(dsm_rwlock *rw, int unused);     /* ENOTHELD */
dsm_lock *dsm_rwlock_lock(dsm_rwlock *rw);              /* the writer's lock: for held, token, recovered, locked */
int dsm_rwlock_readers(dsm_rwlock *rw, int *recovered); /* of this handle */
/* Writes the identities of the readers and returns their number, at most 1024, or -DSM_E…. For the writer use
 * dsm_lock_holder() with the writer's lock. */
int dsm_rwlock_inside(dsm_rwlock *rw, uint64_t *identities);
/* Like dsm_lock_break(), for all that this process holds as the writer and as a reader. */
int dsm_rwlock_break(dsm_rwlock *rw, uint64_t holder);

typedef struct dsm_semaphore dsm_semaphore;
int dsm_semaphore_open(dsm_remote *r, int64_t spin_ns, dsm_semaphore **out);
int dsm_semaphore_leave(dsm_semaphore *m);
void dsm_semaphore_close(dsm_semaphore *m); /* gives back its permits */
int dsm_semaphore_acquire(dsm_semaphore *m, int64_t timeout_ns);
/* Releases n permits. ENOTHELD: the handle holds fewer than n, and none was released. After any other error the handle
 * still holds as many as dsm_semaphore_held() returns. */
int dsm_semaphore_release(dsm_semaphore *m, uint32_t n);
int dsm_semaphore_value(dsm_semaphore *m);                /* free permits, or -DSM_E… */
int dsm_semaphore_held(dsm_semaphore *m, int *recovered); /* permits of this handle */
/* The last release has failed, so permits are held: closing the handle gives them back, or leaves them to
 * dsm_semaphore_break(). */
int dsm_semaphore_unsure(const dsm_semaphore *m);
/* Writes the owner of each permit that is taken and returns their number, at most 4096, or -DSM_E…. An owner is the
 * identity of a process if the permit was taken by a process that maps the memory, else a value that is different for
 * each grant. */
int dsm_semaphore_holders(dsm_semaphore *m, uint64_t *values);
/* Like dsm_lock_break(): the permits with that value become free. A handle that then releases one of them gets
 * ENOTHELD. */
int dsm_semaphore_break(dsm_semaphore *m, uint64_t holder);

/* Permits without owners: any handle may release them. */
typedef struct dsm_counting dsm_counting;
int dsm_counting_open(dsm_remote *r, int64_t spin_ns, dsm_counting **out);
void dsm_counting_close(dsm_counting *c);
int dsm_counting_acquire(dsm_counting *c, int64_t timeout_ns);
int dsm_counting_release(dsm_counting *c,
                         uint32_t n);        /* EINVAL: above 2^31 - 1. EIO may mean that the outcome is unknown */
int64_t dsm_counting_value(dsm_counting *c); /* or -DSM_E… */

typedef struct dsm_event dsm_event;
#define DSM_EVENT_NOW UINT64_MAX
int dsm_event_open(dsm_remote *r, int64_t spin_ns, dsm_event **out);
void dsm_event_close(dsm_event *e);
int dsm_event_set(dsm_event *e);
int dsm_event_clear(dsm_event *e);
int dsm_event_is_set(dsm_event *e); /* 1, 0 or -DSM_E… */
/* *since must be DSM_EVENT_NOW at the first call of a wait; further calls of the same wait must pass the value that the
 * call before has stored there. */
int dsm_event_wait(dsm_event *e, uint64_t *since, int64_t timeout_ns);

typedef struct dsm_condition dsm_condition;
typedef struct {
    dsm_condition *condition;
    uint64_t token;
    uint32_t line;
} dsm_waiter;
/* lock: the lock with the id that the condition was made with, which must stay open as long as the condition; NULL: the
 * condition's own lock. EMISMATCH: the condition is associated with another lock. */
int dsm_condition_open(dsm_remote *r, dsm_lock *lock, int64_t spin_ns, dsm_condition **out);
int dsm_condition_leave(dsm_condition *c);
void dsm_condition_close(dsm_condition *c);
dsm_lock *dsm_condition_lock(dsm_condition *c);
/* A wait consists of begin (which gives the lock back), wait until it returns other than 0 or the time is over,
 * acquiring the lock, and finish. Errors: ENOTHELD, EMEMBERS. */
#define DSM_CONDITION_NOTIFIED 1
#define DSM_CONDITION_INHERIT 2 /* another waiter died with its notification: finish with inherit = 1 may get it */
int dsm_condition_begin(dsm_condition *c, dsm_waiter *w);
int dsm_condition_wait(dsm_waiter *w, int64_t timeout_ns);
int dsm_condition_finish(dsm_waiter *w, int inherit); /* 1: notified, 0: not notified; the wait may begin again */
void dsm_condition_abandon(dsm_waiter *w);            /* in place of finish, if the lock cannot be acquired again */
/* Finishes abandoned waits if the lock is free. 1: done, 0: the lock is not free, or -DSM_E…. */
int dsm_condition_settle(dsm_condition *c);
int dsm_condition_notify(dsm_condition *c, uint64_t n);

typedef struct dsm_barrier dsm_barrier;
#define DSM_BARRIER_ANY UINT64_MAX
#define DSM_BARRIER_NONE UINT32_MAX
int dsm_barrier_open(dsm_remote *r, int64_t spin_ns, dsm_barrier **out);
int dsm_barrier_leave(dsm_barrier *b);
void dsm_barrier_close(dsm_barrier *b);
/* 2: the caller is the last to arrive; if finish is 0, the others go on only after it has called dsm_barrier_finish().
 * 1: the caller must wait for the others. EBROKEN: the barrier is broken. After an error with an *index other than
 * DSM_BARRIER_NONE the others may count the caller as arrived: the caller must then break *generation. */
int dsm_barrier_arrive(dsm_barrier *b, int finish, int64_t timeout_ns, uint64_t *generation, uint32_t *index);
int dsm_barrier_finish(dsm_barrier *b, uint64_t generation);
int dsm_barrier_wait(dsm_barrier *b, uint64_t generation, int64_t timeout_ns);
/* generation: the one from the arrival; DSM_BARRIER_ANY: the current one. 1: it is broken. 0: it has ended in another
 * way. Does not wait. */
int dsm_barrier_break(dsm_barrier *b, uint64_t generation);
int dsm_barrier_reset(dsm_barrier *b);                /* does not wait */
int dsm_barrier_waiting(dsm_barrier *b, int *broken); /* returns how many have arrived, or -DSM_E… */
uint32_t dsm_barrier_parties(const dsm_barrier *b);
#define DSM_BARRIER_MOST 1024
/* Writes the identities of the processes that have arrived, in the order of arrival, and of the process that is about
 * to arrive. Returns their number, at most DSM_BARRIER_MOST + 1, or -DSM_E…. */
int dsm_barrier_waiters(dsm_barrier *b, uint64_t *identities);
/* The caller knows that one of these processes is gone: breaks the barrier as if that process had died. 1: done. 0: the
 * process is not one of them. */
int dsm_barrier_evict(dsm_barrier *b, uint64_t holder);

typedef struct dsm_once dsm_once;
#define DSM_ONCE_RUN 1
#define DSM_ONCE_DONE 2
int dsm_once_open(dsm_remote *r, int64_t spin_ns, dsm_once **out);
int dsm_once_leave(dsm_once *o);
void dsm_once_close(dsm_once *o);
int dsm_once_begin(dsm_once *o, int64_t timeout_ns); /* DSM_ONCE_…; 0: another process is still running it */
int dsm_once_end(dsm_once *o, int done);             /* done 0: it failed, and another caller may run it. ENOTHELD */
int dsm_once_done(dsm_once *o);                      /* 1, 0 or -DSM_E… */
dsm_lock *dsm_once_lock(dsm_once *o);

#ifdef __cplusplus
}
#endif
#endif
