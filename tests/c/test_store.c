/*
 * A store of pages in memory that is mapped, and in memory that is reached by ops: what each function does and refuses,
 * threads that read under writers, and writers that are killed. The machines alone: test_store_sim.c.
 */
#include "base/crc32.h"
#include "base/mapped_ops.h"
#include "check.h"
#include "context.h"
#include "objects.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

enum { PAGE = 1024, PAGES = 100, CLIENTS = 6, WRITERS = 3, ROUNDS = 600, KILLS = 12 };
#ifdef MAPPED_TSAN /* copies byte by byte */
enum { WIDE = 1 << 13 };
#else
enum { WIDE = 1 << 16 };
#endif

static size_t left; /* pages that a failed allocation could not give back */

static int open_store(dsm_remote *r, dsm_store **out)
{
    uint32_t failed;
    return dsm_store_open(&r, 1, out, &failed);
}

static const dsm_store_shape shape = {.page_bytes = PAGE, .clients = CLIENTS, .pages = PAGES};
static uint8_t page[PAGE], got[PAGE];
static uint64_t nbytes; /* of a store of this shape */

static dsm_store *opened(dsm_remote *r)
{
    dsm_store *s;
    CHECK(!open_store(r, &s));
    return s;
}

static const uint8_t *filled(uint8_t *p, uint64_t with)
{
    for (int i = 0; i < PAGE; i += 8)
        memcpy(p + i, &with, 8);
    return p;
}

static uint64_t value_of(const uint8_t *p)
{
    uint64_t first, word;
    memcpy(&first, p, 8);
    for (int i = 8; i < PAGE; i += 8) {
        memcpy(&word, p + i, 8);
        CHECK(word == first);
    }
    return first;
}

/* ---- one client, or two ---- */

static void one_page(dsm_store *s)
{
    uint64_t pid, v, w;
    CHECK(!dsm_store_allocate(s, &pid, 1, &left) && pid);
    memset(got, 1, PAGE);
    CHECK(!dsm_store_read(s, pid, got, &v) && value_of(got) == 0);
    CHECK(!dsm_store_write(s, pid, filled(page, 7), &w) && w > v);
    CHECK(!dsm_store_read(s, pid, got, &v) && v == w && value_of(got) == 7);
    CHECK(!dsm_store_version(s, pid, &v) && v == w);
    CHECK(!dsm_store_compare_write(s, pid, w, filled(page, 8), &v) && v == w + 1);
    CHECK(dsm_store_compare_write(s, pid, w, filled(page, 9), &v) == -DSM_ECONFLICT && v == w + 1);
    CHECK(!dsm_store_read(s, pid, got, NULL) && value_of(got) == 8);
    CHECK(!dsm_store_free(s, pid) && dsm_store_free(s, pid) == -DSM_EPAGE);
    CHECK(dsm_store_read(s, pid, got, &v) == -DSM_EPAGE && dsm_store_write(s, pid, page, &v) == -DSM_EPAGE);
    CHECK(dsm_store_version(s, pid, &v) == -DSM_EPAGE);
    CHECK(dsm_store_compare_write(s, pid, w + 1, page, &v) == -DSM_EPAGE);
}

static void no_such_pages(dsm_store *s)
{
    const uint64_t ids[] = {0, 1, PAGES, PAGES - 1, UINT64_MAX, 1ull << 40 | PAGES};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        CHECK(dsm_store_read(s, ids[i], got, NULL) == -DSM_EPAGE && dsm_store_free(s, ids[i]) == -DSM_EPAGE);
}

/* The pages are in use again, under other ids. */
static void old_ids(dsm_store *s, const uint64_t *old)
{
    uint64_t ids[PAGES], v;
    CHECK(!dsm_store_allocate(s, ids, PAGES, &left));
    for (int i = 0; i < PAGES; i++)
        CHECK(dsm_store_version(s, old[i], &v) == -DSM_EPAGE && dsm_store_write(s, old[i], page, NULL) == -DSM_EPAGE);
    for (int i = 0; i < PAGES; i++)
        CHECK(!dsm_store_write(s, ids[i], page, NULL));
    for (int i = 0; i < PAGES; i++) {
        CHECK(dsm_store_read(s, old[i], got, NULL) == -DSM_EPAGE && dsm_store_version(s, old[i], &v) == -DSM_EPAGE);
        CHECK(dsm_store_write(s, old[i], page, NULL) == -DSM_EPAGE && dsm_store_free(s, old[i]) == -DSM_EPAGE);
    }
    for (int i = 0; i < PAGES; i++)
        CHECK(!dsm_store_free(s, ids[i]));
}

/* What is refused for want of room leaves the room that there is. */
static void all_pages(dsm_store *s)
{
    uint64_t ids[PAGES + 1], more;
    CHECK(dsm_store_allocate(s, ids, PAGES + 1, &left) == -DSM_ESTOREFULL);
    CHECK(!dsm_store_allocate(s, ids, PAGES, &left));
    CHECK(dsm_store_allocate(s, &more, 1, &left) == -DSM_ESTOREFULL);
    for (int i = 0; i < PAGES; i++)
        for (int k = 0; k < i; k++)
            CHECK(ids[i] != ids[k]);
    for (uint64_t round = 1; round < 5; round++) /* more writes than there are frames */
        for (int i = 0; i < PAGES; i++)
            CHECK(!dsm_store_write(s, ids[i], filled(page, round * 1000 + (uint64_t)i), NULL));
    for (int i = 0; i < PAGES; i++)
        CHECK(!dsm_store_read(s, ids[i], got, NULL) && value_of(got) == 4000 + (uint64_t)i);
    for (int i = 0; i < PAGES; i++)
        CHECK(!dsm_store_free(s, ids[i]));
    old_ids(s, ids);
}

/* Many in one call; the first that fails ends it. */
static void many_pages(dsm_store *s, bool mapped)
{
    enum { N = 5 };
    static uint8_t data[N][PAGE], out[N][PAGE];
    uint64_t ids[N], versions[N], v;
    dsm_store_counts before, after;
    CHECK(!dsm_store_count(s, &before) && !dsm_store_allocate(s, ids, N, &left) && !dsm_store_count(s, &after));
    CHECK(after.free_pages == before.free_pages - N && after.clients == before.clients && after.clients);
    for (uint64_t i = 0; i < N; i++)
        filled(data[i], i + 1);
    CHECK(!dsm_store_write_many(s, ids, N, data, versions, NULL) && !dsm_store_read_many(s, ids, N, out, NULL));
    CHECK(!memcmp(data, out, sizeof out) && !dsm_store_version(s, ids[N - 1], &v) && v == versions[N - 1]);
    CHECK(dsm_store_read_now(s, ids[0], got, &v) == !mapped && (!mapped || (v == versions[0] && value_of(got) == 1)));
    CHECK(!dsm_store_free(s, ids[2]));
    for (uint64_t i = 0; i < N; i++)
        filled(data[i], i + 11);
    CHECK(dsm_store_write_many(s, ids, N, data, versions, NULL) == -DSM_EPAGE);
    CHECK(strstr(dsm_last_error()->detail, "ids[2] of 5") &&
          strstr(dsm_last_error()->detail, "those before it were done"));
    CHECK(!dsm_store_read(s, ids[1], got, NULL) && value_of(got) == 12);
    CHECK(!dsm_store_read(s, ids[3], got, NULL) && (value_of(got) == 4 || (!mapped && value_of(got) == 14)));
    CHECK(dsm_store_read_many(s, ids, N, out, NULL) == -DSM_EPAGE && value_of(out[1]) == 12);
    CHECK(strstr(dsm_last_error()->detail, "ids[2] of 5") && !strstr(dsm_last_error()->detail, "done"));
    for (int i = 0; i < N; i++)
        CHECK(i == 2 || !dsm_store_free(s, ids[i]));
}

/* What one client knows of a page is old when the other one has changed it. */
static void two_clients(dsm_store *a, dsm_store *b)
{
    uint64_t pid, v, w;
    CHECK(!dsm_store_allocate(a, &pid, 1, &left));
    for (uint64_t i = 1; i < 300; i++) {
        CHECK(!dsm_store_write(i % 2 ? a : b, pid, filled(page, i), &v));
        CHECK(!dsm_store_read(i % 3 ? a : b, pid, got, &w) && w == v && value_of(got) == i);
        CHECK(dsm_store_compare_write(i % 2 ? b : a, pid, v - 1, page, &w) == -DSM_ECONFLICT && w == v);
    }
    CHECK(!dsm_store_free(b, pid) && dsm_store_write(a, pid, page, NULL) == -DSM_EPAGE);
    CHECK(dsm_store_read(a, pid, got, NULL) == -DSM_EPAGE && dsm_store_free(a, pid) == -DSM_EPAGE);
}

static void damaged(dsm_store *s, uint8_t *memory, uint64_t nbytes)
{
    uint64_t pid;
    uint8_t *at;
    CHECK(!dsm_store_allocate(s, &pid, 1, &left) && !dsm_store_write(s, pid, filled(page, 0x5157575757575757), NULL));
    CHECK((at = memmem(memory, nbytes, page, PAGE)) != NULL);
    at[PAGE / 2] ^= 1;
    CHECK(dsm_store_read(s, pid, got, NULL) == -DSM_ECORRUPT);
    at[PAGE / 2] ^= 1;
    CHECK(!dsm_store_read(s, pid, got, NULL));
    at[-64 + 16] ^= 1; /* the header */
    CHECK(dsm_store_read(s, pid, got, NULL) == -DSM_ECORRUPT);
    at[-64 + 16] ^= 1;
    CHECK(!dsm_store_free(s, pid));
}

/* Its writer has begun it, and the head has not followed. */
static void frame_of_another_version(dsm_remote *r)
{
    uint64_t pid, version;
    uint8_t *at;
    dsm_store *s = opened(r);
    CHECK(!dsm_store_allocate(s, &pid, 1, &left));
    CHECK(!dsm_store_write(s, pid, filled(page, 0x5a5b5c5d5e5f5a5b), &version));
    CHECK((at = memmem(dsm_remote_mapped(r), nbytes, page, PAGE)) != NULL);
    at[-64 + 8] ^= 1; /* the version */
    CHECK(dsm_store_read(s, pid, got, NULL) == -DSM_ECORRUPT);
    CHECK(dsm_store_version(s, pid, &version) == -DSM_ECORRUPT);
    at[-64 + 8] ^= 1;
    CHECK(!dsm_store_read(s, pid, got, NULL) && !dsm_store_free(s, pid) && !dsm_store_close(s));
}

static void use(dsm_remote *r, dsm_remote *other)
{
    dsm_store *a = opened(r), *b = opened(other);
    CHECK(dsm_store_shape_of(a).pages == PAGES && dsm_store_shape_of(a).page_bytes == PAGE);
    one_page(a);
    many_pages(a, dsm_remote_mapped(r) != NULL);
    no_such_pages(a);
    all_pages(a);
    all_pages(b);
    two_clients(a, b);
    CHECK(!dsm_store_close(a) && !dsm_store_close(b));
    for (int i = 0; i < 3 * CLIENTS; i++) { /* places and chunks are given back */
        a = opened(r);
        one_page(a);
        CHECK(!dsm_store_close(a));
    }
}

static void places(dsm_remote *r)
{
    dsm_store *all[CLIENTS], *more;
    for (int i = 0; i < CLIENTS; i++)
        all[i] = opened(r);
    CHECK(open_store(r, &more) == -DSM_EMEMBERS);
    for (int i = 0; i < CLIENTS; i++)
        CHECK(!dsm_store_close(all[i]));
}

static void shapes(void)
{
    const dsm_store_shape wrong[] = {{.page_bytes = 0, .clients = 1, .pages = 1},
                                     {.page_bytes = 128, .clients = 1, .pages = 1},
                                     {.page_bytes = PAGE + 8, .clients = 1, .pages = 1},
                                     {.page_bytes = 1 << 21, .clients = 1, .pages = 1},
                                     {.page_bytes = PAGE, .clients = 0, .pages = 1},
                                     {.page_bytes = PAGE, .clients = 1, .pages = 0},
                                     {.page_bytes = PAGE, .clients = 1025, .pages = 1},
                                     {.page_bytes = PAGE, .clients = 1, .pages = 1 << 24},
                                     {.page_bytes = PAGE, .clients = 1, .pages = 1ull << 60},
                                     {.page_bytes = PAGE, .clients = 1, .pages = 7, .extents = 2},
                                     {.page_bytes = PAGE, .clients = 1, .pages = 4, .extents = 2, .extent = 2},
                                     {.page_bytes = PAGE, .clients = 1, .pages = 4, .extents = 2, .spread = 1 << 16},
                                     {.page_bytes = PAGE, .clients = 1, .pages = 65, .extents = 65},
                                     {.page_bytes = PAGE, .clients = 1, .pages = 66, .extents = 33, .copies = 2}};
    uint64_t n;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(dsm_store_layout(&wrong[i], &n) == -DSM_EINVAL);
}

static void damaged_headers(dsm_remote *r)
{
    uint8_t *memory = dsm_remote_mapped(r);
    dsm_store *s;
    for (int i = 64; i < 128; i++) {
        memory[i] ^= 4;
        CHECK(open_store(r, &s) == -DSM_ECORRUPT);
        memory[i] ^= 4;
    }
    uint32_t crc;
    memory[112]--;
    memcpy(&crc, memory + 124, 4);
    uint32_t earlier = crc32(memory, 124);
    memcpy(memory + 124, &earlier, 4);
    CHECK(open_store(r, &s) == -DSM_EVERSION);
    memory[112]++;
    memcpy(memory + 124, &crc, 4);
    memory[12] = DSM_CLOCK;
    CHECK(open_store(r, &s) == -DSM_EMISMATCH);
    memory[12] = DSM_STORE;
}

/* Pages that are written all the time, freed and allocated need no more frames than there are of them, and a chunk or
 * two: not those of all chunks in turn, which no cache holds. */
static void few_frames_are_used(void)
{
    enum { PAGES_WRITTEN = 100, CHUNKS = 20 + 2 };
    const dsm_store_shape large = {.page_bytes = PAGE, .clients = 2, .pages = 64 * (CHUNKS - 2)};
    uint64_t size, own[PAGES_WRITTEN], used = 0;
    CHECK(!dsm_store_layout(&large, &size));
    dsm_remote *r = memory_of(size);
    const uint64_t *words = (const uint64_t *)(const void *)((uint8_t *)dsm_remote_mapped(r) + 192 + 16 * 2);
    CHECK(!dsm_store_format(dsm_remote_mapped(r), &large));
    dsm_store *s = opened(r);
    CHECK(!dsm_store_allocate(s, own, PAGES_WRITTEN, &left));
    for (uint64_t i = 0; i < 100 * PAGES_WRITTEN; i++) {
        uint64_t *pid = &own[i * 37 % PAGES_WRITTEN];
        CHECK(!dsm_store_write(s, *pid, filled(page, i), NULL));
        CHECK(i % 7 || (!dsm_store_free(s, *pid) && !dsm_store_allocate(s, pid, 1, &left)));
    }
    for (int i = 0; i < CHUNKS; i++)
        used += words[i] != 0;
    CHECK(used <= PAGES_WRITTEN / 64 + 1 + 2);
    CHECK(!dsm_store_close(s) && !dsm_remote_close(r));
}

/* ---- threads ---- */

static int file, wide;
static uint64_t wide_bytes, ids[WRITERS];
static uint32_t running;

static void *writes(void *arg)
{
    uint64_t me = (uint64_t)(uintptr_t)arg, value;
    dsm_remote *r = map_of(wide, wide_bytes);
    dsm_store *s = opened(r);
    uint8_t *own = malloc(WIDE);
    for (uint64_t i = 1; i <= ROUNDS; i++) {
        value = me * ROUNDS + i;
        for (int k = 0; k < WIDE; k += 8)
            memcpy(own + k, &value, 8);
        CHECK(!dsm_store_write(s, ids[i % WRITERS], own, NULL));
    }
    free(own);
    CHECK(!dsm_store_close(s) && !dsm_remote_close(r));
    fetch_sub_u32(&running, 1);
    return NULL;
}

static void *reads(void *arg)
{
    uint8_t *own = malloc(WIDE);
    uint64_t v, last[WRITERS] = {0};
    for (uint64_t i = 0; load_relaxed_u32(&running) || i < ROUNDS; i++) {
        CHECK(!dsm_store_read(arg, ids[i % WRITERS], own, &v) && v >= last[i % WRITERS]);
        CHECK(!memcmp(own, own + 8, WIDE - 8));
        last[i % WRITERS] = v;
    }
    free(own);
    return NULL;
}

/* Every write makes a version of its own. */
static uint64_t versions(dsm_store *s)
{
    uint64_t sum = 0, v;
    for (int i = 0; i < WRITERS; i++) {
        CHECK(!dsm_store_version(s, ids[i], &v));
        sum += v;
    }
    return sum;
}

/* Pages whose copy takes long, and frames that are used again at once. */
static void readers_under_writers(void)
{
    const dsm_store_shape long_pages = {.page_bytes = WIDE, .clients = WRITERS + 1, .pages = WRITERS};
    pthread_t threads[WRITERS + 2];
    CHECK(!dsm_store_layout(&long_pages, &wide_bytes));
    wide = memfd_create("wide", MFD_CLOEXEC);
    CHECK(wide >= 0 && !ftruncate(wide, (off_t)wide_bytes));
    dsm_remote *r = map_of(wide, wide_bytes);
    CHECK(!dsm_store_format(dsm_remote_mapped(r), &long_pages));
    dsm_store *s = opened(r);
    CHECK(!dsm_store_allocate(s, ids, WRITERS, &left));
    uint64_t before = versions(s);
    running = WRITERS;
    for (uintptr_t i = 0; i < WRITERS + 2; i++)
        CHECK(!pthread_create(&threads[i], NULL, i < WRITERS ? writes : reads, i < WRITERS ? (void *)i : (void *)s));
    for (int i = 0; i < WRITERS + 2; i++)
        pthread_join(threads[i], NULL);
    CHECK(versions(s) == before + WRITERS * ROUNDS);
    CHECK(!dsm_store_close(s) && !dsm_remote_close(r) && !close(wide));
}

/* ---- deaths ---- */

static _Noreturn void write_until_killed(uint64_t pid)
{
    dsm_store *s = opened(map_of(file, nbytes));
    alarm(100); /* if the parent has failed */
    for (uint64_t i = 1;; i++)
        CHECK(!dsm_store_write(s, pid, filled(page, i), NULL));
}

/* More are killed than there are places and chunks: those of the dead are found again. The pages are whole, and no
 * process waits for the dead. */
static void killed_writers(dsm_remote *r)
{
    dsm_store *s = opened(r);
    uint64_t pid, v, before = 0;
    CHECK(!dsm_store_allocate(s, &pid, 1, &left));
    for (int i = 0; i < KILLS; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (!child)
            write_until_killed(pid);
        do {
            usleep(100);
            CHECK(waitpid(child, NULL, WNOHANG) == 0 && !dsm_store_version(s, pid, &v));
        } while (v < before + 200 + 10 * (uint64_t)i);
        CHECK(!kill(child, SIGKILL) && waitpid(child, NULL, 0) == child);
        CHECK(!dsm_store_read(s, pid, got, &before) && before >= v);
        value_of(got);
        CHECK(!dsm_store_write(s, pid, filled(page, 0), &v) && v == before + 1);
    }
    CHECK(!dsm_store_free(s, pid));
    all_pages(s);
    CHECK(!dsm_store_close(s));
}

/* The words of all chunks are more than one READ takes. */
static void chunks_of_the_dead_are_closed(void)
{
    enum { CHUNKS = 130 + 1 };
    const dsm_store_shape large = {.page_bytes = 256, .clients = 1, .pages = 64 * (CHUNKS - 1)};
    uint64_t size;
    int status;
    CHECK(!dsm_store_layout(&large, &size));
    int fd = memfd_create("large", MFD_CLOEXEC);
    CHECK(fd >= 0 && !ftruncate(fd, (off_t)size));
    dsm_remote *r = map_of(fd, size);
    uint64_t *words = (uint64_t *)(void *)((uint8_t *)dsm_remote_mapped(r) + 192 + 16);
    CHECK(!dsm_store_format(dsm_remote_mapped(r), &large));
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        opened(map_of(fd, size));
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && !status);
    for (uint64_t i = 0; i < CHUNKS; i++)
        words[i] = 1ull << 52 | 1ull << 50 | i; /* open, of the first slot */
    dsm_store *s = opened(r);
    for (uint64_t i = 0; i < CHUNKS; i++)
        CHECK(words[i] == (2ull << 50 | (i + 1)));
    CHECK(!dsm_store_close(s) && !dsm_remote_close(r) && !close(fd));
}

/* ---- memory that is reached by ops ---- */

static void by_ops(void)
{
    dsm_ctx *owner = open_context(NULL), *user = open_context(""); /* no faults, but no mapping either */
    dsm_region *region;
    uint8_t descriptor[DSM_DESC_MAX];
    dsm_remote *r, *other;
    CHECK(!dsm_alloc(owner, nbytes, DSM_READ | DSM_WRITE | DSM_ATOMIC, &region));
    CHECK(!dsm_store_format(dsm_region_data(region), &shape));
    size_t n = (size_t)dsm_region_descriptor(region, descriptor);
    CHECK(!dsm_attach(user, descriptor, n, -1, &r) && !dsm_remote_mapped(r));
    CHECK(!dsm_attach(owner, descriptor, n, -1, &other) && dsm_remote_mapped(other));
    use(r, r);
    use(r, other);
    dsm_store *s = opened(r);
    damaged(s, dsm_region_data(region), nbytes);
    CHECK(!dsm_store_close(s));
    CHECK(!dsm_remote_close(r) && !dsm_remote_close(other) && !dsm_region_close(region));
    dsm_close(user);
    dsm_close(owner);
}

static int open_chunks(const uint8_t *memory, uint32_t clients, uint64_t chunks)
{
    const uint64_t *words = (const uint64_t *)(const void *)(memory + 192 + 16 * clients);
    int open = 0;
    for (uint64_t i = 0; i < chunks; i++)
        open += (words[i] >> 50 & 3) == 1;
    return open;
}

static dsm_ctx *owner, *user;
static dsm_region *region;
static dsm_remote *reached;

static dsm_store *open_with_plan(const char *plan)
{
    const dsm_store_shape small = {.page_bytes = PAGE, .clients = 2, .pages = 64};
    uint8_t descriptor[DSM_DESC_MAX];
    uint64_t size;
    dsm_store *s;
    owner = open_context(NULL);
    user = open_context(plan);
    CHECK(!dsm_store_layout(&small, &size));
    CHECK(!dsm_alloc(owner, size, DSM_READ | DSM_WRITE | DSM_ATOMIC, &region));
    CHECK(!dsm_store_format(dsm_region_data(region), &small));
    CHECK(!dsm_attach(user, descriptor, (size_t)dsm_region_descriptor(region, descriptor), -1, &reached));
    CHECK(!open_store(reached, &s) || !open_store(reached, &s));
    return s;
}

static void close_all(void)
{
    CHECK(!dsm_remote_close(reached) && !dsm_region_close(region));
    dsm_close(user);
    dsm_close(owner);
}

/* One op fails, whichever it is; no write is in doubt then, since the store finds out. */
static void one_failure(const char *plan)
{
    dsm_store *s = open_with_plan(plan);
    uint64_t pid;
    CHECK(!dsm_store_allocate(s, &pid, 1, &left) || !dsm_store_allocate(s, &pid, 1, &left));
    int rc = dsm_store_write(s, pid, filled(page, 1), NULL);
    CHECK(!rc || (rc != -DSM_EUNKNOWN && !dsm_store_write(s, pid, page, NULL)));
    CHECK((!dsm_store_read(s, pid, got, NULL) || !dsm_store_read(s, pid, got, NULL)) && value_of(got) == 1);
    rc = dsm_store_close(s);
    CHECK(rc || !open_chunks(dsm_region_data(region), 2, 3));
    close_all();
}

static dsm_store *interrupted;
static uint64_t interrupted_page;
static int refusals;

static int use_in_handler(void)
{
    uint64_t id;
    refusals += dsm_store_write(interrupted, interrupted_page, page, NULL) == -DSM_EBUSY;
    refusals += dsm_store_allocate(interrupted, &id, 1, &left) == -DSM_EBUSY;
    return 1; /* ends the wait */
}

/* The op with this number is dropped. Returns the number of the first op of the write. */
static int write_that_waits(int dropped)
{
    char plan[32] = "";
    dsm_stats stats;
    if (dropped)
        snprintf(plan, sizeof plan, "drop=%d", dropped);
    interrupted = open_with_plan(plan);
    CHECK(!dsm_store_allocate(interrupted, &interrupted_page, 1, &left));
    dsm_get_stats(user, &stats);
    if (dropped) {
        dsm_set_interrupt(use_in_handler);
        CHECK(dsm_store_write(interrupted, interrupted_page, filled(page, 1), NULL) == -DSM_ETIME && refusals == 2);
        dsm_set_interrupt(NULL);
        CHECK(!dsm_store_write(interrupted, interrupted_page, page, NULL));
    }
    CHECK(!dsm_store_close(interrupted));
    close_all();
    return (int)stats.posts + 1;
}

static int use_many_in_handler(void)
{
    uint64_t pids[2] = {interrupted_page, interrupted_page}, versions[2];
    uint8_t pages[2 * PAGE];
    refusals += dsm_store_write_many(interrupted, pids, 2, pages, versions, NULL) == -DSM_EBUSY;
    refusals += dsm_store_read_many(interrupted, pids, 2, pages, NULL) == -DSM_EBUSY;
    return 1; /* ends the wait */
}

/* A call for many pages that is refused leaves alone the one that it has interrupted. The ops are those of a write. */
static void many_that_wait(int dropped)
{
    char plan[32];
    uint64_t versions[2] = {0};
    uint8_t pages[2 * PAGE] = {0};
    snprintf(plan, sizeof plan, "drop=%d", dropped);
    interrupted = open_with_plan(plan);
    CHECK(!dsm_store_allocate(interrupted, &interrupted_page, 1, &left));
    refusals = 0;
    dsm_set_interrupt(use_many_in_handler);
    CHECK(dsm_store_write_many(interrupted, (uint64_t[]){interrupted_page, interrupted_page}, 2, pages, versions,
                               NULL) == -DSM_ETIME);
    dsm_set_interrupt(NULL);
    CHECK(refusals == 2 && strstr(dsm_last_error()->detail, "ids[0] of 2: "));
    CHECK(!dsm_store_close(interrupted));
    close_all();
}

static uint64_t given[64];

static int change_ids(void)
{
    for (int i = 0; i < 64; i++)
        given[i] = interrupted_page;
    return 1;
}

/* The caller's array changes, and then the op with this number fails: only what the call has allocated is freed.
 * Returns the number of the op that looks whether more pages are free. */
static int ids_that_change(int dropped)
{
    char plan[32] = "";
    dsm_stats stats;
    dsm_store_counts counts;
    if (dropped)
        snprintf(plan, sizeof plan, "drop=%d", dropped);
    dsm_store *s = open_with_plan(plan);
    CHECK(!dsm_store_allocate(s, &interrupted_page, 1, &left));
    CHECK(!dsm_store_write(s, interrupted_page, filled(page, 5), NULL));
    dsm_get_stats(user, &stats);
    if (dropped) {
        dsm_set_interrupt(change_ids);
        CHECK(dsm_store_allocate(s, given, 64, &left) == -DSM_ETIME && given[0] == interrupted_page);
        dsm_set_interrupt(NULL);
        CHECK(!dsm_store_read(s, interrupted_page, got, NULL) && value_of(got) == 5);
        CHECK(!dsm_store_count(s, &counts) && counts.free_pages == 63);
    }
    CHECK(!dsm_store_close(s));
    close_all();
    return (int)stats.posts + 63 + 1; /* the first call has read the heads of 64 */
}

/* ---- pages that others replace all the time ---- */

static dsm_store *rival;
static uint64_t replaced[2], until_posts;
static __thread int looks;

static void *replaces(void *arg)
{
    static uint8_t own[PAGE];
    dsm_stats stats = {0};
    for (uint64_t i = 1; stats.posts < __atomic_load_n(&until_posts, __ATOMIC_RELAXED); i++) {
        CHECK(!dsm_store_write(rival, replaced[0], filled(own, i), NULL));
        dsm_get_stats(user, &stats);
    }
    return arg;
}

/* Between two sleeps a call looks for signals. */
static int too_often(void) { return ++looks > 10000; }

/* Each look comes too late: the page has another frame by then. So the call sleeps between its looks. */
static void looks_that_come_too_late(void)
{
    static uint8_t out[2 * PAGE];
    uint8_t descriptor[DSM_DESC_MAX];
    pthread_t thread;
    dsm_remote *mapped;
    dsm_stats stats;
    dsm_store *s = open_with_plan("delay=*:1ms");
    CHECK(!dsm_attach(owner, descriptor, (size_t)dsm_region_descriptor(region, descriptor), -1, &mapped));
    rival = opened(mapped);
    CHECK(!dsm_store_allocate(s, replaced, 2, &left) && !dsm_store_write(s, replaced[1], filled(page, 3), NULL));
    dsm_set_interrupt(too_often);
    for (int i = 0; i < 10; i++) {
        looks = 0;
        dsm_get_stats(user, &stats);
        until_posts = stats.posts + 24;
        CHECK(!pthread_create(&thread, NULL, replaces, NULL));
        CHECK(!dsm_store_read_many(s, replaced, 2, out, NULL) && value_of(out) < UINT64_MAX &&
              value_of(out + PAGE) == 3);
        __atomic_store_n(&until_posts, 0, __ATOMIC_RELAXED);
        CHECK(!pthread_join(thread, NULL));
    }
    dsm_set_interrupt(NULL);
    CHECK(!dsm_store_close(rival) && !dsm_remote_close(mapped) && !dsm_store_close(s));
    close_all();
}

static void lost_answers(void)
{
    char plan[32];
    for (int i = 1; i < 25; i++) {
        snprintf(plan, sizeof plan, "failafter=%d", i);
        one_failure(plan);
        snprintf(plan, sizeof plan, "fail=%d", i);
        one_failure(plan);
    }
}

/* An extent alone is no store; all of them are refused where their memory is mapped, and where one has an epoch and the
 * other has none. */
static void extents_that_are_mapped(void)
{
    dsm_store_shape half = {.page_bytes = PAGE, .clients = 1, .pages = 8, .extents = 2, .spread = 2, .id = 9};
    dsm_remote *at[2];
    dsm_store *s;
    uint64_t size, state;
    uint32_t failed;
    CHECK(!dsm_store_layout(&half, &size));
    for (half.extent = 0; half.extent < 2; half.extent++) {
        dsm_store_shape found;
        at[half.extent] = memory_of(size);
        CHECK(!dsm_store_format(dsm_remote_mapped(at[half.extent]), &half));
        CHECK(!dsm_store_look(at[half.extent], &found, &state) && state == DSM_STORE_MADE && found.pages == 8);
        CHECK(found.extents == 2 && found.extent == half.extent && found.spread == 2);
    }
    CHECK(!dsm_store_settle(at[0], DSM_STORE_MADE, DSM_STORE_WHOLE, &state) && state == DSM_STORE_WHOLE);
    CHECK(dsm_store_open(at, 1, &s, &failed) == -DSM_EMISMATCH && failed == 0);
    CHECK(dsm_store_open(&at[1], 1, &s, &failed) == -DSM_EMISMATCH);
    CHECK(dsm_store_open((dsm_remote *[]){at[0], at[0]}, 2, &s, &failed) == -DSM_EMISMATCH && failed == 1);
    CHECK(dsm_store_open(at, 2, &s, &failed) == -DSM_EUNSUPPORTED);
    store_release_u64((uint64_t *)dsm_remote_mapped(at[0]) + 136 / 8, 1);
    CHECK(dsm_store_open(at, 2, &s, &failed) == -DSM_EMISMATCH && failed == 1);
    CHECK(!dsm_remote_close(at[0]) && !dsm_remote_close(at[1]));
}

int main(void)
{
    shapes();
    CHECK(!dsm_store_layout(&shape, &nbytes));
    file = memfd_create("store", MFD_CLOEXEC);
    CHECK(file >= 0 && !ftruncate(file, (off_t)nbytes));
    dsm_remote *r = map_of(file, nbytes);
    CHECK(!dsm_store_format(dsm_remote_mapped(r), &shape));
    damaged_headers(r);
    use(r, r);
    frame_of_another_version(r);
    places(r);
    few_frames_are_used();
    readers_under_writers();
    killed_writers(r);
    chunks_of_the_dead_are_closed();
    by_ops();
    lost_answers();
    write_that_waits(write_that_waits(0));
    many_that_wait(write_that_waits(0));
    ids_that_change(ids_that_change(0));
    looks_that_come_too_late();
    extents_that_are_mapped();
    CHECK(!dsm_remote_close(r));
    puts("ok");
    return 0;
}
