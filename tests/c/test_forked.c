/*
 * A child of fork has copies of its parent's handles: calls with one of them are refused, and change nothing in the
 * shared memory. No socket of the parent stays open in the child, and the parent goes on as before.
 */
#include "check.h"
#include "context.h"
#include "objects.h"

#include <dirent.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MEMBERS = 4 };
#define REFUSED(call) CHECK((call) == -DSM_EFORK)
/* A call that may also answer that there is nothing to do. */
#define NOTHING(call) CHECK(nothing_done(call))

static bool nothing_done(int rc) { return rc == 0 || rc == -DSM_ENOTHELD || rc == -DSM_EFORK; }

/* Runs in the child. */
static void in_child(void (*use)(void *), void *handle)
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        alarm(30);
        use(handle);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && !status);
}

/* ---- contexts ---- */

static int sockets(void)
{
    char link[300], to[300];
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    CHECK(d);
    for (struct dirent *e; (e = readdir(d));) {
        snprintf(link, sizeof link, "/proc/self/fd/%s", e->d_name);
        ssize_t got = readlink(link, to, sizeof to - 1);
        n += got > 7 && !memcmp(to, "socket:", 7);
    }
    closedir(d);
    return n;
}

struct world {
    dsm_ctx *owner, *user;
    dsm_region *region;
    dsm_remote *remote;
    dsm_ticket *ticket;
    dsm_op op;
    int sockets; /* before there were contexts */
    uint8_t descriptor[DSM_DESC_MAX];
    int length;
};

static void use_world(void *arg)
{
    struct world *w = arg;
    uint8_t node[DSM_NODE_ID] = {1}, d[DSM_DESC_MAX];
    uint64_t word = 1, at = 0;
    dsm_region *region;
    dsm_remote *remote;
    dsm_ticket *t;
    CHECK(sockets() == w->sockets);
    CHECK(dsm_forked(w->user) && dsm_forked(w->owner));
    REFUSED(dsm_read(w->remote, 0, &word, 8, -1));
    REFUSED(dsm_write(w->remote, 0, &word, 8, -1));
    REFUSED(dsm_fetch_add(w->remote, 0, 1, &word, -1));
    REFUSED(dsm_compare_swap(w->remote, 0, 0, 1, &word, -1));
    REFUSED(dsm_read_many(w->remote, &at, 1, &word, 8, -1));
    REFUSED(dsm_write_many(w->remote, &at, 1, &word, 8, -1));
    REFUSED(dsm_execute(w->user, &w->op, 1, -1, NULL));
    REFUSED(dsm_execute(w->user, &w->op, 0, -1, NULL));
    REFUSED(dsm_submit(w->user, &w->op, 1, &t, NULL));
    REFUSED(dsm_start(w->user, &w->op, 1, &t, NULL));
    REFUSED(dsm_finish(w->ticket, -1, NULL));
    REFUSED(dsm_event_fd(w->user));
    REFUSED(dsm_alloc(w->owner, 4096, 7, &region));
    REFUSED(dsm_attach(w->user, w->descriptor, (size_t)w->length, -1, &remote));
    REFUSED(dsm_region_descriptor(w->region, d));
    REFUSED(dsm_fence(w->owner, node));
    CHECK(!dsm_completed(w->user));
    CHECK(!dsm_remote_close(w->remote) && !dsm_region_close(w->region));
    dsm_close(w->user);
    dsm_close(w->owner);
}

static void contexts(const char *fault)
{
    struct world w = {.sockets = sockets()};
    uint64_t old;
    w.owner = open_context(NULL);
    w.user = open_context(fault);
    CHECK(!dsm_alloc(w.owner, 4096, 7, &w.region));
    w.length = dsm_region_descriptor(w.region, w.descriptor);
    CHECK(!dsm_attach(w.user, w.descriptor, (size_t)w.length, -1, &w.remote));
    w.op = (dsm_op){.code = DSM_OP_FETCH_ADD, .remote = w.remote, .nbytes = 8, .operand = 1};
    CHECK(!dsm_submit(w.user, &w.op, 1, &w.ticket, NULL));
    in_child(use_world, &w);
    CHECK(!dsm_finish(w.ticket, -1, NULL));
    CHECK(!dsm_fetch_add(w.remote, 0, 1, &old, -1) && old == 1); /* what the child did has changed nothing */
    CHECK(!dsm_remote_close(w.remote) && !dsm_region_close(w.region));
    dsm_close(w.user);
    dsm_close(w.owner);
}

/* ---- objects: each is held by the parent where it can be held ---- */

static void use_lock(void *l)
{
    uint64_t found;
    REFUSED(dsm_lock_acquire(l, 0));
    REFUSED(dsm_lock_release(l));
    REFUSED(dsm_lock_release_unused(l));
    REFUSED(dsm_lock_locked(l));
    REFUSED(dsm_lock_holder(l, &found));
    REFUSED(dsm_lock_break(l, 1));
    dsm_lock_leave(l);
    dsm_lock_close(l);
}

static void use_rwlock(void *rw)
{
    uint64_t found[1024];
    REFUSED(dsm_rwlock_read(rw, 0));
    REFUSED(dsm_rwlock_unread(rw));
    REFUSED(dsm_rwlock_claim(rw, 0));
    REFUSED(dsm_rwlock_drain(rw, 0));
    NOTHING(dsm_rwlock_unclaim(rw, 0));
    REFUSED(dsm_rwlock_inside(rw, found));
    REFUSED(dsm_rwlock_break(rw, 1));
    dsm_rwlock_leave(rw);
    dsm_rwlock_close(rw);
}

static void use_semaphore(void *m)
{
    uint64_t values[8];
    REFUSED(dsm_semaphore_acquire(m, 0));
    REFUSED(dsm_semaphore_release(m, 1));
    REFUSED(dsm_semaphore_value(m));
    REFUSED(dsm_semaphore_holders(m, values));
    REFUSED(dsm_semaphore_break(m, 1));
    dsm_semaphore_leave(m);
    dsm_semaphore_close(m);
}

static void use_counting(void *c)
{
    REFUSED(dsm_counting_acquire(c, 0));
    REFUSED(dsm_counting_release(c, 1));
    REFUSED(dsm_counting_value(c));
    dsm_counting_close(c);
}

static void use_event(void *e)
{
    uint64_t since = DSM_EVENT_NOW;
    REFUSED(dsm_event_set(e));
    REFUSED(dsm_event_clear(e));
    REFUSED(dsm_event_is_set(e));
    REFUSED(dsm_event_wait(e, &since, 0));
    dsm_event_close(e);
}

static void use_condition(void *c)
{
    dsm_waiter w;
    REFUSED(dsm_condition_notify(c, 1));
    REFUSED(dsm_condition_begin(c, &w));
    dsm_condition_leave(c);
    dsm_condition_close(c);
}

static void use_barrier(void *b)
{
    uint64_t generation = DSM_BARRIER_ANY, found[8];
    uint32_t index;
    int broken;
    REFUSED(dsm_barrier_arrive(b, 1, 0, &generation, &index));
    REFUSED(dsm_barrier_finish(b, 0));
    REFUSED(dsm_barrier_wait(b, 0, 0));
    REFUSED(dsm_barrier_break(b, DSM_BARRIER_ANY));
    REFUSED(dsm_barrier_reset(b));
    REFUSED(dsm_barrier_waiting(b, &broken));
    REFUSED(dsm_barrier_waiters(b, found));
    REFUSED(dsm_barrier_evict(b, 1));
    dsm_barrier_leave(b);
    dsm_barrier_close(b);
}

static void use_once(void *o)
{
    REFUSED(dsm_once_begin(o, 0));
    REFUSED(dsm_once_end(o, 1));
    REFUSED(dsm_once_done(o));
    dsm_once_leave(o);
    dsm_once_close(o);
}

static void use_queue(void *q)
{
    const void *payload;
    void *out;
    uint64_t length, found[8];
    uint8_t kind;
    dsm_queue_counts counts;
    NOTHING(dsm_queue_produce(q));
    NOTHING(dsm_queue_consume(q));
    REFUSED(dsm_queue_push(q, "message", 8, 1));
    REFUSED(dsm_queue_push_parts(q, &(dsm_queue_part){"message", 8}, 1, 1));
    REFUSED(dsm_queue_push_records(q, "message", 1, 8));
    REFUSED(dsm_queue_reserve(q, 8, &out));
    NOTHING(dsm_queue_flush(q));
    REFUSED(dsm_queue_next(q, &payload, &length, &kind));
    REFUSED(dsm_queue_pop_records(q, &length, 1, 8));
    REFUSED(dsm_queue_wait_room(q, 8, 0, 0, -1));
    REFUSED(dsm_queue_wait_item(q, 0, 0, -1));
    REFUSED(dsm_queue_count(q, &counts));
    REFUSED(dsm_queue_shutdown(q, 0));
    REFUSED(dsm_queue_producers(q, found));
    REFUSED(dsm_queue_consumer(q, found));
    REFUSED(dsm_queue_break(q, 1));
    dsm_queue_leave(q);
    dsm_queue_free(q);
}

/* Changes nothing in the memory. */
static void refused_all(dsm_remote *r, void (*use)(void *), void *handle)
{
    static uint8_t before[1 << 20];
    size_t n = dsm_remote_nbytes(r);
    CHECK(n <= sizeof before);
    memcpy(before, dsm_remote_mapped(r), n);
    in_child(use, handle);
    CHECK(!memcmp(before, dsm_remote_mapped(r), n));
}

static void locks(void)
{
    dsm_lock *l;
    dsm_remote *r = object_of(DSM_LOCK, MEMBERS, 0);
    CHECK(!dsm_lock_open(r, -1, &l) && dsm_lock_acquire(l, 0) == 1);
    refused_all(r, use_lock, l);
    CHECK(!dsm_lock_release(l));

    dsm_rwlock *rw;
    r = object_of(DSM_RWLOCK, MEMBERS, 0);
    CHECK(!dsm_rwlock_open(r, -1, &rw) && dsm_rwlock_read(rw, 0) == 1);
    refused_all(r, use_rwlock, rw);
    CHECK(!dsm_rwlock_unread(rw) && dsm_rwlock_claim(rw, 0) == 1 && dsm_rwlock_drain(rw, 0) == 1);
    refused_all(r, use_rwlock, rw);
    CHECK(!dsm_rwlock_unclaim(rw, 0));

    dsm_semaphore *m;
    r = object_of(DSM_SEMAPHORE, 0, 4);
    CHECK(!dsm_semaphore_open(r, -1, &m) && dsm_semaphore_acquire(m, 0) == 1);
    refused_all(r, use_semaphore, m);
    CHECK(!dsm_semaphore_release(m, 1));

    dsm_counting *c;
    r = object_of(DSM_COUNTING, 0, 2);
    CHECK(!dsm_counting_open(r, -1, &c));
    refused_all(r, use_counting, c);
}

static void meetings(void)
{
    dsm_event *e;
    dsm_remote *r = object_of(DSM_EVENT, 0, 0);
    CHECK(!dsm_event_open(r, -1, &e));
    refused_all(r, use_event, e);

    dsm_condition *condition;
    r = object_of(DSM_CONDITION, MEMBERS, 4);
    CHECK(!dsm_condition_open(r, NULL, -1, &condition));
    CHECK(dsm_lock_acquire(dsm_condition_lock(condition), 0) == 1);
    refused_all(r, use_condition, condition);
    CHECK(!dsm_lock_release(dsm_condition_lock(condition)));

    dsm_barrier *b;
    uint64_t generation;
    uint32_t index;
    r = object_of(DSM_BARRIER, MEMBERS, 2);
    CHECK(!dsm_barrier_open(r, -1, &b) && dsm_barrier_arrive(b, 1, 0, &generation, &index) == 1);
    refused_all(r, use_barrier, b);
    CHECK(dsm_barrier_arrive(b, 1, 0, &generation, &index) == 2);

    dsm_once *o;
    r = object_of(DSM_ONCE, MEMBERS, 0);
    CHECK(!dsm_once_open(r, -1, &o) && dsm_once_begin(o, 0) == DSM_ONCE_RUN);
    refused_all(r, use_once, o);
    CHECK(!dsm_once_end(o, 1));
}

static void queues(void)
{
    dsm_queue *q;
    dsm_queue_config shape = {.lanes = 2, .lane_bytes = 4096, .max_message = 64};
    dsm_remote *r = memory_of(dsm_queue_nbytes(&shape));
    CHECK(!dsm_queue_format(dsm_remote_mapped(r), &shape));
    CHECK(!dsm_queue_open(r, NULL, &q) && !dsm_queue_produce(q) && !dsm_queue_push(q, "message", 8, 1));
    CHECK(!dsm_queue_flush(q) && !dsm_queue_consume(q));
    refused_all(r, use_queue, q);
    CHECK(!dsm_queue_close(q));
}

/* Handles that the parent has not closed are freed by its end. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0"; }

int main(void)
{
    contexts(NULL);
    contexts("");
    locks();
    meetings();
    queues();
    puts("ok");
    return 0;
}
