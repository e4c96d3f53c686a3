/*
 * One owner: its endpoint, and how threads wait on it.
 *
 * Every call on the endpoint is made under peer->lock. Many threads may wait for ops on one endpoint, each until its
 * own count of pending ops is 0. While they poll, the thread that gets the lock reaps completions for all. When they
 * sleep, one of them (the sleeper) sleeps on the endpoint's event and the others on the condition variable. A thread
 * that reaps completions meanwhile wakes the sleeper, which rechecks its count and wakes the others, one of which
 * becomes the next sleeper.
 */
#include "../base/deadline.h"
#include "core.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <unistd.h>

static const struct fabric *fabric(const struct peer *p) { return p->dev->fabric; }

static void wake_sleeper(struct peer *p)
{
    uint64_t one = 1;
    if (p->sleeper && write(p->wake_fd, &one, sizeof one) < 0) {
        /* EAGAIN: the counter is full, so the sleeper wakes anyway */
    }
}

void peer_wake(struct peer *p)
{
    wake_sleeper(p);
    pthread_cond_broadcast(&p->cond);
}

/* ---- endpoints ---- */

bool peer_can_post(struct peer *p)
{
    if (p->ep && p->dev->streams && !p->ep->inflight)
        fabric(p)->poll(p->ep);
    return peer_usable(p);
}

bool peer_usable(const struct peer *p) { return p->ep && !p->ep->broken && !p->moving && !load_relaxed_u32(&p->dead); }

static bool usable(struct peer *p)
{
    core_lock(&p->lock);
    bool good = peer_usable(p);
    core_unlock(&p->lock);
    return good;
}

/* Takes the endpoint out of the peer and closes it, without peer->lock. While it is being closed its ops end, and the
 * threads that wait for them sleep on the condition variable. No op is posted meanwhile: a thread that finds no
 * endpoint waits for peer->control_lock, which the caller holds. Under peer->lock. */
static void drop_endpoint(struct peer *p)
{
    struct fabric_ep *old = p->ep;
    assert(!p->closing);
    if (!old)
        return;
    p->ep = NULL; /* so no thread becomes the sleeper any more */
    p->closing = true;
    while (p->sleeper) { /* it polls the endpoint's event fd */
        wake_sleeper(p);
        pthread_cond_wait(&p->cond, &p->lock);
    }
    core_unlock(&p->lock);
    endpoint_close(old);
    core_lock(&p->lock);
    p->closing = false;
}

static void install(struct peer *p, struct fabric_ep *ep, uint32_t path)
{
    core_lock(&p->lock);
    drop_endpoint(p);
    assert(!p->ep);
    p->ep = ep;
    if (path != p->path)
        fetch_add_u64(&p->ctx->stats.failovers, 1);
    store_release_u32(&p->path, path); /* pairs with peer_device() */
    p->suspect = false;
    pthread_cond_broadcast(&p->cond); /* closing the old endpoint has ended its ops */
    core_unlock(&p->lock);
}

/* For a moment both the peer and the endpoint have the socket, so that a fork at any time finds it. */
static int join_by_stream(struct peer *p, struct fabric_ep *ep, const uint8_t *theirs, size_t len, int64_t deadline)
{
    int rc = p->ctx->control->stream(p, theirs, len, deadline);
    if (rc)
        return rc;
    rc = endpoint_stream(ep, p->stream_fd);
    core_lock(&p->ctx->lock);
    if (rc)
        close(p->stream_fd);
    p->stream_fd = -1;
    core_unlock(&p->ctx->lock);
    return rc;
}

static int join_ends(struct peer *p, struct fabric_ep *ep, int64_t deadline)
{
    uint8_t mine[FABRIC_ADDRESS_MAX], theirs[FABRIC_ADDRESS_MAX];
    size_t len = sizeof theirs;
    int n = fabric(p)->ep_address(ep, mine);
    if (n < 0)
        return n;
    int rc = p->ctx->control->endpoint(p, ep->theirs, mine, (size_t)n, theirs, &len, deadline);
    if (!rc)
        rc = endpoint_connect(ep, theirs, len);
    return rc || !p->dev->streams ? rc : join_by_stream(p, ep, theirs, len, deadline);
}

/* The owner closes its end of the endpoint before, on whatever path, when it makes one for the new: from then on
 * nothing of what was sent there arrives any more. */
static int open_path(struct peer *p, uint32_t path, int64_t deadline)
{
    struct fabric_ep *ep;
    int rc = endpoint_open(p->paths[path].dev, false, &ep);
    if (rc)
        return rc;
    ep->theirs = p->paths[path].theirs;
    if (p->dev->connected && (rc = join_ends(p, ep, deadline))) {
        endpoint_close(ep);
        return rc;
    }
    fetch_add_u64(&p->ctx->stats.connects, 1);
    install(p, ep, path);
    return 0;
}

static int make_endpoint(struct peer *p, bool atomics, int64_t deadline)
{
    int rc = 0;
    if (load_relaxed_u32(&p->dead)) {
        if (!p->dev->connected)
            return err_set(DSM_EPEER, 0, "%s", p->address);
        if ((rc = p->ctx->control->connect(p, deadline)))
            return rc;
    }
    uint32_t first = path_next(p);
    if (atomics && clock_ns() < p->held)
        return err_set(DSM_EPATH, 0, "%s", p->address);
    for (uint32_t i = 0; i < p->npaths; i++) {
        uint32_t path = (first + i) % p->npaths;
        if (!path_takes(p, path, atomics))
            continue;
        rc = open_path(p, path, deadline);
        if (!rc || load_relaxed_u32(&p->dead) || clock_ns() >= deadline)
            break;
    }
    return rc;
}

int peer_lock_control(struct peer *p, int64_t deadline)
{
    if (!pthread_mutex_trylock(&p->control_lock))
        return 0;
    do {
        struct timespec until = clock_time(deadline_earlier(deadline, deadline_after(WAIT_SLICE_NS)));
        int sys = pthread_mutex_clocklock(&p->control_lock, CLOCK_MONOTONIC, &until);
        if (!sys)
            return 0;
        if (sys == EDEADLK)
            return dsm_refuse_reentry("connection");
    } while (clock_ns() < deadline && !wait_interrupted());
    return err_set(DSM_ETIME, 0, "another thread waits for the agent at %s", p->address);
}

/* ---- ops ---- */

void peer_reap(struct peer *p)
{
    if (!p->ep || fabric(p)->poll(p->ep) <= 0)
        return;
    wake_sleeper(p);
}

void peer_cut(struct peer *p)
{
    if (p->ep) /* otherwise it is being closed, which ends its ops, too */
        fabric(p)->ep_abort(p->ep);
    wake_sleeper(p);
    pthread_cond_broadcast(&p->cond);
}

bool peer_post(struct peer *p, const struct op_group *g)
{
    core_lock(&p->lock);
    bool good = peer_can_post(p) && group_fits(p, g);
    if (good) {
        fabric(p)->post(p->ep, g->head);
        peer_reap(p);
    }
    core_unlock(&p->lock);
    return good;
}

void peer_break(struct peer *p)
{
    core_lock(&p->lock);
    peer_cut(p);
    core_unlock(&p->lock);
}

/* Sleeps until the endpoint has an event, another thread wakes the sleeper, a signal arrives, or the deadline. Returns
 * true for a signal. Under peer->lock, released meanwhile. */
static bool sleep_on_event(struct peer *p, const uint32_t *pending, int64_t deadline)
{
    fabric(p)->arm(p->ep);
    peer_reap(p); /* completions from before the event was armed */
    if (!load_acquire_u32(pending))
        return false;
    struct pollfd on[2] = {{.fd = p->wake_fd, .events = POLLIN}, {.fd = fabric(p)->ep_fd(p->ep), .events = POLLIN}};
    p->sleeper = true;
    core_unlock(&p->lock);
    fetch_add_u64(&p->ctx->stats.wakeups, 1);
    bool signal = poll(on, 2, deadline_poll_ms(deadline, 1000)) < 0 && errno == EINTR;
    core_lock(&p->lock);
    p->sleeper = false;
    uint64_t wakes;
    if (on[0].revents && read(p->wake_fd, &wakes, sizeof wakes) < 0) {
        /* EAGAIN: no thread has woken it. A wake after poll() makes the next sleep short */
    }
    peer_reap(p);
    pthread_cond_broadcast(&p->cond);
    return signal;
}

static void sleep_behind(struct peer *p, int64_t deadline)
{
    struct timespec until = clock_time(deadline);
    pthread_cond_timedwait(&p->cond, &p->lock, &until);
}

/* How long a waiter polls before it sleeps: spin_ns, and on a stream what the bytes on their way take at 4 GB/s, which
 * keep the processors of both sides busy anyway. Under peer->lock. */
static int64_t spin_time(const struct peer *p)
{
    enum { MOST = 4 << 20 };
    uint64_t bytes = p->ep && p->dev->streams ? p->ep->bytes : 0;
    return deadline_earlier(p->ctx->spin_ns, WAIT_SLICE_NS) + (int64_t)(bytes < MOST ? bytes : MOST) / 4;
}

/* Whether bytes of ops have been moved since it was asked last. Under peer->lock. */
static bool moves(const struct peer *p, uint64_t *moved)
{
    uint64_t before = *moved;
    *moved = p->ep ? p->ep->moved : 0;
    return *moved != before;
}

/* Polls for spin_time(), counted from the last bytes on that an op has moved, but no longer than a slice; returns
 * true once *pending is 0. *slice: the end of that slice, or 0 if nothing was polled. A poll reads memory that the
 * device writes and is cheap: a few polls cost as much as taking the lock, or as reading the clock. So there are
 * POLLS of them for each of these. On a stream a thread of the owner answers, which may be of this host and wait for
 * this processor: it is let ahead. */
static bool spin(struct peer *p, const uint32_t *pending, int64_t deadline, int64_t *slice)
{
    enum { POLLS = 8 };
    int64_t until = 0, most = deadline_earlier(p->ctx->spin_ns, WAIT_SLICE_NS);
    uint64_t moved = 0;
    bool yields = p->dev->streams;
    *slice = 0;
    if (!most) /* what was there at once has been reaped by the thread that posted */
        return false;
    for (;;) {
        if (core_trylock(&p->lock)) {
            for (int i = 0; i < POLLS && load_acquire_u32(pending); i++)
                peer_reap(p);
            if (moves(p, &moved))
                until = 0;
            most = spin_time(p);
            core_unlock(&p->lock);
        } else { /* another thread reaps */
            cpu_relax();
        }
        if (!load_acquire_u32(pending))
            return true;
        int64_t now = clock_ns();
        if (!*slice)
            *slice = now + WAIT_SLICE_NS;
        if (!until)
            until = deadline_earlier(deadline_earlier(deadline, *slice), now + most);
        if (now >= until)
            return false;
        if (yields)
            sched_yield();
    }
}

/* On a device that has stalled, this is the only limit. Under peer->lock. */
int64_t peer_give_up_at(const struct peer *p) { return ctx_give_up_at(p->ctx, p->ep ? p->ep->bytes : 0); }

/* wait_interrupted(); also true in a child that a handler has forked. There a thread that the child does not have may
 * have held the lock. Under peer->lock, released meanwhile. */
static bool interrupted(struct peer *p)
{
    core_unlock(&p->lock);
    bool yes = wait_interrupted();
    if (ctx_forked(p->ctx)) {
        pthread_mutex_init(&p->lock, NULL);
        yes = true;
    }
    core_lock(&p->lock);
    return yes;
}

/* Sleeps until there may be completions, or 'until'. Returns true for a signal. Under peer->lock, released
 * meanwhile. */
static bool sleep_while_pending(struct peer *p, const uint32_t *pending, int64_t until)
{
    if (p->ep && !p->sleeper)
        return sleep_on_event(p, pending, until);
    sleep_behind(p, until);
    return false;
}

/* Sleeps at most until the end of the slice, which is replaced by the next then: sleeps that bytes end early have one
 * together. Returns false if a signal handler or dsm_stop() wants the wait to end. Under peer->lock, released
 * meanwhile. */
static bool sleep_slice(struct peer *p, const uint32_t *pending, int64_t deadline, int64_t *slice)
{
    bool signal = sleep_while_pending(p, pending, deadline_earlier(deadline, *slice));
    if (!load_acquire_u32(pending))
        return true;
    if (signal || clock_ns() >= *slice) {
        if (interrupted(p))
            return false;
        *slice = deadline_after(WAIT_SLICE_NS);
    }
    return !wait_stopped(); /* last: interrupted() gives the lock back, and may run a handler that stops the ops */
}

/* Waits until aborted ops have ended, which does not take long. Under peer->lock, released meanwhile. */
static void drain(struct peer *p, const uint32_t *pending)
{
    while (load_acquire_u32(pending))
        sleep_while_pending(p, pending, deadline_after(WAIT_SLICE_NS));
}

void peer_abort(struct peer *p)
{
    core_lock(&p->lock);
    struct fabric_ep *e = p->ep;
    peer_cut(p);
    /* another thread may replace it meanwhile: e is gone then, and its ops have ended once 'closing' is false */
    while (p->closing || (e && p->ep == e && e->broken && e->inflight))
        sleep_while_pending(p, p->closing ? NULL : &e->inflight, deadline_after(WAIT_SLICE_NS));
    core_unlock(&p->lock);
}

bool peer_sleep(struct peer *p, const uint32_t *pending, int64_t limit)
{
    if (clock_ns() < limit) {
        int64_t slice = deadline_after(WAIT_SLICE_NS);
        sleep_slice(p, pending, limit, &slice);
        return false;
    }
    peer_reap(p);
    if (!load_acquire_u32(pending))
        return false;
    store_relaxed_u32(&p->late, 1 + !p->round);
    p->lost = true;
    peer_cut(p);
    drain(p, pending);
    store_relaxed_u32(&p->late, 0);
    return true;
}

int peer_wait(struct peer *p, const uint32_t *pending, int64_t deadline)
{
    int rc = 0;
    int64_t slice;
    if (!load_acquire_u32(pending) || spin(p, pending, deadline, &slice))
        return 0;
    if (!slice)
        slice = deadline_after(WAIT_SLICE_NS);
    core_lock(&p->lock);
    bool own = deadline == DEADLINE_NEVER; /* the limit is the core's, and not the caller's */
    if (own)
        deadline = peer_give_up_at(p);
    for (bool go_on = !wait_stopped(); load_acquire_u32(pending); go_on = sleep_slice(p, pending, deadline, &slice)) {
        if (go_on && clock_ns() < deadline)
            continue;
        if (ctx_forked(p->ctx)) { /* the ops and the device are the parent's */
            rc = -DSM_EFORK;
            break;
        }
        peer_reap(p); /* the ops may have completed in time */
        if (load_acquire_u32(pending)) {
            p->suspect |= go_on;
            p->lost |= go_on && own;
            peer_cut(p);
            drain(p, pending);
            rc = -DSM_ETIME;
        }
        break;
    }
    core_unlock(&p->lock);
    return rc;
}

/* ---- an endpoint for ops that come ---- */

/* Waits for the ops of the endpoint, so that it can be replaced by one on another path. On success no op is posted
 * until p->moving is false. Under p->control_lock. */
static int leave_path(struct peer *p, int64_t deadline)
{
    if (clock_ns() < p->held)
        return err_set(DSM_EPATH, 0, "%s", p->address);
    int64_t slice = deadline_after(WAIT_SLICE_NS);
    core_lock(&p->lock);
    p->moving = true;
    for (bool go_on = true; go_on && p->ep->inflight && clock_ns() < deadline;)
        go_on = sleep_slice(p, &p->ep->inflight, deadline, &slice);
    p->moving = !p->ep->inflight;
    bool idle = p->moving;
    core_unlock(&p->lock);
    return idle ? 0 : err_set(DSM_ETIME, 0, "ops go on to %s by a path on which atomics can't", p->address);
}

/* The endpoint is usable, but its path leads to a device of the owner that must not execute atomics. */
static int move_to_atomics(struct peer *p, int64_t deadline)
{
    int rc = leave_path(p, deadline);
    if (rc)
        return rc;
    rc = make_endpoint(p, true, deadline);
    core_lock(&p->lock);
    p->moving = false;
    if (rc)
        peer_cut(p); /* the owner may have closed its end */
    core_unlock(&p->lock);
    return rc;
}

int peer_ready(struct peer *p, bool atomics, int64_t deadline)
{
    int rc = peer_lock_control(p, deadline);
    if (rc)
        return rc;
    if (!usable(p))
        rc = make_endpoint(p, atomics, deadline);
    else if (!path_takes(p, p->path, atomics))
        rc = move_to_atomics(p, deadline);
    pthread_mutex_unlock(&p->control_lock);
    return rc;
}
