#include "sha256.h"

#include "../dsm.h"

#include <endian.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

/* One round on v[a] … v[h], with w[i] and K[i]. */
#define ROUND(a, b, c, d, e, f, g, h, i) \
    { \
        uint32_t t = v[h] + (rotate(v[e], 6) ^ rotate(v[e], 11) ^ rotate(v[e], 25)) + \
                     ((v[e] & v[f]) ^ (~v[e] & v[g])) + K[i] + w[i]; \
        v[d] += t; \
        v[h] = t + (rotate(v[a], 2) ^ rotate(v[a], 13) ^ rotate(v[a], 22)) + \
               ((v[a] & v[b]) ^ (v[a] & v[c]) ^ (v[b] & v[c])); \
    }

static void compress_plainly(struct sha256 *s)
{
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++) {
        memcpy(&w[i], s->block + 4 * i, 4);
        w[i] = be32toh(w[i]);
    }
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] =
            w[i - 16] + w[i - 7] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
    }
    memcpy(v, s->state, sizeof v);
    for (int i = 0; i < 64;
         i += 8) { /* renaming replaces the moves of words: after eight rounds each has its name again */
        ROUND(0, 1, 2, 3, 4, 5, 6, 7, i)
        ROUND(7, 0, 1, 2, 3, 4, 5, 6, i + 1)
        ROUND(6, 7, 0, 1, 2, 3, 4, 5, i + 2)
        ROUND(5, 6, 7, 0, 1, 2, 3, 4, i + 3)
        ROUND(4, 5, 6, 7, 0, 1, 2, 3, i + 4)
        ROUND(3, 4, 5, 6, 7, 0, 1, 2, i + 5)
        ROUND(2, 3, 4, 5, 6, 7, 0, 1, i + 6)
        ROUND(1, 2, 3, 4, 5, 6, 7, 0, i + 7)
    }
    for (int i = 0; i < 8; i++)
        s->state[i] += v[i];
}

bool sha256_has_instructions;

#if defined(__x86_64__)
/* The processor's instructions for it: they take a fifth of the time. The words of the state lie as they want them, in
 * two registers: a, b, e, f and c, d, g, h. Each turn makes four rounds, and the four words that are used four turns
 * later. */
__attribute__((target("sha,sse4.1"))) static void compress_by_instructions(struct sha256 *s)
{
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i *state = (void *)s->state, w[4];
    __m128i low = _mm_shuffle_epi32(_mm_loadu_si128(state), 0xb1);
    __m128i high = _mm_shuffle_epi32(_mm_loadu_si128(state + 1), 0x1b);
    __m128i abef = _mm_alignr_epi8(low, high, 8), cdgh = _mm_blend_epi16(high, low, 0xf0);
    const __m128i abef_before = abef, cdgh_before = cdgh;
    for (int i = 0; i < 4; i++)
        w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)s->block + i), big_endian);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        __m128i *w0 = &w[i % 4], w1 = w[(i + 1) % 4], w2 = w[(i + 2) % 4], w3 = w[(i + 3) % 4];
        __m128i sum = _mm_add_epi32(*w0, _mm_loadu_si128((const __m128i *)(const void *)K + i));
        cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
        abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
        *w0 = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(*w0, w1), _mm_alignr_epi8(w3, w2, 4)), w3);
    }
    low = _mm_shuffle_epi32(_mm_add_epi32(abef, abef_before), 0x1b);
    high = _mm_shuffle_epi32(_mm_add_epi32(cdgh, cdgh_before), 0xb1);
    _mm_storeu_si128(state, _mm_blend_epi16(low, high, 0xf0));
    _mm_storeu_si128(state + 1, _mm_alignr_epi8(high, low, 8));
}

__attribute__((constructor)) static void look_for_instructions(void)
{
    enum { SSSE3 = 1 << 9, SSE4_1 = 1 << 19, SHA = 1 << 29 };
    unsigned a, b, c, d, b7, c7;
    bool there = __get_cpuid(1, &a, &b, &c, &d) && __get_cpuid_count(7, 0, &a, &b7, &c7, &d);
    sha256_has_instructions = there && (c & SSSE3) && (c & SSE4_1) && (b7 & SHA);
}
#else
static void compress_by_instructions(struct sha256 *s) { compress_plainly(s); }
#endif

static void compress(struct sha256 *s)
{
    if (sha256_has_instructions)
        compress_by_instructions(s);
    else
        compress_plainly(s);
}

void sha256_init(struct sha256 *s)
{
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(s->state, start, sizeof start);
    s->nbytes = 0;
}

void sha256_update(struct sha256 *s, const void *bytes, size_t n)
{
    for (const uint8_t *p = bytes; n;) {
        size_t at = s->nbytes % SHA256_BLOCK, some = n < SHA256_BLOCK - at ? n : SHA256_BLOCK - at;
        memcpy(s->block + at, p, some);
        p += some;
        n -= some;
        s->nbytes += some;
        if (s->nbytes % SHA256_BLOCK == 0)
            compress(s);
    }
}

void sha256_final(struct sha256 *s, uint8_t digest[SHA256_SIZE])
{
    uint64_t bits = htobe64(s->nbytes * 8);
    sha256_update(s, "\x80", 1);
    static const uint8_t zeros[SHA256_BLOCK];
    sha256_update(s, zeros, (2 * SHA256_BLOCK - 8 - s->nbytes % SHA256_BLOCK) % SHA256_BLOCK);
    sha256_update(s, &bits, 8);
    for (int i = 0; i < 8; i++) {
        uint32_t word = htobe32(s->state[i]);
        memcpy(digest + 4 * i, &word, 4);
    }
}

static void key_block(const uint8_t pad[SHA256_BLOCK], uint8_t with, uint32_t state[8])
{
    uint8_t block[SHA256_BLOCK];
    struct sha256 s;
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = pad[i] ^ with;
    sha256_init(&s);
    sha256_update(&s, block, sizeof block);
    memcpy(state, s.state, sizeof s.state);
}

void hmac_key(struct hmac *k, const void *key, size_t len)
{
    uint8_t pad[SHA256_BLOCK] = {0};
    if (len > sizeof pad) {
        struct sha256 s;
        sha256_init(&s);
        sha256_update(&s, key, len);
        sha256_final(&s, pad);
    } else if (len) {
        memcpy(pad, key, len);
    }
    key_block(pad, 0x36, k->inner);
    key_block(pad, 0x5c, k->outer);
}

static void sum(const uint32_t state[8], const void *text, size_t len, uint8_t out[SHA256_SIZE])
{
    struct sha256 s = {.nbytes = SHA256_BLOCK};
    memcpy(s.state, state, sizeof s.state);
    sha256_update(&s, text, len);
    sha256_final(&s, out);
}

void hmac_sum(const struct hmac *k, const void *text, size_t len, uint8_t out[SHA256_SIZE])
{
    uint8_t inner[SHA256_SIZE];
    sum(k->inner, text, len, inner);
    sum(k->outer, inner, sizeof inner, out);
}

void dsm_hmac_sha256(const void *key, size_t key_len, const void *msg, size_t len, uint8_t out[32])
{
    struct hmac k;
    hmac_key(&k, key, key_len);
    hmac_sum(&k, msg, len, out);
}
