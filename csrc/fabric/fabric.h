/*
 * fabric.h: the seam between the core and what moves the bytes.
 *
 * A fabric is one complete table of functions (nosys.c holds the defaults) and four kinds of objects: a device, memory
 * of this process, memory of others, and endpoints. Each object begins with the struct given here, the rest is the
 * fabric's. All functions return 0 or -DSM_E… and describe a failure with err_set() (base/error.h).
 *
 * WHO LOCKS. The core serialises everything that is done to one endpoint (post, poll, arm, abort, close), so a fabric
 * takes no lock per endpoint. Device and memory functions may be called from several threads at once.
 *
 * WHAT IS CHECKED BEFORE. Bounds, rights, alignment, closed objects and fork: a fabric trusts the ops it gets. nbytes >
 * 0.
 */
#ifndef DSM_FABRIC_H
#define DSM_FABRIC_H

#include "../base/atomic.h"
#include "../base/error.h"
#include "../dsm.h"

#include <stdbool.h>

enum { FABRIC_SHM = 1, FABRIC_VERBS = 2 };             /* in descriptors */
enum { FABRIC_ADDRESS_MAX = 64 };                      /* an endpoint's address */
enum { FABRIC_KIND_HOST = 0, FABRIC_KIND_DEVICE = 1 }; /* kind of memory; DEVICE: GPU memory, no fabric takes it yet */

struct fabric_dev {
    const struct fabric *fabric;
    uint32_t wire_id; /* FABRIC_…, also when wrapped by fault */
    bool connected;   /* endpoints must be connected to one of the owner's before they carry ops */
    bool local_agent; /* the agent listens on a Unix socket (and hands over file descriptors); else on TCP */
    dsm_stats *stats; /* the core's; count with fetch_add_u64 */
    uint64_t prepare; /* ops of more bytes than this go through op_prepare */
    int fd;           /* readable when the device has something to say (dev_event); -1: it never has */
};

/* Memory of this process that others may reach. */
struct fabric_mem {
    struct fabric_dev *dev;
    void *data;
    uint64_t nbytes;
    uint32_t access; /* DSM_READ … */
    uint32_t kind;   /* FABRIC_KIND_… */
    uint64_t base;   /* added to an offset to make the address that the fabric uses on the wire */
    uint32_t key;
};

/* Memory of another process. */
struct fabric_remote {
    struct fabric_dev *dev;
    uint8_t *mapped;       /* mapped here: the core moves bytes itself and never posts; else NULL */
    const uint32_t *state; /* with local: 0 while the owner keeps the region (SHM_LIVE), else stale */
    uint64_t base, nbytes;
    uint32_t access, key;
};

/* A way to one peer. */
struct fabric_ep {
    struct fabric_dev *dev;
    bool broken;       /* set by poll or abort: carries no more ops, the core replaces it */
    uint32_t inflight; /* ops accepted by post and not yet done; kept by the fabric */
    uint64_t bytes;    /* of these ops; likewise */
};

struct fabric {
    const char *name;

    /* Does it work here? The reason if not. Leaves nothing open. */
    int (*probe)(void);
    /* JSON array of devices (dsm.h: dsm_inventory). Returns the length. */
    int (*inventory)(char *buf, size_t len);
    int (*open)(const dsm_options *o, dsm_stats *stats, struct fabric_dev **out);
    void (*close)(struct fabric_dev *d);
    void (*caps)(struct fabric_dev *d, dsm_caps *out);

    int (*mem_alloc)(struct fabric_dev *d, uint64_t nbytes, uint32_t access, struct fabric_mem **out);
    /* n at once, all or none; n is 1 for a single registration. */
    int (*mem_register)(struct fabric_dev *d, size_t n, void *const *p, const uint64_t *nbytes, uint32_t access,
                        struct fabric_mem **out);
    /* Others can't reach it when this returns (shm: find it stale), or when the last op ends that uses it as its local
     * buffer: a device must not lose memory that it has been given. */
    void (*mem_free)(struct fabric_mem *m);
    /* A new file descriptor that conveys no more than m->access, for the peer; -1 with *fd when the fabric needs
     * none. */
    int (*mem_export)(struct fabric_mem *m, int *fd);

    /* 'grant' is what the owner's agent said, fd what came with it or -1 (the caller closes it). */
    int (*mem_import)(struct fabric_dev *d, const dsm_descriptor *grant, int fd, struct fabric_remote **out);
    void (*mem_forget)(struct fabric_remote *r);

    /* Before an op is posted, with no lock held: whatever its local buffer needs that takes long. Never fails: an op
     * that is not prepared works, too. op_release gives it back, with no lock held, once the op is done or will not be
     * posted; op->fabric is not NULL then. */
    void (*op_prepare)(struct fabric_dev *d, dsm_op *op);
    void (*op_release)(struct fabric_dev *d, dsm_op *op);
    /* Takes what the device has to say. Any thread, one at a time; never blocks. */
    void (*dev_event)(struct fabric_dev *d);

    /* passive: the owner's end; the core never posts on it. */
    int (*ep_open)(struct fabric_dev *d, bool passive, struct fabric_ep **out);
    int (*ep_address)(struct fabric_ep *e, uint8_t address[FABRIC_ADDRESS_MAX]); /* returns its length */
    int (*ep_connect)(struct fabric_ep *e, const uint8_t *address, size_t len);
    /* Moves it to the error state, and never waits: the peer (for a passive one) gets errors, and every op is done when
     * it returns or in a poll of the next 0.1 s, ECANCELED if nothing else was known. Again: nothing more. */
    void (*ep_abort)(struct fabric_ep *e);
    void (*ep_close)(struct fabric_ep *e); /* on return every op is done, and no buffer of one is used any more */

    /* Takes the whole list (linked by op->next, which the fabric then owns); what does not fit into the queue waits in
     * the endpoint and is pushed by poll. Rings one doorbell unless the queue fills up. On a broken endpoint the ops
     * are done with ECANCELED, as ep_abort says. Never fails, never blocks, never allocates. */
    void (*post)(struct fabric_ep *e, dsm_op *list);
    /* Reaps what has completed, calls fabric_op_done() for each op, pushes what waits. Returns the number of ops
     * done. */
    int (*poll)(struct fabric_ep *e);
    /* Asks for an event on ep_fd at the next completion and eats events that have come. The caller polls once more
     * afterwards, before it sleeps. */
    int (*arm)(struct fabric_ep *e);
    int (*ep_fd)(
        struct fabric_ep *e); /* readable when armed and a completion has come; -1 where ops complete in post */
};

/* The complete table of 'not supported'; a fabric's table begins as FABRIC_NOSYS and overrides what it has. */
int nosys_probe(void);
int nosys_inventory(char *buf, size_t len);
int nosys_open(const dsm_options *o, dsm_stats *stats, struct fabric_dev **out);
void nosys_close(struct fabric_dev *d);
void nosys_caps(struct fabric_dev *d, dsm_caps *out);
int nosys_mem_alloc(struct fabric_dev *d, uint64_t nbytes, uint32_t access, struct fabric_mem **out);
int nosys_mem_register(struct fabric_dev *d, size_t n, void *const *p, const uint64_t *nbytes, uint32_t access,
                       struct fabric_mem **out);
void nosys_mem_free(struct fabric_mem *m);
int nosys_mem_export(struct fabric_mem *m, int *fd);
int nosys_mem_import(struct fabric_dev *d, const dsm_descriptor *grant, int fd, struct fabric_remote **out);
void nosys_mem_forget(struct fabric_remote *r);
void nosys_op_prepare(struct fabric_dev *d, dsm_op *op);
void nosys_op_release(struct fabric_dev *d, dsm_op *op);
void nosys_dev_event(struct fabric_dev *d);
int nosys_ep_open(struct fabric_dev *d, bool passive, struct fabric_ep **out);
int nosys_ep_address(struct fabric_ep *e, uint8_t address[FABRIC_ADDRESS_MAX]);
int nosys_ep_connect(struct fabric_ep *e, const uint8_t *address, size_t len);
void nosys_ep_abort(struct fabric_ep *e);
void nosys_ep_close(struct fabric_ep *e);
void nosys_post(struct fabric_ep *e, dsm_op *list);
int nosys_poll(struct fabric_ep *e);
int nosys_arm(struct fabric_ep *e);
int nosys_ep_fd(struct fabric_ep *e);

extern const struct fabric shm_fabric, verbs_fabric;
/* Opens the fabric that 'o' names, wrapped by fault where o->fault says so (registry.c). */
int fabric_open(const dsm_options *o, dsm_stats *stats, struct fabric_dev **out);
const struct fabric *fabric_find(const char *name);
/* Takes 'inner' over, also when it fails (fault/). */
int fault_wrap(const char *plan, struct fabric_dev *inner, struct fabric_dev **out);

/* The fabric's remote of an op: whatever op->remote points to begins with a pointer to it. */
static inline struct fabric_remote *fabric_remote_of(const dsm_op *op)
{
    return *(struct fabric_remote *const *)(const void *)op->remote;
}

/* The one way an op ends. After this the op belongs to its owner, who may free it: touch it no more.
 * publish: pairs with the load_acquire_u32 of group->pending in core/ops.c. */
static inline void fabric_op_done(dsm_op *op, int status)
{
    struct dsm_group *g = op->group;
    void (*tell)(struct dsm_group *) = g->tell; /* a group without is its owner's once pending is 0 */
    op->status = status;
    if (fetch_sub_u32(&g->pending, 1) == 1 && tell)
        tell(g);
}

#endif
