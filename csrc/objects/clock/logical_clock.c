#include "logical_clock.h"

#include "../../base/deadline.h"
#include "../sure.h"

static int look(const dsm_clock *c, uint64_t *now)
{
    if (c->remote)
        return sure_words(c->remote, c->offset, now, 1);
    *now = load_acquire_u64(c->own);
    return 0;
}

static int swap(const dsm_clock *c, uint64_t expected, uint64_t desired, uint64_t *old)
{
    if (c->remote)
        return err_known(dsm_compare_swap(c->remote, c->offset, expected, desired, old, remote_timeout(c->remote)));
    *old = compare_swap_u64(c->own, expected, desired);
    return 0;
}

static uint64_t wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Changes the word to the greatest of word + 1, after + 1 and floor, but not beyond the ceiling. */
static int advance(const dsm_clock *c, uint64_t after, uint64_t floor, uint64_t ceiling, uint64_t *stamp)
{
    uint64_t seen, old;
    int rc = look(c, &seen), tries = 0;
    while (!rc) {
        uint64_t least = seen > after ? seen : after;
        if (least >= ceiling)
            return err_set(DSM_EDRIFT, 0, "the stamp would be %llu, more than %llu", (unsigned long long)least + 1,
                           (unsigned long long)ceiling);
        uint64_t next = least + 1 > floor ? least + 1 : floor;
        rc = swap(c, seen, next, &old);
        if (!rc && old == seen) {
            *stamp = next;
            return 0;
        }
        if (rc && sure_again(rc, &tries)) /* if it took effect, a stamp was left out */
            rc = look(c, &old);
        seen = old;
    }
    return sure_error(rc);
}

int dsm_clock_lamport(const dsm_clock *c, uint64_t received, uint64_t *stamp)
{
    uint64_t seen;
    int rc = received > LAMPORT_JUMP ? look(c, &seen) : 0;
    if (rc)
        return rc;
    if (received > LAMPORT_JUMP && received - LAMPORT_JUMP > seen)
        return err_set(DSM_EDRIFT, 0, "stamp %llu, 2^48 ahead of this clock's %llu", (unsigned long long)received,
                       (unsigned long long)seen);
    return advance(c, received, 0, UINT64_MAX, stamp);
}

int dsm_clock_hybrid(const dsm_clock *c, uint64_t received, int64_t now_ms, uint64_t max_drift_ms, uint64_t *stamp)
{
    const uint64_t last = UINT64_MAX >> STAMP_COUNTER_BITS;
    uint64_t now = now_ms < 0 ? wall_ms() : (uint64_t)now_ms;
    if (now > last)
        return err_set(DSM_EINVAL, 0, "a wall clock of %llu ms", (unsigned long long)now);
    uint64_t latest = max_drift_ms < last - now ? now + max_drift_ms : last;
    if (received >> STAMP_COUNTER_BITS > latest)
        return err_set(DSM_EDRIFT, 0, "stamp %llu, and the latest is %llu ms", (unsigned long long)received,
                       (unsigned long long)latest);
    latest += latest < last; /* room to send after a stamp of the latest millisecond allowed */
    uint64_t counters = (1u << STAMP_COUNTER_BITS) - 1;
    return advance(c, received, now << STAMP_COUNTER_BITS, latest << STAMP_COUNTER_BITS | counters, stamp);
}

int dsm_clock_now(const dsm_clock *c, uint64_t *stamp) { return look(c, stamp); }

uint64_t dsm_clock_bytes(void) { return CLOCK_BYTES; }

int dsm_clock_format(void *memory) { return object_format(memory, DSM_CLOCK, CLOCK_BYTES); }

int dsm_clock_open(dsm_remote *r, int hybrid, dsm_clock *out)
{
    struct object_header h;
    int rc = object_check(r, DSM_CLOCK, &h);
    if (!rc && h.nbytes != CLOCK_BYTES)
        rc = err_set(DSM_ECORRUPT, 0, "a clock of %llu bytes", (unsigned long long)h.nbytes);
    *out = (dsm_clock){.remote = r, .offset = hybrid ? CLOCK_HYBRID : CLOCK_LAMPORT};
    return rc;
}
