/* The hash of pages: values of libxxhash 0.8.1, XXH3_128bits, for lengths around the ends of stripes and blocks,
 * by the widest vectors of this CPU, and by those that each CPU has. */
#include "base/xxh3.h"
#include "check.h"

#include <string.h>

enum { MOST = 1 << 20 };

static const struct {
    uint64_t nbytes, low, high;
} known[] = {
    {241, 0x2cb1ed4a30c8bded, 0x19f9ed05e7993896},     {256, 0x7fd97c6450f19383, 0x1104622b39302212},
    {320, 0x98fae8bdeca76e58, 0xdd94127a7af309ec},     {1023, 0x296b8bdbd696752e, 0x606e53ea537672a5},
    {1024, 0x5ec111a1e5a293ae, 0x92da9c0cebcc106c},    {1025, 0x5ea0264528a903fc, 0x76c00571248d6978},
    {1088, 0x5caa733531330766, 0x67ee30e57b42f75b},    {4096, 0xa76570548864595e, 0x205cdca1be728c37},
    {5000, 0x215db44dee9150c0, 0xc2d7138baef35917},    {65536, 0xd062f29c26da8cf9, 0x9123c55b6141159c},
    {1048576, 0x7b0c7e7348bde3ff, 0x7c8eba27d77dad5d},
};

static uint8_t copy[MOST + 1];

static void check(const uint8_t *bytes, uint64_t nbytes, struct hash128 wanted)
{
    struct hash128 found[] = {xxh3_128(bytes, nbytes), xxh3_plain(NULL, bytes, nbytes), wanted, wanted};
    if (nbytes % XXH3_STRIPE == 0)
        for (int i = 0; i < 2; i++) {
            memset(copy, 0, nbytes + 1);
            found[2 + i] = i ? xxh3_plain(copy, bytes, nbytes) : xxh3_128_copy(copy, bytes, nbytes);
            CHECK(!memcmp(copy, bytes, nbytes) && !copy[nbytes]);
        }
    for (int i = 0; i < 4; i++)
        CHECK(found[i].low == wanted.low && found[i].high == wanted.high);
}

int main(void)
{
    uint8_t *bytes = malloc(MOST + 1);
    CHECK(bytes);
    for (int shift = 0; shift < 2; shift++) { /* the bytes may begin anywhere */
        uint64_t state = 1;
        for (int i = 0; i < MOST; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            bytes[shift + i] = (uint8_t)(state >> 56);
        }
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            check(bytes + shift, known[i].nbytes, (struct hash128){known[i].low, known[i].high});
    }
    free(bytes);
    puts("ok");
    return 0;
}
