/*
 * An eventcount: how one sleeps until another process has changed a word.
 *
 *   who waits          seen = eventcount_prepare(b); look at the word; if it is not yet so: eventcount_wait(b, seen,
 *   deadline); again who changes it     change the word; eventcount_notify(b, how many to wake)
 *
 * No wake is lost: the sequence is read before 'sleepers' is set, and whoever clears 'sleepers' raises the sequence
 * after that. So a change that the sleeper did not see comes with a sequence that it did not see.
 *   SYNC eventcount_prepare (sets sleepers, then reads the word) with eventcount_notify (changes the word, then reads
 *   sleepers): both sides go through an atomic on 'sleepers', so one of them sees the other.
 *
 * Who clears 'sleepers' wakes all who may have set it before, so while it is 0 nobody is asleep whom no ring will wake.
 *
 * A ringer may be killed between the change and the wake, and one that was woken may be killed before it takes what it
 * was woken for. Therefore no sleep is longer than EVENTCOUNT_RECHECK_NS, after which the sleeper looks for itself.
 *
 * Bytes: 0 u32 sequence | 4 u32 sleepers: 1 while somebody may be asleep
 */
#ifndef DSM_OBJECTS_EVENTCOUNT_H
#define DSM_OBJECTS_EVENTCOUNT_H

#include "../base/atomic.h"

#include <stddef.h>
#include <stdint.h>

struct eventcount {
    uint32_t sequence;
    uint32_t sleepers;
};
_Static_assert(sizeof(struct eventcount) == 8 && offsetof(struct eventcount, sleepers) == 4,
               "docs/protocols/objects.md");

enum { NOTIFY_ALL = INT32_MAX };
#define EVENTCOUNT_RECHECK_NS 50000000
/* For this process, and for tests alone: with a long one, a ring that is missing leaves somebody asleep. */
void eventcount_recheck(int64_t ns);

static inline uint32_t eventcount_prepare(struct eventcount *b)
{
    uint32_t seen = load_acquire_u32(&b->sequence);
    exchange_u32(&b->sleepers, 1);
    return seen;
}

/* Returns at a ring after 'seen', at the deadline, after EVENTCOUNT_RECHECK_NS, or for no reason: look again. */
void eventcount_wait(struct eventcount *b, uint32_t seen, int64_t deadline);
void eventcount_wake(struct eventcount *b, int how_many);

static inline void eventcount_notify(struct eventcount *b, int how_many)
{
    if (__builtin_expect(fetch_add_u32(&b->sleepers, 0) != 0, 0))
        eventcount_wake(b, how_many);
}

#endif
