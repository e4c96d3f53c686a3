/*
 * The verbs fabric: one reliable connection (RC queue pair) per endpoint, one-sided operations only.
 *
 * SEND QUEUE. Work requests of an endpoint are numbered 0, 1, 2… (wr_id); request i sits in slot[i % depth].
 *   head - tail <= depth   requests tail … head-1 are posted and not yet known to be complete
 * The queue completes in order, so a completion with number i completes tail … i. Only the last request of a posting
 * and every 'signal_every'th are signalled; a failed or flushed request completes always.
 *
 * LOCAL MEMORY of an op is, in this order: inlined (small writes); copied from the endpoint's slab (small reads: a
 * few cache lines cost less than to look for their region); inside a region of this process; copied through the slab
 * (up to BOUNCE_MAX); registered until the op is done; or, where that fails, copied through the slab
 * piece by piece.
 * The slab's bytes are handed out and come back in the order of the requests, so it is a ring.
 *
 * A copied op reads its source when it is posted, not when the device runs it. So a fenced WRITE waits in the endpoint
 * while that could matter: see must_wait() in io.c.
 */
#ifndef DSM_VERBS_H
#define DSM_VERBS_H

#include "../fabric.h"
#include "lib.h"

#include <pthread.h>

enum {
    VERBS_ADDRESS = 32,      /* bytes of an endpoint's address, see endpoint.c */
    VERBS_GIDS = 256,        /* of a port that can be used: an address handle holds 8 bits of index */
    VERBS_SLAB = 64 * 1024,  /* per active endpoint */
    VERBS_BOUNCE_MAX = 8192, /* longest op, or piece of one, that is copied */
    VERBS_INLINE = 256,      /* asked for; the device may grant less */
    VERBS_SMALL = 256,       /* READs up to this go through the slab always */
    VERBS_DEPTH = 128,
    VERBS_DEPTH_MAX = 16384,
};

/* One registration with the device, shared by the regions that were registered together and lie together, and by the
 * ops whose local buffer it covers: it ends with the last of them. */
struct verbs_mr {
    struct ibv_mr *mr;
    uint8_t *start, *end;
    uint32_t regions; /* in the table while there is one */
    uint32_t users;   /* the table, and ops */
    bool writable;    /* by READs of our own */
    uint64_t mapped;  /* bytes to unmap with it, 0 where the memory is the caller's */
};

/* In addresses: what kind of packets a port sends. */
enum verbs_link { VERBS_IB = 0, VERBS_ROCE_V1 = 1, VERBS_ROCE_V2 = 2 };

struct verbs_dev {
    struct fabric_dev base;
    struct ibv_context *ctx;
    struct ibv_pd *pd;
    struct ibv_cq *passive_cq; /* of all passive endpoints; nothing ever completes there */
    struct ibv_device_attr attr;
    struct ibv_port_attr port_attr;
    char name[64];
    uint8_t port, timeout, retries;
    uint8_t max_reads;  /* that we may have outstanding */
    uint8_t max_served; /* that a peer may have outstanding here */
    bool roce, grh;     /* grh: the port takes no packet without a global header */
    uint8_t link;       /* enum verbs_link */
    uint8_t sl, tclass; /* of what we send */
    uint16_t pkey;      /* of index 0, which we use */
    uint32_t lost;      /* the device said so */
    int gid_index;
    union ibv_gid gid;
    enum ibv_mtu mtu;
    uint32_t depth, max_inline;
    /* Our registrations by start, for the local side of ops. */
    pthread_rwlock_t lock;
    struct verbs_mr **mrs;
    size_t nmrs, room;
};

struct verbs_mem {
    struct fabric_mem base;
    struct verbs_mr *mr;
};

struct verbs_slot {
    dsm_op *op;
    uint8_t *bounced; /* READ through the slab: where the bytes will be */
    uint8_t *to;      /* and where they go */
    uint32_t nbytes;
    uint32_t slab; /* bytes of the ring that come back */
};

struct verbs_ep {
    struct fabric_ep base;
    bool passive;
    struct ibv_qp *qp; /* NULL once destroyed by an abort */
    struct ibv_cq *cq;
    struct ibv_comp_channel *channel;
    int64_t drained; /* broken: when the device has had its time to flush; 0: it has not been told to */
    uint32_t psn;
    uint32_t lost;   /* the device said so: set by verbs_dev_event(), looked at by verbs_poll() */
    unsigned events; /* taken from the channel and not yet acknowledged */
    uint32_t depth, max_inline, signal_every, unsignalled;
    uint64_t head, tail;
    uint32_t answers; /* READs and ATOMICs in the queue */
    uint32_t bounced; /* READs among them that go through the slab */
    struct verbs_slot *slot;
    struct ibv_send_wr *wr; /* the chain being built */
    struct ibv_sge *sge;
    uint8_t *slab; /* VERBS_SLAB bytes of ring, then 'depth' words for results of atomics */
    uint64_t slab_mapped, slab_head, slab_tail;
    struct ibv_mr *slab_mr;
    dsm_op *waiting, *waiting_last;
    uint64_t placed; /* bytes of the first waiting op that are posted already */
};

/* Whether what we send has a global header, whatever its receiver wants. */
static inline bool verbs_global(const struct verbs_dev *d) { return d->roce || d->grh || d->tclass; }

/* region.c */
int verbs_mem_alloc(struct fabric_dev *d, uint64_t nbytes, uint32_t access, struct fabric_mem **out);
int verbs_mem_register(struct fabric_dev *d, size_t n, void *const *p, const uint64_t *nbytes, uint32_t access,
                       struct fabric_mem **out);
void verbs_mem_free(struct fabric_mem *m);
int verbs_mem_export(struct fabric_mem *m, int *fd);
int verbs_mem_import(struct fabric_dev *d, const dsm_descriptor *grant, int fd, struct fabric_remote **out);
void verbs_mem_forget(struct fabric_remote *r);
/* The error for a registration of [p, p+nbytes) that failed with errno 'sys'. */
int verbs_reg_failed(int sys, const void *p, uint64_t nbytes);
/* The registration that covers [p, p+nbytes), with one user more, or NULL. Under d->lock (read). */
struct verbs_mr *verbs_find_mr(struct verbs_dev *d, const void *p, uint64_t nbytes, bool write);
/* A registration of its own for the local buffer of an op, in no table; NULL where the device refuses. */
struct verbs_mr *verbs_new_mr(struct verbs_dev *d, void *p, uint64_t nbytes, bool write);
/* One user less. */
void verbs_put_mr(struct verbs_mr *r);
void verbs_op_prepare(struct fabric_dev *d, dsm_op *op);
void verbs_op_release(struct fabric_dev *d, dsm_op *op);

/* endpoint.c */
int verbs_create_qp(struct verbs_dev *d, struct verbs_ep *owner, struct ibv_cq *cq, uint32_t depth,
                    uint32_t *max_inline, struct ibv_qp **out);
int verbs_ep_open(struct fabric_dev *d, bool passive, struct fabric_ep **out);
int verbs_ep_address(struct fabric_ep *e, uint8_t address[FABRIC_ADDRESS_MAX]);
int verbs_ep_connect(struct fabric_ep *e, const uint8_t *address, size_t len);
void verbs_ep_abort(struct fabric_ep *e);
void verbs_ep_close(struct fabric_ep *e);
/* Reads what the device says of queue pairs, ports and itself. */
void verbs_dev_event(struct fabric_dev *d);
/* Of a broken endpoint: ends the ops that the device has let go of, or all that it had time for. */
void verbs_drain(struct verbs_ep *e);
/* Ends all ops of an active endpoint at once, without waiting for the queue to flush. */
void verbs_ep_kill(struct verbs_ep *e);

/* io.c */
void verbs_post(struct fabric_ep *e, dsm_op *list);
int verbs_poll(struct fabric_ep *e);
int verbs_arm(struct fabric_ep *e);
int verbs_ep_fd(struct fabric_ep *e);
/* Takes completions; returns the number of ops done. Sets base.broken where one failed. */
int verbs_reap(struct verbs_ep *e);
/* Ends everything that is still in the queue (which the device has let go of) or waits. Returns the number of ops. */
int verbs_cancel(struct verbs_ep *e);

#endif
