/*
 * Queues through a fabric: the ops of a producer whose lane is in another process's memory, and how roles are given
 * back and broken.
 *
 * Every op here may fail or lose its answer, and is then settled:
 *   READs and WRITEs of a lane are idempotent, so those that were cancelled by another thread's failure are repeated.
 *   A role is taken and given back by compare-swap on an identity that no other handle has. After a failure the entry
 *   itself shows the outcome, and giving back twice changes nothing. Until the outcome is known the handle is in doubt,
 *   and leaving searches the table.
 */
#include "../../core/remote.h"
#include "../../base/deadline.h"
#include "../backoff.h"
#include "../member.h"
#include "../sure.h"
#include "../word.h"
#include "ring.h"

#include <stdlib.h>

enum {
    OP_TRIES = 8,
    OP_NS_MIN = 20000000, /* giving up an op costs its connection, so none gets less than 20 ms */
    OP_NS_PER_BYTE = 20,  /* a transfer slower than 50 MB/s counts as lost */
};

int64_t remote_op_timeout(const dsm_queue *q, uint64_t nbytes, int64_t deadline)
{
    int64_t most = remote_timeout(q->r), left = deadline == DEADLINE_NEVER ? DEADLINE_NEVER : deadline - clock_ns();
    if (most >= 0)
        most += (int64_t)nbytes * OP_NS_PER_BYTE;
    if (left < OP_NS_MIN)
        left = OP_NS_MIN;
    return most < 0 || left < most ? left : most;
}

/* With several paths to the owner the ops can go by another one than that which was lost, or was silent, once. */
static bool is_again(const dsm_queue *q, int rc, int *silent)
{
    if (rc == -DSM_ECANCELED)
        return true;
    return q->r->ctx && peer_has_paths(q->r->peer) && (rc == -DSM_EIO || (rc == -DSM_ETIME && !(*silent)++));
}

int remote_run(const dsm_queue *q, dsm_op *ops, size_t n, int64_t deadline)
{
    uint64_t nbytes = 0;
    int rc = -DSM_ECANCELED, silent = 0;
    for (size_t i = 0; i < n; i++)
        nbytes += ops[i].nbytes;
    for (int i = 0; i < OP_TRIES && is_again(q, rc, &silent); i++)
        rc = err_known(dsm_execute(q->r->ctx, ops, n, remote_op_timeout(q, nbytes, deadline), NULL));
    return rc;
}

/* ---- tail, shutdown and role ---- */

static dsm_op read_op(const dsm_queue *q, uint64_t offset, void *to, uint64_t nbytes)
{
    return (dsm_op){.code = DSM_OP_READ, .remote = q->r, .offset = offset, .local = to, .nbytes = nbytes};
}

/* Where a READ may mix the tail with an older one, it is read so often that the bytes in which it may lie between the
 * tail as last seen and the head are proven. A thread that waits for room may have a head from before other puts: then
 * what it finds is a guess, as good as its question. */
int remote_look(const dsm_queue *q, uint64_t *tail, int64_t deadline)
{
    uint64_t state = 0, producer = 0, seen[WORD_READS_MOST], last = load_relaxed_u64(&q->tail);
    uint32_t n = remote_reads_whole(q->r) ? 1 : word_reads(last, load_relaxed_u64(&q->head));
    dsm_op ops[WORD_READS_MOST + 2];
    ops[0] = read_op(q, QUEUE_STATE + offsetof(struct queue_state, shutdown), &state, sizeof state);
    for (uint32_t i = 0; i < n; i++)
        ops[1 + i] = read_op(q, tail_at(q, q->lane), &seen[i], sizeof seen[i]);
    ops[1 + n] = read_op(q, QUEUE_PRODUCERS + 8ull * q->lane, &producer, sizeof producer);
    int rc = remote_run(q, ops, 2 + n, deadline);
    if (rc)
        return rc;
    if (producer != q->identity)
        return queue_broken("producer");
    *tail = word_at_least(last, seen, n);
    return (uint32_t)state ? err_set(DSM_ESHUTDOWN, 0, "put") : 0;
}

bool remote_look_is_old(const dsm_queue *q) { return clock_ns() - q->looked > RECHECK_NS; }

/* ---- the lane's bytes ---- */

/* Sends the bytes of the copy from one position to another: one WRITE, or two if the ring's end lies in between. */
static int write_range(const dsm_queue *q, uint64_t from, uint64_t to)
{
    dsm_op ops[2] = {{0}};
    size_t n = 0;
    for (uint64_t p = from; p < to; n++) {
        uint64_t at = p & q->mask, left = q->config.lane_bytes - at, bytes = to - p;
        bytes = bytes < left ? bytes : left;
        uint64_t whole = bytes;
        struct record r;
        if (bytes == left && !record_at(q, q->data, p, &r) && r.kind == RECORD_PADDING)
            bytes = overhead(q); /* there is nothing behind its header */
        ops[n] = (dsm_op){.code = DSM_OP_WRITE,
                          .remote = q->r,
                          .offset = data_at(q, q->lane) + at,
                          .local = q->data + at,
                          .nbytes = bytes};
        p += whole;
    }
    return n ? remote_run(q, ops, n, q->deadline) : 0;
}

/* What has been taken had arrived, although its flush may have failed. So the bytes before the tail are not sent again,
 * and the WRITEs are never longer than the lane. */
int remote_send(dsm_queue *q)
{
    if (q->sent < q->tail)
        q->sent = q->tail;
    return write_range(q, q->sent, q->head);
}

/* The tail, read 2n times in a row. With 'whole' it is read once. */
struct tails {
    uint32_t n;
    bool whole;
    uint64_t first[WORD_READS_MOST], second[WORD_READS_MOST];
};

/* With the lane's bytes, if 'lane' is set: they are read between the two halves. */
static int read_tails(const dsm_queue *q, struct tails *t, bool lane)
{
    dsm_op ops[2 * WORD_READS_MOST + 1];
    size_t n = 0;
    for (uint32_t i = 0; i < t->n; i++)
        ops[n++] = read_op(q, tail_at(q, q->lane), &t->first[i], 8);
    if (lane)
        ops[n++] = read_op(q, data_at(q, q->lane), q->data, q->config.lane_bytes);
    for (uint32_t i = 0; i < t->n && !t->whole; i++)
        ops[n++] = read_op(q, tail_at(q, q->lane), &t->second[i], 8);
    return remote_run(q, ops, n, q->deadline);
}

/* Whether t->first[0] is where a record begins, or will, and is neither before the tail as it was when the lane's bytes
 * were read, nor behind the tail of now. No process puts meanwhile, so the tail advances by a lane at most, and n equal
 * READs bound it (word.h). Then a record that is whole at its position lies there: its check says so. Without one, all
 * may have been taken; the tail stays then, and was what all the READs say. */
static bool is_start(const dsm_queue *q, const struct tails *t)
{
    struct record r;
    if (t->whole)
        return true;
    return word_equal(t->first, t->n) &&
           (!record_at(q, q->data, t->first[0], &r) || (word_equal(t->second, t->n) && t->second[0] == t->first[0]));
}

/* Reads the lane, and the tail: again as long as it is moved while it is read. */
static int read_lane(dsm_queue *q)
{
    bool whole = remote_reads_whole(q->r);
    struct tails t = {.n = whole ? 1 : word_reads(0, q->config.lane_bytes), .whole = whole};
    struct backoff backoff = BACKOFF_INIT;
    int rc = read_tails(q, &t, true);
    while (!rc && !is_start(q, &t)) {
        if (clock_ns() >= q->deadline)
            return err_set(DSM_ETIME, 0, "lane %u: its tail moved whenever it was read", q->lane);
        backoff_sleep(&backoff, q->deadline);
        rc = read_tails(q, &t, false);
    }
    q->tail = t.first[0];
    return rc;
}

static int succeed(dsm_queue *q)
{
    uint64_t more = 0, first, end;
    int rc = read_lane(q);
    if (rc)
        return rc;
    q->head = lane_walk(q, q->data, q->tail, q->tail + q->config.lane_bytes, &more);
    if (q->tail & (overhead(q) - 1) || q->head - q->tail > q->config.lane_bytes)
        return err_set(DSM_ECORRUPT, 0, "lane %u: tail %llu, head %llu", q->lane, (unsigned long long)q->tail,
                       (unsigned long long)q->head);
    return lane_wipe(q, q->data, &first, &end) ? write_range(q, first, end) : 0;
}

int remote_succeed(dsm_queue *q)
{
    q->data = aligned_alloc(4096, q->config.lane_bytes);
    if (!q->data)
        return err_set(DSM_ENOMEM, 0, "a lane of %llu bytes", (unsigned long long)q->config.lane_bytes);
    return succeed(q);
}

/* From now on every consumer looks at the lane. */
int remote_mark_used(const dsm_queue *q)
{
    uint8_t yes = 1;
    if (!q->r->ctx || remote_is_mapped(q->r))
        return dsm_write(q->r, q->map.used + q->lane, &yes, 1, -1);
    dsm_op op = {
        .code = DSM_OP_WRITE, .remote = q->r, .offset = q->map.used + q->lane, .local = &yes, .nbytes = sizeof yes};
    return remote_run(q, &op, 1, q->deadline);
}

int remote_shutdown(const dsm_queue *q, uint32_t how)
{
    dsm_op op = {.code = DSM_OP_WRITE,
                 .remote = q->r,
                 .offset = QUEUE_STATE + offsetof(struct queue_state, shutdown),
                 .local = &how,
                 .nbytes = sizeof how};
    return remote_run(q, &op, 1, DEADLINE_NEVER);
}

/* ---- roles ---- */

bool queue_is_gone(int rc) { return rc == -DSM_EPEER || rc == -DSM_ESTALE || rc == -DSM_EFENCED; }

int queue_refuse(const dsm_queue *q, const char *role)
{
    if (q->forks != load_relaxed_u32(&core_forks))
        return refuse_forked();
    return err_set(DSM_EINVAL, 0, "this handle is not a %s of the queue", role);
}

int queue_broken(const char *role)
{
    return err_set(
        DSM_ENOTHELD, 0,
        "this handle is not a %s any more: break_() took the role, or a close() that failed gave it back; close "
        "the handle and open another",
        role);
}

int role_leave(const dsm_queue *q, uint64_t at)
{
    int64_t timeout = remote_timeout(q->r), deadline = deadline_after(timeout < 0 ? 0 : 2 * timeout);
    uint64_t old;
    int rc;
    for (int i = 0; (rc = err_known(dsm_compare_swap(q->r, at, q->identity, 0, &old, timeout))) && !queue_is_gone(rc);
         i++)
        if (i + 1 >= OP_TRIES || (i && clock_ns() >= deadline))
            return rc;
    return 0;
}

int role_leave_unknown(const dsm_queue *q)
{
    uint64_t seen[LANES_MAX];
    dsm_op op = read_op(q, QUEUE_PRODUCERS, seen, 8ull * q->config.lanes);
    int rc = -DSM_EIO;
    for (int i = 0; i < 2 && rc && !queue_is_gone(rc); i++)
        rc = remote_run(q, &op, 1, DEADLINE_NEVER);
    if (rc)
        return queue_is_gone(rc) ? 0 : rc;
    for (uint32_t lane = 0; lane < q->config.lanes; lane++)
        if (seen[lane] == q->identity && (rc = role_leave(q, QUEUE_PRODUCERS + 8ull * lane)))
            return rc;
    return 0;
}

/* ---- breaking roles, by choice ---- */

int dsm_queue_producers(const dsm_queue *q, uint64_t *identities)
{
    uint64_t seen[LANES_MAX];
    int rc = q->forks != load_relaxed_u32(&core_forks) ? refuse_forked()
                                                       : sure_read(q->r, QUEUE_PRODUCERS, seen, 8ull * q->config.lanes);
    int n = 0;
    for (uint32_t lane = 0; !rc && lane < q->config.lanes; lane++)
        if (seen[lane])
            identities[n++] = seen[lane];
    return rc ? rc : n;
}

int dsm_queue_consumer(const dsm_queue *q, uint64_t *identity)
{
    if (q->forks != load_relaxed_u32(&core_forks))
        return refuse_forked();
    return sure_read(q->r, QUEUE_STATE, identity, sizeof *identity);
}

static int break_role(const dsm_queue *q, uint64_t at, uint64_t holder)
{
    uint64_t found = holder;
    int rc = SWAP_UNKNOWN;
    for (int i = 0; i < OP_TRIES && rc == SWAP_UNKNOWN && found == holder; i++)
        rc = sure_swap(q->r, at, holder, 0, &found);
    return rc == SWAP_UNKNOWN && found == holder ? err_set(DSM_EIO, 0, "%d times in a row", OP_TRIES) : rc;
}

int dsm_queue_break(const dsm_queue *q, uint64_t holder)
{
    uint64_t seen[LANES_MAX];
    int broken = 0, rc = q->forks != load_relaxed_u32(&core_forks) ? refuse_forked() : 0;
    if (!rc)
        rc = sure_read(q->r, QUEUE_PRODUCERS, seen, 8ull * q->config.lanes);
    if (rc || !holder)
        return rc;
    rc = break_role(q, QUEUE_STATE, holder);
    broken = rc == SWAP_DONE;
    for (uint32_t lane = 0; rc >= 0 && lane < q->config.lanes; lane++)
        if (seen[lane] == holder)
            broken |= (rc = break_role(q, QUEUE_PRODUCERS + 8ull * lane, holder)) == SWAP_DONE;
    return rc < 0 ? rc : broken;
}
