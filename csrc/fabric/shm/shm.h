/*
 * shm: memory that is shared by the processes of one host.
 *
 * A region is one memfd (memory/memory.h): the data from offset 0, then, at the next multiple of 4096, the status page,
 * which is the memory's trailer. The agent passes the memfd over its Unix socket. The memory is freed when the last
 * process that has mapped it is gone.
 *
 * Status page (native byte order, as it never leaves the host)
 *   offset  bytes  what
 *        0      8  magic "dsmemshm"
 *        8      4  version, 1
 *       12      4  state: 0 live, 1 closed by the owner
 *       16      8  number of data bytes
 */
#ifndef DSM_FABRIC_SHM_SHM_H
#define DSM_FABRIC_SHM_SHM_H

#include "../fabric.h"
#include "../nosys.h"

#define SHM_MAGIC 0x6d68736d656d7364ull /* "dsmemshm" */
enum { SHM_VERSION = 1, SHM_LIVE = 0, SHM_CLOSED = 1 };

struct shm_status_page {
    uint64_t magic;
    uint32_t version;
    uint32_t state; /* release: shm_unreg(); acquire: remote_check() in core/remote.h */
    uint64_t nbytes;
};
_Static_assert(sizeof(struct shm_status_page) == 24, "docs/protocols/shm.md");
_Static_assert(offsetof(struct shm_status_page, state) == 12, "docs/protocols/shm.md");

int shm_reg(struct fabric_dev *d, size_t n, struct memory *const *m, uint32_t access, struct fabric_mem **out);
void shm_unreg(struct fabric_mem *m);
int shm_export(struct fabric_mem *m, struct fabric_blob *out);
int shm_import(struct fabric_dev *d, const struct fabric_grant *grant, struct fabric_remote **out);
void shm_forget(struct fabric_remote *r);
int shm_evict(struct fabric_dev *d, const uint8_t node[DSM_NODE_ID]);

int shm_ep_open(struct fabric_dev *d, bool passive, struct fabric_ep **out);
void shm_ep_abort(struct fabric_ep *e);
void shm_ep_close(struct fabric_ep *e);
void shm_post(struct fabric_ep *e, struct fabric_op *list);
int shm_poll(struct fabric_ep *e);
int shm_arm(struct fabric_ep *e);

#endif
