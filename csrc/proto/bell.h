/*
 * A bell: how one sleeps until another process has changed a word.
 *
 *   who waits          seen = bell_listen(b); look at the word; if it is not yet so: bell_sleep(b, seen, deadline); again
 *   who changes it     change the word; bell_ring(b, how many to wake)
 *
 * No wake is lost: the sequence is read before 'sleepers' is set, and whoever clears 'sleepers' raises the sequence after
 * that. So a change that the sleeper did not see comes with a sequence that it did not see.
 *   SYNC bell_listen (sets sleepers, then reads the word) with bell_ring (changes the word, then reads sleepers): both
 *   sides go through an atomic on 'sleepers', so one of them sees the other.
 *
 * Who clears 'sleepers' wakes all who may have set it before, so while it is 0 nobody is asleep whom no ring will wake.
 *
 * A ringer may be killed between the change and the wake, and one that was woken may be killed before it takes what it was
 * woken for. Therefore no sleep is longer than BELL_RECHECK_NS, after which the sleeper looks for itself.
 *
 * Bytes: 0 u32 sequence | 4 u32 sleepers: 1 while somebody may be asleep
 */
#ifndef DSM_PROTO_BELL_H
#define DSM_PROTO_BELL_H

#include "../base/atomic.h"

#include <stddef.h>
#include <stdint.h>

struct bell {
    uint32_t sequence;
    uint32_t sleepers;
};
_Static_assert(sizeof(struct bell) == 8 && offsetof(struct bell, sleepers) == 4, "docs/protocols/objects.md");

enum { BELL_ALL = INT32_MAX };
#define BELL_RECHECK_NS 50000000
/* For this process, and for tests alone: with a long one, a ring that is missing leaves somebody asleep. */
void bell_recheck(int64_t ns);

static inline uint32_t bell_listen(struct bell *b)
{
    uint32_t seen = observe_u32(&b->sequence);
    exchange_u32(&b->sleepers, 1);
    return seen;
}

/* Returns at a ring after 'seen', at the deadline, after BELL_RECHECK_NS, or for no reason: look again. */
void bell_sleep(struct bell *b, uint32_t seen, int64_t deadline);
void bell_wake(struct bell *b, int how_many);

static inline void bell_ring(struct bell *b, int how_many)
{
    if (__builtin_expect(fetch_add_u32(&b->sleepers, 0) != 0, 0))
        bell_wake(b, how_many);
}

#endif
