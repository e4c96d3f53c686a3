/* Regions, the memory of this process that other processes access: creating and closing them, and their table. */
#include "../base/random.h"
#include "core.h"

#include <stdlib.h>
#include <string.h>

static int check_access(uint32_t access)
{
    if (!access || access > (DSM_READ | DSM_WRITE | DSM_ATOMIC))
        return err_set(DSM_EINVAL, 0, "access %u: rights are any of read, write and atomic", access);
    return 0;
}

static int check(const dsm_ctx *c, uint64_t nbytes, uint32_t access)
{
    if (ctx_forked(c))
        return refuse_forked();
    if (!nbytes)
        return err_set(DSM_EINVAL, 0, "a region needs at least one byte");
    if (nbytes > c->caps.max_region)
        return err_set(DSM_EINVAL, 0, "a region of %llu bytes; this fabric takes up to %llu",
                       (unsigned long long)nbytes, (unsigned long long)c->caps.max_region);
    return check_access(access);
}

/* A slot holds the pointer to a region or, shifted left by one and with bit 0 set, the index of the next free slot. */
static bool is_free(const dsm_region *slot) { return (uintptr_t)slot & 1; }
static dsm_region *free_slot(uint64_t next) { return (dsm_region *)(uintptr_t)(next << 1 | 1); }

/* Grows the table until n more regions fit. Under ctx->lock. */
static int reserve(dsm_ctx *c, size_t n)
{
    if (c->capregions - c->live_regions >= n)
        return 0;
    size_t cap = (c->live_regions + n) * 2;
    dsm_region **p = realloc(c->regions, cap * sizeof *p);
    if (!p)
        return err_set(DSM_ENOMEM, 0, "table of regions");
    for (size_t i = c->capregions; i < cap; i++)
        p[i] = free_slot(i + 1 < cap ? i + 1 : c->free_region);
    c->free_region = c->capregions;
    c->regions = p;
    c->capregions = cap;
    return 0;
}

/* Generations are random, so that a descriptor from an earlier process at the same address matches no region of this
 * one. 0 is not a valid generation: it is drawn again. */
static int set_generations(dsm_region **regions, size_t n)
{
    uint64_t random[32];
    for (size_t i = 0; i < n;) {
        size_t some = n - i < 32 ? n - i : 32;
        int rc = random_bytes(random, some * sizeof *random);
        if (rc)
            return rc;
        for (size_t k = 0; k < some && random[k]; k++)
            regions[i++]->generation = random[k];
    }
    return 0;
}

static int enter(dsm_ctx *c, size_t n, struct fabric_mem *const *mem, dsm_region **out)
{
    size_t made = 0;
    for (; made < n; made++) {
        dsm_region *r = malloc(sizeof *r);
        if (!r)
            break;
        *r = (dsm_region){.ctx = c, .mem = mem[made]};
        out[made] = r;
    }
    int rc = made < n ? err_set(DSM_ENOMEM, 0, "region") : set_generations(out, n);
    pthread_mutex_lock(&c->lock);
    if (!rc)
        rc = reserve(c, n);
    for (size_t i = 0; !rc && i < n; i++) {
        uint64_t id = c->free_region;
        c->free_region = (uintptr_t)c->regions[id] >> 1;
        c->regions[id] = out[i];
        out[i]->id = id;
        c->live_regions++;
    }
    pthread_mutex_unlock(&c->lock);
    if (rc)
        while (made)
            free(out[--made]);
    return rc;
}

int dsm_alloc(dsm_ctx *c, uint64_t nbytes, uint32_t access, dsm_region **out)
{
    int rc = check(c, nbytes, access);
    if (rc)
        return rc;
    struct fabric_mem *m;
    rc = c->dev->fabric->mem_alloc(c->dev, nbytes, access, &m);
    if (!rc && (rc = enter(c, 1, &m, out)))
        c->dev->fabric->mem_free(m);
    return rc;
}

int dsm_register_many(dsm_ctx *c, size_t n, void *const *p, const uint64_t *nbytes, uint32_t access, dsm_region **out)
{
    if (!n)
        return 0;
    for (size_t i = 0; i < n; i++) {
        int rc = check(c, nbytes[i], access);
        if (rc)
            return rc;
        if (!p[i])
            return err_set(DSM_EINVAL, 0, "buffer %zu is NULL", i);
    }
    struct fabric_mem **mem = calloc(n, sizeof(struct fabric_mem *));
    if (!mem)
        return err_set(DSM_ENOMEM, 0, "%zu regions", n);
    int rc = c->dev->fabric->mem_register(c->dev, n, p, nbytes, access, mem);
    if (!rc && (rc = enter(c, n, mem, out)))
        for (size_t i = 0; i < n; i++)
            c->dev->fabric->mem_free(mem[i]);
    free(mem);
    return rc;
}

int dsm_register(dsm_ctx *c, void *p, uint64_t nbytes, uint32_t access, dsm_region **out)
{
    return dsm_register_many(c, 1, &p, &nbytes, access, out);
}

void ctx_leave(dsm_ctx *c, uint64_t *live)
{
    pthread_mutex_lock(&c->lock);
    --*live;
    bool last = c->closed && !c->live_regions && !c->live_remotes;
    pthread_mutex_unlock(&c->lock);
    if (last)
        c->control->free(c);
}

int dsm_region_close(dsm_region *r)
{
    dsm_ctx *c = r->ctx;
    if (ctx_forked(c)) /* the region belongs to the parent: release nothing */
        return 0;
    pthread_mutex_lock(&c->lock);
    c->regions[r->id] = free_slot(c->free_region);
    c->free_region = r->id;
    pthread_mutex_unlock(&c->lock);
    c->dev->fabric->mem_free(r->mem);
    free(r);
    ctx_leave(c, &c->live_regions);
    return 0;
}

dsm_region *region_find(dsm_ctx *c, uint64_t id, uint64_t generation)
{
    if (id >= c->capregions || is_free(c->regions[id]) || c->regions[id]->generation != generation)
        return NULL;
    return c->regions[id];
}

void *dsm_region_data(const dsm_region *r) { return r->mem->data; }
uint64_t dsm_region_nbytes(const dsm_region *r) { return r->mem->nbytes; }
uint32_t dsm_region_access(const dsm_region *r) { return r->mem->access; }

int dsm_region_descriptor(const dsm_region *r, uint8_t buf[DSM_DESC_MAX])
{
    if (ctx_forked(r->ctx))
        return refuse_forked();
    dsm_descriptor d = {.access = r->mem->access,
                        .kind = r->mem->kind,
                        .fabric = r->ctx->dev->wire_id,
                        .region = r->id,
                        .generation = r->generation,
                        .nbytes = r->mem->nbytes,
                        .base = r->mem->base,
                        .key = r->mem->key};
    memcpy(d.node, r->ctx->node, DSM_NODE_ID);
    strcpy(d.address, r->ctx->address);
    return descriptor_write(&d, buf);
}
