/*
 * The commit of a transaction, as a machine (machine.h): docs/protocols/commit.md has the steps.
 *
 * A client has one transaction in its commit at a time, and begins the next one when all locks of the one before are
 * known to be gone: no unlock is due then, and none is kept.
 */
#ifndef DSM_STORE_COMMIT_H
#define DSM_STORE_COMMIT_H

#include "machine.h"

#include <stddef.h>
#include <string.h>

/* A page of a transaction. */
struct tx_page {
    uint64_t pid;
    uint64_t head, version; /* as it was read: a head that was the page's then */
    int64_t seen;           /* when */
    bool reads;             /* its value was given to the caller */
    bool writes, frees;     /* not both */
    void *page;             /* writes: the new value, which does not change */
    struct hash128 hash;    /* of it */

    enum { TX_OPEN, TX_UNSURE, TX_LOCKED } is;
    uint32_t frame; /* NO_FRAME: none is taken */
    uint64_t to, now;
    struct frame_header header;
};
static inline bool tx_changes(const struct tx_page *p) { return p->writes || p->frees; }

/* Frames, a record and a word at each place, and locks. */
enum { COMMIT_OPS = STORE_COPIES_MOST * RECORD_PAGES + 2 * STORE_PLACES_MOST + RECORD_PAGES };

struct store_commit {
    int status;
    struct tx_page *pages; /* each page once; at most RECORD_PAGES of them are changed */
    uint32_t count;
    dsm_op *ops; /* room for COMMIT_OPS */

    enum {
        COMMIT_BEGINS,
        COMMIT_ASKS,
        COMMIT_LOCKS,
        COMMIT_VALIDATES,
        COMMIT_SWAPS,
        COMMIT_SLEEPS,
        COMMIT_COPIES
    } step;
    bool looks;                     /* only validates what was read, also of pages that are to be changed */
    uint32_t n, changes, tries, at; /* ops; pages that it changes; of the last copies; pages that were validated */
    bool again;                     /* it was not made, since an answer was lost: try it again */
    uint32_t extent;                /* STORE_FRAMES: in which there are too few */
    uint64_t parts;                 /* places of the extents in which it changes pages, a bit each; of them */
    uint64_t done, unsure;          /* those where it is committed, and those of which that is not known */
    int error, cause;
    uint64_t conflict, other; /* ECONFLICT: the page, and the head that was found there */
    int64_t sleep_ns;
    uint64_t seen[STORE_PLACES_MOST]; /* from here on: large, and set before it is looked at */
    struct tx_record record;
};

static inline void store_commit_begin(struct store_commit *m, struct tx_page *pages, uint32_t count, dsm_op *ops)
{
    memset(m, 0, offsetof(struct store_commit, seen));
    m->pages = pages;
    m->count = count;
    m->ops = ops;
}

/* Errors: ECONFLICT (a page has changed, or another client has locked it; nothing was changed), EUNKNOWN, ECORRUPT, and
 * those of ops, after which nothing was changed. Without pages that change it validates those that were read. */
enum store_next store_commit_step(struct store_commit *m, struct store_env *e);
/* The error of a conflict at this page, where this head was found. */
int commit_conflict(const struct tx_page *p, uint64_t found);
/* Puts back the frames of a machine that has returned STORE_FRAMES, if there can be none. */
void store_commit_give_up(struct store_commit *m, struct store_env *e);

#endif
