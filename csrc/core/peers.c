/* The peers of a context, and the remotes that keep them: creating and ending them. */
#include "remote.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int peer_new(dsm_ctx *c, struct fabric_dev *d, const uint8_t node[DSM_NODE_ID], const char *address, struct peer **out)
{
    struct peer *p = calloc(1, sizeof *p);
    if (!p)
        return err_set(DSM_ENOMEM, 0, "peer");
    p->ctx = c;
    p->dev = d;
    p->paths[0].dev = d;
    p->npaths = 1;
    memcpy(p->node, node, DSM_NODE_ID);
    strncpy(p->address, address, sizeof p->address - 1);
    p->fd = p->stream_fd = -1;
    p->begin_last = &p->begin;
    p->ask_last = &p->ask;
    p->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (p->wake_fd < 0) {
        int sys = errno;
        free(p);
        return err_set_errno(sys, "eventfd");
    }
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&p->cond, &monotonic);
    pthread_cond_init(&p->work, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutexattr_t checked; /* a signal handler may call in while its own thread holds the lock */
    pthread_mutexattr_init(&checked);
    pthread_mutexattr_settype(&checked, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&p->control_lock, &checked);
    pthread_mutexattr_destroy(&checked);
    pthread_mutex_init(&p->lock, NULL);
    *out = p;
    return 0;
}

/* No thread may use the peer any more. */
static void end(struct peer *p)
{
    peer_stop_help(p);
    if (p->ep)
        endpoint_close(p->ep);
    pthread_cond_destroy(&p->work);
    close(p->wake_fd);
    pthread_cond_destroy(&p->cond);
    pthread_mutex_destroy(&p->control_lock);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* A dead peer that no remote uses, that need not say goodbye, and that no other thread frees; NULL if there is none.
 * From now on only a fork looks at it, as long as it has a socket, the agent, by the id that disconnect() takes away,
 * and its helper, until it is stopped. */
static struct peer *next_dead(dsm_ctx *c)
{
    core_lock(&c->lock);
    struct peer *p = c->peers;
    while (p && (p->ending || p->refs || !load_relaxed_u32(&p->dead) || load_relaxed_u32(&p->identities.kept)))
        p = p->next;
    if (p)
        p->ending = true;
    core_unlock(&c->lock);
    return p;
}

static void take_off(dsm_ctx *c, const struct peer *p)
{
    core_lock(&c->lock);
    struct peer **at = &c->peers;
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    core_unlock(&c->lock);
}

void peers_bury(dsm_ctx *c)
{
    for (struct peer *p; (p = next_dead(c));) {
        peer_stop_help(p);
        c->control->disconnect(p);
        take_off(c, p);
        end(p);
    }
}

void peer_release(dsm_ctx *c, struct peer *p)
{
    core_lock(&c->lock);
    assert(p->refs);
    bool last = !--p->refs && load_relaxed_u32(&p->dead);
    core_unlock(&c->lock);
    if (last)
        peers_bury(c);
}

int dsm_remote_close(dsm_remote *r)
{
    dsm_ctx *c = r->ctx;
    if (c && ctx_forked(c))
        return 0;
    if (load_acquire_u32(&r->users) && r->forks == load_relaxed_u32(&core_forks))
        return err_set(DSM_EBUSY, 0, "%u ops are under way", load_acquire_u32(&r->users));
    if (!c) {
        map_close(r);
        return 0;
    }
    dsm_remote *whole = r->whole ? r->whole : r;
    if (whole != r)
        free(r);
    remote_drop(whole);
    ctx_leave(c, &c->live_remotes);
    return 0;
}

void remote_drop(dsm_remote *whole)
{
    if (fetch_sub_u32(&whole->holders, 1) != 1)
        return;
    if (whole->bulk)
        dsm_remote_close(whole->bulk);
    whole->peer->dev->fabric->forget(whole->target.remote);
    peer_release(whole->ctx, whole->peer); /* the connection to a live peer is kept for the next attach */
    free(whole);
}

int remote_part(dsm_remote *whole, uint64_t offset, uint64_t nbytes, dsm_remote **out)
{
    dsm_ctx *c = whole->ctx;
    dsm_remote *r = malloc(sizeof *r);
    if (!r)
        return err_set(DSM_ENOMEM, 0, "remote");
    *r = (dsm_remote){.target = {.remote = whole->target.remote, .base = offset},
                      .mapped = remote_is_mapped(whole) ? remote_at(whole, offset) : NULL,
                      .state = whole->state,
                      .nbytes = nbytes,
                      .access = whole->access,
                      .forks = whole->forks,
                      .ctx = c,
                      .peer = whole->peer,
                      .region = whole->region,
                      .generation = whole->generation,
                      .whole = whole,
                      .bulk = whole->bulk};
    fetch_add_u32(&whole->holders, 1);
    core_lock(&c->lock);
    c->live_remotes++;
    core_unlock(&c->lock);
    *out = r;
    return 0;
}

/* A peer whose helper runs, with a reference for the caller to release; NULL if there is none. */
static struct peer *next_helped(dsm_ctx *c)
{
    struct peer *p = NULL;
    core_lock(&c->lock);
    for (bool helped = false; !helped && (p = p ? p->next : c->peers);) {
        core_lock(&p->lock);
        helped = p->helped && !p->ending;
        core_unlock(&p->lock);
    }
    if (p)
        p->refs++;
    core_unlock(&c->lock);
    return p;
}

static void stop_helpers(dsm_ctx *c)
{
    for (struct peer *p; (p = next_helped(c));) {
        peer_stop_help(p);
        peer_abort(p);
        peer_release(c, p);
    }
}

/* Helpers that were to connect again go on with it. */
static void help_again(dsm_ctx *c)
{
    core_lock(&c->lock);
    for (struct peer *p = c->peers; p; p = p->next) {
        core_lock(&p->lock);
        if (p->rejoin.wanted && !p->ending)
            peer_help(p);
        core_unlock(&p->lock);
    }
    core_unlock(&c->lock);
}

void dsm_cancel(dsm_ctx *c)
{
    if (ctx_forked(c) || c->event < 0)
        return;
    async_set_canceling(c, true);
    stop_helpers(c);
    async_set_canceling(c, false);
    help_again(c);
}

void peers_let_go(dsm_ctx *c)
{
    core_lock(&c->lock);
    for (struct peer *p = c->peers; p; p = p->next)
        store_relaxed_u32(&p->identities.kept, 0);
    core_unlock(&c->lock);
}

void peers_rest(dsm_ctx *c)
{
    peers_let_go(c);
    async_set_canceling(c, true);
    stop_helpers(c);
}
