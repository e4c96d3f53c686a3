/*
 * The recovery of a store, of which some copies of each extent have survived, as a machine (machine.h):
 * docs/protocols/pages.md, 'Recovery'. No other process has access to these copies, and nothing that was sent to them
 * before can land any more.
 *
 * It may end anywhere, and be begun again, also with fewer copies: each posting leaves what a recovery begins with.
 */
#ifndef DSM_STORE_RECOVER_H
#define DSM_STORE_RECOVER_H

#include "machine.h"

enum { RECOVER_WORDS = 1 << 15, RECOVER_OPS = RECORD_PAGES * STORE_COPIES_MOST };
enum { RECOVER_PAGES = 64, RECOVER_ROWS = 32 }; /* pages that are made equal together; clients that have locked them */

struct store_recovery {
    int status;
    uint64_t epoch;          /* the new one */
    const uint64_t *members; /* of each extent: store_members() */
    dsm_store_recovered done;

    enum {
        RECOVER_BEGINS,
        RECOVER_READS_WORDS,
        RECOVER_READS_RECORD,
        RECOVER_AGREES,
        RECOVER_READS_PAGES,
        RECOVER_SETS_PAGES,
        RECOVER_READS_HEADS,
        RECOVER_READS_CHANGES,
        RECOVER_SETS_HEADS,
        RECOVER_READS_CHUNKS,
        RECOVER_CLOSES_CHUNKS,
        RECOVER_CLEARS,
        RECOVER_READS_STATE,
        RECOVER_OPENS
    } step;
    uint32_t n;       /* ops */
    uint32_t slot;    /* whose transaction is looked at */
    bool commits;     /* its transaction is made, not undone */
    uint32_t extent;  /* whose heads, chunks or intents are at hand */
    uint64_t at, got; /* the first of the words at hand, and how many there are */
    uint32_t in;      /* the next of them */
    uint32_t differ;  /* pages at hand whose copies differ */
    /* What comes from here on is set before it is looked at. */
    uint64_t said[STORE_PLACES_MOST][SLOTS_MOST];     /* words of slots, as they were at first */
    uint64_t words[STORE_COPIES_MOST][RECOVER_WORDS]; /* of an extent: heads, or words of chunks */
    uint64_t heads[STORE_COPIES_MOST][RECORD_PAGES];  /* of a transaction's pages */
    uint64_t states[STORE_PLACES_MOST][3];            /* the words of a header that change */
    struct tx_record records[STORE_PLACES_MOST];
    const struct tx_record *record; /* the one among them that is whole; NULL: none is needed any more */
    uint32_t which[RECOVER_PAGES];  /* of the words those whose copies differ; */
    struct frame_header headers[STORE_COPIES_MOST][RECOVER_PAGES]; /* of the frames that their heads name; */
    uint32_t rows[STORE_COPIES_MOST], lockers[STORE_COPIES_MOST][RECOVER_ROWS]; /* the slots that have locked some, */
    struct store_intent intents[STORE_COPIES_MOST][RECOVER_ROWS][INTENTS];      /* and their intents, at each copy */
    dsm_op ops[RECOVER_OPS];
};

/* Of e: shape, copies, first and at. Errors: ECORRUPT (copies that contradict each other), and those of ops. */
enum store_next store_recovery_step(struct store_recovery *m, const struct store_env *e);

#endif
