/*
 * Ops whose answer was lost, and whose owner may still know what became of them.
 *
 * The owner is asked by the address of the endpoint through which the op came. Before it answers it closes that
 * endpoint, so an op that it has not executed by then never will be: such an op ends with ECANCELED, and may be posted
 * again. tests/model/outcome.pml is a model of it.
 */
#include "../base/deadline.h"
#include "remote.h"

#include <string.h>

/* Asks the owner, over a new control connection if need be. There need not be an endpoint. */
static int ask_once(struct peer *p, const uint8_t *address, size_t len, uint64_t from, struct fabric_outcomes *out,
                    int64_t deadline)
{
    int rc = peer_lock_control(p, deadline);
    if (rc)
        return rc;
    if (p->fd < 0 || load_relaxed_u32(&p->dead))
        rc = p->ctx->control->connect(p, deadline);
    if (!rc)
        rc = p->ctx->control->outcomes(p, address, len, from, out, deadline);
    pthread_mutex_unlock(&p->control_lock);
    return rc;
}

/* Whether the question may go on. Each wait of it may have run a signal handler in which the process forked: a child
 * would connect as its parent. */
static bool may_ask(const struct peer *p, int64_t deadline)
{
    return !wait_stopped() && !ctx_forked(p->ctx) && clock_ns() < deadline;
}

/* Sleeps, for less than a wait may between two checks for signals. Returns false if the wait must end. */
static bool pause_for(int64_t ns, int64_t deadline)
{
    int64_t left = deadline_earlier(ns, deadline - clock_ns());
    if (left > 0)
        nanosleep(&(struct timespec){.tv_nsec = left}, NULL);
    return !wait_interrupted();
}

/* A connection that breaks is no answer: the owner is asked again. */
static int ask(struct peer *p, const uint8_t *address, size_t len, uint64_t from, struct fabric_outcomes *out,
               int64_t deadline)
{
    enum { TRIES = 4, PAUSE_NS = 10000000 };
    _Static_assert((PAUSE_NS << (TRIES - 2)) <= WAIT_SLICE_NS, "each pause is one slice");
    int rc = -DSM_EPEER;
    for (int i = 0; i < TRIES && rc == -DSM_EPEER; i++) {
        if ((i && !pause_for((int64_t)PAUSE_NS << (i - 1), deadline)) || !may_ask(p, deadline))
            break;
        rc = ask_once(p, address, len, from, out, deadline);
    }
    return rc;
}

static bool is_told(const struct fabric_outcomes *o, uint64_t number)
{
    return number < o->through || number >= o->next;
}

static const struct fabric_outcome *find(const struct fabric_outcomes *o, uint64_t number)
{
    for (uint32_t i = 0; i < o->n; i++)
        if (number >= o->of[i].number && number - o->of[i].number < o->of[i].ops)
            return &o->of[i];
    return NULL;
}

/* The status of the op; EUNKNOWN, too, if what the owner says does not fit the op. */
static int status_of(dsm_op *op, const struct fabric_outcomes *o, uint64_t number)
{
    bool atomic = op->code == DSM_OP_FETCH_ADD || op->code == DSM_OP_COMPARE_SWAP;
    if (number >= o->next)
        return -DSM_ECANCELED;
    if (number < o->known)
        return -DSM_EUNKNOWN;
    const struct fabric_outcome *e = find(o, number);
    if (e && (e->status == DSM_EACCESS || e->status == DSM_ESTALE))
        return -(int)e->status;
    if (atomic ? !e || e->status || e->ops != 1 : e != NULL)
        return -DSM_EUNKNOWN;
    if (atomic)
        op->result = e->result;
    return 0;
}

static void settle(const dsm_ticket *t, size_t i, const struct fabric_outcomes *o, uint64_t number)
{
    dsm_op *op = &t->ops[i];
    struct fabric_dev *d = op->remote->peer->dev;
    op->status = status_of(op, o, number);
    if (op->status == -DSM_EUNKNOWN)
        return;
    op->cause = 0;
    d->fabric->op_release(d, &t->work[i]);
}

void doubt_settle(dsm_ticket *t, size_t i, int64_t deadline)
{
    struct peer *p = t->ops[i].remote->peer;
    const struct fabric *f = p->dev->fabric;
    uint8_t address[FABRIC_ADDRESS_MAX], other[FABRIC_ADDRESS_MAX];
    uint64_t number;
    struct fabric_outcomes o = {.next = UINT64_MAX};
    size_t len = f->doubt(p->dev, &t->work[i], address, &number);
    const uint32_t *before = wait_until_stopped(t->how.stop);
    int rc = len && !ctx_forked(p->ctx) ? 0 : -DSM_EUNKNOWN;
    for (size_t k = i; k < t->n; k++) {
        if (!op_in_doubt(t, k) || t->ops[k].remote->peer != p || f->doubt(p->dev, &t->work[k], other, &number) != len ||
            memcmp(address, other, len) != 0)
            continue;
        if (!rc && !is_told(&o, number))
            rc = ask(p, address, len, number, &o, deadline);
        if (!rc && is_told(&o, number))
            settle(t, k, &o, number);
        if (!op_refused(t, k)) /* else the owner is asked why */
            t->work[k].group = NULL;
    }
    wait_until_stopped(before);
}
