/* A store in memory that no other process has seen yet, and the check of one that others have made. */
#include "../base/crc32.h"
#include "../objects/object.h"
#include "layout.h"

#include <stddef.h>

struct store_header {
    struct object_header object;
    uint32_t page_bytes, slots;
    uint64_t pages, frames, chunks; /* in format 2 the last two were the other way round, so each refuses the other */
    uint64_t id;
    uint32_t copies, index, format;
    uint16_t extents, extent, spread, zero; /* 0, 0, 0: one extent */
    uint32_t crc;
};
_Static_assert(sizeof(struct store_header) == STORE_HEADER, "docs/protocols/pages.md");

static uint32_t crc_of(const struct store_header *h)
{
    return crc32((const uint8_t *)h, offsetof(struct store_header, crc));
}

static uint32_t format_of(uint32_t copies, uint32_t extents)
{
    return STORE_FORMAT + (extents > 1 ? STORE_FORMAT_EXTENTS : 0) + (copies > 1 ? STORE_FORMAT_COPIES : 0);
}

int store_format(void *memory, struct store_shape *s)
{
    struct store_header *h = memory;
    int rc = object_format(memory, DSM_STORE, s->nbytes);
    if (rc)
        return rc;
    h->page_bytes = s->page_bytes;
    h->slots = s->slots;
    h->pages = s->pages;
    h->chunks = s->chunks;
    h->frames = s->frames;
    h->id = s->id = s->id ? s->id : h->object.id;
    h->copies = s->copies;
    h->index = s->index;
    if (s->extents > 1) {
        h->extents = (uint16_t)s->extents;
        h->extent = (uint16_t)s->extent;
        h->spread = (uint16_t)s->spread;
    }
    h->format = format_of(s->copies, s->extents);
    h->crc = crc_of(h);
    *(uint64_t *)(void *)((char *)memory + STORE_COMPLETE) = s->copies * s->extents == 1;
    *(uint64_t *)(void *)((char *)memory + STORE_NODES) = s->nodes;
    uint64_t *heads = (uint64_t *)(void *)((char *)memory + s->heads);
    for (uint64_t i = 0; i < s->pages; i++)
        heads[i] = head_first(s, number_at(s, s->extent, i));
    return 0;
}

int store_parse(const void *bytes, struct store_shape *s)
{
    const struct store_header *h = bytes;
    if (h->crc != crc_of(h))
        return err_set(DSM_ECORRUPT, 0, "the header of the store is damaged");
    if (h->format != format_of(h->copies, h->extents))
        return err_set(DSM_EVERSION, 0, "the store has layout %u, this release makes and reads %u of one like this",
                       h->format, format_of(h->copies, h->extents));
    *s = (struct store_shape){.page_bytes = h->page_bytes,
                              .slots = h->slots,
                              .copies = h->copies,
                              .index = h->index,
                              .extents = h->extents ? h->extents : 1,
                              .extent = h->extent,
                              .spread = h->spread,
                              .pages = h->pages,
                              .id = h->id};
    if (store_lay_out(s) || s->chunks != h->chunks || s->frames != h->frames || s->nbytes != h->object.nbytes)
        return err_set(DSM_ECORRUPT, 0, "the header of the store contradicts itself");
    return 0;
}
