/*
 * No wake is lost among listeners (threads that wait for many tasks) and blocking waiters on the same eventcount.
 * Sleepers recheck by themselves only after an hour, no thread spins, and the alarm ends a program in which a thread is
 * left asleep.
 */
#include "check.h"
#include "objects.h"
#include "objects/eventcount.h"
#include "together.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum { ROUNDS = 1000 };

static uint32_t threads;

/* Each thread has a number of its own. */
static uint32_t number(void) { return fetch_add_u32(&threads, 1); }

static void numbered(int n, void *(*body)(void *), void *arg)
{
    store_relaxed_u32(&threads, 0);
    together(n, body, arg);
}

/* As a helper thread does: it tries, and sleeps where a blocking waiter would. */
#define LISTEN_UNTIL(l, got) \
    for (;;) { \
        dsm_listener_begin(l); \
        if (got) \
            break; \
        dsm_listener_sleep(l); \
    }

/* Half of them listen. */
static void *locks(void *r)
{
    dsm_lock *l;
    dsm_listener listener;
    bool listens = number() % 2;
    CHECK(!dsm_lock_open(r, 0, &l));
    dsm_listener_open(&listener, r, DSM_EVENTCOUNT_FIRST);
    for (int i = 0; i < ROUNDS; i++) {
        if (listens)
            LISTEN_UNTIL(&listener, dsm_lock_acquire(l, 0) == 1)
        else
            CHECK(dsm_lock_acquire(l, -1) == 1);
        CHECK(!usleep(0) && !dsm_lock_release(l));
    }
    CHECK(!dsm_lock_leave(l));
    dsm_lock_close(l);
    return NULL;
}

static void *semaphores(void *r)
{
    dsm_semaphore *m;
    dsm_listener listener;
    bool listens = number() % 2;
    CHECK(!dsm_semaphore_open(r, 0, &m));
    dsm_listener_open(&listener, r, DSM_EVENTCOUNT_FIRST);
    for (int i = 0; i < ROUNDS; i++) {
        if (listens)
            LISTEN_UNTIL(&listener, dsm_semaphore_acquire(m, 0) == 1)
        else
            CHECK(dsm_semaphore_acquire(m, -1) == 1);
        CHECK(!usleep(0) && !dsm_semaphore_release(m, 1));
    }
    CHECK(!dsm_semaphore_leave(m));
    dsm_semaphore_close(m);
    return NULL;
}

/* One writes and listens for readers to go, the others read. */
static void *rwlocks(void *r)
{
    dsm_rwlock *rw;
    dsm_listener word, readers;
    bool writes = !number();
    CHECK(!dsm_rwlock_open(r, 0, &rw));
    dsm_listener_open(&word, r, DSM_EVENTCOUNT_FIRST);
    dsm_listener_open(&readers, r, DSM_EVENTCOUNT_SECOND);
    for (int i = 0; i < ROUNDS; i++)
        if (writes) {
            LISTEN_UNTIL(&word, dsm_rwlock_claim(rw, 0) == 1)
            LISTEN_UNTIL(&readers, dsm_rwlock_drain(rw, 0) == 1)
            CHECK(!usleep(0) && !dsm_rwlock_unclaim(rw, 0));
        } else {
            CHECK(dsm_rwlock_read(rw, -1) == 1 && !usleep(0) && !dsm_rwlock_unread(rw));
        }
    CHECK(!dsm_rwlock_leave(rw));
    dsm_rwlock_close(rw);
    return NULL;
}

/* Two write in turns; one of them listens. */
static void *elements(void *r)
{
    dsm_segment s;
    dsm_listener listener;
    uint64_t me = number(), now = 0;
    CHECK(!dsm_segment_open(r, &s));
    dsm_listener_open(&listener, r, DSM_EVENTCOUNT_SEGMENT);
    for (uint64_t i = 0; i < ROUNDS; i++) {
        uint64_t seen = i, next = i + 1;
        if (me)
            LISTEN_UNTIL(&listener, !dsm_read(r, s.data, &now, 8, -1) && now == next)
        CHECK(!dsm_write(r, s.data + 8 * me, &next, 8, -1));
        dsm_segment_notify(r);
        if (!me)
            CHECK(!dsm_segment_wait(r, s.data + 8, &seen, &now, 8, 0, -1) && now == next);
    }
    return NULL;
}

/* ---- a listener that is woken when its task is gone ---- */

static struct {
    dsm_remote *r;
    pthread_barrier_t begin, end;
} gone;

static void *waits(void *arg)
{
    dsm_lock *l;
    (void)arg;
    CHECK(!dsm_lock_open(gone.r, 0, &l));
    for (int i = 0; i < ROUNDS / 10; i++) {
        pthread_barrier_wait(&gone.begin);
        CHECK(dsm_lock_acquire(l, -1) == 1 && !dsm_lock_release(l));
        pthread_barrier_wait(&gone.end);
    }
    dsm_lock_close(l);
    return NULL;
}

/* Its sleep ends with the notify of the first release, or with that of the thread that got the lock then. */
static void *listens_for_none(void *arg)
{
    dsm_listener listener;
    (void)arg;
    dsm_listener_open(&listener, gone.r, DSM_EVENTCOUNT_FIRST);
    for (int i = 0; i < ROUNDS / 10; i++) {
        dsm_listener_begin(&listener);
        pthread_barrier_wait(&gone.begin);
        dsm_listener_sleep(&listener);
        CHECK(dsm_listener_notified(&listener)); /* nothing else ends its sleep */
        dsm_listener_pass_on(&listener);
        pthread_barrier_wait(&gone.end);
    }
    return NULL;
}

static void pass_on(void)
{
    dsm_lock *l;
    pthread_t t[2];
    gone.r = object_of(DSM_LOCK, THREADS, 0);
    CHECK(!pthread_barrier_init(&gone.begin, NULL, 3) && !pthread_barrier_init(&gone.end, NULL, 3));
    CHECK(!dsm_lock_open(gone.r, 0, &l));
    CHECK(!pthread_create(&t[0], NULL, waits, NULL) && !pthread_create(&t[1], NULL, listens_for_none, NULL));
    for (int i = 0; i < ROUNDS / 10; i++) {
        CHECK(dsm_lock_acquire(l, -1) == 1);
        pthread_barrier_wait(&gone.begin);
        usleep(1000); /* most often both are asleep by then; it must not matter */
        CHECK(!dsm_lock_release(l));
        pthread_barrier_wait(&gone.end);
    }
    CHECK(!pthread_join(t[0], NULL) && !pthread_join(t[1], NULL));
    dsm_lock_close(l);
}

/* Without an eventcount it sleeps longer and longer. */
static void sleeps_without_an_eventcount(void)
{
    dsm_listener listener = {.eventcount = NULL};
    for (int64_t before = 0, i = 0; i < 3; i++) {
        dsm_listener_begin(&listener);
        dsm_listener_sleep(&listener);
        CHECK(!dsm_listener_notified(&listener) && listener.backoff > before);
        before = listener.backoff;
    }
}

static dsm_remote *segment_object(void)
{
    dsm_segment s = {.axes = 1, .itemsize = 8, .dtype_length = 5, .shape = {2}};
    uint64_t n;
    memcpy(s.dtype, "'<u8'", 5);
    CHECK(!dsm_segment_layout(&s, &n));
    dsm_remote *r = memory_of(n);
    CHECK(!dsm_segment_format(dsm_remote_mapped(r), n, &s));
    return r;
}

int main(void)
{
    alarm(60);
    eventcount_recheck(3600ll * 1000000000);
    numbered(THREADS, locks, object_of(DSM_LOCK, THREADS, 0));
    numbered(THREADS, semaphores, object_of(DSM_SEMAPHORE, 0, 2));
    numbered(3, rwlocks, object_of(DSM_RWLOCK, THREADS, 0));
    numbered(2, elements, segment_object());
    pass_on();
    sleeps_without_an_eventcount();
    puts("ok");
    return 0;
}
