/*
 * Atomic accesses. No other file names a memory order.
 *
 * Words that several threads or processes access are of these types and are accessed through these functions only.
 * Thus the partner of every barrier can be found by searching: a store_release is paired with a load_acquire of the
 * same word (tests/tidy/test_barriers.py).
 */
#ifndef DSM_BASE_ATOMIC_H
#define DSM_BASE_ATOMIC_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

/* Words in shared memory and on the wire are used in place and updated 8 bytes at a time: docs/SUPPORT.md. */
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "dsmem runs on little-endian machines only: numbers in shared memory are used in place"
#endif
#if __SIZEOF_POINTER__ != 8
#error "dsmem runs on 64-bit machines only: words of 8 bytes are changed in one piece"
#endif

/* Everything that this thread wrote before the store is visible to a thread whose load-acquire returns the value. */
static inline void store_release_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void store_release_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint32_t load_acquire_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint64_t load_acquire_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

/* For a flag or a statistic that orders no other access. */
static inline uint32_t load_relaxed_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint64_t load_relaxed_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint8_t load_relaxed_u8(const uint8_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void store_relaxed_u8(uint8_t *p, uint8_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void store_relaxed_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void store_relaxed_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }

/* Read-modify-write operations are sequentially consistent, as users expect of a fetch-add or compare-swap. */
static inline uint64_t fetch_add_u64(uint64_t *p, uint64_t v) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
static inline uint32_t fetch_add_u32(uint32_t *p, uint32_t v) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
/* Of a counter of this process: it counts no more down than up. */
static inline uint32_t fetch_sub_u32(uint32_t *p, uint32_t v)
{
    uint32_t before = __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);
    assert(before >= v);
    return before;
}

static inline uint64_t exchange_u64(uint64_t *p, uint64_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }
static inline uint32_t exchange_u32(uint32_t *p, uint32_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }

/* A load in the single total order of all read-modify-writes. If thread A changes word X and then loads Y, and thread B
 * changes Y and then loads X, at least one of them sees the other's change. */
static inline uint64_t load_seq_cst_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }

/* Returns the value found. The swap took place if and only if it equals 'expected'. */
static inline uint64_t compare_swap_u64(uint64_t *p, uint64_t expected, uint64_t desired)
{
    __atomic_compare_exchange_n(p, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}

/* fence_acquire() orders reads before it (of another process's memory) before all accesses after it. fence_release()
 * orders all accesses before it before the writes after it. Both are free on x86. */
static inline void fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

#endif
