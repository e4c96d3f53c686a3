/* Queues used by threads: order, loss and doubling, checked by content, for each way of taking; waits, watches,
 * shutdown; what dead producers leave. */
#include "base/mapped_ops.h"
#include "check.h"
#include "context.h"
#include "objects/queue/ring.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LANES = 2, MESSAGES = 6000, LONGEST = 300 };

static dsm_remote *memory;
static dsm_queue_config config;
static uint64_t taken[LANES];           /* messages taken from the lane */
static uint32_t times[LANES][MESSAGES]; /* how often each was taken */

static dsm_queue *handle(void)
{
    dsm_queue *q;
    CHECK(!dsm_queue_open(memory, NULL, &q));
    return q;
}

static void make(uint32_t lanes, uint32_t flags, uint64_t longest)
{
    config = (dsm_queue_config){.lanes = lanes, .flags = flags, .lane_bytes = 4096, .max_message = longest};
    uint64_t nbytes = dsm_queue_nbytes(&config);
    int fd = memfd_create("queue", 0);
    CHECK(fd >= 0 && !ftruncate(fd, (off_t)nbytes));
    void *p = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED && !dsm_queue_format(p, &config));
    munmap(p, nbytes);
    CHECK(!dsm_map(fd, nbytes, DSM_READ | DSM_WRITE | DSM_ATOMIC, &memory));
    close(fd);
    memset(taken, 0, sizeof taken);
    memset(times, 0, sizeof times);
}

static void unmake(void) { CHECK(!dsm_remote_close(memory)); }

/* ---- messages: lane, number, and bytes that follow from both ---- */

static uint32_t length_of(uint32_t number) { return 8 + number * 7919 % (LONGEST - 7); }

static uint64_t fill(uint8_t *m, uint32_t lane, uint32_t number)
{
    uint32_t n = length_of(number);
    for (uint32_t i = 8; i < n; i++)
        m[i] = (uint8_t)(number + i * (lane + 3));
    memcpy(m, &lane, 4);
    memcpy(m + 4, &number, 4);
    return n;
}

static void account(const uint8_t *m, uint64_t n, uint32_t last[LANES])
{
    uint8_t want[LONGEST];
    uint32_t lane, number;
    CHECK(n >= 8);
    memcpy(&lane, m, 4);
    memcpy(&number, m + 4, 4);
    CHECK(lane < LANES && number < MESSAGES);
    CHECK(fill(want, lane, number) == n && !memcmp(m, want, n));
    CHECK(number + 1 > last[lane]); /* in order */
    last[lane] = number + 1;
    CHECK(fetch_add_u32(&times[lane][number], 1) == 0);
    fetch_add_u64(&taken[lane], 1);
}

static void *produce(void *arg)
{
    uint32_t lane = (uint32_t)(uintptr_t)arg;
    dsm_queue *q = handle();
    uint8_t m[LONGEST];
    CHECK(!dsm_queue_produce(q));
    for (uint32_t i = 0; i < MESSAGES; i++) {
        uint64_t n = fill(m, lane, i);
        int rc;
        while ((rc = dsm_queue_push(q, m, n, 1)) == -DSM_EFULL) {
            CHECK(!dsm_queue_flush(q));
            CHECK(!dsm_queue_wait_room(q, n, 10000000000, i % 3 * 1000, -1));
        }
        CHECK(!rc);
        if (i % 5 == 0)
            CHECK(!dsm_queue_flush(q));
    }
    CHECK(!dsm_queue_flush(q));
    CHECK(!dsm_queue_close(q));
    return NULL;
}

/* Takes until the queue is shut down and empty. */
static void *consume(void *arg)
{
    dsm_queue *q = handle();
    uint32_t last[LANES] = {0};
    uint8_t m[LONGEST], kind;
    uint64_t n;
    const void *p;
    (void)arg;
    CHECK(!dsm_queue_consume(q));
    for (;;) {
        int rc = dsm_queue_next(q, &p, &n, &kind);
        if (rc == -DSM_EEMPTY)
            rc = dsm_queue_wait_item(q, 10000000000, (int64_t)(last[0] % 3) * 1000, -1);
        else if (!rc) {
            mapped_copy(m, p, n);
            if (!dsm_queue_done(q))
                account(m, n, last);
        }
        if (rc == -DSM_ESHUTDOWN)
            break;
        CHECK(!rc);
    }
    CHECK(!dsm_queue_close(q));
    return NULL;
}

static void everything(const char *what, uint32_t lanes, uint32_t consumers, uint32_t flags)
{
    pthread_t producer[LANES], consumer[4];
    make(lanes, flags, LONGEST);
    for (uint32_t i = 0; i < consumers; i++)
        CHECK(!pthread_create(&consumer[i], NULL, consume, NULL));
    for (uint32_t i = 0; i < lanes; i++)
        CHECK(!pthread_create(&producer[i], NULL, produce, (void *)(uintptr_t)i));
    for (uint32_t i = 0; i < lanes; i++)
        pthread_join(producer[i], NULL);
    dsm_queue *q = handle();
    dsm_queue_counts counts;
    CHECK(!dsm_queue_shutdown(q, 0));
    for (uint32_t i = 0; i < consumers; i++)
        pthread_join(consumer[i], NULL);
    CHECK(!dsm_queue_count(q, &counts) && counts.messages == 0);
    uint64_t out = counts.dropped;
    for (uint32_t i = 0; i < lanes; i++)
        out += taken[i];
    if (out != (uint64_t)lanes * MESSAGES) {
        fprintf(stderr, "%s: %llu of %u came out\n", what, (unsigned long long)out, lanes * MESSAGES);
        abort();
    }
    CHECK(flags & DSM_QUEUE_DROP_OLDEST || !counts.dropped);
    CHECK(!dsm_queue_close(q));
    unmake();
}

/* ---- the last message and the shutdown behind it ---- */

static void *put_and_shut_down(void *arg)
{
    dsm_queue *q = handle();
    (void)arg;
    CHECK(!dsm_queue_produce(q));
    CHECK(!dsm_queue_push(q, "last one", 8, 1));
    CHECK(!dsm_queue_flush(q));
    CHECK(!dsm_queue_shutdown(q, 0));
    CHECK(!dsm_queue_close(q));
    return NULL;
}

static void nothing_is_left_behind(bool waits)
{
    for (int round = 0; round < 300; round++) {
        const void *p;
        uint64_t n;
        uint8_t kind;
        int rc, got = 0;
        pthread_t thread;
        make(1, 0, LONGEST);
        dsm_queue *q = handle();
        CHECK(!dsm_queue_consume(q));
        CHECK(!pthread_create(&thread, NULL, put_and_shut_down, NULL));
        while ((rc = dsm_queue_next(q, &p, &n, &kind)) != -DSM_ESHUTDOWN) {
            CHECK(!rc || rc == -DSM_EEMPTY);
            got += !rc;
            if (!rc)
                CHECK(!dsm_queue_done(q));
            else if (waits && (rc = dsm_queue_wait_item(q, 10000000000, 1000000, -1)))
                break;
        }
        CHECK(rc == -DSM_ESHUTDOWN && got == 1);
        pthread_join(thread, NULL);
        CHECK(!dsm_queue_close(q));
        unmake();
    }
}

/* ---- 'empty' is reported only of a lane that was empty ---- */

static uint32_t stop;

/* Puts one more and takes one, again and again: there is always a message, and a lap is three of them. */
static void *never_empty(void *arg)
{
    static const uint8_t m[1300];
    dsm_queue *q = arg;
    const void *p;
    uint64_t n;
    uint8_t kind;
    for (int rc; !load_acquire_u32(&stop);) {
        CHECK(!dsm_queue_push(q, m, sizeof m, 1));
        CHECK(!dsm_queue_flush(q));
        while ((rc = dsm_queue_next(q, &p, &n, &kind)) || dsm_queue_done(q))
            CHECK(!rc);
    }
    return NULL;
}

static void empty_is_true(void)
{
    pthread_t thread;
    const void *p;
    uint64_t n;
    uint8_t kind;
    make(1, DSM_QUEUE_MANY_CONSUMERS, 1300);
    dsm_queue *busy = handle(), *q = handle();
    CHECK(!dsm_queue_produce(busy) && !dsm_queue_consume(busy) && !dsm_queue_consume(q));
    CHECK(!dsm_queue_push(busy, "the first", 8, 1));
    store_release_u32(&stop, 0);
    CHECK(!pthread_create(&thread, NULL, never_empty, busy));
    for (int i = 0; i < 3000000; i++) {
        CHECK(!dsm_queue_next(q, &p, &n, &kind));
        dsm_queue_undo(q);
    }
    store_release_u32(&stop, 1);
    pthread_join(thread, NULL);
    CHECK(!dsm_queue_close(q) && !dsm_queue_close(busy));
    unmake();
}

/* ---- a producer that died between the header and the head, its message taken meanwhile ---- */

static void succeeds_behind_the_tail(void)
{
    const void *p;
    uint64_t n;
    uint8_t kind;
    make(1, 0, LONGEST);
    for (uint32_t i = 0; i < 60; i++) {
        dsm_queue *dies = handle(), *consumer = handle(), *next = handle();
        CHECK(!dsm_queue_produce(dies));
        struct lane_lines *l = lane_lines(dies, 0);
        uint64_t head = l->head, puts = l->puts;
        uint8_t m[LONGEST] = {0};
        CHECK(!dsm_queue_push(dies, m, length_of(i), 1));
        CHECK(!dsm_queue_consume(consumer));
        if (i & 1) {
            CHECK(!dsm_queue_next(consumer, &p, &n, &kind) && n == length_of(i));
            CHECK(!dsm_queue_done(consumer));
        }
        CHECK(!dsm_queue_close(dies)); /* its lane is free; as a dead producer it would have left: */
        l->head = head;
        l->puts = puts;
        CHECK(!dsm_queue_produce(next));
        CHECK(l->puts == puts + 1);
        CHECK(!dsm_queue_push(next, "the next", 8, 1));
        if (!(i & 1)) {
            CHECK(!dsm_queue_next(consumer, &p, &n, &kind) && n == length_of(i));
            CHECK(!dsm_queue_done(consumer));
        }
        CHECK(!dsm_queue_next(consumer, &p, &n, &kind) && n == 8 && !memcmp(p, "the next", 8));
        CHECK(!dsm_queue_done(consumer));
        CHECK(dsm_queue_next(consumer, &p, &n, &kind) == -DSM_EEMPTY);
        CHECK(!dsm_queue_close(next) && !dsm_queue_close(consumer));
    }
    unmake();
}

/* ---- a local producer after a remote one, which has gone round the ring and stored no head ---- */

static void put_and_take(dsm_queue *producer, dsm_queue *consumer, uint32_t number)
{
    uint8_t m[LONGEST], want[LONGEST], kind;
    const void *p;
    uint64_t n, length = fill(want, 0, number);
    memcpy(m, want, length);
    CHECK(!dsm_queue_push(producer, m, length, 1) && !dsm_queue_flush(producer));
    CHECK(!dsm_queue_next(consumer, &p, &n, &kind) && n == length && !memcmp(p, want, length));
    CHECK(!dsm_queue_done(consumer));
}

/* A checked queue in a region, reached by its owner's process and through a fabric. */
static struct {
    dsm_ctx *home, *away;
    dsm_region *region;
    dsm_remote *mapped, *remote;
} place;

static void make_place(void)
{
    uint8_t descriptor[DSM_DESC_MAX];
    place.home = open_context(NULL);
    place.away = open_context("");
    config = (dsm_queue_config){.lanes = 1, .flags = DSM_QUEUE_CHECKED, .lane_bytes = 4096, .max_message = LONGEST};
    CHECK(!dsm_alloc(place.home, dsm_queue_nbytes(&config), DSM_READ | DSM_WRITE | DSM_ATOMIC, &place.region));
    CHECK(!dsm_queue_format(dsm_region_data(place.region), &config));
    int length = dsm_region_descriptor(place.region, descriptor);
    CHECK(!dsm_attach(place.home, descriptor, (size_t)length, -1, &place.mapped));
    CHECK(!dsm_attach(place.away, descriptor, (size_t)length, -1, &place.remote));
    CHECK(dsm_remote_mapped(place.mapped) && !dsm_remote_mapped(place.remote));
}

static void unmake_place(void)
{
    CHECK(!dsm_remote_close(place.mapped) && !dsm_remote_close(place.remote) && !dsm_region_close(place.region));
    dsm_close(place.away);
    dsm_close(place.home);
}

static dsm_queue *producer_through(dsm_remote *r)
{
    dsm_queue *q;
    CHECK(!dsm_queue_open(r, NULL, &q) && !dsm_queue_produce(q));
    return q;
}

static void succeeds_remotely(void)
{
    dsm_queue *producer = NULL, *consumer;
    make_place();
    CHECK(!dsm_queue_open(place.mapped, NULL, &consumer) && !dsm_queue_consume(consumer));
    for (uint32_t i = 0; i < 300; i++) {
        if (i % 75 == 0) /* more than a lap, by remote and local producers in turn */
            producer = producer_through(i % 2 ? place.mapped : place.remote);
        put_and_take(producer, consumer, i);
        if (i % 75 == 74)
            CHECK(!dsm_queue_close(producer));
    }
    dsm_queue_counts counts;
    CHECK(!dsm_queue_count(consumer, &counts) && counts.puts == 300 && counts.gets == 300 && !counts.messages);
    CHECK(!dsm_queue_close(consumer));
    unmake_place();
}

/* ---- more than a lap of flushes that fail after they have taken effect: 'sent' does not move ---- */

static void sends_again(void)
{
    uint8_t m[LONGEST], kind;
    const void *p;
    uint64_t n;
    dsm_queue *consumer;
    make_place();
    CHECK(!dsm_queue_open(place.mapped, NULL, &consumer) && !dsm_queue_consume(consumer));
    dsm_queue *producer = producer_through(place.remote);
    for (uint32_t i = 0; i < 100; i++) {
        CHECK(!dsm_queue_push(producer, m, fill(m, 0, i), 1) && !remote_send(producer) && producer->staged == i + 1);
        CHECK(!dsm_queue_next(consumer, &p, &n, &kind) && n == fill(m, 0, i) && !memcmp(p, m, n));
        CHECK(!dsm_queue_done(consumer) && dsm_queue_next(consumer, &p, &n, &kind) == -DSM_EEMPTY);
    }
    CHECK(!dsm_queue_flush(producer) && dsm_queue_next(consumer, &p, &n, &kind) == -DSM_EEMPTY);
    put_and_take(producer, consumer, 100);
    CHECK(!dsm_queue_close(producer) && !dsm_queue_close(consumer));
    unmake_place();
}

/* ---- a WRITE of three records of which the first did not land; then a successor whose record ends where the second
 * one began ---- */

static void put_equal(dsm_queue *q, uint64_t length, uint8_t with, uint32_t n)
{
    uint8_t m[LONGEST];
    memset(m, with, length);
    for (uint32_t i = 0; i < n; i++)
        CHECK(!dsm_queue_push(q, m, length, 1));
    CHECK(!dsm_queue_flush(q));
}

static void take_equal(dsm_queue *q, uint64_t length, uint8_t with)
{
    const void *p;
    uint64_t n;
    uint8_t kind;
    CHECK(!dsm_queue_next(q, &p, &n, &kind) && n == length);
    for (uint64_t i = 0; i < n; i++)
        CHECK(((const uint8_t *)p)[i] == with);
    CHECK(!dsm_queue_done(q));
    CHECK(dsm_queue_next(q, &p, &n, &kind) == -DSM_EEMPTY);
}

static void nothing_stale_comes_to_life(bool first, bool second)
{
    dsm_queue *consumer;
    make_place();
    CHECK(!dsm_queue_open(place.mapped, NULL, &consumer) && !dsm_queue_consume(consumer));
    for (uint32_t i = 0; i < 60; i++) { /* also around the ring's end */
        uint64_t length = length_of(i);
        dsm_queue *torn = producer_through(first ? place.mapped : place.remote);
        uint64_t at = torn->head & torn->mask;
        put_equal(torn, length, 1, 3);
        memset(consumer->base + data_at(consumer, 0) + at, 0, 8);
        CHECK(!dsm_queue_close(torn));
        dsm_queue *next = producer_through(second ? place.mapped : place.remote);
        for (uint8_t k = 2; k < 6; k++) {
            put_equal(next, length, k, 1);
            take_equal(consumer, length, k);
        }
        CHECK(!dsm_queue_close(next));
    }
    CHECK(!dsm_queue_close(consumer));
    unmake_place();
}

/* ---- watches ---- */

static void *put_some(void *arg)
{
    dsm_queue *q = handle();
    CHECK(!dsm_queue_produce(q));
    for (int i = 0; i < 200; i++) {
        CHECK(!dsm_queue_push(q, "watched!", 8, 1));
        CHECK(!dsm_queue_flush(q));
        if (i % 8 == 0)
            usleep(50);
    }
    CHECK(!dsm_queue_close(q));
    return arg;
}

static void watched(void)
{
    pthread_t thread;
    dsm_watch *w;
    const void *p;
    uint64_t n;
    uint8_t kind;
    make(1, 0, LONGEST);
    dsm_queue *q = handle();
    CHECK(!dsm_queue_consume(q) && !dsm_watch_open(q, &w));
    CHECK(!pthread_create(&thread, NULL, put_some, NULL));
    for (int got = 0; got < 200;) {
        struct pollfd fd = {.fd = dsm_watch_fd(w), .events = POLLIN};
        if (!dsm_queue_next(q, &p, &n, &kind)) {
            CHECK(!dsm_queue_done(q));
            got++;
            continue;
        }
        dsm_watch_arm(w, 0);
        CHECK(poll(&fd, 1, 10000) == 1);
    }
    pthread_join(thread, NULL);
    dsm_watch_close(w);
    CHECK(!dsm_queue_close(q));
    unmake();
}

int main(void)
{
    everything("one to one", 1, 1, 0);
    everything("two to one", 2, 1, 0);
    everything("two to three", 2, 3, DSM_QUEUE_MANY_CONSUMERS);
    everything("drop the oldest", 2, 1, DSM_QUEUE_DROP_OLDEST);
    everything("drop the oldest, many", 1, 3, DSM_QUEUE_MANY_CONSUMERS | DSM_QUEUE_DROP_OLDEST);
    everything("checked", 2, 1, DSM_QUEUE_CHECKED);
    empty_is_true();
    succeeds_behind_the_tail();
    succeeds_remotely();
    sends_again();
    for (int i = 0; i < 4; i++)
        nothing_stale_comes_to_life(i & 1, i & 2);
    nothing_is_left_behind(false);
    nothing_is_left_behind(true);
    watched();
    puts("ok");
    return 0;
}
