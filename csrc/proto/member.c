#include "member.h"

#include "../base/atomic.h"

#include <errno.h>
#include <sys/random.h>
#include <unistd.h>

#define ELSEWHERE (1ull << 63)
enum { START_BITS = 40 };
#define START_MASK ((1ull << START_BITS) - 1)

int member_identity(bool near, uint64_t *out)
{
    if (near) {
        int pid = getpid();
        *out = (uint64_t)pid << START_BITS | (dsm_process_start(pid) & START_MASK);
        return 0;
    }
    if (getrandom(out, sizeof *out, 0) != (ssize_t)sizeof *out)
        return err_set_errno(errno, "getrandom");
    *out |= ELSEWHERE;
    return 0;
}

bool member_dead(uint64_t identity)
{
    if (!identity || identity & ELSEWHERE)
        return false;
    return (dsm_process_start((int)(identity >> START_BITS)) & START_MASK) != (identity & START_MASK);
}

/* 1: taken, 0: not, or -DSM_E…. */
static int take(dsm_remote *r, uint64_t at, uint64_t from, uint64_t identity)
{
    uint64_t old;
    int rc = dsm_compare_swap(r, at, from, identity, &old, -1);
    return rc ? rc : old == from;
}

static int take_free(dsm_remote *r, uint64_t table, uint32_t n, const uint64_t *seen, uint64_t identity, uint32_t *out)
{
    for (uint32_t i = 0; i < n; i++) {
        int rc = seen[i] ? 0 : take(r, table + 8ull * i, 0, identity);
        if (rc) {
            *out = i;
            return rc;
        }
    }
    return 0;
}

static int succeed_dead(dsm_remote *r, uint64_t table, uint32_t n, const uint64_t *seen, uint64_t identity,
                        member_sweep *sweep, void *arg, uint32_t *out)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!member_dead(seen[i]))
            continue;
        int rc = sweep ? sweep(arg, i, seen[i]) : 0;
        if (!rc)
            rc = take(r, table + 8ull * i, seen[i], identity);
        if (rc) {
            *out = i;
            return rc;
        }
    }
    return 0;
}

int member_join(dsm_remote *r, uint64_t table, uint32_t n, uint64_t identity, member_sweep *sweep, void *arg,
                uint32_t *number)
{
    uint64_t seen[MEMBERS_MAX];
    if (n > MEMBERS_MAX)
        return err_set(DSM_ECORRUPT, 0, "a table of %u members", n);
    int rc = dsm_read(r, table, seen, 8ull * n, -1);
    if (!rc)
        rc = take_free(r, table, n, seen, identity, number);
    if (!rc)
        rc = succeed_dead(r, table, n, seen, identity, sweep, arg, number);
    if (rc)
        return rc < 0 ? rc : 0;
    return err_set(DSM_EMEMBERS, 0, "%u places", n);
}

int member_leave(dsm_remote *r, uint64_t table, uint32_t number, uint64_t identity)
{
    uint64_t old;
    return dsm_compare_swap(r, table + 8ull * number, identity, 0, &old, -1);
}
