/* The peers of a context, and the remotes that keep them: creating and ending them. */
#include "core.h"

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
    memcpy(p->node, node, DSM_NODE_ID);
    strncpy(p->address, address, sizeof p->address - 1);
    p->fd = -1;
    p->begin_last = &p->begin;
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
    pthread_cond_init(&p->work, NULL);
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
        p->dev->fabric->ep_close(p->ep);
    pthread_cond_destroy(&p->work);
    close(p->wake_fd);
    pthread_cond_destroy(&p->cond);
    pthread_mutex_destroy(&p->control_lock);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* A peer without references can be reached through ctx->peers only. So once it is off that list, no other thread can
 * use it. */
void peers_bury(dsm_ctx *c)
{
    struct peer *dead = NULL;
    pthread_mutex_lock(&c->lock);
    for (struct peer **at = &c->peers, *p; (p = *at);)
        if (load_relaxed_u32(&p->dead) && !p->refs) {
            *at = p->next;
            p->next = dead;
            dead = p;
        } else {
            at = &p->next;
        }
    pthread_mutex_unlock(&c->lock);
    for (struct peer *p; (p = dead);) {
        dead = p->next;
        c->control->disconnect(p);
        end(p);
    }
}

static void release(dsm_ctx *c, struct peer *p)
{
    pthread_mutex_lock(&c->lock);
    assert(p->refs);
    bool last = !--p->refs && load_relaxed_u32(&p->dead);
    pthread_mutex_unlock(&c->lock);
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
    r->peer->dev->fabric->forget(r->imported);
    release(c, r->peer); /* the connection to a live peer is kept for the next attach */
    free(r);
    ctx_leave(c, &c->live_remotes);
    return 0;
}

/* A peer whose helper runs, with a reference for the caller to release; NULL if there is none. */
static struct peer *next_helped(dsm_ctx *c)
{
    struct peer *p = NULL;
    pthread_mutex_lock(&c->lock);
    for (bool helped = false; !helped && (p = p ? p->next : c->peers);) {
        pthread_mutex_lock(&p->lock);
        helped = p->helped;
        pthread_mutex_unlock(&p->lock);
    }
    if (p)
        p->refs++;
    pthread_mutex_unlock(&c->lock);
    return p;
}

void dsm_cancel(dsm_ctx *c)
{
    if (ctx_forked(c) || c->event < 0)
        return;
    async_set_canceling(c, true);
    for (struct peer *p; (p = next_helped(c));) {
        peer_stop_help(p);
        peer_abort(p);
        release(c, p);
    }
    async_set_canceling(c, false);
}
