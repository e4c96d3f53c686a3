/*
 * ThreadSanitizer of clang 14 and of gcc 12 does not know pthread_mutex_clocklock, and would take what such a lock
 * protects for races. Included before all else where it is used: the same by a call that it knows.
 */
#ifndef DSM_TESTS_TSAN_H
#define DSM_TESTS_TSAN_H

#include <pthread.h>
#include <time.h>

static inline int clocklock_by_timedlock(pthread_mutex_t *m, clockid_t clock, const struct timespec *until)
{
    struct timespec now, real;
    clock_gettime(clock, &now);
    clock_gettime(CLOCK_REALTIME, &real);
    long long ns = real.tv_nsec + until->tv_nsec - now.tv_nsec;
    real.tv_sec += until->tv_sec - now.tv_sec + ns / 1000000000;
    real.tv_nsec = ns % 1000000000;
    if (real.tv_nsec < 0) {
        real.tv_nsec += 1000000000;
        real.tv_sec--;
    }
    return pthread_mutex_timedlock(m, &real);
}
#define pthread_mutex_clocklock clocklock_by_timedlock

#endif
