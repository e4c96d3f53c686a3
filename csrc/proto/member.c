#include "member.h"

#include "../base/atomic.h"
#include "../base/process.h"
#include "../mem/remote.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define ELSEWHERE (1ull << 63)
enum { START_BITS = 27, TAG_BITS = 14, PID_SHIFT = START_BITS + TAG_BITS };
#define START_MASK ((1ull << START_BITS) - 1)
#define TAG_MASK ((1ull << TAG_BITS) - 1)

static uint64_t inode(const char *path)
{
    struct stat st;
    return stat(path, &st) ? 0 : st.st_ino;
}

/* Whether /proc shows the processes that kill() reaches: a container may see its host's. */
static bool own_proc(void)
{
    char text[16];
    ssize_t n = readlink("/proc/self", text, sizeof text - 1);
    if (n <= 0)
        return false;
    text[n] = 0;
    return atoi(text) == getpid();
}

/* Namespaces of a process do not change, but those of its children may: asked again after a fork. 0: none to go by. */
static uint64_t own_tag(void)
{
    static uint64_t known; /* pid << 32 | 1 << 31 | tag */
    uint64_t pid = (uint64_t)getpid(), have = observe_u64(&known);
    if (have >> 32 != pid) {
        uint64_t pids = own_proc() ? inode("/proc/self/ns/pid") : 0;
        have = pid << 32 | 1ull << 31 | (pids ? ((pids + 31 * inode("/proc/self/ns/time")) & TAG_MASK) + 1 : 0);
        publish_u64(&known, have);
    }
    return have & 0x7fffffff;
}

int member_identity(bool near, uint64_t *out)
{
    uint64_t tag = near ? own_tag() : 0, start = tag ? dsm_process_start(getpid()) : 0;
    if (start) {
        *out = (uint64_t)getpid() << PID_SHIFT | (tag - 1) << START_BITS | (start & START_MASK);
        return 0;
    }
    if (getrandom(out, sizeof *out, 0) != (ssize_t)sizeof *out)
        return err_set_errno(errno, "getrandom");
    *out |= ELSEWHERE;
    return 0;
}

int member_pid(uint64_t identity) { return identity & ELSEWHERE ? 0 : (int)(identity >> PID_SHIFT); }

bool member_dead(uint64_t identity)
{
    if (!identity || identity & ELSEWHERE || own_tag() != (identity >> START_BITS & TAG_MASK) + 1)
        return false;
    int pid = (int)(identity >> PID_SHIFT);
    if (pid <= 0) /* scribbled: kill(0) would ask for the whole process group */
        return false;
    if (kill(pid, 0) && errno == ESRCH)
        return true;
    uint64_t start;
    int rc = process_started(pid, &start);
    return !rc && (!start || (start & START_MASK) != (identity & START_MASK));
}

int member_is(dsm_remote *r, uint64_t table, uint32_t number, uint64_t identity)
{
    uint64_t now;
    int rc = dsm_read(r, table + 8ull * number, &now, sizeof now, remote_patience(r));
    return rc ? rc : now == identity;
}

/* 1: taken, 0: not, or -DSM_E…. After a failure of the transport the entry tells: a far identity is no one else's. */
static int take(dsm_remote *r, uint64_t at, uint64_t from, uint64_t identity)
{
    uint64_t old;
    int rc = dsm_compare_swap(r, at, from, identity, &old, remote_patience(r));
    if (!rc)
        return old == from;
    if (dsm_remote_near(r) || dsm_read(r, at, &old, sizeof old, remote_patience(r)))
        return rc;
    return old == identity ? 1 : old == from ? rc : 0;
}

static int take_free(dsm_remote *r, uint64_t table, uint32_t n, const uint64_t *seen, uint64_t identity, uint32_t *out)
{
    for (uint32_t i = 0; i < n; i++) {
        bool late = seen[i] == identity && !dsm_remote_near(r); /* took effect after its failure was reported */
        int rc = late ? 1 : seen[i] ? 0 : take(r, table + 8ull * i, 0, identity);
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
    int rc = dsm_read(r, table, seen, 8ull * n, remote_patience(r));
    if (!rc)
        rc = take_free(r, table, n, seen, identity, number);
    if (!rc && dsm_remote_near(r))
        rc = succeed_dead(r, table, n, seen, identity, sweep, arg, number);
    if (rc)
        return rc < 0 ? rc : 0;
    return err_set(DSM_EMEMBERS, 0, "%u places", n);
}

int member_leave(dsm_remote *r, uint64_t table, uint32_t number, uint64_t identity)
{
    uint64_t old;
    return dsm_compare_swap(r, table + 8ull * number, identity, 0, &old, remote_patience(r));
}

int dsm_identity(uint64_t *out) { return member_identity(true, out); }
int dsm_identity_dead(uint64_t identity) { return member_dead(identity); }
int dsm_identity_pid(uint64_t identity) { return member_pid(identity); }
