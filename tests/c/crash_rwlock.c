/*
 * Kills a process after every instruction of breaking what a holder has of a reader-writer lock: two readers' words and
 * the writer's. Each word is changed separately, so a process that dies in between leaves a holder that has less.
 * Breaking it once more takes the rest, and others go on.
 * Exit status 77: this kernel does not allow ptrace here.
 */
#include "objects/sync/lock.h"
#include "stepper.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

enum { MEMBERS = 8, READERS = 2 };
#define LIMIT_NS 2000000000ll

#define CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: %s after %llu steps (%s)\n", __FILE__, __LINE__, #x, (unsigned long long)point, \
                    dsm_last_error()->detail); \
            abort(); \
        } \
    } while (0)

static uint64_t point; /* how many steps the victim has made */
static int file;
static uint64_t nbytes, holder;
static dsm_remote *own;

static dsm_remote *reach(void)
{
    dsm_remote *r;
    CHECK(!dsm_map(file, nbytes, DSM_READ | DSM_WRITE | DSM_ATOMIC, &r));
    return r;
}

static dsm_rwlock *rwlock_of(dsm_remote *r)
{
    dsm_rwlock *rw;
    CHECK(!dsm_rwlock_open(r, 0, &rw));
    return rw;
}

static void make(void)
{
    nbytes = dsm_sync_bytes(DSM_RWLOCK, MEMBERS, 0);
    file = memfd_create("rwlock", MFD_CLOEXEC);
    CHECK(file >= 0 && !ftruncate(file, (off_t)nbytes));
    own = reach();
    CHECK(!dsm_sync_format(dsm_remote_mapped(own), DSM_RWLOCK, MEMBERS, 0, 0));
}

/* A process that reads with two handles, has claimed the writer's word with a third one, and stays alive. */
static pid_t hold(void)
{
    int ready[2];
    CHECK(!pipe(ready));
    pid_t pid = fork();
    if (!pid) {
        uint64_t me;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dsm_remote *r = reach();
        for (int i = 0; i < READERS; i++)
            CHECK(dsm_rwlock_read(rwlock_of(r), 0) == 1);
        CHECK(dsm_rwlock_claim(rwlock_of(r), 0) == 1);
        CHECK(!dsm_lock_holder(dsm_rwlock_lock(rwlock_of(r)), &me) && write(ready[1], &me, sizeof me) == sizeof me);
        for (;;)
            pause();
    }
    CHECK(pid > 0 && read(ready[0], &holder, sizeof holder) == sizeof holder && holder);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static int breaks(void *arg)
{
    (void)arg;
    dsm_rwlock *rw = rwlock_of(reach());
    stepper_mark();
    CHECK(dsm_rwlock_break(rw, holder) == 1);
    stepper_mark();
    return 0;
}

/* How many words the holder has left. */
static int left(dsm_rwlock *rw)
{
    uint64_t readers[MEMBERS], writer;
    int n = dsm_rwlock_inside(rw, readers);
    CHECK(n >= 0 && !dsm_lock_holder(dsm_rwlock_lock(rw), &writer));
    return n + (writer == holder);
}

static int survive(void)
{
    dsm_rwlock *rw = rwlock_of(own);
    int had = left(rw);
    CHECK(dsm_rwlock_break(rw, holder) == (had > 0) && !left(rw));
    CHECK(dsm_rwlock_claim(rw, LIMIT_NS) == 1 && dsm_rwlock_drain(rw, LIMIT_NS) == 1);
    CHECK(dsm_lock_recovered(dsm_rwlock_lock(rw)));
    CHECK(!dsm_rwlock_unclaim(rw, 0));
    CHECK(dsm_rwlock_read(rw, LIMIT_NS) == 1 && !dsm_rwlock_unread(rw));
    CHECK(!dsm_rwlock_leave(rw));
    dsm_rwlock_close(rw);
    return had;
}

int main(int argc, char **argv)
{
    uint64_t stride = argc > 1 && !strcmp(argv[1], "--full") ? 1 : 37, points = 0;
    bool inside = true, seen[READERS + 2] = {false};
    make();
    for (point = 0; inside; point += stride, points++) {
        struct stepper s;
        pid_t pid = hold();
        if (!stepper_start(&s, breaks, NULL))
            exit(77);
        inside = stepper_step(&s, point);
        stepper_kill(&s);
        seen[survive()] = true;
        CHECK(!kill(pid, SIGKILL) && waitpid(pid, NULL, 0) == pid);
    }
    for (int i = 0; i <= READERS + 1; i++)
        CHECK(seen[i]);
    printf("breaking: killed at %llu points of %llu instructions\n", (unsigned long long)points,
           (unsigned long long)point);
    return 0;
}
