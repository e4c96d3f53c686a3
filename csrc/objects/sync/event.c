/*
 * An event: a flag that many threads wait for.
 *
 * The word: bit 0: set; bits 1-63: how often it was set, so no value occurs twice, and a waiter that sleeps through a
 * set and a clear still learns of the set. Only compare-swaps change it. The event has no owner. A process that dies
 * can leave only one thing: a change without its wake, which sleepers find within EVENTCOUNT_RECHECK_NS.
 */
#include "handle.h"

#include <stdlib.h>

struct dsm_event {
    struct sync_handle handle;
};

/* Changes the flag to 'on'. 1: it was different before, 0: it was 'on' already. */
static int change(dsm_event *e, uint64_t on)
{
    uint64_t now, found;
    int rc = handle_read(&e->handle, SYNC_WORD, &now), lost = 0;
    while (!rc && (now & 1) != on) {
        rc = handle_swap(&e->handle, SYNC_WORD, now, on ? ((now >> 1) + 1) << 1 | 1 : now & ~1ull, &found);
        if (rc == SWAP_DONE)
            return 1;
        if (rc == SWAP_UNKNOWN && ++lost == SWAP_TRIES)
            return err_set(DSM_EIO, 0, "%d times", SWAP_TRIES);
        rc = rc < 0 ? rc : 0;
        now = found;
    }
    return rc;
}

int dsm_event_set(dsm_event *e)
{
    int rc = change(e, 1);
    if (rc == 1)
        handle_notify(&e->handle, SYNC_EVENTCOUNT, NOTIFY_ALL);
    return rc < 0 ? rc : 0;
}

int dsm_event_clear(dsm_event *e)
{
    int rc = change(e, 0);
    return rc < 0 ? rc : 0;
}

int dsm_event_is_set(dsm_event *e)
{
    uint64_t now;
    int rc = handle_read(&e->handle, SYNC_WORD, &now);
    return rc ? rc : (int)(now & 1);
}

/* Whether the event is set now, or was set since the wait began. */
static int happened(dsm_event *e, uint64_t *since, uint64_t *now)
{
    int rc = handle_read(&e->handle, SYNC_WORD, now);
    if (rc)
        return rc;
    if (*since == DSM_EVENT_NOW)
        *since = *now >> 1;
    return *now & 1 || *now >> 1 != *since;
}

int dsm_event_wait(dsm_event *e, uint64_t *since, int64_t timeout_ns)
{
    struct waiting w;
    uint64_t now;
    int rc = happened(e, since, &now);
    if (rc || !timeout_ns)
        return rc;
    wait_begin(&w, &e->handle, SYNC_EVENTCOUNT, timeout_ns);
    for (;;) {
        if (handle_is_mapped(&e->handle))
            wait_spin(&w, handle_word(&e->handle, SYNC_WORD), now);
        wait_prepare(&w);
        if ((rc = happened(e, since, &now)))
            return rc;
        if (wait_over(&w))
            return 0;
        wait_sleep(&w);
    }
}

int dsm_event_open(dsm_remote *r, int64_t spin_ns, dsm_event **out)
{
    dsm_event *e = malloc(sizeof *e);
    if (!e)
        return err_set(DSM_ENOMEM, 0, "event");
    int rc = handle_take(&e->handle, r, DSM_EVENT, spin_ns, NULL, NULL);
    if (rc)
        free(e);
    else
        *out = e;
    return rc;
}

void dsm_event_close(dsm_event *e) { free(e); }
