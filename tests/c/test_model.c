/*
 * The verbs fabric on the model device (tests/modeldev): one scene for each habit that hardware may have and SoftRoCE
 * has not. Each scene runs in a process of its own, with its own plan. tests/modeldev/test_planted.py breaks the care
 * that a scene is about, in a copy of the sources, and sees the scene fail; with an argument only that scene runs.
 */
/* with: tests/modeldev */
/* wraps: verbs_load */
#ifdef DSM_HAVE_VERBS
#include "model_scenes.h"
#include "outcome.h"
#include "pieces.h"

#include <pthread.h>

enum { ROWS = 512 };

static uint8_t mine[BIG], other[BIG];

static uint64_t add(dsm_remote *r, uint64_t offset, uint64_t n)
{
    uint64_t old;
    CHECK(!dsm_fetch_add(r, offset, n, &old, -1));
    return old;
}

static bool all(const uint8_t *p, uint8_t value, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != value)
            return false;
    return true;
}

static pthread_t thread(void *(*run)(void *))
{
    pthread_t t;
    CHECK(!pthread_create(&t, NULL, run, NULL));
    return t;
}

/* ---- bytes in any order, in pieces ---- */

enum { RECORDS = 300, RECORD = 200 };

static void *produce(void *arg)
{
    dsm_queue *q;
    uint8_t record[RECORD];
    (void)arg;
    CHECK(!dsm_queue_open(remote, NULL, &q) && !dsm_queue_produce(q));
    for (int i = 0; i < RECORDS; i++) {
        int rc;
        memset(record, i % 255 + 1, sizeof record);
        while ((rc = dsm_queue_push(q, record, sizeof record, 1)) == -DSM_EFULL)
            usleep(100);
        CHECK(!rc && !dsm_queue_flush(q));
    }
    CHECK(!dsm_queue_close(q));
    return NULL;
}

/* The consumer finds records that have landed in part. It takes none that is not whole. */
static void records(void)
{
    dsm_queue_config shape = {.lanes = 1, .flags = DSM_QUEUE_CHECKED, .lane_bytes = 8192, .max_message = RECORD};
    dsm_queue *q;
    open_two();
    CHECK(!dsm_queue_format(dsm_region_data(region), &shape));
    CHECK(!dsm_queue_open(own, dsm_region_data(region), &q) && !dsm_queue_consume(q));
    pthread_t producer = thread(produce);
    for (int i = 0, rc; i < RECORDS; i++) {
        const void *payload;
        uint64_t n;
        uint8_t kind;
        while ((rc = dsm_queue_next(q, &payload, &n, &kind)) == -DSM_EEMPTY)
            sched_yield();
        CHECK(!rc && n == RECORD && all(payload, (uint8_t)(i % 255 + 1), n) && !dsm_queue_done(q));
    }
    pthread_join(producer, NULL);
    CHECK(!dsm_queue_close(q));
    close_two();
}

enum { VERSIONS = 40 };
static uint32_t written;

static void *publish(void *arg)
{
    dsm_segment s;
    uint64_t version, rows, data[ROWS];
    (void)arg;
    CHECK(!dsm_segment_open(own, &s));
    for (uint64_t i = 1; i <= VERSIONS; i++) {
        CHECK(!dsm_segment_begin(own, &s, -1, &version, &rows));
        for (size_t k = 0; k < ROWS; k++)
            data[k] = i;
        CHECK(!dsm_segment_commit(own, &s, data, &version));
    }
    CHECK(!dsm_segment_leave(own, &s));
    store_release_u32(&written, 1);
    return NULL;
}

/* A READ mixes versions; a snapshot never does. */
static void versions(void)
{
    dsm_segment s = {.axes = 1, .itemsize = 8, .dtype_length = 5, .versioned = 1, .shape = {ROWS}, .capacity = ROWS};
    uint64_t n, seen, data[ROWS];
    strcpy(s.dtype, "'<u8'");
    open_two();
    CHECK(!dsm_segment_layout(&s, &n) && n <= BIG && !dsm_segment_format(dsm_region_data(region), n, &s));
    CHECK(!dsm_segment_open(remote, &s));
    pthread_t writer = thread(publish);
    do {
        uint64_t rows = ROWS;
        int tries = -1000000; /* a reader that never takes the writer's turn */
        CHECK(!dsm_segment_snapshot(remote, &s, data, &rows, -1, &tries, &seen) && rows == ROWS);
        for (size_t k = 1; k < ROWS; k++)
            CHECK(data[k] == data[0]);
    } while (!load_acquire_u32(&written));
    pthread_join(writer, NULL);
    close_two();
}

/* ---- order ---- */

/* What follows a READ and depends on it is fenced: the WRITE overtakes no part of it. */
static void fences(void)
{
    dsm_region *a, *b;
    open_two();
    CHECK(!dsm_register(user, mine, BIG, DSM_READ, &a) && !dsm_register(user, other, BIG, DSM_READ, &b));
    for (int i = 1; i <= 10; i++) {
        memset(other, i, BIG);
        dsm_op ops[] = {
            {.code = DSM_OP_READ, .remote = remote, .local = mine, .nbytes = BIG},
            {.code = DSM_OP_WRITE, .flags = DSM_OP_FENCE, .remote = remote, .local = other, .nbytes = BIG},
        };
        CHECK(!dsm_execute(user, ops, 2, -1, NULL) && all(mine, (uint8_t)(i - 1), BIG));
    }
    CHECK(!dsm_region_close(a) && !dsm_region_close(b));
    close_two();
}

/* The source of a fenced WRITE may be the destination of the READ before it, also where it is copied. */
static void fenced_copies(void)
{
    open_two();
    for (uint64_t i = 1; i <= 20; i++) {
        uint64_t word = 0, out = 0;
        add(own, 0, 1);
        dsm_op ops[] = {
            {.code = DSM_OP_READ, .remote = remote, .local = &word, .nbytes = 8},
            {.code = DSM_OP_WRITE, .flags = DSM_OP_FENCE, .remote = remote, .offset = 8, .local = &word, .nbytes = 8},
        };
        CHECK(!dsm_execute(user, ops, 2, -1, NULL) && word == i);
        CHECK(!dsm_read(remote, 8, &out, 8, -1) && out == i);
    }
    close_two();
}

/* A completed WRITE is seen by what follows it on its connection; by the owner's CPU perhaps later. */
static void late_writes(void)
{
    static uint8_t back[4096];
    open_two();
    for (int i = 1; i <= 50; i++) {
        memset(mine, i, sizeof back);
        CHECK(!dsm_write(remote, 0, mine, sizeof back, -1));
#ifdef PLANT_THE_CPU_LOOKS
        memcpy(back, dsm_region_data(region), sizeof back);
#else
        CHECK(!dsm_read(remote, 0, back, sizeof back, -1));
#endif
        CHECK(all(back, (uint8_t)i, sizeof back));
    }
    close_two();
}

/* What a node has sent is in memory once it is fenced, or never comes: others may change the word then. */
static void fenced(void)
{
    for (uint64_t i = 1; i <= 20; i++) {
        uint8_t node[DSM_NODE_ID];
        open_two();
        const uint64_t *word = dsm_region_data(region);
        CHECK(!dsm_write(remote, 0, &i, sizeof i, -1));
        dsm_node_id(user, node);
        CHECK(!dsm_fence(owner, node) && load_acquire_u64(word) == i);
        CHECK(dsm_write(remote, 0, mine, sizeof i, -1) && load_acquire_u64(word) == i);
        close_two();
    }
}

static dsm_stats counts(void)
{
    dsm_stats s;
    dsm_get_stats(user, &s);
    return s;
}

static bool move(uint8_t code, uint64_t offset, void *local, uint64_t nbytes)
{
    uint64_t bulk = counts().bulk;
    CHECK(!(code == DSM_OP_READ ? dsm_read(remote, offset, local, nbytes, -1)
                                : dsm_write(remote, offset, local, nbytes, -1)));
    return counts().bulk == bulk + 1;
}

/* Long ops by shared memory, the others by the device: their order is that of one connection. What the device has
 * acknowledged is there when the CPU copies, and does not land on the copy afterwards. */
static void bulk(void)
{
    enum { PART = 4096, AT = 8192 };
    static uint8_t back[BIG];
    fabrics = "shm,verbs";
    open_two();
    CHECK(!strcmp(dsm_remote_fabric(remote), "verbs") && !strcmp(dsm_remote_bulk_fabric(remote), "shm"));
    for (int i = 1; i <= 50; i++) {
        memset(mine, i, BIG);
        memset(other, ~i, BIG);
        CHECK(!move(DSM_OP_WRITE, AT, other, PART) && move(DSM_OP_READ, 0, back, BIG));
        CHECK(all(back + AT, (uint8_t)~i, PART));
        CHECK(!move(DSM_OP_WRITE, AT + PART, other, PART) && move(DSM_OP_WRITE, 0, mine, BIG));
        CHECK(!move(DSM_OP_READ, AT, back, 2 * PART) && all(back, (uint8_t)i, 2 * PART));
        memset(mine, 0, BIG);
        CHECK(move(DSM_OP_WRITE, 0, mine, BIG));
        CHECK(add(remote, 0, 1) == 0 && move(DSM_OP_READ, 0, back, BIG) && back[0] == 1);
    }
    close_two();
}

/* A copy waits for what was posted before and has not completed, READs among it: they find what was there before. */
static void bulk_behind(void)
{
    static uint8_t back[BIG];
    dsm_ticket *t;
    fabrics = "shm,verbs";
    open_two();
    for (int i = 1; i <= 20; i++) {
        dsm_op op = {.code = DSM_OP_READ, .remote = remote, .local = back, .nbytes = BIG};
        memset(mine, i, BIG);
        CHECK(!dsm_submit(user, &op, 1, &t, NULL) && move(DSM_OP_WRITE, 0, mine, BIG));
        CHECK(!dsm_finish(t, -1, NULL) && all(back, (uint8_t)(i - 1), BIG));
    }
    close_two();
}

/* A posting goes by one way as a whole. */
static void bulk_batches(void)
{
    static uint8_t back[BIG];
    fabrics = "shm,verbs";
    open_two();
    memset(mine, 7, BIG);
    dsm_op ops[3] = {
        {.code = DSM_OP_WRITE, .remote = remote, .offset = 8, .local = mine, .nbytes = BIG - 8},
        {.code = DSM_OP_READ, .remote = remote, .offset = 0, .nbytes = BIG, .second = back, .second_nbytes = BIG},
        {.code = DSM_OP_FETCH_ADD, .remote = remote, .offset = 0, .nbytes = 8, .operand = 1},
    };
    uint64_t posts = counts().posts;
    CHECK(!dsm_execute(user, ops, 3, -1, NULL) && !counts().bulk && counts().posts == posts + 3);
    CHECK(!dsm_execute(user, ops, 2, -1, NULL) && counts().bulk == 2 && counts().posts == posts + 4);
    CHECK(back[0] == 1 && all(back + 8, 7, BIG - 8));
    ops[0].nbytes = 8; /* a word, maybe */
    CHECK(!dsm_execute(user, ops, 2, -1, NULL) && counts().bulk == 2 && counts().posts == posts + 6);
    ops[0].nbytes = 4096;
    ops[1].nbytes = ops[1].second_nbytes = BIG - 4097;
    CHECK(!dsm_execute(user, ops, 2, -1, NULL) && counts().bulk == 2 && counts().posts == posts + 8);
    uint32_t stop = 1;
    ops[1].nbytes = ops[1].second_nbytes = BIG;
    CHECK(dsm_execute_as(user, ops, 2, &(dsm_choice){.stop = &stop}, -1, NULL) == -DSM_ECANCELED);
    CHECK(ops[0].status == -DSM_ECANCELED && ops[1].status == -DSM_ECANCELED && counts().bulk == 2);
    CHECK(!dsm_region_close(region) && dsm_write(remote, 0, mine, BIG, -1) == -DSM_ESTALE && counts().bulk == 2);
    CHECK(dsm_remote_close(remote) + dsm_remote_close(own) == 0);
    dsm_close(user);
    dsm_close(owner);
    CHECK(!modeldev_count("regs") && !modeldev_count("qps"));
}

/* ---- atomics of their own domain ---- */

enum { ADDS = 200 };

static void *add_many(void *arg)
{
    (void)arg;
    for (int i = 0; i < ADDS; i++)
        add(remote, 0, 1);
    return NULL;
}

/* The owner, too, changes a word that others change with atomics only by those. */
static void counters(void)
{
    open_two();
    pthread_t t = thread(add_many);
    for (int i = 0; i < ADDS; i++)
#ifdef PLANT_THE_CPU_ADDS
        fetch_add_u64(dsm_region_data(region), 1), usleep(20);
#else
        add(own, 0, 1);
#endif
    pthread_join(t, NULL);
    CHECK(add(remote, 0, 0) == 2 * ADDS);
    close_two();
}

static uint32_t enough;

static void *try_in_vain(void *arg)
{
    uint64_t old;
    (void)arg;
    while (!load_relaxed_u32(&enough))
        CHECK(!dsm_compare_swap(remote, 0, UINT64_MAX, 1, &old, -1));
    return NULL;
}

/* A compare-swap that fails stores what it has found: a word that others try is released by a compare-swap. */
static void releases(void)
{
    open_two();
    pthread_t t = thread(try_in_vain);
    for (uint64_t i = 0; i < ADDS; i++) {
        uint64_t old, next = i + 1;
#ifdef PLANT_A_WRITE_RELEASES
        CHECK(!dsm_write(own, 0, &next, 8, -1));
        old = i;
#else
        CHECK(!dsm_compare_swap(own, 0, i, next, &old, -1));
#endif
        CHECK(old == i && add(own, 0, 0) == next);
    }
    store_relaxed_u32(&enough, 1);
    pthread_join(t, NULL);
    close_two();
}

/* ---- keys ---- */

static uint32_t outcome;

static void *write_in_a_loop(void *arg)
{
    int rc;
    (void)arg;
    do
        rc = dsm_write(remote, 0, mine, BIG, -1);
    while (!rc);
    store_release_u32(&outcome, (uint32_t)-rc);
    return NULL;
}

/* A region is closed while a WRITE to it is executed: no byte arrives afterwards, and the writer learns why. */
static void cut_in_the_middle(void)
{
    open_two();
    memset(mine, 7, BIG);
    pthread_t t = thread(write_in_a_loop);
    while (!add(own, 0, 0)) /* the first word has landed */
        ;
    CHECK(!dsm_remote_close(own) && !dsm_region_close(region));
    pthread_join(t, NULL);
    CHECK(load_acquire_u32(&outcome) == DSM_ESTALE);
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    dsm_close(owner);
    CHECK(!modeldev_count("regs") && !modeldev_count("qps") && !modeldev_count("torn"));
}

/* Memory stays registered while an op uses it as its local side. */
static void local_side(void)
{
    dsm_region *local;
    dsm_ticket *t;
    open_two();
    add(remote, 0, 0);
    CHECK(!dsm_register(user, mine, BIG, DSM_READ, &local));
    dsm_op op = {.code = DSM_OP_WRITE, .remote = remote, .local = mine, .nbytes = BIG};
    CHECK(!modeldev_plan("stall=1"));
    CHECK(!dsm_submit(user, &op, 1, &t, NULL) && !dsm_region_close(local));
    CHECK(!modeldev_plan("stall=0") && !dsm_finish(t, -1, NULL));
    close_two();
}

/* ---- two local pieces ---- */

/* Copied, inlined, and registered until the op is done, as their lengths have it. */
static void pieces(void)
{
    open_two();
    all_of_pieces(user, remote);
    close_two();
}

/* The pieces are in two registrations, or one of them is in none. */
static void registered_pieces(void)
{
    dsm_region *a, *b;
    open_two();
    CHECK(!dsm_register(user, mine, BIG, DSM_READ, &a) && !dsm_register(user, other, BIG, DSM_READ, &b));
    for (uint64_t n = 1; n < BIG / 2; n = n * 5 + 1) {
        struct piece_buffer alone = piece_of(n, 8);
        memset(mine, 3, BIG);
        memset(other, (int)n, BIG);
        move_in_two(user, remote, 1, (struct piece_buffer){mine, n}, (struct piece_buffer){other, 20000});
        move_in_two(user, remote, 1, (struct piece_buffer){other, 9999}, (struct piece_buffer){mine, n});
        move_in_two(user, remote, 1, (struct piece_buffer){other, 9999}, alone);
        move_in_two(user, remote, 1, alone, (struct piece_buffer){other, 9999});
        dsm_op op = op_in_two(DSM_OP_READ, remote, 8, (struct piece_buffer){mine, n}, (struct piece_buffer){other, n});
        CHECK(!dsm_execute(user, &op, 1, -1, NULL));
        free(alone.at);
    }
    CHECK(!dsm_region_close(a) && !dsm_region_close(b));
    close_two();
}

/* Each piece stays registered while an op uses it, also where registering the other fails. */
static void local_pieces(void)
{
    dsm_region *a, *b;
    dsm_ticket *t;
    open_two();
    add(remote, 0, 0);
    CHECK(!dsm_register(user, mine, BIG, DSM_READ, &a) && !dsm_register(user, other, BIG, DSM_READ, &b));
    dsm_op op =
        op_in_two(DSM_OP_WRITE, remote, 0, (struct piece_buffer){mine, BIG / 2}, (struct piece_buffer){other, BIG / 2});
    CHECK(!modeldev_plan("stall=1"));
    CHECK(!dsm_submit(user, &op, 1, &t, NULL) && !dsm_region_close(a) && !dsm_region_close(b));
    CHECK(!modeldev_plan("stall=0") && !dsm_finish(t, -1, NULL));
    struct piece_buffer alone = piece_of(BIG / 3, 8);
    CHECK(!dsm_register(user, mine, BIG, DSM_READ, &a) && !modeldev_plan("full=1"));
    move_in_two(user, remote, 1, (struct piece_buffer){mine, BIG / 3}, alone);
    move_in_two(user, remote, 1, alone, (struct piece_buffer){mine, BIG / 3});
    free(alone.at);
    CHECK(!modeldev_plan("full=0") && !dsm_region_close(a));
    close_two();
}

/* ---- limits ---- */

static void submit_many(size_t n)
{
    static dsm_op ops[500];
    dsm_ticket *t;
    open_two();
    add(remote, 0, 0);
    CHECK(!modeldev_plan("stall=1"));
    for (size_t i = 0; i < n; i++)
        ops[i] = (dsm_op){.code = DSM_OP_FETCH_ADD, .remote = remote, .nbytes = 8, .operand = 1};
    CHECK(!dsm_submit(user, ops, n, &t, NULL) && !modeldev_plan("stall=0") && !dsm_finish(t, -1, NULL));
    for (size_t i = 0; i < n; i++)
        CHECK(ops[i].result == i);
    close_two();
}

static void many_requests(void) { submit_many(500); }

static void sizes(void)
{
    open_two();
    for (size_t n = 1; n < 300; n += 7) {
        memset(mine, (int)n, n);
        CHECK(!dsm_write(remote, 0, mine, n, -1) && !dsm_read(remote, 0, other, n, -1) && !memcmp(mine, other, n));
    }
    CHECK(!dsm_write(remote, 0, mine, BIG, -1) && !dsm_read(remote, 0, other, BIG, -1) && !memcmp(mine, other, BIG));
    close_two();
}

/* Its completion queue is too small (planted): the device reports that it is lost, and the op ends. */
static void lost_completions(void)
{
    static dsm_op ops[100];
    open_two();
    for (size_t i = 0; i < 100; i++)
        ops[i] = (dsm_op){.code = DSM_OP_FETCH_ADD, .remote = remote, .nbytes = 8, .operand = 1};
    dsm_ticket *t;
    add(remote, 0, 0);
    CHECK(!modeldev_plan("stall=1") && !dsm_submit(user, ops, 100, &t, NULL) && !modeldev_plan("stall=0"));
    while (!modeldev_count("overruns"))
        usleep(1000);
    CHECK(is_unknown(dsm_finish(t, -1, NULL), DSM_EIO));
    close_two();
}

/* ---- packets that are lost, devices that die ---- */

static void lost_packets(void)
{
    open_two();
    for (uint64_t i = 0; i < 60; i++)
        CHECK(add(remote, 0, 1) == i); /* each exactly once */
    memset(mine, 9, BIG);
    CHECK(!dsm_write(remote, 0, mine, BIG, -1) && !dsm_read(remote, 0, other, BIG, -1) && all(other, 9, BIG));
    close_two();
}

/* A READ of which a packet was lost is asked for again from there, and answered from there at once. */
static void lost_answers(void)
{
    enum { READS = 10, PACKETS = BIG / 256 };
    open_two();
    memset(mine, 9, BIG);
    CHECK(!dsm_write(remote, 0, mine, BIG, -1));
    for (int i = 0; i < READS; i++) {
        memset(other, 0, BIG);
        CHECK(!dsm_read(remote, 0, other, BIG, -1) && all(other, 9, BIG));
    }
    CHECK(modeldev_count("answers") >= READS * PACKETS && modeldev_count("answers") < 2 * READS * PACKETS);
    close_two();
}

/* A request that the device can't send tells of the path, and nothing of the caller's memory. */
static void no_route(void)
{
    uint64_t old;
    open_two();
    add(remote, 0, 1);
    CHECK(!modeldev_plan("noroute=1"));
    CHECK(dsm_read(remote, 0, other, 64, -1) == -DSM_EIO);
    CHECK(is_unknown(dsm_fetch_add(remote, 0, 1, &old, -1), DSM_EIO));
    CHECK(!modeldev_plan("noroute=0"));
    CHECK(add(remote, 0, 1) == 1);
    close_two();
}

static void stalls(const char *how)
{
    uint64_t old;
    open_two();
    add(remote, 0, 1);
    CHECK(!modeldev_plan(how));
    CHECK(is_unknown(dsm_fetch_add(remote, 0, 1, &old, 20 * MS), DSM_ETIME));
    CHECK(!modeldev_plan("stall=0&hang=0"));
    CHECK(!dsm_fetch_add(remote, 0, 1, &old, 30000 * MS) && old <= 2);
    close_two();
}

static void stalled(void) { stalls("stall=1"); }
static void hanging(void) { stalls("stall=1&hang=1"); }

static void dies(const char *how, int later)
{
    uint64_t old;
    dsm_ctx *c;
    open_two();
    add(remote, 0, 1);
    CHECK(!modeldev_plan(how));
    CHECK(is_unknown(dsm_fetch_add(remote, 0, 1, &old, -1), DSM_EIO));
    CHECK(dsm_fetch_add(remote, 0, 1, &old, -1) == -DSM_EIO); /* not even sent */
    dsm_options o = options_of("verbs");
    int rc = dsm_open(&o, &c);
    CHECK(rc == later);
    if (!rc)
        dsm_close(c);
    close_two();
}

static void fatal(void) { dies("fatal=1", 0); }
static void unplugged(void) { dies("unplug=1", -DSM_ENODEV); }

/* ---- addresses ---- */

static void connects(void)
{
    open_two();
    CHECK(add(remote, 0, 1) == 0 && add(remote, 0, 1) == 1);
    close_two();
}

static dsm_ctx *open_with_gid(int gid)
{
    char fabric[32];
    snprintf(fabric, sizeof fabric, "verbs?gid=%d", gid);
    return open_with(options_of(fabric));
}

static int attach_with(int owners_gid, int users_gid)
{
    dsm_remote *r;
    owner = open_with_gid(owners_gid);
    CHECK(!dsm_alloc(owner, BIG, 7, &region));
    user = open_with_gid(users_gid);
    int rc = attach(user, &r);
    if (!rc) {
        add(r, 0, 1);
        CHECK(!dsm_remote_close(r));
    }
    dsm_close(user);
    CHECK(!dsm_region_close(region));
    dsm_close(owner);
    return rc;
}

static void gid_types(void)
{
    CHECK(!attach_with(1, 3) && !attach_with(0, 2) && !attach_with(-1, 1));
    CHECK(attach_with(0, 1) == -DSM_EINVAL && attach_with(-1, 2) == -DSM_EINVAL);
}

static void other_devices(void)
{
    dsm_caps caps;
    open_two();
    CHECK(!dsm_capabilities(user, 0, &caps));
    CHECK(!strcmp(caps.device, "model0") && caps.port == 1);
    CHECK(add(remote, 0, 1) == 0);
    close_two();
    user = open_with(options_of("verbs?device=model1&port=2"));
    CHECK(!dsm_capabilities(user, 0, &caps));
    CHECK(!strcmp(caps.device, "model1") && caps.port == 2);
    dsm_close(user);
}

/* ---- two processes ---- */

static void serve(int to, int until)
{
    uint8_t raw[DSM_DESC_MAX];
    char byte;
    owner = open_verbs();
    CHECK(!dsm_alloc(owner, BIG, 7, &region));
    int n = dsm_region_descriptor(region, raw);
    CHECK(write(to, raw, (size_t)n) == n && read(until, &byte, 1) == 0);
    CHECK(!dsm_region_close(region));
    dsm_close(owner);
    exit(0);
}

static void processes(void)
{
    int there[2], back[2], status;
    uint8_t raw[DSM_DESC_MAX];
    CHECK(!pipe(there) && !pipe(back));
    pid_t pid = fork();
    if (pid == 0) {
        close(back[1]);
        serve(there[1], back[0]);
    }
    close(back[0]);
    ssize_t n = read(there[0], raw, sizeof raw);
    user = open_verbs();
    CHECK(n > 0 && !dsm_attach(user, raw, (size_t)n, 30000 * MS, &remote));
    memset(mine, 5, BIG);
    CHECK(!dsm_write(remote, 0, mine, BIG, -1) && !dsm_read(remote, 0, other, BIG, -1) && all(other, 5, BIG));
    for (uint64_t i = 0; i < 50; i++)
        CHECK(add(remote, 0, 1) == i + UINT64_C(0x0505050505050505));
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    close(back[1]);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

/* Fork runs the handlers of this program after those of a library that was loaded later. Here they wait for a lock that
 * a thread holds while it calls the device, as an agent does. */
static void *call_the_device(void *arg)
{
    (void)arg;
    modeldev_count("qps");
    return NULL;
}

static void wait_for_the_device(void)
{
    struct timespec limit;
    pthread_t t = thread(call_the_device);
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 60;
    CHECK(!pthread_timedjoin_np(t, NULL, &limit));
}

static void forks(void)
{
    int status;
    CHECK(!pthread_atfork(wait_for_the_device, NULL, NULL));
    open_two();
    add(remote, 0, 1);
    pid_t pid = fork();
    if (pid == 0)
        _exit(modeldev_count("qps") != 0);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK(add(remote, 0, 1) == 1);
    close_two();
}

static const struct scene scenes[] = {
    {"records", "scatter=8&pause=50", records, false},
    {"versions", "scatter=8&pause=20", versions, false},
    {"fences", "scatter=8&pause=20&overtake=1", fences, false},
    {"fenced_copies", "scatter=8&overtake=1", fenced_copies, false},
    {"late_writes", "late=2000", late_writes, false},
    {"fenced", "late=1000000", fenced, false},
    {"bulk", "late=2000", bulk, false},
    {"bulk_behind", "scatter=8&pause=20&overtake=1", bulk_behind, false},
    {"bulk_batches", "scatter=8&overtake=1&mtu=1024&late=100", bulk_batches, false},
    {"counters", "window=50", counters, false},
    {"releases", "window=50", releases, false},
    {"cut_in_the_middle", "scatter=8&pause=50", cut_in_the_middle, false},
    {"local_side", "", local_side, false},
    {"pieces", "scatter=8", pieces, false},
    {"pieces_inline_60", "inline=60&message=1000&mtu=256", pieces, false},
    {"one_entry", "sge=1&depth=4", pieces, false},
    {"registered_pieces", "", registered_pieces, false},
    {"local_pieces", "", local_pieces, false},
    {"many_requests", "depth=16", many_requests, false},
    {"many_reads", "reads=16&serves=2&pause=20&scatter=8", many_requests, false},
    {"inline_60", "inline=60&message=1000&mtu=256", sizes, false},
    {"lost_completions", "", lost_completions, true},
    {"lost_packets", "lose=20&restart=1&mtu=1024", lost_packets, false},
    {"lost_answers", "lose=50&mtu=256&scatter=64", lost_answers, false},
    {"no_route", "", no_route, false},
    {"stalled", "", stalled, false},
    {"hanging", "", hanging, false},
    {"fatal", "", fatal, false},
    {"unplugged", "", unplugged, false},
    {"lids", "host=7", connects, false},
    {"global_routes", "grh=1", connects, false},
    {"gid_types", "link=roce", gid_types, false},
    {"other_devices", "iwarp=1&devices=2&ports=2", other_devices, false},
    {"forks", "", forks, false},
    {"processes", "scatter=8&pause=20&mtu=1024&window=20", processes, false},
};

int main(int argc, char **argv) { return run_scenes(scenes, sizeof scenes / sizeof *scenes, argc, argv); }
#else
#include "without_verbs.h"
#endif
