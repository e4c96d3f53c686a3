/*
 * The wire format of descriptors (docs/protocols/descriptor.md), little-endian:
 *   0 magic "DSMR" | 4 version | 5 number of ways | 6 kind | 7 access | 8 node[16] | 24 region u64 | 32 generation u64
 *   40 nbytes u64 | 48 the ways: fabric u8, length of the address u8, address | the CRC-32 of everything before it
 * A descriptor only tells where to ask. The rights and length that count are those that the owner's agent grants on
 * attach.
 */
#include "../base/crc32.h"
#include "../base/wire.h"
#include "core.h"

#include <string.h>

enum { AT_WAYS = 48, VERSION = 2 };
_Static_assert(AT_WAYS + DSM_WAYS_MAX * (2 + DSM_ADDRESS_MAX) + 4 <= DSM_DESC_MAX, "fits");
_Static_assert((int)DSM_WAYS_MAX == (int)FABRIC_DEVICES_MAX, "one for each device");

int descriptor_write(const dsm_descriptor *d, uint8_t buf[DSM_DESC_MAX])
{
    size_t at = AT_WAYS;
    memset(buf, 0, DSM_DESC_MAX);
    memcpy(buf, "DSMR", 4);
    buf[4] = VERSION;
    buf[5] = (uint8_t)d->nways;
    buf[6] = (uint8_t)d->kind;
    buf[7] = (uint8_t)d->access;
    memcpy(buf + 8, d->node, DSM_NODE_ID);
    put_u64(buf + 24, d->region);
    put_u64(buf + 32, d->generation);
    put_u64(buf + 40, d->nbytes);
    for (uint32_t i = 0; i < d->nways; i++) {
        size_t n = strlen(d->ways[i].address);
        buf[at++] = (uint8_t)d->ways[i].fabric;
        buf[at++] = (uint8_t)n;
        memcpy(buf + at, d->ways[i].address, n);
        at += n;
    }
    put_u32(buf + at, crc32(buf, at));
    return (int)(at + 4);
}

/* Parses the way at *at, which must end before 'end', and moves *at behind it. */
static int parse_way(const uint8_t *b, size_t *at, size_t end, struct dsm_way *out)
{
    if (end - *at < 2 || b[*at + 1] > end - *at - 2 || b[*at + 1] >= sizeof out->address)
        return err_set(DSM_EDESC, 0, "its length does not fit its contents");
    size_t n = b[*at + 1];
    const uint8_t *address = b + *at + 2;
    for (size_t i = 0; i < n; i++)
        if (address[i] < '!' || address[i] > '~')
            return err_set(DSM_EDESC, 0, "an address in it is not printable ASCII text");
    out->fabric = b[*at];
    memcpy(out->address, address, n);
    *at += 2 + n;
    return 0;
}

int dsm_descriptor_parse(const void *bytes, size_t len, dsm_descriptor *out)
{
    const uint8_t *b = bytes;
    memset(out, 0, sizeof *out);
    if (len < 8 || memcmp(b, "DSMR", 4))
        return err_set(DSM_EDESC, 0, "%zu bytes that do not begin like a descriptor", len);
    if (b[4] != VERSION)
        return err_set(DSM_EVERSION, 0, "the descriptor has version %u, this release reads %d", b[4], VERSION);
    if (len < AT_WAYS + 4 || len > DSM_DESC_MAX)
        return err_set(DSM_EDESC, 0, "a descriptor of %zu bytes", len);
    size_t at = AT_WAYS, end = len - 4;
    if (get_u32(b + end) != crc32(b, end))
        return err_set(DSM_EDESC, 0, "its checksum is wrong");
    out->version = b[4];
    out->nways = b[5];
    out->kind = b[6];
    out->access = b[7];
    memcpy(out->node, b + 8, DSM_NODE_ID);
    out->region = get_u64(b + 24);
    out->generation = get_u64(b + 32);
    out->nbytes = get_u64(b + 40);
    if (!out->nways || out->nways > DSM_WAYS_MAX || !out->nbytes || !out->generation || !out->access ||
        out->access > 7 || out->kind != MEMORY_HOST)
        return err_set(DSM_EDESC, 0, "a field has a value that this release does not know");
    for (uint32_t i = 0; i < out->nways; i++) {
        int rc = parse_way(b, &at, end, &out->ways[i]);
        if (rc)
            return rc;
    }
    return at == end ? 0 : err_set(DSM_EDESC, 0, "its length does not fit its contents");
}
