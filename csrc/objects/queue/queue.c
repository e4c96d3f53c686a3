/* The queue as an object: configuration, handles and their roles, counts, shutdown. See ring.h. */
#include "../../base/deadline.h"
#include "../../core/remote.h"
#include "../member.h"
#include "ring.h"

#include "../../base/mapped_ops.h"

#include <stdlib.h>
#include <string.h>

/* ---- configuration ---- */

static uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

static int check_config(const dsm_queue_config *s)
{
    uint64_t unit = s->flags & DSM_QUEUE_CHECKED ? 16 : 8;
    if (!s->lanes || s->lanes > LANES_MAX)
        return err_set(DSM_EINVAL, 0, "%u producers; there may be 1 to %d", s->lanes, LANES_MAX);
    if (s->lane_bytes < LANE_BYTES_MIN || s->lane_bytes > UINT64_C(1) << 40 || s->lane_bytes & (s->lane_bytes - 1))
        return err_set(DSM_EINVAL, 0, "lanes of %llu bytes; a power of 2 from %d to 2^40",
                       (unsigned long long)s->lane_bytes, LANE_BYTES_MIN);
    if (!s->max_message || s->max_message > s->lane_bytes / 2 - unit || s->max_message > UINT32_MAX - 16)
        return err_set(
            DSM_EINVAL, 0,
            "max_message %llu does not fit lanes of %llu bytes, which take 1 to %llu; take more capacity_bytes",
            (unsigned long long)s->max_message, (unsigned long long)s->lane_bytes,
            (unsigned long long)(s->lane_bytes / 2 - unit));
    if (s->flags > 7 || ((s->flags & DSM_QUEUE_CHECKED) && (s->flags & DSM_QUEUE_DROP_OLDEST)))
        return err_set(DSM_EINVAL, 0, "a queue that is written remotely drops nothing; leave out drop_oldest");
    return 0;
}

int queue_map_of(const dsm_queue_config *s, struct queue_map *out)
{
    int rc = check_config(s);
    if (rc)
        return rc;
    out->used = QUEUE_PRODUCERS + round_up(8ull * s->lanes, 64);
    out->lines = out->used + round_up(s->lanes, 64);
    out->data = round_up(out->lines + s->lanes * (uint64_t)sizeof(struct lane_lines), 4096);
    out->nbytes = out->data + s->lanes * s->lane_bytes;
    return 0;
}

uint64_t dsm_queue_nbytes(const dsm_queue_config *s)
{
    struct queue_map map;
    return queue_map_of(s, &map) ? 0 : map.nbytes;
}

int dsm_queue_format(void *memory, const dsm_queue_config *s)
{
    struct queue_map map;
    int rc = queue_map_of(s, &map);
    if (rc)
        return rc;
    *(struct queue_config *)(void *)((uint8_t *)memory + QUEUE_CONFIG) = (struct queue_config){
        .lanes = s->lanes, .flags = s->flags, .lane_bytes = s->lane_bytes, .max_message = s->max_message};
    return object_format(memory, DSM_QUEUE, map.nbytes);
}

/* ---- handles ---- */

static int look_up(dsm_queue *q)
{
    struct object_header h;
    struct queue_config s;
    int rc = object_check(q->r, DSM_QUEUE, &h);
    if (!rc && h.nbytes < QUEUE_PRODUCERS)
        return err_set(DSM_ECORRUPT, 0, "a queue of %llu bytes", (unsigned long long)h.nbytes);
    if (!rc)
        rc = dsm_read(q->r, QUEUE_CONFIG, &s, sizeof s, remote_timeout(q->r));
    if (rc)
        return rc;
    q->config = (dsm_queue_config){
        .lanes = s.lanes, .flags = s.flags, .lane_bytes = s.lane_bytes, .max_message = s.max_message};
    if (queue_map_of(&q->config, &q->map) || q->map.nbytes != h.nbytes)
        return err_set(DSM_ECORRUPT, 0, "invalid queue header: lanes=%u, lane_bytes=%llu, max_message=%llu", s.lanes,
                       (unsigned long long)s.lane_bytes, (unsigned long long)s.max_message);
    q->id = h.id;
    q->mask = s.lane_bytes - 1;
    q->plain = !(s.flags & DSM_QUEUE_CHECKED);
    q->shared_tail = s.flags & (DSM_QUEUE_MANY_CONSUMERS | DSM_QUEUE_DROP_OLDEST);
    if (q->plain && !q->base)
        return err_set(DSM_ENOTMAPPED, 0,
                       "the queue serves its own host; make it in a context, or by the address of a server, to use it "
                       "from others");
    return 0;
}

int dsm_queue_open(dsm_remote *r, void *local, dsm_queue **out)
{
    dsm_queue *q = calloc(1, sizeof *q);
    if (!q)
        return err_set(DSM_ENOMEM, 0, "queue");
    q->r = r;
    q->base = local ? local : dsm_remote_mapped(r);
    q->forks = load_relaxed_u32(&core_forks);
    q->deadline = DEADLINE_NEVER;
    int rc = look_up(q);
    if (!rc)
        rc = member_identity(r, &q->identity); /* remote: private to the handle, even on this host */
    if (!rc && !(q->active = calloc(q->config.lanes, sizeof *q->active)))
        rc = err_set(DSM_ENOMEM, 0, "queue");
    if (rc)
        free(q);
    else
        *out = q;
    return rc;
}

void dsm_queue_get_config(const dsm_queue *q, dsm_queue_config *out) { *out = q->config; }
void dsm_queue_set_timeout(dsm_queue *q, int64_t timeout_ns) { q->deadline = deadline_after(timeout_ns); }

/* A role is given back only once. After an error, the next call goes on with the roles that are left. */
int dsm_queue_leave(dsm_queue *q)
{
    int rc = 0;
    if (q->forks != load_relaxed_u32(&core_forks))
        return 0;
    q->deadline = DEADLINE_NEVER;
    if (q->consuming && !q->lost_consumer && (rc = remote_may_leave(q)) && !queue_is_gone(rc) && !q->lost_consumer)
        return rc;
    rc = 0;
    if ((q->producing && !q->lost_lane) || q->in_doubt) {
        rc = q->producing ? role_leave(q, QUEUE_PRODUCERS + 8ull * q->lane) : role_leave_unknown(q);
        if (!rc)
            q->producing = q->in_doubt = false;
    }
    if (q->consuming && !q->lost_consumer)
        remote_count_taken(q);
    if (q->consumer_in_doubt || (q->consuming && !q->lost_consumer && !(q->config.flags & DSM_QUEUE_MANY_CONSUMERS))) {
        int other = role_leave(q, QUEUE_STATE);
        if (other)
            return other;
    }
    q->consuming = q->consumer_in_doubt = false;
    return rc;
}

void dsm_queue_free(dsm_queue *q)
{
    if (!q->base)
        free(q->data);
    remote_consumer_free(q);
    free(q->active);
    free(q);
}

int dsm_queue_close(dsm_queue *q)
{
    int rc = dsm_queue_leave(q);
    if (!rc)
        dsm_queue_free(q);
    return rc;
}

/* ---- the producer's role ---- */

/* Takes over what the last producer of the lane has left. It may have committed a message beyond the stored head. That
 * message may have been taken already, so the tail may be beyond the stored head too. What lies there is whole, since
 * no process has written behind it. Remote producers store no head, so a checked lane is walked from its tail. */
static int succeed_mapped(dsm_queue *q)
{
    struct lane_lines *l = lane_lines(q, q->lane);
    uint64_t more = 0, first, end, unit = overhead(q) - 1, head = load_acquire_u64(&l->head);
    q->tail = load_acquire_u64(&l->tail);
    if (!q->plain)
        head = q->tail;
    q->data = q->base + data_at(q, q->lane);
    if (!((head | q->tail) & unit))
        q->head = lane_walk(q, q->data, head, head + q->config.lane_bytes, &more);
    if ((head | q->tail) & unit || q->head - q->tail > q->config.lane_bytes)
        return err_set(DSM_ECORRUPT, 0, "lane %u: tail %llu, head %llu", q->lane, (unsigned long long)q->tail,
                       (unsigned long long)head);
    if (q->plain && q->head - q->tail < q->config.lane_bytes) /* is 0 already, unless the lane is corrupted */
        store_relaxed_u64((uint64_t *)(void *)(q->data + (q->head & q->mask)), 0);
    if (q->plain)
        store_relaxed_u64(&l->puts, load_relaxed_u64(&l->puts) + more);
    else
        lane_wipe(q, q->data, &first, &end);
    store_release_u64(&l->head, q->head);
    return 0;
}

static int succeed(dsm_queue *q)
{
    int rc = q->base ? succeed_mapped(q) : remote_succeed(q);
    return rc ? rc : remote_mark_used(q);
}

int dsm_queue_produce(dsm_queue *q)
{
    if (q->producing)
        return 0;
    if (q->forks != load_relaxed_u32(&core_forks))
        return refuse_forked();
    /* A process that maps the memory has one identity for all its handles, and its swaps do not fail. */
    q->in_doubt = !remote_is_mapped(q->r);
    int rc = member_join(q->r, QUEUE_PRODUCERS, q->config.lanes, q->identity, NULL, NULL, &q->lane);
    if (rc) {
        q->in_doubt &= rc != -DSM_EMEMBERS;
        if (rc == -DSM_EMEMBERS && q->config.lanes == 1)
            return err_set(DSM_EMEMBERS, 0,
                           "another handle has the only place of a producer; close it, or make the queue with "
                           "producers='many'");
        return rc;
    }
    rc = succeed(q);
    if (rc) {
        if (!q->base) {
            free(q->data);
            q->data = NULL;
        }
        if (!role_leave(q, QUEUE_PRODUCERS + 8ull * q->lane))
            q->in_doubt = false;
        return rc;
    }
    q->sent = q->head;
    q->staged = 0;
    q->in_doubt = false;
    q->producing = true;
    return 0;
}

/* ---- the consumer's role ---- */

int dsm_queue_consume(dsm_queue *q)
{
    uint64_t old = 0;
    if (q->consuming)
        return 0;
    if (q->forks != load_relaxed_u32(&core_forks))
        return refuse_forked();
    int rc = q->base ? 0 : remote_consume(q);
    if (rc)
        return rc;
    while (!(q->config.flags & DSM_QUEUE_MANY_CONSUMERS)) {
        uint64_t seen = old;
        rc = member_take(q->r, QUEUE_STATE, seen, q->identity, &old);
        q->consumer_in_doubt = rc < 0 && !remote_is_mapped(q->r);
        if (rc < 0)
            return rc;
        if (rc || (old == q->identity && !remote_is_mapped(q->r))) /* an earlier swap was reported as failed */
            break;
        if (!member_ended(q->r, old))
            return err_set(DSM_EBUSY, 0, "another handle consumes; close it, or make the queue with consumers='many'");
    }
    q->consuming = true;
    return 0;
}

/* ---- the whole queue ---- */

/* Messages are counted in the lane itself: a counter would be wrong forever once a process is killed between a change
 * of the lane and the count. */
static void count_lane(const dsm_queue *q, uint32_t lane, dsm_queue_counts *out)
{
    const struct lane_lines *l = lane_lines(q, lane);
    uint64_t tail = lane_tail(q, lane), messages = 0;
    uint64_t head = lane_walk(q, q->base + data_at(q, lane), tail, tail + q->config.lane_bytes, &messages);
    uint64_t gets = load_relaxed_u64(&l->gets);
    out->messages += messages;
    out->puts += q->plain ? load_relaxed_u64(&l->puts) : gets + messages; /* no remote producer writes 'puts' */
    out->gets += gets;
    out->dropped += load_relaxed_u64(&l->dropped);
    out->full += load_relaxed_u64(&l->full);
    if (head - tail > out->bytes)
        out->bytes = head - tail;
}

int dsm_queue_count(const dsm_queue *q, dsm_queue_counts *out)
{
    *out = (dsm_queue_counts){0};
    if (q->forks != load_relaxed_u32(&core_forks))
        return refuse_forked();
    if (!q->base)
        return remote_count(q, out);
    for (uint32_t lane = 0; lane < q->config.lanes; lane++) {
        uint64_t producer = load_relaxed_u64((const uint64_t *)(const void *)(q->base + QUEUE_PRODUCERS) + lane);
        if (load_relaxed_u8(queue_used(q) + lane))
            count_lane(q, lane, out);
        out->producers += producer && !identity_ended(producer);
    }
    out->shutdown = queue_shutdown(q);
    int rc = out->messages ? 0 : queue_not_yet(q);
    return rc == -DSM_EEMPTY ? 0 : rc;
}

int dsm_queue_shutdown(dsm_queue *q, int now)
{
    uint32_t how = now ? 2 : 1;
    if (q->forks != load_relaxed_u32(&core_forks))
        return refuse_forked();
    if (!q->base)
        return remote_shutdown(q, how);
    struct queue_state *s = queue_state(q);
    store_release_u32(&s->shutdown, how);
    eventcount_wake(queue_items(q), NOTIFY_ALL);
    for (uint32_t lane = 0; lane < q->config.lanes; lane++)
        if (load_relaxed_u8(queue_used(q) + lane))
            eventcount_wake(&lane_lines(q, lane)->room, NOTIFY_ALL);
    return 0;
}
