/* Who is dead, and who is not: zombies, lack of file descriptors, other namespaces, and newcomers that sweep the same entry. */
#include "base/process.h"
#include "check.h"
#include "proto/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t *shared;

/* Lives until it is killed; its identity is in shared[0]. */
static pid_t somebody(void)
{
    shared[0] = 0;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid) {
        uint64_t me;
        CHECK(!member_identity(true, &me));
        publish_u64(&shared[0], me);
        for (;;)
            pause();
    }
    while (!observe_u64(&shared[0]))
        usleep(100);
    return pid;
}

static void the_dead_are_dead(void)
{
    uint64_t me, far;
    CHECK(!member_identity(true, &me) && !member_identity(false, &far));
    CHECK(!member_dead(me) && !member_dead(far) && !member_dead(0));
    CHECK(member_dead(me ^ 1)); /* this pid, another start */
    pid_t pid = somebody();
    uint64_t other = shared[0];
    CHECK(other != me && !member_dead(other));
    CHECK(!kill(pid, SIGSTOP));
    CHECK(!member_dead(other)); /* stopped is not dead */
    siginfo_t info;
    CHECK(!kill(pid, SIGKILL) && !waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT));
    CHECK(member_dead(other)); /* a zombie is */
    CHECK(waitpid(pid, NULL, 0) == pid);
    CHECK(member_dead(other));
}

/* Where nothing can be read, nothing is proven. */
static void without_descriptors(void)
{
    struct rlimit old, none = {0};
    uint64_t me, start;
    CHECK(!member_identity(true, &me));
    pid_t pid = somebody();
    uint64_t other = shared[0];
    CHECK(!getrlimit(RLIMIT_NOFILE, &old));
    none.rlim_max = old.rlim_max;
    CHECK(!setrlimit(RLIMIT_NOFILE, &none));
    CHECK(process_started(pid, &start) == -1);
    bool living = member_dead(other), self = member_dead(me);
    CHECK(!kill(pid, SIGKILL) && waitpid(pid, NULL, 0) == pid);
    bool gone = member_dead(other);
    CHECK(!setrlimit(RLIMIT_NOFILE, &old));
    CHECK(!living && !self && gone);
}

/* A child of a new pid namespace has a pid that means somebody else, or nobody, here. */
static void other_namespace(void)
{
    pid_t helper = fork();
    CHECK(helper >= 0);
    if (!helper) {
        if (unshare(CLONE_NEWUSER | CLONE_NEWPID) && unshare(CLONE_NEWPID))
            _exit(77);
        pid_t pid = somebody(); /* sees the /proc of outside: can't be told by its pid */
        uint64_t me;
        bool good = shared[0] >> 63 && !member_dead(shared[0]);
        CHECK(!member_identity(true, &me));
        publish_u64(&shared[1], me);
        kill(pid, SIGKILL);
        _exit(good ? 0 : 1);
    }
    int status;
    CHECK(waitpid(helper, &status, 0) == helper && WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        puts("left out: no new pid namespace can be made here");
    else
        CHECK(!WEXITSTATUS(status));
    uint64_t me;
    CHECK(!member_identity(true, &me));
    uint64_t tag = 1ull << 27; /* a process of another namespace, with a pid that nobody has here */
    uint64_t nobody = (4194303ull << 41) | (me & ((1ull << 41) - 1));
    CHECK(member_dead(nobody) && !member_dead(nobody ^ tag));
}

/* ---- succession ---- */

static dsm_remote *object;

static dsm_remote *lock_of(uint32_t members)
{
    dsm_remote *r;
    uint64_t n = dsm_sync_bytes(DSM_LOCK, members, 0);
    int fd = memfd_create("members", MFD_CLOEXEC);
    CHECK(fd >= 0 && !ftruncate(fd, (off_t)n));
    CHECK(!dsm_map(fd, n, DSM_READ | DSM_WRITE | DSM_ATOMIC, &r));
    CHECK(!dsm_sync_format(dsm_remote_near(r), DSM_LOCK, members, 0, 0));
    close(fd);
    return r;
}

static uint64_t dead_identity(void)
{
    pid_t pid = somebody();
    CHECK(!kill(pid, SIGKILL) && waitpid(pid, NULL, 0) == pid);
    return shared[0];
}

static uint64_t *at(uint64_t offset) { return (uint64_t *)dsm_remote_near(object) + offset / 8; }

/* The quick one succeeds the dead and takes the lock while the slow one, who began first, is about to undo. */
static void slow_sweeper(void)
{
    dsm_lock *quick;
    object = lock_of(1);
    uint64_t dead = dead_identity(), old = 0;
    CHECK(!dsm_compare_swap(object, SYNC_TABLE, 0, dead, &old, -1));
    CHECK(!dsm_compare_swap(object, SYNC_WORD, 0, 7ull << LOCK_TOKEN_SHIFT | LOCK_HELD, &old, -1));
    CHECK(!dsm_lock_open(object, 0, &quick));
    CHECK(*at(SYNC_WORD) == (7ull << LOCK_TOKEN_SHIFT | LOCK_NEWS));
    CHECK(dsm_lock_acquire(quick, 0) == 1 && dsm_lock_token(quick) == 8 && dsm_lock_recovered(quick));
    CHECK(lock_sweep(object, 0, dead) == 0);
    CHECK(*at(SYNC_WORD) & LOCK_HELD);
    CHECK(!dsm_lock_release(quick) && !*at(SYNC_WORD + 8));
    dsm_lock_close(quick);
    CHECK(!dsm_remote_close(object));
}

static void scribbles(void)
{
    dsm_lock *l, *second;
    uint64_t old = 0;
    object = lock_of(2);
    CHECK(!dsm_lock_open(object, 0, &l));
    CHECK(!dsm_compare_swap(object, SYNC_WORD, 0, LOCK_HELD | 700, &old, -1)); /* a member that can't be */
    CHECK(dsm_lock_acquire(l, 1000000000) == -DSM_ECORRUPT);
    dsm_lock_close(l);
    CHECK(!dsm_lock_open(object, 0, &l));
    CHECK(!dsm_compare_swap(object, SYNC_WORD, LOCK_HELD | 700, LOCK_HELD | 1, &old, -1)); /* nobody is member 1 */
    CHECK(dsm_lock_acquire(l, 1000000000) == -DSM_ECORRUPT);
    CHECK(!dsm_lock_open(object, 0, &second) && dsm_lock_open(object, 0, &second) == -DSM_EMEMBERS);
    dsm_lock_close(second);
    dsm_lock_close(l);
    CHECK(!dsm_remote_close(object));
    object = lock_of(2);
    CHECK(!dsm_write(object, SYNC_SHAPE, &(uint32_t){3000000000u}, 4, -1));
    CHECK(dsm_lock_open(object, 0, &l) == -DSM_ECORRUPT);
    CHECK(!dsm_remote_close(object));
}

int main(void)
{
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    the_dead_are_dead();
    without_descriptors();
    other_namespace();
    slow_sweeper();
    scribbles();
    puts("ok");
    return 0;
}
