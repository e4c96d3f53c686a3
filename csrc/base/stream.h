/*
 * Copies with non-temporal stores, for bytes that another core reads next. An ordinary store must first take each cache
 * line away from the core that read it one lap of the ring before. Non-temporal stores go to memory without that
 * transfer, and the reader streams the bytes from there.
 *
 * They are weakly ordered: stream_end() must come between them and the store-release of the word that announces them.
 */
#ifndef DSM_BASE_STREAM_H
#define DSM_BASE_STREAM_H

#include <stdint.h>
#include <string.h>

#if defined(__SANITIZE_THREAD__)
#define STREAM_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define STREAM_TSAN 1
#endif
#endif

#if defined(__x86_64__) && !defined(STREAM_TSAN)
#include <emmintrin.h>

enum { STREAMS = 1 };

static inline void stream_word(void *to, uint64_t v) { _mm_stream_si64(to, (long long)v); }

static inline void stream_eight(uint8_t *to, const uint8_t *from)
{
    uint64_t word;
    memcpy(&word, from, 8);
    stream_word(to, word);
}

/* 'to' is a multiple of 8. A single ordinary store into a cache line would undo the gain of the others, so every full
 * word is written with a non-temporal store. */
static inline void stream_copy(uint8_t *to, const uint8_t *from, uint64_t n)
{
    uint64_t at = 0;
    if ((uintptr_t)to & 8 && n >= 8) {
        stream_eight(to, from);
        at = 8;
    }
    for (; at + 16 <= n; at += 16)
        _mm_stream_si128((__m128i *)(void *)(to + at), _mm_loadu_si128((const __m128i *)(const void *)(from + at)));
    if (at + 8 <= n) {
        stream_eight(to + at, from + at);
        at += 8;
    }
    memcpy(to + at, from + at, n - at);
}
static inline void stream_end(void) { _mm_sfence(); }

#else

enum { STREAMS = 0 }; /* where this is 0, the functions below are not called */
static inline void stream_copy(uint8_t *to, const uint8_t *from, uint64_t n) { memcpy(to, from, n); }
static inline void stream_word(void *to, uint64_t v) { memcpy(to, &v, 8); }
static inline void stream_end(void) {}

#endif
#endif
