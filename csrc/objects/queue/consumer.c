/* The consumer's side: it takes messages out of the lanes. ring.h has the protocol. */
#include "ring.h"

#include "../../base/mapped_ops.h"

#include <string.h>

/* Reads the record behind those that are being read, or the one at the tail. If others move the tail, what was read is
 * valid only if the tail is still where it was: otherwise the record was taken, and its bytes may be a newer message's.
 * For a record dsm_queue_done() checks that. Otherwise it is checked here, and the lane is read again if the tail has
 * moved, so 'empty' is reported only of a lane that was empty. Each repetition means that another process has taken a
 * message. */
static int look(const dsm_queue *q, uint32_t lane, uint64_t *from, struct record *out)
{
    for (;;) {
        uint64_t tail = q->taking ? q->from : lane_tail(q, lane), p = q->taking ? q->upto : tail;
        int rc = message_at(q, q->base + data_at(q, lane), p, out);
        *from = tail;
        if (!rc || !q->shared_tail || lane_tail(q, lane) == tail)
            return rc != -DSM_ECORRUPT ? rc : err_set(DSM_ECORRUPT, 0, "lane %u at %llu", lane, (unsigned long long)p);
        if (q->taking)
            return -DSM_EEMPTY; /* dsm_queue_done will report that the records were taken by another */
    }
}

static int read_lane(dsm_queue *q, uint32_t lane, const void **payload, uint64_t *length, uint8_t *kind)
{
    struct record r;
    uint64_t from;
    int rc = look(q, lane, &from, &r);
    if (rc)
        return rc;
    q->take = lane;
    q->from = from;
    q->upto = r.next;
    q->ntaken = q->taking ? q->ntaken + 1 : 1;
    q->taking = true;
    *payload = r.payload;
    *length = r.length;
    *kind = r.kind;
    return 0;
}

/* Adds the lanes that have had a producer since the last call to the active ones. */
static bool find_lanes(dsm_queue *q)
{
    uint32_t before = q->nactive;
    for (uint32_t lane = 0; lane < q->config.lanes; lane++) {
        if (!load_relaxed_u8(queue_used(q) + lane))
            continue;
        uint32_t i = 0;
        while (i < q->nactive && q->active[i] != lane)
            i++;
        if (i == q->nactive)
            q->active[q->nactive++] = lane;
    }
    return q->nactive > before;
}

static int read_any(dsm_queue *q, const void **payload, uint64_t *length, uint8_t *kind)
{
    for (uint32_t i = 0; i < q->nactive; i++) {
        uint32_t turn = q->turn;
        q->turn = turn + 1 < q->nactive ? turn + 1 : 0;
        int rc = read_lane(q, q->active[turn], payload, length, kind);
        if (rc != -DSM_EEMPTY)
            return rc;
    }
    return -DSM_EEMPTY;
}

/* Whether this handle still has the role of the one consumer. Always true with many consumers. */
static bool consumes(dsm_queue *q)
{
    const struct queue_state *s = queue_state(q);
    q->lost_consumer |= !(q->config.flags & DSM_QUEUE_MANY_CONSUMERS) && load_relaxed_u64(&s->consumer) != q->identity;
    return __builtin_expect(!q->lost_consumer, 1);
}

/* *down is read before the lanes: if a process puts and then shuts down, a consumer that sees the shutdown also sees
 * what was put. */
static int check_take(dsm_queue *q, uint32_t *down)
{
    if (!q->consuming || q->forks != load_relaxed_u32(&core_forks))
        return queue_refuse(q, "consumer");
    if (!consumes(q))
        return queue_broken("consumer");
    *down = queue_shutdown(q);
    return *down == 2 ? err_set(DSM_ESHUTDOWN, 0, "get") : 0;
}

int dsm_queue_next_here(dsm_queue *q, const void **payload, uint64_t *length, uint8_t *kind)
{
    if (__builtin_expect(!q->base, 0))
        return remote_next_here(q, payload, length, kind);
    uint32_t down;
    int rc = check_take(q, &down);
    return rc ? rc : q->taking ? read_lane(q, q->take, payload, length, kind) : -DSM_EEMPTY;
}

int dsm_queue_next(dsm_queue *q, const void **payload, uint64_t *length, uint8_t *kind)
{
    if (__builtin_expect(!q->base, 0))
        return remote_next(q, payload, length, kind);
    uint32_t down;
    int rc = check_take(q, &down);
    if (rc)
        return rc;
    if (q->taking)
        return err_set(DSM_EBUSY, 0, "a message is being read; release it first");
    rc = read_any(q, payload, length, kind);
    if (rc == -DSM_EEMPTY && find_lanes(q))
        rc = read_any(q, payload, length, kind);
    if (rc != -DSM_EEMPTY)
        return rc;
    return down ? err_set(DSM_ESHUTDOWN, 0, "get") : queue_not_yet(q);
}

/* SYNC: the store-release of tail pairs with look_at_tail of the producer. */
int dsm_queue_done(dsm_queue *q)
{
    if (!q->taking)
        return 0;
    if (__builtin_expect(!q->base, 0))
        return remote_done(q);
    struct lane_lines *l = lane_lines(q, q->take);
    q->taking = false;
    if (!q->shared_tail && !consumes(q)) { /* the tail is another handle's now */
        return -DSM_EEMPTY;
    } else if (!q->shared_tail) {
        store_release_u64(&l->tail, q->upto);
        store_relaxed_u64(&l->gets, load_relaxed_u64(&l->gets) + q->ntaken);
    } else {
        if (compare_swap_u64(&l->tail, q->from, q->upto) != q->from)
            return -DSM_EEMPTY;
        fetch_add_u64(&l->gets, q->ntaken);
    }
    /* threads of one handle, and its watch, may wait for room of different sizes */
    eventcount_notify(&l->room, NOTIFY_ALL);
    return 0;
}

void dsm_queue_undo(dsm_queue *q) { q->taking = false; }

/* Copies up to n records of the lane, from the one that has just been read. Stops before one of another length. */
static uint64_t copy_records(dsm_queue *q, uint8_t *to, uint64_t n, uint64_t each, const void *payload)
{
    const uint8_t *data = q->base ? q->base + data_at(q, q->take) : NULL;
    struct record r = {.payload = payload};
    uint64_t got = 0;
    for (;;) {
        if (each == 8)
            mapped_copy(to, r.payload, 8);
        else
            mapped_copy(to, r.payload, each);
        to += each;
        if (++got == n || (data ? message_at(q, data, q->upto, &r) : remote_behind(q, &r)) || r.length != each)
            break;
        q->upto = r.next;
        q->ntaken++;
    }
    fence_acquire();
    return got;
}

int64_t dsm_queue_pop_records(dsm_queue *q, void *out, uint64_t n, uint64_t each)
{
    uint64_t done = 0, length;
    const void *payload;
    uint8_t kind;
    int rc = 0;
    while (!rc && done < n) {
        if ((rc = dsm_queue_next(q, &payload, &length, &kind)))
            break;
        if (length != each) {
            dsm_queue_undo(q);
            rc = err_set(DSM_EMISMATCH, 0,
                         "the next message has %llu bytes, not %llu; take it with get(), or as another type",
                         (unsigned long long)length, (unsigned long long)each);
            break;
        }
        uint64_t got = copy_records(q, (uint8_t *)out + done * each, n - done, each, payload);
        if (!(rc = dsm_queue_done(q)))
            done += got;
        else if (rc == -DSM_EEMPTY && q->base) /* another consumer was faster */
            rc = 0;
        if (!q->base) /* what the next taking meets would hide that these were taken, or be hidden */
            break;
    }
    return done || rc == -DSM_EEMPTY ? (int64_t)done : rc;
}
