/*
 * A model of RC devices: a libibverbs for hosts that have none, which behaves as hardware may and SoftRoCE does not.
 *
 * Each process that opens a device has one engine, a thread that is the NIC of that process: it sends what was posted
 * (requester.c) and serves what arrives (responder.c), so no code of the owner of memory takes part. Engines exchange
 * packets over datagram sockets in a common folder (engine.c). Packets may be lost there, and are sent again, as RC
 * does it: packet sequence numbers, go-back-N, duplicates answered without being executed twice.
 *
 * What a reliable connection guarantees, and what the model therefore keeps in all its habits (InfiniBand Architecture
 * Specification, Volume 1: "Transaction Ordering", and the table "Work Request Operation Ordering"):
 *   - requests of one queue pair start in the order in which they were posted, and complete in that order
 *   - a responder executes WRITEs and ATOMICs in the order of their messages; READs in theirs
 *   - what follows a READ or an ATOMIC may overtake it at the responder, unless it is fenced
 *   - a completed READ or ATOMIC has its result in local memory; until then the buffer may hold anything
 *   - a completed WRITE has been received; its bytes are in memory once a later READ or ATOMIC of the same queue pair
 *     has taken effect. Within a message no order of bytes is promised
 *   - a queue pair in the error state executes nothing that arrives ("QP State Transition Properties": queue processing
 *     is stopped). When it is destroyed what it had begun before is in memory, and nothing of it comes later
 *   - an ATOMIC is executed exactly once, also when packets are lost; atomic towards atomics of the same device only
 *
 * PLAN. $MODELDEV and modeldev_plan() take items "name=value" joined by "&"; plan.c has the names. dir is mandatory.
 */
#ifndef DSM_TESTS_MODELDEV_MODEL_H
#define DSM_TESTS_MODELDEV_MODEL_H

#include <infiniband/verbs.h>
#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_DEVICES = 4,
    MAX_PORTS = 4,
    MAX_SGE = 4,
    MAX_GIDS = 8,
    MAX_INLINE = 1024,
    MTU_MAX = 4096,
    QP_BITS = 10, /* queue pairs of one engine; the rest of the 24 bits of a number is the engine's */
    WINDOW = 64,  /* packets that a requester may have outstanding */
    ACK_EVERY = 8,
    CHUNK = 8,   /* packets of a READ that are read together, in any order */
    SAVED = 256, /* results of ATOMICs that a responder keeps for duplicates */
};
enum { ATOMICS_NONE, ATOMICS_NIC, ATOMICS_GLOBAL };
enum { LINK_IB, LINK_ROCE };

/* plan.c says what each item does. */
struct plan {
    char dir[80];
    int64_t seed, host, devices, ports, iwarp, link, grh, mtu, reads, serves, depth, inlined, message, sges, regs, gids,
        pkey;
    int64_t scatter, tear, pause, late, overtake, atomics, window, lose, restart, keys;
    int64_t stall, hang, cut, down, noroute, full, pin, stuck, fatal, unplug;
};

/* ---- what the verbs hand out: each begins with the struct of infiniband/verbs.h ---- */

struct device {
    struct ibv_device v;
    int index; /* -1: the iWARP adapter */
    bool dead, gone;
    struct request *atomic; /* the ATOMIC that its unit executes now */
};

struct event {
    struct ibv_async_event v;
    struct event *next;
};

struct context {
    struct device *dev;
    struct event *events;
    int pds, cqs, channels;
    struct context *next;
    struct verbs_context v; /* last: the struct ibv_context at its end is what the caller sees */
};

struct pd {
    struct ibv_pd v;
    int users;
};

struct mr {
    struct ibv_mr v;
    struct device *dev;
    uint64_t wire; /* the address of its first byte for requests */
    int access;
};

struct channel {
    struct ibv_comp_channel v;
    struct cq *ready[64]; /* with an event that has not been read */
    unsigned nready;
};

struct cq {
    struct ibv_cq v;
    pthread_mutex_t lock;
    struct ibv_wc *wc;
    uint32_t room, head, tail; /* tail is also read without the lock */
    bool armed, broken;
    int qps;
    unsigned unread, unacked; /* completion events; under the engine's lock */
    unsigned events, events_acked;
};

/* A work request in a send queue. */
struct wqe {
    struct ibv_send_wr w;
    struct ibv_sge sge[MAX_SGE];
    uint8_t bytes[MAX_INLINE];
    uint32_t nbytes, psn, packets; /* psn: of the first packet, once it has been sent */
    uint32_t done;                 /* packets sent (WRITE, ATOMIC), responses placed (READ) */
    bool numbered, sent;
    enum ibv_wc_status status;
};

/* A request packet that a responder has accepted, until it is executed and answered. */
struct request {
    struct request *next;
    uint8_t op, flags;
    uint32_t psn, packets, rkey, nbytes, answered;
    uint64_t at, operand, swap, old;
    struct mr *mr;                          /* once its key was looked up */
    uint32_t grain;                         /* bytes of a piece; they end at multiples of it */
    uint32_t pieces, placed, first, stride; /* placed in the order first + k * stride */
    uint32_t ready;                         /* READ: packets whose bytes are in data */
    uint8_t state, nak;
    bool duplicate;
    int64_t due;
    uint8_t *data;
};

struct qp {
    struct ibv_qp v;
    struct context *ctx;
    struct ibv_qp_cap cap;
    struct qp *next;
    enum ibv_qp_state state;
    int access;
    uint8_t port, gid_index, timeout, retries;
    uint16_t pkey;
    struct ibv_ah_attr ah;
    uint32_t mtu, dest;
    unsigned events; /* asynchronous ones that are not acknowledged */
    bool signal_all;
    /* the requester */
    struct wqe *sq;
    uint32_t head, tail, send; /* send: the next one of which packets are to be sent */
    uint32_t next_psn, una;    /* una: the oldest packet that is not acknowledged */
    uint32_t max_reads, reads; /* READs and ATOMICs that are outstanding */
    uint32_t tries;
    bool resent; /* because of a gap, and nothing has been answered since */
    int64_t timer;
    /* the responder */
    uint32_t epsn, serves, serving;
    bool naked; /* a gap was reported; reset when the expected packet arrives */
    int64_t pause;
    struct request *first, *last, *late;
    struct {
        uint32_t psn;
        uint64_t old;
    } saved[SAVED];
    uint32_t nsaved;
};

/* ---- packets ---- */

enum { P_WRITE = 1, P_READ, P_ATOMIC_ADD, P_ATOMIC_SWAP, P_ACK, P_READ_RESPONSE, P_ATOMIC_RESPONSE, P_NAK };
enum { F_FIRST = 1, F_LAST = 2, F_ACK = 4, F_GLOBAL = 8 };
enum { NAK_SEQUENCE = 1, NAK_INVALID, NAK_ACCESS };

struct packet {
    uint32_t magic, bytes; /* of this packet, with this head */
    uint8_t op, flags, link, nak;
    uint16_t dlid, pkey;
    uint32_t dest, source, psn, rkey, nbytes;
    uint64_t at, operand, swap;
    uint8_t dgid[16];
};

/* ---- the engine of this process ---- */

struct route {
    uint32_t id;
    uint8_t *bytes;
    size_t n, room;
    struct route *next;
};

struct nic {
    pthread_mutex_t lock;
    pthread_cond_t acked; /* an event was acknowledged */
    struct plan plan;
    bool running, stop, sleeping;
    pthread_t thread;
    int sock, wake;
    uint32_t id, next_qp;
    uint64_t random, packets, executed;
    struct device devices[MAX_DEVICES + 1];
    struct context *contexts;
    struct qp *qps, *table[1 << QP_BITS];
    struct mr **mrs;
    uint32_t mrs_room, mrs_count, next_mr;
    struct route *routes;
    uint64_t dropped;  /* packets that no queue pair took */
    uint64_t overruns; /* of completion queues */
    uint64_t answers;  /* packets of responses to READs */
    uint64_t torn;     /* registrations that went while a request of this process used them */
};
extern struct nic nic;

#define MODEL_FAIL(...) \
    do { \
        fprintf(stderr, "modeldev: " __VA_ARGS__); \
        fputc('\n', stderr); \
        abort(); \
    } while (0)

/* plan.c */
void plan_load(void); /* from $MODELDEV, once */
int modeldev_plan(const char *items);
uint64_t modeldev_count(const char *what);
uint64_t random_below(uint64_t n); /* under nic.lock */
int64_t now_ns(void);

/* engine.c */
int engine_start(void); /* under nic.lock; 0 or an errno */
void engine_stop(void); /* not under nic.lock */
void engine_wake(void); /* under nic.lock */
/* A packet to q's peer, with room for a payload behind it; its address is filled in. Valid until the next one. */
struct packet *engine_packet(struct qp *q, uint32_t op, uint32_t psn, uint32_t payload);
void post_event(struct context *c, enum ibv_event_type type, void *element);
void device_dies(struct device *d, bool gone);
uint16_t port_lid(int64_t host, int device, int port);
int port_gid(int64_t host, int device, int port, int index, union ibv_gid *out); /* its type: 0 IB, 1 v1, 2 v2 */
struct device *device_of(const struct qp *q);

/* memory.c: all under nic.lock */
struct mr *mr_find(struct qp *q, uint32_t key, uint64_t at, uint64_t nbytes, int access);
uint8_t *mr_byte(const struct mr *m, uint64_t at); /* where it is here */
void copy_words(uint8_t *to, const uint8_t *from, size_t n);
/* Between a flat buffer and the local side of a request, from byte 'offset' on. */
enum ibv_wc_status local_copy(struct qp *q, struct wqe *w, uint32_t offset, uint8_t *flat, uint32_t n, bool gather);
void cq_push(struct cq *c, const struct ibv_wc *wc);

/* requester.c: all under nic.lock */
bool requester_step(struct qp *q, int64_t now); /* whether it did something */
void requester_answer(struct qp *q, const struct packet *p, const uint8_t *payload);
void requester_flush(struct qp *q);
void qp_error(struct qp *q);
bool is_atomic(const struct wqe *w);

/* responder.c: all under nic.lock */
extern void (*modeldev_tears)(const uint8_t *at); /* if set, called before a byte of a torn READ is read */
bool responder_step(struct qp *q, int64_t now);
void responder_request(struct qp *q, const struct packet *p, const uint8_t *payload);
void responder_forget(struct qp *q);
void responder_settle(struct mr *m); /* what was accepted for this memory and may still be placed is placed now */
int64_t responder_due(const struct qp *q);

static inline int32_t psn_diff(uint32_t a, uint32_t b) { return (int32_t)((a - b) << 8) >> 8; }
static inline uint32_t psn_add(uint32_t a, uint32_t n) { return (a + n) & 0xffffff; }
static inline uint32_t packets_of(const struct qp *q, uint32_t nbytes)
{
    return nbytes ? (nbytes + q->mtu - 1) / q->mtu : 1;
}

#endif
