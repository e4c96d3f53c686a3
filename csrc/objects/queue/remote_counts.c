/*
 * The counts of a queue in another process's memory. All lanes are checked ones, so a message counts only if it is
 * whole: the bytes of all messages are read, in pieces. Changes nothing; may run beside any other call.
 */
#include "../../base/deadline.h"
#include "../../core/remote.h"
#include "../member.h"
#include "../word.h"
#include "ring.h"

#include <stdlib.h>

enum { STARTS_MOST = 16, PIECE_MIN = 1024, PIECE_MAX = 65536 };

/* What has been read of a lane: the bytes of [tail, to), each at its place in 'data'. */
struct walk {
    uint8_t *data;
    struct lane_lines lines;
    uint32_t reads;              /* of the tail: as many in a row, if they are equal, bound it (word.h) */
    uint64_t tails[WORD_BOUNDS]; /* as last seen */
    uint64_t p, to;              /* the records before p are whole */
    uint64_t messages;
};

static dsm_op read_op(const dsm_queue *q, uint64_t offset, void *to, uint64_t nbytes)
{
    return (dsm_op){.code = DSM_OP_READ, .remote = q->r, .offset = offset, .local = to, .nbytes = nbytes};
}

static size_t read_tails(const dsm_queue *q, uint32_t lane, struct walk *w, dsm_op *ops)
{
    for (uint32_t i = 0; i < w->reads; i++)
        ops[i] = read_op(q, tail_at(q, lane), &w->tails[i], 8);
    return w->reads;
}

/* Reads on up to 'end', and then the tail. */
static int read_on(const dsm_queue *q, uint32_t lane, struct walk *w, uint64_t end)
{
    uint64_t at = w->to & q->mask, bytes = end - w->to, left = q->config.lane_bytes - at;
    uint64_t first = bytes < left ? bytes : left;
    dsm_op ops[2 + WORD_BOUNDS];
    size_t n = 0;
    ops[n++] = read_op(q, data_at(q, lane) + at, w->data + at, first);
    if (first < bytes)
        ops[n++] = read_op(q, data_at(q, lane), w->data, bytes - first);
    n += read_tails(q, lane, w, ops + n);
    w->to = end;
    return remote_run(q, ops, n, DEADLINE_NEVER);
}

/* Counts the records that have been read. Returns where the next one ends, as far as is known, or 0: there is none. */
static uint64_t count_read(const dsm_queue *q, struct walk *w)
{
    for (struct record r;;) {
        uint64_t left = q->config.lane_bytes - (w->p & q->mask);
        if (w->p + 16 > w->to)
            return w->p + 16;
        uint64_t header = load_relaxed_u64(lane_word(w->data, w->p & q->mask));
        if (header != record_header(q, w->p, (uint32_t)header, (uint8_t)(header >> 32)))
            return 0;
        bool pads = (uint8_t)(header >> 32) == RECORD_PADDING;
        uint64_t bytes = pads ? 16 : record_size(q, (uint32_t)header);
        if (bytes <= left && w->p + bytes > w->to)
            return w->p + bytes;
        if (record_at(q, w->data, w->p, &r))
            return 0;
        w->messages += !pads;
        w->p = r.next;
        w->to = w->to < w->p ? w->p : w->to; /* there is nothing in padding */
    }
}

static int walk(const dsm_queue *q, uint32_t lane, struct walk *w, uint64_t tail)
{
    uint64_t limit = tail + q->config.lane_bytes, piece = PIECE_MIN, next = 0;
    int rc = 0;
    w->p = w->to = tail;
    w->messages = 0;
    do {
        uint64_t end = w->to + piece;
        end = end < next ? next : end;
        rc = read_on(q, lane, w, end < limit ? end : limit);
        next = rc ? 0 : count_read(q, w);
        piece = 2 * piece < PIECE_MAX ? 2 * piece : PIECE_MAX;
    } while (next && w->to < limit);
    return rc;
}

/* Whether what was counted from 'tail' on is a count of the lane. It is not if all of it has been taken meanwhile, as
 * there may be more that was not found behind it. A tail that is only bounded need not be where a message begins. If
 * one was found there, it is; if none was, the tail must be the same now, and so was that. */
static bool is_count(const struct walk *w, uint64_t tail)
{
    return word_equal(w->tails, w->reads) && (w->tails[0] == tail || (w->p > tail && w->tails[0] < w->p));
}

static int count_lane(const dsm_queue *q, uint32_t lane, uint8_t *data, dsm_queue_counts *out)
{
    struct walk w = {.data = data, .reads = remote_reads_whole(q->r) ? 1 : WORD_BOUNDS};
    dsm_op ops[1 + WORD_BOUNDS];
    size_t n = read_tails(q, lane, &w, ops);
    ops[n++] = read_op(q, lines_at(q, lane), &w.lines, sizeof w.lines);
    int rc = remote_run(q, ops, n, DEADLINE_NEVER);
    uint64_t tail = w.tails[0];
    for (int i = 0; !rc && i < STARTS_MOST; i++) {
        bool bounded = word_equal(w.tails, w.reads);
        tail = w.tails[0];
        if (tail & (overhead(q) - 1))
            return err_set(DSM_ECORRUPT, 0, "lane %u: tail %llu", lane, (unsigned long long)tail);
        rc = walk(q, lane, &w, tail);
        if (bounded && is_count(&w, tail))
            break;
    }
    if (rc)
        return rc;
    w.messages += !w.messages && w.lines.tail != tail; /* one of those that were taken meanwhile: it was not empty */
    out->messages += w.messages;
    out->puts += w.lines.gets + w.messages;
    out->gets += w.lines.gets;
    out->dropped += w.lines.dropped;
    out->full += w.lines.full;
    if (w.p - tail > out->bytes)
        out->bytes = w.p - tail;
    return 0;
}

static uint32_t count_alive(const dsm_queue *q, const uint64_t *producers)
{
    uint8_t ended[LANES_MAX];
    uint32_t alive = 0;
    members_ended(q->r, producers, q->config.lanes, ended);
    for (uint32_t lane = 0; lane < q->config.lanes; lane++)
        alive += producers[lane] && !ended[lane];
    return alive;
}

int remote_count(const dsm_queue *q, dsm_queue_counts *out)
{
    uint64_t state[2], producers[LANES_MAX];
    uint8_t used[LANES_MAX];
    dsm_op ops[] = {
        read_op(q, QUEUE_STATE, state, sizeof state),
        read_op(q, QUEUE_PRODUCERS, producers, 8ull * q->config.lanes),
        read_op(q, q->map.used, used, q->config.lanes),
    };
    int rc = remote_run(q, ops, 3, DEADLINE_NEVER);
    uint8_t *data = rc ? NULL : aligned_alloc(4096, q->config.lane_bytes);
    if (!rc && !data)
        rc = err_set(DSM_ENOMEM, 0, "a copy of a lane, %llu bytes", (unsigned long long)q->config.lane_bytes);
    for (uint32_t lane = 0; !rc && lane < q->config.lanes; lane++)
        if (used[lane])
            rc = count_lane(q, lane, data, out);
    free(data);
    if (rc)
        return rc;
    out->shutdown = (uint32_t)state[1];
    out->producers = count_alive(q, producers);
    return 0;
}
