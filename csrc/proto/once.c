/*
 * Once: one runs it, the others wait until it has been run.
 *
 * A lock, and a word 'done' (first of its own bytes) that the lock's holder writes before it gives the lock back; never an
 * atomic's. Whoever holds the lock and reads 'done' as 0 is the one that runs.
 *
 * If the runner dies                    others see
 *   before it writes done               a lock held by the dead: one of them takes it over and runs, with the news
 *   after that, before the release      the same lock, then done: nobody runs again
 */
#include "lock.h"

#include <stdlib.h>

struct dsm_once {
    dsm_lock lock;
};

static int is_done(dsm_once *o)
{
    uint64_t done;
    int rc = seat_read(&o->lock.seat, o->lock.seat.own, &done);
    return rc ? rc : done != 0;
}

int dsm_once_begin(dsm_once *o, int64_t timeout_ns)
{
    int rc = is_done(o);
    if (rc)
        return rc < 0 ? rc : DSM_ONCE_DONE;
    rc = lock_acquire_again(&o->lock, timeout_ns);
    if (rc != 1)
        return rc;
    rc = is_done(o);
    if (!rc)
        return DSM_ONCE_RUN;
    lock_give_up(&o->lock, rc < 0);
    return rc < 0 ? rc : DSM_ONCE_DONE;
}

/* Whoever was broken while it ran must not say that it has been run: another one runs it. */
static int still_runs(dsm_once *o)
{
    uint64_t word = 0;
    int rc = o->lock.unsure ? 0 : seat_read(&o->lock.seat, SYNC_WORD, &word);
    return rc || o->lock.unsure || word == observe_u64(&o->lock.held) ? rc : err_set(DSM_ENOTHELD, 0, "once");
}

int dsm_once_end(dsm_once *o, int done)
{
    int rc = dsm_lock_held(&o->lock) ? 0 : err_set(DSM_ENOTHELD, 0, "once");
    if (!rc && done && !(rc = still_runs(o)))
        rc = seat_write(&o->lock.seat, o->lock.seat.own, 1);
    if (rc && rc != -DSM_ENOTHELD && !sure_gone(o->lock.seat.r, rc))
        return rc;
    int released = lock_release(&o->lock, false);
    return rc ? rc : released;
}

int dsm_once_done(dsm_once *o) { return is_done(o); }

dsm_lock *dsm_once_lock(dsm_once *o) { return &o->lock; }

int dsm_once_open(dsm_remote *r, int64_t spin_ns, dsm_once **out)
{
    dsm_once *o = malloc(sizeof *o);
    if (!o)
        return err_set(DSM_ENOMEM, 0, "once");
    int rc = lock_open(&o->lock, r, DSM_ONCE, spin_ns, NULL, NULL);
    if (rc)
        free(o);
    else
        *out = o;
    return rc;
}

int dsm_once_leave(dsm_once *o) { return lock_leave(&o->lock); }

void dsm_once_close(dsm_once *o)
{
    lock_close(&o->lock);
    free(o);
}
