/*
 * The requester: sends the packets of the send queue, places responses, completes.
 *
 *   tail … head   requests that are posted and not complete      send   the next one to be sent, or sent again
 * Go-back-N: when an answer is missing, everything from the oldest packet that was not answered is sent again.
 */
#include "model.h"

static struct wqe *wqe_at(const struct qp *q, uint32_t i) { return &q->sq[i % q->cap.max_send_wr]; }

bool is_atomic(const struct wqe *w)
{
    return w->w.opcode == IBV_WR_ATOMIC_CMP_AND_SWP || w->w.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
}

static bool is_write(const struct wqe *w) { return w->w.opcode == IBV_WR_RDMA_WRITE; }

/* ---- completing ---- */

static void complete(struct qp *q, struct wqe *w, enum ibv_wc_status status)
{
    static const enum ibv_wc_opcode opcodes[] = {
        [IBV_WR_RDMA_WRITE] = IBV_WC_RDMA_WRITE,
        [IBV_WR_RDMA_READ] = IBV_WC_RDMA_READ,
        [IBV_WR_ATOMIC_CMP_AND_SWP] = IBV_WC_COMP_SWAP,
        [IBV_WR_ATOMIC_FETCH_AND_ADD] = IBV_WC_FETCH_ADD,
    };
    struct ibv_wc wc = {.wr_id = w->w.wr_id, .status = status, .qp_num = q->v.qp_num};
    if (!status)
        wc.opcode = opcodes[w->w.opcode];
    if (w->sent && !is_write(w))
        q->reads--;
    if (q->send == q->tail)
        q->send++;
    q->tail++;
    if (status || q->signal_all || (w->w.send_flags & IBV_SEND_SIGNALED))
        cq_push((struct cq *)q->v.send_cq, &wc);
}

void requester_flush(struct qp *q)
{
    while (q->tail != q->head)
        complete(q, wqe_at(q, q->tail), IBV_WC_WR_FLUSH_ERR);
}

/* Requests that are still queued are flushed by the engine's next steps, not at once. */
void qp_error(struct qp *q)
{
    q->state = q->v.state = IBV_QPS_ERR;
    q->timer = 0;
    responder_forget(q);
}

static void fail_oldest(struct qp *q, enum ibv_wc_status status)
{
    complete(q, wqe_at(q, q->tail), status);
    qp_error(q);
}

/* ---- sending ---- */

static void progress(struct qp *q)
{
    bool waits = q->tail != q->head && wqe_at(q, q->tail)->numbered;
    q->tries = 0;
    q->resent = false;
    q->timer = waits && q->timeout ? now_ns() + (INT64_C(4096) << q->timeout) : 0;
}

/* A READ whose response broke off is asked for the rest, or for all of it. */
static void rewind_to_oldest(struct qp *q)
{
    q->reads = 0;
    q->send = q->tail;
    for (uint32_t i = q->tail; i != q->head && wqe_at(q, i)->numbered; i++) {
        struct wqe *w = wqe_at(q, i);
        int32_t acked = psn_diff(q->una, w->psn);
        w->sent = false;
        if (is_write(w))
            w->done = acked > 0 ? (uint32_t)acked : 0;
        else if (i == q->tail && w->done && nic.plan.restart) {
            w->done = 0;
            q->una = w->psn;
        }
    }
}

/* A response is missing: what follows it in the same burst shows the same gap. */
static void resend_once(struct qp *q)
{
    if (!q->resent)
        rewind_to_oldest(q);
    q->resent = true;
}

static void count_request(struct qp *q)
{
    nic.executed++;
    if (nic.plan.fatal && nic.executed == (uint64_t)nic.plan.fatal)
        device_dies(device_of(q), false);
    if (nic.plan.unplug && nic.executed == (uint64_t)nic.plan.unplug)
        device_dies(device_of(q), true);
}

/* Whether the next request may begin. */
static bool may_begin(struct qp *q, const struct wqe *w)
{
    if (w->sent)
        return true;
    if ((w->w.send_flags & IBV_SEND_FENCE) && q->reads)
        return false;
    return is_write(w) || q->reads < q->max_reads;
}

static void begin(struct qp *q, struct wqe *w)
{
    if (w->sent)
        return;
    if (!w->numbered) {
        w->numbered = true;
        w->psn = q->next_psn;
        q->next_psn = psn_add(q->next_psn, w->packets);
        count_request(q);
    }
    w->sent = true;
    q->reads += !is_write(w);
    if (!q->timer)
        progress(q);
}

static void send_write(struct qp *q, struct wqe *w)
{
    uint32_t offset = w->done * q->mtu, left = w->nbytes - offset, n = left < q->mtu ? left : q->mtu;
    struct packet *p = engine_packet(q, P_WRITE, psn_add(w->psn, w->done), n);
    w->status = local_copy(q, w, offset, (uint8_t *)(p + 1), n, true);
    p->flags |= (uint8_t)((w->done ? 0 : F_FIRST) | (w->done + 1 == w->packets ? F_LAST | F_ACK : 0) |
                          (w->done % ACK_EVERY == ACK_EVERY - 1 ? F_ACK : 0));
    p->at = w->w.wr.rdma.remote_addr + offset;
    p->rkey = w->w.wr.rdma.rkey;
    p->nbytes = n;
    if (w->status) /* the packet goes nowhere */
        p->dest = 0;
    else
        w->done++;
}

static void send_read(struct qp *q, struct wqe *w)
{
    uint32_t offset = w->done * q->mtu;
    struct packet *p = engine_packet(q, P_READ, psn_add(w->psn, w->done), 0);
    p->at = w->w.wr.rdma.remote_addr + offset;
    p->rkey = w->w.wr.rdma.rkey;
    p->nbytes = w->nbytes - offset;
}

static void send_atomic(struct qp *q, struct wqe *w)
{
    bool swap = w->w.opcode == IBV_WR_ATOMIC_CMP_AND_SWP;
    struct packet *p = engine_packet(q, swap ? P_ATOMIC_SWAP : P_ATOMIC_ADD, w->psn, 0);
    p->at = w->w.wr.atomic.remote_addr;
    p->rkey = w->w.wr.atomic.rkey;
    p->operand = w->w.wr.atomic.compare_add;
    p->swap = w->w.wr.atomic.swap;
    p->nbytes = 8;
}

/* Sends one packet. Returns false if nothing may be sent now. */
static bool send_one(struct qp *q)
{
    if (q->state != IBV_QPS_RTS || q->send == q->head || device_of(q)->dead)
        return false;
    struct wqe *w = wqe_at(q, q->send);
    uint32_t next = w->numbered ? psn_add(w->psn, w->done) : q->next_psn;
    if (device_of(q)->index >= 0 && nic.plan.noroute >> device_of(q)->index & 1)
        w->status = IBV_WC_LOC_QP_OP_ERR;
    if (w->status && q->send == q->tail)
        fail_oldest(q, w->status);
    if (w->status || psn_diff(next, q->una) >= WINDOW || !may_begin(q, w))
        return false;
    begin(q, w);
    if (is_write(w))
        send_write(q, w);
    else if (is_atomic(w))
        send_atomic(q, w);
    else
        send_read(q, w);
    q->send += !w->status && (!is_write(w) || w->done == w->packets);
    return true;
}

static void retry(struct qp *q)
{
    enum { ENDLESS = 7 };
    uint32_t tries = q->tries + 1;
    if (q->tail == q->head || !wqe_at(q, q->tail)->numbered) {
        q->timer = 0;
    } else if (tries > q->retries && q->retries != ENDLESS) {
        fail_oldest(q, IBV_WC_RETRY_EXC_ERR);
    } else {
        rewind_to_oldest(q);
        progress(q);
        q->tries = tries;
    }
}

bool requester_step(struct qp *q, int64_t now)
{
    bool did = false;
    if (q->state == IBV_QPS_ERR && q->tail != q->head && !nic.plan.hang) {
        requester_flush(q);
        return true;
    }
    if (q->timer && now >= q->timer) {
        retry(q);
        did = true;
    }
    for (int i = 0; i < WINDOW && send_one(q); i++)
        did = true;
    return did;
}

/* ---- answers ---- */

/* All packets up to psn have been executed. Returns false if that skips a response, which was lost. */
static bool acknowledge(struct qp *q, uint32_t psn)
{
    while (q->tail != q->head && wqe_at(q, q->tail)->numbered) {
        struct wqe *w = wqe_at(q, q->tail);
        uint32_t last = psn_add(w->psn, w->packets - 1);
        if (psn_diff(psn, w->psn) < 0)
            break;
        if (!is_write(w)) {
            if (psn_diff(psn, last) < 0)
                break;
            resend_once(q);
            return false;
        }
        if (psn_diff(psn, last) < 0) {
            if (psn_diff(psn, q->una) >= 0)
                q->una = psn_add(psn, 1);
            w->done = w->done < (uint32_t)psn_diff(q->una, w->psn) ? (uint32_t)psn_diff(q->una, w->psn) : w->done;
            break;
        }
        q->una = psn_add(last, 1);
        complete(q, w, IBV_WC_SUCCESS);
    }
    return true;
}

static void response(struct qp *q, const struct packet *p, const uint8_t *payload)
{
    if (!acknowledge(q, psn_add(p->psn, 0xffffff)) || q->tail == q->head)
        return;
    struct wqe *w = wqe_at(q, q->tail);
    uint64_t old = p->operand;
    bool atomic = p->op == P_ATOMIC_RESPONSE;
    if (!w->numbered || is_write(w) || psn_diff(p->psn, psn_add(w->psn, w->done)) < 0)
        return; /* of an earlier try */
    if (p->psn != psn_add(w->psn, w->done) || atomic != is_atomic(w)) {
        resend_once(q);
        return;
    }
    uint8_t *from = atomic ? (uint8_t *)&old : (uint8_t *)(uintptr_t)payload;
    enum ibv_wc_status status = local_copy(q, w, w->done * q->mtu, from, p->nbytes, false);
    q->una = psn_add(p->psn, 1);
    w->done++;
    if (status)
        fail_oldest(q, status);
    else if (w->done == w->packets)
        complete(q, w, IBV_WC_SUCCESS);
}

void requester_answer(struct qp *q, const struct packet *p, const uint8_t *payload)
{
    static const enum ibv_wc_status statuses[] = {
        [NAK_INVALID] = IBV_WC_REM_INV_REQ_ERR,
        [NAK_ACCESS] = IBV_WC_REM_ACCESS_ERR,
    };
    if (psn_diff(p->psn, q->next_psn) >= (p->op == P_NAK))
        return; /* of nothing that was sent */
    uint32_t tail = q->tail, una = q->una;
    if (p->op == P_ACK)
        acknowledge(q, p->psn);
    else if (p->op != P_NAK)
        response(q, p, payload);
    else if (acknowledge(q, psn_add(p->psn, 0xffffff)) && q->tail != q->head && wqe_at(q, q->tail)->numbered) {
        if (p->nak == NAK_SEQUENCE)
            resend_once(q);
        else
            fail_oldest(q, statuses[p->nak]);
    }
    if (q->state == IBV_QPS_RTS && (tail != q->tail || una != q->una))
        progress(q);
}
