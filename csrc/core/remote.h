/*
 * What is asked of a remote before an op: whether it is to be executed here or posted, and the checks.
 *
 * LOCAL OR REMOTE. Memory is mapped if the CPU of this process may load and store it, with CPU atomics in the region's
 * domain of atomicity. An op on mapped memory is executed by the thread that asks for it: nothing is posted, nothing
 * waits, the owner is not asked, and the op is complete when the call returns. Any other op is posted to the peer. This
 * is the only meaning of 'mapped', and remote_is_mapped() the only place that says it. Memory at which a device has an
 * address, but which the CPU must not touch, is not mapped. Of an object the same answer says more: its words wake
 * sleepers, and deaths of its users can be proven (objects/member.h).
 */
#ifndef DSM_CORE_REMOTE_H
#define DSM_CORE_REMOTE_H

#include "core.h"

static inline bool remote_is_mapped(const dsm_remote *r) { return r->mapped; }

/* Whether a READ of a word that others change meanwhile is one of its values (fabric.h). */
static inline bool remote_reads_whole(const dsm_remote *r)
{
    return remote_is_mapped(r) || !r->ctx || r->peer->dev->whole;
}

/* Where a byte of mapped memory is. */
static inline uint8_t *remote_at(const dsm_remote *r, uint64_t offset) { return r->mapped + offset; }

/* ---- checks: unless all of them pass, nothing is posted and no byte is accessed ---- */

/* The slow path: records the first check that failed. The order: EFORK, EINVAL (zero bytes), EBOUNDS, EACCESS, EALIGN,
 * EPEER, ESTALE. */
int remote_refuse(const dsm_remote *r, uint64_t offset, uint64_t nbytes, uint32_t right, bool atomic);

/* The load-acquire of *state pairs with shm_unreg(). The owner may close the region right after the check. The
 * mapping stays valid, so the op then reads or writes memory that no other process uses. */
static inline bool remote_allows(const dsm_remote *r, uint64_t offset, uint64_t nbytes, uint32_t right)
{
    bool good = r->forks == load_relaxed_u32(&core_forks) && (r->access & right) == right && nbytes - 1 < r->nbytes &&
                offset <= r->nbytes - nbytes && (right != DSM_ATOMIC || !(offset & 7)) &&
                (!remote_is_mapped(r) || (load_acquire_u32(r->state) == 0 && !load_relaxed_u32(&r->peer->dead)));
    return __builtin_expect(good, 1);
}

static inline int remote_check(const dsm_remote *r, uint64_t offset, uint64_t nbytes, uint32_t right)
{
    return remote_allows(r, offset, nbytes, right) ? 0 : remote_refuse(r, offset, nbytes, right, right == DSM_ATOMIC);
}

/* call_timeout(), or -1, no timeout, if the memory is mapped, as then nothing waits. */
static inline int64_t remote_timeout(const dsm_remote *r)
{
    return remote_is_mapped(r) || !r->ctx ? -1 : call_timeout(r->ctx->peer_timeout_ns);
}

/* The same for an op that moves many bytes: 100 ns more for each byte, so 10 MB/s is always fast enough. */
static inline int64_t remote_timeout_for(const dsm_remote *r, uint64_t nbytes)
{
    int64_t timeout = remote_timeout(r);
    return timeout < 0 ? timeout : timeout + (int64_t)nbytes * 100;
}

/* ---- ops of a ticket that have ended ---- */

/* Whether the owner's device has refused the op, and the owner has not been asked why: then the op has no group any
 * more. */
static inline bool op_refused(const dsm_ticket *t, size_t i)
{
    return t->ops[i].status == -DSM_EACCESS && !remote_is_mapped(t->ops[i].remote) && t->work[i].group;
}

/* Whether the answer to the op was lost, the owner may know what became of it, and has not been asked. */
static inline bool op_in_doubt(const dsm_ticket *t, size_t i)
{
    const dsm_remote *r = t->ops[i].remote;
    return t->ops[i].status == -DSM_EUNKNOWN && !remote_is_mapped(r) && t->work[i].group && r->peer->dev->remembers;
}

static inline bool op_unexplained(const dsm_ticket *t, size_t i) { return op_refused(t, i) || op_in_doubt(t, i); }

#endif
