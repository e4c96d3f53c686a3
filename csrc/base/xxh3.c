#include "xxh3.h"

#include <assert.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { STRIPE = 64, LANES = 8, SECRET = 192, STEP = 8, STRIPES = (SECRET - STRIPE) / STEP, BLOCK = STRIPE * STRIPES };

#define PRIME32_1 0x9E3779B1u
#define PRIME32_2 0x85EBCA77u
#define PRIME32_3 0xC2B2AE3Du
#define PRIME64_1 0x9E3779B185EBCA87ull
#define PRIME64_2 0xC2B2AE3D27D4EB4Full
#define PRIME64_3 0x165667B19E3779F9ull
#define PRIME64_4 0x85EBCA77C2B2AE63ull
#define PRIME64_5 0x27D4EB2F165667C5ull
#define AVALANCHE 0x165667919E3779F9ull

static const uint8_t secret[SECRET] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4,
    0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e,
    0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43,
    0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb,
    0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19,
    0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8, 0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7,
    0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78,
    0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16,
    0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f,
    0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

static inline uint64_t word(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Lanes do not depend on each other, two are one vector of every machine, and the swap of neighbours is a shuffle. */
typedef uint64_t pair __attribute__((vector_size(16)));

static inline pair pair_at(const uint8_t *p)
{
    pair v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Of the lower and the upper 32 bits of each word. Compilers do not see that one instruction of x86 does this. */
static inline pair product_of_halves(pair v)
{
#ifdef __SSE2__
    return (pair)_mm_mul_epu32((__m128i)v, (__m128i)(v >> 32));
#else
    return (v & 0xffffffff) * (v >> 32);
#endif
}

static inline void accumulate(pair sum[LANES / 2], const uint8_t *stripe, const uint8_t *key)
{
    for (int i = 0; i < LANES / 2; i++) {
        pair data = pair_at(stripe + 16 * i), mixed = data ^ pair_at(key + 16 * i);
        sum[i] += (pair){data[1], data[0]} + product_of_halves(mixed);
    }
}

static inline void scramble(pair sum[LANES / 2])
{
    for (int i = 0; i < LANES / 2; i++)
        sum[i] = (sum[i] ^ sum[i] >> 47 ^ pair_at(secret + SECRET - STRIPE + 16 * i)) * PRIME32_1;
}

static uint64_t merge(const pair sum[LANES / 2], const uint8_t *key, uint64_t h)
{
    for (int i = 0; i < LANES / 2; i++) {
        unsigned __int128 product =
            (unsigned __int128)(sum[i][0] ^ word(key + 16 * i)) * (sum[i][1] ^ word(key + 16 * i + 8));
        h += (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    h = (h ^ h >> 37) * AVALANCHE;
    return h ^ h >> 32;
}

struct hash128 xxh3_128(const void *bytes, uint64_t nbytes)
{
    const uint8_t *p = bytes;
    pair sum[LANES / 2] = {
        {PRIME32_3, PRIME64_1}, {PRIME64_2, PRIME64_3}, {PRIME64_4, PRIME32_2}, {PRIME64_5, PRIME32_1}};
    assert(nbytes >= XXH3_LEAST);
    uint64_t blocks = (nbytes - 1) / BLOCK, stripes = (nbytes - 1) % BLOCK / STRIPE;
    for (; blocks; blocks--, p += BLOCK) {
        for (int i = 0; i < STRIPES; i++)
            accumulate(sum, p + STRIPE * i, secret + STEP * i);
        scramble(sum);
    }
    for (uint64_t i = 0; i < stripes; i++)
        accumulate(sum, p + STRIPE * i, secret + STEP * i);
    accumulate(sum, (const uint8_t *)bytes + nbytes - STRIPE, secret + SECRET - STRIPE - 7);
    return (struct hash128){merge(sum, secret + 11, nbytes * PRIME64_1),
                            merge(sum, secret + SECRET - STRIPE - 11, ~(nbytes * PRIME64_2))};
}
