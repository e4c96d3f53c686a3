/* One thread waits for many tasks, each of which waits for a word of the same object. The thread sleeps on the object's
 * eventcount, as a blocking waiter does. Without a mapping that it may write, it sleeps with a backoff. */
#include "backoff.h"
#include "segment/segment.h"
#include "sync/handle.h"

static const uint64_t eventcounts[] = {[DSM_EVENTCOUNT_FIRST] = SYNC_EVENTCOUNT,
                                       [DSM_EVENTCOUNT_SECOND] = SYNC_SECOND,
                                       [DSM_EVENTCOUNT_SEGMENT] = SEGMENT_EVENTCOUNT};

void dsm_listener_open(dsm_listener *l, dsm_remote *r, int eventcount)
{
    bool mapped = remote_is_mapped(r) && r->access & DSM_WRITE;
    *l = (dsm_listener){.eventcount =
                            mapped ? (struct eventcount *)(void *)remote_at(r, eventcounts[eventcount]) : NULL};
}

void dsm_listener_begin(dsm_listener *l)
{
    if (l->eventcount)
        l->seen = eventcount_prepare(l->eventcount);
}

void dsm_listener_sleep(dsm_listener *l)
{
    struct backoff backoff = BACKOFF_INIT;
    if (l->eventcount) {
        eventcount_wait(l->eventcount, l->seen, DEADLINE_NEVER);
        return;
    }
    if (l->backoff)
        backoff.longest = l->backoff;
    backoff_sleep(&backoff, DEADLINE_NEVER);
    l->backoff = backoff.longest;
}

int dsm_listener_notified(const dsm_listener *l)
{
    return l->eventcount && load_acquire_u32(&((struct eventcount *)l->eventcount)->sequence) != l->seen;
}

void dsm_listener_pass_on(const dsm_listener *l)
{
    if (l->eventcount)
        eventcount_notify(l->eventcount, 1);
}

void dsm_listener_end(const dsm_listener *l)
{
    if (l->eventcount)
        eventcount_notify(l->eventcount, NOTIFY_ALL);
}
