/* Pools: one region of which regions are cut. The agent asks pool_count_live() whether a part of it may be attached. */
#include "../base/crc32.h"
#include "../base/wire.h"
#include "blocks.h"
#include "core.h"

#include <stdlib.h>
#include <string.h>

struct dsm_pool {
    dsm_region *whole;    /* ends with the pool; parts have the memory of their own */
    pthread_mutex_t lock; /* while it is held no other lock is taken */
    struct blocks blocks;
    uint32_t holders; /* the handle, and the regions of dsm_pool_alloc() */
    /* the descriptor of each part up to its tail */
    uint8_t head[DSM_DESC_MAX];
    size_t head_bytes;
    uint32_t head_crc; /* state of crc32_more() */
};

void pool_hold(dsm_pool *p) { fetch_add_u32(&p->holders, 1); }

void pool_drop(dsm_pool *p)
{
    if (fetch_sub_u32(&p->holders, 1) != 1)
        return;
    blocks_destroy(&p->blocks);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

static void write_head(dsm_pool *p)
{
    dsm_descriptor d;
    region_describe(p->whole, &d);
    d.part.generation = 1; /* any that is a part's */
    p->head_bytes = (size_t)descriptor_write(&d, p->head) - DESC_TAIL;
    p->head_crc = crc32_more(~0u, p->head, p->head_bytes);
}

int dsm_pool_open(dsm_ctx *c, uint64_t nbytes, uint32_t access, dsm_pool **out)
{
    if (nbytes > UINT64_MAX - DSM_POOL_ALIGN)
        return err_set(DSM_EINVAL, 0, "a pool of %llu bytes", (unsigned long long)nbytes);
    nbytes = (nbytes + DSM_POOL_ALIGN - 1) / DSM_POOL_ALIGN * DSM_POOL_ALIGN;
    dsm_pool *p = calloc(1, sizeof *p);
    if (!p)
        return err_set(DSM_ENOMEM, 0, "pool");
    int rc = blocks_init(&p->blocks, nbytes);
    if (!rc)
        rc = dsm_alloc(c, nbytes, access, &p->whole);
    if (rc) {
        blocks_destroy(&p->blocks);
        free(p);
        return rc;
    }
    pthread_mutex_init(&p->lock, NULL);
    p->holders = 1;
    write_head(p);
    core_lock(&c->lock); /* the agent looks at the region */
    p->whole->pool = p;
    core_unlock(&c->lock);
    *out = p;
    return 0;
}

int dsm_pool_close(dsm_pool *p)
{
    if (ctx_forked(p->whole->ctx))
        return 0;
    region_end(p->whole); /* from then on the agent does not find the pool */
    pool_drop(p);
    return 0;
}

const dsm_region *dsm_pool_whole(const dsm_pool *p) { return p->whole; }
size_t dsm_pool_row(const dsm_pool *p) { return p->head_bytes + DESC_TAIL; }

/* ---- regions with a handle ---- */

int dsm_pool_alloc(dsm_pool *p, uint64_t nbytes, dsm_region **out)
{
    dsm_ctx *c = p->whole->ctx;
    if (ctx_forked(c))
        return refuse_forked();
    dsm_region *r = malloc(sizeof *r);
    if (!r)
        return err_set(DSM_ENOMEM, 0, "region");
    *r = *p->whole;
    pthread_mutex_lock(&p->lock);
    int rc = blocks_take(&p->blocks, 1, &nbytes, true, &r->part);
    pthread_mutex_unlock(&p->lock);
    if (rc) {
        free(r);
        return rc;
    }
    memory_hold(r->memory);
    pool_hold(p);
    core_lock(&c->lock);
    c->live_parts++;
    core_unlock(&c->lock);
    *out = r;
    return 0;
}

static void take_back(dsm_region *r)
{
    dsm_ctx *c = r->ctx;
    dsm_pool *p = r->pool;
    pthread_mutex_lock(&p->lock);
    blocks_give_back(&p->blocks, &r->part);
    pthread_mutex_unlock(&p->lock);
    pool_drop(p);
    memory_drop(r->memory);
    free(r);
    ctx_leave(c, &c->live_parts);
}

int dsm_region_close(dsm_region *r)
{
    if (ctx_forked(r->ctx)) /* the region belongs to the parent: release nothing */
        return 0;
    if (r->part.generation)
        take_back(r);
    else
        region_end(r);
    return 0;
}

/* ---- many regions, without a handle each ---- */

int dsm_pool_alloc_many(dsm_pool *p, size_t n, const uint64_t *nbytes, void *descriptors)
{
    uint8_t *row = descriptors;
    if (ctx_forked(p->whole->ctx))
        return refuse_forked();
    if (!n)
        return 0;
    struct dsm_part *parts = calloc(n, sizeof *parts);
    if (!parts)
        return err_set(DSM_ENOMEM, 0, "%zu regions", n);
    pthread_mutex_lock(&p->lock);
    int rc = blocks_take(&p->blocks, n, nbytes, false, parts);
    pthread_mutex_unlock(&p->lock);
    for (size_t i = 0; i < n && !rc; i++, row += dsm_pool_row(p)) {
        memcpy(row, p->head, p->head_bytes);
        descriptor_write_tail(&parts[i], p->head_crc, row + p->head_bytes);
    }
    free(parts);
    return rc;
}

/* Checks that it is a descriptor of this pool, and reads its part. */
static int read_row(const dsm_pool *p, const uint8_t *row, struct dsm_part *out)
{
    const uint8_t *tail = row + p->head_bytes;
    if (memcmp(row, p->head, p->head_bytes))
        return err_set(DSM_EINVAL, 0, "the descriptor is not of a region of this pool");
    if (get_u32(tail + DESC_PART) != ~crc32_more(p->head_crc, tail, DESC_PART))
        return err_set(DSM_EDESC, 0, "its checksum is wrong");
    *out = (struct dsm_part){get_u64(tail), get_u64(tail + 8), get_u64(tail + 16), get_u64(tail + 24)};
    return 0;
}

/* Marks the regions that are to be freed, all or none: so one that comes twice is noticed. Under p->lock. */
static int mark_all(dsm_pool *p, size_t n, const struct dsm_part *parts, size_t *failed)
{
    size_t i = 0;
    int rc = 0;
    for (; i < n && !rc; i++)
        if (!blocks_have(&p->blocks, &parts[i]))
            rc = err_set(DSM_ESTALE, 0, "region %zu of %zu has been freed", i, n);
        else if (blocks_held(&p->blocks, &parts[i]))
            rc = err_set(DSM_EINVAL, 0, "region %zu of %zu is that of a handle; close the handle", i, n);
        else if (!blocks_mark(&p->blocks, &parts[i], true))
            rc = err_set(DSM_ESTALE, 0, "region %zu of %zu comes twice", i, n);
    if (!rc)
        return 0;
    *failed = --i;
    while (i)
        blocks_mark(&p->blocks, &parts[--i], false);
    return rc;
}

int dsm_pool_free_many(dsm_pool *p, size_t n, const void *descriptors, size_t *failed)
{
    const uint8_t *row = descriptors;
    size_t ignored, *bad = failed ? failed : &ignored;
    int rc = 0;
    *bad = SIZE_MAX;
    if (ctx_forked(p->whole->ctx))
        return refuse_forked();
    if (!n)
        return 0;
    struct dsm_part *parts = calloc(n, sizeof *parts);
    if (!parts)
        return err_set(DSM_ENOMEM, 0, "%zu regions", n);
    for (size_t i = 0; i < n && !rc; i++, row += dsm_pool_row(p))
        if ((rc = read_row(p, row, &parts[i])))
            *bad = i;
    pthread_mutex_lock(&p->lock);
    if (!rc)
        rc = mark_all(p, n, parts, bad);
    for (size_t i = 0; i < n && !rc; i++)
        blocks_give_back(&p->blocks, &parts[i]);
    pthread_mutex_unlock(&p->lock);
    free(parts);
    return rc;
}

/* ---- the agent ---- */

size_t pool_count_live(dsm_pool *p, const struct dsm_part *parts, size_t n)
{
    size_t i = 0;
    pthread_mutex_lock(&p->lock);
    while (i < n && blocks_have(&p->blocks, &parts[i]))
        i++;
    pthread_mutex_unlock(&p->lock);
    return i;
}
