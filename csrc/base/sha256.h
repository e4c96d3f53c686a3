/* SHA-256 (FIPS 180-4) and HMAC-SHA256 (RFC 2104), for the short messages of the control protocol. */
#ifndef DSM_BASE_SHA256_H
#define DSM_BASE_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SHA256_SIZE = 32, SHA256_BLOCK = 64 };

struct sha256 {
    uint32_t state[8];
    uint64_t nbytes;
    uint8_t block[SHA256_BLOCK];
};

/* Whether this processor has instructions for it; set before main(). A test clears it. */
extern bool sha256_has_instructions;

void sha256_init(struct sha256 *s);
void sha256_update(struct sha256 *s, const void *bytes, size_t n);
void sha256_final(struct sha256 *s, uint8_t digest[SHA256_SIZE]);

/* HMAC-SHA256 with one key for many messages: the hash states after the inner and the outer key block. They are as
 * secret as the key. */
struct hmac {
    uint32_t inner[8], outer[8];
};

void hmac_key(struct hmac *k, const void *key, size_t len);
void hmac_sum(const struct hmac *k, const void *text, size_t len, uint8_t out[SHA256_SIZE]);

/* Compares in constant time: it does not depend on where the bytes differ. */
static inline bool same_bytes(const uint8_t *a, const uint8_t *b, size_t n)
{
    uint8_t differ = 0;
    while (n--)
        differ |= *a++ ^ *b++;
    return !differ;
}

#endif
