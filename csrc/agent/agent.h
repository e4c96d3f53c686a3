/*
 * The agent: the control thread of a context. It answers other nodes (one that has proved that it knows the secret may
 * attach to regions and connect endpoints), detects the end of a control connection to an owner, and fences nodes. It
 * is never on the path of a read or write. It sleeps in epoll_wait() only, and never waits for a peer.
 */
#ifndef DSM_AGENT_AGENT_H
#define DSM_AGENT_AGENT_H

#include "../core/core.h"
#include "protocol.h"

/* The agent listens on a Unix socket if peers of a device map memory, and on TCP if a device has other peers. */
enum { LISTEN_UNIX, LISTEN_TCP, LISTENERS };

/* The data of an epoll event: the lowest two bits tell what it is about, the others are an id. It is not a pointer,
 * since the object may have been freed since. */
enum { ON_STOP, ON_LISTENER, ON_CONN, ON_PEER };

enum conn_state { CONN_HELLO, CONN_PROOF, CONN_OPEN };

/* An incoming connection of another node. */
struct conn {
    struct conn *next;
    uint64_t id;
    int fd;
    bool local; /* through the Unix socket */
    enum conn_state state;
    int64_t deadline; /* for the handshake */
    struct handshake handshake;
    struct session session;
    bool left;             /* the node has closed the connection before it was answered */
    bool calling;          /* a request to the service waits for its reply: nothing is read meanwhile */
    struct caller *caller; /* of service.c; NULL before the first request */
    struct fabric_ep *ep;  /* the passive endpoint for this node, or NULL */
    bool awaits;           /* ep waits for the stream that brings this token */
    uint8_t token[STREAM_TOKEN];
    size_t have;
    uint8_t in[8 * MESSAGE_MAX]; /* room for one is enough; with more, one wake answers several */
};

/* The service of a context (dsm/service.h) and what its thread takes next. */
struct service {
    pthread_mutex_t lock; /* taken after agent->turn */
    pthread_cond_t cond;
    bool on;          /* changes under agent->turn, too */
    int64_t grace_ns; /* under agent->turn: a node that is away for longer is evicted; -1: it is not */
    struct caller *first, **last;
};

struct agent {
    dsm_ctx *ctx;
    pthread_t thread;
    int epoll, listeners[LISTENERS]; /* -1: it does not listen there */
    int stop;                        /* a socket whose shutdown wakes the thread */
    uint64_t stop_node; /* its inode: if all descriptors were closed, the number may belong to another file by now */
    /* Held by the thread while it works, not while it sleeps, and by a fence: protects everything below. Calls of a
     * fabric may wait under it. */
    pthread_mutex_t turn;
    pthread_mutex_t lock; /* in addition, where a socket is opened or closed and 'conns' changes: held across a fork */
    struct conn *conns;
    uint64_t next_conn;
    size_t unauthenticated; /* number of connections that have not completed the handshake */
    uint8_t (*denied)[DSM_NODE_ID];
    size_t ndenied;
    struct grant *grants; /* of grants.c */
    int64_t accept_after; /* no free file descriptor: not listening until then; 0: listening */
    struct service service;
    struct agent *next; /* list of all agents of the process, for fork */
};

int agent_start(dsm_ctx *c, const dsm_options *o);
/* Ends the thread and closes all control connections. Returns false if all file descriptors of the process have been
 * closed by other code: then the thread can't be woken and sleeps forever, so agent and context must not be freed. */
bool agent_stop(dsm_ctx *c);
/* Lets the agent's thread look again at what it waits for. */
void agent_wake(const struct agent *a);
int agent_fence(struct agent *a, const uint8_t node[DSM_NODE_ID]);
/* Refuses the node from now on. Under agent->turn. */
int agent_deny(struct agent *a, const uint8_t node[DSM_NODE_ID]);
/* Starts and stops watching for the end of the control connection to a peer. */
int agent_watch(struct agent *a, struct peer *p);
void agent_unwatch(struct agent *a, struct peer *p);

/* server.c: under agent->turn. conn_input processes what has been received; false: the connection must be dropped. */
bool conn_input(struct agent *a, struct conn *n);
/* Ends a connection that must be dropped. Under agent->turn. */
void agent_refuse(struct agent *a, struct conn *n);
/* reply.c: sends, and answers the last message, which has the type. False: the connection must be dropped. */
bool conn_send(struct conn *n, const void *bytes, size_t len);
bool conn_reply(struct conn *n, int type, int status, const void *payload, size_t len);
bool conn_reply_with(struct conn *n, int type, int status, const void *payload, size_t len, const int *fds,
                     uint32_t nfds);
/* service.c. on_call takes a request, left forgets a connection, turn begins or ends the service: under agent->turn. */
void service_init(struct service *s);
void service_free(struct service *s);
bool service_on_call(struct agent *a, struct conn *n, const uint8_t *bytes, size_t len);
void service_left(struct agent *a, struct conn *n);
void service_turn(struct service *s, bool on);
/* Takes the next request, or waits for one until the deadline, or until it is woken for nothing: ETIME. */
int service_next(struct service *s, int64_t deadline, dsm_call *out);
/* grants.c, under agent->turn: the identities that this process has claimed for nodes. */
int grants_claim(struct agent *a, const struct conn *n, uint64_t key, uint8_t answer[IDENTITIES_SIZE]);
void grants_ended(const uint8_t *question, size_t n, uint8_t *answer);
/* All endpoints of the node must have been closed. */
void grants_bye(struct agent *a, const struct conn *n, uint64_t key);
void grants_end_node(struct agent *a, const uint8_t node[DSM_NODE_ID]);
void grants_end_all(struct agent *a);
/* A connection of the node has opened or ended. */
void grants_look(struct agent *a, const uint8_t node[DSM_NODE_ID]);
void grants_look_all(struct agent *a);
/* When grants_expire() has something to do: it evicts nodes that have been away for too long. */
int64_t grants_next(const struct agent *a);
void grants_expire(struct agent *a);
/* conn.c */
/* Whether what the node sends next wakes the agent. Under agent->turn. */
int conn_read_on(const struct agent *a, const struct conn *n, bool on);
bool agent_denies(const struct agent *a, const uint8_t node[DSM_NODE_ID]);
void conn_close_endpoint(struct conn *n);

/* client.c: what struct control of core/core.h says */
int client_connect(struct peer *p, int64_t deadline);
int client_endpoint(struct peer *p, uint32_t device, const uint8_t *address, size_t len, uint8_t *out, size_t *out_len,
                    int64_t deadline);
const struct session *client_session(const struct peer *p); /* of a connection that is open */
/* Asks a question of 'len' bytes. *got: size of the answer's buffer, then its length. Returns 0, a positive DSM_E… if
 * that is the status in the owner's reply, or -DSM_E… on failure. */
int client_ask(struct peer *p, uint16_t type, const void *question, size_t len, void *answer, size_t *got,
               int64_t deadline);
/* Waits for events of a socket to the owner. ETIME at the deadline, or if a signal handler wants the wait to end. */
int client_await(const struct peer *p, int fd, short events, int64_t deadline);
int client_gone(const struct peer *p, int sys); /* sets EPEER */
/* stream.c */
int client_stream(struct peer *p, const uint8_t *address, size_t len, int64_t deadline);
int client_status(struct peer *p, uint64_t region, uint64_t generation, int64_t deadline);
/* outcomes.c */
int client_outcomes(struct peer *p, const uint8_t *address, size_t len, uint64_t from, struct fabric_outcomes *out,
                    int64_t deadline);
void client_disconnect(struct peer *p);
/* Sends a message that has no answer, if that can be done at once. */
void client_tell(struct peer *p, uint16_t type, const void *payload, size_t len);
/* identities.c */
int client_identities(struct peer *p, int64_t deadline);
int client_ended(struct peer *p, const uint64_t *identities, size_t n, uint8_t *ended, int64_t deadline);
void client_bye(struct peer *p); /* nothing comes from this peer any more */
/* What a client asks an owner for: a region or, if n is not 0, these parts of it, which are its regions if it is a
 * pool. */
struct wanted {
    const dsm_descriptor *d;
    const struct asked {
        struct dsm_part part;
        size_t row; /* index of its descriptor in the call */
    } * asked;
    uint32_t device; /* by which of the owner's devices of the fabric */
    size_t n, stale; /* stale: after ESTALE, the index of the part that is gone, if it is one of them */
};
/* attach.c. The first way of the context by which the owner answers. */
int attach_wanted(dsm_ctx *c, struct wanted *w, int64_t deadline, dsm_remote **out);
int64_t attach_deadline(const dsm_ctx *c, int64_t timeout_ns);
int client_call(struct peer *p, const void *bytes, size_t len, void *reply, size_t *reply_len, int64_t deadline);
int client_attach(struct peer *p, struct wanted *w, struct fabric_grant *out, int64_t deadline);

/* socket.c: abstract Unix sockets and TCP. These write the address that other nodes must use. */
int socket_listen_unix(const dsm_ctx *c, char address[DSM_ADDRESS_MAX], int *fd);
int socket_listen_tcp(const dsm_ctx *c, const dsm_options *o, char address[DSM_ADDRESS_MAX], int *fd);
/* *fd is set and cleared under ctx->lock, which is held across a fork: so a child can close it safely. -1 after a
 * failure. */
int socket_connect(dsm_ctx *c, const char *address, int64_t deadline, int *fd);
void socket_close(dsm_ctx *c, int *fd);
/* The address at which a TCP connection has arrived. */
void socket_arrived_at(int fd, char address[DSM_ADDRESS_MAX]);
/* TCP keepalive: a host that no longer answers is detected after the peer timeout, but not before 4 s. Has no effect on
 * a Unix socket. */
void socket_keep_alive(int fd, int64_t peer_timeout_ns);
/* Whether the process at the other end of a Unix socket runs as an acceptable user: as a server whose address is
 * 'address', or as a client (docs/SECURITY.md). */
bool socket_serves_us(int fd, const char *address);
bool socket_may_ask(int fd);

#endif
