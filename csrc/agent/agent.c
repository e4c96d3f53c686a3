#include "agent.h"

#include "../base/deadline.h"
#include "../base/thread.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define HANDSHAKE_NS 5000000000
#define ACCEPT_BACKOFF_NS 100000000
enum { UNAUTHENTICATED_MAX = 64, EVENTS = 64, WELCOMES = 16 };

enum { DEVICE = 1 }; /* the id with ON_STOP for an event of the first device; the others follow */

static int add(int epoll, int fd, uint32_t events, uint64_t id, unsigned what)
{
    struct epoll_event ev = {.events = events, .data.u64 = id << 2 | what};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev) ? err_set_errno(errno, "epoll_ctl") : 0;
}

/* ---- incoming connections ---- */

static void forget(int fd)
{
    if (fd >= 0)
        close(fd);
}

static void drop(struct agent *a, struct conn *n)
{
    conn_close_endpoint(n);
    service_left(a, n);
    assert(n->state == CONN_OPEN || a->unauthenticated);
    if (n->state != CONN_OPEN)
        a->unauthenticated--;
    core_lock(&a->lock);
    struct conn **at = &a->conns;
    while (*at != n)
        at = &(*at)->next;
    *at = n->next;
    forget(n->fd);
    core_unlock(&a->lock);
    if (n->state == CONN_OPEN)
        grants_look(a, n->handshake.client);
    free(n);
}

/* Drops a connection that violated the protocol, and counts it; the Python layer logs it. */
static void reject(struct agent *a, struct conn *n)
{
    fetch_add_u64(&a->ctx->stats.rejected, 1);
    drop(a, n);
}

/* Rejects the oldest unauthenticated connection: a node that knows the secret completes the handshake quickly. */
static void reject_oldest(struct agent *a)
{
    struct conn *oldest = NULL;
    for (struct conn *n = a->conns; n; n = n->next) /* the list begins with the newest */
        if (n->state != CONN_OPEN)
            oldest = n;
    if (oldest)
        reject(a, oldest);
}

static void welcome(struct agent *a, struct conn *n)
{
    if (n->local && !socket_may_ask(n->fd)) { /* another user's */
        reject(a, n);
        return;
    }
    if (a->unauthenticated > UNAUTHENTICATED_MAX)
        reject_oldest(a);
    socket_keep_alive(n->fd, a->ctx->peer_timeout_ns);
    if (add(a->epoll, n->fd, EPOLLIN | EPOLLRDHUP, n->id, ON_CONN))
        drop(a, n);
}

/* Accepts a connection and enters it in the list. *n is NULL if there is no memory for it. Returns 0 or an errno. */
static int accept_one(struct agent *a, uint64_t listener, struct conn **n)
{
    core_lock(&a->lock);
    int fd = accept4(a->listeners[listener], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), sys = fd < 0 ? errno : 0;
    *n = sys ? NULL : calloc(1, sizeof **n);
    if (*n) {
        **n = (struct conn){.next = a->conns,
                            .id = a->next_conn++,
                            .fd = fd,
                            .local = listener == LISTEN_UNIX,
                            .deadline = clock_ns() + HANDSHAKE_NS};
        a->conns = *n;
        a->unauthenticated++;
    } else if (!sys) {
        fetch_add_u64(&a->ctx->stats.rejected, 1);
        close(fd);
    }
    core_unlock(&a->lock);
    return sys;
}

static void listen_to(struct agent *a, bool on)
{
    bool good = true;
    for (uint64_t i = 0; i < LISTENERS; i++) {
        struct epoll_event ev = {.events = on ? EPOLLIN : 0, .data.u64 = i << 2 | ON_LISTENER};
        good = (a->listeners[i] < 0 || !epoll_ctl(a->epoll, EPOLL_CTL_MOD, a->listeners[i], &ev)) && good;
    }
    a->accept_after = on && good ? 0 : clock_ns() + ACCEPT_BACKOFF_NS; /* otherwise it is tried again then */
}

static bool nothing_to_accept(int sys) { return sys == EAGAIN || sys == EINTR || sys == ECONNABORTED; }

/* Accepts at most WELCOMES connections, so that existing connections are served in between, however many arrive. If the
 * process has no free file descriptor, the agent stops listening for ACCEPT_BACKOFF_NS, as the listener would wake it
 * all the time; meanwhile the connections wait in the backlog. */
static void accept_some(struct agent *a, uint64_t listener)
{
    for (int i = 0; i < WELCOMES; i++) {
        struct conn *n;
        int sys = accept_one(a, listener, &n);
        if (n)
            welcome(a, n);
        if (!sys)
            continue;
        if (!nothing_to_accept(sys))
            listen_to(a, false);
        return;
    }
}

void agent_refuse(struct agent *a, struct conn *n)
{
    if (n->left)
        drop(a, n);
    else
        reject(a, n);
}

static void on_conn(struct agent *a, uint64_t id)
{
    struct conn *n = a->conns;
    while (n && n->id != id)
        n = n->next;
    if (!n)
        return;
    if (n->calling) { /* only the end of the connection wakes the agent then */
        drop(a, n);
        return;
    }
    ssize_t got = recv(n->fd, n->in + n->have, sizeof n->in - n->have, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        drop(a, n);
        return;
    }
    n->have += (size_t)got;
    if (!conn_input(a, n))
        agent_refuse(a, n);
}

static void drop_slow_unauthenticated(struct agent *a)
{
    int64_t now = clock_ns();
    for (struct conn *n = a->conns, *next; n; n = next) {
        next = n->next;
        if (n->state != CONN_OPEN && now >= n->deadline)
            reject(a, n);
    }
}

/* ---- connections to owners ---- */

/* The control connection has ended: the owner is gone, or it has fenced this node. */
static void on_peer(struct agent *a, uint64_t id)
{
    dsm_ctx *c = a->ctx;
    core_lock(&c->lock);
    struct peer *p = c->peers;
    while (p && p->id != id)
        p = p->next;
    bool forgotten = p && !p->refs;
    if (p) {
        store_relaxed_u32(&p->dead, 1);
        peer_break(p);
        peer_lost(p);
    }
    core_unlock(&c->lock);
    if (forgotten)
        peers_bury(c);
}

/* Every control connection of a peer has a new id, so that a late event of an earlier one is not taken for its own. */
static void set_id(dsm_ctx *c, struct peer *p, uint64_t id)
{
    core_lock(&c->lock);
    p->id = id;
    core_unlock(&c->lock);
}

int agent_watch(struct agent *a, struct peer *p)
{
    uint64_t id = fetch_add_u64(&a->ctx->next_peer, 1);
    set_id(a->ctx, p, id);
    return add(a->epoll, p->fd, EPOLLRDHUP | EPOLLONESHOT, id, ON_PEER);
}

void agent_unwatch(struct agent *a, struct peer *p)
{
    set_id(a->ctx, p, 0);
    epoll_ctl(a->epoll, EPOLL_CTL_DEL, p->fd, NULL);
}

/* ---- the thread ---- */

static uint64_t inode_of(int fd)
{
    struct stat info;
    return fd < 0 || fstat(fd, &info) ? 0 : info.st_ino;
}

/* True if other code has closed all file descriptors: the numbers may belong to other files by now. */
static bool has_lost_its_files(const struct agent *a) { return inode_of(a->stop) != a->stop_node; }

/* The timeout for epoll_wait in milliseconds: until the agent must act without an event; -1 for none. */
static int poll_timeout_ms(struct agent *a)
{
    pthread_mutex_lock(&a->turn);
    int ms = a->accept_after ? deadline_poll_ms(a->accept_after, 1000) : a->unauthenticated ? 1000 : -1;
    int64_t expires = grants_next(a);
    if (expires != DEADLINE_NEVER)
        ms = deadline_poll_ms(expires, ms < 0 ? 1000 : ms);
    pthread_mutex_unlock(&a->turn);
    return ms;
}

static void watch_stop(const struct agent *a, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.u64 = ON_STOP};
    epoll_ctl(a->epoll, EPOLL_CTL_MOD, a->stop, &ev);
}

void agent_wake(const struct agent *a)
{
    if (!has_lost_its_files(a))
        watch_stop(a, EPOLLIN | EPOLLOUT); /* the socket can always be written */
}

/* After an event of the socket 'stop'. False: the agent is to end. */
static bool rest(const struct agent *a, uint32_t events)
{
    if (events & ~(uint32_t)EPOLLOUT)
        return false;
    watch_stop(a, EPOLLIN);
    return true;
}

static bool work(struct agent *a, const struct epoll_event *ev, int n)
{
    bool go_on = true;
    pthread_mutex_lock(&a->turn);
    if (a->accept_after && clock_ns() >= a->accept_after)
        listen_to(a, true);
    for (int i = 0; i < n; i++) {
        uint64_t id = ev[i].data.u64 >> 2;
        switch (ev[i].data.u64 & 3) {
        case ON_STOP:
            if (id >= DEVICE)
                a->ctx->devs[id - DEVICE]->fabric->dev_event(a->ctx->devs[id - DEVICE]);
            else
                go_on = rest(a, ev[i].events);
            break;
        case ON_LISTENER:
            accept_some(a, id);
            break;
        case ON_CONN:
            on_conn(a, id);
            break;
        default:
            on_peer(a, id);
        }
    }
    drop_slow_unauthenticated(a);
    grants_expire(a);
    pthread_mutex_unlock(&a->turn);
    return go_on;
}

static void *run(void *arg)
{
    struct agent *a = arg;
    struct epoll_event ev[EVENTS];
    for (;;) {
        int n = epoll_wait(a->epoll, ev, EVENTS, poll_timeout_ms(a));
        if (n < 0 && errno != EINTR)
            return NULL;
        if (!work(a, ev, n < 0 ? 0 : n))
            return NULL;
    }
}

static int start_thread(struct agent *a)
{
    int sys = thread_start(&a->thread, run, a);
    return sys ? err_set_errno(sys, "the agent's thread") : 0;
}

/* ---- fork ---- */

/* A child must not keep the agent's sockets open: as long as it lived, other nodes would not detect the end of this
 * process. The fork handlers see every socket: the agent's are opened and closed under agent->lock, those to owners
 * under ctx->lock, and both locks are held across the fork. */
static pthread_mutex_t agents_lock = PTHREAD_MUTEX_INITIALIZER; /* taken before agent->lock */
static struct agent *agents;

static void fork_devices(dsm_ctx *c, enum fabric_fork phase)
{
    for (size_t i = 0; i < c->ndevs; i++)
        c->devs[i]->fabric->fork(c->devs[i], phase);
}

static void before_fork(void)
{
    pthread_mutex_lock(&agents_lock);
    for (struct agent *a = agents; a; a = a->next) {
        core_lock(&a->lock);
        core_lock(&a->ctx->lock);
        fork_devices(a->ctx, FABRIC_FORK_BEFORE);
    }
}

static void end_fork(struct agent *a, enum fabric_fork phase)
{
    fork_devices(a->ctx, phase);
    core_unlock(&a->ctx->lock);
    core_unlock(&a->lock);
}

static void after_fork(void)
{
    for (struct agent *a = agents; a; a = a->next)
        end_fork(a, FABRIC_FORK_AFTER);
    pthread_mutex_unlock(&agents_lock);
}

static void close_in_child(struct agent *a)
{
    for (size_t i = 0; i < LISTENERS; i++)
        forget(a->listeners[i]);
    for (struct conn *n = a->conns; n; n = n->next)
        forget(n->fd);
    for (struct peer *p = a->ctx->peers; p; p = p->next) {
        forget(p->fd);
        forget(p->stream_fd);
    }
    close(a->stop);
}

static void in_child(void)
{
    for (struct agent *a = agents; a; a = a->next) {
        bool lost = has_lost_its_files(a);
        if (!lost)
            close_in_child(a);
        end_fork(a, lost ? FABRIC_FORK_AFTER : FABRIC_FORK_CHILD);
    }
    pthread_mutex_unlock(&agents_lock);
    agents = NULL;
}

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(before_fork, after_fork, in_child); }

static void enlist(struct agent *a)
{
    pthread_mutex_lock(&agents_lock);
    a->next = agents;
    agents = a;
    pthread_mutex_unlock(&agents_lock);
}

static void strike(struct agent *a)
{
    pthread_mutex_lock(&agents_lock);
    struct agent **at = &agents;
    while (*at != a)
        at = &(*at)->next;
    *at = a->next;
    pthread_mutex_unlock(&agents_lock);
}

/* ---- start and stop ---- */

/* Called when the thread does not run. The sockets are closed before the agent is taken off the list, so that a fork
 * meanwhile still finds them. */
static void agent_free(struct agent *a)
{
    while (a->conns)
        drop(a, a->conns);
    grants_end_all(a);
    service_free(&a->service);
    core_lock(&a->lock);
    for (size_t i = 0; i < LISTENERS; i++) {
        forget(a->listeners[i]);
        a->listeners[i] = -1;
    }
    core_unlock(&a->lock);
    strike(a);
    forget(a->stop);
    forget(a->epoll);
    pthread_mutex_destroy(&a->lock);
    pthread_mutex_destroy(&a->turn);
    free(a->denied);
    free(a);
}

/* The devices' events, and the sockets that their peers connect to. Under agent->lock. */
static int listen_for(struct agent *a, const dsm_options *o)
{
    dsm_ctx *c = a->ctx;
    bool wanted[LISTENERS] = {false};
    int rc = 0;
    for (size_t i = 0; i < c->ndevs && !rc; i++) {
        wanted[c->devs[i]->maps ? LISTEN_UNIX : LISTEN_TCP] = true;
        if (c->devs[i]->fd >= 0)
            rc = add(a->epoll, c->devs[i]->fd, EPOLLIN, DEVICE + i, ON_STOP);
    }
    bool named = (o->listen && *o->listen) || o->advertise;
    if (!rc && named && !wanted[LISTEN_TCP])
        rc = err_set(DSM_EINVAL, 0, "%s reaches only this host and listens on no address", c->devs[0]->caps.fabric);
    if (!rc && wanted[LISTEN_UNIX])
        rc = socket_listen_unix(c, c->unix_address, &a->listeners[LISTEN_UNIX]);
    if (!rc && wanted[LISTEN_TCP])
        rc = socket_listen_tcp(c, o, c->tcp_address, &a->listeners[LISTEN_TCP]);
    for (uint64_t i = 0; i < LISTENERS && !rc; i++)
        if (a->listeners[i] >= 0)
            rc = add(a->epoll, a->listeners[i], EPOLLIN, i, ON_LISTENER);
    return rc;
}

/* Under agent->lock. */
static int open_all(struct agent *a, const dsm_options *o)
{
    a->epoll = epoll_create1(EPOLL_CLOEXEC);
    a->stop = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    a->stop_node = inode_of(a->stop);
    int rc = a->epoll < 0 || !a->stop_node ? err_set_errno(errno, "the agent's epoll") : 0;
    if (!rc)
        rc = add(a->epoll, a->stop, EPOLLIN, 0, ON_STOP);
    return rc ? rc : listen_for(a, o);
}

int agent_start(dsm_ctx *c, const dsm_options *o)
{
    struct agent *a = calloc(1, sizeof *a);
    if (!a)
        return err_set(DSM_ENOMEM, 0, "agent");
    a->ctx = c;
    for (size_t i = 0; i < LISTENERS; i++)
        a->listeners[i] = -1;
    pthread_mutex_init(&a->turn, NULL);
    pthread_mutex_init(&a->lock, NULL);
    service_init(&a->service);
    a->service.on = o->serves; /* no connection is there yet */
    a->service.grace_ns = -1;
    enlist(a);
    core_lock(&a->lock);
    int rc = open_all(a, o);
    core_unlock(&a->lock);
    if (!rc)
        rc = start_thread(a);
    if (rc) {
        agent_free(a);
        return rc;
    }
    c->agent = a;
    return 0;
}

bool agent_stop(dsm_ctx *c)
{
    struct agent *a = c->agent;
    if (has_lost_its_files(a)) {
        peers_let_go(c);
        strike(a);
        pthread_detach(a->thread);
        return false;
    }
    shutdown(a->stop, SHUT_RDWR);
    pthread_join(a->thread, NULL);
    peers_rest(c);
    for (struct peer *p = c->peers; p; p = p->next) { /* no other thread can free a peer any more */
        c->control->bye(p);
        c->control->disconnect(p);
    }
    agent_free(a);
    c->agent = NULL;
    return true;
}

/* ---- fences ---- */

int agent_fence(struct agent *a, const uint8_t node[DSM_NODE_ID])
{
    pthread_mutex_lock(&a->turn);
    int rc = agent_deny(a, node);
    for (struct conn *n = a->conns, *next; n; n = next) {
        next = n->next;
        if (n->state == CONN_OPEN && !memcmp(n->handshake.client, node, DSM_NODE_ID))
            drop(a, n);
    }
    if (!rc) /* otherwise it may connect again */
        grants_end_node(a, node);
    pthread_mutex_unlock(&a->turn);
    return rc;
}
