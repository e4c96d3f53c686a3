/*
 * Which ranges of a pool are in use: segregated fit with immediate coalescing. The ranges are described here, outside
 * of the pool's memory, which other processes may write.
 *
 * Ranges begin and end at multiples of 64 bytes. A free range is in the list of its class: eight classes to each power
 * of two, so the ranges of one class differ by less than an eighth. A request takes a range of the lowest class whose
 * ranges are all long enough; if there is none, the first that is long enough of its own class. So it fails only if
 * no free range is long enough, and takes a time that depends on the number of ranges only where the pool is nearly
 * full. Neighbours that are free are always one range. Regions of one length therefore use all of the pool, in whatever
 * order they come and go. With lengths between a and b, as for every allocator that moves nothing, a pool of about
 * log2(b/a) times what is in use may be needed in the worst case.
 *
 * Not thread-safe.
 */
#ifndef DSM_CORE_BLOCKS_H
#define DSM_CORE_BLOCKS_H

#include "../dsm.h"

#include <stdbool.h>

enum {
    BLOCK_UNIT = DSM_POOL_ALIGN,
    BLOCK_CLASSES = 448,
    BLOCK_MASKS = BLOCK_CLASSES / 64,
};
#define BLOCK_NONE UINT32_MAX

struct block {
    uint64_t offset, units;
    uint64_t nbytes;        /* asked for; 0: free */
    uint64_t generation;    /* 0: not in use */
    uint32_t before, after; /* neighbours by address */
    uint32_t next, prev;    /* in the list of the class, or of unused entries */
    bool held, leaving;     /* by a handle; blocks_free_many() has seen it */
};

struct blocks {
    struct block *table;
    uint32_t cap, unused; /* entries; the first unused one */
    uint32_t live;        /* blocks in use */
    uint64_t nbytes, free_units;
    uint64_t generation; /* the last one given; never repeats */
    uint64_t masks[BLOCK_MASKS];
    uint32_t heads[BLOCK_CLASSES];
};

int blocks_init(struct blocks *b, uint64_t nbytes);
void blocks_destroy(struct blocks *b);
/* Takes n ranges, all or none. EPOOLFULL: the error says how full the pool is. */
int blocks_take(struct blocks *b, size_t n, const uint64_t *nbytes, bool held, struct dsm_part *out);
/* Whether the part names a range that is in use. */
bool blocks_have(const struct blocks *b, const struct dsm_part *p);
/* Whether a handle holds it. */
bool blocks_held(const struct blocks *b, const struct dsm_part *p);
/* Marks a range that is in use, and says whether it was not marked before. */
bool blocks_mark(struct blocks *b, const struct dsm_part *p, bool leaving);
void blocks_give_back(struct blocks *b, const struct dsm_part *p);

#endif
