/*
 * Endpoints: one RC queue pair each.
 *
 * ADDRESS (32 bytes, little-endian)
 *   0 u32 queue pair number   4 u32 first packet number   8 u16 LID   10 u8 MTU (enum ibv_mtu)
 *   11 u8 link: 0 InfiniBand, 1 RoCE v1, 2 RoCE v2   12 u8 READs and ATOMICs it serves at a time
 *   13 u8 1 if packets to it need a global routing header   14 u16 partition key   16 u8 GID[16]
 */
#ifdef DSM_HAVE_VERBS
#include "../../base/deadline.h"
#include "../../base/wire.h"
#include "verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

/* A queue pair in the error state normally flushes at once. If it has not after this time, it is destroyed. */
static const int64_t DRAIN_NS = 100000000;

/* ---- creating ---- */

/* max_inline: in: bytes requested; out: bytes granted. owner: the endpoint that verbs_dev_event() marks when the device
 * reports an error of the queue pair, or NULL. */
int verbs_create_qp(struct verbs_dev *d, struct verbs_ep *owner, struct ibv_cq *cq, uint32_t depth,
                    uint32_t *max_inline, struct ibv_qp **out)
{
    for (uint32_t size = *max_inline;; size /= 2) {
        struct ibv_qp_init_attr a = {
            .send_cq = cq,
            .recv_cq = cq,
            .qp_context = owner,
            .qp_type = IBV_QPT_RC,
            .cap = {.max_send_wr = depth,
                    .max_recv_wr = 1,
                    .max_send_sge = d->pieces,
                    .max_recv_sge = 1,
                    .max_inline_data = size},
        };
        *out = ibv.create_qp(d->pd, &a);
        if (*out) {
            *max_inline = a.cap.max_inline_data < VERBS_BOUNCE_MAX ? a.cap.max_inline_data : VERBS_BOUNCE_MAX;
            return 0;
        }
        if (!size)
            return err_set_errno(errno, "making a queue pair of depth %u on %s", depth, d->name);
    }
}

static int to_init(struct verbs_ep *e)
{
    struct verbs_dev *d = (struct verbs_dev *)e->base.dev;
    struct ibv_qp_attr a = {
        .qp_state = IBV_QPS_INIT,
        .port_num = d->port,
        .qp_access_flags = e->passive ? IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE |
                                            (d->attr.atomic_cap == IBV_ATOMIC_NONE ? 0 : IBV_ACCESS_REMOTE_ATOMIC)
                                      : 0,
    };
    int sys = ibv.modify_qp(e->qp, &a, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
    return sys ? err_set_errno(sys, "queue pair to INIT on %s port %d", d->name, d->port) : 0;
}

static int make_queue(struct verbs_ep *e)
{
    struct verbs_dev *d = (struct verbs_dev *)e->base.dev;
    e->channel = ibv.create_comp_channel(d->ctx);
    if (!e->channel)
        return err_set_errno(errno, "completion channel on %s", d->name);
    int flags = fcntl(e->channel->fd, F_GETFL);
    if (flags < 0 || fcntl(e->channel->fd, F_SETFL, flags | O_NONBLOCK))
        return err_set_errno(errno, "completion channel on %s", d->name);
    e->cq = ibv.create_cq(d->ctx, (int)e->depth, e, e->channel, 0);
    if (!e->cq)
        return err_set_errno(errno, "completion queue of %u on %s", e->depth, d->name);
    e->slot = calloc(e->depth, sizeof *e->slot);
    e->wr = calloc(e->depth, sizeof *e->wr);
    e->sge = calloc(e->depth, VERBS_PIECES * sizeof *e->sge);
    return e->slot && e->wr && e->sge ? 0 : err_set(DSM_ENOMEM, 0, "endpoint");
}

static int make_slab(struct verbs_ep *e)
{
    struct verbs_dev *d = (struct verbs_dev *)e->base.dev;
    uint64_t size = (VERBS_SLAB + e->depth * 8ull + 4095) / 4096 * 4096;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return err_set_errno(errno, "mapping %llu bytes", (unsigned long long)size);
    e->slab = p;
    e->slab_mapped = size;
    e->slab_mr = ibv.reg_mr(d->pd, p, size, IBV_ACCESS_LOCAL_WRITE);
    return e->slab_mr ? 0 : verbs_reg_failed(errno, p, size);
}

static int make(struct verbs_ep *e)
{
    struct verbs_dev *d = (struct verbs_dev *)e->base.dev;
    int rc = 0;
    uint32_t none = 0;
    if (getrandom(&e->psn, sizeof e->psn, GRND_NONBLOCK) < 0)
        e->psn = (uint32_t)clock_ns();
    e->psn &= 0xffffff;
    if (!e->passive && ((rc = make_queue(e)) || (rc = make_slab(e))))
        return rc;
    if (e->passive)
        rc = verbs_create_qp(d, e, d->passive_cq, 1, &none, &e->qp);
    else
        rc = verbs_create_qp(d, e, e->cq, e->depth, &e->max_inline, &e->qp);
    return rc ? rc : to_init(e);
}

int verbs_ep_open(struct fabric_dev *base, bool passive, struct fabric_ep **out)
{
    struct verbs_dev *d = (struct verbs_dev *)base;
    if (load_relaxed_u32(&d->lost))
        return err_set(DSM_EIO, 0, "%s has reported a fatal error; open a new context", d->name);
    if (passive && load_relaxed_u32(&d->unclosed)) /* what came through that one may still take effect */
        return err_set(DSM_EIO, 0, "%s did not close a queue pair; open a new context", d->name);
    struct verbs_ep *e = calloc(1, sizeof *e);
    if (!e)
        return err_set(DSM_ENOMEM, 0, "endpoint");
    e->base.dev = base;
    e->passive = passive;
    e->depth = d->depth;
    e->max_inline = d->max_inline;
    e->signal_every = d->depth > 4 ? d->depth / 4 : 1;
    int rc = make(e);
    if (rc) {
        verbs_ep_close(&e->base);
        return rc;
    }
    *out = &e->base;
    return 0;
}

/* ---- connecting ---- */

int verbs_ep_address(struct fabric_ep *base, uint8_t address[FABRIC_ADDRESS_MAX])
{
    struct verbs_ep *e = (struct verbs_ep *)base;
    struct verbs_dev *d = (struct verbs_dev *)base->dev;
    memset(address, 0, VERBS_ADDRESS);
    put_u32(address, e->qp->qp_num);
    put_u32(address + 4, e->psn);
    put_u16(address + 8, d->port_attr.lid);
    address[10] = (uint8_t)d->mtu;
    address[11] = d->link;
    address[12] = e->passive ? d->max_served : 0;
    address[13] = d->grh;
    put_u16(address + 14, d->pkey);
    memcpy(address + 16, d->gid.raw, 16);
    return VERBS_ADDRESS;
}

static int check_address(const struct verbs_dev *d, const uint8_t *b, size_t len)
{
    static const char *const links[] = {"InfiniBand", "RoCE v1", "RoCE v2"};
    enum { FULL_MEMBER = 0x8000 };
    if (len != VERBS_ADDRESS || get_u32(b) > 0xffffff || get_u32(b + 4) > 0xffffff || b[10] < IBV_MTU_256 ||
        b[10] > IBV_MTU_4096 || b[11] > VERBS_ROCE_V2 || b[13] > 1)
        return err_set(DSM_EPROTO, 0, "not the address of a verbs endpoint");
    if (b[11] != d->link)
        return err_set(DSM_EINVAL, 0, "%s speaks %s and the peer's device %s; choose GIDs of one type with gid_index",
                       d->name, links[d->link], links[b[11]]);
    uint16_t theirs = get_u16(b + 14);
    if (((theirs ^ d->pkey) & ~FULL_MEMBER) || !((theirs | d->pkey) & FULL_MEMBER))
        return err_set(DSM_EINVAL, 0, "%s is in partition 0x%04x and the peer's device in 0x%04x", d->name, d->pkey,
                       theirs);
    return 0;
}

static int to_rtr(struct verbs_ep *e, const uint8_t *b)
{
    const struct verbs_dev *d = (const struct verbs_dev *)e->base.dev;
    struct ibv_qp_attr a = {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = (enum ibv_mtu)(b[10] < d->mtu ? b[10] : d->mtu),
        .dest_qp_num = get_u32(b),
        .rq_psn = get_u32(b + 4),
        .max_dest_rd_atomic = e->passive ? d->max_served : 1,
        .min_rnr_timer = 12,
        .ah_attr = {.port_num = d->port, .dlid = get_u16(b + 8), .sl = d->sl, .is_global = verbs_global(d) || b[13]},
    };
    if (a.ah_attr.is_global) {
        memcpy(a.ah_attr.grh.dgid.raw, b + 16, 16);
        a.ah_attr.grh.sgid_index = (uint8_t)d->gid_index;
        a.ah_attr.grh.hop_limit = 64;
        a.ah_attr.grh.traffic_class = d->tclass;
    }
    int sys = ibv.modify_qp(e->qp, &a,
                            IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
    return sys ? err_set_errno(sys, "queue pair to RTR on %s, GID %d", d->name, d->gid_index) : 0;
}

static int to_rts(struct verbs_ep *e, uint8_t peer_serves)
{
    const struct verbs_dev *d = (const struct verbs_dev *)e->base.dev;
    uint8_t reads = d->max_reads < peer_serves ? d->max_reads : peer_serves;
    struct ibv_qp_attr a = {
        .qp_state = IBV_QPS_RTS,
        .timeout = d->timeout,
        .retry_cnt = d->retries,
        .rnr_retry = 6,
        .sq_psn = e->psn,
        .max_rd_atomic = reads ? reads : 1,
    };
    int sys = ibv.modify_qp(e->qp, &a,
                            IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
                                IBV_QP_MAX_QP_RD_ATOMIC);
    return sys ? err_set_errno(sys, "queue pair to RTS on %s", d->name) : 0;
}

int verbs_ep_connect(struct fabric_ep *base, const uint8_t *address, size_t len)
{
    struct verbs_ep *e = (struct verbs_ep *)base;
    int rc = check_address((struct verbs_dev *)base->dev, address, len);
    if (!rc)
        rc = to_rtr(e, address);
    return rc ? rc : to_rts(e, address[12]);
}

/* ---- ending ---- */

/* Once the queue pair is destroyed, the device accesses no buffer of its requests any more, and executes nothing that
 * comes for it. In the error state the latter holds already, and then it does not matter if destroying fails. */
static void destroy_qp(struct verbs_ep *e)
{
    struct verbs_dev *d = (struct verbs_dev *)e->base.dev;
    if (e->qp && ibv.destroy_qp(e->qp)) {
        e->qp->qp_context = NULL; /* no endpoint has its events */
        if (e->passive && !e->stopped)
            store_relaxed_u32(&d->unclosed, 1);
    }
    e->qp = NULL;
}

void verbs_ep_kill(struct verbs_ep *e)
{
    e->base.broken = true;
    destroy_qp(e);
    verbs_reap(e);
    verbs_cancel(e);
}

void verbs_drain(struct verbs_ep *e)
{
    verbs_reap(e);
    if (e->head == e->tail)
        verbs_cancel(e); /* ops that wait */
    else if (clock_ns() >= e->drained)
        verbs_ep_kill(e);
}

void verbs_ep_abort(struct fabric_ep *base)
{
    struct verbs_ep *e = (struct verbs_ep *)base;
    struct ibv_qp_attr error = {.qp_state = IBV_QPS_ERR};
    if (e->drained)
        return;
    base->broken = true;
    bool flushing = e->qp && !ibv.modify_qp(e->qp, &error, IBV_QP_STATE);
    e->stopped = flushing;
    e->drained = deadline_after(flushing ? DRAIN_NS : 0);
    if (!e->passive)
        verbs_drain(e);
    else if (!flushing)
        destroy_qp(e);
}

void verbs_ep_close(struct fabric_ep *base)
{
    struct verbs_ep *e = (struct verbs_ep *)base;
    if (base->inflight)
        verbs_ep_kill(e);
    destroy_qp(e);
    if (e->events)
        ibv.ack_cq_events(e->cq, e->events);
    if (e->cq)
        ibv.destroy_cq(e->cq);
    if (e->channel)
        ibv.destroy_comp_channel(e->channel);
    if (e->slab_mr)
        ibv.dereg_mr(e->slab_mr);
    if (e->slab)
        munmap(e->slab, e->slab_mapped);
    free(e->slot);
    free(e->wr);
    free(e->sge);
    free(e);
}
#endif
