/*
 * A segment: an array in shared memory, of which versions can be taken.
 *
 *   offset  bytes  what
 *        0     64  header of all objects (object.h), type 1
 *       64      8  capacity: rows (elements of the first axis) that there is room for; an array without axes has one
 *       row
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
 *      280      8  writer: identity (member.h) of who changes the segment as one version, 0: nobody
 *      320      8  eventcount (eventcount.h), rung after changes
 *      384   3712  dtype, a Python literal in ASCII (dsmem/dtypes.py), then zeros
 *     4096         the data, C-ordered; then the shadow
 *
 * Rows may grow beyond the capacity where the data is a file and there is no shadow: the file is made longer before
 * 'rows' says so, and never shorter.
 *
 * VERSIONS. Writer: whoever has put his identity into 'writer' by compare-swap. Only he changes head, shadow and (where
 * there is a shadow) the rows. The steps of a write, and what each leaves to be seen when the writer dies after it:
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
 * otherwise. Who succeeds a dead writer copies the whole one over the other and sets the phase to 0 before step 2: a
 * write takes effect at step 4, or never.
 *
 * Reader: head, copy, head again. The copy of the shadow is version v if both heads say v and neither says COPY; the
 * shadow of v is not touched before the head says v + 1. The copy of the data is v if both heads say v, COPY; a version
 * enters that phase once. Remote, the three reads are fenced: each starts when the one before it has completed (so a
 * READ that mixes or is sent again proves nothing and needs to prove nothing).
 */
#ifndef DSM_OBJECTS_SEGMENT_SEGMENT_H
#define DSM_OBJECTS_SEGMENT_SEGMENT_H

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

/* Words 256 to 287, as one read brings them. */
struct segment_words {
    uint64_t rows, shadow_rows, head, writer;
};
_Static_assert(offsetof(struct segment_words, head) == SEGMENT_HEAD - SEGMENT_ROWS &&
                   offsetof(struct segment_words, writer) == SEGMENT_WRITER - SEGMENT_ROWS,
               "docs/protocols/segment.md");

enum { PHASE_LIVE = 1, PHASE_COPY = 2, PHASE_MASK = 3 };

#endif
