/* Remotes, the memory of other processes: the error of a failed check, and what they are. */
#include "remote.h"

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

void *dsm_remote_mapped(const dsm_remote *r) { return remote_is_mapped(r) ? remote_at(r, 0) : NULL; }
uint64_t dsm_remote_nbytes(const dsm_remote *r) { return r->nbytes; }
uint32_t dsm_remote_access(const dsm_remote *r) { return r->access; }
void dsm_remote_node(const dsm_remote *r, uint8_t id[DSM_NODE_ID]) { memcpy(id, r->peer->node, DSM_NODE_ID); }
const char *dsm_remote_address(const dsm_remote *r) { return r->peer->address; }
const char *dsm_remote_fabric(const dsm_remote *r) { return r->peer->dev ? r->peer->dev->caps.fabric : ""; }
const char *dsm_remote_bulk_fabric(const dsm_remote *r) { return dsm_remote_fabric(r->bulk ? r->bulk : r); }
