/*
 * Ops on memory that is mapped here: loads, stores and CPU atomics.
 *
 * Eight aligned bytes move in one piece; anything longer may mix old and new. The caller has checked bounds, rights and
 * alignment. Racing with other processes is what these functions are for, so under ThreadSanitizer the copies are made of
 * relaxed atomic accesses.
 */
#ifndef DSM_FABRIC_NEAR_H
#define DSM_FABRIC_NEAR_H

#include "../base/atomic.h"
#include "../dsm.h"

#include <string.h>

#if defined(__SANITIZE_THREAD__)
#define NEAR_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define NEAR_TSAN 1
#endif
#endif

#ifdef NEAR_TSAN
static inline void near_copy(void *to, const void *from, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        note_u8((uint8_t *)to + i, peek_u8((const uint8_t *)from + i));
}
#else
static inline void near_copy(void *to, const void *from, uint64_t n) { memcpy(to, from, n); }
#endif

static inline void near_read(const uint8_t *from, void *out, uint64_t n)
{
    if (n == 8 && !((uintptr_t)from & 7)) {
        uint64_t v = observe_u64((const uint64_t *)(const void *)from);
        memcpy(out, &v, 8);
        return;
    }
    near_copy(out, from, n);
    after_reads();
}

static inline void near_write(uint8_t *to, const void *data, uint64_t n)
{
    if (n == 8 && !((uintptr_t)to & 7)) {
        uint64_t v;
        memcpy(&v, data, 8);
        publish_u64((uint64_t *)(void *)to, v);
        return;
    }
    before_writes();
    near_copy(to, data, n);
}

static inline void near_execute(uint8_t *base, dsm_op *op)
{
    uint8_t *at = base + op->offset;
    switch (op->code) {
    case DSM_OP_READ:
        near_read(at, op->local, op->nbytes);
        break;
    case DSM_OP_WRITE:
        near_write(at, op->local, op->nbytes);
        break;
    case DSM_OP_FETCH_ADD:
        op->result = fetch_add_u64((uint64_t *)(void *)at, op->operand);
        break;
    default:
        op->result = compare_swap_u64((uint64_t *)(void *)at, op->operand, op->desired);
    }
}

#endif
