/*
 * Waiting for a word whose changes wake no sleeper: the caller polls it and sleeps in between. The bound of a sleep
 * starts at 2 us and doubles up to about a millisecond. A sleep lasts between half of the bound and the bound, at
 * random, so that contending processes do not wake up together.
 */
#ifndef DSM_OBJECTS_BACKOFF_H
#define DSM_OBJECTS_BACKOFF_H

#include "../base/deadline.h"

struct backoff {
    uint64_t random;
    int64_t longest;
};
#define BACKOFF_INIT \
    { \
        .random = 0, .longest = 2000 \
    }
enum { BACKOFF_MAX_NS = 1000000 };

/* Sleeps once, at most until the deadline. */
static inline void backoff_sleep(struct backoff *p, int64_t deadline)
{
    if (!p->random)
        p->random = ((uint64_t)clock_ns() ^ (uint64_t)(uintptr_t)p) | 1;
    p->random ^= p->random << 13;
    p->random ^= p->random >> 7;
    p->random ^= p->random << 17;
    int64_t ns = p->longest / 2 + (int64_t)(p->random % (uint64_t)(p->longest / 2)), left = deadline - clock_ns();
    if (ns > left)
        ns = left;
    if (ns > 0)
        nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
    if (p->longest < BACKOFF_MAX_NS)
        p->longest *= 2;
}

#endif
