/* wraps: poll pthread_cond_timedwait clock_gettime */
/*
 * Threads that wait for ops on one connection: one of them sleeps on its event, the others behind that one. A sleeper
 * rechecks by itself after a while, which hides a missing wake. Here it never does, no thread spins, and the alarm ends
 * a program in which a thread is left asleep.
 */
#include "check.h"
#include "context.h"
#include "core/remote.h"
#include "tickets.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { WAITERS = 3, ROUNDS = 200 };
#define HOUR (INT64_C(3600) * 1000000000)

static dsm_ctx *owner, *user;
static dsm_region *region;
static dsm_remote *remote;
static sem_t behind; /* posted by each thread that sleeps behind the sleeper */
static bool held;    /* the sleeper is held before it polls: */
static sem_t asleep, poll_now;

int __real_poll(struct pollfd *on, nfds_t n, int timeout_ms);
int __wrap_poll(struct pollfd *on, nfds_t n, int timeout_ms);
int __wrap_poll(struct pollfd *on, nfds_t n, int timeout_ms)
{
    if (n != 2) /* no sleeper of a connection, which polls two files */
        return __real_poll(on, n, timeout_ms);
    if (__atomic_exchange_n(&held, false, __ATOMIC_SEQ_CST)) {
        CHECK(!sem_post(&asleep));
        while (sem_wait(&poll_now))
            ;
    }
    return __real_poll(on, n, -1);
}

int __wrap_pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until);
int __wrap_pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until)
{
    (void)until;
    CHECK(!sem_post(&behind)); /* the next thread that gets the mutex finds this one asleep */
    return pthread_cond_wait(c, m);
}

static bool stopped; /* no time passes for the core */
static struct timespec stopped_at;

int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
    if (!__atomic_load_n(&stopped, __ATOMIC_SEQ_CST))
        return __real_clock_gettime(clock, now);
    *now = stopped_at;
    return 0;
}

static void stop_time(bool stop)
{
    if (stop) /* else a thread may still be reading it */
        CHECK(!__real_clock_gettime(CLOCK_MONOTONIC, &stopped_at));
    __atomic_store_n(&stopped, stop, __ATOMIC_SEQ_CST);
}

static dsm_ctx *open_sleepy(const char *fault)
{
    dsm_options o = options_of("shm");
    o.fault = fault;
    o.peer_timeout_ns = HOUR;
    o.spin_ns = 0;
    return open_with(o);
}

/* Op 1 makes the connection. */
static void open_all(const char *fault)
{
    uint8_t d[DSM_DESC_MAX];
    uint64_t old;
    owner = open_sleepy(NULL);
    user = open_sleepy(fault);
    CHECK(!dsm_alloc(owner, 4096, 7, &region));
    CHECK(!dsm_attach(user, d, (size_t)dsm_region_descriptor(region, d), -1, &remote));
    CHECK(!dsm_fetch_add(remote, 0, 1, &old, -1));
    CHECK(!sem_init(&behind, 0, 0) && !sem_init(&asleep, 0, 0) && !sem_init(&poll_now, 0, 0));
}

static void close_all(void)
{
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    CHECK(!dsm_region_close(region));
    dsm_close(owner);
}

static void *add_one(void *rc)
{
    uint64_t old;
    *(int *)rc = dsm_fetch_add(remote, 0, 1, &old, -1);
    return NULL;
}

/* All wait, and the sleeper among them is between its last look and its poll. */
static void begin_waiting(pthread_t threads[WAITERS], int results[WAITERS])
{
    uint64_t earlier;
    CHECK(read(remote->peer->wake_fd, &earlier, sizeof earlier) <
          0); /* the woken thread has slept, and has taken the wake */
    __atomic_store_n(&held, true, __ATOMIC_SEQ_CST);
    for (int i = 0; i < WAITERS; i++)
        CHECK(!pthread_create(&threads[i], NULL, add_one, &results[i]));
    CHECK(!sem_wait(&asleep));
    for (int i = 1; i < WAITERS; i++)
        CHECK(!sem_wait(&behind));
}

static void end_waiting(pthread_t threads[WAITERS])
{
    CHECK(!sem_post(&poll_now));
    for (int i = 0; i < WAITERS; i++)
        CHECK(!pthread_join(threads[i], NULL));
}

/* Another thread reaps the completions of all. */
static void reaped_by_another(void)
{
    pthread_t threads[WAITERS];
    int results[WAITERS];
    open_all("delay=2-:20ms");
    begin_waiting(threads, results);
    pthread_mutex_lock(&remote->peer->lock);
    while (load_acquire_u32(&remote->peer->ep->inflight)) {
        peer_reap(remote->peer);
        usleep(1000);
    }
    pthread_mutex_unlock(&remote->peer->lock);
    end_waiting(threads);
    for (int i = 0; i < WAITERS; i++)
        CHECK(!results[i]);
    close_all();
}

/* The connection ends while their ops are under way. */
static void connection_that_ends(void)
{
    pthread_t threads[WAITERS];
    int results[WAITERS];
    open_all("drop=2-");
    begin_waiting(threads, results);
    peer_break(remote->peer);
    end_waiting(threads);
    for (int i = 0; i < WAITERS; i++)
        CHECK(results[i] == -DSM_EUNKNOWN); /* executed, and their completions lost */
    close_all();
}

/* The owner ends while their ops are under way. */
static void owner_that_ends(void)
{
    pthread_t threads[WAITERS];
    int results[WAITERS];
    open_all("drop=2-");
    begin_waiting(threads, results);
    CHECK(!sem_post(&poll_now) && !dsm_region_close(region));
    dsm_close(owner);
    for (int i = 0; i < WAITERS; i++)
        CHECK(!pthread_join(threads[i], NULL) && results[i] == -DSM_EUNKNOWN); /* executed, and not answered */
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
}

/* Each sleeper that has its answer is followed by one of those behind it. */
static void *add_many(void *arg)
{
    uint64_t old;
    for (int i = 0; i < ROUNDS; i++)
        CHECK(!dsm_fetch_add(arg, 0, 1, &old, -1));
    return NULL;
}

static void one_after_another(void)
{
    pthread_t threads[WAITERS];
    uint64_t old;
    open_all("delay=*:1ms");
    for (int i = 0; i < WAITERS; i++)
        CHECK(!pthread_create(&threads[i], NULL, add_many, remote));
    for (int i = 0; i < WAITERS; i++)
        CHECK(!pthread_join(threads[i], NULL));
    CHECK(!dsm_fetch_add(remote, 0, 0, &old, -1) && old == 1 + WAITERS * ROUNDS);
    close_all();
}

/* The core's own thread sleeps for a started op whose completion is lost. */
static void canceled(void)
{
    dsm_op op = {.code = DSM_OP_FETCH_ADD, .nbytes = 8, .operand = 1};
    dsm_ticket *t;
    open_all("drop=2");
    op.remote = remote;
    __atomic_store_n(&held, true, __ATOMIC_SEQ_CST);
    CHECK(!dsm_start(user, &op, 1, &t, NULL) && !sem_wait(&asleep) && !sem_post(&poll_now));
    dsm_cancel(user);
    CHECK(dsm_completed(user) == t && dsm_finish(t, -1, NULL) == -DSM_EUNKNOWN);
    close_all();
}

/* An abort by another thread wakes whichever connection the batch sleeps on. */
static uint32_t stop;
static dsm_op aborted_ops[2];

static void *execute_two(void *rc)
{
    *(int *)rc = dsm_execute_as(user, aborted_ops, 2, &(dsm_choice){.stop = &stop}, -1, NULL);
    return NULL;
}

static void aborted(void)
{
    uint8_t d[DSM_DESC_MAX];
    pthread_t thread;
    dsm_remote *other;
    dsm_region *second;
    int rc = 0;
    open_all("drop=3");
    dsm_ctx *another = open_sleepy(NULL);
    CHECK(!dsm_alloc(another, 4096, 7, &second));
    CHECK(!dsm_attach(user, d, (size_t)dsm_region_descriptor(second, d), -1, &other));
    dsm_op add = {.code = DSM_OP_FETCH_ADD, .nbytes = 8, .operand = 1};
    for (int i = 0; i < 2; i++)
        aborted_ops[i] = add;
    aborted_ops[0].remote = other;
    aborted_ops[1].remote = remote;
    held = true;
    CHECK(!pthread_create(&thread, NULL, execute_two, &rc) && !sem_wait(&asleep));
    dsm_stop(user, aborted_ops, 2, &stop, NULL);
    CHECK(!sem_post(&poll_now) && !pthread_join(thread, NULL));
    CHECK(rc == -DSM_EUNKNOWN && !aborted_ops[0].status && aborted_ops[1].status == -DSM_EUNKNOWN);
    CHECK(!dsm_remote_close(other) && !dsm_region_close(second));
    dsm_close(another);
    close_all();
}

static void nothing(int number) { (void)number; }
static int at_once(void) { return 1; }

/* A signal ends the sleep at once, so that its handler can end the wait. */
static void interrupted(void)
{
    struct sigaction a = {.sa_handler = nothing};
    pthread_t thread;
    int rc = 0;
    open_all("drop=2");
    CHECK(!sigaction(SIGUSR1, &a, NULL));
    stop_time(true);
    dsm_set_interrupt(at_once);
    __atomic_store_n(&held, true, __ATOMIC_SEQ_CST);
    CHECK(!pthread_create(&thread, NULL, add_one, &rc) && !sem_wait(&asleep) && !sem_post(&poll_now));
    while (pthread_tryjoin_np(thread, NULL)) { /* the first may come before it polls */
        CHECK(!pthread_kill(thread, SIGUSR1));
        usleep(1000);
    }
    stop_time(false);
    CHECK(rc == -DSM_ETIME || rc == -DSM_EUNKNOWN);
    dsm_set_interrupt(NULL);
    close_all();
}

int main(void)
{
    alarm(60);
    reaped_by_another();
    connection_that_ends();
    owner_that_ends();
    one_after_another();
    canceled();
    aborted();
    interrupted();
    puts("ok");
    return 0;
}
