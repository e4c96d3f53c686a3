/* wraps: verbs_fork_copies */
/* The registration cache, with a fake device: what it keeps, for how long, and what makes room. */
#ifdef DSM_HAVE_VERBS
#include "check.h"
#include "context.h"
#include "core/core.h"
#include "fabric/verbs/verbs.h"
#include "fake_device.h"

#include <pthread.h>

enum { PART = 64 * 1024, WHOLE = 4 * PART, LIMIT = 2 * WHOLE };

static bool copies = true; /* fork() copies registered pages */
bool __wrap_verbs_fork_copies(void);
bool __wrap_verbs_fork_copies(void) { return copies; }

static uint8_t memory[4][WHOLE];
static dsm_ctx *owner, *user;
static dsm_region *region;
static dsm_remote *remote;
static int before; /* registrations without the cache's */

static int registrations(void)
{
    pthread_mutex_lock(&fake.lock);
    int n = fake.regs;
    pthread_mutex_unlock(&fake.lock);
    return n;
}

static void open_two(uint64_t limit)
{
    uint8_t raw[DSM_DESC_MAX];
    dsm_options o = options_of("verbs");
    CHECK(o.cache_bytes == DSM_CACHE_BYTES);
    CHECK(!dsm_open(&o, &owner));
    o.cache_bytes = limit;
    CHECK(!dsm_open(&o, &user));
    CHECK(!dsm_alloc(owner, WHOLE, 7, &region));
    CHECK(!dsm_attach(user, raw, (size_t)dsm_region_descriptor(region, raw), -1, &remote));
    CHECK(!dsm_read(remote, 0, memory[0], 1, -1)); /* makes the connection */
    before = registrations();
}

static void close_two(void)
{
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    CHECK(!dsm_region_close(region));
    dsm_close(owner);
    CHECK(!fake.regs && !fake.torn);
}

static dsm_allocation allocation(int i) { return (dsm_allocation){(uint64_t)i + 1, memory[i], WHOLE}; }

static void keep(int i, uint64_t at, uint64_t nbytes)
{
    dsm_allocation a = allocation(i);
    dsm_cache_keep(user, &a, memory[i] + at, nbytes);
}

static dsm_stats stats(void)
{
    dsm_stats s;
    dsm_get_stats(user, &s);
    return s;
}

/* Ops on what the cache has make no registration: one would fail. */
static void read_in_place(int i, uint64_t at, uint64_t nbytes)
{
    ((uint8_t *)dsm_region_data(region))[nbytes - 1] ^= 0x55;
    fake.full = true;
    CHECK(!dsm_read(remote, 0, memory[i] + at, nbytes, -1));
    fake.full = false;
    CHECK(!memcmp(memory[i] + at, dsm_region_data(region), nbytes));
}

static void drop(int i)
{
    dsm_cached *e = dsm_cache_take(user, (uint64_t)i + 1);
    if (e)
        dsm_cached_close(e);
}

/* First the part that an op uses, then the whole. */
static void part_then_whole(void)
{
    open_two(LIMIT);
    CHECK(dsm_remote_caches(remote) < PART);
    keep(0, PART, PART);
    CHECK(registrations() == before + 1);
    keep(0, PART, PART);
    keep(0, PART + 8, PART - 8);
    CHECK(stats().cache_hits == 2 && stats().cache_misses == 1 && registrations() == before + 1);
    read_in_place(0, PART + 8, PART - 8);
    keep(0, PART - 8, PART);
    CHECK(stats().cache_misses == 2 && registrations() == before + 1); /* the whole in place of the part */
    keep(0, 0, WHOLE);
    keep(0, WHOLE - PART, PART);
    CHECK(stats().cache_hits == 4 && stats().cache_misses == 2 && !stats().cache_evicted);
    read_in_place(0, 0, WHOLE);
    drop(0);
    CHECK(registrations() == before && !dsm_cache_take(user, 1));
    keep(0, 0, PART); /* begins again */
    CHECK(stats().cache_misses == 3 && registrations() == before + 1);
    close_two();
}

/* The same address under another number is another allocation. */
static void back_at_the_same_address(void)
{
    open_two(LIMIT);
    keep(0, 0, PART);
    drop(0);
    dsm_cache_keep(user, &(dsm_allocation){9, memory[0], WHOLE}, memory[0], PART);
    CHECK(!stats().cache_hits && stats().cache_misses == 2 && registrations() == before + 1);
    drop(0); /* not there any more */
    CHECK(registrations() == before + 1);
    close_two();
}

/* The address of the local memory of the last request. */
static const void *last_local(void)
{
    struct verbs_ep *e = (struct verbs_ep *)remote->peer->ep;
    const struct fake_qp *q = (const struct fake_qp *)(const void *)e->qp;
    return (const void *)(uintptr_t)q->r[(q->head - 1) % q->depth].s.addr;
}

/* An allocation ends, and nothing tells so. What uses its memory next is not led to the pages that were there. */
static void back_without_notice(void)
{
    open_two(LIMIT);
    keep(0, 0, PART);
    CHECK(!dsm_read(remote, 0, memory[0], 1000, -1) && last_local() != memory[0]); /* too short to be kept */
    dsm_cache_keep(user, &(dsm_allocation){9, memory[0] + PART / 2, WHOLE - PART / 2}, memory[0] + PART, PART);
    CHECK(registrations() == before + 1 && !dsm_cache_take(user, 1) && stats().cache_bytes == PART);
    CHECK(!dsm_read(remote, 0, memory[0] + PART, PART, -1) && last_local() == memory[0] + PART);
    dsm_cache_end(user, memory[0], PART);
    CHECK(registrations() == before + 1);
    dsm_cache_end(user, memory[0] + 2 * PART - 1, 1);
    CHECK(registrations() == before && !dsm_cache_take(user, 9) && !stats().cache_bytes);
    close_two();
}

/* What was used least recently makes room; what is longer than the limit is not kept. */
static void bounded(void)
{
    static uint8_t other[4 * WHOLE];
    open_two(LIMIT);
    for (int i = 0; i < 2; i++)
        keep(i, 0, WHOLE);
    keep(0, 0, PART); /* used */
    keep(2, 0, WHOLE);
    CHECK(registrations() == before + 2 && stats().cache_evicted == 1);
    read_in_place(0, 0, WHOLE);
    read_in_place(2, 0, WHOLE);
    dsm_cache_keep(user, &(dsm_allocation){9, other, sizeof other}, other, LIMIT + 1);
    CHECK(registrations() == before + 2 && stats().cache_evicted == 1);
    dsm_cache_keep(user, &(dsm_allocation){9, other, sizeof other}, other, PART);
    CHECK(registrations() == before + 2 && stats().cache_evicted == 2);
    dsm_cache_keep(user, &(dsm_allocation){9, other, sizeof other}, other + WHOLE, PART); /* the whole is too long */
    CHECK(registrations() == before + 2 && stats().cache_evicted == 2);
    for (uint64_t number = 100; number < 500; number++)
        dsm_cache_keep(user, &(dsm_allocation){number, memory[3] + 8 * number, 8}, memory[3] + 8 * number, 8);
    CHECK(registrations() == before + 256);
    close_two();
}

/* Registrations that are needed are made at the cache's cost. */
static void makes_room(void)
{
    static uint8_t more[PART];
    dsm_region *r;
    open_two(LIMIT);
    keep(0, 0, PART);
    fake.full = true;
    CHECK(dsm_register(user, more, sizeof more, 1, &r) == -DSM_ENOMEM);
    CHECK(registrations() == before);
    fake.full = false;
    fake.most = before + 1;
    keep(0, 0, PART);
    CHECK(!dsm_register(user, more, sizeof more, 1, &r)); /* in place of what the cache had */
    CHECK(registrations() == before + 1 && !stats().cache_bytes && !dsm_region_close(r));
    keep(0, 0, PART);
    CHECK(!dsm_write(remote, 0, more, sizeof more, -1) && !stats().cache_bytes);
    fake.most = 0;
    keep(0, 0, PART);
    fake.full = true;
    CHECK(!dsm_write(remote, 0, more, sizeof more, -1)); /* in pieces, which are copied */
    CHECK(registrations() == before);
    fake.full = false;
    close_two();
}

static void *keep_and_read(void *arg)
{
    uint64_t i = (uint64_t)(uintptr_t)arg;
    for (int n = 0; n < 200; n++) {
        keep(3, i % 2 ? 0 : PART, PART);
        CHECK(!dsm_read(remote, 0, memory[i % 3], PART, -1));
        keep((int)(i % 3), 0, WHOLE);
        if (n % 16 == 0)
            drop((int)(i % 3));
    }
    return NULL;
}

static void threads(void)
{
    pthread_t t[3];
    open_two(LIMIT);
    for (uintptr_t i = 0; i < 3; i++)
        CHECK(!pthread_create(&t[i], NULL, keep_and_read, (void *)i));
    for (int i = 0; i < 3; i++)
        CHECK(!pthread_join(t[i], NULL));
    for (int i = 0; i < 4; i++)
        drop(i);
    CHECK(registrations() == before);
    close_two();
}

/* An entry that was taken out outlives its context. */
static void closed_late(void)
{
    open_two(LIMIT);
    keep(0, 0, PART);
    keep(1, 0, PART);
    dsm_cached *e = dsm_cache_take(user, 1);
    CHECK(e && registrations() == before + 2);
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    dsm_cached_close(e);
    CHECK(!dsm_region_close(region));
    dsm_close(owner);
    CHECK(!fake.regs && !fake.torn);
}

static void switched_off(void)
{
    open_two(0);
    CHECK(dsm_remote_caches(remote) == UINT64_MAX);
    keep(0, 0, PART);
    CHECK(registrations() == before);
    close_two();
    copies = false;
    open_two(LIMIT);
    CHECK(dsm_remote_caches(remote) == UINT64_MAX);
    close_two();
    copies = true;
}

int main(void)
{
    if (!fake_install()) {
        puts("ok: no libibverbs");
        return 0;
    }
    part_then_whole();
    back_at_the_same_address();
    back_without_notice();
    bounded();
    makes_room();
    threads();
    closed_late();
    switched_off();
    puts("ok");
    return 0;
}
#else
#include "without_verbs.h"
#endif
