/* The checks before an op. Nothing is posted, and no byte is touched, unless they all pass. */
#ifndef DSM_MEM_REMOTE_H
#define DSM_MEM_REMOTE_H

#include "core.h"

/* The slow half: says which check failed, in the order of dsm.h. */
int remote_refuse(const dsm_remote *r, uint64_t offset, uint64_t nbytes, uint32_t right, bool atomic);

/* observe of *state: pairs with shm_mem_free(). The owner may close the region right afterwards: the mapping stays, so
 * the op then reads or writes memory that nobody else looks at. */
static inline int remote_check(const dsm_remote *r, uint64_t offset, uint64_t nbytes, uint32_t right)
{
    bool good = r->forks == load_relaxed_u32(&core_forks) && (r->access & right) == right && nbytes - 1 < r->nbytes &&
                offset <= r->nbytes - nbytes && (right != DSM_ATOMIC || !(offset & 7)) &&
                (!r->mapped || (load_acquire_u32(r->state) == 0 && !load_relaxed_u32(&r->peer->dead)));
    return __builtin_expect(good, 1) ? 0 : remote_refuse(r, offset, nbytes, right, right == DSM_ATOMIC);
}

/* How long an op may take that is one of several of a call: the peer timeout, but no longer than the thread's call, see
 * dsm_call_until(). Local, nothing waits. */
int64_t call_timeout(int64_t peer_timeout_ns);
static inline int64_t remote_timeout(const dsm_remote *r)
{
    return r->mapped || !r->ctx ? -1 : call_timeout(r->ctx->peer_timeout_ns);
}

/* The same for an op that moves much: 10 MB/s are always waited for. */
static inline int64_t remote_patience_for(const dsm_remote *r, uint64_t nbytes)
{
    int64_t timeout = remote_timeout(r);
    return timeout < 0 ? timeout : timeout + (int64_t)nbytes * 100;
}

#endif
