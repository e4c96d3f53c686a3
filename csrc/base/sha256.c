#include "sha256.h"

#include "../dsm.h"

#include <endian.h>
#include <string.h>

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

static void compress(struct sha256 *s)
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
