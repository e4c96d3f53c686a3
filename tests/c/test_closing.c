/*
 * A fabric whose ep_close takes as long as it likes, as one does that waits for a thread of its own: meanwhile other
 * threads go through the agent and the peers, and fork. What must not return before the endpoint is closed does not.
 */
#include "base/deadline.h"
#include "check.h"
#include "context.h"
#include "core/remote.h"
#include "outcome.h"
#include "tickets.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MS INT64_C(1000000)
#define LONG (20000 * MS)

/* What the fabric of each context here does. Bits of 'held' */
enum { CLOSE_ACTIVE = 1, CLOSE_PASSIVE = 2, POLL = 4 };
static uint32_t held, closing, closed;
static const struct fabric *below[2]; /* of owners, of users */
static struct fabric table[2];
static struct fabric_ep *passive;

static int open_ep(const struct fabric *f, struct fabric_dev *d, bool is_passive, struct fabric_ep **out)
{
    int rc = f->ep_open(d, is_passive, out);
    if (is_passive)
        passive = *out;
    return rc;
}

static int owner_open(struct fabric_dev *d, bool is_passive, struct fabric_ep **out)
{
    return open_ep(below[0], d, is_passive, out);
}

static int user_open(struct fabric_dev *d, bool is_passive, struct fabric_ep **out)
{
    return open_ep(below[1], d, is_passive, out);
}

static int address(struct fabric_ep *e, uint8_t out[FABRIC_ADDRESS_MAX])
{
    (void)e;
    out[0] = 7;
    return 1;
}

static int join(struct fabric_ep *e, const uint8_t *theirs, size_t len)
{
    (void)e;
    CHECK(len == 1 && theirs[0] == 7);
    return 0;
}

static void hold(uint32_t what)
{
    store_relaxed_u32(&closed, 0);
    store_relaxed_u32(&closing, 0);
    store_release_u32(&held, what);
}

static void await(const uint32_t *flag, bool on)
{
    int64_t most = deadline_after(LONG);
    while (!load_acquire_u32(flag) == on) {
        CHECK(clock_ns() < most);
        usleep(1000);
    }
}

static void close_ep(const struct fabric *f, struct fabric_ep *e, uint32_t what)
{
    if (load_acquire_u32(&held) & what) {
        store_release_u32(&closing, 1);
        await(&held, false); /* the test must get here while the endpoint is not closed */
    }
    f->ep_close(e);
    store_release_u32(&closed, 1);
}

static void owner_close(struct fabric_ep *e) { close_ep(below[0], e, e == passive ? CLOSE_PASSIVE : 0); }
static void user_close(struct fabric_ep *e) { close_ep(below[1], e, CLOSE_ACTIVE); }

static int user_poll(struct fabric_ep *e) { return load_acquire_u32(&held) & POLL ? 0 : below[1]->poll(e); }

static void user_abort(struct fabric_ep *e)
{
    if (load_acquire_u32(&held) & POLL)
        e->broken = true; /* its ops end in ep_close */
    else
        below[1]->ep_abort(e);
}

static dsm_ctx *owner, *user;
static dsm_region *region;
static dsm_remote *remote;
static uint8_t descriptor[DSM_DESC_MAX];
static size_t length;

static void take_over(dsm_ctx *c, int which, bool connected)
{
    struct fabric_dev *d = c->devs[0];
    below[which] = d->fabric;
    table[which] = *d->fabric;
    table[which].ep_open = which ? user_open : owner_open;
    table[which].ep_close = which ? user_close : owner_close;
    table[which].ep_address = address;
    table[which].ep_connect = join;
    if (which) {
        table[which].poll = user_poll;
        table[which].ep_abort = user_abort;
    }
    d->fabric = &table[which];
    d->connected = connected;
}

static void open_both(const char *fault, bool connected)
{
    hold(0);
    owner = open_context(NULL);
    take_over(owner, 0, connected);
    user = open_context(fault);
    take_over(user, 1, connected);
    CHECK(!dsm_alloc(owner, 4096, 7, &region));
    length = (size_t)dsm_region_descriptor(region, descriptor);
    CHECK(!dsm_attach(user, descriptor, length, LONG, &remote));
}

static void close_both(void)
{
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    CHECK(!dsm_region_close(region));
    dsm_close(owner);
}

/* The fork handlers take the locks of all agents and contexts. */
static void fork_once(void)
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child)
        _exit(0);
    CHECK(waitpid(child, &status, 0) == child && !status);
}

static void *read_once(void *out)
{
    uint64_t data;
    *(int *)out = dsm_read(remote, 0, &data, 8, LONG);
    return NULL;
}

static pthread_t begin(void *(*what)(void *), void *arg)
{
    pthread_t t;
    CHECK(!pthread_create(&t, NULL, what, arg));
    return t;
}

/* ---- the side of the user ---- */

static void *cancel(void *arg)
{
    dsm_cancel(user);
    CHECK(load_acquire_u32(&closed));
    return arg;
}

static void user_goes_on(void)
{
    uint64_t data;
    int rc;
    dsm_ticket *t;
    dsm_remote *again;
    open_both("fail=1", false);
    dsm_op op = {.code = DSM_OP_FETCH_ADD, .remote = remote, .nbytes = 8, .operand = 1};
    CHECK(dsm_read(remote, 0, &data, 8, -1) == -DSM_EIO);
    hold(CLOSE_ACTIVE);
    pthread_t other = begin(read_once, &rc);
    await(&closing, true);
    CHECK(dsm_read(remote, 0, &data, 8, 20 * MS) == -DSM_ETIME);
    CHECK(dsm_attach(user, descriptor, length, 20 * MS, &again) == -DSM_ETIME);
    CHECK(!dsm_start(user, &op, 1, &t, NULL) && !dsm_completed(user));
    fork_once();
    pthread_t third = begin(cancel, NULL);
    CHECK(next_completed(user) == t && dsm_finish(t, -1, NULL) == -DSM_ECANCELED);
    hold(0);
    CHECK(!pthread_join(other, NULL) && !rc);
    CHECK(!pthread_join(third, NULL));
    CHECK(!load_relaxed_u64(dsm_region_data(region)));
    close_both();
}

/* Ops that are outstanding on the endpoint that is closed end with it, also those whose deadline passes meanwhile. */
static void *read_late(void *arg)
{
    uint64_t data;
    CHECK(dsm_read(remote, 0, &data, 8, 20 * MS) == -DSM_ETIME);
    CHECK(load_acquire_u32(&closed));
    return arg;
}

static void ops_end_with_it(void)
{
    int rc;
    dsm_ticket *t;
    open_both("drop=2-3", false);
    dsm_op op = {.code = DSM_OP_FETCH_ADD, .remote = remote, .nbytes = 8, .operand = 1};
    CHECK(!dsm_fetch_add(remote, 0, 1, &(uint64_t){0}, -1));
    hold(CLOSE_ACTIVE | POLL);
    CHECK(!dsm_start(user, &op, 1, &t, NULL));
    pthread_t late = begin(read_late, NULL);
    struct peer *p = remote->peer;
    for (bool broken = false; !broken; usleep(1000)) {
        pthread_mutex_lock(&p->lock);
        broken = p->ep->broken;
        pthread_mutex_unlock(&p->lock);
    }
    pthread_t other = begin(read_once, &rc);
    await(&closing, true);
    CHECK(!dsm_completed(user));
    pthread_mutex_lock(&p->lock);
    CHECK(!p->ep && p->closing);
    pthread_mutex_unlock(&p->lock);
    peer_break(p);
    hold(0);
    CHECK(!pthread_join(late, NULL) && !pthread_join(other, NULL) && !rc);
    CHECK(next_completed(user) == t && is_unknown(dsm_finish(t, -1, NULL), DSM_ECANCELED));
    CHECK(load_acquire_u64(dsm_region_data(region)) == 2);
    close_both();
}

/* The agent of the user notices the end of the owner meanwhile. */
static void owner_that_dies(void)
{
    uint64_t data;
    int rc;
    open_both("fail=1", false);
    CHECK(dsm_read(remote, 0, &data, 8, -1) == -DSM_EIO);
    hold(CLOSE_ACTIVE);
    pthread_t other = begin(read_once, &rc);
    await(&closing, true);
    CHECK(!dsm_region_close(region));
    dsm_close(owner);
    await(&remote->peer->dead, true);
    CHECK(dsm_read(remote, 0, &data, 8, 20 * MS) == -DSM_ETIME);
    hold(0);
    CHECK(!pthread_join(other, NULL) && rc == -DSM_EPEER);
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
}

/* ---- the side of the owner ---- */

static void *fence(void *arg)
{
    uint8_t node[DSM_NODE_ID];
    memset(node, 1, sizeof node);
    CHECK(dsm_fence(owner, arg ? arg : node) == -DSM_EUNSUPPORTED); /* shm: what is mapped stays mapped */
    CHECK(load_acquire_u32(&closed));
    return NULL;
}

/* A node that leaves. A fence, of any node, waits until its endpoint is closed, as no op may come through it then. */
static void node_that_leaves(void)
{
    open_both("", true);
    hold(CLOSE_PASSIVE);
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    await(&closing, true);
    fork_once();
    pthread_t other = begin(fence, NULL);
    fork_once();
    hold(0);
    CHECK(!pthread_join(other, NULL));
    CHECK(!dsm_region_close(region));
    dsm_close(owner);
}

/* A node that connects again: its earlier endpoint is closed first. */
static void node_that_returns(void)
{
    uint64_t data;
    open_both("fail=1", true);
    CHECK(dsm_read(remote, 0, &data, 8, -1) == -DSM_EIO);
    hold(CLOSE_PASSIVE);
    CHECK(dsm_read(remote, 0, &data, 8, 20 * MS) == -DSM_ETIME);
    await(&closing, true);
    fork_once();
    hold(0);
    CHECK(!dsm_read(remote, 0, &data, 8, LONG));
    close_both();
}

/* A node whose endpoint the fence itself closes. */
static void node_that_is_fenced(void)
{
    uint8_t node[DSM_NODE_ID];
    uint64_t data;
    open_both("", true);
    dsm_node_id(user, node);
    hold(CLOSE_PASSIVE);
    pthread_t other = begin(fence, node);
    await(&closing, true);
    fork_once();
    hold(0);
    CHECK(!pthread_join(other, NULL));
    await(&remote->peer->dead, true);
    int rc = dsm_read(remote, 0, &data, 8, LONG);
    CHECK(rc == -DSM_EPEER || rc == -DSM_EFENCED);
    close_both();
}

int main(void)
{
    user_goes_on();
    ops_end_with_it();
    owner_that_dies();
    node_that_leaves();
    node_that_returns();
    node_that_is_fenced();
    puts("ok");
    return 0;
}
