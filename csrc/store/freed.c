#include "freed.h"

enum { PLACES = 32 }; /* that are searched for a chunk with frames that are known to be free */
enum { ENOUGH = 8 };  /* frames, so that opening a chunk costs less for each than one that is in no cache */
enum { VAIN = 32 };   /* chunks with fewer weigh as much as one in vain */

static uint32_t bits(uint64_t frames) { return (uint32_t)__builtin_popcountll(frames); }

static uint32_t freed_in(const struct store_freed *g, uint32_t chunk) { return bits(g->of[chunk].frames); }

void freed_note(struct store_freed *g, uint32_t frame)
{
    uint32_t chunk = frame / PER_CHUNK;
    uint64_t bit = 1ull << frame % PER_CHUNK;
    g->of[chunk].frames |= bit;
    g->guessed += !(g->of[chunk].guess & bit);
    g->of[chunk].guess |= bit;
    if (chunk != g->best && freed_in(g, chunk) > freed_in(g, g->best))
        g->best = chunk;
}

uint64_t freed_known(const struct store_freed *g, uint32_t chunk, uint64_t word)
{
    return g->of[chunk].word == word ? g->of[chunk].frames : 0;
}

void freed_is_open(struct store_freed *g, uint32_t chunk)
{
    g->guessed -= bits(g->of[chunk].guess);
    g->of[chunk].guess = 0;
}

void freed_forget(struct store_freed *g, uint32_t chunk)
{
    freed_is_open(g, chunk);
    g->of[chunk].word = g->of[chunk].frames = 0;
}

static bool has_more(const struct store_freed *g, uint32_t chunk)
{
    uint32_t n = freed_in(g, chunk);
    return n && g->of[chunk].word && (n >= ENOUGH || 2 * n >= g->had);
}

/* A chunk with frames that are known to be free needs no READs, and these frames are in the caches of this client; one
 * with few must not be taken where others have many. */
static uint32_t next_known(const struct store_freed *g, uint32_t chunks, uint32_t from)
{
    if (has_more(g, g->best))
        return g->best;
    for (uint32_t i = 0; i < PLACES; i++)
        if (has_more(g, (from + i) % chunks))
            return (from + i) % chunks;
    return NO_CHUNK;
}

static uint32_t next_guess(struct store_freed *g, uint32_t chunks, uint32_t from)
{
    for (; g->guessed; g->poor = 0)
        for (uint32_t i = 0; i < chunks; i++)
            if (bits(g->of[(from + i) % chunks].guess) > g->poor)
                return (from + i) % chunks;
    return NO_CHUNK;
}

/* To look through a chunk in its turn costs twice as much as to open one with frames that are known to be free. */
static bool is_worth(const struct store_freed *g, uint32_t chunk) { return 2 * bits(g->of[chunk].guess) >= g->found; }

uint32_t freed_next(struct store_freed *g, uint32_t chunks, uint32_t from, bool vain)
{
    uint32_t known = next_known(g, chunks, from);
    if (known != NO_CHUNK)
        return known;
    uint32_t guess = next_guess(g, chunks, from);
    return guess == NO_CHUNK || vain || is_worth(g, guess) ? guess : NO_CHUNK;
}

void freed_found(struct store_freed *g, uint32_t frames, bool in_turn)
{
    g->had = frames ? frames : g->had;
    g->found = in_turn ? frames : g->found;
    g->spent += !frames ? VAIN : frames < ENOUGH;
}

/* As soon as looking in vain, in one search or in many, has cost as much as a survey: both together cost at most twice
 * as much as what had been better. And now and then where chunks had few, since these may not be what is best. */
bool freed_is_poor(const struct store_freed *g, uint32_t survey_costs) { return g->spent >= VAIN * (1 + survey_costs); }

void freed_all_changed(struct store_freed *g) { g->spent = UINT32_MAX / 2; }

void freed_survey(struct store_freed *g, uint32_t chunks)
{
    for (uint32_t i = 0; i < chunks; i++)
        g->of[i].guess = ~0ull;
}

void freed_is_named(struct store_freed *g, uint32_t chunks, uint64_t head)
{
    if (head_state(head) == HEAD_FRAMED && head_low(head) / PER_CHUNK < chunks)
        g->of[head_low(head) / PER_CHUNK].guess &= ~(1ull << head_low(head) % PER_CHUNK);
}

/* Chunks that have half of the free frames, and more than others, come before these. */
void freed_surveyed(struct store_freed *g, uint32_t chunks, bool whole)
{
    uint64_t with[PER_CHUNK + 1] = {0}, rich = 0;
    g->guessed = g->spent = 0;
    for (uint32_t i = 0; i < chunks; i++) {
        g->of[i].guess = whole ? g->of[i].guess : g->of[i].frames;
        with[bits(g->of[i].guess)]++;
        g->guessed += bits(g->of[i].guess);
    }
    for (g->poor = PER_CHUNK; g->poor && 2 * rich < g->guessed; g->poor--)
        rich += g->poor * with[g->poor];
}
