#include "identity.h"

#include "apart.h"
#include "atomic.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* An identity contains the complete uid of the user whose file has allocated it. Most uids are small (up to 16 bits),
 * which leaves more bits for the rest. */
enum { SMALL_SHIFT = 46, LARGE_SHIFT = 30, RECORDS = 4092, CLAIM_TRIES = 64 };
/* How many numbers a participant's first range has; each further one has eight times as many, up to the most. Most
 * participants need few, and what is allocated adds to the odds that two files have allocated the same number. */
enum { SMALL_RANGE = 12, SMALL_RANGE_MOST = 24, LARGE_RANGE = 6, LARGE_RANGE_MOST = 14, RANGE_GROWTH = 3 }; /* 2^ */
/* The user in random identities, whose file is not asked. It is no user's number (an id of 16 bits that means none). */
enum { NO_USER = 0xffff };
#define LARGE_USER (1ull << 62)

struct record {
    uint64_t identity;
    uint32_t pid, space; /* pid, and the inode of the pid namespace in which it is valid */
};

/* Numbers that are allocated one after another. */
struct series {
    uint64_t first; /* 0: not chosen yet */
    uint64_t given; /* how many have been allocated, from first on */
};

struct identity_file {
    struct series series[2]; /* PROCESSES, PARTICIPANTS */
    uint64_t zero[4];
    struct record records[RECORDS]; /* of the newest identities; used in messages only */
};
_Static_assert(sizeof(struct identity_file) == 65536, "docs/protocols/objects.md");

/* The file in which the claim was made, opened again for queries, in which it may have been unlinked and replaced. The
 * lock does not belong to this open file description, so a child may keep the descriptor. */
struct asked {
    int fd;
    dev_t dev;
    ino_t ino;
    uint32_t user;
};

/* Protects everything below. It is held across a fork, so that no child gets a descriptor or mapping whose open file
 * description holds a lock. */
static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
static struct asked kept = {.fd = -1};
static uint64_t *own; /* the identity of this process, in a page that is zero in a child; 0: none yet */

static void before_fork(void) { pthread_mutex_lock(&one); }
static void in_parent(void) { pthread_mutex_unlock(&one); }

static void in_child(void)
{
    if (own)
        *own = 0;
    pthread_mutex_unlock(&one); /* the thread that forked, which has locked it, is this one */
}

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(before_fork, in_parent, in_child); }

/* ---- the identities of a user ---- */

static bool is_small(uint32_t user) { return user <= 0xffff; }

/* The identities of a user lie above this number, and below that of the next user. */
static uint64_t base_of(uint32_t user)
{
    return is_small(user) ? (uint64_t)user << SMALL_SHIFT : LARGE_USER | (uint64_t)user << LARGE_SHIFT;
}

/* The numbers of a user have two halves: of processes, and of participants elsewhere. However many of these there have
 * been, they make a number of a process neither scarce nor likely to be found in two files. */
enum { PROCESSES, PARTICIPANTS };
static uint64_t half_of(uint32_t user) { return 1ull << (is_small(user) ? SMALL_SHIFT : LARGE_SHIFT) >> 1; }
static uint64_t base_of_series(uint32_t user, int which) { return base_of(user) + (which ? half_of(user) : 0); }

/* The random part and the count that is added to it are each below this, so their sum stays in its half. */
static uint64_t most_of(uint32_t user) { return half_of(user) / 2; }

static uint32_t user_of(uint64_t identity)
{
    return (uint32_t)(identity & LARGE_USER ? identity >> LARGE_SHIFT : identity >> SMALL_SHIFT);
}

static int series_of(uint64_t identity) { return identity & half_of(user_of(identity)) ? PARTICIPANTS : PROCESSES; }

/* ---- the file ---- */

enum { PATH_BYTES = 48 };

static const char *path_of(uint32_t user, char path[PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "/dev/shm/dsmem-%u.living", user);
    return path;
}

static int file_open(uint32_t user, int flags)
{
    char path[PATH_BYTES];
    return open(path_of(user, path), flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0644);
}

/* True if the file could have been written by no user but 'user' (and root). */
static bool trusted(int fd, uint32_t user, struct stat *st)
{
    return !fstat(fd, st) && S_ISREG(st->st_mode) && st->st_uid == user && !(st->st_mode & 022);
}

/* Whether the descriptor still refers to the file that was opened here: some programs close descriptors that are not
 * theirs. Only in a table of its own a thread may rely on that in what it does next. */
static bool still(const struct asked *a)
{
    struct stat st;
    return a->fd >= 0 && trusted(a->fd, a->user, &st) && st.st_dev == a->dev && st.st_ino == a->ino;
}

static bool is_at_path(const struct asked *a)
{
    char path[PATH_BYTES];
    struct stat st;
    return !lstat(path_of(a->user, path), &st) && st.st_dev == a->dev && st.st_ino == a->ino;
}

/* A descriptor of another file, which has been replaced since, stays open: its number may be another file's by now. */
static void keep(uint32_t user, const struct stat *st)
{
    struct stat now;
    if (still(&kept) && kept.dev == st->st_dev && kept.ino == st->st_ino)
        return;
    int fd = file_open(user, O_RDONLY);
    if (fd >= 0 && (!trusted(fd, user, &now) || now.st_dev != st->st_dev || now.st_ino != st->st_ino)) {
        close(fd);
        fd = -1;
    }
    kept = (struct asked){.fd = fd, .dev = st->st_dev, .ino = st->st_ino, .user = user};
}

static uint32_t own_space(void)
{
    struct stat st;
    return stat("/proc/self/ns/pid", &st) ? 0 : (uint32_t)st.st_ino;
}

static int lock_bytes(int fd, int what, uint64_t at, uint64_t count, short *type)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)at, .l_len = (off_t)count};
    int rc = fcntl(fd, what, &l);
    *type = l.l_type;
    return rc;
}

/* ---- a claim ---- */

static bool is_first(uint64_t first, uint32_t user, int which)
{
    uint64_t base = base_of_series(user, which);
    return first > base && first < base + most_of(user);
}

/* Chooses the first number, once and at random, so that no two files allocate the same numbers. A value outside the
 * user's range, which an older release may have written, is replaced; then nothing can be proven any more about the
 * numbers that were allocated before. */
static int choose_first(struct series *s, uint32_t user, int which)
{
    uint64_t random = 0, first;
    while (!is_first(first = load_acquire_u64(&s->first), user, which)) {
        if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
            return -1;
        random &= most_of(user) - 1;
        if (random)
            compare_swap_u64(&s->first, first, base_of_series(user, which) + random);
    }
    return 0;
}

/* Stored for messages: the process that has the identity. */
static void put_record(struct identity_file *f, uint64_t k, uint64_t identity)
{
    struct record *r = &f->records[k % RECORDS];
    store_relaxed_u64(&r->identity, 0);
    store_relaxed_u32(&r->pid, (uint32_t)getpid());
    store_relaxed_u32(&r->space, own_space());
    store_relaxed_u64(&r->identity, identity);
}

/* Allocates numbers and locks their bytes. If the process is killed after any of these steps, it has only used up
 * numbers that no other process has seen. */
static int take_numbers(struct identity_file *f, int fd, uint32_t user, int which, uint64_t count, uint64_t *out)
{
    short type;
    struct series *s = &f->series[which];
    uint64_t first = load_acquire_u64(&s->first), end = most_of(user) - count;
    for (int i = 0; i < CLAIM_TRIES; i++) {
        uint64_t k = load_acquire_u64(&s->given);
        if (k < end)
            k = fetch_add_u64(&s->given, count);
        if (k >= end) {
            errno = EOVERFLOW;
            return -1;
        }
        if (!lock_bytes(fd, F_OFD_SETLK, first + k, count, &type)) {
            if (which == PROCESSES)
                put_record(f, k, first + k);
            *out = first + k;
            return 0;
        }
        if (errno != EAGAIN && errno != EACCES)
            return -1;
    }
    return -1;
}

struct claimed {
    uint32_t user;
    int which;
    uint64_t count;
    struct stat st; /* of the file */
    uint64_t identity;
    void *keep;
    int error;
};

static int claim_in(int fd, struct claimed *c)
{
    if (!trusted(fd, c->user, &c->st)) {
        errno = EPERM;
        return -1;
    }
    if ((c->st.st_mode & 0777) != 0644 && fchmod(fd, 0644)) /* whatever the umask, other users may read it */
        return -1;
    int rc =
        (size_t)c->st.st_size < sizeof(struct identity_file) ? posix_fallocate(fd, 0, sizeof(struct identity_file)) : 0;
    if (rc) {
        errno = rc;
        return -1;
    }
    struct identity_file *f = mmap(NULL, sizeof *f, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (f == MAP_FAILED)
        return -1;
    if (madvise(f, sizeof *f, MADV_DONTFORK) || choose_first(&f->series[c->which], c->user, c->which) ||
        take_numbers(f, fd, c->user, c->which, c->count, &c->identity)) {
        rc = errno;
        munmap(f, sizeof *f);
        errno = rc;
        return -1;
    }
    mprotect(f, sizeof *f, PROT_NONE); /* the mapping stays, only to keep the lock */
    c->keep = f;
    return 0;
}

static void claim_apart(void *arg)
{
    struct claimed *c = arg;
    int fd = file_open(c->user, O_RDWR | O_CREAT);
    if (fd < 0 || claim_in(fd, c))
        c->error = errno;
    if (fd >= 0)
        close(fd);
}

static int claim_numbers(struct claimed *c)
{
    int error = run_apart(0, claim_apart, c);
    errno = error ? error : c->error;
    return errno ? -1 : 0;
}

static uint64_t *wiped_page(void)
{
    uint64_t *page =
        mmap(NULL, (size_t)sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return NULL;
    /* For a fork that runs no pthread_atfork() handlers. If the kernel lacks this, only in_child() clears the page. */
    madvise(page, (size_t)sysconf(_SC_PAGESIZE), MADV_WIPEONFORK);
    return page;
}

static int claim(uint64_t *out)
{
    if (!own && !(own = wiped_page()))
        return -1;
    if (!*own) {
        struct claimed c = {.user = geteuid(), .which = PROCESSES, .count = 1};
        if (claim_numbers(&c))
            return -1;
        *own = c.identity;
        keep(c.user, &c.st);
    }
    *out = *own;
    return 0;
}

int identity_claim(uint64_t *out)
{
    pthread_mutex_lock(&one);
    int rc = claim(out);
    pthread_mutex_unlock(&one);
    return rc;
}

/* ---- for participants of other hosts ---- */

static uint64_t range_of(uint32_t user, size_t earlier)
{
    size_t most = is_small(user) ? SMALL_RANGE_MOST : LARGE_RANGE_MOST;
    size_t bits = (is_small(user) ? SMALL_RANGE : LARGE_RANGE) + RANGE_GROWTH * (earlier < most ? earlier : most);
    return 1ull << (bits < most ? bits : most);
}

int identity_claim_range(struct identity_range *out, size_t earlier)
{
    struct claimed c = {.user = geteuid(), .which = PARTICIPANTS};
    c.count = range_of(c.user, earlier);
    if (c.user == NO_USER) {
        errno = EPERM;
        return -1;
    }
    pthread_mutex_lock(&one);
    int rc = claim_numbers(&c), sys = errno;
    if (!rc && !(own && *own)) /* to ask about them also when the file has been unlinked, and without opening it */
        keep(c.user, &c.st);
    pthread_mutex_unlock(&one);
    errno = sys;
    if (!rc)
        *out = (struct identity_range){c.identity | IDENTITY_ELSEWHERE, c.count, c.keep};
    return rc;
}

/* On return the kernel has dropped the lock: no other mapping and no descriptor refers to its open file description. */
void identity_end_range(struct identity_range *r)
{
    munmap(r->keep, sizeof(struct identity_file));
    r->keep = NULL;
}

int identity_random(uint64_t *out)
{
    if (getrandom(out, sizeof *out, 0) != (ssize_t)sizeof *out)
        return -1;
    *out = IDENTITY_ELSEWHERE | base_of(NO_USER) | (*out & (half_of(NO_USER) - 1));
    return 0;
}

/* ---- queries ---- */

/* Whether the file has allocated the identity. *k is its index: 0 for the file's first number. */
static bool handed_out(int fd, uint64_t identity, uint64_t *k)
{
    struct series s;
    off_t at = (off_t)(series_of(identity) * sizeof s);
    if (pread(fd, &s, sizeof s, at) != (ssize_t)sizeof s || !s.first || identity < s.first)
        return false;
    *k = identity - s.first;
    return *k < s.given;
}

static int ask_ended(int fd, uint64_t identity, uint64_t k)
{
    (void)k;
    short type;
    return !lock_bytes(fd, F_OFD_GETLK, identity, 1, &type) && type == F_UNLCK;
}

static int ask_pid(int fd, uint64_t identity, uint64_t k)
{
    struct record r;
    off_t at = (off_t)(offsetof(struct identity_file, records) + k % RECORDS * sizeof r);
    uint32_t space = own_space();
    bool known = pread(fd, &r, sizeof r, at) == (ssize_t)sizeof r && r.identity == identity;
    return known && space && r.space == space ? (int)r.pid : 0;
}

typedef int question(int fd, uint64_t identity, uint64_t k);

/* Returns false if the identity is not one of the file's user (that user could write anything about identities of other
 * users into it), if the file has not allocated it, or if the descriptor does not refer to that file any more. */
static bool ask_in(const struct asked *a, uint64_t identity, question *q, int *answer)
{
    uint64_t k;
    if (user_of(identity) != a->user || !still(a) || !handed_out(a->fd, identity, &k))
        return false;
    *answer = q(a->fd, identity, k);
    return true;
}

struct asking {
    uint64_t identity;
    question *q;
    int answer; /* 0: unknown */
};

/* Asks the file in which the claim was made, which may have been unlinked and replaced since, and the one that is there
 * now. Numbers are random, so it can happen that both have allocated this one: then it has ended only where both say
 * so. What this opens is closed with the table. */
static void ask_apart(void *arg)
{
    struct asking *a = arg;
    struct stat st = {0};
    int answer;
    a->answer = 0;
    bool known = ask_in(&kept, a->identity, a->q, &a->answer);
    if (known && !a->answer)
        return;
    struct asked now = {.user = user_of(a->identity)};
    if (known && is_at_path(&kept))
        return;
    if ((now.fd = file_open(now.user, O_RDONLY)) < 0) {
        if (errno != ENOENT)
            a->answer = 0; /* it may say otherwise */
        return;
    }
    fstat(now.fd, &st);
    now.dev = st.st_dev;
    now.ino = st.st_ino;
    if (ask_in(&now, a->identity, a->q, &answer) && !(known && answer))
        a->answer = answer;
}

/* Most answers are 'unknown' or 'living', and these are believed at once: they are never wrong for long. */
static int ask(uint64_t identity, question *q)
{
    struct asking a = {.identity = identity, .q = q};
    int error = errno;
    if (!identity || identity & IDENTITY_ELSEWHERE)
        return 0;
    pthread_mutex_lock(&one);
    if ((!ask_in(&kept, identity, q, &a.answer) || a.answer) && run_apart(kept.fd + 1, ask_apart, &a))
        a.answer = 0;
    pthread_mutex_unlock(&one);
    errno = error;
    return a.answer;
}

bool identity_ended(uint64_t identity)
{
    uint64_t number = identity & ~IDENTITY_ELSEWHERE;
    return number != identity && user_of(number) == NO_USER ? false : ask(number, ask_ended);
}

int identity_pid(uint64_t identity) { return ask(identity, ask_pid); }
