/* Remotes, the memory of other processes: the error of a failed check, and the handles. */
#include "remote.h"

#include "../base/deadline.h"

#include <stdlib.h>
#include <string.h>

int remote_refuse(const dsm_remote *r, uint64_t offset, uint64_t nbytes, uint32_t right, bool atomic)
{
    static const char *const names[] = {[DSM_READ] = "read", [DSM_WRITE] = "write", [DSM_ATOMIC] = "atomic"};
    if (r->forks != load_relaxed_u32(&core_forks))
        return refuse_forked();
    if (!nbytes)
        return err_set(DSM_EINVAL, 0, "an op of zero bytes");
    if (nbytes > r->nbytes || offset > r->nbytes - nbytes)
        return err_set(DSM_EBOUNDS, 0, "offset %llu + %llu bytes, the region has %llu", (unsigned long long)offset,
                       (unsigned long long)nbytes, (unsigned long long)r->nbytes);
    if (!(r->access & right))
        return err_set(DSM_EACCESS, 0, "no right to %s", names[right]);
    if (atomic && (offset & 7))
        return err_set(DSM_EALIGN, 0, "offset %llu", (unsigned long long)offset);
    if (load_relaxed_u32(&r->peer->dead))
        return err_set(DSM_EPEER, 0, "%s", r->peer->address);
    return err_set(DSM_ESTALE, 0, "its owner has closed the region");
}

/* Thread-local, since a deadline belongs to a call and a call to its thread. So it bounds every op of the call without
 * being passed to each. */
static __thread int64_t call_deadline = DEADLINE_NEVER;
enum { CALL_GRACE_NS = 200000000 };

int64_t dsm_call_until(int64_t deadline)
{
    int64_t before = call_deadline;
    call_deadline = deadline;
    return before;
}

int64_t call_timeout(int64_t peer_timeout_ns)
{
    if (call_deadline == DEADLINE_NEVER)
        return peer_timeout_ns;
    int64_t left = call_deadline - clock_ns();
    left = left < CALL_GRACE_NS ? CALL_GRACE_NS : left;
    return left < peer_timeout_ns ? left : peer_timeout_ns;
}

int dsm_remote_close(dsm_remote *r)
{
    dsm_ctx *c = r->ctx;
    if (!c) {
        map_close(r);
        return 0;
    }
    if (ctx_forked(c))
        return 0;
    if (load_acquire_u32(&r->users))
        return err_set(DSM_EBUSY, 0, "%u ops are under way", load_acquire_u32(&r->users));
    r->peer->dev->fabric->forget(r->imported);
    peers_release(c, r->peer); /* the connection to a live peer is kept for the next attach */
    free(r);
    ctx_leave(c, &c->live_remotes);
    return 0;
}

void *dsm_remote_mapped(const dsm_remote *r) { return r->mapped; }
uint64_t dsm_remote_nbytes(const dsm_remote *r) { return r->nbytes; }
uint32_t dsm_remote_access(const dsm_remote *r) { return r->access; }
void dsm_remote_node(const dsm_remote *r, uint8_t id[DSM_NODE_ID]) { memcpy(id, r->peer->node, DSM_NODE_ID); }
const char *dsm_remote_address(const dsm_remote *r) { return r->peer->address; }
const char *dsm_remote_fabric(const dsm_remote *r) { return r->peer->dev ? r->peer->dev->caps.fabric : ""; }
