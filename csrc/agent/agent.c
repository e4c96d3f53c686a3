#include "agent.h"

#include "../base/clock.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define HANDSHAKE_NS 5000000000
enum { STRANGERS_MAX = 64, EVENTS = 64 };

/* What an epoll event is about, in its lowest two bits; ids, not pointers, since an object may be gone by then. */
enum { ON_STOP, ON_LISTENER, ON_CONN, ON_PEER };

static int add(int epoll, int fd, uint32_t events, uint64_t id, unsigned what)
{
    struct epoll_event ev = {.events = events, .data.u64 = id << 2 | what};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev) ? err_set_errno(errno, "epoll_ctl") : 0;
}

/* ---- connections of others ---- */

void conn_close_endpoint(struct conn *n)
{
    if (!n->ep)
        return;
    n->ep->dev->fabric->ep_abort(n->ep);
    n->ep->dev->fabric->ep_close(n->ep);
    n->ep = NULL;
}

static void drop(struct agent *a, struct conn *n)
{
    struct conn **at = &a->conns;
    while (*at != n)
        at = &(*at)->next;
    *at = n->next;
    if (n->state != CONN_OPEN)
        a->strangers--;
    conn_close_endpoint(n);
    close(n->fd);
    free(n);
}

/* A connection that did not behave. Only the first is worth a line: who floods us must not fill the log as well. */
static void reject(struct agent *a, struct conn *n)
{
    fetch_add_u64(&a->ctx->stats.rejected, 1);
    if (!a->warned)
        fprintf(stderr,
                "dsmem: agent %s dropped a connection that failed to authenticate or broke the protocol; "
                "further ones are only counted\n",
                a->ctx->address);
    a->warned = true;
    drop(a, n);
}

static void accept_all(struct agent *a)
{
    int fd;
    while ((fd = accept4(a->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *n = a->strangers < STRANGERS_MAX ? calloc(1, sizeof *n) : NULL;
        if (!n) {
            fetch_add_u64(&a->ctx->stats.rejected, 1);
            close(fd);
            continue;
        }
        n->id = a->next_conn++;
        n->fd = fd;
        n->deadline = clock_ns() + HANDSHAKE_NS;
        n->next = a->conns;
        a->conns = n;
        a->strangers++;
        if (add(a->epoll, fd, EPOLLIN | EPOLLRDHUP, n->id, ON_CONN))
            drop(a, n);
    }
}

static void on_conn(struct agent *a, uint64_t id)
{
    struct conn *n = a->conns;
    while (n && n->id != id)
        n = n->next;
    if (!n)
        return;
    ssize_t got = recv(n->fd, n->in + n->have, sizeof n->in - n->have, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        drop(a, n);
        return;
    }
    n->have += (size_t)got;
    if (!conn_input(a, n))
        reject(a, n);
}

static void drop_slow_strangers(struct agent *a)
{
    int64_t now = clock_ns();
    for (struct conn *n = a->conns, *next; n; n = next) {
        next = n->next;
        if (n->state != CONN_OPEN && now >= n->deadline)
            reject(a, n);
    }
}

/* ---- connections to owners ---- */

/* The owner is gone, or has cut us off. */
static void on_peer(struct agent *a, uint64_t id)
{
    dsm_ctx *c = a->ctx;
    pthread_mutex_lock(&c->lock);
    struct peer *p = c->peers;
    while (p && p->id != id)
        p = p->next;
    if (p) {
        note_u32(&p->dead, 1);
        peer_abort(p);
    }
    pthread_mutex_unlock(&c->lock);
}

/* Every connection has a new id, so that an event of the last one can't be taken for one of this. */
int agent_watch(struct agent *a, struct peer *p)
{
    pthread_mutex_lock(&a->ctx->lock);
    p->id = a->ctx->next_peer++;
    pthread_mutex_unlock(&a->ctx->lock);
    return add(a->epoll, p->fd, EPOLLRDHUP | EPOLLONESHOT, p->id, ON_PEER);
}

void agent_unwatch(struct agent *a, int fd) { epoll_ctl(a->epoll, EPOLL_CTL_DEL, fd, NULL); }

/* ---- the thread ---- */

static bool work(struct agent *a, const struct epoll_event *ev, int n)
{
    bool go_on = true;
    pthread_mutex_lock(&a->lock);
    for (int i = 0; i < n; i++) {
        uint64_t id = ev[i].data.u64 >> 2;
        switch (ev[i].data.u64 & 3) {
        case ON_STOP:
            go_on = false;
            break;
        case ON_LISTENER:
            accept_all(a);
            break;
        case ON_CONN:
            on_conn(a, id);
            break;
        default:
            on_peer(a, id);
        }
    }
    drop_slow_strangers(a);
    pthread_mutex_unlock(&a->lock);
    return go_on;
}

static void *run(void *arg)
{
    struct agent *a = arg;
    struct epoll_event ev[EVENTS];
    bool strangers = false;
    for (;;) {
        int n = epoll_wait(a->epoll, ev, EVENTS, strangers ? 1000 : -1);
        if (n < 0 && errno != EINTR)
            return NULL;
        if (!work(a, ev, n < 0 ? 0 : n))
            return NULL;
        pthread_mutex_lock(&a->lock);
        strangers = a->strangers > 0;
        pthread_mutex_unlock(&a->lock);
    }
}

static int start_thread(struct agent *a)
{
    sigset_t all, old;
    sigfillset(&all); /* signals are for the application's threads */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int sys = pthread_create(&a->thread, NULL, run, a);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return sys ? err_set_errno(sys, "the agent's thread") : 0;
}

static void agent_free(struct agent *a)
{
    while (a->conns)
        drop(a, a->conns);
    if (a->listener >= 0)
        close(a->listener);
    if (a->stop >= 0)
        close(a->stop);
    if (a->epoll >= 0)
        close(a->epoll);
    pthread_mutex_destroy(&a->lock);
    free(a->denied);
    free(a);
}

int agent_start(dsm_ctx *c, const char *listen_at)
{
    struct agent *a = calloc(1, sizeof *a);
    if (!a)
        return err_set(DSM_ENOMEM, 0, "agent");
    a->ctx = c;
    a->listener = -1;
    pthread_mutex_init(&a->lock, NULL);
    a->epoll = epoll_create1(EPOLL_CLOEXEC);
    a->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = a->epoll < 0 || a->stop < 0 ? err_set_errno(errno, "the agent's epoll") : 0;
    if (!rc)
        rc = socket_listen(c, listen_at, c->address, &a->listener);
    if (!rc)
        rc = add(a->epoll, a->stop, EPOLLIN, 0, ON_STOP);
    if (!rc)
        rc = add(a->epoll, a->listener, EPOLLIN, 0, ON_LISTENER);
    if (!rc)
        rc = start_thread(a);
    if (rc) {
        agent_free(a);
        return rc;
    }
    c->agent = a;
    c->control = &agent_control;
    return 0;
}

void agent_stop(dsm_ctx *c)
{
    struct agent *a = c->agent;
    uint64_t one = 1;
    while (write(a->stop, &one, sizeof one) < 0 && errno == EINTR)
        ;
    pthread_join(a->thread, NULL);
    agent_free(a);
    c->agent = NULL;
}

/* ---- fences ---- */

bool agent_denies(const struct agent *a, const uint8_t node[DSM_NODE_ID])
{
    for (size_t i = 0; i < a->ndenied; i++)
        if (!memcmp(a->denied[i], node, DSM_NODE_ID))
            return true;
    return false;
}

int agent_fence(struct agent *a, const uint8_t node[DSM_NODE_ID])
{
    pthread_mutex_lock(&a->lock);
    int rc = 0;
    if (!agent_denies(a, node)) {
        void *p = realloc(a->denied, (a->ndenied + 1) * sizeof *a->denied);
        if (p) {
            a->denied = p;
            memcpy(a->denied[a->ndenied++], node, DSM_NODE_ID);
        } else {
            rc = err_set(DSM_ENOMEM, 0, "fence");
        }
    }
    for (struct conn *n = a->conns, *next; n; n = next) {
        next = n->next;
        if (n->state == CONN_OPEN && !memcmp(n->shake.client, node, DSM_NODE_ID))
            drop(a, n);
    }
    pthread_mutex_unlock(&a->lock);
    return rc;
}
