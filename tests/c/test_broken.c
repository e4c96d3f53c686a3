/*
 * Stops the holder of an object's lock before and after each change that it makes to the object, breaks it, lets others
 * go on, and then lets it go on too. It must not change what belongs to others by then, and its call must fail. Or
 * kills it there. If the kernel does not allow ptrace, the program only says so.
 */
#include "check.h"
#include "objects.h"
#include "objects/sync/lock.h"
#include "stepper.h"

#include <sys/mman.h>

enum { MEMBERS = 6, PARTIES = 3, LINES = 4, CHANGES = 64 };
#define LIMIT_NS 20000000000ll

static int file = -1;
static uint64_t nbytes;
static dsm_remote *own;
static uint64_t self;

static dsm_remote *reach(void) { return map_of(file, nbytes); }

static void make(int type, uint32_t members, uint32_t count)
{
    nbytes = dsm_sync_bytes(type, members, count);
    file = memfd_create("object", 0);
    CHECK(file >= 0 && !ftruncate(file, (off_t)nbytes));
    own = reach();
    CHECK(!dsm_sync_format(dsm_remote_mapped(own), type, members, count, 0));
}

static void unmake(void)
{
    dsm_remote_close(own);
    close(file);
}

static void begin(struct stepper *s, int (*body)(void *))
{
    if (stepper_start(s, body, NULL))
        return;
    puts("this kernel allows no ptrace here\nok");
    exit(0);
}

/* ---- where it may stop ---- */

struct scene {
    const char *name;
    void (*prepare)(void);
    int (*victim)(void *);
    void (*meanwhile)(struct stepper *s); /* it has stopped */
    void (*clear)(void);
};

/* Numbers of instructions: before the first one, and before and after each change of the object. */
static int points_of(const struct scene *scene, uint64_t points[2 * CHANGES])
{
    struct stepper s;
    uint8_t *copy = malloc(nbytes);
    int n = 0;
    begin(&s, scene->victim);
    points[n++] = 0;
    while (n + 2 < 2 * CHANGES && stepper_change(&s, dsm_remote_mapped(own), copy, nbytes)) {
        points[n++] = s.steps - 1;
        points[n++] = s.steps;
    }
    CHECK(n > 2 && n + 2 < 2 * CHANGES);
    stepper_kill(&s);
    free(copy);
    return n;
}

static void play(const struct scene *scene)
{
    uint64_t points[2 * CHANGES];
    int n = 1;
    for (int i = -1; i < n; i++) { /* the first round counts */
        scene->prepare();
        if (i < 0) {
            n = points_of(scene, points);
        } else {
            struct stepper s;
            begin(&s, scene->victim);
            stepper_step(&s, points[i]);
            scene->meanwhile(&s);
            if (s.pid)
                stepper_kill(&s);
        }
        scene->clear();
    }
    printf("%s: %d points\n", scene->name, n);
}

static int goes_on(struct stepper *s)
{
    stepper_release(s);
    return stepper_join(s);
}

/* ---- once ---- */

static dsm_once *once;

static dsm_once *once_of(dsm_remote *r)
{
    dsm_once *o;
    CHECK(!dsm_once_open(r, 0, &o));
    return o;
}

static void once_prepare(void)
{
    make(DSM_ONCE, MEMBERS, 0);
    once = once_of(own);
}

static void once_clear(void)
{
    dsm_once_close(once);
    unmake();
}

static int once_victim(void *arg)
{
    (void)arg;
    dsm_once *o = once_of(reach());
    CHECK(dsm_once_begin(o, 0) == DSM_ONCE_RUN);
    stepper_mark();
    int rc = dsm_once_end(o, 1);
    stepper_mark();
    return -rc;
}

/* The once is done only if a process ran it to its end and was not broken. */
static void once_broken(struct stepper *s)
{
    uint64_t holder;
    CHECK(!dsm_lock_holder(dsm_once_lock(once), &holder));
    if (!holder) {
        CHECK(dsm_once_done(once) == 1 && goes_on(s) == 0 && dsm_once_begin(once, 0) == DSM_ONCE_DONE);
        return;
    }
    CHECK(dsm_once_done(once) == 0 && dsm_lock_break(dsm_once_lock(once), holder) == 1);
    CHECK(dsm_once_begin(once, 0) == DSM_ONCE_RUN && goes_on(s) == DSM_ENOTHELD);
    CHECK(dsm_once_done(once) == 0 && !dsm_once_end(once, 0) && dsm_once_done(once) == 0);
    CHECK(dsm_once_begin(once, 0) == DSM_ONCE_RUN && !dsm_once_end(once, 1) && dsm_once_done(once) == 1);
}

/* ---- condition ---- */

static dsm_condition *condition;
static dsm_waiter early, late;

static dsm_condition *condition_of(dsm_remote *r)
{
    dsm_condition *c;
    CHECK(!dsm_condition_open(r, NULL, 0, &c));
    return c;
}

static dsm_lock *take(dsm_condition *c)
{
    CHECK(dsm_lock_acquire(dsm_condition_lock(c), LIMIT_NS) == 1);
    return dsm_condition_lock(c);
}

static void wait_begins(dsm_waiter *w)
{
    take(condition);
    CHECK(!dsm_condition_begin(condition, w));
}

static int wait_ends(dsm_waiter *w)
{
    dsm_lock *l = take(condition);
    int rc = dsm_condition_finish(w, 0);
    CHECK(!dsm_lock_release(l));
    return rc;
}

static void notify_one(void)
{
    dsm_lock *l = take(condition);
    CHECK(!dsm_condition_notify(condition, 1) && !dsm_lock_release(l));
}

static void condition_prepare(void)
{
    make(DSM_CONDITION, MEMBERS, LINES);
    condition = condition_of(own);
    wait_begins(&early);
}

static void condition_clear(void)
{
    dsm_condition_close(condition);
    unmake();
}

static bool break_holder(dsm_lock *l)
{
    uint64_t holder;
    CHECK(!dsm_lock_holder(l, &holder));
    return holder && dsm_lock_break(l, holder) == 1;
}

static int notifies(void *arg)
{
    (void)arg;
    dsm_condition *c = condition_of(reach());
    take(c);
    stepper_mark();
    int rc = dsm_condition_notify(c, UINT64_MAX);
    stepper_mark();
    return -rc;
}

/* Either the notify wakes the waiter as if it had not been broken, or it fails with ENOTHELD. */
static void notify_broken(struct stepper *s)
{
    bool at_once = !s->steps;
    CHECK(break_holder(dsm_condition_lock(condition)));
    int rc = goes_on(s);
    CHECK(rc == 0 || rc == DSM_ENOTHELD);
    CHECK(dsm_condition_wait(&early, 0) == !rc && wait_ends(&early) == !rc && (!at_once || rc));
}

/* By then the line belongs to a wait that began later. */
static void notify_late(struct stepper *s)
{
    CHECK(break_holder(dsm_condition_lock(condition)));
    notify_one();
    CHECK(wait_ends(&early) == 1);
    wait_begins(&late);
    CHECK(late.line == early.line);
    goes_on(s);
    CHECK(dsm_condition_wait(&late, 0) == 0 && wait_ends(&late) == 0);
}

static int begins(void *arg)
{
    (void)arg;
    dsm_waiter w;
    dsm_condition *c = condition_of(reach());
    take(c);
    stepper_mark();
    int rc = dsm_condition_begin(c, &w);
    stepper_mark();
    return -rc;
}

static void begin_broken(struct stepper *s)
{
    bool broken = break_holder(dsm_condition_lock(condition));
    wait_begins(&late);
    CHECK(goes_on(s) == (broken ? DSM_ENOTHELD : 0));
    CHECK(dsm_condition_wait(&late, 0) == 0 && dsm_condition_wait(&early, 0) == 0);
    notify_one();
    CHECK(wait_ends(&early) == 1 && wait_ends(&late) == 0);
}

static int finishes(void *arg)
{
    (void)arg;
    dsm_waiter w;
    dsm_condition *c = condition_of(reach());
    take(c);
    CHECK(!dsm_condition_begin(c, &w));
    take(c);
    stepper_mark();
    int rc = dsm_condition_finish(&w, 0);
    stepper_mark();
    return rc < 0 ? -rc : 100 + rc;
}

/* A notification that comes meanwhile is for one of the two: if the victim does not get it, or dies with it, the other
 * one gets it. */
static void finish_broken(struct stepper *s)
{
    CHECK(break_holder(dsm_condition_lock(condition)) && wait_ends(&early) == 0);
    wait_begins(&late);
    notify_one();
    int rc = goes_on(s);
    CHECK(rc == 101 || rc == 100 || rc == DSM_ENOTHELD);
    CHECK(!dsm_condition_wait(&late, rc == 101 ? 0 : LIMIT_NS) == (rc == 101));
    dsm_lock *l = take(condition);
    CHECK(dsm_condition_finish(&late, 1) == (rc != 101) && !dsm_lock_release(l));
}

/* ---- barrier ---- */

static dsm_barrier *barrier;
static uint64_t generation;
static struct stepper holds;
static uint64_t held_by;

static dsm_barrier *barrier_of(dsm_remote *r)
{
    dsm_barrier *b;
    CHECK(!dsm_barrier_open(r, 0, &b));
    return b;
}

static void come(int expected)
{
    uint32_t index;
    CHECK(dsm_barrier_arrive(barrier, 1, LIMIT_NS, &generation, &index) == expected);
}

static void barrier_make(uint32_t members)
{
    make(DSM_BARRIER, members, PARTIES);
    barrier = barrier_of(own);
    CHECK(!dsm_identity(&self));
}

static void barrier_prepare(void) { barrier_make(MEMBERS); }

static void barrier_prepare_full(void)
{
    barrier_make(2);
    come(1);
}

static void barrier_clear(void)
{
    dsm_barrier_close(barrier);
    unmake();
}

static int arrives(void *arg)
{
    (void)arg;
    uint64_t g;
    uint32_t index;
    dsm_barrier *b = barrier_of(reach());
    stepper_mark();
    int rc = dsm_barrier_arrive(b, 1, LIMIT_NS, &g, &index);
    stepper_mark();
    return rc < 0 ? -rc : 0;
}

static uint64_t last_waiter(void)
{
    uint64_t waiters[DSM_BARRIER_MOST + 1];
    int n = dsm_barrier_waiters(barrier, waiters);
    CHECK(n >= 0);
    return n && waiters[n - 1] != self ? waiters[n - 1] : 0;
}

static bool is_broken(void)
{
    int broken;
    CHECK(dsm_barrier_waiting(barrier, &broken) >= 0);
    return broken;
}

/* Others have arrived in a later generation: the barrier keeps their identities, and stays unbroken. */
static void arrive_broken(struct stepper *s)
{
    uint64_t waiters[DSM_BARRIER_MOST + 1], victim = last_waiter();
    if (!victim)
        return;
    CHECK(dsm_barrier_evict(barrier, victim) == 1 && is_broken() && !dsm_barrier_reset(barrier));
    come(1);
    come(1);
    goes_on(s);
    CHECK(dsm_barrier_waiters(barrier, waiters) == 2 && waiters[0] == self && waiters[1] == self && !is_broken());
    come(2);
}

/* Its entry of the member table goes to a newcomer, which only opens a handle. */
static void arrive_killed(struct stepper *s)
{
    bool there = last_waiter() != 0;
    stepper_kill(s);
    dsm_barrier *newcomer = barrier_of(own);
    if (there)
        CHECK(dsm_barrier_wait(barrier, generation, LIMIT_NS) == -DSM_EBROKEN);
    dsm_barrier_close(newcomer);
}

/* A holder is stopped with the lock, and a party waits; the victim breaks that holder. */
static void barrier_prepare_held(void)
{
    uint64_t word;
    barrier_prepare();
    come(1);
    begin(&holds, arrives);
    CHECK(stepper_change(&holds, dsm_remote_mapped(own) + SYNC_WORD, &word, sizeof word));
    held_by = last_waiter();
    CHECK(held_by);
}

static void barrier_clear_held(void)
{
    stepper_kill(&holds);
    barrier_clear();
}

static int breaks(void *arg)
{
    (void)arg;
    dsm_barrier *b = barrier_of(reach());
    stepper_mark();
    int rc = dsm_barrier_evict(b, held_by);
    stepper_mark();
    return rc < 0 ? -rc : 0;
}

static void breaker_killed(struct stepper *s)
{
    stepper_kill(s);
    int rc = dsm_barrier_evict(barrier, held_by);
    CHECK(rc >= 0 && dsm_barrier_wait(barrier, generation, LIMIT_NS) == -DSM_EBROKEN);
}

static void breaker_late(struct stepper *s)
{
    CHECK(dsm_barrier_evict(barrier, held_by) >= 0 && dsm_barrier_break(barrier, DSM_BARRIER_ANY) == 1);
    CHECK(!dsm_barrier_reset(barrier));
    come(1);
    CHECK(goes_on(s) == 0 && !is_broken());
    come(1);
    come(2);
}

int main(void)
{
    static const struct scene scenes[] = {
        {"a once ends", once_prepare, once_victim, once_broken, once_clear},
        {"a notify", condition_prepare, notifies, notify_broken, condition_clear},
        {"a notify, late", condition_prepare, notifies, notify_late, condition_clear},
        {"a wait begins", condition_prepare, begins, begin_broken, condition_clear},
        {"a wait ends", condition_prepare, finishes, finish_broken, condition_clear},
        {"a party comes", barrier_prepare, arrives, arrive_broken, barrier_clear},
        {"a party dies", barrier_prepare_full, arrives, arrive_killed, barrier_clear},
        {"a breaker dies", barrier_prepare_held, breaks, breaker_killed, barrier_clear_held},
        {"a breaker is late", barrier_prepare_held, breaks, breaker_late, barrier_clear_held},
    };
    for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++)
        play(&scenes[i]);
    puts("ok");
    return 0;
}
