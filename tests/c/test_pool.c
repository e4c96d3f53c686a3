/* Pools in C: what is cut, described, attached and given back by threads at once; what a full pool says; what is held
 * when pool, regions and remotes are closed in any order. Plain, and with a fault plan, under which memory is not
 * mapped. Pools of several owners, which are asked at once. */
#include "agent/agent.h"
#include "base/atomic.h"
#include "check.h"
#include "context.h"

#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 30, MANY = 70, OWNERS = 12, EACH = 3 };

struct scene {
    dsm_ctx *owner, *user;
    dsm_pool *pool;
};

static uint8_t *at(const struct scene *s, const uint8_t *row)
{
    dsm_descriptor d;
    CHECK(!dsm_descriptor_parse(row, dsm_pool_row(s->pool), &d) && d.part.offset % DSM_POOL_ALIGN == 0);
    return (uint8_t *)dsm_region_data(dsm_pool_whole(s->pool)) + d.part.offset;
}

/* Cuts regions of lengths 8, 16…, writes a number into each through remotes, and finds it in the pool. */
static void use_many(const struct scene *s, uint64_t number)
{
    size_t row = dsm_pool_row(s->pool), failed;
    uint8_t *rows = malloc(MANY * row);
    uint64_t sizes[MANY], which[MANY], offsets[MANY], words[MANY], found[MANY];
    dsm_remotes *remotes;
    CHECK(rows);
    for (size_t i = 0; i < MANY; i++) {
        sizes[i] = 8 * (i + 1);
        which[i] = i;
        offsets[i] = sizes[i] - 8;
        words[i] = number + i;
    }
    CHECK(!dsm_pool_alloc_many(s->pool, MANY, sizes, rows));
    CHECK(!dsm_attach_many(s->user, rows, MANY * row, -1, &remotes, &failed) && failed == SIZE_MAX);
    CHECK(dsm_remotes_count(remotes) == MANY);
    dsm_remotes_sizes(remotes, found);
    CHECK(!memcmp(found, sizes, sizeof found));
    CHECK(!dsm_remotes_write_many(remotes, which, offsets, MANY, words, 8, -1));
    CHECK(!dsm_remotes_read_many(remotes, which, offsets, MANY, found, 8, -1) && !memcmp(found, words, sizeof found));
    for (size_t i = 0; i < MANY; i++)
        CHECK(!memcmp(at(s, rows + i * row) + offsets[i], &words[i], 8));
    offsets[MANY - 1]++;
    CHECK(dsm_remotes_write_many(remotes, which, offsets, MANY, words, 8, -1) == -DSM_EBOUNDS);
    CHECK(!dsm_remotes_close(remotes) && !dsm_pool_free_many(s->pool, MANY, rows, &failed));
    CHECK(dsm_attach_many(s->user, rows, MANY * row, -1, &remotes, &failed) == -DSM_ESTALE && failed == 0);
    CHECK(dsm_pool_free_many(s->pool, MANY, rows, &failed) == -DSM_ESTALE && failed == 0);
    free(rows);
}

static void use_one(const struct scene *s, uint64_t number)
{
    uint8_t raw[DSM_DESC_MAX];
    dsm_region *r;
    dsm_remote *remote;
    uint64_t old;
    CHECK(!dsm_pool_alloc(s->pool, 24, &r) && dsm_region_nbytes(r) == 24);
    memset(dsm_region_data(r), 0, 24);
    size_t n = (size_t)dsm_region_descriptor(r, raw);
    CHECK(!dsm_attach(s->user, raw, n, -1, &remote) && dsm_remote_nbytes(remote) == 24);
    CHECK(!dsm_fetch_add(remote, 16, number, &old, -1) && !old);
    CHECK(!dsm_read(remote, 16, &old, 8, -1) && old == number);
    CHECK(dsm_read(remote, 17, &old, 8, -1) == -DSM_EBOUNDS);
    CHECK(!dsm_remote_close(remote) && !dsm_region_close(r));
    CHECK(dsm_attach(s->user, raw, n, -1, &remote) == -DSM_ESTALE);
}

static void *work(void *arg)
{
    for (uint64_t i = 1; i <= ROUNDS; i++) {
        use_many(arg, i << 32);
        use_one(arg, i);
    }
    return NULL;
}

static void by_threads(struct scene *s)
{
    pthread_t threads[THREADS];
    dsm_region *all;
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, work, s));
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_join(threads[i], NULL));
    CHECK(!dsm_pool_alloc(s->pool, dsm_region_nbytes(dsm_pool_whole(s->pool)), &all)); /* all is one run again */
    CHECK(!dsm_region_close(all));
}

/* The pool is closed while one of its regions, and remotes of others, are open. */
static void closed_in_any_order(struct scene *s)
{
    uint64_t sizes[2] = {64, 64}, word = 7;
    uint8_t rows[2 * DSM_DESC_MAX];
    dsm_region *r;
    dsm_remotes *remotes;
    dsm_remote *one;
    size_t row = dsm_pool_row(s->pool);
    CHECK(!dsm_pool_alloc(s->pool, 64, &r) && !dsm_pool_alloc_many(s->pool, 2, sizes, rows));
    CHECK(!dsm_attach_many(s->user, rows, 2 * row, -1, &remotes, NULL) && !dsm_remotes_get(remotes, 1, &one));
    CHECK(dsm_remotes_get(remotes, 2, &one) == -DSM_EBOUNDS);
    CHECK(!dsm_remotes_close(remotes) && !dsm_write(one, 56, &word, 8, -1));
    CHECK(!memcmp(at(s, rows + row) + 56, &word, 8));
    CHECK(!dsm_pool_close(s->pool));
    memset(dsm_region_data(r), 1, 64); /* the region keeps the memory */
    CHECK(dsm_write(one, 56, &word, 8, -1) == -DSM_ESTALE && !dsm_remote_close(one));
    CHECK(dsm_attach_many(s->user, rows, 2 * row, -1, &remotes, NULL) == -DSM_ESTALE);
    dsm_close(s->user);
    dsm_close(s->owner); /* the region keeps what it needs of it */
    CHECK(!dsm_region_close(r));
}

/* ---- several owners ---- */

struct owners {
    dsm_ctx *user, *owner[OWNERS];
    dsm_pool *pool[OWNERS];
    uint8_t rows[OWNERS * EACH * DSM_DESC_MAX];
    size_t at[OWNERS + 1]; /* where the rows of each owner begin */
};

static void open_owners(struct owners *o, const char *plan)
{
    uint64_t sizes[EACH] = {64, 64, 64};
    o->user = open_context(plan);
    o->at[0] = 0;
    for (size_t i = 0; i < OWNERS; i++) {
        o->owner[i] = open_context(plan);
        CHECK(!dsm_pool_open(o->owner[i], 4096, DSM_READ | DSM_WRITE, &o->pool[i]));
        CHECK(!dsm_pool_alloc_many(o->pool[i], EACH, sizes, o->rows + o->at[i]));
        o->at[i + 1] = o->at[i] + EACH * dsm_pool_row(o->pool[i]);
    }
}

static void close_owners(struct owners *o)
{
    dsm_close(o->user);
    for (size_t i = 0; i < OWNERS; i++) {
        CHECK(!dsm_pool_close(o->pool[i]));
        dsm_close(o->owner[i]);
    }
}

/* While they are held, no owner answers. */
static void hold(struct owners *o, bool on)
{
    for (size_t i = 0; i < OWNERS; i++)
        if (on)
            pthread_mutex_lock(&o->owner[i]->agent->turn);
        else
            pthread_mutex_unlock(&o->owner[i]->agent->turn);
}

static int attach_all(struct owners *o, dsm_remotes **out, size_t *failed)
{
    enum { A_LONG_TIME = 120 };
    return dsm_attach_many(o->user, o->rows, o->at[OWNERS], A_LONG_TIME * INT64_C(1000000000), out, failed);
}

static void *attach_and_use(void *arg)
{
    struct owners *o = arg;
    dsm_remotes *all;
    size_t failed;
    CHECK(!attach_all(o, &all, &failed) && failed == SIZE_MAX && dsm_remotes_count(all) == OWNERS * EACH);
    for (uint64_t i = 0; i < OWNERS * EACH; i++) {
        uint64_t offset = 8, word = i + 1;
        dsm_descriptor d;
        CHECK(!dsm_remotes_write_many(all, &i, &offset, 1, &word, 8, -1));
        size_t row = (o->at[i / EACH + 1] - o->at[i / EACH]) / EACH;
        CHECK(!dsm_descriptor_parse(o->rows + o->at[i / EACH] + i % EACH * row, row, &d));
        CHECK(!memcmp((uint8_t *)dsm_region_data(dsm_pool_whole(o->pool[i / EACH])) + d.part.offset + 8, &word, 8));
    }
    CHECK(!dsm_remotes_close(all));
    return NULL;
}

static size_t count_connected(dsm_ctx *c)
{
    size_t n = 0;
    pthread_mutex_lock(&c->lock);
    for (struct peer *p = c->peers; p; p = p->next)
        n += p->fd >= 0;
    pthread_mutex_unlock(&c->lock);
    return n;
}

/* Before one of them has answered there are connections to eight: the caller's and those of seven threads. */
static void asked_at_once(const char *plan)
{
    struct owners o;
    pthread_t thread;
    open_owners(&o, plan);
    hold(&o, true);
    CHECK(!pthread_create(&thread, NULL, attach_and_use, &o));
    while (count_connected(o.user) < 8)
        usleep(1000);
    hold(&o, false);
    CHECK(!pthread_join(thread, NULL));
    attach_and_use(&o); /* over connections that are there */
    close_owners(&o);
}

/* Whichever owner answers first, the first descriptor that is refused is named, and nothing stays attached. */
static void first_refused(const char *plan)
{
    struct owners o;
    dsm_remotes *all;
    size_t failed;
    open_owners(&o, plan);
    for (size_t i = OWNERS - 1; i > 1; i--) {
        size_t row = dsm_pool_row(o.pool[i]);
        CHECK(!dsm_pool_free_many(o.pool[i], 1, o.rows + o.at[i] + row, &failed));
        CHECK(attach_all(&o, &all, &failed) == -DSM_ESTALE && dsm_last_error()->code == DSM_ESTALE);
        CHECK(failed == i * EACH + 1);
    }
    CHECK(load_relaxed_u64(&o.user->live_remotes) == 0);
    close_owners(&o);
}

static uint32_t forked; /* the child; 0 in the child itself */
static int interrupt_it(void) { return 1; }
static int fork_in_it(void)
{
    if (!load_acquire_u32(&forked))
        store_release_u32(&forked, (uint32_t)fork());
    return 0;
}

static uint32_t holding;

/* Holds the owners until the other thread has forked. */
static void *hold_until_fork(void *arg)
{
    hold(arg, true);
    store_release_u32(&holding, 1);
    while (load_acquire_u32(&forked) == 0)
        usleep(1000);
    hold(arg, false);
    return NULL;
}

/* A signal handler ends the wait for owners that do not answer. */
static void interrupted(const char *plan)
{
    struct owners o;
    dsm_remotes *all;
    size_t failed;
    open_owners(&o, plan);
    hold(&o, true);
    dsm_set_interrupt(interrupt_it);
    CHECK(attach_all(&o, &all, &failed) == -DSM_ETIME);
    hold(&o, false);
    dsm_set_interrupt(NULL);
    attach_and_use(&o);
    close_owners(&o);
}

/* The child of a handler that forks does not wait for threads that it does not have. */
static void forked_in_the_middle(const char *plan)
{
    struct owners o;
    dsm_remotes *all;
    size_t failed;
    pthread_t thread;
    int status;
    open_owners(&o, plan);
    CHECK(!pthread_create(&thread, NULL, hold_until_fork, &o));
    while (!load_acquire_u32(&holding))
        usleep(1000);
    dsm_set_interrupt(fork_in_it);
    int rc = attach_all(&o, &all, &failed);
    pid_t child = (pid_t)load_acquire_u32(&forked);
    if (!child)
        _exit(rc == -DSM_EFORK ? 0 : 1);
    dsm_set_interrupt(NULL);
    CHECK(!pthread_join(thread, NULL));
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(!rc && !dsm_remotes_close(all));
    forked = holding = 0;
    close_owners(&o);
}

int main(void)
{
    static const char *const plans[] = {NULL, ""};
    for (size_t i = 0; i < 2; i++) {
        struct scene s = {open_context(plans[i]), open_context(plans[i]), NULL};
        CHECK(dsm_pool_open(s.owner, 0, DSM_READ, &s.pool) == -DSM_EINVAL);
        CHECK(dsm_pool_open(s.owner, UINT64_MAX, DSM_READ, &s.pool) == -DSM_EINVAL);
        CHECK(!dsm_pool_open(s.owner, 1000000, DSM_READ | DSM_WRITE | DSM_ATOMIC, &s.pool));
        CHECK(dsm_region_nbytes(dsm_pool_whole(s.pool)) == 1000000);
        by_threads(&s);
        closed_in_any_order(&s);
        asked_at_once(plans[i]);
        first_refused(plans[i]);
        interrupted(plans[i]);
        forked_in_the_middle(plans[i]);
    }
    puts("ok");
    return 0;
}
