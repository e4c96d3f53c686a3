/*
 * hash64: a 64-bit checksum that tells whether bytes have arrived completely. Every step is a bijection of the sum, so
 * a change of one word always changes it, and a change of several words changes it with probability 1 - 2^-64. It has
 * no key, so it does not protect against an attacker.
 */
#ifndef DSM_BASE_HASH64_H
#define DSM_BASE_HASH64_H

#include <stdint.h>
#include <string.h>

static inline uint64_t hash64_word(uint64_t sum, uint64_t word)
{
    sum = (sum ^ word) * UINT64_C(0x9e3779b97f4a7c15); /* 2^64 / golden ratio, odd */
    return sum ^ sum >> 29;
}

static inline uint64_t hash64_bytes(uint64_t sum, const void *bytes, uint64_t n)
{
    const uint8_t *p = bytes;
    uint64_t word;
    for (; n >= 8; n -= 8, p += 8) {
        memcpy(&word, p, 8);
        sum = hash64_word(sum, word);
    }
    word = 0;
    memcpy(&word, p, n);
    return hash64_word(sum, word ^ n << 56);
}

#endif
