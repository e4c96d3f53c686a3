/* Requests to a service (dsm/service.h): the service, and the client. */
#include "../base/deadline.h"
#include "agent.h"

#include <stdlib.h>

/* ---- the service ---- */

/* Under agent->turn. What the node has sent meanwhile is processed, too. */
static void answer(struct agent *a, struct conn *n, int status, const void *bytes, size_t len)
{
    n->calling = false;
    if (!conn_reply(n, MSG_CALL, status, bytes, len) || !conn_input(a, n) || (!n->calling && conn_read_on(a, n, true)))
        agent_refuse(a, n);
}

int dsm_serve(dsm_ctx *c, int on, int64_t grace_ns)
{
    if (ctx_forked(c))
        return refuse_forked();
    struct agent *a = c->agent;
    pthread_mutex_lock(&a->turn);
    service_turn(&a->service, on);
    a->service.grace_ns = grace_ns;
    grants_look_all(a);
    agent_wake(a); /* it may sleep without a limit, and there may be nodes to wait for now */
    for (struct conn *n = a->conns, *next; n && !on; n = next) {
        next = n->next;
        if (n->calling)
            answer(a, n, DSM_EUNSUPPORTED, NULL, 0);
    }
    pthread_mutex_unlock(&a->turn);
    return 0;
}

int dsm_next_call(dsm_ctx *c, int64_t timeout_ns, dsm_call *out)
{
    if (ctx_forked(c))
        return refuse_forked();
    int64_t deadline = deadline_after(timeout_ns);
    for (;;) {
        int rc = service_next(&c->agent->service, deadline_earlier(deadline, deadline_after(WAIT_SLICE_NS)), out);
        if (rc != -DSM_ETIME)
            return rc;
        if (clock_ns() >= deadline || wait_interrupted())
            return err_set(DSM_ETIME, 0, "no request has come");
    }
}

int dsm_reply(dsm_ctx *c, const dsm_call *call, const void *bytes, size_t len)
{
    if (ctx_forked(c))
        return refuse_forked();
    if (len > DSM_CALL_MAX)
        return err_set(DSM_EINVAL, 0, "a reply of %zu bytes; %d at most", len, DSM_CALL_MAX);
    struct agent *a = c->agent;
    pthread_mutex_lock(&a->turn);
    struct conn *n = a->conns;
    while (n && n->id != call->client)
        n = n->next;
    bool waits = n && n->calling && n->session.number == call->number;
    if (waits)
        answer(a, n, 0, bytes, len);
    pthread_mutex_unlock(&a->turn);
    return waits ? 0 : err_set(DSM_EPEER, 0, "the client");
}

/* ---- the client ---- */

struct dsm_service {
    dsm_ctx *ctx;
    struct peer *peer; /* of this handle alone: with its connection ends what the service holds for it */
    uint32_t users;
};

int dsm_service_open(dsm_ctx *c, const char *address, dsm_service **out)
{
    static const uint8_t any_node[DSM_NODE_ID];
    struct fabric_dev *d = NULL;
    if (ctx_forked(c))
        return refuse_forked();
    for (size_t i = 0; i < c->ndevs && !d; i++)
        if (!c->devs[i]->maps)
            d = c->devs[i];
    if (!d)
        return err_set(DSM_EINVAL, 0, "the context reaches no other host; open one on tcp or verbs");
    dsm_service *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(DSM_ENOMEM, 0, "service");
    s->ctx = c;
    int rc = peer_new(c, d, any_node, address, &s->peer);
    if (rc) {
        free(s);
        return rc;
    }
    s->peer->service = true;
    s->peer->refs = 1;
    core_lock(&c->lock);
    s->peer->next = c->peers;
    c->peers = s->peer;
    c->live_remotes++;
    core_unlock(&c->lock);
    *out = s;
    return 0;
}

int dsm_service_call(dsm_service *s, const void *request, size_t len, void *reply, size_t *reply_len,
                     int64_t timeout_ns)
{
    if (ctx_forked(s->ctx))
        return refuse_forked();
    if (!len || len > DSM_CALL_MAX)
        return err_set(DSM_EINVAL, 0, "a request of %zu bytes; 1 to %d", len, DSM_CALL_MAX);
    int64_t deadline = deadline_after(timeout_ns);
    fetch_add_u32(&s->users, 1);
    int rc = peer_lock_control(s->peer, deadline);
    if (!rc) {
        rc = client_call(s->peer, request, len, reply, reply_len, deadline);
        pthread_mutex_unlock(&s->peer->control_lock);
    }
    fetch_sub_u32(&s->users, 1);
    return rc;
}

int dsm_service_close(dsm_service *s)
{
    dsm_ctx *c = s->ctx;
    if (ctx_forked(c))
        return 0;
    if (load_acquire_u32(&s->users))
        return err_set(DSM_EBUSY, 0, "%u requests are under way", load_acquire_u32(&s->users));
    if (c->agent) /* otherwise the context has been closed, and the connection with it */
        client_disconnect(s->peer);
    store_relaxed_u32(&s->peer->dead, 1);
    peer_release(c, s->peer);
    free(s);
    ctx_leave(c, &c->live_remotes);
    return 0;
}
