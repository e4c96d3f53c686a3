/* Completion channels, completion queues and queue pairs, as libibverbs has them. */
#include "verbs.h"

#include <sys/eventfd.h>
#include <unistd.h>

/* ---- completions ---- */

struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *v)
{
    struct channel *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->v.context = v;
    h->v.fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    pthread_mutex_lock(&nic.lock);
    context_of(v)->channels++;
    pthread_mutex_unlock(&nic.lock);
    return &h->v;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel *v)
{
    pthread_mutex_lock(&nic.lock);
    if (v->refcnt)
        MODEL_FAIL("a completion channel is destroyed with %d queues", v->refcnt);
    context_of(v->context)->channels--;
    pthread_mutex_unlock(&nic.lock);
    close(v->fd);
    free(v);
    return 0;
}

struct ibv_cq *ibv_create_cq(struct ibv_context *v, int n, void *owner, struct ibv_comp_channel *h, int vector)
{
    struct cq *c = calloc(1, sizeof *c);
    bool good = c && n > 0 && !vector && !context_of(v)->dev->gone;
    if (!good || !(c->wc = calloc((size_t)n, sizeof *c->wc))) {
        errno = c && context_of(v)->dev->gone ? EIO : c && n > 0 && !vector ? ENOMEM : EINVAL;
        free(c);
        return NULL;
    }
    c->v.context = v;
    c->v.channel = h;
    c->v.cq_context = owner;
    c->v.cqe = n;
    c->room = (uint32_t)n;
    pthread_mutex_init(&c->lock, NULL);
    pthread_mutex_lock(&nic.lock);
    context_of(v)->cqs++;
    if (h)
        h->refcnt++;
    pthread_mutex_unlock(&nic.lock);
    return &c->v;
}

/* Under nic.lock: takes back the events of c that have not been read. */
static void forget_unread(struct cq *c)
{
    struct channel *h = (struct channel *)c->v.channel;
    uint64_t one;
    unsigned kept = 0;
    for (unsigned i = 0; h && i < h->nready; i++)
        if (h->ready[i] != c || read(h->v.fd, &one, sizeof one) != sizeof one)
            h->ready[kept++] = h->ready[i];
    if (h)
        h->nready = kept;
}

int ibv_destroy_cq(struct ibv_cq *v)
{
    struct cq *c = (struct cq *)v;
    pthread_mutex_lock(&nic.lock);
    if (c->qps)
        MODEL_FAIL("a completion queue is destroyed with %d queue pairs", c->qps);
    forget_unread(c);
    forget_events(context_of(v->context), v, &c->events);
    if (c->unacked)
        MODEL_FAIL("a completion queue is destroyed with %u events that are not acknowledged", c->unacked);
    context_of(v->context)->cqs--;
    if (v->channel)
        v->channel->refcnt--;
    pthread_mutex_unlock(&nic.lock);
    pthread_mutex_destroy(&c->lock);
    free(c->wc);
    free(c);
    return 0;
}

int poll_cq(struct ibv_cq *v, int most, struct ibv_wc *wc)
{
    struct cq *c = (struct cq *)v;
    int n = 0;
    if (__atomic_load_n(&c->tail, __ATOMIC_ACQUIRE) == __atomic_load_n(&c->head, __ATOMIC_RELAXED))
        return 0;
    pthread_mutex_lock(&c->lock);
    for (; n < most && c->head != c->tail; n++) {
        wc[n] = c->wc[c->head % c->room];
        __atomic_store_n(&c->head, c->head + 1, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&c->lock);
    return n;
}

int req_notify_cq(struct ibv_cq *v, int solicited)
{
    struct cq *c = (struct cq *)v;
    (void)solicited;
    pthread_mutex_lock(&c->lock);
    c->armed = true;
    pthread_mutex_unlock(&c->lock);
    return 0;
}

int ibv_get_cq_event(struct ibv_comp_channel *v, struct ibv_cq **out, void **owner)
{
    struct channel *h = (struct channel *)v;
    uint64_t one;
    if (read(v->fd, &one, sizeof one) != sizeof one)
        return -1;
    pthread_mutex_lock(&nic.lock);
    struct cq *c = h->ready[0];
    memmove(h->ready, h->ready + 1, --h->nready * sizeof *h->ready);
    c->unacked++;
    *out = &c->v;
    *owner = c->v.cq_context;
    pthread_mutex_unlock(&nic.lock);
    return 0;
}

void ibv_ack_cq_events(struct ibv_cq *v, unsigned n)
{
    struct cq *c = (struct cq *)v;
    pthread_mutex_lock(&nic.lock);
    if (n > c->unacked)
        MODEL_FAIL("%u events are acknowledged, of %u", n, c->unacked);
    c->unacked -= n;
    pthread_mutex_unlock(&nic.lock);
}

/* ---- queue pairs ---- */

static struct qp *new_qp(struct ibv_pd *pd, const struct ibv_qp_init_attr *a)
{
    struct qp *q = calloc(1, sizeof *q);
    if (!q || !(q->sq = calloc(a->cap.max_send_wr ? a->cap.max_send_wr : 1, sizeof *q->sq))) {
        free(q);
        return NULL;
    }
    q->ctx = context_of(pd->context);
    q->v.context = pd->context;
    q->v.pd = pd;
    q->v.qp_context = a->qp_context;
    q->v.send_cq = a->send_cq;
    q->v.recv_cq = a->recv_cq;
    q->v.qp_type = a->qp_type;
    q->cap = a->cap;
    q->signal_all = a->sq_sig_all;
    return q;
}

struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *a)
{
    const struct plan *p = &nic.plan;
    enum { PLACES = 1 << QP_BITS };
    bool good = a->qp_type == IBV_QPT_RC && a->send_cq && a->recv_cq && a->cap.max_send_wr <= (uint32_t)p->depth &&
                a->cap.max_send_sge <= (uint32_t)p->sges && a->cap.max_inline_data <= (uint32_t)p->inlined;
    bool gone = context_of(pd->context)->dev->gone;
    struct qp *q = good && !gone ? new_qp(pd, a) : NULL;
    if (!q) {
        errno = gone ? EIO : good ? ENOMEM : EINVAL;
        return NULL;
    }
    pthread_mutex_lock(&nic.lock);
    for (uint32_t tries = 0; tries < PLACES && nic.table[nic.next_qp % PLACES]; tries++)
        nic.next_qp++;
    uint32_t at = nic.next_qp++ % PLACES;
    if (nic.table[at])
        MODEL_FAIL("more than %d queue pairs", PLACES);
    nic.table[at] = q;
    q->v.qp_num = nic.id << QP_BITS | at;
    q->next = nic.qps;
    nic.qps = q;
    ((struct pd *)pd)->users++;
    ((struct cq *)a->send_cq)->qps++;
    ((struct cq *)a->recv_cq)->qps++;
    pthread_mutex_unlock(&nic.lock);
    return &q->v;
}

/* Its completions stay in the completion queue, or go: adapters differ. */
static void clean(struct qp *q)
{
    struct cq *c = (struct cq *)q->v.send_cq;
    uint32_t kept;
    pthread_mutex_lock(&c->lock);
    kept = c->head;
    for (uint32_t i = c->head; i != c->tail; i++)
        if (c->wc[i % c->room].qp_num != q->v.qp_num)
            c->wc[kept++ % c->room] = c->wc[i % c->room];
    __atomic_store_n(&c->tail, kept, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&c->lock);
}

int ibv_destroy_qp(struct ibv_qp *v)
{
    struct qp *q = (struct qp *)v, **at = &nic.qps;
    pthread_mutex_lock(&nic.lock);
    if (nic.plan.stuck) {
        pthread_mutex_unlock(&nic.lock);
        return EIO;
    }
    responder_forget(q);
    q->state = IBV_QPS_RESET;
    forget_events(q->ctx, v, &q->events);
    while (*at != q)
        at = &(*at)->next;
    *at = q->next;
    nic.table[v->qp_num & ((1 << QP_BITS) - 1)] = NULL;
    ((struct pd *)v->pd)->users--;
    ((struct cq *)v->send_cq)->qps--;
    ((struct cq *)v->recv_cq)->qps--;
    if (random_below(2))
        clean(q);
    pthread_mutex_unlock(&nic.lock);
    free(q->sq);
    free(q);
    return 0;
}

/* ---- states ---- */

struct transition {
    int from, to, required, optional;
};
static const struct transition transitions[] = {
    {IBV_QPS_RESET, IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS, 0},
    {IBV_QPS_INIT, IBV_QPS_INIT, 0, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS},
    {IBV_QPS_INIT, IBV_QPS_RTR,
     IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER,
     IBV_QP_PKEY_INDEX | IBV_QP_ACCESS_FLAGS},
    {IBV_QPS_RTR, IBV_QPS_RTS,
     IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC,
     IBV_QP_CUR_STATE | IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER},
    {IBV_QPS_RTS, IBV_QPS_RTS, 0, IBV_QP_CUR_STATE | IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER},
};

static bool is_transition(enum ibv_qp_state from, enum ibv_qp_state to, int mask)
{
    mask &= ~IBV_QP_STATE;
    if (to == IBV_QPS_ERR || to == IBV_QPS_RESET)
        return !mask;
    for (size_t i = 0; i < sizeof transitions / sizeof *transitions; i++) {
        const struct transition *t = &transitions[i];
        if (t->from == (int)from && t->to == (int)to)
            return (mask & t->required) == t->required && !(mask & ~(t->required | t->optional));
    }
    return false;
}

static bool values_fit(const struct ibv_qp_attr *a, int mask)
{
    const struct plan *p = &nic.plan;
    bool roce = p->link == LINK_ROCE;
    if ((mask & IBV_QP_PORT) && (!a->port_num || a->port_num > p->ports))
        return false;
    if ((mask & IBV_QP_PKEY_INDEX) && a->pkey_index)
        return false;
    if ((mask & IBV_QP_AV) && (((roce || p->grh) && !a->ah_attr.is_global) || a->ah_attr.sl > 15 ||
                               (a->ah_attr.is_global && a->ah_attr.grh.sgid_index >= p->gids)))
        return false;
    if ((mask & IBV_QP_PATH_MTU) && (a->path_mtu < IBV_MTU_256 || 128 << a->path_mtu > p->mtu))
        return false;
    if ((mask & IBV_QP_DEST_QPN) && a->dest_qp_num > 0xffffff)
        return false;
    if ((mask & IBV_QP_MAX_DEST_RD_ATOMIC) && a->max_dest_rd_atomic > p->serves)
        return false;
    if ((mask & IBV_QP_MAX_QP_RD_ATOMIC) && a->max_rd_atomic > p->reads)
        return false;
    return (!(mask & IBV_QP_TIMEOUT) || a->timeout < 32) && (!(mask & IBV_QP_RETRY_CNT) || a->retry_cnt < 8);
}

static void set_values(struct qp *q, const struct ibv_qp_attr *a, int mask)
{
    if (mask & IBV_QP_PORT)
        q->port = a->port_num;
    if (mask & IBV_QP_PKEY_INDEX)
        q->pkey = (uint16_t)nic.plan.pkey;
    if (mask & IBV_QP_ACCESS_FLAGS)
        q->access = (int)a->qp_access_flags;
    if (mask & IBV_QP_AV) {
        q->ah = a->ah_attr;
        q->gid_index = a->ah_attr.is_global ? a->ah_attr.grh.sgid_index : 0;
    }
    if (mask & IBV_QP_PATH_MTU)
        q->mtu = 128u << a->path_mtu;
    if (mask & IBV_QP_DEST_QPN)
        q->dest = a->dest_qp_num;
    if (mask & IBV_QP_RQ_PSN)
        q->epsn = a->rq_psn;
    if (mask & IBV_QP_SQ_PSN)
        q->next_psn = q->una = a->sq_psn;
    if (mask & IBV_QP_MAX_DEST_RD_ATOMIC)
        q->serves = a->max_dest_rd_atomic;
    if (mask & IBV_QP_MAX_QP_RD_ATOMIC)
        q->max_reads = a->max_rd_atomic;
    if (mask & IBV_QP_TIMEOUT)
        q->timeout = a->timeout;
    if (mask & IBV_QP_RETRY_CNT)
        q->retries = a->retry_cnt;
}

int ibv_modify_qp(struct ibv_qp *v, struct ibv_qp_attr *a, int mask)
{
    struct qp *q = (struct qp *)v;
    int rc = 0;
    pthread_mutex_lock(&nic.lock);
    enum ibv_qp_state to = mask & IBV_QP_STATE ? a->qp_state : q->state;
    if (device_of(q)->gone || (nic.plan.stuck && to == IBV_QPS_ERR))
        rc = EIO;
    else if (!is_transition(q->state, to, mask) || !values_fit(a, mask))
        rc = EINVAL;
    else
        set_values(q, a, mask);
    if (!rc && to == IBV_QPS_ERR)
        qp_error(q);
    else if (!rc)
        q->state = v->state = to;
    engine_wake();
    pthread_mutex_unlock(&nic.lock);
    return rc;
}

/* ---- posting ---- */

static int refuses(const struct qp *q, const struct ibv_send_wr *w, uint64_t nbytes)
{
    bool is_inline = w->send_flags & IBV_SEND_INLINE, write = w->opcode == IBV_WR_RDMA_WRITE;
    bool atomic = w->opcode == IBV_WR_ATOMIC_CMP_AND_SWP || w->opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
    if (q->ctx->dev->gone)
        return EIO;
    if (q->state != IBV_QPS_RTS && q->state != IBV_QPS_ERR)
        return EINVAL;
    if (q->head - q->tail == q->cap.max_send_wr)
        return ENOMEM;
    if (w->num_sge < 0 || (uint32_t)w->num_sge > q->cap.max_send_sge || nbytes > UINT32_MAX)
        return EINVAL;
    if ((!write && !atomic && w->opcode != IBV_WR_RDMA_READ) || (atomic && nbytes != 8))
        return EINVAL;
    return is_inline && (!write || nbytes > q->cap.max_inline_data) ? EINVAL : 0;
}

static void put(struct qp *q, const struct ibv_send_wr *w, uint32_t nbytes)
{
    struct wqe *e = &q->sq[q->head % q->cap.max_send_wr];
    uint32_t n = 0;
    e->w = *w;
    e->nbytes = nbytes;
    e->numbered = e->sent = false;
    e->done = 0;
    e->status = nbytes > (uint64_t)nic.plan.message ? IBV_WC_LOC_LEN_ERR : IBV_WC_SUCCESS;
    e->packets =
        q->mtu ? packets_of(q, w->opcode == IBV_WR_RDMA_READ || w->opcode == IBV_WR_RDMA_WRITE ? nbytes : 8) : 1;
    for (int i = 0; i < w->num_sge; i++) {
        e->sge[i] = w->sg_list[i];
        if (w->send_flags & IBV_SEND_INLINE) {
            memcpy(e->bytes + n, (const void *)(uintptr_t)w->sg_list[i].addr, w->sg_list[i].length);
            n += w->sg_list[i].length;
        }
    }
    q->head++;
}

int post_send(struct ibv_qp *v, struct ibv_send_wr *w, struct ibv_send_wr **bad)
{
    struct qp *q = (struct qp *)v;
    int rc = 0;
    pthread_mutex_lock(&nic.lock);
    for (; w; w = w->next) {
        uint64_t nbytes = 0;
        for (int i = 0; i < w->num_sge; i++)
            nbytes += w->sg_list[i].length;
        if ((rc = refuses(q, w, nbytes))) {
            *bad = w;
            break;
        }
        put(q, w, (uint32_t)nbytes);
    }
    engine_wake();
    pthread_mutex_unlock(&nic.lock);
    return rc;
}

/* The model has one-sided operations only. */
int post_recv(struct ibv_qp *v, struct ibv_recv_wr *w, struct ibv_recv_wr **bad)
{
    (void)v;
    *bad = w;
    return EINVAL;
}
