#include "xxh3.h"

#include <assert.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

enum {
    STRIPE = XXH3_STRIPE,
    LANES = 8,
    SECRET = 192,
    STEP = 8,
    STRIPES = (SECRET - STRIPE) / STEP,
    BLOCK = STRIPE * STRIPES
};

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

static const uint64_t first[LANES] = {PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3,
                                      PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1};

static uint64_t merge(const uint64_t sum[LANES], const uint8_t *key, uint64_t h)
{
    for (int i = 0; i < LANES; i += 2) {
        unsigned __int128 product =
            (unsigned __int128)(sum[i] ^ word(key + 8 * i)) * (sum[i + 1] ^ word(key + 8 * i + 8));
        h += (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    h = (h ^ h >> 37) * AVALANCHE;
    return h ^ h >> 32;
}

static struct hash128 merged(const uint64_t sum[LANES], uint64_t nbytes)
{
    return (struct hash128){merge(sum, secret + 11, nbytes * PRIME64_1),
                            merge(sum, secret + SECRET - STRIPE - 11, ~(nbytes * PRIME64_2))};
}

/* Lanes do not depend on each other, so a vector holds as many as the CPU has room for, and the swap of neighbours is a
 * shuffle. */
#define VECTOR(bytes) uint64_t __attribute__((vector_size(bytes)))

/* The compiler may not load the bytes a second time: they may have changed, and another value would be hashed than was
 * stored. */
#if defined(__x86_64__)
#define LOADED_ONCE(v) __asm__("" : "+x"(v))
#elif defined(__aarch64__)
#define LOADED_ONCE(v) __asm__("" : "+w"(v))
#else
#define LOADED_ONCE(v) __asm__("" : "+m"(v))
#endif

#define HASH xxh3_plain
#define WIDTH 16
#define TARGET
#define NEIGHBOURS(v) ((vector){(v)[1], (v)[0]})
#ifdef __x86_64__ /* compilers do not see that one instruction does this */
#define PRODUCT_OF_HALVES(v) ((vector)_mm_mul_epu32((__m128i)(v), (__m128i)((v) >> 32)))
#else
#define PRODUCT_OF_HALVES(v) (((v)&0xffffffff) * ((v) >> 32))
#endif
#include "xxh3_steps.h"

#ifdef __x86_64__
#define HASH xxh3_avx2
#define WIDTH 32
#define TARGET static __attribute__((target("avx2")))
#define NEIGHBOURS(v) ((vector)_mm256_shuffle_epi32((__m256i)(v), 0x4e))
#define PRODUCT_OF_HALVES(v) ((vector)_mm256_mul_epu32((__m256i)(v), (__m256i)((v) >> 32)))
#include "xxh3_steps.h"
#endif

static inline struct hash128 hash(uint8_t *to, const uint8_t *from, uint64_t nbytes)
{
    assert(nbytes >= XXH3_LEAST);
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2"))
        return xxh3_avx2(to, from, nbytes);
#endif
    return xxh3_plain(to, from, nbytes);
}

struct hash128 xxh3_128(const void *bytes, uint64_t nbytes) { return hash(NULL, bytes, nbytes); }

struct hash128 xxh3_128_copy(void *to, const void *from, uint64_t nbytes)
{
    assert(nbytes % STRIPE == 0);
    return hash(to, from, nbytes);
}
