/*
 * The only file that names memory orders.
 *
 * Words that several threads or processes touch are of these types and go through these functions, so that a reader
 * can search for the partner of every barrier: a publish_ is paired with an observe_ of the same word.
 */
#ifndef DSM_BASE_ATOMIC_H
#define DSM_BASE_ATOMIC_H

#include <stdbool.h>
#include <stdint.h>

/* Words in shared memory and on wires are used where they lie, and changed 8 bytes at a time. docs/SUPPORT.md */
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "dsmem runs on little-endian machines only: numbers in shared memory are used in place"
#endif
#if __SIZEOF_POINTER__ != 8
#error "dsmem runs on 64-bit machines only: words of 8 bytes are changed in one piece"
#endif

/* Everything this thread wrote before is visible to whoever observes the value. */
static inline void store_release_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void store_release_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint32_t load_acquire_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint64_t load_acquire_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

/* A flag or a statistic that orders nothing else. */
static inline uint32_t load_relaxed_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint64_t load_relaxed_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint8_t load_relaxed_u8(const uint8_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void store_relaxed_u8(uint8_t *p, uint8_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void store_relaxed_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void store_relaxed_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }

/* Read-modify-write, sequentially consistent: the order users expect of a fetch-add or compare-swap. */
static inline uint64_t fetch_add_u64(uint64_t *p, uint64_t v) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
static inline uint32_t fetch_add_u32(uint32_t *p, uint32_t v) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
static inline uint32_t fetch_sub_u32(uint32_t *p, uint32_t v) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); }

static inline uint64_t exchange_u64(uint64_t *p, uint64_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }
static inline uint32_t exchange_u32(uint32_t *p, uint32_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }

/* A load in the one order of all read-modify-writes: who has changed its own word and then inspects another one, and
 * who does the same the other way round, can't both miss the other's change. */
static inline uint64_t load_seq_cst_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }

/* Returns the value found; the swap took place exactly when it equals 'expected'. */
static inline uint64_t compare_swap_u64(uint64_t *p, uint64_t expected, uint64_t desired)
{
    __atomic_compare_exchange_n(p, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}

/* Between an access to another process's memory and what follows it in this thread (free on x86). */
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
