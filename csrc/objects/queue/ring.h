/*
 * The queue: lanes, each a ring of bytes with one producer, in one object.
 *
 * RECORDS. A record is a header word, in checked queues a check word too, and the payload, padded to 8 (16) bytes. It
 * lies in one piece: where the end of the ring is too near, a padding record fills it. Positions count bytes forever
 * and never wrap (2^64 bytes take centuries); position p lies at p & (lane_bytes - 1).
 *     header = length | kind << 32 | lap << 40,  lap = (p / lane_bytes) mod 2^24;  kind is never 0, so neither is a
 *     header
 *
 * PLAIN lanes are mapped by everybody. Invariant: the word at the true head is 0.
 *     put at p, next = p + size     1 payload at p   2 word at next := 0   3 publish header at p   4 head := next, puts
 *     + 1   5 ring 'items' several records at once: all of them are written, the header of the first last, which
 *     publishes all. killed before 3: nothing has happened; the successor starts at p.  after 3: the message is
 *     committed; the successor finds the true head by walking from the stored head over headers that are not 0;
 *     sleepers look again by themselves. SYNC publish header at p (lane_publish) with observe header at p (record_at)
 *     SYNC publish tail (dsm_queue_done) with observe tail (look_at_tail): the bytes before tail may be overwritten
 *
 * CHECKED lanes are written remotely. The bytes of a WRITE land in any order, so nothing but the record itself says
 * that it is whole: check = hash64(header, position, queue id, payload). A record counts once header and check fit the
 * position at which it is expected; what an earlier lap has left there fits with probability 2^-64. Writing the same
 * record again changes nothing, so a WRITE whose outcome is unknown is simply repeated.
 * Invariant: behind the head no word is a header that fits its position, but for those of the producer's own WRITE
 * under way. A WRITE that landed in part may leave such a one when its producer leaves, as may a producer here that is
 * killed among the records of an array; behind a successor's record it would count. So who succeeds wipes them first
 * (lane_wipe).
 *
 * TAKING, one consumer: it alone moves 'tail', after it has used the payload. Killed before that, the message is still
 * there. TAKING, many consumers, and dropping the oldest: read the record at tail, copy its payload, then tail: p ->
 * next by compare-swap. The bytes cannot have been overwritten while tail was p, and tail never comes back to p, so a
 * swap that succeeds proves the copy good; one that fails throws it away. There is no claim that a dead or stopped
 * process could hold.
 *     killed before the swap: nothing has happened.  after: the message is taken.
 *
 * BROKEN ROLES. Who is alive although break_() took its role looks at the role's word before each put or take at home,
 * and from remote together with 'shutdown' and the tail. What it does between that look and the end of the same call,
 * nothing stops.
 *
 * BYTES of the object (little-endian)
 *      0   64  object header, type 2
 *     64   64  shape: u32 lanes | u32 flags | u64 lane_bytes | u64 max_message | 0
 *    128   64  state: u64 consumer's identity, 0 if none | u32 shutdown (0 no, 1 drain, 2 at once) | u32 0 | 0
 *    192   64  eventcount 'items' | 0
 *    256    n  producers: u64 identity of each lane's producer, 0 if none; padded to 64
 *           n  used: u8 per lane, 1 once it has had a producer; padded to 64
 *         256  per lane: its lines, struct lane_lines
 *              at the next multiple of 4096: lane_bytes per lane
 */
#ifndef DSM_OBJECTS_QUEUE_RING_H
#define DSM_OBJECTS_QUEUE_RING_H

#include "../../base/atomic.h"
#include "../../core/core.h"
#include "../eventcount.h"
#include "../object.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    QUEUE_SHAPE = 64,
    QUEUE_STATE = 128,
    QUEUE_ITEMS = 192,
    QUEUE_PRODUCERS = 256,
    LANES_MAX = 1024,
    LANE_BYTES_MIN = 4096,
    RECORD_PADDING = 0xff, /* kind */
};

struct queue_shape {
    uint32_t lanes, flags;
    uint64_t lane_bytes, max_message, zero[5];
};
_Static_assert(sizeof(struct queue_shape) == 64, "docs/protocols/ring.md");

struct queue_state {
    uint64_t consumer;
    uint32_t shutdown, zero;
    uint64_t more[6];
};
_Static_assert(sizeof(struct queue_state) == 64, "docs/protocols/ring.md");

struct lane_lines {
    /* The producer's line. Up to 'head' all is committed, perhaps more is; producers remotely do not keep it. */
    _Alignas(64) uint64_t head;
    uint64_t puts; /* messages committed */
    uint64_t dropped;
    uint64_t full;              /* times that there was no room */
    _Alignas(64) uint64_t tail; /* the consumers' line */
    uint64_t gets;
    _Alignas(64) struct eventcount room;
    _Alignas(64) uint64_t zero[8];
};
_Static_assert(sizeof(struct lane_lines) == 256 && offsetof(struct lane_lines, tail) == 64 &&
                   offsetof(struct lane_lines, room) == 128,
               "docs/protocols/ring.md");

/* Where things lie, from a shape that has been checked. */
struct queue_map {
    uint64_t used, lines, data, nbytes;
};
int queue_map_of(const dsm_queue_config *s, struct queue_map *out);

struct record {
    const uint8_t *payload;
    uint32_t length;
    uint8_t kind;
    uint64_t next; /* position behind it */
};

struct dsm_queue {
    dsm_remote *r;
    uint8_t *base; /* the object as mapped here, or NULL: then this handle can only produce */
    struct queue_map map;
    dsm_queue_config shape;
    uint64_t id, mask, identity;
    uint32_t forks;
    bool plain, shared_tail;

    /* remote: queue_remote.c */
    int64_t deadline; /* of the call under way */
    int64_t looked;   /* when 'shutdown' was last seen to be 0 */
    /* A try to take the role failed: the table (the word) may name this handle, although it does not know. */
    bool in_doubt, consumer_in_doubt;
    /* The role was broken. Its word may name this handle's process again: as the holder of another handle. */
    bool lost_lane, lost_consumer;

    /* as a producer */
    bool producing;
    uint32_t lane;
    uint8_t *data;        /* the lane's bytes; where base is NULL, a copy of them */
    uint64_t head;        /* up to here records are written */
    uint64_t sent;        /* up to here the owner has them: head, but for a copy that is not flushed */
    uint64_t tail;        /* as last seen */
    uint64_t staged;      /* messages between sent and head */
    uint64_t reserved_at; /* position of a reservation's record, if 'reserved' */
    uint32_t reserved;    /* its length, 0: none */

    /* as a consumer */
    bool consuming;
    uint32_t nactive, turn; /* active[turn % nactive] is looked at next */
    uint32_t *active;
    bool taking; /* records [from, upto) of lane 'take' are read and not yet done */
    uint32_t take;
    uint64_t from, upto, ntaken;
};

static inline struct queue_state *queue_state(const dsm_queue *q)
{
    return (struct queue_state *)(void *)(q->base + QUEUE_STATE);
}
/* SYNC pairs with dsm_queue_shutdown. */
static inline uint32_t queue_shutdown(const dsm_queue *q)
{
    const struct queue_state *s = queue_state(q);
    return load_acquire_u32(&s->shutdown);
}
static inline struct eventcount *queue_items(const dsm_queue *q)
{
    return (struct eventcount *)(void *)(q->base + QUEUE_ITEMS);
}
static inline uint8_t *queue_used(const dsm_queue *q) { return q->base + q->map.used; }
static inline struct lane_lines *lane_lines(const dsm_queue *q, uint32_t lane)
{
    return (struct lane_lines *)(void *)(q->base + q->map.lines) + lane;
}
static inline uint64_t lane_tail(const dsm_queue *q, uint32_t lane)
{
    const struct lane_lines *l = lane_lines(q, lane);
    return load_acquire_u64(&l->tail);
}
static inline uint64_t lines_at(const dsm_queue *q, uint32_t lane)
{
    return q->map.lines + lane * (uint64_t)sizeof(struct lane_lines);
}
static inline uint64_t data_at(const dsm_queue *q, uint32_t lane) { return q->map.data + lane * q->shape.lane_bytes; }

static inline uint64_t overhead(const dsm_queue *q) { return q->plain ? 8 : 16; }
static inline uint64_t record_header(const dsm_queue *q, uint64_t p, uint64_t length, uint8_t kind)
{
    uint64_t lap = p / q->shape.lane_bytes & 0xffffff;
    return length | (uint64_t)kind << 32 | lap << 40;
}

/* The word at that offset of a lane. */
static inline uint64_t *lane_word(uint8_t *data, uint64_t at) { return (uint64_t *)(void *)(data + at); }

static inline uint64_t record_size(const dsm_queue *q, uint64_t length)
{
    uint64_t unit = overhead(q); /* so that a padding record always has room for its own header */
    return unit + (length + unit - 1) / unit * unit;
}

/* What stands before the payload of a record of a checked lane. */
uint64_t record_check(const dsm_queue *q, uint64_t p, uint64_t header, const void *payload, uint64_t length);

/* The record at position p of a lane whose bytes are 'data': 0, -DSM_EEMPTY, or -DSM_ECORRUPT. Changes nothing.
 * Whatever the bytes are, also while they change, the answer lies within the lane: the header is read once. */
int record_at(const dsm_queue *q, const uint8_t *data, uint64_t p, struct record *out);
/* Like record_at, over a padding record. */
int message_at(const dsm_queue *q, const uint8_t *data, uint64_t p, struct record *out);

/* From p on, but not beyond 'end': the position behind the last committed record. *messages grows by what is passed. */
uint64_t lane_walk(const dsm_queue *q, const uint8_t *data, uint64_t p, uint64_t end, uint64_t *messages);
/* Of a checked lane that nobody else writes: zeroes every word behind the head that could be a header there. false:
 * there was none; else all of them lay in [*first, *end). */
bool lane_wipe(const dsm_queue *q, uint8_t *data, uint64_t *first, uint64_t *end);

/* queue_remote.c. *tail, which is set before ESHUTDOWN too. */
int remote_look(const dsm_queue *q, uint64_t *tail, int64_t deadline);
bool remote_look_is_old(const dsm_queue *q);
int remote_send(dsm_queue *q);
/* Makes the copy of the lane, which is the caller's to free after an error, too. */
int remote_succeed(dsm_queue *q);
int remote_mark_used(const dsm_queue *q);
int remote_shutdown(const dsm_queue *q, uint32_t how);
/* The identity at that offset becomes 0; where it is not there, or the memory is gone, nothing. After an error: call it
 * again. */
int role_leave(const dsm_queue *q, uint64_t at);
/* The same of every lane that has the identity. */
int role_leave_unknown(const dsm_queue *q);

/* Why a call on the handle can't be: the process has forked, or the role is not taken. */
int queue_refuse(const dsm_queue *q, const char *role);
/* It has the role no more, since somebody has answered for it that this handle is gone, or by a close() that failed
 * afterwards. */
int queue_broken(const char *role);

#endif
