/*
 * Ops. All are checked first. Then those on mapped memory are executed at once, and the rest are posted, one list for
 * each peer. Then the caller waits.
 *
 * A ticket has room for TICKET_GROUPS peers at a time. The ops from index t->posted on have found no room; they are
 * posted when all groups are complete.
 *
 * With go_on the ops are passed over several times. An op is open if it is to be posted in the next pass: its status is
 * ECANCELED, and it was never sent (cause is 0). All are open at first, but for those that are refused before.
 */
#include "../base/deadline.h"
#include "../base/mapped_ops.h"
#include "bulk.h"
#include "remote.h"

#include <errno.h>
#include <stdlib.h>

static const uint32_t right_of[] = {
    [DSM_OP_READ] = DSM_READ,
    [DSM_OP_WRITE] = DSM_WRITE,
    [DSM_OP_FETCH_ADD] = DSM_ATOMIC,
    [DSM_OP_COMPARE_SWAP] = DSM_ATOMIC,
};

/* Of a READ or WRITE. */
static int check_pieces(const dsm_op *op)
{
    if (op->second_nbytes > op->nbytes)
        return err_set(DSM_EINVAL, 0, "the second piece has %llu of %llu bytes", (unsigned long long)op->second_nbytes,
                       (unsigned long long)op->nbytes);
    bool missing = (!op->local && op->nbytes > op->second_nbytes) || (!op->second && op->second_nbytes);
    return missing || !op->nbytes ? err_set(DSM_EINVAL, 0, "no local buffer") : 0;
}

static inline int check_use(const dsm_ctx *c, const dsm_op *op)
{
    if (op->code < DSM_OP_READ || op->code > DSM_OP_COMPARE_SWAP || (op->flags & ~DSM_OP_FENCE))
        return err_set(DSM_EINVAL, 0, "op code %u, flags %u", op->code, op->flags);
    if (!op->remote || (op->remote->ctx && op->remote->ctx != c))
        return err_set(DSM_EINVAL, 0, "the remote belongs to another context");
    if (right_of[op->code] == DSM_ATOMIC)
        return op->nbytes == 8 ? 0 : err_set(DSM_EINVAL, 0, "an atomic of other than 8 bytes");
    return op->local && !op->second_nbytes ? 0 : check_pieces(op);
}

static inline int check_access(const dsm_op *op)
{
    return remote_check(op->remote, op->offset, op->nbytes, right_of[op->code]);
}

static inline int check(const dsm_ctx *c, const dsm_op *op)
{
    int rc = check_use(c, op);
    return rc ? rc : check_access(op);
}

static bool is_open(const dsm_op *op) { return op->status == -DSM_ECANCELED && !op->cause; }

/* ---- posting ---- */

static inline bool is_atomic(const dsm_op *op) { return op->code >= DSM_OP_FETCH_ADD; }

static struct op_group *group_of(dsm_ticket *t, struct peer *p)
{
    for (size_t i = 0; i < t->ngroups; i++)
        if (t->groups[i].peer == p)
            return &t->groups[i];
    if (t->ngroups == TICKET_GROUPS)
        return NULL;
    struct op_group *g = &t->groups[t->ngroups++];
    *g = (struct op_group){.peer = p, .dev = peer_device(p)};
    return g;
}

void group_end(struct op_group *g, int status)
{
    for (struct fabric_op *w = g->head, *next; w; w = next) {
        next = w->next; /* after its last op the group may be freed */
        fabric_op_done(w, status);
    }
}

/* waits: this thread may wait, and holds no lock. */
static void prepare(struct fabric_dev *d, struct fabric_op *w, bool waits)
{
    w->op->cause = 0;
    if (w->op->nbytes <= d->prepare || fabric_op_prepared(w))
        return;
    errno = 0;
    d->fabric->op_prepare(d, w);
    if (!fabric_op_prepared(w) && errno == ENOMEM && waits &&
        cache_clear(w->op->remote->ctx)) /* it may have had all locked memory */
        d->fabric->op_prepare(d, w);
}

/* Another path may be used now than the one for which the ops were prepared. */
static void prepare_again(struct op_group *g)
{
    struct fabric_dev *d = peer_device(g->peer);
    if (d == g->dev)
        return;
    g->dev = d;
    for (struct fabric_op *w = g->head; w; w = w->next) {
        if (fabric_op_prepared(w))
            d->fabric->op_release(d, w);
        prepare(d, w, false);
    }
}

void group_start(struct op_group *g, int64_t deadline)
{
    enum { TRIES = 8 }; /* other threads may need another path, again and again */
    struct peer *p = g->peer;
    int rc = 0;
    if (!wait_stopped() && peer_post(p, g))
        return;
    deadline = deadline_earlier(deadline, deadline_after(p->ctx->peer_timeout_ns));
    for (int i = 0; i < TRIES && !rc && !wait_stopped(); i++) {
        rc = peer_ready(p, g->atomics, deadline);
        if (rc || wait_stopped())
            break;
        prepare_again(g);
        if (peer_post(p, g))
            return;
        if (!peer_has_paths(p))
            break;
    }
    g->unsent = rc;
    group_end(g, rc && !wait_stopped() ? rc : -DSM_ECANCELED);
}

static inline void fill(dsm_ticket *t, bool open_only)
{
    uint64_t posts = 0;
    t->ngroups = 0;
    for (; t->posted < t->n; t->posted++) {
        dsm_op *op = &t->ops[t->posted];
        if (open_only && !is_open(op))
            continue;
        if (remote_is_mapped(op->remote)) {
            mapped_execute(remote_at(op->remote, 0), op);
            op->status = 0;
            continue;
        }
        struct op_group *g = group_of(t, op->remote->peer);
        if (!g)
            break;
        struct fabric_op *w = &t->work[t->posted];
        w->group = &g->base;
        w->next = NULL;
        if (g->tail)
            g->tail->next = w;
        else
            g->head = w;
        g->tail = w;
        g->base.pending++; /* not shared with other threads yet */
        g->atomics |= is_atomic(op);
        prepare(g->dev, w, !t->started);
        posts++;
    }
    t->divided |= t->posted < t->n; /* the rest does not ask what becomes of these */
    if (posts)
        fetch_add_u64(&t->ctx->stats.posts, posts);
}

void ticket_fill(dsm_ticket *t)
{
    if (t->how.go_on || t->resumed)
        fill(t, true);
    else
        fill(t, false);
}

/* Posts as many ops as the groups have room for. */
static void post_some(dsm_ticket *t, int64_t deadline)
{
    ticket_fill(t);
    if (!t->ngroups)
        return;
    const uint32_t *before = wait_until_stopped(t->how.stop);
    for (size_t i = 0; i < t->ngroups; i++)
        if (i && clock_ns() >= deadline) /* connecting to those before it has used up the time */
            group_end(&t->groups[i], -DSM_ETIME);
        else
            group_start(&t->groups[i], deadline);
    wait_until_stopped(before);
}

/* Nothing is posted because of op i. Returns rc. */
static int refuse_all(dsm_op *ops, size_t n, size_t i, int rc, size_t *failed)
{
    for (size_t k = 0; k < n; k++) {
        ops[k].status = k == i ? rc : -DSM_ECANCELED;
        ops[k].cause = 0;
    }
    if (failed)
        *failed = i;
    return rc;
}

/* With go_on: an op that its remote refuses fails alone. */
static int check_each(dsm_ctx *c, dsm_op *ops, size_t n, size_t *failed)
{
    for (size_t i = 0; i < n; i++) {
        int rc = check_use(c, &ops[i]);
        if (rc)
            return refuse_all(ops, n, i, rc, failed);
    }
    bool posts = false;
    for (size_t i = 0; i < n; i++) {
        int rc = check_access(&ops[i]);
        ops[i].status = rc ? rc : -DSM_ECANCELED;
        ops[i].cause = 0;
        posts |= !remote_is_mapped(ops[i].remote);
    }
    return posts;
}

int ticket_check(dsm_ctx *c, dsm_op *ops, size_t n, const dsm_choice *how, size_t *failed)
{
    if (ctx_forked(c))
        return refuse_all(ops, n, 0, refuse_forked(), failed);
    if (how->go_on)
        return check_each(c, ops, n, failed);
    bool posts = false;
    for (size_t i = 0; i < n; i++) {
        int rc = check(c, &ops[i]);
        if (rc)
            return refuse_all(ops, n, i, rc, failed);
        posts |= !remote_is_mapped(ops[i].remote);
    }
    return posts;
}

/* Fills a ticket for ops that have been checked. From now on the remotes are in use by them, until outcome(); those of
 * ops that are executed before the caller goes on need no count. */
static void fill_ticket(dsm_ticket *t, dsm_ctx *c, dsm_op *ops, size_t n, const dsm_choice *how, bool shared)
{
    struct fabric_op *work = t->work;
    t->ctx = c;
    t->ops = ops;
    t->n = n;
    t->posted = t->ngroups = t->left = 0;
    t->shared = shared;
    t->started = t->divided = false;
    t->how = *how;
    t->open = SIZE_MAX;
    t->idle = t->resumed = t->asked = t->late = 0;
    t->due = 0;
    t->asks = NULL;
    for (size_t i = 0; work && i < n; i++)
        work[i] = (struct fabric_op){.op = &ops[i]};
    for (size_t i = 0; (work || shared) && i < n; i++)
        if (shared || !remote_is_mapped(ops[i].remote))
            fetch_add_u32(&ops[i].remote->users, 1);
}

int ticket_make(dsm_ctx *c, dsm_op *ops, size_t n, const dsm_choice *how, bool started, dsm_ticket **out,
                size_t *failed)
{
    int rc = ticket_check(c, ops, n, how, failed);
    if (rc < 0)
        return rc;
    dsm_ticket *t = ticket_take(c, rc ? n : 0);
    if (!t)
        return refuse_all(ops, n, 0, err_set(DSM_ENOMEM, 0, "%zu ops", n), failed);
    if (!rc)
        t->work = NULL;
    fill_ticket(t, c, ops, n, how, true);
    t->started = started;
    *out = t;
    return 0;
}

static void submit(dsm_ticket *t, int64_t deadline)
{
    if (ticket_stopped(t))
        ticket_give_up_rest(t, -DSM_ECANCELED);
    else
        post_some(t, deadline);
}

static const dsm_choice plainly; /* no choice */

int dsm_submit(dsm_ctx *c, dsm_op *ops, size_t n, dsm_ticket **out, size_t *failed)
{
    int rc = ticket_make(c, ops, n, &plainly, false, out, failed);
    if (!rc)
        submit(*out, DEADLINE_NEVER);
    return rc;
}

dsm_op *dsm_ticket_ops(const dsm_ticket *t) { return t->ops; }

/* ---- completion ---- */

/* Asks the owner of op i why its device has refused the op, once for all ops on this remote that were refused: the NIC
 * reports both a closed region and a missing right as a remote access error. Their status becomes ESTALE if the region
 * was closed, EPEER if the owner is gone. A closed region stays closed, so with go_on the open ops on it need not be
 * posted. The end of the ticket's wait (dsm_stop) ends this one, too. */
static bool same_memory(const dsm_remote *a, const dsm_remote *b)
{
    return a->peer == b->peer && a->region == b->region && a->generation == b->generation;
}

static void find_cause(dsm_ticket *t, size_t i, int64_t deadline)
{
    dsm_remote *r = t->ops[i].remote;
    const uint32_t *before = wait_until_stopped(t->how.stop);
    int rc = peer_lock_control(r->peer, deadline);
    if (!rc) {
        rc = r->ctx->control->status(r->peer, r->region, r->generation, deadline);
        pthread_mutex_unlock(&r->peer->control_lock);
    }
    wait_until_stopped(before);
    for (size_t k = i; k < t->n; k++) {
        dsm_op *op = &t->ops[k];
        if (op->remote != r && !same_memory(op->remote, r))
            continue;
        if (op_refused(t, k)) {
            t->work[k].group = NULL;
            if (rc == -DSM_ESTALE || rc == -DSM_EPEER)
                op->status = rc;
        } else if (rc == -DSM_ESTALE && t->how.go_on && is_open(op)) {
            op->status = -DSM_ESTALE;
        }
    }
}

static void find_causes(dsm_ticket *t, size_t i, bool of_dead, int64_t deadline)
{
    for (; i < t->n; i++) {
        if (!op_unexplained(t, i) || (!of_dead && load_relaxed_u32(&t->ops[i].remote->peer->dead)))
            continue;
        if (op_in_doubt(t, i) && !t->late)
            doubt_settle(t, i, deadline);
        if (op_refused(t, i))
            find_cause(t, i, deadline);
    }
}

/* There is one time for all questions. An owner that is dead may take all of it, so it is the last to be asked. */
void ticket_find_causes(dsm_ticket *t, int64_t deadline)
{
    size_t first = 0;
    while (first < t->n && !op_unexplained(t, first))
        first++;
    if (first == t->n)
        return;
    deadline = deadline_earlier(deadline, deadline_after(t->ctx->peer_timeout_ns));
    find_causes(t, first, false, deadline);
    find_causes(t, first, true, deadline);
}

bool ticket_again(dsm_ticket *t)
{
    enum { IDLE_PASSES = 8 }; /* other threads' failures, again and again */
    size_t open = 0;
    if (ticket_resume(t, t->due ? t->due : DEADLINE_NEVER))
        return true;
    if (!t->how.go_on)
        return false;
    for (size_t i = 0; i < t->n; i++)
        open += is_open(&t->ops[i]);
    t->idle = open < t->open ? 0 : t->idle + 1;
    t->open = open;
    if (!open || t->idle == IDLE_PASSES)
        return false;
    t->posted = 0;
    t->divided = true;
    return true;
}

/* Whether the op ended because something else ended its connection. */
static bool was_cancelled(const dsm_op *op)
{
    return op->status == -DSM_ECANCELED || (op->status == -DSM_EUNKNOWN && op->cause == -DSM_ECANCELED);
}

/* Says why a cancelled op was cancelled. */
static void set_reason(dsm_op *op, int reason)
{
    if (op->status == -DSM_EUNKNOWN)
        op->cause = (int16_t)reason;
    else
        op->status = reason;
}

/* The first op that failed by itself; if there is none, the first that was cancelled; NULL if no op failed. */
static const dsm_op *find_first_error(dsm_ticket *t, int64_t deadline)
{
    const dsm_op *first = NULL;
    bool asked = t->started;
    for (size_t i = 0; i < t->n; i++) {
        dsm_op *op = &t->ops[i];
        if (op->status && !asked) {
            ticket_find_causes(t, deadline);
            asked = true;
        }
        if (!op->status)
            continue;
        if (was_cancelled(op) && t->late)
            set_reason(op, -DSM_ETIME);
        if (was_cancelled(op) && load_relaxed_u32(&op->remote->peer->dead))
            set_reason(op, -DSM_EPEER);
        path_set_reason(op);
        if (!first || (was_cancelled(first) && !was_cancelled(op)))
            first = op;
    }
    return first;
}

static int report(const dsm_ticket *t, const dsm_op *op)
{
    int cause = op->status == -DSM_EUNKNOWN ? -op->cause : 0;
    bool certain = op->code != DSM_OP_READ && op->status == -DSM_ETIME;
    return err_set_op(-op->status, cause, op->wc_status, op->vendor, "op %zu of %zu to %s%s", (size_t)(op - t->ops),
                      t->n, op->remote->peer->address,
                      certain ? " was not executed; the deadline passed, allow it more time" : "");
}

static int outcome(dsm_ticket *t, int64_t deadline, size_t *failed)
{
    const dsm_op *first = find_first_error(t, deadline);
    int rc = first ? report(t, first) : 0;
    if (first && failed)
        *failed = (size_t)(first - t->ops);
    for (size_t i = 0; i < t->n; i++) { /* last, as the remotes may be closed afterwards */
        dsm_op *op = &t->ops[i];
        bool mapped = remote_is_mapped(op->remote);
        if (mapped && !t->shared)
            continue;
        if (!mapped && fabric_op_prepared(&t->work[i])) {
            struct fabric_dev *d = op->remote->peer->dev;
            d->fabric->op_release(d, &t->work[i]);
        }
        fetch_sub_u32(&op->remote->users, 1);
    }
    return rc;
}

/* Ends the ops that have not been posted with 'status': they are too late, dsm_cancel() is in progress, or dsm_stop()
 * was called. */
void ticket_give_up_rest(dsm_ticket *t, int status)
{
    for (; t->posted < t->n; t->posted++) {
        dsm_op *op = &t->ops[t->posted];
        if (t->how.go_on || t->resumed) {
            op->status = is_open(op) ? status : op->status;
            continue;
        }
        op->status = status;
        op->cause = 0;
    }
}

/* A signal handler has forked during the wait, and this is the child. Its parent goes on with the ops. The child must
 * not touch the device, where they are the parent's; the ticket is not given back, as the device's lists name it. */
static int abandon(dsm_ticket *t)
{
    for (size_t i = 0; i < t->n; i++) {
        t->ops[i].status = -DSM_EFORK;
        t->ops[i].cause = 0;
    }
    return refuse_forked();
}

/* Returns whether ops were given up at the deadline, or because a signal handler wants that or has forked. */
static bool wait_for_groups(dsm_ticket *t, int64_t deadline)
{
    bool late = false;
    if (!t->ngroups)
        return false;
    const uint32_t *before = wait_until_stopped(t->how.stop);
    for (size_t i = 0; i < t->ngroups; i++) {
        int rc = peer_wait(t->groups[i].peer, &t->groups[i].base.pending, deadline);
        late = late || rc == -DSM_EFORK || (rc && !wait_stopped());
        if (rc == -DSM_EFORK)
            break;
    }
    wait_until_stopped(before);
    return late;
}

/* Whether ops are to be posted again. */
static bool again(dsm_ticket *t, int64_t deadline)
{
    if (ticket_stopped(t))
        return false;
    ticket_find_causes(t, deadline);
    return ticket_again(t);
}

/* With go_on a pass ends when the table of groups is full: what comes behind must not overtake what is posted again. */
static int finish(dsm_ticket *t, int64_t deadline, size_t *failed)
{
    if (t->started)
        return outcome(t, deadline, failed);
    for (;;) {
        t->late |= wait_for_groups(t, deadline);
        if (t->late && ctx_forked(t->ctx))
            return abandon(t);
        if (t->how.go_on ? t->late || !again(t, deadline) : t->posted == t->n && !ticket_resume(t, deadline))
            break;
        if (t->resumed && deadline == DEADLINE_NEVER)
            deadline = t->due;
        if (t->late || clock_ns() >= deadline)
            ticket_give_up_rest(t, -DSM_ETIME);
        else if (ticket_stopped(t))
            ticket_give_up_rest(t, -DSM_ECANCELED);
        else
            post_some(t, deadline);
    }
    return outcome(t, deadline, failed);
}

int dsm_finish(dsm_ticket *t, int64_t timeout_ns, size_t *failed)
{
    if (ctx_forked(t->ctx))
        return refuse_forked();
    int rc = finish(t, deadline_after(timeout_ns), failed);
    if (rc != -DSM_EFORK)
        ticket_give_back(t);
    return rc;
}

/* The ops have been checked. posts: not all of them are on mapped memory. */
static int run(dsm_ctx *c, dsm_op *ops, size_t n, bool posts, const dsm_choice *how, int64_t timeout_ns, size_t *failed)
{
    dsm_ticket here, *t = &here;
    int64_t deadline = deadline_after(timeout_ns);
    here.work = NULL;
    if (posts && !(t = ticket_take(c, n)))
        return refuse_all(ops, n, 0, err_set(DSM_ENOMEM, 0, "%zu ops", n), failed);
    fill_ticket(t, c, ops, n, how, false);
    submit(t, deadline);
    int rc = finish(t, deadline, failed);
    if (posts && rc != -DSM_EFORK)
        ticket_give_back(t);
    return rc;
}

/* Nothing of what was to be copied is executed. */
static int too_late(dsm_op *ops, size_t n, size_t *failed)
{
    for (size_t i = 0; i < n; i++) {
        ops[i].status = -DSM_ETIME;
        ops[i].cause = 0;
    }
    if (failed)
        *failed = 0;
    return err_set(DSM_ETIME, 0, "%zu ops to %s; the deadline passed before any was executed, allow them more time", n,
                   ops->remote->peer->address);
}

/* run(), by the way for bulk if the ops suit it. The first op's remote has one. */
static int run_bulk(dsm_ctx *c, dsm_op *ops, size_t n, const dsm_choice *how, int64_t timeout_ns, size_t *failed)
{
    struct bulk_ahead ahead;
    int64_t deadline = deadline_after(timeout_ns), left;
    if (!bulk_begin(&ahead, ops, n))
        return run(c, ops, n, true, how, timeout_ns, failed);
    int rc = run(c, ahead.ops, ahead.n, true, how, timeout_ns, NULL);
    bool copied = !rc && !(how->stop && load_acquire_u32(how->stop)) && bulk_copy(c, ops, n);
    bulk_end(ops, n);
    if (copied)
        return 0;
    if (rc == -DSM_EFORK)
        return refuse_all(ops, n, 0, rc, failed);
    if (rc == -DSM_ETIME)
        return too_late(ops, n, failed);
    left = deadline == DEADLINE_NEVER ? -1 : deadline - clock_ns();
    return run(c, ops, n, true, how, deadline == DEADLINE_NEVER || left > 0 ? left : 0, failed);
}

int ops_run(dsm_ctx *c, dsm_op *ops, size_t n, int64_t timeout_ns)
{
    return ops->remote->bulk ? run_bulk(c, ops, n, &plainly, timeout_ns, NULL)
                             : run(c, ops, n, true, &plainly, timeout_ns, NULL);
}

/* run() for ops on mapped memory, of which none is to be left out. */
static int run_mapped(dsm_op *ops, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        mapped_execute(remote_at(ops[i].remote, 0), &ops[i]);
        ops[i].status = 0;
    }
    return 0;
}

int dsm_execute_as(dsm_ctx *c, dsm_op *ops, size_t n, const dsm_choice *how, int64_t timeout_ns, size_t *failed)
{
    int rc = ticket_check(c, ops, n, how, failed);
    if (rc < 0)
        return rc;
    if (!rc && !how->go_on && !(how->stop && load_acquire_u32(how->stop)))
        return run_mapped(ops, n);
    if (rc && ops->remote->bulk && !how->go_on)
        return run_bulk(c, ops, n, how, timeout_ns, failed);
    return run(c, ops, n, rc, how, timeout_ns, failed);
}

int dsm_execute(dsm_ctx *c, dsm_op *ops, size_t n, int64_t timeout_ns, size_t *failed)
{
    return dsm_execute_as(c, ops, n, &plainly, timeout_ns, failed);
}

/* ---- single ops ---- */

/* run() for a single op, without the loops over ops and groups. The op has been checked. */
static void post_one(dsm_ticket *t, int64_t deadline)
{
    struct peer *p = t->ops->remote->peer;
    struct op_group *g = &t->groups[0];
    *g = (struct op_group){.base.pending = 1,
                           .peer = p,
                           .dev = peer_device(p),
                           .atomics = is_atomic(t->ops),
                           .head = t->work,
                           .tail = t->work};
    t->work->next = NULL; /* posted again: the fabric has linked others behind it */
    prepare(g->dev, t->work, true);
    fetch_add_u64(&t->ctx->stats.posts, 1);
    group_start(g, deadline);
    t->late = load_acquire_u32(&g->base.pending) && peer_wait(p, &g->base.pending, deadline);
}

static int run_one(dsm_op *op, int64_t timeout_ns)
{
    int64_t deadline = deadline_after(timeout_ns);
    dsm_ticket t;
    struct fabric_op w = {.op = op, .group = &t.groups[0].base};
    t.ctx = op->remote->ctx;
    t.ops = op;
    t.work = &w;
    t.n = t.ngroups = 1;
    t.started = t.shared = t.divided = false;
    t.resumed = 0;
    t.due = 0;
    t.how = plainly;
    fetch_add_u32(&op->remote->users, 1);
    t.posted = 1;
    post_one(&t, deadline);
    while (op->status && ticket_resume(&t, deadline)) {
        if (deadline == DEADLINE_NEVER)
            deadline = t.due;
        t.posted = 1;
        post_one(&t, deadline);
    }
    if (t.late && ctx_forked(t.ctx))
        return abandon(&t);
    if (op->status || fabric_op_prepared(&w))
        return outcome(&t, deadline, NULL);
    fetch_sub_u32(&op->remote->users, 1);
    return 0;
}

/* On memory that is not mapped. These are functions of their own, and end the calls below as remote_refuse() does, so
 * that an op on mapped memory saves no registers on the stack. */
#define APART static __attribute__((noinline))

APART int remote_move(dsm_remote *r, uint8_t code, uint64_t offset, void *local, uint64_t nbytes, int64_t timeout_ns)
{
    dsm_op op = {.code = code, .remote = r, .offset = offset, .local = local, .nbytes = nbytes};
    if (nbytes >= DSM_BULK && r->bulk)
        return run_bulk(r->ctx, &op, 1, &plainly, timeout_ns, NULL);
    return run_one(&op, timeout_ns);
}

APART int remote_fetch_add(dsm_remote *r, uint64_t offset, uint64_t add, uint64_t *old, int64_t timeout_ns)
{
    dsm_op op = {.code = DSM_OP_FETCH_ADD, .remote = r, .offset = offset, .nbytes = 8, .operand = add};
    int rc = run_one(&op, timeout_ns);
    *old = op.result;
    return rc;
}

APART int remote_compare_swap(dsm_remote *r, uint64_t offset, uint64_t expected, uint64_t desired, uint64_t *old,
                              int64_t timeout_ns)
{
    dsm_op op = {.code = DSM_OP_COMPARE_SWAP,
                 .remote = r,
                 .offset = offset,
                 .nbytes = 8,
                 .operand = expected,
                 .desired = desired};
    int rc = run_one(&op, timeout_ns);
    *old = op.result;
    return rc;
}

int dsm_read(dsm_remote *r, uint64_t offset, void *out, uint64_t nbytes, int64_t timeout_ns)
{
    if (!remote_allows(r, offset, nbytes, DSM_READ))
        return remote_refuse(r, offset, nbytes, DSM_READ, false);
    if (!remote_is_mapped(r))
        return remote_move(r, DSM_OP_READ, offset, out, nbytes, timeout_ns);
    mapped_read(remote_at(r, offset), out, nbytes);
    return 0;
}

int dsm_write(dsm_remote *r, uint64_t offset, const void *data, uint64_t nbytes, int64_t timeout_ns)
{
    if (!remote_allows(r, offset, nbytes, DSM_WRITE))
        return remote_refuse(r, offset, nbytes, DSM_WRITE, false);
    if (!remote_is_mapped(r))
        return remote_move(r, DSM_OP_WRITE, offset, (void *)(uintptr_t)data, nbytes, timeout_ns);
    mapped_write(remote_at(r, offset), data, nbytes);
    return 0;
}

int dsm_fetch_add(dsm_remote *r, uint64_t offset, uint64_t add, uint64_t *old, int64_t timeout_ns)
{
    if (!remote_allows(r, offset, 8, DSM_ATOMIC))
        return remote_refuse(r, offset, 8, DSM_ATOMIC, true);
    if (!remote_is_mapped(r))
        return remote_fetch_add(r, offset, add, old, timeout_ns);
    *old = fetch_add_u64((uint64_t *)(void *)(remote_at(r, offset)), add);
    return 0;
}

int dsm_compare_swap(dsm_remote *r, uint64_t offset, uint64_t expected, uint64_t desired, uint64_t *old,
                     int64_t timeout_ns)
{
    if (!remote_allows(r, offset, 8, DSM_ATOMIC))
        return remote_refuse(r, offset, 8, DSM_ATOMIC, true);
    if (!remote_is_mapped(r))
        return remote_compare_swap(r, offset, expected, desired, old, timeout_ns);
    *old = compare_swap_u64((uint64_t *)(void *)(remote_at(r, offset)), expected, desired);
    return 0;
}
