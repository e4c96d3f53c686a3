/*
 * Making a copy of an extent of a store again at another node while clients use the store, as a machine (machine.h):
 * docs/protocols/pages.md, 'Re-replication'. Clients know nothing of the new copy.
 *
 * What its ops do may be done twice. Where one has failed for good the machine may be stepped again later: it goes on
 * with the pages whose copy is not known to be there.
 */
#ifndef DSM_STORE_FILL_H
#define DSM_STORE_FILL_H

#include "machine.h"

enum { FILL_HEADS = 1 << 15, FILL_WINDOW = 64 };
#define FILL_UNSEEN (1ull << 52) /* a lock, which no copy is made of */

struct store_fill {
    int status;
    const struct store_shape *shape;
    dsm_remote *from, *to;
    bool mixes;      /* READs of a word of 'from' may have bytes of old and of new values */
    bool last;       /* 'from' does not change any more: everything is copied, and the heads */
    uint64_t *seen;  /* for each page of the extent: the head whose frame the new copy has; FILL_UNSEEN: none */
    uint32_t batch;  /* heads that are read at a time, FILL_HEADS at most */
    uint32_t window; /* pages of them that are copied at a time, FILL_WINDOW at most */
    uint8_t *frames; /* room for a window of frames */
    uint64_t most;   /* bytes, then the machine is done, though the round is not */

    enum { FILL_BEGINS, FILL_READS, FILL_FRAMES, FILL_COPIES, FILL_SETS_HEADS, FILL_WORDS, FILL_SETS_WORDS } step;
    uint32_t n;                     /* ops */
    uint64_t at, got;               /* the first of the heads at hand, or of the words; and how many there are */
    uint32_t in;                    /* the next of them */
    uint64_t bytes;                 /* copied since the step function was called for the first time, or was done */
    bool over;                      /* the round is */
    uint64_t copied, left, damaged; /* pages, of this round; left: locked, or changed while they were read */
    uint32_t taken;                 /* pages of the window */
    struct {
        uint64_t index, head, again; /* again: the head when the frame was read, if that has to be looked at */
        bool whole;
    } of[FILL_WINDOW];
    uint64_t heads[FILL_HEADS];
    dsm_op ops[2 * FILL_WINDOW];
};

/* Errors: ECORRUPT ('from' has locks, though it was recovered), and those of ops. */
enum store_next store_fill_step(struct store_fill *m);

#endif
