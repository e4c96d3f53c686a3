/*
 * A segment: an array in shared memory, of which consistent versions can be read.
 *
 *   offset  bytes  what
 *        0     64  header of all objects (object.h), type 1
 *       64      8  capacity: rows (elements of the first axis) that there is room for; 1 for an array without axes
 *       72      8  bytes of a row
 *       80      8  offset of the data, 4096
 *       88      8  offset of the shadow, a multiple of 4096; 0: no versions can be taken
 *       96      4  axes, at most 16
 *      100      4  bytes of an element
 *      104      4  bytes of the dtype
 *      108      4  CRC-32 of bytes 0 to 255, with zero here, and of the dtype
 *      112    128  the length of each axis when the segment was made
 *      240     16  zero
 *      256      8  rows now                     } changed by compare-swap
 *      264      8  rows in the shadow           } only, and all but the
 *      272      8  head: version << 2 | phase   } first by the writer only
 *      280      8  writer: identity (member.h) of the process that writes a version; 0: none
 *      320      8  eventcount (eventcount.h), notified after changes
 *      384   3712  dtype, a Python literal in ASCII (dsmem/dtypes.py), then zeros
 *     4096         the data, C-ordered; then the shadow
 *
 * Rows may grow beyond the capacity if the data is a file and there is no shadow: the file is made longer before 'rows'
 * says so, and it is never made shorter.
 *
 * VERSIONS. The writer is the process that has put its identity into 'writer' by compare-swap. Only the writer changes
 * head, shadow and (if there is a shadow) the rows. The steps of a write, and what others see if the writer dies after
 * each:
 *
 *   step                                      head     data         shadow
 *   1  writer: 0 -> identity                  v, 0     is v         is v
 *   2  head -> v, LIVE                        v, LIVE  any mixture  is v
 *   3  the data is changed                    v, LIVE  any mixture  is v
 *   4  head -> v + 1, COPY                    v+1,COPY is v + 1     any mixture
 *   5  shadow := data                         v+1,COPY is v + 1     any mixture
 *   6  head -> v + 1, 0                       v+1, 0   is v + 1     is v + 1
 *   7  writer: identity -> 0
 *
 * So one of the two is whole at every instruction, and the head says which: the data in phase COPY, the shadow
 * otherwise. A process that succeeds a dead writer copies the whole one over the other and sets the phase to 0 before
 * step 2. So a write takes effect at step 4, or never.
 *
 * A reader reads the head, copies, and reads the head again. A copy of the shadow is version v if both heads say v and
 * neither says COPY, since the shadow of v is not changed before the head says v + 1. A copy of the data is version v
 * if both heads say v, COPY, since a version enters that phase once. Remote, the three reads are fenced: each starts
 * when the one before it has completed. (A READ that returns a mixture or is sent again proves nothing, and needs to
 * prove nothing.)
 */
#ifndef DSM_OBJECTS_SEGMENT_SEGMENT_H
#define DSM_OBJECTS_SEGMENT_SEGMENT_H

#include "../../core/remote.h"
#include "../eventcount.h"
#include "../object.h"

enum {
    SEGMENT_ROWS = 256,
    SEGMENT_SHADOW_ROWS = 264,
    SEGMENT_HEAD = 272,
    SEGMENT_WRITER = 280,
    SEGMENT_EVENTCOUNT = 320,
    SEGMENT_DTYPE = 384,
    SEGMENT_DATA = 4096,
};

struct segment_header {
    struct object_header object;
    uint64_t capacity, row_bytes, data, shadow;
    uint32_t axes, itemsize, dtype_length, crc;
    uint64_t shape[DSM_SEGMENT_AXES];
    uint64_t zero[2];
};
_Static_assert(sizeof(struct segment_header) == SEGMENT_ROWS && offsetof(struct segment_header, crc) == 108 &&
                   offsetof(struct segment_header, shape) == 112,
               "docs/protocols/segment.md");
_Static_assert(SEGMENT_DTYPE + DSM_SEGMENT_DTYPE == SEGMENT_DATA, "docs/protocols/segment.md");

/* The words at offsets 256 to 287, as one READ returns them. */
struct segment_words {
    uint64_t rows, shadow_rows, head, writer;
};
_Static_assert(offsetof(struct segment_words, head) == SEGMENT_HEAD - SEGMENT_ROWS &&
                   offsetof(struct segment_words, writer) == SEGMENT_WRITER - SEGMENT_ROWS,
               "docs/protocols/segment.md");

/* On which processes sleep until the segment changes. NULL: it is not mapped, or may not be written; they poll. */
static inline struct eventcount *segment_eventcount(const dsm_remote *r)
{
    bool sleeps = remote_is_mapped(r) && r->access & DSM_WRITE;
    return sleeps ? (struct eventcount *)(void *)remote_at(r, SEGMENT_EVENTCOUNT) : NULL;
}

enum { PHASE_LIVE = 1, PHASE_COPY = 2, PHASE_MASK = 3 };

#endif
