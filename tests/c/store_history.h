/*
 * What a simulated world of clients of a store knows of its pages, and the checker: test_store_sim.c says what is
 * checked. One seed decides on all that is random.
 */
#ifndef TESTS_STORE_HISTORY_H
#define TESTS_STORE_HISTORY_H

#include "store/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGES = 10, PAGE_BYTES = 256, IDS = 1024, VALUES = 2048, VERSIONS = 4096 };

static uint64_t seed, state;
static bool traced;
static long steps_done;

#define REQUIRE(x, ...) \
    do { \
        if (!(x)) { \
            printf("seed %llu, step %ld: %s: ", (unsigned long long)seed, steps_done, #x); \
            printf(__VA_ARGS__); \
            puts(""); \
            exit(1); \
        } \
    } while (0)

static uint64_t chance(uint64_t n) /* below n; splitmix64 */
{
    uint64_t z = state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (z ^ z >> 31) % n;
}

/* ---- what is known of the pages ---- */

struct life { /* of a page id */
    uint64_t pid;
    bool freeing, freed; /* a free has begun, has ended */
};
static struct life lives[IDS];
static uint32_t n_lives;
static uint64_t spare; /* pages at most that may be allocated, and no client knows their ids */
static struct history {
    uint64_t floor;              /* the highest version of an op that has ended */
    uint64_t value_at[VERSIONS]; /* of each version, 0: not known */
} histories[PAGES];
#define NEVER UINT64_MAX
static uint64_t version_of[VALUES], values; /* of each value, 0: not known; NEVER: its write has failed */

static struct life *life_of(uint64_t pid)
{
    for (uint32_t i = n_lives; i--;)
        if (lives[i].pid == pid)
            return &lives[i];
    return NULL;
}

static struct history *history_of(uint64_t pid) { return &histories[page_number(pid)]; }

static void learn(uint64_t pid, uint64_t version, uint64_t value)
{
    struct history *h = history_of(pid);
    REQUIRE(version < VERSIONS && value < VALUES, "version %llu", (unsigned long long)version);
    REQUIRE(!h->value_at[version] || h->value_at[version] == value + 1, "version %llu of page %llx has two values",
            (unsigned long long)version, (unsigned long long)pid);
    h->value_at[version] = value + 1;
    if (!value) /* the zeros of an empty page */
        return;
    uint64_t where = version << 8 | page_number(pid);
    REQUIRE(version_of[value] != NEVER, "value %llu, which was not written", (unsigned long long)value);
    REQUIRE(!version_of[value] || version_of[value] == where, "value %llu was written twice",
            (unsigned long long)value);
    version_of[value] = where;
}

static uint64_t value_in(const uint8_t *page)
{
    uint64_t words[PAGE_BYTES / 8];
    memcpy(words, page, sizeof words);
    for (int i = 1; i < PAGE_BYTES / 8; i++)
        REQUIRE(words[i] == words[0], "a page is torn");
    return words[0];
}

/* A write that has certainly not been made. */
static void forget(uint64_t value)
{
    REQUIRE(!version_of[value], "value %llu was written, and its writer was told that it was not",
            (unsigned long long)value);
    version_of[value] = NEVER;
}

static void history_begins(void)
{
    n_lives = 0;
    spare = 0;
    values = 0;
    memset(histories, 0, sizeof histories);
    memset(version_of, 0, sizeof version_of);
}

#endif
