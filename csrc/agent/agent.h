/*
 * The agent: the control thread of a context. It answers other nodes (who has proved to know the secret may attach to
 * regions and connect endpoints), notices when an owner's connection is gone, and cuts nodes off. It is never on the
 * path of a read or write. It sleeps in epoll, and no step of it waits for a peer.
 */
#ifndef DSM_AGENT_AGENT_H
#define DSM_AGENT_AGENT_H

#include "../core/core.h"
#include "protocol.h"

enum conn_state { CONN_HELLO, CONN_PROOF, CONN_OPEN };

/* A node that has connected to us. */
struct conn {
    struct conn *next;
    uint64_t id;
    int fd;
    enum conn_state state;
    int64_t deadline; /* for the handshake */
    struct handshake handshake;
    struct session session;
    bool left;            /* it has gone while we answered */
    struct fabric_ep *ep; /* our end of its endpoint, or NULL */
    size_t have;
    uint8_t in[MESSAGE_MAX];
};

struct agent {
    dsm_ctx *ctx;
    pthread_t thread;
    int epoll, listener;
    int stop;             /* a socket, which wakes the thread once it is shut down */
    uint64_t stop_node;   /* its inode: the number may be another file's, where all were closed */
    pthread_mutex_t lock; /* everything below; held by the thread while it works, not while it sleeps */
    struct conn *conns;
    uint64_t next_conn;
    size_t unauthenticated; /* connections that have not proved themselves */
    uint8_t (*denied)[DSM_NODE_ID];
    size_t ndenied;
    int64_t accept_after; /* out of file descriptors: the listener rests; 0: it does not */
    struct agent *next;   /* of this process, for fork */
};

int agent_start(dsm_ctx *c, const char *listen_at);
/* Its thread has ended, and all control connections are closed. false: somebody has closed all file descriptors of the
 * process, so nothing wakes the thread; it sleeps on, and agent and context must stay. */
bool agent_stop(dsm_ctx *c);
int agent_fence(struct agent *a, const uint8_t node[DSM_NODE_ID]);
/* Tells the agent to watch for the end of a peer's control connection, or to cease. */
int agent_watch(struct agent *a, struct peer *p);
void agent_unwatch(struct agent *a, struct peer *p);

/* server.c: under agent->lock. false: the connection is to be dropped. */
bool conn_input(struct agent *a, struct conn *n);
bool agent_denies(const struct agent *a, const uint8_t node[DSM_NODE_ID]);
void conn_close_endpoint(struct conn *n);

/* context.c */
void context_free(dsm_ctx *c);

/* client.c */
extern const struct control agent_control;

/* address.c: Unix abstract or TCP. socket_listen writes the address that others are to use. */
int socket_listen(const dsm_ctx *c, const char *listen_at, char address[112], int *fd);
/* *fd changes under ctx->lock, which is held across a fork: what it names then is ours. -1 after a failure. */
int socket_connect(dsm_ctx *c, const char *address, int64_t deadline, int *fd);
void socket_close(dsm_ctx *c, int *fd);
/* A host that falls silent is noticed after the peer timeout, or 4 s where that is shorter. Nothing to a Unix
 * socket. */
void socket_keep_alive(int fd, int64_t peer_timeout_ns);
/* Whether a Unix socket's other end is a process of ours: see docs/SECURITY.md. */
bool socket_serves_us(int fd, const char *address);
bool socket_may_ask(int fd);

#endif
