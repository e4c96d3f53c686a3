/*
 * The core's objects behind the handles of dsm.h.
 *
 * LOCKS, in the order in which they may be taken together:
 *   peer->talk   one conversation with the owner's agent, and the making of an endpoint
 *   agent->lock  the agent's tables (agent/agent.h)
 *   ctx->lock    regions, the list of peers, reference counts of peers
 *   peer->lock   the endpoint and everything that is done to it; never held across a wait
 */
#ifndef DSM_MEM_CORE_H
#define DSM_MEM_CORE_H

#include "../fabric/fabric.h"

#include <pthread.h>

/* Counts forks (in the child); an object made under another count is refused. */
extern uint32_t core_forks;

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

    pthread_mutex_t talk;
    int fd;                /* -1: none. Changes under ctx->lock, too */
    struct stream *stream; /* the agent's: where the conversation on fd stands */

    pthread_mutex_t lock;
    pthread_cond_t cond; /* a sleeper has left */
    struct fabric_ep *ep;
    bool sleeper; /* a thread sleeps on ep's event; then ep must not be closed */
    int kick;     /* eventfd that wakes the sleeper when another thread has reaped */
    int watched;  /* ep's event fd that is in ctx->events, or -1 */
};

struct dsm_remote {
    struct fabric_remote *far; /* first: fabric_remote_of() */
    /* copies of what every op needs */
    uint8_t *near;
    const uint32_t *state;
    uint64_t nbytes;
    uint32_t access, forks;
    dsm_ctx *ctx; /* NULL: a mapped file (mem/map.c), then far is NULL too */
    struct peer *peer;
    uint64_t region, generation;
    uint32_t users; /* ops under way */
};

/* What the core asks of the owner's agent. All under peer->talk, all bounded by the deadline. */
struct control {
    int (*connect)(struct peer *p, int64_t deadline); /* checks that it is still the same node */
    int (*endpoint)(struct peer *p, const uint8_t *blob, size_t len, uint8_t *reply, size_t *reply_len,
                    int64_t deadline);
    int (*status)(struct peer *p, uint64_t region, uint64_t generation, int64_t deadline); /* 0, ESTALE… */
    void (*disconnect)(struct peer *p);
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
    dsm_region **regions; /* by id (mem/region.c) */
    size_t capregions;
    uint64_t free_region; /* first free slot; a slot is used again, its generation never is */
    uint64_t live_regions, live_remotes;
    struct peer *peers;
    uint64_t next_peer; /* from 1 */
    uint32_t watched;   /* 'events' and 'nudge' are there; publish: watch_all(), observe: watch() in mem/peer.c */
    int events;         /* epoll over 'nudge' and the event fds of all endpoints */
    uint32_t armed;     /* somebody waits on 'events' */
    int nudge;          /* eventfd: ops are done whose event somebody else may have eaten */
};

static inline bool ctx_forked(const dsm_ctx *c) { return c->forks != peek_u32(&core_forks); }
int refuse_forked(void);

/* mem/region.c: under ctx->lock; NULL unless id and generation name a live region */
dsm_region *region_find(dsm_ctx *c, uint64_t id, uint64_t generation);

/* How long a wait may go before it looks for signals. */
#define WAIT_SLICE_NS 50000000
/* mem/interrupt.c: the calling thread is to end its wait now. With no lock held but peer->talk. */
bool wait_interrupted(void);

/* mem/peer.c */
int peer_new(dsm_ctx *c, const uint8_t node[DSM_NODE_ID], const char *address, struct peer **out);
void peer_free(struct peer *p); /* nobody may use it any more */
/* Frees the peers that are dead and have no remote: a new descriptor makes a new one. Under no lock but agent->lock. */
void peers_bury(dsm_ctx *c);
/* Makes sure of an endpoint that works; connects again where it must. */
int peer_ready(struct peer *p, int64_t deadline);
/* Begins a conversation: takes peer->talk. ETIME where another one lasts until the deadline. */
int peer_talk(struct peer *p, int64_t deadline);
/* Posts, and reaps what is complete already. false, and nothing is posted, where there is no endpoint that works. */
bool peer_post(struct peer *p, dsm_op *list);
/* Reaps without blocking. */
void peer_poll(struct peer *p);
/* Until *pending is 0: polls for spin_ns, then sleeps. At the deadline, or where a signal ends the wait, everything
 * outstanding with the peer is aborted and -DSM_ETIME is returned; *pending is 0 then too. */
int peer_wait(struct peer *p, const uint32_t *pending, int64_t deadline);
/* Nothing is outstanding when it returns. */
void peer_abort(struct peer *p);

/* mem/map.c: a remote without a context */
void map_close(dsm_remote *r);

/* mem/descriptor.c */
int descriptor_write(const dsm_descriptor *d, uint8_t buf[DSM_DESC_MAX]);

#endif
