/* Records in a lane: read, checked, walked over and wiped. ring.h has the format. */
#include "ring.h"

#include "../../base/hash64.h"
#include "../../base/mapped_ops.h"

#include <string.h>

uint64_t record_check(const dsm_queue *q, uint64_t p, uint64_t header, const void *payload, uint64_t length)
{
    return hash64_bytes(hash64_word(hash64_word(q->id, p), header), payload, length);
}

/* SYNC pairs with lane_publish. */
int record_at(const dsm_queue *q, const uint8_t *data, uint64_t p, struct record *out)
{
    uint64_t at = p & q->mask, left = q->config.lane_bytes - at;
    if (p & (overhead(q) - 1)) /* a corrupted tail: the header there would reach beyond the lane */
        return -DSM_ECORRUPT;
    const uint64_t *words = (const uint64_t *)(const void *)(data + at);
    uint64_t header = load_acquire_u64(words);
    int absent = q->plain && header ? -DSM_ECORRUPT : -DSM_EEMPTY;
    out->length = (uint32_t)header;
    out->kind = (uint8_t)(header >> 32);
    out->payload = data + at + overhead(q);
    if (!header || header != record_header(q, p, out->length, out->kind) || !out->kind)
        return absent;
    if (out->kind == RECORD_PADDING) {
        out->next = p + left;
        return out->length == 0 && at ? 0 : absent;
    }
    if (out->length > q->config.max_message || record_size(q, out->length) > left)
        return absent;
    out->next = p + record_size(q, out->length);
    if (q->plain)
        return 0;
    uint64_t check = load_relaxed_u64(words + 1); /* wrong unless the whole record has landed */
    return check == record_check(q, p, header, out->payload, out->length) ? 0 : -DSM_EEMPTY;
}

uint64_t lane_walk(const dsm_queue *q, const uint8_t *data, uint64_t p, uint64_t end, uint64_t *messages)
{
    struct record r;
    while (p < end && !record_at(q, data, p, &r)) {
        *messages += r.kind != RECORD_PADDING;
        p = r.next;
    }
    return p;
}

/* The check is not verified: the bytes are free, and to verify it would read a message's length for each such word. */
bool lane_wipe(const dsm_queue *q, uint8_t *data, uint64_t *first, uint64_t *end)
{
    bool any = false;
    for (uint64_t p = q->head; p < q->tail + q->config.lane_bytes; p += 16) {
        uint64_t *w = lane_word(data, p & q->mask), header = load_relaxed_u64(w);
        if (!(uint8_t)(header >> 32) || header != record_header(q, p, (uint32_t)header, (uint8_t)(header >> 32)))
            continue;
        store_relaxed_u64(w, 0);
        if (!any)
            *first = p;
        any = true;
        *end = p + 8;
    }
    return any;
}

int message_at(const dsm_queue *q, const uint8_t *data, uint64_t p, struct record *out)
{
    int rc = record_at(q, data, p, out);
    return !rc && out->kind == RECORD_PADDING ? record_at(q, data, out->next, out) : rc;
}
