/*
 * The locks of the core that a fabric must not wait under: agent->lock, ctx->lock, ctx->completed_lock,
 * ctx->tickets_lock and peer->lock
 * (core.h has their order). Closing an endpoint and other calls of a fabric may wait for a thread of its own, and
 * meanwhile every other thread must be able to go through the agent and the peers, and to fork. Where asserts are on,
 * each thread counts those that it holds.
 */
#ifndef DSM_CORE_LOCK_H
#define DSM_CORE_LOCK_H

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>

#ifdef NDEBUG
#define core_count(by) ((void)0)
#define core_assert_unlocked() ((void)0)
#else
extern __thread int core_locks_held __attribute__((visibility("hidden"))); /* core/interrupt.c */
#define core_count(by) ((void)(core_locks_held += (by)))
#define core_assert_unlocked() assert(!core_locks_held)
#endif

static inline void core_lock(pthread_mutex_t *m)
{
    pthread_mutex_lock(m);
    core_count(1);
}

static inline bool core_trylock(pthread_mutex_t *m)
{
    bool got = !pthread_mutex_trylock(m);
    core_count(got);
    return got;
}

static inline void core_unlock(pthread_mutex_t *m)
{
    core_count(-1);
    pthread_mutex_unlock(m);
}

#endif
