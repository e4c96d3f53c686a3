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
    return check_access(access);
}

/* ---- registering with the devices ---- */

/* Words that are changed by atomics are changed in one domain, that of the CPUs or that of one device, as atomics of
 * different domains do not exclude each other. Therefore a device that has a domain of its own serves a region with
 * atomics alone, but for bulk. NULL: all devices of the context have the domain of the CPUs, or no atomics. */
static const struct fabric_dev *only_domain(const dsm_ctx *c)
{
    enum { OF_THE_DEVICE = 1 };
    for (size_t i = 0; i < c->ndevs; i++)
        if (c->devs[i]->caps.atomic_domain == OF_THE_DEVICE)
            return c->devs[i];
    return NULL;
}

/* The rights that device i grants on a region: those to atomics are granted by one device alone, where it has a domain
 * of its own. */
static uint32_t rights_by(const dsm_ctx *c, size_t i, uint32_t access)
{
    const struct fabric_dev *only = only_domain(c);
    return only && only != c->devs[i] ? access & ~DSM_ATOMIC : access;
}

/* Whether device i serves a region with these rights for bulk only: its atomics are another device's, of another
 * fabric. Before each use by this way a READ goes by the other (core/bulk.h). */
static bool serves_bulk(const dsm_ctx *c, size_t i, uint32_t access)
{
    const struct fabric_dev *d = c->devs[i], *only = access & DSM_ATOMIC ? only_domain(c) : NULL;
    return only && d->wire_id != only->wire_id && d->caps.local_memory && access & DSM_READ;
}

/* Whether device i serves regions of this kind: with these rights, allocated by the core or the caller's own. A context
 * with one device asks that device whatever the region is, so that the error is the device's. */
static bool serves(const dsm_ctx *c, size_t i, uint32_t access, bool allocated)
{
    const struct fabric_dev *d = c->devs[i], *only = access & DSM_ATOMIC ? only_domain(c) : NULL;
    enum { NO_ATOMICS = 3 };
    if (c->ndevs == 1)
        return true;
    return (!only || d->wire_id == only->wire_id || serves_bulk(c, i, access)) && rights_by(c, i, access) &&
           (allocated || d->caps.register_private) && !(access & DSM_ATOMIC && d->caps.atomic_domain == NO_ATOMICS);
}

uint32_t ctx_devices(const dsm_ctx *c, uint32_t wire_id, uint32_t *atomics)
{
    const struct fabric_dev *only = only_domain(c);
    uint32_t n = 0;
    for (size_t i = 0; i < c->ndevs; i++)
        n += c->devs[i]->wire_id == wire_id;
    *atomics = n > 1 && only && only->wire_id == wire_id ? 1 + only->number : 0;
    return n;
}

static int check_size(const struct fabric_dev *d, uint64_t nbytes)
{
    return nbytes <= d->caps.max_region
               ? 0
               : err_set(DSM_EINVAL, 0, "a region of %llu bytes; %s takes up to %llu", (unsigned long long)nbytes,
                         d->caps.fabric, (unsigned long long)d->caps.max_region);
}

static void unregister(const dsm_ctx *c, dsm_region *r)
{
    for (size_t i = 0; i < c->ndevs; i++)
        if (r->mem[i])
            registration_end(r->mem[i]);
}

/* Registers n regions, which have the same rights and kind of memory, with device i: all or none. */
static int register_with(dsm_ctx *c, size_t i, size_t n, struct memory *const *memory, dsm_region **regions)
{
    struct fabric_mem **mem = calloc(n, sizeof(struct fabric_mem *));
    uint32_t rights = rights_by(c, i, regions[0]->access);
    int rc = mem ? 0 : err_set(DSM_ENOMEM, 0, "%zu regions", n);
    for (size_t k = 0; k < n && !rc; k++)
        rc = check_size(c->devs[i], memory[k]->nbytes);
    if (!rc)
        rc = c->devs[i]->fabric->reg(c->devs[i], n, memory, rights, mem);
    if (mem && (rc == -DSM_EMEMLOCK || rc == -DSM_ENOMEM) && cache_clear(c))
        rc = c->devs[i]->fabric->reg(c->devs[i], n, memory, rights, mem);
    for (size_t k = 0; k < n && !rc; k++)
        regions[k]->mem[i] = mem[k];
    free(mem);
    return rc;
}

/* Registers with all devices that serve such regions. On failure unregister() undoes what has been done. */
static int register_all(dsm_ctx *c, size_t n, struct memory *const *memory, dsm_region **regions)
{
    bool served = false;
    for (size_t i = 0; i < c->ndevs; i++) {
        if (!serves(c, i, regions[0]->access, memory[0]->mapped))
            continue;
        int rc = register_with(c, i, n, memory, regions);
        if (rc)
            return rc;
        served = true;
    }
    return served ? 0
                  : err_set(DSM_ENOTSHARED, 0, "no fabric of this context can register memory that is already there");
}

/* ---- the table ---- */

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

/* Enters the regions into the table: from then on the agent finds them. All or none. */
static int enter(dsm_ctx *c, size_t n, dsm_region **regions)
{
    int rc = set_generations(regions, n);
    core_lock(&c->lock);
    if (!rc)
        rc = reserve(c, n);
    for (size_t i = 0; !rc && i < n; i++) {
        uint64_t id = c->free_region;
        c->free_region = (uintptr_t)c->regions[id] >> 1;
        c->regions[id] = regions[i];
        regions[i]->id = id;
        c->live_regions++;
    }
    core_unlock(&c->lock);
    return rc;
}

/* ---- making and closing ---- */

static void region_free(dsm_region *r)
{
    memory_drop(r->memory);
    free(r);
}

/* Makes regions of n memories: all or none. Takes over one reference to each memory, also on failure. */
static int make(dsm_ctx *c, size_t n, struct memory **memory, uint32_t access, dsm_region **out)
{
    size_t made = 0;
    int rc = 0;
    for (dsm_region *r; made < n && (r = malloc(sizeof *r)); made++) {
        *r = (dsm_region){.ctx = c, .memory = memory[made], .access = access};
        r->part.nbytes = memory[made]->nbytes;
        out[made] = r;
    }
    if (made < n) {
        rc = err_set(DSM_ENOMEM, 0, "region");
        for (size_t i = made; i < n; i++)
            memory_drop(memory[i]);
    }
    if (!rc)
        rc = register_all(c, n, memory, out);
    if (!rc)
        rc = enter(c, n, out);
    while (rc && made) {
        unregister(c, out[--made]);
        region_free(out[made]);
    }
    return rc;
}

/* Memory that all devices can register which serve such regions. */
static int alloc(const dsm_ctx *c, uint64_t nbytes, uint32_t access, unsigned flags, struct memory **out)
{
    for (size_t i = 0; i < c->ndevs; i++) {
        int rc = serves(c, i, access, true) ? check_size(c->devs[i], nbytes) : 0;
        if (rc)
            return rc;
        if (serves(c, i, access, true) && c->devs[i]->maps)
            flags |= MEMORY_SHARED;
    }
    return memory_alloc(nbytes, flags | (access & (DSM_WRITE | DSM_ATOMIC) ? 0 : MEMORY_READONLY), out);
}

int dsm_alloc(dsm_ctx *c, uint64_t nbytes, uint32_t access, dsm_region **out)
{
    struct memory *m;
    int rc = check(c, nbytes, access);
    if (!rc)
        rc = alloc(c, nbytes, access, MEMORY_HUGE, &m);
    if (rc)
        return rc;
    bool huge = m->huge;
    rc = make(c, 1, &m, access, out);
    if (!rc || !huge)
        return rc;
    /* Registering huge pages fails if libibverbs marks only a part of one with MADV_DONTFORK. */
    rc = alloc(c, nbytes, access, 0, &m);
    return rc ? rc : make(c, 1, &m, access, out);
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
        if (access & DSM_ATOMIC && (uintptr_t)p[i] & 7)
            return err_set(DSM_EALIGN, 0, "buffer %zu begins at an address that is not a multiple of 8", i);
    }
    struct memory **memory = calloc(n, sizeof(struct memory *));
    size_t have = 0;
    int rc = memory ? 0 : err_set(DSM_ENOMEM, 0, "%zu regions", n);
    while (!rc && have < n && !(rc = memory_of_caller(p[have], nbytes[have], &memory[have])))
        have++;
    if (!rc)
        rc = make(c, n, memory, access, out);
    else
        while (have)
            memory_drop(memory[--have]);
    free(memory);
    return rc;
}

int dsm_register(dsm_ctx *c, void *p, uint64_t nbytes, uint32_t access, dsm_region **out)
{
    return dsm_register_many(c, 1, &p, &nbytes, access, out);
}

void region_end(dsm_region *r)
{
    dsm_ctx *c = r->ctx;
    core_lock(&c->lock);
    c->regions[r->id] = free_slot(c->free_region);
    c->free_region = r->id;
    core_unlock(&c->lock);
    unregister(c, r);
    region_free(r);
    ctx_leave(c, &c->live_regions);
}

dsm_region *region_find(dsm_ctx *c, uint64_t id, uint64_t generation)
{
    if (id >= c->capregions || is_free(c->regions[id]) || c->regions[id]->generation != generation)
        return NULL;
    return c->regions[id];
}

void *dsm_region_data(const dsm_region *r) { return r->memory->data + r->part.offset; }
uint64_t dsm_region_nbytes(const dsm_region *r) { return r->part.nbytes; }
uint32_t dsm_region_access(const dsm_region *r) { return r->access; }

uint32_t region_access_by(const dsm_region *r, size_t i)
{
    return serves_bulk(r->ctx, i, r->access) ? rights_by(r->ctx, i, r->access) : r->access;
}

/* The ways for everything, or those for bulk only. Returns their number. */
static uint32_t add_ways(const dsm_region *r, bool bulk, struct dsm_way *out)
{
    const dsm_ctx *c = r->ctx;
    uint32_t n = 0;
    for (size_t i = 0; i < c->ndevs; i++) {
        if (!r->mem[i] || c->devs[i]->number || serves_bulk(c, i, r->access) != bulk)
            continue; /* the devices of a fabric are one way */
        out[n].fabric = c->devs[i]->wire_id;
        strcpy(out[n++].address, ctx_address(c, c->devs[i]));
    }
    return n;
}

void region_describe(const dsm_region *r, dsm_descriptor *out)
{
    const dsm_ctx *c = r->ctx;
    *out = (dsm_descriptor){.access = r->access,
                            .kind = r->memory->kind,
                            .region = r->id,
                            .generation = r->generation,
                            .nbytes = r->memory->nbytes};
    if (r->part.generation)
        out->part = r->part;
    memcpy(out->node, c->node, DSM_NODE_ID);
    out->nways = add_ways(r, false, out->ways);
    out->nbulk = add_ways(r, true, out->ways + out->nways);
}

int dsm_region_descriptor(const dsm_region *r, uint8_t buf[DSM_DESC_MAX])
{
    dsm_descriptor d;
    if (ctx_forked(r->ctx))
        return refuse_forked();
    region_describe(r, &d);
    return descriptor_write(&d, buf);
}
