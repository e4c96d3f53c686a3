/*
 * Endpoints of fault.
 *
 * Each op of the user has a shadow op, which the inner fabric executes in its place, once or twice, as a separate
 * group. poll checks which shadows are done and ends the user's ops. e->ops holds the shadows in the order in which the
 * ops were posted, each in one of these steps:
 *   WAITING   behind an op that blocks the endpoint; all ops behind it are WAITING too
 *   FIRST     the first part is posted (group.pending is 1) or done (0)
 *   PAUSED    the first part is done, the second is posted at 'due'
 *   SECOND    as FIRST, for the second part; also an op that is not executed at all
 * Shadows are allocated in chunks when a post needs more than any before. fault is the only fabric whose post
 * allocates.
 *
 * The event fd is an epoll on the inner endpoint's event fd and on a timer for delays and pauses. The timer is set only
 * between arm and the event.
 */
#include "../../base/deadline.h"
#include "fault.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum step { WAITING, FIRST, PAUSED, SECOND };

struct shadow {
    dsm_op op;
    struct fabric_op work; /* of op */
    struct fabric_group group;
    struct shadow *next;
    struct fabric_op *users;
    dsm_op *user;            /* users->op */
    struct fabric_target to; /* op.remote */
    enum step step;
    struct fault_fate fate;
    uint64_t cut;    /* TEAR: length of the first part */
    uint64_t result; /* of an atomic */
    int64_t due;     /* PAUSED: when the second part is posted */
    int64_t release; /* the op is not completed before this time; 0: at once */
};

enum { CHUNK = 64 };
struct chunk {
    struct chunk *next;
    struct shadow shadows[CHUNK];
};

struct fault_ep {
    struct fabric_ep base;
    struct fabric_ep *inner;
    struct shadow *ops, **tail;
    struct shadow *spare;
    struct chunk *chunks;
    int epoll, timer; /* -1 on passive endpoints */
    bool armed;
    bool lost;       /* the acknowledgement of an op was lost, so no outcome behind it is known */
    uint8_t refused; /* 0, or fabric_behind_refused(): an op was refused */
};

static struct fault_dev *device(const struct fault_ep *e) { return (struct fault_dev *)e->base.dev; }
static const struct fabric *fabric(const struct fault_ep *e) { return e->inner->dev->fabric; }

/* ---- opening ---- */

static int open_events(struct fault_ep *e)
{
    struct epoll_event ev = {.events = EPOLLIN};
    int fd = fabric(e)->ep_fd(e->inner);
    e->epoll = epoll_create1(EPOLL_CLOEXEC);
    e->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (e->epoll < 0 || e->timer < 0 || epoll_ctl(e->epoll, EPOLL_CTL_ADD, e->timer, &ev) ||
        (fd >= 0 && epoll_ctl(e->epoll, EPOLL_CTL_ADD, fd, &ev)))
        return err_set_errno(errno, "an endpoint's events");
    return 0;
}

static void release(struct fault_ep *e)
{
    if (e->timer >= 0)
        close(e->timer);
    if (e->epoll >= 0)
        close(e->epoll);
    if (e->inner)
        fabric(e)->ep_close(e->inner);
    for (struct chunk *c = e->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(e);
}

int fault_ep_open(struct fabric_dev *base, bool passive, struct fabric_ep **out)
{
    struct fabric_dev *inner = ((struct fault_dev *)base)->inner;
    struct fault_ep *e = calloc(1, sizeof *e);
    if (!e)
        return err_set(DSM_ENOMEM, 0, "endpoint");
    e->base.dev = base;
    e->tail = &e->ops;
    e->epoll = e->timer = -1;
    int rc = inner->fabric->ep_open(inner, passive, &e->inner);
    if (rc)
        e->inner = NULL;
    else if (!passive)
        rc = open_events(e);
    if (rc)
        release(e);
    else
        *out = &e->base;
    return rc;
}

int fault_ep_address(struct fabric_ep *base, uint8_t address[FABRIC_ADDRESS_MAX])
{
    struct fault_ep *e = (struct fault_ep *)base;
    return fabric(e)->ep_address(e->inner, address);
}

int fault_ep_connect(struct fabric_ep *base, const uint8_t *address, size_t len)
{
    struct fault_ep *e = (struct fault_ep *)base;
    e->inner->theirs = base->theirs;
    return fabric(e)->ep_connect(e->inner, address, len);
}

int fault_ep_stream(struct fabric_ep *base, int fd)
{
    struct fault_ep *e = (struct fault_ep *)base;
    return fabric(e)->ep_stream(e->inner, fd);
}

/* ---- the state of one op ---- */

static bool refused(const struct shadow *s) { return s->fate.faults & FAULT_REFUSE; }
static bool fails(const struct shadow *s) { return s->fate.faults & (FAULT_FAIL | FAULT_FAILAFTER | FAULT_REFUSE); }

/* Whether the op may have a second part. */
static bool in_parts(const struct shadow *s)
{
    switch (s->user->code) {
    case DSM_OP_READ:
        return s->cut;
    case DSM_OP_WRITE:
        return s->fate.faults & FAULT_DUPLICATE;
    case DSM_OP_COMPARE_SWAP:
        return (s->fate.faults & FAULT_CAS) && (fabric_remote_of(s->user)->access & DSM_WRITE);
    default:
        return false;
    }
}

/* The first part is done: whether a second part follows. */
static bool goes_on(const struct shadow *s)
{
    return s->step == FIRST && !s->op.status && in_parts(s) &&
           (s->op.code != DSM_OP_COMPARE_SWAP || s->op.result != s->op.operand);
}

/* When poll has something to do for the op. oldest: no op before it can still complete. */
static int64_t ready_at(const struct shadow *s, bool oldest)
{
    if (s->step == WAITING || load_acquire_u32(&s->group.pending))
        return DEADLINE_NEVER;
    if (s->step == PAUSED)
        return s->due;
    if (goes_on(s))
        return 0;
    if ((s->fate.faults & FAULT_DROP) || (fails(s) && !oldest))
        return DEADLINE_NEVER;
    return s->release;
}

/* The length of the first part of a torn READ: it is split at the multiple of 8 next to its middle. 0 if it lies within
 * one word. */
static uint64_t cut_of(const dsm_op *op)
{
    uint64_t end = op->offset + op->nbytes, at = (op->offset + op->nbytes / 2 + 7) / 8 * 8;
    if (at >= end)
        at -= 8;
    return at > op->offset && at < end ? at - op->offset : 0;
}

/* ---- shadows ---- */

static struct shadow *take(struct fault_ep *e)
{
    if (!e->spare) {
        struct chunk *c = malloc(sizeof *c);
        if (!c)
            return NULL;
        c->next = e->chunks;
        e->chunks = c;
        for (int i = 0; i < CHUNK; i++) {
            c->shadows[i].next = e->spare;
            e->spare = &c->shadows[i];
        }
    }
    struct shadow *s = e->spare;
    e->spare = s->next;
    return s;
}

static void enqueue(struct fault_ep *e, struct fabric_op *users)
{
    dsm_op *user = users->op;
    struct shadow *s = take(e);
    if (!s) {
        fabric_op_done(users, -DSM_ENOMEM);
        return;
    }
    uint64_t number = fetch_add_u64(&device(e)->count, 1) + 1;
    *s = (struct shadow){
        .users = users, .user = user, .step = WAITING, .fate = fault_plan_fate(&device(e)->plan, number)};
    if (user->code == DSM_OP_READ && (s->fate.faults & FAULT_TEAR))
        s->cut = cut_of(user);
    *e->tail = s;
    e->tail = &s->next;
    e->base.inflight++;
    e->base.bytes += user->nbytes;
}

/* Ends the op whose shadow is *at and unlinks the shadow; *at is then the next one. */
static void finish(struct fault_ep *e, struct shadow **at, int status)
{
    struct shadow *s = *at;
    struct fabric_op *users = s->users;
    dsm_op *user = s->user;
    *at = s->next;
    if (e->tail == &s->next)
        e->tail = at;
    user->result = s->step == SECOND ? s->result : s->op.result;
    user->wc_status = s->op.wc_status;
    user->vendor = s->op.vendor;
    if (fabric_op_prepared(&s->work)) {
        struct fabric_dev *inner = device(e)->inner;
        inner->fabric->op_release(inner, &s->work);
    }
    s->next = e->spare;
    e->spare = s;
    e->base.inflight--;
    e->base.bytes -= user->nbytes;
    fabric_op_done(users, status);
}

/* ---- ops for the inner fabric ---- */

static void prepare(struct shadow *s, const dsm_op *from)
{
    struct fault_remote *r = (struct fault_remote *)fabric_remote_of(s->user);
    s->op = *from;
    s->to = (struct fabric_target){r->inner, fabric_target_of(s->user)->base};
    s->op.remote = (dsm_remote *)(void *)&s->to;
    s->work = (struct fabric_op){.op = &s->op, .group = &s->group};
    s->group = (struct fabric_group){.pending = 1};
}

static void prepare_first(struct shadow *s)
{
    prepare(s, s->user);
    s->step = FIRST;
    if (s->cut)
        fabric_op_cut(&s->op, 0, s->cut);
    if (s->fate.faults & FAULT_DELAY)
        s->release = clock_ns() + s->fate.delay_ns;
    if (s->fate.faults & (FAULT_FAIL | FAULT_REFUSE)) { /* not executed */
        s->step = SECOND;
        s->group.pending = 0;
    }
}

static void prepare_second(struct shadow *s)
{
    dsm_op second = *s->user;
    second.flags = 0;
    if (second.code == DSM_OP_READ) {
        fabric_op_cut(&second, s->cut, second.nbytes);
    } else if (second.code == DSM_OP_COMPARE_SWAP) {
        second.code = DSM_OP_WRITE;
        second.local = &s->result;
        second.second_nbytes = 0;
    }
    prepare(s, &second);
    s->step = SECOND;
}

static void post_inner(struct fault_ep *e, struct fabric_op **list)
{
    if (*list)
        fabric(e)->post(e->inner, *list);
    *list = NULL;
}

static void strike(pid_t pid)
{
    siginfo_t gone;
    kill(pid ? pid : getpid(), SIGKILL);
    while (pid && waitid(P_PID, (id_t)pid, &gone, WEXITED | WNOWAIT) && errno == EINTR) {
    }
}

/* Posts to the inner fabric, as one list, all parts that can be posted now. Returns whether any op advanced. */
static bool go_on(struct fault_ep *e)
{
    struct fabric_op *list = NULL, **tail = &list;
    bool moved = false;
    int64_t now = clock_ns();
    for (struct shadow *s = e->ops; s; s = s->next) {
        if (s->step == WAITING && s->fate.faults & FAULT_KILL) { /* the ops before it are posted first */
            post_inner(e, &list);
            tail = &list;
            strike(s->fate.pid);
        }
        if (s->step == WAITING)
            prepare_first(s);
        else if (s->step == PAUSED && now >= s->due)
            prepare_second(s);
        else if (fails(s) || in_parts(s))
            break;
        else
            continue;
        moved = true;
        if (s->group.pending) {
            *tail = &s->work;
            tail = &s->work.next;
        }
        if (fails(s) || in_parts(s)) /* it blocks the ops behind it */
            break;
    }
    post_inner(e, &list);
    return moved;
}

/* ---- completion ---- */

/* The status of an op that is complete. */
static int outcome_of(const struct shadow *s)
{
    if (refused(s))
        return -DSM_EACCESS;
    if (fails(s))
        return fabric_op_lost(s->user, -DSM_EIO);
    if (s->step == SECOND && in_parts(s) && s->op.status) /* its first part has been executed */
        return fabric_op_lost(s->user, s->op.status);
    s->user->cause = s->op.cause;
    return s->op.status;
}

/* From now on no transport could know of the ops behind s what fault knows. */
static void note_failure(struct fault_ep *e, const struct shadow *s)
{
    if (s->step == WAITING || !fails(s))
        return;
    if (refused(s))
        e->refused = s->user->code;
    else
        e->lost = true;
}

/* The status of an op that is not complete. Those that are WAITING have not been executed. */
static int unfinished(struct fault_ep *e, const struct shadow *s)
{
    if (e->lost || s->step != WAITING)
        return fabric_op_lost(s->user, -DSM_ECANCELED);
    return e->refused ? fabric_behind_refused(&e->refused, s->user) : -DSM_ECANCELED;
}

/* The inner fabric has no op any more. Ends all ops: with their outcome if it is known. */
static int end_all(struct fault_ep *e)
{
    int done = 0;
    int64_t now = clock_ns();
    for (; e->ops; done++) {
        const struct shadow *s = e->ops;
        bool known = s->step != PAUSED && !goes_on(s) && ready_at(s, true) <= now;
        int status = known ? outcome_of(s) : unfinished(e, s);
        note_failure(e, s);
        finish(e, &e->ops, status);
    }
    return done;
}

/* Breaks the endpoint. If the inner fabric needs polls to end its ops, a later poll ends the ops of this endpoint. */
static int break_off(struct fault_ep *e)
{
    e->base.broken = true;
    e->base.path_lost = e->inner->path_lost;
    fabric(e)->ep_abort(e->inner);
    return e->inner->inflight ? 0 : end_all(e);
}

static int reap(struct fault_ep *e)
{
    int done = 0;
    bool oldest = true;
    int64_t now = clock_ns();
    for (struct shadow **at = &e->ops, *s; (s = *at) && s->step != WAITING;) {
        if (ready_at(s, oldest) > now || s->step == PAUSED) {
            oldest = oldest && (s->fate.faults & FAULT_DROP);
            at = &s->next;
        } else if (goes_on(s)) {
            s->step = PAUSED;
            s->due = now + s->fate.pause_ns;
            s->result = s->op.result;
        } else if (fails(s)) {
            note_failure(e, s);
            finish(e, at, outcome_of(s));
            return done + 1 + break_off(e);
        } else {
            finish(e, at, outcome_of(s));
            done++;
        }
    }
    return done;
}

/* If an event was requested, sets the timer for the earliest time at which poll has something to do. */
static void schedule(struct fault_ep *e)
{
    int64_t at = DEADLINE_NEVER, now = clock_ns();
    bool oldest = true;
    if (!e->armed)
        return;
    for (const struct shadow *s = e->ops; s; s = s->next) {
        int64_t ready = ready_at(s, oldest);
        at = ready < at ? ready : at;
        oldest = oldest && (s->fate.faults & FAULT_DROP);
    }
    if (at == DEADLINE_NEVER)
        return;
    if (at <= now) {
        e->armed = false;
        at = now;
    }
    struct itimerspec when = {.it_value = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000}};
    timerfd_settime(e->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

void fault_post(struct fabric_ep *base, struct fabric_op *list)
{
    struct fault_ep *e = (struct fault_ep *)base;
    while (list) {
        struct fabric_op *w = list;
        list = w->next;
        assert(fabric_op_checked(w->op));
        if (e->base.broken)
            fabric_op_done(w, -DSM_ECANCELED);
        else
            enqueue(e, w);
    }
    if (!e->base.broken)
        go_on(e);
    schedule(e);
}

int fault_poll(struct fabric_ep *base)
{
    struct fault_ep *e = (struct fault_ep *)base;
    int done = 0;
    if (!e->ops) { /* only the end of the connection can come */
        if (base->dev->streams && !base->broken) {
            fabric(e)->poll(e->inner);
            base->broken = e->inner->broken;
        }
        return 0;
    }
    if (e->base.broken) {
        fabric(e)->poll(e->inner);
        return e->inner->inflight ? 0 : end_all(e);
    }
    do {
        fabric(e)->poll(e->inner);
        done += reap(e);
    } while (!e->base.broken && !e->inner->broken && go_on(e));
    if (e->inner->broken && !e->base.broken)
        done += break_off(e);
    schedule(e);
    return done;
}

int fault_arm(struct fabric_ep *base)
{
    struct fault_ep *e = (struct fault_ep *)base;
    uint64_t expired;
    if (read(e->timer, &expired, sizeof expired) < 0) {
        /* EAGAIN: it has not fired */
    }
    e->armed = true; /* the poll that follows sets the timer */
    return fabric(e)->arm(e->inner);
}

int fault_ep_fd(struct fabric_ep *base) { return ((struct fault_ep *)base)->epoll; }

/* ---- the end ---- */

void fault_ep_abort(struct fabric_ep *base) { break_off((struct fault_ep *)base); }

void fault_ep_close(struct fabric_ep *base)
{
    struct fault_ep *e = (struct fault_ep *)base;
    fabric(e)->ep_close(e->inner);
    e->inner = NULL;
    end_all(e);
    release(e);
}
