/*
 * fabric.h: the interface between the core and the transports.
 *
 * A fabric is one complete table of functions (nosys.c holds the defaults) and four kinds of objects: a device, a
 * registration of memory of this process, memory of other processes, and endpoints. Each object begins with the struct
 * given here; the rest is private to the fabric. Functions that return an int return 0 or -DSM_E… unless stated
 * otherwise, and describe a failure with err_set() (base/error.h).
 *
 * A context has one or more devices, of one or several fabrics. A region is registered with all of them that can serve
 * it; a remote is reached through one fabric, at one time by one path: a device of this context and one of the owner's
 * (docs/decisions/0022-one-path-at-a-time.md). docs/decisions/0013-fabrics-register-memory.md has the reasons, and for
 * each function whether it may block, allocate and be repeated, and under which locks it is called.
 *
 * LOCKING. The core serialises all calls on one endpoint (post, poll, arm, abort, close), so a fabric needs no lock per
 * endpoint. Device and memory functions may be called from several threads at once.
 *
 * CHECKS. The core has checked bounds, rights, alignment, closed objects, fork, and nbytes > 0. A fabric does not check
 * ops again.
 */
#ifndef DSM_FABRIC_FABRIC_H
#define DSM_FABRIC_FABRIC_H

#include "../base/atomic.h"
#include "../base/error.h"
#include "../dsm.h"
#include "../memory/memory.h"
#include "options.h"

#include <stdbool.h>

#define FABRIC(NAME, table, number) FABRIC_##NAME = (number),
enum {
#include "fabrics.def"
};
#undef FABRIC
enum {
    FABRIC_ADDRESS_MAX = 64, /* bytes of an endpoint's address */
    FABRIC_BLOB_MAX = 512,   /* bytes of an exported registration */
    FABRIC_FDS_MAX = 8,      /* file descriptors that come with it */
    FABRIC_DEVICES_MAX = 4,  /* of a context */
};

/* The phases of a fork. */
enum fabric_fork { FABRIC_FORK_BEFORE, FABRIC_FORK_AFTER, FABRIC_FORK_CHILD };

struct fabric_dev {
    const struct fabric *fabric;
    uint32_t wire_id; /* FABRIC_…; fault has that of the fabric it wraps */
    uint32_t number;  /* among the devices of this fabric in its context, from 0 */
    bool connected;   /* an endpoint must be connected to a passive endpoint of the owner before ops are posted */
    bool streams;     /* endpoints are connected by a stream socket, which the agents make (ep_stream) */
    bool remembers;   /* owners know what became of ops whose answer was lost (doubt, outcomes) */
    bool whole;       /* a READ of up to 1 KiB gives one value of each aligned word of 8 bytes, also while that is
                         changed; if not, bytes of old and of new values may be mixed (objects/word.h) */
    bool maps;        /* peers are on this host and map the memory: regions must be shared memory, and the agent listens
                         on a Unix socket, which passes file descriptors; otherwise on TCP */
    dsm_stats *stats; /* owned by the core; update with fetch_add_u64 */
    uint64_t prepare; /* op_prepare is called for ops of more bytes than this */
    bool caches;      /* such buffers may stay registered between ops (core/cache.c): by reg, with no rights */
    int fd;           /* readable when the device has an event (dev_event); -1: it has none */
    /* The owner claims identities for its peers (agent/grants.c): when the passive endpoints of a node are closed, or
     * this process has ended, nothing that the node has sent reaches memory that others use any more. */
    bool ends;
    /* NULL, or not 0 from when a passive endpoint could not be closed: what its node has sent may reach the memory as
     * long as this process lives. base/atomic.h. */
    const uint32_t *unclosed;
    dsm_caps caps;
};

/* A registration: memory of this process that other processes may access through the device. It holds a reference to
 * the memory (memory_hold). */
struct fabric_mem {
    struct fabric_dev *dev;
    struct memory *memory;
    uint32_t access; /* DSM_READ … */
};

/* A registration as the owner hands it to a peer. Only the fabric understands the bytes; the receiver checks them. */
struct fabric_blob {
    uint32_t nbytes, nfds;
    uint8_t bytes[FABRIC_BLOB_MAX];
    int fds[FABRIC_FDS_MAX]; /* they belong to the holder of the blob, which closes them */
};

/* What the agent of an owner grants for a region. */
struct fabric_grant {
    uint64_t nbytes;
    uint32_t access, kind; /* DSM_READ …; enum memory_kind */
    uint32_t devices;      /* of this fabric that the owner has */
    uint32_t atomics;      /* 0, or 1 + the number of the only one of them that executes atomics */
    struct fabric_blob blob;
};

/* Memory of another process. */
struct fabric_remote {
    struct fabric_dev *dev;
    uint8_t *mapped;       /* the mapping, if any: the core accesses it directly and posts nothing; otherwise NULL */
    const uint32_t *state; /* if mapped: 0 (SHM_LIVE) while the region is open, otherwise it is stale */
    uint64_t nbytes;
    uint32_t access;
};

/* What an owner says of the ops that came through an endpoint of its own, which is closed for good. They are numbered
 * from 0. */
enum { FABRIC_OUTCOMES = 20 };
struct fabric_outcome {
    uint64_t number, result; /* of the first op; result: of an atomic */
    uint32_t ops, status;    /* 0, or DSM_E…; EUNKNOWN: it has taken effect in part */
};
struct fabric_outcomes {
    uint64_t next;    /* ops from this number on were not executed, and never will be */
    uint64_t known;   /* what became of ops before this one is not known any more */
    uint64_t through; /* all is said of the ops before this one: those that are not listed had no result and status 0 */
    uint32_t n;
    struct fabric_outcome of[FABRIC_OUTCOMES]; /* in the order of their numbers */
};

/* An endpoint: the connection to one peer. */
struct fabric_ep {
    struct fabric_dev *dev;
    uint32_t theirs;   /* the number of the owner's device that it leads to; set by the core before ep_connect */
    bool broken;       /* set by poll or abort: executes no more ops, and the core replaces it */
    bool path_lost;    /* and not because the owner refused an op, or of an abort: another path may work */
    uint32_t inflight; /* ops accepted by post and not yet done; maintained by the fabric */
    uint64_t bytes;    /* total nbytes of these ops; maintained by the fabric */
    uint64_t moved;    /* changes when a part of an op has been moved, if poll can tell: waiters poll on, then */
};

/* Ops that are waited for together. */
struct fabric_group {
    uint32_t pending; /* base/atomic.h; decremented by the thread that reaps */
    /* Called by the thread that makes pending 0; NULL: the group's owner polls, and may free it. */
    void (*tell)(struct fabric_group *g);
};

/* An op on its way: what the core and the fabric keep of it until it is done. The op itself is the caller's. */
struct fabric_op {
    dsm_op *op;
    struct fabric_group *group;
    struct fabric_op *next;
    /* of the fabric: */
    void *prepared[2]; /* by op_prepare, for each local piece; or for 'doubt' */
    uint64_t number;   /* for 'doubt' */
    uint32_t state;
    uint32_t parts; /* that are outstanding */
};

struct fabric {
    const char *name;
    uint32_t wire_id;              /* FABRIC_… */
    const struct fabric_key *keys; /* its options (options.h); dsm.h says what they mean */

    /* Whether the fabric works on this host; if not, the error says why. Leaves nothing open. */
    int (*probe)(void);
    /* JSON array of devices (dsm.h: dsm_inventory). Returns the length. */
    int (*inventory)(char *buf, size_t len);
    int (*open)(const struct fabric_options *o, dsm_stats *stats, struct fabric_dev **out);
    void (*close)(struct fabric_dev *d);
    /* Before a fork: takes the locks of the device, and gives them back afterwards. In the child it first closes the
     * files that the child must not keep open. */
    void (*fork)(struct fabric_dev *d, enum fabric_fork phase);

    /* Registers n memories with the same rights, all or none. ENOTSHARED: this kind of memory can't be registered. */
    int (*reg)(struct fabric_dev *d, size_t n, struct memory *const *m, uint32_t access, struct fabric_mem **out);
    /* On return other processes can't access the memory (on shm they find it stale). If ops still use it as their local
     * buffer, this holds once the last of them has ended: memory must not be taken from a device that uses it. */
    void (*unreg)(struct fabric_mem *m);
    /* The file descriptors in *out are new, and grant the peer no more than m->access. *out is zeroed before. */
    int (*export)(struct fabric_mem *m, struct fabric_blob *out);

    /* 'grant' is the answer of the owner's agent. It may be anything: the function checks the blob, and duplicates
     * file descriptors that it keeps. */
    int (*import)(struct fabric_dev *d, const struct fabric_grant *grant, struct fabric_remote **out);
    /* A fabric of which a context may have several devices: adds what reaches the same memory by another device of its
     * owner. Endpoints that lead there (fabric_ep.theirs) use it. */
    int (*import_by)(struct fabric_remote *r, uint32_t theirs, const struct fabric_grant *grant);
    void (*forget)(struct fabric_remote *r);

    /* The agent has fenced a node: its connections are closed, so are its passive endpoints. Cuts what the node can
     * still reach in other ways; on return no op of the node is executed any more. EUNSUPPORTED: it can't be cut. */
    int (*evict)(struct fabric_dev *d, const uint8_t node[DSM_NODE_ID]);

    /* Called before an op is posted, with no lock held: does the slow part of preparing its local buffer, such as
     * registration, and stores the results in 'prepared'. Never fails: an op that was not prepared works, too, and
     * errno says why it was not. If there is a result, op_release undoes it, with no lock held, once the op is done or
     * will not be posted. */
    void (*op_prepare)(struct fabric_dev *d, struct fabric_op *w);
    void (*op_release)(struct fabric_dev *d, struct fabric_op *w); /* d: any device of the fabric */
    /* If the device remembers: how the owner knows an op that has ended with EUNKNOWN: by the address of its endpoint,
     * and a number. Returns the length of the address; 0: it can't be asked about the op. The answer holds until
     * op_release. */
    size_t (*doubt)(struct fabric_dev *d, const struct fabric_op *w, uint8_t address[FABRIC_ADDRESS_MAX],
                    uint64_t *number);
    /* At the owner: closes the passive endpoint with this address, if it is not closed yet, and says what became of its
     * ops from number 'from' on. ESTALE: it is not known. Waits for a turn of the fabric's thread at most. */
    int (*outcomes)(struct fabric_dev *d, const uint8_t *address, size_t len, uint64_t from,
                    struct fabric_outcomes *out);
    /* Handles the pending events of the device. Called by any thread, but by one at a time; never blocks. */
    void (*dev_event)(struct fabric_dev *d);

    /* passive: the owner's side; the core never posts on it. */
    int (*ep_open)(struct fabric_dev *d, bool passive, struct fabric_ep **out);
    int (*ep_address)(struct fabric_ep *e, uint8_t address[FABRIC_ADDRESS_MAX]); /* returns its length */
    int (*ep_connect)(struct fabric_ep *e, const uint8_t *address, size_t len);
    /* A connected socket, which belongs to the endpoint from then on, unless the function fails. */
    int (*ep_stream)(struct fabric_ep *e, int fd);
    /* Moves the endpoint to the error state; waits for a turn of the fabric's thread at most, and only if it is
     * passive: the peer's ops fail from then on. Otherwise every op is done when this returns or in a poll within the
     * next 0.1 s: with its outcome if that is known, with ECANCELED if it was not executed, otherwise with
     * fabric_op_lost(). A second call has no effect. */
    void (*ep_abort)(struct fabric_ep *e);
    /* Passive: no op of the peer is executed any more, or 'unclosed' says so. */
    void (*ep_close)(struct fabric_ep *e); /* on return every op is done, and no local buffer is in use any more */

    /* Accepts the whole list (linked by 'next', which the fabric owns from then on). Ops that do not fit into the
     * queue wait in the endpoint, and poll posts them. Rings one doorbell unless the queue fills up. On a broken
     * endpoint the ops end with ECANCELED, as after ep_abort. Never fails, never blocks, never allocates. */
    void (*post)(struct fabric_ep *e, struct fabric_op *list);
    /* Reaps completions, calls fabric_op_done() for each op that is done, and posts waiting ops. Returns the number of
     * ops done. */
    int (*poll)(struct fabric_ep *e);
    /* Requests an event on ep_fd at the next completion, and consumes events that have arrived. The caller must poll
     * once more after this, before it sleeps. */
    int (*arm)(struct fabric_ep *e);
    /* Readable if armed and a completion has arrived; -1 if ops complete in post. */
    int (*ep_fd)(struct fabric_ep *e);
};

/* The defaults, which fail with 'not supported' or have no effect. A fabric's table begins with FABRIC_NOSYS and
 * overrides the functions that it implements. */
extern const struct fabric_key nosys_keys[];
int nosys_probe(void);
int nosys_inventory(char *buf, size_t len);
int nosys_open(const struct fabric_options *o, dsm_stats *stats, struct fabric_dev **out);
void nosys_close(struct fabric_dev *d);
void nosys_fork(struct fabric_dev *d, enum fabric_fork phase);
int nosys_reg(struct fabric_dev *d, size_t n, struct memory *const *m, uint32_t access, struct fabric_mem **out);
void nosys_unreg(struct fabric_mem *m);
int nosys_export(struct fabric_mem *m, struct fabric_blob *out);
int nosys_import(struct fabric_dev *d, const struct fabric_grant *grant, struct fabric_remote **out);
int nosys_import_by(struct fabric_remote *r, uint32_t theirs, const struct fabric_grant *grant);
void nosys_forget(struct fabric_remote *r);
int nosys_evict(struct fabric_dev *d, const uint8_t node[DSM_NODE_ID]);
void nosys_op_prepare(struct fabric_dev *d, struct fabric_op *w);
void nosys_op_release(struct fabric_dev *d, struct fabric_op *w);
size_t nosys_doubt(struct fabric_dev *d, const struct fabric_op *w, uint8_t address[FABRIC_ADDRESS_MAX],
                   uint64_t *number);
int nosys_outcomes(struct fabric_dev *d, const uint8_t *address, size_t len, uint64_t from,
                   struct fabric_outcomes *out);
void nosys_dev_event(struct fabric_dev *d);
int nosys_ep_open(struct fabric_dev *d, bool passive, struct fabric_ep **out);
int nosys_ep_address(struct fabric_ep *e, uint8_t address[FABRIC_ADDRESS_MAX]);
int nosys_ep_connect(struct fabric_ep *e, const uint8_t *address, size_t len);
int nosys_ep_stream(struct fabric_ep *e, int fd);
void nosys_ep_abort(struct fabric_ep *e);
void nosys_ep_close(struct fabric_ep *e);
void nosys_post(struct fabric_ep *e, struct fabric_op *list);
int nosys_poll(struct fabric_ep *e);
int nosys_arm(struct fabric_ep *e);
int nosys_ep_fd(struct fabric_ep *e);

#define FABRIC(NAME, table, number) extern const struct fabric table;
#include "fabrics.def"
#undef FABRIC
/* registry.c: opens the fabrics that 'o' names, each wrapped by fault if o->fault is set. Returns their number. */
int fabric_open(const dsm_options *o, dsm_stats *stats, struct fabric_dev *out[FABRIC_DEVICES_MAX]);
const struct fabric *fabric_find(const char *name);
/* fault/: takes ownership of 'inner', also on failure. */
int fault_wrap(const char *plan, struct fabric_dev *inner, struct fabric_dev **out);

/* What the struct that op->remote points to begins with: the fabric's object, and where in it op->offset counts from
 * (a multiple of 64). */
struct fabric_target {
    struct fabric_remote *remote;
    uint64_t base;
};

static inline const struct fabric_target *fabric_target_of(const dsm_op *op)
{
    return (const struct fabric_target *)(const void *)op->remote;
}

/* The fabric's object for op->remote. */
static inline struct fabric_remote *fabric_remote_of(const dsm_op *op) { return fabric_target_of(op)->remote; }

/* Where the op begins in that object. */
static inline uint64_t fabric_offset_of(const dsm_op *op) { return fabric_target_of(op)->base + op->offset; }

/* Whether op_release must be called. */
static inline bool fabric_op_prepared(const struct fabric_op *w) { return w->prepared[0] || w->prepared[1]; }

/* How many bytes of a READ or WRITE are in its first local piece. */
static inline uint64_t fabric_op_first(const dsm_op *op) { return op->nbytes - op->second_nbytes; }

/* Where byte 'at' of a READ or WRITE is in local memory. *run: how many bytes are there in a row. */
static inline uint8_t *fabric_op_local(const dsm_op *op, uint64_t at, uint64_t *run)
{
    uint64_t first = fabric_op_first(op);
    *run = at < first ? first - at : op->nbytes - at;
    return at < first ? (uint8_t *)op->local + at : (uint8_t *)op->second + (at - first);
}

/* Makes of a READ or WRITE one of its bytes from 'from' to 'to'. */
static inline void fabric_op_cut(dsm_op *op, uint64_t from, uint64_t to)
{
    uint64_t first = fabric_op_first(op), at = from > first ? from : first; /* of the second piece */
    if (op->second_nbytes)
        op->second = (uint8_t *)op->second + (at - first);
    op->second_nbytes = to > at ? to - at : 0;
    if (first)
        op->local = (uint8_t *)op->local + (from < first ? from : first);
    op->nbytes = to - from;
    op->offset += from;
}

/* What the core has checked before it posts an op. */
static inline bool fabric_op_checked(const dsm_op *op)
{
    const struct fabric_remote *r = fabric_remote_of(op);
    uint64_t base = fabric_target_of(op)->base;
    return op->nbytes && op->nbytes <= r->nbytes && base <= r->nbytes - op->nbytes &&
           op->offset <= r->nbytes - op->nbytes - base;
}

/* The status of an op that the owner may have executed, although no answer came. cause: -DSM_E…, why none came;
 * ECANCELED if another op's failure or an abort ended the connection. */
static inline int fabric_op_lost(dsm_op *op, int cause)
{
    op->cause = (int16_t)cause;
    return op->code == DSM_OP_READ ? cause : -DSM_EUNKNOWN;
}

/* What is known of op 'next' on a reliable connection whose owner has refused the op before. Only some pairs of ops are
 * executed in the order in which they were posted (InfiniBand specification, table of ordering rules): anything after a
 * WRITE, a READ after a READ, an ATOMIC after an ATOMIC, and anything after a fence. *refused: code of the refused op,
 * DSM_OP_WRITE once a fenced op has come behind it. Returns the status of 'next'. */
static inline int fabric_behind_refused(uint8_t *refused, dsm_op *next)
{
    bool same = (*refused == DSM_OP_READ) == (next->code == DSM_OP_READ) && next->code != DSM_OP_WRITE;
    if (next->flags & DSM_OP_FENCE)
        *refused = DSM_OP_WRITE;
    return *refused == DSM_OP_WRITE || same ? -DSM_ECANCELED : fabric_op_lost(next, -DSM_ECANCELED);
}

/* Ends an op; every op ends here. Any status but 0 and fabric_op_lost() says that the op was not executed.
 * Afterwards both structs belong to their owner, which may free them, so the fabric must not access them any more. The
 * decrement is a release: pairs with the load_acquire_u32 of pending in core/ops.c. */
static inline void fabric_op_done(struct fabric_op *w, int status)
{
    struct fabric_group *g = w->group;
    void (*tell)(struct fabric_group *) =
        g->tell; /* read first: without tell, the owner may free the group once pending is 0 */
    w->op->status = status;
    if (fetch_sub_u32(&g->pending, 1) == 1 && tell)
        tell(g);
}

#endif
