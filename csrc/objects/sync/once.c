/*
 * A once: one process runs it, the others wait until it has been run.
 *
 * It is a lock, whose word says 'done' once the process that took it has run it (lock.h). That change is one
 * compare-swap from the word as the runner has written it when it took the lock. Either it is done and released, or the
 * runner was broken and nothing is done.
 *
 * If the runner dies     others see
 *   before that change   a lock held by a dead process: one of them takes over and runs it, with owner_died set
 *   after it             done: no process runs it again
 */
#include "lock.h"

#include <stdlib.h>

struct dsm_once {
    dsm_lock lock;
};

static int is_done(dsm_once *o)
{
    uint64_t word;
    int rc = handle_read(&o->lock.handle, SYNC_WORD, &word);
    return rc ? rc : lock_done(word);
}

int dsm_once_begin(dsm_once *o, int64_t timeout_ns)
{
    int rc = is_done(o);
    if (!rc)
        rc = lock_acquire_again(&o->lock, timeout_ns);
    else if (rc > 0)
        return DSM_ONCE_DONE;
    return rc == LOCK_NEVER ? DSM_ONCE_DONE : rc == 1 ? DSM_ONCE_RUN : rc;
}

int dsm_once_end(dsm_once *o, int done) { return done ? lock_end(&o->lock) : lock_release(&o->lock, false); }

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
