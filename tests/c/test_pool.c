/* Pools in C: what is cut, described, attached and given back by threads at once; what a full pool says; what is held
 * when pool, regions and remotes are closed in any order. Plain, and with a fault plan, under which memory is not
 * mapped. */
#include "check.h"
#include "context.h"

#include <pthread.h>
#include <string.h>

enum { THREADS = 4, ROUNDS = 30, MANY = 70 };

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
    }
    puts("ok");
    return 0;
}
