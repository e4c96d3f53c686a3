/* The verbs fabric with a fake device, in cases that need one: a device that stalls, can't be set up, or reports that
 * it is lost; and how long memory stays registered. */
#ifdef DSM_HAVE_VERBS
#include "agent/agent.h"
#include "base/atomic.h"
#include "check.h"
#include "context.h"
#include "core/core.h"
#include "fabric/verbs/verbs.h"
#include "fake_device.h"
#include "files.h"
#include "outcome.h"
#include "tickets.h"

#include <arpa/inet.h>
#include <poll.h>

#define MS INT64_C(1000000)
#define HOUR (INT64_C(3600) * 1000 * MS)
enum { BIG = 64 * 1024, OWNERS = 5 };

static int try_open(const char *device, int gid_index, int64_t peer_timeout, dsm_ctx **out)
{
    char fabric[64];
    snprintf(fabric, sizeof fabric, "verbs?device=%s&gid=%d", device, gid_index);
    dsm_options o = options_of(fabric);
    o.peer_timeout_ns = peer_timeout;
    return dsm_open(&o, out);
}

static dsm_ctx *open_verbs(int64_t peer_timeout)
{
    dsm_ctx *c;
    CHECK(!try_open("", -1, peer_timeout, &c));
    return c;
}

static dsm_ctx *owner, *user;
static dsm_region *region;
static dsm_remote *remote;
static uint8_t mine[BIG];

static int attach(dsm_region *r, dsm_remote **out)
{
    uint8_t raw[DSM_DESC_MAX];
    return dsm_attach(user, raw, (size_t)dsm_region_descriptor(r, raw), 10000 * MS, out);
}

static void open_two(int64_t peer_timeout)
{
    owner = open_verbs(0);
    user = open_verbs(peer_timeout);
    CHECK(!dsm_alloc(owner, BIG, 7, &region));
    CHECK(!attach(region, &remote));
}

static void close_two(void)
{
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    CHECK(!dsm_region_close(region));
    dsm_close(owner);
    CHECK(!fake.regs && !fake.queue_pairs && !fake.torn);
}

static void set_stall(bool stall, bool hang)
{
    pthread_mutex_lock(&fake.lock);
    fake.stall = stall;
    fake.hang = hang;
    pthread_mutex_unlock(&fake.lock);
}

/* ---- choosing ---- */

static void choice(void)
{
    dsm_ctx *c;
    dsm_caps caps;
    fake.devices = 7;
    CHECK(!dsm_probe("verbs"));
    CHECK(!try_open("", -1, 0, &c));
    CHECK(!dsm_capabilities(c, 0, &caps) && dsm_capabilities(c, 1, &caps) == -DSM_EINVAL);
    CHECK(!strcmp(caps.device, "good0"));
    dsm_close(c);
    CHECK(try_open("iwarp0", -1, 0, &c) == -DSM_ENODEV && strstr(dsm_last_error()->detail, "iWARP"));
    CHECK(try_open("broken0", -1, 0, &c) == -DSM_ENOMEM && strstr(dsm_last_error()->detail, "broken0"));
    CHECK(try_open("none0", -1, 0, &c) == -DSM_ENODEV && strstr(dsm_last_error()->detail, "none0"));
    fake.devices = 2;
    CHECK(try_open("", -1, 0, &c) == -DSM_ENOMEM && dsm_probe("verbs") == -DSM_ENOMEM);
    fake.devices = 4;
    CHECK(try_open("", 256, 0, &c) == -DSM_EINVAL); /* an address handle holds 8 bits of it */
    CHECK(!try_open("", 255, 0, &c));
    dsm_close(c);
    CHECK(!fake.regs && !fake.queue_pairs);
}

/* What both sides have to know about each other. */
static void addresses(void)
{
    open_two(0);
    CHECK(fake.ah.is_global && fake.ah.grh.dgid.raw[0] == 0xfe); /* InfiniBand, but its port wants global headers */
    close_two();

    owner = open_verbs(0);
    fake.pkey = 0x8001;
    user = open_verbs(0);
    fake.pkey = 0xffff;
    CHECK(!dsm_alloc(owner, BIG, 7, &region));
    CHECK(attach(region, &remote) == -DSM_EINVAL);
    dsm_close(user);
    CHECK(!dsm_region_close(region));
    dsm_close(owner);
    CHECK(!fake.regs && !fake.queue_pairs);
}

static int open_service(int level, int traffic_class, dsm_ctx **out)
{
    char fabric[64];
    snprintf(fabric, sizeof fabric, "verbs?sl=%d&traffic_class=%d", level, traffic_class);
    dsm_options o = options_of(fabric);
    return dsm_open(&o, out);
}

/* The last connection is that of the user, whose packets carry the values with which it was opened. */
static void service(bool local_route, int level, int traffic_class)
{
    fake.local_route = local_route;
    owner = open_verbs(0);
    CHECK(!open_service(level, traffic_class, &user));
    CHECK(!dsm_alloc(owner, BIG, 7, &region) && !attach(region, &remote));
    CHECK(fake.ah.sl == level && fake.ah.is_global == (!local_route || traffic_class));
    CHECK(fake.ah.grh.traffic_class == traffic_class); /* only a global header has one */
    close_two();
    fake.local_route = false;
}

static void services(void)
{
    static const int bad[][2] = {{16, 0}, {-1, 0}, {0, 256}, {0, -1}};
    dsm_ctx *c;
    service(false, 0, 0);
    service(true, 15, 0);
    service(true, 3, 106);
    service(false, 0, 255);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(open_service(bad[i][0], bad[i][1], &c) == -DSM_EINVAL);
    CHECK(!fake.regs && !fake.queue_pairs);
}

/* ---- a device that stalls, or is lost ---- */

static void stalls(bool hang)
{
    uint64_t data, old;
    int rc;
    open_two(20 * MS);
    set_stall(true, hang);
    CHECK(dsm_read(remote, 0, &data, 8, -1) == -DSM_ETIME);
    set_stall(false, false);
    do
        rc = dsm_fetch_add(remote, 0, 1, &old, -1);
    while (rc == -DSM_ETIME); /* on a busy host it takes longer to connect; nothing is sent then */
    CHECK(!rc && !old);
    close_two();
    open_two(HOUR);
    set_stall(true, hang);
    CHECK(is_unknown(dsm_fetch_add(remote, 0, 1, &old, 20 * MS), DSM_ETIME));
    set_stall(false, false);
    CHECK(!dsm_fetch_add(remote, 0, 1, &old, 10000 * MS) && !old);
    close_two();
}

static uint32_t ended;

static void *read_late(void *arg)
{
    uint64_t data;
    (void)arg;
    CHECK(dsm_read(remote, 0, &data, 8, 20 * MS) == -DSM_ETIME);
    store_release_u32(&ended, 1);
    return NULL;
}

/* While the device gets time to flush the aborted ops, other threads can lock the connection: they may be event loops,
 * or the agent. */
static void drained_without_the_lock(void)
{
    pthread_t thread;
    bool free = false;
    open_two(HOUR);
    set_stall(true, true);
    CHECK(!pthread_create(&thread, NULL, read_late, NULL));
    while (!free && !load_acquire_u32(&ended)) {
        pthread_mutex_lock(&remote->peer->lock);
        free = remote->peer->ep->broken && remote->peer->ep->inflight;
        pthread_mutex_unlock(&remote->peer->lock);
        usleep(100);
    }
    CHECK(free);
    pthread_join(thread, NULL);
    set_stall(false, false);
    close_two();
}

static void lost(enum ibv_event_type what)
{
    uint64_t word = 0;
    dsm_op op = {.code = DSM_OP_FETCH_ADD, .nbytes = 8, .operand = 1};
    dsm_ticket *t;
    open_two(HOUR);
    op.remote = remote;
    set_stall(true, true);
    CHECK(!dsm_submit(user, &op, 1, &t, NULL));
    struct verbs_ep *e = (struct verbs_ep *)remote->peer->ep;
    fake_event(
        ((struct verbs_dev *)user->devs[0])->ctx,
        (struct ibv_async_event){.event_type = what, .element.qp = what == IBV_EVENT_DEVICE_FATAL ? NULL : e->qp});
    CHECK(is_unknown(dsm_finish(t, -1, NULL), DSM_EIO)); /* although no op ever completes */
    set_stall(false, false);
    int rc = dsm_fetch_add(remote, 0, 1, &word, 10000 * MS);
    CHECK(rc == (what == IBV_EVENT_DEVICE_FATAL ? -DSM_EIO : 0));
    close_two();
}

/* ---- event loops ---- */

static int listen_at(const char *address)
{
    const char *port = strrchr(address, ':') + 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    CHECK(fd >= 0 && !bind(fd, (struct sockaddr *)&at, sizeof at) && !listen(fd, 8));
    return fd;
}

/* Neither a connection to an owner that never answers, nor a request to one that does, blocks an event loop. */
static void started_ops(void)
{
    dsm_op op = {.code = DSM_OP_FETCH_ADD, .nbytes = 8, .operand = 1};
    dsm_ticket *t;
    char address[112];
    open_two(HOUR);
    op.remote = remote;
    strcpy(address, dsm_agent_address(owner, 0));
    CHECK(!dsm_start(user, &op, 1, &t, NULL) && next_completed(user) == t && !dsm_finish(t, -1, NULL));
    CHECK(!dsm_region_close(region));
    CHECK(!dsm_start(user, &op, 1, &t, NULL) && next_completed(user) == t);
    CHECK(dsm_finish(t, -1, NULL) == -DSM_ESTALE);
    dsm_close(owner);
    while (!load_relaxed_u32(&remote->peer->dead))
        usleep(1000);
    int silent = listen_at(address);
    CHECK(!dsm_start(user, &op, 1, &t, NULL) && !dsm_completed(user));
    dsm_cancel(user);
    CHECK(dsm_completed(user) == t && dsm_finish(t, -1, NULL) != 0);
    close(silent);
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    CHECK(!fake.regs && !fake.queue_pairs);
}

/* The op was refused and is complete, but the owner has not been asked why: no thread asks after the cancel. */
static void refused_and_canceled(void)
{
    dsm_op op = {.code = DSM_OP_FETCH_ADD, .nbytes = 8, .operand = 1};
    dsm_ticket *t;
    uint64_t old;
    open_two(HOUR);
    op.remote = remote;
    CHECK(!dsm_fetch_add(remote, 0, 1, &old, -1) && !dsm_region_close(region));
    CHECK(!dsm_start(user, &op, 1, &t, NULL));
    dsm_cancel(user);
    CHECK(dsm_completed(user) == t && dsm_finish(t, -1, NULL) == -DSM_EACCESS);
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    dsm_close(owner);
}

/* ---- which ops were certainly not executed ---- */

static dsm_op add_at(dsm_remote *r, uint64_t word)
{
    return (dsm_op){.code = DSM_OP_FETCH_ADD, .remote = r, .offset = 8 * word, .nbytes = 8, .operand = 1};
}

static uint64_t word_at(uint64_t word) { return load_acquire_u64((uint64_t *)dsm_region_data(region) + word); }

/* Op 1 of 4 is refused, as its region is closed: the device executes nothing behind it. go_on: what stands behind it is
 * posted again, once, but for the other ops on the closed region. */
static void refused_alone(bool go_on, bool started)
{
    dsm_region *other;
    dsm_remote *closed;
    dsm_ticket *t;
    uint64_t old;
    open_two(HOUR);
    CHECK(!dsm_alloc(owner, 64, 7, &other) && !attach(other, &closed) && !dsm_region_close(other));
    CHECK(!dsm_fetch_add(remote, 0, 0, &old, -1));
    dsm_op ops[] = {add_at(remote, 0), add_at(closed, 0), add_at(remote, 1),
                    add_at(closed, 1), add_at(remote, 2), add_at(closed, 999)};
    size_t n = go_on ? 6 : 5; /* the last one is refused before it is posted, for a reason of its own */
    dsm_choice how = {.go_on = go_on};
    uint64_t connects = user->stats.connects, posts = user->stats.posts;
    if (started) {
        CHECK(!dsm_start_as(user, ops, n, &how, &t, NULL) && next_completed(user) == t);
        CHECK(dsm_finish(t, -1, NULL) == -DSM_ESTALE);
    } else {
        CHECK(dsm_execute_as(user, ops, n, &how, -1, NULL) == -DSM_ESTALE);
    }
    int behind = go_on ? 0 : -DSM_ECANCELED;
    CHECK(!ops[0].status && ops[1].status == -DSM_ESTALE && ops[2].status == behind && ops[4].status == behind);
    CHECK(ops[3].status == (go_on ? -DSM_ESTALE : -DSM_ECANCELED) && (!go_on || ops[5].status == -DSM_EBOUNDS));
    CHECK(word_at(0) == 1 && word_at(1) == go_on && word_at(2) == go_on);
    CHECK(user->stats.connects - connects == go_on && user->stats.posts - posts == (go_on ? 7 : 5));
    CHECK(!dsm_remote_close(closed));
    close_two();
}

/* ---- asking the owner why ---- */

static uint32_t asked;

static int counted_status(struct peer *p, uint64_t id, uint64_t generation, int64_t deadline)
{
    fetch_add_u32(&asked, 1);
    return client_status(p, id, generation, deadline);
}

/* A user of whose ops some are refused, although the region is open, and whose questions are counted. */
static void open_refused(const char *plan, struct control *counting)
{
    dsm_options o = options_of("verbs");
    o.fault = plan;
    o.peer_timeout_ns = HOUR;
    owner = open_verbs(0);
    CHECK(!dsm_open(&o, &user));
    *counting = *user->control;
    counting->status = counted_status;
    user->control = counting;
    CHECK(!dsm_alloc(owner, BIG, 7, &region) && !attach(region, &remote));
    store_relaxed_u32(&asked, 0);
}

/* Each of five ops is refused in a pass of its own, and the owner is asked once in each. The one without the right is
 * not posted, so its owner is not asked. */
static void asks_once(bool started)
{
    struct control counting;
    dsm_region *other;
    dsm_remote *readable;
    dsm_ticket *t;
    uint64_t data;
    open_refused("refuse=1-100", &counting);
    CHECK(!dsm_alloc(owner, 64, DSM_READ, &other) && !attach(other, &readable));
    dsm_op ops[6];
    for (int i = 0; i < 5; i++)
        ops[i] = add_at(remote, 0);
    ops[5] = (dsm_op){.code = DSM_OP_WRITE, .remote = readable, .local = &data, .nbytes = 8};
    dsm_choice how = {.go_on = 1};
    if (started) {
        CHECK(!dsm_start_as(user, ops, 6, &how, &t, NULL) && next_completed(user) == t);
        CHECK(dsm_finish(t, -1, NULL) == -DSM_EACCESS);
    } else {
        CHECK(dsm_execute_as(user, ops, 6, &how, -1, NULL) == -DSM_EACCESS);
    }
    for (int i = 0; i < 6; i++)
        CHECK(ops[i].status == -DSM_EACCESS);
    CHECK(load_relaxed_u32(&asked) == 5 && word_at(0) == 0);
    CHECK(!dsm_remote_close(readable) && !dsm_region_close(other));
    close_two();
}

/* Two regions are closed: the owner is asked each time that an op was refused. */
static void refused_twice(bool started)
{
    dsm_region *others[2];
    dsm_remote *closed[2];
    dsm_ticket *t;
    open_two(HOUR);
    for (int i = 0; i < 2; i++)
        CHECK(!dsm_alloc(owner, 64, 7, &others[i]) && !attach(others[i], &closed[i]) && !dsm_region_close(others[i]));
    dsm_op ops[] = {add_at(closed[0], 0), add_at(closed[1], 0), add_at(remote, 0)};
    dsm_choice how = {.go_on = true};
    if (started) {
        CHECK(!dsm_start_as(user, ops, 3, &how, &t, NULL) && next_completed(user) == t);
        CHECK(dsm_finish(t, -1, NULL) == -DSM_ESTALE);
    } else {
        CHECK(dsm_execute_as(user, ops, 3, &how, -1, NULL) == -DSM_ESTALE);
    }
    CHECK(ops[0].status == -DSM_ESTALE && ops[1].status == -DSM_ESTALE && !ops[2].status && word_at(0) == 1);
    for (int i = 0; i < 2; i++)
        CHECK(!dsm_remote_close(closed[i]));
    close_two();
}

/* The device has got some of the ops and lets the rest wait. At the deadline, the former may have been executed. */
static void late_in_the_queue(void)
{
    enum { MANY = 2000 };
    static dsm_op ops[MANY];
    uint64_t old;
    open_two(HOUR);
    CHECK(!dsm_fetch_add(remote, 0, 0, &old, -1));
    uint32_t depth = ((struct verbs_ep *)remote->peer->ep)->depth;
    set_stall(true, false);
    for (int i = 0; i < MANY; i++)
        ops[i] = add_at(remote, 0);
    CHECK(depth < MANY && is_unknown(dsm_execute(user, ops, MANY, 20 * MS, NULL), DSM_ETIME));
    for (uint32_t i = 0; i < MANY; i++)
        CHECK(ops[i].status == (i < depth ? -DSM_EUNKNOWN : -DSM_ETIME) &&
              ops[i].cause == (i < depth ? -DSM_ETIME : 0));
    set_stall(false, false);
    CHECK(!dsm_fetch_add(remote, 0, 0, &old, -1) && !old);
    close_two();
}

/* The device has got the first pieces of an op, and the rest waits. */
static void late_in_pieces(void)
{
    enum { PIECE = 4096, PIECES = 15, MANY = 20 };
    dsm_op ops[MANY];
    uint64_t old;
    fake.message = PIECE;
    open_two(HOUR);
    CHECK(!dsm_fetch_add(remote, 0, 0, &old, -1));
    struct verbs_ep *e = (struct verbs_ep *)remote->peer->ep;
    uint32_t sent = e->depth / PIECES + 1; /* the last of them in part */
    CHECK(e->depth % PIECES && sent < MANY);
    set_stall(true, false);
    for (int i = 0; i < MANY; i++)
        ops[i] = (dsm_op){.code = DSM_OP_WRITE, .remote = remote, .local = mine, .nbytes = PIECE * PIECES};
    CHECK(is_unknown(dsm_execute(user, ops, MANY, 20 * MS, NULL), DSM_ETIME));
    for (uint32_t i = 0; i < MANY; i++)
        CHECK(ops[i].status == (i < sent ? -DSM_EUNKNOWN : -DSM_ETIME));
    set_stall(false, false);
    CHECK(!dsm_execute(user, ops, MANY, -1, NULL));
    e = (struct verbs_ep *)remote->peer->ep;
    CHECK(!e->base.bytes && !e->base.inflight);
    fake.message = 0;
    close_two();
}

/* The first piece of an op is refused, while others wait: the op has been refused, and what stands behind it
 * goes on. */
static void refused_in_pieces(void)
{
    dsm_region *other;
    dsm_remote *closed;
    fake.message = 256;
    open_two(HOUR);
    CHECK(!dsm_alloc(owner, BIG, 7, &other) && !attach(other, &closed) && !dsm_region_close(other));
    dsm_op ops[] = {{.code = DSM_OP_WRITE, .remote = closed, .local = mine, .nbytes = BIG}, add_at(remote, 0)};
    CHECK(dsm_execute_as(user, ops, 2, &(dsm_choice){.go_on = true}, -1, NULL) == -DSM_ESTALE);
    CHECK(ops[0].status == -DSM_ESTALE && ops[0].wc_status == IBV_WC_REM_ACCESS_ERR && !ops[0].cause);
    CHECK(!ops[1].status && word_at(0) == 1);
    CHECK(!dsm_remote_close(closed));
    fake.message = 0;
    close_two();
}

static void set_cut(bool cut)
{
    pthread_mutex_lock(&fake.lock);
    fake.cut = cut;
    pthread_mutex_unlock(&fake.lock);
}

/* Acknowledgements that do not come prove nothing about the ops behind, so none of them is posted again. */
static void silent_in_the_middle(void)
{
    uint64_t old, data;
    open_two(HOUR);
    CHECK(!dsm_fetch_add(remote, 0, 0, &old, -1));
    set_cut(true);
    dsm_op ops[] = {
        add_at(remote, 0), add_at(remote, 0), {.code = DSM_OP_READ, .remote = remote, .local = &data, .nbytes = 8}};
    uint64_t posts = user->stats.posts;
    CHECK(is_unknown(dsm_execute_as(user, ops, 3, &(dsm_choice){.go_on = 1}, -1, NULL), DSM_EPEER));
    CHECK(ops[1].status == -DSM_EUNKNOWN && ops[1].cause == -DSM_ECANCELED && ops[2].status == -DSM_ECANCELED);
    CHECK(user->stats.posts == posts + 3);
    set_cut(false);
    CHECK(!dsm_fetch_add(remote, 0, 0, &old, -1) && !old);
    close_two();
}

/* ---- connections ---- */

/* The owner gets a new connection before it learns that the old one has ended, as if that packet was lost. */
static void old_connection_lingers(void)
{
    uint64_t old;
    open_two(HOUR);
    struct peer *p = remote->peer;
    CHECK(!dsm_fetch_add(remote, 0, 1, &old, -1));
    int queue_pairs = fake.queue_pairs, lingers = dup(p->fd);
    pthread_mutex_lock(&p->control_lock);
    user->control->disconnect(p);
    pthread_mutex_unlock(&p->control_lock);
    CHECK(!dsm_fetch_add(remote, 0, 1, &old, -1) && old == 1);
    CHECK(fake.queue_pairs == queue_pairs); /* no delayed packet can arrive through the old ones */
    close(lingers);
    close_two();
}

static void context_closed_first(void)
{
    uint64_t old;
    open_two(HOUR);
    CHECK(!dsm_fetch_add(remote, 0, 1, &old, -1));
    dsm_close(user);
    CHECK(dsm_fetch_add(remote, 0, 1, &old, -1) == -DSM_ECLOSED);
    CHECK(!dsm_remote_close(remote));
    dsm_close(owner);
    CHECK(fake.regs == 1 && !dsm_region_close(region));
    CHECK(!fake.regs && !fake.queue_pairs);
}

/* ---- memory ---- */

/* The buffer of an op lies in a region that is closed while the device has the op. */
static void local_region_closed(uint8_t code, uint64_t nbytes)
{
    dsm_region *local;
    dsm_op op = {.code = code, .local = mine, .nbytes = nbytes};
    dsm_ticket *t;
    open_two(HOUR);
    op.remote = remote;
    CHECK(!dsm_register(user, mine, BIG, DSM_READ | DSM_WRITE, &local));
    set_stall(true, false);
    CHECK(!dsm_submit(user, &op, 1, &t, NULL));
    int before = fake.regs;
    CHECK(!dsm_region_close(local));
    CHECK(fake.regs == before && !fake.torn);
    fake_resume();
    CHECK(!dsm_finish(t, -1, NULL));
    CHECK(fake.regs == before - 1);
    close_two();
}

/* Memory is registered for one op before the connection is locked, and is deregistered whatever the op returns. */
static void *write_big(void *arg)
{
    (void)arg;
    CHECK(!dsm_write(remote, 0, mine, BIG, -1));
    return NULL;
}

static int registrations(void)
{
    pthread_mutex_lock(&fake.lock);
    int n = fake.regs;
    pthread_mutex_unlock(&fake.lock);
    return n;
}

static void passing_registrations(void)
{
    pthread_t thread;
    open_two(HOUR);
    int before = registrations();
    pthread_mutex_lock(&remote->peer->lock);
    CHECK(!pthread_create(&thread, NULL, write_big, NULL));
    while (registrations() == before) /* it registers while another thread has the connection locked */
        usleep(1000);
    pthread_mutex_unlock(&remote->peer->lock);
    pthread_join(thread, NULL);
    CHECK(registrations() == before);
    dsm_op op = {.code = DSM_OP_WRITE, .remote = remote, .local = mine, .nbytes = BIG};
    dsm_ticket *t;
    CHECK(!dsm_start(user, &op, 1, &t, NULL) && next_completed(user) == t && !dsm_finish(t, -1, NULL));
    CHECK(registrations() == before);
    set_stall(true, true);
    CHECK(is_unknown(dsm_write(remote, 0, mine, BIG, 20 * MS), DSM_ETIME));
    CHECK(registrations() == before);
    set_stall(false, false);
    close_two();
}

/* Ops that a caller posts again hold what the call before has left in them: a cause, and a registration that is
 * gone. */
static void used_again(bool go_on, bool started)
{
    dsm_op ops[] = {{.code = DSM_OP_WRITE, .remote = NULL, .local = mine, .nbytes = BIG},
                    {.code = DSM_OP_WRITE, .remote = NULL, .local = mine, .nbytes = BIG}};
    uint32_t stop = 0;
    dsm_choice how = {.go_on = go_on, .stop = &stop};
    dsm_ticket *t;
    open_two(HOUR);
    ops[0].remote = ops[1].remote = remote;
    CHECK(!dsm_fetch_add(remote, 0, 0, &(uint64_t){0}, -1)); /* there is a connection */
    int before = registrations();
    CHECK(!dsm_execute_as(user, ops, 2, &how, -1, NULL) && registrations() == before);
    set_stall(true, false);
    CHECK(is_unknown(dsm_execute_as(user, ops, 2, &how, 20 * MS, NULL), DSM_ETIME));
    set_stall(false, false);
    CHECK(ops[1].cause == -DSM_ETIME && registrations() == before);
    stop = 1;
    if (started)
        CHECK(dsm_start_as(user, ops, 2, &how, &t, NULL) == 1 && dsm_finish(t, -1, NULL) == -DSM_ECANCELED);
    else
        CHECK(dsm_execute_as(user, ops, 2, &how, -1, NULL) == -DSM_ECANCELED);
    for (int i = 0; i < 2; i++)
        CHECK(ops[i].status == -DSM_ECANCELED && !ops[i].cause);
    CHECK(registrations() == before);
    ops[1].cause = -DSM_ETIME;
    ops[0].code = 99;
    CHECK(dsm_execute_as(user, ops, 2, &how, -1, NULL) == -DSM_EINVAL);
    CHECK(ops[0].status == -DSM_EINVAL && ops[1].status == -DSM_ECANCELED && !ops[1].cause);
    CHECK(registrations() == before);
    close_two();
}

/* Of several buffers one is invalid: none is registered. */
static void wrong_buffers(void)
{
    dsm_region *out[3];
    void *const good[] = {mine, mine + 4096, mine + 8192}, *const none[] = {mine, NULL, mine + 8192};
    const uint64_t sizes[] = {64, 64, 64}, empty[] = {64, 0, 64};
    open_two(HOUR);
    int before = registrations();
    CHECK(dsm_register_many(owner, 3, none, sizes, DSM_READ, out) == -DSM_EINVAL);
    CHECK(dsm_register_many(owner, 3, good, empty, DSM_READ, out) == -DSM_EINVAL);
    CHECK(dsm_register_many(owner, 3, good, sizes, 0, out) == -DSM_EINVAL);
    CHECK(dsm_register_many(owner, 3, good, sizes, 8, out) == -DSM_EINVAL);
    CHECK(!dsm_register_many(owner, 0, NULL, NULL, DSM_READ, NULL) && registrations() == before);
    CHECK(!dsm_register_many(owner, 3, good, sizes, DSM_READ, out) && registrations() == before + 3);
    for (int i = 0; i < 3; i++)
        CHECK(dsm_region_data(out[i]) == good[i] && !dsm_region_close(out[i]));
    CHECK(registrations() == before);
    close_two();
}

/* ---- a path that is cut while the owner is alive ---- */

/* A handle that could not give something back still holds it, and may try again. One that is closed leaves it to
 * break_(). */
static void held_across_a_cut(bool heals)
{
    dsm_lock *l;
    dsm_semaphore *m;
    uint64_t holder;
    open_two(HOUR);
    CHECK(!dsm_sync_format(dsm_region_data(region), DSM_LOCK, 4, 0, 0));
    CHECK(!dsm_lock_open(remote, 0, &l) && dsm_lock_acquire(l, -1) == 1);
    set_cut(true);
    CHECK(dsm_lock_release(l) == -DSM_EPEER && dsm_lock_held(l));
    set_cut(!heals);
    CHECK(!(heals ? dsm_lock_release(l) : dsm_lock_leave(l)));
    dsm_lock_close(l);
    set_cut(false);
    CHECK(!dsm_lock_open(remote, 0, &l) && !dsm_lock_holder(l, &holder) && !holder == heals);
    CHECK((heals || dsm_lock_break(l, holder) == 1) && dsm_lock_acquire(l, 0) == 1 && !dsm_lock_release(l));
    dsm_lock_close(l);

    memset(dsm_region_data(region), 0, BIG);
    CHECK(!dsm_sync_format(dsm_region_data(region), DSM_SEMAPHORE, 0, 1, 0));
    CHECK(!dsm_semaphore_open(remote, 0, &m) && dsm_semaphore_acquire(m, -1) == 1);
    set_cut(true);
    CHECK(dsm_semaphore_release(m, 1) == -DSM_EPEER);
    set_cut(!heals);
    CHECK(!(heals ? dsm_semaphore_release(m, 1) : dsm_semaphore_leave(m)));
    set_cut(false);
    CHECK(dsm_semaphore_value(m) == (heals ? 1 : 0));
    dsm_semaphore_close(m);
    close_two();
}

/* ---- owners that are closed ---- */

static void owners_that_go(void)
{
    user = open_verbs(0);
    int files = open_files(), regs = fake.regs, queue_pairs = fake.queue_pairs;
    for (int i = 0; i < OWNERS; i++) {
        uint64_t data;
        owner = open_verbs(0);
        CHECK(!dsm_alloc(owner, BIG, 7, &region));
        CHECK(!attach(region, &remote) && !dsm_read(remote, 0, &data, 8, -1));
        CHECK(!dsm_region_close(region));
        dsm_close(owner);
        while (!load_relaxed_u32(&remote->peer->dead)) /* its agent sees the connection end */
            usleep(1000);
        CHECK(!dsm_remote_close(remote));
    }
    CHECK(open_files() == files && fake.regs == regs && fake.queue_pairs == queue_pairs);
    dsm_close(user);
}

int main(void)
{
    if (!fake_install()) {
        puts("ok: no libibverbs");
        return 0;
    }
    choice();
    addresses();
    services();
    stalls(false);
    stalls(true);
    drained_without_the_lock();
    lost(IBV_EVENT_QP_FATAL);
    lost(IBV_EVENT_DEVICE_FATAL);
    started_ops();
    refused_and_canceled();
    for (int how = 0; how < 4; how++)
        refused_alone(how & 1, how & 2);
    asks_once(false);
    asks_once(true);
    refused_twice(false);
    refused_twice(true);
    late_in_the_queue();
    late_in_pieces();
    refused_in_pieces();
    silent_in_the_middle();
    old_connection_lingers();
    context_closed_first();
    for (uint64_t nbytes = BIG; nbytes >= 4096; nbytes /= 16) { /* found before the connection is locked, and after */
        local_region_closed(DSM_OP_WRITE, nbytes);
        local_region_closed(DSM_OP_READ, nbytes);
    }
    passing_registrations();
    wrong_buffers();
    for (int how = 0; how < 4; how++)
        used_again(how & 1, how & 2);
    held_across_a_cut(true);
    held_across_a_cut(false);
    owners_that_go();
    puts("ok");
    return 0;
}
#else
#include "without_verbs.h"
#endif
