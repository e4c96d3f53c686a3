/*
 * Stops a producer that writes a checked lane remotely (through fault, which posts and copies in the producer's own
 * thread) at every change of the queue's bytes, so also within a WRITE. The consumer finds each message whole or not at
 * all. So do the lane's next producers, a local and a remote one, once the stopped producer's entry has been cleared,
 * as fencing does. The death of a remote producer can't be proven, so a killed producer leaves the same as a stopped
 * one: one producer serves for all points, and goes on from the bytes that it left. Exit status 77: this kernel does
 * not allow ptrace here.
 */
#include "crash_queue.h"

#include "context.h"

static dsm_ctx *home, *away;
static uint8_t descriptor[DSM_DESC_MAX];
static size_t descriptor_length;
static uint64_t least; /* this many messages were there at an earlier step */

static dsm_remote *attach(dsm_ctx *c)
{
    dsm_remote *r;
    CHECK(!dsm_attach(c, descriptor, descriptor_length, -1, &r));
    return r;
}

static int puts_remotely(void *arg)
{
    dsm_queue *q = producer_at(attach(open_context("")));
    (void)arg;
    CHECK(!q->base);
    stepper_mark();
    store_relaxed_u64(&said->begun, now->n);
    for (uint64_t i = 0; i < now->n; i++)
        CHECK(!dsm_queue_push(q, batch + i * now->length, now->length, 1));
    CHECK(!dsm_queue_flush(q));
    store_relaxed_u64(&said->done, now->n);
    return finish();
}

static void see_puts(struct taken *t)
{
    uint64_t committed = series(t, 0) - waiting;
    CHECK(said->done <= committed && committed <= said->begun && committed >= least);
    least = committed;
}

static void give_up_its_place(void) { memset(memory + QUEUE_PRODUCERS, 0, 8); }

static void next_producer(dsm_remote *r)
{
    struct taken t;
    give_up_its_place();
    dsm_queue *p = producer_at(r), *c = consumer_at(own);
    CHECK(put_some(p, 500, 3) == 503);
    drain(c, &t);
    see_puts(&t);
    CHECK(series(&t, 500) == 503 && t.at == t.n);
    uint64_t end = put_some(p, 503, UINT64_MAX); /* round the ring, over what the dead producer has left */
    CHECK(end > 503);
    drain(c, &t);
    CHECK(series(&t, 503) == end && t.at == t.n);
    leave(p);
    leave(c);
}

static void a_consumer_first(void)
{
    struct taken t;
    dsm_queue *c = consumer_at(own), *p = handle_at(own);
    CHECK(dsm_queue_produce(p) == -DSM_EMEMBERS); /* a remote producer is not taken for dead */
    drain(c, &t);
    see_puts(&t);
    CHECK(t.at == t.n);
    leave(p);
    leave(c);
}

static void a_producer_at_home(void) { next_producer(own); }

static void a_remote_producer(void)
{
    dsm_remote *r = attach(away);
    next_producer(r);
    CHECK(!dsm_remote_close(r));
}

#define CHECKED \
    { \
        .lanes = 1, .flags = DSM_QUEUE_CHECKED, .lane_bytes = LANE, .max_message = LONGEST \
    }
#define AFTER .after = {a_consumer_first, a_producer_at_home, a_remote_producer}

static const struct scene scenes[] = {
    {"put remotely", CHECKED, LANE + 512, 1, 40, 3, .victim = puts_remotely, AFTER},
    {"put remotely round the end", CHECKED, 2 * LANE - 96, 1, 40, 3, .victim = puts_remotely, AFTER},
    {"put much remotely", CHECKED, 2 * LANE - 800, 1, 300, 3, .victim = puts_remotely, AFTER},
};

static void stop_everywhere(void)
{
    struct stepper v;
    bool inside = true;
    begin();
    start(&v, now->victim);
    for (point = least = 0; inside; point += inside) {
        keep();
        for (int i = 0; i < 3; i++) {
            now->after[i]();
            restore();
        }
        inside = advance(&v, 1);
    }
    stepper_kill(&v);
}

int main(void)
{
    dsm_region *region;
    home = open_context(NULL);
    away = open_context("");
    CHECK(!dsm_alloc(home, SHARED, DSM_READ | DSM_WRITE | DSM_ATOMIC, &region));
    memory = dsm_region_data(region);
    said = (struct said *)(void *)(memory + OBJECT);
    descriptor_length = (size_t)dsm_region_descriptor(region, descriptor);
    own = attach(home);
    for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++) {
        now = &scenes[i];
        stop_everywhere();
        CHECK(point > 4);
        printf("%s: stopped at %llu points\n", now->name, (unsigned long long)point);
    }
    CHECK(!dsm_remote_close(own) && !dsm_region_close(region));
    dsm_close(away);
    dsm_close(home);
    puts("ok");
    return 0;
}
