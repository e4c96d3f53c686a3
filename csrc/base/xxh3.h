/*
 * XXH3_128bits of more than 240 bytes, with the default secret and no seed: 128 bits that tell whether bytes are the
 * ones that were written. It reads a page at nearly the speed of memory, where hash64.h, whose steps depend on each
 * other, would take longer than the copy. It has no key, so it does not protect against an attacker.
 *
 * Why this one: its quality is examined by many, its value is the same everywhere, so that another program can check a
 * page with any xxHash library, and its long form is short. Why not the library: one function of it is needed, its
 * header has 7000 lines, and the core depends on no library. The constants and the steps are those of xxHash 0.8
 * (Yann Collet, https://github.com/Cyan4973/xxHash, BSD 2-clause); tests/c/test_hash.c has values of that library.
 */
#ifndef DSM_BASE_XXH3_H
#define DSM_BASE_XXH3_H

#include <stdint.h>

enum { XXH3_LEAST = 241, XXH3_STRIPE = 64 };

struct hash128 {
    uint64_t low, high;
};

/* nbytes: at least XXH3_LEAST. */
struct hash128 xxh3_128(const void *bytes, uint64_t nbytes);
/* Copies the bytes and hashes the copy, also if others change them meanwhile. nbytes: also a multiple
 * of XXH3_STRIPE. */
struct hash128 xxh3_128_copy(void *to, const void *from, uint64_t nbytes);
/* What both do on a CPU without wider vectors. to: NULL, or as above. */
struct hash128 xxh3_plain(uint8_t *to, const uint8_t *from, uint64_t nbytes);

#endif
