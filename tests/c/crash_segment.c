/*
 * Kills or stops a writer of a versioned segment at every step. For a kill, a step is a change of what processes share.
 * A stopped writer knows what it has read, so for a stop a step is an instruction, and some of them are tried. In
 * version v every row is v.
 *
 * A reader, also one that may not write, gets a whole version at once, wherever the writer died or was stopped: the
 * version before, or the one that was being written. Once the write has returned it is certainly the latter, and never
 * again the version before. The next writer finds the same version, and goes on. All of this also holds if the writer
 * before it died while it recovered from another one. With --full a kill comes after every instruction, and each is
 * that of another process.
 * Exit status 77: this kernel does not allow ptrace here.
 */
#include "base/deadline.h"
#include "base/mapped_ops.h"
#include "core/core.h"
#include "objects/segment/segment.h"
#include "stepper.h"

#include <sys/mman.h>

enum { ROWS = 6, FEWER = 4, OBJECT = 3 * SEGMENT_DATA, SHARED = OBJECT + 4096, MOST = 100 };
#define LIMIT_NS 5000000000ll

#define CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: %s, %s after %llu steps, behind %llu (%s)\n", __FILE__, __LINE__, #x, scene, \
                    (unsigned long long)point, (unsigned long long)base, dsm_last_error()->detail); \
            abort(); \
        } \
    } while (0)

static const char *scene = "";
static uint64_t point, base;   /* steps of the victim, and of the one before it */
static uint64_t first, before; /* the version before the victim, and its rows */
static uint64_t least;         /* the version that was there after an earlier step */
static int (*victim)(void *);
static bool every_instruction;
static int file;
static dsm_remote *own;
static uint8_t *memory, kept[SHARED];
static uint8_t left[MOST + 1][SHARED]; /* after each step of the victim */

static struct said {
    uint64_t done, finished; /* set by the victim: its write has returned; it has finished */
} * said;

static dsm_remote *reach(uint32_t access, dsm_segment *s)
{
    dsm_remote *r;
    CHECK(!dsm_map(file, SHARED, access, &r) && !dsm_segment_open(r, s));
    return r;
}

static void begin(void)
{
    dsm_segment s = {.axes = 1, .itemsize = 8, .versioned = 1, .shape = {ROWS}, .dtype_length = 5, .dtype = "'<i8'"};
    uint64_t nbytes;
    memset(memory, 0, SHARED);
    CHECK(!dsm_segment_layout(&s, &nbytes) && nbytes == OBJECT);
    CHECK(!dsm_segment_format(memory, nbytes, &s));
}

/* ---- what victims do ---- */

static void fill(dsm_remote *r, const dsm_segment *s, uint64_t rows, uint64_t value)
{
    uint64_t *data = (uint64_t *)((uint8_t *)dsm_remote_mapped(r) + s->data);
    for (uint64_t i = 0; i < rows; i++)
        store_relaxed_u64(data + i, value);
}

static int write_version(bool shrinks, bool gives_up)
{
    dsm_segment s;
    dsm_remote *r = reach(DSM_READ | DSM_WRITE | DSM_ATOMIC, &s);
    uint64_t version, rows;
    stepper_mark();
    CHECK(!dsm_segment_begin(r, &s, LIMIT_NS, &version, &rows));
    if (shrinks)
        CHECK(!dsm_segment_set_rows(r, rows = FEWER));
    fill(r, &s, rows, version + 1);
    CHECK(!(gives_up ? dsm_segment_abort(r, &s, version) : dsm_segment_commit(r, &s, NULL, &version)));
    store_relaxed_u64(&said->done, !gives_up);
    store_relaxed_u64(&said->finished, 1);
    stepper_mark();
    return 0;
}

static int writes(void *arg) { return (void)arg, write_version(false, false); }
static int shrinks(void *arg) { return (void)arg, write_version(true, false); }
static int gives_up(void *arg) { return (void)arg, write_version(true, true); }

/* ---- what the others find ---- */

/* A whole version: which one, and with how many rows. */
static uint64_t look(uint32_t access, uint64_t *rows)
{
    uint64_t out[ROWS], version;
    dsm_segment s;
    dsm_remote *r = reach(access, &s);
    int rc = 1;
    for (*rows = ROWS; rc == 1;) /* 1: it has another number of rows */
        rc = dsm_segment_snapshot(r, &s, out, rows, LIMIT_NS, &(int){0}, &version);
    CHECK(!rc && (*rows == ROWS || *rows == FEWER));
    for (uint64_t i = 0; i < *rows; i++)
        CHECK(out[i] == version);
    CHECK(!dsm_remote_close(r));
    return version;
}

static void judge(uint64_t version, uint64_t rows)
{
    CHECK(version == first || (version == first + 1 && victim != gives_up));
    CHECK(version >= first + said->done && version >= least);
    CHECK(rows == (version > first && victim == shrinks ? FEWER : before)); /* rows and values are of one version */
    least = version;
}

static void a_reader_first(void)
{
    uint64_t rows, again, version = look(DSM_READ, &rows);
    judge(version, rows);
    CHECK(look(DSM_READ | DSM_WRITE | DSM_ATOMIC, &again) == version && again == rows);
}

static void a_writer_first(void)
{
    uint64_t version, rows, after;
    dsm_segment s;
    dsm_remote *r = reach(DSM_READ | DSM_WRITE | DSM_ATOMIC, &s);
    CHECK(!dsm_segment_begin(r, &s, LIMIT_NS, &version, &rows));
    judge(version, rows);
    const uint64_t *data = (const uint64_t *)(memory + s.data);
    for (uint64_t i = 0; i < rows; i++)
        CHECK(load_relaxed_u64(data + i) == version);
    CHECK(look(DSM_READ, &after) == version && after == rows);
    fill(r, &s, rows, 1000);
    CHECK(!dsm_segment_abort(r, &s, version) && look(DSM_READ, &after) == version && after == rows);
    CHECK(!dsm_segment_begin(r, &s, LIMIT_NS, &version, &rows));
    fill(r, &s, rows, version + 1);
    CHECK(!dsm_segment_commit(r, &s, NULL, &version));
    CHECK(look(DSM_READ, &after) == version && after == rows);
    CHECK(!dsm_remote_close(r));
}

/* ---- deaths and stops ---- */

static bool run_to(struct stepper *v, int (*body)(void *), uint64_t steps, bool by_instruction)
{
    bool inside = true;
    if (!stepper_start(v, body, NULL))
        exit(77);
    if (by_instruction)
        inside = stepper_step(v, steps);
    for (uint64_t i = 0; !by_instruction && inside && i < steps; i++)
        inside = stepper_change(v, memory, kept, SHARED);
    CHECK(inside || said->finished);
    return inside;
}

static void survive(void)
{
    memcpy(kept, memory, SHARED);
    a_reader_first();
    memcpy(memory, kept, SHARED);
    a_writer_first();
}

static bool killed_at(void)
{
    struct stepper v;
    bool inside = run_to(&v, victim, point, true);
    stepper_kill(&v);
    survive();
    return inside;
}

/*
 * A death leaves to others what processes share, and nothing else. So one run of the victim gives all that can be left,
 * and the victim is dead when it is judged. Returns how many steps there were.
 */
static uint64_t killed_everywhere(void)
{
    struct stepper v;
    uint64_t steps = 0;
    if (!stepper_start(&v, victim, NULL))
        exit(77);
    do {
        CHECK(steps < MOST);
        memcpy(left[steps++], memory, SHARED);
    } while (stepper_change(&v, memory, kept, SHARED));
    memcpy(left[steps++], memory, SHARED);
    CHECK(said->finished);
    stepper_kill(&v);
    for (point = 0; point < steps; point++) {
        memcpy(memory, left[point], SHARED);
        survive();
    }
    return steps;
}

static bool stopped_at(void)
{
    struct stepper v;
    bool inside = run_to(&v, victim, point, true);
    uint64_t rows, version = look(DSM_READ, &rows);
    judge(version, rows);
    stepper_release(&v);
    CHECK(stepper_join(&v) == 0 && said->finished);
    a_writer_first();
    least = 0; /* another run may need more steps to the same place, so a later point may come before its commit */
    return inside;
}

/* Leaves the memory to the victim. False: there is no predecessor, or it had finished. */
static bool succeed(int (*predecessor)(void *))
{
    bool inside = false;
    begin();
    if (predecessor) {
        struct stepper v;
        inside = run_to(&v, predecessor, base, false);
        stepper_kill(&v);
    }
    memset(said, 0, sizeof *said);
    first = look(DSM_READ, &before);
    return inside;
}

/* predecessor: NULL, or a writer that died before, at each of its steps. */
static void sweep(const char *name, int (*body)(void *), int (*predecessor)(void *), bool stops)
{
    uint64_t points = 0;
    bool more = true, inside;
    scene = name;
    victim = body;
    for (base = 0; more; base += every_instruction ? 1 : 2) {
        least = 0;
        if (!stops && !every_instruction) {
            more = succeed(predecessor);
            points += killed_everywhere();
            continue;
        }
        for (point = 0, inside = true; inside; point += every_instruction ? 1 : 29, points++) {
            more = succeed(predecessor);
            inside = stops ? stopped_at() : killed_at();
        }
    }
    CHECK(points > 3);
    printf("%s: %s at %llu points\n", scene, stops ? "stopped" : "killed", (unsigned long long)points);
}

int main(int argc, char **argv)
{
    every_instruction = argc > 1 && !strcmp(argv[1], "--full");
    file = memfd_create("segment", 0);
    CHECK(file >= 0 && !ftruncate(file, SHARED));
    CHECK(!dsm_map(file, SHARED, DSM_READ | DSM_WRITE | DSM_ATOMIC, &own));
    memory = dsm_remote_mapped(own);
    said = (struct said *)(void *)(memory + OBJECT);
    sweep("write", writes, NULL, false);
    sweep("write fewer rows", shrinks, NULL, false);
    sweep("abort", gives_up, NULL, false);
    sweep("write behind a dead writer", writes, shrinks, false);
    sweep("abort behind a dead writer", gives_up, writes, false);
    sweep("a stopped writer", shrinks, NULL, true);
    puts("ok");
    return 0;
}
