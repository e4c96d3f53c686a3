/*
 * Ops for event loops: no function that a loop calls waits. Whatever may wait is done by the peer's helper thread:
 * connecting, asking the owner why it refused an op, and aborting an op that does not complete. It also connects again
 * where that must not wait for an op (core/rejoin.c). The core starts the helper with the first of these and ends it
 * with the peer.
 *
 * The thread that ends the last op of a group calls async_done(), which pushes the group onto a lock-free stack and
 * makes the context's event file descriptor readable if the stack was empty. dsm_completed() takes the whole stack. It
 * returns each complete ticket exactly once; until then the ticket belongs to the core. The descriptor stays readable
 * until dsm_completed() has returned NULL.
 */
#include "../base/deadline.h"
#include "../base/thread.h"
#include "remote.h"

#include <errno.h>
#include <unistd.h>

static bool async_begin(dsm_ticket *t);

/* ---- completion ---- */

static void make_readable(dsm_ctx *c)
{
    uint64_t one = 1;
    if (write(c->event, &one, sizeof one) < 0) {
        /* EAGAIN: the counter is full, so the descriptor is readable */
    }
}

static void announce(dsm_ctx *c, struct op_group *g)
{
    uint64_t mine = (uintptr_t)g, head, found = load_acquire_u64(&c->done);
    do {
        head = found;
        g->next = (struct op_group *)(uintptr_t)head;
    } while ((found = compare_swap_u64(&c->done, head, mine)) != head);
    if (!head)
        make_readable(c);
}

static bool has_begun(const struct peer *p, uint32_t round)
{
    const uint32_t *async = &p->async[round];
    return load_acquire_u32(async);
}

/* What was posted again must end by a time of its own. */
static void due_join(struct peer *p, struct op_group *g)
{
    if (!g->ticket->due)
        return;
    core_lock(&p->ctx->tickets_lock);
    g->next = p->due;
    p->due = g;
    core_unlock(&p->ctx->tickets_lock);
}

static void due_leave(struct peer *p, const struct op_group *g)
{
    if (!g->ticket->due)
        return;
    core_lock(&p->ctx->tickets_lock);
    for (struct op_group **at = &p->due; *at; at = &(*at)->next)
        if (*at == g) {
            *at = g->next;
            break;
        }
    core_unlock(&p->ctx->tickets_lock);
}

/* Gives up the groups whose time is over, and with them what else is on its way. Under peer->lock. */
static void due_give_up(struct peer *p)
{
    int64_t now = clock_ns();
    bool some = false;
    core_lock(&p->ctx->tickets_lock);
    for (struct op_group *g = p->due; g; g = g->next) {
        g->late |= now >= g->ticket->due;
        some |= g->late;
    }
    core_unlock(&p->ctx->tickets_lock);
    if (some) {
        p->suspect = true;
        peer_cut(p);
    }
}

static void async_done(struct fabric_group *base)
{
    struct op_group *g = op_group_of(base);
    struct peer *p = g->peer;
    uint32_t *async = &p->async[g->round];
    dsm_ctx *c = p->ctx;
    due_leave(p, g);
    g->late |= load_relaxed_u32(&p->late) == 1u + g->round;
    fetch_sub_u32(async, 1);
    announce(c, g); /* from here on the group may be freed */
}

/* Appends a group to a list of those that wait for the helper. Under peer->lock. */
static void append(struct op_group ***last, struct op_group *g)
{
    g->next = NULL;
    **last = g;
    *last = &g->next;
}

/* Takes the group off such a list; false: it is not on it. Under peer->lock. */
static bool take_off(struct op_group **list, struct op_group ***last, struct op_group *g)
{
    for (struct op_group **at = list; *at; at = &(*at)->next)
        if (*at == g) {
            *at = g->next;
            if (*last == &g->next)
                *last = at;
            return true;
        }
    return false;
}

/* If an op of the ticket was refused (EACCESS) or is in doubt, lets the peer's helper ask the owner, once for each time
 * that ops of the ticket are posted, and returns true: the ticket is settled after the answer. The time for it runs
 * from now on, so tickets that wait behind one another end together where the owner does not answer. Under
 * c->completed_lock. */
static bool ask_first(dsm_ticket *t)
{
    if (t->asked)
        return false;
    t->asked = 1;
    for (size_t i = 0; i < t->n; i++) {
        struct peer *p = t->ops[i].remote->peer;
        if (!op_unexplained(t, i))
            continue;
        t->left = 1;
        t->asks = p;
        t->until = deadline_after(p->ctx->peer_timeout_ns);
        core_lock(&p->lock);
        bool helped = peer_help(p);
        if (helped) {
            append(&p->ask_last, &t->groups[0]);
            peer_wake(p);
        }
        core_unlock(&p->lock);
        return helped;
    }
    return false;
}

/* All groups of the ticket are complete: posts the ops that have found no room, asks the owner, or appends the ticket
 * to c->ready. Under c->completed_lock. */
static void settle(dsm_ctx *c, dsm_ticket *t)
{
    bool ends = t->late || c->canceling || ticket_stopped(t);
    if (t->posted < t->n && !t->how.go_on) {
        if (ends)
            ticket_give_up_rest(t, t->late ? -DSM_ETIME : -DSM_ECANCELED);
        else if (!async_begin(t))
            return;
    }
    for (;;) { /* with go_on a pass ends when the table of groups is full (core/ops.c) */
        if (!c->canceling && !ticket_stopped(t) && ask_first(t))
            return;
        if (ends || !ticket_again(t))
            break;
        if (!async_begin(t))
            return;
    }
    t->next = NULL;
    *c->ready_last = t;
    c->ready_last = &t->next;
}

/* Takes the groups on c->done and settles the tickets that are complete with them. Under c->completed_lock. */
static void collect(dsm_ctx *c)
{
    struct op_group *g, *list = NULL;
    for (g = (struct op_group *)(uintptr_t)exchange_u64(&c->done, 0); g;) { /* reverses the order: latest first */
        struct op_group *next = g->next;
        g->next = list;
        list = g;
        g = next;
    }
    while ((g = list)) {
        dsm_ticket *t = g->ticket;
        list = g->next;
        t->late |= g->late;
        assert(t->left);
        if (!--t->left)
            settle(c, t);
    }
}

/* No ticket is ready: makes the descriptor unreadable, unless one has become ready meanwhile. Under
 * c->completed_lock. */
static void make_unreadable(dsm_ctx *c)
{
    uint64_t count;
    if (read(c->event, &count, sizeof count) < 0) {
        /* EAGAIN: it was not readable */
    }
    collect(c); /* groups that were announced before the read */
    if (c->ready)
        make_readable(c);
}

/* The caller may be interrupted between two tickets, so the descriptor stays readable until no ticket is left. */
dsm_ticket *dsm_completed(dsm_ctx *c)
{
    if (ctx_forked(c) || c->event < 0)
        return NULL;
    core_lock(&c->completed_lock);
    if (!c->ready)
        collect(c);
    if (!c->ready)
        make_unreadable(c);
    dsm_ticket *t = c->ready;
    if (t && !(c->ready = t->next))
        c->ready_last = &c->ready;
    core_unlock(&c->completed_lock);
    return t;
}

int dsm_event_fd(dsm_ctx *c)
{
    if (ctx_forked(c))
        return refuse_forked();
    if (c->event < 0)
        return err_set(DSM_EUNSUPPORTED, 0, "ops on %s are complete when posted", c->devs[0]->caps.fabric);
    return c->event;
}

/* ---- the helper ---- */

/* Posts a group. Under peer->lock. */
static void post(struct peer *p, struct op_group *g)
{
    due_join(p, g);
    p->dev->fabric->post(p->ep, g->head);
    peer_reap(p);
}

/* Whether another path may be there for the group, where peer_ready() has returned rc for the first that waited. */
static bool may_go_elsewhere(const struct peer *p, const struct op_group *g, int rc)
{
    return peer_has_paths(p) && (!rc || (rc == -DSM_EPATH && !g->atomics));
}

/* Posts a group, perhaps on another path. It is on no list meanwhile: dsm_stop() finds it by its word. With no lock
 * held. */
static void begin_elsewhere(struct peer *p, struct op_group *g)
{
    const uint32_t *before = wait_until_stopped(g->ticket->how.stop);
    if (load_relaxed_u32(&p->parting)) {
        group_end(g, -DSM_ECANCELED);
    } else {
        due_join(p, g);
        group_start(g, DEADLINE_NEVER);
    }
    wait_until_stopped(before);
}

static void end_unsent(struct peer *p, struct op_group *g, int rc)
{
    g->unsent = rc;
    group_end(g, rc && !load_relaxed_u32(&p->parting) ? rc : -DSM_ECANCELED);
}

/* Connects, then posts the groups that wait for the connection, or fails them; last those that need another path. Under
 * peer->lock, released meanwhile. */
static void begin_waiting(struct peer *p)
{
    bool atomics = p->begin->atomics;
    core_unlock(&p->lock);
    int rc = peer_ready(p, atomics, deadline_after(p->ctx->peer_timeout_ns));
    core_lock(&p->lock);
    struct op_group *g = p->begin, *next, *others = NULL, **last = &others;
    p->begin = NULL;
    p->begin_last = &p->begin;
    for (; g; g = next) {
        next = g->next;
        if (!rc && peer_usable(p) && group_fits(p, g))
            post(p, g);
        else if (may_go_elsewhere(p, g, rc))
            append(&last, g);
        else
            end_unsent(p, g, rc);
    }
    core_unlock(&p->lock);
    for (g = others; g; g = next) {
        next = g->next;
        begin_elsewhere(p, g);
    }
    core_lock(&p->lock);
}

/* Asks the owner about the first group on p->ask. Under peer->lock, released meanwhile. */
static void ask_owner(struct peer *p)
{
    struct op_group *g = p->ask;
    take_off(&p->ask, &p->ask_last, g);
    core_unlock(&p->lock);
    ticket_find_causes(g->ticket, g->ticket->until);
    announce(p->ctx, g);
    core_lock(&p->lock);
}

/* Enforces the time limit of groups. Those of the older round must complete by *limit. When the last of them has, the
 * current round becomes the older one and gets a new limit; so groups that complete never extend the time of one that
 * does not. All started groups are posted here, as none waits for a connection. Under peer->lock. */
static void watch(struct peer *p, int64_t *limit)
{
    if (!has_begun(p, !p->round)) {
        p->round = !p->round;
        *limit = peer_give_up_at(p);
    } else if (!*limit) {
        *limit = peer_give_up_at(p);
    }
    due_give_up(p);
    if (peer_sleep(p, &p->async[!p->round], *limit))
        *limit = 0;
}

/* Under peer->lock, released meanwhile. */
static void wait_for_work(struct peer *p)
{
    struct timespec until = clock_time(p->rejoin.at);
    if (p->rejoin.wanted)
        pthread_cond_timedwait(&p->work, &p->lock, &until);
    else
        pthread_cond_wait(&p->work, &p->lock);
}

static void *help(void *arg)
{
    struct peer *p = arg;
    int64_t limit = 0;
    wait_for(&p->parting);
    core_lock(&p->lock);
    while (!load_relaxed_u32(&p->parting)) {
        if (p->begin) {
            begin_waiting(p);
            limit = 0;
        } else if (p->ask) {
            ask_owner(p);
        } else if (p->rejoin.wanted && clock_ns() >= p->rejoin.at) {
            rejoin_try(p);
        } else if (!has_begun(p, 0) && !has_begun(p, 1)) {
            wait_for_work(p);
        } else {
            watch(p, &limit);
        }
    }
    core_unlock(&p->lock);
    return NULL;
}

bool peer_help(struct peer *p)
{
    if (!p->helped)
        p->helped = !thread_start(&p->helper, help, p);
    pthread_cond_signal(&p->work);
    return p->helped;
}

void peer_lost(struct peer *p)
{
    if (!load_relaxed_u32(&p->identities.kept))
        return;
    core_lock(&p->lock);
    rejoin_begin(p);
    peer_help(p);
    core_unlock(&p->lock);
}

void peer_stop_help(struct peer *p)
{
    core_lock(&p->lock);
    bool helped = p->helped;
    store_relaxed_u32(&p->parting, 1);
    pthread_cond_signal(&p->work);
    peer_wake(p);
    core_unlock(&p->lock);
    if (helped)
        pthread_join(p->helper, NULL);
    core_lock(&p->lock);
    p->helped = false;
    store_relaxed_u32(&p->parting, 0);
    struct op_group *begin = p->begin, *ask = p->ask, *next;
    p->begin = p->ask = NULL;
    p->begin_last = &p->begin;
    p->ask_last = &p->ask;
    for (; begin; begin = next) {
        next = begin->next;
        group_end(begin, -DSM_ECANCELED);
    }
    for (; ask; ask = next) {
        next = ask->next;
        announce(p->ctx, ask);
    }
    core_unlock(&p->lock);
}

/* ---- starting ---- */

/* Posts the group if there is a connection; otherwise the helper connects and posts it. */
static void begin(struct op_group *g)
{
    struct peer *p = g->peer;
    core_lock(&p->lock);
    uint32_t *async = &p->async[p->round];
    bool idle = !has_begun(p, 0) && !has_begun(p, 1);
    bool ready = !p->begin && peer_can_post(p) && group_fits(p, g);
    g->round = (uint16_t)p->round;
    fetch_add_u32(async, 1);
    if ((idle || !ready) && !peer_help(p)) {
        group_end(g, -DSM_ENOMEM);
    } else if (ready) {
        post(p, g);
    } else {
        append(&p->begin_last, g);
        peer_wake(p);
    }
    core_unlock(&p->lock);
}

static bool async_begin(dsm_ticket *t)
{
    t->asked = 0;
    ticket_fill(t);
    size_t n = t->ngroups;
    t->left = n;
    for (size_t i = 0; i < n; i++) {
        t->groups[i].ticket = t;
        t->groups[i].base.tell = async_done;
    }
    for (size_t i = 0; i < n; i++) /* after the last of them the ticket may be freed */
        begin(&t->groups[i]);
    return !n;
}

int dsm_start(dsm_ctx *c, dsm_op *ops, size_t n, dsm_ticket **out, size_t *failed)
{
    return dsm_start_as(c, ops, n, &(dsm_choice){0}, out, failed);
}

int dsm_start_as(dsm_ctx *c, dsm_op *ops, size_t n, const dsm_choice *how, dsm_ticket **out, size_t *failed)
{
    int rc = ticket_make(c, ops, n, how, true, out, failed);
    if (rc)
        return rc;
    dsm_ticket *t = *out; /* once it is complete, the caller may overwrite *out */
    if (!ticket_stopped(t))
        return async_begin(t);
    ticket_give_up_rest(t, -DSM_ECANCELED);
    return 1;
}

/* ---- stopping ---- */

static void stop_group(struct op_group *g)
{
    struct peer *p = g->peer;
    core_lock(&p->lock);
    if (load_acquire_u32(&g->base.pending)) {
        if (take_off(&p->begin, &p->begin_last, g))
            group_end(g, -DSM_ECANCELED);
        else
            peer_cut(p);
    }
    core_unlock(&p->lock);
}

/* If the ticket waits behind others for the helper to ask about it, it waits no longer. Under c->completed_lock. */
static void stop_question(dsm_ctx *c, dsm_ticket *t)
{
    struct peer *p = t->asks;
    if (!p)
        return;
    core_lock(&p->lock);
    bool waits = take_off(&p->ask, &p->ask_last, &t->groups[0]);
    core_unlock(&p->lock);
    if (waits)
        announce(c, &t->groups[0]);
}

static void wake_waiters(dsm_op *ops, size_t n)
{
    struct peer *last = NULL;
    for (size_t i = 0; i < n; i++) {
        struct peer *p = remote_is_mapped(ops[i].remote) ? last : ops[i].remote->peer;
        if (p == last)
            continue;
        core_lock(&p->lock);
        peer_wake(p);
        core_unlock(&p->lock);
        last = p;
    }
}

void dsm_stop(dsm_ctx *c, dsm_op *ops, size_t n, uint32_t *stop, dsm_ticket *t)
{
    if (ctx_forked(c))
        return;
    store_release_u32(stop, 1);
    if (!t) {
        wake_waiters(ops, n);
        return;
    }
    core_lock(&c->completed_lock); /* no thread posts more of the ticket meanwhile */
    for (size_t i = 0; i < t->ngroups; i++)
        stop_group(&t->groups[i]);
    stop_question(c, t);
    core_unlock(&c->completed_lock);
}

void async_set_canceling(dsm_ctx *c, bool on)
{
    core_lock(&c->completed_lock);
    if (!on)
        collect(c);
    c->canceling = on;
    core_unlock(&c->completed_lock);
}
