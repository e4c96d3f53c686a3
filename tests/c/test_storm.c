/*
 * Several owners, and one user whose threads do everything at once, on shm through fault: batches to all owners,
 * deadlines that pass, event loops beside blocking threads, attaching and closing, a node that is fenced, an owner that
 * is closed, and an agent without file descriptors.
 *
 * Each thread counts the ops that were reported as successful. In the end the words must be equal to these counts.
 */
#include "base/atomic.h"
#include "check.h"
#include "context.h"
#include "dsm.h"
#include "outcome.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

enum { OWNERS = 10, ROUNDS = 60, BATCH = 40 }; /* more owners than a ticket has groups */

static dsm_ctx *owners[OWNERS], *user;
static dsm_region *regions[OWNERS];
static dsm_remote *remotes[OWNERS];
static uint8_t descriptors[OWNERS][DSM_DESC_MAX];
static size_t lengths[OWNERS];
static uint64_t counts[6]; /* of the threads of all_at_once() */

static dsm_ctx *open_brief(const char *fault)
{
    dsm_options o = options_of("shm");
    o.fault = fault;
    o.spin_ns = 1000;
    return open_with(o);
}

static dsm_op add_one(int owner, uint64_t word)
{
    return (dsm_op){.code = DSM_OP_FETCH_ADD, .remote = remotes[owner], .offset = word * 8, .nbytes = 8, .operand = 1};
}

/* Word 0: a batch to all owners. */
static void *batches(void *arg)
{
    for (int i = 0; i < ROUNDS; i++) {
        dsm_op ops[BATCH];
        for (int k = 0; k < BATCH; k++)
            ops[k] = add_one(k % OWNERS, 0);
        CHECK(!dsm_execute(user, ops, BATCH, -1, NULL));
        *(uint64_t *)arg += BATCH;
    }
    return NULL;
}

/* Word 0, too: event loops, each of which must learn of all of its ops, whichever thread reaps and collects them. */
static uint32_t heard[2];

static void *loop(void *arg)
{
    int fd = dsm_event_fd(user);
    uint32_t *mine = (uint64_t *)arg - counts == 2 ? &heard[0] : &heard[1];
    CHECK(fd >= 0);
    for (int i = 0; i < ROUNDS; i++) {
        struct {
            dsm_op ops[OWNERS]; /* first: dsm_ticket_ops() */
            uint32_t *whose;
        } work = {.whose = mine};
        dsm_ticket *ticket;
        store_relaxed_u32(mine, 0);
        for (int k = 0; k < OWNERS; k++)
            work.ops[k] = add_one(k, 0);
        CHECK(!dsm_start(user, work.ops, OWNERS, &ticket, NULL));
        while (!load_acquire_u32(mine)) {
            struct pollfd on = {.fd = fd, .events = POLLIN};
            poll(&on, 1, 20); /* the other loop may take the ticket that this one waits for */
            for (dsm_ticket *t; (t = dsm_completed(user));)
                store_release_u32(*(uint32_t **)(void *)(dsm_ticket_ops(t) + OWNERS), 1);
        }
        CHECK(!dsm_finish(ticket, -1, NULL));
        *(uint64_t *)arg += OWNERS;
    }
    return NULL;
}

/* Attaches, uses and closes; a remote in use refuses to be closed. */
static void *visits(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) {
        int k = i % OWNERS;
        uint64_t old;
        dsm_remote *r;
        dsm_ticket *t;
        dsm_op op;
        CHECK(!dsm_attach(user, descriptors[k], lengths[k], -1, &r));
        CHECK(!dsm_fetch_add(r, 8, 0, &old, -1));
        op = (dsm_op){.code = DSM_OP_FETCH_ADD, .remote = r, .offset = 8, .nbytes = 8, .operand = 1};
        CHECK(!dsm_submit(user, &op, 1, &t, NULL));
        CHECK(dsm_remote_close(r) == -DSM_EBUSY);
        CHECK(!dsm_finish(t, -1, NULL));
        CHECK(!dsm_remote_close(r));
    }
    return NULL;
}

static void open_all(const char *fault)
{
    user = open_brief(fault);
    for (int i = 0; i < OWNERS; i++) {
        owners[i] = open_brief(NULL);
        CHECK(!dsm_alloc(owners[i], 4096, 7, &regions[i]));
        lengths[i] = (size_t)dsm_region_descriptor(regions[i], descriptors[i]);
        CHECK(!dsm_attach(user, descriptors[i], lengths[i], -1, &remotes[i]));
    }
}

static void close_all(void)
{
    for (int i = 0; i < OWNERS; i++)
        CHECK(!dsm_remote_close(remotes[i]));
    dsm_close(user);
    for (int i = 0; i < OWNERS; i++) {
        CHECK(!dsm_region_close(regions[i]));
        dsm_close(owners[i]);
    }
}

static uint64_t sum_of_words(uint64_t word)
{
    uint64_t sum = 0;
    for (int i = 0; i < OWNERS; i++)
        sum += ((uint64_t *)dsm_region_data(regions[i]))[word];
    return sum;
}

static void all_at_once(const char *fault)
{
    pthread_t threads[6];
    memset(counts, 0, sizeof counts);
    void *(*const work[6])(void *) = {batches, batches, loop, loop, visits, visits};
    open_all(fault);
    for (int i = 0; i < 6; i++)
        CHECK(!pthread_create(&threads[i], NULL, work[i], &counts[i]));
    for (int i = 0; i < 6; i++)
        pthread_join(threads[i], NULL);
    CHECK(sum_of_words(0) == counts[0] + counts[1] + counts[2] + counts[3]);
    CHECK(sum_of_words(1) == 2 * ROUNDS);
    close_all();
}

/* Deadlines pass on a connection while others use it: all ops return, and the next one gets a new connection. */
static void *late(void *arg)
{
    int failed = 0;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t old;
        int rc = dsm_fetch_add(remotes[0], 16, 1, &old, 5000000);
        CHECK(!rc || rc == -DSM_ETIME || rc == -DSM_ECANCELED || rc == -DSM_EUNKNOWN);
        failed += rc != 0;
    }
    *(uint64_t *)arg = (uint64_t)failed;
    return NULL;
}

static void deadlines(void)
{
    pthread_t threads[3];
    uint64_t failed[3];
    uint64_t old;
    open_all("drop=5&every=20");
    for (int i = 0; i < 3; i++)
        CHECK(!pthread_create(&threads[i], NULL, late, &failed[i]));
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    CHECK(failed[0] + failed[1] + failed[2] > 0);
    while (dsm_fetch_add(remotes[0], 16, 0, &old, 5000000))
        ;
    close_all();
}

/* A fence, and the end of an owner, while ops are under way: each op ends, with an error that says why. */
static void *until_cut(void *arg)
{
    dsm_remote *r = arg;
    for (;;) {
        uint64_t old;
        int rc = dsm_fetch_add(r, 24, 1, &old, -1);
        if (!rc)
            continue;
        bool cut = rc == -DSM_ECANCELED || is_unknown(rc, DSM_ECANCELED);
        CHECK(cut || rc == -DSM_EPEER || rc == -DSM_ESTALE || rc == -DSM_EFENCED || is_unknown(rc, DSM_EPEER));
        if (!cut)
            return NULL;
    }
}

static void cuts(void)
{
    pthread_t threads[4];
    uint8_t node[DSM_NODE_ID];
    dsm_remote *again;
    open_all("delay=*:1ms");
    for (int i = 0; i < 4; i++)
        CHECK(!pthread_create(&threads[i], NULL, until_cut, remotes[i / 2]));
    dsm_node_id(user, node);
    CHECK(dsm_fence(owners[0], node) == -DSM_EUNSUPPORTED);
    CHECK(!dsm_region_close(regions[1]));
    dsm_close(owners[1]);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    int rc = dsm_attach(user, descriptors[0], lengths[0], -1, &again);
    CHECK(rc == -DSM_EFENCED);
    rc = dsm_attach(user, descriptors[1], lengths[1], -1, &again);
    CHECK(rc == -DSM_EPEER);
    owners[1] = open_brief(NULL);
    CHECK(!dsm_alloc(owners[1], 8, 1, &regions[1]));
    close_all();
}

/* Offsets that another thread, or process, changes after they have been checked. */
static uint64_t offsets[2];
static uint32_t stop;

static void *change_offsets(void *arg)
{
    (void)arg;
    while (!load_relaxed_u32(&stop)) {
        store_relaxed_u64(&offsets[1], 1ull << 45);
        store_relaxed_u64(&offsets[1], 8);
    }
    return NULL;
}

static void moving_offsets(void)
{
    dsm_ctx *c = open_brief(NULL);
    dsm_region *region;
    dsm_remote *r;
    pthread_t thread;
    uint8_t raw[DSM_DESC_MAX];
    CHECK(!dsm_alloc(c, 4096, 7, &region));
    CHECK(!dsm_attach(c, raw, (size_t)dsm_region_descriptor(region, raw), -1, &r));
    CHECK(!pthread_create(&thread, NULL, change_offsets, NULL));
    for (int i = 0, good = 0; i < 50000 || !good; i++) {
        uint64_t data[2] = {1, 2};
        int rc = i & 1 ? dsm_read_many(r, offsets, 2, data, 8, -1) : dsm_write_many(r, offsets, 2, data, 8, -1);
        CHECK(!rc || rc == -DSM_EBOUNDS);
        good += !rc;
    }
    store_relaxed_u32(&stop, 1);
    pthread_join(thread, NULL);
    CHECK(!dsm_remote_close(r));
    CHECK(!dsm_region_close(region));
    dsm_close(c);
}

/* ---- an agent without file descriptors ---- */

static uint32_t accepts;

/* Replaces that of libc for the agent, and counts the calls. */
int accept4(int fd, struct sockaddr *at, socklen_t *len, int flags)
{
    fetch_add_u32(&accepts, 1);
    return (int)syscall(SYS_accept4, fd, at, len, flags);
}

static void knock(int fd, const dsm_ctx *c)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    const char *name = dsm_agent_address(c, 0) + 6;
    memcpy(at.sun_path + 1, name, strlen(name));
    CHECK(!connect(fd, (struct sockaddr *)&at, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name))));
}

static void no_descriptors_left(void)
{
    struct rlimit old, low;
    dsm_ctx *c = open_brief(NULL), *other = open_brief(NULL);
    dsm_region *region;
    dsm_remote *remote;
    uint8_t raw[DSM_DESC_MAX];
    CHECK(!dsm_alloc(c, 64, 1, &region));
    int n = dsm_region_descriptor(region, raw), last = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(last >= 0 && !getrlimit(RLIMIT_NOFILE, &old));
    low = old;
    low.rlim_cur = (rlim_t)last + 1; /* all lower ones are taken, since the kernel gives the lowest free one */
    CHECK(!setrlimit(RLIMIT_NOFILE, &low));
    uint32_t before = load_relaxed_u32(&accepts);
    knock(last, c);
    while (load_relaxed_u32(&accepts) < before + 3) /* the agent tries again and again */
        usleep(1000);
    usleep(300000);
    CHECK(load_relaxed_u32(&accepts) - before < 100); /* but not without a delay */
    CHECK(!setrlimit(RLIMIT_NOFILE, &old));
    CHECK(!dsm_attach(other, raw, (size_t)n, 10000000000, &remote)); /* and it accepts again */
    CHECK(!dsm_remote_close(remote));
    close(last);
    CHECK(!dsm_region_close(region));
    dsm_close(other);
    dsm_close(c);
}

int main(void)
{
    all_at_once("");
    all_at_once("delay=7:2ms&every=11");
    deadlines();
    cuts();
    moving_offsets();
    no_descriptors_left();
    puts("ok");
    return 0;
}
