/*
 * A queue on which a victim works step by step, for crash_queue.c and crash_wait.c.
 *
 * Messages are numbered, and their bytes follow from the number. begin() makes the queue of a scene again, with so many
 * messages in lane 0; advance() takes the victim a number of steps further; keep() and restore() hold what it has left,
 * as a dead process is nothing but that. What the victim has done it tells in 'said', which changes in steps, too.
 */
#ifndef DSM_TESTS_CRASH_QUEUE_H
#define DSM_TESTS_CRASH_QUEUE_H

#include "base/deadline.h"
#include "objects/queue/ring.h"
#include "stepper.h"

#include <sys/mman.h>

enum {
    LANE = 4096,
    LONGEST = 1300,
    OBJECT = 4096 + 2 * LANE, /* bytes of the longest queue here */
    SHARED = OBJECT + 4096,   /* and behind it what the victim tells */
    FULL = 1000,              /* messages waiting: as many as there is room for */
    NUMBERS = 1000,
    COPIES = 4,
    COPY_BYTES = 64,
    SUCCESSOR = 600, /* number of what a successor puts */
};
#define LIMIT_NS 5000000000ll

#define CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: %s, %s after %llu steps, behind %llu (%s)\n", __FILE__, __LINE__, #x, now->name, \
                    (unsigned long long)point, (unsigned long long)base, dsm_last_error()->detail); \
            abort(); \
        } \
    } while (0)

struct scene {
    const char *name;
    dsm_queue_config config;
    uint64_t position; /* where the first waiting message begins */
    uint64_t waiting;
    uint64_t length; /* of each message */
    uint64_t n;      /* what the victim puts or takes */
    int (*victim)(void *);
    void (*after[3])(void);              /* once it is dead, each from the same bytes */
    void (*meanwhile)(struct stepper *); /* instead: while it is stopped */
    int (*predecessor)(void *);          /* has died before, at each of its steps */
    bool together, drops, leaves;
};

static const struct scene *now = &(struct scene){.name = "start"};
static uint64_t point, base; /* steps of the victim, and of its predecessor */
static bool every_instruction;
static uint64_t waiting; /* messages that were there before the victim */
static int file;
static dsm_remote *own;
static uint8_t *memory, kept[SHARED], batch[COPIES * LONGEST];

static struct said {
    uint64_t begun, done, finished;
    uint8_t copy[COPIES][COPY_BYTES];
} * said;

/* How a victim ends. */
static inline int finish(void)
{
    store_relaxed_u64(&said->finished, 1);
    stepper_mark();
    return 0;
}

/* ---- handles ---- */

static inline dsm_remote *reach(void)
{
    dsm_remote *r;
    CHECK(!dsm_map(file, SHARED, DSM_READ | DSM_WRITE | DSM_ATOMIC, &r));
    return r;
}

static inline dsm_queue *handle_at(dsm_remote *r)
{
    dsm_queue *q;
    CHECK(!dsm_queue_open(r, NULL, &q));
    return q;
}

static inline dsm_queue *producer_at(dsm_remote *r)
{
    dsm_queue *q = handle_at(r);
    CHECK(!dsm_queue_produce(q));
    return q;
}

static inline dsm_queue *consumer_at(dsm_remote *r)
{
    dsm_queue *q = handle_at(r);
    CHECK(!dsm_queue_consume(q));
    return q;
}

static inline void leave(dsm_queue *q) { CHECK(!dsm_queue_close(q)); }

/* ---- messages ---- */

static inline void message(uint8_t *m, uint64_t number, uint64_t length)
{
    for (uint64_t i = 8; i < length; i++)
        m[i] = (uint8_t)((number * 31 + i) | 1);
    memcpy(m, &number, 8);
}

/* Its number, once it is proven to be whole. */
static inline uint64_t is_message(const uint8_t *m, uint64_t length)
{
    uint8_t want[LONGEST];
    uint64_t number;
    memcpy(&number, m, 8);
    message(want, number, length);
    CHECK(!memcmp(m, want, length));
    return number;
}

/* At most 'most' messages, as long as there is room; the number that would come next. */
static inline uint64_t put_some(dsm_queue *q, uint64_t number, uint64_t most)
{
    uint8_t m[LONGEST];
    for (int rc = 0; most && !rc; most--) {
        message(m, number, now->length);
        rc = dsm_queue_push(q, m, now->length, 1);
        CHECK(!rc || rc == -DSM_EFULL);
        number += !rc;
    }
    CHECK(!dsm_queue_flush(q));
    return number;
}

struct taken {
    uint64_t n, at; /* messages, and how many of them the test has accounted for */
    uint64_t number[NUMBERS];
};

/* Everything that is in the queue. */
static inline void drain(dsm_queue *c, struct taken *t)
{
    const void *p;
    uint64_t length;
    uint8_t kind;
    int rc;
    t->n = t->at = 0;
    while (!(rc = dsm_queue_next(c, &p, &length, &kind))) {
        CHECK(t->n < NUMBERS && kind == 1 && length == now->length);
        t->number[t->n++] = is_message(p, length);
        CHECK(!dsm_queue_done(c));
    }
    CHECK(rc == -DSM_EEMPTY);
}

/* Goes over number, number + 1, …, as long as they come so; returns the first one that does not. */
static inline uint64_t series(struct taken *t, uint64_t number)
{
    while (t->at < t->n && t->number[t->at] == number)
        t->at++, number++;
    return number;
}

static inline void count(const struct taken *t, uint8_t *times)
{
    for (uint64_t i = 0; i < t->n; i++) {
        CHECK(t->number[i] < NUMBERS && (i == 0 || t->number[i] > t->number[i - 1]));
        times[t->number[i]]++;
    }
}

/* ---- the queue ---- */

static inline void make(void)
{
    file = memfd_create("queue", 0);
    CHECK(file >= 0 && !ftruncate(file, SHARED));
    own = reach();
    memory = dsm_remote_mapped(own);
    said = (struct said *)(void *)(memory + OBJECT);
}

/* Moves head and tail to the position, and leaves no word of the ring 0 that has not to be. */
static inline void run_up(dsm_queue *q)
{
    uint8_t m[LONGEST];
    uint64_t unit = overhead(q), length;
    const void *p;
    uint8_t kind;
    memset(m, 0xa5, sizeof m);
    while (q->head < now->position) {
        uint64_t left = now->position - q->head, end = LANE - (q->head & (LANE - 1)), size = left < end ? left : end;
        size = size > 512 ? 512 : size; /* in one piece, so never padding */
        CHECK(!dsm_queue_push(q, m, size - unit, 1));
        CHECK(!dsm_queue_next(q, &p, &length, &kind) && !dsm_queue_done(q));
    }
    CHECK(q->head == now->position);
}

static inline void begin(void)
{
    dsm_queue_config config = now->config;
    config.flags &= ~DSM_QUEUE_DROP_OLDEST; /* so that filling it drops nothing */
    memset(memory, 0, SHARED);
    CHECK(!dsm_queue_format(memory, &config));
    dsm_queue *q = producer_at(own);
    CHECK(!dsm_queue_consume(q));
    run_up(q);
    waiting = put_some(q, 0, now->waiting);
    leave(q);
    ((struct queue_config *)(void *)(memory + QUEUE_CONFIG))->flags = now->config.flags;
    for (uint64_t i = 0; i < now->n; i++)
        message(batch + i * now->length, waiting + i, now->length);
}

static inline void keep(void) { memcpy(kept, memory, SHARED); }
static inline void restore(void) { memcpy(memory, kept, SHARED); }

/* ---- the victim ---- */

static inline void start(struct stepper *v, int (*body)(void *))
{
    if (!stepper_start(v, body, NULL))
        exit(77);
}

/* n changes of what is shared; false: it has come to its end before. */
static inline bool advance_changes(struct stepper *v, uint64_t n)
{
    bool inside = true;
    for (; n && inside; n--)
        inside = stepper_change(v, memory, kept, SHARED);
    return inside;
}

static inline bool advance(struct stepper *v, uint64_t n)
{
    bool inside = every_instruction || now->meanwhile ? stepper_step(v, n) : advance_changes(v, n);
    CHECK(inside || said->finished);
    return inside;
}

/* The victim is continued, and comes to its end. */
static inline void go_on(struct stepper *v)
{
    stepper_release(v);
    CHECK(stepper_join(v) == 0 && said->finished);
}

#endif
