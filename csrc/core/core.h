/*
 * The structs behind the opaque handles of dsm.h.
 *
 * LOCKS, in the order in which a thread may take them:
 *   peer->control_lock    the control connection: one request or handshake at a time, and the creation of an endpoint
 *   agent->turn           the agent's tables (agent/agent.h)
 *   agent->lock           the agent's sockets and the list of its connections, for fork
 *   ctx->lock             regions, the list of peers, the reference counts of peers
 *   ctx->completed_lock   complete tickets (core/async.c)
 *   peer->lock            the endpoint and every call on it but the last, which closes it; never held across a wait
 *   ctx->tickets_lock     tickets that are kept (core/ticket.c), and groups of started ops that must end by a time of
 *                         their own (core/async.c); no other lock is taken under it
 *
 * A fabric may wait, for a device or for a thread of its own, where it opens, connects or closes an endpoint, takes a
 * registration away and evicts a node. These calls are made below, and with none of the locks from agent->lock on.
 */
#ifndef DSM_CORE_CORE_H
#define DSM_CORE_CORE_H

#include "../base/deadline.h"
#include "../fabric/fabric.h"
#include "lock.h"
#include "ticket.h"

/* Incremented in the child by each fork; an object that was created under another count is refused. */
extern uint32_t core_forks __attribute__((visibility("hidden")));

struct dsm_region {
    dsm_ctx *ctx;
    struct memory *memory;
    dsm_pool *pool;       /* of which it is a part or, if part.generation is 0, the whole; otherwise NULL */
    struct dsm_part part; /* offset and length: also of a region that is not a part */
    uint32_t access;
    struct fabric_mem *mem[FABRIC_DEVICES_MAX]; /* by device of the context; NULL: not served by it */
    uint64_t id;                                /* slot in ctx->regions */
    uint64_t generation;
};

/* One owner as reached by one fabric: the control connection (control_lock, fd) and the endpoint (lock, ep). */
struct peer {
    struct peer *next;
    dsm_ctx *ctx;
    struct fabric_dev *dev; /* the first device of the fabric: for what all of them have in common */
    uint64_t id;            /* of the control connection in the agent's epoll; 0: none yet. Under ctx->lock */
    uint8_t node[DSM_NODE_ID];
    char address[DSM_ADDRESS_MAX];
    uint32_t refs; /* remotes; under ctx->lock */
    uint32_t dead; /* the control connection has ended; set by the agent thread or by a request that found its end */
    bool ending;   /* a thread frees it; under ctx->lock */
    bool service;  /* of a dsm_service alone, for its requests: 'node' is zeros, and there is no endpoint */

    pthread_mutex_t control_lock;
    int fd;                /* -1: none. Under control_lock; changes under ctx->lock as well */
    struct stream *stream; /* of agent/client.c: the state of the control connection */
    int stream_fd;         /* the socket of an endpoint that is being connected, or -1; like fd */
    struct {
        uint64_t key;        /* random; 0: none have been asked for */
        uint64_t next, left; /* those that no participant has drawn */
        bool none;           /* the owner gives none */
        uint32_t kept; /* the owner may keep some for this peer, and end them when it stays away. Also read without
                                the lock, and set to 0 without it */
    } identities;      /* core/identities.c; under control_lock */

    pthread_mutex_t lock;
    pthread_cond_t cond;  /* the sleeper has woken, ops have ended, or the endpoint has changed */
    struct fabric_ep *ep; /* NULL: there is none yet, or it is being replaced */
    bool closing;         /* the endpoint before is being closed, which ends its ops */
    bool sleeper;         /* a thread sleeps on ep's event, so ep must not be closed */
    int wake_fd;          /* eventfd that wakes the sleeper after another thread has reaped */

    /* core/paths.c. Paths and atomics are set under both locks, by the first attach */
    struct path {
        struct fabric_dev *dev;
        uint32_t theirs; /* the number of the owner's device */
    } paths[FABRIC_DEVICES_MAX];
    uint32_t npaths;
    uint32_t path;    /* the one of ep; changes under both locks */
    uint32_t atomics; /* 0, or 1 + the number of the only device of the owner that executes atomics */
    bool suspect; /* ep was lost, or ops on it were given up: the next endpoint is made on another path. Under lock */
    bool lost;   /* the core has given up ops, after a time in which the device would have reported that the path fails:
                     suspect, and atomics are held back. Under lock */
    bool moving; /* no op is posted, as the endpoint is about to be replaced by one on another path. Under lock */
    int64_t held; /* atomics are refused until then, as their path was lost. Under control_lock */

    struct {
        bool wanted;           /* the helper is to connect again */
        int64_t at, pause;     /* when, and how long it waits for it at most */
        int64_t since, joined; /* when the connection had ended; when one had been made again */
    } rejoin;                  /* core/rejoin.c; under lock */

    /* core/async.c; under lock, except the counts (async) and reads of parting */
    pthread_t helper;
    bool helped; /* the helper runs */
    pthread_cond_t work;
    struct op_group *begin, **begin_last; /* groups that wait for a connection */
    struct op_group *due; /* groups on their way that are given up at ticket->due. Under ctx->tickets_lock */
    struct op_group *ask, **ask_last; /* complete groups whose owner is still to be asked what became of ops */
    uint32_t async[2];                /* number of groups started and not complete, by round */
    uint32_t round;                   /* 0 or 1: the round of groups that start now; the other round is older */
    uint32_t parting;                 /* the helper must end */
    uint32_t late;                    /* 0, or 1 + a round: its groups that are aborted now have timed out */
};

struct dsm_remote {
    struct fabric_target target; /* first: fabric_target_of() */
    /* copies of fields that every op needs */
    uint8_t *mapped; /* core/remote.h: only that reads it */
    const uint32_t *state;
    uint64_t nbytes;
    uint32_t access, forks;
    dsm_ctx *ctx; /* NULL: a mapped file (core/mapped_file.c), then target.remote is NULL too */
    struct peer *peer;
    uint64_t region, generation;
    uint32_t users;           /* ops that have not finished */
    uint32_t holders;         /* not of a part: itself and its parts, which use its import and its peer */
    struct dsm_remote *whole; /* of a part; otherwise NULL */
    struct dsm_remote *bulk;  /* the same memory, mapped, for READs and WRITEs (core/bulk.h). NULL: there is none */
};

/* Many parts, without a remote for each. */
struct dsm_remotes {
    dsm_ctx *ctx;
    size_t n, nwholes;
    bool mapped;         /* all of them are */
    dsm_remote **wholes; /* what was imported: each pool or region once */
    struct piece {
        uint64_t offset, nbytes;
        size_t whole;
    } * pieces;
};

/* Calls of the core into the agent; most send a request to the owner's agent. Under peer->control_lock, except free,
 * and except disconnect where no other thread can use the peer. Those that have a deadline return by then. */
struct control {
    int (*connect)(struct peer *p, int64_t deadline); /* verifies that the address still belongs to the same node */
    /* device: the number of the owner's. Its endpoints of this fabric for this node are closed before it answers. */
    int (*endpoint)(struct peer *p, uint32_t device, const uint8_t *address, size_t len, uint8_t *reply,
                    size_t *reply_len, int64_t deadline);
    /* Connects p->stream_fd to the passive endpoint that has this address. */
    int (*stream)(struct peer *p, const uint8_t *address, size_t len, int64_t deadline);
    int (*status)(struct peer *p, uint64_t region, uint64_t generation, int64_t deadline); /* 0, ESTALE… */
    /* What became of the ops that came through this endpoint of the owner's, from number 'from' on. */
    int (*outcomes)(struct peer *p, const uint8_t *address, size_t len, uint64_t from, struct fabric_outcomes *out,
                    int64_t deadline);
    int (*identities)(struct peer *p, int64_t deadline); /* sets p->identities */
    int (*ended)(struct peer *p, const uint64_t *identities, size_t n, uint8_t *ended, int64_t deadline);
    void (*bye)(struct peer *p); /* nothing more comes from it: the connection ends; sent if that can be done at once */
    void (*disconnect)(struct peer *p);
    void (*free)(dsm_ctx *c); /* with no lock held: frees the context */
};

struct agent;
struct dsm_ctx {
    struct fabric_dev *devs[FABRIC_DEVICES_MAX]; /* in the order of preference */
    size_t ndevs;
    dsm_stats stats;
    uint8_t node[DSM_NODE_ID];
    uint32_t forks;
    int64_t peer_timeout_ns, spin_ns; /* the first: at most INT64_MAX / 8 */
    uint8_t *secret;
    size_t secret_len;
    const struct control *control;
    struct agent *agent;
    char unix_address[DSM_ADDRESS_MAX]; /* of the agent; empty: it does not listen there */
    char tcp_address[DSM_ADDRESS_MAX];

    pthread_mutex_t lock;
    dsm_region **regions; /* by id (core/region.c) */
    size_t capregions;
    uint64_t free_region;                /* first free slot; slots are reused, generations are not */
    uint64_t live_regions, live_remotes; /* regions in the table; remotes */
    uint64_t live_parts;                 /* regions of pools that have a handle: they have no slot in the table */
    uint64_t live_cached;                /* entries of the registration cache, also those that are being closed */
    bool closed;                         /* closing the last region or remote frees the context */
    struct peer *peers;
    uint64_t next_peer;              /* from 1 */
    int event;                       /* eventfd: readable if 'done' is or was not empty; -1: ops complete when posted */
    uint64_t done;                   /* lock-free stack of struct op_group: complete groups, the latest first */
    pthread_mutex_t completed_lock;  /* taken before peer->lock */
    dsm_ticket *ready, **ready_last; /* under completed_lock */
    bool canceling;                  /* under completed_lock */
    pthread_mutex_t tickets_lock;
    dsm_ticket *tickets; /* that are kept; under tickets_lock */

    struct {
        pthread_mutex_t lock; /* no other is taken under it */
        dsm_cached *first;    /* the one used last */
        uint32_t entries;
        uint64_t limit; /* of stats.cache_bytes, which changes under this lock */
    } cache;            /* core/cache.c */
};

static inline bool ctx_unused(const dsm_ctx *c)
{
    return !c->live_regions && !c->live_parts && !c->live_remotes && !c->live_cached;
}

/* Where the agent of a context is reached by the peers of a device. */
static inline const char *ctx_address(const dsm_ctx *c, const struct fabric_dev *d)
{
    return d->maps ? c->unix_address : c->tcp_address;
}

static inline bool ctx_forked(const dsm_ctx *c) { return c->forks != load_relaxed_u32(&core_forks); }
int refuse_forked(void);

/* ---- calls of a fabric that may wait ---- */

static inline int endpoint_open(struct fabric_dev *d, bool passive, struct fabric_ep **out)
{
    core_assert_unlocked();
    return d->fabric->ep_open(d, passive, out);
}

static inline int endpoint_connect(struct fabric_ep *e, const uint8_t *address, size_t len)
{
    core_assert_unlocked();
    return e->dev->fabric->ep_connect(e, address, len);
}

static inline int endpoint_stream(struct fabric_ep *e, int fd)
{
    core_assert_unlocked();
    return e->dev->fabric->ep_stream(e, fd);
}

static inline void endpoint_close(struct fabric_ep *e)
{
    core_assert_unlocked();
    e->dev->fabric->ep_close(e);
}

static inline int device_outcomes(struct fabric_dev *d, const uint8_t *address, size_t len, uint64_t from,
                                  struct fabric_outcomes *out)
{
    core_assert_unlocked();
    return d->fabric->outcomes(d, address, len, from, out);
}

static inline void registration_end(struct fabric_mem *m)
{
    core_assert_unlocked();
    m->dev->fabric->unreg(m);
}

static inline int device_evict(struct fabric_dev *d, const uint8_t node[DSM_NODE_ID])
{
    core_assert_unlocked();
    return d->fabric->evict(d, node);
}

/* A region, a remote or another such object has been freed: decrements its count (live_regions, live_parts…), and frees
 * the context if it is closed and this was the last. With no lock held. */
static inline void ctx_leave(dsm_ctx *c, uint64_t *live)
{
    core_lock(&c->lock);
    --*live;
    bool last = c->closed && ctx_unused(c);
    core_unlock(&c->lock);
    if (last)
        c->control->free(c);
}
/* core/cache.c: closes all entries. Returns whether there were any. With no lock held. */
bool cache_clear(dsm_ctx *c);
/* NULL unless id and generation name a live region. Under ctx->lock. */
dsm_region *region_find(dsm_ctx *c, uint64_t id, uint64_t generation);

/* The longest time that a wait sleeps between two checks for signals. */
#define WAIT_SLICE_NS 50000000
/* core/interrupt.c: true if the calling thread must end its wait now. Signal handlers of the application may run inside
 * this function and call the core again. So the caller must hold no lock that another call waits for, except those that
 * record their thread: a call that needs one of these is refused (dsm_refuse_reentry). */
bool wait_interrupted(void);
/* An id of the calling thread; never 0. */
uint64_t this_thread(void);
/* For a thread that the core has created: its waits end when *stop is not 0. */
void wait_for(const uint32_t *stop);
/* The timeout of an op that is one of several in a call: the peer timeout, shortened by the deadline of the thread's
 * call (dsm_call_until). */
int64_t call_timeout(int64_t peer_timeout_ns);

/* The calling thread's waits end once *stop is not 0 (dsm_stop); NULL: they do not. Returns what held before. */
const uint32_t *wait_until_stopped(const uint32_t *stop);
bool wait_stopped(void);

/* core/peer.c */
/* Returns 0 once the endpoint is usable, for groups with atomics or for others; connects again if necessary. */
int peer_ready(struct peer *p, bool atomics, int64_t deadline);
/* Takes peer->control_lock, which the caller must unlock. ETIME if another thread holds it until the deadline, EBUSY if
 * the calling thread holds it itself, in a call that a signal handler has interrupted. */
int peer_lock_control(struct peer *p, int64_t deadline);
/* Posts the group and reaps what has completed already. Returns false, and posts nothing, if the endpoint is not
 * usable, or not for this group. */
bool peer_post(struct peer *p, const struct op_group *g);
/* Waits until *pending is 0: polls for spin_ns, then sleeps. At the deadline, or if a signal ends the wait, everything
 * outstanding on the endpoint is aborted and -DSM_ETIME is returned; *pending is 0 then, too. */
int peer_wait(struct peer *p, const uint32_t *pending, int64_t deadline);
/* Aborts everything outstanding, without waiting: the threads that wait for it see it end soon. */
void peer_break(struct peer *p);
/* The same under peer->lock. */
void peer_cut(struct peer *p);
/* Aborts everything outstanding; on return all of it has ended. With no lock held. */
void peer_abort(struct peer *p);

/* Parts of peer_wait; under peer->lock. */
void peer_reap(struct peer *p);
bool peer_usable(const struct peer *p);
/* The same before ops are posted: the end of a stream that was idle is noticed now, and not by an op that was sent. */
bool peer_can_post(struct peer *p);
void peer_wake(struct peer *p); /* wakes all threads that sleep on the peer, which then recheck */
/* When an op without a deadline is given up that begins now, with so many bytes on their way. */
static inline int64_t ctx_give_up_at(const dsm_ctx *c, uint64_t bytes)
{
    enum { NS_PER_BYTE = 250 };
    int64_t timeout = bytes < INT64_MAX / 4 / NS_PER_BYTE ? (int64_t)bytes * NS_PER_BYTE : INT64_MAX / 4;
    return deadline_after(timeout + 2 * c->peer_timeout_ns);
}
int64_t peer_give_up_at(const struct peer *p);
/* Sleeps for one slice, or until *pending is 0, and returns false. At the limit it aborts everything outstanding as
 * timed out and returns true; *pending is 0 then. Gives peer->lock back while it sleeps. */
bool peer_sleep(struct peer *p, const uint32_t *pending, int64_t limit);

/* core/paths.c */
/* The owner has said how many devices of the fabric it has. Under control_lock. */
void peer_find_paths(struct peer *p, const struct fabric_grant *g);
/* The path on which the next endpoint is made. Under control_lock. */
uint32_t path_next(struct peer *p);
/* Whether ops, atomics among them or not, may go by a path. */
static inline bool path_takes(const struct peer *p, uint32_t path, bool atomics)
{
    return !atomics || !p->atomics || p->paths[path].theirs + 1 == p->atomics;
}
static inline bool peer_has_paths(const struct peer *p) { return load_relaxed_u32(&p->npaths) > 1; }
/* The device of the path that is used now. The acquire pairs with install() in core/peer.c. */
static inline struct fabric_dev *peer_device(const struct peer *p)
{
    uint32_t path = load_acquire_u32(&p->path);
    return p->paths[path].dev;
}
/* Whether the group can be posted on the endpoint: its ops are prepared for its device. Under peer->lock. */
static inline bool group_fits(const struct peer *p, const struct op_group *g)
{
    return g->dev == p->ep->dev && path_takes(p, p->path, g->atomics);
}
/* With other paths to the owner left, a connection that broke is no proof that it is gone. */
void path_set_reason(dsm_op *op);
/* When all groups of the ticket are complete, and ops failed because a path, or the connection to an owner that can be
 * reached by another one, was lost: whether ticket_fill() can post them again, without executing one twice that is not
 * a READ. */
bool ticket_resume(dsm_ticket *t, int64_t deadline);

/* core/rejoin.c: under peer->lock */
/* The control connection has ended, and the helper is to make a new one. */
void rejoin_begin(struct peer *p);
/* What the helper does about it when p->rejoin.at has come. Gives peer->lock back meanwhile. */
void rejoin_try(struct peer *p);

/* core/async.c */
/* Starts the helper if it does not run, and wakes it. false: it can't be started. Under peer->lock. */
bool peer_help(struct peer *p);
/* The control connection has ended: the helper makes a new one if the owner keeps identities for the peer. With no
 * peer->lock held. */
void peer_lost(struct peer *p);
void peer_stop_help(struct peer *p); /* with no lock held; ends the groups that wait for the helper */
/* While it is on, tickets that complete post no further ops and ask no owner. */
void async_set_canceling(dsm_ctx *c, bool on);

/* core/peers.c */
int peer_new(dsm_ctx *c, struct fabric_dev *d, const uint8_t node[DSM_NODE_ID], const char *address, struct peer **out);
/* Takes a reference away. With no lock held. */
void peer_release(dsm_ctx *c, struct peer *p);
/* Frees the peers that are dead and have no remote; a later attach creates a new one. With no lock held
 * except agent->turn. */
void peers_bury(dsm_ctx *c);
/* The context is being closed: no peer connects again by itself any more. With no lock held. */
void peers_let_go(dsm_ctx *c);
/* The same, and no helper runs any more: ops that were started have ended, and post and ask nothing. */
void peers_rest(dsm_ctx *c);
/* Makes a remote of a part of another one, which has a holder and is not a part itself. */
int remote_part(dsm_remote *whole, uint64_t offset, uint64_t nbytes, dsm_remote **out);
/* With no lock held. The last holder frees it. */
void remote_drop(dsm_remote *whole);

/* core/identities.c: of participants in memory that is not mapped. */
enum { ENDED_MOST = 128 }; /* in one question */
/* n identities that no other participant has, from *first on; 0 if the owner gives none: nothing can be proven of those
 * that the caller draws itself. */
int remote_identities(dsm_remote *r, uint64_t n, uint64_t *first);
/* For each identity 1 if the owner says that it has ended, else 0. -DSM_E…: it does not answer. */
int remote_ended(dsm_remote *r, const uint64_t *identities, size_t n, uint8_t *ended);

/* core/ops.c */
/* Ends the ops of a group that has not been posted. */
void group_end(struct op_group *g, int status);
/* Posts the group. Connects first if there is no usable endpoint, which may take until the caller's deadline, but no
 * longer than the peer timeout. Nothing is posted once the call has been stopped. */
void group_start(struct op_group *g, int64_t deadline);
/* Checks the ops. If it fails, no op is to be posted, and each has its status. 1: at least one is on memory that is not
 * mapped, so that there is something to post. */
int ticket_check(dsm_ctx *c, dsm_op *ops, size_t n, const dsm_choice *how, size_t *failed);
/* The same, and makes a ticket of the ops, which are in use from now on. */
int ticket_make(dsm_ctx *c, dsm_op *ops, size_t n, const dsm_choice *how, bool started, dsm_ticket **out,
                size_t *failed);
/* Executes the ops on mapped memory, and puts as many of the others into groups as there is room for. */
void ticket_fill(dsm_ticket *t);
/* With go_on, when all groups are complete: whether ops are left that ticket_fill() posts again. */
bool ticket_again(dsm_ticket *t);
static inline bool ticket_stopped(const dsm_ticket *t) { return t->how.stop && load_acquire_u32(t->how.stop); }
void ticket_give_up_rest(dsm_ticket *t, int status);
/* Asks the owners of ops that were refused or are in doubt, for as long as the peer timeout in all. */
void ticket_find_causes(dsm_ticket *t, int64_t deadline);
/* Checked ops, of which at least one is to be posted. */
int ops_run(dsm_ctx *c, dsm_op *ops, size_t n, int64_t timeout_ns);

/* core/doubt.c: asks the owner of op i, which is in doubt, about it and the later ones that came through the same
 * connection. Afterwards none of these is in doubt: it has its outcome, or that stays unknown. */
void doubt_settle(dsm_ticket *t, size_t i, int64_t deadline);

/* core/mapped_file.c: closes a remote that has no context */
void map_close(dsm_remote *r);

/* core/region.c */
/* How many devices of a fabric the context has. *atomics: 0, or 1 + the number of the only one of them that executes
 * atomics. */
uint32_t ctx_devices(const dsm_ctx *c, uint32_t wire_id, uint32_t *atomics);
/* The rights that a peer has which reaches the region by device i. */
uint32_t region_access_by(const dsm_region *r, size_t i);
void region_describe(const dsm_region *r, dsm_descriptor *out);
/* Closes a region that is not part of a pool. */
void region_end(dsm_region *r);

/* core/pool.c */
/* The pool of a region that was found under ctx->lock stays until pool_drop(). */
void pool_hold(dsm_pool *p);
void pool_drop(dsm_pool *p);
/* How many of the parts, from the first on, are regions of the pool. */
size_t pool_count_live(dsm_pool *p, const struct dsm_part *parts, size_t n);

/* core/descriptor.c */
int descriptor_write(const dsm_descriptor *d, uint8_t buf[DSM_DESC_MAX]);
enum {
    DESC_MIN = 54,
    DESC_PART = 32,
    DESC_TAIL = DESC_PART + 4
}; /* a descriptor of a part ends with the part and the CRC */
/* The end of a descriptor of a part. crc: the state of crc32_more() after everything before it. */
void descriptor_write_tail(const struct dsm_part *part, uint32_t crc, uint8_t tail[DESC_TAIL]);
/* Reads descriptors that lie one behind another; begins with the bytes at 'at', and zeros. What descriptors of one pool
 * have in common is parsed once. */
struct descriptor_reader {
    const uint8_t *at, *end;
    const uint8_t *last; /* the descriptor before, of 'length' bytes */
    size_t length;
    uint32_t crc; /* state of crc32_more() before its tail */
};
/* Parses the next one. d: holds the one before. *same_head: only its part is another one. */
int descriptor_next(struct descriptor_reader *r, dsm_descriptor *d, bool *same_head);

#endif
