/*
 * The verbs fabric: one reliable connection (RC queue pair) per endpoint, one-sided operations only.
 *
 * SEND QUEUE. Work requests of an endpoint are numbered 0, 1, 2… (wr_id); request i uses slot[i % depth].
 *   head - tail <= depth   requests tail … head-1 are posted and not yet known to be complete
 * The queue completes in order, so a completion with number i completes tail … i. Only the last request of a list and
 * every 'signal_every'th one are signalled; a failed or flushed request always generates a completion.
 *
 * LOCAL MEMORY. The first of these that applies to the local buffer of an op is used:
 *   1. it is inlined (small WRITEs);
 *   2. it is copied from the endpoint's slab (small READs: copying a few cache lines is faster than a region lookup);
 *   3. it lies in a region of this process, and the region's registration is used;
 *   4. it is copied through the slab (up to VERBS_BOUNCE_MAX bytes);
 *   5. it is registered until the op is done;
 *   6. it is copied through the slab piece by piece (if the registration fails).
 * The bytes of the slab are allocated and freed in the order of the requests, so the slab is a ring.
 *
 * Where local memory is in two pieces, 1 and 2 go by the bytes of both, 3 to 5 by each piece, and 6 holds for both. A
 * request has a scatter/gather entry for each piece; on a device that has but one, it ends with the first piece.
 *
 * The source of a copied or inlined op is read when the op is posted, not when the device executes it. So a fenced
 * WRITE waits in the endpoint while this would make a difference: see must_wait() in io.c.
 */
#ifndef DSM_FABRIC_VERBS_VERBS_H
#define DSM_FABRIC_VERBS_VERBS_H

#include "../fabric.h"
#include "lib.h"

#include <pthread.h>
#include <string.h>

enum {
    VERBS_ADDRESS = 32,      /* bytes of an endpoint's address, see endpoint.c */
    VERBS_GIDS = 256,        /* usable GIDs of a port: an address handle has 8 bits for the index */
    VERBS_SLAB = 64 * 1024,  /* per active endpoint */
    VERBS_BOUNCE_MAX = 8192, /* longest op, or piece of one, that is copied */
    VERBS_INLINE = 256,      /* inline bytes requested; the device may grant less */
    VERBS_SMALL = 256,       /* READs of up to this size always go through the slab */
    VERBS_PIECES = 2,        /* scatter/gather entries of a request */
    VERBS_DEPTH = 128,
    VERBS_LARGE_PAGE = 2 << 20,
    VERBS_DEPTH_MAX = 16384,
};

/* One registration with the device. It is shared by regions that were registered together and are contiguous or
 * overlap, and by the ops whose local buffer it covers. It is deregistered when the last of them has ended. */
struct verbs_mr {
    struct ibv_mr *mr;
    uint8_t *start, *end;
    uint64_t shift;        /* from an address here to the one by which the device knows it */
    uint32_t regions;      /* regions that use it; it is in the table while there is one */
    uint32_t users;        /* reference count: one for the table, one for each op */
    bool writable;         /* may be the destination of READs of this process */
    bool kept;             /* grants no rights: of the registration cache, which is asked before long ops only */
    struct memory *memory; /* a reference to what it covers; NULL: that is the caller's */
};

/* The packet format of a port, in endpoint addresses. */
enum verbs_link { VERBS_IB = 0, VERBS_ROCE_V1 = 1, VERBS_ROCE_V2 = 2 };

struct verbs_dev {
    struct fabric_dev base;
    struct ibv_context *ctx;
    struct ibv_pd *pd;
    struct ibv_cq *passive_cq; /* for all passive endpoints; no request ever completes there */
    struct ibv_device_attr attr;
    struct ibv_port_attr port_attr;
    char name[64];
    uint8_t port, timeout, retries;
    uint8_t max_reads;           /* READs and ATOMICs that one endpoint may have outstanding as initiator */
    uint8_t max_served;          /* READs and ATOMICs that a peer may have outstanding at one passive endpoint */
    uint8_t pieces, read_pieces; /* of local memory in a request; of a READ */
    bool roce, grh;              /* grh: the port requires a global routing header */
    uint8_t link;                /* enum verbs_link */
    uint8_t sl, tclass;          /* service level and traffic class of sent packets */
    uint16_t pkey;               /* partition key at index 0, which all endpoints use */
    uint32_t lost;               /* the device has reported a fatal error */
    uint32_t unclosed;           /* a passive queue pair could be neither stopped nor destroyed */
    int gid_index;
    union ibv_gid gid;
    enum ibv_mtu mtu;
    uint32_t depth, max_inline;
    /* The registrations of this process, sorted by start address, for the local buffers of ops. Under lock. */
    pthread_rwlock_t lock;
    struct verbs_mr **mrs;
    size_t nmrs, room;
};

struct verbs_mem {
    struct fabric_mem base;
    struct verbs_mr *mr;
};

struct verbs_remote {
    struct fabric_remote base;
    struct {
        uint64_t start; /* the address on the wire of offset 0 */
        uint32_t key;
    } by[FABRIC_DEVICES_MAX]; /* device of the owner */
};

struct verbs_slot {
    struct fabric_op *work;
    uint8_t *bounced; /* READ through the slab: address in the slab; otherwise NULL */
    uint64_t at;      /* the first byte of the op that is in this request */
    uint32_t nbytes;
    uint32_t slab; /* bytes of the slab that become free with the request */
};

struct verbs_ep {
    struct fabric_ep base;
    bool passive, stopped; /* stopped: the queue pair is in the error state */
    uint8_t refused;       /* 0, or fabric_behind_refused(): the owner has refused a request */
    struct ibv_qp *qp;     /* NULL once destroyed by an abort */
    struct ibv_cq *cq;
    struct ibv_comp_channel *channel;
    int64_t drained; /* deadline for the device to flush the queue; 0: not aborted */
    uint32_t psn;
    uint32_t lost;   /* the device has reported a fatal error of the QP or CQ: set by verbs_dev_event(), read by
                        verbs_poll() */
    unsigned events; /* read from the channel and not yet acknowledged */
    uint32_t depth, max_inline, signal_every, unsignalled;
    uint64_t head, tail;
    uint32_t answers; /* requests in the queue that are READs or ATOMICs */
    uint32_t bounced; /* READs among them that go through the slab */
    struct verbs_slot *slot;
    struct ibv_send_wr *wr; /* the list of requests being built */
    struct ibv_sge *sge;    /* VERBS_PIECES for each */
    uint8_t *slab;          /* a ring of VERBS_SLAB bytes, then 'depth' words for the results of atomics */
    uint64_t slab_mapped, slab_head, slab_tail;
    struct ibv_mr *slab_mr;
    struct fabric_op *waiting, *waiting_last;
    uint64_t placed; /* bytes of the first waiting op for which requests exist already */
};

/* The 'state' of an op: of the registrations that are 'prepared'. */
enum {
    VERBS_PREPARED, /* from verbs_op_prepare(); the core releases it */
    VERBS_UNKNOWN,  /* there are none yet */
    VERBS_TAKEN,    /* taken by io.c, and released when the op ends */
    VERBS_REFUSED,  /* there are none, as the device refused it */
};

static inline bool verbs_is_atomic(const dsm_op *op)
{
    return op->code == DSM_OP_FETCH_ADD || op->code == DSM_OP_COMPARE_SWAP;
}

/* Where the device writes the result of the atomic that is request 'number'. */
static inline uint64_t *verbs_result_of(struct verbs_ep *e, uint64_t number)
{
    return (uint64_t *)(void *)(e->slab + VERBS_SLAB) + number % e->depth;
}

/* Copies bytes of a WRITE, from byte 'at' on, to p. */
static inline void verbs_copy_local(const dsm_op *op, uint64_t at, uint8_t *p, uint64_t nbytes)
{
    for (uint64_t run; nbytes; at += run, p += run, nbytes -= run) {
        const uint8_t *from = fabric_op_local(op, at, &run);
        run = run < nbytes ? run : nbytes;
        memcpy(p, from, run);
    }
}

/* Copies bytes of a READ, from byte 'at' on, from p. */
static inline void verbs_copy_out(const dsm_op *op, uint64_t at, const uint8_t *p, uint64_t nbytes)
{
    for (uint64_t run; nbytes; at += run, p += run, nbytes -= run) {
        uint8_t *to = fabric_op_local(op, at, &run);
        run = run < nbytes ? run : nbytes;
        memcpy(to, p, run);
    }
}

/* Whether packets of this device have a global routing header even if the receiver does not require one. */
static inline bool verbs_global(const struct verbs_dev *d) { return d->roce || d->grh || d->tclass; }

/* region.c */
int verbs_reg(struct fabric_dev *d, size_t n, struct memory *const *m, uint32_t access, struct fabric_mem **out);
void verbs_unreg(struct fabric_mem *m);
int verbs_export(struct fabric_mem *m, struct fabric_blob *out);
int verbs_import(struct fabric_dev *d, const struct fabric_grant *grant, struct fabric_remote **out);
int verbs_import_by(struct fabric_remote *r, uint32_t theirs, const struct fabric_grant *grant);
void verbs_forget(struct fabric_remote *r);
/* Records and returns the error for a registration of [p, p+nbytes) that failed with errno 'sys'. */
int verbs_reg_failed(int sys, const void *p, uint64_t nbytes);
/* Takes a reference to a registration for each local piece of the op that one covers; kept: also to those of the
 * registration cache. Under d->lock (read). Returns whether no piece is left without. */
bool verbs_find_local(struct verbs_dev *d, struct fabric_op *w, bool kept);
/* Registers the pieces that are left; these registrations are not in the table. If the device refuses, the op is left
 * without any. */
bool verbs_make_local(struct verbs_dev *d, struct fabric_op *w);
void verbs_put_local(struct fabric_op *w);
/* Drops a reference. */
void verbs_put_mr(struct verbs_mr *r);
void verbs_op_prepare(struct fabric_dev *d, struct fabric_op *w);
void verbs_op_release(struct fabric_dev *d, struct fabric_op *w);

/* completion.c */
/* Polls the completion queue; returns the number of ops done. Sets base.broken if a request has failed. */
int verbs_reap(struct verbs_ep *e);
/* Ends all ops that are still in the queue, which the device must not use any more, or that wait. Returns their
 * number. */
int verbs_cancel(struct verbs_ep *e);

/* endpoint.c */
int verbs_create_qp(struct verbs_dev *d, struct verbs_ep *owner, struct ibv_cq *cq, uint32_t depth,
                    uint32_t *max_inline, struct ibv_qp **out);
int verbs_ep_open(struct fabric_dev *d, bool passive, struct fabric_ep **out);
int verbs_ep_address(struct fabric_ep *e, uint8_t address[FABRIC_ADDRESS_MAX]);
int verbs_ep_connect(struct fabric_ep *e, const uint8_t *address, size_t len);
void verbs_ep_abort(struct fabric_ep *e);
void verbs_ep_close(struct fabric_ep *e);
/* Reads the asynchronous events of the device: of queue pairs, ports and the device itself. */
void verbs_dev_event(struct fabric_dev *d);
/* For a broken endpoint: ends the ops that the device has flushed, or all ops once the deadline e->drained is over. */
void verbs_drain(struct verbs_ep *e);
/* Ends all ops of an active endpoint at once: destroys the queue pair instead of waiting for the queue to flush. */
void verbs_ep_kill(struct verbs_ep *e);

/* io.c */
void verbs_post(struct fabric_ep *e, struct fabric_op *list);
int verbs_poll(struct fabric_ep *e);
int verbs_arm(struct fabric_ep *e);
int verbs_ep_fd(struct fabric_ep *e);

#endif
