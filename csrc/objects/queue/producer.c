/* The producer's side: it puts messages into its lane. ring.h has the protocol. */
#include "ring.h"

#include "../../base/deadline.h"
#include "../../base/mapped_ops.h"
#include "../../base/stream.h"

#include <string.h>

enum {
    STREAM_MIN = 512,    /* payloads of at least this length bypass the caches */
    BATCH_BYTES = 16384, /* of records committed together; the consumer takes them while the next ones are written */
    STAGE_BYTES = 65536, /* of records that one flush sends: a WRITE of them takes longer than its round trip */
};

/* The copy of a lane is read by this process, so it stays in the cache. */
static bool streams(const dsm_queue *q, uint64_t length) { return STREAMS && q->plain && length >= STREAM_MIN; }

/* ---- records ---- */

/* Writes a header that no consumer reads before lane_publish() has stored another one. */
static void lane_prepare(dsm_queue *q, uint64_t p, uint64_t length, uint8_t kind)
{
    uint64_t at = p & q->mask, header = record_header(q, p, length, kind), *words = lane_word(q->data, at);
    if (!q->plain)
        store_relaxed_u64(words + 1, record_check(q, p, header, q->data + at + 16, length));
    if (streams(q, length))
        stream_word(words, header);
    else
        store_relaxed_u64(words, header);
}

/* SYNC pairs with record_at: a thread that load-acquires the header sees the payload. */
static void lane_publish(dsm_queue *q, uint64_t p, uint64_t length, uint8_t kind)
{
    uint64_t at = p & q->mask, header = record_header(q, p, length, kind), *words = lane_word(q->data, at);
    if (!q->plain)
        store_relaxed_u64(words + 1, record_check(q, p, header, q->data + at + 16, length));
    store_release_u64(words, header);
}

/* ---- room ---- */

static uint64_t padding_before(const dsm_queue *q, uint64_t p, uint64_t size)
{
    uint64_t left = q->config.lane_bytes - (p & q->mask);
    return size > left ? left : 0;
}

/* The bytes that a message needs from the head on: padding, its record, and the word behind it. */
static uint64_t needed(const dsm_queue *q, uint64_t length)
{
    uint64_t size = record_size(q, length);
    return padding_before(q, q->head, size) + size + 8;
}

/* SYNC pairs with dsm_queue_done: what was read before 'tail' moved may be overwritten once its new value has been
 * loaded. */
static int look_at_tail(const dsm_queue *q, uint64_t *tail)
{
    if (!q->base)
        return remote_look(q, tail, q->deadline);
    *tail = lane_tail(q, q->lane);
    return 0;
}

static bool fits(const dsm_queue *q, uint64_t need, uint64_t tail)
{
    return q->head + need - tail <= q->config.lane_bytes;
}

/* Drops the oldest message, unless a consumer takes it first. Either way there is more room. */
static int drop_oldest(dsm_queue *q)
{
    struct lane_lines *l = lane_lines(q, q->lane);
    struct record r;
    uint64_t tail = load_acquire_u64(&l->tail);
    if (tail == q->head) /* all taken meanwhile: an empty lane has room for any message */
        return 0;
    int rc = message_at(q, q->data, tail, &r);
    if (rc) /* if the tail has moved meanwhile, the caller rechecks */
        return load_acquire_u64(&l->tail) != tail
                   ? 0
                   : err_set(DSM_ECORRUPT, 0, "lane %u at %llu", q->lane, (unsigned long long)tail);
    if (compare_swap_u64(&l->tail, tail, r.next) == tail)
        store_relaxed_u64(&l->dropped, load_relaxed_u64(&l->dropped) + 1);
    return 0;
}

static int full(const dsm_queue *q)
{
    if (q->base) {
        struct lane_lines *l = lane_lines(q, q->lane);
        store_relaxed_u64(&l->full, load_relaxed_u64(&l->full) + 1);
    }
    return -DSM_EFULL;
}

/* A tail only grows, and never beyond the head. Any other value is refused and not stored, since remote_send() relies
 * on that. */
static int follow_tail(dsm_queue *q)
{
    uint64_t tail;
    int rc = look_at_tail(q, &tail);
    if (rc)
        return rc;
    if (tail - q->tail > q->head - q->tail)
        return err_set(DSM_ECORRUPT, 0, "lane %u: tail %llu, head %llu", q->lane, (unsigned long long)tail,
                       (unsigned long long)q->head);
    store_relaxed_u64(&q->tail, tail); /* read by dsm_queue_wait_room() of another thread */
    if (!q->base)
        q->looked = clock_ns();
    return 0;
}

static int make_room(dsm_queue *q, uint64_t length)
{
    uint64_t need = needed(q, length);
    while (!fits(q, need, q->tail)) {
        int rc = follow_tail(q);
        if (rc || fits(q, need, q->tail))
            return rc;
        if (!(q->config.flags & DSM_QUEUE_DROP_OLDEST))
            return full(q);
        if ((rc = drop_oldest(q)))
            return rc;
    }
    return 0;
}

/* ---- putting ---- */

static int check_put(dsm_queue *q, uint64_t length, bool commits)
{
    if (!q->producing || q->forks != load_relaxed_u32(&core_forks))
        return queue_refuse(q, "producer");
    if (commits != (q->reserved != 0))
        return commits ? err_set(DSM_EINVAL, 0, "nothing is reserved")
                       : err_set(DSM_EBUSY, 0, "a reservation is open; commit or cancel it first");
    if (length > q->config.max_message)
        return err_set(DSM_ETOOLARGE, 0, "%llu bytes, max_message is %llu", (unsigned long long)length,
                       (unsigned long long)q->config.max_message);
    if (!q->base)
        return 0;
    q->lost_lane |=
        load_relaxed_u64((const uint64_t *)(const void *)(q->base + QUEUE_PRODUCERS) + q->lane) != q->identity;
    if (__builtin_expect(q->lost_lane, 0))
        return queue_broken("producer");
    return queue_shutdown(q) ? err_set(DSM_ESHUTDOWN, 0, "put") : 0;
}

/* A remote producer reads 'shutdown' with its first message since a flush, unless its last look is recent enough. */
static int begin_put(dsm_queue *q, uint64_t length)
{
    int rc = check_put(q, length, false);
    return !rc && !q->base && !q->staged && remote_look_is_old(q) ? follow_tail(q) : rc;
}

/* Returns where the payload of the next record goes. *p: the record's position, behind padding without a header yet. */
static uint8_t *next_payload(dsm_queue *q, uint64_t length, uint64_t *p)
{
    *p = q->head + padding_before(q, q->head, record_size(q, length));
    return q->data + (*p & q->mask) + overhead(q);
}

static void copy_in(const dsm_queue *q, uint8_t *to, const uint8_t *from, uint64_t length)
{
    if (streams(q, length) && !((uintptr_t)to & 7)) /* the second part of a message may begin anywhere */
        stream_copy(to, from, length);
    else if (length) /* the address of 0 bytes may be NULL */
        mapped_copy(to, from, length);
}

/* Steps 2 to 4 for n records that end at 'next'. The first lies at p; if p is not 'from', padding lies between them.
 * The header of the padding is stored last: until then no consumer gets to what lies behind it. */
static void commit(dsm_queue *q, uint64_t from, uint64_t p, uint64_t length, uint8_t kind, uint64_t next, uint64_t n)
{
    if (q->plain)
        store_relaxed_u64(lane_word(q->data, next & q->mask), 0);
    if (streams(q, length))
        /* streamed payloads and headers become visible before the header that commits them, which record_at loads */
        stream_end();
    lane_publish(q, p, length, kind);
    if (p != from)
        lane_publish(q, from, 0, RECORD_PADDING);
    store_relaxed_u64(&q->head, next);            /* read by dsm_queue_wait_room() of another thread */
    store_relaxed_u64(&q->staged, q->staged + n); /* read by dsm_queue_staged() of another thread */
    if (q->base) {
        struct lane_lines *l = lane_lines(q, q->lane);
        store_release_u64(&l->head, next);
        store_relaxed_u64(&l->puts, load_relaxed_u64(&l->puts) + n);
    }
}

static void commit_one(dsm_queue *q, uint64_t p, uint64_t length, uint8_t kind)
{
    commit(q, q->head, p, length, kind, p + record_size(q, length), 1);
}

int dsm_queue_push(dsm_queue *q, const void *payload, uint64_t length, uint8_t kind)
{
    uint64_t p;
    int rc = begin_put(q, length);
    if (rc || (rc = make_room(q, length)))
        return rc;
    uint8_t *to = next_payload(q, length, &p);
    copy_in(q, to, payload, length);
    commit_one(q, p, length, kind);
    return 0;
}

static uint64_t length_of(const dsm_queue_part *parts, uint32_t n)
{
    uint64_t length = 0;
    for (uint32_t i = 0; i < n; i++)
        length += parts[i].nbytes;
    return length;
}

static void put_parts(dsm_queue *q, const dsm_queue_part *parts, uint32_t n, uint64_t length, uint8_t kind)
{
    uint64_t p;
    uint8_t *to = next_payload(q, length, &p);
    for (uint32_t i = 0; i < n; to += parts[i++].nbytes)
        copy_in(q, to, parts[i].bytes, parts[i].nbytes);
    commit_one(q, p, length, kind);
}

int dsm_queue_push_parts(dsm_queue *q, const dsm_queue_part *parts, uint32_t n, uint8_t kind)
{
    uint64_t length = length_of(parts, n);
    int rc = begin_put(q, length);
    if (rc || (rc = make_room(q, length)))
        return rc;
    put_parts(q, parts, n, length, kind);
    return 0;
}

int dsm_queue_stage(dsm_queue *q, const dsm_queue_part *parts, uint32_t n, uint8_t kind)
{
    uint64_t length = length_of(parts, n);
    int rc = check_put(q, length, false);
    if (rc)
        return rc;
    if ((!q->base && !q->staged && remote_look_is_old(q)) || !fits(q, needed(q, length), q->tail))
        return 1;
    put_parts(q, parts, n, length, kind);
    return 0;
}

int dsm_queue_is_due(const dsm_queue *q)
{
    uint64_t part = q->config.lane_bytes / 4;
    return q->head - q->sent >= (part < STAGE_BYTES ? part : STAGE_BYTES);
}

uint64_t dsm_queue_staged(const dsm_queue *q) { return load_relaxed_u64(&q->staged); }

/* Puts as many records as there is room for, at least one, until they have BATCH_BYTES. The header of the first is
 * stored last: until then no consumer gets past it. */
static uint64_t push_batch(dsm_queue *q, const uint8_t *from, uint64_t n, uint64_t each)
{
    uint64_t begin = q->head, first = 0, p, done = 0;
    do {
        uint8_t *to = next_payload(q, each, &p);
        if (each == 8)
            mapped_copy(to, from, 8);
        else
            copy_in(q, to, from, each);
        from += each;
        if (!done++) {
            first = p;
        } else {
            lane_prepare(q, p, each, 1);
            if (p != q->head)
                lane_prepare(q, q->head, 0, RECORD_PADDING);
        }
        store_relaxed_u64(&q->head, p + record_size(q, each));
    } while (done < n && q->head - begin < BATCH_BYTES && fits(q, needed(q, each), q->tail));
    commit(q, begin, first, each, 1, q->head, done);
    return done;
}

int64_t dsm_queue_push_records(dsm_queue *q, const void *records, uint64_t n, uint64_t each)
{
    const uint8_t *from = records;
    uint64_t done = 0;
    int rc = begin_put(q, each);
    while (!rc && done < n && !(rc = make_room(q, each)))
        done += push_batch(q, from + done * each, n - done, each);
    return done || rc == -DSM_EFULL ? (int64_t)done : rc;
}

int dsm_queue_reserve(dsm_queue *q, uint64_t length, void **out)
{
    int rc = begin_put(q, length);
    if (!rc && !length)
        return err_set(DSM_EINVAL, 0, "a reservation of 0 bytes");
    if (rc || (rc = make_room(q, length)))
        return rc;
    *out = next_payload(q, length, &q->reserved_at);
    q->reserved = (uint32_t)length;
    return 0;
}

int dsm_queue_commit(dsm_queue *q, uint64_t length, uint8_t kind)
{
    int rc = check_put(q, length, true);
    if (rc)
        return rc;
    if (length > q->reserved)
        return err_set(DSM_EINVAL, 0, "%llu bytes of a reservation of %u", (unsigned long long)length, q->reserved);
    q->reserved = 0;
    commit_one(q, q->reserved_at, length, kind);
    return 0;
}

void dsm_queue_cancel(dsm_queue *q) { q->reserved = 0; }

/* ---- flush ---- */

int dsm_queue_flush(dsm_queue *q)
{
    if (!q->staged)
        return 0;
    if (q->base) {
        eventcount_notify(queue_items(q), NOTIFY_ALL);
    } else {
        int rc = remote_look_is_old(q) ? follow_tail(q) : 0;
        if (rc || (rc = remote_send(q)))
            return rc;
    }
    q->sent = q->head;
    store_relaxed_u64(&q->staged, 0);
    return 0;
}
