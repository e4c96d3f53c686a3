/* Monotonic time and deadlines. A deadline is an absolute CLOCK_MONOTONIC time in ns; DEADLINE_NEVER never passes. */
#ifndef DSM_BASE_DEADLINE_H
#define DSM_BASE_DEADLINE_H

#include <stdint.h>
#include <time.h>

#define DEADLINE_NEVER INT64_MAX

static inline int64_t clock_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* timeout_ns < 0 means no deadline. The sum saturates instead of wrapping. */
static inline int64_t deadline_after(int64_t timeout_ns)
{
    if (timeout_ns < 0)
        return DEADLINE_NEVER;
    int64_t now = clock_ns();
    return timeout_ns > DEADLINE_NEVER - now ? DEADLINE_NEVER : now + timeout_ns;
}

static inline struct timespec clock_time(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
}

static inline int64_t deadline_earlier(int64_t a, int64_t b) { return a < b ? a : b; }

/* The timeout for poll(2): the remaining milliseconds, rounded up, from 0 to cap_ms. */
static inline int deadline_poll_ms(int64_t deadline, int cap_ms)
{
    if (deadline == DEADLINE_NEVER)
        return cap_ms;
    int64_t left = deadline - clock_ns();
    if (left <= 0)
        return 0;
    int64_t ms = (left + 999999) / 1000000;
    return ms > cap_ms ? cap_ms : (int)ms;
}

#endif
