/*
 * A small RDMA device within this process, in place of libibverbs: enough to see what only a device shows (one that
 * stalls, that fails when it is set up, an iWARP adapter, events). Requests are executed when they are posted, unless
 * it stalls.
 */
#ifndef DSM_TESTS_FAKE_DEVICE_H
#define DSM_TESTS_FAKE_DEVICE_H

#include "fabric/verbs/lib.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

/* What a test sets, and sees. Under fake.lock where threads run. */
static struct {
    pthread_mutex_t lock;
    bool full;             /* registering fails with ENOMEM */
    int most;              /* so it does if there are so many registrations; 0: never */
    bool stall;            /* requests are accepted and not executed */
    bool cut;              /* nothing reaches the other side, and the retries of packets are used up */
    bool hang;             /* nor flushed when their queue pair goes into the error state */
    uint16_t pkey;         /* of the next context */
    bool local_route;      /* its ports need no global headers */
    uint32_t message;      /* bytes of the longest message; 0: 1 GiB */
    int devices;           /* bits: 1 "iwarp0", 2 "broken0", which can't be set up, 4 "good0" */
    int queue_pairs, regs; /* there now */
    int torn;              /* registrations that went while a request used them */
    struct ibv_ah_attr ah; /* of the last connection */
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER, .pkey = 0xffff, .devices = 4};

struct fake_context {
    struct ibv_context c;
    uint16_t pkey;
    struct ibv_async_event events[8];
    int nevents;
};
struct fake_mr {
    struct ibv_mr m;
    uint64_t wire; /* the address of its first byte for requests */
    int access;
    struct fake_mr *next;
};
struct fake_cq {
    struct ibv_cq c;
    struct ibv_wc wc[1024];
    unsigned n;
    bool armed;
};
struct fake_wr {
    struct ibv_send_wr w;
    struct ibv_sge s;
    uint8_t bytes[512];
};
struct fake_qp {
    struct ibv_qp q;
    uint32_t dest;
    enum ibv_qp_state state;
    struct fake_wr r[1024];
    unsigned head, tail, depth;
    struct fake_qp *next;
};
static struct fake_mr *fake_mrs;
static struct fake_qp *fake_qps;
static uint32_t fake_key = 100, fake_number = 10;
static struct ibv_device fake_list[3] = {
    {.name = "iwarp0", .node_type = IBV_NODE_RNIC, .transport_type = IBV_TRANSPORT_IWARP},
    {.name = "broken0", .node_type = IBV_NODE_CA, .transport_type = IBV_TRANSPORT_IB},
    {.name = "good0", .node_type = IBV_NODE_CA, .transport_type = IBV_TRANSPORT_IB},
};

/* ---- execution: under fake.lock ---- */

static void fake_complete(struct fake_qp *q, uint64_t id, enum ibv_wc_status status)
{
    struct fake_cq *c = (struct fake_cq *)q->q.send_cq;
    uint64_t one = 1;
    if (c->n == sizeof c->wc / sizeof *c->wc)
        abort();
    c->wc[c->n++] = (struct ibv_wc){.wr_id = id, .status = status, .qp_num = q->q.qp_num};
    if (c->armed && c->c.channel && write(c->c.channel->fd, &one, sizeof one) == sizeof one)
        c->armed = false;
}

static struct fake_mr *fake_find(uint32_t key, uint64_t at, uint64_t n)
{
    for (struct fake_mr *m = fake_mrs; m; m = m->next)
        if (m->m.lkey == key)
            return at >= m->wire && at + n <= m->wire + m->m.length ? m : NULL;
    return NULL;
}

static uint8_t *fake_byte(const struct fake_mr *m, uint64_t at) { return (uint8_t *)m->m.addr + (at - m->wire); }

static enum ibv_wc_status fake_execute(struct fake_qp *q, struct fake_wr *r)
{
    struct ibv_send_wr *w = &r->w;
    bool atomic = w->opcode == IBV_WR_ATOMIC_CMP_AND_SWP || w->opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
    uint64_t at = atomic ? w->wr.atomic.remote_addr : w->wr.rdma.remote_addr, n = r->s.length;
    bool is_inline = w->send_flags & IBV_SEND_INLINE;
    struct fake_mr *here = is_inline ? NULL : fake_find(r->s.lkey, r->s.addr, n), *there;
    struct fake_qp *d = fake_qps;
    while (d && d->q.qp_num != q->dest)
        d = d->next;
    if (!d || d->state == IBV_QPS_ERR || fake.cut)
        return IBV_WC_RETRY_EXC_ERR;
    if (!is_inline && !here)
        return IBV_WC_LOC_PROT_ERR;
    if (!(there = fake_find(atomic ? w->wr.atomic.rkey : w->wr.rdma.rkey, at, n)))
        return IBV_WC_REM_ACCESS_ERR;
    uint8_t *mine = is_inline ? r->bytes : fake_byte(here, r->s.addr), *to = fake_byte(there, at);
    if (w->opcode == IBV_WR_RDMA_READ) {
        memcpy(mine, to, n);
    } else if (w->opcode == IBV_WR_RDMA_WRITE) {
        memcpy(to, mine, n);
    } else {
        uint64_t old;
        memcpy(&old, to, 8);
        uint64_t new = w->opcode == IBV_WR_ATOMIC_FETCH_AND_ADD ? old + w->wr.atomic.compare_add
                       : old == w->wr.atomic.compare_add        ? w->wr.atomic.swap
                                                                : old;
        memcpy(to, &new, 8);
        memcpy(mine, &old, 8);
    }
    return IBV_WC_SUCCESS;
}

static void fake_flush(struct fake_qp *q)
{
    q->state = IBV_QPS_ERR;
    for (; !fake.hang && q->tail != q->head; q->tail++)
        fake_complete(q, q->r[q->tail % q->depth].w.wr_id, IBV_WC_WR_FLUSH_ERR);
}

static void fake_run(struct fake_qp *q)
{
    while (q->state == IBV_QPS_RTS && q->tail != q->head && !fake.stall) {
        struct fake_wr *r = &q->r[q->tail++ % q->depth];
        enum ibv_wc_status status = fake_execute(q, r);
        if (status || (r->w.send_flags & IBV_SEND_SIGNALED))
            fake_complete(q, r->w.wr_id, status);
        if (status)
            fake_flush(q);
    }
}

/* What has stalled goes on. */
static inline void fake_resume(void)
{
    pthread_mutex_lock(&fake.lock);
    fake.stall = fake.hang = false;
    for (struct fake_qp *q = fake_qps; q; q = q->next)
        fake_run(q);
    pthread_mutex_unlock(&fake.lock);
}

/* ---- the functions of libibverbs ---- */

static int fake_poll_cq(struct ibv_cq *b, int most, struct ibv_wc *wc)
{
    struct fake_cq *c = (struct fake_cq *)b;
    pthread_mutex_lock(&fake.lock);
    unsigned n = c->n < (unsigned)most ? c->n : (unsigned)most;
    memcpy(wc, c->wc, n * sizeof *wc);
    memmove(c->wc, c->wc + n, (c->n - n) * sizeof *wc);
    c->n -= n;
    pthread_mutex_unlock(&fake.lock);
    return (int)n;
}

static int fake_notify(struct ibv_cq *b, int solicited)
{
    (void)solicited;
    pthread_mutex_lock(&fake.lock);
    ((struct fake_cq *)b)->armed = true;
    pthread_mutex_unlock(&fake.lock);
    return 0;
}

static int fake_post(struct ibv_qp *b, struct ibv_send_wr *w, struct ibv_send_wr **bad)
{
    struct fake_qp *q = (struct fake_qp *)b;
    (void)bad;
    pthread_mutex_lock(&fake.lock);
    for (; w; w = w->next) {
        if (q->head - q->tail == q->depth)
            abort(); /* the queue is full */
        struct fake_wr *r = &q->r[q->head++ % q->depth];
        r->w = *w;
        r->s = *w->sg_list;
        if (w->send_flags & IBV_SEND_INLINE)
            memcpy(r->bytes, (const void *)(uintptr_t)r->s.addr, r->s.length);
    }
    if (q->state == IBV_QPS_ERR)
        fake_flush(q);
    fake_run(q);
    pthread_mutex_unlock(&fake.lock);
    return 0;
}

static int fake_fork_init(void) { return 0; }

static struct ibv_device **fake_get_device_list(int *n)
{
    struct ibv_device **list = calloc(4, sizeof *list);
    *n = 0;
    for (int i = 0; i < 3; i++)
        if (fake.devices & 1 << i)
            list[(*n)++] = &fake_list[i];
    return list;
}
static void fake_free_device_list(struct ibv_device **list) { free(list); }
static const char *fake_get_device_name(struct ibv_device *d) { return d->name; }

static struct ibv_context *fake_open_device(struct ibv_device *d)
{
    struct fake_context *c = calloc(1, sizeof *c);
    c->c.device = d;
    c->c.async_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    c->c.ops.poll_cq = fake_poll_cq;
    c->c.ops.req_notify_cq = fake_notify;
    c->c.ops.post_send = fake_post;
    c->pkey = fake.pkey;
    return &c->c;
}
static int fake_close_device(struct ibv_context *c)
{
    close(c->async_fd);
    free(c);
    return 0;
}
static int fake_query_device(struct ibv_context *c, struct ibv_device_attr *a)
{
    (void)c;
    *a = (struct ibv_device_attr){.max_qp_wr = 1024,
                                  .phys_port_cnt = 1,
                                  .atomic_cap = IBV_ATOMIC_HCA,
                                  .max_qp_rd_atom = 16,
                                  .max_qp_init_rd_atom = 16,
                                  .max_mr_size = UINT64_MAX};
    return 0;
}
static int fake_query_port(struct ibv_context *c, uint8_t port, struct _compat_ibv_port_attr *out)
{
    struct ibv_port_attr *a = (struct ibv_port_attr *)out;
    (void)port;
    a->state = IBV_PORT_ACTIVE;
    a->active_mtu = a->max_mtu = IBV_MTU_4096;
    a->lid = 1;
    a->gid_tbl_len = 1024;
    a->max_msg_sz = fake.message ? fake.message : 1u << 30;
    a->flags = fake.local_route ? 0 : IBV_QPF_GRH_REQUIRED;
    a->link_layer = c->device == &fake_list[0] ? IBV_LINK_LAYER_ETHERNET : IBV_LINK_LAYER_INFINIBAND;
    return 0;
}
static int fake_query_gid(struct ibv_context *c, uint8_t port, int i, union ibv_gid *g)
{
    (void)c, (void)port;
    *g = (union ibv_gid){.raw = {0xfe, 0x80, [14] = (uint8_t)(i >> 8), [15] = (uint8_t)(i + 1)}};
    return 0;
}
static int fake_query_pkey(struct ibv_context *c, uint8_t port, int i, uint16_t *out)
{
    uint16_t pkey = ((struct fake_context *)c)->pkey;
    (void)port, (void)i;
    *out = (uint16_t)(pkey >> 8 | pkey << 8);
    return 0;
}
static struct ibv_pd *fake_alloc_pd(struct ibv_context *c)
{
    struct ibv_pd *p = calloc(1, sizeof *p);
    p->context = c;
    return p;
}
static int fake_dealloc_pd(struct ibv_pd *p)
{
    free(p);
    return 0;
}

static struct ibv_mr *fake_reg_mr_iova(struct ibv_pd *p, void *at, size_t n, uint64_t wire, int access)
{
    struct fake_mr *m = calloc(1, sizeof *m);
    pthread_mutex_lock(&fake.lock);
    if (fake.full || (fake.most && fake.regs >= fake.most)) {
        pthread_mutex_unlock(&fake.lock);
        free(m);
        errno = ENOMEM;
        return NULL;
    }
    m->m = (struct ibv_mr){.context = p->context, .pd = p, .addr = at, .length = n};
    m->m.lkey = m->m.rkey = fake_key++;
    m->access = access;
    m->wire = wire;
    m->next = fake_mrs;
    fake_mrs = m;
    fake.regs++;
    pthread_mutex_unlock(&fake.lock);
    return &m->m;
}

static struct ibv_mr *fake_reg_mr(struct ibv_pd *p, void *at, size_t n, int access)
{
    return fake_reg_mr_iova(p, at, n, (uint64_t)(uintptr_t)at, access);
}

static int fake_dereg_mr(struct ibv_mr *b)
{
    pthread_mutex_lock(&fake.lock);
    struct fake_mr **at = &fake_mrs;
    while (&(*at)->m != b)
        at = &(*at)->next;
    struct fake_mr *m = *at;
    for (struct fake_qp *q = fake_qps; q; q = q->next)
        for (unsigned i = q->tail; i != q->head; i++)
            fake.torn += !(q->r[i % q->depth].w.send_flags & IBV_SEND_INLINE) && q->r[i % q->depth].s.lkey == b->lkey;
    *at = m->next;
    fake.regs--;
    pthread_mutex_unlock(&fake.lock);
    free(m);
    return 0;
}

static struct ibv_comp_channel *fake_create_comp_channel(struct ibv_context *c)
{
    struct ibv_comp_channel *h = calloc(1, sizeof *h);
    h->context = c;
    h->fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    return h;
}
static int fake_destroy_comp_channel(struct ibv_comp_channel *h)
{
    close(h->fd);
    free(h);
    return 0;
}
static struct ibv_cq *fake_create_cq(struct ibv_context *x, int n, void *owner, struct ibv_comp_channel *h, int vector)
{
    struct fake_cq *c = calloc(1, sizeof *c);
    (void)n, (void)vector;
    c->c.context = x;
    c->c.channel = h;
    c->c.cq_context = owner;
    return &c->c;
}
static int fake_destroy_cq(struct ibv_cq *c)
{
    free(c);
    return 0;
}
static int fake_get_cq_event(struct ibv_comp_channel *h, struct ibv_cq **c, void **owner)
{
    uint64_t one;
    *c = NULL;
    *owner = NULL;
    return read(h->fd, &one, sizeof one) == sizeof one ? 0 : -1;
}
static void fake_ack_cq_events(struct ibv_cq *c, unsigned n) { (void)c, (void)n; }

static struct ibv_qp *fake_create_qp(struct ibv_pd *p, struct ibv_qp_init_attr *a)
{
    if (p->context->device == &fake_list[1]) {
        errno = ENOMEM;
        return NULL;
    }
    struct fake_qp *q = calloc(1, sizeof *q);
    q->q.context = p->context;
    q->q.qp_context = a->qp_context;
    q->q.send_cq = a->send_cq;
    q->depth = a->cap.max_send_wr;
    pthread_mutex_lock(&fake.lock);
    q->q.qp_num = fake_number++;
    q->next = fake_qps;
    fake_qps = q;
    fake.queue_pairs++;
    pthread_mutex_unlock(&fake.lock);
    return &q->q;
}

static int fake_modify_qp(struct ibv_qp *b, struct ibv_qp_attr *a, int mask)
{
    struct fake_qp *q = (struct fake_qp *)b;
    pthread_mutex_lock(&fake.lock);
    if (mask & IBV_QP_DEST_QPN)
        q->dest = a->dest_qp_num;
    if (mask & IBV_QP_AV)
        fake.ah = a->ah_attr;
    if (a->qp_state == IBV_QPS_ERR)
        fake_flush(q);
    else
        q->state = a->qp_state;
    pthread_mutex_unlock(&fake.lock);
    return 0;
}

static int fake_destroy_qp(struct ibv_qp *b)
{
    pthread_mutex_lock(&fake.lock);
    struct fake_qp **at = &fake_qps;
    while (&(*at)->q != b)
        at = &(*at)->next;
    struct fake_qp *q = *at;
    *at = q->next;
    fake.queue_pairs--;
    pthread_mutex_unlock(&fake.lock);
    free(q);
    return 0;
}

static int fake_get_async_event(struct ibv_context *b, struct ibv_async_event *out)
{
    struct fake_context *c = (struct fake_context *)b;
    uint64_t one;
    if (read(b->async_fd, &one, sizeof one) != sizeof one)
        return -1;
    pthread_mutex_lock(&fake.lock);
    *out = c->events[--c->nevents];
    pthread_mutex_unlock(&fake.lock);
    return 0;
}
static void fake_ack_async_event(struct ibv_async_event *e) { (void)e; }

static inline void fake_event(struct ibv_context *b, struct ibv_async_event e)
{
    struct fake_context *c = (struct fake_context *)b;
    uint64_t one = 1;
    pthread_mutex_lock(&fake.lock);
    c->events[c->nevents++] = e;
    pthread_mutex_unlock(&fake.lock);
    if (write(b->async_fd, &one, sizeof one) < 0)
        abort();
}

/* Takes the place of the library, which must be there; false: it is not. */
static inline bool fake_install(void)
{
    if (verbs_load())
        return false;
#define VERBS_SYM(name, version) ibv.name = fake_##name;
#include "fabric/verbs/sym.def"
#undef VERBS_SYM
    return true;
}

#endif
