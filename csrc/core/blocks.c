/* Which ranges of a pool are in use (blocks.h). */
#include "blocks.h"

#include "../base/error.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- classes of free ranges ---- */

/* The class of a range: up to 7 units each length has its own, and then there are eight for each power of two. */
static uint32_t class_of(uint64_t units)
{
    if (units < 8)
        return (uint32_t)units;
    uint32_t log = 63 - (uint32_t)__builtin_clzll(units);
    return (log - 2) * 8 + ((uint32_t)(units >> (log - 3)) & 7);
}

/* The lowest class whose ranges all have so many units. */
static uint32_t class_above(uint64_t units)
{
    uint32_t c = class_of(units);
    return units < 8 || !(units & ((UINT64_C(1) << (60 - __builtin_clzll(units))) - 1)) ? c : c + 1;
}

static void link_free(struct blocks *b, uint32_t i)
{
    struct block *at = &b->table[i];
    uint32_t c = class_of(at->units);
    at->nbytes = at->generation = 0;
    at->prev = BLOCK_NONE;
    at->next = b->heads[c];
    if (at->next != BLOCK_NONE)
        b->table[at->next].prev = i;
    b->heads[c] = i;
    b->masks[c / 64] |= UINT64_C(1) << c % 64;
}

static void unlink_free(struct blocks *b, uint32_t i)
{
    struct block *at = &b->table[i];
    uint32_t c = class_of(at->units);
    if (at->next != BLOCK_NONE)
        b->table[at->next].prev = at->prev;
    if (at->prev != BLOCK_NONE)
        b->table[at->prev].next = at->next;
    else if ((b->heads[c] = at->next) == BLOCK_NONE)
        b->masks[c / 64] &= ~(UINT64_C(1) << c % 64);
}

/* The first class from c up that has a range; BLOCK_CLASSES: none. */
static uint32_t filled_class(const struct blocks *b, uint32_t c)
{
    for (uint32_t i = c / 64; i < BLOCK_MASKS; i++) {
        uint64_t mask = b->masks[i];
        if (i == c / 64)
            mask &= ~UINT64_C(0) << c % 64;
        if (mask)
            return i * 64 + (uint32_t)__builtin_ctzll(mask);
    }
    return BLOCK_CLASSES;
}

static uint32_t find(const struct blocks *b, uint64_t units)
{
    uint32_t c = filled_class(b, class_above(units));
    if (c < BLOCK_CLASSES)
        return b->heads[c];
    uint32_t i = b->heads[class_of(units)];
    while (i != BLOCK_NONE && b->table[i].units < units)
        i = b->table[i].next;
    return i;
}

/* ---- the table ---- */

static uint32_t take_entry(struct blocks *b)
{
    uint32_t i = b->unused;
    b->unused = b->table[i].next;
    return i;
}

static void drop_entry(struct blocks *b, uint32_t i)
{
    b->table[i] = (struct block){.next = b->unused};
    b->unused = i;
}

/* Makes room for n more blocks. Each needs one entry at most beside the one of the last free range. */
static int reserve(struct blocks *b, size_t n)
{
    uint32_t have = 0;
    for (uint32_t i = b->unused; i != BLOCK_NONE && have < n; i = b->table[i].next)
        have++;
    if (have == n)
        return 0;
    uint64_t cap = ((uint64_t)b->cap + n) * 2;
    struct block *p = n < BLOCK_NONE / 4 && cap < BLOCK_NONE ? realloc(b->table, cap * sizeof *p) : NULL;
    if (!p)
        return err_set(DSM_ENOMEM, 0, "the table of a pool's regions");
    b->table = p;
    for (uint32_t i = (uint32_t)cap; i-- > b->cap;)
        drop_entry(b, i);
    b->cap = (uint32_t)cap;
    return 0;
}

int blocks_init(struct blocks *b, uint64_t nbytes)
{
    *b = (struct blocks){.unused = BLOCK_NONE, .nbytes = nbytes, .free_units = nbytes / BLOCK_UNIT};
    memset(b->heads, 0xff, sizeof b->heads);
    int rc = reserve(b, 8);
    if (rc)
        return rc;
    uint32_t i = take_entry(b);
    b->table[i] = (struct block){.units = b->free_units, .before = BLOCK_NONE, .after = BLOCK_NONE};
    link_free(b, i);
    return 0;
}

void blocks_destroy(struct blocks *b) { free(b->table); }

/* ---- taking and giving back ---- */

/* Cuts what is behind the first 'units' off a range that is not in a list, and makes it a free one. */
static void split(struct blocks *b, uint32_t i, uint64_t units)
{
    struct block *at = &b->table[i];
    if (at->units == units)
        return;
    uint32_t rest = take_entry(b);
    b->table[rest] = (struct block){
        .offset = at->offset + units * BLOCK_UNIT, .units = at->units - units, .before = i, .after = at->after};
    if (at->after != BLOCK_NONE)
        b->table[at->after].before = rest;
    at->after = rest;
    at->units = units;
    link_free(b, rest);
}

static bool take_one(struct blocks *b, uint64_t nbytes, bool held, struct dsm_part *out)
{
    uint64_t units = (nbytes + BLOCK_UNIT - 1) / BLOCK_UNIT;
    uint32_t i = find(b, units);
    if (i == BLOCK_NONE)
        return false;
    unlink_free(b, i);
    split(b, i, units);
    struct block *at = &b->table[i];
    at->nbytes = nbytes;
    at->generation = ++b->generation;
    at->held = held;
    b->free_units -= units;
    b->live++;
    *out = (struct dsm_part){.number = i, .generation = at->generation, .offset = at->offset, .nbytes = nbytes};
    return true;
}

static uint64_t longest(const struct blocks *b)
{
    uint64_t most = 0;
    for (uint32_t c = BLOCK_CLASSES; c-- && !most;)
        for (uint32_t i = b->heads[c]; i != BLOCK_NONE; i = b->table[i].next)
            most = b->table[i].units > most ? b->table[i].units : most;
    return most * BLOCK_UNIT;
}

static int refuse_full(const struct blocks *b, uint64_t nbytes, size_t n)
{
    char many[48] = "";
    if (n > 1)
        snprintf(many, sizeof many, ", one of %zu regions", n);
    return err_set(
        DSM_EPOOLFULL, 0,
        "%llu bytes%s; of the pool's %llu bytes %llu are free, up to %llu in one run, with %u regions in use",
        (unsigned long long)nbytes, many, (unsigned long long)b->nbytes,
        (unsigned long long)(b->free_units * BLOCK_UNIT), (unsigned long long)longest(b), b->live);
}

int blocks_take(struct blocks *b, size_t n, const uint64_t *nbytes, bool held, struct dsm_part *out)
{
    size_t done = 0;
    uint64_t asked = 0;
    int rc = n > b->free_units ? refuse_full(b, nbytes[0], n) : reserve(b, n);
    while (!rc && done < n) {
        asked = nbytes[done]; /* once: the caller's array may change */
        if (!asked)
            rc = err_set(DSM_EINVAL, 0, "a region needs at least one byte");
        else if (asked > b->nbytes || !take_one(b, asked, held, &out[done]))
            rc = refuse_full(b, asked, n);
        else
            done++;
    }
    while (rc && done)
        blocks_give_back(b, &out[--done]);
    return rc;
}

bool blocks_have(const struct blocks *b, const struct dsm_part *p)
{
    const struct block *at = p->number < b->cap ? &b->table[p->number] : NULL;
    return at && p->generation && at->generation == p->generation && at->offset == p->offset && at->nbytes == p->nbytes;
}

bool blocks_held(const struct blocks *b, const struct dsm_part *p) { return b->table[p->number].held; }

bool blocks_mark(struct blocks *b, const struct dsm_part *p, bool leaving)
{
    bool was = b->table[p->number].leaving;
    b->table[p->number].leaving = leaving;
    return !was;
}

/* Makes one range of i and the free one behind it; neither is in a list. */
static void merge(struct blocks *b, uint32_t i)
{
    uint32_t next = b->table[i].after;
    b->table[i].units += b->table[next].units;
    b->table[i].after = b->table[next].after;
    if (b->table[i].after != BLOCK_NONE)
        b->table[b->table[i].after].before = i;
    drop_entry(b, next);
}

static bool is_free(const struct blocks *b, uint32_t i) { return i != BLOCK_NONE && !b->table[i].generation; }

void blocks_give_back(struct blocks *b, const struct dsm_part *p)
{
    uint32_t i = (uint32_t)p->number, before = b->table[i].before, after = b->table[i].after;
    assert(blocks_have(b, p));
    b->free_units += b->table[i].units;
    b->live--;
    b->table[i].generation = 0;
    b->table[i].held = b->table[i].leaving = false;
    if (is_free(b, after)) {
        unlink_free(b, after);
        merge(b, i);
    }
    if (is_free(b, before)) {
        unlink_free(b, before);
        i = before;
        merge(b, i);
    }
    link_free(b, i);
}
