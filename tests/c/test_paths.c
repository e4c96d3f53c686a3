/*
 * Two paths to one owner, on the model device (tests/modeldev), which come and go while threads and an event loop use
 * them: what is known of each op is true, no atomic is lost or executed twice, and no WRITE lands after it was given
 * up.
 *
 * Nothing is asserted of times: a phase lasts until every thread has gone on. A host that is slow loses paths that are
 * whole, which changes nothing in what must hold.
 */
/* with: tests/modeldev */
/* wraps: verbs_load */
#ifdef DSM_HAVE_VERBS
#include "../modeldev/model.h"
#include "base/atomic.h"
#include "base/deadline.h"
#include "check.h"
#include "context.h"
#include "core/core.h"
#include "fabric/verbs/verbs.h"
#undef ibv_query_port
#undef ibv_reg_mr
#include "linked_model.h"

#include <poll.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MS INT64_C(1000000)
enum { WORD = 0, MINE = 64, BULK = 4096, BULK_BYTES = 32768, NBYTES = 65536, THREADS = 4, DEPTH = 128 };

static dsm_ctx *owner, *user;
static dsm_region *region;
static dsm_remote *remote;
static uint32_t rounds[THREADS], stop;
static uint64_t added, unknown; /* by atomics */

static dsm_ctx *open_two_devices(int depth, int64_t peer_timeout_ns)
{
    char fabrics[128];
    snprintf(fabrics, sizeof fabrics, "verbs?device=model0&depth=%d,verbs?device=model1&depth=%d", depth, depth);
    dsm_options o = options_of(fabrics);
    o.peer_timeout_ns = peer_timeout_ns;
    return open_with(o);
}

static dsm_remote *attach(const dsm_region *r)
{
    uint8_t raw[DSM_DESC_MAX];
    dsm_remote *to;
    CHECK(!dsm_attach(user, raw, (size_t)dsm_region_descriptor(r, raw), 60000 * MS, &to));
    return to;
}

static void open_both(int depth, int64_t peer_timeout_ns)
{
    owner = open_two_devices(depth, peer_timeout_ns);
    user = open_two_devices(depth, peer_timeout_ns);
    CHECK(!dsm_alloc(owner, NBYTES, 7, &region));
    remote = attach(region);
}

static void close_both(void)
{
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    CHECK(!dsm_region_close(region));
    dsm_close(owner);
    CHECK(!modeldev_count("regs") && !modeldev_count("qps") && !modeldev_count("torn"));
}

/* The owner lives, so nothing may say that it is gone. */
static int lives(int rc)
{
    CHECK(rc != -DSM_EPEER && rc != -DSM_ESTALE && rc != -DSM_EACCESS);
    return rc;
}

static void count(int rc)
{
    if (!rc)
        fetch_add_u64(&added, 1);
    else if (rc == -DSM_EUNKNOWN)
        fetch_add_u64(&unknown, 1);
    else
        usleep(1000); /* PathLost, for one peer timeout */
}

static void *adds(void *arg)
{
    uint64_t old;
    while (!load_relaxed_u32(&stop)) {
        count(lives(dsm_fetch_add(remote, WORD, 1, &old, -1)));
        fetch_add_u32(&rounds[0], 1);
    }
    return arg;
}

/* A word that no other thread writes. After a WRITE without an answer a READ tells whether it took effect; from then on
 * it does not any more. */
static void *writes(void *arg)
{
    uint64_t known = 0, seen;
    for (uint64_t next = 1; !load_relaxed_u32(&stop); next++) {
        int wrote = lives(dsm_write(remote, MINE, &next, sizeof next, -1));
        known = wrote ? known : next;
        for (int told = 0; told < 3 && !load_relaxed_u32(&stop);) {
            if (lives(dsm_read(remote, MINE, &seen, sizeof seen, -1)))
                continue;
            CHECK(seen == known || (!told && wrote == -DSM_EUNKNOWN && seen == next));
            known = seen;
            told++;
        }
        fetch_add_u32(&rounds[1], 1);
    }
    return arg;
}

/* Long ops, which are registered with the device of their path. */
static void *moves(void *arg)
{
    enum { OPS = 8 };
    uint8_t *local = malloc(BULK_BYTES);
    CHECK(local);
    while (!load_relaxed_u32(&stop)) {
        dsm_op ops[OPS];
        for (int i = 0; i < OPS; i++)
            ops[i] = (dsm_op){.code = DSM_OP_READ,
                              .remote = remote,
                              .offset = BULK,
                              .local = local,
                              .nbytes = i % 2 ? BULK_BYTES : 64};
        memset(local, 0, BULK_BYTES);
        if (lives(dsm_execute(user, ops, OPS, -1, NULL)))
            continue;
        for (int i = 0; i < BULK_BYTES; i++)
            CHECK(local[i] == 7);
        fetch_add_u32(&rounds[2], 1);
    }
    free(local);
    return arg;
}

/* As an event loop does it: atomics and READs, which may need different paths. */
static void *starts(void *arg)
{
    struct pollfd event = {.fd = dsm_event_fd(user), .events = POLLIN};
    uint64_t word;
    for (uint64_t n = 0; !load_relaxed_u32(&stop); n++) {
        dsm_op ops[2] = {{.code = DSM_OP_READ, .remote = remote, .offset = BULK, .local = &word, .nbytes = 8},
                         {.code = DSM_OP_FETCH_ADD, .remote = remote, .offset = WORD, .nbytes = 8, .operand = 1}};
        dsm_ticket *tickets[2], *done;
        int waits = 0;
        for (int i = 0; i < 2; i++) {
            int rc = dsm_start(user, &ops[i], 1, &tickets[i], NULL);
            CHECK(rc == 0);
            waits++;
        }
        while (waits) {
            while (!(done = dsm_completed(user)))
                CHECK(poll(&event, 1, 60000) == 1);
            int rc = lives(dsm_finish(done, -1, NULL));
            if (done == tickets[1])
                count(rc);
            else
                CHECK(rc || word == UINT64_C(0x0707070707070707));
            waits--;
        }
        fetch_add_u32(&rounds[3], 1);
    }
    return arg;
}

static void wait_for_rounds(uint32_t more)
{
    uint32_t until[THREADS];
    for (int i = 0; i < THREADS; i++)
        until[i] = load_relaxed_u32(&rounds[i]) + more;
    for (int i = 0; i < THREADS; i++)
        while ((int32_t)(load_relaxed_u32(&rounds[i]) - until[i]) < 0)
            usleep(1000);
}

static void come_and_go(void)
{
    static const char *const phases[] = {"down=0", "down=1", "down=0", "down=2", "down=1", "down=0"};
    void *(*const runs[THREADS])(void *) = {adds, writes, moves, starts};
    pthread_t threads[THREADS];
    uint8_t bulk[BULK_BYTES];
    uint64_t word;
    dsm_stats s;
    open_both(DEPTH, 200 * MS);
    memset(bulk, 7, sizeof bulk);
    while (lives(dsm_write(remote, BULK, bulk, sizeof bulk, -1)))
        usleep(1000);
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, runs[i], NULL));
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        CHECK(!modeldev_plan(phases[i]));
        wait_for_rounds(5);
    }
    store_release_u32(&stop, 1);
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_join(threads[i], NULL));
    while (dsm_fetch_add(remote, WORD, 0, &word, -1))
        usleep(1000);
    CHECK(word >= added && word <= added + unknown);
    dsm_get_stats(user, &s);
    CHECK(s.failovers >= 3);
    close_both();
}

/* ---- ops that wait when a path is lost ---- */

enum { LONG = 60000 }; /* ms: what no host takes */

static void plan(const char *text) { CHECK(!modeldev_plan(text)); }

static uint64_t word_at(dsm_remote *r, uint64_t offset)
{
    uint64_t word = 0;
    CHECK(!dsm_read(r, offset, &word, sizeof word, -1));
    return word;
}

static void wait_for_inflight(struct peer *p, uint32_t n)
{
    for (uint32_t now = 0; now != n; usleep(1000)) {
        pthread_mutex_lock(&p->lock);
        now = p->ep->inflight;
        pthread_mutex_unlock(&p->lock);
    }
}

/* As if the ops of the endpoint had been given up: the next one is made on the next path. */
static void lose_path(struct peer *p)
{
    pthread_mutex_lock(&p->lock);
    p->suspect = true;
    pthread_mutex_unlock(&p->lock);
    peer_break(p);
}

static void *reads_once(void *arg)
{
    word_at(remote, MINE);
    return arg;
}

/* The queue of the endpoint has room for one op: the READ of a thread waits in it, and an atomic behind the READ. The
 * thread posts its READ again. The atomic is not its business. */
static void posted_again_alone(void)
{
    uint64_t word;
    dsm_op first = {.code = DSM_OP_READ, .offset = MINE, .local = &word, .nbytes = 8};
    dsm_op last = {.code = DSM_OP_FETCH_ADD, .offset = WORD, .nbytes = 8, .operand = 1};
    dsm_ticket *tickets[2];
    pthread_t thread;
    open_both(1, LONG * MS);
    first.remote = last.remote = remote;
    plan("stall=1");
    CHECK(!dsm_submit(user, &first, 1, &tickets[0], NULL));
    CHECK(!pthread_create(&thread, NULL, reads_once, NULL));
    wait_for_inflight(remote->peer, 2);
    CHECK(!dsm_submit(user, &last, 1, &tickets[1], NULL));
    lose_path(remote->peer);
    plan("stall=0");
    CHECK(!pthread_join(thread, NULL));
    CHECK(word_at(remote, WORD) == 0);
    CHECK(!dsm_finish(tickets[0], -1, NULL));
    CHECK(!dsm_finish(tickets[1], -1, NULL) && last.result == 0);
    CHECK(word_at(remote, WORD) == 1);
    close_both();
}

/* A batch to more owners than are posted to at a time: a READ of the first is lost, and a WRITE behind it is posted in
 * the second turn. The READ is not posted again behind it. */
static void not_overtaken(void)
{
    enum { OWNERS = TICKET_GROUPS + 1 };
    dsm_ctx *owners[OWNERS];
    dsm_region *regions[OWNERS];
    dsm_remote *remotes[OWNERS];
    uint64_t words[OWNERS] = {0}, next = 1;
    dsm_op ops[OWNERS + 1];
    dsm_ticket *ticket;
    user = open_two_devices(DEPTH, LONG * MS);
    for (int i = 0; i < OWNERS; i++) {
        owners[i] = open_two_devices(DEPTH, LONG * MS);
        CHECK(!dsm_alloc(owners[i], 64, 7, &regions[i]));
        remotes[i] = attach(regions[i]);
        ops[i] = (dsm_op){.code = DSM_OP_READ, .remote = remotes[i], .local = &words[i], .nbytes = 8};
    }
    ops[OWNERS] = (dsm_op){
        .code = DSM_OP_WRITE, .flags = DSM_OP_FENCE, .remote = remotes[0], .local = &next, .nbytes = sizeof next};
    plan("stall=1");
    CHECK(!dsm_submit(user, ops, OWNERS + 1, &ticket, NULL));
    lose_path(remotes[0]->peer);
    plan("stall=0");
    CHECK(dsm_finish(ticket, -1, NULL) && ops[0].status && !ops[OWNERS].status);
    CHECK(words[0] == 0);
    for (int i = 0; i < OWNERS; i++) {
        CHECK(!dsm_remote_close(remotes[i]));
        CHECK(!dsm_region_close(regions[i]));
        dsm_close(owners[i]);
    }
    dsm_close(user);
}

/* ---- what is no lost path, and what is ---- */

/* The device can't use the local memory of an op. That says nothing of the path: the next endpoint is made on the same,
 * and atomics are not held back. An atomic whose result can't be stored has been executed. */
static void local_errors(void)
{
    uint64_t word, old;
    dsm_stats s;
    open_both(DEPTH, LONG * MS);
    for (int i = 0; i < 2; i++) {
        CHECK(!dsm_read(remote, WORD, &word, sizeof word, -1));
        struct ibv_mr *local = ((struct verbs_ep *)remote->peer->ep)->slab_mr;
        uint32_t key = local->lkey;
        local->lkey = ~key;
        int rc = i ? dsm_fetch_add(remote, WORD, 1, &old, -1) : dsm_read(remote, WORD, &word, sizeof word, -1);
        local->lkey = key; /* the endpoint is broken, and stays until the next op */
        if (i)
            CHECK(rc == -DSM_EUNKNOWN && dsm_last_error()->cause == DSM_ELOCAL);
        else
            CHECK(rc == -DSM_ELOCAL);
        CHECK(!dsm_fetch_add(remote, WORD, 0, &old, -1) && old == (uint64_t)i);
    }
    dsm_get_stats(user, &s);
    CHECK(!s.failovers && !remote->peer->path);
    close_both();
}

/* A deadline of the caller's that passes makes a path suspect: an atomic goes back to it. */
static void suspect(void)
{
    uint64_t word, old;
    open_both(DEPTH, LONG * MS);
    CHECK(!dsm_read(remote, WORD, &word, sizeof word, -1));
    plan("stall=1");
    CHECK(dsm_read(remote, WORD, &word, sizeof word, 20 * MS) == -DSM_ETIME);
    plan("stall=0");
    CHECK(!dsm_fetch_add(remote, WORD, 1, &old, -1) && old == 0 && !remote->peer->path);
    plan("stall=1");
    CHECK(dsm_read(remote, WORD, &word, sizeof word, 20 * MS) == -DSM_ETIME);
    plan("stall=0");
    CHECK(!dsm_read(remote, WORD, &word, sizeof word, -1) && word == 1 && remote->peer->path == 1);
    CHECK(!dsm_fetch_add(remote, WORD, 1, &old, -1) && old == 1 && !remote->peer->path);
    close_both();
}

static int result_of(dsm_ticket *t)
{
    struct pollfd event = {.fd = dsm_event_fd(user), .events = POLLIN};
    dsm_ticket *done;
    while (!(done = dsm_completed(user)))
        CHECK(poll(&event, 1, LONG) == 1);
    CHECK(done == t);
    return dsm_finish(t, -1, NULL);
}

static void await_given_up(bool started)
{
    uint64_t word;
    dsm_op op = {.code = DSM_OP_READ, .remote = remote, .offset = WORD, .local = &word, .nbytes = sizeof word};
    dsm_ticket *t;
    if (!started) {
        CHECK(dsm_read(remote, WORD, &word, sizeof word, -1) == -DSM_ETIME);
        return;
    }
    CHECK(!dsm_start(user, &op, 1, &t, NULL));
    CHECK(result_of(t) == -DSM_ETIME);
}

/* The core gives up an op that has no deadline: the path counts as lost, and atomics are held back. Nothing of what was
 * given up takes effect later. */
static void given_up(void)
{
    uint64_t word, old;
    for (int started = 0; started < 2; started++) {
        open_both(DEPTH, LONG * MS);
        CHECK(!dsm_read(remote, WORD, &word, sizeof word, -1));
        plan("stall=1");
        user->peer_timeout_ns = 20 * MS;
        await_given_up(started);
        user->peer_timeout_ns = LONG * MS;
        plan("stall=0");
        CHECK(dsm_fetch_add(remote, WORD, 1, &old, -1) == -DSM_EPATH);
        CHECK(!dsm_read(remote, WORD, &word, sizeof word, -1) && word == 0 && remote->peer->path == 1);
        CHECK(dsm_fetch_add(remote, WORD, 1, &old, -1) == -DSM_EPATH);
        close_both();
    }
}

/* ---- groups that wait for the helper ---- */

/* An atomic whose path was lost a moment ago is refused, and not the READ that waits behind it. */
static void refused_alone(void)
{
    uint64_t word;
    dsm_op ops[] = {{.code = DSM_OP_FETCH_ADD, .offset = WORD, .nbytes = 8, .operand = 1},
                    {.code = DSM_OP_READ, .offset = MINE, .local = &word, .nbytes = 8}};
    dsm_ticket *tickets[2];
    open_both(DEPTH, LONG * MS);
    struct peer *p = remote->peer;
    CHECK(!pthread_mutex_lock(&p->control_lock)); /* the helper waits for it until both ops are there */
    p->held = deadline_after(LONG * MS);
    lose_path(p);
    for (int i = 0; i < 2; i++) {
        ops[i].remote = remote;
        CHECK(!dsm_start(user, &ops[i], 1, &tickets[i], NULL));
    }
    pthread_mutex_unlock(&p->control_lock);
    CHECK(result_of(tickets[0]) == -DSM_EPATH);
    CHECK(!result_of(tickets[1]));
    close_both();
}

static void wait_for_event(void)
{
    struct pollfd event = {.fd = dsm_event_fd(user), .events = POLLIN};
    CHECK(poll(&event, 1, LONG) == 1);
}

static bool is_posted(struct peer *p)
{
    pthread_mutex_lock(&p->lock);
    bool yes = p->ep && !p->ep->broken && p->ep->inflight;
    pthread_mutex_unlock(&p->lock);
    return yes;
}

static void lose_path_once_posted(struct peer *p)
{
    while (!is_posted(p))
        usleep(1000);
    lose_path(p);
    wait_for_event();
}

/* A started READ whose path is lost again and again is given up at one time, which the first loss has set. */
static void one_deadline(void)
{
    uint64_t word;
    dsm_op op = {.code = DSM_OP_READ, .offset = MINE, .local = &word, .nbytes = 8};
    dsm_ticket *t;
    int64_t due = 0;
    open_both(DEPTH, LONG * MS);
    op.remote = remote;
    plan("stall=1");
    CHECK(!dsm_start(user, &op, 1, &t, NULL));
    for (uint32_t i = 1; i < 3; i++) {
        lose_path_once_posted(remote->peer);
        CHECK(!dsm_completed(user) && t->resumed == i);
        CHECK(t->due && (!due || due == t->due));
        due = t->due;
    }
    lose_path_once_posted(remote->peer);
    CHECK(load_acquire_u64(&user->done)); /* the helper has let go of it; */
    t->due = deadline_after(200 * MS);    /* it waits for dsm_completed() */
    CHECK(result_of(t));                  /* at once if the host was slow, otherwise ETIME: and not after two minutes */
    plan("stall=0");
    CHECK(word_at(remote, MINE) == 0);
    close_both();
}

static bool is_moving(struct peer *p)
{
    pthread_mutex_lock(&p->lock);
    bool yes = p->moving;
    pthread_mutex_unlock(&p->lock);
    return yes;
}

/* An atomic that waits for the READ before it, since it needs another path, is stopped. */
static void not_posted_once_stopped(void)
{
    uint32_t stop_word = 0;
    uint64_t word;
    dsm_choice how = {.stop = &stop_word};
    dsm_op ops[] = {{.code = DSM_OP_READ, .offset = MINE, .local = &word, .nbytes = 8},
                    {.code = DSM_OP_FETCH_ADD, .offset = WORD, .nbytes = 8, .operand = 1}};
    dsm_ticket *tickets[2];
    open_both(DEPTH, LONG * MS);
    struct peer *p = remote->peer;
    CHECK(!pthread_mutex_lock(&p->control_lock));
    lose_path(p);
    plan("stall=1");
    ops[0].remote = ops[1].remote = remote;
    CHECK(!dsm_start(user, &ops[0], 1, &tickets[0], NULL));
    CHECK(!dsm_start_as(user, &ops[1], 1, &how, &tickets[1], NULL));
    pthread_mutex_unlock(&p->control_lock);
    while (!is_moving(p))
        usleep(1000);
    dsm_stop(user, &ops[1], 1, &stop_word, tickets[1]);
    CHECK(result_of(tickets[1]) == -DSM_ECANCELED);
    plan("stall=0");
    CHECK(!result_of(tickets[0]));
    CHECK(word_at(remote, WORD) == 0);
    close_both();
}

/* An atomic moves the connection to another path, on which it then is executed at once. */
static void moved_once(void)
{
    uint64_t old;
    open_both(DEPTH, LONG * MS);
    lose_path(remote->peer);
    CHECK(word_at(remote, WORD) == 0);
    uint64_t connects = load_relaxed_u64(&user->stats.connects);
    CHECK(!dsm_fetch_add(remote, WORD, 1, &old, -1) && old == 0);
    CHECK(load_relaxed_u64(&user->stats.connects) == connects + 1);
    CHECK(word_at(remote, WORD) == 1);
    close_both();
}

static void run(void (*scene)(void), const char *text_of_plan)
{
    char dir[] = "/tmp/modeldev-XXXXXX", text[256], command[64];
    int status;
    CHECK(mkdtemp(dir));
    pid_t pid = fork();
    if (pid == 0) {
        snprintf(text, sizeof text, "dir=%s&devices=2&%s", dir, text_of_plan);
        setenv("MODELDEV", text, 1);
        scene();
        exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(!system(command));
    CHECK(!status);
}

int main(void)
{
    run(come_and_go, "atomics=nic");
    run(come_and_go, "atomics=global&scatter=8&overtake=1");
    run(posted_again_alone, "atomics=global");
    run(not_overtaken, "atomics=global");
    run(local_errors, "atomics=nic");
    run(suspect, "atomics=nic");
    run(given_up, "atomics=nic");
    run(refused_alone, "atomics=nic");
    run(one_deadline, "atomics=global");
    run(not_posted_once_stopped, "atomics=nic");
    run(moved_once, "atomics=nic");
    puts("ok");
    return 0;
}
#else
#include "without_verbs.h"
#endif
