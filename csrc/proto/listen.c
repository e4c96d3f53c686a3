/* How one thread waits for many tasks, of which each waits for a word of one object: it sleeps on the object's bell, as a
 * blocking waiter does. */
#include "pause.h"
#include "segment.h"
#include "sync.h"

static const uint64_t bells[] = {
    [DSM_BELL_FIRST] = SYNC_BELL, [DSM_BELL_SECOND] = SYNC_SECOND, [DSM_BELL_SEGMENT] = SEGMENT_BELL};

void dsm_listener_open(dsm_listener *l, dsm_remote *r, int bell)
{
    bool mapped = r->near && r->access & DSM_WRITE;
    *l = (dsm_listener){.bell = mapped ? (struct bell *)(void *)(r->near + bells[bell]) : NULL};
}

void dsm_listener_begin(dsm_listener *l)
{
    if (l->bell)
        l->seen = bell_listen(l->bell);
}

void dsm_listener_sleep(dsm_listener *l)
{
    struct pause pause = PAUSE_INIT;
    if (l->bell) {
        bell_sleep(l->bell, l->seen, DEADLINE_NEVER);
        return;
    }
    if (l->pause)
        pause.longest = l->pause;
    pause_sleep(&pause, DEADLINE_NEVER);
    l->pause = pause.longest;
}

int dsm_listener_rung(const dsm_listener *l)
{
    return l->bell && observe_u32(&((struct bell *)l->bell)->sequence) != l->seen;
}

void dsm_listener_pass_on(const dsm_listener *l)
{
    if (l->bell)
        bell_ring(l->bell, 1);
}

void dsm_listener_end(const dsm_listener *l)
{
    if (l->bell)
        bell_ring(l->bell, BELL_ALL);
}
