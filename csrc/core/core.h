/*
 * The core's objects behind the handles of dsm.h.
 *
 * LOCKS, in the order in which they may be taken together:
 *   peer->control_lock   one conversation with the owner's agent, and the making of an endpoint
 *   agent->lock  the agent's tables (agent/agent.h)
 *   ctx->lock    regions, the list of peers, reference counts of peers
 *   peer->lock   the endpoint and everything that is done to it; never held across a wait
 */
#ifndef DSM_MEM_CORE_H
#define DSM_MEM_CORE_H

#include "../fabric/fabric.h"

#include <pthread.h>

/* Counts forks (in the child); an object made under another count is refused. */
extern uint32_t core_forks __attribute__((visibility("hidden")));

struct dsm_region {
    dsm_ctx *ctx;
    struct fabric_mem *mem;
    uint64_t id; /* slot in ctx->regions */
    uint64_t generation;
};

/* The way to one owner: a control connection (talk, fd) and an endpoint (lock, ep). */
struct peer {
    struct peer *next;
    dsm_ctx *ctx;
    uint64_t id; /* what the agent's epoll knows the connection by; 0: none yet. Under ctx->lock */
    uint8_t node[DSM_NODE_ID];
    char address[112];
    uint32_t refs; /* remotes; under ctx->lock */
    uint32_t dead; /* the control connection is gone; set by the agent thread or by a conversation that found its end */

    pthread_mutex_t control_lock;
    int fd;                /* -1: none. Changes under ctx->lock, too */
    struct stream *stream; /* the agent's: where the conversation on fd stands */

    pthread_mutex_t lock;
    pthread_cond_t cond; /* a sleeper has left */
    struct fabric_ep *ep;
    bool sleeper; /* a thread sleeps on ep's event; then ep must not be closed */
    int wake_fd;  /* eventfd that wakes the sleeper when another thread has reaped */

    /* core/async.c; under lock, but for the counts */
    pthread_t helper;
    bool helped; /* the helper runs */
    pthread_cond_t work;
    struct dsm_group *begin, **begin_last; /* wait for a connection */
    struct dsm_group *ask;                 /* are complete, but the owner is to be asked why it refused an op */
    uint32_t async[2];                     /* groups that are begun and not complete, by their round */
    uint32_t round;                        /* 0 or 1: of those that begin now; the others are older */
    uint32_t parting;                      /* the helper is to end */
    uint32_t late;                         /* what is aborted now and is of the older round has had its time */
};

struct dsm_remote {
    struct fabric_remote *imported; /* first: fabric_remote_of() */
    /* copies of what every op needs */
    uint8_t *mapped;
    const uint32_t *state;
    uint64_t nbytes;
    uint32_t access, forks;
    dsm_ctx *ctx; /* NULL: a mapped file (core/mapped_file.c), then remote is NULL too */
    struct peer *peer;
    uint64_t region, generation;
    uint32_t users; /* ops under way */
};

/* What the core asks of the owner's agent. All under peer->control_lock, all bounded by the deadline. */
struct control {
    int (*connect)(struct peer *p, int64_t deadline); /* checks that it is still the same node */
    int (*endpoint)(struct peer *p, const uint8_t *address, size_t len, uint8_t *reply, size_t *reply_len,
                    int64_t deadline);
    int (*status)(struct peer *p, uint64_t region, uint64_t generation, int64_t deadline); /* 0, ESTALE… */
    void (*disconnect)(struct peer *p);
    void (*free)(dsm_ctx *c); /* under no lock: nothing of it is left */
};

struct agent;
struct dsm_ctx {
    struct fabric_dev *dev;
    dsm_caps caps;
    dsm_stats stats;
    uint8_t node[DSM_NODE_ID];
    uint32_t forks;
    int64_t peer_timeout_ns, spin_ns;
    uint8_t *secret;
    size_t secret_len;
    const struct control *control;
    struct agent *agent;
    char address[112];

    pthread_mutex_t lock;
    dsm_region **regions; /* by id (core/region.c) */
    size_t capregions;
    uint64_t free_region; /* first free slot; a slot is used again, its generation never is */
    uint64_t live_regions, live_remotes;
    bool closed; /* the last region or remote frees it */
    struct peer *peers;
    uint64_t next_peer;             /* from 1 */
    int event;                      /* eventfd: 'done' is not empty, or was not; -1: ops complete when posted */
    uint64_t done;                  /* struct dsm_group: complete, the latest first; pushed without a lock */
    pthread_mutex_t completed_lock; /* taken before peer->lock */
    dsm_ticket *ready, **ready_last;
    bool canceling; /* under completed_lock */
};

static inline bool ctx_forked(const dsm_ctx *c) { return c->forks != load_relaxed_u32(&core_forks); }
int refuse_forked(void);

/* core/region.c: one region or remote less, of which nothing is left. Under no lock. */
void ctx_leave(dsm_ctx *c, uint64_t *live);
/* Under ctx->lock; NULL unless id and generation name a live region */
dsm_region *region_find(dsm_ctx *c, uint64_t id, uint64_t generation);

/* How long a wait may go before it looks for signals. */
#define WAIT_SLICE_NS 50000000
/* core/interrupt.c: the calling thread is to end its wait now. Signal handlers of the application may run in here, and
 * what they call comes back into the core. So the caller holds no lock that a call waits for, but those that know their
 * thread: such a call is refused (dsm_refuse_reentry). */
bool wait_interrupted(void);
/* Of the calling thread; never 0. */
uint64_t this_thread(void);
/* Of a thread of the core's own: its waits end when *stop is not 0. */
void wait_for(const uint32_t *stop);

/* core/peer.c */
int peer_new(dsm_ctx *c, const uint8_t node[DSM_NODE_ID], const char *address, struct peer **out);
void peer_free(struct peer *p); /* nobody may use it any more */
/* Frees the peers that are dead and have no remote: a new descriptor makes a new one. Under no lock but agent->lock. */
void peers_bury(dsm_ctx *c);
/* Makes sure of an endpoint that works; connects again where it must. */
int peer_ready(struct peer *p, int64_t deadline);
/* Begins a conversation: takes peer->control_lock. ETIME where another one lasts until the deadline, EBUSY where it is
 * the caller's own, which a signal's handler has interrupted. */
int peer_talk(struct peer *p, int64_t deadline);
/* Posts, and reaps what is complete already. false, and nothing is posted, where there is no endpoint that works. */
bool peer_post(struct peer *p, dsm_op *list);
/* Until *pending is 0: polls for spin_ns, then sleeps. At the deadline, or where a signal ends the wait, everything
 * outstanding with the peer is aborted and -DSM_ETIME is returned; *pending is 0 then too. */
int peer_wait(struct peer *p, const uint32_t *pending, int64_t deadline);
/* What is outstanding ends soon, and those who wait for it end it: none waits here. */
void peer_break(struct peer *p);
/* Nothing of what was outstanding is when it returns. */
void peer_abort(struct peer *p);

/* What peer_wait is made of; under peer->lock. */
void peer_reap(struct peer *p);
bool peer_usable(const struct peer *p);
void peer_wake(struct peer *p); /* whoever sleeps for the peer looks again */
int64_t peer_give_up_at(const struct peer *p);
/* Sleeps for a slice, or until *pending is 0. At the limit what is outstanding is aborted as late: true, and *pending
 * is 0. */
bool peer_sleep(struct peer *p, const uint32_t *pending, int64_t limit);
/* A peer that has a helper, with one reference more, which peers_release gives back; NULL: there is none. */
struct peer *peers_next_helped(dsm_ctx *c);
void peers_release(dsm_ctx *c, struct peer *p);

/* core/async.c; under peer->lock: makes sure that the helper is there and looks. false: there can be none. */
bool peer_help(struct peer *p);
void peer_stop_help(struct peer *p); /* under no lock; ends what waits for it */

/* core/ops.c */
int ticket_check(dsm_ctx *c, const dsm_op *ops, size_t n, size_t *failed);
/* Moves what is local, and forms groups of as many of the other ops as there is room for. */
void ticket_fill(dsm_ticket *t);
void ticket_give_up_rest(dsm_ticket *t, int status);
void ticket_find_causes(dsm_ticket *t, int64_t deadline);

/* core/mapped_file.c: a remote without a context */
void map_close(dsm_remote *r);

/* core/descriptor.c */
int descriptor_write(const dsm_descriptor *d, uint8_t buf[DSM_DESC_MAX]);

#endif
