/*
 * An eventcount: a thread sleeps until another process has changed a word.
 *
 *   to wait      seen = eventcount_prepare(b); check the word; if it is not as wanted: eventcount_wait(b, seen,
 *                deadline), and start over
 *   to change    change the word; eventcount_notify(b, how many to wake)
 *
 * No wake is lost: a waiter reads the sequence before it sets 'sleepers', and a thread that clears 'sleepers'
 * increments the sequence after that. So a change that the waiter did not see comes with a sequence that it did not
 * see.
 *   SYNC eventcount_prepare (sets sleepers, then reads the word) with eventcount_notify (changes the word, then reads
 *   sleepers): both sides go through an atomic on 'sleepers', so one of them sees the other.
 *
 * A thread that clears 'sleepers' wakes all threads that may have set it before. So while it is 0, every thread that is
 * still asleep has a wake on its way.
 *
 * A process may be killed between the change and the wake, and one that was woken may be killed before it takes what it
 * was woken for. Therefore no sleep is longer than EVENTCOUNT_RECHECK_NS, after which the sleeper rechecks by itself.
 *
 * The sequence wraps. A waiter misses a wake only if exactly 2^32 of them come between its two steps, and then sleeps
 * no longer than that.
 *
 * Bytes: 0 u32 sequence | 4 u32 sleepers: 1 while a thread may be asleep
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
/* Sets the bound of a sleep for this process. For tests only: with a long bound, a missing notify leaves a thread
 * asleep. */
void eventcount_recheck(int64_t ns);

static inline uint32_t eventcount_prepare(struct eventcount *b)
{
    uint32_t seen = load_acquire_u32(&b->sequence);
    exchange_u32(&b->sleepers, 1);
    return seen;
}

/* Returns after a notify that came after 'seen', at the deadline, after EVENTCOUNT_RECHECK_NS, or spuriously. The
 * caller rechecks the word. */
void eventcount_wait(struct eventcount *b, uint32_t seen, int64_t deadline);
void eventcount_wake(struct eventcount *b, int how_many);

static inline void eventcount_notify(struct eventcount *b, int how_many)
{
    if (__builtin_expect(fetch_add_u32(&b->sleepers, 0) != 0, 0))
        eventcount_wake(b, how_many);
}

#endif
