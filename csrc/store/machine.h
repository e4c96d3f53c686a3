/*
 * The steps of a client of a store, as machines: pure functions that post ops, look at their outcomes, and are driven
 * by others. A machine knows time, chance and other processes by its env alone, so one thread can play many clients.
 *
 * A driver calls the step function until it returns STORE_DONE:
 *   STORE_POST    execute m->ops, m->n of them, as dsm_execute() does, and then step again. Before them, in the same
 *                 posting, go the unlocks that are due (store_due_ops). The outcome of each op is in its status
 *   STORE_SLEEP   wait for m->sleep_ns, and then step again
 *   STORE_FRAMES  open a chunk of the extent that m->extent says (store_open_chunk_step), and then step again
 *   STORE_RECOVER copy m->copy of page m->locked has been locked with m->lock for a while. If the holder is proven
 *                 dead, resolve it (store_resolve_step). Then step again in either case
 *   STORE_DONE    m->status is the result, 0 or -DSM_E…
 * Ops with their status are all that a machine learns of the memory. An op that was posted must end, whatever its
 * outcome, before the machine may be given up: its buffers lie in the machine.
 *
 * A client does one thing at a time.
 *
 * A store has X extents of R copies each, and so X · R places: copy k of extent x is place x · R + k. In an epoch some
 * extents may have fewer copies; the places of an extent come behind those of the one before. What is of one page
 * (head, frame, intent) is at the places of its extent, in offsets that are the same at each. Masks of places have 64
 * bits, those of copies of one extent 8.
 */
#ifndef DSM_STORE_MACHINE_H
#define DSM_STORE_MACHINE_H

#include "../base/atomic.h"
#include "layout.h"

#include <stddef.h>
#include <string.h>

enum store_next { STORE_DONE, STORE_POST, STORE_SLEEP, STORE_FRAMES, STORE_RECOVER };

/* The chunk that a client has open in an extent, and which of its frames are free. */
struct store_frames {
    uint64_t word;  /* of the chunk; 0: none is known to be open */
    uint32_t chunk; /* its number; if none is known: where to look first. The slot has no other one open */
    bool doubt;     /* a compare-swap that names one of its frames may still be under way */
    bool closing;   /* it may be closed already, and another client's */
    uint64_t free;  /* a bit for each frame */
    uint64_t used;  /* those of 'free' that are in 'turn' */
    int64_t since;  /* when it was opened. Since then this client alone has made heads that name its frames */
    /* store_env.in_turn: the free frames that had pages since, in the order in which they were freed. A ring. */
    uint8_t turns, first; /* how many; the place of the first */
    uint8_t turn[64];
};

/* What a client knows of chunks that it has closed. As long as the word is the one that it has left there, no other
 * client has had the chunk, and the frames that this client has freed there since are free. */
struct store_freed {
    uint32_t best, had; /* the chunk with the most; free frames of the chunk that was opened last, when it was opened */
    uint32_t found;     /* free frames of the last chunk that was looked through in its turn */
    uint32_t spent;     /* since all heads were read: on chunks with few free frames, or none, that were opened */
    uint32_t poor;      /* a chunk with no more guesses than that comes behind those with more */
    uint64_t guessed;   /* guesses of all chunks */
    struct {
        uint64_t word;   /* 0: it has not closed the chunk */
        uint64_t frames; /* that it has freed since, a bit for each */
        uint64_t guess;  /* frames that may be free, these among them */
    } of[];              /* each chunk */
};

/* Chunks with frames of a transaction that has not ended, beside the one in store_frames. None of them is closed till
 * then, since another client would take frames that no head names yet for free ones. */
struct store_held {
    uint32_t n;
    struct {
        uint32_t extent, chunk;
        uint64_t word;
    } of[RECORD_PAGES];
};

/* What a client knows of its own transaction words. */
struct store_words {
    uint64_t seq;                   /* of its last transaction, or of the last one in this slot */
    uint64_t at[STORE_PLACES_MOST]; /* at each place */
    uint64_t unsure;                /* an answer was lost: a bit for each place */
};

/* What a client has last seen of a page in a frame, or of one that is empty. */
struct store_hint {
    uint64_t version : 63, empty : 1;                /* version 0: nothing */
    uint64_t generation : 24, frame : 24, time : 16; /* time: in seconds, when it was seen */
};

/* 'got' heads of each extent from index 'at' on, as the client has last read them, one extent behind the other: among
 * them it looks for free ones. A head that has changed since is refused by the compare-swap, which says what it is now.
 */
enum { HEADS_MOST = 4096 };
struct store_heads {
    uint64_t at;
    uint32_t got, in; /* in: none before that is free, of any extent */
    uint64_t words[HEADS_MOST];
};

/* Locks that have done their work: each is to become 'next' at some copies, if it still stands there. A change is done
 * before that; other clients wait for the primary. */
enum { STORE_DUES = RECORD_PAGES };
#define NO_INTENT UINT32_MAX
struct store_due {
    uint64_t number, lock, next; /* of the page */
    uint32_t intent;             /* that tells of the lock */
    uint8_t left;                /* the copies, a bit each */
    uint8_t sent;                /* those whose ops were in what store_due_ops() has made last, and may be under way */
};
struct store_dues {
    uint32_t n;
    uint64_t unsettled; /* places to which a WRITE of a frame may still be under way, a bit each */
    struct store_due of[STORE_DUES];
    uint64_t late; /* places that have not answered: their unlocks hold up what goes to others. A bit each */
    /* A lock of this client may stand that is not in the list, since what became of its change is not known: at one of
     * these pages. Each has an intent, or is of the transaction before. */
    bool kept;
    uint8_t blamed; /* 1 + the place because of which a put was given up; the driver makes it 0 */
    uint32_t n_kept;
    uint64_t pages[INTENTS + RECORD_PAGES + 1];
};

/* The intents of a client, in all extents: in each copy of them a place of its area is for the same one. None is used
 * again while a lock of which it tells may stand at any copy. */
struct store_intents {
    uint64_t seq; /* of the last one */
    uint32_t next;
    uint32_t of[INTENTS]; /* number of the page + 1; 0: free */
};

struct store_env {
    const struct store_shape *shape;
    uint32_t slot;                 /* of this client, the same at all places */
    uint32_t copies;               /* of an extent, 1 to STORE_COPIES_MOST; of the one with most of them */
    const uint8_t *first;          /* place at which each extent begins, and the end; NULL: each has 'copies' */
    uint32_t mark;                 /* of this client: store_mark() */
    dsm_remote *const *at;         /* of each place; the first one of an extent is its primary */
    bool mixes;                    /* READs of a word may have bytes of old and of new values: words.md */
    struct store_dues *dues;       /* zero at first; NULL: no changes at several copies, and no transactions */
    struct store_intents *intents; /* zero at first; NULL: no changes at several copies */
    struct store_words *words;     /* as they are when the client begins */
    struct store_held *held;       /* zero at first */
    struct store_frames *frames;   /* its own, of each extent */
    struct store_hint *hints;      /* one for each page, zero at first; NULL: none are kept */
    struct store_freed *freed;     /* of each extent (freed_of()), zero at first; NULL: none is kept */
    uint64_t *survey;              /* room for some words, if 'freed' is kept; */
    uint32_t survey_words;         /* how many */
    uint32_t survey_costs;         /* chunks that are looked through in vain in the time in which all heads are read */
    void *copy;                    /* of a page that is written; NULL: the source does not change meanwhile */
    uint64_t *retries;             /* store_count_retry(); NULL: they are not counted */
    struct store_heads *heads;     /* zero at first */
    bool in_turn;                  /* a frame that was freed is not the next one to be used: pages.md, Steps */
    int64_t now;                   /* monotonic ns */
    int64_t lock_wait;             /* ns, for a lock of a client that is not proven dead */
    uint64_t time;                 /* the stamp of new frames */
    uint64_t random;               /* another one at each step */
};

/* Another client was ahead, so what it has changed is looked at again. Where memory is mapped several threads count. */
static inline void store_count_retry(const struct store_env *e)
{
    if (e->retries)
        fetch_add_u64(e->retries, 1);
}

/* A lock of another client: how long before its holder is asked about, and how often then; ns. */
enum { LOCK_ASK_AFTER = 20000000, LOCK_ASK_EVERY = 50000000 };

/* ---- places ---- */

/* Of an extent: its primary; and how many copies it has, which in an epoch may be fewer than others have. Pages of one
 * that has a single copy are changed as in a store of one copy. */
static inline uint32_t first_of(const struct store_env *e, uint32_t extent)
{
    return e->first ? e->first[extent] : extent * e->copies;
}
static inline uint32_t copies_of(const struct store_env *e, uint32_t extent)
{
    return e->first ? (uint32_t)(e->first[extent + 1] - e->first[extent]) : e->copies;
}
static inline uint32_t store_places(const struct store_env *e) { return first_of(e, e->shape->extents); }
/* Copy k of the extent of a page. */
static inline uint32_t place_of(const struct store_env *e, uint64_t number, uint32_t k)
{
    return e->shape->extents == 1 ? k : first_of(e, extent_of(e->shape, number)) + k;
}
static inline uint32_t copies_of_page(const struct store_env *e, uint64_t number)
{
    return copies_of(e, extent_of(e->shape, number));
}
/* In which extent a place is. */
static inline uint32_t extent_at(const struct store_env *e, uint32_t place)
{
    uint32_t x = 0;
    if (!e->first)
        return place / e->copies;
    while (place >= e->first[x + 1])
        x++;
    return x;
}
/* A bit for each place of an extent. */
static inline uint64_t places_of(const struct store_env *e, uint32_t extent)
{
    return ((1ull << copies_of(e, extent)) - 1) << first_of(e, extent);
}

static inline size_t freed_bytes(const struct store_shape *s)
{
    return sizeof(struct store_freed) + s->chunks * sizeof *((struct store_freed *)0)->of;
}
static inline struct store_freed *freed_of(const struct store_env *e, uint32_t extent)
{
    if (!extent || !e->freed)
        return e->freed;
    return (struct store_freed *)(void *)((char *)e->freed + extent * freed_bytes(e->shape));
}

/* ---- ops ---- */

static inline dsm_op store_read_op(const struct store_env *e, uint32_t place, uint64_t offset, void *to,
                                   uint64_t nbytes)
{
    return (dsm_op){.remote = e->at[place], .code = DSM_OP_READ, .offset = offset, .local = to, .nbytes = nbytes};
}
static inline dsm_op store_swap_op(const struct store_env *e, uint32_t place, uint64_t offset, uint64_t from,
                                   uint64_t to)
{
    return (dsm_op){.remote = e->at[place],
                    .code = DSM_OP_COMPARE_SWAP,
                    .offset = offset,
                    .nbytes = 8,
                    .operand = from,
                    .desired = to};
}

/* A look at a word that atomics alone change: a value that it had, also where a READ may be a mixture. A compare-swap
 * of 0 with 0 changes nothing. Fabrics do not use 'local' of an atomic: it says where the value is wanted. */
static inline dsm_op store_look_op(const struct store_env *e, uint32_t place, uint64_t offset, uint64_t *to)
{
    dsm_op op = store_read_op(e, place, offset, to, sizeof *to);
    op.code = e->mixes ? DSM_OP_COMPARE_SWAP : DSM_OP_READ;
    return op;
}
/* The head of a page, at copy k of its extent. */
static inline dsm_op store_look_at_head(const struct store_env *e, uint32_t k, uint64_t number, uint64_t *to)
{
    if (e->shape->extents == 1)
        return store_look_op(e, k, head_at(e->shape, number), to);
    return store_look_op(e, place_of(e, number, k), head_of_page_at(e->shape, number), to);
}
static inline dsm_op store_swap_head(const struct store_env *e, uint32_t k, uint64_t number, uint64_t from, uint64_t to)
{
    if (e->shape->extents == 1)
        return store_swap_op(e, k, head_at(e->shape, number), from, to);
    return store_swap_op(e, place_of(e, number, k), head_of_page_at(e->shape, number), from, to);
}
/* These have ended. Looks are afterwards what READs would be: one whose answer was lost has failed. */
static inline void store_looked(const struct store_env *e, dsm_op *ops, uint32_t n)
{
    for (uint32_t i = 0; e->mixes && i < n; i++) {
        if (ops[i].code != DSM_OP_COMPARE_SWAP || !ops[i].local)
            continue;
        ops[i].code = DSM_OP_READ;
        if (ops[i].status == -DSM_EUNKNOWN)
            ops[i].status = ops[i].cause ? ops[i].cause : -DSM_EIO;
        if (!ops[i].status)
            *(uint64_t *)ops[i].local = ops[i].result;
    }
}

/* ---- changes of heads at all copies, of which there are several: put.c ---- */

/* CHANGE_LOSES: its locks are taken back, since it has not got the primary, or is given up. REFUSED: another head was
 * at the primary. FAILED: it has certainly not been made. UNKNOWN: it may have been. */
enum change { CHANGE_BEGINS, CHANGE_LOSES, CHANGE_DONE, CHANGE_REFUSED, CHANGE_FAILED, CHANGE_UNKNOWN };

struct store_change {
    uint64_t number, from, to; /* of the page */
    enum change is;
    uint32_t intent;                  /* its place among those of the client */
    bool refused;                     /* by the primary, which had */
    uint64_t found;                   /* this head */
    uint8_t has, unsure;              /* copies with its lock, and those of which it is not known: a bit each copy */
    uint8_t waits;                    /* for the lock of another client, which has not got the primary, to go */
    uint8_t looks, swaps, undoes;     /* what was asked of the copies in the last posting */
    uint64_t seen[STORE_COPIES_MOST]; /* what is there, without its lock */
};

enum put_step { PUT_BEGINS, PUT_LOCKS, PUT_GOES_ON, PUT_SLEEPS };

struct store_put {
    int status;
    int failed; /* the first error of a change whose primary could not be reached */
    enum put_step step;
    uint32_t count, n, tries;     /* changes, of different pages; ops */
    struct store_intent *intents; /* room for one of each change */
    uint64_t unwritten;           /* places that have not got frame and intents, or not answered yet, a bit each */
    uint32_t ahead;               /* ops that write these, ahead of the others */
    bool undoing;                 /* all is given up */
    bool erred;                   /* an op of the last posting has failed; */
    int error, cause;             /* the first of them, or that because of which all is given up, */
    uint32_t place;               /* and where it was */
    int64_t sleep_ns;
    int64_t ends, lock_wait; /* as that of an op; for a lock, ns */
    uint64_t lock, locked;   /* the one that was met at a backup, and the page; */
    uint32_t copy, waited;   /* at which; how often it was seen; */
    int64_t since, asked;    /* when it was met; when its holder was last asked about */
};

/* write: the op that writes the frame which the change names, for any copy; NULL: they name none. ops: room for
 * STORE_OPS_MOST if it is one change, else for STORE_MANY_MOST; count · copies is at most 2 · PER_CHUNK. Afterwards
 * each change says what has become of it. */
enum { STORE_OPS_MOST = 3 * STORE_COPIES_MOST, STORE_MANY_MOST = 4 * PER_CHUNK };
enum store_next store_put_step(struct store_put *p, struct store_change *changes, dsm_op *ops, const dsm_op *write,
                               struct store_env *e);

static inline uint64_t store_lock_of(const struct store_env *e, uint64_t head)
{
    return head_lock(head, e->slot, e->mark);
}
/* By this client; nothing else has to be proven before such a lock is resolved. */
static inline bool store_lock_is_own(const struct store_env *e, uint64_t lock)
{
    return head_locked(lock) && head_locker(lock) == e->slot && head_low(lock) == e->mark;
}

/* ---- unlocks that are due: put.c ---- */

/* A lock of this client may stand there, and is to be resolved. */
void store_keep(struct store_env *e, uint64_t number);
/* At the primary. */
void store_add_due(struct store_env *e, uint64_t number, uint64_t lock, uint64_t next);
bool store_is_due(const struct store_env *e, uint64_t number, uint64_t lock);
/* An older lock of this client may stand at the page, in the place of the one that a change of this head would set: it
 * is kept, or its unlock is due. Such a page is looked at before a change of it begins, and is not allocated. */
bool store_may_stand(const struct store_env *e, uint64_t number, uint64_t head);
/* No copy of the page is locked by this client, but for locks whose unlocks are due. */
void store_stands_not(struct store_env *e, uint64_t number);
/* The same, if the page has one copy, whose head has been read and is not locked by this client. */
static inline void store_seen_unlocked(struct store_env *e, uint64_t number)
{
    if (e->dues && e->dues->kept && copies_of_page(e, number) == 1)
        store_stands_not(e, number);
}
/* No lock of this client is left, nor a change under way. */
void store_is_swept(struct store_env *e);
/* Ops for up to 'most' of them that are not late, the oldest first. Returns how many. Those of before have been told to
 * store_due_done(), or were not posted. */
uint32_t store_due_ops(const struct store_env *e, dsm_op *ops, uint32_t most);
/* Ends a put that sleeps, or one whose first ops have not been posted. Afterwards its changes say what has become of
 * them. */
void store_put_give_up(struct store_put *p, struct store_change *changes, struct store_env *e);
/* These have ended, of store_due_ops(); or n is 0. What was answered is due no more. */
void store_due_done(struct store_env *e, const dsm_op *ops, uint32_t n);

/* ---- a lock that was left: resolve.c, record.c ---- */

/* The holder is proven dead, at each place; or it is this client, and does nothing else with the
 * page. Several clients may resolve one lock. */
enum { RESOLVE_OPS = PER_CHUNK };
struct store_resolve {
    int status;
    uint64_t number, lock; /* of the page; as it was read before the proof. 0: what is to be resolved is */
    uint32_t copy;         /* where it was read */
    uint32_t slot, mark;   /* the last transaction of this client, if it has left locks */

    enum {
        RESOLVE_BEGINS,
        RESOLVE_PROVES,
        RESOLVE_READS,
        RESOLVE_ASKS,
        RESOLVE_DECIDES,
        RESOLVE_COPIES,
        RESOLVE_UNLOCKS,
        RESOLVE_CHECKS
    } step;
    uint32_t n, tries;
    uint64_t head, heads[STORE_COPIES_MOST];
    uint32_t at;    /* of a transaction: how many of its changes are done; */
    bool commits;   /* whether they are made, or undone; */
    uint64_t parts; /* places of the extents that it changes; */
    uint64_t words[STORE_PLACES_MOST];
    struct tx_record record;
    struct store_intent intents[STORE_COPIES_MOST][INTENTS]; /* of the client */
    dsm_op ops[RESOLVE_OPS];
};

/* Afterwards the lock is gone. Errors: ECORRUPT (copies that contradict each other), and those of ops. */
enum store_next store_resolve_step(struct store_resolve *m, struct store_env *e);
/* The same for a lock of a transaction: all its pages. */
enum store_next store_resolve_transaction_step(struct store_resolve *m, struct store_env *e);

/* The same for each page that is locked by this slot with this mark. */
enum { SWEEP_HEADS = 1024 };
struct store_sweep {
    int status;
    uint32_t slot, mark;

    enum { SWEEP_BEGINS, SWEEP_LOOKS, SWEEP_RESOLVES } step;
    uint32_t extent, copy; /* that is looked at, from index 'looked' on */
    uint64_t looked;
    uint32_t n, got, at; /* ops; heads at hand, and the place in them */
    dsm_op *ops;
    uint64_t heads[SWEEP_HEADS];
    dsm_op look;
    struct store_resolve resolve;
};
enum store_next store_sweep_step(struct store_sweep *m, struct store_env *e);

/* ---- one page: page.c ---- */

enum store_kind { STORE_READ, STORE_VERSION, STORE_WRITE, STORE_COMPARE_WRITE, STORE_FREE };

static inline bool kind_changes(enum store_kind kind) { return kind >= STORE_WRITE; }

struct store_op {
    enum store_kind kind;
    int status;
    uint64_t pid;
    void *page;        /* READ: destination, WRITE and COMPARE_WRITE: source; of page_bytes */
    uint64_t expected; /* COMPARE_WRITE: the version */
    uint64_t version;  /* afterwards: that of the page, also with ECONFLICT */

    enum { OP_BEGINS, OP_LOOKS, OP_SLEEPS, OP_FRAMES, OP_SWAPS, OP_DOUBTS, OP_TRACES, OP_PUTS } step;
    bool own;                   /* 'guess' was read by this op; otherwise it is a hint */
    bool bad;                   /* the frame of the guess was not whole */
    bool of_page;               /* the status is about this page alone: EPAGE, ECORRUPT, or EBUSY of its lock */
    bool hurries;               /* it is of a call that has waited in vain for the lock of another page */
    uint16_t seen;              /* when the guess was the head, as in a hint */
    int64_t seen_at;            /* when this op has seen that; 0: it has only the hint */
    uint32_t rounds, n;         /* looks so far; ops */
    uint64_t guess, head, next; /* a head of the page; the word as it was just read; what replaces it */
    uint32_t frame;             /* that is being written */
    int cause;                  /* of a doubt */
    int64_t sleep_ns;
    uint64_t lock, locked; /* the one that was met, and the page; */
    uint32_t copy;         /* at which */
    int64_t since, asked;  /* when it was met; when its holder was last asked about */
    uint32_t waits;        /* looks that found a lock */
    uint32_t extent;       /* of the frame */
    int64_t ends;          /* when it stops waiting for others, on the clock of 'now'; 0: never. Set by the driver */
    /* What comes from here on is set before it is looked at. */
    struct store_change change; /* of a store with several copies */
    struct store_put put;
    struct store_intent intent;
    dsm_op write; /* of the frame */
    struct frame_header header;
    dsm_store_doubt doubt; /* EUNKNOWN: the change; otherwise its pid is 0 */
    dsm_op ops[STORE_OPS_MOST];
};

static inline void store_op_begin(struct store_op *m, enum store_kind kind, uint64_t pid, void *page)
{
    memset(m, 0, offsetof(struct store_op, change));
    m->doubt.pid = 0;
    m->kind = kind;
    m->pid = pid;
    m->page = page;
}

/* Errors: EPAGE (no such page), ECONFLICT (another version), ECORRUPT, EUNKNOWN, ETIME (others have replaced the page
 * all the time), EBUSY (a client that is not proven dead has locked it), and those of ops. */
enum store_next store_step(struct store_op *m, struct store_env *e);
/* A head that the page had some seconds ago at most: if a swap finds it, it has been there since. */
bool store_knows(const struct store_env *e, uint64_t pid, uint64_t *head, uint64_t *version);
/* It has posted a change whose outcome is not known yet, or holds a lock. */
bool store_must_go_on(const struct store_op *m);
/* Ends a machine whose ops have not been posted, or had no effect; or one that sleeps. What it has locked is due, or
 * kept. */
void store_give_up(struct store_op *m, struct store_env *e);

/* ---- allocation: allocate.c ---- */

struct store_allocation {
    int status;
    uint64_t *ids, want, have;
    uint64_t left; /* pages that stay allocated behind a failure: the first of ids */

    enum {
        ALLOCATION_BEGINS,
        ALLOCATION_LOOKS,
        ALLOCATION_SWAPS,
        ALLOCATION_PUTS,
        ALLOCATION_PROVES,
        ALLOCATION_WAITS,
        ALLOCATION_RETURNS,
        ALLOCATION_UNDOES,
        ALLOCATION_UNPUTS
    } step;
    uint64_t looked;       /* how many heads were read; */
    uint32_t most;         /* the last time, at most */
    uint32_t n, passes;    /* ops; how often all heads were looked at since a page was had */
    uint64_t lock, locked; /* one that was met, 0: none; and the page; */
    uint32_t copy;         /* at which */
    bool busy;             /* a page could not be had because of one */
    uint64_t lost;         /* extents to which no page can be given back, a bit each */
    int64_t sleep_ns;
    int cause;
    /* What comes from here on is set before it is looked at. */
    uint64_t heads[PER_CHUNK];
    struct store_put put; /* of a store with several copies */
    struct store_intent intents[PER_CHUNK];
    struct store_change changes[PER_CHUNK];
    dsm_op ops[STORE_MANY_MOST];
};

static inline void store_allocation_begin(struct store_allocation *m, uint64_t *ids, uint64_t want)
{
    memset(m, 0, offsetof(struct store_allocation, heads));
    m->ids = ids;
    m->want = want;
}

/* Allocates 'want' pages, all or none. Errors: ESTOREFULL, and those of ops. */
enum store_next store_allocate_step(struct store_allocation *m, struct store_env *e);

/* ---- frames: chunk.c ---- */

struct store_chunking {
    int status;

    uint32_t extent; /* set by the driver */
    enum {
        CHUNK_BEGINS,
        CHUNK_SETTLES,
        CHUNK_CLOSES,
        CHUNK_LOOKS,
        CHUNK_SURVEYS,
        CHUNK_SWAPS,
        CHUNK_FRAMES,
        CHUNK_HEADS
    } step;
    uint64_t looked;    /* chunks, in their order; */
    uint32_t next;      /* where that goes on */
    bool guesses;       /* the chunk at hand is a guess, or known, and not the next one in the order */
    bool vain;          /* a chunk was looked through of which no frame was free */
    bool whole;         /* all chunks are to be looked at, also those that have no free frame by all heads */
    uint64_t maybe;     /* frames of the chunk that is opened, which are looked at: those that are guessed, or all */
    uint64_t surveyed;  /* heads, and then words */
    uint32_t n, at, in; /* ops; the first chunk of the words at hand, and which of them is looked at */
    uint32_t got;       /* words that were read */
    uint64_t words[PER_CHUNK], heads[PER_CHUNK];
    struct {
        uint64_t pid, version;
    } frames[PER_CHUNK];
    dsm_op ops[PER_CHUNK];
};

/* Closes the chunk that the client has open, unless it is in doubt, and opens one that has a free frame. */
enum store_next store_open_chunk_step(struct store_chunking *m, struct store_env *e);

/* A free frame of the open chunk, or NO_FRAME. */
#define NO_FRAME UINT32_MAX
uint32_t frames_take(struct store_frames *f);
/* The same of an extent; in turn, if the client does so. Frames of one handle are taken by this function or by the
 * other one alone. */
uint32_t frames_take_next(const struct store_env *e, uint32_t extent);
/* Keeps the open chunk open, and forgets its free frames; another one can be opened beside it. */
void frames_hold(const struct store_env *e, uint32_t extent);
/* Ops that close the chunks that are held, of which no frame may be in a transaction any more. Returns how many. */
uint32_t store_held_ops(const struct store_env *e, dsm_op *ops);
void store_held_done(struct store_env *e, const dsm_op *ops, uint32_t n);
/* The frame is named by no head, and no compare-swap under way names it. Those of other chunks are noted. */
void frames_put_back(const struct store_env *e, uint32_t extent, uint32_t frame);

#endif
