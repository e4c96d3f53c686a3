/*
 * The queue of requests to a service (dsm/service.h), into which the agent puts them.
 *
 * The agent never waits: it puts a request into the queue of the service's thread, and reads nothing more from that
 * connection before the reply. So there is at most one request for each connection, and the queue, which has one entry
 * for each, cannot be full. A connection that ends takes its request with it; the entry then says that it has left.
 */
#include "../base/deadline.h"
#include "agent.h"

#include <stdlib.h>
#include <string.h>

/* The entry of a connection that has sent a request. Under service->lock. After the connection has left it belongs to
 * the queue, and before that to the connection. */
struct caller {
    struct caller *next;
    bool queued;
    dsm_call call;
};

void service_init(struct service *s)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s->cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&s->lock, NULL);
    s->last = &s->first;
}

static struct caller *pop(struct service *s)
{
    struct caller *k = s->first;
    if (!k)
        return NULL;
    if (!(s->first = k->next))
        s->last = &s->first;
    k->next = NULL;
    k->queued = false;
    return k;
}

static void push(struct service *s, struct caller *k)
{
    if (!k->queued) {
        k->queued = true;
        *s->last = k;
        s->last = &k->next;
    }
    pthread_cond_signal(&s->cond);
}

/* Empties the queue. What belongs to a connection stays that connection's. */
static void forget_all(struct service *s)
{
    for (struct caller *k; (k = pop(s));)
        if (k->call.left)
            free(k);
}

void service_free(struct service *s)
{
    forget_all(s);
    pthread_cond_destroy(&s->cond);
    pthread_mutex_destroy(&s->lock);
}

/* ---- the agent ---- */

static int take(struct agent *a, struct conn *n, const uint8_t *bytes, size_t len)
{
    struct service *s = &a->service;
    if (!s->on)
        return DSM_EUNSUPPORTED;
    if (!n->caller && !(n->caller = calloc(1, sizeof *n->caller)))
        return DSM_ENOMEM;
    if (conn_read_on(a, n, false))
        return DSM_ESYS;
    pthread_mutex_lock(&s->lock);
    struct caller *k = n->caller;
    k->call = (dsm_call){.client = n->id, .number = n->session.number, .len = (uint32_t)len};
    memcpy(k->call.bytes, bytes, len);
    push(s, k);
    pthread_mutex_unlock(&s->lock);
    n->calling = true;
    return 0;
}

bool service_on_call(struct agent *a, struct conn *n, const uint8_t *bytes, size_t len)
{
    int status = take(a, n, bytes, len);
    return !status || conn_reply(n, MSG_CALL, status, NULL, 0);
}

void service_left(struct agent *a, struct conn *n)
{
    struct service *s = &a->service;
    struct caller *k = n->caller;
    n->caller = NULL;
    n->calling = false;
    if (!k)
        return;
    pthread_mutex_lock(&s->lock);
    k->call = (dsm_call){.client = n->id, .left = 1};
    if (s->on)
        push(s, k);
    else
        free(k); /* it is not in the queue, which is empty while there is no service */
    pthread_mutex_unlock(&s->lock);
}

/* ---- the service's thread ---- */

void service_turn(struct service *s, bool on)
{
    pthread_mutex_lock(&s->lock);
    s->on = on;
    if (!on)
        forget_all(s);
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
}

/* service_next(), under service->lock. */
static int take_next(struct service *s, int64_t deadline, dsm_call *out)
{
    struct timespec until = clock_time(deadline);
    if (s->on && !s->first)
        pthread_cond_timedwait(&s->cond, &s->lock, &until);
    if (!s->on)
        return err_set(DSM_ECLOSED, 0, "the service");
    struct caller *k = pop(s);
    if (!k)
        return -DSM_ETIME;
    *out = k->call;
    if (k->call.left)
        free(k);
    return 0;
}

int service_next(struct service *s, int64_t deadline, dsm_call *out)
{
    pthread_mutex_lock(&s->lock);
    int rc = take_next(s, deadline, out);
    pthread_mutex_unlock(&s->lock);
    return rc;
}
