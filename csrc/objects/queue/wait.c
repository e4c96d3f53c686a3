/* Waiting for a message, or for room for one. */
#include "ring.h"

#include "../../base/deadline.h"

#include <time.h>

#define REMOTE_BACKOFF_MIN 20000
#define REMOTE_BACKOFF_MAX 1000000

struct wanted {
    uint64_t length;  /* of the message that needs room */
    int64_t deadline; /* of the ops */
};

/* 0: the condition holds; -DSM_EEMPTY: not yet; another error ends the wait. Does not change the handle. */
typedef int ready(const dsm_queue *q, const struct wanted *w);

static int has_room(const dsm_queue *q, const struct wanted *w)
{
    uint64_t tail, size = record_size(q, w->length), head = load_relaxed_u64(&q->head);
    uint64_t left = q->config.lane_bytes - (head & q->mask);
    if (q->base && queue_shutdown(q))
        return err_set(DSM_ESHUTDOWN, 0, "put");
    int rc = q->base ? 0 : remote_look(q, &tail, w->deadline);
    if (rc)
        return rc;
    if (q->base)
        tail = lane_tail(q, q->lane);
    uint64_t need = (size > left ? left : 0) + size + 8;
    return head + need - tail <= q->config.lane_bytes ? 0 : queue_not_yet(q);
}

static int has_item(const dsm_queue *q, const struct wanted *w)
{
    if (!q->base)
        return remote_has_item(q, w->deadline);
    struct record r;
    uint32_t down = queue_shutdown(q); /* before the lanes, as in dsm_queue_next */
    for (uint32_t lane = 0; lane < q->config.lanes; lane++) {
        if (!load_relaxed_u8(queue_used(q) + lane))
            continue;
        uint64_t tail = lane_tail(q, lane);
        if (message_at(q, q->base + data_at(q, lane), tail, &r) != -DSM_EEMPTY)
            return 0;
    }
    return down ? err_set(DSM_ESHUTDOWN, 0, "get") : queue_not_yet(q);
}

static int spin(const dsm_queue *q, ready *is, const struct wanted *w, int64_t until)
{
    int rc;
    for (uint32_t i = 1; (rc = is(q, w)) == -DSM_EEMPTY; i++) {
        if (i % 32 == 0 && clock_ns() >= until)
            break;
        cpu_relax();
    }
    return rc;
}

static void back_off(int64_t *length, int64_t deadline)
{
    int64_t left = deadline - clock_ns(), ns = *length < left ? *length : left;
    if (ns > 0)
        nanosleep(&(struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000}, NULL);
    *length = *length * 2 < REMOTE_BACKOFF_MAX ? *length * 2 : REMOTE_BACKOFF_MAX;
}

/* eventcount: notified by processes of this host that change the memory. If it is NULL, or the queue is checked and may
 * be changed remotely, the wait polls with a backoff. */
static int wait_until(const dsm_queue *q, ready *is, const struct wanted *w, struct eventcount *eventcount,
                      int64_t timeout_ns, int64_t spin_ns)
{
    int64_t deadline = deadline_after(timeout_ns), length = REMOTE_BACKOFF_MIN;
    int rc = spin_ns > 0 ? spin(q, is, w, deadline_earlier(deadline_after(spin_ns), deadline)) : is(q, w);
    bool late = timeout_ns == 0;
    while (rc == -DSM_EEMPTY) {
        if (late)
            return err_set(DSM_ETIME, 0, "the queue did not get ready in time; nothing was put or taken");
        if (eventcount && q->plain) {
            uint32_t seen = eventcount_prepare(eventcount);
            if ((rc = is(q, w)) == -DSM_EEMPTY)
                eventcount_wait(eventcount, seen, deadline);
        } else {
            back_off(&length, deadline);
        }
        if (rc == -DSM_EEMPTY && (rc = is(q, w)) == -DSM_EEMPTY)
            late = clock_ns() >= deadline;
    }
    return rc;
}

int dsm_queue_wait_room(const dsm_queue *q, uint64_t length, int64_t timeout_ns, int64_t spin_ns, int64_t op_ns)
{
    struct wanted w = {.length = length, .deadline = deadline_after(op_ns)};
    if (!q->producing || q->forks != load_relaxed_u32(&core_forks))
        return queue_refuse(q, "producer");
    return wait_until(q, has_room, &w, q->base ? &lane_lines(q, q->lane)->room : NULL, timeout_ns, spin_ns);
}

int dsm_queue_wait_item(const dsm_queue *q, int64_t timeout_ns, int64_t spin_ns, int64_t op_ns)
{
    if (!q->consuming || q->forks != load_relaxed_u32(&core_forks))
        return queue_refuse(q, "consumer");
    if (!q->base)
        remote_pause(q, deadline_after(timeout_ns));
    return wait_until(q, has_item, &(struct wanted){.deadline = deadline_after(op_ns)}, q->base ? queue_items(q) : NULL,
                      timeout_ns, q->base ? spin_ns : 0);
}
