/*
 * Kills or stops a process at every step of what it does with a queue, and checks what the others find.
 *
 * For kills, a step is a change of what processes share: between two such changes a dead process leaves the same bytes,
 * whichever instruction it was at. A stopped process knows what it has read, so for stops the steps are instructions,
 * some of them. With --full every instruction is a step of both, and each death that of another process. After each
 * death the memory is kept, and several survivors use it, each from the same bytes. All of them must find:
 *   no message is lost, doubled, torn or out of order;
 *   the message that was being put is there whole or not at all;
 *   the message that was being taken is there or taken;
 *   a role of the dead process goes to the next process;
 *   no process waits forever.
 * A process that is stopped instead delays no other process, and works correctly when it is continued, however many
 * laps later. Exit status 77: this kernel does not allow ptrace here.
 */
#include "crash_queue.h"

static uint64_t least; /* this many were committed, or taken, at an earlier step */
static uint64_t was;   /* likewise, by the predecessor */
enum { MOST = 150 };
static uint8_t left[MOST + 1][SHARED]; /* after each step of a victim */

/* ---- what victims do ---- */

static int puts_each(void *arg)
{
    dsm_queue *q = producer_at(reach());
    (void)arg;
    stepper_mark();
    for (uint64_t i = 0; i < now->n; i++) {
        store_relaxed_u64(&said->begun, i + 1);
        CHECK(!dsm_queue_push(q, batch + i * now->length, now->length, 1));
        store_relaxed_u64(&said->done, i + 1);
    }
    CHECK(!dsm_queue_flush(q));
    return finish();
}

static int puts_an_array(void *arg)
{
    dsm_queue *q = producer_at(reach());
    (void)arg;
    stepper_mark();
    store_relaxed_u64(&said->begun, now->n);
    CHECK(dsm_queue_push_records(q, batch, now->n, now->length) == (int64_t)now->n);
    store_relaxed_u64(&said->done, now->n);
    CHECK(!dsm_queue_flush(q));
    return finish();
}

/* The first reservation is cancelled, the others are longer than what is committed. */
static int puts_in_place(void *arg)
{
    dsm_queue *q = producer_at(reach());
    void *to;
    (void)arg;
    stepper_mark();
    CHECK(!dsm_queue_reserve(q, now->length, &to));
    memset(to, 0x5a, now->length);
    dsm_queue_cancel(q);
    for (uint64_t i = 0; i < now->n; i++) {
        CHECK(!dsm_queue_reserve(q, now->length + 24, &to));
        memcpy(to, batch + i * now->length, now->length);
        store_relaxed_u64(&said->begun, i + 1);
        CHECK(!dsm_queue_commit(q, now->length, 1));
        store_relaxed_u64(&said->done, i + 1);
    }
    CHECK(!dsm_queue_flush(q));
    return finish();
}

/* If others take as well, it may come too late, and tries again. */
static int takes_each(void *arg)
{
    dsm_queue *q = consumer_at(reach());
    const void *p;
    uint64_t length, i = 0;
    uint8_t kind;
    int rc;
    (void)arg;
    stepper_mark();
    while (i < now->n && !(rc = dsm_queue_next(q, &p, &length, &kind))) {
        memcpy(said->copy[i], p, length <= sizeof said->copy[i] ? length : sizeof said->copy[i]);
        store_relaxed_u64(&said->begun, i + 1);
        if (!dsm_queue_done(q))
            store_relaxed_u64(&said->done, ++i);
    }
    CHECK(i == now->n || rc == -DSM_EEMPTY);
    return finish();
}

static int takes_two_at_once(void *arg)
{
    dsm_queue *q = consumer_at(reach());
    const void *p;
    uint64_t length;
    uint8_t kind;
    (void)arg;
    stepper_mark();
    CHECK(!dsm_queue_next(q, &p, &length, &kind) && length == now->length);
    memcpy(said->copy[0], p, length);
    CHECK(!dsm_queue_next_here(q, &p, &length, &kind) && length == now->length);
    memcpy(said->copy[1], p, length);
    store_relaxed_u64(&said->begun, 2);
    CHECK(!dsm_queue_done(q));
    store_relaxed_u64(&said->done, 2);
    return finish();
}

static int takes_an_array(void *arg)
{
    uint8_t out[COPIES * COPY_BYTES];
    dsm_queue *q = consumer_at(reach());
    (void)arg;
    stepper_mark();
    store_relaxed_u64(&said->begun, now->n);
    CHECK(dsm_queue_pop_records(q, out, now->n, now->length) == (int64_t)now->n);
    store_relaxed_u64(&said->done, now->n);
    for (uint64_t i = 0; i < now->n; i++)
        memcpy(said->copy[i], out + i * now->length, now->length);
    return finish();
}

/* Later puts and takes work as usual. */
static void goes_on(dsm_queue *c)
{
    struct taken t;
    dsm_queue *p = producer_at(own);
    put_some(p, 500, 3);
    drain(c, &t);
    CHECK(series(&t, 500) == 503 && t.at == t.n);
    leave(p);
    leave(c);
}

/* ---- successors of a producer ---- */

/* How many of the victim's messages are in the lane, whatever was there before. */
static void judge_puts(uint64_t committed)
{
    CHECK(said->done <= committed && committed <= said->begun);
    CHECK(committed >= least && (!now->together || committed == 0 || committed == now->n));
    least = committed; /* what was there at an earlier step is not gone at a later one */
}

/* The messages that were there before, except the oldest ones that 'put' puts may have dropped, then the victim's. */
static void see_puts(struct taken *t, uint64_t put)
{
    uint64_t first = t->n ? t->number[0] : 0;
    CHECK(t->n && first <= (now->drops ? 2 * put : 0)); /* a message needs the room of at most two */
    uint64_t end = series(t, first);
    CHECK(end >= waiting);
    judge_puts(end - waiting);
}

static void a_consumer_first(void)
{
    struct taken t;
    dsm_queue_counts counts;
    dsm_queue *c = consumer_at(own);
    CHECK(!dsm_queue_count(c, &counts) && counts.producers == 0);
    CHECK(!dsm_queue_wait_item(c, LIMIT_NS, 0, -1));
    drain(c, &t);
    CHECK(counts.messages == t.n);
    see_puts(&t, now->n);
    CHECK(t.at == t.n);
    goes_on(c);
}

static void a_producer_first(void)
{
    struct taken t;
    dsm_queue *p = producer_at(own);
    CHECK(put_some(p, 500, 3) == 503);
    dsm_queue *c = consumer_at(own);
    drain(c, &t);
    see_puts(&t, now->n + 3);
    CHECK(series(&t, 500) == 503 && t.at == t.n);
    leave(c);
    leave(p);
}

/* Goes round the ring several times, so that all that was left behind is met again. */
static void laps(void)
{
    struct taken t;
    dsm_queue *p = producer_at(own), *c = consumer_at(own);
    uint64_t number = 500;
    for (int lap = 0; lap < 3; lap++) {
        uint64_t from = number;
        number = put_some(p, from, now->drops ? 120 : UINT64_MAX);
        CHECK(number > from);
        drain(c, &t);
        if (now->drops)
            from = t.n ? t.number[0] : from;
        else if (!lap)
            see_puts(&t, 0);
        CHECK(series(&t, from) == number && t.at == t.n);
    }
    leave(p);
    leave(c);
}

/* ---- successors of a consumer ---- */

/* The victim took all messages before 'first', and saw each of them whole. */
static void judge_takes(uint64_t first)
{
    CHECK(said->done <= first && first <= said->begun && first >= least);
    least = first;
    uint64_t copied = now->victim == takes_an_array && !said->finished ? 0 : first;
    for (uint64_t i = 0; i < copied; i++)
        CHECK(is_message(said->copy[i], now->length) == i);
}

static void another_consumer(void)
{
    struct taken t;
    dsm_queue *c = consumer_at(own);
    drain(c, &t);
    CHECK(t.n);
    judge_takes(t.number[0]);
    CHECK(series(&t, t.number[0]) == waiting && t.at == t.n);
    goes_on(c);
}

/* The room that the dead consumer made can be used, and what it had not taken is not overwritten. */
static void a_full_lane_first(void)
{
    struct taken t;
    dsm_queue *p = producer_at(own);
    uint64_t end = put_some(p, 500, UINT64_MAX);
    dsm_queue *c = consumer_at(own);
    drain(c, &t);
    CHECK(t.n);
    judge_takes(t.number[0]);
    CHECK(series(&t, t.number[0]) == waiting);
    CHECK(end == 500 || series(&t, 500) == end);
    CHECK(t.at == t.n);
    leave(c);
    leave(p);
}

/* ---- what the others do while a process is stopped ---- */

/* A producer is stopped: the consumer takes what is there, and another lane goes on. */
static void lanes_go_on(struct stepper *v)
{
    struct taken t, later;
    dsm_queue *c = consumer_at(own), *p = producer_at(own), *third = handle_at(own);
    drain(c, &t);
    uint64_t first = t.n ? t.number[0] : 0, end = series(&t, first);
    CHECK(t.n && t.at == t.n && (now->drops || first == 0));
    judge_puts(end - waiting);
    put_some(p, 500, 3);
    drain(c, &t);
    CHECK(series(&t, 500) == 503 && t.at == t.n);
    CHECK(dsm_queue_produce(third) == -DSM_EMEMBERS);
    go_on(v);
    drain(c, &later);
    CHECK(series(&later, end) == waiting + now->n && later.at == later.n);
    leave(third);
    leave(p);
    leave(c);
}

/* The one consumer is stopped: the producer meets a full lane, and nothing that is being read is overwritten. */
static void producer_goes_on(struct stepper *v)
{
    struct taken t;
    dsm_queue *p = producer_at(own), *other = handle_at(own);
    CHECK(dsm_queue_consume(other) == -DSM_EBUSY);
    uint64_t end = put_some(p, 500, UINT64_MAX);
    go_on(v);
    for (uint64_t i = 0; i < now->n; i++)
        CHECK(is_message(said->copy[i], now->length) == i);
    CHECK(!dsm_queue_consume(other)); /* it has ended */
    drain(other, &t);
    CHECK(series(&t, now->n) == waiting);
    CHECK(end == 500 || series(&t, 500) == end);
    CHECK(t.at == t.n);
    leave(other);
    leave(p);
}

/* One of many consumers is stopped: others take everything, for several laps. When it is continued it is too late for
 * its message, and takes a new one. */
static void consumers_go_on(struct stepper *v)
{
    uint8_t times[1000] = {0};
    struct taken t;
    dsm_queue *p = producer_at(own), *c = consumer_at(own);
    uint64_t number = waiting;
    for (int lap = 0; lap < 3; lap++) {
        drain(c, &t);
        count(&t, times);
        number = put_some(p, number, now->drops ? 120 : UINT64_MAX);
    }
    drain(c, &t);
    count(&t, times);
    number = put_some(p, number, 4);
    go_on(v);
    CHECK(said->done == now->n);
    drain(c, &t);
    count(&t, times);
    for (uint64_t i = 0, last = 0; i < said->done; i++) {
        uint64_t taken = is_message(said->copy[i], now->length);
        CHECK(taken < number && (i == 0 || taken > last));
        times[taken]++;
        last = taken;
    }
    for (uint64_t i = 0; i < number; i++)
        CHECK(times[i] == 1 || (now->drops && times[i] == 0 && i < number - 1));
    leave(p);
    leave(c);
}

/* ---- roles ---- */

static int takes_a_lane(void *arg)
{
    dsm_queue *q = handle_at(reach());
    (void)arg;
    stepper_mark();
    int rc = dsm_queue_produce(q);
    CHECK(!rc || rc == -DSM_EMEMBERS);
    if (!rc) {
        CHECK(!dsm_queue_push(q, batch, now->length, 1));
        CHECK(!dsm_queue_flush(q));
        store_relaxed_u64(&said->done, 1);
        if (now->leaves)
            CHECK(!dsm_queue_close(q));
    }
    return finish();
}

static int takes_the_consumers_role(void *arg)
{
    dsm_queue *q = handle_at(reach());
    const void *p;
    uint64_t length;
    uint8_t kind;
    (void)arg;
    stepper_mark();
    int rc = dsm_queue_consume(q);
    CHECK(!rc || rc == -DSM_EBUSY);
    if (!rc) {
        CHECK(!dsm_queue_next(q, &p, &length, &kind));
        memcpy(said->copy[0], p, length);
        store_relaxed_u64(&said->begun, 1);
        CHECK(!dsm_queue_done(q));
        store_relaxed_u64(&said->done, 1);
        if (now->leaves)
            CHECK(!dsm_queue_close(q));
    }
    return finish();
}

static void see_predecessor(struct taken *t) { CHECK(series(t, 0) == waiting + was); }

static void another_takes_the_lane(void)
{
    struct taken t;
    dsm_queue *p = producer_at(own), *c = consumer_at(own);
    put_some(p, 700, 2);
    drain(c, &t);
    see_predecessor(&t);
    bool there = t.at < t.n && t.number[t.at] == SUCCESSOR;
    CHECK(there || !said->done);
    t.at += there;
    CHECK(series(&t, 700) == 702 && t.at == t.n);
    leave(p);
    leave(c);
}

/* One of the two gets the lane of the dead producer, and the other one gets an error. */
static void only_one_takes_the_lane(struct stepper *v)
{
    struct taken t;
    dsm_queue *p = handle_at(own), *c = consumer_at(own);
    int rc = dsm_queue_produce(p);
    CHECK(!rc || rc == -DSM_EMEMBERS);
    if (!rc)
        CHECK(put_some(p, 700, 1) == 701);
    go_on(v);
    CHECK(said->done == (rc != 0));
    drain(c, &t);
    see_predecessor(&t);
    CHECK(t.at == t.n - 1 && t.number[t.at] == (rc ? SUCCESSOR : 700));
    leave(p);
    leave(c);
}

static void another_takes_the_consumers_role(void)
{
    struct taken t;
    dsm_queue *c = consumer_at(own);
    drain(c, &t);
    CHECK(t.n && t.number[0] >= was + said->done && t.number[0] <= was + said->begun);
    if (t.number[0] > was)
        CHECK(is_message(said->copy[0], now->length) == was);
    CHECK(series(&t, t.number[0]) == waiting && t.at == t.n);
    leave(c);
}

static void only_one_takes_the_consumers_role(struct stepper *v)
{
    struct taken t = {0};
    dsm_queue *c = handle_at(own);
    int rc = dsm_queue_consume(c);
    CHECK(!rc || rc == -DSM_EBUSY);
    if (!rc)
        drain(c, &t);
    go_on(v);
    CHECK(said->done == (rc != 0));
    if (rc) {
        CHECK(!dsm_queue_consume(c));
        drain(c, &t);
    }
    CHECK(series(&t, was + said->done) == waiting && t.at == t.n);
    if (said->done)
        CHECK(is_message(said->copy[0], now->length) == was);
    leave(c);
}

/* ---- scenes ---- */

#define PLAIN(lanes_, flags_) \
    { \
        .lanes = (lanes_), .flags = (flags_), .lane_bytes = LANE, .max_message = LONGEST \
    }
#define ONE PLAIN(1, 0)
#define TWO PLAIN(2, 0)
#define MANY PLAIN(1, DSM_QUEUE_MANY_CONSUMERS)
#define DROP PLAIN(1, DSM_QUEUE_DROP_OLDEST)
#define CHECKED PLAIN(1, DSM_QUEUE_CHECKED)
#define AFTER_PUTS .after = {a_consumer_first, a_producer_first, laps}
#define AFTER_TAKES .after = {another_consumer, a_full_lane_first}

/* Where the victim's records begin: somewhere on the second lap; with the ring's end among them; with its end behind
 * them; and with only the 8 bytes of a header left before its end. Records of 40 bytes take 48 (checked: 64). */
enum { MIDST = LANE + 512, PADDED = 2 * LANE - 24 - 48, FLUSH = 2 * LANE - 2 * 48, EDGE = 2 * LANE - 8 - 48 };

static const struct scene scenes[] = {
    {"put", ONE, MIDST, 1, 40, 2, puts_each, AFTER_PUTS},
    {"put round the end", ONE, PADDED, 1, 40, 2, puts_each, AFTER_PUTS},
    {"put up to the end", ONE, FLUSH, 1, 40, 2, puts_each, AFTER_PUTS},
    {"put with 8 bytes left", ONE, EDGE, 1, 40, 1, puts_each, AFTER_PUTS},
    {"put past the caches", ONE, MIDST, 1, 520, 1, puts_each, AFTER_PUTS},
    {"put into a checked lane", CHECKED, MIDST, 1, 40, 2, puts_each, AFTER_PUTS},
    {"put round the end, checked", CHECKED, 2 * LANE - 32 - 64, 1, 40, 2, puts_each, AFTER_PUTS},
    {"put an array", ONE, MIDST, 1, 40, 4, puts_an_array, .together = true, AFTER_PUTS},
    {"put an array round the end", ONE, PADDED - 48, 1, 40, 4, puts_an_array, .together = true, AFTER_PUTS},
    {"put an array past the caches", ONE, PADDED - 528, 1, 520, 2, puts_an_array, .together = true, AFTER_PUTS},
    {"put in place", ONE, MIDST, 1, 40, 2, puts_in_place, AFTER_PUTS},
    {"put in place round the end", ONE, PADDED, 1, 40, 2, puts_in_place, AFTER_PUTS},
    {"drop the oldest", DROP, MIDST, FULL, 40, 2, puts_each, .drops = true, AFTER_PUTS},
    {"drop the oldest round the end", DROP, PADDED, FULL, 40, 2, puts_each, .drops = true, AFTER_PUTS},
    {"take", ONE, MIDST, 4, 40, 2, takes_each, AFTER_TAKES},
    {"take round the end", ONE, PADDED, 4, 40, 2, takes_each, AFTER_TAKES},
    {"take two at once", ONE, PADDED, FULL, 40, 2, takes_two_at_once, AFTER_TAKES},
    {"take an array", ONE, PADDED, 4, 40, 3, takes_an_array, AFTER_TAKES},
    {"take from a checked lane", CHECKED, MIDST, 4, 40, 2, takes_each, AFTER_TAKES},
    {"take, one of many", MANY, PADDED, 4, 40, 2, takes_each, AFTER_TAKES},
    {"take an array, one of many", MANY, PADDED, 4, 40, 3, takes_an_array, AFTER_TAKES},
    {"a stopped producer", TWO, PADDED, 2, 40, 1, puts_each, .meanwhile = lanes_go_on},
    {"a stopped producer of arrays", TWO, PADDED, 2, 40, 3, puts_an_array, .meanwhile = lanes_go_on},
    {"a stopped producer that drops", PLAIN(2, DSM_QUEUE_DROP_OLDEST), PADDED, FULL, 40, 1, puts_each, .drops = true,
     .meanwhile = lanes_go_on},
    {"the stopped consumer", ONE, PADDED, 4, 40, 1, takes_each, .meanwhile = producer_goes_on},
    {"a stopped consumer of many", MANY, PADDED, 4, 40, 1, takes_each, .meanwhile = consumers_go_on},
    {"a stopped consumer, and a producer that drops", PLAIN(1, DSM_QUEUE_MANY_CONSUMERS | DSM_QUEUE_DROP_OLDEST),
     PADDED, FULL, 40, 1, takes_each, .drops = true, .meanwhile = consumers_go_on},
};

/* What a process does that takes the role of a dead one, wherever that one died. */
static const struct scene behind[] = {
    {"take a dead one's lane", ONE, PADDED, 1, 40, 1, takes_a_lane, .predecessor = puts_each, .leaves = true,
     .after = {another_takes_the_lane}},
    {"two take a dead one's lane", ONE, PADDED, 1, 40, 1, takes_a_lane, .predecessor = puts_each,
     .meanwhile = only_one_takes_the_lane},
    {"take a dead consumer's role", ONE, PADDED, 4, 40, 1, takes_the_consumers_role, .predecessor = takes_each,
     .leaves = true, .after = {another_takes_the_consumers_role}},
    {"two take a dead consumer's role", ONE, PADDED, 4, 40, 1, takes_the_consumers_role, .predecessor = takes_each,
     .meanwhile = only_one_takes_the_consumers_role},
};

/* The predecessor is killed after 'base' steps, and what it has done is read in a copy. */
static bool succeed_at(uint64_t steps)
{
    struct stepper v;
    struct taken t;
    start(&v, now->predecessor);
    bool inside = advance_changes(&v, steps);
    CHECK(inside || said->finished);
    stepper_kill(&v);
    memset(said, 0, sizeof *said);
    keep();
    dsm_queue *c = consumer_at(own);
    drain(c, &t);
    CHECK(t.n);
    was = now->predecessor == puts_each ? t.number[t.n - 1] + 1 - waiting : t.number[0];
    leave(c);
    restore();
    message(batch, SUCCESSOR, now->length);
    return inside;
}

/* Each process that comes after, from the same bytes. */
static void survive(void)
{
    for (int i = 0; i < 3 && now->after[i]; i++) {
        restore();
        now->after[i]();
    }
}

/* false: the victim, or its predecessor, had finished. */
static bool try_at(bool *more)
{
    struct stepper v;
    begin();
    *more = now->predecessor && succeed_at(base);
    start(&v, now->victim);
    bool inside = advance(&v, point);
    if (now->meanwhile) {
        now->meanwhile(&v);
        return inside;
    }
    stepper_kill(&v);
    keep();
    survive();
    return inside;
}

/*
 * One run of the victim gives all that its death can leave, and it is dead when that is judged. Returns how many steps
 * there were.
 */
static uint64_t killed_everywhere(bool *more)
{
    struct stepper v;
    uint64_t steps = 0;
    begin();
    *more = now->predecessor && succeed_at(base);
    start(&v, now->victim);
    do {
        CHECK(steps < MOST);
        memcpy(left[steps++], memory, SHARED);
    } while (advance(&v, 1));
    memcpy(left[steps++], memory, SHARED);
    stepper_kill(&v);
    for (point = 0; point < steps; point++) {
        memcpy(kept, left[point], SHARED);
        survive();
    }
    return steps;
}

static void sweep(const struct scene *s)
{
    uint64_t points = 0;
    bool more = true;
    now = s;
    uint64_t stride = every_instruction || !s->meanwhile ? 1 : s->predecessor ? 17 : 5;
    for (base = 0; more; base += every_instruction ? 1 : s->meanwhile ? 5 : 2) {
        least = 0;
        if (!s->meanwhile && !every_instruction)
            points += killed_everywhere(&more);
        for (point = 0; (s->meanwhile || every_instruction) && try_at(&more); point += stride)
            points++;
        CHECK(points > 3);
    }
    printf("%s: %s at %llu points\n", s->name, s->meanwhile ? "stopped" : "killed", (unsigned long long)points);
}

int main(int argc, char **argv)
{
    every_instruction = argc > 1 && !strcmp(argv[1], "--full");
    make();
    for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++)
        sweep(&scenes[i]);
    for (size_t i = 0; i < sizeof behind / sizeof *behind; i++)
        sweep(&behind[i]);
    puts("ok");
    return 0;
}
