/* Reaping completions, and ending ops. */
#ifdef DSM_HAVE_VERBS
#include "verbs.h"

#include <string.h>

static void finish(struct verbs_ep *e, struct fabric_op *w)
{
    if (w->state == VERBS_TAKEN)
        verbs_put_local(w);
    e->base.inflight--;
    e->base.bytes -= w->op->nbytes;
    fabric_op_done(w, w->op->status);
}

static int error_of(enum ibv_wc_status s)
{
    switch (s) {
    case IBV_WC_SUCCESS:
        return 0;
    case IBV_WC_WR_FLUSH_ERR:
        return -DSM_ECANCELED;
    case IBV_WC_REM_ACCESS_ERR:
        return -DSM_EACCESS;
    case IBV_WC_RETRY_EXC_ERR:
    case IBV_WC_RNR_RETRY_EXC_ERR:
        return -DSM_EPEER;
    case IBV_WC_LOC_LEN_ERR:
    case IBV_WC_LOC_PROT_ERR:
    case IBV_WC_LOC_ACCESS_ERR:
        return -DSM_ELOCAL;
    default: /* IBV_WC_LOC_QP_OP_ERR is what SoftRoCE says where it has no route: its link is down */
        return -DSM_EIO;
    }
}

/* The status of an op whose oldest request has failed. A refusal (the owner's NAK) means that the owner has moved its
 * queue pair to the error state, so it executes nothing more; what may have overtaken it is not certain. After any
 * other failure, and after an abort, what is flushed may have been sent and executed. A local error says nothing of the
 * path. But the request may have been sent: an atomic has been executed if its result can't be stored, a WRITE if it
 * had to be sent again. */
static int failure_of(struct verbs_ep *e, dsm_op *op, enum ibv_wc_status s)
{
    int rc = error_of(s);
    if (rc == -DSM_EACCESS)
        e->refused = op->code;
    e->base.path_lost |= rc == -DSM_EPEER || rc == -DSM_EIO;
    if (e->refused && rc == -DSM_ECANCELED)
        return fabric_behind_refused(&e->refused, op);
    return rc == -DSM_EACCESS ? rc : fabric_op_lost(op, rc);
}

/* Ends the oldest request in the queue, and the op if this was its last request. Returns the number of ops done. */
static int retire(struct verbs_ep *e, enum ibv_wc_status status, uint32_t vendor)
{
    struct verbs_slot *s = &e->slot[e->tail % e->depth];
    struct fabric_op *w = s->work;
    dsm_op *op = w->op;
    if (!status && verbs_is_atomic(op))
        op->result = *verbs_result_of(e, e->tail);
    if (!status && s->bounced)
        verbs_copy_out(op, s->at, s->bounced, s->nbytes);
    if (status && !op->status) {
        op->status = failure_of(e, op, status);
        op->wc_status = (uint16_t)status;
        op->vendor = vendor;
    }
    e->answers -= op->code != DSM_OP_WRITE;
    e->bounced -= s->bounced != NULL;
    e->slab_tail += s->slab;
    e->tail++;
    assert(w->parts);
    if (--w->parts)
        return 0;
    finish(e, w);
    return 1;
}

int verbs_reap(struct verbs_ep *e)
{
    enum { AT_ONCE = 16 };
    struct ibv_wc wc[AT_ONCE];
    int done = 0, n;
    do {
        n = ibv_poll_cq(e->cq, AT_ONCE, wc);
        if (n < 0)
            e->base.broken = true;
        for (int i = 0; i < n; i++) {
            /* Not in the queue: it was cancelled when its queue pair was destroyed. */
            if (wc[i].wr_id - e->tail >= e->head - e->tail)
                continue;
            while (e->tail != wc[i].wr_id)
                done += retire(e, IBV_WC_SUCCESS, 0);
            done += retire(e, wc[i].status, wc[i].vendor_err);
            if (wc[i].status)
                e->base.broken = true;
        }
    } while (n == AT_ONCE && e->head != e->tail);
    return done;
}

int verbs_cancel(struct verbs_ep *e)
{
    int done = 0;
    while (e->head != e->tail)
        done += retire(e, IBV_WC_WR_FLUSH_ERR, 0);
    for (struct fabric_op *w; (w = e->waiting); done++) {
        dsm_op *op = w->op;
        e->waiting = w->next;
        if (!op->status)
            op->status = e->placed ? fabric_op_lost(op, -DSM_ECANCELED) : -DSM_ECANCELED;
        e->placed = 0;
        finish(e, w);
    }
    return done;
}
#endif
