/*
 * Kills a process after every instruction of taking and releasing a lock, and checks what the survivors find.
 *
 * After each kill: a newcomer gets the lock at once, or a waiter that slept meanwhile gets it within LIMIT_NS; the
 * token has grown by one; 'recovered' is set exactly if the dead process held the lock, or if the word had owner_died
 * set for the next holder. Exit status 77: this kernel does not allow ptrace here.
 */
#include "objects/sync/lock.h"
#include "stepper.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

enum { MEMBERS = 6 };
#define LIMIT_NS 2000000000ll

#define CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: %s, %s after %llu steps (%s)\n", __FILE__, __LINE__, #x, scene, \
                    (unsigned long long)point, dsm_last_error()->detail); \
            abort(); \
        } \
    } while (0)

static const char *scene = "";
static uint64_t point; /* how many steps the victim has made */
static int file;
static uint64_t nbytes;
static dsm_remote *own;

struct shared {
    uint64_t got, token, recovered, asleep; /* by the waiter */
} * shared;

static dsm_remote *reach(void)
{
    dsm_remote *r;
    CHECK(!dsm_map(file, nbytes, DSM_READ | DSM_WRITE | DSM_ATOMIC, &r));
    return r;
}

static dsm_lock *lock_of(dsm_remote *r)
{
    dsm_lock *l;
    CHECK(!dsm_lock_open(r, 0, &l));
    return l;
}

static uint64_t word(void) { return load_acquire_u64((uint64_t *)dsm_remote_mapped(own) + SYNC_WORD / 8); }

static void make(void)
{
    nbytes = dsm_sync_bytes(DSM_LOCK, MEMBERS, 0);
    file = memfd_create("lock", 0);
    CHECK(file >= 0 && !ftruncate(file, (off_t)nbytes));
    own = reach();
    CHECK(!dsm_sync_format(dsm_remote_mapped(own), DSM_LOCK, MEMBERS, 0, 0));
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
}

/* What a newcomer finds. Its handle is new, so it may check at once whether the holder is alive. */
static void survive(void)
{
    uint64_t before = word();
    bool owner_died = before & (LOCK_HELD | LOCK_OWNER_DIED);
    dsm_lock *l = lock_of(own);
    uint64_t joined = word(); /* joining may have undone what the dead process left */
    CHECK(lock_token(joined) == lock_token(before));
    CHECK(joined == before || joined == (lock_freed(before) | LOCK_OWNER_DIED));
    CHECK(dsm_lock_acquire(l, 0) == 1);
    CHECK(dsm_lock_token(l) == lock_token(before) + 1);
    CHECK(dsm_lock_recovered(l) == owner_died);
    CHECK(!dsm_lock_release(l) && !(word() & (LOCK_HELD | LOCK_OWNER_DIED)));
    dsm_lock_close(l);
}

/* ---- victims ---- */

static int takes_and_releases(void *arg)
{
    (void)arg;
    dsm_lock *l = lock_of(reach());
    stepper_mark();
    CHECK(dsm_lock_acquire(l, 0) == 1 && !dsm_lock_release(l));
    stepper_mark();
    return 0;
}

static int does_it_all(void *arg)
{
    (void)arg;
    dsm_remote *r = reach();
    stepper_mark();
    dsm_lock *l = lock_of(r);
    CHECK(dsm_lock_acquire(l, 0) == 1 && !dsm_lock_release(l));
    dsm_lock_close(l);
    stepper_mark();
    return 0;
}

static int dies_as_a_holder(void *arg)
{
    (void)arg;
    dsm_lock *l = lock_of(reach());
    CHECK(dsm_lock_acquire(l, 0) == 1);
    stepper_mark();
    CHECK(!dsm_lock_release(l));
    stepper_mark();
    return 0;
}

static int waits(void *arg)
{
    (void)arg;
    dsm_lock *l = lock_of(reach());
    stepper_mark();
    CHECK(dsm_lock_acquire(l, -1) == 1 && !dsm_lock_release(l));
    stepper_mark();
    return 0;
}

/* ---- scenes ---- */

/* Kills a new victim after 'first', first + stride… steps, as long as there are some. */
static uint64_t sweep(int (*victim)(void *), uint64_t stride, uint64_t most, void (*before)(void), void (*after)(void))
{
    uint64_t points = 0;
    bool inside = true;
    for (point = 0; inside && point < most; point += stride) {
        struct stepper s;
        if (before)
            before();
        if (!stepper_start(&s, victim, NULL))
            exit(77);
        inside = stepper_step(&s, point);
        stepper_kill(&s);
        after();
        points++;
    }
    printf("%s: killed at %llu points of %llu instructions\n", scene, (unsigned long long)points,
           (unsigned long long)point);
    return points;
}

static pid_t sleeper;

/* A process that takes the lock once, sleeping until it can, and says so. */
static void begin_waiter(void)
{
    memset(shared, 0, sizeof *shared);
    fflush(NULL);
    sleeper = fork();
    CHECK(sleeper >= 0);
    if (sleeper)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dsm_lock *l = lock_of(reach());
    store_release_u64(&shared->asleep, 1);
    CHECK(dsm_lock_acquire(l, -1) == 1);
    shared->token = dsm_lock_token(l);
    shared->recovered = (uint64_t)dsm_lock_recovered(l);
    CHECK(!dsm_lock_release(l));
    store_release_u64(&shared->got, 1);
    dsm_lock_close(l);
    _exit(0);
}

static bool happens(const uint64_t *flag)
{
    int64_t until = clock_ns() + LIMIT_NS;
    while (!load_acquire_u64(flag) && clock_ns() < until)
        usleep(200);
    return load_acquire_u64(flag);
}

static void until_it_sleeps(void)
{
    char path[64], text[512];
    CHECK(happens(&shared->asleep));
    snprintf(path, sizeof path, "/proc/%d/stat", sleeper);
    for (int64_t until = clock_ns() + LIMIT_NS;;) {
        FILE *f = fopen(path, "r");
        CHECK(f && fgets(text, sizeof text, f));
        fclose(f);
        if (strrchr(text, ')')[2] == 'S')
            return;
        CHECK(clock_ns() < until);
        usleep(100);
    }
}

static void end_waiter(void)
{
    CHECK(happens(&shared->got));
    CHECK(waitpid(sleeper, NULL, 0) == sleeper);
}

/* The victim holds the lock, another process sleeps on it, the victim is killed in its release. */
static void release_under_a_sleeper(uint64_t stride)
{
    struct stepper s;
    bool inside = true;
    uint64_t points = 0;
    scene = "release under a sleeper";
    for (point = 0; inside; point += stride, points++) {
        if (!stepper_start(&s, dies_as_a_holder, NULL))
            exit(77);
        uint64_t held = word();
        begin_waiter();
        until_it_sleeps();
        inside = stepper_step(&s, point);
        bool released = word() != held;
        stepper_kill(&s);
        end_waiter();
        CHECK(shared->token == lock_token(held) + 1);
        CHECK(shared->recovered == !released);
    }
    printf("%s: killed at %llu points of %llu instructions\n", scene, (unsigned long long)points,
           (unsigned long long)point);
}

/* This process holds the lock, two wait, one of which is killed at some point of it; the other one gets it. */
static void waiters_die(uint64_t stride, uint64_t most)
{
    uint64_t points = 0;
    scene = "a waiter dies";
    for (point = 0; point < most; point += stride, points++) {
        struct stepper s;
        dsm_lock *l = lock_of(own);
        CHECK(dsm_lock_acquire(l, 0) == 1);
        uint64_t held = word();
        begin_waiter();
        until_it_sleeps();
        if (!stepper_start(&s, waits, NULL))
            exit(77);
        CHECK(stepper_step(&s, point));
        CHECK(word() == held);
        if (points & 1) { /* killed before the release, or after it without having run */
            stepper_kill(&s);
            CHECK(!dsm_lock_release(l));
        } else {
            CHECK(!dsm_lock_release(l));
            stepper_kill(&s);
        }
        end_waiter();
        CHECK(shared->token == lock_token(held) + 1 && !shared->recovered);
        dsm_lock_close(l);
    }
    printf("%s: killed at %llu points of %llu instructions\n", scene, (unsigned long long)points,
           (unsigned long long)point);
}

int main(int argc, char **argv)
{
    bool quick = argc > 1 && !strcmp(argv[1], "--quick");
    make();
    scene = "take and release";
    sweep(takes_and_releases, 1, UINT64_MAX, NULL, survive);
    scene = "open, take, release, close";
    sweep(does_it_all, quick ? 31 : 5, UINT64_MAX, NULL, survive);
    release_under_a_sleeper(quick ? 17 : 1);
    waiters_die(quick ? 29 : 3, 900);
    puts("ok");
    return 0;
}
