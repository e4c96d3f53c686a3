/*
 * Two words of shared memory and two processes that hand them to and fro: the bounds below which no message can get.
 * sleeps: 0 looks all the time, 1 sleeps on a futex, 2 does so for 50 ms at most, as a process that must survive the
 * death of its waker. words[0] counts what the first process has said, words[16] what the second has answered, each on
 * a line of its own.
 */
#include "../csrc/base/atomic.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void say(uint32_t *word, uint32_t value, int wakes)
{
    store_release_u32(word, value);
    if (wakes)
        syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void hear(uint32_t *word, uint32_t value, int sleeps)
{
    const struct timespec limit = {.tv_nsec = 50000000};
    uint32_t seen;
    while ((seen = load_acquire_u32(word)) != value) {
        if (sleeps)
            syscall(SYS_futex, word, FUTEX_WAIT, seen, sleeps == 2 ? &limit : NULL, NULL, 0);
        else
            cpu_relax();
    }
}

/* Both begin with the words as they lie and go on for n round trips. Seconds. */
double ask(uint32_t *words, uint32_t n, int sleeps)
{
    uint32_t value = words[0];
    double start = now();
    for (uint32_t i = 0; i < n; i++) {
        say(&words[0], ++value, sleeps);
        hear(&words[16], value, sleeps);
    }
    return now() - start;
}

void answer(uint32_t *words, uint32_t n, int sleeps)
{
    uint32_t value = words[16];
    for (uint32_t i = 0; i < n; i++) {
        hear(&words[0], ++value, sleeps);
        say(&words[16], value, sleeps);
    }
}
