/*
 * tcp: memory of processes on any host, over sockets.
 *
 * The owner has a progress thread, which executes the ops of its peers with loads, stores and CPU atomics (server.c).
 * So a region has one domain of atomicity with the owner's threads and with peers that map it. The peer needs no
 * thread: the thread that posts or polls writes frames and reads replies (client.c), straight from and into the buffers
 * of the ops.
 *
 * docs/protocols/tcp.md has the bytes. An owner executes the frames of a connection in their order, and replies in that
 * order, so ops of one connection take effect in the order in which they were posted.
 *
 * LOCKS. dev->lock protects everything of the device but active endpoints, which belong to the core's lock. The
 * progress thread holds it while it executes: what has taken it has no frame under way. dev->waiting is taken before it
 * and makes it fair: the thread would otherwise take the lock again before a waiter wakes.
 */
#ifndef DSM_FABRIC_TCP_TCP_H
#define DSM_FABRIC_TCP_TCP_H

#include "../fabric.h"
#include "../nosys.h"

#include <pthread.h>
#include <sys/uio.h>

enum {
    TCP_TOKEN = 16, /* names a passive endpoint; proves that the peer has asked for it */
    TCP_KEY = 16,   /* of a registration; never used again */
    TCP_BLOB = 4 + TCP_KEY,

    TCP_REQUEST = 48, /* bytes of the head of a request and of a reply: docs/protocols/tcp.md */
    TCP_REPLY = 24,
    TCP_OPERANDS = 16, /* that follow the head of an atomic */
    TCP_PIECES = 1024, /* of a request: more than one only where they are short */
    TCP_SHORT =
        4096, /* bytes of a piece that is copied as a whole; a longer one goes to and from its memory directly */
    TCP_READ = 1 << 17, /* bytes of a piece of a READ that has several */
    TCP_WHOLE = 1024,   /* bytes of a piece that is copied to a reply as a whole */
    TCP_MORE = 1,       /* flag of a reply: the payload follows, and after it a reply with the status */
    TCP_WINDOW = 1024,  /* atomics of a connection without an answer; the owner remembers the results of so many */
    TCP_REFUSED = 64,   /* runs of refused requests that it remembers besides */
    TCP_RECORDS = 512,  /* closed connections that an owner remembers */
};

/* Bytes of a piece of a request that has several. */
static inline uint64_t tcp_piece_most(uint8_t code) { return code == DSM_OP_READ ? TCP_READ : TCP_SHORT; }

/* A request, decoded. */
struct tcp_request {
    uint8_t code;
    uint16_t pieces;
    uint32_t slot;
    uint64_t nbytes; /* of each piece */
    uint8_t key[TCP_KEY];
    uint64_t offset; /* of the only piece */
    uint64_t number; /* of its first op on the connection */
};

struct tcp_reply {
    uint64_t number; /* of the first op that it is about */
    uint32_t ops;
    uint16_t status; /* 0 or DSM_E… */
    uint16_t flags;
    uint64_t nbytes; /* of the payload that follows */
};

struct tcp_mem {
    struct fabric_mem base;
    uint32_t slot;
    uint8_t key[TCP_KEY];
};

struct tcp_remote {
    struct fabric_remote base;
    uint32_t slot;
    uint8_t key[TCP_KEY];
};

/* A file that a forked child has to close. */
struct tcp_file {
    struct tcp_file *next;
    int fd;
};

/* What both kinds of endpoints begin with. */
struct tcp_ep {
    struct fabric_ep base;
    bool passive;
};

/* What an owner remembers of the ops that came through a passive endpoint, also after its end (record.c). */
struct tcp_record {
    struct tcp_record *next;
    struct tcp_server *server; /* NULL: it is closed */
    uint8_t token[TCP_TOKEN];
    uint64_t ended;            /* number of the first op that it has not executed; valid once it is closed */
    uint64_t known;            /* what became of ops before this one may have been overwritten */
    struct fabric_outcome *of; /* a ring of 'room', or NULL */
    uint32_t at, n, room;      /* its oldest entry; entries */
};

struct tcp_slot {
    struct tcp_mem *mem; /* NULL: free */
    uint32_t next_free;
};

struct tcp_dev {
    struct fabric_dev base;
    pthread_mutex_t waiting, lock;
    struct tcp_slot *slots;
    uint32_t nslots, free_slot; /* free_slot == nslots: none is free */
    struct tcp_file *files;
    int64_t spin_ns;
    /* the progress thread */
    pthread_t thread;
    bool started, stopping;
    struct tcp_file epoll, wake;
    struct tcp_server *ready, **ready_last; /* that have something to do */
    uint32_t nready;
    struct tcp_server *last;   /* the only one that had work when epoll was asked last; NULL: there were several */
    uint32_t streak;           /* how often in a row, at most STREAK */
    uint32_t unasked;          /* turns without asking epoll, at most STREAK */
    struct tcp_server *closed; /* to be freed by the thread */
    struct tcp_record *live, *past, **past_last; /* of endpoints that are open; closed, from the oldest on */
    uint32_t npast;
};

/* table.c */
void tcp_lock(struct tcp_dev *d);
void tcp_unlock(struct tcp_dev *d);
/* The rest under dev->lock. */
void tcp_file_add(struct tcp_dev *d, struct tcp_file *f, int fd);
void tcp_file_close(struct tcp_dev *d, struct tcp_file *f);
void tcp_settle(int fd);
int tcp_slot_take(struct tcp_dev *d, struct tcp_mem *m);
void tcp_slot_free(struct tcp_dev *d, struct tcp_mem *m);
/* The registration that a request names; NULL: it is closed, or there never was one. */
struct tcp_mem *tcp_find(struct tcp_dev *d, uint32_t slot, const uint8_t key[TCP_KEY]);

/* server.c */
int tcp_thread_start(struct tcp_dev *d);
void tcp_thread_stop(struct tcp_dev *d);
int tcp_server_open(struct tcp_dev *d, struct fabric_ep **out);
int tcp_server_address(struct fabric_ep *e, uint8_t address[FABRIC_ADDRESS_MAX]);
int tcp_server_stream(struct fabric_ep *e, int fd);
void tcp_server_abort(struct fabric_ep *e);
void tcp_server_close(struct fabric_ep *e);

int tcp_outcomes(struct fabric_dev *d, const uint8_t *address, size_t len, uint64_t from, struct fabric_outcomes *out);

/* record.c: under dev->lock */
struct tcp_record *tcp_record_new(struct tcp_dev *d, struct tcp_server *s);
void tcp_remember(struct tcp_record *r, const struct fabric_outcome *o);
/* The endpoint has been closed, and has executed the ops before number 'ended'. */
void tcp_record_end(struct tcp_dev *d, struct tcp_record *r, uint64_t ended);
/* The endpoint has been closed, and never had a connection. */
void tcp_record_drop(struct tcp_dev *d, struct tcp_record *r);
void tcp_records_free(struct tcp_dev *d);
/* In a list; NULL: it is not there. */
struct tcp_record *tcp_record_find(struct tcp_record *list, const uint8_t token[TCP_TOKEN]);
/* What became of the ops from number 'from' on. It has ended. */
void tcp_record_say(const struct tcp_record *r, uint64_t from, struct fabric_outcomes *out);

/* client.c */
int tcp_client_open(struct tcp_dev *d, struct fabric_ep **out);
void tcp_client_name(struct fabric_ep *e, const uint8_t token[TCP_TOKEN]);
int tcp_client_stream(struct fabric_ep *e, int fd);
size_t tcp_doubt(struct fabric_dev *d, const struct fabric_op *w, uint8_t address[FABRIC_ADDRESS_MAX],
                 uint64_t *number);
void tcp_op_release(struct fabric_dev *d, struct fabric_op *w);
void tcp_client_abort(struct fabric_ep *e);
void tcp_client_close(struct fabric_ep *e);
void tcp_post(struct fabric_ep *e, struct fabric_op *list);
int tcp_poll(struct fabric_ep *e);
int tcp_arm(struct fabric_ep *e);
int tcp_fd(struct fabric_ep *e);

/* frame.c */
void tcp_put_request(uint8_t out[TCP_REQUEST], const struct tcp_request *q);
void tcp_get_request(const uint8_t in[TCP_REQUEST], struct tcp_request *q);
void tcp_put_reply(uint8_t out[TCP_REPLY], const struct tcp_reply *r);
void tcp_get_reply(const uint8_t in[TCP_REPLY], struct tcp_reply *r);

#endif
