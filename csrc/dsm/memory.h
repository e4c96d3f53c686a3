/* Regions of this process, their descriptors, and memory of other processes. dsm.h has the contract that all functions
 * share. */
#ifndef DSM_DSM_MEMORY_H
#define DSM_DSM_MEMORY_H

#include "context.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DSM_READ 1u   /* other processes may read */
#define DSM_WRITE 2u  /* other processes may write */
#define DSM_ATOMIC 4u /* other processes may fetch-add and compare-swap */

#define DSM_DESC_MAX 544
#define DSM_BULK (64u << 10) /* bytes of a posting that may go by another way than atomics */

typedef struct dsm_region dsm_region;
typedef struct dsm_pool dsm_pool;
typedef struct dsm_remote dsm_remote;
typedef struct dsm_remotes dsm_remotes;

/* ---- regions ---- */

/* Allocates a region: zeroed, page-aligned, in huge pages where the fabric finds some. Errors: EINVAL (0 bytes, or
 * invalid rights), ENOMEM, EMEMLOCK. */
int dsm_alloc(dsm_ctx *c, uint64_t nbytes, uint32_t access, dsm_region **out);
/* Registers memory of the caller, which the caller keeps alive until dsm_region_close() has returned. ENOTSHARED: the
 * fabric cannot share private memory. */
int dsm_register(dsm_ctx *c, void *p, uint64_t nbytes, uint32_t access, dsm_region **out);
/* Registers n buffers: all of them or none. Adjacent buffers may share one registration with the device. */
int dsm_register_many(dsm_ctx *c, size_t n, void *const *p, const uint64_t *nbytes, uint32_t access, dsm_region **out);
/* Closes the region. From then on its descriptor is refused as stale. The call waits for the fabric, never for
 * peers. */
int dsm_region_close(dsm_region *r);
void *dsm_region_data(const dsm_region *r);
uint64_t dsm_region_nbytes(const dsm_region *r);
uint32_t dsm_region_access(const dsm_region *r);
/* Writes the descriptor (docs/protocols/descriptor.md) into buf. Returns its length, at most DSM_DESC_MAX. */
int dsm_region_descriptor(const dsm_region *r, uint8_t buf[DSM_DESC_MAX]);

/* ---- pools ---- */

#define DSM_POOL_ALIGN 64 /* every region of a pool begins at a multiple of this */

/* One memory, registered once, from which regions are cut: a region of a pool costs no file descriptor, no registration
 * and no system call. The length is rounded up to a multiple of DSM_POOL_ALIGN. Errors: as dsm_alloc().
 *
 * The right to a pool is one: a process that may access one of its regions holds the right to all of it. That an op
 * stays within its region is checked by the core that posts it, and that a region has not been freed is checked by the
 * owner's agent when it is attached, and not afterwards. So all users of a pool must trust each other. */
int dsm_pool_open(dsm_ctx *c, uint64_t nbytes, uint32_t access, dsm_pool **out);
/* From then on every descriptor of the pool is refused as stale. Regions of dsm_pool_alloc() that are open keep the
 * memory, and are still to be closed. */
int dsm_pool_close(dsm_pool *p);
/* The region that is the whole pool: its memory and its descriptor. It is closed with the pool, and not before. */
const dsm_region *dsm_pool_whole(const dsm_pool *p);
/* Cuts a region from the pool; dsm_region_close() gives it back. Its memory is not cleared. EPOOLFULL: no free run is
 * long enough. */
int dsm_pool_alloc(dsm_pool *p, uint64_t nbytes, dsm_region **out);
/* The length of the descriptor of a region of this pool: the same for all. */
size_t dsm_pool_row(const dsm_pool *p);
/* Cuts n regions from the pool, all or none, and writes their descriptors, n * dsm_pool_row() bytes. */
int dsm_pool_alloc_many(dsm_pool *p, size_t n, const uint64_t *nbytes, void *descriptors);
/* Gives n regions of dsm_pool_alloc_many() back, all or none: from then on their descriptors are refused as stale.
 * Errors: EDESC, ESTALE (freed before, or twice in the list), EINVAL (of another pool, or a dsm_region has it). *failed
 * is the index of the descriptor that is refused, or SIZE_MAX; it may be NULL. */
int dsm_pool_free_many(dsm_pool *p, size_t n, const void *descriptors, size_t *failed);

/* ---- descriptors ---- */

enum { DSM_WAYS_MAX = 4 };

/* A region of a pool. */
struct dsm_part {
    uint64_t number, generation; /* generation 0: not a part, the descriptor names a whole region */
    uint64_t offset, nbytes;     /* in the region that is the pool */
};

typedef struct {
    uint32_t version, access, kind;
    uint8_t node[DSM_NODE_ID];
    uint64_t region, generation, nbytes; /* of a region, or of the pool of which 'part' is a region */
    struct dsm_part part;
    uint32_t nways; /* how the region can be reached: by which fabrics, and where the owner's agent is for each */
    uint32_t nbulk; /* more ways, behind these: they carry READs and WRITEs alone (core/bulk.h) */
    struct dsm_way {
        uint32_t fabric; /* dsm_fabric_name(); a number that this release does not know is skipped */
        char address[DSM_ADDRESS_MAX];
    } ways[DSM_WAYS_MAX];
} dsm_descriptor;

/* Parses a descriptor. Refuses it (EDESC, EVERSION) unless it understands every byte. */
int dsm_descriptor_parse(const void *bytes, size_t len, dsm_descriptor *out);

/* ---- memory of other processes ---- */

/* Connects to the owner's agent if there is no connection yet. timeout_ns < 0: the peer timeout. The remote is reached
 * by the first fabric of the context that the descriptor names and by which the owner can be reached; a way that can't
 * be gone, such as shm between two hosts, is passed over. EINVAL: the descriptor names no fabric of the
 * context. */
int dsm_attach(dsm_ctx *c, const void *descriptor, size_t len, int64_t timeout_ns, dsm_remote **out);
/* Fails with EBUSY while ops are outstanding. */
int dsm_remote_close(dsm_remote *r);

/* Attaches to the memory of descriptors that lie one behind another, of any pools, regions and owners, all or none:
 * each pool or region is imported and mapped once, and its owner is asked in one exchange, without a round trip for
 * each region. Up to eight owners are asked at a time, by the caller and by threads that end with the call. The
 * deadline is that of the whole call. *failed is the index of the first descriptor that is refused; SIZE_MAX if it is
 * not about one. */
int dsm_attach_many(dsm_ctx *c, const void *descriptors, size_t len, int64_t timeout_ns, dsm_remotes **out,
                    size_t *failed);
size_t dsm_remotes_count(const dsm_remotes *r);
/* The lengths of all of them, dsm_remotes_count() numbers. */
void dsm_remotes_sizes(const dsm_remotes *r, uint64_t *nbytes);
/* Makes a remote of the i-th. It is closed by itself, and may outlive r. */
int dsm_remotes_get(const dsm_remotes *r, size_t i, dsm_remote **out);
/* n pieces of 'each' bytes, densely packed in local memory: piece i is at offsets[i] of region regions[i]. */
int dsm_remotes_read_many(dsm_remotes *r, const uint64_t *regions, const uint64_t *offsets, size_t n, void *out,
                          uint64_t each, int64_t timeout_ns);
int dsm_remotes_write_many(dsm_remotes *r, const uint64_t *regions, const uint64_t *offsets, size_t n, const void *data,
                           uint64_t each, int64_t timeout_ns);
/* Fails with EBUSY while ops are outstanding. */
int dsm_remotes_close(dsm_remotes *r);
/* Sets a deadline (of CLOCK_MONOTONIC, in nanoseconds; INT64_MAX: none) for the ops that this thread begins from now on
 * as parts of a call. They wait no longer than until the deadline, except that each may take 0.2 s, or the peer timeout
 * if that is shorter. Returns the previous deadline. The function of dsm_set_interrupt() is called with no deadline
 * set. */
int64_t dsm_call_until(int64_t deadline);
uint64_t dsm_remote_nbytes(const dsm_remote *r);
uint32_t dsm_remote_access(const dsm_remote *r);
void dsm_remote_node(const dsm_remote *r, uint8_t id[DSM_NODE_ID]);
const char *dsm_remote_address(const dsm_remote *r);
/* The fabric by which the memory is reached: "shm", "fault+verbs"…; "" if it is a mapped file. */
const char *dsm_remote_fabric(const dsm_remote *r);
/* The fabric by which postings go that have READs and WRITEs of 4 KiB or more alone, and at least DSM_BULK bytes
 * together; otherwise that of dsm_remote_fabric(). */
const char *dsm_remote_bulk_fabric(const dsm_remote *r);

/* Maps nbytes of an open file of shared memory; it keeps no reference to fd. The result is a remote that is local,
 * belongs to no context, and can take part in the batches of any context. Errors: EINVAL (the file is shorter, or no
 * rights), EACCESS, ESYS. */
int dsm_map(int fd, uint64_t nbytes, uint32_t access, dsm_remote **out);
/* In a child of fork(), which has inherited the mapping: makes a remote of the child on that mapping. r does not
 * change, and the objects opened on r are refused as before. The mapping now belongs to the new remote, so r must not
 * be closed. EINVAL: r is not a mapped file. */
int dsm_map_inherited(const dsm_remote *r, dsm_remote **out);
/* Maps nbytes of the same file again, without its name: the file may have been unlinked, and extended before that.
 * ECORRUPT: the file is shorter than nbytes. */
int dsm_map_again(dsm_remote *r, uint64_t nbytes, dsm_remote **out);
/* The address at which the memory is mapped in this process, or NULL if it is not mapped. */
void *dsm_remote_mapped(const dsm_remote *r);

/* ---- local buffers ---- */

/* A device reads and writes the local buffer of a long op in place, and the buffer must be registered for that: by
 * dsm_register(), by the core for the duration of the op, or by the registration cache for longer.
 *
 * Local buffers of more bytes than this are registered for an op, and the cache can keep them. UINT64_MAX: ops on this
 * remote need no registration, or the cache must not keep any (its limit is 0, or the kernel would take the pages of a
 * registered buffer from the child of a fork). */
uint64_t dsm_remote_caches(const dsm_remote *r);
/* An allocation of the caller, which has given it a number that it uses only once. */
typedef struct {
    uint64_t number;
    void *data;
    uint64_t nbytes;
} dsm_allocation; /* the number is not 0 */
/* To be called before an op on a part of the allocation: keeps this part registered or, once there have been ops on
 * several parts, the whole. The entries that were used least recently make room (dsm_options.cache_bytes; at most
 * 256 entries). If it can't be kept, which an error tells, the op registers its buffer as without the cache. The
 * context must not be closed during the call. */
int dsm_cache_keep(dsm_ctx *c, const dsm_allocation *a, const void *p, uint64_t nbytes);
/* To be called before a long op on memory that is in no allocation with a number. Entries of allocations that were
 * there, and ended without dsm_cache_take(), are closed. */
void dsm_cache_end(dsm_ctx *c, const void *p, uint64_t nbytes);
/* Must be called before the allocation is freed, moved or unmapped: takes it out of the cache. NULL: it is not there.
 * The result must be closed, also before the memory is freed; the context may be closed in between. */
typedef struct dsm_cached dsm_cached;
dsm_cached *dsm_cache_take(dsm_ctx *c, uint64_t number);
void dsm_cached_close(dsm_cached *e);

#ifdef __cplusplus
}
#endif
#endif
