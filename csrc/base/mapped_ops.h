/*
 * Ops on memory that is mapped in this process: loads, stores and CPU atomics.
 *
 * Eight aligned bytes are copied atomically; any other copy may mix old and new bytes. The caller has checked bounds,
 * rights and alignment. These functions race with other processes by design, so under ThreadSanitizer the copies
 * consist of relaxed atomic accesses.
 */
#ifndef DSM_BASE_MAPPED_OPS_H
#define DSM_BASE_MAPPED_OPS_H

#include "../dsm.h"
#include "atomic.h"

#include <string.h>

#if defined(__SANITIZE_THREAD__)
#define MAPPED_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MAPPED_TSAN 1
#endif
#endif

#ifdef MAPPED_TSAN
static inline void mapped_copy(void *to, const void *from, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        store_relaxed_u8((uint8_t *)to + i, load_relaxed_u8((const uint8_t *)from + i));
}
#else
static inline void mapped_copy(void *to, const void *from, uint64_t n) { memcpy(to, from, n); }
#endif

static inline void mapped_read(const uint8_t *from, void *out, uint64_t n)
{
    if (n == 8 && !((uintptr_t)from & 7)) {
        uint64_t v = load_acquire_u64((const uint64_t *)(const void *)from);
        memcpy(out, &v, 8);
        return;
    }
    mapped_copy(out, from, n);
    fence_acquire();
}

/* The same, with one load for each aligned word, also where memcpy would copy single bytes. */
static inline void mapped_read_words(const uint8_t *from, uint8_t *out, uint64_t n)
{
    if ((uintptr_t)from & 7 || n & 7) {
        mapped_read(from, out, n);
        return;
    }
    for (uint64_t i = 0; i < n; i += 8) {
        uint64_t v = load_acquire_u64((const uint64_t *)(const void *)(from + i));
        memcpy(out + i, &v, 8);
    }
}

static inline void mapped_write(uint8_t *to, const void *data, uint64_t n)
{
    if (n == 8 && !((uintptr_t)to & 7)) {
        uint64_t v;
        memcpy(&v, data, 8);
        store_release_u64((uint64_t *)(void *)to, v);
        return;
    }
    fence_release();
    mapped_copy(to, data, n);
}

/* Local memory is in two pieces; the first may be empty. */
static inline void mapped_execute_pieces(uint8_t *at, const dsm_op *op)
{
    uint64_t first = op->nbytes - op->second_nbytes;
    if (op->code == DSM_OP_READ) {
        if (first)
            mapped_read(at, op->local, first);
        mapped_read(at + first, op->second, op->second_nbytes);
    } else {
        if (first)
            mapped_write(at, op->local, first);
        mapped_write(at + first, op->second, op->second_nbytes);
    }
}

static inline void mapped_execute(uint8_t *base, dsm_op *op)
{
    uint8_t *at = base + op->offset;
    if (op->code <= DSM_OP_WRITE && __builtin_expect(op->second_nbytes != 0, 0)) {
        mapped_execute_pieces(at, op);
        return;
    }
    switch (op->code) {
    case DSM_OP_READ:
        mapped_read(at, op->local, op->nbytes);
        break;
    case DSM_OP_WRITE:
        mapped_write(at, op->local, op->nbytes);
        break;
    case DSM_OP_FETCH_ADD:
        op->result = fetch_add_u64((uint64_t *)(void *)at, op->operand);
        break;
    default:
        op->result = compare_swap_u64((uint64_t *)(void *)at, op->operand, op->desired);
    }
}

#endif
