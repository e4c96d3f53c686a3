/* wraps: malloc calloc realloc aligned_alloc free mmap memfd_create open socket eventfd epoll_create1 pthread_create */
/* wraps: timerfd_create accept4 mremap ftruncate fallocate posix_fallocate pthread_mutex_lock pthread_mutex_unlock */
/* wraps: verbs_load */
/*
 * Memory, files, their room, mappings and threads run out at each place where the core asks for them, one after
 * another: the call fails with an error that names no other cause, and leaves no memory, file or mapping behind.
 * Meanwhile no file stays open in a program that the process executes, every mutex is unlocked only by the thread that
 * has locked it, and no thread locks one twice.
 */
#include "base/atomic.h"
#include "check.h"
#include "context.h"
#include "files.h"
#include "objects.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MEMBERS = 4 };
#define NONE INT64_MAX
#define TIMEOUT_NS INT64_C(20000000000)

static int64_t left = NONE; /* requests of all threads before the only one that fails */
static int64_t pieces;      /* of memory that the core has allocated */

static int64_t zero_at = NONE; /* requests for a file before the one that gets the number 0 */

static void make_zero_free(void)
{
    if (__atomic_fetch_sub(&zero_at, 1, __ATOMIC_SEQ_CST) == 0)
        CHECK(!close(0));
}

static bool fails(void) { return __atomic_fetch_sub(&left, 1, __ATOMIC_SEQ_CST) == 0; }

#define WRAP(type, name, failed, why, params, ...) \
    type __real_##name params; \
    type __wrap_##name params; \
    type __wrap_##name params \
    { \
        if (fails()) { \
            errno = why; \
            return failed; \
        } \
        return __real_##name(__VA_ARGS__); \
    }

/* closes: whether exec closes the file */
#define WRAP_FILE(name, closes, params, ...) \
    int __real_##name params; \
    int __wrap_##name params; \
    int __wrap_##name params \
    { \
        CHECK(closes); \
        make_zero_free(); \
        if (fails()) { \
            errno = EMFILE; \
            return -1; \
        } \
        return __real_##name(__VA_ARGS__); \
    }

/* before: the memory that the new one replaces */
#define WRAP_MEMORY(name, before, params, ...) \
    void *__real_##name params; \
    void *__wrap_##name params; \
    void *__wrap_##name params \
    { \
        if (fails()) { \
            errno = ENOMEM; \
            return NULL; \
        } \
        void *made = __real_##name(__VA_ARGS__); \
        __atomic_fetch_add(&pieces, made && !(before), __ATOMIC_SEQ_CST); \
        return made; \
    }

WRAP_MEMORY(malloc, NULL, (size_t n), n)
WRAP_MEMORY(calloc, NULL, (size_t n, size_t each), n, each)
WRAP_MEMORY(aligned_alloc, NULL, (size_t to, size_t n), to, n)
WRAP_MEMORY(realloc, p, (void *p, size_t n), p, n)

void __real_free(void *p);
void __wrap_free(void *p);
void __wrap_free(void *p)
{
    __atomic_fetch_sub(&pieces, p != NULL, __ATOMIC_SEQ_CST);
    __real_free(p);
}

WRAP(void *, mmap, MAP_FAILED, ENOMEM, (void *p, size_t n, int prot, int flags, int fd, off_t at), p, n, prot, flags,
     fd, at)
WRAP(void *, mremap, MAP_FAILED, ENOMEM, (void *p, size_t before, size_t n, int flags), p, before, n, flags)
WRAP(int, ftruncate, -1, ENOSPC, (int fd, off_t n), fd, n)
WRAP(int, fallocate, -1, ENOSPC, (int fd, int mode, off_t at, off_t n), fd, mode, at, n)
WRAP(int, posix_fallocate, ENOSPC, ENOSPC, (int fd, off_t at, off_t n), fd, at, n)
WRAP_FILE(memfd_create, flags &MFD_CLOEXEC, (const char *name, unsigned flags), name, flags)
WRAP_FILE(socket, type &SOCK_CLOEXEC, (int domain, int type, int protocol), domain, type, protocol)
WRAP_FILE(accept4, flags &SOCK_CLOEXEC, (int fd, struct sockaddr *at, socklen_t *n, int flags), fd, at, n, flags)
WRAP_FILE(eventfd, flags &EFD_CLOEXEC, (unsigned value, int flags), value, flags)
WRAP_FILE(epoll_create1, flags &EPOLL_CLOEXEC, (int flags), flags)
WRAP_FILE(timerfd_create, flags &TFD_CLOEXEC, (clockid_t clock, int flags), clock, flags)
WRAP(int, pthread_create, EAGAIN, EAGAIN, (pthread_t * t, const pthread_attr_t *a, void *(*f)(void *), void *arg), t, a,
     f, arg)

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    unsigned mode = flags & O_CREAT ? va_arg(ap, unsigned) : 0;
    va_end(ap);
    CHECK(flags & O_CLOEXEC);
    make_zero_free();
    if (fails()) {
        errno = EMFILE;
        return -1;
    }
    return __real_open(path, flags, mode);
}

int __real_pthread_mutex_lock(pthread_mutex_t *m);
int __wrap_pthread_mutex_lock(pthread_mutex_t *m);
int __real_pthread_mutex_unlock(pthread_mutex_t *m);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *m);

#ifdef __GLIBC__
static __thread pid_t
    locker; /* this thread; in a child of fork, until it locks a mutex: the thread that forked and locked some for it */

static bool is_mine(const pthread_mutex_t *m)
{
    int owner = m->__data.__owner;
    return owner && (owner == gettid() || owner == locker);
}
#endif

int __wrap_pthread_mutex_lock(pthread_mutex_t *m)
{
#ifdef __GLIBC__
    CHECK(!is_mine(m));
    locker = gettid();
#endif
    return __real_pthread_mutex_lock(m);
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *m)
{
#ifdef __GLIBC__
    CHECK(is_mine(m));
#endif
    return __real_pthread_mutex_unlock(m);
}

/* ---- a device, whose objects run out, too ---- */

#ifdef DSM_HAVE_VERBS
#define calloc __real_calloc
#define free __real_free
#define eventfd __real_eventfd
#define pthread_mutex_lock __real_pthread_mutex_lock
#define pthread_mutex_unlock __real_pthread_mutex_unlock
#include "fake_device.h"
#undef calloc
#undef free
#undef eventfd
#undef pthread_mutex_lock
#undef pthread_mutex_unlock

#define SCARCE(type, name, params, ...) \
    static type scarce_##name params \
    { \
        if (fails()) { \
            errno = ENOMEM; \
            return NULL; \
        } \
        return fake_##name(__VA_ARGS__); \
    }

SCARCE(struct ibv_pd *, alloc_pd, (struct ibv_context * c), c)
SCARCE(struct ibv_mr *, reg_mr, (struct ibv_pd * p, void *at, size_t n, int access), p, at, n, access)
SCARCE(struct ibv_mr *, reg_mr_iova, (struct ibv_pd * p, void *at, size_t n, uint64_t wire, int access), p, at, n, wire,
       access)
SCARCE(struct ibv_comp_channel *, create_comp_channel, (struct ibv_context * c), c)
SCARCE(struct ibv_cq *, create_cq, (struct ibv_context * c, int n, void *o, struct ibv_comp_channel *h, int v), c, n, o,
       h, v)
SCARCE(struct ibv_qp *, create_qp, (struct ibv_pd * p, struct ibv_qp_init_attr *a), p, a)

int __wrap_verbs_load(void);
int __wrap_verbs_load(void)
{
#define VERBS_SYM(name, version) ibv.name = fake_##name;
#include "fabric/verbs/sym.def"
#undef VERBS_SYM
    ibv.alloc_pd = scarce_alloc_pd;
    ibv.reg_mr = scarce_reg_mr;
    ibv.reg_mr_iova = scarce_reg_mr_iova;
    ibv.create_comp_channel = scarce_create_comp_channel;
    ibv.create_cq = scarce_create_cq;
    ibv.create_qp = scarce_create_qp;
    return 0;
}
#endif

/* ---- scenes: 0, or the error of the first call that failed; all that was opened is closed ---- */

static int open_on(const char *fabric, const char *fault, dsm_ctx **out)
{
    dsm_options o = options_of(fabric);
    o.fault = fault;
    int rc = dsm_open(&o, out);
    if (rc)
        *out = NULL;
    return rc;
}

static int open_one(const char *fault, dsm_ctx **out) { return open_on("shm", fault, out); }

struct world {
    dsm_ctx *owner, *user;
    dsm_region *region;
    dsm_remote *remote;
};

static void leave(struct world *w)
{
    if (w->remote)
        CHECK(!dsm_remote_close(w->remote));
    if (w->user)
        dsm_close(w->user);
    if (w->region)
        CHECK(!dsm_region_close(w->region));
    if (w->owner)
        dsm_close(w->owner);
}

static int enter(struct world *w, const char *fault, uint64_t nbytes)
{
    uint8_t d[DSM_DESC_MAX];
    *w = (struct world){0};
    int rc = open_one(NULL, &w->owner);
    if (!rc && (rc = dsm_alloc(w->owner, nbytes, 7, &w->region)))
        w->region = NULL;
    if (!rc)
        rc = open_one(fault, &w->user);
    if (!rc && (rc = dsm_attach(w->user, d, (size_t)dsm_region_descriptor(w->region, d), TIMEOUT_NS, &w->remote)))
        w->remote = NULL;
    return rc;
}

/* Of a region that no process may write, the peer gets another file. */
static int read_only(struct world *w, uint64_t nbytes)
{
    uint8_t d[DSM_DESC_MAX];
    dsm_region *region;
    dsm_remote *r;
    int rc = dsm_alloc(w->owner, nbytes, DSM_READ, &region);
    if (rc)
        return rc;
    rc = dsm_attach(w->user, d, (size_t)dsm_region_descriptor(region, d), TIMEOUT_NS, &r);
    if (!rc)
        CHECK(!dsm_remote_close(r));
    CHECK(!dsm_region_close(region));
    return rc;
}

static int many_ops(struct world *w)
{
    static uint64_t out[300];
    dsm_op ops[300];
    for (int i = 0; i < 300; i++)
        ops[i] = (dsm_op){
            .code = DSM_OP_READ, .remote = w->remote, .offset = 8ull * (unsigned)i, .local = out + i, .nbytes = 8};
    return dsm_execute(w->user, ops, 300, TIMEOUT_NS, NULL);
}

/* As an event loop does: the thread that makes connections starts it. */
static int start_one(struct world *w)
{
    uint64_t out;
    size_t failed;
    dsm_op op = {.code = DSM_OP_READ, .remote = w->remote, .local = &out, .nbytes = 8};
    dsm_ticket *t;
    int rc = dsm_start(w->user, &op, 1, &t, &failed);
    if (rc < 0)
        return rc;
    struct pollfd on = {.fd = dsm_event_fd(w->user), .events = POLLIN};
    while (!rc && !dsm_completed(w->user))
        CHECK(poll(&on, 1, -1) == 1);
    return dsm_finish(t, TIMEOUT_NS, &failed);
}

static int local_memory(void)
{
    struct world w;
    uint64_t old;
    int rc = enter(&w, NULL, 8192);
    if (!rc)
        rc = dsm_fetch_add(w.remote, 0, 1, &old, TIMEOUT_NS);
    if (!rc)
        rc = many_ops(&w);
    if (!rc)
        rc = read_only(&w, 8192);
    leave(&w);
    return rc;
}

/* One region of a pool by handle, and as many as make its table grow; all are attached. */
static int use_pool(struct world *w, dsm_pool *pool)
{
    enum { MANY = 40 };
    uint8_t rows[MANY * DSM_DESC_MAX], d[DSM_DESC_MAX];
    uint64_t sizes[MANY], word[2], which[2] = {0, MANY - 1}, at[2] = {0};
    dsm_region *one;
    dsm_remotes *all;
    dsm_remote *item, *alone;
    for (size_t i = 0; i < MANY; i++)
        sizes[i] = 64;
    int rc = dsm_pool_alloc(pool, 64, &one);
    if (rc)
        return rc;
    if (!(rc = dsm_attach(w->user, d, (size_t)dsm_region_descriptor(one, d), TIMEOUT_NS, &alone)))
        CHECK(!dsm_remote_close(alone));
    if (!rc)
        rc = dsm_pool_alloc_many(pool, MANY, sizes, rows);
    if (!rc && !(rc = dsm_attach_many(w->user, rows, MANY * dsm_pool_row(pool), TIMEOUT_NS, &all, NULL))) {
        rc = dsm_remotes_read_many(all, which, at, 2, word, 8, TIMEOUT_NS);
        if (!rc && !(rc = dsm_remotes_get(all, 1, &item)))
            CHECK(!dsm_remote_close(item));
        CHECK(!dsm_remotes_close(all));
        if (!rc)
            rc = dsm_pool_free_many(pool, MANY, rows, NULL);
    }
    CHECK(!dsm_region_close(one));
    return rc;
}

static int in_pool(const char *fault)
{
    struct world w;
    dsm_pool *pool;
    int rc = enter(&w, fault, 64);
    if (!rc && !(rc = dsm_pool_open(w.owner, 8192, 7, &pool))) {
        rc = use_pool(&w, pool);
        CHECK(!dsm_pool_close(pool));
    }
    leave(&w);
    return rc;
}

static int local_pool(void) { return in_pool(NULL); }
static int remote_pool(void) { return in_pool("delay=4:1ms"); }

static int remote_memory(void)
{
    struct world w;
    int rc = enter(&w, "tear=2&duplicate=3&delay=4:1ms", 8192);
    if (!rc)
        rc = start_one(&w);
    if (!rc)
        rc = many_ops(&w);
    leave(&w);
    return rc;
}

#ifdef DSM_HAVE_VERBS
enum { OWN = 5, EACH = 64 * 1024 }; /* too large to be copied for an op */
static uint8_t own[2 * OWN * EACH] __attribute__((aligned(4096))), read_here[EACH];

static int use_each(dsm_ctx *c, dsm_region *const *regions)
{
    int rc = 0;
    for (uint64_t i = 0; i < OWN && !rc; i++) {
        uint8_t d[DSM_DESC_MAX];
        dsm_remote *r;
        uint64_t found;
        rc = dsm_attach(c, d, (size_t)dsm_region_descriptor(regions[i], d), TIMEOUT_NS, &r);
        if (rc)
            return rc;
        rc = dsm_read(r, 0, &found, 8, TIMEOUT_NS);
        CHECK(rc || found == i + 1); /* each region is that of its own buffer */
        if (!rc)
            rc = dsm_read(r, 0, read_here, EACH, TIMEOUT_NS);
        CHECK(!dsm_remote_close(r));
    }
    return rc;
}

/* Memory of the caller's own, all or none; some buffers touch, and share a registration. */
static int private_memory(void)
{
    static const int place[OWN] = {4, 0, 7, 1, 9};
    dsm_ctx *owner = NULL, *user = NULL;
    dsm_region *regions[OWN];
    void *p[OWN];
    uint64_t sizes[OWN];
    for (uint64_t i = 0; i < OWN; i++) {
        uint64_t word = i + 1;
        p[i] = own + place[i] * EACH;
        memcpy(p[i], &word, 8);
        sizes[i] = EACH;
    }
    int rc = open_on("verbs", NULL, &owner);
    if (!rc && !(rc = dsm_register_many(owner, OWN, p, sizes, 7, regions))) {
        rc = open_on("verbs", NULL, &user);
        if (!rc)
            rc = use_each(user, regions);
        for (int i = 0; i < OWN; i++)
            CHECK(!dsm_region_close(regions[i]));
    }
    if (user)
        dsm_close(user);
    if (owner)
        dsm_close(owner);
    CHECK(!fake.regs && !fake.queue_pairs && !fake.torn);
    return rc;
}
#endif

static int forks(void)
{
    struct world w;
    int status, rc = enter(&w, "", 8192);
    if (!rc) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (!child)
            _exit(0);
        CHECK(waitpid(child, &status, 0) == child && !status);
    }
    leave(&w);
    return rc;
}

static int wrong_plans(void)
{
    static const char *const plans[] = {
        "fail=", "fail=1&fail=2&fail=3&no=1", "delay=1", "fail=2-1", "every=0", "kill=1:x", "&"};
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
        dsm_ctx *c;
        int rc = open_one(plans[i], &c);
        CHECK(rc == -DSM_EINVAL || rc == -DSM_ENOMEM);
        if (rc != -DSM_EINVAL)
            return rc;
    }
    return 0;
}

static int file_of(uint64_t nbytes, int *fd)
{
    *fd = __real_memfd_create("object", MFD_CLOEXEC);
    CHECK(*fd >= 0 && !__real_ftruncate(*fd, (off_t)nbytes));
    return 0;
}

static int mapped_again(void)
{
    dsm_remote *r, *more = NULL;
    int fd;
    file_of(8192, &fd);
    int rc = dsm_map(fd, 4096, 7, &r);
    close(fd);
    if (rc)
        return rc;
    rc = dsm_map_again(r, 8192, &more);
    if (!rc)
        dsm_remote_close(more);
    dsm_remote_close(r);
    return rc;
}

/* ---- handles ---- */

#define FIRST(rc, call) \
    if ((rc) >= 0) \
    (rc) = (call)

static int use_lock(dsm_remote *r)
{
    dsm_lock *l;
    int rc = dsm_lock_open(r, -1, &l);
    if (rc)
        return rc;
    FIRST(rc, dsm_lock_acquire(l, TIMEOUT_NS));
    FIRST(rc, dsm_lock_release(l));
    dsm_lock_close(l);
    return rc;
}

static int use_rwlock(dsm_remote *r)
{
    dsm_rwlock *rw;
    uint64_t found[1024];
    int rc = dsm_rwlock_open(r, -1, &rw);
    if (rc)
        return rc;
    FIRST(rc, dsm_rwlock_read(rw, TIMEOUT_NS));
    FIRST(rc, dsm_rwlock_inside(rw, found));
    FIRST(rc, dsm_rwlock_unread(rw));
    FIRST(rc, dsm_rwlock_claim(rw, TIMEOUT_NS));
    FIRST(rc, dsm_rwlock_drain(rw, TIMEOUT_NS));
    FIRST(rc, dsm_rwlock_unclaim(rw, 0));
    dsm_rwlock_close(rw);
    return rc;
}

static int use_semaphore(dsm_remote *r)
{
    dsm_semaphore *m;
    int rc = dsm_semaphore_open(r, -1, &m);
    if (rc)
        return rc;
    FIRST(rc, dsm_semaphore_acquire(m, TIMEOUT_NS));
    FIRST(rc, dsm_semaphore_value(m));
    FIRST(rc, dsm_semaphore_release(m, 1));
    dsm_semaphore_close(m);
    return rc;
}

static int use_counting(dsm_remote *r)
{
    dsm_counting *c;
    int rc = dsm_counting_open(r, -1, &c);
    if (rc)
        return rc;
    FIRST(rc, dsm_counting_acquire(c, TIMEOUT_NS));
    FIRST(rc, dsm_counting_release(c, 1));
    dsm_counting_close(c);
    return rc;
}

static int use_event(dsm_remote *r)
{
    dsm_event *e;
    uint64_t since = DSM_EVENT_NOW;
    int rc = dsm_event_open(r, -1, &e);
    if (rc)
        return rc;
    FIRST(rc, dsm_event_set(e));
    FIRST(rc, dsm_event_wait(e, &since, TIMEOUT_NS));
    dsm_event_close(e);
    return rc;
}

static int use_condition(dsm_remote *r)
{
    dsm_condition *c;
    int rc = dsm_condition_open(r, NULL, -1, &c);
    if (rc)
        return rc;
    FIRST(rc, dsm_lock_acquire(dsm_condition_lock(c), TIMEOUT_NS));
    FIRST(rc, dsm_condition_notify(c, 1));
    FIRST(rc, dsm_lock_release(dsm_condition_lock(c)));
    dsm_condition_close(c);
    return rc;
}

static int use_barrier(dsm_remote *r)
{
    dsm_barrier *b;
    uint64_t generation;
    uint32_t index;
    int rc = dsm_barrier_open(r, -1, &b);
    if (rc)
        return rc;
    FIRST(rc, dsm_barrier_arrive(b, 1, TIMEOUT_NS, &generation, &index));
    dsm_barrier_close(b);
    return rc;
}

static int use_once(dsm_remote *r)
{
    dsm_once *o;
    int rc = dsm_once_open(r, -1, &o);
    if (rc)
        return rc;
    FIRST(rc, dsm_once_begin(o, TIMEOUT_NS));
    FIRST(rc, dsm_once_end(o, 0));
    dsm_once_close(o);
    return rc;
}

static int use_queue(dsm_remote *r)
{
    dsm_queue *q;
    dsm_watch *w = NULL;
    int rc = dsm_queue_open(r, NULL, &q);
    if (rc)
        return rc;
    FIRST(rc, dsm_queue_produce(q));
    FIRST(rc, dsm_queue_push(q, "message", 8, 1));
    FIRST(rc, dsm_queue_flush(q));
    if (dsm_remote_mapped(r)) {
        FIRST(rc, dsm_queue_consume(q));
        FIRST(rc, dsm_watch_open(q, &w));
        if (rc >= 0)
            dsm_watch_arm(w, 0);
        dsm_watch_close(rc < 0 ? NULL : w);
    }
    CHECK(!dsm_queue_close(q));
    return rc;
}

static const struct kind {
    int type;
    uint32_t members, count;
    int (*use)(dsm_remote *r);
} kinds[] = {
    {DSM_LOCK, MEMBERS, 0, use_lock},       {DSM_RWLOCK, MEMBERS, 0, use_rwlock},
    {DSM_SEMAPHORE, 0, 4, use_semaphore},   {DSM_COUNTING, 0, 2, use_counting},
    {DSM_EVENT, 0, 0, use_event},           {DSM_CONDITION, MEMBERS, 4, use_condition},
    {DSM_BARRIER, MEMBERS, 1, use_barrier}, {DSM_ONCE, MEMBERS, 0, use_once},
    {DSM_QUEUE, 0, 0, use_queue},
};

static const dsm_queue_config config = {.lanes = 2, .flags = DSM_QUEUE_CHECKED, .lane_bytes = 4096, .max_message = 64};
static const struct kind *kind;
static bool remote;

static uint64_t bytes_of(void)
{
    return kind->type == DSM_QUEUE ? dsm_queue_nbytes(&config) : dsm_sync_bytes(kind->type, kind->members, kind->count);
}

static void format(void *memory)
{
    if (kind->type == DSM_QUEUE)
        CHECK(!dsm_queue_format(memory, &config));
    else
        CHECK(!dsm_sync_format(memory, kind->type, kind->members, kind->count, 0));
}

static int object(void)
{
    struct world w = {0};
    int fd, rc;
    if (remote) {
        if (!(rc = enter(&w, "", bytes_of())))
            format(dsm_region_data(w.region));
    } else {
        file_of(bytes_of(), &fd);
        if (!(rc = dsm_map(fd, bytes_of(), 7, &w.remote)))
            format(dsm_remote_mapped(w.remote));
        close(fd);
    }
    for (uint32_t i = 0; i < MEMBERS + 2 && rc >= 0; i++) /* entries that were not given back would run out */
        rc = kind->use(w.remote);
    leave(&w);
    return rc;
}

/* ---- the sweep ---- */

static int mappings(void)
{
    char line[4096];
    int n = 0;
    FILE *f = fopen("/proc/self/maps", "re");
    CHECK(f);
    while (fgets(line, sizeof line, f))
        n += strstr(line, "/memfd:") || strstr(line, "/dev/shm/");
    fclose(f);
    return n;
}

static void run_out(const char *name, int (*scene)(void))
{
    CHECK(scene() >= 0); /* from here on all that is allocated once is there */
    int64_t memory = pieces;
    int files = open_files(), maps = mappings(), failed = 0;
    for (int64_t n = 0, more = -1; more < 0; n++) {
        __atomic_store_n(&left, n, __ATOMIC_SEQ_CST);
        int rc = scene(), sys = dsm_last_error()->sys;
        more = __atomic_exchange_n(&left, NONE, __ATOMIC_SEQ_CST);
        failed += rc < 0;
        if (rc < 0 && rc != -DSM_ENOMEM && rc != -DSM_ESYS && rc != -DSM_EPEER && rc != -DSM_ETIME)
            fprintf(stderr, "%s: request %lld: %s: %s\n", name, (long long)n, dsm_strerror(rc),
                    dsm_last_error()->detail);
        CHECK(rc != -DSM_ENOMEM || !sys || sys == ENOMEM || sys == ENOSPC);
        CHECK(pieces == memory);
        CHECK(rc >= 0 || rc == -DSM_ENOMEM || rc == -DSM_ESYS || rc == -DSM_EPEER || rc == -DSM_ETIME);
        if (open_files() != files || mappings() != maps)
            fprintf(stderr, "%s: request %lld: files %d, %d, mappings %d, %d\n", name, (long long)n, files,
                    open_files(), maps, mappings());
        CHECK(open_files() == files && mappings() == maps);
        CHECK(more < 0 || rc >= 0);
    }
    CHECK(failed);
}

/* 0 is the number of a file like any other: a process may have closed its standard input. */
static void number_zero(int (*scene)(void))
{
    if (fcntl(0, F_GETFD) < 0)
        CHECK(__real_open("/dev/null", O_RDWR | O_CLOEXEC) == 0);
    int files = open_files();
    for (int64_t n = 0, more = -1; more < 0; n++) {
        __atomic_store_n(&zero_at, n, __ATOMIC_SEQ_CST);
        CHECK(scene() >= 0);
        more = __atomic_exchange_n(&zero_at, NONE, __ATOMIC_SEQ_CST);
        CHECK(more >= 0 || __real_open("/dev/null", O_RDWR | O_CLOEXEC) == 0); /* the scene has closed it */
        CHECK(open_files() == files);
    }
}

/* A process claims its identity only once, so each round does that in a child. */
static void first_use(void)
{
    uint64_t identity;
    for (int64_t n = 0, more = -1; more < 0; n++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (!child) {
            int files = open_files();
            left = n;
            int rc = dsm_identity(&identity), after = open_files();
            CHECK(after <= files + !rc); /* one stays open, to ask for deaths */
            _exit(left < 0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) < 2);
        more = WEXITSTATUS(status) ? -1 : 0;
    }
}

/* QEMU's user-mode emulation refuses it. */
static bool maps_again(void)
{
    void *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
         *again = mremap(p, 0, 4096, MREMAP_MAYMOVE);
    CHECK(p != MAP_FAILED && !munmap(p, 4096));
    return again != MAP_FAILED && !munmap(again, 4096);
}

int main(void)
{
    first_use();
    run_out("local", local_memory);
    run_out("remote", remote_memory);
    run_out("local pool", local_pool);
    run_out("remote pool", remote_pool);
    run_out("fork", forks);
#ifdef DSM_HAVE_VERBS
    run_out("verbs", private_memory);
#endif
    run_out("plans", wrong_plans);
    if (maps_again())
        run_out("mapped", mapped_again);
    else
        puts("left out: memory that is mapped again, since mremap makes no second mapping here");
    number_zero(local_memory);
    number_zero(remote_memory);
    for (size_t i = 0; i < 2 * sizeof kinds / sizeof *kinds; i++) {
        kind = &kinds[i / 2];
        remote = i % 2;
        run_out(dsm_type_name(kind->type), object);
    }
    puts("ok");
    return 0;
}
