#include "eventcount.h"

#include "../base/deadline.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

static int64_t recheck_ns = EVENTCOUNT_RECHECK_NS;

void eventcount_recheck(int64_t ns) { recheck_ns = ns; }

void eventcount_wait(struct eventcount *b, uint32_t seen, int64_t deadline)
{
    int64_t left = deadline - clock_ns();
    if (left <= 0)
        return;
    if (left > recheck_ns)
        left = recheck_ns;
    struct timespec t = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
    /* The result (woken, changed, interrupted, timed out) does not matter: the caller rechecks in any case. */
    syscall(SYS_futex, &b->sequence, FUTEX_WAIT, seen, &t, NULL, 0);
}

/* Waking fewer than all leaves other threads asleep, so 'sleepers' stays set. It is cleared by the call that wakes
 * fewer than it was asked to. */
void eventcount_wake(struct eventcount *b, int how_many)
{
    if (how_many == NOTIFY_ALL)
        exchange_u32(&b->sleepers, 0);
    fetch_add_u32(&b->sequence, 1);
    long woken = syscall(SYS_futex, &b->sequence, FUTEX_WAKE, how_many, NULL, NULL, 0);
    if (how_many != NOTIFY_ALL && woken < how_many) {
        /* No sleeper is left, or a thread is between eventcount_prepare() and its futex wait. A thread that set
         * 'sleepers' before it is cleared here must not stay asleep while it is 0, so this wakes all threads that have
         * fallen asleep since the first wake. */
        exchange_u32(&b->sleepers, 0);
        fetch_add_u32(&b->sequence, 1);
        syscall(SYS_futex, &b->sequence, FUTEX_WAKE, NOTIFY_ALL, NULL, NULL, 0);
    }
}
