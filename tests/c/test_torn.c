/*
 * Words that a READ reads byte by byte while others change them, as SoftRoCE may: one scene for each kind of word that
 * docs/protocols/words.md lists. The words change between two bytes, in the device's thread, which plays the process
 * that has the memory. tests/modeldev/test_planted.py takes away what each scene is about, and sees it fail.
 */
/* with: tests/modeldev */
/* wraps: verbs_load */
#ifdef DSM_HAVE_VERBS
#include "model_scenes.h"
#include "objects/clock/logical_clock.h"
#include "objects/member.h"
#include "objects/queue/ring.h"
#include "objects/segment/segment.h"
#include "objects/word.h"

#include <string.h>

enum {
    TAIL_MESSAGES = 4000,
    LANES_TAKEN = 200,
    LANE_MESSAGES = 256,
    COUNTS = 60,
    READS = 400,
    SNAPSHOTS = 300,
    JOINS = 200
};

static size_t left; /* pages that a failed allocation could not give back */

static uint64_t chance = 88172645463325252u;

static uint64_t below(uint64_t n)
{
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return chance % n;
}

static uint64_t *word_of_owner(uint64_t offset)
{
    return (uint64_t *)(void *)((uint8_t *)dsm_region_data(region) + offset);
}

static bool is_in(const uint8_t *at, uint64_t offset, uint64_t nbytes)
{
    const uint8_t *from = (const uint8_t *)dsm_region_data(region) + offset;
    return at >= from && at < from + nbytes;
}

/* ---- what READs prove, without a device ---- */

/* Any bytes of the word, each at some moment of the READ: at most one step of 'by' after each byte. */
static uint64_t torn(uint64_t *word, uint64_t by, uint64_t most)
{
    uint64_t seen = 0;
    uint32_t first = (uint32_t)below(8), stride = 1 + 2 * (uint32_t)below(4);
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t at = (first + i * stride) % 8;
        if (!below(4) && *word < most)
            *word += by < most - *word ? by : most - *word;
        seen |= (*word >> 8 * at & 0xff) << 8 * at;
    }
    return seen;
}

static void bounds(void)
{
    for (int i = 0; i < 300000; i++) {
        uint64_t lo = below(1 << 20) * 16, hi = lo + 16 * below(1 << below(14)), word = lo, seen[WORD_READS_MOST];
        uint32_t n = word_reads(lo, hi);
        for (uint32_t k = 0; k < n; k++)
            seen[k] = torn(&word, 16 * below(1 << below(8)), hi);
        uint64_t found = word_at_least(lo, seen, n);
        CHECK(found >= lo && found <= word);
        for (uint32_t k = 0; k < n; k++)
            seen[k] = word;
        CHECK(word_at_least(lo, seen, n) == word);
    }
    uint64_t grown[] = {0x14dc0, 0x14d30}, less[] = {0x100, 0x100};
    CHECK(word_at_least(0x148c0, grown, 2) == 0x14d30 && word_at_least(0x148c0, less, 2) == 0x100);
    CHECK(word_reads(5, 5) == 1 && word_reads(0x1ff, 0x200) == 2 && word_reads(0, UINT64_MAX) == 8);
}

/* ---- queues: a consumer of this host takes messages between two bytes ---- */

static dsm_queue *consumer;
static uint64_t taken;
static uint64_t often;
static bool takes; /* between the bytes of a tail only, so that the lane is not always empty */

static bool take_one(void)
{
    const void *payload;
    uint64_t n, number;
    uint8_t kind;
    int rc = dsm_queue_next(consumer, &payload, &n, &kind);
    if (rc == -DSM_EEMPTY)
        return false;
    CHECK(!rc && n == sizeof number);
    memcpy(&number, payload, sizeof number);
    CHECK(number == taken++ && !dsm_queue_done(consumer)); /* none is lost, and none was written over */
    return true;
}

static void take_some(const uint8_t *at)
{
    if (takes && is_in(at, tail_at(consumer, 0), 8) && !below(often))
        for (uint64_t n = 1 + below(24); n && take_one(); n--)
            ;
}

static void open_queue(uint64_t lane_bytes)
{
    dsm_queue_config shape = {.lanes = 1, .flags = DSM_QUEUE_CHECKED, .lane_bytes = lane_bytes, .max_message = 64};
    open_two();
    CHECK(!dsm_queue_format(dsm_region_data(region), &shape));
    CHECK(!dsm_queue_open(own, dsm_region_data(region), &consumer) && !dsm_queue_consume(consumer));
    taken = 0;
    takes = true;
    often = 3;
    modeldev_tears = take_some;
}

static void close_queue(void)
{
    modeldev_tears = NULL;
    CHECK(!dsm_queue_close(consumer));
    close_two();
}

static bool push(dsm_queue *q, uint64_t number)
{
    int rc = dsm_queue_push(q, &number, sizeof number, 1);
    CHECK(!rc || (rc == -DSM_EFULL && !dsm_queue_flush(q)));
    return !rc;
}

static void put(dsm_queue *q, uint64_t number)
{
    while (!push(q, number))
        ;
}

/* A producer believes a tail. */
static void tails(void)
{
    dsm_queue *q;
    open_queue(4096);
    CHECK(!dsm_queue_open(remote, NULL, &q) && !dsm_queue_produce(q));
    for (uint64_t i = 0; i < TAIL_MESSAGES; i++)
        put(q, i);
    CHECK(!dsm_queue_flush(q));
    takes = false;
    CHECK(!dsm_queue_close(q));
    while (take_one())
        ;
    CHECK(taken == TAIL_MESSAGES);
    close_queue();
}

/* A producer finds out where its predecessor has ended, and what room there is: it may fill the lane at once. */
static void successors(void)
{
    uint64_t number = 0;
    open_queue(8192);
    often = 16;
    for (int i = 0; i < LANES_TAKEN; i++) {
        dsm_queue *q;
        CHECK(!dsm_queue_open(remote, NULL, &q) && !dsm_queue_produce(q));
        takes = false;
        for (uint64_t n = below(2) ? below(200) : LANE_MESSAGES; n && push(q, number); n--)
            number++;
        CHECK(!dsm_queue_flush(q) && !dsm_queue_close(q));
        takes = true;
    }
    takes = false;
    while (take_one())
        ;
    CHECK(taken == number);
    close_queue();
}

/* A count is not of messages that were never there at one time. */
static void counts(void)
{
    dsm_queue *q;
    uint64_t number = 0;
    open_queue(16384);
    takes = false;
    often = 40;
    CHECK(!dsm_queue_open(remote, NULL, &q) && !dsm_queue_produce(q));
    for (int i = 0; i < COUNTS; i++) {
        dsm_queue_counts c = {0};
        while (number - taken < 400)
            put(q, number++);
        CHECK(!dsm_queue_flush(q));
        uint64_t before = number - taken;
        takes = true;
        CHECK(!dsm_queue_count(q, &c));
        takes = false;
        CHECK(c.messages <= before && c.messages >= number - taken);
    }
    CHECK(!dsm_queue_close(q));
    close_queue();
}

/* ---- words that only atomics change ---- */

static void tick(const uint8_t *at)
{
    if (is_in(at, CLOCK_LAMPORT, 8) && !below(2))
        *word_of_owner(CLOCK_LAMPORT) += 1 + below(200);
}

static void clocks(void)
{
    dsm_clock c;
    open_two();
    CHECK(!dsm_clock_format(dsm_region_data(region)) && !dsm_clock_open(remote, 0, &c));
    modeldev_tears = tick;
    for (int i = 0; i < READS; i++) {
        uint64_t now, before = *word_of_owner(CLOCK_LAMPORT) += 100;
        CHECK(!dsm_clock_now(&c, &now) && now >= before && now <= *word_of_owner(CLOCK_LAMPORT));
    }
    modeldev_tears = NULL;
    close_two();
}

static void change_rows(const uint8_t *at)
{
    if (is_in(at, SEGMENT_ROWS, 8) && !below(24))
        *word_of_owner(SEGMENT_ROWS) ^= 255 ^ 256;
}

/* For a caller that has no right to atomics. */
static void rows(void)
{
    dsm_segment s = {.axes = 1, .itemsize = 8, .dtype_length = 5, .shape = {255}, .capacity = 512};
    dsm_region *readable;
    dsm_remote *reader;
    uint8_t raw[DSM_DESC_MAX];
    uint64_t n;
    strcpy(s.dtype, "'<u8'");
    open_two();
    CHECK(!dsm_segment_layout(&s, &n) && n <= BIG && !dsm_segment_format(dsm_region_data(region), n, &s));
    CHECK(!dsm_register(owner, dsm_region_data(region), BIG, DSM_READ, &readable));
    CHECK(!dsm_attach(user, raw, (size_t)dsm_region_descriptor(readable, raw), 10000 * MS, &reader));
    CHECK(!dsm_segment_open(reader, &s));
    modeldev_tears = change_rows;
    for (int i = 0; i < READS; i++)
        CHECK(!dsm_segment_rows(reader, &s, &n) && (n == 255 || n == 256));
    modeldev_tears = NULL;
    CHECK(!dsm_remote_close(reader) && !dsm_region_close(readable));
    close_two();
}

enum { TABLE = 1024, MINE = 0x10203 };
static void change_member(const uint8_t *at)
{
    if (is_in(at, TABLE, 8))
        *word_of_owner(TABLE) = below(2) ? 0x10299 : 0x99903;
}

/* An entry of others, which has all bytes of an identity at one moment or another. */
static void members(void)
{
    open_two();
    for (int i = 0; i < JOINS; i++) {
        uint32_t number = 0;
        memset(word_of_owner(TABLE), 0, 64);
        *word_of_owner(TABLE) = 0x10299;
        modeldev_tears = change_member;
        CHECK(!member_join(remote, TABLE, 4, MINE, NULL, NULL, &number) && number == 1);
        modeldev_tears = NULL;
    }
    close_two();
}

/* ---- segments: versions come and go between two bytes ---- */

enum { TORN_ROWS = 4 };
static dsm_segment shape;

static void next_version(void)
{
    uint64_t *head = word_of_owner(SEGMENT_HEAD), version = (*head >> 2) + 1;
    for (uint64_t at = 0; at < TORN_ROWS; at++)
        word_of_owner(shape.data)[at] = word_of_owner(shape.shadow)[at] = version;
    *head = version << 2;
}

/* 64 versions change the second byte of the head alone. So with 63 a mixture of both bytes may be the next version. */
static void publish_some(const uint8_t *at)
{
    bool head = is_in(at, SEGMENT_HEAD, 2), frame = is_in(at, shape.shadow, 8 * TORN_ROWS);
    uint64_t n = head && !below(12) ? 63 : frame && !below(40) ? 1 : 0;
    while (n--)
        next_version();
}

static void snapshots(void)
{
    uint64_t n, data[TORN_ROWS], version, found = 0;
    shape = (dsm_segment){.axes = 1, .itemsize = 8, .dtype_length = 5, .versioned = 1};
    shape.shape[0] = shape.capacity = TORN_ROWS;
    strcpy(shape.dtype, "'<u8'");
    open_two();
    CHECK(!dsm_segment_layout(&shape, &n) && n <= BIG && !dsm_segment_format(dsm_region_data(region), n, &shape));
    CHECK(!dsm_segment_open(remote, &shape));
    modeldev_tears = publish_some;
    while (found < SNAPSHOTS) {
        uint64_t n_rows = TORN_ROWS;
        int tries = -1000000; /* a reader that never takes the writer's turn */
        CHECK(!dsm_segment_snapshot(remote, &shape, data, &n_rows, -1, &tries, &version) && n_rows == TORN_ROWS);
        for (size_t i = 0; i < TORN_ROWS; i++)
            CHECK(data[i] == version);
        found++;
    }
    modeldev_tears = NULL;
    close_two();
}

/* ---- a store: a page becomes empty, and is its frame again, between two bytes of its head (pages.md) ---- */

enum { HEADS = 256, FRAMES = 80, PAGE = 256 }; /* with one slot and 4 pages; the field that says where frames are */
static uint64_t page_head, framed_and_empty[2];

static void change_page(const uint8_t *at)
{
    uint64_t frames = *word_of_owner(FRAMES);
    uint64_t *head = word_of_owner(page_head);
    if ((is_in(at, page_head, 8) || is_in(at, frames, BIG - frames)) && !below(3))
        *head = framed_and_empty[*head == framed_and_empty[0]];
}

static void pages(void)
{
    dsm_store_shape given = {.page_bytes = PAGE, .clients = 1, .pages = 4};
    uint8_t page[PAGE] = {1};
    uint64_t n, pid, version, now;
    uint32_t failed;
    dsm_store *store;
    open_two();
    CHECK(!dsm_store_layout(&given, &n) && n <= BIG && !dsm_store_format(dsm_region_data(region), &given));
    CHECK(!dsm_store_open(&remote, 1, &store, &failed) && !dsm_store_allocate(store, &pid, 1, &left));
    CHECK(!dsm_store_write(store, pid, page, &version));
    page_head = HEADS + 8 * (pid & 0xffffffffff);
    framed_and_empty[0] = *word_of_owner(page_head);
    framed_and_empty[1] = 4094ull << 52 | (version + 1) << 24 | pid >> 40;
    CHECK(framed_and_empty[0] >> 24 == version);
    modeldev_tears = change_page;
    for (int i = 0; i < READS; i++)
        CHECK(!dsm_store_version(store, pid, &now) && (now == version || now == version + 1));
    modeldev_tears = NULL;
    *word_of_owner(page_head) = framed_and_empty[0];
    CHECK(!dsm_store_close(store));
    close_two();
}

static const struct scene scenes[] = {
    {"bounds", "", bounds, false},
    {"tails", "tear=1", tails, false},
    {"successors", "tear=1", successors, false},
    {"counts", "tear=1", counts, false},
    {"clocks", "tear=1", clocks, false},
    {"rows", "tear=1", rows, false},
    {"members", "tear=1", members, false},
    {"snapshots", "tear=1", snapshots, false},
    {"pages", "tear=1", pages, false},
};

int main(int argc, char **argv) { return run_scenes(scenes, sizeof scenes / sizeof *scenes, argc, argv); }
#else
#include "without_verbs.h"
#endif
