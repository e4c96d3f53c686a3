/*
 * Copies past the caches, for bytes that another core reads next. An ordinary store takes its line away from the cache
 * of the reader of a lap ago, one line at a time; these go to memory without asking it, and the reader streams them
 * from there.
 *
 * They are not ordered like other stores: stream_end() stands between them and the word that publishes them.
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

/* 'to' is a multiple of 8. One ordinary store into a line would undo what the others have won, so all full words are
 * not. */
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

enum { STREAMS = 0 }; /* where this is 0, nobody calls the others */
static inline void stream_copy(uint8_t *to, const uint8_t *from, uint64_t n) { memcpy(to, from, n); }
static inline void stream_word(void *to, uint64_t v) { memcpy(to, &v, 8); }
static inline void stream_end(void) {}

#endif
#endif
