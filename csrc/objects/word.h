/*
 * What READs say of a word that others change meanwhile, where a READ need not read it at once (fabric.h, 'whole'):
 * each byte is what that byte was at some moment of the READ, in any order. SoftRoCE copies with the kernel's memcpy.
 * READs of one posting follow each other: the second begins when the first has been executed.
 *
 * AT LEAST. A word only grows, was at least 'lo' before a READ, and the READ says x > lo. Let k be the highest byte in
 * which they differ. When byte k was read, it was greater than that of lo, and the bytes above it were at least those
 * of lo: so the word was at least x with 0 for the bytes below k. With that for lo, another READ proves the next byte.
 * If the bytes from n on do not change, n READs of a word that stays as it is prove all of it.
 *
 * EQUAL. Say n READs in a row say x while the word is greater. Each finds the highest byte in which the word differed
 * from x equal to it: the byte above was carried into meanwhile. So then the word is x + 2^(8n) - 2^(8n-8) or more.
 * Read backwards, the same holds for a word that is smaller. Hence: unless a word that only grows advances by 2^31
 * within a posting,
 *     4 equal READs prove that it is at least x at their end, and was at most x at their beginning;
 *     8 equal READs prove that it was x when the fourth had ended and the fifth had not begun.
 */
#ifndef DSM_OBJECTS_WORD_H
#define DSM_OBJECTS_WORD_H

#include <stdbool.h>
#include <stdint.h>

enum {
    WORD_BOUNDS = 4,     /* equal READs that bound a word */
    WORD_PROVES = 8,     /* equal READs that prove its value */
    WORD_READS_MOST = 8, /* that word_at_least() can use */
};

/* How many READs of a word between 'lo' and 'hi' prove all of its bytes, if it stays as it is. */
static inline uint32_t word_reads(uint64_t lo, uint64_t hi)
{
    return lo == hi ? 1 : 1 + (63 - (uint32_t)__builtin_clzll(lo ^ hi)) / 8;
}

/* AT LEAST, of one READ. */
static inline uint64_t word_grown(uint64_t lo, uint64_t x)
{
    if (x <= lo)
        return lo;
    return x & ~(uint64_t)0 << (63 - (uint32_t)__builtin_clzll(lo ^ x)) / 8 * 8;
}

static inline bool word_equal(const uint64_t *seen, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++)
        if (seen[i] != seen[0])
            return false;
    return true;
}

/* What n READs say of a word that only grows, and was at least 'lo' before. n: word_reads(), or 1 where a READ reads
 * words whole. If they are equal the result is their value, which is less than 'lo' only if the word did not only
 * grow. Otherwise the word is at least the result, and may be more. */
static inline uint64_t word_at_least(uint64_t lo, const uint64_t *seen, uint32_t n)
{
    if (word_equal(seen, n))
        return seen[0];
    for (uint32_t i = 0; i < n; i++)
        lo = word_grown(lo, seen[i]);
    return lo;
}

#endif
