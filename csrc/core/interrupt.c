/*
 * What ends a wait of the calling thread: the deadline of its call, and signal handlers. A wait calls a function that
 * the application has set, which runs pending handlers and returns whether the wait must end.
 */
#include "../base/deadline.h"
#include "core.h"

static uint64_t ask; /* the function; release: dsm_set_interrupt(); acquire: wait_interrupted() */
static __thread const uint32_t *own_stop;
static __thread const uint32_t *call_stop; /* of the call that waits */
static __thread uint32_t handling;         /* calls of 'ask' under way */
#ifndef NDEBUG
__thread int core_locks_held;
#endif

void dsm_set_interrupt(int (*look)(void))
{
    uint64_t address = (uintptr_t)look;
    store_release_u64(&ask, address);
}

void wait_for(const uint32_t *stop) { own_stop = stop; }

const uint32_t *wait_until_stopped(const uint32_t *stop)
{
    const uint32_t *before = call_stop;
    call_stop = stop;
    return before;
}

bool wait_stopped(void)
{
    const uint32_t *stop = call_stop;
    return stop && load_acquire_u32(stop);
}

uint64_t this_thread(void) { return (uint64_t)(uintptr_t)&own_stop; }

int dsm_in_handler(void) { return handling != 0; }

int dsm_refuse_reentry(const char *what)
{
    return err_set(DSM_EBUSY, 0,
                   "a signal handler calls into the %s whose call it has interrupted; let it set a flag, and call when "
                   "that call has ended",
                   what);
}

/* Thread-local, since a deadline belongs to a call and a call to its thread. So it bounds every op of the call without
 * being passed to each. */
static __thread int64_t call_deadline = DEADLINE_NEVER;
enum { CALL_GRACE_NS = 200000000 };

int64_t dsm_call_until(int64_t deadline)
{
    int64_t before = call_deadline;
    call_deadline = deadline;
    return before;
}

int64_t call_timeout(int64_t peer_timeout_ns)
{
    if (call_deadline == DEADLINE_NEVER)
        return peer_timeout_ns;
    int64_t left = call_deadline - clock_ns();
    left = left < CALL_GRACE_NS ? CALL_GRACE_NS : left;
    return left < peer_timeout_ns ? left : peer_timeout_ns;
}

bool wait_interrupted(void)
{
    if (wait_stopped())
        return true;
    if (own_stop)
        return load_relaxed_u32(own_stop);
    int (*look)(void) = (int (*)(void))(uintptr_t)load_acquire_u64(&ask);
    if (!look)
        return false;
    int64_t deadline = dsm_call_until(DEADLINE_NEVER); /* what ends the waiting call does not end the handler's calls */
    const uint32_t *stop = wait_until_stopped(NULL);
    handling++;
    bool yes = look();
    handling--;
    wait_until_stopped(stop);
    dsm_call_until(deadline);
    return yes;
}
