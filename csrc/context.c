/* Opening and closing a context: its device, agent and tables. */
#include "agent/agent.h"
#include "base/deadline.h"
#include "base/random.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { SECRET_MIN = 16 };
#define PEER_TIMEOUT_NS 2000000000
#define PEER_TIMEOUT_MAX_NS (INT64_MAX / 8) /* 36 years: sums of such times do not overflow */
#define SPIN_NS 50000

void dsm_options_init(dsm_options *o) { *o = (dsm_options){.spin_ns = -1, .cache_bytes = DSM_CACHE_BYTES}; }

static int check(const dsm_options *o)
{
    if (!o->secret || o->secret_len < SECRET_MIN)
        return err_set(DSM_EINVAL, 0, "the shared secret has %zu bytes, it needs %d", o->secret_len, SECRET_MIN);
    if (o->peer_timeout_ns < 0)
        return err_set(DSM_EINVAL, 0, "a negative peer timeout");
    return 0;
}

static void context_free(dsm_ctx *c)
{
    while (c->ndevs) {
        struct fabric_dev *d = c->devs[--c->ndevs];
        d->fabric->close(d);
    }
    if (c->event >= 0)
        close(c->event);
    tickets_free(c);
    pthread_mutex_destroy(&c->tickets_lock);
    pthread_mutex_destroy(&c->cache.lock);
    pthread_mutex_destroy(&c->completed_lock);
    pthread_mutex_destroy(&c->lock);
    if (c->secret)
        explicit_bzero(c->secret, c->secret_len);
    free(c->secret);
    free(c->regions);
    free(c);
}

static const struct control control = {client_connect,    client_endpoint,   client_stream, client_status,
                                       client_outcomes,   client_identities, client_ended,  client_bye,
                                       client_disconnect, context_free};

static int fill(dsm_ctx *c, const dsm_options *o)
{
    c->forks = load_relaxed_u32(&core_forks);
    c->next_peer = 1;
    c->event = -1;
    c->control = &control;
    c->ready_last = &c->ready;
    pthread_mutex_init(&c->completed_lock, NULL);
    pthread_mutex_init(&c->tickets_lock, NULL);
    pthread_mutex_init(&c->cache.lock, NULL);
    c->cache.limit = o->cache_bytes;
    pthread_mutex_init(&c->lock, NULL);
    c->peer_timeout_ns =
        o->peer_timeout_ns ? deadline_earlier(o->peer_timeout_ns, PEER_TIMEOUT_MAX_NS) : PEER_TIMEOUT_NS;
    c->spin_ns = o->spin_ns >= 0 ? o->spin_ns : sysconf(_SC_NPROCESSORS_ONLN) > 1 ? SPIN_NS : 0;
    if (!(c->secret = malloc(o->secret_len)))
        return err_set(DSM_ENOMEM, 0, "context");
    memcpy(c->secret, o->secret, c->secret_len = o->secret_len);
    int rc = random_bytes(c->node, sizeof c->node);
    if (rc)
        return rc;
    dsm_options with = *o;
    with.peer_timeout_ns = c->peer_timeout_ns;
    rc = fabric_open(&with, &c->stats, c->devs);
    if (rc < 0)
        return rc;
    c->ndevs = (size_t)rc;
    bool waits = false;
    for (size_t i = 0; i < c->ndevs; i++)
        waits = waits || !c->devs[i]->caps.local_memory;
    if (waits && (c->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) < 0)
        return err_set_errno(errno, "the event file descriptor");
    return agent_start(c, o);
}

int dsm_open(const dsm_options *o, dsm_ctx **out)
{
    int rc = check(o);
    if (rc)
        return rc;
    dsm_ctx *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(DSM_ENOMEM, 0, "context");
    if ((rc = fill(c, o)))
        context_free(c);
    else
        *out = c;
    return rc;
}

void dsm_close(dsm_ctx *c)
{
    if (ctx_forked(c)) /* the context belongs to the parent: release nothing */
        return;
    if (!agent_stop(c)) /* afterwards all peers are dead */
        return;
    peers_bury(c);
    cache_clear(c);
    core_lock(&c->lock);
    c->closed = true;
    bool last = ctx_unused(c);
    core_unlock(&c->lock);
    if (last)
        context_free(c);
}

int dsm_fence(dsm_ctx *c, const uint8_t node[DSM_NODE_ID])
{
    if (ctx_forked(c))
        return refuse_forked();
    int rc = agent_fence(c->agent, node);
    for (size_t i = 0; i < c->ndevs; i++) { /* all, also if one can't, or if the node could not be noted */
        int cut = device_evict(c->devs[i], node);
        rc = rc ? rc : cut;
    }
    return rc;
}

int dsm_capabilities(const dsm_ctx *c, size_t i, dsm_caps *out)
{
    if (i >= c->ndevs)
        return err_set(DSM_EINVAL, 0, "the context has %zu fabrics", c->ndevs);
    *out = c->devs[i]->caps;
    return 0;
}

void dsm_node_id(const dsm_ctx *c, uint8_t id[DSM_NODE_ID]) { memcpy(id, c->node, DSM_NODE_ID); }

const char *dsm_agent_address(const dsm_ctx *c, size_t i) { return i < c->ndevs ? ctx_address(c, c->devs[i]) : NULL; }

void dsm_get_stats(const dsm_ctx *c, dsm_stats *out)
{
    const uint64_t *from = (const uint64_t *)(const void *)&c->stats;
    uint64_t *to = (uint64_t *)(void *)out;
    for (size_t i = 0; i < sizeof *out / sizeof *to; i++)
        to[i] = load_relaxed_u64(from + i);
}

int dsm_probe(const char *fabric)
{
    const struct fabric *f = fabric_find(fabric);
    return f ? f->probe() : -DSM_EINVAL;
}

int dsm_inventory(const char *fabric, char *buf, size_t len)
{
    const struct fabric *f = fabric_find(fabric);
    return f ? f->inventory(buf, len) : -DSM_EINVAL;
}
