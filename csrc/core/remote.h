/* The checks before an op. Unless all of them pass, nothing is posted and no byte is accessed. */
#ifndef DSM_CORE_REMOTE_H
#define DSM_CORE_REMOTE_H

#include "core.h"

/* The slow path: records the first check that failed. The order: EFORK, EINVAL (zero bytes), EBOUNDS, EACCESS, EALIGN,
 * EPEER, ESTALE. */
int remote_refuse(const dsm_remote *r, uint64_t offset, uint64_t nbytes, uint32_t right, bool atomic);

/* The load-acquire of *state pairs with shm_unreg(). The owner may close the region right after the check. The
 * mapping stays valid, so the op then reads or writes memory that no other process uses. */
static inline bool remote_allows(const dsm_remote *r, uint64_t offset, uint64_t nbytes, uint32_t right)
{
    bool good = r->forks == load_relaxed_u32(&core_forks) && (r->access & right) == right && nbytes - 1 < r->nbytes &&
                offset <= r->nbytes - nbytes && (right != DSM_ATOMIC || !(offset & 7)) &&
                (!r->mapped || (load_acquire_u32(r->state) == 0 && !load_relaxed_u32(&r->peer->dead)));
    return __builtin_expect(good, 1);
}

static inline int remote_check(const dsm_remote *r, uint64_t offset, uint64_t nbytes, uint32_t right)
{
    return remote_allows(r, offset, nbytes, right) ? 0 : remote_refuse(r, offset, nbytes, right, right == DSM_ATOMIC);
}

/* call_timeout(), or -1, no timeout, if the memory is mapped, as then nothing waits. */
static inline int64_t remote_timeout(const dsm_remote *r)
{
    return r->mapped || !r->ctx ? -1 : call_timeout(r->ctx->peer_timeout_ns);
}

/* The same for an op that moves many bytes: 100 ns more for each byte, so 10 MB/s is always fast enough. */
static inline int64_t remote_timeout_for(const dsm_remote *r, uint64_t nbytes)
{
    int64_t timeout = remote_timeout(r);
    return timeout < 0 ? timeout : timeout + (int64_t)nbytes * 100;
}

#endif
