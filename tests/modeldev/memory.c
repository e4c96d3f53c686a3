/* Access to memory, checked as an adapter does it, and completion queues. */
#include "model.h"

#include <stddef.h>
#include <unistd.h>

/* Looked up for each packet, so a registration that goes cuts an op in the middle. NULL: not allowed. */
struct mr *mr_find(struct qp *q, uint32_t key, uint64_t at, uint64_t nbytes, int access)
{
    uint32_t i = key >> 8;
    struct mr *m = i < nic.mrs_room ? nic.mrs[i] : NULL;
    if (!m || m->v.lkey != key || m->v.pd != q->v.pd || (m->access & access) != access)
        return NULL;
    return at >= m->wire && nbytes <= m->v.length && at - m->wire <= m->v.length - nbytes ? m : NULL;
}

uint8_t *mr_byte(const struct mr *m, uint64_t at) { return (uint8_t *)m->v.addr + (at - m->wire); }

/* Aligned words are moved whole. The thread sanitizer is not told: a NIC takes part in no locks of the program. */
__attribute__((no_sanitize("thread"))) void copy_words(uint8_t *to, const uint8_t *from, size_t n)
{
    volatile uint8_t *byte = to;
    const volatile uint8_t *source = from;
    while (n && (uintptr_t)byte % 8) {
        *byte++ = *source++;
        n--;
    }
    bool both = (uintptr_t)source % 8 == 0;
    for (; both && n >= 8; n -= 8, byte += 8, source += 8)
        *(volatile uint64_t *)(volatile void *)byte = *(const volatile uint64_t *)(const volatile void *)source;
    for (; n >= 8; n -= 8, byte += 8) {
        uint64_t word = 0;
        for (int i = 0; i < 8; i++)
            word |= (uint64_t)*source++ << 8 * i;
        *(volatile uint64_t *)(volatile void *)byte = word;
    }
    while (n--)
        *byte++ = *source++;
}

enum ibv_wc_status local_copy(struct qp *q, struct wqe *w, uint32_t offset, uint8_t *flat, uint32_t n, bool gather)
{
    if (w->w.send_flags & IBV_SEND_INLINE) {
        memcpy(flat, w->bytes + offset, n);
        return IBV_WC_SUCCESS;
    }
    for (int i = 0; i < w->w.num_sge && n; i++) {
        const struct ibv_sge *s = &w->sge[i];
        if (offset >= s->length) {
            offset -= s->length;
            continue;
        }
        uint32_t part = s->length - offset < n ? s->length - offset : n;
        struct mr *m = mr_find(q, s->lkey, s->addr + offset, part, gather ? 0 : IBV_ACCESS_LOCAL_WRITE);
        if (!m)
            return IBV_WC_LOC_PROT_ERR;
        uint8_t *mine = mr_byte(m, s->addr + offset);
        copy_words(gather ? flat : mine, gather ? mine : flat, part);
        flat += part;
        n -= part;
        offset = 0;
    }
    return n ? IBV_WC_LOC_LEN_ERR : IBV_WC_SUCCESS;
}

/* ---- completion queues ---- */

static void overrun(struct cq *c)
{
    c->broken = true;
    c->events++;
    nic.overruns++;
    post_event((struct context *)(void *)((char *)c->v.context - offsetof(struct context, v.context)), IBV_EVENT_CQ_ERR,
               &c->v);
    for (struct qp *q = nic.qps; q; q = q->next)
        if (q->v.send_cq == &c->v || q->v.recv_cq == &c->v)
            q->state = IBV_QPS_ERR;
}

static void notify(struct cq *c)
{
    struct channel *h = (struct channel *)c->v.channel;
    uint64_t one = 1;
    if (!h)
        return;
    if (h->nready == sizeof h->ready / sizeof *h->ready)
        MODEL_FAIL("a completion channel with 64 unread events");
    h->ready[h->nready++] = c;
    if (write(h->v.fd, &one, sizeof one) != sizeof one)
        MODEL_FAIL("eventfd");
}

/* A queue without room is lost, as adapters do it: nothing comes out of it any more. */
void cq_push(struct cq *c, const struct ibv_wc *wc)
{
    pthread_mutex_lock(&c->lock);
    bool full = c->tail - c->head == c->room, tell = c->armed && !full && !c->broken;
    if (!full && !c->broken) {
        c->wc[c->tail % c->room] = *wc;
        __atomic_store_n(&c->tail, c->tail + 1, __ATOMIC_RELEASE);
        c->armed = false;
    }
    pthread_mutex_unlock(&c->lock);
    if (tell)
        notify(c);
    if (full && !c->broken)
        overrun(c);
}
