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
    if (!d.nbytes || !d.generation || !d.access || !d.nways || d.nways > DSM_WAYS_MAX)
        abort();
    for (uint32_t i = 0; i < d.nways; i++)
        if (strnlen(d.ways[i].address, DSM_ADDRESS_MAX) == DSM_ADDRESS_MAX)
            abort();
    if ((size_t)descriptor_write(&d, again) != n || memcmp(again, bytes, n))
        abort();
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
    }
    free(whole);
    return 0;
}
