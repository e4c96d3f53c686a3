/* wraps: open fstat pread fcntl mmap posix_fallocate mprotect */
/*
 * Whatever a program does with the descriptors of its process, and whenever: no living process is taken for dead, no
 * dead one for living, and no file of the program's is changed. Before one system call of a question or of a claim, a
 * thread of the program puts another file in the place of each descriptor of an identity file; before a later one it
 * puts the first file back, or never. The other file has the same bytes, and no process holds locks in it.
 */
#include "base/atomic.h"
#include "base/identity.h"
#include "check.h"
#include "spaces.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NEVER = 1000, FIRST = 3, LAST = 64, SAVED = 100 };
enum { REPLACE = 1, RESTORE, END };

static uint64_t *shared;
static int calls = NEVER, replace_at, restore_at;
static uint32_t wanted, done;
static _Thread_local bool is_program;
static int copy = -1, saved[LAST];

/* ---- the program's thread ---- */

static bool is_identity_file(int fd)
{
    char link[32], target[64] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return readlink(link, target, sizeof target - 1) > 0 && strstr(target, ".living");
}

static void act(uint32_t what)
{
    for (int fd = FIRST; fd < LAST; fd++)
        if (what == REPLACE && is_identity_file(fd)) {
            saved[fd] = fcntl(fd, F_DUPFD, SAVED);
            CHECK(saved[fd] >= SAVED && dup2(copy, fd) == fd);
        } else if (what == RESTORE && saved[fd]) {
            CHECK(dup2(saved[fd], fd) == fd && !close(saved[fd]));
            saved[fd] = 0;
        }
}

static void *program(void *arg)
{
    is_program = true;
    for (uint32_t what = 0; what != END; usleep(20))
        if ((what = load_acquire_u32(&wanted))) {
            act(what);
            store_release_u32(&wanted, 0);
            store_release_u32(&done, what);
        }
    return arg;
}

static void order(uint32_t what)
{
    store_release_u32(&done, 0);
    store_release_u32(&wanted, what);
    while (load_acquire_u32(&done) != what)
        usleep(20);
}

/* Before each system call that is counted. */
static void step(void)
{
    if (is_program || calls == NEVER)
        return;
    if (calls == replace_at)
        order(REPLACE);
    if (calls == restore_at)
        order(RESTORE);
    calls++;
}

static void begin(int from, int to)
{
    replace_at = from;
    restore_at = to;
    calls = 0;
}

/* True if there was a call in front of which the file was replaced. */
static bool finish(void)
{
    bool reached = calls > replace_at;
    calls = NEVER;
    if (reached)
        order(RESTORE);
    return reached;
}

#define WRAP(type, name, params, ...) \
    type __real_##name params; \
    type __wrap_##name params; \
    type __wrap_##name params \
    { \
        step(); \
        return __real_##name(__VA_ARGS__); \
    }

WRAP(int, fstat, (int fd, struct stat *st), fd, st)
WRAP(ssize_t, pread, (int fd, void *to, size_t n, off_t at), fd, to, n, at)
WRAP(void *, mmap, (void *p, size_t n, int prot, int flags, int fd, off_t at), p, n, prot, flags, fd, at)
WRAP(int, posix_fallocate, (int fd, off_t at, off_t n), fd, at, n)
WRAP(int, mprotect, (void *p, size_t n, int prot), p, n, prot)

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = (mode_t)va_arg(rest, unsigned);
    va_end(rest);
    step();
    return __real_open(path, flags, mode);
}

int __real_fcntl(int fd, int what, ...);
int __wrap_fcntl(int fd, int what, ...);
int __wrap_fcntl(int fd, int what, ...)
{
    va_list rest;
    va_start(rest, what);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    step();
    return __real_fcntl(fd, what, argument);
}

static pthread_t start_program(void)
{
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, program, NULL));
    return thread;
}

static void end_program(pthread_t thread)
{
    order(END);
    CHECK(!pthread_join(thread, NULL));
}

/* ---- processes ---- */

/* Claims an identity, and lives until it is killed. What the program does meanwhile: see begin(). shared[0]: the
 * identity, or 1 if there is none; shared[1]: whether the file was replaced. */
static pid_t claimer(int from, int to)
{
    shared[0] = 0;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid) {
        uint64_t me = 1;
        alarm(1000); /* a process that a failed test leaves behind ends by itself */
        start_program();
        begin(from, to);
        if (identity_claim(&me))
            me = 1;
        shared[1] = finish();
        store_release_u64(&shared[0], me);
        for (;;)
            pause();
    }
    while (!load_acquire_u64(&shared[0])) {
        CHECK(!waitpid(pid, NULL, WNOHANG));
        usleep(100);
    }
    return pid;
}

static void end(pid_t pid) { CHECK(!kill(pid, SIGKILL) && waitpid(pid, NULL, 0) == pid); }

static const char *path_of_file(void)
{
    static char path[64];
    snprintf(path, sizeof path, "/dev/shm/dsmem-%u.living", geteuid());
    return path;
}

/* Another file with the bytes of the identity file, if there is one. */
static int copy_of_file(void)
{
    static char bytes[65536];
    int from = open(path_of_file(), O_RDONLY), to = open("/dev/shm", O_TMPFILE | O_RDWR, 0644);
    CHECK(to >= 0 && !fchmod(to, 0644));
    if (from >= 0)
        CHECK(read(from, bytes, sizeof bytes) == sizeof bytes && write(to, bytes, sizeof bytes) == sizeof bytes);
    close(from);
    return to;
}

/* ---- tests ---- */

static void questions(void)
{
    pid_t pid = claimer(NEVER, NEVER);
    pthread_t thread = start_program();
    uint64_t living = shared[0];
    bool more = true;
    int replaced = 0;
    CHECK(living > 1);
    copy = copy_of_file();
    for (int from = 0; more; from++) {
        for (int to = from + 1; to < from + 12; to++) {
            begin(from, to == from + 11 ? NEVER : to);
            CHECK(!identity_ended(living));
            more = finish();
        }
        replaced += more;
    }
    end(pid);
    for (int from = 0; from < replaced; from++) {
        begin(from, NEVER);
        CHECK(identity_ended(living));
        finish();
    }
    CHECK(replaced >= 3 && !close(copy));
    end_program(thread);
}

static void claims(bool made)
{
    bool more = true;
    int replaced = 0;
    for (int from = 0; more; from++) {
        for (int to = from + 1; to < from + 12; to++) {
            struct stat before, after;
            if (!made)
                unlink(path_of_file());
            copy = copy_of_file();
            CHECK(!fstat(copy, &before));
            pid_t pid = claimer(from, to == from + 11 ? NEVER : to);
            uint64_t other = shared[0];
            more = shared[1];
            CHECK(other > 1 && !identity_ended(other));
            end(pid);
            CHECK(identity_ended(other));
            CHECK(!fstat(copy, &after) && before.st_size == after.st_size);
            CHECK(before.st_mtim.tv_sec == after.st_mtim.tv_sec && before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
            close(copy);
        }
        replaced += more;
    }
    CHECK(replaced >= 4);
}

int main(void)
{
    uint64_t me;
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    if (own_memory()) /* otherwise other programs of this user would lose their file */
        claims(false);
    claims(true);
    CHECK(!identity_claim(&me));
    questions();
    claims(true);
    puts("ok");
    return 0;
}
