/* Versions of a segment, with threads that write, threads that read, and writers that died after each step. */
#include "base/mapped_ops.h"
#include "check.h"
#include "core/core.h"
#include "objects/member.h"
#include "objects/segment/segment.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROWS = 2000, WRITES = 500, READS = 500 };

static dsm_remote *memory;
static dsm_segment segment;

static void make(uint64_t rows)
{
    uint64_t nbytes;
    dsm_segment s = {.axes = 1, .itemsize = 8, .versioned = 1, .shape = {rows}, .dtype_length = 5, .dtype = "'<i8'"};
    CHECK(!dsm_segment_layout(&s, &nbytes));
    int fd = memfd_create("segment", MFD_CLOEXEC);
    CHECK(fd >= 0 && !ftruncate(fd, (off_t)nbytes));
    CHECK(!dsm_map(fd, nbytes, DSM_READ | DSM_WRITE | DSM_ATOMIC, &memory));
    close(fd);
    CHECK(!dsm_segment_format(dsm_remote_mapped(memory), nbytes, &s));
    CHECK(!dsm_segment_open(memory, &segment));
}

static void fill(uint64_t value)
{
    static __thread uint64_t data[ROWS];
    for (int i = 0; i < ROWS; i++)
        data[i] = value;
    mapped_copy((uint8_t *)dsm_remote_mapped(memory) + segment.data, data, sizeof data);
}

/* In version v all rows are v. */
static void *write_versions(void *arg)
{
    uint64_t version, rows;
    for (int i = 0; i < WRITES; i++) {
        CHECK(!dsm_segment_begin(memory, &segment, -1, &version, &rows));
        fill(version + 1);
        if (i % 7 == 0)
            CHECK(!dsm_segment_abort(memory, &segment, version));
        else
            CHECK(!dsm_segment_commit(memory, &segment, NULL, &version));
    }
    return arg;
}

static void *read_versions(void *arg)
{
    static __thread uint64_t data[ROWS];
    uint64_t rows = ROWS, version, last = 0;
    for (int i = 0; i < READS; i++) {
        CHECK(!dsm_segment_snapshot(memory, &segment, data, &rows, -1, &(int){0}, &version));
        CHECK(version >= last);
        last = version;
        for (int k = 0; k < ROWS; k++)
            CHECK(data[k] == version);
    }
    return arg;
}

static void test_threads(void)
{
    pthread_t threads[4];
    make(ROWS);
    for (int i = 0; i < 4; i++)
        CHECK(!pthread_create(&threads[i], NULL, i < 2 ? write_versions : read_versions, NULL));
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    CHECK(!dsm_remote_close(memory));
}

/* What a writer that died after each of the steps in segment.h has left, and how the next ones recover from it. */
static void test_dead_writers(void)
{
    struct {
        uint64_t head, data, shadow, version;
    } left[] = {
        {4 * 4, 4, 4, 4},               /* 1 */
        {4 * 4 | PHASE_LIVE, 4, 4, 4},  /* 2 */
        {4 * 4 | PHASE_LIVE, 99, 4, 4}, /* 3 */
        {4 * 5 | PHASE_COPY, 5, 4, 5},  /* 4 */
        {4 * 5 | PHASE_COPY, 5, 99, 5}, /* 5 */
        {4 * 5, 5, 5, 5},               /* 6 */
    };
    uint64_t dead, *said = mmap(NULL, sizeof *said, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(said != MAP_FAILED);
    int pid = fork(); /* a process that is dead, for its identity */
    if (!pid)
        _exit(dsm_identity(said) != 0);
    CHECK(waitpid(pid, NULL, 0) == pid);
    dead = *said;
    CHECK(identity_ended(dead));
    munmap(said, sizeof *said);
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) {
        uint64_t data[2], rows = 2, version;
        make(2);
        uint8_t *mapped = dsm_remote_mapped(memory);
        for (int k = 0; k < 2; k++) { /* 99 stands for a mixture: half of the rows are new */
            memcpy(mapped + segment.data + 8 * k, left[i].data == 99 && k ? &left[i].version : &left[i].data, 8);
            memcpy(mapped + segment.shadow + 8 * k, left[i].shadow == 99 && k ? &left[i].version : &left[i].shadow, 8);
        }
        memcpy(mapped + SEGMENT_HEAD, &left[i].head, 8);
        memcpy(mapped + SEGMENT_WRITER, &dead, 8);
        CHECK(!dsm_segment_snapshot(memory, &segment, data, &rows, 0, &(int){0}, &version));
        CHECK(version == left[i].version && data[0] == version && data[1] == version);
        CHECK(!dsm_segment_begin(memory, &segment, 0, &version, &rows));
        CHECK(version == left[i].version);
        memcpy(data, mapped + segment.data, 16);
        CHECK(data[0] == version && data[1] == version);
        CHECK(!dsm_segment_abort(memory, &segment, version));
        CHECK(!dsm_segment_snapshot(memory, &segment, data, &rows, 0, &(int){0}, &version) &&
              data[1] == left[i].version);
        CHECK(!dsm_remote_close(memory));
    }
}

static void *change(void *arg)
{
    uint64_t old;
    for (int i = 0; i < 100; i++) {
        CHECK(!dsm_fetch_add(memory, SEGMENT_DATA, 1, &old, -1));
        dsm_segment_notify(memory);
    }
    return arg;
}

static void test_wait(void)
{
    uint64_t seen = 0, now = 0;
    pthread_t thread;
    make(1);
    CHECK(dsm_segment_wait(memory, SEGMENT_DATA, &seen, &now, 8, 0, 1000000) == -DSM_ETIME);
    CHECK(!pthread_create(&thread, NULL, change, NULL));
    while (now < 100) {
        CHECK(!dsm_segment_wait(memory, SEGMENT_DATA, &seen, &now, 8, now % 3 * 1000, -1));
        CHECK(now > seen);
        seen = now;
    }
    pthread_join(thread, NULL);
    CHECK(dsm_segment_commit(memory, &segment, NULL, &now) == -DSM_ENOTHELD);
    CHECK(!dsm_remote_close(memory));
}

int main(void)
{
    test_threads();
    test_dead_writers();
    test_wait();
    puts("ok");
    return 0;
}
