#include "identity.h"

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
#define LARGE_USER (1ull << 62)

struct record {
    uint64_t identity;
    uint32_t pid, space; /* pid, and the inode of the pid namespace in which it is valid */
};

struct identity_file {
    uint64_t first; /* 0: not chosen yet */
    uint64_t given; /* how many numbers have been allocated, from first on */
    uint64_t zero[6];
    struct record records[RECORDS]; /* of the newest identities; used in messages only */
};
_Static_assert(sizeof(struct identity_file) == 65536, "docs/protocols/objects.md");

/* The file in which the claim was made, opened again for queries. The lock does not belong to this open file
 * description, so a child may keep the descriptor. */
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

/* The random part and the count that is added to it are each below this, so their sum does not reach the next user's
 * identities. */
static uint64_t half_of(uint32_t user) { return 1ull << (is_small(user) ? SMALL_SHIFT : LARGE_SHIFT) >> 1; }

static uint32_t user_of(uint64_t identity)
{
    return (uint32_t)(identity & LARGE_USER ? identity >> LARGE_SHIFT : identity >> SMALL_SHIFT);
}

/* ---- the file ---- */

static int file_open(uint32_t user, int flags)
{
    char path[48];
    snprintf(path, sizeof path, "/dev/shm/dsmem-%u.living", user);
    return open(path, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0644);
}

/* True if the file could have been written by no user but 'user' (and root). */
static bool trusted(int fd, uint32_t user, struct stat *st)
{
    return !fstat(fd, st) && S_ISREG(st->st_mode) && st->st_uid == user && !(st->st_mode & 022);
}

/* Whether the descriptor still refers to the file that was opened here: some programs close descriptors that are not
 * theirs. This can happen at any time, so an answer is valid only if this is checked again afterwards. */
static bool still(const struct asked *a)
{
    struct stat st;
    return a->fd >= 0 && trusted(a->fd, a->user, &st) && st.st_dev == a->dev && st.st_ino == a->ino;
}

static void keep(uint32_t user, const struct stat *st)
{
    struct stat now;
    if (still(&kept)) {
        if (kept.dev == st->st_dev && kept.ino == st->st_ino)
            return;
        close(kept.fd);
    }
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

static int lock_byte(int fd, int what, uint64_t at, short *type)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)at, .l_len = 1};
    int rc = fcntl(fd, what, &l);
    *type = l.l_type;
    return rc;
}

/* ---- a claim ---- */

static bool is_first(uint64_t first, uint32_t user)
{
    return first > base_of(user) && first < base_of(user) + half_of(user);
}

/* Chooses the first number, once and at random, so that no two files allocate the same numbers. A value outside the
 * user's range, which an older release may have written, is replaced; then nothing can be proven any more about the
 * numbers that were allocated before. */
static int choose_first(struct identity_file *f, uint32_t user)
{
    uint64_t random = 0, first;
    while (!is_first(first = load_acquire_u64(&f->first), user)) {
        if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
            return -1;
        random &= half_of(user) - 1;
        if (random)
            compare_swap_u64(&f->first, first, base_of(user) + random);
    }
    return 0;
}

/* Allocates a number and locks its byte. If the process is killed after any of these steps, it has only used up a
 * number that no other process has seen. */
static int take_number(struct identity_file *f, int fd, uint32_t user, uint64_t *out)
{
    short type;
    uint64_t first = load_acquire_u64(&f->first);
    for (int i = 0; i < CLAIM_TRIES; i++) {
        uint64_t k = fetch_add_u64(&f->given, 1);
        if (k >= half_of(user)) {
            errno = EOVERFLOW;
            return -1;
        }
        if (!lock_byte(fd, F_OFD_SETLK, first + k, &type)) {
            struct record *r = &f->records[k % RECORDS];
            store_relaxed_u64(&r->identity, 0);
            store_relaxed_u32(&r->pid, (uint32_t)getpid());
            store_relaxed_u32(&r->space, own_space());
            store_relaxed_u64(&r->identity, first + k);
            *out = first + k;
            return 0;
        }
        if (errno != EAGAIN && errno != EACCES)
            return -1;
    }
    return -1;
}

static int claim_in(int fd, uint32_t user, uint64_t *out)
{
    struct stat st;
    if (!trusted(fd, user, &st)) {
        errno = EPERM;
        return -1;
    }
    if ((st.st_mode & 0777) != 0644 && fchmod(fd, 0644)) /* whatever the umask, other users may read it */
        return -1;
    int rc =
        (size_t)st.st_size < sizeof(struct identity_file) ? posix_fallocate(fd, 0, sizeof(struct identity_file)) : 0;
    if (rc) {
        errno = rc;
        return -1;
    }
    struct identity_file *f = mmap(NULL, sizeof *f, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (f == MAP_FAILED)
        return -1;
    if (madvise(f, sizeof *f, MADV_DONTFORK) || choose_first(f, user) || take_number(f, fd, user, out)) {
        rc = errno;
        munmap(f, sizeof *f);
        errno = rc;
        return -1;
    }
    mprotect(f, sizeof *f, PROT_NONE); /* the mapping stays, only to keep the lock */
    keep(user, &st);
    return 0;
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
        uint32_t user = geteuid();
        int fd = file_open(user, O_RDWR | O_CREAT);
        if (fd < 0)
            return -1;
        int rc = claim_in(fd, user, own), error = errno;
        close(fd);
        if (rc) {
            *own = 0;
            errno = error;
            return -1;
        }
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

/* ---- queries ---- */

/* Whether the file has allocated the identity. *k is its index: 0 for the file's first number. */
static bool handed_out(int fd, uint64_t identity, uint64_t *k)
{
    uint64_t head[2]; /* first, given */
    if (pread(fd, head, sizeof head, 0) != (ssize_t)sizeof head || !head[0] || identity < head[0])
        return false;
    *k = identity - head[0];
    return *k < head[1];
}

static int ask_ended(int fd, uint64_t identity, uint64_t k)
{
    (void)k;
    short type;
    return !lock_byte(fd, F_OFD_GETLK, identity, &type) && type == F_UNLCK;
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

/* Returns false if the identity is not one of the file's user (who could write anything about those of other users into
 * it), if the file has not allocated it, or if the descriptor does not refer to that file any more. */
static bool ask_in(const struct asked *a, uint64_t identity, question *q, int *answer)
{
    uint64_t k;
    if (user_of(identity) != a->user || !still(a) || !handed_out(a->fd, identity, &k))
        return false;
    *answer = q(a->fd, identity, k);
    return still(a);
}

/* Asks the file in which the claim was made first: it may have been unlinked and replaced since. */
static int ask(uint64_t identity, question *q)
{
    int answer = 0;
    struct stat st = {0};
    if (!identity || identity >> 63 || ask_in(&kept, identity, q, &answer))
        return answer;
    struct asked now = {.user = user_of(identity)};
    if ((now.fd = file_open(now.user, O_RDONLY)) < 0)
        return 0;
    fstat(now.fd, &st);
    now.dev = st.st_dev;
    now.ino = st.st_ino;
    if (!ask_in(&now, identity, q, &answer))
        answer = 0;
    close(now.fd);
    return answer;
}

static int ask_alone(uint64_t identity, question *q)
{
    int error = errno;
    pthread_mutex_lock(&one);
    int answer = ask(identity, q);
    pthread_mutex_unlock(&one);
    errno = error;
    return answer;
}

bool identity_ended(uint64_t identity) { return ask_alone(identity, ask_ended); }

int identity_pid(uint64_t identity) { return ask_alone(identity, ask_pid); }
