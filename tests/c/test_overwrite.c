/* Memory that others corrupt in ways that tests/c/fuzz_object.c finds only by luck. Each of these once led to an access
 * out of bounds. */
#include "base/crc32.h"
#include "check.h"
#include "context.h"
#include "core/core.h"
#include "objects/queue/ring.h"
#include "objects/segment/segment.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ALL = DSM_READ | DSM_WRITE | DSM_ATOMIC, ROWS = 3, OPENS = 100000 };

static dsm_remote *map_zeroes(uint64_t nbytes)
{
    dsm_remote *r;
    int fd = memfd_create("corrupted", MFD_CLOEXEC);
    CHECK(fd >= 0 && !ftruncate(fd, (off_t)nbytes) && !dsm_map(fd, nbytes, ALL, &r));
    close(fd);
    return r;
}

/* ---- a tail that is not the position of a record: a header there would reach beyond the lane, which is the object's
 * last ---- */

static void odd_tail(uint32_t flags, uint64_t tail)
{
    dsm_queue_config config = {.lanes = 1, .flags = flags, .lane_bytes = 4096, .max_message = 300};
    dsm_queue *q;
    dsm_queue_counts counts;
    const void *p;
    uint64_t n;
    uint8_t kind;
    dsm_remote *r = map_zeroes(dsm_queue_nbytes(&config));
    CHECK(!dsm_queue_format(dsm_remote_mapped(r), &config));
    CHECK(!dsm_queue_open(r, NULL, &q) && !dsm_queue_produce(q) && !dsm_queue_consume(q));
    store_relaxed_u64(&lane_lines(q, 0)->tail, tail);
    CHECK(dsm_queue_next(q, &p, &n, &kind) == -DSM_ECORRUPT);
    CHECK(dsm_queue_wait_item(q, 0, 0, -1) == 0); /* so that a waiter gets the error */
    CHECK(!dsm_queue_count(q, &counts) && counts.messages == 0);
    CHECK(!dsm_queue_close(q) && !dsm_remote_close(r));
}

/* A successor of a dead producer walks on from its head, but not from one that is not the position of a record. */
static void odd_ends(uint32_t flags, uint64_t head, uint64_t tail)
{
    dsm_queue_config config = {.lanes = 1, .flags = flags, .lane_bytes = 4096, .max_message = 300};
    dsm_queue *q;
    dsm_remote *r = map_zeroes(dsm_queue_nbytes(&config));
    CHECK(!dsm_queue_format(dsm_remote_mapped(r), &config) && !dsm_queue_open(r, NULL, &q));
    store_relaxed_u64(&lane_lines(q, 0)->head, head);
    store_relaxed_u64(&lane_lines(q, 0)->tail, tail);
    CHECK(dsm_queue_produce(q) == -DSM_ECORRUPT);
    CHECK(!dsm_queue_close(q) && !dsm_remote_close(r));
}

/* A producer that drops the oldest message drops none whose header is gone, and does not look without an end. */
static void header_at_the_tail(void)
{
    dsm_queue_config config = {.lanes = 1, .flags = DSM_QUEUE_DROP_OLDEST, .lane_bytes = 4096, .max_message = 300};
    dsm_queue *q;
    dsm_queue_counts counts;
    dsm_remote *r = map_zeroes(dsm_queue_nbytes(&config));
    CHECK(!dsm_queue_format(dsm_remote_mapped(r), &config) && !dsm_queue_open(r, NULL, &q) && !dsm_queue_produce(q));
    do
        CHECK(!dsm_queue_push(q, "dropped", 7, 1) && !dsm_queue_count(q, &counts));
    while (!counts.dropped);
    store_relaxed_u64(lane_word(q->data, load_relaxed_u64(&lane_lines(q, 0)->tail) & q->mask), 0);
    CHECK(dsm_queue_push(q, "dropped", 7, 1) == -DSM_ECORRUPT);
    CHECK(!dsm_queue_close(q) && !dsm_remote_close(r));
}

/* ---- remote: the tail is what the owner says ---- */

static const uint8_t message[300];

static int fill(dsm_queue *q)
{
    int rc;
    while (!(rc = dsm_queue_push(q, message, sizeof message, 1)))
        ;
    return rc;
}

/* Three laps are staged behind a tail that runs ahead of what was sent, then the tail goes back: a flush sends no more
 * than a lane. */
static void tail_goes_back(void)
{
    dsm_queue_config config = {.lanes = 1, .flags = DSM_QUEUE_CHECKED, .lane_bytes = 4096, .max_message = 300};
    dsm_ctx *home = open_context(NULL), *away = open_context("");
    dsm_region *region;
    dsm_remote *remote;
    dsm_queue *q;
    const void *p;
    uint64_t n;
    uint8_t name[DSM_DESC_MAX], kind;
    CHECK(!dsm_alloc(home, dsm_queue_nbytes(&config), ALL, &region));
    CHECK(!dsm_queue_format(dsm_region_data(region), &config));
    int length = dsm_region_descriptor(region, name);
    CHECK(!dsm_attach(away, name, (size_t)length, -1, &remote) && !dsm_remote_mapped(remote));
    CHECK(!dsm_queue_open(remote, NULL, &q) && dsm_queue_next(q, &p, &n, &kind) == -DSM_EINVAL);
    CHECK(!dsm_queue_produce(q) && !dsm_queue_push(q, "first", 5, 1) && !dsm_queue_flush(q));
    uint8_t *lines = (uint8_t *)dsm_region_data(region) + lines_at(q, 0);
    uint64_t *tail = &((struct lane_lines *)(void *)lines)->tail;
    for (int lap = 0; lap < 3; lap++) {
        store_relaxed_u64(tail, q->head);
        CHECK(fill(q) == -DSM_EFULL);
    }
    store_relaxed_u64(tail, 0);
    CHECK(fill(q) == -DSM_ECORRUPT);
    CHECK(!dsm_queue_flush(q));
    CHECK(!dsm_queue_close(q) && !dsm_remote_close(remote) && !dsm_region_close(region));
    dsm_close(away);
    dsm_close(home);
}

/* ---- segments ---- */

static void make_segment(dsm_remote **r, uint64_t capacity)
{
    dsm_segment s = {.axes = 1, .itemsize = 8, .versioned = 1, .shape = {ROWS}, .dtype_length = 5, .dtype = "'<i8'"};
    uint64_t nbytes;
    s.capacity = capacity;
    CHECK(!dsm_segment_layout(&s, &nbytes));
    *r = map_zeroes(nbytes);
    CHECK(!dsm_segment_format(dsm_remote_mapped(*r), nbytes, &s));
}

static struct {
    struct segment_header *place, headers[2];
    uint32_t stop, turns;
} alternating;

/* Writes what differs between the two headers, in turns. */
static void *alternate(void *arg)
{
    for (unsigned i = 0; !load_relaxed_u32(&alternating.stop); i++) {
        const struct segment_header *h = &alternating.headers[i % 2];
        store_relaxed_u64(&alternating.place->object.nbytes, h->object.nbytes);
        store_relaxed_u64(&alternating.place->object.id, h->object.id);
        store_relaxed_u64(&alternating.place->capacity, h->capacity);
        store_relaxed_u64(&alternating.place->shadow, h->shadow);
        store_relaxed_u32(&alternating.place->crc, h->crc);
        store_relaxed_u32(&alternating.turns, i);
        cpu_relax(); /* a header that is never whole is never accepted */
    }
    return arg;
}

/* One header is right, the other one is that of a segment that needs more memory. */
static void header_changes(void)
{
    dsm_remote *r, *larger;
    dsm_segment s;
    pthread_t thread;
    make_segment(&r, 512);
    make_segment(&larger, 512 * 1024);
    alternating.place = dsm_remote_mapped(r);
    memcpy(&alternating.headers[0], dsm_remote_mapped(r), sizeof alternating.headers[0]);
    memcpy(&alternating.headers[1], dsm_remote_mapped(larger), sizeof alternating.headers[1]);
    CHECK(!pthread_create(&thread, NULL, alternate, NULL));
    for (int i = 0, opened = 0; i < OPENS || !opened || load_relaxed_u32(&alternating.turns) < OPENS; i++)
        if (dsm_segment_open(r, &s) >= 0) {
            CHECK(s.shadow + s.capacity * s.row_bytes <= dsm_remote_nbytes(r));
            opened = 1;
        }
    store_relaxed_u32(&alternating.stop, 1);
    pthread_join(thread, NULL);
    CHECK(!dsm_remote_close(r) && !dsm_remote_close(larger));
}

/* Between begin and commit another process sets more rows than the writer has data for. */
static void rows_change(void)
{
    dsm_remote *r;
    make_segment(&r, 512);
    dsm_segment s;
    uint64_t version, *data = calloc(ROWS, sizeof *data);
    CHECK(data && !dsm_segment_open(r, &s) && !dsm_segment_begin(r, &s, 0, &version, &s.rows) && s.rows == ROWS);
    CHECK(!dsm_segment_set_rows(r, 512));
    CHECK(dsm_segment_commit(r, &s, data, &version) == -DSM_ECORRUPT);
    CHECK(!dsm_segment_set_rows(r, ROWS) && !dsm_segment_commit(r, &s, data, &version) && version == 1);
    free(data);
    CHECK(!dsm_remote_close(r));
}

/* ---- a region whose owner truncates and seals it while it is checked ---- */

static bool cut_short;

/* Replaces that of libc: what it returned has changed when the caller goes on. */
int fstat(int fd, struct stat *st)
{
    int rc = fstatat(fd, "", st, AT_EMPTY_PATH);
    if (cut_short)
        CHECK(!ftruncate(fd, 0) && !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
    return rc;
}

static void seals_late(void)
{
    struct fabric_grant grant = {.nbytes = 4096, .access = ALL, .blob = {.nfds = 1}};
    struct fabric_remote *r;
    int fd = memfd_create("corrupted", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && !ftruncate(fd, 8192));
    grant.blob.fds[0] = fd;
    cut_short = true;
    CHECK(shm_fabric.import(NULL, &grant, &r) == -DSM_EPROTO);
    cut_short = false;
    close(fd);
}

/* ---- offsets of the caller in memory that others write, also between the check and the use ---- */

enum { OFFSETS = 2, PIECE = 8, ENOUGH = 60000 };

static struct {
    uint64_t at[OFFSETS];
    uint32_t stop;
} caller;

static void *move_offsets(void *arg)
{
    for (unsigned i = 0; !load_relaxed_u32(&caller.stop); i++) {
        /* an access at this offset would leave the region, and end the process */
        store_relaxed_u64(&caller.at[i % OFFSETS], UINT64_MAX / 4 & ~7ull);
        cpu_relax();
        store_relaxed_u64(&caller.at[i % OFFSETS], i % OFFSETS * PIECE);
        cpu_relax();
    }
    return arg;
}

/* Each op is in bounds or refused, and both happen. */
static void offsets_change(dsm_remote *r)
{
    static uint8_t local[OFFSETS * PIECE];
    int moved[2] = {0}, refused[2] = {0};
    pthread_t thread;
    caller.stop = 0;
    memset(caller.at, 0, sizeof caller.at);
    CHECK(!pthread_create(&thread, NULL, move_offsets, NULL));
    for (int i = 0; moved[0] < ENOUGH || moved[1] < ENOUGH || refused[0] < ENOUGH || refused[1] < ENOUGH; i++) {
        int rc = i & 1 ? dsm_read_many(r, caller.at, OFFSETS, local, PIECE, -1)
                       : dsm_write_many(r, caller.at, OFFSETS, local, PIECE, -1);
        CHECK(!rc || rc == -DSM_EBOUNDS);
        (rc ? refused : moved)[i & 1]++;
    }
    store_relaxed_u32(&caller.stop, 1);
    pthread_join(thread, NULL);
}

static void offsets_change_of_a_region(const char *fault)
{
    dsm_ctx *owner = open_context(NULL), *user = open_context(fault);
    uint8_t raw[DSM_DESC_MAX];
    dsm_region *region;
    dsm_remote *r;
    CHECK(!dsm_alloc(owner, OFFSETS * PIECE, ALL, &region));
    CHECK(!dsm_attach(user, raw, (size_t)dsm_region_descriptor(region, raw), -1, &r));
    offsets_change(r);
    CHECK(!dsm_remote_close(r));
    dsm_close(user);
    CHECK(!dsm_region_close(region));
    dsm_close(owner);
}

int main(void)
{
    static const uint32_t flags[] = {0, DSM_QUEUE_CHECKED, DSM_QUEUE_MANY_CONSUMERS, DSM_QUEUE_DROP_OLDEST};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        odd_tail(flags[i], 4095);
        odd_tail(flags[i], 3);
        odd_ends(flags[i], 3, 3);
        odd_ends(flags[i], 0, 3);
        if (!(flags[i] & DSM_QUEUE_CHECKED)) { /* there the head is not read */
            odd_ends(flags[i], 4095, 0);
            odd_ends(flags[i], 8192, 0);
        }
    }
    header_at_the_tail();
    tail_goes_back();
    header_changes();
    rows_change();
    seals_late();
    offsets_change_of_a_region(NULL);
    offsets_change_of_a_region("");
    puts("ok");
    return 0;
}
