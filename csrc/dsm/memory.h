/* Regions of this process, their descriptors, and memory of other processes. The contract of all of them stands in
 * dsm.h. */
#ifndef DSM_DSM_MEMORY_H
#define DSM_DSM_MEMORY_H

#include "context.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DSM_READ 1u   /* others may read */
#define DSM_WRITE 2u  /* others may write */
#define DSM_ATOMIC 4u /* others may fetch-add and compare-swap */

#define DSM_DESC_MAX 256

typedef struct dsm_region dsm_region;
typedef struct dsm_remote dsm_remote;

/* ---- regions ---- */

/* Zeroed, page-aligned, in huge pages where the fabric finds some. Errors: EINVAL (0 bytes, rights), ENOMEM,
 * EMEMLOCK. */
int dsm_alloc(dsm_ctx *c, uint64_t nbytes, uint32_t access, dsm_region **out);
/* Memory of the caller's, which keeps it alive until dsm_region_close returned. ENOTSHARED where the fabric can't. */
int dsm_register(dsm_ctx *c, void *p, uint64_t nbytes, uint32_t access, dsm_region **out);
/* n at once: all or none. Neighbouring buffers may share one registration with the device. */
int dsm_register_many(dsm_ctx *c, size_t n, void *const *p, const uint64_t *nbytes, uint32_t access, dsm_region **out);
/* Afterwards the descriptor is refused as stale. Waits for the fabric, never for peers. */
int dsm_region_close(dsm_region *r);
void *dsm_region_data(const dsm_region *r);
uint64_t dsm_region_nbytes(const dsm_region *r);
uint32_t dsm_region_access(const dsm_region *r);
/* Writes the descriptor (docs/protocols/descriptor.md) into buf; returns its length, at most DSM_DESC_MAX. */
int dsm_region_descriptor(const dsm_region *r, uint8_t buf[DSM_DESC_MAX]);

/* ---- descriptors ---- */

typedef struct {
    uint32_t version, access, kind, fabric; /* fabric: 1 shm, 2 verbs */
    uint8_t node[DSM_NODE_ID];
    uint64_t region, generation, nbytes, base;
    uint32_t key;
    char address[112]; /* of the owner's agent */
} dsm_descriptor;

/* Refuses (EDESC, EVERSION) whatever it does not understand to the last byte. */
int dsm_descriptor_parse(const void *bytes, size_t len, dsm_descriptor *out);

/* ---- memory of other processes ---- */

/* Connects to the owner's agent where there is no connection yet. timeout_ns < 0: the peer timeout. */
int dsm_attach(dsm_ctx *c, const void *descriptor, size_t len, int64_t timeout_ns, dsm_remote **out);
/* EBUSY while ops are outstanding. */
int dsm_remote_close(dsm_remote *r);
/* Ops that this thread begins from now on, as parts of a call, wait no longer than until the deadline (of
 * CLOCK_MONOTONIC, in nanoseconds; INT64_MAX: none), except that each may take 0.2 s, or the peer timeout if that is
 * shorter. Returns the deadline before. The function of dsm_set_interrupt is called without one. */
int64_t dsm_call_until(int64_t deadline);
uint64_t dsm_remote_nbytes(const dsm_remote *r);
uint32_t dsm_remote_access(const dsm_remote *r);
void dsm_remote_node(const dsm_remote *r, uint8_t id[DSM_NODE_ID]);
const char *dsm_remote_address(const dsm_remote *r);

/* Maps nbytes of an open file of shared memory (it keeps no reference to fd): a remote that is local, belongs to no
 * context and can take part in the batches of any. Errors: EINVAL (the file is shorter, or no rights), EACCESS,
 * ESYS. */
int dsm_map(int fd, uint64_t nbytes, uint32_t access, dsm_remote **out);
/* In a child of fork, which has inherited the mapping: a remote of its own on it. r is as it was, and what stands on r
 * is refused as before; but the mapping belongs to the new one, and r must not be closed. EINVAL: r is of no mapped
 * file. */
int dsm_map_inherited(const dsm_remote *r, dsm_remote **out);
/* nbytes of the same file again, without its name: it may have been unlinked, and made longer before. ECORRUPT: it has
 * less. */
int dsm_map_again(dsm_remote *r, uint64_t nbytes, dsm_remote **out);
/* Where the memory is mapped in this process; NULL where it is not. */
void *dsm_remote_mapped(const dsm_remote *r);

#ifdef __cplusplus
}
#endif
#endif
