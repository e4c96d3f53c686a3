/*
 * The wire format of descriptors (docs/protocols/descriptor.md), little-endian:
 *   0 magic "DSMR" | 4 version | 5 fabric | 6 kind | 7 access | 8 node[16] | 24 region u64 | 32 generation u64
 *   40 nbytes u64 | 48 base u64 | 56 key u32 | 60 length of the address u16 | 62 zero u16 | 64 address
 *   then the CRC-32 of everything before it
 * A descriptor only tells where to ask. The rights, length and key that count are those that the owner's agent grants
 * on attach.
 */
#include "../base/crc32.h"
#include "../base/wire.h"
#include "core.h"

#include <string.h>

enum { AT_ADDRESS = 64, VERSION = 1 };
_Static_assert(AT_ADDRESS + sizeof(((dsm_descriptor *)0)->address) + 4 <= DSM_DESC_MAX, "fits");

int descriptor_write(const dsm_descriptor *d, uint8_t buf[DSM_DESC_MAX])
{
    size_t n = strlen(d->address);
    memset(buf, 0, DSM_DESC_MAX);
    memcpy(buf, "DSMR", 4);
    buf[4] = VERSION;
    buf[5] = (uint8_t)d->fabric;
    buf[6] = (uint8_t)d->kind;
    buf[7] = (uint8_t)d->access;
    memcpy(buf + 8, d->node, DSM_NODE_ID);
    put_u64(buf + 24, d->region);
    put_u64(buf + 32, d->generation);
    put_u64(buf + 40, d->nbytes);
    put_u64(buf + 48, d->base);
    put_u32(buf + 56, d->key);
    put_u16(buf + 60, (uint16_t)n);
    memcpy(buf + AT_ADDRESS, d->address, n);
    put_u32(buf + AT_ADDRESS + n, crc32(buf, AT_ADDRESS + n));
    return (int)(AT_ADDRESS + n + 4);
}

int dsm_descriptor_parse(const void *bytes, size_t len, dsm_descriptor *out)
{
    const uint8_t *b = bytes;
    memset(out, 0, sizeof *out);
    if (len < 8 || memcmp(b, "DSMR", 4))
        return err_set(DSM_EDESC, 0, "%zu bytes that do not begin like a descriptor", len);
    if (b[4] != VERSION)
        return err_set(DSM_EVERSION, 0, "the descriptor has version %u, this release reads %d", b[4], VERSION);
    if (len < AT_ADDRESS + 4 || len > DSM_DESC_MAX)
        return err_set(DSM_EDESC, 0, "a descriptor of %zu bytes", len);
    size_t n = get_u16(b + 60);
    if (n >= sizeof out->address || len != AT_ADDRESS + n + 4 || memchr(b + AT_ADDRESS, 0, n))
        return err_set(DSM_EDESC, 0, "its length does not fit its contents");
    if (get_u32(b + AT_ADDRESS + n) != crc32(b, AT_ADDRESS + n))
        return err_set(DSM_EDESC, 0, "its checksum is wrong");
    for (size_t i = 0; i < n; i++)
        if (b[AT_ADDRESS + i] < '!' || b[AT_ADDRESS + i] > '~')
            return err_set(DSM_EDESC, 0, "its address is no printable ASCII text");
    out->version = b[4];
    out->fabric = b[5];
    out->kind = b[6];
    out->access = b[7];
    memcpy(out->node, b + 8, DSM_NODE_ID);
    out->region = get_u64(b + 24);
    out->generation = get_u64(b + 32);
    out->nbytes = get_u64(b + 40);
    out->base = get_u64(b + 48);
    out->key = get_u32(b + 56);
    memcpy(out->address, b + AT_ADDRESS, n);
    if (get_u16(b + 62) || !out->nbytes || !out->generation || !out->access || out->access > 7 ||
        out->base + out->nbytes < out->base || (out->fabric != FABRIC_SHM && out->fabric != FABRIC_VERBS) ||
        out->kind != FABRIC_KIND_HOST)
        return err_set(DSM_EDESC, 0, "a field has a value that this release does not know");
    return 0;
}
