/*
 * Corrupted objects in shared memory: every call returns, and no memory outside the object is touched.
 *
 * An input is a kind of object, its configuration, mapped or remote, and steps: a word or byte of the object is
 * overwritten, a header gets a right checksum again, a second handle is opened or closed, or a call is made on one of
 * the two. The first handle is opened before all that, so that each kind is also corrupted while it is in use. A mapped
 * object ends where memory ends, and the bytes before it are poisoned. With a remote one, the stack and the heap have
 * to be protected, which the sanitizer watches.
 */
#include "base/crc32.h"
#include "check.h"
#include "context.h"
#include "core/core.h"
#include "objects/queue/ring.h"
#include "objects/segment/segment.h"

#include <sanitizer/asan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerInitialize(int *argc, char ***argv);

enum { ARENA = 1 << 16, GUARD = 1 << 20, STEPS = 300, ROWS = 3 };

static uint8_t *arena;
static dsm_remote *remote;
static uint8_t *remote_bytes;
static const uint32_t live;
static struct peer no_peer = {.address = "memory of the fuzzer", .fd = -1};

static struct {
    const uint8_t *at;
    size_t n;
} input;

static struct {
    dsm_remote *r;
    uint8_t *bytes;
    uint64_t nbytes;
} object;

struct slot {
    void *handle; /* NULL: closed */
    dsm_segment segment;
    dsm_clock clock;
    dsm_waiter waiter;
    uint64_t generation;
};

struct kind {
    enum dsm_type type;
    uint32_t flags; /* of a queue; of a segment: versioned */
    int (*open)(struct slot *s);
    void (*call)(struct slot *s, uint8_t what);
    void (*close)(struct slot *s);
};

static uint8_t next_byte(void)
{
    if (!input.n)
        return 0;
    input.n--;
    return *input.at++;
}

static uint64_t next_word(unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)next_byte() << 8 * i;
    return v;
}

/* ---- queues ---- */

static void use(const void *p, uint64_t n)
{
    uint8_t copy[2048];
    CHECK(n <= sizeof copy);
    memcpy(copy, p, n);
    __asm__ __volatile__("" : : "r"(copy) : "memory");
}

static int queue_open(struct slot *s)
{
    dsm_queue *q;
    int rc = dsm_queue_open(object.r, NULL, &q);
    if (rc)
        return rc;
    s->handle = q;
    dsm_queue_produce(q);
    dsm_queue_consume(q);
    return 0;
}

static void queue_put(dsm_queue *q, uint8_t what)
{
    uint8_t data[2048] = {0};
    uint64_t n = (what & 128 ? 1800 : 5) + (what >> 4 & 7) * 8u;
    void *place;
    switch (what & 3) {
    case 0:
        dsm_queue_push(q, data, n, 1);
        break;
    case 1:
        dsm_queue_push_records(q, data, 2048 / n, n);
        break;
    case 2:
        if (!dsm_queue_reserve(q, n, &place)) {
            memset(place, 1, n);
            if (what & 4)
                dsm_queue_commit(q, n - 1, 2);
            else
                dsm_queue_cancel(q);
        }
        break;
    default:
        dsm_queue_flush(q);
    }
}

static void queue_take(dsm_queue *q, uint8_t what)
{
    uint8_t kind, out[64 * 32];
    const void *p;
    uint64_t n;
    switch (what & 3) {
    case 0:
        if (!dsm_queue_next(q, &p, &n, &kind)) {
            use(p, n);
            while (what & 4 && !dsm_queue_next_here(q, &p, &n, &kind))
                use(p, n);
        }
        break;
    case 1:
        dsm_queue_done(q);
        break;
    case 2:
        CHECK(dsm_queue_pop_records(q, out, what & 4 ? 2 : 64, 5 + (what >> 4 & 7) / 2 * 8) <= 64);
        break;
    default:
        dsm_queue_undo(q);
    }
}

static void queue_call(struct slot *s, uint8_t what)
{
    dsm_queue *q = s->handle;
    dsm_queue_counts counts;
    uint8_t how = next_byte();
    switch (what % 8) {
    case 0:
    case 1:
    case 2:
        queue_put(q, how);
        break;
    case 3:
    case 4:
        queue_take(q, how);
        break;
    case 5:
        dsm_queue_count(q, &counts);
        break;
    case 6:
        dsm_queue_wait_room(q, how * 8u, 0, 0, -1);
        dsm_queue_wait_item(q, 0, 0, -1);
        break;
    default:
        if (how < 32)
            dsm_queue_shutdown(q, how & 1);
        dsm_queue_produce(q);
        dsm_queue_consume(q);
    }
}

static void queue_close(struct slot *s) { dsm_queue_close(s->handle); }

/* ---- segments ---- */

static int segment_open(struct slot *s)
{
    int rc = dsm_segment_open(object.r, &s->segment);
    if (rc) /* 1: the rows are more than this memory, and there is no more */
        return rc;
    s->handle = &s->segment;
    return 0;
}

/* As a handle that keeps its own rows does: it reads them, and remembers only those that it can reach. */
static void segment_look(dsm_segment *g)
{
    uint64_t rows;
    if (dsm_segment_rows(object.r, g, &rows))
        return;
    CHECK(g->data + rows * g->row_bytes <= object.nbytes);
    uint8_t *copy = malloc(rows * g->row_bytes + 1);
    CHECK(copy && (!rows || !dsm_read(object.r, g->data, copy, rows * g->row_bytes, -1)));
    free(copy);
    g->rows = rows;
}

static void segment_snapshot(dsm_segment *g)
{
    uint64_t rows = g->rows, version;
    int rc = 1;
    for (int i = 0; rc == 1 && i < 4; i++) {
        void *out = malloc(rows * g->row_bytes + 1);
        CHECK(out);
        rc = dsm_segment_snapshot(object.r, g, out, &rows, 0, &(int){0}, &version);
        free(out);
        CHECK(rc < 0 || g->data + rows * g->row_bytes <= object.nbytes);
    }
}

/* What begin has returned, unless the memory has changed. */
static uint64_t segment_version(void)
{
    uint64_t head = 0;
    dsm_read(object.r, SEGMENT_HEAD, &head, sizeof head, -1);
    return head >> 2;
}

static void segment_commit(dsm_segment *g, bool with_data)
{
    uint64_t version = segment_version();
    void *data = with_data || !dsm_remote_mapped(object.r) ? calloc(1, g->rows * g->row_bytes + 1) : NULL;
    dsm_segment_commit(object.r, g, data, &version);
    free(data);
}

static void segment_call(struct slot *s, uint8_t what)
{
    dsm_segment *g = &s->segment;
    uint64_t version, rows, seen = 0, now;
    switch (what % 8) {
    case 0:
        segment_look(g);
        break;
    case 1:
        segment_snapshot(g);
        break;
    case 2:
        if (!dsm_segment_begin(object.r, g, 0, &version, &rows))
            g->rows = rows;
        break;
    case 3:
        segment_commit(g, what & 64);
        break;
    case 4:
        dsm_segment_abort(object.r, g, segment_version());
        break;
    case 5:
        dsm_segment_set_rows(object.r, what >> 4);
        break;
    case 6:
        dsm_segment_notify(object.r);
        break;
    default:
        dsm_segment_wait(object.r, SEGMENT_DATA, &seen, &now, 8, 0, 0);
    }
}

static void nothing_to_close(struct slot *s) { (void)s; }

/* ---- locks, and objects that consist of locks ---- */

static void lock_calls(dsm_lock *l, uint8_t what)
{
    if (what & 1)
        dsm_lock_acquire(l, 0);
    else
        dsm_lock_release(l);
    dsm_lock_locked(l);
    dsm_lock_recovered(l);
    dsm_lock_token(l);
}

static int lock_open_it(struct slot *s) { return dsm_lock_open(object.r, 0, (dsm_lock **)(void *)&s->handle); }
static void lock_call(struct slot *s, uint8_t what) { lock_calls(s->handle, what); }
static void lock_close_it(struct slot *s) { dsm_lock_close(s->handle); }

static int rwlock_open(struct slot *s) { return dsm_rwlock_open(object.r, 0, (dsm_rwlock **)(void *)&s->handle); }
static void rwlock_close(struct slot *s) { dsm_rwlock_close(s->handle); }
static void rwlock_call(struct slot *s, uint8_t what)
{
    int owner_died;
    switch (what % 5) {
    case 0:
        dsm_rwlock_read(s->handle, 0);
        break;
    case 1:
        dsm_rwlock_unread(s->handle);
        break;
    case 2:
        if (dsm_rwlock_claim(s->handle, 0) == 1)
            dsm_rwlock_drain(s->handle, 0);
        break;
    case 3:
        dsm_rwlock_unclaim(s->handle, what > 127);
        break;
    default:
        dsm_rwlock_readers(s->handle, &owner_died);
    }
}

static int semaphore_open(struct slot *s)
{
    return dsm_semaphore_open(object.r, 0, (dsm_semaphore **)(void *)&s->handle);
}
static void semaphore_close(struct slot *s) { dsm_semaphore_close(s->handle); }
static void semaphore_call(struct slot *s, uint8_t what)
{
    int owner_died;
    if (what % 3)
        dsm_semaphore_acquire(s->handle, 0);
    else
        dsm_semaphore_release(s->handle, 1);
    CHECK(dsm_semaphore_held(s->handle, &owner_died) <= 4);
    dsm_semaphore_value(s->handle);
}

static int event_open(struct slot *s)
{
    s->generation = DSM_EVENT_NOW;
    return dsm_event_open(object.r, 0, (dsm_event **)(void *)&s->handle);
}
static void event_close(struct slot *s) { dsm_event_close(s->handle); }
static void event_call(struct slot *s, uint8_t what)
{
    if (what % 4 == 0)
        dsm_event_set(s->handle);
    else if (what % 4 == 1)
        dsm_event_clear(s->handle);
    else if (what % 4 == 2)
        dsm_event_is_set(s->handle);
    else
        dsm_event_wait(s->handle, &s->generation, 0);
}

static int condition_open(struct slot *s)
{
    s->waiter.condition = NULL;
    return dsm_condition_open(object.r, NULL, 0, (dsm_condition **)(void *)&s->handle);
}
static void condition_close(struct slot *s) { dsm_condition_close(s->handle); }
static void condition_call(struct slot *s, uint8_t what)
{
    dsm_lock *l = dsm_condition_lock(s->handle);
    bool waits = s->waiter.condition != NULL;
    switch (what % 5) {
    case 0:
        lock_calls(l, what >> 4);
        break;
    case 1:
        if (!waits && dsm_condition_begin(s->handle, &s->waiter))
            s->waiter.condition = NULL;
        break;
    case 2:
        if (waits)
            dsm_condition_wait(&s->waiter, 0);
        break;
    case 3:
        if (waits && dsm_lock_held(l) && dsm_condition_finish(&s->waiter, what > 127))
            s->waiter.condition = NULL;
        break;
    default:
        dsm_condition_notify(s->handle, what > 127 ? UINT64_MAX : 1);
    }
}

static int barrier_open(struct slot *s) { return dsm_barrier_open(object.r, 0, (dsm_barrier **)(void *)&s->handle); }
static void barrier_close(struct slot *s) { dsm_barrier_close(s->handle); }
static void barrier_call(struct slot *s, uint8_t what)
{
    uint32_t index;
    int broken;
    switch (what % 6) {
    case 0:
    case 1:
        dsm_barrier_arrive(s->handle, what > 127, 0, &s->generation, &index);
        break;
    case 2:
        dsm_barrier_finish(s->handle, s->generation);
        break;
    case 3:
        dsm_barrier_wait(s->handle, s->generation, 0);
        break;
    case 4:
        dsm_barrier_break(s->handle, what > 127 ? DSM_BARRIER_ANY : s->generation);
        break;
    default:
        dsm_barrier_waiting(s->handle, &broken);
        dsm_barrier_reset(s->handle);
    }
}

static int once_open(struct slot *s) { return dsm_once_open(object.r, 0, (dsm_once **)(void *)&s->handle); }
static void once_close(struct slot *s) { dsm_once_close(s->handle); }
static void once_call(struct slot *s, uint8_t what)
{
    if (what % 2)
        dsm_once_begin(s->handle, 0);
    else
        dsm_once_end(s->handle, what > 127);
    dsm_once_done(s->handle);
}

static int clock_open(struct slot *s)
{
    int rc = dsm_clock_open(object.r, 1, &s->clock);
    s->handle = rc ? NULL : &s->clock;
    return rc;
}
static void clock_call(struct slot *s, uint8_t what)
{
    uint64_t stamp;
    if (what & 1)
        dsm_clock_hybrid(&s->clock, what, what & 2 ? -1 : what, what, &stamp);
    else
        dsm_clock_lamport(&s->clock, what, &stamp);
    CHECK(!dsm_clock_now(&s->clock, &stamp));
}

/* ---- an input ---- */

#define QUEUE queue_open, queue_call, queue_close
static const struct kind kinds[] = {
    {DSM_QUEUE, 0, QUEUE},
    {DSM_QUEUE, DSM_QUEUE_CHECKED, QUEUE},
    {DSM_QUEUE, DSM_QUEUE_MANY_CONSUMERS, QUEUE},
    {DSM_QUEUE, DSM_QUEUE_DROP_OLDEST, QUEUE},
    {DSM_QUEUE, DSM_QUEUE_MANY_CONSUMERS | DSM_QUEUE_DROP_OLDEST, QUEUE},
    {DSM_SEGMENT, 0, segment_open, segment_call, nothing_to_close},
    {DSM_SEGMENT, 1, segment_open, segment_call, nothing_to_close},
    {DSM_LOCK, 0, lock_open_it, lock_call, lock_close_it},
    {DSM_SPINLOCK, 0, lock_open_it, lock_call, lock_close_it},
    {DSM_RWLOCK, 0, rwlock_open, rwlock_call, rwlock_close},
    {DSM_SEMAPHORE, 0, semaphore_open, semaphore_call, semaphore_close},
    {DSM_EVENT, 0, event_open, event_call, event_close},
    {DSM_CONDITION, 0, condition_open, condition_call, condition_close},
    {DSM_BARRIER, 0, barrier_open, barrier_call, barrier_close},
    {DSM_ONCE, 0, once_open, once_call, once_close},
    {DSM_CLOCK, 0, clock_open, clock_call, nothing_to_close},
};

static uint32_t count_of(enum dsm_type type)
{
    return type == DSM_SEMAPHORE || type == DSM_CONDITION || type == DSM_BARRIER ? 2 : 0;
}

/* Returns where the object begins, zeroed. Its last byte is the last one of its memory (mapped) or region (remote). */
static uint8_t *place(uint64_t nbytes, bool away)
{
    static dsm_remote mapped;
    CHECK(nbytes && nbytes <= ARENA);
    object.nbytes = away ? ARENA : nbytes;
    object.bytes = away ? remote_bytes : arena + ARENA - nbytes;
    mapped = (dsm_remote){.mapped = object.bytes,
                          .state = &live,
                          .nbytes = nbytes,
                          .access = DSM_READ | DSM_WRITE | DSM_ATOMIC,
                          .forks = load_relaxed_u32(&core_forks),
                          .peer = &no_peer};
    object.r = away ? remote : &mapped;
    ASAN_POISON_MEMORY_REGION(arena, ARENA);
    if (!away)
        ASAN_UNPOISON_MEMORY_REGION(object.bytes, nbytes);
    memset(object.bytes, 0, object.nbytes);
    return object.bytes;
}

static void make(const struct kind *k, uint8_t shape, bool away)
{
    uint32_t members = k->type == DSM_SEMAPHORE || k->type == DSM_EVENT ? 0 : shape % 3 + 2, count = count_of(k->type);
    uint64_t nbytes;
    dsm_queue_config q = {.lanes = shape % 2 + 1, .flags = k->flags, .lane_bytes = 4096, .max_message = 1900};
    dsm_segment g = {.axes = shape % 3, .itemsize = 8, .dtype_length = 5, .dtype = "'<i8'", .shape = {ROWS, 4}};
    g.versioned = k->flags;
    g.capacity = shape % 3 ? 2 * ROWS : 1;
    switch (k->type) {
    case DSM_QUEUE:
        CHECK(!dsm_queue_format(place(dsm_queue_nbytes(&q), away), &q));
        break;
    case DSM_SEGMENT:
        CHECK(!dsm_segment_layout(&g, &nbytes) && !dsm_segment_format(place(nbytes, away), nbytes, &g));
        break;
    case DSM_CLOCK:
        CHECK(!dsm_clock_format(place(dsm_clock_bytes(), away)));
        break;
    default:
        nbytes = dsm_sync_bytes((int)k->type, members, count);
        CHECK(!dsm_sync_format(place(nbytes, away), (int)k->type, members, count, 0));
    }
}

/* Chooses the place: a word on which much depends in the layouts (configurations, states, heads, tails, rows), one of
 * the first 256, or any. */
static uint64_t some_word(unsigned how)
{
    static const uint16_t telling[] = {64, 72, 128, 136, 192, 256, 264, 272, 280, 384, 448, 704, 4096, 4104};
    if (how < 2)
        return telling[next_byte() % (sizeof telling / sizeof *telling)];
    return how == 2 ? next_word(1) * 8 : next_word(2);
}

/* A word becomes its value plus a little, another word, or any value. */
static void overwrite(void)
{
    uint8_t how = next_byte();
    uint64_t last = object.nbytes - 8, at = some_word(how & 3) % last / 8 * 8, v;
    memcpy(&v, object.bytes + at, 8);
    switch (how >> 2 & 3) {
    case 0:
        v += (uint64_t)(int8_t)next_byte();
        break;
    case 1:
        v += (uint64_t)(int16_t)next_word(2);
        break;
    case 2:
        memcpy(&v, object.bytes + next_word(1) * 8 % last / 8 * 8, 8);
        break;
    default:
        v = next_word(8);
    }
    memcpy(object.bytes + at, &v, 8);
}

static void right_checksum(void)
{
    struct segment_header *h = (struct segment_header *)(void *)object.bytes;
    if (object.nbytes < SEGMENT_DATA || h->dtype_length > DSM_SEGMENT_DTYPE)
        return;
    uint8_t bytes[SEGMENT_DATA];
    h->crc = 0;
    memcpy(bytes, h, SEGMENT_ROWS);
    memcpy(bytes + SEGMENT_ROWS, object.bytes + SEGMENT_DTYPE, h->dtype_length);
    h->crc = crc32(bytes, SEGMENT_ROWS + h->dtype_length);
}

static void close_slot(const struct kind *k, struct slot *s)
{
    if (s->handle)
        k->close(s);
    s->handle = NULL;
}

static void step(const struct kind *k, struct slot slots[2])
{
    uint8_t what = next_byte();
    struct slot *s = &slots[what >> 7];
    switch (what % 8) {
    case 0:
    case 1:
        overwrite();
        break;
    case 2:
        if (k->type == DSM_SEGMENT)
            right_checksum();
        close_slot(k, s);
        if (k->open(s))
            s->handle = NULL;
        break;
    default:
        if (s->handle)
            k->call(s, next_byte());
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    dsm_ctx *owner, *user;
    dsm_region *region;
    uint8_t name[DSM_DESC_MAX];
    uint8_t *p = mmap(NULL, ARENA + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED && !mprotect(p + GUARD, ARENA, PROT_READ | PROT_WRITE));
    arena = p + GUARD;
    owner = open_context(NULL);
    user = open_context(""); /* no faults, but no mapping either */
    CHECK(!dsm_alloc(owner, ARENA, DSM_READ | DSM_WRITE | DSM_ATOMIC, &region));
    int n = dsm_region_descriptor(region, name);
    CHECK(n > 0 && !dsm_attach(user, name, (size_t)n, -1, &remote) && !dsm_remote_mapped(remote));
    remote_bytes = dsm_region_data(region);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static struct slot slots[2];
    input.at = bytes;
    input.n = n;
    uint8_t first = next_byte();
    const struct kind *k = &kinds[first % (sizeof kinds / sizeof *kinds)];
    bool away = first & 16 && !(k->type == DSM_QUEUE && k->flags != DSM_QUEUE_CHECKED);
    make(k, next_byte(), away);
    memset(slots, 0, sizeof slots);
    CHECK(!k->open(&slots[0]));
    for (int i = 0; i < STEPS && input.n; i++)
        step(k, slots);
    close_slot(k, &slots[0]);
    close_slot(k, &slots[1]);
    return 0;
}
