/*
 * The queue: lanes, each a ring of bytes with one producer, in one object.
 *
 * RECORDS. A record is a header word, in checked queues a check word too, and the payload, padded to 8 (16) bytes. It
 * is contiguous: if too little is left before the end of the ring, a padding record fills the rest. Positions count
 * bytes and never wrap (2^64 bytes take centuries); position p lies at p & (lane_bytes - 1).
 *     header = length | kind << 32 | lap << 40,  lap = (p / lane_bytes) mod 2^24
 *     kind is never 0, so neither is a header
 *
 * PLAIN lanes are mapped by every process that uses them. Invariant: the word at the true head is 0.
 *     put at p, next = p + size     1 payload at p   2 word at next := 0   3 store-release header at p
 *                                   4 head := next, puts + 1   5 notify 'items'
 *     several records at once       all of them are written, the header of the first last, which commits all
 *     killed before 3               nothing has happened; the successor starts at p
 *     killed after 3                the message is committed; the successor finds the true head by walking from the
 *                                   stored head over headers that are not 0; sleepers recheck by themselves
 *     SYNC store-release of the header at p (lane_publish) with load-acquire of the header at p (record_at)
 *     SYNC store-release of tail (dsm_queue_done) with load-acquire of tail (look_at_tail): the bytes before tail may
 *     be overwritten
 *
 * CHECKED lanes are written remotely. The bytes of a WRITE land in any order, so only the record itself shows that it
 * is whole: check = hash64(header, position, queue id, payload). A record is valid once header and check fit the
 * position at which it is expected; bytes of an earlier lap fit with probability 2^-64. Writing the same record again
 * changes nothing, so a WRITE whose outcome is unknown is simply repeated.
 * Invariant: behind the head no word is a header that fits its position, except those of the producer's own WRITE
 * under way. A WRITE that landed in part may leave such a word when its producer leaves, and so may a local producer
 * that is killed among the records of an array. Behind a successor's record it would be valid. So a successor wipes
 * these words first (lane_wipe).
 *
 * TAKING, one consumer: only the consumer moves 'tail', after it has used the payload. If it is killed before that, the
 * message is still there.
 * TAKING, many consumers, and dropping the oldest: read the record at tail, copy its payload, then tail: p -> next by
 * compare-swap. The bytes can't have been overwritten while tail was p, and tail never comes back to p. So a swap that
 * succeeds proves that the copy is good; if the swap fails, the copy is thrown away. There is no claim that a dead or
 * stopped process could hold.
 *     killed before the swap        nothing has happened
 *     killed after the swap         the message is taken
 *
 * TAKING REMOTELY, checked lanes only (remote_consumer.c): a READ copies a piece of the lane from the tail on, and the
 * checks prove the records in it. Then the tail moves by compare-swap. One consumer knows its value; if an answer is
 * lost, the word tells whether it moved, and messages that were taken so are still in the copy. Many consumers need
 * compare-swaps that exclude those of the owner's CPU.
 *
 * MIXED TAILS. Where a READ may mix an old tail with a new one (objects/word.h), a producer takes what the tail is at
 * least: less room than there is does no harm. Its successor proves the tail by equal READs.
 *
 * BROKEN ROLES. A process that is alive although break_() took its role finds that in the role's word. A local one
 * reads the word before each put or take, and before the one consumer moves a tail; a remote one reads it together with
 * 'shutdown' and the tail. Nothing stops what it does between that check and the end of the same call.
 *
 * BYTES of the object (little-endian)
 *      0   64  object header, type 2
 *     64   64  config: u32 lanes | u32 flags | u64 lane_bytes | u64 max_message | 0
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
#include "../../core/remote.h"
#include "../eventcount.h"
#include "../object.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    QUEUE_CONFIG = 64,
    QUEUE_STATE = 128,
    QUEUE_ITEMS = 192,
    QUEUE_PRODUCERS = 256,
    LANES_MAX = 1024,
    LANE_BYTES_MIN = 4096,
    RECORD_PADDING = 0xff, /* kind */
};

struct queue_config {
    uint32_t lanes, flags;
    uint64_t lane_bytes, max_message, zero[5];
};
_Static_assert(sizeof(struct queue_config) == 64, "docs/protocols/ring.md");

struct queue_state {
    uint64_t consumer;
    uint32_t shutdown, zero;
    uint64_t more[6];
};
_Static_assert(sizeof(struct queue_state) == 64, "docs/protocols/ring.md");

struct lane_lines {
    /* The producer's line. Everything before 'head' is committed, and perhaps more is. Remote producers do not store
     * 'head'. */
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

/* Offsets of the parts of the object. queue_map_of() checks the configuration first. */
struct queue_map {
    uint64_t used, lines, data, nbytes;
};
int queue_map_of(const dsm_queue_config *s, struct queue_map *out);

struct record {
    const uint8_t *payload;
    uint32_t length;
    uint8_t kind;
    uint64_t next; /* position behind the record */
};

struct dsm_queue {
    dsm_remote *r;
    uint8_t *base; /* the object as mapped here, or NULL: then this handle can only produce */
    struct queue_map map;
    dsm_queue_config config;
    uint64_t id, mask, identity;
    uint32_t forks;
    bool plain, shared_tail;

    /* remote: objects/queue/remote.c */
    int64_t deadline; /* of the call under way */
    int64_t looked;   /* when 'shutdown' was last seen to be 0 */
    /* An attempt to take the role failed, and its outcome is unknown: the table (the word) may name this handle. */
    bool in_doubt, consumer_in_doubt;
    /* The role was broken. Its word may later name the same process again, which then has the role by another
     * handle. */
    bool lost_lane, lost_consumer;

    /* as a producer */
    bool producing;
    uint32_t lane;
    uint8_t *data;        /* the lane's bytes; if base is NULL, a copy of them */
    uint64_t head;        /* records are written up to here */
    uint64_t sent;        /* the owner has the records up to here: head, except in a copy that is not flushed */
    uint64_t tail;        /* as last seen */
    uint64_t staged;      /* messages between sent and head */
    uint64_t reserved_at; /* position of a reservation's record, if 'reserved' */
    uint32_t reserved;    /* its length, 0: none */

    /* as a consumer */
    bool consuming;
    uint32_t nactive, turn; /* active[turn] is read next */
    uint32_t *active;
    bool taking; /* records [from, upto) of lane 'take' have been read and are not yet done */
    uint32_t take;
    uint64_t from, upto, ntaken;
    struct taker *taker; /* if base is NULL: objects/queue/remote_consumer.c */
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
static inline uint64_t tail_at(const dsm_queue *q, uint32_t lane)
{
    return lines_at(q, lane) + offsetof(struct lane_lines, tail);
}
static inline uint64_t data_at(const dsm_queue *q, uint32_t lane) { return q->map.data + lane * q->config.lane_bytes; }

static inline uint64_t overhead(const dsm_queue *q) { return q->plain ? 8 : 16; }
static inline uint64_t record_header(const dsm_queue *q, uint64_t p, uint64_t length, uint8_t kind)
{
    uint64_t lap = p / q->config.lane_bytes & 0xffffff;
    return length | (uint64_t)kind << 32 | lap << 40;
}

/* The word at that offset of a lane. */
static inline uint64_t *lane_word(uint8_t *data, uint64_t at) { return (uint64_t *)(void *)(data + at); }

static inline uint64_t record_size(const dsm_queue *q, uint64_t length)
{
    uint64_t unit = overhead(q); /* so that a padding record always has room for its own header */
    return unit + (length + unit - 1) / unit * unit;
}

/* The check word of a record of a checked lane, which lies before the payload. */
uint64_t record_check(const dsm_queue *q, uint64_t p, uint64_t header, const void *payload, uint64_t length);

/* Reads the record at position p of a lane whose bytes are 'data'. Returns 0, -DSM_EEMPTY or -DSM_ECORRUPT, and changes
 * nothing. The record lies within the lane whatever the bytes are, even while they change: the header is read once. */
int record_at(const dsm_queue *q, const uint8_t *data, uint64_t p, struct record *out);
/* Like record_at, but skips a padding record. */
int message_at(const dsm_queue *q, const uint8_t *data, uint64_t p, struct record *out);

/* Walks over the committed records from p on, as long as they begin before 'end'. Returns the position behind the last
 * one, and adds the number of messages to *messages. */
uint64_t lane_walk(const dsm_queue *q, const uint8_t *data, uint64_t p, uint64_t end, uint64_t *messages);
/* For a checked lane that no other process writes: zeroes every word behind the head that could be a header there.
 * Returns false if there was none; otherwise all of them lay in [*first, *end). */
bool lane_wipe(const dsm_queue *q, uint8_t *data, uint64_t *first, uint64_t *end);

/* objects/queue/remote.c */
enum { RECHECK_NS = 10000000 }; /* maximum age of the last look at 'shutdown' when a message is put or taken */
/* The timeout of an op on that many bytes: what is left of the call's time, at least OP_NS_MIN, but at most
 * remote_timeout() and OP_NS_PER_BYTE for each byte. */
int64_t remote_op_timeout(const dsm_queue *q, uint64_t nbytes, int64_t deadline);
/* Runs READs and WRITEs, which may be repeated. */
int remote_run(const dsm_queue *q, dsm_op *ops, size_t n, int64_t deadline);
/* Reads the tail and 'shutdown', and checks the role. *tail is also set if the call returns ESHUTDOWN: what the tail is
 * at least (word.h). */
int remote_look(const dsm_queue *q, uint64_t *tail, int64_t deadline);
bool remote_look_is_old(const dsm_queue *q);
int remote_send(dsm_queue *q);
/* Takes the lane over into a copy, q->data. The caller frees the copy, also after an error. */
int remote_succeed(dsm_queue *q);
int remote_mark_used(const dsm_queue *q);
int remote_shutdown(const dsm_queue *q, uint32_t how);
/* Leaving does not retry after these errors: if the owner's memory is gone, so is all that was held in it; if only the
 * path was cut, the role stays taken. */
bool queue_is_gone(int rc);
/* Changes the word at that offset from this handle's identity to 0. If the word is another one, or the memory is gone,
 * the call succeeds without effect. After an error it is to be called again. */
int role_leave(const dsm_queue *q, uint64_t at);
/* The same for every lane that has the identity. */
int role_leave_unknown(const dsm_queue *q);

/* objects/queue/remote_consumer.c */
/* Whether the role may be taken from here; allocates what that needs. */
int remote_consume(dsm_queue *q);
void remote_consumer_free(dsm_queue *q);
int remote_next(dsm_queue *q, const void **payload, uint64_t *length, uint8_t *kind);
int remote_next_here(dsm_queue *q, const void **payload, uint64_t *length, uint8_t *kind);
/* The message behind those that are being read, if the copy has it. */
int remote_behind(const dsm_queue *q, struct record *out);
int remote_done(dsm_queue *q);
/* EBUSY: the copy has messages that were taken and not returned. Finds out first what became of the last taking. */
int remote_may_leave(dsm_queue *q);
/* 0: there may be a message; -DSM_EEMPTY. Changes nothing; may run beside any other call. */
int remote_has_item(const dsm_queue *q, int64_t deadline);
/* Sleeps for up to 1 ms if the last calls found no message where remote_has_item() had said that there may be one. */
void remote_pause(const dsm_queue *q, int64_t deadline);
/* Adds to 'gets' what was taken. */
void remote_count_taken(dsm_queue *q);

/* objects/queue/remote_counts.c */
int remote_count(const dsm_queue *q, dsm_queue_counts *out);

/* The error of a call that the handle does not allow: the process has forked, or the handle does not have the role. */
int queue_refuse(const dsm_queue *q, const char *role);
/* The error of a handle that has lost its role: break_() took it, or it was given back by a close() that failed
 * afterwards. */
int queue_broken(const char *role);

/* Nothing to take, or no room: not yet, or never, if the memory's owner is gone. Mapped memory outlives it. */
static inline int queue_not_yet(const dsm_queue *q)
{
    int rc = q->base ? remote_check(q->r, 0, 8, DSM_READ) : 0;
    return rc ? rc : -DSM_EEMPTY;
}

#endif
