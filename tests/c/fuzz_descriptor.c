/* Parses arbitrary bytes, also with the right length and checksum: no crash, and a descriptor that is accepted is
 * consistent, and is written as the same bytes. */
#include "base/crc32.h"
#include "base/wire.h"
#include "core/core.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void parse(const uint8_t *bytes, size_t n)
{
    dsm_descriptor d;
    uint8_t again[DSM_DESC_MAX];
    if (dsm_descriptor_parse(bytes, n, &d))
        return;
    if (!d.nbytes || !d.generation || !d.access || !d.nways || d.nways + d.nbulk > DSM_WAYS_MAX)
        abort();
    if (d.part.generation && (!d.part.nbytes || d.part.nbytes > d.nbytes || d.part.offset > d.nbytes - d.part.nbytes))
        abort();
    for (uint32_t i = 0; i < d.nways + d.nbulk; i++)
        if (strnlen(d.ways[i].address, DSM_ADDRESS_MAX) == DSM_ADDRESS_MAX)
            abort();
    if ((size_t)descriptor_write(&d, again) != n || memcmp(again, bytes, n))
        abort();
}

/* Many, one behind another: what the reader accepts as one is a descriptor by itself, and equal to what it has read. */
static void read_all(const uint8_t *bytes, size_t n)
{
    struct descriptor_reader r = {.at = bytes, .end = bytes + n};
    dsm_descriptor d, alone;
    bool same;
    while (r.at < r.end) {
        const uint8_t *at = r.at;
        if (descriptor_next(&r, &d, &same))
            return;
        if (r.at <= at || r.at > r.end || dsm_descriptor_parse(at, (size_t)(r.at - at), &alone) ||
            d.region != alone.region || d.nbytes != alone.nbytes || memcmp(&d.part, &alone.part, sizeof d.part))
            abort();
    }
}

/* Makes a descriptor of a part of the first 'n' bytes: the fuzzer has chosen its way and its part. */
static void make_part(uint8_t *b, size_t n)
{
    b[4] = 3;
    if (b[5] == 1)
        b[49] = (uint8_t)(n - 50 - DESC_TAIL);
    b[n - DESC_TAIL + 16] &= 0xc0; /* of its offset */
    put_u32(b + n - 4, crc32(b, n - 4));
}

/* Two descriptors of parts that have the same beginning, or nearly. */
static void two(const uint8_t *bytes, size_t n)
{
    size_t each = n / 2;
    uint8_t *b = each >= 50 + DESC_TAIL ? malloc(2 * each) : NULL;
    if (!b)
        return;
    memcpy(b, bytes, 2 * each);
    memcpy(b, "DSMR", 4);
    memcpy(b + each, b, each - DESC_TAIL);
    if (bytes[n - 1] & 1)
        b[each + 24] ^= 1; /* another region */
    make_part(b, each);
    make_part(b + each, each);
    read_all(b, 2 * each);
    free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    uint8_t *whole = malloc(n + 1); /* no longer than that, so that reads beyond the end are found */
    if (!whole)
        return 0;
    if (n)
        memcpy(whole, bytes, n);
    parse(whole, n);
    if (n >= 54) {
        memcpy(whole, "DSMR\2", 5);
        if (whole[5] == 1) /* one way, to the end */
            whole[49] = (uint8_t)(n - 54);
        put_u32(whole + n - 4, crc32(whole, n - 4));
        parse(whole, n);
        read_all(whole, n);
    }
    if (n >= 50 + DESC_TAIL) {
        make_part(whole, n);
        parse(whole, n);
        read_all(whole, n);
    }
    free(whole);
    two(bytes, n);
    return 0;
}
