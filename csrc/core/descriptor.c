/*
 * The wire format of descriptors (docs/protocols/descriptor.md), little-endian:
 *   0 magic "DSMR" | 4 version | 5 number of ways | 6 kind | 7 access | 8 node[16] | 24 region u64 | 32 generation u64
 *   40 nbytes u64 | 48 the ways: fabric u8 (bit 7: for bulk only), length of the address u8, address |
 *   version 3, a region of a pool: number u64, generation u64, offset u64, nbytes u64 |
 *   the CRC-32 of everything before it
 * A descriptor only tells where to ask. The rights and length that count are those that the owner's agent grants on
 * attach.
 */
#include "../base/crc32.h"
#include "../base/wire.h"
#include "core.h"

#include <string.h>

enum { AT_WAYS = 48, VERSION = 2, VERSION_OF_PART = 3, BULK = 0x80 };
_Static_assert((int)AT_WAYS + (int)DSM_WAYS_MAX * (2 + DSM_ADDRESS_MAX) + (int)DESC_TAIL <= DSM_DESC_MAX, "fits");
_Static_assert((int)DSM_WAYS_MAX == (int)FABRIC_DEVICES_MAX, "one for each device");

int descriptor_write(const dsm_descriptor *d, uint8_t buf[DSM_DESC_MAX])
{
    size_t at = AT_WAYS;
    memset(buf, 0, DSM_DESC_MAX);
    memcpy(buf, "DSMR", 4);
    buf[4] = d->part.generation ? VERSION_OF_PART : VERSION;
    buf[5] = (uint8_t)(d->nways + d->nbulk);
    buf[6] = (uint8_t)d->kind;
    buf[7] = (uint8_t)d->access;
    memcpy(buf + 8, d->node, DSM_NODE_ID);
    put_u64(buf + 24, d->region);
    put_u64(buf + 32, d->generation);
    put_u64(buf + 40, d->nbytes);
    for (uint32_t i = 0; i < d->nways + d->nbulk; i++) {
        size_t n = strlen(d->ways[i].address);
        buf[at++] = (uint8_t)(d->ways[i].fabric | (i < d->nways ? 0 : BULK));
        buf[at++] = (uint8_t)n;
        memcpy(buf + at, d->ways[i].address, n);
        at += n;
    }
    if (d->part.generation) {
        descriptor_write_tail(&d->part, crc32_more(~0u, buf, at), buf + at);
        return (int)(at + DESC_TAIL);
    }
    put_u32(buf + at, crc32(buf, at));
    return (int)(at + 4);
}

void descriptor_write_tail(const struct dsm_part *part, uint32_t crc, uint8_t tail[DESC_TAIL])
{
    put_u64(tail, part->number);
    put_u64(tail + 8, part->generation);
    put_u64(tail + 16, part->offset);
    put_u64(tail + 24, part->nbytes);
    put_u32(tail + DESC_PART, ~crc32_more(crc, tail, DESC_PART));
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

static int refuse_value(void) { return err_set(DSM_EDESC, 0, "a field has a value that this release does not know"); }

/* The ways that are for bulk only come last, behind at least one other. */
static int parse_ways(const uint8_t *b, size_t *at, size_t end, dsm_descriptor *out)
{
    uint32_t n = b[5];
    int rc = n && n <= DSM_WAYS_MAX ? 0 : refuse_value();
    for (uint32_t i = 0; i < n && !rc; i++) {
        struct dsm_way *w = &out->ways[i];
        rc = parse_way(b, at, end, w);
        bool bulk = w->fabric & BULK;
        w->fabric &= ~(uint32_t)BULK;
        out->nways += !bulk;
        out->nbulk += bulk;
        if (!rc && (bulk ? !out->nways : out->nbulk))
            rc = refuse_value();
    }
    return rc;
}

static int parse_part(const uint8_t *tail, uint64_t nbytes, struct dsm_part *out)
{
    *out = (struct dsm_part){get_u64(tail), get_u64(tail + 8), get_u64(tail + 16), get_u64(tail + 24)};
    bool good = out->generation && out->nbytes && out->nbytes <= nbytes && out->offset <= nbytes - out->nbytes &&
                out->offset % DSM_POOL_ALIGN == 0;
    return good ? 0 : refuse_value();
}

/* Of a version that this release reads: the bytes behind the ways. */
static size_t tail_of(const uint8_t *b) { return b[4] == VERSION_OF_PART ? DESC_TAIL : 4; }

static int check_begin(const uint8_t *b, size_t len)
{
    if (len < 8 || memcmp(b, "DSMR", 4))
        return err_set(DSM_EDESC, 0, "%zu bytes that do not begin like a descriptor", len);
    if (b[4] != VERSION && b[4] != VERSION_OF_PART)
        return err_set(DSM_EVERSION, 0, "the descriptor has version %u, this release reads %d and %d", b[4], VERSION,
                       VERSION_OF_PART);
    return 0;
}

int dsm_descriptor_parse(const void *bytes, size_t len, dsm_descriptor *out)
{
    const uint8_t *b = bytes;
    memset(out, 0, sizeof *out);
    int rc = check_begin(b, len);
    if (rc)
        return rc;
    if (len < AT_WAYS + tail_of(b) || len > DSM_DESC_MAX)
        return err_set(DSM_EDESC, 0, "a descriptor of %zu bytes", len);
    size_t at = AT_WAYS, end = len - tail_of(b);
    if (get_u32(b + len - 4) != crc32(b, len - 4))
        return err_set(DSM_EDESC, 0, "its checksum is wrong");
    out->version = b[4];
    out->kind = b[6];
    out->access = b[7];
    memcpy(out->node, b + 8, DSM_NODE_ID);
    out->region = get_u64(b + 24);
    out->generation = get_u64(b + 32);
    out->nbytes = get_u64(b + 40);
    if (!out->nbytes || !out->generation || !out->access || out->access > 7 || out->kind != MEMORY_HOST)
        return refuse_value();
    rc = parse_ways(b, &at, end, out);
    if (!rc && at != end)
        rc = err_set(DSM_EDESC, 0, "its length does not fit its contents");
    return rc || b[4] == VERSION ? rc : parse_part(b + end, out->nbytes, &out->part);
}

/* ---- many ---- */

/* The length of the descriptor that the bytes begin with. */
static int measure(const uint8_t *b, size_t len, size_t *out)
{
    size_t at = AT_WAYS;
    int rc = check_begin(b, len);
    for (unsigned i = 0; !rc && i < b[5] && at < len; i++)
        at += at + 1 < len ? 2u + b[at + 1] : 2u;
    if (!rc)
        at += tail_of(b);
    if (!rc && at > len)
        rc = err_set(DSM_EDESC, 0, "the last descriptor is cut off: %zu bytes are left of it", len);
    *out = at;
    return rc;
}

/* Whether the bytes at r->at begin like the descriptor before, up to its part. */
static bool repeats(const struct descriptor_reader *r)
{
    return r->last && (size_t)(r->end - r->at) >= r->length && r->last[4] == VERSION_OF_PART &&
           !memcmp(r->last, r->at, r->length - DESC_TAIL);
}

int descriptor_next(struct descriptor_reader *r, dsm_descriptor *d, bool *same_head)
{
    size_t head;
    int rc = 0;
    *same_head = repeats(r);
    if (!*same_head && !(rc = measure(r->at, (size_t)(r->end - r->at), &r->length)))
        rc = dsm_descriptor_parse(r->at, r->length, d);
    if (rc)
        return rc;
    head = r->length - tail_of(r->at);
    if (!*same_head)
        r->crc = crc32_more(~0u, r->at, head);
    else if (get_u32(r->at + head + DESC_PART) != ~crc32_more(r->crc, r->at + head, DESC_PART))
        return err_set(DSM_EDESC, 0, "its checksum is wrong");
    else if ((rc = parse_part(r->at + head, d->nbytes, &d->part)))
        return rc;
    r->last = r->at;
    r->at += r->length;
    return 0;
}
