/* Posting and events; verbs.h describes the send queue and the handling of local memory. */
#ifdef DSM_HAVE_VERBS
#include "verbs.h"

#include <errno.h>
#include <string.h>

enum { LOCAL_INLINE, LOCAL_DIRECT, LOCAL_BOUNCE };

/* ---- local memory ---- */

/* Allocates nbytes of contiguous memory from the slab's ring; NULL if it is full. *taken: bytes to free when the
 * request ends. */
static uint8_t *slab_take(struct verbs_ep *e, uint32_t nbytes, uint32_t *taken)
{
    uint32_t size = (nbytes + 63) & ~63u, at = (uint32_t)(e->slab_head % VERBS_SLAB);
    uint32_t skip = at + size > VERBS_SLAB ? VERBS_SLAB - at : 0;
    if (e->slab_head == e->slab_tail) { /* empty: start at offset 0, so that any size fits */
        e->slab_head = e->slab_tail = 0;
        at = skip = 0;
    }
    if (e->slab_head + skip + size - e->slab_tail > VERBS_SLAB)
        return NULL;
    uint8_t *p = e->slab + (skip ? 0 : at);
    *taken = skip + size;
    e->slab_head += *taken;
    return p;
}

/* Returns how the local buffer is accessed: LOCAL_…. Takes d->lock (read) and sets *locked if it has to search the
 * registrations; push() unlocks it. */
static int find_local(struct verbs_ep *e, struct fabric_op *w, bool *locked)
{
    struct verbs_dev *d = (struct verbs_dev *)e->base.dev;
    const dsm_op *op = w->op;
    bool write = op->code == DSM_OP_READ; /* the device writes to the local buffer */
    /* Versions of irdma's library put only the first of two pieces into an inline request. */
    if (!write && op->nbytes <= e->max_inline)
        return op->code == DSM_OP_WRITE && op->second_nbytes ? LOCAL_BOUNCE : LOCAL_INLINE;
    if (write && op->nbytes <= VERBS_SMALL)
        return LOCAL_BOUNCE;
    if (w->state == VERBS_UNKNOWN) {
        if (!*locked)
            pthread_rwlock_rdlock(&d->lock);
        *locked = true;
        bool found = verbs_find_local(d, w, false);
        if (!found && op->nbytes <= VERBS_BOUNCE_MAX) {
            verbs_put_local(w);
            return LOCAL_BOUNCE;
        }
        w->state = found || verbs_make_local(d, w) ? VERBS_TAKEN : VERBS_REFUSED;
    }
    return w->state == VERBS_REFUSED ? LOCAL_BOUNCE : LOCAL_DIRECT;
}

/* ---- posting ---- */

/* The device's fence delays the request, but not the copying of its source, which takes place here; nor does it cover
 * the copying of READs out of the slab. So a fenced WRITE waits here until the READs and ATOMICs before it are complete
 * if its own source is copied or if one of those READs goes through the slab. */
static bool must_wait(const struct verbs_ep *e, const dsm_op *op, int local)
{
    return op->code == DSM_OP_WRITE && (op->flags & DSM_OP_FENCE) && e->answers &&
           (local != LOCAL_DIRECT || e->bounced);
}

/* The most bytes of the op that go into its next request. */
static uint64_t max_request(const struct verbs_ep *e, const dsm_op *op, int local)
{
    const struct verbs_dev *d = (const struct verbs_dev *)e->base.dev;
    uint64_t left = op->nbytes - e->placed, run = left;
    if (!verbs_is_atomic(op) && local != LOCAL_BOUNCE && (op->code == DSM_OP_READ ? d->read_pieces : d->pieces) == 1)
        fabric_op_local(op, e->placed, &run);
    uint64_t most = d->port_attr.max_msg_sz ? d->port_attr.max_msg_sz : 1u << 30;
    most = most > 1u << 30 ? 1u << 30 : most;
    if (local == LOCAL_BOUNCE && most > VERBS_BOUNCE_MAX)
        most = VERBS_BOUNCE_MAX;
    return run < most ? run : most;
}

/* Enters the op's own memory, from the first byte that is not placed. Returns the number of entries. */
static int enter_pieces(const struct verbs_ep *e, const struct fabric_op *work, int local, uint32_t nbytes,
                        struct ibv_sge *g)
{
    int n = 0;
    for (uint64_t at = e->placed, end = at + nbytes, run; at < end; at += run, n++) {
        const struct verbs_mr *r = work->prepared[at >= fabric_op_first(work->op)];
        g[n].addr = (uint64_t)(uintptr_t)fabric_op_local(work->op, at, &run);
        run = run < end - at ? run : end - at;
        g[n].length = (uint32_t)run;
        g[n].lkey = local == LOCAL_DIRECT ? r->mr->lkey : 0; /* what is inlined needs none */
        g[n].addr += local == LOCAL_DIRECT ? r->shift : 0;
    }
    return n;
}

/* Fills the slot and the scatter/gather entries of a request. Returns the number of entries; 0: the slab is full. */
static int place_local(struct verbs_ep *e, struct fabric_op *work, int local, uint32_t nbytes, struct verbs_slot *s,
                       struct ibv_sge *g)
{
    const dsm_op *op = work->op;
    *s = (struct verbs_slot){.work = work, .nbytes = nbytes, .at = e->placed};
    if (!verbs_is_atomic(op) && local != LOCAL_BOUNCE)
        return enter_pieces(e, work, local, nbytes, g);
    uint8_t *p = verbs_is_atomic(op) ? (uint8_t *)verbs_result_of(e, e->head) : slab_take(e, nbytes, &s->slab);
    if (!p)
        return 0;
    *g = (struct ibv_sge){.addr = (uint64_t)(uintptr_t)p, .length = nbytes, .lkey = e->slab_mr->lkey};
    if (op->code == DSM_OP_WRITE) {
        verbs_copy_local(op, s->at, p, nbytes);
    } else if (op->code == DSM_OP_READ) {
        s->bounced = p;
        e->bounced++;
    }
    return 1;
}

static void fill(struct verbs_ep *e, const dsm_op *op, int local, struct ibv_send_wr *w)
{
    static const enum ibv_wr_opcode opcodes[] = {
        [DSM_OP_READ] = IBV_WR_RDMA_READ,
        [DSM_OP_WRITE] = IBV_WR_RDMA_WRITE,
        [DSM_OP_FETCH_ADD] = IBV_WR_ATOMIC_FETCH_AND_ADD,
        [DSM_OP_COMPARE_SWAP] = IBV_WR_ATOMIC_CMP_AND_SWP,
    };
    const struct verbs_remote *r = (const struct verbs_remote *)fabric_remote_of(op);
    uint64_t at = r->by[e->base.theirs].start + fabric_offset_of(op);
    uint32_t key = r->by[e->base.theirs].key;
    w->wr_id = e->head;
    w->opcode = opcodes[op->code];
    w->send_flags = ((op->flags & DSM_OP_FENCE) && !e->placed ? IBV_SEND_FENCE : 0) |
                    (local == LOCAL_INLINE && op->code == DSM_OP_WRITE ? IBV_SEND_INLINE : 0);
    if (verbs_is_atomic(op)) {
        w->wr.atomic.remote_addr = at;
        w->wr.atomic.rkey = key;
        w->wr.atomic.compare_add = op->operand;
        w->wr.atomic.swap = op->desired;
    } else {
        w->wr.rdma.remote_addr = at + e->placed;
        w->wr.rdma.rkey = key;
    }
    if (++e->unsignalled == e->signal_every) {
        w->send_flags |= IBV_SEND_SIGNALED;
        e->unsignalled = 0;
    }
}

/* Appends the next piece of the first waiting op to the list as request n. Returns false if the op has to wait. */
static bool place(struct verbs_ep *e, uint32_t n, bool *locked)
{
    struct fabric_op *work = e->waiting;
    const dsm_op *op = work->op;
    struct ibv_send_wr *w = &e->wr[n];
    int local = verbs_is_atomic(op) ? LOCAL_DIRECT : find_local(e, work, locked);
    if (must_wait(e, op, local))
        return false;
    uint32_t nbytes = (uint32_t)max_request(e, op, local);
    w->sg_list = &e->sge[VERBS_PIECES * n];
    w->num_sge = place_local(e, work, local, nbytes, &e->slot[e->head % e->depth], w->sg_list);
    if (!w->num_sge)
        return false;
    fill(e, op, local, w);
    e->head++;
    e->answers += op->code != DSM_OP_WRITE;
    work->parts++;
    e->placed += nbytes;
    if (e->placed == op->nbytes) {
        e->waiting = work->next;
        e->placed = 0;
        work->parts--; /* the one that verbs_post() counts until all parts are placed */
    }
    return true;
}

static void ring_doorbell(struct verbs_ep *e, uint32_t n)
{
    dsm_stats *stats = e->base.dev->stats;
    struct ibv_send_wr *bad;
    uint32_t signalled = 0;
    e->wr[n - 1].send_flags |= IBV_SEND_SIGNALED;
    e->wr[n - 1].next = NULL;
    e->unsignalled = 0;
    for (uint32_t i = 0; i < n; i++) {
        signalled += (e->wr[i].send_flags & IBV_SEND_SIGNALED) != 0;
        if (i + 1 < n)
            e->wr[i].next = &e->wr[i + 1];
    }
    fetch_add_u64(&stats->doorbells, 1);
    fetch_add_u64(&stats->signalled, signalled);
    if (ibv_post_send(e->qp, e->wr, &bad))
        verbs_ep_kill(e); /* the signalled request may have been refused, and then no completion reports the others */
}

/* Posts as many waiting ops as fit into the queue and the slab, with one doorbell. */
static void push(struct verbs_ep *e)
{
    struct verbs_dev *d = (struct verbs_dev *)e->base.dev;
    uint32_t n = 0;
    bool locked = false;
    if (!e->waiting || e->base.broken || e->head - e->tail == e->depth)
        return;
    while (e->waiting && e->head - e->tail < e->depth && place(e, n, &locked))
        n++;
    if (locked)
        pthread_rwlock_unlock(&d->lock);
    if (n)
        ring_doorbell(e, n);
}

/* The endpoint is broken by a failed completion or by an abort. In both cases the device must flush the other
 * requests. */
static void end_broken(struct verbs_ep *e)
{
    verbs_ep_abort(&e->base);
    verbs_drain(e);
}

void verbs_post(struct fabric_ep *base, struct fabric_op *list)
{
    struct verbs_ep *e = (struct verbs_ep *)base;
    struct fabric_op *last = NULL;
    for (struct fabric_op *w = list; w; w = w->next) {
        dsm_op *op = w->op;
        assert(fabric_op_checked(op));
        op->status = 0;
        w->parts = 1;
        op->wc_status = 0;
        op->vendor = 0;
        w->state = fabric_op_prepared(w) ? VERBS_PREPARED : VERBS_UNKNOWN;
        base->inflight++;
        base->bytes += op->nbytes;
        last = w;
    }
    if (!last)
        return;
    if (e->waiting)
        e->waiting_last->next = list;
    else
        e->waiting = list;
    e->waiting_last = last;
    if (base->broken)
        end_broken(e);
    else
        push(e);
}

static bool is_lost(const struct verbs_ep *e)
{
    const struct verbs_dev *d = (const struct verbs_dev *)e->base.dev;
    return load_relaxed_u32(&e->lost) || load_relaxed_u32(&d->lost);
}

/* The device has reported a fatal error and may generate no completions any more: the oldest op fails with EIO, and the
 * endpoint is broken. */
static void fail_oldest(struct verbs_ep *e)
{
    const struct fabric_op *w = e->head != e->tail ? e->slot[e->tail % e->depth].work : e->waiting;
    dsm_op *op = w ? w->op : NULL;
    if (op && !op->status)
        op->status = e->head != e->tail || e->placed ? fabric_op_lost(op, -DSM_EIO) : -DSM_EIO;
    e->base.broken = e->base.path_lost = true;
}

int verbs_poll(struct fabric_ep *base)
{
    struct verbs_ep *e = (struct verbs_ep *)base;
    uint32_t before = base->inflight;
    verbs_reap(e);
    if (base->inflight && !base->broken && is_lost(e))
        fail_oldest(e);
    if (base->broken && base->inflight)
        end_broken(e);
    else
        push(e);
    return (int)(before - base->inflight);
}

/* ---- events ---- */

int verbs_arm(struct fabric_ep *base)
{
    struct verbs_ep *e = (struct verbs_ep *)base;
    struct ibv_cq *cq;
    void *context;
    while (!ibv.get_cq_event(e->channel, &cq, &context))
        e->events++;
    if (e->events >= 1024) { /* acknowledging takes a lock, so it is done in batches */
        ibv.ack_cq_events(e->cq, e->events);
        e->events = 0;
    }
    int sys = ibv_req_notify_cq(e->cq, 0);
    return sys ? err_set_errno(sys, "asking for an event") : 0;
}

int verbs_ep_fd(struct fabric_ep *base) { return ((struct verbs_ep *)base)->channel->fd; }
#endif
