#include "layout.h"

#include "../base/error.h"
#include "../base/hash64.h"
#include "../base/mapped_ops.h"

#include <stddef.h>

/* ---- frames ---- */

static uint64_t check_of(const struct frame_header *h)
{
    return hash64_bytes(0, h, offsetof(struct frame_header, check));
}

/* The copy may be made where other processes read. */
struct hash128 page_copy(void *copy, const void *page, uint32_t page_bytes)
{
#ifdef MAPPED_TSAN
    mapped_copy(copy, page, page_bytes);
    return xxh3_128(copy, page_bytes);
#else
    return xxh3_128_copy(copy, page, page_bytes);
#endif
}

void frame_seal(struct frame_header *h, void *copy, const void *page, uint32_t page_bytes)
{
    h->hash = copy ? page_copy(copy, page, page_bytes) : xxh3_128(page, page_bytes);
    frame_seal_hashed(h);
}

void frame_seal_hashed(struct frame_header *h) { h->check = check_of(h); }

bool frame_fits(const struct frame_header *h, uint64_t number, uint64_t head)
{
    return page_number(h->pid) == number && head_names(head, h->version) && h->check == check_of(h);
}

bool frame_holds(const struct frame_header *h, const void *page, uint32_t page_bytes)
{
    struct hash128 found = xxh3_128(page, page_bytes);
    return found.low == h->hash.low && found.high == h->hash.high;
}

/* ---- locks ---- */

uint32_t store_mark(uint64_t identity) { return (uint32_t)(hash64_word(0, identity) & LOW24); }

/* ---- transactions ---- */

static uint64_t record_check(const struct tx_record *r)
{
    uint64_t sum = hash64_bytes(0, r, offsetof(struct tx_record, check));
    return hash64_bytes(sum, r->of, r->n * sizeof *r->of);
}

void record_seal(struct tx_record *r) { r->check = record_check(r); }
bool record_is_whole(const struct tx_record *r) { return r->n <= RECORD_PAGES && r->check == record_check(r); }

/* ---- intents ---- */

static uint64_t intent_check(const struct store_intent *i)
{
    return hash64_bytes(0, i, offsetof(struct store_intent, check));
}

void intent_seal(struct store_intent *i) { i->check = intent_check(i); }

bool intent_fits(const struct store_intent *i, uint64_t number, uint64_t lock)
{
    return i->page == ((uint64_t)head_low(lock) << 40 | number) && !head_locked(i->from) &&
           head_version(i->from) == head_version(lock) && i->check == intent_check(i);
}

/* ---- shape ---- */

static uint64_t up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

int store_lay_out(struct store_shape *s)
{
    if (s->page_bytes < STORE_PAGE_LEAST || s->page_bytes > STORE_PAGE_MOST || s->page_bytes % STORE_GRAIN)
        return err_set(DSM_EINVAL, 0, "pages of %u bytes; a multiple of %d from %d to %d", s->page_bytes, STORE_GRAIN,
                       STORE_PAGE_LEAST, STORE_PAGE_MOST);
    if (!s->copies || s->copies > STORE_COPIES_MOST || s->index >= s->copies)
        return err_set(DSM_EINVAL, 0, "copy %u of %u; 1 to %d copies, and the first is 0", s->index, s->copies,
                       STORE_COPIES_MOST);
    s->extents = s->extents ? s->extents : 1;
    if (s->extents > STORE_PLACES_MOST / s->copies || s->extent >= s->extents)
        return err_set(DSM_EINVAL, 0, "extent %u of %u with %u copies each; at most %d copies of all extents",
                       s->extent, s->extents, s->copies, STORE_PLACES_MOST);
    if (!s->slots || s->slots > SLOTS_MOST)
        return err_set(DSM_EINVAL, 0, "%u clients at a time; 1 to %d", s->slots, SLOTS_MOST);
    if (!s->pages || s->pages > FRAMES_MOST || up(s->pages, PER_CHUNK) + PER_CHUNK * s->slots > FRAMES_MOST)
        return err_set(DSM_EINVAL, 0, "%llu pages for %u clients; at most %d frames of pages and %d for each client",
                       (unsigned long long)s->pages, s->slots, FRAMES_MOST, PER_CHUNK);
    s->chunks = up(s->pages, PER_CHUNK) / PER_CHUNK + s->slots;
    s->words = slot_at(s->slots);
    s->chunk_words = word_at(s, s->slots);
    s->heads = up(s->chunk_words + 8 * s->chunks, 64);
    s->records = up(s->heads + 8 * s->pages, RECORD_BYTES);
    s->intents = record_at(s, s->slots);
    s->frames = s->copies == 1 ? s->intents : up(intents_at(s, s->slots), RECORD_BYTES);
    s->nbytes = frame_at(s, frames_of(s));
    return 0;
}

/* The first one. Another store has others, so that its ids are not taken for ids of this one. */
static uint32_t generation_of(const struct store_shape *s, uint64_t number)
{
    uint32_t g = (uint32_t)(hash64_word(hash64_word(0, s->id), number) & LOW24);
    return g ? g : 1;
}

uint64_t head_first(const struct store_shape *s, uint64_t number)
{
    return head_of(HEAD_FREE, 0, generation_of(s, number));
}
