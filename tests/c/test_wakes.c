/* wraps: syscall */
/*
 * No wake is lost. A sleeper rechecks by itself after a while, which hides a missing notify. Here it does so only after
 * an hour, no thread spins, and the alarm ends a program in which a thread is left asleep. And a sleeper is not woken
 * as long as nothing happens.
 */
#include "check.h"
#include "objects.h"
#include "objects/eventcount.h"
#include "together.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ROUNDS = 2000 };

static uint32_t sleeps; /* that have begun */
static uint32_t quiet;  /* never notified */

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...)
{
    va_list ap;
    long a[6] = {0};
    int n = number == SYS_futex ? 6 : number == SYS_rt_sigprocmask ? 4 : 3; /* arguments that the core passes */
    va_start(ap, number);
    for (int i = 0; i < n; i++)
        a[i] = va_arg(ap, long);
    va_end(ap);
    bool sleep = number == SYS_futex && (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT;
    if (sleep)
        fetch_add_u32(&sleeps, 1);
    long rc = __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    CHECK(!sleep || !load_acquire_u32(&quiet) || rc == 0 || errno != EAGAIN);
    return rc;
}

static void *locks(void *r)
{
    dsm_lock *l;
    CHECK(!dsm_lock_open(r, 0, &l));
    for (int i = 0; i < ROUNDS; i++)
        CHECK(dsm_lock_acquire(l, -1) == 1 && !usleep(0) && !dsm_lock_release(l));
    CHECK(!dsm_lock_leave(l));
    dsm_lock_close(l);
    return NULL;
}

static void *rwlocks(void *r)
{
    dsm_rwlock *rw;
    CHECK(!dsm_rwlock_open(r, 0, &rw));
    for (int i = 0; i < ROUNDS; i++)
        if (i % 4)
            CHECK(dsm_rwlock_read(rw, -1) == 1 && !usleep(0) && !dsm_rwlock_unread(rw));
        else
            CHECK(dsm_rwlock_claim(rw, -1) == 1 && dsm_rwlock_drain(rw, -1) == 1 && !usleep(0) &&
                  !dsm_rwlock_unclaim(rw, 0));
    CHECK(!dsm_rwlock_leave(rw));
    dsm_rwlock_close(rw);
    return NULL;
}

static uint32_t inside;

/* No reader leaves before all have the lock. */
static void *one_reader(void *r)
{
    dsm_rwlock *rw;
    CHECK(!dsm_rwlock_open(r, 0, &rw) && dsm_rwlock_read(rw, -1) == 1);
    fetch_add_u32(&inside, 1);
    while (load_acquire_u32(&inside) < 3)
        usleep(100);
    CHECK(!dsm_rwlock_unread(rw));
    dsm_rwlock_close(rw);
    return NULL;
}

static void readers_behind_a_writer(void)
{
    dsm_rwlock *rw;
    pthread_t threads[3];
    dsm_remote *r = object_of(DSM_RWLOCK, THREADS, 0);
    CHECK(!dsm_rwlock_open(r, 0, &rw) && dsm_rwlock_claim(rw, -1) == 1 && dsm_rwlock_drain(rw, -1) == 1);
    for (int i = 0; i < 3; i++)
        CHECK(!pthread_create(&threads[i], NULL, one_reader, r));
    usleep(20000); /* most often they are asleep by then; it must not matter */
    CHECK(!dsm_rwlock_unclaim(rw, 0));
    for (int i = 0; i < 3; i++)
        CHECK(!pthread_join(threads[i], NULL));
    dsm_rwlock_close(rw);
}

static void *semaphores(void *r)
{
    dsm_semaphore *m;
    CHECK(!dsm_semaphore_open(r, 0, &m));
    for (int i = 0; i < ROUNDS; i++)
        CHECK(dsm_semaphore_acquire(m, -1) == 1 && !usleep(0) && !dsm_semaphore_release(m, 1));
    CHECK(!dsm_semaphore_leave(m));
    dsm_semaphore_close(m);
    return NULL;
}

static void *barriers(void *r)
{
    dsm_barrier *b;
    uint64_t generation;
    uint32_t index;
    CHECK(!dsm_barrier_open(r, 0, &b));
    for (int i = 0; i < ROUNDS; i++) {
        int rc = dsm_barrier_arrive(b, 1, -1, &generation, &index);
        CHECK(rc == 2 || (rc == 1 && dsm_barrier_wait(b, generation, -1) == 1));
    }
    CHECK(!dsm_barrier_leave(b));
    dsm_barrier_close(b);
    return NULL;
}

/* A party that waits when the barrier is broken or reset is woken, too. */
static void *broken_barriers(void *r)
{
    dsm_barrier *b;
    uint64_t generation;
    uint32_t index;
    CHECK(!dsm_barrier_open(r, 0, &b));
    CHECK(dsm_barrier_arrive(b, 1, -1, &generation, &index) == 1);
    CHECK(dsm_barrier_wait(b, generation, -1) == -DSM_EBROKEN);
    dsm_barrier_close(b);
    return NULL;
}

static void end_barriers(bool reset)
{
    dsm_barrier *b;
    pthread_t t;
    int broken;
    dsm_remote *r = object_of(DSM_BARRIER, THREADS, 2);
    CHECK(!dsm_barrier_open(r, 0, &b) && !pthread_create(&t, NULL, broken_barriers, r));
    while (dsm_barrier_waiting(b, &broken) != 1)
        usleep(100);
    usleep(1000); /* most often it is asleep by then; it must not matter */
    CHECK(reset ? !dsm_barrier_reset(b) : dsm_barrier_break(b, DSM_BARRIER_ANY) == 1);
    CHECK(!pthread_join(t, NULL));
    dsm_barrier_close(b);
}

/* Two take turns: the first thread is the one whose turns are even. */
static struct {
    pthread_mutex_t lock;
    int threads;
} turns = {PTHREAD_MUTEX_INITIALIZER, 0};

static int my_turn(void)
{
    pthread_mutex_lock(&turns.lock);
    int mine = turns.threads++ % 2;
    pthread_mutex_unlock(&turns.lock);
    return mine;
}

static void *events(void *arg)
{
    dsm_remote **r = arg;
    dsm_event *go, *come;
    int me = my_turn();
    CHECK(!dsm_event_open(r[me], 0, &go) && !dsm_event_open(r[!me], 0, &come));
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t since = DSM_EVENT_NOW;
        if (!me)
            CHECK(!dsm_event_set(go));
        CHECK(dsm_event_wait(come, &since, -1) == 1 && !dsm_event_clear(come));
        if (me)
            CHECK(!dsm_event_set(go));
    }
    dsm_event_close(go);
    dsm_event_close(come);
    return NULL;
}

static int turn;

static void *conditions(void *r)
{
    dsm_condition *c;
    dsm_waiter w;
    int me = my_turn();
    CHECK(!dsm_condition_open(r, NULL, 0, &c));
    CHECK(dsm_lock_acquire(dsm_condition_lock(c), -1) == 1);
    for (int i = 0; i < ROUNDS; i++) {
        while (turn != me) {
            CHECK(!dsm_condition_begin(c, &w) && dsm_condition_wait(&w, -1) == DSM_CONDITION_NOTIFIED);
            CHECK(dsm_lock_acquire(dsm_condition_lock(c), -1) == 1 && dsm_condition_finish(&w, 0) == 1);
        }
        turn = !me;
        CHECK(!dsm_condition_notify(c, 1));
    }
    CHECK(!dsm_lock_release(dsm_condition_lock(c)) && !dsm_condition_leave(c));
    dsm_condition_close(c);
    return NULL;
}

static void *onces(void *r)
{
    dsm_once *o;
    CHECK(!dsm_once_open(r, 0, &o));
    if (dsm_once_begin(o, -1) == DSM_ONCE_RUN)
        CHECK(!usleep(1000) && !dsm_once_end(o, 1));
    CHECK(dsm_once_done(o) == 1 && !dsm_once_leave(o));
    dsm_once_close(o);
    return NULL;
}

static void *one_event(void *arg)
{
    uint64_t since = DSM_EVENT_NOW;
    dsm_event *e;
    CHECK(!dsm_event_open(arg, 0, &e) && dsm_event_wait(e, &since, -1) == 1);
    dsm_event_close(e);
    return NULL;
}

/* It sleeps once, and not on a value that has been left behind long ago. */
static void sleeps_while_nothing_happens(void)
{
    dsm_event *e;
    pthread_t t;
    dsm_remote *r = object_of(DSM_EVENT, 0, 0);
    CHECK(!dsm_event_open(r, 0, &e));
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t before = load_acquire_u32(&sleeps);
        store_release_u32(&quiet, 1);
        CHECK(!pthread_create(&t, NULL, one_event, r));
        while (load_acquire_u32(&sleeps) == before)
            usleep(100);
        usleep(1000); /* most often it is asleep by then; it must not matter */
        store_release_u32(&quiet, 0);
        CHECK(!dsm_event_set(e) && !pthread_join(t, NULL) && !dsm_event_clear(e));
    }
    dsm_event_close(e);
}

/* ---- queues and segments ---- */

static dsm_remote *queue_object(uint32_t flags)
{
    dsm_queue_config config = {.lanes = THREADS, .flags = flags, .lane_bytes = 4096, .max_message = 1000};
    dsm_remote *r = memory_of(dsm_queue_nbytes(&config));
    CHECK(!dsm_queue_format(dsm_remote_mapped(r), &config));
    return r;
}

static void take_message(dsm_queue *q)
{
    const void *payload;
    uint64_t length;
    uint8_t kind;
    int rc;
    do { /* with many consumers, another may be quicker */
        while ((rc = dsm_queue_next(q, &payload, &length, &kind)) == -DSM_EEMPTY)
            CHECK(!dsm_queue_wait_item(q, -1, 0, -1));
        CHECK(!rc);
    } while (dsm_queue_done(q));
}

static void *pings(void *arg)
{
    dsm_remote **r = arg;
    dsm_queue *out, *in;
    int me = my_turn();
    CHECK(!dsm_queue_open(r[me], NULL, &out) && !dsm_queue_produce(out));
    CHECK(!dsm_queue_open(r[!me], NULL, &in) && !dsm_queue_consume(in));
    for (int i = 0; i < ROUNDS; i++) {
        if (!me)
            CHECK(!dsm_queue_push(out, "ping", 4, 1) && !dsm_queue_flush(out));
        take_message(in);
        if (me)
            CHECK(!dsm_queue_push(out, "pong", 4, 1) && !dsm_queue_flush(out));
    }
    CHECK(!dsm_queue_close(out) && !dsm_queue_close(in));
    return NULL;
}

/* A lane has room for four of these. */
static void *floods(void *r)
{
    static const char message[900];
    dsm_queue *q;
    int rc, takes = my_turn();
    CHECK(!dsm_queue_open(r, NULL, &q) && (takes ? !dsm_queue_consume(q) : !dsm_queue_produce(q)));
    for (int i = 0; i < ROUNDS; i++)
        if (takes) {
            take_message(q);
        } else {
            while ((rc = dsm_queue_push(q, message, sizeof message, 1)) == -DSM_EFULL)
                CHECK(!dsm_queue_wait_room(q, sizeof message, -1, 0, -1));
            CHECK(!rc && !dsm_queue_flush(q));
        }
    CHECK(!dsm_queue_close(q));
    return NULL;
}

/* A thread that waits for a message, and one that waits for room, learn of a shutdown. */
static void *shut_out(void *r)
{
    dsm_queue *q;
    int takes = my_turn();
    CHECK(!dsm_queue_open(r, NULL, &q));
    if (takes)
        CHECK(!dsm_queue_consume(q) && dsm_queue_wait_item(q, -1, 0, -1) == -DSM_ESHUTDOWN);
    else
        CHECK(!dsm_queue_produce(q) && dsm_queue_wait_room(q, 5000, -1, 0, -1) == -DSM_ESHUTDOWN);
    CHECK(!dsm_queue_close(q));
    return NULL;
}

static void shut_down(void)
{
    dsm_queue *q;
    pthread_t threads[2];
    dsm_remote *r = queue_object(0);
    CHECK(!dsm_queue_open(r, NULL, &q));
    for (int i = 0; i < 2; i++)
        CHECK(!pthread_create(&threads[i], NULL, shut_out, r));
    usleep(20000); /* most often they are asleep by then; it must not matter */
    CHECK(!dsm_queue_shutdown(q, 0));
    for (int i = 0; i < 2; i++)
        CHECK(!pthread_join(threads[i], NULL));
    CHECK(!dsm_queue_close(q));
}

static dsm_remote *segment_object(uint32_t versioned)
{
    dsm_segment s = {.axes = 1, .itemsize = 8, .dtype_length = 5, .versioned = versioned, .shape = {2}};
    uint64_t n;
    memcpy(s.dtype, "'<u8'", 5);
    CHECK(!dsm_segment_layout(&s, &n));
    dsm_remote *r = memory_of(n);
    CHECK(!dsm_segment_format(dsm_remote_mapped(r), n, &s));
    return r;
}

static void *versions(void *r)
{
    dsm_segment s;
    uint64_t version, rows;
    static const uint64_t data[2];
    CHECK(!dsm_segment_open(r, &s));
    for (int i = 0; i < ROUNDS; i++)
        CHECK(!dsm_segment_begin(r, &s, -1, &version, &rows) && !usleep(0) &&
              !(i % 8 ? dsm_segment_commit(r, &s, data, &version) : dsm_segment_abort(r, &s, version)));
    return NULL;
}

static void *elements(void *r)
{
    dsm_segment s;
    uint64_t me = (uint64_t)my_turn(), now;
    CHECK(!dsm_segment_open(r, &s));
    for (uint64_t i = 0; i < ROUNDS; i++) {
        uint64_t seen = i, next = i + 1;
        if (me)
            CHECK(!dsm_segment_wait(r, s.data, &seen, &now, 8, 0, -1) && now == next);
        CHECK(!dsm_write(r, s.data + 8 * me, &next, 8, -1));
        dsm_segment_notify(r);
        if (!me)
            CHECK(!dsm_segment_wait(r, s.data + 8, &seen, &now, 8, 0, -1) && now == next);
    }
    return NULL;
}

int main(void)
{
    eventcount_recheck(3600ll * 1000000000);
    together(THREADS, locks, object_of(DSM_LOCK, THREADS, 0));
    together(THREADS, rwlocks, object_of(DSM_RWLOCK, THREADS, 0));
    readers_behind_a_writer();
    together(THREADS, semaphores, object_of(DSM_SEMAPHORE, 0, 2));
    together(3, barriers, object_of(DSM_BARRIER, THREADS, 3));
    end_barriers(false);
    end_barriers(true);
    dsm_remote *both[] = {object_of(DSM_EVENT, 0, 0), object_of(DSM_EVENT, 0, 0)};
    together(2, events, both);
    sleeps_while_nothing_happens();
    together(2, conditions, object_of(DSM_CONDITION, THREADS, THREADS));
    for (int i = 0; i < 20; i++)
        together(THREADS, onces, object_of(DSM_ONCE, THREADS, 0));
    dsm_remote *ways[] = {queue_object(0), queue_object(0)};
    together(2, pings, ways);
    together(2, floods, queue_object(0));
    together(THREADS, floods, queue_object(DSM_QUEUE_MANY_CONSUMERS));
    shut_down();
    together(THREADS, versions, segment_object(1));
    together(2, elements, segment_object(0));
    puts("ok");
    return 0;
}
