/* CRC-32 as in zlib and IEEE 802.3 (reflected polynomial 0xedb88320). */
#ifndef DSM_BASE_CRC32_H
#define DSM_BASE_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Continues from a state: that of no bytes is ~0, and the CRC is the complement of the last state. */
static inline uint32_t crc32_more(uint32_t state, const uint8_t *p, size_t n)
{
    static const uint32_t of_nibble[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    while (n--) {
        state ^= *p++;
        state = state >> 4 ^ of_nibble[state & 15];
        state = state >> 4 ^ of_nibble[state & 15];
    }
    return state;
}

static inline uint32_t crc32(const uint8_t *p, size_t n) { return ~crc32_more(~0u, p, n); }

#endif
