/* CRC-32 as in zlib and IEEE 802.3 (reflected polynomial 0xedb88320). Bitwise, as descriptors are short and rare. */
#ifndef DSM_BASE_CRC32_H
#define DSM_BASE_CRC32_H

#include <stddef.h>
#include <stdint.h>

static inline uint32_t crc32(const uint8_t *p, size_t n)
{
    uint32_t crc = ~0u;
    while (n--) {
        crc ^= *p++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xedb88320u & -(crc & 1));
    }
    return ~crc;
}

#endif
