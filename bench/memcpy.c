/*
 * What the machine can do: memcpy in a loop, timed inside. Built and called by memcpy.py.
 *
 * Piece i of a pass goes from 'from + from_at[i]' to 'to + to_at[i]'; NULL stands for offsets i * each.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Seconds for 'passes' passes over n pieces of 'each' bytes. */
double copy_pieces(uint8_t *to, const uint64_t *to_at, const uint8_t *from, const uint64_t *from_at, size_t n,
                   size_t each, size_t passes)
{
    double start = now();
    for (size_t k = 0; k < passes; k++) {
        for (size_t i = 0; i < n; i++)
            memcpy(to + (to_at ? to_at[i] : i * each), from + (from_at ? from_at[i] : i * each), each);
        __asm__ __volatile__("" ::: "memory");
    }
    return now() - start;
}
