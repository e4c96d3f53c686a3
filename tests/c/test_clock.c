/*
 * Clocks used by several threads: one word of this process, and both words of a shared object, which each thread
 * reaches by its own mapping. All stamps of a clock are different, and none is left out. Those of one thread grow. A
 * stamp is greater than the one that was received for it.
 */
#include "base/atomic.h"
#include "check.h"
#include "objects.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { THREADS = 4, STAMPS = 40000, CLOCKS = 3 };
#define WALL_MS 1000000ull /* stands still, so that the hybrid clock must count */

static int file;
static uint64_t word, letters[CLOCKS]; /* a stamp of each clock, on its way from one thread to another */
static uint64_t stamps[CLOCKS][THREADS][STAMPS];

static dsm_remote *reach(void) { return map_of(file, dsm_clock_bytes()); }

static uint64_t next_stamp(const dsm_clock *c, int which, uint64_t received)
{
    uint64_t stamp, now;
    int rc = which == 2 ? dsm_clock_hybrid(c, received, WALL_MS, 1000, &stamp) : dsm_clock_lamport(c, received, &stamp);
    CHECK(!rc && stamp > received);
    CHECK(!dsm_clock_now(c, &now) && now >= stamp);
    return stamp;
}

static void *work(void *arg)
{
    size_t me = (size_t)(uintptr_t)arg;
    dsm_remote *r = reach();
    dsm_clock clocks[CLOCKS] = {{.own = &word}};
    CHECK(!dsm_clock_open(r, 0, &clocks[1]) && !dsm_clock_open(r, 1, &clocks[2]));
    for (int i = 0; i < STAMPS; i++) {
        for (int k = 0; k < CLOCKS; k++) {
            uint64_t received = (i + (int)me) % 3 ? 0 : load_acquire_u64(&letters[k]);
            stamps[k][me][i] = next_stamp(&clocks[k], k, received);
            CHECK(i == 0 || stamps[k][me][i] > stamps[k][me][i - 1]);
            store_release_u64(&letters[k], stamps[k][me][i]);
        }
    }
    CHECK(!dsm_remote_close(r));
    return NULL;
}

/* Refused stamps change nothing, while other threads use the clock. */
static void *refused(void *arg)
{
    dsm_remote *r = reach();
    dsm_clock c;
    uint64_t stamp = 0;
    CHECK(!dsm_clock_open(r, 1, &c));
    for (int i = 0; i < STAMPS; i++)
        CHECK(dsm_clock_hybrid(&c, (WALL_MS + 2000ull) << 16, WALL_MS, 1000, &stamp) == -DSM_EDRIFT && !stamp);
    CHECK(!dsm_remote_close(r));
    return arg;
}

static int compare(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, 8);
    memcpy(&y, b, 8);
    return x < y ? -1 : x > y;
}

int main(void)
{
    pthread_t threads[THREADS + 1];
    file = memfd_create("clock", 0);
    CHECK(file >= 0 && !ftruncate(file, (off_t)dsm_clock_bytes()));
    dsm_remote *r = reach();
    CHECK(!dsm_clock_format(dsm_remote_mapped(r)));
    for (size_t i = 0; i <= THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, i < THREADS ? work : refused, (void *)(uintptr_t)i));
    for (size_t i = 0; i <= THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int k = 0; k < CLOCKS; k++) {
        uint64_t *all = stamps[k][0];
        qsort(all, THREADS * STAMPS, sizeof *all, compare);
        CHECK(all[0] == (k == 2 ? WALL_MS << 16 : 1));
        for (int i = 1; i < THREADS * STAMPS; i++)
            CHECK(all[i] == all[i - 1] + 1); /* no stamp received was greater than the word, so none is left out */
    }
    CHECK(!dsm_remote_close(r));
    puts("ok");
    return 0;
}
