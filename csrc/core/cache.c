/*
 * The registration cache: local buffers of the caller that stay registered between ops.
 *
 * A device reads and writes a long local buffer in place, so it must be registered. Registering it for each op costs
 * two system calls, and pins its pages each time. The cache keeps the registration until the allocation ends: an op on
 * a part of it finds the registration in the device's table (op_prepare).
 *
 * An address is not enough to recognise a buffer: memory that was freed, and came back at the same address, is other
 * pages. So the caller numbers its allocations and takes the entry out of the cache before it frees one. Where it could
 * not, the next use of such memory under another number, or under none, ends the entry: allocations do not overlap.
 *
 * Of an allocation the cache has first the buffer of its first op, and, once there is an op outside of this, the whole
 * allocation: ops that go through a large array piece by piece make two registrations.
 */
#include "remote.h"

#include <stdlib.h>

enum { ENTRIES_MAX = 256 };

struct dsm_cached {
    struct dsm_cached *next; /* used less recently */
    dsm_ctx *ctx;
    uint64_t number;
    struct memory *memory;
    struct fabric_mem *mem[FABRIC_DEVICES_MAX];
};

static bool covers(const struct dsm_cached *e, const uint8_t *p, uint64_t nbytes)
{
    const uint8_t *start = e->memory->data;
    return p >= start && nbytes <= e->memory->nbytes && (uint64_t)(p - start) <= e->memory->nbytes - nbytes;
}

static void free_entry(struct dsm_cached *e)
{
    for (size_t i = 0; i < e->ctx->ndevs; i++)
        if (e->mem[i])
            registration_end(e->mem[i]);
    memory_drop(e->memory);
    free(e);
}

void dsm_cached_close(dsm_cached *e)
{
    dsm_ctx *c = e->ctx;
    free_entry(e);
    ctx_leave(c, &c->live_cached);
}

/* Takes the entry at *at out of the list. Under cache.lock. */
static struct dsm_cached *unlink_entry(dsm_ctx *c, struct dsm_cached **at)
{
    struct dsm_cached *e = *at;
    *at = e->next;
    c->cache.entries--;
    fetch_add_u64(&c->stats.cache_bytes, -e->memory->nbytes);
    return e;
}

static struct dsm_cached **find(dsm_ctx *c, uint64_t number)
{
    struct dsm_cached **at = &c->cache.first;
    while (*at && (*at)->number != number)
        at = &(*at)->next;
    return at;
}

/* Takes out the entries of other allocations that overlap these bytes. These allocations have ended, and nothing told
 * so: their registrations lead to pages that are not at these addresses any more. Under cache.lock. */
static struct dsm_cached *take_ended(dsm_ctx *c, uint64_t number, const uint8_t *p, uint64_t nbytes)
{
    struct dsm_cached *ended = NULL;
    for (struct dsm_cached **at = &c->cache.first, *e; (e = *at);) {
        const uint8_t *start = e->memory->data;
        if (e->number == number || p >= start + e->memory->nbytes || start >= p + nbytes) {
            at = &e->next;
            continue;
        }
        unlink_entry(c, at);
        e->next = ended;
        ended = e;
    }
    return ended;
}

/* Whether the cache has these bytes; if it has, they count as used. Under cache.lock. */
static bool use(dsm_ctx *c, uint64_t number, const uint8_t *p, uint64_t nbytes)
{
    struct dsm_cached **at = find(c, number), *e = *at;
    if (!e || !covers(e, p, nbytes))
        return false;
    *at = e->next;
    e->next = c->cache.first;
    c->cache.first = e;
    return true;
}

static int register_entry(dsm_ctx *c, struct dsm_cached *e)
{
    int rc = 0;
    for (size_t i = 0; i < c->ndevs && !rc; i++)
        if (c->devs[i]->caches)
            rc = c->devs[i]->fabric->reg(c->devs[i], 1, &e->memory, 0, &e->mem[i]);
    return rc;
}

static int make(dsm_ctx *c, uint64_t number, uint8_t *p, uint64_t nbytes, struct dsm_cached **out)
{
    struct dsm_cached *e = calloc(1, sizeof *e);
    int rc = e ? memory_of_caller(p, nbytes, &e->memory) : err_set(DSM_ENOMEM, 0, "registration");
    if (rc) {
        free(e);
        return rc;
    }
    e->ctx = c;
    e->number = number;
    rc = register_entry(c, e);
    if (rc)
        free_entry(e);
    else
        *out = e;
    return rc;
}

/* Puts the entry in front, and takes out what no longer fits. Returns what is to be closed. */
static struct dsm_cached *enter(dsm_ctx *c, struct dsm_cached *e, const uint8_t *p, uint64_t nbytes)
{
    struct dsm_cached *out = NULL, *victim;
    core_lock(&c->lock);
    c->live_cached++;
    core_unlock(&c->lock);
    pthread_mutex_lock(&c->cache.lock);
    if (use(c, e->number, p, nbytes)) { /* another thread was faster */
        e->next = NULL;
        out = e;
    } else {
        struct dsm_cached **before = find(c, e->number);
        if (*before) {
            out = unlink_entry(c, before);
            out->next = NULL;
        }
        e->next = c->cache.first;
        c->cache.first = e;
        c->cache.entries++;
        fetch_add_u64(&c->stats.cache_bytes, e->memory->nbytes);
    }
    while (c->stats.cache_bytes > c->cache.limit || c->cache.entries > ENTRIES_MAX) {
        struct dsm_cached **last = &c->cache.first;
        while ((*last)->next)
            last = &(*last)->next;
        victim = unlink_entry(c, last);
        victim->next = out;
        out = victim;
        fetch_add_u64(&c->stats.cache_evicted, 1);
    }
    pthread_mutex_unlock(&c->cache.lock);
    return out;
}

static void close_list(struct dsm_cached *e)
{
    for (struct dsm_cached *next; e; e = next) {
        next = e->next;
        dsm_cached_close(e);
    }
}

int dsm_cache_keep(dsm_ctx *c, const dsm_allocation *a, const void *p, uint64_t nbytes)
{
    struct dsm_cached *e = NULL;
    if (nbytes > c->cache.limit)
        return 0;
    if (ctx_forked(c))
        return refuse_forked();
    pthread_mutex_lock(&c->cache.lock);
    struct dsm_cached *ended = take_ended(c, a->number, a->data, a->nbytes);
    bool hit = use(c, a->number, p, nbytes), known = *find(c, a->number);
    pthread_mutex_unlock(&c->cache.lock);
    close_list(ended);
    fetch_add_u64(hit ? &c->stats.cache_hits : &c->stats.cache_misses, 1);
    if (hit || (known && a->nbytes > c->cache.limit))
        return 0;
    int rc = known ? make(c, a->number, a->data, a->nbytes, &e) : make(c, a->number, (uint8_t *)p, nbytes, &e);
    if (!rc)
        close_list(enter(c, e, p, nbytes));
    else if (rc == -DSM_EMEMLOCK)
        cache_clear(c); /* the op itself must be able to register its buffer */
    return rc;
}

void dsm_cache_end(dsm_ctx *c, const void *p, uint64_t nbytes)
{
    if (ctx_forked(c))
        return;
    pthread_mutex_lock(&c->cache.lock);
    struct dsm_cached *ended = take_ended(c, 0, p, nbytes);
    pthread_mutex_unlock(&c->cache.lock);
    close_list(ended);
}

dsm_cached *dsm_cache_take(dsm_ctx *c, uint64_t number)
{
    if (ctx_forked(c)) /* the registrations are the parent's */
        return NULL;
    pthread_mutex_lock(&c->cache.lock);
    struct dsm_cached **at = find(c, number), *e = *at ? unlink_entry(c, at) : NULL;
    pthread_mutex_unlock(&c->cache.lock);
    return e;
}

bool cache_clear(dsm_ctx *c)
{
    pthread_mutex_lock(&c->cache.lock);
    struct dsm_cached *all = NULL, *e;
    while (c->cache.first) {
        e = unlink_entry(c, &c->cache.first);
        e->next = all;
        all = e;
    }
    pthread_mutex_unlock(&c->cache.lock);
    bool any = all;
    close_list(all);
    return any;
}

uint64_t dsm_remote_caches(const dsm_remote *r)
{
    const struct fabric_dev *d = remote_is_mapped(r) ? NULL : r->target.remote->dev;
    return d && d->caches && r->ctx->cache.limit ? d->prepare : UINT64_MAX;
}
