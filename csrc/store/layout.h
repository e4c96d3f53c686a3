/*
 * The words and offsets of a store of pages: docs/protocols/pages.md, which has the tables and the reasons.
 *
 * A page is never changed in place. A new value goes into a free frame, and then one compare-swap on the page's head
 * makes it the page.
 */
#ifndef DSM_STORE_LAYOUT_H
#define DSM_STORE_LAYOUT_H

#include "../base/xxh3.h"
#include "../dsm.h"

#include <stdbool.h>

enum {
    STORE_FORMAT = 7,         /* of a store of one copy and one extent; */
    STORE_FORMAT_EXTENTS = 1, /* more of several extents, */
    STORE_FORMAT_COPIES = 2,  /* and of several copies: 7 and 8 had another protocol there */
    STORE_HEADER = 128,
    STORE_COMPLETE = 128,
    STORE_EPOCH = 136,
    STORE_MEMBERS = 144,
    STORE_NODES = 152,
    STORE_SLOTS = 192,
    STORE_COPIES_MOST = DSM_STORE_COPIES,
    STORE_PLACES_MOST = DSM_STORE_PLACES /* copies of all extents */
};
enum { STORE_GRAIN = 64, STORE_PAGE_LEAST = 256, STORE_PAGE_MOST = 1 << 20 };
enum { FRAMES_MOST = 1 << 24, PER_CHUNK = 64, SLOTS_MOST = 1024 };

/* What the properties of a store make of its memory: that of one copy of one extent. All are alike. */
struct store_shape {
    uint32_t page_bytes, slots;
    uint32_t copies, index;   /* of how many, and which of them this is */
    uint32_t extents, extent; /* the same of extents */
    uint32_t spread;          /* nodes over which they are spread, as their creator has said; 0: it has not */
    uint64_t id;              /* the same at all copies of all extents */
    uint64_t nodes;           /* at which its places are, as their creator has said; 0: it has not */
    uint64_t epoch;           /* 0: it has none; and its copies, store_members(). As they were read */
    uint64_t members;
    uint64_t pages, chunks;                                               /* of each extent */
    uint64_t words, chunk_words, heads, records, intents, frames, nbytes; /* offsets, and the end */
};

/* Which copies belong to an epoch, a bit each; and which of them is its primary. */
static inline uint64_t store_members(uint64_t copies, uint32_t primary) { return copies | (uint64_t)primary << 8; }

/* ---- heads ---- */

enum { HEAD_FRAMED = 0, HEAD_LOCKED_MOST = 4000, HEAD_EMPTY = 4094, HEAD_FREE = 4095 };
enum { HEAD_TRANSACTION = 2048 }; /* added to the state of a head that a transaction has locked */
#define LOW24 0xffffffull
#define LOW28 0xfffffffull

/* low: the number of the frame; of an empty or a free page the generation. */
static inline uint64_t head_of(uint64_t state, uint64_t version, uint64_t low)
{
    return state << 52 | (version & LOW28) << 24 | low;
}
static inline unsigned head_state(uint64_t head) { return (unsigned)(head >> 52); }
static inline uint64_t head_version(uint64_t head) { return head >> 24 & LOW28; }
static inline uint32_t head_low(uint64_t head) { return (uint32_t)(head & LOW24); }

/* Locked by a client, which is changing it at other copies or in a transaction. low: the mark of the client. */
static inline bool head_locked(uint64_t head) { return head_state(head) - 1 < HEAD_LOCKED_MOST; }
/* Of a lock: by which kind of change, and by the client in which slot. */
static inline bool head_in_transaction(uint64_t lock)
{
    return head_locked(lock) && head_state(lock) > HEAD_TRANSACTION;
}
static inline uint32_t head_locker(uint64_t lock) { return (head_state(lock) & (HEAD_TRANSACTION - 1)) - 1; }
static inline uint64_t head_lock(uint64_t head, uint32_t slot, uint32_t mark)
{
    return head_of(slot + 1, head_version(head), mark);
}
static inline uint64_t head_transaction_lock(uint64_t head, uint32_t slot, uint32_t mark)
{
    return head_of(HEAD_TRANSACTION + slot + 1, head_version(head), mark);
}
/* Of the identity that a client has at the primary, 24 bits. Slots are used again; with it a lock never comes twice. */
uint32_t store_mark(uint64_t identity);

/* Of a page in a frame whose header has this version. */
static inline bool head_names(uint64_t head, uint64_t version) { return (version & LOW28) == head_version(head); }

/* By how many versions a word is ahead of another one: of a head, or of a lock, which has that of its base. */
static inline int64_t versions_ahead(uint64_t word, uint64_t of)
{
    uint64_t more = (head_version(word) - head_version(of)) & LOW28;
    return more > LOW28 / 2 ? (int64_t)more - (int64_t)LOW28 - 1 : (int64_t)more;
}

/* ---- page ids ---- */

#define PAGE_NUMBERS DSM_STORE_NUMBERS

static inline uint64_t page_id(uint64_t generation, uint64_t number) { return generation << 40 | number; }
static inline uint64_t page_number(uint64_t pid) { return pid & (PAGE_NUMBERS - 1); }
static inline uint32_t page_generation(uint64_t pid) { return (uint32_t)(pid >> 40); }
static inline uint32_t generation_after(uint32_t g) { return g == LOW24 ? 1 : g + 1; }

/* ---- extents ---- */

/* Page number n is page n / X of extent n mod X: so pages that are allocated one after another are in all extents. */
static inline uint64_t store_pages(const struct store_shape *s) { return s->pages * s->extents; }
static inline uint32_t extent_of(const struct store_shape *s, uint64_t number)
{
    return s->extents == 1 ? 0 : (uint32_t)(number % s->extents);
}
static inline uint64_t index_of(const struct store_shape *s, uint64_t number)
{
    return s->extents == 1 ? number : number / s->extents;
}
static inline uint64_t number_at(const struct store_shape *s, uint32_t extent, uint64_t index)
{
    return index * s->extents + extent;
}

/* ---- frames ---- */

struct frame_header {
    uint64_t pid, version; /* the lower bits of the version are those of the head that names the frame */
    uint64_t writer, time; /* frame_writer() or frame_transaction(); a hybrid stamp */
    uint64_t before;       /* the head that it has replaced */
    struct hash128 hash;   /* of the page */
    uint64_t check;        /* of all before it */
};
_Static_assert(sizeof(struct frame_header) == 64, "docs/protocols/pages.md");

/* number: the client's mark, of 24 bits, if the change is one of this page alone. With slot and epoch it says by which
 * client a frame was written, also where another one has used the frame again for the same page and version. */
static inline uint64_t frame_writer(uint32_t slot, uint64_t epoch, uint32_t number)
{
    return (uint64_t)(slot + 1) << 52 | (epoch & 0xfffff) << 32 | number;
}
/* The same of a transaction: the lower 31 bits of its number, and a bit that no mark has. */
#define WRITER_TRANSACTION 0x80000000u
static inline uint64_t frame_transaction(uint32_t slot, uint64_t epoch, uint64_t seq)
{
    return frame_writer(slot, epoch, WRITER_TRANSACTION | (uint32_t)seq);
}
static inline uint32_t writer_slot(uint64_t writer) { return (uint32_t)(writer >> 52) - 1; }
static inline uint32_t writer_epoch(uint64_t writer) { return (uint32_t)(writer >> 32) & 0xfffff; }
static inline bool writer_in_transaction(uint64_t writer) { return writer & WRITER_TRANSACTION; }
static inline uint32_t writer_transaction(uint64_t writer) { return (uint32_t)writer & ~WRITER_TRANSACTION; }

/* Copies the page, and completes the header for the copy: others may change the page meanwhile. copy: NULL makes none,
 * for a page that does not change. */
void frame_seal(struct frame_header *h, void *copy, const void *page, uint32_t page_bytes);
/* The same in two steps: the hash of a page that is copied, and a header that has its hash. */
struct hash128 page_copy(void *copy, const void *page, uint32_t page_bytes);
void frame_seal_hashed(struct frame_header *h);
/* Whether the header was once written as it is, for the page and version of the head. */
bool frame_fits(const struct frame_header *h, uint64_t number, uint64_t head);
/* Whether these bytes are the page that the header was written with. */
bool frame_holds(const struct frame_header *h, const void *page, uint32_t page_bytes);

/* ---- chunk words ---- */

enum { CHUNK_FREE = 0, CHUNK_OPEN = 1, CHUNK_CLOSED = 2 };

static inline unsigned chunk_state(uint64_t word) { return word >> 50 & 3; }
static inline uint32_t chunk_owner(uint64_t word) { return (uint32_t)(word >> 52); }
/* owner: slot + 1, or 0. */
static inline uint64_t chunk_next(uint64_t word, uint64_t owner, uint64_t state)
{
    return owner << 52 | state << 50 | ((word + 1) & ((1ull << 50) - 1));
}

/* ---- transactions ---- */

/* The word of a slot: which transaction of its clients is the last one, and what has become of it. A number never comes
 * twice. */
enum transaction_state { TX_NONE, TX_PREPARED, TX_COMMITTED, TX_ABORTED };

static inline uint64_t tx_word(uint64_t seq, enum transaction_state state) { return seq << 2 | state; }
static inline uint64_t tx_seq(uint64_t word) { return word >> 2; }
static inline enum transaction_state tx_state(uint64_t word) { return (enum transaction_state)(word & 3); }

enum { RECORD_BYTES = 4096, RECORD_PAGES = DSM_TRANSACTION_CHANGES };
/* What a transaction changes. It is there before the first page is locked. */
struct tx_record {
    uint64_t seq;
    uint32_t mark, n; /* of the client; pages */
    uint64_t time;
    uint64_t check; /* of all before it, and of n changes */
    struct tx_change {
        uint64_t pid, from, to; /* heads */
    } of[RECORD_PAGES];
};
_Static_assert(sizeof(struct tx_record) == 32 + 24 * RECORD_PAGES, "docs/protocols/commit.md");
static inline uint64_t record_bytes(uint32_t n) { return 32 + 24ull * n; }
void record_seal(struct tx_record *r);
bool record_is_whole(const struct tx_record *r);

/* ---- intents ---- */

/* What a single change is about to do with a page, at the primary of several copies. It is there before the page is
 * locked, so that a primary that has survived alone says what the lock stands for. */
enum { INTENTS = 256, INTENT_BYTES = 40 };
struct store_intent {
    uint64_t seq;  /* greater than that of any before it */
    uint64_t page; /* mark of the client << 40 | number */
    uint64_t from, to;
    uint64_t check; /* of all before it */
};
_Static_assert(sizeof(struct store_intent) == INTENT_BYTES, "docs/protocols/pages.md");
void intent_seal(struct store_intent *i);
/* Whether it is whole, and of the change that has locked the page. */
bool intent_fits(const struct store_intent *i, uint64_t number, uint64_t lock);

/* ---- offsets ---- */

static inline uint64_t slot_at(uint32_t slot) { return STORE_SLOTS + 8ull * slot; }
static inline uint64_t word_at(const struct store_shape *s, uint32_t slot) { return s->words + 8ull * slot; }
static inline uint64_t record_at(const struct store_shape *s, uint32_t slot)
{
    return s->records + (uint64_t)RECORD_BYTES * slot;
}
static inline uint64_t intents_at(const struct store_shape *s, uint32_t slot)
{
    return s->intents + (uint64_t)INTENTS * INTENT_BYTES * slot;
}
static inline uint64_t chunk_at(const struct store_shape *s, uint64_t chunk) { return s->chunk_words + 8 * chunk; }
static inline uint64_t head_at(const struct store_shape *s, uint64_t index) { return s->heads + 8 * index; }
/* In its extent. */
static inline uint64_t head_of_page_at(const struct store_shape *s, uint64_t number)
{
    return head_at(s, index_of(s, number));
}
static inline uint64_t frame_at(const struct store_shape *s, uint64_t frame)
{
    return s->frames + frame * (sizeof(struct frame_header) + s->page_bytes);
}
static inline uint64_t frames_of(const struct store_shape *s) { return s->chunks * PER_CHUNK; }

/* Computes the offsets. EINVAL: page_bytes, slots or pages can't be. */
int store_lay_out(struct store_shape *s);
/* The head of a page in a new store. */
uint64_t head_first(const struct store_shape *s, uint64_t number);
/* Writes copy s->index of extent s->extent into zeroed memory of s->nbytes bytes. s->id: 0 is replaced by a new one. */
int store_format(void *memory, struct store_shape *s);
/* Checks the first STORE_HEADER bytes of a store, which are a copy. The header of the object has been approved. */
int store_parse(const void *bytes, struct store_shape *s);

#endif
