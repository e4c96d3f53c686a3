/* Which processes are proven dead, and which are not: zombies, lack of file descriptors, other namespaces, and
 * newcomers that sweep the same entry. */
#include "base/atomic.h"
#include "check.h"
#include "objects.h"
#include "objects/sync/lock.h"
#include "spaces.h"
#include "stepper.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t *shared;

/* A process that a failed test leaves behind ends by itself, later than any run of this program is given up: on a slow
 * machine the tests must not see it end before. */
static _Noreturn void stay(void)
{
    alarm(1000);
    for (;;)
        pause();
}

/* Lives until it is killed; its identity is in shared[0]. */
static pid_t new_member(void)
{
    shared[0] = 0;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid) {
        uint64_t me;
        CHECK(!dsm_identity(&me));
        store_release_u64(&shared[0], me);
        stay();
    }
    while (!load_acquire_u64(&shared[0]))
        usleep(100);
    return pid;
}

static void end(pid_t pid) { CHECK(!kill(pid, SIGKILL) && waitpid(pid, NULL, 0) == pid); }

static void the_dead_are_dead(void)
{
    uint64_t me, again, remote;
    CHECK(!dsm_identity(&me) && !dsm_identity(&again) && !identity_random(&remote));
    CHECK(me == again && !(me >> 63) && remote >> 63 && !dsm_identity_provable());
    CHECK(!identity_ended(me) && !identity_ended(remote) && !identity_ended(0));
    CHECK(!identity_ended(me + 1) && !identity_ended(1)); /* numbers that no process was given */
    CHECK(identity_pid(me) == getpid() && !identity_pid(remote) && !identity_pid(me + 1));
    pid_t pid = new_member();
    uint64_t other = shared[0];
    CHECK(other != me && !identity_ended(other) && identity_pid(other) == pid);
    CHECK(!kill(pid, SIGSTOP));
    CHECK(!identity_ended(other)); /* stopped is not dead */
    siginfo_t info;
    CHECK(!kill(pid, SIGKILL) && !waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT));
    CHECK(identity_ended(other)); /* a zombie is */
    CHECK(waitpid(pid, NULL, 0) == pid);
    CHECK(identity_ended(other));
}

/* A process that has used objects can still prove deaths, with what it has opened. */
static void without_descriptors(void)
{
    struct rlimit old, none = {0};
    uint64_t me;
    CHECK(!dsm_identity(&me));
    pid_t pid = new_member();
    uint64_t other = shared[0];
    CHECK(!getrlimit(RLIMIT_NOFILE, &old));
    none.rlim_max = old.rlim_max;
    CHECK(!setrlimit(RLIMIT_NOFILE, &none));
    bool living = identity_ended(other), self = identity_ended(me);
    end(pid);
    bool gone = identity_ended(other);
    CHECK(!setrlimit(RLIMIT_NOFILE, &old));
    CHECK(!living && !self && gone);
}

/* Runs body in a child, which may change its environment. Status 77: the environment did not allow that. */
static bool apart(const char *what, int (*body)(void))
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid)
        _exit(body());
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        printf("left out: %s can't be had here\n", what);
    else if (WEXITSTATUS(status))
        fprintf(stderr, "%s: line %d\n", what, WEXITSTATUS(status));
    CHECK(!WEXITSTATUS(status) || WEXITSTATUS(status) == 77);
    return !WEXITSTATUS(status);
}

/* For a body: the line number says what failed. */
#define SAY(x) \
    do { \
        if (!(x)) \
            return __LINE__ % 256 ? __LINE__ % 256 : 1; \
    } while (0)

/* The first process of a new PID namespace, and one in it. */
static int in_container(void)
{
    uint64_t outside = shared[1], mine, again;
    SAY(getpid() == 1);
    SAY(!dsm_identity(&mine) && mine != outside); /* its parent has an identity, and may have pid 1 as well */
    SAY(!identity_ended(outside) && !identity_pid(outside));
    pid_t pid = new_member();
    SAY(!dsm_identity(&again) && mine == again && !identity_ended(shared[0]) && identity_pid(shared[0]) == pid);
    store_release_u64(&shared[2], mine);
    stay();
}

/* Starts the first process of a new PID namespace, and lives as long as it. Status 77: there is no such namespace. */
static int container_launcher(void)
{
    if (!new_space(CLONE_NEWPID))
        return 77;
    pid_t init = fork();
    if (!init)
        _exit(in_container());
    shared[3] = (uint64_t)init;
    return waitpid(init, NULL, 0) != init;
}

/* A container is killed: its processes are dead for those outside, which see none of its pids. */
static int container(void)
{
    int status;
    shared[2] = shared[3] = 0;
    SAY(!dsm_identity(&shared[1]));
    pid_t launcher = fork();
    if (!launcher)
        _exit(container_launcher());
    while (!load_acquire_u64(&shared[2]))
        if (waitpid(launcher, &status, WNOHANG))
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    SAY(!identity_ended(shared[0]) && !identity_ended(shared[2]) && !identity_pid(shared[0]));
    SAY(!kill((pid_t)shared[3], SIGKILL) && waitpid(launcher, &status, 0) == launcher && !status);
    SAY(identity_ended(shared[0]) && identity_ended(shared[2]) && !identity_ended(shared[1]));
    return 0;
}

/* The process with pid 1 in a namespace forks into a new one, where the child has pid 1. */
static int first_of_first(void)
{
    if (!new_space(CLONE_NEWPID))
        return 77;
    pid_t init = fork();
    if (!init) {
        uint64_t mine;
        SAY(getpid() == 1 && !dsm_identity(&shared[1]) && !unshare(CLONE_NEWPID));
        pid_t pid = fork();
        if (!pid)
            _exit(getpid() != 1 || dsm_identity(&mine) || mine == shared[1] || identity_ended(shared[1]));
        int status;
        _exit(waitpid(pid, &status, 0) != pid || status);
    }
    int status;
    SAY(waitpid(init, &status, 0) == init && !status);
    return 0;
}

static void close_all(void)
{
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
}

/* Another /dev/shm: nothing is known about the processes that use it, living or dead. */
static int private_memory(void)
{
    pid_t pid = new_member();
    uint64_t outside = shared[0], inside;
    end(pid);
    shared[1] = 0;
    if (!(pid = fork())) {
        close_all(); /* as exec does */
        if (!own_memory())
            _exit(77);
        if (dsm_identity(&inside) || inside >> 63 || identity_ended(outside) || identity_pid(outside))
            _exit(1);
        store_release_u64(&shared[1], inside);
        stay();
    }
    int status;
    while (!load_acquire_u64(&shared[1]))
        if (waitpid(pid, &status, WNOHANG))
            return WEXITSTATUS(status);
    SAY(!identity_ended(shared[1]));
    end(pid);
    SAY(!identity_ended(shared[1]) && identity_ended(outside));
    return 0;
}

static int no_memory(void)
{
    uint64_t a, b;
    if (!own_memory() || mount("none", "/dev/shm", "tmpfs", MS_RDONLY, NULL))
        return 77;
    SAY(dsm_identity_provable() == -DSM_ESYS);
    SAY(!dsm_identity(&a) && !dsm_identity(&b));
    SAY(a >> 63 && b >> 63 && a != b && !identity_ended(a));
    return 0;
}

static char *path_of_file(void)
{
    static char path[64];
    snprintf(path, sizeof path, "/dev/shm/dsmem-%u.living", geteuid());
    return path;
}

/* The file is unlinked, truncated, and made again: no living process is taken for dead. */
static int file_lost(void)
{
    uint64_t before, after;
    if (!own_memory())
        return 77;
    SAY(!dsm_identity(&before));
    pid_t old = new_member();
    uint64_t of_old = shared[0];
    SAY(!unlink(path_of_file()));
    SAY(!identity_ended(of_old) && !identity_ended(before));
    pid_t asker = fork(); /* it asks with the file that its parent knew, too */
    if (!asker)
        _exit(dsm_identity(&after) || identity_ended(of_old) || identity_ended(before));
    int status;
    SAY(waitpid(asker, &status, 0) == asker && !status);
    pid_t pid = new_member();
    uint64_t of_new = shared[0];
    SAY(!identity_ended(of_new));
    end(pid);
    end(old);
    SAY(identity_ended(of_old) && identity_ended(of_new));
    old = new_member();
    of_old = shared[0];
    SAY(!truncate(path_of_file(), 0) && !identity_ended(of_old));
    pid = new_member(); /* the file is made again, with other numbers */
    SAY(!identity_ended(of_old) && !identity_ended(shared[0]));
    end(pid);
    SAY(!identity_ended(of_old) && identity_ended(shared[0]));
    SAY(!chmod(path_of_file(), 0666)); /* any user could have written to it */
    SAY(!identity_ended(shared[0]) && !chmod(path_of_file(), 0644) && identity_ended(shared[0]));
    end(old);
    return 0;
}

/* The file's words: first and count of processes, first and count of participants elsewhere. */
enum { FIRST, GIVEN, FIRST_ELSEWHERE, GIVEN_ELSEWHERE, WORDS };

static bool file_read(uint64_t words[WORDS])
{
    int fd = open(path_of_file(), O_RDONLY);
    bool done = fd >= 0 && pread(fd, words, 8 * WORDS, 0) == 8 * WORDS;
    close(fd);
    return done;
}

static bool file_write(const uint64_t words[WORDS])
{
    int fd = open(path_of_file(), O_WRONLY | O_CREAT, 0644);
    bool done = fd >= 0 && pwrite(fd, words, 8 * WORDS, 0) == 8 * WORDS && !ftruncate(fd, 65536);
    close(fd);
    return done;
}

/* By chance the file that is made again allocates what the one before has allocated. A process that knows both takes
 * none for dead that lives by one of them. */
static int files_alike(void)
{
    uint64_t words[WORDS] = {0}, me;
    struct identity_range r;
    if (!own_memory())
        return 77;
    SAY(!dsm_identity(&me) && !identity_claim_range(&r, 0) && file_read(words));
    uint64_t before = words[FIRST] + 50, elsewhere = words[FIRST_ELSEWHERE] + 2 * r.count;
    words[GIVEN] = 100;
    words[GIVEN_ELSEWHERE] = 10 * r.count;
    SAY(file_write(words) && identity_ended(before) && identity_ended(elsewhere | 1ull << 63));
    SAY(!unlink(path_of_file()));
    SAY(file_write((uint64_t[WORDS]){before, 0, elsewhere, 0}));
    pid_t pid = new_member();
    SAY(!identity_claim_range(&r, 0));
    SAY(shared[0] == before && r.first == (elsewhere | 1ull << 63));
    SAY(!identity_ended(before) && !identity_ended(r.first));
    end(pid);
    identity_end_range(&r);
    SAY(identity_ended(before) && identity_ended(r.first));
    return 0;
}

/* Numbers for participants of other hosts, of a process without a number of its own: their end is proven although the
 * file has been unlinked, and however many there have been, processes get theirs, as rare in other files as ever. */
static int for_other_hosts(void)
{
    struct identity_range r, last, more;
    uint64_t me, words[WORDS], most = 1ull << (geteuid() <= 0xffff ? 44 : 28);
    if (!own_memory())
        return 77;
    SAY(!identity_claim_range(&r, 0) && !unlink(path_of_file()));
    SAY(!identity_ended(r.first) && !identity_ended(r.first + r.count - 1));
    identity_end_range(&r);
    SAY(identity_ended(r.first) && identity_ended(r.first + r.count - 1) && !identity_ended(r.first + r.count));
    SAY(!identity_claim_range(&r, 0) && file_read(words) && !words[GIVEN] && words[GIVEN_ELSEWHERE] == r.count);
    words[GIVEN_ELSEWHERE] = most - 2 * r.count;
    SAY(file_write(words));
    SAY(!identity_claim_range(&last, 0) && identity_claim_range(&more, 0) && errno == EOVERFLOW);
    SAY(!dsm_identity(&me) && !(me >> 63) && !identity_ended(last.first) && !identity_ended(me));
    SAY(file_read(words) && words[GIVEN] == 1 && words[FIRST] == me);
    return 0;
}

/* A participant that needs many gets more each time. */
static int larger_ranges(void)
{
    struct identity_range r;
    uint64_t count = 0, most = geteuid() <= 0xffff ? 1 << 24 : 1 << 14;
    if (!own_memory())
        return 77;
    for (size_t earlier = 0; earlier < 256; earlier += earlier < 8 ? 1 : 31) {
        SAY(!identity_claim_range(&r, earlier));
        SAY(r.count > count || (r.count == count && count == most));
        count = r.count;
        SAY(!identity_ended(r.first + count - 1));
        identity_end_range(&r);
        SAY(identity_ended(r.first + count - 1));
    }
    return 0;
}

/* Its numbers are those of participants whose end is never proven. */
static void user_without_numbers(void)
{
    int status;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid) {
        struct identity_range r;
        if (setresuid(0xffff, 0xffff, 0xffff)) /* for root alone */
            _exit(0);
        _exit(identity_claim_range(&r, 0) != -1 || errno != EPERM);
    }
    CHECK(waitpid(pid, &status, 0) == pid && !status);
}

/* Programs that become daemons close all file descriptors. */
static void all_descriptors_closed(void)
{
    shared[0] = 0;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid) {
        uint64_t me, again;
        CHECK(!dsm_identity(&me));
        close_all();
        CHECK(open("/dev/null", O_RDONLY) == 3); /* the library's number is another file's now */
        CHECK(!dsm_identity(&again) && me == again && !identity_ended(me));
        store_release_u64(&shared[0], me);
        stay();
    }
    while (!load_acquire_u64(&shared[0]))
        usleep(100);
    CHECK(!identity_ended(shared[0]));
    end(pid);
    CHECK(identity_ended(shared[0]));
}

/* The file descriptor by which this process keeps an identity file open; -1: there is none. */
static int kept_descriptor(void)
{
    for (int fd = 3; fd < 64; fd++) {
        char link[32], target[64] = "";
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        if (readlink(link, target, sizeof target - 1) > 0 && strstr(target, ".living"))
            return fd;
    }
    return -1;
}

static uint32_t questions, asked_enough;

static void *ask_on(void *other)
{
    while (!load_acquire_u32(&asked_enough)) {
        CHECK(!identity_ended(*(const uint64_t *)other));
        fetch_add_u32(&questions, 1);
    }
    return NULL;
}

/* A program closes the library's descriptor while a question is under way, and opens another file, in which no process
 * holds locks. */
static void descriptor_replaced(void)
{
    enum { SWAPS = 2000 };
    pid_t pid = new_member();
    uint64_t me, other = shared[0];
    CHECK(!dsm_identity(&me));
    int fd = kept_descriptor(), real = dup(fd), copy = open("/dev/shm", O_TMPFILE | O_RDWR, 0644);
    static char bytes[65536];
    CHECK(fd >= 0 && real >= 0 && copy >= 0 && pread(real, bytes, sizeof bytes, 0) == sizeof bytes);
    CHECK(write(copy, bytes, sizeof bytes) == sizeof bytes);
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, ask_on, &other));
    for (int i = 0; i < SWAPS; i++) {
        CHECK(dup2(i & 1 ? real : copy, fd) == fd);
        for (uint32_t before = load_acquire_u32(&questions); load_acquire_u32(&questions) - before < 2;)
            usleep(1); /* a question has begun and ended with this file */
    }
    store_release_u32(&asked_enough, 1);
    pthread_join(thread, NULL);
    CHECK(dup2(real, fd) == fd);
    close(real);
    close(copy);
    end(pid);
}

static void *hold_on(void *arg)
{
    (void)arg;
    store_release_u64(&shared[0], shared[1]);
    stay();
    return NULL;
}

/* The main thread ends, and the process goes on with its other threads. */
static void main_thread_ends(void)
{
    shared[0] = 0;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid) {
        pthread_t t;
        CHECK(!dsm_identity(&shared[1]) && !pthread_create(&t, NULL, hold_on, NULL));
        pthread_exit(NULL);
    }
    while (!load_acquire_u64(&shared[0]))
        usleep(100);
    CHECK(!identity_ended(shared[0]));
    end(pid);
    CHECK(identity_ended(shared[0]));
}

/* Makes a child that stays alive; its pid is in shared[number]. */
static void linger(int number, bool handlers)
{
    pid_t pid = handlers ? fork() : (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    CHECK(pid >= 0);
    if (!pid) {
        uint64_t me;
        if (!handlers)
            CHECK(!dsm_identity(&me) && me != shared[0] && !identity_ended(shared[0]));
        store_release_u64(&shared[number], (uint64_t)getpid());
        stay();
    }
}

/* QEMU's user-mode emulation accepts the advice on what children inherit, and does not follow it. */
static bool wipes_on_fork(void)
{
    int status;
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED && !madvise(page, 4096, MADV_WIPEONFORK));
    *page = 1;
    pid_t pid = fork();
    if (!pid)
        _exit(*page);
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && !munmap(page, 4096));
    return !status;
}

enum { LINGERERS = 24 };

static void *fork_many(void *arg)
{
    for (int i = 0; i < LINGERERS; i++)
        linger(16 + i, true);
    return arg;
}

/* Children do not keep their parent's identity alive: neither those that were made while it got its number, nor one
 * that was made without the handlers of fork. exec ends the identity of a process. */
static void only_the_process_itself(bool exec)
{
    if (!wipes_on_fork()) {
        puts("left out: what children keep of their parent, since madvise has no effect on them here");
        return;
    }
    memset(shared, 0, 512);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid) {
        pthread_t t;
        uint64_t me;
        CHECK(!pthread_create(&t, NULL, fork_many, NULL));
        CHECK(!dsm_identity(&me) && !pthread_join(t, NULL));
        shared[0] = me;
        linger(15, false);
        while (!load_acquire_u64(&shared[15]))
            usleep(100);
        store_release_u64(&shared[1], me);
        if (exec)
            execl("/bin/sleep", "sleep", "1000", NULL);
        stay();
    }
    for (int i = 15; i < 16 + LINGERERS; i++)
        while (!load_acquire_u64(&shared[i]))
            usleep(100);
    while (!load_acquire_u64(&shared[1]))
        usleep(100);
    while (exec && !identity_ended(shared[1]))
        usleep(100);
    CHECK(exec || !identity_ended(shared[1]));
    end(pid);
    CHECK(identity_ended(shared[1]));
    for (int i = 15; i < 16 + LINGERERS; i++)
        CHECK(!kill((pid_t)shared[i], SIGKILL));
}

static void *claim(void *arg) { return dsm_identity(arg) ? arg : NULL; }

enum { CROWD = 300 };

/* Many processes, each with threads that ask at once, get different identities. */
static void crowd(void)
{
    uint64_t *seen = shared + 16;
    pid_t pids[CROWD];
    memset(seen, 0, CROWD * sizeof *seen);
    for (int i = 0; i < CROWD; i++)
        if (!(pids[i] = fork())) {
            pthread_t t[2];
            uint64_t found[3];
            for (int k = 0; k < 2; k++)
                CHECK(!pthread_create(&t[k], NULL, claim, &found[k]));
            CHECK(!claim(&found[2]));
            for (int k = 0; k < 2; k++)
                CHECK(!pthread_join(t[k], NULL) && found[k] == found[2]);
            store_release_u64(&seen[i], found[2]);
            stay();
        }
    for (int i = 0; i < CROWD; i++)
        while (!load_acquire_u64(&seen[i]))
            usleep(100);
    for (int i = 0; i < CROWD; i += 2)
        end(pids[i]);
    for (int i = 0; i < CROWD; i++) {
        CHECK(identity_ended(seen[i]) == !(i % 2));
        for (int k = 0; k < i; k++)
            CHECK(seen[k] != seen[i]);
    }
    for (int i = 1; i < CROWD; i += 2)
        end(pids[i]);
}

/* ---- deaths while an identity is claimed ---- */

static int claiming(void *arg)
{
    uint64_t me;
    (void)arg;
    stepper_mark();
    int rc = dsm_identity(&me);
    store_release_u64(&shared[0], me);
    stepper_mark();
    return rc;
}

/* A process that is killed at any step of making the file and taking a number leaves nothing that blocks others. */
static int deaths_of_claimers(void)
{
    if (!own_memory()) /* others' identities are none of a test's business */
        return 77;
    struct stepper s;
    bool more = true;
    uint64_t stride = getenv("DSMEM_FULL_SWEEPS") ? 1 : 97;
    for (uint64_t at = 0; more; at += stride) {
        uint64_t other;
        unlink(path_of_file());
        shared[0] = 0;
        if (!stepper_start(&s, claiming, NULL))
            return 77;
        more = stepper_step(&s, at);
        stepper_kill(&s);
        uint64_t killed = shared[0];
        pid_t pid = new_member();
        other = shared[0];
        CHECK(!(other >> 63) && other != killed && !identity_ended(other));
        CHECK(!killed || identity_ended(killed));
        end(pid);
        CHECK(identity_ended(other));
    }
    return 0;
}

/* ---- succession ---- */

static dsm_remote *object;

static dsm_remote *lock_of(uint32_t members) { return object_of(DSM_LOCK, members, 0); }

static uint64_t dead_identity(void)
{
    end(new_member());
    return shared[0];
}

static uint64_t *at(uint64_t offset) { return (uint64_t *)dsm_remote_mapped(object) + offset / 8; }

/* The quick newcomer succeeds the dead one and takes the lock, while the slow one, which began first, is about to
 * undo. */
static void slow_sweeper(void)
{
    dsm_lock *quick;
    object = lock_of(1);
    uint64_t dead = dead_identity(), old = 0;
    CHECK(!dsm_compare_swap(object, SYNC_TABLE, 0, dead, &old, -1));
    CHECK(!dsm_compare_swap(object, SYNC_WORD, 0, 7ull << LOCK_TOKEN_SHIFT | LOCK_HELD, &old, -1));
    CHECK(!dsm_lock_open(object, 0, &quick));
    CHECK(*at(SYNC_WORD) == (7ull << LOCK_TOKEN_SHIFT | LOCK_OWNER_DIED));
    CHECK(dsm_lock_acquire(quick, 0) == 1 && dsm_lock_token(quick) == 8 && dsm_lock_recovered(quick));
    CHECK(lock_sweep(object, 0, dead) == 0);
    CHECK(*at(SYNC_WORD) & LOCK_HELD);
    CHECK(!dsm_lock_release(quick) && !*at(SYNC_WORD + 8));
    dsm_lock_close(quick);
    CHECK(!dsm_remote_close(object));
}

struct used {
    dsm_semaphore *semaphore;
    dsm_rwlock *rwlock;
    uint64_t over;
};

static void *use(void *arg)
{
    struct used *u = arg;
    while (!load_acquire_u64(&u->over)) {
        CHECK(dsm_semaphore_acquire(u->semaphore, 0) == 1 && !dsm_semaphore_release(u->semaphore, 1));
        CHECK(dsm_rwlock_read(u->rwlock, 0) == 1 && !dsm_rwlock_unread(u->rwlock));
    }
    return NULL;
}

/* Children that are made while a thread of the parent is in the middle of a call ask what a handle of the parent
 * holds. */
static void asked_in_children(void)
{
    struct used u = {.over = 0};
    dsm_remote *first = object_of(DSM_SEMAPHORE, 0, 4), *second = object_of(DSM_RWLOCK, 4, 0);
    pthread_t t;
    int recovered;
    CHECK(!dsm_semaphore_open(first, 0, &u.semaphore) && !dsm_rwlock_open(second, 0, &u.rwlock));
    CHECK(dsm_semaphore_acquire(u.semaphore, 0) == 1 && dsm_rwlock_read(u.rwlock, 0) == 1);
    CHECK(!pthread_create(&t, NULL, use, &u));
    for (int i = 0; i < 40; i++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (!pid) {
            alarm(30);
            bool none = !dsm_semaphore_held(u.semaphore, &recovered) && !dsm_rwlock_readers(u.rwlock, &recovered);
            _exit(none && dsm_semaphore_value(u.semaphore) == -DSM_EFORK ? 0 : 1);
        }
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && !status);
    }
    store_release_u64(&u.over, 1);
    CHECK(!pthread_join(t, NULL));
    CHECK(dsm_semaphore_held(u.semaphore, &recovered) == 1 && dsm_rwlock_readers(u.rwlock, &recovered) == 1);
    dsm_semaphore_close(u.semaphore);
    dsm_rwlock_close(u.rwlock);
    CHECK(!dsm_remote_close(first) && !dsm_remote_close(second));
}

static void overwrites(void)
{
    dsm_lock *l, *second;
    uint64_t old = 0;
    object = lock_of(2);
    CHECK(!dsm_lock_open(object, 0, &l));
    CHECK(!dsm_compare_swap(object, SYNC_WORD, 0, LOCK_HELD | 700, &old, -1)); /* a member that is invalid */
    CHECK(dsm_lock_acquire(l, 1000000000) == -DSM_ECORRUPT);
    dsm_lock_close(l);
    CHECK(!dsm_lock_open(object, 0, &l));
    CHECK(!dsm_compare_swap(object, SYNC_WORD, LOCK_HELD | 700, LOCK_HELD | 1, &old, -1)); /* member 1 is empty */
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
    shared = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    the_dead_are_dead();
    without_descriptors();
    apart("a PID namespace", container);
    apart("a PID namespace", first_of_first);
    apart("a /dev/shm of its own", private_memory);
    apart("a /dev/shm that is read-only", no_memory);
    apart("a /dev/shm of its own", file_lost);
    apart("a /dev/shm of its own", files_alike);
    apart("numbers for other hosts", for_other_hosts);
    apart("a /dev/shm of its own", larger_ranges);
    user_without_numbers();
    all_descriptors_closed();
    descriptor_replaced();
    main_thread_ends();
    only_the_process_itself(false);
    only_the_process_itself(true);
    crowd();
    apart("a /dev/shm of its own, or ptrace,", deaths_of_claimers);
    slow_sweeper();
    asked_in_children();
    overwrites();
    puts("ok");
    return 0;
}
